"""Figures of the analyses next to the curve, each drawn from its table in long form.

A panel without rows in the table is not drawn. Bands are the intervals of the table. A table that
lacks a column or all rows, or is of several models, is a DataError.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import pandas as pd

from ..errors import DataError
from .curve import EXPONENTIAL, Rows, layer_names, lines_of, range_of, rows_of
from .drawing import (
    BLUE,
    GREEN,
    INK,
    QUIET,
    R2,
    VERMILION,
    Drawing,
    Grid,
    Look,
    Mark,
    Panel,
    Scale,
    height_for,
    named_look,
    shade_looks,
)
from .text import decimals

Looks: TypeAlias = dict[Look, dict[str, Any]]  # the rows of a line, by columns

OF_ALL = ("model", "weights", "n_images", "layer", "alias", "depth")
VALUE = ("quantity", "value", "low", "high")
LINES = (
    Look("", BLUE, "-", "o", 2.4, 0.18),
    Look("", VERMILION, "--", "s", 2.0, 0.12),
    Look("", GREEN, "-.", "^", 2.0, 0.12),
    Look("", QUIET, ":", "D", 1.8, 0.08),
)
HEIGHT = 125.0  # of a panel
GROUPS = 10  # of images of similar scale
SCALE = Scale("predicted scale", bottom=math.inf, top=-math.inf)  # as far as the values

CHANGES = {"image-size": "Image resized", "object-scale": "Object scaled by cropping or padding"}
OUTPUTS = {
    "agreement": "same top class",
    "probability_change": "change of its probability",
    "jensen_shannon": "Jensen-Shannon distance",
}
SHARE = Scale("share, distance")
MOVES = {
    "drift": ("drift per octave", Scale("1 − cosine", top=0.1)),
    "map_error": (
        "error of the best linear map",
        Scale("error / variance", named={1.0: "unrelated"}),
    ),
}
PADDINGS = {
    "zeros": "zero padding",
    "reflect": "reflection padding",
    "circular": "circular padding",
}
SCENES: tuple[tuple[str, Scale, dict[str, str]], ...] = (
    (
        "Predicted from the features, the other one held constant",
        replace(R2, label="partial R²"),
        {"object_scale_partial_r2": "object scale", "image_size_partial_r2": "image size"},
    ),
    (
        "Variance of the features explained",
        Scale("share", top=0.2),
        {
            "object_scale_effect": "object scale",
            "image_size_effect": "image size",
            "interaction_effect": "interaction",
        },
    ),
    (
        "Only the object resized, in the same image",
        Scale("covariance gain", bottom=-0.1, named={1.0: "1: covariant", 0.0: "0: invariant"}),
        {"gain": "gain", "r2": "R² of the probe"},
    ),
    (
        "Predicted from a leak alone",
        R2,
        {"blur_leak": "blur", **{f"padding_{mode}_leak": PADDINGS[mode] for mode in PADDINGS}},
    ),
)
DIRECTIONS = {
    "stability_degrees": (
        "Angle between the directions of two fits",
        Scale("degrees", top=60.0),
        "stability_shuffled_degrees",
    ),
    "channels_90": (
        "Channels that carry 90 % of the direction",
        Scale("share", top=0.6),
        "channels_90_shuffled",
    ),
}
PRINTED: Looks = {
    Look("ridge, ours", BLUE, "-", "o", 2.4, 0.18): {"whose": "ours"},
    Look("least squares, ours", VERMILION, "--", "s", 2.0): {"whose": "ours_as_paper"},
    Look("least squares, the paper", INK, ":", "D", 1.8): {"whose": "paper"},
}
COST_OF = {"macs": "multiply-accumulates", "parameters": "parameters"}
COSTS: Looks = {
    Look(COST_OF["macs"], BLUE, "-", "o", 2.4): {"of": "macs"},
    Look(COST_OF["parameters"], VERMILION, "--", "s", 2.0): {"of": "parameters"},
}
BY_CHANCE = Look("shuffled target", QUIET, ":", "", 1.8)


def invariance_drawing(table: pd.DataFrame) -> Drawing:
    """How the prediction changes with the size of the image, and with the scale of the object."""
    rows = _rows(table, "invariance", ("change", "octaves", *VALUE), OUTPUTS)
    octaves = sorted({row["octaves"] for row in rows})
    panels: list[Panel] = []
    for change, title in CHANGES.items():
        here = [row for row in rows if row["change"] == change]
        panels += _panel(title, SHARE, here, octaves, _looks("quantity", OUTPUTS), x="octaves")
    sides = "side, relative to the training resolution"
    return _drawing(rows, map(_factor, octaves), panels, sides)


def drift_drawing(table: pd.DataFrame) -> Drawing:
    """How far the features of each layer move per octave of size, and whether linearly.

    Steps that begin at whole octaves are drawn, so that none overlap; all steps if there are none.
    """
    rows = _rows(table, "invariance", ("change", "octaves", *VALUE), MOVES)
    names, octaves = layer_names(rows), sorted({row["octaves"] for row in rows})
    octaves = [each for each in octaves if float(each).is_integer()] or octaves
    steps = [f"{_factor(each - 1)} to {_factor(each)}" for each in octaves]
    shades = shade_looks(steps, "plasma", 0.0, 0.75)
    looks: Looks = {look: {"octaves": each} for look, each in zip(shades, octaves, strict=True)}
    panels: list[Panel] = []
    for change, what in CHANGES.items():
        for quantity, (title, scale) in MOVES.items():
            here = [row for row in rows if (row["change"], row["quantity"]) == (change, quantity)]
            panels += _panel(f"{what}: {title}", scale, here, names, looks)
    return _drawing(rows, names.values(), panels)


def noise_drawing(table: pd.DataFrame) -> Drawing:
    """R² of the image size by layer where the images are noise, one panel per kind of noise."""
    y = ("r2", "r2_low", "r2_high")
    rows = _rows(table, "noise", ("noise", "padding", *y))
    names, looks = layer_names(rows), _looks("padding", PADDINGS)
    panels: list[Panel] = []
    for kind in dict.fromkeys(row["noise"] for row in rows):
        here = [row for row in rows if row["noise"] == kind]
        panels += _panel(f"Image size predicted from {kind} noise", R2, here, names, looks, y=y)
    return _drawing(rows, names.values(), panels)


def scenes_drawing(table: pd.DataFrame) -> Drawing:
    """Object scale and image size separated, by layer, in synthetic scenes; the gain; the leaks."""
    known = [quantity for *_, labels in SCENES for quantity in labels]
    rows = _rows(table, "scenes", VALUE, known)
    names = layer_names(rows)
    panels: list[Panel] = []
    for title, scale, labels in SCENES:
        panels += _panel(title, scale, rows, names, _looks("quantity", labels))
    return _drawing(rows, names.values(), panels)


def directions_drawing(table: pd.DataFrame) -> Drawing:
    """How stable the direction of scale is by layer, how many channels carry it, its transfer.

    Transfer is averaged over the pairs of different subsets, and over the subsets tested on their
    own images. The shuffled target is averaged over subsets.
    """
    by_chance = [shuffled for *_, shuffled in DIRECTIONS.values()]
    known = (*DIRECTIONS, *by_chance, "transfer_r2")
    rows = _rows(table, "directions", ("subset", "other", *VALUE), known)
    names, looks = layer_names(rows), _of_subsets(row["subset"] for row in rows)
    looks[BY_CHANCE] = {"is_chance": True}
    panels: list[Panel] = []
    for quantity, (title, scale, shuffled) in DIRECTIONS.items():
        here = [row for row in rows if row["quantity"] == quantity]
        shuffles = [row for row in rows if row["quantity"] == shuffled]
        chance = _means(shuffles, "is_chance", lambda row: True)
        panels += _panel(title, scale, here + chance, names, looks)
    transfers = [row for row in rows if row["quantity"] == "transfer_r2"]
    means = _means(transfers, "is_own", lambda row: row["subset"] == str(row["other"]))
    own = _looks("is_own", {True: "the same subset", False: "another subset"})
    panels += _panel("Fitted to one subset, tested on", R2, means, names, own)
    return _drawing(rows, names.values(), panels)


def atlas_drawing(table: pd.DataFrame) -> Drawing:
    """R² and partial R² of every concept by layer, by the network itself.

    Args:
        table: `atlas.csv`, of one model.

    Raises:
        DataError: if a column or all rows are missing, or there are several models.
    """
    rows = rows_of(
        table, (*OF_ALL, "concept", "r2", "partial_r2"), ("model",), ("atlas", "atlas.csv")
    )
    rows = [row for row in rows if row["weights"] == rows[0]["weights"]]
    names, concepts = layer_names(rows), list(dict.fromkeys(row["concept"] for row in rows))
    own = table[table["weights"] == rows[0]["weights"]]
    grids = []
    for column, title in (
        ("r2", "Predicted from the features"),
        ("partial_r2", "With the other concepts held constant"),
    ):
        values = own.pivot_table(column, "concept", "layer", sort=False, dropna=False)
        wanted = values.reindex(index=concepts, columns=[*names]).to_numpy(dtype=float)
        grids.append(Grid(title, concepts, wanted, "R²" if column == "r2" else "partial R²"))
    return _drawing(rows, names.values(), grids)


def predicted_drawing(predictions: pd.DataFrame, model: str, layer: str, label: str) -> Drawing:
    """True against predicted scale from one layer, class by class.

    The places are equally large groups of images of similar scale; a point is the mean prediction
    for the held-out images of a class, the band their 10th to 90th percentile, and the dotted line
    the truth.
    """
    columns = ("subset", "measure", "layer", "predicted")
    rows_of(predictions, columns, (), ("table of predictions", "predictions.parquet"))
    here = predictions.loc[predictions.layer == layer].dropna(subset=["predicted"])
    if here.empty:
        raise DataError(f"There is no prediction of {layer!r}. Give a layer of the run.")
    tenths = pd.qcut(here.measure, GROUPS, labels=False, duplicates="drop")
    centres = here.measure.groupby(tenths).mean()
    looks: Looks = {Look("true", INK, ":", "", 1.8): {"subset": ""}} | _of_subsets(here.subset)
    rows: Rows = [{"place": at, "subset": "", "value": each} for at, each in centres.items()]
    for (subset, at), each in here.groupby(["subset", tenths], sort=False).predicted:
        low, high = each.quantile([0.1, 0.9])
        rows.append({"place": at, "subset": subset, "value": each.mean(), "low": low, "high": high})
    lines = lines_of(rows, centres.index, looks, x="place")
    panel = Panel(f"Predicted from {label}, for held-out images", SCALE, lines, 210.0)
    digits = decimals(centres.max() - centres.min())
    names = [f"{centre:,.{digits}f}".replace("-", "−") for centre in centres]
    caption = f"n = {len(here):,} images, in {len(centres)} groups of similar scale"
    return Drawing(model, caption, names, [panel], axis_name="true scale, mean of each group")


def printed_drawing(table: pd.DataFrame, network: str) -> Drawing:
    """The paper's R² by layer and ours, by its method and by ridge, on its axis."""
    columns = ("section", "network", "item", "quantity", "paper", "ours_as_paper", "ours")
    rows = rows_of(table, (*columns, "ours_low", "ours_high"), (), ("table", "paper.csv"))
    rows = [row for row in rows if (row["section"], row["network"]) == ("A.2", network)]
    if not rows:
        raise DataError(f"The table has no layer of {network}. Give one of those that it has.")
    places = list(dict.fromkeys(row["item"] for row in rows))
    panels: list[Panel] = []
    for quantity in dict.fromkeys(row["quantity"] for row in rows):
        here = [row for row in rows if row["quantity"] == quantity]
        long = [
            {"layer": row["item"], "whose": whose, "value": row[whose]}
            | ({"low": row["ours_low"], "high": row["ours_high"]} if whose == "ours" else {})
            for row in here
            for whose in ("ours", "ours_as_paper", "paper")
            if not math.isnan(row[whose])
        ]
        panels += _panel(quantity.removeprefix("R², "), EXPONENTIAL, long, places, PRINTED)
    return Drawing(network, "R² by layer   ·   of the paper, and ours", places, panels)


