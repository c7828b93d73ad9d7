"""The claims of the paper (`graziani2021`), each with the rule that judges it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from ..figures.text import p_value
from ..networks.points import LOGITS, SOFTMAX
from ..pathology.methods import PAPER_SEEDS
from ..probing.curve import ALPHA, Curve
from . import published
from .numbers import (
    AREAS,
    CUT,
    INCEPTION,
    INCOMPARABLE,
    MAGNIFICATIONS,
    MATCHED,
    MISPRINT,
    NETWORKS,
    NOISE,
    NOT_REPRODUCED,
    REPRODUCED,
    RESNET,
    RESNET_COMPLETE,
    SIZES,
    WITH_MATCHED_BLUR,
    Found,
    ends_where_cut,
    misprints,
    name_of,
    step_of,
)

COLUMNS = ("claim", "where", "network", "found", "mark")
AS_PRINTED, NOT_AS_PRINTED = "holds as printed", "not shown as printed"  # from its own numbers
EARLY = {
    INCEPTION: ("mixed0", "mixed1", "mixed2"),
    **dict.fromkeys((RESNET, RESNET_COMPLETE), ("add_1", "add_2", "add_3")),
}
IMAGE_SIZE = "image-size"
BY_CHANCE = 0.05  # R² of shuffled targets that no layer may reach

Judged: TypeAlias = tuple[str, str]  # what was found, and a mark of `numbers`


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the paper, and the rule that judges it."""

    text: str  # the claim, in plain words
    where: str  # in the paper
    # from what the steps left and a network to what was found and a mark; None where the claim
    # does not concern the network, or its step was not run
    judge: Callable[[Found, str], Judged | None]
    networks: Sequence[str] = NETWORKS  # that it is judged for


