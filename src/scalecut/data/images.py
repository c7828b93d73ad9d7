"""Images, and sets of them with a measure each.

A picture is decoded when it is asked for. Whatever is wrong with a file is said by DataError in one
line.

Shapes: n images, h x w pixels.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Bool, Float64, Integer, UInt8

from ..errors import DataError
from .decoding import header, opened, unreadable, upright_rgb
from .measures import Frame, nearest
from .storage import Stored, beside, is_address

MEAN = "mean"  # the subset that stands for the mean over all
Progress = Callable[[str, int, int], None]  # stage, how many are done, how many in all
ASKED_AT_ONCE = 16  # images, of a server that takes its time for each
QUEUED = 1024
LOSSLESS = {".png", ".tif", ".tiff", ".bmp", ".gif"}  # the losses of JPEG change labels
SUFFIXES = LOSSLESS | {".jpg", ".jpeg", ".webp", ".ppm", ".pgm", ".jp2"}


@dataclass(frozen=True, slots=True)
class Image:
    """One picture: a local file, one stored elsewhere or in an archive, or pixels in memory."""

    name: str
    source: Path | Stored | UInt8[np.ndarray, "h w 3"]

    def content(self) -> bytes:
        """What the picture depends on: the bytes of the file, or shape and pixels."""
        try:
            if isinstance(self.source, Stored):
                return self.source.read()
            if isinstance(self.source, Path):
                return self.source.read_bytes()
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error
        except OSError as error:
            raise DataError(f"{self.name}: {unreadable(error)}") from error
        return str(self.source.shape).encode() + self.source.tobytes()

    def key(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content()).hexdigest()

    def picture(self, frame: Frame | None = None) -> PIL.Image.Image:
        """The picture decoded: RGB, upright, its first frame; see `decoding.upright_rgb`."""
        source = self.source
        if not isinstance(source, Path | Stored):
            return PIL.Image.fromarray(source)
        try:
            file = io.BytesIO(source.read()) if isinstance(source, Stored) else source
            with opened(file) as stored:
                return upright_rgb(stored, frame)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error

    def place(self) -> str:
        """Where it lies: its absolute path or its address; nothing for pixels in memory."""
        if isinstance(self.source, Stored):
            return self.source.address()
        return str(self.source.absolute()) if isinstance(self.source, Path) else ""


def keys_of(images: Sequence[Image]) -> Iterator[str | DataError]:
    """The key of each image in turn, or why there is none; stored ones are asked for together."""
    if not any(isinstance(image.source, Stored) for image in images):
        yield from map(_key_or_error, images)
        return
    with ThreadPoolExecutor(ASKED_AT_ONCE) as workers:
        for start in range(0, len(images), QUEUED):  # what waits takes a kilobyte an image
            yield from workers.map(_key_or_error, images[start : start + QUEUED])


def _key_or_error(image: Image) -> str | DataError:
    try:
        return image.key()
    except DataError as error:
        return error


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image, or another thing, that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images and what is to be read from them, row by row."""

    images: tuple[Image, ...]
    measure: Float64[np.ndarray, " n"]
    measure_name: str
    subset: tuple[str, ...]  # the class of the object, or whatever the rows are told apart by
    group: tuple[str, ...]  # images that share one (slide, patient) stay on one side of a split
    boxes: Float64[np.ndarray, "n 4"] | None = None  # in pixels of the upright image
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Each subset once, in order of first appearance."""
        return tuple(dict.fromkeys(self.subset))

    def rows(
        self, which: Bool[np.ndarray, " n"] | Integer[np.ndarray, " k"] | Sequence[int]
    ) -> "ImageSet":
        """The chosen rows, by a mask or by their numbers; what was left out stays listed."""
        asked = np.asarray(which)
        places = np.arange(len(self))[asked if asked.dtype == bool else asked.astype(np.int64)]
        return ImageSet(
            images=tuple(self.images[place] for place in places),
            measure=self.measure[places],
            measure_name=self.measure_name,
            subset=tuple(self.subset[place] for place in places),
            group=tuple(self.group[place] for place in places),
            boxes=None if self.boxes is None else self.boxes[places],
            left_out=self.left_out,
        )


def make_image_set(
    images: Sequence[str | Path | PIL.Image.Image | np.ndarray],
    measure: Sequence[float] | np.ndarray,
    *,
    subset: str | Sequence[str] | None = None,
    group: Sequence[object] | None = None,
    measure_name: str = "measure",
) -> ImageSet:
    """A set from what is at hand in Python: files, PIL images or arrays, and a measure each.

    Args:
        measure: one finite number an image.
        subset: one name for all, or one an image; "images" by default.
        group: what images share that belong together; by default each file, or array, is its own.
    """
    n = len(images)
    subset = [subset or "images"] * n if subset is None or isinstance(subset, str) else subset
    for name, values in (("measure", measure), ("subset", subset), ("group", group)):
        if values is not None and len(values) != n:
            raise DataError(
                f"There are {n} images but {len(values)} values of {name}. Give one for each image."
            )
    numbers = np.asarray(measure, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise DataError(
            f"{bad.size} of {n} measures are not finite, the first at row {bad[0]}. "
            "Drop these images, or measure them."
        )
    entries = tuple(image_of(place, given) for place, given in enumerate(images))
    groups = [image.name for image in entries] if group is None else group
    return ImageSet(entries, numbers, measure_name, tuple(subset), tuple(map(str, groups)))


def image_of(place: int, given: Any) -> Image:
    """A file, a PIL image or an array (h, w, 3) or (h, w) of uint8 as an Image.

    Raises:
        DataError: if it is none of these.
    """
    name = str(given) if isinstance(given, str | Path) else f"image {place}"
    try:
        if isinstance(given, str | Path):
            header(Path(given))
            return Image(name, Path(given))
        if isinstance(given, PIL.Image.Image):
            return Image(name, np.array(upright_rgb(given)))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if not isinstance(given, np.ndarray):
        raise DataError(
            f"{name} is of the type {type(given).__name__}. Give a file, a PIL image or an array."
        )
    pixels = np.stack([given] * 3, axis=-1) if given.ndim == 2 else given
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DataError(
            f"{name} is an array of {given.dtype} and shape {given.shape}. "
            "Give uint8 of shape (height, width, 3), or (height, width) for grey."
        )
    return Image(name, pixels)


def read_table(
    file: Path | Stored,
    *,
    subsets: Sequence[str] = (),
    strict: bool = False,
    images_folder: Path | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """A set from a CSV file with the columns image, measure and, if wanted, group and subset.

    Args:
        file: the measure is used as it stands; paths start at the file's folder, and may be
            addresses (`s3://...`), which are not opened before they are needed.
        subsets: which to read; all by default. Without the column, all rows are of one subset,
            the file's name.
        strict: raise at the first image that would be left out.
        images_folder: where the paths start, if not at the file.
        progress: called with (stage, pictures opened, all).
    """
    columns = _columns(file)
    place = file.url if isinstance(file, Stored) else str(file)
    names, measure = columns["image"], np.array([float(cell) for cell in columns["measure"]])
    subset = columns.get("subset", [PurePath(place).stem] * len(names))
    group = columns.get("group", names)
    wanted = wanted_subsets(place, subsets, set(subset))
    kept: list[int] = []
    left_out: list[LeftOut] = []
    images = [Image(name, _source(name, place, images_folder)) for name in names]
    order = sorted(range(len(names)), key=lambda row: (subset[row], names[row]))
    for done, row in enumerate(order, start=1):
        if subset[row] in wanted:
            try:
                source = images[row].source
                if isinstance(source, Path):
                    header(source)
                kept.append(row)
            except DataError as error:
                leave(LeftOut(names[row], str(error)), left_out, strict)
        if progress:
            progress("listing", done, len(names))
    if not kept:
        raise DataError(f"None of the images of {place} can be used. {told(left_out)}")
    everything = ImageSet(tuple(images), measure, "measure", tuple(subset), tuple(group))
    return replace(everything.rows(kept), left_out=tuple(left_out))


def _source(name: str, table: str, images_folder: Path | None) -> Path | Stored:
    """Where a table's image is: by its name, or beside the table."""
    if is_address(name):
        return Stored(name)
    if is_address(table) and images_folder is None and not PurePath(name).is_absolute():
        return Stored(beside(table, name))
    return (images_folder or Path(table).parent) / name


