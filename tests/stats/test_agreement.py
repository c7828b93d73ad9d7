"""Rank correlation of two curves, against scipy and planted orders."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from scalecut.errors import DataError
from scalecut.stats.agreement import agreement

L = 12


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


def around(values, rng, noise=0.01, draws=400):
    return values[:, None] + noise * rng.normal(size=(len(values), draws))


def test_same_order_agrees_wholly_whatever_the_scale(rng):
    foretold = rng.normal(size=L)
    found = np.exp(3 * foretold)
    got = agreement(foretold, found, around(foretold, rng, 0), around(found, rng, 0))
    assert (got.rho, got.low, got.high, got.n_layers) == (1, 1, 1, L)
    assert (got.regret, got.best, got.foretold) == (0, foretold.argmax(), foretold.argmax())


def test_reversed_order_disagrees_wholly(rng):
    foretold = rng.normal(size=L)
    got = agreement(foretold, -foretold, around(foretold, rng, 0), around(-foretold, rng, 0))
    np.testing.assert_allclose([got.rho, got.low, got.high], -1)
    assert got.regret == np.ptp(foretold)


def test_draws_are_compared_pair_by_pair_as_scipy_does(rng):
    one, other = rng.normal(size=(L, 50)), rng.integers(0, 4, size=(L, 60)).astype(float)  # ties
    got = agreement(one[:, 0], other[:, 0], one, other)
    by_hand = [spearmanr(one[:, k], other[:, k]).statistic for k in range(50)]
    np.testing.assert_allclose([got.low, got.high], np.quantile(by_hand, [0.025, 0.975]))
    np.testing.assert_allclose(got.rho, by_hand[0])


def test_scores_that_have_nothing_to_do_with_each_other_have_an_interval_that_holds_zero(rng):
    foretold, found = np.arange(L) % 3 + 0.0, np.arange(L) // 3 + 0.0  # crossed
    got = agreement(foretold, found, around(foretold, rng, 0.1), around(found, rng, 0.1))
    assert abs(got.rho) < 1e-9
    assert got.low < 0 < got.high
    assert got.rho_depth > 0.9


def test_regret_is_what_choosing_by_the_curve_or_the_last_layer_costs():
    foretold = np.array([0.1, 0.9, 0.5, 0.4])
    found = np.array([0.2, 0.6, 0.7, 0.3])
    got = agreement(foretold, found, foretold[:, None], found[:, None])
    np.testing.assert_allclose([got.regret, got.regret_last], [0.1, 0.4])
    assert (got.best, got.foretold) == (2, 1)


def test_three_layers_are_refused():
    three = np.arange(3.0)
    with pytest.raises(DataError) as caught:
        agreement(three, three, three[:, None], three[:, None])
    assert str(caught.value) == ("Ranks of 3 layers tell nothing. Compare 4 layers or more.")
