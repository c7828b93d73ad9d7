"""Patches of tiles at several magnifications, with the sizes of their nuclei; and of slides.

Those of slides, at given µm per pixel, are cut by `sampling`; what follows is about tiles.

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
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from .. import cache, runs
from ..data.assumptions import Assumed, assume
from ..data.groups import joined
from ..data.images import Image, LeftOut, Progress, first_skipped, skip
from ..data.patches import AT_1X, FILE, NOMINAL, RESOLUTION, TOLERANCE, differ, read_table
from ..data.patches import checked as checked_table
from ..errors import DataError
from ..figures.text import duration
from .cutting import FOLDER, NATIVE, Blur, Cut, Cutting, Plan, blurred, matched, saved, sizes_of
from .resampling import (
    SMALLEST,
    areas_of_nuclei,
    estimated_blur,
    n_whole,
    resampled,
    resampled_nuclei,
)
from .resolution import checked, usual
from .sampling import COLUMNS as OF_PLACES
from .sampling import OF_SLIDES, Slide, after, before, blur_of, find_slides, sampled
from .tiles import PARTS, Tile, by_tile, find_tiles, read, read_split
from .tiles import split as split_tiles

Placed = TypeVar("Placed", Tile, Slide)
SPEC = "patches:"
TOTAL = "total"
DONE = "done"  # folder of what each tile gave, until all have
WORTH_SAYING = 30.0  # seconds of all tiles, from which they are stated after the first
_THREADS = 4
# fmt: off
COLUMNS = (
    "patch", "tile", "group", "split", "magnification", "x", "y", "n_nuclei", "mean_area_px",
    "median_area_px", "mean_area_um2", "um_per_pixel",
)
# fmt: on
NEEDED = COLUMNS[:5]  # of every patch; areas are those of nuclei that are marked


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches in a folder, one row each, and what was skipped."""

    table: pd.DataFrame  # the columns of COLUMNS; of slides, those of places and no x and y
    folder: Path  # that the names in the table are relative to
    left_out: tuple[LeftOut, ...] = ()  # patches without nuclei, by magnification
    skipped: tuple[LeftOut, ...] = ()  # magnifications at which tiles are smaller than a patch
    blur: Blur | None = None  # if it was matched
    stated: tuple[str, ...] = ()  # what masks and sizes of pixels were taken for, in sentences
    slides: pd.DataFrame = field(default_factory=pd.DataFrame)  # the columns of OF_SLIDES

    def to_frame(self) -> pd.DataFrame:
        """One row per patch, in the form of `patches.parquet`."""
        return self.table.copy()

    def counts(self) -> pd.DataFrame:
        """The number of patches by part and magnification."""
        return counts(self.table)


