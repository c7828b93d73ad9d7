"""The commands about a shorter network: cut it, check it, and use its features."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import runs
from ..cut import folder as bundle
from ..cut.export import EXPORTS
from ..cut.network import CutNetwork, cut_after
from ..cut.sklearn import Features, features_table, pictures_in
from ..cut.verify import prove
from ..data.images import MEAN
from ..errors import DataError, ModelError, OutputError, check_names
from ..networks.network import Network, load_network, tensors_sha256
from ..probing.choose import RULES, Choice, choose
from ..probing.curve import Curve, check_model, read_run
from ..report.report import PAGE, write_page
from .console import ERR, OUT, command, print_json
from .options import (
    BatchOption,
    DeviceOption,
    FitOption,
    InputOption,
    JsonOption,
    PartialOption,
    PrecisionOption,
    SeedOption,
    listed,
    with_input,
)
from .terminal import bars

Folder = Annotated[Path, typer.Argument(help="A folder that `scalecut cut` wrote.")]


def cut_at(
    model: Annotated[
        str, typer.Argument(help="timm name, resnet50_v1, or module.path:factory.")
    ] = "",
    at: Annotated[str, typer.Option("--at", help="The layer to end with: name or alias.")] = "",
    from_run: Annotated[
        Path | None, typer.Option("--from", help="The run folder of a probe, to choose by.")
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            help="cheapest, as usual: the earliest layer not shown to be worse than the peak; or "
            "peak."
        ),
    ] = "",
    subset: Annotated[str, typer.Option(help="Whose curve chooses; their mean if empty.")] = "",
    pooling: Annotated[str, typer.Option(help="Of tokens: mean, cls, or both.")] = "mean",
    head: Annotated[int, typer.Option(help="Outputs of a new linear layer; 0 for none.")] = 0,
    export: Annotated[str, typer.Option(help="One or more of onnx,torch.")] = "",
    weights: Annotated[
        str, typer.Option(help="pretrained, random, or a file; those of the run with --from.")
    ] = "",
    allow_partial: PartialOption = False,
    input_size: InputOption = "",
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a network after a layer, prove it, write it to a folder.

    \b
    Examples:
      scalecut cut resnet50 --at layer3.2 --out resnet50-short
      scalecut cut --from runs/demo --out short
      scalecut cut --from runs/demo --rule peak --export onnx,torch --out short
      scalecut cut vit_small_patch16_224 --at blocks.5 --pooling both --head 2 --out vit-short
    """
    exports = check_names(listed(export), tuple(EXPORTS), "export")
    if out is not None:
        runs.check_place(out, "cut")
    if not at and from_run is None:
        raise DataError(
            "Nothing says where to cut. Give --at LAYER (`scalecut layers MODEL` prints them), or "
            "--from RUN, the folder of a probe."
        )
    if at and (rule or subset):
        raise DataError(
            "--at says where to cut, so that --rule and --subset have nothing to choose. Give "
            "--at alone, or drop it."
        )
    curve = None if from_run is None else read_run(from_run)
    chosen = None if curve is None or at else choose(curve, rule or RULES[0], subset or MEAN)
    whole = _network(model, curve, from_run, weights, allow_partial, input_size, seed)
    layer = chosen.layer if chosen else at
    folder = out or Path("cuts") / f"{whole.name}-{layer}".replace("/", "_").replace(":", "_")
    runs.check_place(folder, "cut")
    checked: dict[str, float] = {}

    def finish(written: Path) -> None:
        checked.update(_checked_afresh(written))
        write_page(written)

    with ERR.status("Cutting") as status:
        cut = cut_after(whole, layer, pooling=pooling, head=head)
        status.update("Comparing with the whole network")
        proof = prove(whole, cut)
        status.update("Writing, and reading in a fresh process")
        failed = bundle.keep(
            cut,
            folder,
            whole,
            proof,
            choice=chosen,
            curve=curve if chosen else None,
            picture=_picture(from_run) if chosen else None,
            exports=exports,
            command=command(),
            verify=finish,
        )
    if as_json:
        facts = bundle.read_facts(folder)
        print_json({"folder": str(folder), "checked": checked, **facts})
        return
    _print(cut, folder, chosen, proof.lines(), checked, failed)


def check(folder: Folder, as_json: JsonOption = False) -> None:
    """See whether a cut and its exports still give what they gave.

    \b
    Example:
      scalecut check resnet50-short
    """
    differences = bundle.check(folder)
    if as_json:
        print_json(differences)
        return
    for name, difference in differences.items():
        OUT.print(f"{name}: {_in_words(difference)}", soft_wrap=True)


