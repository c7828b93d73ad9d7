"""How much of a target features encode when other variables are held constant.

In every split the training part decides what the other variables explain, of the target and of each
channel; ridge predicts the rest of the target from the rest of the features. The score is the share
of the held-out rest that is predicted,  partial R² = 1 - Σ(e - ê)² / Σe².  This is the regression
on the features and the unpenalised others (Frisch and Waugh; `lovell1963`).

Shapes: n training images, m held-out images, d features, k other variables, t targets, r rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float64, Int, Num

from .ridge import (
    NO_SPREAD,
    Decomposition,
    deviations,
    nested_ridge,
    of_products,
    quick_ridge,
    scaled,
    tall,
)


@dataclass(frozen=True, eq=False)
class Standardised:
    """Both parts of a split on the scale of the training part."""

    train: Float64[np.ndarray, "n d"]
    held_out: Float64[np.ndarray, "m d"]

    @cached_property
    def products(self) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "m n"]]:
        """XX' and ZX', formed once for all variables that are held constant."""
        return self.train @ self.train.T, self.held_out @ self.train.T


def standardised(
    train: Float64[np.ndarray, "n d"], held_out: Float64[np.ndarray, "m d"]
) -> Standardised:
    """Channels that are constant in the training part are dropped; as in `ridge.decompose`."""
    return Standardised(*scaled(train, held_out))


@dataclass(frozen=True, slots=True, eq=False)
class Others:
    """The other variables and the constant: A = QR of the training part, and B R⁻¹ held out."""

    q: Float64[np.ndarray, "n k1"]
    held_out: Float64[np.ndarray, "m k1"]

    def rest(
        self, train: Float64[np.ndarray, "n t"], held_out: Float64[np.ndarray, "m t"]
    ) -> tuple[Float64[np.ndarray, "n t"], Float64[np.ndarray, "m t"]]:
        """What the others do not explain, by their fit to the training part."""
        along = self.q.T @ train
        return train - self.q @ along, held_out - self.held_out @ along


def others_of(train: Float64[np.ndarray, "n k"], held_out: Float64[np.ndarray, "m k"]) -> Others:
    """Variables to be held constant, without those that add nothing in the training part.

    Both parts are standardised, so that units do not matter.
    """
    mean, deviation = train.mean(axis=0), deviations(train)
    varies = deviation > 0
    scale = deviation[varies]
    A = np.column_stack([np.ones(len(train)), (train[:, varies] - mean[varies]) / scale])
    B = np.column_stack([np.ones(len(held_out)), (held_out[:, varies] - mean[varies]) / scale])
    factors: tuple[Any, ...] = scipy.linalg.qr(A, mode="economic", pivoting=True)
    q, r, order = factors
    diagonal = np.abs(np.diag(r))
    rank = int((diagonal > NO_SPREAD**0.5 * diagonal[0]).sum())
    r, B = r[:rank, :rank], B[:, order[:rank]]
    return Others(q[:, :rank], scipy.linalg.solve_triangular(r, B.T, trans=1).T)


def decompose_rest(features: Standardised, others: Others) -> Decomposition:
    """The decomposition of what the others do not explain of the features.

    Through XX', where there are more features than images: with H = QQ' it becomes (I-H) XX' (I-H),
    so the features themselves are not needed again.
    """
    n, d = features.train.shape
    if d <= n:
        found = tall(*others.rest(features.train, features.held_out))
        return replace(found, others=others.q)
    (gram, cross), q = features.products, others.q
    along = q.T @ gram
    gram = gram - q @ along
    gram -= (gram @ q) @ q.T
    cross = cross - others.held_out @ along  # the vectors are orthogonal to q already
    return replace(of_products(gram, cross, d), others=q)


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """Held-out residuals of a target, without and with the features, and permuted partial R².

    Where the others determine the target, all that is left is rounding: residuals are 0, partial R²
    is not a number.
    """

    rest: Float64[np.ndarray, " m"]  # that the others leave
    error: Float64[np.ndarray, " m"]  # that the features leave of it
    null: Float64[np.ndarray, " p"]  # the first of the target itself, the others of permutations


def partial(
    features: Standardised,
    others: Others,
    target: tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " m"]],
    permuted: tuple[Float64[np.ndarray, "n p"], Float64[np.ndarray, "m p"]],
    groups: Int[np.ndarray, " n"],
) -> Partial:
    """Predict what the other variables leave of a target.

    Args:
        target: in the training part, and held out.
        permuted: the target, then permutations of what all the others leave of it (`freedman1983`).
        groups: images that share one are held out together when the penalty is chosen.
    """
    y, truth = others.rest(target[0][:, None], target[1][:, None])
    rest, spread = truth[:, 0], target[0] - target[0].mean()
    if np.sum(y**2) <= NO_SPREAD * np.sum(spread**2):
        nothing = np.zeros_like(rest)
        return Partial(nothing, nothing, np.full(permuted[0].shape[1], np.nan))
    decomposition = decompose_rest(features, others)
    error = rest - nested_ridge(decomposition, y, groups).predictions[:, 0]
    train, held_out = others.rest(*permuted)
    left = held_out - quick_ridge(decomposition, train)
    spread = np.sum(held_out**2, axis=0)
    null = 1 - np.sum(left**2, axis=0) / np.maximum(spread, np.finfo(np.float64).tiny)
    return Partial(rest, error, null)


def bootstrap_partial(
    rest: Sequence[Float64[np.ndarray, "_ c"]],
    error: Sequence[Float64[np.ndarray, "_ c"]],
    is_held_out: Bool[np.ndarray, "r n"],
    counts: Num[np.ndarray, "b n"],
) -> Float64[np.ndarray, "b c"]:
    """Partial R², mean over repeats, by draw, as in `bootstrap_r_squared`.

    Args:
        rest, error: of `Partial`, one array per repeat, one column per score.
    """
    total = np.zeros((len(counts), rest[0].shape[1]))
    used = np.zeros_like(total)
    for e, left, held_out in zip(rest, error, is_held_out, strict=True):
        w = counts[:, held_out].astype(np.float64)
        spread = w @ e**2
        fine = spread > NO_SPREAD * np.sum(e**2, axis=0)
        used += fine
        total += np.where(fine, 1 - (w @ left**2) / np.where(fine, spread, 1.0), 0.0)
    return np.where(used > 0, total / np.maximum(used, 1), np.nan)
