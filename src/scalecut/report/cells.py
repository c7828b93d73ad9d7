"""Cells of a page's tables: how numbers, intervals and names are written and sorted."""

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64

from ..figures import text

# Text, a number, or a text with the number that it is sorted by.
Cell: TypeAlias = str | int | float | tuple[str, int | float] | None

BLANK = "\N{NO-BREAK SPACE}"


def number(cell: Cell) -> str:
    """A cell as text: two decimals or digits, thousands separated, a true minus sign."""
    if isinstance(cell, tuple):
        return cell[0]
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}".replace("-", "−")
    digits = ".2f" if abs(cell) >= 0.005 or cell == 0 else ".2g"
    return f"{cell:{digits}}".replace("-", "−")


def sort_key(cell: Cell) -> str | None:
    """What a cell is sorted by, where it is not its text."""
    value = cell[1] if isinstance(cell, tuple) else cell
    if isinstance(value, str) or value is None or math.isnan(value):
        return None if isinstance(value, str) else ""
    return f"{value:.12g}"


def interval(low: float | None, high: float | None) -> Cell:
    """From low to high; "no interval" where one of them is unknown."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return f"no{BLANK}interval"
    return (f"{low:.2f}{BLANK}to{BLANK}{high:.2f}".replace("-", "−"), low)


def with_interval(value: float, low: float, high: float) -> Cell:
    """A number and its interval, sorted by the number; nothing where it is unknown."""
    if np.isnan(value):
        return None
    return (text.typeset(text.with_interval(value, low, high)), value)


def p_value(value: float | None) -> Cell:
    """With two digits; nothing where it is unknown."""
    if value is None or np.isnan(value):
        return None
    return (text.p_value(value).removeprefix("p = "), value)


def spread(column: Iterable[Any]) -> Cell:
    """Mean ± standard deviation, sorted by the mean; nothing where there is no value."""
    values = numbers(column)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    mean = float(values.mean())
    around = f"{BLANK}±{BLANK}{values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return (f"{mean:.2f}{around}".replace("-", "−"), mean)


def numbers(column: Iterable[Any]) -> Float64[np.ndarray, " n"]:
    """A column of a table as numbers: one empty cell makes all of its cells text."""
    return np.array([np.nan if cell == "" else float(cell) for cell in column])


def in_words(name: str) -> str:
    """A column's name without underscores."""
    return name.replace("_", " ")
