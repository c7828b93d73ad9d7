"""A shorter network: everything behind a layer taken off, everything before it as it was.

The network keeps its own class, its own code and the names of its tensors. It is cut in one of two
ways, the first that gives the same output:

- *passed on*: what runs after the layer is replaced by modules that hand their input on, so that
  the network's own forward pass ends with the output of the layer;
- *stopped*: the forward pass is left at the layer. This works for any network, also where code
  between modules stands behind the layer (`torch.flatten`, a list of branches); only gradient
  checkpointing is lost.

Neither traces the network: torch.fx fails on some of timm's and keeps deep blocks of others alive.
"""

import copy
from collections.abc import Set
from contextlib import suppress

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import LayerError, ModelError
from ..figures.analyses import saving_drawing
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..networks.hooks import pool
from ..networks.layers import select_layers, tensors_in
from ..networks.load import load_network
from ..networks.network import Network, Preprocessing
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..networks.selection import answerable, chosen_points, every_point
from ..networks.truncation import (
    Maps,
    Trial,
    drop_all_but,
    output_at,
    passes_by,
    stopped,
    tried,
    unsaved,
    without_the_rest,
)

PASSED_ON, STOPPED = "passed on", "stopped"
POOLINGS = ("mean", "cls", "both")

# What code between modules may raise when it is given another layer's output.
_UNSUITED = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


