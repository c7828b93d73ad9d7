"""Images by name: a data specification to an ImageSet with enough images of each subset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from ..errors import DataError
from .annotations import (
    OBJECTS,
    WITH_MEASURE,
    Marked,
    Row,
    Rule,
    assembled,
    check_found,
    coco,
    masks,
    measured,
    place_of,
    voc,
)
from .images import (
    MEAN,
    ImageSet,
    LeftOut,
    Progress,
    leave,
    read_table,
    told,
    wanted_subsets,
)
from .measures import (
    Frame,
    measure_named,
    nearest,
    share_of,
)
from .scenes import make_scenes
from .storage import Stored
from .tables import read_shards

LEAST_IMAGES = 20  # of one subset: 14 to fit, 6 to test


LEAST_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """Which images are read, and how their objects are measured.

    Args:
        subset: Classes of objects, each probed separately; all by default.
        measure: What is regressed: area, sqrt-area, log-area, height or pixels.
        objects: single takes images with exactly one object of the class; largest the largest of
            several; mean their mean.
        images: The folder of images, where the annotations do not name it.
        skip_truncated: Skip images whose object is flagged as truncated.
        skip_difficult: Skip images whose object is flagged as difficult.
        strict: Stop at the first image that would be skipped.
        at_most: A random part of this many images, drawn by group; 0 for all.
    """

    subset: Sequence[str] = ()
    measure: str = "area"
    objects: Literal["single", "largest", "mean"] = "single"
    images: str | Path | None = None
    skip_truncated: bool = False
    skip_difficult: bool = False
    strict: bool = False
    at_most: int = 0


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
        image_set = of_subsets(data, reading.subset)
    elif data == "scenes":
        image_set = _scenes(frame, reading, seed)
    else:
        image_set = read_images(data, frame, reading, progress=progress)
    if reading.at_most:
        image_set = _drawn(image_set, reading.at_most, seed)
    return _large_enough(image_set, only_named=bool(reading.subset)) if enough else image_set


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
    scenes = of_subsets(make_scenes(seed=seed), reading.subset)
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


def read_images(
    spec: str,
    frame: Frame,
    reading: Reading | None = None,
    *,
    progress: Progress | None = None,
) -> ImageSet:
    """The images that `spec` names, one row for each subset that they belong to.

    Args:
        spec: `voc:DIR`, `coco:FILE`, `csv:FILE`, `masks:DIR` or `tar:PATTERN`; after `csv:` and
            `tar:` also an address, `s3://...`.
        reading: which images, and how their objects are measured.
        progress: called with (stage, done, all) where pictures or shards are opened one by one.
    """
    asked = reading or Reading()
    subsets, strict, measure, objects = asked.subset, asked.strict, asked.measure, asked.objects
    images_folder = None if asked.images is None else Path(asked.images)
    scheme, place = place_of(spec, images_folder)
    if scheme in WITH_MEASURE and measure != "area":
        what, where = WITH_MEASURE[scheme]
        raise DataError(
            f"{what} its own measure, so {measure!r} cannot be had of it. "
            f"Give no measure, or put that one into {where}."
        )
    if isinstance(place, str):
        return read_shards(place, subsets=subsets, strict=strict, progress=progress)
    if isinstance(place, Stored) or scheme == "csv":
        found_by = {"images_folder": images_folder, "progress": progress}
        return read_table(place, subsets=subsets, strict=strict, **found_by)
    measure_named(measure)
    if objects not in OBJECTS:
        offered = nearest(objects, OBJECTS)
        raise DataError(f"Objects cannot be chosen by {objects!r}. Choose one of {offered}.")
    flags = {"truncated": asked.skip_truncated, "difficult": asked.skip_difficult}
    rule = Rule(frame, measure, objects, frozenset(flag for flag, on in flags.items() if on))
    marked: list[Marked] = []
    left_out: list[LeftOut] = []
    for item in {"voc": voc, "coco": coco, "masks": masks}[scheme](place, images_folder):
        if isinstance(item, LeftOut):
            leave(item, left_out, strict)
        else:
            marked.append(item)
    if not marked:
        raise DataError(f"Nothing in {place} can be used. {told(left_out)}")
    there = frozenset(kind for item in marked for kind in item.kinds)
    wanted = wanted_subsets(str(place), subsets, there)
    rows: list[Row] = []
    for number, item in enumerate(marked, start=1):
        try:
            found = list(measured(item, wanted & item.kinds, rule))
        except DataError as error:
            leave(LeftOut(item.image.name, str(error)), left_out, strict)
        else:
            rows += [each for each in found if isinstance(each, Row)]
            left_out += [each for each in found if isinstance(each, LeftOut)]
        if progress:
            progress("listing", number, len(marked))
    check_found(place, rows, wanted if subsets else frozenset(), objects, left_out)
    return assembled(rows, measure, left_out)
