"""Broken files for every reader: no traceback, no hang, no memory beyond a gigabyte.

A valid file of each kind is changed by Atheris, which keeps the changes that reach new code of the
reader, and by faults that fit text (`changed`). Each reader has a process of its own, which another
one watches: a hang inside a library, a crash or memory without bound is recorded, and the next
process continues. Time is processor time, so that a busy machine is no fault.

Needs Linux, and the package atheris.
"""

import importlib
import json
import mmap
import multiprocessing
import os
import random
import re
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import PIL.Image
from faults import ROOT, new_folder

SLOW, MUCH = 10.0, 2**30  # seconds of the processor and bytes that one file may take
WAITING = 300.0  # seconds by the clock, within which any file is read on a busy machine
BOUNDLESS = 4 * 2**30  # bytes at which a process is ended
LONGEST = 2**20  # bytes of a file
NUMBERS = (
    *(b"-1", b"0", b"1e308", b"-1e308", b"nan", b"99999999999999999999", b"0.1", b"1e-320", b""),
    *(b"4294967297", b"9" * 5000, b"0,5", b"1e5"),
)
WORDS = (b"", b"null", b"[]", b"{}", b'""', b"true", b"\xff", b"../a")
NESTED = (b"[", b'{"a":', b"<a>", b"- ", b"&a [*a,")


@dataclass(slots=True)
class Outcome:
    """What became of the broken files of one reader."""

    what: str
    read: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)  # tracebacks, hangs, crashes, memory
    seconds: float = 0.0  # of the processor, for all files
    most_seconds: float = 0.0  # of one file, of the processor
    most_bytes: int = 0  # of one file

    @property
    def tried(self) -> int:
        """Broken files that were given to the reader."""
        return self.read + self.refused + len(self.wrong)


def _image(folder: Path, name: str = "a.png", side: int = 32) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (side, side, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / name)


def _voc(folder: Path) -> str:
    _image(folder, "JPEGImages/a.jpg")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text(
        "<annotation><filename>a.jpg</filename><size><width>32</width><height>32</height>"
        "<depth>3</depth></size><object><name>dog</name><truncated>0</truncated><bndbox>"
        "<xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
    )
    return f"voc:{folder}"


def _coco(folder: Path) -> str:
    _image(folder)
    marks = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "area": 120,
         "iscrowd": 0, "segmentation": [[2, 3, 12, 3, 12, 15, 2, 15]]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1,
         "segmentation": {"size": [32, 32], "counts": [100, 24, 900]}},
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": marks,
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return f"coco:{folder / 'instances.json'}"


def _table(folder: Path) -> str:
    _image(folder)
    (folder / "t.csv").write_text("image,measure,subset,group\na.png,0.25,dog,1\na.png,0.5,cat,2\n")
    return f"csv:{folder / 't.csv'}"


def _yolo(folder: Path) -> str:
    _image(folder, "images/a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.4 0.1 0.4 0.6\n")
    (folder / "data.yaml").write_text("names: [dog, cat]\npath: .\ntrain: images\nnc: 2\n")
    return f"yolo:{folder}"


def _yolo_outlines(folder: Path) -> str:
    spec = _yolo(folder)
    (folder / "labels" / "a.txt").write_text("1 0.1 0.1 0.4 0.1 0.4 0.6\n0 .5 .5 .9 .5 .9 .9\n")
    return spec


def _labelme(folder: Path) -> str:
    _image(folder)
    shape = {"label": "dog", "shape_type": "polygon", "points": [[2, 3], [20, 3], [20, 22]]}
    content = {"imagePath": "a.png", "imageHeight": 32, "imageWidth": 32, "shapes": [shape]}
    (folder / "a.json").write_text(json.dumps(content))
    return f"labelme:{folder}"


def _cvat(folder: Path) -> str:
    _image(folder)
    (folder / "a.xml").write_text(
        '<annotations><image id="0" name="a.png" width="32" height="32"><box label="dog" xtl="2" '
        'ytl="3" xbr="20" ybr="22" occluded="0"/><polygon label="cat" points="1,1;9,1;9,9"/>'
        "</image></annotations>"
    )
    return f"cvat:{folder / 'a.xml'}"


