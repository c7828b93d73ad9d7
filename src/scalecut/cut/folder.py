"""The folder of a cut network: written whole, checked, and loaded without pickle or network.

`model.safetensors` holds the tensors, `scalecut.json` what is needed to build the network around
them and where everything comes from, `example.safetensors` a picture with its features, so that
anybody can see that the network still gives them, `README.md` is a model card.
"""

import copy
import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from huggingface_hub import ModelCardData
from jaxtyping import Float32
from safetensors.torch import load_file, save_file
from torch import nn

from .. import runs
from ..errors import ModelError, ScalecutError
from ..networks.load import hub_name, licence_of, load_network
from ..networks.network import Network, Preprocessing
from ..networks.points import ProbePoint
from ..probing.choose import Choice
from ..probing.curve import Curve
from ..runs import new_run, plain, versions
from .export import EXPORTS
from .network import CutNetwork, rebuilt
from .verify import Proof

MODEL, FACTS, EXAMPLE = "model.safetensors", "scalecut.json", "example.safetensors"
TOLERANCE = 1e-4  # of the largest feature, between a network and its exports
# fmt: off
NEEDED = (
    "architecture", "point.layer", "way", "entry", "pooling", "head", "num_features",
    "preprocessing", "proof.whole", "proof.cut", "proof.batch_size", "proof.lines", "versions",
    "files",
)  # a name after a dot is one inside the other
# fmt: on
BUILT_BY = ("scalecut", "torch", "timm")  # what decides how a network is built

# What building, running and filling another network than the one that was cut may raise.
_UNFIT = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    safetensors.SafetensorError,
)


def keep(
    cut: CutNetwork,
    folder: Path,
    whole: Network,
    proof: Proof,
    *,
    choice: Choice | None = None,
    curve: Curve | None = None,
    picture: Path | None = None,
    exports: Sequence[str] = (),
    command: str = "",
    verify: Callable[[Path], None] | None = None,
) -> dict[str, str]:
    """Write a cut network to `folder`; it is there whole or not at all.

    Args:
        whole: what it was cut from; its name is how it is built again.
        choice, curve, picture: what led to the cut, for the record and the card.
        exports: of `export.EXPORTS`. One that fails is left out, the cut is kept.
        verify: is given the folder as written, and can refuse it before it takes its place.

    Returns:
        The exports that failed, with the reason.

    Raises:
        OutputError: if `folder` is there and no cut of ours, or cannot be written.
    """
    with new_run(folder, "cut") as made:
        state = {n: t.detach().cpu().contiguous().clone() for n, t in cut.state_dict().items()}
        save_file(state, made / MODEL, metadata={"format": "pt"})
        _write_example(cut, made / EXAMPLE)
        failed = _export(cut, made, exports)
        if picture is not None:
            shutil.copyfile(picture, made / "curve.png")
        for path in made.iterdir():
            path.chmod(0o644)  # safetensors writes for its owner alone
        facts = {
            "format": runs.FORMATS["cut"],
            "architecture": whole.name if whole.build is not None else None,
            "point": cut.point,
            "way": cut.way,
            "entry": cut.entry,
            "pooling": cut.pooling,
            "head": cut.num_classes,
            "num_features": cut.num_features,
            "preprocessing": cut.preprocessing,
            "weights": {**asdict(whole.weights), "missing": len(whole.weights.missing)},
            "licence": licence_of(whole),
            "base_model": hub_name(whole),
            "choice": choice,
            "curve": _curve_facts(curve, choice),
            "costs": [] if cut.costs is None else cut.costs.to_dict("records"),
            "proof": {**asdict(proof), "lines": proof.lines()},
            "exports_failed": failed,
            "command": command,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "files": {path.name: _sha256(path) for path in sorted(made.iterdir())},
        }
        text = json.dumps(plain(facts), indent=2, ensure_ascii=False, allow_nan=False)
        (made / FACTS).write_text(text + "\n", encoding="utf-8")
        (made / "README.md").write_text(card(json.loads(text), cut), encoding="utf-8")
        if verify is not None:
            verify(made)
    return failed


def load(folder: str | Path, network: nn.Module | None = None) -> CutNetwork:
    """The cut network of a folder that `scalecut cut` wrote, in evaluation mode.

    Args:
        network: the whole network with any weights, where the folder was made from a module that
            has no name to build it by.

    Raises:
        DataError: if the folder holds no cut network, or one of a newer version.
        ModelError: if a file was changed since, or the network can no longer be built.
    """
    folder = Path(folder)
    facts = runs.read_run(folder, "cut", NEEDED).facts
    _check_unchanged(folder, facts, MODEL)
    name = facts["architecture"]
    if network is None and name is None:
        raise ModelError(
            f"{str(folder)!r} was cut from a module that has no name to build it by. Give "
            "load(folder, network=...) a fresh one; its weights do not matter."
        )
    whole = load_network(network if network is not None else name, weights="random")
    try:
        whole = replace(whole, preprocessing=preprocessing_of(facts))
        state = load_file(folder / MODEL)
        cut = rebuilt(
            whole,
            ProbePoint(**facts["point"]),
            way=facts["way"],
            entry=facts["entry"],
            pooling=facts["pooling"],
            head=facts["head"],
            tensors=set(state),
            costs=pd.DataFrame(facts["costs"]) if facts.get("costs") else None,
        )
        cut.load_state_dict(state)
    except _UNFIT as error:
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise ModelError(
            f"{str(folder)!r} does not fit {name or 'the network given'} as it is built here "
            f"({said}). {_remedy(facts['versions'])}"
        ) from error
    return cut.eval()


