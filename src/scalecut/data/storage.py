"""Bytes by address: files on any file system known to fsspec, and parts of them.

Errors are DataErrors of one line without the address, which the caller adds.
"""

import io
import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

import fsspec
from fsspec.registry import known_implementations

from ..errors import DataError

BLOCK = 4 * 2**20  # bytes per request, where a file is read from end to end
# What file systems report about the version of a file, the most reliable first.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "content_md5", "Digest", "generation"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modified", "created"),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file at an address or local path, or a part of it that is a member of an archive."""

    url: str
    offset: int = 0
    size: int | None = None  # bytes; all that follow if None
    stamp: str = ""  # changes with the file
    member: str = ""  # name of the part

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: if they cannot be read, or are fewer or more than requested.
        """
        end = None if self.size is None else self.offset + self.size
        content = _part(self.url, self.offset, end)
        if self.size is not None and len(content) > self.size:
            raise DataError(
                "its server ignores requests for a part of a file; give one that supports the "
                "header Range, or copy the file"
            )
        if self.size is not None and len(content) < self.size:
            raise DataError(f"it ends {self.size - len(content)} bytes early; copy the file again")
        return content

    def address(self) -> str:
        """`URL`, or `URL#MEMBER`."""
        return f"{self.url}#{self.member}" if self.member else self.url


def is_address(place: str) -> bool:
    """Whether it names a file system, as `s3://bucket/a.png` does, rather than a local path."""
    return "://" in place


def sibling(url: str, name: str) -> str:
    """The address of a file whose name is relative to the folder of `url`."""
    system, _, path = url.rpartition("://")
    if system.endswith(("http", "https")):
        path, name = path.partition("?")[0], quote(name)
    return f"{system}://{posixpath.normpath(posixpath.join(posixpath.dirname(path), name))}"


def version_of(url: str) -> tuple[int, str]:
    """The size of a file in bytes, and a stamp that changes with the file.

    Raises:
        DataError: if there is no such file, or its size is unknown.
    """
    if not is_address(url):
        with _as_data_error(url):
            found = Path(url).stat()
        return found.st_size, f"{found.st_size}-{found.st_mtime_ns}"
    with _as_data_error(url):
        system, path = fsspec.url_to_fs(url)
        about = system.info(path)
    if about.get("type") == "directory":
        raise DataError("it is a folder; give a file")
    size = about.get("size")
    if size is None:
        raise DataError("its server does not report its size; copy the file")
    version = next((about[name] for name in _VERSIONS if about.get(name)), "")
    return size, f"{size}-{version}"


def matching(pattern: str) -> list[str]:
    """The addresses that match a pattern with wildcards, sorted.

    Raises:
        DataError: if the file system cannot be read.
    """
    with _as_data_error(pattern):
        system, path = fsspec.url_to_fs(pattern)
        found = [str(each).rpartition("://")[2] for each in system.glob(path)]
    prefix, _, own = pattern.rpartition("://")
    return sorted(f"{prefix}://{each if own[0] == '/' else each.lstrip('/')}" for each in found)


@contextmanager
def opened(url: str) -> Iterator[io.BufferedIOBase]:
    """The file, open for reading from any position; a remote file is read in blocks.

    Raises:
        DataError: if it cannot be read.
    """
    size, _ = version_of(url)
    with ExitStack() as until:
        if is_address(url):
            yield until.enter_context(io.BufferedReader(_Blocks(url, size), BLOCK))
            return
        with _as_data_error(url):
            file = until.enter_context(Path(url).open("rb"))
        yield file


# --- inside --------------------------------------------------------------------------------------


class _Blocks(io.RawIOBase):
    """A remote file; each read is one request."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.place = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = start + offset
        return self.place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        n = max(0, min(len(buffer), self.size - self.place))
        buffer[:n] = Stored(self.url, self.place, n).read() if n else b""
        self.place += n
        return n


def _part(url: str, start: int, end: int | None) -> bytes:
    with _as_data_error(url):
        if is_address(url):
            system, path = fsspec.url_to_fs(url)
            return system.cat_file(path, start=start or None, end=end)
        with Path(url).open("rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start)


@contextmanager
def _as_data_error(url: str) -> Iterator[None]:
    """Errors of file systems as DataError.

    Each system has its own classes (of aiohttp, botocore, ...) without a common root, which cannot
    be named unless it is installed; so all are caught, around single calls of fsspec.
    """
    try:
        yield
    except Exception as error:  # of the store's own package, of any kind
        raise DataError(_reason(url, error)) from error


def _reason(url: str, error: Exception) -> str:
    system = url.partition("://")[0].rpartition(":")[2]
    asked, cause = error, error.__cause__
    if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp"):
        asked = cast(Exception, cause)  # HTTP reports every error as this when asked for a size
    if isinstance(error, ImportError):
        package = known_implementations.get(system, {"class": system})["class"].partition(".")[0]
        if package == "fsspec":
            package = f"'fsspec[{'http' if system == 'https' else system}]'"
        return f"nothing that reads {system}:// is installed; pip install {package}"
    if isinstance(error, ValueError) and str(error).startswith("Protocol not known"):
        return (
            f"there is no file system {system}://; give one known to fsspec, such as s3://, gs://, "
            "az://, hf:// or https://"
        )
    if status := getattr(asked, "status", 0):
        if status == 404:
            return "there is no such file; check its address"
        return f"its server answers {status} ({_line(asked)}); check its address and your access"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; give a file"
    if isinstance(asked, FileNotFoundError):
        what = "address" if is_address(url) else "name and folder"
        return f"there is no such file; check its {what}"
    if isinstance(asked, PermissionError):
        return f"access is denied ({_line(asked)}); check your rights or credentials"
    if isinstance(asked, TimeoutError | ConnectionError) or type(asked).__module__.startswith(
        "aiohttp"
    ):
        return f"its server does not answer ({_line(asked)}); check its address and the network"
    return f"it cannot be read ({_line(asked)}); check its address and your access"


def _line(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", "") or error).split())
    return text or type(error).__name__
