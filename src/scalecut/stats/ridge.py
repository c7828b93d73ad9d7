"""Ridge regression and least squares of a measure on a layer's features.

The numerical core of the probe: arrays in, numbers out, without models, files or layer names.

Shapes: n training images, m held-out images, d features, k penalties, t targets, r rank. All is
float64: R² near 0 must be exact.

Source: regression concept vectors, `graziani2018` in docs/references.bib. The authors' code fits
ordinary least squares; we add a ridge penalty, because n < d in most layers (docs/choices.md).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
from jaxtyping import Float64, Int

# From hardly any shrinkage to predicting the mean, for 10 to 10^6 images and up to 4,096 features.
PENALTIES = np.logspace(-2, 8, 31)

# Held-out values are clipped at this many standard deviations of the training part from its mean.
# Otherwise one image that activates a channel that is silent in the training part (softmax, random
# networks) would be predicted thousands of deviations off; other layers hardly have such values
# (docs/choices.md).
FARTHEST = 10.0

# Smallest over largest eigenvalue of X'X or XX', above which these give eight digits or more.
WELL_CONDITIONED = 1e-7
NEAR_SINGULAR = 1e-10  # smallest over largest entry on the diagonal of a triangle
CONSTANT = 10 * np.finfo(np.float64).eps  # deviation over largest absolute value of a channel
NO_SPREAD = 1e-12  # share of the sum of squares below which a spread is rounding alone


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Predictions of a fit on the training part for the held-out part."""

    predictions: Float64[np.ndarray, "m t"]
    penalties: Float64[np.ndarray, " t"]  # chosen inside the training part; 0 for least squares


@dataclass(frozen=True, slots=True)
class Decomposition:
    """X = U S Vᵀ of the standardised training part, and the held-out rows Z along V.

    One decomposition serves every penalty, target and permutation.

    Args:
        others: orthonormal columns of what X and the targets are residuals of, the constant among
            them; None for the constant alone. They are fitted without a penalty, which counts
            where a penalty is chosen.
        is_least_squares: whether ridge without a penalty is `least_squares`, to eight digits: there
            are as many components as channels that vary, none is small, and no held-out value was
            clipped.
    """

    u: Float64[np.ndarray, "n r"]
    s: Float64[np.ndarray, " r"]
    held_out: Float64[np.ndarray, "m r"]  # Z V
    others: Float64[np.ndarray, "n f"] | None = None
    is_least_squares: bool = False

    @property
    def unpenalised(self) -> Float64[np.ndarray, "n f"]:
        """The columns that are fitted without a penalty."""
        return constant(len(self.u)) if self.others is None else self.others


def decompose(
    train: Float64[np.ndarray, "n d"], held_out: Float64[np.ndarray, "m d"]
) -> Decomposition:
    """The decomposition of the standardised training part, through the smaller of X'X and XX'.

    Channels that are constant in the training part are dropped (`zero_if_constant`); held-out
    values are clipped at `FARTHEST`.
    """
    X, Z = scaled(train, held_out)
    n, d = X.shape
    if not 0 < d <= n:
        return of_products(_gram(X), Z @ X.T, d)
    found, is_clipped = tall(X, Z), bool((np.abs(Z) == FARTHEST).any())
    is_small = found.s.min() ** 2 <= WELL_CONDITIONED * found.s.max() ** 2
    return replace(found, is_least_squares=len(found.s) == d and not (is_small or is_clipped))


def joined_decompositions(
    blocks: Iterable[tuple[Float64[np.ndarray, "n _"], Float64[np.ndarray, "m _"]]],
) -> Iterator[Decomposition]:
    """The decomposition of the first block, of the first two next to each other, and so on.

    Each block is standardised as in `decompose` and divided by √d, d its channels that vary, so
    that all blocks count alike, wide or narrow; and everything is multiplied by √d̄, d̄ the mean of
    these d, so that a penalty means the same as for one block. With more features than images it
    is through

        XX' = d̄ Σ X_l X_l' / d_l,    ZX' = d̄ Σ Z_l X_l' / d_l

    which cost one sum and one eigendecomposition per block.

    Args:
        blocks: training part and held-out part of each.
    """
    return (decomposed() for decomposed in _together(blocks))


def joined(
    blocks: Iterable[tuple[Float64[np.ndarray, "n _"], Float64[np.ndarray, "m _"]]],
) -> Decomposition:
    """The decomposition of all blocks next to each other, as the last of `joined_decompositions`.

    Of a single block it is that of `decompose`.
    """
    (last,) = deque(_together(blocks), maxlen=1)
    return last()


