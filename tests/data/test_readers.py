"""The same two images, labelled by hand as each tool documents it, give the same rows."""

import base64
import io
import json

import numpy as np
import PIL.Image
import pytest

from scalecut import DataError
from tests.data.layouts import DOG, HIGH, WIDE, draw, names, read, said, skipped

KITE = (8, 6, 28, 36, 48, 20, 30, 8)  # an outline whose box is that of the dog
CORNERS = list(zip(KITE[::2], KITE[1::2], strict=True))


def shares(*numbers):
    return [value / (WIDE if place % 2 == 0 else HIGH) for place, value in enumerate(numbers)]


def yolo(folder, lines, data="names: [cat, dog]\n", images="images/train"):
    """Labels by image; its specification."""
    for name, text in lines.items():
        draw(folder / images / f"{name}.jpg")
        label = folder / images.replace("images", "labels") / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    if data:
        (folder / "data.yaml").write_text(data)
    return f"yolo:{folder}"


def yolo_elsewhere(folder, path):
    """Images and labels outside the folder of data.yaml, in a set whose own path has an images."""
    yolo(folder / "images" / "set", {"a": BOX, "b": BOX}, data="")
    (folder / "about").mkdir()
    (folder / "about" / "data.yaml").write_text(f"{path}train: images/train\nnames: [cat, dog]\n")
    return f"yolo:{folder}/about"


def yolo_listed(folder, text):
    """A list of images in a folder of lists, and one more image that it does not name."""
    yolo(folder, {"a": BOX, "b": BOX, "other": BOX}, images="images", data="")
    (folder / "lists").mkdir()
    (folder / "lists" / "all.txt").write_text(text)
    (folder / "data.yaml").write_text("train: lists/all.txt\nnames: [cat, dog]\n")
    return f"yolo:{folder}"


def in_latin(folder, name, **given):
    spec = yolo(folder, {"a": BOX}, **given)
    (folder / name).write_bytes("Zähne\n".encode("latin-1"))
    return spec


def in_yolo(kind, *numbers):
    return f"{kind} {' '.join(f'{value:.6f}' for value in shares(*numbers))}\n"


BOX = in_yolo(1, 28, 21, 40, 30)
OUTLINED = in_yolo(1, *KITE)
BY_BOX = "1 outlines count by the boxes around them"


def shape(kind="rectangle", points=((8, 6), (48, 36)), **more):
    return {"label": "dog", "points": points, "group_id": None, "shape_type": kind, **more}


def labelme(folder, shapes, both=False, **more):
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        draw(folder / f"{name}.jpg")
        about = {"imagePath": f"..\\x\\{name}.jpg", "imageHeight": HIGH, "imageWidth": WIDE}
        about |= {"shapes": shapes if both or name == "a" else [shape()], "imageData": None, **more}
        (folder / f"{name}.json").write_text(json.dumps(about))
    return f"labelme:{folder}"


CVAT_BOX = '<box label="dog" xtl="8" ytl="6" xbr="48" ybr="36"/>'


def cvat(folder, inside, before="", both=False):
    for name in ("a", "b"):
        draw(folder / "images" / "train" / f"{name}.jpg")
    entries = "".join(
        f'<image name="train/{name}.jpg" width="{WIDE}" height="{HIGH}">{text}</image>'
        for name, text in (("a", inside), ("b", inside if both else CVAT_BOX))
    )
    (folder / "annotations.xml").write_text(f"<annotations>{before}{entries}</annotations>")
    return f"cvat:{folder}/annotations.xml"


