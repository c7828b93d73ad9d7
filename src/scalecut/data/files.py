"""The images of a folder, found by the names that annotations give: of any system or tool.

And the ids and sizes in annotations, by their value.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TypeAlias
from urllib.parse import unquote

from ..errors import DataError
from .assumptions import Assumed
from .decoding import OTHERS, SUFFIXES, is_image, stem_of, suffix_of, unreadable
from .images import Labelled, LeftOut
from .outlines import Size

Items: TypeAlias = Iterator[Labelled | LeftOut | Assumed | str]  # what a reader yields


class Files:
    """The files of a folder, found by relative path, base name or stem.

    Names are compared as Unicode composes them: file systems differ in that.
    """

    def __init__(self, folder: Path, suffixes: set[str] = SUFFIXES) -> None:
        self.folder = folder
        every = sorted(_files(folder))
        seen = [path for path in every if not _is_hidden(path.relative_to(folder))]
        self.broken = [path for path in seen if suffix_of(path) in suffixes and not path.exists()]
        self.paths = [path for path in seen if path.is_file() and is_image(path, suffixes)]
        read = {*self.paths, *self.broken}
        self.others = {composed(path.name): path for path in seen if path not in read}
        self.hidden = [path for path in every if suffix_of(path) in suffixes]
        self.hidden = [path for path in self.hidden if _is_hidden(path.relative_to(folder))]
        self.elsewhere: list[tuple[str, str]] = []  # files, and the other places that are stated
        self._claimed: set[Path] = set()
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self.paths:
            relative = path.relative_to(folder).as_posix()
            for name in {relative, path.name, stem_of(path)}:
                self._by_name[composed(name)].append(path)

    def named(self, name: str, near: str = "") -> Path | None:
        """The one file of this name; None if there is none.

        Args:
            near: name of a folder; a file in a folder of this name comes before others.

        Raises:
            DataError: if there are several.
        """
        paths = self._by_name.get(composed(name), [])
        paths = [path for path in paths if path.parent.name == near] or paths
        if len(paths) > 1:
            raise DataError(
                f"{name} could be {self.relative(paths[0])} or {self.relative(paths[1])} of "
                f"{self.folder}. Keep one, give the folder of the right ones (--images), or name "
                "them apart."
            )
        return paths[0] if paths else None

    def claim(self, names: Iterable[str]) -> None:
        """Keep the files of these paths for them: no other path gets one by its base name."""
        wanted = {composed(PureWindowsPath(name).as_posix()) for name in names}
        own = {composed(self.relative(path)): path for path in self.paths}
        self._claimed |= {path for name, path in own.items() if name in wanted}

    def stated(self, name: str) -> Path | None:
        """The file of a path of any system or a URL: the same path here, else its base name."""
        place = PureWindowsPath(name).as_posix()
        path = self.named(place) or self.named(base_name(name))
        if path in self._claimed and composed(self.relative(path)) != composed(place):
            return None
        if path is not None:
            self.note_place(path, PurePosixPath(place).parent, place)
        return path

    def note_place(self, path: Path, folder: PurePath, stated: str) -> None:
        """Remember a file that is in another folder than the one stated for it."""
        here = path.relative_to(self.folder).parent.parts
        n = min(len(here), len(folder.parts))
        if here[len(here) - n :] != folder.parts[len(folder.parts) - n :]:
            self.elsewhere.append((self.relative(path), stated))

    def rest(self, what: str, used: Collection[Path] | None = None) -> Items:
        """What is said of files that are not used.

        Args:
            what: the files are, in the plural.
            used: those that have an annotation, if others are to be counted.
        """
        for path in self.broken:
            yield LeftOut(self.relative(path), "it is a link to a file that is not there; fix it")
        if self.elsewhere:
            found, stated = self.elsewhere[0]
            yield Assumed(
                f"{len(self.elsewhere)} {what} are in another folder than is stated for them (the "
                f"first is {found}, for {stated})",
                "folders",
            )
        if self.hidden:
            first = self.relative(self.hidden[0])
            yield f"{len(self.hidden)} hidden {what} (the first is {first}) are not read"
        n = 0 if used is None else len(set(self.paths) - set(used))
        if n:
            yield f"{n} {what} of {self.folder} have no annotation"

    def relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def missing(self, name: str) -> DataError:
        """The error for a name that no file has."""
        other = self.others.get(composed(name))
        if other is not None:
            if suffix_of(other) in OTHERS:
                return DataError(f"{name} is {OTHERS[suffix_of(other)]}")
            return DataError(
                f"files like {name} are not read; convert it to PNG or JPEG, with the same name"
            )
        return DataError(f"there is no image named {name}; add it, or give its folder")


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files of a folder and those in it, and links to files; links to folders are followed."""
    own = folder.resolve()
    if own in above:  # a link to a folder that holds it
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {unreadable(error)}.") from error
    for path in entries:
        if path.is_dir():
            yield from _files(path, (*above, own))
        elif path.is_file() or path.is_symlink():
            yield path


