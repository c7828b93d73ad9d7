"""The result of a folder on disk: which function reads it back, by one of its tables."""

import importlib
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runs import kind_of, read_run

# What brings back the result of a folder, by one of its tables, or by its kind if it is no run:
# module:function, imported when a folder is opened.
RESULTS = {
    "curve": "probing.curve:read_curve",
    "comparison": "probing.comparison:read_comparison",
    "transfer": "pathology.transfer:read_transfer",
    "invariance": "analyses.invariance:read_invariance",
    "noise": "analyses.noise:read_noise",
    "scenes": "analyses.synthetic:read_scenes",
    "rcv": "analyses.rcv:read_directions",
    "audit": "pathology.audit:read_audit",
    "passport": "pathology.passport:read_passport",
    "encoders": "pathology.encoders:read_encoders",
    "atlas": "analyses.atlas:read_atlas",
    "targets": "data.summary:read_summary",
    "units": "analyses.visualise:read_visualisations",
    "cut": "cut.folder:load_cut",
    "patches": "pathology.patches:read_patches",
    "auditor": "pathology.saved_auditor:load_auditor",
}


def open_run(folder: str | Path) -> Any:
    """The result that wrote a folder: a curve, a transfer, a cut, or whatever else wrote it.

    Args:
        folder: of a run, a cut network or patches.

    Raises:
        DataError: if it is none of these, or its tables belong to no result.
    """
    folder, kind = Path(folder), kind_of(Path(folder))
    run = read_run(folder, kind)
    has = run.names() if kind == "run" else [kind]
    name = next((name for name in RESULTS if name in has), None)
    if name is None:
        tables = ", ".join(run.names()) or "none"
        raise DataError(
            f"The {kind} {str(folder)!r} cannot be opened as a result: its tables are {tables}. "
            "Read them with scalecut.runs.read_run(folder).table(name)."
        )
    module, function = RESULTS[name].split(":")
    return getattr(importlib.import_module(f"scalecut.{module}"), function)(folder)
