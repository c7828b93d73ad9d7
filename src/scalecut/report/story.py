"""A run folder, told: the finding, the figures, what each layer reads, and what to trust it by.

Only reads: the tables and `run.json` of the run, and its photographs where their files still lie.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import runs
from ..cut import folder as bundle
from ..data.decoding import header
from ..data.images import MEAN, Image
from ..data.thumbnails import thumbnail, worth_showing
from ..errors import DataError
from ..figures.analyses import (
    ANSWERS,
    MOVES,
    directions_drawing,
    drift_drawing,
    invariance_drawing,
    noise_drawing,
    predicted_drawing,
    printed_drawing,
    saving_drawing,
    scenes_drawing,
)
from ..figures.curve import (
    curve_drawing,
    exponential_drawing,
    layer_names,
    learning_drawing,
    subset_drawing,
    subsets_of,
    width_drawing,
)
from ..figures.drawing import Drawing
from ..figures.pathology import calibration_drawing, recall_drawing, sweep_drawing
from ..paper.numbers import INCEPTION, RESNET
from ..paper.tables import paper_sections
from ..probing.curve import Curve, compare, read_curve, read_run
from .page import Cell, Picture, Readings, Section, Shown, Story, Table
from .sections import (
    cut_section,
    evidence_table,
    few_facts,
    foretold_section,
    interval,
    labels_of,
    layer_table,
    read_predictions,
    training_section,
    transfer_section,
    trust,
    tuned_section,
)

DRAWN = {
    "invariance": {"invariance": invariance_drawing, "drift": drift_drawing},
    "noise": {"noise": noise_drawing},
    "scenes": {"scenes": scenes_drawing},
    "rcv": {"directions": directions_drawing},
    "learning": {"learning": learning_drawing},
}
CONTESTS = {"sweep": sweep_drawing, "calibration": calibration_drawing, "recall": recall_drawing}
# the tables behind the scores of a transfer
BEHIND = {
    "agreement": foretold_section,
    "configurations": tuned_section,
    "losses": training_section,
}
COLUMNS: dict[str, tuple[str, ...]] = {
    "transfer": ("contestant", "layer", "tile", "metric", "value"),
    "differences": (
        *("contestant", "other", "metric", "better", "low", "high", "p_value"),
        *("n_seeds_better", "n_seeds"),
    ),
    "agreement": (
        *("metric", "rho", "low", "high", "rho_depth", "best", "foretold", "regret"),
        *("regret_last", "n_layers"),
    ),
    "configurations": ("layers", "kappa"),
    "losses": ("contestant", "layer", "epoch", "loss", "validation_loss", "is_used"),
}  # what the sections of a transfer need; figures look for themselves
# what stands under the figure of each network of the paper
PRINTED = {
    INCEPTION: "InceptionV3: Table A.2 of the paper, and ours as far as the weights at hand go.",
    RESNET: "ResNet50: the paper's figure, read off to 0.02 on this axis, and ours.",
}
PAGE = "report.html"
# a network without logits has no answers, and sizes less than an octave apart no drift
NEEDED = {"invariance": ANSWERS, "drift": MOVES}
NOTES = {
    "subsets": (
        "Subset by subset",
        "Each class of objects is read by itself; the line without a colour is their mean.",
    ),
    "width": (
        "Ridge, least squares and the width of a layer",
        "n/d is the number of images to fit over the number of features. Where the two are about "
        "equal, least squares passes through every image it is fitted to and follows the noise, "
        "whatever the layer knows.",
    ),
    "curve_exponential": (
        "On the axis of the paper",
        "e^(R²)/e is 1 where R² is 1, 0.37 where R² is 0, and near 0 where a fit is far off, so "
        "that no value leaves the figure. Here it is that of the mean R².",
    ),
    "predicted": (
        "True against predicted scale",
        "At the peak, class by class: the mean over images of like scale, and a band that four of "
        "five of them lie in. Where the lines are flatter than the dotted one, extremes are drawn "
        "to the mean, as any regression does that is not sure.",
    ),
    "learning": (
        "With fewer images to fit",
        "A curve holds for the number of images that it was fitted to.",
    ),
    "invariance": (
        "How the answer changes",
        "Compared with the answer at the size that the network was trained at.",
    ),
    "drift": ("How the features move", "From one size to the next, an octave further."),
    "noise": (
        "What of the image's size is read from noise",
        "There is no object in these pictures, so what is read is a leak.",
    ),
    "scenes": (
        "Object scale and image size apart",
        "Made-up scenes in which each of the two is set, and not measured.",
    ),
    "saving": (
        "What is kept",
        "Parameters and multiply-accumulates that are needed up to each layer, of all that the "
        "whole network has.",
    ),
    "directions": (
        "The direction of scale",
        "In which the features grow with the scale of the object: how well it is found, how many "
        "channels carry it, and whether it holds for other subsets.",
    ),
    "sweep": (
        "Cut at every layer",
        "What the network tells of patches when it is cut after each of its layers.",
    ),
    "calibration": (
        "What is predicted of each truth",
        "The mean over fits and patches; on the dotted line it is the truth.",
    ),
    "recall": ("How often the magnification is told rightly", "Of the patches of each of them."),
}
WITHOUT_READINGS = (
    "This run does not say what was read from each image: it was made by an earlier version. Run "
    "the command below again to see it."
)
MOST_THUMBNAILS, MOST_THUMBNAIL_BYTES = 320, 2_200_000  # 3 MB as text


def drawings(run: Path) -> Iterator[tuple[str, Drawing]]:
    """Names and drawings of whatever tables the run has; none of a cut.

    Raises:
        DataError: if the folder is no whole run.
    """
    if is_cut(run):
        return
    present = [name for name in DRAWN if (run / f"{name}.csv").is_file()]
    others = ("transfer.csv", "units.csv", "paper.csv")
    if (run / "curve.csv").is_file() or not (
        present or any((run / name).is_file() for name in others)
    ):
        yield from _curve_drawings(run, read_curve(run), runs.read_facts(run))
    if (run / "paper.csv").is_file():
        table = _table(run, "paper")
        for network in PRINTED:
            yield network, printed_drawing(table, network)
    for name in present:
        table = _table(run, name)
        for figure, make in DRAWN[name].items():
            if figure not in NEEDED or _has_any(table, NEEDED[figure]):
                yield figure, make(table)
    for name in CONTESTS:
        if (run / f"{name}.csv").is_file():
            yield name, CONTESTS[name](_table(run, name), runs.read_facts(run))


def is_cut(folder: Path) -> bool:
    """Whether it is the folder of a cut network, and not of a run."""
    marks = ((folder / runs.MARKS[kind]).is_file() for kind in ("run", "cut"))
    return tuple(marks) == (False, True)


def story_of(run: Path, *, subset: str = "", has_thumbnails: bool = True) -> Story:
    """What the page of a run tells; the folder of a cut network has a page too.

    Raises:
        DataError: if the folder is no whole run, or has no such subset.
    """
    if is_cut(run):
        return _story_of_cut(run)
    drawn, facts = dict(drawings(run)), runs.read_facts(run)
    frame = read_curve(run) if (run / "curve.csv").is_file() else pd.DataFrame()
    _check_subset(run, frame, subset)
    sections = [
        Section(NOTES[name][0], figures=[_shown(name, drawn[name])])
        for name in NOTES
        if name in drawn
    ]
    if (run / "transfer.csv").is_file():
        tables = _table(run, "transfer"), _table(run, "differences")
        sections.append(transfer_section(*tables, facts))
        there = [name for name in BEHIND if (run / f"{name}.csv").is_file()]
        sections += [BEHIND[name](_table(run, name)) for name in there]
    if (run / "units.csv").is_file():
        sections += _painted(run)
    is_paper = (run / "paper.csv").is_file()
    if is_paper:
        figures = {name: Shown(name, name, PRINTED[name], drawn[name]) for name in PRINTED}
        tables = _table(run, "paper"), _table(run, "claims")
        sections += paper_sections(*tables, figures, facts.get("pages", []))
    if not is_paper:  # whose cuts are steps, with pages of their own
        sections += [_of_cut(path.parent, f"saving-{path.parent.name}") for path in _cuts_in(run)]
    story = Story(
        name=run.resolve().name,
        title=str(facts.get("model") or facts.get("settings", {}).get("model") or _untitled(run)),
        finding=str(facts.get("finding", "")),
        facts=few_facts(facts),
        sections=sections,
        trust=trust(facts),
        kind="".join(str(facts.get("command", "")).split()[1:2]),
    )
    if frame.empty:
        return story
    evidence = facts.get("evidence", {})
    readings = _readings(run, frame, has_thumbnails)
    return replace(
        story,
        title=str(frame.model.iloc[0]),
        finding=str(facts.get("finding") or read_run(run).finding()),
        curves=_curves(frame, evidence),
        layers=_layers_of(frame),
        peaks={name: found["peak"] for name, found in evidence.items()},
        readings=readings,
        without_readings="" if readings else WITHOUT_READINGS,
        sections=[*_scores_sections(frame, facts), *sections],
    )


def _untitled(run: Path) -> str:
    return "The paper beside ours" if (run / "paper.csv").is_file() else "A run"


def compared(one: Path, other: Path) -> Section:
    """The differences of two runs, paired image by image, or why they cannot be.

    Raises:
        DataError: if one of them is no whole run of a probe.
    """
    curves = read_run(one), read_run(other)
    names = names_of(curves, (one, other))
    title = f"{names[0]} less {names[1]}"
    try:
        table = compare(*curves)
    except DataError as error:
        return Section(title, [str(error)])
    sides = ("subset", "layer", "r2", "other_layer", "other_r2", "difference")
    rows: list[tuple[Cell, ...]] = [
        (*(row[side] for side in sides), interval(row["difference_low"], row["difference_high"]))
        for row in table.to_dict("records")
    ]
    sides = [column for name in names for column in (f"peak of {name}", f"R² of {name}")]
    columns = ("subset", *sides, "difference", "95 %")
    said = "Peak against peak, paired image by image; an interval without 0 shows a difference."
    return Section(title, [said], tables=[Table("Differences", columns, rows)])


def names_of(curves: Sequence[Curve], folders: Sequence[Path]) -> list[str]:
    """What tells two runs apart: their networks, else their folders, else the paths of these."""
    ways = (
        [str(curve.table.model.iloc[0]) for curve in curves],
        [folder.resolve().name for folder in folders],
        [str(folder) for folder in folders],
    )
    return next((names for names in ways if len(set(names)) == len(names)), ways[0])


# --- the curve -----------------------------------------------------------------------------------


def _curve_drawings(
    run: Path, frame: pd.DataFrame, facts: Mapping[str, Any]
) -> Iterator[tuple[str, Drawing]]:
    yield "curve", curve_drawing(frame, evidence=facts.get("evidence", {}).get(MEAN))
    yield "curve_exponential", exponential_drawing(frame)
    if len(subsets_of(frame)) > 1:
        yield "subsets", subset_drawing(frame)
    if frame.regressor.nunique() > 1:
        yield "width", width_drawing(frame)
    found, evidence = read_predictions(run), facts.get("evidence", {})
    if found is not None and MEAN in evidence:
        peak = str(evidence[MEAN]["peak"])
        label = labels_of(facts).get(peak, peak)
        yield "predicted", predicted_drawing(found[1], str(frame.model.iloc[0]), peak, label)


def _curves(frame: pd.DataFrame, evidence: Mapping[str, Any]) -> dict[str, Drawing]:
    """By subset, their mean first."""
    names = sorted(dict.fromkeys(frame.subset), key=lambda name: name != MEAN)
    return {name: curve_drawing(frame, subset=name, evidence=evidence.get(name)) for name in names}


def _layers_of(frame: pd.DataFrame) -> list[str]:
    """In the order of the places of a drawing."""
    rows = frame.loc[frame.weights != "pixels"].to_dict("records")
    return list(layer_names(rows))


def _check_subset(run: Path, frame: pd.DataFrame, subset: str) -> None:
    has = list(dict.fromkeys(frame.subset)) if len(frame) else []
    if subset and subset not in has:
        listed = f"It has {len(has)}: {', '.join(has[:8])}{', …' if len(has) > 8 else ''}."
        raise DataError(
            f"The run {str(run)!r} has no subset {subset!r}. "
            f"{listed if has else 'It has no curve.'} Give --subset one that it has, or none."
        )


def _scores_sections(frame: pd.DataFrame, facts: Mapping[str, Any]) -> list[Section]:
    """The scores of every layer, and what they are evidence of."""
    layers = Section("Layer by layer", tables=[layer_table(frame, facts)])
    if not facts.get("evidence"):
        return [layers]
    return [layers, Section("What it is evidence of", tables=[evidence_table(facts)])]


# --- what each layer reads -----------------------------------------------------------------------


def _readings(run: Path, frame: pd.DataFrame, has_thumbnails: bool) -> Readings | None:
    found, layers = read_predictions(run), _layers_of(frame)
    if found is None:
        return None
    images, predictions = found
    names = list(dict.fromkeys(predictions.layer))
    predicted = predictions.predicted.to_numpy(np.float64).reshape(len(names), len(images))
    predicted = predicted[[names.index(layer) for layer in layers]]
    images = images.astype({"width": np.float64, "height": np.float64})
    thumbnails: dict[int, bytes] = {}
    if has_thumbnails:
        subset = images.subset.astype(str).tolist()
        chosen = worth_showing(images.measure.to_numpy(), predicted, subset, MOST_THUMBNAILS)
        rows, n_bytes = images.to_dict("records"), 0
        for row in chosen.tolist():
            jpeg, width, height = _thumbnail(rows[row])
            n_bytes += len(jpeg)
            if n_bytes > MOST_THUMBNAIL_BYTES:
                break
            if jpeg:
                thumbnails[row] = jpeg
                images.loc[row, ["width", "height"]] = width, height
    by = "ridge regression" if (frame.regressor == "ridge").any() else "least squares"
    return Readings(images, str(frame.measure.iloc[0]), layers, predicted, thumbnails, by)


def _thumbnail(image: Mapping[Any, Any]) -> tuple[bytes, float, float]:
    """A small JPEG with the sides of its picture; nothing where the file can no longer be read."""
    if image["thumbnail"] is not None:
        return image["thumbnail"], image["width"], image["height"]
    file = Path(image["file"])
    try:
        width, height, _ = header(file)
        return thumbnail(Image(image["image"], file)), float(width), float(height)
    except DataError:
        return b"", np.nan, np.nan


# --- transfer and cuts ---------------------------------------------------------------------------


def _painted(run: Path) -> list[Section]:
    """The pictures of units, or of directions, a section a layer."""
    table = _table(run, "units")
    sections = []
    for layer, rows in table.groupby("layer", sort=False):
        pictures = [
            Picture(
                thumbnail(Image(row["picture"], run / row["picture"])),
                (row["direction"] and f"{row['subset']}: {row['direction']}")
                or f"unit {row['unit']}",
                f"{row['start']:.3g} → {row['end']:.3g}".replace("-", "−"),
            )
            for row in rows.to_dict("records")
        ]
        said = "Under each, what the layer answers to the noise that it began with, and to it."
        sections.append(Section(str(layer), [said], pictures=pictures))
    return sections


def _cuts_in(run: Path) -> list[Path]:
    return sorted(run.glob(f"*/{runs.MARKS['cut']}"))


def _story_of_cut(folder: Path) -> Story:
    facts = bundle.read_facts(folder)
    curve, weights = facts.get("curve") or {}, facts.get("weights") or {}
    name = facts.get("architecture") or "the network"
    return Story(
        name=folder.resolve().name,
        title=f"{name}, cut after {facts['point']['layer']}",
        finding=" ".join(facts["proof"]["lines"][:2]),
        facts=[f"{facts['num_features']} features", f"weights: {weights.get('source', '')}"],
        sections=[
            _of_cut(folder, "saving"),
            *([Section("The curve that led to it", [curve["finding"]])] if curve else []),
        ],
        trust=trust(facts),
    )


def _of_cut(folder: Path, figure: str) -> Section:
    facts = bundle.read_facts(folder)
    section, costs = cut_section(facts), bundle.costs_of(facts)
    if costs is None:
        return section
    name, layer = str(facts.get("architecture") or "network"), facts["point"]["layer"]
    shown = Shown(figure, *NOTES["saving"], saving_drawing(costs, name, layer))
    return replace(section, figures=[shown])


# --- tables and figures --------------------------------------------------------------------------


def _shown(name: str, drawing: Drawing) -> Shown:
    return Shown(name, *NOTES[name], drawing)


def _has_any(table: pd.DataFrame, quantities: Collection[str]) -> bool:
    """Whether there is anything to draw; a table without quantities is refused by its figure."""
    return "quantity" not in table or bool(table["quantity"].isin(list(quantities)).any())


def _table(run: Path, name: str) -> pd.DataFrame:
    runs.read_facts(run)
    try:
        table = runs.read_table(run, name)
        lacking = [column for column in COLUMNS.get(name, ()) if column not in table]
        if lacking:
            raise ValueError(f"it lacks the column {lacking[0]!r}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(run)!r} has no readable {name}.csv ({error}). Run the command again."
        ) from error
    return table
