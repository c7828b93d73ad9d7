"""The probe points of a network: the places where features are read, in order of execution.

A probe point is found by watching one forward pass, without a table per architecture:

- a *container* passes its input from child to child (`nn.Sequential`, a stage); we look inside;
- a *block* is what remains: at least two weight layers on parallel paths (a sum, a concatenation).
  All later computation depends on its output alone, so that networks can be cut there. Where a
  block ends in an activation of a sum (ResNet), the sum itself is read: add_k of `graziani2021` is
  before the ReLU;
- where blocks hold less than half of the weight layers (VGG), the weight layers are points too,
  each with the norm and the activation that follow it;
- on request, *modules* inside blocks: the activation after a sum, the activation of an MLP
  between its two linear layers, and the last norm before it (of the sum with attention).

Then come the pooled features, the logits and the softmax. Modules that are shared count once, at
their last call.
"""

import copy
import fnmatch
import functools
import inspect
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.flop_counter import FlopCounterMode

from ..errors import LayerError, near
from .axes import Hints, Layout, Runs, n_registers
from .hooks import tensors_in
from .points import LOGITS, POOLED, SOFTMAX, ProbePoint


@dataclass(slots=True, eq=False)
class _Call:
    """One execution of a module, with the executions inside it."""

    name: str
    module: nn.Module
    given: Tensor | None = None
    made: list[Tensor] = field(default_factory=list)
    given_key: tuple[int, int] | None = None
    made_key: tuple[int, int] | None = None
    takes: set[int] = field(default_factory=set)  # memory of all tensors given
    macs_before: int = 0
    macs_after: int = 0
    started: int = 0
    ended: int = 0
    children: list["_Call"] = field(default_factory=list)


def probe_points(
    network: nn.Module,
    image: Tensor,
    also: Sequence[str] = (),
    prefix_tokens: int | None = None,
    inside: bool = False,
) -> tuple[list[ProbePoint], dict[str, str]]:
    """The probe points of `network` in order of execution, and why other layers are none.

    Args:
        image: a batch of one image as the network takes it, (1, c, h, w), such as noise.
        also: names of further modules to read at their output.
        prefix_tokens: tokens at the start that are no patches, if not those found.
        inside: whether modules inside blocks are points too.

    Raises:
        LayerError: if no layer with weights is executed.
        ModelError: if the network does not run on two images, or is random in evaluation mode.
    """
    network = copy.deepcopy(network)  # some keep what they computed, with its gradients
    with _watched(network) as record, torch.enable_grad():
        network(image.detach().clone().requires_grad_().clone())
    root = record[-1]
    taps = _taps(network, root, also, inside)
    trace = _Trace(network, root)
    for module in network.modules():
        module.eval()
    network.requires_grad_(False)
    runs = Runs(network, {(call.name, side) for _, call, side in taps}, image, trace.grids)
    points, refused, names = [], {}, {name for name, _, _ in taps}
    if LOGITS in names and POOLED not in names and not _have_one_input(network, root):
        refused[POOLED] = (
            f"is not one vector: each of {len(_classifiers(network))} classifiers takes features "
            "of its own; read the last block instead"
        )
    for name, call, side in taps:
        try:
            hints = trace.hints(call, side, prefix_tokens)
            layout = runs.layout((call.name, side), hints)
        except LayerError as error:
            refused[name] = str(error)
        else:
            points.append(_point(trace, image, name, call, side, layout))
    last = max(len(points) - 1, 1)
    numbered = [
        replace(point, alias=alias, depth=number / last)
        for number, (point, alias) in enumerate(zip(points, _aliases(points), strict=True))
    ]
    return numbered, refused


