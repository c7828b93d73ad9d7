"""Feature visualisation by activation maximisation (`olah2017`): images that drive a layer.

What is maximised is what the probe uses: the pooled features of a layer, along a direction. For one
unit that is the mean of its map over all places, or its value where there is no map. The image is
not optimised pixel by pixel. It is a field of decorrelated colours made of Fourier coefficients
(`mordvintsev2018`), squeezed between black and white, and at each step the network sees it shifted
and resized: noise that works at one place and one scale does not pay.

Shapes: k images, d features, c colours, h, w, f frequencies of a row.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
import pandas as pd
import PIL.Image
import torch
from jaxtyping import Complex64, Float32, Float64, UInt8
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from ..data.images import LeftOut, Progress
from ..errors import DataError, LayerError, ModelError, check_least
from ..features.backends import Backend, resolved_device
from ..features.extract import Computation, Stages, forward, provenance
from ..figures import text
from ..figures.drawing import STYLE
from ..figures.sheet import sheet
from ..networks.hooks import pool
from ..networks.network import Network, tensors_sha256
from ..networks.points import SOFTMAX, ProbePoint
from ..networks.selection import refusal
from ..networks.truncation import stopped
from ..report.report import Result, write_figure
from ..runs import settings_of
from .quantities import read_analysis, skipped_of
from .rcv import Directions, read_directions
from .subject import Subject, subject_of

COLUMNS = [
    *("model", "weights", "layer", "alias", "depth", "unit", "subset", "direction", "start", "end"),
    *("steps", "seed", "picture"),
]
FEW = 6  # units, where none is named
FOLDER = "pictures"
SIGNS = {"larger": 1, "smaller": -1}
STEPS = 128
SIZE, LEAST_SIZE = 128, 32  # pixels
RATE, SPREAD = 0.1, 0.01  # length of a step; of the coefficients before the first one
DECAY = 1.3  # of the amplitude with the frequency: 1 in natural images; more makes less noise
SCALES = (0.8, 1.25)  # between which the image is resized
AT_ONCE = 8  # images in a pass: memory grows with them
TINY = float(np.finfo(np.float32).tiny)

# Square root of the covariance of red, green and blue in ImageNet, from the code of `olah2017`. Its
# columns are uncorrelated: brightness, red against blue, green against both.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))

Batch: TypeAlias = Float32[Tensor, "k 3 h w"]  # red, green and blue between 0 and 1
Window: TypeAlias = tuple[int, int, int, int]  # top, left, height, width; it may reach over edges


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How images are optimised.

    Args:
        size: Side in pixels; 128 by default, or the network's own where it runs on no other.
        steps: Steps from noise to the image, at least 1.
        tv: Weight of the total variation, 0 or more; above 0 images are smoother.
    """

    size: int | None = None
    steps: int = STEPS
    tv: float = 0.0

    def __post_init__(self) -> None:
        check_least(self, steps=1)
        if not (math.isfinite(self.tv) and self.tv >= 0):
            raise DataError(f"--tv must be 0 or more, got {self.tv:g}.")


