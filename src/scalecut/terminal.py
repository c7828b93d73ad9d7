"""What a terminal shows: tables and progress bars. Makes them; the command line prints them.

Names stand in the tables as they are: print them on a console without markup.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from .curve import Curve
from .layers import ProbePoint
from .scores import MEAN

# fmt: off
LAYER_COLUMNS = (
    "layer", "alias", "depth", "channels", "stride", "receptive_field", "parameters", "macs"
)
# fmt: on


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
    """Mean over subsets, a row a layer: R² with its interval, its controls, least squares."""
    main, *others = [name for name in ("ridge", "ols") if (curve.table.regressor == name).any()]
    wanted = [
        (main, curve.scores(regressor=main)),
        ("random", curve.scores(regressor=main, weights="random")),
        ("shuffled", curve.scores(regressor=main, target="shuffled")),
        *((name, curve.scores(regressor=name)) for name in others),
    ]
    if curve.weights == "random":
        del wanted[1]
    lines = [(name, rows.set_index("layer")) for name, rows in wanted if len(rows)]
    first = curve.table[curve.table.subset == MEAN].iloc[0]
    subsets = ", ".join(sorted(set(curve.table.subset) - {MEAN}))
    title = f"R² of {first.measure}, {first.model}, {first.n_images} images ({subsets})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("d", justify="right")
    for name, _ in lines:
        table.add_column(name, justify="right", no_wrap=True)
        if name == main:
            table.add_column("95 % interval", justify="right", no_wrap=True)
    peak = lines[0][1].r2.idxmax()
    for point in curve.points:
        cells = []
        for name, rows in lines:
            row = rows.loc[point.layer]
            cells.append(_score(row.r2))
            if name == main:
                cells.append(f"[{_score(row.r2_low)}, {_score(row.r2_high)}]")
        table.add_row(
            point.label,
            str(point.channels),
            *cells,
            style="bold" if point.layer == peak else None,
        )
    return table


def _score(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


@contextmanager
def bars(console: Console, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal: images done, images/s and time left, a bar a stage."""
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:>12}"),
        TimeRemainingColumn(),
    )
    began: dict[str, tuple[float, int]] = {}
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as shown:
        tasks = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total, speed="")
                began[stage] = (time.perf_counter(), done)
            seconds, first = time.perf_counter() - began[stage][0], began[stage][1]
            unit = "layers" if stage == "regression" else "images"
            speed = (
                f"{(done - first) / seconds:.0f} {unit}/s" if done > first and seconds > 0.5 else ""
            )
            shown.update(tasks[stage], completed=done, total=total, speed=speed)

        yield tell
