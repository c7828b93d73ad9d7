"""The curve of more images than features can be kept of: only sums of products stay (`sums`).

Images are taken in shards. What a shard adds to the sums depends on nothing but the shard, so
shards can be summed in any order; a run that was killed goes on from the sums that it kept, and
ends at the same bits. Features come from whoever computes them: this process, or a cluster.

Shapes: n images, d features, t targets.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int

from . import cache
from .cluster import computing
from .engines import resolved_way
from .errors import DataError, LayerError
from .features import (
    Batch,
    Compute,
    Progress,
    Task,
    calibration_of,
    computed_here,
    setting_of,
)
from .images import Image, ImageSet, LeftOut, evenly
from .inputs import (
    CHECKED_IMAGES,
    Look,
    Reading,
    Stages,
    check_int8,
    check_names,
    check_size,
    chosen_points,
    images_of,
    twin_of,
)
from .layers import ProbePoint
from .models import Network, tensors_sha256
from .pixels import PIXELS, pixel_network
from .probe import CONTROLS, USUAL_CONTROLS
from .storage import Stored
from .streamed import StreamedCurve, lines_of, table_of
from .sums import (
    CELLS,
    Scale,
    Sums,
    add,
    cell_of,
    empty,
    merge,
    scale_of,
)
from .sums import load as load_sums
from .sums import save as save_sums

PILOT = 1024  # images that fix the grid, evenly spread over all
SHARD_SIZE = 256
KEPT_EVERY = 8  # shards


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is summed, shard by shard, of the features of any network.

    Args:
        shard_size: a multiple of the batch's, so that the batches are the same ones always.
    """

    image_set: ImageSet
    targets: Float64[np.ndarray, "n t"]
    cells: Int[np.ndarray, " n"]
    shard_size: int

    @property
    def n_shards(self) -> int:
        """How many shards there are; the last may be smaller."""
        return -(-len(self.image_set) // self.shard_size)

    def numbers(self, shard: int) -> range:
        """The images of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, len(self.image_set)))


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """The sums of some shards, and which of their images could not be read, by number."""

    shards: frozenset[int]
    sums: Mapping[tuple[str, ...], Sums]  # by subset and layer
    left_out: Mapping[int, str]


def stream(
    network: Network,
    data: str | ImageSet,
    *,
    layers: Sequence[str] = (),
    reading: Reading = Reading(),  # noqa: B008 - frozen
    look: Look = Look(),  # noqa: B008 - frozen
    controls: Sequence[str] = USUAL_CONTROLS,
    shard_size: int = SHARD_SIZE,
    cluster: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> StreamedCurve:
    """Regress the measure of `data` on every layer of `network`, keeping sums alone.

    The network sees the images once, after those of the pilot, and so does each control. Whatever n
    is, memory holds the sums of one of them, 40 d² bytes a layer of d channels and subset, up to
    three times while shards are added, and the features of 2,048 images. The cache holds the sums
    of all until the run ends.

    Args:
        controls: `random` (one twin), `permuted`, `pixels`, `shuffled`.
        shard_size: images that are summed together, rounded up to whole batches; with another one
            features may differ in their last bits, as batches begin elsewhere.
        cluster: `local:2` for two workers here, or the address of a Ray cluster; else this process.
        seed: of the cells, the shuffle and the twins.
        progress: called with (stage, done, all).

    Raises:
        ScalecutError: DataError, ModelError or LayerError, with one line that says what to do.
    """
    given = {"layers": layers, "look": look, "controls": controls, "shard_size": shard_size}
    measures = (reading.measure,)
    (curve,) = stream_measures(
        network, data, measures, reading=reading, cluster=cluster, seed=seed, progress=progress,
        **given,
    ).values()  # fmt: skip
    return curve


def stream_measures(
    network: Network,
    data: str | ImageSet,
    measures: Sequence[str],
    *,
    layers: Sequence[str] = (),
    reading: Reading = Reading(),  # noqa: B008 - frozen
    look: Look = Look(),  # noqa: B008 - frozen
    controls: Sequence[str] = USUAL_CONTROLS,
    shard_size: int = SHARD_SIZE,
    cluster: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, StreamedCurve]:
    """As `stream`, for several measures of the same images in one pass: a curve for each.

    Args:
        measures: names of `measures.MEASURES`, instead of that of `reading`; one, if `data` brings
            its own.
    """
    controls = check_names(controls, CONTROLS, "control")
    if shard_size < 1:
        raise DataError(f"A shard cannot be of {shard_size} images. Give 1 or more; 256 is usual.")
    stages = Stages(progress)
    with stages("network"):
        points, layers_left_out = chosen_points(network, layers)
    with stages("images"):
        frame = network.preprocessing.frame(look.fit)
        sets = [
            images_of(data, frame, replace(reading, measure=name), seed=seed)
            for name in dict.fromkeys(measures)
        ]
        image_set = _same_images(sets)
        fingerprint = _fingerprint(image_set)
    if network.weights.kind == "random":
        network = twin_of(network, image_set, look, seed)
    plan = Plan(
        image_set,
        np.hstack([_targets(each, seed, is_shuffled="shuffled" in controls) for each in sets]),
        np.array([cell_of(group, seed) for group in image_set.group]),
        -(-shard_size // look.batch_size) * look.batch_size,
    )
    names = {each.measure_name: {} for each in sets}
    states, left_out, kept, moved = [], (), image_set, {}
    with computing(cluster) as stages.compute:
        for stage, task in _passes(network, tuple(points), image_set, look, controls, seed):
            if task.way.precision == "int8":
                in_int8 = _checked_in_int8(task, image_set, look, stages)
                moved = in_int8 if task.network is network else moved
            whole, state = _whole(task, plan, fingerprint, stages, stage)
            states.append(state)
            if task.network is network:
                left_out = _left_out(image_set, whole, is_strict=reading.strict)
                kept = image_set.rows([n for n in range(len(image_set)) if n not in whole.left_out])
                check_size(kept)
            kind, told = task.network.weights.kind, stages.report(f"regression, {stage}")
            with stages("regression"):
                for name, lines in zip(
                    names, lines_of(kind, task.points, kept.subsets, whole.sums, len(names), told),
                    strict=True,
                ):  # fmt: skip
                    names[name] |= lines
    for state in states:
        state.unlink(missing_ok=True)
    facts = _facts(network, kept, plan, look, moved, seed, fingerprint)
    return {
        name: StreamedCurve(
            *table_of(lines, {"model": network.name, "measure": name}),
            tuple(points),
            layers_left_out,
            (*image_set.left_out, *left_out),
            {**facts, "images": {**facts["images"], "measure": name}, "stages": stages.facts},
        )
        for name, lines in names.items()
    }


def summed(
    task: Task,
    plan: Plan,
    scales: Mapping[str, Scale],
    shards: Sequence[int],
    compute: Compute = computed_here,
    told: Callable[[int], None] = lambda n: None,
) -> Iterator[Summed]:
    """The sums of shards, some of them at a time: the same bits wherever and whenever computed.

    Args:
        scales: the grid of each layer.
        shards: their numbers, from 0 to `plan.n_shards` - 1.
        told: called with the number of images of each batch.

    Raises:
        LayerError: if a layer gives a value that is not finite.
    """
    ready: list[_Shard] = []
    for shard in _as_they_come(task, plan, sorted(shards), compute, told):
        ready.append(shard)
        if len(ready) == KEPT_EVERY:
            yield _added(task, plan, scales, ready)
            ready = []
    if ready:
        yield _added(task, plan, scales, ready)


def joined(one: Summed, other: Summed) -> Summed:
    """The sums of the shards of both, in whatever order they come."""
    assert not one.shards & other.shards, "a shard would be counted twice"
    sums = {**one.sums, **other.sums}
    for key in one.sums.keys() & other.sums.keys():
        sums[key] = merge(one.sums[key], other.sums[key])
    return Summed(one.shards | other.shards, sums, {**one.left_out, **other.left_out})


def pilot_scales(task: Task, plan: Plan, compute: Compute = computed_here) -> dict[str, Scale]:
    """The grid of every layer, by images evenly spread over all.

    Raises:
        DataError: if none of them can be read.
    """
    n = len(plan.image_set)
    numbers, matrices, reasons = _in_order(task, plan.image_set, evenly(n, PILOT), compute)
    if not numbers:
        raise DataError(
            f"None of {min(n, PILOT)} images could be read ({next(iter(reasons.values()))}). "
            "Check the folder of images."
        )
    targets = plan.targets[numbers]
    return {
        point.layer: scale_of(matrix, targets, n)
        for point, matrix in zip(task.points, matrices, strict=True)
    }


# --- inside --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Shard:
    """A shard whose batches come in."""

    number: int
    batches: list[Batch]
    n_done: int = 0


def _passes(
    network: Network,
    points: tuple[ProbePoint, ...],
    image_set: ImageSet,
    look: Look,
    controls: Sequence[str],
    seed: int,
) -> Iterator[tuple[str, Task]]:
    """The network and its controls, with what each is asked."""
    way, calibration = resolved_way(look.engine, look.precision, look.device), None
    if way.precision == "int8":
        calibration = calibration_of(image_set.images, network.preprocessing, look.fit)
    task = Task(network, points, look.fit, way, look.batch_size, calibration)
    yield "features", task
    for kind in ("random", "permuted"):
        if kind in controls and network.weights.kind != "random":
            twin = twin_of(network, image_set, look, seed, kind)
            yield f"{kind} twin", replace(task, network=twin)
    if PIXELS in controls:
        statistics, point = pixel_network(network.preprocessing)
        exact = resolved_way("torch", "float32", look.device)
        yield PIXELS, replace(task, network=statistics, points=(point,), way=exact)


def _same_images(sets: Sequence[ImageSet]) -> ImageSet:
    """The first of some sets that differ in their measure alone."""
    first = sets[0]
    for other in sets[1:]:
        if other.images != first.images or other.subset != first.subset:
            raise DataError(
                f"{first.measure_name} is measured on {len(first)} images, {other.measure_name} on "
                f"{len(other)} or others. Stream them one at a time."
            )
        if other.measure_name == first.measure_name:
            raise DataError(
                f"The data bring their own measure, {first.measure_name}. Give one measure."
            )
    return first


def _targets(image_set: ImageSet, seed: int, *, is_shuffled: bool) -> Float64[np.ndarray, "n t"]:
    """The measure, and if wanted the measure permuted over the images of each subset."""
    measure, names = image_set.measure, np.array(image_set.subset)
    if not is_shuffled:
        return measure[:, None]
    shuffled = measure.copy()
    for subset in image_set.subsets:
        rng = np.random.default_rng([seed, zlib.crc32(subset.encode())])
        shuffled[names == subset] = rng.permutation(measure[names == subset])
    return np.stack([measure, shuffled], axis=1)


def _as_they_come(
    task: Task,
    plan: Plan,
    shards: Sequence[int],
    compute: Compute,
    told: Callable[[int], None],
) -> Iterator[_Shard]:
    """Each shard once all of its batches are there, in whatever order they come."""
    waiting = {shard: _Shard(shard, []) for shard in shards}
    numbers = [number for shard in shards for number in plan.numbers(shard)]
    for batch in compute(task, plan.image_set.images, numbers):
        good, _, bad = batch
        _check_finite(task, plan.image_set.images, batch)
        shard = waiting[next(iter([*good, *bad])) // plan.shard_size]
        shard.batches.append(batch)
        shard.n_done += len(good) + len(bad)
        told(len(good) + len(bad))
        if shard.n_done == len(plan.numbers(shard.number)):
            yield waiting.pop(shard.number)


def _added(task: Task, plan: Plan, scales: Mapping[str, Scale], shards: Sequence[_Shard]) -> Summed:
    """The sums of shards that are all there."""
    batches = [batch for shard in shards for batch in shard.batches]
    rows = np.array([number for good, _, _ in batches for number in good], dtype=np.int64)
    bad = {number: reason for _, _, reasons in batches for number, reason in reasons.items()}
    subset = np.array([plan.image_set.subset[row] for row in rows])
    sums: dict[tuple[str, ...], Sums] = {}
    for column, point in enumerate(task.points):
        matrix = _stacked(task, batches, column)
        for name in np.unique(subset).tolist():
            is_in = subset == name
            chosen = rows[is_in]
            sums[name, point.layer] = add(
                empty(scales[point.layer]),
                matrix[is_in],
                plan.targets[chosen],
                plan.cells[chosen],
            )
    return Summed(frozenset(shard.number for shard in shards), sums, bad)


def _in_order(
    task: Task, image_set: ImageSet, numbers: Sequence[int], compute: Compute
) -> tuple[list[int], list[Float32[np.ndarray, "_ _"]], dict[int, str]]:
    """Some images that can be read, their features by layer, and why others cannot."""
    batches = [*compute(task, image_set.images, numbers)]
    for batch in batches:
        _check_finite(task, image_set.images, batch)
    found = [number for good, _, _ in batches for number in good]
    order = np.argsort(found)
    reasons = {number: reason for _, _, bad in batches for number, reason in bad.items()}
    matrices = [_stacked(task, batches, column)[order] for column in range(len(task.points))]
    return sorted(found), matrices, reasons


def _stacked(task: Task, batches: Sequence[Batch], column: int) -> Float32[np.ndarray, "n d"]:
    none = np.zeros((0, task.points[column].channels), np.float32)
    return np.concatenate([none, *(answers[column] for _, answers, _ in batches if answers)])


def _check_finite(task: Task, images: Sequence[Image], batch: Batch) -> None:
    good, answers, _ = batch
    for point, answer in zip(task.points if answers else (), answers, strict=True):
        rows = np.flatnonzero(~np.isfinite(answer).all(axis=1))
        if rows.size:
            raise LayerError(
                f"Layer {point.layer!r} gave values that are not finite, the first for "
                f"{images[good[rows[0]]].name}. Try --precision float32, or choose other --layers."
            )


def _checked_in_int8(
    task: Task, image_set: ImageSet, look: Look, stages: Stages
) -> dict[str, object]:
    """How far int8 moved R², on some images."""
    numbers = evenly(len(image_set), CHECKED_IMAGES)
    found, matrices, _ = _in_order(task, image_set, numbers, stages.compute or computed_here)
    by_layer = {point.layer: each for point, each in zip(task.points, matrices, strict=True)}
    return check_int8(task.network, image_set.rows(found), task.points, look, by_layer, stages)


def _whole(
    task: Task, plan: Plan, fingerprint: str, stages: Stages, stage: str
) -> tuple[Summed, Path]:
    """The sums of all shards, from where an earlier run left off; and where they are kept."""
    n, compute = len(plan.image_set), stages.compute or computed_here
    state = _state(task, plan, fingerprint, is_alone=compute is computed_here)
    whole = _kept(state)
    pending = [shard for shard in range(plan.n_shards) if shard not in whole.shards]
    scales = {layer: each.scale for (_, layer), each in whole.sums.items()}
    if pending and not scales:
        with stages("pilot"):
            scales = pilot_scales(task, plan, compute)
    n_done = n - sum(len(plan.numbers(shard)) for shard in pending)
    told = _counted(stages.report(stage), n_done, n)
    with stages(stage):
        for part in summed(task, plan, scales, pending, compute, told):
            whole = joined(whole, part)
            about = {"shards": sorted(whole.shards), "left_out": sorted(whole.left_out.items())}
            save_sums(state, whole.sums, about)
    stages.facts[stage] |= {"images_computed": n - n_done}
    return whole, state


def _counted(report: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    """A function that is told how many more are done, and reports how many are."""
    report(done, total)

    def told(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    return told


def _state(task: Task, plan: Plan, fingerprint: str, *, is_alone: bool) -> Path:
    """Where the sums are kept while they grow: by all that shapes them, the threads included."""
    arrays = [plan.targets, plan.cells]
    key = {
        "images": fingerprint,
        "setting": setting_of(task),
        "arrays": [hashlib.sha256(each.tobytes()).hexdigest() for each in arrays],
        "points": [point.layer for point in task.points],
        "sizes": [task.batch_size, plan.shard_size],
        "threads": torch.get_num_threads() if is_alone else 1,
    }
    return cache.folder() / "streams" / f"{cache.setting_hash(key)}.npz"


def _kept(state: Path) -> Summed:
    """What an earlier run has summed; nothing if there was none."""
    if not state.exists():
        return Summed(frozenset(), {}, {})
    sums, about = load_sums(state)
    return Summed(frozenset(about["shards"]), sums, dict(about["left_out"]))


def _fingerprint(image_set: ImageSet) -> str:
    """A hash of what is listed: names, measures, subsets, groups; the files' stamps."""
    digest = hashlib.sha256()
    rows = zip(image_set.images, image_set.measure, image_set.subset, image_set.group, strict=True)
    for image, measure, subset, group in rows:
        line = [image.name, float(measure), subset, group, _stamp(image)]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _stamp(image: Image) -> list[object]:
    source = image.source
    if isinstance(source, Stored):
        return [source.url, source.stamp, source.offset, source.size]
    if not isinstance(source, Path):
        return [image.key()]
    try:
        found = source.stat()
    except OSError:  # it will be left out, with the reason
        return []
    return [found.st_size, found.st_mtime_ns]


def _left_out(image_set: ImageSet, whole: Summed, *, is_strict: bool) -> tuple[LeftOut, ...]:
    left_out = tuple(
        LeftOut(image_set.images[number].name, reason)
        for number, reason in sorted(whole.left_out.items())
    )
    if is_strict and left_out:
        reason = left_out[0].reason.rstrip(".")
        raise DataError(f"{left_out[0].name}: {reason}. Mend or remove it, or drop --strict.")
    return left_out


def _facts(
    network: Network,
    kept: ImageSet,
    plan: Plan,
    look: Look,
    moved: Mapping[str, object],
    seed: int,
    fingerprint: str,
) -> dict[str, Any]:
    """What the sums were computed from, and how."""
    names, way = np.array(kept.subset), resolved_way(look.engine, look.precision, look.device)
    return {
        "stream": {
            "cells": CELLS,
            "seed": seed,
            "pilot": min(PILOT, len(plan.image_set)),
            "shard_size": plan.shard_size,
            "shards": plan.n_shards,
        },
        "look": {**asdict(look), **asdict(way), **moved},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": {
            "n_images": len(kept),
            "n_by_subset": {name: int((names == name).sum()) for name in kept.subsets},
            "listing_sha256": fingerprint,
        },
    }
