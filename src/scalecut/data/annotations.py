"""Photographs with boxes, masks or a table of measures, read into a set of images.

A reader gives what the files say, picture by picture; `read_images` turns it into rows: for each
class of object, the images and one measure each. Only the headers of pictures are opened. What
cannot be used is left out with its reason, never in silence.

Layouts: PASCAL VOC and the boxes of ImageNet (the same XML), COCO instances, folders of masks, CSV,
tar shards.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from ..errors import DataError
from .decoding import header, labels_of
from .images import (
    LOSSLESS,
    SUFFIXES,
    Image,
    ImageSet,
    LeftOut,
    told,
)
from .measures import (
    Box,
    Frame,
    clipped,
    measure_named,
    share_of,
    shares_of_labels,
    upright,
)
from .storage import Stored, is_address

SCHEMES = {
    "voc": "a folder with Annotations and JPEGImages",
    "coco": "an instances file, JSON",
    "csv": "a table with the columns image and measure",
    "tar": "shards with a picture and a .json with its measure a sample",
    "masks": "a folder with images and masks",
}
OBJECTS = ("single", "largest", "mean")
WITH_MEASURE = {"csv": ("A table brings", "the column"), "tar": ("A shard brings", "its .json")}


@dataclass(frozen=True, slots=True)
class _Object:
    kind: str
    box: Box
    flags: frozenset[str]  # of truncated, difficult, crowd


@dataclass(frozen=True, slots=True)
class Marked:
    """A picture and what is marked on it, before either is looked at."""

    image: Image
    path: Path
    kinds: frozenset[str]
    marks: tuple[_Object, ...] | Path  # boxes, or the file of a mask
    size: tuple[int, int] | None = None  # width and height that the boxes were drawn on


@dataclass(frozen=True, slots=True)
class Rule:
    """How the objects of a picture become one number."""

    frame: Frame
    measure: str
    objects: str
    skipped: frozenset[str]


@dataclass(frozen=True, slots=True)
class Row:
    subset: str
    image: Image
    measure: float
    group: str
    box: Box | None


@dataclass(frozen=True, slots=True)
class _Seen:
    area: float  # shares of the frame's window
    height: float
    box: Box


def place_of(spec: str, images_folder: Path | None) -> tuple[str, Path | Stored | str]:
    """The kind of data, and where: a local path, a table at an address, or a pattern of shards."""
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in SCHEMES or not rest:
        kinds = "; ".join(f"{name}: {what}" for name, what in SCHEMES.items())
        raise DataError(f"Data {spec!r} is not of the form KIND:PATH. The kinds are {kinds}.")
    if images_folder is not None and not images_folder.is_dir():
        raise DataError(f"There is no folder {images_folder}. Give the one that holds the images.")
    if scheme == "tar":
        return scheme, rest
    if is_address(rest):
        if scheme != "csv":
            raise DataError(
                f"{spec!r} is an address, which only csv: and tar: can be read from. Give one of "
                "these, or a local copy."
            )
        return scheme, Stored(rest)
    place = Path(rest).expanduser()
    needs_folder = scheme in ("voc", "masks")
    if not (place.is_dir() if needs_folder else place.is_file()):
        sort = "folder" if needs_folder else "file"
        raise DataError(f"There is no {sort} {place}. Give {scheme}: {SCHEMES[scheme]}.")
    return scheme, place


def check_found(
    place: Path,
    rows: list[Row],
    asked: frozenset[str],
    objects: str,
    left_out: list[LeftOut],
) -> None:
    lacking = sorted(asked - {row.subset for row in rows})
    if rows and not lacking:
        return
    what = f"of subset {lacking[0]!r} " if lacking else ""
    left = told(left_out) if left_out else ""
    if objects == "single":
        what += "with exactly one object "
        left = f"--objects largest or mean takes those with several. {left}"
    raise DataError(f"{place} has no image {what}that can be used. {left}".rstrip())


def assembled(rows: list[Row], measure: str, left_out: list[LeftOut]) -> ImageSet:
    rows = sorted(rows, key=lambda row: (row.subset, row.image.name))
    boxes = [row.box for row in rows if row.box is not None]
    return ImageSet(
        images=tuple(row.image for row in rows),
        measure=np.array([row.measure for row in rows], dtype=np.float64),
        measure_name=measure,
        subset=tuple(row.subset for row in rows),
        group=tuple(row.group for row in rows),
        boxes=np.array(boxes, dtype=np.float64) if len(boxes) == len(rows) else None,
        left_out=tuple(left_out),
    )


def measured(item: Marked, kinds: frozenset[str], rule: Rule) -> Iterator[Row | LeftOut]:
    """A row for each kind of object that the picture is chosen for."""
    chosen = [(kind, _chosen(item.marks, kind, rule.objects)) for kind in sorted(kinds)]
    if not any(marks for _, marks in chosen):
        return
    width, height, orientation = header(item.path)
    for kind, marks in chosen:
        if isinstance(marks, Path):
            seen = _seen_in_mask(marks, width, height, rule)
        else:
            flags = sorted(rule.skipped & {flag for mark in marks for flag in mark.flags})
            if flags:
                yield LeftOut(item.image.name, f"its {kind} is marked {flags[0]}, as asked")
                continue
            boxes = _upright_boxes(item, marks, width, height, orientation)
            window = rule.frame.window(width, height)
            seen = [_Seen(*share_of(box, window), box) for box in boxes]
        if seen:
            area, tall, box = _summary(seen, kind, rule.objects)
            value = measure_named(rule.measure)(area, tall, rule.frame)
            yield Row(kind, item.image, value, item.image.name, box)


def _chosen(
    marks: tuple[_Object, ...] | Path, kind: str, objects: str
) -> tuple[_Object, ...] | Path:
    """The objects of that kind to be measured; none if a single one is asked and there are more."""
    if isinstance(marks, Path):
        return marks
    alike = [mark for mark in marks if mark.kind == kind]
    if objects == "single" and len(alike) > 1:
        return ()
    return tuple(mark for mark in alike if "crowd" not in mark.flags)


def _upright_boxes(
    item: Marked, marks: tuple[_Object, ...], width: int, height: int, orientation: int
) -> list[Box]:
    """Boxes in upright pixels; the size that they were drawn on tells if they already are."""
    boxes = [mark.box for mark in marks]
    size = item.size or (width, height)
    if orientation >= 5 and size == (height, width) != (width, height):
        boxes = [upright(box, orientation, height, width) for box in boxes]
    elif size != (width, height):
        raise DataError(
            f"its boxes were drawn on {size[0]} x {size[1]} pixels, but the picture has "
            f"{width} x {height}; give the picture that they were drawn on"
        )
    return [clipped(box, width, height) for box in boxes]


def _summary(seen: list[_Seen], kind: str, objects: str) -> tuple[float, float, Box | None]:
    seen = [each for each in seen if each.area > 0]
    if not seen:
        raise DataError(
            f"its {kind} lies outside the part that the network is shown; "
            "--fit squash or pad shows all of it"
        )
    if objects == "mean":
        areas, heights = [each.area for each in seen], [each.height for each in seen]
        return float(np.mean(areas)), float(np.mean(heights)), None
    largest = max(seen, key=lambda each: each.area)
    return largest.area, largest.height, largest.box


def voc(folder: Path, images_folder: Path | None) -> Iterator[Marked | LeftOut]:
    notes = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(notes.rglob("*.xml"))
    if not files:
        raise DataError(f"There is no XML file in {notes}. Give a folder with one an image.")
    pictures = images_folder or next(
        (folder / name for name in ("JPEGImages", "images") if (folder / name).is_dir()), folder
    )
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _pictures(pictures):
        by_name[path.name].append(path)
        by_name[path.stem].append(path)
    for file in files:
        try:
            stated, size, marks = _voc_marks(file)
            path = _picture_of(file, stated, by_name)
        except DataError as error:
            yield LeftOut(file.relative_to(folder).as_posix(), str(error))
        else:
            image = Image(path.relative_to(pictures).as_posix(), path)
            yield Marked(image, path, frozenset(mark.kind for mark in marks), marks, size)


def _pictures(folder: Path, suffixes: set[str] = SUFFIXES) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def _picture_of(file: Path, stated: str, by_name: dict[str, list[Path]]) -> Path:
    """The picture of an annotation; ImageNet's XML names it without extension, or as `%s`."""
    name = PureWindowsPath(stated).name  # knows both slashes
    for wanted in (name, PureWindowsPath(name).stem, file.stem):
        paths = by_name.get(wanted, [])
        paths = [path for path in paths if path.parent.name == file.parent.name] or paths
        if len(paths) > 1:
            raise DataError(
                f"{len(paths)} pictures are called {wanted}; give the folder of the right ones"
            )
        if paths:
            return paths[0]
    raise DataError(f"there is no picture called {name or file.stem}; add it, or give its folder")


