"""Patches of tiles at several magnifications, with the sizes of their nuclei.

A tile of magnification M shown at m is resampled by f = M / m: each pixel of the result is the mean
over f x f pixels of the tile, partly covered pixels counted in proportion. Nuclei are never mixed:
a pixel belongs to nuclei if they cover half of it, and then to the one that covers most.

Areas are as in `graziani2021`: nuclei that touch the border of the patch are not counted, nor
those of fewer than 3 px; in a mask with two levels, nuclei are the connected components after a
closing by 2 x 2 pixels. The paper does not say how it resampled, nor where its patches lay. Ours
form a grid without overlap, or the same number of patches per tile at every magnification, which
overlap at the low ones.

Shapes: h x w pixels of the tile, H x W of the resampled tile; k nuclei.
"""

import json
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Bool, Float64, Int64, Integer, UInt8
from scipy import ndimage, sparse
from skimage.measure import label

from .. import runs
from ..data.assumptions import CONFIRMABLE
from ..data.groups import joined
from ..data.images import Image, LeftOut, Progress
from ..data.masks import KINDS, background_code
from ..errors import DataError, check_names
from .resolution import checked
from .tiles import PARTS, Tile, find_tiles, read, read_split
from .tiles import split as split_tiles

SMALLEST = 3  # px of a nucleus, graziani2021
FOLDER = "patches"
TOTAL = "total"
BLUR_MARGIN = 2.0  # target variance of `match_blur` over the largest variance before matching
_EDGES = 0.01  # share of pixels, those of the steepest edges, that the blur is estimated from
_THREADS = 4
_STRIP = 64  # rows resampled at once, to bound memory; even, so that ties alternate on
_ROUNDING = 1e-9
# fmt: off
COLUMNS = (
    "patch", "tile", "group", "split", "magnification", "x", "y", "n_nuclei", "mean_area_px",
    "median_area_px", "mean_area_um2",
)
# fmt: on

Marks = Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]


@dataclass(frozen=True, slots=True)
class Blur:
    """Standard deviations of the point spread, as of a Gaussian."""

    native: float  # of the tiles, in their pixels
    target: float  # of all patches, in theirs


