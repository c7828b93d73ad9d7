"""Image size decoded from pure noise: what "scale" is when there is nothing to be seen.

An image of noise has no content whose scale could be decoded. If a layer encodes its side, the
network encodes it by its borders, or by what else changes with the size of a map. The protocol is
ours: that of `graziani2021`, section 4.2, is not known (docs/choices.md).
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt8
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..data.images import MEAN, Image, ImageSet, LeftOut, Progress
from ..data.sample import check_size
from ..errors import (
    DataError,
    LayerError,
    ModelError,
    ScalecutError,
    check_names,
    first_line,
)
from ..features.extract import Computation, Stages, check_finite, forward, provenance
from ..figures import text
from ..figures.analyses import noise_drawing
from ..figures.drawing import page_figure
from ..networks.network import Network
from ..networks.points import ProbePoint
from ..probing.scores import Features, draw_parts, score
from ..report.report import Result
from ..runs import Run, settings_of
from .quantities import layer_summary, read_analysis, skipped_of
from .subject import Pooled, check_unused, subject_of

PADDINGS = ("zeros", "reflect", "circular")
KINDS = ("white", "pink", "blocks")
COLUMNS = [
    *("model", "weights", "noise", "padding", "layer", "alias", "depth"),
    *("n_features", "n_images", "r2", "r2_low", "r2_high"),
]
REPEATS = 10  # random splits, as in the probe
BLOCKS = (64, 32, 16, 8, 4)  # sides in pixels
BATCH = 16  # images at the training side, as many pixels at others
UNUSED = ("fit", "batch_size", "engine", "half", "cluster")  # of a computation, without effect


@dataclass(frozen=True, slots=True, eq=False)
class Noise(Result):
    """R² of the side of images of noise, by kind of noise, padding and layer.

    Args:
        table: the columns of `COLUMNS`; R² is that of ridge on held-out images, with its 95 %
            interval, as in the probe.
        left_out: layers that were skipped.
        provenance: facts of `run.json`.
    """

    NAME = "noise"

    table: pd.DataFrame
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)

    def finding(self) -> str:
        """The best layer and kind of noise for each padding, in one sentence."""
        rows = sorted(self.table.to_dict("records"), key=lambda row: row["r2"])
        best = {row["padding"]: row for row in rows}  # the last one stays
        said = ", ".join(
            f"{text.number(row['r2'])} with {name}{'' if at else ' as padding'} "
            f"({row['noise']}, {row['layer']})"
            for at, (name, row) in enumerate((n, best[n]) for n in PADDINGS if n in best)
        )
        return f"Image size can be decoded from pure noise with R² up to {said}."

    def summary(self) -> dict[str, pd.DataFrame]:
        """R² by layer, one column per kind of noise and padding."""
        named = [f"{row['noise']}, {row['padding']}" for row in self.table.to_dict("records")]
        rows = self.table.assign(quantity=named, value=self.table["r2"])
        title = f"R² of the side of images of noise, {self.table.model.iloc[0]}"
        return {title: layer_summary(rows, {name: name for name in named})}

    def plot(self) -> Figure:
        """R² by layer, one panel per kind of noise, one line per padding."""
        return page_figure(noise_drawing(self.table))


def read_noise(folder: str | Path) -> Noise:
    """The result that `Noise.save` wrote."""
    return noise_of(read_analysis(folder, ("noise",), "invariance --noise white"))


def noise_of(run: Run) -> Noise:
    """The noise of a run."""
    return Noise(run.table("noise", COLUMNS), skipped_of(run), dict(run.facts))


def probe_noise(
    model: str | nn.Module | Network,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    noise: Sequence[Literal["white", "pink", "blocks"]] = ("white",),
    padding: Sequence[Literal["zeros", "reflect", "circular"]] = ("zeros", "reflect", "circular"),
    noise_images: int = 126,
    computation: Computation = Computation(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Noise:
    """Measure how well each layer encodes the side of images of pure noise.

    The network runs at the size of the image, about half to twice the training side; the same
    images and splits serve all paddings.

    Args:
        model, weights, allow_partial, layers, progress: As for `probe`.
        noise: white (pixels independent), pink (amplitude 1/f) or blocks (a mosaic of squares of 4
            to 64 pixels).
        padding: How maps are padded: zeros (the network as it is), reflect or circular.
        noise_images: Images of each kind of noise, evenly many of each size, at least 20.
        computation: How images are computed.
        seed: Random seed of the noise, the splits and the bootstrap.

    Raises:
        DataError: if a kind or padding is not known, or there are too few images.
        ModelError: if the network does not run at one of the sizes.
        LayerError: if another padding is asked for and nothing is padded, or a feature is not
            finite.
    """
    settings = settings_of(locals())
    check_unused(UNUSED, computation)
    stages = Stages(progress)
    with stages("network"):
        subject = subject_of(model, layers, computation, weights, allow_partial, seed)
    asked = {"kinds": noise, "paddings": padding, "n": noise_images, "seed": seed}
    with stages("noise"):
        given = subject.network, subject.points, computation
        table = noise_table(*given, **asked, progress=progress)
    facts = provenance(subject.network, settings, stages)
    return Noise(table, subject.left_out, facts)


def noise_table(
    network: Network,
    points: Sequence[ProbePoint],
    computation: Computation,
    *,
    kinds: Sequence[str] = ("white",),
    paddings: Sequence[str] = PADDINGS,
    n: int = 126,
    sizes: Sequence[int] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The table of `Noise`, one row per kind, padding and layer.

    Args:
        n: images of each kind.
        sizes: sides in pixels; about half to twice the training side by default.
    """
    kinds = check_names(kinds, KINDS, "noise")
    paddings = check_names(paddings, PADDINGS, "padding")
    for name, given, known in (("noise", kinds, KINDS), ("padding", paddings, PADDINGS)):
        if not given:
            raise DataError(f"--{name} is empty. Give one or more of {', '.join(known)}.")
    sides = tuple(sizes or default_sizes(network))
    tables, report = [], Stages(progress).report
    with forward(network, points, computation.by_torch()) as pooled:
        for kind in kinds:
            images = noise_images(kind, n, sides, seed)
            check_size(images)
            features = {}
            for name in paddings:
                stage = report(f"{kind} noise, {name}")
                found = _features(network, points, pooled, images, name, stage)
                check_finite(network, found, " of noise")
                features[name] = Features(tuple(points), (found,))
            parts = draw_parts(images, REPEATS, seed, shuffled=False)
            scores = score(parts, features, ("ridge",), report=report(f"regression, {kind}"))
            tables.append(scores.table)
    table = pd.concat(tables)
    table = table.loc[table["subset"] != MEAN]
    table = table.rename(columns={"subset": "noise", "weights": "padding"})
    table = table.assign(model=network.name, weights=network.weights.kind)
    return pd.DataFrame(table, columns=COLUMNS).reset_index(drop=True)


