"""Tiles of tissue with the masks of their nuclei: found, paired, read, and split by patient.

A tile and its mask have the same name up to `_original` and `_mask`. What masks mean is decided
once for all of them (`data.masks`); in GeoJSON of QuPath, each object is a nucleus. Tiles that
cannot be used are skipped and listed with the reason.

Known names: those of Janowczyk and Madabhushi (`janowczyk2016` in docs/references.bib),
`CASE_500_fNUMBER_original.tif` with `CASE_500_fNUMBER_mask.png`, and the barcodes of TCGA.

Shapes: h x w pixels.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from ..data.assumptions import Assumed, as_confirmed, assume
from ..data.decoding import COMMON, header, opened, suffix_of, without_options
from ..data.files import aliases, named_by, none_in
from ..data.groups import TCGA
from ..data.images import Image, LeftOut, first_skipped, skip
from ..data.masks import MaskRule, marks_as, understood
from ..data.outlines import Tally
from ..data.pairs import GEOJSON, IN_PIXELS, labels_in
from ..data.tables import columns
from ..errors import DataError, several
from .resolution import Stated, stated

PARTS = ("train", "validation", "test")
_TILE, _MASK = "_original", "_mask"  # what names end in, before the suffix
_PATIENTS = (TCGA, re.compile(r"^(.+)_500_f\d+$"))


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of tissue, the mask of its nuclei, and the patient."""

    name: str
    image: Path
    mask: Path
    group: str  # the patient if the name contains one, else the tile itself
    rule: MaskRule  # what the values of masks mean
    um_per_pixel: float | None = None  # from the file
    stated: tuple[Stated, ...] = ()  # all that the file says about it
    said: tuple[str, ...] = ()  # what was assumed and stated of all masks, in sentences


@runtime_checkable
class Grouped(Protocol):
    """A tile or slide, as far as a split needs it."""

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> str: ...


def find_tiles(
    tiles: Path,
    masks: Path,
    *,
    mask_kind: str = "auto",
    background: str = "",
    leave_out: Sequence[str] = (),
    strict: bool = False,
    confirm: Sequence[str] = (),
) -> tuple[list[Tile], tuple[LeftOut, ...]]:
    """The tiles of a folder that have a mask in the other, by name, and what is skipped.

    Both may be the same folder; masks then end in `_mask`. Every file is read once, to check it.

    Args:
        mask_kind: binary, instances or classes; auto detects it.
        background: the value or colour of masks that marks nothing, instead of 0.
        leave_out: parts of names; files whose name has one are listed, but not read.
        strict: whether nothing may be skipped or assumed.
        confirm: what is assumed and right, in words of `CONFIRMABLE`.

    Raises:
        DataError: if a folder does not exist, no tile can be used, masks are ambiguous, or
            `strict` is not met.
    """
    for folder, what in ((tiles, "tiles"), (masks, "masks")):
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}. Give the folder of the {what}.")
    images = files_by_name(tiles, "tiles")
    marked = files_by_name(masks, "masks", strict=tiles.samefile(masks))
    unread = asked_out(images.keys() | marked.keys(), leave_out)
    if images.keys() <= unread:
        raise DataError(f"--leave-out {','.join(several(leave_out))} skips every tile. Skip fewer.")
    reason = "--leave-out names it, as asked"
    left_out = [LeftOut((images.get(n) or marked[n])[0].name, reason) for n in sorted(unread)]
    images = {name: paths for name, paths in images.items() if name not in unread}
    marked = {name: paths for name, paths in marked.items() if name not in unread}
    of_tiles = [paths[0] for name, paths in marked.items() if name in images]
    try:
        rule = understood([m for m in of_tiles if suffix_of(m) != GEOJSON], mask_kind, background)
    except DataError as error:
        raise DataError(without_options(str(error))) from error
    tally = Tally()
    found: list[Tile] = []
    for name in sorted(images.keys() | marked.keys()):
        of_tile, of_mask = images.get(name, []), marked.get(name, [])
        try:
            found.append(_paired(name, of_tile, of_mask, rule, tally))
        except DataError as error:
            reason = str(error).removeprefix(f"{name}: ")
            skip(LeftOut((of_tile or of_mask)[0].name, reason), left_out, strict)
    if not found:
        raise DataError(f"None of the tiles of {tiles} can be used. {first_skipped(left_out)}")
    outlined = [IN_PIXELS] * any(suffix_of(tile.mask) == GEOJSON for tile in found)
    assumed, stated = accepted((*rule.assumed, *tally.statements()), confirm, strict)
    said = (*assumed, *outlined, *stated)
    return [replace(tile, rule=rule, said=said) for tile in found], tuple(left_out)


