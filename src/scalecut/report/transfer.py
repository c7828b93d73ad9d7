"""Sections of a transfer: scores and differences of methods, agreement with the probe, training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..runs import Run
from .cells import Cell, in_words, interval, numbers, p_value, spread, with_interval
from .page import Check, Section, Table

COLUMNS: dict[str, tuple[str, ...]] = {
    "transfer": ("contestant", "layer", "tile", "metric", "value"),
    "differences": (
        *("contestant", "other", "metric", "better", "low", "high", "p_value"),
        *("n_seeds_better", "n_seeds"),
    ),
    "intervals": ("contestant", "layer", "metric", "low", "high"),
    "agreement": (
        *("metric", "rho", "low", "high", "rho_depth", "best", "foretold", "regret"),
        *("regret_last", "n_layers"),
    ),
    "configurations": ("layers", "kappa"),
    "losses": ("contestant", "layer", "epoch", "loss", "validation_loss", "is_used"),
}  # what the sections need of each table; figures check their own


SHARPNESS = "The blur is not matched, so sharpness alone may reveal the magnification."


def _table(run: Run, name: str) -> pd.DataFrame:
    return run.table(name, COLUMNS[name])


def transfer_checks(run: Run) -> tuple[list[Check], list[str]]:
    """The test part, and how methods were compared on it."""
    facts, asked = run.facts, run.facts.get("transfer", run.facts)
    said = []
    if {"n_test", "n_tiles"} <= facts.keys():
        said.append(f"{facts['n_test']:,} patches of {facts['n_tiles']} tiles")
    if asked.get("leave_one_out"):
        said.append("each patient held out once")
    elif asked.get("seeds"):
        said.append(f"{asked['seeds']} fits of each method")
    said.append("paired by patient; p corrected over the secondary comparisons")
    is_sharp = asked.get("task") == "magnification" and asked.get("blur_matched") is False
    return [Check("Test", said)], [SHARPNESS] if is_sharp else []


def transfer_section(run: Run) -> Section:
    """The scores of each method, and their differences, the primary comparison first."""
    asked = run.facts.get("transfer", run.facts)
    table, differences = _table(run, "transfer"), pd.DataFrame(columns=COLUMNS["differences"])
    if run.has("differences"):  # there are none of a single method
        differences = _table(run, "differences")
    whole = table.loc[table.tile == "all"]
    metrics = list(dict.fromkeys(whole.metric))
    intervals = _table(run, "intervals") if run.has("intervals") else pd.DataFrame()
    is_one = asked.get("seeds") == 1 and len(intervals) > 0
    ends = intervals.set_index(["contestant", "layer", "metric"]) if is_one else None
    scores: list[tuple[Cell, ...]] = []
    for (contestant, layer), own in whole.groupby(["contestant", "layer"], sort=False):
        cells: list[Cell] = [str(contestant), str(layer)]
        for metric in metrics:
            values = own.value[own.metric == metric]
            cells.append(spread(values))
            if ends is not None:
                place = contestant, layer, metric
                cells[-1] = with_interval(values.iloc[0], *ends.loc[place, ["low", "high"]])
        scores.append(tuple(cells))
    rows = differences.to_dict("records")
    rows.sort(key=lambda row: row.get("role") != "primary")
    against: list[tuple[Cell, ...]] = [
        (
            *(row["contestant"], row["other"], in_words(row["metric"]), row["better"]),
            interval(row["low"], row["high"]),
            p_value(row["p_value"]),
            f"{row['n_seeds_better']} of {row['n_seeds']}",
            *([row["role"]] if "role" in row else []),
        )
        for row in rows
    ]
    columns = (
        *("method", "compared with", "metric", "better by", "95 %", "p", "fits in favour"),
        *(["comparison"] if "role" in differences else []),
    )
    how = "95 % intervals over patients" if is_one else "mean ± standard deviation over fits"
    return Section(
        "Transfer",
        [*_said_of(asked, run.facts), *_said_of_primary(rows, run.facts)],
        tables=[
            Table("Differences", columns, against),
            Table(f"Scores, {how}", ("method", "layer", *map(in_words, metrics)), scores),
        ],
    )


def _said_of(asked: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """The task, and which patches are predicted by which fits."""
    task = f"Task: {asked['task']}. " if asked.get("task") else ""
    better = "A difference above 0 favours the first method."
    tiles = (
        " Kappa of tiles is of one prediction per tile and magnification, the mean over its "
        "patches; all other metrics are of single patches."
    ) * ("n_patients" in facts)
    if asked.get("leave_one_out"):
        return [
            f"{task}Each of {facts.get('n_patients', '?')} patients is predicted by one fit to all "
            f"others, inside which everything is chosen. {better}{tiles}"
        ]
    n_fits = f"{asked['seeds']} fits" if asked.get("seeds") else "fits"
    return [f"{task}Means over {n_fits}, on all test tiles. {better}{tiles}"]


def _said_of_primary(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """The difference that could be shown; that nothing is primary; nothing of older runs."""
    if rows and rows[0].get("role") == "primary":
        return [
            "The primary comparison, chosen in advance, is the cut against the whole network with "
            f"matched blur. With {facts.get('n_patients', '?')} test patients, a difference of "
            f"{rows[0]['detectable']:.2f} {in_words(rows[0]['metric'])} is shown with a power of "
            "at least 80 %. p-values of the secondary comparisons are corrected over those of one "
            "metric (Holm)."
        ]
    if facts.get("transfer", {}).get("blur_matched") is False:
        return [
            "All comparisons are secondary: the blur is not matched, so sharpness alone may reveal "
            "the magnification. p-values are corrected over the comparisons of one metric (Holm)."
        ]
    return []


def agreement_section(run: Run) -> Section:
    """Whether the probe's curve predicts the score of the network cut at each layer."""
    agreed = _table(run, "agreement")
    known = agreed.assign(**{name: numbers(agreed[name]) for name in ("rho", "rho_depth")})
    rows: list[tuple[Cell, ...]] = [
        (
            in_words(row["metric"]),
            row["rho"],
            interval(row["low"], row["high"]),
            row["rho_depth"],
            *(row[name] for name in ("best", "foretold", "regret", "regret_last", "n_layers")),
        )
        for row in known.to_dict("records")
    ]
    said = (
        "Spearman's rank correlation, over the layers, between the probe's R² and the score of the "
        "network cut there, and between depth, which needs no probe, and the score. The loss is "
        "against the best layer: of the layer with the highest R², and of the last layer."
    )
    columns = (
        *("metric", "correlation with R²", "95 %", "correlation with depth", "best layer"),
        *("layer of highest R²", "its loss", "loss of the last layer", "layers"),
    )
    title = "Does the curve predict the best cut?"
    return Section(title, [said], tables=[Table("Agreement", columns, rows)])


