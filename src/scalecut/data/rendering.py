"""What the stored values of a set of images mean: one range, channels and page for all.

Images of 8 bits, grey or RGB, mean what they are. For others, black and white are chosen once for
the whole set, so that relative brightness survives, and what was chosen is stated.
"""

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np

from ..errors import DataError
from .assumptions import Assumed
from .decoding import (
    AS_STORED,
    DICOM,
    EIGHT_BIT,
    Contents,
    FileError,
    NeededError,
    Rendering,
    all_values,
    contents,
    described,
    full_range,
    rendered,
    shown_values,
    without_data,
)
from .storage import Stored

File: TypeAlias = Path | Stored

INTENSITIES = ("auto", "full", "data", "percentiles", "window")
BITS = (8, 10, 12, 14, 16, 32, 64)  # that cameras and scanners have
SAMPLED = 4096  # values of each image, for quantiles
LOOKED_AT = 64  # of many images that are plain, or not on this machine
LEAST_GREYS = 8  # different values, besides one far from them, of an image that is no mask
TAILS = 0.0005  # of the values, at either end, that may be outliers
MOST_CONTRAST = 8.0  # range of all values over that without tails, at most


@dataclass(frozen=True, slots=True)
class Settled:
    """How images of a set are shown, what was assumed, and which cannot be used.

    Args:
        renderings: of the files that are not shown as they are stored.
        skipped: files that cannot be used, and the reasons.
        stated: what follows from the files themselves, in sentences.
        spacing: mm per pixel, down and across, of files that state it, each value once.
        patients: the patient of files that state it.
    """

    renderings: Mapping[File, Rendering]
    assumed: tuple[Assumed, ...]
    skipped: Mapping[File, str]
    stated: tuple[str, ...] = ()
    spacing: tuple[tuple[float, float], ...] = ()
    patients: Mapping[File, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a file holds.

    Args:
        kind: the type of the values that are shown.
        is_plain: whether it is shown as it is stored.
        reach: the smallest and the largest value; None if it was not decoded.
        sample: some of the values.
        is_blended: whether transparent pixels are shown on white.
        no_data: the value of pixels without data, if there are any.
    """

    found: Contents
    kind: np.dtype
    is_plain: bool
    reach: tuple[float, float] | None
    sample: np.ndarray
    is_blended: bool = False
    no_data: float | None = None


@dataclass(frozen=True, slots=True)
class _Examined:
    """Files that were opened, and those that cannot be used, with the reasons."""

    names: Mapping[File, str]
    asked: Rendering
    is_asked: bool
    few: frozenset[File]  # that are decoded, if they are plain
    every: bool  # whether these are all, and what is broken is unusable
    looks: dict[File, _Look]
    unusable: dict[File, str]

    def add(self, files: Iterable[File]) -> None:
        """Examine files.

        Raises:
            DataError: if one could mean several things and no option chooses.
        """
        for file in files:
            try:
                look = self._look(file)
            except FileError as error:
                self.unusable[file] = str(error)
                continue
            if look is not None:
                self.looks[file] = look

    def _look(self, file: File) -> _Look | None:
        """What a file holds; None for a plain one that is broken: it is skipped when it is used."""
        name = self.names[file]
        try:
            content = io.BytesIO(file.read()) if isinstance(file, Stored) else file
            found = self._contents(content)
            is_plain = found.is_plain and not self.is_asked
            if is_plain and file not in self.few:
                return _Look(found, np.dtype(np.uint8), True, None, np.empty(0))
            shown, alpha = np.asarray(rendered(content)) if is_plain else None, None
        except NeededError as error:
            raise DataError(f"{name}: {error}.") from error
        except FileError:
            raise
        except DataError as error:
            if self.every:
                raise FileError(str(error)) from error
            return None
        if shown is None:
            try:
                values, _ = all_values(content, found, self.asked)
                shown, alpha = shown_values(values, found, self.asked)
            except FileError:
                raise
            except DataError as error:
                raise DataError(f"{name}: {error}.") from error
        no_data = None if is_plain or shown.dtype == np.uint8 else found.no_data
        if no_data is not None:
            empty = without_data(shown, no_data)
            no_data = no_data if empty.any() else None
            shown = shown[~empty] if no_data is not None and not empty.all() else shown
        kind = np.dtype(shown.dtype.name)  # in the byte order of this machine
        reach = float(shown.min()), float(shown.max())
        sample = shown.ravel()[:: 1 + shown.size // SAMPLED]
        return _Look(found, kind, is_plain, reach, sample, alpha is not None, no_data)

    def _contents(self, content: File | io.BytesIO) -> Contents:
        """What a file holds; a local one that cannot be read is unusable, whatever is sampled."""
        file = cast(Path | io.BytesIO, content)
        try:
            return contents(file, self.asked)
        except NeededError:
            raise
        except DataError as error:
            if isinstance(file, Path):
                raise FileError(str(error)) from error
            raise


def settled(
    names: Mapping[File, str], asked: Rendering, intensity: str, *, every: bool = False
) -> Settled:
    """The rendering of each file that needs one.

    Every local file that can hold more than 8 bits is opened. Of those that are not on this machine
    a few are; if they are of one type, so are the others, otherwise all are opened.

    Args:
        names: of the files, for messages.
        asked: channels and page.
        intensity: auto, full, data, percentiles, window, or LOW,HIGH.
        every: whether all files are decoded.

    Raises:
        DataError: if images could mean several things and no option chooses, or all are blank.
    """
    is_asked = intensity != "auto" or asked != AS_STORED
    few = frozenset(list(names)[:: 1 if every else 1 + len(names) // LOOKED_AT])
    examined = _Examined(names, asked, is_asked, few, every, {}, {})
    examined.add(
        file
        for file in names
        if isinstance(file, Path) and (is_asked or file in few or _may_be_deep(file))
    )
    stored = [file for file in names if isinstance(file, Stored)]
    is_range = "," in intensity
    chosen = [file for file in stored if file in few or is_range or intensity == "window"]
    examined.add(chosen)
    looks = examined.looks
    kinds = {looks[file].kind for file in chosen if file in looks}
    rest = set(stored) - set(chosen)
    if len(kinds) > 1:
        examined.add(file for file in stored if file in rest)
        rest = set()
    blank = _blank(examined, has_rest=bool(rest))
    windows, one = _windows(examined, intensity)
    ranges = _ranges(examined, "data" if intensity == "window" else intensity, one)
    renderings = {
        file: replace(_within(asked, look.kind, ranges[look.kind]), no_data=look.no_data)
        for file, look in looks.items()
        if not look.is_plain
    }
    for file, (low, high) in windows.items():
        no_data = looks[file].no_data
        renderings[file] = replace(asked, low=low, high=high, no_data=no_data)
    given = asked
    for kind in kinds:  # one at most, if there is a rest
        given = replace(_within(asked, kind, ranges.get(kind, (0.0, 255.0))), of=kind.name)
    if given != AS_STORED:
        renderings |= dict.fromkeys(rest, given)
    assumed = [*_assumed(ranges, one), *_dim(examined, ranges)] if intensity == "auto" else []
    assumed += _blended(examined) + _undeclared(examined) + _not_oriented(examined)
    held = [look.found for look in looks.values() if not look.is_plain]
    spacing = tuple(sorted({found.spacing for found in held if found.spacing}))
    stated = [*_stated(held, windows.values(), spacing), *_without_data(looks.values())]
    plain = [look.kind for look in looks.values() if not _is_deep(look.kind)]
    if is_range and 0 < len(plain) < len(looks):
        stated.append(f"{len(plain)} images of 8 bits are shown as they are, others by --intensity")
    patients = {file: look.found.patient for file, look in looks.items() if look.found.patient}
    return Settled(
        renderings, (*assumed, *blank), examined.unusable, tuple(stated), spacing, patients
    )


def _without_data(looks: Collection[_Look]) -> list[str]:
    """What is stated of pixels without data."""
    values = [look.no_data for look in looks if look.no_data is not None]
    if not values:
        return []
    different = ", ".join(dict.fromkeys(f"{value:g}" for value in values))
    return [
        f"{len(values)} images have pixels without data ({different}, as they declare), which are "
        "black, and do not count for the range"
    ]


def _dim(examined: _Examined, ranges: Mapping[np.dtype, tuple[float, float]]) -> list[Assumed]:
    """What is assumed of images that use a small part of the range of all."""
    said = []
    for kind, (low, high) in ranges.items():
        own = {
            file: look.reach
            for file, look in examined.looks.items()
            if look.kind == kind and look.reach and not look.is_plain
        }
        dim = [file for file, reach in own.items() if reach[1] - low < (high - low) / MOST_CONTRAST]
        if dim:
            text = (
                f"{len(dim)} of {len(own)} images use less than an eighth of the range of all (the "
                f"first is {examined.names[dim[0]]}), and are shown as dark"
            )
            said.append(Assumed(text, f"--intensity={low:g},{high:g}"))
    return said


def _not_oriented(examined: _Examined) -> list[Assumed]:
    files = [file for file, look in examined.looks.items() if not look.found.is_oriented]
    if not files:
        return []
    text = (
        f"{len(files)} volumes do not state where their axes point to (the first is "
        f"{examined.names[files[0]]}), so slices are taken along the axes of their file"
    )
    return [Assumed(text, "orientation")]


def _stated(
    held: Sequence[Contents],
    windows: Collection[tuple[float, float]],
    spacing: Sequence[tuple[float, float]],
) -> tuple[str, ...]:
    """What follows from the files themselves, in sentences."""
    said = []
    if n_white := sum(found.is_white for found in held if found.form == DICOM):
        said.append(f"{n_white} images are MONOCHROME1, and are inverted")
    if windows:
        low, high = min(windows), max(windows)
        reach = " to ".join(dict.fromkeys(f"{a:g},{b:g}" for a, b in (low, high)))
        said.append(f"{len(windows)} images are shown by the window that each states ({reach})")
    if spacing:
        ends = dict.fromkeys(f"{y:.3g} x {x:.3g}" for y, x in (spacing[0], spacing[-1]))
        reach = " to ".join(ends)
        n = sum(found.spacing is not None for found in held)
        said.append(f"{n} images state the size of their pixels, {reach} mm (down x across)")
    return tuple(said)


def _assumed(
    ranges: Mapping[np.dtype, tuple[float, float]], window: tuple[float, float] | None
) -> list[Assumed]:
    return [
        Assumed(
            f"{described(kind)} values are shown from {low:g} (black) to {high:g} (white), "
            + ("the window of all files, " if window and kind == np.float32 else "")
            + f"as --intensity {low:g},{high:g} would",
            f"--intensity={low:g},{high:g}",
        )
        for kind, (low, high) in ranges.items()
        if _is_deep(kind)
    ]


def _blended(examined: _Examined) -> list[Assumed]:
    blended = [examined.names[file] for file, look in examined.looks.items() if look.is_blended]
    if not blended:
        return []
    text = (
        f"{len(blended)} of {len(examined.looks)} images that were examined have transparent "
        f"pixels (the first is {blended[0]}), which are shown on white"
    )
    return [Assumed(text, "transparent")]


def _undeclared(examined: _Examined) -> list[Assumed]:
    """What is assumed of three channels that are not declared as colours."""
    looks = {} if examined.asked.channels else examined.looks
    files = [file for file, look in looks.items() if not look.found.are_colours]
    if not files:
        return []
    text = (
        f"{len(files)} of {len(examined.looks)} images that were examined have three channels "
        f"without saying which colours (the first is {examined.names[files[0]]}), which are shown "
        "as red, green and blue"
    )
    return [Assumed(text, "--channels 1,2,3")]


def _may_be_deep(file: Path) -> bool:
    return file.suffix.lower() not in EIGHT_BIT


def _within(asked: Rendering, kind: np.dtype, shown: tuple[float, float]) -> Rendering:
    """The rendering of values of a type, from black to white."""
    if kind == np.uint8 and shown == (0.0, 255.0):
        return asked
    return replace(asked, low=shown[0], high=shown[1])


def _blank(examined: _Examined, *, has_rest: bool) -> list[Assumed]:
    """Make blank files unusable; only state those of a sample, so that no result depends on it.

    Args:
        has_rest: whether only some of the files were examined that are not on this machine.

    Raises:
        DataError: if all are blank.
    """
    reaches = {file: look.reach for file, look in examined.looks.items() if look.reach}
    values = {file: low for file, (low, high) in reaches.items() if low == high}
    names = [examined.names[file] for file in values]
    if names and len(names) == len(reaches):
        raise DataError(
            f"All {len(names)} images that were examined are blank, the first is {names[0]} "
            f"(every value is {next(iter(values.values())):g}). Check the files, their bands and "
            "their alpha."
        )
    is_sample = len(examined.few) < len(examined.names)
    used = []
    for file, value in values.items():
        is_plain = examined.looks[file].is_plain
        if (is_plain and is_sample) or (has_rest and isinstance(file, Stored)):
            used.append(examined.names[file])
        else:
            examined.unusable[file] = f"it is blank: every value is {value:g}"
    if not used:
        return []
    text = (
        f"{len(used)} of {len(reaches)} images that were examined are blank (the first is "
        f"{used[0]}), and are used like all others"
    )
    return [Assumed(text, "blank")]


def _windows(
    examined: _Examined, intensity: str
) -> tuple[dict[File, tuple[float, float]], tuple[float, float] | None]:
    """The windows of grey DICOM files: each its own if asked, else the one that all state.

    Raises:
        DataError: if files state different windows, and nothing chooses.
    """
    if intensity not in ("auto", "window"):
        return {}, None
    grey = {
        file: look.found.window
        for file, look in examined.looks.items()
        if not look.is_plain and look.found.kind not in ("uint8", "bool")
    }
    if intensity == "window":
        reason = "it states no window; choose --intensity percentiles or LOW,HIGH"
        examined.unusable.update((file, reason) for file, window in grey.items() if window is None)
        return {file: window for file, window in grey.items() if window is not None}, None
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


def _ranges(
    examined: _Examined, intensity: str, window: tuple[float, float] | None
) -> dict[np.dtype, tuple[float, float]]:
    """The values shown as black and white, of each type of values that is not plain.

    Args:
        window: that of all DICOM files.
    """
    looks: dict[np.dtype, dict[File, _Look]] = {}
    for file, look in examined.looks.items():
        if not look.is_plain:
            looks.setdefault(look.kind, {})[file] = look
    has_deeper = any(map(_is_deep, looks))
    return {
        kind: window
        if window and kind == np.float32
        else full_range(kind)
        if "," in intensity and has_deeper and not _is_deep(kind)
        else _chosen(kind, list(own.values()), intensity, examined.names[next(iter(own))])
        for kind, own in looks.items()
    }


def _is_deep(kind: np.dtype) -> bool:
    return kind not in (np.uint8, np.bool_)


def _chosen(
    kind: np.dtype, looks: Sequence[_Look], intensity: str, first: str
) -> tuple[float, float]:
    """The values shown as black and white, of files whose values are of one type."""
    if "," in intensity:
        low, _, high = intensity.partition(",")
        return float(low), float(high)
    if kind == np.bool_:
        return 0.0, 1.0
    if intensity == "full" or (kind == np.uint8 and intensity == "auto"):
        return full_range(kind)
    reaches = [look.reach for look in looks if look.reach]
    least, most = min(low for low, _ in reaches), max(high for _, high in reaches)
    if least == most:
        return least, least + 1
    if intensity == "data":
        return least, most
    samples = np.concatenate([look.sample for look in looks])
    if intensity == "auto":
        _check_apart(kind, samples, first)
    low, high = (float(q) for q in np.quantile(samples, [TAILS, 1 - TAILS]))
    if intensity == "percentiles":
        return (low, high) if low < high else (least, most)
    return range_in_use(kind, (least, most), (low, high), first)


def _check_apart(kind: np.dtype, samples: np.ndarray, first: str) -> None:
    """Refuse a value far from all others, as it stands for no data, that is not declared as such.

    Raises:
        DataError: if there is one.
    """
    least, most = samples.min(), samples.max()
    for value, is_odd in ((least, least < 0), (most, True)):
        is_value = samples == value
        others = samples[~is_value]
        if not is_odd or is_value.mean() <= TAILS or len(np.unique(others)) < LEAST_GREYS:
            continue
        low, high = float(others.min()), float(others.max())
        if min(abs(float(value) - low), abs(float(value) - high)) > high - low:
            raise DataError(
                f"{100 * is_value.mean():.1f} % of the {described(kind)} values are {value:g}, and "
                f"all others lie between {low:g} and {high:g} (the first image is {first}), as if "
                f"it stood for no data. Choose --intensity={low:g},{high:g}, or data."
            )


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
