"""Masks are drawn with objects of known area."""

from io import BytesIO

import numpy as np
import PIL.Image
import pytest
import tifffile
from scipy import ndimage

from scalecut import Frame, Image
from scalecut.data.masks import labels_as, marks_of, understood
from tests.data.layouts import (
    HIGH,
    WIDE,
    add_mask,
    draw,
    exif,
    names,
    nuclei,
    read,
    said,
    skipped,
)


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
            "its mask 2.png cannot be used: it has 4800 colours, like a photograph; "
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
    reason = "its mask 2.png cannot be used: the file is empty; copy it again"
    assert skipped(read(spec)) == {"2.jpg": reason}


# --- what values mean ----------------------------------------------------------------------------


def discs(rng, radius, n=12):
    """Round cells of one radius that do not touch, numbered from 1."""
    y, x = np.mgrid[:HIGH, :WIDE] + 0.5
    numbers, centres = np.zeros((HIGH, WIDE), np.uint16), []
    while len(centres) < n:
        place = rng.uniform(radius + 1, [WIDE - radius - 1, HIGH - radius - 1])
        if all(np.hypot(*(place - each)) > 2 * radius + 3 for each in centres):
            centres.append(place)
            numbers[np.hypot(x - place[0], y - place[1]) <= radius] = len(centres)
    return numbers


def as_jpeg(mask):
    file = BytesIO()
    PIL.Image.fromarray(mask).save(file, "JPEG", quality=80)
    return np.asarray(PIL.Image.open(file))


