"""What a run folder shows: its figures. Draws what is in the tables, computes nothing."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from pandas import DataFrame

from . import runs
from .charts import (
    ANSWERS,
    MOVES,
    directions_figure,
    drift_figure,
    invariance_figure,
    noise_figure,
    scenes_figure,
)
from .errors import DataError, OutputError
from .figures import (
    STYLE,
    curve_figure,
    exponential_figure,
    learning_figure,
    subset_figure,
    subsets_of,
    width_figure,
)
from .scores import MEAN

DOTS_PER_INCH = 200


def draw(run: Path) -> list[Path]:
    """Write every figure of a run into `figures`, as PNG and SVG, and give the paths.

    The same tables give the same bytes.

    Raises:
        DataError: if the folder is no whole run.
        OutputError: if the folder or a file in it cannot be written.
    """
    figures = dict(_figures(run))
    folder = run / "figures"
    paths = [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            for path in paths:
                undated = {"Date": None} if path.suffix == ".svg" else {}
                figures[path.stem].savefig(path, dpi=DOTS_PER_INCH, metadata=undated)
    except OSError as error:
        raise OutputError(
            f"The figures cannot be written to {str(folder)!r} ({error.strerror or error}). They "
            "need a folder that can be written to and has space left; choose one with --out."
        ) from error
    return paths


def _figures(run: Path) -> Iterator[tuple[str, Figure]]:
    """Names and figures of whatever tables the run has."""
    drawn = {
        "invariance": {"invariance": invariance_figure, "drift": drift_figure},
        "noise": {"noise": noise_figure},
        "scenes": {"scenes": scenes_figure},
        "rcv": {"directions": directions_figure},
        "learning": {"learning": learning_figure},
    }
    # a network without logits has no answers, and sizes less than an octave apart no drift
    needed = {"invariance": ANSWERS, "drift": MOVES}
    present = [name for name in drawn if (run / f"{name}.csv").is_file()]
    if (run / "curve.csv").is_file() or not present:
        yield from _curve_figures(runs.read_curve(run), runs.read_facts(run))
    for name in present:
        table = _table(run, name)
        for figure, make in drawn[name].items():
            if figure not in needed or _has_any(table, needed[figure]):
                yield figure, make(table)


def _has_any(table: DataFrame, quantities: Collection[str]) -> bool:
    """Whether there is anything to draw; a table without quantities is refused by its figure."""
    return "quantity" not in table or bool(table["quantity"].isin(list(quantities)).any())


def _table(run: Path, name: str) -> DataFrame:
    runs.read_facts(run)
    try:
        return runs.read_table(run, name)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(run)!r} has no readable {name}.csv ({error}). Run the command again."
        ) from error


def _curve_figures(frame: DataFrame, facts: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    yield "curve", curve_figure(frame, evidence=facts.get("evidence", {}).get(MEAN))
    yield "curve_exponential", exponential_figure(frame)
    if len(subsets_of(frame)) > 1:
        yield "subsets", subset_figure(frame)
    if frame.regressor.nunique() > 1:
        yield "width", width_figure(frame)
