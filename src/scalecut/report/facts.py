"""What `run.json` says, for a page: checks and warnings first, the rest at the end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ..data.contact import SHEET
from ..data.images import Image
from ..data.summary import summary_in
from ..data.thumbnails import thumbnail
from ..runs import Run
from .cells import Cell
from .page import Check, Section, ShownImage, Table

SKIPPED = {
    "Images skipped": "images_left_out",
    "Layers skipped": "layers_left_out",
    "Skipped": "left_out",
}  # the lists of run.json
TABLES = {
    "Settings": ("settings",),
    "Computed with": ("computed", "probe"),
    "Network": ("weights", "tensors_sha256", "preprocessing"),
    "Images": ("images",),
    "Versions": ("versions", "machine", "format", "written"),
    "Files": ("files",),
}  # the keys of run.json that each table shows
SHOWN_ELSEWHERE = ("understood", "masks")  # of the images
FEW = 6  # subsets that are counted on the first screen, at most one less
BRIEF = ("Drawn", "Skipped", "Groups", "Masks")  # what it says of the data
SHEET_SIDE = 1360  # pixels of the longer side, on the page


def data_checks(facts: Mapping[str, Any]) -> list[Check]:
    """The images of a run, in a few lines."""
    images, settings = facts.get("images") or {}, facts.get("settings") or {}
    counts = images.get("n_by_subset", {})
    data = [f"{images['n_images']:,} images"] if "n_images" in images else []
    if data and 1 < len(counts) < FEW:
        data[0] += f": {', '.join(f'{n:,} {name}' for name, n in counts.items())}"
    data += [f"measure: {images['measure']}"] if "measure" in images else []
    summary = summary_in(facts)
    if summary is not None:
        data += [f"{title.lower()}: {text}" for title, text in summary.lines() if title in BRIEF]
    data += [str(settings["data"])] if ":" in str(settings.get("data")) else []
    return [Check("Data", data)] if data else []


def network_checks(facts: Mapping[str, Any]) -> list[Check]:
    """The weights of a run, and how features were computed."""
    weights, computed = facts.get("weights") or {}, facts.get("computed") or {}
    network = [f"weights: {weights['source']}"] if weights.get("source") else []
    said = [str(computed[name]) for name in ("precision", "engine") if computed.get(name)]
    network += [f"computed in {' by '.join(said)}"] if said else []
    return [Check("Network", network)] if network else []


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """What may make a result wrong or weaker, as far as `run.json` says it."""
    summary, weights = summary_in(facts), facts.get("weights") or {}
    assumed = [*(summary.assumed if summary else ()), *facts.get("assumed", ())]
    said = [f"Assumed: {each.rstrip('.')}." for each in dict.fromkeys(map(str, assumed))]
    if weights.get("kind") == "random":
        said.append("The network has random weights.")
    if n_missing := _n_missing(facts):
        said.append(f"The weights lack {n_missing} tensors of the network.")
    if n_layers := len(facts.get("layers_left_out", [])):
        said.append(f"{n_layers} {'layer was' if n_layers == 1 else 'layers were'} skipped.")
    if (facts.get("settings") or {}).get("quick"):
        said.append("A first look: few images, controls and permutations.")
    return said


def data_sections(run: Run, has_thumbnails: bool) -> list[Section]:
    """What was understood of the images; with the contact sheet, if the run has it."""
    summary = summary_in(run.facts)
    if summary is None:
        return []
    file = run.folder / "figures" / SHEET
    sheet = None
    if has_thumbnails and file.is_file():
        sheet = ShownImage(thumbnail(Image(SHEET, file), SHEET_SIDE), "Some of the images")
    lines = [f"{heading}: {text}" for heading, text in summary.lines()]
    tables = [_rows(title, table) for title, table in summary.summary().items()]
    return [Section("Data", lines, sheet=sheet, tables=tables)]


def trust(facts: Mapping[str, Any]) -> list[Section]:
    """What a result is to be judged by: the command, what was skipped, settings, versions, time."""
    lists = {
        title: [(str(item["name"]), str(item["reason"])) for item in facts.get(key, [])]
        for title, key in SKIPPED.items()
    }
    skipped = [Table(title, ("name", "reason"), [*rows]) for title, rows in lists.items() if rows]
    stages: list[tuple[Cell, ...]] = [
        (stage, *(each.get(key) for key in ("seconds", "images_computed", "images_per_second")))
        for stage, each in facts.get("stages", {}).items()
    ]
    tables = [_table(title, facts, keys) for title, keys in TABLES.items()]
    tables.append(Table("Time", ("stage", "seconds", "images computed", "images/s"), stages))
    said = [] if skipped else _nothing_skipped(facts)
    return [
        Section("Command", code=str(facts.get("command", ""))),
        *([Section("Skipped", said, tables=skipped)] if said or skipped else []),
        Section("Settings, versions and time", tables=[table for table in tables if table.rows]),
    ]


def _nothing_skipped(facts: Mapping[str, Any]) -> list[str]:
    """A sentence where nothing is listed, as far as the facts support it."""
    if n_missing := _n_missing(facts):
        return [f"The weights lack {n_missing} tensors of the network."]
    if "steps" in facts:
        return ["No step was skipped; the page of each step lists what it skipped."]
    is_known = any(key in facts for key in SKIPPED.values())
    return ["No image and no layer was skipped."] if is_known else []


def _n_missing(facts: Mapping[str, Any]) -> int:
    missing = dict(facts.get("weights") or {}).get("missing") or 0
    return missing if isinstance(missing, int) else len(missing)


def _rows(title: str, table: pd.DataFrame) -> Table:
    rows = [tuple(map(str, row)) for row in table.itertuples(index=False, name=None)]
    return Table(title, tuple(str(name).strip() for name in table.columns), [*rows])


def _table(title: str, facts: Mapping[str, Any], keys: Sequence[str]) -> Table:
    rows = [row for key in keys if key in facts for row in _flat(key, facts[key])]
    bare = f"{title.lower()}."
    return Table(title, ("name", "value"), [(name.removeprefix(bare), said) for name, said in rows])


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Names and values of nested facts, the names with dots."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key in SHOWN_ELSEWHERE:
                continue
            yield from _flat(f"{name}.{key}", each)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, "none" if value is None or value == "" else str(value)
