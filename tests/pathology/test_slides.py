"""Pyramids of known pixels, read by OpenSlide, against the same pixels in memory."""

import io
from math import ceil

import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL.Image import Resampling

from scalecut import DataError, Views
from scalecut.data.images import Image
from scalecut.pathology import slides, views
from scalecut.pathology.claims import Claims, claimed_tiles
from scalecut.pathology.resampling import resampled
from scalecut.pathology.resolution import of_slide
from scalecut.pathology.slides import TileField, is_slide, opened_field, stated_by_slide
from scalecut.pathology.tissue import tissue
from scalecut.pathology.views import Look, middle, native_blur, views_of

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


def halved(pixels):
    return pixels.reshape(len(pixels) // 2, 2, -1, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def write(path, pixels, description="", mpp=MPP):
    """A tiled TIFF with a level of half the size."""
    half = halved(pixels)
    how = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path) as file:
        resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        file.write(pixels, **how, **resolution, description=description, metadata=None)
        file.write(half, **how, subfiletype=1, metadata=None)
    return half


def write_ome(path, pixels, mpp=MPP, photometric="rgb"):
    """An OME-TIFF, whose levels are stored below the first page."""
    how = {"tile": (256, 256), "photometric": photometric, "compression": "zlib"}
    about = {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm",
             "PhysicalSizeYUnit": "µm"}  # fmt: skip
    axes = "YXS" if pixels.shape[-1] == 3 else "CYX"
    levels = [halved(pixels)] if axes == "YXS" else [pixels[:, ::2, ::2]]
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=1, metadata={"axes": axes, **about}, **how)
        file.write(levels[0], subfiletype=1, **how)
    return levels[0]


def write_dicom(folder, pixels, mpp=MPP, side=256):
    """A slide as DICOM: one file per level, of tiles in JPEG."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    folder.mkdir()
    uids = {name: pydicom.uid.generate_uid() for name in ("Series", "Study", "FrameOfReference")}
    for number, level in enumerate([pixels, halved(pixels)]):
        about = pydicom.Dataset()
        about.file_meta = pydicom.dataset.FileMetaDataset()
        about.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
        about.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        about.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        about.SOPClassUID = about.file_meta.MediaStorageSOPClassUID
        about.SOPInstanceUID = about.file_meta.MediaStorageSOPInstanceUID
        about.SeriesInstanceUID, about.StudyInstanceUID = uids["Series"], uids["Study"]
        about.FrameOfReferenceUID, about.Modality = uids["FrameOfReference"], "SM"
        about.ImageType = ["DERIVED" if number else "ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        about.SamplesPerPixel, about.PhotometricInterpretation = 3, "YBR_FULL_422"
        about.PlanarConfiguration = about.PixelRepresentation = 0
        about.BitsAllocated, about.BitsStored, about.HighBit = 8, 8, 7
        about.Rows = about.Columns = side
        about.TotalPixelMatrixRows, about.TotalPixelMatrixColumns = level.shape[:2]
        about.TotalPixelMatrixFocalPlanes = about.NumberOfOpticalPaths = 1
        about.DimensionOrganizationType, about.InstanceNumber = "TILED_FULL", number + 1
        path, measures, shared = (pydicom.Dataset() for _ in range(3))
        path.OpticalPathIdentifier = "1"
        measures.PixelSpacing = [mpp * 2**number / 1000] * 2
        shared.PixelMeasuresSequence = [measures]
        about.OpticalPathSequence, about.SharedFunctionalGroupsSequence = [path], [shared]
        frames = []
        for y, x in np.ndindex(-(-level.shape[0] // side), -(-level.shape[1] // side)):
            tile, stored = np.full((side, side, 3), 255, np.uint8), io.BytesIO()
            part = level[y * side : (y + 1) * side, x * side : (x + 1) * side]
            tile[: part.shape[0], : part.shape[1]] = part
            PIL.Image.fromarray(tile).save(stored, "JPEG", quality=95, subsampling=0)
            frames.append(stored.getvalue())
        about.NumberOfFrames, about.PixelData = len(frames), encapsulate(frames)
        about["PixelData"].is_undefined_length = True
        about.save_as(folder / f"level{number}.dcm", enforce_file_format=True)


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
        found = list(views_of(field, tissue(field), *how))
    field = TileField(PIL.Image.fromarray(pixels))
    expected = list(views_of(field, tissue(field), *how))
    assert [o for o, _ in found] == [o for o, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.astype(int), other, atol=1)


def smooth(height, width, seed=0):
    """Waves of hundreds of pixels, in other directions in each colour."""
    y, x = np.mgrid[:height, :width]
    phase, step = np.random.default_rng(seed).uniform(0.5, 1, (2, 3))
    waves = [np.sin(x / (80 * a) + y / (100 * b) * (-1) ** k) for k, (a, b) in
             enumerate(zip(phase, step, strict=True))]  # fmt: skip
    return np.rint(128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def pooled(pixels, factor):
    """Means of whole squares; what is left over at the right and below is dropped."""
    height, width = (n // factor for n in pixels.shape[:2])
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


@pytest.fixture(params=["openslide", "tiffslide"])
def odd(request, tmp_path, monkeypatch):
    """A pyramid whose levels of a fourth and a sixteenth end before the pixels of the finest."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(slides, "LARGE", 100)
    monkeypatch.setattr(slides, "_READERS", (request.param,))
    pixels, path = smooth(1507, 2050), tmp_path / "odd.tif"
    how = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, **how)
        for factor in (4, 16):
            file.write(pooled(pixels, factor), subfiletype=1, **how)
    with opened_field(Image("odd", path)) as field:
        yield field, TileField(PIL.Image.fromarray(pixels)), request.param


