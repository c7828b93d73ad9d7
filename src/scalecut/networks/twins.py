"""Fresh or permuted weights for a network, under a seed, such that a signal reaches its end.

As initialised, many networks are chains of identities: the last norm of each residual block and the
layer scales start at (almost) zero. A control must not owe its score to that.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SHUT = 0.1  # a constant scale below this lets next to nothing through


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build under a seed, the caller's random state untouched: the one place torch is seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def reinitialised(module: nn.Module) -> nn.Module:
    """A copy whose layers are reset; parameters that no layer resets keep their spread."""
    twin = copy.deepcopy(module)
    reset: set[int] = set()
    for layer in twin.modules():
        reset_parameters = getattr(layer, "reset_parameters", None)
        if callable(reset_parameters):
            reset_parameters()
            reset.update(id(parameter) for parameter in layer.parameters(recurse=False))
    with torch.no_grad():
        for parameter in twin.parameters():
            if id(parameter) in reset or not parameter.is_floating_point():
                continue
            if not _is_constant(parameter):
                parameter.normal_(0.0, float(parameter.nan_to_num().std()))
    return twin


def permuted(module: nn.Module) -> nn.Module:
    """A copy in which the values of every parameter have changed places: no structure is left."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            order = torch.randperm(parameter.numel()).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin


def open_branches(module: nn.Module) -> None:
    """Set to one every scale (norm weight, layer scale) that starts so near zero that it shuts."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            last = name.rpartition(".")[2]
            is_scale = max(parameter.shape, default=1) == parameter.numel()
            is_other = any(word in last for word in ("bias", "beta", "token", "pos"))
            if (
                is_scale
                and not is_other
                and parameter.is_floating_point()
                and _is_constant(parameter)
                and parameter.abs().max() < SHUT
            ):
                parameter.fill_(1.0)


def take_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every batch norm to the mean statistics over `batches`."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with _cumulative(norms), torch.no_grad():
        for batch in batches:
            module(batch)


@contextmanager
def _cumulative(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norms that average over all batches seen, in training mode; nothing else trains."""
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, value in zip(norms, momentum, strict=True):
            norm.momentum = value
            norm.eval()


def _is_constant(parameter: Tensor) -> bool:
    return bool((parameter == parameter.flatten()[0]).all())
