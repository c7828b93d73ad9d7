"""What a curve shows, on synthetic tables and draws."""

import errno
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scalecut import Curve, ProbePoint, ScalecutError, make_image_set
from scalecut.data.decoding import Rendering
from scalecut.data.images import Image, Target
from scalecut.probing.curve import (
    check_model,
    compare_curves,
    image_table,
    read_curve,
)
from scalecut.report.curve import COLUMNS, COMBINED, LATER, scored_by_r2
from scalecut.stats.inference import ends, mirrored

LAYERS = {"a": "", "b": "add_2", "c": "", "logits": "pre_softmax", "softmax": "softmax"}
PROVENANCE = {"images": {"sha256": "same"}, "probe": {"repeats": 10, "seed": 0}}


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def line_of(rng, r2, *, layers=LAYERS, spread=0.01, noise=None, learned=0.1, **line):
    """One line of a curve, its draws with noise of their own, or with that which is given."""
    row = {"model": "net", "subset": "mean", "measure": "area", "weights": "pretrained"}
    row |= {"target": "true", "regressor": "ridge", "n_images": 40, "seed_count": 10, "n_fit": 28}
    row |= {"r2_spread": np.nan, "n_features": 8, "p_value": 0.001, "n_groups": 40} | line
    depth = np.linspace(0, 1, len(layers))
    table = pd.DataFrame(
        [
            {**row, "layer": layer, "alias": alias, "depth": d, "r2": value}
            | {"r2_low": value - 0.1, "r2_high": value + 0.05, "learned": value - learned}
            | {"learned_low": value - learned - 0.1, "learned_high": value - learned + 0.1}
            for (layer, alias), d, value in zip(layers.items(), depth, r2, strict=True)
        ]
    )
    noise = spread * rng.normal(size=(len(r2), 500)) if noise is None else noise
    return scored_by_r2(table)[COLUMNS], (np.array(r2)[:, None] + noise).astype(np.float32)


def curve_of(*lines, layers=LAYERS, **facts):
    points = tuple(
        ProbePoint(layer, alias, number / max(len(layers) - 1, 1), layer, "output", channels=8)
        for number, (layer, alias) in enumerate(layers.items())
    )
    tables, draws = zip(*lines, strict=True)
    table = pd.concat(tables, ignore_index=True)
    return Curve(table, np.concatenate(draws), points, provenance=PROVENANCE | facts)


# --- evidence ------------------------------------------------------------------------------------


def test_peak_its_set_and_the_drop_are_found(rng):
    found = curve_of(line_of(rng, [0.3, 0.8, 0.795, 0.5, 0.1])).evidence()
    assert found.peak in ("b", "c")
    assert found.confidence_set == ("b", "c")
    assert (found.fall_after, found.fall_first, found.fall_last) == ("c", "c", "c")
    assert found.fall == pytest.approx(0.7975 - 0.5, abs=0.01)
    assert found.fall_low < found.fall < found.fall_high
    assert (found.last, found.last_r2, found.n_fit) == ("logits", 0.5, 28)
    assert found.last_loss == pytest.approx(0.3)
    assert found.last_loss_low > 0.2


def test_softmax_is_neither_peak_nor_drop(rng):
    found = curve_of(line_of(rng, [0.3, 0.6, 0.7, 0.8, 0.9])).evidence()
    assert (found.peak, found.last) == ("logits", "logits")
    found = curve_of(line_of(rng, [0.3, 0.6, 0.7, 0.8, -5.0])).evidence()
    assert (found.peak, found.fall_after) == ("logits", None)


def test_no_drop_is_shown_where_the_noise_is_large(rng):
    found = curve_of(line_of(rng, [0.6, 0.62, 0.61, 0.6, 0.1], spread=0.2)).evidence()
    assert found.fall_after is found.fall_first is found.fall_last is found.fall is None
    assert found.fall_p_value > 0.05


def test_evidence_is_of_the_subset_asked_for(rng):
    dog = line_of(rng, [0.9, 0.2, 0.2, 0.2, 0.2], subset="dog")
    curve = curve_of(line_of(rng, [0.3, 0.8, 0.5, 0.5, 0.1]), dog)
    assert (curve.evidence().peak, curve.evidence("dog").peak) == ("b", "a")


def test_evidence_without_ridge_is_of_least_squares(rng):
    curve = curve_of(line_of(rng, [0.3, 0.8, 0.5, 0.5, 0.1], regressor="ols"))
    assert curve.regressor == "ols"
    assert curve.evidence().peak == "b"


