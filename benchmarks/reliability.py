"""Kills, full disks, broken caches and broken files: what still goes wrong?

    python benchmarks/reliability.py [--kills N] [--fuzz MINUTES] [--out docs/reliability.md]

Kills are shared among the commands, minutes among the readers. Needs Linux, and root for the small
disks. All of it takes about two hours on two cores. Exit status 1 if anything went wrong.
"""

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

from faults import ROOT, VERBS, Case, disturbances, kills
from fuzz import Outcome, fuzzed

PAGE = """# Reliability

What happened when commands were killed or disturbed and readers were given broken files, by `make
test-hard` on the commit {commit}, {date}. *Well* means: the same command gives the digits of an
undisturbed run and leaves nothing temporary behind; where it cannot go on (a full disk, another
image), it says why in one line, with exit status 2.

| fault | tried | well |
|---|---|---|
{cases}

Broken files: a valid file of each kind with one to four faults (bits, pieces, numbers, words,
lengths), read as `scalecut data` reads it. *Refused*: in one line, as an error or as an image that
is skipped by name. A traceback, more than 10 seconds or more than 1 GB would be wrong.

| reader | files | read | refused | wrong | memory, MB |
|---|---|---|---|---|---|
{outcomes}
"""


def page(cases: list[Case], outcomes: list[Outcome]) -> str:
    """The tables as Markdown."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    lines = [f"| {each.what} | {each.tried} | {each.tried - len(each.wrong)} |" for each in cases]
    of_readers = [
        f"| {each.what} | {each.tried:,} | {each.read:,} | {each.refused:,} | {len(each.wrong)} "
        f"| {each.most_bytes / 2**20:.0f} |"
        for each in outcomes
    ]
    date = datetime.datetime.now(datetime.UTC).date()
    tables = {"cases": "\n".join(lines), "outcomes": "\n".join(of_readers)}
    return PAGE.format(commit=commit, date=date, **tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fuzz", type=float, default=60.0, help="minutes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md")
    options = parser.parse_args()
    cases, outcomes = [], []
    for case in (*kills(-(-options.kills // len(VERBS))), *disturbances()):
        cases.append(case)
        _said(f"{case.what}: {case.tried - len(case.wrong)} of {case.tried}", case.wrong)
    for outcome in fuzzed(60 * options.fuzz):
        outcomes.append(outcome)
        _said(f"{outcome.what}: {outcome.tried} files", outcome.wrong)
    options.out.write_text(page(cases, outcomes), encoding="utf-8")
    sys.exit(any(each.wrong for each in (*cases, *outcomes)))


def _said(text: str, wrong: list[str] | tuple[str, ...]) -> None:
    sys.stdout.write("\n  ".join([text, *dict.fromkeys(wrong)]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
