"""The peak and the layers equal to it are planted in a curve; the layer to cut at follows."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from scalecut import Curve, DataError, LayerError, ProbePoint, choose_layer
from scalecut.probing.choose import RULES
from scalecut.report.curve import COLUMNS, scored_by_r2

LAYERS = {"a": "", "b": "add_2", "c": "", "d": "", "logits": "pre_softmax", "softmax": "softmax"}
MACS = [100, 250, 500, 1000, 1001, 1001]  # up to each of LAYERS
TWO_EQUAL = [0.3, 0.799, 0.5, 0.8, 0.6, 0.9]  # b and d differ by a tenth of the noise
ONE_PEAK = [0.3, 0.8, 0.5, 0.4, 0.1, 0.0]


@pytest.fixture(params=[0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def rng(request):
    return np.random.default_rng(request.param)


def line(rng, r2, *, layers=LAYERS, spread=0.01, noise=None, **facts):
    """One line of a curve: the rows of its table, and draws with the noise of each layer."""
    row = {"model": "net", "subset": "mean", "measure": "area", "weights": "pretrained"}
    row |= {
        "target": "true",
        "regressor": "ridge",
        "n_images": 40,
        "seed_count": 10,
        "n_fit": 28,
        "n_groups": 40,
    }
    row |= {"r2_spread": np.nan, "n_features": 8, "p_value": 0.001} | facts
    r2, depth = np.array(r2), np.linspace(0, 1, len(layers))
    table = pd.DataFrame(row, index=range(len(layers)))
    table = table.assign(layer=list(layers), alias=list(layers.values()), depth=depth)
    table = table.assign(r2=r2, r2_low=r2 - 0.1, r2_high=r2 + 0.05)
    table = table.assign(learned=r2 - 0.1, learned_low=r2 - 0.2, learned_high=r2)
    noise = spread * rng.normal(size=(len(r2), 500)) if noise is None else noise
    return scored_by_r2(table)[COLUMNS], (r2[:, None] + noise).astype(np.float32)


def curve_of(*lines, layers=LAYERS):
    points = tuple(
        ProbePoint(layer, alias, number / 5, layer, "output", channels=8, macs=MACS[number])
        for number, (layer, alias) in enumerate(layers.items())
    )
    tables, draws = zip(*lines, strict=True)
    return Curve(pd.concat(tables, ignore_index=True), np.concatenate(draws), points)


def noisy(rng, r2, **facts):
    return curve_of(line(rng, r2, **facts))


def exact(r2, **facts):
    """A line without noise."""
    return line(None, r2, noise=np.zeros((6, 500)), **facts)


# --- the rules -----------------------------------------------------------------------------------


def test_peak_is_the_layer_of_the_highest_score(rng):
    for best in range(4):
        r2 = rng.uniform(0.2, 0.6, size=6)
        r2[best] = 0.9
        found = choose_layer(noisy(rng, r2, spread=0.2), "peak")
        assert found.layer == found.peak == list(LAYERS)[best]
        assert (found.r2, found.r2_low, found.r2_high) == pytest.approx((0.9, 0.8, 0.95))


def test_both_rules_agree_where_layers_differ_and_there_is_no_noise(rng):
    for best in range(4):
        r2 = rng.permutation([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
        r2[best] = 0.9
        curve = curve_of(exact(r2))
        cheapest, peak = choose_layer(curve), choose_layer(curve, "peak")
        assert cheapest.layer == peak.layer == list(LAYERS)[best]
        assert cheapest.macs == cheapest.peak_macs == MACS[best]


def test_cheapest_is_the_earliest_layer_equal_to_the_peak_whatever_the_order_of_rows(rng):
    curve = noisy(rng, TWO_EQUAL)
    assert curve.evidence().confidence_set == ("b", "d")  # as planted; c is far below
    found = choose_layer(curve)
    assert found == choose_layer(curve, "cheapest")
    assert (found.layer, found.rule, found.subset, found.peak) == ("b", "cheapest", "mean", "d")
    assert (found.macs, found.peak_macs, found.r2, found.peak_r2) == (250, 1000, 0.799, 0.8)
    assert choose_layer(curve, "peak").layer == "d"
    order = rng.permutation(len(curve.table))
    table = curve.table.iloc[order].reset_index(drop=True)
    assert choose_layer(replace(curve, table=table, draws=curve.draws[order])) == found


def test_noise_shared_by_all_layers_is_no_reason_to_cut_earlier(rng):
    r2 = [0.3, 0.78, 0.5, 0.8, 0.6, 0.9]
    shared = 0.2 * rng.normal(size=(1, 500))  # images that are difficult for all layers
    own = 0.001 * rng.normal(size=(6, 500))
    assert choose_layer(noisy(rng, r2, noise=shared + own)).layer == "d"
    assert choose_layer(noisy(rng, r2, spread=0.2)).layer != "d"


def test_flat_curve_is_cut_at_its_first_layer(rng):
    assert choose_layer(noisy(rng, [0.6, 0.601, 0.599, 0.602, 0.6, 0.6], spread=0.05)).layer == "a"
    assert choose_layer(curve_of(exact([0.6] * 6)), "peak").layer == "a"


def test_choice_is_a_pure_function_of_the_curve(rng):
    curve = noisy(rng, TWO_EQUAL)
    table, draws = curve.table.copy(deep=True), curve.draws.copy()
    first = choose_layer(curve)
    assert choose_layer(replace(curve, table=table.copy(), draws=draws.copy())) == first
    pd.testing.assert_frame_equal(curve.table, table)
    np.testing.assert_array_equal(curve.draws, draws)
    assert {type(value) for value in asdict(first).values()} == {str, float, int}


def test_only_the_main_line_of_the_subset_chooses():
    other = [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert choose_layer(curve_of(exact(ONE_PEAK, weights="random"))).layer == "b"
    assert choose_layer(curve_of(exact(ONE_PEAK, regressor="ols"))).layer == "b"
    curve = curve_of(
        exact(other, weights="random"),
        exact(ONE_PEAK),
        exact(other, target="shuffled"),
        exact(other, regressor="ols"),
        exact([0.1, 0.2, 0.9, 0.4, 0.1, 0.0], subset="dog"),
    )
    assert choose_layer(curve).layer == choose_layer(curve, "peak").layer == "b"
    found = choose_layer(curve, subset="dog")
    assert (found.layer, found.subset, found.r2) == ("c", "dog", 0.9)
    assert found.reason == (
        "For dog, c is the peak of the curve, and every earlier layer is shown to be worse: "
        "R² 0.90 [0.80, 0.95]."
    )


def test_evidence_is_that_of_the_subset():
    curve = curve_of(exact(ONE_PEAK, p_value=0.5), exact(ONE_PEAK, subset="dog"))
    assert choose_layer(curve, subset="dog").layer == "b"
    with pytest.raises(DataError, match=r"^No layer of this curve is shown to encode"):
        choose_layer(curve)


# --- the reason ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r2", "rule", "reason"),
    [
        (
            TWO_EQUAL,
            "cheapest",
            "b (add_2) is the earliest of 2 layers that are not shown to be worse than the peak d: "
            "R² 0.80 [0.70, 0.85], 0.80 at the peak, with 25 % of the multiply-accumulates up to "
            "the peak.",
        ),
        (
            ONE_PEAK,
            "cheapest",
            "b (add_2) is the peak of the curve, and every earlier layer is shown to be worse: "
            "R² 0.80 [0.70, 0.85].",
        ),
        (TWO_EQUAL, "peak", "d is the peak of the curve: R² 0.80 [0.70, 0.85]."),
    ],
)
def test_reason_is_one_sentence(r2, rule, reason):
    assert choose_layer(noisy(np.random.default_rng(0), r2), rule).reason == reason


def test_layer_far_below_the_peak_comes_with_a_caution(rng):
    r2 = [0.55, 0.7, 0.75, 0.8, 0.6, 0.5]
    curve = noisy(rng, r2, noise=rng.normal(0, 0.3, (6, 500)))
    found = choose_layer(curve)
    assert found.layer == "a"
    assert found.reason.endswith(
        " Caution: it is 0.25 below the peak, and 28 training images are too few to show whether "
        "this difference is real. Probe with more images, or use --rule peak."
    )
    assert "Caution" not in choose_layer(curve, "peak").reason


# --- the cheapest within a loss ------------------------------------------------------------------

NEAR = [0.3, 0.775, 0.79, 0.8, 0.6, 0.9]


@pytest.mark.parametrize(
    ("within", "layer"),
    [(0.0, "d"), (0.009, "d"), (0.01, "c"), (0.025, "b"), (0.3, "b"), (0.9, "a")],
)
def test_cheapest_within_a_loss_is_the_one_of_least_cost_among_those_that_near(within, layer):
    found = choose_layer(curve_of(exact(NEAR)), within=within)
    assert (found.layer, found.rule, found.within) == (layer, "within", within)
    r2 = dict(zip(LAYERS, NEAR, strict=True))[layer]
    assert found.loss == pytest.approx(0.8 - r2)
    assert found.loss <= within + 1e-9


def test_cost_decides_and_depth_where_it_is_unknown():
    curve = curve_of(exact(NEAR))
    dear = tuple(replace(p, macs=5000) if p.layer == "b" else p for p in curve.points)
    assert choose_layer(replace(curve, points=dear), within=0.03).layer == "c"
    unknown = tuple(replace(point, macs=0) for point in curve.points)
    found = choose_layer(replace(curve, points=unknown), within=0.03)
    assert found.layer == "b"
    assert found.reason.startswith("b (add_2) is the earliest layer within 0.03 of the peak d: ")
    assert "multiply" not in found.reason


def test_loss_is_shown_to_be_small_only_where_its_interval_is(rng):
    certain = choose_layer(noisy(rng, NEAR, spread=0.001), within=0.03)
    assert certain.loss_low < 0.025 < certain.loss_high < 0.03
    assert certain.reason == (
        "b (add_2) is the cheapest layer within 0.03 of the peak d: R² 0.78 [0.68, 0.83], 0.80 at "
        "the peak, with 25 % of the multiply-accumulates up to the peak. The loss is 0.025 "
        f"[{certain.loss_low:.3f}, {certain.loss_high:.3f}], which is shown to be at most 0.03."
    )
    few = curve_of(exact(NEAR, n_groups=11))
    assert choose_layer(few, within=0.03).reason.endswith(
        " The loss is 0.025, which is not shown to be at most 0.03; no interval holds with fewer "
        "than 12 groups of held-out images."
    )
    uncertain = choose_layer(noisy(rng, NEAR, spread=0.02), within=0.03)
    assert uncertain.layer == "b"
    assert uncertain.loss_high > 0.03
    assert uncertain.reason.endswith("which is not shown to be at most 0.03.")
    assert choose_layer(curve_of(exact(ONE_PEAK)), within=0.02).reason == (
        "b (add_2) is the peak of the curve, and no cheaper layer is within 0.02 of it: "
        "R² 0.80 [0.70, 0.85]."
    )


# --- no choice -----------------------------------------------------------------------------------


def test_softmax_is_never_chosen_and_an_earlier_layer_may_replace_the_logits(rng):
    for rule in RULES:
        assert choose_layer(noisy(rng, [0.3, 0.4, 0.8, 0.5, 0.5, 0.99]), rule).layer == "c"
    curve = noisy(rng, [0.3, 0.5, 0.5, 0.799, 0.8, 0.1])
    assert choose_layer(curve).layer == "d"
    with pytest.raises(LayerError, match=r"^The peak layer is logits \(pre_softmax\), the end"):
        choose_layer(curve, "peak")


ALONE = {"softmax": "softmax"}
REFUSED = [
    *(
        (
            curve_of(exact([-0.05, -0.02, 0.04, -0.4, 0.0, -1.0], p_value=p_value)),
            {"rule": rule},
            DataError,
            "No layer of this curve is shown to encode the object's scale, so none can be chosen. "
            "Probe with more images, or give --at LAYER.",
        )
        for rule, p_value in zip(RULES * 2, (0.051, 0.8, np.nan, np.nan), strict=True)
    ),
    *(
        (
            curve_of(exact(ONE_PEAK)),
            {"rule": rule},
            DataError,
            f"No rule is named {rule!r}. Give cheapest or peak, or --at LAYER.",
        )
        for rule in ("Peak", "", "latest")
    ),
    *(
        (
            curve_of(exact(ONE_PEAK)),
            options,
            DataError,
            f"--within is the loss that the rule cheapest allows, at least 0, got {given}. Give "
            "such as --within 0.02, without --rule peak.",
        )
        for options, given in (
            ({"within": -0.1}, "-0.1"),
            ({"within": np.nan}, "nan"),
            ({"within": 0.1, "rule": "peak"}, "the rule peak"),
        )
    ),
    (
        curve_of(exact(ONE_PEAK)),
        {"subset": "cow"},
        DataError,
        "The curve has no subset 'cow'. It has mean.",
    ),
    *(
        (
            curve_of(exact([0.1, 0.2, 0.3, 0.4, 0.8, 0.1])),
            {"rule": rule},
            LayerError,
            f"The {rule} layer is logits (pre_softmax), the end of the network, so nothing can be "
            "cut off. Use the whole network, or give --at LAYER.",
        )
        for rule in RULES
    ),
    (
        curve_of(line(np.random.default_rng(0), [0.8], layers=ALONE), layers=ALONE),
        {},
        LayerError,
        "The cheapest layer is softmax, the end of the network, so nothing can be cut off. Use the "
        "whole network, or give --at LAYER.",
    ),
]


def test_messages():
    for curve, options, kind, text in REFUSED:
        with pytest.raises(kind) as error:
            choose_layer(curve, **options)
        assert str(error.value) == text
