"""The paper's numbers and claims next to ours: in one sentence, and as Markdown."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..paper import published
from ..pathology.transfer import Transfer
from ..report.paper import HEADINGS, OF_CLAIMS, number, rows_of
from .numbers import (
    CLOSE,
    INCEPTION,
    NOT_REPRODUCED,
    REPRODUCED,
    RESNET,
    RESNET_COMPLETE,
    SECTIONS,
    STAND_IN,
    WITH_MATCHED_BLUR,
)
from .published import source

OF_FOUND = "What was found of each claim"
NOTES = {
    "A.2": "Their method is least squares, ours ridge with a nested penalty; the same features. "
    f"The paper's numbers: {INCEPTION} {source(INCEPTION)}; {RESNET} and {RESNET_COMPLETE} "
    f"{source(RESNET)}. {RESNET_COMPLETE} is torchvision's variant, with strides in its 3 x 3 "
    "convolutions.",
    "A.1": "At the layer where the mean over classes is highest.",
    "4.1": "Share of images whose first class stays the same.",
    "4.2": "Ridge on features of noise, of the best layer; these images hold no object.",
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
    own = judged.network.isin(published.NETWORKS)
    others = " and ".join(dict.fromkeys(judged.network[~own])) or STAND_IN
    held = (
        f"Its claims hold in {_reproduced(judged[own])} cases of its own architectures, and in "
        f"{_reproduced(judged[~own])} of {others}, which it does not have."
    )
    if compared.empty:
        return (
            "None of the paper's numbers can be compared here: give --data a folder with "
            f"annotated images and weights. {held}"
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


def markdown(table: pd.DataFrame, claims: pd.DataFrame) -> str:
    """All tables, the claims first: their marks by network, then what was found."""
    lines = ["# The paper next to ours", "", _paragraph(finding(table, claims))]
    marks = by_network(claims)
    lines += ["", "## Claims", "", *_table(list(marks.columns), marks.to_numpy().tolist())]
    lines += ["", f"## {OF_FOUND}", "", OF_CLAIMS, ""]
    lines += _table(list(claims.columns), claims.to_numpy().tolist())
    for section, title in SECTIONS.items():
        rows = table.loc[table.section == section]
        if rows.empty:
            continue
        note = [_paragraph(NOTES[section]), ""] if NOTES[section] else []
        lines += ["", f"## {section}: {title}", "", *note]
        lines += _table(HEADINGS, rows_of(rows))
    return "\n".join(lines) + "\n"


def by_network(claims: pd.DataFrame) -> pd.DataFrame:
    """The mark of each claim about networks: a row per claim, a column per network.

    A dash where the claim is not one about that network.
    """
    named = claims.loc[claims.network != ""]
    claim = named.claim + " (" + named["where"] + ")"
    wide = named.assign(claim=claim).pivot(index="claim", columns="network", values="mark")
    return wide.fillna("–").loc[claim.unique(), named.network.unique()].reset_index()


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


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


PAPERS = {"inception_v3": "InceptionV3", "resnet50_v1": "ResNet50"}


def with_the_paper(found: Transfer, model: str) -> pd.DataFrame:
    """Table 2 of `graziani2021`, and below it our scores of the same methods, as text.

    Errors in px; theirs are of other patches, tissue and training: not to be compared in value.
    """
    printed = published.transfer_scores().assign(whose=lambda t: t.model.map(PAPERS) + ", theirs")
    ours = found.scores().assign(whose=f"{model}, ours")
    rows = [
        {
            "network": row["whose"],
            "contestant": row["contestant"],
            "last layer": row["layer"],
            "MAE px": f"{row['mae']:.1f} ± {row['mae_sd']:.1f}",
            "kappa": f"{row['kappa']:.3f} ± {row['kappa_sd']:.3f}",
        }
        for row in (*printed.to_dict("records"), *ours.to_dict("records"))
        if row["contestant"] in set(printed.contestant)
    ]
    return pd.DataFrame(rows)
