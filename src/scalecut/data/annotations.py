"""Readers of annotated images: what the files say, image by image.

A reader yields `Labelled` images, and `LeftOut` for what cannot be used. It opens annotations, but
no image; `read.read_images` turns what it yields into rows.

Layouts: PASCAL VOC and the boxes of ImageNet (the same XML), COCO instances, folders of masks.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from ..errors import DataError
from .decoding import LOSSLESS, SUFFIXES
from .images import Image, Labelled, LeftOut, Mark, Progress


def voc(
    folder: Path, images_folder: Path | None, progress: Progress | None = None
) -> Iterator[Labelled | LeftOut]:
    """A folder with one XML file per image, in Annotations or next to the images."""
    notes = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(notes.rglob("*.xml"))
    if not files:
        raise DataError(f"There is no XML file in {notes}. Give a folder with one per image.")
    places = (folder / name for name in ("JPEGImages", "images"))
    images = images_folder or next((place for place in places if place.is_dir()), folder)
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _files(images):
        by_name[path.name].append(path)
        by_name[path.stem].append(path)
    for file in files:
        try:
            stated, size, marks = _voc_marks(file)
            path = _image_of(file, stated, by_name)
        except DataError as error:
            yield LeftOut(file.relative_to(folder).as_posix(), str(error))
        else:
            image = Image(path.relative_to(images).as_posix(), path)
            yield Labelled(image, frozenset(mark.kind for mark in marks), marks, size)


def _files(folder: Path, suffixes: set[str] = SUFFIXES) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def _image_of(file: Path, stated: str, by_name: dict[str, list[Path]]) -> Path:
    """The image of an annotation; ImageNet's XML names it without extension, or as `%s`."""
    name = PureWindowsPath(stated).name  # splits at both slashes
    for wanted in (name, PureWindowsPath(name).stem, file.stem):
        paths = by_name.get(wanted, [])
        paths = [path for path in paths if path.parent.name == file.parent.name] or paths
        if len(paths) > 1:
            raise DataError(
                f"{len(paths)} images are named {wanted}; give the folder of the right ones"
            )
        if paths:
            return paths[0]
    raise DataError(f"there is no image named {name or file.stem}; add it, or give its folder")


def _voc_marks(file: Path) -> tuple[str, tuple[int, int] | None, tuple[Mark, ...]]:
    try:
        root = defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            "its XML declares a document type or entities, which no annotation needs; "
            "remove the declaration if you trust the file"
        ) from error
    except (ParseError, OSError, LookupError, ValueError) as error:
        raise DataError(f"its XML is broken ({error}); fix or remove it") from error
    marks = tuple(_voc_mark(n, node) for n, node in enumerate(root.findall("object"), start=1))
    if not marks:
        raise DataError("it has no object with a box; draw one, or remove the file")
    try:
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        size = None
    return root.findtext("filename") or "", size if size and min(size) > 0 else None, marks


def _voc_mark(number: int, node: Element) -> Mark:
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
    return Mark(kind, (left, top, right, bottom), frozenset(flags))


def coco(
    file: Path, images_folder: Path | None, progress: Progress | None = None
) -> Iterator[Labelled | LeftOut]:
    """An instances file of COCO, JSON."""
    parts = _coco_parts(file)
    kinds = {each["id"]: str(each["name"]) for each in parts["categories"]}
    notes: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for note in parts["annotations"]:
        notes[note["image_id"]].append(note)
    folder = _coco_folder(file, [str(each["file_name"]) for each in parts["images"]], images_folder)
    for entry in parts["images"]:
        name = str(entry["file_name"])
        try:
            marks = tuple(_coco_mark(note, kinds) for note in notes.pop(entry["id"], []))
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        drawn_on = entry.get("width") or 0, entry.get("height") or 0
        size = drawn_on if drawn_on[0] and drawn_on[1] else None
        if marks:
            image = Image(name, folder / name)
            yield Labelled(image, frozenset(mark.kind for mark in marks), marks, size)
    for number in notes:
        yield LeftOut(f"image {number!r}", f"it is annotated, but {file.name} does not list it")


def _coco_parts(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        parts = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error}). Give an instances file of COCO.") from error
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


def _coco_mark(note: dict[str, Any], kinds: dict[Any, str]) -> Mark:
    if note["category_id"] not in kinds:
        raise DataError(
            f"its annotation is of category {note['category_id']!r}, which the file does not name"
        )
    try:
        left, top, width, height = map(float, note["bbox"])
    except (TypeError, ValueError) as error:
        raise DataError(f"its box {note['bbox']!r} is not four numbers; fix it") from error
    flags = frozenset({"crowd"}) if note.get("iscrowd") else frozenset()
    return Mark(kinds[note["category_id"]], (left, top, left + width, top + height), flags)


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
        f"{', '.join(str(place) for place in places)}. Give their folder: --images."
    )


def masks(
    folder: Path, images_folder: Path | None, progress: Progress | None = None
) -> Iterator[Labelled | LeftOut]:
    """A folder with images and masks of the same names; folders under images are subsets."""
    images = images_folder or folder / "images"
    places = [folder / name for name in ("masks", "labels") if (folder / name).is_dir()]
    if not places or not images.is_dir():
        lack = "images" if places else "masks (or labels)"
        raise DataError(f"{folder} has no folder {lack}. Give one with images and masks in it.")
    by_name = {
        path.relative_to(places[0]).with_suffix("").as_posix(): path
        for path in _files(places[0], LOSSLESS)
    }
    paths = _files(images)
    if not paths:
        raise DataError(f"There is no image in {images}. Give a folder with images in it.")
    for path in paths:
        name = path.relative_to(images)
        mask = by_name.get(name.with_suffix("").as_posix()) or by_name.get(path.stem)
        subset = name.parts[0] if len(name.parts) > 1 else folder.resolve().name
        if mask is None:
            reason = f"there is no mask {path.stem}.png (or .tif, .bmp, .gif); add it"
            yield LeftOut(name.as_posix(), reason)
        else:
            yield Labelled(Image(name.as_posix(), path), frozenset({subset}), mask)
