"""Images by specification: `KIND:PATH` to an ImageSet with enough images of each subset.

A reader of `READERS` yields labelled images; `labels` checks them, `objects` measures them, one row
per image and class of object, and `sample` draws a part. Only the headers of images are opened.
What cannot be used is skipped and listed with its reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float64

from ..errors import DataError, nearest
from . import annotations, coco, pairs, patches, tables, yolo
from .assumptions import Assumed
from .files import composed
from .groups import joined, united
from .images import ImageSet, Labelled, LeftOut, Progress, Source, Target, first_skipped, target_of
from .labels import BY_NAMES, labels_of
from .masks import MaskRule, understood
from .measures import CLASS, MEASURES, Frame, share_of
from .objects import SEVERAL, Row, rows_of, target_value
from .options import Reading
from .record import Record
from .rendering import settled
from .sample import TOGETHER, at_most, large_enough, of_subsets
from .scenes import make_scenes
from .storage import Stored, is_address

BY_SHAPES = (
    "objects are measured by their outlines or runs of pixels; a pixel counts if its centre is "
    "inside"
)
WHOLE = Frame(1, 1)  # the whole image, whatever its size


@dataclass(frozen=True, slots=True)
class Reader:
    """How one kind of data is read.

    Args:
        what: what the path names, as the command line explains it.
        read: called with the place and more about it; yields the labelled images, what it
            skipped, what it assumed, and sentences on what follows from the files.
        place: what the path must be: an existing folder or file, a file that may also be at an
            address, or a pattern.
        options: those of `Reading` that it takes; all take `OF_FILES`. Any other is refused.
        column: what its groups are named by, a column or key; empty if there is none.
        by_format: what is stated of numbers whose unit follows from the format.
        target: what is regressed if no --target is named.
    """

    what: str
    read: Callable[[Any, Source], Iterator[Labelled | LeftOut | Assumed | str]]
    place: Literal["folder", "file", "remote file", "pattern"]
    options: tuple[str, ...]
    column: str = ""
    by_format: str = ""
    target: str = ""


OF_ALL = ("subset", "strict", "at_most")  # options of images from anywhere
OF_FILES = (
    *OF_ALL, "confirm", "no_groups", "group_from_name", "intensity", "channels", "page", "slice"
)  # fmt: skip
OBJECTS = ("images", "measure", "objects")
BOXES, BOTH = (*OBJECTS, "boxes"), (*OBJECTS, "boxes", "marks")
FLAGS = ("skip_truncated", "skip_difficult")
TABLES = {"csv": "CSV", "parquet": "Parquet"}  # kinds of data that are tables
TABLE, GROUP = ("images", "group", "target", "as_class"), ("group",)
MASKS = (*OBJECTS, "marks", "mask_kind", "background")
READERS: dict[str, Reader] = {
    "voc": Reader(
        "a folder with Annotations and JPEGImages", annotations.voc, "folder", (*BOXES, *FLAGS)
    ),
    "coco": Reader("an instances file, JSON", coco.coco, "file", BOTH),
    "csv": Reader("a table with image and measure", tables.csv, "remote file", TABLE, "column"),
    "parquet": Reader("such a table as Parquet", tables.parquet, "remote file", TABLE, "column"),
    "tar": Reader("shards of images, each with a .json", tables.shards, "pattern", GROUP, "key"),
    "masks": Reader(
        "a folder with images and masks", pairs.masks, "folder", MASKS, by_format=pairs.IN_PIXELS
    ),
    "yolo": Reader("a folder with images and labels, or with data.yaml", yolo.yolo, "folder", BOTH),
    "labelme": Reader("a folder with a JSON file per image", annotations.labelme, "folder", BOTH),
    "cvat": Reader("an XML file of CVAT for images", annotations.cvat, "file", BOTH),
    "patches": Reader(
        "a folder that `scalecut patches` wrote",
        patches.labelled,
        "folder",
        ("target", "as_class"),
        "column",
        target="um_per_pixel",
    ),
}
INSTEAD = {
    "measure": "its own measure is used",
    "group": "--group-from-name finds groups in names of images",
}  # of an option that has no effect


def images_of(
    data: str | ImageSet,
    frame: Frame,
    reading: Reading,
    *,
    seed: int = 0,
    enough: bool = True,
    several: bool = False,
    progress: Progress | None = None,
) -> ImageSet:
    """The images of a specification, of synthetic scenes, or of a given set.

    Args:
        enough: skip subsets that are too small to be probed.
        several: whether several targets, and classes, can be used.

    Raises:
        DataError: if there are too few images, or their measure does not vary.
    """
    if isinstance(data, ImageSet):
        _check_options("an image set", reading, OF_ALL)
        image_set = of_subsets(data, reading.subset)
    elif data == "scenes":
        _check_options("scenes", reading, (*OF_ALL, "measure"))
        image_set = _scenes(frame, reading, seed)
    else:
        image_set = read_images(data, frame, reading, progress=progress)
    if not several and (image_set.more or image_set.classes):
        names = ", ".join(each.name for each in image_set.targets)
        raise DataError(
            f"Only `scalecut probe` takes several targets, or classes, and these are {names}. Give "
            "one --measure or --target that is a number."
        )
    if reading.at_most:
        image_set = at_most(image_set, reading.at_most, seed)
    if not enough:
        return image_set
    return large_enough(image_set, only_named=bool(reading.subset), strict=reading.strict)


def read_images(
    spec: str,
    frame: Frame | None = None,
    reading: Reading | None = None,
    *,
    progress: Progress | None = None,
) -> ImageSet:
    """The images that `spec` names, one row for each subset that they belong to.

    Args:
        spec: `KIND:PATH`, such as `voc:DIR` or `csv:FILE`; see `READERS`. Tables and shards may
            also be at an address, `s3://...`.
        frame: how the network is shown the images; by default the whole image is shown.
        reading: which images, and how their objects are measured.
        progress: called with (stage, done, total).

    Raises:
        DataError: if nothing can be used, or an option does not fit.
    """
    asked = reading or Reading()
    images_folder = None if asked.images is None else Path(asked.images)
    scheme, place = _place_of(spec, images_folder)
    reader, log = READERS[scheme], Record(asked.strict, frozenset(asked.confirm))
    _check_options(f"{scheme}: data", asked, (*OF_FILES, *reader.options))
    if frame is None and "pixels" in asked.measures:
        raise DataError("Measure 'pixels' counts pixels of the network's input. Give a frame.")
    if "marks" in reader.options and "boxes" not in reader.options:
        asked = replace(asked, marks="masks")
    if reader.target and not (asked.target or asked.as_class):
        asked = replace(asked, target=(reader.target,))
    by_column = not (asked.no_groups or asked.group_from_name)
    targets = asked.targets if asked.target or asked.as_class else ()
    source = Source(
        images_folder,
        asked.group,
        by_column,
        targets,
        tuple(asked.as_class),
        tuple(asked.boxes),
        asked.marks,
        progress,
    )
    labelled = labels_of(
        reader.read(place, source),
        asked,
        _text(place),
        log,
        column=reader.column,
        by_format=reader.by_format,
    )
    if asked.marks == "masks" and any(isinstance(item.label, tuple) for item in labelled):
        log.stated.append(BY_SHAPES)
    if not labelled:
        found = first_skipped(log.skipped) or f"Give {scheme}: {reader.what}."
        raise DataError(f"Nothing in {_text(place)} can be used. {found}")
    wanted = _wanted(place, asked.subset, {kind for item in labelled for kind in item.kinds})
    files = [item.label for item in labelled if isinstance(item.label, Path)]
    meaning = asked.mask_kind, asked.background, asked.page, asked.slice
    meant = understood(files, *meaning)
    rule = meant if files else None
    for statement in meant.assumed:
        log.assume(statement)
    measured = rows_of(labelled, wanted, frame or WHOLE, asked, rule, log, progress)
    rows = _of_patients(*_shown(measured, asked, log), asked, log)
    _state_alone(labelled, rows, log)
    _check_once(place, rows)
    _check_found(place, rows, wanted if asked.subset else frozenset(), log.skipped, rule)
    groups, n_identical = joined([row.image for row in rows], [row.group for row in rows])
    rows = [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]
    _state_mixed(rows, log)
    return _assembled(rows, tuple(log.skipped), log.facts(n_identical, rule))


def _check_options(what: str, asked: Reading, options: Sequence[str]) -> None:
    """Refuse options that have no effect on the data."""
    for each in fields(asked):
        value = getattr(asked, each.name)
        is_given = (tuple(value) if isinstance(value, list) else value) != each.default
        if is_given and each.name not in options:
            able = [name for name, reader in READERS.items() if each.name in reader.options]
            able = [f"{name}:" for name in (able or READERS)]
            instead = f"; {INSTEAD[each.name]}" if each.name in INSTEAD else ""
            raise DataError(
                f"--{each.name.replace('_', '-')} has no effect on {what}, only on "
                f"{', '.join(able)} data. Omit it{instead}."
            )


def _shown(rows: Sequence[Row], asked: Reading, log: Record) -> tuple[list[Row], Mapping[Any, str]]:
    """The rows of images whose pixels are known to mean something, with their rendering.

    And the patients of the files that state them.
    """
    files = [cast(Path | Stored, row.image.source) for row in rows]
    names = {file: row.image.name for file, row in zip(files, rows, strict=True)}
    found = settled(names, asked.rendering, asked.intensity, every=asked.strict)
    shown, skipped = [], dict[str, str]()
    for file, row in zip(files, rows, strict=True):
        if file in found.skipped:
            skipped[row.image.name] = found.skipped[file]
        else:
            image = replace(row.image, rendering=found.renderings.get(file))
            shown.append(replace(row, image=image))
    for name, reason in skipped.items():
        log.skip(LeftOut(name, reason))
    for statement in found.assumed:
        log.assume(statement)
    log.stated += found.stated
    log.spacing += found.spacing
    return shown, found.patients


def _of_patients(
    rows: Sequence[Row], patients: Mapping[Any, str], asked: Reading, log: Record
) -> list[Row]:
    """The rows with the patients of DICOM as groups, joined with those that names give."""
    own = [patients.get(cast(Path | Stored, row.image.source), "") for row in rows]
    n, different = len({row.image.place() for row in rows}), len(set(own) - {""})
    is_asked = asked.no_groups or log.groups_by not in ("", BY_NAMES)
    if is_asked or not different or different == n:
        return list(rows)
    if different == 1 and all(own):
        text = f"all {n} images state one PatientID, as after anonymisation, so it groups none"
        log.assume(Assumed(text, "groups"))
        return list(rows)
    by_patient = "the PatientID of DICOM files"
    log.groups_by = f"{log.groups_by} and {by_patient}" if log.groups_by else by_patient
    groups = [
        f"patient {patient}" if patient and row.group == row.image.name else row.group
        for row, patient in zip(rows, own, strict=True)
    ]
    groups = united(groups, [patient or None for patient in own])
    return [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]


def _state_alone(labelled: Sequence[Labelled], rows: Sequence[Row], log: Record) -> None:
    """State the images in no group, where others are in one."""
    names = {row.image.name: row.group for row in rows}
    ungrouped = {item.image.name for item in labelled if not item.group}
    alone = [name for name, group in names.items() if group == name in ungrouped]
    if log.groups_by and alone:
        text = (
            f"{len(alone)} of {len(names)} images are in no group (the first is {alone[0]}), and "
            "each is its own"
        )
        log.assume(Assumed(text, "groups"))


def columns_of_numbers(
    data: str | ImageSet, image_set: ImageSet, group: str = ""
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Every column of numbers of a table but the measure, for the images of a set read from it.

    None where the images are not those of a table. Numbers that are missing are nan.

    Args:
        group: the column that names groups, which is none.
    """
    scheme, _, rest = data.partition(":") if isinstance(data, str) else ("", "", "")
    if scheme not in TABLES:
        return {}
    _, place = _place_of(f"{scheme}:{rest}", None)
    keys = [
        (image.name, kind) for image, kind in zip(image_set.images, image_set.subset, strict=True)
    ]
    found = tables.numbers(cast("Path | Stored", place), TABLES[scheme])
    found = {name: of for name, of in found.items() if name not in (image_set.measure_name, group)}
    return {name: np.array([of[key] for key in keys]) for name, of in found.items()}


