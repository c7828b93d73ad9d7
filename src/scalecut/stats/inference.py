"""Uncertainty of scores: intervals, chance, the peak and the fall, by resampling what was sampled.

Shapes: n images, r repeats, c columns (one a score), b draws, p permutations, L layers. A curve is
a score a layer, in order of execution; its draws are paired: the same images are drawn for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Num

DRAWS = 1000

# Draws resample the images to test on, while the fits stay: the noise of differences between layers
# is larger. With this factor flat curves show a fall, and confidence sets miss a best layer, in at
# most 7 of 100 simulations from images on, with refits (docs/log.md).
REFITS = 1.4


def group_draws(
    groups: Int[np.ndarray, " n"], rng: np.random.Generator, draws: int = DRAWS
) -> Float64[np.ndarray, "b n"]:
    """How often each image counts when whole groups are drawn with replacement (`efron1993`)."""
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
    drawn, the same in all repeats; the fits stay as they are. A repeat counts in a draw only if two
    different measures are left in it.

    Args:
        squared_errors: of the images that each repeat holds out, in their order.
    """
    total = np.zeros((len(counts), squared_errors[0].shape[1]))
    used = np.zeros(len(counts))
    for y, errors, held_out in zip(measure, squared_errors, is_held_out, strict=True):
        w = counts[:, held_out].astype(np.float64)
        y = y[held_out] - y[held_out].mean()
        n = w.sum(axis=1)
        spread = w @ y**2 - (w @ y) ** 2 / np.maximum(n, 1)
        fine = spread > 1e-12 * (y @ y)
        used += fine
        total[fine] += 1 - (w[fine] @ errors) / spread[fine, None]
    return np.where(used[:, None] > 0, total / np.maximum(used, 1)[:, None], np.nan)


def interval(
    r2: Float64[np.ndarray, "*c"] | float,
    draws: Float64[np.ndarray, "b *c"],
    level: float = 0.95,
    *,
    least: float = -np.inf,
    most: float = 1.0,
) -> tuple[Float64[np.ndarray, "*c"] | np.float64, Float64[np.ndarray, "*c"] | np.float64]:
    """The basic bootstrap interval, [2 R² - q_high, 2 R² - q_low], inside its bounds (`efron1993`).

    Draws of R² lie below R² itself, the more so the smaller it is; the percentile interval would
    inherit that and lie too low (docs/log.md).
    """
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    # with few images draws may all lie on one side of the score; it is inside all the same
    low, high = np.minimum(2 * r2 - high, r2), np.maximum(2 * r2 - low, r2)
    return np.clip(low, least, most), np.clip(high, least, most)


# --- is it more than chance ----------------------------------------------------------------------


def group_permutations(
    measure: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    count: int,
) -> Float64[np.ndarray, "p n"]:
    """The measure dealt out anew, whole groups changing places.

    The groups' values, in random order of the groups, are laid over the images in the order of
    their groups. With groups of one image, or of equal size, this is the exact permutation.
    """
    order = np.argsort(groups, kind="stable")
    blocks = np.split(measure[order], np.flatnonzero(np.diff(groups[order])) + 1)
    dealt = np.empty((count, len(measure)))
    if len(blocks) == len(measure):
        dealt[:, order] = rng.permuted(np.tile(measure[order], (count, 1)), axis=1)
        return dealt
    for row in dealt:
        row[order] = np.concatenate([blocks[number] for number in rng.permutation(len(blocks))])
    return dealt


def family_p_values(
    observed: Float64[np.ndarray, " L"], null: Float64[np.ndarray, "p L"]
) -> Float64[np.ndarray, " L"]:
    """P-values corrected over layers by the maximum statistic, (1 + #{max ≥ R²}) / (1 + p).

    The chance that any layer at all scores so high if features and measure are unrelated
    (`westfall1993`; `phipson2010` for the ones).

    Args:
        null: the scores of the same layers with permuted measures, one permutation a row.
    """
    highest = null.max(axis=1)
    return (1 + (highest[:, None] >= observed).sum(axis=0)) / (1 + len(null))


