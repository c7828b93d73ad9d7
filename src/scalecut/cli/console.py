"""What all commands share: where they print, progress, run folders, and how they end.

`--help` needs this module: pandas and what uses it are imported inside functions.
"""

import json
import secrets
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from typer.core import TyperGroup

from ..errors import ScalecutError

if TYPE_CHECKING:
    from ..data.summary import DataSummary

# Names of classes, layers and folders are shown as they are: [bold] and :cat: mean themselves.
OUT = Console(highlight=False, markup=False, emoji=False)
ERR = Console(stderr=True, highlight=False, markup=False, emoji=False)
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # typer has a click of its own
MOST_LINES = 5  # of what was skipped; run.json lists everything
# Options of earlier versions, by command: what they are called now, or what to do instead.
RENAMED_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "probe": {"--twins": "--random-networks"},
    "transfer": {"--contestants": "--methods"},
}
REMOVED_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "probe": {
        "--stream": "--stream was removed. Give --at-most 100000 instead: a random part of the "
        "images, drawn by group, which gives R² to ±0.002."
    }
}
# The facts of a run that are results, in the order in which --json gives them.
RESULTS = (
    *("finding", "evidence", "evidence_by_target"),
    *("layers_left_out", "images_left_out", "left_out"),
)
# What stages count, where it is not images.
COUNTED = {
    "layers": ("regression", "comparison", "directions"),
    "fits": ("fits",),
    "splits": ("layers together",),
    "steps": ("optimising",),
    "tiles": ("patches",),
    "shards": ("listing shards",),
}

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="The run folder; named after network and time if empty."),
]
# The same two, for commands that are made of verbs.
OUT_FOLDER = Parameter("out", Parameter.KEYWORD_ONLY, default=None, annotation=OutOption)
JSON = Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption)


@runtime_checkable
class Result(Protocol):
    """What every verb returns, as far as a command needs it."""

    def finding(self) -> str:
        """What was found, in one sentence."""
        ...

    def summary(self) -> Mapping[str, Any]:
        """What fits on a terminal: tables by title, their cells text or numbers."""
        ...

    def save(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the run folder."""
        ...


class Commands(TyperGroup):
    """Reads options of earlier versions; errors the user can fix become one line, status 2."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, found, rest = super().resolve_command(ctx, args)
        words = [_current(name or "", word) for word in rest]
        if found is not None:
            _check_repeats(found.make_parser(ctx), words)
        return name, found, words

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (USAGE_ERROR, ScalecutError, MemoryError, KeyboardInterrupt) as error:
            ERR.print(f"scalecut: {_in_one_line(error)}", soft_wrap=True)
            raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 2) from error


def _in_one_line(error: Any) -> str:
    """What an error that the user can fix says."""
    if isinstance(error, USAGE_ERROR):
        said = error.format_message().replace("Value error, ", "")
        said = said if said.endswith((".", "?")) else f"{said}."
        what = f"scalecut {error.ctx.info_name}" if error.ctx.parent else "scalecut"
        return f"{said} See `{what} --help`."
    if isinstance(error, KeyboardInterrupt):
        usual = "Stopped; no run was written. Cached features are not computed again."
        return str(error) or usual
    said = " ".join(str(error).split())  # whatever a library put into it
    if isinstance(error, MemoryError):
        how_much = f" ({said})" if said else ""  # numpy says it, Python nothing
        return (
            f"There is not enough memory{how_much}. Give smaller sides in pixels, fewer images or "
            "permutations, or a smaller --batch-size."
        )
    return said


def _check_repeats(parser: Any, words: list[str]) -> None:
    """Refuse data, and an option of several values, given twice: only the last would count."""
    parser.allow_interspersed_args = True
    try:
        *_, order = parser.parse_args([*words])
    except USAGE_ERROR:  # said when the command itself reads its options
        return
    for option, n in Counter(order).items():
        has_several = "," in (option.metavar or "") and not getattr(option, "multiple", False)
        if n > 1 and (has_several or option.name == "data"):
            raise ScalecutError(
                f"{option.opts[0]} is given {n} times, and only the last would count. Give it once"
                + (", with commas between its values." if has_several else ".")
            )


def _current(name: str, word: str) -> str:
    """A word of a command as this version reads it."""
    option, is_set, value = word.partition("=")
    if option in REMOVED_OPTIONS.get(name, {}):
        raise ScalecutError(REMOVED_OPTIONS[name][option])
    return RENAMED_OPTIONS.get(name, {}).get(option, option) + is_set + value


def command() -> str:
    """The command as one would type it into a shell."""
    return shlex.join(["scalecut", *sys.argv[1:]])


