"""Methods: ways to use a network on patches, and what each predicts of the test patches.

`pretrained` is the whole network, `cut` the part up to a layer, `scratch` and `cut-random` are the
same with random weights, `reset` is the whole network with random weights after the cut. `sweep` is
every possible cut, `up-to-cut` and `all-layers` concatenate the features of many layers, and
`tuned` takes the layers that do best in cross-validation on the training part.

Frozen: ridge on the pooled features of a layer, or of several with equal weight. Each seed draws
the training tiles with replacement, whole groups at a time; the penalty is chosen inside them, by
leaving groups out. Or every tile is a test tile: the fit that predicts it is to the tiles of all
other groups, and whatever is chosen is chosen there.
Finetune: all weights are trained (`finetune`); seeds are of the initialisation and the order.

Shapes: n patches, m for training, v for validation, k for testing, d features, S seeds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64
from torch.nn.modules.batchnorm import _BatchNorm

from .. import cache
from ..cut.network import cut_after
from ..data.images import ImageSet, LeftOut
from ..data.measures import evenly
from ..data.patches import AREA
from ..errors import DataError, LayerError, check_least, check_names
from ..features.extract import Computation, Stages, check_finite, decoded
from ..networks.network import Network, randomly_initialised, seeded, take_statistics
from ..networks.points import ProbePoint
from ..probing.controls import (
    STATISTICS_BATCH,
    STATISTICS_IMAGES,
    control_of,
    moved_by_int8,
)
from ..probing.scores import one_thread_each
from ..stats.ridge import (
    Decomposition,
    decompose,
    joined,
    joined_decompositions,
    nested_ridge,
)
from . import comparison as compared
from .finetune import Fit, Parts, Training, finetuned
from .tiles import PARTS

NAMES = (
    "pretrained", "scratch", "cut", "cut-random", "reset", "sweep", "up-to-cut", "all-layers",
    "tuned",
)  # fmt: skip
USUAL = ("pretrained", "scratch", "cut", "cut-random", "all-layers")  # unless others are named
OF_CUT = {"cut", "cut-random", "reset", "up-to-cut"}
TUNED, SWEEP = "tuned", "sweep"
BLOCKS = 5  # parts of the groups in the cross-validation that chooses `tuned`
_PARTS = {"train": "training", "validation": "validation", "test": "test"}  # in words
PAPER_SEEDS = (1001, 1003, 1005, 1006, 1008, 2009, 2020, 994, 747, 1456)  # of `graziani2021`


@dataclass(frozen=True, slots=True)
class Trial:
    """What is predicted, by which methods, and how often.

    Args:
        task: area (mean area of the nuclei in px) or magnification (in octaves).
        mode: frozen fits ridge regression to pooled features; finetune trains all weights.
        methods: Of pretrained, scratch, cut, cut-random, reset, sweep, up-to-cut, all-layers,
            tuned; by default pretrained, scratch, cut, cut-random and, if frozen, all-layers.
        seeds: Fits of each method, at least 1: each draws the training tiles with replacement or,
            with finetune, starts from its own seed. Without effect with leave_one_out.
        log: Regress the log2 of the area.
        leave_one_out: Test every tile, whatever its part: each patient is predicted by one fit to
            all other patients. Frozen only.
    """

    task: Literal["area", "magnification"] = "area"
    mode: Literal["frozen", "finetune"] = "frozen"
    methods: Sequence[str] = ()
    seeds: int = 10
    log: bool = False
    leave_one_out: bool = False

    def __post_init__(self) -> None:
        check_names(self.task, ("area", "magnification"), "task")
        check_names(self.mode, ("frozen", "finetune"), "mode")
        usual = [name for name in USUAL if self.mode == "frozen" or name != "all-layers"]
        object.__setattr__(self, "methods", check_names(self.methods or usual, NAMES, "method"))
        check_least(self, seeds=1)
        if self.log and self.task == "magnification":
            raise DataError("--log is of areas; magnifications are in octaves anyway. Drop it.")
        if self.mode == "finetune" and TUNED in self.methods:
            raise DataError(
                "tuned chooses among frozen features, which needs --mode frozen. Drop tuned."
            )
        if self.leave_one_out:
            if self.mode == "finetune":
                raise DataError(
                    "--leave-one-out trains once per patient, which needs --mode frozen. Drop one "
                    "of the two."
                )
            object.__setattr__(self, "seeds", 1)


@dataclass(frozen=True, slots=True)
class Method:
    """The layers whose features a method uses, and their weights."""

    name: str  # one of NAMES; of a sweep followed by the layer
    points: tuple[ProbePoint, ...]
    weights: str = "pretrained"  # or `random`, `reset`

    @property
    def layer(self) -> str:
        """The last layer."""
        return self.points[-1].layer

    @property
    def label(self) -> str:
        """The layer or layers, as tables name them."""
        return self.layer if len(self.points) == 1 else f"up to {self.layer}"

    @property
    def kind(self) -> str:
        return self.name.split()[0]


def planned(
    names: Sequence[str], points: Sequence[ProbePoint], cut: ProbePoint | None
) -> list[Method]:
    """The methods of these names, in this order; `tuned` is chosen later and is not among them.

    Raises:
        LayerError: if one needs a cut, but no layer is given.
    """
    needing = [name for name in names if name in OF_CUT]
    if cut is None and needing:
        raise LayerError(
            f"Method {needing[0]} needs a layer to cut at, and none is given. Give --at LAYER, or "
            "--from RUN."
        )
    last, every = (points[-1],), tuple(points)
    at = (cut,) if cut else ()
    upto = every[: every.index(cut) + 1] if cut else ()
    methods = {
        "pretrained": [Method("pretrained", last)],
        "scratch": [Method("scratch", last, "random")],
        "cut": [Method("cut", at)],
        "cut-random": [Method("cut-random", at, "random")],
        "reset": [Method("reset", last, "reset")],
        "up-to-cut": [Method("up-to-cut", upto)],
        "all-layers": [Method("all-layers", every)],
        SWEEP: [Method(f"{SWEEP} {point.layer}", (point,)) for point in points],
        TUNED: [],
    }
    return [each for name in names for each in methods[name]]


# --- what is regressed ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """The rows that a regression is fitted to, and those that it predicts."""

    seed: int
    train: Int64[np.ndarray, " r"]
    test: Int64[np.ndarray, " q"]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """The target, and the patches for training, validation and testing.

    To leave each group out once, all patches are in train and in test.
    """

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
        """The target in the unit of the regression."""
        return np.log2(self.target) if self.log else self.target

    def restored(self, predicted: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """Predictions in the unit of the target."""
        return np.exp2(predicted) if self.log else predicted

    @property
    def fitted(self) -> Int64[np.ndarray, " f"]:
        """Rows that are not for testing: training and validation."""
        return np.sort(np.concatenate([self.train, self.validation]))

    def centres(self, rows: Int64[np.ndarray, " r"]) -> Float64[np.ndarray, " K"]:
        """The mean target of each class among these rows; infinite for one that none has."""
        n = int(self.classes.max()) + 1
        counts = np.bincount(self.classes[rows], minlength=n)
        sums = np.bincount(self.classes[rows], self.target[rows], minlength=n)
        return np.divide(sums, counts, np.full(n, np.inf), where=counts > 0)

    def folds(self, trial: Trial, seed: int) -> list[Fold]:
        """The fits that predict the test rows: one per seed, or one per group that is held out."""
        if not trial.leave_one_out:
            draws = enumerate(self.draws(trial.seeds, seed))
            return [Fold(number, rows, self.test) for number, rows in draws]
        own = (self.groups == group for group in np.unique(self.groups))
        return [Fold(0, np.flatnonzero(~is_out), np.flatnonzero(is_out)) for is_out in own]

    def draws(self, seeds: int, seed: int) -> Iterator[Int64[np.ndarray, " r"]]:
        """Training rows, one set per seed: as many groups as there are, drawn with replacement."""
        names = np.unique(self.groups[self.fitted])
        rows = {name: self.fitted[self.groups[self.fitted] == name] for name in names}
        for number in range(seeds):
            rng = np.random.default_rng([seed, number])
            while True:
                drawn = rng.choice(names, size=len(names))
                if len(set(drawn)) > 1:  # a single group allows no choice of the penalty
                    break
            yield np.concatenate([rows[name] for name in drawn])


def task_of(table: pd.DataFrame, trial: Trial) -> tuple[Task, compared.Held]:
    """What is regressed on which rows, and the test patches that methods are compared on.

    Raises:
        DataError: if there is no test part of two patients, no training part of two, a patient in
            both, or a magnification in the test part alone. To leave each patient out, if there
            are not three, or a magnification is that of one alone.
    """
    groups = np.unique(table.group, return_inverse=True)[1].astype(np.int64)
    magnifications, classes = np.unique(table.magnification, return_inverse=True)
    classes = classes.astype(np.int64)
    if trial.leave_one_out:
        _check_left_out(groups, classes, magnifications)
        every = np.arange(len(table))
        rows = {"train": every, "validation": every[:0], "test": every}
    else:
        _check_split(table, groups, classes, magnifications)
        rows = {part: np.flatnonzero(table.split == part) for part in PARTS}
    if trial.task == "area":
        _check_areas(table)
    octaves = np.log2(table.magnification.to_numpy(dtype=np.float64))
    is_area = trial.task == "area"
    target = table.mean_area_px.to_numpy(dtype=np.float64) if is_area else octaves
    task = Task(trial.task, target, groups, classes, **rows, log=trial.log and is_area)
    centres = task.centres(task.fitted)
    if trial.leave_one_out:
        centres = np.empty((len(table), len(magnifications)))
        for fold in task.folds(trial, 0):
            centres[fold.test] = task.centres(fold.train)
    tiles, patients = (
        np.unique(table[name].iloc[task.test], return_inverse=True)[1].astype(np.int64)
        for name in ("tile", "group")
    )
    tested = target[task.test], classes[task.test], tiles
    return task, compared.Held(*tested, centres, is_area, patients)


def _check_areas(table: pd.DataFrame) -> None:
    if AREA not in table:
        raise DataError(
            "These patches were cut without masks, so they have no areas of nuclei. Give --task "
            "magnification, or cut patches with --masks."
        )
    missing = table.loc[table[AREA].isna(), "tile"].tolist()
    if missing:
        raise DataError(
            f"{len(missing)} of {len(table)} patches have no {AREA}, the first is of the tile "
            f"{missing[0]}. Remove them, or give --task magnification."
        )


def _check_split(
    table: pd.DataFrame,
    groups: Int64[np.ndarray, " n"],
    classes: Int64[np.ndarray, " n"],
    magnifications: Float64[np.ndarray, " K"],
) -> None:
    unknown = table.loc[~table.split.isin(PARTS), ["tile", "split"]]
    if len(unknown):
        raise DataError(
            f"{len(unknown)} of {len(table)} patches are in no part, the first is of the tile "
            f"{unknown.tile.iloc[0]}, whose split is {unknown.split.iloc[0]!r}. Write "
            f"{', '.join(PARTS[:-1])} or {PARTS[-1]}."
        )
    is_test = (table.split == "test").to_numpy()
    if not is_test.any() or is_test.all():
        raise DataError(
            f"{int(is_test.sum())} of {len(table)} patches are in the test part. Cut patches with "
            "a split that has tiles for training and for testing."
        )
    if len(set(groups[~is_test])) < 2:
        raise DataError("The training part has one group. Give tiles of two or more patients.")
    first: dict[str, str] = {}
    for group, part in zip(table.group, table.split, strict=True):
        other = first.setdefault(group, part)
        if other != part:
            one, two = sorted((part, other), key=PARTS.index)
            raise DataError(
                f"{group} is in the {_PARTS[one]} part and in the {_PARTS[two]} part. Cut the "
                "patches again, split by patient."
            )
    absent = set(range(len(magnifications))) - set(classes[~is_test])
    if absent:
        raise DataError(
            f"No training patch has the magnification {magnifications[min(absent)]:g}. Cut patches "
            "with other --magnifications or --mpp, or from more tiles."
        )


def _check_left_out(
    groups: Int64[np.ndarray, " n"],
    classes: Int64[np.ndarray, " n"],
    magnifications: Float64[np.ndarray, " K"],
) -> None:
    n_groups = len(set(groups))
    if n_groups < 3:
        raise DataError(
            f"There are patches of {n_groups} patients, and --leave-one-out needs at least three. "
            "Give tiles of more patients."
        )
    for number, magnification in enumerate(magnifications):
        if len(set(groups[classes == number])) < 2:
            raise DataError(
                f"All patches of {magnification:g}X are of one patient, so --leave-one-out has "
                "none to fit. Cut patches with other --magnifications, or from more tiles."
            )


# --- features and networks -----------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Source:
    """The network with its randomly initialised controls, and the patches of all methods."""

    network: Network
    images: ImageSet  # with their target and group, by which int8 is checked
    computation: Computation
    stages: Stages
    cut: ProbePoint | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    computed: dict[str, object] = field(default_factory=dict)  # how; pretrained if used

    def features(
        self, methods: Sequence[Method], seed: int
    ) -> dict[tuple[str, str], Float32[np.ndarray, "n d"]]:
        """Pooled features by weights and layer, one pass per kind of weights.

        Patches that cannot be read are NaN, and named in `left_out`.
        """
        found = {}
        for kind in dict.fromkeys(each.weights for each in methods):
            asked = [p for each in methods if each.weights == kind for p in each.points]
            unique = list(dict.fromkeys(asked))
            for layer, matrix in self._extracted(self._weighted(kind, seed), unique, kind).items():
                found[kind, layer] = matrix
        return found

    def keep_readable(self) -> np.ndarray:
        """Which patches can be read; the others are removed and named in `left_out`."""
        is_read = np.ones(len(self.images), dtype=bool)
        for _, _, bad in self._decoded(range(len(self.images)), self.computation.batch_size):
            for number, reason in bad.items():
                is_read[number] = False
                self.left_out.append(LeftOut(self.images.images[number].name, reason))
        self.images = self.images.rows(is_read)
        return is_read

    def trainable(self, method: Method, seed: int) -> torch.nn.Module:
        """The network up to the layer of the method, with pooling and a new linear unit.

        Raises:
            DataError: if the method uses several layers, which cannot be trained as one network.
        """
        if len(method.points) > 1:
            raise DataError(
                f"{method.name} concatenates {len(method.points)} layers, which needs --mode "
                f"frozen. Drop {method.name}, or train sweep."
            )
        network = self._weighted(method.weights, seed)
        return seeded(lambda: cut_after(network, method.points[-1], head=1), seed)

    def _weighted(self, kind: str, seed: int) -> Network:
        if kind == "random":
            return control_of(self.network, self.images, self.computation, seed)
        if kind == "reset":
            assert self.cut is not None  # planned() refuses it
            return reset_after(self.network, self.cut, seed, self._batches)
        return self.network

    def _extracted(
        self, network: Network, points: Sequence[ProbePoint], kind: str
    ) -> Mapping[str, Float32[np.ndarray, "n d"]]:
        stage = {"pretrained": "features", "random": "random weights", "reset": "reset"}[kind]
        asked = points, self.computation
        found = self.stages.extracted(network, self.images.images, *asked, stage)
        check_finite(network, found.matrices)
        read = self.images.rows(found.is_read)
        moved = moved_by_int8(network, read, *asked, found, self.stages)
        if kind == "pretrained" or not self.computed:
            self.computed = {"precision": found.precision, "engine": found.engine, **moved}
        self.left_out += [each for each in found.left_out if each not in self.left_out]
        every = {}
        for name, matrix in found.matrices.items():
            every[name] = np.full((len(self.images), matrix.shape[1]), np.nan, np.float32)
            every[name][found.is_read] = matrix
        return every

    def _batches(self, network: Network) -> Iterator[torch.Tensor]:
        """Some of the patches, for the statistics of batch norms."""
        numbers = evenly(len(self.images), STATISTICS_IMAGES)
        for _, batch, _ in self._decoded(numbers, STATISTICS_BATCH):
            if len(batch) > 1:
                yield batch.to(network.device)

    def _decoded(
        self, numbers: Sequence[int], batch_size: int
    ) -> Iterator[tuple[list[int], torch.Tensor, dict[int, str]]]:
        own, fit = self.network.preprocessing, self.computation.fit
        return decoded(self.images.images, numbers, own, fit, batch_size=batch_size)


def reset_after(
    network: Network,
    cut: ProbePoint,
    seed: int,
    batches: Callable[[Network], Iterable[torch.Tensor]],
) -> Network:
    """The whole network with its own weights up to the cut and random weights after it.

    Batch norms after the cut take their statistics from `batches`.
    """
    reset = randomly_initialised(network, seed)
    state = cut_after(network, cut).state_dict()
    kept = {name.removeprefix("body."): tensor for name, tensor in state.items()}
    reset.module.load_state_dict(kept, strict=False)
    norms = [
        module
        for name, module in reset.module.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" in kept
    ]
    for module in norms:
        module.track_running_stats = False  # keeps their statistics as trained, and in use
    take_statistics(reset.module, batches(reset))
    for module in norms:
        module.track_running_stats = True  # else training would not update them
    return reset


# --- predictions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """The predictions of each method, and what they are predictions of."""

    predictions: dict[str, Float64[np.ndarray, "S k"]]  # of the test patches, by method
    layers: dict[str, str]
    task: Task
    held: compared.Held
    patches: pd.DataFrame  # those that can be read
    losses: pd.DataFrame = field(default_factory=pd.DataFrame)
    configurations: pd.DataFrame = field(default_factory=pd.DataFrame)


def frozen(
    source: Source,
    plan: Sequence[Method],
    patches: pd.DataFrame,
    trial: Trial,
    seed: int,
    candidates: Sequence[ProbePoint] = (),
) -> Predicted:
    """Ridge on pooled features, fitted to each draw of the training tiles or without each patient.

    With candidates, `tuned` is chosen among them.
    """
    swept = planned([SWEEP], candidates, None) if candidates else []
    matrices = source.features([*plan, *swept], seed)
    readable = np.logical_and.reduce([np.isfinite(m).all(axis=1) for m in matrices.values()])
    table = patches.loc[readable].reset_index(drop=True)
    task, held = task_of(table, trial)
    matrices = {key: matrix[readable] for key, matrix in matrices.items()}
    folds = task.folds(trial, seed)
    every, configurations = {each.name: [each] * len(folds) for each in plan}, pd.DataFrame()
    if candidates:
        parts = in_blocks(task.groups, seed) if trial.leave_one_out else [task.test]
        with source.stages("configurations"):
            report = source.stages.report("configurations")
            chosen, configurations = _tuned(matrices, candidates, task, parts, seed, report)
        # the choice for a fold was made without the patients that it predicts
        of_row = np.full(len(table), -1)
        for number, rows in enumerate(parts):
            of_row[rows] = number
        every[TUNED] = [chosen[of_row[fold.test[0]]] for fold in folds]
    predictions, report = {}, source.stages.report("fits")
    with source.stages("fits"):
        for done, (name, methods) in enumerate(every.items(), start=1):
            blocks = [[matrices[m.weights, point.layer] for point in m.points] for m in methods]
            predictions[name] = repeated_ridge(blocks, task, folds)
            report(done, len(every))
    layers = {name: _label(methods) for name, methods in every.items()}
    return Predicted(predictions, layers, task, held, table, configurations=configurations)


def _label(methods: Sequence[Method]) -> str:
    """The layers of a method; of several, those that are used most often."""
    labels = Counter(each.label for each in methods)
    ((label, n),) = labels.most_common(1)
    return label if n == len(methods) else f"{label} ({n} of {len(methods)} fits)"


def repeated_ridge(
    blocks: Sequence[Sequence[Float32[np.ndarray, "n _"]]], task: Task, folds: Sequence[Fold]
) -> Float64[np.ndarray, "S k"]:
    """Predictions of the test patches by ridge regressions on the features of each fit's layers.

    Args:
        blocks: the features of one or several layers, for each fold.
    """
    predicted = np.empty((1 + max(fold.seed for fold in folds), len(task.test)))
    with one_thread_each() as workers:
        found = workers.map(lambda each, fold: _ridge(each, task, fold), blocks, folds)
        for fold, row in zip(folds, found, strict=True):
            predicted[fold.seed, np.searchsorted(task.test, fold.test)] = row
    return task.restored(predicted)


def _ridge(
    blocks: Sequence[Float32[np.ndarray, "n _"]], task: Task, fold: Fold
) -> Float64[np.ndarray, " q"]:
    parts = _decomposed(blocks, fold.train, fold.test)
    target = task.regressed[fold.train, None]
    return nested_ridge(parts, target, task.groups[fold.train]).predictions[:, 0]


def _decomposed(
    blocks: Sequence[Float32[np.ndarray, "n _"]],
    train: Int64[np.ndarray, " r"],
    test: Int64[np.ndarray, " q"],
) -> Decomposition:
    """Of one layer, or of several with equal weight."""
    parts = ((each[train].astype(np.float64), each[test].astype(np.float64)) for each in blocks)
    return decompose(*next(parts)) if len(blocks) == 1 else joined(parts)


def in_blocks(groups: Int64[np.ndarray, " r"], seed: int) -> list[Int64[np.ndarray, " _"]]:
    """The rows of each fifth of the groups, drawn at random; of few groups, those of each."""
    names = np.random.default_rng([seed, BLOCKS]).permutation(np.unique(groups))
    return [
        np.flatnonzero(np.isin(groups, block))
        for block in np.array_split(names, min(BLOCKS, len(names)))
    ]


def _tuned(
    matrices: Mapping[tuple[str, str], Float32[np.ndarray, "n _"]],
    points: Sequence[ProbePoint],
    task: Task,
    parts: Sequence[Int64[np.ndarray, " _"]],
    seed: int,
    report: Callable[[int, int], None],
) -> tuple[list[Method], pd.DataFrame]:
    """The layer, alone or with all before it, of the highest kappa in cross-validation.

    Of one magnification there is no kappa, and the mean absolute error chooses.
    It is chosen once for each part, among the rows for training that are not in it: a fifth of
    their groups is predicted by fits to the others, which standardise features and choose the
    penalty by themselves.

    Returns:
        The methods, and the mean scores of all candidates with how often each was chosen.
    """
    every = [matrices["pretrained", point.layer] for point in points]
    candidates = [Method(TUNED, (point,)) for point in points]
    candidates += [Method(TUNED, tuple(points[: k + 1])) for k in range(1, len(points))]
    outer = [np.setdiff1d(task.fitted, part) for part in parts]
    folds = [
        (number, np.delete(rows, block), rows[block])
        for number, rows in enumerate(outer)
        for block in in_blocks(task.groups[rows], seed)
    ]

    fewest = min(len(set(task.groups[train])) for _, train, _ in folds)
    if fewest < 2:
        raise DataError(
            f"{TUNED} chooses layers by cross-validation of the training patients, of which there "
            "are too few. Drop it, or give tiles of more patients."
        )

    def fitted(fold: tuple[int, np.ndarray, np.ndarray]) -> Float64[np.ndarray, "c q"]:
        _, train, test = fold
        pairs = [(each[train].astype(np.float64), each[test].astype(np.float64)) for each in every]
        _, *together = joined_decompositions(pairs)
        target, groups = task.regressed[train, None], task.groups[train]
        fits = (
            nested_ridge(each, target, groups) for each in (*starmap(decompose, pairs), *together)
        )
        return np.array([fit.predictions[:, 0] for fit in fits])

    predicted = np.empty((len(parts), len(candidates), len(task.target)))
    with one_thread_each() as workers:
        for done, (fold, found) in enumerate(
            zip(folds, workers.map(fitted, folds), strict=True), 1
        ):
            number, _, test = fold
            predicted[number][:, test] = found
            report(done, len(folds))
    chosen, tables = [], []
    for own, rows in zip(predicted, outer, strict=True):
        tiles = np.unique(task.groups[rows], return_inverse=True)[1].astype(np.int64)
        tested = task.target[rows], task.classes[rows], tiles
        held = compared.Held(*tested, task.centres(rows), task.name == "area")
        scores = compared.metrics(task.restored(own[:, rows]), held)
        ranked = -scores["mae"] if np.isnan(scores["kappa"]).all() else scores["kappa"]
        chosen.append(int(np.nan_to_num(ranked, nan=-np.inf).argmax()))
        tables.append(pd.DataFrame(scores))
    table = pd.DataFrame(sum(tables) / len(tables))
    table.insert(0, "layers", [each.label for each in candidates])
    table["chosen"] = np.bincount(chosen, minlength=len(candidates))
    return [candidates[number] for number in chosen], table


def trained(
    source: Source,
    plan: Sequence[Method],
    patches: pd.DataFrame,
    trial: Trial,
    training: Training,
    seed: int,
) -> Predicted:
    """All weights trained, once per seed; fits are kept in the cache."""
    with source.stages("images"):
        readable = source.keep_readable()
    table = patches.loc[readable].reset_index(drop=True)
    task, held = task_of(table, trial)
    parts = Parts(task.train, task.test, task.validation)
    predictions: dict[str, list[np.ndarray]] = {each.name: [] for each in plan}
    losses = []
    for number in range(trial.seeds):
        own = _seed_of(seed, number)
        for each in plan:
            stage = f"{each.name}, fit {number + 1} of {trial.seeds}"
            with source.stages(stage):
                fit = finetuned(
                    *(source.trainable(each, own), source.images.images, task.regressed, parts),
                    cache.fits(),
                    preprocessing=source.network.preprocessing,
                    training=training,
                    computation=source.computation,
                    seed=own,
                    tell=_progress_of(source.stages, stage),
                )
            predictions[each.name].append(task.restored(fit.predictions))
            losses.append(_losses(each, number, fit))
    every = {name: np.array(rows) for name, rows in predictions.items()}
    layers = {each.name: each.layer for each in plan}
    of_epochs = pd.concat(losses, ignore_index=True)
    return Predicted(every, layers, task, held, table, losses=of_epochs)


def _progress_of(stages: Stages, stage: str) -> Callable[[str, int, int], None]:
    """The progress of a fit: the stage, followed by the loss once there is one."""

    def tell(loss: str, done: int, total: int) -> None:
        if stages.progress:
            stages.progress(f"{stage}: {loss}" if loss else stage, done, total)

    return tell


def _seed_of(seed: int, number: int) -> int:
    """The paper's ten seeds first, for a seed of 0; then any."""
    if seed == 0 and number < len(PAPER_SEEDS):
        return PAPER_SEEDS[number]
    return int(np.random.default_rng([seed, number]).integers(2**31))


def _losses(method: Method, number: int, fit: Fit) -> pd.DataFrame:
    n = len(fit.losses)
    validation = fit.validation_losses if len(fit.validation_losses) else np.full(n, np.nan)
    return pd.DataFrame(
        {
            "contestant": method.kind,
            "layer": method.layer,
            "seed": number,
            "epoch": np.arange(1, n + 1),
            "loss": fit.losses,
            "validation_loss": validation,
            "is_used": np.arange(1, n + 1) == fit.epoch,
        }
    )