def saving_drawing(
    costs: pd.DataFrame, network: str, layer: str, whole: Mapping[str, int | float] | None = None
) -> Drawing:
    """The share of the whole network up to each layer, and the share that a cut keeps.

    Args:
        costs: `layer, alias, depth, parameters, macs` up to each layer, in order of execution.
        network: its name.
        layer: where it is cut.
        whole: `parameters` and `macs` of the network, which may have more than its last layer
            depends on, such as an auxiliary head; where it is not known, shares are of the latter.
    """
    columns = ("layer", "alias", "depth", "parameters", "macs")
    rows = rows_of(costs, columns, (), ("table of costs", "the table"))
    names = layer_names(rows)
    if layer not in names:
        raise DataError(f"The table has no layer {layer!r}. Give one of its {len(rows)} layers.")
    every = whole or rows[-1]
    long = [
        {"layer": row["layer"], "of": of, "value": row[of] / every[of]}
        for row in rows
        for of in COST_OF
        if every.get(of) and row[of] is not None and not math.isnan(row[of])
    ]
    here = {row["of"]: row["value"] for row in long if row["layer"] == layer}
    said = ", ".join(f"{100 * share:.0f} % of {COST_OF[of]}" for of, share in here.items())
    at = [*names].index(layer)
    kept = Mark("kept", GREEN, ((-0.5, at + 0.5),), is_shaded=True, at=at + 0.5)
    scale = replace(SHARE, label="share of the network" if whole else "share, to the last layer")
    panels = _panel("Cost up to each layer", scale, long, names, COSTS)
    panels = [replace(panel, marks=(kept,)) for panel in panels]
    caption = f"cut after {names[layer]}   ·   keeps {said}"
    return Drawing(network, caption, [*names.values()], panels)


