"""Regressions block by block give the same as those in memory, whatever the blocks."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from scalecut import cache
from scalecut.stats import out_of_core
from scalecut.stats.out_of_core import Rows, Split, predicted, predicted_in_memory
from scalecut.stats.ridge import PENALTIES, decompose, least_squares, left_group_out

REGRESSORS, WIDTHS = ("ridge", "ols", "matched"), (0, 0, 3)
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


@pytest.fixture(autouse=True, params=[7, pytest.param(10_000, marks=pytest.mark.slow)])
def rows_of_a_block(request, monkeypatch):
    monkeypatch.setattr(out_of_core, "ROWS", request.param)


def split_of(rng, n=90, d=6, groups=None, change=lambda X: X, kind=np.float32):
    """A split of n images in mixed order, with two targets and five permuted measures."""
    X = rng.normal(size=(n, d)) * np.exp(rng.normal(size=d)) + 5 * rng.normal(size=d)
    X = change(X).astype(kind)
    y = X[:, :2].astype(float) @ [1.0, -0.5] + rng.normal(size=n)
    permuted = np.stack([y, *(rng.permutation(y) for _ in range(5))], axis=1)
    groups = np.arange(n) if groups is None else groups
    names = rng.permutation(np.unique(groups))
    is_held_out = np.isin(groups, names[: len(names) // 3])
    train, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    targets = np.stack([y, rng.permutation(y)], axis=1)
    return Split(
        Rows(X, train),
        Rows(X, held_out),
        targets[train],
        groups[train],
        (Rows(permuted, train), Rows(permuted, held_out)),
    )


def same(split, **tolerance):
    """Both ways agree, for every regressor."""
    ours = predicted(split, REGRESSORS, WIDTHS)
    for one, other in zip(ours, predicted_in_memory(split, REGRESSORS, WIDTHS), strict=True):
        np.testing.assert_allclose(one.predictions, other.predictions, **tolerance)
        np.testing.assert_allclose(one.null, other.null, **tolerance)
    return ours


@pytest.mark.parametrize("size", [1, 2, 15], ids=["alone", "pairs", "larger than the rank"])
def test_groups_are_left_out_as_a_whole_in_any_order(rng, size):
    same(split_of(rng, groups=rng.permutation(np.repeat(np.arange(90 // size), size))), **CLOSE)


def test_constant_channels_are_dropped_although_their_mean_is_rounded(rng):
    def change(X):
        X[:, 3], X[:, 4], X[:, 5] = 2.5, 0.1, 0.0
        X[-20:, 5] = rng.random(20)  # mostly silent
        return X

    same(split_of(rng, change=change, kind=np.float64), **CLOSE)
    nothing = split_of(rng, change=np.ones_like)
    mean = np.tile(nothing.targets.mean(axis=0), (len(nothing.held_out), 1))
    for each in same(nothing, **CLOSE)[:2]:
        np.testing.assert_allclose(each.predictions, mean)


@pytest.mark.parametrize("share", [0, 1.0, 1e-6, 1e-13], ids=str)
def test_channels_that_repeat_or_nearly_repeat_others(rng, share):
    def change(X):
        X[:, 3] = X[:, 2] + share * X[:, 3]
        return X - X.mean(axis=0)

    split = split_of(rng, change=change, kind=np.float64)
    same(split, rtol=1e-6, atol=1e-6 / share**0.5 if 0 < share < 1e-12 else 1e-6)


def test_about_as_many_images_as_features(rng):
    same(split_of(rng, n=45, d=29), rtol=1e-5, atol=1e-6)  # 30 training images


def test_held_out_values_far_off_are_clipped_for_ridge_alone(rng):
    split = split_of(rng)
    split.held_out.values[split.held_out.numbers[0]] *= 1e4
    ridge, ols, _ = same(split, **CLOSE)
    assert abs(ridge.predictions[0, 0]) < 1e3 < abs(ols.predictions[0, 0])


def with_one_far_off(X):
    X[::7, 0] = 0.0
    X[3, 0] += 1e4
    return X


def with_near_copies(X):
    X[:, 1] = X[:, 0] * (1 + 1e-5 * np.arange(len(X)) % 7)
    return X


@pytest.mark.parametrize("change", [lambda X: X, with_one_far_off, with_near_copies])
@pytest.mark.parametrize("d", [3, 40, 90, 400])
def test_least_squares_are_the_same_with_and_without_ridge(rng, d, change):
    split = split_of(rng, d=d, change=change, kind=np.float64)
    train, held_out = split.train.whole(), split.held_out.whole()
    targets = np.hstack([split.targets, split.permuted[0].whole()])
    expected = least_squares(train, targets, held_out).predictions
    largest = np.abs(expected[:, :2]).max()
    null = r2_score(split.permuted[1].whole(), expected[:, 2:], multioutput="raw_values")
    for regressors in (("ols",), ("ridge", "ols"), REGRESSORS):
        tested = predicted_in_memory(split, regressors, [0] * len(regressors))
        found = tested[regressors.index("ols")]
        np.testing.assert_allclose(found.predictions / largest, expected[:, :2] / largest, **CLOSE)
        np.testing.assert_allclose(found.null, null, rtol=1e-6)


def test_permuted_measures_may_be_constant_in_the_held_out_part_or_missing(rng):
    split = split_of(rng)
    split.permuted[1].values[split.permuted[1].numbers, 2] = 0.1
    constant = same(split, **CLOSE)
    assert [each.null[2] for each in constant] == [0, 0, 0]
    none = tuple(Rows(np.zeros((90, 0)), each.numbers) for each in split.permuted)
    bare = predicted(replace(split, permuted=none), REGRESSORS, WIDTHS)
    for one, other in zip(bare, constant, strict=True):
        assert one.null.shape == (0,)
        np.testing.assert_allclose(one.predictions, other.predictions, rtol=1e-10)


def test_scores_do_not_depend_on_the_unit_and_the_zero_of_the_measure(rng):
    """Such as the seconds of an hour, and the same since 1970."""
    split = split_of(rng)
    expected = [tested.null for tested in same(split, **CLOSE)]
    for unit, zero in ((1e3, 0), (1, 1.7e9), (1e-3, 1.7e4)):
        rows = [Rows(unit * part.whole() + zero, np.arange(len(part))) for part in split.permuted]
        moved = replace(split, targets=unit * split.targets + zero, permuted=tuple(rows))
        for tested, null in zip(same(moved, rtol=1e-5, atol=1e-5), expected, strict=True):
            np.testing.assert_allclose(tested.null, null, rtol=1e-4, atol=1e-4)


def test_fits_are_those_of_scikit_learn(rng):
    split = split_of(rng, groups=np.repeat(np.arange(30), 3))
    X, Z = split.train.whole(), split.held_out.whole()
    ridge, ols, _ = predicted(split, REGRESSORS, WIDTHS)
    by_them = LinearRegression().fit(X, split.targets)
    np.testing.assert_allclose(ols.predictions, by_them.predict(Z), rtol=1e-7)
    permuted, y = (rows.whole() for rows in split.permuted)
    scores = [
        r2_score(y[:, at], LinearRegression().fit(X, permuted[:, at]).predict(Z))
        for at in range(permuted.shape[1])
    ]
    np.testing.assert_allclose(ols.null, scores, atol=1e-8)

    def left_out(penalty, target):
        """Σ of squares over left-out groups, each fitted anew on the same standard."""
        total = 0.0
        for group in np.unique(split.groups):
            out = split.groups == group
            fit = Ridge(alpha=penalty, solver="cholesky").fit(S[~out], target[~out])
            total += np.sum((target[out] - fit.predict(S[out])) ** 2)
        return total

    S, T = (X - X.mean(axis=0)) / X.std(axis=0), (Z - X.mean(axis=0)) / X.std(axis=0)
    for number, target in enumerate(split.targets.T):
        best = min(PENALTIES, key=lambda penalty: left_out(penalty, target))
        fit = Ridge(alpha=best, solver="cholesky").fit(S, target)
        np.testing.assert_allclose(ridge.predictions[:, number], fit.predict(T), rtol=1e-6)


def test_a_group_larger_than_the_rank_is_predicted_by_a_fit_without_it(rng):
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    groups = np.repeat([0, 1, 2], [40, 15, 5])
    found = left_group_out(decompose(X, X[:0]), y, groups, np.array([2.0]))
    S = (X - X.mean(axis=0)) / X.std(axis=0)
    for group in range(3):
        out = groups == group
        fit = Ridge(alpha=2.0, solver="cholesky").fit(S[~out], y[~out])
        np.testing.assert_allclose(found[out], fit.predict(S[out]), rtol=1e-6)


def test_tall_are_parts_of_many_images_and_fewer_features():
    for d in (2, 100, 3000):
        for n in (2048, 2049, 3000, 3001):
            rows = Rows(np.zeros((n, d), np.float32), np.arange(n))
            split = Split(rows, rows, np.zeros((n, 1)), np.arange(n), (rows, rows))
            assert split.is_tall == (n > 2048 and n > d)


def test_rows_on_disk_give_the_numbers_of_those_in_memory(rng, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    split = split_of(rng)
    on_disk = cache.scratch(split.train.values.shape, np.dtype(np.float32))
    on_disk[:] = split.train.values
    moved = replace(
        split,
        train=Rows(on_disk, split.train.numbers),
        held_out=Rows(on_disk, split.held_out.numbers),
    )
    for one, other in zip(
        predicted(moved, REGRESSORS, WIDTHS), predicted(split, REGRESSORS, WIDTHS), strict=True
    ):
        np.testing.assert_array_equal(one.predictions, other.predictions)