def _place_of(spec: str, images_folder: Path | None) -> tuple[str, Path | Stored | str]:
    """The kind of data, and its place: a local path, an address, or a pattern."""
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in READERS or not rest:
        kinds = "; ".join(f"{name}: {reader.what}" for name, reader in READERS.items())
        raise DataError(f"Data {spec!r} is not of the form KIND:PATH. The kinds are {kinds}.")
    if images_folder is not None and not images_folder.is_dir():
        raise DataError(f"There is no folder {images_folder}. Give the one that holds the images.")
    reader = READERS[scheme]
    if reader.place == "pattern":
        return scheme, rest
    if is_address(rest):
        if reader.place != "remote file":
            remote = [
                f"{name}:" for name, r in READERS.items() if r.place not in ("folder", "file")
            ]
            raise DataError(
                f"{spec!r} is an address, which only {', '.join(remote)} can be read from. "
                "Give one of these, or a local copy."
            )
        return scheme, Stored(rest)
    place = Path(rest).expanduser()
    if not (place.is_dir() if reader.place == "folder" else place.is_file()):
        sort = reader.place.rpartition(" ")[2]
        raise DataError(f"There is no {sort} {place}. Give {scheme}: {reader.what}.")
    return scheme, place


def _wanted(place: object, asked: Sequence[str], there: Set[str]) -> frozenset[str]:
    """The subsets asked for, each of which must be there; all if none is asked for."""
    asked = [*map(composed, asked)]
    for subset in asked:
        if subset not in there:
            raise DataError(
                f"{_text(place)} has no subset {subset!r}. "
                f"It has {len(there)}, the nearest first: {nearest(subset, there)}."
            )
    return frozenset(asked or there)