def _together(
    blocks: Iterable[tuple[Float64[np.ndarray, "n _"], Float64[np.ndarray, "m _"]]],
) -> Iterator[Callable[[], Decomposition]]:
    """What decomposes the first blocks next to each other, for one, two and so on."""
    gram, cross, widths = np.zeros(()), np.zeros(()), list[int]()
    pairs: list[tuple[np.ndarray, np.ndarray]] = []  # those that are not in the products
    for train, held_out in blocks:
        X, Z = scaled(train, held_out)
        widths.append(X.shape[1])
        pairs.append((X / max(1, X.shape[1]) ** 0.5, Z / max(1, X.shape[1]) ** 0.5))
        width, mean_width = sum(widths), sum(widths) / max(1, np.count_nonzero(widths))
        if 0 < width <= len(X):
            whole = (mean_width**0.5 * np.hstack(parts) for parts in zip(*pairs, strict=True))
            yield partial(tall, *whole)
            continue
        gram = sum((_gram(X) for X, _ in pairs), start=gram)
        cross = sum((Z @ X.T for X, Z in pairs), start=cross)
        pairs = []
        yield partial(of_products, mean_width * gram, mean_width * cross, width)


def scaled(
    train: Float64[np.ndarray, "n d"], held_out: Float64[np.ndarray, "m d"]
) -> tuple[Float64[np.ndarray, "n v"], Float64[np.ndarray, "m v"]]:
    """Both parts by the moments of the first, without its constant channels."""
    mean, deviation = train.mean(axis=0), deviations(train)
    varies = deviation > 0
    if not varies.all():
        train, held_out = train[:, varies], held_out[:, varies]
        mean, deviation = mean[varies], deviation[varies]
    X, Z = train - mean, held_out - mean
    X /= deviation
    Z /= deviation
    return X, np.clip(Z, -FARTHEST, FARTHEST, out=Z)


def tall(X: Float64[np.ndarray, "n d"], Z: Float64[np.ndarray, "m d"]) -> Decomposition:
    """From standardised features, of which there are at most as many as images."""
    s, vectors = _square_roots(_gram(X.T), len(X))
    return Decomposition(X @ vectors / s, s, Z @ vectors)


def of_products(
    gram: Float64[np.ndarray, "n n"], cross: Float64[np.ndarray, "m n"], d: int
) -> Decomposition:
    """From XX', of which the lower half is read, and ZX', with d features."""
    if d == 0:
        return Decomposition(np.zeros((len(gram), 0)), np.zeros(0), np.zeros((len(cross), 0)))
    s, vectors = _square_roots(gram, d)
    return Decomposition(vectors, s, cross @ vectors / s)


def _square_roots(
    gram: Float64[np.ndarray, "k k"], other: int
) -> tuple[Float64[np.ndarray, " r"], Float64[np.ndarray, "k r"]]:
    """Singular values above rounding, and their vectors, of a matrix of k by `other` numbers."""
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > squares.max(initial=0.0) * max(len(gram), other) * np.finfo(np.float64).eps
    return np.sqrt(squares[kept]), vectors[:, kept]


