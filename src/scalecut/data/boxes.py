"""What the four numbers of a box mean: its convention, checked over the whole data set.

Outlines are converted with the boxes around them; no option converts them otherwise.

Corners in pixels are x1, y1, x2, y2. One file has one convention; where its numbers contradict what
its format declares, it is refused with the option that converts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from ..errors import DataError
from .assumptions import Assumed
from .decoding import AS_STORED, NeededError, Rendering, header
from .images import Labelled, Mark
from .measures import Box
from .outlines import Size, scaled

IN_WORDS = {
    "xyxy": "corners x1, y1, x2, y2",
    "xywh": "x, y, width, height",
    "cxcywh": "centre x, centre y, width, height",
}
NORMALISED, PERCENT = "normalised", "percent"
UNITS = {NORMALISED: 1.0, PERCENT: 100.0}  # of width and height: what stands for all of it
INCLUSIVE = "inclusive"  # corners are pixels counted from 1, both in the box, as of PASCAL VOC
REACH = 95.0, 100.5  # how far boxes in per cent reach in a set of real objects
OUTSIDE = 0.1  # of boxes, at least, that do not fit their images as pixels
LARGER = 110  # pixels from which an image is plainly larger than 100
LARGEST_SHARE = 1.01  # of width or height; rounding explains so much
SLACK = 1.0  # pixels outside the image that rounding explains
LEAST_BOXES = 10  # whose places say something about a data set


def corners(box: Box, form: str) -> Box:
    """The corners of a box of the given form."""
    first, second, third, fourth = box
    if form == "xywh":
        return first, second, first + third, second + fourth
    if form == "cxcywh":
        return (
            first - third / 2,
            second - fourth / 2,
            first + third / 2,
            second + fourth / 2,
        )
    return box


def in_pixels(
    labelled: Sequence[Labelled], asked: Sequence[str], place: str, shown: Rendering = AS_STORED
) -> tuple[list[Labelled], list[Assumed]]:
    """The images with the corners of their boxes in pixels, and what is assumed of them.

    Args:
        asked: xyxy, xywh or cxcywh, and normalised or percent if numbers are shares of width and
            height; inclusive for corners that are pixels counted from 1, both in the box; empty
            for what the format declares.
        shown: slice and page of files with several.

    Raises:
        DataError: if the numbers contradict the declared convention and nothing is asked.
    """
    if {*asked} == {INCLUSIVE}:
        other = next((item for item in labelled if item.form != "xyxy" and _boxes(item)), None)
        if other:
            raise DataError(
                f"--boxes {INCLUSIVE} is about corners in pixels, but the format of {place} is "
                f"{other.form} (the first is of {other.image.name}). Omit it, or give --boxes "
                f"xyxy,{INCLUSIVE} if they are corners."
            )
    assumed = _checked(labelled, place, shown) if {*asked} <= {INCLUSIVE} else []
    return [_converted(item, asked, shown) for item in labelled], assumed


def _converted(item: Labelled, asked: Sequence[str], shown: Rendering) -> Labelled:
    if not isinstance(item.label, tuple):
        return item
    if INCLUSIVE in asked:
        marks = tuple(_with_first_pixel(mark) for mark in item.label)
        return replace(item, label=marks, form="xyxy")
    form = item.form.removeprefix(NORMALISED + " ")
    unit = NORMALISED if form != item.form else ""
    if asked:
        form = next((name for name in asked if name not in UNITS), form)
        unit = next((name for name in asked if name in UNITS), "")
    marks = tuple(replace(mark, box=corners(mark.box, form)) for mark in item.label)
    if unit:
        size = _size(item, shown)
        if size is None:
            return item
        width, height = (side / UNITS[unit] for side in size)
        marks = tuple(
            replace(
                mark,
                box=_scaled(mark.box, width, height),
                shape=scaled(mark.shape, width, height),
            )
            for mark in marks
        )
    return replace(item, label=marks, form="xyxy")


def counted_from_1(boxes: Sequence[Box]) -> list[Assumed]:
    """What is stated of corners in pixels that may be edges, or pixels counted from 1.

    An edge may be at 0, which is no pixel if the first is 1, and between pixels: where half of the
    boxes or more have fractions, as in PASCAL VOC 2012, the whole numbers are edges, too.
    """
    whole = [box for box in boxes if all(number % 1 == 0 for number in box)]
    sides = [(right - left, lower - upper) for left, upper, right, lower in whole]
    areas = [(width, height) for width, height in sides if min(width, height) > 0]
    if not areas or 2 * len(whole) <= len(boxes) or min(map(min, whole)) < 1:
        return []
    larger = median((width + 1) * (height + 1) / (width * height) - 1 for width, height in areas)
    return [
        Assumed(
            f"corners of {len(whole)} boxes are edges in pixels; as pixels counted from 1, both in "
            f"the box, which PASCAL VOC means, their median area is {larger:.2g} larger "
            f"(--boxes {INCLUSIVE})",
            "--boxes xyxy",
        )
    ]


def _with_first_pixel(mark: Mark) -> Mark:
    """The mark with the edges of the pixels that its corners count from 1."""
    left, top, right, bottom = mark.box
    return replace(mark, box=(left - 1, top - 1, right, bottom))


def _size(item: Labelled, shown: Rendering) -> Size:
    """The stated size of an image, else its own; None if it cannot be read, and is skipped."""
    if item.size is None and isinstance(item.image.source, Path):
        try:
            return header(item.image.source, shown)[:2]
        except NeededError:
            raise
        except DataError:
            return None
    return item.size


def _scaled(box: Box, width: float, height: float) -> Box:
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def _boxes(item: Labelled) -> list[Box]:
    """Those of its boxes that are numbers."""
    marks = item.label if isinstance(item.label, tuple) else ()
    return [mark.box for mark in marks if all(map(math.isfinite, mark.box))]


def _checked(labelled: Sequence[Labelled], place: str, shown: Rendering) -> list[Assumed]:
    """Refuse boxes that fit another convention than the declared one, but not that.

    Of outlines, the sentence that is stated if they could be of smaller copies.
    """
    every = [(item, box) for item in labelled for box in _boxes(item)]
    if not every:
        return []
    first = every[0][0]
    has_outlines = any(
        mark.shape for item in labelled if isinstance(item.label, tuple) for mark in item.label
    )
    what = f"{'outlines' if has_outlines else 'boxes'} of {place}"
    where = f"{what} (the first is of {first.image.name}) lie"
    form = first.form.removeprefix(NORMALISED + " ")
    is_share = form != first.form
    more = f",{NORMALISED}" * is_share
    numbers = [number for _, box in every for number in box]
    large = [item for item, box in every if max(box) > LARGEST_SHARE]
    if is_share and large:
        choice = (
            f"Choose --boxes {form} for pixels, {form},{PERCENT} for per cent, or "
            f"{form},{NORMALISED} to skip those that do not fit."
        )
        raise DataError(
            f"{len(large)} of {len(every)} {what} (the first is of {large[0].image.name}) are "
            "larger than the image if they are shares of width and height, as its format declares. "
            f"{'Convert them.' if has_outlines else choice}"
        )
    if (
        not is_share
        and all(0 <= number <= 1 for number in numbers)
        and any(0 < number < 1 for number in numbers)
    ):
        choice = f"Choose --boxes {NORMALISED}, or {form} for pixels."
        raise DataError(
            f"All {len(every)} {where} between 0 and 1, so they may be shares of width and height "
            f"or pixels. {'Convert them to pixels.' if has_outlines else choice}"
        )
    if not is_share and _are_percent(every, form, shown):
        text = f"All {len(every)} {where} between 0 and 100, as if they were in per cent"
        if has_outlines:
            return [Assumed(f"{text[0].lower()}{text[1:]}, and are used as they are", "pixels")]
        raise DataError(f"{text}. Choose --boxes {form},{PERCENT}, or {form} for pixels.")
    if not has_outlines:
        _check_order(every, form, is_share, what, more)
    if not _are_in_quarter(labelled, form, is_share, shown):
        return []
    where += " in the upper left quarter of their images"
    if has_outlines:
        return [Assumed(f"all {len(every)} {where}, and are used as they are", "pixels")]
    raise DataError(
        f"All {len(every)} {where}, as if they were drawn on smaller copies, or in per cent. "
        f"Convert them, or choose --boxes {form}{more} to use them as they are."
    )


def _are_percent(every: Sequence[tuple[Labelled, Box]], form: str, shown: Rendering) -> bool:
    """Whether boxes with fractions lie between 0 and 100, and are rather per cent than pixels.

    Either many do not fit their images, which are smaller, or some reach as far as 100 in both
    directions, but none beyond, though images are larger.
    """
    placed = [corners(box, form) for _, box in every]
    reach = [max(box[2] for box in placed), max(box[3] for box in placed)]
    is_within = min(min(box[:2]) for box in placed) >= 0 and max(reach) <= REACH[1]
    has_fractions = any(number % 1 for _, box in every for number in box)
    if len(every) < LEAST_BOXES or not is_within or not has_fractions:
        return False
    sizes = {item.image.name: _size(item, shown) for item, _ in every}
    sized = [(box, size) for item, box in every if (size := sizes[item.image.name])]
    n_outside = sum(not _fits(box, form, size) for box, size in sized)
    n_larger = sum(min(size) > LARGER for _, size in sized)
    is_far = min(reach) >= REACH[0] and n_larger >= LEAST_BOXES
    return n_outside >= OUTSIDE * len(sized) > 0 or (is_far and not n_outside)


def _check_order(
    every: Sequence[tuple[Labelled, Box]], form: str, is_share: bool, what: str, more: str
) -> None:
    """Refuse boxes of which some fit their images only if their numbers mean something else."""
    sized = [
        (item, box, size) for item, box in every if (size := (1, 1) if is_share else item.size)
    ]
    wrong = [item for item, box, size in sized if not _fits(box, form, size)]
    others = [
        other
        for other in (IN_WORDS if wrong else ())
        if other != form and all(_fits(box, other, size) for _, box, size in sized)
    ]
    if others:
        choices = ", ".join(f"{other}{more}" for other in others)
        raise DataError(
            f"{len(wrong)} of {len(sized)} {what} (the first is of {wrong[0].image.name}) do not "
            f"fit their images as {IN_WORDS[form]}, but all fit as "
            f"{' and as '.join(IN_WORDS[other] for other in others)}. Choose --boxes {choices}, or "
            f"{form}{more} to skip those that do not fit."
        )


def _are_in_quarter(
    labelled: Sequence[Labelled], form: str, is_share: bool, shown: Rendering
) -> bool:
    """Whether the boxes of all images that can be read lie in the upper left quarter."""
    n = 0
    for item in labelled:
        own = _boxes(item)
        size = (1, 1) if is_share or not own else _size(item, shown)
        if size and not all(_fits(box, form, size, part=0.5) for box in own):
            return False
        n += len(own) * bool(size)
    return n >= LEAST_BOXES


def _fits(box: Box, form: str, size: tuple[int, int], part: float = 1.0) -> bool:
    """Whether a box lies in a part of the width and height of an image, which are 1 for shares."""
    left, top, right, bottom = corners(box, form)
    width, height = part * size[0], part * size[1]
    slack = SLACK if max(size) > 1 else LARGEST_SHARE - 1
    is_inside = min(left, top) >= -slack and right <= width + slack and bottom <= height + slack
    return is_inside and left < right and top < bottom
