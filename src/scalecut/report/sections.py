"""What a run shows on its page, table by table; the registries of figures and sections."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

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
    REGRESSORS,
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
from ..runs import Run
from .page import Cell, Picture, Readings, Section, Shown, Story, Table

BLANK = "\N{NO-BREAK SPACE}"
LEFT_OUT = {
    "Images left out": "images_left_out",
    "Layers left out": "layers_left_out",
    "Left out": "left_out",
}  # the lists of run.json


# what stands under the figure of each network of the paper
PRINTED = {
    "inception_v3": "InceptionV3: Table A.2 of the paper, and ours as far as the weights reach.",
    "resnet50_v1": "ResNet50: the paper's figure, read off to 0.02 on this axis, and ours.",
}
CURVE_COLUMNS = (
    *("model", "subset", "measure", "layer", "alias", "depth", "n_features", "n_images"),
    *("weights", "target", "regressor", "r2", "r2_low", "r2_high", "p_value", "seed_count"),
    *("n_fit", "r2_spread", "learned", "learned_low", "learned_high"),
)
WITHOUT_READINGS = (
    "This run does not say what was read from each image: it was made by an earlier version. Run "
    "the command below again to see it."
)
MOST_THUMBNAILS, MOST_THUMBNAIL_BYTES = 320, 2_200_000  # 3 MB as text
TRANSFER_COLUMNS: dict[str, tuple[str, ...]] = {
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
OF_CLAIMS = "Judged by ridge, but for what is said to be of least squares; network by network."
HEADINGS = ("network", "item", "quantity", "paper", "ours, their method", "ours", "mark", "why")


def layer_table(frame: pd.DataFrame, facts: Mapping[str, Any]) -> Table:
    """A row a layer, subset and regressor; those of the subset and regressor chosen are shown."""
    points = {point["layer"]: point for point in facts.get("points", [])}
    kind = "pretrained" if (frame.weights == "pretrained").any() else "random"
    true = frame.loc[(frame.target == "true") & frame.regressor.isin(list(REGRESSORS))]
    names = ["subset", "regressor", "layer"]
    twins = {
        tuple(row[name] for name in names): row["r2"]
        for row in true.to_dict("records")
        if row["weights"] == "random"
    }
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
                _p(row["p_value"]),
                row["learned"],
                None if kind == "random" else twins.get(tuple(row[name] for name in names)),
            )
        )
        keys.append({"subset": row["subset"], "regressor": REGRESSORS[row["regressor"]]})
    columns = (
        *("layer", "features", "stride, px", "receptive field, px"),
        *("R²", "95 %", "p", "learned", "random weights"),
    )
    return Table("Layers", columns, rows, keys)


def evidence_table(facts: Mapping[str, Any]) -> Table:
    label = labels_of(facts)
    rows: list[tuple[Cell, ...]] = []
    for subset, found in facts["evidence"].items():
        after = found["fall_after"]
        rows.append(
            (
                subset,
                label[found["peak"]],
                found["r2"],
                interval(found["r2_low"], found["r2_high"]),
                _set_in_words([label[name] for name in found["confidence_set"]]),
                found["learned"],
                _p(found["p_value"]),
                label[after] if after else "no fall shown",
                found["last_r2"],
                found["n_fit"],
            )
        )
    columns = (
        *("subset", "peak", "R²", "95 %", "95 % set of the peak", "learned", "p"),
        *("falls after", "R² at the end", "to fit"),
    )
    return Table("Evidence", columns, rows)


def _set_in_words(layers: Sequence[str]) -> Cell:
    if len(layers) == 1:
        return (layers[0], 1)
    return (f"{len(layers)} layers, {layers[0]} to {layers[-1]}", len(layers))


def labels_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Each layer with the paper's name for it, where it has another one."""
    return {
        point["layer"]: point["layer"]
        if point["alias"] in ("", point["layer"])
        else f"{point['layer']} ({point['alias']})"
        for point in facts.get("points", [])
    }


