"""Tissue, glass and pen marks of planted colours."""

import colorsys

import numpy as np
import PIL.Image
import pytest

from scalecut import DataError
from scalecut.pathology import tissue as module
from scalecut.pathology.slides import TileField
from scalecut.pathology.tissue import MOST_PEN, marked_by_pens, pen_marks, tissue

GLASS, STAINED = (244, 243, 245), (205, 140, 190)
PENS = {"green": (20, 150, 80), "blue": (40, 60, 170), "red": (210, 20, 40), "black": (30, 28, 33)}
# of haematoxylin, eosin, diaminobenzidine and blood
STAINS = [(88, 60, 130), (60, 40, 100), (230, 150, 190), (130, 80, 40), (170, 60, 80)]


def field(pixels, times=10):
    """A tile of ten times as many pixels, of which the small copy has 512."""
    return TileField(PIL.Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1)))


def shrunk(start, stop, n=200):
    """Pixels of the small copy that lie inside."""
    return slice(int(np.ceil(start * 512 / n)), int(stop * 512 / n))


def half_stained(side=200):
    pixels = np.full((side, side, 3), GLASS, dtype=np.uint8)
    pixels[:, side // 2 :] = STAINED
    return pixels


@pytest.mark.parametrize("colour", PENS)
def test_pen_marks_are_no_tissue_whatever_is_below_them(colour):
    pixels = half_stained()
    pixels[40:60] = PENS[colour]  # across glass and tissue
    found = tissue(field(pixels))
    assert not found.found[shrunk(39, 61)].any()
    assert found.pen[shrunk(40, 60)].all()
    assert 0.1 <= found.pen.mean() < 0.13  # the stroke, and a little around it
    assert found.found[shrunk(70, 200), shrunk(105, 200)].all()
    assert not found.found[shrunk(70, 200), shrunk(0, 95)].any()
    assert not found.is_in((1200.0, 450.0, 1500.0, 750.0))
    assert found.is_in((1200.0, 1000.0, 1500.0, 1300.0))


@pytest.mark.parametrize("colour", STAINS)
def test_stains_are_no_pens(colour):
    pixels = half_stained()
    pixels[:, 100:] = colour
    found = tissue(field(pixels))
    assert not found.pen.any()
    assert found.found[:, shrunk(102, 200)].all()


def test_single_dark_nuclei_are_no_pen_marks():
    pixels = half_stained()
    for y, x in np.ndindex(10, 5):
        pixels[20 * y + 5 : 20 * y + 11, 105 + 20 * x : 111 + 20 * x] = PENS["black"]
    assert not tissue(field(pixels)).pen.any()
    assert not tissue(field(pixels, times=1)).pen.any()  # a small tile, in which they are large


def test_hues_are_those_of_the_standard_library():
    colours = np.random.default_rng(0).integers(0, 256, (200, 3)).astype(float)
    by_hand = [360 * colorsys.rgb_to_hsv(*colour)[0] for colour in colours / 255]
    np.testing.assert_allclose(module._hue(colours), by_hand, atol=1e-6)


def plain(hue, side=50):
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue / 360, 0.9, 0.8))
    return np.full((side, side, 3), np.rint(colour), dtype=np.uint8)


def test_red_is_red_on_both_sides_of_zero():
    for hue in (350, 5):
        assert pen_marks(plain(hue), (2000, 2000)).all()
    assert not pen_marks(plain(25), (2000, 2000)).any()  # orange
    assert not pen_marks(plain(5), (300, 300)).any()  # no larger than some nuclei


def test_what_shows_no_tissue_is_said_in_one_line():
    pixels = np.full((200, 200, 3), GLASS, dtype=np.uint8)
    pixels[:60] = PENS["blue"]
    with pytest.raises(DataError) as error:
        tissue(field(pixels))
    assert str(error.value) == (
        "it shows no stained tissue (0 % of its area, and 30 % is marked by a pen)"
    )
    with pytest.raises(DataError, match="it is dark, as in fluorescence"):
        tissue(field(np.full((200, 200, 3), (8, 5, 30), dtype=np.uint8)))


def test_pen_marks_are_counted_in_one_sentence():
    assert marked_by_pens({}, 20) == []
    assert marked_by_pens({"a": 0.01, "b": 0.043}, 20) == [
        "Pen marks on 2 of 20 are no tissue (most on b, 4.3 % of its area)."
    ]
    assert MOST_PEN < 0.05  # a patch may touch the rim of a stroke, not show it
