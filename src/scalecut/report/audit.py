"""The sections of an audit: claims and predictions, images of suspicious tiles, layers compared."""

import numpy as np

from ..data.images import Image
from ..data.thumbnails import thumbnail
from ..figures import text
from ..runs import Run
from .cells import Cell
from .page import Check, Section, ShownImage, Table

MOST_ROWS = 200
SIDE = 224  # px of an image


def audit_checks(run: Run) -> tuple[list[Check], list[str]]:
    """What tiles were judged by, the variants next to the verdicts, and what is assumed."""
    facts = run.facts.get("audit") or {}
    checks = []
    if {"n_audited", "n_reference", "n_reference_patients"} <= facts.keys():
        n_tiles, n_patients = facts["n_reference"], facts["n_reference_patients"]
        said = [f"{facts['n_audited']} audited, by {n_tiles} tiles of {n_patients} patients"]
        checks.append(Check("Tiles", said))
    if run.has("variants"):
        rows = run.table("variants").to_dict("records")
        said = [f"{row['layer']}, blur {row['blur']}: {row['n_suspicious']}" for row in rows]
        checks.append(Check("Suspicious, by layer and blur", said))
    return checks, [str(each) for each in facts.get("notes", [])]


def audit_section(run: Run) -> Section:
    """Each tile, the most suspicious first."""
    table, facts = run.table("audit"), run.facts.get("audit") or {}
    rows: list[tuple[Cell, ...]] = [
        (
            row["name"],
            row["group"],
            *(_finite(row[name]) for name in ("claimed_mpp", "predicted_mpp")),
            text.interval(row["low"], row["high"]) if np.isfinite(row["low"]) else None,
            _finite(row["octaves"]),
            _p(row["p_value"]),
            _p(row["adjusted_p_value"]),
            _p(row["rank_p_value"]),
            row["verdict"],
        )
        for row in table.head(MOST_ROWS).to_dict("records")
    ]
    level, rate = facts.get("level", 0.95), facts.get("rate", 0.1)
    said = [
        "Predicted from the views of the tile by a regression on other patients. p is by "
        "Student's t on the errors of other patients, scaled robustly; the adjusted p decides, at "
        f"a false discovery rate of {rate:g}. The p of ranks assumes less, but cannot be below "
        "1 / (patients + 1), and so cannot pass the correction in a small set.",
        *facts.get("notes", []),
    ]
    if len(table) > MOST_ROWS:
        said.append(f"The first {MOST_ROWS} of {len(table):,} rows; audit.csv holds all.")
    columns = (
        *("tile", "patient", "claimed µm/px", "predicted", f"{100 * level:g} %", "octaves"),
        *("p", "adjusted p", "p of ranks", "verdict"),
    )
    links = {"mpp.csv, slides with a size for other tools": "mpp.csv"}
    return Section("Tiles", said, tables=[Table("Tiles", columns, rows)], links=links)


def examples_section(run: Run) -> Section:
    """Patches of suspicious tiles, then of tiles that agree, at the resolution of the files."""
    images = [
        ShownImage(
            thumbnail(Image(row["image"], run.folder / row["image"]), SIDE),
            f"{row['verdict']}: {row['name']}",
            f"claimed {row['claimed_mpp']:.3g}, predicted {row['predicted_mpp']:.2g} µm per pixel",
        )
        for row in run.table("audited").to_dict("records")
    ]
    said = (
        "The centres of suspicious tiles, then of tiles that agree, in pixels of the file: where "
        "claims are equal, nuclei of one kind should be of equal size."
    )
    return Section("Suspicious and agreeing tiles", [said], images=images)


def variants_section(run: Run) -> Section:
    """The same audit at the last layer, and with the blur of all views matched."""
    rows: list[tuple[Cell, ...]] = [
        (
            row["layer"],
            row["blur"],
            int(row["n_suspicious"]),
            *(_finite(row[name]) for name in ("centre", "spread", "coverage")),
        )
        for row in run.table("variants").to_dict("records")
    ]
    said = (
        "The first row gives the verdicts. Centre and spread are those of the errors of the "
        "reference, in octaves. With the blur matched, sharpness cannot reveal the resolution: "
        "where both disagree, it may be the focus that is unusual, not the scale."
    )
    columns = ("layer", "blur", "suspicious", "centre", "spread", "claims inside their intervals")
    title = "Layers, and blur as it is or matched"
    return Section(title, [said], tables=[Table(title, columns, rows)])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _p(value: float) -> str | None:
    return (
        text.p_value(value).removeprefix("p = ").removeprefix("p ") if np.isfinite(value) else None
    )
