"""What masks mean: the objects that the values or colours of their files stand for.

A mask is binary (each connected region is an object), or its values are numbers of instances (each
value is an object), or of classes (each connected region of a value is an object). What is meant is
decided once for a set of masks; what could mean several things is refused with the option that
chooses. Used by `masks:` data and by the tiles of `pathology`.

Shapes: h x w pixels.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool, Float64, Integer, Shaped, UInt8
from scipy import ndimage

from ..errors import DataError
from .assumptions import Assumed
from .decoding import (
    JPEG,
    NIFTI,
    NeededError,
    Rendering,
    all_values,
    contents,
    decoded,
    form_of,
    header,
    opened,
    suffix_of,
)
from .measures import evenly
from .tiff import tiff_contents

KINDS = ("binary", "instances", "classes")
ENOUGH = 2000  # values whose regions are counted
SURVEYED = 64  # masks, evenly chosen, that say what a set means
MOST_COLOURS = 4096  # a coloured mask has fewer, a photograph more
COLOUR = 2**24  # added to the number of a colour, so that grey values stand for themselves
MOST_EDGES = 6  # pixels between two values, of small objects, over those of the larger value
LEAST_GREYS, LEAST_RANGE = 6, 100  # values, and their range, of what should be two
ENDS = 1 / 8  # of the range of grey values, at either end: marked, or not
VOIDS, MOST_CLASSES = (255, 65535), 50  # of PASCAL VOC and the like; -1 becomes the larger
WHOLE = 1.05  # regions per value, at most, where pieces are not worth a line
ALIKE = 0.5  # area of the second largest region of a value over the largest, if both are objects
FEW = 3  # values that each mask has, which are rather names than numbers of objects
REPEATED, IN_PIECES = 3.0, 2.0  # regions per value: of classes, at least; of instances, at most
TOUCHING = 1.5  # regions of classes over those of any value, at most
INVERTED = 0.8  # of masks whose border is marked all around, at least
_AROUND = np.ones((3, 3), dtype=bool)  # regions are connected over corners too
_TURNS = {5: (0, True), 6: (-1, False), 7: (2, True), 8: (1, False)}  # EXIF: quarters, transposed


@dataclass(frozen=True, slots=True)
class MaskRule:
    """What the values of a set of masks mean.

    Args:
        kind: binary, instances or classes.
        background: the value, or colour as one number, that marks nothing.
        threshold: of grey values that should be two; those on the other side than the background
            are marked.
        void: a value that stands for unknown, and counts as background.
        by_alpha: whether opacity is the mask.
        page: of files with several.
        slice: of volumes, as in `Rendering`.
        assumed: what was not certain.
    """

    kind: str = "binary"
    background: int = 0
    threshold: float | None = None
    void: int | None = None
    by_alpha: bool = False
    page: int = 0
    slice: str = ""
    assumed: tuple[Assumed, ...] = ()

    @property
    def is_inverted(self) -> bool:
        """Whether values up to the threshold are marked, as of dark objects on white."""
        return self.threshold is not None and self.background > self.threshold

    def stated(self) -> dict[str, object]:
        """Its fields by name, for `run.json`, without what was assumed."""
        return {each.name: getattr(self, each.name) for each in fields(self)[:-1]}


@dataclass(slots=True)
class _Survey:
    """Counts over some masks of a set."""

    pixels: Counter[int] = field(default_factory=Counter)  # by value
    n: int = 0
    n_by_alpha: int = 0
    n_without_zero: int = 0
    n_inverted: int = 0
    n_hollow: int = 0
    n_jpeg: int = 0  # whose values are not exact
    n_shares: int = 0  # whose values are fractions
    n_regions: int = 0  # of masks with several values, and their values
    n_values: int = 0
    n_merged: int = 0  # regions of these whatever their values
    n_split: int = 0  # values in several regions
    n_alike: int = 0  # of these, with regions of similar areas
    n_with_void: int = 0
    most_values: int = 0  # of one mask
    is_grey: bool = True
    first: str = ""


def understood(
    files: Sequence[Path],
    kind: str = "auto",
    background: str = "",
    page: int = 0,
    slice_: str = "",
) -> MaskRule:
    """What a set of masks means.

    Args:
        kind: binary, instances or classes; auto for what the values suggest.
        background: the value or colour (R,G,B) that marks nothing, instead of 0.
        page: of files with several.
        slice_: of volumes, as in `Rendering`.

    Raises:
        DataError: if the masks could mean several things.
    """
    kind = "" if kind == "auto" else kind
    given = background_code(background)
    if not files and (kind or given is not None):
        raise DataError(
            "--mask-kind and --background say what values of masks mean, but there is no mask with "
            "values, as outlines have none. Omit them."
        )
    survey = _surveyed(files, 0 if given is None else given, page, slice_)
    if survey.n_jpeg and not survey.is_grey and len(survey.pixels) > MOST_CLASSES:
        raise DataError(
            f"The masks have {len(survey.pixels)} colours, and {survey.n_jpeg} of {survey.n} are "
            f"JPEG (the first mask is {survey.first}), which blurs colours. Save them as PNG, with "
            "one value per object or class."
        )
    if not survey.n:
        return MaskRule(kind or "binary", given or 0, page=page, slice=slice_)
    assumed = []
    by_alpha = 2 * survey.n_by_alpha > survey.n
    if by_alpha:
        text = "masks are read from alpha, since their colours do not vary"
        assumed.append(Assumed(text, "alpha"))
    values = Counter(survey.pixels)
    void = _void(survey, given or 0) if kind != "instances" else None
    if void is not None:
        del values[void]
        text = f"the value {void} of masks means unknown, and counts as background"
        assumed.append(Assumed(text, "unknown"))
    threshold = _threshold(values, survey, given or 0) if kind in ("", "binary") else None
    if threshold is not None:
        kind = "binary"
        assumed.append(Assumed(_cut_at(values, threshold), "grey"))
    else:
        _check_background(survey, given)
        _check_fractions(survey)
    if not kind:
        kind = _kind(survey, void)
        if kind == "classes":
            text = "values of masks are classes, so each connected region is an object"
            assumed.append(Assumed(text, "--mask-kind classes"))
        if kind == "instances" and survey.n_regions > WHOLE * survey.n_values:
            text = (
                f"values of masks are numbers of objects, though {survey.n_values} values are in "
                f"{survey.n_regions} regions"
            )
            assumed.append(Assumed(text, "--mask-kind instances"))
    if threshold is None and 2 * survey.n_hollow > survey.n:
        text = (
            f"in {survey.n_hollow} of {survey.n} masks (the first mask is {survey.first}) marked "
            "pixels enclose more than they cover, like borders of objects; what is marked counts"
        )
        assumed.append(Assumed(text, "hollow"))
    if kind == "binary" and given is None:
        _check_inverted(survey, max(values))
    return MaskRule(kind, given or 0, threshold, void, by_alpha, page, slice_, tuple(assumed))


def background_code(text: str) -> int | None:
    """The number that stands for a value or a colour; None for an empty text.

    Raises:
        DataError: if it is neither a whole number nor three.
    """
    if not text:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise DataError(
            f"--background must be a value such as 0, or a colour such as 68,1,84, got {text!r}."
        )
    if len(set(parts)) == 1:
        return int(parts[0])
    return COLOUR + sum(int(part) * 256**place for place, part in enumerate(parts))


def turned(marks: Shaped[np.ndarray, "h w"], orientation: int) -> Shaped[np.ndarray, "a b"]:
    """What was drawn before EXIF turned its image, after that turn of orientation 5 to 8."""
    if orientation not in _TURNS:
        return marks
    quarters, is_transposed = _TURNS[orientation]
    rotated = np.rot90(marks, quarters)
    return rotated.T if is_transposed else rotated


def labels_as(
    file: Path, rule: MaskRule, size: tuple[int, int], orientation: int = 1
) -> Integer[np.ndarray, "h w"]:
    """0 for the background, and 1, 2, ... for the objects of a mask, as seen in its image."""
    marks = marks_as(file, rule, size, orientation)
    return _regions(marks) if marks.dtype == bool else marks


def marks_as(
    file: Path, rule: MaskRule, size: tuple[int, int], orientation: int
) -> Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]:
    """A mask, turned with its image if its shape says that it was drawn before EXIF turned that.

    Args:
        size: width and height of the upright image.
        orientation: EXIF orientation of the image.

    Raises:
        DataError: as of `marks_of`, or if EXIF turns the mask in another way than its image.
    """
    own = 1 if form_of(file) else header(file, Rendering(page=rule.page))[2]
    if own not in (1, orientation):
        raise DataError(
            f"its EXIF orientation is {own}, and that of its image {orientation}; save both upright"
        )
    marks = marks_of(file, rule)
    is_turned = orientation >= 5 and marks.shape == size != size[::-1]
    return turned(marks, orientation) if is_turned else marks


def marks_of(file: Path, rule: MaskRule) -> Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]:
    """Where a binary mask marks something; else the number of the object at each pixel.

    Raises:
        DataError: if it cannot be read, or does not fit the rule.
    """
    codes, _ = _codes(*_stored(file, rule.page, rule.slice), by_alpha=rule.by_alpha)
    if rule.threshold is not None:
        return (codes > rule.threshold) != rule.is_inverted
    if rule.void is not None:
        codes = np.where(codes == rule.void, rule.background, codes)
    found, _ = _counted(codes)
    if len(found) > MOST_COLOURS and found.max() >= COLOUR:
        raise DataError(
            f"it has {len(found)} colours, like a photograph; give one value or colour per object"
        )
    if rule.kind == "binary":
        return codes != rule.background
    labels = _ranked(codes, found[found != rule.background])
    return labels if rule.kind == "instances" else _regions_of_values(labels)


# --- inside --------------------------------------------------------------------------------------


def _stored(
    file: Path, page: int, slice_: str
) -> tuple[np.ndarray, UInt8[np.ndarray, "h w"] | None]:
    """The stored values of a mask, indices of palettes as they are; and its opacity."""
    form = form_of(file)
    if form:
        slice_ = slice_ if form == NIFTI else ""  # PNG can mask a slice
        found = contents(file, Rendering(slice=slice_))
        asked = Rendering(page=page if found.pages > 1 else 0, slice=slice_)
        return all_values(file, found, asked)[0], None
    tiff = tiff_contents(file, page)
    if tiff is not None:
        if tiff.is_split:
            raise DataError(f"it has {tiff.channels} channels; save the one that is the mask")
        asked = Rendering(page=page if tiff.pages > 1 else 0)
        values, by_pillow = all_values(file, tiff, asked)
        if tiff.is_white and by_pillow and values.dtype == np.uint8:
            values = 255 - values  # Pillow inverts it
        has_alpha = tiff.has_alpha
    else:
        with opened(file) as stored:
            n = getattr(stored, "n_frames", 1) if stored.format in ("GIF", "PNG", "WEBP") else 1
            if n > 1:
                if not 0 < page <= n:
                    raise DataError(f"it has {n} frames; choose one with --page 1 (to {n})")
                stored.seek(page - 1)
            values = np.asarray(decoded(stored))
            has_alpha = stored.mode in ("LA", "RGBA")
    if not has_alpha:
        return values, None
    return values[..., :-1], values[..., -1].astype(np.uint8)


def _codes(
    values: np.ndarray, alpha: np.ndarray | None, *, by_alpha: bool | None = None
) -> tuple[Integer[np.ndarray, "h w"], bool]:
    """One whole number per value or colour, and whether opacity is the mask.

    Transparent pixels are background.

    Args:
        by_alpha: as decided for the set; None to decide for this mask.
    """
    planes = values[..., None] if values.ndim == 2 else values
    if np.issubdtype(planes.dtype, np.floating):
        if not np.isfinite(planes).all():
            raise DataError("some of its values are not finite; replace them")
        planes = np.rint(planes * 255 if _are_shares(planes) else planes)
    n = planes.shape[2]
    while planes.shape[2] in (2, 4) and planes[..., -1].min() == planes[..., -1].max():
        planes = planes[..., :-1]  # opacity that is not declared
    if planes.shape[2] not in (1, 3):
        raise DataError(f"it has {n} channels; give one value or colour per pixel")
    planes = planes.astype(np.int64)
    if planes.min() < 0:
        raise DataError(f"its smallest value is {planes.min()}; values of masks start at 0")
    codes = planes[..., 0]
    if planes.shape[2] == 1 and codes.max() >= COLOUR:
        raise DataError(f"its largest value is {codes.max()}; values of masks are below {COLOUR}")
    if planes.shape[2] >= 3:
        is_grey = (planes[..., :3] == planes[..., :1]).all(axis=-1)
        codes = np.where(is_grey, codes, COLOUR + planes[..., :3] @ (256 ** np.arange(3)))
    if alpha is None or alpha.min() == alpha.max():
        return codes, False
    is_constant = codes.min() == codes.max()
    if by_alpha or (by_alpha is None and is_constant):
        return alpha.astype(np.int64), True
    return np.where(alpha == 0, 0, codes), False


def _are_shares(values: np.ndarray) -> bool:
    """Whether values are fractions between 0 and 1."""
    is_float = np.issubdtype(values.dtype, np.floating)
    is_within = is_float and values.min() >= 0 and values.max() <= 1
    return bool(is_within and (values != values.round()).any())


def _surveyed(files: Sequence[Path], background: int, page: int, slice_: str) -> _Survey:
    survey = _Survey()
    for file in (files[number] for number in evenly(len(files), SURVEYED)):
        try:
            values, alpha = _stored(file, page, slice_)
            codes, by_alpha = _codes(values, alpha)
        except NeededError as error:
            raise DataError(f"{file.name}: {error}.") from error
        except DataError as error:
            if "--page" in str(error):
                reason = str(error).partition(", or three")[0]
                raise DataError(f"{file.name}: {reason}.") from error
            continue  # it is skipped when it is measured
        found, counts = _counted(codes)
        if len(found) > MOST_COLOURS and found[-1] >= COLOUR:
            continue  # a photograph, refused when it is measured
        survey.first = survey.first or file.name
        survey.n += 1
        survey.n_jpeg += suffix_of(file) in JPEG
        survey.n_by_alpha += by_alpha
        survey.n_shares += _are_shares(values)
        survey.pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        survey.is_grey &= bool(found[-1] < COLOUR)
        marked = found[found != background]
        survey.n_without_zero += len(marked) == len(found) and len(found) > 1
        survey.n_inverted += _is_inverted(codes != background)
        survey.n_hollow += _is_hollow(codes != background)
        known = marked[~np.isin(marked, VOIDS)]
        if len(known) < len(marked) and len(known) > 0 and known.max() <= MOST_CLASSES:
            survey.n_with_void += 1
            marked = known
        survey.most_values = max(survey.most_values, len(marked))
        if 1 < len(marked) <= MOST_COLOURS and survey.n_values < ENOUGH:
            labels = _ranked(codes, marked)
            survey.n_values += len(marked)
            regions = _regions_of_values(labels)
            survey.n_regions += int(regions.max())
            survey.n_merged += int(_regions(labels > 0).max())
            shares = _second_over_first(labels, regions)
            survey.n_split += len(shares)
            survey.n_alike += int((shares >= ALIKE).sum())
    return survey


def _counted(codes: Integer[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
    """The values of a mask, in order, and how many pixels have each."""
    if codes.max() >= COLOUR:
        return np.unique(codes, return_counts=True)
    counts = np.bincount(codes.ravel())  # ten times as fast as sorting
    found = np.flatnonzero(counts)
    return found, counts[found]


def _ranked(
    codes: Integer[np.ndarray, "h w"], values: Integer[np.ndarray, " k"]
) -> Integer[np.ndarray, "h w"]:
    """1, 2, ... for the given values, which are in order, and 0 for all others."""
    if not len(values):
        return np.zeros(codes.shape, dtype=np.int64)
    if codes.max() < COLOUR:
        ranks = np.zeros(int(codes.max()) + 1, dtype=np.int64)
        ranks[values] = np.arange(1, len(values) + 1)
        return ranks[codes]
    places = np.minimum(np.searchsorted(values, codes), len(values) - 1)
    return np.where(values[places] == codes, places + 1, 0)


def _is_inverted(marked: Bool[np.ndarray, "h w"]) -> bool:
    edges = (marked[0], marked[-1], marked[:, 0], marked[:, -1])
    return all(edge.all() for edge in edges) and not marked.all()


def _is_hollow(marked: Bool[np.ndarray, "h w"]) -> bool:
    """Whether what marked pixels enclose is larger than they are."""
    outside = np.pad(~marked, 1, constant_values=True)
    regions = cast(tuple[np.ndarray, int], ndimage.label(outside))[0]
    enclosed = np.count_nonzero(regions) - np.count_nonzero(regions == regions[0, 0])
    return bool(enclosed > np.count_nonzero(marked) > 0)


def _check_background(survey: _Survey, given: int | None) -> None:
    values = ", ".join(in_words(value) for value in sorted(survey.pixels)[:4])
    if given is not None and given not in survey.pixels:
        raise DataError(
            f"No mask has the background {in_words(given)}; the values are {values}. "
            "Give one of them: --background."
        )
    if given is None and 2 * survey.n_without_zero > survey.n:
        usual = max(survey.pixels, key=lambda value: survey.pixels[value])
        raise DataError(
            f"The masks have the values {values} (the first mask is {survey.first}), and none is "
            "0, so the background is not known. Give it, such as --background "
            f"{in_words(usual)}."
        )


def _check_fractions(survey: _Survey) -> None:
    if survey.n_shares:
        raise DataError(
            f"{survey.n_shares} of {survey.n} masks (the first mask is {survey.first}) have "
            "fractions between 0 and 1, such as probabilities, and many that are near neither. Cut "
            "them, for example at 0.5, and save 0 and 1."
        )


def _check_inverted(survey: _Survey, marked: int) -> None:
    if survey.n_inverted > INVERTED * survey.n:
        raise DataError(
            f"In {survey.n_inverted} of {survey.n} masks (the first is {survey.first}) the marked "
            "value surrounds the image and 0 does not, as in inverted masks. Choose --background "
            f"{marked} if 0 marks the object, or --background 0."
        )


def _void(survey: _Survey, background: int) -> int | None:
    """The value that stands for unknown, if there is one among a few classes."""
    others = [value for value in survey.pixels if value not in (background, *VOIDS)]
    found = [value for value in VOIDS if survey.pixels[value] and value != background]
    is_there = survey.n_with_void and others and max(others) <= MOST_CLASSES and len(found) == 1
    return found[0] if is_there else None


def in_words(code: int) -> str:
    """The value or the colour that a number stands for."""
    if code < COLOUR:
        return str(code)
    return ",".join(str((code - COLOUR) // 256**place % 256) for place in range(3))


def _cut_at(values: Counter[int], threshold: float) -> str:
    low, high = min(values), max(values)
    between = sum(n for value, n in values.items() if low < value < high)
    share = 100 * between / sum(values.values())
    return (
        f"grey values of masks between {low} and {high} ({share:.1f} % of pixels) are cut at "
        f"{threshold:g}"
    )


def _threshold(values: Counter[int], survey: _Survey, background: int) -> float | None:
    """Where grey values that should be two are cut; None if they are not such.

    Most marked pixels have the values farthest from the background, and several values between are
    edges; or the values near both ends are many and scattered, as after JPEG; or a JPEG has values
    near the ends only.
    """
    low, high = min(values), max(values)
    is_exact = survey.n_jpeg < survey.n
    least = LEAST_GREYS if is_exact else 3
    is_grey = survey.is_grey and background < COLOUR
    if not is_grey or len(values) < least or high - low < LEAST_RANGE:
        return None
    start, stop = low + ENDS * (high - low), high - ENDS * (high - low)
    between = {value: n for value, n in values.items() if start < value < stop}
    n_low = sum(n for value, n in values.items() if value <= start)
    n_high = sum(n for value, n in values.items() if value >= stop)
    is_scattered = survey.n_regions >= REPEATED * survey.n_values
    n_marked, n_others = (n_low, n_high) if background > (low + high) / 2 else (n_high, n_low)
    most = MOST_EDGES * n_marked if is_scattered and len(values) > MOST_CLASSES else n_marked
    is_two = sum(between.values()) < min(n_others, most) and (
        len(between) >= 2 or is_scattered or not (is_exact or between)
    )
    return (low + high) / 2 if is_two else None


def _kind(survey: _Survey, void: int | None) -> str:
    if survey.most_values <= 1:
        return "binary"
    n_distinct = len(survey.pixels) - 1 - (void is not None)
    is_repeated = survey.n_regions >= REPEATED * survey.n_values and n_distinct <= MOST_CLASSES
    has_few = n_distinct == survey.most_values <= FEW
    if (is_repeated or has_few) and survey.n_regions > TOUCHING * survey.n_merged:
        raise DataError(
            f"The masks have {survey.n_regions} connected regions of equal values, but only "
            f"{survey.n_merged} of any value (the first mask is {survey.first}), as if a value "
            "marks borders of objects. Choose --mask-kind binary (regions of any value), classes "
            "or instances."
        )
    if is_repeated:
        return "classes"
    is_whole = survey.n_regions <= WHOLE * survey.n_values or 2 * survey.n_alike <= survey.n_split
    if survey.n_regions <= IN_PIECES * survey.n_values and is_whole:
        return "instances"
    raise DataError(
        f"The masks have {survey.n_regions} connected regions of {survey.n_values} values (the "
        f"first mask is {survey.first}), so a value could be an object in pieces, a class of "
        "objects, or a number given twice. Choose --mask-kind instances or classes."
    )


def _second_over_first(
    labels: Integer[np.ndarray, "h w"], regions: Integer[np.ndarray, "h w"]
) -> Float64[np.ndarray, " k"]:
    """For each label with several regions, the area of its second largest over its largest."""
    areas, owners = np.bincount(regions.ravel()), np.zeros(regions.max() + 1, dtype=np.int64)
    owners[regions] = labels
    order = np.lexsort((-areas[1:], owners[1:])) + 1  # by label, the largest first
    starts = np.flatnonzero(np.diff(owners[order], prepend=0))
    is_split = np.append(owners[order], 0)[starts + 1] == owners[order[starts]]
    firsts = starts[is_split]
    return areas[order[firsts + 1]] / areas[order[firsts]]


def _regions(marked: Bool[np.ndarray, "h w"]) -> Integer[np.ndarray, "h w"]:
    return cast(tuple[np.ndarray, int], ndimage.label(marked, _AROUND))[0]


def _regions_of_values(labels: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, "h w"]:
    """The connected regions of equal labels above 0, numbered from 1."""
    regions = np.zeros(labels.shape, dtype=np.int64)
    n = 0
    for label, place in _places(labels):
        own, found = cast(tuple[np.ndarray, int], ndimage.label(labels[place] == label, _AROUND))
        regions[place] += np.where(own > 0, own + n, 0)
        n += found
    return regions


def _places(labels: Integer[np.ndarray, "h w"]) -> Iterator[tuple[int, tuple[slice, slice]]]:
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            yield label, place
