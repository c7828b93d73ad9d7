"""Kills, full disks, broken caches and broken files: what still goes wrong?

    python benchmarks/reliability.py [kills] [faults] [fuzz] [--kills N] [--minutes M]

Writes the rows of the parts that are named, or of all, into docs/reliability.md; other rows stay.
Kills are shared among the commands, minutes among the readers. Needs Linux, root for the small
disks, and the package atheris. About two hours on an idle core, one of them for the readers. Exit
status 1 if anything went wrong.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from faults import ROOT, VERBS, Case, disturbances, kills
from fuzz import Outcome, fuzzed
from page import written

HEADS = {
    "kills": ("command", "kills", "well", "commit"),
    "faults": ("fault", "tried", "well", "commit"),
    "fuzz": (
        *("reader", "files", "read", "refused", "wrong", "processor, s", "longest, s"),
        *("most memory, MB", "commit"),
    ),
}


def cells_of(case: Case | Outcome) -> tuple[str, ...]:
    """A row of a table, without the commit."""
    n_wrong = len(case.wrong)
    if isinstance(case, Case):
        well = f"**{max(case.tried - n_wrong, 0)}**" if n_wrong else f"{case.tried}"
        return case.what, f"{case.tried}{f', {case.note}' if case.note else ''}", well
    wrong = f"**{n_wrong}**" if n_wrong else "0"
    counts = f"{case.tried:,}", f"{case.read:,}", f"{case.refused:,}", wrong
    measured = f"{case.seconds:.0f}", f"{case.most_seconds:.1f}", f"{case.most_bytes / 2**20:.0f}"
    return case.what, *counts, *measured


def with_rows(page: str, part: str, rows: Sequence[Sequence[str]]) -> str:
    """The page with these rows in the table of a part, in place of earlier ones of their names."""
    marks = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    inside = page.partition(marks[0])[2].partition(marks[1])[0]
    earlier = [line.strip("| ").split(" | ") for line in inside.splitlines() if line[:1] == "|"][2:]
    every = {row[0]: row for row in [*earlier, *rows]}
    head = HEADS[part]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *every.values()]]
    return written(page, lines, marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["kills", "faults", "fuzz", []], default=[])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=60.0, help="of a processor, for readers")
    parser.add_argument(
        "--only", default="", help="names of commands or readers, between semicolons"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "reliability.md")
    options = parser.parse_args()
    only = tuple(filter(None, options.only.split(";")))
    n_kills, is_wrong = -(-options.kills // len(only or VERBS)), False
    parts: dict[str, Callable[[], Iterable[Case | Outcome]]] = {
        "kills": lambda: kills(n_kills, only),
        "faults": lambda: disturbances(only),
        "fuzz": lambda: fuzzed(60 * options.minutes, names=only),
    }
    for part in options.parts or parts:
        commit = _commit()
        for case in parts[part]():
            lines = [f"{case.what}: {case.tried} tried, {len(case.wrong)} wrong", *case.wrong]
            sys.stdout.write("\n  ".join(dict.fromkeys(lines)) + "\n")
            sys.stdout.flush()
            is_wrong |= bool(case.wrong)
            text = options.page.read_text(encoding="utf-8")
            text = with_rows(text, part, [(*cells_of(case), commit)])
            options.page.write_text(text, encoding="utf-8")
    sys.exit(is_wrong)


def _commit() -> str:
    """What is tried: the commit, and whether something is not committed."""

    def git(*asked: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *asked], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    is_changed = git("status", "--porcelain", "--untracked-files=no", "src", "benchmarks")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if is_changed else "")


if __name__ == "__main__":
    main()
