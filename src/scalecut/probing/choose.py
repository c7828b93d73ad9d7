"""The layer at which a network is cut: a pure function of its curve."""

from dataclasses import dataclass

import numpy as np

from ..data.images import MEAN
from ..errors import DataError, LayerError
from ..figures.text import METRICS, number, with_interval
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..stats.inference import Scale, mirrored, no_interval, of_difference
from .curve import SIZES, Curve

RULES = ("cheapest", "peak")
LARGE_LOSS = 0.05  # score below the peak from which a caution is added


@dataclass(frozen=True, slots=True)
class Choice:
    """A layer, and why it was chosen.

    Args:
        layer: name of the probe point.
        rule: `cheapest` or `peak`; `within` if a loss was given.
        subset: the subset whose curve was used; `mean` for the mean over subsets.
        reason: in one sentence.
        r2, r2_low, r2_high: R² of the layer with its 95 % interval; NaN for classes.
        peak: the layer of the highest score; peak_r2 is its R².
        macs, peak_macs: multiply-accumulates for one image up to the layer and up to the peak.
        target, metric: what the curve is of, and what it scores.
        score, peak_score: of the layer and of the peak.
        within: the largest loss that was allowed; NaN if none was given.
        loss, loss_low, loss_high: score of the peak minus that of the layer, with its 95 %
            interval, paired by image (`stats.inference.of_difference`).
    """

    layer: str
    rule: str
    subset: str
    reason: str
    r2: float
    r2_low: float
    r2_high: float
    peak: str
    peak_r2: float
    macs: int
    peak_macs: int
    target: str
    metric: str
    score: float
    peak_score: float
    within: float = np.nan
    loss: float = np.nan
    loss_low: float = np.nan
    loss_high: float = np.nan


def choose_layer(
    curve: Curve,
    rule: str = "cheapest",
    subset: str = MEAN,
    target: str = "",
    within: float | None = None,
) -> Choice:
    """Choose the layer to cut at from a curve.

    Args:
        curve: of a probe.
        rule: `peak`, the layer of the highest score (`graziani2021`); `cheapest`, the earliest
            layer that is not shown to be worse than the peak, by the peak's 95 % confidence set.
        subset: the subset whose curve is used; the mean over subsets by default.
        target: whose curve is used; may be omitted where there is only one.
        within: with `cheapest`, the largest loss of the score that is allowed: of all layers that
            are at most so far below the peak, the one with the fewest multiply-accumulates; the
            earliest where these are unknown.

    Returns:
        The layer, its R² and cost, and the reason.

    Raises:
        DataError: if no layer is shown to encode the target, or the rule, subset or target is
            unknown, or several targets are there and none is chosen.
        LayerError: if the layer is the last one, so that nothing can be cut off.
    """
    if rule not in RULES:
        raise DataError(f"No rule is named {rule!r}. Give {' or '.join(RULES)}, or --at LAYER.")
    if within is not None and (rule != "cheapest" or not within >= 0):
        given = f"the rule {rule}" if rule != "cheapest" else f"{within:g}"
        raise DataError(
            f"--within is the loss that the rule cheapest allows, at least 0, got {given}. Give "
            "such as --within 0.02, without --rule peak."
        )
    curve = curve.of(target) if target else curve
    found, measure = curve.evidence(subset), curve.targets[0]
    if not found.is_shown:
        what = "the object's scale" if measure in SIZES else repr(measure)
        raise DataError(
            f"No layer of this curve is shown to encode {what}, so none can be chosen. "
            "Probe with more images, or give --at LAYER."
        )
    table = curve.scores(subset=subset, regressor=curve.regressor).set_index("layer")
    points = {point.layer: point for point in curve.points}
    layer = found.peak
    if within is not None:
        layer = _cheapest_within(curve, subset, within)
    elif rule == "cheapest":
        layer = min(found.confidence_set, key=lambda name: table.depth[name])
    if layer in (LOGITS, SOFTMAX):
        raise LayerError(
            f"The {rule} layer is {points[layer].label}, the end of the network, so nothing can be "
            "cut off. Use the whole network, or give --at LAYER."
        )
    row, chosen, peak = table.loc[layer], points[layer], points[found.peak]
    draws = {name: each.astype(np.float64) for name, each in curve.draws_of_layers(subset).items()}
    loss = found.score - float(row.score)
    n_groups = curve.n_groups(subset)
    above, below = (
        mirrored(score, draws[name], curve.scale, n_groups)
        for name, score in ((found.peak, found.score), (layer, float(row.score)))
    )
    low, high, _ = of_difference(loss, above - below, n_groups, scale=curve.scale)
    if within is None:
        reason = _reason(chosen, peak, rule, len(found.confidence_set))
        caution = _caution(loss, found.n_fit)
    else:
        reason = _reason_within(chosen, peak, within)
        caution = "" if chosen is peak else _loss_in_words(loss, low, high, within, curve.scale)
    return Choice(
        layer=layer,
        rule=rule if within is None else "within",
        subset=subset,
        reason=f"{'' if subset == MEAN else f'For {subset}, '}{reason}: {METRICS[found.metric]} "
        f"{with_interval(row.score, row.score_low, row.score_high)}"
        f"{_costs(chosen, peak, found.score)}." + caution,
        r2=float(row.r2),
        r2_low=float(row.r2_low),
        r2_high=float(row.r2_high),
        peak=found.peak,
        peak_r2=found.r2,
        macs=chosen.macs,
        peak_macs=peak.macs,
        target=measure,
        metric=found.metric,
        score=float(row.score),
        peak_score=found.score,
        within=np.nan if within is None else float(within),
        loss=loss,
        loss_low=low,
        loss_high=high,
    )


