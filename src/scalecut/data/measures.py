"""The scale of an object: the share that it fills of the image shown to the network.

Shapes: image h x w. All pixel coordinates are continuous, (left, top, right, bottom), in the
upright image (EXIF orientation applied), unless a name says stored.

Source of the default measure, box area / image area without a square root: `graziani2021` in
docs/references.bib.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Integer
from scipy import ndimage

from ..errors import DataError, check_names

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
FITS = ("squash", "crop", "pad")


@dataclass(frozen=True, slots=True)
class Frame:
    """The window of an image that is shown to a network, and its size.

    Args:
        height, width: the network's input, in pixels.
        fit: `squash` shows the whole image, stretched (the paper); `crop` its centre, as timm
            evaluates; `pad` the whole image on a larger canvas, its proportions kept.
        shown: for `crop`, share of the shorter side that is kept (timm's `crop_pct`).
    """

    height: int
    width: int
    fit: str = "squash"
    shown: float = 1.0

    def __post_init__(self) -> None:
        check_names(self.fit, FITS, "fit")
        if min(self.height, self.width) < 1:
            raise DataError(
                "Width and height of a frame must be at least 1 pixel, "
                f"got {self.width} x {self.height}."
            )
        if not 0 < self.shown <= 1:
            raise DataError(
                f"The shown share of a crop must be above 0 and at most 1, got {self.shown:g}."
            )

    def window(self, image_width: int, image_height: int) -> Box:
        """The rectangle of the upright image that is stretched to (height, width).

        For `pad` it reaches beyond the image.
        """
        aspect = self.width / self.height
        if self.fit == "squash":
            width, height = float(image_width), float(image_height)
        elif self.fit == "crop":
            width = min(image_width, image_height * aspect) * self.shown
            height = min(image_height, image_width / aspect) * self.shown
        else:
            width = max(image_width, image_height * aspect)
            height = max(image_height, image_width / aspect)
        return (
            (image_width - width) / 2,
            (image_height - height) / 2,
            (image_width + width) / 2,
            (image_height + height) / 2,
        )


Measure = Callable[[float, float, Frame], float]  # of the shares of area and height, and the frame

MEASURES: dict[str, Measure] = {
    "area": lambda area, height, frame: area,
    "sqrt-area": lambda area, height, frame: math.sqrt(area),
    "log-area": lambda area, height, frame: math.log2(area),  # in octaves of area
    "height": lambda area, height, frame: height,
    "pixels": lambda area, height, frame: area * frame.height * frame.width,  # after resizing
}


OF_BOX: Mapping[str, Callable[[Box], float]] = {
    "x": lambda box: (box[0] + box[2]) / 2,
    "y": lambda box: (box[1] + box[3]) / 2,
    "centre-distance": lambda box: math.hypot(box[0] + box[2] - 1, box[1] + box[3] - 1) / 2,
    "aspect": lambda box: math.log2((box[2] - box[0]) / (box[3] - box[1])),
}  # of a box in shares of what is shown, 0 to 1 inside; aspect is that of the shown shape
PLACES = frozenset({"x", "y"})  # others are the same after a half turn
CLASS = "class"  # of the object, which is no number
AREAS = frozenset(
    {"area", "sqrt-area", "log-area", "pixels", CLASS}
)  # the same after a quarter turn


def in_shares(box: Box, window: Box) -> Box:
    """A box in pixels, in shares of the window: 0 to 1 inside it."""
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    across, down = (box[0] - left, box[2] - left), (box[1] - top, box[3] - top)
    return across[0] / width, down[0] / height, across[1] / width, down[1] / height


def measure_named(name: str) -> Measure:
    """The function of shares that `MEASURES` holds under this name."""
    check_names(name, tuple(MEASURES), "measure")
    return MEASURES[name]


def share_of(box: Box, window: Box) -> tuple[float, float]:
    """Shares of the window's area and height that the box fills, clipped to the window."""
    width = max(0.0, min(box[2], window[2]) - max(box[0], window[0]))
    height = max(0.0, min(box[3], window[3]) - max(box[1], window[1]))
    if width == 0:
        height = 0.0
    window_width, window_height = window[2] - window[0], window[3] - window[1]
    return width * height / (window_width * window_height), height / window_height


def share_of_mask(mask: Bool[np.ndarray, "h w"], window: Box) -> tuple[float, float]:
    """Shares of the window's area and height that a mask fills, from its first to its last row.

    A pixel cut by an edge of the window counts with the share of it that lies inside.
    """
    left, top, right, bottom = window
    rows = _inside(mask.shape[0], top, bottom)
    seen = rows * (mask @ _inside(mask.shape[1], left, right))  # (h,) pixels inside, row by row
    lines = np.flatnonzero(seen)
    if not lines.size:
        return 0.0, 0.0
    height = rows[lines[0] : lines[-1] + 1].sum()
    return float(seen.sum() / ((right - left) * (bottom - top))), float(height / (bottom - top))


def shares_of_labels(
    labels: Integer[np.ndarray, "h w"], window: Box
) -> list[tuple[float, float, Box]]:
    """Shares of area and height, and the box, of each object labelled 1, 2, ... without gaps."""
    left, top, right, bottom = window
    found = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        x, y = columns.start, rows.start
        seen_from_it = left - x, top - y, right - x, bottom - y
        shares = share_of_mask(labels[rows, columns] == label, seen_from_it)
        found.append((*shares, (float(x), float(y), float(columns.stop), float(rows.stop))))
    return found


def _inside(n: int, start: float, stop: float) -> Float64[np.ndarray, " n"]:
    edges = np.arange(n, dtype=np.float64)
    return np.clip(np.minimum(edges + 1, stop) - np.maximum(edges, start), 0.0, 1.0)


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to n - 1, evenly spaced."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def clipped(box: Box, width: int, height: int, slack: float = 1.0) -> Box:
    """The box clipped to its image; refused if it is empty or outside by more than the slack.

    Args:
        slack: in pixels; 1 covers corners counted from 1 and edges that were rounded.
    """
    left, top, right, bottom = box
    corners = " ".join(f"{edge:g}" for edge in box)
    if not (left < right and top < bottom):  # also refuses NaN
        raise DataError(
            f"box {corners} is empty: its right and bottom must lie beyond its left and top; "
            "fix the annotation"
        )
    if min(left, top) < -slack or right > width + slack or bottom > height + slack:
        raise DataError(
            f"box {corners} reaches outside the image of {width} x {height}; fix the annotation, "
            "or give the image that it was drawn on"
        )
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def upright(box: Box, orientation: int, stored_width: int, stored_height: int) -> Box:
    """A box in stored pixels after the quarter turn of EXIF orientation 5 to 8."""
    left, top, right, bottom = box
    flipped_x = stored_width - right, stored_width - left
    flipped_y = stored_height - bottom, stored_height - top
    across = flipped_y if orientation in (6, 7) else (top, bottom)
    down = flipped_x if orientation in (7, 8) else (left, right)
    return across[0], down[0], across[1], down[1]
