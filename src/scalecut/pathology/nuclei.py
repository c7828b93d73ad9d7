"""The nuclei of a slide in a window: outlines of QuPath, or a mask of the same size.

Outlines are drawn where they are needed, since the mask of a slide would not fit into memory.

Shapes: k outlines; h x w pixels of the slide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from jaxtyping import Bool, Float64, Integer

from ..data.decoding import suffix_of
from ..data.masks import MaskRule, marks_as
from ..data.outlines import Shape, Tally, covered
from ..data.pairs import GEOJSON, objects_in
from ..errors import DataError
from .resampling import Marks
from .slides import Corner, Field
from .tiles import check_turn


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Nuclei as polygons in pixels from a corner on; a pixel of several belongs to the last."""

    shapes: Sequence[Shape]
    boxes: Float64[np.ndarray, "k 4"]  # left, top, right, bottom
    size: tuple[int, int]  # width and height of what was scanned
    corner: Corner = (0, 0)  # of that, in pixels of the slide
    overlapping: set[int] = field(default_factory=set)  # those seen to overlap others

    def window(self, corner: Corner, extent: int) -> Integer[np.ndarray, "extent extent"]:
        """The number of the nucleus at each pixel of a square, from 1; 0 where there is none."""
        labels = np.zeros((extent, extent), dtype=np.int64)
        left, top = corner[0] - self.corner[0], corner[1] - self.corner[1]
        reach = self.boxes - (left, top, left, top)
        inside = (reach[:, :2] < extent).all(axis=1) & (reach[:, 2:] > 0).all(axis=1)
        for number, at in enumerate(np.flatnonzero(inside).tolist(), start=1):
            mask, x, y = covered(self.shapes[at], *self.size)
            x, y = x - left, y - top
            rows = slice(max(y, 0), min(y + mask.shape[0], extent))
            columns = slice(max(x, 0), min(x + mask.shape[1], extent))
            part = mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            if labels[rows, columns][part].any():
                self.overlapping.add(at)
            labels[rows, columns][part] = number
        return labels


@dataclass(frozen=True, slots=True, eq=False)
class MaskImage:
    """Nuclei as a mask of the whole slide."""

    marks: Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]

    def window(self, corner: Corner, extent: int) -> Marks:
        """As of `Outlines`; of a binary mask, whether there is a nucleus."""
        left, top = corner
        return self.marks[top : top + extent, left : left + extent]


Nuclei: TypeAlias = Outlines | MaskImage


def nuclei_of(file: Path, rule: MaskRule, slide: Field, tally: Tally) -> Nuclei:
    """The nuclei of a slide; outlines are in pixels of what was scanned, as QuPath exports them.

    Raises:
        DataError: if the file cannot be read, is of another size, or marks nothing.
    """
    try:
        check_turn(file, slide.size, slide.orientation)
        if suffix_of(file) == GEOJSON:
            marks = objects_in(file, "", tally)
            boxes = np.array([mark.box for mark in marks], dtype=np.float64)
            corner, size = slide.scanned
            _check_inside(boxes, size)
            return Outlines([cast(Shape, mark.shape) for mark in marks], boxes, size, corner)
        found = marks_as(file, rule, slide.size, slide.orientation)
        height, width = found.shape
        if (width, height) != slide.size:
            raise DataError(
                f"it has {width} x {height} pixels, the slide {slide.size[0]} x {slide.size[1]}; "
                "give a mask of the same size, or GeoJSON"
            )
    except DataError as error:
        raise DataError(f"its mask {file.name}: {error}") from error
    if not found.any():
        raise DataError(f"its mask {file.name} marks nothing; mark the nuclei")
    return MaskImage(found)


def _check_inside(boxes: Float64[np.ndarray, "k 4"], size: tuple[int, int]) -> None:
    reach = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    if min(reach[:2]) < -1 or reach[2] > size[0] + 1 or reach[3] > size[1] + 1:
        raise DataError(
            f"outlines reach from {reach[0]:g}, {reach[1]:g} to {reach[2]:g}, {reach[3]:g}, "
            f"outside the {size[0]} x {size[1]} that were scanned; export them in pixels of these "
            "(QuPath: without --no-crop)"
        )
