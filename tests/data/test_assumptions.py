"""Each kind of assumption is stated, stops --strict, and is confirmed by its word."""

import json
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import tifffile

from scalecut import DataError, Reading
from scalecut.data.assumptions import CONFIRMABLE
from tests.data.layouts import (
    EDGE,
    HIGH,
    WIDE,
    add_coco,
    add_mask,
    add_voc,
    coco_parts,
    draw,
    nuclei,
    read,
    said,
)

FORMATS = Path(__file__).parents[2] / "docs" / "how-to" / "formats.md"


def one(mask=None, **options):
    """A folder with one image and its mask."""
    return lambda folder: add_mask(folder, "a", nuclei() > 0 if mask is None else mask, **options)


def voc(*objects, **options):
    return lambda folder: add_voc(folder, "a", *objects, **options)


def coco(change):
    def write(folder):
        parts = coco_parts()
        change(parts)
        parts["images"].pop()  # without annotation
        return add_coco(folder, parts)

    return write


def labelme(*forms):
    """An image with shapes of labelme."""

    def write(folder):
        draw(folder / "a.jpg")
        points = {"point": [[1, 1]], "polygon": [[8, 6], [48, 6], [48, 36]]}
        shapes = [{"label": "dog", "shape_type": form, "points": points[form]} for form in forms]
        about = {"shapes": shapes, "imagePath": "a.jpg", "imageWidth": WIDE, "imageHeight": HIGH}
        (folder / "a.json").write_text(json.dumps(about))
        return f"labelme:{folder}"

    return write


def qupath(scale=1.0, more=None, n=1):
    def write(folder):
        for number in range(n):
            corners = [20, 10], [70, 10], [70, 50 + number / 99]
            ring = [[scale * x, scale * y] for x, y in corners]
            geometry = {"type": "Polygon", "coordinates": [ring]}
            about = [{"geometry": geometry, **({} if more is None else {more: geometry})}]
            spec = add_mask(folder, str(number), None)
            (folder / "masks").mkdir(exist_ok=True)
            (folder / "masks" / f"{number}.geojson").write_text(json.dumps(about))
        return spec

    return write


def far(folder):
    draw(folder / "JPEGImages" / "other" / "a.jpg")
    spec = add_voc(folder, "a", EDGE, image=False)
    (folder / "Annotations" / "own").mkdir()
    (folder / "Annotations" / "a.xml").rename(folder / "Annotations" / "own" / "a.xml")
    return spec


def renamed(folder):
    return add_voc(folder, "a", EDGE, filename="b.jpg")


def spelt(folder):
    add_voc(folder, "b", ("Dog", *EDGE[1:]))
    return add_voc(folder, "a", EDGE)


def split(folder):
    draw(folder / "images" / "a.jpg")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.35 0.35 0.5 0.5")
    (folder / "data.yaml").write_text("train: images\nval: absent\n")
    return f"yolo:{folder}"


def by_name(folder):
    for name in ("patient1_a", "patient1_b", "patient2_a"):
        spec = add_voc(folder, name, EDGE)
    return spec


def unknown(folder):
    mask = np.zeros((HIGH, WIDE), np.uint8)
    mask[0:10, 0:10], mask[20:40, 10:20], mask[50:, 60:], mask[15] = 1, 1, 1, 255
    for number in range(3):
        spec = add_mask(folder, str(number), np.where(mask == 1, 1 + number, mask).astype(np.uint8))
    return spec


def alpha(folder):
    colours = np.zeros((HIGH, WIDE, 4), np.uint8)
    colours[..., 3] = (nuclei() > 0) * 255
    return add_mask(folder, "a", colours)


def transparent(folder):
    draw(folder / "images" / "a.jpg")
    pixels = np.dstack([np.asarray(PIL.Image.open(folder / "images" / "a.jpg"))] * 2)[..., :4]
    pixels = pixels.copy()
    pixels[..., 3], pixels[:9, :, 3] = 255, 0
    (folder / "images" / "a.jpg").unlink()
    PIL.Image.fromarray(pixels).save(folder / "images" / "a.png")
    (folder / "masks").mkdir()
    PIL.Image.fromarray((nuclei() > 0).astype(np.uint8)).save(folder / "masks" / "a.png")
    return f"masks:{folder}"


def grey(folder):
    mask = np.zeros((HIGH, WIDE), np.uint8)
    mask[10:40, 10:50] = 255
    mask[9, 10:50] = np.linspace(40, 220, 40)
    return add_mask(folder, "a", mask)