@dataclass(frozen=True, slots=True)
class Cutting:
    """How patches are cut from tiles.

    Args:
        magnifications: Magnifications of the patches, up to that of the tiles.
        native: Magnification of the tiles.
        size: Side of a patch in pixels.
        grid: Patches across and down per tile at every magnification, evenly spread from edge to
            edge; they overlap where they must. By default patches do not overlap, and low
            magnifications have few.
        um_per_pixel: Micrometres per pixel of the tiles; by default what the file of each says.
        match_blur: Give all magnifications the same point spread, in pixels of the patch. Otherwise
            sharpness reveals the magnification, whatever the nuclei.
        native_blur: Standard deviation of the point spread of the tiles, in their pixels; by
            default estimated from the training tiles.
        mask_kind: What masks mean: binary (each connected region is a nucleus), instances (each
            value is one), or classes (each connected region of a value); auto detects it.
        background: The value or colour (R,G,B) of masks that marks nothing, instead of 0.
        confirm: What is assumed of masks and right, in the words that --strict names.
    """

    magnifications: Sequence[float] = (5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0)  # graziani2021
    native: float = 40.0
    size: int = 224
    grid: int | None = None
    um_per_pixel: float | None = None
    match_blur: bool = False
    native_blur: float | None = None
    mask_kind: Literal["auto", "binary", "instances", "classes"] = "auto"
    background: str = ""
    confirm: Sequence[str] = ()

    def __post_init__(self) -> None:
        given = (*self.magnifications, self.native, self.size)
        is_usable = bool(self.magnifications) and all(0 < each < np.inf for each in given)
        if not is_usable or self.size < SMALLEST:
            asked = ", ".join(f"{each:g}X" for each in self.magnifications) or "no magnification"
            raise DataError(
                f"Patches of {self.size:g} px at {asked} cannot be cut from tiles at "
                f"{self.native:g}X. Give magnifications above 0 and patches of {SMALLEST} px or "
                "more."
            )
        if max(self.magnifications) > self.native:
            raise DataError(
                f"A magnification of {max(self.magnifications):g}X is above that of the tiles, "
                f"{self.native:g}X, and would add no detail. Give {self.native:g} or less."
            )
        if self.grid is not None and self.grid < 1:
            raise DataError(f"--grid must be at least 1, got {self.grid}.")
        check_names(self.mask_kind, ("auto", *KINDS), "kind of mask")
        check_names(self.confirm, tuple(CONFIRMABLE), "assumption")
        background_code(self.background)
        for value, name in ((self.um_per_pixel, "um-per-pixel"), (self.native_blur, "native-blur")):
            if value is not None and not 0 < value < np.inf:
                raise DataError(f"--{name} must be above 0, got {value:g}.")
        if self.native_blur is not None and not self.match_blur:
            raise DataError("--native-blur has no effect without --match-blur. Add that option.")

    @property
    def factors(self) -> dict[float, float]:
        """Pixels of the tile along one pixel of the patch, by magnification."""
        return {float(each): self.native / each for each in sorted(self.magnifications)}


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches in a folder, one row each, and what was skipped."""

    table: pd.DataFrame  # the columns of COLUMNS
    folder: Path  # that the names in the table are relative to
    left_out: tuple[LeftOut, ...] = ()  # patches without nuclei, by magnification
    skipped: tuple[LeftOut, ...] = ()  # magnifications at which tiles are smaller than a patch
    blur: Blur | None = None  # if it was matched
    stated: tuple[str, ...] = ()  # what masks and sizes of pixels were taken for, in sentences

    def to_frame(self) -> pd.DataFrame:
        """One row per patch, in the form of `patches.parquet`."""
        return self.table.copy()

    def counts(self) -> pd.DataFrame:
        """The number of patches by part and magnification."""
        return counts(self.table)


@dataclass(frozen=True, slots=True)
class _Plan:
    folder: Path
    cutting: Cutting
    blur: Blur | None


@dataclass(frozen=True, slots=True)
class _Cut:
    """The patches of one tile at one magnification."""

    magnification: float
    rows: tuple[tuple[object, ...], ...]  # values of COLUMNS
    n_empty: int
    too_small: str  # how large the tile is, if it is smaller than a patch


def save_patches(
    tiles: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    split: str | Path | None = None,
    leave_out: Sequence[str] = (),
    cutting: Cutting = Cutting(),
    strict: bool = False,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Patches:
    """Cut patches of tissue at several magnifications, and measure their nuclei.

    Args:
        tiles: The folder of tiles.
        masks: The folder of their masks.
        out: The folder to write; complete or absent.
        split: A table with the columns image and split; by default patients are drawn into train,
            validation and test, 60, 20 and 20 %.
        leave_out: Skip tiles whose name contains one of these.
        cutting: How patches are cut.
        strict: Stop at the first tile that would be skipped unasked, and at whatever is assumed.
        seed: random seed of the split.
        command: as it was typed, or empty.
        progress: called with (stage, done, total).

    Raises:
        DataError: if no tile can be used, or a part of the split has no patches.
        OutputError: if `out` exists and holds no patches, or cannot be written.
    """
    out = Path(out)
    runs.check_place(out, "patches")
    found, left_out = find_tiles(
        Path(tiles),
        Path(masks),
        mask_kind=cutting.mask_kind,
        background=cutting.background,
        leave_out=leave_out,
        strict=strict,
        confirm=cutting.confirm,
    )
    images = [Image(tile.name, tile.image) for tile in found]
    groups, n_identical = joined(images, [tile.group for tile in found])
    kept = [replace(tile, group=group) for tile, group in zip(found, groups, strict=True)]
    said = (
        *(f"{each[0].upper()}{each[1:]}." for each in kept[0].said),
        *[f"{n_identical} tiles with identical copies share a part."] * bool(n_identical),
        *checked(kept, cutting.native, cutting.um_per_pixel),
    )
    parts = split_tiles(kept, seed=seed, given=read_split(Path(split)) if split else None)
    with runs.new_run(out, "patches") as folder:
        made = cut_patches(kept, parts, folder, cutting, progress=progress)
        made = replace(made, folder=out, left_out=(*left_out, *made.left_out), stated=said)
        made.table.to_parquet(folder / "patches.parquet", index=False)
        stated = {name: getattr(made, name) for name in ("blur", "left_out", "skipped", "stated")}
        counted = {"counts": json.loads(str(made.counts().to_json(orient="index")))}
        facts = runs.stamp("patches", command) | counted | stated
        runs.write_json(folder / runs.MARKS["patches"], facts)
    return made


def cut_patches(
    tiles: Sequence[Tile],
    split: Mapping[str, str],
    folder: Path,
    cutting: Cutting = Cutting(),
    *,
    progress: Progress | None = None,
) -> Patches:
    """The patches of all tiles, written to `folder` as `patches/NAME.png`.

    Patches lie next to each other from the upper left corner on, or on a grid. Patches without
    nuclei are skipped.

    Raises:
        DataError: if a tile cannot be read, or a part of the split has no patches.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    cuts: list[_Cut] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        blur = None
        if cutting.match_blur:
            train = [tile for tile in tiles if split[tile.name] == "train"]
            given = cutting.native_blur
            native = [given] if given else [*pool.map(lambda t: estimated_blur(read(t)[0]), train)]
            blur = _matched(native, cutting)
        plan = _Plan(folder, cutting, blur)
        done = pool.map(lambda tile: _cut(tile, split[tile.name], plan), tiles)
        for number, each in enumerate(done, start=1):
            cuts += each
            if progress:
                progress("patches", number, len(tiles))
    table = pd.DataFrame([row for cut in cuts for row in cut.rows], columns=list(COLUMNS))
    _check_parts(table, {split[tile.name] for tile in tiles}, cutting.size)
    left_out, skipped = _left_out(cuts, cutting.size)
    return Patches(table, folder, left_out, skipped, blur)


