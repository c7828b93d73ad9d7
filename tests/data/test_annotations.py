"""Every layout is written by the test itself, with boxes whose shares are known."""

import numpy as np
import PIL.Image
import pytest

from scalecut import DataError, Frame
from tests.data.layouts import (
    CAT,
    DOG,
    HIGH,
    WIDE,
    add_coco,
    add_voc,
    coco_parts,
    draw,
    exif,
    names,
    read,
    said,
    skipped,
    xml,
)

# --- VOC -----------------------------------------------------------------------------------------


def test_voc_gives_one_row_per_image_and_class(tmp_path):
    add_voc(tmp_path, "2", DOG, CAT)
    spec, told = add_voc(tmp_path, "1", DOG), []
    images = read(spec, progress=lambda *args: told.append(args))
    assert images.subset == ("cat", "dog", "dog")
    assert names(images) == ["2.jpg", "1.jpg", "2.jpg"]
    assert images.group == ("2.jpg", "1.jpg", "2.jpg")
    np.testing.assert_allclose(images.measure, [0.1, 0.25, 0.25])
    np.testing.assert_array_equal(images.boxes, [CAT[1:], DOG[1:], DOG[1:]])
    assert (images.measure_name, images.left_out) == ("area", ())
    assert images.images[0].decode().size == (WIDE, HIGH)
    assert told == [("listing", 1, 2), ("listing", 2, 2)]
    assert read(spec, subset=("dog",)).subset == ("dog", "dog")


@pytest.mark.parametrize(
    ("objects", "areas"),
    [("single", [0.25]), ("largest", [0.25, 0.25]), ("mean", [0.25, (0.25 + 100 / 4800) / 2])],
)
def test_several_objects_count_as_asked(tmp_path, objects, areas):
    add_voc(tmp_path, "1", DOG)
    spec = add_voc(tmp_path, "2", ("dog", 70, 50, 80, 60.5), DOG)  # 10 x 10 of the first is inside
    images = read(spec, objects=objects)
    np.testing.assert_allclose(images.measure, areas)
    assert (images.boxes is None) == (objects == "mean")


def test_boxes_of_imagenet_find_their_images(tmp_path):
    for wnid in ("n02058221", "n02084071"):
        draw(tmp_path / "Images" / wnid / f"{wnid}_18.JPEG")
        draw(tmp_path / "Images" / wnid / "same.JPEG")
        notes = tmp_path / "Annotations" / wnid
        notes.mkdir(parents=True)
        stated = {f"{wnid}_18": f"{wnid}_18", "same": "%s"}  # both occur in ImageNet
        for stem, filename in stated.items():
            (notes / f"{stem}.xml").write_text(xml((wnid, *DOG[1:]), filename=filename))
    images = read(f"voc:{tmp_path}")
    assert images.left_out == ()
    assert images.subset == ("n02058221",) * 2 + ("n02084071",) * 2
    assert names(images)[1:3] == [
        "Images/n02058221/same.JPEG",
        "Images/n02084071/n02084071_18.JPEG",
    ]


def test_annotations_and_images_may_be_anywhere(tmp_path):
    draw(tmp_path / "one" / "a.jpg")
    (tmp_path / "one" / "a.xml").write_text(xml(DOG, filename="C:\\photos\\a.jpg"))
    assert names(read(f"voc:{tmp_path}/one")) == ["a.jpg"]
    spec = add_voc(tmp_path / "two", "1", DOG, image=False)
    draw(tmp_path / "far" / "1.png")
    assert names(read(spec, images=tmp_path / "far")) == ["1.png"]


# --- EXIF ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_box_covers_the_object_in_the_decoded_image(tmp_path, orientation):
    spec = add_voc(tmp_path, "1", DOG)
    stored = PIL.Image.new("RGB", (WIDE, HIGH))
    stored.paste((255, 255, 255), DOG[1:])
    stored.save(tmp_path / "JPEGImages" / "1.jpg", quality=100, exif=exif(orientation))
    images = read(spec)
    rows, columns = np.nonzero(np.asarray(images.images[0].decode().convert("L")) > 128)
    expected = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(images.boxes[0], expected)


