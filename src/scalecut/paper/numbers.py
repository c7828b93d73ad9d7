"""Every number that the paper prints, next to ours: by its method, and by the one we would defend.

Reads finished runs and computes nothing but differences. `graziani2021` names three classes of
ImageNet; where other classes or other tissue stand for them, values cannot be the same to the
digit, so a layer counts as reproduced if R² has the same sign and, where it is above 0, lies within
`CLOSE` of the printed one.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .. import runs
from ..data.images import MEAN
from ..networks.points import LOGITS, POOLED, SOFTMAX, ProbePoint
from ..pathology.patches import counts, read_patches
from ..probing.curve import Curve, read_curve
from ..report.paper import COLUMNS
from . import published
from .published import Misprint, check_counts

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
INCOMPARABLE, MISPRINT = "cannot be compared", "misprint"
CLOSE = 0.2  # of R², between the paper's images and others
WITHIN = 2  # standard deviations of the printed seeds, between scores on the paper's own tissue

OURS = "the paper's protocol is not recoverable; this one is ours"

INCEPTION, RESNET, STAND_IN = "inception_v3", "resnet50_v1", "tf_efficientnet_lite0"
# complete weights of ResNet50 are those of torchvision's variant, which has its strides elsewhere
RESNET_COMPLETE, GOOGLENET = "resnet50", "googlenet_bvlc"
QUICK_NETWORKS = (INCEPTION, RESNET, STAND_IN)
NETWORKS = (INCEPTION, RESNET, RESNET_COMPLETE, GOOGLENET, STAND_IN)
KINDS = {
    "pretrained": ("ImageNet weights", "pretrained", "true"),
    "random": ("random weights", "random", "true"),
    "shuffled": ("random measures", "pretrained", "shuffled"),
}
SECTIONS = {
    "A.2": "R² by layer",
    "A.1": "Class by class",
    "4.1": "Predictions and image size",
    "4.2": "Image size predicted from noise",
    "3.4": "The cut",
    "Table 1": "Patches",
    "Table 2": "Transfer to nuclei",
    "A.3": "Feature visualisation of early layers",
}
# steps; that of a curve has the name of its network, the others of a network `step_of` names
PATCHES, SIZES, NOISE, CUT, PICTURES = "patches", "image-size", "noise", "cut", "pictures"
AREAS, MAGNIFICATIONS, FINETUNED = "areas", "magnifications", "finetuned"
MATCHED, WITH_MATCHED_BLUR = "-matched-blur", " with blur matched"  # of steps, of claims
TRIALS = (AREAS, AREAS + MATCHED, MAGNIFICATIONS, MAGNIFICATIONS + MATCHED, FINETUNED)
SCORES = {"mae": "MAE, px", "kappa": "kappa"}  # of transfers, that the paper prints

Scores = Mapping[str, tuple[float, float, float, float]]
NO_SCORES = (math.nan, math.nan, math.nan, math.nan)


def step_of(kind: str, network: str) -> str:
    """The name of a step that every network has one of."""
    return f"{kind}-{network}"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the steps left, by their names; a step that could not be done is in `lacking`."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # the main table of a run
    differences: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # of transfers
    cuts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # scalecut.json
    visualised: tuple[str, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    has_images: bool = True  # else the curves are of synthetic scenes
    is_their_tissue: bool = False  # whether patches are of the tiles that the paper has

    @property
    def networks(self) -> tuple[str, ...]:
        """Those of a quick run, and others of which this run has a step, or lacks one."""
        steps = {*self.curves, *self.tables, *self.cuts, *self.visualised, *self.lacking}
        return tuple(
            network for network in NETWORKS
            if network in QUICK_NETWORKS or any(step.endswith(network) for step in steps)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A number of the paper, ours by its method (least squares, all weights trained), and ours."""

    section: str
    network: str
    item: str
    quantity: str
    paper: float = math.nan
    ours_as_paper: float = math.nan
    ours: float = math.nan
    ours_low: float = math.nan
    ours_high: float = math.nan
    mark: str = INCOMPARABLE
    why: str = ""


