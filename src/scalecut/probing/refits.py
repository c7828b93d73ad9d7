"""Intervals that count the training images: whole groups are drawn and everything is fitted anew.

For the peak, the last layer, their difference and the gain over controls at the peak, of each
subset. The splits stay those of the probe, so a group is never in both parts (`stats.refits`).
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from ..data.images import MEAN, ImageSet
from ..errors import DataError
from ..features.extract import Stages
from ..stats.inference import LEAST_GROUPS, ends, mirrored
from ..stats.refits import DRAWS, recentred, refit_r_squared
from .curve import Curve
from .scores import Features, Part, mapped_here, over_seeds

MOST_IMAGES = 5000  # with more, 2,000 fits of a layer take hours, and training images are plenty
AT_ONCE = 20  # draws of a job

Line: TypeAlias = tuple[str, str]  # kind of weights, layer
Refits: TypeAlias = dict[str, dict[str, tuple[float, float]]]


def check_refits(images: ImageSet) -> None:
    """Raise if there are too many images to be fitted anew so often, or no one measure."""
    if images.more or images.classes:
        names = ", ".join(each.name for each in images.targets)
        raise DataError(
            f"--intervals refit takes one target that is a number, and these are {names}. Give "
            "one, or --intervals test."
        )
    if len(images) > MOST_IMAGES:
        raise DataError(
            f"--intervals refit fits every split {DRAWS} times, which takes hours with "
            f"{len(images):,} images. Give --at-most {MOST_IMAGES}, or --intervals test."
        )


def refitted(
    curve: Curve,
    parts: Sequence[Part],
    own: Mapping[str, Features],
    controls: Mapping[str, Features],
    stages: Stages,
) -> Refits:
    """The intervals by subset: `r2` and `learned` of the peak, `last_r2`, and `last_loss`.

    Subsets with too few groups for an interval have none.
    """
    known = {**own, **controls}
    wanted = {subset: _lines(curve, subset, controls) for subset in _subsets(parts)}
    keys = [
        (number, line, seed)
        for number, part in enumerate(parts)
        for line in dict.fromkeys((*wanted[part.subset], *wanted[MEAN]))
        for seed in range(len(known[line[0]].matrices))
    ]
    starts = range(0, DRAWS, AT_ONCE)
    jobs = (
        (number, known[kind].matrices[seed][layer], start)
        for number, (kind, layer), seed in keys
        for start in starts
    )
    report = stages.report("refits")
    by_key: dict[tuple[int, Line, int], list[np.ndarray]] = {}
    with closing((stages.workers.map or mapped_here)(_some_refits, tuple(parts), jobs)) as found:
        for done, key in enumerate((key for key in keys for _ in starts), start=1):
            by_key.setdefault(key, []).append(next(found))
            report(done, len(keys) * len(starts))
    draws: dict[tuple[str, Line], np.ndarray] = {}
    for number, line, _ in keys:
        seeds = [
            np.concatenate(by_key[number, line, seed])
            for seed in range(len(known[line[0]].matrices))
        ]
        every = np.pad(seeds, ((0, 0), (1, 0)))  # `over_seeds` keeps the first
        part = parts[number]
        draws[part.subset, line] = over_seeds(every, part.drawn[:DRAWS])[1:]
    for line in wanted[MEAN]:
        draws[MEAN, line] = np.mean([draws[part.subset, line] for part in parts], axis=0)
    return {
        subset: _intervals(curve, subset, lines, [draws[subset, line] for line in lines])
        for subset, lines in wanted.items()
        if curve.n_groups(subset) >= LEAST_GROUPS["r2"]
    }


def _subsets(parts: Sequence[Part]) -> list[str]:
    return [*(part.subset for part in parts), MEAN]


def _lines(curve: Curve, subset: str, controls: Mapping[str, Features]) -> list[Line]:
    """The peak, the last layer, and the controls at the peak."""
    found = curve.evidence(subset)
    lines = [(curve.weights, found.peak), (curve.weights, found.last)]
    lines += [("random", found.peak)] if "random" in controls else []
    lines += [("pixels", "pixels")] if "pixels" in controls else []
    return lines


def _some_refits(
    parts: Sequence[Part], number: int, matrix: Float[np.ndarray, "all d"], start: int
) -> Float64[np.ndarray, " b"]:
    """Some draws of one layer on one subset: one job of a cluster."""
    part = parts[number]
    counts = part.counts[1 + start : 1 + min(start + AT_ONCE, DRAWS)]
    measure = part.targets["true"][0]
    return refit_r_squared(matrix[part.rows], measure, part.groups, part.is_held_out, counts)


def _intervals(
    curve: Curve,
    subset: str,
    lines: Sequence[Line],
    draws: Sequence[Float64[np.ndarray, " b"]],
) -> dict[str, tuple[float, float]]:
    """Of one subset: of the peak, the last layer and the controls, in this order."""
    r2, plausible = [], []
    for line, refits in zip(lines, draws, strict=True):
        score, of_test = curve.score_of(subset, *line)
        r2.append(score)
        plausible.append(mirrored(score, recentred(refits, of_test)))
    scores = {
        "r2": (r2[0], plausible[0]),
        "last_r2": (r2[1], plausible[1]),
        "last_loss": (r2[0] - r2[1], plausible[0] - plausible[1]),
    }
    if len(lines) > 2:
        best = np.maximum(0.0, np.max(plausible[2:], axis=0))
        scores["learned"] = (r2[0] - max(0.0, *r2[2:]), plausible[0] - best)
    found = {}
    for name, (score, above) in scores.items():
        low, high = ends(score, above, curve.n_groups(subset))
        found[name] = (float(low), float(high))
    return found
