"""Tiles of tissue with the masks of their nuclei: found, paired, read, and split by patient.

A tile and its mask have the same name up to `_original` and `_mask`. A mask has two levels (nuclei
are the bright one), or a level or colour for each nucleus. Tiles that cannot be used are skipped
and listed with the reason.

Known names: those of Janowczyk and Madabhushi (`janowczyk2016` in docs/references.bib),
`CASE_500_fNUMBER_original.tif` with `CASE_500_fNUMBER_mask.png`, and the barcodes of TCGA.

Shapes: h x w pixels.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Integer, UInt8
from skimage.filters import threshold_otsu
from skimage.measure import label

from ..data.decoding import decoded, opened
from ..data.images import Image, LeftOut, told
from ..errors import DataError

PARTS = ("train", "validation", "test")
_SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}
_TILE, _MASK = "_original", "_mask"  # what names end in, before the suffix
_PATIENTS = (
    re.compile(r"(TCGA-\w{2}-\w{4})"),  # project, site, participant; then the sample
    re.compile(r"^(.+)_500_f\d+$"),
)
_UNITS = {2: 25_400.0, 3: 10_000.0}  # µm in TIFF's units of resolution, inch and centimetre
_COARSEST = 20.0  # µm per pixel: larger values are those of a printer (72 to 300 dpi)
_SMALLEST = 3  # pixels per level on average, at least, if levels stand for nuclei


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of tissue, the mask of its nuclei, and the patient."""

    name: str
    image: Path
    mask: Path
    group: str  # the patient if the name contains one, else the tile itself
    um_per_pixel: float | None = None  # from the file


def find_tiles(tiles: Path, masks: Path) -> tuple[list[Tile], tuple[LeftOut, ...]]:
    """The tiles of a folder that have a mask in the other, by name, and what is skipped.

    Both may be the same folder; masks then end in `_mask`. Every file is read once, to check it.

    Raises:
        DataError: if a folder does not exist, or no tile can be used.
    """
    for folder, what in ((tiles, "tiles"), (masks, "masks")):
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}. Give the folder of the {what}.")
    images = _named(tiles, "tiles", ending=_TILE, other=_MASK)
    marked = _named(masks, "masks", ending=_MASK, other=_TILE, strict=tiles.samefile(masks))
    found: list[Tile] = []
    left_out: list[LeftOut] = []
    for name in sorted(images.keys() | marked.keys()):
        of_tile, of_mask = images.get(name, []), marked.get(name, [])
        try:
            found.append(_paired(name, of_tile, of_mask))
        except DataError as error:
            reason = str(error).removeprefix(f"{name}: ")
            left_out.append(LeftOut((of_tile or of_mask)[0].name, reason))
    if not found:
        raise DataError(f"None of the tiles of {tiles} can be used. {told(left_out)}")
    return found, tuple(left_out)


