"""A network that ends after a layer: later modules are removed, earlier ones are unchanged.

The network keeps its class, its code and the names of its tensors. `way` says how it was cut; the
first of these that gives the same output is used:

- *passed on*: modules that run after the layer are replaced by ones that return their input, so
  that the network's own forward pass ends with the output of the layer;
- *stopped*: the forward pass ends at the layer. This works for every network, also where the code
  after the layer is not a module (`torch.flatten`, a list of branches), but without gradient
  checkpointing.

The network is not traced: torch.fx fails on some networks of timm and keeps deep blocks of others.
"""

import copy
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import OF_NETWORKS, LayerError, ModelError
from ..figures.analyses import saving_drawing
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..networks.hooks import pool, tensors_in
from ..networks.load import load_network
from ..networks.network import Network, Preprocessing, tensors_sha256
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..networks.selection import chosen_points, every_point
from ..networks.sources import check_named_in_file
from ..networks.truncation import (
    Trial,
    drop_all_but,
    is_bypassed,
    output_at,
    stopped,
    trial_of,
    truncated,
    unsaved,
)
from ..probing.curve import Curve, check_model

PASSED_ON, STOPPED = "passed on", "stopped"
POOLINGS = ("mean", "cls", "both")
Maps: TypeAlias = Tensor | list[Tensor]


class CutNetwork(nn.Module):
    """Images (n, 3, h, w) to pooled features (n, c), or to the outputs of a linear head.

    It follows timm's conventions: `forward_features`, `forward_head`, `num_features`,
    `num_classes`, `reset_classifier`, `set_grad_checkpointing`, `pretrained_cfg`.

    Args:
        body: the network without the modules that run after the point.
        point: where it is cut.
        way: `passed on` or `stopped`.
        entry: the method of `body` that is called: `forward_features` or `forward`.
        preprocessing: of the whole network.
        pooling: of tokens: `mean` over the patches, `cls`, or `both` concatenated; maps are
            averaged.
        head: outputs of a new linear layer after the features; 0 for none.
        costs: `layer, alias, depth, parameters, macs` up to each layer of the whole network; None
            if it was cut at a `ProbePoint`.
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

    def extra_repr(self) -> str:
        """All that shapes the features besides modules and tensors; part of the keys of caches."""
        return f"{self.point}, way={self.way!r}, entry={self.entry!r}, pooling={self.pooling!r}"

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
        """The output of the layer before pooling: a map, or a list of several."""
        run = getattr(self.body, self.entry)
        maps = self.stop.run(run, images) if self.stop else tensors_in(run(images))
        return maps[0] if len(maps) == 1 else maps

    def forward_head(self, maps: Maps, pre_logits: bool = False) -> Float[Tensor, "n c"]:
        """The outputs of the head, or the pooled features if `pre_logits` or without a head."""
        found = tensors_in(maps)
        features = pool(found, self.point.channel_axis, self.point.prefix_tokens)
        if self.pooling != "mean":
            token = torch.cat([each[:, 0] for each in found], dim=1).to(features.dtype)
            features = token if self.pooling == "cls" else torch.cat([token, features], dim=1)
        if pre_logits or isinstance(self.head, nn.Identity):
            return features
        return self.head(features.to(next(self.head.parameters()).dtype))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new linear layer, or by none for 0 classes.

        Raises:
            LayerError: if the pooling does not suit the layer.
        """
        if num_classes < 0:
            raise LayerError(f"--head must be at least 0, got {num_classes}. Give 0 for no head.")
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
        """The head."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, if the whole network supports it.

        Raises:
            LayerError: if it does not.
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
        """Names of the parameters without weight decay in timm's optimisers."""
        own = getattr(self.body, "no_weight_decay", set)
        left = {name for name, _ in self.named_parameters()}
        return {f"body.{name}" for name in own()} & left

    @property
    def pretrained_cfg(self) -> dict[str, object]:
        """The configuration for `timm.data.resolve_model_data_config`.

        Raises:
            ModelError: if the channels are blue, green, red, unsupported by timm's transforms.
        """
        if self.preprocessing.channels != "rgb":
            raise ModelError(
                f"This network takes channels in the order {self.preprocessing.channels}, which "
                "timm's transforms do not support. Use scalecut.create_transform(network)."
            )
        height, width = self.preprocessing.height, self.preprocessing.width
        return {
            "input_size": (3, height, width),
            "mean": self.preprocessing.mean,
            "std": self.preprocessing.std,
            "interpolation": self.preprocessing.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "squash",  # the whole image, because a crop changes the share of an object
            "num_classes": self.num_classes,
            "classifier": "head",
        }

    default_cfg = pretrained_cfg


