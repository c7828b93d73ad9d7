"""Decoded images are compared with the result of Pillow or numpy in one line."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from scalecut.data.decoding import _FORMATS, fitted, header, without_options
from scalecut.data.images import Image, ImageSet, LeftOut, image_of, make_image_set
from scalecut.data.measures import Frame, share_of
from scalecut.errors import DataError
from tests.data.layouts import exif, said


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pixels():
    """A smooth image, whose every corner differs: 40 wide, 24 high."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, (x + y) * 3], axis=-1).astype(np.uint8)


def saved(path, pixels, **options):
    PIL.Image.fromarray(pixels).save(path, **options)
    return Image(path.name, path)


def png_header(path, width, height, more=b""):
    """A file of a hundred bytes, and more, that claims to be a large image."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
        + more
    )
    return Image(path.name, path)


@pytest.mark.parametrize(
    ("suffix", "orientation"),
    [
        *[(".jpg", orientation) for orientation in range(1, 9)],
        (".png", 6),
        (".tif", 7),
        (".webp", 8),
    ],
)
def test_image_is_upright_and_so_is_its_header(tmp_path, pixels, orientation, suffix):
    image = saved(tmp_path / f"a{suffix}", pixels, exif=exif(orientation))
    with PIL.Image.open(image.source) as stored:
        expected = PIL.ImageOps.exif_transpose(stored).convert("RGB")
    seen = image.decode()
    assert (seen.mode, seen.size) == ("RGB", expected.size)
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(expected))
    assert header(image.source)[:2] == seen.size == ((24, 40) if orientation > 4 else (40, 24))


def test_orientation_6_puts_the_left_edge_on_top(tmp_path, pixels):
    image = saved(tmp_path / "a.png", pixels, exif=exif(6))
    np.testing.assert_array_equal(np.asarray(image.decode()), np.rot90(pixels, -1))


def test_header_does_not_decode(tmp_path, pixels):
    path = tmp_path / "a.png"
    saved(path, np.tile(pixels, (20, 20, 1)))
    path.write_bytes(path.read_bytes()[:200])
    assert header(path) == (800, 480, 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_usual_mode_becomes_rgb(tmp_path, pixels, mode):
    stored = PIL.Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    stored.save(path)
    with PIL.Image.open(path) as again:
        expected = np.asarray(again.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image("a", path).decode()), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_on_white(tmp_path, pixels, mode):
    alpha = np.full((24, 40, 1), 255, np.uint8)
    alpha[:12] = 0
    stored = PIL.Image.fromarray(np.concatenate([pixels, alpha], axis=-1)).convert(mode)
    stored.save(tmp_path / "a.png")
    seen = np.asarray(Image("a", tmp_path / "a.png").decode())
    assert (seen[:12] == 255).all()
    np.testing.assert_array_equal(seen[12:], np.asarray(stored.convert("RGB"))[12:])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_full_16_bits_are_shown_as_8(tmp_path, suffix):
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    PIL.Image.fromarray(grey).save(tmp_path / f"a{suffix}")
    seen = np.asarray(Image("a", tmp_path / f"a{suffix}").decode())
    np.testing.assert_array_equal(seen, np.stack([np.rint(grey / 257)] * 3, axis=-1))


def test_image_in_memory_is_its_array(pixels):
    np.testing.assert_array_equal(np.asarray(Image("a", pixels).decode()), pixels)


def test_key_follows_the_content_and_not_the_name(tmp_path, pixels):
    one, two = saved(tmp_path / "a.png", pixels), saved(tmp_path / "b.png", pixels)
    other = saved(tmp_path / "c.png", pixels // 2)
    assert one.key() == two.key() != other.key()
    assert one.content() == (tmp_path / "a.png").read_bytes()
    flat = Image("a", pixels.reshape(12, 80, 3))
    assert Image("a", pixels).key() == Image("b", pixels.copy()).key() != flat.key()
    assert len(one.key()) == 64


def broken_files(folder, pixels):
    """Files that cannot be used, and what is said of each."""
    saved(folder / "whole.jpg", np.tile(pixels, (9, 9, 1)), quality=95)
    whole = (folder / "whole.jpg").read_bytes()
    saved(folder / "whole.png", np.tile(pixels, (9, 9, 1)))
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:400])
    (folder / "text.jpg").write_text("a letter")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    png_header(folder / "bomb.png", 60_000, 50_000)
    formats = ", ".join(_FORMATS)
    return {
        "none.jpg": "there is no such file; check its name and folder",
        "text.jpg": f"this is not an image that can be read; give one of {formats}",
        "empty.jpg": "the file is empty; copy it again",
        "pointer.png": "it is a pointer of Git LFS, not the image; run git lfs pull",
        "cut.png": "it is truncated or broken (image file is truncated); copy the file again",
        "bomb.png": (
            "its header says 60000 x 50000 pixels, more than the 200 million that are decoded; "
            "scale it down or tile it"
        ),
    }


def test_each_broken_image_gets_one_line(tmp_path, pixels):
    for name, reason in broken_files(tmp_path, pixels).items():
        with pytest.raises(DataError) as error:
            Image(name, tmp_path / name).decode()
        assert str(error.value) == f"{name}: {reason}"


DEEP = {
    "deep.tif": (np.uint16, (9, 9), "save it with 8 bits, grey or RGB"),
    "float.tif": (np.float32, (9, 9), "save it with 8 bits, grey or RGB"),
    "bands.tif": (np.uint8, (9, 9, 4), "save it with 8 bits, grey or RGB"),
    "two.tif": (np.uint8, (9, 9, 2), "save it with 8 bits, grey or RGB"),
    "pages.tif": (np.uint8, (5, 9, 9), "save one page of it"),
}


@pytest.mark.parametrize("name", DEEP)
def test_advice_on_options_can_be_taken_out_of_a_reason(name, tmp_path):
    kind, shape, advice = DEEP[name]
    values = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    config = "contig" if shape[-1] < 5 else None
    tifffile.imwrite(tmp_path / name, values, photometric="minisblack", planarconfig=config)
    with pytest.raises(DataError) as error:
        Image(name, tmp_path / name).decode()
    text = str(error.value)
    reason, _, options = text.partition("; ")
    assert "--" in options
    assert without_options(text) == f"{reason}; {advice}"
    assert without_options(f"None ({text}). Check it.") == f"None ({reason}; {advice}). Check it."
    assert without_options(f"{text}.") == f"{reason}; {advice}."
    assert without_options(reason) == reason


def test_truncated_jpeg_says_so(tmp_path, pixels):
    broken_files(tmp_path, pixels)
    with pytest.raises(DataError) as error:
        Image("cut.jpg", tmp_path / "cut.jpg").decode()
    said = str(error.value)
    assert said.startswith("cut.jpg: it is truncated or broken (image file is truncated (")
    assert said.endswith(" bytes not processed)); copy the file again")


def test_content_of_a_missing_file_is_an_error_of_ours(tmp_path):
    assert (
        said(Image("a", tmp_path / "a").key)
        == "a: there is no such file; check its name and folder"
    )
    assert said(Image("a", tmp_path).content) == (
        "a: the file cannot be read (Is a directory); check it and its permissions"
    )


def test_large_image_below_the_limit_gives_no_warning_of_pillow(tmp_path):
    most = PIL.Image.MAX_IMAGE_PIXELS
    image = png_header(tmp_path / "a.png", 14_000, 14_000, more=bytes(1000))
    assert header(image.source) == (14_000, 14_000, 1)
    with pytest.raises(DataError, match="says 196 million values, and it has 69 bytes"):
        header(png_header(tmp_path / "a.png", 14_000, 14_000).source)
    assert most == PIL.Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("block", [b"II*\x00\x08\x00\x00\x00\x05\x00", b"rubbish"])
def test_broken_exif_counts_as_upright_without_a_warning(tmp_path, pixels, block):
    image = saved(tmp_path / "a.jpg", pixels, exif=b"Exif\x00\x00" + block)
    assert image.decode().size == (40, 24)


@pytest.mark.parametrize("value", [0, 9])
def test_orientation_out_of_range_counts_as_upright(tmp_path, pixels, value):
    image = saved(tmp_path / "a.jpg", pixels, exif=exif(value))
    assert image.decode().size == (40, 24)


def test_threads_leave_the_warnings_as_they_were(tmp_path, pixels):
    images = [saved(tmp_path / f"{n}.tif", pixels, exif=exif(6)) for n in range(40)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        sizes = set(threads.map(lambda image: image.decode().size, images))
    assert sizes == {(24, 40)}
    assert warnings.filters == before


def test_squash_is_the_resize_of_pillow(pixels):
    image = PIL.Image.fromarray(pixels)
    for name, resample in (("nearest", 0), ("bilinear", 2), ("bicubic", 3), ("lanczos", 1)):
        seen = fitted(image, Frame(13, 17), name)
        np.testing.assert_array_equal(seen, np.asarray(image.resize((17, 13), resample)))
        assert seen.flags.writeable


def test_crop_is_resizing_and_then_cropping_as_timm_does(pixels):
    image = PIL.Image.fromarray(pixels)
    seen = fitted(image, Frame(12, 12, "crop"), "bilinear")
    expected = image.resize((20, 12), PIL.Image.Resampling.BILINEAR).crop((4, 0, 16, 12))
    np.testing.assert_array_equal(seen, np.asarray(expected))


def test_pad_lays_the_whole_image_on_the_canvas(pixels):
    image = PIL.Image.fromarray(pixels)
    seen = fitted(image, Frame(20, 20, "pad"), fill=(1, 2, 3))
    expected = np.full((20, 20, 3), (1, 2, 3))
    expected[4:16] = np.asarray(image.resize((20, 12), PIL.Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(seen, expected)


def test_pad_keeps_a_line_of_a_very_long_image():
    seen = fitted(PIL.Image.new("RGB", (1000, 1), "red"), Frame(9, 9, "pad"), fill=(0, 0, 0))
    assert (seen == (255, 0, 0)).all(axis=-1).sum() == 9


def test_resizing_is_antialiased():
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    image = PIL.Image.fromarray(np.stack([board] * 3, axis=-1).astype(np.uint8))
    assert np.ptp(fitted(image, Frame(32, 32))) <= 2


@pytest.mark.parametrize("frame", [Frame(80, 60), Frame(80, 60, "crop", 0.8), Frame(60, 90, "pad")])
def test_shown_image_holds_the_share_that_is_measured(rng, frame):
    """The link between pixels and measure: white box on black, counted after fitting."""
    x, y = rng.integers(0, 100, 2), rng.integers(0, 70, 2)
    box = (x.min(), y.min(), x.max() + 40, y.max() + 40)
    image = PIL.Image.new("RGB", (160, 120))
    image.paste((255, 255, 255), tuple(map(int, box)))
    seen = fitted(image, frame, "bilinear", fill=(0, 0, 0)) / 255
    area, height = share_of(tuple(map(float, box)), frame.window(160, 120))
    assert seen.mean() == pytest.approx(area, abs=0.012)
    assert seen.max(axis=(1, 2)).sum() / frame.height == pytest.approx(height, abs=0.02)


def test_unknown_interpolation_is_refused(pixels):
    assert said(fitted, PIL.Image.fromarray(pixels), Frame(9, 9), "cubic") == (
        "No interpolation is named 'cubic'. Give one of nearest, bilinear, bicubic, lanczos."
    )


@pytest.fixture
def some(pixels):
    images = tuple(Image(f"{n}", pixels) for n in range(4))
    boxes = np.arange(16.0).reshape(4, 4)
    left = (LeftOut("x", "it is torn"),)
    names = ("b", "a", "b", "c")
    return ImageSet(images, np.arange(4.0), "area", names, ("p", "q", "p", "r"), boxes, left)


@pytest.fixture
def photograph(tmp_path):
    """A large JPEG with structure at all sizes, and where it lies."""
    rng, (h, w) = np.random.default_rng(0), (1200, 1600)
    grown = [
        np.array(PIL.Image.fromarray(rng.integers(0, 256, (s, s, 3), np.uint8)).resize((w, h)))
        for s in (3, 12, 50, 200)
    ]
    path = tmp_path / "large.jpg"
    PIL.Image.fromarray(np.mean(grown, axis=0).astype(np.uint8)).save(path, quality=90)
    return path


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (Frame(300, 400), (800, 600)),  # just twice as large
        (Frame(301, 400), (1600, 1200)),
        (Frame(32, 32), (200, 150)),
        (Frame(300, 300, "crop", 0.9), (1600, 1200)),  # 300 of 1,080, so 2 x 333 of 1,200
        (Frame(401, 401, "pad"), (1600, 1200)),
    ],
    ids=str,
)
def test_large_jpeg_is_decoded_at_least_twice_as_large_as_it_is_shown(photograph, frame, size):
    image = Image("large", photograph)
    assert image.decode(frame).size == size
    assert image.decode().size == (1600, 1200)
    slow, fast = (fitted(p, frame).astype(int) for p in (image.decode(), image.decode(frame)))
    assert np.abs(slow - fast).mean() < 1


def test_turned_jpeg_is_decoded_as_large_as_its_upright_image_needs(photograph, tmp_path):
    turned = tmp_path / "turned.jpg"
    with PIL.Image.open(photograph) as stored:
        stored.save(turned, quality=90, exif=exif(6))  # upright it is 1200 wide and 1600 high
    image = Image("turned", turned)
    assert image.decode(Frame(400, 300)).size == (600, 800)
    assert image.decode(Frame(300, 400)).size == (1200, 1600)


def test_only_jpeg_is_decoded_smaller(photograph, tmp_path):
    path = tmp_path / "large.png"
    with PIL.Image.open(photograph) as stored:
        stored.save(path)
    assert Image("large", path).decode(Frame(32, 32)).size == (1600, 1200)


def test_broken_jpeg_is_found_at_any_size(photograph):
    photograph.write_bytes(photograph.read_bytes()[:-20_000])
    with pytest.raises(DataError, match="truncated"):
        Image("large", photograph).decode(Frame(32, 32))


def test_subsets_are_named_once_in_order(some):
    assert (len(some), some.subsets) == (4, ("b", "a", "c"))


def test_rows_are_chosen_by_mask_or_number(some):
    for which in (np.array([True, False, True, False]), np.array([0, 2]), [-4, -2]):
        chosen = some.rows(which)
        assert [image.name for image in chosen.images] == ["0", "2"]
        assert (chosen.subset, chosen.group) == (("b", "b"), ("p", "p"))
        np.testing.assert_array_equal(chosen.measure, [0, 2])
        np.testing.assert_array_equal(chosen.boxes, [[0, 1, 2, 3], [8, 9, 10, 11]])
        assert chosen.left_out == some.left_out
        assert chosen.measure_name == "area"
    assert len(some.rows([])) == 0


def test_set_from_files_images_and_arrays(tmp_path, pixels):
    path = tmp_path / "a.png"
    saved(path, pixels)
    stored = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stored, "PNG", exif=exif(6))
    turned = PIL.Image.open(stored)
    images = make_image_set([path, str(path), turned, pixels, pixels[..., 0]], np.arange(5.0))
    assert [image.name for image in images.images[2:]] == ["image 2", "image 3", "image 4"]
    expected = [pixels, pixels, np.rot90(pixels, -1), pixels, np.stack([pixels[..., 0]] * 3, -1)]
    for image, array in zip(images.images, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image.decode()), array)
    assert images.subset == ("images",) * 5
    assert images.group[0] == images.group[1] == str(path)  # a file never meets itself in a test
    assert (images.measure_name, images.boxes, images.left_out) == ("measure", None, ())


def test_set_takes_names_of_subset_and_group(pixels):
    images = make_image_set(
        [pixels] * 2, [0.1, 0.2], subset=["a", "b"], group=[7, 8], measure_name="mm"
    )
    assert (images.subset, images.group, images.measure_name) == (("a", "b"), ("7", "8"), "mm")
    assert make_image_set([pixels], [0.1], subset="a").subset == ("a",)


@pytest.mark.parametrize(
    ("images", "measure", "message"),
    [
        (2, [0.1], "There are 2 images but 1 values of measure. Give one for each image."),
        (
            3,
            [0.1, float("nan"), float("inf")],
            "2 of 3 measures are not finite, the first at row 1. "
            "Remove these images, or measure them.",
        ),
    ],
)
def test_set_with_wrong_measures_is_refused(pixels, images, measure, message):
    assert said(make_image_set, [pixels] * images, measure) == message


def test_set_with_unusable_images_is_refused(tmp_path, pixels):
    assert said(make_image_set, [pixels, pixels / 255], [0.1, 0.2]) == (
        "image 1 is an array of float64 and shape (24, 40, 3). "
        "Give uint8 of shape (height, width, 3), or (height, width) for grey."
    )
    assert (
        said(make_image_set, [tmp_path / "a.png"], [0.1])
        == f"{tmp_path}/a.png: there is no such file; check its name and folder"
    )
    assert said(image_of, 1, None) == (
        "image 1 is of the type NoneType. Give a file, a PIL image or an array."
    )


@pytest.mark.parametrize(
    ("shape", "kind", "said_instead"),
    [
        ((9, 9), np.uint16, "what is black and white; save it with 8 bits, grey or RGB"),
        ((9, 9, 4), np.uint8, "partly transparent); save it with 8 bits, grey or RGB"),
        ((5, 9, 9), np.uint8, "it has 5 pages; save one page of it"),
        ((9, 9, 5), np.uint8, "stains as well as colours; save it with 8 bits, grey or RGB"),
    ],
)
def test_images_of_python_are_refused_without_options_of_commands(
    tmp_path, shape, kind, said_instead
):
    """They are files where Pillow holds no such image in memory."""
    values = np.random.default_rng(0).integers(1, 250, shape).astype(kind)
    if shape in ((9, 9), (9, 9, 4)):
        given = PIL.Image.fromarray(values)
    else:
        given = tmp_path / "a.tif"
        planes = "contig" if shape[-1] == 5 else None
        tifffile.imwrite(given, values, photometric="minisblack", planarconfig=planes)
    message = said(make_image_set, [given], [1.0])
    assert said_instead in message and "--" not in message