def test_differences_are_paired_and_against_the_peak(rng):
    shared = 0.2 * rng.normal(size=(1, 500))  # images that are hard for all layers
    own = 0.001 * rng.normal(size=(5, 500))
    curve = curve_of(line_of(rng, [0.3, 0.8, 0.79, 0.5, 0.1], noise=shared + own))
    rows = curve.differences().set_index("layer")
    assert list(rows.index) == ["a", "b", "c", "logits"]
    np.testing.assert_allclose(rows.below_peak, [0.5, 0, 0.01, 0.3], atol=1e-6)
    draws = curve.draws.astype(float)
    low, high = ends(0.01, mirrored(0.8, draws[1]) - mirrored(0.79, draws[2]), 40)
    assert rows.below_peak_low["c"] == pytest.approx(low, abs=1e-6)
    assert rows.below_peak_high["c"] == pytest.approx(high, abs=1e-6)
    assert rows.is_in_confidence_set.tolist() == [False, True, False, False]


# --- the sentence --------------------------------------------------------------------------------

DROP = [0.3, 0.8, 0.5, 0.5, 0.1]
NOTHING = [-0.05, -0.02, -0.4, -0.4, 0.0]
BEST = "net encodes object scale best at "
AT_B = f"{BEST}b (add_2) (95 % set: this layer alone): R² 0.80 [0.70, 0.85]"
AFTER_B = "it drops after b (add_2), and logits (pre_softmax) has 0.50; 28 training images."
ABOVE_0 = "which is not shown to be above 0"
BELOW_0 = "the best is b (add_2): R² -0.02 [-0.12, 0.03]"
SENTENCES = [  # R² by layer, the rest of the line, what the sentence holds
    (DROP, {}, f"{AT_B}, a gain over controls of 0.70 [0.60, 0.80]; {AFTER_B}"),
    (DROP, {"learned": np.nan}, f"{AT_B}; {AFTER_B}"),
    (DROP, {"learned": 0.78}, f"{AT_B}, a gain over controls of 0.02 [-0.08, 0.12], {ABOVE_0}; "),
    (DROP, {"learned": 0.801}, f"of 0.00 [-0.10, 0.10], {ABOVE_0}; "),  # no sign
    ([0.3, 0.798, 0.8, 0.5, 0.1], {}, f"{BEST}c (95 % set: b (add_2) to c): R² 0.80 "),
    (
        [0.8, 0.3, 0.798, 0.797, 0.1],
        {"weights": "random"},
        f"{BEST}a (95 % set: a, c, logits (pre_softmax)): R² 0.80 ",
    ),
    ([0.6, 0.62, 0.61, 0.6, 0.1], {"spread": 0.2}, "; no drop is shown after it (p = "),
    ([0.3, 0.4, 0.5, 0.8, 0.1], {}, "; no layer was probed after it; 28 training images."),
    (
        NOTHING,
        {"p_value": 0.8},
        f"No layer of net is shown to encode object scale; {BELOW_0}, p = 0.8; 28 training images.",
    ),
    (NOTHING, {"p_value": np.nan}, f"{BELOW_0}; 28 training images."),
]


@pytest.mark.parametrize(("r2", "line", "sentence"), SENTENCES)
def test_finding_is_one_sentence(r2, line, sentence):
    found = curve_of(line_of(np.random.default_rng(0), r2, **{"spread": 0.005, **line})).finding()
    assert sentence in found
    if sentence.endswith("images."):
        assert found.endswith(sentence)
    if sentence.startswith(("net", "No")):
        assert found.startswith(sentence)


def test_finding_with_other_layers(rng):
    layers = dict.fromkeys("abcdef", "")
    curve = curve_of(line_of(rng, [0.8, 0.3, 0.8, 0.8, 0.3, 0.8], layers=layers), layers=layers)
    assert "(95 % set: 4 layers from a to f): " in curve.finding()
    single = curve_of(line_of(rng, [0.5], layers={"a": ""}), layers={"a": ""})
    assert single.finding().startswith(f"{BEST}a (95 % set: this layer alone): R² 0.50")


