"""From labels to rows: the objects of each image, as large as the network is shown them.

One row per image and class of object. What cannot be measured is skipped with its reason.

Shapes: h x w pixels.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from ..errors import DataError
from .assumptions import Assumed
from .decoding import NIFTI, NeededError, form_of, header
from .images import Image, Labelled, LeftOut, Mark, Marked, Progress
from .labels import CROWD
from .masks import MaskRule, labels_as, turned
from .measures import (
    AREAS,
    CLASS,
    OF_BOX,
    PLACES,
    Box,
    Frame,
    clipped,
    in_shares,
    measure_named,
    share_of,
    shares_of_labels,
    upright,
)
from .medical import same_space
from .options import Reading
from .outlines import Shape, covered
from .record import Record

ROUNDED = 0.01  # pixels by which a box that is given in shares can reach outside
AS_ASKED = ", as asked"  # how the reason ends where an option asks to skip, even if strict
SEVERAL = ", and --objects single takes one"
SPECK = 4  # pixels of an object that could be noise, at most


@dataclass(frozen=True, slots=True)
class Row:
    subset: str
    image: Image
    targets: Mapping[str, float | str]  # numbers and classes, nan where they are not known
    group: str
    box: Box | None
    marked: Marked = ()
    n_specks: int = 0  # of its objects


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object as the network is shown it."""

    area: float  # shares of the frame's window
    height: float
    box: Box
    shape: Shape | None = None  # if it was measured, and not turned


def rows_of(
    labelled: Sequence[Labelled],
    wanted: frozenset[str],
    frame: Frame,
    asked: Reading,
    rule: MaskRule | None,
    log: Record,
    progress: Progress | None,
) -> list[Row]:
    """The rows of all images that can be measured."""
    rows: list[Row] = []
    for number, item in enumerate(labelled, start=1):
        try:
            found = list(_rows(item, wanted & item.kinds, frame, asked, rule))
        except NeededError as error:
            raise DataError(f"{item.image.name}: {error}.") from error
        except DataError as error:
            log.skip(LeftOut(item.image.name, str(error)))
        else:
            rows += [each for each in found if isinstance(each, Row)]
            for each in found:
                if isinstance(each, LeftOut) and each.reason.endswith(AS_ASKED):
                    log.skipped.append(each)
                elif isinstance(each, LeftOut):
                    log.skip(each)
        if progress:
            progress("listing", number, len(labelled))
    n_specks = sum(row.n_specks for row in rows)
    if n_specks and asked.objects == "mean":
        text = f"{n_specks} objects of masks have fewer than {SPECK} pixels, and count like others"
        log.assume(Assumed(text, "specks"))
    return rows


