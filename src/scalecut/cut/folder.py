"""The folder of a cut network: verified, written atomically, and loaded without pickle.

`model.safetensors` holds the tensors. `scalecut.json` holds what is needed to build the network
around them, and where it comes from. `example.safetensors` holds an image and its features, so that
the network can be checked at any time. `README.md` is a model card, `report.html` a page, and
`curve.png` the curve by which the layer was chosen.
"""

import copy
import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import safetensors
import torch
from huggingface_hub import ModelCardData
from jaxtyping import Float32
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import nn

from .. import runs
from ..cache import file_sha256
from ..data.images import MEAN
from ..errors import OF_NETWORKS, ModelError, ScalecutError, check_names
from ..figures.curve import curve_drawing
from ..figures.drawing import page_figure
from ..networks.hub import hub_file
from ..networks.load import hub_name, licence_of, load_network
from ..networks.network import Network, Preprocessing
from ..networks.points import ProbePoint
from ..networks.sources import build_again, check_named_in_file, hub_replayed, is_factory
from ..probing.choose import Choice
from ..probing.curve import Curve
from ..report.report import write_figure, write_report
from ..runs import versions
from .export import EXPORTS
from .network import CutNetwork, preprocessing_of, rebuilt
from .verify import Verification, verify_cut

MODEL, FACTS, EXAMPLE = "model.safetensors", "scalecut.json", "example.safetensors"
FIGURE = "curve.png"
TOLERANCE = 1e-4  # of the largest feature, between a network and its exports
# fmt: off
NEEDED = (
    "architecture", "point.layer", "way", "entry", "pooling", "head", "num_features",
    "preprocessing", "proof.whole", "proof.cut", "proof.batch_size", "proof.lines", "versions",
    "files",
)  # a name after a dot is inside the one before it
# fmt: on
BUILT_BY = ("scalecut", "torch", "timm")  # packages on which the network's code depends

Module = TypeVar("Module", bound=nn.Module)

# Raised if the network is built, run or filled with tensors, and is not the one that was cut.
_UNFIT = (*OF_NETWORKS, safetensors.SafetensorError)


@dataclass(frozen=True, slots=True)
class SavedCut:
    """A cut network on disk.

    Args:
        folder: where it was written.
        verification: of the cut network against the whole one.
        reloaded: by file, the largest difference of its outputs after it was loaded again, as a
            share of the largest output.
        exports_failed: exports that could not be written, with the reason.
    """

    folder: Path
    verification: Verification
    reloaded: dict[str, float]
    exports_failed: dict[str, str]


def save_cut(
    cut: CutNetwork,
    folder: str | Path,
    whole: str | nn.Module | Network,
    *,
    choice: Choice | None = None,
    curve: Curve | None = None,
    exports: Sequence[str] = (),
    command: str = "",
) -> SavedCut:
    """Verify a cut network and write it to a folder, which is complete or absent.

    The features are compared with those of the whole network, and the files are loaded again in a
    new process, before the folder appears under its name.

    Args:
        cut: the network to save.
        folder: an earlier cut there is replaced.
        whole: the network that it was cut from. Its name is needed to load the cut again; a cut
            from a module, or from a `module.path:factory`, is loaded with
            `load_cut(folder, network)`.
        choice, curve: why it is cut there, for the record, the figure and the model card.
        exports: one or more of onnx and torch. If one fails, the cut is written without it.
        command: as it was typed, for the record.

    Returns:
        The folder, the verification, and the exports that failed.

    Raises:
        LayerError: if the cut network does not give the features of the whole network.
        ModelError: if the files give other features when they are loaded again.
        OutputError: if `folder` exists and is no cut, or cannot be written.
    """
    folder, whole = Path(folder), load_network(whole)
    whole, cut = replace(whole, module=_on_cpu(whole.module)), _on_cpu(cut)
    exports = check_names(exports, tuple(EXPORTS), "export")
    runs.check_place(folder, "cut")
    verification = verify_cut(whole, cut)
    with runs.new_run(folder, "cut") as made:
        state = {n: t.detach().contiguous().clone() for n, t in cut.state_dict().items()}
        _save(state, made / MODEL)
        _write_example(cut, made / EXAMPLE)
        failed = _export(cut, made, exports)
        if curve is not None:
            write_figure(_figure(curve, choice), made / FIGURE)
        for path in made.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner can read
        facts = _facts(cut, whole, verification)
        facts |= {
            "choice": choice,
            "curve": _curve_facts(curve, choice),
            "exports_failed": failed,
            "command": command,
            "files": {path.name: file_sha256(path) for path in sorted(made.iterdir())},
        }
        runs.write_json(made / FACTS, facts)
        stored = runs.read_run(made, "cut").facts
        (made / "README.md").write_text(card(stored, cut), encoding="utf-8")
        if whole.build is None:
            reloaded = check_cut(made, whole.module, run_all=True)
        else:
            reloaded = reloaded_from(made, whole.name if is_factory(whole.name) else "")
        write_report(made)
    return SavedCut(folder, verification, reloaded, failed)


