"""The curve: R² by layer, with its controls, and what it is evidence of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64
from matplotlib.figure import Figure

from .. import runs
from ..data.images import MEAN, Image, ImageSet, LeftOut
from ..data.storage import Stored
from ..data.thumbnails import thumbnail
from ..errors import DataError, ModelError
from ..figures.curve import curve_drawing
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..networks.points import SOFTMAX, ProbePoint
from ..report.report import save
from ..stats.inference import Fall, Peak, fall, interval, peak
from .scores import Scores

ALPHA = 0.05  # p-values up to this one show something

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
    "n_fit",
    "r2_spread",
    "learned",
    "learned_low",
    "learned_high",
]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a curve shows of one subset: where scale is told best, and where it is lost.

    Args:
        peak: the layer of the highest R².
        confidence_set: layers not shown to be worse than the best, the truly best among them in 95
            of 100 cases.
        fall_after: the last layer before the fall behind the peak; None if no fall is shown.
        fall_first, fall_last: its 95 % interval.
        fall: best R² still to come, mean from the peak to there less mean behind.
        n_fit: images that each regression was fitted to; with others the curve would be another.
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

    @property
    def is_shown(self) -> bool:
        """Whether any layer is shown to carry scale: by its p-value, else by its interval."""
        return self.p_value <= ALPHA if np.isfinite(self.p_value) else self.r2_low > 0


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """R² by layer, with its controls, and what it was computed from."""

    table: pd.DataFrame  # one row per combination, the columns of COLUMNS
    draws: Float32[np.ndarray, "s b"]  # bootstrap draws of R², in the order of the rows
    points: tuple[ProbePoint, ...] = ()
    layers_left_out: tuple[LeftOut, ...] = ()
    images_left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)
    fewer: tuple["Curve", ...] = ()  # with fewer images to fit, fewest first
    image_set: ImageSet | None = None  # a curve that was read from a run has none
    predicted: Float64[np.ndarray, "L n"] | None = None  # of each image, while it was held out

    @classmethod
    def of(
        cls,
        scores: Scores,
        fewer: Sequence[Scores],
        names: Mapping[str, str],
        points: tuple[ProbePoint, ...],
        layers_left_out: tuple[LeftOut, ...],
        images_left_out: tuple[LeftOut, ...],
        provenance: dict[str, object],
        image_set: ImageSet,
    ) -> "Curve":
        """A curve from its scores; `names` are the model and the measure."""
        tables = [
            pd.DataFrame(each.table.assign(**names), columns=COLUMNS) for each in (scores, *fewer)
        ]
        return cls(
            tables[0],
            scores.draws,
            points,
            layers_left_out,
            images_left_out,
            provenance,
            tuple(cls(t, s.draws, points) for t, s in zip(tables[1:], fewer, strict=True)),
            image_set,
            scores.predicted,
        )

    def to_frame(self) -> pd.DataFrame:
        """The curve as a table, in the form of `curve.csv`."""
        return self.table.copy()

    def predictions(self) -> pd.DataFrame:
        """The measure of each image as it is and as each layer tells it, while it was held out.

        It is told by the network itself and the main regressor, the mean over the repeats; nan
        where an image never was held out. Images stand in the same order for every layer.

        Raises:
            DataError: if the curve was read from a run, which has them in `predictions.parquet`.
        """
        if self.image_set is None or self.predicted is None:
            raise DataError(
                "This curve has no predictions, because it was read from a run. Read them with "
                "pandas.read_parquet(RUN / 'predictions.parquet')."
            )
        images = image_table(self.image_set)[["image", "subset", "group", "measure"]]
        tables = [
            images.assign(layer=point.layer, predicted=row)
            for point, row in zip(self.points, self.predicted, strict=True)
        ]
        return pd.concat(tables, ignore_index=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        subsets = list(dict.fromkeys(self.table.subset))
        differences = pd.concat([self.differences(s) for s in subsets], ignore_index=True)
        tables = {"curve": self.to_frame(), "differences": differences}
        return tables | ({"learning": self.learning()} if self.fewer else {})

    def save(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the run folder: tables, draws for paired comparisons, figures and page.

        Raises:
            OutputError: if `folder` exists and holds no run, or cannot be written.
        """
        subsets = list(dict.fromkeys(self.table.subset))
        facts = {
            **self.provenance,
            "finding": self.finding(),
            "evidence": {subset: self.evidence(subset) for subset in subsets},
            "evidence_with_fewer_to_fit": [each.evidence() for each in self.fewer],
            "points": self.points,
            "layers_left_out": self.layers_left_out,
            "images_left_out": self.images_left_out,
        }
        return save(self.tables(), facts, folder, command=command, write=self._write_images)

    def _write_images(self, folder: Path) -> None:
        """The draws, and where the images are known, them and their predictions."""
        np.save(folder / "draws.npy", self.draws)
        if self.image_set is not None:
            self.predictions().to_parquet(folder / "predictions.parquet", index=False)
            _images(self.image_set).to_parquet(folder / "images.parquet", index=False)

    def summary(self) -> dict[str, pd.DataFrame]:
        """The mean over subsets, one row per layer, in at most 80 characters."""
        main = self.regressor
        own = self.scores(regressor=main).set_index("layer")
        label = {point.layer: point.label for point in self.points}
        columns: dict[str, list[str]] = {
            "layer": [label.get(layer, layer) for layer in own.index],
            " d": [str(n) for n in own.n_features],
            f" {main} [95 %]": _with_interval(own, "r2"),
        }
        if own.learned.notna().any():
            columns[" gain [95 %]"] = _with_interval(own, "learned")
        of_random = self.scores(weights="random", regressor=main)
        if self.weights != "random" and len(of_random):
            columns[" random"] = [score_text(value) for value in of_random.r2]
        ols = self.scores(regressor="ols")
        if main != "ols" and len(ols):
            columns[" ols"] = [score_text(value) for value in ols.r2]
        first, subsets = own.iloc[0], ", ".join(sorted(set(self.table.subset) - {MEAN}))
        title = f"R² of {first.measure}, {first.model}, {first.n_images} images ({subsets})"
        return {title: pd.DataFrame(columns)}

    def notes(self) -> list[str]:
        """What the controls show, how features were computed, and the learning curve."""
        said, regressor = [], self.regressor
        pixels = self.scores(weights="pixels", regressor=regressor)
        if len(pixels):
            said.append(f"pixels alone {score_text(pixels.r2.iloc[0])}")
        shuffled = self.scores(target="shuffled", regressor=regressor)
        if len(shuffled):
            low, high = score_text(shuffled.r2.min()), score_text(shuffled.r2.max())
            said.append(f"shuffled target {low} to {high}")
        own = self.scores(regressor=regressor)
        if own.p_value.notna().any():
            n = int((own.p_value <= ALPHA).sum())
            said.append(f"p ≤ {ALPHA:g} (corrected over layers) at {n} of {len(own)} layers")
        lines = [f"Controls: {'; '.join(said) or 'none'}."]
        computed = self.provenance.get("computed")
        if isinstance(computed, dict) and computed.get("engine") == "openvino":
            line = f"Computed by OpenVINO in {computed['precision']}"
            if "int8_moved" in computed:
                line += (
                    f"; compared with float32, R² changed by at most "
                    f"{abs(computed['int8_moved']):.3f} ({computed['int8_moved_at']}, "
                    f"{computed['int8_checked_on']} images)"
                )
            lines.append(f"{line}.")
        settings = self.provenance.get("settings")
        if isinstance(settings, dict) and settings.get("learning_curve") and not self.fewer:
            lines.append("No learning curve: half of the training images would be too few.")
        return [*lines, *self.learning_lines()]

    def plot(self, subset: str = MEAN) -> Figure:
        """The curve with its band and controls."""
        return page_figure(curve_drawing(self.table, subset=subset))

    def _repr_html_(self) -> str:
        shown = ["layer", "alias", "n_features", "r2", "r2_low", "r2_high", "learned", "p_value"]
        table = self.scores(regressor=self.regressor).reindex(columns=shown)
        return html_of(self.finding(), table.dropna(axis="columns", how="all"), self.plot())

    def learning(self) -> pd.DataFrame:
        """The rows of the network itself by `n_fit`, with as few images as were tried up to all."""
        is_own = (self.table.weights == self.weights) & (self.table.target == "true")
        tables = [*(each.table for each in self.fewer), self.table.loc[is_own]]
        return pd.concat(tables, ignore_index=True)

    @property
    def weights(self) -> str:
        """What the curve is of: `pretrained`, or `random` if the network was asked for so."""
        return "pretrained" if (self.table.weights == "pretrained").any() else "random"

    @property
    def regressor(self) -> str:
        """The one that findings are stated for."""
        return "ridge" if (self.table.regressor == "ridge").any() else "ols"

    def scores(
        self,
        *,
        subset: str = MEAN,
        weights: str | None = None,
        target: str = "true",
        regressor: str = "ridge",
    ) -> pd.DataFrame:
        """The rows of one line of the curve, in order of the layers."""
        rows = self._rows(subset, weights or self.weights, target, regressor)
        return self.table.iloc[rows].reset_index(drop=True)

    def draws_of_layers(self, subset: str = MEAN) -> dict[str, Float32[np.ndarray, " b"]]:
        """Bootstrap draws of R² by layer, of the network's own weights and the main regressor."""
        rows = self._rows(subset, self.weights, "true", self.regressor)
        return dict(zip(self.table.layer.iloc[rows], self.draws[rows], strict=True))

    def evidence(self, subset: str = MEAN) -> Evidence:
        """The peak with its confidence set, what is learned there, and the fall behind it.

        The softmax is no candidate: it squeezes the logits into probabilities, on which no linear
        reading of an area is to be expected.
        """
        rows = self._candidates(subset)
        table, draws = self.table.iloc[rows], self.draws[rows].T.astype(np.float64)
        r2 = table.r2.to_numpy()
        best, lost = _peak_and_fall(r2, draws)
        names = table.layer.tolist()
        top = table.iloc[best.at]
        loss = r2[best.at] - r2[-1]
        loss_low, loss_high = interval(loss, draws[:, best.at] - draws[:, -1], most=np.inf)
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
            fall=lost.drop,
            fall_low=lost.low,
            fall_high=lost.high,
            fall_p_value=lost.p_value,
            last=names[-1],
            last_r2=float(r2[-1]),
            last_loss=float(loss),
            last_loss_low=float(loss_low),
            last_loss_high=float(loss_high),
            n_fit=int(top.n_fit),
        )

    def differences(self, subset: str = MEAN) -> pd.DataFrame:
        """R² of the peak less that of every layer, paired, with 95 % intervals."""
        rows = self._candidates(subset)
        table, draws = self.table.iloc[rows], self.draws[rows].astype(np.float64)
        r2 = table.r2.to_numpy()
        best, _ = _peak_and_fall(r2, draws.T)
        lost = r2[best.at] - r2
        low, high = interval(lost, (draws[best.at] - draws).T, most=np.inf)
        names = ["subset", "layer", "alias", "depth", "r2"]
        return table[names].assign(
            below_peak=lost,
            below_peak_low=low,
            below_peak_high=high,
            is_in_confidence_set=np.isin(np.arange(len(r2)), best.confidence_set),
        )

    def learning_lines(self) -> list[str]:
        """Peak and fall by the number of images to fit, a line each; none without a learning curve.

        A curve holds for the n that it was fitted to: with fewer images wide layers lose most.
        """
        return [each.peak_and_fall() for each in (*self.fewer, self)] if self.fewer else []

    def peak_and_fall(self) -> str:
        """Where scale is told best and where it is lost, for the images to fit that there were."""
        found = self.evidence()
        label = {point.layer: point.label for point in self.points}
        lost = "no fall shown"
        if found.fall_after is not None:
            lost = f"falls by {found.fall:.2f} after {label[found.fall_after]}"
        return (
            f"{found.n_fit:>5} to fit: R² {found.r2:.2f} at {label[found.peak]}, {lost}, "
            f"{found.last_r2:.2f} at {label[found.last]}"
        )

    def finding(self) -> str:
        """What was found, in one sentence."""
        found = self.evidence()
        label = {point.layer: point.label for point in self.points}
        first = self.table.iloc[0]
        if not found.is_shown:
            by_chance = f", p = {found.p_value:.2g}" if np.isfinite(found.p_value) else ""
            return (
                f"No layer of {first.model} is shown to carry the object's scale; the best is "
                f"{label[found.peak]}: R² {_two(found.r2)} [{_two(found.r2_low)}, "
                f"{_two(found.r2_high)}]{by_chance}; {found.n_fit} images to fit."
            )
        candidates = self.table.iloc[self._candidates(MEAN)].layer.tolist()
        said = (
            f"{first.model} carries the object's scale best at {label[found.peak]} "
            f"({_set_in_words(found, candidates, label)}): "
            f"R² {_two(found.r2)} [{_two(found.r2_low)}, {_two(found.r2_high)}]"
        )
        if np.isfinite(found.learned):
            low, high = _two(found.learned_low), _two(found.learned_high)
            said += f", of which {_two(found.learned)} [{low}, {high}] is learned"
            if found.learned_low <= 0:
                said = said.replace(" is learned", " would be learned, which is not shown")
        if found.peak == found.last:
            said += "; no layer was read after it"
        elif found.fall_after is None:
            said += f"; no fall is shown after it (p = {found.fall_p_value:.2g})"
        else:
            where = label[found.fall_after]
            if not found.fall_first == found.fall_after == found.fall_last:
                where += f" (95 %: {label[str(found.fall_first)]} to {label[str(found.fall_last)]})"
            said += f"; it falls after {where}, and {label[found.last]} has {_two(found.last_r2)}"
        return f"{said}; {found.n_fit} images to fit."

    def _candidates(self, subset: str) -> np.ndarray:
        """Rows in which a peak is looked for, in order of the layers."""
        rows = self._rows(subset, self.weights, "true", self.regressor)
        if not len(rows):
            raise DataError(
                f"The curve has no subset {subset!r}. It has "
                f"{', '.join(dict.fromkeys(self.table.subset))}."
            )
        inner = rows[(self.table.layer.iloc[rows] != SOFTMAX).to_numpy()]
        return inner if len(inner) else rows

    def _rows(self, subset: str, weights: str, target: str, regressor: str) -> np.ndarray:
        table = self.table
        wanted = (
            (table.subset == subset)
            & (table.weights == weights)
            & (table.target == target)
            & (table.regressor == regressor)
        )
        rows = np.flatnonzero(wanted)
        return rows[np.argsort(table.depth.to_numpy()[rows], kind="stable")]


