"""Every layout is written by the test itself, with boxes whose shares are known."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from scalecut.data.annotations import read_images
from scalecut.data.measures import Frame
from scalecut.errors import DataError

SQUARE = Frame(100, 100)
WIDE, HIGH = 80, 60  # of the made-up pictures
DOG = ("dog", 8, 6, 48, 36)  # a quarter of the picture, half its height
CAT = ("cat", 0, 0, 8, 60)  # a tenth of it, all its height


def draw(path, size=(WIDE, HIGH), orientation=1, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    PIL.Image.new("RGB", size, (seed, 90, 9)).save(path, exif=tags)


def xml(*objects, filename="", size=(WIDE, HIGH), flags=""):
    edges = ("xmin", "ymin", "xmax", "ymax")
    marked = ""
    for kind, *box in objects:
        corners = "".join(f"<{e}>{value}</{e}>" for e, value in zip(edges, box, strict=True))
        marked += f"<object><name>{kind}</name>{flags}<bndbox>{corners}</bndbox></object>"
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{stated}{marked}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """Adds a picture and its annotation to a folder in VOC's layout, and gives the folder."""
    folder = tmp_path / "zoo"

    def add(name, *objects, text=None, orientation=1, picture=True, stored=(WIDE, HIGH), **options):
        if picture:
            draw(folder / "JPEGImages" / f"{name}.jpg", stored, orientation)
        note = folder / "Annotations" / f"{name}.xml"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(text or xml(*objects, filename=f"{name}.jpg", **options))
        return folder

    return add


def names(images):
    return [image.name for image in images.images]


def reason(images):
    """The one thing that was left out, and why."""
    assert len(images.left_out) == 1
    return images.left_out[0].name, images.left_out[0].reason


def test_voc_gives_a_row_for_each_class_of_an_image(voc):
    voc("2", DOG, CAT)
    folder = voc("1", DOG)
    images = read_images(f"voc:{folder}", SQUARE)
    assert images.subset == ("cat", "dog", "dog")
    assert names(images) == ["2.jpg", "1.jpg", "2.jpg"]
    assert images.group == ("2.jpg", "1.jpg", "2.jpg")
    np.testing.assert_allclose(images.measure, [0.1, 0.25, 0.25])
    np.testing.assert_array_equal(images.boxes, [CAT[1:], DOG[1:], DOG[1:]])
    assert (images.measure_name, images.left_out) == ("area", ())
    assert images.images[0].decode().size == (WIDE, HIGH)


def test_listing_tells_how_many_pictures_are_done(voc):
    voc("1", DOG)
    folder, told = voc("2", CAT), []
    read_images(f"voc:{folder}", SQUARE, progress=lambda *args: told.append(args))
    assert told == [("listing", 1, 2), ("listing", 2, 2)]


def test_subsets_that_are_asked_for_are_read(voc):
    folder = voc("1", DOG, CAT, ("cow", 1, 1, 9, 9))
    assert read_images(f"voc:{folder}", SQUARE, subsets=("dog", "cat")).subset == ("cat", "dog")


@pytest.mark.parametrize(
    ("measure", "value"),
    [("area", 0.25), ("sqrt-area", 0.5), ("log-area", -2), ("height", 0.5), ("pixels", 2500)],
)
def test_measure_is_the_one_asked_for(voc, measure, value):
    images = read_images(f"voc:{voc('1', DOG)}", SQUARE, measure=measure)
    assert (images.measure_name, images.measure[0]) == (measure, pytest.approx(value))


@pytest.mark.parametrize(
    ("fit", "area"), [("squash", 1200 / 4800), ("crop", 38 * 30 / 3600), ("pad", 1200 / 6400)]
)
def test_measure_follows_the_frame(voc, fit, area):
    images = read_images(f"voc:{voc('1', DOG)}", Frame(9, 9, fit))  # crop: columns 10 to 70
    np.testing.assert_allclose(images.measure, [area])