def _named(
    folder: Path, what: str, *, ending: str, other: str, strict: bool = False
) -> dict[str, list[Path]]:
    """Files by the name that tile and mask share, without those that end as the others do."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        is_ours = path.stem.endswith(ending) or not (strict or path.stem.endswith(other))
        if path.suffix.lower() in _SUFFIXES and is_ours and not path.name.startswith("."):
            files[path.stem.removesuffix(ending)].append(path)
    if not files:
        ends = f" whose name ends in {ending}" if strict else ""
        raise DataError(
            f"{folder} holds no image{ends}. "
            f"Give the folder of the {what} ({', '.join(sorted(_SUFFIXES))})."
        )
    return files


def _paired(name: str, images: list[Path], masks: list[Path]) -> Tile:
    for paths, missing in (
        (images, "there is no tile of this name; add it, or remove the mask"),
        (masks, f"there is no mask of this name ({name}.png, {name}_mask.png or similar); add it"),
    ):
        if not paths:
            raise DataError(missing)
        if len(paths) > 1:
            files = ", ".join(path.name for path in paths)
            raise DataError(f"there are {len(paths)} files of this name ({files}); keep one")
    patient = next((p.group(1) for rule in _PATIENTS if (p := rule.search(name))), name)
    with opened(images[0]) as stored:
        tile = Tile(
            name, images[0], masks[0], patient, _um_per_pixel(getattr(stored, "tag_v2", {}))
        )
    read(tile)
    return tile


def _um_per_pixel(tags: Mapping[int, Any]) -> float | None:
    """From the resolution tags of TIFF, if they are those of a microscope."""
    across, down, unit = tags.get(0x011A), tags.get(0x011B), tags.get(0x0128, 2)
    if unit not in _UNITS or not across or not down:
        return None
    size, other = _UNITS[unit] / float(across), _UNITS[unit] / float(down)
    return size if abs(size - other) <= 0.01 * size <= 0.01 * _COARSEST else None


def read(
    tile: Tile,
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]]:
    """The image, and its mask.

    The mask is true at nuclei if it has two levels; otherwise it holds the number of the nucleus at
    each pixel, from 1, and 0 where there is none.

    Raises:
        DataError: if one cannot be read, the sizes differ, or the mask is a photograph.
    """
    pixels = np.asarray(Image(tile.name, tile.image).decode())
    try:
        marks = read_mask(tile.mask)
    except DataError as error:
        raise DataError(f"{tile.name}: its mask {tile.mask.name}: {error}") from error
    if marks.shape != pixels.shape[:2]:
        raise DataError(
            f"{tile.name}: it has {pixels.shape[1]} x {pixels.shape[0]} pixels, its mask "
            f"{marks.shape[1]} x {marks.shape[0]}; give a mask of the same size"
        )
    return pixels, marks


def read_mask(file: Path) -> Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]:
    """The mask: bool if it has two levels, otherwise the numbers of nuclei.

    If levels stand for nuclei, there are as many regions of one level as levels, and at most twice
    as many: a nucleus may be in pieces. Shades at the edges of two levels, or the noise of JPEG,
    are removed by Otsu's threshold of the first channel (`graziani2021`) if few pixels lie in
    between. Anything else is a photograph.
    """
    with opened(file) as stored:
        values = np.asarray(decoded(stored))
    planes = values[..., None] if values.ndim == 2 else values
    planes = planes[..., : 3 if planes.shape[2] >= 3 else 1]  # without alpha
    first = planes[..., 0]
    is_grey = (planes == planes[..., :1]).all()
    codes = first if is_grey else planes.astype(np.int64) @ (256 ** np.arange(planes.shape[2]))
    levels = np.unique(codes)
    if len(levels) == 1:
        raise DataError("it has a single level, so it marks nothing; mark the nuclei")
    if len(levels) == 2:
        return codes == levels[1]

    labels = np.where(codes == 0, 0, np.searchsorted(levels[levels != 0], codes) + 1)
    regions = cast(np.ndarray, label(labels))  # of equal values, over corners too
    n_regions, n_levels = int(regions.max()), np.count_nonzero(levels)
    if n_regions <= 2 * n_levels and _SMALLEST * n_regions <= np.count_nonzero(labels):
        return labels
    low, high = np.quantile([first.min(), first.max()], [1 / 8, 7 / 8])
    at_ends = np.count_nonzero(first <= low), np.count_nonzero(first >= high)
    if first.size - sum(at_ends) < min(at_ends):
        return first > threshold_otsu(first)
    raise DataError(
        f"it has {len(levels)} levels in {n_regions} regions, like a photograph; "
        "give a mask with two levels, or with one level per nucleus"
    )


def read_split(file: Path) -> dict[str, str]:
    """The part of each tile, by name, from a CSV file with the columns image and split.

    Names may be those of files, with or without suffix.

    Raises:
        DataError: if the file is no such table, or names a tile twice.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(
            f"{file} is not a table ({' '.join(str(error).split())}). "
            "Give a CSV file with the columns image and split."
        ) from error
    missing = [name for name in ("image", "split") if name not in table]
    if missing or table.empty:
        raise DataError(
            f"{file} has {f'no column {missing[0]!r}' if missing else 'no rows'}; its columns are "
            f"{', '.join(repr(str(name)) for name in table.columns[:8])}. Give image and split."
        )
    parts: dict[str, str] = {}
    for given, part in zip(table["image"], table["split"], strict=True):
        path = Path(given)
        name = path.stem if path.suffix.lower() in _SUFFIXES else path.name
        name = name.removesuffix(_TILE)
        if name in parts:
            raise DataError(f"{file} names the tile {name!r} twice. Keep one row per tile.")
        parts[name] = part
    return parts


def split(
    tiles: Sequence[Tile],
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The part of each tile, by name; all tiles of a patient are in one part.

    Args:
        shares: of the patients in train, validation and test; a part with a share gets at least
            one patient. They are drawn by `seed`.
        given: the part of each tile, instead of drawing; other tiles in it are ignored.

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


def _drawn(tiles: Sequence[Tile], seed: int, shares: tuple[float, float, float]) -> dict[str, str]:
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


def _given(tiles: Sequence[Tile], given: Mapping[str, str]) -> dict[str, str]:
    parts: dict[str, str] = {}
    first: dict[str, Tile] = {}  # of each patient
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
