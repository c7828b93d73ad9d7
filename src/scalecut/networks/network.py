"""A network with the preprocessing that belongs to it, and networks without what it has learned.

Two controls keep the architecture: a randomly initialised network, and one whose weights are
permuted within each tensor.
"""

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.decoding import INTERPOLATIONS
from ..data.measures import Frame
from ..errors import ModelError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the input of a network.

    Args:
        height, width: of the input, in pixels.
        mean, std: subtracted and divided, for red, green, blue between 0 and 1.
        interpolation: nearest, bilinear, bicubic or lanczos; always antialiased.
        shown: share of the shorter side kept by a centre crop (timm's `crop_pct`).
        channels: `rgb`, or `bgr` where the network was trained with that order.
    """

    height: int = 224
    width: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    shown: float = 0.875
    channels: str = "rgb"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ModelError(
                f"No interpolation is named {self.interpolation!r}. Give one of "
                f"{', '.join(INTERPOLATIONS)}."
            )

    def frame(self, fit: str = "squash") -> Frame:
        """The window of an image that this network is shown."""
        return Frame(self.height, self.width, fit, self.shown)

    def tensor(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """Normalised input of the network: (x / 255 - mean) / std."""
        mean, std = (torch.tensor(three)[:, None] for three in (self.mean, self.std))
        table = (torch.arange(256).float().div(255) - mean).div(std).numpy()  # of all pixel values
        x = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
        for channel in range(3):
            place = channel if self.channels == "rgb" else 2 - channel
            for image, plane in zip(images[..., channel], x[:, place], strict=True):
                np.take(table[channel], image, out=plane, mode="clip")  # needs no buffer
        return torch.from_numpy(x)

    def fill(self) -> tuple[int, int, int]:
        """The colour of padding: the one that normalisation maps to zero."""
        red, green, blue = (round(255 * min(max(m, 0.0), 1.0)) for m in self.mean)
        return red, green, blue


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights of a network come from.

    Args:
        kind: `pretrained`, `random` or `permuted`; weights from a file count as pretrained.
        source: the package, file, hub or seed, in words.
        sha256: of all tensors, with their names and shapes: the same however they came.
        missing: tensors of the network that the source lacks; they are set to NaN.
        ignored: tensors of the source that the network has no place for.
        file_sha256: of the file, where there is one.
    """

    kind: str
    source: str
    sha256: str | None = None
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    file_sha256: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network that is ready to be probed."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    weights: Weights
    build: Callable[[], nn.Module] | None = None  # makes it again, with fresh random weights
    prefix_tokens: int | None = None  # given by the user, instead of those found
    points: str = "blocks"  # where it is probed: at blocks, or at modules inside them too
    unknown: tuple[str, ...] = ()  # of its preprocessing, what was neither found nor given
    recipe: Mapping[str, Any] = field(default_factory=dict)  # builds it without files or network

    def example(self) -> Float[Tensor, "1 3 h w"]:
        """A fixed input of the right size: the same noise every time."""
        return self.noise(1)

    def noise(self, n: int) -> Float[Tensor, "n 3 h w"]:
        """Images of noise with a fixed seed."""
        size = (n, self.preprocessing.height, self.preprocessing.width, 3)
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        return self.preprocessing.tensor(noise).to(self.device)

    @property
    def assumed(self) -> tuple[str, ...]:
        """What is assumed of its preprocessing, in a sentence, if it says nothing of it."""
        if not self.unknown:
            return ()
        own = self.preprocessing
        values = {
            "input_size": f"{own.height} x {own.width} px",
            "mean": "the mean of ImageNet",
            "std": "the standard deviation of ImageNet",
            "interpolation": f"{own.interpolation} interpolation",
        }
        said = [f"{values[name]} (--{name.replace('_', '-')})" for name in self.unknown]
        return (f"{self.name} does not say how images are shown to it; taken: {', '.join(said)}",)

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))


def with_preprocessing(
    network: Network,
    *,
    input_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str | None = None,
    prefix_tokens: int | None = None,
    points: str | None = None,
) -> Network:
    """The network with the given values instead of its own."""
    given: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if input_size is not None:
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        changed |= {"height": height, "width": width}
    given["input_size"] = input_size
    return replace(
        network,
        preprocessing=replace(network.preprocessing, **changed),
        unknown=tuple(name for name in network.unknown if given[name] is None),
        points=points or network.points,
        prefix_tokens=network.prefix_tokens if prefix_tokens is None else prefix_tokens,
    )


