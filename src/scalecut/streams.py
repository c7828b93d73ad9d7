"""The probe of more images than features can be kept of, as a command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from . import runs
from .console import ERR, OUT, command, print_json, print_left_out, print_run, records
from .errors import DataError
from .inputs import Look, Reading
from .models import Network
from .options import listed
from .report import draw, write_page
from .streamed import StreamedCurve
from .streaming import stream_measures
from .terminal import bars, engine_in_words, plain_table

# Options of the probe that sums have no use for, with what they say if they are not given.
UNUSED = {
    "regressor": "ridge,ols",
    "twins": 3,
    "repeats": 10,
    "permutations": 1000,
    "match_width": 0,
    "learning_curve": False,
    "half": False,
}


def probe_stream(
    network: Network, folder: Path, settings: Mapping[str, Any], *, as_json: bool
) -> None:
    """Probe by sums of products, write the run and say what it holds: a run for each measure.

    Args:
        settings: the options of `scalecut probe`, by name.

    Raises:
        DataError: if an option was given that sums have no use for.
    """
    _check(settings)
    names = ("objects", "skip_truncated", "skip_difficult", "strict")
    reading = Reading(
        tuple(listed(settings["subset"])),
        **{name: settings[name] for name in names},
        images_folder=settings["images"],
    )
    look = Look(
        *(settings[name] for name in ("fit", "precision", "device", "batch_size", "engine"))
    )
    with bars(ERR, quiet=as_json) as progress:
        curves = stream_measures(
            network,
            settings["data"],
            listed(settings["measure"]) or [settings["measure"]],
            layers=listed(settings["layers"]),
            reading=reading,
            look=look,
            controls=[name for name in listed(settings["controls"]) if name != "none"],
            cluster=settings["cluster"],
            seed=settings["seed"],
            progress=progress,
        )
    found = []
    for measure, curve in curves.items():
        place = folder / measure if len(curves) > 1 else folder
        _write(curve, place, {**settings, "measure": measure})
        found.append(_as_json(curve, place))
        if not as_json:
            _print(curve)
            print_run(place, "curve.png", curve.finding())
    if as_json:
        print_json(found[0] if len(found) == 1 else {"run": str(folder), "measures": found})


def _write(curve: StreamedCurve, folder: Path, settings: Mapping[str, Any]) -> None:
    facts = {
        **curve.provenance,
        "finding": curve.finding(),
        "points": curve.points,
        "layers_left_out": curve.layers_left_out,
        "images_left_out": curve.images_left_out,
    }
    with runs.new_run(folder) as made:
        tables = {"curve": curve.frame()}
        runs.write_run(made, tables, facts, command=command(), settings=settings)
        draw(made)
        write_page(made)


def _as_json(curve: StreamedCurve, folder: Path) -> dict[str, Any]:
    return {
        "run": str(folder),
        "finding": curve.finding(),
        "curve": records(curve.frame()),
        "layers_left_out": curve.layers_left_out,
        "images_left_out": curve.images_left_out,
    }


def _check(settings: Mapping[str, Any]) -> None:
    """Refuse options that sums have no use for."""
    given = [name for name, usual in UNUSED.items() if settings[name] != usual]
    if given:
        raise DataError(
            f"--{given[0].replace('_', '-')} {settings[given[0]]} has no meaning with --stream, "
            "which fits ridge and least squares once, in 10 cells of groups, and one twin. Leave "
            "one of the two out."
        )


def _print(curve: StreamedCurve) -> None:
    ridge, ols = curve.scores(), curve.scores(regressor="ols")
    first = ridge.iloc[0]
    shown = pd.DataFrame(
        {
            "layer": [point.label for point in curve.points],
            "d": ridge.n_features.tolist(),
            "ridge [95 %]": _with_intervals(ridge, "r2"),
        }
    )
    if ridge.learned.notna().any():
        shown["learned [95 %]"] = _with_intervals(ridge, "learned")
    twin = curve.scores(weights="random")
    if curve.weights != "random" and len(twin):
        shown["random"] = [f"{value:.2f}" for value in twin.r2]
    shown["ols"] = [f"{value:.2f}" if value == value else "–" for value in ols.r2]
    OUT.print(plain_table(shown, f"R² of {first.measure}, {first.model}, {first.n_images} images"))
    n_lacking = int(ols.r2.isna().sum())
    if n_lacking:
        OUT.print(
            f"No least squares at {n_lacking} of {len(ols)} layers: it takes more images to fit "
            "than channels.",
            soft_wrap=True,
        )
    if said := engine_in_words(curve.provenance):
        OUT.print(said, soft_wrap=True)
    OUT.print("No p-values: sums of products do not tell them.", soft_wrap=True)
    print_left_out(curve.layers_left_out, "layers")
    print_left_out(curve.images_left_out, "images")


def _with_intervals(rows: pd.DataFrame, name: str) -> list[str]:
    columns = (rows[name], rows[f"{name}_low"], rows[f"{name}_high"])
    return [f"{r2:.2f} [{low:.2f}, {high:.2f}]" for r2, low, high in zip(*columns, strict=True)]
