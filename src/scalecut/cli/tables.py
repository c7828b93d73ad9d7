"""Tables for the terminal. Apart from `console`, because `--help` does without pandas."""

from typing import Any

import pandas as pd
from rich.table import Table


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, for `print_json`; what is missing is null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def plain_table(rows: pd.DataFrame, title: str) -> Table:
    """A table as it is: names to the left, numbers to the right.

    Text columns whose name starts with a blank are aligned to the right as well.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, kind in zip(rows.columns, rows.dtypes, strict=True):
        is_number = pd.api.types.is_numeric_dtype(kind) or str(name).startswith(" ")
        table.add_column(
            str(name).strip(),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
        )
    for row in rows.itertuples(index=False, name=None):
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def layer_rows(found: pd.DataFrame) -> pd.DataFrame:
    """The table of layers with thousands separated, a dash for what is unknown."""

    def whole(column: str) -> list[str]:
        return ["–" if pd.isna(n) else f"{int(n):,}" for n in found[column]]

    return pd.DataFrame(
        {
            "layer": found.layer,
            "alias": found.alias,
            " depth": [f"{depth:.2f}" for depth in found.depth],
            " channels": whole("channels"),
            " stride": whole("stride"),
            " field px": whole("receptive_field"),
            " parameters": whole("parameters"),
            " MACs": [f"{macs / 1e6:,.0f} M" for macs in found.macs],
        }
    )


def claim_rows(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims as a terminal has room for."""
    of = claims.network.map(lambda network: f" ({network})" if network else "")
    return pd.DataFrame({"mark": claims["mark"], "claim": claims.claim + of + ": " + claims.found})
