"""The reader of COCO: an instances file, JSON; LVIS has the same form.

An outline or runs of pixels count if masks are measured; otherwise the box does.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import DataError
from .assumptions import Assumed
from .files import Files, Items, base_name, identity, is_there, size_of
from .images import Image, LeftOut, Mark, Source, marked
from .outlines import Runs, Shape, around, ring_of


def coco(file: Path, source: Source) -> Items:
    """An instances file of COCO, JSON."""
    parts = _parts(file)
    kinds = _kinds(parts["categories"], file)
    entries = _images(parts["images"], file)
    notes = _notes(parts["annotations"])
    names = [str(entry["file_name"]) for entry in entries.values()]
    images = Files(_folder(file, names, source.images))
    images.claim(names)
    used: set[Path] = set()
    has_shapes = source.marks == "masks"
    from_outlines: list[str] = []
    for number, entry in entries.items():
        stated = str(entry["file_name"])
        own = notes.pop(number, [])
        path = images.stated(stated)
        name = stated
        if path is not None:
            used.add(path)
            name = images.relative(path)
        if not own:
            yield LeftOut(name, "it has no annotation")
            continue
        if path is None:
            yield LeftOut(name, str(images.missing(base_name(stated))))
            continue
        try:
            marks = [_mark(note, kinds, name, from_outlines, has_shapes) for note in own]
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        size = size_of(entry.get("width"), entry.get("height"))
        yield marked(Image(name, path), marks, size, form="xywh")
    for number in notes:
        yield LeftOut(f"image {number}", f"it is annotated, but {file.name} does not list it")
    yield from images.rest("images", used)
    if not has_shapes and not source.boxes:
        yield from _larger(parts["annotations"], file)
    if from_outlines:
        yield Assumed(
            f"{len(from_outlines)} annotations have an outline but no box (the first is of "
            f"{from_outlines[0]}), and get the box around it",
            "outlines",
        )


def _kinds(categories: list[dict[str, Any]], file: Path) -> dict[str, str]:
    """The names of classes by id, each of which must have one."""
    kinds: dict[str, str] = {}
    for each in categories:
        name, number = str(each["name"]).strip(), identity(each["id"])
        if kinds.setdefault(number, name) != name:
            raise DataError(
                f"{file}: the id {number} names two categories, {kinds[number]} and {name}. "
                "Give each category an id of its own."
            )
    return kinds


def _notes(annotations: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The annotations by the id of their image."""
    notes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for note in annotations:
        notes[identity(note["image_id"])].append(note)
    return notes


def _larger(annotations: list[dict[str, Any]], file: Path) -> Iterator[Assumed]:
    """What is stated of areas larger than their boxes; if most are, boxes must be asked for."""
    larger = [note for note in annotations if _is_larger(note)]
    if not larger:
        return
    first = f"(the first is of image {larger[0]['image_id']})"
    if 2 * len(larger) > len(annotations):
        raise DataError(
            f"{len(larger)} of {len(annotations)} annotations of {file} state an area larger than "
            f"their box {first}, as if boxes were drawn on smaller copies of the images. Give "
            "these images, or --boxes xywh to use the boxes."
        )
    yield Assumed(
        f"{len(larger)} annotations state an area larger than their box {first}, and their boxes "
        "count",
        "--boxes xywh",
    )


def _images(entries: list[dict[str, Any]], file: Path) -> dict[str, dict[str, Any]]:
    """The listed images by id, each once.

    Raises:
        DataError: if an id names two images, or an image has two ids.
    """
    by_id: dict[str, dict[str, Any]] = {}
    by_name: dict[str, str] = {}
    for entry in entries:
        number, name = identity(entry["id"]), str(entry["file_name"])
        other = by_id.setdefault(number, entry)
        if str(other["file_name"]) != name:
            raise DataError(
                f"{file}: the id {number} names two images, {other['file_name']} and {name}, so "
                "annotations could be of either. Number the images of merged files anew."
            )
        if by_name.setdefault(name, number) != number:
            raise DataError(
                f"{file}: {name} is listed twice, with the ids {by_name[name]} and {number}. "
                "Join the two entries, or remove one with its annotations."
            )
    return by_id


def _parts(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        parts = json.loads(file.read_bytes())  # of any Unicode encoding, with or without mark
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error}). Give an instances file of COCO.") from error
    if (way := _converter(parts)) is not None:
        raise DataError(f"{file} is {way}.")
    notes = parts.get("annotations") if isinstance(parts, dict) else None
    if isinstance(notes, dict):  # by id, as in some files of LIVECell
        parts["annotations"] = list(notes.values())
    fields = {
        "images": {"id", "file_name"},
        "annotations": {"image_id", "category_id"},
        "categories": {"id", "name"},
    }
    found = sorted(parts) if isinstance(parts, dict) else [type(parts).__name__]
    for part, needed in fields.items():
        entries = parts.get(part) if isinstance(parts, dict) else None
        if part == "images":
            _name_of_urls(entries)
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
                if name.endswith("id") and not isinstance(entry[name], int | float | str):
                    raise DataError(
                        f"{file}: entry {number} of {part} has {entry[name]!r} as {name}. "
                        "Give a number or a name."
                    )
    return parts


def _name_of_urls(entries: object) -> None:
    """Give images of LVIS, which have an address only, its base name."""
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and "coco_url" in entry:
            entry.setdefault("file_name", base_name(str(entry["coco_url"])))