def transfer_section(
    table: pd.DataFrame, differences: pd.DataFrame, facts: Mapping[str, Any]
) -> Section:
    """The scores of each way to use the network, and their differences."""
    asked = facts.get("transfer", facts)
    whole = table.loc[table.tile == "all"]
    by = ["contestant", "layer"]
    metrics = list(dict.fromkeys(whole.metric))
    scores: list[tuple[Cell, ...]] = [
        (*key, *(_spread_of(own.value[own.metric == metric]) for metric in metrics))
        for key, own in whole.groupby(by, sort=False)
    ]
    against: list[tuple[Cell, ...]] = [
        (
            *(row["contestant"], row["other"], _in_words(row["metric"]), row["better"]),
            interval(row["low"], row["high"]),
            _p(row["p_value"]),
            f"{row['n_seeds_better']} of {row['n_seeds']}",
        )
        for row in differences.to_dict("records")
    ]
    said = (
        f"Task: {asked.get('task', '')}. Means over {asked.get('seeds', '')} fits, on all test "
        "tiles; a difference above 0 is in favour of the first."
    )
    columns = ("contestant", "against", "metric", "better by", "95 %", "p", "fits in favour")
    return Section(
        "Transfer",
        [said],
        tables=[
            Table("Differences", columns, against),
            Table("Scores, mean ± spread of fits", (*by, *map(_in_words, metrics)), scores),
        ],
    )


def foretold_section(agreed: pd.DataFrame) -> Section:
    """Whether the probe's curve foretells the score of the network cut at each layer."""
    told = agreed.assign(**{name: _numbers(agreed[name]) for name in ("rho", "rho_depth")})
    rows: list[tuple[Cell, ...]] = [
        (
            _in_words(row["metric"]),
            row["rho"],
            interval(row["low"], row["high"]),
            row["rho_depth"],
            *(row[name] for name in ("best", "foretold", "regret", "regret_last", "n_layers")),
        )
        for row in told.to_dict("records")
    ]
    said = (
        "The rank correlation, over the layers, of the probe's R² and of the score of the network "
        "cut there; beside it that of depth, which needs no probe. What is lost is against the "
        "best layer: by the layer that the probe has highest, and by the last one."
    )
    columns = (
        *("metric", "rank correlation", "95 %", "of depth", "best layer", "highest in the probe"),
        *("loses", "last layer loses", "layers"),
    )
    return Section(
        "Whether the curve foretells it", [said], tables=[Table("Agreement", columns, rows)]
    )


def tuned_section(configurations: pd.DataFrame) -> Section:
    """What `tuned` chose among, the one it took first."""
    metrics = [name for name in configurations if name != "layers"]
    told = configurations.assign(**{name: _numbers(configurations[name]) for name in metrics})
    best_first = told.sort_values("kappa", ascending=False, kind="stable").to_dict("records")
    rows: list[tuple[Cell, ...]] = [
        (row["layers"], *(row[name] for name in metrics)) for row in best_first
    ]
    columns = ("layers", *map(_in_words, metrics))
    said = (
        "Each layer alone, and each with all before it, told by predictions of the training part "
        "from its other groups. The first, of the highest kappa, is tuned; test tiles were not "
        "looked at."
    )
    return Section(
        "What tuned was chosen from", [said], tables=[Table("Configurations", columns, rows)]
    )


def training_section(losses: pd.DataFrame) -> Section:
    """The losses of each epoch, over the fits."""
    by = ["contestant", "layer", "epoch"]
    kinds = [n for n in ("loss", "validation_loss") if np.isfinite(_numbers(losses[n])).any()]
    rows: list[tuple[Cell, ...]] = [
        (
            *(epoch.to_dict("records")[0][name] for name in by),
            *(_spread_of(epoch[name]) for name in kinds),
            int(epoch.is_used.sum()),
            len(epoch),
        )
        for _, epoch in losses.groupby(by, sort=False)
    ]
    said = (
        "Mean squared errors of the target as it is trained on, mean ± spread of the fits. Those "
        "of the training part are taken while the weights change, those of the validation part "
        "after each epoch."
    )
    columns = (*by, *map(_in_words, kinds), "fits kept here", "fits")
    return Section("Training", [said], tables=[Table("Losses by epoch", columns, rows)])


