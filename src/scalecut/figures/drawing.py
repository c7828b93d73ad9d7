"""A figure of panels over the same named places: layers from input to output, or sizes.

Lines are labelled where they end, so there is no legend. Values below the floor of a panel are not
drawn to scale: a strip under the panel has a marker and the value instead, so that one layer at
-300 hides no other. Marked places have a bar with a name above the panel.

Lengths are in points, 72 per inch, as in matplotlib. Shape: L places.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from scipy.optimize import isotonic_regression

Values: TypeAlias = Float[np.ndarray, " L"]
Positions: TypeAlias = Int[np.ndarray, " k"]
Dash: TypeAlias = str | tuple[int, tuple[int, ...]]

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
NUMBER_ROW, MARK_ROW, AXIS_NAME = 20.0, 23.0, 22.0
TICK_LINE, NAME_LINE = 18.0, 16.0  # from one slanted, or level, name to the next
GRID_ROW, SHADES = 21.0, "Blues"
LONGEST_TICK = 25  # characters; a DenseNet's layer names have 33

INK, QUIET, GRID, SHADE = "#222222", "#5c5c5c", "#e4e4e4", "#f3f3f3"
# Okabe and Ito, Color Universal Design (2008), without the yellow, which is lost on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", QUIET)
DASHES = ("--", "-.", ":", "-")
MARKERS = ("s", "^", "D", "v", "P")  # 7, 4 and 5 have no common factor: 140 looks


@dataclass(frozen=True, slots=True)
class Look:
    """What distinguishes a line from the others, in colour and in grey."""

    label: str
    colour: str
    dash: Dash  # empty for values that are not joined, with bars as intervals
    marker: str
    width: float
    band_opacity: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """A value per place with its interval, nan where there is none."""

    look: Look
    values: Values
    low: Values
    high: Values
    is_level: bool = False  # the same at every place
    marked: tuple[int, ...] | None = None  # the places with a marker; None for all, where they fit


@dataclass(frozen=True, slots=True)
class Scale:
    """How values are drawn: `shown` of them; values below `floor` are written instead.

    The axis spans `bottom` to `top`, both as shown, or more if a value lies beyond.
    """

    label: str
    shown: Callable[[Values], Values] = lambda values: values
    floor: float = -math.inf
    bottom: float = 0.0
    top: float = 1.0
    named: Mapping[float, str] = field(default_factory=dict)  # values with a line across


@dataclass(frozen=True, slots=True)
class Peak:
    """The value of `line` at place number `at`, and its label."""

    line: Line
    at: int
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Marked places: a bar above the panel over each span, with the name above the longest.

    Place i reaches from i - 0.5 to i + 0.5. A line is drawn down the panel at `at`, and the
    panel is shaded under the bars if `is_shaded`.
    """

    name: str
    colour: str
    spans: tuple[tuple[float, float], ...]
    is_shaded: bool = False
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share one pair of axes, the uppermost first."""

    title: str
    scale: Scale
    lines: list[Line]
    height: float
    peak: Peak | None = None
    marks: tuple[Mark, ...] = ()
    numbers: tuple[str, list[str]] | None = None  # a second axis on top: its name and texts


@dataclass(frozen=True, slots=True)
class Grid:
    """A number for each row and place, as a shade from 0 or less (white) to 1 (dark).

    Args:
        rows: names, from top to bottom.
        values: nan is drawn as a dash.
    """

    title: str
    rows: list[str]
    values: Float[np.ndarray, "R L"]
    name: str = "R²"  # of the shades
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    numbers: None = None

    @property
    def height(self) -> float:
        """In points."""
        return GRID_ROW * len(self.rows)


R2 = Scale("held-out R²", floor=-1.0, bottom=-0.1)


@dataclass(frozen=True, slots=True)
class Page:
    """What the panels of a figure share."""

    places: list[str]
    tick_type: float
    left: float
    width: float
    spacing: float
    slant: float  # height of slanted names, 0 where level ones fit
    axis_name: str
    every: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a figure holds, before it has a size."""

    heading: str  # the network
    caption: str  # below the heading
    places: list[str]  # the names of the L places, from left to right
    panels: list[Panel] | list[Grid]  # from top to bottom
    axis_name: str = ""  # below the places; empty for layers
    every: int = 1  # places from one that is named to the next, the last among them


