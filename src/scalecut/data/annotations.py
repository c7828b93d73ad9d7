"""Readers of annotated images: what the files say, image by image.

A reader yields `Labelled` images, `LeftOut` for what cannot be used, and sentences for what it
assumed. It opens annotations, but no image; `read.read_images` makes rows of what it yields. Two
labels for one image, or two images for one label, are refused.

Here: PASCAL VOC and the boxes of ImageNet (the same XML), labelme, CVAT for images. Others have
modules of their own: `coco`, `yolo`, `pairs` (images with masks) and `tables`.
"""

import base64
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException
from jaxtyping import Bool

from ..errors import OF_CONTENT, DataError
from .assumptions import Assumed
from .boxes import counted_from_1
from .decoding import decoded, opened
from .files import Files, Items, base_name, composed, size_of
from .images import Image, LeftOut, Mark, Source, marked
from .measures import Box
from .outlines import (
    Shape,
    Size,
    Tally,
    around,
    check_part,
    ellipse,
    joined,
    ring_of,
    runs_of,
)

TRUE = {"1", "true", "yes", "y", "t"}
WITHOUT_AREA = ("point", "points", "line", "linestrip")  # shapes of labelme
FALSE = {"", "0", "false", "no", "n", "f", "unspecified", "none"}


def voc(folder: Path, source: Source) -> Items:
    """A folder with one XML file per image, in Annotations or next to the images."""
    notes = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = Files(notes, {".xml"})
    if not files.paths:
        raise DataError(f"There is no XML file in {notes}. Give a folder with one per image.")
    places = (folder / name for name in ("JPEGImages", "images"))
    images = Files(source.images or next((place for place in places if place.is_dir()), folder))
    unknown: Counter[str] = Counter()
    boxes: list[Box] = []

    def read(file: Path) -> tuple[str, Size, Sequence[Mark]]:
        name, size, marks = _voc(file, unknown)
        boxes.extend(mark.box for mark in marks)
        return name, size, marks

    yield from _one_each(folder, files, images, "<filename>", read)
    if not source.boxes:
        yield from counted_from_1(boxes)
    for text, n in unknown.items():
        yield Assumed(
            f"{text} is no flag that is known ({n} times), and counts as not set", "flags"
        )


def _one_each(
    folder: Path,
    notes: Files,
    images: Files,
    key: str,
    read: Callable[[Path], tuple[str, Size, Sequence[Mark]]],
) -> Items:
    """The images of annotations that are files, one per image.

    Args:
        key: where an annotation names its image.
        read: the name, the size, and the objects that an annotation states.
    """
    used: dict[Path, Path] = {}
    renamed: list[str] = []
    for file in notes.paths:
        note = file.relative_to(folder).as_posix()
        try:
            stated, size, marks = read(file)
        except DataError as error:
            yield LeftOut(note, str(error))
            continue
        path = _image_of(file, stated, images)
        if path is None:
            yield LeftOut(note, str(images.missing(base_name(stated) or file.stem)))
            continue
        if path in used:
            raise DataError(
                f"{images.relative(path)} is annotated twice, in {used[path].name} and "
                f"{file.name}. Keep one annotation per image."
            )
        used[path] = file
        images.note_place(path, file.relative_to(notes.folder).parent, note)
        name = composed(base_name(stated))
        own = {composed(path.stem), composed(path.name), "", "%s"}
        if not {name, PureWindowsPath(name).stem} & own:
            renamed.append(file.name)
        yield marked(Image(images.relative(path), path), marks, size)
    yield from notes.rest("annotations")
    yield from images.rest("images", used)
    if renamed:
        yield Assumed(
            f"{len(renamed)} annotations name another file in {key} (the first is "
            f"{renamed[0]}); each belongs to the image of its own name",
            "names",
        )


def _image_of(file: Path, stated: str, images: Files) -> Path | None:
    """The image of an annotation: that of its own name, else the one that it names.

    ImageNet's XML names it without extension, or as `%s`.
    """
    name = base_name(stated)
    own = PureWindowsPath(name).stem == file.stem and name != file.stem
    for wanted in (name if own else "", file.stem, name, PureWindowsPath(name).stem):
        found = images.named(wanted, near=file.parent.name) if wanted else None
        if found is not None:
            return found
    return None


def _xml(file: Path) -> Element:
    """The root of an XML file, its tags without namespaces."""
    try:
        root = defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            "its XML declares a document type or entities, which no annotation needs; "
            "remove the declaration if you trust the file"
        ) from error
    except (ParseError, OSError, LookupError, ValueError) as error:
        raise DataError(f"its XML is broken ({error}); fix or remove it") from error
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    return root