def default_sizes(network: Network) -> tuple[int, ...]:
    """About nine sides, evenly spaced in octaves, from half to twice the training side.

    Where the training side is a multiple of 32 all are, so that strides divide them and a map that
    wraps around closes up.
    """
    side = max(network.preprocessing.height, network.preprocessing.width)
    step = math.gcd(side, 32)
    wanted = side * 2.0 ** np.linspace(-1, 1, 9)
    return tuple(sorted({max(step, step * round(each / step)) for each in wanted}))


def noise_images(kind: str, n: int, sizes: Sequence[int], seed: int) -> ImageSet:
    """Images of noise and the log2 of their sides.

    Each is a window of its own field, which is as large for small windows as for large ones, so
    that the distribution of the pixels does not depend on the size.
    """
    smallest, make = min(sizes, default=0), _FIELDS[kind]
    if smallest < 1:
        raise DataError(f"The smallest size is {smallest} pixels. Give sizes of 1 or more.")
    extent, images = max(sizes), []
    sides = [sizes[number % len(sizes)] for number in range(n)]
    for number, side in enumerate(sides):
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
        pixels = make(extent + max(BLOCKS), rng)  # room for a mosaic to begin anywhere
        top, left = rng.integers(len(pixels) - side + 1, size=2)
        window = np.ascontiguousarray(pixels[top : top + side, left : left + side])
        images.append(Image(f"{kind} {number}", window))
    names = tuple(image.name for image in images)
    return ImageSet(tuple(images), np.log2(sides), "log2 side", (kind,) * n, group=names)


def _pink(extent: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    """Amplitude 1/f, with a mean of 127.5 and a standard deviation of 42.5 by design."""
    side = 2 * extent  # as opposite edges of the whole field fit together
    across, down = np.fft.rfftfreq(side), np.fft.fftfreq(side)
    frequency = np.hypot(down[:, None], across)
    frequency[0, 0] = np.inf  # the mean
    times = np.where((across == 0) | (across == 0.5), 1, 2)  # a frequency is in the whole spectrum
    amplitude = side / np.sqrt(np.sum(times / frequency**2)) / frequency
    layers = []
    for white in rng.standard_normal((3, side, side)):
        pink = np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=(side, side))
        layers.append(np.clip(127.5 + 42.5 * pink[:extent, :extent], 0, 255))
    return np.stack(layers, axis=-1).round().astype(np.uint8)


