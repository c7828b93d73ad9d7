"""Small pictures of images, and which images are worth one.

Shapes: n images, L layers, k images chosen.
"""

import io

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from PIL.Image import Resampling

from .images import Image

LONGEST = 128  # pixels of the longer side
QUALITY = 72  # of the JPEG, 0 to 100
SPREAD = 0.25  # of the images chosen, by their measure and not by their errors


def thumbnail(image: Image) -> bytes:
    """A JPEG of the upright picture.

    Raises:
        DataError: if the picture cannot be read.
    """
    picture, stored = image.picture(), io.BytesIO()
    picture.thumbnail((LONGEST, LONGEST), Resampling.LANCZOS)
    picture.save(stored, "JPEG", quality=QUALITY, optimize=True)
    return stored.getvalue()


def worth_showing(
    measure: Float64[np.ndarray, " n"],
    predicted: Float64[np.ndarray, "L n"],
    subset: list[str],
    most: int,
) -> Int64[np.ndarray, " k"]:
    """Up to `most` images, by number: some over the whole range of the measure, then the worst.

    What is worst at any layer comes first, then what is second to it, in each subset.
    """
    errors = pd.DataFrame(np.abs(predicted - measure).T)
    rank = errors.groupby(np.array(subset)).rank(ascending=False, method="first").min(axis=1)
    n_spread = min(len(measure), round(SPREAD * most))
    spread = np.argsort(measure, kind="stable")[
        np.linspace(0, len(measure) - 1, n_spread).round().astype(np.int64)
    ]
    worst = np.argsort(rank.to_numpy(), kind="stable")  # nan, never held out, comes last
    return pd.unique(np.concatenate([spread, worst]))[:most].astype(np.int64)