def cut_after(
    model: str | nn.Module | Network,
    layer: str | ProbePoint,
    *,
    weights: str | Path = "pretrained",
    pooling: str = "mean",
    head: int = 0,
) -> CutNetwork:
    """A copy of a network that ends after `layer`.

    Args:
        model: as for `load_network`. It is not changed.
        layer: name or alias of a probe point, name of any other module, or a `ProbePoint`.
        weights: pretrained, random, or a safetensors or state-dict file.
        pooling: `mean` over places or patches, `cls`, or `both` concatenated.
        head: outputs of a new linear layer; 0 for the pooled features themselves.

    Raises:
        LayerError: if there is no such layer, if it is not executed, or if it is in one of several
            parallel branches, so that the others would be lost.
        ModelError: if the network is not known or does not run at its input size.
    """
    whole = load_network(model, weights=weights)
    point, costs = (layer, None) if isinstance(layer, ProbePoint) else _named(whole, layer)
    if point.layer in (LOGITS, SOFTMAX):
        raise LayerError(
            f"{point.label} is the whole network, so there is nothing to cut off. Cut at an "
            "earlier layer; `scalecut layers MODEL` lists them."
        )
    pooling = _suited(pooling, point)
    images = torch.cat([whole.example(), whole.example().flip(-1)])
    _check_no_branch(whole, point)
    bodies = {
        way: truncated(whole.module, point, images[:1], shorter=way == PASSED_ON)
        for way in (PASSED_ON, STOPPED)
    }
    expected = output_at(whole.module, point, images)
    entries = [name for name in ("forward_features", "forward") if hasattr(whole.module, name)]

    def made(way: str, entry: str) -> tuple[CutNetwork, Trial]:
        how = {"way": way, "entry": entry, "preprocessing": whole.preprocessing, "costs": costs}
        cut = CutNetwork(copy.deepcopy(bodies[way]), point, **how, pooling=pooling)
        trial = trial_of(cut, "forward_features", images)
        drop_all_but(cut, trial.used | unsaved(cut))
        return cut, trial

    for entry in entries:
        with suppress(*OF_NETWORKS):
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
    """The network that `cut_after` made before, ready to load its state dict.

    Args:
        whole: the whole network, with any weights.
        point, way, entry, pooling, head, costs: of the cut network.
        tensors: names in its state dict; all others are removed.
    """
    body = truncated(whole.module, point, whole.example(), shorter=way == PASSED_ON)
    how = {"way": way, "entry": entry, "preprocessing": whole.preprocessing}
    cut = CutNetwork(body, point, **how, pooling=pooling, head=head, costs=costs)
    drop_all_but(cut, tensors | unsaved(cut))
    return cut.eval()


