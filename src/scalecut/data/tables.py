"""Tar shards in the layout of WebDataset, as images with a measure each.

The files of a sample share their path up to the first dot of the base name: one picture and one
`.json` that holds `measure` and, if wanted, `group` and `subset`. Nothing is unpacked: a sample is
where its picture lies in the shard. What a shard holds is listed once and kept in the cache.
"""

import glob
import hashlib
import json
import math
import sys
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedIOBase
from pathlib import Path, PurePath
from typing import TypeAlias

import numpy as np
from braceexpand import braceexpand

from .. import cache
from ..errors import DataError
from . import storage
from .images import SUFFIXES, Image, ImageSet, LeftOut, Progress, leave, told, wanted_subsets
from .storage import Stored, is_address

AT_ONCE = 4  # shards that are listed
LAYOUT = 1  # of a kept index: raise it when the same shard would be listed otherwise
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}  # the first bytes of a file to what undoes it

# member, where its bytes begin, how many they are, measure, group, subset
Sample: TypeAlias = tuple[str, int, int, float, str, str]
# the samples of a shard; the names and reasons of those that cannot be used
Index: TypeAlias = tuple[list[Sample], list[tuple[str, str]]]


def read_shards(
    pattern: str,
    *,
    subsets: Sequence[str] = (),
    strict: bool = False,
    progress: Progress | None = None,
) -> ImageSet:
    """A set from the samples of tar shards.

    Args:
        pattern: a file, a wildcard or a range in braces, `s3://bucket/tiles-{000..099}.tar`.
        subsets: which to read; all by default. Samples without one are of the subset "images".
        strict: raise at the first sample that would be left out.
        progress: called with (stage, shards listed, all).
    """
    urls = shards_of(pattern)
    images: list[Image] = []
    measure, subset, group = array("d"), list[str](), list[str]()
    left_out: list[LeftOut] = []
    with ThreadPoolExecutor(AT_ONCE) as workers:
        indexes = workers.map(_kept_index, urls)
        listings = zip(urls, _names(urls), indexes, strict=True)
        for number, (url, shard, (stamp, (samples, bad))) in enumerate(listings, start=1):
            for name, reason in bad:
                leave(LeftOut(f"{shard}/{name}", reason), left_out, strict)
            for member, offset, size, measured, of_group, of_subset in samples:
                name = f"{shard}/{member}"
                images.append(Image(name, Stored(url, offset, size, stamp, member)))
                measure.append(measured)
                subset.append(sys.intern(of_subset or "images"))
                group.append(of_group or name)
            if progress:
                progress("listing shards", number, len(urls))
    if not images:
        said = told(left_out) if left_out else "There is no sample: a picture and a .json."
        raise DataError(f"Nothing in {pattern} can be used. {said}")
    wanted = wanted_subsets(pattern, subsets, set(subset))
    rows = [row for row, name in enumerate(subset) if name in wanted]
    rows.sort(key=lambda row: (subset[row], images[row].name))
    return ImageSet(
        images=tuple(images[row] for row in rows),
        measure=np.array(measure, dtype=np.float64)[rows],
        measure_name="measure",
        subset=tuple(subset[row] for row in rows),
        group=tuple(group[row] for row in rows),
        left_out=tuple(left_out),
    )


def shards_of(pattern: str) -> list[str]:
    """The addresses, or absolute local paths, that a pattern stands for, each once.

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
    """What a shard holds, by its headers and `.json` members, read in one pass.

    Raises:
        DataError: if it is compressed, no tar, truncated or broken.
    """
    start = file.read(8)
    for magic, undone_by in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                "it is compressed, so that no picture in it can be reached by itself; unpack it "
                f"({undone_by}) and give the .tar"
            )
    file.seek(0)
    parts: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {}
    for member, content in _members(file):
        key, _ = _key_and_ending(member.name)
        parts.setdefault(key, []).append((member, content))
    samples, bad = [], []
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
    """What shards are called: their file's name, and as much of the folder as tells them apart."""
    for n in range(1, 1 + max(url.count("/") for url in urls)):
        names = ["/".join(PurePath(url).parts[-n:]) for url in urls]
        if len(set(names)) == len(names):
            return names
    return list(urls)


