"""A network whose layers are set by hand: what each encodes of a disc is known beforehand."""

from collections import OrderedDict
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from scalecut import (
    Computation,
    DataError,
    Fitting,
    LayerError,
    ProbePoint,
    Reading,
    load_network,
    make_image_set,
    probe,
)
from scalecut.data.images import LeftOut
from scalecut.probing import refits
from scalecut.probing.curve import read_curve
from scalecut.probing.scores import Features, draw_parts, score
from scalecut.report.curve import COLUMNS
from scalecut.stats.ridge import PENALTIES
from tests.builders import AS_IT_IS, SIDE, discs

LAYERS = ["look", "mix", "area", "kept", "colour", "pooled", "logits", "softmax"]
OF_COLOUR = ["look", "mix", "colour", "pooled", "logits", "softmax"]  # they encode only the colour
QUICK = {"repeats": 3, "random_networks": 1, "permutations": 20}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test sees features of another, nor of the user."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planted_network():
    """Layers that hold colour, colour, area, area, and colour again."""
    network = nn.Sequential(
        OrderedDict(
            look=nn.Conv2d(3, 3, 1),
            mix=nn.Conv2d(3, 2, 1),
            contrast=nn.Conv2d(2, 3, 3),
            area=nn.ReLU(),
            carry=nn.Conv2d(3, 3, 1),
            kept=nn.ReLU(),
            forget=nn.Conv2d(3, 2, 1),
            colour=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(2, 3),
        )
    )
    edges = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.look.weight[:, :, 0, 0] = torch.eye(3)
        network.mix.weight[:, :, 0, 0] = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]]) / 3
        network.contrast.weight[0, 0], network.contrast.weight[1, 0] = edges, -edges
        network.contrast.weight[2, 1, 1, 1] = 1.0  # the colour, beside the two contrasts
        network.carry.weight[:, :, 0, 0] = torch.eye(3)
        network.forget.weight[:, 2, 0, 0] = torch.tensor([1.0, 2.0])
        network.head.weight[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -1.0]])
    return network


def probed(images, module=None, *, weights="pretrained", allow_partial=False, **settings):
    """A quick probe at the size of the discs; settings are those of the verb and its options."""
    network = load_network(
        module or planted_network(),
        weights=weights,
        allow_partial=allow_partial,
        preprocessing=AS_IT_IS,
    )
    settings = {"precision": "float32", **QUICK, **settings}
    options = {
        name: kind(**{f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings})
        for name, kind in (("reading", Reading), ("computation", Computation), ("fitting", Fitting))
    }
    return probe(network, images, **options, **settings)


@cache
def curve_of_discs(seed=0, n=30):
    """Probed once for all tests that only read it."""
    return probed(discs(n, seed))


@cache
def curve_of_two_subsets():
    return probed(discs(70, subset=["cat"] * 30 + ["dog"] * 40))


def by_layer(curve, **line):
    return curve.scores(**line).set_index("layer").r2


# --- the planted network -------------------------------------------------------------------------


def test_the_rise_and_the_drop_are_found_where_they_were_planted():
    curve = curve_of_discs(n=100)
    for regressor in ("ridge", "ols"):
        r2 = by_layer(curve, regressor=regressor)
        assert list(r2.index) == LAYERS
        assert r2[["area", "kept"]].min() > 0.9
        assert r2[OF_COLOUR].max() < 0.25
    said = curve.finding()
    assert said.startswith(
        "Sequential encodes object scale best at area (95 % set: area to kept): "
    )
    assert "; it drops after kept, and logits (pre_softmax) has " in said
    predicted = curve.predictions().dropna()
    assert list(dict.fromkeys(predicted.layer)) == LAYERS
    correlated = {
        name: np.corrcoef(rows.measure, rows.predicted)[0, 1]
        for name, rows in predicted.groupby("layer")
    }
    assert min(correlated["area"], correlated["kept"]) > 0.95
    assert max(correlated[name] for name in OF_COLOUR) < 0.5


