"""The table of a folder of patches, `patches.parquet`, of `scalecut patches` or of one's own.

A patch has one resolution: µm per pixel, a magnification, or both. M means about 10 / M µm per
pixel, since the magnification of an objective is nominal (scanners of 40X have 0.228 to 0.265 µm
per pixel). Two sizes of a pixel, or two magnifications, contradict each other from 5 % on, a size
and a magnification from 15 % on.

What the table leaves open is refused, not guessed. All commands read it here.

Shapes: n patches, R resolutions.
"""

import re
from collections.abc import Iterator, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Float64, Int64

from ..errors import OF_CONTENT, DataError, near
from . import tables
from .files import composed
from .images import Labelled, LeftOut, Source

FILE = "patches.parquet"
AT_1X = 10.0  # µm per pixel, about: 0.25 at 40X
TOLERANCE = 0.05  # of two sizes of a pixel, or two magnifications
NOMINAL = 0.15  # of a size of a pixel and a magnification
RESOLUTION = ("um_per_pixel", "magnification")
WHERE = ("place", "x", "y")
AREA = "mean_area_px"
NAMED, NUMBERS = ("patch", "tile", "group", "place"), (*RESOLUTION, AREA, "x", "y")
MORE = ("split", "n_nuclei", "median_area_px", "mean_area_um2", "left", "top")  # of our own
# fmt: off
OTHERS = {
    "um_per_pixel": {
        "mpp", "mppx", "mppum", "umpp", "umpx", "umperpx", "micronsperpixel", "micronperpixel",
        "micronsperpx", "micronspixel", "micrometersperpixel", "micrometresperpixel", "pixelsize",
        "pixelsizeum", "pxsize", "resolution", "spacing",
    },
    "magnification": {"mag", "objective", "objectivepower", "power", "appmag", "zoom"},
    "split": {"part", "subset", "set", "partition"},
}  # what columns are called elsewhere, in letters
# fmt: on
_ALIKE = 0.85  # share of letters that a misspelt name has in common with the right one


def differ(one: float, other: float, tolerance: float = TOLERANCE) -> bool:
    """Whether two sizes of a pixel, or magnifications, contradict each other."""
    return abs(one - other) > tolerance * other


def levels(
    given: Float64[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, " R"], Int64[np.ndarray, " n"]]:
    """The different ones of sizes or magnifications, ascending, and which one each is.

    Those that differ by less than 5 % are one, as slides of one scanner have: their median.
    """
    known = np.unique(given).tolist()
    starts = known[:1]
    for each in known[1:]:
        if differ(each, starts[-1]):
            starts.append(each)
    of = np.searchsorted(starts, given, side="right").astype(np.int64) - 1
    return np.array([np.median(given[of == number]) for number in range(len(starts))]), of


def labelled(folder: Path, source: Source) -> Iterator[Labelled | LeftOut | str]:
    """A folder of patches, any column of numbers a target; patients are groups."""
    if (folder / FILE).is_file():  # else the reader says so
        groups = ("group",) if source.has_groups else ()
        check_files(read_table(folder, (), (*RESOLUTION, *groups)), folder)
    yield from tables.patches(folder, source)


def read_table(
    folder: Path, needed: Sequence[str], used: Sequence[str] = RESOLUTION
) -> pd.DataFrame:
    """The table of a folder, checked as by `checked`.

    Raises:
        DataError: if it cannot be read, or `checked` refuses it.
    """
    try:
        table = tables.whole_parquet(folder / FILE)
    except (OSError, DataError, *OF_CONTENT) as error:
        raise DataError(
            f"{str(folder)!r} holds no patches: {FILE} cannot be read ({error}). Give a folder "
            "that `scalecut patches` wrote."
        ) from error
    return checked(table, folder, needed, used)


def checked(
    table: pd.DataFrame, folder: Path, needed: Sequence[str], used: Sequence[str] = RESOLUTION
) -> pd.DataFrame:
    """A table of patches whose names are text, and whose numbers are numbers.

    Where a magnification is needed and none is given, it is 10 / µm per pixel; those that differ by
    less than 5 % are one.

    Args:
        needed: columns that have to be there.
        used: columns that count if they are there.

    Raises:
        DataError: if it lacks a column, or one has another name; if a cell has no use, or two
            contradict each other.
    """
    place = f"{FILE} of {str(folder)!r}"
    table = table.reset_index(drop=table.index.names == [None])
    table = table.rename(columns=lambda name: str(name).strip())
    names = tuple(dict.fromkeys(("patch", *needed, *used)))
    if "place" in names and "place" in table:  # then coordinates do not count
        names = tuple(name for name in names if name not in ("x", "y"))
    _check_names(table, place, needed, names)
    for name in (name for name in names if name in table):
        if name in NAMED:
            table[name] = _texts(table, place, name)
        elif name in NUMBERS:
            table[name] = _numbers(table, place, name)
    _check_once(table, place)
    _check_resolution(table, place)
    if {"tile", "group"} <= {*names} & {*table}:
        _check_tiles(table, place)
    if "magnification" in needed:
        table["magnification"] = _magnifications(table, place)
    return table