def _spread_of(column: Iterable[Any]) -> Cell:
    """Mean ± standard deviation, sorted by the mean; nothing where there is no value."""
    values = _numbers(column)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    mean = float(values.mean())
    around = f"{BLANK}±{BLANK}{values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return (f"{mean:.2f}{around}", mean)


def _numbers(column: Iterable[Any]) -> Float64[np.ndarray, " n"]:
    """Of a table as it is read: where a cell of a column is empty, all of its cells are text."""
    return np.array([np.nan if cell == "" else float(cell) for cell in column])


def _p(value: float | None) -> Cell:
    """With two digits: 0.049 is not 0.05."""
    return None if value is None or np.isnan(value) else (f"{value:.2g}", value)


def _in_words(name: str) -> str:
    return name.replace("_", " ")


def cut_section(facts: Mapping[str, Any]) -> Section:
    proof, choice = facts["proof"], facts.get("choice")
    costs = {
        "parameters": ("parameters", 1),
        "multiply-accumulates an image": ("macs", 1),
        f"milliseconds a batch of {proof['batch_size']}": ("seconds", 1e3),
        "peak memory an image, MB": ("peak_bytes", 1e-6),
    }
    rows: list[tuple[Cell, ...]] = [
        (name, unit * whole, unit * cut, (f"{100 * cut / whole:.0f} %", cut / whole))
        for name, (key, unit) in costs.items()
        for whole, cut in [(proof["whole"].get(key), proof["cut"].get(key))]
        if whole and cut is not None
    ]
    lines = [choice["reason"]] if choice else []
    return Section(
        f"The cut after {facts['point']['layer']}",
        [*lines, *proof["lines"]],
        tables=[Table("Savings", ("cost", "whole network", "cut", "of the whole"), rows)],
    )


def few_facts(facts: Mapping[str, Any]) -> list[str]:
    """What, of what, how many."""
    images, settings = facts.get("images") or {}, facts.get("settings") or {}
    weights = facts.get("weights") or {}
    counts = images.get("n_by_subset", {})
    said = [f"{images['n_images']:,} images"] if "n_images" in images else []
    said += [", ".join(f"{n:,} {name}" for name, n in counts.items())] if len(counts) < 6 else []
    said += [f"measure: {images['measure']}"] if "measure" in images else []
    said += [f"weights: {weights['source']}"] if weights.get("source") else []
    said += [f"data: {settings['data']}"] if settings.get("data") else []
    return [each for each in [*said, str(facts.get("written", ""))[:10]] if each]


def trust(facts: Mapping[str, Any]) -> list[Section]:
    lists = {
        title: [(str(item["name"]), str(item["reason"])) for item in facts.get(key, [])]
        for title, key in LEFT_OUT.items()
    }
    left_out = [Table(title, ("name", "reason"), [*rows]) for title, rows in lists.items() if rows]
    stages: list[tuple[Cell, ...]] = [
        (stage, *(each.get(key) for key in ("seconds", "images_computed", "images_per_second")))
        for stage, each in facts.get("stages", {}).items()
    ]
    tables = [
        _facts_table("Settings", facts, ("settings",)),
        _facts_table("Computed with", facts, ("probe", "look")),
        _facts_table("Network", facts, ("weights", "tensors_sha256", "preprocessing")),
        _facts_table("Images", facts, ("images",)),
        _facts_table("Versions", facts, ("versions", "machine", "format", "written")),
        _facts_table("Files", facts, ("files",)),
        Table("Time", ("stage", "seconds", "images computed", "images a second"), stages),
    ]
    said = [] if left_out else _nothing_left_out(facts)
    return [
        Section("The command", code=str(facts.get("command", ""))),
        *([Section("What was left out", said, tables=left_out)] if said or left_out else []),
        Section("Settings, versions and time", tables=[table for table in tables if table.rows]),
    ]


