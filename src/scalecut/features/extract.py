"""One vector per image and layer, computed once and kept in the cache."""

import copy
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import PIL
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn

from .. import cache, memory
from ..data.assumptions import Assumed, assume
from ..data.decoding import fitted
from ..data.images import Image, ImageSet, LeftOut, Progress, keys_of
from ..data.measures import Frame, evenly
from ..data.sample import check_size
from ..data.summary import described, summary_of
from ..errors import DataError, LayerError, check_least
from ..networks.hooks import Taps
from ..networks.network import Network, Preprocessing, tensors_sha256, with_preprocessing
from ..networks.points import ProbePoint
from .backends import (
    Backend,
    Calibration,
    no_graph,
    openvino_vectors,
    quantisation,
    resolved_backend,
    resolved_device,
    resolved_precision,
    torch_vectors,
    versions,
)

CALIBRATION_IMAGES = 90
ROWS_MOVED = 4096

RECIPE = 2  # part of every cache key: raise it when the same settings would give other vectors

Item = TypeVar("Item")
# numbers of the images, one matrix per layer, and why other images cannot be read, by number
Batch: TypeAlias = tuple[list[int], list[Float32[np.ndarray, "_ _"]], dict[int, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """A network that is made from another one only if its features are not in the cache.

    Args:
        setting: everything that shapes it, besides the network that it is made from.
        make: makes it.
    """

    setting: Mapping[str, object]
    make: Callable[[], Network]


class DecodedImages:
    """The images of a run: their content, which has to stay the same, and their pixels.

    Features are kept under the hash of an image, so they must be those of this content.

    Args:
        keeps: whether images as a network sees them are kept in memory for the next networks; those
            beyond `MOST_KEPT` bytes are decoded again.
    """

    MOST_KEPT = 400_000_000

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._known: dict[int, tuple[Image, str]] = {}  # an image that is kept keeps its id
        self._kept: dict[tuple[object, ...], UInt8[np.ndarray, "h w 3"]] = {}
        self._bytes = 0

    def __call__(
        self, image: Image, frame: Frame, preprocessing: Preprocessing
    ) -> UInt8[np.ndarray, "h w 3"]:
        fill = preprocessing.fill() if frame.fit == "pad" else None
        # the image set of the run keeps the image
        name = id(image), frame, preprocessing.interpolation, fill
        found = self._kept.get(name)
        if found is None:
            found = _pixels(image, frame, preprocessing)
            self._bytes += found.nbytes
            if self._keeps and self._bytes <= self.MOST_KEPT:
                self._kept[name] = found
        return found

    def check(self, images: Sequence[Image], keys: Mapping[int, str]) -> None:
        """Compare the hashes of some images, by number, with those that they had before.

        Raises:
            DataError: if an image has another one.
        """
        for number, key in keys.items():
            image = images[number]
            if isinstance(image.source, np.ndarray):
                continue
            if self._known.setdefault(id(image), (image, key))[1] != key:
                raise DataError(
                    f"{image.name} changed while the command was running, so its numbers would be "
                    "those of two images. Run the command again when the images stay the same."
                )


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Everything that is needed to compute features of images, here or on a worker."""

    network: Network
    points: tuple[ProbePoint, ...]
    fit: str
    backend: Backend
    batch_size: int
    facts: Mapping[str, object]  # everything about the network that shapes a vector
    calibration: Calibration | None = None  # for int8
    pixels: DecodedImages | None = None  # those that are decoded already, in this process


@dataclass(frozen=True, slots=True)
class Computation:
    """How images become the input of a network, and how its features are computed.

    Args:
        fit: How images are brought to the input size.
        input_size: Pixels, 224 or 224x320 (height x width), instead of the network's own.
        prefix_tokens: Tokens before the patches (class token, registers), instead of those found.
        points: Where layers are probed: at the ends of blocks, or at modules inside them too.
        mean: Three numbers, 0 to 1, instead of the network's own.
        std: Three numbers, 0 to 1, instead of the network's own.
        interpolation: Instead of the network's own.
        precision: auto is bfloat16 where that is faster (AMX, GPUs); int8 needs engine openvino.
        engine: torch, openvino, or auto: OpenVINO on a processor, PyTorch on a GPU, for small
            networks, and for those that OpenVINO cannot convert.
        device: auto, cpu, cuda:0, ...
        batch_size: Images per forward pass, at least 1.
        half: Keep features in float16, which halves the disk space of the cache.
        cluster: local:2 for two workers, or the address of a Ray cluster (scalecut[cluster]).
    """

    fit: Literal["squash", "crop", "pad"] = "squash"
    input_size: int | tuple[int, int] | None = None
    prefix_tokens: int | None = None
    points: Literal["blocks", "modules"] = "blocks"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    device: str = "auto"
    batch_size: int = 32
    half: bool = False
    cluster: str = ""

    def __post_init__(self) -> None:
        check_least(self, batch_size=1)

    def shown(self, network: Network) -> Network:
        """The network with the preprocessing given here instead of its own."""
        return with_preprocessing(
            network,
            input_size=self.input_size,
            prefix_tokens=self.prefix_tokens,
            points=self.points,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
        )

    def by_torch(self) -> Backend:
        """How PyTorch computes it, for analyses that no other engine can do."""
        precision = resolved_precision(self.precision, self.device)
        return Backend("torch", precision, resolved_device(self.device))


Compute: TypeAlias = Callable[[Task, Sequence[Image], Sequence[int]], Iterator[Batch]]
# From a function, what all jobs share and the other arguments of each job: what the function
# returns for each, in order.
Map: TypeAlias = Callable[
    [Callable[..., Any], Any, Iterable[tuple[Any, ...]]], Generator[Any, None, None]
]


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """Pooled outputs of the layers, one row per image that could be read."""

    matrices: dict[str, Float[np.ndarray, "n d"]]  # by layer; float16 with `half`, on disk if large
    is_read: Bool[np.ndarray, " all"]  # which of the images have a row
    left_out: tuple[LeftOut, ...]
    precision: str
    n_computed: int  # the other rows came from the cache
    seconds: float
    engine: str = "torch"
    why: str = ""  # that engine, if it was chosen automatically


def extract_features(
    network: Network,
    images: Sequence[Image],
    points: Sequence[ProbePoint],
    computation: Computation | None = None,
    *,
    compute: Compute | None = None,
    progress: Progress | None = None,
    stage: str = "features",
    variant: Variant | None = None,
    facts: Mapping[str, object] | None = None,
    pixels: DecodedImages | None = None,
) -> Extracted:
    """Features of all images at all points, from the cache where they have been computed before.

    Args:
        compute: computes what is not in the cache: this process by default, or a cluster.
        variant: of the network, whose features are wanted.
        facts: `network_setting` of the network, if it is known.
        pixels: images that were read before in the same run; more are added.
        stage: the name of this stage in progress reports.

    Raises:
        DataError: if no image could be read, one changed in the meantime, or a variant lacks one.
    """
    start, pixels = time.perf_counter(), pixels or DecodedImages(keeps=False)
    asked = computation or Computation()
    backend = resolved_backend(asked.engine, asked.precision, asked.device, network.module)
    keys, unreadable = _content_keys(images)
    pixels.check(images, keys)
    calibration = None
    if backend.precision == "int8":
        calibration = calibration_of([images[i] for i in keys], network.preprocessing, asked.fit)
    facts = facts or network_setting(network)
    if variant:
        facts = {**facts, "variant": variant.setting}
    kept = pixels if compute in (None, computed_here) else None  # a worker has its own memory
    task = Task(
        network, tuple(points), asked.fit, backend, asked.batch_size, facts, calibration, kept
    )
    table, setting, pending = _from_cache(task, keys, half=asked.half)
    if pending and variant:
        task = replace(task, network=variant.make())
    if pending and asked.engine == "auto" and (why := _no_graph(task)):
        backend = replace(resolved_backend("torch", asked.precision, asked.device), why=why)
        task = replace(task, backend=backend)
        table, setting, pending = _from_cache(task, keys, half=asked.half)
    n_done, n_computed = len(keys) - len(pending), 0
    if progress:
        progress(stage, n_done, len(keys))
    batches = (compute or computed_here)(task, images, pending) if pending else ()
    for numbers, outputs, bad in batches:
        unreadable.update(bad)
        local = [i for i in numbers if isinstance(images[i].source, Path)]
        pixels.check(images, {i: images[i].key() for i in local})
        if numbers:
            kind = np.float16 if asked.half else np.float32
            with np.errstate(over="ignore"):  # `check_finite` refuses what becomes infinite
                outputs = [output.astype(kind, copy=False) for output in outputs]
            matrices = dict(zip(table.names, outputs, strict=True))
            cache.add_shard(setting, [keys[i] for i in numbers], matrices)
            table.fill([keys[i] for i in numbers], matrices)
            n_computed += len(numbers)
        n_done += len(numbers) + len(bad)
        if progress:
            progress(stage, n_done, len(keys))

    is_read = np.array([i in keys and table.has(keys[i]) for i in range(len(images))], dtype=bool)
    if not is_read.any():
        why = next(iter(unreadable.values()), "there are none")
        raise DataError(
            f"None of {len(images)} images could be read ({why}). Check the folder of images."
        )
    matrices = table.matrices()
    same_content = {key: reason for i, reason in unreadable.items() if (key := keys.get(i))}
    left_out = tuple(
        LeftOut(images[i].name, unreadable.get(i) or same_content[keys[i]])
        for i in map(int, np.flatnonzero(~is_read))
    )
    if variant:
        check_none_lost(left_out)
    seconds = time.perf_counter() - start
    how = (backend.engine, backend.why)
    return Extracted(matrices, is_read, left_out, backend.precision, n_computed, seconds, *how)


def _from_cache(task: Task, keys: dict[int, str], *, half: bool) -> tuple["_Table", str, list[int]]:
    """The table with what is in the cache, its setting, and the images that are still to do."""
    kept_as = {"kept": "float16"} if half else {}
    setting = cache.setting_hash(setting_of(task) | kept_as)
    table = _Table(task.points, [*keys.values()], half=half)
    for shard in cache.shards(setting):
        table.fill(shard.images, shard.matrices)
    first_with = {key: index for index, key in reversed(keys.items())}
    pending = sorted(index for key, index in first_with.items() if not table.has(key))
    return table, setting, pending


def _no_graph(task: Task) -> str:
    """Why OpenVINO cannot compute the features of a task that is meant for it."""
    if task.backend.engine != "openvino" or task.backend.precision == "int8":
        return ""
    device = task.backend.device
    module = copy.deepcopy(task.network.module).eval().to(device)
    taps, layers = Taps(module, task.points, ends_early=False), _stored_names(task.points)
    return no_graph(taps, layers, task.network.example().to(device), task.facts)


class _Table:
    """One matrix per layer with one row per image, filled as rows come in; on disk if large.

    Images with the same content share a key.
    """

    def __init__(self, points: Sequence[ProbePoint], keys: Sequence[str], *, half: bool) -> None:
        self.layers = [point.layer for point in points]
        self.names = _stored_names(points)
        self._rows: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            self._rows.setdefault(key, []).append(row)
        kind = np.dtype(np.float16 if half else np.float32)
        n_bytes = len(keys) * sum(point.channels for point in points) * kind.itemsize
        new = cache.scratch if n_bytes > cache.IN_MEMORY else np.zeros
        self._values = [new((len(keys), point.channels), kind) for point in points]
        self._filled = np.zeros((len(keys), len(points)), dtype=bool)

    def fill(self, keys: Sequence[str], matrices: Mapping[str, Float[np.ndarray, "m d"]]) -> None:
        pairs = [(at, row) for at, key in enumerate(keys) for row in self._rows.get(key, ())]
        of, rows = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        for column, name in enumerate(self.names):
            if name in matrices:
                self._values[column][rows] = matrices[name][of]
                cache.released(self._values[column])
                self._filled[rows, column] = True

    def has(self, key: str) -> bool:
        return bool(self._filled[self._rows[key][0]].all())

    def matrices(self) -> dict[str, Float[np.ndarray, "n d"]]:
        """The rows that are filled, moved together in place."""
        kept = np.flatnonzero(self._filled.all(axis=1))
        if len(kept) < len(self._filled):
            for values in self._values:
                for start in range(0, len(kept), ROWS_MOVED):
                    moved = kept[start : start + ROWS_MOVED]
                    values[start : start + len(moved)] = values[moved]
                    cache.released(values)
        return {
            layer: values[: len(kept)]
            for layer, values in zip(self.layers, self._values, strict=True)
        }


@contextmanager
def forward(
    network: Network,
    points: Sequence[ProbePoint],
    backend: Backend,
    calibration: Calibration | None = None,
    facts: Mapping[str, object] | None = None,
) -> Iterator[Callable[[Tensor], list[Float32[np.ndarray, "n d"]]]]:
    """A function from a batch to its features at `points`; `facts` is its `network_setting`."""
    memory.reused()
    module = copy.deepcopy(network.module).eval().to(backend.device)
    taps = Taps(module, points, ends_early=backend.engine == "torch")
    example = network.example().to(backend.device)
    if backend.engine == "torch":
        yield torch_vectors(taps, example, backend.precision, backend.device)
        return
    layers, setting = _stored_names(points), facts or network_setting(network)
    yield openvino_vectors(taps, layers, example, setting, backend.precision, calibration)


def setting_of(task: Task) -> dict[str, object]:
    """Everything that shapes a vector, apart from the image and the layer."""
    backend = task.backend
    setting = dict(task.facts) | {
        "recipe": RECIPE,
        "fit": task.fit,
        "precision": backend.precision,
        "device": torch.device(backend.device).type,
    }
    if backend.engine == "openvino":
        setting["engine"] = versions(backend.precision)
    if task.calibration is not None:
        setting["calibration"] = task.calibration.name
        setting["quantised"] = quantisation() | {"rest": resolved_precision("auto", "cpu")}
    return setting


def computed_here(task: Task, images: Sequence[Image], numbers: Sequence[int]) -> Iterator[Batch]:
    """Features of the images with these numbers, batch by batch, computed by this process."""
    network = task.network
    with forward(network, task.points, task.backend, task.calibration, task.facts) as pooled:
        given, size = (images, numbers, network.preprocessing, task.fit), task.batch_size
        batches = decoded(*given, batch_size=size, pixels=task.pixels)
        yield from one_ahead(
            (good, pooled(batch) if good else [], bad) for good, batch, bad in batches
        )


def calibration_of(images: Sequence[Image], preprocessing: Preprocessing, fit: str) -> Calibration:
    """Some of the images, evenly spaced, from which int8 takes its ranges."""
    chosen = [images[number] for number in evenly(len(images), CALIBRATION_IMAGES)]
    keys = [image.key() for image in chosen]
    shown = {"preprocessing": asdict(preprocessing), "fit": fit}

    def batches() -> Iterator[Tensor]:
        for _, batch, _ in decoded(chosen, range(len(chosen)), preprocessing, fit, batch_size=8):
            yield batch

    return Calibration(cache.setting_hash({"images": keys, **shown}), batches)


def decoded(
    images: Sequence[Image],
    numbers: Sequence[int],
    preprocessing: Preprocessing,
    fit: str = "squash",
    *,
    batch_size: int = 32,
    pixels: DecodedImages | None = None,
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    """Batches of the images with these numbers, decoded in the background, three batches ahead.

    Yields the numbers in the batch, its tensor, and the reasons of those that cannot be decoded.
    """
    yield from one_ahead(_decoded(images, numbers, preprocessing, fit, batch_size, pixels))


def _decoded(
    images: Sequence[Image],
    numbers: Sequence[int],
    preprocessing: Preprocessing,
    fit: str,
    batch_size: int,
    pixels: DecodedImages | None,
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    frame, ahead = preprocessing.frame(fit), deque[tuple[int, Future]]()
    read = pixels or _pixels
    workers = ThreadPoolExecutor(max_workers=max(2, torch.get_num_threads()))
    remaining = iter(numbers)

    def refill() -> None:
        while len(ahead) < 3 * batch_size and (number := next(remaining, None)) is not None:
            ahead.append((number, workers.submit(read, images[number], frame, preprocessing)))

    try:
        refill()
        while ahead:
            good, found, bad = [], [], {}
            for _ in range(min(batch_size, len(ahead))):
                number, future = ahead.popleft()
                try:
                    found.append(future.result())
                    good.append(number)
                except DataError as error:
                    bad[number] = _reason(error, images[number])
            refill()
            none = np.zeros((0, frame.height, frame.width, 3), np.uint8)
            yield good, preprocessing.tensor(np.stack(found) if found else none), bad
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in the background while the one before it is used."""
    with ThreadPoolExecutor(1) as worker:
        made = worker.submit(next, items, None)
        while (item := made.result()) is not None:
            made = worker.submit(next, items, None)
            yield item


def _pixels(image: Image, frame: Frame, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w 3"]:
    return fitted(image.decode(frame), frame, preprocessing.interpolation, preprocessing.fill())


def network_setting(network: Network) -> dict[str, object]:
    """Everything about the network that shapes a vector.

    A state dict does not hold the code; the network's outputs for a fixed input stand for it.
    """
    modules = [name for name, _ in network.module.named_modules()]
    text = re.sub(r"0x[0-9a-f]+", "", str(network.module))  # addresses differ from run to run
    return {
        "tensors": tensors_sha256(network.module),
        "modules": cache.setting_hash({"names": modules, "text": text}),
        "answer": _fingerprint(network),
        "preprocessing": asdict(network.preprocessing),
        "versions": [torch.__version__, PIL.__version__],
    }


def _fingerprint(network: Network) -> list[str]:
    """Mean absolute output of each module for the example of the network, to three digits."""
    collected: list[str] = []

    def keep(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            collected.append(f"{output.float().abs().mean().item():.2e}")

    with ExitStack() as undo, torch.inference_mode():
        for module in network.module.modules():
            undo.callback(module.register_forward_hook(keep).remove)
        example = network.example()
        network.module(example)
    return collected


def _stored_names(points: Sequence[ProbePoint]) -> list[str]:
    """The names of matrices in the cache: everything about each point that shapes a vector."""
    names = []
    for p in points:
        unusual = p.batch_axis or p.chosen  # not part of the names of earlier versions
        name = f"{p.layer}|{p.module}|{p.side}|{p.channel_axis}|{p.prefix_tokens}"
        names.append(f"{name}|{p.batch_axis}|{p.chosen}" if unusual else name)
    return names


def _content_keys(images: Sequence[Image]) -> tuple[dict[int, str], dict[int, str]]:
    """Hashes of the images' content, and why the others cannot be read."""
    keys: dict[int, str] = {}
    unreadable: dict[int, str] = {}
    for index, key in enumerate(keys_of(images)):
        if isinstance(key, DataError):
            unreadable[index] = _reason(key, images[index])
        else:
            keys[index] = key
    return keys, unreadable


def _reason(error: DataError, image: Image) -> str:
    return str(error).removeprefix(f"{image.name}: ")


CHECKED_ROWS = 4096  # of features, at a time


def provenance(
    network: Network,
    settings: Mapping[str, object],
    stages: "Stages",
    found: Extracted | None = None,
    image_set: ImageSet | None = None,
    checked: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """What a result was computed from, and how: the facts of `run.json` that all commands share."""
    how = {} if found is None else {"precision": found.precision, "engine": found.engine}
    why = {"engine_because": found.why} if found is not None and found.why else {}
    mixed = {"engines": stages.engines} if len({*stages.engines.values()}) > 1 else {}
    computed = {**how, **why, **mixed, **checked}
    images = {}
    if image_set is not None:
        skipped = () if found is None else found.left_out
        summary = summary_of(image_set, skipped, network.assumed)
        keys = list(keys_of(image_set.images))
        of_readable = {i: key for i, key in enumerate(keys) if isinstance(key, str)}
        stages.pixels.check(image_set.images, of_readable)
        images = {"images": described(image_set, summary, keys)}
    return {
        "model": network.name,
        "settings": settings,
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        **({"assumed": network.assumed} if network.assumed else {}),
        **({"computed": computed} if computed else {}),
        **images,
        "stages": stages.facts,
    }


def readable(network: Network, image_set: ImageSet, found: Extracted, *, strict: bool) -> ImageSet:
    """The images that have features, which are finite.

    Raises:
        DataError: if an image was skipped and `strict`, or too few are left.
        LayerError: if a feature is not finite.
    """
    check_none_skipped(found.left_out, strict=strict)
    check_finite(network, found.matrices)
    kept = image_set.rows(found.is_read)
    check_size(kept)
    return kept


def check_none_skipped(skipped: Sequence[LeftOut], *, strict: bool) -> None:
    """Refuse images that cannot be read if `strict`."""
    if strict and skipped:
        raise DataError(
            f"{skipped[0].name}: {skipped[0].reason.rstrip('.')}. Fix or remove it, or drop "
            "--strict."
        )


def check_none_lost(lost: Sequence[LeftOut]) -> None:
    """Refuse images that were read for the network, but cannot be read for its control."""
    if lost:
        raise DataError(
            f"{lost[0].name} was read for the network, but cannot be read for its control "
            f"({lost[0].reason.rstrip('.')}). Run the command again when the images stay the same."
        )


def check_finite(
    network: Network, matrices: Mapping[str, Float[np.ndarray, "n _"]], where: str = ""
) -> None:
    """Refuse features that are not finite; `where` is added to the message.

    Raises:
        LayerError: naming the first such layer.
    """
    for layer, matrix in matrices.items():
        n_bad = 0
        for start in range(0, len(matrix), CHECKED_ROWS):
            is_fine = np.isfinite(matrix[start : start + CHECKED_ROWS]).all(axis=1)
            n_bad += int((~is_fine).sum())
            cache.released(matrix)
        if n_bad:
            without_half = " and no --half" if matrix.dtype == np.float16 else ""
            raise LayerError(
                f"Layer {layer!r} of {network.name} gave values that are not finite for {n_bad} "
                f"of {len(matrix)} images{where}. Try --precision float32{without_half}, or choose "
                "other --layers."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Workers:
    """Who computes: this process, or a cluster (`cluster.computing`).

    Args:
        compute: features of images.
        map: other jobs, each with one thread; None for threads of this process.
        count: jobs at a time; 0 for one per processor of this machine.
    """

    compute: Compute = computed_here
    map: Map | None = None
    count: int = 0


class Stages:
    """Seconds by stage, and images/s of the stages in which images were computed."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.workers = progress, Workers()
        self._known: tuple[Network, Mapping[str, object]] | None = None
        self.foresee: Callable[[float], str] | None = None  # from images/s, what to say
        self.pixels = DecodedImages(keeps=False)
        self.facts: dict[str, dict[str, float]] = {}
        self.engines: dict[str, str] = {}  # by stage, where they were chosen automatically

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = self.facts.setdefault(stage, {"seconds": 0.0})["seconds"]
        self.facts[stage]["seconds"] = round(seconds + time.perf_counter() - start, 3)

    def say(self, image_set: ImageSet, network: Network, *, strict: bool = False) -> None:
        """State what was understood of the images, if what shows progress can.

        Raises:
            DataError: if something is assumed of the network, and `strict`.
        """
        for statement in network.assumed:
            assume(Assumed(statement, "the options named"), [], strict)
        shown = getattr(self.progress, "say", None)
        if shown is not None:
            shown(summary_of(image_set, assumed=network.assumed))

    def extracted(
        self,
        network: Network,
        images: Sequence[Image],
        points: Sequence[ProbePoint],
        computation: Computation,
        stage: str = "features",
        variant: Variant | None = None,
    ) -> Extracted:
        """Features of all images, timed and with progress."""
        with self(stage):
            found = extract_features(
                network,
                images,
                points,
                computation,
                compute=self.workers.compute,
                progress=self._watched(self.progress),
                stage=stage,
                variant=variant,
                facts=self._facts_of(network),
                pixels=self.pixels,
            )
        if found.why:
            self.engines[stage] = found.engine
        self.facts[stage]["images_computed"] = found.n_computed
        if found.n_computed:
            self.facts[stage]["images_per_second"] = round(found.n_computed / found.seconds, 1)
        return found

    def _watched(self, progress: Progress | None) -> Progress | None:
        """Say once, after two batches that are computed, how long the run takes."""
        foresee = self.foresee
        note = getattr(progress, "note", None)
        if progress is None or foresee is None or note is None:
            return progress
        seen: list[tuple[float, int]] = []

        def watched(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            seen.append((time.perf_counter(), done))
            if len(seen) == 3:  # the first batch makes the graph ready
                (start, before), (end, after) = seen[1:]
                self.foresee = None
                if after > before and (text := foresee((after - before) / (end - start))):
                    note(text)

        return watched

    def _facts_of(self, network: Network) -> Mapping[str, object]:
        """What shapes the vectors of a network, which is the same during a run."""
        if self._known is None or self._known[0] is not network:
            self._known = network, network_setting(network)
        return self._known[1]

    def report(self, stage: str) -> Callable[[int, int], None]:
        """A progress callback for a stage that counts its own steps."""
        return lambda done, total: self.progress(stage, done, total) if self.progress else None
