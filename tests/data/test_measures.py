"""Shares are compared with counts of pixels, and windows with the best of many sizes."""

import numpy as np
import pytest

from scalecut.data.measures import (
    FITS,
    MEASURES,
    Frame,
    clipped,
    measure_named,
    share_of,
    share_of_mask,
    shares_of_labels,
    upright,
)
from scalecut.errors import DataError, nearest

SIZES = [(400, 300), (250, 250), (7, 300)]
FRAMES = [(299, 299), (224, 448)]


def size(window):
    return window[2] - window[0], window[3] - window[1]


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def test_window_is_centred():
    for fit in FITS:
        for width, height in SIZES:
            left, top, right, bottom = Frame(224, 448, fit).window(width, height)
            assert (left + right) / 2 == pytest.approx(width / 2)
            assert (top + bottom) / 2 == pytest.approx(height / 2)


def test_squash_shows_the_whole_image():
    for width, height in SIZES:
        assert Frame(224, 448).window(width, height) == (0, 0, width, height)


def test_crop_is_the_largest_of_its_proportions_that_fits():
    for shown in [1.0, 0.875]:
        for tall, wide in FRAMES:
            for width, height in SIZES:
                inside = Frame(tall, wide, "crop", shown).window(width, height)
                steps = np.linspace(0, 5, 200_001)  # sizes of the crop, in frames
                largest = steps[
                    (steps * wide <= width + 1e-9) & (steps * tall <= height + 1e-9)
                ].max()
                expected = [largest * wide * shown, largest * tall * shown]
                np.testing.assert_allclose(size(inside), expected, rtol=2e-3)
                assert min(inside) >= 0 and inside[2] <= width and inside[3] <= height


def test_pad_is_the_smallest_of_its_proportions_that_holds_the_image():
    for tall, wide in FRAMES:
        for width, height in SIZES:
            around = size(Frame(tall, wide, "pad").window(width, height))
            assert around[0] / around[1] == pytest.approx(wide / tall)
            assert min(around[0] - width, around[1] - height) == pytest.approx(0)


def test_crop_of_timm_keeps_its_share_of_the_shorter_side():
    assert Frame(224, 224, "crop", 0.875).window(400, 320) == (60, 20, 340, 300)


def test_shares_of_a_box_are_those_of_its_pixels(rng):
    for fit in FITS:
        window = Frame(10, 20, fit).window(64, 48)
        left, right = np.sort(rng.choice(65, 2, replace=False))
        top, bottom = np.sort(rng.choice(49, 2, replace=False))
        y, x = np.mgrid[0:480, 0:640] / 10 + 0.05  # tenths of pixels
        seen = (window[0] < x) & (x < window[2]) & (window[1] < y) & (y < window[3])
        seen &= (left < x) & (x < right) & (top < y) & (y < bottom)
        area, height = share_of(tuple(map(float, (left, top, right, bottom))), window)
        assert area == pytest.approx(seen.sum() / 100 / np.prod(size(window)))
        assert height == pytest.approx(seen.any(axis=1).sum() / 10 / size(window)[1])


def test_box_outside_the_window_has_no_share():
    assert share_of((0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 40.0, 20.0)) == (0, 0)


def test_rectangular_mask_has_the_shares_of_its_box(rng):
    for fit in FITS:
        for shown in [1.0, 0.77]:
            window = Frame(30, 17, fit, shown).window(64, 47)
            left, right = np.sort(rng.choice(65, 2, replace=False))
            top, bottom = np.sort(rng.choice(48, 2, replace=False))
            mask = np.zeros((47, 64), dtype=bool)
            mask[top:bottom, left:right] = True
            box = tuple(map(float, (left, top, right, bottom)))
            assert share_of_mask(mask, window) == pytest.approx(share_of(box, window))


