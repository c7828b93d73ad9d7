"""Each fit is compared with the same formula written the slow, obvious way, or with a library."""

from inspect import unwrap

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scalecut.stats.ridge
from scalecut import DataError, r_squared, ridge_path
from scalecut.stats.ridge import (
    FARTHEST,
    PENALTIES,
    decompose,
    leading,
    least_squares,
    nested_ridge,
    quick_ridge,
)

SHAPES = [(40, 5), (12, 30)]  # more images than features, and fewer
FEW_PENALTIES = np.array([1e-3, 1.0, 1e3])


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


def planted(rng, n, d, noise=0.0):
    """Features whose measure is known to be a linear function of them."""
    features, weights = rng.normal(size=(n, d)), rng.normal(size=d)
    return features, features @ weights + 3.0 + noise * rng.normal(size=n), weights


def split(rng, n, d, n_targets=3, n_held_out=9):
    """Channels of unlike scale and offset, to fit and held out, and targets of unlike noise."""
    X, _, _ = planted(rng, n + n_held_out, d)
    noise = np.logspace(-1, 1.5, n_targets)
    Y = X @ rng.normal(size=(d, n_targets)) + noise * rng.normal(size=(len(X), n_targets))
    X = X * np.exp(2 * rng.normal(size=d)) + 10 * rng.normal(size=d)
    return X[:n], Y[:n], X[n:]


def alone(n):
    """Every image its own group."""
    return np.arange(n)


def ridge_of(train, targets, held_out, groups=None, **settings):
    groups = alone(len(train)) if groups is None else groups
    return nested_ridge(decompose(train, held_out), targets, groups, **settings)


