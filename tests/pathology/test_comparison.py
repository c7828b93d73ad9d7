"""Metrics by scikit-learn and by hand; differences in simulations with a known truth.

The simulations run the real fits on synthetic features: training and test tiles, seeds, ridge.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, recall_score
from threadpoolctl import threadpool_limits

from scalecut import DataError
from scalecut.pathology import comparison
from scalecut.pathology.comparison import (
    METRICS,
    Difference,
    Held,
    _metric,
    _variance,
    compare,
    detectable,
    metrics,
    nearest,
    recall,
    sentence,
    tile_metrics,
)
from scalecut.pathology.methods import Task, Trial, repeated_ridge

CENTRES = np.array([50.0, 100.0, 200.0, 400.0])
LAYERS = {"cut": "blocks.2", "pretrained": "blocks.9", "all-layers": "all"}
SHOWN = Difference("cut", "pretrained", "kappa", 0.312, 0.241, 0.383, 0.001, 1.2, 9, 10)


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def held(rng, n_tiles=6, n=60, is_area=True):
    """Patches of tiles of unequal size, their areas near the centres of their classes."""
    classes = rng.integers(0, len(CENTRES), n)
    tiles = np.concatenate([np.arange(n_tiles), rng.integers(0, n_tiles, n - n_tiles)])
    return Held(
        CENTRES[classes] * np.exp(0.2 * rng.normal(size=n)), classes, tiles, CENTRES, is_area
    )


def guesses(rng, test, noise=0.5, seeds=3):
    return test.truth * np.exp(noise * rng.normal(size=(seeds, len(test.truth))))


def repeated(test, predicted, counts):
    """The same patches, each as often as its tile counts, in copies of the tile."""
    times = counts[test.tiles]
    rows = np.repeat(np.arange(len(test.truth)), times)
    copy = np.concatenate([np.arange(n) for n in times])
    tiles = np.unique(test.tiles[rows] + 100 * copy, return_inverse=True)[1]
    parts = {name: getattr(test, name)[rows] for name in ("truth", "classes")}
    return replace(test, **parts, tiles=tiles), predicted[:, rows]


# --- metrics -------------------------------------------------------------------------------------


def test_class_is_that_of_the_nearest_centre_the_first_of_two_as_near():
    predicted = np.array([[-10.0, 74.0, 76.0, 299.0, 301.0, 9e9, 75.0]])
    assert nearest(predicted, CENTRES).tolist() == [[0, 0, 1, 2, 3, 3, 0]]


def test_metrics_are_those_of_scikit_learn_and_octaves_are_ratios(rng):
    test = held(rng)
    predicted = guesses(rng, test)
    found = metrics(predicted, test)
    for k, (row, classes) in enumerate(zip(predicted, nearest(predicted, CENTRES), strict=True)):
        kappa = cohen_kappa_score(test.classes, classes)
        quadratic = cohen_kappa_score(test.classes, classes, weights="quadratic")
        assert found["kappa"][k] == pytest.approx(kappa)
        assert found["kappa_quadratic"][k] == pytest.approx(quadratic)
        assert found["mae"][k] == pytest.approx(mean_absolute_error(test.truth, row))
        ratio = np.mean(np.abs(np.log(row / test.truth))) / np.log(2)
        assert found["octaves"][k] == pytest.approx(ratio)
    by_hand = [recall_score(test.classes, r, average=None) for r in nearest(predicted, CENTRES)]
    np.testing.assert_allclose(recall(predicted, test), by_hand)
    in_octaves = replace(test, is_area=False)
    same = metrics(predicted, in_octaves)
    assert np.array_equal(same["octaves"], same["mae"])  # magnification is in octaves already


def test_area_below_a_pixel_counts_as_one_in_octaves_alone():
    test = Held(np.array([8.0, 8.0]), np.array([0, 1]), np.array([0, 1]), np.array([8.0, 16.0]))
    found = metrics(np.array([[-5.0, 0.25]]), test)
    assert found["octaves"] == [3.0]
    assert found["mae"] == [(13 + 7.75) / 2]


def test_metrics_of_a_tile_are_those_of_its_patches_alone(rng):
    test = held(rng)
    predicted = guesses(rng, test)
    found = tile_metrics(predicted, test)
    for tile in range(6):
        rows = test.tiles == tile
        # the same patches again as a second tile, as one alone is refused
        own = np.flatnonzero(rows).repeat(2)
        parts = {"truth": test.truth[own], "classes": test.classes[own]}
        alone = replace(test, **parts, tiles=np.arange(len(own)) % 2)
        for name in METRICS:
            np.testing.assert_allclose(
                found[name][:, tile], metrics(predicted[:, own], alone)[name]
            )


def test_weights_of_tiles_are_numbers_of_times_that_their_patches_count(rng):
    """So a bootstrap by weights is one of patches that are really drawn."""
    test = held(rng)
    predicted = guesses(rng, test)
    counts = np.array([2, 0, 1, 3, 0, 1])
    more, seen = repeated(test, predicted, counts)
    for name in METRICS:
        weighted = _metric(name, predicted, test, counts[None].astype(float))[:, 0]
        np.testing.assert_allclose(weighted, metrics(seen, more)[name])


def test_kappa_of_one_class_that_is_always_hit_is_undefined_and_of_one_never_hit_is_nought():
    zeros, tiles = np.zeros(4, dtype=np.int64), np.array([0, 0, 1, 1])
    test = Held(np.full(4, 50.0), zeros, tiles, CENTRES)
    found = metrics(np.array([[50.0] * 4, [100.0] * 4]), test)
    for name in ("kappa", "kappa_quadratic"):
        assert np.isnan(found[name][0])
        assert found[name][1] == 0


def test_prediction_of_a_tile_is_the_mean_over_its_patches_of_a_magnification(rng):
    test = held(rng)
    predicted = guesses(rng, test, 1.0)
    keys = pd.DataFrame({"tile": test.tiles, "class": test.classes})
    for row, found in zip(predicted, metrics(predicted, test)["kappa_of_tiles"], strict=True):
        mean = keys.assign(row=row).groupby(["tile", "class"], as_index=False).row.mean()
        by_hand = nearest(mean.row.to_numpy()[None], CENTRES)[0]
        assert found == pytest.approx(cohen_kappa_score(mean["class"], by_hand))


def test_class_is_that_of_the_nearest_centre_of_its_own_patch(rng):
    """Where each patient is left out, training tiles and so their centres differ."""
    test = held(rng)
    predicted = guesses(rng, test)
    scale = rng.uniform(0.5, 2.0, 6)[test.tiles]
    scaled = replace(test, truth=test.truth * scale, centres=CENTRES * scale[:, None])
    one, other = metrics(predicted, test), metrics(predicted * scale, scaled)
    for name in ("kappa", "kappa_quadratic", "kappa_of_tiles"):
        np.testing.assert_allclose(one[name], other[name])


def test_one_test_patient_is_refused():
    with pytest.raises(DataError) as error:
        Held(np.ones(3), np.arange(3), np.zeros(3, dtype=np.int64), np.ones(3))
    assert str(error.value) == (
        "The test part has one patient, which does not generalise to others. Give two or more; "
        "intervals are useful from about ten on."
    )


# --- differences ---------------------------------------------------------------------------------


def compared(test, predictions, pairs, metric="kappa", seed=0):
    return compare(predictions, pairs, test, np.random.default_rng(seed), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_difference_is_the_mean_over_seeds_and_antisymmetric(rng, metric):
    test = held(rng)
    both = {"cut": guesses(rng, test, 0.1), "pretrained": guesses(rng, test, 0.9)}
    (one,) = compared(test, both, [("cut", "pretrained")], metric)
    gaps = metrics(both["cut"], test)[metric] - metrics(both["pretrained"], test)[metric]
    gaps = gaps if "kappa" in metric else -gaps
    assert one.better == pytest.approx(gaps.mean())
    assert one.better > 0
    assert one.n_seeds_better == (gaps > 0).sum() == 3
    assert (one.low + one.high) / 2 == pytest.approx(one.better)
    (other,) = compared(test, both, [("pretrained", "cut")], metric)
    np.testing.assert_allclose(
        [other.better, other.low, other.high, other.effect],
        [-one.better, -one.high, -one.low, -one.effect],
    )
    assert other.p_value == pytest.approx(one.p_value)
    assert other.n_seeds_better == 0


def test_effect_is_the_mean_over_the_spread_of_the_errors_of_tiles(rng):
    test = held(rng)
    both = {"cut": guesses(rng, test, 0.2), "pretrained": guesses(rng, test, 0.6)}
    for metric, name in (("mae", "mae"), ("octaves", "octaves"), ("kappa", "mae")):
        (found,) = compared(test, both, [("cut", "pretrained")], metric)
        of_tiles = {who: tile_metrics(p, test)[name].mean(axis=0) for who, p in both.items()}
        gaps = of_tiles["pretrained"] - of_tiles["cut"]
        assert found.effect == pytest.approx(gaps.mean() / np.std(gaps, ddof=1))


def test_tiles_of_a_patient_stay_together(rng):
    """As if the patient were a single tile; the metrics themselves stay the same."""
    test = held(rng)
    both = {"cut": guesses(rng, test, 0.2), "pretrained": guesses(rng, test, 0.6)}
    of_two = replace(test, patients=test.tiles // 2)
    joined = replace(test, tiles=test.tiles // 2, patients=test.tiles // 2)
    for metric in ("mae", "kappa"):
        (alone,) = compared(test, both, [("cut", "pretrained")], metric)
        (one,) = compared(of_two, both, [("cut", "pretrained")], metric)
        (other,) = compared(joined, both, [("cut", "pretrained")], metric)
        assert one == other != alone
        assert one.better == alone.better


def shown_from(error, freedom):
    """The difference that is found with a power of 80 %, by 400,000 draws of Student's test."""
    rng = np.random.default_rng(0)
    noise, spread = rng.normal(size=400_000), np.sqrt(rng.chisquare(freedom, 400_000) / freedom)
    return error * np.quantile(stats.t.ppf(0.975, freedom) * spread - noise, 0.8)


