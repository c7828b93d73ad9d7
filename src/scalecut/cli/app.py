"""The commands about one curve: arguments in; calls, messages and exit status out."""

import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import cache as cache_folder
from .. import runs
from ..data.scenes import made_up_scenes
from ..errors import DataError
from ..features.extract import resolved_precision
from ..networks.network import PACKAGES, load_network, weights_places
from ..networks.selection import chosen_points
from ..probing.curve import Curve, read_run, write_curve
from ..probing.curve import compare as compare_curves
from ..probing.probe import probe as probe_layers
from ..report.report import draw, write_comparison, write_page
from ..report.story import names_of
from .analyses import beyond_the_curve
from .console import (
    ERR,
    OUT,
    Commands,
    command,
    place,
    print_json,
    print_left_out,
    print_run,
    records,
)
from .cut import about_cuts
from .options import (
    BatchOption,
    ClusterOption,
    DataOption,
    DeviceOption,
    EngineOption,
    FitOption,
    HalfOption,
    ImagesOption,
    InputOption,
    InterpolationOption,
    JsonOption,
    LayersOption,
    MeanOption,
    MeasureOption,
    Model,
    ObjectsOption,
    OutOption,
    PartialOption,
    PrecisionOption,
    SeedOption,
    StdOption,
    SubsetOption,
    WeightsOption,
    listed,
    with_input,
)
from .paper import about_paper
from .pathology import about_transfer
from .terminal import (
    LAYER_COLUMNS,
    bars,
    comparison_table,
    controls_in_words,
    curve_table,
    engine_in_words,
    layer_table,
)
from .visualise import about_drawing

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the layer at which a vision model forgets how big things are.\n\n\b\n"
    "Start with:  scalecut demo\n"
    "Then:        scalecut probe resnet50 --data voc:MY/FOLDER --subset dog,cat",
)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        OUT.print(metadata.version("scalecut"))
        raise typer.Exit
    return is_asked


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback()
def _top(version: VersionOption = False) -> None:
    """Options that stand before a command."""