# --- ridge path ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_path_equals_the_normal_equations(rng, n, d):
    X, y, _ = planted(rng, n, d, noise=0.5)
    path = ridge_path(X, y, FEW_PENALTIES)
    Xc, yc = X - X.mean(axis=0), y - y.mean()
    for penalty, weights in zip(FEW_PENALTIES, path.weights, strict=True):
        by_hand = np.linalg.solve(Xc.T @ Xc + penalty * np.eye(d), Xc.T @ yc)
        np.testing.assert_allclose(weights, by_hand, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_path_predicts_as_scikit_learn(rng, n, d):
    X, y, _ = planted(rng, n, d, noise=0.5)
    path, elsewhere = ridge_path(X, y, FEW_PENALTIES), rng.normal(size=(7, d))
    theirs = [Ridge(alpha=a, solver="svd").fit(X, y).predict(elsewhere) for a in FEW_PENALTIES]
    np.testing.assert_allclose(path.predict(elsewhere), theirs, rtol=1e-8, atol=1e-8)


def test_no_penalty_recovers_the_planted_weights(rng):
    X, y, weights = planted(rng, n=40, d=5)
    path = ridge_path(X, y, np.array([0.0]))
    np.testing.assert_allclose(path.weights[0], weights)
    np.testing.assert_allclose(path.intercepts, 3.0)
    np.testing.assert_allclose(r_squared(y, path.predict(X)), 1.0)


def test_no_penalty_gives_the_weights_of_least_norm_where_images_are_few(rng):
    X, y, _ = planted(rng, n=12, d=30, noise=0.5)
    path = ridge_path(X, y, np.array([0.0]))
    by_hand = np.linalg.pinv(X - X.mean(axis=0)) @ (y - y.mean())
    np.testing.assert_allclose(path.weights[0], by_hand, atol=1e-9)


def test_endless_penalty_predicts_the_mean(rng):
    X, y, _ = planted(rng, n=40, d=5, noise=0.5)
    path = ridge_path(X, y, np.array([1e15]))
    np.testing.assert_allclose(path.predict(X)[0], y.mean(), atol=1e-9)


def test_fit_does_not_depend_on_where_the_features_are_centred(rng):
    X, y, _ = planted(rng, n=12, d=30, noise=0.5)
    here, there = ridge_path(X, y, FEW_PENALTIES), ridge_path(X + 100.0, y, FEW_PENALTIES)
    np.testing.assert_allclose(here.weights, there.weights, atol=1e-9)
    np.testing.assert_allclose(here.predict(X), there.predict(X + 100.0), atol=1e-8)


def test_constant_measure_is_refused_with_the_remedy():
    with pytest.raises(DataError) as error:
        ridge_path(np.eye(4), np.full(4, 0.25), FEW_PENALTIES)
    assert str(error.value) == (
        "All 4 images have the same measure, 0.25, so nothing can be regressed on it. "
        "Choose images whose objects differ in size."
    )


def test_unlike_numbers_of_images_are_refused_with_the_remedy():
    with pytest.raises(DataError) as error:
        unwrap(ridge_path)(np.eye(4), np.arange(3.0), FEW_PENALTIES)  # shapes unchecked, as in use
    assert str(error.value) == (
        "There are features of 4 images but measures of 3. "
        "Give one row of features and one measure for each image, in the same order."
    )


@pytest.mark.parametrize("place", ["features", "measure"])
def test_values_that_are_not_finite_are_refused_with_the_first_row(place):
    X, y = np.eye(4), np.arange(4.0)
    if place == "features":
        X[2, 1], X[3, 3] = np.nan, np.inf
    else:
        y[2:] = np.nan
    with pytest.raises(DataError) as error:
        ridge_path(X, y, FEW_PENALTIES)
    assert str(error.value) == (
        "2 of 4 images have a feature or measure that is not finite, "
        "the first at row 2. Drop these rows before fitting."
    )


def test_negative_penalty_is_refused():
    with pytest.raises(DataError) as error:
        ridge_path(np.eye(4), np.arange(4.0), np.array([1.0, -0.5]))
    assert str(error.value) == "Penalties must be 0 or more, but the smallest is -0.5."


# --- decomposition -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_decomposition_is_of_the_standardised_training_part(rng, n, d):
    train, _, held_out = split(rng, n, d)
    found = decompose(train, held_out)
    scaler = StandardScaler().fit(train)
    Z, Z_held_out = scaler.transform(train), scaler.transform(held_out)
    US = found.u * found.s
    np.testing.assert_allclose(found.u.T @ found.u, np.eye(len(found.s)), atol=1e-8)
    np.testing.assert_allclose(US @ US.T, Z @ Z.T, atol=1e-8)
    np.testing.assert_allclose(found.held_out @ US.T, Z_held_out @ Z.T, atol=1e-8)
    assert len(found.s) == min(d, n - 1)  # centring costs one


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_channels_constant_in_the_training_part_are_dropped(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    constants = np.array([0.0, 0.1, -1e6 / 3, 1e-30, *rng.normal(size=6)])
    padded = np.hstack([train, np.tile(constants, (n, 1))])
    awake = np.hstack([held_out, rng.normal(size=(len(held_out), len(constants)))])
    without, with_them = ridge_of(train, targets, held_out), ridge_of(padded, targets, awake)
    np.testing.assert_allclose(with_them.predictions, without.predictions, rtol=1e-8, atol=1e-8)


def test_features_that_are_all_constant_predict_the_mean(rng):
    _, targets, _ = split(rng, 40, 5)
    fitted = ridge_of(np.full((40, 5), 0.1), targets, rng.normal(size=(9, 5)))
    np.testing.assert_allclose(fitted.predictions, np.tile(targets.mean(axis=0), (9, 1)))


def test_small_channels_count_as_much_as_large_ones(rng):
    train, targets, held_out = split(rng, 40, 5)
    scales = np.array([1e-9, 1e-3, 1.0, 1e3, 1e6])
    here = ridge_of(train, targets, held_out)
    there = ridge_of(train * scales, targets, held_out * scales)
    np.testing.assert_allclose(there.predictions, here.predictions, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("copies", [2, 20])
def test_primal_and_dual_form_agree(rng, copies):
    train, targets, held_out = split(rng, 30, 5)  # 5 and 10 channels: primal; 100: dual
    once = ridge_of(train, targets, held_out)
    wide = np.tile(train, copies), targets, np.tile(held_out, copies)
    many = ridge_of(*wide, penalties=copies * PENALTIES)  # c copies share c times the penalty
    np.testing.assert_allclose(many.predictions, once.predictions, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(many.penalties, copies * once.penalties)


def test_held_out_value_counts_as_no_further_than_farthest(rng):
    train, targets, held_out = split(rng, 40, 5)
    spiked = held_out.copy()
    spiked[3, 1] = train[:, 1].mean() + 1e4 * train[:, 1].std()
    spiked[4, 2] = train[:, 2].mean() - 1e4 * train[:, 2].std()
    fitted = ridge_of(train, targets, spiked)
    at_the_bound = held_out.copy()
    at_the_bound[3, 1] = train[:, 1].mean() + FARTHEST * train[:, 1].std()
    at_the_bound[4, 2] = train[:, 2].mean() - FARTHEST * train[:, 2].std()
    for column, penalty in enumerate(fitted.penalties):
        theirs = make_pipeline(StandardScaler(), Ridge(alpha=penalty, solver="svd"))
        theirs.fit(train, targets[:, column])
        by_hand = theirs.predict(at_the_bound)
        np.testing.assert_allclose(fitted.predictions[:, column], by_hand, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_bound_changes_nothing_on_ordinary_images(rng, n, d, monkeypatch):
    train, targets, held_out = split(rng, n, d)
    bounded = ridge_of(train, targets, held_out)
    monkeypatch.setattr(scalecut.stats.ridge, "FARTHEST", np.inf)
    free = ridge_of(train, targets, held_out)
    np.testing.assert_array_equal(bounded.predictions, free.predictions)


# --- nested ridge --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [*SHAPES, (30, 29), (30, 30), (30, 31)])
def test_ridge_equals_scikit_learn_at_the_chosen_penalty(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    fitted = ridge_of(train, targets, held_out)
    for column, penalty in enumerate(fitted.penalties):
        theirs = make_pipeline(StandardScaler(), Ridge(alpha=penalty, solver="svd"))
        theirs.fit(train, targets[:, column])
        np.testing.assert_allclose(
            fitted.predictions[:, column], theirs.predict(held_out), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize(("n", "d"), [(40, 5), (60, 50), (25, 60)])
def test_penalty_is_that_of_leave_one_out_where_groups_are_of_one(rng, n, d):
    train, targets, held_out = split(rng, n, d, n_targets=5)
    fitted = ridge_of(train, targets, held_out)
    standardised = StandardScaler().fit_transform(train)
    theirs = RidgeCV(alphas=PENALTIES, alpha_per_target=True).fit(standardised, targets)
    np.testing.assert_array_equal(fitted.penalties, theirs.alpha_)
    assert len(set(fitted.penalties)) > 1, "the targets should differ in their penalties"


def left_out_by_hand(train, target, groups, penalties):
    """The penalty with the least error when each group in turn is left out of the fit."""
    Z = StandardScaler().fit_transform(train)  # by the whole training part, as documented
    errors = np.zeros(len(penalties))
    for number, penalty in enumerate(penalties):
        for group in np.unique(groups):
            out = groups == group
            fitted = Ridge(alpha=penalty, solver="svd").fit(Z[~out], target[~out])
            errors[number] += np.sum((target[out] - fitted.predict(Z[out])) ** 2)
    return penalties[errors.argmin()]


@pytest.mark.parametrize(("n", "d"), [(40, 5), (24, 40)])
def test_penalty_is_that_of_leave_one_group_out(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    groups = 7 * rng.integers(0, n // 4, size=n) + 3  # of unlike size, numbered with gaps
    targets += 6 * rng.normal(size=(n // 4, 1))[(groups - 3) // 7]  # images of a group are alike
    coarse = np.logspace(-2, 5, 15)
    fitted = ridge_of(train, targets, held_out, groups, penalties=coarse)
    by_hand = [left_out_by_hand(train, target, groups, coarse) for target in targets.T]
    np.testing.assert_array_equal(fitted.penalties, by_hand)


def test_leaving_out_whole_groups_asks_for_a_larger_penalty(rng):
    fingerprints = rng.normal(size=(15, 40))
    groups = np.repeat(np.arange(15), 6)
    train = fingerprints[groups] + 0.1 * rng.normal(size=(90, 40))
    targets = rng.normal(size=(15, 1))[groups] + 0.1 * rng.normal(size=(90, 1))
    by_image = ridge_of(train, targets, train[:5])
    by_group = ridge_of(train, targets, train[:5], groups)
    assert by_image.penalties[0] * 100 < by_group.penalties[0]


def test_groups_may_carry_any_numbers_in_any_order(rng):
    train, targets, held_out = split(rng, 40, 5)
    groups = np.repeat(np.arange(10), 4)
    order = rng.permutation(40)
    here = ridge_of(train, targets, held_out, groups)
    there = ridge_of(train[order], targets[order], held_out, 1000 - 13 * groups[order])
    np.testing.assert_allclose(there.penalties, here.penalties)
    np.testing.assert_allclose(there.predictions, here.predictions, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("fit", [ridge_of, least_squares])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_targets_do_not_know_of_each_other(rng, n, d, fit):
    train, targets, held_out = split(rng, n, d)
    together = fit(train, targets, held_out)
    for column in range(targets.shape[1]):
        by_itself = fit(train, targets[:, [column]], held_out)
        np.testing.assert_allclose(
            together.predictions[:, [column]], by_itself.predictions, rtol=1e-9, atol=1e-9
        )
        assert together.penalties[column] == by_itself.penalties[0]


def test_only_the_given_penalties_are_tried(rng):
    train, targets, held_out = split(rng, 40, 5)
    fitted = ridge_of(train, targets, held_out, penalties=np.array([17.0]))
    np.testing.assert_array_equal(fitted.penalties, 17.0)


def test_ridge_recovers_a_planted_measure(rng):
    X, y, _ = planted(rng, n=60, d=20)
    fitted = ridge_of(X[:40], y[:40, None], X[40:])
    assert r_squared(y[40:], fitted.predictions[:, 0]) > 0.999


def test_ridge_on_a_shuffled_measure_stays_near_zero(rng):
    X, y, _ = planted(rng, n=300, d=100)
    shuffled = np.stack([rng.permutation(y) for _ in range(40)], axis=1)
    fitted = ridge_of(X[:200], shuffled[:200], X[200:])
    scores = [r_squared(*pair) for pair in zip(shuffled[200:].T, fitted.predictions.T, strict=True)]
    assert -0.1 < np.mean(scores) < 0.05
    assert min(scores) > -0.5


# --- least squares -------------------------------------------------------------------------------


def test_least_squares_equals_scikit_learn_where_images_are_many(rng):
    train, targets, held_out = split(rng, 40, 5)
    fitted = least_squares(train, targets, held_out)
    by_them = LinearRegression().fit(train, targets).predict(held_out)
    np.testing.assert_allclose(fitted.predictions, by_them, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(fitted.penalties, 0.0)


def of_least_norm(train, targets, held_out):
    """Weights by the pseudo-inverse of the centred, unscaled features."""
    weights = np.linalg.pinv(train - train.mean(axis=0)) @ (targets - targets.mean(axis=0))
    return targets.mean(axis=0) + (held_out - train.mean(axis=0)) @ weights


def test_least_squares_is_of_least_norm_where_images_are_few(rng):
    train, targets, held_out = split(rng, 12, 30)
    fitted = least_squares(train, targets, held_out)
    by_hand = of_least_norm(train, targets, held_out)
    np.testing.assert_allclose(fitted.predictions, by_hand, rtol=1e-7, atol=1e-7)
    at_the_images = least_squares(train, targets, train).predictions
    np.testing.assert_allclose(at_the_images, targets, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_least_squares_bears_channels_that_repeat_others(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    mixing = np.hstack([np.eye(d), np.ones((d, 1)), np.zeros((d, 1)), np.eye(d)[:, :2]])
    fitted = least_squares(train @ mixing, targets, held_out @ mixing)
    by_hand = of_least_norm(train @ mixing, targets, held_out @ mixing)
    np.testing.assert_allclose(fitted.predictions, by_hand, rtol=1e-6, atol=1e-6)
    if n > d:  # then the fit itself is not touched by the repetition
        plain = least_squares(train, targets, held_out)
        np.testing.assert_allclose(fitted.predictions, plain.predictions, rtol=1e-6, atol=1e-6)


def test_least_squares_knows_no_bound(rng):
    train, targets, held_out = split(rng, 40, 5)
    held_out[0] = train.mean(axis=0) + 1e3 * train.std(axis=0)
    by_them = LinearRegression().fit(train, targets).predict(held_out)
    ours = least_squares(train, targets, held_out).predictions
    np.testing.assert_allclose(ours, by_them, rtol=1e-8, atol=1e-8)


def test_least_squares_on_unrelated_targets_scores_as_its_formula_says():
    rng, n, d, m = np.random.default_rng(0), 120, 60, 1000
    scores = []
    for _ in range(20):
        train, held_out = rng.normal(size=(n, d)), rng.normal(size=(m, d))
        targets, truth = rng.normal(size=(n, 30)), rng.normal(size=(m, 30))
        fitted = least_squares(train, targets, held_out)
        scores += [r_squared(*pair) for pair in zip(truth.T, fitted.predictions.T, strict=True)]
    # graziani2021, random measures: R² ≈ -d / (n - d - 1)
    assert np.mean(scores) == pytest.approx(-d / (n - d - 1), abs=0.1)


def test_least_squares_collapses_where_features_are_as_many_as_images_and_ridge_does_not(rng):
    causes = rng.normal(size=(130, 5))  # few, as in real layers, behind many channels
    X = causes @ rng.normal(size=(5, 98)) + 0.5 * rng.normal(size=(130, 98))
    y = causes.sum(axis=1) + rng.normal(size=130)
    data = X[:100], y[:100, None], X[100:]
    ols, ridge = (fit(*data).predictions[:, 0] for fit in (least_squares, ridge_of))
    assert r_squared(y[100:], ols) < -0.5
    assert r_squared(y[100:], ridge) > 0.5


# --- R² ------------------------------------------------------------------------------------------


def test_r_squared_equals_scikit_learn_and_is_one_number(rng):
    y, predicted = rng.normal(size=30), rng.normal(size=30)
    found = r_squared(y, predicted)
    assert isinstance(found, float)
    assert found == pytest.approx(r2_score(y, predicted), abs=1e-12)


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_r_squared_scores_rows_of_predictions_one_by_one(rng, shape):
    y = rng.normal(size=30)
    predicted = y + rng.normal(size=(*shape, 30))
    found = r_squared(y, predicted)
    assert found.shape == shape
    for place in np.ndindex(shape):
        assert found[place] == pytest.approx(r2_score(y, predicted[place]), abs=1e-12)


def test_r_squared_of_the_mean_is_zero_and_of_the_truth_one(rng):
    y = rng.normal(size=30) + 1e3
    found = r_squared(y, np.stack([np.full(30, y.mean()), y]))
    np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-12)


# --- thousands of targets ------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_quick_ridge_minimises_the_generalised_cross_validation(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    scaler = StandardScaler().fit(train)
    X, Z = scaler.transform(train), scaler.transform(held_out)
    found = quick_ridge(decompose(train, held_out), targets)
    for column, y in enumerate(targets.T):
        scores, predicted = [], []
        for penalty in PENALTIES:
            hat = X @ np.linalg.solve(X.T @ X + penalty * np.eye(d), X.T) + 1 / n
            residuals = y - y.mean() - (hat - 1 / n) @ (y - y.mean())
            scores.append(np.sum(residuals**2) / (n - np.trace(hat)) ** 2)
            predicted.append(Ridge(alpha=penalty).fit(X, y).predict(Z))
        np.testing.assert_allclose(found[:, column], predicted[np.argmin(scores)], atol=1e-6)


def test_quick_ridge_knows_nothing_of_noise(rng):
    train, held_out = rng.normal(size=(60, 40)), rng.normal(size=(30, 40))
    predicted = quick_ridge(decompose(train, held_out), rng.normal(size=(60, 500)))
    assert np.median(predicted.std(axis=0)) < 0.35  # of a measure with deviation 1


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("width", [3, 100])
def test_leading_components_are_those_of_a_principal_component_analysis(rng, n, d, width):
    train, targets, held_out = split(rng, n, d)
    kept = min(width, n - 1, d)
    found = nested_ridge(leading(decompose(train, held_out), width), targets, alone(n))
    for column, y in enumerate(targets.T):
        reference = make_pipeline(
            StandardScaler(), PCA(kept), RidgeCV(alphas=PENALTIES, scoring=None)
        ).fit(train, y)
        assert reference[-1].alpha_ == pytest.approx(found.penalties[column])
        np.testing.assert_allclose(
            found.predictions[:, column], reference.predict(held_out), atol=1e-8
        )