def _voc_marks(file: Path) -> tuple[str, tuple[int, int] | None, tuple[_Object, ...]]:
    try:
        root = defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            "its XML declares a document type or entities, which no annotation needs; "
            "remove the declaration if you trust the file"
        ) from error
    except (ParseError, OSError, LookupError, ValueError) as error:
        raise DataError(f"its XML is broken ({error}); mend or remove it") from error
    marks = tuple(_voc_object(n, node) for n, node in enumerate(root.findall("object"), start=1))
    if not marks:
        raise DataError("it has no object with a box; draw one, or remove the file")
    try:
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        size = None
    return root.findtext("filename") or "", size if size and min(size) > 0 else None, marks


def _voc_object(number: int, node: Element) -> _Object:
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
    flags = (flag for flag in ("truncated", "difficult") if (node.findtext(flag) or "0") == "1")
    return _Object(kind, (left, top, right, bottom), frozenset(flags))


def coco(file: Path, images_folder: Path | None) -> Iterator[Marked | LeftOut]:
    parts = _coco_parts(file)
    kinds = {each["id"]: str(each["name"]) for each in parts["categories"]}
    notes: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for note in parts["annotations"]:
        notes[note["image_id"]].append(note)
    folder = _coco_folder(file, [str(each["file_name"]) for each in parts["images"]], images_folder)
    for entry in parts["images"]:
        name = str(entry["file_name"])
        try:
            marks = tuple(_coco_object(note, kinds) for note in notes.pop(entry["id"], []))
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        drawn_on = entry.get("width") or 0, entry.get("height") or 0
        image = Image(name, folder / name)
        size = drawn_on if drawn_on[0] and drawn_on[1] else None
        if marks:
            yield Marked(image, folder / name, frozenset(m.kind for m in marks), marks, size)
    for number in notes:
        yield LeftOut(f"image {number!r}", f"it is annotated, but {file.name} does not list it")