def _gram(X: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n n"]:
    """The lower half of X X', which is all that `numpy.linalg.eigh` reads."""
    if not X.size:
        return np.zeros((len(X), len(X)))
    syrk: Any = scipy.linalg.get_blas_funcs("syrk", [X])
    return syrk(1.0, X.T, trans=1, lower=1) if X.flags.c_contiguous else syrk(1.0, X, lower=1)


def deviations(features: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, " d"]:
    """Standard deviation of each channel; 0 for constant channels."""
    highest, lowest = features.max(axis=0, initial=0.0), features.min(axis=0, initial=0.0)
    return zero_if_constant(features.std(axis=0), np.maximum(highest, -lowest))


def zero_if_constant(
    deviation: Float64[np.ndarray, " d"], largest: Float64[np.ndarray, " d"]
) -> Float64[np.ndarray, " d"]:
    """The deviations, with 0 for every channel that counts as constant.

    A channel is constant if rounding alone explains its deviation:  σ ≤ 10 ε max|x|,  ε that of
    float64. The mean of n equal numbers may differ from them by a few ε.

    Args:
        deviation: σ, standard deviation of each channel.
        largest: max|x|, the largest absolute value of each channel.
    """
    return np.where(deviation > CONSTANT * largest, deviation, 0.0)


def nested_ridge(
    decomposition: Decomposition,
    targets: Float64[np.ndarray, "n t"],
    groups: Int[np.ndarray, " n"],
    penalties: Float64[np.ndarray, " k"] = PENALTIES,
    together: int = 1,
) -> HeldOut:
    """Predictions of ridge, its penalty chosen by leave-one-group-out within the training part.

    With the hat matrix  H = QQᵀ + U diag(s²/(s² + α)) Uᵀ,  where Q is what is not penalised (the
    constant, QQᵀ = 11ᵀ/n), and residuals e = y - Hy, the residuals of a held-out group g are
    (I - H_gg)⁻¹ e_g,  in closed form (`golub1979` for groups of one image, where this is
    leave-one-out). The penalty with the smallest sum of their squares is taken.

    Args:
        groups: one number per image; images that share one are held out together.
        together: consecutive targets that share a penalty, as the classes of one label do.
    """
    mean = targets.mean(axis=0)
    found = nested_rest(decomposition, targets - mean, groups, penalties, together)
    return HeldOut(mean + found.predictions, found.penalties)


def nested_rest(
    decomposition: Decomposition,
    targets: Float64[np.ndarray, "n t"],
    groups: Int[np.ndarray, " n"],
    penalties: Float64[np.ndarray, " k"] = PENALTIES,
    together: int = 1,
) -> HeldOut:
    """As `nested_ridge`, of targets that are residuals of what is not penalised."""
    u, s = decomposition.u, decomposition.s
    along = u.T @ targets  # (r, t)
    kept = s**2 / (s**2 + penalties[:, None])  # (k, r)
    blocks, unpenalised = blocks_of(groups), decomposition.unpenalised
    residuals = left_out(u, kept, along, targets, blocks, unpenalised)
    errors = np.sum(residuals**2, axis=1)  # (k, t)
    best = chosen_penalties(errors, penalties, together)  # (t,)
    shrink = s[:, None] / (s[:, None] ** 2 + best)  # (r, t)
    return HeldOut(decomposition.held_out @ (shrink * along), best)


def left_group_out(
    decomposition: Decomposition,
    target: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    penalties: Float64[np.ndarray, " k"] = PENALTIES,
) -> Float64[np.ndarray, " n"]:
    """Predictions for each image of the training part from the other groups.

    The penalty is the one that `nested_ridge` chooses; in closed form, as there.
    """
    u, s = decomposition.u, decomposition.s
    centred = (target - target.mean())[:, None]
    kept = s**2 / (s**2 + penalties[:, None])
    blocks, unpenalised = blocks_of(groups), decomposition.unpenalised
    found = left_out(u, kept, u.T @ centred, centred, blocks, unpenalised)[:, :, 0]
    return target - found[np.sum(found**2, axis=1).argmin()]


def quick_ridge(
    decomposition: Decomposition,
    targets: Float64[np.ndarray, "n t"],
    penalties: Float64[np.ndarray, " k"] = PENALTIES,
    together: int = 1,
) -> Float64[np.ndarray, "m t"]:
    """Held-out predictions for thousands of targets, as for permutations.

    As `nested_ridge`, but the penalty is chosen by generalised cross-validation (`golub1979`),
    which puts the mean leverage in place of each: no residuals are formed, groups are ignored.
    """
    mean = targets.mean(axis=0)
    centred = targets - mean
    along, squares = decomposition.u.T @ centred, sum_of_squares(centred)
    weights = along_by_gcv(decomposition, along, squares, penalties, together)
    return mean + decomposition.held_out @ weights


def sum_of_squares(values: Float64[np.ndarray, "n t"]) -> Float64[np.ndarray, " t"]:
    """Σ y² of each column."""
    return np.einsum("ij,ij->j", values, values)


def along_by_gcv(
    decomposition: Decomposition,
    along: Float64[np.ndarray, "r t"],
    squares: Float64[np.ndarray, " t"],
    penalties: Float64[np.ndarray, " k"] = PENALTIES,
    together: int = 1,
) -> Float64[np.ndarray, "r t"]:
    """Weights along V, with the penalty by generalised cross-validation, from U'Y and Σ Y²."""
    free = len(decomposition.u) - decomposition.unpenalised.shape[1]
    return shrunk_by_gcv(decomposition.s, free, along, squares, penalties, together)


def shrunk_by_gcv(
    s: Float64[np.ndarray, " r"],
    free: int,
    along: Float64[np.ndarray, "r t"],
    squares: Float64[np.ndarray, " t"],
    penalties: Float64[np.ndarray, " k"],
    together: int = 1,
) -> Float64[np.ndarray, "r t"]:
    """As `along_by_gcv`.

    Args:
        free: training images less what is fitted without a penalty, the constant among it.
    """
    power = along**2
    outside = np.maximum(squares - power.sum(axis=0), 0.0)
    lost = penalties[:, None] / (s**2 + penalties[:, None])  # (k, r)
    left = free - len(s) + lost.sum(axis=1)  # degrees of freedom of the residuals
    errors = (outside + lost**2 @ power) / np.maximum(left, 1e-9)[:, None] ** 2  # (k, t)
    best = chosen_penalties(errors, penalties, together)
    return along * (s[:, None] / (s[:, None] ** 2 + best))


def chosen_penalties(
    errors: Float64[np.ndarray, "k t"], penalties: Float64[np.ndarray, " k"], together: int = 1
) -> Float64[np.ndarray, " t"]:
    """The penalty of each target with the smallest error, summed over targets that share it."""
    summed = errors.reshape(len(errors), -1, together).sum(axis=2)
    return np.repeat(penalties[summed.argmin(axis=0)], together)


def leading(decomposition: Decomposition, width: int) -> Decomposition:
    """The first `width` principal components of the training part; all if there are fewer."""
    first = np.argsort(-decomposition.s, kind="stable")[:width]
    return replace(
        decomposition,
        u=decomposition.u[:, first],
        s=decomposition.s[first],
        held_out=decomposition.held_out[:, first],
        is_least_squares=decomposition.is_least_squares and len(first) == len(decomposition.s),
    )


def least_squares(
    train: Float64[np.ndarray, "n d"],
    targets: Float64[np.ndarray, "n t"],
    held_out: Float64[np.ndarray, "m d"],
) -> HeldOut:
    """Predictions of ordinary least squares with intercept on unscaled features (`graziani2021`).

    The fit of minimum norm where there are fewer images than features.
    """
    mean = targets.mean(axis=0)
    predictions = mean + least_squares_hat(train, held_out) @ (targets - mean)
    return HeldOut(predictions, np.zeros(targets.shape[1]))


def least_squares_hat(
    train: Float64[np.ndarray, "n d"], held_out: Float64[np.ndarray, "m d"]
) -> Float64[np.ndarray, "m n"]:
    """What `least_squares` multiplies centred targets with, to predict the held-out part.

    By Cholesky's decomposition of X X' where there are fewer images than features and that keeps
    eight digits, else by a QR decomposition, and by singular values where its triangle would be
    near singular.
    """
    X, Z = _contrasts(train), held_out - train.mean(axis=0)
    is_tall = len(X) >= X.shape[1]
    if not is_tall and (solved := _well_conditioned(_gram(X), X @ Z.T)) is not None:
        return _of_contrasts(solved.T)
    factors: Any = np.linalg.qr(X) if is_tall else scipy.linalg.qr_multiply(X.T, Z)
    q, r = factors  # for X', Z Q in place of Q
    diagonal = np.abs(np.diag(r))
    if diagonal.min(initial=np.inf) <= NEAR_SINGULAR * diagonal.max(initial=0.0):
        inverse, *_ = np.linalg.lstsq(X, np.eye(len(X)))
        hat = Z @ inverse
    elif is_tall:
        hat = scipy.linalg.solve_triangular(r, Z.T, trans=1).T @ q.T  # Z R⁻¹ Qᵀ
    else:
        hat = scipy.linalg.solve_triangular(r, q.T).T  # Z Q R⁻ᵀ
    return _of_contrasts(hat)


def _well_conditioned(
    gram: Float64[np.ndarray, "n n"], right: Float64[np.ndarray, "n m"]
) -> Float64[np.ndarray, "n m"] | None:
    """G⁻¹ B, of G the lower half; None where that has fewer than eight digits."""
    potrf, pocon, potrs = scipy.linalg.get_lapack_funcs(("potrf", "pocon", "potrs"), [gram])
    norm = np.abs(np.tril(gram) + np.tril(gram, -1).T).sum(axis=0).max()
    triangle, failed = potrf(gram, lower=1)
    if failed or pocon(triangle, norm, uplo="L")[0] < WELL_CONDITIONED:
        return None
    return potrs(triangle, right, lower=1)[0]


def _contrasts(values: Float64[np.ndarray, "n t"]) -> Float64[np.ndarray, "k t"]:
    """Orthonormal contrasts of the rows, without their mean: k = n - 1.

    All but the first row of the reflection I - vv'/v₁ with v = (1 + 1/√n, 1/√n, ..., 1/√n), which
    maps (1, ..., 1) onto the first axis.
    """
    root = len(values) ** -0.5
    return values[1:] - root / (1 + root) * (values[0] + root * values.sum(axis=0))


def _of_contrasts(hat: Float64[np.ndarray, "m k"]) -> Float64[np.ndarray, "m n"]:
    """The product of a matrix with the matrix that `_contrasts` multiplies with."""
    root, total = (hat.shape[1] + 1) ** -0.5, hat.sum(axis=1, keepdims=True)
    return np.hstack([-root * total, hat - root**2 / (1 + root) * total])


def r_squared(
    measure: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, "*k n"]
) -> Float64[np.ndarray, "*k"] | np.float64:
    """R² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)², where ȳ is the mean of the same images."""
    spread = np.sum((measure - measure.mean()) ** 2)
    return 1.0 - np.sum((measure - predicted) ** 2, axis=-1) / spread