class CutNetwork(nn.Module):
    """Images (n, 3, h, w) to pooled features (n, c), or to the outputs of a linear head.

    Follows timm's conventions: `forward_features`, `forward_head`, `num_features`, `num_classes`,
    `reset_classifier`, `set_grad_checkpointing`, `pretrained_cfg`.

    Args:
        body: the network without what ran after the point.
        point: where it was cut.
        way: `passed on` or `stopped`.
        entry: the method of `body` that is called: `forward_features` or `forward`.
        pooling: of tokens: `mean` over the patches, `cls`, or `both` joined; maps are averaged.
        head: outputs of a new linear layer behind the features; 0 for none.
        costs: `layer, alias, depth, parameters, macs` up to each layer of the whole network, if it
            was cut by the name of a layer.
    """

    def __init__(
        self,
        body: nn.Module,
        point: ProbePoint,
        *,
        way: str,
        entry: str,
        preprocessing: Preprocessing,
        pooling: str = "mean",
        head: int = 0,
        costs: pd.DataFrame | None = None,
    ) -> None:
        super().__init__()
        self.costs = costs
        self.body = body
        self.point = point
        self.way = way
        self.entry = entry
        self.preprocessing = preprocessing
        self.head: nn.Module = nn.Identity()
        self.grad_checkpointing = False
        self.reset_classifier(head, pooling)
        self.stop = stopped(body, point) if way == STOPPED else None

    def _repr_html_(self) -> str:
        table = pd.DataFrame(
            {
                "layer": [self.point.label],
                "depth": [self.point.depth],
                "features": [self.num_features],
                "pooling": [self.pooling],
                "head": [self.num_classes],
                "parameters": [sum(each.numel() for each in self.parameters())],
                "input": [f"{self.preprocessing.height} x {self.preprocessing.width} px"],
            }
        )
        name, figure = type(self.body).__name__, None
        if self.costs is not None:
            figure = page_figure(saving_drawing(self.costs, name, self.point.layer))
        return html_of(f"{name}, cut after {self.point.label}", table, figure)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Float[Tensor, "n 3 h w"]) -> Maps:
        """The output of the layer, before pooling."""
        run = getattr(self.body, self.entry)
        return self.stop.run(run, images) if self.stop else run(images)

    def forward_head(self, maps: Maps, pre_logits: bool = False) -> Float[Tensor, "n c"]:
        """Pooled features, and the head's outputs unless `pre_logits`."""
        features = pool(maps, self.point.channel_axis, self.point.prefix_tokens)
        if self.pooling != "mean":
            token = next(iter(tensors_in(maps)))[:, 0].to(features.dtype)
            features = token if self.pooling == "cls" else torch.cat([token, features], dim=1)
        if pre_logits or isinstance(self.head, nn.Identity):
            return features
        return self.head(features.to(next(self.head.parameters()).dtype))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh linear head, or none for 0 classes; `global_pool` changes the pooling.

        Raises:
            LayerError: if the pooling does not suit the layer.
        """
        if num_classes < 0:
            raise LayerError(f"A head cannot have {num_classes} outputs. Give 0 for none.")
        if global_pool is not None:
            self.pooling = _suited(global_pool, self.point)
        n_joined = 2 if self.pooling == "both" else 1
        self.num_features = self.head_hidden_size = n_joined * self.point.channels
        self.num_classes = num_classes
        some = next(self.body.parameters(), torch.empty(0))
        self.head = (
            nn.Linear(self.num_features, num_classes, device=some.device, dtype=some.dtype)
            if num_classes
            else nn.Identity()
        )

    def get_classifier(self) -> nn.Module:
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, where the whole network can.

        Raises:
            LayerError: if it cannot.
        """
        own = getattr(self.body, "set_grad_checkpointing", None)
        if enable and (own is None or self.way == STOPPED):
            raise LayerError(
                f"{type(self.body).__name__} cut after {self.point.layer} has no gradient "
                "checkpointing. Train with smaller batches, or cut at another layer."
            )
        if own is not None:
            own(enable)
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimisers do not decay."""
        own = getattr(self.body, "no_weight_decay", set)
        left = {name for name, _ in self.named_parameters()}
        return {f"body.{name}" for name in own()} & left

    @property
    def pretrained_cfg(self) -> dict[str, object]:
        """What `timm.data.resolve_model_data_config` asks for.

        Raises:
            ModelError: if the network takes blue-green-red, which timm's transforms cannot give.
        """
        if self.preprocessing.channels != "rgb":
            raise ModelError(
                f"This network takes {self.preprocessing.channels}, which timm's transforms do not "
                "give. Use scalecut.transform(network)."
            )
        height, width = self.preprocessing.height, self.preprocessing.width
        return {
            "input_size": (3, height, width),
            "mean": self.preprocessing.mean,
            "std": self.preprocessing.std,
            "interpolation": self.preprocessing.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "squash",  # the whole picture: its sizes are what the network was kept for
            "num_classes": self.num_classes,
            "classifier": "head",
        }

    default_cfg = pretrained_cfg


def cut_after(
    network: nn.Module | Network, layer: str | ProbePoint, *, pooling: str = "mean", head: int = 0
) -> CutNetwork:
    """A new network that ends with `layer`; the given one is left as it is.

    Args:
        layer: name or alias of a probe point, name of any other module, or a point.
        pooling: `mean` over places or patches, `cls`, or `both` joined.
        head: outputs of a new linear layer; 0 for the pooled features themselves.

    Raises:
        LayerError: if there is no such layer, it is not executed, or lies in one of several
            parallel ways, so that the others would be lost.
        ModelError: if the network does not run at its input size.
    """
    whole = network if isinstance(network, Network) else load_network(network)
    point, costs = (layer, None) if isinstance(layer, ProbePoint) else _named(whole, layer)
    if point.layer in (LOGITS, SOFTMAX):
        raise LayerError(
            f"{point.label} is the whole network, so there is nothing to cut off. Cut at an "
            "earlier layer; `scalecut layers MODEL` prints them."
        )
    pooling = _suited(pooling, point)
    images = torch.cat([whole.example(), whole.example().flip(-1)])
    _check_is_only_way(whole, point)
    body = without_the_rest(whole.module, point, images[:1])
    expected = output_at(whole.module, point, images)
    entries = [name for name in ("forward_features", "forward") if hasattr(whole.module, name)]

    def made(way: str, entry: str) -> tuple[CutNetwork, Trial]:
        how = {"way": way, "entry": entry, "preprocessing": whole.preprocessing, "costs": costs}
        cut = CutNetwork(copy.deepcopy(body), point, **how, pooling=pooling)
        trial = tried(cut, "forward_features", images)
        drop_all_but(cut, trial.used)
        return cut, trial

    for entry in entries:
        with suppress(*_UNSUITED):
            cut, trial = made(PASSED_ON, entry)
            if _is_same(trial, expected) and not trial.unreached:
                break
    else:
        cut, _ = made(STOPPED, "forward")
    cut.reset_classifier(head)
    return cut.train(whole.module.training)


def rebuilt(
    whole: Network,
    point: ProbePoint,
    *,
    way: str,
    entry: str,
    pooling: str,
    head: int,
    tensors: Set[str],
    costs: pd.DataFrame | None = None,
) -> CutNetwork:
    """The cut network that `cut_after` made once, with any weights, to load its own into.

    Args:
        tensors: names in its state dict; others are taken off.
    """
    body = without_the_rest(whole.module, point, whole.example())
    how = {"way": way, "entry": entry, "preprocessing": whole.preprocessing}
    cut = CutNetwork(body, point, **how, pooling=pooling, head=head, costs=costs)
    drop_all_but(cut, tensors | unsaved(cut))
    return cut.eval()


# --- inside --------------------------------------------------------------------------------------


def _named(network: Network, name: str) -> tuple[ProbePoint, pd.DataFrame]:
    """The point of this name, and what every layer of the whole network costs."""
    points = every_point(network, [name])
    try:
        found, left_out = answerable(network, select_layers(points, [name]))
    except LayerError as error:
        if name not in dict(network.module.named_modules()):
            raise
        raise LayerError(
            f"{name!r} is in {network.name}, but is not executed for an image, so nothing can be "
            "cut after it. `scalecut layers MODEL` prints the layers that are."
        ) from error
    if left_out:
        raise LayerError(
            f"{left_out[0].name} {left_out[0].reason}. Cut at an earlier layer, or give weights "
            "that hold it."
        )
    if len(found) != 1:
        raise LayerError(
            f"{name!r} fits {len(found)} layers, but a network is cut at one. Give "
            f"{found[0].layer!r}, or another of them."
        )
    columns = ("layer", "alias", "depth", "parameters", "macs")
    rows = [
        {column: getattr(point, column) for column in columns}
        for point in points
        if point.layer != SOFTMAX  # which needs nothing that the logits do not
    ]
    return found[0], pd.DataFrame(rows)


def _suited(pooling: str, point: ProbePoint) -> str:
    """The name of a pooling, as ours or as timm's, if the point has what it needs."""
    name = {"avg": "mean", "token": "cls", "": "mean"}.get(pooling, pooling)
    if name not in POOLINGS:
        raise LayerError(f"No pooling is named {pooling!r}. Give mean, cls or both.")
    if name != "mean" and not point.prefix_tokens:
        raise LayerError(
            f"{point.label} has no class token, so pooling {pooling!r} has nothing to take. "
            "Give mean."
        )
    return name


def _check_is_only_way(whole: Network, point: ProbePoint) -> None:
    if not passes_by(whole.module, point, whole.example()):
        return
    points, _ = chosen_points(whole)
    around = [p.label for p in points if point.layer.startswith(f"{p.layer}.")]
    raise LayerError(
        f"{point.label} lies in one of several parallel ways: cut there, what the others carry "
        f"would be lost. Cut at {around[0] if around else 'a block around it'}."
    )


def _is_same(trial: Trial, expected: Maps) -> bool:
    """Whether a trial gave a layer's output: to the last bit, in training of the same shape."""
    maps = list(tensors_in(expected))
    shapes = [each.shape for each in maps]
    return (
        shapes == [each.shape for each in trial.maps] == trial.shapes_in_training
        and all(torch.equal(a, b) for a, b in zip(trial.maps, maps, strict=True))
    )  # fmt: skip
