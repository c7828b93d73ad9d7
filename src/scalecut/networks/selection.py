"""The layers to probe: those that are asked for and do not depend on missing weights."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..data.images import LeftOut
from ..errors import ModelError, ScalecutError, first_line
from .hooks import pooled_outputs
from .layers import probe_points, select_layers
from .load import load_network
from .network import Network, with_preprocessing
from .points import ProbePoint

COLUMNS = (
    *("layer", "alias", "depth", "channels", "stride", "receptive_field", "parameters", "macs"),
)


def chosen_points(
    network: Network, layers: Sequence[str] = ()
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """The points to probe, and those that depend on missing weights, with the reason.

    Raises:
        LayerError: if a name fits no layer.
        ModelError: if the network does not run at its input size.
    """
    points = every_point(network, layers)
    return computable(network, select_layers(points, layers) if layers else points)


def list_layers(
    model: str | nn.Module | Network,
    *,
    weights: str | Path = "random",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    input_size: int | tuple[int, int] | None = None,
) -> pd.DataFrame:
    """List the layers of a network, in order of execution.

    Args:
        model: a timm name (inception_v3, resnet50, ...), resnet50_v1, or module.path:factory.
        weights: pretrained, random, or a safetensors or state-dict file.
        allow_partial: Accept a weights file that lacks tensors; layers that need them are skipped.
        layers: Names, aliases or globs; all probe points by default.
        input_size: Pixels, 224 or 224x320 (height x width), instead of the network's own.

    Returns:
        One row per layer: `layer, alias, depth, channels, stride, receptive_field, parameters,
        macs`; stride and receptive field in input pixels, multiply-accumulates for one image.

    Raises:
        LayerError: if a name fits no layer.
        ModelError: if the network is not known or does not run at its input size.
    """
    network = with_preprocessing(
        load_network(model, weights=weights, allow_partial=allow_partial), input_size=input_size
    )
    points, _ = chosen_points(network, layers)
    rows = [{name: getattr(point, name) for name in COLUMNS} for point in points]
    whole = {"stride": "Int64", "receptive_field": "Int64"}  # missing behind global pooling
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(whole)


def every_point(network: Network, layers: Sequence[str] = ()) -> list[ProbePoint]:
    """All points, and the modules among `layers`, whether they depend on missing weights or not.

    Raises:
        ModelError: if the network does not run at its input size.
    """
    modules = {name for name, _ in network.module.named_modules() if name}
    also = [name for name in layers if name in modules]
    try:
        return probe_points(network.module, network.example(), also=also)
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ScalecutError):
            raise
        height, width = network.preprocessing.height, network.preprocessing.width
        raise ModelError(
            f"{network.name} does not run on {height} x {width} px ({first_line(error)}). Give "
            "another --input-size, or the network's own."
        ) from error


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
    fine = {
        p.layer
        for p, row in zip(points, _outputs(network, points), strict=True)
        if np.isfinite(row).all()
    }
    ruined = [point for point in points if point.layer not in fine]
    causes = _causes(network, ruined)
    n = len(network.weights.missing)
    left_out = tuple(
        LeftOut(
            point.label,
            f"depends on {causes[point.layer]!r}, one of {n} tensors missing from the weights"
            if point.layer in causes
            else "depends on more than one missing tensor, or its output is not finite",
        )
        for point in ruined
    )
    return [point for point in points if point.layer in fine], left_out


def _outputs(network: Network, points: Sequence[ProbePoint]) -> list[np.ndarray]:
    """The pooled outputs of the network for its example, in float32."""
    outputs: dict[str, Tensor]
    with pooled_outputs(network.module, points) as outputs, torch.inference_mode():
        example = network.example()
        network.module(example)
    return [outputs[point.layer].cpu().numpy() for point in points]


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
        outputs = _outputs(replace(network, module=trial), left)
        causes.update(
            {
                p.layer: name
                for p, row in zip(left, outputs, strict=True)
                if not np.isfinite(row).all()
            }
        )
    return causes
