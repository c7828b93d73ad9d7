"""Does the cut network do better where size matters? Methods, compared on the same patches.

The test tiles are the same for all methods and fits. `methods` says what is fitted, `comparison`
how differences are judged.

Shapes: k test patches, S seeds, L layers, b bootstrap draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.figure import Figure
from torch import nn

from ..data.images import Image, ImageSet, LeftOut, Progress
from ..data.patches import AREA, RESOLUTION, check_files
from ..errors import DataError, LayerError
from ..features.cluster import computing
from ..features.extract import Computation, Stages, provenance
from ..figures import text
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..figures.pathology import calibration_drawing, sweep_drawing
from ..networks.load import load_network
from ..networks.network import Network
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..networks.selection import chosen_points
from ..probing.choose import choose_layer
from ..probing.controls import control_of
from ..probing.curve import Curve, check_model, computed_line, read_curve
from ..report.report import Result
from ..runs import read_run, settings_of
from ..stats.agreement import FEWEST, agreement
from . import comparison as compared
from .finetune import Training, check_training
from .methods import SWEEP, TUNED, Predicted, Source, Task, Trial, frozen, planned, task_of, trained
from .patches import Patches, patches_of

COLUMNS = [
    "contestant", "layer", "task", "mode", "seed", "tile", "metric", "value", "n_train", "n_test",
]  # fmt: skip
OF_DIFFERENCES = [each.name for each in fields(compared.Difference)]
ALL = "all"  # the test tiles together
TENTHS = 10
R2 = ("r2", "r2_low", "r2_high")
AGAINST = ("pretrained", "scratch", "cut-random", "reset")  # what the cut is compared with
RICHER = ("up-to-cut", "all-layers", "tuned")  # what is compared with the cut
OTHERS = (  # tables, by the names of the fields
    *("differences", "intervals", "recall", "calibration", "sweep", "agreement"),
    *("configurations", "losses"),
)
ONE_FIT = ("mae", "kappa", "kappa_of_tiles")  # shown with intervals, which need space
PRIMARY_PAIR = "cut", "pretrained"  # with matched blur, named in advance (docs/choices.md)
Scores: TypeAlias = Mapping[str, tuple[float, Float64[np.ndarray, " b"]]]  # `comparison.bootstrap`


@dataclass(frozen=True, slots=True)
class CutPoint:
    """Where the network is cut.

    Args:
        at: The layer to cut at, by name or alias.
        from_: The run of a probe. Its curve chooses the layer if --at names none, and a sweep is
            compared with it.
        rule: How --from chooses the layer; by default cheapest.
        target: The target of --from whose curve is used, where it has several.
    """

    at: str = ""
    from_: str | Path | Curve | None = None
    rule: Literal["cheapest", "peak"] | None = None
    target: str = ""

    def __post_init__(self) -> None:
        if self.rule and (self.at or not self.from_):
            raise DataError(
                "--rule chooses the layer by the curve of --from, and --at leaves nothing to "
                "choose. Give --from RUN without --at, or drop --rule."
            )
        if self.target and not self.from_:
            raise DataError("--target is one of --from. Give --from RUN, or drop --target.")


@dataclass(frozen=True, slots=True, eq=False)
class Transfer(Result):
    """Test scores of each method, and what they are evidence of."""

    table: pd.DataFrame  # the columns of COLUMNS
    differences: pd.DataFrame  # `comparison.Difference`, one row per pair and metric
    intervals: pd.DataFrame  # 95 % interval of each score, over patients and fits
    recall: pd.DataFrame  # by method and magnification
    calibration: pd.DataFrame  # true and predicted value by groups of test patches
    sweep: pd.DataFrame  # the score of every cut; empty without a sweep
    agreement: pd.DataFrame  # of the sweep with the curve of a probe; empty without either
    configurations: pd.DataFrame  # that `tuned` chose among, scored on the training part
    losses: pd.DataFrame  # of each epoch; empty if frozen
    images_left_out: tuple[LeftOut, ...] = ()
    layers_left_out: tuple[LeftOut, ...] = ()  # for missing weights; the network ends before them
    provenance: dict[str, Any] = field(default_factory=dict)
    predicted: Predicted | None = None  # a transfer that was read from a run has none
    image_set: ImageSet | None = None  # the patches that could be read; none as well

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name; those with rows."""
        others = {name: getattr(self, name) for name in OTHERS}
        every = {"transfer": self.table, "scores": self.scores(), **others}
        return {name: table for name, table in every.items() if len(table)}

    def scores(self) -> pd.DataFrame:
        """Mean and standard deviation over seeds, on all test tiles, one row per method."""
        every = self.table[self.table.tile == ALL]
        by = every.groupby(["contestant", "layer", "metric"], sort=False).value
        mean, spread = by.mean().unstack("metric"), by.std().unstack("metric")
        columns = {
            f"{metric}{end}": part[metric]
            for metric in compared.METRICS
            if metric in mean  # older runs lack some
            for end, part in (("", mean), ("_sd", spread))
        }
        order = dict.fromkeys(zip(every.contestant, every.layer, strict=True))  # as given
        return pd.DataFrame(columns).loc[list(order)].reset_index()

    def finding(self) -> str:
        """What was found about the cut, one sentence per method that it was compared with.

        In kappa; in the mean absolute error if there is one magnification only, and so no kappa.
        The primary comparison is first, after the difference that could be shown.
        """
        known = self.differences
        known = known.loc[(known.contestant == "cut") & known.better.notna()]
        metric = "kappa" if (known.metric == "kappa").any() else "mae"
        rows = known.loc[known.metric == metric].itertuples(index=False, name=None)
        every = [compared.Difference(*row) for row in rows]
        if not every:
            return "The cut was not compared with anything."
        said = {
            role: " ".join(
                compared.sentence(each, self.provenance["layers"])
                for each in every
                if each.role == role
            )
            for role in (compared.PRIMARY, compared.SECONDARY)
        }
        if not said[compared.PRIMARY]:
            return said[compared.SECONDARY] + self._only_secondary()
        secondary = f" Secondary: {said[compared.SECONDARY]}" * bool(said[compared.SECONDARY])
        return f"{self._power(every[0])} Primary: {said[compared.PRIMARY]}{secondary}"

    def _power(self, primary: compared.Difference) -> str:
        """The difference that can be shown, as a sentence."""
        unit = "kappa" if primary.metric == "kappa" else "mean absolute error"
        return (
            f"With {self.provenance['n_patients']} test patients, a difference of "
            f"{text.number(primary.detectable)} {unit} can be shown (power of 80 %)."
        )

    def _only_secondary(self) -> str:
        """Why no comparison is primary, as a sentence; nothing for runs of older versions."""
        is_unmatched = self.provenance["transfer"].get("blur_matched") is False
        return (
            " All of this is secondary: the blur is not matched, so sharpness alone may reveal the "
            "magnification (scalecut patches --match-blur)."
        ) * is_unmatched

    def plot(self) -> Figure:
        """The score of every cut if there is a sweep, else true against predicted values."""
        if len(self.sweep):
            return page_figure(sweep_drawing(self.sweep, self.facts()))
        return page_figure(calibration_drawing(self.calibration, self.facts()))

    def summary(self) -> dict[str, pd.DataFrame]:
        """The scores as mean ± standard deviation, and the correlation of a sweep with a curve.

        With one fit, some of them with their 95 % intervals over patients instead.
        """
        table, trial = self.scores(), self.provenance["transfer"]
        shown = pd.DataFrame({"method": table.contestant, "layer": table.layer})
        is_one = trial["seeds"] == 1 and len(self.intervals) > 0
        for metric in ONE_FIT if is_one else [each for each in compared.METRICS if each in table]:
            d = (1 if trial["task"] == "area" else 3) if metric == "mae" else 2
            pairs = zip(table[metric], table[f"{metric}_sd"], strict=True)
            column = f" {metric.replace('_', ' ')}"
            shown[column] = [f"{m:.{d}f} ± {s:.{d}f}" for m, s in pairs]
            if is_one:
                ends = self.intervals.loc[self.intervals.metric == metric]
                rows = zip(table[metric], ends.low, ends.high, strict=True)
                shown[column] = [f"{m:.{d}f} [{a:.{d}f}, {b:.{d}f}]" for m, a, b in rows]
        title = f"{self.provenance['model']}, {trial['task']}, {trial['mode']}"
        how = f"mean ± standard deviation of {trial['seeds']} fits"
        if is_one:
            how = f"with 95 % intervals over {self.provenance['n_patients']} patients"
            how = f"each patient held out once, {how}" if trial["leave_one_out"] else how
        tables = {f"{title}, {how}": shown}
        if len(self.agreement):
            tables["The probe's curve compared with the sweep"] = _agreement_shown(self.agreement)
        return tables

    def notes(self) -> list[str]:
        """How features were computed, where that was not by PyTorch."""
        return computed_line(self.provenance)

    def _repr_html_(self) -> str:
        return html_of(self.finding(), self.scores(), self.plot())

    def facts(self) -> dict[str, Any]:
        """Those of `run.json`."""
        return {
            **self.provenance,
            "finding": self.finding(),
            "agreement": self.agreement.to_dict("records"),
            "images_left_out": self.images_left_out,
            "layers_left_out": self.layers_left_out,
        }


