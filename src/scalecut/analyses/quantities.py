"""Tables of quantities by layer, in long form: means, what a terminal shows, reading them back."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.images import LeftOut
from ..errors import DataError
from ..figures import text
from ..networks.points import SOFTMAX
from ..runs import Run, read_run


def means(rows: pd.DataFrame, by: Sequence[str]) -> dict[tuple[Any, ...], dict[str, float]]:
    """The mean of each quantity by the values of some columns, in the order of the rows.

    Of the finite values; not a number if there are none.
    """
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows.to_dict("records"):
        key = tuple(row[name] for name in by)
        values = found.setdefault(key, {}).setdefault(row["quantity"], [])
        if np.isfinite(row["value"]):
            values.append(row["value"])
    return {
        key: {name: float(np.mean(each)) if each else np.nan for name, each in quantities.items()}
        for key, quantities in found.items()
    }


def by_layer(table: pd.DataFrame, quantity: str) -> dict[str, float]:
    """The mean of the finite values of a quantity by layer, in order of execution.

    The softmax is not among them, unless it is the only layer.
    """
    rows = table.loc[table["quantity"] == quantity]
    found = {layer: each[quantity] for (layer,), each in means(rows, ["layer"]).items()}
    found = {layer: mean for layer, mean in found.items() if np.isfinite(mean)}
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
