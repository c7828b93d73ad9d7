"""Object scale and image size separated in synthetic scenes, and what each layer encodes of both.

Object scale is log2 of the share of the canvas, image size log2 of the canvas in pixels: both in
octaves of area, whose sum is the object's area in pixels. The network runs at the size of the
canvas; nothing is resized. By layer are measured:

- `object_scale_effect`, `image_size_effect`, `interaction_effect`: the share of the variance of
  the standardised features that each explains (balanced analysis of variance);
- `object_scale_partial_r2`, `image_size_partial_r2`: how well one is predicted from the features
  when the other is known, held out by content;
- `gain`: the slope of the share that a probe predicts against the share that was set, where only
  the object is resized in the same image: 1 is covariant, 0 invariant;
- `r2`: of such a probe on scenes that it was not fitted on. Ridge shrinks towards the mean, so the
  gain is about R² and hardly above it where the probe predicts scale: a gain of 0.4 with an R² of
  0.4 is a noisy prediction of scale, with an R² of 0.9 a prediction of something else;
- `blur_leak`: R² of the share that each object was scaled to before all were drawn at the largest:
  the most that blur alone can explain;
- `padding_MODE_leak`: R² of the side of images of pink noise, with maps padded in this mode.

Source: `graziani2021` names the two notions; the protocol is ours (docs/choices.md).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int
from matplotlib.figure import Figure
from torch import nn

from .. import runs
from ..data.images import LeftOut, Progress
from ..data.scenes import (
    BACKDROPS,
    OBJECTS,
    SMALLEST_CANVAS,
    RenderedScene,
    Scene,
    largest_share,
    random_scene,
    render,
)
from ..errors import DataError, ModelError, check_names
from ..features.extract import Computation, Stages, check_finite, forward, provenance
from ..figures import text
from ..figures.analyses import scenes_drawing
from ..figures.drawing import page_figure
from ..networks.network import Network
from ..networks.points import ProbePoint
from ..probing.scores import n_processors, one_thread_each
from ..report.report import Result
from ..stats.inference import group_draws, interval
from ..stats.ridge import decompose, deviations, nested_ridge
from .noise import PADDINGS, noise_table
from .quantities import by_layer, layer_summary, read_analysis, skipped_of
from .subject import Pooled, Subject, check_unused, refusal_at, subject_of

SHARES = tuple(np.geomspace(0.03, 0.6, 6).tolist())  # of the canvas
OCTAVES = (-2, -1, 0, 1, 2)  # of area: canvases from half to twice the training side
PLACES = ("random", "fixed")
CONTENTS = 44  # every object before every backdrop
SINGLE = 12  # scenes for each content to fit the probe, and as many to measure the leak
STEPS = 7  # shares of one image of a series
FOLDS = 5
LEAST = 2 * FOLDS  # contents
BATCH = 16
UNUSED = ("fit", "batch_size", "engine", "half", "cluster")  # of a computation, without effect

# Noise has other colours on another canvas, and nothing but the size shall differ.
BEHIND = tuple(name for name in BACKDROPS if name != "noise")

COLUMNS = [
    *("model", "weights", "layer", "alias", "depth", "n_features", "n_images"),
    *("quantity", "value", "low", "high"),
]
HEADINGS = {
    "object_scale_partial_r2": "object scale",
    "image_size_partial_r2": "image size",
    "gain": "gain",
    "r2": "R²",
    "blur_leak": "blur",
    **{f"padding_{mode}_leak": mode for mode in PADDINGS},
}

Report = Callable[[int, int], None]  # done, all
# Features of scenes by layer; shares of their objects, as drawn (at first).
Seen = tuple[dict[str, np.ndarray], np.ndarray]
Draws = dict[str, tuple[np.ndarray, int, int]]  # by quantity; images it is of, and groups drawn


@dataclass(frozen=True, slots=True)
class Design:
    """Which scenes are drawn.

    Args:
        canvases: Sides in pixels; five from half to twice the input size by default. With one
            alone, image size is not measured.
        place: Where objects are: random or fixed (the centre).
        contents: Combinations of object, backdrop, place and light, at least 10.
        padding: How maps are padded for the padding leaks.
    """

    canvases: Sequence[int] = ()
    place: Literal["random", "fixed"] = "random"
    contents: int = CONTENTS
    padding: Sequence[Literal["zeros", "reflect", "circular"]] = ("zeros", "reflect", "circular")

    def __post_init__(self) -> None:
        check_names(self.place, PLACES, "place")
        object.__setattr__(self, "padding", check_names(self.padding, PADDINGS, "padding"))
        if not self.padding:
            raise DataError(f"--padding is empty. Give one or more of {', '.join(PADDINGS)}.")
        if self.contents < LEAST:
            raise DataError(
                f"--contents must be at least {LEAST} to train and to test, got {self.contents}. "
                f"{CONTENTS} show every object before every backdrop."
            )
        if any(side < 1 for side in self.canvases):
            raise DataError(
                f"Canvases of {list(self.canvases)} px were asked for. Give sides above 0, or none "
                "for half to twice the training side."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Scenes(Result):
    """What each layer encodes of object scale and of image size.

    Args:
        table: one row per layer and quantity, the columns of `COLUMNS`.
        left_out: layers, and canvases on which the network does not run.
        canvases: sides in pixels.
        provenance: facts of `run.json`.
    """

    NAME = "scenes"

    table: pd.DataFrame
    left_out: tuple[LeftOut, ...] = ()
    canvases: tuple[int, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)

    def finding(self) -> str:
        """Where scale and size are decoded best, and the leaks, in a few sentences."""
        said = []
        closely = "Where only the object is resized, the prediction follows most closely at"
        for quantity, what, kind in (
            ("object_scale_partial_r2", "Object scale is decoded best at", "partial R² "),
            ("image_size_partial_r2", "Image size is decoded best at", "partial R² "),
            ("gain", closely, "gain "),
            ("blur_leak", "Blur alone explains most at", "R² "),
        ):
            values = by_layer(self.table, quantity)
            if values:
                best, last = max(values, key=values.__getitem__), list(values)[-1]
                end = f"; {text.number(values[last])} at {last}" if last != best else ""
                said.append(f"{what} {best} ({kind}{text.number(values[best])}{end}).")
        return " ".join(said)

    def summary(self) -> dict[str, pd.DataFrame]:
        """One row per layer: partial R² of both, the gain, and R² of the leaks."""
        model = self.table.model.iloc[0]
        title = f"Partial R² of object scale and image size, gain, and R² of leaks, {model}"
        return {title: layer_summary(self.table, HEADINGS)}

    def plot(self) -> Figure:
        """All quantities by layer."""
        return page_figure(scenes_drawing(self.table))

    def facts(self) -> dict[str, object]:
        """Those of `run.json`."""
        return Result.facts(self) | {"canvases": self.canvases}


def read_scenes(folder: str | Path) -> Scenes:
    """The result that `Scenes.save` wrote."""
    run = read_analysis(folder, ("scenes",), "scenes")
    canvases = tuple(run.facts.get("canvases", ()))
    return Scenes(run.table("scenes", COLUMNS), skipped_of(run), canvases, dict(run.facts))


def probe_scenes(
    model: str | nn.Module | Network,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    design: Design = Design(),
    computation: Computation = Computation(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Scenes:
    """Separate object scale from image size in synthetic scenes, and probe each.

    Every content (object, backdrop, place, light) is drawn on every canvas at every share, so the
    two factors are orthogonal. `gain`, `r2` and `blur_leak` are measured at the training side.
    Values have 95 % bootstrap intervals over contents, scenes or series; the fits stay.

    Args:
        model, weights, allow_partial, layers, progress: As for `probe`.
        design: Which scenes are drawn.
        computation: How images are computed.
        seed: Random seed of the scenes, the folds and the bootstrap.

    Raises:
        DataError: if an option is out of its range.
        ModelError: if the network runs on too few of the canvases.
        LayerError: if a feature is not finite.
    """
    settings = runs.settings_of(locals())
    check_unused(UNUSED, computation)
    stages = Stages(progress)
    with stages("network"):
        subject = subject_of(model, layers, computation, weights, allow_partial, seed)
    with stages("scenes"):
        found = separated(subject, design, computation, seed=seed, report=stages.report)
    if len(found.canvases) > 1:  # else there is no image size that could leak
        with stages("noise"):
            asked = {"kinds": ["pink"], "paddings": design.padding, "sizes": found.canvases}
            given = subject.network, subject.points, computation
            noise = noise_table(*given, **asked, seed=seed, progress=progress)
        found = replace(found, table=runs.concatenated([found.table, _as_leaks(noise)]))
    facts = provenance(subject.network, settings, stages)
    return replace(found, left_out=(*subject.left_out, *found.left_out), provenance=facts)


def separated(
    subject: Subject,
    design: Design,
    computation: Computation,
    *,
    shares: Sequence[float] = SHARES,
    objects: Sequence[str] = OBJECTS,
    seed: int = 0,
    report: Callable[[str], Report] = lambda stage: lambda done, total: None,
) -> Scenes:
    """The quantities of `Scenes` but for the padding leaks.

    Args:
        shares: of the canvas, ascending; the probe and the series span the same range.
        objects: in turn before every backdrop; the probe is fitted on 12 times as many other
            scenes as there are contents.
    """
    names = check_names(objects, OBJECTS, "object")
    _check(names, shares, seed)
    side, shares = subject.network.preprocessing.height, tuple(map(float, shares))
    with forward(subject.network, subject.points, computation.by_torch()) as pooled:
        kept, left_out = _runnable(subject, pooled, design.canvases)
        scenes = _all_scenes(side, kept, shares, design, names, seed)
        seen = {kind: _seen(subject, pooled, drawn, report(kind)) for kind, drawn in scenes.items()}
    table = _table(subject, seen, kept, shares, seed, report("regression"))
    return Scenes(table, left_out, kept)


def _as_leaks(noise: pd.DataFrame) -> pd.DataFrame:
    """How well the side of images of noise is predicted, as quantities of the scenes' table."""
    named = noise.assign(quantity=[f"padding_{mode}_leak" for mode in noise["padding"]])
    named = named.rename(columns={"r2": "value", "r2_low": "low", "r2_high": "high"})
    return named.drop(columns=["noise", "padding"])