@pytest.mark.parametrize("drawn_on", ["upright", "unknown"])
def test_upright_box_stays_as_it_is(tmp_path, drawn_on):
    size = {"upright": (60, 80), "unknown": None}[drawn_on]
    spec = add_voc(tmp_path, "1", ("dog", 6, 8, 36, 48), orientation=6, size=size)
    images = read(spec, measure="height")
    np.testing.assert_array_equal(images.boxes, [[6, 8, 36, 48]])
    np.testing.assert_allclose(images.measure, [0.5])


def test_half_turns_leave_the_box_as_it_is(tmp_path):
    images = read(add_voc(tmp_path, "1", DOG, orientation=3))
    np.testing.assert_array_equal(images.boxes, [DOG[1:]])


@pytest.mark.parametrize(("orientation", "box"), [(6, (24, 8, 54, 48)), (8, (6, 32, 36, 72))])
def test_coco_boxes_are_turned_with_their_image(tmp_path, orientation, box):
    spec = add_coco(tmp_path, coco_parts())
    draw(tmp_path / "annotations" / "b.jpg", orientation=orientation)
    images = read(spec, subset=("dog",), measure="height")
    np.testing.assert_allclose(images.measure, [0.2, 0.5])
    np.testing.assert_array_equal(images.boxes[1], box)


# --- what cannot be used -------------------------------------------------------------------------

BOMB = '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
HOSTILE = (
    "its XML declares a document type or entities, which no annotation needs; "
    "remove the declaration if you trust the file"
)
NO_BOX = "its object 1 (dog) has no box of four numbers; give xmin, ymin, xmax and ymax"
NOTE, IMAGE = "Annotations/2.xml", "2.jpg"


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        ({"text": BOMB + "<annotation><filename>&b;</filename></annotation>"}, NOTE, HOSTILE),
        ({"text": '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><annotation/>'}, NOTE, HOSTILE),
        (
            {"text": "<annotation><object>"},
            NOTE,
            "its XML is broken (no element found: line 1, column 20); fix or remove it",
        ),
        (
            {"text": "<annotation/>"},
            NOTE,
            "it has no object with a box; draw one, or remove the file",
        ),
        (
            {"text": "<annotation><object><name>dog</name></object></annotation>"},
            NOTE,
            NO_BOX,
        ),
        ({"text": xml(("dog", 1, 1, "wide", 9))}, NOTE, NO_BOX),
        ({"text": xml(("", 1, 1, 5, 9))}, NOTE, "its object 1 has no name; give its class"),
        (
            {"text": xml(DOG, filename="2.jpg"), "image": False},
            NOTE,
            "there is no image named 2.jpg; add it, or give its folder",
        ),
        (
            {"text": xml(("dog", 10, 20, 500, 50), filename="2.jpg")},
            IMAGE,
            "box 10 20 500 50 reaches outside the image of 80 x 60; fix the annotation, "
            "or give the image that it was drawn on",
        ),
        (
            {"text": xml(("dog", 50, 20, 50, 50), filename="2.jpg")},
            IMAGE,
            "box 50 20 50 50 is empty: its right and bottom must lie beyond its left and top; "
            "fix the annotation",
        ),
        (
            {"text": xml(DOG, filename="2.jpg", size=(500, 375))},
            IMAGE,
            "its boxes were drawn on 500 x 375 pixels, but the image has 80 x 60; "
            "give the image that they were drawn on",
        ),
    ],
)
def test_annotation_that_cannot_be_used_is_skipped(tmp_path, options, name, reason):
    add_voc(tmp_path, "1", DOG)
    spec = add_voc(tmp_path, "2", **options)
    images = read(spec)
    assert names(images) == ["1.jpg"]
    assert skipped(images) == {name: reason}
    assert said(read, spec, strict=True) == f"{name}: {reason} (--strict skips nothing)."


def test_image_that_cannot_be_opened_is_skipped(tmp_path):
    add_voc(tmp_path, "1", DOG)
    spec = add_voc(tmp_path, "2", DOG)
    (tmp_path / "JPEGImages" / "2.jpg").write_text("a letter")
    assert skipped(read(spec))["2.jpg"].startswith("this is not an image that can be read; ")


def test_box_one_pixel_outside_is_clipped(tmp_path):
    images = read(add_voc(tmp_path, "1", ("dog", -0.5, -1, 81, 60.9)))
    np.testing.assert_array_equal(images.boxes, [[0, 0, 80, 60]])
    np.testing.assert_array_equal(images.measure, [1])


