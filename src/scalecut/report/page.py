"""The page of one run, or of several next to each other: one HTML file that needs nothing else.

Text comes in as it is and is escaped here: by Jinja in the page, as \\u003c in its JSON. The page's
policy allows its own script, by its hash, and images inside it; nothing is ever fetched.

The page draws its figures itself, from the same `Drawing`s as the image files, so that they fit a
phone, follow dark mode and show values under the pointer. Shapes: n images, L layers.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from markupsafe import Markup, escape

from ..data.thumbnails import worth_showing
from ..figures.drawing import Drawing, Line, Panel, Scale
from ..figures.text import typeset
from .cells import Cell, number, sort_key

MOST_VALUES = 250_000  # predictions in a page, 6 bytes each: the page stays below 5 MB
MOST_IMAGES = 20_000  # points that a browser draws in a moment
SCRIPTS = ("elements.js", "viewer.js", "panels.js", "scatter.js", "page.js")
DIGITS = 4  # significant, of what is drawn


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a heading per column; columns of numbers are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    keys: list[dict[str, str]] = field(default_factory=list)  # one per row: when it is shown
    is_shaded: bool = False  # numbers from 0 to 1 also as shades

    def shade(self, cell: Cell) -> int | None:
        """Tenths of a number, 0 to 10, if the table is shaded."""
        if not self.is_shaded or not isinstance(cell, float) or math.isnan(cell):
            return None
        return round(10 * min(max(cell, 0.0), 1.0))

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(isinstance(row[column], int | float) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure of the page."""

    name: str  # of the files that it can be saved as
    title: str
    note: str
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image with the text below it."""

    jpeg: bytes
    name: str
    note: str = ""

    @property
    def source(self) -> str:
        """Its address, which holds the image."""
        return _uri(self.jpeg)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what is below it in this order."""

    title: str
    lines: list[str] = field(default_factory=list)
    figures: list[Shown] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    images: list[ShownImage] = field(default_factory=list)
    sheet: ShownImage | None = None  # as wide as the page
    code: str = ""
    links: dict[str, str] = field(default_factory=dict)  # to files next to the page, by their name