def read(
    folder: Path,
    lacking: Mapping[str, str],
    *,
    has_images: bool = True,
    is_their_tissue: bool = False,
) -> Found:
    """What the steps left in `folder`, a run folder each."""

    def there(*steps: str) -> list[str]:
        return [step for step in steps if step not in lacking and (folder / step).is_dir()]

    def of_networks(*kinds: str) -> list[str]:
        return there(*(step_of(kind, network) for kind in kinds for network in NETWORKS))

    def tables(name: str, *kinds: str) -> dict[str, pd.DataFrame]:
        return {step: runs.read_run(folder / step).table(name) for step in of_networks(*kinds)}

    return Found(
        {name: read_curve(folder / name) for name in there(*NETWORKS)},
        {
            **tables("invariance", SIZES),
            **tables("noise", NOISE),
            **tables("transfer", *TRIALS),
            **{step: read_patches(folder / step).table for step in there(PATCHES)},
        },
        tables("differences", *TRIALS),
        {step: runs.read_run(folder / step, "cut").facts for step in of_networks(CUT)},
        tuple(of_networks(PICTURES)),
        lacking,
        has_images,
        is_their_tissue,
    )


def numbers_of(found: Found) -> pd.DataFrame:
    """The columns of COLUMNS, one row per number, section by section."""
    rows = (
        *_of_layers(found),
        *_of_classes(found),
        *_of_sizes(found),
        *_of_noise(found),
        *_of_cuts(found),
        *_of_patches(found),
        *_of_transfer(found),
        *_of_pictures(found),
    )
    return pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))


def marked(paper: float, ours: float) -> tuple[str, str]:
    """Whether R² is reproduced, and why not."""
    if math.isnan(ours):
        return INCOMPARABLE, "the run lacks least squares or this control"
    if (paper > 0) != (ours > 0):
        return NOT_REPRODUCED, "the signs differ"
    if paper > 0 and round(abs(paper - ours), 6) > CLOSE:
        return NOT_REPRODUCED, f"more than {CLOSE:g} apart"
    return REPRODUCED, ""


def name_of(point: ProbePoint) -> str:
    """What the paper calls a layer, `logits` and `softmax` apart, which are so in any network."""
    return point.layer if point.layer in (LOGITS, SOFTMAX) else point.alias or point.layer


def misprints() -> tuple[Misprint, ...]:
    """The cells of Table 1 that its own totals show to be wrong."""
    return check_counts(*published.patch_counts())


# --- measuring scale -----------------------------------------------------------------------------


def _of_layers(found: Found) -> Iterator[Row]:
    """Table A.2, its counterpart of ResNet50, and the complete stand-in."""
    for network in found.networks:
        printed = published.curve(network)
        curve = found.curves.get(network)
        if curve is None and printed.empty:
            yield Row("A.2", network, "all layers", "R²", why=found.lacking.get(network, ""))
            continue
        by_kind = printed.set_index("layer").to_dict()
        points = {name_of(point): point for point in curve.points} if curve else {}
        ours = {kind: _scores(curve, kind) for kind in KINDS} if curve else {}
        for name in _in_order(printed.layer.tolist(), [*points]):
            for kind in KINDS:
                paper = float(by_kind.get(kind, {}).get(name, math.nan))
                if not math.isnan(paper) or name in points:
                    point, scores = points.get(name), ours.get(kind, {})
                    yield _of_layer(found, network, name, point, scores, kind, paper)


def _in_order(printed: list[str], points: list[str]) -> list[str]:
    """The layers of the paper, with those that only we have before the next one that both have."""
    names = list(printed)
    for number, name in enumerate(points):
        if name not in names:
            later = next((each for each in points[number + 1 :] if each in printed), None)
            names.insert(len(names) if later is None else names.index(later), name)
    return names


