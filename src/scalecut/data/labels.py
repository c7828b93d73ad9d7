"""Labels as they are used: each annotation once, boxes in pixels, and images in groups.

A reader yields labels as its files hold them; what is changed or assumed goes into the record.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

from . import boxes
from .assumptions import Assumed
from .files import composed
from .groups import grouped
from .images import Labelled, LeftOut
from .options import Reading
from .record import Record

CROWD = "crowd"  # a flag
BY_NAMES = "the names of images"  # which group them without being asked


def labels_of(
    found: Iterator[Labelled | LeftOut | Assumed | str],
    asked: Reading,
    place: str,
    log: Record,
    *,
    column: str,
    by_format: str,
) -> list[Labelled]:
    """The images that a reader yields, with boxes as corners in pixels, and their groups.

    Args:
        place: of the data, for messages.
        log: gets what is skipped, assumed and stated.
        column, by_format: of the reader.
    """
    labelled: list[Labelled] = []
    for item in found:
        if isinstance(item, LeftOut):
            log.skip(item)
        elif isinstance(item, Assumed):
            log.assume(item)
        elif isinstance(item, str):
            log.stated.append(item)
        else:
            item = _composed(item)
            labelled.append(replace(item, group="") if asked.no_groups else item)
    is_share = not boxes.UNITS.keys().isdisjoint(asked.boxes)
    unsized = [
        item
        for item in labelled
        if isinstance(item.label, tuple)
        and item.size is None
        and not (is_share or item.form.startswith(boxes.NORMALISED))
    ]
    if unsized and by_format:
        log.stated.append(by_format)
    elif unsized:
        drawn = "outlines" if asked.marks == "masks" else "boxes"
        text = (
            f"{len(unsized)} annotations do not state the size of their image (the first is that "
            f"of {unsized[0].image.name}); their {drawn} are taken to be drawn on it as it is"
        )
        log.assume(Assumed(text, "size"))
    labelled = _without_copies(labelled, log)
    marks = [mark for item in labelled if isinstance(item.label, tuple) for mark in item.label]
    n_crowds = sum(CROWD in mark.flags for mark in marks)
    if n_crowds:
        log.stated.append(f"{n_crowds} annotations are crowds (iscrowd), which are not measured")
    labelled, statements = boxes.in_pixels(labelled, asked.boxes, place, asked.rendering)
    for statement in statements:
        log.assume(statement)
    has_groups = any(item.group for item in labelled)
    labelled, statements = grouped(labelled, asked.group_from_name, not asked.no_groups)
    for statement in statements:
        log.assume(statement)
    if asked.group_from_name:
        log.groups_by = f"the names of images, by {asked.group_from_name}"
    elif statements:
        log.groups_by = BY_NAMES
    elif has_groups:
        log.groups_by = f"the {column} {asked.group or 'group'}"
    labelled = [replace(item, group=composed(item.group)) for item in labelled]
    _check_spelling("groups", {item.group for item in labelled}, log)
    _check_spelling("subsets", {kind for item in labelled for kind in item.kinds}, log)
    return labelled


def _composed(item: Labelled) -> Labelled:
    """An image with the classes of its objects as Unicode composes their names."""
    kinds = frozenset(map(composed, item.kinds))
    if kinds == item.kinds:
        return item
    marks = item.label
    if isinstance(marks, tuple):
        marks = tuple(replace(mark, kind=composed(mark.kind)) for mark in marks)
    return replace(item, kinds=kinds, label=marks)


def _check_spelling(what: str, names: Set[str], log: Record) -> None:
    """State names that could be one."""
    first: dict[str, str] = {}
    for name in sorted(names):
        other = first.setdefault(name.casefold(), name)
        if other != name:
            text = (
                f"the {what} {other!r} and {name!r} differ in upper and lower case only, and are "
                "different"
            )
            log.assume(Assumed(text, "spelling"))


def _without_copies(labelled: Sequence[Labelled], log: Record) -> list[Labelled]:
    """The images with each annotation once: of one class, in one place."""
    every = [(item, item.label) for item in labelled if isinstance(item.label, tuple)]
    n_copies = sum(len(label) - len(set(label)) for _, label in every)
    if n_copies:
        log.assume(
            Assumed(f"{n_copies} annotations occur twice in one place, and count once", "copies")
        )
    return [
        replace(item, label=tuple(dict.fromkeys(item.label)))
        if isinstance(item.label, tuple)
        else item
        for item in labelled
    ]
