"""A result on disk: a folder with `run.json`, tables as NAME.csv, figures and a page.

Knows no command. A folder is written under a temporary name and renamed: it is complete or absent.
The name of its JSON file says what kind of folder it is (`MARKS`).
"""

import datetime
import errno
import glob
import json
import math
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from . import cache
from .errors import DataError, OutputError

FORMATS = {
    "run": 2,
    "cut": 1,
    "patches": 3,
    "paper": 2,
    "auditor": 1,
}  # of the JSON file and the tables
WRITTEN_BY = {
    "run": "probe",
    "cut": "cut",
    "patches": "patches",
    "paper": "paper",
    "auditor": "audit",
}
MARKS = {
    "run": "run.json",
    "cut": "scalecut.json",
    "patches": "patches.json",
    "paper": "paper.json",
    "auditor": "auditor.json",
}  # the file that says what a folder is
PARTS = {
    "audit.csv": "auditor/auditor.json",
    "auditor.json": "network/scalecut.json",
}  # the folder that a folder holds as part of itself, by a file next to it
# fmt: off
PACKAGES = (
    "scalecut", "torch", "openvino", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow",
)
NAMES = (
    "model", "subset", "measure", "layer", "alias", "weights", "target", "regressor", "change",
    "quantity", "noise", "padding", "other", "concept",
    "contestant", "tile", "best", "foretold", "layers", "metric", "name", "group", "slide", "wsi",
    "file", "up_to", "best_layer", "other_layer", "run", "other_run", "peak", "set_first",
    "confidence_set", "fall_after", "unpaired_because", "role",
    "finer", "coarser", "answer", "further",
)
NUMBERS = (
    "p_value", "r2_spread", "learned", "learned_low", "learned_high", "value", "low", "high", "r2",
    "r2_low", "r2_high", "paper", "ours_as_paper", "ours", "ours_low", "ours_high", "better",
    "effect", "start", "end", "rho", "rho_depth", "regret", "regret_last", "loss",
    "validation_loss", "kappa", "mae", "octaves", "kappa_quadratic", "recall", "recall_sd",
    "mae_sd", "octaves_sd", "kappa_sd", "kappa_quadratic_sd", "partial_r2", "partial_low",
    "partial_high", "score", "score_low", "score_high", "claimed_mpp", "predicted_mpp",
    "adjusted_p_value", "rank_p_value", "matched_octaves", "matched_p_value", "last_octaves",
    "last_p_value", "spread", "coverage", "below", "below_low", "below_high",
    "other_r2", "fall", "fall_low", "fall_high", "last_score", "macs", "peak_macs", "p_corrected",
    "mae_octaves", "mae_low", "mae_high", "drift", "drift_low", "drift_high", "finest",
    "finest_low", "finest_high", "coarsest", "coarsest_low", "coarsest_high", "ratio", "ratio_low",
    "ratio_high", "random_r2", "random_drift",
    "kappa_of_tiles", "kappa_of_tiles_sd", "detectable",
)
# fmt: on
SIGNED_EVERY = cache.STALE_AFTER / 12  # seconds between signs that a process still writes
DIGITS = 6  # decimals in the tables
LEAST_P = 1e-4  # p-values below have too few of these decimals


@dataclass(frozen=True, slots=True)
class Run:
    """A folder on disk: its facts, and its tables, each parsed once.

    Args:
        folder: its path.
        facts: what its JSON file says.
        kind: one of `MARKS`.
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
        """The table of NAME.csv; names stay text, whatever they look like.

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

    def parquet(self, name: str) -> pd.DataFrame:
        """The table of NAME.parquet.

        Raises:
            OSError, ValueError: if it is missing or cannot be read.
        """
        path = self.folder / f"{name}.parquet"
        if path.name not in self._parsed:
            self._parsed[path.name] = pd.read_parquet(path)
        return self._parsed[path.name]


def kind_of(folder: str | Path, kinds: Sequence[str] = tuple(MARKS)) -> str:
    """Which of the kinds a folder is, by the name of its JSON file; the first one if it is none."""
    return next((kind for kind in kinds if (Path(folder) / MARKS[kind]).is_file()), kinds[0])


