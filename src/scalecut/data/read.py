"""Images by specification: `KIND:PATH` to an ImageSet with enough images of each subset.

A reader of `READERS` yields labelled images; `read_images` measures their objects and makes rows:
one per image and class of object. Only the headers of images are opened. What cannot be used is
skipped and listed with its reason.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from ..errors import DataError, check_names, nearest
from . import annotations, boxes, coco, pairs, tables, yolo
from .assumptions import CONFIRMABLE, Assumed, as_confirmed, assume
from .decoding import NIFTI, NeededError, Rendering, form_of, header
from .files import composed
from .groups import check_grouping, grouped, joined
from .images import (
    MEAN,
    Image,
    ImageSet,
    Labelled,
    LeftOut,
    Mark,
    Marked,
    Progress,
    Source,
    Target,
    first_skipped,
    skip,
    target_of,
)
from .masks import KINDS, MaskRule, background_code, labels_as, turned, understood
from .measures import (
    AREAS,
    CLASS,
    MEASURES,
    OF_BOX,
    Box,
    Frame,
    clipped,
    in_shares,
    measure_named,
    share_of,
    shares_of_labels,
    upright,
)
from .medical import check_slice, same_space
from .outlines import Shape, covered
from .rendering import check_intensity, settled
from .scenes import make_scenes
from .storage import Stored, is_address

LEAST_IMAGES = 20  # of one subset: 14 for training, 6 for testing
LEAST_GROUPS = 4  # of a subset, and of a class
LEAST_DETERMINED = 10  # groups whose images all have the same value: 7 to train, 3 to test
TOGETHER = "all classes"  # the subset of the class of the object
ROUNDED = 0.01  # pixels by which a box that is given in shares can reach outside
AS_ASKED = ", as asked"  # how the reason ends where an option asks to skip, even if strict
SEVERAL = ", and --objects single takes one"
CROWD = "crowd"  # a flag
BY_SHAPES = (
    "objects are measured by their outlines or runs of pixels; a pixel counts if its centre is "
    "inside"
)
SPECK = 4  # pixels of an object that could be noise, at most
WHOLE = Frame(1, 1)  # the whole image, whatever its size
Objects = Literal["single", "largest", "mean"]


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
    """

    what: str
    read: Callable[[Any, Source], Iterator[Labelled | LeftOut | Assumed | str]]
    place: Literal["folder", "file", "remote file", "pattern"]
    options: tuple[str, ...]
    column: str = ""
    by_format: str = ""


EITHER = ("boxes", "masks")
STRATUM = 10  # groups of close measures, of which at_most draws equally many
OF_ALL = ("subset", "strict", "at_most")  # options of images from anywhere
OF_FILES = (
    *OF_ALL, "confirm", "no_groups", "group_from_name", "intensity", "channels", "page", "slice"
)  # fmt: skip
OBJECTS = ("images", "measure", "objects")
BOXES, BOTH = (*OBJECTS, "boxes"), (*OBJECTS, "boxes", "marks")
FLAGS = ("skip_truncated", "skip_difficult")
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
}
INSTEAD = {
    "measure": "its own measure is used",
    "group": "--group-from-name finds groups in names of images",
}  # of an option that has no effect


