"""Outlines and runs of pixels cover the pixels that were planted, in every form of a file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from scalecut import Frame
from scalecut.data.boxes import in_pixels
from scalecut.data.coco import of_coco
from scalecut.data.images import Image, Labelled, Mark
from scalecut.data.outlines import covered
from tests.data.layouts import HIGH, WIDE, add_coco, coco_parts, draw, exif, read, said, skipped


def blob(seed=0):
    """A ragged object with holes."""
    noise = np.random.default_rng(seed).normal(size=(HIGH, WIDE))
    return ndimage.gaussian_filter(noise, 3) > 0.03


def runs(mask):
    """Lengths of runs, column after column, the first of unmarked pixels."""
    lengths, last = [0], False
    for value in mask.T.ravel().tolist():
        if value != last:
            lengths.append(0)
            last = value
        lengths[-1] += 1
    return lengths


def compressed(lengths):
    """COCO's string: groups of five bits, a sixth if more follow, from the sign "0" on."""
    text = ""
    for place, length in enumerate(lengths):
        value, more = length - (lengths[place - 2] if place > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def polygon(mask):
    """Every marked pixel as a square of its own."""
    return [
        [float(value) for value in (x, y, x + 1, y, x + 1, y + 1, x, y + 1)]
        for y, x in np.argwhere(mask)
    ]


FORMS = {
    "runs": lambda mask: {"counts": runs(mask), "size": list(mask.shape)},
    "compressed": lambda mask: {"counts": compressed(runs(mask)), "size": list(mask.shape)},
    "polygons": polygon,
}


def whole(segmentation, size=(WIDE, HIGH)):
    part, x, y = covered(of_coco(segmentation), *size)
    mask = np.zeros(size[::-1], bool)
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return mask


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", [blob(), blob(1), ~blob(2)], ids=["0", "1", "marked corner"])
def test_a_planted_mask_comes_back(form, mask):
    np.testing.assert_array_equal(whole(FORMS[form](mask)), mask)


def test_an_outline_covers_the_pixels_whose_centres_it_surrounds():
    """A triangle, with the centres inside by its three edges; two overlapping parts count once."""
    mask = whole([[10, 10, 60, 10, 10, 50]])
    y, x = np.mgrid[0:HIGH, 0:WIDE] + 0.5
    np.testing.assert_array_equal(mask, (x > 10) & (y > 10) & (4 * (x - 10) + 5 * (y - 10) < 200))
    both = whole([[10, 10, 60, 10, 10, 50], [10, 10, 60, 10, 10, 50]])
    np.testing.assert_array_equal(both, mask)


def parts_of(masks, form="runs"):
    """Images 7 and 8, with a dog of each mask, whose boxes are far too large."""
    parts = coco_parts()
    parts["annotations"] = [
        {"image_id": number, "category_id": 18, "bbox": [0, 0, WIDE, HIGH], "iscrowd": 0,
         "segmentation": FORMS[form](mask)}
        for number, mask in zip((7, 8), masks, strict=True)
    ]  # fmt: skip
    return parts


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_coco_are_measured_if_asked(tmp_path, form):
    masks = [blob(), blob(1)]
    spec = add_coco(tmp_path, parts_of(masks, form))
    np.testing.assert_allclose(read(spec).measure, 1)
    images = read(spec, marks="masks")  # a.jpg, the second mask, comes first
    np.testing.assert_allclose(images.measure, [masks[1].mean(), masks[0].mean()])
    rows, columns = np.nonzero(masks[1])
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(images.boxes[0], box)
    heights = read(spec, marks="masks", measure="height").measure
    np.testing.assert_allclose(heights[0], (box[3] - box[1]) / HIGH)
    crop = read(spec, Frame(50, 50, "crop"), marks="masks").measure  # the middle 60 columns
    np.testing.assert_allclose(crop[0], masks[1][:, 10:70].mean())


def test_a_mask_is_counted_inside_the_crop(tmp_path):
    mask = np.zeros((HIGH, WIDE), bool)
    mask[6:36, 8:48] = True
    spec = add_coco(tmp_path, parts_of([mask, mask], "polygons"))
    crop = read(spec, Frame(50, 50, "crop"), marks="masks")  # the middle 60 columns
    np.testing.assert_allclose(crop.measure, 30 * 38 / 3600)
    np.testing.assert_array_equal(crop.boxes[0], (8, 6, 48, 36))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_are_turned_with_their_image(tmp_path, orientation):
    mask = np.zeros((HIGH, WIDE), bool)
    mask[6:36, 8:48] = True
    spec = add_coco(tmp_path, parts_of([mask, mask], "polygons"))
    for name in ("a.jpg", "b.jpg"):
        pixels = PIL.Image.fromarray(np.uint8(mask) * 255).convert("RGB")
        pixels.save(tmp_path / "annotations" / name, quality=100, exif=exif(orientation))
    images = read(spec, marks="masks", measure="height")
    rows, columns = np.nonzero(np.asarray(images.images[0].decode().convert("L")) > 128)
    expected = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(images.boxes[0], expected)
    np.testing.assert_allclose(images.measure, 40 / 80)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segmentation": None}, "its dog has no mask; --marks boxes measures its box"),
        ({"segmentation": [[1, 1, 5, 5]]}, "its segmentation is neither polygons nor runs of "
         "pixels (a polygon needs three corners); fix it"),
        ({"segmentation": {"counts": [5, 5], "size": [HIGH, WIDE]}}, "its segmentation is neither "
         "polygons nor runs of pixels (its runs do not add up to 80 x 60 pixels); fix it"),
        ({"segmentation": {"counts": [5, 5], "size": [2, 5]}}, "its mask has 5 x 2 pixels, the "
         "image 80 x 60; give the image that it was drawn on"),
        ({"segmentation": [[1, 1, 90, 1, 90, 9]]}, "its outline reaches from 1, 1 to 90, 9, "
         "outside the image of 80 x 60; give the image that it was drawn on"),
        ({"segmentation": {"counts": [4800], "size": [HIGH, WIDE]}}, "the mask of its dog marks no "
         "pixel; fix it"),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_skipped(tmp_path, change, reason):
    parts = parts_of([blob(), blob(1)])
    parts["annotations"][0] |= change
    images = read(add_coco(tmp_path, parts), marks="masks")
    assert (len(images), skipped(images)["b.jpg"]) == (1, reason)


ODD = [
    [[]], [[8, 6, 48, 6, 48, 36, 8]], [[8, 6, 48], [6, 48, 36, 8, 9]], "polygon", [["x"] * 6],
    [{"counts": [4800], "size": [HIGH, WIDE]}], 5, [[[8, 6], [48, 6], [48, 36]]],
    [[1e400, 6, 48, 6, 48, 36]], {"counts": "é", "size": [HIGH, WIDE]}, {"counts": []},
]  # fmt: skip


@pytest.mark.parametrize("segmentation", ODD, ids=str)
def test_odd_segmentations_are_skipped_where_they_are_needed_and_only_there(tmp_path, segmentation):
    parts = coco_parts()
    parts["annotations"][0]["segmentation"] = segmentation
    whole = read(add_coco(tmp_path, parts))
    np.testing.assert_allclose(whole.measure, [0.1, 0.1, 0.25])
    reason = "its segmentation is neither polygons nor runs of pixels ("
    assert reason in said(read, add_coco(tmp_path, parts), marks="masks")
    parts["annotations"][0]["bbox"] = []
    images = read(add_coco(tmp_path, parts))
    np.testing.assert_allclose(images.measure, [0.1, 0.1])
    assert skipped(images)["b.jpg"].startswith(reason)


def in_corner(form):
    """Ten outlines of 20 x 15 pixels in the upper left of their images."""
    parts = coco_parts()
    outline = np.array([4, 6, 24, 6, 24, 21, 4, 21]) / (WIDE if form == "shares" else 1)
    names = [f"{number}.jpg" for number in range(10)]
    parts["images"] = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    parts["annotations"] = [
        {"image_id": n, "category_id": 18, "segmentation": [outline.tolist()]} for n in range(10)
    ]
    return parts


def test_outlines_in_the_upper_left_quarter_are_stated_and_no_option_is_advised(tmp_path):
    parts = in_corner("pixels")
    for entry in parts["images"]:
        draw(tmp_path / "annotations" / entry["file_name"])
    spec = add_coco(tmp_path, parts)
    images = read(spec, marks="masks")
    np.testing.assert_allclose(images.measure, 20 * 15 / (WIDE * HIGH))
    assert images.facts["assumed"][1] == (
        f"all 10 outlines of {spec.removeprefix('coco:')} (the first is of 0.jpg) lie in the upper "
        "left quarter of their images, and are used as they are"
    )
    add_coco(tmp_path, in_corner("shares"))
    assert said(read, spec, marks="masks") == (
        f"All 10 outlines of {spec.removeprefix('coco:')} (the first is of 0.jpg) lie between 0 "
        "and 1, so they may be shares of width and height or pixels. Convert them to pixels."
    )


def test_marks_in_pixels_keep_their_flags_and_shape():
    shape = (((8.0, 6.0), (48.0, 6.0), (8.0, 36.0)),)
    mark = Mark("dog", (0.1, 0.1, 0.6, 0.6), frozenset({"truncated"}), (shape,))
    item = Labelled(Image("a", Path("a.jpg")), frozenset({"dog"}), (mark,), (WIDE, HIGH))
    for asked in (["xyxy"], ["xywh", "normalised"]):
        (found,), _ = in_pixels([item], asked, "")
        (own,) = found.label
        width, height = (WIDE, HIGH) if "normalised" in asked else (1, 1)
        corners = [[(x * width, y * height) for x, y in ring] for ring in shape]
        np.testing.assert_allclose(own.shape[0], corners)
        assert dataclasses.replace(own, box=mark.box, shape=mark.shape) == mark


def test_conventions_of_boxes_that_are_not_measured_are_refused():
    assert said(read, "coco:x", marks="masks", boxes=("xywh",)) == (
        "--boxes says what boxes mean, but masks are measured. Omit --boxes."
    )


# --- QuPath --------------------------------------------------------------------------------------


def rectangle(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(coordinates, form="Polygon", kind=None, sort="detection", nucleus=None, id="x"):
    facts = {"objectType": sort} if sort else {}
    if kind:
        facts["classification"] = {"name": kind, "color": [200, 0, 0]}
    found = {"type": "Feature", "id": id, "properties": facts}
    found["geometry"] = {"type": form, "coordinates": coordinates}
    if nucleus:
        found["nucleusGeometry"] = {"type": "Polygon", "coordinates": nucleus}
    return found


def qupath(folder, *features, bare=False, suffix=".geojson"):
    """Two images of the same objects; the specification."""
    for name in ("a", "b"):
        draw(folder / "images" / f"{name}.png")
        file = folder / "masks" / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = list(features)
        file.write_text(
            json.dumps(content if bare else {"type": "FeatureCollection", "features": content})
        )
    return f"masks:{folder}"


RING = feature([rectangle(8, 6, 48, 36), rectangle(10, 10, 20, 20)], kind="Tumor ")  # 1100 pixels
TWO = feature([[rectangle(0, 0, 10, 10)], [rectangle(20, 0, 30, 10)]], "MultiPolygon")  # 200


@pytest.mark.parametrize("bare", [False, True])
def test_objects_of_qupath_are_masks_of_their_classes(tmp_path, bare):
    images = read(qupath(tmp_path, RING, TWO, feature([1, 1], "Point"), bare=bare))
    assert images.subset == ("Tumor", "Tumor", tmp_path.name, tmp_path.name)
    np.testing.assert_allclose(images.measure * WIDE * HIGH, [1100, 1100, 200, 200])
    assert images.facts["assumed"] == ["2 shapes of the type Point have no area, and do not count"]


def test_the_unit_of_geojson_is_stated_and_nothing_is_assumed(tmp_path):
    images = read(qupath(tmp_path, RING, suffix=".GEOJSON"), strict=True)
    np.testing.assert_allclose(images.measure * WIDE * HIGH, 1100)
    assert images.facts["stated"] == [
        "outlines of GeoJSON are in pixels of their image, since its format has no other unit",
        "objects are measured by their outlines or runs of pixels; a pixel counts if its centre is "
        "inside",
    ]


@pytest.mark.parametrize("option", [{"mask_kind": "instances"}, {"background": "0"}])
def test_what_values_of_masks_mean_is_refused_for_outlines(tmp_path, option):
    assert said(read, qupath(tmp_path, RING), **option) == (
        "--mask-kind and --background say what values of masks mean, but there is no mask with "
        "values, as outlines have none. Omit them."
    )


CELL, NUCLEUS = [rectangle(8, 6, 48, 36)], [rectangle(20, 10, 30, 20)]  # 1200 and 100 pixels


@pytest.mark.parametrize("sort", ["cell", "detection"])
def test_cells_are_measured_by_their_nuclei(tmp_path, sort):
    inside = feature(CELL, sort=sort)
    inside["properties"]["nucleusGeometry"] = {"type": "Polygon", "coordinates": NUCLEUS}
    for number, cell in enumerate((feature(CELL, sort=sort, nucleus=NUCLEUS), inside)):
        images = read(qupath(tmp_path / str(number), cell))
        np.testing.assert_allclose(images.measure * WIDE * HIGH, 100)
        assert images.facts["assumed"] == ["2 cells are measured by the outlines of their nuclei"]


def test_cells_without_a_nucleus_are_measured_and_stated(tmp_path):
    images = read(qupath(tmp_path, feature(CELL, sort="", id="PathCellObject")))
    np.testing.assert_allclose(images.measure * WIDE * HIGH, 1200)
    assert images.facts["assumed"] == [
        "2 cells have no outline of their nucleus, and are measured by that of the cell"
    ]


REGION = [rectangle(0, 0, 60, 50)]


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ((RING, feature(REGION, sort="annotation")), "it holds 1 annotations and 1 detections, "
         "whose sizes mean different things; export one of these"),
        ((feature(CELL, sort="", id="PathDetectionObject"),
          feature(REGION, sort="", id="PathAnnotationObject")), "it holds 1 annotations and 1 "
         "detections, whose sizes mean different things; export one of these"),
        ((feature(CELL, sort="", id="PathDetectionObject"),
          feature(REGION, sort="", id="PathTileObject")), "it holds 1 detections and 1 tiles, "
         "whose sizes mean different things; export one of these"),
        ((feature(CELL, sort="cell"), feature(CELL, sort="cell", nucleus=NUCLEUS)), "it holds 1 "
         "cells and 1 nuclei of cells, whose sizes mean different things; export one of these"),
        ((feature([1, 1], "Point"),), "it has no polygon"),
        (({"geometry": None},), "it is no GeoJSON of objects ('NoneType' object is not "
         "subscriptable); export it again"),
        ((feature([[[10**400, 1]]]),), "it is no GeoJSON of objects ("),
    ],
)  # fmt: skip
def test_geojson_that_is_not_clear_is_refused(tmp_path, features, reason):
    assert f"its a.geojson cannot be used: {reason}" in said(read, qupath(tmp_path, *features))
