"""Thumbnails, and the images to show: the worst, and some of every size."""

import io

import numpy as np
import PIL.Image
import pytest

from scalecut import DataError
from scalecut.data.images import Image
from scalecut.data.thumbnails import LONGEST, SPREAD, thumbnail, worth_showing


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((300, 600), (LONGEST, LONGEST // 2)),
        ((600, 150), (LONGEST // 4, LONGEST)),
        ((9, 7), (7, 9)),
    ],
    ids=["wide", "high", "smaller than that"],
)
def test_thumbnail_keeps_the_proportions_and_never_grows(shape, size):
    jpeg = thumbnail(Image("a", np.full((*shape, 3), 90, np.uint8)))
    stored = PIL.Image.open(io.BytesIO(jpeg))
    assert (stored.format, stored.size) == ("JPEG", size)
    np.testing.assert_allclose(np.array(stored), 90, atol=2)


def test_thumbnail_stands_upright(tmp_path):
    image = PIL.Image.new("RGB", (600, 300))
    image.paste("white", (0, 0, 300, 300))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image.save(tmp_path / "a.jpg", exif=exif)
    stored = PIL.Image.open(io.BytesIO(thumbnail(Image("a.jpg", tmp_path / "a.jpg"))))
    assert stored.size == (LONGEST // 2, LONGEST)
    rows = np.array(stored.convert("L")).mean(axis=1)
    assert rows[:10].mean() > 245 > 10 > rows[-10:].mean()


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError) as error:
        thumbnail(Image("a.jpg", tmp_path / "a.jpg"))
    assert str(error.value) == "a.jpg: there is no such file; check its name and folder"


def test_worst_of_every_layer_and_subset_are_shown(rng):
    n, layers, subset = 300, 4, [("dog", "cat", "bird")[number % 3] for number in range(300)]
    measure = rng.random(n)
    errors = rng.random((layers, n)) * [0.001 if name == "bird" else 1.0 for name in subset]
    predicted = measure + errors
    chosen = set(worth_showing(measure, predicted, subset, 60).tolist())
    assert len(chosen) == 60
    for name in set(subset):
        rows = [row for row in range(n) if subset[row] == name]
        for of_layer in predicted:
            errors = [abs(of_layer[row] - measure[row]) for row in rows]
            assert rows[int(np.argmax(errors))] in chosen


def test_quarter_of_the_chosen_spreads_over_the_measure(rng):
    measure = rng.random(200)
    predicted = np.tile(measure, (2, 1))
    predicted[:, :150] += 1  # nothing else would be shown of the rest
    chosen = worth_showing(measure, predicted, ["a"] * 200, 40)
    spread = measure[chosen[: round(SPREAD * 40)]]
    np.testing.assert_allclose(
        np.sort(spread), np.quantile(measure, np.linspace(0, 1, 10), method="nearest")
    )


def test_images_that_were_never_held_out_come_last():
    predicted = np.array([[np.nan, 0.9, 0.2, np.nan]])
    chosen = worth_showing(np.array([0.1, 0.1, 0.1, 0.1]), predicted, ["a"] * 4, 2)
    assert chosen.tolist() == [1, 2]


def test_no_more_are_chosen_than_asked_or_available(rng):
    for most in (1, 7, 50):
        chosen = worth_showing(rng.random(20), rng.random((3, 20)), ["a"] * 20, most)
        assert len(set(chosen.tolist())) == len(chosen) == min(most, 20)
