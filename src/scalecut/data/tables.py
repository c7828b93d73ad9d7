"""Readers of images that bring their own measure: tables, and tar shards.

Tables: CSV or Parquet with the columns image, measure and, optionally, group and subset; or any
other columns in place of measure, of numbers or of classes.

Shards have the layout of WebDataset: the files of a sample share their path up to the first dot of
the base name: one image and one `.json` that holds `measure` and, optionally, `group` and `subset`.
Keys of the `.json` are what columns are in a table.
Nothing is unpacked: a sample is a part of its shard. The content of a shard is listed once and kept
in the cache.
"""

import functools
import glob
import hashlib
import io
import itertools
import json
import math
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedIOBase
from pathlib import Path, PurePath, PureWindowsPath
from typing import TypeAlias

import pandas as pd
from braceexpand import braceexpand
from pyarrow import ArrowException

from .. import cache
from ..errors import DataError, first_line, nearest
from . import storage
from .decoding import SUFFIXES
from .files import composed, identity, is_there
from .images import Image, Labelled, LeftOut, Source
from .storage import Stored, is_address, sibling

# what columns are called whose images must not be split
# fmt: off
GROUP_WORDS = {
    "group", "patient", "slide", "case", "subject", "donor", "participant", "specimen", "wsi",
    "scan", "study", "animal", "mouse", "individual", "person", "video", "plate", "series", "block",
    "lesion", "sample", "biopsy", "core", "mrn", "accession", "well", "clip", "sequence", "session",
    "studyinstance", "seriesinstance",
    "paciente", "paziente", "pacient", "pasient", "patientin", "patienten", "cas", "caso",
}
GROUP_NAMES = ("患者", "病人", "病例", "환자", "пациент", "ασθεν")
# fmt: on
EXACT = 2**53  # below which a float holds every whole number
MOST_CODES = 10  # different whole numbers that could be codes of classes
# A number with a decimal comma, groups of thousands, a sign or a unit, which is the group 1.
NUMBER_IN_TEXT = r"[<>~+-]?\d[\d.,' ]*\s*(%|[A-Za-zµ²³/]*)"
MISSING = {"", "na", "n/a", "nan", "null"}  # cells of a target, in lower case
LIKE_BOX = {"xmin", "bboxxywh", "bbox", "bboxx", "boxx", "x"}  # letters of columns of boxes
AT_ONCE = 4  # shards that are listed concurrently
LONGEST = 200  # characters of what could name a group; of more, the hash stands for it
MOST_COLUMNS = 10_000
LAYOUT = 5  # version of kept indexes: raise it when the same shard would be listed differently
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}  # the first bytes of a file, and the command that decompresses it

# member, where its bytes begin, how many they are, measure, subset, and what could be its group
Sample: TypeAlias = tuple[str, int, int, float, str, dict[str, str]]
# the samples of a shard; the names and reasons of those that cannot be used
Index: TypeAlias = tuple[list[Sample], list[tuple[str, str]]]


def csv(file: Path | Stored, source: Source) -> Iterator[Labelled | LeftOut | str]:
    """A CSV file; image paths are relative to its folder, or addresses (`s3://...`)."""
    yield from _rows(file, source, columns(file, _cells(source)))


def parquet(file: Path | Stored, source: Source) -> Iterator[Labelled | LeftOut | str]:
    """A Parquet file with the columns of a CSV file."""
    yield from _rows(file, source, columns(file, _cells(source), kind="Parquet"))


def patches(folder: Path, source: Source) -> Iterator[Labelled | LeftOut | str]:
    """A folder of patches of tissue, any column of numbers a target; patients are groups."""
    file = folder / "patches.parquet"
    if not file.is_file():
        raise DataError(
            f"{folder} has no patches.parquet. Give a folder that `scalecut patches` wrote."
        )
    needed = {"patch": CELLS["image"], **_named(source)}
    cells = columns(file, needed | {"group": CELLS["group"]}, kind="Parquet")
    yield from _rows(file, source, cells | {"image": cells["patch"]})


