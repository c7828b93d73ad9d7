"""Curves whose peak and whose equals are planted; the layer to cut at follows from them."""

import re
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from scalecut import Curve, DataError, LayerError, ProbePoint, choose
from scalecut.probing.choose import RULES
from tests.probing.test_curve import made_up

LAYERS = {"a": "", "b": "add_2", "c": "", "d": "", "logits": "pre_softmax", "softmax": "softmax"}
MACS = [100, 250, 500, 1000, 1001, 1001]  # up to each of LAYERS


@pytest.fixture(params=[0, 1, 2])
def rng(request):
    return np.random.default_rng(request.param)


def line(rng, r2, **kwargs):
    return made_up(rng, r2, **{"layers": LAYERS} | kwargs)


def curve_of(*lines, layers=LAYERS):
    points = tuple(
        ProbePoint(layer, alias, number / 5, layer, "output", channels=8, macs=MACS[number])
        for number, (layer, alias) in enumerate(layers.items())
    )
    tables, draws = zip(*lines, strict=True)
    return Curve(pd.concat(tables, ignore_index=True), np.concatenate(draws), points)


def noisy(rng, r2, **kwargs):
    return curve_of(line(rng, r2, **kwargs))


def still(r2, **kwargs):
    return line(None, r2, noise=np.zeros((6, 500)), **kwargs)


def without_noise(r2, **kwargs):
    return curve_of(still(r2, **kwargs))


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("best", range(4))
def test_peak_is_the_layer_of_the_highest_score(rng, best):
    r2 = rng.uniform(0.2, 0.6, size=6)
    r2[best] = 0.9
    found = choose(noisy(rng, r2, spread=0.2), "peak")
    assert found.layer == found.peak == list(LAYERS)[best]
    assert (found.r2, found.r2_low, found.r2_high) == pytest.approx((0.9, 0.8, 0.95))


