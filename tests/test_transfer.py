"""Networks that are made to forget how large bright discs are, or to keep it, on drawn patches."""

import copy
import re
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

from scalecut import DataError, LayerError, Preprocessing, load_network
from scalecut.features import extract
from scalecut.images import Image
from scalecut.inputs import Look, chosen_points
from scalecut.layers import LOGITS, SOFTMAX
from scalecut.models import tensors_sha256
from scalecut.patches import COLUMNS as PATCH_COLUMNS
from scalecut.surgery import output_at
from scalecut.transfer import (
    ALL,
    COLUMNS,
    CONTESTANTS,
    _Source,
    _split_of,
    reset_behind,
    transfer,
)
from scalecut.verdict import METRICS, Difference, metrics, sentence, tile_metrics

SIDE = 32
AREAS = {10.0: 30.0, 20.0: 90.0, 40.0: 250.0}  # px, by magnification
N_TILES = {"train": 6, "validation": 1, "test": 6}
EACH = 3  # patches of a tile and magnification
LOOK = Look(precision="float32")
CUT = "blocks.0"


class Block(nn.Module):
    """A sum of two ways, colours kept apart, some of which are not handed on."""

    def __init__(self, kept):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1, groups=3)
        nn.init.normal_(self.conv.weight, std=0.1)
        self.register_buffer("kept", torch.tensor(kept).view(1, 3, 1, 1))

    def forward(self, x):
        return (x + self.conv(self.norm(x))) * self.kept


class Planted(nn.Module):
    """Red holds the disc: brightness times area once it is averaged."""

    def __init__(self, kept):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.stem.weight)
        self.blocks = nn.Sequential(Block((1.0, 1.0, 1.0)), Block(kept), Block(kept))
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """With networks as small as these, threads wait for one another most of the time."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


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
def forgetful():
    return network(0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def faithful():
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
    """A table as `patches.cut_patches` gives it, the patches in the folder."""
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
                    rows.append((*place, 1, float(area), float(area), np.nan))
    return pd.DataFrame(rows, columns=list(PATCH_COLUMNS))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Table and folder of patches that are only read."""
    folder = tmp_path_factory.mktemp("drawn")
    return draw(folder), folder


def ways(whole, drawn, *contestants, layer=CUT, seeds=4, **more):
    table, folder = drawn
    given = {"layer": layer, "seeds": seeds, "look": LOOK, **more}
    return transfer(whole, table, folder, contestants=contestants, **given)


def difference(found, metric, other="pretrained"):
    rows = found.differences
    (row,) = rows[(rows.metric == metric) & (rows.other == other)].to_dict("records")
    return Difference(**row)


# --- the verdict ---------------------------------------------------------------------------------


def test_cut_before_the_network_forgets_is_called_better_than_the_whole(forgetful, drawn):
    found = ways(forgetful, drawn, "pretrained", "cut", seeds=10)
    for metric in METRICS:
        assert difference(found, metric).is_shown, metric
        assert difference(found, metric).low > 0
    assert re.fullmatch(
        r"cut at blocks\.0 beats pretrained by 0\.\d\d kappa \[0\.\d\d, [01]\.\d\d\], "
        r"10 of 10 seeds\.",
        found.finding(),
    )
    scores = found.summary().set_index("contestant")
    assert scores.kappa["cut"] > 0.8
    assert scores.kappa["pretrained"] < 0.4


def test_cut_of_a_network_that_keeps_size_is_no_evidence(faithful, drawn):
    found = ways(faithful, drawn, "pretrained", "cut", seeds=10)
    for metric in ("kappa", "kappa_quadratic"):
        assert not difference(found, metric).is_shown, metric
    for metric in ("mae", "octaves"):  # the same but for rounding
        assert abs(difference(found, metric).better) < 1e-3
    assert found.finding().startswith("No evidence that cut at blocks.0 differs from pretrained:")
    assert found.summary().kappa.min() > 0.8


def test_magnification_is_read_off_in_octaves(forgetful, drawn):
    found = ways(forgetful, drawn, "pretrained", "cut", task="magnification")
    np.testing.assert_allclose(found.held.centres, [np.log2(each) for each in AREAS])
    assert difference(found, "octaves").is_shown
    assert set(found.table.task) == {"magnification"}


