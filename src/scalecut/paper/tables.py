"""The paper's numbers and claims beside ours, told: a sentence, Markdown, parts of a page."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..report.page import Cell, Section, Shown, Table
from .numbers import (
    CLOSE,
    INCEPTION,
    NOT_REPRODUCED,
    REPRODUCED,
    RESNET,
    SECTIONS,
    STAND_IN,
    WITH_MATCHED_BLUR,
)
from .published import source

OF_CLAIMS = "Judged by ridge, but for what is said to be of least squares; network by network."
HEADINGS = ("network", "item", "quantity", "paper", "ours, their method", "ours", "mark", "why")
NOTES = {
    "A.2": "Their method is least squares, ours ridge with a nested penalty; the same features. "
    f"The paper's numbers: {INCEPTION} {source(INCEPTION)}; {RESNET} {source(RESNET)}.",
    "A.1": "At the layer where the mean over classes is highest.",
    "4.1": "Share of images whose first class stays the same.",
    "4.2": "Ridge on features of noise, of the best layer; there is no object in these pictures.",
    "3.4": "Their method is least squares, ours ridge.",
    "Table 1": "Their method: patches side by side.",
    "Table 2": "Their method trains all weights; ours fits a ridge to frozen features.",
    "A.3": "",
}


def finding(table: pd.DataFrame, claims: pd.DataFrame) -> str:
    """How many numbers of R² by layer, and how many claims, there are of each mark."""
    by_layer = table.loc[table.section == "A.2"]
    compared = by_layer.loc[by_layer.mark.isin([REPRODUCED, NOT_REPRODUCED])]
    theirs = ~claims.claim.str.endswith(WITH_MATCHED_BLUR)  # that control is ours
    judged = claims.loc[claims.mark.isin([REPRODUCED, NOT_REPRODUCED]) & theirs]
    own = judged.network != STAND_IN
    held = (
        f"Its claims hold in {_reproduced(judged[own])} cases of its own networks, and in "
        f"{_reproduced(judged[~own])} of {STAND_IN}, which stands in for them."
    )
    if compared.empty:
        return (
            "None of the paper's numbers can be compared here: give --data a folder with "
            f"photographs and weights. {held}"
        )
    parts = [
        f"{_reproduced(rows)} of {network}"
        for network, rows in compared.groupby("network", sort=False)
    ]
    n, is_above = int((compared.mark == REPRODUCED).sum()), compared.paper > 0
    return (
        f"Of {len(compared)} R² of the paper that can be compared, {n} are reproduced by its own "
        f"method ({', '.join(parts)}): of those above 0 there, {_reproduced(compared[is_above])} "
        f"lie within {CLOSE:g}; of the others, {_reproduced(compared[~is_above])} are not above 0 "
        "here either. "
        f"{held}"
    )


def _reproduced(rows: pd.DataFrame) -> str:
    return f"{int((rows.mark == REPRODUCED).sum())} of {len(rows)}"


def rows_of(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What stands under HEADINGS: numbers, with ours as (text with its interval, number)."""
    return [
        (
            row["network"],
            row["item"],
            row["quantity"],
            _as_printed(row["paper"]),
            _shown(row["ours_as_paper"]),
            _with_interval(row),
            row["mark"],
            row["why"],
        )
        for row in table.to_dict("records")
    ]


def markdown(table: pd.DataFrame, claims: pd.DataFrame) -> str:
    """All tables, the claims first."""
    lines = ["# The paper beside ours", "", finding(table, claims)]
    lines += ["", "## Claims", "", OF_CLAIMS, ""]
    lines += _table(list(claims.columns), claims.to_numpy().tolist())
    for section, title in SECTIONS.items():
        rows = table.loc[table.section == section]
        if rows.empty:
            continue
        note = [NOTES[section], ""] if NOTES[section] else []
        lines += ["", f"## {section}: {title}", "", *note]
        lines += _table(HEADINGS, rows_of(rows))
    return "\n".join(lines) + "\n"


def paper_sections(
    table: pd.DataFrame,
    claims: pd.DataFrame,
    figures: Mapping[str, Shown],
    steps: Sequence[str],
) -> list[Section]:
    """The claims first, then each experiment with its table.

    Args:
        figures: of the curves, by network.
        steps: names of the folders beside the page that have a page of their own.
    """
    columns = tuple(map(str, claims.columns))
    named = claims.fillna("").astype(str)
    rows: list[tuple[Cell, ...]] = [*named.itertuples(index=False, name=None)]
    pages = {step: f"{step}/report.html" for step in steps}
    sections = [
        Section("Claims", [OF_CLAIMS], tables=[Table("Claims and what was found", columns, rows)]),
        Section("Each experiment has a page of its own", links=pages),
    ]
    for section, title in SECTIONS.items():
        here = table.loc[table.section == section]
        if here.empty:
            continue
        sections.append(
            Section(
                f"{section}: {title}",
                [NOTES[section]] if NOTES[section] else [],
                figures=[*figures.values()] if section == "A.2" else [],
                tables=[Table(title, HEADINGS, rows_of(here))],
            )
        )
    return sections


def _table(headings: Sequence[str], rows: Sequence[Any]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        return f"| {' | '.join(_cell(cell) for cell in cells)} |"

    return [line(headings), line(["---"] * len(headings)), *map(line, rows)]


def _cell(cell: Any) -> str:
    if isinstance(cell, tuple):
        return str(cell[0])
    if isinstance(cell, float):
        return number(cell)
    return re.sub(r"([\\`~<|])", r"\\\1", " ".join(str(cell).split()))  # opens code, HTML, a cell


def _as_printed(value: float) -> Any:
    """With the digits that it has."""
    return math.nan if math.isnan(value) else (f"{value:,.10g}".replace("-", "−"), value)


def _with_interval(row: Mapping[Any, Any]) -> Any:
    if math.isnan(row["ours_low"]):
        return _shown(row["ours"])
    said = f"{number(row['ours'])} [{number(row['ours_low'])}, {number(row['ours_high'])}]"
    return (said.replace(" ", "\N{NO-BREAK SPACE}"), row["ours"])


def _shown(value: float) -> Cell:
    """The same text in Markdown and on the page, sorted by its value."""
    return math.nan if math.isnan(value) else (number(value), value)


def number(value: float) -> str:
    """Two decimals; none where there would be many digits; nothing for what is not a number."""
    if math.isnan(value):
        return ""
    digits = 0 if abs(value) >= 100 or (float(value).is_integer() and abs(value) > 1) else 2
    said = f"{value:,.{digits}f}"
    return "0.00" if float(said.replace(",", "")) == 0 else said.replace("-", "−")
