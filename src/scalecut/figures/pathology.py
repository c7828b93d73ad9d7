"""Figures of a transfer (scores of cuts, calibration, recall), an audit, and a passport.

Drawn from the tables of a run folder, and the facts of its `run.json`: the task, the layers of
methods, and `agreement` if there is any. Bands are the intervals of the tables.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from . import text
from .curve import PRETRAINED, RANDOM, Rows, layer_names, lines_of, range_of, rows_of
from .drawing import (
    BLUE,
    GREEN,
    INK,
    QUIET,
    VERMILION,
    Drawing,
    Line,
    Look,
    Mark,
    Panel,
    Scale,
    height_for,
    named_look,
    shade_looks,
)
from .drawing import R2 as SCALE_OF_R2

SCORE = Look("each cut", BLUE, "-", "o", 2.4, 0.18)
PROBED = Look("R² of the probe", VERMILION, "--", "s", 2.0, 0.14)
TRUTH = Look("truth", INK, ":", "", 1.6)
HEIGHT = 190.0
AGREED = Look("agrees", BLUE, "", "o", 1.8, 0.4)
SUSPECT = Look("suspicious", VERMILION, "", "D", 1.8, 0.4)
UNJUDGED = Look("not judged", INK, "", "o", 1.8, 0.4)
LAST = Look("last layer", QUIET, "", "s", 1.4)
MOST_TILES = 60
WITHIN = Look("", BLUE, "-", "o", 2.4, 0.18)
FURTHER = Look("", GREEN, "--", "^", 2.0, 0.14)
RATIO = Scale("distance / patients", top=1.2, named={1.0: "as patients differ"})
PER_OCTAVE = 24  # places of a figure by resolution
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


def passport_drawing(table: pd.DataFrame, facts: Mapping[str, Any]) -> Drawing:
    """The ratio to what patients differ by, by resolution, of the last layer and the furthest.

    Lines are straight between the resolutions given, which have the dots.

    Args:
        table: `resolutions.csv` of a passport.
    """
    rows, about = _ratios_of(table), facts["passport"]
    last, further = about["last_layer"], (about.get("further") or {}).get("layer")
    kind, octaves, panels = rows[0]["weights"], _octaves(rows), []
    for weights in dict.fromkeys(row["weights"] for row in rows):
        lines = []
        for look, layer in ((WITHIN, last), (FURTHER, further)):
            own = [row for row in rows if (row["layer"], row["weights"]) == (layer, weights)]
            if own:
                lines.append(_by_octave(own, octaves, replace(look, label=own[0]["alias"])))
        marks = _within(rows, about, octaves) if weights == kind else ()
        title = f"{str(weights).capitalize()} weights"
        panels.append(Panel(title, RATIO, lines, 1.4 * HEIGHT, marks=marks))
    reference = about["reference"]
    return Drawing(
        rows[0]["model"],
        f"compared with {reference:.3g} µm per pixel, {_of_patients(rows, about)}",
        [f"{reference * 2**each:.2g}" for each in octaves],
        panels,
        axis_name=f"µm per pixel ({reference:.3g} is about {10 / reference:.3g}X)",
        every=PER_OCTAVE // 2,
    )


def layers_drawing(
    table: pd.DataFrame, by_resolution: pd.DataFrame, facts: Mapping[str, Any]
) -> Drawing:
    """R² of resolution and drift per octave by layer, and the ratio at each resolution.

    Args:
        table: `passport.csv`.
        by_resolution: `resolutions.csv`.
    """
    columns = ("model", "weights", "layer", "alias", "depth", "n_patients", "r2", "drift")
    rows = rows_of(table, columns, ("model",), ("passport.csv", "the table"))
    kind, names = rows[0]["weights"], layer_names(rows)
    weights = {PRETRAINED: {"weights": kind}}
    if kind != "random":
        weights |= {RANDOM: {"weights": "random"}}
    panels = []
    for title, scale, name in (
        ("Resolution predicted from the features", SCALE_OF_R2, "r2"),
        ("Drift per octave", replace(RATIO, top=1.0), "drift"),
    ):
        y = (name, f"{name}_low", f"{name}_high")
        if any(np.isfinite(row[name]) for row in rows):
            lines = lines_of(rows, names, weights, y=y)
            panels.append(Panel(title, scale, lines, HEIGHT))
    away = [row for row in _ratios_of(by_resolution) if row["answer"] != "reference"]
    away = [row for row in away if row["weights"] == kind]
    sizes = sorted({row["um_per_pixel"] for row in away})
    shades = shade_looks([f"{size:.3g} µm per pixel" for size in sizes], "plasma", 0.0, 0.75)
    looks = {look: {"um_per_pixel": size} for look, size in zip(shades, sizes, strict=True)}
    lines = lines_of(away, names, looks, y=("ratio", "ratio_low", "ratio_high"))
    reference = facts["passport"]["reference"]
    title = f"Distance from {reference:.3g} µm per pixel"
    panels.append(Panel(title, RATIO, lines, height_for(lines, HEIGHT)))
    return Drawing(
        rows[0]["model"],
        f"{kind} weights   ·   {_of_patients(rows, facts['passport'])}",
        [*names.values()],
        panels,
    )


def encoders_drawing(table: pd.DataFrame) -> Drawing:
    """The ratio by resolution of the last layers of several encoders, from their reference."""
    columns = ("run", "layer", "octaves", "um_per_pixel", "ratio", "ratio_low", "ratio_high")
    rows = rows_of(table, columns, (), ("ratios.csv", "the table"))
    octaves, lines = _octaves(rows), []
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for number, run in enumerate(runs):
        look = replace(named_look(run, number), band_opacity=0.12 * (len(runs) <= 3))
        lines.append(_by_octave([row for row in rows if row["run"] == run], octaves, look))
    places = [f"{2**each:.3g}" for each in octaves]
    panel = Panel("", RATIO, lines, height_for(lines, 2 * HEIGHT))
    caption = "the last layer of each, compared with its own resolution of reference"
    axis = "pixel size, relative to the reference"
    every = PER_OCTAVE // 2
    return Drawing(f"{len(runs)} encoders", caption, places, [panel], axis, every)


def _ratios_of(table: pd.DataFrame) -> Rows:
    columns = ("model", "weights", "layer", "alias", "depth", "um_per_pixel", "octaves", "answer")
    names = "resolutions.csv", "the table"
    return rows_of(table, (*columns, "ratio", "ratio_low", "ratio_high"), ("model",), names)


def _octaves(rows: Rows) -> np.ndarray:
    """Evenly spaced octaves from the finest to the coarsest, whole steps from the coarsest down."""
    ends = [row["octaves"] for row in rows]
    steps = int(np.ceil(PER_OCTAVE * (max(ends) - min(ends)) - 1e-6))
    return max(ends) - np.arange(steps, -1, -1) / PER_OCTAVE


def _by_octave(rows: Rows, octaves: np.ndarray, look: Look) -> Line:
    """The ratio at evenly spaced octaves, straight between those given."""
    rows = sorted((row for row in rows if np.isfinite(row["ratio"])), key=lambda r: r["octaves"])
    if not rows:
        none = np.full(len(octaves), np.nan)
        return Line(look, none, none, none)
    found = [row["octaves"] for row in rows]
    beyond = np.abs(octaves - np.clip(octaves, found[0], found[-1])) >= 1 / PER_OCTAVE
    values, low, high = (
        np.where(beyond, np.nan, np.interp(octaves, found, [row[name] for row in rows]))
        for name in ("ratio", "ratio_low", "ratio_high")
    )
    marked = tuple(sorted({int(np.abs(octaves - each).argmin()) for each in found}))
    return Line(look, values, low, high, marked=marked)


def _within(rows: Rows, about: Mapping[str, Any], octaves: np.ndarray) -> tuple[Mark, ...]:
    """Where the last layer stays within what patients differ by."""
    kind = rows[0]["weights"]
    own = [r for r in rows if (r["layer"], r["weights"]) == (about["last_layer"], kind)]
    values = _by_octave(own, octaves, WITHIN).values
    start = end = int(np.abs(octaves).argmin())
    while start > 0 and values[start - 1] < 1:
        start -= 1
    while end + 1 < len(values) and values[end + 1] < 1:
        end += 1
    if not np.isfinite(values).any() or about["n_patients"] < about["fewest"]:
        return ()
    name = f"{own[0]['alias']} within patients"
    return (Mark(name, BLUE, ((float(start), float(end)),), is_shaded=True),)


def _of_patients(rows: Rows, about: Mapping[str, Any]) -> str:
    blur = "blur matched" if about["blur_matched"] else "blur as it is"
    return f"{range_of(rows, 'n_patients')} patients, {blur}"


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