def configurations_section(run: Run) -> Section:
    """What the method `tuned` chose among, the chosen one first."""
    configurations = _table(run, "configurations")
    metrics = [name for name in configurations if name != "layers"]
    known = configurations.assign(**{name: numbers(configurations[name]) for name in metrics})
    by = ["chosen", "kappa"] if "chosen" in known else ["kappa"]
    best_first = known.sort_values(by, ascending=False, kind="stable").to_dict("records")
    rows: list[tuple[Cell, ...]] = [
        (row["layers"], *(row[name] for name in metrics)) for row in best_first
    ]
    said = (
        "Each layer alone, and each layer with all before it, scored on held-out groups of the "
        "training part. The row of the highest kappa is tuned; the test tiles were not used. Where "
        "every tile is tested, the choice is made for a fifth of the patients at a time: scores "
        "are means over the fifths, and the last column counts those that chose a row."
    )
    table = Table("Configurations", ("layers", *map(in_words, metrics)), rows)
    return Section("Configurations of the method tuned", [said], tables=[table])


def training_section(run: Run) -> Section:
    """The losses of each epoch, over the fits."""
    losses, by = _table(run, "losses"), ["contestant", "layer", "epoch"]
    kinds = [n for n in ("loss", "validation_loss") if np.isfinite(numbers(losses[n])).any()]
    rows: list[tuple[Cell, ...]] = [
        (
            *(epoch.to_dict("records")[0][name] for name in by),
            *(spread(epoch[name]) for name in kinds),
            int(epoch.is_used.sum()),
            len(epoch),
        )
        for _, epoch in losses.groupby(by, sort=False)
    ]
    said = (
        "Mean squared errors of the training target, mean ± standard deviation over fits. Training "
        "losses are taken while the weights change, validation losses after each epoch."
    )
    columns = ("method", "layer", "epoch", *map(in_words, kinds), "fits kept here", "fits")
    return Section("Training", [said], tables=[Table("Losses by epoch", columns, rows)])
