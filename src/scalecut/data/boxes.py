"""What the four numbers of a box mean: its convention, checked over the whole data set.

Outlines are converted with the boxes around them; no option converts them otherwise.

Corners in pixels are x1, y1, x2, y2. One file has one convention; where its numbers contradict what
its format declares, it is refused with the option that converts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from .decoding import NeededError, header
from .images import Labelled
from .measures import Box
from .outlines import Size, scaled

IN_WORDS = {
    "xyxy": "corners x1, y1, x2, y2",
    "xywh": "x, y, width, height",
    "cxcywh": "centre x, centre y, width, height",
}
NORMALISED = "normalised"
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
    labelled: Sequence[Labelled], asked: Sequence[str], place: str, slice_: str = ""
) -> tuple[list[Labelled], list[str]]:
    """The images with the corners of their boxes in pixels, and sentences on what is assumed.

    Args:
        asked: xyxy, xywh or cxcywh, and normalised if numbers are shares of width and height;
            empty for what the format declares.
        slice_: of volumes, as in `Rendering`.

    Raises:
        DataError: if the numbers contradict the declared convention and nothing is asked.
    """
    assumed = [] if asked else _checked(labelled, place, slice_)
    return [_converted(item, asked, slice_) for item in labelled], assumed


def _converted(item: Labelled, asked: Sequence[str], slice_: str) -> Labelled:
    if not isinstance(item.label, tuple):
        return item
    form, is_normalised = item.form.removeprefix(NORMALISED + " "), NORMALISED in item.form
    if asked:
        form = next((name for name in asked if name != NORMALISED), form)
        is_normalised = NORMALISED in asked
    marks = tuple(replace(mark, box=corners(mark.box, form)) for mark in item.label)
    if is_normalised:
        size = _size(item, slice_)
        if size is None:
            return item
        width, height = size
        marks = tuple(
            replace(
                mark,
                box=_scaled(mark.box, width, height),
                shape=scaled(mark.shape, width, height),
            )
            for mark in marks
        )
    return replace(item, label=marks, form="xyxy")


def _size(item: Labelled, slice_: str) -> Size:
    """The stated size of an image, else its own; None if it cannot be read, and is skipped."""
    if item.size is None and isinstance(item.image.source, Path):
        try:
            return header(item.image.source, slice_)[:2]
        except NeededError:
            raise
        except DataError:
            return None
    return item.size


def _scaled(box: Box, width: int, height: int) -> Box:
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def _boxes(item: Labelled) -> list[Box]:
    """Those of its boxes that are numbers."""
    marks = item.label if isinstance(item.label, tuple) else ()
    return [mark.box for mark in marks if all(map(math.isfinite, mark.box))]


def _checked(labelled: Sequence[Labelled], place: str, slice_: str) -> list[str]:
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
            f"Choose --boxes {form} for pixels, or {form},{NORMALISED} to skip those that do not "
            "fit."
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
    if not has_outlines:
        _check_order(every, form, is_share, what, more)
    if not _are_in_quarter(labelled, form, is_share, slice_):
        return []
    where += " in the upper left quarter of their images"
    if has_outlines:
        return [f"all {len(every)} {where}, and are used as they are"]
    raise DataError(
        f"All {len(every)} {where}, as if they were drawn on smaller copies, or in per cent. "
        f"Convert them, or choose --boxes {form}{more} to use them as they are."
    )


def _check_order(
    every: Sequence[tuple[Labelled, Box]], form: str, is_share: bool, what: str, more: str
) -> None:
    """Refuse boxes of which some fit their images only if their numbers mean something else."""
    sized = [
        (item, box, size) for item, box in every if (size := (1, 1) if is_share else item.size)
    ]
    wrong = [item for item, box, size in sized if not _fits(box, form, size)]
    for other in IN_WORDS if wrong else ():
        if other != form and all(_fits(box, other, size) for _, box, size in sized):
            raise DataError(
                f"{len(wrong)} of {len(sized)} {what} (the first is of {wrong[0].image.name}) do "
                f"not fit their images as {IN_WORDS[form]}, but all fit as {IN_WORDS[other]}. "
                f"Choose --boxes {other}{more}, or {form}{more} to skip those that do not fit."
            )


def _are_in_quarter(labelled: Sequence[Labelled], form: str, is_share: bool, slice_: str) -> bool:
    """Whether the boxes of all images that can be read lie in the upper left quarter."""
    n = 0
    for item in labelled:
        own = _boxes(item)
        size = (1, 1) if is_share or not own else _size(item, slice_)
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
