"""Regions of tiles and of whole slides, at any resolution, and what slides state of it.

Slides are opened by OpenSlide, and by tiffslide where OpenSlide cannot open them, or does not see
the pyramid of an OME-TIFF (`pip install 'scalecut[slides]'`). Whoever reads a slide opens it and
closes it again, so that there are as many open slides as there are threads. A region is read from
the coarsest level that is as fine as asked for, and resampled once. A tile is an image in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import PIL.Image
from jaxtyping import Float64, UInt8
from PIL.Image import Resampling

from ..data.decoding import NeededError, header, suffix_of, without_options
from ..data.images import Image
from ..data.tiff import opened_tiff
from ..errors import DataError, first_line
from .resampling import resampled
from .resolution import Stated, of_slide

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
DICOM = (".dcm", ".dicom")
WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"  # the class of DICOM files of whole slides
TIFF = (".tif", ".tiff", ".tf2", ".tf8", ".btf")
LARGE = 6000  # pixels of the longer side of a TIFF, from which it is opened as a slide
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Corner: TypeAlias = tuple[int, int]  # left and top
_SUPPORT = 3.0  # of Pillow's widest filter, in pixels of the result
_AT_ONCE = 2**22  # pixels of a level that are in memory while a slide is reduced
_HEADER = 1024  # bytes of a DICOM file in which its class is stated
_READERS = ("openslide", "tiffslide")
_CLASSES = {"openslide": "OpenSlide", "tiffslide": "TiffSlide"}


@dataclass(frozen=True, slots=True, eq=False)
class TileField:
    """An image in memory; sizes and boxes are in its pixels."""

    pixels: PIL.Image.Image
    orientation: int = 1  # of EXIF, by which it was turned

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.size

    @property
    def scanned(self) -> tuple[Corner, tuple[int, int]]:
        """The corner, width and height of what was scanned; QuPath counts from there."""
        return (0, 0), self.size

    @property
    def n_levels(self) -> int:
        """The number of resolutions that are stored."""
        return 1

    def small(self, longest: int) -> PIL.Image.Image:
        """A copy of which the longer side has at most so many pixels."""
        copy = self.pixels.copy()
        copy.thumbnail((longest, longest), Resampling.BOX, reducing_gap=2.0)
        return copy

    def region(self, box: Box, side: int, resample: Resampling) -> PIL.Image.Image:
        """The pixels in a box, resampled to a square."""
        return self.pixels.resize((side, side), resample, box=box)

    def averaged(
        self, corner: Corner, factor: float, side: int
    ) -> Float64[np.ndarray, "side side 3"]:
        """Means over `factor` x `factor` pixels, `side` across and down from a corner on."""
        left, top = corner
        extent = ceil(side * factor)
        window = self.pixels.crop((left, top, left + extent, top + extent))
        return resampled(np.asarray(window), factor, side=side)

    def native(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels in a box, as they are stored."""
        left, top, right, bottom = map(int, box)
        return np.asarray(self.pixels.crop((left, top, right, bottom)))


