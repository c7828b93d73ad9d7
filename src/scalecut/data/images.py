"""Images, and sets of images with one measure per image.

An image is decoded when its pixels are needed. A file that cannot be used raises a DataError of one
line.

Shapes: n images, h x w pixels.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float64, Int, Integer, UInt8

from ..errors import DataError, check_names
from .decoding import PLAIN, Rendering, header, rendered, rgb_of, unreadable, without_options
from .measures import Box, Frame
from .outlines import Shape
from .rendering import settled
from .storage import Stored

MEAN = "mean"  # reserved name: the mean over all subsets
Progress = Callable[[str, int, int], None]  # stage, done, total
# boxes and shapes (of `outlines`, not public) in pixels of the upright image, or the file of a mask
Marked = tuple[Any, ...] | Path
REQUESTS = 16  # images requested from a server at the same time
QUEUED = 1024


@dataclass(frozen=True, slots=True)
class Image:
    """An image: a local file, a file stored elsewhere or in an archive, or pixels in memory."""

    name: str
    source: Path | Stored | UInt8[np.ndarray, "h w 3"]
    rendering: Rendering | None = None  # of stored values that are not plain 8-bit colours

    def content(self) -> bytes:
        """The bytes of the file, or shape and pixels in memory."""
        try:
            if isinstance(self.source, Stored):
                return self.source.read()
            if isinstance(self.source, Path):
                return self.source.read_bytes()
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error
        except OSError as error:
            raise DataError(f"{self.name}: {unreadable(error)}") from error
        return str(self.source.shape).encode() + self.source.tobytes()

    def key(self) -> str:
        """SHA-256 of the content, and of its rendering if there is one, in hexadecimal."""
        is_plain = self.rendering is None or self.rendering == PLAIN
        rendering = "" if is_plain or self.rendering is None else self.rendering.key()
        return hashlib.sha256(self.content() + rendering.encode()).hexdigest()

    def decode(self, frame: Frame | None = None) -> PIL.Image.Image:
        """The decoded image: RGB and upright; see `decoding.rendered`."""
        source = self.source
        if not isinstance(source, Path | Stored):
            return PIL.Image.fromarray(source)
        try:
            file = io.BytesIO(source.read()) if isinstance(source, Stored) else source
            return rendered(file, self.rendering, frame)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error

    def place(self) -> str:
        """Its absolute path or address; empty for pixels in memory."""
        if isinstance(self.source, Stored):
            return self.source.address()
        return str(self.source.absolute()) if isinstance(self.source, Path) else ""


def keys_of(images: Sequence[Image]) -> Iterator[str | DataError]:
    """The key of each image in order, or its error; stored images are requested concurrently."""
    if not any(isinstance(image.source, Stored) for image in images):
        yield from map(_key_or_error, images)
        return
    with ThreadPoolExecutor(REQUESTS) as workers:
        for start in range(0, len(images), QUEUED):  # each queued image takes 1 kB
            yield from workers.map(_key_or_error, images[start : start + QUEUED])


def _key_or_error(image: Image) -> str | DataError:
    try:
        return image.key()
    except DataError as error:
        return error


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image, or another item, that was skipped, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Mark:
    """An object on an image: its class, its box, and its flags (truncated, difficult, crowd).

    The numbers of the box are those of the file, in the form that its `Labelled` states.
    """

    kind: str
    box: Box
    flags: frozenset[str] = frozenset()
    shape: Shape | None = None  # in pixels, if masks are measured


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader needs besides the place of its data.

    Args:
        images: the folder of images, if it is given.
        group: the column of a table that names groups, if it is given.
        has_groups: whether images of a table may share a group.
        targets: columns of a table that are its targets, if they are named.
        as_class: those that hold classes even if they are numbers.
        boxes: the convention of boxes that is asked for.
        marks: boxes, or masks, whose shapes are read too.
    """

    images: Path | None = None
    group: str = ""
    has_groups: bool = True
    targets: tuple[str, ...] = ()
    as_class: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    marks: str = "boxes"
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image and its label, as a reader finds it; neither is opened yet.

    Args:
        kinds: the classes of its objects, or the subset of its row.
        label: boxes, the file of a mask, the measure itself, or targets by name: a number, the
            name of a class, or nan where it is not known.
        size: width and height of the image that the boxes were drawn on, if known.
        group: shared by images that belong together; by default each image is its own group.
        form: of boxes: xyxy, xywh or cxcywh, in pixels, or with "normalised " before it.
    """

    image: Image
    kinds: frozenset[str]
    label: tuple[Mark, ...] | Path | float | Mapping[str, float | str]
    size: tuple[int, int] | None = None
    group: str = ""
    form: str = "xyxy"


def marked(
    image: Image, marks: Sequence[Mark], size: tuple[int, int] | None = None, form: str = "xyxy"
) -> Labelled:
    """An image with objects on it, of their classes."""
    return Labelled(image, frozenset(mark.kind for mark in marks), tuple(marks), size, form=form)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is asked of the features of every image: a number, or a class.

    Args:
        values: nan where it is not known; of a class, its number in `classes`.
        classes: their names, in order; empty for numbers.
        subset: one for all images, in place of their own; empty for their own.
    """

    name: str
    values: Float64[np.ndarray, " n"]
    classes: tuple[str, ...] = ()
    subset: str = ""


