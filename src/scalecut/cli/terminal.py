"""What a terminal shows: tables and progress bars. Makes them; the command line prints them.

Names stand in the tables as they are: print them on a console without markup.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..data.images import MEAN
from ..networks.layers import ProbePoint
from ..probing.curve import ALPHA, Curve

# what stages count that do not count images
COUNTED = {
    "layers": ("regression", "comparison", "directions"),
    "ways": ("fits",),
    "steps": ("painting",),
    "tiles": ("patches",),
    "shards": ("listing shards",),
}

# fmt: off
LAYER_COLUMNS = (
    "layer", "alias", "depth", "channels", "stride", "receptive_field", "parameters", "macs"
)
# fmt: on


def plain_table(rows: pd.DataFrame, title: str) -> Table:
    """A table as it is: names to the left, numbers to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    is_number = [pd.api.types.is_numeric_dtype(kind) for kind in rows.dtypes]
    for name, right in zip(rows.columns, is_number, strict=True):
        table.add_column(str(name), justify="right" if right else "left", overflow="fold")
    for row in rows.itertuples(index=False, name=None):
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def layer_table(title: str, points: Sequence[ProbePoint]) -> Table:
    """The probe points of a network, a row each."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("layer", "alias"):
        table.add_column(name, overflow="fold")
    for name in ("depth", "channels", "stride", "field px", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        table.add_row(
            point.layer,
            point.alias,
            f"{point.depth:.2f}",
            f"{point.channels}",
            *("–" if n is None else f"{n:,}" for n in (point.stride, point.receptive_field)),
            "–" if point.parameters is None else f"{point.parameters:,}",
            f"{point.macs / 1e6:,.0f} M",
        )
    return table


def curve_table(curve: Curve) -> Table:
    """Mean over subsets, a row a layer: R², what of it is learned, random twins, least squares.

    It fits into 80 characters; `curve.csv` has the other controls and regressors.
    """
    main = curve.regressor
    own = curve.scores(regressor=main).set_index("layer")
    columns = {f"{main} [95 %]": _with_interval(own, "r2")}
    if own.learned.notna().any():
        columns["learned [95 %]"] = _with_interval(own, "learned")
    twin = curve.scores(weights="random", regressor=main)
    if curve.weights != "random" and len(twin):
        columns["random"] = [_score(value) for value in twin.r2]
    ols = curve.scores(regressor="ols")
    if main != "ols" and len(ols):
        columns["ols"] = [_score(value) for value in ols.r2]
    first, subsets = own.iloc[0], ", ".join(sorted(set(curve.table.subset) - {MEAN}))
    title = f"R² of {first.measure}, {first.model}, {first.n_images} images ({subsets})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=12)
    for name in ("d", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    peak = curve.evidence().peak
    for point, *cells in zip(curve.points, *columns.values(), strict=True):
        style = "bold" if point.layer == peak else None
        table.add_row(point.label, str(point.channels), *cells, style=style)
    return table


def _with_interval(rows: pd.DataFrame, name: str) -> list[str]:
    return [
        f"{_score(row[name])} [{_score(row[f'{name}_low'])}, {_score(row[f'{name}_high'])}]"
        for row in rows.to_dict("records")
    ]


def controls_in_words(curve: Curve) -> str:
    """What the controls say that are no line of the table, and the p-values; empty without any."""
    said, regressor = [], curve.regressor
    pixels = curve.scores(weights="pixels", regressor=regressor)
    if len(pixels):
        said.append(f"pixels alone {_score(pixels.r2.iloc[0])}")
    shuffled = curve.scores(target="shuffled", regressor=regressor)
    if len(shuffled):
        low, high = _score(shuffled.r2.min()), _score(shuffled.r2.max())
        said.append(f"shuffled measure {low} to {high}")
    own = curve.scores(regressor=regressor)
    if own.p_value.notna().any():
        n = int((own.p_value <= ALPHA).sum())
        said.append(f"p ≤ {ALPHA:g} (corrected over layers) at {n} of {len(own)} layers")
    return "; ".join(said)


def engine_in_words(provenance: Mapping[str, Any]) -> str:
    """By what features were computed, where it is not as usual, and what int8 changed."""
    look = provenance.get("look")
    if not isinstance(look, dict) or look.get("engine") != "openvino":
        return ""
    said = f"Computed by OpenVINO in {look['precision']}"
    if "int8_moved" in look:
        said += (
            f"; against float32 it moved R² by at most {abs(look['int8_moved']):.3f} "
            f"({look['int8_moved_at']}, {look['int8_checked_on']} images)"
        )
    return f"{said}."


def comparison_table(rows: pd.DataFrame, model: str, other: str) -> Table:
    """The difference of two curves, a row a subset."""
    table = Table(
        title=f"R² of {model} less {other}", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("subset", overflow="fold")
    for name in (model, other):
        table.add_column(f"layer of {name}", overflow="fold")
        table.add_column("R²", justify="right", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        low, high = _score(row["difference_low"]), _score(row["difference_high"])
        table.add_row(
            str(row["subset"]),
            str(row["layer"]),
            _score(row["r2"]),
            str(row["other_layer"]),
            _score(row["other_r2"]),
            _score(row["difference"]),
            f"[{low}, {high}]",
        )
    return table


def quantity_table(title: str, rows: pd.DataFrame, names: dict[str, str]) -> Table:
    """Quantities of a long table, a row a layer and a column a quantity, means where many.

    Args:
        rows: columns `layer`, `quantity` and `value`.
        names: what the columns are called, by quantity; the order is theirs.
    """
    means = _means(rows, "layer")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    shown = [name for name in names if any(name in each for each in means.values())]
    for name in shown:
        table.add_column(names[name], justify="right")
    for layer, each in means.items():
        table.add_row(layer, *(_score(each.get(name, np.nan)) for name in shown))
    return table


def size_table(rows: pd.DataFrame) -> Table:
    """What became of the answers, a row a change and size, and of the features on the whole."""
    names = {
        "agreement": "same answer",
        "probability_change": "probability",
        "jensen_shannon": "distance",
        "cosine": "cosine",
    }
    names = {name: label for name, label in names.items() if name in set(rows["quantity"])}
    first = rows.iloc[0]
    title = f"Against the training resolution, {first['model']}, {first['n_images']} images"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("change")
    for name in ("factor", "side", *names.values()):
        table.add_column(name, justify="right")
    at = rows.assign(place=list(zip(rows["change"], rows["octaves"], rows["side"], strict=True)))
    for (change, octaves, side), means in _means(at, "place").items():
        values = [_score(means.get(name, np.nan)) for name in names]
        table.add_row(change, f"{2**octaves:.3g}", str(side), *values)
    return table


def _means(rows: pd.DataFrame, by: str) -> dict[Any, dict[str, float]]:
    """The mean of every quantity, by the values of a column, in the order they come in."""
    found: dict[Any, dict[str, list[float]]] = {}
    for row in rows.to_dict("records"):
        found.setdefault(row[by], {}).setdefault(row["quantity"], []).append(row["value"])
    return {
        key: {name: float(np.mean(each)) for name, each in quantities.items()}
        for key, quantities in found.items()
    }


def _score(value: float) -> str:
    if pd.isna(value):
        return "–"
    shown = f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return "0.00" if shown == "-0.00" else shown


class Bars:
    """Progress by stage, and the seconds that each stage took from its first word to its last."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        name, now = stage.partition(":")[0], time.perf_counter()
        if name not in self._tasks:
            self._tasks[name] = self._shown.add_task(stage, total=total, speed="")
            self._began[name] = now, done
        start, first = self._began[name]
        self._last[name] = now
        unit = next((unit for unit, names in COUNTED.items() if name.startswith(names)), "images")
        is_told = done > first and now - start > 0.5
        speed = f"{(done - first) / (now - start):.0f} {unit}/s" if is_told else ""
        self._shown.update(
            self._tasks[name], description=stage, completed=done, total=total, speed=speed
        )

    @property
    def stages(self) -> dict[str, dict[str, float]]:
        """Seconds by stage, as `run.json` has them."""
        return {
            name: {"seconds": round(self._last[name] - start, 3)}
            for name, (start, _) in self._began.items()
        }


@contextmanager
def bars(console: Console, *, quiet: bool) -> Iterator[Bars]:
    """Bars on a terminal: images done, images/s and time left, a bar a stage.

    What follows a colon in the name of a stage, such as a loss, is told as it changes.
    """
    columns = (
        TextColumn("{task.description:16}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:>12}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as shown:
        yield Bars(shown)
