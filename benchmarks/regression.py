"""The regressions of a probe compared with a loop over scikit-learn."""

import time

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scalecut import ProbePoint, make_image_set
from scalecut.probing.scores import Features, draw_parts, score
from scalecut.stats.ridge import PENALTIES

CHANNELS = (256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048, 1000, 1000)  # InceptionV3


def seconds_of_regression(n: int, repeats: int, permutations: int) -> tuple[float, float, int]:
    """Seconds of ours and of scikit-learn's loop, and the number of its fits.

    Ours are ridge and least squares, of a network and a randomly initialised control. One fit of
    scikit-learn's ridge is measured per layer, and multiplied by the number of fits for the same
    numbers: one per repeat, network, and target (true, shuffled, permuted).
    """
    rng = np.random.default_rng(0)
    measure = rng.random(n)
    points = tuple(
        ProbePoint(str(k), "", k / len(CHANNELS), "", "output", channels=d, channel_axis=1)
        for k, d in enumerate(CHANNELS)
    )
    matrices = {p.layer: rng.normal(size=(n, p.channels)).astype(np.float32) for p in points}
    features = {kind: Features(points, (matrices,)) for kind in ("pretrained", "random")}
    images = make_image_set([np.zeros((8, 8, 3), np.uint8)] * n, measure)
    parts = draw_parts(images, repeats, 0, shuffled=True, permutations=permutations)
    start = time.perf_counter()
    score(parts, features, ("ridge", "ols"))
    middle, n_fit = time.perf_counter(), round(0.7 * n)
    for matrix in matrices.values():
        X, model = matrix.astype(np.float64), make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        model.fit(X[:n_fit], measure[:n_fit]).predict(X[n_fit:])
    per_layer = repeats * len(features) * (2 + permutations)
    theirs = per_layer * (time.perf_counter() - middle)
    return middle - start, theirs, per_layer * len(CHANNELS)