def _check_parts(table: pd.DataFrame, parts: Set[str], size: int) -> None:
    for part in PARTS:
        if part in parts and part not in set(table["split"]):
            raise DataError(
                f"No tile of {part} gives a patch of {size} px with a complete nucleus of "
                f"{SMALLEST} px. Give larger tiles, higher magnifications or smaller patches."
            )


def _left_out(cuts: Sequence[_Cut], size: int) -> tuple[tuple[LeftOut, ...], tuple[LeftOut, ...]]:
    """By magnification: patches without nuclei, and tiles that are smaller than a patch."""
    left_out: list[LeftOut] = []
    skipped: list[LeftOut] = []
    for magnification in dict.fromkeys(cut.magnification for cut in cuts):
        name, these = f"{magnification:g}X", [c for c in cuts if c.magnification == magnification]
        empty = sum(cut.n_empty for cut in these)
        there = empty + sum(len(cut.rows) for cut in these)
        if empty:
            reason = f"{empty} of {there} patches have no complete nucleus of {SMALLEST} px or more"
            left_out.append(LeftOut(name, reason))
        small = [cut.too_small for cut in these if cut.too_small]
        if small:
            reason = f"are smaller than a patch of {size} px there, the first {small[0]}"
            skipped.append(LeftOut(name, f"{len(small)} of {len(these)} tiles {reason}"))
    return tuple(left_out), tuple(skipped)


def _cut(tile: Tile, part: str, plan: _Plan) -> list[_Cut]:
    """The patches of a tile, written."""
    pixels, marks = read(tile)
    cutting = plan.cutting
    um_per_pixel = cutting.um_per_pixel or tile.um_per_pixel or np.nan
    cuts: list[_Cut] = []
    for magnification, factor in cutting.factors.items():
        height, width = (_n_whole(n, factor) for n in marks.shape)
        if min(height, width) < cutting.size:
            too_small = f"{tile.name} with {width} x {height} px"
            cuts.append(_Cut(magnification, (), 0, too_small))
            continue
        shown, nuclei = resampled(pixels, factor), resampled_nuclei(marks, factor)
        if plan.blur:
            shown = _blurred(shown, factor, plan.blur)
        shown = np.rint(shown).clip(0, 255).astype(np.uint8)
        rows: list[tuple[object, ...]] = []
        rest = height - cutting.size, width - cutting.size
        corners = list(product(*(_starts(each, cutting) for each in rest)))
        for y, x in corners:
            window = slice(y, y + cutting.size), slice(x, x + cutting.size)
            areas = areas_of_nuclei(nuclei[window])
            if areas.size:
                name = f"{FOLDER}/{tile.name}_{magnification:g}x_{x}_{y}.png"
                PIL.Image.fromarray(shown[window]).save(plan.folder / name)
                mean, median = float(areas.mean()), float(np.median(areas))
                place = (name, tile.name, tile.group, part, magnification, x, y)
                rows.append((*place, areas.size, mean, median, mean * (um_per_pixel * factor) ** 2))
        cuts.append(_Cut(magnification, tuple(rows), len(corners) - len(rows), ""))
    return cuts