# --- statistics of arrays ------------------------------------------------------------------------
# z canvases, s shares, g contents or series, k steps of a series; b draws of how often one counts.


def main_effects(
    features: Float64[np.ndarray, "z s g d"], counts: Float64[np.ndarray, "b g"]
) -> Float64[np.ndarray, "b 3"]:
    """Shares of variance that object scale, image size and their interaction explain.

    The features are standardised over all rows, constant ones dropped, and their sums of squares
    added up. The three and what is left, which is never negative, add up to 1. Contents are the
    replicates: their noise adds about its variance / g to each.
    """
    flat = features.reshape(-1, features.shape[3])
    mean, deviation = flat.mean(axis=0), deviations(flat)
    varies = deviation > 0
    if not varies.any():
        return np.zeros((len(counts), 3))
    X = (features[..., varies] - mean[varies]) / deviation[varies]
    own = X.mean(axis=(0, 1))  # (g, d), of a content
    of_scale, of_size = X.mean(axis=0) - own, X.mean(axis=1) - own  # (s, g, d), (z, g, d)
    together = (X - own - of_scale - of_size[:, None]).reshape(-1, *own.shape)
    weights = counts / counts.sum(axis=1, keepdims=True)
    level, *parts = (_mean_square(p, weights) for p in (own[None], of_scale, of_size, together))
    whole = weights @ np.mean(np.sum(X**2, axis=3), axis=(0, 1)) - level
    return np.stack(parts, axis=1) / whole[:, None]