SIDE_OF_ODD = 24


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0, 5.7, 15.9, 16.0])
def test_a_level_that_ends_early_shows_the_same_place_up_to_the_last_pixel(odd, factor):
    """A pixel of the finest level is up to 3 of 255 in the steepest waves."""
    field, in_memory, reader = odd
    (width, height), extent = field.size, ceil(SIDE_OF_ODD * factor)
    rng = np.random.default_rng(int(10 * factor))
    inside = rng.integers(0, [width - extent, height - extent], (4, 2)).tolist()
    corners = [(width - extent, height - extent), (0, height - extent)]
    for x, y in [*map(tuple, inside), *corners]:
        most = 7 if (x, y) in corners else 3  # two or three of the last pixels are in no level
        found = field.averaged((x, y), factor, SIDE_OF_ODD)
        expected = in_memory.averaged((x, y), factor, SIDE_OF_ODD)
        away = np.abs(found - expected)
        within = slice(None) if reader == "tiffslide" else slice(None, -1)  # OpenSlide fades out
        assert away[within, within].max() < most, (x, y)
        box = (float(x), float(y), float(x + extent), float(y + extent))
        shown, true = (
            np.asarray(each.region(box, SIDE_OF_ODD, Resampling.BICUBIC)).astype(float)
            for each in (field, in_memory)
        )
        assert np.abs(shown - true).mean() < most / 2.5, (x, y)


@pytest.mark.parametrize(
    ("corner", "factor"), [((600, 100), 1.0), ((601, 101), 2.0), ((603, 55), 2.5), ((8, 8), 3.7)]
)
def test_a_pixel_of_a_patch_is_the_mean_of_its_area_on_the_level_that_is_read(
    slide, corner, factor
):
    image, pixels, half = slide
    with opened_field(image) as field:
        found = field.averaged(corner, factor, 20)
    level, step = (pixels, factor) if factor < 2 else (half, factor / 2)
    left, top = (n * step / factor for n in corner)
    x0, y0, n = int(left), int(top), ceil(20 * step) + 1
    parts = 20  # of a pixel, along each side
    fine = level[y0 : y0 + n, x0 : x0 + n].repeat(parts, axis=0).repeat(parts, axis=1)
    by_hand = np.empty((20, 20, 3))
    for y, x in np.ndindex(20, 20):
        rows, columns = (
            slice(round(parts * (start + k * step)), round(parts * (start + (k + 1) * step)))
            for start, k in ((top - y0, y), (left - x0, x))
        )
        by_hand[y, x] = fine[rows, columns].mean(axis=(0, 1))
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    extent = ceil(20 * factor)
    window = pixels[corner[1] : corner[1] + extent, corner[0] : corner[0] + extent]
    np.testing.assert_allclose(found, resampled(window, factor, side=20), atol=4)  # level rounded


def test_patches_at_the_edge_end_with_the_slide(slide):
    image, pixels, _ = slide
    with opened_field(image) as field:
        found = field.averaged((1024 - 150, 768 - 150), 2.5, 60)
    expected = resampled(pixels[-150:, -150:], 2.5, side=60)
    np.testing.assert_allclose(found, expected, atol=4)


def test_both_readers_give_the_same_regions(tmp_path, monkeypatch):
    pytest.importorskip("tiffslide", reason="the fallback needs tiffslide")
    pixels = drawn()
    write(tmp_path / "plain.svs", pixels)
    (tmp_path / "plain.svs").rename(tmp_path / "plain.tif")
    monkeypatch.setattr(slides, "LARGE", 500)
    image, found = Image("plain", tmp_path / "plain.tif"), {}
    for name in ("openslide", "tiffslide"):
        monkeypatch.setattr(slides, "_READERS", (name,))
        with opened_field(image) as field:
            assert name in type(field.handle).__module__
            found[name] = (
                field.n_levels, field.size, field.averaged((601, 101), 2.5, 60),
                np.asarray(field.region((600.0, 100.0, 760.0, 260.0), 64, Resampling.BICUBIC)),
                np.asarray(field.small(128)),
                {each.um_per_pixel for each in stated_by_slide(image.source)},
            )  # fmt: skip
    for one, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_levels_of_ome_are_found_where_openslide_sees_one(tmp_path, monkeypatch):
    pytest.importorskip("tiffslide", reason="levels below a page need tiffslide")
    pixels = drawn()
    half = write_ome(tmp_path / "slide.ome.tif", pixels)
    monkeypatch.setattr(slides, "LARGE", 500)
    image = Image("slide", tmp_path / "slide.ome.tif")
    with opened_field(image) as field:
        assert field.n_levels == 2
        np.testing.assert_allclose(field.averaged((520, 40), 2.0, 100), half[20:120, 260:360])
    assert [str(each) for each in stated_by_slide(image.source)] == [
        "0.5 µm per pixel (OME PhysicalSizeX)"
    ]
    monkeypatch.setattr(slides, "_READERS", ("openslide",))
    with opened_field(image) as field:
        assert field.n_levels == 1
        assert abs(field.averaged((520, 40), 2.0, 100) - half[20:120, 260:360]).max() < 1


