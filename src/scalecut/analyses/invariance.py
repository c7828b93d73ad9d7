"""How predictions and features change with the size of the image, and of the object in it.

Two notions that must be kept apart: `image-size` resizes the whole image, and the network runs at
that size; `object-scale` crops in or pads out and keeps the size of the input. Both are in octaves
about the training resolution. The protocol is ours: that of `graziani2021`, section 4.1, is not
known (docs/choices.md).

Shapes: n images, d features, b bootstrap draws, c columns (one per value).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Float32, Float64, Int, UInt8
from matplotlib.figure import Figure
from scipy.special import rel_entr
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from ..data.decoding import INTERPOLATIONS, fitted
from ..data.images import ImageSet, LeftOut, Progress
from ..data.measures import Box, Frame, evenly
from ..data.options import Reading
from ..data.read import images_of
from ..data.sample import LEAST_IMAGES
from ..errors import DataError, ModelError, check_names
from ..features.extract import (
    Computation,
    Stages,
    check_finite,
    check_none_skipped,
    forward,
    provenance,
)
from ..figures import text
from ..figures.analyses import drift_drawing, invariance_drawing
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..networks.network import Network, Preprocessing
from ..networks.points import SOFTMAX, ProbePoint
from ..report.report import Result
from ..runs import settings_of
from ..stats.inference import LEAST_GROUPS, group_draws
from ..stats.ridge import decompose, deviations, nested_ridge
from .noise import KINDS, PADDINGS, Noise, noise_of, noise_table
from .quantities import by_layer, means, read_analysis, skipped_of
from .subject import Pooled, Subject, check_unused, refusal_at, subject_of

CHANGES = ("image-size", "object-scale")
COLUMNS = [
    *("model", "weights", "change", "octaves", "side", "n_images", "layer", "alias", "depth"),
    *("quantity", "value", "low", "high"),
]
FOLDS = 5
UNUSED = ("measure", "fit", "engine", "half", "cluster")  # options of other verbs without effect
OF_NOISE = ("padding", "noise_images")
OF_IMAGES = ("sizes", "changes", *(each.name for each in fields(Reading)))
SHOWN = {
    "agreement": "agreement",
    "probability_change": "probability",
    "jensen_shannon": "distance",
    "cosine": "cosine",
}


@dataclass(frozen=True, slots=True)
class Variation:
    """What is varied: the size of images, the scale of objects, and the size of images of noise.

    Args:
        sizes: Factors of the training resolution, or pixels: 0.5,1,2 or 448px.
        changes: image-size resizes the image; object-scale crops in or pads out.
        noise: Also probe pure noise: one or more of white, pink, blocks.
        padding: How maps are padded in the network that is shown noise.
        noise_images: Images of each kind of noise, at least 20.
    """

    sizes: Sequence[str | float | int] = (0.25, 0.35, 0.5, 0.71, 1, 1.41, 2, 2.83, 4)
    changes: Sequence[Literal["image-size", "object-scale"]] = ("image-size", "object-scale")
    noise: Sequence[Literal["white", "pink", "blocks"]] = ()
    padding: Sequence[Literal["zeros", "reflect", "circular"]] = ("zeros", "reflect", "circular")
    noise_images: int = 126

    def __post_init__(self) -> None:
        for name, known in (("changes", CHANGES), ("noise", KINDS), ("padding", PADDINGS)):
            what = name.removesuffix("s")
            names = check_names(getattr(self, name), known, what)
            if not names and name != "noise":
                raise DataError(f"--{name} is empty. Give one or more of {', '.join(known)}.")
            object.__setattr__(self, name, names)
        if self.noise and self.noise_images < LEAST_IMAGES:
            raise DataError(
                f"--noise-images must be at least {LEAST_IMAGES} to train and to test, got "
                f"{self.noise_images}."
            )

    def octaves(self, side: int) -> list[float]:
        """The sizes as log2 of factors of the training resolution, ascending, 0 among them.

        Raises:
            DataError: if a size is not understood, or there is none but the training resolution.
        """
        found = {octaves_of(str(part), side) for part in self.sizes}
        if not any(found):
            sizes = ",".join(map(str, self.sizes))
            raise DataError(
                f"--sizes {sizes!r} names no size but the training resolution. Give others, such "
                "as 0.5,1,2."
            )
        return sorted({0.0, *(round(each, 6) for each in found)})


@dataclass(frozen=True, slots=True, eq=False)
class Invariance(Result):
    """How predictions and features change with size, and how well noise reveals image size.

    Args:
        table: the columns of `COLUMNS`; None if only noise was asked for.
        noise: None if no noise was asked for.
        left_out: layers and images that were skipped, and sizes at which the network does not run.
        provenance: facts of `run.json`.
        image_set: the images, if there were any; None if the result was read from a run.
    """

    table: pd.DataFrame | None
    noise: Noise | None = None
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)
    image_set: ImageSet | None = field(default=None, repr=False)

    def to_frame(self) -> pd.DataFrame:
        """The table of sizes, in the form of `invariance.csv`, or else that of noise."""
        return next(iter(self.tables().values()))

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of the run folder: of sizes, of noise, or both."""
        own = {} if self.table is None else {"invariance": self.table.copy()}
        return own | ({} if self.noise is None else self.noise.tables())

    def finding(self) -> str:
        """What was found, in a few sentences."""
        said = [] if self.table is None else [_finding(self.table)]
        return " ".join(said + ([] if self.noise is None else [self.noise.finding()]))

    def summary(self) -> dict[str, pd.DataFrame]:
        """Predictions and features by size, and R² for noise by layer."""
        own = {}
        if self.table is not None:
            first = self.table.iloc[0]
            title = f"Compared with the training resolution, {first.model}, {first.n_images} images"
            own[title] = _summary(self.table)
        return own | ({} if self.noise is None else self.noise.summary())

    def plot(self) -> Figure:
        """How predictions change with size; without predictions how features do, or noise."""
        if self.table is None:
            assert self.noise is not None
            return self.noise.plot()
        has_predictions = (self.table.quantity == "agreement").any()
        return page_figure((invariance_drawing if has_predictions else drift_drawing)(self.table))

    def _repr_html_(self) -> str:
        can_plot = self.table is None or self.table.quantity.isin(["agreement", "drift"]).any()
        table = next(iter(self.summary().values()))
        return html_of(self.finding(), table, self.plot() if can_plot else None)