@pytest.mark.parametrize(
    ("objects", "areas"),
    [("single", [0.25]), ("largest", [0.25, 0.25]), ("mean", [0.25, (0.25 + 100 / 4800) / 2])],
)
def test_several_objects_count_as_asked(voc, objects, areas):
    voc("1", DOG)
    folder = voc("2", ("dog", 70, 50, 80, 60.5), DOG)  # 10 x 10 of the first lies inside
    images = read_images(f"voc:{folder}", SQUARE, objects=objects)
    np.testing.assert_allclose(images.measure, areas)
    assert (images.boxes is None) == (objects == "mean")
    assert images.left_out == ()  # to have two dogs is no fault


def test_boxes_of_imagenet_find_their_pictures(tmp_path):
    for wnid in ("n02058221", "n02084071"):
        draw(tmp_path / "Images" / wnid / f"{wnid}_18.JPEG")
        draw(tmp_path / "Images" / wnid / "same.JPEG")
        notes = tmp_path / "Annotations" / wnid
        notes.mkdir(parents=True)
        stated = {f"{wnid}_18": f"{wnid}_18", "same": "%s"}  # both occur in ImageNet
        for stem, filename in stated.items():
            (notes / f"{stem}.xml").write_text(xml((wnid, *DOG[1:]), filename=filename))
    images = read_images(f"voc:{tmp_path}", SQUARE)
    assert images.left_out == ()
    assert images.subset == ("n02058221",) * 2 + ("n02084071",) * 2
    assert names(images)[1:3] == [
        "Images/n02058221/same.JPEG",
        "Images/n02084071/n02084071_18.JPEG",
    ]


def test_annotations_may_lie_beside_their_pictures(tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text(xml(DOG, filename="C:\\photos\\a.jpg"))
    assert names(read_images(f"voc:{tmp_path}", SQUARE)) == ["a.jpg"]


def test_pictures_may_lie_in_another_folder(voc, tmp_path):
    folder = voc("1", DOG, picture=False)
    draw(tmp_path / "elsewhere" / "1.png")
    images = read_images(f"voc:{folder}", SQUARE, images_folder=tmp_path / "elsewhere")
    assert names(images) == ["1.png"]


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("convention", ["stored", "upright", "unsaid"])
def test_box_and_picture_agree_after_turning(voc, orientation, convention):
    """The dog lies at the upper left of the upright picture, 60 wide and 80 high."""
    upright = (6, 8, 36, 48)
    stored = {6: (8, 24, 48, 54), 8: (32, 6, 72, 36)}[orientation]
    box = stored if convention == "stored" else upright
    size = {"stored": (80, 60), "upright": (60, 80), "unsaid": None}[convention]
    folder = voc("1", ("dog", *box), orientation=orientation, size=size)
    images = read_images(f"voc:{folder}", SQUARE, measure="height")
    assert images.images[0].decode().size == (60, 80)
    np.testing.assert_array_equal(images.boxes, [upright])
    np.testing.assert_allclose(images.measure, [0.5])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_box_lies_on_the_object_in_the_decoded_picture(voc, orientation):
    folder = voc("1", DOG, orientation=orientation)
    stored = PIL.Image.new("RGB", (WIDE, HIGH))
    stored.paste((255, 255, 255), DOG[1:])
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    stored.save(folder / "JPEGImages" / "1.jpg", quality=100, exif=tags)
    images = read_images(f"voc:{folder}", SQUARE)
    white = np.asarray(images.images[0].decode().convert("L")) > 128
    rows, columns = np.nonzero(white)
    expected = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(images.boxes[0], expected)


def test_half_turns_leave_the_box_as_it_is(voc):
    images = read_images(f"voc:{voc('1', DOG, orientation=3)}", SQUARE)
    np.testing.assert_array_equal(images.boxes, [DOG[1:]])


BOMB = '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
HOSTILE = (
    "its XML declares a document type or entities, which no annotation needs; "
    "remove the declaration if you trust the file"
)
NO_BOX = "its object 1 (dog) has no box of four numbers; give xmin, ymin, xmax and ymax"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB + "<annotation><filename>&b;</filename></annotation>", HOSTILE),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><annotation/>', HOSTILE),
        (
            "<annotation><object>",
            "its XML is broken (no element found: line 1, column 20); mend or remove it",
        ),
        ("<annotation/>", "it has no object with a box; draw one, or remove the file"),
        ("<annotation><object><name>dog</name></object></annotation>", NO_BOX),
        (xml(("dog", 1, 1, "wide", 9)), NO_BOX),
        (xml(("", 1, 1, 5, 9)), "its object 1 has no name; give its class"),
    ],
)
def test_bad_annotation_is_left_out(voc, text, why):
    voc("1", DOG)
    images = read_images(f"voc:{voc('2', text=text)}", SQUARE)
    assert names(images) == ["1.jpg"]
    assert reason(images) == ("Annotations/2.xml", why)