def test_difference_that_can_be_shown_is_that_of_exchanged_methods():
    """Errors of tiles of equal size: the spread of ± their differences is known."""
    rng, n_tiles, each = np.random.default_rng(0), 15, 4
    tiles, classes = np.repeat(np.arange(n_tiles), each), np.arange(n_tiles * each) % 4
    test = Held(CENTRES[classes], classes, tiles, CENTRES)
    both = {"cut": guesses(rng, test, 0.3, 1), "pretrained": guesses(rng, test, 0.5, 1)}
    gaps = np.subtract(*(tile_metrics(each, test)["mae"][0] for each in both.values()))
    error = np.sqrt(np.sum(gaps**2) / n_tiles / (n_tiles - 1))
    asked = test, np.random.default_rng(1), "mae"
    found = detectable(both, ("cut", "pretrained"), *asked)
    assert found == pytest.approx(shown_from(error, n_tiles - 1), rel=0.05)


def test_difference_that_can_be_shown_does_not_depend_on_which_method_is_which(rng):
    """Nor on which is better: methods may be exchanged for some of the patients."""
    test = held(rng, n_tiles=20, n=400)
    one, other = guesses(rng, test, 0.3, 1), guesses(rng, test, 0.6, 1)
    is_exchanged = np.isin(test.tiles, np.arange(10))
    mixed = np.where(is_exchanged, other, one), np.where(is_exchanged, one, other)
    found = [
        detectable({"a": a, "b": b}, ("a", "b"), test, np.random.default_rng(0))
        for a, b in ((one, other), (other, one), mixed)
    ]
    np.testing.assert_allclose(found, found[0], rtol=0.1)


