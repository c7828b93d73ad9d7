"""What a curve is evidence of, told from tables and draws that are made up."""

from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scalecut import Curve, DataError, ProbePoint, make_image_set
from scalecut.probing.curve import COLUMNS, compare, image_table
from scalecut.stats.inference import interval

LAYERS = {"a": "", "b": "add_2", "c": "", "logits": "pre_softmax", "softmax": "softmax"}
PROVENANCE = {"images": {"sha256": "same"}, "probe": {"repeats": 10, "seed": 0}}


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


def made_up(rng, r2, *, layers=LAYERS, spread=0.01, noise=None, learned=0.1, **line):
    """One line of a curve, its draws with noise of their own, or with that which is given."""
    row = {"model": "net", "subset": "mean", "measure": "area", "weights": "pretrained"}
    row |= {"target": "true", "regressor": "ridge", "n_images": 40, "seed_count": 10, "n_fit": 28}
    row |= {"r2_spread": np.nan, "n_features": 8, "p_value": 0.001} | line
    depth = np.linspace(0, 1, len(layers))
    table = pd.DataFrame(
        [
            {**row, "layer": layer, "alias": alias, "depth": d, "r2": value}
            | {"r2_low": value - 0.1, "r2_high": value + 0.05, "learned": value - learned}
            | {"learned_low": value - learned - 0.1, "learned_high": value - learned + 0.1}
            for (layer, alias), d, value in zip(layers.items(), depth, r2, strict=True)
        ]
    )[COLUMNS]
    noise = spread * rng.normal(size=(len(r2), 500)) if noise is None else noise
    return table, (np.array(r2)[:, None] + noise).astype(np.float32)


def curve_of(*lines, layers=LAYERS, **facts):
    points = tuple(
        ProbePoint(layer, alias, number / max(len(layers) - 1, 1), layer, "output", channels=8)
        for number, (layer, alias) in enumerate(layers.items())
    )
    tables, draws = zip(*lines, strict=True)
    table = pd.concat(tables, ignore_index=True)
    return Curve(table, np.concatenate(draws), points, provenance=PROVENANCE | facts)


# --- evidence ------------------------------------------------------------------------------------


def test_peak_its_set_and_the_fall_are_named(rng):
    found = curve_of(made_up(rng, [0.3, 0.8, 0.795, 0.5, 0.1])).evidence()
    assert found.peak in ("b", "c")
    assert found.confidence_set == ("b", "c")
    assert (found.fall_after, found.fall_first, found.fall_last) == ("c", "c", "c")
    assert found.fall == pytest.approx(0.7975 - 0.5, abs=0.01)
    assert found.fall_low < found.fall < found.fall_high
    assert (found.last, found.last_r2, found.n_fit) == ("logits", 0.5, 28)
    assert found.last_loss == pytest.approx(0.3)
    assert found.last_loss_low > 0.2


def test_softmax_is_neither_peak_nor_fall(rng):
    found = curve_of(made_up(rng, [0.3, 0.6, 0.7, 0.8, 0.9])).evidence()
    assert (found.peak, found.last) == ("logits", "logits")
    found = curve_of(made_up(rng, [0.3, 0.6, 0.7, 0.8, -5.0])).evidence()
    assert (found.peak, found.fall_after) == ("logits", None)


def test_no_fall_is_said_to_be_shown_where_the_noise_is_large(rng):
    found = curve_of(made_up(rng, [0.6, 0.62, 0.61, 0.6, 0.1], spread=0.2)).evidence()
    assert found.fall_after is found.fall_first is found.fall_last is found.fall is None
    assert found.fall_p_value > 0.05


def test_evidence_is_of_the_subset_asked_for(rng):
    dog = made_up(rng, [0.9, 0.2, 0.2, 0.2, 0.2], subset="dog")
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1]), dog)
    assert (curve.evidence().peak, curve.evidence("dog").peak) == ("b", "a")
    with pytest.raises(DataError) as error:
        curve.evidence("cow")
    assert str(error.value) == "The curve has no subset 'cow'. It has mean, dog."


def test_evidence_without_ridge_is_of_least_squares(rng):
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1], regressor="ols"))
    assert curve.regressor == "ols"
    assert curve.evidence().peak == "b"


def test_differences_are_paired_and_against_the_peak(rng):
    shared = 0.2 * rng.normal(size=(1, 500))  # images that are hard for all layers
    own = 0.001 * rng.normal(size=(5, 500))
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.79, 0.5, 0.1], noise=shared + own))
    rows = curve.differences().set_index("layer")
    assert list(rows.index) == ["a", "b", "c", "logits"]
    np.testing.assert_allclose(rows.below_peak, [0.5, 0, 0.01, 0.3], atol=1e-6)
    draws = curve.draws.astype(float)
    low, high = interval(0.01, draws[1] - draws[2])
    assert rows.below_peak_low["c"] == pytest.approx(low, abs=1e-6)
    assert rows.below_peak_high["c"] == pytest.approx(high, abs=1e-6)
    assert rows.is_in_confidence_set.tolist() == [False, True, False, False]