def _nothing_left_out(facts: Mapping[str, Any]) -> list[str]:
    """What a page says that lists nothing: only what its facts tell."""
    missing = dict(facts.get("weights") or {}).get("missing") or 0
    n_missing = missing if isinstance(missing, int) else len(missing)
    if n_missing:
        return [f"The weights lack {n_missing} tensors of the network."]
    if "steps" in facts:
        return ["No step was left out; the page of each step says what it left out."]
    is_told = any(key in facts for key in LEFT_OUT.values())
    return ["No image and no layer was left out."] if is_told else []


def _facts_table(title: str, facts: Mapping[str, Any], keys: Sequence[str]) -> Table:
    rows = [row for key in keys if key in facts for row in _flat(key, facts[key])]
    bare = f"{title.lower()}."
    return Table(title, ("name", "value"), [(name.removeprefix(bare), said) for name, said in rows])


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Names and values of nested facts, the names with dots."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}", each)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, "none" if value is None or value == "" else str(value)


def interval(low: float, high: float) -> Cell:
    if not np.isfinite([low, high]).all():
        return None
    return (f"{low:.2f}{BLANK}to{BLANK}{high:.2f}".replace("-", "−"), low)


IMAGE_COLUMNS = (
    "image",
    "file",
    "subset",
    "measure",
    "left",
    "top",
    "right",
    "bottom",
    "width",
    "height",
    "thumbnail",
)


PREDICTION_COLUMNS = ("image", "subset", "measure", "layer", "predicted")


def _readings(run: Run, frame: pd.DataFrame, has_thumbnails: bool) -> Readings | None:
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


def _curves(frame: pd.DataFrame, evidence: Mapping[str, Any]) -> dict[str, Drawing]:
    """By subset, their mean first."""
    names = sorted(dict.fromkeys(frame.subset), key=lambda name: name != MEAN)
    return {name: curve_drawing(frame, subset=name, evidence=evidence.get(name)) for name in names}


def _layers_of(frame: pd.DataFrame) -> list[str]:
    """In the order of the places of a drawing."""
    rows = frame.loc[frame.weights != "pixels"].to_dict("records")
    return list(layer_names(rows))


def rows_of(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What stands under HEADINGS: numbers, with ours as (text with its interval, number)."""
    return [
        (
            row["network"],
            row["item"],
            row["quantity"],
            _as_printed(row["paper"]),
            _shown(row["ours_as_paper"]),
            _with_interval(row),
            row["mark"],
            row["why"],
        )
        for row in table.to_dict("records")
    ]


def _as_printed(value: float) -> Any:
    """With the digits that it has."""
    return math.nan if math.isnan(value) else (f"{value:,.10g}".replace("-", "−"), value)


def _with_interval(row: Mapping[Any, Any]) -> Any:
    if math.isnan(row["ours_low"]):
        return _shown(row["ours"])
    said = f"{number(row['ours'])} [{number(row['ours_low'])}, {number(row['ours_high'])}]"
    return (said.replace(" ", "\N{NO-BREAK SPACE}"), row["ours"])


def _shown(value: float) -> Cell:
    """The same text in Markdown and on the page, sorted by its value."""
    return math.nan if math.isnan(value) else (number(value), value)


def number(value: float) -> str:
    """Two decimals; none where there would be many digits; nothing for what is not a number."""
    if math.isnan(value):
        return ""
    digits = 0 if abs(value) >= 100 or (float(value).is_integer() and abs(value) > 1) else 2
    said = f"{value:,.{digits}f}"
    return "0.00" if float(said.replace(",", "")) == 0 else said.replace("-", "−")


def read_predictions(run: Run) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The images of a run, and the predictions as `Curve.predictions` gives them, if it has them.

    Runs of earlier versions have none.

    Raises:
        DataError: if the tables cannot be read or do not fit one another.
    """
    paths = run.folder / "images.parquet", run.folder / "predictions.parquet"
    if not any(path.exists() for path in paths):
        return None
    try:
        images, predictions = (pd.read_parquet(path) for path in paths)
        lacking = [name for name in IMAGE_COLUMNS if name not in images]
        lacking += [name for name in PREDICTION_COLUMNS if name not in predictions]
        if lacking:
            raise ValueError(f"the column {lacking[0]!r} is missing")
        n_layers = predictions.layer.nunique()
        if predictions.image.tolist() != n_layers * images.image.tolist():
            raise ValueError("they are not of the same images")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(run.folder)!r} has no readable images.parquet and predictions.parquet "
            f"({error}). Run the probe again."
        ) from error
    return images, predictions


