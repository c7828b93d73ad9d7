"""Images by name: a data specification to an ImageSet with enough images of each subset."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

import numpy as np

from ..errors import DataError
from ..features.extract import Progress
from .annotations import read_images
from .images import MEAN, ImageSet, LeftOut
from .measures import Frame, measure_named, share_of
from .scenes import made_up_scenes

LEAST_IMAGES = 20  # of one subset: 14 to fit, 6 to test


LEAST_GROUPS = 4


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
