"""The direction in which a layer's features grow with the measure, and what the network does there.

The regression concept vector (RCV, `graziani2018`) of a layer is the unit direction v of weights
with which the measure is regressed on the pooled features. It is tested from the features to the
measure (does v hold for other images?) and from the measure to the slope of a class logit along v.

Shapes: n images, m held out, d features, r repeats, p pairs of them, b bootstrap draws.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..data.images import Image, ImageSet, LeftOut, Progress
from ..data.measures import evenly
from ..data.options import Reading
from ..data.read import images_of
from ..errors import DataError, LayerError
from ..features.backends import resolved_device
from ..features.cluster import computing
from ..features.extract import Computation, Stages, decoded, provenance, readable
from ..figures import text
from ..figures.analyses import directions_drawing
from ..figures.drawing import page_figure
from ..networks.hooks import maps_of, watch
from ..networks.network import Network
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..networks.selection import computable, every_point
from ..probing.controls import moved_by_int8
from ..probing.curve import computed_line
from ..probing.scores import Part, draw_parts, one_thread_each
from ..report.report import Result
from ..runs import settings_of
from ..stats.inference import Scale, bootstrap_r_squared, interval
from ..stats.ridge import NO_SPREAD, decompose, deviations, nested_ridge
from .quantities import by_layer, layer_summary, read_analysis, skipped_of
from .subject import subject_of

MEASURED = ("n_images", "quantity", "other", "value", "low", "high")  # by `_rows`
COLUMNS = ["model", "weights", "subset", "layer", "alias", "depth", "n_features", *MEASURED]
HEADINGS = {
    "stability_degrees": "degrees",
    "stability_shuffled_degrees": "shuffled",
    "channels_90": "channels for 90 %",
    "own": "R² own",
    "transfer": "R² other",
    "br": "Br",
}
CARRIED = 0.9  # of the squared length of the direction
GRADIENT_BATCH = 8  # images at once: every map from the first point to the logits is kept
MOST_IMAGES = 64  # of each subset for the sensitivities, evenly spread over its rows
MIDDLE = (0.025, 0.975)
SAME = 1e-6  # relative spread of float32 gradients below which they are one and the same


@dataclass(frozen=True, slots=True)
class Estimation:
    """How often directions are estimated, and for which class.

    Args:
        repeats: Random splits into 70 % training and 30 % test images, at least 2.
        class_: Also the sensitivity of its logit: a number or an ImageNet name.
    """

    repeats: int = 10
    class_: int | str = ""

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise DataError(
                f"--repeats must be at least 2, as stability compares two, got {self.repeats}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Directions(Result):
    """The RCV of every layer and subset, and how far it can be trusted.

    `table` has one row per number, with the columns of `COLUMNS`. By `quantity`:

    - `stability_degrees`: mean angle between the directions of two repeats (`_rows`);
    - `channels_90`: share of the channels that carry 90 % of the direction, mean over repeats;
    - `stability_shuffled_degrees`, `channels_90_shuffled`: both for a shuffled target;
    - `transfer_r2`: R² on the subset `other`, if it shares no group; held out on the subset itself;
    - `transfer_correlation2`: the same when offset and slope are fitted anew;
    - `sensitivity`: mean slope of the logit of the class `other` along the direction;
    - `br`: its bidirectional relevance (`relevance`).

    `low` and `high` hold the middle 95 % of the pairs, or of the repeats, for the first four, and
    are 95 % bootstrap intervals over groups of images for the others.

    Args:
        vectors: by subset and layer.
        left_out: layers and images that were skipped.
        provenance: facts of `run.json`.
        image_set: the images; None if the result was read from a run.
    """

    NAME = "rcv"

    table: pd.DataFrame
    vectors: Mapping[str, Mapping[str, Float64[np.ndarray, " _"]]]
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)
    image_set: ImageSet | None = field(default=None, repr=False)

    def finding(self) -> str:
        """How well the best direction predicts, and how stable it is, in two sentences."""
        table = _split_transfer(self.table)
        own, other = by_layer(table, "own"), by_layer(table, "transfer")
        best = max(own, key=own.__getitem__)
        r2 = text.number(own[best])
        said = f"The direction at {best} predicts {self._measure} with R² {r2} in its own subset"
        if other:
            said += f" and {text.number(other[best])} in the others"
        turned = by_layer(table, "stability_degrees").get(best)
        by_chance = by_layer(table, "stability_shuffled_degrees").get(best)
        if turned is None or by_chance is None:  # no direction where no feature varies
            return f"{said}."
        return (
            f"{said}. Between repeats it turns by {turned:.0f}°; with a shuffled target, by "
            f"{by_chance:.0f}°."
        )

    def summary(self) -> dict[str, pd.DataFrame]:
        """One row per layer: stability, channels and R², means over subsets."""
        title = f"Directions of {self._measure}, {self.table.model.iloc[0]}, mean over subsets"
        return {title: layer_summary(_split_transfer(self.table), HEADINGS)}

    @property
    def _measure(self) -> str:
        images = self.provenance.get("images")
        return images["measure"] if isinstance(images, dict) else "scale"

    def notes(self) -> list[str]:
        """How features were computed, where that was not by PyTorch."""
        return computed_line(self.provenance)

    def plot(self) -> Figure:
        """Stability, channels and transfer by layer."""
        return page_figure(directions_drawing(self.table))

    def write_more(self, folder: Path) -> None:
        """The vectors, as `rcv.npz`."""
        vectors = {
            f"{subset}/{layer}": vector
            for subset, of_layers in self.vectors.items()
            for layer, vector in of_layers.items()
        }
        np.savez(folder / "rcv.npz", allow_pickle=False, **vectors)


def read_directions(folder: str | Path) -> Directions:
    """The result that `Directions.save` wrote."""
    run = read_analysis(folder, ("rcv",), "rcv")
    vectors: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(run.folder / "rcv.npz", allow_pickle=False) as arrays:
            for name in arrays:
                subset, _, layer = name.rpartition("/")
                vectors.setdefault(subset, {})[layer] = arrays[name]
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable rcv.npz ({error}). Run `scalecut rcv` again."
        ) from error
    return Directions(run.table("rcv", COLUMNS), vectors, skipped_of(run), dict(run.facts))


def rcv(
    model: str | nn.Module | Network,
    data: str | ImageSet,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    reading: Reading = Reading(),
    computation: Computation = Computation(),
    estimation: Estimation = Estimation(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Directions:
    """Find the direction in which the features of each layer grow with scale (RCV).

    One direction per subset and layer, on the splits that the probe draws.

    Args:
        model, data, weights, allow_partial, layers, progress: As for `probe`.
        reading: Which images are read, and how their objects are measured.
        computation: How images are computed; sensitivities are always in float32.
        estimation: How often directions are estimated, and for which class.
        seed: Random seed of the splits, the shuffle and the bootstrap.

    Raises:
        DataError: if there are too few images, or no such class.
        LayerError: if a class is given but the network has no logits.
    """
    settings = settings_of(locals())
    stages = Stages(progress)
    with stages("network"):
        subject = subject_of(model, layers, computation, weights, allow_partial, seed)
        network, points = subject.network, subject.points
        number, name = -1, ""
        if estimation.class_ != "":
            number, name = class_of(network, estimation.class_)
    with stages("images"):
        frame = network.preprocessing.frame(computation.fit)
        image_set = images_of(data, frame, reading, seed=seed, progress=progress)
    stages.say(image_set, network, strict=reading.strict)
    with computing(computation.cluster) as stages.workers:
        found = stages.extracted(network, image_set.images, points, computation)
        kept = readable(network, image_set, found, strict=reading.strict)
        moved = moved_by_int8(network, kept, points, computation, found, stages)
    parts = draw_parts(kept, estimation.repeats, seed, shuffled=False, permutations=1)
    with threadpool_limits(1):  # one thread a regression: the same numbers on any number of cores
        vectors = {part.subset: _vectors(part, found.matrices) for part in parts}

    def slope_of(part: Part) -> dict[str, np.ndarray]:
        few = [kept.images[row] for row in part.rows[evenly(len(part.rows), MOST_IMAGES)]]
        given = network, few, points, vectors[part.subset], number
        return sensitivity(*given, computation=computation, progress=progress)

    with stages("gradients"):
        slopes = {part.subset: slope_of(part) if name else {} for part in parts}
    with stages("directions"):
        table = _table(kept, parts, points, found.matrices, slopes, name, stages)
    table = table.assign(model=network.name, weights=network.weights.kind)
    facts = provenance(network, settings, stages, found, kept, moved)
    left_out = (*subject.left_out, *image_set.left_out, *found.left_out)
    return Directions(table.reindex(columns=COLUMNS), vectors, left_out, facts, kept)


def _table(
    kept: ImageSet,
    parts: Sequence[Part],
    points: Sequence[ProbePoint],
    matrices: Mapping[str, Float[np.ndarray, "all _"]],
    slopes: Mapping[str, Mapping[str, np.ndarray]],
    name: str,
    stages: Stages,
) -> pd.DataFrame:
    """The rows of all layers, without the names of network and weights."""
    tested = [(part, _apart(kept, part, parts)) for part in parts]

    def layer_table(point: ProbePoint) -> pd.DataFrame:
        matrix = matrices[point.layer].astype(np.float64)
        rows = [
            (part.subset, *row)
            for part, apart in tested
            for row in _rows(part, apart, matrix, slopes[part.subset].get(point.layer), name)
        ]
        table = pd.DataFrame(rows, columns=["subset", *MEASURED])
        return table.assign(**point.name_facts, n_features=point.channels)

    tables: list[pd.DataFrame] = []
    with one_thread_each() as workers:
        for table in workers.map(layer_table, points):
            tables.append(table)
            stages.report("directions")(len(tables), len(points))
    return pd.concat(tables, ignore_index=True)


def _split_transfer(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `transfer_r2` split into `own` and `transfer` to other subsets."""
    is_transfer, is_own = table["quantity"] == "transfer_r2", table["subset"] == table["other"]
    quantity = table["quantity"].mask(is_transfer, "transfer").mask(is_transfer & is_own, "own")
    return table.assign(quantity=quantity)