@dataclass(frozen=True, slots=True, eq=False)
class Visualisations(Result):
    """Images that drive units of layers, or layers along directions of scale.

    Args:
        table: one row per image, the columns of `COLUMNS`: `start` is the activation for the noise
            that every image starts from, `end` that for the image, in 8 bits. For both directions
            they are measured along `larger`.
        images: in the order of the rows.
        left_out: layers that were skipped.
        provenance: facts of `run.json`.
    """

    NAME = "units"

    table: pd.DataFrame
    images: tuple[UInt8[np.ndarray, "h w 3"], ...]
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)

    def finding(self) -> str:
        """How many images there are, and whether each drives its target further than noise does."""
        height, width = self.images[0].shape[:2]
        said = f"{len(self.table)} image{'s' * (len(self.table) > 1)} of {height} x {width} px"
        sign = self.table["direction"].map(lambda name: SIGNS.get(name, 1))
        fails = self.table.loc[sign * (self.table["end"] - self.table["start"]) <= 0]
        if fails.empty:
            return f"{said}: each drives its target further than the noise it started from."
        return (
            f"{said}: {len(fails)} of them, the first {fails.iloc[0]['picture']}, drive their "
            "target no further than the noise they started from."
        )

    def summary(self) -> dict[str, pd.DataFrame]:
        """The activation before and after, one row per image."""
        names = [n for n in ("unit", "subset", "direction") if self.table[n].iloc[0] != ""]
        title = f"Activations, {self.table.model.iloc[0]}"
        return {title: self.table.reindex(columns=["layer", *names, "start", "end"])}

    def plot(self, layer: str = "") -> Figure:
        """The images of one layer, of the first by default.

        Raises:
            LayerError: if there are no images of this layer.
        """
        names = list(dict.fromkeys(self.table["layer"]))
        if layer and layer not in names:
            raise LayerError(f"No image is of layer {layer!r}. Give one of {', '.join(names)}.")
        rows = np.flatnonzero(self.table["layer"] == (layer or names[0]))
        found = self.table.iloc[rows].to_dict("records")
        captions = [(text.unit(row), text.change(row["start"], row["end"])) for row in found]
        first = found[0]
        point = ProbePoint(first["layer"], first["alias"], first["depth"], "", "output", 0)
        return sheet(point.label, first["model"], [self.images[row] for row in rows], captions)

    def write_more(self, folder: Path) -> None:
        """The images, and a figure per layer."""
        for each in ("figures", FOLDER):
            (folder / each).mkdir()
        for image, name in zip(self.images, self.table["picture"], strict=True):
            PIL.Image.fromarray(image).save(folder / name)
        for layer in dict.fromkeys(self.table["layer"]):
            with mpl.rc_context(STYLE):
                figure = self.plot(layer)
            for kind in ("png", "svg"):
                write_figure(figure, folder / "figures" / f"{quote(layer, safe='')}.{kind}")


def read_visualisations(folder: str | Path) -> Visualisations:
    """The result that `Visualisations.save` wrote."""
    run = read_analysis(folder, ("units",), "visualise")
    table = run.table("units", COLUMNS)
    try:
        images = [_read(run.folder / name) for name in table["picture"]]
    except OSError as error:
        raise DataError(
            f"The run {str(folder)!r} lacks an image ({error}). Run `scalecut visualise` again."
        ) from error
    table = table.assign(unit=table["unit"].astype(str))
    return Visualisations(table, tuple(images), skipped_of(run), dict(run.facts))


