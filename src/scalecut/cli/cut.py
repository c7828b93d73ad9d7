"""The commands about a shorter network: cut it, check it, and use its features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import DataError, ModelError, OutputError, check_names
from .commands import Verb, add
from .console import ERR, JSON, OUT, JsonOption, bars, command, file_name, print_json

EXPORTS = ("onnx", "torch")  # the keys of `cut.export.EXPORTS`, which loads torch
WAYS = {
    "passed on": "later modules are replaced by ones that return their input",
    "stopped": "the forward pass stops at the layer, because later code is not only modules",
}

EXAMPLES = """
  scalecut cut resnet50 --at layer3.2 --out resnet50-short
  scalecut cut --from runs/demo --out short
  scalecut cut --from runs/demo --within 0.02 --out short
  scalecut cut --from runs/demo --rule peak --export onnx,torch --out short
  scalecut cut vit_small_patch16_224 --at blocks.5 --pooling both --head 2 --out vit-short"""

Folder = Annotated[Path, typer.Argument(help="A folder that `scalecut cut` wrote.")]
Factory = Annotated[
    str, typer.Option("--model", help="The whole network, if it is module.path:factory.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    add(app, "cut", "cli.cut:cut", EXAMPLES, _run, (JSON,))
    app.command()(check)
    app.command()(features)


@dataclass(frozen=True, slots=True)
class Choosing:
    """The layer that the network is cut after.

    Args:
        at: The last layer to keep: name or alias.
        from_: The run folder of a probe, whose curve chooses the layer.
        rule: peak, or cheapest (default): the earliest layer not shown to be worse than it.
        within: The cheapest layer whose score is at most this much below the peak, such as 0.02.
        subset: The subset whose curve chooses; the mean if empty.
        target: The target whose curve chooses, where the run has several.
    """

    at: str = ""
    from_: Path | None = None
    rule: Literal["cheapest", "peak"] | None = None
    within: float | None = None
    subset: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Building:
    """What the shorter network gives.

    Args:
        pooling: Of tokens: mean over patches, class token, or both concatenated.
        head: Outputs of a new linear layer, at least 0; 0 for none.
        export: Also write these files: onnx, torch, or both.
    """

    pooling: Literal["mean", "cls", "both"] = "mean"
    head: int = 0
    export: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Loading:
    """The network that is cut.

    Args:
        weights: pretrained, random, or a file; by default those of the run.
        allow_partial: Accept a weights file that lacks tensors.
        input_size: 224, or 224x320 (height x width).
        prefix_tokens: Tokens before the patches (class token, registers), instead of those found.
    """

    weights: str = ""
    allow_partial: bool = False
    input_size: int | tuple[int, int] | None = None
    prefix_tokens: int | None = None


def cut(
    model: str = "",
    *,
    choosing: Choosing = Choosing(),
    building: Building = Building(),
    loading: Loading = Loading(),
    seed: int = 0,
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Cut a network after a layer, verify the cut, and write it to a folder.

    Args:
        model: As in `scalecut probe`; may be omitted with --from, but for module.path:factory.
        choosing: the layer.
        building: what the shorter network gives.
        loading: the network.
        seed: Random seed of random weights.
        out: The folder to write.
        as_json: whether the result is printed as JSON.
    """
    at, from_run, rule, subset = choosing.at, choosing.from_, choosing.rule, choosing.subset
    within, target = choosing.within, choosing.target
    from .. import runs

    exports = check_names(building.export, EXPORTS, "export")
    if out is not None:
        runs.check_place(out, "cut")
    _check_place_to_cut(choosing)
    if from_run is None and not model:
        raise ModelError("No network is named. Give MODEL, such as resnet50, or --from RUN.")
    with ERR.status("Loading the network") as status:
        from ..cut.folder import save_cut
        from ..cut.network import cut_after, network_of_run
        from ..data.images import MEAN
        from ..networks.load import load_network
        from ..networks.network import with_preprocessing
        from ..probing.choose import RULES, choose_layer
        from ..probing.curve import read_curve

        curve = choice = None
        if from_run is None:
            whole = load_network(
                model,
                weights=loading.weights or "pretrained",
                allow_partial=loading.allow_partial,
                seed=seed,
            )
        else:
            curve = read_curve(from_run)
            if not at:
                asked = rule or RULES[0], subset or MEAN, target, within
                choice = choose_layer(curve, *asked)
            whole = network_of_run(
                *(from_run, curve),
                model=model,
                weights=loading.weights,
                allow_partial=loading.allow_partial,
            )
        whole = with_preprocessing(
            whole, input_size=loading.input_size, prefix_tokens=loading.prefix_tokens
        )
        layer = choice.layer if choice else at
        folder = out or Path("cuts") / file_name(f"{whole.name}-{layer}")
        runs.check_place(folder, "cut")
        status.update("Cutting")
        network = cut_after(whole, layer, pooling=building.pooling, head=building.head)
        status.update("Verifying and writing")
        why = {"choice": choice, "curve": curve if choice else None}
        saved = save_cut(network, folder, whole, **why, exports=exports, command=command())
    if as_json:
        facts = runs.read_run(folder, "cut").facts
        print_json({"folder": str(folder), "checked": saved.reloaded, **facts})
        return
    _print(network, saved, choice)


