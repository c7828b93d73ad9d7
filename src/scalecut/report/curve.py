"""The page of a probe: its curves, what they are evidence of, and two of them compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.images import MEAN
from ..errors import DataError
from ..figures.analyses import predicted_drawing
from ..figures.curve import (
    REGRESSORS,
    combined_drawing,
    comparison_drawing,
    curve_drawing,
    layer_names,
    subset_drawing,
    subsets_of,
    width_drawing,
)
from ..figures.drawing import Drawing
from ..runs import Run
from .cells import Cell, interval, p_value
from .page import Section, Shown, Story, Table
from .predictions import predictions_of, read_predictions

COLUMNS = [
    *("model", "subset", "measure", "layer", "alias", "depth", "n_features", "n_images"),
    *("weights", "target", "regressor", "r2", "r2_low", "r2_high", "p_value", "seed_count"),
    *("n_fit", "r2_spread", "learned", "learned_low", "learned_high"),
]
COMBINED = [
    *("model", "weights", "subset", "measure", "up_to", "alias", "depth", "n_layers"),
    *("n_features", "metric", "score", "score_low", "score_high"),
    *("best_layer", "below", "below_low", "below_high"),
]  # of combined.csv
COMPARISON = [
    *("run", "model", "measure", "metric", "subset", "n_images", "n_fit", "peak", "alias", "depth"),
    *("score", "score_low", "score_high", "p_value", "set_first", "confidence_set"),
    *("learned", "learned_low", "learned_high", "fall_after", "fall", "fall_low", "fall_high"),
    *("last", "last_score", "macs", "peak_macs"),
]  # of comparison.csv
PAIRS = [
    *("subset", "layer", "other_layer", "r2", "other_r2"),
    *("difference", "difference_low", "difference_high", "measure", "metric", "run", "other_run"),
    *("score", "other_score", "p_value", "p_corrected", "unpaired_because"),
]  # of pairs.csv
CURVES = [
    *("run", "model", "measure", "metric", "layer", "alias", "depth"),
    *("score", "score_low", "score_high"),
]  # of curves.csv
OF_EVIDENCE = (
    *("peak", "confidence_set", "r2", "r2_low", "r2_high", "learned", "p_value"),
    *("fall_after", "fall_first", "fall_last", "last_r2", "n_fit"),
)  # what the page shows of each subset
WITHOUT_PREDICTIONS = (
    "This run holds no predictions of single images, because an earlier version wrote it. Run the "
    "command below again to see them."
)


def curve_story(
    run: Run, story: Story, drawn: Mapping[str, Drawing], *, has_thumbnails: bool
) -> Story:
    """The page of a probe: its curves, the predictions of each layer, and the evidence."""
    frame, evidence = curve_of(run), evidence_of(run)
    layers = list(layer_names(frame.loc[frame.weights != "pixels"].to_dict("records")))
    predictions = predictions_of(run, frame, layers, has_thumbnails=has_thumbnails)
    scores = [Section("Layer by layer", tables=[layer_table(frame, run.facts)])]
    if evidence:
        scores.append(Section("Evidence", tables=[_evidence_table(evidence, labels_of(run.facts))]))
    names = sorted(dict.fromkeys(frame.subset), key=lambda name: name != MEAN)
    curves = {
        name: drawn["curve"]
        if name == MEAN
        else curve_drawing(frame, subset=name, evidence=evidence.get(name))
        for name in names
    }
    return replace(
        story,
        title=str(frame.model.iloc[0]),
        curves=curves,
        layers=layers,
        peaks={name: found["peak"] for name, found in evidence.items()},
        predictions=predictions,
        without_predictions="" if predictions else WITHOUT_PREDICTIONS,
        sections=[*scores, *story.sections],
    )


def curve_of(run: Run) -> pd.DataFrame:
    """The table of a curve, with the columns that its page and figures need."""
    return run.table("curve", COLUMNS)


def evidence_of(run: Run) -> Mapping[str, Any]:
    """What the curve is evidence of, by subset; empty if `run.json` does not say.

    Raises:
        DataError: if it lacks one of the facts that the page shows.
    """
    evidence = run.facts.get("evidence") or {}
    for subset, found in evidence.items():
        lacking = [name for name in OF_EVIDENCE if name not in found]
        if lacking:
            raise DataError(
                f"The evidence of {subset!r} in {str(run.folder / 'run.json')!r} lacks "
                f"{lacking[0]!r}. Run the probe again."
            )
    return evidence


def labels_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Each layer with the paper's name for it, where that differs."""
    return {
        point["layer"]: point["layer"]
        if point["alias"] in ("", point["layer"])
        else f"{point['layer']} ({point['alias']})"
        for point in facts.get("points", [])
    }