def test_mask_is_as_high_as_what_the_window_shows_of_it():
    mask = np.zeros((10, 10), dtype=bool)
    mask[[1, 5, 8], [0, 5, 9]] = True
    assert share_of_mask(mask, (0.0, 0.0, 10.0, 10.0)) == (0.03, 0.8)
    assert share_of_mask(mask, (2.0, 0.0, 8.0, 10.0)) == pytest.approx((1 / 60, 0.1))
    assert share_of_mask(mask, (2.0, 0.0, 4.0, 10.0)) == (0, 0)


def test_labels_have_the_shares_of_each_of_their_masks(rng):
    for fit in FITS:
        labels = rng.integers(0, 5, size=(31, 20))
        window = Frame(10, 12, fit).window(20, 31)
        for label, (area, height, box) in enumerate(shares_of_labels(labels, window), start=1):
            mask = labels == label
            assert (area, height) == pytest.approx(share_of_mask(mask, window))
            rows, columns = np.nonzero(mask)
            assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_measures_are_functions_of_the_shares():
    frame = Frame(100, 200)
    values = {name: measure(0.25, 0.4, frame) for name, measure in MEASURES.items()}
    assert values == {"area": 0.25, "sqrt-area": 0.5, "log-area": -2, "height": 0.4, "pixels": 5000}


def test_log_area_counts_octaves():
    log_area = measure_named("log-area")
    assert log_area(0.2, 1.0, Frame(9, 9)) - log_area(0.1, 1.0, Frame(9, 9)) == pytest.approx(1)


def test_turned_box_holds_the_turned_pixels(rng):
    for orientation in [5, 6, 7, 8]:
        stored = np.zeros((48, 64), dtype=bool)
        left, right = np.sort(rng.choice(65, 2, replace=False))
        top, bottom = np.sort(rng.choice(49, 2, replace=False))
        stored[top:bottom, left:right] = True
        turned = {
            5: stored.T,
            6: np.rot90(stored, -1),
            7: np.rot90(stored, 2).T,
            8: np.rot90(stored),
        }[orientation]
        rows, columns = np.nonzero(turned)
        box = upright(tuple(map(float, (left, top, right, bottom))), orientation, 64, 48)
        assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_box_is_clipped_by_at_most_one_pixel():
    assert clipped((-1.0, -0.5, 41.0, 30.5), 40, 30) == (0, 0, 40, 30)
    for edge in range(4):  # each is checked
        box = [5.0, 5.0, 20.0, 20.0]
        box[edge] += -7.0 if edge < 2 else 22.0
        with pytest.raises(DataError, match="reaches outside the image of 40 x 40"):
            clipped(tuple(box), 40, 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Frame(9, 9, "corp"),
            "No fit is named 'corp'. Give one of squash, crop, pad.",
        ),
        (
            lambda: Frame(0, 9),
            "Width and height of a frame must be at least 1 pixel, got 9 x 0.",
        ),
        (
            lambda: Frame(9, 9, "crop", 1.5),
            "The shown share of a crop must be above 0 and at most 1, got 1.5.",
        ),
        (
            lambda: clipped((10.0, 20.0, 500.0, 300.0), 400, 300),
            "box 10 20 500 300 reaches outside the image of 400 x 300; fix the annotation, "
            "or give the image that it was drawn on",
        ),
        *(
            (
                lambda box=box: clipped(box, 40, 30),
                f"box {given} is empty: its right and bottom must lie beyond its left and top; "
                "fix the annotation",
            )
            for box, given in [
                ((5.0, 1.0, 5.0, 9.0), "5 1 5 9"),
                ((1.0, 9.0, 5.0, 1.0), "1 9 5 1"),
                ((1.0, 1.0, float("nan"), 9.0), "1 1 nan 9"),
            ]
        ),
        (
            lambda: measure_named("aera"),
            "No measure is named 'aera'. Give one of area, sqrt-area, log-area, height, pixels.",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(DataError) as error:
        make()
    assert str(error.value) == message


def test_nearest_names_come_first_and_the_rest_is_counted():
    names = ["cat", "horse", "dog", "cow", "sheep", "bird", "bottle"]
    assert nearest("Dgo", names).startswith("'dog', ")
    assert nearest("Dgo", names).endswith(" and 2 more")
