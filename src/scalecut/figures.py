"""Figures of a curve, drawn from its table; nothing is computed here but places on the page.

Every figure is a stack of panels over the same layers, from input to output. Lines are named where
they end, so there is no legend. R² below the floor of a panel is not drawn to scale: a strip under
the panel has a marker and the value instead, so that one layer at -300 hides no other.

Lengths are in points, 72 to the inch, as matplotlib counts type.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from scipy.optimize import isotonic_regression

from .errors import DataError

Values: TypeAlias = Float[np.ndarray, " L"]
Positions: TypeAlias = Int[np.ndarray, " k"]
Rows: TypeAlias = list[dict[str, Any]]

FONT = "DejaVu Sans"  # comes with matplotlib, so the figure is the same everywhere
TYPE, TYPE_DENSE, TYPE_SMALL, TYPE_HEADING = 13.0, 11.0, 10.0, 16.0
STYLE: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": TYPE,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "text.usetex": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "scalecut",  # the same figure gives the same bytes
}
WIDTH, LEFT, HEADING, TITLE, GAP, STRIP_ROW = 720.0, 78.0, 54.0, 24.0, 14.0, 22.0
TICK_LINE, NAME_LINE = 18.0, 16.0  # from one slanted, or level, name to the next
LONGEST_TICK = 25  # characters; a DenseNet's layer names have 33

INK, QUIET, GRID, SHADE = "#222222", "#5c5c5c", "#e4e4e4", "#f3f3f3"
# Okabe and Ito, Color Universal Design (2008), without the yellow, which is lost on white.
BLUE, VERMILION = "#0072B2", "#D55E00"
SUBSET_COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", QUIET)
SUBSET_DASHES = ("--", "-.", ":", "-")
SUBSET_MARKERS = ("s", "^", "D", "v", "P")  # 7, 4 and 5 have no common factor: 140 looks

NAMES = ("model", "subset", "measure", "layer", "alias", "weights", "target", "regressor")
COLUMNS = (*NAMES, "depth", "n_images", "r2", "r2_low", "r2_high")
REGRESSORS = {"ridge": "Ridge regression", "ols": "Ordinary least squares"}


@dataclass(frozen=True, slots=True)
class Look:
    """What tells a line from the others, in colour and in grey."""

    label: str
    colour: str
    dash: str
    marker: str
    width: float
    band_opacity: float = 0.0


MEAN = Look("mean", INK, "-", "o", 3.0)
PRETRAINED = Look("pretrained", BLUE, "-", "o", 2.4, 0.22)
RANDOM = Look("random weights", VERMILION, "--", "s", 1.8, 0.12)
SHUFFLED = Look("shuffled measure", QUIET, ":", "D", 1.8)


@dataclass(frozen=True, slots=True)
class Line:
    """R² by layer with its interval, nan where a layer has none."""

    look: Look
    r2: Values
    low: Values
    high: Values


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share one pair of axes, the uppermost first; the peak of `peak` is marked."""

    title: str
    lines: list[Line]
    peak: Line | None
    height: float


@dataclass(frozen=True, slots=True)
class Scale:
    """How R² is shown: `shown` of it is drawn, and what lies below `floor` is written instead."""

    label: str
    shown: Callable[[Values], Values]
    floor: float  # as R²
    bottom: float  # as shown; the axis begins here, or lower if a value does
    zero_label: str


PLAIN = Scale("held-out R²", lambda r2: r2, -1.0, -0.1, "")
# e^(R²)/e, `graziani2021`: 1 at R² = 1, 1/e at 0, 0 at minus infinity
EXPONENTIAL = Scale(
    r"$e^{R^2}\!/\,e$ of mean", lambda r2: np.exp(r2 - 1.0), -math.inf, 0.0, "R² = 0"
)


def curve_figure(frame: pd.DataFrame, *, subset: str = "mean") -> Figure:
    """R² by layer with its controls, one panel a regressor, the peak of the first one marked.

    The band is the interval from `r2_low` to `r2_high`. A combination that the frame does not have
    is not drawn; random weights with a shuffled measure never are.

    Args:
        frame: the rows of `curve.csv`, of one model and one measure.
        subset: whose curve; `mean` is that of the only subset if there is but one.

    Raises:
        DataError: if a column or the subset is not there, no row has a known regressor, or there
            is more than one model or measure.
    """
    return _curve_figure(frame, subset, PLAIN)