def _is_hidden(path: Path) -> bool:
    """Whether a file belongs to a system or an editor: copies, thumbnails, Apple's forks."""
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in path.parts)


def none_in(folder: Path, files: Iterable[Path], otherwise: str) -> DataError:
    """The error for a folder without images: what its files are, and what helps.

    Args:
        otherwise: what is said of files that are not known.
    """
    for path in files:
        if suffix_of(path) in OTHERS:
            return DataError(f"{folder} has no image; {path.name} is {OTHERS[suffix_of(path)]}.")
    return DataError(otherwise)


def of_two(sort: str, file: Path, folder: Path, one: str, other: str) -> DataError:
    """The error for a label that two images could have."""
    name = file.relative_to(folder) if file.is_relative_to(folder) else file
    return DataError(
        f"The {sort.removesuffix('s')} {name.as_posix()} could be that of {one} or of {other}. Put "
        f"{sort} into folders of the same names as images."
    )


def is_there(path: Path) -> bool:
    """Whether there is what a text names; a name that no file can have names nothing."""
    try:
        return path.exists()
    except OSError:  # too long, or not ours to look at
        return False


def named_by(texts: Sequence[str], table: Path, paths: Sequence[str], place: Path) -> list[str]:
    """The file that each text of a table names: by its path, else its base name; empty if none.

    A base name is that of the only file that has it, unless another text is the path of that file.

    Args:
        paths: of files below the folder `place`; texts may give them with suffix or without.

    Raises:
        DataError: if a text could name several.
    """
    by_path, by_name = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for path in paths:
        for alias in aliases(path):
            by_path[alias].add(path)
            by_name[PurePosixPath(alias).name].add(path)

    found = list[tuple[set[str], set[str]]]()
    for text in texts:
        path, short = aliases(text)
        name, stem = aliases(base_name(text))
        several = by_path[path] or by_path[short] | by_name[name] or by_name[stem]
        if len(several) > 1:
            one, other, *_ = sorted(several)
            raise DataError(
                f"{text!r} of {table} could be {one} or {other} of {place}. Give its path below "
                "the folder, with its suffix."
            )
        exact = by_path[path] or by_path[short]
        found.append((exact, several - exact))
    own = set[str]().union(*(exact for exact, _ in found))
    return ["".join(exact or other - own) for exact, other in found]


def aliases(path: str) -> tuple[str, str]:
    """A path of any system with suffix and without, as Unicode composes it."""
    path = PureWindowsPath(path).as_posix()
    return composed(path), composed(without_suffix(path))


def without_suffix(path: str) -> str:
    return (PurePosixPath(path).parent / stem_of(Path(path))).as_posix()


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def base_name(stated: str) -> str:
    """The name of a file, of a path of any system or of a URL."""
    text = stated.partition("?")[0] if "://" in stated else stated
    return PureWindowsPath(unquote(text) if "://" in stated else text).name


def size_of(width: object, height: object) -> Size:
    """Width and height as whole numbers; None if they are not given."""
    try:
        size = int(float(str(width))), int(float(str(height)))
    except (ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


_WHOLE = re.compile(r"([+-]?\d{1,99})(?:\.0*)?", re.ASCII)  # digits without an exponent


def identity(given: object) -> str:
    """An id by its value: 1, 1.0 and "1" are the same."""
    if isinstance(given, float) and given.is_integer():
        return str(int(given))
    text = str(given).strip()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text
