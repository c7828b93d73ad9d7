"""Uncertainty of scores: intervals by resampling what was sampled.

Shapes: n images, r repeats, c columns (one a score), b draws.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int

DRAWS = 1000


def group_draws(
    groups: Int[np.ndarray, " n"], rng: np.random.Generator, draws: int = DRAWS
) -> Float64[np.ndarray, "b n"]:
    """How often each image counts when whole groups are drawn with replacement (`efron1993`)."""
    names, member = np.unique(groups, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, member].astype(np.float64)


def bootstrap_r_squared(
    measure: Float64[np.ndarray, "r n"],
    squared_errors: Float64[np.ndarray, "r n c"],
    is_held_out: Bool[np.ndarray, "r n"],
    counts: Float64[np.ndarray, "b n"],
) -> Float64[np.ndarray, "b c"]:
    """R² of the held-out predictions, mean over repeats, in resampled sets of images.

    In each draw the images of every repeat's held-out part are weighted by how often they were
    drawn, the same in all repeats; the fits stay as they are. A repeat counts in a draw only if two
    different measures are left in it.
    """
    total = np.zeros((len(counts), squared_errors.shape[2]))
    used = np.zeros(len(counts))
    for y, errors, held_out in zip(measure, squared_errors, is_held_out, strict=True):
        w = counts[:, held_out]
        y = y[held_out] - y[held_out].mean()
        n = w.sum(axis=1)
        spread = w @ y**2 - (w @ y) ** 2 / np.maximum(n, 1)
        fine = spread > 1e-12 * (y @ y)
        used += fine
        total[fine] += 1 - (w[fine] @ errors[held_out]) / spread[fine, None]
    return np.where(used[:, None] > 0, total / np.maximum(used, 1)[:, None], np.nan)


def interval(
    r2: Float64[np.ndarray, "*c"] | float,
    draws: Float64[np.ndarray, "b *c"],
    level: float = 0.95,
) -> tuple[Float64[np.ndarray, "*c"] | np.float64, Float64[np.ndarray, "*c"] | np.float64]:
    """The basic bootstrap interval: [2 R² - q_high, 2 R² - q_low], at most 1 (`efron1993`).

    Draws of R² lie below R² itself, the more so the smaller it is; the percentile interval would
    inherit that and lie too low (docs/log.md).
    """
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    return np.minimum(2 * r2 - high, 1.0), np.minimum(2 * r2 - low, 1.0)