def features(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The table: .parquet or .csv.")] = Path(
        "features.parquet"
    ),
    fit: FitOption = "squash",
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    batch_size: BatchOption = 32,
) -> None:
    """Write the features of pictures as a table, one row a picture.

    \b
    Examples:
      scalecut features resnet50-short tiles --out tiles.parquet
      scalecut features resnet50-short a.png b.png --out two.csv
    """
    if out.suffix not in (".parquet", ".csv"):
        raise OutputError(f"{str(out)!r} is neither .parquet nor .csv. Name the table so.")
    found = pictures_in(images)
    network = Features(folder, fit, precision, device, batch_size)
    with bars(ERR, quiet=False) as progress:
        table, left_out = features_table(network, found, progress)
    runs.write_features(table, out)
    if left_out:
        OUT.print(f"{len(left_out)} of {len(found)} pictures left out:")
    for item in left_out:  # all of them: no run.json has the rest
        OUT.print(f"  {item.name}: {item.reason}", soft_wrap=True)
    OUT.print(f"{len(table)} x {table.shape[1] - 1} features: {out}", soft_wrap=True)


def about_cuts(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("cut")(cut_at)
    for each in (check, features):
        app.command()(each)


# --- inside --------------------------------------------------------------------------------------


def _network(
    model: str,
    curve: Curve | None,
    run: Path | None,
    weights: str,
    allow_partial: bool,
    input_size: str,
    seed: int,
) -> Network:
    """The network asked for, as the run had it if there is one.

    Raises:
        ModelError: if the run is of another network.
    """
    if curve is None:
        if not model:
            raise ModelError("No network is named. Give MODEL, such as resnet50, or --from RUN.")
        weights = weights or "pretrained"
        whole = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
        return with_input(whole, input_size)
    probed = str(curve.table.model.iloc[0])
    if model:
        check_model(curve, run, model)
    facts: dict[str, Any] = curve.provenance
    settings: dict[str, Any] = facts.get("settings", {})
    whole = load_network(
        probed,
        weights=weights or settings.get("weights", "pretrained"),
        allow_partial=allow_partial or settings.get("allow_partial", False),
        seed=settings.get("seed", seed),
    )
    if tensors_sha256(whole.module) != facts.get("tensors_sha256"):
        raise ModelError(
            f"The run {str(run)!r} is of {probed} with other weights "
            f"({facts['weights']['source']}). Give those by --weights, or probe these."
        )
    probed_with = bundle.preprocessing_of(facts)
    return with_input(replace(whole, preprocessing=probed_with), input_size)


def _picture(run: Path | None) -> Path | None:
    path = None if run is None else run / "figures" / "curve.png"
    return path if path is not None and path.is_file() else None


def _checked_afresh(folder: Path) -> dict[str, float]:
    """What another process finds in the folder.

    Raises:
        ModelError: if it cannot load it, or gets other features.
    """
    asked = [sys.executable, "-m", "scalecut", "check", str(folder), "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(
            f"A fresh process cannot use what was written, so nothing is kept: "
            f"{said.removeprefix('scalecut: ')}"
        )
    return json.loads("{" + done.stdout.rpartition("{")[2])  # a network's own module may print


def _print(
    cut: CutNetwork,
    folder: Path,
    chosen: Choice | None,
    proved: list[str],
    checked: dict[str, float],
    failed: dict[str, str],
) -> None:
    way = {
        "passed on": "later modules replaced by ones that pass their input on",
        "stopped": "its forward pass stops at the layer, because code behind it needs more",
    }[cut.way]
    OUT.print(f"Cut after {cut.point.label}; {way}.", soft_wrap=True)
    if chosen:
        OUT.print(chosen.reason, soft_wrap=True)
    for line in proved:
        OUT.print(line, soft_wrap=True)
    for name, difference in checked.items():
        OUT.print(f"{name}, read by a fresh process: {_in_words(difference)}", soft_wrap=True)
    for name, reason in failed.items():
        OUT.print(f"No {name} export: {reason}", soft_wrap=True)
    ends = f"{cut.num_features} features"
    if cut.num_classes:
        ends += f" and a new linear layer of {cut.num_classes} outputs, to be trained"
    OUT.print(f"Page: {folder / PAGE}", soft_wrap=True)
    OUT.print(f"{folder}: {ends}.", style="bold", soft_wrap=True)


def _in_words(difference: float) -> str:
    if difference == 0:
        return "the same outputs, exactly"
    return f"the same outputs, within {difference:.1g} of the largest"
