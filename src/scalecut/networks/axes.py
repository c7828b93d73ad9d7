"""Which axis of a layer's output holds the images, the channels, the places; which tokens count.

A shape alone does not say: (1, 64, 64, 32) is a map of 64 channels or one of 32. So the network is
run again. On two images instead of one, the axis that doubles holds the images. On images of
another size, the axis that keeps its length holds the channels; a network that takes one size only
is asked for its `output_fmt` (timm), then for the widths of the weights around the layer. Tokens
that are no patches are those that were joined to the patches before and do not come from the image.
What stays unclear is refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import OF_NETWORKS, LayerError, ModelError
from .hooks import tensors_in, watch

Place: TypeAlias = tuple[str, str]  # name of a module, and its side: input or output

MOST_PREFIX_TOKENS = 16  # a class token and registers
SAME = 1e-3  # of the largest value: float32 sums of another batch size stay far below
REGISTERS = re.compile(r"(^|[._])(reg|registers?|storage)_tokens?$")
FORMATS = {"NCHW": (4, 0), "NHWC": (4, -1), "NCL": (3, 0), "NLC": (3, -1)}  # axes; that of channels


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of a layer's output."""

    chosen: tuple[int, ...]  # positions of its maps among the tensors of the output
    batch_axis: int  # the axis of the images
    channel_axis: int  # after the images were moved to the first axis; -1 for the last
    prefix_tokens: int  # tokens at the start that are no patches
    channels: int  # length of the pooled vector


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of an output besides its shapes."""

    chosen: tuple[int, ...]  # positions of the tensors that later computation takes
    output_format: str  # timm's name of the axes, or empty
    widths: frozenset[int]  # outputs of the weights before the layer, inputs of those after it
    stated_prefix: int  # prefix tokens, as timm states them for the network around
    given_prefix: int | None  # as the user does


class Runs:
    """Outputs of a network in runs that differ in one thing each.

    Args:
        network: in evaluation mode; its parameters are frozen.
        places: the modules to read, and on which side.
        image: (1, 3, h, w).
        grids: numbers of places of the maps that convolutions gave.

    Raises:
        ModelError: if the network takes one image at a time, or gives other values at each run.
    """

    def __init__(
        self, network: nn.Module, places: Iterable[Place], image: Tensor, grids: Iterable[int]
    ) -> None:
        wanted = set(places)
        pair = torch.cat([image, 1.5 * image.flip(-1)])  # another image, with larger values
        try:
            with torch.no_grad():
                self.pair = _outputs(network, wanted, pair)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ModelError(
                f"{type(network).__name__} runs on one image but not on two ({error}). Give a "
                "network that takes batches of images."
            ) from error
        with _Joins() as joins, torch.enable_grad():
            self.one = _outputs(network, wanted, image)
        with torch.no_grad():
            self.other = _at_another_size(network, wanted, image)
        self.prefixes, self.grids = joins.prefixes, frozenset(grids)
        if any(map(_mixes, self.one.values(), self.pair.values())):
            with torch.no_grad():
                again = _outputs(network, wanted, image)
            if not all(map(_is_same, self.one.values(), again.values())):
                raise ModelError(
                    f"{type(network).__name__} gives other values each time it is run on the same "
                    "image, so nothing can be measured. Switch off what is random in evaluation "
                    "mode (dropout, sampling, masking)."
                )

    def layout(self, place: Place, hints: Hints) -> Layout:
        """The axes of one output.

        Raises:
            LayerError: with the reason, if they are not clear.
        """
        one, pair = self.one.get(place, []), self.pair.get(place, [])
        if not one or len(one) != len(pair):
            raise LayerError("gives no tensor, or not always the same number of them")
        found: dict[int, int] = {}
        reasons: list[str] = []
        for i in hints.chosen:
            try:
                found[i] = _batch_axis(one[i], pair[i])
            except LayerError as error:
                reasons.append(str(error))
        if not found:
            raise LayerError(reasons[0])
        most = max(one[i].ndim for i in found)
        chosen = tuple(i for i in found if one[i].ndim == most)
        others = self.other.get(place, []) if self.other else []
        layouts = {
            self._of_tensor(
                one[i].movedim(found[i], 0),
                others[i] if len(others) == len(one) and others[i].ndim == most else None,
                found[i],
                hints,
            )
            for i in chosen
        }
        if len(layouts) > 1:
            raise LayerError(f"gives tensors of {len(layouts)} layouts, which cannot be joined")
        for i in chosen:
            if _mixes([one[i]], [pair[i]]):
                raise LayerError("gives other values for an image if others are in its batch")
        batch, channel, prefix = layouts.pop()
        channels = sum(one[i].movedim(batch, 0).shape[channel] for i in chosen)
        return Layout(chosen, batch, channel, prefix, channels)

    def _of_tensor(
        self, value: Tensor, other: Tensor | None, batch: int, hints: Hints
    ) -> tuple[int, int, int]:
        """The axes of images and channels of one tensor, and the number of its prefix tokens."""
        if value.ndim == 1:
            raise LayerError("gives one number per image, not a vector")
        if value.ndim == 2:
            return batch, 1, 0
        sizes = tuple(value.shape[1:])
        others = None if other is None else tuple(other.movedim(batch, 0).shape[1:])
        axis = _channel_axis(sizes, others, hints)
        prefix = self._prefix_tokens(sizes[1 - axis], hints) if len(sizes) == 2 else 0
        return batch, -1 if axis == len(sizes) - 1 else axis + 1, prefix

    def _prefix_tokens(self, n_tokens: int, hints: Hints) -> int:
        """How many of the tokens are no patches."""
        if n_tokens == 1:
            return 0
        if hints.given_prefix is not None:
            if hints.given_prefix < n_tokens:
                return hints.given_prefix
            raise LayerError(f"has {n_tokens} tokens, not more than the prefix tokens given")
        if n_tokens in self.prefixes:
            n_joined = self.prefixes[n_tokens]
            if n_joined is None:
                raise LayerError(
                    "has tokens between or after its patches that are none; give the number of "
                    "those before them by --prefix-tokens"
                )
            return n_joined
        if n_tokens in self.grids:
            return 0
        if n_tokens - hints.stated_prefix in self.grids:
            return hints.stated_prefix
        near = max((grid for grid in self.grids if grid < n_tokens), default=0)
        if near and n_tokens - near <= max(hints.stated_prefix, MOST_PREFIX_TOKENS):
            raise LayerError(
                f"has {n_tokens} tokens, {n_tokens - near} more than a map of patches has; give "
                "the number of those before the patches by --prefix-tokens"
            )
        return 0


def _outputs(network: nn.Module, places: set[Place], images: Tensor) -> dict[Place, list[Tensor]]:
    """Copies of the tensors at each place, of the last call of its module."""
    found: dict[Place, list[Tensor]] = {}

    def keep(place: Place, value: object) -> None:
        found[place] = [tensor.detach().clone() for tensor in tensors_in(value)]

    with ExitStack() as undo:
        for name, side in places:
            keeping = partial(keep, (name, side))
            undo.enter_context(watch(network.get_submodule(name), side, keeping))
        images = images.detach().clone().requires_grad_(torch.is_grad_enabled())
        network(images.clone())
    return dict(sorted(found.items()))


def _at_another_size(
    network: nn.Module, places: set[Place], image: Tensor
) -> dict[Place, list[Tensor]] | None:
    """Outputs for images of half, else of twice the height and width; None if neither runs."""
    height, width = image.shape[2:]
    for size in ((height // 2, width // 2), (2 * height, 2 * width)):
        resized = nn.functional.interpolate(image, size)
        try:
            return _outputs(network, places, resized)
        except (*OF_NETWORKS, ArithmeticError):  # of a network that takes one size only
            continue
    return None


def _batch_axis(one: Tensor, pair: Tensor) -> int:
    """The axis that has one row for one image, and two for two."""
    shapes = f"{tuple(one.shape)} for one image and {tuple(pair.shape)} for two"
    if one.ndim != pair.ndim:
        raise LayerError(f"gives {shapes}")
    longer = [k for k, (a, b) in enumerate(zip(one.shape, pair.shape, strict=True)) if a != b]
    if len(longer) == 1 and (one.shape[longer[0]], pair.shape[longer[0]]) == (1, 2):
        return longer[0]
    if len(longer) == 1 and pair.shape[longer[0]] == 2 * one.shape[longer[0]]:
        raise LayerError(
            f"gives {one.shape[longer[0]]} rows for one image, such as the windows of it; probe "
            "the block around it"
        )
    raise LayerError(f"gives {shapes}, so its values belong to no single image")


def _channel_axis(sizes: tuple[int, ...], others: tuple[int, ...] | None, hints: Hints) -> int:
    """Which of the axes after the images holds the channels."""
    axes = list(range(len(sizes)))
    if others is not None and others != sizes:
        axes = [k for k in axes if sizes[k] == others[k]]
        if len(axes) == 1:
            return axes[0]
    longer = [k for k in axes if sizes[k] > 1]
    if len(longer) == 1:
        return longer[0]
    n_axes, axis = FORMATS.get(hints.output_format, (0, 0))
    if n_axes == len(sizes) + 1 and axis % len(sizes) in axes:
        return axis % len(sizes)
    fitting = [k for k in axes if sizes[k] in hints.widths]
    if len(fitting) == 1:
        return fitting[0]
    raise LayerError(
        f"gives {(1, *sizes)} for one image, and it is not clear which axis holds the channels; "
        "give another --input-size, such as one that is not square, or another layer"
    )


def _is_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(map(_is_close, one, other))


def _mixes(one: Sequence[Tensor], pair: Sequence[Tensor]) -> bool:
    """Whether an image gives other values in a batch of two than alone."""
    for alone, both in zip(one, pair, strict=False):
        try:
            axis = _batch_axis(alone, both)
        except LayerError:
            continue
        if not _is_close(alone, both.narrow(axis, 0, 1)):
            return True
    return False


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Up to rounding; values that are not finite (of missing weights) are not compared."""
    scale = one.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if one.numel() else 0.0
    return bool(((one - other).abs().nan_to_num(0.0, 0.0, 0.0) <= SAME * scale).all())


