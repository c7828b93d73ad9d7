"""Verification of a cut: its features are those of the whole network, and what it saves.

The maps of the same images are compared in float32, without compilation. Then the pooled features
are computed a second time, image by image, from the maps of the whole network, and by a rule that
shares nothing with the probe: the channels are the axis along which a weight of the last layer
acts, the patches are the tokens that make a grid. Everything is measured on copies, so neither
network is changed. The head of a cut network is ignored.
"""

import copy
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from matplotlib.ticker import EngFormatter
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import DataError, LayerError
from ..networks.axes import MOST_PREFIX_TOKENS
from ..networks.hooks import tensors_in, watch
from ..networks.network import Network, ordered
from ..networks.points import ProbePoint
from ..networks.truncation import trial_of
from .network import CutNetwork

N_IMAGES = 4
TOLERANCE = 1e-4  # of the largest feature; float32 in another order of sums stays below 1e-5
ALMOST_ALL = 0.99  # of a change, in one channel
N_NAMED = 3  # parameters named in a sentence


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of running a network.

    Args:
        parameters, buffers: their numbers of elements; shared ones count once.
        macs: multiply-accumulates of convolutions and matrix products, for one image.
        seconds: latency of one batch, the median over the pairs.
        peak_bytes: peak memory of weights and activations together, for one image.
    """

    parameters: int
    buffers: int
    macs: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Verification:
    """The features of a cut network compared with those of the whole, and the costs of both.

    Args:
        model: name of the whole network.
        layer: label of the point at which it was cut.
        way: `passed on` or `stopped`, as in `CutNetwork`.
        n_images: number of images on which features were compared.
        largest_difference: absolute difference of maps; 0 if all are equal bit by bit.
        features_scale: the largest absolute value in the maps of the whole network.
        whole, cut: costs of the two networks.
        seconds_ratio: latency of the cut network / of the whole, the median over the pairs.
        n_pairs, batch_size: of the measurement of latency.
        unreached: parameters of the cut network without a gradient in training mode.
    """

    model: str
    layer: str
    way: str
    n_images: int
    largest_difference: float
    features_scale: float
    whole: Costs
    cut: Costs
    seconds_ratio: float
    n_pairs: int
    batch_size: int
    unreached: tuple[str, ...]

    @property
    def saves_nothing(self) -> bool:
        """Whether the cut reduces neither parameters nor multiply-accumulates."""
        return self.cut.parameters >= self.whole.parameters and self.cut.macs >= self.whole.macs

    def lines(self) -> list[str]:
        """What was verified and what is saved, in short sentences."""
        cut, whole = self.cut, self.whole
        same = f"largest difference {self.largest_difference:.1e} of {self.features_scale:.2g}"
        if self.largest_difference == 0:
            same = "exactly equal"
        lines = [
            f"Same features as the whole network: {same} ({self.n_images} images, float32).",
            f"Parameters {_share(cut.parameters, whole.parameters)}, "
            f"multiply-accumulates {_share(cut.macs, whole.macs)}.",
            f"{100 * self.seconds_ratio:.0f} % of its latency, {_shown(whole.seconds, 's')} per "
            f"batch of {self.batch_size} (medians of {self.n_pairs} pairs), "
            f"peak memory {_part(cut.peak_bytes, whole.peak_bytes, 'B')} per image.",
            "All parameters receive a gradient.",
        ]
        if self.unreached:
            named, n = ", ".join(self.unreached[:N_NAMED]), len(self.unreached)
            rest = f" and {n - N_NAMED} more" if n > N_NAMED else ""
            lines[-1] = f"Parameters without a gradient: {n} ({named}{rest})."
        if self.saves_nothing:
            lines.append(
                "This cut saves nothing: it has the parameters and multiply-accumulates of the "
                "whole network. Cut at an earlier layer."
            )
        return lines


def verify_cut(
    whole: Network, cut: CutNetwork, *, pairs: int = 5, batch_size: int = 4
) -> Verification:
    """Compare a cut network with the network that it was cut from.

    Args:
        whole: the network before the cut.
        cut: the network after the cut, with the same weights.
        pairs: pairs of passes, whole and cut in turn, for the latency, at least 1.
        batch_size: images per pass, at least 1.

    Raises:
        LayerError: if the cut network does not give the maps or features of the whole network.
        DataError: if there is no pair, or no image in a batch.
    """
    if min(pairs, batch_size) < 1:
        raise DataError(
            f"Latency needs at least 1 pair of batches of at least 1 image, got pairs={pairs} and "
            f"batch_size={batch_size}."
        )
    full, short = copy.deepcopy((whole.module, cut))
    short.reset_classifier(0)
    for module in (full, short):
        module.eval().requires_grad_(True)
    images = whole.noise(N_IMAGES)  # the first is the network's example
    name = f"{whole.name} cut after {cut.point.label}"
    with torch.no_grad():
        maps = tensors_in(short.forward_features(images))
        difference, scale, numbers = _compared(maps, _given(full, cut.point, images), name)
        again = _pooled_again(full, short, images, numbers, whole.prefix_tokens)
        _check_features(short(images), again, name)
    seconds = _seconds(full, short, whole.noise(batch_size), pairs)
    of_whole, of_cut = (
        _costs(module, images[:1], median)
        for module, median in zip((full, short), np.median(seconds, axis=0).tolist(), strict=True)
    )
    return Verification(
        model=whole.name,
        layer=cut.point.label,
        way=cut.way,
        n_images=N_IMAGES,
        largest_difference=difference,
        features_scale=scale,
        whole=of_whole,
        cut=of_cut,
        seconds_ratio=float(np.median(seconds[:, 1] / seconds[:, 0])),
        n_pairs=pairs,
        batch_size=batch_size,
        unreached=trial_of(short, "forward", images).unreached,
    )


# --- the same features ---------------------------------------------------------------------------


def _given(full: nn.Module, point: ProbePoint, images: Float32[Tensor, "n 3 h w"]) -> list[Tensor]:
    """Copies of the tensors that the point's module gives (or is given) at its last call."""
    found: list[Tensor] = []

    def keep(value: object) -> None:
        found[:] = [tensor.clone() for tensor in tensors_in(value)]

    with watch(full.get_submodule(point.module), point.side, keep):
        full(images)
    return found