def _converter(parts: object) -> str | None:
    """What a JSON file of another tool is, and how to convert it; None for what is not known."""
    first = parts[0] if isinstance(parts, list) and parts else None
    if isinstance(first, dict) and "data" in first:
        return "an export of Label Studio; export it as COCO or Pascal VOC instead"
    if isinstance(first, dict) and {"image_id", "score"} <= first.keys():
        return "a list of COCO results; give the instances file that holds images and categories"
    if isinstance(first, dict) and {"image", "annotations"} <= first.keys():
        return "CreateML; convert it to COCO with the package globox"
    if isinstance(first, dict) and "data_row" in first:
        return "an export of Labelbox; import it with the package fiftyone, and export COCO"
    if not isinstance(parts, dict):
        return None
    if {"items", "categories"} <= parts.keys():
        return "Datumaro; convert it with datum convert -if datumaro -f coco"
    if {"objects", "size"} <= parts.keys():
        return "an annotation of Supervisely; export the project there as COCO"
    if {"image", "annotations"} <= parts.keys():
        return "one image, as of SA-1B; join the files to lists of images and annotations"
    if parts.get("type") == "FeatureCollection":
        return "GeoJSON; put it into the folder masks, next to images, and give masks:DIR"
    if "_via_img_metadata" in parts or any(
        isinstance(each, dict) and "regions" in each for each in parts.values()
    ):
        return "a project of VIA; export it in VIA as COCO (Annotation, Export Annotations)"
    if any(isinstance(each, dict) and "bbox" in each for each in parts.values()):
        return "a list of boxes like that of Kvasir-SEG; give masks:DIR, the folder of its masks"
    notes = parts.get("annotations")
    first = notes[0] if isinstance(notes, list) and notes else None
    if isinstance(first, dict) and "segments_info" in first:
        return "COCO panoptic; convert it with panoptic2detection_coco_format of panopticapi"
    if "shapes" in parts:
        return "one annotation of labelme; give labelme:DIR, its folder"
    return None


def _mark(
    note: dict[str, Any],
    kinds: dict[str, str],
    name: str,
    from_outlines: list[str],
    has_shapes: bool,
) -> Mark:
    kind = kinds.get(identity(note["category_id"]))
    if kind is None:
        raise DataError(
            f"its annotation is of category {note['category_id']!r}, which the file does not name"
        )
    flags = frozenset({"crowd"}) if note.get("iscrowd") else frozenset()
    given = note.get("bbox")
    has_box = any(x != 0 for x in given) if isinstance(given, list) else bool(given)
    shape = of_coco(note.get("segmentation")) if has_shapes or not has_box else None
    if has_shapes and isinstance(shape, Runs):
        return Mark(kind, (0.0, 0.0, float(shape.width), float(shape.height)), flags, shape)
    if shape and not isinstance(shape, Runs):
        if not has_shapes:
            from_outlines.append(name)
        left, top, right, bottom = around(
            [x for (ring,) in shape for corner in ring for x in corner]
        )
        box = left, top, right - left, bottom - top
        return Mark(kind, box, flags, shape if has_shapes else None)
    if not isinstance(given, list) or len(given) != 4:
        raise DataError(f"its box {given!r} is not four numbers; fix it")
    try:
        left, top, width, height = map(float, given)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"its box {given!r} is not four numbers; fix it") from error
    return Mark(kind, (left, top, width, height), flags)


def _is_larger(note: dict[str, Any]) -> bool:
    """Whether the stated area exceeds a box in pixels, as if this was drawn on a smaller copy."""
    try:
        _, _, width, height = map(float, note["bbox"])
        return max(width, height) > 1 and float(note["area"]) > 1.1 * width * height
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _folder(file: Path, names: list[str], images_folder: Path | None) -> Path:
    if images_folder is not None:
        return images_folder
    split = file.stem.partition("_")[2]  # instances_train2017.json -> train2017
    here = file.parent
    places = [here, here / "images"]
    if split:
        places += [here.parent / split, here.parent / "images" / split, here / split]
    for form in (lambda name: PureWindowsPath(name).as_posix(), base_name):
        for place in places:
            if any(is_there(place / form(name)) for name in names[:20]):
                return place
    raise DataError(
        f"The images of {file}, such as {names[0]}, are in none of "
        f"{', '.join(str(place) for place in places)}. Give their folder: --images."
    )


# --- segmentations --------------------------------------------------------------------------------


def of_coco(segmentation: Any) -> Shape | None:
    """The shape that a segmentation of COCO states; None if it states none.

    Raises:
        DataError: if it is neither polygons nor runs.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            return _runs(segmentation["counts"], segmentation["size"])
        flat = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
        parts = tuple((ring_of(zip(part[::2], part[1::2], strict=True)),) for part in flat)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"its segmentation is neither polygons nor runs of pixels ({error}); fix it"
        ) from error
    return parts


def _runs(counts: str | Sequence[int], size: Sequence[int]) -> Runs:
    height, width = map(int, size)
    lengths = _decompressed(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if min(lengths) < 0 or sum(lengths) != height * width:
        raise ValueError(f"its runs do not add up to {width} x {height} pixels")
    return Runs(tuple(lengths), height, width)


def _decompressed(text: str) -> list[int]:
    """The lengths that a string of COCO holds: 5 bits per character, the least significant first.

    From the fourth on, the difference to the length before the last is stored.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for sign in text.encode("ascii"):
        bits = sign - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more follow
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value, shift = 0, 0
    return lengths