def test_controls_are_probed_too_and_none_of_them_finds_the_measure():
    curve = curve_of_discs(n=100)
    table = curve.to_frame()
    lines = set(table[["weights", "target", "regressor"]].itertuples(index=False, name=None))
    assert lines == {
        (weights, target, regressor)
        for weights in ("pretrained", "random", "pixels")
        for target in ("true", "shuffled")
        for regressor in ("ridge", "ols")
    }
    assert table[table.target == "shuffled"].r2.max() <= 0.05
    assert table[(table.target == "shuffled") & (table.regressor == "ridge")].r2.min() > -0.3
    at_random = by_layer(curve, weights="random")
    assert list(at_random.index) == LAYERS
    assert by_layer(curve)["area"] - at_random["area"] > 0.5


def test_random_rows_are_those_of_random_weights_probed_by_themselves():
    table = curve_of_discs().to_frame()
    of_control = table[table.weights == "random"].reset_index(drop=True)
    alone = probed(discs(30), weights="random", controls=["shuffled"]).to_frame()
    pd.testing.assert_frame_equal(alone, of_control)


def test_each_random_network_has_its_own_seed():
    curve = probed(discs(30), random_networks=2, controls=["random"])
    assert (curve.scores(weights="random").r2_spread > 0).any()
    assert {"random control 1", "random control 2"} <= set(curve.provenance["stages"])


def test_permuted_weights_are_a_control_of_their_own():
    curve = probed(discs(50), controls=["permuted"])
    assert set(curve.table.weights) == {"pretrained", "permuted"}
    assert list(by_layer(curve, weights="permuted").index) == LAYERS
    # the gain is over random networks and pixels; here there are none
    assert curve.table.learned.isna().all()


def bright_disc(rng):
    """A white disc on black: any network that averages encodes its size, trained or not."""
    radius = rng.uniform(3, 9)
    x, y = rng.uniform(radius + 2, SIDE - radius - 2, size=2)
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = (down - y) ** 2 + (across - x) ** 2 < radius**2
    return np.repeat(255 * inside[..., None], 3, axis=2).astype(np.uint8), inside.mean()


def untrained_network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 8, 3),
            act=nn.ReLU(),
            second=nn.Conv2d(8, 8, 3),
            act2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(8, 3),
        )
    )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_untrained_network_encodes_bright_discs_without_a_gain_over_controls(seed):
    rng = np.random.default_rng(seed)
    pictures, areas = zip(*(bright_disc(rng) for _ in range(60)), strict=True)
    images = make_image_set(pictures, areas, subset="disc", measure_name="area")
    rows = probed(images, untrained_network(seed), random_networks=3).scores()
    rows = rows[rows.layer != "softmax"]
    assert rows.r2.min() > 0.9
    assert rows.p_value.max() < 0.05
    assert rows.learned.max() < 0.002  # of an R² near 1
    assert (rows.learned_low <= 0).all()


def test_width_and_learning_curve_are_optional():
    curve = probed(discs(100), match_width=2, learning_curve=True, controls=[])
    assert set(curve.table.regressor) == {"ridge", "ols", "matched"}
    assert curve.scores(regressor="matched").n_features.max() == 2
    assert by_layer(curve, regressor="matched")["look"] < 0.3
    assert curve.learning().n_fit.unique().tolist() == [17, 35, 70]  # 8 would be too few
    assert [each.evidence().peak in ("area", "kept") for each in curve.fewer] == [True, True]


def test_layer_that_multiplies_by_zero_scores_as_the_mean():
    network = planted_network()
    network.forget.weight.data.zero_()
    curve = probed(discs(50), network)
    for target in ("true", "shuffled"):
        for regressor in ("ridge", "ols"):
            r2 = by_layer(curve, target=target, regressor=regressor)["colour":"softmax"]
            assert r2.nunique() == 1, "with nothing to go by, only the mean is left"
            assert -0.3 < r2.iloc[0] <= 0
    assert by_layer(curve)["kept"] > 0.9


