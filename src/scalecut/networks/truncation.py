"""A network up to a probe point: stopped there, or without the modules that run after it."""

import copy
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import LayerError
from .hooks import maps_of, tensors_in, watch
from .points import ProbePoint

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class Reached(Exception):  # noqa: N818 - not an error: it ends a forward pass at the point
    """Raised at the point; carries its maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps


class Stop:
    """Ends the forward pass at a point, at the last call of its module.

    Each thread counts the calls of its own forward pass.
    """

    def __init__(self, point: ProbePoint) -> None:
        self.point = point
        self._calls = threading.local()

    def __getstate__(self) -> ProbePoint:
        return self.point

    def __setstate__(self, point: ProbePoint) -> None:
        self.__init__(point)

    def set_at(self, module: nn.Module) -> None:
        if self.point.side == "input":
            module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            module.register_forward_hook(self._after)

    def run(self, forward: Callable[[Tensor], object], images: Tensor) -> list[Tensor]:
        """Run `forward` up to the point and return its maps there."""
        self._calls.left = self.point.n_calls
        try:
            forward(images)
        except Reached as reached:
            return reached.maps
        raise LayerError(f"{self.point.label} was not reached. Cut the network again.")

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._count([args, kwargs])

    def _after(self, module: nn.Module, args: tuple, output: object) -> None:
        self._count(output)

    def _count(self, value: object) -> None:
        self._calls.left = getattr(self._calls, "left", self.point.n_calls) - 1
        if self._calls.left == 0:
            raise Reached(maps_of(value, self.point))


class PassOn(nn.Identity):
    """Replaces a module; returns its first input and ignores other arguments."""

    def forward(self, input: Tensor, *args: object, **kwargs: object) -> Tensor:
        return input


def stopped(network: nn.Module, point: ProbePoint) -> Stop:
    """Hook `network` in place so that it can be stopped at `point`."""
    stop = Stop(point)
    stop.set_at(network.get_submodule(point.module))
    return stop


def output_at(network: nn.Module, point: ProbePoint, images: Tensor) -> list[Tensor]:
    """The maps of a network at a point, before a later in-place operation can overwrite it."""
    trial = copy.deepcopy(network).eval()
    with torch.no_grad():
        return stopped(trial, point).run(trial, images)


def is_bypassed(network: nn.Module, point: ProbePoint, image: Tensor) -> bool:
    """Whether an output that depends on the point depends on the image by a path around it too.

    The output at the point is detached. If every path leads through it, no gradient reaches the
    image. Other outputs, such as earlier stages of an encoder, may depend on the image.
    """
    leaves: list[Tensor] = []

    def at_last_call(value: Any) -> Any:
        nonlocal n_left
        n_left -= 1
        if n_left:  # what earlier calls give is lost, if the later layers need it
            return None
        found = tree_map_only(Tensor, _leaf, value)
        leaves.extend(leaf for leaf in tensors_in(found) if leaf.requires_grad)
        return found

    trial = copy.deepcopy(network).eval().requires_grad_(True)
    n_left = point.n_calls
    watch(trial.get_submodule(point.module), point.side, at_last_call)
    image = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        ends = [end.sum() for end in tensors_in(trial(image.clone())) if end.requires_grad]
    for end in ends:
        gradients = torch.autograd.grad(end, [image, *leaves], allow_unused=True, retain_graph=True)
        if gradients[0] is not None and any(each is not None for each in gradients[1:]):
            return True
    return False


def truncated(network: nn.Module, point: ProbePoint, image: Tensor, *, shorter: bool) -> nn.Module:
    """A copy in which modules that are not needed up to the point return their input.

    Args:
        shorter: whether such modules are removed from the ends of sequences; some networks count
            their blocks.
    """
    before, after = _run_around(network, point, image)
    body = copy.deepcopy(network)
    for name, module in network.named_modules():
        holds_tensors = next(module.parameters(), None) is not None
        parent, _, child = name.rpartition(".")
        if name in before or not (name in after or holds_tensors) or parent not in before:
            continue
        if isinstance(module, CONTAINERS) and name not in after:  # its owner iterates over it
            before.add(name)  # so that its children are replaced
            continue
        # an empty Sequential also returns its input, and can still be iterated over
        stand_in = nn.Sequential() if type(module) is nn.Sequential else PassOn()
        body.get_submodule(parent).register_module(child, stand_in)
    for module in body.modules() if shorter else ():
        while type(module) is nn.Sequential and len(module) > 1 and _is_stand_in(module[-1]):
            delattr(module, next(reversed(module._modules)))  # `del` would renumber the others
    return body


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Outputs of a network for some images in evaluation and training mode."""

    maps: list[Tensor]  # in evaluation mode
    shapes_in_training: list[torch.Size]
    used: frozenset[str]  # parameters and buffers used in either mode, by name
    unreached: tuple[str, ...]  # used parameters without a gradient in training mode


