"""Which images belong together: a group (patient, slide, copies of one image) is never split."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..cache import file_sha256
from ..errors import DataError
from .assumptions import Assumed
from .images import Image, Labelled

_OF_PATIENTS = (
    r"(?:^|[/_. -])((?:patient|pat|subject|subj|participant|case|donor|animal|mouse|slide|wsi|"
    r"volume|video)[_ -]?\d+)(?![0-9A-Za-z])"
)
TCGA = re.compile(r"(TCGA-\w{2}-\w{4})")  # barcodes: project, site, participant
# Names whose origin is known, and the part that images share.
KNOWN = {
    "TCGA participants": TCGA,
    "subjects of BIDS": re.compile(r"(?:^|/)(sub-[0-9A-Za-z]+)(?=[_/])"),
    "patients, slides or the like": re.compile(_OF_PATIENTS, re.IGNORECASE),
    "originals of Roboflow's copies": re.compile(r"(?:^|/)([^/]+)\.rf\.[0-9A-Za-z]{8,}"),
}


def check_grouping(column: str, no_groups: bool, from_name: str) -> None:
    """Check the options that choose groups.

    Raises:
        DataError: if several are given, or the expression cannot be used.
    """
    chosen = [
        option
        for option, is_given in (
            ("--group", bool(column)),
            ("--no-groups", no_groups),
            ("--group-from-name", bool(from_name)),
        )
        if is_given
    ]
    if len(chosen) > 1:
        raise DataError(f"{' and '.join(chosen)} contradict each other. Give one of them.")
    try:
        re.compile(from_name)
    except re.error as error:
        raise DataError(
            f"--group-from-name {from_name!r} is not a regular expression ({error}). Give one such "
            "as '^([^_]+)_'."
        ) from error


def grouped(
    labelled: Sequence[Labelled], from_name: str, by_known_names: bool
) -> tuple[list[Labelled], list[Assumed]]:
    """The images with their groups, and a sentence if these follow from their names.

    Args:
        from_name: a regular expression; the first parenthesis, or all that matches, is the group.
        by_known_names: whether names of known origin give groups where there are none.

    Raises:
        DataError: if a name does not match.
    """
    if from_name:
        found = [re.search(from_name, item.image.name) for item in labelled]
        missing = [i.image.name for i, match in zip(labelled, found, strict=True) if not match]
        if missing:
            raise DataError(
                f"--group-from-name {from_name!r} matches {len(found) - len(missing)} of "
                f"{len(found)} names; the first that it does not match is {missing[0]!r}."
            )
        names = [match.group(bool(match.groups())) or "" for match in found if match]
        return [replace(i, group=n) for i, n in zip(labelled, names, strict=True)], []
    if not by_known_names or any(item.group for item in labelled):
        return list(labelled), []
    for what, pattern in KNOWN.items():
        found = [pattern.search(item.image.name) for item in labelled]
        names = {match.group(1) for match in found if match}
        if 0 < len(names) < sum(map(bool, found)):
            given = [
                replace(item, group=match.group(1) if match else "")
                for item, match in zip(labelled, found, strict=True)
            ]
            text = f"{len(names)} {what}, by the names of images, are groups"
            return given, [Assumed(text, "groups")]
    return list(labelled), []


def joined(images: Sequence[Image], groups: Sequence[str]) -> tuple[list[str], int]:
    """The groups, where those with identical files are one; and the number of such files.

    Only files of equal size are read.
    """
    sizes: defaultdict[int, set[Path]] = defaultdict(set)
    for image in images:
        if isinstance(image.source, Path):
            sizes[image.source.stat().st_size].add(image.source.absolute())
    same: defaultdict[str, set[Path]] = defaultdict(set)
    for paths in sizes.values():
        if len(paths) > 1:
            for path in paths:
                same[file_sha256(path)].add(path)
    key_of = {path: key for key, paths in same.items() if len(paths) > 1 for path in paths}
    files = [image.source for image in images]
    own = [file.absolute() if isinstance(file, Path) else None for file in files]
    return united(groups, [key_of.get(path, path) if path else None for path in own]), len(key_of)


def united(groups: Sequence[str], keys: Sequence[object]) -> list[str]:
    """The groups, where those with rows of one key are one; None is no key."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    first: dict[object, str] = {}
    for group, key in zip(groups, keys, strict=True):
        if key is not None:
            one, other = root(first.setdefault(key, group)), root(group)
            parent[max(one, other)] = min(one, other)
    return [root(group) for group in groups]
