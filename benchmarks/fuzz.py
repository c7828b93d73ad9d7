"""Broken files for every reader: no traceback, no hang, no memory beyond a gigabyte.

Valid files of every kind are written, changed at random (bits, pieces, numbers, lengths), and read
in processes of their own, which report what was neither read nor refused.
"""

import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image

SLOW, MUCH = 10.0, 2**30  # seconds and bytes that one input may take
EXTREMES = ("-1", "0", "1e308", "-1e308", "nan", "99999999999999999999", "0.1", "1e-320", "")


@dataclass(slots=True)
class Outcome:
    """What became of the broken files of one reader."""

    what: str
    read: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)  # tracebacks, hangs, memory
    most_bytes: int = 0

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


def _read(spec: str) -> None:
    """What a probe does with data: labels, pixels, and the facts of both."""
    from scalecut import Reading, read_images
    from scalecut.data.images import image_facts

    scheme, _, place = spec.partition(":")
    volume = "2:4" if Path(place).with_name("a.nii").exists() else ""
    objects = "single" if scheme in ("csv", "tar") else "mean"
    found = read_images(spec, None, Reading(objects=objects, slice=volume))
    for image in found.images:
        image.decode()
    image_facts(found)


def _weights(folder: Path) -> str:
    import safetensors.torch
    import torch

    tensors = {"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.zeros(4)}
    safetensors.torch.save_file(tensors, folder / "w.safetensors")
    return str(folder / "w.safetensors")


def _load(file: str) -> None:
    from torch import nn

    from scalecut import load_network

    load_network(nn.Sequential(nn.Conv2d(3, 4, 3)), weights=file)


# By reader: what writes its files, which of them are changed, and what reads them.
READERS: dict[str, tuple[Callable[[Path], str], str, Callable[[str], None]]] = {
    "VOC": (_voc, "*.xml", _read),
    "COCO": (_coco, "*.json", _read),
    "tables": (_table, "*.csv", _read),
    "YOLO": (_yolo, "*.txt,*.yaml", _read),
    "labelme": (_labelme, "*.json", _read),
    "CVAT": (_cvat, "*.xml", _read),
    "masks": (_masks, "masks/*.png", _read),
    "tar shards": (_tar, "*.tar", _read),
    "TIFF": (_tiff, "*.tif", _read),
    "DICOM": (_dicom, "*.dcm", _read),
    "NIfTI": (_nifti, "*.nii", _read),
    "PNG": (_pictures("png"), "*.png", _read),
    "JPEG": (_pictures("jpg"), "*.jpg", _read),
    "WebP": (_pictures("webp"), "*.webp", _read),
    "safetensors": (_weights, "*.safetensors", _load),
}


def changed(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four faults: bits, pieces, or, in text, numbers and words."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(found)))
        kind = rng.choice(["bit", "byte", "cut", "piece", "twice", "number", "number", "word"])
        place = rng.randrange(len(found)) if found else 0
        if kind == "number" and numbers:
            at = rng.choice(numbers)
            found[at.start() : at.end()] = rng.choice(EXTREMES).encode()
        elif kind == "word":
            words = list(re.finditer(rb'"[^"]*"|<[^>]*>|[a-z]{3,}', bytes(found)))
            if words:
                at, other = rng.choice(words), rng.choice(words)
                found[at.start() : at.end()] = rng.choice((other[0], b"", b"null", b"[]", b"{}"))
        elif kind == "cut":
            del found[place:]
        elif kind == "piece":
            del found[place : place + rng.randrange(1, 64)]
        elif kind == "twice":
            found[place:place] = found[place : place + rng.randrange(1, 256)]
        elif kind == "byte" and found:
            found[place] = rng.randrange(256)
        elif found:
            found[place] ^= 1 << rng.randrange(8)
    return bytes(found)


def fuzzed(seconds: float, seed: int = 0) -> Iterator[Outcome]:
    """Give each reader broken files for its part of the time."""
    context = multiprocessing.get_context("spawn")
    for name in READERS:
        receiving, sending = context.Pipe(duplex=False)
        asked = name, seconds / len(READERS), seed, sending
        process = context.Process(target=_tried, args=asked)
        process.start()
        sending.close()
        try:
            yield receiving.recv()
        except EOFError:
            process.join()
            yield Outcome(name, wrong=[f"the process ended with {process.exitcode}"])
        process.join()


def _tried(name: str, seconds: float, seed: int, sending) -> None:
    from scalecut.errors import ScalecutError

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hung)
    write, patterns, read = READERS[name]
    outcome, rng = Outcome(name), random.Random(f"{seed} {name}")
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as given:
        valid, folder = Path(given) / "valid", Path(given) / "broken"
        valid.mkdir()
        write(valid)
        files = [p for pattern in patterns.split(",") for p in sorted(valid.rglob(pattern))]
        shutil.copytree(valid, folder)
        read(write(_emptied(folder)))  # the valid files can be read
        at_rest = _most_bytes()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file = rng.choice(files).relative_to(valid)
            content = changed((valid / file).read_bytes(), rng)
            spec = write(_emptied(folder))
            (folder / file).write_bytes(content)
            signal.setitimer(signal.ITIMER_REAL, SLOW)
            try:
                read(spec)
                outcome.read += 1
            except ScalecutError:
                outcome.refused += 1
            except Exception as error:  # noqa: BLE001 - what should have been refused
                frame = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
                kinds[said] += 1
                if kinds[said] == 1:
                    kept = Path(tempfile.gettempdir()) / f"fuzz-{name.replace(' ', '-')}"
                    kept.mkdir(exist_ok=True)
                    (kept / f"{len(kinds)}-{file.name}").write_bytes(content)
                    outcome.wrong.append(f"{said}: {error}"[:200])
                else:
                    outcome.wrong.append(said)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if _most_bytes() - at_rest > MUCH:
                outcome.wrong.append(f"more than 1 GB for {content[:60]!r}")
                break
    outcome.most_bytes = _most_bytes() - at_rest
    sending.send(outcome)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _hung(*_) -> None:
    raise TimeoutError(f"more than {SLOW:g} s")


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
