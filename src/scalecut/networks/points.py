"""A probe point: one place in a network at which features are read. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

POOLED, LOGITS, SOFTMAX = "pooled", "logits", "softmax"


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """One place in a network at which features are read.

    Args:
        layer: dotted PyTorch name; `pooled`, `logits` and `softmax` for the three last.
        alias: the name of `graziani2021` for it, or empty.
        depth: 0 at the first point, 1 at the last.
        module: the module that is watched ("" is the network itself).
        side: where it is watched: `input` or `output`.
        channels: length of the pooled vector.
        channel_axis: 1 for (n, c, h, w), -1 where the channels come last.
        prefix_tokens: tokens at the start that are no patches (class token, registers), and not
            part of the mean.
        stride: input pixels per step of the map; None where there is no map.
        receptive_field: side in input pixels; None where attention or global pooling undoes it.
        parameters: number of parameters it depends on; None if the network runs without gradients.
        macs: multiply-accumulates for one image, of everything executed up to the point.
        n_calls: how often the module runs in one forward pass; the last call counts.
        batch_axis: the axis of the images, which is moved to the front.
        chosen: positions of the maps among the tensors that the module gives; empty for all.
        has_class_token: whether the first of the prefix tokens is a class token.
    """

    layer: str
    alias: str
    depth: float
    module: str
    side: str
    channels: int
    channel_axis: int = 1
    prefix_tokens: int = 0
    stride: int | None = None
    receptive_field: int | None = None
    parameters: int | None = None
    macs: int = 0
    n_calls: int = 1
    batch_axis: int = 0
    chosen: tuple[int, ...] = ()
    has_class_token: bool = False

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "ProbePoint":
        """The point that a JSON file describes."""
        return cls(**{**facts, "chosen": tuple(facts.get("chosen", ()))})

    @property
    def name_facts(self) -> dict[str, Any]:
        """Its columns in the tables of results: `layer`, `alias` and `depth`."""
        return {"layer": self.layer, "alias": self.alias, "depth": self.depth}

    @property
    def label(self) -> str:
        """The name, with the paper's where there is one: `Mixed_7a (mixed8)`."""
        is_new = self.alias and self.alias != self.layer
        return f"{self.layer} ({self.alias})" if is_new else self.layer