def test_object_outside_the_crop_is_skipped(tmp_path):
    add_voc(tmp_path, "1", DOG)
    images = read(add_voc(tmp_path, "2", ("dog", 0, 0, 9, 60)), Frame(9, 9, "crop"))
    assert skipped(images) == {
        "2.jpg": "its dog lies outside the part that the network is shown; "
        "--fit squash or pad shows all of it"
    }


def test_images_are_not_decoded_by_reading_boxes(tmp_path):
    spec = add_voc(tmp_path, "1", DOG)
    file = tmp_path / "JPEGImages" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match="truncated"):
        read(spec).images[0].decode()


@pytest.mark.parametrize("flag", ["truncated", "difficult"])
def test_flagged_objects_are_skipped_if_asked(tmp_path, flag):
    add_voc(tmp_path, "1", DOG, flags=f"<{flag}>0</{flag}>")
    spec = add_voc(tmp_path, "2", DOG, flags=f"<{flag}>1</{flag}>")
    assert len(read(spec)) == 2
    asked = read(spec, strict=True, **{f"skip_{flag}": True})
    assert names(asked) == ["1.jpg"]
    assert skipped(asked) == {"2.jpg": f"its dog is marked {flag}, as asked"}


# --- COCO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["annotations", "images/train2017"])
def test_coco_gives_one_row_per_image_and_class(tmp_path, folder):
    images = read(add_coco(tmp_path, coco_parts(), folder))
    assert images.subset == ("cat", "dog", "dog")
    assert names(images) == ["a.jpg", "a.jpg", "b.jpg"]
    np.testing.assert_allclose(images.measure, [0.1, 0.1, 0.25])
    np.testing.assert_array_equal(images.boxes[2], [8, 6, 48, 36])
    assert images.left_out == ()


def test_coco_takes_the_folder_of_its_images(tmp_path):
    spec, here = add_coco(tmp_path, coco_parts(), "far/away"), tmp_path / "annotations"
    assert len(read(spec, images=tmp_path / "far" / "away")) == 3
    assert said(read, spec) == (
        f"The images of {here}/instances_train2017.json, such as b.jpg, are in none of {here}, "
        f"{here}/images, {tmp_path}/train2017, {tmp_path}/images/train2017, {here}/train2017. "
        "Give their folder: --images."
    )


def test_crowds_are_no_objects_and_make_an_image_crowded(tmp_path):
    parts = coco_parts()
    crowd = {"image_id": 7, "category_id": 18, "bbox": [0, 0, 80, 60], "iscrowd": 1}
    parts["annotations"].append(crowd)
    spec = add_coco(tmp_path, parts)
    assert names(read(spec, subset=("dog",))) == ["a.jpg"]
    largest = read(spec, subset=("dog",), objects="largest")
    np.testing.assert_allclose(largest.measure, [0.1, 0.25])


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"bbox": [1, 2, 3]}, "b.jpg", "its box [1, 2, 3] is not four numbers; fix it"),
        ({"bbox": None}, "b.jpg", "its box None is not four numbers; fix it"),
        (
            {"category_id": 99},
            "b.jpg",
            "its annotation is of category 99, which the file does not name",
        ),
        (
            {"image_id": 55},
            "image 55",
            "it is annotated, but instances_train2017.json does not list it",
        ),
    ],
)
def test_bad_annotation_of_coco_is_skipped(tmp_path, change, name, reason):
    parts = coco_parts()
    parts["annotations"][0] |= change
    images = read(add_coco(tmp_path, parts))
    assert names(images) == ["a.jpg", "a.jpg"]
    assert skipped(images) == {name: reason}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            "{",
            "{} is not JSON (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)). Give an instances file of COCO.",
        ),
        (
            {"info": {}, "images": []},
            "{} has no list of images, only images, info. Give an instances file of COCO.",
        ),
        ([1], "{} has no list of images, only list. Give an instances file of COCO."),
        (
            coco_parts() | {"categories": [{"id": 17}]},
            "{}: entry 0 of categories lacks one of id, name. Give an instances file of COCO.",
        ),
        (
            coco_parts() | {"categories": [{"id": [17], "name": "cat"}]},
            "{}: entry 0 of categories has [17] as id. Give a number or a name.",
        ),
    ],
)
def test_file_that_is_not_of_coco_is_refused(tmp_path, parts, message):
    spec = add_coco(tmp_path, parts)
    assert said(read, spec) == message.replace("{}", spec.removeprefix("coco:"), 1)