def target_of(name: str, values: Sequence[float | int | str], subset: str = "") -> Target:
    """A target with these values: numbers, or names of classes; nan where it is not known.

    Classes are in the order of their names, as numbers if they are numbers.
    """
    classes = sorted({value for value in values if isinstance(value, str)})
    if not classes:
        return Target(name, np.array(values, dtype=np.float64), subset=subset)
    if are_numbers(classes):
        classes.sort(key=float)
    place = {name: float(number) for number, name in enumerate(classes)}
    numbers = [place[value] if isinstance(value, str) else np.nan for value in values]
    return Target(name, np.array(numbers, dtype=np.float64), tuple(classes), subset)


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all names of classes are numbers, so that their order is known."""
    try:
        return bool(np.isfinite([float(name) for name in names]).all())
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images and one target per image, or several, in rows.

    Args:
        measure: the first target: a number, or the number of a class; nan where it is not known.
        classes: of the first target, in order; empty if it is a number.
        more: the other targets.
        facts: what reading found or assumed; part of `run.json`.
    """

    images: tuple[Image, ...]
    measure: Float64[np.ndarray, " n"]
    measure_name: str
    subset: tuple[str, ...]  # the class of the object, or another name that rows share
    group: tuple[str, ...]  # images of one group (slide, patient) are never split
    # in pixels of the upright image; nan of images where EXIF leaves open where it is
    boxes: Float64[np.ndarray, "n 4"] | None = None
    left_out: tuple[LeftOut, ...] = ()
    marks: tuple[Marked, ...] = ()  # of each row, if known: all that was measured, to be drawn
    facts: Mapping[str, object] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    more: tuple[Target, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets, the first one first."""
        return Target(self.measure_name, self.measure, self.classes), *self.more

    def known(self, target: str) -> Int[np.ndarray, " k"]:
        """The rows whose target is known."""
        return np.flatnonzero(~np.isnan(self._target(target).values))

    def of(self, target: str) -> "ImageSet":
        """The rows whose target is known, with this target alone.

        Raises:
            DataError: if there is no such target.
        """
        chosen, rows = self._target(target), self.known(target)
        if not self.more and len(rows) == len(self):
            return self
        part = replace(self.rows(rows), more=(), measure=chosen.values[rows])
        if chosen.subset:
            part = replace(part, subset=(chosen.subset,) * len(rows))
        return replace(part, measure_name=chosen.name, classes=chosen.classes)

    def asked(self, targets: Sequence[Target]) -> "ImageSet":
        """The same images with these targets, without those for which none is known.

        Targets with a subset of their own come last.
        """
        first, *more = sorted(targets, key=lambda each: bool(each.subset))
        known = ~np.all([np.isnan(each.values) for each in targets], axis=0)
        whole = replace(self, measure=first.values, measure_name=first.name, more=tuple(more))
        if first.subset:
            whole = replace(whole, subset=(first.subset,) * len(self))
        return replace(whole, classes=first.classes).rows(known)

    def box(self, row: int) -> Box | None:
        """The box of a row; None if it is not known."""
        if self.boxes is None or np.isnan(self.boxes[row]).any():
            return None
        left, top, right, bottom = self.boxes[row].tolist()
        return left, top, right, bottom

    def said(self, row: int) -> str:
        """The first target of a row in words: "area 0.25", "grade high"."""
        value = self.measure[row]
        known = self.classes[int(value)] if self.classes and np.isfinite(value) else f"{value:.4g}"
        return f"{self.measure_name} {known}"

    def _target(self, name: str) -> Target:
        check_names(name, tuple(each.name for each in self.targets), "target")
        return next(each for each in self.targets if each.name == name)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Each subset once, in order of first appearance."""
        return tuple(dict.fromkeys(self.subset))

    def rows(
        self, which: Bool[np.ndarray, " n"] | Integer[np.ndarray, " k"] | Sequence[int]
    ) -> "ImageSet":
        """The chosen rows, by a mask or by their numbers; skipped items stay listed."""
        asked = np.asarray(which)
        places = np.arange(len(self))[asked if asked.dtype == bool else asked.astype(np.int64)]
        return replace(
            self,
            images=tuple(self.images[place] for place in places),
            measure=self.measure[places],
            subset=tuple(self.subset[place] for place in places),
            group=tuple(self.group[place] for place in places),
            boxes=None if self.boxes is None else self.boxes[places],
            marks=tuple(self.marks[place] for place in places) if self.marks else (),
            more=tuple(replace(each, values=each.values[places]) for each in self.more),
        )


def make_image_set(
    images: Sequence[str | Path | PIL.Image.Image | np.ndarray],
    measure: Sequence[float] | np.ndarray | Mapping[str, Sequence[float | int | str | None]],
    *,
    subset: str | Sequence[str] | None = None,
    group: Sequence[object] | None = None,
    measure_name: str = "measure",
) -> ImageSet:
    """A set of files, PIL images or arrays, with one measure per image, or several targets.

    Args:
        measure: one finite number per image; or by name, numbers or names of classes for each
            target, where None and nan say that it is not known.
        subset: one name for all, or one per image; "images" by default.
        group: a value shared by images that belong together; by default each image is its own.
    """
    n = len(images)
    if isinstance(measure, Mapping):
        targets = [_named_target(name, values, n) for name, values in measure.items()]
        if not targets:
            raise DataError("No target is given. Give one or more, such as {'age': [61, 48]}.")
        given = {"subset": subset, "group": group, "measure_name": targets[0].name}
        return make_image_set(images, np.zeros(n), **given).asked(targets)
    subset = [subset or "images"] * n if subset is None or isinstance(subset, str) else subset
    for name, values in (("measure", measure), ("subset", subset), ("group", group)):
        if values is not None and len(values) != n:
            raise DataError(
                f"There are {n} images but {len(values)} values of {name}. Give one for each image."
            )
    numbers = np.asarray(measure, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise DataError(
            f"{bad.size} of {n} measures are not finite, the first at row {bad[0]}. "
            "Remove these images, or measure them."
        )
    entries = tuple(image_of(place, given) for place, given in enumerate(images))
    groups = [image.name for image in entries] if group is None else group
    files: dict[Path | Stored, str] = {
        each.source: each.name for each in entries if isinstance(each.source, Path)
    }
    try:
        shown = settled(files, Rendering(), "auto")
    except DataError as error:
        raise DataError(without_options(str(error))) from error
    entries = tuple(
        replace(each, rendering=shown.renderings.get(each.source))
        if isinstance(each.source, Path)
        else each
        for each in entries
    )
    unusable = (f"{files[each]}: {without_options(why)}" for each, why in shown.skipped.items())
    assumed = [each.text for each in shown.assumed]
    found = {"assumed": [*assumed, *unusable], "stated": [*shown.stated]}
    facts = {name: sentences for name, sentences in found.items() if sentences}
    names = tuple(subset), tuple(map(str, groups))
    return ImageSet(entries, numbers, measure_name, *names, facts=facts)


def _named_target(name: str, values: Sequence[float | int | str | None], n: int) -> Target:
    if len(values) != n:
        raise DataError(
            f"There are {n} images but {len(values)} values of {name}. Give one for each image."
        )
    known = [np.nan if value is None else value for value in values]
    kinds = {type(value) for value in known if isinstance(value, str) or np.isfinite(value)}
    if not kinds or (str in kinds and len(kinds) > 1):
        what = "holds numbers and text" if kinds else "is known of no image"
        raise DataError(f"The target {name!r} {what}. Give numbers alone, or names of classes.")
    return target_of(name, known)


def image_of(place: int, given: Any) -> Image:
    """A file, a PIL image or an array (h, w, 3) or (h, w) of uint8 as an Image.

    Raises:
        DataError: if it is none of these.
    """
    name = str(given) if isinstance(given, str | Path) else f"image {place}"
    try:
        if isinstance(given, str | Path):
            header(Path(given))
            return Image(name, Path(given))
        if isinstance(given, PIL.Image.Image):
            return Image(name, np.array(rgb_of(given)))
    except DataError as error:
        raise DataError(f"{name}: {without_options(str(error))}") from error
    if not isinstance(given, np.ndarray):
        raise DataError(
            f"{name} is of the type {type(given).__name__}. Give a file, a PIL image or an array."
        )
    pixels = np.stack([given] * 3, axis=-1) if given.ndim == 2 else given
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DataError(
            f"{name} is an array of {given.dtype} and shape {given.shape}. "
            "Give uint8 of shape (height, width, 3), or (height, width) for grey."
        )
    return Image(name, pixels)


def skip(item: LeftOut, left_out: list[LeftOut], strict: bool) -> None:
    """Add to the skipped items, or raise if `strict`."""
    if strict:
        raise DataError(f"{item.name}: {item.reason} (--strict skips nothing).")
    left_out.append(item)


def first_skipped(left_out: Sequence[LeftOut]) -> str:
    """The number of skipped items, and the first of them."""
    if not left_out:
        return ""
    first = left_out[0]
    return f"{len(left_out)} were skipped, the first is {first.name}: {first.reason}."


def image_facts(
    image_set: ImageSet, keys: Sequence[str | DataError] | None = None
) -> dict[str, object]:
    """Counts, what reading assumed, and a hash of every image's content, measure and subset.

    `sha256_by_target` has the hash of the images of each target as if it were the only one.

    Args:
        keys: those of the images, if they are known.
    """
    keys = list(keys_of(image_set.images)) if keys is None else keys
    for key in keys:
        if isinstance(key, DataError):
            raise key
    by_target = {
        target.name: _sha256(
            image_set.of(target.name), [keys[row] for row in image_set.known(target.name)]
        )
        for target in image_set.targets
    }
    names = np.array(image_set.subset)
    return {
        "n_images": len(image_set),
        "n_by_subset": {subset: int((names == subset).sum()) for subset in image_set.subsets},
        "measure": ", ".join(target.name for target in image_set.targets),
        "sha256": _sha256(image_set, keys),
        "sha256_by_target": by_target,
        **image_set.facts,
    }


def _sha256(image_set: ImageSet, keys: Sequence[object]) -> str:
    """A hash of every image's content, measures, subset and group."""
    digest = hashlib.sha256()
    rows = zip(keys, image_set.measure, image_set.subset, image_set.group, strict=True)
    for key, measure, subset, group in rows:
        digest.update(f"{key} {measure!r} {subset} {group}\n".encode())
    for target in image_set.targets:
        if target.classes or image_set.more:  # else all of it is there already
            said = f"{target.name} {target.classes} {target.values.tolist()} {target.subset}\n"
            digest.update(said.encode())
    return digest.hexdigest()