# --- the sentence --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r2", "line", "sentence"),
    [
        (
            [0.3, 0.8, 0.5, 0.5, 0.1],
            {},
            "net carries the object's scale best at b (add_2) (the 95 % set is this layer alone): "
            "R² 0.80 [0.70, 0.85], of which 0.70 [0.60, 0.80] is learned; it falls after "
            "b (add_2), and logits (pre_softmax) has 0.50; 28 images to fit.",
        ),
        (
            [0.3, 0.798, 0.8, 0.5, 0.1],
            {"learned": np.nan},
            "net carries the object's scale best at c (95 % set: b (add_2) to c): "
            "R² 0.80 [0.70, 0.85]; it falls after c, and logits (pre_softmax) has 0.50; "
            "28 images to fit.",
        ),
        (
            [0.8, 0.3, 0.798, 0.797, 0.1],
            {"learned": np.nan, "weights": "random"},
            "net carries the object's scale best at a (95 % set: a, c, logits (pre_softmax)): "
            "R² 0.80 [0.70, 0.85]; no fall is shown after it (p = ",
        ),
    ],
)
def test_finding_is_one_sentence(r2, line, sentence):
    curve = curve_of(made_up(np.random.default_rng(0), r2, spread=0.005, **line))
    assert curve.finding().startswith(sentence)


def test_finding_says_that_no_fall_is_shown(rng):
    said = curve_of(made_up(rng, [0.6, 0.62, 0.61, 0.6, 0.1], spread=0.2)).finding()
    assert "; no fall is shown after it (p = " in said


def test_finding_says_that_the_peak_is_the_last_layer_that_was_read(rng):
    said = curve_of(made_up(rng, [0.3, 0.4, 0.5, 0.8, 0.1])).finding()
    assert "is learned; no layer was read after it; 28 images to fit." in said


def test_long_set_with_gaps_is_counted(rng):
    layers = dict.fromkeys("abcdef", "")
    curve = curve_of(made_up(rng, [0.8, 0.3, 0.8, 0.8, 0.3, 0.8], layers=layers), layers=layers)
    assert "(95 % set: 4 layers from a to f): " in curve.finding()


def test_finding_claims_nothing_where_chance_explains_it(rng):
    r2 = [-0.05, -0.02, -0.4, -0.4, 0.0]
    said = curve_of(made_up(rng, r2, p_value=0.8, learned=0.0)).finding()
    assert said == (
        "No layer of net is shown to carry the object's scale; the best is b (add_2): "
        "R² -0.02 [-0.12, 0.03], p = 0.8; 28 images to fit."
    )
    said = curve_of(made_up(rng, r2, p_value=np.nan)).finding()
    assert said.endswith("b (add_2): R² -0.02 [-0.12, 0.03]; 28 images to fit.")


def test_finding_does_not_call_learned_what_is_not_shown(rng):
    said = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1], learned=0.78)).finding()
    assert ", of which 0.02 [-0.08, 0.12] would be learned, which is not shown; it" in said


def test_finding_of_a_single_layer(rng):
    curve = curve_of(made_up(rng, [0.5], layers={"a": ""}), layers={"a": ""})
    assert curve.finding().startswith(
        "net carries the object's scale best at a (the 95 % set is this layer alone): R² 0.50"
    )


# --- fewer images --------------------------------------------------------------------------------


def test_learning_table_goes_from_few_images_to_all(rng):
    few, draws = made_up(rng, [0.1, 0.2, 0.1, 0.1, 0.0], n_fit=7)
    whole = curve_of(
        made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1]),
        made_up(rng, [0.1, 0.1, 0.1, 0.1, 0.1], weights="random"),
        made_up(rng, [0.0, 0.0, 0.0, 0.0, 0.0], target="shuffled"),
    )
    curve = replace(whole, fewer=(Curve(few, draws, whole.points),))
    table = curve.learning()
    assert table.n_fit.tolist() == [7] * 5 + [28] * 5
    assert table.r2.tolist() == [0.1, 0.2, 0.1, 0.1, 0.0, 0.3, 0.8, 0.5, 0.5, 0.1]
    assert curve.fewer[0].evidence().n_fit == 7
    assert curve.learning_lines() == [
        "    7 to fit: R² 0.20 at b (add_2), falls by 0.10 after b (add_2), 0.10 at logits "
        "(pre_softmax)",
        "   28 to fit: R² 0.80 at b (add_2), falls by 0.30 after b (add_2), 0.50 at logits "
        "(pre_softmax)",
    ]
    assert whole.learning_lines() == []


# --- two networks --------------------------------------------------------------------------------


def test_networks_are_compared_image_by_image(rng):
    shared = 0.2 * rng.normal(size=(1, 500))
    noise = [shared + 0.001 * rng.normal(size=(5, 500)) for _ in range(2)]
    one = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1], noise=noise[0]))
    other = curve_of(made_up(rng, [0.3, 0.4, 0.5, 0.75, 0.1], noise=noise[1]))
    row = compare(one, other).iloc[0]
    assert (row.layer, row.other_layer) == ("b", "logits")
    assert row.difference == pytest.approx(0.05)
    assert 0.04 < row.difference_low < 0.05 < row.difference_high < 0.06  # the noise is shared
    row = compare(one, other, ("add_2", "c")).iloc[0]
    assert (row.layer, row.other_layer, row.difference) == ("b", "c", pytest.approx(0.3))


