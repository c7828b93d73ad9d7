"""The commands about a shorter network: cut it, check it, and use its features."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import runs
from ..errors import DataError, ModelError, OutputError, check_names
from .commands import converted
from .console import ERR, OUT, JsonOption, bars, command, print_json

EXPORTS = ("onnx", "torch")  # the keys of `cut.export.EXPORTS`, which loads torch
WAYS = {
    "passed on": "later modules are replaced by ones that return their input",
    "stopped": "the forward pass stops at the layer, because later code is not only modules",
}

Folder = Annotated[Path, typer.Argument(help="A folder that `scalecut cut` wrote.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(cut)
    app.command()(check)
    app.command()(features)


def cut(
    model: Annotated[
        str, typer.Argument(help="As in `scalecut probe`; may be omitted with --from.")
    ] = "",
    at: Annotated[str, typer.Option("--at", help="The last layer to keep: name or alias.")] = "",
    from_run: Annotated[
        Path | None,
        typer.Option("--from", help="The run folder of a probe, whose curve chooses the layer."),
    ] = None,
    rule: Annotated[
        Literal["cheapest", "peak"] | None,
        typer.Option(
            help="peak, or cheapest (default): the earliest layer not shown to be worse than it."
        ),
    ] = None,
    subset: Annotated[
        str, typer.Option(help="The subset whose curve chooses; the mean if empty.")
    ] = "",
    pooling: Annotated[
        Literal["mean", "cls", "both"],
        typer.Option(help="Of tokens: mean over patches, class token, or both concatenated."),
    ] = "mean",
    head: Annotated[
        int, typer.Option(min=0, help="Outputs of a new linear layer; 0 for none.")
    ] = 0,
    export: Annotated[str, typer.Option(metavar="onnx,torch", help="Also write these files.")] = "",
    weights: Annotated[
        str,
        typer.Option(help="pretrained, random, or a file; by default those of the run."),
    ] = "",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept a weights file that lacks tensors.")
    ] = False,
    input_size: Annotated[str, typer.Option(help="224, or 224x320 (height x width).")] = "",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of random weights.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a network after a layer, verify the cut, and write it to a folder.

    \b
    Examples:
      scalecut cut resnet50 --at layer3.2 --out resnet50-short
      scalecut cut --from runs/demo --out short
      scalecut cut --from runs/demo --rule peak --export onnx,torch --out short
      scalecut cut vit_small_patch16_224 --at blocks.5 --pooling both --head 2 --out vit-short
    """
    exports = check_names(converted("Sequence[str]", export), EXPORTS, "export")
    size = converted("int | tuple[int, int] | None", input_size, "--input-size")
    if out is not None:
        runs.check_place(out, "cut")
    _check_place_to_cut(at, from_run, rule, subset)
    if from_run is None and not model:
        raise ModelError("No network is named. Give MODEL, such as resnet50, or --from RUN.")
    with ERR.status("Loading the network") as status:
        from ..cut.folder import save_cut
        from ..cut.network import cut_after, network_of_run
        from ..data.images import MEAN
        from ..networks.load import load_network
        from ..networks.network import with_preprocessing
        from ..probing.choose import RULES, choose_layer
        from ..probing.curve import check_model, read_curve

        curve = choice = None
        if from_run is None:
            whole = load_network(
                model, weights=weights or "pretrained", allow_partial=allow_partial, seed=seed
            )
        else:
            curve = read_curve(from_run)
            if model:
                check_model(curve, from_run, model)
            choice = None if at else choose_layer(curve, rule or RULES[0], subset or MEAN)
            whole = network_of_run(from_run, curve, weights=weights, allow_partial=allow_partial)
        whole = with_preprocessing(whole, input_size=size)
        layer = choice.layer if choice else at
        folder = out or Path("cuts") / f"{whole.name}-{layer}".replace("/", "_").replace(":", "_")
        runs.check_place(folder, "cut")
        status.update("Cutting")
        network = cut_after(whole, layer, pooling=pooling, head=head)
        status.update("Verifying and writing")
        saved = save_cut(
            network,
            folder,
            whole,
            choice=choice,
            curve=curve if choice else None,
            exports=exports,
            command=command(),
        )
    if as_json:
        facts = runs.read_run(folder, "cut").facts
        print_json({"folder": str(folder), "checked": saved.reloaded, **facts})
        return
    _print(network, saved, choice)


def check(folder: Folder, as_json: JsonOption = False) -> None:
    """Check that a cut and its exports still give the same outputs.

    \b
    Example:
      scalecut check resnet50-short
    """
    from ..cut.folder import check_cut

    differences = check_cut(folder)
    if as_json:
        print_json(differences)
        return
    for name, difference in differences.items():
        OUT.print(f"{name}: {_in_words(difference)}", soft_wrap=True)


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
        typer.Option(help="auto is bfloat16 where the processor computes in it."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
) -> None:
    """Write the features of images as a table, one row per image.

    \b
    Examples:
      scalecut features resnet50-short tiles --out tiles.parquet
      scalecut features resnet50-short a.png b.png --out two.csv
    """
    if out.suffix not in (".parquet", ".csv"):
        raise OutputError(f"{str(out)!r} is neither .parquet nor .csv. Give --out such a name.")
    from ..cut.sklearn import CutFeatures, features_table, images_in

    found = images_in(images)
    network = CutFeatures(folder, fit, precision, device, batch_size)
    with bars(ERR, quiet=False) as progress:
        table, skipped = features_table(network, found, progress)
    runs.write_features(table, out)
    if skipped:
        OUT.print(f"{len(skipped)} of {len(found)} images skipped:")
    for item in skipped:  # all of them, because no run.json lists them
        OUT.print(f"  {item.name}: {item.reason}", soft_wrap=True)
    OUT.print(f"{len(table)} x {table.shape[1] - 1} features: {out}", soft_wrap=True)


# --- inside --------------------------------------------------------------------------------------


def _check_place_to_cut(at: str, from_run: Path | None, rule: str | None, subset: str) -> None:
    """Refuse options that name no layer, or more than one."""
    if not at and from_run is None:
        raise DataError(
            "No layer to cut at is given. Give --at LAYER (`scalecut layers MODEL` lists them), or "
            "--from RUN, the run folder of a probe."
        )
    if at and (rule or subset):
        raise DataError(
            "--rule and --subset choose a layer, but --at names one. Give --at alone, or drop it."
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