# --- tables --------------------------------------------------------------------------------------


def layer_table(frame: pd.DataFrame, facts: Mapping[str, Any]) -> Table:
    """One row per layer, subset and regressor; the page shows the chosen subset and regressor."""
    points = {point["layer"]: point for point in facts.get("points", [])}
    kind = "pretrained" if (frame.weights == "pretrained").any() else "random"
    true = frame.loc[(frame.target == "true") & frame.regressor.isin(list(REGRESSORS))]
    names = ["subset", "regressor", "layer"]
    of_random = true.loc[true.weights == "random"].set_index(names).r2.to_dict()
    label, rows, keys = labels_of(facts), list[tuple[Cell, ...]](), list[dict[str, str]]()
    for row in true.to_dict("records"):
        if row["weights"] != kind:
            continue
        point = points.get(row["layer"], {})
        rows.append(
            (
                label.get(row["layer"], row["layer"]),
                row["n_features"],
                point.get("stride"),
                point.get("receptive_field"),
                row["r2"],
                interval(row["r2_low"], row["r2_high"]),
                p_value(row["p_value"]),
                row["learned"],
                None if kind == "random" else of_random.get(tuple(row[name] for name in names)),
            )
        )
        keys.append({"subset": row["subset"], "regressor": REGRESSORS[row["regressor"]]})
    columns = (
        *("layer", "features", "stride, px", "receptive field, px"),
        *("R²", "95 %", "p", "gain over controls", "random weights"),
    )
    return Table("Layers", columns, rows, keys)


def _evidence_table(evidence: Mapping[str, Any], labels: Mapping[str, str]) -> Table:
    def label(layer: str) -> str:
        return labels.get(layer, layer)

    rows: list[tuple[Cell, ...]] = [
        (
            subset,
            label(found["peak"]),
            found["r2"],
            interval(found["r2_low"], found["r2_high"]),
            _set_in_words([label(name) for name in found["confidence_set"]]),
            found["learned"],
            p_value(found["p_value"]),
            label(found["fall_after"]) if found["fall_after"] else "no drop shown",
            found["last_r2"],
            found["n_fit"],
        )
        for subset, found in evidence.items()
    ]
    columns = (
        *("subset", "peak", "R²", "95 %", "95 % set of the peak", "gain over controls", "p"),
        *("drop after", "R² of the last layer", "training images"),
    )
    return Table("Evidence", columns, rows)


def _set_in_words(layers: Sequence[str]) -> Cell:
    if len(layers) == 1:
        return (layers[0], 1)
    return (f"{len(layers)} layers, {layers[0]} to {layers[-1]}", len(layers))


# --- figures -------------------------------------------------------------------------------------


def main_figure(run: Run) -> Drawing:
    """The mean curve with its controls and its evidence."""
    return curve_drawing(curve_of(run), evidence=evidence_of(run).get(MEAN))


def subset_figure(run: Run) -> Drawing | None:
    """The curve of each subset, if there are several."""
    frame = curve_of(run)
    return subset_drawing(frame) if len(subsets_of(frame)) > 1 else None


def width_figure(run: Run) -> Drawing | None:
    """Regressors compared, if there are several."""
    frame = curve_of(run)
    return width_drawing(frame) if frame.regressor.nunique() > 1 else None


def predicted_figure(run: Run) -> Drawing | None:
    """True against predicted measure at the peak, if the run holds predictions."""
    found, evidence = read_predictions(run), evidence_of(run)
    if found is None or MEAN not in evidence:
        return None
    peak = str(evidence[MEAN]["peak"])
    label = labels_of(run.facts).get(peak, peak)
    return predicted_drawing(found[1], str(curve_of(run).model.iloc[0]), peak, label)


def combined_figure(run: Run) -> Drawing:
    """All layers up to each together, and each alone."""
    return combined_drawing(curve_of(run), run.table("combined", COMBINED))


