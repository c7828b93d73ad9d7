"""Readers of annotated images: what the files say, image by image.

A reader yields `Labelled` images, `LeftOut` for what cannot be used, and sentences for what it
assumed. It opens annotations, but no image; `read.read_images` makes rows of what it yields. Two
labels for one image, or two images for one label, are refused.

Layouts: PASCAL VOC and the boxes of ImageNet (the same XML), COCO instances (LVIS too), YOLO,
labelme, CVAT for images, folders of masks (images, or GeoJSON of QuPath). An outline counts by the
box around it, unless masks are measured.
"""

import json
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, TypeAlias
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from ..errors import DataError
from .decoding import JPEG, LOSSLESS, MEDICAL, OTHERS, SUFFIXES, is_image, stem_of, suffix_of
from .images import Image, Labelled, LeftOut, Mark, Source
from .outlines import Parts, Runs, of_coco, ring_of

Items: TypeAlias = Iterator[Labelled | LeftOut | str]
TRUE = {"1", "true", "yes", "y", "t"}
FALSE = {"", "0", "false", "no", "n", "f", "unspecified", "none"}
# before the suffix
MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg", "_segmentation")
MASKS = LOSSLESS | JPEG | {*MEDICAL} | {".geojson"}


class Files:
    """The files of a folder, found by relative path, base name or stem.

    Names are compared as Unicode composes them: file systems differ in that.
    """

    def __init__(self, folder: Path, suffixes: set[str] = SUFFIXES) -> None:
        self.folder = folder
        every = sorted(path for path in folder.rglob("*") if path.is_file())
        self.paths = [path for path in every if is_image(path, suffixes)]
        read = set(self.paths)
        self.others = {_composed(path.name): path for path in every if path not in read}
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            relative = path.relative_to(folder).as_posix()
            for name in {relative, path.name, stem_of(path)}:
                self._by_name[_composed(name)].append(path)

    def named(self, name: str, near: str = "") -> Path | None:
        """The one file of this name; None if there is none.

        Args:
            near: name of a folder; a file in a folder of this name comes before others.

        Raises:
            DataError: if there are several.
        """
        paths = self._by_name.get(_composed(name), [])
        paths = [path for path in paths if path.parent.name == near] or paths
        if len(paths) > 1:
            raise DataError(
                f"{name} could be {self.relative(paths[0])} or {self.relative(paths[1])} of "
                f"{self.folder}. Keep one, give the folder of the right ones (--images), or name "
                "them apart."
            )
        return paths[0] if paths else None

    def relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def missing(self, name: str) -> DataError:
        """The error for a name that no file has."""
        other = self.others.get(_composed(name))
        if other is not None:
            if suffix_of(other) in OTHERS:
                return DataError(f"{name} is {OTHERS[suffix_of(other)]}")
            return DataError(
                f"files like {name} are not read; convert it to PNG or JPEG, with the same name"
            )
        return DataError(f"there is no image named {name}; add it, or give its folder")


def none_in(folder: Path, files: Files) -> DataError:
    """The error for a folder without images: what its files are, and what helps."""
    for path in files.others.values():
        if suffix_of(path) in OTHERS:
            return DataError(f"{folder} has no image; {path.name} is {OTHERS[suffix_of(path)]}.")
    return DataError(f"There is no image in {folder}. Give a folder with images in it.")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def base_name(stated: str) -> str:
    """The name of a file, of a path of any system or of a URL."""
    text = stated.partition("?")[0] if "://" in stated else stated
    return PureWindowsPath(unquote(text) if "://" in stated else text).name


