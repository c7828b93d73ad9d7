"""Whether one method beats another on a task: metrics, paired differences, sentences.

Predictions are of test patches by S fits, each on its own draw of the training tiles. Results are
to generalise to other patients, so the patches of a patient always stay together.

Shapes: S seeds, n test patches, T tiles, G patients, K classes, b bootstrap draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats as distributions
from scipy.optimize import brentq

from ..errors import DataError
from ..figures import text
from ..stats.classes import kappa
from ..stats.inference import holm

DRAWS = 2000
ALPHA = 0.05
POWER = 0.8
SIGNS = {
    "mae": -1.0,
    "octaves": -1.0,
    "kappa": 1.0,
    "kappa_quadratic": 1.0,
    "kappa_of_tiles": 1.0,
}  # 1 if more is better
PRIMARY, SECONDARY = "primary", "secondary"
METRICS = tuple(SIGNS)
Predictions: TypeAlias = Float64[np.ndarray, "S n"]


@dataclass(frozen=True, slots=True)
class Held:
    """The test patches on which methods are compared.

    Args:
        truth: of the target: mean nucleus area in px, or magnification in octaves.
        classes: magnification of each patch, as its number among the magnifications.
        tiles: tile of each patch, by number from 0.
        centres: target of each class, from the training tiles alone; of each patch, where training
            tiles differ.
        is_area: whether the target is an area; its octaves are log2.
        patients: patient of each patch, by number from 0; by default each tile is of another.

    Raises:
        DataError: if there is only one patient.
    """

    truth: Float64[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]
    tiles: Int64[np.ndarray, " n"]
    centres: Float64[np.ndarray, "*n K"]
    is_area: bool = True
    patients: Int64[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        if len(np.unique(self.groups)) < 2:
            raise DataError(
                "The test part has one patient, which does not generalise to others. Give two or "
                "more; intervals are useful from about ten on."
            )

    @property
    def groups(self) -> Int64[np.ndarray, " n"]:
        """The patients, or the tiles if each is of another: what is drawn together."""
        return self.tiles if self.patients is None else self.patients


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one method is than another, by one metric; positive is better."""

    contestant: str
    other: str
    metric: str
    better: float  # mean over seeds, in the unit of the metric; for errors, how much smaller
    # low, high: 95 % interval over patients and fits; NaN, like `better`, if kappa is undefined
    low: float
    high: float
    p_value: float  # two-sided, Holm-corrected over the comparisons made together
    effect: float  # the difference over its standard deviation among patients (Cohen's d of pairs)
    # n_seeds_better, n_seeds: fits in which it is better, and all
    n_seeds_better: int
    n_seeds: int
    role: str = SECONDARY  # or primary: named in advance, so corrected for no other
    detectable: float = float("nan")  # of the primary: see `detectable`

    @property
    def is_shown(self) -> bool:
        return self.p_value <= ALPHA


def nearest(
    predicted: Predictions, centres: Float64[np.ndarray, "*n K"]
) -> Int64[np.ndarray, "S n"]:
    """The class with the nearest centre (`graziani2021`, with centres of the training part)."""
    return np.abs(predicted[..., None] - centres).argmin(axis=-1)


def tile_metrics(predicted: Predictions, test: Held) -> dict[str, Float64[np.ndarray, "S T"]]:
    """Each metric on each tile; kappa is undefined (NaN) where all patches are of one class."""
    by_tile = replace(test, patients=test.tiles)
    weights = np.eye(test.tiles.max() + 1)
    return {name: _metric(name, predicted, by_tile, weights) for name in METRICS}


def metrics(predicted: Predictions, test: Held) -> dict[str, np.ndarray]:
    """Each metric on all test patches, by seed: (S,)."""
    weights = np.ones((1, test.groups.max() + 1))
    return {name: _metric(name, predicted, test, weights)[:, 0] for name in METRICS}


def recall(predicted: Predictions, test: Held) -> Float64[np.ndarray, "S K"]:
    """The share of the patches of each class that are predicted as this class."""
    confusion = _confusion(predicted, test).sum(axis=1)
    return np.diagonal(confusion, axis1=1, axis2=2) / np.maximum(confusion.sum(axis=2), 1)


def compare(
    predictions: Mapping[str, Predictions],
    pairs: Sequence[tuple[str, str]],
    test: Held,
    rng: np.random.Generator,
    metric: str = "kappa",
) -> list[Difference]:
    """The first of each pair against the second, on the same patients and fits.

    The variance of a difference is that over test patients (bootstrap of whole patients) plus that
    over fits: all fits draw on one training set, so their mean is as uncertain as a single one. The
    interaction of fits and patients is in both, so it is subtracted once (analysis of variance).
    Intervals are Student's t with one degree of freedom less than patients; p-values are corrected
    by Holm's method (`holm1979`).
    """
    n_patients, sign = int(test.groups.max()) + 1, SIGNS[metric]
    drawn = _drawn(n_patients, rng)
    names = dict.fromkeys(name for pair in pairs for name in pair)
    whole = {name: metrics(predictions[name], test)[metric] for name in names}
    draws = {name: _metric(metric, predictions[name], test, drawn) for name in names}
    n_patches = np.bincount(test.groups)
    own = {n: -_errors(predictions[n], test, metric).mean(axis=0) / n_patches for n in names}
    found = []
    for one, other in pairs:
        by_seed = sign * (whole[one] - whole[other])
        better = float(by_seed.mean())
        variance = _variance(by_seed, sign * (draws[one] - draws[other]), n_patients)
        gaps = own[one] - own[other]
        effect = float(gaps.mean() / gaps.std(ddof=1)) if gaps.std() > 0 else 0.0
        judged = *_interval_of_t(better, variance, n_patients - 1), effect
        counts = int((by_seed > 0).sum()), len(by_seed)
        found.append(Difference(one, other, metric, better, *judged, *counts))
    corrected = holm([each.p_value for each in found])
    return [replace(each, p_value=p) for each, p in zip(found, corrected, strict=True)]


def detectable(
    predictions: Mapping[str, Predictions],
    pair: tuple[str, str],
    test: Held,
    rng: np.random.Generator,
    metric: str = "kappa",
) -> float:
    """The smallest true difference that is shown with a power of at least 80 %, at 0.05.

    It uses the spread alone, and neither the size nor the sign of the difference. In each draw the
    two methods are exchanged for half of the patients, as if nobody had noted which prediction is
    whose; the standard error is that of `compare`, with these draws in place of the bootstrap's.
    A true difference is then part of the spread (as in a blinded review of the sample size,
    `kieser2003`), so the number is too large rather than too small. The difference d solves

        P(T > t) = 0.8,    T noncentral t of G - 1 degrees of freedom and noncentrality d / error

    NaN where the metric is undefined.
    """
    n_patients = int(test.groups.max()) + 1
    is_kept = rng.integers(0, 2, size=(DRAWS, n_patients)).astype(np.float64)
    one, other = (predictions[name] for name in pair)
    both = np.concatenate([one, other], axis=1)
    # the patients of both methods, one after the other, of which each draw takes half
    parts = {name: np.concatenate([getattr(test, name)] * 2) for name in ("truth", "classes")}
    tiles = np.concatenate([test.tiles, test.tiles + test.tiles.max() + 1])
    patients = np.concatenate([test.groups, test.groups + n_patients])
    centres = test.centres if test.centres.ndim == 1 else np.concatenate([test.centres] * 2)
    twice = replace(test, **parts, tiles=tiles, patients=patients, centres=centres)
    first, second = np.hstack([is_kept, 1 - is_kept]), np.hstack([1 - is_kept, is_kept])
    draws = _metric(metric, both, twice, first) - _metric(metric, both, twice, second)
    by_seed = metrics(one, test)[metric] - metrics(other, test)[metric]
    error = float(np.sqrt(_variance(by_seed, draws, n_patients)))
    if not error > 0:
        return error
    freedom = n_patients - 1
    reach = float(distributions.t.ppf(1 - ALPHA / 2, freedom))

    def lacking(noncentrality: float) -> float:
        return float(distributions.nct.sf(reach, freedom, noncentrality)) - POWER

    return error * cast(float, brentq(lacking, 0.0, 20.0 + reach))


def bootstrap(
    predictions: Mapping[str, Predictions],
    test: Held,
    rng: np.random.Generator,
    metric: str = "kappa",
) -> dict[str, tuple[float, Float64[np.ndarray, " b"]]]:
    """The mean over fits of a metric and its bootstrap draws, by method; higher is better.

    Errors are negated. A draw takes patients and fits with replacement, the same for all methods,
    so draws are paired. Draws in which kappa is undefined are NaN.
    """
    patients = _drawn(int(test.groups.max()) + 1, rng)
    n_seeds = len(next(iter(predictions.values())))
    fits, sign = _drawn(n_seeds, rng) / n_seeds, SIGNS[metric]  # (b, S)
    found = {}
    for name, predicted in predictions.items():
        by_draw = (fits.T * _metric(metric, predicted, test, patients)).sum(axis=0)
        found[name] = (sign * float(metrics(predicted, test)[metric].mean()), sign * by_draw)
    return found