def exponential_figure(frame: pd.DataFrame, *, subset: str = "mean") -> Figure:
    """`curve_figure` on the paper's axis, e^(R²)/e (`graziani2021`).

    The paper averages over repeats after the transform. The frame holds means only, so here the
    mean is transformed, which gives less: the exponential is convex.
    """
    return _curve_figure(frame, subset, EXPONENTIAL)


def subset_figure(frame: pd.DataFrame) -> Figure:
    """R² by layer of every subset and of their mean, for the pretrained network and ridge.

    Where ridge was not asked for, least squares is drawn.
    """
    rows = _rows(frame)
    regressor, labels, subsets = _regressors(rows)[0], _labels(rows), subsets_of(frame)
    kind, main = _main(rows)
    true = {"weights": kind, "target": "true", "regressor": regressor}
    looks = {MEAN: {"subset": "mean", **true}}
    for number, subset in enumerate(subsets):
        cycles = (SUBSET_COLOURS, SUBSET_DASHES, SUBSET_MARKERS)
        colour, dash, marker = (cycle[number % len(cycle)] for cycle in cycles)
        look = Look(_shortened(subset, LONGEST_TICK), colour, dash, marker, 1.8)
        looks[look] = {"subset": subset, **true}
    lines = _lines(rows, labels, looks)
    peak = next((line for line in lines if line.look == MEAN), None)
    height = max(235.0, NAME_LINE * len(lines))
    panel = Panel(f"{REGRESSORS[regressor]}, {main.label}", lines, peak, height)
    apart = [row for row in rows if row["subset"] != "mean"] or rows
    return _figure(rows[0]["model"], _caption(apart, "by subset"), labels, [panel], PLAIN)


def _curve_figure(frame: pd.DataFrame, subset: str, scale: Scale) -> Figure:
    rows, subsets = _rows(frame), subsets_of(frame)
    chosen = [row for row in rows if row["subset"] == subset]
    if subset == "mean" and not chosen and len(subsets) == 1:
        chosen = rows
    if not chosen:
        has = list(dict.fromkeys(row["subset"] for row in rows))
        raise DataError(
            f"The curve has no subset {subset!r}. It has {len(has)}: {', '.join(has[:8])}"
            f"{', …' if len(has) > 8 else ''}. Choose one of them."
        )
    labels, regressors = _labels(chosen), _regressors(chosen)
    kind, main = _main(rows)
    wanted = {main: {"weights": kind, "target": "true"}}
    wanted |= {RANDOM: {"weights": "random", "target": "true"}}
    wanted |= {SHUFFLED: {"weights": kind, "target": "shuffled"}}
    # ridge is the headline and gets the larger share
    heights = [132.0, 100.0] if len(regressors) > 1 else [235.0]
    panels: list[Panel] = []
    for regressor, height in zip(regressors, heights, strict=True):
        here = [row for row in chosen if row["regressor"] == regressor]
        lines = _lines(here, labels, wanted)
        peak = next((line for line in lines if line.look == main and not panels), None)
        panels.append(Panel(REGRESSORS[regressor], lines, peak, height))
    named = [_shortened(name, 36) for name in (subsets if subset == "mean" else [subset])]
    listed = ", ".join(named) or "all subsets"
    listed = listed if len(listed) <= 36 else f"{len(named)} subsets"
    caption = _caption(chosen, f"{'subset:' if len(named) == 1 else 'mean of'} {listed}")
    return _figure(rows[0]["model"], caption, labels, panels, scale)


def _main(rows: Rows) -> tuple[str, Look]:
    """The weights that the curve is of; random if the network was asked for so."""
    if any(row["weights"] == "pretrained" for row in rows):
        return "pretrained", PRETRAINED
    return "random", RANDOM


def _rows(frame: pd.DataFrame) -> Rows:
    """The rows that can be drawn; names are text, and `alias` is what to call the layer."""
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise DataError(
            f"The curve lacks {len(missing)} of the columns that a figure needs, the first is "
            f"{missing[0]!r}. Give the frame of a Curve, or a curve.csv as scalecut wrote it."
        )
    rows: Rows = [row for row in frame.to_dict("records") if row["regressor"] in REGRESSORS]
    if not rows:
        raise DataError(
            f"The curve has {len(frame)} rows, none of them of the regressors ridge or ols. "
            "Run `scalecut probe` again; a finished run has rows of one of them."
        )
    for column in ("model", "measure"):
        values = list(dict.fromkeys(row[column] for row in rows))
        if len(values) > 1:
            raise DataError(
                f"The curve has {len(values)} {column}s, {values[0]!r} and {values[1]!r} first; a "
                f"figure shows one. Choose one: frame[frame.{column} == {values[0]!r}]."
            )
    for row in rows:
        row |= {name: str(row[name]) for name in ("model", "subset", "layer")}
        # an empty alias comes back from a csv as nan
        row["alias"] = (isinstance(row["alias"], str) and row["alias"]) or row["layer"]
    return rows


