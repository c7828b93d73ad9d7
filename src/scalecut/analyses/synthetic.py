"""Object scale and image size set apart in made-up scenes, and what each layer makes of either.

Object scale is log2 of the share of the canvas, image size log2 of the canvas in pixels: octaves of
area both, whose sum is the object's area in pixels. The network runs at the size of the canvas;
nothing is resized. By layer are told:

- `object_scale_effect`, `image_size_effect`, `interaction_effect`: what share of the variance of
  the standardised features each explains (balanced analysis of variance);
- `object_scale_partial_r2`, `image_size_partial_r2`: how well either is read from the features if
  the other is known, held out by content;
- `gain`: the slope of the share that a probe reads against the share that was set, where only the
  object is resized in the same picture: 1 is covariant, 0 invariant;
- `r2`: of such a probe on scenes it was not fitted on. Ridge shrinks towards the mean, so gain is
  about R² and hardly above it where scale is what is read: 0.4 beside an R² of 0.4 is a noisy
  reading of scale, beside 0.9 a reading of something else;
- `blur_leak`: R² of the share whose size each object went through before all were drawn at the
  largest: the most that blur alone can buy.

Source: `graziani2021` names the two notions; the protocol is ours (docs/choices.md).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..data.images import LeftOut
from ..data.scenes import (
    BACKDROPS,
    OBJECTS,
    SMALLEST_CANVAS,
    Picture,
    Scene,
    largest_share,
    random_scene,
    render,
)
from ..errors import DataError, ModelError, check_names
from ..features.extract import (
    Extracted,
    Progress,
    check_finite,
    forward,
    resolved_device,
    resolved_precision,
)
from ..networks.network import Network, Preprocessing
from ..networks.points import ProbePoint
from ..networks.selection import refusal
from ..probing.scores import n_processors
from ..stats.inference import group_draws, interval
from ..stats.ridge import decompose, nested_ridge

SHARES = tuple(np.geomspace(0.03, 0.6, 6).tolist())  # of the canvas
OCTAVES = (-2, -1, 0, 1, 2)  # of area: canvases from half to twice the training side
PLACES = ("random", "fixed")
CONTENTS = 44  # every object before every backdrop
SINGLE = 12  # scenes for each content to fit the probe, and as many to measure the leak
STEPS = 7  # shares of one picture of a series
FOLDS = 5
LEAST = 2 * FOLDS  # contents
BATCH = 16

# Noise has other colours on another canvas, and nothing but the size shall differ.
BEHIND = tuple(name for name in BACKDROPS if name != "noise")

COLUMNS = [
    *("model", "weights", "layer", "alias", "depth", "n_features", "n_images"),
    *("quantity", "value", "low", "high"),
]


Pooled = Callable[[Tensor], list[np.ndarray]]
Report = Callable[[int, int], None]  # done, all
Seen = tuple[Extracted, np.ndarray]  # of scenes; shares of their objects, as drawn (at first)
Draws = dict[str, tuple[np.ndarray, int]]  # by quantity; how many images it is of


@dataclass(frozen=True, slots=True, eq=False)
class Instrument:
    """What each layer makes of object scale and of image size."""

    table: pd.DataFrame  # one row a layer and quantity, the columns of COLUMNS
    left_out: tuple[LeftOut, ...]  # canvases on which the network cannot run
    canvases: tuple[int, ...]  # sides in pixels
    shares: tuple[float, ...]


def instrument(
    network: Network,
    points: Sequence[ProbePoint],
    *,
    canvases: Sequence[int] | None = None,
    shares: Sequence[float] = SHARES,
    place: str = "random",
    objects: Sequence[str] = OBJECTS,
    n: int = CONTENTS,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Instrument:
    """Measure what the layers of a network make of object scale and of image size.

    Every content (object, backdrop, place, light) is drawn on every canvas at every share, so the
    two factors are orthogonal. `gain`, `r2` and `blur_leak` are measured at the training side.
    Values have 95 % basic bootstrap intervals over contents, scenes or series; the fits stay.

    Args:
        canvases: sides in pixels; five from half to twice the training side if None. With one
            alone, what tells of image size is not in the table.
        shares: of the canvas, from small to large; the probe and the series span the same range.
        place: `random`, or `fixed` at the centre.
        n: contents, and pictures of the series; the probe is fitted on 12 n other scenes.

    Raises:
        DataError: if objects, place, shares, canvases, n or seed are not what they can be.
        ModelError: if the network runs on too few of the canvases.
        LayerError: if a layer gives values that are not finite.
    """
    names = check_names(objects, OBJECTS, "object")
    check_names(place, PLACES, "place")
    _check(names, shares, canvases, n, seed)
    device, shares = resolved_device(device), tuple(map(float, shares))
    precision = resolved_precision(precision, device)
    report = progress or (lambda stage, done, total: None)
    with forward(network, points, precision, device) as pooled:
        kept, left_out = _runnable(network, points, pooled, canvases)
        scenes = _all_scenes(network.preprocessing.height, kept, shares, place, names, n, seed)
        seen = {
            kind: _seen(network, points, pooled, drawn, precision, partial(report, kind))
            for kind, drawn in scenes.items()
        }
    table = _table(network, points, seen, kept, shares, seed, partial(report, "regression"))
    return Instrument(table, left_out, kept, shares)


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
    mean, deviation = flat.mean(axis=0), flat.std(axis=0)
    varies = deviation > 10 * np.finfo(np.float64).eps * np.abs(flat).max(axis=0)
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
        fit = nested_ridge(decompose(rest[train], rest[test]), left, groups[train])
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
    scale_read: Float64[np.ndarray, "g k"],
    counts: Float64[np.ndarray, "b g"],
) -> Float64[np.ndarray, " b"]:
    """Slope within series of the scale that is read:  Σ(x - x̄)(y - ȳ) / Σ(x - x̄)²."""
    x = scale_set - scale_set.mean(axis=1, keepdims=True)
    return (counts @ np.sum(x * scale_read, axis=1)) / (counts @ np.sum(x**2, axis=1))


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
    place: str,
    names: Sequence[str],
    n: int,
    seed: int,
) -> dict[str, list[Scene]]:
    """All that the network is shown; no two kinds share a content."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(4).tolist())
    rng = np.random.default_rng([seed, SINGLE])

    def contents(count: int) -> list[Scene]:
        return _contents(count, names, side, shares[-1], place, next(seeds))

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