def select_layers(points: Sequence[ProbePoint], patterns: Sequence[str]) -> list[ProbePoint]:
    """The points chosen by name, alias or glob (`blocks.4.*`), in order of execution.

    Raises:
        LayerError: if a pattern fits no point.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        fits = [point.layer for point in points if matches(point, pattern)]
        if not fits:
            names = [name for p in points for name in (p.layer, p.alias) if name]
            raise LayerError(
                f"No layer is named {pattern!r}. Near it: {near(pattern, names, 0.4)}; "
                f"`scalecut layers MODEL` prints all {len(points)}."
            )
        chosen.update(fits)
    return [point for point in points if point.layer in chosen]


def matches(point: ProbePoint, pattern: str) -> bool:
    """Whether the name or the alias of a point fits a glob."""
    return any(fnmatch.fnmatchcase(n, pattern) for n in (point.layer, point.alias) if n)


# --- watching one forward pass -------------------------------------------------------------------


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[_Call]]:
    """Record every call of a module, the outermost last."""
    finished: list[_Call] = []
    running: list[_Call] = []
    counter = FlopCounterMode(display=False)
    clock = itertools.count()

    def start(name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        all_given = tensors_in([args, kwargs])
        given = next(iter(all_given), None)
        macs = counter.get_total_flops() // 2
        call = _Call(name, module, given, macs_before=macs, started=next(clock))
        call.takes = {_key(tensor)[0] for tensor in all_given}
        call.given_key = None if given is None else _key(given)
        if running:
            running[-1].children.append(call)
        running.append(call)

    def stop(module: nn.Module, args: tuple, output: object) -> None:
        call = running.pop()
        call.made = tensors_in(output)
        call.made_key = _key(call.made[0]) if len(call.made) == 1 else None
        call.macs_after = counter.get_total_flops() // 2
        call.ended = next(clock)
        finished.append(call)

    wanted_grad = {parameter: parameter.requires_grad for parameter in network.parameters()}
    was_training = {module: module.training for module in network.modules()}
    with ExitStack() as undo:
        for name, module in network.named_modules():
            begin = functools.partial(start, name)
            undo.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(stop).remove)
        try:
            network.eval()
            for parameter in network.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            with counter:
                yield finished
        finally:
            for parameter, wanted in wanted_grad.items():
                parameter.requires_grad_(wanted)
            for module, training in was_training.items():
                module.training = training


def _key(tensor: Tensor) -> tuple[int, int]:
    """Identifies a value: its memory and version (`+=` makes a new version)."""
    return tensor.untyped_storage().data_ptr(), tensor._version


# --- choosing the points -------------------------------------------------------------------------

_Tap = tuple[str, _Call, str]  # name of the layer, the call that is read, its side


def _taps(network: nn.Module, root: _Call, also: Sequence[str], inside: bool) -> list[_Tap]:
    """What is read, in order of execution; of a module that is called again, its last call."""
    classifier, softmax = _classifier(network, root), _own_softmax(root)
    ends = [call for call in (classifier, softmax) if call is not None]
    taps = [tap for tap in _body(root) if not any(end in _all_calls(tap[1]) for end in ends)]
    if inside:
        taps += _inside_blocks(root, taps)
    others = {*also} - {name for name, _, _ in taps}
    taps += [(call.name, call, "output") for call in _all_calls(root) if call.name in others]
    taps.sort(key=lambda tap: tap[1].started if tap[2] == "input" else tap[1].ended)
    taps += _tail(network, root, classifier, softmax)
    if not taps:
        raise LayerError(
            f"{type(network).__name__} executes no layer with weights, so nothing can be probed. "
            "Give a network with convolutions or linear layers."
        )
    last_calls: dict[str, _Tap] = {}
    for tap in taps:
        last_calls.pop(tap[0], None)
        last_calls[tap[0]] = tap
    return list(last_calls.values())


def _body(root: _Call) -> list[_Tap]:
    """Blocks, and single weight layers where these hold most of the network."""
    mixing = {type(call.module) for call in _all_calls(root) if not _is_chain(call)}
    blocks: list[_Call] = []
    loose: list[_Call] = []

    def visit(call: _Call, parent: _Call | None) -> None:
        n_weights = _n_weights(call)
        if parent is None or _is_container(call, mixing, _n_weights(root)):
            for child in call.children:
                visit(child, call)
        elif call.children and (
            n_weights >= 2 or (n_weights and type(parent.module) is nn.Sequential)
        ):
            blocks.append(call)
        elif not call.children:
            loose.append(call)
        else:
            loose.extend(leaf for leaf in _all_calls(call) if not leaf.children)

    visit(root, None)
    covered = len({id(w) for call in blocks for w in _weights(call)})
    if 2 * covered >= _n_weights(root):
        return [_before_activation(call) for call in blocks]
    ends = [(call.name, call, "output") for call in _ends_of_weight_layers(loose)]
    return [_before_activation(call) for call in blocks] + ends


def _is_container(call: _Call, mixing: set[type], n_all: int) -> bool:
    """Whether to look inside: a sequence, a stage of blocks, or a wrapper of most of it all."""
    if type(call.module) is nn.Sequential:
        return bool(call.children)
    inner = [child for child in call.children if _n_weights(child)]
    has_blocks = any(child.children and _n_weights(child) >= 2 for child in inner)
    if not has_blocks:
        return False
    stage = type(call.module) not in mixing and all(child.children for child in inner)
    return stage or 2 * _n_weights(call) > n_all


def _is_chain(call: _Call) -> bool:
    """Whether the children pass one value on, from the call's input to its output."""
    if not call.children:
        return True
    keys = [call.given_key] + [child.made_key for child in call.children]
    takes = [child.given_key for child in call.children] + [call.made_key]
    return None not in takes and keys == takes


