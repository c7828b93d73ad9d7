"""The reader of folders of images and masks, which are paired by name.

A mask is an image (`masks` says what its values mean) or GeoJSON of QuPath, with one polygon or
several for each object. A cell with an outline of its nucleus is measured by that.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Integer

from ..errors import OF_CONTENT, DataError
from .decoding import JPEG, LOSSLESS, MEDICAL, OTHERS, is_image, stem_of, suffix_of
from .files import Files, Items, composed, none_in, of_two
from .images import Image, Labelled, LeftOut, Mark, Source, marked
from .outlines import Parts, Shape, Tally, around, drawn, ring_of

# before the suffix
MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg", "_segmentation")
GEOJSON = ".geojson"
MASKS = LOSSLESS | JPEG | {*MEDICAL} | {GEOJSON}
CHANNEL = "_0000"  # how names of images end in nnU-Net, by their channel; only the first is read
_NUMBER = re.compile(r"[ _-]?\(?\d+\)?$")
IN_PIXELS = "outlines of GeoJSON are in pixels of their image, since its format has no other unit"
NUCLEUS, NUCLEI = "nucleusGeometry", "nuclei of cells"  # next to the geometry of a cell


def masks(folder: Path, source: Source) -> Items:
    """A folder with images and masks of the same names; folders under images are subsets.

    Folders may be those of the Medical Segmentation Decathlon and nnU-Net, imagesTr and labelsTr.
    The name of a mask may end in `_mask` or the like. A mask is an image, or GeoJSON of
    QuPath, whose classes are subsets.
    """
    pairs = (("images", ("masks", "labels")), ("imagesTr", ("labelsTr",)))
    first, second = next((each for each in pairs if (folder / each[0]).is_dir()), pairs[0])
    images = source.images or folder / first
    places = [folder / name for name in second if (folder / name).is_dir()]
    if not places or not images.is_dir():
        raise _no_masks(folder, images, has_masks=bool(places))
    files = Files(images)
    if not files.paths:
        lack = f"There is no image in {images}. Give a folder with images in it."
        raise none_in(images, files.others.values(), lack)
    marked_by = Files(places[0], MASKS)
    if not marked_by.paths:
        lack = f"There is no mask in {places[0]}. Put one for each image there, of the same name."
        raise none_in(places[0], marked_by.others.values(), lack)
    names = [path.relative_to(images) for path in files.paths]
    stems = {composed(stem_of(name)) for name in names}
    of_mask = _by_stem(marked_by.paths, places[0], stems)
    tally = Tally()
    used: dict[Path, str] = {}
    of_image = [_mask_of(name, of_mask, places[0]) for name in names]
    unpaired = set(marked_by.paths) - set(of_image)
    more = _numbered(unpaired, stems)
    for path, name, mask in zip(files.paths, names, of_image, strict=True):
        subset = name.parts[0] if len(name.parts) > 1 else folder.resolve().name
        if mask is None:
            reason = f"there is no mask {stem_of(path)}.png (or .tif, .bmp, .gif); add it"
            yield LeftOut(name.as_posix(), reason)
            continue
        if mask in used:
            raise of_two("masks", mask, folder, used[mask], name.as_posix())
        used[mask] = name.as_posix()
        another = more.get(composed(stem_of(name)))
        if another is not None:
            reason = (
                f"it has several masks, {mask.name} and {another[0].name}; join them to one, with "
                "a number for each object"
            )
            yield LeftOut(name.as_posix(), reason)
            unpaired -= set(another)
            continue
        marked_by.note_place(mask, name.parent, name.as_posix())
        image = Image(name.as_posix(), path)
        if suffix_of(mask) != GEOJSON:
            yield Labelled(image, frozenset({subset}), mask)
            continue
        try:
            marks = objects_in(mask, subset, tally)
        except DataError as error:
            yield LeftOut(name.as_posix(), f"its {mask.name} cannot be used: {error}")
            continue
        yield marked(image, marks)
    yield from tally.statements()
    yield from files.rest("images")
    yield from marked_by.rest("masks")
    for mask in sorted(unpaired):
        yield LeftOut(mask.relative_to(folder).as_posix(), "there is no image for this mask")


def _numbered(masks: Iterable[Path], stems: Set[str]) -> dict[str, list[Path]]:
    """Masks that are further ones of an image, such as `a_mask_1`, by its stem."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for mask in sorted(masks):
        number = _NUMBER.search(stem_of(mask))
        stem = composed(stem_of(mask)[: number.start()]) if number else ""
        for ending in MASK_ENDINGS:
            stem = stem.removesuffix(ending)
        if stem in stems:
            found[stem].append(mask)
    return dict(found)


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


