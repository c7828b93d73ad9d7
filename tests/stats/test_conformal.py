"""Intervals and p-values, against brute force, scipy.stats and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from scalecut.stats.conformal import (
    half_width,
    is_discovery,
    rank_p_value,
    robust,
    student_p_value,
)


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


def test_half_width_is_the_order_statistic_of_split_conformal_prediction(rng):
    for n in (19, 20, 43, 200):
        errors = rng.normal(size=n)
        k = int(np.ceil((n + 1) * 0.95 - 1e-9))
        assert half_width(errors, np.arange(n), 0.95) == np.sort(np.abs(errors))[k - 1]


def test_too_few_groups_give_no_interval(rng):
    assert half_width(rng.normal(size=18), np.arange(18), 0.95) == np.inf
    assert half_width(rng.normal(size=36), np.repeat(np.arange(18), 2), 0.95) == np.inf
    assert np.isfinite(half_width(rng.normal(size=38), np.repeat(np.arange(19), 2), 0.95))


def test_a_group_counts_once_however_often_it_is_repeated(rng):
    errors, groups = rng.normal(size=30), np.arange(30)
    often = rng.integers(1, 6, size=30)
    repeated = np.repeat(errors, often), np.repeat(groups, often)
    assert half_width(*repeated, 0.9) == half_width(errors, groups, 0.9)
    assert rank_p_value(1.0, *repeated) == pytest.approx(rank_p_value(1.0, errors, groups))


def test_intervals_cover_new_groups_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        shift = rng.normal(size=41)  # of the group, shared by its values
        groups = np.repeat(np.arange(40), 3)
        errors = shift[groups] + 0.3 * rng.standard_t(3, size=120)
        new = shift[40] + 0.3 * rng.standard_t(3)
        covered.append(abs(new) <= half_width(errors, groups, 0.9))
    assert np.mean(covered) == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 400))


def test_rank_p_value_counts_the_errors_that_are_as_large(rng):
    errors = rng.normal(size=43)
    for error in (-3.0, 0.1, 0.8):
        n = sum(abs(each) >= abs(error) for each in errors)
        assert rank_p_value(error, errors, np.arange(43)) == pytest.approx((1 + n) / 44)


def test_student_p_value_is_that_of_a_new_value_with_a_robust_scale(rng):
    errors = rng.normal(0.1, 0.2, size=43)
    centre, scale = robust(errors, np.arange(43))
    found = student_p_value(0.6, errors, np.arange(43))
    t = (0.6 - centre) / (scale * np.sqrt(1 + np.pi / 2 / 43))
    assert found == pytest.approx(2 * (1 - stats.t(0.8227 * 42).cdf(t)))
    assert student_p_value(centre - 0.5, errors, np.arange(43)) == pytest.approx(
        student_p_value(centre + 0.5, errors, np.arange(43))
    )


def test_the_robust_scale_is_a_quartile_of_all_differences(rng):
    for n in (10, 43):
        errors = rng.normal(3.0, 0.2, size=n)
        apart = sorted(abs(a - b) for k, a in enumerate(errors) for b in errors[:k])
        half = n // 2 + 1
        correction = n / (n + 1.4) if n % 2 else n / (n + 3.8)
        expected = 2.2219 * correction * apart[half * (half - 1) // 2 - 1]
        assert robust(errors, np.arange(n)) == pytest.approx((np.median(errors), expected))
        in_pairs = np.arange(n) // 2  # groups of the same size count as before, if n is even
        assert n % 2 or robust(errors, in_pairs) == robust(errors, np.arange(n))


def test_the_robust_scale_is_the_standard_deviation_of_what_is_not_wrong(rng):
    errors = np.concatenate([rng.normal(0, 0.2, size=900), rng.normal(5, 1, size=100)])
    names = np.arange(1000)
    assert robust(errors, names)[1] == pytest.approx(0.2, rel=0.3)  # np.std is 1.6
    assert robust(errors[:900], names[:900])[1] == pytest.approx(0.2, rel=0.1)
    often = np.repeat(errors, 3), np.arange(3000)
    assert robust(*often)[1] == pytest.approx(robust(errors, names)[1], rel=0.02)


@pytest.mark.parametrize("sizes", [[1] * 11, [1] * 9 + [90], [1] * 6 + [30] * 6, [40] * 11 + [1]])
def test_new_patients_are_as_often_unusual_as_the_level_says_whatever_the_numbers_of_tiles(sizes):
    rng, n_small = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(600):
        shift = rng.normal(scale=0.2, size=len(sizes) + 1)
        errors = shift[groups] + rng.normal(scale=0.05, size=len(groups))
        new = shift[-1] + rng.normal(scale=0.05)
        n_small += student_p_value(new, errors, groups) < 0.05
    assert n_small / 600 == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 600))


def test_one_patient_with_many_tiles_does_not_set_the_scale_of_all(rng):
    groups = np.repeat(np.arange(10), [1] * 9 + [90])
    errors = np.concatenate([rng.normal(0, 0.2, size=9), rng.normal(0, 0.02, size=90)])
    assert robust(errors, groups)[1] == pytest.approx(0.2, rel=0.6)
    alike = np.concatenate([errors[:9], [np.median(errors[9:])]])  # one tile of each
    assert robust(errors, groups)[1] == pytest.approx(robust(alike, np.arange(10))[1], rel=0.35)
    assert student_p_value(0.3, errors, groups) > 0.01  # 1e-9 if tiles count the same


@pytest.mark.parametrize("n", [12, 44])
def test_small_p_values_are_not_too_frequent_among_normal_errors(n):
    rng, n_small = np.random.default_rng(0), 0
    for _ in range(1500):
        errors = rng.normal(size=n)
        n_small += student_p_value(errors[0], errors[1:], np.arange(n - 1)) < 0.01
    assert n_small <= 1500 * 0.01 + 3 * np.sqrt(1500 * 0.01)


def test_student_p_value_without_spread_or_others():
    same = np.zeros(5)
    assert student_p_value(0.0, same, np.arange(5)) == 1.0
    assert student_p_value(0.1, same, np.arange(5)) == 0.0
    assert np.isnan(student_p_value(0.1, same[:1], np.arange(1)))


def test_discoveries_are_those_of_the_step_up_procedure(rng):
    p = np.concatenate([rng.uniform(size=30), rng.uniform(0, 0.01, size=6)])
    found, adjusted = is_discovery(p, 0.1)
    order = np.sort(p)
    passing = [k for k in range(1, 37) if order[k - 1] <= 0.1 * k / 36]
    assert found.sum() == max(passing, default=0)
    np.testing.assert_allclose(adjusted, stats.false_discovery_control(p))


def test_missing_p_values_are_no_discoveries_and_do_not_count():
    found, adjusted = is_discovery(np.array([0.01, np.nan, 0.5]), 0.1)
    assert found.tolist() == [True, False, False]
    np.testing.assert_allclose(adjusted, [0.02, np.nan, 0.5])
    assert not is_discovery(np.full(3, np.nan), 0.1)[0].any()
