"""Thumbnails of images, and which images to show.

Shapes: n images, L layers, k images chosen.
"""

import io

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Float64, Int64
from PIL.Image import Resampling

from .images import Image
from .measures import evenly

LONGEST = 224  # pixels of the longer side, about what most networks see
QUALITY = 72  # of the JPEG, 0 to 100
SPREAD = 0.25  # share of the images chosen by their measure instead of their errors


def thumbnail(image: Image, longest: int = LONGEST) -> bytes:
    """A small JPEG of the upright image.

    Raises:
        DataError: if the image cannot be read.
    """
    return small_jpeg(image.decode(), longest)


def small_jpeg(image: PIL.Image.Image, longest: int = LONGEST) -> bytes:
    """A small JPEG of pixels, which are shrunk in place."""
    stored = io.BytesIO()
    image.thumbnail((longest, longest), Resampling.LANCZOS)
    image.save(stored, "JPEG", quality=QUALITY, optimize=True)
    return stored.getvalue()


def worth_showing(
    measure: Float64[np.ndarray, " n"],
    predicted: Float64[np.ndarray, "L n"],
    subset: list[str],
    most: int,
) -> Int64[np.ndarray, " k"]:
    """Numbers of up to `most` images: some over the whole range of the measure, then the worst.

    The images predicted worst at any layer come first, then the second worst, in each subset.
    """
    errors = pd.DataFrame(np.abs(predicted - measure).T)
    rank = errors.groupby(np.array(subset)).rank(ascending=False, method="first").min(axis=1)
    n_spread = min(len(measure), round(SPREAD * most))
    spread = np.argsort(measure, kind="stable")[evenly(len(measure), n_spread)]
    worst = np.argsort(rank.to_numpy(), kind="stable")  # NaN, never held out, comes last
    return pd.unique(np.concatenate([spread, worst]))[:most].astype(np.int64)