def _read(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    with PIL.Image.open(file) as image:
        return np.array(image)


def visualise(
    model: str | nn.Module | Network,
    layer: Sequence[str],
    *,
    unit: Sequence[int] = (),
    rcv: str | Path | Directions | None = None,
    optimisation: Optimisation = Optimisation(),
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Visualisations:
    """Show which images drive units of a layer, or its direction of scale.

    All images start from the same noise and are shifted and resized alike. Images wrap around: what
    leaves on the right enters on the left. In float32, and computed no further than the layer.
    The same seed gives the same bytes on one machine with one number of threads: the last bits of a
    convolution depend on these, and many steps make them visible.

    Args:
        model, weights, allow_partial, progress: As for `probe`.
        layer: Names, aliases or globs.
        unit: Numbers from 0; six of each layer, evenly chosen, by default.
        rcv: A run of `scalecut rcv`: visualise its directions, both ways, instead of units.
        optimisation: How images are optimised.
        device: auto, cpu, cuda:0, ...
        seed: Random seed of the noise, the shifts and random weights.

    Raises:
        DataError: if an option is out of its range, or the run holds no directions.
        LayerError: if there is no such layer or unit, or the layer passes on no gradient.
        ModelError: if the directions are of another network, or it does not run at this size.
    """
    settings = settings_of(locals())
    names = (layer,) if isinstance(layer, str) else tuple(layer)
    _check_asked(names, unit, rcv)
    stages = Stages(progress)
    with stages("network"):
        computation = Computation(device=device)
        subject = subject_of(model, names, computation, weights, allow_partial, seed)
    if not subject.points:
        skipped = subject.left_out[0]
        raise LayerError(
            f"No layer can be visualised: {skipped.name} {skipped.reason}. Give another --layer, "
            "or complete weights."
        )
    wanted = _of_units(subject, unit) if rcv is None else _of_directions(subject, rcv)
    rows, images = [], []
    with stages("optimisation"):
        for each in wanted:
            asked = subject.network, each.point, each.directions, optimisation
            how = {"device": device, "seed": seed, "progress": progress}
            found = maximised(*asked, **how, stage=f"optimising {each.point.label}")
            rows += _rows(subject.network, each, found, optimisation.steps, seed)
            images += list(found.images)
    facts = provenance(subject.network, settings, stages)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Visualisations(table, tuple(images), subject.left_out, facts)


def _check_asked(names: Sequence[str], unit: Sequence[int], rcv: object) -> None:
    if len(unit) and rcv is not None:
        raise DataError("Both --unit and --rcv were given. Give one: units, or directions.")
    if not names:
        raise DataError(
            "--layer is empty. Give one or more layers; `scalecut layers MODEL` lists them all."
        )


# --- what is maximised ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """What is visualised of one layer."""

    point: ProbePoint
    names: list[dict[str, str]]  # unit, or subset and direction
    directions: Float64[np.ndarray, "k d"]


def _of_units(subject: Subject, units: Sequence[int]) -> list[_Wanted]:
    """The units that are named, of every layer; else a few, evenly chosen."""
    wanted = []
    for point in subject.points:
        few = np.linspace(0, point.channels - 1, min(FEW, point.channels)).round().astype(int)
        some = list(dict.fromkeys(units)) or few.tolist()
        names = [{"unit": str(number), "subset": "", "direction": ""} for number in some]
        wanted.append(_Wanted(point, names, axes(point, some)))
    return wanted


def _of_directions(subject: Subject, given: str | Path | Directions) -> list[_Wanted]:
    """Both ways along the direction of every subset, of every layer."""
    found = given if isinstance(given, Directions) else read_directions(given)
    run = "given" if isinstance(given, Directions) else f"of {str(given)!r}"
    _check_network(found, run, subject.network)
    wanted = []
    for point in subject.points:
        of_layer = {s: v[point.layer] for s, v in found.vectors.items() if point.layer in v}
        if not of_layer:
            layers = list(dict.fromkeys(layer for v in found.vectors.values() for layer in v))
            raise LayerError(
                f"The directions {run} are of {len(layers)} layers, from {layers[0]} to "
                f"{layers[-1]}, not of {point.label}. Give --layer one of these, or run `scalecut "
                "rcv` with that layer."
            )
        names = [{"unit": "", "subset": s, "direction": way} for s in of_layer for way in SIGNS]
        rows = [sign * vector for vector in of_layer.values() for sign in SIGNS.values()]
        wanted.append(_Wanted(point, names, np.array(rows)))
    return wanted


def _check_network(found: Directions, run: str, network: Network) -> None:
    """Refuse directions of another network, or of other weights."""
    facts = found.provenance
    if facts.get("model") != network.name:
        raise ModelError(
            f"The directions {run} are of {facts.get('model')}, not of {network.name}. Give --rcv "
            "a run of this network."
        )
    if facts.get("tensors_sha256") != tensors_sha256(network.module):
        raise ModelError(
            f"The directions {run} are of {network.name} with other weights than "
            f"{network.weights.source}. Give the same --weights, and --seed where they are random."
        )


def _rows(
    network: Network, wanted: _Wanted, found: "Maxima", steps: int, seed: int
) -> list[dict[str, Any]]:
    """One row per image. For both directions positions along `larger` are given."""
    point = wanted.point
    same = {"model": network.name, "weights": network.weights.kind, **point.name_facts}
    rows = []
    for name, start, end in zip(wanted.names, found.starts, found.ends, strict=True):
        sign = SIGNS.get(name["direction"], 1)
        # escaped, so that no two layers or subsets become one
        parts = [quote(each, safe="") for each in (point.layer, *name.values()) if each]
        places = {"start": sign * start, "end": sign * end, "steps": steps, "seed": seed}
        rows.append(same | name | places | {"picture": f"{FOLDER}/{'-'.join(parts)}.png"})
    return rows


# --- activation maximisation ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Maxima:
    """Optimised images, and the activations along each direction.

    `starts` are of the noise that every image starts from, `ends` of the images as they are here:
    whole, in 8 bits.
    """

    images: UInt8[np.ndarray, "k h w 3"]
    starts: Float64[np.ndarray, " k"]
    ends: Float64[np.ndarray, " k"]


def axes(point: ProbePoint, units: Sequence[int]) -> Float64[np.ndarray, "k d"]:
    """The directions of single units.

    Raises:
        LayerError: if the layer has no such unit.
    """
    for unit in units:
        if not 0 <= unit < point.channels:
            raise LayerError(
                f"There is no unit {unit}: layer {point.label} has {point.channels} units, from 0 "
                f"to {point.channels - 1}. Give some of these."
            )
    found = np.zeros((len(units), point.channels))
    found[range(len(units)), units] = 1
    return found


def maximised(
    network: Network,
    point: ProbePoint,
    directions: Float64[np.ndarray, "k d"],
    optimisation: Optimisation = Optimisation(),
    *,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    stage: str = "optimising",
) -> Maxima:
    """The images that take the features at `point` as far as possible along each direction.

    Args:
        directions: in the units of the features: `axes`, or those of `rcv`.

    Raises:
        DataError: if a direction is none of this layer, or the size is too small for it.
        LayerError: if the layer passes on no gradient.
        ModelError: if the network does not run on images of this size.
    """
    _check(point, directions, optimisation.size)
    device, steps = resolved_device(device), optimisation.steps
    height, width = _sides(network, point, optimisation.size, device)
    features = _features_of(network, point, device)
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=SPREAD, size=(2, 1, 3, height, width // 2 + 1)).astype(np.float32)
    start = torch.complex(*torch.from_numpy(noise)).to(device)
    windows = _windows(rng, height, width, steps)
    n_done = 0

    def count(n: int) -> None:
        nonlocal n_done
        n_done += n
        if progress:
            progress(stage, n_done, steps * len(directions))

    rows = torch.from_numpy(directions.astype(np.float32)).to(device)
    made, ends = [], []
    for some in rows.split(AT_ONCE):
        activation = _along(features, some)
        noise_of_all = start.expand(len(some), -1, -1, -1)
        climbed = _climbed(activation, noise_of_all, width, windows, optimisation.tv, count)
        found = _in_8_bits(climbed)
        made.append((255 * found).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        ends.append(activation(found).double().cpu().numpy())
    starts = _along(features, rows)(_in_8_bits(rendered(start, width))).double().cpu().numpy()
    return Maxima(np.concatenate(made), starts, np.concatenate(ends))


def rendered(spectrum: Complex64[Tensor, "k 3 h f"], width: int) -> Batch:
    """The images of Fourier coefficients; grey where they are 0.

    Each frequency f has the amplitude 1/f^1.3, and the colours vary together as in natural images.
    """
    height = spectrum.shape[2]
    amplitude = torch.from_numpy(amplitudes(height, width)).to(spectrum.device)
    smooth = torch.fft.irfft2(spectrum * amplitude, s=(height, width), norm="ortho")
    colours = torch.tensor(COLOURS, device=spectrum.device)
    return torch.einsum("rc,kchw->krhw", colours / colours[:, 0].norm(), smooth).sigmoid()


def amplitudes(height: int, width: int) -> Float32[np.ndarray, "h f"]:
    """1/f^1.3 of every frequency, that of the constant as of the lowest; the mean square is 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    found = np.maximum(frequency, 1 / max(height, width)) ** -DECAY
    return (found / np.sqrt((found**2).mean())).astype(np.float32)


def seen(images: Batch, window: Window) -> Batch:
    """A window of the images, resized to their size."""
    top, left, height, width = window
    sides = (images.shape[2], images.shape[3])
    rolled = images.roll((-top, -left), dims=(2, 3))
    beyond = (0, max(0, width - sides[1]), 0, max(0, height - sides[0]))
    wide = functional.pad(rolled, beyond, mode="circular")
    return functional.interpolate(wide[:, :, :height, :width], size=sides, mode="bilinear")


def total_variation_slope(images: Batch) -> Batch:
    """The gradient of the total variation: of |difference|, summed over neighbours."""
    slope = torch.zeros_like(images)
    for axis in (2, 3):
        sign = (images - images.roll(1, axis)).sign()
        slope += sign - sign.roll(-1, axis)
    return slope


_Features: TypeAlias = Callable[[Batch], Float32[Tensor, "k d"]]
_Activation: TypeAlias = Callable[[Batch], Float32[Tensor, " k"]]


def _features_of(network: Network, point: ProbePoint, device: str) -> _Features:
    """The pooled features of images, by a copy of the network that stops at the point."""
    module = copy.deepcopy(network.module).eval().requires_grad_(False).float().to(device)
    stop = stopped(module, point)
    own = network.preprocessing
    mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (own.mean, own.std))

    def pooled(images: Tensor) -> Tensor:
        normalised = (images - mean) / std  # as `Preprocessing.tensor`
        given = normalised.flip(1) if own.channels == "bgr" else normalised
        made = stop.run(module, given.contiguous())
        features = pool(made, point.channel_axis, point.prefix_tokens)
        if images.requires_grad and not features.requires_grad:
            raise LayerError(
                f"Layer {point.label} of {network.name} passes on no gradient, so it cannot be "
                "visualised. Give another layer, or a network that can be trained."
            )
        return features.softmax(dim=1) if point.layer == SOFTMAX else features

    return pooled


def _along(features: _Features, rows: Float32[Tensor, "k d"]) -> _Activation:
    """The activation: how far the features of image k go along row k."""
    return lambda images: (features(images) * rows).sum(dim=1)


def _climbed(
    activation: _Activation,
    start: Complex64[Tensor, "k 3 h f"],
    width: int,
    windows: Sequence[Window],
    tv: float,
    count: Callable[[int], None],
) -> Batch:
    """The images after one step per window, each up the slope of its own activation.

    The slope is divided by its mean size, so that steps and `tv` mean the same at every layer.
    """
    spectrum = start.clone().requires_grad_()
    adam = torch.optim.Adam([spectrum], lr=RATE)
    for window in windows:
        with torch.enable_grad():
            images = rendered(spectrum, width)
            current = images.detach().requires_grad_()
            (slope,) = torch.autograd.grad(activation(seen(current, window)).sum(), current)
        size = slope.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)
        pull = slope / size - tv * total_variation_slope(current.detach())
        (spectrum.grad,) = torch.autograd.grad(images, spectrum, -pull)
        adam.step()
        count(len(spectrum))
    return rendered(spectrum.detach(), width)


def _in_8_bits(images: Batch) -> Batch:
    return (255 * images).round() / 255


def _windows(rng: np.random.Generator, height: int, width: int, n: int) -> list[Window]:
    """Anywhere on the image; the logarithm of the scale is drawn uniformly."""
    scales = np.exp(rng.uniform(*np.log(SCALES), size=n))
    corners = rng.integers(0, (height, width), size=(n, 2))
    return [
        (int(top), int(left), round(height / scale), round(width / scale))
        for (top, left), scale in zip(corners, scales, strict=True)
    ]


def _sides(network: Network, point: ProbePoint, size: int | None, device: str) -> tuple[int, int]:
    """Height and width on which the network runs as far as the point."""
    own = (network.preprocessing.height, network.preprocessing.width)
    asked = size or SIZE
    if own == (asked, asked):
        return own
    with forward(network, [point], Backend("torch", "float32", device)) as pooled:
        reason = refusal([point], pooled, torch.zeros(1, 3, asked, asked))
    if reason and size:
        raise ModelError(
            f"{network.name} does not run on images of {size} x {size} px ({reason}). Give a "
            f"larger --size, or none for {SIZE} px or the network's own {own[0]} x {own[1]}."
        )
    return own if reason else (asked, asked)


def _check(point: ProbePoint, directions: np.ndarray, size: int | None) -> None:
    if directions.shape[1:] != (point.channels,):
        raise DataError(
            f"The directions have {directions.shape[-1]} values, but layer {point.label} has "
            f"{point.channels} units. Give directions that were fitted there."
        )
    if not len(directions) or not np.isfinite(directions).all() or not directions.any(axis=1).all():
        raise DataError(
            f"Of {len(directions)} directions at layer {point.label} one is zero or not finite, or "
            "there is none. Give directions along which the features vary."
        )
    least = max(LEAST_SIZE, point.stride or 0)
    if size is not None and size < least:
        raise DataError(
            f"An image of {size} x {size} px is too small for layer {point.label}, which needs at "
            f"least {least} px. Give --size {least} or more."
        )
