"""How answers and features follow the size of the picture, and the scale of the object in it.

Two notions that must be told apart: `image-size` resizes the whole picture, and the network runs at
that size; `object-scale` crops in or pads out and leaves the input as large as it was. Both in
octaves about the training resolution. The protocol is ours: that of `graziani2021`, section 4.1, is
not known (docs/choices.md).

Shapes: n images, d features, b bootstrap draws, c columns (one a value).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Float32, Float64, Int, UInt8
from scipy.special import rel_entr
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..data.decoding import INTERPOLATIONS, fitted
from ..data.images import ImageSet, LeftOut
from ..data.measures import Box, Frame
from ..errors import DataError, LayerError, ModelError, check_names
from ..features.extract import Progress, Stages, forward, resolved_device, resolved_precision
from ..networks.network import Network, Preprocessing
from ..networks.points import SOFTMAX, ProbePoint
from ..networks.selection import refusal
from ..stats.inference import group_draws
from ..stats.ridge import decompose, nested_ridge

CHANGES = ("image-size", "object-scale")
OCTAVES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
COLUMNS = [
    *("model", "weights", "change", "octaves", "side", "n_images", "layer", "alias", "depth"),
    *("quantity", "value", "low", "high"),
]
FOLDS = 5

_Pooled = Callable[[Tensor], list[Float32[np.ndarray, "n d"]]]


@dataclass(frozen=True, slots=True, eq=False)
class Invariance:
    """What became of answers and features, in long form, and what could not be looked at."""

    table: pd.DataFrame  # the columns of COLUMNS
    left_out: tuple[LeftOut, ...]  # sizes at which the network does not run; unreadable images


@dataclass(frozen=True, slots=True)
class _View:
    """One way to show all pictures: what is changed, by how many octaves, and the input's size."""

    change: str
    octaves: float
    height: int
    width: int

    def pixels(
        self, picture: PIL.Image.Image, box: Box | None, preprocessing: Preprocessing
    ) -> UInt8[np.ndarray, "height width 3"]:
        if self.change == "object-scale":
            return shown(picture, self.octaves, box, preprocessing)
        return fitted(picture, Frame(self.height, self.width), preprocessing.interpolation)


# The beginning of a row, and what its value is the ratio of: two sums over images.
_Row = tuple[dict[str, object], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]