@dataclass(frozen=True, slots=True)
class Reading:
    """Which images are read, and how their objects are measured.

    Args:
        subset: Classes of objects, each probed separately; all by default.
        measure: What is regressed, one or more: area, sqrt-area, log-area, height, pixels, x, y,
            centre-distance or aspect of the object; or class, which object it is.
        target: Columns of a table that are regressed, or classified if they are text; measure by
            default.
        as_class: Those of them that are classified though they are numbers.
        objects: single takes images with exactly one object of the class; largest the largest of
            several; mean their mean.
        images: The folder of images, where the annotations do not name it.
        skip_truncated: Skip images whose object is flagged as truncated.
        skip_difficult: Skip images whose object is flagged as difficult.
        strict: Stop at the first image that would be skipped unasked, and at whatever is assumed
            and not confirmed. Every image is decoded.
        confirm: What is assumed and right, in the words that --strict names, such as nuclei.
        boxes: What the numbers of a box mean, where the file does not follow its format: xyxy,
            xywh or cxcywh, and normalised for shares of width and height, or percent.
        marks: What measures an object: its box, or its mask (an outline or runs of pixels), which
            COCO, YOLO, labelme and CVAT can have.
        mask_kind: What masks mean: binary (each connected region is an object), instances (each
            value is one), or classes (each connected region of a value); auto detects it.
        background: The value or colour (R,G,B) of masks that marks nothing, instead of 0.
        group: Column of a table, or key of the .json of tar shards, that names groups (patients,
            slides), instead of group.
        no_groups: Do not group images by a column or their names.
        group_from_name: A regular expression whose first parenthesis, in the names of images, is
            the group.
        intensity: Values shown as black and white, of images deeper than 8 bits: auto detects the
            range in use over all images, or takes the window that all DICOM files state; full,
            data, percentiles, window (that of each DICOM file), or two numbers, LOW,HIGH.
        channels: Channels to show, counted from 1: one as grey, or three as red, green and blue.
        page: Page, plane or frame of files with several, counted from 1.
        slice: Slice of NIfTI volumes, AXIS:INDEX as 2:40, both counted from 0; the axes point
            right, forward and up (RAS+).
        at_most: A random part of this many images, drawn by group and evenly over the measure; 0
            for all.
    """

    subset: Sequence[str] = ()
    measure: str = "area"
    target: Sequence[str] = ()
    as_class: Sequence[str] = ()
    objects: Literal["single", "largest", "mean"] = "single"
    images: str | Path | None = None
    skip_truncated: bool = False
    skip_difficult: bool = False
    strict: bool = False
    confirm: Sequence[str] = ()
    boxes: Sequence[Literal["xyxy", "xywh", "cxcywh", "normalised", "percent"]] = ()
    marks: Literal["boxes", "masks"] = "boxes"
    mask_kind: Literal["auto", "binary", "instances", "classes"] = "auto"
    background: str = ""
    group: str = ""
    no_groups: bool = False
    group_from_name: str = ""
    intensity: str = "auto"
    channels: Sequence[int] = ()
    page: int = 0
    slice: str = ""
    at_most: int = 0

    def __post_init__(self) -> None:
        check_names(self.boxes, (*boxes.IN_WORDS, *boxes.UNITS), "convention of boxes")
        check_names(self.marks, EITHER, "kind of marks")
        check_names(self.confirm, tuple(CONFIRMABLE), "assumption")
        if self.boxes and self.marks == "masks":
            raise DataError("--boxes says what boxes mean, but masks are measured. Omit --boxes.")
        check_names(self.mask_kind, ("auto", *KINDS), "kind of mask")
        background_code(self.background)
        check_grouping(self.group, self.no_groups, self.group_from_name)
        check_intensity(self.intensity)
        object.__setattr__(self, "channels", _channels(self.channels))
        check_slice(self.slice)
        if self.page < 0:
            raise DataError(f"--page must be 1 or more, got {self.page}.")
        check_names(self.measures, (*MEASURES, *OF_BOX, CLASS), "measure")
        for name in self.as_class:
            if name not in self.targets:
                raise DataError(
                    f"--as-class names {name!r}, which is no --target. Give --target {name} too."
                )
        check_names(self.objects, get_args(Objects), "choice of objects")
        if self.at_most < 0:
            raise DataError(f"--at-most must be 0 (all images) or more, got {self.at_most}.")

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.measure.split(",")))

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of a table that are targets, each once."""
        return tuple(dict.fromkeys(self.target)) or ("measure",)


def _channels(given: Sequence[int]) -> tuple[int, ...]:
    if len(given) not in (0, 1, 3) or any(channel < 1 for channel in given):
        raise DataError(
            "--channels must be one number, or three for red, green and blue, each 1 or more, got "
            f"{','.join(map(str, given))}."
        )
    return tuple(given)


@dataclass(frozen=True, slots=True)
class _Row:
    subset: str
    image: Image
    targets: Mapping[str, float | str]  # numbers and classes, nan where they are not known
    group: str
    box: Box | None
    marked: Marked = ()
    n_specks: int = 0  # of its objects


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object as the network is shown it."""

    area: float  # shares of the frame's window
    height: float
    box: Box
    shape: Shape | None = None  # if it was measured, and not turned


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
        image_set = _of_subsets(data, reading.subset)
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
        image_set = _drawn(image_set, reading.at_most, seed)
    if not enough:
        return image_set
    return _large_enough(image_set, only_named=bool(reading.subset), strict=reading.strict)


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
    reader, log = READERS[scheme], _Log(asked.strict, frozenset(asked.confirm))
    _check_options(f"{scheme}: data", asked, (*OF_FILES, *reader.options))
    if frame is None and "pixels" in asked.measures:
        raise DataError("Measure 'pixels' counts pixels of the network's input. Give a frame.")
    if "marks" in reader.options and "boxes" not in reader.options:
        asked = replace(asked, marks="masks")
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
    labelled = _labelled(reader.read(place, source), reader, asked, _text(place), log)
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
    measured = _measured(labelled, wanted, frame or WHOLE, asked, rule, log, progress)
    rows = _of_patients(*_shown(measured, asked, log), asked, log)
    _check_once(place, rows)
    _check_found(place, rows, wanted if asked.subset else frozenset(), log.skipped, rule)
    groups, n_identical = joined([row.image for row in rows], [row.group for row in rows])
    rows = [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]
    _state_mixed(rows, log)
    return _assembled(rows, tuple(log.skipped), log.facts(n_identical, rule))