def test_the_network_is_left_unchanged():
    network = planted_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probed(discs(30), network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network)


def test_layers_can_be_chosen_by_name_alias_and_glob():
    curve = probed(discs(30), layers=["pre_softmax", "k*", "contrast"])
    assert list(by_layer(curve).index) == ["contrast", "kept", "logits"]
    with pytest.raises(LayerError) as error:
        probed(discs(30), layers=["areas"])
    assert str(error.value) == (
        "No layer is named 'areas'. Near it: area; `scalecut layers MODEL` prints all 8."
    )


# --- the frame -----------------------------------------------------------------------------------


def test_frame_has_the_columns_of_curve_csv_and_a_row_per_combination():
    curve = curve_of_two_subsets()
    table = curve.to_frame()
    assert list(table.columns) == COLUMNS
    assert " ".join(COLUMNS) == (
        "model subset measure layer alias depth n_features n_images weights target regressor "
        "r2 r2_low r2_high p_value seed_count n_fit r2_spread learned learned_low learned_high "
        "metric score score_low score_high n_groups"
    )  # the table of the design, and what is beyond it
    named = ["subset", "layer", "weights", "target", "regressor"]
    assert not table.duplicated(named).any()
    assert len(table) == 3 * (2 * len(LAYERS) + 1) * 2 * 2  # the pixels are no layer
    assert set(table.model) == {"Sequential"}
    assert set(table.measure) == {"area"}
    assert set(table.seed_count) == {3}
    assert table[table.target == "true"].p_value.between(1 / 21, 1).all()
    assert (table.r2_low <= table.r2_high).all()
    assert table[["r2", "r2_low", "r2_high"]].notna().all(axis=None)
    assert set(table.metric) == {"r2"}
    for end in ("", "_low", "_high"):
        assert (table[f"score{end}"] == table[f"r2{end}"]).all()
    one_line = curve.scores()
    np.testing.assert_allclose(one_line.depth, np.linspace(0, 1, len(LAYERS)))
    assert list(one_line.n_features) == [3, 2, 3, 3, 2, 2, 3, 3]
    assert list(one_line.alias) == [""] * 6 + ["pre_softmax", "softmax"]


def test_row_of_the_mean_is_the_mean_of_the_subsets():
    table = curve_of_two_subsets().to_frame()
    named = ["layer", "weights", "target", "regressor"]
    by_subset = table.set_index(["subset", *named]).unstack("subset")
    cat, dog, mean = (by_subset.xs(s, axis=1, level="subset") for s in ("cat", "dog", "mean"))
    np.testing.assert_allclose(mean.r2.astype(float), (cat.r2 + dog.r2) / 2, rtol=1e-12)
    assert set(cat.n_images) == {30} and set(dog.n_images) == {40} and set(mean.n_images) == {70}
    widths = [each.r2 - each.r2_low for each in (cat, dog, mean)]  # above, they end at 1
    assert (widths[2] < np.maximum(widths[0], widths[1])).all()


def test_mean_of_one_subset_is_that_subset_and_frames_are_copies():
    table = curve_of_discs().to_frame()
    one, mean = (
        table[table.subset == subset].reset_index(drop=True) for subset in ("disc", "mean")
    )
    pd.testing.assert_frame_equal(one.drop(columns="subset"), mean.drop(columns="subset"))
    table["r2"] = 0.5
    assert (curve_of_discs().to_frame().r2 != 0.5).all()


def test_same_seed_gives_the_same_frame_from_the_cache_or_not(tmp_path, monkeypatch):
    images = discs(30)
    first, again = probed(images), probed(images)
    assert first.provenance["stages"]["features"]["images_computed"] == 30
    assert again.provenance["stages"]["features"]["images_computed"] == 0
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "another"))
    pd.testing.assert_frame_equal(again.to_frame(), first.to_frame(), check_exact=True)
    pd.testing.assert_frame_equal(probed(images).to_frame(), first.to_frame(), check_exact=True)