def hollow():
    mask = np.zeros((HIGH, WIDE), np.uint8)
    mask[10:40, 10:50] = 1
    mask[11:39, 11:49] = 0
    return mask


def volume(folder):
    for name, values in (("images", np.arange(8.0 * 9 * 3)), ("masks", np.arange(216) % 72 > 60)):
        (folder / name).mkdir()
        made = nibabel.Nifti1Image(values.reshape(8, 9, 3).astype(np.float32), None)
        nibabel.save(made, folder / name / "a.nii")
    return f"masks:{folder}"


SPECK = nuclei()
SPECK[59, 0] = 1
ONE = {"objects": "largest"}
MEAN = {"objects": "mean"}
OUTLINES = {"marks": "masks", **ONE}
EXAMPLES = {
    "alpha": (alpha, MEAN),
    "copies": (voc(EDGE, EDGE), {}),
    "flags": (voc(EDGE, flags="<truncated>maybe</truncated>"), {}),
    "folders": (far, {}),
    "grey": (grey, ONE),
    "groups": (by_name, {}),
    "hollow": (one(hollow()), ONE),
    "names": (renamed, {}),
    "nuclei": (qupath(more="nucleusGeometry"), {}),
    "orientation": (volume, {"slice": "2:1", "intensity": "full", "mask_kind": "instances"}),
    "outlines": (labelme("polygon"), {}),
    "pixels": (qupath(scale=0.4, n=10), {}),
    "shapes": (labelme("polygon", "point"), OUTLINES),
    "size": (voc(EDGE, size=None), {}),
    "specks": (one((SPECK > 0).astype(np.uint8)), MEAN),
    "spelling": (spelt, {}),
    "splits": (split, {}),
    "transparent": (transparent, MEAN),
    "unknown": (unknown, MEAN | {"mask_kind": "classes"}),
}
ELSEWHERE = {"overlaps", "crop", "blank"}  # of patches, and of images that are not on this machine


def test_every_word_has_an_example():
    assert EXAMPLES.keys() | ELSEWHERE == CONFIRMABLE.keys()


@pytest.mark.parametrize("word", EXAMPLES)
def test_what_is_assumed_stops_strict_until_it_is_confirmed(tmp_path, word):
    write, options = EXAMPLES[word]
    spec = write(tmp_path)
    images = read(spec, **options)
    (statement,) = images.facts["assumed"]
    assert said(read, spec, strict=True, **options) == (
        f"Assumed: {statement} (--strict assumes nothing; if it is right, give --confirm {word})."
    )
    confirmed = read(spec, strict=True, confirm=(word,), **options)
    assert f"{statement}, as confirmed" in confirmed.facts["stated"]
    assert "assumed" not in confirmed.facts
    np.testing.assert_array_equal(confirmed.measure, images.measure)


def test_another_option_confirms_what_it_says(tmp_path):
    values = np.arange(HIGH * WIDE, dtype=np.uint16).reshape(HIGH, WIDE) % 4000
    tifffile.imwrite(tmp_path / "a.tif", values)
    (tmp_path / "t.csv").write_text("image,measure\na.tif,1")
    spec = f"csv:{tmp_path}/t.csv"
    assert said(read, spec, strict=True).endswith("if it is right, give --intensity=0,4095).")
    shown = [each.images[0].decode() for each in (read(spec), read(spec, intensity="0,4095"))]
    assert shown[0].tobytes() == shown[1].tobytes()
    assert "assumed" not in read(spec, strict=True, intensity="0,4095").facts


def test_a_word_that_confirms_nothing_known_is_refused():
    with pytest.raises(DataError, match="nuclei"):
        Reading(confirm=("nucleus",))


def test_the_documentation_lists_every_word():
    text = FORMATS.read_text()
    assert [word for word in CONFIRMABLE if f"| `--confirm {word}`" not in text] == []


def test_strict_decodes_every_image(tmp_path):
    """One broken file among more plain ones than are examined otherwise."""
    for number in range(150):
        draw(tmp_path / f"{number:03}.jpg", size=(8, 8))
    broken = tmp_path / "149.jpg"
    content = broken.read_bytes()
    lines = ["image,measure", *(f"{number:03}.jpg,{number}" for number in range(150))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    spec = f"csv:{tmp_path}/t.csv"
    assert len(read(spec, strict=True)) == 150
    broken.write_bytes(content[: content.index(b"\xff\xda") + 14])  # no pixel follows
    assert len(read(spec)) == 150
    assert said(read, spec, strict=True).startswith("149.jpg: it is truncated or broken (")
