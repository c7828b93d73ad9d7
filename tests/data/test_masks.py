"""Masks are drawn with objects of known area."""

import numpy as np
import PIL.Image
import pytest

from scalecut import Frame
from scalecut.data.masks import read_mask
from tests.data.layouts import HIGH, WIDE, add_mask, names, nuclei, read, said, skipped


@pytest.mark.parametrize("kind", ["masks", "labels"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_mask_of_one_value_is_one_object(tmp_path, kind, suffix):
    mask = (nuclei() == 2).astype(np.uint8) * 255
    images = read(add_mask(tmp_path / "slides", "1", mask, kind, suffix))
    np.testing.assert_allclose(images.measure, [200 / 4800])
    assert (images.subset, images.group) == (("slides",), ("1.jpg",))
    np.testing.assert_array_equal(images.boxes, [[10, 20, 20, 40]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("objects", "pixels"), [("largest", 300), ("mean", 200)])
def test_mask_of_several_values_holds_several_objects(tmp_path, dtype, objects, pixels):
    add_mask(tmp_path, "1", (nuclei() == 2).astype(np.uint8))
    spec = add_mask(tmp_path, "2", nuclei(dtype) * (1 if dtype is np.uint8 else 300))
    images = read(spec, objects=objects)
    np.testing.assert_allclose(images.measure, [200 / 4800, pixels / 4800])
    assert names(read(spec)) == ["1.jpg"]


def test_mask_without_background_fills_the_image(tmp_path):
    images = read(add_mask(tmp_path, "1", np.full((HIGH, WIDE), 7, np.uint8)))
    np.testing.assert_array_equal(images.measure, [1])


def test_coloured_mask_has_an_object_for_each_colour(tmp_path):
    palette = np.zeros((201, 3), np.uint8)
    palette[[1, 2, 200]] = [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
    images = read(add_mask(tmp_path, "1", palette[nuclei()]), objects="mean")
    np.testing.assert_allclose(images.measure, [200 / 4800])


def test_mask_is_counted_inside_the_crop(tmp_path):
    spec = add_mask(tmp_path, "1", nuclei())
    images = read(spec, Frame(9, 9, "crop"), objects="mean")
    np.testing.assert_allclose(images.measure, [(200 + 150) / 2 / 3600])  # the first is not seen
    largest = read(spec, Frame(9, 9, "crop"), objects="largest")
    np.testing.assert_array_equal(largest.boxes, [[10, 20, 20, 40]])


def test_folders_under_images_are_subsets(tmp_path):
    one = (nuclei() == 2).astype(np.uint8)
    add_mask(tmp_path, "lung/1", one)
    images = read(add_mask(tmp_path, "breast/1", one))
    assert images.subset == ("breast", "lung")
    assert names(images) == ["breast/1.jpg", "lung/1.jpg"]


PHOTOGRAPH = np.moveaxis(np.indices((HIGH, WIDE))[[0, 1, 1]], 0, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (None, "there is no mask 2.png (or .tif, .bmp, .gif); add it"),
        (
            np.zeros((HIGH, WIDE), np.uint8),
            "its mask marks no pixel; mark its object, or remove the image",
        ),
        (
            np.ones((WIDE, HIGH), np.uint8),
            "its mask has 60 x 80 pixels, the image 80 x 60; give a mask of the same size",
        ),
        (
            PHOTOGRAPH,
            "its mask 2.png has 4800 colours, like a photograph; "
            "give one value or colour per object",
        ),
    ],
)
def test_mask_that_cannot_be_used_is_skipped(tmp_path, mask, reason):
    add_mask(tmp_path, "1", (nuclei() == 2).astype(np.uint8))
    images = read(add_mask(tmp_path, "2", mask))
    assert names(images) == ["1.jpg"]
    assert skipped(images) == {"2.jpg": reason}


def test_broken_mask_is_skipped(tmp_path):
    add_mask(tmp_path, "1", (nuclei() == 2).astype(np.uint8))
    spec = add_mask(tmp_path, "2", nuclei())
    (tmp_path / "masks" / "2.png").write_bytes(b"")
    start = "its mask 2.png cannot be used: this is not an image that can be read; "
    assert skipped(read(spec))["2.jpg"].startswith(start)


def test_mask_of_a_tile_is_where_objects_are_or_their_numbers(tmp_path):
    file = tmp_path / "m.png"
    for mask, expected in (
        (np.where(nuclei() > 0, 255, 7).astype(np.uint8), nuclei() > 0),  # the bright value
        (nuclei(), np.where(nuclei() == 200, 3, nuclei())),
        (np.where(nuclei() > 0, 250, 4).astype(np.uint8) + PHOTOGRAPH[..., 1] % 3, nuclei() > 0),
    ):
        PIL.Image.fromarray(mask).save(file)
        marks = read_mask(file)
        assert (marks.dtype == bool) == (expected.dtype == bool)
        np.testing.assert_array_equal(marks, expected)


def test_mask_of_a_tile_that_marks_nothing_is_refused(tmp_path):
    PIL.Image.fromarray(np.full((9, 9), 5, np.uint8)).save(tmp_path / "m.png")
    assert said(read_mask, tmp_path / "m.png") == (
        "it has one value only, so it marks nothing; mark its objects"
    )
    PIL.Image.fromarray(PHOTOGRAPH).save(tmp_path / "m.png")
    assert said(read_mask, tmp_path / "m.png") == (
        "it has 4800 values in 4799 regions, like a photograph; "
        "give a mask of two values, or of one value per object"
    )


# --- which mask belongs to which image -----------------------------------------------------------


def test_masks_of_common_names_are_found(tmp_path):
    one = (nuclei() == 2).astype(np.uint8)
    for ending in ("_mask", "_cp_masks", "_seg", ""):
        spec = add_mask(tmp_path / ending, "1", None)
        (tmp_path / ending / "masks").mkdir()
        PIL.Image.fromarray(one).save(tmp_path / ending / "masks" / f"1{ending}.png")
        assert names(read(spec)) == ["1.jpg"]


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (["a/1", "b/1"], ["1.png"], "The mask masks/1.png could be that of a/1.jpg or of b/1.jpg. "
         "Put masks into folders of the same names as images."),
        (["a/1"], ["x/1.png", "y/1.png"], "a/1.jpg has two masks, x/1.png and y/1.png. Keep one, "
         "or put masks into folders of the same names as images."),
        (["1"], ["1.png", "1_mask.tif"], "1.jpg has two masks, 1.png and 1_mask.tif. Keep one, or "
         "put masks into folders of the same names as images."),
    ],
)  # fmt: skip
def test_masks_that_could_be_of_two_images_are_refused(tmp_path, images, masks, message):
    for name in images:
        spec = add_mask(tmp_path, name, None)
    for name in masks:
        file = tmp_path / "masks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(nuclei()).save(file)
    assert said(read, spec) == message


def test_mask_without_an_image_is_skipped(tmp_path):
    spec = add_mask(tmp_path, "1", (nuclei() == 2).astype(np.uint8))
    PIL.Image.fromarray(nuclei()).save(tmp_path / "masks" / "2.png")
    assert skipped(read(spec)) == {"masks/2.png": "there is no image for this mask"}
