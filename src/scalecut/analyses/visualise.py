"""Pictures that a layer answers to: activation maximisation (`olah2017`).

What is raised is what the probe reads: the pooled features of a layer, along a direction. For one
unit that is the mean of its map over all places, or its number where there is no map. The picture
is not painted pixel by pixel. It is a field of decorrelated colours made of Fourier coefficients
(`mordvintsev2018`), squeezed between black and white, and at each step the network sees it shifted
and resized: noise that works at one place and one scale does not pay.

Shapes: k pictures, d features, c colours, h, w, f frequencies of a row.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Complex64, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from ..errors import DataError, LayerError, ModelError
from ..features.extract import Progress, forward, resolved_device
from ..networks.hooks import pool
from ..networks.network import Network
from ..networks.points import SOFTMAX, ProbePoint
from ..networks.selection import refusal
from ..networks.truncation import stopped

STEPS = 128
SIZE, LEAST_SIZE = 128, 32  # pixels
RATE, SPREAD = 0.1, 0.01  # length of a step; of the coefficients before the first one
DECAY = 1.3  # of the amplitude with the frequency: 1 in photographs; more makes less noise
SCALES = (0.8, 1.25)  # between which the picture is resized
AT_ONCE = 8  # pictures in a pass: memory grows with them
TINY = float(np.finfo(np.float32).tiny)

# Square root of the covariance of red, green and blue in ImageNet, from the code of `olah2017`. Its
# columns are uncorrelated: brightness, red against blue, green against both.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))

Painting: TypeAlias = Float32[Tensor, "k 3 h w"]  # red, green and blue between 0 and 1
Window: TypeAlias = tuple[int, int, int, int]  # top, left, height, width; it may reach over edges


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What was painted, and how far the layer's features go along each direction.

    `starts` are of the noise that every picture begins with, `ends` of the pictures as they are
    here: whole, in 8 bits.
    """

    pictures: UInt8[np.ndarray, "k h w 3"]
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