# --- the direction -------------------------------------------------------------------------------


def direction(
    features: Float64[np.ndarray, "n d"],
    measure: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
) -> Float64[np.ndarray, " d"]:
    """The RCV  v = w / ‖w‖  in the units of the features: the predicted measure rises fastest.

    Constant channels get 0; all of them, if none varies.
    """
    return _unit(ridge(features, measure, groups, features[:0])[0])


def ridge(
    features: Float64[np.ndarray, "n d"],
    measure: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    held_out: Float64[np.ndarray, "m d"],
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " m"]]:
    """The probe's ridge: its weights, measure per unit of each feature, and its predictions.

    With standardised features X = U S Vᵀ and the chosen penalty α the weights are, by the dual form
    that needs no V,  Xᵀ U (S² + α)⁻¹ Uᵀ (y - ȳ),  divided by the deviation of each feature.
    """
    parts = decompose(features, held_out)
    fit = nested_ridge(parts, measure[:, None], groups)
    dual = parts.u @ (parts.u.T @ (measure - measure.mean()) / (parts.s**2 + fit.penalties[0]))
    deviation = deviations(features)
    slope = dual @ (features - features.mean(axis=0))
    weights = np.divide(slope, deviation**2, out=np.zeros_like(slope), where=deviation > 0)
    return weights, fit.predictions[:, 0]


