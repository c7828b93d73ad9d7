"""Does the cut network do better where size matters? Ways to use a network, on the same patches.

Frozen: the pooled features of a layer, ridge regression on them (minutes on a processor). Each seed
draws the training tiles anew, with replacement, whole groups at a time; the penalty is chosen
inside the training part, by leaving groups out. Finetune: all weights are trained, as in
`graziani2021`; seeds are of the initialisation and the order. The test tiles stay in both.

Shapes: n patches, m to fit, k to test, d features, S seeds, T tiles, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float64

from ..data.images import Image, LeftOut
from ..errors import DataError, LayerError, check_names
from ..features.extract import Computation, Progress
from ..figures.drawing import page_figure
from ..figures.notebook import html_of
from ..figures.pathology import calibration_drawing
from ..networks.network import Network, tensors_sha256
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..networks.selection import chosen_points
from ..probing.curve import Curve
from ..stats.agreement import FEWEST, agreement
from . import comparison as verdict
from .finetune import Training
from .fits import Trial, Ways, frozen, task_of, trained
from .methods import NAMES, SWEEP, TUNED, Source, planned

TASKS = ("area", "magnification")
MODES = ("frozen", "finetune")
# unless others are named
CONTESTANTS = ("pretrained", "scratch", "cut", "cut-random", "all-layers")
COLUMNS = [
    "contestant", "layer", "task", "mode", "seed", "tile", "metric", "value", "n_train", "n_test",
]  # fmt: skip
ALL = "all"  # of the test tiles together
TENTHS = 10
R2 = ("r2", "r2_low", "r2_high")
COMPARED = ("pretrained", "scratch", "cut-random", "reset")  # what the cut is compared with
RICHER = ("up-to-cut", "all-layers", "tuned")  # what is compared with the cut


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Test scores of the contestants, and what they are evidence of."""

    table: pd.DataFrame  # the columns of COLUMNS
    differences: pd.DataFrame
    predictions: dict[str, Float64[np.ndarray, "S k"]]  # of the test patches
    held: verdict.Held
    layers: dict[str, str]  # of each contestant
    aliases: dict[str, str]  # of each layer, the paper's name or nothing
    patches: pd.DataFrame  # those tested on
    losses: pd.DataFrame  # of each epoch; empty if frozen
    configurations: pd.DataFrame  # that `tuned` chose among, scored on the training part
    left_out: tuple[LeftOut, ...] = ()
    layers_left_out: tuple[LeftOut, ...] = ()  # for missing weights; the whole ends before them
    provenance: dict[str, object] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row a contestant, seed, tile and metric, in the form of `transfer.csv`."""
        return self.table.copy()

    def summary(self) -> pd.DataFrame:
        """Mean and standard deviation over seeds, of all test tiles, a row a contestant."""
        whole = self.table[self.table.tile == ALL]
        by = whole.groupby(["contestant", "layer", "metric"], sort=False).value
        mean, spread = by.mean().unstack("metric"), by.std().unstack("metric")
        columns = {
            f"{metric}{end}": part[metric]
            for metric in verdict.METRICS
            for end, part in (("", mean), ("_sd", spread))
        }
        order = dict.fromkeys(zip(whole.contestant, whole.layer, strict=True))  # as named
        return pd.DataFrame(columns).loc[list(order)].reset_index()

    def _repr_html_(self) -> str:
        facts = {"transfer": asdict(self.trial), "layers": self.layers, "n_test": len(self.patches)}
        facts["n_tiles"] = self.patches.tile.nunique()
        figure = page_figure(calibration_drawing(self.calibration(), facts))
        return html_of(self.finding(), self.summary(), figure)

    @property
    def trial(self) -> Trial:
        trial = self.provenance["transfer"]
        assert isinstance(trial, Trial)
        return trial

    def recall(self) -> pd.DataFrame:
        """Share of each magnification's patches that come out as this one: mean over seeds, sd."""
        magnifications = np.unique(self.patches.magnification)
        rows = []
        for name, predicted in self.predictions.items():
            by_class = verdict.recall(predicted, self.held)
            spread = by_class.std(axis=0, ddof=1) if len(by_class) > 1 else np.nan * by_class[0]
            own = (name.split()[0], self.layers[name])
            rows += [
                (*own, *each)
                for each in zip(magnifications, by_class.mean(axis=0), spread, strict=True)
            ]
        columns = ["contestant", "layer", "magnification", "recall", "recall_sd"]
        return pd.DataFrame(rows, columns=columns)

    def finding(self) -> str:
        """What was found of the cut, in one sentence for each that it was compared with.

        In kappa; in the mean absolute error where there is but one magnification, and so no kappa.
        """
        table = self.differences
        known = table.loc[(table.contestant == "cut") & table.better.notna()]
        metric = "kappa" if (known.metric == "kappa").any() else "mae"
        rows = known.loc[known.metric == metric]
        if rows.empty:
            return "The cut was not compared with anything."
        return " ".join(
            verdict.sentence(verdict.Difference(*row), self.layers)
            for row in rows.itertuples(index=False, name=None)
        )

    def calibration(self) -> pd.DataFrame:
        """True and predicted value by groups of test patches, a row a contestant and group.

        A group is a magnification, or a tenth of the patches by their true area. Predictions are
        means over fits; `low` and `high` are their 10 % and 90 % quantiles in the group.
        """
        truth = self.held.truth
        if self.held.is_area:
            place = np.argsort(np.argsort(truth, kind="stable"), kind="stable")
            group = place * TENTHS // len(truth)
        else:
            group = self.held.classes
        rows = []
        for name, predicted in self.predictions.items():
            mean = predicted.mean(axis=0)
            for number in np.unique(group):
                own = mean[group == number]
                low, high = np.quantile(own, [0.1, 0.9])
                found = (truth[group == number].mean(), own.mean(), low, high, len(own))
                rows.append((name.split()[0], self.layers[name], number, *found))
        columns = ["contestant", "layer", "group", "truth", "predicted", "low", "high", "n_test"]
        return pd.DataFrame(rows, columns=columns)

    def sweep(self, curve: Curve | None = None) -> pd.DataFrame:
        """The score of every cut, a row a layer and metric, with the probe's R² if one is given.

        `low` and `high` are 95 % of bootstrap draws, of test tiles and fits. Empty without a sweep.
        """
        rows = []
        own = _scores(curve) if curve else pd.DataFrame()
        for metric, (layers, score, draws) in self._swept().items():
            sign = 1.0 if verdict.HIGHER_IS_BETTER[metric] else -1.0
            ends = np.sort(sign * np.nanquantile(draws, [0.025, 0.975], axis=1), axis=0).T
            for layer, value, (low, high) in zip(layers, sign * score, ends, strict=True):
                foretold = own.loc[layer, list(R2)] if layer in own.index else [np.nan] * 3
                rows.append((layer, self.aliases[layer], metric, value, low, high, *foretold))
        columns = ["layer", "alias", "metric", "value", "low", "high", *R2]
        return pd.DataFrame(rows, columns=columns)

    def agreement(self, curve: Curve) -> pd.DataFrame:
        """How far a probe's curve foretells the sweep, a row a metric (`agreement.Agreement`).

        R² is that of the curve's mean over subsets; layers are those that both have. Empty without
        a sweep of enough layers.
        """
        own, foretold = _scores(curve), curve.draws_of_layers()
        rows = []
        for metric, (layers, score, draws) in self._swept().items():
            both = [number for number, layer in enumerate(layers) if layer in foretold]
            names = [layers[number] for number in both]
            if len(names) < FEWEST:
                return pd.DataFrame()
            found = agreement(
                own.r2[names].to_numpy(),
                score[both],
                np.array([foretold[name] for name in names], dtype=np.float64),
                draws[both],
            )
            row = {"metric": metric, **asdict(found)}
            rows.append(row | {"best": names[found.best], "foretold": names[found.foretold]})
        return pd.DataFrame(rows)

    def _swept(self) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
        """Layers, scores (L,) and draws (L, b) by metric, turned so that higher is better."""
        every = {n: p for n, p in self.predictions.items() if n.startswith(f"{SWEEP} ")}
        found = {}
        for metric in verdict.METRICS if every else ():
            scores = verdict.bootstrap(every, self.held, np.random.default_rng(0), metric)
            values, draws = zip(*scores.values(), strict=True)
            found[metric] = ([self.layers[n] for n in every], np.array(values), np.array(draws))
        return found


