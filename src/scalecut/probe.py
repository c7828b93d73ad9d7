"""How much of an object's scale each layer carries: the curve of held-out R², with its controls.

For every subset of the images (one class of objects) and every layer, the measure is regressed on
the pooled features, in `repeats` splits of 70 % to fit and 30 % to test, by group. The same splits
serve every layer, regressor, target and set of weights. Source: section 4.3 of `graziani2021`; the
ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Float64, Int
from matplotlib.figure import Figure
from sklearn.model_selection import GroupShuffleSplit
from threadpoolctl import threadpool_limits
from torch import nn

from .annotations import read_images
from .errors import DataError
from .features import (
    Features,
    Progress,
    answerable,
    decoded,
    extract,
    resolved_device,
    resolved_precision,
)
from .images import ImageSet, LeftOut
from .layers import SOFTMAX, ProbePoint, probe_points, select_layers
from .models import Network, Preprocessing, load_network, random_twin
from .regression import HeldOut, decompose, least_squares, nested_ridge, r_squared
from .report import curve_figure
from .scenes import made_up_scenes
from .stats import bootstrap_r_squared, group_draws, interval

REGRESSORS = ("ridge", "ols")
CONTROLS = ("random", "shuffled")
TEST_SHARE = 0.3  # graziani2021
LEAST_IMAGES = 20  # of one subset: 14 to fit, 6 to test
TWIN_IMAGES = 128  # from which a random twin takes its batch-norm statistics
MEAN = "mean"

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

    def scores(
        self,
        *,
        subset: str = MEAN,
        weights: str = "pretrained",
        target: str = "true",
        regressor: str = "ridge",
    ) -> pd.DataFrame:
        """The rows of one line of the curve, in order of the layers."""
        given = {"subset": subset, "weights": weights, "target": target, "regressor": regressor}
        rows = self.table
        for column, value in given.items():
            rows = rows[rows[column] == value]
        return rows.sort_values("depth", kind="stable", ignore_index=True)

    def finding(self) -> str:
        """What was found, in one sentence: the peak, the random twin there, and the last layer."""
        regressor = "ridge" if (self.table.regressor == "ridge").any() else "ols"
        kind = "pretrained" if (self.table.weights == "pretrained").any() else "random"
        rows = self.scores(weights=kind, regressor=regressor)
        peak, last = rows.loc[rows.r2.idxmax()], self._end_of(rows)
        said = (
            f"{peak.model} carries the object's scale best at {_label(peak)}: R² {peak.r2:.2f} "
            f"[{peak.r2_low:.2f}, {peak.r2_high:.2f}]"
        )
        twin = self.scores(weights="random", regressor=regressor)
        if kind == "pretrained" and len(twin):
            said += f", {peak.r2 - twin.r2[rows.r2.idxmax()]:.2f} above its random twin"
        if last.layer != peak.layer:
            said += f"; at {_label(last)} R² {last.r2:.2f} is left"
        return said + "."

    @staticmethod
    def _end_of(rows: pd.DataFrame) -> pd.Series:
        """The last layer whose answer is not squeezed into probabilities."""
        return rows[rows.layer != SOFTMAX].iloc[-1] if len(rows) > 1 else rows.iloc[-1]


def _label(row: pd.Series) -> str:
    return f"{row.layer} ({row.alias})" if row.alias and row.alias != row.layer else str(row.layer)


def probe(
    model: str | nn.Module | Network,
    data: str | ImageSet,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    preprocessing: Preprocessing | None = None,
    layers: Sequence[str] = (),
    subsets: Sequence[str] = (),
    measure: str = "area",
    objects: str = "single",
    skip_truncated: bool = False,
    skip_difficult: bool = False,
    strict: bool = False,
    images_folder: str | Path | None = None,
    fit: str = "squash",
    regressors: Sequence[str] = REGRESSORS,
    controls: Sequence[str] = CONTROLS,
    repeats: int = 10,
    precision: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Regress the measure of `data` on every layer of `model`.

    Args:
        model: timm name, `resnet50_v1`, `module.path:factory`, a module, or a loaded network.
        data: `voc:DIR`, `coco:FILE`, `csv:FILE`, `masks:DIR`, `scenes`, or an ImageSet.
        layers: names, aliases or globs; all probe points if empty.
        subsets: classes of objects, each probed by itself; all if empty.
        controls: `random` (a twin with random weights), `shuffled` (the measure permuted).
        repeats: random splits, over which R² is averaged.
        seed: of the splits, the shuffles, the bootstrap and the twin.
        progress: called with (stage, done, all).

    Returns:
        The curve. Its intervals are 95 % bootstrap intervals over groups of held-out images; for
        `mean` over subsets, of the mean.

    Raises:
        ScalecutError: DataError, ModelError or LayerError, with one line that says what to do.
    """
    _check_names(regressors, REGRESSORS, "regressor")
    _check_names(controls, CONTROLS, "control")
    if repeats < 1:
        raise DataError(
            f"There cannot be {repeats} repeats. Give --repeats 1 or more; 10 as in the paper."
        )
    stages = _Stages(progress)
    with stages("network"):
        network = (
            model
            if isinstance(model, Network)
            else load_network(
                model,
                weights=weights,
                allow_partial=allow_partial,
                seed=seed,
                preprocessing=preprocessing,
            )
        )
        points, layers_left_out = chosen_points(network, layers)
    with stages("images"):
        frame = network.preprocessing.frame(fit)
        image_set = (
            data
            if isinstance(data, ImageSet)
            else made_up_scenes(seed=seed)
            if data == "scenes"
            else read_images(
                data,
                frame,
                subsets=tuple(subsets),
                measure=measure,
                objects=objects,
                skip_truncated=skip_truncated,
                skip_difficult=skip_difficult,
                strict=strict,
                images_folder=Path(images_folder) if images_folder else None,
            )
        )
        _check_size(image_set)
    settings = {"fit": fit, "precision": precision, "batch_size": batch_size, "device": device}
    with stages("features"):
        found = extract(network, image_set.images, points, progress=progress, **settings)
    if strict and found.left_out:
        raise DataError(
            f"{found.left_out[0].name}: {found.left_out[0].reason} Leave it out, or drop --strict."
        )
    kept = image_set.rows(found.is_read)
    _check_size(kept)
    answers = {"pretrained" if network.weights.kind == "pretrained" else "random": found}
    if "random" in controls and network.weights.kind != "random":
        with stages("random twin"):
            twin = twin_for(
                network, kept, fit=fit, precision=precision, batch_size=batch_size, seed=seed
            )
        with stages("random twin"):
            answers["random"] = extract(
                twin, kept.images, points, progress=progress, stage="random twin", **settings
            )
    with stages("regression"):
        plan = Plan.draw(
            kept, repeats, np.random.default_rng(seed), shuffled="shuffled" in controls
        )
        matrices = {kind: features.matrices for kind, features in answers.items()}
        table = score(plan, kept, points, matrices, regressors, stages.report)
    table.insert(0, "model", network.name)
    return Curve(
        table[COLUMNS],
        tuple(points),
        layers_left_out,
        (*image_set.left_out, *found.left_out),
        {
            "weights": network.weights,
            "preprocessing": network.preprocessing,
            "images": _image_facts(kept),
            "stages": stages.facts(answers),
            "precision": resolved_precision(precision, device),
            "device": resolved_device(device),
        },
    )


