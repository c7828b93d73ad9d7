"""What is claimed of the µm per pixel of tiles: by their files, by a table, or by the user.

Sources that contradict each other (`resolution`) make a claim unusable, and the tile is skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.decoding import SUFFIXES, opened, stem_of
from ..data.files import Files, none_in
from ..data.groups import check_grouping, grouped, joined
from ..data.images import Image, Labelled, LeftOut
from ..data.patches import AT_1X, NOMINAL, TOLERANCE, differ
from ..data.tables import columns
from ..errors import DataError
from .resolution import COARSEST, Stated, stated
from .slides import SLIDES, is_slide, series_of, stated_by_slide
from .tiles import patient_of


@dataclass(frozen=True, slots=True)
class Claims:
    """What is claimed of the resolution of tiles, and whose they are.

    Args:
        claims: A table with the columns slide and mpp (µm per pixel), optionally group, of some or
            all tiles, by file name with or without suffix.
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
    stated: tuple[str, ...] = ()  # all that is stated anywhere, in words


def claimed_tiles(place: Path, claims: Claims) -> tuple[list[Claimed], tuple[LeftOut, ...]]:
    """The tiles of a folder with what is claimed of each, and those that contradict themselves.

    Args:
        place: a folder of tiles, or one tile.

    Raises:
        DataError: if there is no tile, or the table cannot be used.
    """
    paths, names = _paths(place)
    table = _table(claims.claims, names)
    found: list[Claimed] = []
    left_out: list[LeftOut] = []
    known: set[str] = set()  # series of DICOM, whose other files are levels of the same slide
    for name, path in zip(names, paths, strict=True):
        row = table.get(name, {})
        try:
            if is_slide(path):
                series = series_of(path)
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
        group = row.get("group", "")
        words = tuple(map(str, said))
        found.append(Claimed(name, Image(name, path), group, size, source, words))
    if not found:
        reason = f"{left_out[0].name}: {left_out[0].reason}"
        raise DataError(f"None of {len(paths)} tiles of {place} can be used ({reason}).")
    return _with_patients(found, claims.group_from_name), tuple(left_out)


def _paths(place: Path) -> tuple[list[Path], list[str]]:
    """The tiles and their names: paths below the folder, without suffix where that is unique."""
    if place.is_file():
        return [place], [stem_of(place)]
    if not place.is_dir():
        raise DataError(f"There is no folder {str(place)!r}. Give the folder of the tiles.")
    files = Files(place, SUFFIXES | set(SLIDES))
    if not files.paths:
        raise none_in(
            place, place.iterdir(), f"{str(place)!r} holds no image. Give the folder of the tiles."
        )
    long = [files.relative(path) for path in files.paths]
    short = [str(Path(name).with_name(stem_of(path)).as_posix())
             for name, path in zip(long, files.paths, strict=True)]  # fmt: skip
    names = [s if short.count(s) == 1 else n for s, n in zip(short, long, strict=True)]
    return files.paths, names


def _table(file: Path | None, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Its rows by the name of the tile.

    Raises:
        DataError: if it names no tile, or one twice.
    """
    if file is None:
        return {}
    cells = {"slide": (True, bool), "mpp": (True, _is_size), "group": (False, bool)}
    read = columns(file, cells)
    by_name = {alias: name for name in names for alias in (Path(name).name, name)}
    rows: dict[str, dict[str, str]] = {}
    for number, given in enumerate(read["slide"]):
        name = by_name.get(given) or by_name.get(stem_of(Path(given)))
        if name in rows:
            raise DataError(f"{file} names {given!r} twice. Keep one row per slide.")
        if name is not None:
            rows[name] = {key: read[key][number] for key in ("mpp", "group") if key in read}
    if not rows:
        raise DataError(
            f"{file} names none of the {len(names)} tiles; its first is {read['slide'][0]!r}, the "
            f"first tile {names[0]!r}. Give their file names."
        )
    return rows


def _is_size(cell: str) -> bool:
    try:
        return 0 < float(cell) <= COARSEST
    except ValueError:
        return False


def _claim(said: Sequence[Stated], row: dict[str, str], claims: Claims) -> tuple[float, str]:
    """µm per pixel and its source; not a number and no source if nothing is claimed."""
    if claims.um_per_pixel is not None:
        return claims.um_per_pixel, "--um-per-pixel"
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
