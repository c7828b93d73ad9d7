"""How unusual one value is among those of other groups: intervals and p-values.

An error of a prediction is compared with the errors for other groups (patients), whose predictions
do not depend on it. Groups count the same, whatever their number of values (`dunn2023` in
docs/references.bib); with one value per group this is split conformal prediction (`lei2018`).

Shapes: n values of others, m values in question.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import stats

EFFICIENCY = 0.8227  # of the robust scale, relative to the standard deviation
MOST_PAIRED = 1000


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

    t = (e - c) / (s √(1 + π / 2G))  with 0.82 (G - 1) degrees of freedom, where c is the median of
    the others and s their robust scale. Both are less certain than mean and standard deviation: the
    variance of the median is π/2 that of the mean, the efficiency of s is 0.82. Unlike the rank, it
    has no lower bound, but assumes that errors are about normal.
    """
    n_groups = len(set(groups.tolist()))
    if n_groups < 2:
        return float("nan")
    centre, spread = robust(errors, groups)
    distance = abs(error - centre)
    if spread == 0:
        return 1.0 if distance == 0 else 0.0
    t = distance / (spread * np.sqrt(1 + np.pi / 2 / n_groups))
    return float(2 * stats.t.sf(t, EFFICIENCY * (n_groups - 1)))


def robust(errors: Float64[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Median, and Qn (`rousseeuw1993`), which estimates the standard deviation of most of them.

    Qn is about the lower quartile of the differences of all pairs: the k-th smallest, with
    k = h (h - 1) / 2  and  h = n // 2 + 1,  times 2.2219 and a correction for small n. Half of the
    errors may be wrong; its efficiency is 0.82, that of the median absolute deviation 0.37.

    Groups count the same: both are those of n evenly spaced quantiles of the weighted errors, where
    n = (Σw)² / Σw², at most `MOST_PAIRED`. Of groups of the same size these are the errors.
    """
    weights = _weights(groups)
    n = min(MOST_PAIRED, round(weights.sum() ** 2 / (weights**2).sum()))
    errors, half = _quantiles(errors, weights, n), n // 2 + 1
    first, second = np.triu_indices(n, 1)
    apart = np.abs(errors[first] - errors[second])
    if not apart.size:
        return float(np.median(errors)), 0.0
    k = half * (half - 1) // 2
    correction = n / (n + 1.4) if n % 2 else n / (n + 3.8)
    spread = 2.2219 * correction * float(np.partition(apart, k - 1)[k - 1])
    return float(np.median(errors)), spread


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


def _quantiles(
    errors: Float64[np.ndarray, " n"], weights: Float64[np.ndarray, " n"], count: int
) -> Float64[np.ndarray, " k"]:
    """Evenly spaced quantiles of weighted values, straight between the middles of their weights."""
    order = np.argsort(errors, kind="stable")
    middles = np.cumsum(weights[order]) - weights[order] / 2
    return np.interp(np.linspace(middles[0], middles[-1], count), middles, errors[order])


def _weights(groups: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """1 / (G + 1) for each group, divided among its values."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / (len(counts) + 1) / counts[group]
