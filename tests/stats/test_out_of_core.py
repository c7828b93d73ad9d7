"""Regressions block by block give what those in memory give, whatever the blocks."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from scalecut import cache
from scalecut.probing.scores import predicted_in_memory
from scalecut.stats import out_of_core as tall
from scalecut.stats.out_of_core import Rows, Split, predicted
from scalecut.stats.ridge import decompose, left_group_out

REGRESSORS, WIDTHS = ("ridge", "ols", "matched"), (0, 0, 3)


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


@pytest.fixture(autouse=True, params=[7, 10_000], ids=["blocks", "one block"])
def rows_of_a_block(request, monkeypatch):
    monkeypatch.setattr(tall, "ROWS", request.param)


def made_up(rng, n=90, d=6, groups=None, n_dealt=5, change=lambda X: X, kind=np.float32):
    """A split of n images: some to fit in mixed order, the others held out; features of float32."""
    X = rng.normal(size=(n, d)) * np.exp(rng.normal(size=d)) + 5 * rng.normal(size=d)
    X = change(X).astype(kind)
    y = X[:, :2].astype(float) @ [1.0, -0.5] + rng.normal(size=n)
    dealt = np.stack([y, *(rng.permutation(y) for _ in range(n_dealt))], axis=1)
    groups = np.arange(n) if groups is None else groups
    names = rng.permutation(np.unique(groups))
    is_held_out = np.isin(groups, names[: len(names) // 3])
    fitted, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    targets = np.stack([y, rng.permutation(y)], axis=1)
    return Split(
        Rows(X, fitted),
        Rows(X, held_out),
        targets[fitted],
        groups[fitted],
        (Rows(dealt, fitted), Rows(dealt, held_out)),
    )


def same(split, **tolerance):
    """Both ways agree, for every regressor."""
    ours = predicted(split, REGRESSORS, WIDTHS)
    for one, other in zip(ours, predicted_in_memory(split, REGRESSORS, WIDTHS), strict=True):
        np.testing.assert_allclose(one.predictions, other.predictions, **tolerance)
        np.testing.assert_allclose(one.null, other.null, **tolerance)
    return ours


CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def test_images_without_company(rng):
    same(made_up(rng), **CLOSE)


@pytest.mark.parametrize("size", [2, 15], ids=["small groups", "larger than the rank"])
def test_groups_are_left_out_whole_wherever_their_images_stand(rng, size):
    groups = rng.permutation(np.repeat(np.arange(90 // size), size))
    same(made_up(rng, groups=groups), **CLOSE)


def test_channels_that_are_constant_or_sleep_in_the_part_to_fit(rng):
    def change(X):
        X[:, 3], X[:, 5] = 2.5, 0.0
        X[-20:, 5] = rng.random(20)
        return X

    same(made_up(rng, change=change), **CLOSE)


def test_channel_whose_mean_is_rounded_is_constant_all_the_same(rng):
    def change(X):
        X[:, 3] = 0.1
        return X

    same(made_up(rng, change=change, kind=np.float64), **CLOSE)


def test_features_that_are_all_constant_predict_the_mean(rng):
    split = made_up(rng, change=np.ones_like)
    ridge, ols, _ = same(split, **CLOSE)
    mean = np.tile(split.targets.mean(axis=0), (len(split.held_out), 1))
    for each in (ridge, ols):
        np.testing.assert_allclose(each.predictions, mean)


def test_channels_that_repeat_others(rng):
    def change(X):
        X[:, 3:] = X[:, :3]
        return X

    same(made_up(rng, change=change), rtol=1e-5, atol=1e-6)


def test_as_many_images_as_features_and_one(rng):
    same(made_up(rng, n=45, d=29), rtol=1e-5, atol=1e-6)  # 30 to fit


@pytest.mark.parametrize("share", [1.0, 1e-3, 1e-6, 1e-13], ids=str)
def test_channels_that_nearly_repeat_others(rng, share):
    def change(X):
        X = X.astype(np.float64)  # as features are not, or a small share would be rounded off
        X[:, 3] = X[:, 2] + share * X[:, 3]
        return X - X.mean(axis=0)

    split = made_up(rng, change=change, kind=np.float64)
    same(split, rtol=1e-6, atol=1e-6 / share**0.5 if share < 1e-12 else 1e-7)


def test_values_far_from_those_to_fit_are_bounded_for_ridge_alone(rng):
    split = made_up(rng)
    split.held_out.values[split.held_out.numbers[0]] *= 1e4
    ridge, ols, _ = same(split, **CLOSE)
    assert abs(ridge.predictions[0, 0]) < 1e3 < abs(ols.predictions[0, 0])


def test_permutation_without_a_spread_in_the_held_out_part_scores_zero(rng):
    split = made_up(rng)
    split.dealt[1].values[split.dealt[1].numbers, 2] = 0.1
    for each in same(split, **CLOSE):
        assert each.null[2] == 0


def test_without_permutations_there_is_no_null(rng):
    split = made_up(rng)
    bare = Split(
        split.train,
        split.held_out,
        split.targets,
        split.groups,
        tuple(Rows(np.zeros((90, 0)), each.numbers) for each in split.dealt),
    )
    whole = predicted(split, REGRESSORS, WIDTHS)
    for one, other in zip(predicted(bare, REGRESSORS, WIDTHS), whole, strict=True):
        assert one.null.shape == (0,)
        np.testing.assert_allclose(one.predictions, other.predictions, rtol=1e-10)


def test_fits_are_those_of_scikit_learn(rng):
    split = made_up(rng, groups=np.repeat(np.arange(30), 3))
    X, Z = split.train.whole(), split.held_out.whole()
    ridge, ols, _ = predicted(split, REGRESSORS, WIDTHS)
    by_hand = LinearRegression().fit(X, split.targets)
    np.testing.assert_allclose(ols.predictions, by_hand.predict(Z), rtol=1e-7)
    y, dealt = split.dealt[1].whole(), split.dealt[0].whole()
    scores = [
        r2_score(y[:, at], LinearRegression().fit(X, dealt[:, at]).predict(Z))
        for at in range(dealt.shape[1])
    ]
    np.testing.assert_allclose(ols.null, scores, atol=1e-8)

    def left_out(penalty, target):
        """Σ of squares over groups that are left out, each fitted anew on the same standard."""
        centre, spread, total = X.mean(axis=0), X.std(axis=0), 0.0
        S = (X - centre) / spread
        for group in np.unique(split.groups):
            out = split.groups == group
            fit = Ridge(alpha=penalty, solver="cholesky").fit(S[~out], target[~out])
            total += np.sum((target[out] - fit.predict(S[out])) ** 2)
        return total

    S, T = (X - X.mean(axis=0)) / X.std(axis=0), (Z - X.mean(axis=0)) / X.std(axis=0)
    for number, target in enumerate(split.targets.T):
        best = min(tall.PENALTIES, key=lambda penalty: left_out(penalty, target))
        fit = Ridge(alpha=best, solver="cholesky").fit(S, target)
        np.testing.assert_allclose(ridge.predictions[:, number], fit.predict(T), rtol=1e-6)


def test_group_larger_than_the_rank_is_left_out_as_a_fit_without_it(rng):
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    groups = np.repeat([0, 1, 2], [40, 15, 5])
    penalty = np.array([2.0])
    found = left_group_out(decompose(X, X[:0]), y, groups, penalty)
    S = (X - X.mean(axis=0)) / X.std(axis=0)
    for group in range(3):
        out = groups == group
        fit = Ridge(alpha=2.0, solver="cholesky").fit(S[~out], y[~out])
        np.testing.assert_allclose(found[out], fit.predict(S[out]), rtol=1e-6)


@pytest.mark.parametrize("d", [2, 100, 3000])
def test_tall_are_parts_of_many_images_and_fewer_features(d):
    for n in (2048, 2049, 3000, 3001):
        rows = Rows(np.zeros((n, d), np.float32), np.arange(n))
        split = Split(rows, rows, np.zeros((n, 1)), np.arange(n), (rows, rows))
        assert split.is_tall == (n > 2048 and n > d)


def test_rows_on_disk_are_those_in_memory(rng, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    split = made_up(rng)
    on_disk = cache.scratch(split.train.values.shape, np.dtype(np.float32))
    on_disk[:] = split.train.values
    moved = Split(
        Rows(on_disk, split.train.numbers),
        Rows(on_disk, split.held_out.numbers),
        split.targets,
        split.groups,
        split.dealt,
    )
    for one, other in zip(
        predicted(moved, REGRESSORS, WIDTHS), predicted(split, REGRESSORS, WIDTHS), strict=True
    ):
        np.testing.assert_array_equal(one.predictions, other.predictions)
