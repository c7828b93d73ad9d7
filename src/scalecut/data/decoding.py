"""An image file as pixels: upright, RGB, resized by Pillow. Errors are one line of text.

Most files are 8-bit grey or RGB, and Pillow decodes them. All others (more bits, bands, pages,
alpha) are read as arrays of stored values, TIFF by `tiff`, and a `Rendering` makes RGB of them.
What a file leaves open is refused, never guessed.

Shapes: h x w pixels, c channels.
"""

import io
import math
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
from jaxtyping import Shaped, UInt8
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
_FORMATS += ("AVIF",) if PIL.features.check("avif") else ()
LOSSLESS = {".png", ".tif", ".tiff", ".bmp", ".gif"}
JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}
PAGES = "pages"  # of which no more is known
DICOM, NIFTI = "DICOM", "NIfTI"
MEDICAL = {".dcm": DICOM, ".dicom": DICOM, ".nii": NIFTI, ".nii.gz": NIFTI}  # read by `medical`
HEIF = {".heic", ".heif"}
COMMON = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # taken without a reader
SUFFIXES = LOSSLESS | JPEG | {*MEDICAL} | HEIF | {".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"}
SUFFIXES |= {".jp2", ".j2k", ".jpf", ".jpx", ".dib", ".btf", ".tf2", ".tf8"}  # of formats above
EIGHT_BIT = JPEG | {".bmp", ".dib"}  # at most
# what files of other formats are, and what reads or converts them
# fmt: off
_SLIDE = "a whole slide; cut patches from it with scalecut patches --mpp"
_MICROSCOPE = "of a microscope; convert it to OME-TIFF with bioio or bfconvert of Bio-Formats"
_RAW = "raw of a camera; convert it to TIFF with rawpy"
_ARRAYS = "an array; save each image as TIFF with tifffile, or give scalecut.make_image_set arrays"
_VOLUME = "a volume; convert it to NIfTI with SimpleITK"
_ELECTRONS = "of an electron microscope; convert it to TIFF with rosettasciio and tifffile"
_VIDEO = "a video; save its frames as PNG with ffmpeg"
_OLDER = "of an older format; convert it to PNG with Pillow"
OTHERS = {
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".isyntax"), _SLIDE),
    **dict.fromkeys((".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".ims", ".lsm"), _MICROSCOPE),
    **dict.fromkeys((".oir", ".stk", ".dv", ".r3d", ".zvi", ".sld", ".flex"), _MICROSCOPE),
    ".qptiff": _SLIDE,
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf"), _RAW),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5", ".zarr", ".mat"), _ARRAYS),
    **dict.fromkeys((".mrc", ".rec", ".dm3", ".dm4", ".ser", ".emd"), _ELECTRONS),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".wmv", ".mpg"), _VIDEO),
    **dict.fromkeys((".tga", ".pcx", ".ico", ".sgi", ".dds"), _OLDER),
    **dict.fromkeys((".fits", ".fit", ".fts"), "FITS; save it as TIFF with astropy and tifffile"),
    **dict.fromkeys((".jxr", ".wdp"), "JPEG XR; convert it to TIFF with imagecodecs and tifffile"),
    ".jxl": "JPEG XL; convert it to PNG with pillow-jxl-plugin",
    ".mnc": "a volume; convert it to NIfTI with nibabel",
    ".xcf": "of GIMP; export it as PNG",
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".mgz", ".hdr", ".img"), _VOLUME),
    **dict.fromkeys((".heic", ".heif"), "HEIC; pip install pillow-heif, or convert it to PNG"),
    ".avif": "AVIF, which this Pillow was built without; pip install 'pillow>=11.3'",
    ".roi": "an ROI of ImageJ; make a mask of it (Edit, Selection, Create Mask), saved as TIFF",
    ".zip": "an archive; unpack it, or make a mask of its ROIs in ImageJ, saved as TIFF",
    ".xml": "an annotation, such as that of Aperio; open it in QuPath and export GeoJSON",
    ".psd": "of Photoshop; save it as PNG", ".pdf": "PDF; convert it to PNG with pdf2image",
    ".svg": "SVG; convert it to PNG with cairosvg", ".exr": "EXR; convert it to TIFF with imageio",
}
# fmt: on
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # EXIF orientation to the turn that undoes it
BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError),
    *(AttributeError, RuntimeError, MemoryError, struct.error, zlib.error),
    PIL.Image.DecompressionBombError,
)  # what Pillow, tifffile and imagecodecs raise on broken files
_OPTIONS = re.compile(r"; .*?--(page|slice|channels|intensity)\b.*?(?=\)\. |\.?$)")  # in advice
HEADERS = threading.RLock()  # held by whatever changes warnings, a setting of the whole process
# Values; of larger images, how many one byte may stand for: blank rows of CCITT take a bit each.
LARGE, MOST_COMPRESSED = 2**26, 300_000

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