def test_another_seed_gives_other_splits_and_another_random_network():
    here, there = curve_of_discs(), probed(discs(30), seed=1)
    assert (by_layer(here) != by_layer(there)).all()
    assert (by_layer(here, weights="random") != by_layer(there, weights="random")).all()


def test_regressors_and_controls_are_those_asked_for():
    bare = probed(discs(30), regressor=["ols"], controls=["none"]).to_frame()
    kinds = bare[["regressor", "weights", "target"]].drop_duplicates().to_numpy().tolist()
    assert kinds == [["ols", "pretrained", "true"]]
    assert set(probed(discs(30), weights="random").table.weights) == {"random", "pixels"}


def test_progress_is_reported_to_its_end():
    seen = {}
    probed(discs(30), progress=lambda stage, done, total: seen.update({stage: (done, total)}))
    n_jobs = 2 * len(LAYERS) + 1
    stages = ("features", "random control", "pixels")
    fits = {"regression": (n_jobs, n_jobs), "layers together": (3, 3)}  # splits
    assert seen == dict.fromkeys(stages, (30, 30)) | fits


# --- splits and groups ---------------------------------------------------------------------------

POINT = ProbePoint("layer", "", 0.0, "layer", "output", channels=1)


def table_of(images, matrix, *, repeats=5, regressors=("ridge",), shuffled=False, seed=0):
    parts = draw_parts(images, repeats, seed, shuffled=shuffled)
    features = {"pretrained": Features((POINT,), ({"layer": matrix.astype(np.float32)},))}
    return parts, score(parts, features, regressors).table


def measured(measure, **settings):
    """Images that are never read, with these measures."""
    return make_image_set([np.zeros((2, 2, 3), np.uint8)] * len(measure), measure, **settings)


def test_groups_are_never_in_both_parts_of_a_split(rng):
    groups = rng.integers(0, 25, size=120)
    images = measured(rng.normal(size=120), group=[f"slide {g}" for g in groups])
    (part,) = draw_parts(images, 10, 7, shuffled=False)
    for held_out in part.is_held_out:
        assert not set(groups[held_out]) & set(groups[~held_out])
        assert len(set(groups[held_out])) / len(set(groups)) == pytest.approx(0.3, abs=0.05)
    (part,) = draw_parts(measured(rng.normal(size=100)), 10, 7, shuffled=False)  # groups of one
    np.testing.assert_array_equal(part.is_held_out.sum(axis=1), 30)
    assert len({tuple(held_out) for held_out in part.is_held_out}) == 10


def test_splits_do_not_depend_on_the_controls_or_the_other_subsets(rng):
    measure, names = rng.normal(size=90), np.repeat(["cat", "dog", "horse"], 30)
    patients = [f"{name} {number:02}" for name in ("cat", "dog", "horse") for number in range(30)]
    images = measured(measure, subset=list(names), group=patients)
    alone = measured(measure[names == "dog"], subset=["dog"] * 30, group=patients[30:60])
    among_all = draw_parts(images, 5, 7, shuffled=False)[1]
    for part in (
        draw_parts(images, 5, 7, shuffled=True)[1],
        *draw_parts(alone, 5, 7, shuffled=True),
    ):
        np.testing.assert_array_equal(part.is_held_out, among_all.is_held_out)
        np.testing.assert_array_equal(part.counts, among_all.counts)
    cat, dog, horse = draw_parts(images, 5, 7, shuffled=False)
    assert not np.array_equal(cat.is_held_out, dog.is_held_out)
    assert not np.array_equal(dog.is_held_out, horse.is_held_out)


def test_measure_is_shuffled_anew_in_each_repeat_and_else_kept(rng):
    images = measured(rng.normal(size=60))
    (part,) = draw_parts(images, 4, 7, shuffled=True)
    np.testing.assert_array_equal(part.targets["true"], np.tile(images.measure, (4, 1)))
    for shuffled in part.targets["shuffled"]:
        np.testing.assert_array_equal(np.sort(shuffled), np.sort(images.measure))
    assert len({tuple(shuffled) for shuffled in part.targets["shuffled"]}) == 4


