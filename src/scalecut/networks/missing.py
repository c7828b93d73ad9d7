"""The layers that a network can answer for although tensors are missing from its weights."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data.images import LeftOut
from .hooks import pooled_outputs
from .layers import ProbePoint
from .models import Network


def answerable(
    network: Network, points: Sequence[ProbePoint]
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """Points whose features do not depend on a missing tensor, and why the others are left out.

    Missing tensors are NaN, and NaN spreads: a point that a missing tensor reaches answers NaN.
    """
    if not network.weights.missing:
        return list(points), ()
    fine = {
        p.layer
        for p, row in zip(points, _answers(network, points), strict=True)
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


def _answers(network: Network, points: Sequence[ProbePoint]) -> list[np.ndarray]:
    """What the network answers to its example, in float32."""
    outputs: dict[str, Tensor]
    with pooled_outputs(network.module, points) as outputs, torch.inference_mode():
        example = network.example()
        network.module(example)
    return [outputs[point.layer].cpu().numpy() for point in points]


def _causes(network: Network, ruined: Sequence[ProbePoint]) -> dict[str, str]:
    """For every ruined point the first missing tensor that ruins it all by itself."""
    causes: dict[str, str] = {}
    for name in network.weights.missing:
        left = [point for point in ruined if point.layer not in causes]
        if not left:
            break
        trial = copy.deepcopy(network.module)
        for other, tensor in trial.state_dict().items():
            if tensor.is_floating_point() and other != name:
                tensor.nan_to_num_(nan=0.0)
        answers = _answers(replace(network, module=trial), left)
        causes.update(
            {
                p.layer: name
                for p, row in zip(left, answers, strict=True)
                if not np.isfinite(row).all()
            }
        )
    return causes
