"""Scores are recomputed from fits of scikit-learn on the same splits, or from each other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

import scalecut.probing.scores
import scalecut.stats.out_of_core
from scalecut import ProbePoint, cache, make_image_set
from scalecut.probing.scores import MOST_RANDOM, Features, draw_parts, over_seeds, score
from scalecut.stats.inference import drop, ends, interval, mirrored, peak

LAYERS = ["a", "b", "c"]


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def images(measure, subset="disc", group=None):
    pictures = [np.full((8, 8, 3), number % 256, np.uint8) for number in range(len(measure))]
    return make_image_set(pictures, measure, subset=subset, group=group, measure_name="area")


def points(layers=LAYERS, channels=4):
    return tuple(
        ProbePoint(layer, "", number / 2, layer, "output", channels=channels)
        for number, layer in enumerate(layers)
    )


def features(rng, n, known, d=4):
    """One matrix per layer: what it encodes of the measure, and noise."""
    return {
        layer: (rng.normal(size=(n, d)) + share).astype(np.float32)
        for layer, share in zip(LAYERS, known, strict=True)
    }


def planted(rng, n=60, shares=(0.2, 3.0, 1.0), n_random=2, **settings):
    """Scores of a network, random networks and pixels, which encode the measure more or less."""
    measure = rng.random(n)
    known = [share * (measure[:, None] - 0.5) for share in shares]
    weak = [0.5 * layer for layer in known]
    answers = {
        "pretrained": Features(points(), (features(rng, n, known),)),
        "random": Features(points(), tuple(features(rng, n, weak) for _ in range(n_random))),
        "pixels": Features(points(["pixels"]), ({"pixels": features(rng, n, known)["a"]},)),
    }
    repeats, permutations = settings.pop("repeats", 4), settings.pop("permutations", 0)
    parts = draw_parts(images(measure), repeats, 0, shuffled=True, permutations=permutations)
    regressors = settings.pop("regressors", ("ridge", "ols"))
    return parts, answers, score(parts, answers, regressors, **settings)


def line(scores, **wanted):
    wanted = {"subset": "mean", "target": "true", "regressor": "ridge", **wanted}
    rows = np.all([scores.table[name] == value for name, value in wanted.items()], axis=0)
    return scores.table[rows].set_index("layer"), scores.draws[rows]


# --- permutations --------------------------------------------------------------------------------


def test_p_values_of_least_squares_are_those_of_a_loop_over_scikit_learn(rng):
    parts, answers, scores = planted(rng, permutations=30, regressors=("ols",))
    (part,) = parts
    matrices = answers["pretrained"].matrices[0]

    def slow(layer, y):
        X, found = matrices[layer].astype(float), []
        for held_out in part.is_held_out:
            fit = LinearRegression().fit(X[~held_out], y[~held_out])
            found.append(r2_score(y[held_out], fit.predict(X[held_out])))
        return np.mean(found)

    highest = [max(slow(layer, y) for layer in LAYERS) for y in part.permuted.T[1:]]
    rows, _ = line(scores, weights="pretrained", regressor="ols")
    for layer in LAYERS:
        at_least = sum(each >= slow(layer, part.targets["true"][0]) for each in highest)
        assert rows.p_value[layer] == pytest.approx((1 + at_least) / 31)


def test_only_a_layer_that_encodes_the_measure_is_significant(rng):
    _, _, scores = planted(rng, shares=(0.0, 4.0, 0.0), permutations=200)
    rows, _ = line(scores, weights="pretrained")
    assert rows.p_value["b"] == pytest.approx(1 / 201)
    assert rows.p_value[["a", "c"]].min() > 0.02


@pytest.mark.long
def test_p_values_of_the_probe_are_uniform_if_features_are_noise():
    """End to end: many small image sets, each probed on noise; the best layer's p-value."""
    rng, found = np.random.default_rng(0), []
    for number in range(100):
        n = 40
        common = rng.normal(size=(n, 4))  # layers of a network are alike
        matrices = {
            layer: (common + rng.normal(size=(n, 4))).astype(np.float32) for layer in LAYERS
        }
        answers = {"pretrained": Features(points(), (matrices,))}
        parts = draw_parts(images(rng.random(n)), 3, number, shuffled=False, permutations=59)
        table = score(parts, answers, ("ridge",)).table
        found.append(table[table.subset == "mean"].p_value.min())
    assert scipy.stats.kstest(found, scipy.stats.uniform.cdf).pvalue > 0.001
    assert np.mean(np.array(found) <= 0.05) < 0.11


