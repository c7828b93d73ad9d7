"""Rank correlation of two curves, against scipy and planted orders."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from scalecut.errors import DataError
from scalecut.stats.agreement import agreement

L = 12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def around(values, rng, noise=0.01, draws=400):
    return values[:, None] + noise * rng.normal(size=(len(values), draws))


def test_the_same_order_agrees_and_the_reversed_disagrees_on_any_scale(rng):
    predictor = rng.normal(size=L)
    for sign in (1, -1):
        observed = np.exp(sign * 3 * predictor)
        got = agreement(predictor, observed, around(predictor, rng, 0), around(observed, rng, 0))
        np.testing.assert_allclose([got.rho, got.low, got.high], sign)
        assert (got.n_layers, got.predicted) == (L, predictor.argmax())
        assert got.best == (predictor.argmax() if sign == 1 else predictor.argmin())
        assert got.regret == (0 if sign == 1 else np.ptp(observed))


def test_draws_are_compared_pair_by_pair_as_scipy_does(rng):
    one, other = rng.normal(size=(L, 50)), rng.integers(0, 4, size=(L, 60)).astype(float)  # ties
    got = agreement(one[:, 0], other[:, 0], one, other)
    by_hand = [spearmanr(one[:, k], other[:, k]).statistic for k in range(50)]
    np.testing.assert_allclose([got.low, got.high], np.quantile(by_hand, [0.025, 0.975]))
    np.testing.assert_allclose(got.rho, by_hand[0])


def test_the_interval_of_unrelated_scores_contains_zero(rng):
    predictor, observed = np.arange(L) % 3 + 0.0, np.arange(L) // 3 + 0.0  # crossed
    got = agreement(predictor, observed, around(predictor, rng, 0.1), around(observed, rng, 0.1))
    assert abs(got.rho) < 1e-9
    assert got.low < 0 < got.high
    assert got.rho_depth > 0.9


def test_regret_is_what_choosing_by_the_curve_or_the_last_layer_costs():
    predictor = np.array([0.1, 0.9, 0.5, 0.4])
    observed = np.array([0.2, 0.6, 0.7, 0.3])
    got = agreement(predictor, observed, predictor[:, None], observed[:, None])
    np.testing.assert_allclose([got.regret, got.regret_last], [0.1, 0.4])
    assert (got.best, got.predicted) == (2, 1)


def test_equal_scores_have_no_rank_correlation():
    predictor, equal = np.arange(4.0), np.ones(4)
    got = agreement(predictor, equal, predictor[:, None], equal[:, None])
    assert np.isnan([got.rho, got.low, got.high]).all()
    assert got.regret == 0


def test_three_layers_are_refused():
    three = np.arange(3.0)
    with pytest.raises(DataError) as caught:
        agreement(three, three, three[:, None], three[:, None])
    assert str(caught.value) == (
        "A rank correlation over 3 layers is not informative. Compare 4 layers or more."
    )
