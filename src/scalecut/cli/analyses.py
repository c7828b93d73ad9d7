"""The commands that go beyond the curve: image size, noise, scenes as an instrument, directions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pandas import DataFrame
from rich.table import Table

from .. import runs
from ..analyses.invariance import CHANGES
from ..analyses.invariance import invariance as invariance_of
from ..analyses.noise import KINDS, PADDINGS, noise_curve
from ..analyses.rcv import rcv as directions_of
from ..analyses.synthetic import PLACES, instrument
from ..data.images import ImageSet, LeftOut, evenly
from ..data.read import LEAST_IMAGES, Reading, images_of
from ..errors import DataError, check_names
from ..features.extract import Look
from ..networks.layers import SOFTMAX, ProbePoint
from ..networks.network import Network, load_network, tensors_sha256
from ..networks.selection import chosen_points
from ..probing.controls import comparable
from ..report.report import draw, write_page
from .console import ERR, OUT, command, place, print_json, print_left_out, print_run, records
from .options import (
    BatchOption,
    DataOption,
    DeviceOption,
    FitOption,
    ImagesOption,
    InputOption,
    JsonOption,
    LayersOption,
    MeasureOption,
    Model,
    ObjectsOption,
    OutOption,
    PartialOption,
    PrecisionOption,
    SeedOption,
    SubsetOption,
    WeightsOption,
    listed,
    octaves_of,
    pixels_of,
    with_input,
)
from .terminal import bars, quantity_table, size_table

PaddingOption = Annotated[
    str, typer.Option(help="How maps are padded: one or more of zeros,reflect,circular.")
]


@dataclass(frozen=True, slots=True)
class _Found:
    """What a command found, and how it is told."""

    tables: dict[str, DataFrame]  # by the name of their file
    shown: list[Table]
    finding: str
    stages: Mapping[str, object]  # seconds of each
    left_out: tuple[LeftOut, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def invariance(
    model: Model,
    data: Annotated[
        str, typer.Option(help="voc:DIR, coco:FILE, csv:FILE, tar:PATTERN, masks:DIR, or scenes.")
    ] = "",
    weights: WeightsOption = "pretrained",
    allow_partial: PartialOption = False,
    layers: LayersOption = "",
    subset: SubsetOption = "",
    objects: ObjectsOption = "single",
    images: ImagesOption = None,
    at_most: Annotated[int, typer.Option(help="Images that are looked at, evenly chosen.")] = 48,
    sizes: Annotated[
        str, typer.Option(help="Factors of the training resolution, or pixels: 0.5,1,2 or 448px.")
    ] = "0.25,0.35,0.5,0.71,1,1.41,2,2.83,4",
    changes: Annotated[
        str, typer.Option(help="image-size (the picture resized), object-scale (crop in, pad out).")
    ] = "image-size,object-scale",
    noise: Annotated[
        str, typer.Option(help="Also read pure noise: one or more of white,pink,blocks.")
    ] = "",
    padding: PaddingOption = "zeros,reflect,circular",
    noise_images: Annotated[int, typer.Option(help="Pictures of each kind of noise.")] = 126,
    input_size: InputOption = "",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    batch_size: BatchOption = 32,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow answers and features through image sizes and noise.

    \b
    Examples:
      scalecut invariance resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat
      scalecut invariance resnet50 --data coco:val2017.json --subset bird --sizes 0.5,1,2
      scalecut invariance tf_efficientnet_lite0 --noise white,pink --padding zeros,circular
    """
    settings = dict(locals())
    if not data and not noise:
        raise DataError(
            "Neither images nor noise were asked for. Give --data voc:DIR (or scenes), or --noise "
            "white, or both."
        )
    if noise and noise_images < LEAST_IMAGES:
        raise DataError(
            f"{noise_images} pictures of noise are too few to fit and to test. Give --noise-images "
            f"{LEAST_IMAGES} or more, 126 as usual."
        )
    folder = place(out, f"{model}-invariance")
    asked = _named(changes, CHANGES, "change")
    kinds = _named(noise, KINDS, "noise") if noise else ()
    paddings = _named(padding, PADDINGS, "padding")
    how = Look(precision=precision, device=device, batch_size=batch_size)
    network, points, lacking = _network(model, weights, allow_partial, seed, input_size, layers)
    octaves = octaves_of(sizes, network.preprocessing.height)
    if data and not any(octaves):
        raise DataError(
            f"--sizes {sizes!r} names no size but the training resolution. Give others, such as "
            "0.5,1,2."
        )
    tables: dict[str, DataFrame] = {}
    left_out = lacking
    with bars(ERR, quiet=as_json) as progress:
        look = {"precision": precision, "device": device, "seed": seed, "progress": progress}
        if noise:  # first, because a network that cannot do it says so soon
            ask = {"kinds": kinds, "paddings": paddings, "n": noise_images}
            tables["noise"] = noise_curve(network, points, **ask, **look)
        if data:
            reading = Reading(tuple(listed(subset)), objects=objects, images_folder=images)
            frame = network.preprocessing.frame()
            image_set = images_of(data, frame, reading, seed=seed, enough=False, progress=progress)
            found = invariance_of(
                network,
                _some(image_set, at_most),
                points,
                octaves=octaves,
                changes=asked,
                batch_size=how.batch_size,
                **look,
            )
            tables["invariance"] = found.table
            left_out = (*left_out, *image_set.left_out, *found.left_out)
    shown = [size_table(tables["invariance"])] if data else []
    shown += [_noise_table(tables["noise"])] if noise else []
    said = [_of_sizes(tables["invariance"])] if data else []
    said += [_of_noise(tables["noise"])] if noise else []
    outcome = _Found(tables, shown, " ".join(said), progress.stages, left_out)
    _finish(outcome, network, folder, settings)


