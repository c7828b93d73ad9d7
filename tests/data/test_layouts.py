"""Public data sets, laid out by hand as they are documented: they work, or one line says how."""

import json
import shutil

import nibabel
import numpy as np
import PIL.Image
import pytest
import tifffile

from tests.data.layouts import DOG, HIGH, WIDE, draw, names, read, said

QUARTER = np.zeros((HIGH, WIDE), np.uint8)
QUARTER[DOG[2] : DOG[4], DOG[1] : DOG[3]] = 255


def saved(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, **options)


def test_isic_segmentations(tmp_path):
    """ISIC 2018, task 1, whose two folders are named images and masks."""
    for number in (0, 1):
        draw(tmp_path / "images" / f"ISIC_000000{number}.jpg")
        saved(tmp_path / "masks" / f"ISIC_000000{number}_segmentation.png", QUARTER)
    images = read(f"masks:{tmp_path}")
    np.testing.assert_allclose(images.measure, 0.25)
    assert (names(images), images.left_out) == (["ISIC_0000000.jpg", "ISIC_0000001.jpg"], ())


def test_bbbc_instances_in_16_bits(tmp_path):
    """BBBC006 and the like: 12-bit images, and masks that number up to thousands of nuclei."""
    rng = np.random.default_rng(0)
    for number in range(3):
        nuclei = np.zeros((HIGH, WIDE), np.uint16)
        for label, left in enumerate(range(0, 80, 10), start=300):
            nuclei[10:20, left : left + 5 + number] = label  # 50 to 70 pixels
        name = f"mcf-z-stacks_a0{number}_s1_w1.tif"
        for folder, pixels in (
            ("images", rng.integers(0, 4096, (HIGH, WIDE)).astype(np.uint16)),
            ("masks", nuclei),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / name, pixels)
    images = read(f"masks:{tmp_path}", objects="mean")
    np.testing.assert_allclose(images.measure * WIDE * HIGH, [50, 60, 70])
    assert images.facts["mask_kind"] == "instances"
    assert images.facts["assumed"] == [
        "16-bit values are shown from 0 (black) to 4095 (white), as --intensity 0,4095 would"
    ]


def kvasir(folder):
    """Masks are JPEG; boxes are in a JSON file of their own form."""
    boxes = {}
    for name in ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"):
        draw(folder / "images" / f"{name}.jpg")
        saved(folder / "masks" / f"{name}.jpg", np.stack([QUARTER] * 3, axis=-1), quality=60)
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), DOG[1:], strict=True))
        boxes[name] = {"height": HIGH, "width": WIDE, "bbox": [{"label": "polyp", **box}]}
    (folder / "kavsir_bboxes.json").write_text(json.dumps(boxes))
    return folder


def test_kvasir_masks(tmp_path):
    images = read(f"masks:{kvasir(tmp_path)}")
    np.testing.assert_allclose(images.measure, 0.25, atol=0.005)


def test_livecell_outlines(tmp_path):
    """Annotations are a dictionary by id, and images are in folders of cell types."""
    name = "A172_Phase_A7_1_00d00h00m_1.tif"
    draw(tmp_path / "images" / "A172" / name)
    left, top, right, bottom = DOG[1:]
    corners = [left, top, right, top, left, bottom]
    about = {
        "images": [{"id": 1, "file_name": name, "width": WIDE, "height": HIGH}],
        "categories": [{"id": 1, "name": "cell", "supercategory": "cell"}],
        "annotations": {
            "7": {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 600.0,
                  "bbox": [left, top, right - left, bottom - top], "segmentation": [corners]},
        },
    }  # fmt: skip
    (tmp_path / "livecell_coco_train.json").write_text(json.dumps(about))
    spec, options = f"coco:{tmp_path}/livecell_coco_train.json", {"images": tmp_path / "images"}
    np.testing.assert_allclose(read(spec, **options).measure, 0.25)
    triangle = read(spec, marks="masks", **options).measure * WIDE * HIGH
    np.testing.assert_allclose(triangle, 600, atol=20)  # half of the box, up to its edge


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def nih(folder):
    return "csv:" + str(
        text(
            folder / "BBox_List_2017.csv",
            "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
            "00013118_008.png,Atelectasis,225.08,547.01,86.77,79.18,,,\n",
        )
    )


def vindr(folder):
    head = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
    return (
        f"csv:{text(folder / 'train.csv', head + '50a4,Nodule,8,R9,691,1375,1653,1831' + chr(10))}"
    )


