"""Figures of a curve, drawn from its table; only positions in the figure are computed here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..errors import DataError
from .drawing import (
    BLUE,
    GREEN,
    INK,
    LONGEST_TICK,
    QUIET,
    R2,
    VERMILION,
    Drawing,
    Line,
    Look,
    Mark,
    Panel,
    Peak,
    Scale,
    height_for,
    named_look,
    shade_looks,
    shortened,
)

Rows: TypeAlias = list[dict[str, Any]]

NAMES = ("model", "subset", "measure", "layer", "alias", "weights", "target", "regressor")
COLUMNS = (*NAMES, "depth", "n_images", "r2", "r2_low", "r2_high")
R2_COLUMNS = ("r2", "r2_low", "r2_high")
REGRESSORS = {"ridge": "Ridge regression", "ols": "Ordinary least squares"}
SOURCE = ("curve", "the frame of a Curve, or a curve.csv")

MEAN = Look("mean", INK, "-", "o", 3.0)
PRETRAINED = Look("pretrained", BLUE, "-", "o", 2.4, 0.22)
RANDOM = Look("random weights", VERMILION, "--", "s", 1.8, 0.12)
PERMUTED = Look("permuted weights", "#8a5578", "-.", "^", 1.6)
SHUFFLED = Look("shuffled target", QUIET, ":", "D", 1.8)
CHANCE = Look("chance", INK, (0, (1, 3)), "", 1.4)
PIXELS = Look("pixels alone", "#6b6a2f", (0, (9, 3)), "", 1.6)
TOGETHER = Look("all up to here", GREEN, "-", "s", 2.0, 0.18)
ALONE = Look("one layer", BLUE, "-", "o", 2.4, 0.18)

SCALES = {
    "r2": R2,
    "balanced_accuracy": Scale("held-out balanced accuracy"),
    "auroc": Scale("held-out AUROC"),
    "quadratic_kappa": Scale("held-out kappa", bottom=-0.1),
}  # by metric; of several, the first is drawn

# e^(R²)/e, `graziani2021`: 1 at R² = 1, 1/e at 0, 0 at minus infinity
EXPONENTIAL = Scale(
    "e^(R²)/e of mean", lambda r2: np.exp(r2 - 1.0), -math.inf, named={0.0: "R² = 0"}
)
DEPTHS = 201  # places of a figure by relative depth
SOFTMAX = "softmax"  # the layer of that name
MOST_BANDS = 3  # lines with bands in one panel
# n/d between which least squares follows the noise
INTERPOLATING = (0.5, 2.0)


def curve_drawing(
    frame: pd.DataFrame, *, subset: str = "mean", evidence: Mapping[str, Any] | None = None
) -> Drawing:
    """R² by layer with its controls, one panel per regressor, with the peak marked in the first.

    The band is the interval from `r2_low` to `r2_high`; the band of random weights is at least one
    standard deviation over the random networks (`r2_spread`). A combination that the frame lacks is
    not drawn; of the shuffled target, only the curve of the network itself is.

    Args:
        frame: the rows of `curve.csv`, of one model and one measure.
        subset: whose curve; `mean` is that of the only subset if there is but one.
        evidence: `peak`, `confidence_set`, `fall_after`, `fall_first` and `fall_last` of that
            subset, as layers; they are marked in the first panel.

    Raises:
        DataError: if a column, the subset or a layer of the evidence is missing, no row has a
            known regressor, or there is more than one model or measure.
    """
    return _curve_drawing(frame, subset, None, evidence)


def exponential_drawing(frame: pd.DataFrame) -> Drawing:
    """`curve_drawing` on the paper's axis, e^(R²)/e (`graziani2021`).

    The paper averages over repeats after the transform. The frame holds means only, so here the
    mean is transformed, which gives less: the exponential is convex.
    """
    return _curve_drawing(frame, "mean", EXPONENTIAL, None)


def targets_drawing(
    frame: pd.DataFrame, *, subset: str = "mean", chance: Mapping[str, float] | None = None
) -> Drawing:
    """The score by layer of every target, one panel per metric, by ridge or else least squares.

    Args:
        frame: the rows of `curve.csv`, of one model.
        subset: whose curves; a target that has no such subset is not drawn.
        chance: by target, the score of features that hold nothing of it; of R² it is 0.
    """
    targets = list(dict.fromkeys(map(str, frame["measure"])))
    looks = dict(zip(targets, [named_look(name, k) for k, name in enumerate(targets)], strict=True))
    by_metric: dict[str, list[Line]] = {}
    regressor = _regressors(_rows(frame.loc[frame["measure"] == targets[0]]))[0]
    chosen: Rows = []
    for target, look in looks.items():
        rows = [
            row for row in _rows(frame.loc[frame["measure"] == target]) if row["subset"] == subset
        ]
        if not rows:
            continue
        chosen += rows
        own = {"weights": _main(rows)[0], "target": "true", "regressor": regressor}
        labels = _labels(rows)
        by_metric.setdefault(rows[0]["metric"], []).extend(
            lines_of(rows, labels, {replace(look, band_opacity=0.15): own}, y=R2_COLUMNS)
        )
        level = (chance or {}).get(target, 0.0)
        if level and rows[0]["metric"] != "r2":
            name = "chance" if len(targets) < 3 else f"chance, {shortened(target, 14)}"
            by_metric[rows[0]["metric"]].append(
                _level(level, len(labels), replace(CHANCE, label=name, colour=look.colour))
            )
    labels = _labels(chosen)
    panels = [
        Panel(
            f"{'Measures' if metric == 'r2' else 'Classes'}, {REGRESSORS[regressor].lower()}",
            SCALES[metric],
            lines,
            height_for(lines, 170.0),
        )
        for metric, lines in sorted(by_metric.items(), key=lambda item: [*SCALES].index(item[0]))
    ]
    text = f"{len(targets)} targets" + (f"   ·   subset: {subset}" if subset != "mean" else "")
    caption = f"{text}   ·   n = {range_of(chosen, 'n_images')} images"
    return Drawing(chosen[0]["model"], caption, [*labels.values()], panels)


def subset_drawing(frame: pd.DataFrame) -> Drawing:
    """R² by layer of every subset and of their mean, for the pretrained network and ridge.

    Where ridge was not asked for, least squares is drawn.
    """
    rows = _rows(frame)
    regressor, labels, subsets = _regressors(rows)[0], _labels(rows), subsets_of(frame)
    kind, main = _main(rows)
    true = {"weights": kind, "target": "true", "regressor": regressor}
    looks = {MEAN: {"subset": "mean", **true}}
    looks |= {named_look(name, k): {"subset": name, **true} for k, name in enumerate(subsets)}
    lines = lines_of(rows, labels, looks, y=R2_COLUMNS)
    named = "R²" if rows[0]["metric"] == "r2" else ""
    means = [line for line in lines if line.look == MEAN]
    peak = next((_peak(line, labels, metric=named) for line in means), None)
    title = f"{REGRESSORS[regressor]}, {main.label}"
    panel = Panel(title, _scale(rows), lines, height_for(lines, 235.0), peak)
    apart = [row for row in rows if row["subset"] != "mean"] or rows
    return Drawing(rows[0]["model"], _caption(apart, "by subset"), [*labels.values()], [panel])


def width_drawing(frame: pd.DataFrame) -> Drawing:
    """R² by layer of ridge, width-matched ridge and least squares, n/d on top.

    With n training images and d features, where n ≈ d, least squares interpolates its training
    images and so follows the noise, whatever the layer encodes.
    """
    rows, caption = _chosen(_rows(frame, "n_fit", "n_features"), "mean")
    labels, (kind, _) = _labels(rows), _main(rows)
    own = [row for row in rows if row["weights"] == kind and row["target"] == "true"]
    k = max((row["n_features"] for row in own if row["regressor"] == "matched"), default=0)
    looks = {
        Look("ridge", BLUE, "-", "o", 2.4, 0.18): {"regressor": "ridge"},
        Look(f"ridge, {k:,.0f} components", GREEN, "-.", "^", 2.0): {"regressor": "matched"},
        Look("least squares", VERMILION, "--", "s", 2.0, 0.12): {"regressor": "ols"},
    }
    widths = {row["layer"]: row for row in own if row["regressor"] in REGRESSORS}
    ratios = [
        widths[layer]["n_fit"] / widths[layer]["n_features"] if layer in widths else math.nan
        for layer in labels
    ]
    low, high = INTERPOLATING
    spans = _spans([place for place, ratio in enumerate(ratios) if low < ratio < high])
    mark = Mark("n ≈ d: least squares interpolates noise", VERMILION, spans, is_shaded=True)
    is_marked = spans and any(row["regressor"] == "ols" for row in own)
    panel = Panel(
        "n training images, d features",
        _scale(rows),
        lines_of(own, labels, looks, y=R2_COLUMNS),
        235.0,
        marks=(mark,) if is_marked else (),
        numbers=("n/d", [_ratio(ratio) for ratio in ratios]),
    )
    return Drawing(rows[0]["model"], caption, [*labels.values()], [panel])


def combined_drawing(frame: pd.DataFrame, combined: pd.DataFrame) -> Drawing:
    """R² of all layers up to each together, and of each alone, by ridge; mean over the subsets.

    One panel per measure.

    Args:
        frame: the rows of `curve.csv`.
        combined: the rows of `combined.csv`.
    """
    panels: list[Panel] = []
    labels: dict[str, str] = {}
    chosen: Rows = []
    measures, caption = list(dict.fromkeys(map(str, combined.measure))), ""
    of_mean = combined.loc[combined.subset == "mean"]
    for measure in measures:
        rows, caption = _chosen(_rows(frame.loc[frame.measure == measure]), "mean")
        chosen += rows
        own = {"weights": _main(rows)[0], "target": "true", "regressor": "ridge"}
        alone = [row for row in rows if own.items() <= row.items()]
        together = [
            {**row, "layer": row["up_to"], "r2": row["score"]}
            | {"r2_low": row["score_low"], "r2_high": row["score_high"]}
            for row in of_mean.loc[of_mean.measure == measure].to_dict("records")
        ]
        joined = {row["layer"] for row in together}
        labels = {layer: name for layer, name in _labels(alone).items() if layer in joined}
        lines = [
            *lines_of(together, labels, {TOGETHER: {}}, y=R2_COLUMNS),
            *lines_of(alone, labels, {ALONE: {}}, y=R2_COLUMNS),
        ]
        is_one = len(measures) == 1
        title, height = (REGRESSORS["ridge"], 235.0) if is_one else (measure, 150.0)
        panels.append(Panel(title, R2, lines, height, _peak(lines[1], labels)))
    if len(measures) > 1:
        counts = range_of(chosen, "n_images")
        caption = (
            f"{len(measures)} measures, {REGRESSORS['ridge'].lower()}   ·   n = {counts} images"
        )
    return Drawing(chosen[0]["model"], caption, [*labels.values()], panels)


def comparison_drawing(table: pd.DataFrame) -> Drawing:
    """Score by relative depth of several runs, one panel per metric; dots at the highest scores.

    Lines are straight between layers. Bands are drawn for as many as can be distinguished.

    Args:
        table: the rows of `curves.csv` of a comparison.
    """
    columns = ("run", "measure", "metric", "layer", "depth", "score", "score_low", "score_high")
    rows = rows_of(table, columns, (), ("table of curves", "curves.csv of a comparison"))
    depths = np.linspace(0.0, 1.0, DEPTHS)
    targets = list(dict.fromkeys(row["measure"] for row in rows))
    looks: dict[tuple[str, str], Look] = {}
    panels: list[Panel] = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of_metric = [row for row in rows if row["metric"] == metric]
        lines: list[Line] = []
        for run, measure in dict.fromkeys((row["run"], row["measure"]) for row in of_metric):
            name = run if len(targets) == 1 else f"{run}, {measure}"
            look = looks.setdefault((run, measure), named_look(name, len(looks)))
            own = [row for row in of_metric if (row["run"], row["measure"]) == (run, measure)]
            lines.append(_by_depth(own, depths, look))
        if len(lines) <= MOST_BANDS:
            banded = [replace(line.look, band_opacity=0.15) for line in lines]
            lines = [replace(line, look=look) for line, look in zip(lines, banded, strict=True)]
        panels.append(Panel("", SCALES[metric], lines, height_for(lines, 260.0)))
    caption = f"target: {', '.join(targets)}   ·   mean over subsets   ·   dots: highest scores"
    names = [f"{depth:.1f}" for depth in depths]
    heading = f"{len({row['run'] for row in rows})} runs compared"
    axis = "depth of the layer: 0 the first, 1 the last"
    return Drawing(heading, caption, names, panels, axis, every=(DEPTHS - 1) // 5)


def _by_depth(rows: Rows, depths: np.ndarray, look: Look) -> Line:
    """The scores of one run at evenly spaced depths, straight between its layers."""
    rows = sorted(rows, key=lambda row: row["depth"])
    found = [row["depth"] for row in rows]
    values, low, high = (
        np.interp(depths, found, [row[name] for row in rows], left=math.nan, right=math.nan)
        for name in ("score", "score_low", "score_high")
    )
    best = max(rows, key=lambda row: row["score"])
    at = int(np.abs(depths - best["depth"]).argmin())
    values[at] = best["score"]
    return Line(look, values, low, high, marked=(at,))


def learning_drawing(frame: pd.DataFrame, subset: str = "mean") -> Drawing:
    """R² by layer for every number of training images, one panel per regressor.

    Of several targets, one panel per target, by ridge or else least squares.
    """
    targets = list(dict.fromkeys(map(str, frame["measure"])))
    if len(targets) == 1:
        return _learning_of(frame, subset)
    each = [_learning_of(frame.loc[frame["measure"] == target], subset) for target in targets]
    panels = [
        replace(drawing.panels[0], title=f"{target}: {drawing.panels[0].title}")
        for target, drawing in zip(targets, each, strict=True)
    ]
    counts = range_of(frame.loc[frame["subset"] == subset].to_dict("records"), "n_fit")
    caption = f"{len(targets)} targets   ·   n = {counts} for training"
    return replace(each[0], caption=caption, panels=panels)


def _learning_of(frame: pd.DataFrame, subset: str) -> Drawing:
    """The panels of one target."""
    rows, caption = _chosen(_rows(frame, "n_fit"), subset)
    labels, (kind, main) = _labels(rows), _main(rows)
    numbers = sorted({row["n_fit"] for row in rows if row["regressor"] in REGRESSORS})
    shades = shade_looks([f"n = {number:,.0f}" for number in numbers], "Blues", 0.5, 1.0)
    own = {"weights": kind, "target": "true"}
    panels: list[Panel] = []
    for regressor in _regressors(rows):
        looks = {
            look: {"n_fit": number, "regressor": regressor, **own}
            for look, number in reversed([*zip(shades, numbers, strict=True)])
        }
        lines = lines_of(rows, labels, looks, y=R2_COLUMNS)
        title = f"{REGRESSORS[regressor]}, {main.label}, fitted to n images"
        height = height_for(lines, 120.0 if panels else 180.0)
        panels.append(Panel(title, _scale(rows), lines, height))
    return Drawing(rows[0]["model"], caption, [*labels.values()], panels)


def subsets_of(frame: pd.DataFrame) -> list[str]:
    """The subsets without their mean, in order."""
    return [name for name in dict.fromkeys(map(str, frame["subset"])) if name != "mean"]


def rows_of(
    table: pd.DataFrame, columns: Sequence[str], alike: Sequence[str], names: tuple[str, str]
) -> Rows:
    """The rows of a table; names are text, and `alias` is the name of the layer in figures.

    For messages, `names` says what the table is of, and where it comes from.

    Raises:
        DataError: if a column is missing, or one of `alike` has several values.
    """
    what, source = names
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"The {what} lacks {len(missing)} of the columns that a figure needs, the first is "
            f"{missing[0]!r}. Give {source} as scalecut wrote it."
        )
    for column in alike:
        values = list(dict.fromkeys(table[column]))
        if len(values) > 1:
            raise DataError(
                f"The {what} has {len(values)} {column.removesuffix('s')}s, {values[0]!r} and "
                f"{values[1]!r} first; a figure shows one. Choose it with "
                f"frame[frame.{column} == {values[0]!r}]."
            )
    rows: Rows = table.to_dict("records")
    for row in rows:
        row |= {name: str(row[name]) for name in ("model", "subset", "layer") if name in row}
        # an empty alias becomes nan in a CSV file
        alias = row.get("alias")
        row["alias"] = (isinstance(alias, str) and alias) or row.get("layer")
    return rows


def layer_names(rows: Rows) -> dict[str, str]:
    """The name of each layer in figures, from input to output."""
    return {row["layer"]: row["alias"] for row in sorted(rows, key=lambda row: row["depth"])}


def lines_of(
    rows: Rows,
    places: Iterable[Any],
    looks: Mapping[Look, Mapping[str, Any]],
    *,
    x: str = "layer",
    y: tuple[str, str, str] = ("value", "low", "high"),
) -> list[Line]:
    """A line per look that has rows: their columns `y`, at the places in column `x`."""
    places, lines = list(places), []
    for look, wanted in looks.items():
        by_place = {row[x]: row for row in rows if wanted.items() <= row.items()}
        found = [by_place.get(place, {}) for place in places]
        columns = ([row.get(column, math.nan) for row in found] for column in y)
        values, low, high = (np.array(column, np.float64) for column in columns)
        if by_place:
            lines.append(Line(look, values, low, high))
    return lines


def range_of(rows: Rows, column: str) -> str:
    """The values of a column as text, from the lowest to the highest."""
    counts = [row[column] for row in rows]
    low, high = f"{min(counts):,.0f}", f"{max(counts):,.0f}"
    return low if low == high else f"{low} to {high}"


def _curve_drawing(
    frame: pd.DataFrame, subset: str, scale: Scale | None, evidence: Mapping[str, Any] | None
) -> Drawing:
    rows = _rows(frame)
    scale = scale or _scale(rows)
    chosen, caption = _chosen(rows, subset)
    labels, regressors = _labels(chosen), _regressors(chosen)
    kind, main = _main(rows)
    wanted = {
        main: {"weights": kind, "target": "true"},
        RANDOM: {"weights": "random", "target": "true"},
        PERMUTED: {"weights": "permuted", "target": "true"},
        SHUFFLED: {"weights": kind, "target": "shuffled"},
    }
    # ridge is the headline and gets the larger share
    heights = [132.0, 100.0] if len(regressors) > 1 else [235.0]
    panels: list[Panel] = []
    for regressor, height in zip(regressors, heights, strict=True):
        here = [row for row in chosen if row["regressor"] == regressor]
        lines = lines_of(_with_spread(here), labels, wanted, y=R2_COLUMNS)
        pixels = [row for row in here if (row["weights"], row["target"]) == ("pixels", "true")]
        lines += [_level(float(row["r2"]), len(labels), PIXELS) for row in pixels]
        if evidence and evidence.get("chance"):
            lines.append(_level(float(evidence["chance"]), len(labels), CHANCE))
        marks = _marks(evidence, labels) if evidence and not panels else ()
        best = evidence["peak"] if evidence else None
        named = "R²" if rows[0]["metric"] == "r2" else ""
        own = [line for line in lines if line.look == main and not panels]
        peaks = (_peak(line, labels, best, named) for line in own)
        height = max(height, 27.0 * len(lines))
        panels.append(Panel(REGRESSORS[regressor], scale, lines, height, next(peaks, None), marks))
    return Drawing(rows[0]["model"], caption, [*labels.values()], panels)


def _rows(frame: pd.DataFrame, *more: str) -> Rows:
    """The rows that can be drawn."""
    known = (*REGRESSORS, "matched")
    frame = frame if "metric" in frame else frame.assign(metric="r2")
    rows = rows_of(frame, (*COLUMNS, *more), ("model", "measure"), SOURCE)
    rows = [row for row in rows if row["regressor"] in known]
    rows = _scored(rows) if rows else rows
    if not _regressors(rows) or not _labels(rows):
        raise DataError(
            f"The curve has {len(frame)} rows, none of them of the regressors ridge or ols. "
            "Run `scalecut probe` again with --regressor ridge or ols."
        )
    return rows


def _chosen(rows: Rows, subset: str) -> tuple[Rows, str]:
    """The rows of a subset, and what it is."""
    has = list(dict.fromkeys(row["subset"] for row in rows))
    subsets = [name for name in has if name != "mean"]
    chosen = [row for row in rows if row["subset"] == subset]
    if subset == "mean" and not chosen and len(subsets) == 1:
        chosen = rows
    if not chosen:
        raise DataError(
            f"The curve has no subset {subset!r}. It has {len(has)}: {', '.join(has[:8])}"
            f"{', …' if len(has) > 8 else ''}. Choose one of them."
        )
    named = [shortened(name, 36) for name in (subsets if subset == "mean" else [subset])]
    listed = ", ".join(named) or "all subsets"
    listed = listed if len(listed) <= 36 else f"{len(named)} subsets"
    return chosen, _caption(chosen, f"{'subset:' if len(named) == 1 else 'mean of'} {listed}")


def _caption(rows: Rows, subset_text: str) -> str:
    n = f"n = {range_of(rows, 'n_images')} images"
    if "n_fit" in rows[0]:
        n = f"{range_of(rows, 'n_images')} images, n = {range_of(rows, 'n_fit')} for training"
    return f"measure: {rows[0]['measure']}   ·   {subset_text}   ·   {n}"


def _main(rows: Rows) -> tuple[str, Look]:
    """The weights that the curve is of; random if the network was asked for so."""
    if any(row["weights"] == "pretrained" for row in rows):
        return "pretrained", PRETRAINED
    return "random", RANDOM


def _regressors(rows: Rows) -> list[str]:
    return [name for name in REGRESSORS if any(row["regressor"] == name for row in rows)]


def _labels(rows: Rows) -> dict[str, str]:
    """The name of each layer in figures; pixels are no layer."""
    return layer_names([row for row in rows if row["weights"] != "pixels"])


def _level(value: float, count: int, look: Look) -> Line:
    """A value without a layer: the same at every place."""
    nowhere = np.full(count, math.nan)
    return Line(look, np.full(count, value), nowhere, nowhere, is_level=True)


def _scored(rows: Rows) -> Rows:
    """The rows of the first metric that is there; other than R², its score is drawn like R²."""
    metric = next(name for name in SCALES if any(row["metric"] == name for row in rows))
    shown = [row for row in rows if row["metric"] == metric]
    ends = ("", "_low", "_high")
    if metric == "r2":
        return shown
    return [row | {f"r2{end}": row[f"score{end}"] for end in ends} for row in shown]


def _scale(rows: Rows) -> Scale:
    return SCALES[rows[0]["metric"]]


def _with_spread(rows: Rows) -> Rows:
    """The same rows; the interval of random weights covers the spread of the networks, up to 1."""
    wide: Rows = []
    for row in rows:
        spread = row.get("r2_spread", math.nan) if row["weights"] == "random" else math.nan
        low, high = row["r2"] - spread, np.minimum(1.0, row["r2"] + spread)
        low, high = np.fmin(row["r2_low"], low), np.fmax(row["r2_high"], high)
        wide.append(row | {"r2_low": low, "r2_high": high})
    return wide


def _peak(
    line: Line, labels: Mapping[str, str], layer: str | None = None, metric: str = "R²"
) -> Peak | None:
    """At the layer, or else where the line is highest; None where that is below the floor.

    As in the evidence of a curve, the softmax is a candidate only if there is no other.
    """
    is_candidate = np.array([name != SOFTMAX for name in labels]) | (len(labels) == 1)
    candidates = np.where(is_candidate & np.isfinite(line.values), line.values, -np.inf)
    at = int(np.argmax(candidates)) if layer is None else list(labels).index(layer)
    if not line.values[at] >= R2.floor:
        return None
    name = shortened(list(labels.values())[at], 2 * LONGEST_TICK)
    score = f"{line.values[at]:.2f}".replace("-", "−")
    return Peak(line, at, f"peak: {name}, {metric} {score}".replace("  ", " "))


def _marks(evidence: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[Mark, ...]:
    """The confidence set of the peak; the drop between two layers, in the shade of its interval."""
    has_fall = evidence["fall_after"] is not None
    falls = [evidence[f"fall_{end}"] for end in ("after", "first", "last")] if has_fall else []
    layers = list(labels)
    for name in (evidence["peak"], *evidence["confidence_set"], *falls):
        if name not in labels:
            raise DataError(
                f"The evidence names the layer {name!r}, but the curve has {len(layers)} others, "
                f"{layers[0]!r} to {layers[-1]!r}. Give the evidence of the same curve."
            )
    places = sorted(layers.index(name) for name in evidence["confidence_set"])
    best = Mark("95 % set of the peak", BLUE, _spans(places))
    if not has_fall:
        return (best,)
    after, first, last = map(layers.index, falls)
    fall = Mark("drop", INK, ((float(first), last + 1.0),), is_shaded=True, at=after + 0.5)
    return best, fall


def _spans(places: Sequence[int]) -> tuple[tuple[float, float], ...]:
    """Ascending places as spans without a gap."""
    starts = [place for place in places if place - 1 not in places]
    ends = [place for place in places if place + 1 not in places]
    return tuple((start - 0.5, end + 0.5) for start, end in zip(starts, ends, strict=True))


def _ratio(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}"