def _of_layer(
    found: Found,
    network: str,
    name: str,
    point: ProbePoint | None,
    scores: Scores,
    kind: str,
    paper: float,
) -> Row:
    head = ("A.2", network, name, f"R², {KINDS[kind][0]}", paper)
    curve = found.curves.get(network)
    if curve is None or point is None:
        return Row(*head, why=_why_not_read(found, network, name))
    if curve.weights == "random":
        return Row(*head, why="the run is of random weights")
    numbers = scores.get(point.layer, NO_SCORES)
    if math.isnan(paper):
        is_theirs = network in published.NETWORKS
        why = "the paper prints no number" if is_theirs else "not a network of the paper"
        return Row(*head, *numbers, why=why)
    if not found.has_images:
        return Row(*head, *numbers, why="synthetic scenes, not images with boxes; give --data DIR")
    return Row(*head, *numbers, *marked(paper, numbers[0]))


def _scores(curve: Curve, kind: str, subset: str = MEAN) -> Scores:
    """By layer: R² of least squares, of ridge, and its interval; nan for what the run lacks."""
    _, weights, target = KINDS[kind]
    ols, ridge = (
        curve.scores(regressor=each, weights=weights, target=target, subset=subset).set_index(
            "layer"
        )
        for each in ("ols", "ridge")
    )
    intervals = ridge[["r2", "r2_low", "r2_high"]].astype(float)
    rows = ols.r2.astype(float).to_frame("ols").join(intervals, how="outer")
    return {
        layer: (by_ols, by_ridge, low, high)
        for layer, by_ols, by_ridge, low, high in rows.itertuples(name=None)
    }


def _why_not_read(found: Found, network: str, name: str) -> str:
    if network not in found.curves:
        return found.lacking.get(network, "")
    left_out = found.curves[network].provenance.get("layers_left_out", [])
    items = left_out if isinstance(left_out, list) else []
    for item in items:
        layer, _, alias = str(item["name"]).removesuffix(")").partition(" (")
        if name in (layer, alias):
            return str(item["reason"])
    return "this layer was skipped"


def _of_classes(found: Found) -> Iterator[Row]:
    """R² of each class at the layer where their mean is highest."""
    why = "the paper shows images, without numbers"
    for network, curve in found.curves.items():
        if curve.weights == "random":
            continue
        peak = curve.evidence().peak
        label = next(name_of(point) for point in curve.points if point.layer == peak)
        for subset in dict.fromkeys(curve.table.subset):
            if subset == MEAN:
                continue
            numbers = _scores(curve, "pretrained", subset).get(peak, NO_SCORES)
            n_images = curve.table.n_images[curve.table.subset == subset].iloc[0]
            head = ("A.1", network, f"{subset}, {n_images:,} images", f"R² at {label}", math.nan)
            yield Row(*head, *numbers, why=why)


# --- image size ----------------------------------------------------------------------------------


def _of_sizes(found: Found) -> Iterator[Row]:
    quantity = "predictions kept"
    yield from _lacking(found, "4.1", SIZES, quantity)
    for network, table in _tables(found, SIZES):
        kept = table.loc[(table.quantity == "agreement") & (table.octaves.abs() == 1)]
        if kept.empty:
            reason = f"no predictions: {_why_not_read(found, network, LOGITS)}"
            yield Row("4.1", network, "", quantity, why=reason)
        for row in kept.to_dict("records"):
            what = {"image-size": "the image", "object-scale": "the object"}[row["change"]]
            item = f"{what} at {'half' if row['octaves'] < 0 else 'double'} the side"
            numbers = (math.nan, math.nan, row["value"], row["low"], row["high"])
            yield Row("4.1", network, item, quantity, *numbers, why=OURS)


def _of_noise(found: Found) -> Iterator[Row]:
    quantity = "R² of image size, best layer"
    yield from _lacking(found, "4.2", NOISE, quantity)
    for network, table in _tables(found, NOISE):
        for _, rows in table.groupby(["noise", "padding"], sort=False):
            best = rows.loc[rows.r2.idxmax()]
            item = f"{best.noise} noise, padded with {best.padding}, {best.alias or best.layer}"
            numbers = (math.nan, math.nan, best.r2, best.r2_low, best.r2_high)
            yield Row("4.2", network, item, quantity, *numbers, why=OURS)