def page_figure(drawing: Drawing) -> Figure:
    """The panels below each other; the figure grows with the strips and the length of the names."""
    panels, axis_name = drawing.panels, drawing.axis_name
    with matplotlib.rc_context(STYLE):
        page = _page(drawing.places, panels, axis_name, drawing.every)
        hidden = [[] if isinstance(each, Grid) else _hidden(each) for each in panels]
        strips = [STRIP_ROW * len(lines) + 4.0 * bool(lines) for lines in hidden]
        heads = [_head(panel, page) for panel in panels]
        height = HEADING + sum(heads) + sum(panel.height for panel in panels) + sum(strips)
        height += GAP * (len(panels) - 1) + 22.0 + max(TYPE, page.slant)
        height += AXIS_NAME * bool(axis_name)
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        _write_heading(figure, shortened(drawing.heading, 52), drawing.caption, page.left)
        left, width, top = page.left / WIDTH, page.width / WIDTH, height - HEADING
        for panel, head, lines, strip in zip(panels, heads, hidden, strips, strict=True):
            top -= head + panel.height
            lowest = figure.add_axes((left, top / height, width, panel.height / height))
            if isinstance(panel, Grid):
                _draw_grid(lowest, panel, page)
            else:
                _draw_panel(lowest, panel, page)
            top -= strip
            if lines and isinstance(panel, Panel):
                lowest = figure.add_axes((left, top / height, width, strip / height))
                _draw_strip(lowest, lines, panel.scale, page)
            _draw_ticks(lowest, page, is_named=panel is panels[-1])
            top -= GAP
    return figure


def named_look(name: str, number: int) -> Look:
    """The look of the `number`-th of many lines of one kind."""
    colour, dash, marker = (cycle[number % len(cycle)] for cycle in (COLOURS, DASHES, MARKERS))
    return Look(shortened(name, LONGEST_TICK), colour, dash, marker, 1.8)


def shade_looks(names: Sequence[str], ramp: str, first: float, last: float) -> list[Look]:
    """The looks of ordered lines: colours of a colour map, from `first` to `last` (0 to 1)."""
    shades = matplotlib.colormaps[ramp](np.linspace(last, first, len(names))[::-1])
    markers = ("o", *MARKERS)
    return [
        Look(name, to_hex(shade), "-", markers[number % len(markers)], 2.0)
        for number, (name, shade) in enumerate(zip(names, shades, strict=True))
    ]


def height_for(lines: Sequence[Line], least: float) -> float:
    """A height at which the names of the lines fit."""
    return max(least, NAME_LINE * (len(lines) + 1))


def _page(
    places: Sequence[str], panels: Sequence[Panel | Grid], axis_name: str, every: int
) -> Page:
    ticks = [shortened(place, LONGEST_TICK) for place in places]
    tick_type = TYPE if len(ticks) <= 25 * every else TYPE_DENSE
    widest = max(_width(tick, tick_type) for tick in ticks)
    names = ["", *(line.look.label for panel in panels for line in panel.lines)]
    rows = [""]
    for panel in panels:
        if isinstance(panel, Grid):
            rows += panel.rows
            names.append(panel.name)  # above the scale of shades
        else:
            names += panel.scale.named.values()
    right = max(_width(name) for name in names) + 32.0
    fit = widest + 10.0 <= every * (WIDTH - LEFT - right) / len(ticks)
    slant = 0.0 if fit else widest * math.sin(math.pi / 4)
    left = max(LEFT, slant, max(_width(row) for row in rows) + 20.0)
    width = WIDTH - left - right
    return Page(ticks, tick_type, left, width, width / len(ticks), slant, axis_name, every)


