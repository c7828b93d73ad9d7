"""Commands that are killed, disturbed, or short of disk, and what the same command gives then.

A command that is disturbed runs in a copy of this process, in which everything is imported: so
moments fall into its work, not into its start, and processor time is saved. What it has to give
comes from a process of its own, as it is typed.
"""

import atexit
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

ROOT = Path(__file__).parents[1]
NUMBERS = {".csv", ".npy", ".npz", ".parquet", ".safetensors", ".png", ".svg", ".jpg"}
# Of JSON files: times and memory, which differ from run to run, and what was typed.
MEASURED = {"written", "stages", "seconds", "seconds_ratio", "peak_bytes", "lines", "command"}
PATIENCE = 900.0  # seconds by the clock after which a command hangs, on a busy machine too
UNFINISHED = "-unfinished"  # ends the names of folders from which the same command continues
OLD = "earlier.txt"  # a file of an earlier run, which a new one replaces
NETWORK = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )
"""
RANDOM = ("--weights", "random")
OURS = (*RANDOM, "--input-size", "64")
PROBE = ("probe", "nets:small", "--data", "csv:images/table.csv", *OURS, "--batch-size", "16")
SHARDS = (
    "probe", "nets:small", "--data", "tar:shard.tar", *OURS, "--quick", "--engine", "openvino",
)  # fmt: skip
PATCHES = (
    "patches", "tiles", "--masks", "masks", "--magnifications", "10,20,40", "--size", "64",
    "--grid", "2", "--um-per-pixel", "0.25",
)  # fmt: skip
TRANSFER = (
    "transfer", "nets:small", "--data", "patches:patches", "--at", "3", *OURS, "--mode", "finetune",
    "--methods", "pretrained,cut", "--seeds", "2", "--epochs", "2",
)  # fmt: skip
AUDIT = (
    "audit", "tiles", "--model", "nets:small", "--at", "3", *OURS, "--native", "40",
    "--octaves=-0.5,0,0.5,1", "--grid", "2", "--batch-size", "64",
)  # fmt: skip
# By name: what is typed, but for --out, and the commands whose results it needs.
VERBS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "probe": (PROBE, ()),
    "cut": (("cut", "nets:small", "--at", "5", *OURS), ()),
    "patches": (PATCHES, ()),
    "transfer": (TRANSFER, ("patches",)),
    "audit": (AUDIT, ()),
}
CACHED = {"probe": PROBE, "probe of shards": SHARDS, "transfer": TRANSFER}  # in various forms
LOADED = (
    "scalecut.cli.app", "scalecut.probing.probe", "scalecut.pathology.transfer",
    "scalecut.pathology.audit", "scalecut.report.report", "torch.utils.tensorboard", "openvino",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of fault: how often it was tried, and what was not well."""

    what: str
    tried: int
    wrong: tuple[str, ...] = ()
    note: str = ""


@dataclass(slots=True)
class Running:
    """A command in a process group of its own."""

    process: BaseProcess
    output: Path

    def seconds(self) -> float:
        """Processor time of the process and of those that it started."""
        return _seconds(self.process.pid or 0)

    def ends(self) -> tuple[int, str]:
        """Wait for its end: exit status, and what it said of errors."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.kill()
            return -1, f"a hang: it was not done after {PATIENCE:g} s"
        status = self.process.exitcode
        return -1 if status is None else status, self.output.read_text(errors="replace").strip()

    def kill(self) -> bool:
        """Kill the group; whether it was still running."""
        was_alive = self.process.is_alive()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        return was_alive and self.process.exitcode == -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with images, tiles, a network, a cache, temporary files and results."""

    folder: Path

    def started(self, typed: Sequence[str], out: str = "out", **more: str) -> Running:
        """The command in a copy of this process."""
        _load()
        with tempfile.NamedTemporaryFile(dir=self.folder.parent, delete=False) as file:
            output = Path(file.name)
        asked = [*typed, "--out", out], self._environment() | more, self.folder, output
        process = multiprocessing.get_context("fork").Process(target=_typed, args=asked)
        process.start()
        return Running(process, output)

    def done(self, typed: Sequence[str], out: str = "out", **more: str) -> tuple[int, str]:
        """Exit status of the command, and what it said of errors."""
        return self.started(typed, out, **more).ends()

    def typed(self, typed: Sequence[str], out: str = "out") -> tuple[int, str]:
        """The same of a process of its own, as a user starts it."""
        done = subprocess.run(
            [sys.executable, "-m", "scalecut", *typed, "--out", out],
            cwd=self.folder, env=os.environ | self._environment(), capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stderr

    def _environment(self) -> dict[str, str]:
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        paths = os.pathsep.join([str(ROOT / "src"), str(self.folder)])
        own = {"SCALECUT_CACHE": str(self.folder / "cache"), "TMPDIR": str(temporary)}
        return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}

    def result(self, out: str = "out") -> dict[str, str]:
        """Every file of a result, and the hash of the digits in it; empty for pages and texts."""
        folder = self.folder / out
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): _digits(path) for path in files}

    def files(self) -> set[str]:
        """Everything but what a cache may hold more or less of: features and logs."""
        found = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        return {
            name
            for name in found
            if not ("tfevents" in name or (name.startswith("cache/features") and "/." not in name))
        }


