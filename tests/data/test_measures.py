"""Shares are counted pixel by pixel, and windows found by trying sizes, to compare with."""

import numpy as np
import pytest

from scalecut.data.measures import (
    FITS,
    MEASURES,
    Frame,
    clipped,
    measure_named,
    nearest,
    share_of,
    share_of_mask,
    shares_of_labels,
    upright,
)
from scalecut.errors import DataError

SIZES = [(400, 300), (300, 400), (250, 250), (101, 50), (7, 300)]
FRAMES = [(299, 299), (224, 448), (200, 100)]


def size(window):
    return window[2] - window[0], window[3] - window[1]


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_window_is_centred(fit, width, height):
    left, top, right, bottom = Frame(224, 448, fit).window(width, height)
    assert (left + right) / 2 == pytest.approx(width / 2)
    assert (top + bottom) / 2 == pytest.approx(height / 2)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_squash_shows_the_whole_image(width, height):
    assert Frame(224, 448).window(width, height) == (0, 0, width, height)


@pytest.mark.parametrize("shown", [1.0, 0.875, 0.5])
@pytest.mark.parametrize(("tall", "wide"), FRAMES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crop_is_the_largest_of_its_proportions_that_fits(width, height, tall, wide, shown):
    inside = Frame(tall, wide, "crop", shown).window(width, height)
    steps = np.linspace(0, 5, 200_001)  # sizes of the crop, in frames
    largest = steps[(steps * wide <= width + 1e-9) & (steps * tall <= height + 1e-9)].max()
    expected = [largest * wide * shown, largest * tall * shown]
    np.testing.assert_allclose(size(inside), expected, rtol=2e-3)
    assert min(inside) >= 0 and inside[2] <= width and inside[3] <= height


@pytest.mark.parametrize(("tall", "wide"), FRAMES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pad_is_the_smallest_of_its_proportions_that_holds_the_image(width, height, tall, wide):
    around = size(Frame(tall, wide, "pad").window(width, height))
    assert around[0] / around[1] == pytest.approx(wide / tall)
    assert min(around[0] - width, around[1] - height) == pytest.approx(0)


def test_crop_of_timm_keeps_its_share_of_the_shorter_side():
    assert Frame(224, 224, "crop", 0.875).window(400, 320) == (60, 20, 340, 300)


@pytest.mark.parametrize("fit", FITS)
def test_shares_of_a_box_are_those_of_its_pixels(rng, fit):
    window = Frame(10, 20, fit).window(64, 48)
    left, right = np.sort(rng.choice(65, 2, replace=False))
    top, bottom = np.sort(rng.choice(49, 2, replace=False))
    y, x = np.mgrid[0:480, 0:640] / 10 + 0.05  # tenths of pixels
    seen = (window[0] < x) & (x < window[2]) & (window[1] < y) & (y < window[3])
    seen &= (left < x) & (x < right) & (top < y) & (y < bottom)
    area, height = share_of(tuple(map(float, (left, top, right, bottom))), window)
    assert area == pytest.approx(seen.sum() / 100 / np.prod(size(window)))
    assert height == pytest.approx(seen.any(axis=1).sum() / 10 / size(window)[1])


def test_box_beside_the_window_has_no_share():
    assert share_of((0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 40.0, 20.0)) == (0, 0)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shown", [1.0, 0.77])
def test_rectangular_mask_has_the_shares_of_its_box(rng, fit, shown):
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


@pytest.mark.parametrize("fit", FITS)
def test_labels_have_the_shares_of_each_of_their_masks(rng, fit):
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


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_box_holds_the_turned_pixels(rng, orientation):
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


def test_box_is_clipped_by_no_more_than_a_pixel():
    assert clipped((-1.0, -0.5, 41.0, 30.5), 40, 30) == (0, 0, 40, 30)
    with pytest.raises(DataError) as error:
        clipped((10.0, 20.0, 500.0, 300.0), 400, 300)
    assert str(error.value) == (
        "box 10 20 500 300 reaches outside the image of 400 x 300; mend the annotation, "
        "or give the image that it was drawn on"
    )


@pytest.mark.parametrize(
    "box", [(5.0, 1.0, 5.0, 9.0), (1.0, 9.0, 5.0, 1.0), (1.0, 1.0, float("nan"), 9.0)]
)
def test_box_without_area_is_refused(box):
    with pytest.raises(DataError) as error:
        clipped(box, 40, 30)
    assert str(error.value) == (
        f"box {' '.join(f'{edge:g}' for edge in box)} is empty: its right and bottom must lie "
        "beyond its left and top; mend the annotation"
    )


@pytest.mark.parametrize("edge", range(4))
def test_each_edge_of_a_box_is_checked(edge):
    box = [5.0, 5.0, 20.0, 20.0]
    box[edge] += -7.0 if edge < 2 else 22.0
    with pytest.raises(DataError, match="reaches outside the image of 40 x 40"):
        clipped(tuple(box), 40, 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Frame(9, 9, "corp"),
            "There is no fit 'corp'. Choose one of 'crop', 'pad', 'squash'.",
        ),
        (
            lambda: Frame(0, 9),
            "A frame of 9 x 0 pixels holds no picture. Give a width and a height of 1 or more.",
        ),
        (
            lambda: Frame(9, 9, "crop", 1.5),
            "A crop cannot show 1.5 of an image. Give a share above 0, up to 1.",
        ),
        (
            lambda: measure_named("aera"),
            "There is no measure 'aera'. Choose one of 'area', 'log-area', 'sqrt-area', 'height', "
            "'pixels', or give your own in a table: csv:FILE.",
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
