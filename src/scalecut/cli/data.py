"""The command that says what is understood of some data, before anything is computed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from .commands import Verb, add
from .console import (
    ERR,
    JSON,
    OUT_FOLDER,
    bars,
    command,
    place,
    print_data,
    print_json,
    print_run,
)

EXAMPLES = """
  scalecut data voc:VOCdevkit/VOC2012 --subset dog,cat,horse
  scalecut data masks:cells --mask-kind instances --objects mean
  scalecut data csv:lesions.csv --group patient --out runs/lesions-data"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add(app, "data", "data.summary:describe_data", EXAMPLES, _data, (OUT_FOLDER, JSON))


def _data(verb: Verb, values: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    folder = place(out, "data")
    with bars(ERR, quiet=as_json) as progress:
        summary = verb.call(values, progress=progress)
    if not as_json:
        print_data(summary)
    from ..report.report import write_report

    summary.save(folder, command=command(), write=write_report)
    if as_json:
        print_json({"run": str(folder), "finding": summary.finding(), **summary.facts()})
        return
    print_run(folder, summary.finding())
