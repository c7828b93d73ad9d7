"""What the paper claims, in plain words, and what was found of each (`graziani2021`)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

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
EARLY = {INCEPTION: ("mixed0", "mixed1", "mixed2"), RESNET: ("add_1", "add_2", "add_3")}
BY_CHANCE = 0.05  # R² of shuffled measures that none of the layers may reach


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the paper and what was found; `mark` is one of those of `paper`."""

    claim: str
    where: str
    network: str
    found: str
    mark: str


def claims(found: Found) -> pd.DataFrame:
    """The columns of COLUMNS, in the order of the paper."""
    every = (
        *_of_curves(found),
        *_of_early_layers(found),
        *_of_the_softmax(found),
        *_of_image_size(found),
        *_of_cuts(found),
        *_of_transfer(found),
        *_of_the_printed_scores(),
        *_of_misprints(),
    )
    return pd.DataFrame([asdict(each) for each in every], columns=list(COLUMNS))


# --- curves --------------------------------------------------------------------------------------


def _of_curves(found: Found) -> Iterator[Claim]:
    texts = {
        "Features of a network trained on ImageNet tell the scale of an object": _is_told,
        "They tell it because they were trained: random weights do not": _is_learned,
        "Random measures cannot be regressed": _is_no_chance,
        "The share that is told grows with depth, up to mixed8 and add_15": _grows,
        "Behind that layer it falls: the network forgets scale": _falls,
    }
    for text, judge in texts.items():
        for network in NETWORKS:
            curve = _curve(found, network)
            judged = judge(curve, network) if curve else (_why_none(found, network), INCOMPARABLE)
            yield Claim(text, "4.3", network, *judged)


def _is_told(curve: Curve, network: str) -> tuple[str, str]:
    best = curve.evidence()
    said = f"R² {_interval(best.r2, best.r2_low, best.r2_high)} at {_name(curve, best.peak)}"
    if math.isfinite(best.p_value):
        own = curve.scores()
        said += f"; p ≤ {ALPHA:g} at {(own.p_value <= ALPHA).sum()} of {len(own)} layers"
    return said, _mark(best.is_shown)


def _is_learned(curve: Curve, network: str) -> tuple[str, str]:
    best = curve.evidence()
    twin = curve.scores(weights="random").set_index("layer").r2
    if not math.isfinite(best.learned) or best.peak not in twin:
        return "no random twin was asked for", INCOMPARABLE
    more = _interval(best.learned, best.learned_low, best.learned_high)
    said = (
        f"{more} more than random weights and pixels at {_name(curve, best.peak)}; "
        f"random weights have {_two(twin[best.peak])} there, and {_two(twin.max())} at their best"
    )
    return said, _mark(best.learned_low > 0)


def _is_no_chance(curve: Curve, network: str) -> tuple[str, str]:
    shuffled = curve.scores(target="shuffled").r2
    if shuffled.empty:
        return "no shuffled measure was asked for", INCOMPARABLE
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
        return f"{said}; {theirs} could not be read", INCOMPARABLE
    if best.peak == best.last and best.last != LOGITS:
        return f"{said}; no layer behind {theirs} could be read", INCOMPARABLE
    inside = "in" if theirs in near else "not in"
    return f"{said}; {theirs} is {inside} the 95 % set of the peak", _mark(
        rho > 0 and theirs in near
    )


def _falls(curve: Curve, network: str) -> tuple[str, str]:
    best = curve.evidence()
    if best.last != LOGITS:
        last = _name(curve, best.last)
        return f"the last layer that could be read is {last}", INCOMPARABLE
    if best.fall_after is None or best.fall is None:
        return f"no fall is shown (p = {best.fall_p_value:.2g})", NOT_REPRODUCED
    low, high = (math.nan if end is None else end for end in (best.fall_low, best.fall_high))
    return (
        f"falls by {_interval(best.fall, low, high)} after {_name(curve, best.fall_after)}; "
        f"the logits have {_two(best.last_r2)}, {_two(best.last_loss)} below the peak",
        _mark(low > 0),
    )