def combined_section(run: Run, drawing: Drawing) -> Section:
    """All layers together, next to the best of them alone."""
    labels = labels_of(run.facts)
    columns = ("subset", "layers up to", "layers", "features", "R²", "95 %")
    rows: list[tuple[Cell, ...]] = [
        (
            row["subset"],
            labels.get(row["up_to"], row["up_to"]),
            row["n_layers"],
            row["n_features"],
            row["score"],
            interval(row["score_low"], row["score_high"]),
            labels.get(row["best_layer"], row["best_layer"]),
            row["below"],
            interval(row["below_low"], row["below_high"]),
        )
        for row in run.table("combined", COMBINED).to_dict("records")
    ]
    keys = [{"subset": str(row[0])} for row in rows]  # the page shows the chosen subset
    note = (
        "Ridge regression on the features of all layers up to each, side by side; layers count "
        "alike, wide or narrow. Where a single layer is not shown to be worse, it is the simpler "
        "choice. The softmax is not included."
    )
    shown = Shown("combined", "All layers together", note, drawing)
    best = ("best of them alone", "is below by", "95 % of it")
    table = Table("Together", (*columns, *best), rows, keys)
    return Section(shown.title, figures=[shown], tables=[table])


# --- two curves ----------------------------------------------------------------------------------


def names_of(models: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What distinguishes runs: their networks, else their folders, else the paths of these."""
    choices = (list(models), [path.resolve().name for path in folders], [*map(str, folders)])
    return next((names for names in choices if len(set(names)) == len(names)), choices[0])


def comparison_section(names: Sequence[str], differences: pd.DataFrame | str) -> Section:
    """The paired differences of two curves, or why there are none."""
    title = f"{names[0]} minus {names[1]}"
    if isinstance(differences, str):
        return Section(title, [differences])
    sides = ("subset", "layer", "r2", "other_layer", "other_r2", "difference")
    rows: list[tuple[Cell, ...]] = [
        (*(row[side] for side in sides), interval(row["difference_low"], row["difference_high"]))
        for row in differences.to_dict("records")
    ]
    columns = [column for name in names for column in (f"peak of {name}", f"R² of {name}")]
    said = (
        "The peaks compared, paired by image; an interval that excludes 0 is evidence of a "
        "difference."
    )
    table = Table("Differences", ("subset", *columns, "difference", "95 %"), rows)
    return Section(title, [said], tables=[table])


# --- many curves ---------------------------------------------------------------------------------


def comparison_figure(run: Run) -> Drawing:
    """Score by relative depth of all runs."""
    return comparison_drawing(run.table("curves", CURVES))


def comparison_sections(run: Run) -> list[Section]:
    """The peak of every run, mean over subsets first, and the differences of pairs."""
    table, pairs = run.table("comparison", COMPARISON), run.table("pairs", PAIRS)
    peaks: list[tuple[Cell, ...]] = [
        (
            *(row[name] for name in ("run", "measure", "subset", "peak", "score")),
            interval(row["score_low"], row["score_high"]),
            row["set_first"],
            row["learned"],
            row["fall_after"] or "no drop shown",
            row["fall"],
            None if pd.isna(row["macs"]) else round(row["macs"] / 1e6),
        )
        for row in sorted(table.to_dict("records"), key=lambda row: row["subset"] != MEAN)
    ]
    differences: list[tuple[Cell, ...]] = [
        (
            *(row[name] for name in ("run", "other_run", "measure", "subset", "difference")),
            interval(row["difference_low"], row["difference_high"]),
            p_value(row["p_corrected"]),
            f"no: {row['unpaired_because']}" if row["unpaired_because"] else "yes",
        )
        for row in sorted(pairs.to_dict("records"), key=lambda row: row["subset"] != MEAN)
    ]
    of_peaks = (
        *("run", "target", "subset", "peak", "score", "95 %", "95 % set from"),
        *("gain over controls", "drop after", "drop", "MACs, millions"),
    )
    said = (
        "The first layer of the 95 % set is the cheapest that is not shown to be worse than the "
        "peak; multiply-accumulates (MACs) for one image are those up to it."
    )
    sections = [Section("Run by run", [said], tables=[Table("Peaks", of_peaks, peaks)])]
    if differences:
        of_pairs = ("run", "minus", "target", "subset", "difference", "95 %", "p", "paired")
        how = (
            "Paired by image where images and splits are the same; intervals are widened for the "
            "fits, and p is corrected by Holm's method over all pairs of a target and subset."
        )
        sections.append(
            Section("Differences of peaks", [how], tables=[Table("Pairs", of_pairs, differences)])
        )
    return sections
