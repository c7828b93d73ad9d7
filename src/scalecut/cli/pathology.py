"""The commands about transfer: patches of tiles, and ways to use a network on them, compared."""

from pathlib import Path
from typing import Annotated

import typer
from pandas import DataFrame

from .. import runs
from ..errors import DataError
from ..features.extract import Look
from ..networks.network import load_network
from ..pathology.comparison import METRICS
from ..pathology.finetune import Training
from ..pathology.methods import NAMES
from ..pathology.patches import MAGNIFICATIONS, cut_patches, read_patches, write_patches
from ..pathology.tiles import find_tiles, read_split
from ..pathology.tiles import split as split_tiles
from ..pathology.transfer import CONTESTANTS, Transfer, beside_the_paper
from ..pathology.transfer import transfer as transfer_of
from ..probing.choose import RULES, choose
from ..probing.curve import Curve, check_model, read_run
from ..report.report import draw, write_page
from .console import ERR, OUT, command, place, print_json, print_left_out, print_run, records
from .options import (
    BatchOption,
    DeviceOption,
    JsonOption,
    Model,
    OutOption,
    PartialOption,
    PrecisionOption,
    SeedOption,
    WeightsOption,
    listed,
    numbers_of,
)
from .terminal import bars, plain_table


def patches(
    tiles: Annotated[Path, typer.Argument(help="A folder of tiles.")],
    masks: Annotated[Path, typer.Option(help="The folder of their masks.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    magnifications: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(
        f"{each:g}" for each in MAGNIFICATIONS
    ),
    native: Annotated[float, typer.Option(help="Magnification of the tiles.")] = 40.0,
    size: Annotated[int, typer.Option(help="Of a patch, in pixels.")] = 224,
    grid: Annotated[
        int | None,
        typer.Option(help="As many across and down at each magnification; else side by side."),
    ] = None,
    um_per_pixel: Annotated[
        float | None, typer.Option(help="Of the tiles, where their files do not tell.")
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="A table with columns image and split; else drawn.")
    ] = None,
    leave_out: Annotated[
        str, typer.Option(help="Tiles to leave out, by parts of their names.")
    ] = "",
    match_blur: Annotated[
        bool, typer.Option("--match-blur", help="Give all magnifications the same point spread.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Cut patches of tissue at magnifications, and measure nuclei.

    \b
    Examples:
      scalecut patches tiles --masks masks --out patches
      scalecut patches monuseg/images --masks monuseg/labels --split monuseg/images.csv \\
          --magnifications 10,20,40 --leave-out HE-7128,HE-7129,HE-7130 --grid 3 \\
          --match-blur --out patches
    """
    runs.check_place(out, "patches")
    asked = numbers_of(magnifications, "magnification")
    found, left_out = find_tiles(tiles, masks)
    kept = [tile for tile in found if not any(part in tile.name for part in listed(leave_out))]
    if not kept:
        raise DataError(f"--leave-out {leave_out!r} leaves no tile. Leave out fewer.")
    parts = split_tiles(kept, seed=seed, given=read_split(split) if split else None)
    with runs.new_run(out, "patches") as made, bars(ERR, quiet=as_json) as progress:
        done = cut_patches(
            kept,
            parts,
            made,
            magnifications=asked,
            native=native,
            size=size,
            grid=grid,
            um_per_pixel=um_per_pixel,
            match_blur=match_blur,
            progress=progress,
        )
        write_patches(done, made, command=command(), left_out=left_out)
    counts = done.counts()
    if as_json:
        print_json({"folder": str(out), "counts": records(counts.reset_index())})
        return
    OUT.print(plain_table(counts.reset_index(), "Patches"))
    print_left_out([*left_out, *done.left_out, *done.skipped], "things")
    OUT.print(f"Patches: {out}", style="bold", soft_wrap=True)


def transfer(
    model: Model,
    data: Annotated[str, typer.Option("--data", help="patches:DIR, made by scalecut patches.")],
    mode: Annotated[
        str, typer.Option(help="frozen: ridge on features. finetune: all weights trained.")
    ] = "frozen",
    task: Annotated[str, typer.Option(help="area or magnification.")] = "area",
    contestants: Annotated[str, typer.Option(help=f"Of {','.join(NAMES)}.")] = "",
    at: Annotated[str, typer.Option("--at", help="Where the network is cut.")] = "",
    from_run: Annotated[
        Path | None,
        typer.Option("--from", help="The run of a probe, to choose by and to compare a sweep to."),
    ] = None,
    rule: Annotated[str, typer.Option(help="cheapest, as usual, or peak; with --from.")] = "",
    log: Annotated[bool, typer.Option("--log", help="Regress the area's log2.")] = False,
    seeds: Annotated[
        int, typer.Option(help="Fits: each draws tiles anew, or with finetune starts anew.", min=1)
    ] = 10,
    epochs: Annotated[int, typer.Option(help="With finetune.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, with finetune.")] = 1e-4,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a gain in validation; 0: never.")
    ] = 0,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="The weights of the best epoch, not of the last.")
    ] = False,
    raw_target: Annotated[
        bool, typer.Option("--raw-target", help="Train on the target unscaled, as in the paper.")
    ] = False,
    weights: WeightsOption = "pretrained",
    allow_partial: PartialOption = False,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    batch_size: BatchOption = 32,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the cut with the whole network on measured nuclei.

    \b
    Examples:
      scalecut transfer tf_efficientnet_lite0 --data patches:patches --at blocks.5.1
      scalecut transfer resnet50 --data patches:patches --from runs/r50 --task magnification \\
          --contestants pretrained,cut,cut-random,reset,sweep,all-layers --out runs/transfer
      scalecut transfer resnet50 --data patches:patches --at add_15 --mode finetune --out runs/tuned
    """
    settings = {name: value for name, value in locals().items() if name not in ("out", "as_json")}
    folder = place(out, f"{model}-transfer")
    kind, _, where = data.partition(":")
    if kind != "patches" or not where:
        raise DataError(
            f"{data!r} are no patches. Give patches:DIR, a folder that scalecut patches wrote."
        )
    if rule and (at or not from_run):
        raise DataError(
            "--rule chooses where to cut by the curve of --from; --at leaves nothing to choose. "
            "Give --from RUN without --at, or drop --rule."
        )
    table = read_patches(Path(where))
    curve = read_run(from_run) if from_run else None
    if curve:
        check_model(curve, from_run, model)
    layer = at or (choose(curve, rule or RULES[0]).layer if curve else None)
    network = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
    with bars(ERR, quiet=as_json) as progress:
        found = transfer_of(
            network,
            table,
            Path(where),
            layer=layer,
            task=task,
            mode=mode,
            contestants=listed(contestants) or _usual(mode),
            seeds=seeds,
            seed=seed,
            log=log,
            look=Look(precision=precision, device=device, batch_size=batch_size),
            training=Training(
                epochs, learning_rate, batch_size, patience, keep_best, raw_target, precision,
                device,
            ),
            progress=progress,
        )  # fmt: skip
    with runs.new_run(folder) as made:
        tables, facts = _written(found, curve)
        facts |= {"stages": progress.stages}
        runs.write_run(made, tables, facts, command=command(), settings=settings)
        drawn = draw(made)
        write_page(made)
    if as_json:
        print_json(
            {"run": str(folder), "finding": found.finding(), "scores": records(found.summary())}
        )
        return
    _print(found, curve, model)
    print_run(folder, drawn[0].name, found.finding())


def about_transfer(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for each in (patches, transfer):
        app.command()(each)


# --- inside --------------------------------------------------------------------------------------


def _usual(mode: str) -> list[str]:
    """What is compared if nothing is named; many layers side by side cannot be trained as one."""
    return [name for name in CONTESTANTS if mode == "frozen" or name != "all-layers"]


def _written(
    found: Transfer, curve: Curve | None
) -> tuple[dict[str, DataFrame], dict[str, object]]:
    """The tables of the run folder, and the facts."""
    agreed = found.agreement(curve) if curve else DataFrame()
    tables = {
        "transfer": found.frame(),
        "differences": found.differences,
        "recall": found.recall(),
        "calibration": found.calibration(),
        "sweep": found.sweep(curve),
        "agreement": agreed,
        "configurations": found.configurations,
        "losses": found.losses,
    }
    facts = {
        **found.provenance,
        "finding": found.finding(),
        "agreement": records(agreed),
        "n_test": len(found.patches),
        "n_tiles": int(found.patches.tile.nunique()),
        "images_left_out": found.left_out,
        "layers_left_out": found.layers_left_out,
    }
    return {name: table for name, table in tables.items() if len(table)}, facts


def _print(found: Transfer, curve: Curve | None, model: str) -> None:
    trial = f"{found.table.task.iloc[0]}, {found.table['mode'].iloc[0]}"
    fits = found.table.seed.nunique()
    OUT.print(plain_table(_shown(found), f"{model}, {trial}, mean ± spread of {fits} fits"))
    if found.held.is_area:
        title = "Table 2 of Graziani et al. 2021 (other patches, all weights trained), and ours"
        OUT.print(plain_table(beside_the_paper(found, model), title))
    agreed = found.agreement(curve) if curve else DataFrame()
    if len(agreed):
        OUT.print(plain_table(_foretold(agreed), "Does the probe's curve foretell the sweep?"))
    print_left_out(found.layers_left_out, "layers")
    print_left_out(found.left_out, "patches")


def _foretold(agreed: DataFrame) -> DataFrame:
    """Rank correlation over the layers, of R² and of depth alone; what choosing costs."""
    return DataFrame(
        {
            "metric": agreed.metric.str.replace("_", " "),
            "rank correlation [95 %]": [
                f"{row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for row in records(agreed)
            ],
            "of depth": agreed.rho_depth.map("{:.2f}".format),
            "best": agreed.best,
            "chosen": agreed.foretold,
            "loses": agreed.regret.map("{:.2f}".format),
            "last loses": agreed.regret_last.map("{:.2f}".format),
        }
    )


def _shown(found: Transfer) -> DataFrame:
    """The summary, each metric with its spread in one cell."""
    table = found.summary()
    digits = {"mae": 1 if found.held.is_area else 3}
    shown = DataFrame({name: table[name] for name in ("contestant", "layer")})
    for metric in METRICS:
        d = digits.get(metric, 2)
        pairs = zip(table[metric], table[f"{metric}_sd"], strict=True)
        shown[metric.replace("_", " ")] = [
            f"{mean:.{d}f} ± {spread:.{d}f}" for mean, spread in pairs
        ]
    return shown