def _text(place: object) -> str:
    return place.url if isinstance(place, Stored) else str(place)


# --- from rows to a set ---------------------------------------------------------------------------


def _state_mixed(rows: Sequence[Row], log: Record) -> None:
    """State the images that have objects of several classes, where the class is asked for."""
    mixed = dict.fromkeys(row.image.name for row in rows if row.targets.get(CLASS) != row.subset)
    if mixed and any(CLASS in row.targets for row in rows):
        log.stated.append(
            f"{len(mixed)} images have objects of several of the classes (the first is "
            f"{next(iter(mixed))}), so they count for no class"
        )


def _check_once(place: object, rows: Sequence[Row]) -> None:
    """Refuse an image that has two rows of one subset, by whatever names."""
    first: dict[tuple[str, object], Row] = {}
    for row in rows:
        source = row.image.source
        file = source.resolve() if isinstance(source, Path) else row.image.place()
        other = first.setdefault((row.subset, file), row)
        if other is not row:
            again = f" (also as {row.image.name})" * (row.image.name != other.image.name)
            raise DataError(
                f"{_text(place)}: {other.image.name} is listed twice{again} in the subset "
                f"{row.subset}, with the {_differing(other, row)}. Keep one of each image and "
                "subset."
            )


def _differing(one: Row, other: Row) -> str:
    """The first target that differs between two rows, or the first one, with both values."""
    pairs = [(name, value, other.targets[name]) for name, value in one.targets.items()]
    name, *values = next((each for each in pairs if each[1] != each[2]), pairs[0])
    here, there = (f"{value:g}" if isinstance(value, float) else repr(value) for value in values)
    what = "measures" if name in ("measure", *MEASURES) else f"values of {name!r}"
    return f"{what} {here} and {there}"