@dataclass(slots=True)
class _Log:
    """What reading skipped and assumed; nothing may be if `strict`."""

    strict: bool
    confirmed: frozenset[str]
    skipped: list[LeftOut] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)  # of the files themselves
    spacing: list[tuple[float, float]] = field(default_factory=list)  # mm per pixel: down, across
    groups_by: str = ""

    def skip(self, item: LeftOut) -> None:
        skip(item, self.skipped, self.strict)

    def assume(self, given: Assumed) -> None:
        confirmed = as_confirmed(given, self.confirmed)
        if confirmed is not None:
            self.stated.append(confirmed)
        else:
            assume(given, self.assumed, self.strict)

    def facts(self, n_identical: int, rule: MaskRule | None) -> dict[str, object]:
        """What was found and assumed, for `run.json`."""
        facts: dict[str, object] = {
            "assumed": self.assumed,
            "identical_images": n_identical,
            "mask_kind": rule.kind if rule is not None else "",
            "stated": self.stated,
            "pixel_spacing_mm": self.spacing
            and {"smallest": self.spacing[0], "largest": self.spacing[-1]},
            "masks": rule.stated() if rule is not None else {},
            "groups_by": self.groups_by,
        }
        return {key: value for key, value in facts.items() if value}


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


def _labelled(
    found: Iterator[Labelled | LeftOut | Assumed | str],
    reader: Reader,
    asked: Reading,
    place: str,
    log: _Log,
) -> list[Labelled]:
    """The images that a reader yields, with boxes as corners in pixels, and their groups."""
    labelled: list[Labelled] = []
    for item in found:
        if isinstance(item, LeftOut):
            log.skip(item)
        elif isinstance(item, Assumed):
            log.assume(item)
        elif isinstance(item, str):
            log.stated.append(item)
        else:
            labelled.append(replace(item, group="") if asked.no_groups else item)
    is_share = not boxes.UNITS.keys().isdisjoint(asked.boxes)
    unsized = [
        item
        for item in labelled
        if isinstance(item.label, tuple)
        and item.size is None
        and not (is_share or item.form.startswith(boxes.NORMALISED))
    ]
    if unsized and reader.by_format:
        log.stated.append(reader.by_format)
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
    labelled, statements = boxes.in_pixels(labelled, asked.boxes, place, asked.slice)
    for statement in statements:
        log.assume(statement)
    has_groups = any(item.group for item in labelled)
    labelled, statements = grouped(labelled, asked.group_from_name, not asked.no_groups)
    for statement in statements:
        log.assume(statement)
    if asked.group_from_name:
        log.groups_by = f"the names of images, by {asked.group_from_name}"
    elif statements:
        log.groups_by = "the names of images"
    elif has_groups:
        log.groups_by = f"the {reader.column} {asked.group or 'group'}"
    alone = [item.image.name for item in labelled if not item.group]
    if log.groups_by and alone:
        text = (
            f"{len(alone)} of {len(labelled)} images are in no group (the first is {alone[0]}), "
            "and each is its own"
        )
        log.assume(Assumed(text, "groups"))
    labelled = [replace(item, group=composed(item.group)) for item in labelled]
    _check_spelling("groups", {item.group for item in labelled}, log)
    _check_spelling("subsets", {kind for item in labelled for kind in item.kinds}, log)
    return labelled