def test_leak_through_groups_is_found_only_if_groups_are_not_given(rng):
    of = np.repeat(np.arange(30), 5)
    fingerprints = rng.normal(size=(30, 40))[of]  # of the group, not of the size
    measure = rng.normal(size=30)[of] + 0.1 * rng.normal(size=150)
    grouped = measured(measure, group=list(of))
    separate = measured(measure, group=list(range(150)))
    # with a penalty chosen image by image inside the training part it would be below -1.5
    assert table_of(grouped, fingerprints)[1].r2.between(-1.0, 0.1).all()
    assert table_of(separate, fingerprints)[1].r2.min() > 0.6


def test_scores_equal_those_of_scikit_learn_on_the_same_splits(rng):
    matrix = rng.normal(size=(90, 12)).astype(np.float32)
    images = measured(matrix @ rng.normal(size=12) + 2.0 * rng.normal(size=90), group=range(90))
    (part,), table = table_of(images, matrix, regressors=("ridge", "ols"), shuffled=True)
    X = matrix.astype(np.float64)
    theirs = {
        "ridge": make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES)),
        "ols": LinearRegression(),
    }
    for row in table.itertuples():
        scores = []
        for y, out in zip(part.targets[row.target], part.is_held_out, strict=True):
            predicted = theirs[row.regressor].fit(X[~out], y[~out]).predict(X[out])
            scores.append(r2_score(y[out], predicted))
        assert row.r2 == pytest.approx(np.mean(scores), abs=1e-8)


# --- errors --------------------------------------------------------------------------------------


def message(error, images=None, **settings):
    with pytest.raises(error) as raised:
        probed(discs(30) if images is None else images, **settings)
    return str(raised.value)


def with_measure(change):
    """Thirty discs with another measure."""
    measure = discs(30).measure.copy()
    return replace(discs(30), measure=change(measure))


def with_one(value, of=None):
    def change(measure):
        measure = measure if of is None else np.full(30, of)
        measure[7] = value
        return measure

    return with_measure(change)


