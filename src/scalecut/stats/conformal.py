"""How unusual one value is among those of other groups: intervals and p-values.

An error of a prediction is compared with the errors for other groups (patients), whose predictions
do not depend on it. Groups count the same, whatever their number of values (`dunn2023` in
docs/references.bib); with one value per group this is split conformal prediction (`lei2018`).

Shapes: n values of others, m values in question.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import stats

MAD_TO_SD = float(stats.norm.ppf(0.75)) ** -1  # of a normal distribution, about 1.4826


def half_width(
    errors: Float64[np.ndarray, " n"], groups: Int[np.ndarray, " n"], level: float
) -> float:
    """The h for which  prediction ± h  covers the value of a new group with probability `level`.

    The smallest h with  Σ w 1(|e| ≤ h) ≥ level,  each of the G groups with the weight w of
    1 / (G + 1), divided among its values. With one value per group this is the k-th smallest |e|,
    k = ⌈(n + 1) level⌉. It is infinite with fewer than level / (1 - level) groups.
    """
    size = np.abs(errors)
    order = np.argsort(size, kind="stable")
    covered = np.cumsum(_weights(groups)[order])
    enough = np.flatnonzero(covered >= level - 1e-12)
    return float(size[order][enough[0]]) if enough.size else float("inf")


def rank_p_value(
    error: float, errors: Float64[np.ndarray, " n"], groups: Int[np.ndarray, " n"]
) -> float:
    """The conformal p-value  1/(G + 1) + Σ w 1(|e| ≥ |error|),  never below 1 / (G + 1)."""
    weights = _weights(groups)
    alike = np.abs(errors) >= abs(error)
    return float(min(1.0, 1 / (len(set(groups.tolist())) + 1) + weights[alike].sum()))


def student_p_value(
    error: float, errors: Float64[np.ndarray, " n"], groups: Int[np.ndarray, " n"]
) -> float:
    """Two-sided p-value by Student's t of an error among those of other groups.

    t = (e - c) / (s √(1 + 1/G)) with G - 1 degrees of freedom, where c is the median of the others
    and s their median absolute deviation from it, scaled to the standard deviation of a normal
    distribution. Unlike the rank, it has no lower bound, but assumes that errors are about normal.
    """
    n_groups = len(set(groups.tolist()))
    if n_groups < 2:
        return float("nan")
    centre, spread = robust(errors)
    distance = abs(error - centre)
    if spread == 0:
        return 1.0 if distance == 0 else 0.0
    t = distance / (spread * np.sqrt(1 + 1 / n_groups))
    return float(2 * stats.t.sf(t, n_groups - 1))


def robust(errors: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Median, and median absolute deviation scaled to a standard deviation."""
    centre = float(np.median(errors))
    return centre, MAD_TO_SD * float(np.median(np.abs(errors - centre)))


def is_discovery(
    p_values: Float64[np.ndarray, " m"], rate: float
) -> tuple[Bool[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Which p-values pass at a false discovery rate, and all of them adjusted.

    By Benjamini and Hochberg (`benjamini1995`); NaN stays NaN and is no discovery.
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.isfinite(p_values)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p_values[known])
    return adjusted <= rate, adjusted


def _weights(groups: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """1 / (G + 1) for each group, divided among its values."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / (len(counts) + 1) / counts[group]
