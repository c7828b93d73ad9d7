"""The reader of YOLO: images, one text file of labels for each, and data.yaml.

data.yaml names folders of images, or lists of their files. A path in it can be relative to what it
calls path or to its own folder; if both are there and differ, it is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OF_CONTENT, DataError
from .assumptions import Assumed
from .decoding import is_image, stem_of, suffix_of
from .files import Files, Items, identity, is_there, of_two
from .images import Image, LeftOut, Mark, Source, marked
from .outlines import Tally, around, ring_of

LIST = ".txt"  # suffix of lists of images


def yolo(folder: Path, source: Source) -> Items:
    """A folder with images and labels, one text file per image, and data.yaml if there is one."""
    oriented = next((n for n in ("labelTxt", "labelTxt-v1.0") if (folder / n).is_dir()), None)
    if oriented and not (folder / "labels").is_dir():
        raise DataError(
            f"{folder / oriented} holds oriented boxes of DOTA. Convert them to labels with "
            "convert_dota_to_yolo_obb of the package ultralytics."
        )
    about = _facts(folder)
    kinds = _kinds(about, folder)
    has_points = "kpt_shape" in about
    top = source.images or folder
    places, missing = ([source.images], []) if source.images else _stated(folder, about)
    if not places:
        places = [folder / "images" if (folder / "images").is_dir() else folder]
    paths: dict[Path, Path] = {}
    for place in places:
        found = Files(place) if place.is_dir() else None
        if found is not None:
            yield from found.rest("images")
        for path in _listed(place, folder, about) if found is None else found.paths:
            if isinstance(path, LeftOut):
                yield path
            else:
                paths.setdefault(path.parent.resolve() / path.name, path)
    if not paths:
        raise DataError(
            f"There is no image in {', '.join(map(str, places))}. Give a folder with images and "
            "labels, or with data.yaml."
        )
    if missing:
        there = ", ".join(map(str, places))
        yield Assumed(
            f"the YAML file names {', '.join(missing)}, not found; images are those of {there}",
            "splits",
        )
    tally = Tally(source.marks == "masks")
    used: dict[Path, str] = {}
    for path in sorted(paths.values()):
        whole, start = path.absolute(), top.absolute()
        name = (whole.relative_to(start) if whole.is_relative_to(start) else whole).as_posix()
        file = _label(path, folder)
        if file is None:
            yield LeftOut(name, "it has no annotation")
            continue
        if file in used:
            raise of_two("labels", file, folder, used[file], name)
        used[file] = name
        try:
            marks = _marks(file, kinds, has_points, tally)
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        yield marked(Image(name, path), marks, form="normalised cxcywh")
    yield from _without_image(used, {path.parent for path in paths.values()}, folder)
    yield from tally.statements()


def _without_image(
    used: Mapping[Path, str], places: Iterable[Path], folder: Path
) -> Iterator[LeftOut]:
    """The labels next to those of images that belong to no image in the places of these."""
    stems = {stem_of(path) for place in places for path in place.iterdir() if is_image(path)}
    for place in sorted({file.parent for file in used}):
        for file in sorted(place.glob("*.txt")):
            is_known = file in used or file.stem in stems or file.name.startswith(".")
            if not is_known and _is_label(file):
                name = file.relative_to(folder) if file.is_relative_to(folder) else file
                yield LeftOut(name.as_posix(), "there is no image for these labels; add it")


def _is_label(file: Path) -> bool:
    """Whether the first line of a text file is one of labels."""
    try:
        numbers = [float(word) for word in _text(file).partition("\n")[0].split()]
    except (DataError, ValueError):
        return False
    return len(numbers) >= 5


def _facts(folder: Path) -> dict[str, Any]:
    """What data.yaml says."""
    import yaml  # here, since few data sets are YOLO's

    file = next((folder / n for n in ("data.yaml", "data.yml") if (folder / n).is_file()), None)
    others = sorted(folder.glob("*.y*ml"))
    if file is None and len(others) == 1:
        file = others[0]
    if file is None:
        return {}
    try:
        about = yaml.safe_load(_text(file))
    except (yaml.YAMLError, *OF_CONTENT) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not YAML ({reason}). Fix or remove it.") from error
    if not isinstance(about, dict | None):
        raise DataError(f"{file} holds {str(about)[:40]!r}. Give names, and train, val and test.")
    return about or {}


def _kinds(about: dict[str, Any], folder: Path) -> dict[str, str]:
    """The classes by number: of data.yaml, else of classes.txt.

    Raises:
        DataError: if data.yaml has names that are neither a list nor by number.
    """
    names = about.get("names")
    files = (folder / name for name in ("classes.txt", "obj.names"))
    file = next((file for file in files if file.is_file()), None)
    if names is None and file is not None:
        try:
            names = _text(file).split("\n")
        except DataError as error:
            raise DataError(f"{folder}: {error}.") from error
    if isinstance(names, list | None):
        names = dict(enumerate(names or ()))
    if not isinstance(names, dict) or not all(identity(n).isdecimal() for n in names):
        raise DataError(
            f"The names in the YAML file of {folder} are {str(names)[:40]!r}, which give no class "
            "its number. Give a list, such as names: [cat, dog], or names by number."
        )
    found = {identity(number): str(name).strip() for number, name in names.items()}
    return {number: name for number, name in found.items() if name}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file.name} is no text in UTF-8 ({error}); save it anew") from error


def _stated(folder: Path, about: dict[str, Any]) -> tuple[list[Path], list[str]]:
    """The folders and lists of images that data.yaml names, and what of these is not there.

    Raises:
        DataError: if it names something else, or what could be one of two.
    """
    found: list[Path] = []
    missing: list[str] = []
    for part in ("train", "val", "test"):
        given = about.get(part)
        for text in given if isinstance(given, list) else [given] * (given not in (None, "")):
            place = None
            if isinstance(text, str):  # the last is how Ultralytics reads Roboflow's
                places = *_starts(folder, about, text), folder / text.removeprefix("../")
                place = _one_of(places, text)
            is_usable = place is None or place.is_dir() or suffix_of(place) == LIST
            if not isinstance(text, str) or not is_usable:
                raise DataError(
                    f"The {part} in the YAML file of {folder} is {str(given)[:40]!r}. Give a "
                    f"folder of images, a list of their files ({LIST}), or several of these."
                )
            if place is None:
                missing.append(f"{part}: {text}")
            else:
                found.append(place)
    return found, missing


def _listed(file: Path, folder: Path, about: dict[str, Any]) -> Iterator[Path | LeftOut]:
    """The images of a list, whose paths are relative to it, or to what data.yaml names."""
    for line in filter(None, map(str.strip, _text(file).splitlines())):
        path = _one_of((file.parent / line, *_starts(folder, about, line)), line)
        yield path or LeftOut(line, f"{file.name} lists it, but it is not there; add it")


def _starts(folder: Path, about: dict[str, Any], text: str) -> tuple[Path, Path]:
    """What a path of data.yaml can name: relative to its path, and to its folder."""
    return folder / str(about.get("path") or "") / text, folder / text


def _one_of(places: Sequence[Path], text: str) -> Path | None:
    """The one of some places that is there."""
    found = {place.resolve(): place for place in places if is_there(place)}
    if len(found) > 1:
        one, other = list(found)[:2]
        raise DataError(
            f"{text} in the YAML file could be {one} or {other}. Correct path: there, or give the "
            "folder of the images (--images)."
        )
    return next(iter(found.values()), None)


def _label(image: Path, folder: Path) -> Path | None:
    """The text file of an image: in labels instead of the last images, else next to it."""
    name, parts = f"{stem_of(image)}.txt", list(image.parent.parts)
    places = [image.parent, folder / "labels"]
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        places = [Path(*parts), *places]
    return next((place / name for place in places if (place / name).is_file()), None)


def _marks(file: Path, kinds: dict[str, str], has_points: bool, tally: Tally) -> list[Mark]:
    """The objects of a text file."""
    marks, n_outlines = [], 0
    for number, line in enumerate(_text(file).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = []
        if not identity(words[0]).isdecimal():
            raise DataError(
                f"line {number} of {file.name} begins with {words[0]!r}, which is no number of a "
                "class, as in labels of KITTI; convert them"
            )
        kind = kinds.get(identity(words[0]), identity(words[0]))
        if len(values) == 4 or (has_points and len(values) > 4):
            left, top, right, bottom = values[:4]
            marks.append(Mark(kind, (left, top, right, bottom)))
        elif len(values) >= 6 and len(values) % 2 == 0:
            n_outlines += 1
            left, top, right, bottom = around(values)
            box = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            outline = ((ring_of(zip(values[::2], values[1::2], strict=True)),),)
            marks.append(Mark(kind, box, shape=outline if tally.has_shapes else None))
        else:
            if len(values) == 5:
                raise DataError(
                    f"line {number} of {file.name} has a sixth number, such as the confidence of a "
                    "prediction; remove it"
                )
            raise DataError(
                f"line {number} of {file.name} is no class with a box or an outline "
                f"({line.strip()[:40]!r}); fix it"
            )
    if not marks:
        raise DataError("it has no annotation")
    tally.n_outlines += n_outlines
    return marks
