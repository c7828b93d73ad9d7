"""Networks by name, by file or as they are, with their weights and their own preprocessing."""

from dataclasses import replace
from importlib import metadata
from pathlib import Path

from torch import nn

from ..errors import ModelError
from .network import Network, Preprocessing, Weights, randomly_initialised, seeded
from .sources import preprocessing_of_module, source_of
from .weights import PACKAGES, load_file


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
        model: timm name, `hf-hub:ORG/NAME`, `local-dir:DIR`, `torchvision:NAME`,
            `transformers:NAME_OR_DIR`, `open_clip:NAME/WEIGHTS`, `resnet50_v1`, `googlenet_bvlc`,
            or `module.path:factory`, each with arguments after a question mark
            (`NAME?init_values=1e-5`); or a module as it is.
        weights: `pretrained`, `random`, or a safetensors or state-dict file.
        allow_partial: whether a file may lack tensors; layers that need them cannot be probed.
        seed: of random weights.
        preprocessing: instead of the network's own.

    Raises:
        ModelError: if the network is not known or the weights are not found or do not fit, or if
            any of these are given with a `Network`, which has them already.
    """
    if isinstance(model, Network):
        own = {"weights": "pretrained", "allow_partial": False, "preprocessing": None}
        given = {"weights": weights, "allow_partial": allow_partial, "preprocessing": preprocessing}
        for name, value in given.items():
            if value != own[name]:
                raise ModelError(
                    f"{name}={value!r} is given with a Network, which has its weights and "
                    "preprocessing already. Give it to load_network, where the network is named."
                )
        return model
    if isinstance(model, nn.Module):
        model = unwrapped(model)
    source = source_of(model)
    is_random = weights == "random"
    module = seeded(source.fresh if is_random and source.fresh else source.build, seed)
    module = module.float().eval()  # weights in half precision are computed in float32
    own = preprocessing or source.preprocessing or preprocessing_of_module(module)
    random = Weights("random", f"seed {seed}")
    network = Network(
        *(source.name, module, own or Preprocessing(), random, source.fresh),
        unknown=() if own else ("input_size", "mean", "std", "interpolation"),
        recipe=source.recipe,
    )
    if is_random:
        return network if source.fresh else randomly_initialised(network, seed)
    if weights == "pretrained":
        return replace(network, weights=source.pretrained(module, allow_partial))
    return replace(network, weights=load_file(module, source.name, Path(weights), allow_partial))


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
    own = getattr(network.module, "pretrained_cfg", {}) if hub_name(network) else {}
    return str(own["license"]).lower() if own.get("license") else None


def hub_name(network: Network) -> str | None:
    """The name on the Hugging Face hub of weights that came from there."""
    source = network.weights.source
    return source.rpartition(" ")[2] if source.startswith("hub ") else None


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel or `torch.compile`."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(
            module, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner
