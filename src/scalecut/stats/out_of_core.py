"""The regressions of `ridge`, block by block, for training parts that may not fit into memory.

The numbers are the same; products are summed in another order. Features may lie on disk, and are
read four times per split: for their moments, their products, the residuals and the held-out rows.

Shapes: n training images, m held-out images, d features, t targets, p permuted measures, k
penalties, r rank, b rows of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Float64, Int

from .. import cache
from .classes import counted, indicators, mean_recall
from .ridge import (
    FARTHEST,
    NEAR_SINGULAR,
    NO_SPREAD,
    PENALTIES,
    WELL_CONDITIONED,
    Blocks,
    along_by_gcv,
    blocks_of,
    chosen_penalties,
    decompose,
    leading,
    least_squares_hat,
    left_out,
    nested_rest,
    shrunk_by_gcv,
    sum_of_squares,
    zero_if_constant,
)

MANY = 2048  # training images; fewer are fitted in memory
ROWS = 1024  # of a block, at least


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of a matrix that may lie on disk."""

    values: Float[np.ndarray, "all d"]
    numbers: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.values.shape[1]

    def at(self, places: slice | Int[np.ndarray, " b"]) -> Float64[np.ndarray, "b d"]:
        """The rows at these places; pages of a file on disk are released from memory."""
        found = self.values[self.numbers[places]].astype(np.float64, copy=False)
        cache.released(self.values)
        return found

    def whole(self) -> Float64[np.ndarray, "n d"]:
        """All of them, in memory."""
        return self.at(slice(None))