@pytest.mark.parametrize(
    ("below", "sentence"),
    [
        (
            (0.05, 0.02, 0.08),
            "All 4 layers together have R² 0.85 [0.80, 0.90]: every single layer is shown to be "
            "worse, the best (b (add_2)) by 0.05 [0.02, 0.08].",
        ),
        (
            (0.01, -0.02, 0.04),
            "All 4 layers together have R² 0.85 [0.80, 0.90], and the best single layer (b "
            "(add_2)) is not shown to be worse (difference 0.01 [-0.02, 0.04]).",
        ),
        (
            (-0.05, -0.08, -0.02),
            "All 4 layers together have R² 0.85 [0.80, 0.90], and are shown to be worse than b "
            "(add_2) alone, by 0.05 [0.02, 0.08].",
        ),
    ],
)
def test_finding_says_whether_all_layers_together_are_better(rng, below, sentence):
    curve = curve_of(line_of(rng, DROP))
    row = {"model": "net", "weights": "pretrained", "subset": "mean", "measure": "area"}
    row |= {"up_to": "logits", "alias": "pre_softmax", "depth": 0.75, "n_layers": 4}
    row |= {"n_features": 32, "metric": "r2", "score": 0.85, "score_low": 0.8, "score_high": 0.9}
    row |= {"best_layer": "b"}
    row |= dict(zip(("below", "below_low", "below_high"), below, strict=True))
    together = pd.DataFrame([row | {"up_to": "a", "n_layers": 1}, row])[COMBINED]
    found = replace(curve, combined=together)
    assert found.finding() == f"{curve.finding()} {sentence}"
    assert found.tables()["combined"] is together


# --- fewer images --------------------------------------------------------------------------------


def test_learning_table_goes_from_few_images_to_all(rng):
    few, draws = line_of(rng, [0.1, 0.2, 0.1, 0.1, 0.0], n_fit=7)
    whole = curve_of(
        line_of(rng, [0.3, 0.8, 0.5, 0.5, 0.1]),
        line_of(rng, [0.1, 0.1, 0.1, 0.1, 0.1], weights="random"),
        line_of(rng, [0.0, 0.0, 0.0, 0.0, 0.0], target="shuffled"),
    )
    curve = replace(whole, fewer=(Curve(few, draws, whole.points),))
    table = curve.learning()
    assert table.n_fit.tolist() == [7] * 5 + [28] * 5
    assert table.r2.tolist() == [0.1, 0.2, 0.1, 0.1, 0.0, 0.3, 0.8, 0.5, 0.5, 0.1]
    assert curve.fewer[0].evidence().n_fit == 7
    assert curve.learning_lines() == [
        "    7 training images: R² 0.20 at b (add_2), drops by 0.10 after b (add_2), 0.10 at "
        "logits (pre_softmax)",
        "   28 training images: R² 0.80 at b (add_2), drops by 0.30 after b (add_2), 0.50 at "
        "logits (pre_softmax)",
    ]
    assert whole.learning_lines() == []


# --- two networks --------------------------------------------------------------------------------


def test_networks_are_compared_image_by_image(rng):
    shared = np.expm1(0.2 * rng.normal(size=500))  # images of unlike spread

    def of(*r2):  # what is missed varies alike
        noise = (np.array(r2)[:, None] - 1) * shared + 0.001 * rng.normal(size=(5, 500))
        return curve_of(line_of(rng, r2, noise=noise))

    one, other = of(0.3, 0.8, 0.5, 0.5, 0.1), of(0.3, 0.4, 0.5, 0.75, 0.1)
    row = compare_curves(one, other).iloc[0]
    assert (row.layer, row.other_layer) == ("b", "logits")
    assert row.difference == pytest.approx(0.05)
    assert 0.02 < row.difference_low < 0.05 < row.difference_high < 0.1  # the noise is shared
    row = compare_curves(one, other, ("add_2", "c")).iloc[0]
    assert (row.layer, row.other_layer, row.difference) == ("b", "c", pytest.approx(0.3))


def test_curve_compared_with_itself_differs_by_nothing(rng):
    curve = curve_of(line_of(rng, DROP))
    row = compare_curves(curve, curve).iloc[0]
    assert row.difference == row.difference_low == row.difference_high == 0


