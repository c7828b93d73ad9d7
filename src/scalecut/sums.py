"""Ridge regression from sums of products alone: features are seen once and not kept.

Images fall into K cells by their group. For each cell the products Z'Z of Z = [1, x, y], features x
and targets y, are summed; penalties, fits and held-out R² follow from them. Values lie on a grid,
so that float64 adds the products without rounding: the same bits in any order and any sharding.

Shapes: n images, d features, t targets, K cells, u of them with images, k penalties, p = 1 + d + t
columns of Z, q their packed products, r dimensions of the fit.
"""

import functools
import hashlib
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.linalg import get_lapack_funcs
from scipy.stats import t as student

from .errors import DataError, OutputError
from .regression import FARTHEST, PENALTIES, deviations

CELLS = 10
FEWEST_CELLS = 3  # one held out, one to choose the penalty by, one to fit
FORMAT = 1  # of the file

# Whole numbers up to this one are exact in float64; sums are in steps of the squared grid.
EXACT = 2.0**53
SLACK = 4.0  # mean square, in deviations of the pilot, up to which sums stay exact

# A channel that sleeps in the cells to fit counts as varying by this share of its deviation in the
# pilot. Otherwise one held-out image that wakes it would be predicted thousands of deviations off,
# as sums cannot bound held-out values by the part to fit (softmax: R² 0.27 without, 0.43 with it).
ASLEEP = 0.5

# Least squares takes directions of less variance than this share of the largest for singular.
SINGULAR = 1e-12

