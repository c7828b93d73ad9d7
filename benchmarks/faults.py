"""Commands that are killed, disturbed, or short of disk, and what the same command gives then."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

ROOT = Path(__file__).parents[1]
NUMBERS = {".csv", ".npy", ".npz", ".parquet", ".safetensors"}  # files that hold results
NETWORK = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )
"""
OURS = ("--weights", "random", "--input-size", "64")
PROBE = ("probe", "nets:small", "--data", "csv:images/table.csv", *OURS, "--batch-size", "16")
PATCHES = (
    "patches", "tiles", "--masks", "masks", "--magnifications", "10,20,40", "--size", "64",
    "--grid", "2", "--um-per-pixel", "0.25",
)  # fmt: skip
TRANSFER = (
    "transfer", "nets:small", "--data", "patches:patches", "--at", "3", *OURS, "--mode", "finetune",
    "--methods", "pretrained,cut", "--seeds", "2", "--epochs", "2",
)  # fmt: skip
# By name: what is typed, but for --out, and the commands whose results it needs.
VERBS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "probe": (PROBE, ()),
    "cut": (("cut", "nets:small", "--at", "5", *OURS, "--export", "onnx,torch"), ()),
    "patches": (PATCHES, ()),
    "transfer": (TRANSFER, ("patches",)),
    "invariance": (
        ("invariance", "nets:small", "--data", "csv:images/table.csv", *OURS, "--sizes", "1,0.5"),
        (),
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of fault: how often it was tried, how often all was well, and what was not."""

    what: str
    tried: int
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with images, tiles, a network, a cache and results."""

    folder: Path

    def started(self, typed: Sequence[str], out: str = "out", **more: str) -> subprocess.Popen:
        """The command in a process group of its own, with the cache of this place."""
        own = {"SCALECUT_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(self.folder)])}
        return subprocess.Popen(
            [sys.executable, "-m", "scalecut", *typed, "--out", out],
            cwd=self.folder, env=os.environ | own | paths | more, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def done(self, typed: Sequence[str], out: str = "out", **more: str) -> tuple[int, str]:
        """Exit status of the command, and what it said of errors."""
        process = self.started(typed, out, **more)
        _, said = process.communicate()
        return process.returncode, said

    def result(self, out: str = "out") -> dict[str, str]:
        """The hash of every file of results in a folder."""
        folder = self.folder / out
        files = [path for path in folder.rglob("*") if path.suffix in NUMBERS]
        files += (folder / "patches").glob("*.png")
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(files)
        }

    def rest(self) -> list[str]:
        """What is temporary and was left behind."""
        hidden = [path for path in self.folder.glob(".*") if path.name != ".matplotlib"]
        return [path.name for path in (*hidden, *self.folder.glob("cache/**/.*"))]


@contextmanager
def new_place(source: Path | None = None) -> Iterator[Place]:
    """A copy of a folder, or a new one, which is deleted in the end."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        if source is None:
            place.mkdir()
            _write_images(place)
        else:
            shutil.copytree(source, place)
        yield Place(place)


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
    down, across = np.mgrid[:512, :512] + 0.5
    for number in range(10):
        labels = np.zeros((512, 512), np.uint16)
        centres = rng.permutation([(x, y) for x in range(32, 512, 64) for y in range(32, 512, 64)])
        for label, (x, y) in enumerate(centres, start=1):
            labels[(down - y) ** 2 + (across - x) ** 2 < rng.uniform(8, 16 + number) ** 2] = label
        pixels = 220 - 120 * (labels > 0)[..., None] + rng.integers(-20, 20, (512, 512, 3))
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / "tiles" / f"t{number}.png")
        PIL.Image.fromarray(labels).save(folder / "masks" / f"t{number}.png")
    (folder / "nets.py").write_text(NETWORK)


def kills(n: int, seed: int = 0) -> Iterator[Case]:
    """Kill each command at random moments; the same command must then give the same digits."""
    rng = random.Random(seed)
    with new_place() as source:
        for name, (typed, needs) in VERBS.items():
            for other in needs:
                if not (source.folder / other).exists():
                    source.done(VERBS[other][0], other)
            with new_place(source.folder) as place:
                start = time.monotonic()
                status, said = place.done(typed)
                whole = time.monotonic() - start
                expected = place.result()
            wrong = [f"exit {status} undisturbed: {said}"] if status or not expected else []
            for _ in range(n if not wrong else 0):
                after = rng.uniform(0.1, 1.0) * whole
                with new_place(source.folder) as place:
                    fault = _killed(place, typed, after, expected)
                wrong += [f"after {after:.1f} s: {fault}"] if fault else []
            yield Case(f"`{name}` killed (SIGKILL), run again", n, tuple(wrong))


def _killed(place: Place, typed: Sequence[str], after: float, expected: Mapping[str, str]) -> str:
    """What is wrong after a kill and a second run; nothing if all is well."""
    process = place.started(typed)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if (place.folder / "out").exists() and place.result() != expected:
        return "a folder that is not complete"
    status, said = place.done(typed)
    if status:
        return f"exit {status}: {said.strip()}"
    if place.result() != expected:
        return "other digits"
    return f"left behind: {', '.join(place.rest())}" if place.rest() else ""


def disturbances(seed: int = 0) -> Iterator[Case]:
    """Faults of disks, clocks and caches, and images that change."""
    rng = random.Random(seed)
    with new_place() as source:
        status, said = source.done(PROBE)
        assert status == 0, said
        expected = source.result()
        yield _checked("full disk: 1 to 4 MB for the cache", 4, lambda k: _full(source, k, True))
        yield _checked("full disk: 16 to 64 kB for the run", 3, lambda k: _full(source, k, False))
        for what, change in (
            ("clock set back by a day", lambda place: _aged(place, 86400)),
            ("one bit flipped in every file of the cache", lambda place: _flipped(place, rng)),
            ("every file of the cache cut in half", _halved),
        ):
            yield _checked(what, 3, lambda _, change=change: _again(source, change, expected))
        yield _checked("two runs on one cache", 3, lambda _: _at_once(source, expected))
        yield _checked("an image replaced while it runs", 12, lambda k: _replaced(source, k, rng))


def _checked(what: str, n: int, fault: Callable[[int], str]) -> Case:
    return Case(what, n, tuple(text for text in map(fault, range(n)) if text))


def _again(source: Place, change: Callable[[Place], None], expected: Mapping[str, str]) -> str:
    with new_place(source.folder) as place:
        change(place)
        status, said = place.done(PROBE)
        if status:
            return f"exit {status}: {said.strip()}"
        return "" if place.result() == expected else "other digits"


def _aged(place: Place, seconds: float) -> None:
    for path in place.folder.rglob("*"):
        there = path.stat().st_mtime + seconds
        os.utime(path, (there, there))


def _shards(place: Place) -> list[Path]:
    return [*place.folder.glob("cache/**/*.safetensors")]


def _flipped(place: Place, rng: random.Random) -> None:
    for path in _shards(place):
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def _halved(place: Place) -> None:
    for path in _shards(place):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _at_once(source: Place, expected: Mapping[str, str]) -> str:
    with new_place(source.folder) as place:
        shutil.rmtree(place.folder / "cache")
        both = [place.started(PROBE, out) for out in ("one", "two")]
        said = [process.communicate()[1] for process in both]
        if any(process.returncode for process in both):
            return f"exit {[process.returncode for process in both]}: {said}"
        same = all(place.result(out) == expected for out in ("one", "two"))
        return "" if same else "other digits"


def _full(source: Place, number: int, is_cache: bool) -> str:
    """A disk without space for the cache or the run: one line, exit 2, and nothing is left."""
    with new_place(source.folder) as place:
        shutil.rmtree(place.folder / "cache")
        shutil.rmtree(place.folder / "out")
        disk = place.folder / "disk"
        disk.mkdir()
        size = f"{1024 * (1 + number)}k" if is_cache else f"{16 * 2**number}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
        try:
            filler = disk / "filler"
            filler.write_bytes(b"0" * (int(size[:-1]) - 12) * 1024)
            more = {"SCALECUT_CACHE": str(disk / "cache")} if is_cache else {}
            status, said = place.done(PROBE, "out" if is_cache else "disk/out", **more)
            rest = [path.name for path in disk.rglob(".*")]
            if status != 2 or said.strip().count("\n") or "full" not in said:
                return f"exit {status}: {said.strip()[-300:]}"
            return f"left behind: {rest}" if rest else ""
        finally:
            subprocess.run(["umount", disk], check=True)


def _replaced(source: Place, number: int, rng: random.Random) -> str:
    """An image that is another one from some moment on: the numbers of one of them, or exit 2."""
    name = f"images/{rng.randrange(120):03}.png"
    with new_place(source.folder) as place:
        shutil.rmtree(place.folder / "out")
        before = source.result()
        with new_place(place.folder) as other:
            _inverted(other.folder / name)
            other.done(PROBE)
            after = other.result()
        shutil.rmtree(place.folder / "cache")
        start = time.monotonic()
        with new_place(place.folder) as timed:
            timed.done(PROBE)
        whole = time.monotonic() - start
        process = place.started(PROBE)
        time.sleep((number + 0.5) / 12 * whole)
        _inverted(place.folder / name)
        _, said = process.communicate()
        if process.returncode == 2 and said.strip().count("\n") == 0:
            return ""
        if process.returncode:
            return f"exit {process.returncode}: {said.strip()[-300:]}"
        return "" if place.result() in (before, after) else "digits of neither image"


def _inverted(file: Path) -> None:
    with PIL.Image.open(file) as image:
        pixels = 255 - np.asarray(image)
    PIL.Image.fromarray(pixels).save(file)