def _write_heading(figure: Figure, heading: str, caption: str, left: float) -> None:
    height = 72 * figure.get_figheight()
    longest = max(_width(caption), _width(heading, TYPE_HEADING, "bold"))
    start = max(12.0, min(left, WIDTH - 12.0 - longest)) / WIDTH
    figure.text(start, 1 - 12 / height, heading, size=TYPE_HEADING, weight="bold", va="top")
    figure.text(start, 1 - 34 / height, caption, color=QUIET, va="top")


def _hidden(panel: Panel) -> list[Line]:
    """The lines of which a value is below the floor."""
    return [line for line in panel.lines if _below(line, panel.scale).size]


def _draw_grid(axes: Axes, grid: Grid, page: Page) -> None:
    """One cell per row and place, with its value where it fits, and the scale of shades."""
    edges = np.arange(len(page.places) + 1) - 0.5, np.arange(len(grid.rows) + 1) - 0.5
    shown = np.clip(np.nan_to_num(grid.values, nan=0.0), 0.0, 1.0)
    mesh = axes.pcolormesh(
        *edges, shown, cmap=SHADES, vmin=0, vmax=1, edgecolors="white", linewidth=0.6
    )
    axes.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][-1], edges[1][0]), xticks=[])
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.tick_params(axis="y", length=0, labelsize=TYPE, colors=INK)
    axes.set_title(grid.title, loc="left", size=TYPE, weight="bold", color=INK, pad=6)
    axes.spines[:].set_visible(False)
    if page.spacing >= _width("0.00", TYPE_SMALL) + 2.0:
        for row, values in enumerate(grid.values):
            for place, value in enumerate(values):
                colour = "white" if value > 0.55 else INK
                said = "–" if not np.isfinite(value) else _of_one(value)
                axes.text(place, row, said, size=TYPE_SMALL, ha="center", va="center", color=colour)
    bar = axes.inset_axes((1 + 8 / page.width, 0.0, 10 / page.width, 1.0))
    scale = axes.figure.colorbar(mesh, cax=bar, ticks=[0.0, 0.5, 1.0])
    scale.outline.set_visible(False)
    scale.set_ticklabels(["≤ 0", "0.5", "1"])
    scale.ax.set_title(grid.name, size=TYPE_DENSE, color=INK, loc="left", pad=6)
    scale.ax.tick_params(labelsize=TYPE_DENSE, colors=INK, length=3)


def _of_one(value: float) -> str:
    """Two digits after the point, as .62; below -1 less than one can use."""
    if value < -0.995:
        return "<−1"
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1).replace("-", "−")


def _head(panel: Panel | Grid, page: Page) -> float:
    """The height above the axes: numbers, the title with marks next to it, more marks."""
    row = max((row for row, _, _ in _placed_marks(panel, page)), default=0)
    return TITLE + MARK_ROW * row + NUMBER_ROW * (panel.numbers is not None)


