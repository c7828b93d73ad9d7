"""How much of an object's scale each layer carries: the curve of held-out R², with its controls.

For every subset of the images (one class of objects) and every layer, the measure is regressed on
the pooled features, in `repeats` splits of 70 % to fit and 30 % to test, by group. The same splits
serve every layer, regressor, target and set of weights. Source: section 4.3 of `graziani2021`; the
ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from .annotations import read_images
from .errors import DataError, LayerError, ModelError, ScalecutError
from .features import (
    Features,
    Progress,
    answerable,
    decoded,
    extract,
    resolved_precision,
)
from .figures import curve_figure
from .images import ImageSet, LeftOut
from .layers import SOFTMAX, ProbePoint, probe_points, select_layers
from .measures import Frame, measure_named, share_of
from .models import Network, Preprocessing, load_network, random_twin, tensors_sha256
from .scenes import made_up_scenes
from .scores import MEAN, draw_parts, score

REGRESSORS = ("ridge", "ols")
CONTROLS = ("random", "shuffled")
LEAST_IMAGES = 20  # of one subset: 14 to fit, 6 to test
LEAST_GROUPS = 4
TWIN_IMAGES, TWIN_BATCH = 128, 32  # from which a random twin takes its batch-norm statistics

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
    regressors, controls = _checked(regressors, controls, repeats, batch_size)
    stages, look = _Stages(progress), Look(fit, precision, device, batch_size)
    with stages("network"):
        if not isinstance(model, Network):
            model = load_network(
                model,
                weights=weights,
                allow_partial=allow_partial,
                seed=seed,
                preprocessing=preprocessing,
            )
        points, layers_left_out = chosen_points(model, layers)
    reading: dict[str, Any] = {
        "measure": measure,
        "objects": objects,
        "skip_truncated": skip_truncated,
        "skip_difficult": skip_difficult,
        "strict": strict,
        "images_folder": Path(images_folder) if images_folder else None,
    }
    with stages("images"):
        image_set = _images(data, model.preprocessing.frame(fit), subsets, seed, reading)
    if model.weights.kind == "random":
        model = twin_of(model, image_set, look, seed)
    kept, answers = _answers(model, image_set, points, look, stages, strict=strict)
    if "random" in controls and model.weights.kind != "random":
        answers["random"] = _twin_answers(model, kept, points, look, stages, seed)
    with stages("regression"):
        parts = draw_parts(kept, repeats, seed, shuffled="shuffled" in controls)
        matrices = {kind: features.matrices for kind, features in answers.items()}
        table = score(parts, points, matrices, regressors, stages.report)
        table = table.assign(model=model.name, measure=kept.measure_name)
    drawn = {"repeats": repeats, "seed": seed, "regressors": regressors, "controls": controls}
    facts = _facts(model, kept, answers, look) | {"stages": stages.facts(answers)}
    images_left_out = (*image_set.left_out, *answers[model.weights.kind].left_out)
    table = pd.DataFrame(table, columns=COLUMNS)
    return Curve(table, tuple(points), layers_left_out, images_left_out, {"probe": drawn} | facts)


def _images(
    data: str | ImageSet, frame: Frame, subsets: Sequence[str], seed: int, reading: dict[str, Any]
) -> ImageSet:
    """The rows that are asked for, of files, of made-up scenes, or as they are given."""
    if isinstance(data, ImageSet):
        image_set = of_subsets(data, subsets)
    elif data == "scenes":
        image_set = _scenes(frame, subsets, seed, reading)
    else:
        image_set = read_images(data, frame, subsets=tuple(subsets), **reading)
    return _large_enough(image_set, only_named=bool(subsets))


def _scenes(frame: Frame, subsets: Sequence[str], seed: int, reading: dict[str, Any]) -> ImageSet:
    """Made-up scenes with the measure asked for, of what the frame shows of them."""
    scenes = of_subsets(made_up_scenes(seed=seed), subsets)
    name, of_shares = reading["measure"], measure_named(reading["measure"])
    measure = []
    for image, box in zip(scenes.images, cast(np.ndarray, scenes.boxes), strict=True):
        width, height = image.picture().size
        measure.append(of_shares(*share_of(tuple(box), frame.window(width, height)), frame))
    return replace(scenes, measure=np.array(measure), measure_name=name)


def of_subsets(image_set: ImageSet, subsets: Sequence[str]) -> ImageSet:
    """The rows of some subsets; all if none is named."""
    unknown = [name for name in subsets if name not in image_set.subsets]
    if unknown:
        raise DataError(
            f"No subset is named {unknown[0]!r}. There are {', '.join(image_set.subsets)}."
        )
    return image_set.rows(np.isin(image_set.subset, list(subsets or image_set.subsets)))


@dataclass(frozen=True, slots=True)
class Look:
    """How a network is made to look at images."""

    fit: str = "squash"
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 32


def _answers(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    stages: "_Stages",
    *,
    strict: bool,
) -> tuple[ImageSet, dict[str, Features]]:
    """The images that could be read, and the network's features of them."""
    with stages("features"):
        found = extract(network, image_set.images, points, **asdict(look), progress=stages.progress)
    if strict and found.left_out:
        bad = found.left_out[0]
        reason = bad.reason.rstrip(".")
        raise DataError(f"{bad.name}: {reason}. Mend or remove it, or drop --strict.")
    _check_finite(network, found)
    kept = image_set.rows(found.is_read)
    _check_size(kept)
    return kept, {network.weights.kind: found}