def pair_angles(directions: Float64[np.ndarray, "r d"]) -> Float64[np.ndarray, " p"]:
    """The angle in degrees between every two rows; not a number where a row is zero."""
    unit = [_unit(row) if row.any() else np.full(len(row), np.nan) for row in directions]
    cosines = np.array([a @ b for a, b in combinations(unit, 2)])
    return np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def carrying_share(weights: Float64[np.ndarray, " d"]) -> float:
    """The smallest share of the channels whose squared weights sum to 90 % of all.

    Of many weights that are normally distributed 44 % carry 90 %.
    """
    carried = np.cumsum(np.sort(weights**2)[::-1])
    if carried[-1] == 0:
        return np.nan
    return float(1 + np.argmax(carried >= CARRIED * carried[-1])) / len(weights)


def correlation_squared(
    measure: Float64[np.ndarray, "r n"],
    predicted: Float64[np.ndarray, "r n"],
    is_held_out: Bool[np.ndarray, "r n"],
    counts: Float64[np.ndarray, "b n"],
) -> Float64[np.ndarray, " b"]:
    """R² after offset and slope of the predictions are fitted anew, mean over repeats, by draw.

    That is max(ρ, 0)² for the correlation ρ of measure and prediction: a slope that would have to
    be reversed is no transfer. Draws as in `stats.bootstrap_r_squared`.
    """
    total, used = np.zeros(len(counts)), np.zeros(len(counts))
    for y, z, held_out in zip(measure, predicted, is_held_out, strict=True):
        w = counts[:, held_out]
        w = w / np.maximum(w.sum(axis=1, keepdims=True), 1)
        y, z = y[held_out] - y[held_out].mean(), z[held_out] - z[held_out].mean()
        y_spread, z_spread = w @ y**2 - (w @ y) ** 2, w @ z**2 - (w @ z) ** 2
        together = np.maximum(w @ (y * z) - (w @ y) * (w @ z), 0.0)
        fine = y_spread > NO_SPREAD * (y @ y)
        varies = fine & (z_spread > NO_SPREAD * (z @ z))
        used += fine
        total[varies] += together[varies] ** 2 / (y_spread[varies] * z_spread[varies])
    return np.where(used > 0, total / np.maximum(used, 1), np.nan)