def check_files(table: pd.DataFrame, folder: Path) -> int:
    """The side of the patches in pixels, which is that of all of them; 0 if none can be read.

    Patches are shown to networks at one size, so that a larger one would be shown at another
    resolution than the table says.

    Raises:
        DataError: if two names are of one file, or patches differ in size or are no squares.
    """
    first: dict[Path, str] = {}
    sizes: dict[tuple[int, int], str] = {}
    for name in map(str, table["patch"]):
        other = first.setdefault((folder / name).resolve(), name)
        if other != name:
            raise DataError(
                f"{FILE} of {str(folder)!r}: {other} and {name} are one file. Keep one row of each "
                "patch."
            )
        try:
            with PIL.Image.open(folder / name) as image:
                sizes.setdefault(image.size, name)
        except (OSError, *OF_CONTENT):  # which is listed where patches are read
            continue
    said = [f"{name} has {width} x {height} px" for (width, height), name in sizes.items()]
    if len(said) > 1:
        raise DataError(
            f"{FILE} of {str(folder)!r}: {said[0]}, but {said[1]}. Networks are shown both at one "
            "size, which changes the resolution. Save all patches with the same number of pixels."
        )
    if said and len({*next(iter(sizes))}) > 1:
        raise DataError(
            f"{FILE} of {str(folder)!r}: {said[0]}. Cut patches that are squares, as networks are "
            "shown."
        )
    return next(iter(sizes))[0] if sizes else 0


# --- columns -------------------------------------------------------------------------------------


