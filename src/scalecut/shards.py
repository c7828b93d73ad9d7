"""What shards of images add to the sums of products, wherever their features are computed.

What a shard adds depends on nothing but the shard, so that shards can be summed in any order.

Shapes: n images, d features, t targets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int

from .errors import DataError, LayerError
from .features import Batch, Compute, Task, computed_here
from .images import Image, ImageSet, evenly
from .sums import Scale, Sums, add, empty, merge, scale_of

PILOT = 1024  # images that fix the grid, evenly spread over all
KEPT_EVERY = 8  # shards that are added at a time


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
    numbers, matrices, reasons = in_order(task, plan.image_set, evenly(n, PILOT), compute)
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


def in_order(
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


# --- inside --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Shard:
    """A shard whose batches come in."""

    number: int
    batches: list[Batch]
    n_done: int = 0


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
