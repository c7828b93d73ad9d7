"""The layers to probe: those that are asked for and do not depend on missing weights."""

import copy
import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..data.images import LeftOut
from ..errors import OF_NETWORKS, LayerError, ModelError, ScalecutError, first_line, several
from .hooks import pooled_outputs
from .layers import matches, probe_points, select_layers
from .load import load_network
from .network import Network, with_preprocessing
from .points import ProbePoint

COLUMNS = [
    *("layer", "alias", "depth", "channels", "stride", "receptive_field", "parameters", "macs"),
]


def chosen_points(
    network: Network,
    layers: Sequence[str] = (),
    every: tuple[list[ProbePoint], dict[str, str]] | None = None,
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """The points to probe, and the layers that cannot be, with the reason.

    Args:
        every: what `every_point` found, if it is known.

    Raises:
        LayerError: if a name fits no layer, or only layers whose output cannot be read.
        ModelError: if the network does not run at its input size.
    """
    layers = several(layers)
    points, refused = every or every_point(network, layers)
    if not points:
        name = next(iter(refused))
        raise LayerError(f"Layer {name!r} of {network.name} {refused[name]}.")
    for pattern in layers:
        fits = fnmatch.filter(refused, pattern)
        if fits and not any(matches(point, pattern) for point in points):
            raise LayerError(f"Layer {fits[0]!r} of {network.name} {refused[fits[0]]}.")
    wanted = [n for n in refused if not layers or any(fnmatch.fnmatchcase(n, p) for p in layers)]
    fine, left_out = computable(network, select_layers(points, layers) if layers else points)
    return fine, (*(LeftOut(name, refused[name]) for name in wanted), *left_out)


def list_layers(
    model: str | nn.Module | Network,
    *,
    weights: str | Path = "random",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    input_size: int | tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
    points: Literal["blocks", "modules"] = "blocks",
) -> pd.DataFrame:
    """List the layers of a network, in order of execution.

    Args:
        model: a timm name (resnet50), hf-hub:ORG/NAME, module.path:factory, or another source that
            `scalecut doctor` lists.
        weights: pretrained, random, or a safetensors or state-dict file.
        allow_partial: Accept a weights file that lacks tensors; layers that need them are skipped.
        layers: Names, aliases or globs; all probe points by default.
        input_size: Pixels, 224 or 224x320 (height x width), instead of the network's own.
        prefix_tokens: Tokens before the patches (class token, registers), instead of those found.
        points: Where layers are probed: at the ends of blocks, or at modules inside them too.

    Returns:
        One row per layer: `layer, alias, depth, channels, stride, receptive_field, parameters,
        macs`; stride and receptive field in input pixels, multiply-accumulates for one image.

    Raises:
        LayerError: if a name fits no layer.
        ModelError: if the network is not known or does not run at its input size.
    """
    is_loaded = isinstance(model, Network)  # random weights are the default, to load none
    network = with_preprocessing(
        model if is_loaded else load_network(model, weights=weights, allow_partial=allow_partial),
        input_size=input_size,
        prefix_tokens=prefix_tokens,
        points=points,
    )
    found, _ = chosen_points(network, layers)
    rows = [{name: getattr(point, name) for name in COLUMNS} for point in found]
    whole = {"stride": "Int64", "receptive_field": "Int64"}  # missing behind global pooling
    return pd.DataFrame(rows, columns=COLUMNS).astype(whole)


def every_point(
    network: Network, layers: Sequence[str] = ()
) -> tuple[list[ProbePoint], dict[str, str]]:
    """All points, and why other layers are none, whether they depend on missing weights or not.

    Args:
        layers: names of modules to read besides.

    Raises:
        ModelError: if the network does not run at its input size.
    """
    modules = {name for name, _ in network.module.named_modules() if name}
    also = [name for name in layers if name in modules]
    try:
        return probe_points(
            *(network.module, network.example(), also, network.prefix_tokens),
            inside=network.points == "modules",
        )
    except OF_NETWORKS as error:
        if isinstance(error, ScalecutError):
            raise
        raise ModelError(_not_run(network, error)) from error


def _not_run(network: Network, error: Exception) -> str:
    """Why a network does not run on an image, and what to do about it."""
    height, width = network.preprocessing.height, network.preprocessing.width
    said = first_line(error)
    taken = next((m for m in network.module.modules() if isinstance(m, nn.Conv2d)), None)
    if taken is not None and taken.in_channels * taken.groups not in (3, 3 * taken.groups):
        return (
            f"{network.name} takes images of {taken.in_channels} channels, but images have 3 here "
            f"({said}). Build it for 3 (in timm, --model-arg in_chans=3)."
        )
    needed = re.search(r"missing \d+ required positional arguments?: (.*)", said)
    if isinstance(error, TypeError) and needed:
        return (
            f"{network.name} takes more than a batch of images ({needed[1]} as well). Give a "
            "module.path:factory for a module whose forward takes images alone."
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"Two images of {height} x {width} px do not fit into the memory of {network.device}. "
            "Give a smaller --input-size, or --device cpu."
        )
    if "size" in said or "shape" in said or isinstance(error, AssertionError):
        return (
            f"{network.name} does not run on {height} x {width} px ({said}). Give another "
            "--input-size, or the network's own; networks of timm with a fixed size are built for "
            f"another by --model-arg img_size={height}."
        )
    return f"{network.name} does not run on an image ({type(error).__name__}: {said}). Check it."


def refusal(
    points: Sequence[ProbePoint], pooled: Callable[[Tensor], list[np.ndarray]], batch: Tensor
) -> str:
    """Why a network cannot be used on inputs of this size; empty if it can."""
    try:
        outputs = pooled(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    for point, output in zip(points, outputs, strict=True):
        if output.shape != (len(batch), point.channels):
            n = output.size // len(batch)
            return f"{point.label} gives {n} values there, not {point.channels}"
    return ""


def computable(
    network: Network, points: Sequence[ProbePoint]
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """Points whose features do not depend on a missing tensor, and why the others are skipped.

    Missing tensors are NaN, and NaN spreads: the output of a point that depends on one is NaN.
    """
    if not network.weights.missing:
        return list(points), ()
    ruined = _ruined(network, points)
    causes = _causes(network, ruined)
    n = len(network.weights.missing)
    left_out = []
    for point in ruined:
        reason = "more than one missing tensor, or its output is not finite"
        if point.layer in causes:
            reason = f"{causes[point.layer]!r}, one of {n} tensors missing from the weights"
        left_out.append(LeftOut(point.label, f"depends on {reason}"))
    return [point for point in points if point not in ruined], tuple(left_out)


def _ruined(network: Network, points: Sequence[ProbePoint]) -> list[ProbePoint]:
    """The points at which the pooled output for the network's example is not finite."""
    outputs: dict[str, Tensor]
    with pooled_outputs(network.module, points) as outputs, torch.inference_mode():
        example = network.example()
        network.module(example)
    return [point for point in points if not outputs[point.layer].isfinite().all()]


def _causes(network: Network, ruined: Sequence[ProbePoint]) -> dict[str, str]:
    """For every ruined point the first missing tensor that is enough to ruin it."""
    causes: dict[str, str] = {}
    for name in network.weights.missing:
        left = [point for point in ruined if point.layer not in causes]
        if not left:
            break
        trial = copy.deepcopy(network.module)
        for other, tensor in trial.state_dict().items():
            if tensor.is_floating_point() and other != name:
                tensor.nan_to_num_(nan=0.0)
        found = _ruined(replace(network, module=trial), left)
        causes |= {point.layer: name for point in found}
    return causes