def sentence(found: Difference, layers: Mapping[str, str]) -> str:
    """A difference as a sentence, such as "cut at blocks.4.2 beats pretrained by 0.31 kappa"."""
    name = f"{found.contestant} at {layers[found.contestant]}"
    unit = {"mae": "mean absolute error"}.get(found.metric, found.metric.replace("_", " "))
    if not found.is_shown:
        return (
            f"No evidence that {name} differs from {found.other}: {found.better:+.2f} {unit} "
            f"{text.interval(found.low, found.high)}, "
            f"{'corrected ' * (found.role != PRIMARY)}{text.p_value(found.p_value)}."
        )
    verb = "beats" if found.better > 0 else "loses to"
    ends = text.interval(*sorted((abs(found.low), abs(found.high))))
    n = found.n_seeds_better if found.better > 0 else found.n_seeds - found.n_seeds_better
    fits = f", {n} of {found.n_seeds} seeds" if found.n_seeds > 1 else ""
    size = text.number(abs(found.better))
    return f"{name} {verb} {found.other} by {size} {unit} {ends}{fits}."


def _drawn(n: int, rng: np.random.Generator) -> Float64[np.ndarray, "b n"]:
    """How often each of n is drawn, with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)


def _metric(
    name: str, predicted: Predictions, test: Held, weights: Float64[np.ndarray, "b G"]
) -> Float64[np.ndarray, "S b"]:
    """A metric with each patient weighted."""
    if name in ("mae", "octaves"):
        errors = _errors(predicted, test, name)  # (S, G), sums
        return errors @ weights.T / (weights @ np.bincount(test.groups))
    if name == "kappa_of_tiles":
        predicted, test = averaged(predicted, test)
    confusion = np.einsum("bg,sgij->sbij", weights, _confusion(predicted, test))
    return kappa(confusion, is_quadratic=name == "kappa_quadratic")


def averaged(predicted: Predictions, test: Held) -> tuple[Float64[np.ndarray, "S m"], Held]:
    """One prediction per tile and class, the mean over its patches, and the same of the truth."""
    n_classes = test.centres.shape[-1]
    _, first, number = np.unique(
        test.tiles * n_classes + test.classes, return_index=True, return_inverse=True
    )
    shares = np.eye(len(first))[number] / np.bincount(number)
    of_tile = {name: getattr(test, name)[first] for name in ("classes", "tiles")}
    of_tile["patients"] = test.groups[first]
    centres = test.centres[first] if test.centres.ndim == 2 else test.centres
    return predicted @ shares, replace(test, truth=test.truth @ shares, centres=centres, **of_tile)


def _errors(predicted: Predictions, test: Held, metric: str) -> Float64[np.ndarray, "S G"]:
    """Absolute errors, summed over the patches of a patient; but for octaves, in px."""
    found, truth = predicted, test.truth
    if metric == "octaves" and test.is_area:
        # ridge may predict an area below one pixel, or a negative one
        found, truth = np.log2(np.maximum(found, 1.0)), np.log2(truth)
    member = np.eye(test.groups.max() + 1)[test.groups]
    return np.abs(found - truth) @ member


def _confusion(predicted: Predictions, test: Held) -> Float64[np.ndarray, "S G K K"]:
    """The number of patches of class i of a patient that are predicted as class j."""
    n_patients, n_classes = int(test.groups.max()) + 1, test.centres.shape[-1]
    found = np.zeros((len(predicted), n_patients, n_classes, n_classes))
    for seed, classes in enumerate(nearest(predicted, test.centres)):
        np.add.at(found[seed], (test.groups, test.classes, classes), 1.0)
    return found


def _variance(
    by_seed: Float64[np.ndarray, " S"], draws: Float64[np.ndarray, "S b"], n_patients: int
) -> float:
    """The variance of a mean over fits, for other patients and another training set.

    Draws in which kappa is undefined are ignored.
    """
    if np.isnan(by_seed).any():
        return float("nan")
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    unbiased = n_patients / (n_patients - 1)
    of_patients = unbiased * draws.mean(axis=0).var()
    if len(by_seed) == 1:
        return float(of_patients)
    of_both = unbiased * (draws - draws.mean(axis=0)).var(axis=1).sum() / (len(by_seed) - 1)
    return float(of_patients + max(by_seed.var(ddof=1) - of_both, 0.0))


def _interval_of_t(center: float, variance: float, freedom: int) -> tuple[float, float, float]:
    """95 % interval and two-sided p-value of Student's t."""
    if np.isnan(center):
        return center, center, 1.0
    error = float(np.sqrt(variance))
    if error == 0:
        return center, center, float(center == 0)
    reach = float(distributions.t.ppf(1 - ALPHA / 2, freedom)) * error
    p_value = float(2 * distributions.t.sf(abs(center) / error, freedom))
    return center - reach, center + reach, p_value
