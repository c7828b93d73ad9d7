"""The same work done by many workers, on one machine or a cluster, with Ray.

Forward passes are batches of Ray Data: images go out and features come back; each worker holds the
network. Other jobs, such as the regression of a layer, are tasks of Ray: arrays go out and scores
come back. If a worker is lost, its batch or job is computed again by another one; none is counted
twice. Every job has one thread, so the numbers are those of this process with one thread.
"""

import functools
import logging
import math
import os
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from .. import cache
from ..data.images import Image
from ..errors import ModelError, ScalecutError, first_line
from .backends import Vectors, resolved_backend
from .extract import Batch, Task, Workers, decoded, forward

LOCAL = "local"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}  # sends no usage statistics
BATCHES_AT_ONCE = 4  # per worker; they are lost with it
AHEAD = 2  # jobs whose arguments are sent before a worker is free
STARTS = 3  # of Ray on this machine
RETRIES = 3  # of a job whose worker is lost


@contextmanager
def computing(address: str) -> Iterator[Workers]:
    """The workers of a cluster inside the block, or this process without an address.

    Raises:
        ModelError: as in `joined`.
    """
    if not address:
        yield Workers()
        return
    with joined(address) as workers:
        yield Workers(functools.partial(computed, workers=workers), mapped, _n_processors())


@contextmanager
def joined(address: str) -> Iterator[int]:
    """Connect to Ray inside the block: `local:2` starts two workers here, or a cluster's address.

    Yields the number of workers: one per processor, or one per GPU where there are any.

    Raises:
        ModelError: if Ray is not installed, or the cluster cannot be reached.
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
            _start_here(int(number), **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises bare ones, too
        said = " ".join(str(error).split())[:200]
        what = (
            f"Ray does not start here ({said}). Try again, or run without --cluster."
            if kind == LOCAL
            else f"The cluster at {address!r} cannot be reached ({said}). Start it (ray start "
            "--head), or give another --cluster."
        )
        raise ModelError(what) from error
    # Ray copies a memory-mapped array byte by byte, but shares plain arrays between workers.
    ray.util.register_serializer(np.memmap, serializer=np.asarray, deserializer=_itself)
    try:
        has = ray.cluster_resources()
        yield max(1, int(has.get("GPU", 0) or has.get("CPU", 1)))
    finally:
        ray.shutdown()


def _start_here(workers: int, **settings: Any) -> None:
    """Start Ray on this machine; on a busy one its 30 seconds for that may not be enough."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # or workers wait for all else here
    for start in range(1, STARTS + 1):
        try:
            ray.init("local", num_cpus=workers, include_dashboard=False, **settings)
            return
        except Exception:  # bare ones, too
            ray.shutdown()
            if start == STARTS:
                raise


def computed(
    task: Task, images: Sequence[Image], numbers: Sequence[int], *, workers: int
) -> Iterator[Batch]:
    """Features of the images with these numbers, batch by batch, in any order.

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
    gpus = 1 if "GPU" in ray.cluster_resources() and task.backend.device.startswith("cuda") else 0
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
    with _errors_of_workers():
        for row in results.iter_rows():
            if row["job"] not in seen:
                seen.add(row["job"])
                batch = pickle.loads(row["batch"])
                if isinstance(batch, ScalecutError):
                    raise batch
                yield batch


def mapped(
    function: Callable[..., Any], shared: Any, jobs: Iterable[tuple[Any, ...]]
) -> Generator[Any, None, None]:
    """`function(shared, *job)` of every job, in order, each a task of Ray with one thread.

    `shared` is sent once. The arguments of a job are sent when a worker will soon be free, and
    deleted when the job is done. Workers on one machine share one copy of an array, which they
    cannot change.

    Raises:
        ScalecutError: that of the first job that fails.
        ModelError: if the cluster is lost.
    """
    import ray

    how = {"num_cpus": 1, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
    task: Any = ray.remote(**how)(_on_one_thread)
    at_once = _n_processors() + AHEAD
    waiting, running = deque[Any](), list[Any]()
    with _errors_of_workers():
        common = ray.put(shared)
        for job in jobs:
            waiting.append(task.remote(function, common, *job))
            running.append(waiting[-1])
            for array in filter(_is_array, job):
                cache.released(array)
            if len(running) == at_once:
                _, running = ray.wait(running)
            while waiting and waiting[0] not in running:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())


def _on_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    with threadpool_limits(1):
        return function(*arguments)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def _n_processors() -> int:
    """Processors of the cluster."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Raise errors of workers as this process would, and a lost cluster as a ModelError."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause from (None if isinstance(cause, ScalecutError) else error)
    except ray.exceptions.RayError as error:
        raise ModelError(
            f"The cluster stopped ({first_line(error)}). Give workers more memory or disk, or run "
            "without --cluster; what is in the cache is not computed again."
        ) from error


class _Worker:
    """Holds the network; uses one thread, because there is one worker per processor."""

    def __init__(self, task: Task) -> None:
        if task.backend.device == "cpu":
            torch.set_num_threads(1)
        self.task = task

    @functools.cached_property
    def pooled(self) -> Vectors:
        """The network of this worker, made with its first batch: errors come with it."""
        task, own = self.task, self.task.backend
        resolved_backend(own.engine, own.precision, own.device)  # refused if it cannot do as asked
        return ExitStack().enter_context(
            forward(task.network, task.points, task.backend, task.calibration, task.facts)
        )

    def __call__(self, rows: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"job": [], "batch": []}
        for job, packed in zip(rows["job"], rows["images"], strict=True):
            pairs: list[tuple[int, Image]] = pickle.loads(packed)
            found["job"].append(int(job))
            found["batch"].append(pickle.dumps(self._batch(pairs)))
        return found

    def _batch(self, pairs: Sequence[tuple[int, Image]]) -> Batch | ScalecutError:
        """A batch, or the error: Ray Data would write other advice into its message."""
        try:
            return self._computed(pairs)
        except ScalecutError as error:
            return error

    def _computed(self, pairs: Sequence[tuple[int, Image]]) -> Batch:
        names, images = zip(*pairs, strict=True)
        own, size = self.task.network.preprocessing, self.task.batch_size
        ((good, batch, bad),) = decoded(
            images, range(len(images)), own, self.task.fit, batch_size=size
        )
        matrices = self.pooled(batch) if good else []
        reasons = {names[at]: reason for at, reason in bad.items()}
        return [names[at] for at in good], matrices, reasons