def _rows(
    item: Labelled,
    kinds: frozenset[str],
    frame: Frame,
    asked: Reading,
    rule: MaskRule | None,
) -> Iterator[Row | LeftOut]:
    """One row for each kind of object that the image is chosen for."""
    group = item.group or item.image.name
    if isinstance(item.label, float | int | Mapping):
        if kinds and isinstance(item.image.source, Path):
            header(item.image.source, asked.rendering)
        found = item.label if isinstance(item.label, Mapping) else {"measure": float(item.label)}
        for kind in kinds:
            yield Row(kind, item.image, found, group, None)
        return
    chosen = []
    for kind in sorted(kinds):
        marks = _of_kind(item.label, kind)
        n = len(marks) if isinstance(marks, tuple) else 1
        if isinstance(marks, tuple):
            marks = tuple(mark for mark in marks if CROWD not in mark.flags)
        if not marks:
            yield LeftOut(item.image.name, f"its {kind} is a crowd (iscrowd), no single object")
        elif asked.objects == "single" and n > 1:
            yield LeftOut(item.image.name, f"it has {n} objects of {kind}{SEVERAL}")
        else:
            chosen.append((kind, marks))
    if not chosen:
        return
    width, height, orientation = header(cast(Path, item.image.source), asked.rendering)
    size, window = (width, height), frame.window(width, height)
    has_place = not (2 <= orientation <= 4 or _may_be_turned(item, size, orientation))
    options = {"truncated": asked.skip_truncated, "difficult": asked.skip_difficult}
    avoided = {flag for flag, is_avoided in options.items() if is_avoided}
    for kind, marks in chosen:
        flags = set() if isinstance(marks, Path) else {flag for m in marks for flag in m.flags}
        if flagged := sorted(avoided & flags):
            yield LeftOut(item.image.name, f"its {kind} is marked {flagged[0]}{AS_ASKED}")
            continue
        _check_turn(item, size, orientation, frame, asked)
        if isinstance(marks, Path):
            of_set = cast(MaskRule, rule)
            seen = _seen_in_mask(marks, item.image.source, size, orientation, window, of_set)
        elif asked.marks == "masks":
            seen = [_seen_in_shape(item, mark, size, orientation, window) for mark in marks]
        else:
            upright_boxes = _upright_boxes(item, marks, width, height, orientation)
            seen = [_Seen(*share_of(box, window), box) for box in upright_boxes]
        if isinstance(marks, Path) and asked.objects == "single" and len(seen) > 1:
            yield LeftOut(item.image.name, f"it has {len(seen)} objects{SEVERAL}")
            continue
        counted = _counted(seen, kind, asked.objects)
        shares, of_objects = [(s.area, s.height) for s in counted], [s.box for s in counted]
        targets = {
            name: target_value(name, shares, of_objects, frame, window)
            if name != CLASS
            else kind * (len(kinds) == 1) or math.nan
            for name in asked.measures
        }
        box = None if asked.objects == "mean" else counted[0].box
        drawn = tuple(each.shape or each.box for each in counted)
        marked = marks if isinstance(marks, Path) else drawn
        box, marked = (box, marked) if has_place else (None, ())
        n_specks = 0
        if isinstance(marks, Path):
            left, top, right, bottom = window
            shown = (right - left) * (bottom - top)
            n_specks = sum(each.area * shown < SPECK - 0.5 for each in counted)
        yield Row(kind, item.image, targets, group, box, marked, n_specks)


def target_value(
    name: str,
    shares: Sequence[tuple[float, float]],
    boxes: Sequence[Box],
    frame: Frame,
    window: Box,
) -> float:
    """The mean of a measure over objects, from their shares of area and height, and their boxes."""
    if name in OF_BOX:
        values = [OF_BOX[name](in_shares(box, window)) for box in boxes]
    else:
        values = [measure_named(name)(area, height, frame) for area, height in shares]
    return float(np.mean(values))


def _of_kind(label: tuple[Mark, ...] | Path, kind: str) -> tuple[Mark, ...] | Path:
    """The objects of a kind, or the mask."""
    return label if isinstance(label, Path) else tuple(m for m in label if m.kind == kind)


def _may_be_turned(item: Labelled, size: tuple[int, int], orientation: int) -> bool:
    """Whether objects could have been drawn before or after the quarter turn of EXIF.

    Masks have the size of what they were drawn on, so only those of squares leave it open.
    """
    drawn_on = size if isinstance(item.label, Path) else item.size
    return orientation >= 5 and (drawn_on is None or drawn_on[0] == drawn_on[1])


def _check_turn(
    item: Labelled, size: tuple[int, int], orientation: int, frame: Frame, asked: Reading
) -> None:
    """Refuse what would differ if objects were drawn before EXIF turned their image, or after."""
    drawn = "outline" if asked.marks == "masks" else "box"
    drawn = "mask" if isinstance(item.label, Path) else drawn
    unsaid = f"and its annotation does not say whether its {drawn} was drawn before or after"
    if 2 <= orientation <= 4 and PLACES.intersection(asked.measures):
        raise DataError(
            f"its EXIF orientation {orientation} mirrors it or turns it by half, {unsaid}; save it "
            "upright"
        )
    is_same = AREAS.issuperset(asked.measures) and frame.fit == "squash" and drawn != "outline"
    if _may_be_turned(item, size, orientation) and not is_same:
        otherwise = "" if drawn == "outline" else "use an area with --fit squash, or "
        raise DataError(
            f"its EXIF orientation {orientation} turns it, {unsaid}; {otherwise}save it upright"
        )