def _check_names(
    table: pd.DataFrame, place: str, needed: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse columns that are missing, or there twice, or there by another name."""
    columns = [str(name) for name in table.columns]
    twice = next((name for name in names if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place} has two columns {twice!r}. Keep one, or rename the other.")
    has_size = "um_per_pixel" in columns  # so that no magnification has to be known
    for name in (name for name in names if name not in columns):
        found = _instead_of(name, columns)
        if found and not (name == "magnification" and has_size):
            listed = " and ".join(map(repr, found[:3]))
            what = "that column" if len(found) == 1 else "one of them"
            raise DataError(f"{place} has no column {name!r}, but {listed}. Rename {what}.")
    by_size = {"magnification"} if has_size else {*()}
    missing = [name for name in needed if name not in columns and name not in by_size]
    if missing:
        raise DataError(
            f"{place} lacks the column {missing[0]!r}. Add it, or cut the patches again with "
            "`scalecut patches`."
        )
    if table.empty:
        raise DataError(f"{place} has no rows. Cut the patches again with `scalecut patches`.")


def _instead_of(name: str, columns: Sequence[str]) -> list[str]:
    """Columns that seem to be the one of this name."""
    own = _letters(name)
    free = [each for each in columns if each not in (*NAMED, *NUMBERS, *MORE)]

    def is_alike(each: str) -> bool:
        letters = _letters(each)
        if name == "group" and tables.seems_group(each):
            return True
        if letters in {own, *OTHERS.get(name, ())}:
            return True
        return len(own) > 1 and bool(near(letters, [own], _ALIKE, otherwise=[""]))

    return [each for each in free if is_alike(each)]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", re.sub("[µμ]", "u", name.lower()))


# --- cells ---------------------------------------------------------------------------------------


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and cell != cell)


def _texts(table: pd.DataFrame, place: str, name: str) -> list[str]:
    """A column of names, without spaces around them, as Unicode composes all but those of files."""
    found = ["" if _is_missing(cell) else str(cell).strip() for cell in table[name]]
    found = found if name == "patch" else [*map(composed, found)]
    lost = {""} if name == "patch" else {*tables.MISSING, "none", "<na>"}
    bad = [row for row, cell in enumerate(found) if cell.casefold() in lost]
    if bad:
        shown = "" if name == "patch" else f", which is {_shown(table[name].iloc[bad[0]])}"
        raise DataError(
            f"{place}: {len(bad)} of {len(table)} patches have no {name}, the first is "
            f"{_row(table, bad[0])}{shown}. Remove them, or give each its own."
        )
    spelt: dict[str, str] = {}
    for cell in found if name == "group" else ():
        other = spelt.setdefault(" ".join(cell.casefold().split()), cell)
        if other != cell:
            raise DataError(
                f"{place}: the column 'group' has {other!r} and {cell!r}, which may be one patient "
                "or two. Spell them alike, or so that they differ in more than case and spaces."
            )
    return found


def _numbers(table: pd.DataFrame, place: str, name: str) -> Float64[np.ndarray, " n"]:
    """A column of numbers: of corners, or above 0 and NaN where none is given."""
    found = np.array([_number(cell) for cell in table[name]], dtype=np.float64)
    is_corner = name in WHERE
    usable = np.isfinite(found) & (is_corner | (found > 0))
    bad = np.flatnonzero(~usable & (is_corner | ~np.isnan(found))).tolist()
    if bad:
        what = "a number" if is_corner else "a number above 0, or leave the cell empty"
        raise DataError(
            f"{place}: {len(bad)} of {len(table)} patches have no usable {name}, the first is "
            f"{_row(table, bad[0])} with {_shown(table[name].iloc[bad[0]])}. Write {what}."
        )
    return found


def _number(cell: Any) -> float:
    """The number; NaN if there is none, infinite if the cell holds something else."""
    if _is_missing(cell) or (isinstance(cell, str) and cell.strip().casefold() in tables.MISSING):
        return nan
    try:
        return inf if isinstance(cell, str) and "_" in cell else float(cell)
    except (TypeError, ValueError):
        return inf


def _row(table: pd.DataFrame, row: int) -> str:
    """A row in words; the first is 1."""
    return f"row {row + 1} ({table['patch'].iloc[row]})"


def _shown(cell: Any) -> str:
    return f"{cell:g}" if isinstance(cell, float) else repr(cell)[:40]


# --- what contradicts itself ---------------------------------------------------------------------


def _check_once(table: pd.DataFrame, place: str) -> None:
    twice = table.loc[table.duplicated("patch"), "patch"].tolist() if "patch" in table else []
    if twice:
        raise DataError(
            f"{place} has {len(twice)} patches twice, the first is {twice[0]}. Keep one row of "
            "each."
        )


def _check_resolution(table: pd.DataFrame, place: str) -> None:
    """Refuse a size of a pixel and a magnification of one patch that contradict each other."""
    if not {*RESOLUTION} <= {*table}:
        return
    size, magnification = (table[name].to_numpy(dtype=np.float64) for name in RESOLUTION)
    bad = np.flatnonzero(np.abs(size * magnification - AT_1X) > NOMINAL * AT_1X).tolist()
    if bad:
        at = bad[0]
        raise DataError(
            f"{place}: {len(bad)} of {len(table)} patches have a um_per_pixel and a magnification "
            f"that contradict each other, the first is {_row(table, at)} with {size[at]:.4g} µm "
            f"per pixel, about {AT_1X / size[at]:.3g}X, and {magnification[at]:.4g}X, about "
            f"{AT_1X / magnification[at]:.3g} µm. Correct one of the columns, or remove it."
        )


def _check_tiles(table: pd.DataFrame, place: str) -> None:
    """Refuse a tile of two patients: patches of one place are of one tile."""
    first: dict[str, str] = {}
    for tile, group in zip(table["tile"], table["group"], strict=True):
        other = first.setdefault(tile, group)
        if other != group:
            raise DataError(
                f"{place}: the tile {tile} is of the patients {other} and {group}. Give tiles of "
                "different patients different names, or correct the column group."
            )


def complete(table: pd.DataFrame, place: str, name: str) -> Float64[np.ndarray, " n"]:
    """A column of numbers of which none is missing.

    Raises:
        DataError: if one is.
    """
    given = table[name].to_numpy(dtype=np.float64)
    bad = np.flatnonzero(np.isnan(given)).tolist()
    if bad:
        raise DataError(
            f"{place}: {len(bad)} of {len(table)} patches have no {name}, the first is "
            f"{_row(table, bad[0])}. Remove them, or give each its own."
        )
    return given


def _magnifications(table: pd.DataFrame, place: str) -> Float64[np.ndarray, " n"]:
    """The magnification of every patch, as given or by its size of a pixel."""
    names = [name for name in RESOLUTION[::-1] if name in table and bool(table[name].notna().any())]
    name = names[0] if names else "magnification"
    given = complete(table, place, name)
    medians, of = levels(given if name == "magnification" else AT_1X / given)
    return medians[of]