def resized(mask):
    half = PIL.Image.fromarray(mask).resize((WIDE // 2, HIGH // 2), PIL.Image.Resampling.BILINEAR)
    return np.asarray(half.resize((WIDE, HIGH), PIL.Image.Resampling.BILINEAR))


def with_alpha(colour, alpha):
    shape = (*alpha.shape, 1)
    return np.concatenate([np.full((*alpha.shape, 3), colour, np.uint8), alpha.reshape(shape)], -1)


def classes(numbers):
    return np.array([0, *(1 + i % 3 for i in range(numbers.max()))], np.uint8)[numbers]


def ringed(numbers, value):
    """Void along the borders, as PASCAL VOC has it."""
    marked = numbers > 0
    ring = ndimage.binary_dilation(marked) & ~marked
    return np.where(ring, value, classes(numbers).astype(int)).astype(np.min_scalar_type(value))


def split(numbers):
    """The first cell without its third row."""
    is_first = numbers == 1
    row = np.flatnonzero(is_first.any(axis=1))[2]
    return np.where(is_first & (np.arange(HIGH) == row)[:, None], 0, numbers)


WHITE = 255
# what is saved of numbered cells; options; what is assumed; how far an area may differ (pixels)
FORMS = {
    "numbers": (lambda m: m, {}, "", 0),
    "numbers as float": (lambda m: m.astype(np.float32), {"suffix": ".tif"}, "", 0),
    "one value": (lambda m: (m > 0).astype(np.uint8) * WHITE, {}, "", 0),
    "one bit": (lambda m: m > 0, {}, "", 0),
    "numbers, one in a larger and a smaller piece": (
        split, {}, "values of masks are numbers of objects, though 60 values are in 65 regions", 1,
    ),
    "classes": (classes, {}, "values of masks are classes, so each connected region is an", 0),
    "void": (lambda m: ringed(m, WHITE), {}, "the value 255 of masks means unknown, and counts", 0),
    "void of 16 bits": (lambda m: ringed(m, 65535), {}, "the value 65535 of masks means", 0),
    "noise": (lambda m: as_jpeg((m > 0).astype(np.uint8) * WHITE), {}, "grey values of masks", 3),
    "resized": (lambda m: resized((m > 0).astype(np.uint8) * WHITE), {}, "grey values of masks", 6),
    "alpha": (lambda m: with_alpha(WHITE, (m > 0).astype(np.uint8) * WHITE), {}, "masks are read "
              "from alpha", 0),
    "colours": (lambda m: np.array([[0, 0, 0], [255, 0, 0]], np.uint8)[(m > 0).astype(int)], {}, "",
                0),
    "other background": (lambda m: np.where(m > 0, 9, 4).astype(np.uint8), {"background": "4"}, "",
                         0),
    "coloured background": (lambda m: np.array([[68, 1, 84], [255, 255, 0]], np.uint8)[
        (m > 0).astype(int)], {"background": "68,1,84"}, "", 0),
    "inverted": (lambda m: (m == 0).astype(np.uint8) * WHITE, {"background": "255"}, "", 0),
    "inverted noise": (lambda m: as_jpeg((m == 0).astype(np.uint8) * WHITE), {"background": "255"},
                       "grey values of masks", 3),
    "inverted, resized": (lambda m: resized((m == 0).astype(np.uint8) * WHITE),
                          {"background": "255"}, "grey values of masks", 6),
    "min is white": (lambda m: (m > 0).astype(np.uint8) * WHITE, {"suffix": ".tif",
                     "photometric": "miniswhite"}, "", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_mask_gives_the_mean_cell(tmp_path, name):
    save, options, assumed, tolerance = FORMS[name]
    options, suffix = dict(options), options.get("suffix", ".png")
    options.pop("suffix", None)
    photometric, expected = options.pop("photometric", None), []
    for number in range(5):
        cells = discs(np.random.default_rng(number), 3 + number / 2)
        expected.append((cells > 0).sum() / 12)
        spec = add_mask(tmp_path, str(number), None)
        file = tmp_path / "masks" / f"{number}{suffix}"
        file.parent.mkdir(exist_ok=True)
        if suffix == ".tif":
            tifffile.imwrite(file, save(cells), photometric=photometric)
        else:
            PIL.Image.fromarray(save(cells)).save(file)
    images = read(spec, objects="mean", **options)
    np.testing.assert_allclose(images.measure * WIDE * HIGH, expected, atol=tolerance + 1e-9)
    stated = images.facts.get("assumed", [""])
    assert stated[0].startswith(assumed) and bool(stated[0]) == bool(assumed)


RED = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    ("save", "suffix", "message"),
    [
        (lambda m: RED[(m > 0).astype(int)], ".jpg", " colours, and 3 of 3 are JPEG (the first "
         "mask is 0.jpg), which blurs colours. Save them as PNG, with one value per object or "
         "class."),
        (lambda m: ndimage.gaussian_filter((m > 0).astype(np.float32), 3), ".tif", "3 of 3 masks "
         "(the first mask is 0.tif) have fractions between 0 and 1, such as probabilities, and "
         "many that are near neither. Cut them, for example at 0.5, and save 0 and 1."),
        (lambda m: (m.astype(np.int64) - (m == 1) * 2).astype(np.uint32), ".tif", "its mask 0.tif "
         "cannot be used: its largest value is 4294967295; values of masks are below 16777216"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["auto", "binary"])
def test_masks_whose_values_are_not_exact_are_refused(tmp_path, save, suffix, message, kind):
    for number in range(3):
        cells = save(discs(np.random.default_rng(number), 4))
        spec = add_mask(tmp_path, str(number), None)
        file = tmp_path / "masks" / f"{number}{suffix}"
        file.parent.mkdir(exist_ok=True)
        if suffix == ".tif":
            tifffile.imwrite(file, cells)
        else:
            PIL.Image.fromarray(cells).save(file, quality=90)
    assert message in said(read, spec, mask_kind=kind, objects="mean")


def test_single_takes_no_image_of_several_cells(tmp_path):
    cells = discs(np.random.default_rng(0), 4)
    add_mask(tmp_path, "1", (cells == 1).astype(np.uint8))
    spec = add_mask(tmp_path, "2", (cells > 0).astype(np.uint8))
    images = read(spec)
    assert names(images) == ["1.jpg"]
    assert skipped(images) == {"2.jpg": "it has 12 objects, and --objects single takes one"}
    whole = read(spec, mask_kind="instances")
    expected = [(cells == 1).mean(), (cells > 0).mean()]
    np.testing.assert_allclose(whole.measure, expected)
    assert whole.facts["mask_kind"] == "instances" and "assumed" not in whole.facts


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_drawn_before_the_turn_is_turned(tmp_path, orientation):
    spec = add_mask(tmp_path, "1", nuclei())
    draw(tmp_path / "images" / "1.jpg", orientation=orientation)
    images = read(spec, objects="largest")
    stored = PIL.Image.fromarray((nuclei() == 200).astype(np.uint8) * WHITE)
    stored.save(tmp_path / "turned.png", exif=exif(orientation))
    rows, columns = np.nonzero(np.asarray(Image("m", tmp_path / "turned.png").decode())[..., 0])
    expected = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(images.boxes[0], expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("own", "of_image"), [(3, 1), (6, 1), (6, 8), (6, 6)])
def test_mask_that_exif_turns_in_another_way_than_its_image_is_skipped(
    tmp_path, own, of_image, suffix
):
    mask = (nuclei() == 200).astype(np.uint8)
    add_mask(tmp_path, "0", mask)
    spec = add_mask(tmp_path, "1", mask)
    draw(tmp_path / "images" / "1.jpg", orientation=of_image)
    (tmp_path / "masks" / "1.png").unlink()
    PIL.Image.fromarray(mask).save(tmp_path / "masks" / f"1{suffix}", exif=exif(own))
    images = read(spec)
    if own == of_image:
        assert images.box(1) == (0, 60, 15, 80)  # the lower right corner, turned by a quarter
    else:
        reason = f"its EXIF orientation is {own}, and that of its image {of_image}; save both"
        given = f"its mask 1{suffix} cannot be used: {reason} upright"
        assert skipped(images) == {"1.jpg": given}


def inside_and_border(numbers):
    marked = numbers > 0
    return np.where(ndimage.binary_erosion(marked), 1, np.where(marked, 2, 0)).astype(np.uint8)


def trimap(numbers):
    inside, around = ndimage.binary_erosion(numbers == 1), ndimage.binary_dilation(numbers == 1)
    return np.where(inside, 1, np.where(around, 3, 2)).astype(np.uint8)


def pieces(numbers):
    """Values each in two or three regions: objects in pieces, or classes."""
    return np.array([0, *(1 + i % 5 for i in range(numbers.max()))], np.uint8)[numbers]


@pytest.mark.parametrize(
    ("save", "options", "message"),
    [
        (lambda m: np.where(m > 0, 1, 2).astype(np.uint8), {}, "The masks have the values 1, 2 "
         "(the first mask is 0.png), and none is 0, so the background is not known. Give it, such "
         "as --background 2."),
        (lambda m: np.where(m > 0, 1, 2).astype(np.uint8), {"background": "7"}, "No mask has the "
         "background 7; the values are 1, 2. Give one of them: --background."),
        (lambda m: (m == 0).astype(np.uint8) * WHITE, {}, "In 3 of 3 masks (the first is 0.png) "
         "the marked value surrounds the image and 0 does not, as in inverted masks. Choose "
         "--background 255 if 0 marks the object, or --background 0."),
        (inside_and_border, {}, "The masks have 72 connected regions of equal values, but only 36 "
         "of any value (the first mask is 0.png), as if a value marks borders of objects. Choose "
         "--mask-kind binary (regions of any value), classes or instances."),
        (trimap, {"background": "2"}, "The masks have 6 connected regions of equal values, but "
         "only 3 of any value (the first mask is 0.png), as if a value marks borders of objects. "
         "Choose --mask-kind binary (regions of any value), classes or instances."),
        (lambda m: np.where(m > 0, 1 + (m - 1) % 9, 0).astype(np.uint8), {}, "The masks have 36 "
         "connected regions of 27 values (the first mask is 0.png), so a value could be an object "
         "in pieces, a class of objects, or a number given twice. Choose --mask-kind instances or "
         "classes."),
        (pieces, {}, "The masks have 36 connected regions of 15 values (the first mask is 0.png), "
         "so a value could be an object in pieces, a class of objects, or a number given twice. "
         "Choose --mask-kind instances or classes."),
        (lambda m: m, {"background": "white"}, "--background must be a value such as 0, or a "
         "colour such as 68,1,84, got 'white'."),
    ],
)  # fmt: skip
def test_masks_that_could_mean_several_things_are_refused(tmp_path, save, options, message):
    for number in range(3):
        cells = discs(np.random.default_rng(number), 4)
        spec = add_mask(tmp_path, str(number), save(cells))
    assert said(read, spec, objects="mean", **options) == message


def test_mask_of_several_pages_needs_a_page(tmp_path):
    spec = add_mask(tmp_path, "1", None)
    (tmp_path / "masks").mkdir()
    stack = np.stack([nuclei() == value for value in (1, 2, 200)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "masks" / "1.tif", stack, photometric="minisblack")
    assert said(read, spec) == "1.tif: it has 3 pages; choose one with --page 1 (to 3)."
    rule = understood([tmp_path / "masks" / "1.tif"], page=2)
    labels = labels_as(tmp_path / "masks" / "1.tif", rule, (WIDE, HIGH))
    np.testing.assert_array_equal(labels, nuclei() == 2)


def test_mask_of_a_tile_is_where_objects_are_or_their_numbers(tmp_path):
    cells = discs(np.random.default_rng(0), 5)
    for mask, expected in (
        ((cells > 0).astype(np.uint8), cells > 0),
        (cells, cells),
        (as_jpeg((cells > 0).astype(np.uint8) * WHITE), cells > 0),
    ):
        PIL.Image.fromarray(mask).save(tmp_path / "m.png")
        marks = marks_of(tmp_path / "m.png", understood([tmp_path / "m.png"]))
        assert (marks.dtype == bool) == (expected.dtype == bool)
        assert (marks != expected).mean() < 0.005


# --- which mask belongs to which image -----------------------------------------------------------


def test_masks_of_common_names_are_found(tmp_path):
    one = (nuclei() == 2).astype(np.uint8)
    for ending in ("_mask", "_cp_masks", "_seg", ""):
        spec = add_mask(tmp_path / ending, "1", None)
        (tmp_path / ending / "masks").mkdir()
        PIL.Image.fromarray(one).save(tmp_path / ending / "masks" / f"1{ending}.png")
        assert names(read(spec)) == ["1.jpg"]


@pytest.mark.parametrize("more", [(), ("plate",)])
def test_an_image_whose_name_ends_like_a_mask_has_the_mask_of_its_name(tmp_path, more):
    areas = {}
    for number, name in enumerate(("plate_label", "b/cells_mask_seg", *more)):
        mask = np.zeros((HIGH, WIDE), np.uint8)
        mask[: 10 + number, :20] = 1
        spec = add_mask(tmp_path, name, mask)
        areas[f"{name}.jpg"] = mask.mean()
    images = read(spec)
    assert dict(zip(names(images), images.measure.tolist(), strict=True)) == pytest.approx(areas)
    assert not images.left_out


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


@pytest.mark.parametrize("n", [2, 4, 5])
def test_masks_of_several_channels_are_refused(tmp_path, n):
    """Which of them is the mask, nothing says; one that does not vary is no channel."""
    mask = (nuclei() > 0).astype(np.uint8)
    spec = add_mask(tmp_path, "a", None)
    (tmp_path / "masks").mkdir()
    planes = np.stack([mask, 1 - mask, mask, mask, mask][:n], axis=-1)
    planes[..., -1] = np.arange(WIDE) % 2
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "masks" / "a.tif", planes, **options)
    assert said(read, spec, objects="mean").endswith(
        f"its mask a.tif cannot be used: it has {n} channels; give one value or colour per pixel."
    )
    if n == 2:
        planes[..., -1] = 255
        tifffile.imwrite(tmp_path / "masks" / "a.tif", planes, **options)
        np.testing.assert_allclose(read(spec, objects="mean").measure, 600 / 3 / (WIDE * HIGH))
