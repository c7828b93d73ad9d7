"""Numbers as text, the same in the terminal, in sentences and on pages."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

METRICS = {
    "r2": "R²",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic kappa",
}  # in words; findings are stated for the first of a target


def number(value: float) -> str:
    """A number with two decimals; with none from 100 on, where digits would only distract.

    A dash for NaN.
    """
    if np.isnan(value):
        return "–"
    shown = f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return "0.00" if shown == "-0.00" else shown


def decimals(span: float) -> int:
    """Digits after the point that give three significant digits of a range; two of none."""
    return max(0, 2 - math.floor(math.log10(span))) if span > 0 else 2


def interval(low: float, high: float) -> str:
    """An interval, such as "[0.79, 0.83]"; "(no interval)" where there is none."""
    return "(no interval)" if np.isnan([low, high]).all() else f"[{number(low)}, {number(high)}]"


def with_interval(value: float, low: float, high: float) -> str:
    """A number and its interval, such as "0.81 [0.79, 0.83]"."""
    return f"{number(value)} {interval(low, high)}"


def change(start: float, end: float) -> str:
    """Two numbers with three digits, such as "−0.12 → 4.5"."""
    return typeset(f"{start:.3g} → {end:.3g}")


def unit(row: Mapping[Any, Any]) -> str:
    """What an image of a visualisation drives, "unit 3" or "dog: larger"; a row of `units.csv`."""
    return f"{row['subset']}: {row['direction']}" if row["direction"] else f"unit {row['unit']}"


def span(values: Iterable[float]) -> str:
    """The smallest and the largest of some numbers, such as "0.10 to 0.35"."""
    numbers = list(values)
    return f"{number(min(numbers))} to {number(max(numbers))}"


def p_value(value: float) -> str:
    """A p-value with two significant digits, "p = 0.049", or "p < 1e-6": none is 0."""
    return "p < 1e-6" if value < 1e-6 else f"p = {value:.2g}"


def typeset(text: str) -> str:
    """The text with true minus signs before negative numbers, for pages and documents."""
    return re.sub(r"(?<![\w.,)-])-(?=[.\d])", "−", text)


def duration(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