def _digits(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(_lasting(json.loads(content))).encode()
    elif path.suffix not in NUMBERS:
        return ""
    return hashlib.sha256(content).hexdigest()


def _lasting(thing: Any) -> Any:
    """Without what is measured of the machine."""
    if isinstance(thing, dict):
        return {k: _lasting(v) for k, v in thing.items() if k not in MEASURED}
    return [_lasting(each) for each in thing] if isinstance(thing, list) else thing


def _load() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in LOADED:
        importlib.import_module(name)


def _typed(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path
) -> None:
    """What `python -m scalecut WORDS` does, in a copy of a process."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    tempfile.tempdir = None  # it was found before
    sys.path.insert(0, str(folder))
    sys.argv = ["scalecut", *words]
    with open(os.devnull, "w") as nothing, output.open("w") as said:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module("scalecut.cli.app").main()
        finally:
            atexit._run_exitfuncs()


def _seconds(pid: int) -> float:
    """Processor time of a process, of its children, and of those that ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0.0
    own = sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(_seconds(int(child)) for child in children)


@contextmanager
def new_folder() -> Iterator[Path]:
    """A temporary folder that copies of this process do not delete when they end."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def new_place(source: Path) -> Iterator[Place]:
    """A copy of a folder, deleted in the end; always at one path, which some results name."""
    base = Path(tempfile.gettempdir()) / f"scalecut-{os.getpid()}"
    base.mkdir()
    try:
        yield Place(Path(shutil.copytree(source, base / "place")))
    finally:
        shutil.rmtree(base)


@contextmanager
def new_source(needs: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to be copied: images, tiles and a network, and the results of some commands."""
    with new_folder() as folder:
        _write_images(folder)
        for name in needs:
            with new_place(folder) as place:
                status, said = place.done(VERBS[name][0], name)
                assert status == 0, said
                shutil.copytree(place.folder / name, folder / name)
        yield folder


@contextmanager
def after(source: Path, typed: Sequence[str]) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A copy in which a command was run, and its result, which is taken away."""
    with new_folder() as folder:
        with new_place(source) as place:
            status, said = place.done(typed)
            assert status == 0, said
            expected = place.result()
            shutil.copytree(place.folder, folder / "after")
        yield folder / "after", expected


def _write_images(folder: Path, n: int = 120) -> None:
    """Discs on noise with their areas in a table, tiles of discs with masks, and a network."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:64, :64] + 0.5
    rows = ["image,measure,subset"]
    for name in ("images", "tiles", "masks"):
        (folder / name).mkdir()
    for number in range(n):
        radius = rng.uniform(5, 28)
        inside = (down - 32) ** 2 + (across - 32) ** 2 < radius**2
        pixels = rng.integers(0, 120, (64, 64, 3)) + 100 * inside[..., None]
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number:03}.png")
        rows.append(f"{number:03}.png,{inside.mean():.6f},{'ab'[number % 2]}")
    (folder / "images" / "table.csv").write_text("\n".join(rows) + "\n")
    _write_shard(folder, rows[1:])
    down, across = np.mgrid[:256, :256] + 0.5
    for number in range(10):
        labels = np.zeros((256, 256), np.uint16)
        centres = rng.permutation([(x, y) for x in range(32, 256, 64) for y in range(32, 256, 64)])
        for label, (x, y) in enumerate(centres, start=1):
            labels[(down - y) ** 2 + (across - x) ** 2 < rng.uniform(8, 16 + number) ** 2] = label
        pixels = np.where((labels > 0)[..., None], (90, 40, 130), (230, 170, 200))
        pixels = (pixels + rng.integers(-20, 20, pixels.shape)).clip(0, 255)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / "tiles" / f"t{number}.png")
        PIL.Image.fromarray(labels).save(folder / "masks" / f"t{number}.png")
    (folder / "nets.py").write_text(NETWORK)


