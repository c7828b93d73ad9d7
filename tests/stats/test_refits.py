"""Weighted fits are compared with rows that are really repeated."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from scalecut.stats.refits import recentred, refit_r_squared, weighted_ridge
from scalecut.stats.ridge import decompose, nested_ridge


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


def by_repeated_rows(train, target, times, groups, held_out):
    """Nested ridge on rows that are written down as often as they were drawn."""
    rows = np.repeat(np.arange(len(train)), times)
    parts = decompose(train[rows], held_out)
    return nested_ridge(parts, target[rows][:, None], groups[rows]).predictions[:, 0]


@pytest.mark.parametrize(("n", "d"), [(30, 5), (20, 40)])
def test_weights_are_repeated_rows_whose_copies_are_one_group(rng, n, d):
    train, held_out = rng.normal(size=(n, d)), 3 * rng.normal(size=(9, d))
    train[:, 0] = 1.0  # a constant channel
    target = train[:, 1] + rng.normal(size=n) + 5.0
    groups, times = rng.integers(0, n // 2, size=n), rng.integers(1, 4, size=n)
    found = weighted_ridge(train, target, times.astype(float), groups, held_out)
    by_hand = by_repeated_rows(train, target, times, groups, held_out)
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)


def test_a_draw_is_r_squared_of_fits_to_the_groups_that_were_drawn(rng):
    n, d = 36, 4
    features, groups = rng.normal(size=(n, d)), np.arange(n) // 2
    measure = features[:, 0] + rng.normal(size=n)
    is_held_out = np.stack([np.isin(groups, rng.permutation(18)[:6]) for _ in range(3)])
    counts = rng.integers(0, 3, size=(5, 18))[:, groups]
    found = refit_r_squared(features, measure, groups, is_held_out, counts)
    for r2, times in zip(found, counts, strict=True):
        scores = []
        for held_out in is_held_out:
            train, test = ~held_out & (times > 0), np.repeat(np.arange(n), times * held_out)
            drawn = features[train], measure[train], times[train], groups[train]
            scores.append(r2_score(measure[test], by_repeated_rows(*drawn, features[test])))
        assert r2 == pytest.approx(np.mean(scores))


def test_every_group_once_is_the_score_itself(rng):
    features, measure = rng.normal(size=(20, 3)), rng.normal(size=20)
    is_held_out = np.arange(20)[None] < 6
    (found,) = refit_r_squared(features, measure, np.arange(20), is_held_out, np.ones((1, 20)))
    fit = nested_ridge(
        decompose(features[6:], features[:6]), measure[6:, None], np.arange(14)
    ).predictions[:, 0]
    assert found == pytest.approx(r2_score(measure[:6], fit))


def test_recentred_draws_keep_their_spread_and_take_the_other_middle(rng):
    refits, draws = 0.2 + 0.1 * rng.normal(size=101), 0.5 + 0.05 * rng.normal(size=51)
    found = recentred(refits, draws)
    assert np.median(found) == pytest.approx(np.median(draws))
    ratio = np.log(1 - found) - np.log(1 - refits)
    np.testing.assert_allclose(ratio, ratio[0])
