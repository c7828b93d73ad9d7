"""Other padding than zeros, for any network, while it runs.

Zeros around a map tell every layer where the picture ends, and by that how large it is. Here the
calls of torch that pad maps are watched, so no table per architecture is needed: convolutions,
padding with a constant, and pooling with padding. What pads in a way of its own (circular, learned)
is left as it is, and so are sequences and channels: only the borders of maps (n, c, h, w) are
meant.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import DataError, ModelError

PADDINGS = ("zeros", "reflect", "circular")

# The functions of torch that pad maps, with the names of their arguments in order.
_ARGUMENTS = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool2d": (
        *("input", "kernel_size", "stride", "padding"),
        *("ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "pad": ("input", "pad", "mode", "value"),
}


class Padding(TorchFunctionMode):
    """Pads in its own mode whatever would be padded with a constant, and counts it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.n_padded = 0  # calls so far that padded a map

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name not in _ARGUMENTS:
            return func(*args, **kwargs)
        given = dict(zip(_ARGUMENTS[name], args, strict=False)) | kwargs
        borders = _borders(name, given)
        if not any(borders):
            return func(*args, **kwargs)
        self.n_padded += 1
        if self.mode == "zeros":
            return func(*args, **kwargs)
        _check_room(given["input"], borders, self.mode)
        padded_map = functional.pad(given["input"], borders, self.mode)
        if name == "pad":
            return padded_map
        return func(**given | {"input": padded_map, "padding": 0})


@contextmanager
def padded(mode: str) -> Iterator[Padding]:
    """Within the block every forward pass pads its maps by `mode` instead of with zeros.

    `zeros` leaves every number as it is: zeros for convolutions, minus infinity for maxima, as
    torch does. Yields what counts the paddings (`.n_padded`); the network is never changed. It
    holds for the thread that entered it.

    Args:
        mode: one of `PADDINGS`.

    Raises:
        DataError: if there is no such mode.
        ModelError: during a forward pass, if a map is too small to be padded so.
    """
    if mode not in PADDINGS:
        raise DataError(f"No padding is named {mode!r}. Give one or more of {', '.join(PADDINGS)}.")
    with Padding(mode) as padding:
        yield padding


def _borders(name: str, given: dict[str, Any]) -> list[int]:
    """How far the call pads a map with a constant: left, right, top, bottom."""
    if name == "pad":
        borders = [*given["pad"], 0, 0][:4]
        is_constant = given.get("mode", "constant") == "constant"
        is_of_map = given["input"].ndim == 4 and len(given["pad"]) <= 4
        return borders if is_constant and is_of_map and min(borders) >= 0 else []
    padding = given.get("padding", 0)
    if padding == "valid":
        return []
    if padding == "same":
        height, width = (
            dilation * (side - 1)
            for dilation, side in zip(
                _pair(given.get("dilation", 1)), given["weight"].shape[2:], strict=True
            )
        )
        return [width // 2, width - width // 2, height // 2, height - height // 2]
    height, width = _pair(padding)
    return [width, width, height, height]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def _check_room(values: Tensor, borders: Sequence[int], mode: str) -> None:
    """Whether the map is large enough to be continued by itself."""
    height, width = values.shape[-2:]
    most = {"reflect": 1, "circular": 0}[mode]  # a reflection does not repeat the border itself
    sides = zip((width, width, height, height), borders, strict=True)
    if any(border > side - most for side, border in sides):
        raise ModelError(
            f"A map of {height} x {width} is too small for {mode} padding by {max(borders)}. "
            "Give larger images, or leave this padding out."
        )