def _check_spelling(what: str, names: Set[str], log: _Log) -> None:
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


def _without_copies(labelled: Sequence[Labelled], log: _Log) -> list[Labelled]:
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


def _measured(
    labelled: Sequence[Labelled],
    wanted: frozenset[str],
    frame: Frame,
    asked: Reading,
    rule: MaskRule | None,
    log: _Log,
    progress: Progress | None,
) -> list[_Row]:
    """The rows of all images that can be measured."""
    rows: list[_Row] = []
    for number, item in enumerate(labelled, start=1):
        try:
            found = list(_rows(item, wanted & item.kinds, frame, asked, rule))
        except NeededError as error:
            raise DataError(f"{item.image.name}: {error}.") from error
        except DataError as error:
            log.skip(LeftOut(item.image.name, str(error)))
        else:
            rows += [each for each in found if isinstance(each, _Row)]
            for each in found:
                if isinstance(each, LeftOut) and each.reason.endswith(AS_ASKED):
                    log.skipped.append(each)
                elif isinstance(each, LeftOut):
                    log.skip(each)
        if progress:
            progress("listing", number, len(labelled))
    n_specks = sum(row.n_specks for row in rows)
    if n_specks and asked.objects == "mean":
        text = f"{n_specks} objects of masks have fewer than {SPECK} pixels, and count like others"
        log.assume(Assumed(text, "specks"))
    return rows


def _shown(rows: Sequence[_Row], asked: Reading, log: _Log) -> tuple[list[_Row], Mapping[Any, str]]:
    """The rows of images whose pixels are known to mean something, with their rendering.

    And the patients of the files that state them.
    """
    rendering = Rendering(channels=tuple(asked.channels), page=asked.page, slice=asked.slice)
    files = [cast(Path | Stored, row.image.source) for row in rows]
    names = {file: row.image.name for file, row in zip(files, rows, strict=True)}
    found = settled(names, rendering, asked.intensity, every=asked.strict)
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
    rows: Sequence[_Row], patients: Mapping[Any, str], asked: Reading, log: _Log
) -> list[_Row]:
    """The rows with the patients of DICOM as groups, if nothing else groups them."""
    own = [patients.get(cast(Path | Stored, row.image.source), "") for row in rows]
    n, different = len({row.image.place() for row in rows}), len(set(own) - {""})
    if log.groups_by or asked.no_groups or not different or different == n:
        return list(rows)
    if different == 1 and all(own):
        text = f"all {n} images state one PatientID, as after anonymisation, and each is its own"
        log.assume(Assumed(text, "groups"))
        return list(rows)
    log.groups_by = "the PatientID of DICOM files"
    return [
        replace(row, group=f"patient {patient}" if patient else row.group)
        for row, patient in zip(rows, own, strict=True)
    ]


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
    for subset in asked:
        if subset not in there:
            raise DataError(
                f"{_text(place)} has no subset {subset!r}. "
                f"It has {len(there)}, the nearest first: {nearest(subset, there)}."
            )
    return frozenset(asked or there)


def _text(place: object) -> str:
    return place.url if isinstance(place, Stored) else str(place)


# --- from labels to rows ---------------------------------------------------------------------


