"""A result on disk: a folder with `run.json`, tables as NAME.csv, figures and a page.

Knows no command. A folder is written under a temporary name and renamed: it is complete or absent.
What kind of folder it is, the name of its JSON file says (`MARKS`).
"""

import datetime
import errno
import json
import math
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import DataError, OutputError

FORMATS = {"run": 2, "cut": 1, "patches": 2, "paper": 2}  # of the JSON file and the tables
WRITTEN_BY = {"run": "probe", "cut": "cut", "patches": "patches", "paper": "paper"}
MARKS = {
    "run": "run.json",
    "cut": "scalecut.json",
    "patches": "patches.json",
    "paper": "paper.json",
}  # the file that says what a folder is
PACKAGES = ("scalecut", "torch", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow")
# fmt: off
NAMES = (
    "model", "subset", "measure", "layer", "alias", "weights", "target", "regressor", "change",
    "quantity", "noise", "padding", "other",
)
NUMBERS = (
    "p_value", "r2_spread", "learned", "learned_low", "learned_high", "value", "low", "high", "r2",
    "r2_low", "r2_high", "paper", "ours_as_paper", "ours", "ours_low", "ours_high", "better",
    "effect", "start", "end", "rho", "rho_depth", "regret", "regret_last", "loss",
    "validation_loss", "kappa", "mae", "octaves", "kappa_quadratic", "recall", "recall_sd",
)
# fmt: on
DIGITS = 6  # of the decimals in curve.csv


@dataclass(frozen=True, slots=True)
class Run:
    """A folder that was written before: its facts, and its tables, each parsed once.

    Args:
        folder: where it lies.
        facts: what its JSON file says.
        kind: of `MARKS`.
    """

    folder: Path
    facts: Mapping[str, Any]
    kind: str = "run"
    _parsed: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def has(self, name: str) -> bool:
        """Whether there is a table of this name."""
        return (self.folder / f"{name}.csv").is_file()

    def names(self) -> list[str]:
        """The names of all tables."""
        return sorted(path.stem for path in self.folder.glob("*.csv"))

    def table(self, name: str, columns: Sequence[str] = ()) -> pd.DataFrame:
        """A table, its names as text, whatever they look like.

        Args:
            columns: that it must have.

        Raises:
            DataError: if it is missing, cannot be read, or lacks a column.
        """
        try:
            if name not in self._parsed:
                self._parsed[name] = pd.read_csv(
                    self.folder / f"{name}.csv",
                    keep_default_na=False,
                    na_values={name: [""] for name in NUMBERS},
                    dtype=dict.fromkeys(NAMES, str),
                )
            table = self._parsed[name]
            lacking = [column for column in columns if column not in table]
            if lacking:
                raise ValueError(f"it lacks the column {lacking[0]!r}")
        except (OSError, ValueError) as error:
            raise DataError(
                f"The run {str(self.folder)!r} has no readable {name}.csv ({error}). Run the "
                "command again."
            ) from error
        return table


def read_run(folder: str | Path, kind: str = "run", needed: Sequence[str] = ()) -> Run:
    """What lies in a folder of this kind.

    Args:
        kind: of `MARKS`.
        needed: facts that must be there; a name after a dot is one inside the other.

    Raises:
        DataError: if the folder holds none, or one of a newer version.
    """
    folder, mark = Path(folder), MARKS[kind]
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {str(folder)!r}. Give a folder that `scalecut {WRITTEN_BY[kind]}` "
            "wrote."
        )
    try:
        facts = json.loads((folder / mark).read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"it holds a {type(facts).__name__}")
        number = facts.get("format", 0)
        if not isinstance(number, int):
            raise ValueError(f"its format is {number!r}")
        lacking = [name for name in needed if not _holds(facts, *name.split("."))]
        if lacking and number <= FORMATS[kind]:
            raise ValueError(f"it lacks {lacking[0]!r}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(folder)!r} holds no {kind} of scalecut: {mark} cannot be read ({error}). Give a "
            f"folder that `scalecut {WRITTEN_BY[kind]}` wrote."
        ) from error
    if number > FORMATS[kind]:
        raise DataError(
            f"{str(folder)!r} has format {number}, but this version reads up to {FORMATS[kind]}. "
            "Update scalecut."
        )
    return Run(folder, facts, kind)


def _holds(facts: Any, name: str, *inside: str) -> bool:
    if not isinstance(facts, dict) or name not in facts:
        return False
    return not inside or _holds(facts[name], *inside)