def _draw_panel(axes: Axes, panel: Panel, page: Page) -> None:
    scale = panel.scale
    bottom, ceiling, top = _limits(panel)
    axes.set(xlim=(-0.5, len(page.places) - 0.5), ylim=(bottom, top), xticks=[], axisbelow=True)
    pad = 6 + NUMBER_ROW * (panel.numbers is not None)
    axes.set_title(panel.title, loc="left", size=TYPE, weight="bold", color=INK, pad=pad)
    axes.set_ylabel(scale.label, size=TYPE, color=INK)
    middle = (ceiling + bottom) / 2
    axes.yaxis.set_label_coords(-52 / page.width, middle, axes.get_yaxis_transform())
    step = _step((ceiling - bottom) / 7.5)
    axes.set_yticks(
        step * np.arange(math.ceil(bottom / step), math.floor(ceiling / step + 1e-9) + 1)
    )
    axes.tick_params(axis="y", labelsize=TYPE, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.axhline(_shown(scale, 0.0), color=INK, linewidth=1.0, zorder=1.5, label="zero")
    for value in set(scale.named) - {0.0}:
        axes.axhline(_shown(scale, value), color=QUIET, linewidth=1.0, dashes=(2, 2), zorder=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["left"].set_bounds(bottom, ceiling)

    for line in reversed(panel.lines):  # the first one lies on top
        _draw_line(axes, line, scale, page)
    _name_lines(axes, panel, ceiling)
    _draw_marks(axes, panel, page)
    if panel.numbers is not None:
        _draw_numbers(axes, *panel.numbers, 1 + 5.0 / panel.height, page)
    if panel.peak is not None:
        _mark_peak(axes, panel.peak, scale, page)


def _limits(panel: Panel) -> tuple[float, float, float]:
    """The lower end, the upper end of the axis, and the upper end with the label of the peak."""
    scale = panel.scale
    drawn = [line.values for line in panel.lines]
    drawn += [
        end for line in panel.lines if line.look.band_opacity for end in (line.low, line.high)
    ]
    ends = scale.shown(np.concatenate([np.zeros(0), *drawn]))
    ends = ends[np.isfinite(ends)]
    lowest = max(_shown(scale, scale.floor), float(np.min(ends, initial=scale.bottom)))
    ceiling = float(np.max(ends, initial=scale.top))
    span = (ceiling - lowest) or 1.0
    bottom, top = lowest - 0.05 * span, ceiling + 0.02 * span
    if panel.peak is None:
        return bottom, ceiling, top
    ends = scale.shown(np.concatenate([panel.peak.line.values, panel.peak.line.high]))
    highest = float(np.max(ends[np.isfinite(ends)], initial=bottom))
    name = 28.0 * (ceiling - bottom) / panel.height
    return bottom, ceiling, max(top, highest + name)


def _step(least: float) -> float:
    """The next of 1, 2, 5, 10, ... times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * round_one for round_one in (1, 2, 5, 10) if power * round_one >= least)


def _draw_line(axes: Axes, line: Line, scale: Scale, page: Page) -> None:
    look, x = line.look, np.arange(len(page.places))
    if line.is_level:
        axes.plot(
            axes.get_xlim(), scale.shown(line.values[[0, -1]]), linestyle=look.dash,
            color=look.colour, linewidth=look.width, label=look.label, zorder=3,
        )  # fmt: skip
        return
    if look.band_opacity:
        low, high = scale.shown(line.low), scale.shown(line.high)
        if look.dash:
            axes.fill_between(x, low, high, color=look.colour, alpha=look.band_opacity, lw=0)
        else:
            axes.vlines(x, low, high, color=look.colour, alpha=look.band_opacity, lw=look.width)
    # where markers would hide the dashes, only a value without neighbours gets one
    there = np.isfinite(np.pad(line.values, 1, constant_values=np.nan))
    alone = list(np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]))
    marked = None if page.spacing > 15 or not look.dash else alone
    if line.marked is not None:
        marked = list(line.marked)
    axes.plot(
        x, scale.shown(line.values), linestyle=look.dash, color=look.colour, linewidth=look.width,
        marker=look.marker, markersize=5.5, markevery=marked,
        label=look.label, zorder=3,
    )  # fmt: skip


def _name_lines(axes: Axes, panel: Panel, ceiling: float) -> None:
    """Write each line's name right of its end; a line that ends below the floor has a strip."""
    (bottom, top), scale, edge = axes.get_ylim(), panel.scale, axes.get_xlim()[1]
    ends = [
        (_shown(scale, value), edge, name, INK if value == 0 else QUIET)
        for value, name in scale.named.items()
    ]
    for line in panel.lines:
        finite = np.flatnonzero(np.isfinite(line.values))
        if finite.size and line.values[finite[-1]] >= scale.floor:
            last = int(finite[-1])
            at = edge if line.is_level else float(last)
            ends.append((_shown(scale, line.values[last]), at, line.look.label, line.look.colour))
    ends.sort(key=lambda end: end[0])
    apart = NAME_LINE * (top - bottom) / panel.height
    places = _spread([end[0] for end in ends], apart, bottom, ceiling)
    for (value, last, name, colour), place in zip(ends, places, strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "lw": 0.8, "relpos": (0.0, 0.5)}
        arrow |= {"shrinkA": 3, "shrinkB": 0}
        axes.annotate(
            name, (last, value), (1.02, place), textcoords=axes.get_yaxis_transform(),
            color=colour, va="center", annotation_clip=False, arrowprops=arrow,
        )  # fmt: skip


def _spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places as little as it takes to be `gap` apart and inside the limits."""
    if not wanted:
        return []
    steps = gap * np.arange(len(wanted))
    apart = isotonic_regression(np.array(wanted) - steps).x
    return list(np.clip(apart, low, max(low, high - steps[-1])) + steps)


def _placed_marks(panel: Panel | Grid, page: Page) -> list[tuple[int, float, Mark]]:
    """The row of each mark from below, and the centre of its name; marks in a row do not touch."""
    placed: list[tuple[int, float, Mark]] = []
    ends = [_width(panel.title, weight="bold")]  # of what a row holds; the title is in the lowest
    for mark in sorted(panel.marks, key=lambda mark: mark.spans[0][0]):
        longest = max(mark.spans, key=lambda span: span[1] - span[0])
        middle = (mark.at if mark.at is not None else sum(longest) / 2) + 0.5
        half = _width(mark.name, TYPE_DENSE) / 2
        name = min(max(middle * page.spacing, half), WIDTH - page.left - 8.0 - half)
        start = min(name - half, (mark.spans[0][0] + 0.5) * page.spacing)
        end = max(name + half, (mark.spans[-1][1] + 0.5) * page.spacing)
        row = next((row for row, last in enumerate(ends) if last + 8.0 <= start), len(ends))
        ends[row : row + 1] = [end]
        placed.append((row, name, mark))
    return placed


def _draw_marks(axes: Axes, panel: Panel, page: Page) -> None:
    above = axes.get_xaxis_transform()
    first = 4.0 + NUMBER_ROW * (panel.numbers is not None)
    for row, name, mark in _placed_marks(panel, page):
        height = 1 + (first + MARK_ROW * row) / panel.height
        for start, end in mark.spans:
            axes.plot(
                [start, end], [height, height], transform=above, color=mark.colour, linewidth=4,
                solid_capstyle="butt", clip_on=False, label=mark.name,
            )  # fmt: skip
            if mark.is_shaded:
                axes.axvspan(start, end, color=mark.colour, alpha=0.1, lw=0, zorder=0.5)
        if mark.at is not None:
            axes.axvline(mark.at, color=mark.colour, linewidth=1.2, dashes=(3, 2), zorder=1.6)
        axes.annotate(
            mark.name, (0, height), (name, 4), ("axes fraction", "axes fraction"),
            "offset points", size=TYPE_DENSE, color=mark.colour, ha="center",
        )  # fmt: skip


def _draw_numbers(axes: Axes, name: str, texts: list[str], up: float, page: Page) -> None:
    """Above the axes, every k-th where they do not fit, ending with the last."""
    halves = [_width(text, TYPE_DENSE) / 2 / page.spacing for text in texts]
    for place in _kept(len(texts), 2 * max(halves) * page.spacing + 6.0, page.spacing):
        at, above = _inside(place, halves[place], len(texts)), axes.get_xaxis_transform()
        axes.text(at, up, texts[place], transform=above, size=TYPE_DENSE, ha="center")
    axes.text(-8 / page.width, up, name, transform=axes.transAxes, size=TYPE_DENSE, ha="right")


def _mark_peak(axes: Axes, peak: Peak, scale: Scale, page: Page) -> None:
    line, best = peak.line, peak.at
    value, high = _shown(scale, line.values[best]), _shown(scale, line.high[best])
    half, at = _width(peak.text, weight="bold") / 2, (best + 0.5) * page.spacing
    shift = min(max(at, half), page.width - half) - at
    axes.plot(
        [best], [value], marker="o", markersize=11, color=line.look.colour, linestyle="",
        markeredgecolor="white", markeredgewidth=1.5, zorder=4, label="peak",
    )  # fmt: skip
    axes.annotate(
        peak.text, (best, np.nanmax([value, high])), (shift, 8), textcoords="offset points",
        ha="center", weight="bold", color=line.look.colour, zorder=5,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip


def _below(line: Line, scale: Scale) -> Positions:
    return np.flatnonzero(line.values < scale.floor)


def _draw_strip(axes: Axes, lines: list[Line], scale: Scale, page: Page) -> None:
    """Below the floor: one row per line, with a marker per place and its value where it fits."""
    bottom = STRIP_ROW * len(lines) + 2.0
    axes.set(xlim=(-0.5, len(page.places) - 0.5), ylim=(bottom, -2.0), xticks=[], yticks=[])
    axes.set_facecolor(SHADE)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axis = axes.get_yaxis_transform()
    floor = f"below {scale.floor:g}".replace("-", "−")
    axes.text(-8 / page.width, bottom / 2, floor, transform=axis, ha="right", va="center")
    for row, line in enumerate(lines):
        below, top, colour = _below(line, scale), STRIP_ROW * row, line.look.colour
        middle, name = top + STRIP_ROW / 2, line.look.label
        axes.plot(below, 0 * below + top + 4.5, "v", markersize=6, color=colour, label=name)
        chosen = below[len(below) // 2 :][:1] if line.is_level else below
        for place, at in _fitting(line.values, chosen, page.spacing):
            text = _written(float(line.values[place]))
            axes.text(at, top + 14.5, text, size=TYPE_SMALL, ha="center", va="center")
        axes.text(1.02, middle, name, transform=axis, color=colour, va="center")


def _fitting(values: Values, below: Positions, spacing: float) -> list[tuple[int, float]]:
    """Places whose values can be written without overlap, the lowest first, and where."""
    written: dict[int, tuple[float, float]] = {}  # where, and half as wide
    for place in below[np.argsort(values[below], kind="stable")].tolist():
        half = (_width(_written(float(values[place])), TYPE_SMALL) / 2 + 2.0) / spacing
        at = _inside(place, half, len(values))
        if all(abs(at - other) >= half + width for other, width in written.values()):
            written[place] = at, half
    return sorted((place, at) for place, (at, _) in written.items())


def _inside(place: int, half: float, count: int) -> float:
    """The centre of a text, at its place or as near as the edges of the axes allow."""
    return min(max(float(place), half - 0.5), count - 0.5 - half)


def _draw_ticks(axes: Axes, page: Page, *, is_named: bool) -> None:
    """Name the places, level where they fit, else slanted and every k-th, ending with the last."""
    count = len(page.places)
    axes.set_xticks(range((count - 1) % page.every, count, page.every), minor=True)
    axes.tick_params(axis="x", which="minor", length=3, color=INK)
    if not is_named:
        return
    kept = _kept(count, TICK_LINE if page.slant else 0.0, page.spacing, page.every)
    slanted = {"rotation": 45, "ha": "right", "va": "center", "rotation_mode": "anchor"}
    names = [page.places[place] for place in kept]
    axes.set_xticks(list(kept), names, **(slanted if page.slant else {}))
    axes.tick_params(axis="x", which="major", length=6, labelsize=page.tick_type, colors=INK)
    if page.axis_name:
        axes.set_xlabel(page.axis_name, size=TYPE, color=INK)


def _kept(count: int, wanted: float, spacing: float, every: int = 1) -> range:
    """Every k-th place, so that each has the room it needs, ending with the last."""
    step = every * max(1, math.ceil(wanted / (every * spacing)))
    return range((count - 1) % step, count, step)


def _shown(scale: Scale, value: float) -> float:
    return float(scale.shown(np.array([value]))[0])


def _written(value: float) -> str:
    text = f"{value:,.{0 if value < -9.95 else 1}f}"
    if value < -1e4:
        text = f"{value / 1e3:.0f}k" if value > -1e6 else f"{value:.0e}".replace("+", "")
    return text.replace("-", "−")


def _width(text: str, size: float = TYPE, weight: str = "normal") -> float:
    font = FontProperties(family=FONT, weight=weight, size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def shortened(text: str, longest: int) -> str:
    """The end of a text, in which names of layers differ; from a dot on if one is near."""
    if len(text) <= longest:
        return text
    start = len(text) - longest + 1
    dot = text.find(".", start - 1, start + longest // 2)
    return "…" + text[max(start, dot + 1) :]
