"""Concepts of images whose answer is known."""

import io
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy.ndimage import gaussian_filter

from scalecut.data.concepts import (
    KNOWN,
    OF_BOX,
    blocking,
    concepts_of,
    edge_density,
    noise,
    of_box,
    of_pixels,
    sharpness,
    spectrum_slope,
)
from scalecut.data.images import Image, ImageSet, make_image_set
from scalecut.data.measures import Frame

SIDE = 96


def flat(*colour):
    return np.full((SIDE, SIDE, 3), colour, dtype=np.uint8)


def pink(exponent, seed=0, side=256):
    """A field whose amplitude falls as frequency to this power."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    return np.fft.irfft2(frequency**exponent * phases, s=(side, side))


def test_colours_of_flat_images():
    red, grey = (
        of_pixels(flat(255, 0, 0), flat(255, 0, 0)),
        of_pixels(flat(51, 51, 51), flat(0, 0, 0)),
    )
    assert (red["hue-cos"], red["hue-sin"]) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    assert red["saturation"] == 1
    assert red["colourfulness"] == pytest.approx(0.3 * math.hypot(255, 127.5))
    assert grey["colourfulness"] == pytest.approx(0)
    assert grey["brightness"] == pytest.approx(0.2)
    assert grey["contrast"] == pytest.approx(0)
    assert all(math.isfinite(value) for value in [*red.values(), *grey.values()])


def test_half_red_half_cyan_has_no_mean_hue():
    both = flat(255, 0, 0)
    both[:, SIDE // 2 :] = (0, 255, 255)
    assert of_pixels(both, both)["hue-cos"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("deviation", [0.01, 0.05])
def test_noise_is_its_standard_deviation(deviation):
    ramp = np.linspace(0.2, 0.8, 200)[:, None] * np.ones(200)
    noisy = ramp + deviation * np.random.default_rng(0).standard_normal(ramp.shape)
    assert 2 ** noise(noisy) - 1 / 255 == pytest.approx(deviation, rel=0.05)


def test_blur_makes_an_image_less_sharp_and_leaves_fewer_edges():
    fine = np.random.default_rng(1).random((SIDE, SIDE))
    series = [gaussian_filter(fine, sigma) for sigma in (0.5, 1, 2, 4)]
    measured = [sharpness(each) for each in series]
    assert measured == sorted(measured, reverse=True)
    half = np.zeros((SIDE, SIDE))
    half[:, SIDE // 2], half[:, SIDE // 2 + 1 :] = 0.5, 1  # an edge in the middle of a pixel
    assert edge_density(half) == pytest.approx(1 / SIDE, rel=0.2)
    assert edge_density(np.ones((SIDE, SIDE))) == 0


@pytest.mark.parametrize("exponent", [-0.5, -1.0, -1.5])
def test_slope_of_the_spectrum_is_that_of_the_field(exponent):
    found = [spectrum_slope(pink(exponent, seed)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(exponent, abs=0.1)


def test_strong_jpeg_compression_shows_its_blocks_and_png_does_not():
    field = pink(-1.0, side=128)
    grey = np.uint8(np.clip(127 + 40 * field / field.std(), 0, 255))
    plain = np.repeat(grey[..., None], 3, axis=2)

    def compressed(quality):
        stored = io.BytesIO()
        PIL.Image.fromarray(plain).save(stored, "JPEG", quality=quality)
        return np.array(PIL.Image.open(stored).convert("RGB"))

    assert blocking(plain) == pytest.approx(0, abs=0.1)
    assert blocking(compressed(5)) > blocking(compressed(30)) > blocking(compressed(95))
    assert blocking(compressed(5)) > 0.5
    assert blocking(plain[:7, :7]) == 0  # smaller than a block


def test_place_and_shape_of_a_box_are_those_of_what_is_shown():
    window = Frame(64, 64, "crop").window(200, 100)  # the square in the middle
    assert window == (50, 0, 150, 100)
    found = of_box((75.0, 50.0, 125.0, 100.0), window)
    assert found == pytest.approx(
        {"area": 0.25, "height": 0.5, "x": 0.5, "y": 0.75, "centre-distance": 0.25, "aspect": 0}
    )
    squashed = of_box((0.0, 0.0, 100.0, 100.0), Frame(64, 64).window(200, 100))
    assert squashed["aspect"] == -1  # twice as tall as wide, when squashed


def test_a_table_of_concepts_begins_with_the_measure_and_has_no_column_twice():
    rng = np.random.default_rng(2)
    pixels = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    images = tuple(Image(f"{number}", each) for number, each in enumerate(pixels))
    boxes = np.array([[0, 0, 30, 20], [10, 10, 40, 30], [5, 0, 60, 40]], dtype=float)
    marks = tuple(((0.0, 0.0, 1.0, 1.0),) * number for number in (1, 2, 3))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 2400
    whole = ImageSet(images, area, "area", ("a",) * 3, ("0", "1", "2"), boxes, marks=marks)
    table = concepts_of(whole, Frame(32, 32))
    assert table.columns[:8].tolist() == ["area", "height", *OF_BOX, "objects", "brightness"]
    assert table.columns.is_unique
    assert set(table) == set(KNOWN)
    np.testing.assert_allclose(table.area, area)
    assert table.objects.tolist() == [1, 2, 3]
    boxes[0] = np.nan
    unknown = replace(whole, boxes=boxes, marks=((), *marks[1:]))
    part = concepts_of(unknown, Frame(32, 32))
    assert [*part] == [*table]
    of_object = ["height", *OF_BOX, "objects"]
    assert part.loc[0, of_object].isna().all() and part.area[0] == area[0]
    pd.testing.assert_frame_equal(part.loc[1:], table.loc[1:])
    pd.testing.assert_frame_equal(part.drop(columns=of_object), table.drop(columns=of_object))
    none = concepts_of(replace(unknown, boxes=None, marks=((),) * 3), Frame(32, 32))
    assert {*table} - {*none} == {*of_object}
    bare = concepts_of(make_image_set(pixels, [3.0, 1.0, 2.0], measure_name="age"), Frame(32, 32))
    assert bare.columns[:2].tolist() == ["age", "brightness"]
    np.testing.assert_allclose(bare["brightness"], table.brightness)