# --- where it is best, and where it falls --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peak:
    """The layer of the highest score, and those not shown to be worse than the best."""

    at: int
    confidence_set: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fall:
    """The loss after the peak; where it lies is told only if it is shown.

    Args:
        p_value: of the null hypothesis that the last layer is no worse than the peak.
        after: the last layer before the change point; None if no fall is shown.
        first, last: 95 % interval of `after`.
        drop, low, high: best score still to come, mean from the peak to `after` less mean behind.
    """

    p_value: float
    after: int | None = None
    first: int | None = None
    last: int | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None


def peak(
    r2: Float64[np.ndarray, " L"], draws: Float64[np.ndarray, "b L"], level: float = 0.95
) -> Peak:
    """The peak with its confidence set, from paired bootstrap draws of the curve.

    A layer is in the set unless the largest studentised lead that any other has over it is larger
    than chance makes it where all are equal. So the truly best layer is in the set in `level` of
    all cases (`hsu1984`, multiple comparisons with the best).
    """
    draws = draws[np.isfinite(draws).all(axis=1)]  # few images may leave a draw without a score
    noise = draws - draws.mean(axis=0)
    inside = []
    for layer, spread in enumerate(_spreads(noise)):
        lead = np.max((r2 - r2[layer]) / spread)
        by_chance = np.max((noise - noise[:, [layer]]) / spread, axis=1)
        if lead <= REFITS * np.quantile(by_chance, level):
            inside.append(layer)
    return Peak(int(np.argmax(r2)), tuple(inside))


def fall(
    r2: Float64[np.ndarray, " L"], draws: Float64[np.ndarray, "b L"], level: float = 0.95
) -> Fall:
    """The fall after the peak as a change point, or none shown.

    Tested is the studentised loss from the peak to the last layer, against its distribution for a
    flat curve with the noise of the draws, each with a peak of its own. A dip that is made up for
    later is no fall: the change point splits, by least squares, the best that is still to come
    from each layer on into two levels. Its interval is that of the curves that the bootstrap gives.
    """
    draws = draws[np.isfinite(draws).all(axis=1)]  # few images may leave a draw without a score
    noise = draws - draws.mean(axis=0)
    spreads = _spreads(noise)
    by_chance = REFITS * np.array([_loss(curve, spreads) for curve in noise])
    p_value = float((1 + (by_chance >= _loss(r2, spreads)).sum()) / (1 + len(noise)))
    if p_value > 1 - level:
        return Fall(p_value)
    top, after = int(np.argmax(r2)), _change_point(r2)
    places = [_change_point(curve) for curve in r2 + REFITS * noise]
    tails = [(1 - level) / 2, (1 + level) / 2]
    first, last = np.quantile(places, tails, method="inverted_cdf")
    drop = _drop(r2, top, after)
    drops = np.array([_drop(curve, top, after) for curve in r2 + REFITS * noise])
    low, high = interval(drop, drops, level, most=np.inf)
    return Fall(p_value, after, int(first), int(last), drop, float(low), float(high))


def _loss(curve: np.ndarray, spreads: np.ndarray) -> float:
    top = int(np.argmax(curve))
    return float((curve[top] - curve[-1]) / spreads[top, -1])


def _still_to_come(curve: np.ndarray) -> np.ndarray:
    """The best score from each layer on."""
    return np.maximum.accumulate(curve[::-1])[::-1]


def _change_point(curve: np.ndarray) -> int:
    """The last layer of the upper level; the peak itself where nothing comes after it."""
    top = int(np.argmax(curve))
    rest = _still_to_come(curve)[top:]
    if len(rest) < 2:
        return top
    n = np.arange(1, len(rest))  # layers in the upper level
    sums = np.cumsum(rest)
    upper, lower = sums[:-1] / n, (sums[-1] - sums[:-1]) / (len(rest) - n)
    between = n * (len(rest) - n) * (upper - lower) ** 2  # most of it, least squares inside
    return top + int(np.argmax(between))


def _drop(curve: np.ndarray, top: int, after: int) -> float:
    best = _still_to_come(curve)
    return float(best[top : after + 1].mean() - best[after + 1 :].mean())


def _spreads(noise: np.ndarray) -> np.ndarray:
    """Standard deviation of the difference of every two layers, (L, L)."""
    covariance = np.atleast_2d(np.cov(noise, rowvar=False))
    variance = np.diag(covariance)
    squares = variance[:, None] + variance - 2 * covariance
    return np.sqrt(np.maximum(squares, 1e-24))
