"""Features that were computed once, kept on disk by what they were computed from.

A *setting* is a hash of everything that shapes a vector except the image: weights, preprocessing,
precision. Under it lie shards: safetensors files, each named by the sha256 of its own bytes, of one
matrix a layer whose rows are images (named by the hash of their content). Shards are written under
a temporary name and renamed, checked when read, and never changed.
"""

import ctypes
import errno
import hashlib
import json
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import platformdirs
import safetensors.numpy
from jaxtyping import Float

from .errors import OutputError

IN_MEMORY = 2**26  # bytes of an array; larger ones are memory-mapped


@dataclass(frozen=True, slots=True)
class Shard:
    """Some images' vectors at some layers."""

    images: tuple[str, ...]  # hashes of content, a row each
    matrices: Mapping[str, Float[np.ndarray, "m d"]]


def folder() -> Path:
    """The cache: `SCALECUT_CACHE`, or `scalecut` in the user's cache folder."""
    chosen = os.environ.get("SCALECUT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("scalecut"))


def setting_hash(setting: Mapping[str, object]) -> str:
    """One name for everything that shapes a vector except the image."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()


def shards(setting: str) -> Iterator[Shard]:
    """All whole shards of a setting; one that does not match its own hash is deleted."""
    for path in sorted(_place(setting).glob("*.safetensors")):
        try:
            content = path.read_bytes()
        except OSError:  # cleared by another process in the meantime
            continue
        if hashlib.sha256(content).hexdigest() != path.stem:
            path.unlink()
            continue
        matrices = safetensors.numpy.load(content)
        keys = matrices.pop("images")
        yield Shard(tuple(row.tobytes().hex() for row in keys), matrices)


def add_shard(
    setting: str, images: Sequence[str], matrices: Mapping[str, Float[np.ndarray, "m d"]]
) -> None:
    """Keep the vectors of some images, all at once or not at all.

    Raises:
        OutputError: if the cache cannot be written, or the disk is full.
    """
    keys = np.frombuffer(bytes.fromhex("".join(images)), dtype=np.uint8).reshape(len(images), -1)
    content = safetensors.numpy.save(
        {
            "images": keys,
            **{name: np.ascontiguousarray(matrix) for name, matrix in matrices.items()},
        }
    )
    write_whole(_place(setting) / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of the cache, all at once or not at all.

    Raises:
        OutputError: if the cache cannot be written, or the disk is full.
    """
    place, temporary = path.parent, None
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(_unwritable(place, error)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def zeros(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Zeros in memory, or on disk if they are many."""
    n_bytes = math.prod(shape) * kind.itemsize
    return scratch(shape, kind) if n_bytes > IN_MEMORY else np.zeros(shape, kind)


def released(array: np.ndarray) -> None:
    """Give back the memory that mirrors an array on disk; it is read anew when it is looked at."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def freed() -> None:
    """Return freed memory to the system; the C library of Linux keeps it for itself otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)


def scratch(shape: tuple[int, ...], kind: np.dtype) -> np.memmap:
    """Zeros on the disk of the cache, memory-mapped; they go when nobody looks at them.

    Raises:
        OutputError: if there is no room for them.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk kills the process later
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * kind.itemsize)
            return np.memmap(file, kind, "w+", shape=shape)
    except OSError as error:
        raise OutputError(_unwritable(folder(), error)) from error


def index_of(what: Mapping[str, object]) -> Path:
    """Where the list of what an archive holds is kept, by all that shapes it."""
    return folder() / "indexes" / f"{setting_hash(what)}.json"


def summary() -> tuple[int, int]:
    """Number of files in the cache and their size in bytes."""
    sizes = [path.stat().st_size for path in _files()]
    return len(sizes), sum(sizes)


def fits() -> Path:
    """Where trained fits are kept, a folder each."""
    return folder() / "fits"


def clear() -> None:
    """Delete all that is cached: features, fits, indexes; weights stay.

    Raises:
        OutputError: if a file cannot be deleted.
    """
    try:
        for path in _files():
            path.unlink(missing_ok=True)
        places = [*_features().glob("*/*"), *fits().glob("*/**/")]
        for place in sorted(places, reverse=True):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
    except OSError as error:
        raise OutputError(
            f"The cache {folder()} cannot be cleared ({error.strerror}). Delete it by hand."
        ) from error


def _files() -> list[Path]:
    """Shards, fits, indexes, and what killed processes left of them."""
    places = _features().glob("[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64)
    found = [
        p for place in places for p in place.iterdir() if p.suffix in (".safetensors", ".part")
    ]
    of_fits = fits().glob("[0-9a-f]" * 16 + "/**/*")
    indexes = (folder() / "indexes").glob("*")
    return found + [path for path in chain(of_fits, indexes) if path.is_file()]


def _features() -> Path:
    return folder() / "features"


def _place(setting: str) -> Path:
    return _features() / setting[:2] / setting


def _unwritable(place: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"The disk of the cache {folder()} is full. Free space, for example by `scalecut "
            "cache --clear`, or "
            "set SCALECUT_CACHE to another folder; what was computed is kept and the same "
            "command goes on."
        )
    return (
        f"The cache {place} cannot be written ({error.strerror or error}). Set SCALECUT_CACHE "
        "to a folder that can."
    )