def test_only_true_measures_with_permutations_have_a_p_value(rng):
    assert planted(rng)[2].table.p_value.isna().all()
    _, _, scores = planted(rng, permutations=20)
    has_one = scores.table.p_value.notna()
    assert (has_one == (scores.table.target == "true")).all()


# --- the gain over controls ----------------------------------------------------------------------


def test_gain_is_what_is_above_the_best_control(rng):
    _, _, scores = planted(rng)
    for regressor in ("ridge", "ols"):
        own, draws = line(scores, weights="pretrained", regressor=regressor)
        twin, twin_draws = line(scores, weights="random", regressor=regressor)
        pixels, pixel_draws = line(scores, weights="pixels", regressor=regressor)
        for number, layer in enumerate(LAYERS):
            best = max(0.0, twin.r2[layer], pixels.r2["pixels"])
            assert own.learned[layer] == pytest.approx(own.r2[layer] - best)
            of_controls = np.maximum(
                mirrored(twin.r2[layer], twin_draws[number].astype(float)),
                mirrored(pixels.r2["pixels"], pixel_draws[0].astype(float)),
            )
            of_own = mirrored(own.r2[layer], draws[number].astype(float))
            above = of_own - np.maximum(0, of_controls)
            low, high = ends(own.learned[layer], above, int(own.n_groups[layer]))
            assert own.learned_low[layer] == pytest.approx(low)
            assert own.learned_high[layer] == pytest.approx(high)
    is_own = (scores.table.weights == "pretrained") & (scores.table.target == "true")
    assert (scores.table.learned.notna() == is_own).all()


@pytest.mark.long
def test_network_no_better_than_random_networks_shows_no_gain():
    rng, below = np.random.default_rng(0), []
    for _ in range(40):
        measure = rng.random(60)
        known = [share * (measure[:, None] - 0.5) for share in (0.5, 2.0, 1.0)]
        draw = [features(rng, 60, known) for _ in range(4)]
        answers = {
            "pretrained": Features(points(), (draw[0],)),
            "random": Features(points(), tuple(draw[1:])),
        }
        parts = draw_parts(images(measure), 4, 0, shuffled=False)
        below.append(line(score(parts, answers, ("ridge",)), weights="pretrained")[0].learned_low)
    assert np.mean(np.array(below) <= 0) > 0.9


def test_random_row_is_the_mean_of_the_random_networks_with_their_spread(rng):
    parts, answers, scores = planted(rng, n_random=3)
    rows, _ = line(scores, weights="random")
    alone = []
    for matrix in answers["random"].matrices:
        one = score(parts, {"random": Features(points(), (matrix,))}, ("ridge",))
        alone.append(line(one, weights="random")[0].r2)
    np.testing.assert_allclose(rows.r2, np.mean(alone, axis=0))
    np.testing.assert_allclose(rows.r2_spread, np.std(alone, axis=0, ddof=1))
    assert line(scores, weights="pretrained")[0].r2_spread.isna().all()  # one set of weights


