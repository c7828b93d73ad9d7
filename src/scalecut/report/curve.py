"""The page of a probe: its curves, what they are evidence of, and two of them compared."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.images import MEAN
from ..errors import DataError
from ..figures.analyses import predicted_drawing
from ..figures.curve import (
    REGRESSORS,
    combined_drawing,
    comparison_drawing,
    curve_drawing,
    exponential_drawing,
    layer_names,
    learning_drawing,
    subset_drawing,
    subsets_of,
    targets_drawing,
    width_drawing,
)
from ..figures.drawing import Drawing
from ..figures.text import METRICS, number, with_interval
from ..figures.text import p_value as with_p
from ..runs import Run
from .cells import Cell, interval, p_value
from .page import Check, Section, Shown, Story, Table
from .predictions import predictions_of, read_predictions

COLUMNS = [
    *("model", "subset", "measure", "layer", "alias", "depth", "n_features", "n_images"),
    *("weights", "target", "regressor", "r2", "r2_low", "r2_high", "p_value", "seed_count"),
    *("n_fit", "r2_spread", "learned", "learned_low", "learned_high"),
    *("metric", "score", "score_low", "score_high", "n_groups"),
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
SCORE = {"score": "r2", "score_low": "r2_low", "score_high": "r2_high"}  # where the metric is r2
LATER = {"metric", *SCORE, "n_groups"}  # which runs of earlier versions lack
OF_EVIDENCE = (
    *("peak", "confidence_set", "r2", "r2_low", "r2_high", "learned", "p_value"),
    *("fall_after", "fall_first", "fall_last", "last_r2", "n_fit"),
)  # what the page shows of each subset; scores are R² where it holds no others
EVERY = "Every target"
ALPHA = 0.05  # p-values up to this are significant
OF_SEVERAL = (
    "The page shows predictions of single images for one measure alone; predictions.parquet holds "
    "them here."
)
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
    is_scatter, predictions = is_one_measure(frame), None
    if is_scatter:
        predictions = predictions_of(run, frame, layers, has_thumbnails=has_thumbnails)
    scores = [Section("Layer by layer", tables=[layer_table(frame, run.facts)])]
    if frame.measure.nunique() > 1 and "curve" in drawn:
        shown = Shown(
            "targets",
            EVERY,
            "Mean over subsets, with 95 % intervals; choose a target above for its controls.",
            drawn["curve"],
        )
        scores.insert(0, Section(EVERY, figures=[shown]))
    by_key = {
        _key(frame, target, subset): found
        for target, by_subset in evidence.items()
        for subset, found in by_subset.items()
    }
    if evidence:
        scores.append(Section("Evidence", tables=[_evidence_table(by_key, labels_of(run.facts))]))
    curves = {}
    for key, (target, name) in keys_of(run).items():
        rows = frame.loc[frame.measure == target]
        is_drawn = key == MEAN and "curve" in drawn
        curves[key] = (
            drawn["curve"]
            if is_drawn
            else curve_drawing(rows, subset=name, evidence=by_key.get(key))
        )
    return replace(
        story,
        title=str(frame.model.iloc[0]),
        curves=curves,
        layers=layers,
        peaks={name: found["peak"] for name, found in by_key.items()},
        predictions=predictions,
        without_predictions=""
        if predictions
        else WITHOUT_PREDICTIONS
        if is_scatter
        else OF_SEVERAL,
        sections=[*scores, *story.sections],
        heading=story.heading if is_scatter else "How much of each target every layer encodes",
    )


def curve_checks(run: Run) -> tuple[list[Check], list[str]]:
    """What the controls have at the peak, and what may make the curve weaker; mean over subsets."""
    frame, lines, doubts = curve_of(run), list[str](), list[str]()
    for target, by_subset in evidence_of(run).items():
        if (found := by_subset.get(MEAN)) is None:
            continue
        start = f"{target}: " if frame.measure.nunique() > 1 else ""
        rows = frame.loc[frame.measure == target]
        controls = _controls(rows, found)
        lines += [start + "; ".join(controls)] if start and controls else controls
        doubts += [start + each for each in _doubts(rows, found)]
    return [Check("Controls", lines or ["no controls"])], doubts


def _controls(rows: pd.DataFrame, found: Mapping[str, Any]) -> list[str]:
    """The gain over controls at the peak, the score of each control there, and the p-value."""
    regressor = "ridge" if (rows.regressor == "ridge").any() else "ols"
    is_main = (rows.metric == main_metric(rows)) & (rows.regressor == regressor)
    rows = rows.loc[is_main & (rows.subset == MEAN)]
    at_peak, is_true = rows.layer == found["peak"], rows.target == "true"
    is_trained = bool((rows.weights == "pretrained").any())
    kinds = {
        "random weights": at_peak & is_true & (rows.weights == "random") & is_trained,
        "permuted weights": at_peak & is_true & (rows.weights == "permuted"),
        "pixels alone": is_true & (rows.weights == "pixels"),
        "shuffled target": at_peak & (rows.target == "shuffled"),
    }
    scores = [
        f"{kind} {number(rows.loc[is_kind].score.iloc[0])}"
        for kind, is_kind in kinds.items()
        if is_kind.any()
    ]
    ends = [_known(found.get(name)) for name in ("learned", "learned_low", "learned_high")]
    said = [] if np.isnan(ends[0]) else [f"gain over controls {with_interval(*ends)}"]
    said += [f"at the peak: {', '.join(scores)}"] if scores else []
    known = np.isfinite(_known(found["p_value"]))
    return said + ([f"{with_p(found['p_value'])}, corrected over layers"] if known else [])


def _doubts(rows: pd.DataFrame, found: Mapping[str, Any]) -> list[str]:
    """What the finding does not show, one sentence each."""
    (_, low, _), p = _ends(found), _known(found["p_value"])
    chance = found.get("chance") or 0.0
    has_gain = np.isfinite(_known(found["learned"]))
    has_controls = rows.weights.nunique() > 1 or bool((rows.target == "shuffled").any())
    said = {
        "No layer is shown to encode the target.": p > ALPHA if np.isfinite(p) else low <= chance,
        "There are too few groups to state an interval.": np.isnan(low),
        "No control was computed, so the score may not be due to training.": not has_gain
        and not has_controls,
        "The gain over controls is not defined: it compares trained weights with random ones or "
        "with pixels.": not has_gain and has_controls,
        "The gain over controls is not shown to be above 0.": _known(found.get("learned_low")) <= 0,
        "No layer was probed after the peak, so no drop could be observed.": found["peak"]
        == found.get("last"),
    }
    return [text for text, holds in said.items() if holds]


def _known(value: float | None) -> float:
    """A number of `run.json`, where NaN is null."""
    return np.nan if value is None else value


def is_one_measure(frame: pd.DataFrame) -> bool:
    """Whether the curve is of one target, and that a number."""
    return frame.measure.nunique() == 1 and main_metric(frame) == "r2"


def keys_of(run: Run) -> dict[str, tuple[str, str]]:
    """The targets and subsets of a curve by what the page names them, the mean of each first."""
    frame = curve_of(run)
    pairs = frame[["measure", "subset"]].drop_duplicates().itertuples(index=False, name=None)
    order = [*dict.fromkeys(frame.measure)]
    pairs = sorted(pairs, key=lambda pair: (order.index(pair[0]), pair[1] != MEAN))
    return {_key(frame, target, subset): (target, subset) for target, subset in pairs}


def _key(frame: pd.DataFrame, target: str, subset: str) -> str:
    """A subset as the page names it; of several targets, with the target.

    The bare name of the mean over subsets is that of a single target.
    """
    if frame.measure.nunique() == 1:
        return subset
    return target if subset == MEAN != target else f"{target} · {subset}"


def curve_of(run: Run) -> pd.DataFrame:
    """The table of a curve, with the columns that its page and figures need.

    An earlier version wrote no scores but R², and no groups, which were then images.
    """
    table = run.table("curve", [name for name in COLUMNS if name not in LATER])
    if not {"metric", *SCORE} <= {*table}:
        table = scored_by_r2(table)
    return table if "n_groups" in table else table.assign(n_groups=table.n_images)


def main_metric(table: pd.DataFrame) -> str:
    """The metric that findings about the target of these rows are stated for."""
    there = set(table.metric)
    return next(name for name in METRICS if name in there)


def scored_by_r2(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a curve with R² as their score."""
    return table.assign(metric="r2", **{name: table[of] for name, of in SCORE.items()})