def save_patches(
    tiles: str | Path,
    masks: str | Path | None = None,
    out: str | Path = "patches",
    *,
    split: str | Path | None = None,
    leave_out: Sequence[str] = (),
    cutting: Cutting = Cutting(),
    strict: bool = False,
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Patches:
    """Cut patches of tissue from slides or tiles, and measure their nuclei if these are marked.

    Args:
        tiles: The folder of slides or tiles, or one of them: SVS, NDPI, MRXS, SCN, DICOM,
            pyramidal and OME TIFF (with the extra slides), or images.
        masks: The folder of masks of their nuclei: images of the same size, or GeoJSON of QuPath.
            Patches without a complete nucleus are then skipped. Not needed with --mpp.
        out: The folder to write; complete or absent. A stopped command continues where it was.
        split: A table with the columns image (file name or path below the folder) and split, and
            patient where names do not contain it; by default patients are drawn into train,
            validation and test, 60, 20 and 20 %.
        leave_out: Skip tiles whose name contains one of these.
        cutting: How patches are cut.
        strict: Stop at the first tile that would be skipped unasked, at rows of claims that name
            none, and at whatever is assumed.
        seed: random seed of the split, and of places on slides.
        command: as it was typed, or empty.
        progress: called with (stage, done, total).

    Raises:
        DataError: if no tile can be used, or a part of the split has no patches.
        OutputError: if `out` exists and holds no patches, or cannot be written.
    """
    out = Path(out)
    given = _Given(Path(split), Path(tiles), read_split(Path(split))) if split else None
    runs.check_place(out, "patches")
    if cutting.mpp:
        places = Path(tiles), Path(masks) if masks else None
        kept, skipped, said = find_slides(*places, cutting, leave_out, strict=strict)
        kept, copies = _of_patients(kept, [each.image for each in kept], given, skipped)
        said += [*copies, *before(kept, cutting)]
        parts = _parts_of_slides(kept, seed, given and given.of("split", kept, skipped), said)
    else:
        kept, skipped, said = _tiles_of(tiles, masks, cutting, leave_out, strict, given)
        parts = split_tiles(kept, seed=seed, given=given and given.of("split", kept, skipped))
    key = {"cutting": replace(cutting, claims=None, confirm=()), "parts": parts, "seed": seed}
    key |= {"version": runs.versions()["scalecut"]}
    with runs.continued(out, "patches", key, strict=strict) as folder:
        made = cut_patches(
            kept, parts, folder, cutting, seed=seed, strict=strict, progress=progress
        )
        named = set(made.table.patch)
        for path in (folder / FOLDER).iterdir():
            if f"{FOLDER}/{path.name}" not in named:  # of a slide before it was repaired
                path.unlink()
        left_out = (*skipped, *made.left_out)
        made = replace(made, folder=out, left_out=left_out, stated=(*said, *made.stated))
        made.table.to_parquet(folder / FILE, index=False)
        if len(made.slides):
            runs.write_table(made.slides, folder / "slides.csv")
        stated = {name: getattr(made, name) for name in ("blur", "left_out", "skipped", "stated")}
        counted = {"counts": json.loads(str(made.counts().to_json(orient="index")))}
        facts = runs.stamp("patches", command) | counted | stated
        runs.write_json(folder / runs.MARKS["patches"], facts)
    return made


@dataclass(frozen=True, slots=True)
class _Given:
    """The table that says the parts and patients of tiles.

    Args:
        place: the folder of tiles.
        table: as of `read_split`.
    """

    file: Path
    place: Path
    table: Mapping[str, Sequence[str]]

    def of(
        self, column: str, tiles: Sequence[Tile | Slide], skipped: Sequence[LeftOut]
    ) -> dict[str, str]:
        """The cells of a column, by the name of the tile."""
        names = [each.name for each in skipped]
        where = {"file": self.file, "place": self.place}
        return by_tile(self.table, column, {_path(t): t.name for t in tiles}, names, **where)


def _path(tile: Tile | Slide) -> str:
    """Its path below the folder, which its name is with suffix or without."""
    file = _file(tile)
    suffix = "" if file is None or tile.name.endswith(file.suffix) else file.suffix
    return tile.name + suffix


def _file(tile: Tile | Slide) -> Path | None:
    source = tile.image.source if isinstance(tile.image, Image) else tile.image
    return source if isinstance(source, Path) else None


def _key_of(tile: Tile | Slide, blur: Blur | None) -> str:
    """Names what the patches of a tile depend on, other than what is the same for all tiles."""
    files = runs.fingerprint([path for path in (_file(tile), tile.mask) if path])
    known = tile.name, tile.group, tile.um_per_pixel, getattr(tile, "source", ""), tile.stated
    rule = tile.rule.stated() if tile.rule else None
    return cache.setting_hash({"tile": runs.plain((known, rule, blur, files))})


def _tiles_of(
    tiles: str | Path,
    masks: str | Path | None,
    cutting: Cutting,
    leave_out: Sequence[str],
    strict: bool,
    given: _Given | None,
) -> tuple[list[Tile], tuple[LeftOut, ...], list[str]]:
    """Tiles with their masks, what is skipped, and what is assumed and stated."""
    if masks is None:
        raise DataError(
            "Patches without --masks need --mpp, the µm per pixel to show. Give --mpp 0.5,1,2 for "
            "slides and tiles, or --masks with masks of nuclei."
        )
    if cutting.um_per_pixel and differ(cutting.um_per_pixel * cutting.tiles_at, AT_1X, NOMINAL):
        shown = f"{usual(cutting.um_per_pixel):.3g}"
        raise DataError(
            f"--um-per-pixel {cutting.um_per_pixel:g} means about {shown}X, but --native "
            f"{cutting.tiles_at:g} about {AT_1X / cutting.tiles_at:.3g} µm. Give --native {shown}, "
            "or correct --um-per-pixel."
        )
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
    kept, copies = _of_patients(found, images, given, left_out)
    assumed: list[str] = []
    unknown = [tile for tile in kept if not any(each.is_usable for each in tile.stated)]
    if unknown and cutting.native is None and cutting.um_per_pixel is None:
        text = f"{len(unknown)} of {len(kept)} tiles state no resolution, and count as {NATIVE:g}X"
        text += f" (the first is {unknown[0].image.name})"
        assume(Assumed(text, f"--native {NATIVE:g}"), assumed, strict)
    said = [
        *(f"{each[0].upper()}{each[1:]}." for each in kept[0].said),
        *copies,
        *(f"{each}." for each in assumed),
        *checked(kept, cutting.tiles_at, cutting.um_per_pixel),
    ]
    return kept, left_out, said


def _of_patients(
    tiles: Sequence[Placed],
    images: Sequence[Image],
    given: _Given | None,
    skipped: Sequence[LeftOut],
) -> tuple[list[Placed], list[str]]:
    """Tiles or slides with their patients, which those of identical files share, as is stated."""
    patients = given.of("patient", tiles, skipped) if given else {}
    own = [patients.get(each.name) or each.group for each in tiles]
    groups, n_identical = joined(images, own)
    kept = [replace(each, group=group) for each, group in zip(tiles, groups, strict=True)]
    return kept, [f"{n_identical} tiles with identical copies share a part."] * bool(n_identical)


def _parts_of_slides(
    slides: Sequence[Slide], seed: int, given: Mapping[str, str] | None, said: list[str]
) -> dict[str, str]:
    """The part of each slide; all are for training where patients are too few to be split."""
    n = len({each.group for each in slides})
    if given is None and n < len(PARTS):
        said.append(
            f"{n} {'patient is' if n == 1 else 'patients are'} too few to be split: all are in "
            "train. A probe needs no split, a transfer does."
        )
        return {each.name: PARTS[0] for each in slides}
    return split_tiles(slides, seed=seed, given=given)


def cut_patches(
    tiles: Sequence[Tile | Slide],
    split: Mapping[str, str],
    folder: Path,
    cutting: Cutting = Cutting(),
    *,
    seed: int = 0,
    strict: bool = False,
    progress: Progress | None = None,
) -> Patches:
    """The patches of all tiles, written to `folder` as `patches/NAME.png`.

    Patches of tiles lie next to each other from the upper left corner on, or on a grid; those of
    slides around places on the tissue. Patches without nuclei are skipped where these are marked.
    Tiles that the folder says are done are not cut again.

    Raises:
        DataError: if a tile cannot be read, no slide can, or a part of the split has no patches; if
            `strict`, at the first slide that cannot be read.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    plan = Plan(folder, cutting, None, seed)
    done, left_out = list[_Done](), list[LeftOut]()
    with _workers() as pool:
        if cutting.match_blur:
            plan = replace(plan, blur=_blur(tiles, split, plan, pool))
        work = _each(
            tiles, lambda tile: _cut_of(tile, split[tile.name], plan), plan, pool, progress
        )
        for tile, made in zip(tiles, work, strict=True):
            done.append(made)
            if made.reason:
                skip(LeftOut(tile.name, made.reason), left_out, strict)
    cuts = [cut for each in done for cut in each.cuts]
    rows = [row for cut in cuts for row in cut.rows]
    if left_out and not rows:
        raise DataError(f"No patch can be cut. {first_skipped(left_out)}")
    columns = dict.fromkeys([*COLUMNS, *OF_PLACES])
    table = pd.DataFrame(rows, columns=[name for name in columns if not rows or name in rows[0]])
    there = {split[tile.name] for tile, each in zip(tiles, done, strict=True) if not each.reason}
    _check_parts(table, there, cutting.size)
    empty, skipped = _left_out(cuts)
    facts = [each.facts for each in done if each.facts]
    slides = pd.DataFrame(facts, columns=list(OF_SLIDES)) if facts else pd.DataFrame()
    stated = after(facts, list(table["um_per_pixel"]), cutting, strict=strict) if facts else []
    shutil.rmtree(folder / DONE)
    return Patches(
        table, folder, (*left_out, *empty), skipped, plan.blur, tuple(stated), slides=slides
    )


@dataclass(frozen=True, slots=True)
class _Done:
    """What one tile gave, or why it gave nothing; kept as JSON."""

    cuts: Sequence[Cut] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a slide
    reason: str = ""


def _cut_of(tile: Tile | Slide, part: str, plan: Plan) -> _Done:
    if isinstance(tile, Tile):
        return _Done(_cut(tile, part, plan))
    try:
        return _Done(*sampled(tile, part, plan))
    except DataError as error:
        return _Done(reason=str(error))


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that stop after the tile each has begun, if an error or Ctrl-C ends the block."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _each(
    tiles: Sequence[Tile | Slide],
    work: Callable[[Any], _Done],
    plan: Plan,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> Iterator[_Done]:
    """What each tile gives, in their order; what is in the folder is not done again.

    A tile that has changed since is: its files, what is known of it, or the blur to match.
    """
    folder = plan.folder

    def kept(number: int) -> _Done:
        file, key = folder / DONE / f"{number}.json", _key_of(tiles[number], plan.blur)
        if file.is_file():
            about = json.loads(file.read_text(encoding="utf-8"))
            if about.get("key") == key:
                return _Done([Cut(**cut) for cut in about["cuts"]], about["facts"])
        made = work(tiles[number])
        if not made.reason:  # else it is tried again
            with cache.written(file, runs.unwritable) as part:
                part.write_text(json.dumps(asdict(made) | {"key": key}), encoding="utf-8")
        return made

    there = (folder / DONE).glob("*.json") if (folder / DONE).is_dir() else ()
    left = len(tiles) - sum(1 for _ in there)
    note, started = getattr(progress, "note", None), time.perf_counter()
    for number, made in enumerate(pool.map(kept, range(len(tiles))), start=1):
        if progress:
            progress("patches", number, len(tiles))
        if note and left > _THREADS and number > len(tiles) - left:
            seconds = time.perf_counter() - started
            total = seconds * left / _THREADS
            if total > WORTH_SAYING:
                n = f"{left} tiles or slides, the first in {seconds:.1f} s"
                note(f"About {duration(total)}: {n}.")
            note = None
        yield made


def _blur(
    tiles: Sequence[Tile | Slide], split: Mapping[str, str], plan: Plan, pool: ThreadPoolExecutor
) -> Blur:
    """The blur that all patches get, by that of the training tiles.

    Raises:
        DataError: if it is not known, or all resolutions are finer than those of all slides.
    """
    cutting, given = plan.cutting, plan.cutting.native_blur
    train = [tile for tile in tiles if split[tile.name] == "train"]

    def of_tile(tile: Tile | Slide) -> float | None:
        return blur_of(tile, plan) if isinstance(tile, Slide) else estimated_blur(read(tile)[0])

    factors = list(cutting.factors.values())
    if cutting.mpp:
        every = [mpp / s.um_per_pixel for s in tiles if isinstance(s, Slide) for mpp in cutting.mpp]
        factors = [factor for factor in every if factor >= 1 / (1 + TOLERANCE)]
        if not factors:
            raise DataError(
                f"--mpp {','.join(f'{each:g}' for each in cutting.mpp)} is finer than the "
                f"{min(s.um_per_pixel for s in tiles if isinstance(s, Slide)):.4g} µm per pixel of "
                "the finest slide, so there is no blur to match. Add a coarser one to --mpp."
            )
    return matched([given] if given else [*pool.map(of_tile, train)], factors)


def _check_parts(table: pd.DataFrame, parts: Set[str], size: int) -> None:
    for part in PARTS:
        if part in parts and part not in set(table["split"]):
            raise DataError(
                f"No tile of {part} gives a patch of {size} px with a complete nucleus of "
                f"{SMALLEST} px. Give larger tiles, higher magnifications or smaller patches."
            )


def _left_out(cuts: Sequence[Cut]) -> tuple[tuple[LeftOut, ...], tuple[LeftOut, ...]]:
    """By magnification: patches without nuclei, and tiles that are too small or too coarse."""
    left_out: list[LeftOut] = []
    skipped: list[LeftOut] = []
    for at in dict.fromkeys(cut.at for cut in cuts):
        these = [cut for cut in cuts if cut.at == at]
        empty = sum(cut.n_empty for cut in these)
        there = empty + sum(len(cut.rows) for cut in these)
        if empty:
            reason = f"{empty} of {there} patches have no complete nucleus of {SMALLEST} px or more"
            left_out.append(LeftOut(at, reason))
        for reason in dict.fromkeys(cut.skipped for cut in these if cut.skipped):
            same = [cut for cut in these if cut.skipped == reason]
            text = f"{len(same)} of {len(these)} tiles {reason}, the first {same[0].example}"
            skipped.append(LeftOut(at, text))
    return tuple(left_out), tuple(skipped)


def _cut(tile: Tile, part: str, plan: Plan) -> list[Cut]:
    """The patches of a tile, written."""
    pixels, marks = read(tile)
    cutting = plan.cutting
    um_per_pixel = cutting.um_per_pixel or tile.um_per_pixel or np.nan
    cuts: list[Cut] = []
    for magnification, factor in cutting.factors.items():
        at = f"{magnification:g}X"
        height, width = (n_whole(n, factor) for n in marks.shape)
        if min(height, width) < cutting.size:
            reason = f"are smaller than a patch of {cutting.size} px there"
            cuts.append(Cut(at, skipped=reason, example=f"{tile.name} with {width} x {height} px"))
            continue
        shown, nuclei = resampled(pixels, factor), resampled_nuclei(marks, factor)
        if plan.blur:
            shown = blurred(shown, factor, plan.blur)
        rows: list[Mapping[str, object]] = []
        rest = height - cutting.size, width - cutting.size
        corners = list(product(*(_starts(each, cutting) for each in rest)))
        for y, x in corners:
            window = slice(y, y + cutting.size), slice(x, x + cutting.size)
            areas = areas_of_nuclei(nuclei[window])
            if areas.size:
                name = f"{tile.name}_{magnification:g}x_{x}_{y}"
                start = {"patch": saved(plan, name, shown[window]), "tile": tile.name}
                start |= {"group": tile.group, "split": part, "magnification": magnification}
                um = um_per_pixel * factor
                rows.append(start | {"x": x, "y": y} | sizes_of(areas, um) | {"um_per_pixel": um})
        cuts.append(Cut(at, rows, len(corners) - len(rows)))
    return cuts


def _starts(rest: int, cutting: Cutting) -> list[int]:
    """Where patches begin, down or across, if the last begins at `rest` or before."""
    if cutting.grid is None:
        return list(range(0, rest + 1, cutting.size))
    if cutting.grid == 1:
        return [rest // 2]
    places = np.linspace(0, rest, cutting.grid).round().astype(int)
    return list(dict.fromkeys(places.tolist()))


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """The number of patches by part and magnification, with totals (Table 1 of `graziani2021`).

    Raises:
        DataError: if a patch has no magnification.
    """
    parts = [part for part in PARTS if part in set(table["split"])]
    magnifications = sorted(table["magnification"].dropna().unique())
    found = pd.crosstab(table["split"], table["magnification"])
    cells = found.reindex(index=parts, columns=magnifications, fill_value=0)
    is_nominal = "place" not in table  # else they follow from µm per pixel
    cells.columns = [
        f"{each:g}X" if is_nominal else f"{AT_1X / each:g} µm" for each in magnifications
    ]
    totals = table["split"].value_counts().reindex(parts)
    totals[TOTAL] = len(table)
    if (cells.sum(axis=1) != totals[parts]).any():
        raise DataError("Some patches have no magnification. Give each its own.")
    cells[TOTAL] = totals
    cells.loc[TOTAL] = cells.sum()
    cells.index.name, cells.columns.name = "split", None
    return cells


def patches_of(
    data: str | Patches, needed: Sequence[str] = NEEDED, used: Sequence[str] = RESOLUTION
) -> Patches:
    """The patches that `patches:DIR` names, or given ones, checked (`data.patches.checked`).

    Args:
        needed: columns that have to be there.
        used: columns that count if they are there.

    Raises:
        DataError: if it names none, they lack a column, or contradict themselves.
    """
    if isinstance(data, Patches):
        return replace(data, table=checked_table(data.table, data.folder, needed, used))
    folder = data.removeprefix(SPEC)
    if folder == data or not folder:
        raise DataError(
            f"{data!r} does not name patches. Give patches:DIR, a folder that `scalecut patches` "
            "wrote."
        )
    return _read(Path(folder), needed, used)


def read_patches(folder: str | Path, needed: Sequence[str] = NEEDED) -> Patches:
    """The patches in a folder that `save_patches` wrote, or whose table is one's own.

    Where a magnification is needed and none is given, it is 10 / µm per pixel.

    Args:
        needed: columns that have to be there.

    Raises:
        DataError: if the folder holds none, they lack a column, or contradict themselves.
    """
    return _read(Path(folder), needed, RESOLUTION)


def _read(folder: Path, needed: Sequence[str], used: Sequence[str]) -> Patches:
    table = read_table(folder, needed, used)
    is_run = (folder / runs.MARKS["patches"]).is_file()  # a table of one's own has no facts
    blur = runs.read_run(folder, "patches").facts.get("blur") if is_run else None
    return Patches(table, folder, blur=Blur(**blur) if blur else None)
