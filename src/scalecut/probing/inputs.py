"""What a question is asked of, by name or as it is: images that are enough, layers that answer.

Shared by all that look at a network: the probe, its controls and what goes beyond it.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import cache
from ..data.annotations import read_images
from ..data.images import Image, ImageSet, LeftOut, evenly, keys_of
from ..data.measures import Frame, measure_named, share_of
from ..data.scenes import made_up_scenes
from ..errors import DataError, LayerError, ModelError, ScalecutError
from ..features.backends import resolved_way
from ..features.extract import Compute, Extracted, Progress, decoded, extract
from ..networks.layers import ProbePoint, probe_points, select_layers
from ..networks.missing import answerable
from ..networks.models import Network, permuted_twin, random_twin
from ..stats.ridge import decompose, left_group_out, r_squared
from .scores import MEAN

LEAST_IMAGES = 20  # of one subset: 14 to fit, 6 to test
LEAST_GROUPS = 4
TWIN_IMAGES, TWIN_BATCH = 128, 32  # from which a random twin takes its batch-norm statistics
CHECKED_IMAGES = 128  # in int8 and in float32
CHECKED_ROWS = 4096  # of features, at a time
MOST_MOVED = 0.02  # by int8, in R²


@dataclass(frozen=True, slots=True)
class Look:
    """How a network is made to look at images."""

    fit: str = "squash"
    precision: str = "auto"
    device: str = "auto"
    batch_size: int = 32
    engine: str = "torch"
    half: bool = False  # features kept in float16

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(
                f"A batch cannot be of {self.batch_size} images. Give --batch-size 1 or more."
            )


def chosen_points(
    network: Network, layers: Sequence[str] = ()
) -> tuple[list[ProbePoint], tuple[LeftOut, ...]]:
    """The points to probe, and those that the network cannot answer for, with the reason.

    Raises:
        LayerError: if a name fits no layer.
        ModelError: if the network does not run at its input size.
    """
    points = every_point(network, layers)
    return answerable(network, select_layers(points, layers) if layers else points)


def every_point(network: Network, layers: Sequence[str] = ()) -> list[ProbePoint]:
    """All points, and the modules among `layers` too, whether they can be answered for or not.

    Raises:
        ModelError: if the network does not run at its input size.
    """
    modules = {name for name, _ in network.module.named_modules() if name}
    also = [name for name in layers if name in modules]
    try:
        return probe_points(network.module, network.example(), also=also)
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ScalecutError):
            raise
        height, width = network.preprocessing.height, network.preprocessing.width
        raise ModelError(
            f"{network.name} does not run on {height} x {width} px ({first_line(error)}). Give "
            "another --input-size, or the network's own."
        ) from error


def refusal(
    points: Sequence[ProbePoint], pooled: Callable[[Tensor], list[np.ndarray]], batch: Tensor
) -> str:
    """Why a network cannot be used on inputs of this size; empty if it can."""
    try:
        answers = pooled(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    for point, answer in zip(points, answers, strict=True):
        if answer.shape != (len(batch), point.channels):
            n = answer.size // len(batch)
            return f"{point.label} gives {n} values there, not {point.channels}"
    return ""


def first_line(error: Exception) -> str:
    """The beginning of what a library said, short enough to stand inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100].rstrip(".")


def twin_of(
    network: Network, image_set: ImageSet, look: Look, seed: int, kind: str = "random"
) -> Network:
    """A `random` or `permuted` twin whose batch norms know the images it will be probed on."""
    numbers = evenly(len(image_set), TWIN_IMAGES)
    ready = decoded(
        image_set.images, numbers, network.preprocessing, look.fit, batch_size=TWIN_BATCH
    )
    batches = (batch.to(network.device) for _, batch, _ in ready if len(batch) > 1)
    on = network.device.type
    in_bfloat16 = resolved_way(look.engine, look.precision, on).precision == "bfloat16"
    twin = permuted_twin if kind == "permuted" else random_twin
    with torch.autocast(on, torch.bfloat16, enabled=in_bfloat16):
        return twin(network, seed, batches)


def comparable(network: Network, seed: int) -> Network:
    """The network, or, where its weights are random, a twin such as the probe compares with.

    Its batch norms know made-up scenes, for questions that have other images than a probe, or none.
    """
    if network.weights.kind != "random":
        return network
    return twin_of(network, made_up_scenes(TWIN_IMAGES, seed=seed), Look(), seed)