def objects_in(file: Path, subset: str, tally: Tally) -> list[Mark]:
    """The polygons of GeoJSON of QuPath, of its classes.

    Args:
        subset: the class of objects without one.

    Raises:
        DataError: if it is no such file, or holds several sorts, such as regions and cells in them.
    """
    try:
        about = json.loads(file.read_bytes())
        features = about.get("features", [about]) if isinstance(about, dict) else about
        marks, sorts = [], Counter[str]()
        for feature in features:
            facts = feature.get("properties") or {}
            nucleus = feature.get(NUCLEUS) or facts.get(NUCLEUS)
            geometry = nucleus or feature["geometry"]
            form, coordinates = geometry["type"], geometry["coordinates"]
            if form not in ("Polygon", "MultiPolygon"):
                tally.without_area[form] += 1
                continue
            polygons = [coordinates] if form == "Polygon" else coordinates
            parts: Parts = tuple(tuple(map(ring_of, rings)) for rings in polygons)
            kind = str((facts.get("classification") or {}).get("name") or "").strip() or subset
            sorts[NUCLEI if nucleus else _sort_of(feature, facts)] += 1
            flat = [value for part in parts for corner in part[0] for value in corner]
            marks.append(Mark(kind, around(flat), shape=parts))
    except (*OF_CONTENT, OSError) as error:
        raise DataError(f"it is no GeoJSON of objects ({error}); export it again") from error
    if len(sorts) > 1:
        found = " and ".join(f"{n} {sort}" for sort, n in sorted(sorts.items()))
        raise DataError(f"it holds {found}, whose sizes mean different things; export one of these")
    if not marks:
        raise DataError("it has no polygon")
    tally.n_nuclei += sorts[NUCLEI]
    tally.n_cells += sorts["cells"]
    return marks


def _sort_of(feature: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What QuPath calls an object, in the plural; the versions before 0.3 say it as the id."""
    stated = facts.get("objectType") or facts.get("object_type") or feature.get("id")
    word = str(stated).lower().removeprefix("path").removesuffix("object")
    return f"{word}s" if word in ("annotation", "cell", "tile", "tmacore") else "detections"


def labels_in(file: Path, width: int, height: int, tally: Tally) -> Integer[np.ndarray, "h w"]:
    """The objects of GeoJSON, as `outlines.drawn` draws them on an image."""
    shapes = [cast(Shape, mark.shape) for mark in objects_in(file, "", tally)]
    labels, n_overlapping = drawn(shapes, width, height)
    tally.n_overlapping += n_overlapping
    return labels


def _by_stem(paths: Iterable[Path], folder: Path, stems: Set[str]) -> dict[str, list[Path]]:
    """Masks by their path without suffix and ending, and by that of their base name.

    Args:
        stems: of images; a mask of this name has no ending.
    """
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        stem = stem_of(path)
        for ending in () if composed(stem) in stems else MASK_ENDINGS:
            stem = stem.removesuffix(ending)
        relative = (path.relative_to(folder).parent / stem).as_posix()
        for name in {composed(relative), composed(stem)}:
            found[name].append(path)
    return found


def _mask_of(name: Path, of_mask: dict[str, list[Path]], folder: Path) -> Path | None:
    """The mask of the same relative path, else of the same base name."""
    stem = stem_of(name)
    keys = [composed((name.parent / stem).as_posix()), composed(stem)]
    keys += [composed(stem.removesuffix(CHANNEL))] * stem.endswith(CHANNEL)
    for key in keys:
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
