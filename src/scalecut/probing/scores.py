"""Held-out scores of targets on the features of every layer: splits drawn once, used by all.

For every subset of the images each target is regressed on each layer's features in r random splits
into 70 % training and 30 % test images (`graziani2021`), by group. The same splits, shuffles,
permutations and bootstrap draws serve every layer, regressor and kind of weights, so that all
scores of a target are paired; and one decomposition serves all measures of the same images. Classes
are regressed as columns of 1 and 0 (`stats.classes`), on splits of their own that are stratified.
"""

import functools
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt16
from scipy.stats import norm as normal
from scipy.stats import t as student
from sklearn.model_selection import GroupShuffleSplit
from threadpoolctl import threadpool_limits

from .. import cache, memory
from ..data.images import MEAN, ImageSet, Target, are_numbers
from ..errors import DataError
from ..features.extract import Map
from ..networks.points import ProbePoint
from ..stats import out_of_core as tall
from ..stats.classes import (
    AUROC,
    BALANCED,
    KAPPA,
    R2,
    SCALES,
    bootstrap_classes,
    chance,
    chosen,
    indicators,
    stratified,
)
from ..stats.inference import (
    DRAWS,
    bootstrap_r_squared,
    ends,
    family_p_values,
    group_draws,
    group_permutations,
    interval,
    mirrored,
)
from ..stats.out_of_core import Permuted, Rows, Split, predicted_in_memory