def read_invariance(folder: str | Path) -> Invariance:
    """The result that `Invariance.save` wrote."""
    run = read_analysis(folder, ("invariance", "noise"), "invariance")
    table = run.table("invariance", COLUMNS) if run.has("invariance") else None
    noise = noise_of(run) if run.has("noise") else None
    return Invariance(table, noise, skipped_of(run), dict(run.facts))


@dataclass(frozen=True, slots=True)
class _View:
    """One way to show all images: what is changed, by how many octaves, and the input's size."""

    change: str
    octaves: float
    height: int
    width: int

    @property
    def side(self) -> int:
        return max(self.height, self.width)

    def pixels(
        self, image: PIL.Image.Image, box: Box | None, preprocessing: Preprocessing
    ) -> UInt8[np.ndarray, "height width 3"]:
        if self.change == "object-scale":
            return shown(image, self.octaves, box, preprocessing)
        return fitted(image, Frame(self.height, self.width), preprocessing.interpolation)


# The beginning of a row, and what its value is the ratio of: two sums over images.
_Row = tuple[dict[str, object], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]


def invariance(
    model: str | nn.Module | Network,
    data: str | ImageSet = "",
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    reading: Reading = Reading(at_most=48),
    computation: Computation = Computation(),
    variation: Variation = Variation(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Invariance:
    """Measure how predictions and features change with image size, object scale and noise.

    At every size, for the layer `softmax` if it is among the layers: `agreement` (share of images
    whose first class stays the same), `probability_change` (of that class), `jensen_shannon`
    (distance of all probabilities, 0 to 1). At every size and layer: `cosine` of the features with
    those at the training size. Between sizes one octave apart, at the upper one: `drift` (1 -
    cosine) and `map_error` (held-out error of the best linear map from the lower one, in variances
    of the features). Features are centred by their mean at the training size before the cosine:
    uncentred, positive features are alike whatever they show.

    Args:
        model, weights, allow_partial, layers, progress: As for `probe`.
        data: voc:DIR, coco:FILE, csv:FILE, tar:PATTERN, masks:DIR, or scenes; none for noise alone.
        reading: Which images are read; crops lie about the object where it has a box.
        reading.at_most: Images used, evenly spread over all of them; 0 for all.
        computation: How images are computed; larger images are computed in smaller batches.
        variation: What is varied.
        seed: Random seed of the folds, the bootstrap and the noise.

    Returns:
        The result. `low` and `high` are 95 % percentile bootstrap intervals over groups of images;
        not numbers with fewer than 12 groups, or 40 for `agreement`.

    Raises:
        DataError: if there are neither images nor noise, too few groups of images, or options of
            what is not there.
        ModelError: if image size is asked for and the network runs at none but its own.
        LayerError: if a feature is not finite.
    """
    settings = settings_of(locals())
    check_unused(UNUSED, reading, computation)
    is_of_images = isinstance(data, ImageSet) or bool(data)
    if not is_of_images and not variation.noise:
        raise DataError(
            "Neither images nor noise were asked for. Give --data voc:DIR (or scenes), or --noise "
            "white, or both."
        )
    if not variation.noise:
        check_unused(OF_NOISE, variation, when="without --noise")
    if not is_of_images:
        check_unused(OF_IMAGES, variation, reading, when="without --data", at_most=48)
    stages = Stages(progress)
    with stages("network"):
        subject = subject_of(model, layers, computation, weights, allow_partial, seed)
    network, left_out = subject.network, subject.left_out
    octaves = variation.octaves(network.preprocessing.height) if is_of_images else []
    noise = table = kept = None
    if variation.noise:  # first, because a network that cannot do it says so soon
        asked = {"kinds": variation.noise, "paddings": variation.padding, "seed": seed}
        given = network, subject.points, computation
        with stages("noise"):
            rows = noise_table(*given, **asked, n=variation.noise_images, progress=progress)
        noise = Noise(rows)
    if is_of_images:
        with stages("images"):
            image_set = _read(data, network, reading, seed, progress)
        stages.say(image_set, network, strict=reading.strict)
        with stages("comparison"):
            views = [(change, each) for change in variation.changes for each in octaves]
            given = subject, image_set, views, computation
            table, kept, also = _compared(*given, reading.strict, seed, stages.report)
        left_out = (*left_out, *image_set.left_out, *also)
    facts = provenance(network, settings, stages, image_set=kept)
    return Invariance(table, noise, left_out, facts, kept)


def octaves_of(text: str, side: int) -> float:
    """A size as log2 of a factor of the training side: a factor, `0.5`, or pixels, `448px`.

    Raises:
        DataError: if it is neither, or further than six octaves away.
    """
    in_pixels = text.endswith("px")
    try:
        factor = float(text.removesuffix("px")) / (side if in_pixels else 1)
    except ValueError:
        factor = math.nan
    if not 1 / 64 <= factor <= 64:
        raise DataError(
            f"{text!r} is no size. Give factors of the training resolution from 1/64 to 64, such "
            f"as 0.5,1,2, or pixels, such as {side // 2}px,{side}px."
        )
    exact = math.log2(factor)
    half = round(2 * exact) / 2
    # 0.71 and 1.41 mean the square roots of 1/2 and 2: half octaves, if the pixels are the same
    is_half = (
        round(side * 2**half) == round(side * factor) if in_pixels else abs(exact - half) < 0.025
    )
    return half if is_half else exact


def shown(
    image: PIL.Image.Image,
    octaves: float,
    box: Box | None,
    preprocessing: Preprocessing,
) -> UInt8[np.ndarray, "height width 3"]:
    """The image with its object made larger or smaller, at the network's own size.

    Larger: a window of the image, about the middle of the box, or of the image, moved inside where
    it would reach beyond. Smaller: all of it, in the middle of the network's fill colour.
    """
    height, width, factor = preprocessing.height, preprocessing.width, 2.0**octaves
    if factor <= 1:
        inner = Frame(max(1, round(height * factor)), max(1, round(width * factor)))
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = preprocessing.fill()
        top, left = (height - inner.height) // 2, (width - inner.width) // 2
        canvas[top : top + inner.height, left : left + inner.width] = fitted(
            image, inner, preprocessing.interpolation
        )
        return canvas
    sides = np.array(image.size) / factor
    box = box or (0, 0, *image.size)
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    corner = np.clip(middle - sides / 2, 0, image.size - sides)
    resample = INTERPOLATIONS[preprocessing.interpolation]
    window = (*corner.tolist(), *(corner + sides).tolist())
    return np.array(image.resize((width, height), resample, box=window))


# --- running the network --------------------------------------------------------------------------


def _read(
    data: str | ImageSet, network: Network, reading: Reading, seed: int, progress: Progress | None
) -> ImageSet:
    """The images, evenly spread over all; few are enough, as nothing is regressed on a measure."""
    frame = network.preprocessing.frame()
    every = replace(reading, at_most=0)
    image_set = images_of(data, frame, every, seed=seed, enough=False, progress=progress)
    n = len(image_set)
    return image_set.rows(evenly(n, reading.at_most or n))


def _compared(
    subject: Subject,
    images: ImageSet,
    asked: Sequence[tuple[str, float]],
    computation: Computation,
    strict: bool,
    seed: int,
    report: Callable[[str], Callable[[int, int], None]],
) -> tuple[pd.DataFrame, ImageSet, tuple[LeftOut, ...]]:
    """The table, the images it is of, and the sizes and images that were skipped."""
    network, points = subject.network, subject.points
    with forward(network, points, computation.by_torch()) as pooled:
        views, left_out = _views(subject, pooled, asked)
        batch_size = computation.batch_size
        features, unreadable = _features(
            network, images, pooled, views, batch_size, report("images")
        )
    skipped = [LeftOut(images.images[row].name, why) for row, why in unreadable.items()]
    check_none_skipped(skipped, strict=strict)
    kept = images.rows([number for number in range(len(images)) if number not in unreadable])
    kept = replace(kept, left_out=(*images.left_out, *skipped))
    _check_groups(kept)
    for view, matrices in features.items():
        found = dict(zip([point.layer for point in points], matrices, strict=True))
        check_finite(network, found, f" at {view.change} {view.octaves:+g} octaves")
    groups = np.unique(np.array(kept.group), return_inverse=True)[1]
    folding, drawing = np.random.default_rng(seed).spawn(2)
    folds = (folding.permutation(groups.max() + 1) % FOLDS)[groups]
    rows: list[_Row] = []
    with threadpool_limits(1):  # the same numbers on any number of cores
        for number, point in enumerate(points):
            for change in dict.fromkeys(change for change, _ in asked):
                chain = {v: features[v][number] for v in views if v.change == change}
                rows += _layer_rows(point, chain, folds, groups)
            report("comparison")(number + 1, len(points))
        table = _table(rows, group_draws(groups, drawing), len(np.unique(groups)))
    table = table.assign(model=network.name, weights=network.weights.kind, n_images=len(kept))
    return pd.DataFrame(table, columns=COLUMNS), kept, (*left_out, *skipped)


def _views(
    subject: Subject, pooled: Pooled, asked: Sequence[tuple[str, float]]
) -> tuple[list[_View], list[LeftOut]]:
    """The views that the network runs on, and the sizes at which it does not run."""
    network, own = subject.network, subject.network.preprocessing
    views: list[_View] = []
    left_out: list[LeftOut] = []
    for change, octaves in asked:
        factor = 2.0**octaves if change == "image-size" else 1.0
        view = _View(change, octaves, round(own.height * factor), round(own.width * factor))
        reason = refusal_at(subject, pooled, view.height, view.width) if factor != 1 else ""
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


def _features(
    network: Network,
    images: ImageSet,
    pooled: Pooled,
    views: Sequence[_View],
    batch_size: int,
    report: Callable[[int, int], None],
) -> tuple[dict[_View, list[Float32[np.ndarray, "n _"]]], dict[int, str]]:
    """One matrix per layer for every view, and why images cannot be read, by their number."""
    unreadable: dict[int, str] = {}
    parts: dict[_View, list[list[np.ndarray]]] = {view: [] for view in views}
    for start in range(0, len(images), batch_size):
        opened: list[tuple[PIL.Image.Image, Box | None]] = []
        for number in range(start, min(start + batch_size, len(images))):
            image = images.images[number]
            try:
                opened.append((image.decode(), images.box(number)))
            except DataError as error:
                unreadable[number] = str(error).removeprefix(f"{image.name}: ")
        for done, view in enumerate(views):
            report(start * len(views) + done * len(opened), len(images) * len(views))
            batches = _batches(network.preprocessing, opened, view, batch_size)
            parts[view] += [pooled(batch) for batch in batches]
    report(len(images) * len(views), len(images) * len(views))
    return {
        view: [np.concatenate(layer) for layer in zip(*batches, strict=True)]
        for view, batches in parts.items()
    }, unreadable


def _batches(
    preprocessing: Preprocessing,
    opened: Sequence[tuple[PIL.Image.Image, Box | None]],
    view: _View,
    batch_size: int,
) -> Iterator[Tensor]:
    """As many pixels at a time as a batch at the training size has, and no more images."""
    pixels = batch_size * preprocessing.height * preprocessing.width
    size = max(1, min(batch_size, pixels // (view.height * view.width)))
    for start in range(0, len(opened), size):
        batch = [view.pixels(*each, preprocessing) for each in opened[start : start + size]]
        yield preprocessing.tensor(np.stack(batch))


def _check_groups(kept: ImageSet) -> None:
    n_groups = len(set(kept.group))
    if n_groups < FOLDS:
        raise DataError(
            f"There are {len(kept)} images of {n_groups} groups that can be read, but at least "
            f"{FOLDS} groups are needed to test on others. Give images of more groups."
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
            found |= {name: (each, one) for name, each in _of_probabilities(here, usual).items()}
        lower = by_octaves.get(round(view.octaves - 1, 6))
        if lower is not None:
            found["drift"] = (1 - _cosines(here - centre, lower - centre), one)
            found["map_error"] = _map_errors(lower, here, folds, groups)
        for quantity, ratio in found.items():
            here_is = {"change": view.change, "octaves": view.octaves, "side": view.side}
            yield {**here_is, **point.name_facts, "quantity": quantity}, *ratio


def _cosines(
    here: Float64[np.ndarray, "n d"], there: Float64[np.ndarray, "n d"]
) -> Float64[np.ndarray, " n"]:
    """Cosine between rows; undefined where one of them is zero."""
    lengths = np.linalg.norm(here, axis=1) * np.linalg.norm(there, axis=1)
    products = np.einsum("nd,nd->n", here, there)
    return np.divide(products, lengths, np.full_like(products, np.nan), where=lengths > 0)


def _of_probabilities(
    here: Float64[np.ndarray, "n classes"], usual: Float64[np.ndarray, "n classes"]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """How the probabilities change."""
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

    First each channel is predicted from itself at the other size, with one slope for all, then
    ridge predicts the rest from all channels. With fewer images than channels ridge alone would not
    even find that nothing changes.
    """
    varies = deviations(target) > 0
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
    deviation, away = deviations(values), values - values.mean(axis=0)
    return np.divide(away, deviation, np.zeros_like(away), where=deviation > 0)


def _table(rows: Sequence[_Row], draws: Float64[np.ndarray, "b n"], n_groups: int) -> pd.DataFrame:
    """Every value with its percentile interval, which stays in the value's own range.

    There is none with fewer than `LEAST_GROUPS` groups.
    """
    numerators = np.stack([numerator for _, numerator, _ in rows], axis=1)
    denominators = np.stack([denominator for _, _, denominator in rows], axis=1)
    counts = np.vstack([np.ones(draws.shape[1]), draws])
    sums, totals = counts @ numerators, counts @ denominators
    values = np.divide(sums, totals, np.full_like(sums, np.nan), where=totals > 0)
    table = pd.DataFrame([row for row, _, _ in rows])
    least = np.where(
        table.quantity == "agreement", LEAST_GROUPS["share"], LEAST_GROUPS["difference"]
    )
    ends = np.quantile(values[1:], [0.025, 0.975], axis=0)
    low, high = np.where(n_groups < least, np.nan, ends)
    return table.assign(value=values[0], low=low, high=high)


# --- in words -------------------------------------------------------------------------------------


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """How predictions change, one row per change and size, and the mean cosine of all features."""
    found = means(table, ["change", "octaves", "side"])
    columns: dict[str, list[str]] = {
        "change": [change for change, _, _ in found],
        " factor": [f"{2**octaves:.3g}" for _, octaves, _ in found],
        " side": [str(side) for _, _, side in found],
    }
    for quantity, name in SHOWN.items():
        if quantity in set(table.quantity):
            values = [each.get(quantity, np.nan) for each in found.values()]
            columns[f" {name}"] = [text.number(value) for value in values]
    return pd.DataFrame(columns)


def _finding(table: pd.DataFrame) -> str:
    rows = table.to_dict("records")
    side, first = next(row["side"] for row in rows if row["octaves"] == 0), rows[0]["change"]
    said: list[str] = []
    for change in dict.fromkeys(row["change"] for row in rows):
        for number, (share, size) in enumerate(_unchanged(rows, change)):
            if not said:
                what = f"{size} the {change.replace('-', ' ')}"
                said.append(f"{share} of the predictions at {side} px stay the same at {what}")
            elif number:
                said.append(f" and {share} at {size}")
            else:
                said.append(f"; where only the object's scale changes, {share} at {size}")
    sentences = ["".join(said) + "."] if said else []
    drift = by_layer(table.loc[table["change"] == first], "drift")
    if drift:
        most, least = max(drift, key=drift.__getitem__), min(drift, key=drift.__getitem__)
        end = f" and least at {least} ({text.number(drift[least])})" if least != most else ""
        sentences.append(
            f"Doubling the {first.replace('-', ' ')} changes the features most at {most} "
            f"(1 - cosine {text.number(drift[most])}){end}."
        )
    return " ".join(sentences) or (
        "There are no predictions, and no two sizes an octave apart: invariance.csv has the "
        "cosines of the features."
    )


def _unchanged(rows: Sequence[Mapping[Any, Any]], change: str) -> list[tuple[str, str]]:
    """Shares of predictions that stay, at a smaller and a larger size: an octave off if it can."""
    kept = {
        row["octaves"]: row["value"]
        for row in rows
        if (row["change"], row["quantity"]) == (change, "agreement")
    }
    smaller = -1 if -1 in kept else min(kept, default=0)
    larger = 1 if 1 in kept else max(kept, default=0)
    named = {-1: "half", 1: "double"}
    return [
        (f"{kept[at]:.0%}", named.get(at, f"{2**at:.3g} times")) for at in (smaller, larger) if at
    ]
