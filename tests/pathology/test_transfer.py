"""Networks that are built to lose the size of bright discs, or to keep it, on drawn patches."""

import copy
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score, recall_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler
from torch import nn

from scalecut import DataError, LayerError, Preprocessing, ScalecutError, load_network
from scalecut.data.contact import SHEET
from scalecut.data.images import make_image_set
from scalecut.features.extract import Computation, Stages, extract_features
from scalecut.networks.network import tensors_sha256
from scalecut.networks.points import LOGITS, SOFTMAX
from scalecut.networks.selection import chosen_points
from scalecut.networks.truncation import output_at
from scalecut.paper import published
from scalecut.paper.tables import with_the_paper
from scalecut.pathology.comparison import (
    METRICS,
    Difference,
    compare,
    detectable,
    metrics,
    sentence,
    tile_metrics,
)
from scalecut.pathology.finetune import Training
from scalecut.pathology.methods import (
    NAMES,
    Source,
    Trial,
    in_blocks,
    planned,
    repeated_ridge,
    reset_after,
    task_of,
)
from scalecut.pathology.patches import COLUMNS as PATCH_COLUMNS
from scalecut.pathology.patches import Blur, Patches
from scalecut.pathology.transfer import ALL, COLUMNS, CutPoint, point_of, read_transfer, transfer
from scalecut.runs import read_run
from scalecut.stats.ridge import PENALTIES, decompose, nested_ridge
from tests.probing.test_curve import curve_of, line_of

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
AREAS = {10.0: 30.0, 20.0: 90.0, 40.0: 250.0}  # px, by magnification
N_TILES = {"train": 6, "validation": 1, "test": 6}
EACH = 3  # patches of a tile and magnification
EXACTLY = Computation(precision="float32")
CUT = "blocks.0"
SECONDARY_ALONE = (
    "All of this is secondary: the blur is not matched, so sharpness alone may reveal the "
    "magnification (scalecut patches --match-blur)."
)


class Block(nn.Module):
    """A residual block that keeps colours apart and drops some of them."""

    def __init__(self, kept):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1, groups=3)
        nn.init.normal_(self.conv.weight, std=0.1)
        self.register_buffer("kept", torch.tensor(kept).view(1, 3, 1, 1))

    def forward(self, x):
        return (x + self.conv(self.norm(x))) * self.kept


class Planted(nn.Module):
    """The mean of red encodes the disc: brightness times area."""

    def __init__(self, kept):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.stem.weight)
        self.blocks = nn.Sequential(Block((1.0, 1.0, 1.0)), Block(kept), Block(kept))
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def network(*kept):
    """The whole network; `kept` are the factors of red, green and blue from the second block on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load_network(Planted(kept), preprocessing=Preprocessing(SIDE, SIDE))


@pytest.fixture(scope="module")
def losing():
    return network(0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def keeping():
    return network(1.0, 1.0, 1.0)


def disc(area, rng):
    """A red disc on a ground of any green and blue; how many pixels it has."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-1, 1, size=(2, 1, 1))
    inside = x**2 + y**2 <= area / np.pi
    pixels = np.zeros((SIDE, SIDE, 3))
    pixels[..., 0] = inside * rng.uniform(180, 255)
    pixels[..., 1:] = rng.uniform(0, 200, size=2)
    return pixels.astype(np.uint8), int(inside.sum())