# --- the slope of a logit -----------------------------------------------------------------------


def sensitivity(
    network: Network,
    images: Sequence[Image],
    points: Sequence[ProbePoint],
    vectors: Mapping[str, Float64[np.ndarray, " _"]],
    number: int,
    *,
    computation: Computation = Computation(),
    progress: Progress | None = None,
) -> dict[str, Float64[np.ndarray, " n"]]:
    """S = Σ_c v_c Σ_places ∂(logit)/∂a_c  of every image, by layer (`graziani2018`).

    The slope of the logit when v is added to every place of the map a, which adds v to the pooled
    features: positive if the class gains where objects seem larger. A vector of zeros is added to
    the map of each point and the logit is derived by it: one pass forward and one back, in float32.
    Softmax is skipped, as no logit comes after it. If the network ends in a softmax of its own, the
    logits are what that is given.

    Args:
        vectors: v by layer, in units of the features.
        number: of the class (`class_of`).

    Raises:
        DataError: if a vector is not of its layer, or an image cannot be read.
        LayerError: if the network has no logits, or passes no gradient to them.
    """
    points = [point for point in points if point.layer != SOFTMAX]
    for point in points:
        if len(vectors[point.layer]) != point.channels:
            raise DataError(
                f"The direction has {len(vectors[point.layer])} values, but layer {point.layer!r} "
                f"has {point.channels} channels. Give the direction that was fitted there."
            )
    fit, device = computation.fit, resolved_device(computation.device)
    batch_size = min(computation.batch_size, GRADIENT_BATCH)
    module = copy.deepcopy(network.module).eval().requires_grad_(False).float().to(device)
    ready = decoded(images, range(len(images)), network.preprocessing, fit, batch_size=batch_size)
    slopes: dict[str, list[np.ndarray]] = {point.layer: [] for point in points}
    head = next((each for each in points if each.layer == LOGITS), None) or _logits_of(network)
    read: dict[str, Tensor] = {}

    def keep(value: object) -> None:
        read["logits"] = maps_of(value, head)[0]

    at_head = module.get_submodule(head.module), head.side, keep
    # the logits are kept after zeros were added to them
    with _raised(module, points) as zeros, watch(*at_head), torch.enable_grad():
        for numbers, batch, bad in ready:
            if bad:
                name, reason = next((images[k].name, bad[k].rstrip(".")) for k in bad)
                raise DataError(f"{name}: {reason}. Fix it, or remove it.")
            module(batch.to(device))
            logits = read.pop("logits")
            if not logits.requires_grad:
                raise LayerError(
                    f"{network.name} passes no gradient to its logits. Give another network."
                )
            given = [zeros[layer] for layer in slopes]
            found = torch.autograd.grad(logits[:, number].sum(), given, materialize_grads=True)
            for layer, gradient in zip(slopes, found, strict=True):
                slopes[layer].append(gradient.cpu().numpy().astype(np.float64) @ vectors[layer])
            if progress:
                progress("gradients", numbers[-1] + 1, len(images))
    return {layer: np.concatenate(each) for layer, each in slopes.items()}


def relevance(
    sensitivities: Float64[np.ndarray, " n"],
    r2: Float64[np.ndarray, " b"],
    counts: Float64[np.ndarray, "b n"],
) -> Float64[np.ndarray, " b"]:
    """The bidirectional relevance score  Br = R² μ/σ  of `graziani2018`, by draw.

    μ and σ are mean and standard deviation (of the population) of the sensitivities over the
    images, so μ/σ is the inverse of their coefficient of variation. An R² below 0 counts as 0: what
    cannot be read is not relevant. If all images have the same sensitivity, Br is 0 where that is 0
    and else not a number. The source then divides by the largest |Br| of its concepts.
    """
    mean = _means(sensitivities, counts)
    centred = sensitivities - sensitivities.mean()
    variance = _means(centred**2, counts) - _means(centred, counts) ** 2
    deviation = np.sqrt(np.maximum(variance, 0.0))
    alike = np.where(mean == 0, 0.0, np.nan)
    varies = deviation > SAME * np.abs(sensitivities).max()
    return np.maximum(r2, 0.0) * np.divide(mean, deviation, out=alike, where=varies)