def read_run(folder: str | Path, kind: str = "run", needed: Sequence[str] = ()) -> Run:
    """The facts and tables of a folder.

    Args:
        folder: its path.
        kind: one of `MARKS`.
        needed: facts that must be there, as `outer.inner`.

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
    except (OSError, ValueError, RecursionError) as error:
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

    An earlier run of that name is replaced then, and not before. What a killed process has left
    next to it is removed.

    Args:
        folder: where the run is to appear.
        kind: one of `MARKS`; only a folder of the same kind is replaced.

    Raises:
        OutputError: if `folder` exists and is no such folder, or cannot be written.
    """
    check_place(folder, kind)
    made = earlier = None
    try:
        with cache.explained(folder, unwritable):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = _temporary(folder.parent, folder.name)
            yield made
            made.chmod(0o755)
            if folder.exists():
                earlier = folder.rename(made.with_name(made.name + "-replaced"))
            made.rename(folder)
    finally:
        if earlier is not None and not folder.exists():
            earlier.rename(folder)
        for rest in (made, earlier):
            if rest is not None:
                shutil.rmtree(rest, ignore_errors=True)


@contextmanager
def continued(
    folder: Path, kind: str, key: Mapping[str, object], *, strict: bool = False
) -> Iterator[Path]:
    """As `new_run`, but what is in it when the process is stopped is there the next time.

    Until the block ends, the folder is `.NAME-unfinished`. It is deleted by an error that the user
    can fix, and by a block with another key.

    Args:
        key: what the content depends on.
        strict: whether such an error may be due to `--strict`; what is in it is then kept, too.

    Raises:
        OutputError: if another process writes it, or as of `new_run`.
    """
    place = folder.with_name(f".{folder.name}-unfinished")
    file, asked = place / "key.txt", cache.setting_hash({"key": plain(key)})
    check_place(folder, kind)
    with cache.explained(folder, unwritable):
        writer = place / f"writer-{cache.process()}"
        for other in place.glob("writer-*") if place.is_dir() else ():
            start = other.read_text(encoding="utf-8")
            if other != writer and not cache.of_dead_process(other, "writer-", "", start):
                raise OutputError(
                    f"Another process is writing {str(folder)!r}. Wait for it, or give --out "
                    "another folder."
                )
            other.unlink()
        if place.is_dir() and not (file.is_file() and file.read_text(encoding="utf-8") == asked):
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
        file.write_text(asked, encoding="utf-8")
        with _signed(writer):
            try:
                yield place
            except DataError as error:
                if strict:
                    raise DataError(
                        f"{error} What is finished is kept in {str(place)!r}, and the same command "
                        "without --strict continues from there."
                    ) from error
                shutil.rmtree(place)
                raise
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(
                    f"Stopped; what is finished is kept in {str(place)!r}, and the same command "
                    "continues from there."
                ) from error
        file.unlink()
        with new_run(folder, kind) as made:
            made.rmdir()
            place.rename(made)


@contextmanager
def _signed(file: Path) -> Iterator[None]:
    """A file that says since when this process works here, and is touched as long as it does."""
    file.write_text(cache.start_of(os.getpid()), encoding="utf-8")
    is_done = threading.Event()

    def touch() -> None:
        while not is_done.wait(SIGNED_EVERY):
            with suppress(OSError):  # tried again
                os.utime(file)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
        file.unlink(missing_ok=True)