def subsets_of(frame: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(map(str, frame["subset"])) if name != "mean"]


def _regressors(rows: Rows) -> list[str]:
    return [name for name in REGRESSORS if any(row["regressor"] == name for row in rows)]


def _labels(rows: Rows) -> dict[str, str]:
    """What each layer is called, from input to output."""
    return {row["layer"]: row["alias"] for row in sorted(rows, key=lambda row: row["depth"])}


def _lines(rows: Rows, labels: dict[str, str], looks: dict[Look, dict[str, str]]) -> list[Line]:
    lines = []
    for look, wanted in looks.items():
        by_layer = {row["layer"]: row for row in rows if wanted.items() <= row.items()}
        found = [by_layer.get(layer, {}) for layer in labels]
        columns = ([row.get(c, math.nan) for row in found] for c in ("r2", "r2_low", "r2_high"))
        if by_layer:
            lines.append(Line(look, *(np.array(column, np.float64) for column in columns)))
    return lines


def _caption(rows: Rows, subset_text: str) -> str:
    counts = [row["n_images"] for row in rows]
    low, high = f"{min(counts):,.0f}", f"{max(counts):,.0f}"
    n = f"n = {low}{'' if low == high else f' to {high}'} images"
    return f"measure: {rows[0]['measure']}   ·   {subset_text}   ·   {n}"


@dataclass(frozen=True, slots=True)
class Page:
    """What the panels of a figure have in common."""

    layers: list[str]
    ticks: list[str]
    tick_type: float
    left: float
    width: float
    spacing: float
    slant: float  # how deep the layers' names hang, 0 where they fit side by side


def _page(labels: dict[str, str], panels: list[Panel], scale: Scale) -> Page:
    layers = list(labels.values())
    ticks = [_shortened(layer, LONGEST_TICK) for layer in layers]
    tick_type = TYPE if len(ticks) <= 25 else TYPE_DENSE
    widest = max(_width(tick, tick_type) for tick in ticks)
    names = [scale.zero_label, *(line.look.label for panel in panels for line in panel.lines)]
    right = max(_width(name) for name in names) + 32.0
    fit = widest + 10.0 <= (WIDTH - LEFT - right) / len(ticks)
    slant = 0.0 if fit else widest * math.sin(math.pi / 4)
    left = max(LEFT, slant)
    width = WIDTH - left - right
    return Page(layers, ticks, tick_type, left, width, width / len(ticks), slant)


def _figure(
    model: str, caption: str, labels: dict[str, str], panels: list[Panel], scale: Scale
) -> Figure:
    """Stack the panels from the top; the page grows with the strips and the length of the names."""
    with matplotlib.rc_context(STYLE):
        page = _page(labels, panels, scale)
        hidden = [[ln for ln in panel.lines if _below(ln, scale).size] for panel in panels]
        strips = [STRIP_ROW * len(lines) + 4.0 * bool(lines) for lines in hidden]
        height = HEADING + sum(TITLE + panel.height for panel in panels) + sum(strips)
        height += GAP * (len(panels) - 1) + 22.0 + max(TYPE, page.slant)
        figure = Figure(figsize=(WIDTH / 72, height / 72))

        model = _shortened(model, 52)
        longest = max(_width(caption), _width(model, TYPE_HEADING, "bold"))
        start = max(12.0, min(page.left, WIDTH - 12.0 - longest)) / WIDTH
        figure.text(start, 1 - 12 / height, model, size=TYPE_HEADING, weight="bold", va="top")
        figure.text(start, 1 - 34 / height, caption, color=QUIET, va="top")
        left, width, top = page.left / WIDTH, page.width / WIDTH, height - HEADING
        for panel, lines, strip in zip(panels, hidden, strips, strict=True):
            top -= TITLE + panel.height
            lowest = figure.add_axes((left, top / height, width, panel.height / height))
            _draw_panel(lowest, panel, scale, page)
            top -= strip
            if lines:
                lowest = figure.add_axes((left, top / height, width, strip / height))
                _draw_strip(lowest, lines, scale, page)
            _draw_ticks(lowest, page, is_named=panel is panels[-1])
            top -= GAP
    return figure