def test_finding_is_the_sentences_about_the_cut(forgetful, drawn):
    found = ways(forgetful, drawn, "pretrained", "scratch", "cut", "all-layers")
    two = [difference(found, "kappa", other) for other in ("pretrained", "scratch")]
    assert found.finding() == " ".join(sentence(each, found.layers) for each in two)
    pairs = list(zip(found.differences.contestant, found.differences.other, strict=True))
    assert pairs == 4 * [("cut", "pretrained"), ("cut", "scratch"), ("all-layers", "cut")]


def test_without_a_cut_nothing_is_found(forgetful, drawn):
    found = ways(forgetful, drawn, "pretrained", layer=None)
    assert found.finding() == "The cut was not compared with anything."
    assert found.differences.empty


# --- contestants ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everyone(forgetful, drawn):
    return ways(forgetful, drawn, *CONTESTANTS, seeds=2)


def points_of(whole):
    return [p for p in chosen_points(whole)[0] if p.layer not in (LOGITS, SOFTMAX)]


def test_contestants_read_the_layers_that_they_should(everyone, forgetful):
    layers = [point.layer for point in points_of(forgetful)]
    assert layers == ["blocks.0", "blocks.1", "blocks.2", "pooled"]
    own = {"pretrained": "pooled", "scratch": "pooled", "reset": "pooled"}
    own |= {"cut": CUT, "cut-random": CUT, "all-layers": "all"}
    assert everyone.layers == own | {f"sweep {layer}": layer for layer in layers}


def test_cut_is_the_sweep_at_its_layer_and_the_whole_that_at_the_last(everyone):
    predictions = everyone.predictions
    assert np.array_equal(predictions["cut"], predictions[f"sweep {CUT}"])
    assert np.array_equal(predictions["pretrained"], predictions["sweep pooled"])
    assert not np.array_equal(predictions["cut"], predictions["cut-random"])
    assert not np.array_equal(predictions["pretrained"], predictions["scratch"])


def test_layers_may_be_named_as_in_the_paper(forgetful, drawn):
    alias = points_of(forgetful)[0].alias
    assert alias != CUT
    assert ways(forgetful, drawn, "cut", layer=alias, seeds=2).layers == {"cut": CUT}


def test_features_of_all_layers_stand_side_by_side(forgetful, drawn):
    table, folder = drawn
    images = [Image(name, folder / name) for name in table.patch]
    points = points_of(forgetful)
    source = _Source(forgetful, points, images, LOOK, None)
    found = dict(source.contestants(["all-layers", "cut"], points[0], 0))
    by_layer = extract(forgetful, images, points, **asdict(LOOK)).matrices
    layer, side_by_side = found["all-layers"]
    assert layer == "all"
    assert side_by_side.shape == (len(table), sum(point.channels for point in points))
    assert np.array_equal(side_by_side, np.hstack(list(by_layer.values())))
    assert np.array_equal(found["cut"][1], by_layer[CUT])


@pytest.fixture(scope="module")
def noise():
    return torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_reset_keeps_what_is_before_the_cut_and_changes_what_is_behind(faithful, noise):
    before = tensors_sha256(faithful.module)
    twin = reset_behind(faithful, points_of(faithful)[0], 0, lambda _: [noise])
    assert tensors_sha256(faithful.module) == before
    state = twin.module.state_dict()
    for name, tensor in faithful.module.state_dict().items():
        is_kept = name.startswith(("stem", "blocks.0."))
        if is_kept or name.endswith("kept"):
            assert torch.equal(state[name], tensor), name
        elif name.endswith(("conv.weight", "fc.weight", "running_mean", "running_var")):
            assert not torch.equal(state[name], tensor), name
    again = reset_behind(faithful, points_of(faithful)[0], 0, lambda _: [noise])
    other = reset_behind(faithful, points_of(faithful)[0], 1, lambda _: [noise])
    assert tensors_sha256(again.module) == tensors_sha256(twin.module)
    assert tensors_sha256(other.module) != tensors_sha256(twin.module)