def _coco_parts(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{file} is no JSON ({error}). Give an instances file of COCO.") from error
    fields = {
        "images": {"id", "file_name"},
        "annotations": {"image_id", "category_id", "bbox"},
        "categories": {"id", "name"},
    }
    found = sorted(parts) if isinstance(parts, dict) else [type(parts).__name__]
    for part, needed in fields.items():
        entries = parts.get(part) if isinstance(parts, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DataError(
                f"{file} has no list of {part}, only {', '.join(found[:5]) or 'nothing'}. "
                "Give an instances file of COCO."
            )
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not needed <= entry.keys():
                raise DataError(
                    f"{file}: entry {number} of {part} lacks one of "
                    f"{', '.join(sorted(needed))}. Give an instances file of COCO."
                )
            for name in sorted(needed):
                if name.endswith("id") and not isinstance(entry[name], int | str):
                    raise DataError(
                        f"{file}: entry {number} of {part} has {entry[name]!r} as {name}. "
                        "Give a number or a name."
                    )
    return parts


def _coco_object(note: dict[str, Any], kinds: dict[Any, str]) -> _Object:
    if note["category_id"] not in kinds:
        raise DataError(
            f"its annotation is of category {note['category_id']!r}, which the file does not name"
        )
    try:
        left, top, width, height = map(float, note["bbox"])
    except (TypeError, ValueError) as error:
        raise DataError(f"its box {note['bbox']!r} is not four numbers; mend it") from error
    flags = frozenset({"crowd"}) if note.get("iscrowd") else frozenset()
    return _Object(kinds[note["category_id"]], (left, top, left + width, top + height), flags)


def _coco_folder(file: Path, names: list[str], images_folder: Path | None) -> Path:
    if images_folder is not None:
        return images_folder
    split = file.stem.partition("_")[2]  # instances_train2017.json -> train2017
    here = file.parent
    places = [here, here / "images"]
    if split:
        places += [here.parent / split, here.parent / "images" / split, here / split]
    for place in places:
        if any((place / name).is_file() for name in names[:20]):
            return place
    raise DataError(
        f"The images of {file}, such as {names[0]}, are in none of "
        f"{', '.join(str(place) for place in places)}. Say where they are: images_folder."
    )


def masks(folder: Path, images_folder: Path | None) -> Iterator[Marked | LeftOut]:
    pictures = images_folder or folder / "images"
    places = [folder / name for name in ("masks", "labels") if (folder / name).is_dir()]
    if not places or not pictures.is_dir():
        lack = "images" if places else "masks (or labels)"
        raise DataError(f"{folder} has no folder {lack}. Give one with images and masks in it.")
    masks = {
        path.relative_to(places[0]).with_suffix("").as_posix(): path
        for path in _pictures(places[0], LOSSLESS)
    }
    paths = _pictures(pictures)
    if not paths:
        raise DataError(f"There is no image in {pictures}. Give a folder with images in it.")
    for path in paths:
        name = path.relative_to(pictures)
        mask = masks.get(name.with_suffix("").as_posix()) or masks.get(path.stem)
        subset = name.parts[0] if len(name.parts) > 1 else folder.resolve().name
        if mask is None:
            reason = f"there is no mask {path.stem}.png (or .tif, .bmp, .gif); add it"
            yield LeftOut(name.as_posix(), reason)
        else:
            yield Marked(Image(name.as_posix(), path), path, frozenset({subset}), mask)


def _seen_in_mask(file: Path, width: int, height: int, rule: Rule) -> list[_Seen]:
    """Each object of a mask, or none if a single one is asked for and there are more."""
    labels = labels_of(file)
    if labels.shape != (height, width):
        raise DataError(
            f"its mask has {labels.shape[1]} x {labels.shape[0]} pixels, the picture {width} x "
            f"{height}; give a mask of the same size"
        )
    objects = shares_of_labels(labels, rule.frame.window(width, height))
    if not objects:
        raise DataError("its mask marks no pixel; mark its object, or remove the image")
    if rule.objects == "single" and len(objects) > 1:
        return []
    return [_Seen(*each) for each in objects]
