"""The reader of YOLO: images, one text file of labels for each, and data.yaml."""

from pathlib import Path
from typing import Any

from ..errors import DataError
from .decoding import stem_of
from .files import Files, Items, identity, of_two
from .images import Image, LeftOut, Mark, Source, marked
from .outlines import Tally, around, ring_of


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
    places = [source.images] if source.images else _folders(folder, about)
    paths = sorted({path for place in places for path in Files(place).paths})
    if not paths:
        raise DataError(
            f"There is no image in {', '.join(map(str, places))}. Give a folder with images and "
            "labels, or with data.yaml."
        )
    top = source.images or folder
    tally = Tally(source.marks == "masks")
    used: dict[Path, str] = {}
    for path in paths:
        name = path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name
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
    yield from tally.statements()


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
    except (yaml.YAMLError, DataError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is not YAML ({reason}). Fix or remove it.") from error
    return about if isinstance(about, dict) else {}


def _kinds(about: dict[str, Any], folder: Path) -> dict[str, str]:
    """The classes by number: of data.yaml, else of classes.txt.

    Raises:
        DataError: if data.yaml has names that are neither a list nor by number.
    """
    names = about.get("names")
    file = folder / "classes.txt"
    if names is None and file.is_file():
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


def _folders(folder: Path, about: dict[str, Any]) -> list[Path]:
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
            raise DataError(
                f"line {number} of {file.name} is no class with a box or an outline "
                f"({line.strip()[:40]!r}); fix it"
            )
    if not marks:
        raise DataError("it has no annotation")
    tally.n_outlines += n_outlines
    return marks
