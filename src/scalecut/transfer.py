"""Does the cut network do better where size matters? Ways to use a network, on the same patches.

Frozen: the pooled features of a layer, ridge regression on them (minutes on a processor). Each seed
draws the training tiles anew, with replacement, whole groups at a time; the test tiles stay. The
penalty is chosen inside the training part, by leaving groups out.

Shapes: n patches, d features, S seeds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64
from torch.nn.modules.batchnorm import _BatchNorm

from . import verdict
from .cut import cut_after
from .errors import DataError, LayerError
from .features import Progress, decoded, extract
from .images import Image, LeftOut
from .inputs import Look, check_names, chosen_points
from .layers import LOGITS, SOFTMAX, ProbePoint
from .models import Network, random_twin, tensors_sha256
from .regression import decompose, nested_ridge
from .twins import take_statistics

TASKS = ("area", "magnification")
CONTESTANTS = ("pretrained", "scratch", "cut", "cut-random", "reset", "sweep", "all-layers")
COLUMNS = [
    "contestant", "layer", "task", "mode", "seed", "tile", "metric", "value", "n_train", "n_test",
]  # fmt: skip
ALL = "all"  # of the test tiles together
STATISTICS_IMAGES, STATISTICS_BATCH = 128, 32


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Test scores of the contestants, and what they are evidence of."""

    table: pd.DataFrame  # the columns of COLUMNS
    differences: pd.DataFrame
    predictions: dict[str, Float64[np.ndarray, "S n"]]  # of the test patches
    held: verdict.Held
    layers: dict[str, str]  # of each contestant
    left_out: tuple[LeftOut, ...] = ()
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
        return pd.DataFrame(columns).reset_index()

    def finding(self) -> str:
        """What was found of the cut, in one sentence."""
        rows = self.differences[
            (self.differences.contestant == "cut") & (self.differences.metric == "kappa")
        ]
        if rows.empty:
            return "The cut was not compared with anything."
        return " ".join(
            verdict.sentence(verdict.Difference(*row), self.layers)
            for row in rows.itertuples(index=False, name=None)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    """Which patches are fitted to, which are tested on."""

    train: Int64[np.ndarray, " m"]
    test: Int64[np.ndarray, " k"]
    groups: Int64[np.ndarray, " n"]
    target: Float64[np.ndarray, " n"]

    def draws(self, n_seeds: int, seed: int) -> Iterator[Int64[np.ndarray, " r"]]:
        """Rows to fit to, a training set a seed: as many groups, drawn with replacement."""
        names = np.unique(self.groups[self.train])
        rows = {name: self.train[self.groups[self.train] == name] for name in names}
        for number in range(n_seeds):
            rng = np.random.default_rng([seed, number])
            while True:
                drawn = rng.choice(names, size=len(names))
                if len(set(drawn)) > 1:  # with one group alone no penalty can be chosen
                    break
            yield np.concatenate([rows[name] for name in drawn])


def transfer(
    network: Network,
    patches: pd.DataFrame,
    folder: Path,
    *,
    layer: str | None = None,
    task: str = "area",
    contestants: Sequence[str] = ("pretrained", "scratch", "cut", "cut-random", "all-layers"),
    seeds: int = 10,
    seed: int = 0,
    log: bool = False,
    look: Look | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Compare ways to use a network on patches of known magnification and nucleus area.

    Args:
        patches: the table of `patches.cut_patches`.
        folder: where the patches lie.
        layer: where the network is cut; not needed without a contestant that is cut.
        task: `area`, mean nucleus area in px, or `magnification`, in octaves.
        log: whether the area is regressed as its log2; metrics are of the area all the same.

    Raises:
        DataError: if there is no test part of two tiles, no training part of two groups, a group
            in both, or the names are not known.
        LayerError: if a cut is asked for, but no layer given, or one that is not known.
    """
    names = check_names(contestants, CONTESTANTS, "contestant")
    check_names(task, TASKS, "task")
    _split_of(patches, task)  # what is wrong with it is told before features take minutes
    points = [p for p in chosen_points(network)[0] if p.layer not in (LOGITS, SOFTMAX)]
    cut = _point_of(points, layer, names)
    images = [Image(patch, folder / patch) for patch in patches.patch]
    source = _Source(network, points, images, look or Look(), progress)
    matrices = dict(source.contestants(names, cut, seed))
    readable = np.logical_and.reduce([np.isfinite(m).all(axis=1) for _, m in matrices.values()])
    table = patches.loc[readable].reset_index(drop=True)
    split, held = _split_of(table, task)
    predictions = {
        name: _predicted(matrix[readable], split, seeds, seed, log and task == "area")
        for name, (_, matrix) in matrices.items()
    }
    layers = {name: where for name, (where, _) in matrices.items()}
    return Transfer(
        _table(predictions, layers, held, split, table, task),
        _differences(predictions, held, seed),
        predictions,
        held,
        layers,
        tuple(source.left_out),
        {
            "transfer": {"task": task, "mode": "frozen", "seeds": seeds, "seed": seed, "log": log},
            "look": source.look,
            "weights": network.weights,
            "tensors_sha256": tensors_sha256(network.module),
            "preprocessing": network.preprocessing,
            "n_patches": len(table),
        },
    )


# --- features of the contestants -----------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Source:
    """Where contestants take their features from."""

    network: Network
    points: list[ProbePoint]
    images: list[Image]
    look: Look
    progress: Progress | None
    left_out: list[LeftOut] = field(default_factory=list)

    def contestants(
        self, names: Sequence[str], cut: ProbePoint | None, seed: int
    ) -> Iterator[tuple[str, tuple[str, Float32[np.ndarray, "n d"]]]]:
        """Layer and features of each contestant; patches that cannot be read are NaN."""
        last = self.points[-1]
        asked = (
            self.points if {"sweep", "all-layers"} & set(names) else [last, *([cut] if cut else [])]
        )
        own = self.features(self.network, asked, "features")
        for name, where in (("pretrained", last), ("cut", cut)):
            if name in names and where is not None:
                yield name, (where.layer, own[where.layer])
        if {"scratch", "cut-random"} & set(names):
            twin = random_twin(self.network, seed, self.batches(self.network))
            wanted = {"scratch": last, "cut-random": cut}
            wanted = {n: p for n, p in wanted.items() if n in names and p is not None}
            found = self.features(twin, list(wanted.values()), "random twin")
            for name, where in wanted.items():
                yield name, (where.layer, found[where.layer])
        if "reset" in names and cut is not None:
            found = self.features(
                reset_behind(self.network, cut, seed, self.batches), [last], "reset"
            )
            yield "reset", (last.layer, found[last.layer])
        if "sweep" in names:
            for point in self.points:
                yield f"sweep {point.layer}", (point.layer, own[point.layer])
        if "all-layers" in names:
            yield "all-layers", ("all", np.hstack([own[point.layer] for point in self.points]))

    def features(
        self, network: Network, points: list[ProbePoint], stage: str
    ) -> dict[str, Float32[np.ndarray, "n d"]]:
        found = extract(
            network, self.images, list(dict.fromkeys(points)), **asdict(self.look),
            progress=self.progress, stage=stage,
        )  # fmt: skip
        self.left_out += [each for each in found.left_out if each not in self.left_out]
        whole = {}
        for name, matrix in found.matrices.items():
            whole[name] = np.full((len(self.images), matrix.shape[1]), np.nan, np.float32)
            whole[name][found.is_read] = matrix
        return whole

    def batches(self, network: Network) -> Iterator[torch.Tensor]:
        """Some of the patches, for the statistics of batch norms."""
        n = len(self.images)
        numbers = np.linspace(0, n - 1, min(n, STATISTICS_IMAGES)).round().astype(int).tolist()
        own = network.preprocessing
        for _, batch, _ in decoded(
            self.images, numbers, own, self.look.fit, batch_size=STATISTICS_BATCH
        ):
            if len(batch) > 1:
                yield batch.to(network.device)


def reset_behind(
    network: Network,
    cut: ProbePoint,
    seed: int,
    batches: Callable[[Network], Iterable[torch.Tensor]],
) -> Network:
    """The whole network, trained up to the cut and with fresh weights behind it.

    Batch norms behind the cut take their statistics from `batches`.
    """
    twin = random_twin(network, seed)
    kept = {
        name.removeprefix("body."): tensor
        for name, tensor in cut_after(network, cut).state_dict().items()
    }
    twin.module.load_state_dict(kept, strict=False)
    for name, module in twin.module.named_modules():
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" in kept:
            module.track_running_stats = False  # keeps those as trained, in use and untouched
    take_statistics(twin.module, batches(twin))
    return twin


# --- inside --------------------------------------------------------------------------------------


def _point_of(
    points: Sequence[ProbePoint], layer: str | None, names: Sequence[str]
) -> ProbePoint | None:
    if layer is None:
        if {"cut", "cut-random", "reset"} & set(names):
            raise LayerError(
                "A contestant is cut, but no layer is given. Give --at LAYER, or --from RUN."
            )
        return None
    for point in points:
        if layer in (point.layer, point.alias):
            return point
    raise LayerError(
        f"No layer is named {layer!r} among those that can be read. `scalecut layers MODEL` prints "
        "them."
    )


def _split_of(table: pd.DataFrame, task: str) -> tuple[_Split, verdict.Held]:
    """Training and test rows, and what the test is compared by."""
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
    target = table.mean_area_px.to_numpy(dtype=np.float64) if task == "area" else octaves
    magnifications, classes = np.unique(table.magnification, return_inverse=True)
    absent = set(range(len(magnifications))) - set(classes[~is_test])
    if absent:
        raise DataError(
            f"No training patch has the magnification {magnifications[min(absent)]:g}. Cut patches "
            "with other --magnifications, or more tiles."
        )
    centres = [target[~is_test & (classes == k)].mean() for k in range(len(magnifications))]
    tiles = np.unique(table.tile[is_test], return_inverse=True)[1].astype(np.int64)
    held = verdict.Held(
        target[is_test], classes[is_test].astype(np.int64), tiles, np.array(centres), task == "area"
    )
    split = _Split(np.flatnonzero(~is_test), np.flatnonzero(is_test), groups, target)
    return split, held


def _predicted(
    matrix: Float32[np.ndarray, "n d"], split: _Split, n_seeds: int, seed: int, log: bool
) -> Float64[np.ndarray, "S k"]:
    """Predictions of the test patches, of a ridge fitted anew for each seed."""
    features = matrix.astype(np.float64)
    target = np.log2(split.target) if log else split.target
    rows = []
    for train in split.draws(n_seeds, seed):
        parts = decompose(features[train], features[split.test])
        fitted = nested_ridge(parts, target[train, None], split.groups[train])
        rows.append(fitted.predictions[:, 0])
    predicted = np.array(rows)
    return np.exp2(predicted) if log else predicted


def _table(
    predictions: Mapping[str, Float64[np.ndarray, "S k"]],
    layers: Mapping[str, str],
    held: verdict.Held,
    split: _Split,
    patches: pd.DataFrame,
    task: str,
) -> pd.DataFrame:
    tiles = np.unique(patches.tile.iloc[split.test])
    n_of_tile = np.bincount(held.tiles)
    rows = []
    for name, predicted in predictions.items():
        whole, by_tile = verdict.metrics(predicted, held), verdict.tile_metrics(predicted, held)
        for metric in verdict.METRICS:
            for number in range(len(predicted)):
                start = (name.split()[0], layers[name], task, "frozen", number)
                end = (len(split.train),)
                rows.append((*start, ALL, metric, whole[metric][number], *end, len(split.test)))
                rows += [
                    (*start, tile, metric, value, *end, int(n))
                    for tile, value, n in zip(
                        tiles, by_tile[metric][number], n_of_tile, strict=True
                    )
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _differences(
    predictions: Mapping[str, Float64[np.ndarray, "S k"]], held: verdict.Held, seed: int
) -> pd.DataFrame:
    """The cut against each of the others, and all layers against it."""
    others = [
        name for name in ("pretrained", "scratch", "cut-random", "reset") if name in predictions
    ]
    pairs = [("cut", other) for other in others] if "cut" in predictions else []
    if "cut" in predictions and "all-layers" in predictions:
        pairs.append(("all-layers", "cut"))
    rows = []
    for metric in verdict.METRICS:
        rng = np.random.default_rng(seed)
        rows += [asdict(each) for each in verdict.compare(predictions, pairs, held, rng, metric)]
    return pd.DataFrame(rows, columns=[each.name for each in fields(verdict.Difference)])
