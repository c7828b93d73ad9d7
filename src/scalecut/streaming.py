"""The curve of more images than features can be kept of: only sums of products stay (`sums`).

A run that was killed goes on from the sums that it kept, and ends at the same bits. Features come
from whoever computes them: this process, or a cluster.

Shapes: n images, t targets.
"""

import hashlib
import json
import operator
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from . import cache
from .cluster import computing
from .engines import resolved_way
from .errors import DataError
from .features import (
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
from .shards import PILOT, Plan, Summed, in_order, joined, pilot_scales, summed
from .storage import Stored
from .streamed import Key, Line, StreamedCurve, lines_of, table_of
from .sums import (
    CELLS,
    cell_of,
)
from .sums import load as load_sums
from .sums import save as save_sums

SHARD_SIZE = 256


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
            images_of(data, frame, replace(reading, measure=name), seed=seed, progress=progress)
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
    passes = _passes(network, tuple(points), image_set, look, controls, seed)
    with computing(cluster) as stages.compute:
        found = _found(passes, plan, look, stages, fingerprint, len(sets), strict=reading.strict)
    facts = _facts(network, found, plan, look, seed, fingerprint)
    return {
        measure: StreamedCurve(
            *table_of(lines, {"model": network.name, "measure": measure}),
            tuple(points),
            layers_left_out,
            (*image_set.left_out, *found.left_out),
            {**facts, "images": {**facts["images"], "measure": measure}, "stages": stages.facts},
        )
        for measure, lines in zip((each.measure_name for each in sets), found.lines, strict=True)
    }


# --- inside --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Found:
    """What the passes gave."""

    lines: list[dict[Key, Line]]  # by measure
    kept: ImageSet  # images that could be read
    left_out: tuple[LeftOut, ...] = ()
    moved: Mapping[str, object] = field(default_factory=dict)  # by int8


def _found(
    passes: Iterator[tuple[str, Task]],
    plan: Plan,
    look: Look,
    stages: Stages,
    fingerprint: str,
    n_measures: int,
    *,
    strict: bool,
) -> _Found:
    """The scores of the network, which comes first, and of its controls."""
    found, states = _Found([{} for _ in range(n_measures)], plan.image_set), []
    for stage, task in passes:
        moved = {}
        if task.way.precision == "int8":
            moved = _checked_in_int8(task, plan.image_set, look, stages)
        whole, state = _whole(task, plan, fingerprint, stages, stage)
        if not states:
            found.moved, found.left_out = moved, _left_out(plan.image_set, whole, is_strict=strict)
            is_kept = [n not in whole.left_out for n in range(len(plan.image_set))]
            found.kept = plan.image_set.rows(np.array(is_kept))
            check_size(found.kept)
        states.append(state)
        kind, told = task.network.weights.kind, stages.report(f"regression, {stage}")
        with stages("regression"):
            of_it = lines_of(kind, task.points, found.kept.subsets, whole.sums, n_measures, told)
        for lines, more in zip(found.lines, of_it, strict=True):
            lines |= more
    for state in states:
        state.unlink(missing_ok=True)
    return found


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
    first, *others = sets
    for other in others:
        names = ([image.name for image in each.images] for each in (first, other))
        if first.subset != other.subset or operator.ne(*names):
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


def _checked_in_int8(
    task: Task, image_set: ImageSet, look: Look, stages: Stages
) -> dict[str, object]:
    """How far int8 moved R², on some images."""
    numbers = evenly(len(image_set), CHECKED_IMAGES)
    found, matrices, _ = in_order(task, image_set, numbers, stages.compute or computed_here)
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
    found: _Found,
    plan: Plan,
    look: Look,
    seed: int,
    fingerprint: str,
) -> dict[str, Any]:
    """What the sums were computed from, and how."""
    kept, names = found.kept, np.array(found.kept.subset)
    way = resolved_way(look.engine, look.precision, look.device)
    return {
        "stream": {
            "cells": CELLS,
            "seed": seed,
            "pilot": min(PILOT, len(plan.image_set)),
            "shard_size": plan.shard_size,
            "shards": plan.n_shards,
        },
        "look": {**asdict(look), **asdict(way), **found.moved},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": {
            "n_images": len(kept),
            "n_by_subset": {name: int((names == name).sum()) for name in kept.subsets},
            "listing_sha256": fingerprint,
        },
    }
