"""Commands about curves besides `probe`: demo, layers and compare."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from .console import (
    ERR,
    OUT,
    JsonOption,
    OutOption,
    bars,
    finish,
    place,
    print_json,
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(demo)
    app.command()(layers)
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


def layers(
    model: Annotated[str, typer.Argument(help="As in `scalecut probe`.")],
    weights: Annotated[
        str, typer.Option(help="pretrained, random, or a safetensors or state-dict file.")
    ] = "random",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept a weights file that lacks tensors.")
    ] = False,
    layers: Annotated[str, typer.Option(help="Names, aliases or globs, comma-separated.")] = "",
    input_size: Annotated[str, typer.Option(help="224, or 224x320 (height x width).")] = "",
    as_json: JsonOption = False,
) -> None:
    """List the layers of a network, in order of execution.

    \b
    Examples:
      scalecut layers resnet50_v1
      scalecut layers vit_small_patch16_224 --json
      scalecut layers inception_v3 --layers 'mixed*'
    """
    from ..networks.selection import list_layers
    from .commands import converted
    from .tables import layer_rows, plain_table, records

    found = list_layers(
        model,
        weights=weights,
        allow_partial=allow_partial,
        layers=converted("Sequence[str]", layers),
        input_size=converted("int | tuple[int, int] | None", input_size, "--input-size"),
    )
    if as_json:
        print_json(records(found))
        return
    OUT.print(plain_table(layer_rows(found), model))


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
    pair = tuple(part.strip() for part in layers.split(",") if part.strip())
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
