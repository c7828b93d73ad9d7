"""Figures of a transfer (scores of cuts, calibration, recall) and of an audit (differences).

Drawn from the tables of a run folder, and the facts of its `run.json`: the task, the layers of
methods, and `agreement` if there is any. Bands are the intervals of the tables.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from . import text
from .curve import Rows, lines_of, rows_of
from .drawing import BLUE, INK, QUIET, VERMILION, Drawing, Look, Mark, Panel, Scale, named_look
from .drawing import R2 as SCALE_OF_R2

SCORE = Look("each cut", BLUE, "-", "o", 2.4, 0.18)
PROBED = Look("R² of the probe", VERMILION, "--", "s", 2.0, 0.14)
TRUTH = Look("truth", INK, ":", "", 1.6)
HEIGHT = 190.0
AGREED = Look("agrees", BLUE, "-", "o", 1.8, 0.16)
SUSPECT = Look("suspicious", VERMILION, "-", "D", 1.8, 0.16)
UNJUDGED = Look("not judged", INK, "-", "o", 1.8, 0.16)
LAST = Look("last layer", QUIET, ":", "s", 1.4)
MOST_TILES = 60
SWEPT = {
    "kappa": ("Agreement with the true magnification", "Cohen's kappa"),
    "mae": ("Error", "mean absolute error"),
}


def sweep_drawing(table: pd.DataFrame, facts: Mapping[str, Any]) -> Drawing:
    """The score of every cut over its layer, above the probe's R² of the same layers."""
    columns = ("layer", "metric", "value", "low", "high", "r2", "r2_low", "r2_high")
    rows = rows_of(table, columns, (), ("sweep.csv", "the table of the run"))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    names = {row["layer"]: row["alias"] for row in rows}
    marks = _marks(names, facts.get("layers", {}))
    panels = []
    for metric, (title, unit) in SWEPT.items():
        here = [row for row in rows if row["metric"] == metric]
        unit = f"{unit}, {'px' if _is_area(facts) else 'octaves'}" if metric == "mae" else unit
        scale = Scale(unit, top=1.0 if metric == "kappa" else 0.0)
        lines = lines_of(here, layers, {SCORE: {}}, y=("value", "low", "high"))
        panels.append(Panel(title + _agreed(facts, metric), scale, lines, HEIGHT, marks=marks))
    here = [row for row in rows if row["metric"] == "kappa"]
    if any(np.isfinite(row["r2"]) for row in here):
        lines = lines_of(here, layers, {PROBED: {}}, y=("r2", "r2_low", "r2_high"))
        title = "Object scale in natural images, by the probe"
        panels.append(Panel(title, SCALE_OF_R2, lines, HEIGHT))
    return Drawing(_heading(facts), _caption(facts), [*names.values()], panels)


def calibration_drawing(table: pd.DataFrame, facts: Mapping[str, Any]) -> Drawing:
    """The mean prediction for patches, by their true value."""
    columns = ("contestant", "layer", "group", "truth", "predicted", "low", "high")
    rows = rows_of(table, columns, (), ("calibration.csv", "the table"))
    rows = [row for row in rows if row["contestant"] != "sweep"]
    is_area = _is_area(facts)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    truth = {row["group"]: row["truth"] for row in rows}
    looks: dict[Look, dict[str, Any]] = {TRUTH: {"contestant": ""}}
    looks |= {look: {"contestant": name} for name, look in _looks(rows).items()}
    rows += [
        {"contestant": "", "group": g, "predicted": t, "low": t, "high": t}
        for g, t in truth.items()
    ]
    lines = lines_of(rows, groups, looks, x="group", y=("predicted", "low", "high"))
    scale = Scale(
        "predicted mean area, px" if is_area else "predicted, log2 of X",
        bottom=0.0 if is_area else min(truth.values()) - 0.5,
        top=1.0 if is_area else max(truth.values()),
    )
    places = [f"{truth[g]:.0f} px" if is_area else f"{2 ** truth[g]:g}X" for g in groups]
    by_area = "true mean area of nuclei, by deciles of the patches"
    axis = by_area if is_area else "true magnification"
    panel = Panel("Mean over fits and patches", scale, lines, 2 * HEIGHT)
    return Drawing(_heading(facts), _caption(facts), places, [panel], axis_name=axis)


def recall_drawing(table: pd.DataFrame, facts: Mapping[str, Any]) -> Drawing:
    """Share of the patches of each magnification that are classified correctly."""
    columns = ("contestant", "layer", "magnification", "recall")
    rows = rows_of(table, columns, (), ("recall.csv", "the table"))
    rows = [row for row in rows if row["contestant"] != "sweep"]
    each = list(dict.fromkeys(row["magnification"] for row in rows))
    looks = {look: {"contestant": name} for name, look in _looks(rows).items()}
    lines = lines_of(rows, each, looks, x="magnification", y=("recall", "recall", "recall"))
    scale = Scale("recall", named={1 / len(each): "chance"})
    panel = Panel("Patches classified correctly, by magnification", scale, lines, 1.4 * HEIGHT)
    places = [f"{magnification:g}X" for magnification in each]
    return Drawing(_heading(facts), _caption(facts), places, [panel], axis_name="magnification")


