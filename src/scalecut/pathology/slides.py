"""Regions of tiles and of whole slides, at any resolution, and what slides state of it.

Slides are opened by OpenSlide, or by tiffslide in its place (`pip install 'scalecut[slides]'`), one
at a time. A region is read from the coarsest level that is as fine as asked for, and resampled once
by Pillow. A tile is an image in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import PIL.Image
import tifffile
from jaxtyping import UInt8
from PIL.Image import Resampling

from ..data.decoding import NeededError, suffix_of
from ..data.images import Image
from ..errors import DataError, first_line
from .resolution import Stated, of_slide

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
LARGE = 6000  # pixels of the longer side of a TIFF, from which it is opened as a slide
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
_SUPPORT = 3.0  # of Pillow's widest filter, in pixels of the result
_READERS = ("openslide", "tiffslide")
_CLASSES = {"openslide": "OpenSlide", "tiffslide": "TiffSlide"}


@dataclass(frozen=True, slots=True, eq=False)
class TileField:
    """An image in memory; sizes and boxes are in its pixels."""

    pixels: PIL.Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.size

    def small(self, longest: int) -> PIL.Image.Image:
        """A copy of which the longer side has at most so many pixels."""
        copy = self.pixels.copy()
        copy.thumbnail((longest, longest), Resampling.BOX, reducing_gap=2.0)
        return copy

    def region(self, box: Box, side: int, resample: Resampling) -> PIL.Image.Image:
        """The pixels in a box, resampled to a square."""
        return self.pixels.resize((side, side), resample, box=box)

    def native(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels in a box, as they are stored."""
        left, top, right, bottom = map(int, box)
        return np.asarray(self.pixels.crop((left, top, right, bottom)))


@dataclass(frozen=True, slots=True, eq=False)
class SlideField:
    """A slide that is open, with the methods of `TileField`; in pixels of its finest level."""

    handle: Any  # of OpenSlide or TiffSlide, which have the same methods

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.handle.dimensions
        return int(width), int(height)

    def small(self, longest: int) -> PIL.Image.Image:
        return self.handle.get_thumbnail((longest, longest)).convert("RGB")

    def region(self, box: Box, side: int, resample: Resampling) -> PIL.Image.Image:
        factor = (box[2] - box[0]) / side
        level = self.handle.get_best_level_for_downsample(factor * 1.01)
        scale = float(self.handle.level_downsamples[level])
        margin = ceil(_SUPPORT * factor / scale)
        first = [max(0, int(box[k] / scale) - margin) for k in (0, 1)]  # whole pixels of the level
        ends = [int(box[k] / scale) + 1 + margin for k in (2, 3)]
        last = [
            min(end, n) for end, n in zip(ends, self.handle.level_dimensions[level], strict=True)
        ]
        extent = last[0] - first[0], last[1] - first[1]
        corner = round(first[0] * scale), round(first[1] * scale)
        found = self.handle.read_region(corner, level, extent)
        inside = tuple(box[k] / scale - first[k % 2] for k in range(4))
        white = PIL.Image.new("RGB", found.size, "white")
        white.paste(found, mask=found.getchannel("A") if found.mode == "RGBA" else None)
        return white.resize((side, side), resample, box=cast(Box, inside))

    def native(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        left, top, right, bottom = map(int, box)
        found = self.handle.read_region((left, top), 0, (right - left, bottom - top))
        return np.asarray(found.convert("RGB"))


Field: TypeAlias = TileField | SlideField


def is_slide(path: Path) -> bool:
    """Whether a file is opened as a slide: by its suffix, or as a TIFF that is large."""
    if suffix_of(path) in SLIDES:
        return True
    if suffix_of(path) not in (".tif", ".tiff"):
        return False
    try:
        with tifffile.TiffFile(path) as file:
            return max(file.pages[0].shape[:2]) >= LARGE
    except (OSError, ValueError, IndexError, tifffile.TiffFileError):
        return False


@contextmanager
def opened_field(image: Image) -> Iterator[Field]:
    """The field of a tile, or of a slide while it is open.

    Raises:
        DataError: if it cannot be read.
    """
    path = image.source
    if not isinstance(path, Path) or not is_slide(path):
        yield TileField(image.decode())
        return
    with _opened(path) as handle:
        yield SlideField(handle)


def stated_by_slide(path: Path) -> tuple[Stated, ...]:
    """What a slide states of its resolution, the most specific first."""
    with _opened(path) as handle:
        return of_slide(dict(handle.properties))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    name = next((name for name in _READERS if _is_installed(name)), None)
    if name is None:
        raise NeededError(
            f"{path.name} is a slide. To read it, run `pip install 'scalecut[slides]'`."
        )
    module: Any = import_module(name)
    try:
        handle = getattr(module, _CLASSES[name])(str(path))
    except (OSError, ValueError, KeyError, RuntimeError, *_errors_of(module)) as error:
        raise DataError(f"it cannot be opened as a slide ({first_line(error)})") from error
    try:
        with handle:
            yield handle
    except (OSError, IndexError, *_errors_of(module)) as error:  # where a level is broken
        raise DataError(f"a region cannot be read ({first_line(error)})") from error


def _is_installed(name: str) -> bool:
    try:
        import_module(name)
    except (ImportError, OSError):  # without the library that it wraps
        return False
    return True


def _errors_of(module: Any) -> tuple[type[Exception], ...]:
    """The error classes of a reader."""
    names = ("OpenSlideError", "OpenSlideUnsupportedFormatError", "TiffFileError")
    return tuple(getattr(module, name) for name in names if hasattr(module, name))
