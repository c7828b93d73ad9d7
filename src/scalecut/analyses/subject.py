"""What an analysis is of: a network, its layers that can be used, and options without effect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor, nn

from ..data.images import LeftOut
from ..errors import DataError
from ..features.extract import Computation
from ..networks.load import load_network
from ..networks.network import Network
from ..networks.points import ProbePoint
from ..networks.selection import chosen_points, refusal
from ..probing.controls import comparable

Pooled = Callable[[Tensor], list[Float32[np.ndarray, "n d"]]]  # of `features.forward`


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The network with the preprocessing asked for, its layers, and those that are skipped."""

    network: Network
    points: tuple[ProbePoint, ...]
    left_out: tuple[LeftOut, ...]  # layers that depend on missing tensors


def subject_of(
    model: str | nn.Module | Network,
    layers: Sequence[str],
    computation: Computation,
    weights: str | Path,
    allow_partial: bool,
    seed: int,
) -> Subject:
    """Load the network and choose its layers; a random network gets usable batch-norm statistics.

    Raises:
        ModelError: if the network is not known or the weights do not fit.
        LayerError: if a name fits no layer.
    """
    loaded = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
    network = comparable(computation.shown(loaded), seed)
    points, left_out = chosen_points(network, layers)
    return Subject(network, tuple(points), left_out)


def refusal_at(subject: Subject, pooled: Pooled, height: int, width: int) -> str:
    """Why the network cannot be used on images of this size; empty if it can."""
    blank = np.full((1, height, width, 3), 128, np.uint8)
    return refusal(subject.points, pooled, subject.network.preprocessing.tensor(blank))


def check_unused(
    names: Sequence[str], *groups: Any, when: str = "in this analysis", **usual: object
) -> None:
    """Refuse options that have no effect in an analysis, unless they have their default value.

    Args:
        when: they have none, in words.
        usual: defaults of the analysis that are not those of the class.
    """
    for group in groups:
        for each in fields(group):
            value, default = getattr(group, each.name), usual.get(each.name, each.default)
            if each.name in names and _plain(value) != _plain(default):
                raise DataError(
                    f"{each.name}={value!r} has no effect {when}. Leave it at its default, "
                    f"{default!r}."
                )


def _plain(value: object) -> object:
    """A list and its numbers as they are typed."""
    return [str(each) for each in value] if isinstance(value, list | tuple) else value