def _on_cpu(module: Module) -> Module:
    """The module itself if it is on the CPU, where cuts are compared, else a copy there."""
    tensors = (*module.parameters(), *module.buffers())
    is_there = all(tensor.device.type == "cpu" for tensor in tensors)
    return module if is_there else copy.deepcopy(module).cpu()


def _local(folder: str | Path) -> Path:
    """The folder of a cut; that of `hf-hub:ORG/NAME` is downloaded first."""
    repository = str(folder).removeprefix("hf-hub:")
    if repository == str(folder):
        return Path(folder)
    hint = "Give a folder that `scalecut cut` wrote."
    place = hub_file(repository, [FACTS], remedy=hint).parent
    files = runs.read_run(place, "cut", NEEDED).facts["files"]
    for name in files if isinstance(files, dict) else ():
        hub_file(repository, [name], remedy=hint, sibling=place)
    return place


def reloaded_from(folder: Path, factory: str) -> dict[str, float]:
    """The result of `check_cut` in a new process, which has the same modules on its path.

    Args:
        factory: that builds the whole network; empty if another source does.

    Raises:
        ModelError: if the process cannot load the folder, or gets other features.
    """
    asked = [sys.executable, "-m", "scalecut", "check", str(folder), "--json", "--run-all"]
    asked += ["--model", factory] if factory else []
    places = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": places}
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"A new process cannot load the cut, so it was not saved: "
            f"{said.removeprefix('scalecut: ')}"
        )
    return json.loads("{" + done.stdout.rpartition("{")[2])  # a network's own module may print


def load_cut(folder: str | Path, network: str | nn.Module | Network | None = None) -> CutNetwork:
    """The cut network of a folder that `scalecut cut` or `save_cut` wrote, in evaluation mode.

    Args:
        folder: of the cut.
        network: the whole network with any weights, or its `module.path:factory`, if the cut was
            made from a network of your own: no function is called because a file names it.

    Raises:
        DataError: if the folder holds no cut network, or one of a newer version.
        ModelError: if a file was changed, or the network can no longer be built.
    """
    folder = _local(folder)
    facts = runs.read_run(folder, "cut", NEEDED).facts
    _check_unchanged(folder, facts, MODEL)
    whole = _whole(folder, facts, network)
    try:
        whole = replace(whole, preprocessing=preprocessing_of(facts))
        state = load_file(folder / MODEL)
        cut = rebuilt(
            whole,
            ProbePoint.of_facts({"has_class_token": facts["pooling"] != "mean"} | facts["point"]),
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
            f"The tensors of {str(folder)!r} do not fit {_whose(facts, network)} as it is built "
            f"here ({said}). {_remedy(facts['versions'])}"
        ) from error
    return cut.eval()


def _whole(
    folder: Path, facts: Mapping[str, Any], network: str | nn.Module | Network | None
) -> Network:
    """The whole network with any weights: the one given, or the one that the facts describe."""
    name, recipe = facts["architecture"], facts.get("recipe") or {}
    if isinstance(network, Network):
        return network
    if network is not None:
        with hub_replayed(recipe):
            return load_network(network, weights="random")
    if name is None:
        raise ModelError(
            f"{str(folder)!r} was cut from a module without a name, so it cannot be built. Give "
            "the whole network, load_cut(folder, network=...); its weights do not matter."
        )
    remedy = (
        "If you trust it, name it yourself: load_cut(folder, network='module.path:factory'), or "
        "--model module.path:factory."
    )
    check_named_in_file(name, f"{str(folder)!r} was cut from", remedy, recipe)
    return load_network(build_again(name, recipe), weights="random")


def _whose(facts: Mapping[str, Any], network: object) -> str:
    """What the tensors of a folder were to fit, for messages."""
    if isinstance(network, str):
        return network
    return facts["architecture"] or "the network given"


