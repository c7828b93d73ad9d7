"""Pixels and nuclei at a coarser resolution: means over areas, exactly, and the blur they have.

An image resampled by f: each pixel of the result is the mean over f x f pixels, partly covered
pixels counted in proportion. Nuclei are never mixed: a pixel belongs to nuclei if they cover half
of it, and then to the one that covers most.

Shapes: h x w pixels of the image, H x W of the resampled image; k nuclei.
"""

from typing import TypeAlias, cast

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8
from scipy import ndimage, sparse
from skimage.measure import label

SMALLEST = 3  # px of a nucleus, graziani2021
_EDGES = 0.01  # share of pixels, those of the steepest edges, that the blur is estimated from
_STRIP = 64  # rows resampled at once, to bound memory; even, so that ties alternate on
_ROUNDING = 1e-9

Marks: TypeAlias = Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]


def areas_of_nuclei(labels: Integer[np.ndarray, "h w"]) -> Int64[np.ndarray, " k"]:
    """Areas, in pixels, of the nuclei that lie completely inside and have 3 pixels or more."""
    areas = np.bincount(labels.ravel()).astype(np.int64)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        areas[edge] = 0
    areas[0] = 0  # the background
    return areas[areas >= SMALLEST]


def n_whole(n: float | int, factor: float) -> int:
    """How many squares of `factor` pixels fit."""
    return int(n / factor + _ROUNDING)


def _weights(
    n: int, factor: float, start: float = 0.0, count: int | None = None
) -> sparse.csr_array:
    """Of the n pixels in a row, for the means from start + i f to start + (i + 1) f: (N, n)."""
    whole = n_whole(n - start, factor) if count is None else count
    begin, pixel = start + np.arange(whole)[:, None] * factor, np.arange(n)
    overlap = np.minimum(begin + factor, pixel + 1) - np.maximum(begin, pixel)
    overlap[overlap < _ROUNDING] = 0
    return sparse.csr_array(overlap / overlap.sum(axis=1, keepdims=True))


def resampled(
    values: UInt8[np.ndarray, "h w c"],
    factor: float,
    corner: tuple[float, float] = (0.0, 0.0),
    side: int | None = None,
) -> Float64[np.ndarray, "height width c"]:
    """The mean over squares of `factor` x `factor` pixels; a remainder right and below is dropped.

    Pillow's BOX takes whole pixels only, which at 4/3 are one or two in turn.

    Args:
        corner: left and top of the first square, in pixels.
        side: pixels of the result across and down, instead of as many as there are.
    """
    left, top = corner
    rows = _weights(values.shape[0], factor, top, side)
    columns = _weights(values.shape[1], factor, left, side)
    planes = [rows @ values[..., c].astype(np.float64) @ columns.T for c in range(values.shape[2])]
    return np.stack(planes, axis=-1)


def resampled_nuclei(marks: Marks, factor: float) -> Int64[np.ndarray, "height width"]:
    """The number of the nucleus at each pixel of the resampled tile, 0 for none."""
    if marks.dtype == bool:
        rows, columns = (_weights(n, factor) for n in marks.shape)
        covered = rows @ marks.astype(np.float64) @ columns.T
        closed = ndimage.binary_closing(np.pad(_is_marked(covered), 2), np.ones((2, 2)))
        return cast(np.ndarray, label(closed[2:-2, 2:-2])).astype(np.int64)
    return _resampled_labels(marks, factor)


def _resampled_labels(
    labels: Integer[np.ndarray, "h w"], factor: float
) -> Int64[np.ndarray, "height width"]:
    rows, columns = (_weights(n, factor) for n in labels.shape)
    height, width = (n_whole(n, factor) for n in labels.shape)
    marked = np.flatnonzero(labels)
    one_hot = sparse.csr_array(
        (np.ones(marked.size), (marked, labels.ravel()[marked])),
        shape=(labels.size, int(labels.max()) + 1),
    )
    nuclei = np.zeros((height, width), dtype=np.int64)
    for top in range(0, height, _STRIP):
        strip = nuclei[top : top + _STRIP]
        of_pixels = sparse.kron(rows[top : top + _STRIP], columns, "csr")
        share = sparse.coo_array(of_pixels @ one_hot)
        order = np.lexsort((share.col, share.data.round(9), share.row))
        # of each pixel the last one stays: that of the largest share
        strip.ravel()[share.row[order]] = share.col[order]
        covered = np.bincount(share.row, share.data, minlength=strip.size).astype(np.float64)
        strip[~_is_marked(covered.reshape(strip.shape))] = 0
    return nuclei


def _is_marked(covered: Float64[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Whether nuclei cover half of a pixel.

    Where it is exactly half, every other pixel counts as theirs: at a factor of 2 this is so
    frequent that areas would all be too large, or too small.
    """
    down, right = np.indices(covered.shape)
    half = 0.5 + _ROUNDING * np.where((down + right) % 2, 1, -1)
    return covered > half


def estimated_blur(pixels: UInt8[np.ndarray, "h w 3"]) -> float | None:
    """Standard deviation of the point spread, in pixels, estimated from the steepest edges.

    An edge of variance v, smoothed by s, has a slope in proportion to (v + s²)^-1/2. So the slopes
    g₁, g₂ after smoothing by 1 and 2 pixels give v = (4 - q) / (q - 1), q = (g₁ / g₂)². Smoothing
    by a pixel suppresses noise. None where there is no edge.
    """
    grey = pixels.mean(axis=2)
    slope, smoothed = (ndimage.gaussian_gradient_magnitude(grey, sigma) for sigma in (1.0, 2.0))
    edges = (slope >= np.quantile(slope, 1 - _EDGES)) & (smoothed > _ROUNDING)
    ratio = (slope[edges] / smoothed[edges]) ** 2
    if not ratio.size:
        return None
    q = np.median(ratio)
    return float(np.sqrt(max((4 - q) / (q - 1), 0.0))) if q > 1 else None


def spread(factor: float) -> float:
    """Variance that averaging adds to the point spread, in pixels of the patch.

    (1 - 1/f²) / 12 for whole f; more for others, because pixels are split.
    """
    weights = _weights(1000, factor).toarray()
    centres = (np.arange(len(weights)) + 0.5) * factor
    distance = np.arange(1000) + 0.5 - centres[:, None]
    return float((weights * distance**2).sum(axis=1).mean() / factor**2)
