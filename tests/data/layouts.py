"""Images with objects of known shares, written in the layouts that readers know."""

import json
import tarfile
from io import BytesIO

import numpy as np
import PIL.Image
import pytest

from scalecut import DataError, Frame, Reading, read_images

SQUARE = Frame(100, 100)
WIDE, HIGH = 80, 60  # of the drawn images
DOG = ("dog", 8, 6, 48, 36)  # a quarter of the image, half its height
EDGE = ("dog", 0, 6, 40, 36)  # likewise; 0 is an edge, no pixel
CAT = ("cat", 0, 0, 8, 60)  # a tenth of it, all its height
ORIENTATION = 0x0112


def read(spec, frame=SQUARE, progress=None, **reading):
    return read_images(spec, frame, Reading(**reading), progress=progress)


def said(act, *given, **more):
    """The one line of the error that a call raises."""
    with pytest.raises(DataError) as error:
        act(*given, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def skipped(images):
    return {each.name: each.reason for each in images.left_out}


def names(images):
    return [image.name for image in images.images]


def exif(orientation):
    tags = PIL.Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def draw(path, size=(WIDE, HIGH), orientation=1):
    """An image like no other: no two are the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    pixels = rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(path, exif=exif(orientation))


def xml(*objects, filename="", size=(WIDE, HIGH), flags=""):
    edges = ("xmin", "ymin", "xmax", "ymax")
    marked = ""
    for kind, *box in objects:
        corners = "".join(f"<{e}>{value}</{e}>" for e, value in zip(edges, box, strict=True))
        marked += f"<object><name>{kind}</name>{flags}<bndbox>{corners}</bndbox></object>"
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{stated}{marked}</annotation>"


def add_voc(folder, name, *objects, text=None, orientation=1, image=True, **options):
    """Adds an image and its annotation to a folder in VOC's layout; its specification."""
    if image:
        draw(folder / "JPEGImages" / f"{name}.jpg", orientation=orientation)
    note = folder / "Annotations" / f"{name}.xml"
    note.parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("filename", f"{name}.jpg")
    note.write_text(xml(*objects, **options) if text is None else text)
    return f"voc:{folder}"


def coco_parts():
    """Image 7 (b.jpg) with one dog, image 8 (a.jpg) with a dog and a cat."""
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": WIDE, "height": HIGH},
            {"id": 8, "file_name": "a.jpg", "width": WIDE, "height": HIGH},
            {"id": 9, "file_name": "bare.jpg", "width": WIDE, "height": HIGH},
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [8, 6, 40, 30], "iscrowd": 0},
            {"image_id": 8, "category_id": 18, "bbox": [10, 20, 40, 12]},
            {"image_id": 8, "category_id": 17, "bbox": [0, 0, 8, 60]},
        ],
    }


def add_coco(folder, parts, images="annotations"):
    """An instances file, and its images where they are asked for; its specification."""
    for name in ("a.jpg", "b.jpg", "bare.jpg"):
        draw(folder / images / name)
    file = folder / "annotations" / "instances_train2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(parts if isinstance(parts, str) else json.dumps(parts))
    return f"coco:{file}"


def nuclei(dtype=np.uint8):
    """Three objects: 100, 200 and 300 pixels of 4800."""
    mask = np.zeros((HIGH, WIDE), dtype)
    mask[0:10, 0:10], mask[20:40, 10:20], mask[45:60, 60:80] = 1, 2, 200
    return mask


def add_mask(folder, name, mask, kind="masks", suffix=".png"):
    """Adds an image and its mask to a folder; its specification."""
    draw(folder / "images" / f"{name}.jpg")
    if mask is not None:
        file = folder / kind / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(mask).save(file)
    return f"masks:{folder}"


def packed(file, members, form=tarfile.PAX_FORMAT):
    """A shard of names and bytes, or of names and what becomes JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in members:
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return file
