"""The command that paints what layers answer to, and what they read as larger and as smaller."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import matplotlib
import numpy as np
import PIL.Image
import typer
from jaxtyping import Float64, UInt8
from matplotlib.figure import Figure
from pandas import DataFrame

from .. import runs
from ..analyses.visualise import SIZE, STEPS, Pictures, axes, pictures
from ..errors import DataError, LayerError, ModelError
from ..figures.curve import STYLE
from ..figures.drawing import INK, QUIET, TYPE, TYPE_SMALL, shortened
from ..networks.layers import ProbePoint
from ..networks.network import Network, load_network, tensors_sha256
from ..networks.selection import chosen_points
from ..probing.controls import comparable
from ..report import report
from .console import ERR, OUT, command, place, print_json, print_left_out, print_run, records
from .options import (
    DeviceOption,
    JsonOption,
    Model,
    OutOption,
    PartialOption,
    SeedOption,
    WeightsOption,
    listed,
)
from .terminal import bars, plain_table

# fmt: off
COLUMNS = [
    "model", "weights", "layer", "alias", "depth", "unit", "subset", "direction", "start", "end",
    "steps", "seed", "picture",
]
# fmt: on
FEW = 6  # units, where none is named
FOLDER = "pictures"
SIGNS = {"larger": 1, "smaller": -1}
# of a sheet, in points; all are whole pixels of its PNG, so that those of the pictures stay whole
A_ROW, SPACE, CAPTION, HEADING, PIXEL, LEAST_TILE = 6, 14.4, 43.2, 50.4, 0.72, 92.16
LETTER = 0.65  # width of one, in sizes of type


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """What is to be painted for one layer."""

    point: ProbePoint
    names: list[dict[str, str]]  # unit, or subset and direction
    directions: Float64[np.ndarray, "k d"]


def visualise(
    model: Model,
    layer: Annotated[
        str, typer.Option("--layer", help="Names, aliases or globs, comma-separated.")
    ],
    unit: Annotated[
        str, typer.Option("--unit", help=f"Numbers from 0, such as 0,1,2; {FEW} of them if empty.")
    ] = "",
    rcv: Annotated[
        Path | None,
        typer.Option(help="A run of scalecut rcv: paint what its directions are, not units."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help=f"Side in pixels; {SIZE}, or the network's own if it must be."),
    ] = None,
    steps: Annotated[int, typer.Option(help="From noise to the picture.")] = STEPS,
    tv: Annotated[
        float, typer.Option(help="Weight of the total variation: above 0 pictures are smoother.")
    ] = 0.0,
    weights: WeightsOption = "pretrained",
    allow_partial: PartialOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Paint what units of a layer, or its direction of scale, see.

    \b
    Examples:
      scalecut visualise tf_efficientnet_lite0 --layer blocks.1.1,blocks.3.1 --unit 0,1,2
      scalecut visualise inception_v3 --layer mixed0
      scalecut visualise resnet50 --layer layer3.5 --rcv runs/rcv --tv 0.1
    """
    settings = {name: value for name, value in locals().items() if name not in ("out", "as_json")}
    units = _numbers(unit)
    if units and rcv:
        raise DataError("Both --unit and --rcv were given. Give one: units, or directions.")
    if not listed(layer):
        raise DataError(
            f"{layer!r} names no layer. Give --layer one or more; `scalecut layers MODEL` prints "
            "them all."
        )
    folder = place(out, f"{model}-pictures")
    loaded = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
    network = comparable(loaded, seed)
    points, left_out = chosen_points(network, listed(layer))
    if not points:
        raise LayerError(
            f"There is no layer to paint for: {left_out[0].name} {left_out[0].reason}. Give "
            "another --layer, or the whole weights."
        )
    wanted = _of_directions(rcv, network, points) if rcv else _of_units(points, units)
    ask = {"size": size, "steps": steps, "tv": tv, "device": device, "seed": seed}
    with bars(ERR, quiet=as_json) as progress:
        found = [
            pictures(
                *(network, each.point, each.directions),
                **ask,
                progress=progress,
                stage=f"painting {each.point.label}",
            )
            for each in wanted
        ]
    by_layer = [
        _rows(network, each, made, steps, seed) for each, made in zip(wanted, found, strict=True)
    ]
    rows = list(chain(*by_layer))
    table, finding = DataFrame(rows, columns=COLUMNS), _finding(rows, found[0])
    facts = {**_facts(network), "finding": finding, "left_out": left_out}
    facts |= {"stages": progress.stages}
    with runs.new_run(folder) as run:
        runs.write_run(run, {"units": table}, facts, command=command(), settings=settings)
        sheets = [
            _draw(run, each.point.label, made, of_layer)
            for each, made, of_layer in zip(wanted, found, by_layer, strict=True)
        ]
        report.write_page(run)
    if as_json:
        told = {"finding": finding, "units": records(table), "left_out": left_out}
        print_json({"run": str(folder), **told})
        return
    OUT.print(plain_table(_shown(rows), f"How far along, {model}"))
    print_left_out(left_out, "layers")
    print_run(folder, sheets[0], finding)