def evidence_of(run: Run) -> Mapping[str, Mapping[str, Any]]:
    """What the curve is evidence of, by target and subset; empty if `run.json` does not say.

    Raises:
        DataError: if it lacks one of the facts that the page shows.
    """
    of_targets = run.facts.get("evidence_by_target")
    if of_targets is None:
        one = run.facts.get("evidence")
        of_targets = {str(curve_of(run).measure.iloc[0]): {"evidence": one}} if one else {}
    evidence = {target: facts["evidence"] for target, facts in of_targets.items()}
    for by_subset in evidence.values():
        for subset, found in by_subset.items():
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
    is_main = frame.metric == frame.measure.map(frame.groupby("measure").apply(main_metric))
    is_true = (frame.target == "true") & frame.regressor.isin(list(REGRESSORS))
    true = frame.loc[is_true & is_main]
    names = ["measure", "subset", "regressor", "layer"]
    of_random = true.loc[true.weights == "random"].set_index(names).score.to_dict()
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
                row["score"],
                interval(row["score_low"], row["score_high"]),
                p_value(row["p_value"]),
                row["learned"],
                None if kind == "random" else of_random.get(tuple(row[name] for name in names)),
            )
        )
        key = _key(frame, row["measure"], row["subset"])
        keys.append({"subset": key, "regressor": REGRESSORS[row["regressor"]]})
    columns = (
        *("layer", "features", "stride, px", "receptive field, px"),
        *(_score_name(set(true.metric)), "95 %", "p", "gain over controls", "random weights"),
    )
    return Table("Layers", columns, rows, keys)