def test_annotation_without_picture_is_left_out(voc):
    voc("1", DOG)
    images = read_images(f"voc:{voc('2', DOG, picture=False)}", SQUARE)
    assert reason(images) == (
        "Annotations/2.xml",
        "there is no picture called 2.jpg; add it, or give its folder",
    )


def test_picture_that_could_be_either_of_two_is_left_out(voc):
    voc("1", DOG)
    folder = voc("2", DOG)
    draw(folder / "JPEGImages" / "old" / "2.jpg")
    assert reason(read_images(f"voc:{folder}", SQUARE)) == (
        "Annotations/2.xml",
        "2 pictures are called 2.jpg; give the folder of the right ones",
    )


@pytest.mark.parametrize(
    ("box", "size", "why"),
    [
        (
            (10, 20, 500, 50),
            (WIDE, HIGH),
            "box 10 20 500 50 reaches outside the image of 80 x 60; mend the annotation, "
            "or give the image that it was drawn on",
        ),
        (
            (50, 20, 10, 50),
            (WIDE, HIGH),
            "box 50 20 10 50 is empty: its right and bottom must lie beyond its left and top; "
            "mend the annotation",
        ),
        (
            DOG[1:],
            (500, 375),
            "its boxes were drawn on 500 x 375 pixels, but the picture has 80 x 60; "
            "give the picture that they were drawn on",
        ),
    ],
)
def test_box_that_does_not_fit_its_picture_is_left_out(voc, box, size, why):
    voc("1", DOG)
    folder = voc("2", ("dog", *box), size=size)
    images = read_images(f"voc:{folder}", SQUARE)
    assert names(images) == ["1.jpg"]
    assert reason(images) == ("2.jpg", why)
    with pytest.raises(DataError) as error:
        read_images(f"voc:{folder}", SQUARE, strict=True)
    assert str(error.value) == f"2.jpg: {why} (strict, so nothing is left out)."


def test_box_a_pixel_too_far_is_clipped(voc):
    images = read_images(f"voc:{voc('1', ('dog', -0.5, -1, 81, 60.9))}", SQUARE)
    np.testing.assert_array_equal(images.boxes, [[0, 0, 80, 60]])
    np.testing.assert_array_equal(images.measure, [1])


def test_object_outside_the_crop_is_left_out(voc):
    voc("1", DOG)
    images = read_images(f"voc:{voc('2', ('dog', 0, 0, 9, 60))}", Frame(9, 9, "crop"))
    assert reason(images) == (
        "2.jpg",
        "its dog lies outside the part that the network is shown; "
        "--fit squash or pad shows all of it",
    )


def test_picture_that_cannot_be_opened_is_left_out(voc):
    voc("1", DOG)
    folder = voc("2", DOG)
    (folder / "JPEGImages" / "2.jpg").write_text("a letter")
    name, why = reason(read_images(f"voc:{folder}", SQUARE))
    assert (name, why.partition(";")[0]) == ("2.jpg", "this is not an image that can be read")


def test_pictures_are_not_decoded_by_reading(voc):
    folder = voc("1", DOG)
    file = folder / "JPEGImages" / "1.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (HIGH, WIDE, 3)).astype(np.uint8)
    PIL.Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-1000])
    images = read_images(f"voc:{folder}", SQUARE)
    with pytest.raises(DataError, match="truncated"):
        images.images[0].decode()


