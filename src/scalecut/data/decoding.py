"""A file of a picture as pixels: upright, RGB, resized by Pillow; whatever is wrong, in one line.

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
from jaxtyping import Integer, UInt8
from PIL.Image import Resampling, Transpose

from ..errors import DataError
from .measures import Frame, nearest

MOST_PIXELS = 200_000_000  # the largest cameras of telephones; above lie slides (tiles!) and bombs
INTERPOLATIONS = {
    "nearest": Resampling.NEAREST,
    "bilinear": Resampling.BILINEAR,
    "bicubic": Resampling.BICUBIC,
    "lanczos": Resampling.LANCZOS,
}
MOST_COLOURS = 4096  # a coloured mask has fewer, a photograph more
# Formats that Pillow decodes itself: EPS, for one, it hands to another program.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
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

# With this room to spare R² moved by at most 0.002 at any layer, with none by 0.011 (docs/log.md).
REDUCED = 2.0


def fitted(
    picture: PIL.Image.Image,
    frame: Frame,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = (124, 116, 104),
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture as the network is shown it: the frame's window, resized by Pillow, antialiased.

    Args:
        fill: for `pad`, the colour (RGB) beyond the image; by default the mean of ImageNet.
    """
    if interpolation not in INTERPOLATIONS:
        offered = nearest(interpolation, INTERPOLATIONS)
        raise DataError(f"There is no interpolation {interpolation!r}. Choose one of {offered}.")
    resample, size = INTERPOLATIONS[interpolation], (frame.width, frame.height)
    if frame.fit != "pad":
        return np.array(picture.resize(size, resample, box=frame.window(*picture.size)))
    scale = min(frame.width / picture.width, frame.height / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = PIL.Image.new("RGB", size, fill)
    corner = (frame.width - inner[0]) // 2, (frame.height - inner[1]) // 2
    canvas.paste(picture.resize(inner, resample), corner)
    return np.array(canvas)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow without its warnings and its own limit of size.

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
    """The file with its header read and found sound; nothing is decoded yet."""
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
        with _quiet():  # of the base class: that of PNG decodes the picture
            found = PIL.Image.Image.getexif(stored).get(0x0112, 1)
    except _BROKEN:
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def _least_size(stored: PIL.Image.Image, frame: Frame) -> tuple[int, int]:
    """The size, as stored, below which a picture is not to be decoded for a frame."""
    is_turned = _orientation(stored) >= 5
    width, height = stored.size[::-1] if is_turned else stored.size
    left, top, right, bottom = frame.window(width, height)
    across = math.ceil(REDUCED * frame.width * width / (right - left))
    down = math.ceil(REDUCED * frame.height * height / (bottom - top))
    return (down, across) if is_turned else (across, down)


def header(path: Path) -> tuple[int, int, int]:
    """Width and height of the upright picture, and the orientation that made it upright."""
    with opened(path) as stored:
        orientation = _orientation(stored)
        width, height = stored.size
    return (height, width, orientation) if orientation >= 5 else (width, height, orientation)


def decoded(stored: PIL.Image.Image) -> PIL.Image.Image:
    """The same with its pixels in memory, as they are stored."""
    try:
        with _quiet() if stored.format in ("TIFF", "GIF") else nullcontext():  # these warn late
            stored.load()
    except _BROKEN as error:
        raise DataError(f"it is truncated or broken ({error}); copy the file again") from error
    return stored


def labels_of(file: Path) -> Integer[np.ndarray, "h w"]:
    """0 for the background, and 1, 2, ... for the values or colours of a mask."""
    try:
        with opened(file) as stored:
            values = np.asarray(decoded(stored))
    except DataError as error:
        raise DataError(f"its mask {file.name} cannot be used: {error}") from error
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] >= 3 else values[..., :1]  # without alpha
        values = values.astype(np.int64) @ (256 ** np.arange(values.shape[2]))
    found, labels = np.unique(values, return_inverse=True)
    if stored.mode != "I;16" and len(found) > MOST_COLOURS:
        raise DataError(
            f"its mask {file.name} has {len(found)} colours, as a photograph has; "
            "give one value or colour an object"
        )
    return labels.reshape(values.shape) + (found[0] != 0)


def upright_rgb(stored: PIL.Image.Image, frame: Frame | None = None) -> PIL.Image.Image:
    """The picture decoded, its first frame.

    Transparent parts lie on white; of 16 bits the upper 8 are kept; colour profiles are not
    applied.

    Args:
        frame: what it is to be shown in. A JPEG that is still `REDUCED` times as large as that
            needs is decoded at a half, a quarter or an eighth of its size, which is faster.
    """
    if frame is not None:
        stored.draft(None, _least_size(stored, frame))
    orientation = _orientation(stored)  # before decoding, as the header is read
    picture = _rgb(decoded(stored))
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode in ("F", "LAB"):
        raise DataError(
            f"its pixels are of Pillow's mode {picture.mode}, whose range is not known; "
            "save it with 8 or 16 bits a channel"
        )
    if picture.mode.startswith("I"):  # I;16 and its like, or 32 bits that hold 16
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(
                f"its pixels reach from {values.min()} to {values.max()}; "
                "save it with 8 or 16 bits a channel"
            )
        picture = PIL.Image.fromarray((values >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        white = PIL.Image.new("RGBA", picture.size, "white")
        picture = PIL.Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")