def scenes(
    model: Model,
    weights: WeightsOption = "pretrained",
    allow_partial: PartialOption = False,
    layers: LayersOption = "",
    canvases: Annotated[
        str, typer.Option(help="Sides in pixels; five from half to twice the input size if empty.")
    ] = "",
    where: Annotated[
        str, typer.Option("--place", help="Where objects stand: random or fixed (the centre).")
    ] = PLACES[0],
    contents: Annotated[
        int, typer.Option(help="Combinations of object, backdrop, place and light.")
    ] = 44,
    padding: PaddingOption = "zeros,reflect,circular",
    input_size: InputOption = "",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set object scale and image size apart, and see what is read.

    \b
    Examples:
      scalecut scenes tf_efficientnet_lite0
      scalecut scenes resnet50 --canvases 160,224,320 --place fixed
    """
    settings = dict(locals())
    folder = place(out, f"{model}-scenes")
    paddings, sides = _named(padding, PADDINGS, "padding"), pixels_of(canvases) or None
    network, points, lacking = _network(model, weights, allow_partial, seed, input_size, layers)
    with bars(ERR, quiet=as_json) as progress:
        look = {"precision": precision, "device": device, "seed": seed, "progress": progress}
        found = instrument(network, points, canvases=sides, place=where, n=contents, **look)
        tables = [found.table]
        if len(found.canvases) > 1:  # else there is no image size that could leak
            ask = {"kinds": ["pink"], "paddings": paddings, "sizes": found.canvases}
            tables.append(_as_leaks(noise_curve(network, points, **ask, **look)))
    table = runs.concatenated(tables)
    names = {
        "object_scale_partial_r2": "object scale",
        "image_size_partial_r2": "image size",
        "gain": "gain",
        "r2": "R²",
        "blur_leak": "blur",
        **{f"padding_{mode}_leak": mode for mode in PADDINGS},
    }
    title = f"Partial R² of object scale and image size, gain, and R² of leaks, {model}"
    shown = [quantity_table(title, table, names)]
    left_out = (*lacking, *found.left_out)
    outcome = _Found({"scenes": table}, shown, _of_scenes(table), progress.stages, left_out)
    _finish(outcome, network, folder, settings)


def rcv(
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
    target_class: Annotated[
        str,
        typer.Option(
            "--class", help="Also the sensitivity of its logit: a number or a name of ImageNet."
        ),
    ] = "",
    repeats: Annotated[int, typer.Option(help="Random splits of 70/30.")] = 10,
    input_size: InputOption = "",
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    batch_size: BatchOption = 32,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the direction in which features grow with scale (RCV).

    \b
    Examples:
      scalecut rcv resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat,horse
      scalecut rcv tf_efficientnet_lite0 --data coco:val2017.json --subset cat --class tabby
    """
    settings = dict(locals())
    folder = place(out, f"{model}-rcv")
    look = Look(fit, precision, device, batch_size)
    network, points, lacking = _network(model, weights, allow_partial, seed, input_size, layers)
    reading = Reading(tuple(listed(subset)), measure, objects, images_folder=images)
    frame = network.preprocessing.frame(fit)
    with bars(ERR, quiet=as_json) as progress:
        image_set = images_of(data, frame, reading, seed=seed, progress=progress)
        found = directions_of(
            network,
            image_set,
            points,
            repeats=repeats,
            target_class=target_class or None,
            fit=look.fit,
            precision=look.precision,
            device=look.device,
            batch_size=look.batch_size,
            seed=seed,
            progress=progress,
        )
    told = found.table.assign(quantity=_own_or_other(found.table))
    names = {
        "stability_degrees": "degrees",
        "stability_shuffled_degrees": "shuffled",
        "channels_90": "channels for 90 %",
        "own": "R² own",
        "transfer": "R² other",
        "br": "Br",
    }
    title = f"Directions of {image_set.measure_name}, {model}, mean over subsets"
    left_out = (*lacking, *image_set.left_out, *found.images_left_out)
    vectors = {
        f"{name}/{layer}": vector
        for name, by_layer in found.vectors.items()
        for layer, vector in by_layer.items()
    }
    outcome = _Found(
        {"rcv": found.table},
        [quantity_table(title, told, names)],
        _of_directions(told),
        progress.stages,
        left_out,
        vectors,
    )
    _finish(outcome, network, folder, settings)


# --- inside --------------------------------------------------------------------------------------


def _network(
    model: str, weights: str, allow_partial: bool, seed: int, input_size: str, layers: str
) -> tuple[Network, list[ProbePoint], tuple[LeftOut, ...]]:
    """The network, the layers that it can answer for, and those that it cannot."""
    loaded = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
    network = comparable(with_input(loaded, input_size), seed)
    points, left_out = chosen_points(network, listed(layers))
    return network, points, left_out


def _named(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names of a comma-separated text, one at least."""
    names = check_names(listed(text), known, what)
    if not names:
        raise DataError(f"No {what} is named. Give one or more of {', '.join(known)}.")
    return names


def _some(image_set: ImageSet, n: int) -> ImageSet:
    """At most n images, evenly chosen."""
    if n < 1:
        raise DataError(f"{n} images cannot be looked at. Give --at-most 1 or more, 48 as usual.")
    return image_set.rows(evenly(len(image_set), n))


def _finish(found: _Found, network: Network, folder: Path, settings: dict[str, object]) -> None:
    """Write the run and say what it holds."""
    facts = {
        "model": network.name,
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": asdict(network.preprocessing),
        "finding": found.finding,
        "left_out": found.left_out,
        "stages": found.stages,
    }
    asked = {key: value for key, value in settings.items() if key not in ("out", "as_json")}
    with runs.new_run(folder) as made:
        runs.write_run(made, found.tables, facts, command=command(), settings=asked)
        if found.arrays:
            runs.write_arrays(found.arrays, made / "rcv.npz")
        pictures = draw(made)
        write_page(made)
    if settings["as_json"]:
        tables = {name: records(table) for name, table in found.tables.items()}
        print_json(
            {"run": str(folder), "finding": found.finding, **tables, "left_out": found.left_out}
        )
        return
    for table in found.shown:
        OUT.print(table)
    print_left_out(found.left_out, "things")
    print_run(folder, pictures[0].name if pictures else "", found.finding)


def _as_leaks(noise: DataFrame) -> DataFrame:
    """What the size of pure noise can be read by, as quantities of the scenes' table."""
    named = noise.assign(quantity=[f"padding_{mode}_leak" for mode in noise["padding"]])
    named = named.rename(columns={"r2": "value", "r2_low": "low", "r2_high": "high"})
    return named.drop(columns=["noise", "padding"])


def _noise_table(noise: DataFrame) -> Table:
    quantities = [f"{row['noise']}, {row['padding']}" for row in noise.to_dict("records")]
    named = noise.assign(quantity=quantities, value=noise["r2"])
    title = f"R² of the size of pure noise, {noise['model'].iloc[0]}"
    return quantity_table(title, named, {name: name for name in dict.fromkeys(quantities)})


def _own_or_other(table: DataFrame) -> list[str]:
    """The quantities, transfers told apart by whether they go to the subset itself."""
    names = {True: "own", False: "transfer"}
    return [
        names[row["subset"] == row["other"]]
        if row["quantity"] == "transfer_r2"
        else row["quantity"]
        for row in table.to_dict("records")
    ]


# --- findings, in sentences that can be read out --------------------------------------------------

IN_WORDS = {"image-size": "image size", "object-scale": "object scale"}


def _by_layer(table: DataFrame, quantity: str) -> dict[str, float]:
    """The mean of a quantity by layer, in order of execution; of the softmax if it is alone."""
    values: dict[str, list[float]] = {}
    for row in table.to_dict("records"):
        if row["quantity"] == quantity and np.isfinite(row["value"]):
            values.setdefault(row["layer"], []).append(row["value"])
    if len(values) > 1:
        values.pop(SOFTMAX, None)
    return {layer: float(np.mean(each)) for layer, each in values.items()}


def _of_sizes(table: DataFrame) -> str:
    rows = table.to_dict("records")
    side, first = next(row["side"] for row in rows if row["octaves"] == 0), rows[0]["change"]
    said: list[str] = []
    for change in dict.fromkeys(row["change"] for row in rows):
        shares, sizes = _kept(rows, change)
        for number, (share, size) in enumerate(zip(shares, sizes, strict=True)):
            if not said:
                said.append(
                    f"{share} of the answers at {side} px are kept at {size} the {IN_WORDS[change]}"
                )
            elif number:
                said.append(f" and {share} at {size}")
            else:
                said.append(f"; where only the object's scale changes, {share} at {size}")
    sentences = ["".join(said) + "."] if said else []
    drift = _by_layer(table.loc[table["change"] == first], "drift")
    if drift:
        most, least = max(drift, key=drift.__getitem__), min(drift, key=drift.__getitem__)
        end = f" and least at {least} ({drift[least]:.2f})" if least != most else ""
        sentences.append(
            f"Doubling the {IN_WORDS[first]} moves the features most at {most} (1 - cosine "
            f"{drift[most]:.2f}){end}."
        )
    return " ".join(sentences) or (
        "There are no answers, and no two sizes an octave apart: invariance.csv has the cosines."
    )


def _kept(rows: Sequence[Mapping[Any, Any]], change: str) -> tuple[list[str], list[str]]:
    """Shares of answers kept, at a smaller and a larger size: an octave away, or the farthest."""
    kept = {
        row["octaves"]: row["value"]
        for row in rows
        if (row["change"], row["quantity"]) == (change, "agreement")
    }
    smaller = -1 if -1 in kept else min(kept, default=0)
    larger = 1 if 1 in kept else max(kept, default=0)
    chosen, named = [at for at in (smaller, larger) if at], {-1: "half", 1: "double"}
    return (
        [f"{kept[at]:.0%}" for at in chosen],
        [named.get(at, f"{2**at:.3g} times") for at in chosen],
    )


def _of_noise(table: DataFrame) -> str:
    rows = sorted(table.to_dict("records"), key=lambda row: row["r2"])
    best = {row["padding"]: row for row in rows}  # the last one stays
    said = [
        f"{best[name]['r2']:.2f} with {name} ({best[name]['noise']}, {best[name]['layer']})"
        for name in PADDINGS
        if name in best
    ]
    said[0] = said[0].replace(" (", " as padding (", 1)
    return f"The size of pure noise can be read with R² up to {', '.join(said)}."


def _of_scenes(table: DataFrame) -> str:
    said = []
    for quantity, what, kind in (
        ("object_scale_partial_r2", "Object scale is read best at", "partial R² "),
        ("image_size_partial_r2", "Image size is read best at", "partial R² "),
        ("gain", "Where only the object is resized, the reading follows most at", "gain "),
        ("blur_leak", "Blur alone tells most at", "R² "),
    ):
        values = _by_layer(table, quantity)
        if values:
            best, last = max(values, key=values.__getitem__), list(values)[-1]
            end = f"; {values[last]:.2f} at {last}" if last != best else ""
            said.append(f"{what} {best} ({kind}{values[best]:.2f}{end}).")
    return " ".join(said)


def _of_directions(table: DataFrame) -> str:
    own, other = _by_layer(table, "own"), _by_layer(table, "transfer")
    best = max(own, key=own.__getitem__)
    said = f"The direction at {best} tells scale with R² {own[best]:.2f} in its own subset"
    if other:
        said += f" and {other[best]:.2f} in the others"
    turned = _by_layer(table, "stability_degrees").get(best)
    by_chance = _by_layer(table, "stability_shuffled_degrees").get(best)
    if turned is None or by_chance is None:  # no direction where no feature varies
        return f"{said}."
    return (
        f"{said}. Between repeats it turns by {turned:.0f}°; with a shuffled measure, by "
        f"{by_chance:.0f}°."
    )


def beyond_the_curve(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for each in (invariance, scenes, rcv):
        app.command()(each)