def _write_shard(folder: Path, rows: Sequence[str]) -> None:
    """The images of a table in a tar file, with what the table says of each."""
    import io
    import tarfile

    with tarfile.open(folder / "shard.tar", "w") as tar:
        for row in rows:
            name, measure, subset = row.split(",")
            about = json.dumps({"measure": float(measure), "subset": subset}).encode()
            tar.add(folder / "images" / name, name)
            member = tarfile.TarInfo(name.replace(".png", ".json"))
            member.size = len(about)
            tar.addfile(member, io.BytesIO(about))


# --- kills ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Undisturbed:
    """What a command gives, and how long it takes."""

    expected: Mapping[str, str]
    files: set[str]  # that are there afterwards
    whole: float  # seconds of the processor until the run folder is there
    writing: float  # of them, before it is begun
    wrong: list[str] = field(default_factory=list)


def kills(n: int, names: Sequence[str] = (), seed: int = 0) -> Iterator[Case]:
    """Kill each command at random moments; the same command must then give the same digits.

    Half of the moments fall into the time in which the run folder is written. Half of the kills
    find an earlier run in its place.

    Args:
        n: kills of each command.
    """
    rng = random.Random(seed)
    for name in names or VERBS:
        typed, needs = VERBS[name]
        with new_source(needs) as source:
            found = _undisturbed(source, typed)
            wrong, n_killed, n_writing = list(found.wrong), 0, 0
            for number in range(0 if wrong else n):
                bounds = (found.writing, found.whole) if number % 2 else (0.0, found.writing)
                part = (number // 2 + rng.random()) / (n // 2 + n % 2)
                at = bounds[0] + part * (bounds[1] - bounds[0])
                is_killed, was_writing, fault = _killed(source, typed, at, number % 4 > 1, found)
                n_killed, n_writing = n_killed + is_killed, n_writing + was_writing
                wrong += [f"after {at:.2f} of {found.whole:.2f} s: {fault}"] if fault else []
        note = f"{n_writing} while its folder was written"
        yield Case(f"`{name}` killed, run again", n_killed, tuple(wrong), note)


def _undisturbed(source: Path, typed: Sequence[str]) -> Undisturbed:
    """The result of a process of its own, and of a copy of this one, which must be the same."""
    with new_place(source) as place:
        status, said = place.typed(typed)
        expected = place.result()
    if status or not expected:
        return Undisturbed(expected, set(), 0, 0, [f"exit {status} undisturbed: {said.strip()}"])
    with new_place(source) as place:
        process, writing, whole = place.started(typed), 0.0, 0.0
        while process.process.is_alive() and not (place.folder / "out").exists():
            whole = max(whole, process.seconds())
            writing = writing if _hidden(place) else whole
            time.sleep(0.003)
        status, said = process.ends()
        found = Undisturbed(expected, place.files(), whole, writing)
        if status:
            found.wrong.append(f"exit {status} undisturbed: {said}")
        elif difference := _difference(place.result(), expected):
            found.wrong.append(f"undisturbed, as a copy of a process: {difference}")
    return found


def _killed(
    source: Path, typed: Sequence[str], at: float, has_earlier: bool, found: Undisturbed
) -> tuple[bool, bool, str]:
    """Whether it was killed, whether in writing, and what is wrong after a second run."""
    for again in range(5):
        with new_place(source) as place:
            out = place.folder / "out"
            if has_earlier:
                out.mkdir()
                (out / _mark(typed)).write_text('{"format": 1}')
                (out / OLD).touch()
            process, moment = place.started(typed), at * 0.9**again
            while process.process.is_alive() and process.seconds() < moment:
                time.sleep(0.003)
            if process.kill():
                return True, bool(_hidden(place)), _resumed(place, typed, has_earlier, found)
    return False, False, "it could not be killed in time"


def _resumed(place: Place, typed: Sequence[str], has_earlier: bool, found: Undisturbed) -> str:
    """What is wrong in a place where a command was killed, now and after a second run."""
    out = place.folder / "out"
    hidden = _hidden(place)
    if out.exists() and not (out / OLD).exists():
        if difference := _difference(place.result(), found.expected):
            return f"a folder that is not complete: {difference}"
    elif has_earlier and not any((place.folder / name / OLD).exists() for name in ("out", *hidden)):
        return "the earlier run is lost"
    status, said = place.done(typed)
    if status:
        return f"exit {status}: {said[-300:]}"
    if difference := _difference(place.result(), found.expected):
        return difference
    rest = sorted(place.files() - found.files)
    return f"left behind: {', '.join(rest[:3])} and {len(rest)} in all" if rest else ""


def _mark(typed: Sequence[str]) -> str:
    """The file that says what kind of folder a command writes."""
    from scalecut.runs import MARKS

    return MARKS.get(typed[0], MARKS["run"])


def _hidden(place: Place) -> list[str]:
    return [path.name for path in place.folder.glob(".out-*")]


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Which files are missing, too many, or have other digits; nothing if all is the same."""
    lacking, more = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = [name for name, digits in found.items() if expected.get(name, digits) != digits]
    for what, names in (("lacks", lacking), ("has", more), ("other digits in", other)):
        if names:
            return f"{what} {', '.join(sorted(names)[:4])}"
    return ""


# --- disks, clocks, caches, images ---------------------------------------------------------------


CHANGES: dict[str, Callable[[Place, random.Random], None]] = {
    "one bit flipped in every file of the cache": lambda place, rng: _flipped(place, rng),
    "every file of the cache cut in half": lambda place, _: _halved(place),
}
CLOCKS: dict[str, Callable[[Place, random.Random], None]] = {
    "clock set back by a day": lambda place, _: _aged(place, 86400),
    "clock set forward by a day": lambda place, _: _aged(place, -86400),
}


def disturbances(names: Sequence[str] = (), seed: int = 0) -> Iterator[Case]:
    """Faults of caches and clocks, runs at once, images that change, and full disks.

    Args:
        names: of commands whose disks are to be full, and nothing else; all by default.
    """
    rng = random.Random(seed)
    with new_source(("patches",)) as source:
        if not names:
            for name, typed in CACHED.items():
                yield from _damaged_caches(source, name, typed, rng)
            with after(source, PROBE) as (_, expected):
                for what, other in (("on one cache", "two"), ("into one folder", "one")):
                    given = source, expected, other
                    yield _checked(f"two runs {what}", 2, lambda _, g=given: _at_once(*g))
                yield _replacements(source, 8, expected, rng)
        for name in names or VERBS:
            yield _full_disks(source, name, VERBS[name][0])


def _damaged_caches(
    source: Path, name: str, typed: Sequence[str], rng: random.Random
) -> Iterator[Case]:
    with after(source, typed) as (changed, expected):
        for what, change in (CHANGES | (CLOCKS if typed is PROBE else {})).items():

            def again(_: int, change=change) -> str:
                return _again(changed, typed, lambda place: change(place, rng), expected)

            yield _checked(f"`{name}`, {what}", 2, again)


def _checked(what: str, n: int, fault: Callable[[int], str]) -> Case:
    return Case(what, n, tuple(text for text in map(fault, range(n)) if text))


def _again(
    source: Path, verb: Sequence[str], change: Callable[[Place], None], expected: Mapping[str, str]
) -> str:
    """What is wrong when a cache is changed and the command is run again."""
    with new_place(source) as place:
        before = place.files()
        change(place)
        status, said = place.done(verb)
        if status:
            return f"exit {status}: {said[-300:]}"
        rest = sorted(place.files() - before)
        return _difference(place.result(), expected) or (f"left behind: {rest}" if rest else "")


def _aged(place: Place, seconds: float) -> None:
    """All files become so much younger: as if the clock had been set back since."""
    for path in place.folder.rglob("*"):
        there = path.stat().st_mtime + seconds
        os.utime(path, (there, there))


def _cached(place: Place) -> list[Path]:
    return [path for path in sorted(place.folder.glob("cache/**/*")) if path.is_file()]


def _flipped(place: Place, rng: random.Random) -> None:
    for path in _cached(place):
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def _halved(place: Place) -> None:
    for path in _cached(place):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _at_once(source: Path, expected: Mapping[str, str], other: str) -> str:
    """What is wrong with two runs at once, each into its folder or both into one."""
    with new_place(source) as place:
        both = [place.started(PROBE, out) for out in ("one", other)]
        ends = [each.ends() for each in both]
        fine = {0} if other == "two" else {0, 2}
        if not {status for status, _ in ends} <= fine or all(status for status, _ in ends):
            return f"exit {ends}"
        rest = [path.name for path in place.folder.glob(".*")]
        for out in {"one", other}:
            if difference := _difference(place.result(out), expected):
                return difference
        return f"left behind: {rest}" if rest else ""


def _full_disks(source: Path, name: str, typed: Sequence[str]) -> Case:
    """A disk with space for a part of the run, or of the cache, and then for all of it."""
    with after(source, typed) as (full, expected):
        sizes = {each: _size(full / each) for each in ("out", "cache")}
    tries = [("out", 0.02), ("out", 0.5), *([("cache", 0.3)] if sizes["cache"] else [])]
    wrong = []
    for each, part in tries:
        fault = _full(source, typed, each, int(part * sizes[each]), expected)
        wrong += [f"{each}, {100 * part:.0f} % of its size: {fault}"] if fault else []
    return Case(f"`{name}`, full disk", len(tries), tuple(wrong))


def _size(folder: Path) -> int:
    """Bytes on a disk of pages."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


def _full(
    source: Path, typed: Sequence[str], which: str, n_bytes: int, expected: Mapping[str, str]
) -> str:
    """What is wrong when the disk is full: one line, exit 2, nothing left, and then all is well."""
    with new_place(source) as place:
        disk = place.folder / "disk"
        disk.mkdir()
        size = max(16, n_bytes // 1024)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
        try:
            more = {"SCALECUT_CACHE": str(disk / "cache")} if which == "cache" else {}
            out = "out" if which == "cache" else "disk/out"
            status, said = place.done(typed, out, **more)
            if status == 0 and which == "cache":
                return _difference(place.result(out), expected)  # less was needed this time
            if status != 2 or said.count("\n") or not ("full" in said or "No space" in said):
                return f"exit {status}: {said[-300:]}"
            rest = [path.name for path in disk.rglob(".*") if not path.name.endswith(UNFINISHED)]
            if rest:
                return f"left behind: {rest}"
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            status, said = place.done(typed, out, **more)
            if status:
                return f"exit {status}: {said}"
            rest = [path.name for path in disk.rglob(".*")]
            return _difference(place.result(out), expected) or (f"left: {rest}" if rest else "")
        finally:
            subprocess.run(["umount", disk], check=True)


def _replacements(source: Path, n: int, expected: Mapping[str, str], rng: random.Random) -> Case:
    """An image that is another one from some moment on: the digits of one of them, or exit 2."""
    name = f"images/{rng.randrange(120):03}.png"
    with new_place(source) as place:
        _inverted(place.folder / name)
        process, whole = place.started(PROBE), 0.0
        while process.process.is_alive():
            whole = max(whole, process.seconds())
            time.sleep(0.01)
        allowed = expected, place.result()
    wrong, refused = [], 0
    for number in range(n):
        with new_place(source) as place:
            process, at = place.started(PROBE), (number + 0.5) / n * whole
            while process.process.is_alive() and process.seconds() < at:
                time.sleep(0.005)
            _inverted(place.folder / name)
            status, said = process.ends()
            if status == 2 and not said.count("\n"):
                refused += 1
            elif status:
                wrong.append(f"exit {status}: {said[-300:]}")
            elif all(differ := [_difference(place.result(), each) for each in allowed]):
                wrong.append(f"after {at:.1f} s: {differ[0]} of the one, {differ[1]} of the other")
    return Case("an image replaced while it runs", n, tuple(wrong), f"{refused} refused")


def _inverted(file: Path) -> None:
    """Replace an image by its negative, at once."""
    with PIL.Image.open(file) as image:
        pixels = 255 - np.asarray(image)
    other = file.with_suffix(".new")
    PIL.Image.fromarray(pixels).save(other, "PNG")
    other.replace(file)
