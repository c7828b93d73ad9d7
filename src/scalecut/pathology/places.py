"""Places on the tissue of a tile or slide, spread evenly, the same at every resolution.

A place is the centre of one patch per resolution. It is used if the patch of every resolution lies
inside, shows tissue on half of its area or more, and hardly any pen mark. Places are drawn one
after another, each as far from the others as the best of some random candidates
(`mitchell1991`), so that fewer places are the first of more.

Shapes: p places; h x w pixels of the small copy in which tissue was found.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.ndimage import uniform_filter1d

from .tissue import MOST_PEN, Tissue

HALF = 0.5  # least share of tissue in a patch
CANDIDATES, MOST = 4, 1024  # for each place, times the number of those before; at most


def usable_places(shown_in: Tissue, extent: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of the small copy that a patch may be centred on.

    Args:
        extent: side of the patch in pixels of the tile or slide.
    """
    across, down = shown_in.scale
    tissue, pen = (
        _averaged(marked, max(1, round(extent * down)), max(1, round(extent * across)))
        for marked in (shown_in.found, shown_in.pen)
    )
    usable = (tissue >= HALF) & (pen <= MOST_PEN)
    for axis, (n, scale) in enumerate(zip(shown_in.size[::-1], (down, across), strict=True)):
        begin = np.arange(usable.shape[axis]) / scale  # of each pixel, in pixels of the slide
        inside = (begin + 1 / scale >= extent / 2) & (begin <= n - extent / 2)
        usable &= inside[:, None] if axis == 0 else inside
    return usable


def _averaged(
    marked: Bool[np.ndarray, "h w"], height: int, width: int
) -> Float32[np.ndarray, "h w"]:
    """The share of a window around each pixel that is marked; nothing is outside."""
    columns = uniform_filter1d(marked.astype(np.float32), height, axis=0, mode="constant")
    return uniform_filter1d(columns, width, axis=1, mode="constant")


def common_places(
    shown_in: Tissue, extents: Sequence[int]
) -> tuple[Bool[np.ndarray, "h w"], Sequence[int]]:
    """Where patches of all extents can be centred, and these extents.

    The largest are skipped until there is such a place; none is left if there is none.

    Args:
        extents: sides of patches in pixels of the tile or slide, ascending.
    """
    each = [usable_places(shown_in, extent) for extent in extents]
    for n in range(len(each), 0, -1):
        usable = np.logical_and.reduce(each[:n])
        if usable.any():
            return usable, extents[:n]
    return np.zeros_like(shown_in.found), ()


def spread_places(
    usable: Bool[np.ndarray, "h w"], n: int, rng: np.random.Generator
) -> Float64[np.ndarray, "p 2"]:
    """Places on usable pixels, far from each other: x and y in pixels of the small copy."""
    rows, columns = np.nonzero(usable)
    chosen = np.empty((n, 2))
    for number in range(n):
        drawn = rng.integers(len(rows), size=min(CANDIDATES * (number + 1), MOST))
        candidates = np.stack([columns[drawn], rows[drawn]], axis=1) + rng.random((len(drawn), 2))
        if number == 0:
            chosen[0] = candidates[0]
            continue
        apart = candidates[:, None] - chosen[None, :number]
        distance = (apart**2).sum(axis=2).min(axis=1)
        chosen[number] = candidates[np.argmax(distance)]
    return chosen


def corners(
    centres: Float64[np.ndarray, "p 2"], shown_in: Tissue, extent: int, largest: int
) -> Int64[np.ndarray, "p 2"]:
    """Left and top of the patches around places, in whole pixels of the tile or slide.

    Args:
        extent: side of these patches in pixels of the tile or slide.
        largest: that of the largest patches, by which all places are kept inside.
    """
    size = np.array(shown_in.size)
    at = np.clip(centres / shown_in.scale, largest / 2, size - largest / 2)
    return np.clip(np.rint(at - extent / 2).astype(np.int64), 0, size - extent)


def most_places(usable: Bool[np.ndarray, "h w"], shown_in: Tissue, extent: int, wanted: int) -> int:
    """How many places there are: as many as wanted, or as patches lie next to each other.

    A square of side s has (s / extent + 1)² centres of patches that do not overlap.
    """
    across, down = shown_in.scale
    side = float(usable.sum() / (across * down)) ** 0.5
    return min(wanted, int((side / extent + 1) ** 2))
