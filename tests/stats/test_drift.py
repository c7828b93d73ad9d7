"""Each square is compared with sums over pairs of places, and with worlds of known drift."""

import itertools

import numpy as np
import pytest

from scalecut.stats.drift import (
    LINEAR,
    apart,
    moved,
    plausible,
    reach,
    squared_ratios,
    standardised,
)
from scalecut.stats.inference import ends, group_draws

M = 6


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


def places(rng, m=M, d=4):
    """Features of 2 to 5 places of each patient, in no order."""
    patients = rng.permutation(np.repeat(np.arange(m), rng.integers(2, 6, size=m)))
    return rng.normal(size=(len(patients), d)) + 0.5 * patients[:, None], patients


def square(away):
    return float(np.sum(away**2))


def mean_over_pairs(values, of):
    return np.mean(
        [of(values[p], values[q]) for p, q in itertools.permutations(range(len(values)), 2)]
    )


def test_what_a_patient_moved_is_the_mean_product_of_the_changes_of_two_places(rng):
    changes, patients = places(rng)
    found = moved(changes, patients, M + 1)
    for patient in range(M):
        by_hand = mean_over_pairs(changes[patients == patient], np.dot)
        np.testing.assert_allclose(found[patient], by_hand)
    assert np.isnan(found[M])


def test_what_two_patients_differ_by_is_their_distance_less_that_of_places_of_one(rng):
    features, patients = places(rng)
    found = apart(features, patients, M)
    of = [features[patients == patient] for patient in range(M)]
    within = [mean_over_pairs(each, lambda a, b: square(a - b)) for each in of]
    for one, other in itertools.permutations(range(M), 2):
        between = np.mean([square(a - b) for a in of[one] for b in of[other]])
        np.testing.assert_allclose(found[one, other], between - within[one] / 2 - within[other] / 2)


def test_the_ratio_of_patients_without_noise_is_exact():
    away = np.eye(3) * 2.0  # any two patients are √8 apart
    patients = np.repeat(np.arange(3), 2)
    changes = np.repeat([[0.0, 3.0, 4.0]], 6, axis=0)  # of length 5
    found = squared_ratios(
        moved(changes, patients, 3)[:, None], apart(away[patients], patients, 3), np.ones((1, 3))
    )
    np.testing.assert_allclose(found, 25 / 8)


def world(rng, m=500, k=3, ratio=0.8):
    """Places of patients that differ by √(2 d), and that all move by `ratio` times as much."""
    d, patients = 5, np.repeat(np.arange(m), k)
    features = rng.normal(size=(m, d))[patients] + 2 * rng.normal(size=(m * k, d))
    shift = np.full(d, ratio * np.sqrt(2.0))
    return features, shift + rng.normal(size=(m * k, d)), patients


def test_a_planted_ratio_is_found_whatever_the_noise_of_places(rng):
    features, changes, patients = world(rng)
    m = int(patients.max()) + 1
    squares = squared_ratios(
        moved(changes, patients, m)[:, None], apart(features, patients, m), np.ones((1, m))
    )
    np.testing.assert_allclose(np.sqrt(squares), 0.8, atol=0.08)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.5])
def test_intervals_hold_for_a_planted_ratio(ratio):
    rng, held = np.random.default_rng(5), []
    for _ in range(100):
        features, changes, patients = world(rng, m=20, ratio=ratio)
        counts = np.vstack([np.ones(20), group_draws(np.arange(20), rng, 200)])
        squares = squared_ratios(
            moved(changes, patients, 20)[:, None], apart(features, patients, 20), counts
        )
        low, high = ends(squares[0, 0], plausible(squares)[:, 0], 20, scale="difference")
        held.append(low <= ratio**2 <= high)
    assert np.mean(held) >= 0.88


def test_rotated_or_scaled_features_and_patients_counted_twice_change_nothing(rng):
    features, patients = places(rng)
    changes = rng.normal(size=features.shape)
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    counts = rng.integers(0, 3, size=(20, M)).astype(float)

    def ratios(turn, counts):
        of = moved(changes @ turn, patients, M)[:, None]
        return squared_ratios(of, apart(features @ turn, patients, M), counts)

    usual = ratios(np.eye(4), counts)
    for other in (
        ratios(rotation, counts),
        ratios(7 * rotation, counts),
        ratios(np.eye(4), 2 * counts),
    ):
        np.testing.assert_allclose(other, usual)


def test_a_patient_drawn_twice_is_not_compared_with_itself(rng):
    features, patients = places(rng)
    between, move = np.abs(apart(features, patients, M)), rng.random((M, 1))
    counts = np.array([[2.0, 1, 0, 0, 0, 0]])
    found = squared_ratios(move, between, counts)
    np.testing.assert_allclose(found[0], (2 * move[0] + move[1]) / 3 / between[0, 1])
    assert np.isnan(squared_ratios(move, between, np.eye(M)[:1])).all()


def test_a_patient_with_one_place_has_the_noise_of_the_others():
    features = np.array([[0.0], [2.0], [5.0]])  # v = 2 for the first patient, so 1 and 2 of noise
    found = apart(features, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(found[0, 1], 4.0**2 - 1 - 2)
    assert np.isnan(apart(features, np.array([0, 1, 2]), 3)).all()


def test_patients_that_do_not_differ_give_no_ratio():
    assert np.isnan(squared_ratios(np.ones((3, 1)), -np.ones((3, 3)), np.ones((1, 3)))).all()


def test_patients_without_places_count_in_no_mean():
    found = squared_ratios(np.array([[1.0], [np.nan], [3.0]]), np.ones((3, 3)), np.ones((1, 3)))
    np.testing.assert_allclose(found, 2.0)


def test_reach_is_where_the_line_crosses_1_first():
    octaves = np.array([0.5, 1.0, 2.0])
    ratios = np.array(
        [
            [0.25, 0.5, 1.0],  # in proportion: at the last
            [0.4, 0.8, 1.6],  # 1 at 1.25
            [2.0, 0.5, 3.0],  # already at 0.25, wherever it goes later
            [0.2, 0.3, 0.4],  # never
            [0.2, np.nan, 2.0],
        ]
    )
    np.testing.assert_allclose(reach(octaves, ratios), [2.0, 1.25, 0.25, 2.0, np.nan])


def test_draws_are_mirrored_by_ratio_where_large_and_as_they_are_near_0():
    squares = np.array([[100.0, 0.0], [200.0, LINEAR / 100], [50.0, -LINEAR / 50]])
    found = plausible(squares)
    np.testing.assert_allclose(found[:, 0], [50.0, 200.0], rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], [-LINEAR / 100, LINEAR / 50], rtol=1e-3)


def test_channels_are_standardised_by_the_reference_alone(rng):
    reference = rng.normal(3, 2, size=(50, 3))
    reference[:, 1] = 7.0
    features = np.vstack([reference, [[1e9, 0, 3.0]]])
    found = standardised(features, reference)
    assert found.shape == (51, 2)
    np.testing.assert_allclose(found[:50].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found[:50].std(axis=0), 1)
    assert found[50, 0] == 10.0
