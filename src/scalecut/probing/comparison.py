"""Any number of curves compared: their peaks, gains, drops and costs, and all pairs of peaks.

Two runs of the same images, splits and seed drew the same images in every bootstrap draw, so the
difference of their peaks is paired; other runs are compared as independent samples, which is said.
P-values of the pairs are corrected by Holm's method (`holm1979`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..data.images import MEAN
from ..errors import DataError, several
from ..figures.curve import comparison_drawing
from ..figures.drawing import page_figure
from ..figures.text import METRICS, number, p_value, with_interval
from ..networks.points import SOFTMAX
from ..report.curve import COMPARISON, CURVES, PAIRS, names_of
from ..report.report import Result
from ..runs import read_run, settings_of
from ..stats.inference import holm
from .curve import ALPHA, Curve, paired_differences, peak_or_layer, read_curve

MOST_IN_PAIRS = 8  # runs of which all pairs are shown; of more, those with the best


@dataclass(frozen=True, slots=True, eq=False)
class Comparison(Result):
    """Curves of several runs, next to each other.

    Args:
        table: one row per run, target and subset, with the columns of `report.curve.COMPARISON`.
        pairs: one row per pair of runs of the same target and subset, with those of `PAIRS`.
        curves: score by layer of every run and target, mean over subsets, with those of `CURVES`.
        provenance: facts of `run.json`.
    """

    NAME = "comparison"

    table: pd.DataFrame
    pairs: pd.DataFrame
    curves: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[()] = ()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {self.NAME: self.to_frame(), "pairs": self.pairs, "curves": self.curves}

    def finding(self) -> str:
        """The run with the highest peak, and which others are shown to be worse; by target.

        Where layers are named, of their scores instead of the peaks.
        """
        tops = self._tops()
        targets = dict.fromkeys(zip(tops.measure, tops.metric, strict=True))
        return "\n".join(
            self._of_target(
                tops.loc[(tops.measure == measure) & (tops.metric == metric)],
                has_name=len(targets) > 1,
            )
            for measure, metric in targets
        )

    @property
    def _layers(self) -> dict[str, str]:
        """The layer of each run, if layers were named."""
        layers = self.provenance.get("settings", {}).get("layers", [])
        return dict(zip(self.table.run.unique(), layers, strict=True)) if layers else {}

    def _tops(self) -> pd.DataFrame:
        """The peak of every run and target, mean over subsets; the layer that is named if any."""
        if not self._layers:
            return self.table.loc[self.table.subset == MEAN]
        asked = self.curves.run.map(self._layers)
        rows = self.curves.loc[(self.curves.layer == asked) | (self.curves.alias == asked)]
        rows = rows.drop_duplicates(["run", "measure", "metric"])
        return rows.assign(peak=rows.layer, subset=MEAN).reset_index(drop=True)

    def _of_target(self, rows: pd.DataFrame, *, has_name: bool) -> str:
        best = rows.loc[rows.score.idxmax()]
        target = f" for {best.measure}" if has_name else ""
        what = "score at the named layers" if self._layers else "peak"
        said = (
            f"{best.run} has the highest {what}{target}: {METRICS[best.metric]} "
            f"{with_interval(best.score, best.score_low, best.score_high)} at {_label(best)}"
        )
        against = self._against(best)
        if against.empty:
            return f"{said}; no other run has this target." if len(rows) == 1 else f"{said}."
        worse = against[(against.p_corrected <= ALPHA) & (against.better > 0)]
        alike = against.drop(worse.index).other.tolist()
        if len(against) == 1:
            (only,) = against.to_dict("records")
            size = with_interval(only["better"], only["low"], only["high"])
            shown = "is shown to be better than" if len(worse) else "is not shown to differ from"
            return f"{said}, and {shown} {only['other']} ({size}, {p_value(only['p_corrected'])})."
        named = ", ".join(alike) if len(alike) <= 3 else f"{len(alike)} of them"
        if not len(worse):
            return f"{said}, but is not shown to be better than any of the {len(against)} others."
        rest = f", but not than {named}" if alike else ""
        count = "all" if not alike else f"{len(worse)} of"
        return f"{said}, and is shown to be better than {count} {len(against)} others{rest}."

    def _against(self, best: Any) -> pd.DataFrame:
        """The differences of one run from all others, the other way round if needed."""
        pairs, same = self.pairs, ("measure", "metric", "subset")
        pairs = pairs.loc[np.all([pairs[name] == best[name] for name in same], axis=0)]
        rows: list[dict[str, Any]] = []
        for row in pairs.to_dict("records"):
            ends = row["difference"], row["difference_low"], row["difference_high"]
            is_turned = row["other_run"] == best.run
            if is_turned:
                ends = -ends[0], -ends[2], -ends[1]
            elif row["run"] != best.run:
                continue
            other = row["run"] if is_turned else row["other_run"]
            if self._layers:
                other += f" at {row['layer'] if is_turned else row['other_layer']}"
            judged = dict(zip(("better", "low", "high"), ends, strict=True))
            rows.append({"other": other, **judged, "p_corrected": row["p_corrected"]})
        return pd.DataFrame(rows, columns=["other", "better", "low", "high", "p_corrected"])

    def summary(self) -> dict[str, pd.DataFrame]:
        """Peaks and pairs, mean over subsets, as text; of two runs, the pairs of every subset."""
        peaks = self.table.loc[self.table.subset == MEAN]
        has_several = peaks.measure.nunique() > 1
        columns = {
            "run": peaks.run.tolist(),
            **({"target": peaks.measure.tolist()} if has_several else {}),
            "peak": [_label(row) for row in peaks.itertuples()],
            " score [95 %]": [*map(with_interval, peaks.score, peaks.score_low, peaks.score_high)],
            " gain": [*map(number, peaks.learned)],
            " drop": ["–" if pd.isna(fall) else number(fall) for fall in peaks.fall],
            "set from": peaks.set_first.tolist(),
            " MACs": ["–" if pd.isna(macs) else f"{macs / 1e6:,.0f} M" for macs in peaks.macs],
        }
        tables = {f"Peaks, {_means(peaks)}": pd.DataFrame(columns)}
        if len(self.pairs):
            pairs, names = self.pairs, self.table.run.unique()
            is_of_two = len(names) == 2
            pairs = pairs if is_of_two else pairs.loc[pairs.subset == MEAN]
            two = f"{_metrics(pairs)} of {names[0]} minus {names[1]}" if is_of_two else ""
            title = two or f"Differences {'at the named layers' if self._layers else 'of peaks'}"
            has_layers = is_of_two or bool(self._layers)
            tables[title] = _pairs_in_words(pairs, is_of_two=is_of_two, has_layers=has_layers)
        return tables

    def notes(self) -> list[str]:
        """How p-values are corrected, and which runs are not paired."""
        lines = []
        if len(self.table.run.unique()) > 2:
            lines.append("p: corrected over all pairs of a target by Holm's method.")
        apart = self.pairs[(self.pairs.subset == MEAN) & (self.pairs.unpaired_because != "")]
        for reason, rows in apart.groupby("unpaired_because", sort=False):
            some = f"{rows.run.iloc[0]} and {rows.other_run.iloc[0]}"
            more = f" and {len(rows) - 1} more pairs" if len(rows) > 1 else ""
            lines.append(
                f"Not paired by image ({reason}), so the interval is that of independent runs: "
                f"{some}{more}."
            )
        return lines

    def plot(self) -> Figure:
        """Score by relative depth."""
        return page_figure(comparison_drawing(self.curves))


def compare_runs(runs: Sequence[str | Path | Curve], *, layers: Sequence[str] = ()) -> Comparison:
    """Compare the curves of any number of networks and targets.

    Args:
        runs: run folders of probes, or curves; at least two.
        layers: one layer of each run, by name or alias, whose differences are given instead of
            those of the peaks.

    Raises:
        DataError: if there are fewer than two runs, a run holds no curve or no such layer, or runs
            of the same target have different regressors.
    """
    if len(runs) < 2:
        raise DataError(f"A comparison needs two runs or more, got {len(runs)}.")
    layers = several(layers)
    if layers and len(layers) != len(runs):
        raise DataError(
            f"--layers {','.join(layers)!r} names {len(layers)} layers. Give one layer of each "
            "run, such as add_13,mixed8."
        )
    curves = [run if isinstance(run, Curve) else read_curve(run) for run in runs]
    folders = [Path("curve") if isinstance(run, Curve) else Path(run) for run in runs]
    names = distinct(names_of([str(curve.table.model.iloc[0]) for curve in curves], folders))
    sides = [
        _Side(name, of_target, layer)
        for name, curve, layer in zip(names, curves, layers or [""] * len(runs), strict=True)
        for of_target in curve.each
    ]
    for side in sides:
        _height(side)  # refuses a layer that the run lacks
    table = pd.DataFrame([row for side in sides for row in _peaks(side)], columns=COMPARISON)
    by_layer = pd.concat([_scores(side) for side in sides], ignore_index=True)
    settings = {"runs": [*map(str, folders)], "layers": list(layers)}
    return Comparison(table, _pairs(sides), by_layer, {"settings": settings_of(settings)})


def read_comparison(folder: str | Path) -> Comparison:
    """The comparison that `Comparison.save` wrote."""
    run = read_run(folder)
    tables = (("comparison", COMPARISON), ("pairs", PAIRS), ("curves", CURVES))
    return Comparison(*(run.table(*each) for each in tables), provenance=dict(run.facts))


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One target of a run, and the layer it is compared at; its peak if empty."""

    name: str
    curve: Curve
    layer: str

    @property
    def target(self) -> tuple[str, str]:
        """The measure and the metric."""
        return self.curve.targets[0], self.curve.metric

    @property
    def subsets(self) -> list[str]:
        return list(dict.fromkeys(self.curve.table.subset))


