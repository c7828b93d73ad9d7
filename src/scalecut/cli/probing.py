"""Commands about curves besides `probe`: demo, layers and compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands import Verb, add, listed
from .console import (
    ERR,
    JSON,
    OUT,
    JsonOption,
    OutOption,
    bars,
    command,
    finish,
    place,
    print_json,
)

LAYERS = """
  scalecut layers resnet50_v1
  scalecut layers vit_small_patch16_224 --json
  scalecut layers inception_v3 --layers 'mixed*'"""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(demo)
    add(app, "layers", "networks.selection:list_layers", LAYERS, _layers, (JSON,))
    app.command()(compare)


def demo(
    out: OutOption = None,
    images: Annotated[int, typer.Option(min=1, help="Synthetic scenes.")] = 400,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Probe a network on synthetic scenes: no data, no download.

    \b
    Example:
      scalecut demo
    """
    from ..data.scenes import make_scenes
    from ..probing.probe import probe

    if not as_json:
        OUT.print(
            "EfficientNet-Lite0, trained on ImageNet, is shown synthetic scenes in which the share "
            "of the image that an object fills is known exactly. How much of it does each layer "
            "encode?\n"
        )
    folder = place(out or Path("runs/demo"), "demo")
    with bars(ERR, quiet=as_json) as progress:
        scenes = make_scenes(images, seed=seed)
        curve = probe("tf_efficientnet_lite0", scenes, seed=seed, progress=progress)
    finish(curve, folder, as_json=as_json)


def _layers(verb: Verb, values: Mapping[str, Any], as_json: bool) -> None:
    found = verb.call(values)
    from .tables import layer_rows, plain_table, records

    if as_json:
        print_json(records(found))
        return
    OUT.print(plain_table(layer_rows(found), values["model"]))


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of probes, or of passports, two or more.")
    ],
    layers: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="One layer of each, comma-separated; the peaks, or last layers, if empty.",
        ),
    ] = "",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the curves of any number of networks and targets, or the passports of encoders.

    With --json, the differences of all pairs are printed, and a folder is written only with --out.

    \b
    Examples:
      scalecut compare runs/resnet50 runs/vit
      scalecut compare runs/resnet50 runs/vit runs/inception --out runs/three
      scalecut compare runs/resnet50 runs/inception --layers add_13,mixed8
      scalecut compare runs/lite0-passport runs/resnet50-passport
    """
    from .tables import records

    found = _compared(runs, listed(layers))
    if not as_json:
        finish(found, place(out, "compare"), as_json=False)
        return
    if out is not None:
        found.save(place(out, ""), command=command())
    print_json(records(getattr(found, "pairs", found.table)))


def _compared(runs: Sequence[Path], layers: Sequence[str]) -> Any:
    """The comparison of curves, or of passports if the first run is one."""
    if runs and (runs[0] / "passport.csv").is_file():
        from ..pathology.encoders import compare_passports

        return compare_passports(runs, layers=layers)
    from ..probing.comparison import compare_runs

    return compare_runs(runs, layers=layers)