def _rows(
    item: Labelled,
    kinds: frozenset[str],
    frame: Frame,
    asked: Reading,
    rule: MaskRule | None,
) -> Iterator[_Row | LeftOut]:
    """One row for each kind of object that the image is chosen for."""
    group = item.group or item.image.name
    if isinstance(item.label, float | int | Mapping):
        if kinds and isinstance(item.image.source, Path):
            header(item.image.source, asked.slice)
        found = item.label if isinstance(item.label, Mapping) else {"measure": float(item.label)}
        for kind in kinds:
            yield _Row(kind, item.image, found, group, None)
        return
    chosen = []
    for kind in sorted(kinds):
        marks = _of_kind(item.label, kind)
        n = len(marks) if isinstance(marks, tuple) else 1
        if isinstance(marks, tuple):
            marks = tuple(mark for mark in marks if CROWD not in mark.flags)
        if not marks:
            yield LeftOut(item.image.name, f"its {kind} is a crowd (iscrowd), no single object")
        elif asked.objects == "single" and n > 1:
            yield LeftOut(item.image.name, f"it has {n} objects of {kind}{SEVERAL}")
        else:
            chosen.append((kind, marks))
    if not chosen:
        return
    width, height, orientation = header(cast(Path, item.image.source), asked.slice)
    flags = {"truncated": asked.skip_truncated, "difficult": asked.skip_difficult}
    avoided = {flag for flag, is_avoided in flags.items() if is_avoided}
    for kind, marks in chosen:
        if isinstance(marks, Path):
            seen = _seen_in_mask(
                marks,
                item.image.source,
                width,
                height,
                orientation,
                frame,
                asked.measures,
                cast(MaskRule, rule),
            )
            if asked.objects == "single" and len(seen) > 1:
                yield LeftOut(item.image.name, f"it has {len(seen)} objects{SEVERAL}")
                continue
        else:
            flagged = sorted(avoided & {flag for mark in marks for flag in mark.flags})
            if flagged:
                yield LeftOut(item.image.name, f"its {kind} is marked {flagged[0]}{AS_ASKED}")
                continue
            window = frame.window(width, height)
            if asked.marks == "masks":
                size = width, height
                seen = [_seen_in_shape(item, mark, size, orientation, window) for mark in marks]
            else:
                _check_turn(item, orientation, frame, asked)
                upright_boxes = _upright_boxes(item, marks, width, height, orientation)
                seen = [_Seen(*share_of(box, window), box) for box in upright_boxes]
        area, tall, counted = _summary(seen, kind, asked.objects)
        window = frame.window(width, height)
        targets = {
            name: _target(name, (area, tall), [each.box for each in counted], frame, window)
            if name != CLASS
            else kind * (len(kinds) == 1) or math.nan
            for name in asked.measures
        }
        is_known = isinstance(marks, Path) or not _may_be_turned(item, orientation)
        box = None if asked.objects == "mean" else counted[0].box
        drawn = tuple(each.shape or each.box for each in counted)
        marked = marks if isinstance(marks, Path) else drawn
        box, marked = (box, marked) if is_known else (None, ())
        n_specks = 0
        if isinstance(marks, Path):
            left, top, right, bottom = window
            shown = (right - left) * (bottom - top)
            n_specks = sum(each.area * shown < SPECK - 0.5 for each in counted)
        yield _Row(kind, item.image, targets, group, box, marked, n_specks)


def _target(
    name: str, shares: tuple[float, float], boxes: Sequence[Box], frame: Frame, window: Box
) -> float:
    """A measure of an object, or the mean of several, from its shares of area and height."""
    if name not in OF_BOX:
        return measure_named(name)(*shares, frame)
    return float(np.mean([OF_BOX[name](in_shares(box, window)) for box in boxes]))


def _state_mixed(rows: Sequence[_Row], log: _Log) -> None:
    """State the images that have objects of several classes, where the class is asked for."""
    mixed = dict.fromkeys(row.image.name for row in rows if row.targets.get(CLASS) != row.subset)
    if mixed and any(CLASS in row.targets for row in rows):
        log.stated.append(
            f"{len(mixed)} images have objects of several of the classes (the first is "
            f"{next(iter(mixed))}), so they count for no class"
        )


def _of_kind(label: tuple[Mark, ...] | Path, kind: str) -> tuple[Mark, ...] | Path:
    """The objects of a kind, or the mask."""
    return label if isinstance(label, Path) else tuple(m for m in label if m.kind == kind)


def _may_be_turned(item: Labelled, orientation: int) -> bool:
    """Whether boxes could have been drawn before or after the quarter turn of EXIF."""
    return orientation >= 5 and (item.size is None or item.size[0] == item.size[1])


