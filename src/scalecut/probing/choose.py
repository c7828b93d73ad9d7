"""The layer at which a network is cut: a pure function of its curve."""

from dataclasses import dataclass

from ..data.images import MEAN
from ..errors import DataError, LayerError
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from .curve import Curve

RULES = ("cheapest", "peak")
MUCH = 0.05  # R² that an earlier layer may be below the peak without a word of caution


@dataclass(frozen=True, slots=True)
class Choice:
    """A layer, and why it was chosen.

    Args:
        layer: name of the probe point.
        rule: `cheapest` or `peak`.
        subset: whose curve it was chosen by; `mean` for their mean.
        reason: in a sentence.
        r2, r2_low, r2_high: of the layer, with its 95 % interval.
        peak: the layer of the highest R²; peak_r2 is that R².
        macs, peak_macs: multiply-accumulates for one image up to the layer and up to the peak.
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


def choose(curve: Curve, rule: str = "cheapest", subset: str = MEAN) -> Choice:
    """The layer to cut at.

    Args:
        rule: `peak`, the layer of the highest R² (`graziani2021`); `cheapest`, the earliest layer
            that is not shown to be worse than the peak, by the peak's 95 % confidence set.

    Raises:
        DataError: if the curve shows no layer that carries scale, or there is no such rule or
            subset.
        LayerError: if the layer is the last one, so that there is nothing to cut off.
    """
    if rule not in RULES:
        raise DataError(f"No rule is named {rule!r}. Give {' or '.join(RULES)}, or --at LAYER.")
    found = curve.evidence(subset)
    if not found.is_shown:
        raise DataError(
            "The curve shows no layer that carries the object's scale, so it chooses none. Probe "
            "with more images, or give --at LAYER."
        )
    table = curve.scores(subset=subset, regressor=curve.regressor).set_index("layer")
    points = {point.layer: point for point in curve.points}
    layer = found.peak
    if rule == "cheapest":
        layer = min(found.confidence_set, key=lambda name: table.depth[name])
    if layer in (LOGITS, SOFTMAX):
        raise LayerError(
            f"The {rule} layer is {points[layer].label}, the end of the network, so nothing can be "
            "cut off. Use the network whole, or give --at LAYER."
        )
    row, here, peak = table.loc[layer], points[layer], points[found.peak]
    reason = _reason(here, peak, rule, len(found.confidence_set))
    return Choice(
        layer=layer,
        rule=rule,
        subset=subset,
        reason=f"{'' if subset == MEAN else f'For {subset}, '}{reason}: R² {row.r2:.2f} "
        f"[{row.r2_low:.2f}, {row.r2_high:.2f}]{_costs(here, peak, found.r2)}."
        + _caution(found.r2 - row.r2, found.n_fit),
        r2=float(row.r2),
        r2_low=float(row.r2_low),
        r2_high=float(row.r2_high),
        peak=found.peak,
        peak_r2=found.r2,
        macs=here.macs,
        peak_macs=peak.macs,
    )


def _reason(here: ProbePoint, peak: ProbePoint, rule: str, n_equal: int) -> str:
    if rule == "peak":
        return f"{here.label} is the peak of the curve"
    if here is peak:
        return (
            f"{here.label} is the peak of the curve, and every earlier layer is shown to be worse"
        )
    return (
        f"{here.label} is the earliest of {n_equal} layers that are not shown to be worse than the "
        f"peak {peak.label}"
    )


def _costs(here: ProbePoint, peak: ProbePoint, peak_r2: float) -> str:
    """What is given away against the peak, and for what."""
    if here is peak:
        return ""
    share = f"{100 * here.macs / peak.macs:.0f} % of its multiply-accumulates"
    return f", {peak_r2:.2f} at the peak, for {share}"


def _caution(loss: float, n_fit: int) -> str:
    """What to think of a layer that is far below the peak, but not shown to be."""
    if loss <= MUCH:
        return ""
    return (
        f" Caution: it is {loss:.2f} below the peak, which {n_fit} images to fit are too few to "
        "tell from chance; probe with more images, or take --rule peak."
    )
