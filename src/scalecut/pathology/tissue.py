"""Where a tile or slide shows stained tissue: by a small copy of it, without glass and pen marks.

Tissue is what is saturated: (max - min) / max of red, green and blue, above Otsu's threshold
(`otsu1979`). Pen marks are regions of a colour that stains do not have (`PENS`, and black), in a
copy averaged over 5 x 5 pixels, larger than nuclei are. On the 44 tiles of MoNuSeg the largest
region of such a colour has 0.14 % of a tile (docs/log.md).

Shapes: h x w pixels of the small copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label

from ..errors import DataError
from .slides import LARGE, Box, Field, SlideField

DARK = 60  # of 255, the brightest channel of half of the pixels: not lit from behind
SATURATED = (0.04, 0.10)  # bounds of Otsu's threshold of the saturation, 0 to 1
LEAST_TISSUE = 0.1  # share of a tile or a view
LEAST_OF_SLIDE = 0.001  # share of a slide, which is mostly glass
MOST_PEN = 0.01  # share of a patch or view
# by the colour of the pen: the first and last hue in degrees, and the least saturation
PENS = {"green": (75, 180, 0.2), "blue": (180, 240, 0.5), "red": (345, 372, 0.75)}
BLACK = (90, 30)  # of 255: the brightest channel, and its distance from the darkest, are less
SMALLEST_PEN = 0.002  # share of the area of a region, and
SMALLEST_PEN_SIDE = 400  # pixels of the tile or slide along a square of its area; nuclei have 100
_PEN_WINDOW = 5  # pixels that colours of pens are averaged over
_LONGEST, _LONGEST_OF_SLIDES = 512, 2048  # pixels in which tissue is searched


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """Where a small copy of a tile or slide shows tissue, and where pen marks."""

    found: Bool[np.ndarray, "h w"]
    pen: Bool[np.ndarray, "h w"]  # never tissue
    size: tuple[int, int]  # width and height of the tile or slide

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the copy per pixel of the tile or slide, across and down."""
        height, width = self.found.shape
        return width / self.size[0], height / self.size[1]

    def is_in(self, box: Box) -> bool:
        """Whether the part in a box shows tissue, and no pen mark."""
        across, down = self.scale
        columns = slice(int(box[0] * across), int(box[2] * across) + 1)
        rows = slice(int(box[1] * down), int(box[3] * down) + 1)
        if self.found[rows, columns].mean() < LEAST_TISSUE:
            return False
        return bool(self.pen[rows, columns].mean() <= MOST_PEN)


def tissue(field: Field) -> Tissue:
    """Where a tile or slide shows stained tissue.

    Otsu's threshold, of all pixels that are no pen marks, is bounded by `SATURATED`: where all is
    tissue, Otsu would divide tissue from tissue.

    Raises:
        DataError: if hardly any is found, or the tile or slide is dark.
    """
    is_large = max(field.size) > LARGE
    copy = np.asarray(field.small(_LONGEST_OF_SLIDES if is_large else _LONGEST))
    brightest, darkest = copy.max(axis=2), copy.min(axis=2)
    if np.median(brightest) < DARK:
        raise DataError(
            "it is dark, as in fluorescence; only tissue that is lit from behind can be used"
        )
    pen = pen_marks(copy, field.size)
    saturation = (brightest - darkest) / np.maximum(brightest, 1.0)
    others = saturation[~pen]
    is_flat = not others.size or np.ptp(others) == 0
    threshold = SATURATED[0] if is_flat else float(threshold_otsu(others))
    found = (saturation > np.clip(threshold, *SATURATED)) & ~pen
    least = LEAST_OF_SLIDE if isinstance(field, SlideField) else LEAST_TISSUE
    if found.mean() < least:
        marked = f", and {100 * pen.mean():.0f} % is marked by a pen" if pen.any() else ""
        raise DataError(
            f"it shows no stained tissue ({100 * found.mean():.2g} % of its area{marked})"
        )
    return Tissue(found, pen, field.size)


def pen_marks(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Where a small copy is marked by a green, blue, red or black pen.

    Args:
        size: width and height of the tile or slide.
    """
    smooth = ndimage.uniform_filter(pixels.astype(np.float32), _PEN_WINDOW, axes=(0, 1))
    brightest = smooth.max(axis=2)
    distance = brightest - smooth.min(axis=2)
    saturation = distance / np.maximum(brightest, 1.0)
    is_pen = (brightest < BLACK[0]) & (distance < BLACK[1])
    coloured = saturation > min(least for _, _, least in PENS.values())
    hue = _hue(smooth[coloured])
    is_coloured = np.zeros(len(hue), dtype=bool)
    for first, last, least in PENS.values():
        is_coloured |= ((hue - first) % 360 < last - first) & (saturation[coloured] > least)
    is_pen[coloured] |= is_coloured
    regions = cast(np.ndarray, label(is_pen, connectivity=2))
    least = max(SMALLEST_PEN, SMALLEST_PEN_SIDE**2 / (size[0] * size[1]))
    large = np.bincount(regions.ravel()) >= least * is_pen.size
    large[0] = False  # what is not marked
    wide = np.ones((2 * _PEN_WINDOW - 1, 2 * _PEN_WINDOW - 1), dtype=bool)
    return ndimage.binary_dilation(large[regions], wide)  # colours mix at the rim


def _hue(colours: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """In degrees: 0 is red, 120 green, 240 blue."""
    red, green, blue = colours.T
    brightest = colours.max(axis=1)
    distance = np.maximum(brightest - colours.min(axis=1), 1e-9)
    sixths = np.select(
        [brightest == red, brightest == green],
        [((green - blue) / distance) % 6, (blue - red) / distance + 2],
        (red - green) / distance + 4,
    )
    return 60 * sixths


def marked_by_pens(shares: Mapping[str, float], n: int) -> list[str]:
    """A sentence about pen marks on n tiles and slides, if there are any.

    Args:
        shares: of the area under pen marks, by name, of those that have some.
    """
    if not shares:
        return []
    name, share = max(shares.items(), key=lambda item: item[1])
    return [
        f"Pen marks on {len(shares)} of {n} are no tissue (most on {name}, {100 * share:.1f} % of "
        "its area)."
    ]