SAME = (
    "so they cannot be compared image by image. Probe both networks with the same --data, "
    "--subset, --measure, --fit, --repeats and --seed, or use `scalecut compare`, which also takes "
    "independent runs."
)
MESSAGES = {
    "other images": (
        lambda curve: compare_curves(curve, with_facts(curve, images={"sha256": "other"})),
        f"The two runs have other images (same; other), {SAME}",
    ),
    "other splits": (
        lambda curve: compare_curves(curve, with_facts(curve, probe={"repeats": 5, "seed": 0})),
        f"The two runs have other splits (10 repeats, seed 0; 5 repeats, seed 0), {SAME}",
    ),
    "images that are not stated": (
        lambda curve: compare_curves(with_facts(curve, images={}), curve),
        f"The two runs have images that are not stated (none; same), {SAME}",
    ),
    "other target": (
        lambda curve: compare_curves(
            curve, replace(curve, table=curve.table.assign(measure="grade"))
        ),
        "The two runs have no target in common (area; grade). Probe both networks with the same "
        "--measure or --target.",
    ),
    "other regressor": (
        lambda curve: compare_curves(
            curve, replace(curve, table=curve.table.assign(regressor="ols"))
        ),
        "One run has ridge, the other ols, which cannot be compared. Probe both networks with the "
        "same --regressor.",
    ),
    "unknown layer": (
        lambda curve: compare_curves(curve, curve, ("b", "mixed8")),
        "The curve of net has no layer 'mixed8'. It has 4, from 'a' to 'logits'.",
    ),
    "unknown subset": (
        lambda curve: curve.evidence("cow"),
        "The curve has no subset 'cow'. It has mean.",
    ),
    "no predictions": (
        lambda curve: curve.predictions(),
        "This curve has no predictions, because it was read from a run. Read them with "
        "pandas.read_parquet(RUN / 'predictions.parquet').",
    ),
    "another network": (
        lambda curve: check_model(curve, Path("run"), "resnet50"),
        "The run 'run' is of net, not of resnet50. Give a run of resnet50, or the model net.",
    ),
}


def with_facts(curve, **facts):
    return replace(curve, provenance=PROVENANCE | facts)


@pytest.mark.parametrize("case", MESSAGES)
def test_message(case):
    call, message = MESSAGES[case]
    with pytest.raises(ScalecutError) as error:
        call(curve_of(line_of(np.random.default_rng(0), DROP)))
    assert str(error.value) == message


# --- the images ----------------------------------------------------------------------------------