# --- the curve -----------------------------------------------------------------------------------


def curve_story(run: Run, story: Story, has_thumbnails: bool) -> Story:
    """The page of a probe: its curves, the predictions of each layer, and what is evidence."""
    frame, evidence = curve_of(run), run.facts.get("evidence", {})
    readings = _readings(run, frame, has_thumbnails)
    scores = [Section("Layer by layer", tables=[layer_table(frame, run.facts)])]
    if evidence:
        scores.append(Section("Evidence", tables=[evidence_table(run.facts)]))
    return replace(
        story,
        title=str(frame.model.iloc[0]),
        curves=_curves(frame, evidence),
        layers=_layers_of(frame),
        peaks={name: found["peak"] for name, found in evidence.items()},
        readings=readings,
        without_readings="" if readings else WITHOUT_READINGS,
        sections=[*scores, *story.sections],
    )


def curve_of(run: Run) -> pd.DataFrame:
    """The table of a curve, with the columns that its page and figures need."""
    return run.table("curve", CURVE_COLUMNS)


def _several_subsets(run: Run) -> Drawing | None:
    frame = curve_of(run)
    return subset_drawing(frame) if len(subsets_of(frame)) > 1 else None


def _widths(run: Run) -> Drawing | None:
    frame = curve_of(run)
    return width_drawing(frame) if frame.regressor.nunique() > 1 else None


def _at_the_peak(run: Run) -> Drawing | None:
    found, evidence = read_predictions(run), run.facts.get("evidence", {})
    if found is None or MEAN not in evidence:
        return None
    peak = str(evidence[MEAN]["peak"])
    label = labels_of(run.facts).get(peak, peak)
    return predicted_drawing(found[1], str(curve_of(run).model.iloc[0]), peak, label)


def names_of(several: Sequence[Run]) -> list[str]:
    """What distinguishes runs: their networks, else their folders, else the paths of these."""
    ways = (
        [str(curve_of(run).model.iloc[0]) for run in several],
        [run.folder.resolve().name for run in several],
        [str(run.folder) for run in several],
    )
    return next((names for names in ways if len(set(names)) == len(names)), ways[0])


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
    sides = [column for name in names for column in (f"peak of {name}", f"R² of {name}")]
    columns = ("subset", *sides, "difference", "95 %")
    said = "Peak against peak, paired by image; an interval that excludes 0 shows a difference."
    return Section(title, [said], tables=[Table("Differences", columns, rows)])


# --- the paper, cuts and images of units ---------------------------------------------------------


def paper_sections(run: Run, drawn: Mapping[str, Drawing]) -> list[Section]:
    """The claims first, then each experiment with its table.

    `run.json` holds the titles and notes of the experiments, and the names of the folders next to
    the page that have a page of their own.
    """
    table, claims = run.table("paper"), run.table("claims")
    columns = tuple(map(str, claims.columns))
    named = claims.fillna("").astype(str)
    rows: list[tuple[Cell, ...]] = [*named.itertuples(index=False, name=None)]
    pages = {step: f"{step}/report.html" for step in run.facts.get("pages", [])}
    sections = [
        Section("Claims", [OF_CLAIMS], tables=[Table("Claims and what was found", columns, rows)]),
        Section("Each experiment has a page of its own", links=pages),
    ]
    figures = [Shown(name, name, PRINTED.get(name, ""), drawing) for name, drawing in drawn.items()]
    for experiment in run.facts.get("experiments", []):
        section, title, note = (experiment[name] for name in ("section", "title", "note"))
        here = table.loc[table.section == section]
        if here.empty:
            continue
        sections.append(
            Section(
                f"{section}: {title}",
                [note] if note else [],
                figures=figures if section == "A.2" else [],
                tables=[Table(title, HEADINGS, rows_of(here))],
            )
        )
    return sections