@pytest.mark.parametrize("flag", ["truncated", "difficult"])
def test_flagged_objects_are_skipped_if_asked(voc, flag):
    voc("1", DOG, flags=f"<{flag}>0</{flag}>")
    folder = voc("2", DOG, flags=f"<{flag}>1</{flag}>")
    assert len(read_images(f"voc:{folder}", SQUARE)) == 2
    asked = read_images(f"voc:{folder}", SQUARE, strict=True, **{f"skip_{flag}": True})
    assert names(asked) == ["1.jpg"]
    assert reason(asked) == ("2.jpg", f"its dog is marked {flag}, as asked")


def coco_parts():
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": WIDE, "height": HIGH},
            {"id": 8, "file_name": "a.jpg", "width": WIDE, "height": HIGH},
            {"id": 9, "file_name": "bare.jpg"},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [8, 6, 40, 30], "iscrowd": 0},
            {"image_id": 8, "category_id": 18, "bbox": [0, 0, 40, 12], "iscrowd": 0},
            {"image_id": 8, "category_id": 17, "bbox": [0, 0, 8, 60]},
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }


@pytest.fixture
def coco(tmp_path):
    """Writes an instances file, its pictures where they are asked for."""

    def write(parts, pictures="annotations"):
        for name in ("a.jpg", "b.jpg", "bare.jpg"):
            draw(tmp_path / pictures / name)
        file = tmp_path / "annotations" / "instances_train2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(parts if isinstance(parts, str) else json.dumps(parts))
        return file

    return write


@pytest.mark.parametrize(
    "pictures", ["annotations", "annotations/images", "train2017", "images/train2017"]
)
def test_coco_gives_a_row_for_each_class_of_an_image(coco, pictures):
    images = read_images(f"coco:{coco(coco_parts(), pictures)}", SQUARE)
    assert images.subset == ("cat", "dog", "dog")
    assert names(images) == ["a.jpg", "a.jpg", "b.jpg"]
    np.testing.assert_allclose(images.measure, [0.1, 0.1, 0.25])
    np.testing.assert_array_equal(images.boxes[2], [8, 6, 48, 36])
    assert images.left_out == ()


def test_coco_takes_the_folder_of_its_images(coco, tmp_path):
    file = coco(coco_parts(), "far/away")
    images = read_images(f"coco:{file}", SQUARE, images_folder=tmp_path / "far" / "away")
    assert len(images) == 3
    with pytest.raises(DataError) as error:
        read_images(f"coco:{file}", SQUARE)
    here = file.parent
    assert str(error.value) == (
        f"The images of {file}, such as b.jpg, are in none of {here}, {here}/images, "
        f"{tmp_path}/train2017, {tmp_path}/images/train2017, {here}/train2017. "
        "Say where they are: images_folder."
    )


def test_crowds_are_no_objects_and_make_an_image_crowded(coco):
    parts = coco_parts()
    crowd = {"image_id": 7, "category_id": 18, "bbox": [0, 0, 80, 60], "iscrowd": 1}
    parts["annotations"].append(crowd)
    file = coco(parts)
    assert names(read_images(f"coco:{file}", SQUARE, subsets=("dog",))) == ["a.jpg"]
    largest = read_images(f"coco:{file}", SQUARE, subsets=("dog",), objects="largest")
    np.testing.assert_allclose(largest.measure, [0.1, 0.25])


@pytest.mark.parametrize("orientation", [6, 8])
def test_coco_boxes_are_turned_with_their_picture(coco, orientation):
    file = coco(coco_parts())
    draw(file.parent / "b.jpg", orientation=orientation)
    images = read_images(f"coco:{file}", SQUARE, subsets=("dog",), measure="height")
    np.testing.assert_allclose(images.measure, [0.2, 0.5])
    expected = {6: (24, 8, 54, 48), 8: (6, 32, 36, 72)}[orientation]
    np.testing.assert_array_equal(images.boxes[1], expected)


