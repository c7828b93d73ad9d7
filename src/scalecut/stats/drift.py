"""How far features move from one resolution to another, in units of what patients differ by.

The features of place p of patient i at resolution r are  z_ip(r) = m_i(r) + noise,  with noise that
is independent from place to place. With r₀ the resolution of reference,

    moved    M(r) = mean over i    of ‖m_i(r) - m_i(r₀)‖²
    apart    A    = mean over i ≠ j of ‖m_i(r₀) - m_j(r₀)‖²
    ratio    √(M(r) / A)

At 1, the resolution moves a patient as far as another patient is away. The mean of k places holds
1/k of the variance v of their noise, so v/k is subtracted from each square of a mean; the squares
are then unbiased, and may be negative.

Shapes: n places, d features, m patients, R resolutions, b draws.
"""

import numpy as np
from jaxtyping import Float, Float64, Int

from .inference import mirrored
from .ridge import FARTHEST, deviations

LINEAR = (
    0.05  # squared ratio up to which draws are mirrored as they are, and above by its logarithm
)


def standardised(
    features: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "k d"]
) -> Float64[np.ndarray, "n v"]:
    """Channels by their mean and deviation in the reference, without those constant there.

    Clipped at `FARTHEST` deviations, as held-out values of a regression are.
    """
    reference = reference.astype(np.float64)
    deviation = deviations(reference)
    varies = deviation > 0
    away = features[:, varies] - reference[:, varies].mean(axis=0)
    return np.clip(away / deviation[varies], -FARTHEST, FARTHEST)


def moved(
    changes: Float64[np.ndarray, "n d"], patients: Int[np.ndarray, " n"], count: int
) -> Float64[np.ndarray, " m"]:
    """‖m_i(r) - m_i(r₀)‖² of each patient, from the changes of its places; NaN without places.

    From a patient with one place nothing can be subtracted, so its square is too large.

    Args:
        changes: z_ip(r) - z_ip(r₀).
        count: m, of whom not all need to have places.
    """
    means, noise = _of_patients(changes, patients, count)
    return np.sum(means**2, axis=1) - np.where(np.isnan(noise), 0.0, noise)


def apart(
    features: Float64[np.ndarray, "n d"], patients: Int[np.ndarray, " n"], count: int
) -> Float64[np.ndarray, "m m"]:
    """‖m_i - m_j‖² of every two patients, NaN where one of them has no places.

    A patient with one place is taken to have the mean variance of the others.
    """
    means, noise = _of_patients(features, patients, count)
    n = np.bincount(patients, minlength=count)
    alone = np.nanmean(noise * n) if (n > 1).any() else np.nan
    noise = np.where(n == 1, alone, noise)
    squares = np.sum(means**2, axis=1)
    between = squares[:, None] + squares - 2 * means @ means.T
    return between - noise[:, None] - noise


def _of_patients(
    values: Float64[np.ndarray, "n d"], patients: Int[np.ndarray, " n"], count: int
) -> tuple[Float64[np.ndarray, "m d"], Float64[np.ndarray, " m"]]:
    """The mean of each patient and its noise v/k: NaN without places, and the noise with one."""
    n = np.bincount(patients, minlength=count).astype(np.float64)
    n[n == 0] = np.nan
    order = np.argsort(patients, kind="stable")
    starts = np.searchsorted(patients[order], np.arange(count))
    means, spread = np.full((count, values.shape[1]), np.nan), np.full(count, np.nan)
    for number in np.flatnonzero(np.isfinite(n)):
        own = values[order[starts[number] : starts[number] + int(n[number])]]
        means[number] = own.mean(axis=0)
        spread[number] = np.sum((own - means[number]) ** 2)
    return means, np.where(n > 1, spread / np.where(n > 1, n * (n - 1), np.nan), np.nan)


def squared_ratios(
    moved: Float64[np.ndarray, "m R"],
    apart: Float64[np.ndarray, "m m"],
    counts: Float64[np.ndarray, "b m"],
) -> Float64[np.ndarray, "b R"]:
    """M(r) / A with every patient counted so often; NaN where patients do not differ.

    A patient is never compared with a copy of itself, so that A of resampled patients is that of
    all, on average. Patients without places count in neither mean.
    """
    there = np.isfinite(moved)
    weights = counts @ there
    means = np.divide(
        counts @ np.where(there, moved, 0.0), weights, np.full(weights.shape, np.nan),
        where=weights > 0,
    )  # fmt: skip
    pairs = np.isfinite(apart) & ~np.eye(len(apart), dtype=bool)
    distances = np.where(pairs, apart, 0.0)
    total = np.einsum("bm,bm->b", counts @ distances, counts)
    number = np.einsum("bm,bm->b", counts @ pairs, counts)
    between = np.divide(total, number, np.full(len(counts), np.nan), where=number > 0)
    between = np.where(between > 0, between, np.nan)
    return means / between[:, None]


def plausible(squares: Float64[np.ndarray, "b R"]) -> Float64[np.ndarray, "_ R"]:
    """What the squared ratios may be for other patients: the draws, mirrored at the first row.

    On the scale  arsinh(q / LINEAR):  the spread of a ratio grows with it, but not of one near 0,
    which may be negative (docs/choices.md).
    """
    scaled = np.arcsinh(squares / LINEAR)
    return LINEAR * np.sinh(mirrored(scaled[0], scaled[1:], "difference"))


def reach(
    octaves: Float64[np.ndarray, " R"], ratios: Float64[np.ndarray, "b R"]
) -> Float64[np.ndarray, " b"]:
    """How many octaves from the reference the ratio first reaches 1, straight between resolutions.

    The ratio is 0 at the reference itself. Where 1 is never reached, the last of the octaves.

    Args:
        octaves: of the resolutions on one side of the reference, ascending and positive.
    """
    at, values = np.append(0.0, octaves), np.pad(ratios, ((0, 0), (1, 0)))
    found = np.full(len(values), at[-1])
    found[np.isnan(values).any(axis=1)] = np.nan
    for place in range(len(at) - 1, 0, -1):
        here, before = values[:, place], values[:, place - 1]
        crosses = (here >= 1) & (before < 1)
        step = np.divide(1 - before, here - before, np.zeros(len(here)), where=crosses)
        found = np.where(crosses, at[place - 1] + step * (at[place] - at[place - 1]), found)
    return found