def test_interval_over_few_random_networks_covers_the_mean_of_all():
    """Networks differ and images do not: only which networks were drawn is uncertain."""
    rng, places = np.random.default_rng(0), np.random.default_rng(1).random((1000, MOST_RANDOM))
    covered = []
    for n in (2, 3, 5):
        for _ in range(200):
            draws = over_seeds(np.repeat(rng.normal(size=(n, 1)), 1001, axis=1), places)
            low, high = interval(draws[0], draws[1:], 1000, scale="difference")
            covered.append(low <= 0 <= high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_interval_includes_the_spread_of_the_random_networks():
    rng = np.random.default_rng(0)
    measure = rng.random(200)
    knows = [features(rng, 200, [share * (measure[:, None] - 0.5)] * 3) for share in (0, 4)]
    parts = draw_parts(images(measure), 4, 0, shuffled=False)

    def width(matrices):
        rows, _ = line(
            score(parts, {"random": Features(points(), matrices)}, ("ridge",)), weights="random"
        )
        return (rows.r2_high - rows.r2_low)["a"]

    assert width(tuple(knows)) > 2 * max(width((knows[0],)), width((knows[1],)))


# --- width and learning curve --------------------------------------------------------------------


def test_width_is_matched_where_a_layer_is_wide_enough(rng):
    measure = rng.random(60)
    wide = rng.normal(size=(60, 30)).astype(np.float32)
    answers = {
        "pretrained": Features(points(["a", "b"]), ({"a": wide, "b": wide[:, :3]},)),
    }
    parts = draw_parts(images(measure), 2, 0, shuffled=False)
    rows, _ = line(
        score(parts, answers, ("ridge", "matched"), width=8),
        weights="pretrained",
        regressor="matched",
    )
    assert rows.n_features.tolist() == [8, 3]


def test_all_components_are_the_ridge_itself(rng):
    _, _, scores = planted(rng, regressors=("ridge", "matched"), width=4)
    ridge, matched = (
        line(scores, weights="pretrained", regressor=name)[0].r2 for name in ("ridge", "matched")
    )
    np.testing.assert_allclose(ridge, matched)


def test_smaller_shares_of_the_training_images_are_subsets_of_larger_ones(rng):
    group = rng.integers(0, 25, size=80).tolist()
    parts = draw_parts(images(rng.random(80), group=group), 5, 0, shuffled=False)
    (part,) = parts
    few, half, whole = (part.fitted(share) for share in (0.25, 0.5, 1.0))
    assert (few <= half).all() and (half <= whole).all()
    assert (whole == ~part.is_held_out).all()
    for repeat, fitted in enumerate(half):
        groups, in_all = (set(part.groups[rows]) for rows in (fitted, ~part.is_held_out[repeat]))
        assert len(groups) == len(in_all) // 2
        left = ~part.is_held_out[repeat] & ~fitted
        assert not groups & set(part.groups[left])  # groups are taken whole


def test_more_training_images_are_no_worse_and_are_counted():
    rng = np.random.default_rng(0)
    measure = rng.random(200)
    known = [share * (measure[:, None] - 0.5) for share in (1.0, 1.5, 2.0)]
    answers = {"pretrained": Features(points(), (features(rng, 200, known, d=20),))}
    parts = draw_parts(images(measure), 10, 0, shuffled=False)
    found = [
        line(score(parts, answers, ("ridge",), share=share), weights="pretrained")[0]
        for share in (0.125, 0.25, 0.5, 1.0)
    ]
    assert [rows.n_fit.iloc[0] for rows in found] == [17, 35, 70, 140]
    means = [rows.r2.mean() for rows in found]
    assert means == sorted(means)


def test_permutations_drawn_in_pieces_and_on_disk_are_those_drawn_at_once(monkeypatch, tmp_path):
    measure = np.random.default_rng(0).random(61)
    found = []
    for at_once, in_memory in ((2**22, 2**26), (200, 0)):
        monkeypatch.setattr(scalecut.probing.scores, "AT_ONCE", at_once)
        monkeypatch.setattr(cache, "IN_MEMORY", in_memory)
        monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
        (part,) = draw_parts(images(measure), 2, 0, shuffled=False, permutations=30)
        found.append(part.permuted)
    assert isinstance(found[1], np.memmap)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[0][:, 0], measure)
    assert (np.sort(found[0], axis=0) == np.sort(measure)[:, None]).all()


# --- the same numbers ----------------------------------------------------------------------------


def test_number_of_threads_changes_nothing(monkeypatch):
    found = []
    for n_threads in (1, 3):
        monkeypatch.setattr(scalecut.probing.scores, "n_processors", lambda n=n_threads: n)
        found.append(planted(np.random.default_rng(0), permutations=10)[2])
    pd.testing.assert_frame_equal(found[0].table, found[1].table, check_exact=True)
    np.testing.assert_array_equal(found[0].draws, found[1].draws)


def test_permutations_and_controls_do_not_change_the_scores(rng):
    parts, answers, scores = planted(rng, permutations=10)
    bare = [replace(part, permuted=part.permuted[:, :0]) for part in parts]
    alone = score(bare, {"pretrained": answers["pretrained"]}, ("ridge",))
    rows, draws = line(scores, weights="pretrained")
    other, other_draws = line(alone, weights="pretrained")
    np.testing.assert_allclose(rows.r2, other.r2)
    np.testing.assert_array_equal(draws, other_draws)


def test_the_same_random_networks_are_drawn_in_all_subsets():
    rng = np.random.default_rng(0)
    subset = ["cat"] * 30 + ["dog"] * 30
    parts = draw_parts(images(rng.random(60), subset=subset), 2, 0, shuffled=False)
    assert np.array_equal(parts[0].drawn, parts[1].drawn)
    assert parts[0].drawn.shape[1] == MOST_RANDOM


# --- whole probes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_flat_curves_show_no_drop_and_keep_their_layers_when_everything_is_fitted_anew():
    """Eight layers that encode the measure equally, each with its own noise: 150 whole probes."""
    rng, n, shown, kept = np.random.default_rng(1), 100, [], []
    layers = [f"layer{number}" for number in range(8)]
    for seed in range(150):
        measure = rng.random(n)
        known = (measure - measure.mean())[:, None] / measure.std() / np.sqrt(20)
        matrices = {
            layer: (known + rng.normal(size=(n, 20))).astype(np.float32) for layer in layers
        }
        parts = draw_parts(images(measure), 10, seed, shuffled=False)
        answers = {"pretrained": Features(points(layers, 20), (matrices,))}
        rows, draws = line(score(parts, answers, ("ridge",)), weights="pretrained")
        r2, draws = rows.r2.to_numpy(), draws.T.astype(np.float64)
        shown.append(drop(r2, draws, n).after is not None)
        kept.append(len(peak(r2, draws, n).confidence_set) / len(layers))
    assert np.mean(shown) <= 0.07
    assert np.mean(kept) >= 0.93


