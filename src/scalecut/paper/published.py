"""The numbers that the paper prints (`graziani2021`), read from one file, as tables.

They are compared with ours and never mixed with them.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from ..errors import DataError
from ..pathology.patches import TOTAL

NETWORKS = {"inception_v3": "inception_v3", "resnet50": "resnet50", "resnet50_v1": "resnet50"}


@cache
def _whole() -> dict[str, Any]:
    file = resources.files("scalecut").joinpath("paper", "graziani2021.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def curve(model: str) -> pd.DataFrame:
    """R² of least squares by layer, as printed: `layer` (the paper's name), `pretrained`, and,
    where printed, `random` and `shuffled`. Empty for a network that the paper does not have.
    """
    if model not in NETWORKS:
        return pd.DataFrame(columns=["layer", "pretrained"])
    found = _whole()[NETWORKS[model]]
    kinds = [kind for kind in ("pretrained", "random", "shuffled") if kind in found]
    return pd.DataFrame({"layer": found["layers"], **{kind: found[kind] for kind in kinds}})


def peak(model: str) -> tuple[str, float]:
    """The layer that the paper cuts after, and its R²."""
    found = _whole()[NETWORKS[model]]
    return found["peak"], found["peak_r2"]


def source(what: str) -> str:
    """Where in the paper the numbers of a network, `patches` or `transfer` stand."""
    return _whole()[NETWORKS.get(what, what)]["source"]


def patch_counts() -> tuple[pd.DataFrame, pd.Series]:
    """Patches by part and magnification, and the totals of rows and of all, both as printed."""
    found = _whole()["patches"]
    parts = ["train", "validation", "test"]
    cells = pd.DataFrame([found[part] for part in parts], parts, found["magnifications"])
    return cells, pd.Series(found["totals"])


def transfer_scores(model: str = "") -> pd.DataFrame:
    """`model, contestant, layer, mae, mae_sd, kappa, kappa_sd`; errors in px, ten seeds.

    Args:
        model: only of the architecture that this network has; none if the paper does not have it.
    """
    rows = pd.DataFrame(_whole()["transfer"]["rows"])
    return rows.loc[rows.model.map(NETWORKS) == NETWORKS.get(model)] if model else rows


@dataclass(frozen=True, slots=True)
class Misprint:
    """A number in a table that cannot be right, and the one that would be."""

    row: str
    column: str
    printed: int
    right: int


def check_counts(cells: pd.DataFrame, totals: pd.Series) -> tuple[Misprint, ...]:
    """The cells of a table of counts that cannot be right, one in each row that does not add up.

    Totals of rows alone do not show which cell of the row it is. It is taken to be the one whose
    repair brings the row closest, by chi-squared, to the proportions of the rows that add up.

    Args:
        cells: rows x columns, without totals.
        totals: of each row, and of all, `total`.

    Raises:
        DataError: if the totals of the rows do not add up to that of all.
    """
    of_rows = totals.drop(TOTAL)[cells.index]
    if of_rows.sum() != totals[TOTAL]:
        raise DataError(
            f"The rows add up to {of_rows.sum():,}, but the total is {totals[TOTAL]:,}. "
            "Fix the totals first."
        )
    excess = cells.sum(axis=1) - of_rows
    trusted = cells[excess == 0] if (excess == 0).any() else cells
    shares = trusted.sum() / trusted.to_numpy().sum()
    found: list[Misprint] = []
    for row in cells.index[excess != 0]:
        expected = shares * of_rows[row]
        repaired = cells.loc[row] - excess[row]
        gain = ((cells.loc[row] - expected) ** 2 - (repaired - expected) ** 2) / expected
        column = gain[repaired >= 0].idxmax()
        found.append(Misprint(row, column, int(cells.loc[row, column]), int(repaired[column])))
    return tuple(found)
