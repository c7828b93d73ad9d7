"""Coverage of the 95 % intervals by simulation: the table of docs/intervals.md.

    python benchmarks/coverage.py [--runs 100] >> docs/intervals.md

Every run draws images with features and a target, and a weaker layer: the same features with as
much noise. Splits, fits, draws and intervals are those of a probe. An interval holds if it contains
the score of the same fits on endless new images, which is known in closed form.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import owens_t
from sklearn.model_selection import GroupShuffleSplit

from scalecut.stats.inference import (
    LEAST_GROUPS,
    bootstrap_r_squared,
    ends,
    group_draws,
    interval,
    mirrored,
)
from scalecut.stats.ridge import decompose, nested_ridge

SIZES = (24, 40, 80, 150, 400)
R2 = (0.0, 0.3, 0.6, 0.9)
HARDER = ("groups", "heavy", "wide")
DRAWS, REPEATS, TEST_SHARE = 400, 10, 0.3
PENALTIES = np.logspace(-1, 5, 7)


@dataclass(frozen=True)
class Cell:
    """One setting of the simulation.

    Args:
        design: plain (4 features, groups of one image), groups (of 1 to 8 images that resemble each
            other), heavy (the exponential of the target), wide (as many features as training
            images).
        n: images.
        r2: share of the target's variance that is linear in the features.
    """

    design: str
    n: int
    r2: float


def groups_of(cell: Cell, n: int) -> np.ndarray:
    """The group of each image."""
    if cell.design != "groups":
        return np.arange(n)
    return np.repeat(np.arange(n), np.resize([1, 3, 8, 2], n))[:n]


def images(
    cell: Cell, n: int, groups: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Features of a good and of a weaker layer, and the target."""
    d = round((1 - TEST_SHARE) * cell.n) if cell.design == "wide" else 4

    def normal(width: int) -> np.ndarray:
        own = rng.normal(size=(n, width))
        if cell.design != "groups":
            return own
        return (own + rng.normal(size=(groups.max() + 1, width))[groups]) / 2**0.5

    X = normal(d)
    y = (cell.r2 / d) ** 0.5 * X.sum(axis=1) + (1 - cell.r2) ** 0.5 * normal(1)[:, 0]
    weaker = (X + normal(d)) / 2**0.5
    return [X, weaker], np.exp(y) if cell.design == "heavy" else y