def _cvat_outlines(folder: Path) -> str:
    _image(folder)
    (folder / "a.xml").write_text(
        '<annotations><image id="0" name="a.png" width="32" height="32"><polygon label="dog" '
        'points="1,1;9,1;9,9"/><polygon label="cat" points="2,3;20,3;20,22;2,22"/>'
        '<mask label="dog" rle="3, 2, 4" left="20" top="20" width="3" height="3"/></image>'
        "</annotations>"
    )
    return f"cvat:{folder / 'a.xml'}"


def _masks(folder: Path) -> str:
    _image(folder, "images/a.png")
    (folder / "masks").mkdir()
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 5:25] = 255
    PIL.Image.fromarray(labels).save(folder / "masks" / "a.png")
    return f"masks:{folder}"


def _tiff(folder: Path) -> str:
    import tifffile

    spec = _table(folder)
    (folder / "a.png").unlink()
    pixels = np.random.default_rng(0).integers(0, 4096, (32, 32), np.uint16)
    tifffile.imwrite(folder / "a.tif", pixels, compression="zlib", tile=(16, 16))
    (folder / "t.csv").write_text("image,measure\na.tif,0.25\n")
    return spec


def _plain_tiff(folder: Path) -> str:
    import tifffile

    spec = _tiff(folder)
    pixels = np.random.default_rng(0).integers(0, 4096, (8, 8), np.uint16)
    tifffile.imwrite(folder / "a.tif", pixels)
    return spec