@dataclass(frozen=True, slots=True, eq=False)
class SlideField:
    """A slide that is open, with the methods of `TileField`; in pixels of its finest level."""

    handle: Any  # of OpenSlide or TiffSlide, which have the same methods
    orientation: ClassVar[int] = 1  # pixels are as they are stored

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.handle.dimensions
        return int(width), int(height)

    @property
    def scanned(self) -> tuple[Corner, tuple[int, int]]:
        whole = {"x": 0, "y": 0, "width": self.size[0], "height": self.size[1]}
        stated = [self.handle.properties.get(f"openslide.bounds-{name}") for name in whole]
        left, top, width, height = map(int, whole.values() if None in stated else stated)
        return (left, top), (width, height)

    @property
    def n_levels(self) -> int:
        return int(self.handle.level_count)

    def small(self, longest: int) -> PIL.Image.Image:
        factor = max(self.size) / longest
        level = self.handle.get_best_level_for_downsample(max(factor, 1.0))
        width, height = self.handle.level_dimensions[level]
        if width * height <= _AT_ONCE:
            with _reading(self.handle):
                return self.handle.get_thumbnail((longest, longest)).convert("RGB")
        step = max(1, max(width, height) // longest)
        rows = step * max(1, _AT_ONCE // (width * step))
        small = PIL.Image.new("RGB", (ceil(width / step), ceil(height / step)))
        for top in range(0, height, rows):
            strip = self._read(level, (0, top), (width, min(rows, height - top)))
            small.paste(strip.reduce(step), (0, top // step))
        small.thumbnail((longest, longest), Resampling.BOX)
        return small

    def region(self, box: Box, side: int, resample: Resampling) -> PIL.Image.Image:
        factor = (box[2] - box[0]) / side
        level, scale = self._level(factor)
        margin = ceil(_SUPPORT * factor / scale)
        first = [max(0, int(box[k] / scale) - margin) for k in (0, 1)]  # whole pixels of the level
        ends = [int(box[k] / scale) + 1 + margin for k in (2, 3)]
        last = [
            min(end, n) for end, n in zip(ends, self.handle.level_dimensions[level], strict=True)
        ]
        found = self._read(level, (first[0], first[1]), (last[0] - first[0], last[1] - first[1]))
        # levels end before the pixels of the finest that do not fill one of theirs
        inside = tuple(min(box[k] / scale - first[k % 2], found.size[k % 2]) for k in range(4))
        return found.resize((side, side), resample, box=cast(Box, inside))

    def averaged(
        self, corner: Corner, factor: float, side: int
    ) -> Float64[np.ndarray, "side side 3"]:
        level, scale = self._level(factor)
        step, ends = factor / scale, self.handle.level_dimensions[level]
        first = int(corner[0] / scale), int(corner[1] / scale)
        offset = corner[0] / scale - first[0], corner[1] / scale - first[1]
        extent = [ceil(each + side * step - 1e-9) for each in offset]
        inside = [min(e, n - at) for e, n, at in zip(extent, ends, first, strict=True)]
        found = np.asarray(self._read(level, first, (inside[0], inside[1])))
        # levels end before the pixels of the finest that do not fill one of theirs
        lacking = [(0, e - n) for e, n in zip(extent, inside, strict=True)]
        return resampled(np.pad(found, (*lacking[::-1], (0, 0)), "edge"), step, offset, side)

    def _level(self, factor: float) -> tuple[int, float]:
        """The coarsest level that is fine enough, and how many pixels one of its pixels spans."""
        level = self.handle.get_best_level_for_downsample(max(factor, 1.0) * 1.01)
        scale = float(self.handle.level_downsamples[level])
        # levels end at whole pixels, so that the ratio of their sizes is not quite the factor
        is_whole = abs(scale / round(scale) - 1) * max(self.handle.level_dimensions[level]) < 1
        return level, float(round(scale)) if is_whole else scale

    def _read(self, level: int, first: Corner, extent: Corner) -> PIL.Image.Image:
        """Whole pixels of a level; those outside of what was scanned are white."""
        scale = float(self.handle.level_downsamples[level])
        # OpenSlide interpolates between pixels of the level, tiffslide takes the one before
        is_exact = type(self.handle).__module__.startswith("openslide")
        left, top = (round(at * scale) if is_exact else ceil(at * scale) for at in first)
        with _reading(self.handle):
            found = self.handle.read_region((left, top), level, extent)
        if found.mode != "RGBA":
            return found.convert("RGB")
        white = PIL.Image.new("RGB", found.size, "white")
        white.paste(found, mask=found.getchannel("A"))
        return white

    def native(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        left, top, right, bottom = map(int, box)
        return np.asarray(self._read(0, (left, top), (right - left, bottom - top)))


Field: TypeAlias = TileField | SlideField


def is_slide(path: Path) -> bool:
    """Whether a file is opened as a slide: by its suffix, as DICOM of one, or as a large TIFF."""
    suffix = suffix_of(path)
    if suffix in SLIDES:
        return True
    if suffix in DICOM:
        with path.open("rb") as file:
            return WHOLE_SLIDE in file.read(_HEADER)
    if suffix not in TIFF:
        return False
    with opened_tiff(path) as file:
        return file is not None and max(file.pages[0].shape[:2]) >= LARGE


@contextmanager
def opened_field(image: Image) -> Iterator[Field]:
    """The field of a tile, or of a slide while it is open.

    Raises:
        DataError: if it cannot be read.
    """
    path = image.source
    if not isinstance(path, Path) or not is_slide(path):
        try:
            pixels = image.decode()
            orientation = header(path)[2] if isinstance(path, Path) else 1
        except DataError as error:
            raise DataError(without_options(str(error))) from error
        yield TileField(pixels, orientation)
        return
    with _opened(path) as handle:
        yield SlideField(handle)


def stated_by_slide(path: Path) -> tuple[Stated, ...]:
    """What a slide states of its resolution, the most specific first."""
    with _opened(path) as handle:
        return of_slide(dict(handle.properties))


def series_of(path: Path) -> str:
    """The series of a slide in DICOM, whose levels are files of one folder; empty for others."""
    if suffix_of(path) not in DICOM or not is_slide(path):
        return ""
    with _opened(path) as handle:
        return str(handle.properties.get("dicom.SeriesInstanceUID", ""))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    installed = [name for name in _readers_of(path) if _is_installed(name)]
    if not installed:
        raise NeededError(
            f"{path.name} is a slide. To read it, run `pip install 'scalecut[slides]'`."
        )
    if suffix_of(path) in TIFF and (why := _not_in_colours(path, only_ome=True)):
        raise DataError(why)
    handle, reasons = None, []
    for name in installed:
        module: Any = import_module(name)
        try:
            if name == "tiffslide" and (why := _not_in_colours(path)):
                raise ValueError(why)
            handle = getattr(module, _CLASSES[name])(str(path))
            break
        except _errors_of(module) as error:
            reasons.append(first_line(error))
    else:
        raise DataError(f"it cannot be opened as a slide ({reasons[0]})")
    with handle:
        yield handle


@contextmanager
def _reading(handle: Any) -> Iterator[None]:
    """A region, whose level may be broken."""
    module = import_module(type(handle).__module__.partition(".")[0])
    try:
        yield
    except _errors_of(module) as error:
        raise DataError(f"a region cannot be read ({first_line(error)})") from error


def _readers_of(path: Path) -> tuple[str, ...]:
    """OpenSlide first; but it does not see levels that are stored below the first, as in OME."""
    if suffix_of(path) not in TIFF:
        return _READERS
    with opened_tiff(path) as file:
        has_levels_below = file is not None and bool(file.pages[0].subifds)
    return _READERS[::-1] if has_levels_below else _READERS


def _not_in_colours(path: Path, *, only_ome: bool = False) -> str:
    """Why a TIFF is no image in colours, as of fluorescence; empty if it is.

    Args:
        only_ome: whether other TIFF is not looked at, which readers may know better.
    """
    with opened_tiff(path) as file:
        if only_ome and (file is None or not file.is_ome):
            return ""
        if file is None:
            return "it is no TIFF"
        series = file.series[0]
        n_channels = dict(zip(series.axes, series.shape, strict=True)).get("S", 0)
        if series.axes == "YXS" and n_channels in (3, 4) and series.dtype == np.uint8:
            return ""
        return f"its axes are {series.axes} of {series.dtype}, not YXS of uint8, as of colours"


def _is_installed(name: str) -> bool:
    try:
        import_module(name)
    except (ImportError, OSError):  # without the library that it wraps
        return False
    return True


def _errors_of(module: Any) -> tuple[type[Exception], ...]:
    """What a reader raises where it cannot read."""
    own = (module.OpenSlideError,) if module.__name__ == "openslide" else ()
    return OSError, ValueError, LookupError, RuntimeError, *own