def test_difference_that_can_be_shown_is_undefined_like_kappa_and_nought_of_equals(rng):
    test = held(rng)
    same = guesses(rng, test)
    pair, draws = ("a", "b"), np.random.default_rng(0)
    assert detectable({"a": same, "b": same}, pair, test, draws) == 0
    zeros = replace(test, classes=np.zeros(60, dtype=np.int64))
    hits = np.full_like(same, CENTRES[0])
    assert np.isnan(detectable({"a": hits, "b": hits}, pair, zeros, draws))


@pytest.mark.long
@pytest.mark.parametrize("n_tiles", [14, 41])
def test_power_is_at_least_what_is_stated(n_tiles, monkeypatch):
    """Worlds whose true difference is at most the median of the stated ones (docs/log.md: 200)."""
    monkeypatch.setattr(comparison, "DRAWS", 300)
    classes = np.tile(np.repeat(np.arange(5), 4), n_tiles)
    tiles = np.repeat(np.arange(n_tiles), 20)
    test = Held(classes / 2, classes, tiles, np.arange(5) / 2, is_area=False)
    stated, found, shown = [], [], []
    for seed in range(60):
        rng = np.random.default_rng([11, seed])
        both = {
            name: test.truth
            + 0.7 * size * (rng.normal(size=n_tiles)[tiles] + rng.normal(size=(1, len(tiles))))
            for name, size in (("cut", 0.16), ("pretrained", {14: 0.28, 41: 0.214}[n_tiles]))
        }
        stated.append(detectable(both, ("cut", "pretrained"), test, rng))
        (each,) = compared(test, both, [("cut", "pretrained")], seed=seed)
        found.append(each.better)
        shown.append(each.is_shown)
    assert np.mean(found) <= np.median(stated)
    assert np.mean(shown) >= 0.8