def randomly_initialised(network: Network, seed: int, batches: Iterable[Tensor] = ()) -> Network:
    """The same architecture with fresh random weights that pass a signal on.

    As initialised, many networks are chains of identities: the last norm of each residual block and
    the layer scales start at (almost) zero. Here these start at one, and batch norms take their
    statistics from `batches`: with the initial ones the activations of deep layers vanish.

    Args:
        seed: of the initialisation.
        batches: inputs as the network takes them, from the images that it will be probed on.
    """
    module = seeded(network.build or (lambda: reinitialised(network.module)), seed)
    _open_branches(module)
    module = module.float().to(network.device).eval()  # as `load_network` does
    take_statistics(module, batches)
    return replace(network, module=module, weights=Weights("random", f"seed {seed}"))


def permuted(network: Network, seed: int) -> Network:
    """The same network with the values of each tensor permuted: its histograms, no structure."""

    def shuffled() -> nn.Module:
        module = copy.deepcopy(network.module)
        with torch.no_grad():
            for parameter in module.parameters():
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        return module

    module = seeded(shuffled, seed).eval()
    return replace(network, module=module, weights=Weights("permuted", f"seed {seed}"))


def order_of(module: nn.Module, example: Float[Tensor, "1 3 h w"]) -> torch.memory_format:
    """The order in memory in which a module takes its batches fastest.

    Channels last, unless the module does not run on it: `Tensor.view` refuses some outputs, and
    some of them of several images only.
    """
    try:
        with torch.inference_mode():
            module(torch.cat([example, example]).contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def ordered(module: nn.Module, example: Float[Tensor, "1 3 h w"]) -> torch.memory_format:
    """Put the weights of a module into `order_of` its batches, in place, and return that order.

    Unlike in `Module.to`, weights of five axes are left as they are, not refused.
    """
    order = order_of(module, example)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=order)
    return order


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The module that `build` makes under a seed; the caller's random state is left as it was.

    The one place where torch is seeded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def reinitialised(module: nn.Module) -> nn.Module:
    """A copy whose layers are reset; parameters that no layer resets keep their spread."""
    fresh = copy.deepcopy(module)
    reset: set[int] = set()
    for layer in fresh.modules():
        reset_parameters = getattr(layer, "reset_parameters", None)
        if callable(reset_parameters):
            reset_parameters()
            reset.update(id(parameter) for parameter in layer.parameters(recurse=False))
    with torch.no_grad():
        for parameter in fresh.parameters():
            is_kept = id(parameter) in reset or not parameter.is_floating_point()
            if not is_kept and not _is_constant(parameter):
                parameter.normal_(0.0, float(parameter.nan_to_num().std()))
    return fresh


def take_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every batch norm to the mean statistics over `batches`."""
    norms = batch_norms(module)
    given = iter(batches if norms else ())
    first = [*itertools.islice(given, 1)]
    order = order_of(module, first[0][:1]) if first else torch.contiguous_format
    with _cumulative(norms), torch.no_grad():
        for batch in itertools.chain(first, given):
            module(batch.contiguous(memory_format=order))


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms that keep running statistics, in order of registration."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def tensors_sha256(module: nn.Module) -> str:
    """A hash of all parameters and buffers, with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


CLOSED = 0.1  # a constant scale below this passes next to nothing on


def _open_branches(module: nn.Module) -> None:
    """Set to one every scale (norm weight, layer scale) that starts near zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            last = name.rpartition(".")[2]
            is_scale = max(parameter.shape, default=1) == parameter.numel()
            is_other = any(word in last for word in ("bias", "beta", "token", "pos"))
            if (
                is_scale
                and not is_other
                and parameter.is_floating_point()
                and _is_constant(parameter)
                and parameter.abs().max() < CLOSED
            ):
                parameter.fill_(1.0)


@contextmanager
def _cumulative(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norms that average over all batches seen, in training mode; nothing else trains."""
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, value in zip(norms, momentum, strict=True):
            norm.momentum = value
            norm.eval()


def _is_constant(parameter: Tensor) -> bool:
    return bool((parameter == parameter.flatten()[0]).all())