def _check_turn(item: Labelled, orientation: int, frame: Frame, asked: Reading) -> None:
    is_area = AREAS.issuperset(asked.measures)
    if _may_be_turned(item, orientation) and (not is_area or frame.fit != "squash"):
        raise DataError(
            f"its EXIF orientation {orientation} turns it, and its annotation does not say whether "
            "its box was drawn before or after; use an area with --fit squash, or save it upright"
        )


def _upright_boxes(
    item: Labelled, marks: tuple[Mark, ...], width: int, height: int, orientation: int
) -> list[Box]:
    """Boxes in upright pixels; the size that they were drawn on says if they already are."""
    boxes = [mark.box for mark in marks]
    size = item.size or (width, height)
    if orientation >= 5 and item.size is None:
        turned = [upright(box, orientation, height, width) for box in boxes]
        is_inside = [box[2] <= width + ROUNDED and box[3] <= height + ROUNDED for box in boxes]
        boxes = [
            box if inside else other
            for box, other, inside in zip(boxes, turned, is_inside, strict=True)
        ]
    elif orientation >= 5 and size == (height, width) != (width, height):
        boxes = [upright(box, orientation, height, width) for box in boxes]
    elif size != (width, height):
        raise DataError(
            f"its boxes were drawn on {size[0]} x {size[1]} pixels, but the image has "
            f"{width} x {height}; give the image that they were drawn on"
        )
    return [clipped(box, width, height) for box in boxes]


def _seen_in_shape(
    item: Labelled, mark: Mark, size: tuple[int, int], orientation: int, window: Box
) -> _Seen:
    """An object with an outline or runs of pixels; it is turned with its image."""
    if mark.shape is None:
        raise DataError(f"its {mark.kind} has no mask; --marks boxes measures its box")
    if _may_be_turned(item, orientation):
        raise DataError(
            f"its EXIF orientation {orientation} turns it, and its annotation does not say whether "
            "its outline was drawn before or after; save it upright"
        )
    drawn_on = item.size or size
    is_turned = orientation >= 5 and drawn_on == size[::-1] != size
    if drawn_on != size and not is_turned:
        raise DataError(
            f"its masks were drawn on {drawn_on[0]} x {drawn_on[1]} pixels, but the image has "
            f"{size[0]} x {size[1]}; give the image that they were drawn on"
        )
    mask, x, y = covered(mark.shape, *drawn_on)
    if is_turned:
        whole = np.zeros(drawn_on[::-1], dtype=bool)
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        mask, x, y = turned(whole, orientation), 0, 0
    seen_from_it = window[0] - x, window[1] - y, window[2] - x, window[3] - y
    found = shares_of_labels(mask.astype(np.uint8), seen_from_it)
    if not found:
        raise DataError(f"the mask of its {mark.kind} marks no pixel; fix it")
    area, tall, (left, top, right, bottom) = found[0]
    box = left + x, top + y, right + x, bottom + y
    return _Seen(area, tall, box, None if is_turned else mark.shape)


def _seen_in_mask(
    file: Path,
    image: object,
    width: int,
    height: int,
    orientation: int,
    frame: Frame,
    measures: Sequence[str],
    rule: MaskRule,
) -> list[_Seen]:
    """Each object of a mask; one that was drawn before EXIF turned its image is turned too."""
    try:
        labels = labels_as(file, rule, (width, height), orientation)
    except DataError as error:
        raise DataError(f"its mask {file.name} cannot be used: {error}") from error
    if labels.shape != (height, width):
        raise DataError(
            f"its mask has {labels.shape[1]} x {labels.shape[0]} pixels, the image {width} x "
            f"{height}; give a mask of the same size"
        )
    is_area = AREAS.issuperset(measures)
    if orientation >= 5 and width == height and (not is_area or frame.fit != "squash"):
        raise DataError(
            f"its EXIF orientation {orientation} turns it, and its mask could be drawn before or "
            "after; use an area with --fit squash, or save it upright"
        )
    _check_space(file, image)
    found = shares_of_labels(labels, frame.window(width, height))
    if not found:
        raise DataError("its mask marks no pixel; mark its object, or remove the image")
    return [_Seen(*each) for each in found]