@dataclass(frozen=True, slots=True, eq=False)
class Permuted:
    """Some rows of the permuted values of several targets next to each other.

    Args:
        n_classes: each column of numbers of classes becomes as many columns of 1 and 0; 0 for
            measures, which stay as they are.
    """

    targets: tuple[Rows, ...]
    n_classes: int = 0

    def __len__(self) -> int:
        return len(self.targets[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return max(1, self.n_classes) * sum(rows.width for rows in self.targets)

    def at(self, places: slice | Int[np.ndarray, " b"]) -> Float64[np.ndarray, "b p"]:
        """The rows at these places."""
        found = np.hstack([rows.at(places) for rows in self.targets])
        return indicators(found, self.n_classes) if self.n_classes else found


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Training and held-out part of one repeat.

    The same rows of the features and of `permuted` belong together. Of classes, the targets are
    indicators, those of one label next to each other.
    """

    train: Rows
    held_out: Rows
    targets: Float64[np.ndarray, "n t"]  # of the training part
    groups: Int[np.ndarray, " n"]
    permuted: tuple[Rows | Permuted, Rows | Permuted]  # permuted targets of both parts
    n_classes: int = 0  # 0 for measures

    @property
    def together(self) -> int:
        """Consecutive targets that share a penalty."""
        return max(1, self.n_classes)

    @property
    def is_tall(self) -> bool:
        """Whether the fit belongs here: many training images, and more than features."""
        n, d = len(self.train), self.train.values.shape[1]
        return n > max(d, MANY)


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """Held-out predictions of the targets, and held-out scores of the permuted ones.

    The score is R² of measures, and balanced accuracy of classes.
    """

    predictions: Float64[np.ndarray, "m t"]
    null: Float64[np.ndarray, " p"]


def predicted(
    split: Split,
    regressors: Sequence[str],
    widths: Sequence[int],
    penalties: Float64[np.ndarray, " k"] = PENALTIES,
) -> list[Tested]:
    """Held-out predictions of each regressor: `ols` as `least_squares`, others as `nested_ridge`.

    Permuted measures are predicted as by `quick_ridge`.

    Args:
        widths: principal components for each regressor; 0 for all of them.
    """
    products = _products(split)
    fits = []
    for name, width in zip(regressors, widths, strict=True):
        if name == "ols":
            fits.append(_least_squares(split, products))
        else:
            fits.append(_ridge(split, products, width, penalties))
    return _on_held_out(split, products, fits)


def predicted_in_memory(
    split: Split, regressors: Sequence[str], widths: Sequence[int]
) -> list[Tested]:
    """As `predicted`, with everything in memory; one decomposition serves all that it can."""
    train, held_out, shared = split.train.whole(), split.held_out.whole(), split.together
    permuted, y = (rows.at(slice(None)) for rows in split.permuted)
    exact_mean, mean = split.targets.mean(axis=0), permuted.mean(axis=0)
    exact = split.targets - exact_mean
    permuted -= mean
    truth = y if split.n_classes else y - mean
    of_training, squares, found = sum_of_squares(permuted), sum_of_squares(truth), []
    spread = sum_of_squares(y - y.mean(axis=0))
    whole = decompose(train, held_out)
    along = whole.u.T @ permuted
    for name, width in zip(regressors, widths, strict=True):
        if name == "ols" and not whole.is_least_squares:
            hat = least_squares_hat(train, held_out)
            predictions, of_permuted = hat @ exact, hat @ permuted
        elif name == "ols":
            weights = whole.held_out / whole.s
            predictions, of_permuted = weights @ (whole.u.T @ exact), weights @ along
        else:
            kept = leading(whole, width) if width else whole
            predictions = nested_rest(kept, exact, split.groups, together=shared).predictions
            of_kept = kept.u.T @ permuted if width else along
            weights = along_by_gcv(kept, of_kept, of_training, together=shared)
            of_permuted = kept.held_out @ weights
        if split.n_classes:
            counts = counted(y, mean + of_permuted, mean, split.n_classes)
            null = mean_recall(*counts)
        else:
            null = null_scores(spread, squares, sum_of_squares(truth - of_permuted))
        found.append(Tested(exact_mean + predictions, null))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Products:
    """Products of standardised features X and centred targets Y, permuted measures last."""

    n: int
    mean: Float64[np.ndarray, " d"]
    deviation: Float64[np.ndarray, " v"]  # of the channels that vary
    varies: Bool[np.ndarray, " d"]
    target_mean: Float64[np.ndarray, " y"]
    along: Float64[np.ndarray, "v y"]  # X'Y
    squares: Float64[np.ndarray, " y"]  # Σ Y²
    values: Float64[np.ndarray, " v"]  # X'X = vectors diag(values) vectors', ascending
    vectors: Float64[np.ndarray, "v v"]

    def standardised(self, block: Float64[np.ndarray, "b d"]) -> Float64[np.ndarray, "b v"]:
        return _standardised(block, self.mean, self.deviation, self.varies)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """Weights of the targets, then of the permuted measures, without intercepts."""

    weights: Float64[np.ndarray, "w y"]
    is_standardised: bool  # for standardised, clipped features


def _places(n: int, d: int) -> Iterator[slice]:
    at_once = max(ROWS, d)  # a triangle of d rows is put on top of each block
    for start in range(0, n, at_once):
        yield slice(start, min(n, start + at_once))


def _products(split: Split) -> _Products:
    train, (permuted, _) = split.train, split.permuted
    d = train.values.shape[1]
    mean, deviation = _moments(train)
    varies = deviation > 0
    deviation = deviation[varies]
    target_mean = np.concatenate([split.targets.mean(axis=0), _mean(permuted)])
    gram = np.zeros((len(deviation), len(deviation)))
    along, squares = np.zeros((len(deviation), len(target_mean))), np.zeros(len(target_mean))
    for places in _places(len(train), d):
        X = _standardised(train.at(places), mean, deviation, varies)
        Y = np.hstack([split.targets[places], permuted.at(places)]) - target_mean
        gram += X.T @ X
        along += X.T @ Y
        squares += np.sum(Y**2, axis=0)
    values, vectors = np.linalg.eigh(gram) if gram.size else (np.zeros(0), gram)
    return _Products(
        len(train), mean, deviation, varies, target_mean, along, squares, values, vectors
    )


def _standardised(
    block: Float64[np.ndarray, "b d"],
    mean: Float64[np.ndarray, " d"],
    deviation: Float64[np.ndarray, " v"],
    varies: Bool[np.ndarray, " d"],
) -> Float64[np.ndarray, "b v"]:
    return (block[:, varies] - mean[varies]) / deviation


def _moments(rows: Rows) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    """Mean and standard deviation of each channel; the deviation is 0 for constant channels."""
    n, d = 0, rows.values.shape[1]
    mean, squares, highest = np.zeros(d), np.zeros(d), np.zeros(d)
    for places in _places(len(rows), d):
        block = rows.at(places)
        of_block, share = block.mean(axis=0), len(block) / (n + len(block))
        apart = of_block - mean
        squares += np.sum((block - of_block) ** 2, axis=0) + apart**2 * n * share
        mean += apart * share
        n += len(block)
        highest = np.maximum(highest, np.abs(block).max(axis=0))
    return mean, zero_if_constant(np.sqrt(squares / n), highest)


def _mean(rows: Rows | Permuted) -> Float64[np.ndarray, " p"]:
    found = np.zeros(rows.width)
    for places in _places(len(rows), len(found)):
        found += rows.at(places).sum(axis=0)
    return found / max(1, len(rows))


def _least_squares(split: Split, products: _Products) -> _Fit:
    """From the products where these keep enough digits, else by a QR decomposition."""
    values, vectors = products.values, products.vectors
    if values.min(initial=np.inf) > WELL_CONDITIONED * values.max(initial=0.0):
        weights = np.zeros((len(products.mean), len(products.target_mean)))
        along = vectors / values @ (vectors.T @ products.along)
        weights[products.varies] = along / products.deviation[:, None]
        return _Fit(weights, is_standardised=False)
    triangle, turned = _triangle(split, products)
    diagonal = np.abs(np.diag(triangle))
    if diagonal.min() > NEAR_SINGULAR * diagonal.max():
        return _Fit(scipy.linalg.solve_triangular(triangle, turned), is_standardised=False)
    singular = np.finfo(np.float64).eps * max(products.n, len(triangle))
    return _Fit(np.linalg.lstsq(triangle, turned, rcond=singular)[0], is_standardised=False)


def _triangle(
    split: Split, products: _Products
) -> tuple[Float64[np.ndarray, "d d"], Float64[np.ndarray, "d y"]]:
    """R of the centred, unscaled features X = QR, and Q'Y."""
    d = len(products.mean)
    triangle, turned = np.zeros((d, d)), np.zeros((d, len(products.target_mean)))
    for places in _places(products.n, d):
        X = np.vstack([triangle, split.train.at(places) - products.mean])
        Y = np.hstack([split.targets[places], split.permuted[0].at(places)]) - products.target_mean
        turned, triangle = _turned(X, np.vstack([turned, Y]))
    return triangle, turned


def _turned(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q'Y and R of X = QR; both arrays are overwritten."""
    found: tuple[Any, ...] = scipy.linalg.qr_multiply(
        X, Y.T, "right", overwrite_a=True, overwrite_c=True
    )
    return found[0].T, found[1]


def _ridge(split: Split, products: _Products, width: int, penalties: np.ndarray) -> _Fit:
    n, t = products.n, split.targets.shape[1]
    values, vectors, d = products.values, products.vectors, len(products.values)
    if d == 0:
        return _Fit(np.zeros((0, len(products.target_mean))), is_standardised=True)
    kept = np.flatnonzero(values > values.max() * max(n, d) * np.finfo(np.float64).eps)
    kept = kept[::-1][:width] if width else kept
    s = np.sqrt(values[kept])
    basis = vectors[:, kept] / s  # U = X basis
    along = basis.T @ products.along  # U'Y
    shrunk = s[:, None] ** 2 / (s[:, None] ** 2 + penalties)  # (r, k)
    errors = _errors(split, products, basis, along[:, :t], shrunk)
    best = chosen_penalties(errors, penalties, split.together)
    exact = along[:, :t] * s[:, None] ** 2 / (s[:, None] ** 2 + best)
    asked = along[:, t:], products.squares[t:], penalties, split.together
    of_permuted = shrunk_by_gcv(s, n - 1, *asked) * s[:, None]
    return _Fit(basis @ np.hstack([exact, of_permuted]), is_standardised=True)


def _errors(
    split: Split,
    products: _Products,
    basis: Float64[np.ndarray, "v r"],
    along: Float64[np.ndarray, "r t"],
    shrunk: Float64[np.ndarray, "r k"],
) -> Float64[np.ndarray, "k t"]:
    """Sums of squared residuals of the left-out groups, by penalty."""
    order = np.argsort(split.groups, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(split.groups[order])) + 1, len(order))
    found = np.zeros((shrunk.shape[1], along.shape[1]))
    at_once, start = max(ROWS, len(products.mean)), 0
    while start < len(order):
        end = ends[min(np.searchsorted(ends, start + at_once), len(ends) - 1)]
        places = np.sort(order[start:end])
        u = products.standardised(split.train.at(places)) @ basis
        Y = split.targets[places] - products.target_mean[: along.shape[1]]
        blocks: Blocks = blocks_of(split.groups[places])
        fixed = np.full((len(u), 1), products.n**-0.5)
        found += np.sum(left_out(u, shrunk.T, along, Y, blocks, fixed) ** 2, axis=1)
        start = end
    return found


def _on_held_out(split: Split, products: _Products, fits: Sequence[_Fit]) -> list[Tested]:
    t, m, p = split.targets.shape[1], len(split.held_out), len(products.target_mean)
    predictions = np.zeros((len(fits), m, t))
    lost, total, squares = np.zeros((len(fits), p - t)), np.zeros(p - t), np.zeros(p - t)
    shape = len(fits), 2, (p - t) // split.together, split.together
    counts, shares = np.zeros(shape), products.target_mean[t:]
    for places in _places(m, len(products.mean)):
        block = split.held_out.at(places)
        Z = np.clip(products.standardised(block), -FARTHEST, FARTHEST)
        truth = split.permuted[1].at(places)
        y = truth - shares
        total, squares = total + y.sum(axis=0), squares + np.sum(y**2, axis=0)
        for number, fit in enumerate(fits):
            found = (Z if fit.is_standardised else block - products.mean) @ fit.weights
            predictions[number, places] = found[:, :t] + products.target_mean[:t]
            if split.n_classes:
                of_permuted = found[:, t:] + shares
                counts[number] += counted(truth, of_permuted, shares, split.n_classes)
            else:
                lost[number] += np.sum((y - found[:, t:]) ** 2, axis=0)
    if split.n_classes:
        null = [mean_recall(*each) for each in counts]
    else:
        null = null_scores(squares - total**2 / m, squares, lost)
    return [Tested(*each) for each in zip(predictions, null, strict=True)]


def null_scores(
    spread: Float64[np.ndarray, " p"],
    squares: Float64[np.ndarray, " p"],
    lost: Float64[np.ndarray, "*f p"],
) -> Float64[np.ndarray, "*f p"]:
    """R² of permuted measures; 0 where a measure is constant in the held-out part.

    Args:
        spread: Σ (y - ȳ)²; rounding alone if at most `NO_SPREAD` of `squares`.
        squares: Σ y².
        lost: Σ (y - ŷ)².
    """
    is_fine = np.broadcast_to(spread > NO_SPREAD * squares, lost.shape)
    return np.divide(spread - lost, spread, np.zeros_like(lost), where=is_fine)