@dataclass(frozen=True, slots=True)
class Check:
    """Something that a result is to be judged by, in a few words."""

    name: str
    lines: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The measure of each image as each layer predicts it."""

    # the columns `image, subset, measure, left, top, right, bottom, width, height`
    images: pd.DataFrame
    measure: str  # its name
    layers: list[str]  # the rows of `predicted`
    predicted: Float64[np.ndarray, "L n"]  # nan where an image was never held out
    thumbnails: Mapping[int, bytes]  # JPEG files by the number of the image
    by: str = "ridge regression"  # the regressor that predicts


@dataclass(frozen=True, slots=True, eq=False)
class Story:
    """A run, as the page shows it."""

    name: str  # of its folder
    title: str  # what it is of, such as the network
    finding: str  # one sentence, or empty
    question: str = ""  # that the finding answers; the title by default
    checks: list[Check] = field(default_factory=list)  # on the first screen
    warnings: list[str] = field(default_factory=list)  # there, too
    curves: Mapping[str, Drawing] = field(default_factory=dict)  # by subset
    # the names behind the places of the curves; empty without curves
    layers: list[str] = field(default_factory=list)
    # by subset, the layer that is chosen first
    peaks: Mapping[str, str] = field(default_factory=dict)
    predictions: Predictions | None = None  # of each image, if the run holds them
    without_predictions: str = ""  # why there are none
    kind: str = ""  # the command that wrote the run
    written: str = ""  # the day
    heading: str = "How much of the object’s scale each layer encodes"  # above its curves
    # what was found; without curves, the first is on the first screen
    sections: list[Section] = field(default_factory=list)
    # the command, what was skipped, settings and versions
    trust: list[Section] = field(default_factory=list)


def page(stories: Sequence[Story], *, subset: str = "", common: Sequence[Section] = ()) -> str:
    """The HTML of one run, or of several next to each other."""
    script = '"use strict";\n(() => {\n' + "\n".join(map(_file, SCRIPTS)) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    subsets = _common([list(story.curves) for story in stories if story.curves])
    drawn = [drawing for story in stories for drawing in story.curves.values()]
    regressors = _common([[panel.title for panel in drawing.panels] for drawing in drawn])
    template = _environment().get_template("page.html")
    return template.render(
        stories=stories,
        common=common,
        subsets=subsets,
        subset=subset,
        regressors=regressors,
        style=Markup(_file("page.css")),
        script=Markup(script),
        script_hash=digest,
        data={"runs": _on_common_axes([_data(story) for story in stories])},
    )


def _common(lists: Sequence[Sequence[str]]) -> list[str]:
    """What all of them have, in the order of the first."""
    first = lists[0] if lists else []
    return [each for each in first if all(each in other for other in lists)]


@cache
def _file(name: str) -> str:
    return files("scalecut").joinpath("report", "templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # names stay in their order
    environment.filters |= {"number": number, "sort_key": sort_key, "prose": prose}
    return environment


def prose(text: str) -> Markup:
    """A sentence in HTML: true minus signs, and commands, which are in backticks, as code."""
    outside, *rest = re.split("`([^`]+)`", text)
    parts = [escape(typeset(outside))]
    for code, after in zip(rest[::2], rest[1::2], strict=True):
        parts += [Markup("<code>{}</code>").format(code), escape(typeset(after))]
    return Markup("").join(parts)


# --- what the script draws -----------------------------------------------------------------------


def _data(story: Story) -> dict[str, Any]:
    shown = [figure for section in story.sections for figure in section.figures]
    return {
        "title": story.title,
        "curves": {subset: _drawing(each) for subset, each in story.curves.items()},
        "layers": story.layers,
        "peaks": dict(story.peaks),
        "figures": {figure.name: _drawing(figure.drawing) for figure in shown},
        "predictions": story.predictions and _predictions(story.predictions),
    }


def _on_common_axes(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Curves of the same subset and regression reach as far up and down in every run."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        for subset, drawing in run["curves"].items():
            for panel in drawing["panels"]:
                alike.setdefault((subset, panel["title"]), []).append(panel)
    for panels in alike.values():
        lines = [line for panel in panels for line in panel["lines"]]
        drawn = [value for line in lines for value in line["values"]]
        banded = [line for line in lines if line["band"]]
        drawn += [value for line in banded for end in ("low", "high") for value in line[end]]
        there = [value for value in drawn if value is not None]
        bottom = min(there + [panel["bottom"] for panel in panels])
        top = max(there + [panel["top"] for panel in panels])
        for panel in panels:
            panel |= {"bottom": bottom, "top": top}
    return runs


def _drawing(drawing: Drawing) -> dict[str, Any]:
    return {
        "heading": drawing.heading,
        "places": drawing.places,
        "axisName": drawing.axis_name,
        "every": drawing.every,
        "panels": [_panel(panel) for panel in drawing.panels if isinstance(panel, Panel)],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    scale, peak, looks = panel.scale, panel.peak, [line.look for line in panel.lines]
    return {
        "title": panel.title,
        "height": panel.height,
        "label": scale.label,
        "floor": _finite(scale.shown(np.array([scale.floor])).item()),
        "bottom": _finite(scale.bottom),
        "top": _finite(scale.top),
        "named": [[scale.shown(np.array([v])).item(), name] for v, name in scale.named.items()],
        "lines": [_line(line, scale) for line in panel.lines],
        "marks": [asdict(mark) for mark in panel.marks],
        "numbers": panel.numbers and list(panel.numbers),
        "peak": peak and {"line": looks.index(peak.line.look), "at": peak.at, "text": peak.text},
    }


def _line(line: Line, scale: Scale) -> dict[str, Any]:
    return {
        "label": line.look.label,
        "colour": line.look.colour,
        "dash": line.look.dash if isinstance(line.look.dash, str) else "--",
        "marker": line.look.marker,
        "width": line.look.width,
        "band": line.look.band_opacity,
        "isLevel": line.is_level,
        "marked": None if line.marked is None else list(line.marked),
        **{name: _rounded(scale.shown(getattr(line, name))) for name in ("values", "low", "high")},
    }


def _predictions(predictions: Predictions) -> dict[str, Any]:
    images, n_layers = predictions.images, len(predictions.layers)
    measure = images["measure"].to_numpy(np.float64)
    subset = images["subset"].astype(str).tolist()
    most = max(1, min(MOST_IMAGES, MOST_VALUES // n_layers))
    kept = np.arange(len(images))
    if len(kept) > most:
        kept = np.sort(worth_showing(measure, predictions.predicted, subset, most))
    subsets, small = list(dict.fromkeys(subset)), predictions.thumbnails
    return {
        "measureName": predictions.measure,
        "by": predictions.by,
        "of": len(images),
        "subsets": subsets,
        "names": images["image"].astype(str).iloc[kept].tolist(),
        "subset": [subsets.index(subset[row]) for row in kept],
        "measure": _rounded(measure[kept]),
        "predicted": [_rounded(row[kept]) for row in predictions.predicted],
        "boxes": [_box(row) for row in images.iloc[kept].to_dict("records")],
        "thumbnails": [jpeg and _uri(jpeg) for jpeg in map(small.get, kept.tolist())],
    }


def _box(image: Mapping[Any, Any]) -> list[float] | None:
    """Left, top, width and height of the object as shares of the image."""
    left, top, right, bottom = (float(image[side]) for side in ("left", "top", "right", "bottom"))
    width, height = float(image["width"]), float(image["height"])
    box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    return [round(share, 3) for share in box] if np.isfinite(box).all() else None


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _rounded(values: Float[np.ndarray, " n"]) -> list[float | None]:
    """JSON has no nan; what is not finite is null."""
    return [float(f"{v:.{DIGITS}g}") if math.isfinite(v) else None for v in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