def invariance(
    network: Network,
    images: ImageSet,
    points: Sequence[ProbePoint],
    *,
    octaves: Sequence[float | int] = OCTAVES,
    changes: Sequence[str] = CHANGES,
    precision: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Invariance:
    """Answers and features at other image sizes and object scales, against those at the usual ones.

    At every size, of the layer `softmax` if it is among the points: `agreement` (share of images
    whose first class stays the same), `probability_change` (of that class), `jensen_shannon`
    (distance of all probabilities, 0 to 1). At every size and layer: `cosine` of the features with
    those at the training size. Between sizes one octave apart, at the upper one: `drift` (1 -
    cosine) and `map_error` (held-out error of the best linear map from the lower one, in variances
    of the features). Features are centred by their mean at the training size before the cosine:
    uncentred, positive features are alike whatever they show.

    Args:
        octaves: log2 of the factors of the training side; 0 is always among them.
        changes: `image-size`, `object-scale`; crops lie about the object where it has a box.
        batch_size: images at the training size; fewer at a time at larger ones.
        seed: of the folds and the bootstrap.

    Returns:
        `low` and `high` are 95 % percentile bootstrap intervals over groups of images.

    Raises:
        DataError: if a change is not known or there are too few groups of images.
        ModelError: if image size is asked for and the network runs at none but its own.
        LayerError: if an answer is not finite.
    """
    changes = check_names(changes, CHANGES, "change")
    grid = sorted({0.0, *(round(float(each), 6) for each in octaves)})
    precision, device = resolved_precision(precision, device), resolved_device(device)
    report = Stages(progress).report
    with forward(network, points, precision, device) as pooled:
        views, left_out = _views(network, points, pooled, changes, grid)
        answers, unreadable = _answers(
            network, images, pooled, views, batch_size, report("pictures")
        )
    kept = images.rows([number for number in range(len(images)) if number not in unreadable])
    _check(network, kept, points, answers)
    groups = np.unique(np.array(kept.group), return_inverse=True)[1]
    folding, drawing = np.random.default_rng(seed).spawn(2)
    folds = (folding.permutation(groups.max() + 1) % FOLDS)[groups]
    rows: list[_Row] = []
    with threadpool_limits(1):  # the same numbers on any number of cores
        for number, point in enumerate(points):
            for change in changes:
                chain = {v: answers[v][number] for v in views if v.change == change}
                rows += _layer_rows(point, chain, folds, groups)
            report("comparison")(number + 1, len(points))
        table = _table(rows, group_draws(groups, drawing))
    table = table.assign(model=network.name, weights=network.weights.kind, n_images=len(kept))
    return Invariance(
        pd.DataFrame(table, columns=COLUMNS),
        (*left_out, *(LeftOut(images.images[row].name, why) for row, why in unreadable.items())),
    )


def shown(
    picture: PIL.Image.Image,
    octaves: float,
    box: Box | None,
    preprocessing: Preprocessing,
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with its object made larger or smaller, at the network's own size.

    Larger: a window of the picture, about the middle of the box, or of the picture, moved inside
    where it would reach beyond. Smaller: all of it, in the middle of the network's fill colour.
    """
    height, width, factor = preprocessing.height, preprocessing.width, 2.0**octaves
    if factor <= 1:
        inner = Frame(max(1, round(height * factor)), max(1, round(width * factor)))
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = preprocessing.fill()
        top, left = (height - inner.height) // 2, (width - inner.width) // 2
        canvas[top : top + inner.height, left : left + inner.width] = fitted(
            picture, inner, preprocessing.interpolation
        )
        return canvas
    sides = np.array(picture.size) / factor
    box = box or (0, 0, *picture.size)
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    corner = np.clip(middle - sides / 2, 0, picture.size - sides)
    resample = INTERPOLATIONS[preprocessing.interpolation]
    window = (*corner.tolist(), *(corner + sides).tolist())
    return np.array(picture.resize((width, height), resample, box=window))


# --- looking --------------------------------------------------------------------------------------


def _views(
    network: Network,
    points: Sequence[ProbePoint],
    pooled: _Pooled,
    changes: Sequence[str],
    grid: Sequence[float],
) -> tuple[list[_View], list[LeftOut]]:
    """What the network can be shown, and the sizes at which it does not run."""
    own = network.preprocessing
    views: list[_View] = []
    left_out: list[LeftOut] = []
    for change in changes:
        for octaves in grid:
            factor = 2.0**octaves if change == "image-size" else 1.0
            view = _View(change, octaves, round(own.height * factor), round(own.width * factor))
            blank = np.zeros((1, view.height, view.width, 3), np.uint8)
            batch = network.preprocessing.tensor(blank)
            reason = refusal(points, pooled, batch) if factor != 1 else ""
            if reason:
                place = f"{change} {octaves:+g} octaves ({view.height} x {view.width} px)"
                left_out.append(LeftOut(place, reason))
            else:
                views.append(view)
    if left_out and sum(view.change == "image-size" for view in views) == 1:
        raise ModelError(
            f"{network.name} runs at none of {len(left_out)} sizes but its own, {own.height} x "
            f"{own.width} px ({left_out[0].reason}). Give --changes object-scale, which leaves the "
            "size as it is, or take another network."
        )
    return views, left_out


def _answers(
    network: Network,
    images: ImageSet,
    pooled: _Pooled,
    views: Sequence[_View],
    batch_size: int,
    report: Callable[[int, int], None],
) -> tuple[dict[_View, list[Float32[np.ndarray, "n _"]]], dict[int, str]]:
    """A matrix a layer for every view, and the images that cannot be read, with the reason."""
    unreadable: dict[int, str] = {}
    parts: dict[_View, list[list[np.ndarray]]] = {view: [] for view in views}
    for start in range(0, len(images), batch_size):
        pictures: list[tuple[PIL.Image.Image, Box | None]] = []
        for number in range(start, min(start + batch_size, len(images))):
            image = images.images[number]
            box = None if images.boxes is None else tuple(images.boxes[number].tolist())
            try:
                pictures.append((image.decode(), box))
            except DataError as error:
                unreadable[number] = str(error).removeprefix(f"{image.name}: ")
        for done, view in enumerate(views):
            report(start * len(views) + done * len(pictures), len(images) * len(views))
            batches = _batches(network.preprocessing, pictures, view, batch_size)
            parts[view] += [pooled(batch) for batch in batches]
    report(len(images) * len(views), len(images) * len(views))
    return {
        view: [np.concatenate(layer) for layer in zip(*batches, strict=True)]
        for view, batches in parts.items()
    }, unreadable


def _batches(
    preprocessing: Preprocessing,
    pictures: Sequence[tuple[PIL.Image.Image, Box | None]],
    view: _View,
    batch_size: int,
) -> Iterator[Tensor]:
    """As many pixels at a time as a batch at the training size has, and no more images."""
    pixels = batch_size * preprocessing.height * preprocessing.width
    size = max(1, min(batch_size, pixels // (view.height * view.width)))
    for start in range(0, len(pictures), size):
        batch = [view.pixels(*each, preprocessing) for each in pictures[start : start + size]]
        yield preprocessing.tensor(np.stack(batch))


def _check(
    network: Network,
    kept: ImageSet,
    points: Sequence[ProbePoint],
    answers: Mapping[_View, Sequence[Float32[np.ndarray, "n _"]]],
) -> None:
    n_groups = len(set(kept.group))
    if n_groups < FOLDS:
        raise DataError(
            f"There are {len(kept)} images of {n_groups} groups that can be read, but at least "
            f"{FOLDS} groups are needed to test on others. Give images of more groups."
        )
    for view, matrices in answers.items():
        for point, matrix in zip(points, matrices, strict=True):
            bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
            if bad.size:
                raise LayerError(
                    f"Layer {point.layer!r} of {network.name} gave values that are not finite for "
                    f"{bad.size} of {len(matrix)} images at {view.change} {view.octaves:+g} "
                    "octaves. Try precision float32, or choose other layers."
                )


# --- comparing ------------------------------------------------------------------------------------


def _layer_rows(
    point: ProbePoint,
    chain: Mapping[_View, Float32[np.ndarray, "n d"]],
    folds: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
) -> Iterator[_Row]:
    """All values of one layer under one change."""
    by_octaves = {view.octaves: matrix.astype(np.float64) for view, matrix in chain.items()}
    usual, one = by_octaves[0.0], np.ones(len(groups))
    centre = usual.mean(axis=0)
    for view in chain:
        here = by_octaves[view.octaves]
        found = {"cosine": (_cosines(here - centre, usual - centre), one)}
        if point.layer == SOFTMAX:
            found |= {name: (each, one) for name, each in _answered(here, usual).items()}
        lower = by_octaves.get(round(view.octaves - 1, 6))
        if lower is not None:
            found["drift"] = (1 - _cosines(here - centre, lower - centre), one)
            found["map_error"] = _map_errors(lower, here, folds, groups)
        for quantity, ratio in found.items():
            row = {
                "change": view.change,
                "octaves": view.octaves,
                "side": max(view.height, view.width),
                "layer": point.layer,
                "alias": point.alias,
                "depth": point.depth,
                "quantity": quantity,
            }
            yield row, *ratio


def _cosines(
    here: Float64[np.ndarray, "n d"], there: Float64[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """Cosine between rows; undefined where one of them is zero."""
    lengths = np.linalg.norm(here, axis=1) * np.linalg.norm(there, axis=1)
    products = np.einsum("nd,nd->n", here, there)
    return np.divide(products, lengths, np.full_like(products, np.nan), where=lengths > 0)


def _answered(
    here: Float64[np.ndarray, "n classes"], usual: Float64[np.ndarray, "n classes"]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """What became of the probabilities."""
    rows, first = np.arange(len(usual)), usual.argmax(axis=1)
    middle = (here + usual) / 2
    bits = (rel_entr(here, middle) + rel_entr(usual, middle)).sum(axis=1) / (2 * np.log(2))
    return {
        "agreement": (here.argmax(axis=1) == first).astype(np.float64),
        "probability_change": here[rows, first] - usual[rows, first],
        "jensen_shannon": np.sqrt(np.clip(bits, 0, 1)),  # rounding may lead a hair outside
    }


def _map_errors(
    source: Float64[np.ndarray, "n d"],
    target: Float64[np.ndarray, "n d"],
    folds: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Held-out squared error of the best linear map, and the squares, summed over channels.

    First each channel is told from itself at the other size, with one slope for all, then ridge
    tells from all channels what is left. With fewer images than channels ridge alone would not even
    find that nothing changes.
    """
    varies = _deviation(target) > 0
    own, target = _standardised(source[:, varies]), _standardised(target[:, varies])
    errors = np.zeros(len(target))
    for fold in range(FOLDS):
        held_out = folds == fold
        fit_on = ~held_out
        squares = np.sum(own[fit_on] ** 2)
        slope = np.sum(own[fit_on] * target[fit_on]) / squares if squares else 0.0
        left = target - slope * own
        decomposition = decompose(source[fit_on], source[held_out])
        fit = nested_ridge(decomposition, left[fit_on], groups[fit_on])
        errors[held_out] = np.sum((left[held_out] - fit.predictions) ** 2, axis=1)
    return errors, np.sum(target**2, axis=1)


def _standardised(values: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    """Channels with mean 0 and variance 1, over all images; zero where a channel is constant."""
    deviation, away = _deviation(values), values - values.mean(axis=0)
    return np.divide(away, deviation, np.zeros_like(away), where=deviation > 0)


def _deviation(values: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, " d"]:
    """Standard deviation of every channel, rounding apart."""
    deviation = values.std(axis=0)
    return np.where(deviation > 1e-9 * np.abs(values).max(axis=0, initial=0.0), deviation, 0.0)


def _table(rows: Sequence[_Row], draws: Float64[np.ndarray, "b n"]) -> pd.DataFrame:
    """Every value with its percentile interval, which stays in the value's own range."""
    numerators = np.stack([numerator for _, numerator, _ in rows], axis=1)
    denominators = np.stack([denominator for _, _, denominator in rows], axis=1)
    counts = np.vstack([np.ones(draws.shape[1]), draws])
    sums, totals = counts @ numerators, counts @ denominators
    values = np.divide(sums, totals, np.full_like(sums, np.nan), where=totals > 0)
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    table = pd.DataFrame([row for row, _, _ in rows])
    return table.assign(value=values[0], low=low, high=high)