def _compared(
    maps: Sequence[Tensor], given: Sequence[Tensor], name: str
) -> tuple[float, float, list[int]]:
    """The largest difference of the maps from those of the whole network, and their scale.

    Also the positions of the maps in what the module gives: a cut may take some of its tensors,
    with the images moved to the first axis.
    """
    largest = scale = 0.0
    numbers: list[int] = []
    for each in maps:
        fitting = [
            ((each - moved).abs().max().item(), moved.abs().max().item(), number)
            for number, other in enumerate(given)
            for moved in (other.movedim(axis, 0) for axis in range(other.ndim))
            if moved.shape == each.shape and len(moved) == N_IMAGES
        ]
        if not fitting:
            shapes = " or ".join(str(tuple(other.shape)) for other in given)
            raise LayerError(
                f"{name} gives a map of shape {tuple(each.shape)}, but the whole network gives "
                f"{shapes} there. Give the network that it was cut from."
            )
        nearest = min(fitting)
        largest, scale = max(largest, nearest[0]), max(scale, nearest[1])
        numbers.append(nearest[2])
    _check_close(largest, scale, name)
    return largest, scale, numbers


def _check_features(found: Float[Tensor, "n c"], expected: Float[Tensor, "n d"], name: str) -> None:
    """Refuse features that are not those of the second rule."""
    if found.shape != expected.shape:
        raise LayerError(
            f"{name} gives {found.shape[1]} features, but the map of the whole network has "
            f"{expected.shape[1]} channels there, by the axis on which its weights act. Give the "
            "network that it was cut from, or cut at another layer."
        )
    _check_close((found - expected).abs().max().item(), expected.abs().max().item(), name)


def _check_close(largest: float, scale: float, name: str) -> None:
    if not np.isfinite(largest):
        raise LayerError(
            f"{name} gives features that are not finite, so they cannot be compared. Cut at an "
            "earlier layer, or give complete weights."
        )
    if largest > TOLERANCE * scale:
        raise LayerError(
            f"{name} gives other features than the whole network: the largest difference is "
            f"{largest:.1e}, but at most {TOLERANCE * scale:.1e} is allowed. Cut the network "
            "again, and save the cut before training it."
        )


# --- pooling by a second rule --------------------------------------------------------------------


