"""Pyramids of known pixels, read by OpenSlide, against the same pixels in memory."""

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL.Image import Resampling

from scalecut import DataError, Views
from scalecut.data.images import Image
from scalecut.pathology import slides, views
from scalecut.pathology.claims import Claims, claimed_tiles
from scalecut.pathology.resolution import of_slide
from scalecut.pathology.slides import TileField, is_slide, opened_field, stated_by_slide
from scalecut.pathology.views import Look, middle, native_blur, tissue, views_of

pytest.importorskip("openslide", reason="slides need OpenSlide")

MPP = 0.5


def drawn(height=768, width=1024, seed=0):
    """Glass, with smooth pink and purple tissue in the right half."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 1, (height // 32, width // 32, 1)) * (-80, -120, -60)
    fine = np.kron(low, np.ones((32, 32, 1)))
    pixels = np.full((height, width, 3), 244.0)
    pixels[:, width // 2 :] = (np.array([225, 170, 205]) + fine)[:, width // 2 :]
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def write(path, pixels, description="", mpp=MPP):
    """A tiled TIFF with a level of half the size."""
    half = pixels.reshape(len(pixels) // 2, 2, -1, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    how = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path) as file:
        resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        file.write(pixels, **how, **resolution, description=description, metadata=None)
        file.write(half, **how, subfiletype=1, metadata=None)
    return half


@pytest.fixture
def slide(tmp_path):
    pixels = drawn()
    half = write(tmp_path / "slide.svs", pixels)
    return Image("slide", tmp_path / "slide.svs"), pixels, half


def test_regions_come_from_the_level_that_is_fine_enough_and_are_resampled_once(slide):
    image, pixels, half = slide
    with opened_field(image) as field:
        assert field.size == (1024, 768)
        full = field.region((600.0, 100.0, 700.0, 200.0), 100, Resampling.BICUBIC)
        coarse = field.region((520.0, 40.0, 920.0, 440.0), 100, Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(full), pixels[100:200, 600:700])
    expected = PIL.Image.fromarray(half).resize(
        (100, 100), Resampling.BICUBIC, box=(260, 20, 460, 220)
    )
    np.testing.assert_allclose(np.asarray(coarse).astype(int), np.asarray(expected), atol=1)


def test_a_box_between_pixels_is_that_of_the_image_in_memory(slide):
    image, pixels, _ = slide
    box = (600.25, 100.5, 700.25 + 41.4, 100.5 + 141.4)
    with opened_field(image) as field:
        found = field.region(box, 100, Resampling.BICUBIC)
    expected = TileField(PIL.Image.fromarray(pixels)).region(box, 100, Resampling.BICUBIC)
    np.testing.assert_allclose(np.asarray(found).astype(int), np.asarray(expected), atol=1)


def test_views_of_a_slide_are_those_of_its_pixels(slide):
    image, pixels, _ = slide
    how = Views((-0.5, 0.0, 0.5), grid=2), Look(64, "bicubic")
    with opened_field(image) as field:
        found = list(views_of(field, *how))
    expected = list(views_of(TileField(PIL.Image.fromarray(pixels)), *how))
    assert [o for o, _ in found] == [o for o, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.astype(int), other, atol=1)


def test_places_on_a_large_slide_are_tissue_and_the_same_at_every_resolution(slide, monkeypatch):
    image, _, _ = slide
    monkeypatch.setattr(views, "LARGE", 500)
    with opened_field(image) as field:
        found = tissue(field)
        half = found.shape[1] // 2
        assert found[:, half + 2 :].mean() > 0.9
        assert found[:, : half - 2].mean() == 0.0
        corners = {side: views._corners(field, side, 3, found) for side in (64.0, 32.0)}
        assert len(list(views_of(field, Views((0.0, 0.5, 1.0)), Look(64, "bicubic")))) > 20
        assert native_blur(field, 2) >= 0.0
        assert middle(field, 64).shape == (64, 64, 3)
    for (x, y), (u, v) in zip(corners[64.0], corners[32.0], strict=True):
        assert x + 32 == pytest.approx(u + 16, abs=16.5)  # the same centre, but for the edge
        assert y + 32 == pytest.approx(v + 16, abs=16.5)
        assert x + 64 > 512


def test_the_resolution_of_a_slide_is_that_of_all_its_sources(slide, tmp_path):
    said = stated_by_slide(slide[0].source)
    assert {round(each.um_per_pixel, 6) for each in said} == {MPP}
    write(tmp_path / "other.tif", drawn(), "Aperio Image Library |AppMag = 40|MPP = 0.2500")
    write(tmp_path / "none.svs", drawn(), mpp=25_400 / 72)  # that of a printer
    found, left_out = claimed_tiles(tmp_path, Claims(native=20.0))
    assert {each.name: each.um_per_pixel for each in found} == {"slide": MPP, "none": MPP}
    assert [each.name for each in left_out] == ["other"]
    assert "0.25 µm per pixel by the Aperio MPP, but 0.5 by the TIFF" in left_out[0].reason


def test_properties_of_known_scanners():
    aperio = {"aperio.MPP": "0.2520", "aperio.AppMag": "40", "openslide.mpp-x": "0.252",
              "openslide.mpp-y": "0.252", "openslide.objective-power": "40"}  # fmt: skip
    said = [(each.source, each.um_per_pixel, each.magnification) for each in of_slide(aperio)]
    assert said == [
        ("Aperio MPP", 0.252, 0.0),
        ("Aperio AppMag", 0.0, 40.0),
        ("scanner", 0.252, 0.0),
        ("objective", 0.0, 40.0),
    ]
    plain = {"tiff.XResolution": "40000", "tiff.YResolution": "40000",
             "tiff.ResolutionUnit": "centimeter"}  # fmt: skip
    assert [each.um_per_pixel for each in of_slide(plain)] == [0.25]
    assert of_slide({}) == ()


def test_a_broken_slide_is_said_in_one_line(tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"II*\0 no slide")
    with (
        pytest.raises(DataError, match="it cannot be opened as a slide"),
        opened_field(Image("broken", tmp_path / "broken.svs")),
    ):
        pass


def test_a_broken_level_is_said_in_one_line(slide):
    path = slide[0].source
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for start, n in zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True):
            content[start : start + n] = b"x" * n
    path.write_bytes(content)
    with pytest.raises(DataError, match="a region cannot be read"), opened_field(slide[0]) as field:
        field.region((600.0, 100.0, 700.0, 200.0), 100, Resampling.BICUBIC)


def test_large_tiffs_are_slides_and_small_ones_tiles(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", drawn())
    assert not is_slide(tmp_path / "a.tif")
    monkeypatch.setattr(slides, "LARGE", 1000)
    assert is_slide(tmp_path / "a.tif")
    assert is_slide(tmp_path / "b.NDPI")
    assert not is_slide(tmp_path / "c.png")


def test_without_a_reader_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "_READERS", ())
    with pytest.raises(DataError, match=r"pip install 'scalecut\[slides\]'"):
        stated_by_slide(tmp_path / "a.svs")