def image_table(image_set: ImageSet) -> pd.DataFrame:
    """The images row by row: where they lie, what is regressed, and the box in pixels.

    `file` is empty for a picture in memory, whose sides `width` and `height` tell.
    """
    in_memory = [
        image.source.shape if isinstance(image.source, np.ndarray) else None
        for image in image_set.images
    ]
    boxes = np.full((len(image_set), 4), np.nan) if image_set.boxes is None else image_set.boxes
    return pd.DataFrame(
        {
            "image": [image.name for image in image_set.images],
            "file": [image.place() for image in image_set.images],
            "subset": image_set.subset,
            "group": image_set.group,
            "measure": image_set.measure,
            **dict(zip(("left", "top", "right", "bottom"), boxes.T, strict=True)),
            "width": [shape[1] if shape else np.nan for shape in in_memory],
            "height": [shape[0] if shape else np.nan for shape in in_memory],
        }
    )


def read_curve(folder: str | Path) -> Curve:
    """A curve with its draws, as `Curve.save` wrote it.

    Raises:
        DataError: if the folder is no complete run of a probe, or one of a newer version.
    """
    run = runs.read_run(folder)
    if not run.has("curve"):
        raise DataError(
            f"{str(folder)!r} holds no curve, as it was written by another command. Give the "
            "folder that `scalecut probe` wrote (--out)."
        )
    table = run.table("curve", COLUMNS)
    try:
        draws = np.load(run.folder / "draws.npy", allow_pickle=False)
        points = tuple(ProbePoint(**point) for point in run.facts["points"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The run {str(folder)!r} has no readable draws.npy and points ({error}). Run the "
            "probe again."
        ) from error
    return Curve(table, draws, points, provenance=dict(run.facts))


def compare_curves(one: Curve, other: Curve, layers: tuple[str, str] | None = None) -> pd.DataFrame:
    """R² of one network less that of another, subset by subset, paired image by image.

    Args:
        layers: a layer of each, by name or alias; the peak of each by default, which is then
            looked for anew in every draw.

    Raises:
        DataError: if the curves are not of the same images, splits and regressor.
    """
    _check_paired(one, other)
    if one.regressor != other.regressor:
        raise DataError(
            f"One run has {one.regressor}, the other {other.regressor}, which cannot be compared. "
            "Probe both networks with the same --regressor."
        )
    rows: list[dict[str, Any]] = []
    for subset in dict.fromkeys(one.table.subset):
        sides = [
            _side(curve, subset, layer)
            for curve, layer in zip((one, other), layers or ("", ""), strict=True)
        ]
        (name, r2, draws), (other_name, other_r2, other_draws) = sides
        low, high = interval(r2 - other_r2, draws - other_draws, most=np.inf)
        rows.append(
            {
                "subset": subset,
                "layer": name,
                "other_layer": other_name,
                "r2": r2,
                "other_r2": other_r2,
                "difference": r2 - other_r2,
                "difference_low": float(low),
                "difference_high": float(high),
            }
        )
    return pd.DataFrame(rows)


def _side(curve: Curve, subset: str, layer: str) -> tuple[str, float, np.ndarray]:
    rows = curve._candidates(subset)
    table, draws = curve.table.iloc[rows], curve.draws[rows].astype(np.float64)
    if not layer:
        best = int(np.argmax(table.r2.to_numpy()))
        return table.layer.iloc[best], float(table.r2.iloc[best]), draws.max(axis=0)
    found = np.flatnonzero((table.layer == layer) | (table.alias == layer))
    if not len(found):
        raise DataError(
            f"The curve of {table.model.iloc[0]} has no layer {layer!r}. It has {len(table)}, from "
            f"{table.layer.iloc[0]!r} to {table.layer.iloc[-1]!r}."
        )
    return table.layer.iloc[found[0]], float(table.r2.iloc[found[0]]), draws[found[0]]


def _check_paired(one: Curve, other: Curve) -> None:
    for what, key in (("images", "images"), ("splits", "probe")):
        keys = ("sha256",) if key == "images" else ("repeats", "seed")
        here, there = ({k: _entry(c, key).get(k) for k in keys} for c in (one, other))
        if here != there:
            raise DataError(
                f"The two runs are not of the same {what} ({here} and {there}), so they cannot be "
                "compared image by image. Probe both networks with the same --data, --subset, "
                "--measure, --fit, --repeats and --seed."
            )


def _entry(curve: Curve, key: str) -> dict[str, Any]:
    found = curve.provenance.get(key)
    return found if isinstance(found, dict) else {}


def score_text(value: float) -> str:
    """A score for a table: two decimals, none where it is far off, a dash where it is unknown."""
    if pd.isna(value):
        return "–"
    shown = f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return "0.00" if shown == "-0.00" else shown


def _with_interval(rows: pd.DataFrame, name: str) -> list[str]:
    return [
        f"{score_text(row[name])} [{score_text(row[f'{name}_low'])}, "
        f"{score_text(row[f'{name}_high'])}]"
        for row in rows.to_dict("records")
    ]


def _two(value: float) -> str:
    """Two decimals, zero without a sign."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def _peak_and_fall(r2: np.ndarray, draws: np.ndarray) -> tuple[Peak, Fall]:
    return peak(r2, draws), fall(r2, draws)


def _set_in_words(found: Evidence, candidates: Sequence[str], label: Mapping[str, str]) -> str:
    """The confidence set as a range where it is one."""
    names = found.confidence_set
    first, last = candidates.index(names[0]), candidates.index(names[-1])
    if len(names) == 1:
        return "the 95 % set is this layer alone"
    if last - first + 1 == len(names):
        return f"95 % set: {label[names[0]]} to {label[names[-1]]}"
    if len(names) <= 3:
        return f"95 % set: {', '.join(label[name] for name in names)}"
    return f"95 % set: {len(names)} layers from {label[names[0]]} to {label[names[-1]]}"


MOST_FETCHED = 2000  # pictures that are read once more, for the page


def _images(image_set: ImageSet) -> pd.DataFrame:
    """The table of the images, with a small JPEG of those that are in no local file.

    Of pictures in shards or at addresses only if they are few, since each is read once more.
    """
    n_stored = sum(isinstance(image.source, Stored) for image in image_set.images)
    kinds = (np.ndarray, Stored) if n_stored <= MOST_FETCHED else (np.ndarray,)
    small = [
        _small(image) if isinstance(image.source, kinds) else None for image in image_set.images
    ]
    return image_table(image_set).assign(thumbnail=pd.Series(small, dtype=object))


def _small(image: Image) -> bytes | None:
    """A thumbnail; none where the picture can no longer be read."""
    try:
        return thumbnail(image)
    except DataError:
        return None


def check_model(curve: Curve, folder: Path | None, model: str) -> None:
    """Refuse a run of another network than the one that it is used for."""
    probed = str(curve.table.model.iloc[0])
    if model != probed:
        raise ModelError(
            f"The run {str(folder)!r} is of {probed}, not of {model}. Give a run of this network, "
            f"or name {probed}."
        )
