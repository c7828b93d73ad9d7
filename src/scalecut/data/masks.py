"""What a mask means: the objects that the values or colours of a mask file stand for.

Used by `masks:` data and by the tiles of `pathology`.

Shapes: h x w pixels.
"""

from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool, Integer

from ..errors import DataError
from .decoding import decoded, opened

MOST_COLOURS = 4096  # a coloured mask has fewer, a photograph more
SMALLEST = 3  # pixels that a value covers on average, at least, if values stand for objects


def labels_of(file: Path) -> Integer[np.ndarray, "h w"]:
    """0 for the background, and 1, 2, ... for the other values or colours of a mask."""
    try:
        with opened(file) as stored:
            values = np.asarray(decoded(stored))
    except DataError as error:
        raise DataError(f"its mask {file.name} cannot be used: {error}") from error
    codes = _codes(values)
    found, labels = np.unique(codes, return_inverse=True)
    if stored.mode != "I;16" and len(found) > MOST_COLOURS:
        raise DataError(
            f"its mask {file.name} has {len(found)} colours, like a photograph; "
            "give one value or colour per object"
        )
    return labels.reshape(codes.shape) + (found[0] != 0)


def read_mask(file: Path) -> Bool[np.ndarray, "h w"] | Integer[np.ndarray, "h w"]:
    """The objects that a mask marks: bool if it has two values, else the number of each object.

    Values stand for objects if there are as many regions of one value as values (at most twice as
    many: an object may be in pieces). Grey values along the edges of two values, or the noise of
    JPEG, are cut by Otsu's threshold of the first channel (`graziani2021`) if few pixels lie
    between. All else is a photograph.
    """
    from skimage.filters import threshold_otsu  # here, since scikit-image loads slowly
    from skimage.measure import label

    with opened(file) as stored:
        values = np.asarray(decoded(stored))
    codes, first = _codes(values), values if values.ndim == 2 else values[..., 0]
    levels = np.unique(codes)
    if len(levels) == 1:
        raise DataError("it has one value only, so it marks nothing; mark its objects")
    if len(levels) == 2:
        return codes == levels[1]
    labels = np.where(codes == 0, 0, np.searchsorted(levels[levels != 0], codes) + 1)
    regions = cast(np.ndarray, label(labels))  # of equal values, connected over corners too
    n_regions, n_levels = int(regions.max()), np.count_nonzero(levels)
    if n_regions <= 2 * n_levels and SMALLEST * n_regions <= np.count_nonzero(labels):
        return labels
    low, high = np.quantile([first.min(), first.max()], [1 / 8, 7 / 8])
    at_ends = np.count_nonzero(first <= low), np.count_nonzero(first >= high)
    if first.size - sum(at_ends) < min(at_ends):
        return first > threshold_otsu(first)
    raise DataError(
        f"it has {len(levels)} values in {n_regions} regions, like a photograph; "
        "give a mask of two values, or of one value per object"
    )


def _codes(values: np.ndarray) -> Integer[np.ndarray, "h w"]:
    """One number per value or colour, without alpha; 0 stays 0 and grey stays itself."""
    if values.ndim == 2:
        return values
    planes = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    if (planes == planes[..., :1]).all():
        return planes[..., 0]
    return planes.astype(np.int64) @ (256 ** np.arange(planes.shape[2]))
