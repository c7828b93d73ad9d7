"""Sections of a transfer: scores and differences of methods, agreement with the probe, training."""

import numpy as np
import pandas as pd

from ..runs import Run
from .cells import Cell, in_words, interval, numbers, p_value, spread
from .page import Check, Section, Table

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
}  # what the sections need of each table; figures check their own


def _table(run: Run, name: str) -> pd.DataFrame:
    return run.table(name, COLUMNS[name])


def transfer_checks(run: Run) -> tuple[list[Check], list[str]]:
    """The test part, and how methods were compared on it."""
    facts, asked = run.facts, run.facts.get("transfer", run.facts)
    said = []
    if {"n_test", "n_tiles"} <= facts.keys():
        said.append(f"{facts['n_test']:,} patches of {facts['n_tiles']} tiles")
    said += [f"{asked['seeds']} fits of each method"] if asked.get("seeds") else []
    return [Check("Test", [*said, "paired by tile; p corrected over the comparisons"])], []


def transfer_section(run: Run) -> Section:
    """The scores of each method, and their differences."""
    asked = run.facts.get("transfer", run.facts)
    table, differences = _table(run, "transfer"), _table(run, "differences")
    whole = table.loc[table.tile == "all"]
    metrics = list(dict.fromkeys(whole.metric))
    scores: list[tuple[Cell, ...]] = [
        (*key, *(spread(own.value[own.metric == metric]) for metric in metrics))
        for key, own in whole.groupby(["contestant", "layer"], sort=False)
    ]
    against: list[tuple[Cell, ...]] = [
        (
            *(row["contestant"], row["other"], in_words(row["metric"]), row["better"]),
            interval(row["low"], row["high"]),
            p_value(row["p_value"]),
            f"{row['n_seeds_better']} of {row['n_seeds']}",
        )
        for row in differences.to_dict("records")
    ]
    task = f"Task: {asked['task']}. " if asked.get("task") else ""
    n_fits = f"{asked['seeds']} fits" if asked.get("seeds") else "fits"
    said = (
        f"{task}Means over {n_fits}, on all test tiles; a difference above 0 favours the first "
        "method."
    )
    columns = ("method", "compared with", "metric", "better by", "95 %", "p", "fits in favour")
    return Section(
        "Transfer",
        [said],
        tables=[
            Table("Differences", columns, against),
            Table(
                "Scores, mean ± standard deviation over fits",
                ("method", "layer", *map(in_words, metrics)),
                scores,
            ),
        ],
    )


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
    best_first = known.sort_values("kappa", ascending=False, kind="stable").to_dict("records")
    rows: list[tuple[Cell, ...]] = [
        (row["layers"], *(row[name] for name in metrics)) for row in best_first
    ]
    said = (
        "Each layer alone, and each layer with all before it, scored on held-out groups of the "
        "training part. The first row, of the highest kappa, is tuned; the test tiles were not "
        "used."
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