def _check_found(
    place: object,
    rows: list[Row],
    asked: frozenset[str],
    skipped: list[LeftOut],
    rule: MaskRule | None,
) -> None:
    lacking = sorted(asked - {row.subset for row in rows})
    if rows and not lacking:
        return
    what = f"of subset {lacking[0]!r} " if lacking else ""
    rest = first_skipped(skipped)
    if any(item.reason.endswith(SEVERAL) for item in skipped):
        what += "with exactly one object "
        if rule is not None and rule.kind == "binary":
            rest = f"--mask-kind instances takes all that a mask marks as one object. {rest}"
        rest = f"--objects largest or mean takes those with several. {rest}"
    raise DataError(f"{_text(place)} has no image {what}that can be used. {rest}".rstrip())


def _assembled(rows: list[Row], skipped: tuple[LeftOut, ...], facts: dict[str, object]) -> ImageSet:
    rows = sorted(rows, key=lambda row: (row.subset, row.image.name))
    boxes = np.array([row.box or (np.nan,) * 4 for row in rows], dtype=np.float64)
    targets = _targets({name: [row.targets[name] for row in rows] for name in rows[0].targets})
    return ImageSet(
        images=tuple(row.image for row in rows),
        measure=targets[0].values,
        measure_name=targets[0].name,
        subset=tuple(row.subset for row in rows),
        group=tuple(row.group for row in rows),
        boxes=None if np.isnan(boxes).all() else boxes,
        left_out=skipped,
        marks=tuple(row.marked for row in rows),
        facts=facts,
    ).asked(targets)


def _scenes(frame: Frame, reading: Reading, seed: int) -> ImageSet:
    """Synthetic scenes with the measure asked for, of the part that the frame shows."""
    scenes = of_subsets(make_scenes(seed=seed), reading.subset)
    found: dict[str, list[float | str]] = {name: [] for name in reading.measures}
    rows = zip(scenes.images, cast(np.ndarray, scenes.boxes), scenes.subset, strict=True)
    for image, row, kind in rows:
        window, box = frame.window(*image.decode().size), tuple(row)
        for name, values in found.items():
            asked = [share_of(box, window)], [box], frame, window
            values.append(kind if name == CLASS else target_value(name, *asked))
    return scenes.asked(_targets(found))


def _targets(found: Mapping[str, Sequence[float | str]]) -> list[Target]:
    """Targets by name; of the class of the object, all subsets are one."""
    return [
        target_of(name, values, TOGETHER if name == CLASS else "") for name, values in found.items()
    ]