@pytest.mark.parametrize(
    ("change", "name", "why"),
    [
        ({"bbox": [1, 2, 3]}, "b.jpg", "its box [1, 2, 3] is not four numbers; mend it"),
        ({"bbox": None}, "b.jpg", "its box None is not four numbers; mend it"),
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
        (
            {"bbox": [60, 0, 40, 12]},
            "b.jpg",
            "box 60 0 100 12 reaches outside the image of 80 x 60; mend the annotation, "
            "or give the image that it was drawn on",
        ),
    ],
)
def test_bad_annotation_of_coco_is_left_out(coco, change, name, why):
    parts = coco_parts()
    parts["annotations"][0] |= change
    images = read_images(f"coco:{coco(parts)}", SQUARE)
    assert names(images) == ["a.jpg", "a.jpg"]
    assert reason(images) == (name, why)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            "{",
            "{} is no JSON (Expecting property name enclosed in double quotes: "
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
def test_file_that_is_not_of_coco_is_refused(coco, parts, message):
    file = coco(parts)
    with pytest.raises(DataError) as error:
        read_images(f"coco:{file}", SQUARE)
    assert str(error.value) == message.replace("{}", str(file), 1)


def nuclei(dtype=np.uint8):
    """Three objects: 100, 200 and 300 pixels of 4800."""
    mask = np.zeros((HIGH, WIDE), dtype)
    mask[0:10, 0:10], mask[20:40, 10:20], mask[45:60, 60:80] = 1, 2, 200
    return mask


@pytest.fixture
def masks(tmp_path):
    """Adds a picture and its mask to a folder, and gives the folder."""
    folder = tmp_path / "slides"

    def add(name, mask, kind="masks", suffix=".png"):
        draw(folder / "images" / f"{name}.jpg")
        if mask is not None:
            file = folder / kind / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(mask).save(file)
        return folder

    return add