def _draw_panel(axes: Axes, panel: Panel, scale: Scale, page: Page) -> None:
    bottom, top = _limits(panel, scale)
    axes.set(xlim=(-0.5, len(page.layers) - 0.5), ylim=(bottom, top), xticks=[], axisbelow=True)
    axes.set_title(panel.title, loc="left", size=TYPE, weight="bold", color=INK, pad=6)
    axes.set_ylabel(scale.label, size=TYPE, color=INK, parse_math=True)
    axes.yaxis.set_label_coords(-52 / page.width, (1 + bottom) / 2, axes.get_yaxis_transform())
    step = 0.5 if bottom < -0.5 else 0.2
    axes.set_yticks(step * np.arange(math.ceil(bottom / step), round(1 / step) + 1))
    axes.tick_params(axis="y", labelsize=TYPE, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.axhline(_shown(scale, 0.0), color=INK, linewidth=1.0, zorder=1.5, label="zero")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["left"].set_bounds(bottom, 1.0)

    for line in reversed(panel.lines):  # the first one lies on top
        _draw_line(axes, line, scale, page)
    _name_lines(axes, panel, scale)
    if panel.peak is not None and np.isfinite(panel.peak.r2).any():
        _mark_peak(axes, panel.peak, scale, page)


def _limits(panel: Panel, scale: Scale) -> tuple[float, float]:
    """From the lowest value or a little below the floor, to 1 or the name of the peak."""
    values = scale.shown(np.concatenate([np.zeros(0), *(line.r2 for line in panel.lines)]))
    lowest = float(np.min(values[np.isfinite(values)], initial=scale.bottom))
    bottom = max(_shown(scale, scale.floor), lowest) - 0.05
    if panel.peak is None:
        return bottom, 1.02
    tops = scale.shown(np.concatenate([panel.peak.r2, panel.peak.high]))
    highest = float(np.max(tops[np.isfinite(tops)], initial=bottom))
    return bottom, max(1.02, highest + 28.0 * (1.0 - bottom) / panel.height)


def _draw_line(axes: Axes, line: Line, scale: Scale, page: Page) -> None:
    look, x = line.look, np.arange(len(page.layers))
    if look.band_opacity:
        low, high = scale.shown(line.low), scale.shown(line.high)
        axes.fill_between(x, low, high, color=look.colour, alpha=look.band_opacity, lw=0)
    # where markers would hide the dashes, only a value without neighbours has one
    there = np.isfinite(np.pad(line.r2, 1, constant_values=np.nan))
    alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])
    axes.plot(
        x, scale.shown(line.r2), linestyle=look.dash, color=look.colour, linewidth=look.width,
        marker=look.marker, markersize=5.5, markevery=None if page.spacing > 15 else list(alone),
        label=look.label, zorder=3,
    )  # fmt: skip


def _name_lines(axes: Axes, panel: Panel, scale: Scale) -> None:
    """Write each line's name right of where it ends; one that ends off the scale has a strip."""
    bottom, top = axes.get_ylim()
    ends = []
    for line in panel.lines:
        finite = np.flatnonzero(np.isfinite(line.r2))
        if finite.size and line.r2[finite[-1]] >= scale.floor:
            last = int(finite[-1])
            ends.append((_shown(scale, line.r2[last]), float(last), line.look))
    if scale.zero_label:
        look = Look(scale.zero_label, INK, "-", "", 1.0)
        ends.append((_shown(scale, 0.0), axes.get_xlim()[1], look))
    ends.sort(key=lambda end: end[0])
    apart = NAME_LINE * (top - bottom) / panel.height
    places = _spread([end[0] for end in ends], apart, bottom, 1.0)
    for (value, last, look), place in zip(ends, places, strict=True):
        arrow = {"arrowstyle": "-", "color": look.colour, "lw": 0.8, "relpos": (0.0, 0.5)}
        arrow |= {"shrinkA": 3, "shrinkB": 0}
        axes.annotate(
            look.label, (last, value), (1.02, place), textcoords=axes.get_yaxis_transform(),
            color=look.colour, va="center", annotation_clip=False, arrowprops=arrow,
        )  # fmt: skip


