"""The model card of a cut network, in the form of the Hugging Face hub."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from .network import CutNetwork


def card(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    """The text of `README.md`, from what `scalecut.json` says."""
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {_name(facts)}, cut after {_plain(cut.point.label)}",
        _what_it_is(facts, cut),
        _why_here(facts),
        _what_it_saves(facts["proof"]),
        _how_to_use(facts, cut),
        _where_from(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(facts: Mapping[str, Any]) -> ModelCardData:
    return ModelCardData(
        library_name="scalecut",
        pipeline_tag="image-feature-extraction" if not facts["head"] else None,
        license=facts["licence"],
        base_model=facts["base_model"],
        tags=["scalecut", "timm", "image-feature-extraction", "object-scale"],
    )


def _name(facts: Mapping[str, Any]) -> str:
    return _plain(facts["architecture"] or "A network")


def _what_it_is(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    pooled = {
        "mean": "averaged over all places",
        "cls": "of the class token",
        "both": "of the class token, and averaged over the patches",
    }[cut.pooling]
    ends = f"Images to {cut.num_features} features, {pooled}."
    if cut.num_classes:
        ends += f" A linear layer of {cut.num_classes} outputs follows; it has to be trained."
    return (
        f"The part of {_name(facts)} up to and with {_plain(cut.point.label)}, its weights "
        f"unchanged ({_source(facts)}). {ends}\n\n"
        "Late layers of a network that was trained to name objects may discard how large they are; "
        "whether earlier ones serve better where size is a finding is to be tested on the images "
        "at hand (`scalecut transfer`)."
    )


def _why_here(facts: Mapping[str, Any]) -> str:
    choice, curve = facts["choice"], facts["curve"]
    if choice is None or curve is None:
        return ""
    picture = (
        "\n\n![R² of object scale by layer](curve.png)" if "curve.png" in facts["files"] else ""
    )
    return f"## Why here\n\n{_plain(choice['reason'])}\n\n{_plain(curve['finding'])}{picture}"


def _what_it_saves(proof: Mapping[str, Any]) -> str:
    return "## What was checked\n\n" + "\n".join(f"- {_plain(line)}" for line in proof["lines"])


def _how_to_use(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    side = f"{cut.preprocessing.height} x {cut.preprocessing.width}"
    given, fresh = '"FOLDER"', ""
    if facts["architecture"] is None:
        given, fresh = '"FOLDER", network=whole', "  # whole: the uncut network, with any weights"
    return (
        "## Use\n\n```python\nimport scalecut\n\n"
        f"network = scalecut.load({given}){fresh}\n"
        "transform = scalecut.transform(network)  # PIL image to tensor\n"
        'features = scalecut.Features(network).transform(["image.png"])  # for scikit-learn\n'
        "```\n\nThe network is an ordinary `nn.Module`. Images are squashed to "
        f"{side} pixels, so that an object keeps its share of the picture."
    )


def _where_from(facts: Mapping[str, Any]) -> str:
    weights = facts["weights"]
    lines = [
        f"- Weights: {_source(facts)}"
        + (f", sha256 {weights['sha256']}" if weights["sha256"] else ""),
        f"- Licence of the weights: {facts['licence'] or 'not known; ask whoever gave them'}",
        "- Method: Graziani, Lompech, Müller, Depeursinge, Andrearczyk: On the Scale Invariance in "
        "State of the Art CNNs Trained on ImageNet. Machine Learning and Knowledge Extraction 3 "
        "(2021).",
        f"- Written {facts['written'][:10]} by scalecut {facts['versions']['scalecut']}"
        + (f": {_code(facts['command'])}" if facts["command"] else "")
        + ". `scalecut.json` has the rest.",
    ]
    return "## Where it comes from\n\n" + "\n".join(lines)


def _source(facts: Mapping[str, Any]) -> str:
    weights = facts["weights"]
    kind = "" if weights["kind"] == "pretrained" else f"{weights['kind']}, "
    return _plain(kind + weights["source"])


def _plain(text: str) -> str:
    """In one line, without what opens code or HTML in Markdown."""
    return re.sub(r"([\\`~<])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A code span in one line, between more backticks than follow one another inside."""
    text = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"