def _columns(file: Path | Stored) -> dict[str, list[str]]:
    """The columns of a table as text, found to be complete."""
    place = file.url if isinstance(file, Stored) else str(file)
    try:
        content = io.BytesIO(file.read()) if isinstance(file, Stored) else file
    except DataError as error:
        raise DataError(f"{place}: {error}.") from error
    try:
        table = pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(
            f"{place} is no table ({' '.join(str(error).split())}). "
            "Give a CSV file with the columns image and measure."
        ) from error
    columns = {str(name): [str(cell) for cell in table[name]] for name in table.columns}
    missing = [name for name in ("image", "measure") if name not in columns]
    if missing or table.empty:
        raise DataError(
            f"{place} has {f'no column {missing[0]!r}' if missing else 'no rows'}; "
            f"its columns are {', '.join(map(repr, list(columns)[:8]))}. "
            "Give image and measure, and if you like group and subset."
        )
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the surplus for an index
        raise DataError(f"{place} has rows of more than {len(columns)} cells. Name every column.")
    for name in [name for name in ("image", "measure", "group", "subset") if name in columns]:
        rule = _is_number if name == "measure" else bool
        bad = [row for row, cell in enumerate(columns[name]) if not rule(cell)]
        if bad:
            raise DataError(
                f"{place}: {len(bad)} of {len(table)} rows have no usable {name}, the first at row "
                f"{bad[0] + 2} ({columns[name][bad[0]]!r}; the header is row 1). "
                "Mend or remove these rows."
            )
    return columns


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def wanted_subsets(place: str, asked: Sequence[str], there: Set[str]) -> frozenset[str]:
    """The subsets asked for, each of them there; all, if none is asked for."""
    for subset in asked:
        if subset not in there:
            raise DataError(
                f"{place} has no subset {subset!r}. "
                f"It has {len(there)}, the nearest first: {nearest(subset, there)}."
            )
    return frozenset(asked or there)


