"""Uncertainty of scores: intervals, p-values, the peak and the drop after it, by resampling.

Shapes: n images, r repeats, c columns (one per score), b draws, p permutations, L layers. A curve
is one score per layer, in order of execution; its draws are paired: all use the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int, Num
from scipy.stats import norm as normal
from scipy.stats import t as student

from .ridge import NO_SPREAD

DRAWS = 1000
Scale: TypeAlias = Literal["r2", "share", "difference"]

# Groups of held-out images; with fewer, intervals do not hold (docs/intervals.md).
LEAST_GROUPS: dict[Scale, int] = {"r2": 12, "share": 40, "difference": 12}

# Draws resample the test images and keep the fits, which understates the noise of differences
# between layers. With this factor flat curves show a drop, and confidence sets miss a best layer,
# in at most 7 of 100 simulations that start from images and refit (docs/log.md).
REFITS = 1.4


def group_draws(
    groups: Int[np.ndarray, " n"], rng: np.random.Generator, draws: int = DRAWS
) -> Float64[np.ndarray, "b n"]:
    """How often each image is drawn when whole groups are drawn with replacement (`efron1993`)."""
    names, member = np.unique(groups, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, member].astype(np.float64)


def bootstrap_r_squared(
    measure: Float64[np.ndarray, "r n"],
    squared_errors: Sequence[Float64[np.ndarray, "_ c"]],
    is_held_out: Bool[np.ndarray, "r n"],
    counts: Num[np.ndarray, "b n"],
) -> Float64[np.ndarray, "b c"]:
    """R² of the held-out predictions, mean over repeats, in resampled sets of images.

    In each draw the images of every repeat's held-out part are weighted by how often they were
    drawn, the same in all repeats; the fits are kept. A repeat counts in a draw only if two
    different measures remain in it.

    Args:
        squared_errors: one array per repeat, of its held-out images, in their order.
    """
    total = np.zeros((len(counts), squared_errors[0].shape[1]))
    used = np.zeros(len(counts))
    for y, errors, held_out in zip(measure, squared_errors, is_held_out, strict=True):
        w = counts[:, held_out].astype(np.float64)
        y = y[held_out] - y[held_out].mean()
        n = w.sum(axis=1)
        spread = w @ y**2 - (w @ y) ** 2 / np.maximum(n, 1)
        fine = spread > NO_SPREAD * (y @ y)
        used += fine
        total[fine] += 1 - (w[fine] @ errors) / spread[fine, None]
    return np.where(used[:, None] > 0, total / np.maximum(used, 1)[:, None], np.nan)


def mirrored(
    score: Float64[np.ndarray, "*c"] | float,
    draws: Float64[np.ndarray, "b *c"],
    scale: Scale = "r2",
    n_groups: int | None = None,
) -> Float64[np.ndarray, "b *c"]:
    """The draws mirrored at the score: what the score on endless new images may be.

    A draw r* lies as far from the score r as r from the truth, on a scale f on which the spread of
    the draws depends least on where the score is:  f⁻¹(2 f(r) - f(r*)).  Draws of R² lie below R²
    itself, because a resampled test part repeats images and so varies less; mirrored draws undo
    this, plain quantiles of the draws would double it (docs/intervals.md). Functions of several
    scores, such as differences, are taken of mirrored draws.

    Args:
        scale: `r2`, the logarithm of 1 - R²; `share`, the logarithm of the odds, for scores from 0
            to 1; `difference`, no change, for what has no bound.
        n_groups: groups of images that were held out; half a group right and half a group wrong are
            added to a share, so that one of 1 has an interval as well.
    """
    if scale == "difference":
        return 2 * score - draws
    if scale == "r2":
        return 1 - (1 - score) ** 2 / np.maximum(1 - draws, np.finfo(np.float64).eps)
    more = 0.5 / n_groups if n_groups else 0.0
    share, by_draw = ((np.asarray(each) + more) / (1 + 2 * more) for each in (score, draws))
    odds = (share / (1 - share)) ** 2 * (1 - by_draw) / by_draw
    return np.clip((1 + 2 * more) * odds / (1 + odds) - more, 0.0, 1.0)


def ends(
    score: Float64[np.ndarray, "*c"] | float,
    plausible: Float64[np.ndarray, "b *c"],
    n_groups: int,
    level: float = 0.95,
    *,
    scale: Scale = "r2",
) -> tuple[Float64[np.ndarray, "*c"] | np.float64, Float64[np.ndarray, "*c"] | np.float64]:
    """The interval of a score from its mirrored draws; NaN for fewer than `LEAST_GROUPS` groups.

    Quantiles at  Φ(±√(g/(g-1)) t)  in place of Φ(±1.96), with Student's t of g - 1 degrees of
    freedom: with g groups, draws spread too little by √((g-1)/g) (`hesterberg2015`). The interval
    contains the score itself, even if all draws lie on one side of it.

    Args:
        n_groups: g, groups of images that were held out; the fewest of any subset.
        level: coverage, 0 to 1.
        scale: of the scores, as in `mirrored`.
    """
    if n_groups < LEAST_GROUPS[scale]:
        none = np.full(np.shape(score), np.nan)[()]
        return none, none
    tail = float(normal.sf(_reach(n_groups, level)))
    low, high = np.nanquantile(plausible, [tail, 1 - tail], axis=0)
    return np.minimum(low, score), np.maximum(high, score)


def _reach(n_groups: int, level: float = 0.95) -> float:
    """√(g/(g-1)) t  of g - 1 degrees of freedom: how far an interval reaches, in deviations."""
    g = max(n_groups, 2)
    return float(np.sqrt(g / (g - 1)) * student.ppf((1 + level) / 2, g - 1))


def _widened(n_groups: int) -> float:
    """The factor on the noise of the draws, for the fits and for few groups."""
    return REFITS * _reach(n_groups) / float(normal.ppf(0.975))


def interval(
    score: Float64[np.ndarray, "*c"] | float,
    draws: Float64[np.ndarray, "b *c"],
    n_groups: int,
    level: float = 0.95,
    *,
    scale: Scale = "r2",
) -> tuple[Float64[np.ndarray, "*c"] | np.float64, Float64[np.ndarray, "*c"] | np.float64]:
    """The bootstrap interval of one score: `ends` of its `mirrored` draws.

    Args:
        n_groups: groups of images that were held out; the fewest of any subset.
        level: coverage, 0 to 1.
        scale: as in `mirrored`.
    """
    return ends(score, mirrored(score, draws, scale, n_groups), n_groups, level, scale=scale)


def no_interval(scale: Scale = "r2") -> str:
    """Why there is no interval, in words."""
    return f"no interval holds with fewer than {LEAST_GROUPS[scale]} groups of held-out images"


def of_difference(
    size: float,
    plausible: Float64[np.ndarray, " b"],
    n_groups: int,
    *,
    scale: Scale = "r2",
) -> tuple[float, float, float]:
    """The 95 % interval and the two-sided p-value of a difference of scores.

    Draws keep the fits, so their noise is widened by `REFITS`; the p-value is by Student's t with
    g - 1 degrees of freedom, for g groups as the interval is, 1 if nothing differs.

    Args:
        plausible: the difference of `mirrored` draws.
        n_groups, scale: of the scores, as in `ends`.
    """
    middle = np.nanmean(plausible)
    widened = middle + REFITS * (plausible - middle)
    low, high = ends(size, widened, n_groups, scale=scale)
    g = max(n_groups, 2)
    error = max(float(np.sqrt(g / (g - 1)) * np.nanstd(widened, ddof=1)), 1e-12)
    return float(low), float(high), float(2 * student.sf(abs(size) / error, g - 1))


# --- permutation tests ---------------------------------------------------------------------------

BETWEEN, ALIKE = 0.1, 0.2  # by simulation (docs/log.md): random measures stay below the latter
MOVED = 100  # times that a measure is moved on, at most


def group_permutations(
    measure: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    count: int,
) -> Float64[np.ndarray, "p n"]:
    """Permuted measures, one per row; whole groups change places.

    The groups' values, in random order of the groups, are assigned to the images in the order of
    their groups. With groups of one image, or of equal size, this is the exact permutation. If all
    groups have nearly the same values, such as each patient the same resolutions, that would change
    next to nothing, and values change places inside groups.
    """
    order = np.argsort(groups, kind="stable")
    blocks = np.split(measure[order], np.flatnonzero(np.diff(groups[order])) + 1)
    dealt = np.empty((count, len(measure)))
    if len(blocks) == len(measure):
        dealt[:, order] = rng.permuted(np.tile(measure[order], (count, 1)), axis=1)
        return dealt
    if _are_alike(blocks):
        inside = [rng.permuted(np.tile(block, (count, 1)), axis=1) for block in blocks]
        dealt[:, order] = np.concatenate(inside, axis=1)
        return dealt
    for row in dealt:
        row[order] = np.concatenate([blocks[number] for number in rng.permutation(len(blocks))])
    return dealt


def _are_alike(blocks: Sequence[Float64[np.ndarray, " _"]]) -> bool:
    """Whether groups have the same values, or a measure would be much like itself among others'.

    The latter is so if less than `BETWEEN` of the variance is between groups, and the measure is
    correlated with itself, moved on by one to all groups, by more than `ALIKE`.
    """
    if len({tuple(np.sort(block)) for block in blocks}) == 1:
        return True
    measure = np.concatenate(blocks)
    means = np.repeat([block.mean() for block in blocks], [len(block) for block in blocks])
    if means.var() > BETWEEN * measure.var():
        return False
    centred = measure - measure.mean()
    starts = np.cumsum([len(block) for block in blocks[:-1]])[:: 1 + len(blocks) // MOVED]
    products = [centred @ np.roll(centred, start) for start in starts]
    return float(np.mean(products)) > ALIKE * float(centred @ centred)


def family_p_values(
    observed: Float64[np.ndarray, " L"], null: Float64[np.ndarray, "p L"]
) -> Float64[np.ndarray, " L"]:
    """P-values corrected over layers by the maximum statistic, (1 + #{max ≥ R²}) / (1 + p).

    The probability that any layer scores as high if features and measure are unrelated
    (`westfall1993`; `phipson2010` for the ones).

    Args:
        null: scores of the same layers with permuted measures, one permutation per row.
    """
    highest = null.max(axis=1)
    return (1 + (highest[:, None] >= observed).sum(axis=0)) / (1 + len(null))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected over a family of tests, step by step from the smallest (`holm1979`)."""
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


# --- the peak and the drop -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peak:
    """The layer of the highest score, and the layers not shown to be worse than the best."""

    at: int
    confidence_set: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """The loss after the peak; its place is given only if it is significant."""

    p_value: float  # of the null hypothesis that the last layer is no worse than the peak
    after: int | None = None  # the last layer before the change point; None if no drop is shown
    # first, last: 95 % interval of `after`
    first: int | None = None
    last: int | None = None
    # size, low, high: mean of the best score still to come, from the peak to `after` minus after
    # it, with its 95 % interval
    size: float | None = None
    low: float | None = None
    high: float | None = None


def peak(
    r2: Float64[np.ndarray, " L"],
    draws: Float64[np.ndarray, "b L"],
    n_groups: int,
    level: float = 0.95,
) -> Peak:
    """The peak with its confidence set, from paired bootstrap draws of the curve.

    A layer is in the set unless the largest studentised lead of any other layer over it exceeds the
    `level` quantile of that lead where all layers are equal. So the truly best layer is in the set
    in `level` of all cases (`hsu1984`, multiple comparisons with the best).

    Args:
        n_groups: g, groups of images that were held out. The noise is multiplied by `REFITS`, and
            by  √(g/(g-1)) t / 1.96  as in `ends`: draws of few groups vary too little.
    """
    draws = draws[np.isfinite(draws).all(axis=1)]  # with few images some have no score
    noise = draws - draws.mean(axis=0)
    inside = []
    for layer, spread in enumerate(_spreads(noise)):
        lead = np.max((r2 - r2[layer]) / spread)
        by_chance = np.max((noise - noise[:, [layer]]) / spread, axis=1)
        if lead <= _widened(n_groups) * np.quantile(by_chance, level):
            inside.append(layer)
    return Peak(int(np.argmax(r2)), tuple(inside))


def drop(
    r2: Float64[np.ndarray, " L"],
    draws: Float64[np.ndarray, "b L"],
    n_groups: int,
    level: float = 0.95,
    *,
    scale: Scale = "r2",
) -> Drop:
    """The drop after the peak as a change point, or none if none is significant.

    The studentised loss from the peak to the last layer is tested against its distribution for flat
    curves with the noise of the draws, each with its own peak. A dip from which the curve recovers
    is no drop: the change point splits, by least squares, the best score still to come from each
    layer on into two levels. Its interval is the quantiles over the bootstrap draws. The noise is
    widened as in `peak`.
    """
    draws = draws[np.isfinite(draws).all(axis=1)]  # with few images some have no score
    noise = draws - draws.mean(axis=0)
    spreads = _spreads(noise)
    widened = _widened(n_groups)
    by_chance = widened * _losses(noise, spreads)
    p_value = float((1 + (by_chance >= _losses(r2[None], spreads)).sum()) / (1 + len(noise)))
    if p_value > 1 - level:
        return Drop(p_value)
    top, after = int(np.argmax(r2)), int(_change_points(r2[None])[0])
    places = _change_points(r2 + widened * noise)
    tails = [(1 - level) / 2, (1 + level) / 2]
    first, last = np.quantile(places, tails, method="inverted_cdf")
    size = float(_sizes(r2[None], top, after)[0])
    plausible = mirrored(r2, draws, scale, n_groups)
    around = r2 + REFITS * (plausible - plausible.mean(axis=0))
    low, high = ends(size, _sizes(around, top, after), n_groups, level, scale=scale)
    return Drop(p_value, after, int(first), int(last), size, float(low), float(high))


def _losses(
    curves: Float64[np.ndarray, "b L"], spreads: Float64[np.ndarray, "L L"]
) -> Float64[np.ndarray, " b"]:
    """From the peak of each curve to its last layer, in standard deviations."""
    top = curves.argmax(axis=1)
    return (curves.max(axis=1) - curves[:, -1]) / spreads[top, -1]


def _still_to_come(curves: Float64[np.ndarray, "b L"]) -> Float64[np.ndarray, "b L"]:
    """The best score from each layer on."""
    return np.maximum.accumulate(curves[:, ::-1], axis=1)[:, ::-1]


def _change_points(curves: Float64[np.ndarray, "b L"]) -> Int[np.ndarray, " b"]:
    """The last layer of the upper level of each curve; its peak if that is the last layer."""
    top, places = curves.argmax(axis=1)[:, None], np.arange(curves.shape[1])
    sums = np.cumsum(np.where(places < top, 0, _still_to_come(curves)), axis=1)  # from the peak on
    n, n_lower = np.maximum(places - top + 1, 1)[:, :-1], places[:0:-1]  # layers in each level
    upper, lower = sums[:, :-1] / n, (sums[:, -1:] - sums[:, :-1]) / n_lower
    between = n * n_lower * (upper - lower) ** 2  # its maximum is the least squares inside
    between[places[:-1] < top] = -1
    last = np.zeros_like(sums[:, :1])  # which is taken only if it is the peak
    return np.hstack([between, last]).argmax(axis=1)


def _sizes(curves: Float64[np.ndarray, "b L"], top: int, after: int) -> Float64[np.ndarray, " b"]:
    best = _still_to_come(curves)
    return best[:, top : after + 1].mean(axis=1) - best[:, after + 1 :].mean(axis=1)


def _spreads(noise: np.ndarray) -> np.ndarray:
    """Standard deviation of the difference of every two layers, (L, L)."""
    covariance = np.atleast_2d(np.cov(noise, rowvar=False))
    variance = np.diag(covariance)
    squares = variance[:, None] + variance - 2 * covariance
    return np.sqrt(np.maximum(squares, 1e-24))
