"""The options of reading: which images are read, and how their objects are measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..errors import DataError, check_names, several
from . import boxes
from .assumptions import CONFIRMABLE
from .decoding import Rendering
from .groups import check_grouping
from .masks import KINDS, background_code
from .measures import CLASS, MEASURES, OF_BOX
from .medical import check_slice
from .rendering import check_intensity

Objects = Literal["single", "largest", "mean"]
EITHER = ("boxes", "masks")


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
            several; mean the mean of their measures.
        images: The folder of images, where the annotations do not name it.
        skip_truncated: Skip images whose object is flagged as truncated.
        skip_difficult: Skip images whose object is flagged as difficult.
        strict: Stop at the first image that would be skipped unasked, and at whatever is assumed
            and not confirmed. Every image is decoded.
        confirm: What is assumed and right, in the words that --strict names, such as nuclei.
        boxes: What the numbers of a box mean, where the file does not follow its format: xyxy,
            xywh or cxcywh, and normalised for shares of width and height, or percent; inclusive
            for corners that are pixels counted from 1, both in the box.
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
    boxes: Sequence[Literal["xyxy", "xywh", "cxcywh", "normalised", "percent", "inclusive"]] = ()
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
        for name in ("subset", "target", "as_class", "confirm", "boxes"):
            object.__setattr__(self, name, several(getattr(self, name)))
        conventions = (*boxes.IN_WORDS, *boxes.UNITS, boxes.INCLUSIVE)
        check_names(self.boxes, conventions, "convention of boxes")
        if boxes.INCLUSIVE in self.boxes and not {*self.boxes} <= {boxes.INCLUSIVE, "xyxy"}:
            raise DataError(
                "--boxes inclusive means corners that are pixels counted from 1. Omit the others."
            )
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
    def rendering(self) -> Rendering:
        """Channels, page and slice."""
        return Rendering(channels=tuple(self.channels), page=self.page, slice=self.slice)

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