def _voc(file: Path, unknown: Counter[str]) -> tuple[str, Size, list[Mark]]:
    root = _xml(file)
    nodes = enumerate(root.findall("object"), start=1)
    marks = [_voc_mark(number, node, unknown) for number, node in nodes]
    if not marks:
        raise DataError("it has no object with a box; draw one, or remove the file")
    size = size_of(root.findtext("size/width"), root.findtext("size/height"))
    return (root.findtext("filename") or "").strip(), size, marks


def _flag(name: str, text: str, unknown: Counter[str]) -> bool:
    """Whether a flag is set: a word for true, or a share above 0."""
    word = text.strip().lower()
    if word in TRUE | FALSE:
        return word in TRUE
    try:
        return float(word) > 0
    except ValueError:
        unknown[f"{name} = {text.strip()!r}"] += 1
        return False


def _voc_mark(number: int, node: Element, unknown: Counter[str]) -> Mark:
    kind = (node.findtext("name") or "").strip()
    corners = [node.findtext(f"bndbox/{edge}") or "" for edge in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = map(float, corners)
    except ValueError as error:
        raise DataError(
            f"its object {number} ({kind or 'without a name'}) has no box of four numbers; "
            "give xmin, ymin, xmax and ymax"
        ) from error
    if not kind:
        raise DataError(f"its object {number} has no name; give its class")
    flags = (
        flag
        for flag in ("truncated", "difficult")
        if _flag(flag, node.findtext(flag) or "", unknown)
    )
    return Mark(kind, (left, top, right, bottom), frozenset(flags))


# --- labelme -------------------------------------------------------------------------------------


def labelme(folder: Path, source: Source) -> Items:
    """A folder with one JSON file of labelme per image, next to it or elsewhere."""
    files = Files(folder, {".json"})
    if not files.paths:
        raise DataError(f"There is no JSON file in {folder}. Give a folder with one per image.")
    images, tally = Files(source.images or folder), Tally(source.marks == "masks")
    yield from _one_each(folder, files, images, "imagePath", lambda file: _labelme(file, tally))
    yield from tally.statements()


def _labelme(file: Path, tally: Tally) -> tuple[str, Size, list[Mark]]:
    try:
        about = json.loads(file.read_bytes())
        marks = _labelme_marks(about, tally)
        return str(about.get("imagePath") or ""), _labelme_size(about), marks
    except DataError:
        raise
    except (*OF_CONTENT, OSError) as error:
        raise DataError("it is no annotation of labelme; remove it") from error


def _labelme_marks(about: Mapping[str, Any], tally: Tally) -> list[Mark]:
    """The objects of an annotation; shapes of one label and group are one object."""
    corners: defaultdict[tuple[str, object], list[float]] = defaultdict(list)
    shapes: defaultdict[tuple[str, object], list[Shape | None]] = defaultdict(list)
    size, n_outlines = _labelme_size(about), 0
    for number, shape in enumerate(about["shapes"]):
        kind, form = str(shape["label"]).strip(), shape.get("shape_type") or "polygon"
        if form in WITHOUT_AREA:
            tally.without_area[form] += 1
            continue
        if form not in ("circle", "rectangle", "polygon", "mask"):
            raise DataError(f"its {kind} has the shape {form!r}, which is not measured; redraw it")
        points = [(float(x), float(y)) for x, y in shape["points"]]
        own: Shape | None = None
        if form == "circle":
            (x, y), (other_x, other_y) = points
            radius = math.hypot(other_x - x, other_y - y)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
            own = ((ellipse(x, y, radius, radius),),)
        elif form == "polygon":
            n_outlines += 1
            own = ((ring_of(points),),) if tally.has_shapes else None
        elif form == "mask":
            left, top = points[0]
            part = _labelme_mask(shape["mask"])  # the second point is its last pixel, not its end
            points = [(left, top), (left + part.shape[1], top + part.shape[0])]
            own = runs_of(part, int(left), int(top), size) if tally.has_shapes else None
        group = shape.get("group_id")
        key = kind, ("alone", number) if group is None else group
        corners[key] += [value for point in points for value in point]
        shapes[key].append(own)
    marks = [
        Mark(key[0], around(flat), shape=joined(shapes[key], size) if tally.has_shapes else None)
        for key, flat in corners.items()
    ]
    if not marks:
        raise DataError("it has no object with an area; draw one, or remove the file")
    tally.n_outlines += n_outlines
    return marks


def _labelme_size(about: Mapping[str, Any]) -> Size:
    return size_of(about.get("imageWidth"), about.get("imageHeight"))


def _labelme_mask(text: str) -> Bool[np.ndarray, "a b"]:
    """The mask of a part of an image, which is stored as a PNG in base64."""
    with opened(io.BytesIO(base64.b64decode(text))) as stored:
        return np.asarray(decoded(stored)) > 0


# --- CVAT ----------------------------------------------------------------------------------------


def cvat(file: Path, source: Source) -> Items:
    """An XML file of CVAT for images 1.1; images are in a folder next to it."""
    try:
        root = _xml(file)
    except DataError as error:
        raise DataError(f"{file}: {error}.") from error
    if root.find("track") is not None:
        raise DataError(
            f"{file} holds tracks of a video. Export the task of CVAT as 'CVAT for images 1.1'."
        )
    entries = root.findall("image")
    if not entries:
        raise DataError(f"{file} lists no image. Export it as 'CVAT for images 1.1'.")
    place = source.images or next(
        (each for each in (file.parent / "images", file.parent) if each.is_dir()), file.parent
    )
    images = Files(place)
    images.claim(entry.get("name", "") for entry in entries)
    used: set[Path] = set()
    tally = Tally(source.marks == "masks")
    for entry in entries:
        stated = entry.get("name", "")
        path = images.stated(stated)
        if path is None:
            yield LeftOut(stated, str(images.missing(base_name(stated))))
            continue
        if path in used:
            raise DataError(f"{file}: {stated} is listed twice. Keep one annotation per image.")
        used.add(path)
        name, size = images.relative(path), size_of(entry.get("width"), entry.get("height"))
        try:
            marks = _cvat_marks(entry, size, tally)
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        yield marked(Image(name, path), marks, size)
    yield from images.rest("images", used)
    yield from tally.statements()


def _cvat_marks(entry: Element, size: Size, tally: Tally) -> list[Mark]:
    marks, n_outlines = [], 0
    for node in entry:
        kind = node.get("label", "").strip()
        if node.tag in ("polyline", "points", "cuboid", "skeleton"):
            tally.without_area[node.tag] += 1
        if node.tag not in ("box", "ellipse", "mask", "polygon"):
            continue
        try:
            box, shape = _cvat_shape(node, size, tally.has_shapes)
            is_rotated = float(node.get("rotation", "0")) != 0
        except (ValueError, OverflowError) as error:
            raise (
                error
                if isinstance(error, DataError)
                else DataError(f"its {node.tag} of {kind} has no usable numbers; fix it")
            ) from error
        if is_rotated:
            raise DataError(f"its {node.tag} of {kind} is rotated; draw an upright one")
        n_outlines += node.tag == "polygon"
        marks.append(Mark(kind, box, shape=shape if tally.has_shapes else None))
    if not marks:
        raise DataError("it has no annotation")
    tally.n_outlines += n_outlines
    return marks


def _cvat_shape(node: Element, size: Size, has_shapes: bool) -> tuple[Box, Shape | None]:
    """The box around an object, and its shape, if it is more than a box."""
    if node.tag == "box":
        left, top, right, bottom = _numbers(node, "xtl", "ytl", "xbr", "ybr")
        return (left, top, right, bottom), None
    if node.tag == "ellipse":
        x, y, across, down = _numbers(node, "cx", "cy", "rx", "ry")
        return (x - across, y - down, x + across, y + down), ((ellipse(x, y, across, down),),)
    if node.tag == "polygon":
        pairs = [pair.split(",") for pair in node.get("points", "").split(";")]
        corners = [(float(x), float(y)) for x, y in pairs]
        flat = [value for corner in corners for value in corner]
        return around(flat), ((ring_of(corners),),) if has_shapes else None
    left, top, width, height = map(int, _numbers(node, "left", "top", "width", "height"))
    box = float(left), float(top), float(left + width), float(top + height)
    if not has_shapes:
        return box, None
    check_part((width, height), left, top, size)
    lengths = [int(text) for text in node.get("rle", "").split(",")]  # row after row
    if sum(lengths) != width * height:
        raise ValueError("its runs do not add up to its pixels")
    marks = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return box, runs_of(marks.reshape(height, width), left, top, size)


def _numbers(node: Element, *names: str) -> list[float]:
    return [float(node.get(name, "")) for name in names]
