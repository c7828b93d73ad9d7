"""Methods: ways to use a network on patches, and what each predicts of the test patches.

`pretrained` is the whole network, `cut` the part up to a layer, `scratch` and `cut-random` are the
same with random weights, `reset` is the whole network with random weights after the cut. `sweep` is
every possible cut, `up-to-cut` and `all-layers` concatenate the features of many layers, and
`tuned` takes the layers that do best in cross-validation on the training part.

Frozen: ridge on the pooled features of a layer. Each seed draws the training tiles with
replacement, whole groups at a time; the penalty is chosen inside them, by leaving groups out.
Finetune: all weights are trained (`finetune`); seeds are of the initialisation and the order.

Shapes: n patches, m for training, v for validation, k for testing, d features, S seeds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from ..errors import DataError, LayerError, check_names
from ..features.extract import Computation, Stages, check_finite, decoded
from ..networks.network import Network, randomly_initialised, seeded, take_statistics
from ..networks.points import ProbePoint
from ..probing.controls import moved_by_int8
from ..probing.scores import one_thread_each
from ..stats.ridge import decompose, left_group_out, nested_ridge
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
STATISTICS_IMAGES, STATISTICS_BATCH = 128, 32
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
            with finetune, starts from its own seed.
        log: Regress the log2 of the area.
    """

    task: Literal["area", "magnification"] = "area"
    mode: Literal["frozen", "finetune"] = "frozen"
    methods: Sequence[str] = ()
    seeds: int = 10
    log: bool = False

    def __post_init__(self) -> None:
        check_names(self.task, ("area", "magnification"), "task")
        check_names(self.mode, ("frozen", "finetune"), "mode")
        usual = [name for name in USUAL if self.mode == "frozen" or name != "all-layers"]
        object.__setattr__(self, "methods", check_names(self.methods or usual, NAMES, "method"))
        if self.seeds < 1:
            raise DataError(f"--seeds must be at least 1, got {self.seeds}.")
        if self.mode == "finetune" and TUNED in self.methods:
            raise DataError(
                "tuned chooses among frozen features, which needs --mode frozen. Drop tuned."
            )


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
class Task:
    """The target, and the patches for training, validation and testing."""

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
        DataError: if there is no test part of two tiles, no training part of two groups, a group in
            both, or a magnification in the test part alone.
    """
    is_test = (table.split == "test").to_numpy()
    if not is_test.any() or is_test.all():
        raise DataError(
            f"{int(is_test.sum())} of {len(table)} patches are in the test part. Cut patches with "
            "a split that has tiles for training and for testing."
        )
    groups = np.unique(table.group, return_inverse=True)[1].astype(np.int64)
    if len(set(groups[~is_test])) < 2:
        raise DataError("The training part has one group. Give tiles of two or more patients.")
    both = table.group[is_test & table.group.isin(table.group[~is_test]).to_numpy()]
    if len(both):
        raise DataError(
            f"{both.iloc[0]} is in the training part and in the test part. Cut the patches again, "
            "split by patient."
        )
    if trial.task == "area" and "mean_area_px" not in table:
        raise DataError(
            "These patches were cut without masks, so they have no areas of nuclei. Give --task "
            "magnification, or cut patches with --masks."
        )
    octaves = np.log2(table.magnification.to_numpy(dtype=np.float64))
    target = table.mean_area_px.to_numpy(dtype=np.float64) if trial.task == "area" else octaves
    magnifications, classes = np.unique(table.magnification, return_inverse=True)
    absent = set(range(len(magnifications))) - set(classes[~is_test])
    if absent:
        raise DataError(
            f"No training patch has the magnification {magnifications[min(absent)]:g}. Cut patches "
            "with other --magnifications or --mpp, or from more tiles."
        )
    centres = [target[~is_test & (classes == k)].mean() for k in range(len(magnifications))]
    tiles = np.unique(table.tile[is_test], return_inverse=True)[1].astype(np.int64)
    classes = classes.astype(np.int64)
    is_area = trial.task == "area"
    held = compared.Held(target[is_test], classes[is_test], tiles, np.array(centres), is_area)
    rows = {part: np.flatnonzero(table.split == part) for part in PARTS}
    return Task(trial.task, target, groups, classes, **rows, log=trial.log and is_area), held


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
            return randomly_initialised(self.network, seed, self._batches(self.network))
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
    """Ridge on pooled features, fitted to each draw of the training tiles.

    With candidates, `tuned` is chosen among them.
    """
    swept = planned([SWEEP], candidates, None) if candidates else []
    matrices = source.features([*plan, *swept], seed)
    readable = np.logical_and.reduce([np.isfinite(m).all(axis=1) for m in matrices.values()])
    table = patches.loc[readable].reset_index(drop=True)
    task, held = task_of(table, trial)
    matrices = {key: matrix[readable] for key, matrix in matrices.items()}
    every, configurations = list(plan), pd.DataFrame()
    if candidates:
        best, configurations = _tuned(matrices, candidates, task, held)
        every.append(best)
    predictions, draws = {}, list(task.draws(trial.seeds, seed))
    report = source.stages.report("fits")
    with source.stages("fits"):
        for done, each in enumerate(every, start=1):
            predictions[each.name] = repeated_ridge(concatenated(matrices, each), task, draws)
            report(done, len(every))
    layers = {each.name: each.label for each in every}
    return Predicted(predictions, layers, task, held, table, configurations=configurations)


def concatenated(
    matrices: Mapping[tuple[str, str], Float32[np.ndarray, "n _"]], method: Method
) -> Float64[np.ndarray, "n d"]:
    """The features of a method, layer by layer from left to right."""
    chosen = [matrices[method.weights, point.layer] for point in method.points]
    return np.hstack(chosen).astype(np.float64)


def repeated_ridge(
    features: Float64[np.ndarray, "n d"], task: Task, draws: Sequence[Int64[np.ndarray, " _"]]
) -> Float64[np.ndarray, "S k"]:
    """Predictions of the test patches by a ridge regression on each of the draws."""
    with one_thread_each() as workers:
        rows = workers.map(lambda train: _ridge(features, train, task), draws)
        return task.restored(np.array(list(rows)))


def _ridge(
    features: Float64[np.ndarray, "n d"], train: Int64[np.ndarray, " r"], task: Task
) -> Float64[np.ndarray, " k"]:
    parts = decompose(features[train], features[task.test])
    return nested_ridge(parts, task.regressed[train, None], task.groups[train]).predictions[:, 0]


def _tuned(
    matrices: Mapping[tuple[str, str], Float32[np.ndarray, "n _"]],
    points: Sequence[ProbePoint],
    task: Task,
    held: compared.Held,
) -> tuple[Method, pd.DataFrame]:
    """The layer, alone or with all before it, of the highest kappa on held-out groups."""
    train = task.fitted
    truth, classes, tiles = (each[train] for each in (task.target, task.classes, task.groups))
    own = replace(held, truth=truth, classes=classes, tiles=tiles)
    candidates = [Method(TUNED, (point,)) for point in points]
    candidates += [Method(TUNED, tuple(points[: k + 1])) for k in range(1, len(points))]
    rows = []
    for each in candidates:
        features = concatenated(matrices, each)[train]
        parts = decompose(features, features[:0])
        predicted = left_group_out(parts, task.regressed[train], task.groups[train])
        scores = compared.metrics(task.restored(predicted)[None], own)
        rows.append({"layers": each.label} | {n: s[0] for n, s in scores.items()})
    table = pd.DataFrame(rows)
    return candidates[int(table.kappa.fillna(-np.inf).to_numpy().argmax())], table


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
