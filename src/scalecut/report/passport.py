"""The sections of a passport: the answer for each resolution, layer by layer; several encoders."""

from typing import Any

import pandas as pd

from ..runs import Run
from .cells import Cell, interval, p_value
from .page import Check, Section, Table

SAID = (
    "At a ratio of 1 the resolution moves the mean features of a patient as far as another patient "
    "is away, at the resolution of reference. An interval below 1 is a yes, one above 1 a no."
)


def passport_checks(run: Run) -> tuple[list[Check], list[str]]:
    """The patients that the resolution is compared with; notes are warnings."""
    about = run.facts.get("passport") or {}
    sizes = ", ".join(f"{size:.3g}" for size in about.get("resolutions", []))
    lines = [f"{about['n_patients']} patients"] if "n_patients" in about else []
    lines += [f"{sizes} µm per pixel"] if sizes else []
    return [Check("Patches", lines)] if lines else [], about.get("notes", [])


def passport_section(run: Run) -> Section:
    """R², drift and range of every layer, with those of random weights."""
    table = run.table("passport")
    random = table[table["weights"] == "random"].set_index("layer")
    kind, rows = table["weights"].iloc[0], list[tuple[Cell, ...]]()
    for row in table.loc[table["weights"] == kind].to_dict("records"):
        has_random = kind != "random" and row["layer"] in random.index
        of_random: Any = random.loc[row["layer"]] if has_random else {}
        rows.append(
            (
                row["layer"],
                row["n_features"],
                row["r2"],
                interval(row["r2_low"], row["r2_high"]),
                p_value(row["p_value"]),
                of_random.get("r2"),
                row["mae_octaves"],
                _known(row["drift"]),
                interval(row["drift_low"], row["drift_high"]),
                _known(of_random.get("drift")),
                *_range(row),
            )
        )
    columns = (
        *("layer", "features", "R²", "95 %", "p", "R², random", "error, octaves"),
        *("drift per octave", "95 %", "drift, random", "within, finest µm/px", "95 %"),
        *("within, coarsest µm/px", "95 %"),
    )
    said = [
        "R² of log2 of µm per pixel, predicted for held-out patients. Drift per octave is the "
        "distance between a resolution and one twice as coarse, in what patients differ by.",
    ]
    return Section("Layer by layer", said, tables=[Table("Layers", columns, rows)])


def resolutions_section(run: Run) -> Section:
    """The ratio at every resolution of the last layer and the one that holds furthest."""
    table, about = run.table("resolutions"), run.facts.get("passport") or {}
    layers = [about.get("last_layer"), (about.get("further") or {}).get("layer")]
    rows: list[tuple[Cell, ...]] = [
        (
            row["layer"],
            row["weights"],
            f"{row['magnification']:.3g}X",
            row["um_per_pixel"],
            row["ratio"],
            interval(row["ratio_low"], row["ratio_high"]) if row["octaves"] else None,
            row["answer"],
            row["n_places"] or None,
        )
        for layer in layers
        for row in table.loc[table["layer"] == layer].to_dict("records")
    ]
    columns = (
        *("layer", "weights", "magnification", "µm/px", "ratio", "95 %", "within patients"),
        "places",
    )
    links = {"resolutions.csv, every layer": "resolutions.csv"}
    title = "May it be used at this resolution?"
    return Section(title, [SAID], tables=[Table("Resolutions", columns, rows)], links=links)


def encoders_section(run: Run) -> Section:
    """The last layer of each encoder, one row each."""
    rows: list[tuple[Cell, ...]] = [
        (
            *(row[name] for name in ("run", "layer", "n_patients", "r2")),
            interval(row["r2_low"], row["r2_high"]),
            _known(row["random_r2"]),
            row["mae_octaves"],
            _known(row["drift"]),
            interval(row["drift_low"], row["drift_high"]),
            _known(row["random_drift"]),
            *_range(row),
            row["further"] or None,
        )
        for row in run.table("encoders").to_dict("records")
    ]
    columns = (
        *("run", "layer", "patients", "R²", "95 %", "R², random", "error, octaves"),
        *("drift per octave", "95 %", "drift, random", "within, finest µm/px", "95 %"),
        *("within, coarsest µm/px", "95 %", "a layer that holds further"),
    )
    said = [SAID, "Differences between encoders are not tested.", *run.facts.get("notes", [])]
    return Section("Encoder by encoder", said, tables=[Table("Encoders", columns, rows)])


def _range(row: Any) -> tuple[Cell, ...]:
    """The ends of a range, with a sign where it holds to the last resolution given."""
    cells: list[Cell] = []
    for end, side, sign in (("finest", "finer", "≤ "), ("coarsest", "coarser", "≥ ")):
        is_known = not pd.isna(row[end])
        shown = f"{sign * (row[side] == 'holds')}{row[end]:.2f}"
        cells.append((shown, row[end]) if is_known else None)
        breaks = row[side] == "breaks"
        cells.append(interval(row[f"{end}_low"], row[f"{end}_high"]) if breaks else None)
    return tuple(cells)


def _known(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
