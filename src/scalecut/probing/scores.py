"""Held-out R² of a measure on the features of every layer: splits drawn once, used by all.

For every subset of the images the measure is regressed on each layer's features in r random splits
into 70 % training and 30 % test images (`graziani2021`), by group. The same splits, shuffles,
permutations and bootstrap draws serve every layer, regressor, target and kind of weights, so that
all scores are paired.
"""

import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt16
from scipy.stats import norm as normal
from scipy.stats import t as student
from sklearn.model_selection import GroupShuffleSplit
from threadpoolctl import threadpool_limits

from .. import cache
from ..data.images import MEAN, ImageSet
from ..errors import DataError
from ..features.extract import Map
from ..networks.points import ProbePoint
from ..stats import out_of_core as tall
from ..stats.inference import (
    DRAWS,
    bootstrap_r_squared,
    family_p_values,
    group_draws,
    group_permutations,
    interval,
)
from ..stats.out_of_core import Rows, Split, predicted_in_memory

TEST_SHARE = 0.3  # graziani2021
MATCHED = "matched"  # ridge on as many principal components in every layer
MOST_RANDOM = 32  # randomly initialised networks
AT_ONCE = 2**22  # numbers of permutations or bootstrap draws held in memory at a time
CONTROLLED = ("random", "permuted", "pixels")  # kinds of weights that are controls themselves


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One subset with everything that is drawn at random for it once and serves all its fits."""

    subset: str
    rows: Int[np.ndarray, " n"]  # of the image set
    groups: Int[np.ndarray, " n"]
    targets: dict[str, Float64[np.ndarray, "r n"]]  # `true`, `shuffled`: one row per repeat
    permuted: Float64[np.ndarray, "n q"]  # measure and permutations; no columns if none
    is_held_out: Bool[np.ndarray, "r n"]
    counts: UInt16[np.ndarray, "c n"]  # 1 + b rows: every image once, then bootstrap draws
    rank: Float64[np.ndarray, "r n"]  # random, of its group among training groups, in (0, 1]
    drawn: Float64[np.ndarray, "b most"]  # in [0, 1): random networks drawn along, in all subsets

    def fitted(self, share: float) -> Bool[np.ndarray, "r n"]:
        """The training images of a share of the groups."""
        return ~self.is_held_out & (self.rank <= share)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of all images with one kind of weights, one set per seed."""

    points: tuple[ProbePoint, ...]
    matrices: tuple[Mapping[str, Float[np.ndarray, "n d"]], ...]  # by layer


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores with their bootstrap draws, and predictions for each image by the network itself.

    Args:
        table: one row per score.
        predicted: of ridge, or else the first regressor; mean over the repeats in which an image
            was held out, nan if it never was. One row per layer, one column per image.
        combined: what `combined.combined` returns; None without it.
    """

    table: pd.DataFrame
    draws: Float32[np.ndarray, "s b"]  # in the order of the rows
    predicted: Float64[np.ndarray, "L n"]
    combined: pd.DataFrame | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """The scores of one layer with one kind of weights, target and regressor, on one subset."""

    r2: np.ndarray  # (1 + b), the first with all images, the rest bootstrap draws
    null: np.ndarray  # (1 + p), the first of the measure itself; empty without permutations
    n_images: int
    n_fit: int  # training images, mean over repeats and subsets
    n_features: int
    n_repeats: int
    by_seed: np.ndarray  # R² of every seed
    predicted: np.ndarray  # (n), mean over the repeats that held an image out; empty if not kept


_PartScores: TypeAlias = tuple[
    list[Float64[np.ndarray, "b c"]], Float64[np.ndarray, "p c"], Float64[np.ndarray, "k _ c"]
]


@dataclass(frozen=True, slots=True)
class _Fits:
    """The regressors, components for `matched`, and share of the training groups that is used."""

    regressors: tuple[str, ...]
    width: int
    share: float


def draw_parts(
    image_set: ImageSet, repeats: int, seed: int, *, shuffled: bool, permutations: int = 0
) -> tuple[Part, ...]:
    """The splits, shuffles, permutations and bootstrap samples of every subset.

    Each follows from the seed and the subset's name alone, so runs that differ in their controls,
    or in the other subsets, are paired.

    Raises:
        DataError: if the measure is constant in the training or test images of some split.
    """
    names, parts = np.array(image_set.subset), []
    drawn = np.random.default_rng(seed).random((DRAWS, MOST_RANDOM))
    for subset in image_set.subsets:
        rows = np.flatnonzero(names == subset)
        measure = image_set.measure[rows]
        groups = np.unique(np.array(image_set.group)[rows], return_inverse=True)[1]
        splits, shuffles, bootstrap, permuting, ranking = np.random.default_rng(
            [seed, zlib.crc32(subset.encode())]
        ).spawn(5)
        splitter = GroupShuffleSplit(
            repeats, test_size=TEST_SHARE, random_state=int(splits.integers(2**31))
        )
        is_held_out = np.zeros((repeats, len(rows)), dtype=bool)
        for number, (_, test) in enumerate(splitter.split(rows, groups=groups)):
            is_held_out[number, test] = True
        targets = {"true": np.broadcast_to(measure, (repeats, len(measure)))}
        if shuffled:
            targets["shuffled"] = np.stack([shuffles.permutation(measure) for _ in range(repeats)])
        parts.append(
            Part(
                subset,
                rows,
                groups,
                targets,
                _permutations(measure, groups, permuting, permutations),
                is_held_out,
                _counts(groups, bootstrap),
                _ranks(groups, is_held_out, ranking),
                drawn,
            )
        )
        _check_spread(parts[-1])
    return tuple(parts)


def _permutations(
    measure: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    permutations: int,
) -> Float64[np.ndarray, "n q"]:
    """The measure and its permutations, one column each; on disk if there are many.

    Permutations are drawn some at a time, kept by blocks of images, and each block is then
    transposed. Written as columns at once, they would touch every page of the file each time.
    """
    n = len(measure)
    if not permutations:
        return np.zeros((n, 0))
    blocks = list(_some(n, 1 + permutations))
    drawn = cache.zeros((len(blocks), permutations, blocks[0].stop), np.dtype(np.float64))
    for places in _some(permutations, n):
        some = group_permutations(measure, groups, rng, places.stop - places.start)
        for block, rows in zip(drawn, blocks, strict=True):
            block[places, : rows.stop - rows.start] = some[:, rows]
        cache.released(drawn)
    permuted = cache.zeros((n, 1 + permutations), np.dtype(np.float64))
    for block, rows in zip(drawn, blocks, strict=True):
        permuted[rows, 0] = measure[rows]
        permuted[rows, 1:] = block[:, : rows.stop - rows.start].T
        cache.released(permuted)
        cache.released(drawn)
    return permuted


def _counts(groups: Int[np.ndarray, " n"], rng: np.random.Generator) -> UInt16[np.ndarray, "c n"]:
    """Counts of the images: every image once, then bootstrap draws of the groups."""
    counts = cache.zeros((1 + DRAWS, len(groups)), np.dtype(np.uint16))
    counts[0] = 1
    for places in _some(DRAWS, len(groups)):
        some = group_draws(groups, rng, places.stop - places.start)
        counts[1 + places.start : 1 + places.stop] = some
        cache.released(counts)
    return counts


def _some(count: int, n: int) -> Iterator[slice]:
    """`count` rows of n numbers, in slices of `AT_ONCE` numbers."""
    at_once = max(1, AT_ONCE // n)
    for start in range(0, count, at_once):
        yield slice(start, min(count, start + at_once))


def _ranks(
    groups: Int[np.ndarray, " n"], is_held_out: Bool[np.ndarray, "r n"], rng: np.random.Generator
) -> Float64[np.ndarray, "r n"]:
    """Random ranks of the training groups, anew in each repeat; 1 for held-out groups."""
    ranks = np.ones(is_held_out.shape)
    for rank, held_out in zip(ranks, is_held_out, strict=True):
        names, member = np.unique(groups[~held_out], return_inverse=True)
        rank[~held_out] = ((rng.permutation(len(names)) + 1) / len(names))[member]
    return ranks


def score(
    parts: Sequence[Part],
    features: Mapping[str, Features],
    regressors: Sequence[str],
    *,
    width: int = 0,
    share: float = 1.0,
    report: Callable[[int, int], None] = lambda done, total: None,
    map: Map | None = None,
) -> Scores:
    """R², its interval and its p-value for every subset, layer, kind of weights and regressor.

    Args:
        features: by kind of weights, each on all rows of the image set.
        regressors: `ridge`, `ols`, `matched`.
        width: principal components for `matched`.
        share: of the training groups that is used; smaller shares are subsets of larger ones.
        report: called with (layers done, all layers).
        map: fits the layers, by a cluster; None for threads of this process. The numbers are the
            same.
    """
    cache.freed()
    jobs = [(kind, point) for kind, each in features.items() for point in each.points]
    fits = _Fits(tuple(regressors), width, share)
    own, main = next(iter(features)), "ridge" if "ridge" in regressors else regressors[0]
    lines: dict[tuple[str, str, str, str], dict[str, _Line]] = {}
    matrices = (
        (matrix[point.layer], kind == own)
        for kind, point in jobs
        for matrix in features[kind].matrices
    )
    with closing((map or mapped_here)(_matrix_scores, (parts, fits), matrices)) as found:
        for done, (kind, point) in enumerate(jobs, start=1):
            of_seeds = [next(found) for _ in features[kind].matrices]
            n_features = features[kind].matrices[0][point.layer].shape[1]
            kept_of = main if kind == own else ""
            of_layer = _layer_lines(parts, of_seeds, fits, n_features, kept_of=kept_of)
            for subset, target, regressor, line in of_layer:
                lines.setdefault((subset, kind, target, regressor), {})[point.layer] = line
            cache.freed()
            report(done, len(jobs))
    order = {name: rank for rank, name in enumerate([*(part.subset for part in parts), MEAN])}
    rows: list[dict[str, Any]] = []
    draws = []
    for key in sorted(lines, key=lambda key: (order[key[0]], *key[1:])):
        by_layer = lines[key]
        p_values = _p_values(by_layer) if key[2] == "true" else {}
        for point in features[key[1]].points:
            line = by_layer[point.layer]
            rows.append(_row(key, point, line) | {"p_value": p_values.get(point.layer, np.nan)})
            draws.append(line.r2[1:])
    scores = np.array(draws, np.float32)
    predicted = np.full((len(features[own].points), sum(len(part.rows) for part in parts)), np.nan)
    for part in parts:
        of_layers = lines[part.subset, own, "true", main].values()
        predicted[:, part.rows] = [line.predicted for line in of_layers]
    return Scores(pd.DataFrame(_with_gain(rows, scores)), scores, predicted)


def _row(key: tuple[str, str, str, str], point: ProbePoint, line: _Line) -> dict[str, Any]:
    subset, kind, target, regressor = key
    low, high = interval(float(line.r2[0]), line.r2[1:])
    return {
        "subset": subset,
        "layer": point.layer,
        "alias": point.alias,
        "depth": point.depth,
        "n_features": line.n_features,
        "n_images": line.n_images,
        "n_fit": line.n_fit,
        "weights": kind,
        "target": target,
        "regressor": regressor,
        "r2": float(line.r2[0]),
        "r2_low": float(low),
        "r2_high": float(high),
        "r2_spread": float(line.by_seed.std(ddof=1)) if len(line.by_seed) > 1 else np.nan,
        "seed_count": line.n_repeats,
    }


def _with_gain(
    rows: list[dict[str, Any]], draws: Float32[np.ndarray, "s b"]
) -> list[dict[str, Any]]:
    """Add the gain over controls, `learned`: R² minus that of the best control, paired by draw.

    A control with negative R² is worse than predicting the mean, and counts as 0.
    """
    place = {
        (row["weights"], row["subset"], row["regressor"], row["layer"]): number
        for number, row in enumerate(rows)
        if row["target"] == "true"
    }
    extended = []
    for row, of_row in zip(rows, draws, strict=True):
        learned = low = high = np.nan
        if row["target"] == "true" and row["weights"] not in CONTROLLED:
            same = row["subset"], row["regressor"]
            keys = [("random", *same, row["layer"]), ("pixels", *same, "pixels")]
            controls = [place[key] for key in keys if key in place]
            if controls:
                learned = row["r2"] - max(0.0, *(rows[number]["r2"] for number in controls))
                by_draw = of_row - np.maximum(0.0, draws[controls].max(axis=0))
                low, high = map(float, interval(learned, by_draw.astype(np.float64)))
        extended.append(row | {"learned": learned, "learned_low": low, "learned_high": high})
    return extended


def _p_values(by_layer: Mapping[str, _Line]) -> dict[str, float]:
    null = np.array([line.null for line in by_layer.values()])  # (L, 1 + p)
    if null.shape[1] < 2:
        return {}
    found = family_p_values(null[:, 0], null[:, 1:].T)
    return dict(zip(by_layer, found.tolist(), strict=True))


def _layer_lines(
    parts: Sequence[Part],
    of_seeds: Sequence[Sequence[_PartScores]],
    fits: _Fits,
    n_features: int,
    *,
    kept_of: str,
) -> Iterator[tuple[str, str, str, _Line]]:
    """Subset, target, regressor and scores of one layer with one kind of weights.

    Args:
        of_seeds: `_matrix_scores` of each seed.
        kept_of: the regressor whose predictions are kept.
    """
    by_subset: dict[tuple[str, str], list[_Line]] = {}
    for part, *found in zip(parts, *of_seeds, strict=True):
        for number, target in enumerate(part.targets):
            for column, regressor in enumerate(fits.regressors):
                seeds = np.array([r2[number][:, column] for r2, _, _ in found])
                is_kept = (target, regressor) == ("true", kept_of)
                read = [held[number][:, column] for *_, held in found if is_kept]
                line = _Line(
                    _over_seeds(seeds, part.drawn),
                    np.mean([null[:, column] for _, null, _ in found], axis=0),
                    len(part.rows),
                    round(float(part.fitted(fits.share).sum(axis=1).mean())),
                    min(fits.width, n_features) if regressor == MATCHED else n_features,
                    len(part.is_held_out),
                    seeds[:, 0],
                    np.mean(read, axis=0) if is_kept else np.zeros(0),
                )
                by_subset.setdefault((target, regressor), []).append(line)
                yield part.subset, target, regressor, line
    for (target, regressor), lines in by_subset.items():
        mean = _Line(
            np.mean([line.r2 for line in lines], axis=0),
            np.mean([line.null for line in lines], axis=0),
            sum(line.n_images for line in lines),
            round(np.mean([line.n_fit for line in lines]).item()),
            lines[0].n_features,
            lines[0].n_repeats,
            np.mean([line.by_seed for line in lines], axis=0),
            np.zeros(0),
        )
        yield MEAN, target, regressor, mean


def _over_seeds(
    seeds: Float64[np.ndarray, "q b"], places: Float64[np.ndarray, "b2 q2"]
) -> Float64[np.ndarray, " b"]:
    """R² averaged over random networks; in each draw these, too, are drawn with replacement.

    With n networks this gives a spread too small by √((n - 1) / n), and quantiles of the normal
    distribution in place of Student's with n - 1 degrees of freedom; the added spread is scaled by
    both.
    """
    n = len(seeds)
    if n == 1:
        return seeds[0]
    drawn = (places[:, :n] * n).astype(int)
    mean = seeds.mean(axis=0)
    added = np.take_along_axis(seeds[:, 1:].T, drawn, axis=1).mean(axis=1) - mean[1:]
    few = np.sqrt(n / (n - 1)) * student.ppf(0.975, n - 1) / normal.ppf(0.975)
    return np.concatenate([mean[:1], mean[1:] + few * added])


def _matrix_scores(
    drawn: tuple[Sequence[Part], _Fits], matrix: Float[np.ndarray, "all d"], are_kept: bool
) -> list[_PartScores]:
    """The scores of one layer with one seed on every subset: one job of a cluster.

    Args:
        drawn: what is the same for all layers.
        are_kept: whether the predictions are.
    """
    parts, fits = drawn
    found = [_part_scores(part, matrix, fits) for part in parts]
    return [(r2, null, held if are_kept else held[:, :0].copy()) for r2, null, held in found]


def _part_scores(part: Part, matrix: Float[np.ndarray, "all d"], fits: _Fits) -> _PartScores:
    """Of each regressor: R² and its draws by target, R² of permuted measures, and predictions."""
    kinds = list(part.targets)
    errors: list[list[np.ndarray]] = [[] for _ in kinds]  # of held-out images, by repeat
    summed = np.zeros((len(kinds), len(part.rows), len(fits.regressors)))
    null = np.zeros((part.permuted.shape[1], len(fits.regressors)))
    splits = zip(part.is_held_out, part.fitted(fits.share), strict=True)
    for repeat, (held_out, fitted) in enumerate(splits):
        targets = np.stack([part.targets[kind][repeat] for kind in kinds], axis=1)
        split = Split(
            Rows(matrix, part.rows[fitted]),
            Rows(matrix, part.rows[held_out]),
            targets[fitted],
            part.groups[fitted],
            (
                Rows(part.permuted, np.flatnonzero(fitted)),
                Rows(part.permuted, np.flatnonzero(held_out)),
            ),
        )
        widths = [fits.width if name == MATCHED else 0 for name in fits.regressors]
        regressed = tall.predicted if split.is_tall else predicted_in_memory
        found = regressed(split, fits.regressors, widths)
        predicted = np.stack([each.predictions for each in found], axis=2)  # (m, k, c)
        summed[:, held_out] += predicted.swapaxes(0, 1)
        null += np.stack([each.null for each in found], axis=1)
        for at, truth in enumerate(targets[held_out].T):
            errors[at].append((truth[:, None] - predicted[:, at]) ** 2)
    draws = [_draws(part, part.targets[kind], errors[at]) for at, kind in enumerate(kinds)]
    times = part.is_held_out.sum(axis=0)[:, None]
    predicted = np.divide(summed, times, np.full_like(summed, np.nan), where=times > 0)
    return draws, null / len(part.is_held_out), predicted


def _draws(
    part: Part,
    measure: Float64[np.ndarray, "r n"],
    errors: Sequence[Float64[np.ndarray, "_ c"]],
) -> Float64[np.ndarray, "b c"]:
    """R² with all images, then of the bootstrap draws."""
    found = []
    for places in _some(len(part.counts), len(part.rows)):
        found.append(bootstrap_r_squared(measure, errors, part.is_held_out, part.counts[places]))
        cache.released(part.counts)
    return np.concatenate(found)


def _check_spread(part: Part) -> None:
    for kind, values in part.targets.items():
        flat = [
            np.ptp(y[held_out]) == 0 or np.ptp(y[~held_out]) == 0
            for y, held_out in zip(values, part.is_held_out, strict=True)
        ]
        if any(flat):
            raise DataError(
                f"The {kind} measure is constant in the training or test images of {sum(flat)} of "
                f"{len(flat)} splits of {part.subset!r}, so R² is undefined. Give more images "
                "whose objects differ in size."
            )


def mapped_here(
    function: Callable[..., Any], shared: Any, jobs: Iterable[tuple[Any, ...]]
) -> Generator[Any, None, None]:
    """`function(shared, *job)` of every job, in order, in threads of this process."""
    with one_thread_each() as workers:
        yield from workers.map(lambda job: function(shared, *job), jobs)


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Workers with one thread per regression: the same numbers on any number of cores."""
    with threadpool_limits(1), ThreadPoolExecutor(n_processors()) as workers:
        yield workers


def n_processors() -> int:
    """Number of processors that this process may use, which containers limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
