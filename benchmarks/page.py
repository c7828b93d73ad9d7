"""Ratios compared with aims, and the tables of docs/benchmarks.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MARKS = "<!-- measured in {}: begin -->", "<!-- measured in {}: end -->"

Speeds = Mapping[str, Sequence[float]]  # of each variant, by round


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that is to be at least, or at most, an aim; nothing found is said, too."""

    what: str
    found: Mapping[str, float]  # by network; "" for a claim about no network
    least: float | None = None
    most: float | None = None
    unit: str = ""
    note: str = ""

    def row(self) -> str:
        aim = "–" if self.least is None else f"at least {self.least:g}{self.unit}"
        aim = aim if self.most is None else f"at most {self.most:g}{self.unit}"
        shown = [f"{name} {self._value(value)}".strip() for name, value in self.found.items()]
        return f"| {self.what} | {aim} | {', '.join(shown) or 'not measured'}{self.note} |"

    def _value(self, value: float) -> str:
        text = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
        below = self.least is not None and value < self.least
        above = self.most is not None and value > self.most
        if not (below or above):
            return text + self.unit
        text = f"{value:.3g}" if float(text.replace(",", "")) in (self.least, self.most) else text
        return f"**{text}{self.unit}, missed**"


def ratio(speeds: Speeds, one: str, other: str) -> float:
    """The median over rounds of one speed divided by another."""
    return float(np.median(np.divide(speeds[one], speeds[other])))


def table_of(claims: Sequence[Claim]) -> list[str]:
    return ["| ratio | aim | measured |", "|---|---|---|", *(claim.row() for claim in claims)]


def table_of_speeds(speeds: Mapping[str, Speeds], first: str) -> list[str]:
    """Images per second by variant and network, and times the variant `first`."""
    head = ["images/s (times the first row)", *speeds]
    names = next(iter(speeds.values()))
    rows = [
        [
            name,
            *(f"{np.median(s[name]):.1f} ({ratio(s, name, first):.2f})" for s in speeds.values()),
        ]
        for name in [first, *(name for name in names if name != first)]
    ]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def marks_of(precision: str) -> tuple[str, str]:
    """The marks around what was measured where the default engine computes in this precision."""
    begin, end = MARKS
    return begin.format(precision), end.format(precision)


def written(page: str, lines: Sequence[str], marks: tuple[str, str]) -> str:
    """The page with these lines between its two marks."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"The page lacks the marks {' and '.join(marks)}.")
    return "\n".join([before + begin, "", *lines, "", end + after])