def check_cut(
    folder: str | Path,
    network: str | nn.Module | Network | None = None,
    *,
    run_all: bool = False,
) -> dict[str, float]:
    """Load the network of a folder and its exports, and compare their outputs for the example.

    Args:
        folder, network: as for `load_cut`.
        run_all: whether model.pt2 is run too. torch unpickles parts of it, which can run any code,
            so without this only its hash is compared.

    Returns:
        By file that was run, the largest difference from the outputs at the time of writing, as a
        share of the largest output.

    Raises:
        ModelError: if a file was changed or gives other features.
    """
    folder = _local(folder)
    facts = runs.read_run(folder, "cut", NEEDED).facts
    _check_unchanged(folder, facts, MODEL)
    for name in facts["files"]:
        _check_unchanged(folder, facts, name)
    cut = load_cut(folder, network).cpu()
    images, expected = _example(folder, cut.preprocessing)
    with torch.inference_mode():
        found = {MODEL: cut(images).numpy()}
    for each in EXPORTS.values():
        if each.file in facts["files"] and (run_all or not each.is_unpickled):
            found[each.file] = each.features(folder / each.file, images.numpy())
    differences = {name: _difference(output, expected) for name, output in found.items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{name} of {str(folder)!r} gives other outputs than at the time of writing: they "
                f"differ by {difference:.2g} of the largest. Compare the versions in {FACTS}, or "
                "cut again."
            )
    return differences


def _remedy(theirs: Mapping[str, str]) -> str:
    """What to do if the network is built differently now."""
    ours = versions()
    changed = [n for n in BUILT_BY if theirs.get(n) != ours[n]]
    if not changed:
        return "Cut it again."
    named = ", ".join(f"{n} {theirs.get(n)} (here {ours[n]})" for n in changed)
    return f"It was written with {named}. Install these versions, or cut it again."


