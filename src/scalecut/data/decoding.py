"""An image file as pixels: upright, RGB, resized by Pillow. Errors are one line of text.

Shapes: h x w pixels.
"""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import UInt8
from PIL.Image import Resampling, Transpose

from ..errors import DataError, check_names
from .measures import Frame

MOST_PIXELS = 200_000_000  # the largest phone cameras; above are slides and decompression bombs
INTERPOLATIONS = {
    "nearest": Resampling.NEAREST,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
}
# Formats that Pillow decodes itself: it hands EPS, for example, to another program.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
SUFFIXES = {
    ".png",
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".jpg",
    ".jpeg",
    ".webp",
    ".ppm",
    ".pgm",
    ".jp2",
}
LOSSLESS = {".png", ".tif", ".tiff", ".bmp", ".gif"}  # losses of JPEG would change labels
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # EXIF orientation to the turn that undoes it
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError),
    *(struct.error, zlib.error, PIL.Image.DecompressionBombError),
)  # what Pillow raises on broken files
_HEADERS = threading.Lock()

# With this margin R² changed by at most 0.002 at any layer, without it by 0.011 (docs/log.md).
REDUCED = 2.0


def fitted(
    image: PIL.Image.Image,
    frame: Frame,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = (124, 116, 104),
) -> UInt8[np.ndarray, "height width 3"]:
    """The image as shown to the network: the frame's window, resized by Pillow, antialiased.

    Args:
        fill: for `pad`, the colour (RGB) outside the image; by default the mean of ImageNet.
    """
    check_names(interpolation, tuple(INTERPOLATIONS), "interpolation")
    resample, size = INTERPOLATIONS[interpolation], (frame.width, frame.height)
    if frame.fit != "pad":
        return np.array(image.resize(size, resample, box=frame.window(*image.size)))
    scale = min(frame.width / image.width, frame.height / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = PIL.Image.new("RGB", size, fill)
    corner = (frame.width - inner[0]) // 2, (frame.height - inner[1]) // 2
    canvas.paste(image.resize(inner, resample), corner)
    return np.array(canvas)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow without its warnings and without its own limit of size.

    Both are settings of the whole process, so threads that decode take turns here.
    """
    with _HEADERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        most, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = most


@contextmanager
def opened(file: Path | io.BytesIO) -> Iterator[PIL.Image.Image]:
    """The file with its header read and checked; nothing is decoded yet."""
    try:
        with _quiet():
            stored = PIL.Image.open(file, formats=_FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise DataError(
            f"this is not an image that can be read; give one of {', '.join(_FORMATS)}"
        ) from error
    except OSError as error:
        raise DataError(unreadable(error)) from error
    except _BROKEN as error:
        raise DataError(f"its header is broken ({error}); copy the file again") from error
    with stored:
        if stored.width * stored.height > MOST_PIXELS:
            raise DataError(
                f"its header says {stored.width} x {stored.height} pixels, more than the "
                f"{MOST_PIXELS // 10**6} million that are decoded; scale it down or tile it"
            )
        yield stored


def unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check its name and folder"
    if error.errno is None:  # Pillow's, of the content
        return f"it is truncated or broken ({error}); copy the file again"
    return f"the file cannot be read ({error.strerror or error}); check it and its permissions"


def _orientation(stored: PIL.Image.Image) -> int:
    """EXIF orientation still to be applied; an EXIF block that cannot be read counts as upright."""
    if stored.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        with _quiet():  # of the base class: that of PNG decodes the image
            found = PIL.Image.Image.getexif(stored).get(0x0112, 1)
    except _BROKEN:
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _least_size(stored: PIL.Image.Image, frame: Frame) -> tuple[int, int]:
    """The smallest stored size at which an image may be decoded for a frame."""
    is_turned = _orientation(stored) >= 5
    width, height = stored.size[::-1] if is_turned else stored.size
    left, top, right, bottom = frame.window(width, height)
    across = math.ceil(REDUCED * frame.width * width / (right - left))
    down = math.ceil(REDUCED * frame.height * height / (bottom - top))
    return (down, across) if is_turned else (across, down)


def header(path: Path) -> tuple[int, int, int]:
    """Width and height of the upright image, and its EXIF orientation."""
    with opened(path) as stored:
        orientation = _orientation(stored)
        width, height = stored.size
    return (height, width, orientation) if orientation >= 5 else (width, height, orientation)


def decoded(stored: PIL.Image.Image) -> PIL.Image.Image:
    """The image with its pixels in memory, as they are stored."""
    try:
        with (
            _quiet() if stored.format in ("TIFF", "GIF") else nullcontext()
        ):  # these warn when they decode
            stored.load()
    except _BROKEN as error:
        raise DataError(f"it is truncated or broken ({error}); copy the file again") from error
    return stored


def upright_rgb(stored: PIL.Image.Image, frame: Frame | None = None) -> PIL.Image.Image:
    """The first frame of an image, decoded to upright RGB.

    Transparent parts are blended with white; the upper 8 of 16 bits are kept; colour profiles are
    not applied.

    Args:
        frame: how it will be shown. A JPEG is decoded at a half, a quarter or an eighth of its
            size, which is faster, if that is still `REDUCED` times as large as needed.
    """
    if frame is not None:
        stored.draft(None, _least_size(stored, frame))
    orientation = _orientation(stored)  # before decoding, as the header is read
    image = _rgb(decoded(stored))
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode in ("F", "LAB"):
        raise DataError(
            f"its pixels are of Pillow's mode {image.mode}, whose range is not known; "
            "save it with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I"):  # I;16 and its like, or 32 bits that hold 16
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                f"its pixels reach from {values.min()} to {values.max()}; "
                "save it with 8 or 16 bits a channel"
            )
        image = PIL.Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