def unit_sections(run: Run, drawn: Mapping[str, Drawing]) -> list[Section]:
    """The images of units, or of directions, one section per layer."""
    sections = []
    for layer, rows in run.table("units").groupby("layer", sort=False):
        pictures = [
            Picture(
                thumbnail(Image(row["picture"], run.folder / row["picture"])),
                (row["direction"] and f"{row['subset']}: {row['direction']}")
                or f"unit {row['unit']}",
                f"{row['start']:.3g} → {row['end']:.3g}".replace("-", "−"),
            )
            for row in rows.to_dict("records")
        ]
        said = "Below each: the activation for the noise that it began with, and for the image."
        sections.append(Section(str(layer), [said], pictures=pictures))
    return sections


def cut_story(run: Run) -> Story:
    """The page of a cut network."""
    facts = run.facts
    curve, weights = facts.get("curve") or {}, facts.get("weights") or {}
    name = facts.get("architecture") or "the network"
    return Story(
        name=run.folder.resolve().name,
        title=f"{name}, cut after {facts['point']['layer']}",
        finding=" ".join(facts["proof"]["lines"][:2]),
        facts=[f"{facts['num_features']} features", f"weights: {weights.get('source', '')}"],
        sections=[
            saving_section(run),
            *([Section("The curve that led to it", [curve["finding"]])] if curve else []),
        ],
        trust=trust(facts),
    )


def saving_section(run: Run) -> Section:
    """What a cut keeps of the network's parameters and multiply-accumulates."""
    section = cut_section(run.facts)
    if not run.facts.get("costs"):
        return section
    name, layer = str(run.facts.get("architecture") or "network"), run.facts["point"]["layer"]
    drawing = saving_drawing(pd.DataFrame(run.facts["costs"]), name, layer)
    note = (
        "Parameters and multiply-accumulates that are needed up to each layer, as a share of the "
        "whole network's."
    )
    return replace(
        section, figures=[Shown(f"saving-{run.folder.name}", "What is kept", note, drawing)]
    )


def plain_section(run: Run, name: str) -> Section:
    """A table that no function was registered for, as it is."""
    table = run.table(name)
    rows: list[tuple[Cell, ...]] = [
        tuple(None if pd.isna(cell) else cell for cell in row)
        for row in table.itertuples(index=False, name=None)
    ]
    return Section(name, tables=[Table(name, tuple(map(str, table.columns)), rows)])