def about_drawing(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(visualise)


# --- inside: what is asked for -------------------------------------------------------------------


def _numbers(text: str) -> list[int]:
    wrong = [part for part in listed(text) if not part.isdecimal()]
    if wrong:
        raise DataError(f"{wrong[0]!r} is no unit. Give whole numbers from 0, such as 0,1,2.")
    return list(dict.fromkeys(map(int, listed(text))))


def _of_units(points: Sequence[ProbePoint], units: Sequence[int]) -> list[_Wanted]:
    """The units that are named, of every layer; else a few, evenly chosen."""
    wanted = []
    for point in points:
        few = np.linspace(0, point.channels - 1, min(FEW, point.channels)).round().astype(int)
        some = list(units) or few.tolist()
        names = [{"unit": str(number), "subset": "", "direction": ""} for number in some]
        wanted.append(_Wanted(point, names, axes(point, some)))
    return wanted


def _of_directions(run: Path, network: Network, points: Sequence[ProbePoint]) -> list[_Wanted]:
    """Both ways along the direction of every subset, of every layer."""
    vectors = _vectors(run, network)
    layers = list(dict.fromkeys(layer for _, layer in vectors))
    wanted = []
    for point in points:
        if point.layer not in layers:
            raise LayerError(
                f"The run {str(run)!r} holds no direction of layer {point.label}, but of "
                f"{len(layers)} others, from {layers[0]} to {layers[-1]}. Give --layer one of "
                "these, or make a run of that layer."
            )
        subsets = [subset for subset, layer in vectors if layer == point.layer]
        names = [{"unit": "", "subset": s, "direction": way} for s in subsets for way in SIGNS]
        rows = [sign * vectors[s, point.layer] for s in subsets for sign in SIGNS.values()]
        wanted.append(_Wanted(point, names, np.array(rows)))
    return wanted


def _vectors(run: Path, network: Network) -> dict[tuple[str, str], Float64[np.ndarray, " _"]]:
    """The directions of a run, by subset and layer, if they are of this network."""
    facts = runs.read_facts(run)
    try:
        with np.load(run / "rcv.npz", allow_pickle=False) as arrays:
            found = {}
            for name in arrays:
                subset, _, layer = name.rpartition("/")
                found[subset, layer] = arrays[name]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{str(run)!r} holds no directions: rcv.npz cannot be read ({error}). Give --rcv a "
            "folder that `scalecut rcv` wrote."
        ) from error
    if facts.get("model") != network.name:
        raise ModelError(
            f"The run {str(run)!r} is of {facts.get('model')}, not of {network.name}. Give --rcv a "
            "run of this network."
        )
    if facts.get("tensors_sha256") != tensors_sha256(network.module):
        raise ModelError(
            f"The directions of {str(run)!r} are of {network.name} with other weights than "
            f"{network.weights.source}. Give the same --weights, and --seed where they are random."
        )
    return found


def _facts(network: Network) -> dict[str, object]:
    return {
        "model": network.name,
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": asdict(network.preprocessing),
    }


# --- inside: what is written ---------------------------------------------------------------------


def _rows(
    network: Network, wanted: _Wanted, made: Pictures, steps: int, seed: int
) -> list[dict[str, Any]]:
    """One row a picture. Both ways along a direction are told as places along that direction."""
    point = wanted.point
    same = {"model": network.name, "weights": network.weights.kind, "layer": point.layer}
    same |= {"alias": point.alias, "depth": point.depth, "steps": steps, "seed": seed}
    return [
        {
            **same,
            **name,
            "start": SIGNS.get(name["direction"], 1) * start,
            "end": SIGNS.get(name["direction"], 1) * end,
            "picture": f"{FOLDER}/{_file_name(point, name)}.png",
        }
        for name, start, end in zip(wanted.names, made.starts, made.ends, strict=True)
    ]


