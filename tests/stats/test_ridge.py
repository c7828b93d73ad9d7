"""Each fit is compared with scikit-learn, or with its formula written the slow, obvious way."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scalecut.stats.ridge
from scalecut.stats.ridge import (
    CONSTANT,
    FARTHEST,
    PENALTIES,
    decompose,
    deviations,
    joined,
    joined_decompositions,
    leading,
    least_squares,
    nested_ridge,
    quick_ridge,
    r_squared,
    zero_if_constant,
)

SHAPES = [(40, 5), (12, 30)]  # more images than features, and fewer
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3)]


@pytest.fixture(params=[0, *SLOW])
def rng(request):
    return np.random.default_rng(request.param)


def split(rng, n, d, n_targets=3, n_held_out=9):
    """Channels of unlike scale and offset, training and held-out part, targets of unlike noise."""
    X = rng.normal(size=(n + n_held_out, d))
    noise = np.logspace(-1, 1.5, n_targets)
    Y = X @ rng.normal(size=(d, n_targets)) + noise * rng.normal(size=(len(X), n_targets))
    X = X * np.exp(2 * rng.normal(size=d)) + 10 * rng.normal(size=d)
    return X[:n], Y[:n], X[n:]


def ridge_of(train, targets, held_out, groups=None, **settings):
    """Nested ridge; every image is its own group by default."""
    groups = np.arange(len(train)) if groups is None else groups
    return nested_ridge(decompose(train, held_out), targets, groups, **settings)


def check_against_scikit_learn(fitted, train, targets, held_out):
    """The predictions are those of scikit-learn's ridge at the penalties that were chosen."""
    for column, penalty in enumerate(fitted.penalties):
        theirs = make_pipeline(StandardScaler(), Ridge(alpha=penalty, solver="svd"))
        by_them = theirs.fit(train, targets[:, column]).predict(held_out)
        np.testing.assert_allclose(fitted.predictions[:, column], by_them, **CLOSE)


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


