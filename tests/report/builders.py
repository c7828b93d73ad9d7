"""Curves and run folders for tests of pages."""

from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image

from scalecut import Curve, ProbePoint, make_image_set
from scalecut.data.images import LeftOut
from scalecut.report.curve import COLUMNS, scored_by_r2
from scalecut.runs import write_run

LAYERS = {"0": "", "stem[0]": "add_1", "softmax": "softmax"}
LINES = [("pretrained", "true"), ("random", "true"), ("pretrained", "shuffled")]
POINTS = tuple(
    ProbePoint(layer, alias, number / 2, layer, "output", channels=8 * (number + 1))
    for number, (layer, alias) in enumerate(LAYERS.items())
)


def curve_table(subsets=("dog", "cat", "mean"), regressors=("ridge", "ols")):
    """A row for every combination; random R² to more digits than are written."""
    rng = np.random.default_rng(0)
    rows = []
    for subset in subsets:
        for weights, target in LINES:
            for regressor in regressors:
                for point in POINTS:
                    r2, is_main = rng.uniform(-2, 1), (weights, target) == LINES[0]
                    rows.append(
                        [
                            *("net", subset, "area", point.layer, point.alias, point.depth),
                            *(point.channels, 40, weights, target, regressor),
                            *(r2, r2 - 0.1, r2 + 0.1, np.nan, 10, 28, np.nan),
                            *((r2 - 0.3, r2 - 0.4, r2 - 0.2) if is_main else [np.nan] * 3),
                        ]
                    )
    return scored_by_r2(pd.DataFrame(rows, columns=COLUMNS[:-4]))


def curve(table=None, **provenance):
    """A curve of a table, one image and one layer of which were skipped."""
    table = curve_table() if table is None else table
    noise = np.random.default_rng(1).normal(size=(len(table), 50))
    draws = (table.r2.to_numpy()[:, None] + 0.01 * noise).astype(np.float32)
    skipped = {
        "layers_left_out": (LeftOut("fc", "lacks a tensor"),),
        "images_left_out": (LeftOut("a.jpg", "it is broken"),),
    }
    return Curve(table, draws, POINTS, skipped | provenance)


def with_images(folder, n=24, subset=("dog", "cat")):
    """A curve with images in files, each half white in its box, and with predictions."""
    rng, files = np.random.default_rng(0), []
    for number in range(n):
        files.append(folder / f"{number}.png")
        image = PIL.Image.new("RGB", (200, 100))
        image.paste("white", (0, 0, 100, 100))
        image.save(files[-1])
    images = make_image_set(
        files, rng.random(n), subset=[subset[i % len(subset)] for i in range(n)]
    )
    images = replace(images, boxes=np.tile([0.0, 0.0, 100.0, 100.0], (n, 1)))
    made = curve(curve_table((*subset, "mean"), ("ridge",)))
    return replace(made, image_set=images, predicted=rng.random((len(POINTS), n)))


def run_of(folder, facts=None, **tables):
    """A run folder with these tables."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, tables, facts or {}, command="scalecut")
    return folder


def files_in(folder):
    """The content of each file below a folder; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
