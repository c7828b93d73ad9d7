"""The pooled outputs of some layers, collected during a forward pass.

Maps are averaged over all their places, tokens over the patches; vectors (n, c) are kept as they
are; several maps are pooled one by one and joined. The 2018 code of the method flattens the map
instead; why we do not is in docs/choices.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import LayerError
from .points import SOFTMAX, ProbePoint

COPIED_AT_ONCE = 2**20  # values of a map: 4 MB


def tensors_in(found: object) -> list[Tensor]:
    """Floating-point tensors in nested lists, tuples, dicts and dataclasses, in order."""
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    if isinstance(found, dict):
        found = list(found.values())
    elif is_dataclass(found) and not isinstance(found, type):
        found = [getattr(found, each.name) for each in fields(found)]
    if isinstance(found, list | tuple):
        return [tensor for item in found for tensor in tensors_in(item)]
    return []


def watch(module: nn.Module, side: str, act: Callable[[Any], Any]) -> RemovableHandle:
    """Hook a function to what a module gives, or to [args, kwargs] that it is given.

    What the function returns, if anything, takes the place of that. Removed by `with`.
    """
    if side == "output":
        return module.register_forward_hook(lambda _, args, output: act(output))

    def given(_: nn.Module, args: tuple, kwargs: dict) -> Any:
        instead = act([args, kwargs])
        return instead and tuple(instead)

    return module.register_forward_pre_hook(given, with_kwargs=True)


class _AllRead(Exception):  # noqa: N818 - not an error: it ends a forward pass early
    """The last layer that is needed has been read."""


@contextmanager
def pooled_outputs(
    network: nn.Module, layers: Sequence[str | ProbePoint]
) -> Iterator[dict[str, Tensor]]:
    """Collect the pooled output of `layers` at every forward pass made inside the `with` block.

    A layer given by its name alone is taken as (n, c, h, w), (n, tokens, c) or (n, c).

    Yields a dict that each forward pass fills anew, layer name to tensor of shape (n, c). Pooling
    happens inside the hook, before an in-place operation can write over the map. The hooks are gone
    when the block ends, by an error too; the network itself is never changed.
    """
    modules = dict(network.named_modules())
    points = [_as_point(layer) for layer in layers]
    unknown = [point.module for point in points if point.module not in modules]
    if unknown:
        named = [name for name in modules if name]
        raise LayerError(
            f"{type(network).__name__} has no layer named {unknown[0]!r}. "
            f"It has {len(named)}, from {named[0]!r} to {named[-1]!r}; "
            "`scalecut layers MODEL` prints them all."
        )
    outputs: dict[str, Tensor] = {}

    def keep(point: ProbePoint, value: object) -> None:
        with torch.no_grad():
            pooled = pool(maps_of(value, point), point.channel_axis, point.prefix_tokens)
        outputs[point.layer] = pooled.softmax(dim=1) if point.layer == SOFTMAX else pooled

    with ExitStack() as undo:
        for point in points:
            undo.enter_context(watch(modules[point.module], point.side, partial(keep, point)))
        yield outputs


def maps_of(value: object, point: ProbePoint) -> list[Tensor]:
    """The maps among what a module gave (or was given), with the images on the first axis.

    Raises:
        LayerError: if it gave no tensor, or fewer than when its points were found.
    """
    tensors = tensors_in(value)
    tensors = tensors[:1] if point.side == "input" else tensors
    if not tensors or max(point.chosen, default=0) >= len(tensors):
        raise LayerError(
            f"Layer {point.layer!r} gave a {type(value).__name__} with {len(tensors)} tensors of "
            "floating-point numbers, fewer than are read. Probe a layer before or after it."
        )
    maps = [tensors[i] for i in point.chosen] if point.chosen else tensors
    return [each.movedim(point.batch_axis, 0) if point.batch_axis else each for each in maps]


def pool(maps: Tensor | Sequence[Tensor], channel_axis: int = 1, prefix_tokens: int = 0) -> Tensor:
    """The mean of a map over its places, in float32: (n, c); those of several maps are joined.

    Args:
        maps: (n, ...), or several, with the channels on one of the axes.
        channel_axis: -1 where the channels come last; 0 for what is usual for the number of axes.
        prefix_tokens: number of tokens at the start that are no patches and are skipped.
    """
    if isinstance(maps, Tensor):
        return _pooled(maps, channel_axis, prefix_tokens)
    return torch.cat([_pooled(each, channel_axis, prefix_tokens) for each in maps], dim=1)


class Taps(nn.Module):
    """A network whose outputs are the pooled outputs of some points.

    Args:
        ends_early: stop the forward pass after the last point, which torch.export cannot follow.
    """

    def __init__(self, module: nn.Module, points: Sequence[ProbePoint], ends_early: bool) -> None:
        super().__init__()
        self.module, self.points, self.ends_early = module, points, ends_early

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        with pooled_outputs(self.module, self.points) as outputs, ExitStack() as until:
            if self.ends_early:
                until.enter_context(_ending_early(self.module, self.points, outputs))
            with suppress(_AllRead):
                self.module(batch)
            return tuple(outputs[point.layer] for point in self.points)


def _as_point(layer: str | ProbePoint) -> ProbePoint:
    if isinstance(layer, ProbePoint):
        return layer
    return ProbePoint(layer, "", 0.0, layer, "output", channels=0, channel_axis=0)


def _pooled(value: Tensor, channel_axis: int, prefix_tokens: int) -> Tensor:
    if value.ndim == 2:
        return value.float()
    if value.ndim < 2 or (not channel_axis and value.ndim > 4):
        raise LayerError(
            f"A layer gave a tensor of shape {tuple(value.shape)}; only maps, tokens and vectors, "
            "such as (n, c, h, w), (n, tokens, c) and (n, c), can be pooled. Probe a layer before "
            "or after it."
        )
    axis = (channel_axis or (-1 if value.ndim == 3 else 1)) % value.ndim
    places = tuple(k for k in range(1, value.ndim) if k != axis)
    if prefix_tokens:
        n_patches = value.shape[places[0]] - prefix_tokens
        value = value.narrow(places[0], prefix_tokens, n_patches)
    return _mean(value, places)


def _mean(output: Tensor, places: tuple[int, ...]) -> Tensor:
    """In float32, a few images at a time where PyTorch would copy a large map for it."""
    is_copied = output.dtype != torch.float32 and output.device.type == "cpu"
    if not is_copied or output.numel() <= COPIED_AT_ONCE:
        return output.mean(dim=places, dtype=torch.float32)
    some = output.split(max(1, COPIED_AT_ONCE // output[0].numel()))
    return torch.cat([part.mean(dim=places, dtype=torch.float32) for part in some])


@contextmanager
def _ending_early(
    module: nn.Module, points: Sequence[ProbePoint], outputs: dict[str, Tensor]
) -> Iterator[None]:
    """Stop each forward pass once every point has been read."""
    names = {point.layer for point in points}
    last = points[-1] if points else None

    def stop(*_: object) -> None:
        if names <= outputs.keys():
            raise _AllRead

    if last is None or last.n_calls > 1 or [p.module for p in points].count(last.module) > 1:
        yield
        return
    with watch(module.get_submodule(last.module), last.side, stop):
        yield