# --- predictions for each image ------------------------------------------------------------------


def test_predictions_are_the_means_of_a_loop_over_scikit_learn(rng):
    (part,), answers, scores = planted(rng, regressors=("ols",))
    measure = part.targets["true"][0]
    for layer, predicted in zip(LAYERS, scores.predicted, strict=True):
        X = answers["pretrained"].matrices[0][layer].astype(float)
        found = [[] for _ in measure]
        for held_out in part.is_held_out:
            fit = LinearRegression().fit(X[~held_out], measure[~held_out])
            for row in np.flatnonzero(held_out):
                found[row].append(fit.predict(X[row : row + 1])[0])
        slow = [np.mean(each) if each else np.nan for each in found]
        np.testing.assert_allclose(predicted, slow)
        assert np.isnan(predicted).any()  # 4 splits hold not all of them out


def test_predictions_are_those_of_ridge_wherever_it_stands(rng):
    _, _, alone = planted(np.random.default_rng(3), regressors=("ridge",))
    for regressors in (("ridge", "ols"), ("ols", "ridge")):
        _, _, both = planted(np.random.default_rng(3), regressors=regressors)
        np.testing.assert_array_equal(both.predicted, alone.predicted)


def test_predictions_of_one_split_give_its_r_squared(rng):
    (part,), _, scores = planted(rng, repeats=1)
    rows, _ = line(scores, weights="pretrained")
    held_out = part.is_held_out[0]
    measure = part.targets["true"][0]
    for layer, predicted in zip(LAYERS, scores.predicted, strict=True):
        assert np.isnan(predicted[~held_out]).all()
        assert r2_score(measure[held_out], predicted[held_out]) == pytest.approx(rows.r2[layer])


def test_images_of_each_subset_are_predicted_by_its_own_fits(rng):
    n, measure = 80, rng.random(80)
    subset = [("dog", "cat")[number % 2] for number in range(n)]
    knows = features(rng, n, [share * (measure[:, None] - 0.5) for share in (0.0, 4.0, 0.0)])
    whole = images(measure, subset)
    scores = score(
        draw_parts(whole, 4, 0, shuffled=False),
        {"pretrained": Features(points(), (knows,))},
        ["ridge"],
    )
    for name in ("dog", "cat"):
        rows = np.flatnonzero(np.array(subset) == name)
        own = {layer: matrix[rows] for layer, matrix in knows.items()}
        alone = score(
            draw_parts(whole.rows(rows), 4, 0, shuffled=False),
            {"pretrained": Features(points(), (own,))},
            ["ridge"],
        )
        np.testing.assert_array_equal(scores.predicted[:, rows], alone.predicted)


@pytest.mark.parametrize("group", [None, [str(number // 4) for number in range(60)]])
def test_parts_too_large_for_memory_have_the_same_scores(rng, group, tmp_path, monkeypatch):
    measure = rng.random(60)
    answers = {"pretrained": Features(points(), (features(rng, 60, [measure[:, None]] * 3),))}
    own = draw_parts(images(measure, group=group), 4, 0, shuffled=True, permutations=30)
    whole = score(own, answers, ("ridge", "ols", "matched"), width=2)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    monkeypatch.setattr(scalecut.stats.out_of_core, "MANY", 0)
    monkeypatch.setattr(scalecut.stats.out_of_core, "ROWS", 9)
    monkeypatch.setattr(scalecut.probing.scores, "AT_ONCE", 600)  # ten permutations
    parts = draw_parts(images(measure, group=group), 4, 0, shuffled=True, permutations=30)
    assert isinstance(parts[0].permuted, np.memmap) and isinstance(parts[0].counts, np.memmap)
    np.testing.assert_array_equal(parts[0].permuted, own[0].permuted)
    np.testing.assert_array_equal(parts[0].counts, own[0].counts)
    found = score(parts, answers, ("ridge", "ols", "matched"), width=2)
    pd.testing.assert_frame_equal(found.table, whole.table, rtol=1e-9)
    np.testing.assert_allclose(found.draws, whole.draws, rtol=1e-5)
    np.testing.assert_allclose(found.predicted, whole.predicted, rtol=1e-9)
