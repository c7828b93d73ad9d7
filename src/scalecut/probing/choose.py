"""The layer at which a network is cut: a pure function of its curve."""

from dataclasses import dataclass

from ..data.images import MEAN
from ..errors import DataError, LayerError
from ..figures.text import METRICS, number, with_interval
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from .curve import SIZES, Curve

RULES = ("cheapest", "peak")
LARGE_LOSS = 0.05  # score below the peak from which a caution is added


@dataclass(frozen=True, slots=True)
class Choice:
    """A layer, and why it was chosen.

    Args:
        layer: name of the probe point.
        rule: `cheapest` or `peak`.
        subset: the subset whose curve was used; `mean` for the mean over subsets.
        reason: in one sentence.
        r2, r2_low, r2_high: R² of the layer with its 95 % interval; NaN for classes.
        peak: the layer of the highest score; peak_r2 is its R².
        macs, peak_macs: multiply-accumulates for one image up to the layer and up to the peak.
        target, metric: what the curve is of, and what it scores.
        score, peak_score: of the layer and of the peak.
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


def choose_layer(
    curve: Curve, rule: str = "cheapest", subset: str = MEAN, target: str = ""
) -> Choice:
    """Choose the layer to cut at from a curve.

    Args:
        curve: of a probe.
        rule: `peak`, the layer of the highest score (`graziani2021`); `cheapest`, the earliest
            layer that is not shown to be worse than the peak, by the peak's 95 % confidence set.
        subset: the subset whose curve is used; the mean over subsets by default.
        target: whose curve is used; may be omitted where there is only one.

    Returns:
        The layer, its R² and cost, and the reason.

    Raises:
        DataError: if no layer is shown to encode the target, or the rule, subset or target is
            unknown, or several targets are there and none is chosen.
        LayerError: if the layer is the last one, so that nothing can be cut off.
    """
    if rule not in RULES:
        raise DataError(f"No rule is named {rule!r}. Give {' or '.join(RULES)}, or --at LAYER.")
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
    if rule == "cheapest":
        layer = min(found.confidence_set, key=lambda name: table.depth[name])
    if layer in (LOGITS, SOFTMAX):
        raise LayerError(
            f"The {rule} layer is {points[layer].label}, the end of the network, so nothing can be "
            "cut off. Use the whole network, or give --at LAYER."
        )
    row, chosen, peak = table.loc[layer], points[layer], points[found.peak]
    reason = _reason(chosen, peak, rule, len(found.confidence_set))
    return Choice(
        layer=layer,
        rule=rule,
        subset=subset,
        reason=f"{'' if subset == MEAN else f'For {subset}, '}{reason}: {METRICS[found.metric]} "
        f"{with_interval(row.score, row.score_low, row.score_high)}"
        f"{_costs(chosen, peak, found.score)}." + _caution(found.score - row.score, found.n_fit),
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
    share = f"{100 * chosen.macs / peak.macs:.0f} % of its multiply-accumulates"
    return f", {number(peak_score)} at the peak, for {share}"


def _caution(loss: float, n_fit: int) -> str:
    """A warning where the layer is far below the peak, but not shown to be."""
    if loss <= LARGE_LOSS:
        return ""
    return (
        f" Caution: it is {number(loss)} below the peak, and {n_fit} training images are too few "
        "to show whether this difference is real. Probe with more images, or use --rule peak."
    )