def voc(folder: Path, source: Source) -> Items:
    """A folder with one XML file per image, in Annotations or next to the images."""
    notes = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(notes.rglob("*.xml"))
    if not files:
        raise DataError(f"There is no XML file in {notes}. Give a folder with one per image.")
    places = (folder / name for name in ("JPEGImages", "images"))
    images = Files(source.images or next((place for place in places if place.is_dir()), folder))
    used: dict[Path, Path] = {}
    renamed: list[str] = []
    unknown: Counter[str] = Counter()
    for file in files:
        note = file.relative_to(folder).as_posix()
        try:
            stated, size, marks = _voc_marks(file, unknown)
        except DataError as error:
            yield LeftOut(note, str(error))
            continue
        path = _image_of(file, stated, images)
        if path is None:
            yield LeftOut(note, str(images.missing(base_name(stated) or file.stem)))
            continue
        if path in used:
            raise _twice(images.relative(path), used[path], file)
        used[path] = file
        name = _composed(base_name(stated))
        own = {_composed(path.stem), _composed(path.name), "", "%s"}
        if not {name, PureWindowsPath(name).stem} & own:
            renamed.append(file.name)
        yield Labelled(
            Image(images.relative(path), path), frozenset(m.kind for m in marks), marks, size
        )
    if renamed:
        yield (
            f"{len(renamed)} annotations name another file in <filename> (the first is "
            f"{renamed[0]}); each belongs to the image of its own name"
        )
    for text, n in unknown.items():
        yield f"{text} is no flag that is known ({n} times), and counts as not set"


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


def _voc_marks(
    file: Path, unknown: Counter[str]
) -> tuple[str, tuple[int, int] | None, tuple[Mark, ...]]:
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
        node.tag = node.tag.rpartition("}")[2]  # without namespace
    nodes = enumerate(root.findall("object"), start=1)
    marks = tuple(_voc_mark(number, node, unknown) for number, node in nodes)
    if not marks:
        raise DataError("it has no object with a box; draw one, or remove the file")
    size = _size(root.findtext("size/width"), root.findtext("size/height"))
    return (root.findtext("filename") or "").strip(), size, marks