@pytest.mark.parametrize("kind", ["masks", "labels"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("value", [1, 255])
def test_mask_of_one_value_is_one_object(masks, kind, suffix, value):
    mask = (nuclei() > 0).astype(np.uint8) * value
    images = read_images(f"masks:{masks('1', mask, kind, suffix)}", SQUARE)
    np.testing.assert_allclose(images.measure, [600 / 4800])
    assert (images.subset, images.group) == (("slides",), ("1.jpg",))
    np.testing.assert_array_equal(images.boxes, [[0, 0, 80, 60]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("objects", "pixels"), [("largest", 300), ("mean", 200)])
def test_mask_of_several_values_holds_several_objects(masks, dtype, objects, pixels):
    masks("1", (nuclei() == 2).astype(np.uint8))
    folder = masks("2", nuclei(dtype) * (1 if dtype is np.uint8 else 300))
    images = read_images(f"masks:{folder}", SQUARE, objects=objects)
    np.testing.assert_allclose(images.measure, [200 / 4800, pixels / 4800])
    assert names(read_images(f"masks:{folder}", SQUARE)) == ["1.jpg"]


def test_mask_without_background_fills_the_picture(masks):
    images = read_images(f"masks:{masks('1', np.full((HIGH, WIDE), 7, np.uint8))}", SQUARE)
    np.testing.assert_array_equal(images.measure, [1])


def test_coloured_mask_has_an_object_for_each_colour(masks):
    palette = np.zeros((201, 3), np.uint8)
    palette[[1, 2, 200]] = [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
    images = read_images(f"masks:{masks('1', palette[nuclei()])}", SQUARE, objects="mean")
    np.testing.assert_allclose(images.measure, [200 / 4800])


def test_mask_is_counted_inside_the_crop(masks):
    folder = masks("1", nuclei())
    images = read_images(f"masks:{folder}", Frame(9, 9, "crop"), objects="mean")
    np.testing.assert_allclose(images.measure, [(200 + 150) / 2 / 3600])  # the first is not seen
    largest = read_images(f"masks:{folder}", Frame(9, 9, "crop"), objects="largest")
    np.testing.assert_array_equal(largest.boxes, [[10, 20, 20, 40]])


def test_folders_under_images_are_subsets(masks):
    one = (nuclei() == 2).astype(np.uint8)
    masks("lung/1", one)
    folder = masks("breast/1", one)
    images = read_images(f"masks:{folder}", SQUARE)
    assert images.subset == ("breast", "lung")
    assert names(images) == ["breast/1.jpg", "lung/1.jpg"]
    assert read_images(f"masks:{folder}", SQUARE, subsets=("lung",)).subset == ("lung",)


PHOTOGRAPH = np.moveaxis(np.indices((HIGH, WIDE))[[0, 1, 1]], 0, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (None, "there is no mask 2.png (or .tif, .bmp, .gif); add it"),
        (
            np.zeros((HIGH, WIDE), np.uint8),
            "its mask marks no pixel; mark its object, or remove the image",
        ),
        (
            np.ones((WIDE, HIGH), np.uint8),
            "its mask has 60 x 80 pixels, the picture 80 x 60; give a mask of the same size",
        ),
        (
            PHOTOGRAPH,
            "its mask 2.png has 4800 colours, as a photograph has; "
            "give one value or colour an object",
        ),
    ],
)
def test_bad_mask_is_left_out(masks, mask, why):
    masks("1", (nuclei() > 0).astype(np.uint8))
    images = read_images(f"masks:{masks('2', mask)}", SQUARE)
    assert names(images) == ["1.jpg"]
    assert reason(images) == ("2.jpg", why)


def test_broken_mask_is_left_out(masks):
    one = (nuclei() > 0).astype(np.uint8)
    masks("1", one)
    folder = masks("2", one)
    (folder / "masks" / "2.png").write_bytes(b"")
    name, why = reason(read_images(f"masks:{folder}", SQUARE))
    assert (name, why.partition(";")[0]) == (
        "2.jpg",
        "its mask 2.png cannot be used: this is not an image that can be read",
    )


def test_table_is_read_by_its_specification(tmp_path):
    draw(tmp_path / "a.jpg")
    (tmp_path / "sizes.csv").write_text("image,measure,subset\na.jpg,17,x\n")
    images = read_images(f"csv:{tmp_path}/sizes.csv", SQUARE, subsets=("x",))
    assert (images.measure[0], images.measure_name) == (17, "measure")
    with pytest.raises(DataError) as error:
        read_images(f"csv:{tmp_path}/sizes.csv", SQUARE, measure="height")
    assert str(error.value) == (
        "A table brings its own measure, so 'height' cannot be had of it. "
        "Give no measure, or put that one into the column."
    )


KINDS = (
    "The kinds are voc: a folder with Annotations and JPEGImages; coco: an instances file, JSON; "
    "csv: a table with the columns image and measure; tar: shards with a picture and a .json with "
    "its measure a sample; masks: a folder with images and masks."
)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("photos", {}, "Data 'photos' is not of the form KIND:PATH. " + KINDS),
        ("vok:photos", {}, "Data 'vok:photos' is not of the form KIND:PATH. " + KINDS),
        ("voc:", {}, "Data 'voc:' is not of the form KIND:PATH. " + KINDS),
        (
            "voc:{}/none",
            {},
            "There is no folder {}/none. Give voc: a folder with Annotations and JPEGImages.",
        ),
        ("coco:{}", {}, "There is no file {}. Give coco: an instances file, JSON."),
        ("voc:{}", {}, "There is no XML file in {}. Give a folder with one an image."),
        (
            "masks:{}",
            {},
            "{} has no folder masks (or labels). Give one with images and masks in it.",
        ),
        (
            "voc:{}",
            {"measure": "volume"},
            "There is no measure 'volume'. Choose one of 'log-area', 'area', 'height', "
            "'pixels', 'sqrt-area', or give your own in a table: csv:FILE.",
        ),
        (
            "voc:{}",
            {"objects": "all"},
            "Objects cannot be chosen by 'all'. Choose one of 'mean', 'single', 'largest'.",
        ),
        (
            "voc:{}",
            {"images_folder": Path("nowhere")},
            "There is no folder nowhere. Give the one that holds the images.",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, spec, options, message):
    with pytest.raises(DataError) as error:
        read_images(spec.format(tmp_path), SQUARE, **options)
    assert str(error.value) == message.format(tmp_path)


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError) as error:
        read_images(f"masks:{tmp_path}", SQUARE)
    assert str(error.value) == (
        f"{tmp_path} has no folder images. Give one with images and masks in it."
    )
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError) as error:
        read_images(f"masks:{tmp_path}", SQUARE)
    assert str(error.value) == (
        f"There is no image in {tmp_path}/images. Give a folder with images in it."
    )


def test_subset_that_is_not_there_is_refused(voc):
    folder = voc("1", DOG, CAT)
    with pytest.raises(DataError) as error:
        read_images(f"voc:{folder}", SQUARE, subsets=("cat", "cot"))
    assert str(error.value) == (
        f"{folder} has no subset 'cot'. It has 2, the nearest first: 'cat', 'dog'."
    )


def test_subset_with_nothing_but_crowded_images_is_refused(voc):
    folder = voc("1", DOG, DOG, CAT)
    assert read_images(f"voc:{folder}", SQUARE).subset == ("cat",)
    with pytest.raises(DataError) as error:
        read_images(f"voc:{folder}", SQUARE, subsets=("cat", "dog"))
    assert str(error.value) == (
        f"{folder} has no image of subset 'dog' with exactly one object that can be used. "
        "--objects largest or mean takes those with several."
    )


def test_set_of_which_nothing_is_left_is_refused(voc):
    folder = voc("1", ("dog", 0, 0, 9, 60))
    with pytest.raises(DataError) as error:
        read_images(f"voc:{folder}", Frame(9, 9, "crop"), objects="largest")
    why = (
        "1 were left out, the first 1.jpg: its dog lies outside the part that the network "
        "is shown; --fit squash or pad shows all of it."
    )
    assert str(error.value) == f"{folder} has no image that can be used. {why}"
    shutil.rmtree(folder / "JPEGImages")
    with pytest.raises(DataError) as error:
        read_images(f"voc:{folder}", SQUARE)
    assert str(error.value) == (
        f"Nothing in {folder} can be used. 1 were left out, the first Annotations/1.xml: "
        "there is no picture called 1.jpg; add it, or give its folder."
    )


@pytest.fixture
def real():
    folder = os.environ.get("SCALECUT_DATA")
    if not folder:
        pytest.skip("SCALECUT_DATA is unset, so there are no real photographs to read")
    return Path(folder)


@pytest.mark.data
def test_animals_have_the_documented_numbers_and_quartiles(real):
    images = read_images(f"voc:{real}/voc-animals", SQUARE, subsets=("dog", "cat", "horse"))
    assert images.left_out == ()
    documented = {
        "cat": (430, [0.012, 0.32, 0.55, 0.76, 1.0]),
        "dog": (430, [0.005, 0.20, 0.45, 0.68, 1.0]),
        "horse": (314, [0.005, 0.22, 0.45, 0.63, 1.0]),
    }
    assert images.subsets == tuple(documented)
    for subset, (n, quartiles) in documented.items():
        measure = images.measure[np.array(images.subset) == subset]
        assert len(measure) == n
        found = np.quantile(measure, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(found, quartiles, atol=0.011)
    assert max(images.images[0].decode().size) == 400


@pytest.mark.data
def test_nuclei_have_the_mean_areas_of_their_table(real):
    lines = (real / "monuseg" / "images.csv").read_text().splitlines()[1:]
    areas = {line.split(",")[0] + ".jpg": float(line.split(",")[4]) for line in lines}
    images = read_images(
        f"masks:{real}/monuseg", Frame(1000, 1000), objects="mean", measure="pixels"
    )
    assert len(images) == len(areas) == 44
    expected = [areas[image.name] for image in images.images]
    np.testing.assert_allclose(images.measure, expected, rtol=1e-3)