def test_reset_norms_know_what_comes_through_the_trained_part(faithful, noise):
    """Those before the cut normalise as they were trained meanwhile, not by the batch."""
    trained = replace(faithful, module=copy.deepcopy(faithful.module))
    trained.module.blocks[0].norm.running_mean += 3.0
    cut = points_of(trained)[0]
    twin = reset_behind(trained, cut, 0, lambda _: [noise])
    arrives = output_at(trained.module, cut, noise)
    norm = twin.module.blocks[1].norm
    torch.testing.assert_close(norm.running_mean, arrives.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, arrives.var((0, 2, 3)))
    same = (output_at(each.module, cut, noise) for each in (twin, trained))
    assert torch.equal(*same)


# --- the split -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_fits_are_never_tested_on(drawn, seed):
    table, _ = drawn
    split, _ = _split_of(table, "area")
    tested = set(table.group[table.split == "test"])
    assert set(table.group.iloc[split.test]) == tested
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
    table, _ = drawn
    two = table[(table.split == "test") | table.tile.isin(["train0", "train1"])]
    split, _ = _split_of(two.reset_index(drop=True), "area")
    assert all(len(set(split.groups[rows])) == 2 for rows in split.draws(50, 0))


def test_test_targets_do_not_enter_fits_or_centres(forgetful, drawn):
    table, folder = drawn
    is_test = table.split == "test"
    other = table.assign(mean_area_px=table.mean_area_px.where(~is_test, 7 * table.mean_area_px))
    one, two = (
        ways(forgetful, (each, folder), "pretrained", "cut", "all-layers", seeds=2)
        for each in (table, other)
    )
    for name, predicted in one.predictions.items():
        assert np.array_equal(predicted, two.predictions[name])
    assert np.array_equal(two.held.truth, 7 * one.held.truth)
    by_hand = table[~is_test].groupby("magnification").mean_area_px.mean()
    np.testing.assert_allclose(one.held.centres, by_hand)
    assert np.array_equal(one.held.centres, two.held.centres)


def test_log_regresses_octaves_and_gives_areas(forgetful, drawn):
    table, folder = drawn
    in_octaves = table.assign(mean_area_px=np.log2(table.mean_area_px))
    logged = ways(forgetful, drawn, "cut", seeds=2, log=True)
    by_hand = ways(forgetful, (in_octaves, folder), "cut", seeds=2)
    np.testing.assert_allclose(logged.predictions["cut"], 2 ** by_hand.predictions["cut"])
    assert np.array_equal(logged.held.truth, table.mean_area_px[table.split == "test"])


# --- the table -----------------------------------------------------------------------------------


def test_table_holds_each_contestant_seed_tile_and_metric_once(everyone, drawn):
    table, (patches, _) = everyone.frame(), drawn
    assert list(table.columns) == COLUMNS
    keys = ["contestant", "layer", "seed", "tile", "metric"]
    assert not table.duplicated(keys).any()
    assert len(table) == len(everyone.layers) * 2 * (N_TILES["test"] + 1) * len(METRICS)
    assert set(table.n_train) == {(patches.split != "test").sum()}
    assert set(table[table.tile == ALL].n_test) == {(patches.split == "test").sum()}
    assert set(table[table.tile != ALL].n_test) == {EACH * len(AREAS)}


def test_values_of_the_table_are_those_of_the_predictions(everyone):
    table, predicted = everyone.frame(), everyone.predictions["cut"]
    of_cut = table[table.contestant == "cut"]
    for metric in METRICS:
        own = of_cut[of_cut.metric == metric].pivot(index="seed", columns="tile", values="value")
        np.testing.assert_array_equal(own[ALL], metrics(predicted, everyone.held)[metric])
        by_tile = tile_metrics(predicted, everyone.held)[metric]
        np.testing.assert_array_equal(own.drop(columns=ALL), by_tile)


def test_summary_is_mean_and_spread_over_seeds(everyone):
    summary = everyone.summary()
    assert len(summary) == len(everyone.layers)
    (row,) = summary[summary.contestant == "cut"].to_dict("records")
    for metric, values in metrics(everyone.predictions["cut"], everyone.held).items():
        assert row[metric] == pytest.approx(values.mean())
        assert row[f"{metric}_sd"] == pytest.approx(values.std(ddof=1))


