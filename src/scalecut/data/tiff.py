"""TIFF by tifffile: what a file holds, and the stored values of one page.

Shapes: h x w pixels, c channels.
"""

import io
import logging
import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .decoding import (
    BROKEN,
    HEADERS,
    MOST_PIXELS,
    PAGES,
    TURNS,
    Contents,
    FileError,
    check_claim,
    unreadable,
)

GDAL_NODATA = 42113  # tag of TIFF
IN_PAGE = "CSYX"  # axes of TIFF that are no pages: channels, samples, down and across
_AXES = {"Z": "z-planes", "T": "frames"}
MOST_PAGES = 10**6  # of a TIFF; lists that lead in a circle have more
_SINGLE = ("imagewidth", "imagelength", "photometric", "samplesperpixel", "subfiletype")


_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_contents(file: Path | io.BytesIO, number: int = 0) -> Contents | None:
    """What a TIFF holds; None for other formats, and for what only Pillow can read.

    Args:
        number: of the page that is meant, as they can differ in size.

    Raises:
        DataError: if it is too large, or its colours cannot be read.
    """
    if not is_tiff(file):
        return None
    with opened_tiff(file) as tiff:
        if tiff is None:
            return None
        every = planes_in(tiff)
        series, _ = every[number - 1 if 0 < number <= len(every) else 0]
        page, planes = series.keyframe, _named(series, len(every))
        size = width, height = page.imagewidth, page.imagelength
        if int(page.photometric) not in (0, 1, 2):  # by Pillow: palette, CMYK, YCbCr, LAB
            if page.dtype is not None and page.dtype.itemsize > 1:
                name = getattr(page.photometric, "name", page.photometric)
                raise FileError(f"its colours are {name}; save it as RGB")
            return None if not planes else Contents("uint8", 3, False, size, planes)
        samples = page.samplesperpixel
        if width * height * max(1, samples / 4) > MOST_PIXELS:
            of_each = f" of {samples} values" if samples > 4 else ""
            raise DataError(
                f"its header says {width} x {height} pixels{of_each}, more than the "
                f"{MOST_PIXELS // 10**6} million that are decoded; scale it down or tile it"
            )
        check_claim(series.size, tiff.filehandle.size)
        n = math.prod(k for axis, k in zip(series.axes, series.shape, strict=True) if axis in "CS")
        has_colours = int(page.photometric) == 2 and n == samples
        alpha = [i for i, each in enumerate(page.extrasamples) if int(each) in (1, 2)]
        is_fourth = n in (2, 4) and n == samples and len(page.extrasamples) == 1
        has_alpha = bool(alpha) and is_fourth
        tag = page.tags.get(0x0112)
        return Contents(
            "bool" if page.bitspersample == 1 else np.dtype(page.dtype).name,
            n - has_alpha,
            has_alpha,
            size,
            planes,
            tag.value if tag is not None and tag.value in TURNS else 1,
            is_split=n > 1 and "C" in series.axes and not has_colours,
            are_colours=has_colours or n != 3,
            is_white=int(page.photometric) == 0,
            is_first=page.index == 0,
            no_data=_no_data(page),
        )


def _no_data(page: Any) -> float | None:
    """The value of pixels without data that a TIFF of GDAL declares."""
    tag = page.tags.get(GDAL_NODATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def is_tiff(file: Path | io.BytesIO) -> bool:
    try:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                return stream.read(4) in _STARTS
        return file.getvalue()[:4] in _STARTS
    except OSError as error:
        raise DataError(unreadable(error)) from error


@contextmanager
def opened_tiff(file: Path | io.BytesIO) -> Iterator[Any]:
    """The file opened by tifffile; None if it cannot be.

    Raises:
        DataError: if its list of pages has no end.
    """
    import tifffile  # here, since few images are TIFF

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        with HEADERS:
            tiff = tifffile.TiffFile(file)
    except BROKEN:
        yield None
        return
    with tiff:
        if _is_endless(tiff):
            raise FileError(
                f"its list of pages leads in a circle, or has over {MOST_PAGES:,}; save it again"
            )
        try:
            for each in tiff.series:
                _ = [int(getattr(each.keyframe, name)) for name in _SINGLE]
            sides = [operator.index(n) for each in tiff.series for n in each.shape]
            is_usable = min(sides, default=0) > 0 and tiff.pages.first.imagewidth > 0
        except BROKEN:
            is_usable = False
        yield tiff if is_usable else None


def _is_endless(tiff: Any) -> bool:
    """Whether each page of a TIFF leads to another one, as tifffile sees only at the hundredth."""
    try:
        tiff.pages.get(MOST_PAGES)
    except IndexError:
        return False
    except BROKEN:  # of the page, which is there
        return True
    return True


def planes_in(tiff: Any) -> list[tuple[Any, int]]:
    """Each page of a TIFF, as series and number in it; copies at lower resolution do not count."""
    full = [series for series in tiff.series if not int(series.keyframe.subfiletype) & 5]
    return [
        (series, number)
        for series in full or tiff.series[:1]
        for number in range(math.prod(n for _, n in _beyond(series)))
    ]


def _beyond(series: Any) -> list[tuple[str, int]]:
    """Axes of a series that are neither those of an image nor channels, and their lengths."""
    every = zip(series.axes, series.shape, strict=True)
    return [(axis, n) for axis, n in every if axis not in IN_PAGE]


def _named(series: Any, n: int) -> tuple[tuple[str, int], ...]:
    """What n pages of a TIFF are, as the file says of those of a series, if these are all."""
    own = _beyond(series)
    if math.prod(length for _, length in own) < n:
        return ((PAGES, n),)
    return tuple((_AXES.get(axis, PAGES), length) for axis, length in own if length > 1)


def plane(series: Any, number: int) -> np.ndarray:
    """One page of a TIFF series, channels last; other pages are not decoded if they need not be."""
    axes, shape = series.axes, series.shape
    place = np.unravel_index(number, [n for _, n in _beyond(series)])
    chosen = iter(int(each) for each in place)
    index = tuple(slice(None) if axis in IN_PAGE else next(chosen) for axis in axes)
    n_lead = len(axes) - len(series.keyframe.shape)
    if len(series.pages) > 1 and math.prod(shape[:n_lead]) == len(series.pages):
        wanted = np.arange(len(series.pages)).reshape(shape[:n_lead])[index[:n_lead]]
        pages = [series.pages[int(each)] for each in wanted.ravel()]
        if None in pages:
            raise FileError("a part of it is in another file, which is not there; copy that too")
        values = np.stack([page.asarray() for page in pages])
        values = values.reshape(wanted.shape + shape[n_lead:])
        values = values[(*[slice(None)] * wanted.ndim, *index[n_lead:])]
    else:
        values = series.asarray()[index]
    kept = [axis for axis in axes if axis in IN_PAGE]
    ends = [kept.index("Y"), kept.index("X")]
    values = np.moveaxis(values, ends, [0, 1])
    return values.reshape(*values.shape[:2], -1) if values.ndim > 2 else values