def accepted(
    given: Iterable[Assumed], confirm: Sequence[str], strict: bool
) -> tuple[list[str], list[str]]:
    """What is assumed, and what the user has confirmed, in sentences without their full stop.

    Raises:
        DataError: if something is assumed, and `strict`.
    """
    assumed, stated = list[str](), list[str]()
    for each in given:
        confirmed = as_confirmed(each, confirm)
        if confirmed is None:
            assume(each, assumed, strict)
        else:
            stated.append(confirmed)
    return assumed, stated


def asked_out(names: Collection[str], leave_out: Sequence[str]) -> set[str]:
    """The names that contain one of some parts.

    Raises:
        DataError: if a part is in none.
    """
    leave_out = several(leave_out)
    unknown = [part for part in leave_out if not any(part in name for name in names)]
    if unknown:
        raise DataError(f"--leave-out {unknown[0]!r} is in no name of a tile. Omit or correct it.")
    return {name for name in names if any(part in name for part in leave_out)}


def mask_name(tile: str) -> str:
    """The name that a tile, by its path without suffix, shares with its mask."""
    return Path(tile).name.removesuffix(_TILE)


def files_by_name(
    folder: Path, what: Literal["tiles", "masks"], *, strict: bool = False
) -> dict[str, list[Path]]:
    """Files by the name that tile and mask share, without those that end as the others do.

    Args:
        strict: whether names have to end as those of tiles or masks do.

    Raises:
        DataError: if there is no folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the folder of the {what}.")
    ending, other = (_TILE, _MASK) if what == "tiles" else (_MASK, _TILE)
    files: dict[str, list[Path]] = defaultdict(list)
    suffixes = (*COMMON, GEOJSON) if what == "masks" else COMMON
    every = sorted(folder.iterdir())
    for path in every:
        stem = path.stem
        if suffix_of(path) == GEOJSON:  # a mask, even if it has the name of its tile
            stem = stem.removesuffix(other).removesuffix(ending) + ending
        is_ours = stem.endswith(ending) or not (strict or stem.endswith(other))
        if suffix_of(path) in suffixes and is_ours and not path.name.startswith("."):
            files[stem.removesuffix(ending)].append(path)
    if not files:
        ends = f" whose name ends in {ending}" if strict else ""
        lack = f"{folder} holds no image{ends}. Give the folder of the {what} "
        raise none_in(folder, every, f"{lack}({', '.join(suffixes)}).")
    return files


def _paired(name: str, images: list[Path], masks: list[Path], rule: MaskRule, tally: Tally) -> Tile:
    for paths, missing in (
        (images, "there is no tile of this name; add it, or remove the mask"),
        (masks, f"there is no mask of this name ({name}.png, {name}_mask.png or similar); add it"),
    ):
        if not paths:
            raise DataError(missing)
        if len(paths) > 1:
            files = ", ".join(path.name for path in paths)
            raise DataError(f"there are {len(paths)} files of this name ({files}); keep one")
    tile = Tile(name, images[0], masks[0], patient_of(name), rule)
    read(tile, tally)
    with opened(images[0]) as file:
        sizes = stated(file)
    usable = [each.um_per_pixel for each in sizes if each.is_usable and each.um_per_pixel]
    return replace(tile, um_per_pixel=usable[0] if usable else None, stated=sizes)


def patient_of(name: str) -> str:
    """The patient in the name of a tile of known origin, else the name itself."""
    return next((p.group(1) for rule in _PATIENTS if (p := rule.search(name))), name)


def read(
    tile: Tile, tally: Tally | None = None
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]]:
    """The image, and its mask.

    The mask is true at nuclei if it is binary; otherwise it holds the number of the nucleus at
    each pixel, from 1, and 0 where there is none.

    Raises:
        DataError: if one cannot be read, the sizes differ, or the mask marks nothing.
    """
    try:
        pixels = np.asarray(Image(tile.name, tile.image).decode())
    except DataError as error:
        raise DataError(without_options(str(error))) from error
    try:
        orientation, (height, width) = header(tile.image)[2], pixels.shape[:2]
        check_turn(tile.mask, (width, height), orientation)
        if suffix_of(tile.mask) == GEOJSON:
            marks = labels_in(tile.mask, width, height, tally or Tally())
        else:
            marks = marks_as(tile.mask, tile.rule, (width, height), orientation)
        if not marks.any():
            raise DataError("it marks nothing; mark the nuclei")
    except DataError as error:
        raise DataError(f"{tile.name}: its mask {tile.mask.name}: {error}") from error
    if marks.shape != pixels.shape[:2]:
        raise DataError(
            f"{tile.name}: it has {pixels.shape[1]} x {pixels.shape[0]} pixels, its mask "
            f"{marks.shape[1]} x {marks.shape[0]}; give a mask of the same size"
        )
    return pixels, marks


def check_turn(mask: Path, size: tuple[int, int], orientation: int) -> None:
    """Refuse a mask that could be drawn before or after EXIF turned its tile to this size."""
    what = "outlines" if suffix_of(mask) == GEOJSON else "marks"
    shape_says = orientation >= 5 and size != size[::-1] and what == "marks"
    if orientation > 1 and not shape_says:
        raise DataError(
            f"EXIF orientation {orientation} turns its tile, and {what} could be drawn before or "
            "after; save the tile upright"
        )


def read_split(file: Path) -> dict[str, list[str]]:
    """The columns image and split of a CSV file, and patient if it is there.

    Raises:
        DataError: if the file is no such table.
    """
    return columns(file, {"image": (True, bool), "split": (True, bool), "patient": (False, bool)})


def by_tile(
    table: Mapping[str, Sequence[str]],
    column: str,
    tiles: Mapping[str, str],
    others: Iterable[str] = (),
    *,
    file: Path,
    place: Path,
) -> dict[str, str]:
    """The cell of each tile, by its name, in a table of `read_split`; empty without the column.

    Rows name files as those of `--claims` do, with `_original` or without.

    Args:
        tiles: their names, by their path below the folder `place`.
        others: paths of tiles that are not used, so that a row of one is not that of another.
        file: the table.

    Raises:
        DataError: if it names a tile twice, or one of several.
    """
    unused = {alias for path in others for alias in aliases(path)}
    unused -= {alias for path in tiles for alias in aliases(path)}
    texts = [text if unused.isdisjoint(aliases(text)) else "" for text in table["image"]]
    named = named_by(texts, file, [*tiles], place)
    plain = {_plain(path): path for path in tiles if path not in named}
    left = ["" if path else _plain(text) for text, path in zip(texts, named, strict=True)]
    again = [plain.get(path, "") for path in named_by(left, file, [*plain], place)]
    found: dict[str, str] = {}
    rows = zip(named, again, table.get(column, ()), strict=column in table)
    for name, cell in ((tiles.get(one or other), cell) for one, other, cell in rows):
        if name in found:
            raise DataError(f"{file} names the tile {name!r} twice. Keep one row per tile.")
        if name is not None:
            found[name] = cell
    return found


def _plain(path: str) -> str:
    """The path without `_original`."""
    return re.sub(rf"{_TILE}(?=(\.[^./\\]*)?$)", "", path)


def split(
    tiles: Sequence[Grouped],
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The part of each tile, by name; all tiles of a patient are in one part.

    Args:
        shares: of the patients in train, validation and test; a part with a share gets at least
            one patient. They are drawn by `seed`.
        given: the part of each tile by its name, instead of drawing; others are ignored.

    Raises:
        DataError: if train or test is empty, or a patient is in two parts.
    """
    parts = _drawn(tiles, seed, shares) if given is None else _given(tiles, given)
    present = set(parts.values())
    for part in ("train", "test"):
        if part not in present:
            raise DataError(
                f"None of the {len(tiles)} tiles is in {part}, so nothing can be "
                f"{'fitted' if part == 'train' else 'tested'}. Put some patients into {part}."
            )
    return parts