class FileError(DataError):
    """A fault of one file, unlike a choice that its whole data set leaves open."""


class NeededError(DataError):
    """A choice or a package without which no such file can be read; reading stops."""


def without_options(reason: str) -> str:
    """A reason with advice that holds where no option chooses pages, channels or values."""
    instead = {"page": "save one page of it", "slice": "save one slice of it"}
    plain = "save it with 8 bits, grey or RGB"
    return _OPTIONS.sub(lambda found: f"; {instead.get(found[1], plain)}", reason)


def suffix_of(path: Path) -> str:
    """The suffix in lower case; `.nii.gz` is one."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The name without its suffix; UIDs, which DICOM files are named by, have none."""
    if form_of_name(path) is None:
        return path.name
    return path.name[: len(path.name) - len(suffix_of(path))]


def form_of_name(path: Path) -> str | None:
    """DICOM, NIfTI, or empty for other formats, by the suffix; None if there is none."""
    suffix = suffix_of(path)
    return None if suffix[1:].isdecimal() or not suffix else MEDICAL.get(suffix, "")


def form_of(file: Path | io.BytesIO) -> str:
    """DICOM, NIfTI, or empty for other formats."""
    if isinstance(file, Path):
        form = form_of_name(file)
        if form is not None:
            return form
        try:
            with file.open("rb") as stream:
                start = stream.read(132)
        except OSError as error:
            raise DataError(unreadable(error)) from error
        return DICOM if start[128:] == b"DICM" else ""
    start = file.getvalue()[:348]
    if start[128:132] == b"DICM":
        return DICOM
    return NIFTI if start[:2] == b"\x1f\x8b" or start[344:347] in (b"n+1", b"ni1") else ""


def is_image(path: Path, suffixes: Container[str] = SUFFIXES) -> bool:
    """Whether a file is an image by its suffix; DICOM files need none."""
    if form_of_name(path) is None and ".dcm" in suffixes:
        try:
            return form_of(path) == DICOM
        except DataError:  # a file of no interest, perhaps
            return False
    return suffix_of(path) in suffixes


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow without its warnings and without its own limit of size.

    Both are settings of the whole process, so threads that decode take turns here.
    """
    with HEADERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        most, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = most


@contextmanager
def opened(file: Path | io.BytesIO) -> Iterator[PIL.Image.Image]:
    """The file with its header read and checked; nothing is decoded yet."""
    suffix = suffix_of(file) if isinstance(file, Path) else ""
    formats = _with_heif() if suffix in HEIF else _FORMATS
    try:
        with quiet():
            stored = PIL.Image.open(file, formats=formats)
    except PIL.UnidentifiedImageError as error:
        if suffix in OTHERS:
            raise DataError(f"it is {OTHERS[suffix]}") from error
        raise DataError(_not_an_image(file)) from error
    except OSError as error:
        raise DataError(unreadable(error)) from error
    except BROKEN as error:
        raise DataError(f"its header is broken ({error}); copy the file again") from error
    with stored:
        if stored.width * stored.height > MOST_PIXELS:
            raise DataError(
                f"its header says {stored.width} x {stored.height} pixels, more than the "
                f"{MOST_PIXELS // 10**6} million that are decoded; scale it down or tile it"
            )
        has = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
        check_claim(stored.width * stored.height, has)
        yield stored


def check_claim(claimed: int, has: int) -> None:
    """Refuse a file too short for what its header says, before memory is taken for it."""
    if claimed > max(LARGE, MOST_COMPRESSED * has):
        raise FileError(
            f"its header says {claimed / 1e6:.0f} million values, and it has {has:,} bytes; copy "
            "the file again"
        )


def _not_an_image(file: Path | io.BytesIO) -> str:
    """What a file of no known format is, as far as its first bytes say."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            start = stream.read(64)
    else:
        start = file.getvalue()[:64]
    if not start:
        return "the file is empty; copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the image; run git lfs pull"
    return f"this is not an image that can be read; give one of {', '.join(_FORMATS)}"


