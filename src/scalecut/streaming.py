"""The curve of more images than features can be kept of: only sums of products stay (`sums`).

Images are taken in shards. What a shard adds to the sums depends on nothing but the shard, so
shards can be summed anywhere, in any order; a run that was killed goes on from the sums that it
kept, and ends at the same bits.

Shapes: n images, d features, t targets.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from . import cache
from .errors import DataError, LayerError
from .features import Progress, decoded, forward, resolved_device, resolved_precision
from .images import Image, ImageSet, LeftOut
from .inputs import (
    Look,
    Reading,
    Stages,
    check_names,
    check_size,
    chosen_points,
    images_of,
    twin_of,
)
from .layers import ProbePoint
from .models import Network, Preprocessing, tensors_sha256
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

Pooled = Callable[[Tensor], list[Float32[np.ndarray, "n d"]]]  # what `features.forward` gives


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is summed, shard by shard; the network apart."""

    image_set: ImageSet
    targets: Float64[np.ndarray, "n t"]
    cells: Int[np.ndarray, " n"]
    points: tuple[ProbePoint, ...]
    preprocessing: Preprocessing
    fit: str
    batch_size: int
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
        shard_size: images that are summed together; with another one features may differ in their
            last bits, as batches begin elsewhere.
        seed: of the cells, the shuffle and the twins.
        progress: called with (stage, done, all).

    Raises:
        ScalecutError: DataError, ModelError or LayerError, with one line that says what to do.
    """
    controls = check_names(controls, CONTROLS, "control")
    if shard_size < 1:
        raise DataError(f"A shard cannot be of {shard_size} images. Give 1 or more; 256 is usual.")
    stages = Stages(progress)
    with stages("network"):
        points, layers_left_out = chosen_points(network, layers)
    with stages("images"):
        image_set = images_of(data, network.preprocessing.frame(look.fit), reading, seed=seed)
        fingerprint = _fingerprint(image_set)
    if network.weights.kind == "random":
        network = twin_of(network, image_set, look, seed)
    plan = Plan(
        image_set,
        _targets(image_set, seed, is_shuffled="shuffled" in controls),
        np.array([cell_of(group, seed) for group in image_set.group]),
        *(tuple(points), network.preprocessing, look.fit, look.batch_size, shard_size),
    )
    lines, states, left_out, kept = {}, [], (), image_set
    for stage, each, of_it, its_look in _passes(network, plan, look, controls, seed):
        whole, state = _whole(each, of_it, its_look, fingerprint, stages, stage)
        states.append(state)
        if each is network:
            left_out = _left_out(image_set, whole, is_strict=reading.strict)
            kept = image_set.rows([n for n in range(len(image_set)) if n not in whole.left_out])
            check_size(kept)
        with stages("regression"):
            told = stages.report(f"regression, {stage}")
            lines |= lines_of(each.weights.kind, of_it.points, kept.subsets, whole.sums, told)
    for state in states:
        state.unlink(missing_ok=True)
    return StreamedCurve(
        *table_of(lines, {"model": network.name, "measure": image_set.measure_name}),
        plan.points,
        layers_left_out,
        (*image_set.left_out, *left_out),
        _facts(network, kept, plan, look, seed, fingerprint) | {"stages": stages.facts},
    )


def shard_sums(
    pooled: Pooled,
    plan: Plan,
    scales: Mapping[str, Scale],
    shards: Iterable[int],
    told: Callable[[int], None] = lambda n: None,
) -> Summed:
    """The sums of some shards: the same bits wherever and whenever they are computed.

    Args:
        pooled: what `features.forward` gives for `plan.points`.
        scales: the grid of each layer.
        shards: their numbers, from 0 to `plan.n_shards` - 1.
        told: called with the number of images of each batch.

    Raises:
        LayerError: if a layer gives a value that is not finite.
    """
    shards = sorted(shards)
    rows: list[int] = []
    values: list[list[np.ndarray]] = []
    left_out: dict[int, str] = {}
    for shard in shards:
        for good, answers, bad in _answers(pooled, plan, plan.numbers(shard)):
            rows += good
            values.append(answers)
            left_out |= bad
            told(len(good) + len(bad))
    sums: dict[tuple[str, ...], Sums] = {}
    subset = np.array(plan.image_set.subset)[rows]
    for column, point in enumerate(plan.points):
        matrix = np.concatenate([batch[column] for batch in values])
        for name in np.unique(subset).tolist():
            is_in = subset == name
            chosen = np.array(rows)[is_in]
            sums[name, point.layer] = add(
                empty(scales[point.layer]),
                matrix[is_in],
                plan.targets[chosen],
                plan.cells[chosen],
            )
    return Summed(frozenset(shards), sums, left_out)


def joined(one: Summed, other: Summed) -> Summed:
    """The sums of the shards of both, in whatever order they come."""
    assert not one.shards & other.shards, "a shard would be counted twice"
    sums = {**one.sums, **other.sums}
    for key in one.sums.keys() & other.sums.keys():
        sums[key] = merge(one.sums[key], other.sums[key])
    return Summed(one.shards | other.shards, sums, {**one.left_out, **other.left_out})


def pilot_scales(pooled: Pooled, plan: Plan) -> dict[str, Scale]:
    """The grid of every layer, by images evenly spread over all.

    Raises:
        DataError: if none of them can be read.
    """
    n = len(plan.image_set)
    numbers = np.linspace(0, n - 1, min(n, PILOT)).round().astype(int).tolist()
    rows, values, reasons = [], [], {}
    for good, answers, bad in _answers(pooled, plan, numbers):
        rows += good
        values.append(answers)
        reasons |= bad
    if not rows:
        raise DataError(
            f"None of {len(numbers)} images could be read ({next(iter(reasons.values()))}). Check "
            "the folder of images."
        )
    return {
        point.layer: scale_of(
            np.concatenate([batch[column] for batch in values]), plan.targets[rows], n
        )
        for column, point in enumerate(plan.points)
    }


# --- inside --------------------------------------------------------------------------------------


def _passes(
    network: Network, plan: Plan, look: Look, controls: Sequence[str], seed: int
) -> Iterator[tuple[str, Network, Plan, Look]]:
    """The network and its controls, with what each is shown."""
    yield "features", network, plan, look
    for kind in ("random", "permuted"):
        if kind in controls and network.weights.kind != "random":
            yield f"{kind} twin", twin_of(network, plan.image_set, look, seed, kind), plan, look
    if PIXELS in controls:
        statistics, point = pixel_network(network.preprocessing)
        of_pixels = replace(plan, points=(point,), preprocessing=statistics.preprocessing)
        yield PIXELS, statistics, of_pixels, replace(look, precision="float32")


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


def _answers(
    pooled: Pooled, plan: Plan, numbers: Sequence[int]
) -> Iterator[tuple[list[int], list[np.ndarray], dict[int, str]]]:
    """Numbers of the images of each batch, their features by layer, and what cannot be read."""
    images = plan.image_set.images
    for good, batch, bad in decoded(
        images, numbers, plan.preprocessing, plan.fit, batch_size=plan.batch_size
    ):
        none = [np.zeros((0, point.channels), np.float32) for point in plan.points]
        answers = pooled(batch) if good else none
        for point, answer in zip(plan.points, answers, strict=True):
            rows = np.flatnonzero(~np.isfinite(answer).all(axis=1))
            if rows.size:
                raise LayerError(
                    f"Layer {point.layer!r} gave values that are not finite, the first for "
                    f"{images[good[rows[0]]].name}. Try --precision float32, or choose other "
                    "--layers."
                )
        yield good, answers, bad


def _whole(
    network: Network, plan: Plan, look: Look, fingerprint: str, stages: Stages, stage: str
) -> tuple[Summed, Path]:
    """The sums of all shards, from where an earlier run left off; and where they are kept."""
    precision = resolved_precision(look.precision, look.device)
    n = len(plan.image_set)
    with (
        stages(stage),
        forward(network, plan.points, precision, resolved_device(look.device)) as pooled,
    ):
        state = _state(network, plan, pooled, precision, fingerprint)
        whole = _kept(state)
        pending = [shard for shard in range(plan.n_shards) if shard not in whole.shards]
        scales = {layer: each.scale for (_, layer), each in whole.sums.items()}
        if pending and not scales:
            scales = pilot_scales(pooled, plan)
        n_done = n - sum(len(plan.numbers(shard)) for shard in pending)
        told = _counted(stages.report(stage), n_done, n)
        for place in range(0, len(pending), KEPT_EVERY):
            shards = pending[place : place + KEPT_EVERY]
            whole = joined(whole, shard_sums(pooled, plan, scales, shards, told))
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


def _state(network: Network, plan: Plan, pooled: Pooled, precision: str, fingerprint: str) -> Path:
    """Where the sums are kept while they grow: by all that shapes them.

    What the network answers to its example stands for its code and the machine.
    """
    arrays = [plan.targets, plan.cells, *pooled(network.example())]
    key = {
        "images": fingerprint,
        "tensors": tensors_sha256(network.module),
        "arrays": [hashlib.sha256(each.tobytes()).hexdigest() for each in arrays],
        "points": [point.layer for point in plan.points],
        "preprocessing": asdict(plan.preprocessing),
        "look": [plan.fit, precision, plan.batch_size, plan.shard_size],
        "versions": [torch.__version__, PIL.__version__],
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
    network: Network, kept: ImageSet, plan: Plan, look: Look, seed: int, fingerprint: str
) -> dict[str, object]:
    """What the sums were computed from, and how."""
    names = np.array(kept.subset)
    return {
        "stream": {
            "cells": CELLS,
            "seed": seed,
            "pilot": min(PILOT, len(plan.image_set)),
            "shard_size": plan.shard_size,
            "shards": plan.n_shards,
        },
        "look": asdict(look) | {"precision": resolved_precision(look.precision, look.device)},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": {
            "n_images": len(kept),
            "n_by_subset": {name: int((names == name).sum()) for name in kept.subsets},
            "measure": kept.measure_name,
            "listing_sha256": fingerprint,
        },
    }