# what is written, and what is assumed
LAYOUTS = {
    "yolo": (lambda folder: yolo(folder, {"a": BOX, "b": BOX}), []),
    "yolo, names by number": (
        lambda folder: yolo(folder, {"a": BOX, "b": BOX}, "train: images/train\nnames: {1: dog}"),
        [],
    ),
    "yolo, Roboflow": (
        lambda folder: yolo(folder, {"a": BOX, "b": BOX},
                            "train: ../train/images\nnames: ['cat', 'dog']", "train/images"),
        [],
    ),
    "yolo, path elsewhere": (
        lambda folder: yolo_elsewhere(folder, f"path: {folder}/images/set\n"),
        [],
    ),
    "yolo, list": (lambda folder: yolo_listed(folder, "./images/a.jpg\nimages/b.jpg\n"), []),
    "yolo, list of files elsewhere": (
        lambda folder: yolo_listed(folder, f"{folder}/images/a.jpg\n\n{folder}/images/b.jpg"),
        [],
    ),
    "yolo, a split that is not there": (
        lambda folder: yolo(folder, {"a": BOX, "b": BOX},
                            "train: images/train\nval: [images/v, w]\ntest:\nnames: [cat, dog]"),
        ["the YAML file names val: images/v, val: w, not found; images are those of "
         "{}/images/train"],
    ),
    "yolo, path above": (lambda folder: yolo_elsewhere(folder, "path: ../images/set\n"), []),
    "yolo, outline": (lambda folder: yolo(folder, {"a": OUTLINED, "b": BOX}), [BY_BOX]),
    "yolo, pose": (
        lambda folder: yolo(folder, {"a": BOX.strip() + " 0.5 0.5 2", "b": BOX},
                            "names: [cat, dog]\nkpt_shape: [1, 3]"),
        [],
    ),
    "labelme": (lambda folder: labelme(folder, [shape()]), []),
    "labelme, outline": (
        lambda folder: labelme(folder, [shape("polygon", CORNERS)]),
        [BY_BOX],
    ),
    "labelme, two parts": (
        lambda folder: labelme(folder, [shape(points=((8, 6), (9, 36)), group_id=1),
                                        shape(points=((40, 6), (48, 9)), group_id=1)]),
        [],
    ),
    "labelme, a line too": (
        lambda folder: labelme(folder, [shape(), shape("line")]),
        ["1 shapes of the type line have no area, and do not count"],
    ),
    "cvat": (lambda folder: cvat(folder, CVAT_BOX), []),
    "cvat, outline": (
        lambda folder: cvat(folder, '<polygon label="dog" points="8,6;28,36;48,20;30,8"/>'),
        [BY_BOX],
    ),
    "cvat, ellipse": (
        lambda folder: cvat(folder, '<ellipse label="dog" cx="28" cy="21" rx="20" ry="15"/>'),
        [],
    ),
    "cvat, mask": (
        lambda folder: cvat(folder, '<mask label="dog" left="8" top="6" width="40" height="30"/>'),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_rows(tmp_path, name):
    write, assumed = LAYOUTS[name]
    images = read(write(tmp_path))
    assert images.subset == ("dog", "dog")
    assert [image.rpartition("/")[2] for image in names(images)] == ["a.jpg", "b.jpg"]
    np.testing.assert_allclose(images.boxes, [DOG[1:]] * 2, atol=1e-4)
    np.testing.assert_allclose(images.measure, 0.25, atol=1e-5)
    assert images.facts.get("assumed", []) == [each.format(tmp_path) for each in assumed]
    assert images.left_out == ()


def test_an_image_of_yolo_is_read_once_by_whatever_paths(tmp_path, monkeypatch):
    """Folders and a list overlap; path: in data.yaml is absolute, that of the data is not."""
    data = f"path: {tmp_path}/set\ntrain: images/train\nval: ./images\ntest: all.txt"
    yolo(tmp_path / "set", {"a": BOX, "b": BOX}, data)
    (tmp_path / "set" / "all.txt").write_text("images/train/../train/a.jpg\nimages/none.jpg\n")
    monkeypatch.chdir(tmp_path)
    images = read("yolo:set")
    assert names(images) == ["images/train/a.jpg", "images/train/b.jpg"]
    reason = "all.txt lists it, but it is not there; add it"
    assert skipped(images) == {"images/none.jpg": reason}


def test_yolo_in_two_places_is_refused(tmp_path):
    for place in ("one", "two"):
        data = f"path: {tmp_path}/one\ntrain: images/train"
        spec = yolo(tmp_path / place, {"a": BOX}, data)
    assert said(read, spec) == (
        f"images/train in the YAML file could be {tmp_path}/one/images/train or "
        f"{tmp_path}/two/images/train. Correct path: there, or give the folder of the images "
        "(--images)."
    )
    assert len(read(spec, images=tmp_path / "two" / "images")) == 1


@pytest.mark.parametrize("box", [(28, 21, 40, 30), (40, 30, 80, 60)])
def test_only_the_area_of_a_share_is_known_where_exif_turns_an_image(tmp_path, box):
    """Its labels could be those of the image as stored, or as shown."""
    spec = yolo(tmp_path, {"a": in_yolo(1, *box), "b": BOX})
    draw(tmp_path / "images" / "train" / "a.jpg", orientation=6)
    images = read(spec)
    np.testing.assert_allclose(images.measure, [box[2] * box[3] / (WIDE * HIGH), 0.25], atol=1e-5)
    assert images.box(0) is None and images.box(1) is not None
    assert skipped(read(spec, measure="height")) == {
        "images/train/a.jpg": "its EXIF orientation 6 turns it, and its annotation does not say "
        "whether its box was drawn before or after; use an area with --fit squash, or save it "
        "upright"
    }


@pytest.mark.parametrize("marks", ["boxes", "masks"])
def test_a_mask_of_labelme_includes_its_last_pixels(tmp_path, marks):
    """As labelme writes it: its points are the first and the last pixel."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.full((30, 40), True)).save(file, "PNG")
    mask = base64.b64encode(file.getvalue()).decode()
    spec = labelme(tmp_path, [shape("mask", ((8, 6), (47, 35)), mask=mask)], both=True)
    images = read(spec, marks=marks)
    np.testing.assert_array_equal(images.boxes, [DOG[1:]] * 2)
    np.testing.assert_array_equal(images.measure, 0.25)


def test_yolo_without_names_gives_numbers_and_counts_bare_images(tmp_path):
    spec = yolo(tmp_path, {"a": BOX, "b": "", "c": None}, data="")
    images = read(spec)
    assert (images.subset, names(images)) == (("1",), ["images/train/a.jpg"])
    reason = "it has no annotation"
    assert skipped(images) == {"images/train/b.jpg": reason, "images/train/c.jpg": reason}


def other_json(folder, content):
    (folder / "x.json").write_text(json.dumps(content))
    return f"coco:{folder}/x.json"


def test_a_place_whose_name_no_folder_can_have_is_not_there(tmp_path):
    data = f"names: [cat, dog]\ntrain: images/train\nval: {'a' * 5000}\n"
    assert len(read(yolo(tmp_path, {"a": BOX, "b": BOX}, data))) == 2


def nested(folder):
    spec = labelme(folder, [])
    (folder / "a.json").write_text("[" * 100_000)
    return spec


def one_label(folder):
    """Images of one name in two folders, and one text file."""
    spec = yolo(folder, {"a": BOX}, images="images")
    (folder / "images" / "a.jpg").unlink()
    for part in ("train", "val"):
        draw(folder / "images" / part / "a.jpg")
    return spec


CIRCLE = shape("circle", ((28, 21), (28, 41)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: yolo(f, {"a": "1 28 21 40 30", "b": BOX}), "1 of 2 boxes of {} (the first is of "
         "images/train/a.jpg) are larger than the image if they are shares of width and height, as "
         "its format declares. Choose --boxes cxcywh for pixels, cxcywh,percent for per cent, or "
         "cxcywh,normalised to skip those that do not fit."),
        (lambda f: yolo(f, {"a": in_yolo(1, 4, 3, 20, 30), "b": in_yolo(1, 60, 30, 80, 60)}),
         "2 of 2 boxes of {} (the first is of images/train/a.jpg) do not fit their images as "
         "centre x, centre y, width, height, but all fit as corners x1, y1, x2, y2. Choose --boxes "
         "xyxy,normalised, or cxcywh,normalised to skip those that do not fit."),
        (lambda f: in_latin(f, "classes.txt", data=""), "{}: classes.txt is no text in UTF-8 "),
        (lambda f: in_latin(f, "labels/train/a.txt"), "Nothing in {} can be used. 1 were skipped, "
         "the first is images/train/a.jpg: a.txt is no text in UTF-8 ('utf-8' "),
        (lambda f: in_latin(f, "data.yaml"), "{}/data.yaml is not YAML (data.yaml is no text in "
         "UTF-8 ('utf-8' "),
        (lambda f: yolo(f, {"a": "1 0.5 0.5 0.1"}), "Nothing in {} can be used. 1 were skipped, "
         "the first is images/train/a.jpg: line 1 of a.txt is no class with a box or an outline "
         "('1 0.5 0.5 0.1'); fix it."),
        (lambda f: yolo(f, {"a": BOX}, "names: [a\n"), "{}/data.yaml is not YAML (while parsing a "
         "flow sequence"),
        *(  # that yaml fails on
            (lambda f, given=given: yolo(f, {"a": BOX}, given), "{}/data.yaml is not YAML (")
            for given in ("nc: " + "9" * 5000, "[" * 2000, "a: !!bool b", "a: !!timestamp b",
                          "a: !!int ''", "a: 2001-99-99")
        ),
        *(
            (lambda f, given=given: yolo(f, {"a": BOX}, f"train: {given}\n"), "The train in the "
             f"YAML file of {{}} is {shown}. Give a folder of images, a list of their files "
             "(.txt), or several of these.")
            for given, shown in (("5", "'5'"), ("[5]", "'[5]'"), ("{a: b}", '"{\'a\': \'b\'}"'),
                                 ("false", "'False'"), ("data.yaml", "'data.yaml'"))
        ),
        (lambda f: yolo(f, {"a": BOX}, "- a\n"), "{}/data.yaml holds \"['a']\". Give names, and "
         "train, val and test."),
        *(
            (lambda f, names=names: yolo(f, {"a": BOX}, f"names: {names}\n"),
             f"The names in the YAML file of {{}} are {shown}, which give no class its number. "
             "Give a list, such as names: [cat, dog], or names by number.")
            for names, shown in (("cat", "'cat'"), ("5", "'5'"), ("{cat: 0}", '"{\'cat\': 0}"'),
                                 ("true", "'True'"))
        ),
        (one_label, "The label labels/a.txt could be that of images/train/a.jpg or of "
         "images/val/a.jpg. Put labels into folders of the same names as images."),
        (lambda f: yolo(f, {}), "There is no image in {}. Give a folder with images and labels, or "
         "with data.yaml."),
        (lambda f: f"labelme:{f}", "There is no JSON file in {}. Give a folder with one per "
         "image."),
        (lambda f: cvat(f, CVAT_BOX, "<track/>"), "{}/annotations.xml holds tracks of a video. "
         "Export the task of CVAT as 'CVAT for images 1.1'."),
        (lambda f: other_json(f, [{"id": 1, "data": {}, "annotations": []}]), "{}/x.json is an "
         "export of Label Studio; export it as COCO or Pascal VOC instead."),
        (lambda f: other_json(f, {"a.jpg1": {"filename": "a.jpg", "regions": []}}), "{}/x.json is "
         "a project of VIA; export it in VIA as COCO (Annotation, Export Annotations)."),
        (lambda f: other_json(f, [{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]), "{}/x.json "
         "is a list of COCO results; give the instances file that holds images and categories."),
        (lambda f: other_json(f, {"annotations": [{"segments_info": []}]}), "{}/x.json is COCO "
         "panoptic; convert it with panoptic2detection_coco_format of panopticapi."),
        (lambda f: other_json(f, {"type": "FeatureCollection", "features": []}), "{}/x.json is "
         "GeoJSON; put it into the folder masks, next to images, and give masks:DIR."),
        (lambda f: other_json(f, [{"image": "a.jpg", "annotations": []}]), "{}/x.json is CreateML; "
         "convert it to COCO with the package globox."),
        (lambda f: other_json(f, [{"data_row": {}}]), "{}/x.json is an export of Labelbox; import "
         "it with the package fiftyone, and export COCO."),
        (lambda f: other_json(f, {"items": [], "categories": {}}), "{}/x.json is Datumaro; convert "
         "it with datum convert -if datumaro -f coco."),
        (lambda f: other_json(f, {"objects": [], "size": {}}), "{}/x.json is an annotation of "
         "Supervisely; export the project there as COCO."),
        (lambda f: other_json(f, {"image": {}, "annotations": []}), "{}/x.json is one image, as of "
         "SA-1B; join the files to lists of images and annotations."),
        (lambda f: other_json(f, {"shapes": []}), "{}/x.json is one annotation of labelme; give "
         "labelme:DIR, its folder."),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_a_way(tmp_path, make, message):
    assert said(read, make(tmp_path)).startswith(message.replace("{}", str(tmp_path)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda f: labelme(f, [shape(points=((10**400, 6), (9, 36)))]), "it is no annotation of "
         "labelme; remove it"),
        (nested, "it is no annotation of labelme; remove it"),
        (lambda f: labelme(f, [shape("line")]), "it has no object with an area; draw one, or "
         "remove the file"),
        (lambda f: cvat(f, CVAT_BOX.replace("/>", ' rotation="30"/>')), "its box of dog is "
         "rotated; draw an upright one"),
        (lambda f: cvat(f, CVAT_BOX.replace('"8"', '""')), "its box of dog has no usable numbers; "
         "fix it"),
        (lambda f: cvat(f, ""), "it has no annotation"),
    ],
)  # fmt: skip
def test_annotation_without_a_usable_box_is_skipped(tmp_path, make, reason):
    images = read(make(tmp_path))
    assert len(images) == 1
    assert list(skipped(images).values()) == [reason]


# --- masks ---------------------------------------------------------------------------------------


OFF = (8.2, 6.3, 28.1, 35.9, 47.6, 20.2, 30.4, 8.1)  # an outline through no centre of a pixel
OFF_CORNERS = list(zip(OFF[::2], OFF[1::2], strict=True))
OFF_POINTS = ";".join(f"{x},{y}" for x, y in OFF_CORNERS)


def inside(corners):
    """Pixels whose centres lie inside: an odd number of edges to their right."""
    y, x = np.mgrid[0:HIGH, 0:WIDE] + 0.5
    n = np.zeros((HIGH, WIDE), int)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 != y1:
            n += ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return n % 2 == 1


OVAL = ((np.mgrid[0:HIGH, 0:WIDE] + 0.5 - np.array([21, 28])[:, None, None])
        / np.array([15, 20])[:, None, None])  # fmt: skip
OVAL = (OVAL**2).sum(axis=0) < 1
HOOK = np.zeros((HIGH, WIDE), bool)
HOOK[6:36, 8:18], HOOK[26:36, 8:48] = True, True
SQUARES = [[(8, 6), (18, 6), (18, 16), (8, 16)], [(38, 26), (48, 26), (48, 36), (38, 36)]]


def rle_of(mask):
    """CVAT's runs of the part in the box of the dog, row after row."""
    flat = mask[6:36, 8:48].ravel().tolist()
    lengths, last = [0], False
    for value in flat:
        if value != last:
            lengths.append(0)
        last = value
        lengths[-1] += 1
    return ", ".join(map(str, lengths))


def png_of(mask):
    content = io.BytesIO()
    PIL.Image.fromarray(mask[6:36, 8:48]).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def cvat_masks(inner):
    return lambda folder: cvat(folder, inner, both=True)


# what is written for both images, and the pixels that it marks
MASKED = {
    "yolo": (lambda f: yolo(f, dict.fromkeys("ab", in_yolo(1, *OFF))), inside(OFF_CORNERS)),
    "labelme": (
        lambda f: labelme(f, [shape("polygon", OFF_CORNERS)], both=True), inside(OFF_CORNERS),
    ),
    "labelme, two parts": (
        lambda f: labelme(f, [shape("polygon", each, group_id=1) for each in SQUARES], both=True),
        inside(SQUARES[0]) | inside(SQUARES[1]),
    ),
    "labelme, circle": (
        lambda f: labelme(f, [shape("circle", ((28, 21), (28, 36)))], both=True),
        np.hypot(*(np.mgrid[0:HIGH, 0:WIDE] + 0.5 - np.array([21, 28])[:, None, None])) < 15,
    ),
    "labelme, mask": (
        lambda f: labelme(f, [shape("mask", ((8, 6), (47, 35)), mask=png_of(HOOK))], both=True),
        HOOK,
    ),
    "labelme, a mask and an outline in one group": (
        lambda f: labelme(f, [shape("mask", ((8, 6), (47, 35)), mask=png_of(HOOK), group_id=1),
                              shape("polygon", SQUARES[1], group_id=1),
                              shape("polygon", [(60, 2), (70, 2), (70, 9), (60, 9)], group_id=1)],
                          both=True),
        HOOK | inside(SQUARES[1]) | inside([(60, 2), (70, 2), (70, 9), (60, 9)]),
    ),
    "cvat": (
        cvat_masks(f'<polygon label="dog" points="{OFF_POINTS}"/>'),
        inside(OFF_CORNERS),
    ),
    "cvat, ellipse": (
        cvat_masks('<ellipse label="dog" cx="28" cy="21" rx="20" ry="15"/>'),
        OVAL,
    ),
    "cvat, mask": (
        cvat_masks('<mask label="dog" left="8" top="6" width="40" height="30" '
                   f'rle="{rle_of(HOOK)}"/>'),
        HOOK,
    ),
}  # fmt: skip
BY_SHAPES = (
    "objects are measured by their outlines or runs of pixels; a pixel counts if its centre is "
    "inside"
)


@pytest.mark.parametrize("name", MASKED)
def test_shapes_are_measured_as_masks_if_asked(tmp_path, name):
    write, mask = MASKED[name]
    spec = write(tmp_path)
    images = read(spec, marks="masks")
    np.testing.assert_allclose(images.measure * WIDE * HIGH, mask.sum())
    rows, columns = np.nonzero(mask)
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(images.boxes, [box] * 2)
    assert images.facts == {"stated": [BY_SHAPES]}
    heights = read(spec, marks="masks", measure="height").measure
    np.testing.assert_allclose(heights * HIGH, box[3] - box[1])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda f: yolo(f, {"a": BOX, "b": OUTLINED}), "its dog has no mask; --marks boxes "
         "measures its box"),
        (lambda f: labelme(f, [shape()], ), "its dog has no mask; --marks boxes measures its box"),
        (lambda f: labelme(f, [shape("polygon", CORNERS[:2])]), "a polygon needs three corners"),
        (lambda f: labelme(f, [shape("mask", ((70, 6), (109, 35)), mask=png_of(HOOK))]), "its mask "
         "of 40 x 30 pixels at 70, 6 does not fit the stated size of its image (80 x 60); export "
         "it again"),
        (lambda f: cvat(f, '<polygon label="dog" points="8,6;28,36"/>'), "a polygon needs three "
         "corners"),
        (lambda f: cvat(f, '<mask label="dog" left="8" top="6" width="40" height="30" rle="9,1"/>'),
         "its mask of dog has no usable numbers; fix it"),
        *(  # that would need gigabytes if they were drawn before they are checked
            (lambda f, text=text: cvat(f, f'<mask label="dog" left="8" top="6" {text}/>'), reason)
            for text, reason in (
                ('width="2" height="2" rle="1,99999999999"', "its mask of dog has no usable "
                 "numbers; fix it"),
                ('width="inf" height="2" rle="1,3"', "its mask of dog has no usable numbers; fix "
                 "it"),
                ('width="300000" height="300000" rle="0,90000000000"', "its mask of 300000 x "
                 "300000 pixels at 8, 6 does not fit the stated size of its image (80 x 60); "
                 "export it again"),
            )
        ),
        (lambda f: labelme(f, [shape("mask", ((8, 6), (47, 35)), mask=png_of(HOOK))],
                           imageWidth=300000, imageHeight=300000), "the stated size of its image, "
         "300000 x 300000, is none; correct it"),
    ],
)  # fmt: skip
def test_shapes_without_a_usable_mask_are_skipped(tmp_path, write, reason):
    found = skipped_with(write(tmp_path), marks="masks")
    assert reason in found


def skipped_with(spec, **reading):
    try:
        return list(skipped(read(spec, **reading)).values())
    except DataError as error:  # none is left
        return [str(error).partition(": ")[2].rstrip(".").rpartition(": ")[2]]


def test_circle_has_the_box_around_it(tmp_path):
    images = read(labelme(tmp_path, [CIRCLE]))
    np.testing.assert_allclose(images.boxes[0], [8, 1, 48, 41])


def test_lvis_names_images_by_their_address(tmp_path):
    draw(tmp_path / "1.jpg")
    spec = other_json(tmp_path, {
        "images": [{"id": 1, "coco_url": "http://x.invalid/val/1.jpg", "width": 80, "height": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [8, 6, 40, 30]}],
        "categories": [{"id": 2, "name": "dog"}],
    })  # fmt: skip
    np.testing.assert_allclose(read(spec).boxes, [DOG[1:]])