def _size(width: object, height: object) -> tuple[int, int] | None:
    """Width and height as whole numbers; None if they are not given."""
    try:
        size = int(float(str(width))), int(float(str(height)))
    except (ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


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


def coco(file: Path, source: Source) -> Items:
    """An instances file of COCO, JSON."""
    parts = _coco_parts(file)
    kinds: dict[str, str] = {}
    for each in parts["categories"]:
        name, number = str(each["name"]).strip(), identity(each["id"])
        if kinds.setdefault(number, name) != name:
            raise DataError(
                f"{file}: the id {number} names two categories, {kinds[number]} and {name}. "
                "Give each category an id of its own."
            )
    entries = _coco_images(parts["images"], file)
    notes: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    n_twice = 0
    seen: set[tuple[str, str, str, str]] = set()
    for note in parts["annotations"]:
        number = identity(note["image_id"])
        shape = str(note.get("bbox")), str(note.get("segmentation"))
        mark = number, identity(note["category_id"]), *shape
        if mark in seen:
            n_twice += 1
        else:
            seen.add(mark)
            notes[number].append(note)
    names = [str(entry["file_name"]) for entry in entries.values()]
    images = Files(_coco_folder(file, names, source.images))
    from_outlines: list[str] = []
    for number, entry in entries.items():
        stated = str(entry["file_name"])
        own = notes.pop(number, [])
        path = _coco_image(stated, images)
        name = stated if path is None else images.relative(path)
        if not own:
            yield LeftOut(name, "it has no annotation")
            continue
        if path is None:
            yield LeftOut(name, str(images.missing(base_name(stated))))
            continue
        try:
            marks = tuple(
                _coco_mark(note, kinds, name, from_outlines, has_shapes=source.marks == "masks")
                for note in own
            )
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        size = _size(entry.get("width"), entry.get("height"))
        of_kinds = frozenset(mark.kind for mark in marks)
        yield Labelled(Image(name, path), of_kinds, marks, size, form="xywh")
    for number in notes:
        yield LeftOut(f"image {number}", f"it is annotated, but {file.name} does not list it")
    if n_twice:
        yield f"{n_twice} annotations occur twice with the same box, and count once"
    by_box = parts["annotations"] if source.marks == "boxes" else []
    larger = [note for note in by_box if _is_larger(note)]
    if 2 * len(larger) > len(parts["annotations"]) and not source.boxes:
        raise DataError(
            f"{len(larger)} of {len(parts['annotations'])} annotations of {file} state an area "
            f"larger than their box (the first is of image {larger[0]['image_id']}), as if boxes "
            "were drawn on smaller copies of the images. Give these images, or --boxes xywh to "
            "use the boxes."
        )
    if larger:
        yield (
            f"{len(larger)} annotations state an area larger than their box (the first is of image "
            f"{larger[0]['image_id']}), and their boxes count"
        )
    if from_outlines:
        yield (
            f"{len(from_outlines)} annotations have an outline but no box (the first is of "
            f"{from_outlines[0]}), and get the box around it"
        )


def identity(given: object) -> str:
    """An id by its value: 1, 1.0 and "1" are the same."""
    text = str(given).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def _coco_images(entries: list[dict[str, Any]], file: Path) -> dict[str, dict[str, Any]]:
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


def _coco_image(stated: str, images: Files) -> Path | None:
    """The file of an image, by its path as stated, else by its base name."""
    as_posix = PureWindowsPath(stated).as_posix()
    return images.named(as_posix) or images.named(base_name(stated))


def _coco_parts(file: Path) -> dict[str, list[dict[str, Any]]]:
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
    if not isinstance(parts, dict):
        return None
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


def _coco_mark(
    note: dict[str, Any],
    kinds: dict[str, str],
    name: str,
    from_outlines: list[str],
    *,
    has_shapes: bool,
) -> Mark:
    kind = kinds.get(identity(note["category_id"]))
    if kind is None:
        raise DataError(
            f"its annotation is of category {note['category_id']!r}, which the file does not name"
        )
    flags = frozenset({"crowd"}) if note.get("iscrowd") else frozenset()
    shape = of_coco(note.get("segmentation")) if has_shapes else None
    if isinstance(shape, Runs):
        return Mark(kind, (0.0, 0.0, float(shape.width), float(shape.height)), flags, shape)
    outline = _outline(note.get("segmentation"))
    given = note.get("bbox")
    is_empty = not given or (isinstance(given, list) and not any(map(_number, given)))
    if (is_empty or shape is not None) and outline:
        if shape is None:
            from_outlines.append(name)
        left, top, right, bottom = around(outline)
        return Mark(kind, (left, top, right - left, bottom - top), flags, shape)
    if not isinstance(given, list) or len(given) != 4:
        raise DataError(f"its box {given!r} is not four numbers; fix it")
    try:
        left, top, width, height = map(float, given)
    except (TypeError, ValueError) as error:
        raise DataError(f"its box {given!r} is not four numbers; fix it") from error
    return Mark(kind, (left, top, width, height), flags)


def _is_larger(note: dict[str, Any]) -> bool:
    """Whether the stated area exceeds a box in pixels, as if this was drawn on a smaller copy."""
    try:
        _, _, width, height = map(float, note["bbox"])
        return max(width, height) > 1 and float(note["area"]) > 1.1 * width * height
    except (KeyError, TypeError, ValueError):
        return False


def _number(given: object) -> float:
    """The value of a number; 1 for what is none, which is an error elsewhere."""
    return float(given) if isinstance(given, int | float) else 1.0


def _outline(segmentation: object) -> list[float]:
    """The corners of all polygons, x and y by turns; empty for run lengths and none."""
    if not isinstance(segmentation, list):
        return []
    return [float(x) for part in segmentation if isinstance(part, list) for x in part]


def _coco_folder(file: Path, names: list[str], images_folder: Path | None) -> Path:
    if images_folder is not None:
        return images_folder
    split = file.stem.partition("_")[2]  # instances_train2017.json -> train2017
    here = file.parent
    places = [here, here / "images"]
    if split:
        places += [here.parent / split, here.parent / "images" / split, here / split]
    for form in (lambda name: PureWindowsPath(name).as_posix(), base_name):
        for place in places:
            if any((place / form(name)).is_file() for name in names[:20]):
                return place
    raise DataError(
        f"The images of {file}, such as {names[0]}, are in none of "
        f"{', '.join(str(place) for place in places)}. Give their folder: --images."
    )


# --- YOLO ----------------------------------------------------------------------------------------


def yolo(folder: Path, source: Source) -> Items:
    """A folder with images and labels, one text file per image, and data.yaml if there is one."""
    oriented = next((n for n in ("labelTxt", "labelTxt-v1.0") if (folder / n).is_dir()), None)
    if oriented and not (folder / "labels").is_dir():
        raise DataError(
            f"{folder / oriented} holds oriented boxes of DOTA. Convert them to labels with "
            "convert_dota_to_yolo_obb of the package ultralytics."
        )
    about = _yolo_facts(folder)
    kinds = _yolo_kinds(about, folder)
    has_points = "kpt_shape" in about
    places = [source.images] if source.images else _yolo_folders(folder, about)
    paths = sorted({path for place in places for path in Files(place).paths})
    if not paths:
        raise DataError(
            f"There is no image in {', '.join(map(str, places))}. Give a folder with images and "
            "labels, or with data.yaml."
        )
    top = source.images or folder
    n_outlines = 0
    used: dict[Path, str] = {}
    for path in paths:
        name = path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name
        file = _yolo_label(path, folder)
        if file is None:
            yield LeftOut(name, "it has no annotation")
            continue
        if file in used:
            raise _of_two("labels", file, folder, used[file], name)
        used[file] = name
        try:
            marks, outlined = _yolo_marks(file, kinds, has_points)
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        n_outlines += outlined
        of_kinds = frozenset(mark.kind for mark in marks)
        yield Labelled(Image(name, path), of_kinds, marks, form="normalised cxcywh")
    if n_outlines:
        yield f"{n_outlines} outlines count by the boxes around them"


def _yolo_facts(folder: Path) -> dict[str, Any]:
    """What data.yaml says."""
    import yaml  # here, since few data sets are YOLO's

    file = next((folder / n for n in ("data.yaml", "data.yml") if (folder / n).is_file()), None)
    others = sorted(folder.glob("*.y*ml"))
    if file is None and len(others) == 1:
        file = others[0]
    if file is None:
        return {}
    try:
        about = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, OSError, UnicodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not YAML ({reason}). Fix or remove it.") from error
    return about if isinstance(about, dict) else {}


def _yolo_kinds(about: dict[str, Any], folder: Path) -> dict[str, str]:
    """The classes by number: of data.yaml, else of classes.txt.

    Raises:
        DataError: if data.yaml has names that are neither a list nor by number.
    """
    names = about.get("names")
    file = folder / "classes.txt"
    if names is None and file.is_file():
        names = file.read_text(encoding="utf-8-sig").split("\n")
    if isinstance(names, list | None):
        names = dict(enumerate(names or ()))
    if not isinstance(names, dict) or not all(identity(n).isdecimal() for n in names):
        raise DataError(
            f"The names in the YAML file of {folder} are {str(names)[:40]!r}, which give no class "
            "its number. Give a list, such as names: [cat, dog], or names by number."
        )
    found = {identity(number): str(name).strip() for number, name in names.items()}
    return {number: name for number, name in found.items() if name}


def _yolo_folders(folder: Path, about: dict[str, Any]) -> list[Path]:
    """The folders of images: those of data.yaml that are there, else images, else the folder."""
    start = folder / str(about.get("path") or "")
    stated: list[str] = []
    for part in ("train", "val", "test"):
        given = about.get(part) or []
        stated += [given] if isinstance(given, str) else map(str, given)
    found = [
        place
        for text in stated
        for place in (start / text, folder / text, folder / text.removeprefix("../"))
        if place.is_dir()
    ]
    if found:
        return found
    return [folder / "images"] if (folder / "images").is_dir() else [folder]


def _yolo_label(image: Path, folder: Path) -> Path | None:
    """The text file of an image: in labels instead of the last images, else next to it."""
    name, parts = f"{stem_of(image)}.txt", list(image.parent.parts)
    places = [image.parent, folder / "labels"]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        places = [Path(*parts), *places]
    return next((place / name for place in places if (place / name).is_file()), None)


def _yolo_marks(
    file: Path, kinds: dict[str, str], has_points: bool
) -> tuple[tuple[Mark, ...], int]:
    """The objects of a text file, and how many are outlines."""
    marks, n_outlines = [], 0
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = []
        kind = kinds.get(identity(words[0]), identity(words[0]))
        if len(values) == 4 or (has_points and len(values) > 4):
            left, top, right, bottom = values[:4]
            marks.append(Mark(kind, (left, top, right, bottom)))
        elif len(values) >= 6 and len(values) % 2 == 0:
            n_outlines += 1
            left, top, right, bottom = around(values)
            centre = (left + right) / 2, (top + bottom) / 2
            marks.append(Mark(kind, (*centre, right - left, bottom - top)))
        else:
            raise DataError(
                f"line {number} of {file.name} is no class with a box or an outline "
                f"({line.strip()[:40]!r}); fix it"
            )
    if not marks:
        raise DataError("it has no annotation")
    return tuple(marks), n_outlines


def around(corners: list[float]) -> tuple[float, float, float, float]:
    """The box around corners given as x, y, x, y, ..."""
    xs, ys = corners[::2], corners[1::2]
    return min(xs), min(ys), max(xs), max(ys)


# --- labelme -------------------------------------------------------------------------------------


def labelme(folder: Path, source: Source) -> Items:
    """A folder with one JSON file of labelme per image, next to it or elsewhere."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise DataError(f"There is no JSON file in {folder}. Give a folder with one per image.")
    images = Files(source.images or folder)
    used: dict[Path, Path] = {}
    n_outlines, without_area = 0, Counter[str]()
    for file in files:
        note = file.relative_to(folder).as_posix()
        try:
            about = json.loads(file.read_bytes())
            shapes = about["shapes"]
            marks, outlined = _labelme_marks(shapes, without_area)
        except DataError as error:
            yield LeftOut(note, str(error))
            continue
        except (ValueError, LookupError, TypeError, AttributeError, OSError):
            yield LeftOut(note, "it is no annotation of labelme; remove it")
            continue
        n_outlines += outlined
        stated = str(about.get("imagePath") or "")
        path = _image_of(file, stated, images)
        if path is None:
            yield LeftOut(note, str(images.missing(base_name(stated) or file.stem)))
            continue
        if path in used:
            raise _twice(images.relative(path), used[path], file)
        used[path] = file
        size = _size(about.get("imageWidth"), about.get("imageHeight"))
        of_kinds = frozenset(mark.kind for mark in marks)
        yield Labelled(Image(images.relative(path), path), of_kinds, marks, size)
    if n_outlines:
        yield f"{n_outlines} outlines count by the boxes around them"
    for shape, n in without_area.items():
        yield f"{n} shapes of the type {shape} have no area, and do not count"


def _twice(image: str, one: Path, other: Path) -> DataError:
    return DataError(
        f"{image} is annotated twice, in {one.name} and {other.name}. "
        "Keep one annotation per image."
    )


def _labelme_marks(
    shapes: list[dict[str, Any]], without_area: Counter[str]
) -> tuple[tuple[Mark, ...], int]:
    """The objects of an annotation; shapes of one label and group are one object."""
    corners: defaultdict[tuple[str, object], list[float]] = defaultdict(list)
    n_outlines = 0
    for number, shape in enumerate(shapes):
        kind, form = str(shape["label"]).strip(), shape.get("shape_type") or "polygon"
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if form == "circle":
            (x, y), (other_x, other_y) = points
            radius = math.hypot(other_x - x, other_y - y)
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        elif form not in ("rectangle", "polygon", "mask"):
            without_area[form] += 1
            continue
        n_outlines += form == "polygon"
        group = shape.get("group_id")
        key = kind, ("alone", number) if group is None else group
        corners[key] += [value for point in points for value in point]
    marks = tuple(Mark(kind, around(flat)) for (kind, _), flat in corners.items())
    if not marks:
        raise DataError("it has no object with an area; draw one, or remove the file")
    return marks, n_outlines


# --- CVAT ----------------------------------------------------------------------------------------


def cvat(file: Path, source: Source) -> Items:
    """An XML file of CVAT for images 1.1; images are in a folder next to it."""
    try:
        root = defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except (DefusedXmlException, ParseError, OSError, LookupError, ValueError) as error:
        raise DataError(f"{file} is not XML of CVAT ({error}). Export it again.") from error
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
    used: set[Path] = set()
    n_outlines, without_area = 0, Counter[str]()
    for entry in entries:
        stated = entry.get("name", "")
        path = images.named(PureWindowsPath(stated).as_posix()) or images.named(base_name(stated))
        if path is None:
            yield LeftOut(stated, str(images.missing(base_name(stated))))
            continue
        if path in used:
            raise DataError(f"{file}: {stated} is listed twice. Keep one annotation per image.")
        used.add(path)
        name = images.relative(path)
        try:
            marks, outlined = _cvat_marks(entry, without_area)
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        n_outlines += outlined
        size = _size(entry.get("width"), entry.get("height"))
        yield Labelled(Image(name, path), frozenset(mark.kind for mark in marks), marks, size)
    if n_outlines:
        yield f"{n_outlines} outlines count by the boxes around them"
    for shape, n in without_area.items():
        yield f"{n} shapes of the type {shape} have no area, and do not count"


def _cvat_marks(entry: Element, without_area: Counter[str]) -> tuple[tuple[Mark, ...], int]:
    marks, n_outlines = [], 0
    for node in entry:
        kind = node.get("label", "").strip()
        try:
            if node.tag == "box":
                values = [float(node.get(name, "")) for name in ("xtl", "ytl", "xbr", "ybr")]
            elif node.tag == "ellipse":
                x, y, across, down = (
                    float(node.get(name, "")) for name in ("cx", "cy", "rx", "ry")
                )
                values = [x - across, y - down, x + across, y + down]
            elif node.tag == "mask":
                left, top = float(node.get("left", "")), float(node.get("top", ""))
                size = float(node.get("width", "")), float(node.get("height", ""))
                values = [left, top, left + size[0], top + size[1]]
            elif node.tag == "polygon":
                values = [
                    float(x) for pair in node.get("points", "").split(";") for x in pair.split(",")
                ]
                n_outlines += 1
            elif node.tag in ("polyline", "points", "cuboid", "skeleton"):
                without_area[node.tag] += 1
                continue
            else:
                continue
            is_rotated = float(node.get("rotation", "0")) != 0
        except ValueError as error:
            raise DataError(f"its {node.tag} of {kind} has no usable numbers; fix it") from error
        if is_rotated:
            raise DataError(f"its {node.tag} of {kind} is rotated; draw an upright one")
        marks.append(Mark(kind, around(values)))
    if not marks:
        raise DataError("it has no annotation")
    return tuple(marks), n_outlines


# --- masks ---------------------------------------------------------------------------------------


def masks(folder: Path, source: Source) -> Items:
    """A folder with images and masks of the same names; folders under images are subsets.

    The name of a mask may end in `_mask` or the like. A mask is an image, or GeoJSON of
    QuPath, whose classes are subsets.
    """
    images = source.images or folder / "images"
    places = [folder / name for name in ("masks", "labels") if (folder / name).is_dir()]
    if not places or not images.is_dir():
        raise _no_masks(folder, images, has_masks=bool(places))
    files = Files(images)
    if not files.paths:
        raise none_in(images, files)
    of_mask = _by_stem(Files(places[0], MASKS).paths, places[0], MASK_ENDINGS)
    without_area = Counter[str]()
    used: dict[Path, str] = {}
    for path in files.paths:
        name = path.relative_to(images)
        mask = _mask_of(name, of_mask, places[0])
        subset = name.parts[0] if len(name.parts) > 1 else folder.resolve().name
        if mask is None:
            reason = f"there is no mask {stem_of(path)}.png (or .tif, .bmp, .gif); add it"
            yield LeftOut(name.as_posix(), reason)
            continue
        if mask in used:
            raise _of_two("masks", mask, folder, used[mask], name.as_posix())
        used[mask] = name.as_posix()
        image = Image(name.as_posix(), path)
        if mask.suffix != ".geojson":
            yield Labelled(image, frozenset({subset}), mask)
            continue
        try:
            marks = _geojson_marks(mask, subset, without_area)
        except DataError as error:
            yield LeftOut(name.as_posix(), f"its {mask.name} cannot be used: {error}")
            continue
        yield Labelled(image, frozenset(mark.kind for mark in marks), marks)
    for shape, n in without_area.items():
        yield f"{n} shapes of the type {shape} have no area, and do not count"
    for mask in sorted({each for several in of_mask.values() for each in several} - used.keys()):
        yield LeftOut(mask.relative_to(folder).as_posix(), "there is no image for this mask")


def _no_masks(folder: Path, images: Path, *, has_masks: bool) -> DataError:
    """The error for a folder without the folders of images or masks: what its layout is."""
    lack = "images" if has_masks else "masks (or labels)"
    reason = f"{folder} has no folder {lack if has_masks or images.is_dir() else 'images'}"
    own = next((path for path in sorted(folder.glob("*/masks")) if path.is_dir()), None)
    if own is not None and any(map(is_image, (own.parent / "images").glob("*"))):
        return DataError(
            f"{reason}, but a folder for each image, such as {own.parent.name}, as in BBBC038. "
            "Join the masks of an image to one, with the numbers 1, 2, ... for objects, and put "
            "images and masks into one folder each."
        )
    array = next((path for path in sorted(folder.rglob("*.np[yz]"))), None)
    if array is not None:
        return DataError(f"{reason}, and {array.name} is {OTHERS[array.suffix]}.")
    pair = next((path for path in sorted(folder.glob("*_mask.*")) if is_image(path)), None)
    if pair is not None:
        return DataError(
            f"{reason}, but masks next to images, such as {pair.name}. Move images into the folder "
            "images and masks into the folder masks, with the same names up to _mask."
        )
    return DataError(f"{folder} has no folder {lack}. Give one with images and masks in it.")


def _geojson_marks(file: Path, subset: str, without_area: Counter[str]) -> tuple[Mark, ...]:
    """The polygons of QuPath, of its classes; objects without a class are of the subset."""
    try:
        about = json.loads(file.read_bytes())
        features = about.get("features", [about]) if isinstance(about, dict) else about
        marks, sorts = [], set()
        for feature in features:
            form, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
            if form not in ("Polygon", "MultiPolygon"):
                without_area[form] += 1
                continue
            polygons = [coordinates] if form == "Polygon" else coordinates
            parts: Parts = tuple(tuple(map(ring_of, rings)) for rings in polygons)
            facts = feature.get("properties") or {}
            kind = str((facts.get("classification") or {}).get("name") or subset)
            sorts.add("annotation" if facts.get("objectType") == "annotation" else "detection")
            flat = [value for part in parts for corner in part[0] for value in corner]
            marks.append(Mark(kind, around(flat), shape=parts))
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"it is no GeoJSON of objects ({error}); export it again") from error
    if len(sorts) > 1:
        raise DataError(
            "it holds annotations and detections, such as regions and the cells in them; export "
            "one of the two"
        )
    if not marks:
        raise DataError("it has no polygon")
    return tuple(marks)


def _of_two(sort: str, file: Path, folder: Path, one: str, other: str) -> DataError:
    """The error for a label that two images could have."""
    name = file.relative_to(folder) if file.is_relative_to(folder) else file
    return DataError(
        f"The {sort.removesuffix('s')} {name.as_posix()} could be that of {one} or of {other}. Put "
        f"{sort} into folders of the same names as images."
    )


def _by_stem(
    paths: Iterable[Path], folder: Path, endings: tuple[str, ...]
) -> dict[str, list[Path]]:
    """Files by their path without suffix and ending, and by that of their base name."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        stem = stem_of(path)
        for ending in endings:
            stem = stem.removesuffix(ending)
        relative = (path.relative_to(folder).parent / stem).as_posix()
        for name in {_composed(relative), _composed(stem)}:
            found[name].append(path)
    return found


def _mask_of(name: Path, of_mask: dict[str, list[Path]], folder: Path) -> Path | None:
    """The mask of the same relative path, else of the same base name."""
    stem = stem_of(name)
    for key in (_composed((name.parent / stem).as_posix()), _composed(stem)):
        found = of_mask.get(key, [])
        own = [path for path in found if path.relative_to(folder).parent == name.parent]
        found = own or found
        if len(found) > 1:
            one, other = (path.relative_to(folder).as_posix() for path in found[:2])
            raise DataError(
                f"{name.as_posix()} has two masks, {one} and {other}. Keep one, or put masks into "
                "folders of the same names as images."
            )
        if found:
            return found[0]
    return None
