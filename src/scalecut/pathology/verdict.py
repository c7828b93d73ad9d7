"""Resolution predicted from features, and whether it agrees with what is claimed.

A ridge regression predicts the log2 of µm per pixel of each view from its features. A tile of which
m is claimed is shown at 2^o m for several octaves o, so each prediction minus o is one of the tile;
their mean is its predicted resolution. It comes from other patients only, and so do the errors that
it is compared with.

A tile with a wrong claim also teaches the regression and widens the errors of the others. So the
suspicious ones are removed, and all are predicted and judged again, once (docs/choices.md).

Shapes: t tiles, n views, d features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from ..analyses.rcv import ridge
from ..stats.conformal import half_width, is_discovery, rank_p_value, student_p_value
from ..stats.ridge import FARTHEST, decompose, deviations, left_group_out

FEWEST = 8  # other patients to calibrate with, for a verdict
Groups: TypeAlias = Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Features of the views of some tiles at one layer."""

    features: Float[np.ndarray, "n d"]
    tile: Int64[np.ndarray, " n"]
    octave: Float64[np.ndarray, " n"]

    def of(self, which: Bool[np.ndarray, " t"]) -> "Shown":
        """The views of some of the tiles."""
        rows = which[self.tile]
        return Shown(self.features[rows], self.tile[rows], self.octave[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """From features to log2 of µm per pixel, and its errors for held-out patients.

    Args:
        errors: predicted minus claimed, in octaves.
        groups: of the tiles with these errors.
        range_: of log2 µm per pixel that the averaged views of these tiles have.
    """

    weights: Float64[np.ndarray, " d"]
    mean: Float64[np.ndarray, " d"]
    deviation: Float64[np.ndarray, " d"]
    intercept: float
    errors: Float64[np.ndarray, " t"]
    groups: tuple[str, ...]
    range_: tuple[float, float]

    def predict(self, features: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
        """Log2 of µm per pixel of each view; features are clipped as in `stats.ridge`."""
        reach = FARTHEST * self.deviation
        centred = np.clip(features.astype(np.float64) - self.mean, -reach, reach)
        return centred @ self.weights + self.intercept


@dataclass(frozen=True, slots=True)
class Rule:
    """When a claim is suspicious.

    Args:
        averaged: octaves of the views that count in a prediction.
        level: coverage of intervals.
        rate: false discovery rate.
    """

    averaged: tuple[float, ...]
    level: float
    rate: float


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What is predicted of each tile, and how unusual its error is; NaN where nothing is known."""

    size: Float64[np.ndarray, " t"]  # log2 of µm per pixel
    half_width: Float64[np.ndarray, " t"]  # octaves; infinite with too few patients
    error: Float64[np.ndarray, " t"]  # octaves
    p_value: Float64[np.ndarray, " t"]
    rank_p_value: Float64[np.ndarray, " t"]
    adjusted: Float64[np.ndarray, " t"]  # p-values, by Benjamini and Hochberg
    is_suspicious: Bool[np.ndarray, " t"]


def audited(
    shown: Shown, claimed: Float64[np.ndarray, " t"], groups: Groups, rule: Rule
) -> tuple[Judged, Fit]:
    """Tiles judged by each other, patient by patient, and the fit to those that agree.

    Where these are too few to judge each other, the first verdicts stay.

    Args:
        claimed: log2 of µm per pixel; not a number without a claim.
    """
    is_known = np.isfinite(claimed)
    fit, judged = _crossed(shown, claimed, groups, is_known, rule)
    agree = is_known & ~judged.is_suspicious
    n_agree = len({g for g, a in zip(groups, agree, strict=True) if a})
    if judged.is_suspicious.any() and n_agree > FEWEST:  # each has as many others
        fit, judged = _crossed(shown, claimed, groups, agree, rule)
    return judged, fit


def compared(
    shown: Shown, claimed: Float64[np.ndarray, " t"], groups: Groups, fit: Fit, rule: Rule
) -> Judged:
    """Tiles judged by a fit to other tiles."""
    predicted = fit.predict(shown.features)
    size = sizes(predicted, shown, claimed, fit.range_, rule)
    return judge(size, claimed, groups, fit, rule)


def _crossed(
    shown: Shown,
    claimed: Float64[np.ndarray, " t"],
    groups: Groups,
    is_reference: Bool[np.ndarray, " t"],
    rule: Rule,
) -> tuple[Fit, Judged]:
    """The fit to the reference tiles, and all tiles judged by it, each by other patients only."""
    fit = fitted(shown, claimed, groups, is_reference, rule)
    size = sizes(fit.predict(shown.features), shown, claimed, fit.range_, rule)
    size[is_reference] = fit.errors + claimed[is_reference]
    in_reference = {group for group, is_in in zip(groups, is_reference, strict=True) if is_in}
    for number, group in enumerate(groups):
        if group in in_reference and not is_reference[number]:  # another tile of its patient is
            others = is_reference & (np.array(groups) != group)
            own = np.arange(len(groups)) == number
            without = fitted(shown, claimed, groups, others, rule)
            part = shown.of(own)
            predicted = without.predict(part.features)
            size[number] = sizes(predicted, part, claimed, without.range_, rule)[number]
    return fit, judge(size, claimed, groups, fit, rule)


def fitted(
    shown: Shown,
    claimed: Float64[np.ndarray, " t"],
    groups: Groups,
    is_reference: Bool[np.ndarray, " t"],
    rule: Rule,
) -> Fit:
    """The regression on the views of the reference tiles, and its errors for held-out patients."""
    part = shown.of(is_reference)
    features = part.features.astype(np.float64)
    target = claimed[part.tile] + part.octave
    patients = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    weights, _ = ridge(features, target, patients[part.tile], features[:0])
    left_out = left_group_out(decompose(features, features[:0]), target, patients[part.tile])
    own = claimed[is_reference]
    range_ = (own.min() + rule.averaged[0], own.max() + rule.averaged[-1])
    errors = sizes(left_out, part, claimed, range_, rule)[is_reference] - own
    return Fit(
        weights,
        features.mean(axis=0),
        deviations(features),
        float(target.mean()),
        errors,
        tuple(group for group, is_in in zip(groups, is_reference, strict=True) if is_in),
        (float(range_[0]), float(range_[1])),
    )


def sizes(
    predicted: Float64[np.ndarray, " n"],
    shown: Shown,
    claimed: Float64[np.ndarray, " t"],
    range_: tuple[float, float],
    rule: Rule,
) -> Float64[np.ndarray, " t"]:
    """Log2 of µm per pixel of each tile: means over patches, then over octaves.

    Without a claim, views whose prediction is beyond the range of the reference do not count; if
    all are, the one that is nearest to it does.
    """
    found = np.full(len(claimed), np.nan)
    for number in np.unique(shown.tile):
        is_own = shown.tile == number
        octaves = [o for o in rule.averaged if (is_own & (shown.octave == o)).any()]
        means = np.array([predicted[is_own & (shown.octave == o)].mean() for o in octaves])
        beyond = np.maximum(range_[0] - means, means - range_[1])
        kept = (beyond <= max(0.0, beyond.min())) | np.isfinite(claimed[number])
        found[number] = (means - np.array(octaves))[kept].mean()
    return found


def judge(
    size: Float64[np.ndarray, " t"],
    claimed: Float64[np.ndarray, " t"],
    groups: Groups,
    fit: Fit,
    rule: Rule,
) -> Judged:
    """How unusual the error of each tile is among those of the reference tiles of other patients.

    With fewer than `FEWEST` other patients no p-value is given.
    """
    error = size - claimed
    names = np.array(fit.groups)
    patients = np.unique(names, return_inverse=True)[1].astype(np.int64)
    width, p_value, by_rank = np.full((3, len(size)), np.nan)
    for number, group in enumerate(groups):
        is_other = names != group
        others = fit.errors[is_other], patients[is_other]
        width[number] = half_width(*others, rule.level)
        if np.isfinite(error[number]) and len(set(others[1].tolist())) >= FEWEST:
            p_value[number] = student_p_value(error[number], *others)
            by_rank[number] = rank_p_value(error[number], *others)
    is_suspicious, adjusted = is_discovery(p_value, rule.rate)
    return Judged(size, width, error, p_value, by_rank, adjusted, is_suspicious)