def distinct(names: Sequence[str]) -> list[str]:
    """Names with a number where the same one occurs again."""
    return [
        f"{name} ({names[: at + 1].count(name)})" if name in names[:at] else name
        for at, name in enumerate(names)
    ]


def _peaks(side: _Side) -> Iterator[dict[str, Any]]:
    """The peak of each subset, its confidence set, gain, drop and cost."""
    curve = side.curve
    points = {point.layer: point for point in curve.points}
    for subset in side.subsets:
        found = curve.evidence(subset)
        row = (
            curve.scores(subset=subset, regressor=curve.regressor)
            .set_index("layer")
            .loc[found.peak]
        )
        first = points.get(found.confidence_set[0])
        top = points.get(found.peak)
        yield asdict(found) | {
            "run": side.name,
            "model": row.model,
            "measure": side.target[0],
            "subset": subset,
            "n_images": row.n_images,
            "alias": row.alias,
            "depth": row.depth,
            "set_first": found.confidence_set[0],
            "confidence_set": "; ".join(found.confidence_set),
            "macs": (first and first.macs) or np.nan,
            "peak_macs": (top and top.macs) or np.nan,
        }


def _scores(side: _Side) -> pd.DataFrame:
    """Score by layer, mean over subsets, without the softmax."""
    curve = side.curve
    rows = curve.scores(regressor=curve.regressor)
    rows = rows[rows.layer != SOFTMAX] if len(rows) > 1 else rows
    return pd.DataFrame(rows.assign(run=side.name), columns=CURVES)