def _before_activation(block: _Call) -> _Tap:
    """Read a block at its output; if that is an activation of a sum, at the sum."""
    moving = [call for call in block.children if call.given_key != call.made_key]
    if moving:
        end, earlier = moving[-1], {call.made_key for call in moving[:-1]}
        if (
            not list(end.module.parameters())
            and end.made_key == block.made_key
            and end.given_key not in earlier
            and _keeps_shape(end)
        ):
            return block.name, end, "input"
    return block.name, block, "output"


def _inside_blocks(root: _Call, blocks: Sequence[_Tap]) -> Iterator[_Tap]:
    """Modules inside blocks: the activation after a sum; in an MLP, the norm before it and
    the activation between its linear layers.
    """
    calls = {call.name: call for call in _all_calls(root)}
    for name, call, side in blocks:
        if side == "input":
            yield call.name, call, "output"
            continue
        leaves = [leaf for leaf in _all_calls(calls[name]) if not leaf.children]
        linear = [i for i, leaf in enumerate(leaves) if isinstance(leaf.module, nn.Linear)]
        for first, second in itertools.pairwise(linear[-2:]):
            between = [i for i in range(first + 1, second) if _is_activation(leaves[i])]
            norms = [i for i in range(first) if "Norm" in type(leaves[i].module).__name__]
            for i in (*norms[-1:], *between[:1]) if between else ():
                yield leaves[i].name, leaves[i], "output"


def _is_activation(call: _Call) -> bool:
    """Whether it is a module without weights that changes its input place by place."""
    is_plain = not list(call.module.parameters())
    return is_plain and _keeps_shape(call) and not isinstance(call.module, nn.Identity | nn.Dropout)


def _keeps_shape(call: _Call) -> bool:
    return call.given is not None and [made.shape for made in call.made] == [call.given.shape]


def _ends_of_weight_layers(leaves: list[_Call]) -> list[_Call]:
    """For every weight layer the last of the norm and activation that follow it.

    A shared activation ends no layer: it is called again later.
    """
    n_calls = Counter(call.name for call in leaves)
    ends: list[_Call] = []
    for call in leaves:
        if _n_weights(call):
            ends.append(call)
        elif (
            ends
            and n_calls[call.name] == 1
            and call.given_key == ends[-1].made_key != call.made_key
            and _keeps_shape(call)
        ):
            ends[-1] = call
    return ends


def _tail(
    network: nn.Module, root: _Call, classifier: _Call | None, softmax: _Call | None
) -> list[_Tap]:
    """Pooled features, logits and softmax, as far as the network ends in them."""
    if [made.ndim for made in root.made] != [2]:
        return []
    if classifier is None:
        return [(POOLED, root, "output")] if _has_no_head(network) else []
    call, side = (softmax, "input") if softmax else (root, "output")
    if not softmax and _is_softmax_of(root.made[0], classifier.made):
        call = classifier
    taps: list[_Tap] = [(LOGITS, call, side), (SOFTMAX, call, side)]
    own = next((call for call in _all_calls(root) if call.name == POOLED), None)
    if own is not None:
        return [(POOLED, own, "output"), *taps]
    given = classifier.given
    is_vector = given is not None and given[0].numel() == given.shape[1]
    if is_vector and _have_one_input(network, root):
        taps.insert(0, (POOLED, classifier, "input"))
    return taps


def _is_softmax_of(output: Tensor, made: Sequence[Tensor]) -> bool:
    """Whether an output is the (log) softmax of what a layer made, computed without a module."""
    logits = made[0].flatten(1) if len(made) == 1 and made[0].ndim > 1 else output
    return logits.shape == output.shape and any(
        torch.allclose(output, each, atol=1e-6)
        for each in (logits.softmax(dim=1), logits.log_softmax(dim=1))
    )


def _own_softmax(root: _Call) -> _Call | None:
    """The softmax that the network itself ends in, if it is a module."""
    ends = (call for call in _all_calls(root) if call.made_key == root.made_key)
    return next((c for c in ends if isinstance(c.module, nn.Softmax | nn.LogSoftmax)), None)