@contextmanager
def new_run(folder: Path, kind: str = "run") -> Iterator[Path]:
    """A folder to write a run into; it appears as `folder` when the block ends without error.

    An earlier run of that name is replaced then, and not before.

    Args:
        kind: `run` or `cut`; only a folder of the same kind is replaced.

    Raises:
        OutputError: if `folder` is there but none of ours, or cannot be written.
    """
    check_place(folder, kind)
    made = earlier = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield made
        made.chmod(0o755)
        if folder.exists():
            earlier = folder.rename(made.with_name(made.name + "-replaced"))
        made.rename(folder)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(unwritable(folder, error)) from error
    finally:
        if earlier is not None and not folder.exists():
            earlier.rename(folder)
        for rest in (made, earlier):
            if rest is not None:
                shutil.rmtree(rest, ignore_errors=True)


@contextmanager
def gathered(folder: Path) -> Iterator[Path]:
    """A place to write what comes beside the runs that `folder` holds.

    Its files appear in `folder` when the block ends without error, `run.json` last.

    Raises:
        OutputError: if `folder` cannot be written.
    """
    made = None
    try:
        made = Path(tempfile.mkdtemp(prefix=".made-", dir=folder))
        yield made
        files = [path for path in made.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "run.json"):
            place = folder / path.relative_to(made)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(unwritable(folder, error)) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def check_place(folder: Path, kind: str = "run") -> None:
    """Refuse, before any work is done, a place that a run could not be written to."""
    try:
        _check_free(folder, kind)
        there = next(place for place in folder.absolute().parents if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(unwritable(folder, error)) from error


def _check_free(folder: Path, kind: str) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKS[kind]).is_file():
        raise OutputError(
            f"{str(folder)!r} is there and holds no {kind} of scalecut, so it is not replaced. "
            "Give --out a new folder."
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{str(folder)!r} is a file, but a folder is needed. Give --out a new folder."
        )


def write_run(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    facts: Mapping[str, object],
    *,
    command: str,
) -> None:
    """Write tables as NAME.csv, and `run.json` with the facts, into `folder`."""
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv")
    whole = {
        "format": FORMATS["run"],
        "command": command,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        **facts,
    }
    write_json(folder / MARKS["run"], whole)


def write_json(path: Path, facts: Mapping[str, object]) -> None:
    """Write facts as JSON, atomically; what is not finite is null."""
    text = json.dumps(plain(facts), indent=2, ensure_ascii=False, allow_nan=False)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """The long form that other programs read; one row per combination."""
    table.to_csv(path, index=False, float_format=f"%.{DIGITS}f", lineterminator="\n")


def write_features(table: pd.DataFrame, path: Path) -> None:
    """A table of features as .parquet or .csv; whole, or not there.

    Raises:
        OutputError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            table.to_parquet(part, index=False)
        else:
            table.to_csv(part, index=False, lineterminator="\n")
        part.replace(path)
    except OSError as error:
        raise OutputError(unwritable(path, error)) from error
    finally:
        part.unlink(missing_ok=True)


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Named arrays, for `numpy.load`."""
    np.savez(path, allow_pickle=False, **dict(arrays))


def concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of the same columns below one another, in the order of the first's columns."""
    columns = list(tables[0].columns)
    return pd.concat([table.reindex(columns=columns) for table in tables], ignore_index=True)


def settings_of(arguments: Mapping[str, Any]) -> dict[str, object]:
    """The arguments of a verb by option, for `run.json`: dataclasses become their fields.

    What is no text, number or list of them (a module, images in memory) is told by its type.
    """
    settings: dict[str, object] = {}
    for name, value in arguments.items():
        if is_dataclass(value) and not isinstance(value, type) and name not in ("model", "data"):
            settings |= {each.name: getattr(value, each.name) for each in fields(value)}
        elif name != "progress":
            settings[name] = value
    known = (str, int, float, bool, tuple, list, Path, type(None))
    return {
        name: value if isinstance(value, known) else type(value).__name__
        for name, value in settings.items()
    }


def versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def plain(thing: object) -> object:
    """What JSON can hold: dataclasses as objects, numbers that are not finite as null."""
    if is_dataclass(thing) and not isinstance(thing, type):
        return {each.name: plain(getattr(thing, each.name)) for each in fields(thing)}
    if isinstance(thing, Mapping):
        return {str(key): plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [plain(value) for value in thing]
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else None
    return thing if isinstance(thing, str | int | bool | None) else str(thing)


def unwritable(folder: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"The disk of {str(folder)!r} is full. Free space or give --out another place; "
            "computed features are cached, so the same command goes on from there."
        )
    return (
        f"{str(folder)!r} cannot be written ({error.strerror or error}). Give --out a folder "
        "that can."
    )