def draw(folder, seed=0):
    """Patches as `patches.cut_patches` gives them, in the folder."""
    rng, rows = np.random.default_rng(seed), []
    (folder / "patches").mkdir(parents=True)
    for part, n_tiles in N_TILES.items():
        for number in range(n_tiles):
            tile, size = f"{part}{number}", rng.normal(0, 0.2)
            for magnification, typical in AREAS.items():
                for each in range(EACH):
                    pixels, area = disc(typical * np.exp(size + rng.normal(0, 0.1)), rng)
                    name = f"patches/{tile}-{magnification:g}-{each}.png"
                    PIL.Image.fromarray(pixels).save(folder / name)
                    place = (name, tile, f"patient-{tile}", part, magnification, 0, 0)
                    rows.append((*place, 1, float(area), float(area), np.nan, 10 / magnification))
    return Patches(pd.DataFrame(rows, columns=list(PATCH_COLUMNS)), folder)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Patches that are only read."""
    return draw(tmp_path_factory.mktemp("drawn"))


def compared(whole, patches, *methods, at=CUT, curve=None, seed=0, seeds=4, **trial):
    cut = CutPoint(at, curve)
    asked = Trial(methods=methods, seeds=seeds, **trial)
    return transfer(whole, patches, trial=asked, cut=cut, computation=EXACTLY, seed=seed)


def difference(found, metric, other="pretrained"):
    rows = found.differences
    (row,) = rows[(rows.metric == metric) & (rows.other == other)].to_dict("records")
    return Difference(**row)


# --- findings ---------------------------------------------------------------------------------


def test_cut_before_size_is_lost_is_better_than_the_whole_network(losing, drawn):
    found = compared(losing, drawn, "pretrained", "cut", seeds=10)
    for metric in METRICS:
        assert difference(found, metric).is_shown, metric
        assert difference(found, metric).low > 0
    assert re.fullmatch(
        r"cut at blocks\.0 beats pretrained by 0\.\d\d kappa \[0\.\d\d, [01]\.\d\d\], "
        r"10 of 10 seeds\. " + re.escape(SECONDARY_ALONE),
        found.finding(),
    )
    scores = found.scores().set_index("contestant")
    assert scores.kappa["cut"] > 0.8
    assert scores.kappa["pretrained"] < 0.4


def test_cut_of_a_network_that_keeps_size_is_no_evidence(keeping, drawn):
    found = compared(keeping, drawn, "pretrained", "cut", seeds=10)
    for metric in ("kappa", "kappa_quadratic"):
        assert not difference(found, metric).is_shown, metric
    for metric in ("mae", "octaves"):  # the same but for rounding
        assert abs(difference(found, metric).better) < 1e-3
    assert found.finding().startswith("No evidence that cut at blocks.0 differs from pretrained:")
    assert found.scores().kappa.min() > 0.8


def test_magnification_is_predicted_in_octaves(losing, drawn):
    found = compared(losing, drawn, "pretrained", "cut", task="magnification")
    np.testing.assert_allclose(found.predicted.held.centres, [np.log2(each) for each in AREAS])
    assert difference(found, "octaves").is_shown
    assert set(found.table.task) == {"magnification"}


def test_finding_is_in_errors_where_there_is_no_kappa(losing, drawn):
    found = compared(losing, drawn, "pretrained", "cut", seeds=2)
    table = found.differences
    unknown = table.assign(**{name: table[name].mask(table.metric == "kappa")
                              for name in ("better", "low", "high")})  # fmt: skip
    said = replace(found, differences=unknown).finding()
    assert "kappa" in found.finding()
    assert "mean absolute error" in said
    assert "nan" not in said


def test_finding_is_the_sentences_about_the_cut(losing, drawn):
    found = compared(losing, drawn, "pretrained", "scratch", "cut", "all-layers")
    two = [difference(found, "kappa", other) for other in ("pretrained", "scratch")]
    said = [sentence(each, found.provenance["layers"]) for each in two]
    assert found.finding() == f"{said[0]} {said[1]} {SECONDARY_ALONE}"
    pairs = list(zip(found.differences.contestant, found.differences.other, strict=True))
    assert pairs == 5 * [("cut", "pretrained"), ("cut", "scratch"), ("all-layers", "cut")]
    assert set(found.differences.role) == {"secondary"}
    assert found.differences.detectable.isna().all()


def test_cut_against_whole_with_matched_blur_is_first_and_corrected_for_no_other(losing, drawn):
    names = "pretrained", "scratch", "cut", "all-layers"
    matched = compared(losing, replace(drawn, blur=Blur(1.0, 1.3)), *names)
    rows = matched.differences
    primary = rows[rows.role == "primary"].to_dict("records")
    assert [(row["contestant"], row["other"], row["metric"]) for row in primary] == [
        ("cut", "pretrained", "kappa")
    ]
    predictions, held = matched.predicted.predictions, matched.predicted.held
    for pairs, own in (
        ([("cut", "pretrained")], rows[rows.role == "primary"]),
        ([("cut", "scratch"), ("all-layers", "cut")], rows[rows.role == "secondary"]),
    ):
        alone = compare(predictions, pairs, held, np.random.default_rng(0), "kappa")
        own = own[own.metric == "kappa"]
        assert list(own.p_value) == [each.p_value for each in alone]
    shown = primary[0]["detectable"]
    assert (
        0
        < shown
        == detectable(predictions, ("cut", "pretrained"), held, np.random.default_rng(0), "kappa")
    )
    first, second = (sentence(difference(matched, "kappa", other), matched.provenance["layers"])
                     for other in ("pretrained", "scratch"))  # fmt: skip
    assert matched.finding() == (
        f"With 6 test patients, a difference of {shown:.2f} kappa can be shown (power of 80 %). "
        f"Primary: {first} Secondary: {second}"
    )
    without = compared(losing, replace(drawn, blur=Blur(1.0, 1.3)), "scratch", "cut")
    assert "secondary" not in without.finding()


# --- each patient left out once ------------------------------------------------------------------


@pytest.fixture(scope="module")
def left_out(losing, drawn):
    names = "pretrained", "cut", "cut-random", "all-layers", "tuned"
    return compared(losing, drawn, *names, leave_one_out=True)


def by_scikit_learn(blocks, target, groups):
    """Predictions of each group, and the penalty by an inner loop over the others."""
    predicted = np.empty(len(target))
    for train, test in LeaveOneGroupOut().split(target, groups=groups):
        scaled = [StandardScaler().fit(block[train]) for block in blocks]
        X = np.hstack(
            [s.transform(b) / b.shape[1] ** 0.5 for s, b in zip(scaled, blocks, strict=True)]
        )
        width = np.mean([block.shape[1] for block in blocks])  # a penalty is that of one block
        errors = []
        for penalty in PENALTIES / width:
            inner = LeaveOneGroupOut().split(train, groups=groups[train])
            left = [
                Ridge(penalty).fit(X[train[a]], target[train[a]]).predict(X[train[b]])
                - target[train[b]]
                for a, b in inner
            ]
            errors.append(sum(each @ each for each in left))
        best = PENALTIES[int(np.argmin(errors))] / width
        predicted[test] = Ridge(best).fit(X[train], target[train]).predict(X[test])
    return predicted


@pytest.mark.parametrize("widths", [(5,), (5, 60)])  # fewer features than patches, and more
def test_patients_left_out_are_predicted_as_by_scikit_learn(widths):
    rng, n = np.random.default_rng(0), 40
    groups = np.sort(rng.integers(0, 5, n))
    table = pd.DataFrame(
        {
            "tile": groups.astype(str), "group": groups.astype(str), "split": "train",
            "magnification": np.where(np.arange(n) % 2, 10.0, 40.0),
            "mean_area_px": rng.uniform(50, 400, n),
        }
    )  # fmt: skip
    asked = Trial(leave_one_out=True)
    task, held = task_of(table, asked)
    blocks = [rng.normal(size=(n, d)) + 0.01 * task.target[:, None] for d in widths]
    blocks = [each.astype(np.float32) for each in blocks]
    folds = task.folds(asked, 0)
    (found,) = repeated_ridge([blocks] * len(folds), task, folds)
    doubled = [each.astype(np.float64) for each in blocks]
    by_hand = by_scikit_learn(doubled, task.target, task.groups)
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-8 * np.abs(by_hand).max())
    for row in range(0, n, 7):
        others = table[(table.group != table.group[row])]
        by_class = others.groupby("magnification").mean_area_px.mean()
        np.testing.assert_allclose(held.centres[row], by_class)


def test_every_tile_is_a_test_tile_and_the_split_is_ignored(left_out, losing, drawn):
    table, n = left_out.to_frame(), len(drawn.table)
    assert left_out.provenance["transfer"]["leave_one_out"]
    assert left_out.provenance["n_patients"] == sum(N_TILES.values())
    assert set(table.seed) == {0}
    assert set(table.tile) == {ALL, *drawn.table.tile}
    assert set(table.n_test[table.tile == ALL]) == {n}
    assert set(table.n_train) == {n - EACH * len(AREAS)}
    other = replace(drawn, table=drawn.table.assign(split="train"))
    again = compared(losing, other, "cut", leave_one_out=True).predicted.predictions["cut"]
    assert np.array_equal(again, left_out.predicted.predictions["cut"])


def test_nothing_of_a_patient_is_part_of_what_predicts_it(left_out, losing, drawn):
    """Neither of the fits and centres, nor of the choice of layers for the fifth it is in."""
    block = in_blocks(task_of(drawn.table, Trial(leave_one_out=True))[0].groups, 0)[1]
    is_other = np.isin(np.arange(len(drawn.table)), block)
    areas = drawn.table.mean_area_px
    changed = drawn.table.assign(mean_area_px=areas.where(~is_other, 7 * areas))
    names = "tuned", "cut"
    found = compared(losing, replace(drawn, table=changed), *names, leave_one_out=True).predicted
    one = drawn.table.group == drawn.table.group[block[0]]
    alone = drawn.table.assign(mean_area_px=areas.where(~one, 7 * areas))
    of_one = compared(losing, replace(drawn, table=alone), "cut", leave_one_out=True).predicted
    before = left_out.predicted
    assert np.array_equal(of_one.predictions["cut"][:, one], before.predictions["cut"][:, one])
    assert np.array_equal(of_one.held.centres[one], before.held.centres[one])
    assert not np.array_equal(of_one.predictions["cut"], before.predictions["cut"])
    chosen, same = (each.configurations.chosen for each in (found, before))
    assert chosen.sum() == same.sum() == 5
    assert not np.array_equal(found.predictions["cut"], before.predictions["cut"])


def test_scores_of_one_fit_have_intervals_over_patients(left_out, tmp_path):
    own = left_out.intervals.set_index(["contestant", "metric"])
    scores = left_out.scores().set_index("contestant")
    for name in ("cut", "pretrained"):
        low, high = own.loc[(name, "kappa"), ["low", "high"]]
        assert low <= scores.kappa[name] <= high
    ((title, shown),) = left_out.summary().items()
    assert title == (
        "Planted, area, frozen, each patient held out once, with 95 % intervals over 13 patients"
    )
    assert re.fullmatch(r"-?\d\.\d\d \[-?\d\.\d\d, \d\.\d\d\]", shown[" kappa"][0])
    left_out.save(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Each of 13 patients is predicted by one fit to all others" in page
    assert "95 % intervals over patients" in page
    assert read_transfer(tmp_path / "run").summary()[title].equals(shown)


FEW = [
    (lambda t: t[t.group.isin(["patient-test0", "patient-test1"])], {},
     "There are patches of 2 patients, and --leave-one-out needs at least three. Give tiles of "
     "more patients."),
    (lambda t: t[(t.magnification != 20) | (t.tile == "test0")], {},
     "All patches of 20X are of one patient, so --leave-one-out has none to fit. Cut patches with "
     "other --magnifications, or from more tiles."),
    (lambda t: t[t.tile.isin(["test0", "test1", "test2"])], {"methods": ("tuned",)},
     "tuned chooses layers by cross-validation of the training patients, of which there are too "
     "few. Drop it, or give tiles of more patients."),
    (lambda t: t, {"mode": "finetune"},
     "--leave-one-out trains once per patient, which needs --mode frozen. Drop one of the two."),
]  # fmt: skip


def test_too_few_patients_to_leave_out_are_refused(losing, drawn):
    for change, given, text in FEW:
        patches = replace(drawn, table=change(drawn.table).reset_index(drop=True))
        with pytest.raises(DataError) as error:
            compared(losing, patches, *given.pop("methods", ("cut",)), leave_one_out=True, **given)
        assert str(error.value) == text


def test_without_a_cut_nothing_is_found(losing, drawn):
    found = compared(losing, drawn, "pretrained", at="")
    assert found.finding() == "The cut was not compared with anything."
    assert found.differences.empty


# --- methods ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everyone(losing, drawn):
    return compared(losing, drawn, *NAMES, seeds=2)


def points_of(whole):
    return [p for p in chosen_points(whole)[0] if p.layer not in (LOGITS, SOFTMAX)]


def test_methods_use_the_layers_that_they_should(everyone, losing):
    layers = [point.layer for point in points_of(losing)]
    assert layers == ["blocks.0", "blocks.1", "blocks.2", "pooled"]
    own = {"pretrained": "pooled", "scratch": "pooled", "reset": "pooled"}
    own |= {"cut": CUT, "cut-random": CUT, "up-to-cut": CUT, "all-layers": "up to pooled"}
    chosen = everyone.configurations.set_index("layers").kappa
    own["tuned"] = chosen.idxmax()
    assert set(chosen.index) == {*layers, *(f"up to {layer}" for layer in layers[1:])}
    assert everyone.provenance["layers"] == own | {f"sweep {layer}": layer for layer in layers}


def test_cut_is_the_sweep_at_its_layer_and_the_whole_that_at_the_last(everyone):
    predictions = everyone.predicted.predictions
    assert np.array_equal(predictions["cut"], predictions[f"sweep {CUT}"])
    assert np.array_equal(predictions["pretrained"], predictions["sweep pooled"])
    assert not np.array_equal(predictions["cut"], predictions["cut-random"])
    assert not np.array_equal(predictions["pretrained"], predictions["scratch"])


def test_layers_may_be_named_as_in_the_paper(losing):
    first, *others = points_of(losing)
    points = [replace(first, alias="add_1"), *others]
    assert point_of(points, "add_1") is point_of(points, CUT) is points[0]


def features_by_layer(network, patches, points):
    files = [patches.folder / name for name in patches.table.patch]
    images = make_image_set(files, patches.table.mean_area_px.to_numpy())
    return images, extract_features(network, images.images, points, EXACTLY).matrices


def test_random_weights_of_the_user_are_those_of_the_controls(drawn):
    whole = load_network(
        Planted((1.0, 0.0, 1.0)), weights="random", preprocessing=Preprocessing(SIDE, SIDE), seed=3
    )
    names = ("pretrained", "scratch", "cut", "cut-random")
    found = compared(whole, drawn, *names, seeds=2, seed=3).predicted.predictions
    for one, other in (names[:2], names[2:]):
        np.testing.assert_array_equal(found[one], found[other])
    assert not np.array_equal(found["pretrained"], found["cut"])


def test_features_of_a_method_are_those_of_its_layers(losing, drawn):
    points = points_of(losing)
    images, by_layer = features_by_layer(losing, drawn, points)
    source = Source(losing, images, EXACTLY, Stages(None), points[0])
    every, cut = planned(["all-layers", "cut"], points, points[0])
    found = source.features([every, cut], 0)
    assert [("pretrained", layer) for layer in by_layer] == list(found)
    for layer, matrix in by_layer.items():
        assert np.array_equal(found["pretrained", layer], matrix)
    assert [point.layer for point in every.points] == list(by_layer)


def test_patches_whose_features_are_not_finite_are_counted_and_not_dropped(drawn):
    """float16 ends at 65,504, which the mean of red exceeds where a disc is large."""
    bright = network(1.0, 1.0, 1.0)
    with torch.no_grad():
        bright.module.stem.weight.mul_(5e4)
    points = points_of(bright)[:1]
    _, by_layer = features_by_layer(bright, drawn, points)
    n_beyond = int((np.abs(by_layer[points[0].layer]) > 65_520).any(axis=1).sum())
    assert 0 < n_beyond < len(drawn.table)
    with pytest.raises(LayerError) as error:
        transfer(
            bright,
            drawn,
            trial=Trial(methods=["cut"], seeds=1),
            cut=CutPoint(CUT),
            computation=replace(EXACTLY, half=True),
        )
    assert f"not finite for {n_beyond} of {len(drawn.table)} images" in str(error.value)


def test_tuned_layers_are_those_that_predict_fifths_of_the_groups_best(losing, drawn):
    """By a loop over the fifths, each fitted anew from the features of the others."""
    points = points_of(losing)
    _, by_layer = features_by_layer(losing, drawn, points)
    task, held = task_of(drawn.table, Trial())
    table = compared(losing, drawn, "tuned", seeds=2).configurations
    found, train = table.set_index("layers"), task.fitted
    assert table.chosen.sum() == 1 == table.chosen[table.kappa.idxmax()]
    for layer in (points[0].layer, points[-1].layer):
        X, y, groups = (each[train] for each in (by_layer[layer], task.target, task.groups))
        predicted = np.empty(len(train))
        for out in in_blocks(groups, 0):
            kept = np.setdiff1d(np.arange(len(train)), out)
            parts = decompose(X[kept].astype(float), X[out].astype(float))
            fit = nested_ridge(parts, y[kept, None], groups[kept])
            predicted[out] = fit.predictions[:, 0]
        np.testing.assert_allclose(found.mae[layer], np.abs(predicted - y).mean(), rtol=1e-5)
        by_hand = np.abs(predicted[:, None] - held.centres).argmin(axis=1)
        assert found.kappa[layer] == pytest.approx(cohen_kappa_score(task.classes[train], by_hand))


def test_tuned_layers_of_one_magnification_are_those_of_the_smallest_error(losing, drawn):
    table = drawn.table[drawn.table.magnification == 20]
    made = compared(losing, replace(drawn, table=table), "tuned", "sweep", seeds=2)
    found, of_sweep = made.configurations, made.sweep.set_index("metric")
    assert found.kappa.isna().all()
    assert made.intervals.set_index("metric").low.kappa.isna().all()
    assert of_sweep.low.kappa.isna().all() and of_sweep.low.mae.notna().all()
    assert found.chosen.idxmax() == found.mae.idxmin() != 0


def test_fifths_of_the_groups_are_whole_and_together_all():
    groups = np.random.default_rng(0).integers(0, 13, 80)
    blocks = in_blocks(groups, 0)
    assert sorted(np.concatenate(blocks)) == list(range(80))
    of_blocks = [set(groups[block]) for block in blocks]
    assert sorted(map(len, of_blocks)) == [2, 2, 3, 3, 3]
    assert sum(map(len, of_blocks)) == len(set(groups)) == 13
    assert len(in_blocks(np.array([4, 4, 9]), 0)) == 2


@pytest.fixture(scope="module")
def noise():
    return torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_reset_keeps_the_weights_before_the_cut_and_replaces_those_after(keeping, noise):
    before = tensors_sha256(keeping.module)
    fresh = reset_after(keeping, points_of(keeping)[0], 0, lambda _: [noise])
    assert tensors_sha256(keeping.module) == before
    state = fresh.module.state_dict()
    for name, tensor in keeping.module.state_dict().items():
        is_kept = name.startswith(("stem", "blocks.0."))
        if is_kept or name.endswith("kept"):
            assert torch.equal(state[name], tensor), name
        elif name.endswith(("conv.weight", "fc.weight", "running_mean", "running_var")):
            assert not torch.equal(state[name], tensor), name
    again = reset_after(keeping, points_of(keeping)[0], 0, lambda _: [noise])
    other = reset_after(keeping, points_of(keeping)[0], 1, lambda _: [noise])
    assert tensors_sha256(again.module) == tensors_sha256(fresh.module)
    assert tensors_sha256(other.module) != tensors_sha256(fresh.module)


def test_reset_norms_have_the_statistics_of_what_the_trained_part_gives(keeping, noise):
    """Those before the cut normalise as they were trained, not by the batch."""
    trained = replace(keeping, module=copy.deepcopy(keeping.module))
    trained.module.blocks[0].norm.running_mean += 3.0
    cut = points_of(trained)[0]
    fresh = reset_after(trained, cut, 0, lambda _: [noise])
    arrives = output_at(trained.module, cut, noise)
    norm = fresh.module.blocks[1].norm
    torch.testing.assert_close(norm.running_mean, arrives[0].mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, arrives[0].var((0, 2, 3)))
    same = (output_at(each.module, cut, noise)[0] for each in (fresh, trained))
    assert torch.equal(*same)


# --- the split -----------------------------------------------------------------------------------


def test_groups_of_fits_are_never_tested_on(drawn):
    table = drawn.table
    split, _ = task_of(table, Trial())
    tested = set(table.group[table.split == "test"])
    assert set(table.group.iloc[split.test]) == tested
    for seed in range(3):
        draws = list(split.draws(10, seed))
        for rows in draws:
            groups = table.group.iloc[rows]
            assert not tested & set(groups)
            assert groups.nunique() > 1
            # whole groups, as often as they were drawn; as many as there are
            assert (groups.value_counts() % (EACH * len(AREAS)) == 0).all()
            assert len(rows) == (N_TILES["train"] + N_TILES["validation"]) * EACH * len(AREAS)
        assert len({tuple(rows) for rows in draws}) == 10


def test_draws_of_two_groups_hold_both(drawn):
    table = drawn.table
    two = table[(table.split == "test") | table.tile.isin(["train0", "train1"])]
    split, _ = task_of(two.reset_index(drop=True), Trial())
    assert all(len(set(split.groups[rows])) == 2 for rows in split.draws(50, 0))


@pytest.mark.parametrize("column", ["um_per_pixel", "magnification"])
def test_a_resolution_is_enough_by_either_column(losing, drawn, column):
    other = "um_per_pixel" if column == "magnification" else "magnification"
    bare = replace(drawn, table=drawn.table.drop(columns=other))
    found = [compared(losing, each, "cut", task="magnification") for each in (bare, drawn)]
    one, two = (each.predicted.predictions["cut"] for each in found)
    assert np.array_equal(one, two)
    pd.testing.assert_frame_equal(found[0].recall, found[1].recall)


def test_a_size_and_a_magnification_that_contradict_each_other_are_refused(losing, drawn):
    table = drawn.table.assign(um_per_pixel=2 * drawn.table.um_per_pixel)
    with pytest.raises(DataError, match="117 of 117 patches have a um_per_pixel and a magnif"):
        compared(losing, replace(drawn, table=table), "cut")


def test_a_magnification_that_is_not_tested_has_no_recall(losing, drawn):
    table = drawn.table
    kept = table[(table.split != "test") | (table.magnification != 20)].reset_index(drop=True)
    found = compared(losing, replace(drawn, table=kept), "cut")
    assert sorted(found.recall.magnification) == sorted({*AREAS} - {20.0})
    true, predicted = found.predicted.held.classes, found.predicted.predictions["cut"]
    centres = found.predicted.held.centres
    for magnification, recall in zip(found.recall.magnification, found.recall.recall, strict=True):
        number = sorted(AREAS).index(magnification)
        nearest = np.abs(predicted[:, true == number, None] - centres).argmin(axis=2)
        np.testing.assert_allclose(recall, (nearest == number).mean())


def test_test_targets_do_not_enter_fits_or_centres(losing, drawn):
    table = drawn.table
    is_test = table.split == "test"
    other = table.assign(mean_area_px=table.mean_area_px.where(~is_test, 7 * table.mean_area_px))
    one, two = (
        compared(losing, replace(drawn, table=each), "pretrained", "cut", "all-layers", seeds=2)
        for each in (table, other)
    )
    for name, predicted in one.predicted.predictions.items():
        assert np.array_equal(predicted, two.predicted.predictions[name])
    assert np.array_equal(two.predicted.held.truth, 7 * one.predicted.held.truth)
    by_hand = table[~is_test].groupby("magnification").mean_area_px.mean()
    np.testing.assert_allclose(one.predicted.held.centres, by_hand)
    assert np.array_equal(one.predicted.held.centres, two.predicted.held.centres)


def test_log_regresses_octaves_and_gives_areas(losing, drawn):
    table = drawn.table
    in_octaves = table.assign(mean_area_px=np.log2(table.mean_area_px))
    logged = compared(losing, drawn, "cut", seeds=2, log=True)
    by_hand = compared(losing, replace(drawn, table=in_octaves), "cut", seeds=2)
    np.testing.assert_allclose(
        logged.predicted.predictions["cut"], 2 ** by_hand.predicted.predictions["cut"]
    )
    assert np.array_equal(logged.predicted.held.truth, table.mean_area_px[table.split == "test"])


# --- the table -----------------------------------------------------------------------------------


def test_table_holds_each_method_seed_tile_and_metric_once(everyone, drawn):
    table, patches = everyone.to_frame(), drawn.table
    assert list(table.columns) == COLUMNS
    keys = ["contestant", "layer", "seed", "tile", "metric"]
    assert not table.duplicated(keys).any()
    assert len(table) == len(everyone.provenance["layers"]) * 2 * (N_TILES["test"] + 1) * len(
        METRICS
    )
    assert set(table.n_train) == {(patches.split != "test").sum()}
    assert set(table[table.tile == ALL].n_test) == {(patches.split == "test").sum()}
    assert set(table[table.tile != ALL].n_test) == {EACH * len(AREAS)}


def test_values_of_the_table_are_those_of_the_predictions(everyone):
    table, predicted = everyone.to_frame(), everyone.predicted.predictions["cut"]
    of_cut = table[table.contestant == "cut"]
    for metric in METRICS:
        own = of_cut[of_cut.metric == metric].pivot(index="seed", columns="tile", values="value")
        np.testing.assert_array_equal(own[ALL], metrics(predicted, everyone.predicted.held)[metric])
        by_tile = tile_metrics(predicted, everyone.predicted.held)[metric]
        np.testing.assert_array_equal(own.drop(columns=ALL), by_tile)


def test_scores_are_mean_and_spread_over_seeds(everyone):
    summary = everyone.scores()
    assert len(summary) == len(everyone.provenance["layers"])
    (row,) = summary[summary.contestant == "cut"].to_dict("records")
    for metric, values in metrics(
        everyone.predicted.predictions["cut"], everyone.predicted.held
    ).items():
        assert row[metric] == pytest.approx(values.mean())
        assert row[f"{metric}_sd"] == pytest.approx(values.std(ddof=1))


def test_the_same_seed_gives_the_same_table_and_another_one_another(keeping, drawn):
    names = ("pretrained", "scratch", "cut", "reset")
    one, two = (compared(keeping, drawn, *names, seeds=2, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())
    pd.testing.assert_frame_equal(one.differences, two.differences)
    other = compared(keeping, drawn, *names, seeds=2, seed=4)
    assert not np.array_equal(one.to_frame().value, other.to_frame().value)


# --- bad input -----------------------------------------------------------------------------------


def test_patches_that_cannot_be_read_are_skipped_for_all_and_named(losing, tmp_path):
    patches = draw(tmp_path)
    table = patches.table
    damaged, absent = table.patch[table.split == "test"].iloc[[2, 5]]
    (tmp_path / damaged).write_bytes(b"no image")
    (tmp_path / absent).unlink()
    found = compared(losing, patches, "pretrained", "scratch", "cut", "reset", seeds=2)
    assert sorted(each.name for each in found.images_left_out) == sorted([damaged, absent])
    n_left = int((table.split == "test").sum()) - 2
    assert {predicted.shape for predicted in found.predicted.predictions.values()} == {(2, n_left)}
    rest = table[~table.patch.isin([damaged, absent])].reset_index(drop=True)
    alone = compared(losing, replace(patches, table=rest), "pretrained", "cut", seeds=2)
    assert alone.images_left_out == ()
    for name in ("pretrained", "cut"):
        assert np.array_equal(alone.predicted.predictions[name], found.predicted.predictions[name])


def of_parts(table, *parts):
    return table[table.split.isin(parts)].reset_index(drop=True)


OVERLAP = {"patient-test2": "patient-train1"}
# fmt: off
REFUSED = [
    (lambda t: of_parts(t, "train"), {},
     "0 of 54 patches are in the test part. Cut patches with a split that has tiles for training "
     "and for testing."),
    (lambda t: of_parts(t, "test"), {},
     "54 of 54 patches are in the test part. Cut patches with a split that has tiles for training "
     "and for testing."),
    (lambda t: of_parts(t, "validation", "test"), {},
     "The training part has one group. Give tiles of two or more patients."),
    (lambda t: t[(t.split != "test") | (t.tile == "test0")], {},
     "The test part has one patient, which does not generalise to others. Give two or more; "
     "intervals are useful from about ten on."),
    (lambda t: t.assign(group=t.group.replace(OVERLAP)), {},
     "patient-train1 is in the training part and in the test part. Cut the patches again, split by "
     "patient."),
    (lambda t: t.assign(group=t.group.replace({"patient-train1": "patient-validation0"})), {},
     "patient-validation0 is in the training part and in the validation part. Cut the patches "
     "again, split by patient."),
    (lambda t: t.assign(split=t.split.replace({"validation": "Val"})), {},
     "9 of 117 patches are in no part, the first is of the tile validation0, whose split is 'Val'. "
     "Write train, validation or test."),
    (lambda t: t.assign(mean_area_px=t.mean_area_px.mask(t.tile == "test1")), {},
     "9 of 117 patches have no mean_area_px, the first is of the tile test1. Remove them, or give "
     "--task magnification."),
    (lambda t: t[(t.split == "test") | (t.magnification != 20)], {},
     "No training patch has the magnification 20. Cut patches with other --magnifications or "
     "--mpp, or from more tiles."),
    (lambda t: t.drop(columns="mean_area_px"), {},
     "These patches were cut without masks, so they have no areas of nuclei. Give --task "
     "magnification, or cut patches with --masks."),
    (lambda t: t, {"methods": ("cut", "best")},
     "No method is named 'best'. Give one or more of pretrained, scratch, cut, cut-random, reset, "
     "sweep, up-to-cut, all-layers, tuned."),
    (lambda t: t, {"seeds": 0}, "--seeds must be at least 1, got 0."),
    (lambda t: t, {"mode": "finetune", "methods": ("tuned",)},
     "tuned chooses among frozen features, which needs --mode frozen. Drop tuned."),
    (lambda t: t, {"mode": "finetune", "methods": ("all-layers",)},
     "all-layers concatenates 4 layers, which needs --mode frozen. Drop all-layers, or train "
     "sweep."),
    (lambda t: t, {"mode": "finetune", "cluster": "local:2"},
     "--engine openvino and --cluster compute frozen features. Drop them, or give --mode frozen."),
    (lambda t: t, {"training": Training(epochs=2)},
     "--epochs, --learning-rate, --patience, --keep-best and --raw-target train the network. Give "
     "--mode finetune, or drop them."),
    (lambda t: t, {"task": "magnification", "log": True},
     "--log is of areas; magnifications are in octaves anyway. Drop it."),
    (lambda t: t, {"at": "", "from_": ["area", "grade"]},
     "This curve has 2 targets: area, grade. Choose one, as curve.of('area') or --target area."),
    (lambda t: t, {"at": ""},
     "Method cut needs a layer to cut at, and none is given. Give --at LAYER, or --from RUN."),
    (lambda t: t, {"at": "blocks.9"},
     "No layer is named 'blocks.9' among those that can be probed. `scalecut layers MODEL` prints "
     "them."),
    (lambda t: t, {"rule": "peak"},
     "--rule chooses the layer by the curve of --from, and --at leaves nothing to choose. Give "
     "--from RUN without --at, or drop --rule."),
    (lambda t: t, {"at": "", "rule": "peak"},
     "--rule chooses the layer by the curve of --from, and --at leaves nothing to choose. Give "
     "--from RUN without --at, or drop --rule."),
]
# fmt: on


def test_what_cannot_be_compared_is_refused_in_one_line(losing, drawn, monkeypatch):
    """And before features are computed, which takes minutes."""
    monkeypatch.setattr(Stages, "extracted", lambda *_, **__: pytest.fail("computed"))
    for change, given, text in REFUSED:
        asked = {"methods": ("pretrained", "cut"), **given}
        cut = {"at": asked.pop("at", CUT), "rule": asked.pop("rule", None)}
        if targets := asked.pop("from_", ()):
            curve = probed(["blocks.0", "pooled"], [0.9, 0.5])
            tables = [curve.table.assign(measure=target) for target in targets]
            table, draws = pd.concat(tables), np.concatenate([curve.draws] * len(tables))
            cut["from_"] = replace(curve, table=table, draws=draws)
        training = asked.pop("training", Training())
        computation = replace(EXACTLY, cluster=asked.pop("cluster", ""))
        patches = replace(drawn, table=change(drawn.table))
        kind = LayerError if text.startswith(("Method", "No layer")) else DataError
        with pytest.raises(ScalecutError) as error:
            at, trial = CutPoint(**cut), Trial(**asked)
            about = {"cut": at, "training": training, "computation": computation}
            transfer(losing, patches, trial=trial, **about)
        assert str(error.value) == text
        assert isinstance(error.value, kind)
    for name, text in (("task", "area, magnification"), ("mode", "frozen, finetune")):
        trial = Trial()
        object.__setattr__(trial, name, "other")  # past the types, which tests check
        with pytest.raises(DataError) as error:
            trial.__post_init__()
        assert str(error.value) == f"No {name} is named 'other'. Give one of {text}."


def test_a_target_is_one_of_a_run():
    with pytest.raises(DataError, match="--target is one of --from"):
        CutPoint(at=CUT, target="grade")


# --- the other tables ----------------------------------------------------------------


def test_recall_is_that_of_scikit_learn(everyone):
    found = everyone.recall
    own = found[found.contestant == "cut"].recall.to_numpy()
    classes = np.abs(
        everyone.predicted.predictions["cut"][..., None] - everyone.predicted.held.centres
    ).argmin(-1)
    by_hand = [
        recall_score(everyone.predicted.held.classes, each, average=None) for each in classes
    ]
    np.testing.assert_allclose(own, np.mean(by_hand, axis=0))
    assert list(found.magnification[:3]) == sorted(AREAS)


def test_calibration_groups_are_tenths_of_the_true_areas_and_hold_every_patch(everyone):
    found = everyone.calibration
    own = found[found.contestant == "pretrained"]
    n = everyone.provenance["n_test"]
    assert own.n_test.sum() == n
    assert own.n_test.max() - own.n_test.min() <= 1
    assert (own.truth.diff().dropna() > 0).all()
    np.testing.assert_allclose(
        np.average(own.truth, weights=own.n_test), everyone.predicted.held.truth.mean()
    )
    np.testing.assert_allclose(
        np.average(own.predicted, weights=own.n_test),
        everyone.predicted.predictions["pretrained"].mean(),
    )
    assert ((own.low <= own.predicted) & (own.predicted <= own.high)).mean() > 0.8


def test_calibration_of_magnifications_has_a_row_for_each(losing, drawn):
    found = compared(losing, drawn, "cut", task="magnification", seeds=2).calibration
    np.testing.assert_allclose(found.truth, np.log2(sorted(AREAS)))


def test_sweep_has_the_scores_of_the_table_and_intervals_around_them(everyone):
    swept, table = everyone.sweep, everyone.to_frame()
    of_sweep = table[(table.contestant == "sweep") & (table.tile == ALL)]
    by_hand = of_sweep.groupby(["layer", "metric"]).value.mean()
    for row in swept.itertuples():
        assert row.value == pytest.approx(by_hand[row.layer, row.metric])
        assert row.low <= row.value + 0.05 * abs(row.value)
        assert row.high >= row.value - 0.05 * abs(row.value)
    assert swept.r2.isna().all()


def test_curve_that_drops_where_size_is_lost_predicts_the_sweep(losing, drawn, everyone):
    """R² planted as the errors themselves: the ranks agree, and choosing by them costs nothing."""
    swept = everyone.sweep
    errors = swept[swept.metric == "mae"].set_index("layer").value
    assert errors["blocks.0"] < errors["pooled"]  # this network loses size after its first block
    layers = list(dict.fromkeys(swept.layer))
    curve = probed(layers, [1 - errors[layer] / 200 for layer in layers])
    with_curve = compared(losing, drawn, "sweep", "cut", at="", curve=curve, seeds=2)
    assert with_curve.provenance["layers"]["cut"] == errors.idxmin()  # chosen by the curve
    found = with_curve.agreement.set_index("metric")
    assert found.rho["mae"] == pytest.approx(1)
    assert found.regret["mae"] == 0
    assert found.best["mae"] == found.foretold["mae"] == errors.idxmin()
    assert found.regret_last["mae"] == pytest.approx(errors[layers[-1]] - errors.min())
    assert with_curve.sweep.r2.notna().all()
    assert len(with_curve.summary()) == 2
    without = compared(losing, drawn, "cut", at="", curve=curve, seeds=2)
    assert without.sweep.empty
    assert without.agreement.empty
    assert everyone.agreement.empty


def test_the_papers_numbers_are_next_to_ours_and_not_mixed(everyone):
    table = with_the_paper(everyone, "planted")
    printed, ours = published.transfer_scores(), everyone.scores()
    theirs, own = table[: len(printed)], table[len(printed) :]
    assert set(theirs.network) == {"InceptionV3, theirs", "ResNet50, theirs"}
    assert set(own.network) == {"planted, ours"}
    for row, known in zip(theirs.itertuples(), printed.itertuples(), strict=True):
        assert row.contestant == known.contestant
        assert row[4] == f"{known.mae:.1f} ± {known.mae_sd:.1f}"
    assert list(own.contestant) == ["pretrained", "scratch", "cut"]
    for row in own.to_dict("records"):
        (known,) = ours[ours.contestant == row["contestant"]].to_dict("records")
        assert row["kappa"] == f"{known['kappa']:.3f} ± {known['kappa_sd']:.3f}"
        assert row["last layer"] == known["layer"]


def probed(layers, r2):
    """A curve of planted R² without noise."""
    own = dict.fromkeys(layers, "")
    line = line_of(None, r2, layers=own, noise=np.zeros((len(r2), 50)))
    # another line comes first, so that rows of the table are not those of the layers
    other = line_of(None, r2[::-1], layers=own, noise=np.zeros((len(r2), 50)), weights="random")
    return curve_of(other, line, layers=own)


def test_result_shows_itself_in_a_notebook(everyone):
    shown = everyone._repr_html_()
    assert shown.count('<img src="data:image/png;base64,') == 1
    assert shown.count("<tr") == len(everyone.scores()) + 1
    assert everyone.finding().split(",")[0] in shown


def test_saved_transfer_is_read_again(everyone, tmp_path):
    everyone.save(tmp_path / "run", command="scalecut transfer")
    read = read_transfer(tmp_path / "run")
    assert read.predicted is None
    assert read.finding() == everyone.finding()
    for name, table in everyone.tables().items():
        pd.testing.assert_frame_equal(
            read.tables()[name], table, check_dtype=False, rtol=1e-5, atol=1e-6
        )
    ((title, shown),) = read.summary().items()
    assert title == "Planted, area, frozen, mean ± standard deviation of 2 fits"
    pd.testing.assert_frame_equal(shown, everyone.summary()[title])
    facts = read_run(tmp_path / "run").facts
    understood = facts["images"]["understood"]
    assert understood["n_images"] == len(everyone.predicted.patches)
    assert understood["measure"] == "area"
    assert (tmp_path / "run" / "figures" / SHEET).is_file()
    assert facts["transfer"] == {
        "task": "area", "mode": "frozen", "seeds": 2, "log": False, "leave_one_out": False,
        "seed": 0, "blur_matched": False,
    }  # fmt: skip
    assert {"fits", "features", "network"} <= set(facts["stages"])
    with pytest.raises(DataError, match=r"holds no run of scalecut"):
        read_transfer(tmp_path)