def numbers(file: Path | Stored, kind: str) -> dict[str, dict[tuple[str, str], float]]:
    """Every column of numbers, by the name of the image and the subset.

    Numbers that are missing are nan.
    """
    cells = columns(file, {"image": CELLS["image"]}, kind=kind)
    n = len(cells["image"])
    subsets = map(composed, cells.get("subset", [PurePath(_place(file)).stem] * n))
    keys = [*zip(cells["image"], subsets, strict=True)]
    found = {}
    for name in (name for name in cells if name not in ("image", "group", "subset")):
        known = [cell for cell in cells[name] if cell.casefold() not in MISSING]
        if known and all(map(_is_number, known)):
            values = _values(_place(file), name, cells[name], is_class=False)
            found[name] = dict(zip(keys, map(float, values), strict=True))
    return found


def _cells(source: Source) -> dict[str, tuple[bool, Callable[[str], bool]]]:
    """The columns that a table needs: those of `CELLS`, targets in place of the measure."""
    if not source.targets:
        return CELLS
    return {
        "image": CELLS["image"],
        **_named(source),
        "group": CELLS["group"],
        "subset": CELLS["subset"],
    }


def _named(source: Source) -> dict[str, tuple[bool, Callable[[str], bool]]]:
    return dict.fromkeys(source.targets, (True, lambda _: True))  # checked one by one


def _targets(
    place: str, source: Source, cells: Mapping[str, Sequence[str]]
) -> tuple[list[Mapping[str, float | str]], list[str]]:
    """The targets of each row, and sentences on what they were taken for."""
    found: dict[str, list[float | str]] = {}
    said = []
    for name in source.targets:
        found[name] = _values(place, name, cells[name], is_class=name in source.as_class)
        if codes := _codes(found[name]):
            said.append(f"{name} is {codes} and is regressed; --as-class {name} classifies it")
        missing = Counter(cell for cell in cells[name] if cell.casefold() in MISSING)
        if missing:
            n, listed = len(cells[name]), [f"{m} {cell or 'empty'}" for cell, m in missing.items()]
            said.append(f"{name} is missing in {missing.total()} of {n} rows ({', '.join(listed)})")
    return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)], said