def test_channel_is_constant_if_rounding_alone_explains_its_deviation(rng):
    largest = np.array([1.0, 1.0, 1e6, 1e-30, 0.0])
    deviation = largest * CONSTANT * np.array([0.9, 1.1, 0.9, 1.1, 1.0])
    kept = zero_if_constant(deviation, largest) > 0
    assert kept.tolist() == [False, True, False, True, False]
    equal = np.tile([0.1, -1e6 / 3, 1e-30, *rng.normal(size=20)], (37, 1))
    assert (deviations(equal) == 0).all()  # although the mean of equal numbers is rounded
    varied = rng.normal(size=(37, 4)) * [1e-20, 1e-3, 1.0, 1e20]
    np.testing.assert_array_equal(deviations(varied), varied.std(axis=0))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_constant_channels_are_dropped(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    constants = np.array([0.0, 0.1, -1e6 / 3, 1e-30, *rng.normal(size=6)])
    padded = np.hstack([train, np.tile(constants, (n, 1))])
    active = np.hstack([held_out, rng.normal(size=(len(held_out), len(constants)))])
    without, with_them = ridge_of(train, targets, held_out), ridge_of(padded, targets, active)
    np.testing.assert_allclose(with_them.predictions, without.predictions, **CLOSE)
    mean = ridge_of(padded[:, d:], targets, active[:, d:])  # nothing but constants
    np.testing.assert_allclose(mean.predictions, np.tile(targets.mean(axis=0), (9, 1)))


def test_fit_does_not_depend_on_scale_and_offset_of_the_features(rng):
    train, targets, held_out = split(rng, 40, 5)
    here, scales = ridge_of(train, targets, held_out), np.array([1e-9, 1e-3, 1.0, 1e3, 1e6])
    there = ridge_of(train * scales + 7 * scales, targets, held_out * scales + 7 * scales)
    np.testing.assert_allclose(there.predictions, here.predictions, **CLOSE)


@pytest.mark.parametrize("copies", [2, 20])
def test_primal_and_dual_form_agree(rng, copies):
    train, targets, held_out = split(rng, 30, 5)  # 5 and 10 channels: primal; 100: dual
    once = ridge_of(train, targets, held_out)
    wide = np.tile(train, copies), targets, np.tile(held_out, copies)
    many = ridge_of(*wide, penalties=copies * PENALTIES)  # c copies share c times the penalty
    np.testing.assert_allclose(many.predictions, once.predictions, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(many.penalties, copies * once.penalties)


def test_held_out_values_are_clipped_for_ridge_and_change_nothing_on_ordinary_images(
    rng, monkeypatch
):
    train, targets, held_out = split(rng, 40, 5)
    far, bound = held_out.copy(), held_out.copy()
    for row, channel, side in ((3, 1, 1), (4, 2, -1)):
        mean, deviation = train[:, channel].mean(), train[:, channel].std()
        far[row, channel] = mean + side * 1e4 * deviation
        bound[row, channel] = mean + side * FARTHEST * deviation
    check_against_scikit_learn(ridge_of(train, targets, far), train, targets, bound)
    by_them = LinearRegression().fit(train, targets).predict(far)
    np.testing.assert_allclose(least_squares(train, targets, far).predictions, by_them, **CLOSE)
    bounded = ridge_of(train, targets, held_out)
    monkeypatch.setattr(scalecut.stats.ridge, "FARTHEST", np.inf)
    free = ridge_of(train, targets, held_out)
    np.testing.assert_array_equal(bounded.predictions, free.predictions)


# --- nested ridge --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(40, 5), (25, 60), (30, 29), (30, 30)])
def test_ridge_is_that_of_scikit_learn_with_leave_one_out(rng, n, d):
    train, targets, held_out = split(rng, n, d, n_targets=5)
    fitted = ridge_of(train, targets, held_out)
    check_against_scikit_learn(fitted, train, targets, held_out)
    standardised = StandardScaler().fit_transform(train)
    theirs = RidgeCV(alphas=PENALTIES, alpha_per_target=True).fit(standardised, targets)
    np.testing.assert_array_equal(fitted.penalties, theirs.alpha_)
    assert len(set(fitted.penalties)) > 1, "the targets should differ in their penalties"


def best_by_hand(train, target, groups, penalties):
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
def test_penalty_is_that_of_leave_one_group_out_whatever_the_numbers_and_order(rng, n, d):
    train, targets, held_out = split(rng, n, d)
    groups = rng.integers(0, n // 4, size=n)  # of unlike size
    targets += 6 * rng.normal(size=(n // 4, 1))[groups]  # images of a group are alike
    coarse = np.logspace(-2, 5, 15)
    fitted = ridge_of(train, targets, held_out, groups, penalties=coarse)
    by_hand = [best_by_hand(train, target, groups, coarse) for target in targets.T]
    np.testing.assert_array_equal(fitted.penalties, by_hand)
    order = rng.permutation(n)
    moved = train[order], targets[order], held_out, 1000 - 13 * groups[order]
    again = ridge_of(*moved, penalties=coarse)
    np.testing.assert_array_equal(again.penalties, fitted.penalties)
    np.testing.assert_allclose(again.predictions, fitted.predictions, **CLOSE)


def test_leaving_out_whole_groups_needs_a_larger_penalty(rng):
    fingerprints, groups = rng.normal(size=(15, 40)), np.repeat(np.arange(15), 6)
    train = fingerprints[groups] + 0.1 * rng.normal(size=(90, 40))
    targets = rng.normal(size=(15, 1))[groups] + 0.1 * rng.normal(size=(90, 1))
    by_image = ridge_of(train, targets, train[:5])
    by_group = ridge_of(train, targets, train[:5], groups)
    assert by_image.penalties[0] * 100 < by_group.penalties[0]


@pytest.mark.parametrize("fit", [ridge_of, least_squares])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_each_target_is_fitted_as_if_alone(rng, n, d, fit):
    train, targets, held_out = split(rng, n, d)
    together = fit(train, targets, held_out)
    for column in range(targets.shape[1]):
        alone = fit(train, targets[:, [column]], held_out)
        np.testing.assert_allclose(
            together.predictions[:, [column]], alone.predictions, rtol=1e-9, atol=1e-9
        )
        assert together.penalties[column] == alone.penalties[0]


def test_ridge_recovers_a_planted_measure_and_nothing_from_a_shuffled_one(rng):
    X = rng.normal(size=(300, 100))
    y = X @ rng.normal(size=100) + 3.0
    shuffled = np.stack([y, *(rng.permutation(y) for _ in range(40))], axis=1)
    fitted = ridge_of(X[:200], shuffled[:200], X[200:])
    scores = [r_squared(*pair) for pair in zip(shuffled[200:].T, fitted.predictions.T, strict=True)]
    assert scores[0] > 0.999
    assert -0.1 < np.mean(scores[1:]) < 0.05
    assert min(scores) > -0.5


# --- least squares -------------------------------------------------------------------------------


def of_minimum_norm(train, targets, held_out):
    """Weights by the pseudo-inverse of the centred, unscaled features."""
    weights = np.linalg.pinv(train - train.mean(axis=0)) @ (targets - targets.mean(axis=0))
    return targets.mean(axis=0) + (held_out - train.mean(axis=0)) @ weights


@pytest.mark.parametrize("repeats", [False, True], ids=["", "with repeated channels"])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_least_squares_is_of_minimum_norm(rng, n, d, repeats):
    train, targets, held_out = split(rng, n, d)
    if repeats:  # combinations of other channels make the triangle singular
        mixing = np.hstack([np.eye(d), np.ones((d, 1)), np.zeros((d, 1)), np.eye(d)[:, :2]])
        train, held_out = train @ mixing, held_out @ mixing
    fitted = least_squares(train, targets, held_out)
    by_hand = of_minimum_norm(train, targets, held_out)
    np.testing.assert_allclose(fitted.predictions, by_hand, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(fitted.penalties, 0.0)
    if n > d:
        by_them = LinearRegression().fit(train, targets).predict(held_out)
        np.testing.assert_allclose(fitted.predictions, by_them, rtol=1e-6, atol=1e-6)
    else:
        at_the_images = least_squares(train, targets, train).predictions
        np.testing.assert_allclose(at_the_images, targets, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
def test_least_squares_keeps_its_digits_where_images_nearly_repeat(rng, apart):
    train, _, held_out = split(rng, 12, 30)
    train[6:] = train[:6] * (1 + apart * rng.normal(size=(6, 30)))
    targets = rng.normal(size=(12, 3))
    by_hand = of_minimum_norm(train, targets, held_out)
    fitted = least_squares(train, targets, held_out).predictions
    np.testing.assert_allclose(fitted, by_hand, rtol=0, atol=1e-7 * np.abs(by_hand).max())


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


# --- R², thousands of targets, principal components ----------------------------------------------


def test_r_squared_is_that_of_scikit_learn_for_each_row_of_predictions(rng):
    y = rng.normal(size=30) + 1e3
    predicted = y + rng.normal(size=(2, 3, 30))
    found = r_squared(y, predicted)
    by_them = [[r2_score(y, row) for row in block] for block in predicted]
    np.testing.assert_allclose(found, by_them, atol=1e-12)
    constant = r_squared(y, np.full(30, y.mean()))
    assert isinstance(constant, float)
    assert constant == pytest.approx(0.0, abs=1e-12)


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


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("width", [3, 100])
def test_leading_components_are_those_of_a_principal_component_analysis(rng, n, d, width):
    train, targets, held_out = split(rng, n, d)
    kept = min(width, n - 1, d)
    found = nested_ridge(leading(decompose(train, held_out), width), targets, np.arange(n))
    for column, y in enumerate(targets.T):
        reference = make_pipeline(
            StandardScaler(), PCA(kept), RidgeCV(alphas=PENALTIES, scoring=None)
        ).fit(train, y)
        assert reference[-1].alpha_ == pytest.approx(found.penalties[column])
        np.testing.assert_allclose(
            found.predictions[:, column], reference.predict(held_out), **CLOSE
        )


# --- several blocks side by side -----------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 90])  # fewer images than the features of all blocks, and more
def test_joined_blocks_are_predicted_as_by_scikit_learn(rng, n):
    """Each block by its own StandardScaler, divided by the root of its width, and one Ridge."""
    widths = [3, 40, 12]
    blocks = [(rng.normal(size=(n, d)), rng.normal(size=(20, d))) for d in widths]
    blocks[1][0][:, 5] = 7.0  # constant in the training part, so that 39 channels count
    counted = [3, 39, 12]
    target = sum(train[:, 0] for train, _ in blocks) + rng.normal(size=n)
    for count, found in enumerate(joined_decompositions(blocks), start=1):
        scalers = [StandardScaler().fit(train) for train, _ in blocks[:count]]
        train, held_out = (
            np.hstack(
                [
                    np.delete(scaler.transform(pair[part]), [5] if d == 39 else [], axis=1) / d**0.5
                    for scaler, pair, d in zip(scalers, blocks, counted, strict=False)
                ]
            )
            for part in (0, 1)
        )
        for penalty in (0.5, 20.0):
            fit = nested_ridge(found, target[:, None], np.arange(n), np.array([penalty]))
            model = Ridge(penalty / np.mean(counted[:count])).fit(train, target)
            np.testing.assert_allclose(
                fit.predictions[:, 0], model.predict(held_out), rtol=0, atol=1e-8
            )


def test_one_block_alone_is_decomposed_as_ever(rng):
    train, held_out, target = (rng.normal(size=size) for size in ((30, 50), (9, 50), (30, 1)))
    (found,) = joined_decompositions([(train, held_out)])
    assert np.array_equal(joined([(train, held_out)]).u, found.u)
    fits = [
        nested_ridge(each, target, np.arange(30)) for each in (found, decompose(train, held_out))
    ]
    np.testing.assert_allclose(fits[0].predictions, fits[1].predictions, atol=1e-10)
    assert fits[0].penalties == fits[1].penalties


def test_blocks_without_a_channel_that_varies_count_for_nothing(rng):
    train, held_out, target = (rng.normal(size=size) for size in ((30, 8), (9, 8), (30, 1)))
    still = np.ones((30, 4)), np.ones((9, 4))
    first, alone, with_more = joined_decompositions([still, (train, held_out), still])
    assert first.s.size == 0
    assert np.array_equal(joined([still, (train, held_out)]).held_out, alone.held_out)
    fits = [nested_ridge(each, target, np.arange(30)) for each in (alone, with_more)]
    np.testing.assert_array_equal(fits[0].predictions, fits[1].predictions)
    np.testing.assert_allclose(
        fits[0].predictions,
        nested_ridge(decompose(train, held_out), target, np.arange(30)).predictions,
        atol=1e-10,
    )
