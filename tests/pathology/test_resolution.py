"""What files state of the size of a pixel is what was written into them, in every convention."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from scalecut.data.masks import MaskRule
from scalecut.errors import DataError
from scalecut.pathology.patches import Cutting, save_patches
from scalecut.pathology.resolution import Stated, checked, stated
from scalecut.pathology.tiles import Tile

RGB = np.zeros((8, 8, 3), np.uint8)
APERIO = "Aperio Image Library v11.2.1|AppMag = {}|MPP = {}"
IMAGEJ = "ImageJ=1.53t\nunit={}\n"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>'
    "<Pixels {}/></Image></OME>"
)


def tiff(path, pixels_per=None, unit="CENTIMETER", text=None):
    resolution = {} if pixels_per is None else {"resolution": pixels_per, "resolutionunit": unit}
    more = {} if text is None else {"description": text.encode(), "metadata": None}
    tifffile.imwrite(path, RGB, photometric="rgb", **resolution, **more)
    with PIL.Image.open(path) as image:
        return stated(image)


def sizes(found):
    return [(each.source, each.um_per_pixel, each.is_usable) for each in found]


@pytest.mark.parametrize(
    ("given", "source", "um"),
    [
        (((40000, 40000),), "TIFF resolution", 0.25),
        (((101600, 101600), "INCH"), "TIFF resolution", 0.25),
        (((4, 4), "NONE", IMAGEJ.format("micron")), "ImageJ", 0.25),
        (((4, 4), "INCH", IMAGEJ.format("um")), "ImageJ", 0.25),  # TIFF's unit is not ImageJ's
        (((4, 4), "NONE", IMAGEJ.format("µm")), "ImageJ", 0.25),
        (((4, 4), "NONE", IMAGEJ.format("\\u00B5m")), "ImageJ", 0.25),
        (((4000, 4000), "NONE", IMAGEJ.format("mm")), "ImageJ", 0.25),
        (((0.004, 0.004), "NONE", IMAGEJ.format("nm")), "ImageJ", 0.25),
        ((None, "", APERIO.format(40, 0.25)), "Aperio MPP", 0.25),
        ((None, "", OME.format('PhysicalSizeX="0.25"')), "OME PhysicalSizeX", 0.25),
        ((None, "", OME.format('PhysicalSizeX="250" PhysicalSizeXUnit="nm"')),
         "OME PhysicalSizeX", 0.25),
    ],
)  # fmt: skip
def test_size_of_a_pixel_is_found_in_every_convention(tmp_path, given, source, um):
    (first, *_) = tiff(tmp_path / "a.tif", *given)
    assert (first.source, first.is_usable) == (source, True)
    assert first.um_per_pixel == pytest.approx(um, rel=1e-6)


def test_what_is_no_size_of_a_pixel_is_not_used(tmp_path):
    for dpi in (72, 96, 150, 300, 600, 1200, 2400):
        (found,) = tiff(tmp_path / "a.tif", (dpi, dpi), "INCH")
        assert not found.is_usable and found.um_per_pixel == pytest.approx(25_400 / dpi)
    (found,) = tiff(tmp_path / "a.tif", (101600, 50800), "INCH")  # not square
    assert not found.is_usable
    assert tiff(tmp_path / "a.tif", (4, 4), "NONE") == ()
    assert tiff(tmp_path / "a.tif", (4, 4), "NONE", IMAGEJ.format("pixel")) == ()
    assert tiff(tmp_path / "a.tif", None, "", APERIO.format("x", "0")) == ()
    PIL.Image.fromarray(RGB).save(tmp_path / "a.png", dpi=(300, 300))
    with PIL.Image.open(tmp_path / "a.png") as image:
        ((source, um, is_usable),) = sizes(stated(image))
    assert (source, is_usable) == ("PNG resolution", False) and um == pytest.approx(84.67, abs=0.01)


def of(name, *found):
    usable = [each.um_per_pixel for each in found if each.is_usable and each.um_per_pixel]
    path = Path(f"{name}.tif")
    return Tile(name, path, path, name, MaskRule(), usable[0] if usable else None, found)


def um(size, source="TIFF resolution"):
    return Stated(source, size, size)


X20, X40 = (Stated("Aperio AppMag", magnification=each) for each in (20.0, 40.0))
ONE_AT_A_TIME = "Cut tiles of one resolution at a time, or give --um-per-pixel if a file is wrong."
ABOUT_20 = "about 20X, but --native 40 means about 0.25 µm. Give --native 20, or --um-per-pixel"


@pytest.mark.parametrize(
    ("tiles", "native", "message"),
    [
        ([of("a", um(0.5))], 40.0,
         f"a.tif states 0.5 µm per pixel (TIFF resolution), {ABOUT_20}"),
        ([of("a", um(0.499, "ImageJ"))], 40.0,
         f"a.tif states 0.499 µm per pixel (ImageJ), {ABOUT_20}"),
        ([of("a", um(0.25)), of("b", um(0.25)), of("c", um(0.27))], 40.0,
         "a.tif states 0.25 µm per pixel (TIFF resolution), but c.tif 0.27 µm per pixel (TIFF "
         f"resolution). {ONE_AT_A_TIME}"),
        ([of("a", um(0.25, "Aperio MPP"), um(0.5))], 40.0,
         "a.tif states 0.25 µm per pixel (Aperio MPP), but a.tif 0.5 µm per pixel (TIFF "
         f"resolution). {ONE_AT_A_TIME}"),
        ([of("a", X20)], 40.0,
         "a.tif states 20X (Aperio AppMag), but --native is 40. Give --native 20,"),
        ([of("a", um(0.25)), of("b", X20)], 40.0,
         "b.tif states 20X (Aperio AppMag), but --native is"),
        ([of("a", um(0.333))], 40.0,
         "a.tif states 0.333 µm per pixel (TIFF resolution), about 30X,"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_both_sources(tiles, native, message):
    with pytest.raises(DataError) as error:
        checked(tiles, native, None)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert len(checked(tiles, native, 0.25)) <= 1  # what is given overrules files


def test_a_printer_and_missing_sizes_are_stated():
    tiles = [of("a", um(0.25)), of("b", um(10.583)), of("c")]
    assert checked(tiles, 40.0, None) == [
        "1 of 3 tiles state 0.25 µm per pixel (TIFF resolution).",
        "The TIFF resolution of 1 of 3 tiles is ignored: that of b.tif, 10.58 µm per pixel or 2400 "
        "dpi, is that of a printer.",
        "2 of 3 tiles do not state µm per pixel (the first is b.tif), so areas in µm² are missing. "
        "Give --um-per-pixel.",
    ]
    assert checked(tiles[:1], 40.0, 0.5) == [
        "--um-per-pixel 0.5 is used, though a.tif states 0.25 µm per pixel (TIFF resolution)."
    ]


@pytest.mark.parametrize("size", [0.2275, 0.2325, 0.2525, 0.263])  # of four scanners at 40X
def test_usual_scanners_agree_with_their_magnification(size):
    assert len(checked([of("a", um(size, "Aperio MPP"), X40)], 40.0, None)) == 1
    assert len(checked([of("a", um(2 * size))], 20.0, None)) == 1


def test_patches_are_cut_only_at_the_magnification_that_files_state(tmp_path):
    rng, discs = np.random.default_rng(0), np.zeros((60, 60), np.uint8)
    discs[10:20, 10:20], discs[30:45, 30:45] = 1, 2
    for folder in ("tiles", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
        tifffile.imwrite(
            tmp_path / "tiles" / f"{name}.tif", pixels, photometric="rgb",
            resolution=(20000, 20000), resolutionunit="CENTIMETER",
        )  # fmt: skip
        PIL.Image.fromarray(discs).save(tmp_path / "masks" / f"{name}.png")
    places = tmp_path / "tiles", tmp_path / "masks", tmp_path / "out"
    with pytest.raises(DataError, match=r"^a.tif states 0.5 µm per pixel .* --native 40 means"):
        save_patches(*places, cutting=Cutting((40.0,), size=60))
    assert not (tmp_path / "out").exists()
    made = save_patches(*places, cutting=Cutting((20.0,), native=20.0, size=60))
    assert made.stated == ("3 of 3 tiles state 0.5 µm per pixel (TIFF resolution).",)
    np.testing.assert_allclose(made.table["mean_area_um2"], made.table["mean_area_px"] / 4)
