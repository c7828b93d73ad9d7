"""What the four numbers of a box mean: its convention, checked over the whole data set.

Corners in pixels are x1, y1, x2, y2. One file has one convention; where its numbers contradict what
its format declares, it is refused with the option that converts.
"""

import math
from collections.abc import Iterator, Sequence
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
) -> list[Labelled]:
    """The images with the corners of their boxes in pixels.

    Args:
        asked: xyxy, xywh or cxcywh, and normalised if numbers are shares of width and height;
            empty for what the format declares.
        slice_: of volumes, as in `Rendering`.

    Raises:
        DataError: if the numbers contradict the declared convention and nothing is asked.
    """
    if not asked:
        _check(labelled, place, slice_)
    return [_converted(item, asked, slice_) for item in labelled]


def _converted(item: Labelled, asked: Sequence[str], slice_: str) -> Labelled:
    if not isinstance(item.label, tuple):
        return item
    form, is_normalised = item.form.removeprefix(NORMALISED + " "), NORMALISED in item.form
    if asked:
        form = next((name for name in asked if name != NORMALISED), form)
        is_normalised = NORMALISED in asked
    marks = tuple(replace(mark, box=corners(mark.box, form)) for mark in item.label)
    size = item.size
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
    return replace(item, label=marks, size=size, form="xyxy")


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


def _boxes(labelled: Sequence[Labelled]) -> Iterator[tuple[Labelled, Box]]:
    for item in labelled:
        if isinstance(item.label, tuple):
            for mark in item.label:
                if all(map(math.isfinite, mark.box)):
                    yield item, mark.box


def _check(labelled: Sequence[Labelled], place: str, slice_: str) -> None:
    """Refuse boxes that fit another convention than the declared one, but not that."""
    every = list(_boxes(labelled))
    if not every:
        return
    first = every[0][0]
    form = first.form.removeprefix(NORMALISED + " ")
    is_share = form != first.form
    more = f",{NORMALISED}" * is_share
    numbers = [number for _, box in every for number in box]
    large = [item for item, box in every if max(box) > LARGEST_SHARE]
    if is_share and large:
        raise DataError(
            f"{len(large)} of {len(every)} boxes of {place} (the first is of "
            f"{large[0].image.name}) are larger than the image if they are shares of width and "
            f"height, as its format declares. Choose --boxes {form} for pixels, or "
            f"{form},{NORMALISED} to skip those that do not fit."
        )
    if (
        not is_share
        and all(0 <= number <= 1 for number in numbers)
        and any(0 < number < 1 for number in numbers)
    ):
        raise DataError(
            f"All {len(every)} boxes of {place} lie between 0 and 1 (the first is of "
            f"{first.image.name}), so they may be shares of width and height or pixels. "
            f"Choose --boxes {NORMALISED}, or {form} for pixels."
        )
    sized = [
        (item, box, size) for item, box in every if (size := (1, 1) if is_share else item.size)
    ]
    wrong = [item for item, box, size in sized if not _fits(box, form, size)]
    for other in IN_WORDS if wrong else ():
        if other != form and all(_fits(box, other, size) for _, box, size in sized):
            raise DataError(
                f"{len(wrong)} of {len(sized)} boxes of {place} (the first is of "
                f"{wrong[0].image.name}) do not fit their images as {IN_WORDS[form]}, but all fit "
                f"as {IN_WORDS[other]}. Choose --boxes {other}{more}, or {form}{more} to skip "
                "those that do not fit."
            )
    if len(every) >= LEAST_BOXES and all(
        size is not None and _fits(box, form, size, part=0.5)
        for item, box in every
        for size in [(1, 1) if is_share else _size(item, slice_)]
    ):
        raise DataError(
            f"All {len(every)} boxes of {place} lie in the upper left quarter of their images (the "
            f"first is of {first.image.name}), as if they were drawn on smaller copies, or in per "
            f"cent. Convert them, or choose --boxes {form}{more} to use them as they are."
        )


def _fits(box: Box, form: str, size: tuple[int, int], part: float = 1.0) -> bool:
    """Whether a box lies in a part of the width and height of an image, which are 1 for shares."""
    left, top, right, bottom = corners(box, form)
    width, height = part * size[0], part * size[1]
    slack = SLACK if max(size) > 1 else LARGEST_SHARE - 1
    is_inside = min(left, top) >= -slack and right <= width + slack and bottom <= height + slack
    return is_inside and left < right and top < bottom