def _classifier(network: nn.Module, root: _Call) -> _Call | None:
    """The layer that makes the logits: timm's classifier, else the last layer with weights."""
    if _has_no_head(network):
        return None
    leaves = [call for call in _all_calls(root) if not call.children]
    heads = {module for head in _classifiers(network) for module in head.modules()}
    named = [call for call in leaves if call.module in heads and _n_weights(call)]
    weighted = [call for call in leaves if _n_weights(call)]
    if named:
        return named[0] if len(heads) == len(named) else named[-1]
    last = weighted[-1] if weighted else None
    if last is None or len(last.made) != 1 or len(root.made) != 1:
        return None
    made, output = last.made[0], root.made[0]
    is_same = made.shape[1] == output.shape[-1] and made.numel() == output.numel()
    return last if is_same else None


def _classifiers(network: nn.Module) -> list[nn.Module]:
    """The classifiers of a network as timm gives them: one, several if distilled, or none."""
    get: Any = getattr(network, "get_classifier", None)
    found = get() if get else None
    several = list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]
    return [head for head in several if isinstance(head, nn.Module)]


def _have_one_input(network: nn.Module, root: _Call) -> bool:
    """Whether all classifiers take the same features."""
    heads = _classifiers(network)
    taken = [call.given for call in _all_calls(root) if call.module in heads]
    return len({(each.data_ptr(), each.shape) for each in taken if each is not None}) < 2


def with_pooled_module(network: nn.Module) -> nn.Module:
    """The network itself; with several classifiers, timm's own pooled features pass a module.

    Each classifier of a distilled DeiT or a CrossViT takes a vector of its own. timm joins them in
    `forward_head(pre_logits=True)`, which no module of theirs gives.
    """
    head = getattr(network, "forward_head", None)
    is_joined = head is not None and "pre_logits" in inspect.signature(head).parameters
    if len(_classifiers(network)) > 1 and is_joined:
        network.__class__ = _pooling(type(network))
        network.add_module(POOLED, nn.Identity())
    return network


@functools.cache
def _pooling(kind: Any) -> type[nn.Module]:
    class Pooling(kind):
        def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
            features = self.get_submodule(POOLED)(kind.forward_head(self, x, pre_logits=True))
            return features if pre_logits else kind.forward_head(self, x)

    Pooling.__name__ = Pooling.__qualname__ = kind.__name__
    return Pooling


def _has_no_head(network: nn.Module) -> bool:
    """Whether timm made the network without a classifier (`num_classes=0`)."""
    return getattr(network, "num_classes", None) == 0


def _all_calls(call: _Call) -> Iterator[_Call]:
    yield call
    for child in call.children:
        yield from _all_calls(child)


def _weights(call: _Call) -> list[nn.Parameter]:
    return [parameter for parameter in call.module.parameters() if parameter.ndim >= 2]


def _n_weights(call: _Call) -> int:
    return len(_weights(call))


def _aliases(points: Sequence[ProbePoint]) -> list[str]:
    """The names of `graziani2021`: mixed0, mixed1, ... and add_1, add_2, ..."""
    n_mixed, n_add, names = 0, 0, []
    for point in points:
        if point.layer == LOGITS:
            names.append("pre_softmax")
        elif point.layer == SOFTMAX:
            names.append("softmax")
        elif point.layer.rpartition(".")[2].startswith("Mixed_"):
            names.append(f"mixed{n_mixed}")
            n_mixed += 1
        elif point.side == "input" and point.layer != POOLED:
            n_add += 1
            names.append(f"add_{n_add}")
        else:
            names.append("")
    return names


# --- properties of a point -----------------------------------------------------------------------


