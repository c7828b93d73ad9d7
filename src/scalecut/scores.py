"""Held-out R² of a measure on the features of every layer: splits drawn once, used by all.

For every subset of the images the measure is regressed on each layer's features in r random splits
of 70 % to fit and 30 % to test (`graziani2021`), by group. The same splits, shuffles and bootstrap
draws serve every layer, regressor, target and set of weights, so that all scores are paired.
"""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int
from sklearn.model_selection import GroupShuffleSplit
from threadpoolctl import threadpool_limits

from .errors import DataError
from .images import ImageSet
from .layers import ProbePoint
from .regression import HeldOut, decompose, least_squares, nested_ridge
from .stats import bootstrap_r_squared, group_draws, interval

TEST_SHARE = 0.3  # graziani2021
MEAN = "mean"  # the subset that stands for the mean over all


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is drawn once for one subset and serves all its regressions."""

    subset: str
    rows: Int[np.ndarray, " n"]  # of the image set
    groups: Int[np.ndarray, " n"]
    targets: dict[str, Float64[np.ndarray, "r n"]]  # `true`, `shuffled`: a row a repeat
    is_held_out: Bool[np.ndarray, "r n"]
    counts: Float64[np.ndarray, "b n"]  # bootstrap draws; the first counts every image once


def draw_parts(image_set: ImageSet, repeats: int, seed: int, *, shuffled: bool) -> tuple[Part, ...]:
    """Draw the splits, shuffles and bootstrap samples of every subset.

    Each follows from the seed and the subset's name alone, so runs that differ in their controls,
    or in the other subsets, are paired.

    Raises:
        DataError: if all images to fit, or all to test, have the same measure in some split.
    """
    names, parts = np.array(image_set.subset), []
    for subset in image_set.subsets:
        rows = np.flatnonzero(names == subset)
        measure = image_set.measure[rows]
        groups = np.unique(np.array(image_set.group)[rows], return_inverse=True)[1]
        splits, shuffles, bootstrap = np.random.default_rng(
            [seed, zlib.crc32(subset.encode())]
        ).spawn(3)
        splitter = GroupShuffleSplit(
            repeats, test_size=TEST_SHARE, random_state=int(splits.integers(2**31))
        )
        is_held_out = np.zeros((repeats, len(rows)), dtype=bool)
        for number, (_, test) in enumerate(splitter.split(rows, groups=groups)):
            is_held_out[number, test] = True
        targets = {"true": np.tile(measure, (repeats, 1))}
        if shuffled:
            targets["shuffled"] = np.stack([shuffles.permutation(measure) for _ in range(repeats)])
        counts = np.vstack([np.ones(len(rows)), group_draws(groups, bootstrap)])
        parts.append(Part(subset, rows, groups, targets, is_held_out, counts))
        _check_spread(parts[-1])
    return tuple(parts)


def score(
    parts: Sequence[Part],
    points: Sequence[ProbePoint],
    matrices: Mapping[str, Mapping[str, Float32[np.ndarray, "n d"]]],
    regressors: Sequence[str],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """R² and its 95 % interval for every subset, layer, kind of weights, target and regressor.

    Args:
        matrices: by kind of weights and layer, one row an image of the set.
        report: called with (layers done, all).
    """
    jobs = [(kind, point) for kind in matrices for point in points]
    rows: list[dict[str, object]] = []
    # One thread a regression: the same numbers on any number of cores.
    with threadpool_limits(1), ThreadPoolExecutor(_n_processors()) as workers:
        found = workers.map(
            lambda job: _layer_rows(
                parts, job[1], matrices[job[0]][job[1].layer], job[0], regressors
            ),
            jobs,
        )
        for done, layer_rows in enumerate(found, start=1):
            rows += layer_rows
            report(done, len(jobs))
    table = pd.DataFrame(rows)
    order = {name: rank for rank, name in enumerate([*(part.subset for part in parts), MEAN])}
    return table.sort_values(
        ["subset", "weights", "target", "regressor", "depth"],
        key=lambda column: column.map(order) if column.name == "subset" else column,
        kind="stable",
        ignore_index=True,
    )


def _layer_rows(
    parts: Sequence[Part],
    point: ProbePoint,
    matrix: Float32[np.ndarray, "n d"],
    kind: str,
    regressors: Sequence[str],
) -> list[dict[str, object]]:
    """All rows of one layer of one kind of weights, the mean over subsets last."""
    by_line: dict[tuple[str, str], list[tuple[str, int, np.ndarray]]] = {}
    for part in parts:
        errors = _squared_errors(part, matrix[part.rows].astype(np.float64), regressors)
        for target, values in part.targets.items():
            draws = bootstrap_r_squared(values, errors[target], part.is_held_out, part.counts)
            for column, regressor in enumerate(regressors):
                line = by_line.setdefault((target, regressor), [])
                line.append((part.subset, len(part.rows), draws[:, column]))
    rows = []
    for (target, regressor), line in by_line.items():
        n_images = sum(n for _, n, _ in line)
        mean = (MEAN, n_images, np.mean([draws for _, _, draws in line], axis=0))
        for subset, n, draws in [*line, mean]:
            low, high = interval(float(draws[0]), draws[1:])
            rows.append(
                {
                    "subset": subset,
                    "layer": point.layer,
                    "alias": point.alias,
                    "depth": point.depth,
                    "n_features": matrix.shape[1],
                    "n_images": n,
                    "weights": kind,
                    "target": target,
                    "regressor": regressor,
                    "r2": float(draws[0]),
                    "r2_low": float(low),
                    "r2_high": float(high),
                    "p_value": np.nan,
                    "seed_count": len(parts[0].is_held_out),
                }
            )
    return rows


def _squared_errors(
    part: Part, features: Float64[np.ndarray, "n d"], regressors: Sequence[str]
) -> dict[str, Float64[np.ndarray, "r n c"]]:
    """Squared errors on the held-out images, by target; zero where an image was fitted."""
    kinds = list(part.targets)
    errors = {kind: np.zeros((*part.is_held_out.shape, len(regressors))) for kind in kinds}
    for repeat, held_out in enumerate(part.is_held_out):
        targets = np.stack([part.targets[kind][repeat] for kind in kinds], axis=1)
        train, test = features[~held_out], features[held_out]
        for column, regressor in enumerate(regressors):
            fit = _fit(regressor, train, targets[~held_out], test, part.groups[~held_out])
            squares = (targets[held_out] - fit.predictions) ** 2
            for number, kind in enumerate(kinds):
                errors[kind][repeat, held_out, column] = squares[:, number]
    return errors


def _fit(
    regressor: str, train: np.ndarray, targets: np.ndarray, test: np.ndarray, groups: np.ndarray
) -> HeldOut:
    if regressor == "ols":
        return least_squares(train, targets, test)
    return nested_ridge(decompose(train, test), targets, groups)


def _check_spread(part: Part) -> None:
    for kind, values in part.targets.items():
        flat = [
            np.ptp(y[held_out]) == 0 or np.ptp(y[~held_out]) == 0
            for y, held_out in zip(values, part.is_held_out, strict=True)
        ]
        if any(flat):
            raise DataError(
                f"In {sum(flat)} of {len(flat)} splits of {part.subset!r} all images to fit or to "
                f"test have the same {kind} measure, so R² is undefined. Give more images whose "
                "objects differ in size."
            )


def _n_processors() -> int:
    """How many this process may use; containers allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
