"""The same smooth images, saved with more bits, bands and pages, are shown as their 8 bits."""

import io
import struct
import tarfile
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile

from scalecut.data.decoding import Rendering, header, rendered
from scalecut.data.images import Image, make_image_set
from scalecut.data.rendering import range_in_use
from scalecut.errors import DataError
from tests.data.layouts import exif, packed, read, said, skipped

N, HIGH, WIDE = 6, 24, 40


def grey(number):
    """Values from 40 to 240, darker the higher the number."""
    y, x = np.mgrid[0:HIGH, 0:WIDE]
    return (40 + (200 - 10 * number) * (x * y) / ((HIGH - 1) * (WIDE - 1))).astype(np.uint8)


def colour(number):
    return np.stack([grey(number), grey(number)[::-1], grey(number)[:, ::-1]], axis=-1)


def png16(path, pixels):
    """A PNG of 16-bit colours, which Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    size = struct.pack(">IIBBBBB", WIDE, HIGH, 16, {3: 2, 4: 6}[pixels.shape[2]], 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def saved(path, values, **options):
    if path.suffix == ".png" and values.dtype == np.uint16 and values.ndim == 3:
        png16(path, values)
    elif path.suffix == ".tif" and "compression" not in options:
        tifffile.imwrite(path, values, **options)
    else:
        PIL.Image.fromarray(values).save(path, **options)


def table(folder, values, suffix=".tif", **options):
    """A table of images, one for each array; its specification."""
    folder.mkdir(exist_ok=True)
    lines = ["image,measure"]
    for number, each in enumerate(values):
        saved(folder / f"{number}{suffix}", each, **options)
        lines.append(f"{number}{suffix},{number}")
    (folder / "t.csv").write_text("\n".join(lines))
    return f"csv:{folder}/t.csv"


def shown(images):
    return np.stack([np.asarray(image.decode()) for image in images.images])


def in_grey(values):
    return np.stack([np.stack([each] * 3, axis=-1) for each in values])


GREY = [grey(number) for number in range(N)]
COLOUR = [colour(number) for number in range(N)]
WIDER = {
    "8 of 16 bits": (GREY, lambda g: g.astype(np.uint16), {}),
    "12 bits": (GREY, lambda g: g.astype(np.uint16) << 4, {"suffix": ".png"}),
    "16 bits": (GREY, lambda g: g.astype(np.uint16) * 257, {"suffix": ".png"}),
    "big-endian": (GREY, lambda g: g.astype(np.uint16) * 257, {"byteorder": ">"}),
    "compressed": (GREY, lambda g: g.astype(np.uint16) << 4, {"compression": "tiff_lzw"}),
    "32 bits": (GREY, lambda g: g.astype(np.uint32) * 16843009, {}),
    "float": (GREY, lambda g: (g / 255).astype(np.float32), {}),
    "float 255": (GREY, lambda g: g.astype(np.float64), {}),
    "12 bits RGB": (COLOUR, lambda c: c.astype(np.uint16) << 4, {"photometric": "rgb"}),
    "PNG RGB": (COLOUR, lambda c: c.astype(np.uint16) * 257, {"suffix": ".png"}),
    "float RGB": (COLOUR, lambda c: (c / 255).astype(np.float32), {"photometric": "rgb"}),
}


@pytest.mark.parametrize("name", WIDER)
def test_deeper_values_are_shown_as_their_8_bits(tmp_path, name):
    plain, deepen, options = WIDER[name]
    images = read(table(tmp_path, [deepen(each) for each in plain], **options))
    expected = in_grey(plain) if plain[0].ndim == 2 else np.stack(plain)
    np.testing.assert_allclose(shown(images).astype(int), expected, atol=1)
    (assumed,) = images.facts["assumed"]
    assert " values are shown from 0 (black) to " in assumed


def test_min_is_white_is_inverted(tmp_path):
    for kind, factor in ((np.uint8, 1), (np.uint16, 257)):
        values = [(255 - each).astype(kind) * factor for each in GREY]
        images = read(table(tmp_path, values, photometric="miniswhite"))
        np.testing.assert_allclose(shown(images).astype(int), in_grey(GREY), atol=1)


def test_narrow_and_signed_values_are_stretched_over_the_set(tmp_path):
    """Black and white are those of the set: the ratio of brightness between images survives."""
    for values in (
        [33_000 + 15 * each.astype(np.uint16) for each in GREY],
        [(10 * each.astype(int) - 1000).astype(np.int16) for each in GREY],
        [(each / 50 - 3).astype(np.float32) for each in GREY],
    ):
        seen = shown(read(table(tmp_path, values))).astype(float)
        expected = (in_grey(GREY).astype(float) - 40) / 200 * 255
        np.testing.assert_allclose(seen, expected, atol=1)


@pytest.mark.parametrize(
    ("intensity", "low", "high"),
    [("full", 0, 65535), ("data", 640, 3840), ("0,1000", 0, 1000), ("percentiles", 640, 3700)],
)
def test_intensity_chooses_black_and_white(tmp_path, intensity, low, high):
    values = [each.astype(np.uint16) << 4 for each in GREY]
    images = read(table(tmp_path, values), intensity=intensity)
    expected = np.clip((in_grey(values).astype(float) - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(
        shown(images), expected, atol=10 if intensity == "percentiles" else 1
    )
    assert "assumed" not in images.facts  # it was asked for


def test_eight_bits_can_be_stretched_if_asked(tmp_path):
    spec = table(tmp_path, [each // 4 for each in GREY], ".png")
    np.testing.assert_allclose(shown(read(spec, intensity="0,60")).max(), 255)
    assert shown(read(spec)).max() == 60
    assert {image.rendering for image in read(spec).images} == {None}


def test_rendering_is_part_of_the_key(tmp_path):
    spec = table(tmp_path, [each.astype(np.uint16) << 4 for each in GREY])
    one, other = (read(spec, intensity=text).images[0] for text in ("data", "full"))
    assert one.key() != other.key() != Image("a", one.source).key()
    assert one.key() == read(spec, intensity="640,3840").images[0].key()


# --- channels, pages, alpha ----------------------------------------------------------------------


def bands(number, n=4):
    return np.stack([grey(number)] * 3 + [(255 - grey(number))] * (n - 3), axis=-1)


def test_channels_and_pages_are_chosen(tmp_path):
    five = [np.dstack([colour(i), colour(i)[..., ::-1] // 2])[..., :5] for i in range(N)]
    spec = table(tmp_path / "five", five, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(
        shown(read(spec, channels=(3, 2, 1))), np.stack(COLOUR)[..., ::-1]
    )
    np.testing.assert_array_equal(
        shown(read(spec, channels=[2])), in_grey([each[..., 1] for each in five])
    )
    stacks = [np.moveaxis(each, -1, 0) for each in five]
    spec = table(tmp_path / "stack", stacks, photometric="minisblack")
    np.testing.assert_array_equal(shown(read(spec, page=2)), in_grey([each[1] for each in stacks]))
    np.testing.assert_array_equal(shown(read(spec, channels=(1, 2, 3))), np.stack(COLOUR))
    spec = table(tmp_path / "imagej", [s.reshape(5, 1, HIGH, WIDE) for s in stacks], imagej=True)
    np.testing.assert_array_equal(shown(read(spec, page=5)), in_grey([each[4] for each in stacks]))


SIZES = {"T": 2, "Z": 3, "Q": 3, "C": 4, "S": 3, "Y": 8, "X": 10}
IMAGEJ, OME, OWN = {"imagej": True}, {"ome": True}, {}


def hyperstack(path, form, axes):
    """A TIFF of several axes; its values as pages, down, across, channels."""
    values = np.random.default_rng(0).integers(0, 256, [SIZES[axis] for axis in axes], np.uint8)
    colours = {"photometric": "rgb" if "S" in axes else "minisblack"}
    colours |= {"planarconfig": "separate"} if "SYX" in axes else {}
    tifffile.imwrite(path, values, metadata={"axes": axes}, **form, **colours)
    places = [i for kind in ("TZQ", "Y", "X", "CS") for i, axis in enumerate(axes) if axis in kind]
    n = int(np.prod([SIZES[axis] for axis in axes if axis in "CS"]))
    return values.transpose(places).reshape(-1, SIZES["Y"], SIZES["X"], n)


@pytest.mark.parametrize(
    ("form", "axes"),
    [(IMAGEJ, "ZCYX"), (IMAGEJ, "TZCYX"), (IMAGEJ, "TYX"), (IMAGEJ, "ZYXS"), (IMAGEJ, "CYX"),
     (IMAGEJ, "ZCYXS"), (OME, "CZYX"), (OME, "TZCYX"), (OME, "TCZYX"), (OME, "CTZYX"),
     (OME, "ZYXS"), (OME, "ZSYX"), (OME, "CYX"), (OWN, "CZYX"), (OWN, "ZCYX"), (OWN, "QQYX")],
)  # fmt: skip
def test_channels_are_those_of_one_page_whatever_the_order_of_axes(tmp_path, form, axes):
    file = tmp_path / "a.tif"
    pages = hyperstack(file, form, axes)
    n_pages, _, _, n = pages.shape
    for page in {1, n_pages}:
        asked = {"page": page} if n_pages > 1 else {}
        for channels in ((3, 1, 2), (n,)) if n > 1 else ((1,),):
            seen = np.asarray(rendered(file, Rendering(channels=channels, **asked)))
            expected = pages[page - 1][..., [each - 1 for each in channels]]
            np.testing.assert_array_equal(seen, np.broadcast_to(expected, seen.shape))
        if axes.replace("S", "") != axes and "C" not in axes:  # colours, unless chosen otherwise
            seen = np.asarray(rendered(file, Rendering(**asked)))
            np.testing.assert_array_equal(seen, pages[page - 1])


SUCH = "choose one with --page 1 (to "


@pytest.mark.parametrize(
    ("form", "axes", "asked", "message"),
    [
        (IMAGEJ, "ZCYX", {}, "it has 3 z-planes of 4 channels; " + SUCH + "3) and its channels "
         "with --channels, such as --page 1 --channels 1,2,3"),
        (IMAGEJ, "ZCYX", {"channels": (1, 2, 3)}, "it has 3 z-planes of 4 channels; " + SUCH
         + "3)"),
        (OME, "TCZYX", {}, "it has 2 frames x 3 z-planes of 4 channels; " + SUCH + "6, z-planes "
         "first) and its channels with --channels, such as --page 1 --channels 1,2,3"),
        (OME, "TCZYX", {"page": 7}, "it has 2 frames x 3 z-planes of 4 channels, but --page asks "
         "for 7"),
        (OME, "CYX", {}, "it has 4 channels, which may be bands or stains as well as colours; "
         "choose one with --channels 1 (to 4), or three, such as --channels 1,2,3"),
        (OME, "CYX", {"page": 2}, "it has 1 page of 4 channels, but --page asks for 2"),
        (IMAGEJ, "ZYX", {"channels": (1, 2, 3)}, "it has 3 z-planes; " + SUCH + "3)"),
        (IMAGEJ, "TYX", {"channels": (2,)}, "it has 2 frames; " + SUCH + "2)"),
        (IMAGEJ, "ZYX", {"page": 2, "channels": (2,)}, "it has 1 channel, but --channels asks for "
         "2"),
        (OME, "ZYXS", {}, "it has 3 z-planes; " + SUCH + "3)"),
        (OWN, "QQYX", {"channels": (1, 2, 3)}, "it has 3 x 3 pages; " + SUCH + "9, those of the "
         "last axis first)"),
    ],
)  # fmt: skip
def test_what_a_hyperstack_leaves_open_is_refused(tmp_path, form, axes, asked, message):
    hyperstack(tmp_path / "a.tif", form, axes)
    assert said(rendered, tmp_path / "a.tif", Rendering(**asked)) == message


def test_three_channels_of_a_microscope_are_no_colours(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "C", 3)
    for form in (IMAGEJ, OME, OWN):
        pages = hyperstack(tmp_path / "a.tif", form, "CYX")
        message = said(rendered, tmp_path / "a.tif")
        assert message.startswith("it has 3 channels, which may be bands or stains as well as ")
        seen = rendered(tmp_path / "a.tif", Rendering(channels=(3, 2, 1)))
        np.testing.assert_array_equal(np.asarray(seen), pages[0][..., ::-1])


def test_three_channels_without_colours_are_shown_as_such_which_is_stated(tmp_path):
    bare = {"photometric": "minisblack", "planarconfig": "contig"}
    spec = table(tmp_path, COLOUR, **bare)
    np.testing.assert_array_equal(shown(read(spec)), np.stack(COLOUR))
    assert read(spec).facts["assumed"] == [
        "6 of 6 images that were examined have three channels without saying which colours (the "
        "first is 0.tif), which are shown as red, green and blue"
    ]
    asked = read(spec, channels=(3, 2, 1))
    np.testing.assert_array_equal(shown(asked), np.stack(COLOUR)[..., ::-1])
    assert "assumed" not in asked.facts


def test_pages_may_differ_in_size_and_kind(tmp_path):
    file = tmp_path / "a.tif"
    deep = grey(1)[:12].astype(np.uint16) * 257
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(colour(0), photometric="rgb")
        tiff.write(deep, photometric="minisblack")
    assert header(file, Rendering(page=1))[:2] == (WIDE, HIGH)
    assert header(file, Rendering(page=2))[:2] == (WIDE, 12)
    np.testing.assert_array_equal(rendered(file, Rendering(page=1)), colour(0))
    seen = np.asarray(rendered(file, Rendering(0.0, 65535.0, page=2)))
    np.testing.assert_array_equal(seen, in_grey([grey(1)[:12]])[0])


def test_pages_of_a_palette_are_shown_in_its_colours(tmp_path):
    palette = PIL.Image.fromarray(grey(0)), PIL.Image.fromarray(grey(1))
    for image in palette:
        image.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    palette[0].save(tmp_path / "a.tif", save_all=True, append_images=palette[1:])
    seen = np.asarray(rendered(tmp_path / "a.tif", Rendering(page=2)))
    np.testing.assert_array_equal(seen[..., 0], grey(1))
    np.testing.assert_array_equal(seen[..., 1], 255 - grey(1))
    assert (seen[..., 2] == 7).all()


def test_pyramid_has_one_page(tmp_path):
    lines = "image,measure\n"
    for number, each in enumerate(COLOUR):
        with tifffile.TiffWriter(tmp_path / f"{number}.tif") as file:
            file.write(each[::2, ::2], photometric="rgb", subfiletype=1)
            file.write(each, photometric="rgb")
        lines += f"{number}.tif,{number}\n"
    (tmp_path / "t.csv").write_text(lines)
    np.testing.assert_array_equal(shown(read(f"csv:{tmp_path}/t.csv")), np.stack(COLOUR))


def test_turned_tiff_of_16_bits_is_upright(tmp_path):
    values = [each.astype(np.uint16) * 257 for each in GREY]
    for number, options in enumerate(({}, {"compression": "tiff_lzw", "tiffinfo": {274: 6}})):
        extra = [] if options else [(274, "H", 1, 6, True)]
        more = options or {"extratags": extra}
        images = read(table(tmp_path / str(number), values, **more))
        expected = np.stack([np.rot90(each, -1) for each in in_grey(GREY)])
        np.testing.assert_allclose(shown(images).astype(int), expected, atol=1)


def test_some_transparent_pixels_are_blended_with_white(tmp_path):
    alpha = np.full((HIGH, WIDE, 1), 255, np.uint8)
    alpha[:10], alpha[10] = 0, 128
    images = read(table(tmp_path, [np.dstack([each, alpha]) for each in COLOUR], ".png"))
    seen = shown(images).astype(float)
    assert (seen[:, :10] == 255).all()
    np.testing.assert_array_equal(seen[:, 11:], np.stack(COLOUR)[:, 11:])
    np.testing.assert_allclose(
        seen[:, 10], (np.stack(COLOUR)[:, 10].astype(float) + 255) / 2, atol=1
    )
    (assumed,) = images.facts["assumed"]
    assert assumed == "6 of 6 images that were examined have transparent pixels (the first is " \
        "0.png), which are shown on white"  # fmt: skip


def test_opaque_alpha_changes_nothing(tmp_path):
    opaque = np.full((HIGH, WIDE, 1), 255, np.uint8)
    images = read(table(tmp_path, [np.dstack([each, opaque]) for each in COLOUR], ".png"))
    np.testing.assert_array_equal(shown(images), np.stack(COLOUR))
    assert "assumed" not in images.facts


CHOOSE = "which may be bands or stains as well as colours; choose"
NOT_OPAQUE = "its channel 4 is declared as opacity, but that is not plausible (values {}; "


def hot(number):
    """12 bits with one broken pixel of the camera."""
    values = grey(number).astype(np.uint16) << 4
    values[0, 0] = 65535 if number == 2 else 0
    return values


@pytest.mark.parametrize(
    ("values", "suffix", "options", "reading", "message"),
    [
        ([bands(i) for i in range(N)], ".tif", {"photometric": "minisblack",
         "planarconfig": "contig"}, {}, "0.tif: it has 4 channels, " + CHOOSE + " one with "
         "--channels 1 (to 4), or three, such as --channels 1,2,3."),
        ([bands(i)[..., 2:] for i in range(N)], ".tif", {"photometric": "minisblack",
         "planarconfig": "contig"}, {}, "0.tif: it has 2 channels, " + CHOOSE + " one with "
         "--channels 1 (to 2)."),
        ([np.stack([g, g, g, g]) for g in GREY], ".tif", {"photometric": "minisblack"}, {},
         "0.tif: it has 4 pages; choose one with --page 1 (to 4), or three as colours, such as "
         "--channels 1,2,3."),
        (GREY, ".tif", {}, {"page": 2}, "0.tif: it has 1 page, but --page asks for 2."),
        (COLOUR, ".tif", {"photometric": "rgb"}, {"channels": (4,)}, "0.tif: it has 3 channels, "
         "but --channels asks for 4."),
        ([bands(i) for i in range(N)], ".png", {}, {}, "0.png: " + NOT_OPAQUE.format("15 to 215, "
         "100 % of pixels partly transparent)") + "--channels 1,2,3 ignores it."),
        ([bands(i) * np.array([1, 1, 1, 0], np.uint8) for i in range(N)], ".png", {}, {},
         "0.png: " + NOT_OPAQUE.format("0 to 0, 0 % of pixels partly transparent)")
         + "--channels 1,2,3 ignores it."),
        ([hot(i) for i in range(N)], ".png", {}, {}, "16-bit values reach from 0 to 65535, but all "
         "except 0.1 % lie between 0 and 3701.78 (the first image is 0.png). Choose "
         "--intensity data, percentiles, full, or LOW,HIGH."),
        ([np.zeros((HIGH, WIDE), np.uint8)] * N, ".png", {}, {}, "All 6 images that were examined "
         "are blank, the first is 0.png (every value is 0). Check the files, their bands and their "
         "alpha."),
        ([g.astype(np.uint16) for g in GREY], ".png", {}, {"strict": True}, "Assumed: 16-bit "
         "values are shown from 0 (black) to 255 (white), as --intensity 0,255 would (--strict "
         "assumes nothing; if it is right, give --intensity=0,255)."),
        (GREY, ".png", {}, {"intensity": "wide"}, "--intensity must be one of auto, full, data, "
         "percentiles, window, or LOW,HIGH such as 0,4095, got 'wide'."),
        (GREY, ".png", {}, {"channels": (1, 2)}, "--channels must be one number, or three for red, "
         "green and blue, each 1 or more, got 1,2."),
        (GREY, ".png", {}, {"page": -1}, "--page must be 1 or more, got -1."),
    ],
)  # fmt: skip
def test_what_could_mean_several_things_is_refused(
    tmp_path, values, suffix, options, reading, message
):
    assert said(read, table(tmp_path, values, suffix, **options), **reading) == message


def test_files_of_a_set_made_in_python_are_shown_alike(tmp_path):
    table(tmp_path, [each.astype(np.uint16) << 4 for each in GREY])
    files = [tmp_path / f"{number}.tif" for number in range(N)]
    images = make_image_set([*files, GREY[0]], np.arange(N + 1.0))
    np.testing.assert_allclose(shown(images)[:N].astype(int), in_grey(GREY), atol=1)
    assert images.facts["assumed"][0].startswith("16-bit values are shown from 0 (black) to 4095")


def test_single_image_of_unknown_range_is_refused(tmp_path):
    saved(tmp_path / "a.png", grey(0).astype(np.uint16) << 4)
    assert said(Image("a", tmp_path / "a.png").decode) == (
        "a: its 16-bit values reach from 640 to 3840, which does not say what is black and white; "
        "give --intensity LOW,HIGH, or read it with its data set"
    )


def test_images_without_usable_values_are_skipped(tmp_path):
    blank = np.full((HIGH, WIDE), 255, np.uint8)
    images = read(table(tmp_path / "blank", [*GREY, blank], ".png"))
    assert len(images) == N
    assert skipped(images) == {"6.png": "it is blank: every value is 255"}
    values = [(each / 255).astype(np.float32) for each in GREY]
    values[3][0] = np.nan
    images = read(table(tmp_path / "nan", values))
    assert len(images) == N - 1
    reason = "some of its values are not finite; replace or remove them"
    assert skipped(images) == {"3.tif": reason}


def test_range_in_use_is_that_of_the_bits_if_half_full():
    for kind, low, high, expected in (
        (np.uint16, 10.0, 200.0, (0, 255)),
        (np.uint16, 10.0, 600.0, (0, 1023)),
        (np.uint16, 0.0, 4095.0, (0, 4095)),
        (np.uint16, 10.0, 1100.0, (10, 1100)),
        (np.float32, 0.1, 0.9, (0, 1)),
        (np.float32, 0.1, 0.2, (0.1, 0.2)),
    ):
        assert range_in_use(np.dtype(kind), (low, high), (low, high)) == expected


def test_animated_gif_is_refused(tmp_path):
    frames = [PIL.Image.fromarray(each) for each in GREY]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    PIL.Image.fromarray(GREY[0]).save(tmp_path / "b.png", exif=exif(1))
    (tmp_path / "t.csv").write_text("image,measure\na.gif,1\nb.png,2\n")
    message = "a.gif: it has 6 frames; choose one with --page 1 (to 6)."
    assert said(read, f"csv:{tmp_path}/t.csv") == message


# --- many images, of which a few are examined ----------------------------------------------------

MANY = 150  # of which every third is examined, from the first on


def shard(folder, values):
    """A tar shard of PNG images, one for each array; its specification."""
    members = []
    for number, each in enumerate(values):
        content = io.BytesIO()
        PIL.Image.fromarray(each).save(content, "PNG")
        members += [
            (f"{number:03}.png", content.getvalue()),
            (f"{number:03}.json", {"measure": number}),
        ]
    return f"tar:{packed(folder / 't.tar', members)}"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


def many(odd, place, other):
    """Small images of one type, and one of another at a place."""
    return [other if number == place else odd for number in range(MANY)]


SMALL = grey(0)[::6]
DEEP = SMALL.astype(np.uint16) << 4
RANGE = "16-bit values are shown from 0 (black) to 4095 (white), as --intensity 0,4095 would"


@pytest.mark.parametrize(
    ("usual", "other"), [(SMALL, DEEP), (DEEP, SMALL)], ids=["one deep", "one plain"]
)
def test_examined_images_of_two_types_are_shown_by_their_own(tmp_path, cached, usual, other):
    images = read(shard(tmp_path, many(usual, 3, other)))
    for image in images.images[:6]:
        np.testing.assert_allclose(shown_one(image), in_grey([SMALL])[0], atol=1)
    assert images.facts["assumed"] == [RANGE]


def shown_one(image):
    return np.asarray(image.decode()).astype(int)


@pytest.mark.parametrize(
    ("usual", "other", "bits"),
    [(DEEP, SMALL, (8, 16)), (SMALL, DEEP << 4, (16, 8))],
    ids=["one plain", "one deep"],
)
def test_range_is_not_given_to_values_of_another_type(tmp_path, cached, usual, other, bits):
    """Number 4 is not examined: it could not be told from a dark image, or one of 8 bits."""
    images = read(shard(tmp_path, many(usual, 4, other)))
    assert said(images.images[4].decode) == (
        "t.tar/004.png: its values are {}-bit, but {}-bit in the images that were examined; choose "
        "--intensity LOW,HIGH".format(*bits)
    )
    np.testing.assert_allclose(shown_one(images.images[5]), in_grey([SMALL])[0], atol=1)
    assert images.images[5].key() == read(shard(tmp_path, [usual] * 3)).images[1].key()


@pytest.mark.parametrize("usual", [DEEP, SMALL], ids=["one plain", "one deep"])
def test_range_that_is_given_is_of_deeper_images_only(tmp_path, cached, usual):
    other = SMALL if usual is DEEP else DEEP
    images = read(shard(tmp_path, many(usual, 4, other)), intensity="0,4095")
    for image in images.images:
        np.testing.assert_allclose(shown_one(image), in_grey([SMALL])[0], atol=1)
    n = 1 if usual is DEEP else MANY - 1
    line = f"{n} images of 8 bits are shown as they are, others by --intensity"
    assert images.facts["stated"] == [line]


def test_channels_are_those_asked_for_if_no_examined_image_can_be_read(tmp_path, cached):
    spec = shard(tmp_path, [colour(0)] * MANY)
    file = tmp_path / "t.tar"
    with tarfile.open(file) as tar:
        places = {m.name: m.offset_data for m in tar.getmembers()}
    with file.open("r+b") as tar:
        for number in range(0, MANY, 3):
            tar.seek(places[f"{number:03}.png"])
            tar.write(b"broken here")
    images = read(spec, channels=[2])
    np.testing.assert_array_equal(shown_one(images.images[1]), in_grey([colour(0)[..., 1]])[0])
    assert len(read(spec)) == MANY


@pytest.mark.parametrize("kind", ["csv", "tar"])
@pytest.mark.parametrize("bits", [8, 16])
def test_no_row_depends_on_where_a_blank_image_lies(tmp_path, cached, kind, bits):
    usual = SMALL if bits == 8 else DEEP
    rows = set()
    for place in (3, 4):  # examined, and not
        folder = tmp_path / str(place)
        folder.mkdir()
        values = many(usual, place, np.zeros_like(usual))
        images = read(shard(folder, values) if kind == "tar" else table(folder, values, ".png"))
        rows.add(len(images))
        is_stated = any("1 of 50 images that were examined are blank (the first is " in each
                        for each in images.facts.get("assumed", []))  # fmt: skip
        assert is_stated == (place == 3 and len(images) == MANY)
    assert rows == {MANY - 1 if (kind, bits) == ("csv", 16) else MANY}  # where all were examined


@pytest.mark.parametrize("other", ["./0.tif", "sub/../0.tif", "link.tif"])
def test_two_names_of_a_file_are_one_image(tmp_path, other):
    spec = table(tmp_path, [each.astype(np.uint16) << 4 for each in GREY])
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.tif").symlink_to(tmp_path / "0.tif")
    header, *rows = (tmp_path / "t.csv").read_text().split()
    (tmp_path / "t.csv").write_text("\n".join([header, *rows, f"{other},0.5"]))
    assert said(read, spec) == (
        f"{tmp_path}/t.csv: 0.tif is listed twice (also as {other}) in the subset t, with the "
        "measures 0 and 0.5. Keep one of each image and subset."
    )
    in_subsets = [f"{row},one" for row in rows] + [f"{other},0.5,two"]
    (tmp_path / "t.csv").write_text("\n".join([f"{header},subset", *in_subsets]))
    images = read(spec)
    assert len({image.rendering for image in images.images}) == 1
    pixels = {image.name: shown_one(image) for image in images.images}
    np.testing.assert_array_equal(pixels["0.tif"], pixels[other])


def test_unusable_file_is_skipped_by_all_its_names(tmp_path):
    values = [(each / 255).astype(np.float32) for each in GREY]
    values[0][0] = np.nan
    spec = table(tmp_path, values)
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text() + "\n./0.tif,0.5")
    assert skipped(read(spec)).keys() == {"0.tif", "./0.tif"}


def declared(value):
    return {"extratags": [(42113, 2, len(value) + 1, value, True)]}


@pytest.mark.parametrize(
    ("kind", "value"),
    [(np.float32, "-9999"), (np.uint16, "65535"), (np.float32, "nan"), (np.int16, "-32768")],
)
def test_pixels_without_data_are_black_and_do_not_count(tmp_path, kind, value):
    values = []
    for number in range(N):
        each = grey(number).astype(kind)
        each[:5] = float(value)
        values.append(each)
    images = read(table(tmp_path, values, **declared(value)))
    seen = shown(images)
    assert (seen[:, :5] == 0).all()
    low = 0 if kind != np.int16 else 40
    expected = (in_grey(GREY).astype(float) - low) / ((240 if low else 255) - low) * 255
    np.testing.assert_allclose(seen[:, 5:], expected[:, 5:], atol=1)
    assert f"({value}, as they declare)" in images.facts["stated"][0]
    assert len({image.key() for image in images.images}) == N


def test_a_value_far_from_all_others_that_is_not_declared_is_refused(tmp_path):
    values = [each.astype(np.float32) for each in GREY]
    for each in values:
        each[:5] = -9999
    spec = table(tmp_path, values)
    found = said(read, spec)
    assert "values are -9999, and all others lie between 40 and 240" in found
    assert "as if it stood for no data. Choose --intensity=40,240, or data." in found
    assert shown(read(spec, intensity="40,240")).max() == 255


def test_images_that_use_a_small_part_of_the_range_are_stated(tmp_path):
    """8 bits in files of 16, among others of 16."""
    values = [each.astype(np.uint16) * (257 if i % 2 else 1) for i, each in enumerate(GREY)]
    assumed = read(table(tmp_path, values)).facts["assumed"]
    assert assumed[1] == (
        "3 of 6 images use less than an eighth of the range of all (the first is 0.tif), and are "
        "shown as dark"
    )


def test_values_of_odd_types_are_shown_or_skipped(tmp_path):
    wide = [each.astype(np.uint64) << 44 for each in GREY]
    assert shown(read(table(tmp_path / "a", wide))).max() > 200
    for folder, values, options, reason in (
        ("b", [each.astype(np.complex64) for each in GREY], {}, "its values are complex"),
        ("c", COLOUR, {"photometric": "cielab"}, "its colours are in LAB; save it as RGB"),
    ):
        assert reason in said(read, table(tmp_path / folder, values, **options))


def test_packed_12_bits_are_read(tmp_path):
    """Two values in three bytes, as cameras of microscopes save them."""
    lines = ["image,measure"]
    for number, each in enumerate(GREY):
        first, second = (each.astype(int) << 4).ravel().reshape(-1, 2).T
        packed_ = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
        content = packed_.astype(np.uint8).tobytes()
        tags = [(256, 3, WIDE), (257, 3, HIGH), (258, 3, 12), (259, 3, 1), (262, 3, 1),
                (273, 4, 8), (277, 3, 1), (278, 3, HIGH), (279, 4, len(content))]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        end = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
        start = b"II*\0" + struct.pack("<I", 8 + len(content))
        (tmp_path / f"{number}.tif").write_bytes(start + content + end)
        lines.append(f"{number}.tif,{number}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    images = read(f"csv:{tmp_path}/t.csv")
    np.testing.assert_allclose(shown(images).astype(int), in_grey(GREY), atol=1)


@pytest.mark.parametrize("tag", ["ImageLength", "TileWidth", "TileLength", "the data"])
def test_a_tiff_with_a_broken_header_or_broken_data_is_skipped(tmp_path, tag):
    file = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 4096, (32, 32), np.uint16)
    tifffile.imwrite(file, values, compression="zlib", tile=(16, 16))
    content = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        place = page.dataoffsets[0] + 8 if tag == "the data" else page.tags[tag].valueoffset
    content[place : place + 2] = b"\0\0"
    file.write_bytes(content)
    (tmp_path / "t.csv").write_text("image,measure\na.tif,0.5\n")
    start = f"{tmp_path}/t.csv has no image that can be used. 1 were skipped, the first is a.tif: "
    assert said(read, f"csv:{tmp_path}/t.csv").startswith(start)


def a_tiff(chain, **tags):
    """Pages of eight rows, each of which names the next; tags of the first are replaced."""
    known = {"ImageWidth": 256, "ImageLength": 257, "BitsPerSample": 258, "Compression": 259,
             "Photometric": 262, "Offset": 273, "SamplesPerPixel": 277, "Rows": 278,
             "Bytes": 279, "Subfile": 254}  # fmt: skip
    values = {"ImageWidth": [8], "ImageLength": [8], "BitsPerSample": [8], "Compression": [1],
              "Photometric": [1], "Offset": [8], "SamplesPerPixel": [1], "Rows": [8],
              "Bytes": [64], "Subfile": [0]}  # fmt: skip
    start, size = 8 + 64, 2 + 12 * len(values) + 4
    content = b"II*\0" + struct.pack("<I", start) + bytes(range(64))
    for page, following in enumerate(chain):
        content += struct.pack("<H", len(values))
        here = values | (tags if page == 0 else {})
        for name, each in sorted(here.items(), key=lambda tag: known[tag[0]]):
            packed_ = struct.pack("<HH", *each) if len(each) == 2 else struct.pack("<I", *each)
            content += struct.pack("<HHI", known[name], 3 if len(each) == 2 else 4, len(each))
            content += packed_
        content += struct.pack("<I", 0 if following is None else start + size * following)
    return io.BytesIO(content)


@pytest.mark.parametrize(
    "chain", [[0], [1, 0], [1, 2, 1], [*range(1, 150), 0], [*range(1, 250), 120]]
)
def test_pages_that_lead_in_a_circle_are_refused(chain):
    assert rendered(a_tiff([None])).size == (8, 8)
    assert rendered(a_tiff([*range(1, 150), None]), Rendering(page=150)).size == (8, 8)
    with pytest.raises(DataError, match="its list of pages leads in a circle"):
        rendered(a_tiff(chain))


@pytest.mark.parametrize("n", [2, 150])
def test_pages_without_a_tag_that_lead_in_a_circle_are_refused(n):
    content = a_tiff([1]).getvalue()
    at = [len(content) + 6 * page for page in range(n)]  # each six bytes: no tag, the next page
    pages = b"".join(struct.pack("<HI", 0, following) for following in [*at[1:], at[0]])
    with pytest.raises(DataError, match="its list of pages leads in a circle"):
        rendered(io.BytesIO(content + pages))


@pytest.mark.parametrize(
    "name",
    ["ImageWidth", "ImageLength", "BitsPerSample", "Compression", "Photometric", "Offset",
     "SamplesPerPixel", "Rows", "Bytes", "Subfile"],
)  # fmt: skip
@pytest.mark.parametrize("values", [[8, 8], [1, 1], [60_000, 50_000], [2**32 - 1]])
def test_a_tag_with_other_values_than_it_may_have_is_refused_or_read(name, values):
    try:
        assert min(rendered(a_tiff([None], **{name: values})).size) > 0
    except DataError as error:
        assert str(error)


def test_samples_count_where_a_header_claims_too_many_values():
    sides = {"ImageWidth": [14_000], "ImageLength": [14_000]}
    with pytest.raises(DataError, match="14000 x 14000 pixels of 5 values, more than the 200"):
        rendered(a_tiff([None], **sides, SamplesPerPixel=[5]))
    with pytest.raises(DataError, match="its header says 196 million values, and it has 198 bytes"):
        rendered(a_tiff([None], **sides))


@pytest.mark.parametrize("kind", ["1", "L", "RGB"])
def test_large_images_that_are_almost_blank_are_read(tmp_path, kind):
    picture = PIL.Image.new(kind, (9_000, 9_000))
    picture.putpixel((7, 5), 1 if kind == "1" else 255 if kind == "L" else (255, 255, 255))
    form = {"1": "group4", "L": "tiff_lzw", "RGB": "tiff_deflate"}[kind]
    picture.save(tmp_path / "a.tif", compression=form)
    assert rendered(tmp_path / "a.tif").getpixel((7, 5)) == (255, 255, 255)


@pytest.mark.parametrize("number", [b"0", b"-", b"9", b"e", b"."])
@pytest.mark.parametrize("of", [b"images=3", b"slices=3"])
def test_a_description_of_pages_that_are_not_there_is_refused_or_ignored(tmp_path, of, number):
    values = np.random.default_rng(0).integers(0, 255, (3, 12, 14), np.uint8)
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, values, imagej=True, metadata={"axes": "ZYX"})
    content = file.read_bytes()
    assert of in content
    file.write_bytes(content.replace(of, of[:-1] + number))
    try:
        assert rendered(file, Rendering(page=1)).size == (14, 12)
    except DataError as error:
        assert str(error)