def network_of_run(
    run: str | Path,
    curve: Curve,
    *,
    model: str = "",
    weights: str = "",
    allow_partial: bool = False,
) -> Network:
    """The network that a run was made with: its weights and its preprocessing.

    Args:
        model: its name, needed for a `module.path:factory`: a run may be somebody else's.

    Raises:
        ModelError: if the network cannot be loaded, or if its weights are not those of the run.
    """
    facts: dict[str, Any] = curve.provenance
    settings: dict[str, Any] = facts.get("settings", {})
    name = str(curve.table.model.iloc[0])
    if model:
        check_model(curve, Path(run), model)
    else:
        remedy = "If you trust it, name it yourself: scalecut cut module.path:factory --from RUN."
        check_named_in_file(name, f"The run {str(run)!r} is of", remedy)
    whole = load_network(
        name,
        weights=weights or settings.get("weights", "pretrained"),
        allow_partial=allow_partial or settings.get("allow_partial", False),
        seed=settings.get("seed", 0),
    )
    if tensors_sha256(whole.module) != facts.get("tensors_sha256"):
        if whole.weights.kind == "random" and facts["weights"]["kind"] == "random":
            raise ModelError(
                f"The run {str(run)!r} is of {name} with random weights that are adapted to its "
                "images (batch norms, branches that begin closed), so it cannot be cut. Cut a run "
                "of trained weights, or random ones as they are: --weights random --at LAYER, "
                "without --from."
            )
        raise ModelError(
            f"The run {str(run)!r} is of {name} with other weights "
            f"({facts['weights']['source']}). Give those by --weights, or probe these."
        )
    return replace(
        whole,
        preprocessing=preprocessing_of(facts),
        prefix_tokens=settings.get("prefix_tokens"),
        points=settings.get("points", "blocks"),
    )


def preprocessing_of(facts: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in the JSON file of a run or a cut."""
    given: dict[str, Any] = dict(facts["preprocessing"])
    given |= {"mean": tuple(given["mean"]), "std": tuple(given["std"])}
    return Preprocessing(**given)


def _named(network: Network, name: str) -> tuple[ProbePoint, pd.DataFrame]:
    """The point of this name, and the cost of every layer of the whole network."""
    points, refused = every_point(network, [name])
    try:
        found, left_out = chosen_points(network, [name], every=(points, refused))
    except LayerError as error:
        if name not in dict(network.module.named_modules()) or name in refused:
            raise
        raise LayerError(
            f"{name!r} is a module of {network.name}, but it is not executed for an image, so it "
            "has no output. `scalecut layers MODEL` lists the layers that are executed."
        ) from error
    if left_out:
        raise LayerError(
            f"{left_out[0].name} {left_out[0].reason}. Cut at an earlier layer, or give complete "
            "weights."
        )
    if len(found) != 1:
        raise LayerError(
            f"{name!r} matches {len(found)} layers, but a network is cut at one. Give "
            f"{found[0].layer!r}, or another of them."
        )
    columns = ("layer", "alias", "depth", "parameters", "macs")
    rows = [
        {column: getattr(point, column) for column in columns}
        for point in points
        if point.layer != SOFTMAX  # which needs the same as the logits
    ]
    return found[0], pd.DataFrame(rows)


def _suited(pooling: str, point: ProbePoint) -> str:
    """The name of a pooling, given by our name or by timm's, if the point supports it."""
    name = {"avg": "mean", "token": "cls", "": "mean"}.get(pooling, pooling)
    if name not in POOLINGS:
        raise LayerError(f"No pooling is named {pooling!r}. Give mean, cls or both.")
    if name != "mean" and not point.has_class_token:
        raise LayerError(
            f"{point.label} has no class token, which pooling {pooling!r} needs. Give mean."
        )
    return name


def _check_no_branch(whole: Network, point: ProbePoint) -> None:
    if not is_bypassed(whole.module, point, whole.example()):
        return
    points, _ = chosen_points(whole)
    around = [p.label for p in points if point.layer.startswith(f"{p.layer}.")]
    raise LayerError(
        f"{point.label} is in one of several parallel branches, and the outputs of the others "
        f"would be lost. Cut at {around[0] if around else 'the block around it'}."
    )


def _is_same(trial: Trial, maps: list[Tensor]) -> bool:
    """Whether a trial gave a layer's output: bit by bit, and in training mode of the same shape."""
    shapes = [each.shape for each in maps]
    return (
        shapes == [each.shape for each in trial.maps] == trial.shapes_in_training
        and all(torch.equal(a, b) for a, b in zip(trial.maps, maps, strict=True))
    )  # fmt: skip