def _tables(found: Found, kind: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of the networks that have this step."""
    for network in found.networks:
        if step_of(kind, network) in found.tables:
            yield network, found.tables[step_of(kind, network)]


def _lacking(found: Found, section: str, kind: str, quantity: str) -> Iterator[Row]:
    """A row for each network whose step could not be done."""
    for network in found.networks:
        if step_of(kind, network) in found.lacking:
            why = found.lacking[step_of(kind, network)]
            yield Row(section, network, "", quantity, why=why)


# --- the cut and what it is good for --------------------------------------------------------------


def _of_cuts(found: Found) -> Iterator[Row]:
    """The layer of the highest R², and what is left of the network when it is cut there."""
    for network in found.networks:
        facts = found.cuts.get(step_of(CUT, network))
        if network in published.NETWORKS:
            layer, r2 = published.peak(network)
            yield _at_the_peak(found, network, layer, r2)
        if facts is None:
            why = found.lacking.get(step_of(CUT, network), "")
            yield Row("3.4", network, "cut", "share of parameters", why=why)
            continue
        item = f"cut after {facts['point']['alias'] or facts['point']['layer']}"
        for name, key in (("parameters", "parameters"), ("multiply-accumulates", "macs")):
            share = facts["proof"]["cut"][key] / facts["proof"]["whole"][key]
            why = "the paper prints none"
            quantity = f"share of {name} kept"
            yield Row("3.4", network, item, quantity, math.nan, math.nan, share, why=why)


def _at_the_peak(found: Found, network: str, layer: str, paper: float) -> Row:
    """R² at the layer that the paper cuts after, and which layer is the best here."""
    curve = found.curves.get(network)
    head = ("3.4", network, f"at {layer}, the paper's peak", "R², ImageNet weights", paper)
    point = curve and next((p for p in curve.points if layer in (p.alias, p.layer)), None)
    if curve is None or point is None:
        return Row(*head, why=_why_not_read(found, network, layer))
    scores = _scores(curve, "pretrained")
    row = _of_layer(found, network, layer, point, scores, "pretrained", paper)
    evidence = curve.evidence()
    best = next(name_of(p) for p in curve.points if p.layer == evidence.peak)
    where = "the best layer here too" if best == layer else f"the best layer here is {best}"
    is_last = evidence.peak == evidence.last
    numbers = (row.ours_as_paper, row.ours, row.ours_low, row.ours_high)
    said = f"{where}{', and the last that is available' if is_last else ''}"
    return Row(*head, *numbers, row.mark, "; ".join(filter(None, (row.why, said))))


def _of_patches(found: Found) -> Iterator[Row]:
    """Table 1, ours where the magnifications are the same."""
    cells, totals = published.patch_counts()
    ours = counts(found.tables[PATCHES]) if PATCHES in found.tables else pd.DataFrame()
    wrong = {(each.row, each.column): each for each in misprints()}
    own = "how its patches overlap is not known" if found.is_their_tissue else "other tiles"
    why = found.lacking.get(PATCHES, "") if ours.empty else own
    for part in cells.index:
        for column in cells.columns:
            paper = float(cells.loc[part, column])
            number = math.nan
            if part in ours.index and column in ours:
                number = float(ours.loc[part, column])
            mark, reason = INCOMPARABLE, why
            if (part, column) in wrong:
                right = wrong[part, column].right
                mark, reason = MISPRINT, f"{right:,} is what the row's total {totals[part]:,} needs"
            yield Row(
                "Table 1", "", f"{part}, {column}", "patches", paper, number, math.nan,
                mark=mark, why=reason,
            )  # fmt: skip


def _of_transfer(found: Found) -> Iterator[Row]:
    """Table 2, row by row, and what the paper does not have: other networks, other cuts."""
    trained, frozen = (
        {n: _scored(found, kind, n) for n in found.networks} for kind in (FINETUNED, AREAS)
    )
    rows = [
        (network, printed)
        for network in found.networks
        for printed in published.transfer_scores(network).to_dict("records")
    ]
    for network, printed in rows:
        named = printed["contestant"], printed["layer"]
        for metric, quantity in SCORES.items():
            by_theirs, by_ours = (
                scores[network].pop((*named, metric), math.nan) for scores in (trained, frozen)
            )
            paper, spread = printed[metric], printed[f"{metric}_sd"]
            mark, why = marked_score(paper, spread, by_theirs)
            if math.isnan(by_theirs) and math.isnan(by_ours):
                mark, why = INCOMPARABLE, _why_no_score(found, network)
            elif not found.is_their_tissue:
                mark, why = INCOMPARABLE, "other tiles"
            said = "; ".join(filter(None, (f"± {spread:g} over ten seeds", why)))
            yield Row(
                "Table 2", network, f"{named[0]}, to {named[1]}", quantity, paper, by_theirs,
                by_ours, mark=mark, why=said,
            )  # fmt: skip
    for network in found.networks:
        for method, layer, metric in {**trained[network], **frozen[network]}:
            key = method, layer, metric
            ours = trained[network].get(key, math.nan), frozen[network].get(key, math.nan)
            head = ("Table 2", network, f"{method}, to {layer}", SCORES[metric], math.nan)
            is_theirs = network in published.NETWORKS
            why = "the paper has no such cut" if is_theirs else "not a network of the paper"
            yield Row(*head, *ours, why=why)
        if network not in published.NETWORKS and step_of(AREAS, network) in found.lacking:
            why = found.lacking[step_of(AREAS, network)]
            yield Row("Table 2", network, "", SCORES["mae"], why=why)


def _scored(found: Found, kind: str, network: str) -> dict[tuple[str, str, str], float]:
    """By method, the paper's name of the layer it ends with, and metric: the mean over fits.

    Pooled features are those of the last block, which the paper names.
    """
    table = found.tables.get(step_of(kind, network))
    if table is None:
        return {}
    names = _names(found, network)
    for printed in published.transfer_scores(network).to_dict("records"):
        if printed["contestant"] == "pretrained":
            names[POOLED] = str(printed["layer"])
    rows = table.loc[(table.tile == "all") & table.metric.isin(SCORES)]
    if ends_where_cut(found, step_of(kind, network), network):
        rows = rows.loc[rows.contestant != "pretrained"]  # it is the cut
    means = rows.groupby(["contestant", "layer", "metric"], sort=False).value.mean()
    return {
        (row["contestant"], str(names.get(row["layer"], row["layer"])), row["metric"]): row["value"]
        for row in means.reset_index().to_dict("records")
    }


def ends_where_cut(found: Found, step: str, network: str) -> str:
    """The layer, if incomplete weights end where a transfer cuts; else nothing."""
    table = found.tables.get(step)
    if table is None:
        return ""
    ends = dict(zip(table.contestant, table.layer, strict=True))
    if "cut" not in ends or ends.get("pretrained") != ends["cut"]:
        return ""
    return _names(found, network).get(str(ends["cut"]), str(ends["cut"]))


def _names(found: Found, network: str) -> dict[str, str]:
    """What the paper calls each layer that was read."""
    curve = found.curves.get(network)
    return {point.layer: name_of(point) for point in curve.points} if curve else {}


def marked_score(paper: float, spread: float, ours: float) -> tuple[str, str]:
    """Whether a score with all weights trained is reproduced, on the same tiles, and why not."""
    if math.isnan(ours):
        return INCOMPARABLE, "with all weights trained, which was not done here"
    if round(abs(ours - paper), 6) > round(WITHIN * spread, 6):
        return NOT_REPRODUCED, f"more than {WITHIN} times that apart"
    return REPRODUCED, ""


def _why_no_score(found: Found, network: str) -> str:
    steps = [step_of(kind, network) for kind in (AREAS, FINETUNED)]
    reasons = [found.lacking[step] for step in steps if step in found.lacking]
    if any(step in found.tables for step in steps):
        return "the available weights do not reach that layer"
    return reasons[0] if reasons else "no transfer of this network in this run"


def _of_pictures(found: Found) -> Iterator[Row]:
    for network in found.networks:
        step = step_of(PICTURES, network)
        if step in found.visualised:
            why = f"images: {step}/figures and {step}/report.html"
            yield Row("A.3", network, "an early layer", "images", why=why)
        elif step in found.lacking:
            yield Row("A.3", network, "an early layer", "images", why=found.lacking[step])
