"""Partial R²: against scikit-learn on residuals, and in worlds whose answer is known."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LinearRegression, Ridge

from scalecut.stats.inference import group_draws
from scalecut.stats.partial import (
    bootstrap_partial,
    decompose_rest,
    others_of,
    partial,
    standardised,
)
from scalecut.stats.refits import weighted_ridge
from scalecut.stats.ridge import PENALTIES, nested_ridge


def world(seed, n=240, d=40, *, encodes, noise=0.5):
    """Features that encode some of two concepts, which are correlated by 0.8."""
    rng = np.random.default_rng(seed)
    area, other = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=n).T
    concepts = np.column_stack([area, other])
    mixed = concepts[:, encodes] @ rng.standard_normal((len(encodes), d))
    return mixed + noise * rng.standard_normal((n, d)), concepts


def scored(features, y, others, *, repeats=20, permutations=0):
    """Partial R² in each split, and the permuted ones."""
    rng, n = np.random.default_rng(0), len(y)
    rest = y - LinearRegression().fit(others, y).predict(others)
    permuted = np.column_stack([y, *(rng.permutation(rest) for _ in range(permutations))])
    found, null = [], []
    for _ in range(repeats):
        test = rng.permutation(n) < 0.3 * n
        both = standardised(features[~test], features[test])
        held = others_of(others[~test], others[test])
        each = partial(
            both, held, (y[~test], y[test]), (permuted[~test], permuted[test]), np.arange(n)[~test]
        )
        found.append(1 - np.sum(each.error**2) / np.sum(each.rest**2))
        null.append(each.null)
    return np.array(found), np.array(null)


@pytest.mark.parametrize("d", [12, 400])
def test_predictions_are_those_of_ridge_on_residuals_by_scikit_learn(d):
    rng = np.random.default_rng(1)
    n, m = 90, 40
    X, Z = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    A, B = 50 + 9 * rng.standard_normal((n, 3)), 50 + 9 * rng.standard_normal((m, 3))
    X[:, 0] += A[:, 1]
    y = X[:, 0] + A[:, 0] + rng.standard_normal(n)
    others, both = others_of(A, B), standardised(X, Z)
    rest, _ = others.rest(y[:, None], np.zeros((m, 1)))
    fit = nested_ridge(decompose_rest(both, others), rest, np.arange(n))
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    X, Z = (X - mean) / deviation, np.clip((Z - mean) / deviation, -10, 10)
    line = LinearRegression().fit(A, X)
    X, Z = X - line.predict(A), Z - line.predict(B)
    y = y - LinearRegression().fit(A, y).predict(A)
    assert_allclose(rest[:, 0], y, atol=1e-10)
    ridge = Ridge(fit.penalties[0], fit_intercept=False).fit(X, y)
    assert fit.penalties[0] in PENALTIES
    assert_allclose(fit.predictions[:, 0], ridge.predict(Z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("d", [6, 60])
def test_penalty_is_chosen_by_leaving_each_group_out_of_the_whole_regression(d):
    """By brute force: the others unpenalised, each group left out, every penalty tried.

    With more features than images, the rest of a target can be fitted without error; its others
    must be fitted anew without the group, or the smallest penalty would always seem the best.
    """
    rng = np.random.default_rng(6)
    n, groups = 40, np.repeat(np.arange(16), [1] * 8 + [4] * 8)
    X, A = rng.standard_normal((n, d)), rng.standard_normal((n, 4))
    y = X[:, 0] + A[:, 0] + rng.standard_normal(n)
    others, both = others_of(A, A[:0]), standardised(X, X[:0])
    rest, _ = others.rest(y[:, None], np.zeros((0, 1)))
    found = nested_ridge(decompose_rest(both, others), rest, groups).penalties[0]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    design = np.column_stack([np.ones(n), A, X])

    def lost(penalty):
        total, ridge = 0.0, np.diag([0.0] * 5 + [penalty] * d)
        for group in range(16):
            kept = groups != group
            M = design[kept]
            weights = np.linalg.solve(M.T @ M + ridge, M.T @ y[kept])
            total += np.sum((y[~kept] - design[~kept] @ weights) ** 2)
        return total

    assert found == min(PENALTIES, key=lost)


def test_features_beyond_the_number_of_images_do_not_hide_what_is_encoded():
    rng = np.random.default_rng(7)
    n, d = 120, 500
    A, y = rng.standard_normal((n, 5)), rng.standard_normal(n)
    features = y[:, None] * rng.standard_normal(d) + 3 * rng.standard_normal((n, d))
    found, null = scored(features, y, A, repeats=5, permutations=19)
    assert found.mean() > 0.8
    assert null.mean(axis=0)[0] > 0.8 > null.mean(axis=0)[1:].max()
    assert null.mean(axis=0)[1:].min() > -0.5


def test_what_only_goes_with_the_other_concept_has_no_partial_r2():
    features, concepts = world(2, encodes=[1])
    area, brightness = concepts[:, 0], concepts[:, [1]]
    plain, _ = scored(features, area, np.zeros((len(area), 1)))
    found, null = scored(features, area, brightness, permutations=99)
    assert plain.mean() > 0.55  # 0.8² without noise
    assert found.mean() < 0.05
    assert null.mean(axis=0)[0] < np.quantile(null.mean(axis=0)[1:], 0.95)


def test_two_concepts_that_are_both_encoded_are_recovered():
    """With isotropic noise σ, d channels and weights w, the rest e of a concept has variance 0.36.

    Its channels hold e·w + noise, of which ridge with enough images predicts
    0.36 |w|² / (0.36 |w|² + σ²) of the variance, where |w|² is that part of the weights that is not
    along those of the other concept.
    """
    d, noise = 40, 2.0
    rng = np.random.default_rng(3)
    n = 3000
    concepts = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=n)
    weights = rng.standard_normal((2, d))
    features = concepts @ weights + noise * rng.standard_normal((n, d))
    for at in (0, 1):
        w = weights[at]  # the other concept is held constant, so its weights do not disturb
        expected = 0.36 * w @ w / (0.36 * w @ w + noise**2)
        found, null = scored(
            features, concepts[:, at], concepts[:, [1 - at]], repeats=4, permutations=19
        )
        assert found.mean() == pytest.approx(expected, abs=0.05)
        assert null.mean(axis=0)[0] > null.mean(axis=0)[1:].max()


def test_units_and_repetitions_of_the_other_concepts_do_not_matter():
    features, concepts = world(4, encodes=[0, 1])
    once, _ = scored(features, concepts[:, 0], concepts[:, [1]], repeats=3)
    many = np.column_stack([1e6 * concepts[:, 1] + 3e7, concepts[:, 1], np.ones(len(concepts))])
    again, _ = scored(features, concepts[:, 0], many, repeats=3)
    assert_allclose(again, once, rtol=1e-6)


def test_draws_with_every_image_once_are_the_score_itself():
    rng = np.random.default_rng(5)
    n, repeats = 50, 4
    held_out = np.zeros((repeats, n), dtype=bool)
    for row in held_out:
        row[rng.permutation(n)[:15]] = True
    rest = [rng.standard_normal((15, 2)) for _ in range(repeats)]
    error = [0.5 * each + 0.1 * rng.standard_normal((15, 2)) for each in rest]
    counts = np.vstack([np.ones(n), group_draws(np.arange(n), rng, 50)])
    draws = bootstrap_partial(rest, error, held_out, counts)
    direct = [
        1 - np.sum(f**2, axis=0) / np.sum(e**2, axis=0) for e, f in zip(rest, error, strict=True)
    ]
    assert_allclose(draws[0], np.mean(direct, axis=0))
    w = counts[7][held_out[0]]
    of_first = 1 - (w @ error[0] ** 2) / (w @ rest[0] ** 2)
    one = bootstrap_partial(rest[:1], error[:1], held_out[:1], counts)
    assert_allclose(one[7], of_first)


def test_what_the_others_determine_has_no_partial_r2():
    rng = np.random.default_rng(8)
    left, right, features = rng.random(80), 1e3 * rng.random(80), rng.standard_normal((80, 5))
    total, is_held_out = left + right, np.arange(80) < 24
    for y, others in ((total, [left, right]), (left, [total, right])):
        held = np.column_stack(others)
        found = partial(
            standardised(features[~is_held_out], features[is_held_out]),
            others_of(held[~is_held_out], held[is_held_out]),
            (y[~is_held_out], y[is_held_out]),
            (y[~is_held_out, None], y[is_held_out, None]),
            np.arange(56),
        )
        once = np.ones((1, 80))
        asked = [found.rest[:, None]], [found.error[:, None]], is_held_out[None], once
        assert np.isnan(bootstrap_partial(*asked)).all()
        assert np.isnan(found.null).all()


def test_memory_of_many_images_is_that_of_their_features():
    n, d = 4000, 3  # n² numbers are 128 MB
    rng = np.random.default_rng(9)
    X, y, groups = rng.standard_normal((n, d)), rng.standard_normal(n), np.arange(n)
    tracemalloc.start()
    decompose_rest(standardised(X, X), others_of(X[:, :1], X[:, :1]))
    weighted_ridge(X, y, np.ones(n), groups, X)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20e6