def _file_name(point: ProbePoint, name: dict[str, str]) -> str:
    """Names of layers and subsets as they can stand in a file's: no two become one."""
    parts = [name["unit"]] if name["unit"] else [name["subset"], name["direction"]]
    return "-".join(quote(part, safe="") for part in (point.layer, *parts))


def _draw(folder: Path, label: str, made: Pictures, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the pictures of a layer, and the sheet of them, and give the name of that."""
    for each in ("figures", FOLDER):
        (folder / each).mkdir(exist_ok=True)
    for picture, row in zip(made.pictures, rows, strict=True):
        PIL.Image.fromarray(picture).save(folder / row["picture"])
    captions = [
        (
            f"unit {row['unit']}" if row["unit"] else f"{row['subset']}: {row['direction']}",
            f"{row['start']:.3g} → {row['end']:.3g}".replace("-", "−"),
        )
        for row in rows
    ]
    name = quote(rows[0]["layer"], safe="")
    with matplotlib.rc_context(STYLE):
        sheet = _sheet(label, rows[0]["model"], made.pictures, captions)
        for kind, undated in (("png", {}), ("svg", {"Date": None})):
            where = folder / "figures" / f"{name}.{kind}"
            sheet.savefig(where, dpi=report.DOTS_PER_INCH, metadata=undated)
    return f"{name}.png"


def _sheet(
    layer: str,
    model: str,
    tiles: UInt8[np.ndarray, "k h w 3"],
    captions: Sequence[tuple[str, str]],
) -> Figure:
    """The pictures of a layer side by side, with what each is of and how far it takes the layer."""
    n_columns = max(2, min(A_ROW, len(tiles)))
    pixel = PIXEL * math.ceil(LEAST_TILE / PIXEL / tiles.shape[2])
    tall, wide = pixel * tiles.shape[1], pixel * tiles.shape[2]
    width = SPACE + n_columns * (wide + SPACE)
    height = HEADING + math.ceil(len(tiles) / n_columns) * (tall + CAPTION)
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")

    def write(text: str, left: float, down: float, size: float, colour: str, **more: Any) -> None:
        figure.text(left / width, 1 - down / height, text, size=size, color=colour, **more)

    room = int((width - 2 * SPACE) / TYPE / LETTER)
    write(shortened(layer, room), SPACE, 22.0, TYPE, INK, weight="bold")
    write(shortened(model, room), SPACE, 38.0, TYPE_SMALL, QUIET)
    for number, (tile, (name, reach)) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(number, n_columns)
        left, top = SPACE + column * (wide + SPACE), HEADING + row * (tall + CAPTION)
        bottom = 1 - (top + tall) / height
        axes = figure.add_axes((left / width, bottom, wide / width, tall / height))
        axes.imshow(tile, interpolation="none")
        axes.set_axis_off()
        name = shortened(name, int(wide / TYPE_SMALL / LETTER))
        write(name, left, top + tall + 13, TYPE_SMALL, INK)
        write(reach, left, top + tall + 26, TYPE_SMALL, QUIET)
    return figure


def _shown(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """What the terminal shows: what tells the pictures apart, and how far each goes."""
    names = [name for name in ("unit", "subset", "direction") if rows[0][name]]
    return DataFrame(list(rows)).reindex(columns=["layer", *names, "start", "end"])


def _finding(rows: Sequence[Mapping[str, Any]], made: Pictures) -> str:
    """How many pictures there are, and whether each does what it was painted for."""
    height, width = made.pictures.shape[1:3]
    said = f"{len(rows)} picture{'s' * (len(rows) > 1)} of {height} x {width} px"
    fails = [
        row for row in rows if SIGNS.get(row["direction"], 1) * (row["end"] - row["start"]) <= 0
    ]
    if not fails:
        return f"{said}: each takes its layer farther than the noise it began with."
    return (
        f"{said}: {len(fails)} of them, the first {fails[0]['picture']}, could not be painted, as "
        "the layer did not answer."
    )
