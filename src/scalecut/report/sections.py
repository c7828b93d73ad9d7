"""What a run says of itself, as tables of its page: scores, evidence, costs, settings, versions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from ..errors import DataError
from ..figures.curve import REGRESSORS
from .page import Cell, Section, Table

BLANK = "\N{NO-BREAK SPACE}"
LEFT_OUT = {
    "Images left out": "images_left_out",
    "Layers left out": "layers_left_out",
    "Left out": "left_out",
}  # the lists of run.json


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


def read_predictions(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The images of a run, and the predictions as `Curve.predictions` gives them, if it has them.

    Runs of earlier versions have none.

    Raises:
        DataError: if the tables cannot be read or do not fit one another.
    """
    paths = folder / "images.parquet", folder / "predictions.parquet"
    if not any(path.exists() for path in paths):
        return None
    try:
        images, predictions = (pd.read_parquet(path) for path in paths)
        lacking = [name for name in IMAGE_COLUMNS if name not in images]
        lacking += [name for name in PREDICTION_COLUMNS if name not in predictions]
        if lacking:
            raise ValueError(f"the column {lacking[0]!r} is not there")
        n_layers = predictions.layer.nunique()
        if predictions.image.tolist() != n_layers * images.image.tolist():
            raise ValueError("they are not of the same images")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable images.parquet and predictions.parquet "
            f"({error}). Run the probe again."
        ) from error
    return images, predictions
