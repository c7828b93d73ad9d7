"""The curve: R² by layer, with its controls, and what can be said of it."""

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from .figures import curve_figure
from .images import LeftOut
from .layers import SOFTMAX, ProbePoint
from .scores import MEAN

COLUMNS = [
    "model",
    "subset",
    "measure",
    "layer",
    "alias",
    "depth",
    "n_features",
    "n_images",
    "weights",
    "target",
    "regressor",
    "r2",
    "r2_low",
    "r2_high",
    "p_value",
    "seed_count",
]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """R² by layer, with its controls, and what it was computed from."""

    table: pd.DataFrame  # one row per combination, the columns of COLUMNS
    points: tuple[ProbePoint, ...]
    layers_left_out: tuple[LeftOut, ...]
    images_left_out: tuple[LeftOut, ...]
    provenance: dict[str, object] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The curve as a table, in the form of `curve.csv`."""
        return self.table.copy()

    def plot(self, subset: str = MEAN) -> Figure:
        """The curve with its band and controls."""
        return curve_figure(self.table, subset=subset)

    @property
    def weights(self) -> str:
        """What the curve is of: `pretrained`, or `random` if the network was asked for so."""
        return "pretrained" if (self.table.weights == "pretrained").any() else "random"

    def scores(
        self,
        *,
        subset: str = MEAN,
        weights: str | None = None,
        target: str = "true",
        regressor: str = "ridge",
    ) -> pd.DataFrame:
        """The rows of one line of the curve, in order of the layers."""
        table = self.table
        is_wanted = (
            (table.subset == subset)
            & (table.weights == (weights or self.weights))
            & (table.target == target)
            & (table.regressor == regressor)
        )
        return table.loc[is_wanted].sort_values("depth", kind="stable", ignore_index=True)

    def finding(self) -> str:
        """What was found, in one sentence: the peak, the random twin there, and the last layer."""
        regressor = "ridge" if (self.table.regressor == "ridge").any() else "ols"
        rows = self.scores(regressor=regressor)
        labels = {point.layer: point.label for point in self.points}
        peak, last = rows.loc[rows.r2.idxmax()], self._end_of(rows)
        said = (
            f"{peak.model} carries the object's scale best at {labels[peak.layer]}: "
            f"R² {peak.r2:.2f} "
            f"[{peak.r2_low:.2f}, {peak.r2_high:.2f}]"
        )
        twin = self.scores(weights="random", regressor=regressor)
        if self.weights == "pretrained" and len(twin):
            # a twin that is worse than the mean knows nothing; less than nothing is no gain
            learned = peak.r2 - max(float(twin.r2[rows.r2.idxmax()]), 0.0)
            said += f", {learned:.2f} above its random twin"
        if last.layer != peak.layer:
            said += f"; at {labels[last.layer]} R² {last.r2:.2f} is left"
        return said + "."

    @staticmethod
    def _end_of(rows: pd.DataFrame) -> pd.Series:
        """The last layer whose answer is not squeezed into probabilities."""
        return rows[rows.layer != SOFTMAX].iloc[-1] if len(rows) > 1 else rows.iloc[-1]
