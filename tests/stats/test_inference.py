"""Weights are compared with rows that are really resampled, and intervals with a known truth."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import r2_score

from scalecut.stats.inference import (
    DRAWS,
    bootstrap_r_squared,
    fall,
    family_p_values,
    group_draws,
    group_permutations,
    interval,
    peak,
)


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


# --- draws ---------------------------------------------------------------------------------------


def of_unlike_size(rng, n=40):
    """Groups of one to many images, numbered with gaps and in no order."""
    return rng.permutation(np.repeat([3, 5, 6, 11, 20, 21], [1, 2, 4, 8, 10, n - 25]))


def test_groups_are_drawn_whole(rng):
    groups = of_unlike_size(rng)
    counts = group_draws(groups, rng)
    for group in np.unique(groups):
        of_group = counts[:, groups == group]
        np.testing.assert_array_equal(of_group, np.tile(of_group[:, [0]], of_group.shape[1]))


def test_each_draw_holds_as_many_groups_as_there_are(rng):
    groups = of_unlike_size(rng)
    first_of_each = np.unique(groups, return_index=True)[1]
    per_group = group_draws(groups, rng)[:, first_of_each]
    assert (per_group == per_group.round()).all()
    assert per_group.min() == 0
    np.testing.assert_array_equal(per_group.sum(axis=1), len(first_of_each))


def test_each_group_is_as_likely_as_any_other(rng):
    groups = of_unlike_size(rng)
    first_of_each = np.unique(groups, return_index=True)[1]
    per_group = group_draws(groups, rng, draws=20_000)[:, first_of_each]
    share = 1 / len(first_of_each)
    np.testing.assert_allclose(per_group.mean(axis=0), 1.0, atol=0.04)
    np.testing.assert_allclose(per_group.var(axis=0), 1 - share, atol=0.05)  # a multinomial's


def test_images_without_company_are_drawn_one_by_one(rng):
    counts = group_draws(np.arange(30), rng, draws=50)
    assert counts.shape == (50, 30)
    np.testing.assert_array_equal(counts.sum(axis=1), 30)


def test_there_are_a_thousand_draws_and_the_seed_decides_them():
    groups = np.arange(30)
    here, again, elsewhere = (group_draws(groups, np.random.default_rng(s)) for s in (0, 0, 1))
    assert here.shape == (DRAWS, 30) == (1000, 30)
    np.testing.assert_array_equal(here, again)
    assert not np.array_equal(here, elsewhere)


# --- R² of each draw -----------------------------------------------------------------------------


def scored(rng, n=25, repeats=4, columns=3):
    """Measures, predictions of unlike quality, and who was held out, in each repeat."""
    measure = rng.normal(size=(repeats, n)) + 5.0
    errors = rng.normal(size=(repeats, n, columns)) * np.array([0.1, 1.0, 10.0])[:columns]
    is_held_out = np.stack([rng.permutation(n) < n // 3 for _ in range(repeats)])
    return measure, measure[..., None] + errors, is_held_out


def by_resampled_rows(measure, predicted, is_held_out, counts):
    """The same with rows that are written down as often as they were drawn."""
    found = np.full((len(counts), predicted.shape[2]), np.nan)
    for draw, times in enumerate(counts.astype(int)):
        for column in range(predicted.shape[2]):
            scores = []
            for y, y_hat, held_out in zip(
                measure, predicted[..., column], is_held_out, strict=True
            ):
                rows = np.repeat(np.arange(len(y)), times * held_out)
                if len(set(y[rows])) > 1:
                    scores.append(r2_score(y[rows], y_hat[rows]))
            if scores:
                found[draw, column] = np.mean(scores)
    return found


def of_held_out(squares, is_held_out):
    return [each[held_out] for each, held_out in zip(squares, is_held_out, strict=True)]


def test_r_squared_of_a_draw_is_that_of_the_resampled_rows(rng):
    measure, predicted, is_held_out = scored(rng)
    counts = group_draws(of_unlike_size(rng, n=30)[:25], rng, draws=60)
    squares = of_held_out((measure[..., None] - predicted) ** 2, is_held_out)
    found = bootstrap_r_squared(measure, squares, is_held_out, counts)
    by_hand = by_resampled_rows(measure, predicted, is_held_out, counts)
    np.testing.assert_allclose(found, by_hand, rtol=1e-9, atol=1e-9)


def test_repeat_without_two_measures_in_a_draw_is_passed_over(rng):
    measure, predicted, is_held_out = scored(rng, n=12, repeats=5)  # 4 held out: often all alike
    measure = measure.round()
    counts = group_draws(np.arange(12), rng, draws=300)
    squares = of_held_out((measure[..., None] - predicted) ** 2, is_held_out)
    alone = [
        len(set(y[held_out & (times > 0)])) < 2
        for times in counts
        for y, held_out in zip(measure, is_held_out, strict=True)
    ]
    assert any(alone), "this test should meet such repeats"
    found = bootstrap_r_squared(measure, squares, is_held_out, counts)
    by_hand = by_resampled_rows(measure, predicted, is_held_out, counts)
    np.testing.assert_allclose(found, by_hand, rtol=1e-7, atol=1e-9)


def test_measures_that_are_alike_to_the_last_digit_make_no_r_squared(rng):
    measure, predicted, is_held_out = scored(rng, n=33, repeats=2)
    measure[1] = 0.3
    assert measure[1, is_held_out[1]].mean() != 0.3, "11 times 0.3 should not add up exactly"
    squares = of_held_out((measure[..., None] - predicted) ** 2, is_held_out)
    counts = group_draws(np.arange(33), rng, draws=200)
    both = bootstrap_r_squared(measure, squares, is_held_out, counts)
    first = bootstrap_r_squared(measure[:1], squares[:1], is_held_out[:1], counts)
    np.testing.assert_allclose(both, first, rtol=1e-9)


def test_small_measures_are_scored_as_large_ones(rng):
    measure, predicted, is_held_out = scored(rng)
    counts = group_draws(np.arange(25), rng, draws=60)
    squares = of_held_out((measure[..., None] - predicted) ** 2, is_held_out)
    here = bootstrap_r_squared(measure, squares, is_held_out, counts)
    for scale in (1e-6, 1e6):
        more = [scale**2 * each for each in squares]
        there = bootstrap_r_squared(scale * measure, more, is_held_out, counts)
        np.testing.assert_allclose(there, here, rtol=1e-6)


def test_every_image_once_gives_the_score_itself(rng):
    measure, predicted, is_held_out = scored(rng)
    squares = of_held_out((measure[..., None] - predicted) ** 2, is_held_out)
    found = bootstrap_r_squared(measure, squares, is_held_out, np.ones((1, 25)))
    rows = zip(measure, predicted, is_held_out, strict=True)
    each = [r2_score(np.stack([y[h]] * 3, 1), f[h], multioutput="raw_values") for y, f, h in rows]
    np.testing.assert_allclose(found[0], np.mean(each, axis=0))


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_mirrors_two_quantiles_at_the_score(rng, level):
    draws = rng.normal(size=(500, 3)) * 0.1
    r2 = np.array([0.1, 0.2, 0.3])
    low, high = interval(r2, draws + r2, level)
    draws = draws + r2
    np.testing.assert_allclose(r2 - low, np.quantile(draws, (1 + level) / 2, axis=0) - r2)
    np.testing.assert_allclose(high - r2, r2 - np.quantile(draws, (1 - level) / 2, axis=0))


def test_interval_ends_at_one():
    draws = np.linspace(0.5, 0.9, 100)
    assert interval(0.9, draws)[1] == 1.0


def test_interval_of_one_score_is_two_numbers_at_95_percent(rng):
    draws = rng.normal(size=500) * 0.1
    low, high = interval(0.0, draws)
    assert isinstance(low, float) and isinstance(high, float)
    np.testing.assert_allclose((-high, -low), np.quantile(draws, (0.025, 0.975)))


def test_interval_holds_the_score_where_all_draws_lie_on_one_side():
    low, high = interval(0.8, np.linspace(0.2, 0.7, 100))
    assert low == 0.8
    assert high == 1.0


def test_draws_without_a_score_at_some_layer_change_neither_peak_nor_fall(rng):
    r2, draws = noisy(rng, np.append(RISE, np.full(4, 0.6)))
    holes = draws.copy()
    holes[::7, 3] = np.nan
    whole = draws[np.isfinite(holes).all(axis=1)]
    assert peak(r2, holes) == peak(r2, whole)
    assert fall(r2, holes) == fall(r2, whole)


def test_draws_without_a_score_are_passed_over(rng):
    draws = rng.normal(size=(500, 2))
    with_gaps = np.insert(draws, [0, 100, 500], np.nan, axis=0)
    np.testing.assert_allclose(interval(np.zeros(2), with_gaps), interval(np.zeros(2), draws))


def planted_interval(rng, groups, noise, resampled, slope, d=4, repeats=5):
    """The true R² of fits to a planted linear model, and its interval from the held-out images."""
    n, weights = len(groups), np.full(d, slope)
    X = rng.normal(size=(n, d))
    y = X @ weights + noise(rng, groups)
    measure = np.tile(y, (repeats, 1))
    squares, is_held_out = [], np.zeros((repeats, n), dtype=bool)
    true, names = [], np.unique(groups)
    for repeat in range(repeats):
        out = np.isin(groups, rng.permutation(names)[: round(0.3 * len(names))])
        found, *_ = np.linalg.lstsq(X[~out], y[~out], rcond=None)
        squares.append((y[out] - X[out] @ found)[:, None] ** 2)
        is_held_out[repeat] = out
        # features and noise are of variance 1, so the error on new images is known exactly
        true.append(1 - (np.sum((weights - found) ** 2) + 1) / (np.sum(weights**2) + 1))
    counts = group_draws(resampled(groups), rng, draws=400)
    counts = np.vstack([np.ones(n), counts])
    draws = bootstrap_r_squared(measure, squares, is_held_out, counts)[:, 0]
    low, high = interval(draws[0], draws[1:])
    return low, np.mean(true), high


def coverage(groups, noise, resampled=lambda groups: groups, slope=1.0, simulations=100):
    rng = np.random.default_rng(0)
    found = [planted_interval(rng, groups, noise, resampled, slope) for _ in range(simulations)]
    return np.mean([low <= true <= high for low, true, high in found])


def of_each_image(rng, groups):
    return rng.normal(size=len(groups))


def of_each_group(rng, groups):
    return rng.normal(size=groups.max() + 1)[groups]


def test_interval_covers_the_true_score_of_the_fits():
    assert 0.88 <= coverage(np.arange(150), of_each_image) <= 0.99


def test_interval_covers_where_images_of_a_group_err_alike_if_whole_groups_are_drawn():
    groups = np.repeat(np.arange(60), 8)
    by_group = coverage(groups, of_each_group)
    by_image = coverage(groups, of_each_group, resampled=lambda groups: np.arange(len(groups)))
    assert 0.85 <= by_group <= 0.99
    assert by_image < by_group - 0.1


def test_interval_covers_where_the_features_say_nothing():
    assert coverage(np.arange(150), of_each_image, slope=0.0) >= 0.85


# --- permutations --------------------------------------------------------------------------------


def test_permuted_measures_hold_the_same_values(rng):
    measure, groups = rng.random(30), rng.integers(0, 9, size=30)
    for dealt in group_permutations(measure, groups, rng, 50):
        assert sorted(dealt) == sorted(measure)


def test_groups_of_equal_size_change_places_as_a_whole(rng):
    groups = np.array([3, 1, 2, 3, 1, 2])  # of two images each, not side by side
    measure = np.array([30.0, 10.0, 20.0, 31.0, 11.0, 21.0])
    seen = set()
    for dealt in group_permutations(measure, groups, rng, 200):
        pairs = [tuple(dealt[groups == group]) for group in (1, 2, 3)]
        assert set(pairs) == {(10.0, 11.0), (20.0, 21.0), (30.0, 31.0)}
        seen.add(tuple(pairs))
    assert len(seen) == 6  # every order of the three


def test_images_without_company_change_places_one_by_one(rng):
    measure = np.arange(4.0)
    dealt = group_permutations(measure, np.array([7, 3, 9, 1]), rng, 2000)
    orders, counts = np.unique(dealt, axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 40  # of 83 expected each


def test_no_permutations_are_no_rows(rng):
    assert group_permutations(np.arange(4.0), np.arange(4), rng, 0).shape == (0, 4)


def test_p_value_is_the_share_of_permutations_in_which_any_layer_does_as_well(rng):
    observed, null = rng.normal(size=3), rng.normal(size=(50, 3))
    by_hand = [
        (1 + sum(any(score >= one for score in row) for row in null)) / 51 for one in observed
    ]
    np.testing.assert_allclose(family_p_values(observed, null), by_hand)


def test_p_value_of_the_best_layer_is_uniform_if_nothing_is_there(rng):
    mixing = rng.normal(size=(6, 6))  # layers are alike, as those of a network are
    found = []
    for _ in range(1000):
        scores = rng.normal(size=(100, 6)) @ mixing
        found.append(family_p_values(scores[0], scores[1:]).min())
    assert scipy.stats.kstest(found, scipy.stats.uniform.cdf).pvalue > 0.001
    assert np.mean(np.array(found) <= 0.05) < 0.075


# --- the peak and the fall -----------------------------------------------------------------------

RISE = np.linspace(0.5, 0.8, 8)


def noisy(rng, truth, spread=0.03, alike=0.6, draws=400):
    """A curve with noise that neighbours share, and bootstrap draws with the same noise."""
    n = len(truth)
    root = np.linalg.cholesky(spread**2 * ((1 - alike) * np.eye(n) + alike))
    r2 = truth + root @ rng.normal(size=n)
    return r2, r2 + rng.normal(size=(draws, n)) @ root.T


@pytest.mark.parametrize("truth", [np.full(10, 0.7), np.append(RISE, [0.7, 0.6]), RISE])
def test_confidence_set_holds_the_best_layer_in_95_of_100_cases(truth):
    rng, held = np.random.default_rng(0), []
    best = np.flatnonzero(truth == truth.max())
    for _ in range(200):
        held.append(np.isin(best, peak(*noisy(rng, truth)).confidence_set).mean())
    assert np.mean(held) > 0.92


def test_confidence_set_leaves_out_what_is_clearly_worse(rng):
    r2, draws = noisy(rng, np.array([0.2, 0.79, 0.3, 0.8]), spread=0.05)
    found = peak(r2, draws)
    assert set(found.confidence_set) <= {1, 3}
    assert found.at == np.argmax(r2)


def test_layers_that_go_up_and_down_together_are_told_apart(rng):
    together = rng.normal(size=(400, 1))  # the images drawn are good or bad for all layers
    r2 = np.array([0.70, 0.72, 0.69])
    draws = r2 + 0.1 * together + 0.002 * rng.normal(size=(400, 3))
    assert peak(r2, draws).confidence_set == (1,)


def test_single_layer_is_the_peak_and_does_not_fall(rng):
    r2, draws = np.array([0.4]), 0.4 + 0.1 * rng.normal(size=(100, 1))
    assert peak(r2, draws).confidence_set == (0,)
    assert fall(r2, draws).after is None


def test_no_fall_is_shown_on_a_flat_curve_in_93_of_100_cases():
    rng = np.random.default_rng(0)
    shown = [fall(*noisy(rng, np.full(12, 0.7))).after is not None for _ in range(300)]
    assert np.mean(shown) <= 0.07


@pytest.mark.parametrize("truth", [RISE, np.append(RISE, np.full(5, 0.8))])
def test_no_fall_is_shown_on_a_curve_that_rises_or_stays(truth):
    rng = np.random.default_rng(0)
    shown = [fall(*noisy(rng, truth)).after is not None for _ in range(100)]
    assert np.mean(shown) <= 0.07


def test_planted_fall_is_found_where_it_is():
    rng = np.random.default_rng(0)
    truth = np.append(RISE, np.full(4, 0.6))
    found = [fall(*noisy(rng, truth)) for _ in range(50)]
    assert [each.after for each in found] == [7] * 50
    drops = np.array([[each.drop, each.low, each.high] for each in found])
    # from the peak on, the upper level is that of the layers up to the fall: here the peak itself
    assert drops[:, 0].mean() == pytest.approx(0.2, abs=0.03)
    assert np.mean((drops[:, 1] <= 0.2) & (drops[:, 2] >= 0.2)) >= 0.85


def test_interval_of_a_gradual_fall_holds_more_than_one_layer():
    rng = np.random.default_rng(0)
    truth = np.append(RISE, [0.75, 0.7, 0.65, 0.6])
    found = [fall(*noisy(rng, truth)) for _ in range(30)]
    assert all(each.first <= each.after <= each.last for each in found)
    assert np.mean([each.last - each.first for each in found]) > 0.5


def test_change_point_leaves_the_least_squares(rng):
    r2 = np.array([0.5, 0.9, 0.88, 0.85, 0.6, 0.58, 0.55])
    draws = r2 + 0.001 * rng.normal(size=(200, 7))
    found = fall(r2, draws)

    def rest(split):  # sum of squares about the two levels, by hand
        return sum(np.sum((part - part.mean()) ** 2) for part in (r2[1:split], r2[split:]))

    assert found.after == min(range(2, 7), key=rest) - 1 == 3
    assert found.drop == pytest.approx(r2[1:4].mean() - r2[4:].mean())
    assert found.low < found.drop < found.high


def test_dip_that_is_made_up_for_is_no_fall(rng):
    r2, draws = noisy(rng, np.array([0.5, 0.8, 0.3, 0.4, 0.8]), spread=0.01)
    assert fall(r2, draws).after is None


def test_fall_lies_behind_a_dip(rng):
    truth = np.array([0.5, 0.8, 0.3, 0.79, 0.5, 0.5])
    found = fall(truth, truth + 0.001 * rng.normal(size=(200, 6)))
    assert (found.first, found.after, found.last) == (3, 3, 3)
    assert found.drop == pytest.approx((0.8 + 0.79 + 0.79) / 3 - 0.5)