def _mean_square(
    parts: Float64[np.ndarray, "l g d"], weights: Float64[np.ndarray, "b g"]
) -> Float64[np.ndarray, " b"]:
    """Squared length of the weighted mean over contents, averaged over l levels."""
    flat = np.swapaxes(parts, 0, 1).reshape(parts.shape[1], -1)
    gram = flat @ flat.T / len(parts)
    return np.sum((weights @ gram) * weights, axis=1)


def out_of_fold(
    features: Float64[np.ndarray, "n d"],
    wanted: Float64[np.ndarray, " n"],
    given: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Held-out predictions of `wanted`: by ridge from features and `given`, by `given` alone.

    `given` enters unpenalised, as a factor: the means of its levels in the training part are taken
    off `wanted` and off every feature before these are standardised.

    Args:
        groups: by which the penalty is chosen inside the training part.
        folds: the number of the fold in which an image is held out; a group has one.
    """
    level = np.unique(given, return_inverse=True)[1]
    full, reduced = np.empty(len(wanted)), np.empty(len(wanted))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        rest = features - _level_means(features, level, train)
        known = _level_means(wanted, level, train)
        left = (wanted - known)[train, None]
        is_level = level[train, None] == np.unique(level[train])
        decomposition = replace(
            decompose(rest[train], rest[test]), others=is_level / np.sqrt(is_level.sum(axis=0))
        )
        fit = nested_ridge(decomposition, left, groups[train])
        full[test], reduced[test] = known[test] + fit.predictions[:, 0], known[test]
    return full, reduced


def partial_r2(
    wanted: Float64[np.ndarray, " n"],
    full: Float64[np.ndarray, " n"],
    reduced: Float64[np.ndarray, " n"],
    counts: Float64[np.ndarray, "b n"],
) -> Float64[np.ndarray, " b"]:
    """Partial R² = 1 - SS(full) / SS(reduced) of held-out predictions.

    Plain R² where one level was given, about the mean of the training part.
    """
    return 1 - (counts @ (wanted - full) ** 2) / (counts @ (wanted - reduced) ** 2)


def covariance_gain(
    scale_set: Float64[np.ndarray, "g k"],
    scale_predicted: Float64[np.ndarray, "g k"],
    counts: Float64[np.ndarray, "b g"],
) -> Float64[np.ndarray, " b"]:
    """Slope within series of the scale that is predicted:  Σ(x - x̄)(y - ȳ) / Σ(x - x̄)²."""
    x = scale_set - scale_set.mean(axis=1, keepdims=True)
    return (counts @ np.sum(x * scale_predicted, axis=1)) / (counts @ np.sum(x**2, axis=1))


def _level_means(
    values: Float64[np.ndarray, "n *d"], level: Int[np.ndarray, " n"], train: np.ndarray
) -> Float64[np.ndarray, "n *d"]:
    """For each row the mean that its level has in the training part."""
    means = [values[train & (level == each)].mean(axis=0) for each in np.unique(level)]
    return np.stack(means)[level]


# --- scenes --------------------------------------------------------------------------------------


def crossed(
    contents: Sequence[Scene], canvases: Sequence[int], shares: Sequence[float]
) -> list[Scene]:
    """Every content on every canvas at every share; contents change fastest, canvases slowest."""
    return [
        replace(content, canvas=canvas, share=share)
        for canvas in canvases
        for share in shares
        for content in contents
    ]


def _contents(
    n: int, names: Sequence[str], canvas: int, largest: float, place: str, seed: int
) -> list[Scene]:
    """Scenes at the largest share, stretched so that they fit, evenly many of each object."""
    scenes = []
    for number in range(n):
        index, which = divmod(number, len(names))
        one = random_scene(names[which], index, canvas=canvas, seed=seed, shares=(largest, largest))
        where = one.place if place == "random" else (0.5, 0.5)
        scenes.append(replace(one, place=where, backdrop=BEHIND[index % len(BEHIND)]))
    return scenes


def _all_scenes(
    side: int,
    canvases: Sequence[int],
    shares: tuple[float, ...],
    design: Design,
    names: Sequence[str],
    seed: int,
) -> dict[str, list[Scene]]:
    """All scenes that the network is shown, by kind; no two kinds share a content."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(4).tolist())
    rng, n = np.random.default_rng([seed, SINGLE]), design.contents

    def contents(count: int) -> list[Scene]:
        return _contents(count, names, side, shares[-1], design.place, next(seeds))

    def at_random() -> list[float]:
        return rng.uniform(shares[0], shares[-1], size=SINGLE * n).tolist()

    single = zip(contents(SINGLE * n), at_random(), strict=True)
    through = zip(contents(SINGLE * n), at_random(), strict=True)
    steps = np.linspace(shares[0], shares[-1], STEPS).tolist()
    return {
        "crossed scenes": crossed(contents(n), canvases, shares),
        "random scenes": [replace(content, share=share) for content, share in single],
        "series": [replace(content, share=share) for content in contents(n) for share in steps],
        "blurred scenes": [replace(content, drawn_as=share) for content, share in through],
    }


# --- running the network -------------------------------------------------------------------------


def _seen(subject: Subject, pooled: Pooled, scenes: Sequence[Scene], report: Report) -> Seen:
    parts: list[list[np.ndarray]] = []
    drawn: list[float] = []
    for images in _rendered(scenes):
        batch = np.stack([image.pixels for image in images])
        parts.append(pooled(subject.network.preprocessing.tensor(batch)))
        drawn += [image.share for image in images]
        report(len(drawn), len(scenes))
    of_layers = map(np.concatenate, zip(*parts, strict=True))
    matrices = dict(zip([point.layer for point in subject.points], of_layers, strict=True))
    check_finite(subject.network, matrices)
    shares = [scene.drawn_as or share for scene, share in zip(scenes, drawn, strict=True)]
    return matrices, np.array(shares)


def _rendered(scenes: Sequence[Scene]) -> Iterator[list[RenderedScene]]:
    """Images in order, in batches of one canvas, drawn in the background, two batches ahead."""
    ahead: deque[list[Future[RenderedScene]]] = deque()
    with ThreadPoolExecutor(n_processors()) as workers:
        for _, of_canvas in groupby(scenes, key=lambda scene: scene.canvas):
            rest = list(of_canvas)
            for start in range(0, len(rest), BATCH):
                batch = rest[start : start + BATCH]
                ahead.append([workers.submit(render, scene) for scene in batch])
                if len(ahead) > 2:
                    yield [image.result() for image in ahead.popleft()]
        while ahead:
            yield [image.result() for image in ahead.popleft()]


def _runnable(
    subject: Subject, pooled: Pooled, asked: Sequence[int]
) -> tuple[tuple[int, ...], tuple[LeftOut, ...]]:
    """The canvases on which the network runs, and why it does not on the others."""
    network, side = subject.network, subject.network.preprocessing.height
    if reason := _obstacle(subject, pooled, side):
        raise ModelError(
            f"{network.name} does not run on scenes of {side} x {side} px ({reason}). Give another "
            "--input-size."
        )
    usual = [side if step == 0 else 8 * round(side * 2 ** (step / 2) / 8) for step in OCTAVES]
    found = {each: _obstacle(subject, pooled, each) for each in sorted(asked or usual)}
    left_out = tuple(LeftOut(f"{canvas} px", reason) for canvas, reason in found.items() if reason)
    kept = tuple(canvas for canvas, reason in found.items() if not reason)
    if len(kept) < min(2, len(found)):
        raise ModelError(
            f"{network.name} runs on {len(kept)} of {len(found)} canvases; on "
            f"{left_out[0].name} it does not ({left_out[0].reason}). Image size needs two: give "
            f"other canvases, or --canvases {side} to set object scale alone."
        )
    return kept, left_out


def _obstacle(subject: Subject, pooled: Pooled, canvas: int) -> str:
    """Why the network cannot be used on a canvas; empty if it can."""
    if canvas < SMALLEST_CANVAS:
        return f"objects are visible on {SMALLEST_CANVAS} px or more"
    return refusal_at(subject, pooled, canvas, canvas)


# --- from features to the table ------------------------------------------------------------------


def _table(
    subject: Subject,
    seen: Mapping[str, Seen],
    canvases: tuple[int, ...],
    shares: tuple[float, ...],
    seed: int,
    report: Report,
) -> pd.DataFrame:
    measures = {kind: measure for kind, (_, measure) in seen.items()}
    network, points = subject.network, subject.points

    def found(point: ProbePoint) -> tuple[ProbePoint, Draws]:
        own = {kind: f[point.layer].astype(np.float64) for kind, (f, _) in seen.items()}
        factors = _crossed_draws(own["crossed scenes"], canvases, shares, seed)
        return point, factors | _probe_draws(own, measures, seed)

    rows = []
    with one_thread_each() as workers:
        for done, (point, draws) in enumerate(workers.map(found, points), start=1):
            line = (network.name, network.weights.kind, point.layer, point.alias, point.depth)
            for quantity, (values, n_images, n_groups) in draws.items():
                scale = "difference" if quantity == "gain" else "r2"
                low, high = interval(values[0], values[1:], n_groups, scale=scale)
                numbers = (float(values[0]), float(low), float(high))
                rows.append((*line, point.channels, n_images, quantity, *numbers))
            report(done, len(points))
    return pd.DataFrame(rows, columns=COLUMNS)


def _draws(n: int, rng: np.random.Generator) -> Float64[np.ndarray, "b n"]:
    """How often each counts; in the first row all count once."""
    return np.vstack([np.ones(n), group_draws(np.arange(n), rng)])


def _crossed_draws(
    features: Float64[np.ndarray, "n d"],
    canvases: tuple[int, ...],
    shares: tuple[float, ...],
    seed: int,
) -> Draws:
    """Effects and partial R² with their draws, and how many images they are of."""
    n, z, s = len(features), len(canvases), len(shares)
    g = n // (z * s)
    rng = np.random.default_rng([seed, 0])  # the same draws and folds for every layer
    contents, folds = _draws(g, rng), rng.permutation(g) % FOLDS
    size = np.repeat(2 * np.log2(canvases), s * g)
    scale = np.tile(np.repeat(np.log2(shares), g), z)
    content = np.tile(np.arange(g), z * s)

    def predicted_r2(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
        predicted = out_of_fold(features, wanted, given, content, folds[content])
        return partial_r2(wanted, *predicted, contents[:, content])

    effects = main_effects(features.reshape(z, s, g, -1), contents)
    draws = {
        "object_scale_effect": effects[:, 0],
        "object_scale_partial_r2": predicted_r2(scale, size),
    }
    if z > 1:
        draws |= {
            "image_size_effect": effects[:, 1],
            "interaction_effect": effects[:, 2],
            "image_size_partial_r2": predicted_r2(size, scale),
        }
    return {quantity: (values, n, g) for quantity, values in draws.items()}


def _probe_draws(
    features: Mapping[str, np.ndarray], shares: Mapping[str, np.ndarray], seed: int
) -> Draws:
    """Gain and R² of the probe, and the leak, with their draws, images and groups."""
    fitted, series = features["random scenes"], features["series"]
    n, rng = len(fitted), np.random.default_rng([seed, 1])
    counts, folds, each = _draws(n, rng), rng.permutation(n) % FOLDS, np.arange(n)
    fit = nested_ridge(decompose(fitted, series), shares["random scenes"][:, None], each)
    predicted, was_set = (x.reshape(-1, STEPS) for x in (fit.predictions, shares["series"]))
    g = len(predicted)

    def r2(kind: str) -> np.ndarray:
        held_out = out_of_fold(features[kind], shares[kind], np.zeros(n), each, folds)
        return partial_r2(shares[kind], *held_out, counts)

    return {
        "gain": (covariance_gain(was_set, predicted, _draws(g, rng)), len(series), g),
        "r2": (r2("random scenes"), n, n),
        "blur_leak": (r2("blurred scenes"), n, n),
    }


# --- checks --------------------------------------------------------------------------------------


def _check(names: Sequence[str], shares: Sequence[float], seed: int) -> None:
    if not names:
        raise DataError(f"No object was named. Choose from {', '.join(OBJECTS)}.")
    if seed < 0:
        raise DataError(f"The seed is {seed}. Give a whole number of 0 or more.")
    if len(shares) < 2 or not (np.diff([0.0, *shares]) > 0).all():
        raise DataError(
            f"Shares of {', '.join(f'{share:g}' for share in shares) or 'none'} of the canvas were "
            "asked for. Give two or more above 0, in ascending order."
        )
    for name in names:
        if shares[-1] > largest_share(name):
            raise DataError(
                f"Shares up to {shares[-1]:g} of the canvas were asked for, but the {name} can "
                f"fill {np.floor(100 * largest_share(name)) / 100:g} at most. End with a smaller "
                "share, or drop this object."
            )