def test_channels_of_fluorescence_are_said_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("tiffslide", reason="levels below a page need tiffslide")
    channels = np.random.default_rng(0).integers(0, 900, (2, 768, 1024)).astype(np.uint16)
    write_ome(tmp_path / "slide.ome.tif", channels, photometric="minisblack")
    monkeypatch.setattr(slides, "LARGE", 500)
    with (
        pytest.raises(DataError, match=r"its axes are CYX of uint16, not YXS of uint8"),
        opened_field(Image("slide", tmp_path / "slide.ome.tif")),
    ):
        pass


def test_dicom_of_a_slide_is_one_slide_of_several_files(tmp_path):
    pixels = drawn()
    write_dicom(tmp_path / "dicom", pixels)
    found, left_out = claimed_tiles(tmp_path / "dicom", Claims())
    assert [(each.name, each.um_per_pixel) for each in found] == [("level0", MPP)]
    assert not left_out
    with opened_field(found[0].image) as field:
        assert (field.n_levels, field.size) == (2, (1024, 768))
        patch = field.averaged((600, 100), 2.0, 100)
    assert abs(patch - resampled(pixels[100:300, 600:800], 2.0)).mean() < 2  # JPEG


@pytest.mark.parametrize("named", [["level0"], ["level1.dcm"], ["level1", "level0.dcm"]])
def test_a_row_of_any_file_of_a_dicom_slide_is_that_of_the_slide(tmp_path, named):
    write_dicom(tmp_path / "dicom", drawn())
    file = tmp_path / "mpp.csv"
    file.write_text("\n".join(["slide,mpp,group", *(f"{name},{MPP},p1" for name in named)]))
    (found,), left_out = claimed_tiles(tmp_path / "dicom", Claims(claims=file))
    assert (found.name, found.um_per_pixel, found.source) == ("level0", MPP, "table")
    assert found.group == "p1" and not left_out
    if len(named) > 1:
        file.write_text(file.read_text().replace("p1", "p2", 1))
        with pytest.raises(DataError, match=r"claims different things of level[01]\.dcm and level"):
            claimed_tiles(tmp_path / "dicom", Claims(claims=file))


def test_a_slide_without_a_small_level_is_reduced_in_strips(slide, monkeypatch):
    image, pixels, _ = slide
    with opened_field(image) as field:
        whole = np.asarray(field.small(128)).astype(int)
        monkeypatch.setattr(slides, "_AT_ONCE", 40_000)
        strips = np.asarray(field.small(128)).astype(int)
    means = pixels.reshape(96, 8, 128, 8, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(strips, means, atol=2)
    assert whole.shape == strips.shape


def test_places_on_a_large_slide_are_tissue_and_the_same_at_every_resolution(slide, monkeypatch):
    image, _, _ = slide
    monkeypatch.setattr(views, "LARGE", 500)
    with opened_field(image) as field:
        shown = tissue(field)
        half = shown.found.shape[1] // 2
        assert shown.found[:, half + 2 :].mean() > 0.9
        assert shown.found[:, : half - 2].mean() == 0.0
        corners = {side: views._corners(field, side, 3, shown) for side in (64.0, 32.0)}
        how = shown, Views((0.0, 0.5, 1.0)), Look(64, "bicubic")
        assert len(list(views_of(field, *how))) > 20
        assert native_blur(field, 2, shown) >= 0.0
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


def test_a_tile_of_several_pages_is_refused_without_naming_options(tmp_path):
    pages = [PIL.Image.new("L", (8, 8), value) for value in (1, 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    text = r"^a: it has 2 pages; save one page of it$"
    with pytest.raises(DataError, match=text), opened_field(Image("a", tmp_path / "a.tif")):
        pass


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
    imagej = {"tiff.ImageDescription": "ImageJ=1.54\nunit=micron\n", "tiff.XResolution": 4.0,
              "tiff.YResolution": 4.0, "tiff.ResolutionUnit": "NONE"}  # fmt: skip
    assert [str(each) for each in of_slide(imagej)] == ["0.25 µm per pixel (ImageJ)"]
    assert of_slide({"tiffslide.mpp-x": None}) == of_slide({}) == ()


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