def _means(rows: Rows, kind: str, kind_of: Callable[[dict[str, Any]], bool]) -> Rows:
    """The mean value by layer and kind, without an interval."""
    values: dict[tuple[str, bool], list[float]] = {}
    for row in rows:
        values.setdefault((row["layer"], kind_of(row)), []).append(row["value"])
    return [
        {"layer": layer, kind: of_kind, "value": sum(each) / len(each)}
        for (layer, of_kind), each in values.items()
    ]


def _rows(
    table: pd.DataFrame, what: str, columns: Iterable[str], known: Collection[str] = ()
) -> Rows:
    """The rows of the quantities that are known, or all."""
    names = f"table of {what}", "the table"
    rows = rows_of(table, (*OF_ALL, *columns), ("model", "weights"), names)
    rows = [row for row in rows if not known or row["quantity"] in known]
    if not rows:
        raise DataError(
            f"The table of {what} has {len(table)} rows, none of them of "
            f"{', '.join(known) or 'a layer'}. Give the whole table as scalecut wrote it."
        )
    return rows


def _looks(column: str, labels: Mapping[Any, str]) -> Looks:
    """A line for each value of a column that has a label."""
    return {
        replace(look, label=label): {column: value}
        for look, (value, label) in zip(LINES, labels.items(), strict=False)
    }