def class_of(network: Network, target_class: int | str) -> tuple[int, str]:
    """Number of a class of the head, and what to call it: `282 tiger cat`, or the bare number.

    Args:
        target_class: number from 0, or one of its ImageNet names if the head has 1,000 outputs.

    Raises:
        DataError: if there is no such class, or more than one.
        LayerError: if the network has no logits, or weights for them are missing.
    """
    n = _n_classes(network)
    info = ImageNetInfo()
    names = [info.index_to_description(k).split(", ") if n == 1000 else [] for k in range(n)]
    wanted = str(target_class).strip().lower()
    fits = [k for k, each in enumerate(names) if wanted in (str(k), *map(str.lower, each))]
    if len(fits) == 1:
        return fits[0], " ".join([str(fits[0]), *names[fits[0]][:1]])
    if fits:
        numbers = " and ".join(map(str, fits))
        raise DataError(f"{len(fits)} classes are named {wanted!r}: {numbers}. Give the number.")
    known = [name for each in names for name in each]
    near = ", ".join(difflib.get_close_matches(wanted, known, n=3, cutoff=0.5))
    raise DataError(
        f"{network.name} has no class {str(target_class)!r}{near and f'; near it: {near}'}. Give a "
        f"number from 0 to {n - 1}{', or a name of ImageNet' if known else ''}."
    )


# --- inside: numbers -----------------------------------------------------------------------------


def _vectors(
    part: Part, matrices: Mapping[str, Float[np.ndarray, "all _"]]
) -> dict[str, Float64[np.ndarray, " _"]]:
    """The directions of all images of a subset, by layer."""
    own = {layer: matrix[part.rows].astype(np.float64) for layer, matrix in matrices.items()}
    measure = part.targets["true"][0]
    return {layer: direction(each, measure, part.groups) for layer, each in own.items()}


def _rows(
    part: Part,
    parts: Sequence[Part],
    features: Float64[np.ndarray, "all d"],
    slope: Float64[np.ndarray, " k"] | None,
    name: str,
) -> Iterator[tuple[object, ...]]:
    """Number of images, quantity, other, value, low and high, of one subset at one layer.

    Repeats are compared in standardised features, by the deviations of the whole subset: in raw
    ones weights are largest where a channel hardly varies, and a few such channels would decide.
    Two repeats share 70 % of their images, so noise alone gives some arccos 0.7 = 46°, not 90°: one
    shuffle of the measure, kept through the repeats, shows what chance gives.
    """
    n = len(part.rows)
    weights, predicted = _repeats(part, features, part.targets["true"][0])
    by_chance, _ = _repeats(part, features, part.permuted[:, 1])
    for kind, found in (("", weights), ("_shuffled", by_chance)):
        standardised = found * deviations(features[part.rows])
        angles = pair_angles(standardised)
        shares = np.array([carrying_share(row) for row in standardised])
        yield n, f"stability{kind}_degrees", "", angles.mean(), *np.quantile(angles, MIDDLE)
        yield n, f"channels_90{kind}", "", shares.mean(), *np.quantile(shares, MIDDLE)
    for other in parts:
        seen = part.is_held_out if other is part else np.ones((len(weights), len(other.rows)), bool)
        measure, guesses = other.targets["true"], predicted[:, other.rows]
        counts = other.counts.astype(np.float64)
        lost = (measure - guesses) ** 2
        errors = [each[held_out, None] for each, held_out in zip(lost, seen, strict=True)]
        r2 = bootstrap_r_squared(measure, errors, seen, counts)[:, 0]
        fair = correlation_squared(measure, guesses, seen, counts)
        m, g = len(other.rows), len(np.unique(other.groups[seen.any(axis=0)]))
        yield m, "transfer_r2", other.subset, *_with_interval(r2, g, "r2")
        fair = np.maximum(_with_interval(fair, g, "r2"), 0.0)
        yield m, "transfer_correlation2", other.subset, *fair
        if slope is not None and other is part:
            some = evenly(n, len(slope))
            counts, g = counts[:, some], len(np.unique(part.groups[some]))
            means, relevant = _means(slope, counts), relevance(slope, r2, counts)
            yield len(slope), "sensitivity", name, *_with_interval(means, g, "difference")
            yield len(slope), "br", name, *_with_interval(relevant, g, "difference")


