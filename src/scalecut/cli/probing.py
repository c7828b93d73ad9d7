"""Commands about curves besides `probe`: demo, layers and compare."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from .commands import Verb, add, listed
from .console import (
    ERR,
    JSON,
    OUT,
    JsonOption,
    OutOption,
    bars,
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
    images: Annotated[int, typer.Option(min=1, help="Synthetic scenes.")] = 600,
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
    run: Annotated[Path, typer.Argument(help="The run folder of a probe.")],
    other: Annotated[Path, typer.Argument(help="Another, of the same images and splits.")],
    layers: Annotated[
        str, typer.Option(help="One layer of each, comma-separated; the peaks if empty.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Compare the curves of two networks, paired by image.

    \b
    Examples:
      scalecut compare runs/resnet50 runs/vit
      scalecut compare runs/resnet50 runs/inception --layers add_13,mixed8
    """
    pair = listed(layers)
    if len(pair) not in (0, 2):
        raise DataError(
            f"--layers {layers!r} names {len(pair)} layers. Give one layer of each run, such as "
            "add_13,mixed8."
        )
    from ..probing.curve import compare_curves, read_curve
    from ..report.curve import names_of
    from ..runs import read_run
    from .tables import difference_rows, plain_table, records

    table = compare_curves(read_curve(run), read_curve(other), (pair[0], pair[1]) if pair else None)
    if as_json:
        print_json(records(table))
        return
    names = names_of([read_run(run), read_run(other)])
    OUT.print(plain_table(difference_rows(table, names), f"R² of {names[0]} minus {names[1]}"))
