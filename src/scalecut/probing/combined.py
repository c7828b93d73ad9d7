"""All layers together: the score of their features side by side, next to that of single layers.

Features of several layers, concatenated, are what many users take instead of one layer. Ridge is
fitted to all layers up to each, on the splits and bootstrap draws of the curve, so that differences
from single layers are paired. Layers count alike, wide or narrow
(`stats.ridge.joined_decompositions`). The softmax is not included: it repeats the logits, and is no
candidate for the peak.

Shapes: n images, L layers, b draws.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from ..data.images import MEAN, ImageSet
from ..networks.points import SOFTMAX, ProbePoint
from ..stats.classes import R2
from ..stats.inference import bootstrap_r_squared, interval, mirrored, of_difference
from ..stats.out_of_core import MANY, Rows
from ..stats.ridge import joined_decompositions, nested_ridge
from .scores import TEST_SHARE, Features, Part, Scores, mapped_here


def why_not_combined(image_set: ImageSet, regressors: Sequence[str]) -> dict[str, str]:
    """The targets that layers are not fitted to together, with the reason in a few words."""
    reasons = {}
    for target in image_set.targets:
        subset = image_set.of(target.name).subset
        most = max(map(subset.count, set(subset)))
        if "ridge" not in regressors:
            reasons[target.name] = "--regressor lacks ridge"
        elif target.classes:
            reasons[target.name] = "layers are fitted together to numbers alone, not to classes"
        elif most * (1 - TEST_SHARE) > MANY:
            said = f"{most:,} images of a subset are too many; give a smaller --at-most"
            reasons[target.name] = said
    return reasons


def joined_points(points: Sequence[ProbePoint]) -> list[ProbePoint]:
    """The layers that are fitted together: all but the softmax."""
    return [point for point in points if point.layer != SOFTMAX]


def combined(
    parts: Sequence[Part],
    own: Mapping[str, Features],
    scores: Scores,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """R² of all layers up to each, and how far the best of these layers alone is below it.

    Args:
        parts: the splits and draws of one measure that `scores` were computed on.
        own: features of the network itself, by its kind of weights.
        scores: of single layers by ridge, among others.
        report: called with (splits done, all splits).

    Returns:
        One row per layer and subset, and for the mean of the subsets. `below` is R² together minus
        R² of the best layer alone, which is searched anew in every draw; its interval is that of
        `stats.inference.of_difference`.
    """
    ((kind, features),), measure = own.items(), parts[0].measure
    points = joined_points(features.points)
    predicted = _predictions(parts, features, report)
    together = {
        part.subset: _drawn(part, each) for part, each in zip(parts, predicted, strict=True)
    }
    together[MEAN] = np.mean([together[part.subset] for part in parts], axis=0)
    n_groups = {part.subset: part.n_groups for part in parts}
    n_groups[MEAN] = min(n_groups.values())
    rows: list[dict[str, Any]] = []
    for subset, found in together.items():
        alone = _alone(scores, measure, subset, kind)
        found[0] = alone[0]  # one layer is itself, to the last digit
        for count, (point, r2) in enumerate(zip(points, found, strict=True), start=1):
            low, high = interval(r2[0], r2[1:], n_groups[subset])
            rows.append(
                {
                    "weights": kind,
                    "subset": subset,
                    "measure": measure,
                    "up_to": point.layer,
                    "alias": point.alias,
                    "depth": point.depth,
                    "n_layers": count,
                    "n_features": sum(each.channels for each in points[:count]),
                    "metric": R2,
                    "score": float(r2[0]),
                    "score_low": float(low),
                    "score_high": float(high),
                    "best_layer": points[int(alone[:count, 0].argmax())].layer,
                    **_below(r2, alone[:count].max(axis=0), n_groups[subset]),
                }
            )
    return pd.DataFrame(rows)


def _below(
    together: Float64[np.ndarray, " b"], best: Float64[np.ndarray, " b"], n_groups: int
) -> dict[str, float]:
    size = float(together[0] - best[0])
    plausible = mirrored(together[0], together[1:]) - mirrored(best[0], best[1:])
    low, high, _ = of_difference(size, plausible, n_groups)
    return {"below": size, "below_low": low, "below_high": high}


def _alone(scores: Scores, measure: str, subset: str, kind: str) -> Float64[np.ndarray, "L b"]:
    """R² of each layer by ridge, in their order: with all images, then of the draws."""
    table = scores.table
    line = {"measure": measure, "subset": subset, "weights": kind, "metric": R2}
    line |= {"target": "true", "regressor": "ridge"}
    is_wanted = np.all([table[name] == value for name, value in line.items()], axis=0)
    rows = np.flatnonzero(is_wanted & (table.layer != SOFTMAX))
    return np.column_stack([table.r2.to_numpy()[rows], scores.draws[rows]])


def _predictions(
    parts: Sequence[Part], features: Features, report: Callable[[int, int], None]
) -> list[list[Float64[np.ndarray, "m L"]]]:
    """Held-out predictions of every part, by repeat."""
    matrices = [features.matrices[0][point.layer] for point in joined_points(features.points)]
    jobs = [(part, repeat) for part in parts for repeat in range(len(part.is_held_out))]
    found: dict[str, list[Float64[np.ndarray, "m L"]]] = {part.subset: [] for part in parts}
    with closing(mapped_here(_predicted, matrices, jobs)) as predicted:
        for done, ((part, _), each) in enumerate(zip(jobs, predicted, strict=True), start=1):
            found[part.subset].append(each)
            report(done, len(jobs))
    return list(found.values())


def _predicted(
    matrices: Sequence[Float[np.ndarray, "all _"]], part: Part, repeat: int
) -> Float64[np.ndarray, "m L"]:
    """Predictions for the held-out images of one split, from all layers up to each."""
    held_out = part.is_held_out[repeat]
    fitted, target = ~held_out, part.targets["true"][repeat]
    blocks = (
        (Rows(each, part.rows[fitted]).whole(), Rows(each, part.rows[held_out]).whole())
        for each in matrices
    )
    fits = (
        nested_ridge(each, target[fitted, None], part.groups[fitted])
        for each in joined_decompositions(blocks)
    )
    return np.hstack([fit.predictions for fit in fits])


def _drawn(
    part: Part, predicted: Sequence[Float64[np.ndarray, "m L"]]
) -> Float64[np.ndarray, "L b"]:
    """R² with all images, then of the bootstrap draws."""
    measure = part.targets["true"]
    errors = [
        (truth[held_out, None] - each) ** 2
        for truth, held_out, each in zip(measure, part.is_held_out, predicted, strict=True)
    ]
    return bootstrap_r_squared(measure, errors, part.is_held_out, part.counts).T
