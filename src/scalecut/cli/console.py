"""What all commands share: where they print, run folders, and how they end."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from typer.core import TyperGroup

from .. import runs
from ..data.images import LeftOut
from ..errors import ScalecutError

# Names of classes, layers and folders are shown as they are: [bold] and :cat: mean themselves.
OUT = Console(highlight=False, markup=False, emoji=False)
ERR = Console(stderr=True, highlight=False, markup=False, emoji=False)
MOST_LINES = 5  # of things left out, in the closing lines; run.json has them all
_TYPED: ContextVar[tuple[str, ...] | None] = ContextVar("_TYPED", default=None)


class Commands(TyperGroup):
    """Turns what the user can mend into one line and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ScalecutError as error:
            said = " ".join(str(error).split())  # in one line, whatever a library put into it
            ERR.print(f"scalecut: {said}", soft_wrap=True)
            raise typer.Exit(2) from error
        except MemoryError as error:
            what = f" ({error})" if str(error) else ""  # numpy says how much, Python nothing
            ERR.print(
                f"scalecut: There is not enough memory{what}. Give smaller sides in pixels, fewer "
                "images or permutations, or a smaller --batch-size.",
                soft_wrap=True,
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            ERR.print(
                "scalecut: stopped, no run was written. Features that are cached are not computed "
                "again.",
                soft_wrap=True,
            )
            raise typer.Exit(130) from error


def place(out: Path | None, name: str) -> Path:
    """The run folder: the one asked for, or one named after the network and the time."""
    plain = name.replace("/", "_").replace(":", "_")
    folder = out or Path("runs") / f"{plain}-{datetime.now():%Y%m%d-%H%M%S}"
    runs.check_place(folder)
    return folder


def command() -> str:
    """The command as it was typed, or as a command that runs others would have it typed."""
    typed = _TYPED.get()
    return in_words(sys.argv[1:] if typed is None else typed)


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, `command` is `scalecut` with these arguments."""
    before = _TYPED.set(tuple(arguments))
    try:
        yield
    finally:
        _TYPED.reset(before)


def in_words(arguments: Sequence[str]) -> str:
    """A command as one would type it into a shell."""
    return shlex.join(["scalecut", *arguments])


def print_left_out(items: Sequence[LeftOut], what: str) -> None:
    """Name the first few of what was left out, with the reason."""
    if not items:
        return
    one = "patch" if what == "patches" else what.removesuffix("s")
    OUT.print(f"{len(items)} {what if len(items) > 1 else one} left out:")
    for item in items[:MOST_LINES]:
        OUT.print(f"  {item.name}: {item.reason}", soft_wrap=True)
    if len(items) > MOST_LINES:
        OUT.print(f"  ... and {len(items) - MOST_LINES} more; run.json lists them all")


def print_run(folder: Path, picture: str, finding: str) -> None:
    """The closing lines: where the run, its picture and its page lie, and what was found."""
    OUT.print(f"Run:     {folder}", soft_wrap=True)
    if picture:
        OUT.print(f"Picture: {folder / 'figures' / picture}", soft_wrap=True)
    if (folder / "report.html").is_file():
        OUT.print(f"Page:    {folder / 'report.html'}", soft_wrap=True)
    OUT.print(finding, style="bold", soft_wrap=True)


def print_json(thing: Mapping[str, object] | Sequence[object]) -> None:
    """The result for machines; what is not finite is null."""
    sys.stdout.write(json.dumps(runs.plain(thing), indent=2, ensure_ascii=False) + "\n")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, for `print_json`."""
    return json.loads(str(table.to_json(orient="records")))