LEAST = "must be at least"
MESSAGES = {
    "none": ({"regressor": []}, "--regressor is empty. Give one or more of ridge, ols."),
    "networks": ({"random_networks": 0}, f"--random-networks {LEAST} 1, got 0."),
    "more networks": ({"random_networks": 33}, "--random-networks must be at most 32, got 33."),
    "repeats": ({"repeats": 0}, f"--repeats {LEAST} 1, got 0."),
    "permutations": ({"permutations": -1}, f"--permutations {LEAST} 0, got -1."),
    "few permutations": (
        {"permutations": 18},
        "With 18 permutations no p-value can be below 0.053. Give 0 for none, or 1000.",
    ),
    "width": ({"match_width": -3}, f"--match-width {LEAST} 0, got -3."),
    "few images": (
        {"images": discs(50, subset=["many"] * 31 + ["few"] * 19), "subset": ["many", "few"]},
        "Subset 'few' needs at least 20 images for training and testing, got 19. ",
    ),
    "one image": (
        {"images": discs(50, subset=["many"] * 49 + ["few"]), "subset": ["few"]},
        "Subset 'few' needs at least 20 images for training and testing, got 1. ",
    ),
    "few groups": (
        {"images": discs(30, group=list(np.arange(30) % 3))},
        "Subset 'disc' needs images of at least 4 groups, ",
    ),
    "not finite": (
        {"images": with_one(np.nan)},
        "1 of 30 images of 'disc' have a measure that is not finite, ",
    ),
    "constant": (
        {"images": with_measure(lambda measure: np.full(30, 0.25))},
        "All 30 images of 'disc' have the same measure, 0.25, so nothing can be regressed on it. ",
    ),
    "constant in splits": (
        {"images": with_one(0.5, of=0.25)},
        "The true measure is constant in the training or test images of 3 of 3 splits of 'disc', "
        "so R² is undefined. Give more images whose objects differ in size.",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_message(case):
    settings, start = MESSAGES[case]
    assert message(DataError, **settings).startswith(start)


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("regressor", "lasso", "No regressor is named 'lasso'. Give one or more of ridge, ols."),
        (
            "controls",
            "masks",
            "No control is named 'masks'. Give one or more of random, permuted, pixels, shuffled, "
            "none.",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(name, given, text):
    fitting = Fitting()
    object.__setattr__(fitting, name, [given])  # types are checked in tests only
    with pytest.raises(DataError) as error:
        fitting.__post_init__()
    assert str(error.value) == text


def test_subsets_that_are_too_small_and_were_not_asked_for_are_skipped_and_named():
    curve = probed(discs(50, subset=["many"] * 31 + ["few"] * 19))
    assert set(curve.to_frame().subset) == {"many", "mean"}
    (skipped,) = curve.provenance["images_left_out"]
    assert skipped.name == "few"


def with_a_broken_file(folder):
    """Thirty discs in files, one of which is truncated."""
    whole = discs(30)
    for number, image in enumerate(whole.images):
        image.decode().save(folder / f"{number}.png")
    broken = folder / "7.png"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    files = [folder / f"{number}.png" for number in range(30)]
    return make_image_set(files, whole.measure, subset="disc", measure_name="area"), broken


def test_truncated_image_is_skipped_and_named_or_an_error_if_strict(tmp_path):
    images, broken = with_a_broken_file(tmp_path)
    before = LeftOut("earlier", "it was skipped when the images were read")
    curve = probed(replace(images, left_out=(before,)))
    skipped = curve.provenance["images_left_out"]
    assert skipped[0] == before
    assert [item.name for item in skipped[1:]] == [str(broken)]
    assert set(curve.to_frame().n_images) == {29}
    rest = images.rows(np.arange(30) != 7)
    pd.testing.assert_frame_equal(probed(rest).to_frame(), curve.to_frame(), check_exact=True)
    said = message(DataError, images, strict=True)
    assert said.startswith(f"{broken}: ") and said.endswith(" Fix or remove it, or drop --strict.")


def test_strict_refuses_what_is_assumed_of_the_network():
    known = load_network(planted_network(), preprocessing=AS_IT_IS)
    guessed = replace(known, unknown=("mean",))
    with pytest.raises(DataError) as raised:
        probe(guessed, discs(30), reading=Reading(strict=True))
    assert str(raised.value) == (
        f"Assumed: {known.name} does not say how images are shown to it; taken: the mean of "
        "ImageNet (--mean) (--strict assumes nothing; if it is right, give the options named)."
    )


# --- incomplete weights --------------------------------------------------------------------------


def state_without(tmp_path, *names):
    state = planted_network().state_dict()
    torch.save({name: state[name] for name in state if name not in names}, tmp_path / "some.pt")
    return tmp_path / "some.pt"


def test_layers_that_need_a_missing_tensor_are_skipped_with_the_reason(tmp_path):
    weights = state_without(tmp_path, "carry.weight", "forget.bias")
    curve = probed(discs(40), weights=weights, allow_partial=True)
    assert list(by_layer(curve).index) == ["look", "mix", "area"]
    reason = "depends on 'carry.weight', one of 2 tensors missing from the weights"
    ruined = ["kept", "colour", "pooled", "logits (pre_softmax)", "softmax"]
    assert curve.provenance["layers_left_out"] == tuple(LeftOut(layer, reason) for layer in ruined)


def test_layers_before_a_missing_tensor_score_as_in_the_whole_network(tmp_path):
    images = discs(30)
    weights = state_without(tmp_path, "carry.bias")
    some = probed(images, weights=weights, allow_partial=True).to_frame()
    whole = curve_of_discs().to_frame()
    here = whole[whole.layer.isin(["look", "mix", "area", "pixels"])].reset_index(drop=True)
    # p-values are corrected over the layers that there are
    some, here = (table.drop(columns="p_value") for table in (some, here))
    pd.testing.assert_frame_equal(some, here, check_exact=True)


def test_complete_weights_skip_nothing(tmp_path):
    images = discs(30)
    from_file = probed(images, weights=state_without(tmp_path))
    assert from_file.provenance["layers_left_out"] == ()
    pd.testing.assert_frame_equal(
        from_file.to_frame(), curve_of_discs().to_frame(), check_exact=True
    )


# --- the curve -----------------------------------------------------------------------------------


def test_plot_gives_a_figure_of_the_subset_asked_for():
    curve = curve_of_two_subsets()
    for subset in ("mean", "cat"):
        figure = curve.plot(subset=subset)
        assert isinstance(figure, Figure)
        drawn = [line.get_ydata() for axes in figure.axes for line in axes.get_lines()]
        expected = curve.scores(subset=subset).r2
        assert any(len(y) == len(expected) and np.allclose(y, expected) for y in drawn)


def test_what_the_curve_was_computed_from_is_recorded():
    facts = curve_of_discs().provenance
    assert facts["images"]["n_by_subset"] == {"disc": 30}
    assert facts["computed"]["precision"] == "float32"
    assert facts["settings"]["repeats"] == facts["probe"]["repeats"] == 3
    other = replace(discs(30), measure=discs(30).measure + 1e-12)
    assert probed(other).provenance["images"]["sha256"] != facts["images"]["sha256"]


def test_12_bits_give_the_curve_of_the_same_images_stretched_to_8_by_hand(tmp_path):
    """As of a fluorescence microscope: dim values above an offset, in files of 16 bits."""
    images = discs(60)
    shown = [np.asarray(image.decode()) for image in images.images]
    deep = [200 + 13 * each[..., 0].astype(np.uint16) for each in shown]
    low, high = min(map(np.min, deep)), max(map(np.max, deep))
    files = {"deep": [], "hand": []}
    for number, values in enumerate(deep):
        files["deep"].append(tmp_path / f"{number}.tif")
        tifffile.imwrite(files["deep"][-1], values)
        files["hand"].append(tmp_path / f"{number}.png")
        by_hand = np.rint((values.astype(float) - low) / (high - low) * 255).astype(np.uint8)
        PIL.Image.fromarray(by_hand).save(files["hand"][-1])
    curves = {
        name: probed(make_image_set(each, images.measure, subset="disc")).to_frame()
        for name, each in files.items()
    }
    keys = ["layer", "weights", "target", "regressor"]
    ours, theirs = (curves[name].set_index(keys).r2 for name in ("deep", "hand"))
    ridge = (ours.index.get_level_values("regressor") == "ridge") & (ours > 0)
    np.testing.assert_allclose(ours[ridge], theirs[ridge], atol=0.02)
    trained = ours.xs(("pretrained", "true", "ridge"), level=keys[1:])
    assert trained.max() > 0.5
    assert trained.idxmax() == theirs.xs(("pretrained", "true", "ridge"), level=keys[1:]).idxmax()


# --- refits --------------------------------------------------------------------------------------


def test_intervals_with_refits_are_kept_in_the_run_and_stated(tmp_path, monkeypatch):
    monkeypatch.setattr(refits, "DRAWS", 20)
    curve = probed(
        discs(40), layers=["area", "logits"], controls=["pixels"], permutations=0, intervals="refit"
    )
    found = curve.evidence()
    assert set(found.refits) == {"r2", "last_r2", "last_loss", "learned"}
    for name in ("r2", "last_r2", "last_loss", "learned"):
        low, high = found.refits[name]
        assert low <= getattr(found, name) <= high
    assert " With other training images as well: R² [" in curve.finding()
    assert read_curve(curve.save(tmp_path / "run")).finding() == curve.finding()