def dota(folder):
    draw(folder / "images" / "P0001.png")
    line = "imagesource:GoogleEarth\ngsd:0.146\n8 6 48 6 48 36 8 36 plane 0\n"
    text(folder / "labelTxt" / "P0001.txt", line)
    return f"yolo:{folder}"


def pannuke(folder):
    (folder / "Fold1").mkdir()
    for name in ("images.npy", "masks.npy"):
        np.save(folder / "Fold1" / name, np.zeros((2, 8, 8, 3)))
    return f"masks:{folder}/Fold1"


def bbbc038(folder):
    draw(folder / "00ae65" / "images" / "00ae65.png")
    saved(folder / "00ae65" / "masks" / "0f1f.png", QUARTER)
    return f"masks:{folder}"


def deepglobe(folder):
    draw(folder / "119_sat.jpg")
    saved(folder / "119_mask.png", np.stack([QUARTER] * 3, axis=-1))
    return f"masks:{folder}"


def pathology(folder, suffix):
    draw(folder / "images" / "a.jpg")
    text(folder / "masks" / f"a{suffix}", "")
    return f"masks:{folder}"


BOXES = (
    ", without the columns image and measure. Compute the measure of each image, such as the share "
    "of its area in the box, or convert the table to COCO and give coco:FILE."
)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (lambda f: f"coco:{kvasir(f)}/kavsir_bboxes.json", "{}/kavsir_bboxes.json is a list of "
         "boxes like that of Kvasir-SEG; give masks:DIR, the folder of its masks."),
        (nih, "{}/BBox_List_2017.csv is a table of boxes ('Bbox [x')" + BOXES),
        (vindr, "{}/train.csv is a table of boxes ('x_min')" + BOXES),
        (dota, "{}/labelTxt holds oriented boxes of DOTA. Convert them to labels with "
         "convert_dota_to_yolo_obb of the package ultralytics."),
        (pannuke, "{}/Fold1 has no folder images, and images.npy is an array; save each image as "
         "TIFF with tifffile, or give scalecut.make_image_set arrays."),
        (bbbc038, "{} has no folder images, but a folder for each image, such as 00ae65, as in "
         "BBBC038. Join the masks of an image to one, with the numbers 1, 2, ... for objects, and "
         "put images and masks into one folder each."),
        (deepglobe, "{} has no folder images, but masks next to images, such as 119_mask.png. Move "
         "images into the folder images and masks into the folder masks, with the same names up "
         "to _mask."),
        (lambda f: pathology(f, ".xml"), "{}/masks has no image; a.xml is an annotation, such as "
         "that of Aperio; open it in QuPath and export GeoJSON."),
        (lambda f: pathology(f, ".mat"), "{}/masks has no image; a.mat is an array; save each "
         "image as TIFF with tifffile, or give scalecut.make_image_set arrays."),
    ],
    ids=["Kvasir-SEG boxes", "NIH ChestX-ray", "VinDr-CXR", "DOTA", "PanNuke", "BBBC038",
         "DeepGlobe", "Aperio", "MATLAB"],
)  # fmt: skip
def test_other_layouts_are_refused_with_what_helps(tmp_path, layout, message):
    assert said(read, layout(tmp_path)) == message.replace("{}", str(tmp_path))


@pytest.mark.parametrize("channel", ["", "_0000"])
def test_folders_of_decathlon_and_nnunet_are_found(tmp_path, channel):
    """With the forks of Apple that their archives hold."""
    values = np.zeros((8, 9, 3), np.float32)
    values[2:5, 2:6] = 1
    for number in range(3):
        names_of = {"imagesTr": f"liver_{number}{channel}", "labelsTr": f"liver_{number}"}
        for folder, name in names_of.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            file = tmp_path / folder / f"{name}.nii.gz"
            content = values if folder == "labelsTr" else np.arange(216.0).reshape(8, 9, 3) + number
            nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), file)
            (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    images = read(f"masks:{tmp_path}", slice="2:1", intensity="full")
    np.testing.assert_allclose(images.measure, [12 / 72] * 3)
    assert images.left_out == ()
    if channel:
        first = tmp_path / "imagesTr" / "liver_0_0000.nii.gz"
        shutil.copy(first, first.with_name("liver_0_0001.nii.gz"))
        found = read(f"masks:{tmp_path}", slice="2:1", intensity="full")
        assert [each.name for each in found.left_out] == ["liver_0_0001.nii.gz"]


def test_labels_of_kitti_are_no_labels_of_yolo(tmp_path):
    draw(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("Car 0 0 1.5 8 6 48 36 1.5 1.6 3.7 1 1.6 20 1.6")
    assert "begins with 'Car', which is no number of a class, as in labels of KITTI" in said(
        read, f"yolo:{tmp_path}"
    )
