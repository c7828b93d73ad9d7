"""The images of a probe with the prediction of each layer, as the run folder holds them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.decoding import header
from ..data.images import Image
from ..data.thumbnails import thumbnail, worth_showing
from ..errors import DataError
from ..runs import Run
from .page import Predictions

IMAGE_COLUMNS = (
    *("image", "file", "subset", "measure", "left", "top", "right", "bottom", "width", "height"),
    "thumbnail",
)
PREDICTION_COLUMNS = ("image", "subset", "measure", "layer", "predicted")
MOST_THUMBNAILS, MOST_THUMBNAIL_BYTES = 320, 2_200_000  # 3 MB as text
AT_ONCE = 2  # thumbnails made at the same time


def read_predictions(run: Run) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The images of a run, and their predictions as `Curve.predictions` gives them.

    None if it has neither, as runs of earlier versions do not.

    Raises:
        DataError: if the tables cannot be read, or are not of the same images.
    """
    paths = run.folder / "images.parquet", run.folder / "predictions.parquet"
    if not any(path.exists() for path in paths):
        return None
    try:
        images, predictions = (run.parquet(path.stem) for path in paths)
        lacking = [name for name in IMAGE_COLUMNS if name not in images]
        lacking += [name for name in PREDICTION_COLUMNS if name not in predictions]
        if lacking:
            raise ValueError(f"the column {lacking[0]!r} is missing")
        n_layers = predictions.layer.nunique()
        if predictions.image.tolist() != n_layers * images.image.tolist():
            raise ValueError("they are not of the same images")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(run.folder)!r} has no readable images.parquet and predictions.parquet "
            f"({error}). Run the probe again."
        ) from error
    return images, predictions


def predictions_of(
    run: Run, frame: pd.DataFrame, layers: Sequence[str], *, has_thumbnails: bool
) -> Predictions | None:
    """What the page shows of each image, or None if the run holds no predictions."""
    found = read_predictions(run)
    if found is None:
        return None
    images, table = found
    names = list(dict.fromkeys(table.layer))
    predicted = table.predicted.to_numpy(np.float64).reshape(len(names), len(images))
    predicted = predicted[[names.index(layer) for layer in layers]]
    sides = images[["width", "height"]].to_numpy(np.float64, copy=True)
    thumbnails: dict[int, bytes] = {}
    if has_thumbnails:
        subset = images.subset.astype(str).tolist()
        chosen = worth_showing(images.measure.to_numpy(), predicted, subset, MOST_THUMBNAILS)
        rows, n_bytes = images.iloc[chosen].to_dict("records"), 0
        with ThreadPoolExecutor(AT_ONCE) as workers:
            for row, (jpeg, *size) in zip(
                chosen.tolist(), workers.map(_thumbnail, rows), strict=True
            ):
                n_bytes += len(jpeg)
                if jpeg and n_bytes <= MOST_THUMBNAIL_BYTES:
                    thumbnails[row], sides[row] = jpeg, size
    images = images.assign(width=sides[:, 0], height=sides[:, 1])
    by = "ridge regression" if (frame.regressor == "ridge").any() else "least squares"
    return Predictions(images, str(frame.measure.iloc[0]), list(layers), predicted, thumbnails, by)


def _thumbnail(image: Mapping[Any, Any]) -> tuple[bytes, float, float]:
    """A small JPEG and the sides of its image; empty where the file can no longer be read."""
    if image["thumbnail"] is not None:
        return image["thumbnail"], float(image["width"]), float(image["height"])
    file = Path(image["file"])
    try:
        width, height, _ = header(file)
        return thumbnail(Image(image["image"], file)), float(width), float(height)
    except DataError:
        return b"", np.nan, np.nan
