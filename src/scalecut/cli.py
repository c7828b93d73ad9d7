"""The command line: arguments in; calls, messages and exit status out. Nothing else prints."""

import json
import math
import shlex
import sys
from dataclasses import asdict, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from typer.core import TyperGroup

from . import cache as cache_folder
from . import runs
from .curve import Curve
from .errors import ModelError, ScalecutError
from .features import resolved_precision
from .images import LeftOut
from .inputs import chosen_points
from .models import PACKAGES, Network, Preprocessing, load_network, weights_places
from .probe import probe as probe_layers
from .report import draw
from .scenes import made_up_scenes
from .terminal import LAYER_COLUMNS, bars, curve_table, layer_table

# Names of classes, layers and folders are shown as they are: [bold] and :cat: mean themselves.
OUT = Console(highlight=False, markup=False, emoji=False)
ERR = Console(stderr=True, highlight=False, markup=False, emoji=False)
MOST_LINES = 5  # of things left out, in the closing lines; run.json has them all


class _Commands(TyperGroup):
    """Turns what the user can mend into one line and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ScalecutError as error:
            said = " ".join(str(error).split())  # in one line, whatever a library put into it
            ERR.print(f"scalecut: {said}", soft_wrap=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            ERR.print(
                "scalecut: stopped. What was computed is kept: the same command goes on from "
                "there.",
                soft_wrap=True,
            )
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the layer at which a vision model forgets how big things are.\n\n\b\n"
    "Start with:  scalecut demo\n"
    "Then:        scalecut probe resnet50 --data voc:MY/FOLDER --subset dog,cat",
)

Model = Annotated[
    str,
    typer.Argument(
        help="A timm name (inception_v3, resnet50, ...), resnet50_v1, or module.path:factory."
    ),
]
WeightsOption = Annotated[
    str, typer.Option("--weights", help="pretrained, random, or a safetensors or state-dict file.")
]
PartialOption = Annotated[
    bool,
    typer.Option(
        "--allow-partial",
        help="Accept a weights file that lacks tensors; layers that need them are left out.",
    ),
]
LayersOption = Annotated[
    str, typer.Option("--layers", help="Names, aliases or globs, comma-separated; all by default.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Of everything that is left to chance.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON and nothing else.")
]
InputOption = Annotated[
    str,
    typer.Option(
        "--input-size",
        help="Pixels, 224 or 224x320 (height x width), instead of the network's own.",
    ),
]
MeanOption = Annotated[
    str, typer.Option("--mean", help="Three numbers, 0 to 1, instead of the network's own.")
]
StdOption = Annotated[
    str, typer.Option("--std", help="Three numbers, 0 to 1, instead of the network's own.")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto, float32 or bfloat16; auto is bfloat16 where the processor computes in it."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")]
OutOption = Annotated[Path | None, typer.Option(help="The run folder.")]


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
    network = _with_input(
        load_network(model, weights=weights, allow_partial=allow_partial), input_size
    )
    points, left_out = chosen_points(network, _listed(layers))
    if as_json:
        _print_json([{name: getattr(point, name) for name in LAYER_COLUMNS} for point in points])
        return
    size = f"{network.preprocessing.height} x {network.preprocessing.width} px"
    OUT.print(layer_table(f"{model}, {size}", points))
    _print_left_out(left_out, "layers")


@app.command()
def probe(
    model: Model,
    data: Annotated[str, typer.Option(help="voc:DIR, coco:FILE, csv:FILE, masks:DIR, or scenes.")],
    weights: WeightsOption = "pretrained",
    allow_partial: PartialOption = False,
    layers: LayersOption = "",
    subset: Annotated[
        str, typer.Option(help="Classes of objects, comma-separated, each probed by itself.")
    ] = "",
    measure: Annotated[
        str, typer.Option(help="area, sqrt-area, log-area, height or pixels.")
    ] = "area",
    objects: Annotated[
        str, typer.Option(help="single: images with one object of the class; largest; mean.")
    ] = "single",
    fit: Annotated[
        str, typer.Option(help="How images come to the input size: squash, crop or pad.")
    ] = "squash",
    images: Annotated[
        Path | None, typer.Option(help="The folder of images, where the annotations do not tell.")
    ] = None,
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
        str, typer.Option(help="One or more of random,shuffled; or none.")
    ] = "random,shuffled",
    repeats: Annotated[int, typer.Option(help="Random splits of 70/30.")] = 10,
    input_size: InputOption = "",
    mean: MeanOption = "",
    std: StdOption = "",
    interpolation: Annotated[
        str, typer.Option(help="nearest, bilinear, bicubic or lanczos, not the network's own.")
    ] = "",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.")] = 32,
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
    """
    settings = {name: value for name, value in locals().items() if name not in ("out", "as_json")}
    folder = (
        out
        or Path("runs")
        / f"{model.replace('/', '_').replace(':', '_')}-{datetime.now():%Y%m%d-%H%M%S}"
    )
    runs.check_place(folder)
    network = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
    with bars(ERR, quiet=as_json) as progress:
        curve = probe_layers(
            _with_input(network, input_size, mean, std, interpolation),
            data,
            layers=_listed(layers),
            subsets=_listed(subset),
            measure=measure,
            objects=objects,
            skip_truncated=skip_truncated,
            skip_difficult=skip_difficult,
            strict=strict,
            images_folder=images,
            fit=fit,
            regressors=_listed(regressor),
            controls=[name for name in _listed(controls) if name != "none"],
            repeats=repeats,
            precision=precision,
            device=device,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    _finish(curve, folder, settings, as_json)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Draw the figures of a run again.

    \b
    Example:
      scalecut report runs/demo
    """
    for path in draw(runs.read_curve(run), run / "figures"):
        OUT.print(str(path), soft_wrap=True)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all cached features.")] = False,
) -> None:
    """Show the cache of computed features, or clear it.

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
        _print_json(facts)
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
    app()


# --- inside --------------------------------------------------------------------------------------


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _with_input(
    network: Network, size: str, mean: str = "", std: str = "", interpolation: str = ""
) -> Network:
    """Overrule the network's own preprocessing."""
    changed: dict[str, object] = {"interpolation": interpolation} if interpolation else {}
    if size:
        sides = size.lower().split("x")
        if len(sides) > 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
            raise ModelError(
                f"An input size of {size!r} is not understood. Give pixels, such as 224 or 224x320."
            )
        changed |= {"height": int(sides[0]), "width": int(sides[-1])}
    for name, text in (("mean", mean), ("std", std)):
        if text:
            try:
                values = tuple(float(part) for part in text.split(","))
            except ValueError:
                values = ()
            is_usable = all(
                math.isfinite(value) and (name == "mean" or value > 0) for value in values
            )
            if len(values) != 3 or not is_usable:
                sort = "numbers" if name == "mean" else "numbers above 0"
                raise ModelError(
                    f"--{name} {text!r} is not three {sort}. Give red, green and blue, such as "
                    "0.5,0.5,0.5."
                )
            changed[name] = values
    if not changed:
        return network
    own: Preprocessing = replace(network.preprocessing, **changed)
    return replace(network, preprocessing=own)


def _finish(curve: Curve, folder: Path, settings: dict[str, object], as_json: bool) -> None:
    """Write the run and say what it holds."""
    table = curve.frame()
    with runs.new_run(folder) as place:
        command = shlex.join(["scalecut", *sys.argv[1:]])
        runs.write_curve(curve, place, command=command, settings=settings)
        draw(table, place / "figures")
    if as_json:
        _print_json(
            {
                "run": str(folder),
                "finding": curve.finding(),
                "curve": json.loads(str(table.to_json(orient="records"))),
                "layers_left_out": [asdict(item) for item in curve.layers_left_out],
                "images_left_out": [asdict(item) for item in curve.images_left_out],
            }
        )
        return
    OUT.print(curve_table(curve))
    _print_left_out(curve.layers_left_out, "layers")
    _print_left_out(curve.images_left_out, "images")
    OUT.print(f"Run:     {folder}\nPicture: {folder / 'figures' / 'curve.png'}", soft_wrap=True)
    OUT.print(curve.finding(), style="bold", soft_wrap=True)


def _print_left_out(items: tuple[LeftOut, ...], what: str) -> None:
    if not items:
        return
    OUT.print(f"{len(items)} {what} left out:")
    for item in items[:MOST_LINES]:
        OUT.print(f"  {item.name}: {item.reason}", soft_wrap=True)
    if len(items) > MOST_LINES:
        OUT.print(f"  ... and {len(items) - MOST_LINES} more; run.json lists them all")


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


def _print_json(thing: object) -> None:
    sys.stdout.write(json.dumps(thing, indent=2, ensure_ascii=False, default=str) + "\n")
