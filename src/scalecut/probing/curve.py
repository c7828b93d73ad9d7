"""The curve: scores by layer, with their controls, and what they are evidence of."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64
from matplotlib.figure import Figure

from .. import runs
from ..data.decoding import PLAIN
from ..data.images import MEAN, Image, ImageSet
from ..data.measures import CLASS
from ..data.thumbnails import small_jpeg
from ..errors import DataError, ModelError, check_names
from ..figures.curve import curve_drawing, targets_drawing
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..figures.text import METRICS, interval, number, p_value, span, with_interval
from ..networks.points import SOFTMAX, ProbePoint
from ..report.curve import COMBINED, curve_of, main_metric
from ..report.report import Result
from ..stats.classes import R2, SCALES
from ..stats.inference import Scale, drop, ends, mirrored, no_interval, of_difference, peak

SCORES = ("score", "score_low", "score_high")
ALPHA = 0.05  # p-values up to this are significant
SIZES = ("area", "sqrt-area", "log-area", "height", "pixels", "measure")  # "object scale" in words


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a curve shows for one subset: which layer encodes the target best, and where it drops.

    Args:
        peak: the layer with the highest score.
        confidence_set: layers not shown to be worse than the best; the truly best layer is among
            them in 95 of 100 cases.
        r2, r2_low, r2_high: R² at the peak, with its 95 % interval; NaN for classes.
        p_value: of the null hypothesis that features and target are unrelated, corrected over
            layers; NaN without permutations.
        learned, learned_low, learned_high: the gain over controls at the peak, with its 95 %
            interval; NaN without controls.
        fall_after: the last layer before the drop that follows the peak; None if no drop is shown.
        fall_first, fall_last: its 95 % interval.
        fall, fall_low, fall_high: size of the drop: mean of the best score still to come, from the
            peak to `fall_after` minus after it, with its 95 % interval.
        fall_p_value: of the null hypothesis that the last layer is no worse than the peak.
        last, last_r2: the last layer and its R².
        last_loss, last_loss_low, last_loss_high: score of the peak minus that of the last layer.
        n_fit: training images of each fit; with a different number the curve would differ.
        metric: what is scored: `r2` of a measure, `balanced_accuracy` of classes.
        score, score_low, score_high: at the peak, with its 95 % interval.
        last_score: of the last layer.
        chance, chance_low, chance_high: the score of features that hold nothing of the target, and
            the 95 % interval of scores of the permuted target, mean over subsets; NaN without
            permutations.
        refits: 95 % intervals that count the training images as well (`--intervals refit`): of
            `r2`, `learned`, `last_r2` and `last_loss`; none otherwise.
    """

    peak: str
    confidence_set: tuple[str, ...]
    r2: float
    r2_low: float
    r2_high: float
    p_value: float
    learned: float
    learned_low: float
    learned_high: float
    fall_after: str | None
    fall_first: str | None
    fall_last: str | None
    fall: float | None
    fall_low: float | None
    fall_high: float | None
    fall_p_value: float
    last: str
    last_r2: float
    last_loss: float
    last_loss_low: float
    last_loss_high: float
    n_fit: int
    metric: str
    score: float
    score_low: float
    score_high: float
    last_score: float
    chance: float
    chance_low: float
    chance_high: float
    refits: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def is_shown(self) -> bool:
        """Whether any layer is shown to encode the target: by its p-value, else by its interval."""
        if np.isfinite(self.p_value):
            return self.p_value <= ALPHA
        return self.score_low > self.chance