def _cheapest_within(curve: Curve, subset: str, within: float) -> str:
    """Of the layers at most so far below the peak, the one of the lowest cost."""
    rows = curve.differences(subset)
    # differences of equal decimals differ in their last digits
    near = set(rows.layer[rows.below_peak <= within + 1e-12])
    points = [point for point in curve.points if point.layer in near]
    is_known = all(point.macs for point in points)
    return min(points, key=lambda point: (point.macs if is_known else 0, point.depth)).layer


def _reason_within(chosen: ProbePoint, peak: ProbePoint, within: float) -> str:
    least = "cheapest" if chosen.macs else "earliest"
    if chosen is peak:
        cheaper = "cheaper" if chosen.macs else "earlier"
        return (
            f"{chosen.label} is the peak of the curve, and no {cheaper} layer is within "
            f"{within:g} of it"
        )
    return f"{chosen.label} is the {least} layer within {within:g} of the peak {peak.label}"


def _loss_in_words(loss: float, low: float, high: float, within: float, scale: Scale) -> str:
    """The loss with its interval, and whether it is shown to be as small as was asked for."""
    if np.isnan(high):
        return (
            f" The loss is {loss:.3f}, which is not shown to be at most {within:g}; "
            f"{no_interval(scale)}."
        )
    is_shown = "is" if high <= within else "is not"
    return (
        f" The loss is {loss:.3f} [{low:.3f}, {high:.3f}], which {is_shown} shown to be at most "
        f"{within:g}."
    )


def _reason(chosen: ProbePoint, peak: ProbePoint, rule: str, n_equal: int) -> str:
    if rule == "peak":
        return f"{chosen.label} is the peak of the curve"
    if chosen is peak:
        return (
            f"{chosen.label} is the peak of the curve, and every earlier layer is shown to be worse"
        )
    return (
        f"{chosen.label} is the earliest of {n_equal} layers that are not shown to be worse than "
        f"the peak {peak.label}"
    )


def _costs(chosen: ProbePoint, peak: ProbePoint, peak_score: float) -> str:
    """The score of the peak, and the share of its cost that is needed."""
    if chosen is peak:
        return ""
    if not peak.macs:
        return f", {number(peak_score)} at the peak"
    share = f"{100 * chosen.macs / peak.macs:.0f} % of the multiply-accumulates up to the peak"
    return f", {number(peak_score)} at the peak, with {share}"


def _caution(loss: float, n_fit: int) -> str:
    """A warning where the layer is far below the peak, but not shown to be."""
    if loss <= LARGE_LOSS:
        return ""
    return (
        f" Caution: it is {number(loss)} below the peak, and {n_fit} training images are too few "
        "to show whether this difference is real. Probe with more images, or use --rule peak."
    )
