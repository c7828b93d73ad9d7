"""What the stored values of a set of images mean: one range, channels and page for all.

Images of 8 bits, grey or RGB, mean what they are. For others, black and white are chosen once for
the whole set, so that relative brightness survives, and what was chosen is stated.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from ..errors import DataError
from .decoding import (
    DICOM,
    Contents,
    FileError,
    NeededError,
    Rendering,
    all_values,
    contents,
    described,
    form_of_name,
    full_range,
    shown_values,
)
from .storage import Stored

Image: TypeAlias = Any  # of `images`, which imports this module

INTENSITIES = ("auto", "full", "data", "percentiles", "window")
BITS = (8, 10, 12, 14, 16, 32)  # that cameras and scanners have
SAMPLED = 4096  # values of each image, for quantiles
LOOKED_AT = 64  # of many plain or stored images, for blank ones
TAILS = 0.0005  # of the values, at either end, that may be outliers
MOST_CONTRAST = 8.0  # range of all values over that without tails, at most
_UNKNOWN = Contents("", 0, False, (0, 0))  # of what cannot be read
_NEVER_PLAIN = (".png", ".tif", ".tiff", ".gif", ".webp", ".jp2", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class Settled:
    """How images of a set are shown, what was assumed, and which cannot be used.

    Args:
        stated: what follows from the files themselves, in sentences.
        spacing: mm per pixel, down and across, of files that state it, each value once.
    """

    renderings: Mapping[Image, Rendering]
    assumed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]  # names and reasons
    stated: tuple[str, ...] = ()
    spacing: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class _Seen:
    """Values of one type over all images that hold it."""

    low: float
    high: float
    samples: list[np.ndarray]
    first: str  # name of an image


def settled(images: Sequence[Image], asked: Rendering, intensity: str) -> Settled:
    """The rendering of each image that needs one.

    Args:
        asked: channels and page.
        intensity: auto, full, data, percentiles, window, or LOW,HIGH.

    Raises:
        DataError: if images could mean several things and no option chooses, or all are blank.
    """
    unique = list({image.source: image for image in images if _is_file(image)}.values())
    local = [image for image in unique if isinstance(image.source, Path)]
    stored = [image for image in unique if isinstance(image.source, Stored)]
    looked_at = {image.source for image in unique[:: 1 + len(unique) // LOOKED_AT]}
    is_asked = intensity != "auto" or asked != Rendering()
    odd: dict[Image, np.dtype] = {}
    seen: dict[np.dtype, _Seen] = {}
    blank: list[tuple[str, str]] = []
    unusable: list[tuple[str, str]] = []
    held: dict[Image, Contents] = {}
    n_checked = 0
    for image in [
        *local,
        *(image for image in stored if image.source in looked_at or intensity == "window"),
    ]:
        may_be_odd = (
            isinstance(image.source, Stored)
            or image.source.suffix.lower() in _NEVER_PLAIN
            or form_of_name(image.source) != ""
        )
        if not (may_be_odd or is_asked or image.source in looked_at):
            continue
        try:
            kind, values, found = _values(image, asked, is_asked, image.source in looked_at)
        except FileError as error:
            unusable.append((image.name, str(error)))
            continue
        if values is None:
            continue
        n_checked += 1
        low, high = float(values.min()), float(values.max())
        if low == high:
            blank.append((image.name, f"it is blank: every value is {low:g}"))
        if kind is None:
            continue
        odd[image], held[image] = kind, found
        own = seen.setdefault(kind, _Seen(low, high, [], image.name))
        own.low, own.high = min(own.low, low), max(own.high, high)
        own.samples.append(values.ravel()[:: 1 + values.size // SAMPLED])
    if blank and len(blank) == n_checked:
        raise DataError(
            f"All {n_checked} images that were examined are blank, the first is {blank[0][0]} "
            f"({blank[0][1].partition(': ')[2]}). Check the files, their bands and their alpha."
        )
    windows, one = _windows(held, intensity, unusable)
    otherwise = "data" if intensity == "window" else intensity
    ranges = {
        kind: one if one and kind == np.float32 else _chosen(kind, own, otherwise)
        for kind, own in seen.items()
    }
    renderings = {
        image: asked
        if kind == np.uint8 and ranges[kind] == (0.0, 255.0)
        else replace(asked, low=ranges[kind][0], high=ranges[kind][1])
        for image, kind in odd.items()
    }
    renderings |= {
        image: replace(asked, low=low, high=high) for image, (low, high) in windows.items()
    }
    if stored and ranges:  # what was not examined is as what was
        low, high = next(iter(ranges.values()))
        for image in stored:
            renderings.setdefault(image, replace(asked, low=low, high=high))
    assumed = tuple(
        f"{described(kind)} values are shown from {low:g} (black) to {high:g} (white), "
        + ("the window of all files, " if one and kind == np.float32 else "")
        + f"as --intensity {low:g},{high:g} would"
        for kind, (low, high) in ranges.items()
        if kind not in (np.uint8, np.bool_) and intensity == "auto"
    )
    n_white = sum(found.is_white for found in held.values() if found.form == DICOM)
    stated = (f"{n_white} images are MONOCHROME1, and are inverted",) if n_white else ()
    spacing = tuple(sorted({found.spacing for found in held.values() if found.spacing}))
    return Settled(renderings, assumed, (*unusable, *blank), stated, spacing)


def _windows(
    held: Mapping[Image, Contents], intensity: str, unusable: list[tuple[str, str]]
) -> tuple[dict[Image, tuple[float, float]], tuple[float, float] | None]:
    """The windows of grey DICOM files: each its own if asked, else the one that all state.

    Raises:
        DataError: if files state different windows, and nothing chooses.
    """
    if intensity not in ("auto", "window"):
        return {}, None
    grey = {
        image: found.window for image, found in held.items() if found.kind not in ("uint8", "bool")
    }
    if intensity == "window":
        reason = "it states no window; choose --intensity percentiles or LOW,HIGH"
        unusable += [(image.name, reason) for image, window in grey.items() if window is None]
        return {image: window for image, window in grey.items() if window is not None}, None
    different = dict.fromkeys(grey.values())
    if len(different) > 1:
        shown = [
            "none" if window is None else f"{window[0]:g} to {window[1]:g}"
            for window in list(different)[:3]
        ]
        raise DataError(
            f"The {len(grey)} images state {len(different)} windows ({', '.join(shown)}), so equal "
            "values could be shown differently. Choose --intensity window (each its own), data, "
            "percentiles, or LOW,HIGH."
        )
    return {}, next(iter(different), None)


def _is_file(image: Image) -> bool:
    return isinstance(image.source, Path | Stored)


def _values(
    image: Image, asked: Rendering, is_asked: bool, is_looked_at: bool
) -> tuple[np.dtype | None, np.ndarray | None, Contents]:
    """The values that are shown of an image; their type, unless the image is plain.

    A plain file that is broken is skipped only when it is used.
    """
    source = image.source
    try:
        file = io.BytesIO(source.read()) if isinstance(source, Stored) else cast(Path, source)
        found = contents(file, asked.slice)
        is_plain = found.is_plain and not is_asked
        if is_plain:
            return None, np.asarray(image.decode()) if is_looked_at else None, found
    except NeededError as error:
        raise DataError(f"{image.name}: {error}.") from error
    except DataError:
        return None, None, _UNKNOWN
    try:
        values, _ = all_values(file, found, asked)
        shown, _ = shown_values(values, found, asked)
    except FileError:
        raise
    except DataError as error:
        raise DataError(f"{image.name}: {error}.") from error
    return shown.dtype, shown, found


def _chosen(kind: np.dtype, seen: _Seen, intensity: str) -> tuple[float, float]:
    """The values shown as black and white."""
    if "," in intensity:
        low, _, high = intensity.partition(",")
        return float(low), float(high)
    if kind == np.bool_:
        return 0.0, 1.0
    if intensity == "full" or (kind == np.uint8 and intensity == "auto"):
        return full_range(kind)
    if seen.low == seen.high:
        return seen.low, seen.low + 1
    if intensity == "data":
        return seen.low, seen.high
    low, high = (float(q) for q in np.quantile(np.concatenate(seen.samples), [TAILS, 1 - TAILS]))
    if intensity == "percentiles":
        return (low, high) if low < high else (seen.low, seen.high)
    return range_in_use(kind, (seen.low, seen.high), (low, high), seen.first)


def range_in_use(
    kind: np.dtype, reached: tuple[float, float], usual: tuple[float, float], first: str = ""
) -> tuple[float, float]:
    """The range that values of a set use: that of their bits if they fill half of it, else theirs.

    Args:
        reached: the smallest and the largest value.
        usual: the same without outliers.

    Raises:
        DataError: if outliers would leave little contrast.
    """
    low, high = reached
    top = 1.0 if high <= 1 else 255.0
    if kind.kind == "u":
        top = 2.0 ** next(bits for bits in BITS if high < 2**bits) - 1
    is_usual = kind.kind in "uf" and low >= 0 and high <= top and high - low >= top / 2
    shown = (0.0, top) if is_usual else (low, high)
    if shown[1] - shown[0] > MOST_CONTRAST * (usual[1] - usual[0]):
        raise DataError(
            f"{described(kind)} values reach from {low:g} to {high:g}, but all except "
            f"{200 * TAILS:g} % lie between {usual[0]:g} and {usual[1]:g} (the first image is "
            f"{first}). Choose --intensity data, percentiles, full, or LOW,HIGH."
        )
    return shown


def check_intensity(text: str) -> None:
    """Check the option --intensity.

    Raises:
        DataError: if it is neither a name nor two numbers, the smaller first.
    """
    if text in INTENSITIES:
        return
    try:
        low, high = map(float, text.split(","))
        is_range = low < high
    except ValueError:
        is_range = False
    if not is_range:
        raise DataError(
            f"--intensity must be one of {', '.join(INTENSITIES)}, or LOW,HIGH such as 0,4095, "
            f"got {text!r}."
        )
