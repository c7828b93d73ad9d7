"""The cache on disk: features that were computed once, named by what they were computed from.

A *setting* is a hash of everything that determines a vector except the image: weights,
preprocessing, precision. Each setting has shards: safetensors files, each named by the sha256 of
its own bytes, with one matrix per layer whose rows are images (named by their content's hash).
Shards are written atomically (`written`), verified when read, and never changed. Other files begin
with the hash of what follows (`store`). What cannot be written, because the disk is full or for
another reason, is an OutputError.
"""

import errno
import glob
import hashlib
import json
import math
import mmap
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import platformdirs
import safetensors.numpy
from jaxtyping import Float

from .errors import OutputError

IN_MEMORY = 2**26  # bytes of an array; larger ones are memory-mapped
WORK = "work"  # in the names of temporary folders
OF_FOLDERS = r"-[a-z0-9_]{8}"  # how those of `new_folder` end, behind the process
STALE_AFTER = 3600.0  # seconds after which what is temporary belongs to no process any more


@dataclass(frozen=True, slots=True)
class Shard:
    """Vectors of some images at some layers."""

    images: tuple[str, ...]  # hashes of content, one per row
    matrices: Mapping[str, Float[np.ndarray, "m d"]]


def folder() -> Path:
    """The folder of the cache: `SCALECUT_CACHE`, or `scalecut` in the user's cache folder."""
    chosen = os.environ.get("SCALECUT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("scalecut"))


def setting_hash(setting: Mapping[str, object]) -> str:
    """The hash of everything that determines a vector except the image."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()


def shards(setting: str) -> Iterator[Shard]:
    """All complete shards of a setting; a shard that does not match its own hash is deleted."""
    for path in sorted(_place(setting).glob("*.safetensors")):
        try:
            content = path.read_bytes()
        except OSError:  # cleared by another process in the meantime
            continue
        if hashlib.sha256(content).hexdigest() != path.stem:
            with suppress(OSError):  # deleted by another process, or not ours to delete
                path.unlink()
            continue
        matrices = safetensors.numpy.load(content)
        keys = matrices.pop("images")
        yield Shard(tuple(row.tobytes().hex() for row in keys), matrices)


def add_shard(
    setting: str, images: Sequence[str], matrices: Mapping[str, Float[np.ndarray, "m d"]]
) -> None:
    """Store the vectors of some images atomically."""
    keys = np.frombuffer(bytes.fromhex("".join(images)), dtype=np.uint8).reshape(len(images), -1)
    rows = {name: np.ascontiguousarray(matrix) for name, matrix in matrices.items()}
    content = safetensors.numpy.save({"images": keys, **rows})
    with written(_place(setting) / f"{hashlib.sha256(content).hexdigest()}.safetensors") as part:
        part.write_bytes(content)


@contextmanager
def written(path: Path, message: Callable[[Path, OSError], str] | None = None) -> Iterator[Path]:
    """A temporary path next to `path`, renamed to `path` when the block ends without error.

    So the file is complete or absent. The folder is created if needed. The temporary name has no
    suffix that a reader would add or expect: open it, or give the library an open file. Temporary
    files of killed processes are removed from the folder.

    Args:
        message: the text of the error, by path; about the cache by default.

    Raises:
        OutputError: if the file cannot be written, or the disk is full.
    """
    part = path.with_name(f".{process()}-{secrets.token_hex(4)}.part")
    try:
        with explained(path, message or _unwritable):
            path.parent.mkdir(parents=True, exist_ok=True)
            for other in path.parent.glob(".*.part"):
                if of_dead_process(other, ".", r"-[0-9a-f]{8}\.part"):
                    other.unlink(missing_ok=True)
            yield part
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def store(path: Path, content: bytes) -> None:
    """Write content after its own hash, atomically."""
    with written(path) as part:
        part.write_bytes(hashlib.sha256(content).digest() + content)


def stored(path: Path) -> bytes | None:
    """What `store` wrote; None if there is nothing, or it does not match its hash."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    found = content[size:]
    return found if hashlib.sha256(found).digest() == content[:size] else None


@contextmanager
def workplace() -> Iterator[Path]:
    """A hidden folder on the disk of the cache, deleted when the block ends."""
    with explained(folder() / "files", _unwritable):
        folder().mkdir(parents=True, exist_ok=True)
        made = new_folder(folder(), WORK)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def new_folder(parent: Path, name: str) -> Path:
    """A new hidden folder `.NAME-PROCESS-RANDOM`, after those of killed processes are removed."""
    _remove_rest(parent, name)
    return Path(tempfile.mkdtemp(prefix=f".{name}-{process()}-", dir=parent))


def _remove_rest(parent: Path, name: str) -> None:
    for path in parent.glob(f".{glob.escape(name)}-*"):
        if of_dead_process(path, f".{name}-", OF_FOLDERS):
            shutil.rmtree(path, ignore_errors=True)


def process() -> str:
    """What temporary names say of this process: its machine and its number."""
    return f"{zlib.crc32(platform.node().encode()):08x}-{os.getpid()}"


def start_of(number: int) -> str:
    """When a process started, in ticks since this machine did; empty where there is no /proc."""
    try:
        about = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return about.rpartition(")")[2].split()[19]  # field 22; the name, in parentheses, is the second


def of_dead_process(path: Path, before: str, after: str, start: str = "") -> bool:
    """Whether a temporary file or folder belongs to no process any more.

    On another machine processes cannot be seen; what is older than an hour belongs to none.

    Args:
        before, after: what stands before and, as a regular expression, after `process()` in names
            of this kind.
        start: `start_of` the process, if it is known; a later one can have its number.
    """
    found = re.fullmatch(rf"{re.escape(before)}([0-9a-f]{{8}}-\d+){after}", path.name)
    if found is None:
        return False
    machine, _, number = found[1].partition("-")
    try:
        if machine != process().partition("-")[0]:
            return time.time() - path.stat().st_mtime > STALE_AFTER
        os.kill(int(number), 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it has just been renamed, or is another user's process
        pass
    return bool(start) and start_of(int(number)) not in ("", start)


@contextmanager
def explained(path: Path, message: Callable[[Path, OSError], str]) -> Iterator[None]:
    """What the system raises where a path cannot be written becomes an OutputError."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(message(path, error)) from error


def zeros(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Zeros in memory, or on disk if they are many."""
    n_bytes = math.prod(shape) * kind.itemsize
    return scratch(shape, kind) if n_bytes > IN_MEMORY else np.zeros(shape, kind)


def released(array: np.ndarray) -> None:
    """Release the memory of an array on disk; it is read again when it is used."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def scratch(shape: tuple[int, ...], kind: np.dtype) -> np.memmap:
    """Zeros on the disk of the cache, memory-mapped, deleted with the last reference to them."""
    with explained(folder() / "array", _unwritable):
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk kills the process later
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * kind.itemsize)
            return np.memmap(file, kind, "w+", shape=shape)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def index_of(what: Mapping[str, object]) -> Path:
    """The file for the index of an archive, by everything that determines it."""
    return folder() / "indexes" / f"{setting_hash(what)}.json"


def summary() -> tuple[int, int]:
    """Number of files in the cache and their size in bytes."""
    sizes = [path.stat().st_size for path in _files()]
    return len(sizes), sum(sizes)


def fits() -> Path:
    """The folder of trained fits, one folder per fit."""
    return folder() / "fits"


def clear() -> None:
    """Delete everything cached: features, fits and indexes. Weights are kept."""
    with explained(folder(), _not_cleared):
        for path in _files():
            path.unlink(missing_ok=True)
        _remove_rest(folder(), WORK)
        places = [*_features().glob("*/*"), *fits().glob("*/**/")]
        for place in sorted(places, reverse=True):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _files() -> list[Path]:
    """Shards, fits, indexes, and what killed processes left of them."""
    places = _features().glob("[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 64)
    found = [p for each in places for p in each.iterdir() if p.suffix in (".safetensors", ".part")]
    of_fits = fits().glob("[0-9a-f]" * 16 + "/**/*")
    indexes = (folder() / "indexes").glob("*")
    return found + [path for path in chain(of_fits, indexes) if path.is_file()]


def _features() -> Path:
    return folder() / "features"


def _place(setting: str) -> Path:
    return _features() / setting[:2] / setting


def _not_cleared(path: Path, error: OSError) -> str:
    return f"The cache {path} cannot be cleared ({error.strerror}). Delete it by hand."


def _unwritable(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"The disk of the cache {folder()} is full. Free space, for example with `scalecut "
            "cache --clear`, or set SCALECUT_CACHE to another folder; the same command continues "
            "with what is cached."
        )
    return (
        f"The cache {path.parent} cannot be written ({error.strerror or error}). Set "
        "SCALECUT_CACHE to a writable folder."
    )