# --- what the network makes of them --------------------------------------------------------------


def _seen(
    network: Network,
    points: Sequence[ProbePoint],
    pooled: Pooled,
    scenes: Sequence[Scene],
    precision: str,
    report: Report,
) -> Seen:
    parts: list[list[np.ndarray]] = []
    drawn: list[float] = []
    start = time.perf_counter()
    for pictures in _rendered(scenes):
        batch = np.stack([picture.pixels for picture in pictures])
        parts.append(pooled(network.preprocessing.tensor(batch)))
        drawn += [picture.share for picture in pictures]
        report(len(drawn), len(scenes))
    of_layers = map(np.concatenate, zip(*parts, strict=True))
    matrices = dict(zip([point.layer for point in points], of_layers, strict=True))
    n, seconds = len(scenes), time.perf_counter() - start
    features = Extracted(matrices, np.ones(n, dtype=bool), (), precision, n, seconds)
    check_finite(network, features)
    shares = [scene.drawn_as or share for scene, share in zip(scenes, drawn, strict=True)]
    return features, np.array(shares)


def _rendered(scenes: Sequence[Scene]) -> Iterator[list[Picture]]:
    """Pictures in order, in batches of one canvas, drawn in the background, two batches ahead."""
    ahead: deque[list[Future[Picture]]] = deque()
    with ThreadPoolExecutor(n_processors()) as workers:
        for _, of_canvas in groupby(scenes, key=lambda scene: scene.canvas):
            rest = list(of_canvas)
            for start in range(0, len(rest), BATCH):
                batch = rest[start : start + BATCH]
                ahead.append([workers.submit(render, scene) for scene in batch])
                if len(ahead) > 2:
                    yield [picture.result() for picture in ahead.popleft()]
        while ahead:
            yield [picture.result() for picture in ahead.popleft()]


def _runnable(
    network: Network, points: Sequence[ProbePoint], pooled: Pooled, asked: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[LeftOut, ...]]:
    """The canvases on which the network runs, and why it does not on the others."""
    side = network.preprocessing.height
    if reason := _obstacle(network.preprocessing, points, pooled, side):
        raise ModelError(
            f"{network.name} does not run on scenes of {side} x {side} px ({reason}). Give another "
            "--input-size."
        )
    usual = [side if step == 0 else 8 * round(side * 2 ** (step / 2) / 8) for step in OCTAVES]
    found = {c: _obstacle(network.preprocessing, points, pooled, c) for c in sorted(asked or usual)}
    left_out = tuple(LeftOut(f"{canvas} px", reason) for canvas, reason in found.items() if reason)
    kept = tuple(canvas for canvas, reason in found.items() if not reason)
    if len(kept) < min(2, len(found)):
        raise ModelError(
            f"{network.name} runs on {len(kept)} of {len(found)} canvases; on "
            f"{left_out[0].name} it does not ({left_out[0].reason}). Image size needs two: give "
            f"other canvases, or --canvases {side} to set object scale alone."
        )
    return kept, left_out