@app.command()
def demo(
    out: OutOption = None,
    images: Annotated[int, typer.Option(help="How many scenes are made up.")] = 600,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Probe a network on made-up scenes: no data, no download.

    \b
    Example:
      scalecut demo
    """
    if not as_json:
        OUT.print(
            "EfficientNet-Lite0, trained on ImageNet, looks at made-up scenes in which the share "
            "of the picture that an object fills is known exactly. How much of that does each "
            "layer still tell?\n"
        )
    folder = out or Path("runs/demo")
    runs.check_place(folder)
    with bars(ERR, quiet=as_json) as progress:
        scenes = made_up_scenes(images, seed=seed)
        curve = probe_layers("tf_efficientnet_lite0", scenes, seed=seed, progress=progress)
    _finish(curve, folder, {"data": "scenes", "n": images, "seed": seed}, as_json)


@app.command()
def layers(
    model: Model,
    weights: WeightsOption = "random",
    allow_partial: PartialOption = False,
    layers: LayersOption = "",
    input_size: InputOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the layers of a network, in order of execution.

    \b
    Examples:
      scalecut layers resnet50_v1
      scalecut layers vit_small_patch16_224 --json
      scalecut layers inception_v3 --layers 'mixed*'
    """
    network = with_input(
        load_network(model, weights=weights, allow_partial=allow_partial), input_size
    )
    points, left_out = chosen_points(network, listed(layers))
    if as_json:
        print_json([{name: getattr(point, name) for name in LAYER_COLUMNS} for point in points])
        return
    size = f"{network.preprocessing.height} x {network.preprocessing.width} px"
    OUT.print(layer_table(f"{model}, {size}", points))
    print_left_out(left_out, "layers")


@app.command()
def probe(
    model: Model,
    data: DataOption,
    weights: WeightsOption = "pretrained",
    allow_partial: PartialOption = False,
    layers: LayersOption = "",
    subset: SubsetOption = "",
    measure: MeasureOption = "area",
    objects: ObjectsOption = "single",
    fit: FitOption = "squash",
    images: ImagesOption = None,
    skip_truncated: Annotated[
        bool, typer.Option("--skip-truncated", help="Leave out images whose object is so flagged.")
    ] = False,
    skip_difficult: Annotated[
        bool, typer.Option("--skip-difficult", help="Leave out images whose object is so flagged.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")
    ] = False,
    regressor: Annotated[str, typer.Option(help="One or more of ridge,ols.")] = "ridge,ols",
    controls: Annotated[
        str, typer.Option(help="One or more of random,permuted,pixels,shuffled; or none.")
    ] = "random,pixels,shuffled",
    twins: Annotated[int, typer.Option(help="Random twins, each with a seed of its own.")] = 3,
    repeats: Annotated[int, typer.Option(help="Random splits of 70/30.")] = 10,
    permutations: Annotated[
        int, typer.Option(help="Of the measure, for p-values corrected over layers; 0 for none.")
    ] = 1000,
    match_width: Annotated[
        int, typer.Option(help="Also probe this many principal components of every layer.")
    ] = 0,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Also probe with 1/8, 1/4, 1/2 of the images.")
    ] = False,
    at_most: Annotated[
        int, typer.Option(help="Probe a random part of this many images, by group; 0 for all.")
    ] = 0,
    stream: Annotated[bool, typer.Option("--stream", hidden=True)] = False,
    input_size: InputOption = "",
    mean: MeanOption = "",
    std: StdOption = "",
    interpolation: InterpolationOption = "",
    precision: PrecisionOption = "auto",
    engine: EngineOption = "torch",
    half: HalfOption = False,
    cluster: ClusterOption = "",
    device: DeviceOption = "auto",
    batch_size: BatchOption = 32,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much of an object's scale each layer carries.

    \b
    Examples:
      scalecut probe resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat,horse
      scalecut probe inception_v3 --weights iv3.safetensors --data coco:val2017.json --subset bird
      scalecut probe vit_small_patch16_224 --data csv:lesions.csv --out runs/lesions
      scalecut probe mypackage.nets:factory --weights best.pth --data masks:cells --objects mean
      scalecut probe resnet50 --data scenes --match-width 32 --learning-curve
      scalecut probe resnet50 --data "tar:s3://bucket/tiles-{000..099}.tar" --at-most 100000
      scalecut probe resnet50 --data csv:tiles.csv --engine openvino --precision int8
      scalecut probe resnet50 --data csv:tiles.csv --cluster ray://HOST:10001
    """
    left_out = ("out", "as_json", "stream")
    settings = {name: value for name, value in locals().items() if name not in left_out}
    if stream:
        raise DataError(
            "--stream was removed. Give --at-most 100000 instead: a random part of the images, "
            "which gives R² to about ±0.002."
        )
    folder = place(out, model)
    network = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
    network = with_input(network, input_size, mean, std, interpolation)
    with bars(ERR, quiet=as_json) as progress:
        curve = probe_layers(
            network,
            data,
            layers=listed(layers),
            subsets=listed(subset),
            measure=measure,
            objects=objects,
            skip_truncated=skip_truncated,
            skip_difficult=skip_difficult,
            strict=strict,
            images_folder=images,
            at_most=at_most,
            fit=fit,
            regressors=listed(regressor),
            controls=[name for name in listed(controls) if name != "none"],
            twins=twins,
            repeats=repeats,
            permutations=permutations,
            match_width=match_width,
            learning_curve=learning_curve,
            precision=precision,
            device=device,
            batch_size=batch_size,
            engine=engine,
            half=half,
            cluster=cluster,
            seed=seed,
            progress=progress,
        )
    _finish(curve, folder, settings, as_json)


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="The run folder of a probe.")],
    other: Annotated[Path, typer.Argument(help="Another, of the same images and splits.")],
    layers: Annotated[
        str, typer.Option("--layers", help="A layer of each, comma-separated; the peaks if empty.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Compare the curves of two networks, paired image by image.

    \b
    Examples:
      scalecut compare runs/resnet50 runs/vit
      scalecut compare runs/resnet50 runs/inception --layers add_13,mixed8
    """
    pair = listed(layers)
    if len(pair) not in (0, 2):
        raise DataError(
            f"--layers {layers!r} names {len(pair)} layers, but one of each run is needed, such as "
            "add_13,mixed8."
        )
    one, two = read_run(run), read_run(other)
    table = compare_curves(one, two, (pair[0], pair[1]) if pair else None)
    if as_json:
        print_json(records(table))
        return
    OUT.print(comparison_table(table, *names_of((one, two), (run, other))))


about_cuts(app)
beyond_the_curve(app)
about_transfer(app)
about_drawing(app)
about_paper(app)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, or folders of cuts.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Lay two runs side by side, in a page of their own.")
    ] = False,
    subset: Annotated[str, typer.Option(help="The subset that the page shows first.")] = "",
    no_thumbnails: Annotated[
        bool, typer.Option("--no-thumbnails", help="Leave the photographs out of the page.")
    ] = False,
) -> None:
    """Draw the figures of a run again, and write its page.

    \b
    Examples:
      scalecut report runs/demo
      scalecut report runs/demo --no-thumbnails
      scalecut report --compare runs/resnet50 runs/inception
    """
    has_thumbnails = not no_thumbnails
    if not compare:
        for run in folders:
            written = write_page(run, subset=subset, has_thumbnails=has_thumbnails)
            for path in (*draw(run), written):
                OUT.print(str(path), soft_wrap=True)
        return
    if len(folders) != 2:
        raise DataError(
            f"--compare lays two runs side by side, but {len(folders)} "
            f"{'is' if len(folders) == 1 else 'are'} given. Give two run folders."
        )
    one, other = folders
    file = one.parent / f"{one.name}-{other.name}.html"
    write_comparison(one, other, file, subset=subset, has_thumbnails=has_thumbnails)
    OUT.print(str(file), soft_wrap=True)


