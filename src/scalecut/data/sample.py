"""A part of an image set: some subsets, a random part, or what is large enough to be probed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from ..errors import DataError, check_names
from .images import MEAN, ImageSet, LeftOut, Target, target_of
from .measures import MEASURES

LEAST_IMAGES = 20  # of one subset: 14 for training, 6 for testing
LEAST_GROUPS = 4  # of a subset, and of a class
LEAST_DETERMINED = 10  # groups whose images all have the same value: 7 to train, 3 to test
TOGETHER = "all classes"  # the subset of the class of the object
STRATUM = 10  # groups of close measures, of which at_most draws equally many


def at_most(image_set: ImageSet, n: int, seed: int) -> ImageSet:
    """A random part of at most n images in whole groups, in their order.

    Groups are drawn evenly from strata of about `STRATUM` groups with close measures in a subset.
    """
    if len(image_set) <= n:
        return image_set
    groups, of_image = np.unique(image_set.group, return_inverse=True)
    sizes = np.bincount(of_image)
    most, largest = sizes.max(), str(groups[sizes.argmax()])
    if most > n:  # nothing could be drawn, or smaller groups only
        raise DataError(
            f"--at-most {n} is less than the {most} images of the group {largest!r}, and groups "
            f"are drawn whole. Give {most} or more."
        )
    rng = np.random.default_rng([seed, n])
    first = np.unique(of_image, return_index=True)[1]
    mean = np.bincount(of_image, np.nan_to_num(image_set.measure)) / sizes
    ranked = np.lexsort((mean, np.array(image_set.subset)[first]))
    turn = np.empty(len(groups))  # when a group is drawn: one of each stratum after the other
    for start in range(0, len(groups), STRATUM):
        stratum = ranked[start : start + STRATUM]
        turn[stratum] = rng.permutation(len(stratum))
    order = np.lexsort((rng.random(len(groups)), turn))
    drawn = order[np.cumsum(sizes[order]) <= n]
    part = image_set.rows(np.isin(of_image, drawn))
    facts = {"n": len(part), "of": len(image_set), "seed": seed}
    return replace(part, facts={**image_set.facts, "drawn": facts})


def of_subsets(image_set: ImageSet, subsets: Sequence[str]) -> ImageSet:
    """The rows of some subsets; all if none is named."""
    check_names(tuple(subsets), image_set.subsets, "subset")
    return image_set.rows(np.isin(image_set.subset, list(subsets or image_set.subsets)))


def large_enough(image_set: ImageSet, *, only_named: bool, strict: bool) -> ImageSet:
    """Without subsets that are too small; those that were asked for by name must not be."""
    skipped: list[LeftOut] = []
    targets = []
    for target in image_set.targets:
        part = _part_of(image_set, target)
        is_kind = part.subsets == (TOGETHER,)  # subsets became classes
        kinds = [target.classes[int(n)] for n in part.measure] if is_kind else part.subset
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        small = {kind: n for kind, n in counts.items() if n < LEAST_IMAGES}
        if only_named or (strict and small) or len(small) == len(counts):
            check_size(part)
            small = {}
        what = f" with {target.name}" if image_set.more else ""
        reason = f"images{what}, fewer than the {LEAST_IMAGES} needed for training and testing"
        skipped += [LeftOut(kind, f"{n} {reason}") for kind, n in small.items()]
        values = target.values.copy()
        values[image_set.known(target.name)[np.isin(kinds, list(small))]] = np.nan
        if is_kind:  # the classes that are left have other numbers
            names = [target.classes[int(n)] if np.isfinite(n) else n for n in values]
            targets.append(target_of(target.name, names, target.subset))
        else:
            targets.append(replace(target, values=values))
    kept = image_set.asked(targets) if skipped else image_set
    check_size(kept)
    return replace(kept, left_out=(*image_set.left_out, *skipped))


def _part_of(image_set: ImageSet, target: Target) -> ImageSet:
    """The images of a target; all if there is but one, so that none is lost unseen."""
    return image_set.of(target.name) if image_set.more else image_set


def check_size(image_set: ImageSet) -> None:
    """Check that every target can be probed on every subset.

    Raises:
        DataError: if one has too few images or groups, or a measure that is not finite or constant,
            or a class of too few images.
    """
    if MEAN in image_set.subset:
        raise DataError(
            f"A subset is named {MEAN!r}, which is reserved for the mean over subsets. Rename it."
        )
    for target in image_set.targets:
        part = _part_of(image_set, target)
        names = np.array(part.subset)
        for subset in part.subsets:
            _check_size_of(
                part.rows(names == subset), f" with {target.name}" * bool(image_set.more)
            )


def _check_size_of(part: ImageSet, what: str) -> None:
    """Check the images of one target and subset."""
    measure, (subset,), name = part.measure, part.subsets, part.measure_name
    others = "Add images of more groups."
    if part.facts.get("groups_by"):
        others = "Add images of more groups, or give --no-groups if images are independent."
    drawn = cast(Mapping[str, int], part.facts.get("drawn", {}))
    more = f"Draw more than {drawn['n']} of {drawn['of']}: --at-most." if drawn else ""
    n, n_groups = len(measure), len(set(part.group))
    bad = np.flatnonzero(~np.isfinite(measure))
    if bad.size:
        raise DataError(
            f"{bad.size} of {n} images of {subset!r} have a measure that is not finite, the "
            f"first is number {bad[0]}. Remove these images."
        )
    if n < LEAST_IMAGES:
        raise DataError(
            f"Subset {subset!r} needs at least {LEAST_IMAGES} images{what} for training and "
            f"testing, got {n}. {more or 'Add images, or choose other subsets.'}"
        )
    if n_groups < LEAST_GROUPS:
        raise DataError(
            f"Subset {subset!r} needs images{what} of at least {LEAST_GROUPS} groups, since groups "
            f"are never split, but its {n} images have {n_groups}. "
            f"{more or others}"
        )
    if part.classes:
        _check_classes(part, subset, more)
    elif np.ptp(measure) == 0:
        other = "images whose objects differ in size"
        if name not in ("measure", *MEASURES):
            other = "another target"
        raise DataError(
            f"All {n} images of {subset!r} have the same {'measure' if what == '' else name}, "
            f"{measure[0]:g}, so nothing can be regressed on it. Choose {other}."
        )
    by_group = len(set(zip(part.group, measure.tolist(), strict=True)))
    if by_group == n_groups < min(n, LEAST_DETERMINED):
        raise DataError(
            f"All images of a group have the same {name!r}, so each group counts once, and subset "
            f"{subset!r} has {n_groups} of them; {LEAST_DETERMINED} are needed. {others}"
        )


def _check_classes(part: ImageSet, subset: str, more: str) -> None:
    """Check the classes of a target on one subset."""
    name, classes, n = part.measure_name, part.classes, len(part)
    if len(classes) == n:
        raise DataError(
            f"{name!r} has another value for each of the {n} images of {subset!r}, as names and "
            "numbers of images have, so no class can be learned. Choose another target."
        )
    if len(classes) == 1:
        raise DataError(
            f"All {n} images of {subset!r} are of the class {classes[0]!r} of {name!r}, so there "
            "is nothing to tell apart. Choose another target, or add images of other classes."
        )
    groups = np.array(part.group)
    for number, kind in enumerate(classes):
        own = groups[part.measure == number]
        n_groups = len(set(own))
        if n_groups < LEAST_GROUPS:
            of_groups = f" of {n_groups} group{'s' * (n_groups > 1)}" * (n_groups < len(own))
            counted = f"{len(own)} images{of_groups}"
            raise DataError(
                f"The class {kind!r} of {name!r} has {counted} of {subset!r}, and needs "
                f"{LEAST_GROUPS} {'groups' if n_groups < len(own) else 'images'}, so that training "
                f"and test images have some in every split. {more or 'Join it with another class,'}"
                f"{'' if more else ' leave it empty in the table, or add images of it.'}"
            )