def _export(cut: CutNetwork, folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Write the exports, and return those that failed or give other outputs, with the reason."""
    failed: dict[str, str] = {}
    images, expected = _example(folder, cut.preprocessing)
    for name in names:
        path = folder / EXPORTS[name].file
        try:
            EXPORTS[name].write(cut, path)
            difference = _difference(EXPORTS[name].features(path, images.numpy()), expected)
            if not difference <= TOLERANCE:
                raise ModelError(f"Its outputs differ by {difference:.2g} of the largest.")
        except ScalecutError as error:
            failed[name] = str(error)
            for file in folder.glob(f"{path.name}*"):  # large weights are in a second file
                file.unlink()
    return failed


def _write_example(cut: CutNetwork, path: Path) -> None:
    """Write an image of noise, and the outputs for it and its two reflections."""
    shape = (cut.preprocessing.height, cut.preprocessing.width, 3)
    image = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    with torch.inference_mode():
        frozen = copy.deepcopy(cut).eval()
        output = frozen(_inputs(cut.preprocessing, image)).float()
    _save({"image": torch.from_numpy(image), "output": output.contiguous()}, path)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors; where the disk does not take them, the error is that of the system."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def _example(
    folder: Path, preprocessing: Preprocessing
) -> tuple[torch.Tensor, Float32[np.ndarray, "n c"]]:
    """The inputs of the stored image, and the outputs for them."""
    stored = load_file(folder / EXAMPLE)
    return _inputs(preprocessing, stored["image"].numpy()), stored["output"].numpy()


def _inputs(preprocessing: Preprocessing, image: np.ndarray) -> torch.Tensor:
    """An image and its two reflections as a batch: (3, 3, h, w)."""
    return preprocessing.tensor(np.stack([image, image[:, ::-1], image[::-1]]))


def _difference(found: Float32[np.ndarray, "n c"], expected: Float32[np.ndarray, "m d"]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def _check_unchanged(folder: Path, facts: Mapping[str, Any], name: str) -> None:
    path = folder / name
    files = facts["files"]
    if not isinstance(files, dict) or name not in files:
        raise ModelError(
            f"{FACTS} of {str(folder)!r} does not list {name}, so it cannot be checked. Copy the "
            "folder again, or cut again."
        )
    if not path.is_file():
        raise ModelError(f"{str(folder)!r} has no {name}. Copy the folder again, or cut again.")
    if file_sha256(path) != files[name]:
        raise ModelError(
            f"{name} of {str(folder)!r} was changed after it was written (its sha256 differs), so "
            "it is not used. Copy the folder again, or cut again."
        )


def _facts(cut: CutNetwork, whole: Network, verification: Verification) -> dict[str, object]:
    """What `scalecut.json` says of the network itself."""
    return {
        "format": runs.FORMATS["cut"],
        "architecture": whole.name if whole.build is not None else None,
        "recipe": whole.recipe,
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
        "costs": [] if cut.costs is None else cut.costs.to_dict("records"),
        "proof": {**asdict(verification), "lines": verification.lines()},
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _figure(curve: Curve, choice: Choice | None) -> Figure:
    """The curve as in the figures of its run, for the subset by which the layer was chosen."""
    subset = choice.subset if choice else MEAN
    curve = curve.of(choice.target) if choice else curve
    evidence = asdict(curve.evidence(subset))
    return page_figure(curve_drawing(curve.table, subset=subset, evidence=evidence))


def _curve_facts(curve: Curve | None, choice: Choice | None) -> dict[str, object] | None:
    """The finding of the curve by which the layer was chosen, and where it comes from."""
    if curve is None:
        return None
    facts, curve = curve.provenance, curve.of(choice.target) if choice else curve
    return {
        "finding": curve.finding(),
        "evidence": curve.evidence(choice.subset) if choice else curve.evidence(),
        **{name: facts.get(name) for name in ("command", "images", "probe", "written")},
    }


# --- card --------------------------------------------------------------------------------------


def card(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    """The text of `README.md`, from what `scalecut.json` says."""
    metadata = ModelCardData(
        library_name="scalecut",
        pipeline_tag="image-feature-extraction" if not facts["head"] else None,
        license=facts["licence"],
        base_model=facts["base_model"],
        tags=["scalecut", "timm", "image-feature-extraction", "object-scale"],
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {_name(facts)}, cut after {_plain(cut.point.label)}",
        _what_it_is(facts, cut),
        _why_this_layer(facts),
        "## Verification\n\n" + "\n".join(f"- {_plain(e)}" for e in facts["proof"]["lines"]),
        _how_to_use(facts, cut),
        _origin(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _name(facts: Mapping[str, Any]) -> str:
    return _plain(facts["architecture"] or "A network")


def _what_it_is(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    pooled = {
        "mean": "the output of the layer averaged over all positions",
        "cls": "the class token",
        "both": "the class token concatenated with the mean over the patches",
    }[cut.pooling]
    ends = f"It maps an image to {cut.num_features} features: {pooled}."
    if cut.num_classes:
        ends += f" A linear layer with {cut.num_classes} outputs follows; it must be trained."
    return (
        f"This network consists of the layers of {_name(facts)} up to and including "
        f"{_plain(cut.point.label)}, with unchanged weights ({_source(facts)}). {ends}\n\n"
        "The last layers of a classification network may discard the size of objects. Whether an "
        "earlier layer is better for a task in which size matters must be tested on images of that "
        "task (`scalecut transfer`)."
    )


def _why_this_layer(facts: Mapping[str, Any]) -> str:
    choice, curve = facts["choice"], facts["curve"]
    if choice is None or curve is None:
        return ""
    figure = f"\n\n![Scores by layer]({FIGURE})" if FIGURE in facts["files"] else ""
    text = f"{_plain(choice['reason'])}\n\n{_plain(curve['finding'])}"
    return f"## Why this layer\n\n{text}{figure}"


def _how_to_use(facts: Mapping[str, Any], cut: CutNetwork) -> str:
    side = f"{cut.preprocessing.height} x {cut.preprocessing.width}"
    given, fresh = '"FOLDER"', ""
    if facts["architecture"] is None or (facts.get("recipe") or {}).get("kind") == "factory":
        fresh = "  # whole: the whole network, any weights, or its module.path:factory"
        given = '"FOLDER", network=whole'
    return (
        "## Use\n\n```python\nimport scalecut\n\n"
        f"network = scalecut.load_cut({given}){fresh}\n"
        "transform = scalecut.create_transform(network)  # PIL image to tensor\n"
        'features = scalecut.CutFeatures(network).transform(["image.png"])  # for scikit-learn\n'
        "```\n\nThe network is a `torch.nn.Module`. Images are resized to "
        f"{side} pixels without cropping, so that each object keeps its share of the image area."
    )


def _origin(facts: Mapping[str, Any]) -> str:
    weights, licence = facts["weights"], facts["licence"]
    lines = [
        f"- Weights: {_source(facts)}"
        + (f", sha256 {weights['sha256']}" if weights["sha256"] else ""),
        f"- Licence of the weights: {licence or 'unknown; ask the provider of the weights'}",
        "- Method: Graziani, Lompech, Müller, Depeursinge, Andrearczyk: On the Scale Invariance in "
        "State of the Art CNNs Trained on ImageNet. Machine Learning and Knowledge Extraction 3 "
        "(2021).",
        f"- Written {facts['written'][:10]} by scalecut {facts['versions']['scalecut']}"
        + (f": {_code(facts['command'])}" if facts["command"] else "")
        + ". All details are in `scalecut.json`.",
    ]
    return "## Origin\n\n" + "\n".join(lines)


def _source(facts: Mapping[str, Any]) -> str:
    weights = facts["weights"]
    kind = "" if weights["kind"] == "pretrained" else f"{weights['kind']}, "
    return _plain(kind + weights["source"])


def _plain(text: str) -> str:
    """The text in one line, with the characters escaped that open code or HTML in Markdown."""
    return re.sub(r"([\\`~<])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A code span in one line, between more backticks than occur in a row inside."""
    text = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"