def fingerprint(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of those that exist, by which a changed one is noticed."""
    found = ((path, path.stat()) for path in files if path.exists())
    return [(str(path.absolute()), about.st_size, about.st_mtime_ns) for path, about in found]


@contextmanager
def gathered(folder: Path) -> Iterator[Path]:
    """A place to write what goes next to the runs that `folder` holds.

    Its files appear in `folder` when the block ends without error, `run.json` last.
    """
    made = None
    try:
        with cache.explained(folder, unwritable):
            made = _temporary(folder, "made")
            yield made
            files = [path for path in made.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path.name == "run.json"):
                place = folder / path.relative_to(made)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _temporary(parent: Path, name: str) -> Path:
    """A new hidden folder, after those of killed processes are removed.

    `.NAME-PROCESS-RANDOM` is one that is being written, `...-replaced` the earlier run that it is
    about to replace. If a process was killed between the two renames, the earlier run comes back.
    """
    for path in sorted(parent.glob(f".{glob.escape(name)}-*-replaced")):
        if not cache.of_dead_process(path, f".{name}-", f"{cache.OF_FOLDERS}-replaced"):
            continue
        if (parent / name).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(parent / name)
    return cache.new_folder(parent, name)


def check_place(folder: Path, kind: str = "run", command: str = "") -> None:
    """Refuse, before any work is done, a place that a run could not be written to.

    Args:
        folder: where it is to appear.
        kind: one of `MARKS`.
        command: as it was typed; a run of another command is not replaced.
    """
    with cache.explained(folder, unwritable):
        _check_free(folder, kind)
        _check_own(folder, kind, command)
        there = next(place for place in folder.absolute().parents if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass


def _check_free(folder: Path, kind: str) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKS[kind]).is_file():
        raise OutputError(
            f"{str(folder)!r} exists and holds no {kind} of scalecut, so it is not replaced. Give "
            "--out a new folder."
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{str(folder)!r} is a file, but a folder is needed. Give --out a new folder."
        )


def _check_own(folder: Path, kind: str, command: str) -> None:
    """Refuse a folder of another command, or that holds others, which would be lost with it."""
    inside = next(_others_in(folder), None)
    if inside and kind != "paper":  # whose folder is one of runs
        raise OutputError(
            f"{str(folder)!r} also holds {str(inside.relative_to(folder))!r}, which scalecut "
            "wrote, so it is not replaced. Move that, or give --out a new folder."
        )
    with suppress(DataError):  # if there is none, or one that cannot be read
        earlier = read_run(folder, kind).facts.get("command")
        verb, other = (" ".join(str(each).split()[:2]) for each in (command, earlier))
        if command and earlier and verb != other:
            raise OutputError(
                f"{str(folder)!r} is a run of `{other}`, so it is not replaced. Give --out a new "
                "folder."
            )


def _others_in(folder: Path) -> Iterator[Path]:
    """The folders of scalecut in a folder, and in its parts, that are no parts of it."""
    parts = {folder / part for file, part in PARTS.items() if (folder / file).is_file()}
    for mark in MARKS.values():
        for found in folder.glob(f"*/{mark}"):
            if found in parts:
                yield from _others_in(found.parent)
            else:
                yield found.parent


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
    machine = {"platform": platform.platform(), "python": platform.python_version()}
    write_json(folder / MARKS["run"], {**stamp("run", command), "machine": machine, **facts})


def stamp(kind: str, command: str) -> dict[str, object]:
    """What the JSON file of every folder says: its format, the command, the time, the versions."""
    return {
        "format": FORMATS[kind],
        "command": command,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def write_json(path: Path, facts: Mapping[str, object]) -> None:
    """Write facts as JSON, atomically; what is not finite is null."""
    text = json.dumps(plain(facts), indent=2, ensure_ascii=False, allow_nan=False)
    with cache.written(path, unwritable) as part:
        part.write_text(text + "\n", encoding="utf-8")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV, numbers with DIGITS decimals, small p-values with as many digits."""

    def small(value: float) -> str:
        return f"{value:.{DIGITS}{'e' if 0 < value < LEAST_P else 'f'}}"

    for name in (str(name) for name in table):
        if name.endswith(("p_value", "p_corrected")):
            table = table.assign(**{name: table[name].map(small, na_action="ignore")})
    table.to_csv(path, index=False, float_format=f"%.{DIGITS}f", lineterminator="\n")


def check_features(path: Path) -> None:
    """Refuse to replace a file that is no table of features, before these are computed."""
    if not path.exists():
        return
    try:
        if path.suffix == ".parquet":
            columns = pq.read_schema(path).names
        else:
            columns = list(pd.read_csv(path, nrows=0))
    except (OSError, ValueError):
        columns = []
    if columns[:2] != ["image", "f0"]:
        raise OutputError(
            f"{str(path)!r} exists and is no table of features, so it is not replaced. Give --out "
            "a new name."
        )


def write_features(table: pd.DataFrame, path: Path) -> None:
    """Write a table of features as .parquet or .csv, atomically."""
    with cache.written(path, unwritable) as part:
        if path.suffix == ".parquet":
            table.to_parquet(part, index=False)
        else:
            table.to_csv(part, index=False, lineterminator="\n")


def concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of the same columns below one another, in the order of the first's columns."""
    columns = list(tables[0].columns)
    return pd.concat([table.reindex(columns=columns) for table in tables], ignore_index=True)


def settings_of(arguments: Mapping[str, Any]) -> dict[str, object]:
    """The arguments of a verb by option, for `run.json`: dataclasses become their fields.

    What is no text, number or list of them (a module, images in memory) is given by its type.
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
    """Versions of the packages that numbers depend on; those that are not installed have none."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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
    """The message for a folder or file that cannot be written."""
    if error.errno == errno.ENOSPC:
        return (
            f"The disk of {str(folder)!r} is full. Free space, or give --out a folder on another "
            "disk. Computed features are cached, so the same command continues from there."
        )
    return (
        f"{str(folder)!r} cannot be written ({error.strerror or error}). Give --out a writable "
        "folder."
    )