def transfer(
    network: Network,
    patches: pd.DataFrame,
    folder: Path,
    *,
    layer: str | None = None,
    task: str = "area",
    mode: str = "frozen",
    contestants: Sequence[str] = CONTESTANTS,
    seeds: int = 10,
    seed: int = 0,
    log: bool = False,
    look: Computation | None = None,
    training: Training | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Compare ways to use a network on patches of known magnification and nucleus area.

    Args:
        patches: the table of `patches.cut_patches`.
        folder: where the patches lie.
        layer: where the network is cut; not needed without a contestant that is cut.
        task: `area`, mean nucleus area in px, or `magnification`, in octaves.
        mode: `frozen` fits to the parts train and validation, `finetune` to train alone.
        contestants: ways to use the network (`contestants.NAMES`).
        log: whether the area is regressed as its log2; metrics are of the area all the same.
        look: how patches are shown to the network.
        training: for `finetune`; its fits are kept in the cache, so a killed command goes on.

    Raises:
        DataError: if there is no test part of two tiles, no training part of two groups, a group
            in both, or the names are not known.
        LayerError: if a cut is asked for, but no layer given, or one that is not known.
    """
    asked = check_names(contestants, NAMES, "contestant")
    check_names(task, TASKS, "task")
    check_names(mode, MODES, "mode")
    trial = Trial(task, mode, seeds, seed, log)
    task_of(patches, trial)  # what is wrong with it is told before features take minutes
    readable, unreadable = chosen_points(network)
    points = [point for point in readable if point.layer not in (LOGITS, SOFTMAX)]
    cut = _point_of(points, layer)
    plan = planned(asked, points, cut)
    images = [Image(patch, folder / patch) for patch in patches.patch]
    source = Source(network, images, look or Computation(), cut, progress)
    training = training or Training()
    if mode == "frozen":
        ways = frozen(source, plan, patches, trial, points if TUNED in asked else ())
    else:
        if TUNED in asked:
            raise DataError(
                "tuned chooses among frozen features, which is for --mode frozen. Leave it out."
            )
        ways = trained(source, plan, patches, trial, training)
    return Transfer(
        _table(ways, mode),
        _differences(ways.predictions, ways.held, seed),
        ways.predictions,
        ways.held,
        ways.layers,
        {point.layer: point.alias for point in points},
        ways.patches.iloc[ways.task.test].reset_index(drop=True),
        ways.losses,
        ways.configurations,
        tuple(source.left_out),
        tuple(unreadable),
        _provenance(source, ways, trial, training),
    )


def _scores(curve: Curve) -> pd.DataFrame:
    """R² by layer, of the mean over subsets."""
    return curve.scores(regressor=curve.regressor).set_index("layer")


# --- inside --------------------------------------------------------------------------------------


def _provenance(source: Source, ways: Ways, trial: Trial, training: Training) -> dict[str, object]:
    network = source.network
    return {
        "transfer": trial,
        "training": training if trial.mode == "finetune" else None,
        "layers": ways.layers,
        "look": source.look,
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "n_patches": len(ways.patches),
    }


def _point_of(points: Sequence[ProbePoint], layer: str | None) -> ProbePoint | None:
    if layer is None:
        return None
    for point in points:
        if layer in (point.layer, point.alias):
            return point
    raise LayerError(
        f"No layer is named {layer!r} among those that can be read. `scalecut layers MODEL` prints "
        "them."
    )


def _table(ways: Ways, mode: str) -> pd.DataFrame:
    held, task = ways.held, ways.task
    tiles = np.unique(ways.patches.tile.iloc[task.test])
    n_of_tile = np.bincount(held.tiles)
    n_train = len(task.fitted) if mode == "frozen" else len(task.train)
    rows = []
    for name, predicted in ways.predictions.items():
        whole, by_tile = verdict.metrics(predicted, held), verdict.tile_metrics(predicted, held)
        for metric in verdict.METRICS:
            for number in range(len(predicted)):
                start = (name.split()[0], ways.layers[name], task.name, mode, number)
                rows.append((*start, ALL, metric, whole[metric][number], n_train, len(task.test)))
                rows += [
                    (*start, tile, metric, value, n_train, int(n))
                    for tile, value, n in zip(
                        tiles, by_tile[metric][number], n_of_tile, strict=True
                    )
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _differences(
    predictions: Mapping[str, Float64[np.ndarray, "S k"]], held: verdict.Held, seed: int
) -> pd.DataFrame:
    """The cut against each of the others, and richer features against it."""
    pairs = [("cut", name) for name in COMPARED if name in predictions]
    pairs += [(name, "cut") for name in RICHER if name in predictions]
    if "cut" not in predictions:
        pairs = []
    rows = []
    for metric in verdict.METRICS:
        rng = np.random.default_rng(seed)
        rows += [asdict(each) for each in verdict.compare(predictions, pairs, held, rng, metric)]
    return pd.DataFrame(rows, columns=[each.name for each in fields(verdict.Difference)])