def _blocks(extent: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    """Squares of one colour; half of each size is covered by the next smaller."""
    canvas = np.zeros((extent, extent, 3), dtype=np.uint8)
    for block in BLOCKS:
        n = -(-extent // block)
        colours = rng.integers(0, 256, size=(n, n, 3), dtype=np.uint8)
        is_new = (rng.random((n, n)) < 0.5) | (block == max(BLOCKS))
        squares = np.ones((block, block, 1), dtype=np.uint8)
        shown, is_shown = (np.kron(each, squares) for each in (colours, is_new[..., None]))
        canvas = np.where(is_shown[:extent, :extent] > 0, shown[:extent, :extent], canvas)
    return canvas


_FIELDS = {
    "white": lambda extent, rng: rng.integers(0, 256, (extent, extent, 3), dtype=np.uint8),
    "pink": _pink,
    "blocks": _blocks,
}


def _features(
    network: Network,
    points: Sequence[ProbePoint],
    pooled: Pooled,
    images: ImageSet,
    padding: str,
    report: Callable[[int, int], None],
) -> dict[str, Float32[np.ndarray, "n d"]]:
    """One row per image, by layer, with the maps padded in this way."""
    matrices = [np.zeros((len(images), point.channels), np.float32) for point in points]
    done = 0
    with padded(padding) as count:
        for rows, batch in _batches(network, images):
            for matrix, values in zip(matrices, _outputs(network, pooled, batch), strict=True):
                matrix[rows] = values
            if padding != "zeros" and not count.n_padded:
                raise LayerError(
                    f"{network.name} pads none of its maps up to layer {points[-1].layer!r}, so "
                    f"{padding} padding changes nothing. Give --padding zeros, which leaves the "
                    "network as it is."
                )
            done += len(rows)
            report(done, len(images))
    return dict(zip([point.layer for point in points], matrices, strict=True))


def _batches(network: Network, images: ImageSet) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers and tensor of images of one size, fewer at a time where they are large."""
    own = network.preprocessing
    by_side: dict[int, list[int]] = {}
    for number, octaves in enumerate(images.measure):
        by_side.setdefault(round(2**octaves), []).append(number)
    for side, numbers in by_side.items():
        size = max(1, BATCH * own.height * own.width // side**2)
        for start in range(0, len(numbers), size):
            rows = numbers[start : start + size]
            pixels = [np.asarray(images.images[row].decode()) for row in rows]
            yield rows, own.tensor(np.stack(pixels))


def _outputs(network: Network, pooled: Pooled, batch: Tensor) -> list[Float32[np.ndarray, "n d"]]:
    try:
        return pooled(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ScalecutError):
            raise
        side = batch.shape[-1]
        raise ModelError(
            f"{network.name} does not run on {side} x {side} px ({first_line(error)}), but image "
            "size can only be decoded if it varies. Drop --noise, or choose a network that runs at "
            "other sizes."
        ) from error


# --- padding -----------------------------------------------------------------------------------


# The functions of torch that pad maps, with the names of their arguments in order.
_ARGUMENTS = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": (
        *("input", "kernel_size", "stride", "padding"),
        *("ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "pad": ("input", "pad", "mode", "value"),
}


class Padding(TorchFunctionMode):
    """Pads in its own mode whatever would be padded with a constant, and counts it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.n_padded = 0  # calls so far that padded a map

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name not in _ARGUMENTS:
            return func(*args, **kwargs)
        given = dict(zip(_ARGUMENTS[name], args, strict=False)) | kwargs
        borders = _borders(name, given)
        if not any(borders):
            return func(*args, **kwargs)
        self.n_padded += 1
        if self.mode == "zeros":
            return func(*args, **kwargs)
        _check_room(given["input"], borders, self.mode)
        padded_map = functional.pad(given["input"], borders, self.mode)
        if name == "pad":
            return padded_map
        return func(**given | {"input": padded_map, "padding": 0})


def padded(mode: str) -> Padding:
    """Within the block every forward pass pads its maps by `mode` instead of with zeros.

    `zeros` leaves every number as it is: zeros for convolutions, minus infinity for maxima, as
    torch does. The paddings are counted (`.n_padded`); the network is never changed. It holds for
    the thread that entered it.

    Raises:
        DataError: if there is no such mode.
        ModelError: during a forward pass, if a map is too small to be padded so.
    """
    check_names((mode,), PADDINGS, "padding")
    return Padding(mode)


def _borders(name: str, given: dict[str, Any]) -> list[int]:
    """How far the call pads a map with a constant: left, right, top, bottom."""
    if name == "pad":
        borders = [*given["pad"], 0, 0][:4]
        is_constant = given.get("mode", "constant") == "constant"
        is_of_map = given["input"].ndim == 4 and len(given["pad"]) <= 4
        return borders if is_constant and is_of_map and min(borders) >= 0 else []
    padding = given.get("padding", 0)
    if padding == "valid":
        return []
    if padding == "same":
        dilations = _pair(given.get("dilation", 1))
        sides = zip(dilations, given["weight"].shape[2:], strict=True)
        height, width = (dilation * (side - 1) for dilation, side in sides)
        return [width // 2, width - width // 2, height // 2, height - height // 2]
    height, width = _pair(padding)
    return [width, width, height, height]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def _check_room(values: Tensor, borders: Sequence[int], mode: str) -> None:
    """Whether the map is large enough to be continued by itself."""
    height, width = values.shape[-2:]
    most = {"reflect": 1, "circular": 0}[mode]  # a reflection does not repeat the border itself
    sides = zip((width, width, height, height), borders, strict=True)
    if any(border > side - most for side, border in sides):
        raise ModelError(
            f"A map of {height} x {width} is too small for {mode} padding by {max(borders)}. "
            "Give larger images, or drop this padding."
        )
