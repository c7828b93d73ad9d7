"""The run folder: `run.json`, tables and what is drawn from them; whole, or not there."""

import datetime
import errno
import json
import math
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .data.images import Image, ImageSet, LeftOut
from .data.storage import Stored
from .data.thumbnails import thumbnail
from .errors import DataError, ModelError, OutputError
from .networks.layers import ProbePoint
from .pathology.patches import COLUMNS as PATCH_COLUMNS
from .pathology.patches import PatchSet
from .probing.curve import COLUMNS, Curve, image_table

FORMAT = 2  # of run.json and the tables
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
IMAGE_COLUMNS = (
    "image", "file", "subset", "measure", "left", "top", "right", "bottom", "width", "height",
    "thumbnail",
)
PREDICTION_COLUMNS = ("image", "subset", "measure", "layer", "predicted")
# fmt: on
DIGITS = 6  # of the decimals in curve.csv
MOST_FETCHED = 2000  # pictures that are read once more, for the page


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
        raise OutputError(_unwritable(folder, error)) from error
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
        raise OutputError(_unwritable(folder, error)) from error
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
        raise OutputError(_unwritable(folder, error)) from error


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
    settings: Mapping[str, object],
) -> None:
    """Write tables as NAME.csv, and `run.json` with the facts, into `folder`."""
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv")
    whole = {
        "format": FORMAT,
        "command": command,
        "settings": settings,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        **facts,
    }
    text = json.dumps(plain(whole), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "run.json").write_text(text + "\n", encoding="utf-8")


def write_curve(
    curve: Curve, folder: Path, *, command: str, settings: Mapping[str, object]
) -> None:
    """Write a curve: its tables, `run.json`, and its bootstrap draws, for paired comparisons."""
    subsets = list(dict.fromkeys(curve.table.subset))
    tables = {
        "curve": curve.frame(),
        "differences": pd.concat([curve.differences(s) for s in subsets], ignore_index=True),
    }
    if curve.fewer:
        tables["learning"] = curve.learning()
    facts = {
        **curve.provenance,
        "evidence": {subset: curve.evidence(subset) for subset in subsets},
        "evidence_with_fewer_to_fit": [each.evidence() for each in curve.fewer],
        "points": curve.points,
        "layers_left_out": curve.layers_left_out,
        "images_left_out": curve.images_left_out,
    }
    write_run(folder, tables, facts, command=command, settings=settings)
    np.save(folder / "draws.npy", curve.draws)
    if curve.image_set is not None:
        curve.predictions().to_parquet(folder / "predictions.parquet", index=False)
        _images(curve.image_set).to_parquet(folder / "images.parquet", index=False)


def _images(image_set: ImageSet) -> pd.DataFrame:
    """The table of the images, with a small JPEG of those that are in no local file.

    Of pictures in shards or at addresses only if they are few, since each is read once more.
    """
    n_stored = sum(isinstance(image.source, Stored) for image in image_set.images)
    kinds = (np.ndarray, Stored) if n_stored <= MOST_FETCHED else (np.ndarray,)
    small = [
        _small(image) if isinstance(image.source, kinds) else None for image in image_set.images
    ]
    return image_table(image_set).assign(thumbnail=pd.Series(small, dtype=object))


def _small(image: Image) -> bytes | None:
    """A thumbnail; none where the picture can no longer be read."""
    try:
        return thumbnail(image)
    except DataError:
        return None


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
        raise OutputError(_unwritable(path, error)) from error
    finally:
        part.unlink(missing_ok=True)


def write_patches(
    made: PatchSet, folder: Path, *, command: str, left_out: Sequence[LeftOut]
) -> None:
    """Write the table of patches, and what was left out, beside the patches in `folder`."""
    made.table.to_parquet(folder / "patches.parquet", index=False)
    whole = {
        "format": FORMAT,
        "command": command,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "counts": json.loads(str(made.counts().to_json(orient="index"))),
        "blur": made.blur,
        "left_out": [*left_out, *made.left_out],
        "skipped": made.skipped,
    }
    text = json.dumps(plain(whole), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MARKS["patches"]).write_text(text + "\n", encoding="utf-8")