def pictures(
    network: Network,
    point: ProbePoint,
    directions: Float64[np.ndarray, "k d"],
    *,
    size: int | None = None,
    steps: int = STEPS,
    tv: float = 0.0,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    stage: str = "pictures",
) -> Pictures:
    """The pictures that take the features at `point` as far as they go along each direction.

    All begin with the same noise and are shifted and resized alike. A picture goes round: what
    leaves it on the right comes in on the left. In float32, and computed no further than the point.
    The same seed gives the same bytes on one machine with one number of threads: the last bits of a
    convolution depend on these, and many steps make them visible.

    Args:
        directions: in the units of the features: `axes`, or those of `directions.rcv`.
        size: height and width in pixels; by default 128, or the network's own input if it runs on
            no other.
        tv: total variation: pull of a pixel towards each of its four neighbours, in units of the
            mean pull of the features.

    Raises:
        DataError: if a number is out of its range, or a direction is none of this layer.
        LayerError: if the layer hands on no gradient.
        ModelError: if the network does not run on pictures of this size.
    """
    _check(point, directions, size, steps, tv)
    device = resolved_device(device)
    height, width = _sides(network, point, size, device)
    answer = _answer_of(network, point, device)
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=SPREAD, size=(2, 1, 3, height, width // 2 + 1)).astype(np.float32)
    start = torch.complex(*torch.from_numpy(noise)).to(device)
    windows = _windows(rng, height, width, steps)
    n_done = 0

    def tell(n: int) -> None:
        nonlocal n_done
        n_done += n
        if progress:
            progress(stage, n_done, steps * len(directions))

    rows = torch.from_numpy(directions.astype(np.float32)).to(device)
    made, ends = [], []
    for some in rows.split(AT_ONCE):
        reach = _along(answer, some)
        noise_of_all = start.expand(len(some), -1, -1, -1)
        found = _in_8_bits(_climbed(reach, noise_of_all, width, windows, tv, tell))
        made.append((255 * found).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        ends.append(reach(found).double().cpu().numpy())
    starts = _along(answer, rows)(_in_8_bits(painted(start, width))).double().cpu().numpy()
    return Pictures(np.concatenate(made), starts, np.concatenate(ends))


def painted(spectrum: Complex64[Tensor, "k 3 h f"], width: int) -> Painting:
    """The pictures that coefficients stand for; where they are 0 it is grey.

    Each frequency f has the amplitude 1/f^1.3, and the colours vary together as in photographs.
    """
    height = spectrum.shape[2]
    amplitude = torch.from_numpy(amplitudes(height, width)).to(spectrum.device)
    field = torch.fft.irfft2(spectrum * amplitude, s=(height, width), norm="ortho")
    colours = torch.tensor(COLOURS, device=spectrum.device)
    return torch.einsum("rc,kchw->krhw", colours / colours[:, 0].norm(), field).sigmoid()


def amplitudes(height: int, width: int) -> Float32[np.ndarray, "h f"]:
    """1/f^1.3 of every frequency, that of the constant as of the lowest; the mean square is 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    found = np.maximum(frequency, 1 / max(height, width)) ** -DECAY
    return (found / np.sqrt((found**2).mean())).astype(np.float32)


def seen(painting: Painting, window: Window) -> Painting:
    """What a window shows of the pictures, resized to the size that they have."""
    top, left, height, width = window
    sides = (painting.shape[2], painting.shape[3])
    rolled = painting.roll((-top, -left), dims=(2, 3))
    beyond = (0, max(0, width - sides[1]), 0, max(0, height - sides[0]))
    wide = functional.pad(rolled, beyond, mode="circular")
    return functional.interpolate(wide[:, :, :height, :width], size=sides, mode="bilinear")


def total_variation_slope(painting: Painting) -> Painting:
    """The gradient of the total variation: of |difference|, summed over neighbours."""
    slope = torch.zeros_like(painting)
    for axis in (2, 3):
        sign = (painting - painting.roll(1, axis)).sign()
        slope += sign - sign.roll(-1, axis)
    return slope


# --- inside --------------------------------------------------------------------------------------

_Answer: TypeAlias = Callable[[Painting], Float32[Tensor, "k d"]]
_Reach: TypeAlias = Callable[[Painting], Float32[Tensor, " k"]]


def _answer_of(network: Network, point: ProbePoint, device: str) -> _Answer:
    """The pooled features of pictures, through a copy of the network that stops at the point."""
    module = copy.deepcopy(network.module).eval().requires_grad_(False).float().to(device)
    stop = stopped(module, point)
    own = network.preprocessing
    mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (own.mean, own.std))

    def answer(painting: Tensor) -> Tensor:
        normalised = (painting - mean) / std  # as `Preprocessing.tensor`
        given = normalised.flip(1) if own.channels == "bgr" else normalised
        made = stop.run(module, given.contiguous())
        features = pool(made, point.channel_axis, point.prefix_tokens)
        if painting.requires_grad and not features.requires_grad:
            raise LayerError(
                f"Layer {point.label} of {network.name} hands on no gradient, so that nothing can "
                "be painted for it. Give another layer, or a network that can be trained."
            )
        return features.softmax(dim=1) if point.layer == SOFTMAX else features

    return answer


def _along(answer: _Answer, rows: Float32[Tensor, "k d"]) -> _Reach:
    """How far the features of picture number k go along row number k."""
    return lambda painting: (answer(painting) * rows).sum(dim=1)


def _climbed(
    reach: _Reach,
    start: Complex64[Tensor, "k 3 h f"],
    width: int,
    windows: Sequence[Window],
    tv: float,
    tell: Callable[[int], None],
) -> Painting:
    """Pictures after one step a window, each of them up the slope of its own reach.

    The slope is divided by its mean size, so that steps and `tv` mean the same at every layer.
    """
    spectrum = start.clone().requires_grad_()
    adam = torch.optim.Adam([spectrum], lr=RATE)
    for window in windows:
        with torch.enable_grad():
            painting = painted(spectrum, width)
            picture = painting.detach().requires_grad_()
            (slope,) = torch.autograd.grad(reach(seen(picture, window)).sum(), picture)
        size = slope.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(TINY)
        pull = slope / size - tv * total_variation_slope(picture.detach())
        (spectrum.grad,) = torch.autograd.grad(painting, spectrum, -pull)
        adam.step()
        tell(len(spectrum))
    return painted(spectrum.detach(), width)


def _in_8_bits(painting: Painting) -> Painting:
    return (255 * painting).round() / 255


def _windows(rng: np.random.Generator, height: int, width: int, n: int) -> list[Window]:
    """Anywhere on the picture; the logarithm of the scale is drawn uniformly."""
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
    with forward(network, [point], "float32", device) as pooled:
        reason = refusal([point], pooled, torch.zeros(1, 3, asked, asked))
    if reason and size:
        raise ModelError(
            f"{network.name} does not run on pictures of {size} x {size} px ({reason}). Give a "
            f"larger --size, or none for {SIZE} px or the network's own {own[0]} x {own[1]}."
        )
    return own if reason else (asked, asked)


def _check(
    point: ProbePoint, directions: np.ndarray, size: int | None, steps: int, tv: float
) -> None:
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
            f"A picture of {size} x {size} px is too small for layer {point.label}, which needs "
            f"{least} px at least. Give --size {least} or more."
        )
    if steps < 1:
        raise DataError(f"A picture cannot be painted in {steps} steps. Give --steps 1 or more.")
    if not (math.isfinite(tv) and tv >= 0):
        raise DataError(f"{tv:g} is no weight of the total variation. Give --tv 0 or more.")