def _pairs(sides: Sequence[_Side]) -> pd.DataFrame:
    """Differences of all pairs of the same target, p-values corrected by target and subset.

    Of more than `MOST_IN_PAIRS` runs, those with the best are given. They are corrected over all
    pairs, as the best was found in the same data.
    """
    rows = [row for pair in combinations(sides, 2) for row in _differences(*pair)]
    table = pd.DataFrame(rows, columns=PAIRS)
    for _, family in table.groupby(["measure", "metric", "subset"], sort=False):
        table.loc[family.index, "p_corrected"] = holm(family.p_value.tolist())
    if len({side.name for side in sides}) <= MOST_IN_PAIRS:
        return table
    best: dict[tuple[str, str], _Side] = {}
    for side in sides:
        if side.target not in best or _height(side) > _height(best[side.target]):
            best[side.target] = side
    names = [best[target].name for target in zip(table.measure, table.metric, strict=True)]
    is_shown = (table.run == names) | (table.other_run == names)
    return table.loc[is_shown].reset_index(drop=True)


def _height(side: _Side) -> float:
    """The score that is compared."""
    return peak_or_layer(side.curve, MEAN, side.layer)[1]


def _differences(one: _Side, other: _Side) -> Iterator[dict[str, Any]]:
    """The difference of two runs in every subset that both have; none if their targets differ."""
    if one.target != other.target:
        return
    for row in paired_differences(one.curve, other.curve, (one.layer, other.layer)):
        yield row | {"run": one.name, "other_run": other.name, "p_corrected": row["p_value"]}


# --- in words ------------------------------------------------------------------------------------


def _metrics(rows: pd.DataFrame) -> str:
    """What the scores of some rows are, such as "R² or balanced accuracy"."""
    return " or ".join(METRICS[name] for name in dict.fromkeys(rows.metric))


def _label(row: Any) -> str:
    """The layer of a peak with its alias, where there is one."""
    is_new = isinstance(row.alias, str) and row.alias not in ("", row.peak)
    return f"{row.peak} ({row.alias})" if is_new else str(row.peak)


def _means(peaks: pd.DataFrame) -> str:
    """What the scores are, and of what."""
    targets = list(dict.fromkeys(peaks.measure))
    of = f" of {targets[0]}" if len(targets) == 1 else ""
    return f"{_metrics(peaks)}{of}, mean over subsets"


def _pairs_in_words(pairs: pd.DataFrame, *, is_of_two: bool, has_layers: bool) -> pd.DataFrame:
    """The differences as text; of two runs by subset, else by pair."""
    ends = zip(pairs.difference, pairs.difference_low, pairs.difference_high, strict=True)
    judged = {
        " difference [95 %]": [with_interval(*each) for each in ends],
        " p": [p_value(p).removeprefix("p ").removeprefix("= ") for p in pairs.p_corrected],
    }
    target = {"target": pairs.measure} if pairs.measure.nunique() > 1 else {}
    sides = {"subset": pairs.subset} if is_of_two else {"run": pairs.run, "minus": pairs.other_run}
    if has_layers:
        sides |= {"layer": pairs.layer, "other layer": pairs.other_layer}
    return pd.DataFrame({**target, **sides, **judged})
