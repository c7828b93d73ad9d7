"""What a value inside a network depends on: parameters, stride and receptive field.

Read off the graph that autograd keeps of one forward pass, so no table per architecture is needed.
Checked against the published fields of VGG16, ResNet50 v1 and InceptionV3 (`araujo2019`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node


@dataclass(frozen=True, slots=True)
class Reach:
    """What a value depends on.

    Args:
        parameters: how many numbers of the network; None if it was computed without a graph.
        stride: input pixels per step of the map.
        field: side of the receptive field in input pixels; None, like the stride, behind an
            operation that mixes all places (attention, global pooling).
    """

    parameters: int | None
    stride: int | None
    field: int | None


# Operations that leave places where they are; through any other the receptive field is undefined.
# fmt: off
_KEEPS_PLACES = {
    "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "Elu", "Selu", "Silu", "Gelu", "Mish",
    "Sigmoid", "Hardsigmoid", "Hardswish", "Hardtanh", "Tanh", "Clamp", "Softplus",
    "NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "Cat", "Clone", "Permute", "View",
    "UnsafeView", "ReshapeAlias", "Addmm", "Mm", "ConstantPadNd", "Slice", "Split",
    "SplitWithSizes", "Chunk", "Copy", "ToCopy", "NativeDropout", "Alias", "AsStrided", "Prelu",
}
# fmt: on


def reach_of(values: Sequence[Tensor], image: Tensor) -> Reach:
    """Walk the autograd graph from a layer's output, one map or several, back to the image.

    Receptive field r and stride s of a window of k taps, dilated by d and moved by t, on a map with
    (r', s'):  r = r' + (k - 1) d s',  s = s' t;  of several ways the largest (`araujo2019`).
    """
    ends = [value.grad_fn for value in values if value.grad_fn is not None]
    if len(ends) < len(values):
        return Reach(None, None, None)
    parameters: dict[int, int] = {}
    extent: dict[Node, _Extent | None] = {}
    for node in _backwards(ends):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if isinstance(leaf, nn.Parameter):
                parameters[id(leaf)] = leaf.numel()
            elif leaf.shape == image.shape:
                extent[node] = _Extent((1, 1), (1, 1))
            continue
        before = [extent[other] for other, _ in node.next_functions if other in extent]
        if before:
            extent[node] = _widened(node, before)
    end = extent.get(ends[0]) if len(ends) == 1 else None
    return Reach(
        sum(parameters.values()),
        max(end.stride) if end else None,
        max(end.field) if end else None,
    )


@dataclass(frozen=True, slots=True)
class _Extent:
    """Receptive field and stride along (h, w), in input pixels."""

    field: tuple[int, int]
    stride: tuple[int, int]


def _widened(node: Any, before: Sequence[_Extent | None]) -> _Extent | None:
    """The extent after one operation, or None where it is undefined."""
    known = [extent for extent in before if extent]
    if len(known) < len(before):
        return None
    field = max(e.field[0] for e in known), max(e.field[1] for e in known)
    stride = max(e.stride[0] for e in known), max(e.stride[1] for e in known)
    kind = node.name().rstrip("0123456789").removesuffix("Backward")
    if kind in ("Convolution", "MkldnnConvolution", "CudnnConvolution"):
        sizes, steps, gaps = node._saved_weight.shape[2:], node._saved_stride, node._saved_dilation
    elif kind in ("MaxPool2DWithIndices", "AvgPool2D"):
        sizes, steps = node._saved_kernel_size, node._saved_stride or node._saved_kernel_size
        gaps = getattr(node, "_saved_dilation", (1, 1))
    else:
        return _Extent(field, stride) if kind in _KEEPS_PLACES else None
    if len(sizes) != 2:
        return None
    reaches = [(size - 1) * gap for size, gap in zip(sizes, gaps, strict=False)]
    return _Extent(
        (field[0] + reaches[0] * stride[0], field[1] + reaches[1] * stride[1]),
        (stride[0] * steps[0], stride[1] * steps[1]),
    )


def _backwards(ends: Sequence[Node]) -> list[Node]:
    """All nodes that `ends` depend on, each after the ones it depends on."""
    ordered, seen, stack = [], set(), [(end, False) for end in ends]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            ordered.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((other, False) for other, _ in node.next_functions if other is not None)
    return ordered