@dataclass(frozen=True, slots=True)
class Reading:
    """Which images are read, and how their objects are measured."""

    subsets: tuple[str, ...] = ()
    measure: str = "area"
    objects: str = "single"
    skip_truncated: bool = False
    skip_difficult: bool = False
    strict: bool = False
    images_folder: Path | None = None
    at_most: int = 0  # images, drawn by group; 0 for all


def images_of(
    data: str | ImageSet,
    frame: Frame,
    reading: Reading,
    *,
    seed: int = 0,
    enough: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """The rows that are asked for, of files, of made-up scenes, or as they are given.

    Args:
        enough: leave out subsets that are too small to be probed.

    Raises:
        DataError: if there are too few images, or their measure does not vary.
    """
    if isinstance(data, ImageSet):
        image_set = of_subsets(data, reading.subsets)
    elif data == "scenes":
        image_set = _scenes(frame, reading, seed)
    else:
        asked = {
            each.name: getattr(reading, each.name)
            for each in fields(reading)
            if each.name != "at_most"
        }
        image_set = read_images(data, frame, **asked, progress=progress)
    if reading.at_most:
        image_set = _drawn(image_set, reading.at_most, seed)
    return _large_enough(image_set, only_named=bool(reading.subsets)) if enough else image_set


def _drawn(image_set: ImageSet, n: int, seed: int) -> ImageSet:
    """A random part of at most n images in whole groups, in their own order."""
    if n < 1:
        raise DataError(f"--at-most must be at least 1, got {n}. Give 0 for all images.")
    if len(image_set) <= n:
        return image_set
    groups, of_image = np.unique(image_set.group, return_inverse=True)
    sizes = np.bincount(of_image)
    order = np.random.default_rng([seed, n]).permutation(len(groups))
    drawn = order[np.cumsum(sizes[order]) <= n]
    part = image_set.rows(np.isin(of_image, drawn))
    reason = f"not among the {len(part)} of {len(image_set)} images drawn by --at-most {n}"
    dropped = LeftOut(f"{len(image_set) - len(part)} images", f"{reason} with seed {seed}")
    return replace(part, left_out=(*image_set.left_out, dropped))


def _scenes(frame: Frame, reading: Reading, seed: int) -> ImageSet:
    """Made-up scenes with the measure asked for, of what the frame shows of them."""
    scenes = of_subsets(made_up_scenes(seed=seed), reading.subsets)
    of_shares = measure_named(reading.measure)
    measure = []
    for image, box in zip(scenes.images, cast(np.ndarray, scenes.boxes), strict=True):
        width, height = image.picture().size
        measure.append(of_shares(*share_of(tuple(box), frame.window(width, height)), frame))
    return replace(scenes, measure=np.array(measure), measure_name=reading.measure)


def of_subsets(image_set: ImageSet, subsets: Sequence[str]) -> ImageSet:
    """The rows of some subsets; all if none is named."""
    unknown = [name for name in subsets if name not in image_set.subsets]
    if unknown:
        raise DataError(
            f"No subset is named {unknown[0]!r}. There are {', '.join(image_set.subsets)}."
        )
    return image_set.rows(np.isin(image_set.subset, list(subsets or image_set.subsets)))


def check_names(given: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    is_one = isinstance(given, str)
    names = (given,) if is_one else tuple(dict.fromkeys(given))
    for name in names:
        if name not in known:
            most = "one" if is_one else "one or more"
            raise DataError(f"No {what} is named {name!r}. Give {most} of {', '.join(known)}.")
    return names


def _large_enough(image_set: ImageSet, *, only_named: bool) -> ImageSet:
    """Without subsets that are too small; those that were asked for by name must not be."""
    names = np.array(image_set.subset)
    small = {s: n for s in image_set.subsets if (n := int((names == s).sum())) < LEAST_IMAGES}
    if only_named or len(small) == len(image_set.subsets):
        check_size(image_set)
    left_out = tuple(
        LeftOut(subset, f"{n} images, fewer than the {LEAST_IMAGES} needed to fit and to test")
        for subset, n in small.items()
    )
    kept = image_set.rows(~np.isin(names, list(small)))
    check_size(kept)
    return replace(kept, left_out=(*image_set.left_out, *left_out))


def check_size(image_set: ImageSet) -> None:
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
            given = "is 1 image" if n == 1 else f"are {n} images"
            raise DataError(
                f"There {given} of {subset!r}, but at least {LEAST_IMAGES} are needed to fit and "
                "to test. Add images, or choose other subsets."
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


def check_finite(network: Network, features: Extracted) -> None:
    for layer, matrix in features.matrices.items():
        n_bad = 0
        for start in range(0, len(matrix), CHECKED_ROWS):
            is_fine = np.isfinite(matrix[start : start + CHECKED_ROWS]).all(axis=1)
            n_bad += int((~is_fine).sum())
            cache.released(matrix)
        if n_bad:
            without_half = " and no --half" if matrix.dtype == np.float16 else ""
            raise LayerError(
                f"Layer {layer!r} of {network.name} gave values that are not finite for {n_bad} "
                f"of {len(matrix)} images. Try --precision float32{without_half}, or choose other "
                "--layers."
            )


def check_int8(
    network: Network,
    sample: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    in_int8: Mapping[str, Float[np.ndarray, "_ _"]],
    stages: "Stages",
) -> dict[str, object]:
    """How far int8 moved R² from float32, at the layer where it did most.

    Of ridge that predicts the measure of each of some images, evenly chosen, from the other groups:
    the images, the groups and the engine are the same for both.

    Args:
        sample: images, about `CHECKED_IMAGES`.
        in_int8: their features, by layer.

    Raises:
        ModelError: if it moved by more than `MOST_MOVED`.
    """
    in_float32 = replace(look, engine="openvino", precision="float32")
    exact = stages.extracted(network, sample.images, points, in_float32, "check of int8").matrices
    groups = np.unique(sample.group, return_inverse=True)[1]

    def score(matrix: np.ndarray) -> float:
        rows = matrix.astype(np.float64)
        predicted = left_group_out(decompose(rows, rows[:0]), sample.measure, groups)
        return float(r_squared(sample.measure, predicted))

    moved = {layer: score(in_int8[layer]) - score(exact[layer]) for layer in exact}
    layer, most = max(moved.items(), key=lambda item: abs(item[1]))
    if not abs(most) <= MOST_MOVED:
        raise ModelError(
            f"int8 moved R² at {layer!r} of {network.name} by {most:+.3f} from float32, on "
            f"{len(sample)} images; {MOST_MOVED:g} is allowed. Give --precision bfloat16."
        )
    return {"int8_moved": round(most, 4), "int8_moved_at": layer, "int8_checked_on": len(sample)}


def image_facts(image_set: ImageSet) -> dict[str, object]:
    """Numbers and a fingerprint: the hash of every image's content with its measure and subset."""
    digest = hashlib.sha256()
    keys = keys_of(image_set.images)
    rows = zip(keys, image_set.measure, image_set.subset, image_set.group, strict=True)
    for key, measure, subset, group in rows:
        if isinstance(key, DataError):
            raise key
        digest.update(f"{key} {measure!r} {subset} {group}\n".encode())
    names = np.array(image_set.subset)
    return {
        "n_images": len(image_set),
        "n_by_subset": {subset: int((names == subset).sum()) for subset in image_set.subsets},
        "measure": image_set.measure_name,
        "sha256": digest.hexdigest(),
    }


class Stages:
    """Seconds by stage, and images/s of the stages in which images were computed."""

    def __init__(self, progress: Progress | None, compute: Compute | None = None) -> None:
        self.progress, self.compute = progress, compute
        self.facts: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = self.facts.setdefault(stage, {"seconds": 0.0})["seconds"]
        self.facts[stage]["seconds"] = round(seconds + time.perf_counter() - start, 3)

    def extracted(
        self,
        network: Network,
        images: Sequence[Image],
        points: Sequence[ProbePoint],
        look: Look,
        stage: str = "features",
    ) -> Extracted:
        """Features of all images, timed and with progress."""
        with self(stage):
            found = extract(
                network,
                images,
                points,
                **asdict(look),
                compute=self.compute,
                progress=self.progress,
                stage=stage,
            )
        self.facts[stage]["images_computed"] = found.n_computed
        if found.n_computed:
            self.facts[stage]["images_per_second"] = round(found.n_computed / found.seconds, 1)
        return found

    def report(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage that counts for itself."""
        return lambda done, total: self.progress(stage, done, total) if self.progress else None