_PACK, _UNPACK = get_lapack_funcs(("trttp", "tpttr"), dtype=np.float64)

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # `map`, or an executor's


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The grid: a value counts as the multiple of 2^-bits nearest to (value - centre) / deviation.

    Of d features, then t targets.
    """

    centre: Float64[np.ndarray, " c"]
    deviation: Float64[np.ndarray, " c"]
    n_targets: int
    bits: int


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Z'Z of each cell, its upper triangle column by column: 8 K p (p + 1) / 2 bytes.

    For 2,048 features and 10 cells that is 168 MB.
    """

    scale: Scale
    packed: Float64[np.ndarray, "K q"]

    @property
    def n(self) -> Float64[np.ndarray, " K"]:
        """How many images are in each cell."""
        return self.packed[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """What each cell was predicted to be by the others, as sums of squares, by target.

    nan where the regressor cannot be fitted.
    """

    residual: Float64[np.ndarray, "K t"]  # Σ(y - ŷ)²
    total: Float64[np.ndarray, "K t"]  # Σ(y - ȳ)², ȳ of the cell
    penalties: Float64[np.ndarray, "K t"]

    @property
    def r2(self) -> Float64[np.ndarray, " t"]:
        """R² = 1 - Σ residual / Σ total over the cells.

        As in `graziani2021` the spread is that about the mean of each held-out part; there R² is
        averaged over the parts, here the sums are pooled.
        """
        return 1.0 - self.residual.sum(axis=0) / self.total.sum(axis=0)

    @property
    def replicates(self) -> Float64[np.ndarray, "K t"]:
        """R² without each of the cells, the fits as they are."""
        residual = self.residual.sum(axis=0) - self.residual
        return 1.0 - residual / (self.total.sum(axis=0) - self.total)


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidated:
    """The two regressors on the same folds; cells without an image count nothing."""

    ridge: Folds
    ols: Folds  # nan unless there are more images to fit than features
    is_used: Bool[np.ndarray, " K"]
    n_images: int
    n_fit: int  # mean over the folds


# --- sums ----------------------------------------------------------------------------------------


def cell_of(group: str, seed: int, n_cells: int = CELLS) -> int:
    """The cell of a group: it follows from seed and name alone, so no group is ever torn."""
    digest = hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % n_cells


def scale_of(
    features: Float[np.ndarray, "n d"], targets: Float64[np.ndarray, "n t"], n_images: int
) -> Scale:
    """The grid for features and targets like those of a pilot, of as many images as are to come.

    The finest on which the sums of all of them are exact. A channel that is constant in the pilot
    keeps its own unit.
    """
    columns = np.hstack([features, targets]).astype(np.float64)
    deviation = deviations(columns)
    bits = int((np.log2(EXACT) - np.log2(SLACK * n_images)) / 2)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return Scale(columns.mean(axis=0), deviation, targets.shape[1], bits)


def empty(scale: Scale, n_cells: int = CELLS) -> Sums:
    """Sums of no images."""
    p = 1 + len(scale.centre)
    return Sums(scale, np.zeros((n_cells, p * (p + 1) // 2)))


def add(
    sums: Sums,
    features: Float[np.ndarray, "n d"],
    targets: Float64[np.ndarray, "n t"],
    cells: Int[np.ndarray, " n"],
) -> Sums:
    """The sums with these images in them; features count as no further off than `FARTHEST`.

    Raises:
        DataError: if the sums would no longer be exact.
    """
    Z, packed = _on_grid(sums.scale, features, targets), sums.packed.copy()
    for cell in np.unique(cells):
        rows = Z[cells == cell]
        packed[cell] += _PACK((rows.T @ rows).T, uplo="U")[0]
    return _exact(Sums(sums.scale, packed))


def merge(one: Sums, other: Sums) -> Sums:
    """The sums of the images of both; in any order they come to the same bits.

    Raises:
        DataError: if they lie on different grids, or would no longer be exact.
    """
    if not _is_same(one.scale, other.scale) or one.packed.shape != other.packed.shape:
        raise DataError(
            f"Sums of {one.n.sum():.0f} and of {other.n.sum():.0f} images lie on different grids, "
            "but only those of one grid add up. Take both from the same pilot."
        )
    return _exact(Sums(one.scale, one.packed + other.packed))


def save(path: Path, sums: Mapping[tuple[str, ...], Sums], about: Mapping[str, object]) -> None:
    """Write sums by name, and what else is to be known of them, as npz; whole, or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    named = list(enumerate(sums.items()))
    header = {
        "format": FORMAT,
        "about": about,
        "sums": [[*key] for _, (key, _) in named],
        "scales": [[each.scale.n_targets, each.scale.bits] for _, (_, each) in named],
    }
    arrays: dict[str, Any] = {"header": np.array(json.dumps(header))}
    for number, (_, each) in named:
        arrays[f"packed {number}"] = each.packed
        arrays[f"scale {number}"] = np.stack([each.scale.centre, each.scale.deviation])
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            np.savez(file, **arrays)
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"The sums cannot be kept in {str(path.parent)!r} ({error.strerror or error}). Free "
            "space, or set SCALECUT_CACHE to another folder; the same command goes on from what "
            "was kept."
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[tuple[str, ...], Sums], dict[str, Any]]:
    """What `save` wrote; the checksum of every array is compared.

    Raises:
        DataError: if the file is not whole, or of another version.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}, not {FORMAT}")
            sums = {}
            for number, (key, scale) in enumerate(
                zip(header["sums"], header["scales"], strict=True)
            ):
                centre, deviation = stored[f"scale {number}"]
                sums[tuple(key)] = Sums(
                    Scale(centre, deviation, *scale), stored[f"packed {number}"]
                )
            return sums, header["about"]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"The sums in {str(path)!r} cannot be read ({error}). Delete the file; the same "
            "command then begins anew."
        ) from error


# --- from sums to scores -------------------------------------------------------------------------


def cross_validated(
    sums: Sums, penalties: Float64[np.ndarray, " k"] = PENALTIES, each: Each = map
) -> CrossValidated:
    """Hold out each cell in turn, the penalty chosen by leaving out each of the others inside.

    Features are standardised by the cells to fit, but see `ASLEEP`. The fit without cells j and k
    serves both folds: with K cells K + K (K - 1) / 2 decompositions of d x d, or n x n if that is
    less, do it all.

    Args:
        each: `map`, or the same of an executor.

    Raises:
        DataError: if fewer than 3 cells have images, or a target varies inside fewer than 2.
    """
    is_used = sums.n > 0
    if is_used.sum() < FEWEST_CELLS:
        raise DataError(
            f"The groups of {sums.n.sum():.0f} images fall into {is_used.sum()} of {len(is_used)} "
            f"cells, but {FEWEST_CELLS} are needed to fit, to choose and to test. Give images of "
            "more groups."
        )
    problem = _problem(sums, is_used)
    places = range(len(problem.cells))
    pairs = list(itertools.combinations_with_replacement(places, 2))
    found = each(functools.partial(_lost, problem, penalties), pairs)
    n_targets = sums.scale.n_targets
    inner = np.zeros((len(places), len(penalties), n_targets))
    outer = np.zeros((len(places), 1 + len(penalties), n_targets))
    for (j, k), (of_j, of_k) in zip(pairs, found, strict=True):
        if j == k:
            outer[k] = of_k
        else:
            inner[k] += of_j[1:]
            inner[j] += of_k[1:]
    best = inner.argmin(axis=1)  # (u, t)
    chosen = np.take_along_axis(outer, 1 + best[:, None], axis=1)[:, 0]
    total = _spread(problem.cells, n_targets)
    n_varying = int(np.count_nonzero(total, axis=0).min())
    if n_varying < 2:
        raise DataError(
            f"The measure of {sums.n.sum():.0f} images varies inside {n_varying} of "
            f"{len(total)} cells, but 2 are needed for R² and its interval. Give more images whose "
            "objects differ in size."
        )
    n = sums.n.sum()
    return CrossValidated(
        _folds(is_used, chosen, total, penalties[best]),
        _folds(is_used, outer[:, 0], total, np.zeros_like(total)),
        is_used,
        int(n),
        round(float(n - n / is_used.sum())),
    )


def jackknife(
    value: float,
    replicates: Float64[np.ndarray, " u"],
    level: float = 0.95,
    *,
    most: float = 1.0,
) -> tuple[float, float]:
    """The interval of a score from its values without each of the cells, up to `most`.

    Delete-a-group jackknife with Student's t of u - 1 degrees of freedom (`efron1993`).
    """
    n = len(replicates)
    spread = np.sqrt((n - 1) / n * np.sum((replicates - replicates.mean()) ** 2))
    reach = float(student.ppf((1 + level) / 2, n - 1) * spread)
    return value - reach, min(value + reach, most)


# --- inside --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """The products of the cells that have images, in as few dimensions as the features span."""

    cells: Float64[np.ndarray, "u s s"]  # s = 1 + r + t
    total: Float64[np.ndarray, "s s"]
    moments: Float64[np.ndarray, "u two d"]  # Σx and Σx² of the features themselves
    basis: Float64[np.ndarray, "d r"] | None  # x = basis z; None where z is x
    rounding: float  # variance that the grid alone may add to a direction, an image
    n_targets: int


def _on_grid(
    scale: Scale, features: Float[np.ndarray, "n d"], targets: Float64[np.ndarray, "n t"]
) -> Float64[np.ndarray, "n p"]:
    Z = np.ones((len(features), 1 + len(scale.centre)))
    Z[:, 1:] = (np.hstack([features, targets]) - scale.centre) / scale.deviation
    d = features.shape[1]
    np.clip(Z[:, 1 : 1 + d], -FARTHEST, FARTHEST, out=Z[:, 1 : 1 + d])
    return np.rint(Z * 2.0**scale.bits) * 2.0**-scale.bits


def _is_same(one: Scale, other: Scale) -> bool:
    return (
        (one.n_targets, one.bits) == (other.n_targets, other.bits)
        and np.array_equal(one.centre, other.centre)
        and np.array_equal(one.deviation, other.deviation)
    )


def _exact(sums: Sums) -> Sums:
    """Refuse sums beyond the whole numbers that float64 holds.

    Sums of squares bound all others and all partial sums, by Cauchy and Schwarz.
    """
    diagonal = np.cumsum(np.arange(1, 2 + len(sums.scale.centre))) - 1
    squares, limit = sums.packed[:, diagonal].sum(axis=0), EXACT * 4.0**-sums.scale.bits
    if not (squares < limit).all():
        raise DataError(
            f"The sums of {sums.n.sum():.0f} images are {squares.max() / limit:.2g} times as large "
            "as adds up without rounding: they are more, or vary more, than the pilot let expect. "
            "Take the pilot from all kinds of images, and the number of images from all of them."
        )
    return sums


def _unpacked(sums: Sums, is_used: Bool[np.ndarray, " K"]) -> Float64[np.ndarray, "u p p"]:
    p = 1 + len(sums.scale.centre)
    whole = np.empty((is_used.sum(), p, p))
    for cell, packed in zip(whole, sums.packed[is_used], strict=True):
        upper = np.triu(_UNPACK(p, packed, uplo="U")[0])
        cell[:] = upper + np.triu(upper, 1).T
    return whole


def _problem(sums: Sums, is_used: Bool[np.ndarray, " K"]) -> _Problem:
    t = sums.scale.n_targets
    cells, d = _unpacked(sums, is_used), len(sums.scale.centre) - t
    squares = np.diagonal(cells, axis1=1, axis2=2)[:, 1 : 1 + d]
    moments, rounding = np.stack([cells[:, 0, 1 : 1 + d], squares], axis=1), 4.0**-sums.scale.bits
    total = cells.sum(axis=0)
    n = total[0, 0]
    if n > d:
        return _Problem(cells, total, moments, None, rounding, t)
    # Fewer images than features: all of them lie in the span of the centred features.
    mean = total[0, 1 : 1 + d] / n
    values, vectors = np.linalg.eigh(total[1 : 1 + d, 1 : 1 + d] - n * np.outer(mean, mean))
    basis = vectors[:, values > values.max(initial=0.0) * d * np.finfo(np.float64).eps]
    r = basis.shape[1]
    into = np.zeros((1 + d + t, 1 + r + t))  # Z, to its coordinates along the basis
    into[0, 0], into[0, 1 : 1 + r], into[1 : 1 + d, 1 : 1 + r] = 1.0, -mean @ basis, basis
    into[1 + d :, 1 + r :] = np.eye(t)
    cells = into.T @ cells @ into
    return _Problem(cells, cells.sum(axis=0), moments, basis, rounding, t)


def _lost(
    problem: _Problem, penalties: Float64[np.ndarray, " k"], pair: tuple[int, int]
) -> list[Float64[np.ndarray, "k1 t"]]:
    """Σ(y - ŷ)² of each cell of a pair, as the other cells predict it, by penalty.

    The first row is of least squares. With e the target's unit vector and β, w the fit,
    y - ŷ = Z c  for  c = [-β, -w, e],  so that the sum is  c' Z'Z c.
    """
    out, t = list(set(pair)), problem.n_targets
    train = problem.total - problem.cells[out].sum(axis=0)
    mean = train[0, 1:] / train[0, 0]
    centred = train[1:, 1:] - train[0, 0] * np.outer(mean, mean)
    moments = problem.moments.sum(axis=0) - problem.moments[out].sum(axis=0)
    weights = _weights(problem, centred, train[0, 0], moments, penalties)  # (r, k + 1, t)
    c = np.zeros((len(train), *weights.shape[1:]))
    c[0] = np.tensordot(mean[:-t], weights, 1) - mean[-t:]
    c[1:-t] = -weights
    c[-t:] = np.eye(t)[:, None]
    flat = c.reshape(len(c), -1)
    lost = [np.sum(flat * (problem.cells[cell] @ flat), axis=0) for cell in pair]
    return [np.maximum(each, 0.0).reshape(c.shape[1:]) for each in lost]


def _weights(
    problem: _Problem,
    centred: Float64[np.ndarray, "rt rt"],
    n: float,
    moments: Float64[np.ndarray, "two d"],
    penalties: Float64[np.ndarray, " k"],
) -> Float64[np.ndarray, "r k1 t"]:
    """Least squares, then ridge of every penalty on standardised features, from centred products.

    With D the deviations, the weights are those of X D⁻¹. Along a basis V they are penalised alike
    if z is turned by R of  QR = D⁻¹ V.
    """
    t, inverse = problem.n_targets, _inverse_deviations(n, moments)
    products, along = centred[:-t, :-t], centred[:-t, -t:]
    if problem.basis is None:
        products, along = inverse[:, None] * products * inverse, inverse[:, None] * along
        back = inverse[:, None]
    else:
        R = np.linalg.qr(inverse[:, None] * problem.basis)[1]
        products, along, back = R @ products @ R.T, R @ along, R.T
    squares, vectors = np.linalg.eigh(products)
    squares = np.maximum(squares, 0.0)
    least = max(SINGULAR * squares.max(initial=0.0), n * problem.rounding)
    shrink = np.zeros((1 + len(penalties), len(squares)))
    np.divide(1.0, squares, out=shrink[0], where=squares > least)
    if n <= moments.shape[1]:
        shrink[0] = np.nan
    shrink[1:] = 1.0 / (squares + penalties[:, None])
    found = shrink.T[:, :, None] * (vectors.T @ along)[:, None]  # (r, k + 1, t)
    flat = vectors @ found.reshape(len(found), -1)
    flat = back * flat if problem.basis is None else back @ flat
    return flat.reshape(found.shape)


def _inverse_deviations(
    n: float, moments: Float64[np.ndarray, "two d"]
) -> Float64[np.ndarray, " d"]:
    """1 / deviation of each channel, no less than `ASLEEP`; 0 where rounding alone varies it."""
    mean, square = moments / n
    variance = square - mean**2
    varies = variance > 10 * np.finfo(np.float64).eps * square
    return varies / np.sqrt(np.maximum(variance, ASLEEP**2))


def _spread(cells: Float64[np.ndarray, "u s s"], t: int) -> Float64[np.ndarray, "u t"]:
    """Σ(y - ȳ)² in each cell; 0 where rounding alone would explain it."""
    squares = np.diagonal(cells, axis1=1, axis2=2)[:, -t:]
    spread = squares - cells[:, 0, -t:] ** 2 / cells[:, 0, :1]
    return np.where(spread > 10 * np.finfo(np.float64).eps * squares, spread, 0.0)


def _folds(
    is_used: Bool[np.ndarray, " K"],
    residual: Float64[np.ndarray, "u t"],
    total: Float64[np.ndarray, "u t"],
    penalties: Float64[np.ndarray, "u t"],
) -> Folds:
    """The sums of squares in the places of their cells."""
    whole = np.zeros((3, len(is_used), total.shape[1]))
    whole[:, is_used] = residual, total, penalties
    return Folds(*whole)
