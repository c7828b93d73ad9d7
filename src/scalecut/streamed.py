"""The curve from sums of products: R² by layer, with its controls, and its jackknife intervals.

Shapes: K cells, u of them with images, s rows of the table.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from threadpoolctl import threadpool_limits

from .curve import COLUMNS
from .images import LeftOut
from .layers import SOFTMAX, ProbePoint
from .pixels import PIXELS
from .scores import CONTROLLED, MEAN, n_processors
from .sums import Sums, cross_validated, jackknife

TARGETS = ("true", "shuffled")  # in the order of the columns of targets of a measure


@dataclass(frozen=True, slots=True, eq=False)
class StreamedCurve:
    """R² by layer, with its controls, of cross-validation over cells of groups.

    Intervals are of the delete-one-cell jackknife; there are no draws, hence no p-values, no
    confidence set of the peak and no place of the fall.
    """

    table: pd.DataFrame  # the columns of `curve.COLUMNS`
    replicates: Float64[np.ndarray, "s K"]  # R² without each cell; nan for cells without images
    points: tuple[ProbePoint, ...]
    layers_left_out: tuple[LeftOut, ...] = ()
    images_left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The curve as a table, in the form of `curve.csv`."""
        return self.table.copy()

    def scores(
        self,
        *,
        subset: str = MEAN,
        weights: str | None = None,
        target: str = "true",
        regressor: str = "ridge",
    ) -> pd.DataFrame:
        """The rows of one line of the curve, in order of the layers; their index is the table's."""
        table = self.table
        wanted = {
            "subset": subset,
            "weights": weights or self.weights,
            "target": target,
            "regressor": regressor,
        }
        return table.loc[(table[list(wanted)] == list(wanted.values())).all(axis=1)]

    @property
    def weights(self) -> str:
        """What the curve is of: `pretrained`, or `random` if the network was asked for so."""
        return "pretrained" if (self.table.weights == "pretrained").any() else "random"

    def peak(self, subset: str = MEAN) -> str:
        """The layer of the highest R² of ridge; the softmax is no candidate."""
        rows = _candidates(self.scores(subset=subset))
        return str(rows.layer.loc[rows.r2.idxmax()])

    def finding(self) -> str:
        """What was found, in one sentence; differences are paired cell by cell."""
        rows = _candidates(self.scores())
        label = {point.layer: point.label for point in self.points}
        best, last = rows.loc[rows.r2.idxmax()], rows.iloc[-1]
        name, score = label[best.layer], _with_interval(best.r2, best.r2_low, best.r2_high)
        to_fit = f"{best.n_fit} images to fit."
        if best.r2_low <= 0:
            return (
                f"No layer of {best.model} is shown to carry the object's scale; the best is "
                f"{name}: R² {score}; {to_fit}"
            )
        said = f"{best.model} carries the object's scale best at {name}: R² {score}"
        if np.isfinite(best.learned):
            told = _with_interval(best.learned, best.learned_low, best.learned_high)
            is_shown = best.learned_low > 0
            verb = "is learned" if is_shown else "would be learned, which is not shown"
            said += f", of which {told} {verb}"
        if best.layer == last.layer:
            return f"{said}; no layer was read after it; {to_fit}"
        loss = best.r2 - last.r2
        paired = self.replicates[best.name] - self.replicates[last.name]
        low, high = jackknife(loss, paired[np.isfinite(paired)], most=np.inf)
        said += f"; {label[last.layer]} has {_with_interval(loss, low, high)} less"
        return f"{said}; {to_fit}" if low > 0 else f"{said}, which is not shown; {to_fit}"


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The score of one layer with one kind of weights, target and regressor, on one subset."""

    point: ProbePoint
    r2: float
    replicates: Float64[np.ndarray, " K"]
    is_used: Bool[np.ndarray, " K"]
    n_images: int
    n_fit: int


Key = tuple[str, str, str, str, str]  # subset, weights, target, regressor, layer


def lines_of(
    kind: str,
    points: Sequence[ProbePoint],
    subsets: Sequence[str],
    sums: Mapping[tuple[str, ...], Sums],
    n_measures: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[Key, Line]]:
    """All scores of one kind of weights, from its sums by subset and layer; measure by measure.

    Args:
        report: called with (layers done, all).
    """
    lines: list[dict[Key, Line]] = [{} for _ in range(n_measures)]
    # One thread a decomposition: the same numbers on any number of cores.
    with threadpool_limits(1), ThreadPoolExecutor(n_processors()) as workers:
        for done, point in enumerate(points, start=1):
            for subset in subsets:
                found = cross_validated(sums[subset, point.layer], each=workers.map)
                for regressor, folds in (("ridge", found.ridge), ("ols", found.ols)):
                    n_targets = len(folds.r2) // n_measures
                    for column, r2 in enumerate(folds.r2):
                        measure, target = divmod(column, n_targets)
                        lines[measure][subset, kind, TARGETS[target], regressor, point.layer] = (
                            Line(
                                point,
                                float(r2),
                                folds.replicates[:, column],
                                found.is_used,
                                found.n_images,
                                found.n_fit,
                            )
                        )
            report(done, len(points))
    return lines


def table_of(
    lines: Mapping[Key, Line], names: Mapping[str, str]
) -> tuple[pd.DataFrame, Float64[np.ndarray, "s K"]]:
    """A row a score, the mean over subsets last, and R² without each cell.

    The mean without a cell is that of all subsets without it, as cells are of groups whatever the
    subset: so subsets that share patients are not taken for independent.

    Args:
        names: of the model and the measure.
    """
    subsets = [*dict.fromkeys(key[0] for key in lines), MEAN]
    whole = dict(lines)
    for _, kind, target, regressor, layer in lines:
        key = kind, target, regressor, layer
        of_subsets = [lines[subset, *key] for subset in subsets[:-1]]
        whole[MEAN, *key] = Line(
            of_subsets[0].point,
            float(np.mean([line.r2 for line in of_subsets])),
            np.mean([line.replicates for line in of_subsets], axis=0),
            np.any([line.is_used for line in of_subsets], axis=0),
            sum(line.n_images for line in of_subsets),
            round(np.mean([line.n_fit for line in of_subsets]).item()),
        )
    # layers stay in the order of execution, as sorting is stable
    ordered = sorted(whole, key=lambda key: (subsets.index(key[0]), *key[1:4]))
    rows = [dict(names) | _row(key, whole) for key in ordered]
    replicates = [np.where(whole[k].is_used, whole[k].replicates, np.nan) for k in ordered]
    return pd.DataFrame(rows, columns=COLUMNS), np.array(replicates)


# --- inside --------------------------------------------------------------------------------------


def _row(key: Key, lines: Mapping[Key, Line]) -> dict[str, Any]:
    subset, kind, target, regressor, layer = key
    line = lines[key]
    low, high = _interval(line.r2, line.replicates[line.is_used])
    learned, learned_low, learned_high = _learned(key, lines)
    return {
        "subset": subset,
        "layer": layer,
        "alias": line.point.alias,
        "depth": line.point.depth,
        "n_features": line.point.channels,
        "n_images": line.n_images,
        "weights": kind,
        "target": target,
        "regressor": regressor,
        "r2": line.r2,
        "r2_low": low,
        "r2_high": high,
        "seed_count": 1,  # one partition into cells
        "n_fit": line.n_fit,
        "learned": learned,
        "learned_low": learned_low,
        "learned_high": learned_high,
    }


def _learned(key: Key, lines: Mapping[Key, Line]) -> tuple[float, float, float]:
    """R² less that of the best of twin and pixels, not below 0, paired cell by cell."""
    subset, kind, target, regressor, layer = key
    others = (("random", layer), (PIXELS, PIXELS))
    keys = [(subset, weights, "true", regressor, name) for weights, name in others]
    beaten = [lines[other] for other in keys if other in lines]
    if target != "true" or kind in CONTROLLED or not beaten:
        return np.nan, np.nan, np.nan
    own = lines[key]
    learned = own.r2 - max(0.0, *(line.r2 for line in beaten))
    best = np.maximum(0.0, np.max([line.replicates for line in beaten], axis=0))
    return learned, *_interval(learned, (own.replicates - best)[own.is_used])


def _interval(value: float, replicates: Float64[np.ndarray, " u"]) -> tuple[float, float]:
    """The jackknife's; nan where least squares has no score."""
    return jackknife(value, replicates) if np.isfinite(value) else (np.nan, np.nan)


def _candidates(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the softmax, unless there is nothing else."""
    inner = rows.loc[rows.layer != SOFTMAX]
    return inner if len(inner) else rows


def _with_interval(value: float, low: float, high: float) -> str:
    """Two decimals, zero without a sign."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("-0.00", "0.00")