def read_patches(folder: Path) -> pd.DataFrame:
    """The table of patches, as `write_patches` wrote it.

    Raises:
        DataError: if the folder holds none.
    """
    try:
        table = pd.read_parquet(folder / "patches.parquet")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(folder)!r} holds no patches: patches.parquet cannot be read ({error}). Give a "
            "folder that `scalecut patches` wrote."
        ) from error
    lacking = [name for name in PATCH_COLUMNS if name not in table]
    if lacking:
        raise DataError(
            f"patches.parquet of {str(folder)!r} lacks the column {lacking[0]!r}. Cut the patches "
            "again."
        )
    return table


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Named arrays, for `numpy.load`."""
    np.savez(path, allow_pickle=False, **dict(arrays))


def concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of the same columns below one another, in the order of the first's columns."""
    columns = list(tables[0].columns)
    return pd.concat([table.reindex(columns=columns) for table in tables], ignore_index=True)


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """A table of a run, its names as text, whatever they look like."""
    return pd.read_csv(
        folder / f"{name}.csv",
        keep_default_na=False,
        na_values={name: [""] for name in NUMBERS},
        dtype=dict.fromkeys(NAMES, str),
    )


def read_run(folder: Path) -> Curve:
    """A curve with its draws, as `write_curve` wrote it.

    Raises:
        DataError: if the folder is no whole run, or one of a newer version.
    """
    table, facts = read_curve(folder), read_facts(folder)
    try:
        draws = np.load(folder / "draws.npy", allow_pickle=False)
        points = tuple(ProbePoint(**point) for point in facts["points"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable draws.npy and points ({error}). Run the "
            "probe again."
        ) from error
    return Curve(table, draws, points, provenance=facts)


def check_model(curve: Curve, folder: Path | None, model: str) -> None:
    """Refuse a run of another network than the one that it is used for."""
    probed = str(curve.table.model.iloc[0])
    if model != probed:
        raise ModelError(
            f"The run {str(folder)!r} is of {probed}, not of {model}. Give a run of this network, "
            f"or name {probed}."
        )


def read_curve(folder: Path) -> pd.DataFrame:
    """The table of a run.

    Raises:
        DataError: if the folder is no whole run, or one of a newer version.
    """
    if not folder.is_dir():
        raise DataError(
            f"There is no run folder {str(folder)!r}. Give the folder that a probe wrote (--out)."
        )
    if not (folder / "curve.csv").exists():
        raise DataError(
            f"{str(folder)!r} holds no curve: it is empty, or was made by another command. Give "
            "the folder that a probe wrote (--out)."
        )
    read_facts(folder)
    try:
        table = read_table(folder, "curve")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable curve.csv ({error}). Run the probe again."
        ) from error
    lacking = [name for name in COLUMNS if name not in table]
    if lacking:
        raise DataError(
            f"curve.csv of {str(folder)!r} lacks the column {lacking[0]!r}. Run the probe again."
        )
    return table


def read_predictions(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The images of a run, and the predictions as `Curve.predictions` gives them, if it has them.

    Runs of earlier versions have none.

    Raises:
        DataError: if the tables cannot be read or do not fit one another.
    """
    paths = folder / "images.parquet", folder / "predictions.parquet"
    if not any(path.exists() for path in paths):
        return None
    try:
        images, predictions = (pd.read_parquet(path) for path in paths)
        lacking = [name for name in IMAGE_COLUMNS if name not in images]
        lacking += [name for name in PREDICTION_COLUMNS if name not in predictions]
        if lacking:
            raise ValueError(f"the column {lacking[0]!r} is not there")
        n_layers = predictions.layer.nunique()
        if predictions.image.tolist() != n_layers * images.image.tolist():
            raise ValueError("they are not of the same images")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable images.parquet and predictions.parquet "
            f"({error}). Run the probe again."
        ) from error
    return images, predictions


def read_facts(folder: Path) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
        DataError: if it cannot be read, or is of a newer version.
    """
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"it holds a {type(facts).__name__}")
        if not isinstance(facts.get("format", 0), int):
            raise ValueError(f"its format is {facts['format']!r}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable run.json ({error}). Run the probe again."
        ) from error
    if facts.get("format", 0) > FORMAT:
        raise DataError(
            f"The run {str(folder)!r} has format {facts['format']}, but this version reads up "
            f"to {FORMAT}. "
            "Update scalecut."
        )
    return facts


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


def _unwritable(folder: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"The disk of {str(folder)!r} is full. Free space or give --out another place; "
            "computed features are cached, so the same command goes on from there."
        )
    return (
        f"{str(folder)!r} cannot be written ({error.strerror or error}). Give --out a folder "
        "that can."
    )