def audit_drawing(table: pd.DataFrame, facts: Mapping[str, Any]) -> Drawing:
    """Predicted minus claimed resolution of each tile, in octaves, from the lowest to the highest.

    Of more than `MOST_TILES`, those that differ most; without any claim, the predicted resolution.
    """
    columns = ("name", "claimed_mpp", "predicted_mpp", "low", "high", "octaves", "verdict")
    about, has_claims = facts.get("audit", {}), bool(table["octaves"].notna().any())
    value = table["octaves"] if has_claims else np.log2(table["predicted_mpp"])
    about_claim = np.log2(table["claimed_mpp"]) if has_claims else 0.0
    shown = table.assign(
        value=value,
        **{f"{end}_shown": np.log2(table[end]) - about_claim for end in ("low", "high")},
    )
    shown = shown.loc[shown["value"].notna()]
    unusual = shown["value"].abs().sort_values(ascending=False, kind="stable").index
    shown = shown.loc[unusual[:MOST_TILES]].sort_values(["value", "name"])
    rows = rows_of(shown, columns, (), ("audit.csv", "the table"))
    looks = {
        SUSPECT: {"verdict": "suspicious"},
        AGREED: {"verdict": "agrees"},
        UNJUDGED: {"verdict": "no verdict" if has_claims else "no claim: predicted"},
    }
    names = [row["name"] for row in rows]
    lines = lines_of(rows, names, looks, x="name", y=("value", "low_shown", "high_shown"))
    if "last_octaves" in shown and shown["last_octaves"].notna().any():
        y = ("last_octaves", "last_octaves", "last_octaves")
        lines += lines_of(rows, names, {LAST: {}}, x="name", y=y)
    ends = [end for line in lines for end in (*line.low, *line.high) if np.isfinite(end)]
    unit = "predicted / claimed, octaves" if has_claims else "log2 of µm per pixel"
    scale = Scale(unit, bottom=min(ends, default=0.0), top=max(ends, default=1.0))
    level = 100 * about.get("level", 0.95)
    title = f"Resolution by tile, with intervals of {level:g} %"
    places = [name if len(name) <= 24 else f"…{name[-23:]}" for name in names]
    caption = (
        f"cut at {about.get('layer', '?')}   ·   {len(table)} tiles, calibrated on "
        f"{about.get('n_reference_patients', '?')} patients, false discovery rate "
        f"{about.get('rate', 0.1):g}"
    )
    panel = Panel(title, scale, lines, 2 * HEIGHT)
    return Drawing(_heading(facts), caption, places, [panel], axis_name="tile")


def _looks(rows: Rows) -> dict[str, Look]:
    names = dict.fromkeys(row["contestant"] for row in rows)
    return {name: replace(named_look(name, k), width=2.0) for k, name in enumerate(names)}


def _marks(names: Mapping[str, str], where: Mapping[str, str]) -> tuple[Mark, ...]:
    """The layer that the network was cut at."""
    cut = where.get("cut", "")
    if cut not in names:
        return ()
    at = list(names).index(cut)
    return (Mark(f"cut at {names[cut]}", QUIET, ((at - 0.5, at + 0.5),), is_shaded=True),)


def _agreed(facts: Mapping[str, Any], metric: str) -> str:
    """The rank correlation of the scores with R²; for an error, with its sign changed."""
    for row in facts.get("agreement") or []:
        if row["metric"] == metric and pd.notna(row["rho"]):
            rho = text.with_interval(row["rho"], row["low"], row["high"])
            return f"; rank correlation with R² {text.typeset(rho)}"
    return ""


def _is_area(facts: Mapping[str, Any]) -> bool:
    return facts.get("transfer", {}).get("task", "area") == "area"


def _heading(facts: Mapping[str, Any]) -> str:
    return str(facts.get("settings", {}).get("model", "Transfer"))


def _caption(facts: Mapping[str, Any]) -> str:
    trial = facts.get("transfer", {})
    fits = f"{trial.get('seeds', '?')} fits"
    if trial.get("leave_one_out"):
        fits = f"each of {facts.get('n_patients', '?')} patients held out once"
    return (
        f"{trial.get('task', '')}, {trial.get('mode', '')}   ·   "
        f"{facts.get('n_test', '?')} test patches of {facts.get('n_tiles', '?')} tiles, {fits}"
    )