@pytest.mark.parametrize("best", range(4))
def test_both_rules_agree_where_layers_are_apart_and_nothing_is_noise(rng, best):
    r2 = rng.permutation([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    r2[best] = 0.9
    curve = without_noise(r2)
    cheapest, peak = choose(curve), choose(curve, "peak")
    assert cheapest.layer == peak.layer == list(LAYERS)[best]
    assert cheapest.macs == cheapest.peak_macs == MACS[best]


def test_cheapest_is_the_earliest_of_the_peaks_equals(rng):
    curve = noisy(rng, [0.3, 0.799, 0.5, 0.8, 0.6, 0.9])
    equals = curve.evidence().confidence_set
    assert equals == ("b", "d")  # planted: within a tenth of the noise, c far below
    assert choose(curve).layer == choose(curve, "cheapest").layer == "b"
    assert choose(curve, "peak").layer == "d"


def test_what_is_shared_by_all_layers_is_no_reason_to_cut_earlier(rng):
    r2 = [0.3, 0.78, 0.5, 0.8, 0.6, 0.9]
    shared = 0.2 * rng.normal(size=(1, 500))  # images that are hard for all layers
    own = 0.001 * rng.normal(size=(6, 500))
    assert choose(curve_of(line(rng, r2, noise=shared + own))).layer == "d"
    unpaired = 0.2 * rng.normal(size=(6, 500))
    assert choose(curve_of(line(rng, r2, noise=unpaired))).layer != "d"


def test_flat_curve_is_cut_at_its_first_layer(rng):
    assert choose(noisy(rng, [0.6, 0.601, 0.599, 0.602, 0.6, 0.6], spread=0.05)).layer == "a"
    assert choose(without_noise([0.6] * 6)).layer == "a"
    assert choose(without_noise([0.6] * 6), "peak").layer == "a"


def test_earliest_is_by_depth_whatever_the_order_of_rows(rng):
    curve = noisy(rng, [0.3, 0.799, 0.5, 0.8, 0.6, 0.9])
    order = rng.permutation(len(curve.table))
    shuffled = replace(
        curve, table=curve.table.iloc[order].reset_index(drop=True), draws=curve.draws[order]
    )
    assert choose(shuffled) == choose(curve)


@pytest.mark.parametrize("rule", RULES)
def test_choice_is_a_pure_function_of_the_curve(rng, rule):
    curve = noisy(rng, [0.3, 0.799, 0.5, 0.8, 0.6, 0.9])
    table, draws = curve.table.copy(deep=True), curve.draws.copy()
    first = choose(curve, rule)
    assert choose(curve, rule) == first
    assert choose(replace(curve, table=table.copy(), draws=draws.copy()), rule) == first
    pd.testing.assert_frame_equal(curve.table, table)
    np.testing.assert_array_equal(curve.draws, draws)


def test_curve_of_random_weights_or_least_squares_chooses_by_its_own_lines(rng):
    r2, other = [0.3, 0.8, 0.5, 0.4, 0.1, 0.0], [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert choose(without_noise(r2, weights="random")).layer == "b"
    assert choose(without_noise(r2, regressor="ols")).layer == "b"
    distracted = curve_of(
        still(other, weights="random"),
        still(r2),
        still(other, target="shuffled"),
        still(other, regressor="ols"),
    )
    assert choose(distracted).layer == choose(distracted, "peak").layer == "b"


# --- what is told --------------------------------------------------------------------------------


def test_costs_are_those_of_the_points(rng):
    found = choose(noisy(rng, [0.3, 0.799, 0.5, 0.8, 0.6, 0.9]))
    assert (found.macs, found.peak_macs) == (250, 1000)
    assert (found.r2, found.peak_r2) == (0.799, 0.8)
    assert (found.rule, found.subset, found.peak) == ("cheapest", "mean", "d")


@pytest.mark.parametrize(
    ("r2", "rule", "reason"),
    [
        (
            [0.3, 0.799, 0.5, 0.8, 0.6, 0.9],
            "cheapest",
            "b (add_2) is the earliest of 2 layers that are not shown to be worse than the peak d: "
            "R² 0.80 [0.70, 0.85], 0.80 at the peak, for 25 % of its multiply-accumulates.",
        ),
        (
            [0.3, 0.8, 0.5, 0.4, 0.1, 0.0],
            "cheapest",
            "b (add_2) is the peak of the curve, and every earlier layer is shown to be worse: "
            "R² 0.80 [0.70, 0.85].",
        ),
        (
            [0.3, 0.799, 0.5, 0.8, 0.6, 0.9],
            "peak",
            "d is the peak of the curve: R² 0.80 [0.70, 0.85].",
        ),
    ],
)
def test_reason_is_one_sentence(rng, r2, rule, reason):
    assert choose(noisy(rng, r2), rule).reason == reason


def test_layer_far_below_the_peak_comes_with_a_caution(rng):
    r2 = [0.55, 0.7, 0.75, 0.8, 0.6, 0.5]
    curve = noisy(rng, r2, noise=rng.normal(0, 0.3, (6, 500)))
    found = choose(curve)
    assert found.layer == "a"
    assert found.reason.endswith(
        f" Caution: it is 0.25 below the peak, which {curve.evidence().n_fit} images to fit are "
        "too few to tell from chance; probe with more images, or take --rule peak."
    )
    assert "Caution" not in choose(curve, "peak").reason


def test_subset_asked_for_chooses_and_is_named(rng):
    curve = curve_of(
        still([0.3, 0.8, 0.5, 0.4, 0.1, 0.0]),
        still([0.1, 0.2, 0.9, 0.4, 0.1, 0.0], subset="dog"),
    )
    assert choose(curve).layer == "b"
    found = choose(curve, subset="dog")
    assert (found.layer, found.subset, found.r2) == ("c", "dog", 0.9)
    assert found.reason == (
        "For dog, c is the peak of the curve, and every earlier layer is shown to be worse: "
        "R² 0.90 [0.80, 0.95]."
    )


def test_choice_holds_nothing_but_numbers_and_text(rng):
    found = choose(noisy(rng, [0.3, 0.799, 0.5, 0.8, 0.6, 0.9]))
    assert {type(value) for value in asdict(found).values()} == {str, float, int}


# --- the ends of the network ---------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_softmax_is_never_chosen(rng, rule):
    assert choose(noisy(rng, [0.3, 0.4, 0.8, 0.5, 0.5, 0.99]), rule).layer == "c"
    alone = {"softmax": "softmax"}
    curve = curve_of(made_up(rng, [0.8], layers=alone), layers=alone)
    with pytest.raises(LayerError) as error:
        choose(curve, rule)
    assert str(error.value) == (
        f"The {rule} layer is softmax, the end of the network, so nothing can be cut off. "
        "Use the network whole, or give --at LAYER."
    )


@pytest.mark.parametrize("rule", RULES)
def test_logits_leave_nothing_to_cut_off(rule):
    with pytest.raises(LayerError) as error:
        choose(without_noise([0.1, 0.2, 0.3, 0.4, 0.8, 0.1]), rule)
    assert str(error.value) == (
        f"The {rule} layer is logits (pre_softmax), the end of the network, so nothing can be cut "
        "off. Use the network whole, or give --at LAYER."
    )


def test_cheapest_is_found_where_the_peak_is_the_end_of_the_network(rng):
    curve = noisy(rng, [0.3, 0.5, 0.5, 0.799, 0.8, 0.1])
    assert choose(curve).layer == "d"
    with pytest.raises(LayerError, match=r"^The peak layer is logits \(pre_softmax\), the end"):
        choose(curve, "peak")


# --- no choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chance", [{"p_value": 0.051}, {"p_value": 0.8}, {"p_value": np.nan}])
def test_curve_that_shows_nothing_chooses_nothing(rng, rule, chance):
    r2 = [-0.05, -0.02, 0.04, -0.4, 0.0, -1.0]
    with pytest.raises(DataError) as error:
        choose(noisy(rng, r2, **chance), rule)
    assert str(error.value) == (
        "The curve shows no layer that carries the object's scale, so it chooses none. Probe with "
        "more images, or give --at LAYER."
    )


def test_evidence_is_that_of_the_subset_asked_for():
    r2 = [0.3, 0.8, 0.5, 0.4, 0.1, 0.0]
    curve = curve_of(still(r2, p_value=0.5), still(r2, subset="dog"))
    assert choose(curve, subset="dog").layer == "b"
    with pytest.raises(DataError, match=r"^The curve shows no layer that carries"):
        choose(curve)


@pytest.mark.parametrize("rule", ["Peak", "", "latest"])
def test_unknown_rule_is_refused_with_those_that_are_known(rng, rule):
    curve = noisy(rng, [0.3, 0.8, 0.5, 0.4, 0.1, 0.0])
    said = f"No rule is named {rule!r}. Give cheapest or peak, or --at LAYER."
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        choose(curve, rule)


def test_unknown_subset_is_refused_with_those_that_are_there(rng):
    with pytest.raises(DataError) as error:
        choose(noisy(rng, [0.3, 0.8, 0.5, 0.4, 0.1, 0.0]), subset="cow")
    assert str(error.value) == "The curve has no subset 'cow'. It has mean."