def _apart(image_set: ImageSet, part: Part, parts: Sequence[Part]) -> list[Part]:
    """The subset itself, and those that share no group (patient, slide) with it."""
    group = np.array(image_set.group)
    own = set(group[part.rows])
    return [each for each in parts if each is part or own.isdisjoint(group[each.rows])]


def _repeats(
    part: Part, features: Float64[np.ndarray, "all d"], measure: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "r d"], Float64[np.ndarray, "r all"]]:
    """Weights of every repeat, and its predictions for all images that it was not fitted on."""
    weights = np.zeros((len(part.is_held_out), features.shape[1]))
    predicted = np.full((len(part.is_held_out), len(features)), np.nan)
    for repeat, held_out in enumerate(part.is_held_out):
        train = part.rows[~held_out]
        rest = np.setdiff1d(np.arange(len(features)), train)
        groups = part.groups[~held_out]
        fit = ridge(features[train], measure[~held_out], groups, features[rest])
        weights[repeat], predicted[repeat, rest] = fit
    return weights, predicted


def _unit(weights: Float64[np.ndarray, " d"]) -> Float64[np.ndarray, " d"]:
    return weights / (np.linalg.norm(weights) or 1.0)


def _means(
    values: Float64[np.ndarray, " n"], counts: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    n = counts.sum(axis=1)
    return np.where(n > 0, counts @ values / np.maximum(n, 1), np.nan)


def _with_interval(
    draws: Float64[np.ndarray, " b"], n_groups: int, scale: Scale
) -> Float64[np.ndarray, " 3"]:
    """The first draw with the interval that the others give."""
    if np.isnan(draws[0]):
        return np.full(3, np.nan)
    return np.array([draws[0], *interval(draws[0], draws[1:], n_groups, scale=scale)])


# --- inside: the network -------------------------------------------------------------------------


@contextmanager
def _raised(module: nn.Module, points: Sequence[ProbePoint]) -> Iterator[dict[str, Tensor]]:
    """Add zeros (n, c) to every place of every point, at each pass; they are found by layer.

    A new tensor is handed on, so that an activation in place after the point does no harm. Of a
    module that is called more than once the last zeros are found: its last call is what is read.
    """
    modules, zeros = dict(module.named_modules()), {}

    def handed_on(point: ProbePoint, value: Any) -> Any:
        maps = maps_of(value, point)
        added = maps[0].new_zeros(len(maps[0]), point.channels).requires_grad_()
        zeros[point.layer] = added
        parts = added.split([each.shape[point.channel_axis] for each in maps], dim=1)
        new = {
            _memory(a): _added(a, part, point).movedim(0, point.batch_axis)
            for a, part in zip(maps, parts, strict=True)
        }
        return tree_map_only(Tensor, lambda tensor: new.get(_memory(tensor), tensor), value)

    with ExitStack() as undo:
        for point in points:
            on = partial(handed_on, point)
            undo.enter_context(watch(modules[point.module], point.side, on))
        yield zeros


def _added(
    value: Float[Tensor, "n ..."], vector: Float[Tensor, "n c"], point: ProbePoint
) -> Float[Tensor, "n ..."]:
    """The vector added at every place that `hooks.pool` averages over, and at no other token."""
    shape = [len(value)] + [1] * (value.ndim - 1)
    shape[point.channel_axis] = vector.shape[1]
    added = vector.view(shape)
    if not point.prefix_tokens:
        return value + added
    prefix, patches = value.tensor_split([point.prefix_tokens], dim=1)
    return torch.cat([prefix, patches + added], dim=1)


def _memory(tensor: Tensor) -> tuple[int, ...]:
    """Identifies a tensor among those that a module gave, also with its axes in another order."""
    return tensor.data_ptr(), *sorted(tensor.shape)


def _logits_of(network: Network) -> ProbePoint:
    found = next((p for p in every_point(network)[0] if p.layer == LOGITS), None)
    if found is None:
        raise LayerError(
            f"{network.name} has no logits, but a class is asked for. Give a network with its "
            "head, or no class."
        )
    return found


def _n_classes(network: Network) -> int:
    fine, left_out = computable(network, [_logits_of(network)])
    if not fine:
        raise LayerError(
            f"A class is asked for, but the layer {LOGITS!r} of {network.name} "
            f"{left_out[0].reason}. Give weights that hold it, or no class."
        )
    return fine[0].channels