def chosen_points(
    network: Network, layers: Sequence[str] = ()
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """The points to probe, and those that the network cannot answer for, with the reason."""
    modules = {name for name, _ in network.module.named_modules() if name}
    points = probe_points(
        network.module, network.example(), also=[n for n in layers if n in modules]
    )
    if layers:
        points = select_layers(points, layers)
    return answerable(network, points)


def twin_for(
    network: Network, image_set: ImageSet, *, fit: str, precision: str, batch_size: int, seed: int
) -> Network:
    """A random twin whose batch norms know the images that it will be probed on."""
    step = max(1, len(image_set) // TWIN_IMAGES)
    numbers = list(range(0, len(image_set), step))[:TWIN_IMAGES]
    device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    batches = (
        batch.to(device)
        for _, batch, _ in decoded(
            image_set.images, numbers, network.preprocessing, fit, batch_size=batch_size
        )
        if len(batch) > 1
    )
    use_bfloat16 = resolved_precision(precision, "cpu") == "bfloat16" and device.type == "cpu"
    with torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16):
        return random_twin(network, seed, batches)


# --- splits and scores ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What is drawn once for one subset and serves all its regressions."""

    subset: str
    rows: Int[np.ndarray, " n"]  # of the image set
    groups: Int[np.ndarray, " n"]
    targets: dict[str, Float64[np.ndarray, "r n"]]  # by kind, a row a repeat
    is_held_out: Bool[np.ndarray, "r n"]
    counts: Float64[np.ndarray, "b n"]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Splits, shuffles and bootstrap draws of every subset."""

    parts: tuple[_Part, ...]
    repeats: int

    @classmethod
    def draw(
        cls, image_set: ImageSet, repeats: int, rng: np.random.Generator, *, shuffled: bool
    ) -> "Plan":
        """Draw everything that is left to chance, once, for all layers alike."""
        names = np.array(image_set.subset)
        parts = []
        for subset in image_set.subsets:
            rows = np.flatnonzero(names == subset)
            parts.append(_part(image_set, subset, rows, repeats, rng, shuffled))
        return cls(tuple(parts), repeats)


def _part(
    image_set: ImageSet,
    subset: str,
    rows: np.ndarray,
    repeats: int,
    rng: np.random.Generator,
    shuffled: bool,
) -> _Part:
    measure = image_set.measure[rows]
    groups = np.unique(np.array(image_set.group)[rows], return_inverse=True)[1]
    splitter = GroupShuffleSplit(
        repeats, test_size=TEST_SHARE, random_state=int(rng.integers(2**31))
    )
    is_held_out = np.zeros((repeats, len(rows)), dtype=bool)
    for number, (_, test) in enumerate(splitter.split(rows, groups=groups)):
        is_held_out[number, test] = True
    targets = {"true": np.tile(measure, (repeats, 1))}
    if shuffled:
        targets["shuffled"] = np.stack([rng.permutation(measure) for _ in range(repeats)])
    for kind, values in targets.items():
        flat = [
            n
            for n in range(repeats)
            if np.ptp(values[n, is_held_out[n]]) == 0 or np.ptp(values[n, ~is_held_out[n]]) == 0
        ]
        if flat:
            raise DataError(
                f"In {len(flat)} of {repeats} splits of {subset!r} all images to fit or to test have the same {kind} "
                "measure, so R² is undefined. Give more images whose objects differ in size."
            )
    return _Part(subset, rows, groups, targets, is_held_out, group_draws(groups, rng))


def score(
    plan: Plan,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    matrices: dict[str, dict[str, Float32[np.ndarray, "n d"]]],
    regressors: Sequence[str],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """R² and its interval for every subset, layer, set of weights, target and regressor."""
    jobs = [(kind, point) for kind in matrices for point in points]
    rows: list[dict[str, object]] = []
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        scored = workers.map(
            lambda job: _layer_rows(
                plan, job[1], matrices[job[0]][job[1].layer], job[0], regressors
            ),
            jobs,
        )
        for done, found in enumerate(scored, start=1):
            rows += found
            report(done, len(jobs))
    table = pd.DataFrame(rows)
    table["measure"] = image_set.measure_name
    table["p_value"] = np.nan
    order = {name: rank for rank, name in enumerate([*image_set.subsets, MEAN])}
    return table.sort_values(
        ["subset", "weights", "target", "regressor", "depth"],
        key=lambda column: column.map(order) if column.name == "subset" else column,
        kind="stable",
        ignore_index=True,
    )


def _layer_rows(
    plan: Plan,
    point: ProbePoint,
    matrix: Float32[np.ndarray, "n d"],
    kind: str,
    regressors: Sequence[str],
) -> list[dict[str, object]]:
    """All rows of one layer of one set of weights, the mean over subsets last."""
    scores: dict[tuple[str, str], list[tuple[str, int, float, np.ndarray]]] = {}
    for part in plan.parts:
        features = matrix[part.rows].astype(np.float64)
        errors = _squared_errors(part, features, regressors)
        for target, values in part.targets.items():
            r2 = _mean_r_squared(part, values, errors[target])
            draws = bootstrap_r_squared(values, errors[target], part.is_held_out, part.counts)
            for column, regressor in enumerate(regressors):
                found = (part.subset, len(part.rows), float(r2[column]), draws[:, column])
                scores.setdefault((target, regressor), []).append(found)
    rows = []
    for (target, regressor), subsets in scores.items():
        mean = (
            MEAN,
            sum(n for _, n, _, _ in subsets),
            float(np.mean([r2 for _, _, r2, _ in subsets])),
            np.mean([draws for _, _, _, draws in subsets], axis=0),
        )
        for subset, n_images, r2, draws in [*subsets, mean]:
            low, high = interval(draws)
            rows.append(
                {
                    "subset": subset,
                    "layer": point.layer,
                    "alias": point.alias,
                    "depth": point.depth,
                    "n_features": matrix.shape[1],
                    "n_images": n_images,
                    "weights": kind,
                    "target": target,
                    "regressor": regressor,
                    "r2": r2,
                    "r2_low": float(low),
                    "r2_high": float(high),
                    "seed_count": plan.repeats,
                }
            )
    return rows


def _squared_errors(
    part: _Part, features: Float64[np.ndarray, "n d"], regressors: Sequence[str]
) -> dict[str, Float64[np.ndarray, "r n c"]]:
    """Squared errors on the held-out images, by kind of target; zero where an image was fitted."""
    kinds = list(part.targets)
    errors = {kind: np.zeros((*part.is_held_out.shape, len(regressors))) for kind in kinds}
    for repeat, held_out in enumerate(part.is_held_out):
        targets = np.stack([part.targets[kind][repeat] for kind in kinds], axis=1)
        for column, regressor in enumerate(regressors):
            fitted = _fit(
                regressor,
                features[~held_out],
                targets[~held_out],
                features[held_out],
                part.groups[~held_out],
            )
            squares = (targets[held_out] - fitted.predictions) ** 2
            for number, kind in enumerate(kinds):
                errors[kind][repeat, held_out, column] = squares[:, number]
    return errors


def _fit(
    regressor: str, train: np.ndarray, targets: np.ndarray, held_out: np.ndarray, groups: np.ndarray
) -> HeldOut:
    if regressor == "ols":
        return least_squares(train, targets, held_out)
    return nested_ridge(decompose(train, held_out), targets, groups)


def _mean_r_squared(
    part: _Part, values: Float64[np.ndarray, "r n"], errors: Float64[np.ndarray, "r n c"]
) -> Float64[np.ndarray, " c"]:
    scores = []
    for y, squares, held_out in zip(values, errors, part.is_held_out, strict=True):
        spread = np.sum((y[held_out] - y[held_out].mean()) ** 2)
        scores.append(1 - squares[held_out].sum(axis=0) / spread)
    return np.mean(scores, axis=0)


# --- checks and facts ----------------------------------------------------------------------------


def _check_names(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise DataError(f"No {what} is named {name!r}. Give one or more of {', '.join(known)}.")


def _check_size(image_set: ImageSet) -> None:
    names = np.array(image_set.subset)
    for subset in image_set.subsets:
        rows = names == subset
        n, n_groups = int(rows.sum()), len(set(np.array(image_set.group)[rows]))
        if n < LEAST_IMAGES:
            raise DataError(
                f"There are {n} images of {subset!r}, but at least {LEAST_IMAGES} are needed to fit and test. "
                f"Add images, or leave {subset!r} out of --subset."
            )
        if n_groups < 4:
            raise DataError(
                f"The {n} images of {subset!r} are of {n_groups} groups, but at least 4 are needed to keep groups "
                "apart. Give images of more groups, or a group an image."
            )
        measure = image_set.measure[rows]
        if np.ptp(measure) == 0:
            raise DataError(
                f"All {n} images of {subset!r} have the same measure, {measure[0]:g}, so nothing can be "
                "regressed on it. Choose images whose objects differ in size."
            )


def _image_facts(image_set: ImageSet) -> dict[str, object]:
    """Numbers and a fingerprint: the hash of every image's content with its measure and subset."""
    digest = hashlib.sha256()
    rows = zip(image_set.images, image_set.measure, image_set.subset, image_set.group, strict=True)
    for image, measure, subset, group in rows:
        digest.update(f"{image.key()} {measure!r} {subset} {group}\n".encode())
    names = np.array(image_set.subset)
    return {
        "n_images": len(image_set),
        "n_by_subset": {subset: int((names == subset).sum()) for subset in image_set.subsets},
        "measure": image_set.measure_name,
        "sha256": digest.hexdigest(),
    }


class _Stages:
    """Seconds by stage."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def report(self, done: int, total: int) -> None:
        if self.progress:
            self.progress("regression", done, total)

    def facts(self, answers: dict[str, Features]) -> dict[str, dict[str, float]]:
        """Seconds of every stage; images/s of the stages in which images were computed."""
        facts = {stage: {"seconds": round(seconds, 3)} for stage, seconds in self.seconds.items()}
        for stage, features in zip(("features", "random twin"), answers.values(), strict=False):
            facts[stage]["images_computed"] = features.n_computed
            if features.n_computed:
                facts[stage]["images_per_second"] = round(features.n_computed / features.seconds, 1)
        return facts


__all__ = ["Curve", "Plan", "chosen_points", "probe", "r_squared", "score", "twin_for"]
