"""The result of an analysis: a table of quantities by layer, in long form.

Saved, read back, summarised for a terminal, and shown in a notebook.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.images import LeftOut
from ..errors import DataError
from ..figures import text
from ..figures.notebook import html_of
from ..networks.points import SOFTMAX
from ..report.report import save
from ..runs import Run, read_run


class Analysis:
    """What the results of all analyses can do; each says what was found, and draws it."""

    __slots__ = ()
    NAME: ClassVar[str]  # of the table

    table: pd.DataFrame | None
    left_out: tuple[LeftOut, ...]
    provenance: dict[str, object]

    def to_frame(self) -> pd.DataFrame:
        """The main table, as its CSV file has it."""
        return next(iter(self.tables().values()))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {} if self.table is None else {self.NAME: self.table.copy()}

    def finding(self) -> str:
        """What was found, in a few sentences."""
        raise NotImplementedError

    def summary(self) -> dict[str, pd.DataFrame]:
        """What fits on a terminal, by title."""
        raise NotImplementedError

    def plot(self) -> Figure:
        """The main figure."""
        raise NotImplementedError

    def save(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the run folder: tables, figures and page.

        Raises:
            OutputError: if `folder` exists and holds no run, or cannot be written.
        """
        images = getattr(self, "image_set", None)
        write = self.write_more
        return save(
            self.tables(), self.facts(), folder, command=command, write=write, image_set=images
        )

    def facts(self) -> dict[str, object]:
        """Those of `run.json`."""
        return {**self.provenance, "finding": self.finding(), "left_out": self.left_out}

    def write_more(self, folder: Path) -> None:
        """Write what is no table into the run folder; nothing by default."""

    def _repr_html_(self) -> str:
        return html_of(self.finding(), next(iter(self.summary().values())), self.plot())


def means(rows: pd.DataFrame, by: Sequence[str]) -> dict[tuple[Any, ...], dict[str, float]]:
    """The mean of each quantity by the values of some columns, in the order of the rows."""
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows.to_dict("records"):
        key = tuple(row[name] for name in by)
        found.setdefault(key, {}).setdefault(row["quantity"], []).append(row["value"])
    return {
        key: {name: float(np.mean(each)) for name, each in quantities.items()}
        for key, quantities in found.items()
    }


def by_layer(table: pd.DataFrame, quantity: str) -> dict[str, float]:
    """The mean of the finite values of a quantity by layer, in order of execution.

    The softmax is not among them, unless it is the only layer.
    """
    rows = table.loc[(table["quantity"] == quantity) & np.isfinite(table["value"])]
    found = {layer: each[quantity] for (layer,), each in means(rows, ["layer"]).items()}
    if len(found) > 1:
        found.pop(SOFTMAX, None)
    return found


def layer_summary(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The means of quantities for a terminal: one row per layer, one column per quantity.

    Args:
        names: the headings of the columns by quantity, in their order.
    """
    found = means(table, ["layer"])
    shown = {q: name for q, name in names.items() if any(q in each for each in found.values())}
    columns = {
        f" {name}": [text.number(each.get(quantity, np.nan)) for each in found.values()]
        for quantity, name in shown.items()
    }
    return pd.DataFrame({"layer": [layer for (layer,) in found], **columns})


def read_analysis(folder: str | Path, tables: Iterable[str], command: str) -> Run:
    """The run of an analysis, which holds at least one of these tables.

    Raises:
        DataError: if the folder is no complete run, one of a newer version, or of another command.
    """
    run = read_run(folder)
    tables = list(tables)
    if not any(run.has(name) for name in tables):
        raise DataError(
            f"{str(folder)!r} holds no {' or '.join(f'{name}.csv' for name in tables)}, because "
            f"another command wrote it. Give a folder that `scalecut {command}` wrote."
        )
    return run


def skipped_of(run: Run) -> tuple[LeftOut, ...]:
    """What the analysis skipped, with the reasons."""
    return tuple(LeftOut(**each) for each in run.facts.get("left_out", ()))