def check(folder: str | Path, network: nn.Module | None = None) -> dict[str, float]:
    """Load a folder's network and its exports and compare what they make of its example.

    Returns:
        By file, the largest difference from the features as they were when the folder was written,
        as a share of the largest.

    Raises:
        ModelError: if a file was changed or gives other features.
    """
    folder = Path(folder)
    facts = runs.read_run(folder, "cut", NEEDED).facts
    for name in facts["files"]:
        _check_unchanged(folder, facts, name)
    cut, example = load(folder, network), load_file(folder / EXAMPLE)
    images = _inputs(cut.preprocessing, example["image"].numpy())
    expected = example["output"].numpy()
    with torch.inference_mode():
        found = {MODEL: cut(images).numpy()}
    for each in EXPORTS.values():
        if each.file in facts["files"]:
            found[each.file] = each.features(folder / each.file, images.numpy())
    differences = {name: _difference(output, expected) for name, output in found.items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{name} of {str(folder)!r} gives other outputs than when it was written, by "
                f"{difference:.2g} of the largest. Check the versions in {FACTS}, or cut again."
            )
    return differences


def preprocessing_of(facts: Mapping[str, Any]) -> Preprocessing:
    """What a run or a cut says of its preprocessing."""
    given: dict[str, Any] = dict(facts["preprocessing"])
    given |= {"mean": tuple(given["mean"]), "std": tuple(given["std"])}
    return Preprocessing(**given)


# --- inside --------------------------------------------------------------------------------------


def _remedy(theirs: Mapping[str, str]) -> str:
    """What to do where the network is built otherwise than it was."""
    ours = versions()
    changed = [n for n in BUILT_BY if theirs.get(n) != ours[n]]
    if not changed:
        return "Cut it again."
    named = ", ".join(f"{n} {theirs.get(n)} (here {ours[n]})" for n in changed)
    return f"It was written with {named}: install what it was written with, or cut it again."


def _export(cut: CutNetwork, folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Write exports that give what the network gives; the reasons of those that do not."""
    failed: dict[str, str] = {}
    example = load_file(folder / EXAMPLE)
    images = _inputs(cut.preprocessing, example["image"].numpy()).numpy()
    for name in names:
        path = folder / EXPORTS[name].file
        try:
            EXPORTS[name].write(cut, path)
            difference = _difference(
                EXPORTS[name].features(path, images), example["output"].numpy()
            )
            if not difference <= TOLERANCE:
                raise ModelError(f"its outputs differ by {difference:.2g} of the largest")
        except ScalecutError as error:
            failed[name] = str(error)
            for half in folder.glob(f"{path.name}*"):  # large weights lie in a second file
                half.unlink()
    return failed


def _write_example(cut: CutNetwork, path: Path) -> None:
    """A picture of noise, and what the network makes of it and of its mirror images."""
    shape = (cut.preprocessing.height, cut.preprocessing.width, 3)
    image = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    some = next(cut.parameters(), torch.empty(0))
    with torch.inference_mode():
        still = copy.deepcopy(cut).eval()
        output = still(_inputs(cut.preprocessing, image).to(some.device)).float().cpu()
    save_file({"image": torch.from_numpy(image), "output": output.contiguous()}, path)


def _inputs(preprocessing: Preprocessing, image: np.ndarray) -> torch.Tensor:
    """An image and its mirror images, as the network takes them: (3, 3, h, w)."""
    return preprocessing.tensor(np.stack([image, image[:, ::-1], image[::-1]]))


def _difference(found: Float32[np.ndarray, "n c"], expected: Float32[np.ndarray, "m d"]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def _check_unchanged(folder: Path, facts: Mapping[str, Any], name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{str(folder)!r} lacks {name}. Copy it again, or cut again.")
    if _sha256(path) != facts["files"].get(name):
        raise ModelError(
            f"{name} of {str(folder)!r} is not the file that was written (its sha256 is another), "
            "so it is not used. Copy it again, or cut again."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _curve_facts(curve: Curve | None, choice: Choice | None) -> dict[str, object] | None:
    """What a reader must know of the curve that led to the cut."""
    if curve is None:
        return None
    facts = curve.provenance
    return {
        "finding": curve.finding(),
        "evidence": curve.evidence(choice.subset) if choice else curve.evidence(),
        **{name: facts.get(name) for name in ("command", "images", "probe", "written")},
    }


# --- card --------------------------------------------------------------------------------------


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