def _with_heif() -> tuple[str, ...]:
    """The formats that Pillow reads, HEIF with the package pillow-heif, if it is installed."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _FORMATS
    register_heif_opener()
    return (*_FORMATS, "HEIF")


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
        with quiet():  # of the base class: that of PNG decodes the image
            found = PIL.Image.Image.getexif(stored).get(0x0112, 1)
    except BROKEN:
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def _least_size(stored: PIL.Image.Image, frame: Frame) -> tuple[int, int]:
    """The smallest stored size at which an image may be decoded for a frame."""
    is_turned = _orientation(stored) >= 5
    width, height = stored.size[::-1] if is_turned else stored.size
    left, top, right, bottom = frame.window(width, height)
    across = math.ceil(REDUCED * frame.width * width / (right - left))
    down = math.ceil(REDUCED * frame.height * height / (bottom - top))
    return (down, across) if is_turned else (across, down)


def decoded(stored: PIL.Image.Image) -> PIL.Image.Image:
    """The image with its pixels in memory, as they are stored."""
    try:
        # TIFF and GIF warn when they decode.
        with quiet() if stored.format in ("TIFF", "GIF") else nullcontext():
            stored.load()
    except BROKEN as error:
        raise FileError(f"it is truncated or broken ({error}); copy the file again") from error
    return stored


# --- what a file holds ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rendering:
    """How stored values become 8-bit RGB.

    Args:
        low, high: the values shown as black and as white; None leaves 8 bits as they are, and
            deeper values must then use the whole range of their type.
        channels: which are shown of one page, counted from 1: one as grey, or three as red, green
            and blue. Pages are channels if neither the file nor `page` says otherwise.
        page: of a file with several (pages, z-planes, frames), counted from 1.
        slice: of a volume: axis and index, counted from 0, such as 2:40.
        of: the type of values that black and white are of; empty for any. Others are refused.
        no_data: the value of pixels without data, which are black.
    """

    low: float | None = None
    high: float | None = None
    channels: tuple[int, ...] = ()
    page: int = 0
    slice: str = ""
    of: str = field(default="", repr=False)  # no part of keys: it changes no pixel
    no_data: float | None = field(default=None, repr=False)

    def key(self) -> str:
        """All that changes pixels, as text."""
        return repr(self) + (f" without {self.no_data}" if self.no_data is not None else "")


AS_STORED = Rendering()
PLAIN = Rendering(of="uint8")  # 8 bits as they are


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, by its header.

    Args:
        kind: name of numpy's type of the stored values.
        channels: of one page, without alpha.
        planes: names and numbers of what is stored one after the other, such as frames and
            z-planes; the last varies fastest.
        is_split: whether it has several channels that are no colours, as of a microscope.
        are_colours: whether three channels are declared as red, green and blue.
        is_white: whether the smallest value means white.
        form: DICOM or NIfTI; empty for what Pillow and tifffile read.
        window: of DICOM: the values that the file itself shows as black and white.
        spacing: mm per pixel, down and across.
        no_data: the value that the file declares for pixels without data.
        patient: of DICOM: the ID of the patient.
        is_oriented: of NIfTI: whether the file states where its axes point to.
    """

    kind: str
    channels: int
    has_alpha: bool
    size: tuple[int, int]  # width and height as stored
    planes: tuple[tuple[str, int], ...] = ()
    orientation: int = 1
    is_split: bool = False
    are_colours: bool = True
    is_white: bool = False
    is_first: bool = True  # in the file: others precede the full resolution of some pyramids
    form: str = ""
    window: tuple[float, float] | None = None
    spacing: tuple[float, float] | None = None
    no_data: float | None = None
    patient: str = ""
    is_oriented: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether its pixels mean one thing only: 8 bits, grey or RGB, one page, no alpha."""
        is_usual = self.kind in ("uint8", "bool") and self.channels in (1, 3) and not self.form
        is_clear = self.are_colours and not (self.has_alpha or self.is_split)
        return is_usual and is_clear and self.pages == 1 and self.is_first

    @property
    def pages(self) -> int:
        """How many pages there are, of all kinds."""
        return math.prod(n for _, n in self.planes)

    @property
    def may_be_channels(self) -> bool:
        """Whether nothing says what the pages are, so that they may be channels."""
        return self.channels == 1 and [name for name, _ in self.planes] == [PAGES]

    def counted(self) -> str:
        """The number of pages, in words."""
        if {name for name, _ in self.planes} == {PAGES}:
            return f"{' x '.join(str(n) for _, n in self.planes)} {PAGES}"
        return " x ".join(f"{n} {name}" for name, n in self.planes) or "1 page"


def contents(file: Path | io.BytesIO, asked: Rendering = AS_STORED) -> Contents:
    """What a file holds; only its header is read.

    Args:
        asked: slice and page of files with several.

    Raises:
        DataError: if it is not an image that can be read.
    """
    form = form_of(file)
    if form:
        from . import medical  # here, since few images are

        return medical.contents(file, form, asked.slice)
    if asked.slice:
        raise NeededError("--slice chooses from volumes of NIfTI, and this is none; omit --slice")
    from .tiff import tiff_contents  # here, since it needs this module

    found = tiff_contents(file, asked.page)
    if found is None:
        with opened(file) as stored:
            return _pillow_contents(stored)
    return found


def header(path: Path, asked: Rendering = AS_STORED) -> tuple[int, int, int]:
    """Width and height of the upright image, and its EXIF orientation.

    Args:
        asked: slice and page of files with several.
    """
    if asked.slice or form_of(path):
        return *contents(path, asked).size, 1
    from .tiff import tiff_contents

    tiff = tiff_contents(path, asked.page)
    if tiff is not None and not tiff.is_plain:
        width, height = tiff.size[::-1] if tiff.orientation >= 5 else tiff.size
        return width, height, tiff.orientation
    with opened(path) as stored:
        orientation = _orientation(stored)
        width, height = stored.size
        if stored.format == "TIFF":  # Pillow gives its upright size
            return width, height, tiff.orientation if tiff is not None else 1
    return (height, width, orientation) if orientation >= 5 else (width, height, orientation)


def _pillow_contents(stored: PIL.Image.Image) -> Contents:
    mode = stored.mode
    if mode == "LAB":
        raise DataError("its colours are in LAB; save it as RGB")
    is_16_bit = mode.startswith("I;16") or ";16" in _raw_mode(stored) or mode == "I"
    kind = "float32" if mode == "F" else "uint16" if is_16_bit else "uint8"
    bands = len([band for band in stored.getbands() if band.upper() != "A"])
    n_frames = getattr(stored, "n_frames", 1) if stored.format in ("GIF", "WEBP", "PNG") else 1
    return Contents(
        kind,
        3 if mode in ("P", "CMYK") or (bands == 3) else bands,
        stored.has_transparency_data,
        stored.size,
        planes_of({"frames": n_frames}),
        _orientation(stored),
    )


def _raw_mode(stored: PIL.Image.Image) -> str:
    """Pillow's name of how pixels are stored, such as `RGB;16B`."""
    tiles = getattr(stored, "tile", None) or [None]
    args = getattr(tiles[0], "args", "")
    return str(args[0] if isinstance(args, tuple) and args else args)