def _of_subsets(subsets: Iterable[str]) -> Looks:
    """A line for each subset."""
    return {
        replace(named_look(subset, number), band_opacity=0.1): {"subset": subset}
        for number, subset in enumerate(dict.fromkeys(subsets))
    }


def _drawing(
    rows: Rows, places: Iterable[str], panels: list[Panel] | list[Grid], axis_name: str = ""
) -> Drawing:
    """With the network, its weights and the number of images above it."""
    caption = f"{rows[0]['weights']} weights   ·   n = {range_of(rows, 'n_images')} images"
    return Drawing(rows[0]["model"], caption, [*places], panels, axis_name=axis_name)


def _panel(
    title: str,
    scale: Scale,
    rows: Rows,
    places: Iterable[Any],
    looks: Looks,
    *,
    x: str = "layer",
    y: tuple[str, str, str] = ("value", "low", "high"),
) -> list[Panel]:
    """The panel, if it has a line."""
    lines = lines_of(rows, places, looks, x=x, y=y)
    return [Panel(title, scale, lines, height_for(lines, HEIGHT))] if lines else []


def _factor(octaves: float) -> str:
    """2 to the power of octaves, to two digits: 1/2.8, 1, 4."""
    factor = f"{2 ** abs(octaves):.2g}"
    return f"1/{factor}" if octaves < 0 else factor