def _spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places as little as it takes to be `gap` apart and inside the limits."""
    if not wanted:
        return []
    steps = gap * np.arange(len(wanted))
    apart = isotonic_regression(np.array(wanted) - steps).x
    return list(np.clip(apart, low, max(low, high - steps[-1])) + steps)


def _mark_peak(axes: Axes, line: Line, scale: Scale, page: Page) -> None:
    best = int(np.argmax(np.where(np.isfinite(line.r2), line.r2, -np.inf)))
    value, high = _shown(scale, line.r2[best]), _shown(scale, line.high[best])
    r2 = f"{line.r2[best]:.2f}".replace("-", "−")
    text = f"peak: {_shortened(page.layers[best], 2 * LONGEST_TICK)}, R² {r2}"
    half, at = _width(text, weight="bold") / 2, (best + 0.5) * page.spacing
    shift = min(max(at, half), page.width - half) - at
    axes.plot(
        [best], [value], marker="o", markersize=11, color=line.look.colour, linestyle="",
        markeredgecolor="white", markeredgewidth=1.5, zorder=4, label="peak",
    )  # fmt: skip
    axes.annotate(
        text, (best, np.nanmax([value, high])), (shift, 8), textcoords="offset points",
        ha="center", weight="bold", color=line.look.colour, zorder=5,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip


def _below(line: Line, scale: Scale) -> Positions:
    return np.flatnonzero(line.r2 < scale.floor)


def _draw_strip(axes: Axes, lines: list[Line], scale: Scale, page: Page) -> None:
    """Below the floor: a row a line, with a marker at each layer and its value where it fits."""
    bottom = STRIP_ROW * len(lines) + 2.0
    axes.set(xlim=(-0.5, len(page.layers) - 0.5), ylim=(bottom, -2.0), xticks=[], yticks=[])
    axes.set_facecolor(SHADE)
    axes.spines[["top", "right", "left"]].set_visible(False)
    beside = axes.get_yaxis_transform()
    floor = f"below {scale.floor:g}".replace("-", "−")
    axes.text(-8 / page.width, bottom / 2, floor, transform=beside, ha="right", va="center")
    for row, line in enumerate(lines):
        below, top, colour = _below(line, scale), STRIP_ROW * row, line.look.colour
        middle, name = top + STRIP_ROW / 2, line.look.label
        axes.plot(below, 0 * below + top + 4.5, "v", markersize=6, color=colour, label=name)
        for layer in _fitting(line.r2, below, page.spacing):
            text = _written(float(line.r2[layer]))
            axes.text(layer, top + 14.5, text, size=TYPE_SMALL, ha="center", va="center")
        axes.text(1.02, middle, name, transform=beside, color=colour, va="center")


def _fitting(r2: Values, below: Positions, spacing: float) -> list[int]:
    """The layers whose values can be written side by side, chosen from the lowest R² on."""
    halves: dict[int, float] = {}
    for layer in below[np.argsort(r2[below], kind="stable")].tolist():
        half = _width(_written(float(r2[layer])), TYPE_SMALL) / 2 + 2.0
        if all(abs(layer - other) * spacing >= half + halves[other] for other in halves):
            halves[layer] = half
    return sorted(halves)


def _draw_ticks(axes: Axes, page: Page, *, is_named: bool) -> None:
    """Name the layers, level where they fit, else aslant and every k-th, ending with the last."""
    axes.set_xticks(range(len(page.ticks)), minor=True)
    axes.tick_params(axis="x", which="minor", length=3, color=INK)
    if not is_named:
        return
    step = math.ceil(TICK_LINE / page.spacing) if page.slant else 1
    kept = range((len(page.ticks) - 1) % step, len(page.ticks), step)
    slanted = {"rotation": 45, "ha": "right", "va": "center", "rotation_mode": "anchor"}
    names = [page.ticks[layer] for layer in kept]
    axes.set_xticks(list(kept), names, **(slanted if page.slant else {}))
    axes.tick_params(axis="x", which="major", length=6, labelsize=page.tick_type, colors=INK)


def _shown(scale: Scale, r2: float) -> float:
    return float(scale.shown(np.array([r2]))[0])


def _written(value: float) -> str:
    text = f"{value:,.{0 if value < -9.95 else 1}f}"
    if value < -1e4:
        text = f"{value / 1e3:.0f}k" if value > -1e6 else f"{value:.0e}".replace("+", "")
    return text.replace("-", "−")


def _width(text: str, size: float = TYPE, weight: str = "normal") -> float:
    font = FontProperties(family=FONT, weight=weight, size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def _shortened(text: str, longest: int) -> str:
    """Keep the end, in which the names of layers differ, from a dot on if there is one near."""
    if len(text) <= longest:
        return text
    start = len(text) - longest + 1
    dot = text.find(".", start - 1, start + longest // 2)
    return "…" + text[max(start, dot + 1) :]