def _starts(rest: int, cutting: Cutting) -> list[int]:
    """Where patches begin, down or across, if the last begins at `rest` or before."""
    if cutting.grid is None:
        return list(range(0, rest + 1, cutting.size))
    if cutting.grid == 1:
        return [rest // 2]
    places = np.linspace(0, rest, cutting.grid).round().astype(int)
    return list(dict.fromkeys(places.tolist()))


def areas_of_nuclei(labels: Integer[np.ndarray, "h w"]) -> Int64[np.ndarray, " k"]:
    """Areas, in pixels, of the nuclei that lie completely inside and have 3 pixels or more."""
    areas = np.bincount(labels.ravel()).astype(np.int64)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        areas[edge] = 0
    areas[0] = 0  # the background
    return areas[areas >= SMALLEST]


def _n_whole(n: int, factor: float) -> int:
    return int(n / factor + _ROUNDING)


def _weights(n: int, factor: float) -> sparse.csr_array:
    """Of the n pixels in a row, for the mean over [i f, (i + 1) f), i = 0, 1, ...: (N, n)."""
    start, pixel = np.arange(_n_whole(n, factor))[:, None] * factor, np.arange(n)
    overlap = np.minimum(start + factor, pixel + 1) - np.maximum(start, pixel)
    overlap[overlap < _ROUNDING] = 0
    return sparse.csr_array(overlap / overlap.sum(axis=1, keepdims=True))


def resampled(
    values: UInt8[np.ndarray, "h w c"], factor: float
) -> Float64[np.ndarray, "height width c"]:
    """The mean over squares of `factor` x `factor` pixels; a remainder right and below is dropped.

    Pillow's BOX takes whole pixels only, which at 4/3 are one or two in turn.
    """
    rows, columns = (_weights(n, factor) for n in values.shape[:2])
    planes = [rows @ values[..., c].astype(np.float64) @ columns.T for c in range(values.shape[2])]
    return np.stack(planes, axis=-1)


def resampled_nuclei(marks: Marks, factor: float) -> Int64[np.ndarray, "height width"]:
    """The number of the nucleus at each pixel of the resampled tile, 0 for none."""
    if marks.dtype == bool:
        rows, columns = (_weights(n, factor) for n in marks.shape)
        covered = rows @ marks.astype(np.float64) @ columns.T
        closed = ndimage.binary_closing(np.pad(_is_marked(covered), 2), np.ones((2, 2)))
        return cast(np.ndarray, label(closed[2:-2, 2:-2])).astype(np.int64)
    return _resampled_labels(marks, factor)


def _resampled_labels(
    labels: Integer[np.ndarray, "h w"], factor: float
) -> Int64[np.ndarray, "height width"]:
    rows, columns = (_weights(n, factor) for n in labels.shape)
    height, width = (_n_whole(n, factor) for n in labels.shape)
    marked = np.flatnonzero(labels)
    one_hot = sparse.csr_array(
        (np.ones(marked.size), (marked, labels.ravel()[marked])),
        shape=(labels.size, int(labels.max()) + 1),
    )
    nuclei = np.zeros((height, width), dtype=np.int64)
    for top in range(0, height, _STRIP):
        strip = nuclei[top : top + _STRIP]
        of_pixels = sparse.kron(rows[top : top + _STRIP], columns, "csr")
        share = sparse.coo_array(of_pixels @ one_hot)
        order = np.lexsort((share.col, share.data.round(9), share.row))
        # of each pixel the last one stays: that of the largest share
        strip.ravel()[share.row[order]] = share.col[order]
        covered = np.bincount(share.row, share.data, minlength=strip.size).astype(np.float64)
        strip[~_is_marked(covered.reshape(strip.shape))] = 0
    return nuclei


def _is_marked(covered: Float64[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Whether nuclei cover half of a pixel.

    Where it is exactly half, every other pixel counts as theirs: at a factor of 2 this is so
    frequent that areas would all be too large, or too small.
    """
    down, right = np.indices(covered.shape)
    half = 0.5 + _ROUNDING * np.where((down + right) % 2, 1, -1)
    return covered > half


def estimated_blur(pixels: UInt8[np.ndarray, "h w 3"]) -> float | None:
    """Standard deviation of the point spread, in pixels, estimated from the steepest edges.

    An edge of variance v, smoothed by s, has a slope in proportion to (v + s²)^-1/2. So the slopes
    g₁, g₂ after smoothing by 1 and 2 pixels give v = (4 - q) / (q - 1), q = (g₁ / g₂)². Smoothing
    by a pixel suppresses noise. None where there is no edge.
    """
    grey = pixels.mean(axis=2)
    slope, smoothed = (ndimage.gaussian_gradient_magnitude(grey, sigma) for sigma in (1.0, 2.0))
    edges = (slope >= np.quantile(slope, 1 - _EDGES)) & (smoothed > _ROUNDING)
    ratio = (slope[edges] / smoothed[edges]) ** 2
    if not ratio.size:
        return None
    q = np.median(ratio)
    return float(np.sqrt(max((4 - q) / (q - 1), 0.0))) if q > 1 else None


def spread(factor: float) -> float:
    """Variance that averaging adds to the point spread, in pixels of the patch.

    (1 - 1/f²) / 12 for whole f; more for others, because pixels are split.
    """
    weights = _weights(1000, factor).toarray()
    centres = (np.arange(len(weights)) + 0.5) * factor
    distance = np.arange(1000) + 0.5 - centres[:, None]
    return float((weights * distance**2).sum(axis=1).mean() / factor**2)


def _matched(native: Sequence[float | None], cutting: Cutting) -> Blur:
    known = [each for each in native if each is not None]
    if not known:
        raise DataError(
            "No training tile has an edge to estimate its blur from. Give --native-blur."
        )
    sigma = float(np.median(known))
    largest = max(sigma**2 / factor**2 + spread(factor) for factor in cutting.factors.values())
    return Blur(sigma, float(np.sqrt(BLUR_MARGIN * largest)))


def _blurred(
    image: Float64[np.ndarray, "h w c"], factor: float, blur: Blur
) -> Float64[np.ndarray, "h w c"]:
    """With a Gaussian that widens the point spread to the target."""
    missing = blur.target**2 - blur.native**2 / factor**2 - spread(factor)
    return ndimage.gaussian_filter(image, np.sqrt(missing), axes=(0, 1))


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """The number of patches by part and magnification, with totals (Table 1 of `graziani2021`).

    Raises:
        DataError: if a patch has no magnification.
    """
    parts = [part for part in PARTS if part in set(table["split"])]
    magnifications = sorted(table["magnification"].dropna().unique())
    found = pd.crosstab(table["split"], table["magnification"])
    cells = found.reindex(index=parts, columns=magnifications, fill_value=0)
    cells.columns = [f"{each:g}X" for each in magnifications]
    totals = table["split"].value_counts().reindex(parts)
    totals[TOTAL] = len(table)
    if (cells.sum(axis=1) != totals[parts]).any():
        raise DataError("Some patches have no magnification. Give each its own.")
    cells[TOTAL] = totals
    cells.loc[TOTAL] = cells.sum()
    cells.index.name, cells.columns.name = "split", None
    return cells


def read_patches(folder: str | Path) -> Patches:
    """The patches in a folder that `save_patches` wrote.

    Raises:
        DataError: if the folder holds none.
    """
    folder = Path(folder)
    try:
        table = pd.read_parquet(folder / "patches.parquet")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(folder)!r} holds no patches: patches.parquet cannot be read ({error}). Give a "
            "folder that `scalecut patches` wrote."
        ) from error
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataError(
            f"patches.parquet of {str(folder)!r} lacks the column {missing[0]!r}. Cut the patches "
            "again."
        )
    return Patches(table, folder)