def planes_of(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Those of which there are several."""
    return tuple((name, n) for name, n in counts.items() if n > 1)


# --- from stored values to RGB -------------------------------------------------------------------


def rendered(
    file: Path | io.BytesIO, rendering: Rendering | None = None, frame: Frame | None = None
) -> PIL.Image.Image:
    """An image decoded to upright RGB.

    Transparent parts are blended with white; colour profiles are not applied.

    Args:
        rendering: how stored values become RGB; needed where the file leaves it open.
        frame: how it will be shown. A JPEG is decoded at a half, a quarter or an eighth of its
            size, which is faster, if that is still `REDUCED` times as large as needed.

    Raises:
        DataError: if it cannot be decoded, or its pixels could mean several things.
    """
    asked = rendering or AS_STORED
    found = contents(file, asked)
    if found.is_plain and asked in (AS_STORED, PLAIN):
        with opened(file) as stored:
            return upright_rgb(stored, frame)
    values, is_upright = all_values(file, found, asked)
    image = _in_colours(values, found, asked)
    if is_upright or found.orientation not in TURNS:
        return image
    return image.transpose(TURNS[found.orientation])


def rgb_of(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of Pillow as upright RGB; as `rendered`, for images in memory."""
    found = _pillow_contents(image)
    if found.is_plain:
        return upright_rgb(image)
    image_rgb = _in_colours(_values_of(image), found, AS_STORED)
    turn = TURNS.get(found.orientation)
    return image_rgb if turn is None else image_rgb.transpose(turn)


def _in_colours(values: np.ndarray, found: Contents, asked: Rendering) -> PIL.Image.Image:
    values, alpha = shown_values(values, found, asked)
    if asked.of not in ("", values.dtype.name):
        raise FileError(
            f"its values are {described(values.dtype)}, but {described(np.dtype(asked.of))} in the "
            "images that were examined; choose --intensity LOW,HIGH"
        )
    low, high = _range(values, asked)
    if found.is_white:
        low, high = high, low
    grey = np.rint((values.astype(np.float32) - low) * (255.0 / (high - low)))
    shown = np.clip(np.nan_to_num(grey), 0, 255).astype(np.uint8)
    if asked.no_data is not None:
        shown[without_data(values, asked.no_data)] = 0
    if shown.ndim == 2 or shown.shape[2] == 1:
        shown = np.stack([shown.reshape(shown.shape[:2])] * 3, axis=-1)
    image = PIL.Image.fromarray(shown)
    if alpha is not None:
        white = PIL.Image.new("RGB", image.size, "white")
        image = PIL.Image.composite(image, white, PIL.Image.fromarray(alpha))
    return image


def shown_values(
    values: Shaped[np.ndarray, "h w *c"], found: Contents, asked: Rendering
) -> tuple[Shaped[np.ndarray, "h w *k"], UInt8[np.ndarray, "h w"] | None]:
    """The values of the channels to be shown, and the opacity where it varies.

    Raises:
        DataError: if there are several bands and none is chosen, or alpha is implausible.
    """
    if np.issubdtype(values.dtype, np.complexfloating):
        raise FileError("its values are complex; save their magnitude")
    if np.issubdtype(values.dtype, np.floating):
        bad = ~np.isfinite(values)
        if found.no_data is not None:
            bad &= ~without_data(values, found.no_data)
        if bad.any():
            raise FileError("some of its values are not finite; replace or remove them")
    n = values.shape[2] if values.ndim == 3 else 1
    if asked.channels:
        if max(asked.channels) > n:
            has = f"{n} channels" if n > 1 else "1 channel"
            raise DataError(f"it has {has}, but --channels asks for {max(asked.channels)}")
        chosen = values if values.ndim == 3 else values[..., None]
        return chosen[..., [channel - 1 for channel in asked.channels]], None
    if not found.has_alpha:
        if n not in (1, 3) or found.is_split:
            three = ", or three, such as --channels 1,2,3" if n > 2 else ""
            raise DataError(
                f"it has {n} channels, which may be bands or stains as well as colours; choose one "
                f"with --channels 1 (to {n}){three}"
            )
        return values, None
    colours, alpha = values[..., :-1], values[..., -1]
    full = np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1
    if (alpha == full).all():
        return colours, None
    between = np.count_nonzero((alpha > 0) & (alpha < full)) / alpha.size
    if not (alpha == full).any() or between > MOST_BETWEEN:
        ones = ",".join(str(1 + i) for i in range(n - 1))
        raise DataError(
            f"its channel {n} is declared as opacity, but that is not plausible (values "
            f"{alpha.min():g} to {alpha.max():g}, {100 * between:.0f} % of pixels partly "
            f"transparent); --channels {ones} ignores it"
        )
    return colours, (alpha.astype(np.float32) * (255.0 / full)).astype(np.uint8)


def without_data(values: Shaped[np.ndarray, "h w *c"], no_data: float) -> np.ndarray:
    """Where values are the one that stands for no data."""
    return np.isnan(values) if math.isnan(no_data) else values == no_data


MOST_BETWEEN = 0.25  # share of partly transparent pixels: edges and shadows of cut-out objects


def all_values(
    file: Path | io.BytesIO, found: Contents, asked: Rendering
) -> tuple[Shaped[np.ndarray, "h w *c"], bool]:
    """The stored values of one page, channels last, and whether they are upright already.

    Pages are the channels if channels are chosen but no page, and the file does not say that they
    are something else.

    Raises:
        DataError: if the file has several pages and none is chosen, or cannot be decoded.
    """
    values, is_upright = _all_values(file, found, asked)
    if not values.size:
        raise FileError("it holds no pixels; copy the file again")
    return values, is_upright


def _all_values(
    file: Path | io.BytesIO, found: Contents, asked: Rendering
) -> tuple[Shaped[np.ndarray, "h w *c"], bool]:
    _check_page(found, asked)
    if found.form:
        from . import medical

        pages = [asked.page] if asked.page else range(1, found.pages + 1)
        return _joined([medical.values(file, found, asked, page) for page in pages]), True
    from .tiff import is_tiff, opened_tiff, plane, planes_in

    if not is_tiff(file):
        return _pillow_values(file, asked.page), False
    with opened_tiff(file) as tiff:
        if tiff is not None:
            planes = planes_in(tiff)
            wanted = planes if not asked.page else planes[asked.page - 1 : asked.page]
            if int(wanted[0][0].keyframe.photometric) not in (0, 1, 2):
                series, number = wanted[0]
                index = series.pages[number].index + 1 if found.pages > 1 else 0
                return _pillow_values(file, index), True
            try:
                return _joined([plane(series, number) for series, number in wanted]), False
            except DataError:
                raise
            except (ValueError, NotImplementedError) as error:
                if "imagecodecs" not in str(error) or found.pages > 1 or found.is_split:
                    reason = str(error).strip("<> ")
                    raise FileError(f"it cannot be decoded ({reason}); save it anew") from error
            except BROKEN as error:
                raise FileError(
                    f"it is truncated or broken ({error}); copy the file again"
                ) from error
    return _pillow_values(file, asked.page), True  # Pillow turns TIFF itself


def _check_page(found: Contents, asked: Rendering) -> None:
    """Refuse several pages of which none is chosen, and pages that are not there."""
    n, pages = found.channels, found.pages
    of_channels = f" of {n} channels" if found.is_split else ""
    if asked.page > pages:
        raise DataError(f"it has {found.counted()}{of_channels}, but --page asks for {asked.page}")
    if pages == 1 or asked.page or (asked.channels and found.may_be_channels):
        return
    last = found.planes[-1][0]
    order = f", {last if last != PAGES else 'those of the last axis'} first"
    order *= len(found.planes) > 1
    choice = f"choose one with --page 1 (to {pages}{order})"
    if of_channels and not asked.channels:
        such = "1,2,3" if n > 2 else "1"
        choice += f" and its channels with --channels, such as --page 1 --channels {such}"
    elif found.may_be_channels:
        choice += ", or three as colours, such as --channels 1,2,3" if pages > 2 else ""
    raise DataError(f"it has {found.counted()}{of_channels}; {choice}")


def _joined(planes: list[np.ndarray]) -> np.ndarray:
    if len(planes) == 1:
        return planes[0]
    if len({(plane.shape, plane.dtype) for plane in planes}) > 1:
        raise FileError("its pages differ in size or type, so they are no channels; give --page")
    return np.stack(planes, axis=-1)


def _pillow_values(file: Path | io.BytesIO, page: int) -> np.ndarray:
    """The values that Pillow stores; both bytes of 16-bit colours, of which it keeps the upper."""
    with opened(file) as stored:
        if page:
            stored.seek(page - 1)
        raw = _raw_mode(stored)
        if stored.mode in ("RGB", "RGBA") and ";16" in raw:
            if raw.startswith("LA"):
                raise DataError("it is 16-bit grey with alpha; save it without alpha")
            upper = np.asarray(decoded(stored)).astype(np.uint16)
            with opened(file) as again:
                parts = [_swapped(tile) for tile in getattr(again, "tile", [])]
                setattr(again, "tile", parts)  # noqa: B010 - of files only
                return upper << 8 | np.asarray(decoded(again))
        values = _values_of(stored)
    if stored.mode == "I" and stored.format in ("PNG", "PPM", "JPEG2000"):
        return values.astype(np.uint16)  # 16 bits that Pillow widens
    return values


def _values_of(stored: PIL.Image.Image) -> np.ndarray:
    """The values of an image of Pillow, palettes and the like as colours."""
    is_indexed = stored.mode in ("P", "PA", "CMYK", "YCbCr", "HSV", "La", "RGBa", "1")
    has_colour_key = stored.has_transparency_data and stored.mode not in ("RGBA", "LA")
    if is_indexed or has_colour_key:
        mode = "RGBA" if stored.has_transparency_data else "RGB"
        return np.asarray(decoded(stored).convert(mode))
    return np.asarray(decoded(stored))


def _swapped(tile: Any) -> Any:
    """The same part of the file, decoded to the lower byte of each value instead of the upper."""
    little = {"16L": "16B", "16B": "16L", "16N": "16B"}
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    name, _, order = str(args[0]).partition(";")
    changed = (f"{name};{little[order]}", *args[1:])
    return tile._replace(args=changed if isinstance(tile.args, tuple) else changed[0])


def _range(values: np.ndarray, asked: Rendering) -> tuple[float, float]:
    """The values shown as black and white."""
    if asked.low is not None and asked.high is not None:
        return asked.low, asked.high
    if values.dtype == np.bool_:
        return 0.0, 1.0
    if values.dtype == np.uint8:
        return 0.0, 255.0
    low, high = full_range(values.dtype)
    smallest, largest = float(values.min()), float(values.max())
    if values.dtype != np.uint16 or largest - smallest < (high - low) / 2:
        raise DataError(
            f"its {described(values.dtype)} values reach from {smallest:g} to {largest:g}, which "
            "does not say what is black and white; give --intensity LOW,HIGH, or read it with its "
            "data set"
        )
    return low, high


def full_range(kind: np.dtype) -> tuple[float, float]:
    """The smallest and largest value of an integer type; 0 and 1 for floats."""
    if np.issubdtype(kind, np.floating):
        return 0.0, 1.0
    limits = np.iinfo(kind)
    return float(limits.min), float(limits.max)


def described(kind: np.dtype) -> str:
    """A type of values in words: 16-bit, signed 16-bit, 32-bit float."""
    bits = f"{8 * kind.itemsize}-bit"
    return f"signed {bits}" if kind.kind == "i" else f"{bits} float" if kind.kind == "f" else bits


def upright_rgb(stored: PIL.Image.Image, frame: Frame | None = None) -> PIL.Image.Image:
    """The first page of an 8-bit image that Pillow opened, decoded to upright RGB.

    Args:
        frame: as in `rendered`.
    """
    if frame is not None:
        stored.draft(None, _least_size(stored, frame))
    orientation = _orientation(stored)  # before decoding, as the header is read
    image = decoded(stored).convert("RGB")
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image
