"""The pooled outputs of some layers, collected during a forward pass.

Maps of shape (n, c, h, w) are averaged over h and w, tokens (n, tokens, c) over the patches;
vectors (n, c) are kept as they are; lists of maps are pooled one by one and joined. The 2018 code
of the method flattens the map instead; why we do not is in docs/choices.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import Tensor, nn

from ..errors import LayerError
from .layers import channel_axis as axis_of_channels
from .layers import tensors_in
from .points import SOFTMAX, ProbePoint

COPIED_AT_ONCE = 2**20  # values of a map: 4 MB


class _AllRead(Exception):  # noqa: N818 - not an error: it ends a forward pass early
    """The last layer that is needed has been read."""


@contextmanager
def pooled_outputs(
    network: nn.Module, layers: Sequence[str | ProbePoint]
) -> Iterator[dict[str, Tensor]]:
    """Collect the pooled output of `layers` at every forward pass made inside the `with` block.

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
        outputs[point.layer] = _pooled(value, point)

    def reads_output(point: ProbePoint) -> Callable[..., None]:
        return lambda module, args, output: keep(point, output)

    def reads_input(point: ProbePoint) -> Callable[..., None]:
        return lambda module, args, kwargs: keep(point, next(tensors_in([args, kwargs]), None))

    with ExitStack() as undo:
        for point in points:
            module = modules[point.module]
            if point.side == "input":
                hook = reads_input(point)
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            else:
                undo.callback(module.register_forward_hook(reads_output(point)).remove)
        yield outputs


def pool(
    output: Tensor | Sequence[Tensor], channel_axis: int = 1, prefix_tokens: int = 0
) -> Tensor:
    """The mean of a layer's output over its places, in float32: (n, c); lists are concatenated.

    Args:
        channel_axis: -1 where the channels come last, 0 to infer it from the shape.
        prefix_tokens: number of tokens at the start that are no patches and are skipped.
    """
    if not isinstance(output, Tensor):
        return torch.cat([pool(each, channel_axis, prefix_tokens) for each in output], dim=1)
    axis = channel_axis or axis_of_channels(output)
    if output.ndim == 2:
        return output.float()
    if output.ndim == 3 and axis == -1:
        return _mean(output[:, prefix_tokens:], (1,))
    if output.ndim == 4:
        return _mean(output, (2, 3) if axis == 1 else (1, 2))
    raise LayerError(
        f"A layer gave a tensor of shape {tuple(output.shape)}; only (n, c, h, w), (n, tokens, "
        "c) and (n, c) can be pooled. Probe a layer before or after it."
    )


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


# --- inside ------------------------------------------------------------------------------------


def _as_point(layer: str | ProbePoint) -> ProbePoint:
    if isinstance(layer, ProbePoint):
        return layer
    return ProbePoint(layer, "", 0.0, layer, "output", channels=0, channel_axis=0)


def _mean(output: Tensor, places: tuple[int, ...]) -> Tensor:
    """In float32, a few images at a time where PyTorch would copy a large map for it."""
    is_copied = output.dtype != torch.float32 and output.device.type == "cpu"
    if not is_copied or output.numel() <= COPIED_AT_ONCE:
        return output.mean(dim=places, dtype=torch.float32)
    some = output.split(max(1, COPIED_AT_ONCE // output[0].numel()))
    return torch.cat([part.mean(dim=places, dtype=torch.float32) for part in some])


def _pooled(value: object, point: ProbePoint) -> Tensor:
    if isinstance(value, list | tuple):
        value = [each for each in value if isinstance(each, Tensor)]
    elif not isinstance(value, Tensor):
        raise LayerError(
            f"Layer {point.layer!r} gave a {type(value).__name__}, but a tensor is needed. "
            "Probe a layer before or after it."
        )
    with torch.no_grad():
        pooled = pool(value, point.channel_axis, point.prefix_tokens)
    return pooled.softmax(dim=1) if point.layer == SOFTMAX else pooled


@contextmanager
def _ending_early(
    module: nn.Module, points: Sequence[ProbePoint], outputs: dict[str, Tensor]
) -> Iterator[None]:
    """Stop each forward pass once every point has been read."""
    names = {point.layer for point in points}
    last = points[-1] if points else None
    modules = dict(module.named_modules())

    def stop(*_: object) -> None:
        if names <= outputs.keys():
            raise _AllRead

    if last is None or last.n_calls > 1 or [p.module for p in points].count(last.module) > 1:
        yield
        return
    watched = modules[last.module]
    register = (
        watched.register_forward_pre_hook if last.side == "input" else watched.register_forward_hook
    )
    handle = register(stop)
    try:
        yield
    finally:
        handle.remove()