def test_method_does_not_differ_from_itself(rng):
    test = held(rng)
    same = guesses(rng, test)
    (found,) = compared(test, {"cut": same, "pretrained": same}, [("cut", "pretrained")])
    numbers = (found.better, found.low, found.high, found.p_value, found.effect)
    assert numbers == (0.0, 0.0, 0.0, 1.0, 0.0)
    assert not found.is_shown


def test_interval_of_one_fit_is_that_of_a_mean_of_tiles(rng):
    """With tiles of equal size the error is a mean over them: Student's t, by scipy."""
    n_tiles, each = 40, 5
    tiles = np.repeat(np.arange(n_tiles), each)
    classes = np.arange(n_tiles * each) % 4
    test = Held(CENTRES[classes], classes, tiles, CENTRES)
    both = {"cut": guesses(rng, test, 0.3, 1), "pretrained": guesses(rng, test, 0.5, 1)}
    (found,) = compared(test, both, [("cut", "pretrained")], "mae")
    of_tiles = {name: tile_metrics(p, test)["mae"][0] for name, p in both.items()}
    by_scipy = stats.ttest_rel(of_tiles["pretrained"], of_tiles["cut"])
    reach = by_scipy.confidence_interval(0.95)
    assert found.low == pytest.approx(reach.low, abs=0.1 * (reach.high - reach.low))
    assert found.high == pytest.approx(reach.high, abs=0.1 * (reach.high - reach.low))
    assert found.p_value == pytest.approx(by_scipy.pvalue, abs=0.03)


def test_variance_adds_up_what_fits_tiles_and_both_together_bring():
    """Gaps planted as tile + fit + fit x tile: the variance of the mean is the textbook's."""
    rng, n_seeds, n_tiles, by_tile, by_fit, by_both = (
        np.random.default_rng(0),
        10,
        40,
        1.0,
        0.3,
        2.0,
    )
    found, right = [], by_tile**2 / n_tiles + by_both**2 / n_tiles / n_seeds + by_fit**2
    for _ in range(200):
        gaps = by_tile * rng.normal(size=n_tiles) + by_fit * rng.normal(size=(n_seeds, 1))
        gaps = gaps + by_both * rng.normal(size=(n_seeds, n_tiles))
        counts = rng.multinomial(n_tiles, np.full(n_tiles, 1 / n_tiles), size=400)
        found.append(_variance(gaps.mean(axis=1), gaps @ counts.T / n_tiles, n_tiles))
    assert np.mean(found) == pytest.approx(right, rel=0.1)


