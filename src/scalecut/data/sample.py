"""A part of an image set: some subsets, a random part, or what is large enough to be probed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from ..errors import DataError, check_names
from .images import MEAN, ImageSet, LeftOut

LEAST_IMAGES = 20  # of one subset: 14 for training, 6 for testing
LEAST_GROUPS = 4
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
    mean = np.bincount(of_image, image_set.measure) / sizes
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
    names = np.array(image_set.subset)
    small = {s: n for s in image_set.subsets if (n := int((names == s).sum())) < LEAST_IMAGES}
    if only_named or (strict and small) or len(small) == len(image_set.subsets):
        check_size(image_set)
    skipped = tuple(
        LeftOut(
            subset, f"{n} images, fewer than the {LEAST_IMAGES} needed for training and testing"
        )
        for subset, n in small.items()
    )
    kept = image_set.rows(~np.isin(names, list(small)))
    check_size(kept)
    return replace(kept, left_out=(*image_set.left_out, *skipped))


def check_size(image_set: ImageSet) -> None:
    """Check that every subset can be probed.

    Raises:
        DataError: if one has too few images or groups, or a measure that is not finite or constant.
    """
    names = np.array(image_set.subset)
    others = "Add images of more groups."
    if image_set.facts.get("groups_by"):
        others = "Add images of more groups, or give --no-groups if images are independent."
    part = cast(Mapping[str, int], image_set.facts.get("drawn", {}))
    more = f"Draw more than {part['n']} of {part['of']}: --at-most." if part else ""
    for subset in image_set.subsets:
        rows = names == subset
        measure = image_set.measure[rows]
        n, n_groups = len(measure), len(set(np.array(image_set.group)[rows]))
        bad = np.flatnonzero(~np.isfinite(measure))
        if subset == MEAN:
            raise DataError(
                f"A subset is named {MEAN!r}, which is reserved for the mean over subsets. "
                "Rename it."
            )
        if bad.size:
            raise DataError(
                f"{bad.size} of {n} images of {subset!r} have a measure that is not finite, the "
                f"first is number {bad[0]}. Remove these images."
            )
        if n < LEAST_IMAGES:
            raise DataError(
                f"Subset {subset!r} needs at least {LEAST_IMAGES} images for training and testing, "
                f"got {n}. {more or 'Add images, or choose other subsets.'}"
            )
        if n_groups < LEAST_GROUPS:
            raise DataError(
                f"Subset {subset!r} needs images of at least {LEAST_GROUPS} groups, since groups "
                f"are never split, but its {n} images have {n_groups}. "
                f"{more or others}"
            )
        if np.ptp(measure) == 0:
            raise DataError(
                f"All {n} images of {subset!r} have the same measure, {measure[0]:g}, so "
                "nothing can be regressed on it. Choose images whose objects differ in size."
            )