class _Joins(TorchFunctionMode):
    """Records the tokens that are joined to those of the image, and do not come from it.

    `prefixes` holds, by the number of all tokens, that of the tokens before the patches; None if
    there are others after them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: dict[int, int | None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.cat, torch.concat, torch.concatenate):
            parts = args[0] if args else kwargs["tensors"]
            self._note(
                parts, args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
            )
        return func(*args, **kwargs)

    def _note(self, parts: Sequence[Tensor], axis: int) -> None:
        if any(part.ndim != 3 for part in parts) or axis % 3 == 2:
            return
        lengths = [part.shape[axis] for part in parts]
        place = lengths.index(max(lengths))
        others = [part for number, part in enumerate(parts) if number != place]
        if not parts[place].requires_grad or all(part.requires_grad for part in others):
            return
        # a class token that was joined before is joined again, in front of registers
        most = max((n for n in self.prefixes.values() if n is not None), default=0)
        if any(part.requires_grad and part.shape[axis] > most for part in others):
            return
        is_prefix = place == len(parts) - 1
        n = sum(lengths[:place]) if is_prefix else None
        if self.prefixes.setdefault(sum(lengths), n) != n:
            self.prefixes[sum(lengths)] = None


def n_registers(network: nn.Module) -> int:
    """The number of register tokens, by the parameters that are named so."""
    return sum(
        parameter.shape[-2]
        for name, parameter in network.named_parameters()
        if REGISTERS.search(name) and parameter.ndim > 1
    )