def auroc(score: np.ndarray, is_positive: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of weighted images, (b)."""
    ahead = (score[is_positive][:, None] > score[~is_positive]).astype(float)
    of_one, of_other = w[:, is_positive], w[:, ~is_positive]
    pairs = of_one.sum(axis=1) * of_other.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.einsum("bi,bi->b", of_one @ ahead, of_other) / np.where(pairs > 0, pairs, np.nan)


def balanced(score: np.ndarray, is_positive: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The balanced accuracy of weighted images, (b)."""
    right = (score > 0) == is_positive
    shares = []
    for of_class in (is_positive, ~is_positive):
        n = w[:, of_class].sum(axis=1)
        shares.append(w[:, of_class] @ right[of_class] / np.where(n > 0, n, np.nan))
    return np.mean(shares, axis=0)


def run(cell: Cell, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores (4, 1 + b), the first with all images, and the truths of the same fits (4)."""
    groups = groups_of(cell, cell.n)
    layers, y = images(cell, cell.n, groups, rng)
    is_positive = y > (1.0 if cell.design == "heavy" else 0.0)
    targets = np.column_stack([y, 2.0 * is_positive - 1])
    counts = np.vstack([np.ones(cell.n), group_draws(groups, rng, DRAWS)])
    splitter = GroupShuffleSplit(
        REPEATS, test_size=TEST_SHARE, random_state=int(rng.integers(2**31))
    )
    is_held_out = np.zeros((REPEATS, cell.n), bool)
    d = layers[0].shape[1]
    axes = np.vstack([np.zeros(d), np.eye(d)])  # the fit's values there are the fit
    errors, truths, shares, areas = [], [], [], []
    for repeat, (train, test) in enumerate(splitter.split(y, groups=groups)):
        is_held_out[repeat, test] = True
        fits = [
            nested_ridge(
                decompose(X[train], np.vstack([X[test], axes])),
                targets[train],
                groups[train],
                PENALTIES,
            ).predictions
            for X in layers
        ]
        errors.append(np.column_stack([(y[test] - fit[: len(test), 0]) ** 2 for fit in fits]))
        w, score = counts[:, test], fits[0][: len(test), 1]
        shares.append(balanced(score, is_positive[test], w))
        areas.append(auroc(score, is_positive[test], w))
        truths.append(truth(cell, [fit[len(test) :] for fit in fits]))
    r2 = bootstrap_r_squared(np.broadcast_to(y, is_held_out.shape), errors, is_held_out, counts)
    return np.vstack([r2.T, _mean(shares), _mean(areas)]), np.mean(truths, axis=0)


def truth(cell: Cell, fits: list[np.ndarray]) -> list[float]:
    """R² of two layers, balanced accuracy and AUROC of the first on endless new images.

    In closed form. With (z, u) = (standardised target, standardised prediction) normal of
    correlation ρ, the AUROC is 1/2 + 2 asin(ρ/√2)/π, and the balanced accuracy of the threshold
    that is t deviations below the mean prediction is 1/2 + 2 T(t, ρ/√(1-ρ²)), Owen's T.
    """
    mean, variance, slope = 0.0, 1.0, 1.0
    if cell.design == "heavy":  # of the exponential; its covariances by Stein's lemma
        mean = slope = np.exp(0.5)
        variance = np.exp(2.0) - np.exp(1.0)
    found = []
    for fit, loading in zip(fits, (1.0, 0.5**0.5), strict=True):
        start, weights = fit[0, 0], fit[1:, 0] - fit[0, 0]
        covariance = slope * loading * (cell.r2 / len(weights)) ** 0.5
        missed = variance - 2 * covariance * weights.sum() + weights @ weights
        found.append(1 - (missed + (start - mean) ** 2) / variance)
    start, weights = fits[0][0, 1], fits[0][1:, 1] - fits[0][0, 1]
    length = max(np.linalg.norm(weights), 1e-12)
    rho = (cell.r2 / len(weights)) ** 0.5 * weights.sum() / length
    share = 0.5 + 2 * owens_t(start / length, rho / (1 - rho**2) ** 0.5)
    return [*found, float(share), float(0.5 + 2 * np.arcsin(rho / 2**0.5) / np.pi)]


def _mean(scores: list[np.ndarray]) -> np.ndarray:
    """The mean over repeats; a repeat in which a class is missing does not count."""
    stacked = np.array(scores)
    n = np.isfinite(stacked).sum(axis=0)
    return np.where(n > 0, np.nansum(stacked, axis=0) / np.maximum(n, 1), np.nan)


# --- intervals ------------------------------------------------------------------------------------


def basic(score: float, draws: np.ndarray) -> tuple[float, float]:
    """The basic bootstrap interval on the scale of the score itself, up to 1 (`efron1993`)."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return min(2 * score - high, score), min(max(2 * score - low, score), 1.0)


def intervals(scores: np.ndarray, g: int) -> Iterator[tuple[Any, Any]]:
    """Of R², of the difference, of the gain, each basic and ours; of both shares, ours."""
    r2, weaker, share, area = scores
    above, gain = r2 - weaker, r2 - np.maximum(weaker, 0)
    plausible, of_weaker = (mirrored(each[0], each[1:]) for each in (r2, weaker))
    yield basic(r2[0], r2[1:])
    yield interval(r2[0], r2[1:], g)
    yield basic(above[0], above[1:])
    yield ends(above[0], plausible - of_weaker, g)
    yield basic(gain[0], gain[1:])
    yield ends(gain[0], plausible - np.maximum(of_weaker, 0), g)
    yield interval(share[0], share[1:], g, scale="share")
    yield interval(area[0], area[1:], g, scale="share")


def row(cell: Cell, runs: int, seed: int) -> str:
    """A line of the table: shares of intervals that hold, and their median width."""
    g = len(np.unique(groups_of(cell, cell.n)))
    found, truths = [], []
    for number in range(runs):
        scores, true = run(cell, np.random.default_rng([seed, number]))
        r2, weaker, share, area = true
        above, gain = r2 - weaker, r2 - max(weaker, 0)
        found.append(list(intervals(scores, g)))
        truths.append([r2, r2, above, above, gain, gain, share, area])
    (low, high), true = np.moveaxis(np.array(found), 2, 0), np.array(truths)
    holds = ((low <= true) & (true <= high)).mean(axis=0)
    width = np.median(high - low, axis=0)
    cells = [f"{a:.2f} ({b:.2f})" for a, b in zip(holds, width, strict=True)]
    said = (cell.design, str(cell.n), str(g), f"{true[:, 0].mean():.2f}", *cells)
    return f"| {' | '.join(said)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    LEAST_GROUPS.update(dict.fromkeys(LEAST_GROUPS, 2))  # they are chosen from this table
    cells = [Cell("plain", n, r2) for n in SIZES for r2 in R2]
    cells += [Cell(design, n, r2) for design in HARDER for n in SIZES[:4] for r2 in (0.0, 0.6)]
    heads = ("R²", "difference", "gain")
    both = (f"{head}, {which}" for head in heads for which in ("basic", "ours"))
    columns = ("design", "n", "groups", "true R²", *both, "balanced accuracy", "AUROC")
    print(f"| {' | '.join(columns)} |")  # noqa: T201
    print("|---" * len(columns) + "|")  # noqa: T201
    for seed, cell in enumerate(cells):
        print(row(cell, runs, seed), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