def _dicom(folder: Path) -> str:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["scalecut"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    picture = FileDataset(str(folder / "a.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    picture.Rows = picture.Columns = 32
    picture.SamplesPerPixel, picture.PhotometricInterpretation = 1, "MONOCHROME2"
    picture.BitsAllocated, picture.BitsStored, picture.HighBit = 16, 12, 11
    picture.PixelRepresentation, picture.RescaleSlope, picture.RescaleIntercept = 0, 1, -1024
    picture.PixelSpacing = [0.5, 0.5]
    picture.PixelData = np.arange(1024, dtype=np.uint16).tobytes()
    picture.save_as(folder / "a.dcm", enforce_file_format=True)
    (folder / "t.csv").write_text("image,measure\na.dcm,0.25\n")
    return f"csv:{folder / 't.csv'}"


def _nifti(folder: Path) -> str:
    import nibabel

    volume = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(folder / "a.nii")
    (folder / "t.csv").write_text("image,measure\na.nii,0.25\n")
    return f"csv:{folder / 't.csv'}"


def _tar(folder: Path) -> str:
    _image(folder)
    (folder / "a.json").write_text('{"measure": 0.25, "subset": "dog", "group": "p1"}')
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name in ("a.png", "a.json"):
            tar.add(folder / name, name)
            (folder / name).unlink()
    return f"tar:{folder / 's.tar'}"


def _pictures(suffix: str) -> Callable[[Path], str]:
    def written(folder: Path) -> str:
        _image(folder, f"a.{suffix}")
        (folder / "t.csv").write_text(f"image,measure\na.{suffix},0.25\n")
        return f"csv:{folder / 't.csv'}"

    return written


def _geojson(folder: Path) -> str:
    spec = _masks(folder)
    (folder / "masks" / "a.png").unlink()
    ring = [[[4, 4], [20, 4], [20, 25], [4, 25], [4, 4]]]
    cell = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": ring},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    whole = {"type": "FeatureCollection", "features": [cell, cell]}
    (folder / "masks" / "a.geojson").write_text(json.dumps(whole))
    return spec


def _parquet(folder: Path) -> str:
    import pandas as pd

    _image(folder)
    table = {"image": ["a.png", "a.png"], "measure": [0.25, 0.5], "subset": ["dog", "cat"]}
    pd.DataFrame(table).to_parquet(folder / "t.parquet", index=False)
    return f"parquet:{folder / 't.parquet'}"


def _read(spec: str, **options: str) -> None:
    """What a probe does with data: labels, pixels, and the facts of both."""
    from scalecut import Reading, read_images
    from scalecut.data.images import image_facts

    found = read_images(spec, None, Reading(**options))
    assert np.isfinite(found.measure).all(), f"measures {found.measure}"
    for image in found.images:
        pixels = np.asarray(image.decode())
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8, pixels.shape
    image_facts(found)


def _safetensors(folder: Path) -> str:
    import safetensors.torch

    safetensors.torch.save_file(_tensors(), folder / "w.safetensors")
    return str(folder / "w.safetensors")


def _state_dict(folder: Path) -> str:
    import torch

    torch.save(_tensors(), folder / "w.pth")
    return str(folder / "w.pth")


def _tensors() -> dict:
    import torch

    return {"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.zeros(4)}


def _load_weights(file: str) -> None:
    from torch import nn

    from scalecut import load_network

    load_network(nn.Sequential(nn.Conv2d(3, 4, 3)), weights=file)


def _cut(folder: Path) -> str:
    from scalecut import cut_after, save_cut

    save_cut(cut_after(_network(), "2"), folder / "cut", _network())
    return str(folder / "cut")


def _load_cut(folder: str) -> None:
    from scalecut import load_cut

    load_cut(folder, _network())


def _network():
    import torch
    from torch import nn

    from scalecut import Preprocessing, load_network

    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
    return load_network(nn.Sequential(*layers).eval(), preprocessing=Preprocessing(16, 16))


@dataclass(frozen=True, slots=True)
class Reader:
    """What writes a valid file, which file is changed, and what reads it."""

    write: Callable[[Path], str]
    file: str
    read: Callable[[str], None]


MEAN = partial(_read, objects="mean")
OUTLINED = partial(_read, objects="mean", marks="masks")
READERS: dict[str, Reader] = {
    "VOC": Reader(_voc, "Annotations/a.xml", MEAN),
    "COCO, boxes": Reader(_coco, "instances.json", MEAN),
    "COCO, masks": Reader(_coco, "instances.json", OUTLINED),
    "tables, CSV": Reader(_table, "t.csv", _read),
    "tables, Parquet": Reader(_parquet, "t.parquet", _read),
    "YOLO, boxes": Reader(_yolo, "labels/a.txt", MEAN),
    "YOLO, outlines": Reader(_yolo_outlines, "labels/a.txt", OUTLINED),
    "YOLO, data.yaml": Reader(_yolo, "data.yaml", MEAN),
    "labelme, boxes": Reader(_labelme, "a.json", MEAN),
    "labelme, outlines": Reader(_labelme, "a.json", OUTLINED),
    "CVAT, boxes": Reader(_cvat, "a.xml", MEAN),
    "CVAT, outlines": Reader(_cvat_outlines, "a.xml", OUTLINED),
    "masks, PNG": Reader(_masks, "masks/a.png", MEAN),
    "masks, GeoJSON": Reader(_geojson, "masks/a.geojson", MEAN),
    "tar shards": Reader(_tar, "s.tar", _read),
    "TIFF": Reader(_tiff, "a.tif", _read),
    "TIFF, uncompressed": Reader(_plain_tiff, "a.tif", _read),
    "DICOM": Reader(_dicom, "a.dcm", _read),
    "NIfTI": Reader(_nifti, "a.nii", partial(_read, slice="2:4")),
    "PNG": Reader(_pictures("png"), "a.png", _read),
    "JPEG": Reader(_pictures("jpg"), "a.jpg", _read),
    "WebP": Reader(_pictures("webp"), "a.webp", _read),
    "weights, safetensors": Reader(_safetensors, "w.safetensors", _load_weights),
    "weights, state dict": Reader(_state_dict, "w.pth", _load_weights),
    "cut networks": Reader(_cut, "cut/scalecut.json", _load_cut),
}


TEXT = {".xml", ".json", ".geojson", ".csv", ".txt", ".yaml"}
IN_TEXT = ["number"] * 6 + ["word"] * 5 + ["nested", "bit", "byte", "cut", "piece", "twice"]
IN_BYTES = ["bit", "byte", "size", "size", "cut", "piece", "twice", "number", "word"]


def changed(content: bytes, rng: random.Random, is_text: bool) -> bytes:
    """The content with one to four faults: bits, pieces, or, in text, numbers and words."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.choice(IN_TEXT if is_text else IN_BYTES)
        place = rng.randrange(len(found)) if found else 0
        if kind in ("number", "word"):
            pattern = rb"-?\d+(\.\d+)?" if kind == "number" else rb'"[^"]*"|<[^>]*>|[a-z]{3,}'
            places = list(re.finditer(pattern, bytes(found)))
            if places:
                at, other = rng.choice(places), rng.choice(places)[0]
                by = NUMBERS if kind == "number" else WORDS
                new = rng.choice((rng.choice(by), other, b"%.3g" % rng.uniform(-40, 40)))
                found[at.start() : at.end()] = new
        elif kind == "nested":
            depth = rng.choice((1, 3, 2000, 50_000))
            found[place:place] = rng.choice(NESTED) * depth
        elif kind == "cut":
            del found[place:]
        elif kind == "piece":
            del found[place : place + rng.randrange(1, 64)]
        elif kind == "twice":
            found[place:place] = found[place : place + rng.randrange(1, 256)]
        elif kind == "size":
            number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1))
            found[place : place + 4] = number.to_bytes(4, rng.choice(("little", "big")))
        elif kind == "byte" and found:
            found[place] = rng.randrange(256)
        elif found:
            found[place] ^= 1 << rng.randrange(8)
    return bytes(found)


# --- the process that reads ----------------------------------------------------------------------


class Notes:
    """Numbers that a process keeps in a file, so that they outlive it."""

    NAMES = ("began", "read", "refused", "wrong", "seconds", "bytes", "all")
    FORM = f"{len(NAMES)}d"

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(struct.pack(self.FORM, -1, *[0] * (len(self.NAMES) - 1)))
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 0)

    def get(self) -> dict[str, float]:
        """All numbers; `began` is the processor time at which a file was begun, -1 between two."""
        return dict(zip(self.NAMES, struct.unpack(self.FORM, self._memory[:]), strict=True))

    def put(self, **numbers: float) -> None:
        """Write some of them."""
        self._memory[:] = struct.pack(self.FORM, *(self.get() | numbers).values())


def tried(name: str, most_seconds: float, folder: Path, seed: int, most_files: int) -> None:
    """Give a reader changed files until its processor time is over; ends the process."""
    import atheris

    os.environ["SCALECUT_CACHE"] = str(folder / "cache")
    with (folder / "log").open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    warnings.simplefilter("ignore")
    reader, notes, place = READERS[name], Notes(folder / "notes"), folder / "data"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    spec = reader.write(place)
    file, corpus = place / reader.file, folder / "corpus"
    corpus.mkdir(exist_ok=True)
    shutil.copy(file, corpus / "valid")
    reader.read(spec)
    kinds: Counter[str] = Counter()
    is_text, began_at, before_all = file.suffix in TEXT, time.process_time(), notes.get()["all"]

    def one(content: bytes) -> None:
        file.write_bytes(content)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        before, began = _bytes_now(), time.process_time()
        notes.put(began=began)
        said = _what_is_wrong(reader.read, spec)
        seconds, found = time.process_time() - began, _most_bytes() - before
        now = notes.get()
        most = max(now["seconds"], seconds), max(now["bytes"], found)
        used = before_all + time.process_time() - began_at
        notes.put(began=-1, seconds=most[0], bytes=most[1], all=used)
        if seconds > SLOW:
            said = f"{seconds:.0f} s"
        elif found > MUCH:
            said = f"{found / 2**30:.1f} GB"
        count = said if said in ("read", "refused") else "wrong"
        notes.put(**{count: now[count] + 1})
        kind = said.partition(":")[0]
        kinds[kind] += 1
        if count == "wrong" and kinds[kind] == 1:
            keep(folder, name, said, content)
        if used > most_seconds:
            os._exit(0)

    def another(content: bytes, longest: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < (0.15 if is_text else 0.5):
            return atheris.Mutate(content, longest)
        return changed(content, rng, is_text)[:longest]

    options = (
        f"-seed={seed + 1}", f"-max_len={LONGEST}",
        "-len_control=0", f"-timeout={10 * WAITING:.0f}", "-rss_limit_mb=0", "-verbosity=0",
        f"-runs={most_files}", f"-artifact_prefix={folder}/",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *options], one, custom_mutator=another)
    atheris.Fuzz()


def _what_is_wrong(read: Callable[[str], None], spec: str) -> str:
    from scalecut.errors import ScalecutError

    try:
        read(spec)
        return "read"
    except ScalecutError as error:
        return "refused" if str(error).strip() else "an error without a message"
    except Exception as error:  # noqa: BLE001 - what should have been refused
        frames = traceback.extract_tb(error.__traceback__)
        own = next((each for each in reversed(frames) if "scalecut" in each.filename), frames[-1])
        where = f"{Path(own.filename).name}:{own.lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:150]}"


def keep(folder: Path, name: str, said: str, content: bytes) -> None:
    """Note what is wrong, and keep the file that shows it."""
    with (folder / "wrong").open("a", encoding="utf-8") as file:
        file.write(" ".join(said.split()) + "\n")
    kept = Path(tempfile.gettempdir()) / "scalecut-fuzz" / re.sub(r"\W+", "-", name)
    kept.mkdir(parents=True, exist_ok=True)
    number = len(list(kept.iterdir())) // 2
    (kept / f"{number}{Path(READERS[name].file).suffix}").write_bytes(content)
    (kept / f"{number}.said").write_text(said + "\n")


def _bytes_now() -> int:
    """Memory of this process; from here on, `_most_bytes` counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _most_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


# --- the process that watches --------------------------------------------------------------------


def fuzzed(seconds: float, seed: int = 0, names: Sequence[str] = ()) -> Iterator[Outcome]:
    """Give each reader broken files for its part of the processor time."""
    names = names or tuple(READERS)
    context = multiprocessing.get_context("spawn")  # where nothing of scalecut is imported yet
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_each, args=(names, seconds / len(names), seed, sending))
    process.start()
    sending.close()
    for _ in names:
        yield receiving.recv()
    process.join()


def _each(names: Sequence[str], seconds: float, seed: int, sending: Connection) -> None:
    """All readers, each in copies of this process, in which everything is imported."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(ROOT / "src"))
    _load(("scalecut.data.read", "scalecut.data.images"))
    for name in names:
        if READERS[name].read in (_load_weights, _load_cut):
            _load(("scalecut.networks.load", "scalecut.cut.folder"))
        with new_folder() as folder:
            sending.send(_of_reader(name, seconds, seed, folder))


def _load(modules: Sequence[str]) -> None:
    """Import modules so that Atheris sees which of their code is reached."""
    import atheris

    with atheris.instrument_imports(include=["scalecut.data", "scalecut.networks.weights"]):
        for module in modules:
            importlib.import_module(module)


def _of_reader(name: str, seconds: float, seed: int, folder: Path, most_files: int = -1) -> Outcome:
    notes, outcome = Notes(folder / "notes"), Outcome(name)
    while (done := notes.get())["all"] < seconds:
        asked = name, seconds, folder, seed, most_files
        process = multiprocessing.get_context("fork").Process(target=tried, args=asked)
        process.start()
        said = _watched(process, notes)
        now, seed = notes.get(), seed + 1
        if now["began"] < 0 and process.exitcode == 0:
            break
        notes.put(began=-1, all=now["all"] + 2 * SLOW)
        last = (folder / "log").read_text(errors="replace").strip().splitlines() or [""]
        said = said or f"the process ended with {process.exitcode} ({last[-1][:150]})"
        outcome.wrong.append(said)
        file = folder / "data" / READERS[name].file
        keep(folder, name, said, file.read_bytes() if file.is_file() else b"")
        if now["read"] + now["refused"] == done["read"] + done["refused"]:
            break  # it does not even start, or the first file is the wrong one
    now = notes.get()
    outcome.read, outcome.refused = int(now["read"]), int(now["refused"])
    noted = folder / "wrong"
    kinds = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    kinds = [line for line in kinds if line not in outcome.wrong]
    outcome.wrong += kinds + ["the same again"] * (int(now["wrong"]) - len(kinds))
    outcome.seconds, outcome.most_seconds = now["all"], now["seconds"]
    outcome.most_bytes = int(now["bytes"])
    return outcome


def _watched(process: BaseProcess, notes: Notes) -> str:
    """Wait for the end of a process, or end it; why it was ended, or nothing."""
    began, since, base, pid = -2.0, time.monotonic(), 0, process.pid or 0
    while process.is_alive():
        time.sleep(0.2)
        now, (used, held) = notes.get()["began"], _usage(pid)
        if now != began:
            began, since, base = now, time.monotonic(), held
        said = ""
        if now >= 0 and used - began > 2 * SLOW:
            said = f"more than {2 * SLOW:g} s"
        elif now >= 0 and held - base > BOUNDLESS:
            said = f"more than {BOUNDLESS / 2**30:g} GB"
        elif time.monotonic() - since > WAITING:
            said = f"waited for more than {WAITING:g} s"
        if said:
            process.kill()
            process.join()
            return said
    process.join()
    return ""


def _usage(pid: int) -> tuple[float, int]:
    """Processor time of a process in seconds, and its memory in bytes; nothing if it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0.0, 0
    ticks = int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(pages) * resource.getpagesize()
