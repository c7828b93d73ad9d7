"""Image size read from pure noise: what "scale" is when there is nothing to be seen.

A picture of noise has no content whose scale could be read; if its side can be, layer by layer,
the network tells it by its borders, or by what else changes with the size of a map. The protocol
is ours: that of `graziani2021`, section 4.2, is not known (docs/choices.md).
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..data.images import MEAN, Image, ImageSet
from ..data.read import check_size
from ..errors import DataError, LayerError, ModelError, ScalecutError, check_names
from ..features.extract import Progress, Stages, forward, resolved_device, resolved_precision
from ..networks.network import Network
from ..networks.points import ProbePoint
from ..networks.selection import first_line
from ..probing.scores import Features, draw_parts, score

PADDINGS = ("zeros", "reflect", "circular")
KINDS = ("white", "pink", "blocks")
COLUMNS = [
    *("model", "weights", "noise", "padding", "layer", "alias", "depth"),
    *("n_features", "n_images", "r2", "r2_low", "r2_high"),
]
REPEATS = 10  # random splits, as the probe has them
BLOCKS = (64, 32, 16, 8, 4)  # sides in pixels
BATCH = 16  # pictures at the training side, as many pixels at others


def noise_curve(
    network: Network,
    points: Sequence[ProbePoint],
    *,
    kinds: Sequence[str] = ("white",),
    paddings: Sequence[str] = PADDINGS,
    n: int = 126,
    sizes: Sequence[int] | None = None,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """R² by layer of the side of pictures of noise, in octaves, for every padding of the maps.

    The network runs at the size of the picture; the same pictures and splits serve all paddings.

    Args:
        kinds: `white` (pixels independent), `pink` (amplitude 1/f) or `blocks` (a mosaic of squares
            of 4 to 64 pixels).
        paddings: `zeros` (the network as it is), `reflect` or `circular`.
        n: pictures of each kind, evenly many of each size.
        sizes: sides in pixels; by default about half to twice the training side.

    Returns:
        One row a kind, padding and layer, with the columns of `COLUMNS`; R² is that of ridge on
        held-out pictures, with its 95 % interval, as in the probe.

    Raises:
        DataError: if a kind or padding is not known, or there are too few pictures.
        ModelError: if the network does not run at one of the sizes.
        LayerError: if another padding is asked for and nothing is padded, or an answer is not
            finite.
    """
    kinds = check_names(kinds, KINDS, "noise")
    paddings = check_names(paddings, PADDINGS, "padding")
    sides = tuple(sizes or default_sizes(network))
    precision, device = resolved_precision(precision, device), resolved_device(device)
    tables, report = [], Stages(progress).report
    with forward(network, points, precision, device) as pooled:
        for kind in kinds:
            pictures = noise_images(kind, n, sides, seed)
            check_size(pictures)
            answers = {}
            for padding in paddings:
                told = report(f"{kind} noise, {padding}")
                matrices = _features(network, points, pooled, pictures, padding, told)
                answers[padding] = Features(tuple(points), (matrices,))
            parts = draw_parts(pictures, REPEATS, seed, shuffled=False)
            scores = score(parts, answers, ("ridge",), report=report(f"regression, {kind}"))
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
    """Pictures of noise and the log2 of their sides.

    Each is a window of its own field, which is as large for small windows as for large ones, so
    that the distribution of the pixels does not depend on the size.

    Args:
        kind: one of `KINDS`.
        sizes: sides in pixels, taken in turn.
    """
    smallest, field = min(sizes, default=0), _FIELDS[kind]
    if smallest < 1:
        raise DataError(f"The smallest size is {smallest} pixels. Give sizes of 1 or more.")
    extent, images = max(sizes), []
    sides = [sizes[number % len(sizes)] for number in range(n)]
    for number, side in enumerate(sides):
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
        pixels = field(extent + max(BLOCKS), rng)  # room for a mosaic to begin anywhere
        top, left = rng.integers(len(pixels) - side + 1, size=2)
        window = np.ascontiguousarray(pixels[top : top + side, left : left + side])
        images.append(Image(f"{kind} {number}", window))
    names = tuple(image.name for image in images)
    return ImageSet(tuple(images), np.log2(sides), "log2 side", (kind,) * n, group=names)


def _white(extent: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    return rng.integers(0, 256, size=(extent, extent, 3), dtype=np.uint8)


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
        field = np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=(side, side))
        layers.append(np.clip(127.5 + 42.5 * field[:extent, :extent], 0, 255))
    return np.stack(layers, axis=-1).round().astype(np.uint8)


def _blocks(extent: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    """Squares of one colour; half of each size is painted over by the next smaller."""
    field = np.zeros((extent, extent, 3), dtype=np.uint8)
    for block in BLOCKS:
        n = -(-extent // block)
        colours = rng.integers(0, 256, size=(n, n, 3), dtype=np.uint8)
        is_new = (rng.random((n, n)) < 0.5) | (block == max(BLOCKS))
        painted = [
            each.repeat(block, 0).repeat(block, 1)[:extent, :extent] for each in (colours, is_new)
        ]
        field = np.where(painted[1][..., None], painted[0], field)
    return field


_FIELDS = {"white": _white, "pink": _pink, "blocks": _blocks}


def _features(
    network: Network,
    points: Sequence[ProbePoint],
    pooled: Callable[[Tensor], list[Float32[np.ndarray, "n d"]]],
    pictures: ImageSet,
    padding: str,
    report: Callable[[int, int], None],
) -> dict[str, Float32[np.ndarray, "n d"]]:
    """One row a picture, by layer, with the maps padded in this way."""
    matrices = {p.layer: np.zeros((len(pictures), p.channels), np.float32) for p in points}
    done = 0
    with padded(padding) as count:
        for rows, batch in _batches(network, pictures):
            for matrix, values in zip(
                matrices.values(), _answers(network, pooled, batch), strict=True
            ):
                matrix[rows] = values
            if padding != "zeros" and not count.n_padded:
                raise LayerError(
                    f"{network.name} pads none of its maps up to layer {points[-1].layer!r}, so "
                    f"{padding} padding changes nothing. Ask for the padding zeros alone, which "
                    "leaves the network as it is."
                )
            done += len(rows)
            report(done, len(pictures))
    for layer, matrix in matrices.items():
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if bad.size:
            raise LayerError(
                f"Layer {layer!r} of {network.name} gave values that are not finite for {bad.size} "
                f"of {len(matrix)} pictures of noise. Try precision float32, or choose other "
                "layers."
            )
    return matrices


def _batches(network: Network, pictures: ImageSet) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers and tensor of pictures of one size, fewer at a time where they are large."""
    own = network.preprocessing
    by_side: dict[int, list[int]] = {}
    for number, octaves in enumerate(pictures.measure):
        by_side.setdefault(round(2**octaves), []).append(number)
    for side, numbers in by_side.items():
        size = max(1, BATCH * own.height * own.width // side**2)
        for start in range(0, len(numbers), size):
            rows = numbers[start : start + size]
            pixels = [np.asarray(pictures.images[row].decode()) for row in rows]
            yield rows, own.tensor(np.stack(pixels))


def _answers(
    network: Network,
    pooled: Callable[[Tensor], list[Float32[np.ndarray, "n d"]]],
    batch: Tensor,
) -> list[Float32[np.ndarray, "n d"]]:
    try:
        return pooled(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ScalecutError):
            raise
        side = batch.shape[-1]
        raise ModelError(
            f"{network.name} does not run on {side} x {side} px ({first_line(error)}), but image "
            "size can only be read if it varies. Leave --noise out, or take a network that runs "
            "at other sizes."
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


@contextmanager
def padded(mode: str) -> Iterator[Padding]:
    """Within the block every forward pass pads its maps by `mode` instead of with zeros.

    `zeros` leaves every number as it is: zeros for convolutions, minus infinity for maxima, as
    torch does. Yields what counts the paddings (`.n_padded`); the network is never changed. It
    holds for the thread that entered it.

    Args:
        mode: one of `PADDINGS`.

    Raises:
        DataError: if there is no such mode.
        ModelError: during a forward pass, if a map is too small to be padded so.
    """
    if mode not in PADDINGS:
        raise DataError(f"No padding is named {mode!r}. Give one or more of {', '.join(PADDINGS)}.")
    with Padding(mode) as padding:
        yield padding


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
        height, width = (
            dilation * (side - 1)
            for dilation, side in zip(
                _pair(given.get("dilation", 1)), given["weight"].shape[2:], strict=True
            )
        )
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
            "Give larger images, or leave this padding out."
        )