def _twin_answers(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    stages: "_Stages",
    seed: int,
) -> Features:
    """The features that a random twin of the network gives."""
    with stages("random twin"):
        twin = twin_of(network, image_set, look, seed)
        return extract(
            twin,
            image_set.images,
            points,
            **asdict(look),
            progress=stages.progress,
            stage="random twin",
        )


def chosen_points(
    network: Network, layers: Sequence[str] = ()
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """The points to probe, and those that the network cannot answer for, with the reason.

    Raises:
        LayerError: if a name fits no layer.
        ModelError: if the network does not run at its input size.
    """
    modules = {name for name, _ in network.module.named_modules() if name}
    also = [name for name in layers if name in modules]
    try:
        points = probe_points(network.module, network.example(), also=also)
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ScalecutError):
            raise
        height, width = network.preprocessing.height, network.preprocessing.width
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{network.name} does not run on {height} x {width} px ({reason[:100]}). Give another "
            "--input-size, or the network's own."
        ) from error
    if layers:
        points = select_layers(points, layers)
    return answerable(network, points)


def twin_of(network: Network, image_set: ImageSet, look: Look, seed: int) -> Network:
    """A random twin whose batch norms know the images that it will be probed on."""
    n = len(image_set)
    numbers = np.linspace(0, n - 1, min(n, TWIN_IMAGES)).round().astype(int).tolist()
    ready = decoded(
        image_set.images, numbers, network.preprocessing, look.fit, batch_size=TWIN_BATCH
    )
    batches = (batch.to(network.device) for _, batch, _ in ready if len(batch) > 1)
    kind = network.device.type
    in_bfloat16 = resolved_precision(look.precision, kind) == "bfloat16"
    with torch.autocast(kind, torch.bfloat16, enabled=in_bfloat16):
        return random_twin(network, seed, batches)


# --- checks and facts ----------------------------------------------------------------------------


def _checked(
    regressors: Sequence[str], controls: Sequence[str], repeats: int, batch_size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    regressors = _check_names(regressors, REGRESSORS, "regressor")
    controls = _check_names(controls, CONTROLS, "control")
    if not regressors:
        raise DataError(f"No regressor is given. Give one or more of {', '.join(REGRESSORS)}.")
    if batch_size < 1:
        raise DataError(f"A batch cannot be of {batch_size} images. Give --batch-size 1 or more.")
    if repeats < 1:
        raise DataError(
            f"There cannot be {repeats} repeats. Give --repeats 1 or more; 10 as in the paper."
        )
    return regressors, controls


def _check_names(given: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for name in names:
        if name not in known:
            raise DataError(f"No {what} is named {name!r}. Give one or more of {', '.join(known)}.")
    return names


def _large_enough(image_set: ImageSet, *, only_named: bool) -> ImageSet:
    """Without subsets that are too small; those that were asked for by name must not be."""
    names = np.array(image_set.subset)
    small = {s: n for s in image_set.subsets if (n := int((names == s).sum())) < LEAST_IMAGES}
    if only_named or len(small) == len(image_set.subsets):
        _check_size(image_set)
    left_out = tuple(
        LeftOut(subset, f"{n} images, fewer than the {LEAST_IMAGES} needed to fit and to test")
        for subset, n in small.items()
    )
    kept = image_set.rows(~np.isin(names, list(small)))
    _check_size(kept)
    return replace(kept, left_out=(*image_set.left_out, *left_out))


def _check_size(image_set: ImageSet) -> None:
    names = np.array(image_set.subset)
    for subset in image_set.subsets:
        rows = names == subset
        measure = image_set.measure[rows]
        n, n_groups = len(measure), len(set(np.array(image_set.group)[rows]))
        bad = np.flatnonzero(~np.isfinite(measure))
        if subset == MEAN:
            raise DataError(
                f"A subset is named {MEAN!r}, but that stands for the mean over subsets. Rename it."
            )
        if bad.size:
            raise DataError(
                f"{bad.size} of {n} images of {subset!r} have a measure that is not finite, the "
                f"first is number {bad[0]}. Drop these images."
            )
        if n < LEAST_IMAGES:
            raise DataError(
                f"There are {n} images of {subset!r}, but at least {LEAST_IMAGES} are needed to "
                f"fit and to test. Add images, or choose other subsets."
            )
        if n_groups < LEAST_GROUPS:
            raise DataError(
                f"The {n} images of {subset!r} are of {n_groups} groups, but at least "
                f"{LEAST_GROUPS} are needed to keep groups apart. Give images of more groups, or a "
                "group an image."
            )
        if np.ptp(measure) == 0:
            raise DataError(
                f"All {n} images of {subset!r} have the same measure, {measure[0]:g}, so "
                "nothing can be regressed on it. Choose images whose objects differ in size."
            )


def _check_finite(network: Network, features: Features) -> None:
    for layer, matrix in features.matrices.items():
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if bad.size:
            raise LayerError(
                f"Layer {layer!r} of {network.name} gave values that are not finite for {bad.size} "
                f"of {len(matrix)} images. Try --precision float32, or choose other --layers."
            )


def _facts(
    network: Network, image_set: ImageSet, answers: dict[str, Features], look: Look
) -> dict[str, object]:
    """What the features were computed from, and how."""
    return {
        "look": asdict(look) | {"precision": answers[network.weights.kind].precision},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": _image_facts(image_set),
    }


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