def _pooled_again(
    full: nn.Module,
    short: CutNetwork,
    images: Float32[Tensor, "n 3 h w"],
    numbers: Sequence[int],
    prefix_tokens: int | None,
) -> Float[Tensor, "n c"]:
    """The features of the whole network, one image at a time.

    Args:
        numbers: positions of the maps in what the module gives.
        prefix_tokens: as the user gave it; None to count them.
    """
    point, shape = short.point, (images.shape[2], images.shape[3])
    channels = [_acted_on(full, point, images[:1], number) for number in numbers]
    rows = []
    for image in images.split(1):
        given = _given(full, point, image)
        tokens, means = [], []
        for number, axis in zip(numbers, channels, strict=True):
            places = given[number].movedim(axis, -1).flatten(0, -2)  # of one image
            n_prefix = 0
            if given[number].ndim == 3 and len(places) > 1:
                n_prefix = _prefix(len(places), shape) if prefix_tokens is None else prefix_tokens
            tokens.append(places[0])
            means.append(places[n_prefix:].mean(dim=0))
        parts = {"mean": means, "cls": tokens, "both": tokens + means}[short.pooling]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _acted_on(
    full: nn.Module, point: ProbePoint, image: Float32[Tensor, "1 3 h w"], number: int
) -> int:
    """The axis of the channels: the one along which the last layer's weights act.

    One entry of its bias, or one row of its weight, is changed. That changes one channel, at every
    place. Where no layer acts on one channel, the axis of the point is taken.
    """
    before = _given(full, point, image)[number]
    longer = [k for k, length in enumerate(before.shape) if length > 1]
    if len(longer) == 1:
        return longer[0]
    trial, last = copy.deepcopy(full), _last_weighted(full, point, image)
    if last is not None:
        own = dict(trial.get_submodule(last).named_parameters(recurse=False))
        changed = min(own.values(), key=lambda parameter: parameter.ndim)
        row = len(changed) // 2
        noise = torch.rand(changed[row].shape, generator=torch.Generator().manual_seed(0))
        changed[row] += (1 + changed.abs().max()) * (1 + noise.to(changed))
        change = (_given(trial, point, image)[number] - before).abs()
        shares = [
            (change.sum(dim=[j for j in range(change.ndim) if j != k]).max() / change.sum()).item()
            for k in range(change.ndim)
        ]
        alone = [k for k in longer if shares[k] > ALMOST_ALL]
        if len(alone) == 1:
            return alone[0]
    order = [point.batch_axis, *(k for k in range(before.ndim) if k != point.batch_axis)]
    return order[point.channel_axis]


def _last_weighted(
    full: nn.Module, point: ProbePoint, image: Float32[Tensor, "1 3 h w"]
) -> str | None:
    """The name of the last layer with parameters that runs before the point."""
    run: list[str] = []
    before: list[str] = []

    def reach(_: object) -> None:
        before[:] = run

    with ExitStack() as undo:
        for name, module in full.named_modules():
            if any(parameter.ndim for parameter in module.parameters(recurse=False)):
                undo.enter_context(watch(module, "output", lambda _, name=name: run.append(name)))
        undo.enter_context(watch(full.get_submodule(point.module), point.side, reach))
        full(image)
    return before[-1] if before else None


def _prefix(n_tokens: int, shape: tuple[int, int]) -> int:
    """How many tokens are to be skipped so that the others make a grid of the image's shape."""
    height, width = shape
    grids = {
        (height + more) // stride * ((width + more) // stride)
        for stride in range(1, 1 + min(shape))
        for more in (0, stride - 1)  # rounded down, or up
    }
    fitting = (n for n in range(min(n_tokens, 1 + MOST_PREFIX_TOKENS)) if n_tokens - n in grids)
    return next(fitting, 0)


# --- what they cost ------------------------------------------------------------------------------


def _costs(module: nn.Module, image: Float32[Tensor, "1 3 h w"], seconds: float) -> Costs:
    """With gradients for the counter, which misses fused attention; memory without workspaces."""
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter:
        module(image)
    with torch.no_grad(), _Peak(module) as peak:
        module(image)
    return Costs(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        buffers=sum(buffer.numel() for buffer in module.buffers()),
        macs=counter.get_total_flops() // 2,
        seconds=seconds,
        peak_bytes=peak.most,
    )


class _Peak(TorchDispatchMode):
    """The largest memory of a module's tensors and of what operations give, while it is held."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in (*module.parameters(), *module.buffers()):
            self._count(tensor)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen[storage] = size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = {id(leaf.untyped_storage()) for leaf in leaves}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._count(leaf)
        return made


def _seconds(
    full: nn.Module, short: nn.Module, batch: Float32[Tensor, "n 3 h w"], pairs: int
) -> Float64[np.ndarray, "pairs 2"]:
    """Latency of whole and cut in turn, so that other load on the machine slows both."""
    both = [copy.deepcopy(module) for module in (full, short)]
    orders = [ordered(module, batch[:1]) for module in both]
    given = [batch.contiguous(memory_format=order) for order in orders]
    with torch.inference_mode():
        passes = [[*map(_seconds_of, both, given)] for _ in range(1 + pairs)]
    return np.array(passes[1:])  # the first warms up


def _seconds_of(module: nn.Module, batch: Float32[Tensor, "n 3 h w"]) -> float:
    start = time.perf_counter()
    module(batch)
    if batch.device.type != "cpu":
        torch.accelerator.synchronize(batch.device)
    return time.perf_counter() - start


# --- numbers in sentences ------------------------------------------------------------------------


def _part(cut: int | float, whole: int | float, unit: str = "") -> str:
    """Both numbers with three digits and an SI prefix."""
    return f"{_shown(cut, unit)} of {_shown(whole, unit)}"


def _shown(n: int | float, unit: str = "") -> str:
    return EngFormatter(unit)(float(f"{n:.3g}"))


def _share(cut: int, whole: int) -> str:
    return f"{_part(cut, whole)} ({100 * cut / whole:.0f} %)" if whole else "0"