def _upright_boxes(
    item: Labelled, marks: tuple[Mark, ...], width: int, height: int, orientation: int
) -> list[Box]:
    """Boxes in upright pixels; the size that they were drawn on says if they already are."""
    boxes = [mark.box for mark in marks]
    size = item.size or (width, height)
    if orientation >= 5 and item.size is None:
        turned = [upright(box, orientation, height, width) for box in boxes]
        is_inside = [box[2] <= width + ROUNDED and box[3] <= height + ROUNDED for box in boxes]
        boxes = [
            box if inside else other
            for box, other, inside in zip(boxes, turned, is_inside, strict=True)
        ]
    elif orientation >= 5 and size == (height, width) != (width, height):
        boxes = [upright(box, orientation, height, width) for box in boxes]
    elif size != (width, height):
        raise DataError(
            f"its boxes were drawn on {size[0]} x {size[1]} pixels, but the image has "
            f"{width} x {height}; give the image that they were drawn on"
        )
    return [clipped(box, width, height) for box in boxes]


def _seen_in_shape(
    item: Labelled, mark: Mark, size: tuple[int, int], orientation: int, window: Box
) -> _Seen:
    """An object with an outline or runs of pixels; it is turned with its image."""
    if mark.shape is None:
        raise DataError(f"its {mark.kind} has no mask; --marks boxes measures its box")
    drawn_on = item.size or size
    is_turned = orientation >= 5 and drawn_on == size[::-1] != size
    if drawn_on != size and not is_turned:
        raise DataError(
            f"its masks were drawn on {drawn_on[0]} x {drawn_on[1]} pixels, but the image has "
            f"{size[0]} x {size[1]}; give the image that they were drawn on"
        )
    mask, x, y = covered(mark.shape, *drawn_on)
    if is_turned:
        whole = np.zeros(drawn_on[::-1], dtype=bool)
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        mask, x, y = turned(whole, orientation), 0, 0
    seen_from_it = window[0] - x, window[1] - y, window[2] - x, window[3] - y
    found = shares_of_labels(mask.astype(np.uint8), seen_from_it)
    if not found:
        raise DataError(f"the mask of its {mark.kind} marks no pixel; fix it")
    area, tall, (left, top, right, bottom) = found[0]
    box = left + x, top + y, right + x, bottom + y
    return _Seen(area, tall, box, None if is_turned else mark.shape)


def _seen_in_mask(
    file: Path,
    image: object,
    size: tuple[int, int],
    orientation: int,
    window: Box,
    rule: MaskRule,
) -> list[_Seen]:
    """Each object of a mask; one that was drawn before EXIF turned its image is turned too."""
    try:
        labels = labels_as(file, rule, size, orientation)
    except DataError as error:
        raise DataError(f"its mask {file.name} cannot be used: {error}") from error
    if labels.shape != size[::-1]:
        raise DataError(
            f"its mask has {labels.shape[1]} x {labels.shape[0]} pixels, the image {size[0]} x "
            f"{size[1]}; give a mask of the same size"
        )
    _check_space(file, image)
    found = shares_of_labels(labels, window)
    if not found:
        raise DataError("its mask marks no pixel; mark its object, or remove the image")
    return [_Seen(*each) for each in found]


def _check_space(mask: Path, image: object) -> None:
    """Refuse a mask of a volume whose voxels are not those of its image."""
    if not isinstance(image, Path) or {form_of(mask), form_of(image)} != {NIFTI}:
        return
    if not same_space(mask, image):
        raise DataError(
            f"its mask {mask.name} has its voxels in other places than the image, by their affines;"
            " resample it to the image"
        )


def _counted(seen: list[_Seen], kind: str, objects: str) -> list[_Seen]:
    """The objects that are measured, of those that are shown."""
    seen = [each for each in seen if each.area > 0]
    if not seen:
        raise DataError(
            f"its {kind} lies outside the part that the network is shown; "
            "--fit squash or pad shows all of it"
        )
    return seen if objects == "mean" else [max(seen, key=lambda each: each.area)]
