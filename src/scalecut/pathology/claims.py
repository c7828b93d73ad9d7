"""What is claimed of the µm per pixel of tiles: by their files, by a table, or by the user.

Sources that contradict each other (`resolution`) make a claim unusable, and the tile is skipped.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.decoding import OTHERS, SUFFIXES, opened, suffix_of
from ..data.files import Files, composed, named_by, none_in, without_suffix
from ..data.groups import check_grouping, grouped, joined
from ..data.images import Image, Labelled, LeftOut
from ..data.patches import AT_1X, NOMINAL, TOLERANCE, differ
from ..data.tables import columns
from ..errors import DataError
from .resolution import COARSEST, Stated, stated
from .slides import SLIDES, is_slide, series_of, stated_by_slide
from .tiles import patient_of

_KINDS = OTHERS[".isyntax"], OTHERS[".czi"]  # whole slides, and images of microscopes
UNREAD = {suffix for suffix, what in OTHERS.items() if what in _KINDS} - {*SLIDES}


@dataclass(frozen=True, slots=True)
class Claims:
    """What is claimed of the resolution of tiles, and whose they are.

    Args:
        claims: A table with the columns slide and mpp (µm per pixel), optionally group, of some or
            all tiles, by file name or path below the folder, with or without suffix.
        native: Magnification of tiles of which neither file nor table states a size: M means 10 / M
            µm per pixel.
        um_per_pixel: Of all tiles, whatever files state.
        group_from_name: A regular expression; the first parenthesis, or all that matches in the
            name of a tile, is its patient. By default TCGA barcodes and the like are recognised,
            and each other tile is a patient.
    """

    claims: Path | None = None
    native: float | None = None
    um_per_pixel: float | None = None
    group_from_name: str = ""

    def __post_init__(self) -> None:
        for name in ("native", "um_per_pixel"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise DataError(f"--{name.replace('_', '-')} must be above 0, got {value:g}.")
        if self.um_per_pixel is not None and (self.claims or self.native):
            raise DataError(
                "--um-per-pixel is claimed of all tiles, so --claims and --native have no effect. "
                "Give one of them."
            )
        check_grouping("", False, self.group_from_name)


@dataclass(frozen=True, slots=True, eq=False)
class Claimed:
    """A tile and what is claimed of it."""

    name: str
    image: Image
    group: str  # the patient
    um_per_pixel: float  # not a number if nothing is claimed
    source: str  # of the claim, in words; empty if there is none
    file: str = ""  # its name, or its path below the folder where others have the same name
    stated: tuple[str, ...] = ()  # all that is stated anywhere, in words


def claimed_tiles(
    place: Path, claims: Claims, other: Path | None = None
) -> tuple[list[Claimed], tuple[LeftOut, ...]]:
    """The tiles of a folder with what is claimed of each, and what cannot be used.

    The latter are tiles that contradict themselves or are not read, and rows of the table that name
    no tile.

    Args:
        place: a folder of tiles, or one tile.
        other: another such place, whose tiles the table may name, too.

    Raises:
        DataError: if there is no tile, or the table cannot be used.
    """
    tiles, unused = _tiles_in(place)
    table: dict[str, dict[str, str]] = {}
    unnamed: list[LeftOut] = []
    if claims.claims:
        also = {other: [*_tiles_in(other)[0]]} if other else {}
        table, unnamed = _table(claims.claims, {place: [*tiles], **also}, claims.group_from_name)
    same = Counter(composed(path.name) for path in tiles.values())
    found: list[Claimed] = []
    left_out: list[LeftOut] = []
    series_by_tile = _series_in(tiles)
    rows = _rows_by_series(claims.claims, table, series_by_tile)
    known: set[str] = set()  # series of DICOM, whose other files are levels of the same slide
    for name, (relative, path) in zip(_names(tiles), tiles.items(), strict=True):
        series = series_by_tile.get(relative, "")
        row = rows.get(series) or table.get(relative, {})
        try:
            if is_slide(path):
                if series in known:
                    continue
                known |= {series} - {""}
                said = stated_by_slide(path)
            else:
                with opened(path) as file:
                    said = stated(file)
            size, source = _claim(said, row, claims)
        except DataError as error:
            left_out.append(LeftOut(name, str(error).removeprefix(f"{path.name}: ").rstrip(".")))
            continue
        about = row.get("group", ""), size, source
        own = path.name if same[composed(path.name)] == 1 else relative
        found.append(Claimed(name, Image(name, path), *about, own, tuple(map(str, said))))
    if not found:
        reason = f"{left_out[0].name}: {left_out[0].reason}"
        raise DataError(f"None of {len(tiles)} tiles of {place} can be used ({reason}).")
    return _with_patients(found, claims.group_from_name), (*unnamed, *left_out, *unused)


def _tiles_in(place: Path) -> tuple[dict[str, Path], list[LeftOut]]:
    """The tiles by path below the folder; links to nothing, and slides of other formats."""
    if place.is_file():
        return {place.name: place}, []
    if not place.is_dir():
        raise DataError(f"There is no folder {str(place)!r}. Give the folder of the tiles.")
    files = Files(place, SUFFIXES | UNREAD | {*SLIDES})
    every = {files.relative(path): path for path in files.paths}
    tiles = {name: path for name, path in every.items() if suffix_of(path) not in UNREAD}
    if not tiles:
        raise none_in(
            place, place.iterdir(), f"{str(place)!r} holds no image. Give the folder of the tiles."
        )
    reason = "files of its format are not read; convert it to OME-TIFF, as bfconvert does"
    broken = [each for each in files.rest("tiles") if isinstance(each, LeftOut)]
    return tiles, broken + [LeftOut(name, reason) for name in every if name not in tiles]


def _names(tiles: Iterable[str]) -> list[str]:
    """Paths below the folder, without suffix where that is unique."""
    short = {name: without_suffix(name) for name in tiles}
    times = Counter(short.values())
    return [each if times[each] == 1 else name for name, each in short.items()]


def _table(
    file: Path, tiles: Mapping[Path, Sequence[str]], from_name: str
) -> tuple[dict[str, dict[str, str]], list[LeftOut]]:
    """Its rows by the path of the tile, and how many name none.

    Args:
        tiles: paths below each folder; the rows are those of the first.

    Raises:
        DataError: if it names no tile, one twice, or one of several.
    """
    cells = {"slide": (True, bool), "mpp": (True, _is_size), "group": (False, bool)}
    read = columns(file, cells)
    if from_name and "group" in read:
        raise DataError(
            f"--group-from-name and the column group of {file} contradict each other. Drop the "
            "option, or remove the column."
        )
    given = read["slide"]
    named = [named_by(given, file, paths, place) for place, paths in tiles.items()]
    rows: dict[str, dict[str, str]] = {}
    for number, name in enumerate(named[0]):
        if name in rows:
            raise DataError(f"{file} names {given[number]!r} twice. Keep one row per slide.")
        if name:
            rows[name] = {key: read[key][number] for key in ("mpp", "group") if key in read}
    none = [text for text, *found in zip(given, *named, strict=True) if not any(found)]
    if len(none) == len(given):
        every = [name for paths in tiles.values() for name in paths]
        raise DataError(
            f"{file} names none of the {len(every)} tiles of {' and '.join(map(str, tiles))}; its "
            f"first is {given[0]!r}, the first tile {every[0]!r}. Give their file names."
        )
    reason = f"{len(none)} of {len(given)} rows name no tile, the first is {(*none, '')[0]!r}"
    return rows, [LeftOut(file.name, f"{reason}; correct or remove them")] * bool(none)


def _series_in(tiles: Mapping[str, Path]) -> dict[str, str]:
    """The series of each tile that is a file of one in DICOM."""
    found: dict[str, str] = {}
    for name, path in tiles.items():
        with suppress(DataError):  # which is said where it is opened for its size
            found[name] = series_of(path)
    return {name: series for name, series in found.items() if series}


def _rows_by_series(
    file: Path | None, table: Mapping[str, dict[str, str]], series: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The row of each series, whichever of its files the table names.

    Raises:
        DataError: if it names several that differ.
    """
    first: dict[str, str] = {}
    for name in (name for name in table if name in series):
        other = first.setdefault(series[name], name)
        if table[other] != table[name]:
            raise DataError(
                f"{file} claims different things of {other} and {name}, which are files of one "
                "slide. Keep one row per slide."
            )
    return {each: table[name] for each, name in first.items()}