def _kept_index(url: str) -> tuple[str, Index]:
    """The stamp of a shard and what it holds, from the cache if it is there."""
    try:
        _, stamp = storage.version_of(url)
        kept = cache.index_of({"layout": LAYOUT, "url": url, "stamp": stamp})
        index = _loaded(kept)
        if index is None:
            with storage.opened(url) as file:
                index = listed(file)
            content = json.dumps(index).encode()
            with cache.written(kept) as part:
                part.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
    except DataError as error:
        raise DataError(f"{url}: {error}.") from error
    return stamp, index


def _loaded(kept: Path) -> Index | None:
    """A kept index; none if there is none or it does not match its own hash."""
    try:
        content = kept.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
        return None
    samples, bad = json.loads(content[64:])
    return [tuple(sample) for sample in samples], [tuple(each) for each in bad]


def _members(file: BufferedIOBase) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Pictures and `.json` files with their headers; of `.json` also the bytes."""
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is the caller's
    except (tarfile.TarError, UnicodeError) as error:
        raise DataError(
            f"it is no tar ({error}); give one that tar wrote without compression"
        ) from error
    try:
        while (member := tar.next()) is not None:
            # Else all headers stay in memory.
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            key, ending = _key_and_ending(member.name)
            if not key or member.isdir() or ending not in SUFFIXES | {".json"}:
                continue
            content = b""
            if ending == ".json" and member.isreg():
                file.seek(member.offset_data)
                content = file.read(member.size)
            yield member, content
    except (tarfile.TarError, UnicodeError) as error:
        raise DataError(f"it is truncated ({error}); copy the shard again") from error
    end = tar.offset
    file.seek(end)
    after = file.read(tarfile.BLOCKSIZE)
    if after != tarfile.NUL * tarfile.BLOCKSIZE:
        what = "broken" if len(after) == tarfile.BLOCKSIZE else "truncated"
        raise DataError(f"it is {what} at byte {end}; copy the shard again")


def _key_and_ending(name: str) -> tuple[str, str]:
    """What the files of a sample share, and the rest, from the first dot of the base name on."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), f"{dot}{ending}".lower()


def _sample(files: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Sample:
    """One picture and what is said of it.

    Raises:
        DataError: if the sample is not of one picture and one `.json` with a measure.
    """
    odd = [member.name for member, _ in files if not member.isreg() or member.issparse()]
    if odd:
        raise DataError(f"{PurePath(odd[0]).name} is a link or sparse; pack the file itself")
    texts = [content for member, content in files if _key_and_ending(member.name)[1] == ".json"]
    pictures = [member for member, _ in files if _key_and_ending(member.name)[1] != ".json"]
    if len(pictures) != 1:
        what = f"{len(pictures)} pictures" if pictures else "no picture"
        raise DataError(f"it has {what} in the shard; pack one a sample")
    if len(texts) != 1:
        raise DataError(
            f"it has {f'{len(texts)} .json' if texts else 'no .json'}; pack one a sample"
        )
    (picture,) = pictures
    measure, group, subset = _said(texts[0])
    return (
        picture.name.removeprefix("./"),
        picture.offset_data,
        picture.size,
        measure,
        group,
        subset,
    )


def _said(text: bytes) -> tuple[float, str, str]:
    """The measure, group and subset that a `.json` holds; the latter two may be empty."""
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
            raise DataError(f"the {name} in its .json is {_short(about[name])}; give a text")
    return measure, about.get("group", ""), about.get("subset", "")


def _number(given: object) -> float:
    """What is given as a float; not finite, if it is no number."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.inf


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
