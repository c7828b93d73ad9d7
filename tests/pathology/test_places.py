"""Places on planted tissue, against loops over pixels."""

import numpy as np
import pytest

from scalecut.pathology.places import (
    common_places,
    corners,
    most_places,
    spread_places,
    usable_places,
)
from scalecut.pathology.tissue import Tissue

SIDE, COPY = 400, 100  # of the slide, and of its small copy


def tissue_of(found, pen=None):
    pen = np.zeros_like(found) if pen is None else pen
    return Tissue(found & ~pen, pen, (SIDE, SIDE))


@pytest.fixture
def shown_in():
    found, pen = (np.zeros((COPY, COPY), dtype=bool) for _ in range(2))
    found[20:80, 30:], pen[20:80, 60:63] = True, True  # to the right edge
    return tissue_of(found, pen)


@pytest.mark.parametrize("extent", [20, 60])
def test_a_place_has_half_tissue_no_pen_and_lies_inside(shown_in, extent):
    found = usable_places(shown_in, extent)
    n = extent // 8  # pixels of the copy to each side
    for y, x in np.ndindex(COPY, COPY):
        if abs(y - 50) > 46 or abs(x - 50) > 46:
            continue  # half of a pixel decides there
        around = slice(max(y - n, 0), y + n + 1), slice(max(x - n, 0), x + n + 1)
        share = shown_in.found[around].sum() / (2 * n + 1) ** 2
        is_clear = abs(share - 0.5) > 0.15
        if is_clear and not shown_in.pen[around].any():
            inside = extent / 2 <= 4 * (x + 1) and 4 * x <= SIDE - extent / 2
            assert found[y, x] == (share > 0.5 and inside), (y, x)
        if shown_in.pen[y, x]:
            assert not found[y, x]


def test_all_of_a_slide_of_one_patch_is_its_middle():
    shown_in = tissue_of(np.ones((COPY, COPY), dtype=bool))
    usable, kept = common_places(shown_in, [100, SIDE])
    assert kept == [100, SIDE]
    centres = spread_places(usable, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(corners(centres, shown_in, SIDE, SIDE), np.zeros((3, 2)))
    np.testing.assert_array_equal(corners(centres, shown_in, 100, SIDE), np.full((3, 2), 150))


def test_the_largest_patches_are_left_out_where_they_show_too_little():
    found = np.zeros((COPY, COPY), dtype=bool)
    found[:, 45:55] = True  # a needle of 40 px
    usable, kept = common_places(tissue_of(found), [20, 60, 200])
    assert kept == [20, 60]
    assert usable.any()
    usable, kept = common_places(tissue_of(np.zeros_like(found)), [20, 60])
    assert not usable.any()
    assert not kept


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_places_are_spread_evenly_and_fewer_are_the_first_of_more(seed):
    usable = np.zeros((COPY, COPY), dtype=bool)
    usable[10:90, 10:90] = True
    found = spread_places(usable, 64, np.random.default_rng(seed))
    assert usable[tuple(found.astype(int).T[::-1])].all()
    quadrants = np.bincount((found > 50) @ [1, 2], minlength=4)
    assert quadrants.min() >= 11  # of 16; of random places, 6 are usual
    apart = np.linalg.norm(found[:, None] - found, axis=2) + 1e9 * np.eye(64)
    assert apart.min() > 0.4 * 80 / 8  # of the distance on a lattice; random places are at 0.05
    fewer = spread_places(usable, 10, np.random.default_rng(seed))
    np.testing.assert_array_equal(fewer, found[:10])


def test_places_are_the_same_at_every_resolution(shown_in):
    centres = np.array([[50.0, 50.0], [31.3, 77.7], [2.0, 2.0]])
    middles = [corners(centres, shown_in, extent, 80) + extent / 2 for extent in (20, 41, 80)]
    np.testing.assert_allclose(middles[0], middles[1], atol=0.5)
    np.testing.assert_allclose(middles[0], middles[2], atol=0.5)
    np.testing.assert_allclose(middles[2][2], 40)  # kept inside


def test_there_are_no_more_places_than_patches_next_to_each_other(shown_in):
    usable = np.zeros((COPY, COPY), dtype=bool)
    usable[:10, :10] = True  # 40 x 40 px of the slide
    assert most_places(usable, shown_in, 10, 64) == 25  # from corner to corner
    assert most_places(usable, shown_in, 10, 5) == 5
    assert most_places(usable, shown_in, 100, 64) == 1
