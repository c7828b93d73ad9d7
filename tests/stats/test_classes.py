"""Scores of classes against scikit-learn, and splits against what they promise."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from scalecut.stats.classes import (
    AUROC,
    BALANCED,
    KAPPA,
    bootstrap_classes,
    chosen,
    class_scores,
    counted,
    indicators,
    mean_recall,
    stratified,
)
from scalecut.stats.out_of_core import Permuted, Rows, Split, predicted, predicted_in_memory
from scalecut.stats.ridge import decompose, nested_ridge

METRICS = (BALANCED, AUROC, KAPPA)


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


def classified(rng, n=150, d=12, k=4):
    """Features that hold a class in part, classes of unequal frequency."""
    features = rng.normal(size=(n, d))
    values = features @ rng.normal(size=d) + 2 * rng.normal(size=n)
    return features, np.digitize(values, np.quantile(values, [0.4, 0.7, 0.85])[: k - 1])


NUMBERS = np.array([1.0, 2.0, 3.0, 5.0])


def by_sklearn(truth, values, shares, weights):
    """The three scores of weighted images, class by class, as scikit-learn has them."""
    decided = (values / shares).argmax(axis=1)
    nearest = [int(np.abs(NUMBERS - each @ NUMBERS).argmin()) for each in values]
    kept = {"sample_weight": weights}
    areas = [
        roc_auc_score(truth == number, column, **kept) for number, column in enumerate(values.T)
    ]
    labels = range(values.shape[1])
    return [
        balanced_accuracy_score(truth, decided, **kept),
        np.mean(areas),
        cohen_kappa_score(truth, nearest, weights="quadratic", labels=labels, **kept),
    ]


def test_scores_of_weighted_images_are_those_of_scikit_learn(rng):
    truth = rng.integers(0, 4, 60)
    values = np.eye(4)[truth] + rng.normal(size=(60, 4)).round(1)  # with ties
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    weights[0] = 1
    found = class_scores(truth, values, shares, weights, METRICS, NUMBERS)
    for row, each in zip(found, weights, strict=True):
        np.testing.assert_allclose(row, by_sklearn(truth, values, shares, each), atol=1e-12)
    whole = values - values.mean(axis=1, keepdims=True) + 1 / 4  # sums to 1, as it asks for
    area = class_scores(truth, whole, shares, np.ones((1, 60)), (AUROC,), NUMBERS).item()
    same = roc_auc_score(truth, whole, multi_class="ovr", average="macro")
    assert area == pytest.approx(same, abs=1e-12)


def test_ridge_on_indicators_is_that_of_scikit_learn_with_one_penalty(rng):
    features, truth = classified(rng)
    train, held_out = features[:100], features[100:]
    targets = indicators(truth[:100, None].astype(float), 4)
    fit = nested_ridge(decompose(train, held_out), targets, np.arange(100), together=4)
    assert len(set(fit.penalties)) == 1
    scaler = StandardScaler().fit(train)
    ridge = Ridge(alpha=fit.penalties[0]).fit(scaler.transform(train), targets)
    np.testing.assert_allclose(fit.predictions, ridge.predict(scaler.transform(held_out)))
    np.testing.assert_allclose(fit.predictions.sum(axis=1), 1.0)
    alone = nested_ridge(decompose(train, held_out), targets, np.arange(100))
    assert len(set(alone.penalties)) > 1  # otherwise this shows nothing


def test_number_from_indicators_is_the_regressed_number(rng):
    features, truth = classified(rng)
    train, held_out = features[:100], features[100:]
    fit = nested_ridge(
        decompose(train, held_out),
        indicators(truth[:100, None].astype(float), 4),
        np.arange(100),
        together=4,
    )
    scaler = StandardScaler().fit(train)
    ridge = Ridge(alpha=fit.penalties[0]).fit(scaler.transform(train), NUMBERS[truth[:100]])
    by_number = ridge.predict(scaler.transform(held_out))
    np.testing.assert_allclose(fit.predictions @ NUMBERS, by_number)


def test_balanced_classes_are_chosen_as_by_a_ridge_classifier(rng):
    values = rng.normal(size=(50, 5))
    np.testing.assert_array_equal(chosen(values, np.full(5, 0.2)), values.argmax(axis=1))


def test_a_rare_class_is_found_where_the_largest_value_never_is_its():
    """Two classes, one of 5 %, and a feature that holds it with noise: the rule of Bayes."""
    rng = np.random.default_rng(0)
    truth = (np.arange(4000) % 20 == 0).astype(int)
    feature = truth + 0.7 * rng.normal(size=4000)
    slope, start = np.polyfit(feature, truth, 1)
    values = np.column_stack([1 - start - slope * feature, start + slope * feature])
    asked = np.array([0.95, 0.05]), np.ones((1, 4000)), (BALANCED,), np.arange(2.0)
    found = class_scores(truth, values, *asked)
    assert balanced_accuracy_score(truth, values.argmax(axis=1)) < 0.53
    best = max(balanced_accuracy_score(truth, feature > cut) for cut in np.linspace(-1, 2, 60))
    assert best - 0.04 < found.item() <= best + 0.001


def test_a_class_that_training_lacks_is_never_chosen():
    values = np.array([[0.1, 9.0, 0.2]])
    assert chosen(values, np.array([0.5, 0.0, 0.5])).item() == 2


def test_bootstrap_is_the_mean_of_the_scores_of_every_split(rng):
    truth = rng.integers(0, 3, (2, 40)).astype(float)
    is_held_out = np.arange(40) % 3 == np.array([[0], [1]])
    values = [rng.normal(size=(each.sum(), 3, 2)) for each in is_held_out]
    counts = np.vstack([np.ones((1, 40)), rng.integers(0, 3, (4, 40))])
    numbers = np.array([0.0, 1.0, 2.0])
    found = bootstrap_classes(truth, values, is_held_out, ~is_held_out, counts, METRICS, numbers)
    for column in range(2):
        alone = [
            class_scores(
                y[held].astype(int),
                each[:, :, column],
                np.bincount(y[~held].astype(int)) / (~held).sum(),
                counts[:, held],
                METRICS,
                numbers,
            )
            for y, each, held in zip(truth, values, is_held_out, strict=True)
        ]
        np.testing.assert_allclose(found[:, column], np.mean(alone, axis=0))


def test_a_draw_of_one_class_has_no_score():
    truth, values = np.array([0, 0, 1]), np.eye(2)[[0, 0, 1]]
    weights, numbers = np.array([[1.0, 1, 0]]), np.array([0.0, 1.0])
    found = class_scores(truth, values, np.array([0.5, 0.5]), weights, METRICS, numbers)
    assert np.isnan(found).all()


def test_counts_of_permuted_classes_give_balanced_accuracy(rng):
    truth, values = rng.integers(0, 3, (30, 7)), rng.normal(size=(30, 7, 3))
    shares = np.array([np.bincount(column, minlength=3) for column in truth.T]) / 30
    columns = indicators(truth.astype(float), 3)
    found = mean_recall(*counted(columns, values.reshape(30, -1), shares.ravel(), 3))
    by_hand = [
        balanced_accuracy_score(truth[:, p], (values[:, p] / shares[p]).argmax(axis=1))
        for p in range(7)
    ]
    np.testing.assert_allclose(found, by_hand)


def test_block_by_block_gives_what_one_block_gives(rng, monkeypatch):
    features, truth = classified(rng, n=90)
    numbers = np.column_stack([truth, *[rng.permutation(truth) for _ in range(3)]]).astype(float)
    train, held_out = np.arange(60), np.arange(60, 90)
    split = Split(
        Rows(features, train),
        Rows(features, held_out),
        indicators(numbers[train, :1], 4),
        train % 20,
        (Permuted((Rows(numbers, train),), 4), Permuted((Rows(numbers, held_out),), 4)),
        4,
    )
    monkeypatch.setattr("scalecut.stats.out_of_core.ROWS", 16)
    whole, parts = (
        run(split, ("ridge", "ols"), (0, 0)) for run in (predicted_in_memory, predicted)
    )
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.predictions, other.predictions, atol=1e-9)
        np.testing.assert_allclose(one.null, other.null)


def test_groups_of_one_are_split_as_stratified_and_groups_stay_whole(rng):
    numbers = np.repeat([0.0, 1.0, 2.0], [50, 30, 10])
    held_out = stratified(numbers, np.arange(90), rng, 0.3)
    assert np.bincount(numbers[held_out].astype(int)).tolist() == [15, 9, 3]
    groups = rng.integers(0, 25, 90)  # classes differ inside a group
    held_out = stratified(numbers, groups, rng, 0.3)
    assert not set(groups[held_out]) & set(groups[~held_out])
    for number, size in enumerate([50, 30, 10]):
        share = held_out[numbers == number].sum() / size
        assert 0.1 <= share <= 0.5