def claims(found: Found) -> pd.DataFrame:
    """The columns of COLUMNS, in the order of the paper."""
    rows = [
        (claim.text, claim.where, network, *judged)
        for claim in _claims()
        for network in claim.networks
        if network in ("", *found.networks) and (judged := claim.judge(found, network)) is not None
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _claims() -> Iterator[Claim]:
    """Every claim of the paper that is judged."""
    for text, judge in (
        ("Features of a network trained on ImageNet encode the scale of an object", _is_encoded),
        ("Training makes the difference: random weights do not encode it", _is_learned),
        ("Random measures cannot be regressed", _is_not_by_chance),
        ("The encoded share grows with depth, up to mixed8 and add_15", _grows),
        ("It drops after that layer: the network becomes invariant to scale", _drops),
    ):
        yield Claim(text, "4.3", _of_curve(judge))
    yield Claim(
        "Early layers do not encode scale: R² is far below 0",
        "4.3, A.2",
        _of_curve(_judged_early),
        tuple(EARLY),
    )
    printed = published.curve(INCEPTION).set_index("layer").pretrained[SOFTMAX]
    text = f"The softmax encodes less than nothing (R² {printed:.0f})".replace("-", "−")
    yield Claim(text, "A.2", _of_curve(_judged_softmax))
    for text, where, kind, said in (
        (
            "Predictions change when the image is resized; image size is not object scale",
            "4.1",
            SIZES,
            _predictions_kept,
        ),
        ("Image size can be predicted from noise, without content", "4.2", NOISE, _from_noise),
    ):
        yield Claim(text, where, _of_protocol(kind, said))
    text = "A network can be cut where scale is encoded best, and is smaller then"
    yield Claim(text, "3.4", _judged_cut)
    for text, kind, metric in (
        ("Cut, the network measures nuclei with a smaller error", AREAS, "mae"),
        ("Cut, it classifies magnification better (kappa, from areas)", AREAS, "kappa"),
        ("Cut, it classifies magnification better (kappa, directly)", MAGNIFICATIONS, "kappa"),
    ):
        # network by network, as it is and with matched blur
        for network in NETWORKS:
            yield Claim(text, "4.4", _of_transfer(kind, metric, ""), (network,))
        for network in NETWORKS:
            judge = _of_transfer(kind, metric, MATCHED)
            yield Claim(text + WITH_MATCHED_BLUR, "4.4", judge, (network,))
    for network in (INCEPTION, RESNET):
        for metric, what in (("mae", "lower error"), ("kappa", "higher kappa")):
            for other in ("pretrained", "scratch"):
                text = f"Cut, it has a {what} than {other}"
                yield Claim(text, "Table 2", _of_printed(metric, other), (network,))
    for wrong in misprints():
        text = f"There are {wrong.printed:,} patches at {wrong.column} in the {wrong.row} part"
        said = f"the row adds up to its total with {wrong.right:,}"
        yield Claim(text, "Table 1", lambda *_, said=said: (said, MISPRINT), ("",))


# --- curves --------------------------------------------------------------------------------------


def _of_curve(judge: Callable[[Curve, str], Judged]) -> Callable[[Found, str], Judged]:
    """The judge of a curve where there is one, else the reason why there is none."""

    def judged(found: Found, network: str) -> Judged:
        curve = _curve(found, network)
        return judge(curve, network) if curve else (_why_none(found, network), INCOMPARABLE)

    return judged


def _is_encoded(curve: Curve, network: str) -> tuple[str, str]:
    best = curve.evidence()
    said = f"R² {_interval(best.r2, best.r2_low, best.r2_high)} at {_name(curve, best.peak)}"
    if math.isfinite(best.p_value):
        own = curve.scores()
        said += f"; p ≤ {ALPHA:g} at {(own.p_value <= ALPHA).sum()} of {len(own)} layers"
    return said, _mark(best.is_shown)


def _is_learned(curve: Curve, network: str) -> tuple[str, str]:
    best = curve.evidence()
    of_random = curve.scores(weights="random").set_index("layer").r2
    if not math.isfinite(best.learned) or best.peak not in of_random:
        return "no randomly initialised control was run", INCOMPARABLE
    more = _interval(best.learned, best.learned_low, best.learned_high)
    said = (
        f"{more} above random weights and pixels at {_name(curve, best.peak)}; "
        f"random weights have {_two(of_random[best.peak])} there, and at most "
        f"{_two(of_random.max())}"
    )
    return said, _mark_of(best.learned_low)


def _is_not_by_chance(curve: Curve, network: str) -> tuple[str, str]:
    shuffled = curve.scores(target="shuffled").r2
    if shuffled.empty:
        return "the target was not shuffled", INCOMPARABLE
    said = f"R² {_two(shuffled.min())} to {_two(shuffled.max())} over {len(shuffled)} layers"
    return said, _mark(float(shuffled.max()) < BY_CHANCE)


def _grows(curve: Curve, network: str) -> tuple[str, str]:
    """Whether depth and R² go together up to the peak, and the peak is the paper's."""
    rows = curve.scores()
    rows = rows.loc[rows.layer != SOFTMAX]
    best = curve.evidence()
    upto = rows.loc[rows.depth <= rows.depth[rows.layer == best.peak].iloc[0]]
    peak = _name(curve, best.peak)
    rho = upto.depth.corr(upto.r2, method="spearman") if len(upto) > 2 else math.nan
    said = (
        f"rank correlation of depth and R² {_two(rho)} up to {peak}, the best of {len(rows)} layers"
        if math.isfinite(rho)
        else f"the best layer is {peak}, among the first"
    )
    if network not in published.NETWORKS:
        return f"{said}; not a network of the paper", INCOMPARABLE
    theirs = published.peak(network)[0]
    near = [_name(curve, layer) for layer in best.confidence_set]
    names = [_name(curve, layer) for layer in rows.layer]
    if theirs not in names:
        return f"{said}; {theirs} was not available", INCOMPARABLE
    if best.peak == best.last and best.last != LOGITS:
        return f"{said}; no layer after {theirs} was available", INCOMPARABLE
    inside = "in" if theirs in near else "not in"
    return f"{said}; {theirs} is {inside} the 95 % set of the peak", _mark(
        rho > 0 and theirs in near
    )


def _drops(curve: Curve, network: str) -> tuple[str, str]:
    best = curve.evidence()
    if best.last != LOGITS:
        last = _name(curve, best.last)
        return f"the last available layer is {last}", INCOMPARABLE
    if best.fall_after is None or best.fall is None:
        return f"no drop is shown ({p_value(best.fall_p_value)})", NOT_REPRODUCED
    low, high = (math.nan if end is None else end for end in (best.fall_low, best.fall_high))
    return (
        f"drops by {_interval(best.fall, low, high)} after {_name(curve, best.fall_after)}; "
        f"the logits have {_two(best.last_r2)}, {_two(best.last_loss)} below the peak",
        _mark_of(low),
    )


def _judged_early(curve: Curve, network: str) -> Judged:
    """The interpolation artefact: least squares with as many training images as channels."""
    layers = EARLY[network]
    ols, ridge = (_by_name(curve, each, layers) for each in ("ols", "ridge"))
    if ols.empty or ridge.empty:
        return f"{layers[0]} to {layers[-1]} lack least squares or ridge", INCOMPARABLE
    is_encoded = ridge.r2_low > 0
    if not ((ols.r2 < 0).all() and is_encoded.all()):
        said = f"least squares {_range(ols.r2)}, ridge {_range(ridge.r2)}"
        is_known = bool(ridge.r2_low.notna().all()) or bool(is_encoded.any())
        return said, _mark(not is_encoded.any()) if is_known else INCOMPARABLE
    return (
        f"least squares has {_range(ols.r2)} at {ols.index[0]} to {ols.index[-1]}, below 0 as "
        f"printed; ridge, on the same features, {_range(ridge.r2)}. With {ridge.n_fit.iloc[0]:,} "
        f"training images and {_span(ridge.n_features)} channels least squares interpolates noise: "
        "the collapse is an artefact of the method",
        NOT_REPRODUCED,
    )


def _judged_softmax(curve: Curve, network: str) -> Judged:
    of_ols, of_ridge = (_by_name(curve, each, (SOFTMAX,)) for each in ("ols", "ridge"))
    if of_ols.empty or of_ridge.empty:
        return "the softmax was not available", INCOMPARABLE
    ols, ridge = of_ols.iloc[0], of_ridge.iloc[0]
    said = f"least squares {_two(ols.r2)}; ridge {_interval(ridge.r2, ridge.r2_low, ridge.r2_high)}"
    if ridge.r2_low > 0 > ols.r2:
        said += (
            ", so the size of the number comes from the method: probabilities near 0 make least "
            "squares ill-conditioned"
        )
    return said, _mark(ridge.r2_high < 0) if math.isfinite(ridge.r2_high) else INCOMPARABLE


# --- image size ----------------------------------------------------------------------------------


def _of_protocol(
    kind: str, judge: Callable[[pd.DataFrame], Judged]
) -> Callable[[Found, str], Judged | None]:
    """The judge of what our own protocol found; the paper's is not recoverable."""

    def judged(found: Found, network: str) -> Judged | None:
        step = step_of(kind, network)
        if step in found.tables:
            said, mark = judge(found.tables[step])
            return f"{said}; our protocol, as theirs is not recoverable", mark
        return (found.lacking[step], INCOMPARABLE) if step in found.lacking else None

    return judged


def _predictions_kept(table: pd.DataFrame) -> Judged:
    """Whether some predictions change where the whole image is resized."""
    rows = table.loc[table.quantity == "agreement"].set_index(["change", "octaves"])
    said = [
        f"{_percent(rows.loc[(change, at)])} of the predictions stay where {what} has {size}"
        for change, what in (("image-size", "the image"), ("object-scale", "the object"))
        for at, size in ((-1.0, "half the side"), (1.0, "double the side"))
        if (change, at) in rows.index
    ]
    ends = [rows.high[IMAGE_SIZE, at] for at in (-1.0, 1.0) if (IMAGE_SIZE, at) in rows.index]
    known = [end for end in ends if math.isfinite(end)]
    mark = _mark(min(known) < 1) if known else INCOMPARABLE
    return "; ".join(said) or "the logits were not available", mark


def _percent(row: pd.Series) -> str:
    value, low, high = (f"{100 * row[name]:.0f}" for name in ("value", "low", "high"))
    between = "(no interval)" if math.isnan(row.low) else f"[{low}, {high}]"
    return f"{value} % {between}"


def _from_noise(table: pd.DataFrame) -> Judged:
    """Whether some layer encodes the image size, with each padding that the network has."""
    best = table.sort_values("r2").groupby("padding").tail(1).set_index("padding")
    said = "; ".join(
        f"R² {_interval(row.r2, row.r2_low, row.r2_high)} from {row.noise} noise with {padding} as "
        f"padding, at {row.alias or row.layer}"
        for padding, row in best.iterrows()
    )
    return said, _mark(bool((best.r2_low > 0).all()))


# --- cut and transfer ----------------------------------------------------------------------------


def _judged_cut(found: Found, network: str) -> Judged:
    step = step_of(CUT, network)
    if step not in found.cuts:
        return found.lacking.get(step, "not cut"), INCOMPARABLE
    facts = found.cuts[step]
    cut, whole = facts["proof"]["cut"], facts["proof"]["whole"]
    point = facts["point"]["alias"] or facts["point"]["layer"]
    said = (
        f"after {point} {100 * cut['parameters'] / whole['parameters']:.0f} % of the parameters "
        f"and {100 * cut['macs'] / whole['macs']:.0f} % of the multiply-accumulates are left, "
        "with the same features"
    )
    curve = _curve(found, network)
    best = curve and curve.evidence()
    if best and best.peak == best.last and best.last != LOGITS:
        return f"{said}; no layer after it was available", INCOMPARABLE
    return said, _mark(cut["parameters"] < whole["parameters"])


def _of_transfer(kind: str, metric: str, suffix: str) -> Callable[[Found, str], Judged | None]:
    """The judge of one metric of one kind of transfer; what was skipped is listed once."""

    def judged(found: Found, network: str) -> Judged | None:
        step = step_of(kind + suffix, network)
        end = ends_where_cut(found, step, network)
        if end:
            said = f"the available weights end at {end}, where the network is cut"
            return None if suffix else (said, INCOMPARABLE)
        if step in found.differences:
            return _compared(found.differences[step], metric)
        is_listed = step in found.lacking and not suffix
        return (found.lacking[step], INCOMPARABLE) if is_listed else None

    return judged


def _compared(differences: pd.DataFrame, metric: str) -> tuple[str, str]:
    """By the interval of its difference to the whole network."""
    rows = differences.loc[(differences.contestant == "cut") & (differences.metric == metric)]
    by = rows.set_index("other")
    unit = " px" if metric == "mae" else ""
    said = [_how_much_better(str(name), row, unit) for name, row in by.iterrows()]
    low = float(by.low.get("pretrained", math.nan))
    mark = INCOMPARABLE if math.isnan(low) else _mark(low > 0)
    return f"frozen features: {'; '.join(said)}", mark


def _how_much_better(than: str, row: pd.Series, unit: str) -> str:
    is_shown = row.low > 0 or row.high < 0
    tail = unit + ("" if is_shown else ", which is not shown")
    if round(row.better, 2) < 0:
        return f"worse than {than} by {_interval(-row.better, -row.high, -row.low)}{tail}"
    return f"better than {than} by {_interval(row.better, row.low, row.high)}{tail}"


def _of_printed(metric: str, other: str) -> Callable[[Found, str], Judged]:
    """Welch's test on the means and spreads that the paper prints for ten seeds."""

    def judged(_: Found, network: str) -> Judged:
        printed = published.transfer_scores().set_index(["model", "contestant"])
        n = len(PAPER_SEEDS)
        cut, whole = printed.loc[(network, "cut")], printed.loc[(network, other)]
        p = ttest_ind_from_stats(
            cut[metric], cut[f"{metric}_sd"], n, whole[metric], whole[f"{metric}_sd"], n,
            equal_var=False,
        ).pvalue  # fmt: skip
        is_better = (cut[metric] > whole[metric]) == (metric == "kappa")
        said = (
            f"by the printed means and spreads: {cut[metric]:g} against {whole[metric]:g}, Welch's "
            f"{p_value(p)}, n = {n} each"
        )
        return said, AS_PRINTED if is_better and p <= ALPHA else NOT_AS_PRINTED

    return judged


# --- words ---------------------------------------------------------------------------------------


def _curve(found: Found, network: str) -> Curve | None:
    """That of trained weights; a run of random ones judges nothing."""
    curve = found.curves.get(network)
    return None if curve is None or curve.weights == "random" else curve


def _why_none(found: Found, network: str) -> str:
    is_random = network in found.curves
    return "the run is of random weights" if is_random else found.lacking.get(network, "no curve")


def _by_name(curve: Curve, regressor: str, names: Sequence[str]) -> pd.DataFrame:
    """The rows of some layers, by the paper's names for them."""
    rows = curve.scores(regressor=regressor)
    named = rows.set_axis([_name(curve, layer) for layer in rows.layer])
    return named.loc[[name for name in names if name in named.index]]


def _name(curve: Curve, layer: str) -> str:
    return next((name_of(point) for point in curve.points if point.layer == layer), layer)


def _mark(is_so: bool | np.bool_) -> str:
    return REPRODUCED if is_so else NOT_REPRODUCED


def _mark_of(low: float) -> str:
    """Whether an interval lies above 0; there may be none."""
    return INCOMPARABLE if math.isnan(low) else _mark(low > 0)


def _interval(value: float, low: float, high: float) -> str:
    if math.isnan(low):
        return f"{_two(value)} (no interval)"
    return f"{_two(value)} [{_two(low)}, {_two(high)}]"


def _range(values: pd.Series) -> str:
    return f"{_two(values.min())} to {_two(values.max())}"


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _two(value: float) -> str:
    return f"{value:,.2f}".replace("-0.00", "0.00").replace("-", "−")
