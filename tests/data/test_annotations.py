"""Every layout is written by the test itself, with boxes whose shares are known."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from scalecut import DataError, Frame
from scalecut.data import boxes
from scalecut.data.files import identity
from tests.data.layouts import (
    CAT,
    DOG,
    EDGE,
    HIGH,
    WIDE,
    add_coco,
    add_mask,
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


@pytest.mark.parametrize(
    ("measure", "of"),
    [("area", lambda a: a), ("sqrt-area", np.sqrt), ("log-area", np.log2),
     ("pixels", lambda a: a * 100 * 100)],
)  # fmt: skip
def test_the_mean_of_several_objects_is_that_of_their_measures(tmp_path, measure, of):
    spec = add_voc(tmp_path, "1", ("dog", 70, 50, 80, 60), DOG)
    images = read(spec, objects="mean", measure=measure)
    np.testing.assert_allclose(images.measure, of(np.array([100 / 4800, 0.25])).mean())


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


def test_upright_box_stays_as_it_is(tmp_path):
    spec = add_voc(tmp_path, "1", ("dog", 6, 8, 36, 48), orientation=6, size=(60, 80))
    images = read(spec, measure="height")
    np.testing.assert_array_equal(images.boxes, [[6, 8, 36, 48]])
    np.testing.assert_allclose(images.measure, [0.5])


TURNED = (
    "its EXIF orientation 6 turns it, and its annotation does not say whether its box was drawn "
    "before or after; use an area with --fit squash, or save it upright"
)


@pytest.mark.parametrize("box", [(6, 8, 36, 48), (24, 6, 64, 36)])
def test_only_the_area_of_a_box_is_known_where_a_turn_is_not(tmp_path, box):
    """The second box lies outside of the upright image, so it was drawn on the stored one."""
    add_voc(tmp_path, "1", ("dog", 6, 8, 36, 48))
    spec = add_voc(tmp_path, "2", ("dog", *box), orientation=6, size=None)
    images = read(spec)
    np.testing.assert_allclose(images.measure, 0.25)
    np.testing.assert_array_equal(images.boxes, [(6, 8, 36, 48), [np.nan] * 4])
    assert images.box(0) == (6, 8, 36, 48) and images.box(1) is None
    assert skipped(read(spec, measure="height")) == {"2.jpg": TURNED}
    assert skipped(read(spec, Frame(9, 9, "crop"))) == {"2.jpg": TURNED}
    square = tmp_path / "square"
    add_voc(square, "2", ("dog", *box), image=False, size=(80, 80))
    draw(square / "JPEGImages" / "2.jpg", (80, 80), orientation=6)
    assert "2.jpg: " + TURNED in said(read, f"voc:{square}", measure="height")


def test_turned_tiff_is_read_as_turned_jpeg(tmp_path):
    spec = add_voc(tmp_path, "1", DOG, image=False)
    draw(tmp_path / "JPEGImages" / "1.tif", orientation=6)
    np.testing.assert_array_equal(read(spec).boxes, [[24, 8, 54, 48]])


def mirrored_box(folder, orientation):
    add_voc(folder, "1", DOG)
    return add_voc(folder, "2", DOG, orientation=orientation), {}


def mirrored_outline(folder, orientation):
    spec = add_coco(folder, coco_parts() | {"annotations": [
        {"image_id": image, "category_id": 18, "bbox": [8, 6, 40, 30],
         "segmentation": [[8, 6, 48, 6, 48, 36, 8, 36]]} for image in (7, 8)
    ]})  # fmt: skip
    draw(folder / "annotations" / "b.jpg", orientation=orientation)
    return spec, {"marks": "masks"}


def mirrored_mask(folder, orientation):
    mask = np.zeros((HIGH, WIDE), np.uint8)
    mask[6:36, 8:48] = 1
    add_mask(folder, "1", mask)
    spec = add_mask(folder, "2", mask)
    draw(folder / "images" / "2.jpg", orientation=orientation)
    return spec, {}


@pytest.mark.parametrize("mirrored", [mirrored_box, mirrored_outline, mirrored_mask])
@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("measure", ["x", "y", "height", "aspect", "centre-distance"])
def test_images_mirrored_by_exif_have_no_place_but_a_size(tmp_path, mirrored, orientation, measure):
    spec, options = mirrored(tmp_path, orientation)
    images = read(spec, measure=measure, **options)
    assert images.box(0) == DOG[1:]
    if measure in ("x", "y"):
        assert len(images) == 1
        assert f"EXIF orientation {orientation} mirrors it or turns it by half" in str(
            images.left_out
        )
    else:
        assert images.measure[0] == images.measure[1]
        assert images.box(1) is None and images.marks[1] == ()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_squares_turned_by_exif_have_an_area_but_no_box(tmp_path, orientation):
    mask = np.zeros((HIGH, HIGH), np.uint8)
    mask[6:36, 8:20] = 1
    for name in ("1", "2"):
        spec = add_mask(tmp_path, name, mask)
        draw(tmp_path / "images" / f"{name}.jpg", (HIGH, HIGH), orientation if name == "2" else 1)
    images = read(spec)
    np.testing.assert_allclose(images.measure, mask.mean())
    assert images.box(0) == (8, 6, 20, 36) and images.box(1) is None
    assert isinstance(images.marks[0], Path) and images.marks[1] == ()
    assert "whether its mask was drawn" in skipped(read(spec, measure="height"))["2.jpg"]


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
            {"text": xml(EDGE, filename="2.jpg"), "image": False},
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
            {"text": xml(EDGE, filename="2.jpg", size=(500, 375))},
            IMAGE,
            "its boxes were drawn on 500 x 375 pixels, but the image has 80 x 60; "
            "give the image that they were drawn on",
        ),
    ],
)
def test_annotation_that_cannot_be_used_is_skipped(tmp_path, options, name, reason):
    add_voc(tmp_path, "1", EDGE)
    spec = add_voc(tmp_path, "2", **options)
    images = read(spec)
    assert names(images) == ["1.jpg"]
    assert skipped(images) == {name: reason}
    assert said(read, spec, strict=True) == f"{name}: {reason} (--strict skips nothing)."


def test_image_that_cannot_be_opened_is_skipped(tmp_path):
    add_voc(tmp_path, "1", EDGE)
    spec = add_voc(tmp_path, "2", EDGE)
    (tmp_path / "JPEGImages" / "2.jpg").write_text("a letter")
    assert skipped(read(spec))["2.jpg"].startswith("this is not an image that can be read; ")


def test_box_one_pixel_outside_is_clipped(tmp_path):
    images = read(add_voc(tmp_path, "1", ("dog", -0.5, -1, 81, 60.9)))
    np.testing.assert_array_equal(images.boxes, [[0, 0, 80, 60]])
    np.testing.assert_array_equal(images.measure, [1])


def test_object_outside_the_crop_is_skipped(tmp_path):
    add_voc(tmp_path, "1", EDGE)
    images = read(add_voc(tmp_path, "2", ("dog", 0, 0, 9, 60)), Frame(9, 9, "crop"))
    assert skipped(images) == {
        "2.jpg": "its dog lies outside the part that the network is shown; "
        "--fit squash or pad shows all of it"
    }


def test_images_are_not_decoded_by_reading_boxes(tmp_path):
    spec = add_voc(tmp_path, "1", EDGE)
    file = tmp_path / "JPEGImages" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match="truncated"):
        read(spec).images[0].decode()


@pytest.mark.parametrize("flag", ["truncated", "difficult"])
def test_flagged_objects_are_skipped_if_asked(tmp_path, flag):
    add_voc(tmp_path, "1", EDGE, flags=f"<{flag}>0</{flag}>")
    spec = add_voc(tmp_path, "2", EDGE, flags=f"<{flag}>1</{flag}>")
    assert len(read(spec)) == 2
    asked = read(spec, strict=True, **{f"skip_{flag}": True})
    assert names(asked) == ["1.jpg"]
    assert skipped(asked) == {"2.jpg": f"its dog is marked {flag}, as asked"}


@pytest.mark.parametrize(
    ("text", "is_set"),
    [("1", True), (" True ", True), ("yes", True), ("0.06", True), ("2", True), ("0", False),
     ("False", False), ("Unspecified", False), ("", False), ("0.0", False), ("perhaps", False)],
)  # fmt: skip
def test_every_spelling_of_a_flag_is_known_or_stated(tmp_path, text, is_set):
    add_voc(tmp_path, "1", CAT)
    spec = add_voc(tmp_path, "2", DOG, flags=f"<truncated>{text}</truncated>")
    images = read(spec, skip_truncated=True)
    assert ("dog" in images.subset) != is_set
    known = (
        []
        if text != "perhaps"
        else ["truncated = 'perhaps' is no flag that is known (1 times), and counts as not set"]
    )
    assert images.facts.get("assumed", []) == known


# --- which label belongs to which image ----------------------------------------------------------


def test_annotation_belongs_to_the_image_of_its_own_name(tmp_path):
    add_voc(tmp_path, "1", DOG, filename="2.jpg")
    spec = add_voc(tmp_path, "2", CAT, filename="1.jpg")
    images = read(spec)
    assert dict(zip(names(images), images.subset, strict=True)) == {"1.jpg": "dog", "2.jpg": "cat"}
    assert images.facts["assumed"] == [
        "2 annotations name another file in <filename> (the first is 1.xml); each belongs to the "
        "image of its own name"
    ]
    assert said(read, spec, strict=True).startswith("Assumed: 2 annotations name another file")


@pytest.mark.parametrize(
    ("stem", "stated", "image", "encoding"),
    [
        ("a", "C:\\data\\a.jpg", "a.jpg", "utf-8"),
        ("a", "a.png", "a.jpg", "utf-8-sig"),  # stale suffix
        ("b.v2", "b.v2", "b.v2.jpg", "utf-8"),
        ("mu\u0308nze", "m\u00fcnze.jpg", "m\u00fcnze.jpg", "utf-8"),  # composed or not
        ("a", "a.jpe", "a.jpe", "utf-8"),
        ("a", "a.jfif", "a.jfif", "utf-8"),
        ("a", "a.JPG", "a.JPG", "utf-8"),
        ("n", "file:///home/x/other%20name.jpg", "other name.jpg", "utf-8"),
    ],
)
def test_names_of_all_systems_find_their_image(tmp_path, stem, stated, image, encoding):
    draw(tmp_path / "drawn.jpg")
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "drawn.jpg").rename(tmp_path / "JPEGImages" / image)
    text = xml(DOG, filename=stated).replace("<annotation>", "<annotation xmlns='urn:x'>")
    add_voc(tmp_path, stem, text="", image=False)
    (tmp_path / "Annotations" / f"{stem}.xml").write_text(text, encoding=encoding)
    assert names(read(f"voc:{tmp_path}")) == [image]


def test_sizes_may_be_text_or_fractions(tmp_path):
    images = read(add_voc(tmp_path, "1", EDGE, size=("80.0", "60.0")))
    assert (images.measure[0], images.facts) == (0.25, {})
    images = read(add_voc(tmp_path, "1", EDGE, size=None))
    assert images.facts["assumed"] == [
        "1 annotations do not state the size of their image (the first is that of 1.jpg); "
        "their boxes are taken to be drawn on it as it is"
    ]


@pytest.mark.parametrize("suffix", [".XML", ".Xml"])
def test_annotations_of_any_case_are_read(tmp_path, suffix):
    for name in "ab":
        spec = add_voc(tmp_path, name, DOG)
    file = tmp_path / "Annotations" / "b.xml"
    file.rename(file.with_suffix(suffix))
    assert names(read(spec)) == ["a.jpg", "b.jpg"]


def other_suffix(folder):
    add_voc(folder, "1", DOG)
    draw(folder / "JPEGImages" / "2.jpg")
    (folder / "JPEGImages" / "2.jpg").rename(folder / "JPEGImages" / "2.nrrd")
    return add_voc(folder, "2", DOG, image=False, filename="2.nrrd")


def test_suffix_that_is_not_read_is_named(tmp_path):
    assert skipped(read(other_suffix(tmp_path))) == {
        "Annotations/2.xml": "2.nrrd is a volume; convert it to NIfTI with SimpleITK"
    }


def two_of_a_name(folder):
    draw(folder / "JPEGImages" / "old" / "2.jpg")
    return add_voc(folder, "2", DOG)


def two_annotations(folder):
    add_voc(folder, "1", DOG)
    return add_voc(folder, "2", DOG, image=False, filename="1.jpg")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_of_a_name, "2.jpg could be 2.jpg or old/2.jpg of {}/JPEGImages. Keep one, give the "
         "folder of the right ones (--images), or name them apart."),
        (two_annotations, "1.jpg is annotated twice, in 1.xml and 2.xml. Keep one annotation per "
         "image."),
    ],
)  # fmt: skip
def test_two_labels_or_images_are_refused(tmp_path, make, message):
    assert said(read, make(tmp_path)) == message.format(tmp_path)


def changed(part, number, **entry):
    parts = coco_parts()
    parts[part][number] |= entry
    return parts


def added(part, **entry):
    parts = coco_parts()
    parts[part].append(entry)
    return parts


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (changed("images", 1, id="7"), "the id 7 names two images, b.jpg and a.jpg, so annotations "
         "could be of either. Number the images of merged files anew."),
        (added("images", id=70, file_name="b.jpg"), "b.jpg is listed twice, with the ids 7 and 70. "
         "Join the two entries, or remove one with its annotations."),
        (added("categories", id=17.0, name="cow"), "the id 17 names two categories, cat and cow. "
         "Give each category an id of its own."),
    ],
)  # fmt: skip
def test_ids_that_could_mean_two_things_are_refused(tmp_path, parts, message):
    spec = add_coco(tmp_path, parts)
    assert said(read, spec) == f"{spec.removeprefix('coco:')}: {message}"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (1, "1", True), (1.0, " 1 ", True), ("01", 1, True), ("-1.0", -1, True),
        (1e16, 10**16, True),
        ("1_11", "11_1", False), (2**53, 2**53 + 1, False), (str(2**53), str(2**53 + 1), False),
        ("1e3", 1000, False), ("\uff11", 1, False), ("nan", "inf", False), ("a", "A", False),
    ],
)  # fmt: skip
def test_ids_are_the_same_by_value_and_to_the_last_digit(one, other, is_same):
    assert (identity(one) == identity(other)) is is_same


OUTLINE = [[8, 6, 48, 6, 48, 36, 8, 36]]


@pytest.mark.parametrize(
    ("parts", "assumed"),
    [
        (changed("annotations", 0, image_id="7", category_id=18.0), []),
        (changed("images", 0, width="80", height=60.0), []),
        (changed("images", 0, file_name="train\\b.jpg"), []),
        (changed("images", 0, file_name="/srv/up/b.jpg"), []),
        (changed("images", 0, file_name="https://x.invalid/up/b.jpg?size=full"), []),
        (added("annotations", **coco_parts()["annotations"][0]), ["1 annotations occur twice in "
         "one place, and count once"]),
        (changed("annotations", 0, bbox=[0, 0, 0, 0], segmentation=OUTLINE), ["1 annotations have "
         "an outline but no box (the first is of b.jpg), and get the box around it"]),
        (changed("annotations", 0, area=9999), ["1 annotations state an area larger than their box "
         "(the first is of image 7), and their boxes count"]),
    ],
)  # fmt: skip
def test_coco_of_all_tools_gives_the_same_rows(tmp_path, parts, assumed):
    images = read(add_coco(tmp_path, parts))
    np.testing.assert_allclose(images.measure, [0.1, 0.1, 0.25])
    np.testing.assert_array_equal(images.boxes[2], [8, 6, 48, 36])
    assert images.facts.get("assumed", []) == assumed


# --- conventions of boxes ------------------------------------------------------------------------

SHARES = [(8 / 80, 6 / 60, 48 / 80, 36 / 60), (0.5, 0.5, 1, 1)]
PIXELS = [(8, 6, 48, 36), (40, 30, 80, 60)]
CENTRES = [(28, 21, 40, 30), (60, 45, 40, 30)]


@pytest.mark.parametrize(
    ("boxes", "asked", "message"),
    [
        (SHARES, ("normalised",), "All 2 boxes of {} (the first is of 1.jpg) lie between 0 and 1, "
         "so they may be shares of width and height or pixels. Choose --boxes normalised, or xyxy "
         "for pixels."),
        ([(x, y, right - x, bottom - y) for x, y, right, bottom in PIXELS], ("xywh",),
         "1 of 2 boxes of {} (the first is of 2.jpg) do not fit their images as corners "
         "x1, y1, x2, y2, but all fit as x, y, width, height. Choose --boxes xywh, or xyxy to "
         "skip those that do not fit."),
        (CENTRES, ("cxcywh",), "1 of 2 boxes of {} (the first is of 2.jpg) do not fit their images "
         "as corners x1, y1, x2, y2, but all fit as centre x, centre y, width, height. Choose "
         "--boxes cxcywh, or xyxy to skip those that do not fit."),
        ([(x / 80, y / 60, w / 80, h / 60) for x, y, w, h in CENTRES], ("cxcywh", "normalised"),
         "All 2 boxes of {} (the first is of 1.jpg) lie between 0 and 1, so they may be shares of "
         "width and height or pixels. Choose --boxes normalised, or xyxy for pixels."),
    ],
)  # fmt: skip
def test_boxes_of_another_convention_are_refused_and_converted(tmp_path, boxes, asked, message):
    for number, box in enumerate(boxes, start=1):
        spec = add_voc(tmp_path, str(number), ("dog", *box))
    assert said(read, spec) == message.format(tmp_path)
    np.testing.assert_allclose(read(spec, boxes=asked).boxes, PIXELS)


def test_corners_that_may_be_pixels_counted_from_1_are_stated_and_converted(tmp_path):
    for number, (left, top, right, bottom) in enumerate(PIXELS, start=1):
        spec = add_voc(tmp_path, str(number), ("dog", left + 1, top + 1, right, bottom))
    found = read(spec)
    larger = (40 * 30) / (39 * 29) - 1  # of both
    assert any(
        f"corners of 2 boxes are edges in pixels; as pixels counted from 1, both in the box, which "
        f"PASCAL VOC means, their median area is {larger:.2g} larger" in statement
        for statement in found.facts["assumed"]
    ), found.facts
    np.testing.assert_array_equal(read(spec, boxes=("inclusive",)).boxes, PIXELS)
    assert "--boxes xyxy" in said(read, spec, strict=True)
    read(spec, strict=True, boxes=("xyxy",))
    for number in ("4", "5"):  # half of all have fractions
        add_voc(tmp_path / "parts", number, ("dog", 1, 1, 40, 30))
        spec_of_parts = add_voc(tmp_path / "parts", f"{number}0", ("dog", 1.5, 1, 40, 30))
    assert "assumed" not in read(spec_of_parts).facts
    add_voc(tmp_path, "3", ("dog", 0, 5, 40, 30))  # an edge at 0 is no pixel
    assert "assumed" not in read(spec).facts
    assert "Omit the others" in said(read, spec, boxes=("inclusive", "xywh"))
    coco = add_coco(tmp_path / "coco", coco_parts())
    assert "give --boxes xyxy,inclusive if they are corners" in said(
        read, coco, boxes=("inclusive",)
    )
    shares = add_voc(tmp_path / "shares", "1", ("dog", 0.1, 0.1, 0.6, 0.6))
    assert "lie between 0 and 1" in said(read, shares, boxes=("inclusive",))


def test_every_convention_that_fits_is_named(tmp_path):
    spec = add_voc(tmp_path, "1", ("dog", 40, 30, 20, 20))
    assert said(read, spec) == (
        f"1 of 1 boxes of {tmp_path} (the first is of 1.jpg) do not fit their images as corners "
        "x1, y1, x2, y2, but all fit as x, y, width, height and as centre x, centre y, width, "
        "height. Choose --boxes xywh, cxcywh, or xyxy to skip those that do not fit."
    )


def test_boxes_of_smaller_copies_are_refused(tmp_path):
    parts = coco_parts()
    for note in parts["annotations"]:
        x, y, width, height = note["bbox"]
        note |= {"bbox": [x / 2, y / 2, width / 2, height / 2], "area": width * height}
    spec = add_coco(tmp_path, parts)
    assert said(read, spec) == (
        f"3 of 3 annotations of {spec.removeprefix('coco:')} state an area larger than their box "
        "(the first is of image 7), as if boxes were drawn on smaller copies of the images. Give "
        "these images, or --boxes xywh to use the boxes."
    )
    np.testing.assert_allclose(read(spec, boxes=("xywh",)).measure, [0.025, 0.025, 0.0625])


@pytest.mark.parametrize("size", [(WIDE, HIGH), None])
def test_boxes_that_all_lie_in_the_upper_left_quarter_are_refused(tmp_path, size):
    for number in range(10):
        spec = add_voc(tmp_path, str(number), ("dog", number, 3, 10 + number, 30), size=size)
    found = said(read, spec)
    assert found == (
        f"All 10 boxes of {tmp_path} (the first is of 0.jpg) lie in the upper left quarter of "
        "their images, as if they were drawn on smaller copies, or in per cent. Convert them, or "
        "choose --boxes xyxy to use them as they are."
    )
    add_voc(tmp_path, "none", ("dog", 3, 3, 10, 30), size=size)
    (tmp_path / "JPEGImages" / "none.jpg").write_text("no image")
    assert "All 11 boxes" in said(read, spec)
    np.testing.assert_allclose(read(spec, boxes=("xyxy",)).measure, 10 * 27 / (WIDE * HIGH))
    assert len(read(add_voc(tmp_path, "9", ("dog", 9, 3, 50, 30), size=size))) == 10


def test_corners_in_coco_are_refused_and_converted(tmp_path):
    parts = coco_parts()
    parts["images"], parts["annotations"] = parts["images"][:2], parts["annotations"][:2]
    parts["annotations"][0]["bbox"], parts["annotations"][1]["bbox"] = PIXELS[1], PIXELS[0]
    spec = add_coco(tmp_path, parts)
    assert "Choose --boxes xyxy, or xywh to skip" in said(read, spec)
    np.testing.assert_allclose(read(spec, boxes=("xyxy",)).boxes, PIXELS)


# --- COCO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["annotations", "images/train2017"])
def test_coco_gives_one_row_per_image_and_class(tmp_path, folder):
    images = read(add_coco(tmp_path, coco_parts(), folder))
    assert images.subset == ("cat", "dog", "dog")
    assert names(images) == ["a.jpg", "a.jpg", "b.jpg"]
    np.testing.assert_allclose(images.measure, [0.1, 0.1, 0.25])
    np.testing.assert_array_equal(images.boxes[2], [8, 6, 48, 36])
    assert skipped(images) == {"bare.jpg": "it has no annotation"}


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
    assert largest.facts["stated"] == ["1 annotations are crowds (iscrowd), which are not measured"]


@pytest.mark.parametrize("objects", ["single", "largest", "mean"])
def test_an_image_of_crowds_alone_is_listed(tmp_path, objects):
    parts = coco_parts()
    parts["annotations"][0]["iscrowd"] = 1
    parts["annotations"].append({**parts["annotations"][0], "bbox": [0, 0, 9, 9]})
    spec = add_coco(tmp_path, parts)
    images = read(spec, objects=objects)
    assert names(images) == ["a.jpg", "a.jpg"]
    assert skipped(images)["b.jpg"] == "its dog is a crowd (iscrowd), no single object"


def test_headers_are_opened_once_per_image_to_check_boxes(tmp_path, monkeypatch):
    objects = [("dog", number, 3, 10 + number, 30) for number in range(9)]
    for name in "12":
        spec = add_voc(tmp_path, name, *objects, size=None)
    opened = []
    monkeypatch.setattr(boxes, "header", lambda file, _: opened.append(file) or (WIDE, HIGH, 1))
    assert "All 18 boxes" in said(read, spec)
    assert len(opened) == len(set(opened)) == 2


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
    assert skipped(images)[name] == reason


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


# --- per cent, and annotations that occur twice ---------------------------------------------------

GROUND = {(80, 60): 24, (160, 150): 24, (190, 300): 12}  # sizes of images, and how many


def shares(n, reach=0.98):
    """Boxes as shares of width and height, of which one reaches far in both directions."""
    rng = np.random.default_rng(n)
    left, top = rng.uniform(0.01, 0.5, (2, n))
    width, height = rng.uniform(0.1, 0.45, (2, n))
    left[0], width[0], top[0], height[0] = 0.5, reach - 0.5, 0.4, reach - 0.4
    return np.round(np.stack([left, top, left + width, top + height], axis=1), 4)


def voc_of(folder, size, found):
    for number, box in enumerate(found):
        spec = add_voc(folder, f"{number:02}", ("dog", *box), size=size)
        draw(folder / "JPEGImages" / f"{number:02}.jpg", size=size)
    return spec


@pytest.mark.parametrize("size", GROUND)
def test_boxes_in_per_cent_are_refused_and_converted(tmp_path, size):
    found = shares(GROUND[size])
    spec = voc_of(tmp_path, size, 100 * found)
    assert said(read, spec) == (
        f"All {len(found)} boxes of {tmp_path} (the first is of 00.jpg) lie between 0 and 100, as "
        "if they were in per cent. Choose --boxes xyxy,percent, or xyxy for pixels."
    )
    measure = read(spec, boxes=("xyxy", "percent")).measure
    np.testing.assert_allclose(measure, (found[:, 2:] - found[:, :2]).prod(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "scale", "n", "rounded"),
    [
        ((160, 150), (160, 150), 24, False),  # pixels that reach beyond 100
        ((104, 104), (100, 100), 24, False),  # images that are hardly larger
        ((160, 150), (100, 100), 24, True),  # whole numbers
        ((160, 150), (100, 100), 9, False),  # few
        ((80, 60), (80, 60), 24, False),
    ],
)
def test_boxes_that_can_be_pixels_are_pixels(tmp_path, size, scale, n, rounded):
    found = shares(n) * np.array([*scale, *scale])
    found = found.round() if rounded else found
    images = read(voc_of(tmp_path, size, found))
    expected = (found[:, 2:] - found[:, :2]).prod(axis=1) / (size[0] * size[1])
    np.testing.assert_allclose(images.measure, expected, rtol=1e-6)


def test_yolo_in_per_cent_is_refused_and_converted(tmp_path):
    draw(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 35 35 50 50")
    spec = f"yolo:{tmp_path}"
    assert "cxcywh,percent for per cent" in said(read, spec)
    np.testing.assert_allclose(read(spec, boxes=("cxcywh", "percent")).boxes, [DOG[1:]])


@pytest.mark.parametrize("objects", ["single", "mean"])
def test_an_annotation_that_occurs_twice_counts_once_in_every_format(tmp_path, objects):
    box = "<box label='dog' xtl='8' ytl='6' xbr='48' ybr='36'/>"
    folders = {name: tmp_path / name for name in ("voc", "labelme", "cvat", "yolo")}
    for folder in folders.values():
        draw(folder / "images" / "a.jpg")
    (folders["voc"] / "a.xml").write_text(xml(EDGE, EDGE, filename="a.jpg"))
    shape = {"label": "dog", "points": [[8, 6], [48, 36]], "shape_type": "rectangle"}
    about = {"shapes": [shape] * 2, "imagePath": "a.jpg", "imageWidth": 80, "imageHeight": 60}
    (folders["labelme"] / "a.json").write_text(json.dumps(about))
    (folders["cvat"] / "a.xml").write_text(
        f"<a><image name='a.jpg' width='80' height='60'>{box * 2}</image></a>"
    )
    (folders["yolo"] / "labels").mkdir()
    (folders["yolo"] / "labels" / "a.txt").write_text("0 0.35 0.35 0.5 0.5\n" * 2)
    for name, folder in folders.items():
        place = folder / "a.xml" if name == "cvat" else folder
        images = read(f"{name}:{place}", objects=objects)
        np.testing.assert_allclose(images.measure, 0.25)
        assert images.facts["assumed"] == ["1 annotations occur twice in one place, and count once"]


def test_shapes_of_labelme_that_are_not_known_are_not_dropped(tmp_path):
    draw(tmp_path / "a.jpg")
    shapes = [
        {"label": "dog", "points": [[8, 6], [48, 36]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "rotation"},
    ]
    about = {"shapes": shapes, "imagePath": "a.jpg", "imageWidth": 80, "imageHeight": 60}
    (tmp_path / "a.json").write_text(json.dumps(about))
    assert said(read, f"labelme:{tmp_path}") == (
        f"Nothing in {tmp_path} can be used. 1 were skipped, the first is a.json: its dog has the "
        "shape 'rotation', which is not measured; redraw it."
    )


def test_labels_of_yolo_without_image_are_listed(tmp_path):
    draw(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    for name in "ab":
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.35 0.35 0.5 0.5")
    (tmp_path / "labels" / "classes.txt").write_text("dog")
    (tmp_path / "obj.names").write_text("dog\n")
    images = read(f"yolo:{tmp_path}")
    assert images.subset == ("dog",)
    assert skipped(images) == {"labels/b.txt": "there is no image for these labels; add it"}
