"""Kills, full disks, broken caches and broken files: what still goes wrong?

    python benchmarks/reliability.py [kills] [faults] [fuzz] [--kills N] [--minutes M]

Writes the parts that are named, or all, into docs/reliability.md. Kills are shared among the
commands, minutes among the readers. Needs Linux, root for the small disks, and the package atheris.
About two hours on an idle core, one of them for the readers. Exit status 1 if anything went wrong.
"""

import argparse
import datetime
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from faults import ROOT, VERBS, Case, disturbances, kills
from fuzz import Outcome, fuzzed
from page import written


def rows_of_cases(cases: Sequence[Case]) -> list[str]:
    """A table of faults."""
    return [
        "| fault | tried | well |",
        "|---|---|---|",
        *(
            f"| {each.what}{f' ({each.note})' if each.note else ''} | {each.tried} "
            f"| {_well(each)} |"
            for each in cases
        ),
    ]


def _well(case: Case) -> str:
    n_well = case.tried - len(case.wrong)
    return f"{n_well}" if not case.wrong else f"**{max(n_well, 0)}**"


def rows_of_outcomes(outcomes: Sequence[Outcome]) -> list[str]:
    """A table of readers."""
    return [
        "| reader | files | read | refused | wrong | longest, s | most memory, MB |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.what} | {each.tried:,} | {each.read:,} | {each.refused:,} "
            f"| {_wrong(each)} | {each.most_seconds:.1f} | {each.most_bytes / 2**20:.0f} |"
            for each in outcomes
        ),
    ]


def _wrong(outcome: Outcome) -> str:
    return f"**{len(outcome.wrong)}**" if outcome.wrong else "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["kills", "faults", "fuzz", []], default=[])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=60.0, help="by the clock, for readers")
    parser.add_argument("--only", default="", help="commands or readers; not written to the page")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "reliability.md")
    options = parser.parse_args()
    only = tuple(filter(None, options.only.split(";")))
    n_kills = -(-options.kills // len(only or VERBS))
    parts: dict[str, tuple[Callable, Callable[[], object]]] = {
        "kills": (rows_of_cases, lambda: kills(n_kills, only)),
        "faults": (rows_of_cases, disturbances),
        "fuzz": (rows_of_outcomes, lambda: fuzzed(60 * options.minutes, names=only)),
    }
    is_wrong = False
    for name in options.parts or parts:
        rows, tried = parts[name]
        commit, before, found = _commit(), _processor_seconds(), []
        for each in tried():
            found.append(each)
            _said(f"{each.what}: {each.tried} tried, {len(each.wrong)} wrong", each.wrong)
        is_wrong |= any(each.wrong for each in found)
        minutes = (_processor_seconds() - before) / 60
        date = datetime.datetime.now(datetime.UTC).date()
        when = f"Commit {commit}, {date}, {minutes:.0f} minutes of a processor."
        lines = [when, "", *rows(found)]
        _said("\n".join(lines), ())
        if not only:
            text = options.page.read_text(encoding="utf-8")
            marks = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            options.page.write_text(written(text, lines, marks), encoding="utf-8")
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


def _processor_seconds() -> float:
    """Of this process, and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _said(text: str, wrong: Sequence[str]) -> None:
    sys.stdout.write("\n  ".join([text, *dict.fromkeys(wrong)]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