def _of_early_layers(found: Found) -> Iterator[Claim]:
    """The interpolation artefact: least squares through as many images as channels."""
    text = "Early layers tell nothing of scale: R² is far below 0"
    for network, layers in EARLY.items():
        said, mark = _why_none(found, network), INCOMPARABLE
        curve = _curve(found, network)
        if curve is not None:
            ols, ridge = (_by_name(curve, each, layers) for each in ("ols", "ridge"))
            if len(ols) and len(ridge):
                said, mark = _judged_early(ols, ridge)
            else:
                said = f"{layers[0]} to {layers[-1]} were not read by least squares and ridge"
        yield Claim(text, "4.3, A.2", network, said, mark)


def _judged_early(ols: pd.DataFrame, ridge: pd.DataFrame) -> tuple[str, str]:
    is_told = ridge.r2_low > 0
    if not ((ols.r2 < 0).all() and is_told.all()):
        said = f"least squares {_range(ols.r2)}, ridge {_range(ridge.r2)}"
        is_known = bool(ridge.r2_low.notna().all())
        return said, _mark(not is_told.any()) if is_known or is_told.any() else INCOMPARABLE
    return (
        f"least squares has {_range(ols.r2)} at {ols.index[0]} to {ols.index[-1]}, below 0 as "
        f"printed; ridge, on the same features, {_range(ridge.r2)}. With {ridge.n_fit.iloc[0]:,} "
        f"images to fit and {_span(ridge.n_features)} channels least squares interpolates noise: "
        "the collapse is of the method",
        NOT_REPRODUCED,
    )


def _of_the_softmax(found: Found) -> Iterator[Claim]:
    printed = published.curve("inception_v3").set_index("layer").pretrained[SOFTMAX]
    text = f"The softmax tells less than nothing (R² {printed:.0f})".replace("-", "−")
    for network in NETWORKS:
        said, mark = _why_none(found, network), INCOMPARABLE
        curve = _curve(found, network)
        if curve is not None:
            ols, ridge = (_by_name(curve, each, (SOFTMAX,)) for each in ("ols", "ridge"))
            said = "the softmax could not be read"
            if len(ols) and len(ridge):
                said, mark = _judged_softmax(ols.iloc[0], ridge.iloc[0])
        yield Claim(text, "A.2", network, said, mark)


def _judged_softmax(ols: pd.Series, ridge: pd.Series) -> tuple[str, str]:
    said = f"least squares {_two(ols.r2)}; ridge {_interval(ridge.r2, ridge.r2_low, ridge.r2_high)}"
    if ridge.r2_low > 0 > ols.r2:
        said += (
            ", so the size of the number is of the method: probabilities near 0 make least squares "
            "ill-conditioned"
        )
    return said, _mark(ridge.r2_high < 0) if math.isfinite(ridge.r2_high) else INCOMPARABLE


# --- image size ----------------------------------------------------------------------------------


def _of_image_size(found: Found) -> Iterator[Claim]:
    """By a protocol of ours each, as the paper's are not recoverable; so nothing is judged."""
    for text, where, kind, told in (
        (
            "Predictions change when the picture is resized; image size is not object scale",
            "4.1",
            SIZES,
            _answers_kept,
        ),
        ("Image size can be read from noise, without any content", "4.2", NOISE, _read_from_noise),
    ):
        for network in NETWORKS:
            step = step_of(kind, network)
            if step in found.tables:
                said = told(found.tables[step])
                ours = f"{said}; our protocol, as theirs is not recoverable"
                yield Claim(text, where, network, ours, INCOMPARABLE)
            elif step in found.lacking:
                yield Claim(text, where, network, found.lacking[step], INCOMPARABLE)


def _answers_kept(table: pd.DataFrame) -> str:
    kept = table.loc[table.quantity == "agreement"].set_index(["change", "octaves"]).value
    said = [
        f"{100 * kept[change, at]:.0f} % of the answers stay where {what} has {size}"
        for change, what in (("image-size", "the picture"), ("object-scale", "the object"))
        for at, size in ((-1.0, "half the side"), (1.0, "double the side"))
        if (change, at) in kept
    ]
    return "; ".join(said) or "the logits could not be read"


def _read_from_noise(table: pd.DataFrame) -> str:
    best = table.sort_values("r2").groupby("padding").tail(1).set_index("padding")
    return "; ".join(
        f"R² {_interval(row.r2, row.r2_low, row.r2_high)} from {row.noise} noise with {padding} as "
        f"padding, at {row.alias or row.layer}"
        for padding, row in best.iterrows()
    )