@dataclass(frozen=True, slots=True, eq=False)
class Curve(Result):
    """Scores by layer, with their controls, and what they were computed from.

    A curve of several targets is taken apart by `of`; `finding`, `summary` and what is saved are of
    all of them.

    Args:
        table: one row per combination, with the columns of `report.curve.COLUMNS`.
        draws: bootstrap draws of the scores, in the order of the rows.
        points: the probe points, in order of execution.
        provenance: the facts of `run.json`: settings, weights, skipped layers and images, ...
        fewer: the same with fewer training images, fewest first.
        image_set: the images; None if the curve was read from a run.
        predicted: prediction for each image while it was held out, of a class its number; of
            several targets one array each. None as well.
        combined: scores of all layers up to each together, with the columns of
            `report.curve.COMBINED`; None if they were not fitted.
    """

    table: pd.DataFrame
    draws: Float32[np.ndarray, "s b"]
    points: tuple[ProbePoint, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    fewer: tuple["Curve", ...] = ()
    image_set: ImageSet | None = None
    predicted: Float64[np.ndarray, "*t L n"] | None = None
    combined: pd.DataFrame | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(dict.fromkeys(self.table.measure))

    def of(self, target: str = "") -> "Curve":
        """The curve of one target, which needs no name if it is the only one.

        Raises:
            DataError: if there is no such target, or several and none is named.
        """
        check_names([target] * bool(target), self.targets, "target")
        if len(self.targets) == 1:
            return self
        if not target:
            raise DataError(
                f"This curve has {len(self.targets)} targets: {', '.join(self.targets)}. Choose "
                f"one, as curve.of({self.targets[0]!r}) or --target {self.targets[0]}."
            )
        rows = np.flatnonzero(self.table.measure == target)
        images, predicted = self.image_set, self.predicted
        if images is not None and predicted is not None:
            predicted = predicted[self.targets.index(target)][:, images.known(target)]
            images = images.of(target)
        return replace(
            self,
            table=self.table.iloc[rows].reset_index(drop=True),
            draws=self.draws[rows],
            fewer=tuple(each.of(target) for each in self.fewer),
            image_set=images,
            predicted=predicted,
            combined=self._combined_of(target),
        )

    def _combined_of(self, target: str) -> pd.DataFrame | None:
        """The scores of all layers together of one target; None if they were not fitted to it."""
        if self.combined is None:
            return None
        rows = self.combined.loc[self.combined.measure == target]
        return rows.reset_index(drop=True) if len(rows) else None

    @property
    def each(self) -> "tuple[Curve, ...]":
        """One curve per target."""
        return tuple(self.of(target) for target in self.targets)

    @property
    def metric(self) -> str:
        """The metric that findings are stated for, of one target."""
        return main_metric(self.of().table)

    def predictions(self) -> pd.DataFrame:
        """The measure of each image and its prediction from each layer, while it was held out.

        Predictions are those of the network itself and the main regressor, mean over the repeats;
        nan where an image was never held out. The order of images is the same for every layer.

        Raises:
            DataError: if the curve was read from a run, which has them in `predictions.parquet`.
        """
        if self.image_set is None or self.predicted is None:
            raise DataError(
                "This curve has no predictions, because it was read from a run. Read them with "
                "pandas.read_parquet(RUN / 'predictions.parquet')."
            )
        if len(self.targets) > 1:
            every = [each.predictions().assign(target=each.targets[0]) for each in self.each]
            return pd.concat(every, ignore_index=True)
        images = image_table(self.image_set)[["image", "subset", "group", "measure"]]
        tables = [
            images.assign(layer=point.layer, predicted=row)
            for point, row in zip(self.points, self.predicted, strict=True)
        ]
        table = pd.concat(tables, ignore_index=True)
        if self.image_set.classes:
            names = dict(enumerate(self.image_set.classes))
            table = table.assign(
                class_=table.measure.map(names), predicted_class=table.predicted.map(names)
            ).rename(columns={"class_": "class"})
        return table

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        every = [curve.differences(subset) for curve in self.each for subset in curve._subsets]
        differences = pd.concat(every, ignore_index=True)
        tables = {"curve": self.to_frame(), "differences": differences}
        tables |= {} if self.combined is None else {"combined": self.combined}
        return tables | ({"learning": self.learning()} if self.fewer else {})

    def facts(self) -> dict[str, object]:
        """Those of `run.json`."""
        return {
            **self.provenance,
            "finding": self.finding(),
            **self._evidence_facts(),
            "points": self.points,
        }

    def _evidence_facts(self) -> dict[str, object]:
        """Evidence by subset; of several targets, by target and subset."""
        if len(self.targets) > 1:
            return {
                "evidence_by_target": {one.targets[0]: one._evidence_facts() for one in self.each}
            }
        return {
            "evidence": {subset: self.evidence(subset) for subset in self._subsets},
            "evidence_with_fewer_to_fit": [each.evidence() for each in self.fewer],
        }

    def write_more(self, folder: Path) -> None:
        """The draws; and if the images are known, their table and predictions."""
        content = io.BytesIO()  # for a file, numpy does not say that the disk is full
        np.save(content, self.draws)
        (folder / "draws.npy").write_bytes(content.getvalue())
        if self.image_set is not None:
            self.predictions().to_parquet(folder / "predictions.parquet", index=False)
            _images(self.image_set).to_parquet(folder / "images.parquet", index=False)

    def summary(self) -> dict[str, pd.DataFrame]:
        """The mean over subsets, one row per layer, in at most 80 characters; per target."""
        if len(self.targets) > 1:
            return {title: table for each in self.each for title, table in each.summary().items()}
        main = self.regressor
        own = self.scores(regressor=main).set_index("layer")
        columns = {
            "layer": [*map(self._label, own.index)],
            " d": [*map(str, own.n_features)],
            f" {main} [95 %]": [*map(with_interval, own.score, own.score_low, own.score_high)],
        }
        if own.learned.notna().any():
            gains = map(with_interval, own.learned, own.learned_low, own.learned_high)
            columns[" gain [95 %]"] = [*gains]
        of_random = self.scores(weights="random", regressor=main)
        if self.weights != "random" and len(of_random):
            columns[" random"] = [*map(number, of_random.score)]
        ols = self.scores(regressor="ols")
        if main != "ols" and len(ols):
            columns[" ols"] = [*map(number, ols.score)]
        first, subsets = own.iloc[0], ", ".join(sorted(set(self.table.subset) - {MEAN}))
        what = METRICS[self.metric]
        title = f"{what} of {first.measure}, {first.model}, {first.n_images} images ({subsets})"
        return {title: pd.DataFrame(columns)}

    def notes(self) -> list[str]:
        """Lines on the controls, on how features were computed, and on the learning curve."""
        lines = self._control_lines()
        lines += computed_line(self.provenance)
        if self.is_quick:
            lines.append(
                "A first look (--quick): at most 400 images, one randomly initialised network and "
                "99 permutations. Probe without it before you state a result."
            )
        if self.provenance.get("settings", {}).get("learning_curve") and not self.fewer:
            lines.append("No learning curve: half of the training images would be too few.")
        return [*lines, *self.learning_lines()]

    def _control_lines(self) -> list[str]:
        """What the controls of each target have, in one line."""
        if len(self.targets) > 1:
            pairs = [
                (each.targets[0], line) for each in self.each for line in each._control_lines()
            ]
            return [f"{target}: {line[0].lower()}{line[1:]}" for target, line in pairs]
        said, regressor = [], self.regressor
        pixels = self.scores(weights="pixels", regressor=regressor)
        if len(pixels):
            said.append(f"pixels alone {number(pixels.score.iloc[0])}")
        shuffled = self.scores(target="shuffled", regressor=regressor)
        if len(shuffled):
            said.append(f"shuffled target {span(shuffled.score)}")
        if self.metric != R2:
            said.append(self._chance(self.evidence()))
        own = self.scores(regressor=regressor)
        if own.p_value.notna().any():
            n = int((own.p_value <= ALPHA).sum())
            said.append(f"p ≤ {ALPHA:g} (corrected over layers) at {n} of {len(own)} layers")
        return [f"Controls: {'; '.join(said) or 'none'}."]

    def _chance(self, found: Evidence) -> str:
        """Chance level, and what the permuted target has."""
        said = f"chance {number(found.chance)}"
        if np.isfinite(found.chance_low):
            ends = f"{number(found.chance_low)} to {number(found.chance_high)}"
            said += f" ({ends} in 95 % of permutations)"
        return said

    def plot(self, subset: str = MEAN) -> Figure:
        """The curve with its band and controls."""
        if len(self.targets) > 1:
            return page_figure(targets_drawing(self.table, subset=subset))
        return page_figure(curve_drawing(self.table, subset=subset))

    def _repr_html_(self) -> str:
        if len(self.targets) > 1:
            return html_of(self.finding(), pd.concat(self.summary(), names=["target"]), self.plot())
        ends = ("r2", "r2_low", "r2_high") if self.metric == R2 else SCORES
        shown = ["layer", "alias", "n_features", *ends, "learned", "p_value"]
        table = self.scores(regressor=self.regressor).reindex(columns=shown)
        return html_of(self.finding(), table.dropna(axis="columns", how="all"), self.plot())

    def learning(self) -> pd.DataFrame:
        """The rows of the network itself by number of training images (`n_fit`), fewest first."""
        is_own = (self.table.weights == self.weights) & (self.table.target == "true")
        tables = [*(each.table for each in self.fewer), self.table.loc[is_own]]
        return pd.concat(tables, ignore_index=True)

    @property
    def weights(self) -> str:
        """The kind of weights of the network itself: `pretrained`, or `random` if so requested."""
        return "pretrained" if (self.table.weights == "pretrained").any() else "random"

    @property
    def regressor(self) -> str:
        """The regressor that findings are stated for: ridge if it was fitted, else ols."""
        return "ridge" if (self.table.regressor == "ridge").any() else "ols"

    def scores(
        self,
        *,
        subset: str = MEAN,
        weights: str | None = None,
        target: str = "true",
        regressor: str = "ridge",
        metric: str = "",
    ) -> pd.DataFrame:
        """The rows of one line of the curve, in order of the layers; by default of its `metric`."""
        line = subset, weights or self.weights, target, regressor
        rows = self._rows(*line, metric or self.metric)
        return self.table.iloc[rows].reset_index(drop=True)

    def draws_of_layers(self, subset: str = MEAN) -> dict[str, Float32[np.ndarray, " b"]]:
        """Bootstrap draws of R² by layer, of the network's own weights and the main regressor."""
        rows = self._rows(subset, self.weights, "true", self.regressor, self.metric)
        return dict(zip(self.table.layer.iloc[rows], self.draws[rows], strict=True))

    @property
    def scale(self) -> Scale:
        """The scale on which intervals of the score are formed."""
        return SCALES[self.metric]

    def n_groups(self, subset: str = MEAN) -> int:
        """The groups that are held out in some repeat; of the mean, the fewest of any subset."""
        return int(self.table.n_groups[self.table.subset == subset].iloc[0])

    def score_of(
        self, subset: str, weights: str, layer: str
    ) -> tuple[float, Float64[np.ndarray, " b"]]:
        """The score of the main regressor at one layer, and its draws."""
        rows = self._rows(subset, weights, "true", self.regressor, self.metric)
        (row,) = rows[(self.table.layer.iloc[rows] == layer).to_numpy()]
        return float(self.table.score.iloc[row]), self.draws[row].astype(np.float64)

    def evidence(self, subset: str = MEAN) -> Evidence:
        """The peak with its confidence set, the gain over controls there, and the drop after it.

        The softmax is no candidate: it turns the logits into probabilities, which no area is
        expected to be a linear function of.

        Raises:
            DataError: if the curve has no such subset.
        """
        rows = self._candidates(subset)
        table, draws = self.table.iloc[rows], self.draws[rows].T.astype(np.float64)
        score = table.score.to_numpy()
        n_groups = self.n_groups(subset)
        best = peak(score, draws, n_groups)
        lost = drop(score, draws, n_groups, scale=self.scale)
        names = table.layer.tolist()
        top = table.iloc[best.at]
        loss = score[best.at] - score[-1]
        plausible = mirrored(score, draws, self.scale, n_groups)
        below = plausible[:, best.at] - plausible[:, -1]
        loss_low, loss_high = ends(loss, below, n_groups, scale=self.scale)
        after, first, last = (
            None if number is None else names[number]
            for number in (lost.after, lost.first, lost.last)
        )
        return Evidence(
            peak=top.layer,
            confidence_set=tuple(names[number] for number in best.confidence_set),
            **{name: float(top[name]) for name in ("r2", "r2_low", "r2_high", "p_value")},
            **{name: float(top[name]) for name in ("learned", "learned_low", "learned_high")},
            fall_after=after,
            fall_first=first,
            fall_last=last,
            fall=lost.size,
            fall_low=lost.low,
            fall_high=lost.high,
            fall_p_value=lost.p_value,
            last=names[-1],
            last_r2=float(table.r2.iloc[-1]),
            last_loss=float(loss),
            last_loss_low=float(loss_low),
            last_loss_high=float(loss_high),
            n_fit=int(top.n_fit),
            metric=self.metric,
            **{name: float(top[name]) for name in SCORES},
            last_score=float(score[-1]),
            **self._chances(),
            refits=self.provenance.get("refits", {}).get(subset, {}),
        )

    def _chances(self) -> dict[str, float]:
        """Chance level with its interval, from the facts of the run; that of R² is 0."""
        about = next((t for t in self._facts_of_targets if t["name"] == self.targets[0]), {})
        known = {name: about.get(name) for name in ("chance", "chance_low", "chance_high")}
        found = {name: np.nan if value is None else value for name, value in known.items()}
        return found | ({"chance": 0.0} if self.metric == R2 else {})

    @property
    def _facts_of_targets(self) -> list[Mapping[str, Any]]:
        return list(self.provenance.get("targets", []))

    def differences(self, subset: str = MEAN) -> pd.DataFrame:
        """The score of the peak minus that of every layer, paired, with 95 % intervals."""
        rows = self._candidates(subset)
        table, draws = self.table.iloc[rows], self.draws[rows].T.astype(np.float64)
        score, n_groups = table.score.to_numpy(), self.n_groups(subset)
        best = peak(score, draws, n_groups)
        plausible = mirrored(score, draws, self.scale, n_groups)
        lost = score[best.at] - score
        below = plausible[:, [best.at]] - plausible
        low, high = ends(lost, below, n_groups, scale=self.scale)
        names = ["subset", "layer", "alias", "depth", "r2"]
        return table[names].assign(
            below_peak=lost,
            below_peak_low=low,
            below_peak_high=high,
            is_in_confidence_set=np.isin(np.arange(len(score)), best.confidence_set),
            measure=self.targets[0],
            score=score,
        )

    def learning_lines(self) -> list[str]:
        """Peak and drop by number of training images, one line each; none without a learning curve.

        With fewer training images wide layers lose most, so the peak may move.
        """
        if not self.fewer:
            return []
        if len(self.targets) > 1:
            pairs = [
                (each.targets[0], line) for each in self.each for line in each.learning_lines()
            ]
            return [f"{target}: {line.strip()}" for target, line in pairs]
        return [each._peak_and_drop() for each in (*self.fewer, self)]

    def _peak_and_drop(self) -> str:
        found, label = self.evidence(), self._label
        lost = "no drop shown"
        if found.fall is not None:
            lost = f"drops by {number(found.fall)} after {label(found.fall_after)}"
        return (
            f"{found.n_fit:>5} training images: {METRICS[self.metric]} {number(found.score)} at "
            f"{label(found.peak)}, {lost}, {number(found.last_score)} at {label(found.last)}"
        )

    def finding(self) -> str:
        """What was found, in one sentence, and in another one about all layers together.

        Of several targets, a line each.
        """
        if len(self.targets) > 1:
            return "\n".join(each.finding() for each in self.each)
        return " ".join(filter(None, (self._of_single_layers(), self._of_all_layers())))

    def _of_all_layers(self) -> str:
        """Whether every single layer is shown to be worse than all together, and by how much."""
        together = self._combined_of(self.targets[0])
        if together is None:
            return ""
        row = together.loc[together.subset == MEAN].iloc[-1]
        r2 = f"R² {with_interval(row.score, row.score_low, row.score_high)}"
        said, best = f"All {row.n_layers} layers together have {r2}", self._label(row.best_layer)
        size = with_interval(row.below, row.below_low, row.below_high)
        if row.below_low > 0:
            return f"{said}: every single layer is shown to be worse, the best ({best}) by {size}."
        if row.below_high < 0:
            loss = with_interval(-row.below, -row.below_high, -row.below_low)
            return f"{said}, and are shown to be worse than {best} alone, by {loss}."
        alike = f"the best single layer ({best}) is not shown to be worse"
        return f"{said}, and {alike} (difference {size})."

    def _of_single_layers(self) -> str:
        found, label = self.evidence(), self._label
        model, what = self.table.model.iloc[0], self._what
        score = with_interval(found.score, found.score_low, found.score_high)
        score = f"{METRICS[self.metric]} {score}"
        if self.metric != R2:
            score += f", {self._chance(found)}"
        n_fit = f"{found.n_fit} training images"
        if self.is_quick:
            n_fit += " (a first look, --quick)"
        if np.isnan(found.score_low):
            n_fit += f"; {no_interval(self.scale)}"
        if not found.is_shown:
            by_chance = f", {p_value(found.p_value)}" if np.isfinite(found.p_value) else ""
            return (
                f"No layer of {model} is shown to encode {what}; the best is "
                f"{label(found.peak)}: {score}{by_chance}; {n_fit}."
            )
        said = f"{model} encodes {what} best at {label(found.peak)} ({self._set(found)}): {score}"
        if np.isfinite(found.learned):
            gain = with_interval(found.learned, found.learned_low, found.learned_high)
            said += f", a gain over controls of {gain}"
            if not found.learned_low > 0:  # also where there is no interval
                said += ", which is not shown to be above 0"
        if found.peak == found.last:
            said += "; no layer was probed after it"
        elif found.fall_after is None:
            said += f"; no drop is shown after it ({p_value(found.fall_p_value)})"
        else:
            where = label(found.fall_after)
            if not found.fall_first == found.fall_after == found.fall_last:
                where += f" (95 %: {label(found.fall_first)} to {label(found.fall_last)})"
            last = number(found.last_score)
            said += f"; it drops after {where}, and {label(found.last)} has {last}"
        return f"{said}; {n_fit}.{self._with_refits(found)}"

    def _with_refits(self, found: Evidence) -> str:
        """The intervals that count the training images, in a sentence; nothing without them."""
        names = {
            "r2": "R²",
            "learned": "a gain over controls",
            "last_loss": f"a loss of {number(found.last_loss)} to {self._label(found.last)}",
        }
        said = [
            f"{name} {interval(*found.refits[key])}"
            for key, name in names.items()
            if key in found.refits
        ]
        return f" With other training images as well: {', '.join(said)}." if said else ""

    @property
    def _what(self) -> str:
        """The target in words."""
        target, known = self.targets[0], self._facts_of_targets
        if target == CLASS:
            return "the class of the object"
        return "object scale" if target in SIZES and len(known) < 2 else target

    @property
    def is_quick(self) -> bool:
        """Whether it is a first look, with few images and controls."""
        return bool(self.provenance.get("settings", {}).get("quick"))

    def _set(self, found: Evidence) -> str:
        """The confidence set in words, as a range if it has no gaps."""
        names, label = found.confidence_set, self._label
        candidates = self.table.iloc[self._candidates(MEAN)].layer.tolist()
        first, last = candidates.index(names[0]), candidates.index(names[-1])
        if len(names) == 1:
            return "95 % set: this layer alone"
        if last - first + 1 == len(names):
            return f"95 % set: {label(names[0])} to {label(names[-1])}"
        if len(names) <= 3:
            return f"95 % set: {', '.join(map(label, names))}"
        return f"95 % set: {len(names)} layers from {label(names[0])} to {label(names[-1])}"

    def _label(self, layer: str | None) -> str:
        """A layer with its alias, such as "logits (pre_softmax)"."""
        return next((point.label for point in self.points if point.layer == layer), str(layer))

    @property
    def _subsets(self) -> list[str]:
        return list(dict.fromkeys(self.table.subset))

    def _candidates(self, subset: str) -> np.ndarray:
        """Rows among which the peak is searched, in order of the layers."""
        rows = self._rows(subset, self.weights, "true", self.regressor, self.metric)
        if not len(rows):
            known = ", ".join(self._subsets)
            raise DataError(f"The curve has no subset {subset!r}. It has {known}.")
        inner = rows[(self.table.layer.iloc[rows] != SOFTMAX).to_numpy()]
        return inner if len(inner) else rows

    def _rows(
        self, subset: str, weights: str, target: str, regressor: str, metric: str
    ) -> np.ndarray:
        table = self.table
        wanted = (
            (table.subset == subset)
            & (table.weights == weights)
            & (table.target == target)
            & (table.regressor == regressor)
            & (table.metric == metric)
        )
        rows = np.flatnonzero(wanted)
        return rows[np.argsort(table.depth.to_numpy()[rows], kind="stable")]


def computed_line(provenance: Mapping[str, Any]) -> list[str]:
    """What computed the features and why, and how far int8 moved R²."""
    computed = provenance.get("computed", {})
    if "engine" not in computed:
        return []
    names = {"openvino": "OpenVINO", "torch": "PyTorch"}
    line = f"Computed by {names[computed['engine']]} in {computed['precision']}"
    if "engine_because" in computed:
        line += f" ({computed['engine_because']})"
    for stage, engine in computed.get("engines", {}).items():
        if engine != computed["engine"]:
            line += f"; {stage} by {names[engine]}, as OpenVINO could not compute it"
    if "int8_moved" in computed:
        line += (
            f"; compared with float32, R² changed by at most {abs(computed['int8_moved']):.3f} "
            f"({computed['int8_moved_at']}, {computed['int8_checked_on']} images)"
        )
    return [f"{line}."]


def image_table(image_set: ImageSet) -> pd.DataFrame:
    """One row per image: its file, its measure, and its box in pixels.

    `file` is empty for images in memory; `width` and `height` give the size of these. Further
    targets have a column each, `target_NAME` where another column has their name.
    """
    in_memory = [
        image.source.shape if isinstance(image.source, np.ndarray) else None
        for image in image_set.images
    ]
    boxes = np.full((len(image_set), 4), np.nan) if image_set.boxes is None else image_set.boxes
    columns = {
        "image": [image.name for image in image_set.images],
        "file": [image.place() for image in image_set.images],
        "subset": image_set.subset,
        "group": image_set.group,
        "measure": image_set.measure,
    }
    sizes = {
        **dict(zip(("left", "top", "right", "bottom"), boxes.T, strict=True)),
        "width": [shape[1] if shape else np.nan for shape in in_memory],
        "height": [shape[0] if shape else np.nan for shape in in_memory],
    }
    for each in image_set.more:
        name = each.name
        while name in {*columns, *sizes, "thumbnail"}:
            name = f"target_{name}"
        columns[name] = each.values
    return pd.DataFrame(columns | sizes)


def read_curve(folder: str | Path) -> Curve:
    """The curve that `Curve.save` wrote, with its draws.

    Raises:
        DataError: if the folder is no complete run of a probe, or of a newer version.
    """
    run = runs.read_run(folder)
    if not run.has("curve"):
        raise DataError(
            f"{str(folder)!r} holds no curve, because another command wrote it. Give the folder "
            "that `scalecut probe` wrote (--out)."
        )
    table = curve_of(run)
    try:
        draws = np.load(run.folder / "draws.npy", allow_pickle=False)
        points = tuple(ProbePoint.of_facts(point) for point in run.facts["points"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable draws.npy and points ({error}). Run the "
            "probe again."
        ) from error
    combined = run.table("combined", COMBINED) if run.has("combined") else None
    return Curve(table, draws, points, provenance=dict(run.facts), combined=combined)


def compare_curves(one: Curve, other: Curve, layers: tuple[str, str] | None = None) -> pd.DataFrame:
    """The score of one network minus that of another, paired by image.

    One row per target and subset that both have, with the columns `subset` to `measure` of
    `pairs.csv`, and `metric, score, other_score, p_value`.

    Args:
        layers: a layer of each, by name or alias; by default the peak of each, which is searched
            anew in every draw.

    Raises:
        DataError: if images, splits or regressor differ or are not stated, the curves have no
            target in common, or one has no such layer.
    """
    shared = [target for target in one.targets if target in other.targets]
    if not shared:
        raise DataError(
            f"The two runs have no target in common ({', '.join(one.targets)}; "
            f"{', '.join(other.targets)}). Probe both networks with the same --measure or --target."
        )
    pairs = [(one.of(target), other.of(target)) for target in shared]
    for pair in pairs:
        _check_paired(*pair)
    rows = [row for pair in pairs for row in paired_differences(*pair, layers or ("", ""))]
    return pd.DataFrame(rows).drop(columns="unpaired_because")


def paired_differences(
    one: Curve, other: Curve, layers: tuple[str, str] = ("", "")
) -> Iterator[dict[str, Any]]:
    """The difference of two curves of the same target, in every subset that both have.

    Where they are not paired, as that of independent samples, with the reason.

    Raises:
        DataError: if the regressors differ, or a curve has no such layer.
    """
    if one.regressor != other.regressor:
        raise DataError(
            f"One run has {one.regressor}, the other {other.regressor}, which cannot be compared. "
            "Probe both networks with the same --regressor."
        )
    apart, scale = unlike(one, other), one.scale
    for subset in one._subsets:
        if subset not in other._subsets:
            continue
        layer, score, draws = peak_or_layer(one, subset, layers[0])
        other_layer, other_score, other_draws = peak_or_layer(other, subset, layers[1])
        n = min(len(draws), len(other_draws))
        # draws of the same number may share images also where the runs are not paired
        other_draws = np.roll(other_draws[:n], n // 2 if apart else 0)
        n_groups = min(one.n_groups(subset), other.n_groups(subset))
        above = mirrored(score, draws[:n], scale, n_groups)
        above -= mirrored(other_score, other_draws, scale, n_groups)
        low, high, p = of_difference(score - other_score, above, n_groups, scale=scale)
        yield {
            "subset": subset,
            "layer": layer,
            "other_layer": other_layer,
            "r2": score if one.metric == R2 else np.nan,
            "other_r2": other_score if one.metric == R2 else np.nan,
            "difference": score - other_score,
            "difference_low": low,
            "difference_high": high,
            "measure": one.targets[0],
            "metric": one.metric,
            "score": score,
            "other_score": other_score,
            "p_value": p,
            "unpaired_because": apart[0] if apart else "",
        }


def peak_or_layer(
    curve: Curve, subset: str, layer: str = ""
) -> tuple[str, float, Float64[np.ndarray, " b"]]:
    """A layer, by default the peak, with its score and draws; the peak is searched in each draw.

    Raises:
        DataError: if the curve has no such subset or layer.
    """
    rows = curve._candidates(subset)
    table, draws = curve.table.iloc[rows], curve.draws[rows].astype(np.float64)
    if not layer:
        best = int(np.argmax(table.score.to_numpy()))
        return table.layer.iloc[best], float(table.score.iloc[best]), draws.max(axis=0)
    found = np.flatnonzero((table.layer == layer) | (table.alias == layer))
    if not len(found):
        raise DataError(
            f"The curve of {table.model.iloc[0]} has no layer {layer!r}. It has {len(table)}, from "
            f"{table.layer.iloc[0]!r} to {table.layer.iloc[-1]!r}."
        )
    return table.layer.iloc[found[0]], float(table.score.iloc[found[0]]), draws[found[0]]


def unlike(one: Curve, other: Curve) -> tuple[str, set[str], set[str]] | None:
    """Why two curves of one target are not paired, such as "other splits", and what each states."""
    for what, stated in (("images", _images_of), ("splits", _splits_of)):
        here, there = stated(one), stated(other)
        if not (here and there):
            return f"{what} that are not stated", here, there
        if not here & there:
            return f"other {what}", here, there
    return None


def _images_of(curve: Curve) -> set[str]:
    """Fingerprints of the images, with all targets and with this one alone; empty if not stated.

    Runs of earlier versions have the first one only, which of one target is the second one.
    """
    facts = curve.provenance.get("images", {})
    alone = facts.get("sha256_by_target", {}).get(curve.targets[0])
    return {name for name in (facts.get("sha256"), alone) if name}


def _splits_of(curve: Curve) -> set[str]:
    """What the splits follow from; empty if it is not stated."""
    drawn = curve.provenance.get("probe", {})
    if not {"repeats", "seed"} <= drawn.keys():
        return set()
    return {f"{drawn['repeats']} repeats, seed {drawn['seed']}"}


def _check_paired(one: Curve, other: Curve) -> None:
    apart = unlike(one, other)
    if apart is not None:
        why, *stated = apart
        here, there = (" or ".join(f"{name:.30}" for name in sorted(each)) for each in stated)
        raise DataError(
            f"The two runs have {why} ({here or 'none'}; {there or 'none'}), so they cannot be "
            "compared image by image. Probe both networks with the same --data, --subset, "
            "--measure, --fit, --repeats and --seed, or use `scalecut compare`, which also takes "
            "independent runs."
        )


MOST_FETCHED = 2000  # images that are read again for thumbnails


def _images(image_set: ImageSet) -> pd.DataFrame:
    """The table of the images, with a small JPEG of those that the page cannot read by itself.

    These are in memory, in shards, at addresses, or files that are shown by a rendering. What is
    not in memory is read again, and only if there are few: otherwise, the JPEG has no bytes.
    """
    table, small = image_table(image_set), list[bytes | None]()
    again = [image for image in image_set.images if not isinstance(image.source, np.ndarray)]
    is_few = sum(not _is_plain_file(image) for image in again) <= MOST_FETCHED
    for row, image in enumerate(image_set.images):
        small.append(None if _is_plain_file(image) else b"")
        if small[-1] is not None and (is_few or isinstance(image.source, np.ndarray)):
            with suppress(DataError):  # it can no longer be read
                pixels = image.decode()
                table.loc[row, ["width", "height"]] = pixels.size
                small[-1] = small_jpeg(pixels)
    return table.assign(thumbnail=pd.Series(small, dtype=object))


def _is_plain_file(image: Image) -> bool:
    """Whether a page can read it: a local file that is shown as it is stored."""
    return isinstance(image.source, Path) and image.rendering in (None, PLAIN)


def check_model(curve: Curve, folder: Path | None, model: str) -> None:
    """Raise unless the run is of this network."""
    probed = str(curve.table.model.iloc[0])
    if model != probed:
        raise ModelError(
            f"The run {str(folder)!r} is of {probed}, not of {model}. Give a run of {model}, or "
            f"the model {probed}."
        )