def test_curve_compared_with_itself_differs_by_nothing(rng):
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1]))
    row = compare(curve, curve).iloc[0]
    assert row.difference == row.difference_low == row.difference_high == 0


def test_curves_of_other_images_or_splits_are_not_compared(rng):
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1]))
    images = replace(curve, provenance=PROVENANCE | {"images": {"sha256": "other"}})
    with pytest.raises(DataError) as error:
        compare(curve, images)
    assert str(error.value) == (
        "The two runs are not of the same images ({'sha256': 'same'} and {'sha256': 'other'}), so "
        "they cannot be compared image by image. Probe both networks with the same --data, "
        "--subset, --measure, --fit, --repeats and --seed."
    )
    splits = replace(curve, provenance=PROVENANCE | {"probe": {"repeats": 5, "seed": 0}})
    with pytest.raises(DataError, match="not of the same splits"):
        compare(curve, splits)


def test_curves_of_other_regressors_are_not_compared(rng):
    r2 = [0.3, 0.8, 0.5, 0.5, 0.1]
    one, other = curve_of(made_up(rng, r2)), curve_of(made_up(rng, r2, regressor="ols"))
    with pytest.raises(DataError) as error:
        compare(one, other)
    assert str(error.value) == (
        "One run has ridge, the other ols, which cannot be compared. Probe both networks with the "
        "same --regressor."
    )


def test_nothing_learned_has_no_sign(rng):
    said = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1], learned=0.801)).finding()
    assert ", of which 0.00 [-0.10, 0.10] would be learned, which is not shown" in said


def test_unknown_layer_is_not_compared(rng):
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.5, 0.5, 0.1]))
    with pytest.raises(DataError) as error:
        compare(curve, curve, ("b", "mixed8"))
    assert str(error.value) == (
        "The curve of net has no layer 'mixed8'. It has 4, from 'a' to 'logits'."
    )


# --- what is read from each image ----------------------------------------------------------------


def with_images(rng, folder):
    """A curve of three files and two pictures in memory, with boxes and predictions."""
    files = [folder / f"{number}.png" for number in range(3)]
    for file in files:
        PIL.Image.new("RGB", (40, 30)).save(file)
    pictures = [*files, np.zeros((10, 20, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)]
    images = make_image_set(pictures, rng.random(5), subset=[*"aabba"], group=[*"11223"])
    images = replace(images, boxes=np.arange(20.0).reshape(5, 4))
    curve = curve_of(made_up(rng, [0.3, 0.8, 0.795, 0.5, 0.1]))
    return replace(curve, image_set=images, predicted=rng.random((5, 5)))


def test_predictions_are_told_layer_by_layer_in_the_order_of_the_images(rng, tmp_path):
    curve = with_images(rng, tmp_path)
    found = curve.predictions()
    assert [*found] == ["image", "subset", "group", "measure", "layer", "predicted"]
    assert found.layer.tolist() == [layer for layer in LAYERS for _ in range(5)]
    for number, (_, rows) in enumerate(found.groupby("layer", sort=False)):
        assert rows.image.tolist() == [image.name for image in curve.image_set.images]
        assert rows.subset.tolist() == [*"aabba"]
        assert rows.group.tolist() == [*"11223"]
        np.testing.assert_array_equal(rows.measure, curve.image_set.measure)
        np.testing.assert_array_equal(rows.predicted, curve.predicted[number])


def test_table_of_images_tells_where_each_lies_or_how_large_it_is(rng, tmp_path):
    found = image_table(with_images(rng, tmp_path).image_set)
    assert found.file.tolist() == [
        *(str(tmp_path / f"{number}.png") for number in range(3)),
        "",
        "",
    ]
    np.testing.assert_array_equal(found.width, [np.nan] * 3 + [20, 10])
    np.testing.assert_array_equal(found.height, [np.nan] * 3 + [10, 20])
    boxes = found[["left", "top", "right", "bottom"]]
    np.testing.assert_array_equal(boxes, np.arange(20.0).reshape(5, 4))


def test_images_without_boxes_have_none_in_their_table():
    found = image_table(make_image_set([np.zeros((2, 2, 3), np.uint8)], [0.5]))
    assert found[["left", "top", "right", "bottom"]].isna().all(axis=None)


def test_curve_that_was_read_from_a_run_says_where_its_predictions_are(rng):
    with pytest.raises(DataError) as error:
        curve_of(made_up(rng, [0.3, 0.8, 0.795, 0.5, 0.1])).predictions()
    assert str(error.value) == (
        "This curve has no predictions, because it was read from a run. Read them with "
        "pandas.read_parquet(RUN / 'predictions.parquet')."
    )
