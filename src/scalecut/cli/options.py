"""What the commands can be asked, in words that are the same for all of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, ModelError
from ..networks.network import Network, Preprocessing

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
        help="auto, float32, bfloat16, or int8 (of --engine openvino); auto is bfloat16 where the "
        "processor computes in it."
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(help="torch, openvino (of scalecut[fast]), or auto: what is faster here."),
]
ClusterOption = Annotated[
    str,
    typer.Option(help="local:2 for two workers, or a Ray cluster's address (scalecut[cluster])."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")]
OutOption = Annotated[Path | None, typer.Option(help="The run folder.")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="voc:DIR, coco:FILE, csv:FILE, tar:PATTERN, masks:DIR, or scenes; csv and tar also at "
        "an address, s3://...",
    ),
]
SubsetOption = Annotated[
    str, typer.Option(help="Classes of objects, comma-separated, each probed by itself.")
]
ObjectsOption = Annotated[
    str, typer.Option(help="single: images with one object of the class; largest; mean.")
]
MeasureOption = Annotated[str, typer.Option(help="area, sqrt-area, log-area, height or pixels.")]
FitOption = Annotated[
    str, typer.Option(help="How images come to the input size: squash, crop or pad.")
]
ImagesOption = Annotated[
    Path | None, typer.Option(help="The folder of images, where the annotations do not tell.")
]
InterpolationOption = Annotated[
    str, typer.Option(help="nearest, bilinear, bicubic or lanczos, not the network's own.")
]
BatchOption = Annotated[int, typer.Option(help="Images a forward pass.")]
HalfOption = Annotated[
    bool, typer.Option("--half", help="Keep features in float16: half of the cache's disk.")
]


def listed(text: str) -> list[str]:
    """The parts of a comma-separated text."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers_of(text: str, what: str) -> list[float]:
    """Numbers above 0, `10,20,40`.

    Raises:
        DataError: if a part is none.
    """
    try:
        numbers = [float(part) for part in listed(text)]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise DataError(f"{text!r} is no list of {what}s. Give numbers above 0, such as 10,20,40.")
    return numbers


def pixels_of(text: str) -> list[int]:
    """Sides in pixels, `160,224`.

    Raises:
        DataError: if a part is not a whole number above 0.
    """
    sides = listed(text)
    wrong = [side for side in sides if not side.isdecimal() or int(side) < 1]
    if wrong:
        raise DataError(f"{wrong[0]!r} is not a side in pixels. Give whole numbers: 160,224,320.")
    return [int(side) for side in sides]


def octaves_of(text: str, side: int) -> list[float]:
    """Sizes as octaves about the training side: factors `0.5,1,2`, or pixels `112px,448px`.

    Raises:
        DataError: if a part is neither.
    """
    octaves = []
    for part in listed(text):
        in_pixels = part.endswith("px")
        try:
            factor = float(part.removesuffix("px")) / (side if in_pixels else 1)
        except ValueError:
            factor = math.nan
        if not 1 / 64 <= factor <= 64:
            raise DataError(
                f"{part!r} is no size. Give factors of the training resolution from 1/64 to 64, "
                f"such as 0.5,1,2, or pixels, such as {side // 2}px,{side}px."
            )
        exact = math.log2(factor)
        half = round(2 * exact) / 2
        # 0.71 and 1.41 mean the square roots of 1/2 and 2: half octaves, if the pixels are the same
        is_half = (
            round(side * 2**half) == round(side * factor)
            if in_pixels
            else abs(exact - half) < 0.025
        )
        octaves.append(half if is_half else exact)
    return octaves


def with_input(
    network: Network, size: str, mean: str = "", std: str = "", interpolation: str = ""
) -> Network:
    """Overrule the network's own preprocessing."""
    changed: dict[str, object] = {"interpolation": interpolation} if interpolation else {}
    if size:
        sides = size.lower().split("x")
        if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
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