def trial_of(network: nn.Module, method: str, images: Tensor) -> Trial:
    """Run a method of a copy of the network once in each mode."""
    trial = copy.deepcopy(network).requires_grad_(True)
    with torch.no_grad(), _Used(trial) as in_evaluation:
        maps = tensors_in(getattr(trial.eval(), method)(images))
    with torch.random.fork_rng(), torch.enable_grad(), _Used(trial) as in_training:
        ends = tensors_in(getattr(trial.train(), method)(images))
        sums = [end.sum() for end in ends if end.requires_grad]
    named = dict(trial.named_parameters())
    gradients = torch.autograd.grad(sums, list(named.values()), allow_unused=True)
    used = frozenset(in_evaluation.names | in_training.names)
    none = (name for name, each in zip(named, gradients, strict=True) if each is None)
    return Trial(maps, [end.shape for end in ends], used, tuple(n for n in none if n in used))


def drop_all_but(network: nn.Module, used: Set[str]) -> None:
    """Remove, in place, all parameters and buffers except those named."""
    for name, module in network.named_modules():
        for tensors in (module._parameters, module._buffers):
            for key in tensors:
                if f"{name}.{key}".removeprefix(".") not in used:
                    tensors[key] = None


def unsaved(network: nn.Module) -> set[str]:
    """Names of buffers that are not in the state dict, because the architecture defines them."""
    return {name for name, _ in network.named_buffers()} - network.state_dict().keys()


class _Used(TorchDispatchMode):
    """Records the names of the parameters and buffers that operations use."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._owners: dict[int, list[str]] = {}
        tensors = network.named_parameters(remove_duplicate=False)
        for name, tensor in (*tensors, *network.named_buffers(remove_duplicate=False)):
            self._owners.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor):
                self.names.update(self._owners.get(leaf.untyped_storage().data_ptr(), ()))
        return func(*args, **(kwargs or {}))


def _run_around(network: nn.Module, point: ProbePoint, image: Tensor) -> tuple[set[str], set[str]]:
    """Names of the modules that are needed up to a point, and of those that run only after it.

    A module that is not called is needed too if its tensors are used, as inside attention, or if it
    holds the module of the point.
    """
    trial = copy.deepcopy(network).eval()
    record = _Used(trial)
    before: set[str] = set()
    started: set[str] = set()
    n_left = point.n_calls

    def reach(*_: object) -> None:
        nonlocal n_left
        n_left -= 1
        if n_left == 0:
            before.update(started, (name.rpartition(".")[0] for name in record.names))

    watch(trial.get_submodule(point.module), point.side, reach)
    for name, module in trial.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: started.add(name))
    with torch.no_grad(), record:
        trial(image)
    held = (*before, point.module)
    parents = {".".join(name.split(".")[:n]) for name in held for n in range(name.count(".") + 1)}
    return before | parents, started - before - parents


def _is_stand_in(module: nn.Module) -> bool:
    return type(module) is PassOn or (type(module) is nn.Sequential and not len(module))


def _leaf(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    # multiplied, because in-place operations are not allowed on leaves
    return tensor.detach().clone().requires_grad_() * 1.0