# --- cut and transfer ----------------------------------------------------------------------------


def _of_cuts(found: Found) -> Iterator[Claim]:
    text = "A network can be cut where scale is told best, and is smaller then"
    for network in NETWORKS:
        facts = found.cuts.get(step_of(CUT, network))
        if facts is None:
            why = found.lacking.get(step_of(CUT, network), "not cut")
            yield Claim(text, "3.4", network, why, INCOMPARABLE)
            continue
        cut, whole = facts["proof"]["cut"], facts["proof"]["whole"]
        point = facts["point"]["alias"] or facts["point"]["layer"]
        said = (
            f"after {point} {100 * cut['parameters'] / whole['parameters']:.0f} % of the "
            f"parameters and {100 * cut['macs'] / whole['macs']:.0f} % of the "
            "multiply-accumulates are left, with the same features"
        )
        curve = _curve(found, network)
        mark, best = _mark(cut["parameters"] < whole["parameters"]), curve and curve.evidence()
        if best and best.peak == best.last and best.last != LOGITS:
            said, mark = f"{said}; no layer behind it could be read", INCOMPARABLE
        yield Claim(text, "3.4", network, said, mark)


def _of_transfer(found: Found) -> Iterator[Claim]:
    for text, kind, metric in (
        ("Cut, the network measures nuclei with a smaller error", AREAS, "mae"),
        ("Cut, it tells the magnification better (kappa, from areas)", AREAS, "kappa"),
        ("Cut, it tells the magnification better (kappa, read itself)", MAGNIFICATIONS, "kappa"),
    ):
        for suffix, how in (("", ""), (MATCHED, WITH_MATCHED_BLUR)):
            for network in NETWORKS:
                step = step_of(kind + suffix, network)
                end = ends_where_cut(found, step, network)
                if end and not suffix:
                    said = f"the weights at hand end at {end}, where it is cut"
                    yield Claim(text, "4.4", network, said, INCOMPARABLE)
                elif step in found.differences and not end:
                    judged = _judged_cut(found.differences[step], metric)
                    yield Claim(text + how, "4.4", network, *judged)
                elif step in found.lacking and not suffix:
                    yield Claim(text, "4.4", network, found.lacking[step], INCOMPARABLE)


def _judged_cut(differences: pd.DataFrame, metric: str) -> tuple[str, str]:
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


def _of_the_printed_scores() -> Iterator[Claim]:
    """The paper's own means and spreads of ten seeds, by Welch's test."""
    printed = published.transfer_scores().set_index(["model", "contestant"])
    n = len(PAPER_SEEDS)
    for model in dict.fromkeys(printed.index.get_level_values("model")):
        for metric, sign, what in (("mae", -1, "lower error"), ("kappa", 1, "higher kappa")):
            for other in ("pretrained", "scratch"):
                cut, whole = printed.loc[(model, "cut")], printed.loc[(model, other)]
                p = ttest_ind_from_stats(
                    cut[metric], cut[f"{metric}_sd"], n, whole[metric], whole[f"{metric}_sd"], n,
                    equal_var=False,
                ).pvalue  # fmt: skip
                is_better = sign * (cut[metric] - whole[metric]) > 0
                yield Claim(
                    f"Cut, it has a {what} than {other}",
                    "Table 2",
                    str(model),
                    f"by the printed means and spreads: {cut[metric]:g} against {whole[metric]:g}, "
                    f"Welch's p = {p:.2g}, n = {n} each",
                    AS_PRINTED if is_better and p <= ALPHA else NOT_AS_PRINTED,
                )


def _of_misprints() -> Iterator[Claim]:
    for each in misprints():
        yield Claim(
            f"There are {each.printed:,} patches of {each.column} in the {each.row} part",
            "Table 1",
            "",
            f"the row's own total needs {each.right:,}",
            MISPRINT,
        )


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


def _interval(value: float, low: float, high: float) -> str:
    return f"{_two(value)} [{_two(low)}, {_two(high)}]"


def _range(values: pd.Series) -> str:
    return f"{_two(values.min())} to {_two(values.max())}"


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _two(value: float) -> str:
    return f"{value:,.2f}".replace("-0.00", "0.00").replace("-", "−")
