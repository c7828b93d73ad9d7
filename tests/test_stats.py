"""Weights are compared with rows that are really resampled, and intervals with a known truth."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from scalecut.stats import DRAWS, bootstrap_r_squared, group_draws, interval


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


def test_r_squared_of_a_draw_is_that_of_the_resampled_rows(rng):
    measure, predicted, is_held_out = scored(rng)
    counts = group_draws(of_unlike_size(rng, n=30)[:25], rng, draws=60)
    squares = (measure[..., None] - predicted) ** 2
    found = bootstrap_r_squared(measure, squares, is_held_out, counts)
    by_hand = by_resampled_rows(measure, predicted, is_held_out, counts)
    np.testing.assert_allclose(found, by_hand, rtol=1e-9, atol=1e-9)


def test_errors_where_an_image_was_fitted_do_not_count(rng):
    measure, predicted, is_held_out = scored(rng)
    counts = group_draws(np.arange(25), rng, draws=60)
    squares = (measure[..., None] - predicted) ** 2
    elsewhere = np.where(is_held_out[..., None], squares, 1e6)
    np.testing.assert_allclose(
        bootstrap_r_squared(measure, elsewhere, is_held_out, counts),
        bootstrap_r_squared(measure, squares, is_held_out, counts),
    )


def test_repeat_without_two_measures_in_a_draw_is_passed_over(rng):
    measure, predicted, is_held_out = scored(rng, n=12, repeats=5)  # 4 held out: often all alike
    measure = measure.round()
    counts = group_draws(np.arange(12), rng, draws=300)
    squares = (measure[..., None] - predicted) ** 2
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
    squares = (measure[..., None] - predicted) ** 2
    counts = group_draws(np.arange(33), rng, draws=200)
    both = bootstrap_r_squared(measure, squares, is_held_out, counts)
    first = bootstrap_r_squared(measure[:1], squares[:1], is_held_out[:1], counts)
    np.testing.assert_allclose(both, first, rtol=1e-9)


def test_small_measures_are_scored_as_large_ones(rng):
    measure, predicted, is_held_out = scored(rng)
    counts = group_draws(np.arange(25), rng, draws=60)
    squares = (measure[..., None] - predicted) ** 2
    here = bootstrap_r_squared(measure, squares, is_held_out, counts)
    for scale in (1e-6, 1e6):
        there = bootstrap_r_squared(scale * measure, scale**2 * squares, is_held_out, counts)
        np.testing.assert_allclose(there, here, rtol=1e-6)


def test_every_image_once_gives_the_score_itself(rng):
    measure, predicted, is_held_out = scored(rng)
    squares = (measure[..., None] - predicted) ** 2
    found = bootstrap_r_squared(measure, squares, is_held_out, np.ones((1, 25)))
    rows = zip(measure, predicted, is_held_out, strict=True)
    each = [r2_score(np.stack([y[h]] * 3, 1), f[h], multioutput="raw_values") for y, f, h in rows]
    np.testing.assert_allclose(found[0], np.mean(each, axis=0))


# --- intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_mirrors_two_quantiles_at_the_score(rng, level):
    draws = rng.normal(size=(500, 3)) * 0.1
    r2 = np.array([0.1, 0.2, 0.3])
    low, high = interval(r2, draws, level)
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
    squares, is_held_out = np.zeros((repeats, n, 1)), np.zeros((repeats, n), dtype=bool)
    true, names = [], np.unique(groups)
    for repeat in range(repeats):
        out = np.isin(groups, rng.permutation(names)[: round(0.3 * len(names))])
        found, *_ = np.linalg.lstsq(X[~out], y[~out], rcond=None)
        squares[repeat, out, 0], is_held_out[repeat] = (y[out] - X[out] @ found) ** 2, out
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