def test_the_same_seed_gives_the_same_table_and_another_one_another(faithful, drawn):
    names = ("pretrained", "scratch", "cut", "reset")
    one, two = (ways(faithful, drawn, *names, seeds=2, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one.frame(), two.frame())
    pd.testing.assert_frame_equal(one.differences, two.differences)
    other = ways(faithful, drawn, *names, seeds=2, seed=4)
    assert not np.array_equal(one.frame().value, other.frame().value)


# --- bad input -----------------------------------------------------------------------------------


def test_patches_that_cannot_be_read_are_left_out_for_all_and_named(forgetful, tmp_path):
    table = draw(tmp_path)
    damaged, absent = table.patch[table.split == "test"].iloc[[2, 5]]
    (tmp_path / damaged).write_bytes(b"no picture")
    (tmp_path / absent).unlink()
    found = ways(forgetful, (table, tmp_path), "pretrained", "scratch", "cut", "reset", seeds=2)
    assert sorted(each.name for each in found.left_out) == sorted([damaged, absent])
    n_left = int((table.split == "test").sum()) - 2
    assert {predicted.shape for predicted in found.predictions.values()} == {(2, n_left)}
    rest = table[~table.patch.isin([damaged, absent])].reset_index(drop=True)
    alone = ways(forgetful, (rest, tmp_path), "pretrained", "cut", seeds=2)
    assert alone.left_out == ()
    for name in ("pretrained", "cut"):
        assert np.array_equal(alone.predictions[name], found.predictions[name])


def of_parts(table, *parts):
    return table[table.split.isin(parts)].reset_index(drop=True)


# fmt: off
REFUSED = {
    "no test part": (
        lambda t: of_parts(t, "train"), {},
        "The patches have 0 of 54 in the test part. Cut patches with a split that leaves tiles "
        "for both."),
    "no training part": (
        lambda t: of_parts(t, "test"), {},
        "The patches have 54 of 54 in the test part. Cut patches with a split that leaves tiles "
        "for both."),
    "one group to train on": (
        lambda t: of_parts(t, "validation", "test"), {},
        "The training part is of one group. Give tiles of two or more patients."),
    "one tile to test on": (
        lambda t: t[(t.split != "test") | (t.tile == "test0")], {},
        "The test part is of one tile, which tells nothing about others. Give two or more; from "
        "about ten on, intervals are of use."),
    "a patient in both parts": (
        lambda t: t.assign(group=t.group.replace("patient-test2", "patient-train1")), {},
        "patient-train1 is in the training part and in the test part. Cut patches anew, with a "
        "split by patient."),
    "a magnification of the test part alone": (
        lambda t: t[(t.split == "test") | (t.magnification != 20)], {},
        "No training patch has the magnification 20. Cut patches with other --magnifications, or "
        "more tiles."),
    "unknown contestant": (
        lambda t: t, {"contestants": ("cut", "best")},
        "No contestant is named 'best'. Give one or more of pretrained, scratch, cut, cut-random, "
        "reset, sweep, all-layers."),
    "unknown task": (
        lambda t: t, {"task": "weight"},
        "No task is named 'weight'. Give one of area, magnification."),
    "a cut without a layer": (
        lambda t: t, {"layer": None},
        "A contestant is cut, but no layer is given. Give --at LAYER, or --from RUN."),
    "unknown layer": (
        lambda t: t, {"layer": "blocks.9"},
        "No layer is named 'blocks.9' among those that can be read. `scalecut layers MODEL` prints "
        "them."),
}
# fmt: on


@pytest.mark.parametrize(("change", "given", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(
    forgetful, drawn, monkeypatch, change, given, text
):
    """And before features are computed, which take minutes."""
    monkeypatch.setattr("scalecut.transfer.extract", lambda *_, **__: pytest.fail("computed"))
    table, folder = drawn
    given = {"layer": CUT, "contestants": ("pretrained", "cut")} | given
    kind = LayerError if "layer" in text.split(".")[0] else DataError
    with pytest.raises(kind) as error:
        transfer(forgetful, change(table), folder, look=LOOK, **given)
    assert str(error.value) == text