def transfer(
    model: str | nn.Module | Network,
    data: str | Patches,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    trial: Trial = Trial(),
    cut: CutPoint = CutPoint(),
    training: Training = Training(),
    computation: Computation = Computation(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Transfer:
    """Compare the cut with the whole network on patches of tissue with measured nuclei.

    Args:
        model, weights, allow_partial, progress: As for `probe`.
        data: patches:DIR, a folder that `scalecut patches` wrote.
        trial: What is predicted, by which methods, and how often.
        cut: Where the network is cut.
        training: How all weights are trained, with mode finetune. Its fits are kept in the cache,
            and an interrupted command resumes.
        computation: How patches are shown to the network and computed.
        seed: random seed of the draws, bootstrap, initialisation and order.

    Returns:
        The scores of each method and their differences. Frozen methods are fitted to the parts
        train and validation (to all other patients, if each is held out once), finetuned ones to
        train alone. Metrics are of the area, even if its
        log2 is regressed.

    Raises:
        DataError: if the patches cannot be compared (`methods.task_of`), or options exclude each
            other.
        LayerError: if a method needs a layer to cut at, and none is given or it is not known, or
            a feature is not finite.
        ModelError: if the network is not known, or the curve is of another network.
    """
    settings = settings_of(locals())
    stages = Stages(progress)
    if trial.mode == "finetune" and (computation.engine == "openvino" or computation.cluster):
        raise DataError(
            "--engine openvino and --cluster compute frozen features. Drop them, or give --mode "
            "frozen."
        )
    if trial.mode == "frozen" and training != Training():
        raise DataError(
            "--epochs, --learning-rate, --patience, --keep-best and --raw-target train the "
            "network. Give --mode finetune, or drop them."
        )
    patches = patches_of(data, used=(*RESOLUTION, AREA))
    check_files(patches.table, patches.folder)
    task, _ = task_of(patches.table, trial)  # refuses patches before minutes of computation
    curve = cut.from_ if isinstance(cut.from_, Curve | None) else read_curve(cut.from_)
    curve = curve.of(cut.target) if curve else None
    with stages("network"):
        network = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
        network = computation.shown(network)
        if curve and not isinstance(cut.from_, Curve):
            check_model(curve, Path(cut.from_ or ""), network.name)
        readable, layers_left_out = chosen_points(network)
    points = [point for point in readable if point.layer not in (LOGITS, SOFTMAX)]
    layer = cut.at or (choose_layer(curve, cut.rule or "cheapest").layer if curve else "")
    at = point_of(points, layer) if layer else None
    plan = planned(trial.methods, points, at)
    images, table = _images(patches, task), patches.table
    if trial.mode == "finetune":
        check_training(training, computation.batch_size)
    stages.say(images, network)
    if network.weights.kind == "random":
        network = control_of(network, images, computation, seed)
    source = Source(network, images, computation, stages, at)
    with computing(computation.cluster) as stages.workers:
        if trial.mode == "frozen":
            candidates = points if TUNED in trial.methods else ()
            found = frozen(source, plan, table, trial, seed, candidates)
        else:
            found = trained(source, plan, table, trial, training, seed)
    is_matched = patches.blur is not None
    with stages("intervals"):
        tables = _tables(found, trial, seed, points, curve, is_matched)
    kept = _kept(images, source.left_out)
    facts = provenance(network, settings, stages, image_set=kept, checked=source.computed)
    own = _facts_of(found, trial, training, computation)
    own["transfer"] |= {"seed": seed, "blur_matched": is_matched}
    facts |= own
    return Transfer(
        **tables,
        images_left_out=tuple(source.left_out),
        layers_left_out=tuple(layers_left_out),
        provenance=facts,
        predicted=found,
        image_set=kept,
    )


def read_transfer(folder: str | Path) -> Transfer:
    """A transfer, as `Transfer.save` wrote it, without its predictions.

    Raises:
        DataError: if the folder is no complete run of a transfer, or one of a newer version.
    """
    run = read_run(folder, needed=("transfer", "layers"))
    left_out: dict[str, Any] = {
        name: tuple(LeftOut(**each) for each in run.facts.get(name, []))
        for name in ("images_left_out", "layers_left_out")
    }
    others: dict[str, Any] = {name: pd.DataFrame() for name in OTHERS}
    others["differences"] = pd.DataFrame(columns=OF_DIFFERENCES)
    others |= {name: run.table(name) for name in OTHERS if run.has(name)}
    if run.has("calibration"):
        others["calibration"] = others["calibration"].astype({"group": int})  # of patches
    table = run.table("transfer", COLUMNS)
    return Transfer(table, provenance=dict(run.facts), **others, **left_out)


def _tables(
    found: Predicted,
    trial: Trial,
    seed: int,
    points: Sequence[ProbePoint],
    curve: Curve | None,
    is_matched: bool,
) -> dict[str, pd.DataFrame]:
    """The tables of `Transfer`, by field."""
    scores = {
        metric: compared.bootstrap(found.predictions, found.held, np.random.default_rng(0), metric)
        for metric in compared.METRICS
    }
    swept = _swept(found, scores)
    return {
        "table": _table(found, trial),
        "differences": _differences(found, seed, is_matched),
        "intervals": _intervals(found, scores),
        "recall": _recall(found),
        "calibration": _calibration(found),
        "sweep": _sweep(swept, points, curve),
        "agreement": _agreement(swept, curve),
        "configurations": found.configurations,
        "losses": found.losses,
    }


def _kept(images: ImageSet, left_out: Sequence[LeftOut]) -> ImageSet:
    """The patches that could be read."""
    unreadable = {each.name for each in left_out}
    is_kept = np.array([image.name not in unreadable for image in images.images])
    return replace(images.rows(is_kept), left_out=tuple(left_out))


def _images(patches: Patches, task: Task) -> ImageSet:
    """The patches, each with the target and the patient."""
    table = patches.table
    images = tuple(Image(name, patches.folder / name) for name in table.patch)
    subset = ("patches",) * len(table)
    return ImageSet(images, task.regressed, task.name, subset, tuple(table.group))


def point_of(points: Sequence[ProbePoint], layer: str) -> ProbePoint:
    """The point of this name or alias."""
    found = next((point for point in points if layer in (point.layer, point.alias)), None)
    if found is None:
        raise LayerError(
            f"No layer is named {layer!r} among those that can be probed. `scalecut layers MODEL` "
            "prints them."
        )
    return found


def _facts_of(
    found: Predicted, trial: Trial, training: Training, computation: Computation
) -> dict[str, Any]:
    shown = ("task", "mode", "seeds", "log", "leave_one_out")
    of_trial = {name: getattr(trial, name) for name in shown}
    how = ("batch_size", "precision", "device")
    of_training = asdict(training) | {name: getattr(computation, name) for name in how}
    tested = found.patches.iloc[found.task.test]
    return {
        "training": of_training if trial.mode == "finetune" else None,
        "layers": found.layers,
        "look": computation,
        "n_patches": len(found.patches),
        "n_test": len(tested),
        "n_tiles": int(tested.tile.nunique()),
        "n_patients": int(tested.group.nunique()),
        "transfer": of_trial,
    }


def _table(found: Predicted, trial: Trial) -> pd.DataFrame:
    held, task = found.held, found.task
    tiles = np.unique(found.patches.tile.iloc[task.test])
    n_of_tile = np.bincount(held.tiles)
    n_train = len(task.fitted) if trial.mode == "frozen" else len(task.train)
    of_tile = np.full(len(tiles), n_train)
    if trial.leave_one_out:
        _, first = np.unique(held.tiles, return_index=True)
        of_tile = n_train - np.bincount(held.groups)[held.groups[first]]
        n_train = int(of_tile.min())
    rows = []
    for name, predicted in found.predictions.items():
        total, by_tile = compared.metrics(predicted, held), compared.tile_metrics(predicted, held)
        for metric in compared.METRICS:
            for number in range(len(predicted)):
                start = (name.split()[0], found.layers[name], task.name, trial.mode, number)
                rows.append((*start, ALL, metric, total[metric][number], n_train, len(task.test)))
                of_tiles = zip(tiles, by_tile[metric][number], of_tile, n_of_tile, strict=True)
                rows += [(*start, tile, metric, v, int(m), int(n)) for tile, v, m, n in of_tiles]
    return pd.DataFrame(rows, columns=COLUMNS)


def _differences(found: Predicted, seed: int, is_matched: bool) -> pd.DataFrame:
    """The cut against each of the others, and richer features against it.

    With matched blur, the cut against the whole network is the primary comparison, in kappa (in the
    mean absolute error, if there is one magnification). All others are secondary.
    """
    predictions, held = found.predictions, found.held
    pairs = [("cut", name) for name in AGAINST if name in predictions]
    pairs += [(name, "cut") for name in RICHER if name in predictions]
    primary = ("kappa" if held.centres.shape[-1] > 1 else "mae") if is_matched else ""
    rows = []
    for metric in compared.METRICS if "cut" in predictions and pairs else ():
        first = [pair for pair in pairs if metric == primary and pair == PRIMARY_PAIR]
        for each in compared.compare(predictions, first, held, np.random.default_rng(seed), metric):
            rng = np.random.default_rng(seed)
            shown = compared.detectable(predictions, PRIMARY_PAIR, held, rng, metric)
            rows.append(asdict(each) | {"role": compared.PRIMARY, "detectable": shown})
        others = [pair for pair in pairs if pair not in first]
        rng = np.random.default_rng(seed)
        found_here = compared.compare(predictions, others, held, rng, metric)
        rows += [asdict(each) for each in found_here]
    return pd.DataFrame(rows, columns=OF_DIFFERENCES)


def _ends(draws: Float64[np.ndarray, "*L b"]) -> Float64[np.ndarray, "2 *L"]:
    """The 95 % interval; NaN for the kappa of one magnification."""
    if np.isnan(draws).all():
        return np.full((2, *draws.shape[:-1]), np.nan)
    return np.nanquantile(draws, [0.025, 0.975], axis=-1)


def _intervals(found: Predicted, scores: Mapping[str, Scores]) -> pd.DataFrame:
    """The 95 % interval of each score, one row per method and metric."""
    rows = []
    for metric, of_methods in scores.items():
        for name, (value, draws) in of_methods.items():
            sign = compared.SIGNS[metric]
            low, high = _ends(sign * draws)
            rows.append((name.split()[0], found.layers[name], metric, sign * value, low, high))
    return pd.DataFrame(rows, columns=["contestant", "layer", "metric", "value", "low", "high"])


def _recall(found: Predicted) -> pd.DataFrame:
    """The recall of each magnification: mean and standard deviation over seeds."""
    there = np.unique(found.held.classes)  # of the training part, some may not be tested
    magnifications = np.unique(found.patches.magnification)[there]
    rows = []
    for name, predicted in found.predictions.items():
        by_class = compared.recall(predicted, found.held)
        spread = by_class.std(axis=0, ddof=1) if len(by_class) > 1 else np.nan * by_class[0]
        for each in zip(magnifications, by_class.mean(axis=0)[there], spread[there], strict=True):
            rows.append((name.split()[0], found.layers[name], *each))
    columns = ["contestant", "layer", "magnification", "recall", "recall_sd"]
    return pd.DataFrame(rows, columns=columns)


def _calibration(found: Predicted) -> pd.DataFrame:
    """True and predicted value by groups of test patches, one row per method and group.

    A group is a magnification, or a tenth of the patches by their true area. Predictions are means
    over fits; `low` and `high` are their 10 % and 90 % quantiles in the group.
    """
    truth = found.held.truth
    group = found.held.classes
    if found.held.is_area:
        place = np.argsort(np.argsort(truth, kind="stable"), kind="stable")
        group = place * TENTHS // len(truth)
    rows = []
    for name, predicted in found.predictions.items():
        mean = predicted.mean(axis=0)
        for number in np.unique(group):
            own = mean[group == number]
            low, high = np.quantile(own, [0.1, 0.9])
            values = (truth[group == number].mean(), own.mean(), low, high, len(own))
            rows.append((name.split()[0], found.layers[name], number, *values))
    columns = ["contestant", "layer", "group", "truth", "predicted", "low", "high", "n_test"]
    return pd.DataFrame(rows, columns=columns)


# --- the sweep, and the curve of a probe ---------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Swept:
    """The scores of every cut by one metric; higher is better."""

    layers: list[str]
    scores: Float64[np.ndarray, " L"]
    draws: Float64[np.ndarray, "L b"]  # bootstrap draws, of test tiles and fits


def _swept(found: Predicted, scores: Mapping[str, Scores]) -> dict[str, _Swept]:
    """By metric; empty without a sweep."""
    every = [name for name in found.predictions if name.startswith(f"{SWEEP} ")]
    layers = [found.layers[name] for name in every]
    swept = {}
    for metric, of_methods in scores.items() if every else ():
        values, draws = zip(*(of_methods[name] for name in every), strict=True)
        swept[metric] = _Swept(layers, np.array(values), np.array(draws))
    return swept


def _scores_of(curve: Curve) -> pd.DataFrame:
    """R² by layer, of the mean over subsets."""
    return curve.scores(regressor=curve.regressor).set_index("layer")


def _sweep(
    swept: Mapping[str, _Swept], points: Sequence[ProbePoint], curve: Curve | None
) -> pd.DataFrame:
    """The score of every cut, one row per layer and metric, with the R² of the probe if given.

    `low` and `high` are the 95 % interval of the bootstrap draws.
    """
    alias = {point.layer: point.alias for point in points}
    probed = _scores_of(curve) if curve else pd.DataFrame()
    rows = []
    for metric, every in swept.items():
        sign = compared.SIGNS[metric]
        ends = _ends(sign * every.draws).T
        for layer, value, (low, high) in zip(every.layers, sign * every.scores, ends, strict=True):
            r2 = probed.loc[layer, list(R2)] if layer in probed.index else [np.nan] * 3
            rows.append((layer, alias[layer], metric, value, low, high, *r2))
    columns = ["layer", "alias", "metric", "value", "low", "high", *R2]
    return pd.DataFrame(rows, columns=columns)


def _agreement(swept: Mapping[str, _Swept], curve: Curve | None) -> pd.DataFrame:
    """How far the curve of a probe predicts the sweep, one row per metric (`agreement.Agreement`).

    R² is that of the mean over subsets; layers are those that both have. Empty if these are few.
    """
    if curve is None:
        return pd.DataFrame()
    probed, draws = _scores_of(curve), curve.draws_of_layers()
    rows = []
    for metric, every in swept.items():
        both = [number for number, layer in enumerate(every.layers) if layer in draws]
        names = [every.layers[number] for number in both]
        if len(names) < FEWEST:
            return pd.DataFrame()
        found = agreement(
            probed.score[names].to_numpy(),
            every.scores[both],
            np.array([draws[name] for name in names], dtype=np.float64),
            every.draws[both],
        )
        numbers = ("rho", "low", "high", "rho_depth", "regret", "regret_last")
        chosen = {"best": names[found.best], "foretold": names[found.predicted]}
        own = {"metric": metric} | {name: getattr(found, name) for name in numbers} | chosen
        rows.append(own | {"n_layers": found.n_layers})
    return pd.DataFrame(rows)


def _agreement_shown(agreed: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over the layers, of R² and of depth alone, and the loss of each choice."""
    return pd.DataFrame(
        {
            "metric": agreed.metric.str.replace("_", " "),
            " rank correlation [95 %]": [
                *map(text.with_interval, agreed.rho, agreed.low, agreed.high)
            ],
            " of depth": agreed.rho_depth.map(text.number),
            "best": agreed.best,
            "of the curve": agreed.foretold,
            " loses": agreed.regret.map(text.number),
            " last loses": agreed.regret_last.map(text.number),
        }
    )