def _is_size(cell: str) -> bool:
    try:
        return 0 < float(cell) <= COARSEST
    except ValueError:
        return False


def _claim(said: Sequence[Stated], row: dict[str, str], claims: Claims) -> tuple[float, str]:
    """µm per pixel and its source; not a number and no source if nothing is claimed."""
    if claims.um_per_pixel is not None:
        return claims.um_per_pixel, "--um-per-pixel"
    for each in said:
        if each.is_oblong:
            raise DataError(
                f"it has {each.um_per_pixel:.4g} µm per pixel across, but {each.down:.4g} down by "
                f"the {each.source}; resample it to square pixels, or give --um-per-pixel"
            )
    usable = [each for each in said if each.is_usable]
    sizes = [(each.um_per_pixel, each.source) for each in usable if each.um_per_pixel]
    powers = [(each.magnification, each.source) for each in usable if each.magnification]
    if "mpp" in row:
        sizes.insert(0, (float(row["mpp"]), "table"))
    for size, source in sizes[1:]:
        if differ(size, sizes[0][0], TOLERANCE):
            raise DataError(
                f"it has {sizes[0][0]:.4g} µm per pixel by the {sizes[0][1]}, but {size:.4g} by "
                f"the {source}; correct one, or give --um-per-pixel"
            )
    if claims.native is not None and not sizes and not powers:
        powers.append((claims.native, "--native"))
    for power, source in powers:
        size, by = sizes[0] if sizes else (AT_1X / powers[0][0], powers[0][1])
        if differ(size * power, AT_1X, NOMINAL):
            raise DataError(
                f"it has {size:.4g} µm per pixel by {by}, but {power:g}X, about "
                f"{AT_1X / power:.3g} µm, by {source}; correct one, or give --um-per-pixel"
            )
    if sizes:
        return sizes[0]
    if powers:
        return AT_1X / powers[0][0], f"{powers[0][0]:g}X ({powers[0][1]})"
    return float("nan"), ""


def _with_patients(found: list[Claimed], from_name: str) -> list[Claimed]:
    """With patients by the expression or the names, and those that share a file as one."""
    labelled = [Labelled(each.image, frozenset(), 0.0, group=each.group) for each in found]
    labelled, _ = grouped(labelled, from_name, by_known_names=True)
    groups = [each.group or patient_of(each.image.name) for each in labelled]
    groups, _ = joined([each.image for each in found], groups)
    return [replace(each, group=group) for each, group in zip(found, groups, strict=True)]
