"""Outlines and runs of pixels, of annotation files, as masks.

Outlines are polygons in continuous pixels; a pixel is covered if its centre is inside. Runs are
lengths of alternately unmarked and marked pixels, column after column, as in COCO.

Shapes: h x w pixels of an image, a x b of the part of it that is covered.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from jaxtyping import Bool, Integer

from ..errors import DataError
from .assumptions import Assumed
from .decoding import MOST_PIXELS

Ring: TypeAlias = tuple[tuple[float, float], ...]
Parts: TypeAlias = tuple[tuple[Ring, ...], ...]  # each part is an outline and its holes


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of pixels of a mask of the given height and width."""

    counts: tuple[int, ...]
    height: int
    width: int


Shape: TypeAlias = Parts | Runs
Size: TypeAlias = tuple[int, int] | None  # width and height, if they are stated
CORNERS = 360  # of an ellipse: its area is 0.005 % too small


def is_shape(mark: Any) -> TypeGuard[Shape]:
    """Whether it is a shape, and no box."""
    return isinstance(mark, Runs) or isinstance(mark[0], tuple)


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


def drawn(
    shapes: Iterable[Shape], width: int, height: int
) -> tuple[Integer[np.ndarray, "h w"], int]:
    """0 for the background and 1, 2, ... for shapes on an image, and how many overlap others.

    A pixel of several shapes belongs to the last.

    Raises:
        DataError: if a shape does not fit an image of this width and height.
    """
    labels, n_overlapping = np.zeros((height, width), dtype=np.int64), 0
    for number, shape in enumerate(shapes, start=1):
        marked, x, y = covered(shape, width, height)
        part = labels[y : y + marked.shape[0], x : x + marked.shape[1]]
        n_overlapping += bool(part[marked].any())
        part[marked] = number
    return labels, n_overlapping


def _inside(ring: Ring, left: int, top: int, size: tuple[int, ...]) -> Bool[np.ndarray, "a b"]:
    from skimage.draw import polygon2mask  # here, since few data need it

    corners = np.array(ring)[:, ::-1] - (top + 0.5, left + 0.5)  # pixel centres are whole numbers
    return polygon2mask(size, corners)


def _marked(runs: Runs) -> Bool[np.ndarray, "h w"]:
    is_marked = np.arange(len(runs.counts)) % 2 == 1
    return np.repeat(is_marked, runs.counts).reshape(runs.width, runs.height).T


def ring_of(points: Any) -> Ring:
    """The corners of a polygon, given as pairs.

    Raises:
        DataError: if there are fewer than three, or one is not finite.
    """
    ring = tuple((float(x), float(y)) for x, y, *_ in points)
    if len(ring) < 3 or not all(math.isfinite(value) for corner in ring for value in corner):
        raise DataError("a polygon needs three corners")
    return ring


def around(corners: list[float]) -> tuple[float, float, float, float]:
    """The box around corners given as x, y, x, y, ..."""
    xs, ys = corners[::2], corners[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def ellipse(x: float, y: float, across: float, down: float) -> Ring:
    """Corners on an ellipse, given by its centre and its two radii."""
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    xs, ys = x + across * np.cos(angles), y + down * np.sin(angles)
    return tuple(zip(xs.tolist(), ys.tolist(), strict=True))


def scaled(shape: Shape | None, width: float, height: float) -> Shape | None:
    """Outlines whose corners are multiplied; runs of pixels stay."""
    if shape is None or isinstance(shape, Runs):
        return shape
    return tuple(
        tuple(tuple((x * width, y * height) for x, y in ring) for ring in part) for part in shape
    )


def joined(shapes: Sequence[Shape | None], size: Size) -> Shape | None:
    """One shape of the shapes of an object on an image of this size; None if one is missing.

    Raises:
        DataError: if runs of pixels are among several, and a shape does not fit the image.
    """
    if len(shapes) == 1:
        return shapes[0]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    outlines = [shape for shape in known if not isinstance(shape, Runs)]
    if len(outlines) == len(known):
        return tuple(part for shape in outlines for part in shape)
    check_part(size or (0, 0), 0, 0, size)
    return runs_of(drawn(known, *(size or (0, 0)))[0] > 0, 0, 0, size)


def check_part(part: tuple[int, int], left: int, top: int, size: Size) -> None:
    """Refuse a part of an image, by its width and height, that reaches outside it.

    Raises:
        DataError: if it does, or if the image has no known size, or one that no image has.
    """
    (across, down), (width, height) = part, size or (0, 0)
    if width * height > MOST_PIXELS:
        raise DataError(f"the stated size of its image, {width} x {height}, is none; correct it")
    if min(*part, left, top) < 0 or left + across > width or top + down > height:
        raise DataError(
            f"its mask of {across} x {down} pixels at {left}, {top} does not fit the stated size "
            f"of its image ({width} x {height}); export it again"
        )


def runs_of(part: Bool[np.ndarray, "a b"], left: int, top: int, size: Size) -> Runs:
    """The runs of a mask that is given for a part of an image.

    Raises:
        DataError: if the image has no known size, or the part reaches outside it.
    """
    check_part((part.shape[1], part.shape[0]), left, top, size)
    width, height = size or (0, 0)
    whole = np.zeros((height, width), dtype=bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    pixels = whole.T.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=False)).tolist()
    return Runs(tuple(np.diff([0, *changes, pixels.size]).tolist()), height, width)


@dataclass(slots=True)
class Tally:
    """How many shapes of annotations were not measured as they are, for what is stated of them.

    Args:
        has_shapes: whether masks are measured, so that outlines are.
        without_area: shapes by their type.
    """

    has_shapes: bool = True
    n_outlines: int = 0
    n_nuclei: int = 0  # of cells of QuPath
    n_cells: int = 0  # without an outline of the nucleus
    n_overlapping: int = 0  # in an image of labels
    without_area: Counter[str] = field(default_factory=Counter)

    def statements(self) -> Iterator[Assumed]:
        if self.n_outlines and not self.has_shapes:
            yield Assumed(f"{self.n_outlines} outlines count by the boxes around them", "outlines")
        if self.n_nuclei:
            text = f"{self.n_nuclei} cells are measured by the outlines of their nuclei"
            yield Assumed(text, "nuclei")
        if self.n_cells:
            yield Assumed(
                f"{self.n_cells} cells have no outline of their nucleus, and are measured by that "
                "of the cell",
                "nuclei",
            )
        if self.n_overlapping:
            text = f"{self.n_overlapping} outlines overlap others, and a pixel belongs to the last"
            yield Assumed(text, "overlaps")
        for shape, n in self.without_area.items():
            text = f"{n} shapes of the type {shape} have no area, and do not count"
            yield Assumed(text, "shapes")
