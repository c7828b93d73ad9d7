"""The atlas: planted concepts are told apart, and its R² is that of the probe."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

import scalecut
from scalecut.analyses.atlas import (
    COLUMNS,
    Mapped,
    atlas,
    inseparable,
    planned,
    read_atlas,
    usable,
)
from scalecut.data.images import make_image_set
from scalecut.data.options import Reading
from scalecut.data.read import columns_of_numbers
from scalecut.errors import DataError
from scalecut.networks.network import Preprocessing
from scalecut.probing.probe import Fitting, probe
from scalecut.probing.scores import draw_parts

SIDE, N = 16, 150
pytestmark = pytest.mark.usefixtures("one_thread")


class Reads(nn.Module):
    """`bright` pools colours, so it knows brightness only; `both` also knows the area of red."""

    def __init__(self):
        super().__init__()
        self.bright = nn.Conv2d(3, 12, 1)
        self.both = nn.Sequential(nn.Conv2d(12, 24, 1), nn.ReLU())

    def forward(self, x):
        return self.both(self.bright(x)).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def images():
    """A square on grey; larger squares are on brighter ground, by 0.8."""
    rng = np.random.default_rng(0)
    size, light = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=N).T
    side = np.clip(np.round(8 + 2 * size), 3, 13).astype(int)
    pixels = []
    for each, brightness in zip(side, light, strict=True):
        image = np.full((SIDE, SIDE, 3), np.clip(120 + 25 * brightness, 20, 230), dtype=np.float64)
        image += rng.normal(0, 4, image.shape)
        image[1 : 1 + each, 1 : 1 + each, 0] += 25  # red, not much of it
        pixels.append(np.uint8(np.clip(image, 0, 255)))
    return make_image_set(pixels, (side / SIDE) ** 2, measure_name="area")


def network_of(module, **settings):
    preprocessing = Preprocessing(SIDE, SIDE, (0.5,) * 3, (0.5,) * 3, "bilinear")
    return scalecut.load_network(module, preprocessing=preprocessing, **settings)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return network_of(Reads())


@pytest.fixture(scope="module")
def found(network, images):
    few = Mapped(["brightness", "contrast"], repeats=4, permutations=99)
    return atlas(network, images, mapped=few)


def test_r2_is_that_of_the_probe_on_the_same_splits(found, network, images):
    fitting = Fitting(["ridge"], ["none"], repeats=4, permutations=0)
    curve = probe(network, images, fitting=fitting).scores(subset="mean").set_index("layer").r2
    own = found.to_frame().query("weights == 'pretrained' and concept == 'area'").set_index("layer")
    np.testing.assert_allclose(own.r2[curve.index], curve, rtol=1e-6)
    assert (own.r2_low <= own.r2).all() and (own.r2 <= own.r2_high).all()


def test_table_has_every_concept_at_every_layer_and_comes_back_from_its_folder(found, tmp_path):
    table = found.to_frame()
    assert list(table) == COLUMNS
    assert set(table.concept) == {"area", "brightness", "contrast"}
    assert not table.duplicated(["weights", "layer", "concept"]).any()
    again = read_atlas(found.save(tmp_path / "run"))
    assert again.finding() == found.finding()
    pd.testing.assert_frame_equal(again.to_frame(), table, atol=1e-6)
    assert (tmp_path / "run" / "figures" / "atlas.png").is_file()
    assert "With the other concepts held constant" in (tmp_path / "run/report.html").read_text()
    assert isinstance(scalecut.open_run(tmp_path / "run"), type(found))


def test_columns_of_numbers_are_concepts(network, images, tmp_path):
    rng = np.random.default_rng(3)
    names = [f"{number:03}.png" for number in range(N)]
    for name, image in zip(names, images.images, strict=True):
        image.decode().save(tmp_path / name)
    light = np.array([np.asarray(image.decode()).mean() for image in images.images])
    table = pd.DataFrame({"image": names, "measure": images.measure, "light": light})
    table["dose"] = rng.normal(size=N)
    table["scanner"], table["age"], table["note"] = 7, [None, *range(N - 1)], "fine"
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "t.csv", index=False)
    spec, names_of = f"csv:{tmp_path / 't.csv'}", ["light", "dose", "scanner", "age", "contrast"]
    found = atlas(network, spec, mapped=Mapped(names_of, repeats=4, permutations=99), seed=1)
    assert list(found.concepts) == ["measure", "light", "dose", "contrast"]
    assert found.provenance["concepts"]["dropped"] == {
        "scanner": "it is the same in all images of a split",
        "age": "it is not known of 1 images",
    }
    at = {image.name: row for row, image in enumerate(found.image_set.images)}  # another order
    read = found.concepts.light.to_numpy()[[at[name] for name in names]]
    np.testing.assert_allclose(read, light)
    own = found.table[found.table.weights != "random"].set_index(["layer", "concept"])
    assert own.r2["bright", "light"] > 0.95
    assert own.r2["bright", "dose"] < 0.1
    assert {*columns_of_numbers(spec, found.image_set, "dose")} == {"light", "scanner", "age"}
    with pytest.raises(DataError, match=r"'lihgt'\. Give one or more of measure, light, dose, "):
        atlas(network, spec, mapped=Mapped(["lihgt"]))


def test_brightness_is_found_beyond_the_area_that_goes_with_it(found):
    own = found.to_frame().query("weights == 'pretrained' and concept == 'brightness'")
    assert own.partial_r2.max() > 0.5
    assert own.p_value.min() == pytest.approx(0.01)
    assert "area is encoded best at" in found.finding()


def test_permutations_deal_out_what_the_other_concepts_leave_the_same_for_all_concepts(images):
    (part,) = draw_parts(images, 2, 0, shuffled=False)
    rng = np.random.default_rng(2)
    light = images.measure + 0.1 * rng.random(N)
    concepts = pd.DataFrame({"area": images.measure, "light": light, "x": rng.random(N)})
    plan, dealt = planned(part, concepts, {}, 5, 0), []
    for at, name in enumerate(concepts):
        others = concepts.drop(columns=name)
        rest = concepts[name] - LinearRegression().fit(others, concepts[name]).predict(others)
        np.testing.assert_array_equal(plan.permuted[at][:, 0], concepts[name])
        for column in plan.permuted[at][:, 1:].T:
            np.testing.assert_allclose(np.sort(column), np.sort(rest), atol=1e-12)
            assert np.abs(column - rest).max() > 0.01
        dealt.append([np.abs(rest.to_numpy() - each).argmin() for each in plan.permuted[at][:, 1]])
    assert dealt[0] == dealt[1] == dealt[2]


def patients(order, renamed):
    """16 patients, each with the same 4 levels and an age of its own, rows in this order."""
    rng, patient = np.random.default_rng(4), np.repeat(np.arange(16), 4)
    concepts = pd.DataFrame(
        {"level": np.tile(np.arange(4.0), 16), "age": rng.normal(size=16)[patient],
         "light": rng.normal(size=64)}
    ).iloc[order]  # fmt: skip
    group = [f"p{15 - each if renamed else each:02}" for each in patient[order]]
    blank = [np.full((4, 4, 3), number, np.uint8) for number in range(64)]
    images = make_image_set(blank, concepts.level.to_numpy(), group=group)
    (part,) = draw_parts(images, 2, 0, shuffled=False)
    return part, concepts


@pytest.mark.parametrize("renamed", [False, True])
def test_deals_depend_on_the_concept_and_not_on_the_order_of_rows(renamed):
    by_patient = np.arange(64)
    by_level = np.argsort(by_patient % 4, kind="stable")
    plans = {}
    for name, order in (("by patient", by_patient), ("by level", by_level)):
        part, concepts = patients(order, renamed)
        plans[name] = planned(part, concepts, {}, 30, 0)
        level, age, _ = plans[name].permuted
        for concept, each in (("level", level), ("age", age)):
            others = concepts.drop(columns=concept)
            fit = LinearRegression().fit(others, concepts[concept])
            rest = concepts[concept] - fit.predict(others)
            alike = [np.corrcoef(rest, column)[0, 1] for column in each[:, 1:].T]
            assert abs(np.mean(alike)) < 0.3, concept  # it does not stay where it is
        of_patients = pd.DataFrame(level[:, 1:]).groupby(part.groups).std()
        assert (of_patients > 1).all(axis=None)  # inside patients
        of_patients = pd.DataFrame(age[:, 1:]).groupby(part.groups).std()
        assert (of_patients < 0.5).all(axis=None)  # whole patients
    for one, other in zip(plans["by patient"].permuted, plans["by level"].permuted, strict=True):
        np.testing.assert_allclose(one[by_level], other, atol=1e-9)


def test_subsets_of_one_size_are_dealt_in_their_own_way(images):
    group = tuple(f"{number:03}" for number in range(N))
    both = replace(images, subset=("a",) * 75 + ("b",) * 75, group=group)
    concepts = pd.DataFrame({"area": images.measure, "x": np.random.default_rng(0).random(N)})
    orders = []
    for part in draw_parts(both, 2, 0, shuffled=False):
        x, dealt = planned(part, concepts, {"x": ["area"]}, 1, 0).permuted[1].T
        orders.append(np.argsort(x)[np.argsort(np.argsort(dealt))])  # where each came from
    assert not np.array_equal(*orders)


def test_random_weights_alone_are_the_random_row_of_the_other_run():
    def normed():
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))

    rng = np.random.default_rng(0)
    pixels = list(rng.integers(150, 200, (40, SIDE, SIDE, 3), dtype=np.uint8))  # unlike scenes
    bright = make_image_set(pixels, [float(each.mean()) for each in pixels])
    few = Mapped(["contrast"], repeats=2, permutations=19)
    both = atlas(network_of(normed()), bright, mapped=few).table
    alone = atlas(network_of(normed(), weights="random"), bright, mapped=few).table
    expected = both[both["weights"] == "random"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, expected)


def test_the_gain_over_several_random_networks_is_that_of_the_probe(network, images):
    both = replace(images, subset=("a",) * 75 + ("b",) * 75)
    few = Mapped(["brightness"], repeats=3, random_networks=3, permutations=0)
    own = atlas(network, both, mapped=few, seed=2).table.query("concept == 'area'")
    fitting = Fitting(["ridge"], ["random"], random_networks=3, repeats=3, permutations=0)
    table = probe(network, both, fitting=fitting, seed=2).table
    table = table[(table.subset == "mean") & (table.target == "true")]
    columns = ["weights", "layer", "r2_low", "r2_high", "learned", "learned_low", "learned_high"]
    one, other = (each[columns].set_index(columns[:2]).sort_index() for each in (own, table))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)
    with pytest.raises(DataError, match="--random-networks must be at most 32, got 33"):
        Mapped(random_networks=33)


def concept_files(folder, images, **columns):
    """A table of the images with these columns."""
    names = [f"{number:03}.png" for number in range(len(images))]
    for name, image in zip(names, images.images, strict=True):
        image.decode().save(folder / name)
    pd.DataFrame({"image": names, **columns}).to_csv(folder / "t.csv", index=False)
    return f"csv:{folder / 't.csv'}"


def test_a_sum_of_other_concepts_has_no_partial_r2_and_the_finding_ends(network, images, tmp_path):
    rng = np.random.default_rng(5)
    left, right = rng.random((2, N))
    columns = {"left": left, "slide": right, "total": left + right}
    spec = concept_files(tmp_path, images, **columns)
    names = Mapped([*columns], repeats=2, random_networks=0, permutations=19)
    asked = {"reading": Reading(target="left"), "mapped": names, "layers": ["bright"]}
    found = atlas(network, spec, **asked)
    assert found.concepts.columns.tolist() == ["left", "slide", "total"]
    assert found.table[["partial_r2", "partial_low", "p_value"]].isna().all(axis=None)
    assert (
        "total has no partial R², as it is a sum of multiples of other concepts." in found.notes()
    )
    assert found.finding().endswith("]).") and found.summary()
    again = read_atlas(found.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(again.concepts, found.concepts, atol=1e-6)


def test_the_column_measure_is_a_concept_where_another_is_the_target(network, images, tmp_path):
    spec = concept_files(tmp_path, images, measure=images.measure, age=np.arange(float(N)))
    few = Mapped(["measure"], repeats=2, random_networks=0, permutations=0)
    found = atlas(network, spec, reading=Reading(target="age"), mapped=few, layers=["bright"])
    np.testing.assert_allclose(found.concepts.measure, images.measure)
    assert " where measure is held constant. At bright, R² is " in found.finding()


def test_unusable_concepts_are_dropped_with_the_reason(images):
    parts = draw_parts(images, 3, 0, shuffled=False)
    concepts = pd.DataFrame(
        {"area": images.measure, "same": 1.0, "missing": [np.nan] + [0.0] * (N - 1),
         "good": np.arange(float(N))}
    )  # fmt: skip
    kept, dropped = usable(concepts, parts)
    assert list(kept) == ["area", "good"]
    assert "same in all images" in dropped["same"]
    assert "not known of 1 images" in dropped["missing"]
    many = concepts[["area"]].join(
        pd.DataFrame(np.random.default_rng(0).random((N, 30))).add_prefix("c")
    )
    kept, dropped = usable(many, parts)
    assert len(kept.columns) == 1 + 105 // 10
    assert len(kept.columns) + len(dropped) == 31
    assert "105 training images separate 11 concepts at most" in dropped["c29"]
    with pytest.raises(DataError, match="sharpness"):
        usable(concepts.rename(columns={"good": "sharpness"}), parts, ["sharpnes"])
    with pytest.raises(DataError, match="Only 1 concept"):
        usable(concepts[["area", "same"]], parts)


def test_sizes_and_copies_are_not_held_constant_for_each_other():
    rng = np.random.default_rng(1)
    area, light = rng.random((2, 200))
    table = pd.DataFrame(
        {"log-area": np.log2(area), "height": rng.random(200), "brightness": light,
         "twice": 2 * light + 0.01 * rng.random(200), "x": rng.random(200)}
    )  # fmt: skip
    apart = inseparable(table, ["a"] * 200)
    assert apart["log-area"] == ["height"]
    assert apart["brightness"] == ["twice"]
    assert "x" not in apart
    # between subsets everything may differ; inside them these two do not go together
    subset = ["a"] * 100 + ["b"] * 100
    shifted = table[["x", "height"]] + 50 * (np.array(subset) == "b")[:, None]
    assert inseparable(shifted.rename(columns={"height": "y"}), subset) == {}


@pytest.mark.parametrize("measure", ["age", "x"])
def test_what_is_no_size_is_held_constant_for_sizes_and_may_be_the_name_of_the_subset(measure):
    table = pd.DataFrame(np.random.default_rng(2).random((50, 3)), columns=[measure, "area", "b"])
    assert inseparable(table, [measure] * 50) == {}
    table["height"], table["twice"] = table.b**3, 2 * table.area
    apart = {"area": ["height", "twice"], "height": ["area"], "twice": ["area"]}
    assert inseparable(table.drop(columns="b"), [measure] * 50) == apart