Blocks: TypeAlias = tuple[np.ndarray, list[np.ndarray]]


def blocks_of(groups: Int[np.ndarray, " n"]) -> Blocks:
    """Rows of the images that form groups of one, and the rows of each larger group."""
    _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    alone = counts[member] == 1
    larger = np.flatnonzero(~alone)
    order = larger[np.argsort(member[larger], kind="stable")]
    ends = np.cumsum(counts[counts > 1]).tolist()
    starts = [0, *ends[:-1]] if ends else []
    return np.flatnonzero(alone), [order[a:b] for a, b in zip(starts, ends, strict=True)]


def left_out(
    u: Float64[np.ndarray, "b r"],
    kept: Float64[np.ndarray, "k r"],
    along: Float64[np.ndarray, "r t"],
    targets: Float64[np.ndarray, "b t"],
    blocks: Blocks,
    unpenalised: Float64[np.ndarray, "b f"],
) -> Float64[np.ndarray, "k b t"]:
    """Residuals of images when their group is held out of the fit, by penalty.

    Args:
        u, targets, unpenalised: rows of whole groups among the n training images; the targets are
            residuals of what is not penalised.
        kept: s² / (s² + α), what each penalty leaves of each component.
        along: U'Y of all n training images.
    """
    alone, together = blocks
    weights = kept.T[:, :, None] * along[:, None]  # (r, k, t)
    found = targets - np.tensordot(u, weights, axes=1).swapaxes(0, 1)  # (k, b, t)
    fixed = np.sum(unpenalised[alone] ** 2, axis=1)
    leverage = fixed[:, None] + (u[alone] ** 2) @ kept.T  # (alone, k)
    found[:, alone] /= np.maximum(1.0 - leverage.T, 1e-12)[:, :, None]
    for rows in together:
        found[:, rows] = _without(unpenalised[rows], u[rows], kept, found[:, rows])
    return found


def constant(n: int) -> Float64[np.ndarray, "n 1"]:
    """The constant as a column of length 1."""
    return np.full((n, 1), n**-0.5)


def _without(
    unpenalised: Float64[np.ndarray, "g f"],
    u: Float64[np.ndarray, "g r"],
    kept: Float64[np.ndarray, "k r"],
    residuals: Float64[np.ndarray, "k g t"],
) -> Float64[np.ndarray, "k g t"]:
    """(I - H)⁻¹ e of a group by penalty, H = A A'; through A'A if it is larger than the rank."""
    g, width = len(u), unpenalised.shape[1] + u.shape[1]
    if g <= width:
        hat = unpenalised @ unpenalised.T + (u * kept[:, None]) @ u.T  # (k, g, g)
        return np.linalg.solve(np.eye(g) * (1 + 1e-12) - hat, residuals)
    found = np.empty_like(residuals)
    for number, share in enumerate(kept):
        A = np.hstack([unpenalised, u * np.sqrt(share)])
        inner = np.eye(width) * (1 + 1e-12) - A.T @ A
        found[number] = residuals[number] + A @ np.linalg.solve(inner, A.T @ residuals[number])
    return found