TEST_SHARE = 0.3  # graziani2021
MATCHED = "matched"  # ridge on as many principal components in every layer
MOST_RANDOM = 32  # randomly initialised networks
Found = TypeVar("Found")
AT_ONCE = 2**22  # numbers of permutations or bootstrap draws held in memory at a time
MOST_INDICATORS = 2**24  # of permuted classes at a time
CONTROLLED = ("random", "permuted", "pixels")  # kinds of weights that are controls themselves


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A target on one subset, with everything that is drawn once and serves all its fits.

    Of classes, the values are their numbers.
    """

    subset: str
    rows: Int[np.ndarray, " n"]  # of the image set
    groups: Int[np.ndarray, " n"]
    targets: dict[str, Float64[np.ndarray, "r n"]]  # `true`, `shuffled`: one row per repeat
    permuted: Float64[np.ndarray, "n q"]  # the target and permutations; no columns if none
    is_held_out: Bool[np.ndarray, "r n"]
    counts: UInt16[np.ndarray, "c n"]  # 1 + b rows: every image once, then bootstrap draws
    rank: Float64[np.ndarray, "r n"]  # random, of its group among training groups, in (0, 1]
    drawn: Float64[np.ndarray, "b most"]  # in [0, 1): random networks drawn along, in all subsets
    measure: str = "measure"  # the name of the target
    classes: tuple[str, ...] = ()  # of the target; empty for a measure

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is scored; findings are stated for the first."""
        if not self.classes:
            return (R2,)
        return (BALANCED, AUROC, *([KAPPA] if are_numbers(self.classes) else []))

    @property
    def numbers(self) -> Float64[np.ndarray, " k"]:
        """What the classes are as numbers; their places if they are none."""
        if are_numbers(self.classes):
            return np.array([float(name) for name in self.classes])
        return np.arange(len(self.classes), dtype=np.float64)

    @property
    def n_groups(self) -> int:
        """The groups that are held out in some repeat."""
        return len(np.unique(self.groups[self.is_held_out.any(axis=0)]))

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
            was held out, nan if it never was, or the number of the class that the mean chooses. One
            row per layer, one column per image; of several targets, one such array each.
        chance: by target, the score of features that hold nothing of it, and the 95 % interval of
            scores of the permuted target over the layers (mean over subsets; NaN without
            permutations).
        combined: what `combined.combined` returns, of every target; None without it.
    """

    table: pd.DataFrame
    draws: Float32[np.ndarray, "s b"]  # in the order of the rows
    predicted: Float64[np.ndarray, "*t L n"]
    chance: Mapping[str, tuple[float, float, float]]
    combined: pd.DataFrame | None = None


class _Key(NamedTuple):
    """Which scores a line holds, besides the layer."""

    measure: str
    subset: str
    kind: str  # of weights
    target: str
    regressor: str
    metric: str


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """The scores of one layer with one kind of weights, target and regressor, on one subset."""

    scores: np.ndarray  # (1 + b), the first with all images, the rest bootstrap draws
    null: np.ndarray  # (1 + p), the first of the target itself; empty without permutations
    n_images: int
    n_groups: int  # that are held out in some repeat; the fewest of any subset
    n_fit: int  # training images, mean over repeats and subsets
    n_features: int
    n_repeats: int
    by_seed: np.ndarray  # score of every seed
    predicted: np.ndarray  # (n), mean over the repeats that held an image out; empty if not kept
    chance: float  # the score of features that hold nothing


# by target and metric, the score of all images and of the draws; scores of permuted targets;
# predictions
_PartScores: TypeAlias = tuple[
    dict[tuple[str, str], Float64[np.ndarray, "b c"]],
    Float64[np.ndarray, "p c"],
    Float64[np.ndarray, "_ c"],
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
    """The splits, shuffles, permutations and bootstrap samples of every target and subset.

    Each follows from the seed and the subset's name alone, so runs that differ in their controls,
    or in the other subsets or targets, are paired.

    Raises:
        DataError: if a measure is constant in the training or test images of some split, or a class
            is missing there.
    """
    drawn = np.random.default_rng(seed).random((DRAWS, MOST_RANDOM))
    parts = []
    for target in image_set.targets:
        known, of_target = image_set.known(target.name), image_set.of(target.name)
        names = np.array(of_target.subset)
        for subset in of_target.subsets:
            rows = np.flatnonzero(names == subset)
            groups = np.unique(np.array(of_target.group)[rows], return_inverse=True)[1]
            asked = replace(target, values=of_target.measure[rows]), subset, known[rows], groups
            part = _drawn_part(*asked, seed, (repeats, permutations), shuffled=shuffled)
            parts.append(replace(part, drawn=drawn))
            _check_spread(parts[-1])
    return tuple(parts)


def _drawn_part(
    target: Target,
    subset: str,
    rows: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    seed: int,
    counts: tuple[int, int],
    *,
    shuffled: bool,
) -> Part:
    """One target on one subset; `counts` are those of repeats and permutations."""
    (repeats, permutations), values = counts, target.values
    splits, shuffles, bootstrap, permuting, ranking = np.random.default_rng(
        [seed, zlib.crc32(subset.encode())]
    ).spawn(5)
    is_held_out = np.zeros((repeats, len(rows)), dtype=bool)
    if target.classes:
        for number in range(repeats):
            is_held_out[number] = stratified(values, groups, splits, TEST_SHARE)
    else:
        splitter = GroupShuffleSplit(
            repeats, test_size=TEST_SHARE, random_state=int(splits.integers(2**31))
        )
        for number, (_, test) in enumerate(splitter.split(rows, groups=groups)):
            is_held_out[number, test] = True
    targets = {"true": np.broadcast_to(values, (repeats, len(values)))}
    if shuffled:
        targets["shuffled"] = np.stack([shuffles.permutation(values) for _ in range(repeats)])
    return Part(
        subset,
        rows,
        groups,
        targets,
        _permutations(values, groups, permuting, permutations),
        is_held_out,
        _counts(groups, bootstrap),
        _ranks(groups, is_held_out, ranking),
        np.zeros((0, 0)),
        target.name,
        target.classes,
    )


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
    memory.freed()
    jobs = [(kind, point) for kind, each in features.items() for point in each.points]
    fits = _Fits(tuple(regressors), width, share)
    own, main = next(iter(features)), "ridge" if "ridge" in regressors else regressors[0]
    lines: dict[_Key, dict[str, _Line]] = {}
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
            for key, line in _layer_lines(parts, of_seeds, fits, n_features, kept_of=kept_of):
                lines.setdefault(key._replace(kind=kind), {})[point.layer] = line
            memory.freed()
            report(done, len(jobs))
    measures = list(dict.fromkeys(part.measure for part in parts))
    order = {name: rank for rank, name in enumerate([*(part.subset for part in parts), MEAN])}
    rows: list[dict[str, Any]] = []
    draws = []
    for key in sorted(lines, key=lambda key: _order(key, measures, order)):
        by_layer = lines[key]
        p_values = _p_values(by_layer) if key.target == "true" else {}
        for point in features[key.kind].points:
            line = by_layer[point.layer]
            rows.append(_row(key, point, line) | {"p_value": p_values.get(point.layer, np.nan)})
            draws.append(line.scores[1:])
    drawn = np.array(draws, np.float32)
    n = 1 + max(int(part.rows.max()) for part in parts)
    predicted = np.full((len(measures), len(features[own].points), n), np.nan)
    for part in parts:
        key = _Key(part.measure, part.subset, own, "true", main, part.metrics[0])
        of_layers = [line.predicted for line in lines[key].values()]
        predicted[measures.index(part.measure)][:, part.rows] = of_layers
    return Scores(
        pd.DataFrame(_with_gain(rows, drawn)),
        drawn,
        predicted[0] if len(measures) == 1 else predicted,
        {
            part.measure: _chance(
                lines[_Key(part.measure, MEAN, own, "true", main, part.metrics[0])]
            )
            for part in parts
        },
    )


def _order(key: _Key, measures: Sequence[str], subsets: Mapping[str, int]) -> tuple[Any, ...]:
    """Targets and subsets as they came, the rest by name; of the metrics the main one first."""
    metrics = list(SCALES)
    named = measures.index(key.measure), subsets[key.subset]
    return *named, key.kind, key.target, key.regressor, metrics.index(key.metric)


def _chance(by_layer: Mapping[str, _Line]) -> tuple[float, float, float]:
    """The score of nothing, and the 95 % interval of scores of the permuted target."""
    first = next(iter(by_layer.values()))
    null = np.array([line.null[1:] for line in by_layer.values()])
    low, high = np.quantile(null, [0.025, 0.975]) if null.size else (np.nan, np.nan)
    return first.chance, float(low), float(high)


def _row(key: _Key, point: ProbePoint, line: _Line) -> dict[str, Any]:
    score = float(line.scores[0])
    low, high = interval(score, line.scores[1:], line.n_groups, scale=SCALES[key.metric])
    r2 = (score, float(low), float(high)) if key.metric == R2 else (np.nan,) * 3
    return {
        "subset": key.subset,
        "measure": key.measure,
        "layer": point.layer,
        "alias": point.alias,
        "depth": point.depth,
        "n_features": line.n_features,
        "n_images": line.n_images,
        "n_fit": line.n_fit,
        "weights": key.kind,
        "target": key.target,
        "regressor": key.regressor,
        **dict(zip(("r2", "r2_low", "r2_high"), r2, strict=True)),
        "r2_spread": float(line.by_seed.std(ddof=1)) if len(line.by_seed) > 1 else np.nan,
        "seed_count": line.n_repeats,
        "metric": key.metric,
        "score": score,
        "score_low": float(low),
        "score_high": float(high),
        "chance": line.chance,
        "n_groups": line.n_groups,
    }


def _with_gain(
    rows: list[dict[str, Any]], draws: Float32[np.ndarray, "s b"]
) -> list[dict[str, Any]]:
    """Add the gain over controls, `learned`: the score minus that of the best control, by draw.

    A control below chance, as with negative R², is worse than no features, and counts as chance.
    """
    place = {
        (row["weights"], *(row[name] for name in _ALIKE), row["layer"]): number
        for number, row in enumerate(rows)
        if row["target"] == "true"
    }
    extended = []
    for row, of_row in zip(rows, draws, strict=True):
        learned = low = high = np.nan
        if row["target"] == "true" and row["weights"] not in CONTROLLED:
            same = [row[name] for name in _ALIKE]
            keys = [("random", *same, row["layer"]), ("pixels", *same, "pixels")]
            controls = [place[key] for key in keys if key in place]
            if controls:
                least = row["chance"]
                best = max(least, *(rows[number]["score"] for number in controls))
                learned = row["score"] - best
                above = _plausible(row, of_row) - functools.reduce(
                    np.maximum, (_plausible(rows[n], draws[n]) for n in controls), least
                )
                scale = SCALES[row["metric"]]
                low, high = map(float, ends(learned, above, row["n_groups"], scale=scale))
        extended.append(row | {"learned": learned, "learned_low": low, "learned_high": high})
    return extended


_ALIKE = ("measure", "subset", "regressor", "metric")  # what a score shares with its controls


def _plausible(
    row: Mapping[str, Any], draws: Float32[np.ndarray, " b"]
) -> Float64[np.ndarray, " b"]:
    """What the score of a row may be on other images."""
    scale = SCALES[row["metric"]]
    return mirrored(row["score"], draws.astype(np.float64), scale, row["n_groups"])


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
) -> Iterator[tuple[_Key, _Line]]:
    """All scores of one layer with one kind of weights, which the keys leave open.

    Args:
        of_seeds: `_matrix_scores` of each seed.
        kept_of: the regressor whose predictions are kept.
    """
    by_subset: dict[_Key, list[_Line]] = {}
    for part, *found in zip(parts, *of_seeds, strict=True):
        for target, metric in found[0][0]:
            is_main = metric == part.metrics[0]
            for column, regressor in enumerate(fits.regressors):
                seeds = np.array([scores[target, metric][:, column] for scores, _, _ in found])
                is_kept = (target, regressor) == ("true", kept_of) and is_main
                read = [held[:, column] for *_, held in found if is_kept]
                nulls = [null[:, column] for _, null, _ in found]
                line = _Line(
                    over_seeds(seeds, part.drawn),
                    np.mean(nulls, axis=0) if is_main else np.zeros(0),
                    len(part.rows),
                    part.n_groups,
                    round(float(part.fitted(fits.share).sum(axis=1).mean())),
                    min(fits.width, n_features) if regressor == MATCHED else n_features,
                    len(part.is_held_out),
                    seeds[:, 0],
                    np.mean(read, axis=0) if is_kept else np.zeros(0),
                    chance(metric, len(part.classes)),
                )
                key = _Key(part.measure, part.subset, "", target, regressor, metric)
                by_subset.setdefault(key._replace(subset=MEAN), []).append(line)
                yield key, line
    for key, lines in by_subset.items():
        mean = _Line(
            np.mean([line.scores for line in lines], axis=0),
            np.mean([line.null for line in lines], axis=0),
            sum(line.n_images for line in lines),
            min(line.n_groups for line in lines),
            round(np.mean([line.n_fit for line in lines]).item()),
            lines[0].n_features,
            lines[0].n_repeats,
            np.mean([line.by_seed for line in lines], axis=0),
            np.zeros(0),
            lines[0].chance,
        )
        yield key, mean


def over_seeds(
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
    """The scores of one layer with one seed on every part: one job of a cluster.

    Args:
        drawn: what is the same for all layers.
        are_kept: whether the predictions are.
    """
    parts, fits = drawn
    found: dict[int, _PartScores] = {}
    for numbers in _alike(parts):
        of_parts = _scores_of([parts[number] for number in numbers], matrix, fits)
        found |= dict(zip(numbers, of_parts, strict=True))
    return [
        (scores, null, held if are_kept else held[:0].copy())
        for _, (scores, null, held) in sorted(found.items())
    ]


def _alike(parts: Sequence[Part]) -> list[list[int]]:
    """Numbers of the parts that one decomposition per split serves: measures of the same images."""
    found: list[list[int]] = []
    for number, part in enumerate(parts):
        for numbers in found:
            other = parts[numbers[0]]
            if (
                not (part.classes or other.classes)
                and np.array_equal(part.rows, other.rows)
                and np.array_equal(part.is_held_out, other.is_held_out)
            ):
                numbers.append(number)
                break
        else:
            found.append([number])
    return found


def _scores_of(
    parts: Sequence[Part], matrix: Float[np.ndarray, "all d"], fits: _Fits
) -> list[_PartScores]:
    """The scores of each part; all have the same images and splits, and one of classes is alone."""
    first, n_classes = parts[0], len(parts[0].classes)
    asked = [(part, kind) for part in parts for kind in part.targets]
    width = max(1, n_classes)
    held: list[list[np.ndarray]] = [[] for _ in asked]  # (m, width, c) of held-out images
    null = np.zeros((sum(part.permuted.shape[1] for part in parts), len(fits.regressors)))
    widths = [fits.width if name == MATCHED else 0 for name in fits.regressors]
    splits = zip(first.is_held_out, first.fitted(fits.share), strict=True)
    for repeat, (held_out, fitted) in enumerate(splits):
        values = np.stack([part.targets[kind][repeat] for part, kind in asked], axis=1)
        targets = indicators(values, n_classes) if n_classes else values
        predicted, of_permuted = np.zeros(0), []
        for permuted in _permuted(parts):
            split = Split(
                Rows(matrix, first.rows[fitted]),
                Rows(matrix, first.rows[held_out]),
                targets[fitted],
                first.groups[fitted],
                (_rows(permuted, fitted, n_classes), _rows(permuted, held_out, n_classes)),
                n_classes,
            )
            regressed = tall.predicted if split.is_tall else predicted_in_memory
            found = regressed(split, fits.regressors, widths)
            predicted = np.stack([each.predictions for each in found], axis=2)  # (m, t, c)
            of_permuted.append(np.stack([each.null for each in found], axis=1))
        null += np.concatenate(of_permuted)
        for at, each in enumerate(held):
            each.append(predicted[:, at * width : (at + 1) * width])
    null, scores = null / len(first.is_held_out), []
    ends = np.cumsum([part.permuted.shape[1] for part in parts])
    for part, end in zip(parts, ends, strict=True):
        of_part = [at for at, (other, _) in enumerate(asked) if other is part]
        draws = {}
        for at in of_part:
            kind = asked[at][1]
            found = _draws(part, part.targets[kind], held[at], part.fitted(fits.share))
            draws |= {(kind, name): found[:, :, n] for n, name in enumerate(part.metrics)}
        own = null[end - part.permuted.shape[1] : end]
        scores.append((draws, own, _mean_predictions(part, held[of_part[0]])))
    return scores


def _permuted(parts: Sequence[Part]) -> Iterator[list[Float64[np.ndarray, "n _"]]]:
    """The targets and their permutations; of classes, whose columns are many, some at a time."""
    (first, *_), n = parts, len(parts[0].rows)
    if not first.classes or not first.permuted.shape[1]:
        yield [part.permuted for part in parts]
        return
    at_once = max(1, MOST_INDICATORS // (n * len(first.classes)))
    for start in range(0, first.permuted.shape[1], at_once):
        yield [first.permuted[:, start : start + at_once]]


def _rows(
    permuted: Sequence[Float64[np.ndarray, "n _"]], which: Bool[np.ndarray, " n"], n_classes: int
) -> Permuted:
    numbers = np.flatnonzero(which)
    return Permuted(tuple(Rows(values, numbers) for values in permuted), n_classes)


def _mean_predictions(
    part: Part, held: Sequence[Float64[np.ndarray, "_ _ c"]]
) -> Float64[np.ndarray, "n c"]:
    """Mean over the repeats that held an image out; of classes, the one that the mean chooses."""
    summed = np.zeros((len(part.rows), *held[0].shape[1:]))
    for held_out, predicted in zip(part.is_held_out, held, strict=True):
        summed[held_out] += predicted
    times = part.is_held_out.sum(axis=0)[:, None, None]
    mean = np.divide(summed, times, np.full_like(summed, np.nan), where=times > 0)
    if not part.classes:
        return mean[:, 0]
    shares = np.bincount(part.targets["true"][0].astype(np.int64)) / len(part.rows)
    return np.where(times[:, 0] > 0, chosen(mean.swapaxes(1, 2), shares), np.nan)


def _draws(
    part: Part,
    target: Float64[np.ndarray, "r n"],
    held: Sequence[Float64[np.ndarray, "_ _ c"]],
    fitted: Bool[np.ndarray, "r n"],
) -> Float64[np.ndarray, "b c s"]:
    """Scores with all images, then of the bootstrap draws."""
    found = []
    splits = zip(target, part.is_held_out, held, strict=True)
    errors = [
        (truth[held_out][:, None] - predicted[:, 0]) ** 2
        for truth, held_out, predicted in splits
        if not part.classes
    ]
    for places in _some(len(part.counts), len(part.rows)):
        counts = part.counts[places]
        if part.classes:
            asked = target, held, part.is_held_out, fitted, counts
            found.append(bootstrap_classes(*asked, part.metrics, part.numbers))
        else:
            r2 = bootstrap_r_squared(target, errors, part.is_held_out, counts)
            found.append(r2[:, :, None])
        cache.released(part.counts)
    return np.concatenate(found)


def _check_spread(part: Part) -> None:
    if part.classes:
        _check_classes(part)
        return
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


def _check_classes(part: Part) -> None:
    for number, name in enumerate(part.classes):
        is_of = part.targets["true"][0] == number
        lacking = [
            not is_of[held_out].any() or not is_of[~held_out].any() for held_out in part.is_held_out
        ]
        if any(lacking):
            raise DataError(
                f"The class {name!r} of {part.measure!r} is missing in the training or test images "
                f"of {sum(lacking)} of {len(lacking)} splits of {part.subset!r}, since groups are "
                "never split. Give images of it from more groups."
            )


def mapped_here(
    function: Callable[..., Any], shared: Any, jobs: Iterable[tuple[Any, ...]]
) -> Generator[Any, None, None]:
    """`function(shared, *job)` of every job, in order, in threads of this process."""
    with one_thread_each() as workers:
        yield from workers.map(lambda job: function(shared, *job), jobs)


def by_layer(
    score: Callable[[Sequence[np.ndarray]], Found],
    by_kind: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    points: Sequence[ProbePoint],
    report: Callable[[int, int], None],
) -> dict[tuple[str, str], Found]:
    """What `score` finds in the features of each layer, by kind of weights and layer.

    Args:
        score: called with the features of a layer, of every network of a kind.
        by_kind: features of the networks of each kind of weights, by layer.
        report: called with how many are done, and of how many.
    """
    jobs = [(kind, point.layer) for kind in by_kind for point in points]
    features = ([each[layer] for each in by_kind[kind]] for kind, layer in jobs)
    found = {}
    with one_thread_each() as workers:
        for job, of_job in zip(jobs, workers.map(score, features), strict=True):
            found[job] = of_job
            report(len(found), len(jobs))
    return found


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