def _check_space(mask: Path, image: object) -> None:
    """Refuse a mask of a volume whose voxels are not those of its image."""
    if not isinstance(image, Path) or {form_of(mask), form_of(image)} != {NIFTI}:
        return
    if not same_space(mask, image):
        raise DataError(
            f"its mask {mask.name} has its voxels in other places than the image, by their affines;"
            " resample it to the image"
        )


def _summary(seen: list[_Seen], kind: str, objects: str) -> tuple[float, float, list[_Seen]]:
    """Shares of area and height, and the objects that they are of."""
    seen = [each for each in seen if each.area > 0]
    if not seen:
        raise DataError(
            f"its {kind} lies outside the part that the network is shown; "
            "--fit squash or pad shows all of it"
        )
    if objects == "mean":
        areas, heights = [each.area for each in seen], [each.height for each in seen]
        return float(np.mean(areas)), float(np.mean(heights)), seen
    largest = max(seen, key=lambda each: each.area)
    return largest.area, largest.height, [largest]


def _check_once(place: object, rows: Sequence[_Row]) -> None:
    """Refuse an image that has two rows of one subset, by whatever names."""
    first: dict[tuple[str, object], _Row] = {}
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


def _differing(one: _Row, other: _Row) -> str:
    """The first target that differs between two rows, or the first one, with both values."""
    pairs = [(name, value, other.targets[name]) for name, value in one.targets.items()]
    name, *values = next((each for each in pairs if each[1] != each[2]), pairs[0])
    here, there = (f"{value:g}" if isinstance(value, float) else repr(value) for value in values)
    what = "measures" if name in ("measure", *MEASURES) else f"values of {name!r}"
    return f"{what} {here} and {there}"


def _check_found(
    place: object,
    rows: list[_Row],
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


def _assembled(
    rows: list[_Row], skipped: tuple[LeftOut, ...], facts: dict[str, object]
) -> ImageSet:
    rows = sorted(rows, key=lambda row: (row.subset, row.image.name))
    boxes = [row.box for row in rows if row.box is not None]
    targets = _targets({name: [row.targets[name] for row in rows] for name in rows[0].targets})
    return ImageSet(
        images=tuple(row.image for row in rows),
        measure=targets[0].values,
        measure_name=targets[0].name,
        subset=tuple(row.subset for row in rows),
        group=tuple(row.group for row in rows),
        boxes=np.array(boxes, dtype=np.float64) if len(boxes) == len(rows) else None,
        left_out=skipped,
        marks=tuple(row.marked for row in rows),
        facts=facts,
    ).asked(targets)


# --- sets that can be probed -----------------------------------------------------------------


def _drawn(image_set: ImageSet, n: int, seed: int) -> ImageSet:
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


def _scenes(frame: Frame, reading: Reading, seed: int) -> ImageSet:
    """Synthetic scenes with the measure asked for, of the part that the frame shows."""
    scenes = _of_subsets(make_scenes(seed=seed), reading.subset)
    found: dict[str, list[float | str]] = {name: [] for name in reading.measures}
    rows = zip(scenes.images, cast(np.ndarray, scenes.boxes), scenes.subset, strict=True)
    for image, row, kind in rows:
        window, box = frame.window(*image.decode().size), tuple(row)
        for name, values in found.items():
            asked = share_of(box, window), [box], frame, window
            values.append(kind if name == CLASS else _target(name, *asked))
    return scenes.asked(_targets(found))


def _targets(found: Mapping[str, Sequence[float | str]]) -> list[Target]:
    """Targets by name; of the class of the object, all subsets are one."""
    return [
        target_of(name, values, TOGETHER if name == CLASS else "") for name, values in found.items()
    ]


def _of_subsets(image_set: ImageSet, subsets: Sequence[str]) -> ImageSet:
    """The rows of some subsets; all if none is named."""
    check_names(tuple(subsets), image_set.subsets, "subset")
    return image_set.rows(np.isin(image_set.subset, list(subsets or image_set.subsets)))


def _large_enough(image_set: ImageSet, *, only_named: bool, strict: bool) -> ImageSet:
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