def test_draws_without_a_kappa_are_not_part_of_the_variance():
    draws = np.array([[0.1, 0.5, np.nan, 0.3], [0.2, 0.6, 0.4, 0.1]])
    by_seed = np.array([0.3, 0.4])
    assert _variance(by_seed, draws, 5) == _variance(by_seed, draws[:, [0, 1, 3]], 5)


def test_kappa_that_is_undefined_is_no_evidence():
    zeros, tiles = np.zeros(6, dtype=np.int64), np.repeat(np.arange(3), 2)
    test = Held(np.full(6, 50.0), zeros, tiles, CENTRES)
    both = {"cut": np.full((2, 6), 50.0), "pretrained": np.full((2, 6), 100.0)}
    (found,) = compared(test, both, [("cut", "pretrained")])
    assert np.isnan([found.better, found.low, found.high]).all()
    assert found.p_value == 1.0
    assert not found.is_shown


def test_the_same_seed_gives_the_same_intervals(rng):
    test = held(rng)
    both = {"cut": guesses(rng, test), "pretrained": guesses(rng, test)}
    pairs = [("cut", "pretrained")]
    assert compared(test, both, pairs) == compared(test, both, pairs)
    assert compared(test, both, pairs) != compared(test, both, pairs, seed=1)


# --- several comparisons, and words --------------------------------------------------------------


def test_comparisons_made_together_are_corrected_together(rng):
    test = held(rng)
    names = ("cut", "pretrained", "scratch")
    all_three = {
        name: guesses(rng, test, noise) for name, noise in zip(names, (0.2, 0.5, 0.6), strict=True)
    }
    pairs = [("cut", "pretrained"), ("cut", "scratch")]
    together = compared(test, all_three, pairs, "mae")
    alone = [compared(test, all_three, [pair], "mae")[0].p_value for pair in pairs]
    low, high = sorted(alone)
    assert sorted(each.p_value for each in together) == pytest.approx(
        [min(1.0, 2 * low), max(min(1.0, 2 * low), high)]
    )


# fmt: off
SENTENCES = [
    ({}, "cut at blocks.2 beats pretrained by 0.31 kappa [0.24, 0.38], 9 of 10 seeds."),
    ({"better": -0.312, "low": -0.383, "high": -0.241, "n_seeds_better": 1},
     "cut at blocks.2 loses to pretrained by 0.31 kappa [0.24, 0.38], 9 of 10 seeds."),
    ({"p_value": 0.0512},
     "No evidence that cut at blocks.2 differs from pretrained: +0.31 kappa [0.24, 0.38], "
     "corrected p = 0.051."),
    ({"p_value": 0.43, "better": -0.02, "low": -0.1, "high": 0.06},
     "No evidence that cut at blocks.2 differs from pretrained: -0.02 kappa [-0.10, 0.06], "
     "corrected p = 0.43."),
    ({"p_value": 0.43, "better": -0.02, "low": -0.1, "high": 0.06, "role": "primary"},
     "No evidence that cut at blocks.2 differs from pretrained: -0.02 kappa [-0.10, 0.06], "
     "p = 0.43."),
    ({"n_seeds": 1, "n_seeds_better": 1},
     "cut at blocks.2 beats pretrained by 0.31 kappa [0.24, 0.38]."),
    ({"metric": "mae", "better": 12.3, "low": 8.0, "high": 16.6},
     "cut at blocks.2 beats pretrained by 12.30 mean absolute error [8.00, 16.60], 9 of 10 seeds."),
    ({"metric": "octaves"},
     "cut at blocks.2 beats pretrained by 0.31 octaves [0.24, 0.38], 9 of 10 seeds."),
    ({"metric": "kappa_quadratic", "contestant": "all-layers", "other": "cut"},
     "all-layers at all beats cut by 0.31 kappa quadratic [0.24, 0.38], 9 of 10 seeds."),
]
# fmt: on