def _codes(values: Sequence[float | str]) -> str:
    """Numbers that could be codes of classes, in words: few and whole; empty if they could not."""
    numbers = Counter(value for value in values if not isinstance(value, str))
    numbers = {value: n for value, n in numbers.items() if math.isfinite(value)}
    n = sum(numbers.values())
    are_few = 1 < len(numbers) <= min(MOST_CODES, (n + 1) // 2)
    if not are_few or not all(value.is_integer() for value in numbers):
        return ""
    *rest, last = (f"{value:g}" for value in sorted(numbers))
    return f"{', '.join(rest)} or {last}"


def _check_classes(place: str, name: str, known: Sequence[str], *, is_asked: bool) -> None:
    """Refuse classes that differ in case alone; and numbers in text, unless asked for."""
    written = [re.fullmatch(NUMBER_IN_TEXT, cell) for cell in known]
    if not is_asked and all(written) and len({each[1] for each in written if each}) == 1:
        raise DataError(
            f"{place}: the column {name!r} reads as numbers that are written as text, such as "
            f"{known[0]!r}. Write them as 0.5 to regress them, or give --as-class {name}."
        )
    spelt: dict[str, str] = {}
    for cell in known:
        other = spelt.setdefault(" ".join(cell.casefold().split()), cell)
        if other != cell:
            raise DataError(
                f"{place}: the column {name!r} has {other!r} and {cell!r}, which may be one class "
                "or two. Spell them alike, or so that they differ in more than case and spaces."
            )


def _values(place: str, name: str, cells: Sequence[str], *, is_class: bool) -> list[float | str]:
    """Cells of a target as numbers, or names of classes; nan where they say that it is missing.

    Names of classes are as Unicode composes them.
    """
    cells = [*map(composed, cells)]
    known = [cell for cell in cells if cell.casefold() not in MISSING]
    a_text = next((cell for cell in known if not _is_number(cell)), "")
    a_number = next(filter(_is_number, known), "")
    if not known:
        raise DataError(f"{place}: the column {name!r} is empty. Choose another --target.")
    if a_text and a_number and not is_class:
        raise DataError(
            f"{place}: the column {name!r} holds numbers and text, such as {a_number!r} and "
            f"{a_text!r}. Give --as-class {name} to classify it, or empty the cells of one kind."
        )

    if a_text:
        _check_classes(place, name, known, is_asked=is_class)

    def value(cell: str) -> float | str:
        if cell.casefold() in MISSING:
            return math.nan
        if a_text:
            return cell
        return _class_of(cell) if is_class else float(cell)

    return [value(cell) for cell in cells]


def _class_of(cell: str) -> str:
    """A number as the name of a class: 1, 1.0 and 1e0 are one, and no digit is lost."""
    value = float(cell)
    if not value.is_integer():
        return repr(value)
    return str(int(value)) if abs(value) < EXACT else identity(cell)


def _rows(
    file: Path | Stored, source: Source, cells: Mapping[str, Sequence[str]]
) -> Iterator[Labelled | LeftOut | str]:
    place = _place(file)
    n = len(cells["image"])
    if "subset" not in cells and (near := [c for c in cells if c.strip().lower() == "subset"]):
        raise DataError(f"{place} has no column 'subset', but {near[0]!r}. Rename that column.")
    subsets = cells.get("subset", [PurePath(place).stem] * n)
    column = _group_column(place, "column", cells, source)
    if column:
        _check_cells(place, column, cells[column], bool)
    groups = cells[column] if column else [""] * n
    if source.targets:
        labels, said = _targets(place, source, cells)
        yield from said
    else:
        labels = [float(measure) for measure in cells["measure"]]
    for name, label, subset, group in zip(cells["image"], labels, subsets, groups, strict=True):
        image = Image(name, _source(name, place, source.images))
        yield Labelled(image, _subset(subset), label, group=group)


def _group_column(
    place: str, sort: str, cells: Mapping[str, Sequence[str]], source: Source
) -> str | None:
    """The column, or key, that names groups; None if there is none.

    Raises:
        DataError: if the one asked for is not there, or one that seems to be it has another name.
    """
    if source.group and source.group not in cells:
        raise DataError(
            f"{place} has no {sort} {source.group!r} for --group; "
            f"its {sort}s are, the nearest first: {nearest(source.group, cells)}."
        )
    if source.group or not source.has_groups:
        return source.group or None
    if "group" in cells:
        return "group"
    for name, values in cells.items():
        if seems_group(name) and len(set(values)) < len(values):
            raise DataError(
                f"{place} has no {sort} 'group', but {name!r}, of {len(set(values))} different "
                f"values in {len(values)} rows. Choose --group {name!r} to keep images of one "
                "value together, or --no-groups."
            )
    return None


@functools.cache
def seems_group(name: str) -> bool:
    name = name.rpartition(".")[2]
    word = re.sub(r"[^a-z]|(uid|id|ids|no|nr|name|number|code)$", "", name.strip().lower())
    return word.removesuffix("s") in GROUP_WORDS or any(n in name.lower() for n in GROUP_NAMES)


def _place(file: Path | Stored) -> str:
    return file.url if isinstance(file, Stored) else str(file)


def _source(name: str, table: str, images_folder: Path | None) -> Path | Stored:
    """Where an image of a table is: by its own name, or relative to the table."""
    if is_address(name):
        return Stored(name)
    if is_address(table) and images_folder is None and not PurePath(name).is_absolute():
        return Stored(sibling(table, name))
    path = (images_folder or Path(table).parent) / name
    if "\\" in name and not is_there(path):  # a path of Windows
        path = (images_folder or Path(table).parent) / PureWindowsPath(name).as_posix()
    return path


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell  # which Python takes in numbers
    except ValueError:
        return False


# columns of a table of images: are they required, and which cells are usable
CELLS: dict[str, tuple[bool, Callable[[str], bool]]] = {
    "image": (True, lambda cell: bool(cell) and "\0" not in cell),
    "measure": (True, _is_number),
    "group": (False, lambda _: True),  # checked where it is the one that names groups
    "subset": (False, bool),
}


def columns(
    file: Path | Stored,
    cells: Mapping[str, tuple[bool, Callable[[str], bool]]],
    *,
    kind: str = "CSV",
) -> dict[str, list[str]]:
    """The columns of a table as text, checked to be complete.

    Spaces around it count in the names of images only.

    Args:
        cells: by column, whether it is required and which cells are usable.
        kind: CSV or Parquet.

    Raises:
        DataError: if it is not such a table, lacks a column, or has a cell that is not usable.
    """
    place = _place(file)
    required = [name for name, (is_required, _) in cells.items() if is_required]
    optional = [name for name in cells if name not in required]
    wanted = f"{' and '.join(required)}{f', optionally {_and(optional)}' if optional else ''}"
    try:
        content = io.BytesIO(file.read()) if isinstance(file, Stored) else file
    except DataError as error:
        raise DataError(f"{place}: {error}.") from error
    try:
        table = _parsed(content, kind)
    except DataError as error:
        raise DataError(f"{place}: {error}.") from error
    except UnicodeError as error:
        raise DataError(f"{place} is no text in UTF-8 ({error}). Save it as CSV UTF-8.") from error
    except (ValueError, OSError) as error:  # those of pandas and pyarrow are among these
        raise DataError(
            f"{place} is not a table ({' '.join(str(error).split())}). "
            f"Give a {kind} file with the columns {' and '.join(required)}."
        ) from error
    table = table.rename(columns=lambda name: str(name).strip())
    twice = next((name for name in cells if list(table.columns).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place} has two columns {twice!r}. Keep one, or rename the other.")
    found = {name: [str(cell) for cell in table[name]] for name in table.columns}
    found |= {name: [*map(str.strip, cells)] for name, cells in found.items() if name != "image"}
    missing = [name for name in required if name not in found]
    box = next((name for name in found if _letters(name) in LIKE_BOX), None)
    if missing and box is not None:
        raise DataError(
            f"{place} is a table of boxes ({box!r}), without the columns {' and '.join(required)}. "
            "Compute the measure of each image, such as the share of its area in the box, or "
            "convert the table to COCO and give coco:FILE."
        )
    separator = next((sign for sign in ";\t|" if sign in "".join(found)), "")
    if missing and separator and len(found) == 1:
        raise DataError(
            f"{place} is separated by {separator!r}, not by commas. Save it with commas between "
            "columns, and with points in numbers."
        )
    twice = next((name for name in cells if name in found and f"{name}.1" in found), None)
    if twice is not None:  # pandas numbers columns of one name
        raise DataError(f"{place} has two columns {twice!r}. Keep one, or rename the other.")
    if missing or table.empty:
        others = " --target names others in its place." * (missing == ["measure"])
        raise DataError(
            f"{place} has {f'no column {missing[0]!r}' if missing else 'no rows'}; its columns are "
            f"{', '.join(map(repr, list(found)[:8]))}. Give {wanted}.{others}"
        )
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes an index of surplus cells
        raise DataError(f"{place} has rows of more than {len(found)} cells. Name every column.")
    for name in [name for name in cells if name in found]:
        _check_cells(place, name, found[name], cells[name][1])
    return found


def _check_cells(
    place: str, name: str, cells: Sequence[str], is_usable: Callable[[str], object]
) -> None:
    bad = [row for row, cell in enumerate(cells) if not is_usable(cell)]
    if bad:
        raise DataError(
            f"{place}: {len(bad)} of {len(cells)} rows have no usable {name}, the first is row "
            f"{bad[0] + 2} ({cells[bad[0]]!r}; the header is row 1). Fix or remove these rows."
        )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


# Raised by pandas, which does not check what a Parquet file says of itself, and by pyarrow.
_UNREADABLE = (LookupError, TypeError, AttributeError, NotImplementedError, ArrowException)


def _parsed(content: Path | io.BytesIO, kind: str) -> pd.DataFrame:
    if kind == "CSV":
        encoding = _encoding(content)
        _check_width(content, encoding)
        return pd.read_csv(content, dtype=str, keep_default_na=False, encoding=encoding)
    table = whole_parquet(content)
    table = table.reset_index(drop=table.index.names == [None])
    of_images = [name for name in table.columns if _holds_files(table[name])]
    if "image" in of_images:
        raise DataError(
            "its column 'image' holds images themselves, as in data sets of Hugging Face; save "
            "them as files, or pack them into tar shards"
        )
    table = table.drop(columns=of_images)
    return table.astype(object).where(table.notna(), "")


def whole_parquet(content: Path | io.BytesIO) -> pd.DataFrame:
    """A table of Parquet, each cell of which can be read."""
    try:
        table = pd.read_parquet(content)
        for _, column in table.items():
            column.to_numpy()  # text is decoded only now
    except _UNREADABLE as error:
        raise DataError(f"its contents are broken ({first_line(error)}); write it again") from error
    return table


def _check_width(content: Path | io.BytesIO, encoding: str) -> None:
    """Refuse so many columns that reading their names alone takes minutes.

    pandas makes names of the surplus cells of the first row, too.
    """
    file = io.BytesIO(content.getvalue()) if isinstance(content, io.BytesIO) else content.open("rb")
    with io.TextIOWrapper(file, encoding, errors="replace") as lines:
        first = itertools.islice((line for line in lines if line.strip()), 2)
        n = max((line.count(",") + 1 for line in first), default=0)
    if n > MOST_COLUMNS:
        raise DataError(
            f"it has {n:,} columns, and at most {MOST_COLUMNS:,} are read; keep those that are used"
        )


def _encoding(content: Path | io.BytesIO) -> str:
    """That of a table: UTF-16 where its first bytes say so, else UTF-8."""
    if isinstance(content, io.BytesIO):
        start = content.getvalue()[:4]
    else:
        with content.open("rb") as file:
            start = file.read(4)
    if start == b"PK\3\4":
        raise DataError("it is a workbook of Excel; save it as CSV UTF-8")
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _holds_files(column: Iterable[object]) -> bool:
    first = next((value for value in column if value is not None), None)
    return isinstance(first, bytes) or (isinstance(first, dict) and "bytes" in first)


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


def shards(pattern: str, source: Source) -> Iterator[Labelled | LeftOut]:
    """Tar shards, by a file, a wildcard or a range in braces, `s3://bucket/tiles-{000..099}.tar`.

    Samples without a subset are of the subset "images".
    """
    urls = shards_of(pattern)
    key, keys = source.group or "group", defaultdict[str, list[str]](list)
    with ThreadPoolExecutor(AT_ONCE) as workers:
        indexes = workers.map(_kept_index, urls)
        listings = zip(urls, _names(urls), indexes, strict=True)
        for number, (url, shard, (stamp, (samples, bad))) in enumerate(listings, start=1):
            for name, reason in bad:
                yield LeftOut(f"{shard}/{name}", reason)
            for member, offset, size, measure, subset, names in samples:
                for name, value in names.items():
                    keys[name] += [value] * seems_group(name)  # of others the name is enough
                if source.group and key not in names:
                    reason = f"its .json has no text or whole number {key!r} for --group; add it"
                    yield LeftOut(f"{shard}/{member}", reason)
                    continue
                image = Image(f"{shard}/{member}", Stored(url, offset, size, stamp, member))
                kinds = _subset(subset or "images")
                yield Labelled(image, kinds, measure, group=names.get(key, ""))
            if source.progress:
                source.progress("listing shards", number, len(urls))
    _group_column(pattern, "key", keys, source)


@functools.cache
def _subset(name: str) -> frozenset[str]:
    """One object for all samples of a subset."""
    return frozenset({name})


def shards_of(pattern: str) -> list[str]:
    """The addresses or absolute local paths that match a pattern, each once.

    Raises:
        DataError: if a wildcard matches nothing, or braces are not closed.
    """
    if not is_address(pattern):
        pattern = str(Path(pattern).expanduser().absolute())
        if Path(pattern).is_file():
            return [pattern]
    try:
        parts = list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise DataError(f"{pattern!r} opens a brace and does not close it. Close it.") from error
    return list(dict.fromkeys(url for part in parts for url in _matching(part)))


def listed(file: BufferedIOBase) -> Index:
    """The samples of a shard, by its headers and `.json` members, read in one pass.

    Raises:
        DataError: if it is compressed, not a tar file, truncated or broken.
    """
    start = file.read(8)
    for magic, undone_by in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                "it is compressed, so its images cannot be read one by one; decompress it "
                f"({undone_by}) and give the .tar"
            )
    file.seek(0)
    parts: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {}
    dotted: dict[str, str] = {}  # what looks like a sample whose name has a dot, and its key
    for member, content in _members(file):
        key, ending = _key_and_ending(member.name)
        if ending in SUFFIXES | {".json"}:
            parts.setdefault(key, []).append((member, content))
        elif ending.endswith(".json"):
            dotted[member.name.removeprefix("./")[: -len(".json")]] = key
    samples = []
    bad = [
        (name, f"its name has a dot, and only what precedes it, {key}, names a sample; rename it")
        for name, key in dotted.items()
        if key not in parts
    ]
    for key, files in parts.items():
        try:
            samples.append(_sample(files))
        except DataError as error:
            bad.append((key, str(error)))
    return samples, bad


# --- inside --------------------------------------------------------------------------------------


def _matching(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in ("*[" if is_address(pattern) else "*?[")):
        return [pattern]
    try:
        found = storage.matching(pattern) if is_address(pattern) else sorted(glob.glob(pattern))  # noqa: PTH207 - absolute
    except DataError as error:
        raise DataError(f"{pattern}: {error}.") from error
    if not found:
        raise DataError(f"No file matches {pattern}. Check the folder and the wildcard.")
    return found


def _names(urls: Sequence[str]) -> list[str]:
    """Names of shards: the file name, with as many folders as make the names unique."""
    for n in range(1, 1 + max(url.count("/") for url in urls)):
        names = ["/".join(PurePath(url).parts[-n:]) for url in urls]
        if len(set(names)) == len(names):
            return names
    return list(urls)


def _kept_index(url: str) -> tuple[str, Index]:
    """The stamp of a shard and its content, from the cache if possible."""
    try:
        _, stamp = storage.version_of(url)
        kept = cache.index_of({"layout": LAYOUT, "url": url, "stamp": stamp})
        index = _loaded(kept)
        if index is None:
            with storage.opened(url) as file:
                index = listed(file)
            cache.store(kept, json.dumps(index).encode())
    except DataError as error:
        raise DataError(f"{url}: {error}.") from error
    return stamp, index


def _loaded(kept: Path) -> Index | None:
    """A kept index, or None if there is none or it does not match its own hash."""
    content = cache.stored(kept)
    if content is None:
        return None
    samples, bad = json.loads(content)
    return [tuple(sample) for sample in samples], [tuple(each) for each in bad]


# Raised by tarfile, which does not check the sizes and names that headers hold.
_BROKEN_TAR = (tarfile.TarError, ValueError, OverflowError)


def _members(file: BufferedIOBase) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Images and `.json` files with their headers, and the bytes of `.json` files."""
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file belongs to the caller
    except _BROKEN_TAR as error:
        raise DataError(
            f"it is not a tar file ({error}); give one written by tar without compression"
        ) from error
    try:
        while (member := tar.next()) is not None:
            # Otherwise all headers stay in memory.
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            key, ending = _key_and_ending(member.name)
            is_wanted = ending in SUFFIXES or ending.endswith(".json")
            if not key or member.isdir() or not is_wanted:
                continue
            content = b""
            if ending == ".json" and member.isreg():
                file.seek(member.offset_data)
                content = file.read(member.size)
            yield member, content
    except _BROKEN_TAR as error:
        raise DataError(f"it is truncated ({error}); copy the shard again") from error
    end = tar.offset
    file.seek(end)
    after = file.read(tarfile.BLOCKSIZE)
    if after != tarfile.NUL * tarfile.BLOCKSIZE:
        what = "broken" if len(after) == tarfile.BLOCKSIZE else "truncated"
        raise DataError(f"it is {what} at byte {end}; copy the shard again")


def _key_and_ending(name: str) -> tuple[str, str]:
    """The part of the name that the files of a sample share, and the rest from its first dot."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), f"{dot}{ending}".lower()


def _sample(files: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Sample:
    """One image and its measure, group and subset.

    Raises:
        DataError: if the sample is not one image and one `.json` with a measure.
    """
    odd = [member.name for member, _ in files if not member.isreg() or member.issparse()]
    if odd:
        raise DataError(f"{PurePath(odd[0]).name} is a link or sparse; pack the file itself")
    texts = [content for member, content in files if _key_and_ending(member.name)[1] == ".json"]
    images = [member for member, _ in files if _key_and_ending(member.name)[1] != ".json"]
    if len(images) != 1:
        what = f"{len(images)} images" if images else "no image"
        raise DataError(f"it has {what} in the shard; pack one per sample")
    if len(texts) != 1:
        raise DataError(
            f"it has {f'{len(texts)} .json' if texts else 'no .json'}; pack one per sample"
        )
    (image,) = images
    return (image.name.removeprefix("./"), image.offset_data, image.size, *_stated(texts[0]))


def _stated(text: bytes) -> tuple[float, str, dict[str, str]]:
    """The measure in a `.json`, the subset, which may be empty, and what could name the group."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"its .json is broken ({error}); write it again") from error
    given = about.get("measure") if isinstance(about, dict) else None
    measure = _number(given)
    if not math.isfinite(measure):
        raise DataError(
            f"its .json has no measure that is a finite number ({_short(given)}); add it"
        )
    for name in ("group", "subset"):
        if not isinstance(about.get(name, ""), str):
            raise DataError(f"the {name} in its .json is {_short(about[name])}; give text")
    names = {
        name: _name_of_group(value)
        for name, value in _flat(about)
        if not isinstance(value, bool | None)
        and (isinstance(value, str | int) or seems_group(name))
    }
    stated = {name: value for name, value in names.items() if value}
    return measure, about.get("subset", "").strip(), stated


def _flat(about: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Keys and values, and those of objects inside as `outer.inner`."""
    for name, value in about.items():
        yield f"{above}{name}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")


def _name_of_group(value: object) -> str:
    """The text of a value, or a hash of what is long."""
    if isinstance(value, float) and not value.is_integer():
        value = value if math.isfinite(value) else ""
    elif isinstance(value, float):
        value = int(value)
    text = value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= LONGEST else hashlib.sha256(text.encode()).hexdigest()


def _number(given: object) -> float:
    """The value as a float; not finite if it is not a number."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.inf


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
