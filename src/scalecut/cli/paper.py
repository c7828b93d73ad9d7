"""The command that runs the paper's experiments and puts its numbers next to ours."""

from collections.abc import Mapping
from typing import Any

import typer

from .commands import Verb, add
from .console import ERR, JSON, OUT, command, print_json, print_run

EXAMPLES = """
  scalecut paper --quick
  scalecut paper --quick --data MY/FOLDER --out runs/paper
  scalecut paper --data MY/FOLDER
  scalecut paper --data MY/FOLDER --skip finetuned,noise-inception_v3"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add(app, "paper", "paper.runner:reproduce", EXAMPLES, _run, (JSON,))


def _run(verb: Verb, values: Mapping[str, Any], as_json: bool) -> None:
    def report(what: str, done: int, total: int) -> None:
        if not as_json:
            ERR.print(f"{done:>2} of {total}  {what}", soft_wrap=True)

    found = verb.call(values, command=command(), progress=report)
    from ..runs import plain
    from .tables import claim_rows, plain_table, records

    if as_json:
        tables = {"paper": records(found.table), "claims": records(found.claims)}
        facts = {name: plain(fact) for name, fact in found.facts.items()}
        print_json({"run": str(found.folder), **facts, **tables})
        return
    OUT.print(plain_table(claim_rows(found.claims), "Claims of the paper, and what was found"))
    print_run(found.folder, found.finding())