def leave(item: LeftOut, left_out: list[LeftOut], strict: bool) -> None:
    """Add to what is left out, or raise if nothing may be."""
    if strict:
        raise DataError(f"{item.name}: {item.reason} (strict, so nothing is left out).")
    left_out.append(item)


def told(left_out: Sequence[LeftOut]) -> str:
    """How many were left out, and the first of them."""
    first = left_out[0]
    return f"{len(left_out)} were left out, the first {first.name}: {first.reason}."


def evenly(n: int, most: int) -> list[int]:
    """At most so many of n numbers, spread over all of them."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def image_facts(image_set: ImageSet) -> dict[str, object]:
    """Numbers and a fingerprint: the hash of every image's content with its measure and subset."""
    digest = hashlib.sha256()
    keys = keys_of(image_set.images)
    rows = zip(keys, image_set.measure, image_set.subset, image_set.group, strict=True)
    for key, measure, subset, group in rows:
        if isinstance(key, DataError):
            raise key
        digest.update(f"{key} {measure!r} {subset} {group}\n".encode())
    names = np.array(image_set.subset)
    return {
        "n_images": len(image_set),
        "n_by_subset": {subset: int((names == subset).sum()) for subset in image_set.subsets},
        "measure": image_set.measure_name,
        "sha256": digest.hexdigest(),
    }
