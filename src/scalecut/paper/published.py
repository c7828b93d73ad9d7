"""The numbers that the paper prints (`graziani2021`), read from one file, as tables.

They stand beside ours and are never mixed with them.
"""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

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


def transfer_scores() -> pd.DataFrame:
    """`model, contestant, layer, mae, mae_sd, kappa, kappa_sd`; errors in px, ten seeds."""
    return pd.DataFrame(_whole()["transfer"]["rows"])


def seeds() -> list[int]:
    """The paper's ten."""
    return list(_whole()["transfer"]["seeds"])
