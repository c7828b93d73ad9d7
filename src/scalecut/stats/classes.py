"""Scores of classes: each is a column of 1 and 0, and all columns are regressed like a measure.

Of a held-out image with predictions f_k, and shares p_k of the classes in the training part, the
class with the largest f_k / p_k is chosen: f_k estimates P(k | x), and by the rule of Bayes this is
the class that makes its features most likely, which maximises balanced accuracy. The largest f_k
itself would hardly ever be a rare class (docs/choices.md). Classes that are numbers v_k also have a
predicted number, Σ v_k f_k, which is what regressing v itself with the same penalty gives.

Shapes: n images, m held-out images, r repeats, k classes, b draws, c columns (one per regressor), p
permutations, s scores.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Num

R2, BALANCED, AUROC, KAPPA = "r2", "balanced_accuracy", "auroc", "quadratic_kappa"
LEAST = {BALANCED: 0.0, AUROC: 0.0, KAPPA: -1.0, R2: -np.inf}  # what a score cannot be below


def chance(metric: str, n_classes: int) -> float:
    """The score of features that hold nothing of the target."""
    return {BALANCED: 1 / max(1, n_classes), AUROC: 0.5}.get(metric, 0.0)


def indicators(numbers: Float64[np.ndarray, "n t"], n_classes: int) -> Float64[np.ndarray, "n _"]:
    """One column per class, for one target after the other.

    Args:
        numbers: of the classes, from 0.
    """
    found = numbers[:, :, None] == np.arange(n_classes)
    return found.reshape(len(numbers), -1).astype(np.float64)


def stratified(
    numbers: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    share: float,
) -> Bool[np.ndarray, " n"]:
    """Which images are held out: whole groups, and this share of every class as nearly as it goes.

    Groups come in random order. One is held out if this brings the held-out part of the classes
    nearer to their shares, by  Σ (h_k / n_k - share)²,  with h_k of the n_k images of a class held
    out. For groups of one image this is a stratified split.
    """
    of_group = np.zeros((groups.max() + 1, int(numbers.max()) + 1))
    np.add.at(of_group, (groups, numbers.astype(np.int64)), 1.0)
    of_group /= np.maximum(of_group.sum(axis=0), 1.0)
    lacking, is_held_out = np.full(of_group.shape[1], share), np.zeros(len(of_group), dtype=bool)
    for group in rng.permutation(len(of_group)):
        after = lacking - of_group[group]
        if after @ after < lacking @ lacking:
            lacking, is_held_out[group] = after, True
    return is_held_out[groups]


def chosen(
    values: Float[np.ndarray, "*m k"], shares: Float[np.ndarray, "*p k"]
) -> Int[np.ndarray, "*m"]:
    """The class with the largest prediction over its share in the training part.

    A class that is not in the training part is never chosen.
    """
    is_there = shares > 0
    return np.where(is_there, values / np.where(is_there, shares, 1.0), -np.inf).argmax(axis=-1)


def bootstrap_classes(
    truth: Float64[np.ndarray, "r n"],
    values: Sequence[Float64[np.ndarray, "_ k c"]],
    is_held_out: Bool[np.ndarray, "r n"],
    is_fitted: Bool[np.ndarray, "r n"],
    counts: Num[np.ndarray, "b n"],
    metrics: Sequence[str],
    numbers: Float64[np.ndarray, " k"],
) -> Float64[np.ndarray, "b c s"]:
    """Scores of held-out predictions, mean over repeats, in resampled sets of images.

    As `inference.bootstrap_r_squared`: a repeat counts in a draw only if two classes are left.

    Args:
        truth: places of the classes, 0 to k - 1.
        values: one array per repeat, of its held-out images, in their order.
        is_fitted: the images that the fits are of.
        metrics, numbers: as of `class_scores`.
    """
    k, c = values[0].shape[1:]
    total, used = np.zeros((2, len(counts), c, len(metrics)))
    splits = zip(truth, values, is_held_out, is_fitted, strict=True)
    for of_images, predicted, held_out, fitted in splits:
        places = of_images[held_out].astype(np.int64)
        shares = np.bincount(of_images[fitted].astype(np.int64), minlength=k) / fitted.sum()
        weights = counts[:, held_out].astype(np.float64)
        for column in range(c):
            asked = predicted[:, :, column], shares, weights, metrics, numbers
            found = class_scores(places, *asked)
            is_fine = np.isfinite(found)
            total[:, column] += np.where(is_fine, found, 0.0)
            used[:, column] += is_fine
    return np.divide(total, used, np.full_like(total, np.nan), where=used > 0)


def class_scores(
    truth: Int[np.ndarray, " m"],
    values: Float64[np.ndarray, "m k"],
    shares: Float64[np.ndarray, " k"],
    weights: Float64[np.ndarray, "b m"],
    metrics: Sequence[str],
    numbers: Float64[np.ndarray, " k"],
) -> Float64[np.ndarray, "b s"]:
    """Scores of one test part, of weighted images; NaN where fewer than two classes are left.

    Args:
        metrics: names of scores.
        numbers: that the classes are, ascending; for kappa, which counts an image for the class
            that is nearest to its predicted number.
    """
    k = values.shape[1]
    nearest = np.abs((values @ numbers)[:, None] - numbers).argmin(axis=1)

    def confusion(found: Int[np.ndarray, " m"]) -> Float64[np.ndarray, "b k k"]:
        cells = np.zeros((len(truth), k * k))
        cells[np.arange(len(truth)), truth * k + found] = 1.0
        return (weights @ cells).reshape(-1, k, k)  # true class, found class

    by_class = confusion(chosen(values, shares))
    right, total = np.diagonal(by_class, axis1=1, axis2=2), by_class.sum(axis=2)
    of_metric = {
        BALANCED: lambda: mean_recall(right, total),
        AUROC: lambda: _auroc(truth, values, weights),
        KAPPA: lambda: kappa(confusion(nearest), is_quadratic=True),
    }
    found = np.stack([of_metric[name]() for name in metrics], axis=1)
    return np.where((total > 0).sum(axis=1, keepdims=True) > 1, found, np.nan)


def mean_recall(
    right: Float64[np.ndarray, "*p k"], total: Float64[np.ndarray, "*p k"]
) -> Float64[np.ndarray, "*p"]:
    """Balanced accuracy: the mean, over the classes that are there, of the share that is right."""
    is_there = total > 0
    recall = np.divide(right, total, np.zeros_like(total), where=is_there)
    return recall.sum(axis=-1) / np.maximum(is_there.sum(axis=-1), 1)


def kappa(
    confusion: Float64[np.ndarray, "*b k k"], *, is_quadratic: bool
) -> Float64[np.ndarray, "*b"]:
    """Cohen's kappa (`cohen1960`), or with quadratic weights of the classes' order (`cohen1968`).

    NaN where all images are of one class and predicted to be of it.
    """
    k = np.arange(confusion.shape[-1])
    cost = (k[:, None] - k) ** 2.0 if is_quadratic else (k[:, None] != k) * 1.0
    rows, columns = confusion.sum(axis=-1), confusion.sum(axis=-2)
    n = confusion.sum(axis=(-1, -2))
    seen = (confusion * cost).sum(axis=(-1, -2))
    by_chance = np.einsum("...i,ij,...j->...", rows, cost, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - seen * n / by_chance


def _auroc(
    truth: Int[np.ndarray, " m"],
    values: Float64[np.ndarray, "m k"],
    weights: Float64[np.ndarray, "b m"],
) -> Float64[np.ndarray, " b"]:
    """Area under the ROC curve of each class against the rest, mean over those that are there."""
    areas = [
        _area(truth == number, column, weights) for number, column in enumerate(values.T)
    ]  # nan where one side is missing
    found = np.array(areas)
    is_fine = np.isfinite(found)
    return np.where(is_fine, found, 0.0).sum(axis=0) / np.maximum(is_fine.sum(axis=0), 1)


def _area(
    is_of: Bool[np.ndarray, " m"], values: Float64[np.ndarray, " m"], w: Float64[np.ndarray, "b m"]
) -> Float64[np.ndarray, " b"]:
    """The share of pairs of an image of the class and another in the right order; ties are half."""
    order = np.argsort(values, kind="stable")
    is_new = np.append(True, np.diff(values[order]) > 0)
    starts = np.flatnonzero(is_new)
    of_class, others = (
        np.add.reduceat(w[:, order] * side[order], starts, axis=1) for side in (is_of, ~is_of)
    )
    below = np.cumsum(others, axis=1) - others / 2
    pairs = of_class.sum(axis=1) * others.sum(axis=1)
    right = np.sum(of_class * below, axis=1)
    return np.divide(right, pairs, np.full_like(pairs, np.nan), where=pairs > 0)


def counted(
    truth: Float64[np.ndarray, "m _"],
    values: Float64[np.ndarray, "m _"],
    shares: Float64[np.ndarray, " _"],
    n_classes: int,
) -> Float64[np.ndarray, "_ p k"]:
    """Of permuted classes: the images of each that are recognised, and all images of each.

    Args:
        truth: indicators.
        shares: of the classes in the training part.
    """
    numbers = truth.reshape(len(truth), -1, n_classes)
    found = chosen(values.reshape(numbers.shape), shares.reshape(numbers.shape[1:]))
    right = np.take_along_axis(numbers, found[:, :, None], axis=2)
    is_right = numbers * right  # an image that is recognised counts for its class
    return np.stack([is_right.sum(axis=0), numbers.sum(axis=0)])
