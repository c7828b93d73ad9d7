"""What each contestant predicts of the test patches: a fit a seed, frozen or with all its weights.

Frozen: ridge on the pooled features of a layer. Each seed draws the training tiles anew, with
replacement, whole groups at a time; the penalty is chosen inside them, by leaving groups out.
Finetune: all weights are trained (`finetune`); seeds are of the initialisation and the order.

Shapes: n patches, m to fit, k to test, d features, S seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64
from threadpoolctl import threadpool_limits

from .. import cache
from ..errors import DataError
from ..networks.points import ProbePoint
from ..probing.scores import n_processors
from ..stats.ridge import decompose, left_group_out, nested_ridge
from . import comparison as verdict
from .finetune import Fit, Parts, Training, finetuned
from .methods import SWEEP, TUNED, Contestant, Source, planned
from .tiles import PARTS

PAPER_SEEDS = (1001, 1003, 1005, 1006, 1008, 2009, 2020, 994, 747, 1456)  # of `graziani2021`


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked: the task and its repeats."""

    task: str = "area"
    mode: str = "frozen"
    seeds: int = 10
    seed: int = 0
    log: bool = False  # regress log2 of the area


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is regressed, and which patches are fitted to, validated on and tested on."""

    name: str
    target: Float64[np.ndarray, " n"]
    groups: Int64[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]
    train: Int64[np.ndarray, " m"]
    validation: Int64[np.ndarray, " v"]
    test: Int64[np.ndarray, " k"]
    log: bool

    @property
    def regressed(self) -> Float64[np.ndarray, " n"]:
        return np.log2(self.target) if self.log else self.target

    def undone(self, predicted: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        return np.exp2(predicted) if self.log else predicted

    @property
    def fitted(self) -> Int64[np.ndarray, " f"]:
        """To train and to validate: all that is not for the test."""
        return np.sort(np.concatenate([self.train, self.validation]))

    def draws(self, trial: Trial) -> Iterator[Int64[np.ndarray, " r"]]:
        """Rows to fit to, a training set a seed: as many groups, drawn with replacement."""
        names = np.unique(self.groups[self.fitted])
        rows = {name: self.fitted[self.groups[self.fitted] == name] for name in names}
        for number in range(trial.seeds):
            rng = np.random.default_rng([trial.seed, number])
            while True:
                drawn = rng.choice(names, size=len(names))
                if len(set(drawn)) > 1:  # with one group alone no penalty can be chosen
                    break
            yield np.concatenate([rows[name] for name in drawn])


def task_of(table: pd.DataFrame, trial: Trial) -> tuple[Task, verdict.Held]:
    """What is regressed on which rows, and what the test is compared by."""
    is_test = (table.split == "test").to_numpy()
    if not is_test.any() or is_test.all():
        raise DataError(
            f"The patches have {int(is_test.sum())} of {len(table)} in the test part. Cut patches "
            "with a split that leaves tiles for both."
        )
    groups = np.unique(table.group, return_inverse=True)[1].astype(np.int64)
    if len(set(groups[~is_test])) < 2:
        raise DataError("The training part is of one group. Give tiles of two or more patients.")
    both = table.group[is_test & table.group.isin(table.group[~is_test]).to_numpy()]
    if len(both):
        raise DataError(
            f"{both.iloc[0]} is in the training part and in the test part. Cut patches anew, with "
            "a split by patient."
        )
    octaves = np.log2(table.magnification.to_numpy(dtype=np.float64))
    target = table.mean_area_px.to_numpy(dtype=np.float64) if trial.task == "area" else octaves
    magnifications, classes = np.unique(table.magnification, return_inverse=True)
    absent = set(range(len(magnifications))) - set(classes[~is_test])
    if absent:
        raise DataError(
            f"No training patch has the magnification {magnifications[min(absent)]:g}. Cut patches "
            "with other --magnifications, or more tiles."
        )
    centres = [target[~is_test & (classes == k)].mean() for k in range(len(magnifications))]
    tiles = np.unique(table.tile[is_test], return_inverse=True)[1].astype(np.int64)
    classes = classes.astype(np.int64)
    is_area = trial.task == "area"
    held = verdict.Held(target[is_test], classes[is_test], tiles, np.array(centres), is_area)
    rows = {part: np.flatnonzero(table.split == part) for part in PARTS}
    return Task(trial.task, target, groups, classes, **rows, log=trial.log and is_area), held


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """What the contestants predict, and of what."""

    predictions: dict[str, Float64[np.ndarray, "S k"]]
    layers: dict[str, str]
    task: Task
    held: verdict.Held
    patches: pd.DataFrame  # those that can be read
    losses: pd.DataFrame = field(default_factory=pd.DataFrame)
    configurations: pd.DataFrame = field(default_factory=pd.DataFrame)


def frozen(
    source: Source,
    plan: Sequence[Contestant],
    patches: pd.DataFrame,
    trial: Trial,
    candidates: Sequence[ProbePoint] = (),
) -> Ways:
    """Ridge on pooled features, fitted anew for each draw of the training tiles.

    With candidates, `tuned` is chosen among them.
    """
    swept = planned([SWEEP], candidates, None) if candidates else []
    matrices = source.features([*plan, *swept], trial.seed)
    readable = np.logical_and.reduce([np.isfinite(m).all(axis=1) for m in matrices.values()])
    table = patches.loc[readable].reset_index(drop=True)
    what, held = task_of(table, trial)
    matrices = {key: matrix[readable] for key, matrix in matrices.items()}
    every, configurations = list(plan), pd.DataFrame()
    if candidates:
        best, configurations = _tuned(matrices, candidates, what, held)
        every.append(best)
    predictions, draws = {}, list(what.draws(trial))
    for done, each in enumerate(every, start=1):
        predictions[each.name] = repeated_ridge(beside(matrices, each), what, draws)
        if source.progress:
            source.progress("fits", done, len(every))
    layers = {each.name: each.label for each in every}
    return Ways(predictions, layers, what, held, table, configurations=configurations)


def beside(
    matrices: Mapping[tuple[str, str], Float32[np.ndarray, "n _"]], each: Contestant
) -> Float64[np.ndarray, "n d"]:
    """The features of a contestant, layer by layer from left to right."""
    chosen = [matrices[each.weights, point.layer] for point in each.points]
    return np.hstack(chosen).astype(np.float64)


def repeated_ridge(
    features: Float64[np.ndarray, "n d"], task: Task, draws: Sequence[Int64[np.ndarray, " _"]]
) -> Float64[np.ndarray, "S k"]:
    """What a ridge fitted to each of the draws predicts of the test patches."""
    # one thread a regression: the same numbers on any number of cores
    with threadpool_limits(1), ThreadPoolExecutor(n_processors()) as workers:
        rows = workers.map(lambda train: _ridge(features, train, task), draws)
        return task.undone(np.array(list(rows)))


def _ridge(
    features: Float64[np.ndarray, "n d"], train: Int64[np.ndarray, " r"], task: Task
) -> Float64[np.ndarray, " k"]:
    parts = decompose(features[train], features[task.test])
    return nested_ridge(parts, task.regressed[train, None], task.groups[train]).predictions[:, 0]


def _tuned(
    matrices: Mapping[tuple[str, str], Float32[np.ndarray, "n _"]],
    points: Sequence[ProbePoint],
    task: Task,
    held: verdict.Held,
) -> tuple[Contestant, pd.DataFrame]:
    """The layers, alone or with all before, of the highest kappa where groups are left out."""
    train = task.fitted
    own = replace(
        held, truth=task.target[train], classes=task.classes[train], tiles=task.groups[train]
    )
    candidates = [Contestant(TUNED, (point,)) for point in points]
    candidates += [Contestant(TUNED, tuple(points[: k + 1])) for k in range(1, len(points))]
    rows = []
    for each in candidates:
        features = beside(matrices, each)[train]
        parts = decompose(features, features[:0])
        left_out = left_group_out(parts, task.regressed[train], task.groups[train])
        scores = verdict.metrics(task.undone(left_out)[None], own)
        rows.append({"layers": each.label} | {n: s[0] for n, s in scores.items()})
    table = pd.DataFrame(rows)
    return candidates[int(table.kappa.fillna(-np.inf).to_numpy().argmax())], table


def trained(
    source: Source,
    plan: Sequence[Contestant],
    patches: pd.DataFrame,
    trial: Trial,
    training: Training,
) -> Ways:
    """All weights trained, once a seed; fits are kept in the cache."""
    readable = source.keep_readable()
    table = patches.loc[readable].reset_index(drop=True)
    what, held = task_of(table, trial)
    parts = Parts(what.train, what.test, what.validation)
    predictions: dict[str, list[np.ndarray]] = {each.name: [] for each in plan}
    losses = []
    for number in range(trial.seeds):
        own = _seed_of(trial.seed, number)
        for each in plan:
            fit = finetuned(
                source.trainable(each, own),
                source.images,
                what.regressed,
                parts,
                cache.fits(),
                preprocessing=source.network.preprocessing,
                fit=source.look.fit,
                training=training,
                seed=own,
                progress=source.progress,
                stage=f"{each.name}, fit {number + 1} of {trial.seeds}",
            )
            predictions[each.name].append(what.undone(fit.predictions))
            losses.append(_losses(each, number, fit))
    return Ways(
        {name: np.array(rows) for name, rows in predictions.items()},
        {each.name: each.layer for each in plan},
        what,
        held,
        table,
        losses=pd.concat(losses, ignore_index=True),
    )


def _seed_of(seed: int, number: int) -> int:
    """The paper's ten first, for a seed of 0; then any."""
    if seed == 0 and number < len(PAPER_SEEDS):
        return PAPER_SEEDS[number]
    return int(np.random.default_rng([seed, number]).integers(2**31))


def _losses(each: Contestant, number: int, fit: Fit) -> pd.DataFrame:
    n = len(fit.losses)
    validation = fit.validation_losses if len(fit.validation_losses) else np.full(n, np.nan)
    return pd.DataFrame(
        {
            "contestant": each.kind,
            "layer": each.layer,
            "seed": number,
            "epoch": np.arange(1, n + 1),
            "loss": fit.losses,
            "validation_loss": validation,
            "is_used": np.arange(1, n + 1) == fit.epoch,
        }
    )