class _Trace:
    """What one watched forward pass says about the outputs of its calls, the outermost `root`."""

    def __init__(self, network: nn.Module, root: _Call) -> None:
        self.network, self.root = network, root
        self.calls = list(_all_calls(root))
        self.n_calls = Counter(call.name for call in self.calls)
        self.n_registers = n_registers(network)
        weighted = [(c, _widths(c.module)) for c in self.calls if not c.children]
        self._weighted = sorted((c.started, c.ended, *w) for c, w in weighted if w)
        self.grids = {
            made.shape[2] * made.shape[3]
            for call in self.calls
            if isinstance(call.module, nn.Conv2d)
            for made in call.made
        }

    def hints(self, call: _Call, side: str, prefix_tokens: int | None) -> Hints:
        """What is known of the output of a call, or of its input, besides shapes."""
        at = call.started if side == "input" else call.ended
        before = [given for _, ended, _, given in self._weighted if ended <= at]
        after = [taken for started, _, taken, _ in self._weighted if started >= at]
        formats = _owner_of(self.network, call.name, "output_fmt")
        prefix = _owner_of(self.network, call.name, "num_prefix_tokens")
        return Hints(
            chosen=(0,) if side == "input" else self._chosen(call),
            output_format=str(getattr(formats, "output_fmt", "")).rpartition(".")[2],
            widths=frozenset(before[-1:] + after[:1]),
            stated_prefix=int(getattr(prefix, "num_prefix_tokens", 0) or 0),
            given_prefix=prefix_tokens,
        )

    def _chosen(self, call: _Call) -> tuple[int, ...]:
        """Positions of the maps among the tensors of an output: those that are taken later.

        Attention weights that are returned with the map are not.
        """
        made = call.made
        if len(made) < 2 or call is self.root:
            return tuple(range(len(made)))
        later = set().union(*(c.takes for c in self.calls if c.started > call.ended))
        later |= {_key(tensor)[0] for tensor in self.root.made}
        taken = tuple(i for i, tensor in enumerate(made) if _key(tensor)[0] in later)
        if taken:
            return taken
        if len({(t.ndim, len(t)) for t in made}) == 1 and not any(
            _is_attention(t, made) for t in made
        ):
            return tuple(range(len(made)))
        raise LayerError(
            f"gives {len(made)} tensors, and no later layer takes one of them as it is; probe a "
            "layer before or after it"
        )


def _is_attention(tensor: Tensor, made: Sequence[Tensor]) -> bool:
    """Whether it holds a weight for each pair of places of another map."""
    if tensor.ndim != 4:
        return False
    places = {t.shape[a] * t.shape[a + 1] for t in made if t is not tensor for a in (1, 2)}
    return tensor.shape[-1] == tensor.shape[-2] and tensor.shape[-1] in places


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """Channels that the weight of a module takes and gives; None if it has no weight."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.ndim or isinstance(module, nn.Embedding):
        return None
    if weight.ndim == 1:
        return len(weight), len(weight)
    given, taken = weight.shape[:2]
    groups = getattr(module, "groups", 1)
    if getattr(module, "transposed", False):
        return given, taken * groups
    return taken * groups, given


def _point(
    trace: _Trace, image: Tensor, name: str, call: _Call, side: str, layout: Layout
) -> ProbePoint:
    value = [call.given] if side == "input" and call.given is not None else call.made
    maps = [value[i] for i in layout.chosen]
    reach = reach_of(maps, image)
    is_map = maps[0].ndim > 2 and name != POOLED
    return ProbePoint(
        layer=name,
        alias="",
        depth=0.0,
        module=call.name,
        side=side,
        channels=layout.channels,
        channel_axis=layout.channel_axis,
        prefix_tokens=layout.prefix_tokens,
        stride=(reach.stride or _stride_of(maps[0], layout, image)) if is_map else None,
        receptive_field=reach.field if is_map else None,
        parameters=reach.parameters,
        macs=call.macs_before if side == "input" else call.macs_after,
        n_calls=trace.n_calls[call.name],
        batch_axis=layout.batch_axis,
        chosen=layout.chosen if len(layout.chosen) < len(value) else (),
        has_class_token=layout.prefix_tokens > trace.n_registers,
    )


def _owner_of(network: nn.Module, name: str, attribute: str) -> nn.Module | None:
    """The innermost module around `name` that has this attribute, as modules of timm do."""
    parts = name.split(".") if name else []
    for n in range(len(parts), -1, -1):
        module = network.get_submodule(".".join(parts[:n]))
        if hasattr(module, attribute):
            return module
    return None


def _stride_of(output: Tensor, layout: Layout, image: Tensor) -> int | None:
    """Stride from the sizes alone, for what has no convolution graph (tokens, windows)."""
    n_channels = output.movedim(layout.batch_axis, 0).shape[layout.channel_axis]
    places = output.numel() // n_channels - layout.prefix_tokens
    return round((image.shape[2] * image.shape[3] / places) ** 0.5) if places > 1 else None


# --- receptive ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reach:
    """The part of the network and of the image that a value depends on."""

    # how many numbers of the network; None if it was computed without a graph
    parameters: int | None
    stride: int | None  # input pixels per step of the map
    # side of the receptive field in input pixels; None, like the stride, behind an operation that
    # mixes all places (attention, global pooling)
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