def _run(verb: Verb, values: Mapping[str, Any], as_json: bool) -> None:
    verb.call(values, as_json=as_json)


def check(
    folder: Folder,
    model: Factory = "",
    run_all: Annotated[
        bool,
        typer.Option("--run-all", help="Also run model.pt2, which can run any code."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that a cut and its exports still give the same outputs.

    \b
    Example:
      scalecut check resnet50-short
    """
    from ..cut.export import EXPORTS as FORMATS
    from ..cut.folder import check_cut

    differences = check_cut(folder, model or None, run_all=run_all)
    if as_json:
        print_json(differences)
        return
    for name, difference in differences.items():
        OUT.print(f"{name}: {_in_words(difference)}", soft_wrap=True)
    for each in FORMATS.values():
        if each.file not in differences and (folder / each.file).is_file():
            OUT.print(
                f"{each.file}: unchanged, but not run, because it can run any code (--run-all)",
                soft_wrap=True,
            )


def features(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="The table: .parquet or .csv.")] = Path(
        "features.parquet"
    ),
    fit: Annotated[
        Literal["squash", "crop", "pad"],
        typer.Option(help="How images are brought to the input size."),
    ] = "squash",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="auto is bfloat16 where that is faster (AMX, GPUs)."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    model: Factory = "",
) -> None:
    """Write the features of images as a table, one row per image.

    \b
    Examples:
      scalecut features resnet50-short tiles --out tiles.parquet
      scalecut features resnet50-short a.png b.png --out two.csv
    """
    if out.suffix not in (".parquet", ".csv"):
        raise OutputError(f"{str(out)!r} is neither .parquet nor .csv. Give --out such a name.")
    from ..cut.folder import load_cut
    from ..cut.sklearn import CutFeatures, features_table, images_in
    from ..runs import check_features, write_features

    check_features(out)
    found = images_in(images)
    cut = load_cut(folder, model) if model else folder
    network = CutFeatures(cut, fit, precision, device, batch_size)
    with bars(ERR, quiet=False) as progress:
        table, skipped = features_table(network, found, progress)
    write_features(table, out)
    if skipped:
        OUT.print(f"{len(skipped)} of {len(found)} images skipped:")
    for item in skipped:  # all of them, because no run.json lists them
        OUT.print(f"  {item.name}: {item.reason}", soft_wrap=True)
    OUT.print(f"{len(table)} x {table.shape[1] - 1} features: {out}", soft_wrap=True)


def _check_place_to_cut(choosing: Choosing) -> None:
    """Refuse options that name no layer, or more than one."""
    if not choosing.at and choosing.from_ is None:
        raise DataError(
            "No layer to cut at is given. Give --at LAYER (`scalecut layers MODEL` lists them), or "
            "--from RUN, the run folder of a probe."
        )
    part = choosing.subset or choosing.target
    if choosing.at and (choosing.rule or part or choosing.within is not None):
        raise DataError(
            "--rule, --within, --subset and --target choose a layer, but --at names one. Give --at "
            "alone, or drop it."
        )


def _print(network: Any, saved: Any, choice: Any) -> None:
    """Print how the network was cut, the verification, and where the folder is."""
    lines = [f"Cut after {network.point.label}: {WAYS[network.way]}."]
    lines += [choice.reason] if choice else []
    lines += saved.verification.lines()
    lines += [
        f"{name}, loaded in a new process: {_in_words(difference)}"
        for name, difference in saved.reloaded.items()
    ]
    lines += [f"No {name} export: {reason}" for name, reason in saved.exports_failed.items()]
    for line in [*lines, f"Page: {saved.folder / 'report.html'}"]:
        OUT.print(line, soft_wrap=True)
    ends = f"{network.num_features} features"
    if network.num_classes:
        ends += f" and a new linear layer with {network.num_classes} outputs, to be trained"
    OUT.print(f"{saved.folder}: {ends}.", style="bold", soft_wrap=True)


def _in_words(difference: float) -> str:
    if difference == 0:
        return "the same outputs, exactly"
    return f"the same outputs, within {difference:.1g} of the largest"