def _obstacle(
    preprocessing: Preprocessing, points: Sequence[ProbePoint], pooled: Pooled, canvas: int
) -> str:
    """Why the network cannot be used on a canvas; empty if it can."""
    if canvas < SMALLEST_CANVAS:
        return f"objects can be seen on {SMALLEST_CANVAS} px or more"
    blank = np.full((1, canvas, canvas, 3), 128, dtype=np.uint8)
    return refusal(points, pooled, preprocessing.tensor(blank))


# --- from features to the table ------------------------------------------------------------------


def _table(
    network: Network,
    points: Sequence[ProbePoint],
    seen: Mapping[str, Seen],
    canvases: tuple[int, ...],
    shares: tuple[float, ...],
    seed: int,
    report: Report,
) -> pd.DataFrame:
    measures = {kind: measure for kind, (_, measure) in seen.items()}

    def found(point: ProbePoint) -> tuple[ProbePoint, Draws]:
        own = {kind: f.matrices[point.layer].astype(np.float64) for kind, (f, _) in seen.items()}
        factors = _crossed_draws(own["crossed scenes"], canvases, shares, seed)
        return point, factors | _probe_draws(own, measures, seed)

    rows = []
    # One thread a layer: the same numbers on any number of cores.
    with threadpool_limits(1), ThreadPoolExecutor(n_processors()) as workers:
        for done, (point, draws) in enumerate(workers.map(found, points), start=1):
            line = (network.name, network.weights.kind, point.layer, point.alias, point.depth)
            for quantity, (values, n_images) in draws.items():
                most = np.inf if quantity == "gain" else 1.0  # of R²
                low, high = interval(values[0], values[1:], most=most)
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

    def read(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
        predicted = out_of_fold(features, wanted, given, content, folds[content])
        return partial_r2(wanted, *predicted, contents[:, content])

    effects = main_effects(features.reshape(z, s, g, -1), contents)
    draws = {"object_scale_effect": effects[:, 0], "object_scale_partial_r2": read(scale, size)}
    if z > 1:
        draws |= {
            "image_size_effect": effects[:, 1],
            "interaction_effect": effects[:, 2],
            "image_size_partial_r2": read(size, scale),
        }
    return {quantity: (values, n) for quantity, values in draws.items()}


def _probe_draws(
    features: Mapping[str, np.ndarray], shares: Mapping[str, np.ndarray], seed: int
) -> Draws:
    """Gain and R² of the probe, and the leak, with their draws and numbers of images."""
    fitted, series = features["random scenes"], features["series"]
    n, rng = len(fitted), np.random.default_rng([seed, 1])
    counts, folds, each = _draws(n, rng), rng.permutation(n) % FOLDS, np.arange(n)
    fit = nested_ridge(decompose(fitted, series), shares["random scenes"][:, None], each)
    read, was_set = (x.reshape(-1, STEPS) for x in (fit.predictions, shares["series"]))

    def r2(kind: str) -> np.ndarray:
        predicted = out_of_fold(features[kind], shares[kind], np.zeros(n), each, folds)
        return partial_r2(shares[kind], *predicted, counts)

    return {
        "gain": (covariance_gain(was_set, read, _draws(len(read), rng)), len(series)),
        "r2": (r2("random scenes"), n),
        "blur_leak": (r2("blurred scenes"), n),
    }


# --- checks --------------------------------------------------------------------------------------


def _check(
    names: Sequence[str], shares: Sequence[float], canvases: Sequence[int] | None, n: int, seed: int
) -> None:
    if not names:
        raise DataError(f"No object was named. Choose from {', '.join(OBJECTS)}.")
    if n < LEAST:
        raise DataError(
            f"{n} contents were asked for, but at least {LEAST} are needed to fit and to test. "
            f"Give --contents {LEAST} or more; {CONTENTS} show every object before every backdrop."
        )
    if seed < 0:
        raise DataError(f"The seed is {seed}. Give a whole number of 0 or more.")
    if len(shares) < 2 or not (np.diff([0.0, *shares]) > 0).all():
        raise DataError(
            f"Shares of {', '.join(f'{share:g}' for share in shares) or 'none'} of the canvas were "
            "asked for. Give two or more above 0, from small to large."
        )
    for name in names:
        if shares[-1] > largest_share(name):
            raise DataError(
                f"Shares up to {shares[-1]:g} of the canvas were asked for, but the {name} can "
                f"fill {np.floor(100 * largest_share(name)) / 100:g} at most. End with a smaller "
                "share, or leave this object out."
            )
    if canvases is not None and not (len(canvases) and min(canvases) > 0):
        raise DataError(
            f"Canvases of {list(canvases)} px were asked for. Give one or more sides above 0, or "
            "none for half to twice the training side."
        )