def test_difference_as_a_sentence():
    for changes, text in SENTENCES:
        assert sentence(replace(SHOWN, **changes), LAYERS) == text


# --- from features on ----------------------------------------------------------------------------

N_GROUPS, N_PATCHES, N_CLASSES, N_SEEDS = 12, 10, 5, 10  # of each part, of a tile


def world(seed, noise, share_of_tiles, d=4):
    """Areas at five magnifications, and two methods that have them with noise of their own.

    Args:
        noise: of each method, in standard deviations of the area.
        share_of_tiles: of the variance of the noise, the same in all patches of a tile.
    """
    rng = np.random.default_rng([7, seed])
    tile = np.repeat(np.arange(2 * N_GROUPS), N_PATCHES)
    classes = np.tile(np.arange(N_CLASSES), len(tile) // N_CLASSES)
    octaves = classes / 2 + 0.15 * rng.normal(size=2 * N_GROUPS)[tile]
    area = 50 * 2 ** (octaves + 0.1 * rng.normal(size=len(tile)))
    is_test = tile >= N_GROUPS
    rows = [np.flatnonzero(part) for part in (~is_test, np.zeros_like(is_test), is_test)]
    task = Task("area", area, tile, classes, *rows, log=False)
    folds = task.folds(Trial(seeds=N_SEEDS), seed)
    known = np.outer((area - area.mean()) / area.std(), np.arange(d) < d // 2)
    predictions = {}
    for name, size in zip(("cut", "pretrained"), noise, strict=True):
        shared = np.sqrt(share_of_tiles) * rng.normal(size=(2 * N_GROUPS, d))[tile]
        own = np.sqrt(1 - share_of_tiles) * rng.normal(size=(len(tile), d))
        features = (known + size * (shared + own)).astype(np.float32)
        predictions[name] = repeated_ridge([[features]] * N_SEEDS, task, folds)
    centres = [area[~is_test & (classes == k)].mean() for k in range(N_CLASSES)]
    test = Held(area[is_test], classes[is_test], tile[is_test] - N_GROUPS, np.array(centres))
    return predictions, test


def shares(n, noise, share_of_tiles, **more):
    """The share of n worlds in which the first method is called better, and differs at all."""
    better = {"kappa": 0, "mae": 0}
    differs = {"kappa": 0, "mae": 0}
    with threadpool_limits(1):
        for seed in range(n):
            predictions, test = world(seed, noise, share_of_tiles, **more)
            for metric in better:
                (found,) = compared(test, predictions, [("cut", "pretrained")], metric, seed)
                assert found.is_shown == (found.low > 0 or found.high < 0)
                differs[metric] += found.is_shown
                better[metric] += found.is_shown and found.better > 0
    return {k: v / n for k, v in better.items()}, {k: v / n for k, v in differs.items()}


@pytest.mark.long
def test_equal_methods_are_no_evidence_and_a_better_one_is_found():
    _, differs = shares(16, (0.6, 0.6), 0.5)  # of 200 in the slow tests
    assert max(differs.values()) <= 0.125
    better, _ = shares(8, (0.3, 1.0), 0.5)
    assert min(better.values()) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "share_of_tiles", "d"),
    [(0.6, 0.0, 4), (0.6, 0.5, 4), (0.2, 0.5, 4), (1.0, 0.5, 30)],
    ids=["of patches", "of tiles", "little", "many channels"],
)
def test_no_evidence_in_at_least_93_of_100_worlds_of_equals(noise, share_of_tiles, d):
    _, differs = shares(200, (noise, noise), share_of_tiles, d=d)
    assert max(differs.values()) <= 0.07
    assert max(differs.values()) >= 0.01  # intervals are not too wide either


@pytest.mark.slow
@pytest.mark.parametrize("share_of_tiles", [0.0, 0.5], ids=["of patches", "of tiles"])
def test_method_that_is_clearly_better_is_found_in_at_least_80_of_100_worlds(share_of_tiles):
    better, _ = shares(100, (0.3, 1.0), share_of_tiles)
    assert min(better.values()) >= 0.8