# --- registries, keyed by the name of a table ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of a table.

    Args:
        name: of its files.
        draw: from the run to the figure, or None where there is nothing to draw.
        title: of its section of the page; empty if another section shows it.
        note: below the title.
    """

    name: str
    draw: Callable[[Run], Drawing | None]
    title: str = ""
    note: str = ""

    def section(self, drawing: Drawing) -> Section:
        return Section(self.title, figures=[Shown(self.name, self.title, self.note, drawing)])


def _of_table(
    name: str, make: Callable[[pd.DataFrame], Drawing], needed: Collection[str] = ()
) -> Callable[[Run], Drawing | None]:
    """A figure of one table, if it has any of the quantities that are needed."""

    def draw(run: Run) -> Drawing | None:
        table = run.table(name)
        if needed and "quantity" in table and not table["quantity"].isin(list(needed)).any():
            return None
        return make(table)

    return draw


def _of_contest(
    name: str, make: Callable[[pd.DataFrame, Mapping[str, Any]], Drawing]
) -> Callable[[Run], Drawing | None]:
    return lambda run: make(run.table(name), run.facts)


def _printed(network: str) -> Callable[[Run], Drawing | None]:
    """A network of the paper, if the table has its layers."""

    def draw(run: Run) -> Drawing | None:
        table = run.table("paper")
        is_there = ((table.section == "A.2") & (table.network == network)).any()
        return printed_drawing(table, network) if is_there else None

    return draw


FIGURES: dict[str, tuple[Plot, ...]] = {
    "curve": (
        Plot(
            "curve",
            lambda run: curve_drawing(
                curve_of(run), evidence=run.facts.get("evidence", {}).get(MEAN)
            ),
        ),
        Plot(
            "subsets",
            _several_subsets,
            "Subset by subset",
            "Each class of objects is probed separately; the uncoloured line is the mean.",
        ),
        Plot(
            "width",
            _widths,
            "Ridge, least squares and the width of a layer",
            "n/d is the number of training images over the number of features. Where the two are "
            "about equal, least squares interpolates its training images and follows the noise, "
            "whatever the layer encodes.",
        ),
        Plot(
            "curve_exponential",
            lambda run: exponential_drawing(curve_of(run)),
            "On the axis of the paper",
            "e^(R²)/e is 1 at R² = 1, 0.37 at R² = 0, and close to 0 where a fit is far off, so no "
            "value leaves the figure. It is computed from the mean R².",
        ),
        Plot(
            "predicted",
            _at_the_peak,
            "True against predicted scale",
            "At the peak, class by class: the mean over images of similar scale, and a band that "
            "holds four of five of them. Lines flatter than the dotted one show regression to the "
            "mean.",
        ),
    ),
    "learning": (
        Plot(
            "learning",
            _of_table("learning", learning_drawing),
            "With fewer training images",
            "A curve holds for the number of images that it was fitted to.",
        ),
    ),
    "invariance": (
        Plot(
            "invariance",
            _of_table("invariance", invariance_drawing, ANSWERS),
            "How the prediction changes",
            "Compared with the prediction at the training resolution.",
        ),
        Plot(
            "drift",
            _of_table("invariance", drift_drawing, MOVES),
            "How the features change",
            "From one size to the next, one octave larger.",
        ),
    ),
    "noise": (
        Plot(
            "noise",
            _of_table("noise", noise_drawing),
            "Image size predicted from noise",
            "These images hold no object, so whatever is predicted is a leak.",
        ),
    ),
    "scenes": (
        Plot(
            "scenes",
            _of_table("scenes", scenes_drawing),
            "Object scale and image size separated",
            "Synthetic scenes in which each of the two is set, not measured.",
        ),
    ),
    "rcv": (
        Plot(
            "directions",
            _of_table("rcv", directions_drawing),
            "The direction of scale",
            "The direction in which the features grow with the scale of the object: how stable it "
            "is, how many channels carry it, and whether it transfers to other subsets.",
        ),
    ),
    "sweep": (
        Plot(
            "sweep",
            _of_contest("sweep", sweep_drawing),
            "Cut at every layer",
            "Test scores of the network cut after each of its layers.",
        ),
    ),
    "calibration": (
        Plot(
            "calibration",
            _of_contest("calibration", calibration_drawing),
            "Predicted against true values",
            "The mean over fits and patches; on the dotted line the two agree.",
        ),
    ),
    "recall": (
        Plot(
            "recall",
            _of_contest("recall", recall_drawing),
            "Recall by magnification",
            "The share of the patches of each magnification that is classified correctly.",
        ),
    ),
    "paper": tuple(Plot(network, _printed(network)) for network in PRINTED),
}

SECTIONS: dict[str, Callable[[Run, Mapping[str, Drawing]], list[Section]]] = {
    "transfer": lambda run, _: [
        transfer_section(
            run.table("transfer", TRANSFER_COLUMNS["transfer"]),
            run.table("differences", TRANSFER_COLUMNS["differences"]),
            run.facts,
        )
    ],
    "differences": lambda *_: [],  # of a probe or a transfer: part of their own sections
    "scores": lambda *_: [],  # of a transfer: part of its section
    "agreement": lambda run, _: [
        foretold_section(run.table("agreement", TRANSFER_COLUMNS["agreement"]))
    ],
    "configurations": lambda run, _: [
        tuned_section(run.table("configurations", TRANSFER_COLUMNS["configurations"]))
    ],
    "losses": lambda run, _: [training_section(run.table("losses", TRANSFER_COLUMNS["losses"]))],
    "units": unit_sections,
    "paper": paper_sections,
    "claims": lambda *_: [],  # the first section of the paper
}