@app.command()
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete all cached features and fits.")
    ] = False,
) -> None:
    """Show the cache of features and trained fits, or clear it.

    \b
    Examples:
      scalecut cache
      scalecut cache --clear
    """
    n_files, n_bytes = cache_folder.summary()
    if clear:
        cache_folder.clear()
    verb = "deleted from" if clear else "in"
    OUT.print(
        f"{n_files} files, {n_bytes / 1e6:.1f} MB, {verb} {cache_folder.folder()}", soft_wrap=True
    )


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Tell what is installed and which weights are found.

    \b
    Example:
      scalecut doctor
    """
    facts = {
        "versions": runs.versions(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "precision": resolved_precision("auto", "auto"),
        "cache": str(cache_folder.folder()),
        "weights": {
            model: _weights_found(model)
            for model in ("tf_efficientnet_lite0", "inception_v3", "resnet50", "resnet50_v1")
        },
    }
    if as_json:
        print_json(facts)
        return
    for name, version in facts["versions"].items():
        OUT.print(f"{name:14} {version}")
    OUT.print(
        f"{'computes on':14} "
        f"{facts['gpu'] or str(facts['threads']) + ' threads of the processor'}, "
        f"{facts['precision']}"
    )
    OUT.print(f"{'cache':14} {facts['cache']}", soft_wrap=True)
    for model, found in facts["weights"].items():
        OUT.print(f"{'weights':14} {model}: {found}", soft_wrap=True)


def main() -> None:
    """Entry point of the `scalecut` command."""
    warnings.showwarning = _said
    app()


# --- inside --------------------------------------------------------------------------------------


def _said(message: Warning | str, *_: object) -> None:
    """A warning in a line, without the place in the code."""
    ERR.print(f"scalecut: {' '.join(str(message).split())}", soft_wrap=True)


def _finish(curve: Curve, folder: Path, settings: dict[str, object], as_json: bool) -> None:
    """Write the run and say what it holds."""
    with runs.new_run(folder) as made:
        write_curve(curve, made, command=command(), settings=settings)
        draw(made)
        write_page(made)
    if as_json:
        print_json(
            {
                "run": str(folder),
                "finding": curve.finding(),
                "evidence": curve.evidence(),
                "curve": records(curve.frame()),
                "layers_left_out": curve.layers_left_out,
                "images_left_out": curve.images_left_out,
            }
        )
        return
    OUT.print(curve_table(curve))
    OUT.print(f"Controls: {controls_in_words(curve) or 'none'}.", soft_wrap=True)
    if said := engine_in_words(curve.provenance):
        OUT.print(said, soft_wrap=True)
    if settings.get("learning_curve") and not curve.fewer:
        OUT.print("No learning curve: half of the images to fit would be too few.", soft_wrap=True)
    for line in curve.learning_lines():
        OUT.print(line, soft_wrap=True)
    print_left_out(curve.layers_left_out, "layers")
    print_left_out(curve.images_left_out, "images")
    print_run(folder, "curve.png", curve.finding())


def _weights_found(model: str) -> str:
    if model in PACKAGES:
        return f"in the package {PACKAGES[model]}"
    for path in weights_places(model):
        if path.is_file():
            return f"at {path}"
    if model == "resnet50_v1":
        return f"none; put a file at {weights_places(model)[0]} or give --weights FILE"
    return (
        "none here; would be downloaded from timm's hub, or put a file at "
        f"{weights_places(model)[0]}"
    )
