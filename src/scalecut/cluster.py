"""The same forward passes by many workers, on one machine or on a cluster, through Ray Data.

Batches go out, features come back; what is made of them stays where it was asked for, so that the
numbers are those of one machine. A worker holds the network. The batch that a lost worker had is
computed again by another one, and no batch is counted twice.
"""

import logging
import math
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32

from .errors import ModelError
from .features import decoded, forward
from .images import Image
from .layers import ProbePoint
from .models import Network

# numbers of the images, a matrix a layer, and why other images could not be read, by their number
Batch: TypeAlias = tuple[list[int], list[Float32[np.ndarray, "n d"]], dict[int, str]]

LOCAL = "local"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # tells nobody
BATCHES_AT_ONCE = 4  # that a worker takes, and that are lost with it


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What every worker is told once."""

    network: Network
    points: tuple[ProbePoint, ...]
    fit: str
    precision: str
    device: str
    batch_size: int


@contextmanager
def joined(address: str) -> Iterator[int]:
    """Inside, Ray runs: `local:2` starts two workers here, else it is a cluster's address.

    Yields how many workers there may be, one a processor, or one a GPU where there are any.

    Raises:
        ModelError: if Ray is not installed, or the cluster does not answer.
    """
    kind, _, number = address.partition(":")
    if kind == LOCAL and not (number.isdecimal() and int(number) > 0):
        raise ModelError(
            f"--cluster {address!r} is not understood. Give local:2 for two workers here, or the "
            "address of a Ray cluster, such as ray://HOST:10001 or auto."
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ModelError(
            "--cluster needs Ray, which is not installed. Install it with: pip install "
            "'scalecut[cluster]'."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if kind == LOCAL:
            ray.init(num_cpus=int(number), include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The cluster at {address!r} does not answer ({said}). Start it (ray start --head), "
            "or give another --cluster."
        ) from error
    try:
        has = ray.cluster_resources()
        yield max(1, int(has.get("GPU", 0) or has.get("CPU", 1)))
    finally:
        ray.shutdown()


def computed(
    task: Task, images: Sequence[Image], numbers: Sequence[int], workers: int
) -> Iterator[Batch]:
    """The features of the images with these numbers, batch by batch, in any order.

    Batches are those that one machine would make: `batch_size` images in order of `numbers`.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    if not numbers:
        return
    settings = DataContext.get_current()
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    spans = [
        numbers[start : start + task.batch_size]
        for start in range(0, len(numbers), task.batch_size)
    ]
    jobs = [
        {"job": at, "images": pickle.dumps([(number, images[number]) for number in span])}
        for at, span in enumerate(spans)
    ]
    gpus = 1 if "GPU" in ray.cluster_resources() and task.device.startswith("cuda") else 0
    workers = min(workers, len(jobs))
    blocks = max(workers, math.ceil(len(jobs) / BATCHES_AT_ONCE))
    results = ray.data.from_items(jobs, override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_args=(task,),
        compute=ActorPoolStrategy(size=workers),
        batch_size=1,
        num_gpus=gpus,
    )
    seen: set[int] = set()
    for row in results.iter_rows():
        if row["job"] not in seen:
            seen.add(row["job"])
            yield pickle.loads(row["batch"])


class _Worker:
    """Holds the network; one thread each, as there is a worker a processor."""

    def __init__(self, task: Task) -> None:
        self.task = task
        if task.device == "cpu":
            torch.set_num_threads(1)
        self.open = ExitStack()
        self.pooled = self.open.enter_context(
            forward(task.network, task.points, task.precision, task.device)
        )

    def __call__(self, rows: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"job": [], "batch": []}
        for job, packed in zip(rows["job"], rows["images"], strict=True):
            pairs: list[tuple[int, Image]] = pickle.loads(packed)
            found["job"].append(int(job))
            found["batch"].append(pickle.dumps(self._batch(pairs)))
        return found

    def _batch(self, pairs: Sequence[tuple[int, Image]]) -> Batch:
        task, images = self.task, [image for _, image in pairs]
        ((good, batch, bad),) = decoded(
            images,
            range(len(images)),
            task.network.preprocessing,
            task.fit,
            batch_size=task.batch_size,
        )
        names = [number for number, _ in pairs]
        matrices = self.pooled(batch) if good else []
        return (
            [names[at] for at in good],
            matrices,
            {names[at]: reason for at, reason in bad.items()},
        )