def with_images(rng, folder):
    """A curve of three files and two pictures in memory, with boxes and predictions."""
    files = [folder / f"{number}.png" for number in range(3)]
    for file in files:
        pixels = rng.integers(0, 256, size=(30, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(file)
    pictures = [*files, np.zeros((10, 20, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)]
    images = make_image_set(pictures, rng.random(5), subset=[*"aabba"], group=[*"11223"])
    images = replace(images, boxes=np.arange(20.0).reshape(5, 4))
    curve = curve_of(line_of(rng, [0.3, 0.8, 0.795, 0.5, 0.1]))
    return replace(curve, image_set=images, predicted=rng.random((5, 5)))


def test_predictions_are_listed_by_layer_in_the_order_of_the_images(rng, tmp_path):
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


def test_table_of_images_has_their_files_sizes_and_boxes(rng, tmp_path):
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
    found = image_table(make_image_set([np.zeros((2, 2, 3), np.uint8)], [0.5]))
    assert found[["left", "top", "right", "bottom"]].isna().all(axis=None)


def test_files_that_need_a_rendering_have_their_jpeg_as_they_were_shown(rng, tmp_path, monkeypatch):
    curve = with_images(rng, tmp_path)
    deep = tmp_path / "deep.png"
    PIL.Image.fromarray(np.full((30, 40), 60_000, np.uint16)).save(deep)
    blue = Image("blue", tmp_path / "1.png", Rendering(channels=(3,)))
    bright = Image("deep", deep, Rendering(low=0.0, high=65_535.0))
    images = (*curve.image_set.images[:2], blue, bright, curve.image_set.images[-1])
    curve = replace(curve, image_set=replace(curve.image_set, images=images))
    curve.write_more(tmp_path)
    found = pd.read_parquet(tmp_path / "images.parquet")
    assert found.thumbnail[:2].isna().all()
    for row in (2, 3, 4):
        shown = np.asarray(PIL.Image.open(io.BytesIO(found.thumbnail[row])), np.float64)
        np.testing.assert_allclose(shown.mean(), np.asarray(images[row].decode()).mean(), atol=2)
    np.testing.assert_array_equal(
        found[["width", "height"]].iloc[2:], [[40, 30], [40, 30], [10, 20]]
    )
    assert np.ptp(np.asarray(PIL.Image.open(io.BytesIO(found.thumbnail[2]))), axis=2).max() < 9
    monkeypatch.setattr("scalecut.probing.curve.MOST_FETCHED", 1)
    curve.write_more(tmp_path)
    lengths = pd.read_parquet(tmp_path / "images.parquet").thumbnail.map(len, na_action="ignore")
    assert lengths[2:4].tolist() == [0, 0]  # of those in files, none is made
    assert lengths[4] > 0


def test_columns_of_the_images_are_not_taken_by_targets_of_their_names(rng, tmp_path):
    images = with_images(rng, tmp_path).image_set
    names = ("age", "width", "measure", "top", "thumbnail", "image", "height")
    first, *more = (Target(name, rng.random(5)) for name in names)
    found = image_table(images.asked([first, *more]))
    assert not found.columns.duplicated().any()
    alone = image_table(images.asked([first]))
    pd.testing.assert_frame_equal(found[[*alone]], alone)
    for target in more:
        np.testing.assert_array_equal(found[f"target_{target.name}"], target.values)
    plain = image_table(images.asked([first, Target("grade", more[0].values)]))
    assert [*plain.columns] == [*alone.columns[:5], "grade", *alone.columns[5:]]


# --- the run folder ------------------------------------------------------------------------------


def test_a_saved_curve_is_read_back(rng, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    (tmp_path / "images").mkdir()
    curve = with_images(rng, tmp_path / "images")
    few, draws = line_of(rng, [0.1, 0.2, 0.1, 0.1, 0.0], n_fit=7)
    skipped = [{"name": "a.jpg", "reason": "it is broken"}]
    curve = replace(
        curve,
        provenance=PROVENANCE | {"images_left_out": skipped},
        fewer=(Curve(few, draws, curve.points),),
    )
    for again in range(2):  # what was read can be saved again
        folder = curve.save(tmp_path / f"run{again}", command="scalecut probe net")
        names = {path.name for path in folder.iterdir()}
        assert {"run.json", "curve.csv", "differences.csv", "draws.npy", "report.html"} <= names
        assert ("learning.csv" in names) == ("predictions.parquet" in names) == (again == 0)
        read = read_curve(folder)
        assert read.finding() == curve.finding()
        assert (read.points, read.provenance["images_left_out"]) == (curve.points, skipped)
        pd.testing.assert_frame_equal(read.to_frame(), curve.to_frame(), atol=1e-6, rtol=0)
        np.testing.assert_array_equal(read.draws, curve.draws)
        curve = read
    file = folder / "curve.csv"  # an earlier version wrote R² alone
    earlier = [name for name in COLUMNS if name not in LATER]
    pd.read_csv(file, dtype=str)[earlier].to_csv(file, index=False)
    again = read_curve(folder).to_frame()
    assert (again.n_groups == again.n_images).all()
    pd.testing.assert_frame_equal(
        again.drop(columns="n_groups"), read.to_frame().drop(columns="n_groups")
    )


# --- few groups ----------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_draws_is_an_error_of_the_system(rng, tmp_path, small_files):
    curve = curve_of(line_of(rng, [0.3, 0.8, 0.7, 0.5, 0.1]))
    with small_files(4000), pytest.raises(OSError) as error:
        curve.write_more(tmp_path)
    assert error.value.errno == errno.EFBIG


def test_no_interval_is_stated_for_few_groups(rng, tmp_path):
    table, draws = line_of(rng, DROP, n_groups=8)
    ends = [f"{name}_{end}" for name in ("r2", "score", "learned") for end in ("low", "high")]
    curve = curve_of((table.assign(**dict.fromkeys(ends, np.nan)), draws))
    found = curve.evidence()
    assert found.is_shown  # by its p-value
    assert np.isnan([found.last_loss_low, found.last_loss_high, found.fall_low]).all()
    assert curve.differences()[["below_peak_low", "below_peak_high"]].isna().all(axis=None)
    said = curve.finding()
    assert "R² 0.80 (no interval), a gain over controls of 0.70 (no interval), which is" in said
    assert said.endswith(
        "28 training images; no interval holds with fewer than 12 groups of held-out images."
    )
    folder = curve.save(tmp_path / "run", command="scalecut probe net")  # with figures and page
    assert "no interval" in (folder / "report.html").read_text(encoding="utf-8")
    assert read_curve(folder).finding() == said


def test_finding_ends_with_the_intervals_of_refits(rng):
    refits = {"mean": {"r2": [0.6, 0.9], "last_r2": [0.2, 0.6], "last_loss": [0.1, 0.5]}}
    curve = curve_of(line_of(rng, DROP), refits=refits)
    assert curve.evidence().refits == refits["mean"]
    assert curve.finding().endswith(
        "28 training images. With other training images as well: R² [0.60, 0.90], a loss of 0.30 "
        "to logits (pre_softmax) [0.10, 0.50]."
    )