def _score_name(metrics: Collection[str]) -> str:
    """A metric as the heading of a column; of several, none in particular."""
    return METRICS[next(iter(metrics))] if len(metrics) == 1 else "score"


def _evidence_table(evidence: Mapping[str, Any], labels: Mapping[str, str]) -> Table:
    def label(layer: str) -> str:
        return labels.get(layer, layer)

    rows: list[tuple[Cell, ...]] = [
        (
            subset,
            label(found["peak"]),
            *_scores(found),
            _set_in_words([label(name) for name in found["confidence_set"]]),
            found["learned"],
            p_value(found["p_value"]),
            label(found["fall_after"]) if found["fall_after"] else "no drop shown",
            found.get("last_score", found["last_r2"]),
            found["n_fit"],
        )
        for subset, found in evidence.items()
    ]
    name = _score_name({found.get("metric", "r2") for found in evidence.values()})
    columns = (
        *("subset", "peak", name, "95 %", "95 % set of the peak", "gain over controls", "p"),
        *("drop after", f"{name} of the last layer", "training images"),
    )
    return Table("Evidence", columns, rows)


def _ends(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """The score at the peak and its interval; earlier versions wrote R² alone."""
    name = "score" if "score" in found else "r2"
    score, low, high = (_known(found[each]) for each in (name, f"{name}_low", f"{name}_high"))
    return score, low, high


def _scores(found: Mapping[str, Any]) -> tuple[Cell, Cell]:
    """The score at the peak with its interval, as cells."""
    score, low, high = _ends(found)
    return score, interval(low, high)


def _set_in_words(layers: Sequence[str]) -> Cell:
    if len(layers) == 1:
        return (layers[0], 1)
    return (f"{len(layers)} layers, {layers[0]} to {layers[-1]}", len(layers))


# --- figures -------------------------------------------------------------------------------------


def main_figure(run: Run) -> Drawing:
    """The mean curve with its controls and its evidence; of several targets, one curve each."""
    frame, evidence = curve_of(run), evidence_of(run)
    if frame.measure.nunique() > 1:
        chance = {each["name"]: each["chance"] for each in run.facts.get("targets", [])}
        return targets_drawing(frame, chance=chance)
    return curve_drawing(frame, evidence=evidence.get(str(frame.measure.iloc[0]), {}).get(MEAN))


def subset_figure(run: Run) -> Drawing | None:
    """The curve of each subset, if there are several, of one target."""
    frame = curve_of(run)
    is_drawn = frame.measure.nunique() == 1 and len(subsets_of(frame)) > 1
    return subset_drawing(frame) if is_drawn else None


def width_figure(run: Run) -> Drawing | None:
    """Regressors compared, if there are several, of one target."""
    frame = curve_of(run)
    is_drawn = frame.measure.nunique() == 1 and frame.regressor.nunique() > 1
    return width_drawing(frame) if is_drawn else None


def exponential_figure(run: Run) -> Drawing | None:
    """R² on the axis of the paper, of one measure."""
    frame = curve_of(run)
    return exponential_drawing(frame) if is_one_measure(frame) else None


def learning_figure(run: Run) -> Drawing:
    """The curve by number of training images."""
    return learning_drawing(run.table("learning"))


def predicted_figure(run: Run) -> Drawing | None:
    """True against predicted measure at the peak, if the run holds predictions of one measure."""
    frame, evidence = curve_of(run), evidence_of(run)
    if not is_one_measure(frame):
        return None
    found, by_subset = read_predictions(run), next(iter(evidence.values()), {})
    if found is None or MEAN not in by_subset:
        return None
    peak = str(by_subset[MEAN]["peak"])
    label = labels_of(run.facts).get(peak, peak)
    return predicted_drawing(found[1], str(frame.model.iloc[0]), peak, label)


def combined_figure(run: Run) -> Drawing:
    """All layers up to each together, and each alone."""
    return combined_drawing(curve_of(run), run.table("combined", COMBINED))


def combined_section(run: Run, drawing: Drawing) -> Section:
    """All layers together, next to the best of them alone."""
    labels, frame = labels_of(run.facts), curve_of(run)
    columns = ("subset", "layers up to", "layers", "features", "R²", "95 %")
    rows: list[tuple[Cell, ...]] = [
        (
            _key(frame, row["measure"], row["subset"]),
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
    several = ("measure",) if differences.measure.nunique() > 1 else ()
    sides = (*several, "subset", "layer", "score", "other_layer", "other_score", "difference")
    rows: list[tuple[Cell, ...]] = [
        (*(row[side] for side in sides), interval(row["difference_low"], row["difference_high"]))
        for row in differences.to_dict("records")
    ]
    columns = [column for name in names for column in (f"peak of {name}", f"score of {name}")]
    said = (
        "The peaks compared, paired by image; an interval that excludes 0 is evidence of a "
        "difference."
    )
    headings = (*(["target"] if several else []), "subset", *columns, "difference", "95 %")
    table = Table("Differences", headings, rows)
    return Section(title, [said], tables=[table])


# --- many curves ---------------------------------------------------------------------------------


def comparison_figure(run: Run) -> Drawing:
    """Score by relative depth of all runs."""
    return comparison_drawing(run.table("curves", CURVES))


def comparison_checks(run: Run) -> tuple[list[Check], list[str]]:
    """How many images the runs have, how they were compared, and what is not comparable."""
    table, pairs = run.table("comparison", COMPARISON), run.table("pairs", PAIRS)
    peaks, pairs = (each.loc[each.subset == MEAN] for each in (table, pairs))
    n_images = sorted(set(peaks.n_images))
    counted = " to ".join(f"{n:,}" for n in dict.fromkeys([n_images[0], n_images[-1]]))
    reasons = pairs.unpaired_because.fillna("").astype(str)
    said = [f"{(reasons == '').sum()} of {len(pairs)} differences paired by image"]
    said += ["p corrected by Holm’s method"] if len(pairs) > 1 else []
    checks = [Check("Data", [f"{table.run.nunique()} runs of {counted} images"])]
    doubts = [
        f"{n} {'difference is' if n == 1 else 'differences are'} not paired: {reason}."
        for reason, n in reasons[reasons != ""].value_counts().items()
    ]
    if n_without := int(peaks.learned.isna().sum()):
        doubts.append(f"{n_without} of {len(peaks)} peaks have no controls.")
    return [*checks, *([Check("Differences", said)] if len(pairs) else [])], doubts


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
    is_named = bool(run.facts.get("settings", {}).get("layers"))
    sides = ("run", "layer", "other_run", "other_layer") if is_named else ("run", "other_run")
    differences: list[tuple[Cell, ...]] = [
        (
            *(row[name] for name in (*sides, "measure", "subset", "difference")),
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
        title = "Differences at the named layers" if is_named else "Differences of peaks"
        names = ("run", "at", "minus", "at") if is_named else ("run", "minus")
        of_pairs = (*names, "target", "subset", "difference", "95 %", "p", "paired")
        how = (
            "Paired by image where images and splits are the same; intervals are widened for the "
            "fits, and p is corrected by Holm's method over all pairs of a target and subset."
        )
        sections.append(Section(title, [how], tables=[Table("Pairs", of_pairs, differences)]))
    return sections
