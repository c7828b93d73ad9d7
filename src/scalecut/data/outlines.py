"""Outlines and runs of pixels, of annotation files, as masks.

Outlines are polygons in continuous pixels; a pixel is covered if its centre is inside. Runs are
those of COCO: lengths of alternately unmarked and marked pixels, column after column.

Shapes: h x w pixels of an image, a x b of the part of it that is covered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool

from ..errors import DataError

Ring: TypeAlias = tuple[tuple[float, float], ...]
Parts: TypeAlias = tuple[tuple[Ring, ...], ...]  # each part is an outline and its holes


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of pixels of a mask of the given height and width."""

    counts: tuple[int, ...]
    height: int
    width: int


Shape: TypeAlias = Parts | Runs


def covered(shape: Shape, width: int, height: int) -> tuple[Bool[np.ndarray, "a b"], int, int]:
    """The mask of the part of an image that a shape covers, and its left and top in the image.

    Raises:
        DataError: if the shape does not fit an image of this width and height.
    """
    if isinstance(shape, Runs):
        if (shape.width, shape.height) != (width, height):
            raise DataError(
                f"its mask has {shape.width} x {shape.height} pixels, the image {width} x "
                f"{height}; give the image that it was drawn on"
            )
        return _marked(shape), 0, 0
    corners = np.array([corner for part in shape for ring in part for corner in ring])
    left, top = np.floor(corners.min(axis=0))
    right, bottom = np.ceil(corners.max(axis=0))
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        raise DataError(
            f"its outline reaches from {left:g}, {top:g} to {right:g}, {bottom:g}, outside the "
            f"image of {width} x {height}; give the image that it was drawn on"
        )
    x, y = max(int(left), 0), max(int(top), 0)
    size = min(int(bottom), height) - y, min(int(right), width) - x
    mask = np.zeros((max(size[0], 1), max(size[1], 1)), dtype=bool)
    for outline, *holes in shape:
        part = _inside(outline, x, y, mask.shape)
        for hole in holes:
            part &= ~_inside(hole, x, y, mask.shape)
        mask |= part
    return mask, x, y


def _inside(ring: Ring, left: int, top: int, size: tuple[int, ...]) -> Bool[np.ndarray, "a b"]:
    from skimage.draw import polygon2mask  # here, since few data need it

    corners = np.array(ring)[:, ::-1] - (top + 0.5, left + 0.5)  # pixel centres are whole numbers
    return polygon2mask(size, corners)


def _marked(runs: Runs) -> Bool[np.ndarray, "h w"]:
    is_marked = np.arange(len(runs.counts)) % 2 == 1
    return np.repeat(is_marked, runs.counts).reshape(runs.width, runs.height).T


def of_coco(segmentation: Any) -> Shape | None:
    """The shape that a segmentation of COCO states; None if it states none.

    Raises:
        DataError: if it is neither polygons nor runs.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            return _runs(segmentation["counts"], segmentation["size"])
        flat = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
        parts = tuple((ring_of(zip(part[::2], part[1::2], strict=True)),) for part in flat)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"its segmentation is neither polygons nor runs of pixels ({error}); fix it"
        ) from error
    return parts


def ring_of(points: Any) -> Ring:
    """The corners of a polygon, given as pairs.

    Raises:
        ValueError: if there are fewer than three, or one is not finite.
    """
    ring = tuple((float(x), float(y)) for x, y, *_ in points)
    if len(ring) < 3 or not all(math.isfinite(value) for corner in ring for value in corner):
        raise ValueError("a polygon needs three corners")
    return ring


def _runs(counts: str | Sequence[int], size: Sequence[int]) -> Runs:
    height, width = map(int, size)
    lengths = _decompressed(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if min(lengths) < 0 or sum(lengths) != height * width:
        raise ValueError(f"its runs do not add up to {width} x {height} pixels")
    return Runs(tuple(lengths), height, width)


def _decompressed(text: str) -> list[int]:
    """The lengths that a string of COCO holds: 5 bits per character, the least significant first.

    From the fourth on, the difference to the length before the last is stored.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for sign in text.encode("ascii"):
        bits = sign - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more follow
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value, shift = 0, 0
    return lengths
