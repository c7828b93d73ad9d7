"""The model card of a cut network, in the form of the Hugging Face hub."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from .cut import CutNetwork


def card(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    """The text of `README.md`, from what `scalecut.json` says."""
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {_name(facts)}, cut after {cut.point.label}",
        _what_it_is(facts, cut),
        _why_here(facts),
        _what_it_saves(facts["proof"]),
        _how_to_use(cut),
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
    return facts["architecture"] or "A network"


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
        f"The part of {_name(facts)} up to and with {cut.point.label}, its weights unchanged "
        f"({facts['weights']['source']}). {ends}\n\n"
        "Late layers of networks that were trained to name objects discard how large the objects "
        "are. Where size is a finding, the features of an earlier layer serve better, at less cost."
    )


def _why_here(facts: Mapping[str, Any]) -> str:
    choice, curve = facts["choice"], facts["curve"]
    if choice is None or curve is None:
        return ""
    picture = (
        "\n\n![R² of object scale by layer](curve.png)" if "curve.png" in facts["files"] else ""
    )
    return f"## Why here\n\n{choice['reason']}\n\n{curve['finding']}{picture}"


def _what_it_saves(proof: Mapping[str, Any]) -> str:
    return "## What was checked\n\n" + "\n".join(f"- {line}" for line in proof["lines"])


def _how_to_use(cut: CutNetwork) -> str:
    side = f"{cut.preprocessing.height} x {cut.preprocessing.width}"
    return (
        "## Use\n\n```python\nimport scalecut\n\n"
        'network = scalecut.load("FOLDER")            # an ordinary nn.Module\n'
        'transform = scalecut.transform("FOLDER")     # PIL image to tensor\n'
        'features = scalecut.Features("FOLDER").transform(["image.png"])  # for scikit-learn\n'
        f"```\n\nImages are squashed to {side} pixels, so that an object keeps its share of the "
        "picture."
    )


def _where_from(facts: Mapping[str, Any]) -> str:
    weights = facts["weights"]
    lines = [
        f"- Weights: {weights['source']}"
        + (f", sha256 {weights['sha256']}" if weights["sha256"] else ""),
        f"- Licence of the weights: {facts['licence'] or 'not known; ask whoever gave them'}",
        "- Method: Graziani, Lompech, Müller, Depeursinge, Andrearczyk: On the Scale Invariance in "
        "State of the Art CNNs Trained on ImageNet. Machine Learning and Knowledge Extraction 3 "
        "(2021).",
        f"- Written {facts['written'][:10]} by scalecut {facts['versions']['scalecut']}"
        + (f": `{facts['command']}`" if facts["command"] else "")
        + ". `scalecut.json` has the rest.",
    ]
    return "## Where it comes from\n\n" + "\n".join(lines)