def place(out: Path | None, name: str) -> Path:
    """The run folder: the one asked for, or one named after the network and the time.

    Commands that begin in the same second, perhaps on several machines, differ by random digits.
    """
    digits = secrets.token_hex(3)
    folder = out or Path("runs") / f"{file_name(name)}-{datetime.now():%Y%m%d-%H%M%S}-{digits}"
    from .. import runs

    runs.check_place(folder, command=command())
    return folder


def file_name(name: str) -> str:
    """The name of a network or layer, as a folder may have it."""
    return name.replace("/", "_").replace(":", "_")


def finish(result: Result, folder: Path, *, as_json: bool) -> None:
    """Save a result and print it: how every command ends that writes a run."""
    from .. import runs
    from .tables import records

    result.save(folder, command=command())
    run = runs.read_run(folder)
    if as_json:
        facts = {name: run.facts[name] for name in RESULTS if name in run.facts}
        tables = {name: records(run.table(name)) for name in run.names()}
        print_json({"run": str(folder), **facts, **tables})
        return
    print_tables(result)
    if "images" not in run.facts:  # of which the data block says it
        for line in run.facts.get("assumed", ()):
            OUT.print(f"Assumed: {line}", soft_wrap=True)
    for line in getattr(result, "notes", list)():  # below the tables, where a result has some
        OUT.print(line, soft_wrap=True)
    for name in RESULTS:
        if name.endswith("left_out"):
            print_skipped(run.facts.get(name, []), name.removesuffix("left_out").strip("_"))
    print_run(folder, result.finding())


def print_tables(result: Result) -> None:
    """What fits on a terminal."""
    from .tables import plain_table

    for title, table in result.summary().items():
        OUT.print(plain_table(table, title))


def print_data(summary: "DataSummary") -> None:
    """What was understood of the images that a command reads."""
    OUT.print("Data")
    for line in summary.notes():
        OUT.print(line, soft_wrap=True)
    print_tables(summary)
    OUT.print()


def print_skipped(items: Sequence[Mapping[str, str]], what: str = "") -> None:
    """Name the first few of what was skipped, with the reason."""
    if not items:
        return
    counted = what.removesuffix("s") if len(items) == 1 else what
    OUT.print(" ".join(filter(None, (f"{len(items)}", counted, "skipped:"))))
    for item in items[:MOST_LINES]:
        OUT.print(f"  {item['name']}: {item['reason']}", soft_wrap=True)
    if len(items) > MOST_LINES:
        OUT.print(f"  ... and {len(items) - MOST_LINES} more; run.json lists them all")


def print_run(folder: Path, finding: str) -> None:
    """The closing lines: where the run, its first figure and its page are, and the finding."""
    OUT.print(f"Run:    {folder}", soft_wrap=True)
    from ..data.contact import SHEET

    def order(path: Path) -> tuple[bool, int]:
        return path.name == SHEET, path.stat().st_mtime_ns

    figures = sorted((folder / "figures").glob("*.png"), key=order)
    if figures:
        OUT.print(f"Figure: {figures[0]}", soft_wrap=True)
    if (folder / "report.html").is_file():
        OUT.print(f"Page:   {folder / 'report.html'}", soft_wrap=True)
    OUT.print(finding, style="bold", soft_wrap=True)


def print_json(thing: Mapping[str, object] | Sequence[object]) -> None:
    """The result for machines; what is not finite is null."""
    from .. import runs

    sys.stdout.write(json.dumps(runs.plain(thing), indent=2, ensure_ascii=False) + "\n")


class Bars:
    """Progress by stage, and before it what was understood of the images."""

    def __init__(self, shown: Progress, *, quiet: bool) -> None:
        self._shown, self._quiet = shown, quiet
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        name, now = stage.partition(":")[0], time.perf_counter()
        if name not in self._tasks:
            self._tasks[name] = self._shown.add_task(stage, total=total, speed="")
            self._began[name] = now, done
        start, first = self._began[name]
        unit = next((unit for unit, names in COUNTED.items() if name.startswith(names)), "images")
        has_speed = done > first and now - start > 0.5
        speed = f"{(done - first) / (now - start):.0f} {unit}/s" if has_speed else ""
        self._shown.update(
            self._tasks[name], description=stage, completed=done, total=total, speed=speed
        )

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self._shown.console.print(text, soft_wrap=True)

    def say(self, summary: "DataSummary") -> None:
        """Print what was understood of the images."""
        if not self._quiet:
            print_data(summary)


@contextmanager
def bars(console: Console, *, quiet: bool) -> Iterator[Bars]:
    """Progress bars on a terminal, one per stage: images done, images/s and time left.

    What follows a colon in the name of a stage, such as a loss, is updated.
    """
    columns = (
        TextColumn("{task.description:16}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:>12}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as shown:
        yield Bars(shown, quiet=quiet)
