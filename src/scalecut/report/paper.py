"""Sections of a reproduction of the paper: its claims, and its numbers compared with ours."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from ..figures.analyses import printed_drawing
from ..figures.drawing import Drawing
from ..runs import Run
from .cells import BLANK, Cell
from .page import Check, Section, Shown, Table

# what stands under the figure of each network of the paper
PRINTED = {
    "inception_v3": "InceptionV3: Table A.2 of the paper, and ours as far as the weights reach.",
    "resnet50_v1": "ResNet50: the paper's figure, digitised to 0.02 on this axis, and ours.",
    "resnet50": "ResNet50 of torchvision, complete: the paper's figure, and ours.",
}
OF_CLAIMS = "Judged by ridge, except claims about least squares; one row per network."
HEADINGS = ("network", "item", "quantity", "paper", "ours, their method", "ours", "mark", "why")
COLUMNS = (
    *("section", "network", "item", "quantity", "paper", "ours_as_paper", "ours"),
    *("ours_low", "ours_high", "mark", "why"),
)


def printed_figure(network: str) -> Callable[[Run], Drawing | None]:
    """The figure of a network of the paper, if the table has its layers."""

    def draw(run: Run) -> Drawing | None:
        table = run.table("paper", COLUMNS)
        has_layers = ((table.section == "A.2") & (table.network == network)).any()
        return printed_drawing(table, network) if has_layers else None

    return draw


def paper_checks(run: Run) -> tuple[list[Check], list[str]]:
    """How many claims have each mark, and which steps were skipped."""
    claims = run.table("claims")
    marks = claims["mark"].dropna().value_counts() if "mark" in claims else {}
    said = [f"{mark}: {n}" for mark, n in marks.items()]
    n_skipped = len(run.facts.get("left_out", []))
    return [Check("Claims", said)] * bool(said), [
        f"Skipped steps: {n_skipped}, listed below."
    ] * bool(n_skipped)


def paper_sections(run: Run, drawn: Mapping[str, Drawing]) -> list[Section]:
    """The claims first, then each experiment with its table.

    `run.json` holds the titles and notes of the experiments, and the names of the folders next to
    the page that have a page of their own.
    """
    table, claims = run.table("paper", COLUMNS), run.table("claims")
    named = claims.fillna("").astype(str)
    rows: list[tuple[Cell, ...]] = [*named.itertuples(index=False, name=None)]
    pages = {step: f"{step}/report.html" for step in run.facts.get("pages", [])}
    claimed = Table("Claims and what was found", tuple(map(str, claims.columns)), rows)
    sections = [Section("Claims", [OF_CLAIMS], tables=[claimed])]
    if pages:
        sections.append(Section("Pages of the experiments", links=pages))
    figures = [
        Shown(name, name, note, drawn[name]) for name, note in PRINTED.items() if name in drawn
    ]
    for experiment in run.facts.get("experiments", []):
        section, title, note = (experiment.get(name, "") for name in ("section", "title", "note"))
        here = table.loc[table.section == section]
        if here.empty:
            continue
        sections.append(
            Section(
                f"{section}: {title}",
                [note] if note else [],
                figures=figures if section == "A.2" else [],
                tables=[Table(title, HEADINGS, rows_of(here))],
            )
        )
    return sections


def rows_of(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The rows under HEADINGS: numbers, with ours as (text with its interval, number)."""
    return [
        (
            row["network"],
            row["item"],
            row["quantity"],
            _as_printed(row["paper"]),
            _with_text(row["ours_as_paper"]),
            _with_interval(row),
            row["mark"],
            row["why"],
        )
        for row in table.to_dict("records")
    ]


def number(value: float) -> str:
    """Two decimals; none where there would be many digits; empty for nan."""
    if math.isnan(value):
        return ""
    digits = 0 if abs(value) >= 100 or (float(value).is_integer() and abs(value) > 1) else 2
    said = f"{value:,.{digits}f}"
    return "0.00" if float(said.replace(",", "")) == 0 else said.replace("-", "−")


def _as_printed(value: float) -> Any:
    """With the digits that it has."""
    return math.nan if math.isnan(value) else (f"{value:,.10g}".replace("-", "−"), value)


def _with_interval(row: Mapping[Any, Any]) -> Any:
    if math.isnan(row["ours_low"]):
        return _with_text(row["ours"])
    said = f"{number(row['ours'])} [{number(row['ours_low'])}, {number(row['ours_high'])}]"
    return (said.replace(" ", BLANK), row["ours"])


def _with_text(value: float) -> Cell:
    """The same text in Markdown and on the page, sorted by its value."""
    return math.nan if math.isnan(value) else (number(value), value)