def _drawn(
    tiles: Sequence[Grouped], seed: int, shares: tuple[float, float, float]
) -> dict[str, str]:
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or not shares[0] or not shares[2]:
        raise DataError(
            f"Shares of {', '.join(f'{share:g}' for share in shares)} cannot split the patients. "
            "Give those of train, validation and test; they add up to 1, and only that of "
            "validation may be 0."
        )
    groups = sorted({tile.group for tile in tiles})
    needed = sum(share > 0 for share in shares)
    if len(groups) < needed:
        raise DataError(
            f"There are tiles of {len(groups)} patients for {needed} parts. "
            f"Give tiles of at least {needed} patients."
        )
    sizes = (np.array(shares) > 0).astype(int)
    while sizes.sum() < len(groups):
        sizes[np.argmax(np.array(shares) * len(groups) - sizes)] += 1
    shuffled = np.random.default_rng(seed).permutation(groups)
    part = dict(zip(shuffled.tolist(), np.repeat(PARTS, sizes).tolist(), strict=True))
    return {tile.name: part[tile.group] for tile in tiles}


def _given(tiles: Sequence[Grouped], given: Mapping[str, str]) -> dict[str, str]:
    parts: dict[str, str] = {}
    first: dict[str, Grouped] = {}  # of each patient
    for tile in tiles:
        part = given.get(tile.name)
        if part not in PARTS:
            said = "has no part" if part is None else f"has the part {part!r}"
            raise DataError(
                f"The tile {tile.name!r} {said} in the given split. "
                f"Give one of {', '.join(PARTS)} for each tile."
            )
        parts[tile.name] = part
        other = first.setdefault(tile.group, tile)
        if parts[other.name] != part:
            raise DataError(
                f"The patient {tile.group!r} is in {parts[other.name]} ({other.name}) and in "
                f"{part} ({tile.name}). Keep all tiles of a patient in one part."
            )
    return parts
