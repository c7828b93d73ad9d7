"""Curves from sums of products: the same as from features, to the bit however they are summed."""

import functools
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from scipy.linalg import pinvh
from scipy.stats import t as student
from torch import nn
from typer.testing import CliRunner

from scalecut import DataError, LayerError, Preprocessing, cli, extract, image_set, shards
from scalecut.curve import COLUMNS
from scalecut.engines import Way
from scalecut.features import Task, computed_here
from scalecut.images import Image
from scalecut.inputs import Look, Reading, chosen_points
from scalecut.models import load_network
from scalecut.regression import PENALTIES
from scalecut.scenes import made_up_scenes
from scalecut.shards import Plan, joined, pilot_scales, summed
from scalecut.streaming import stream, stream_measures
from scalecut.sums import CELLS, cell_of, jackknife

SIDE = 24
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
EXACTLY = Look(precision="float32", batch_size=8)
LAYERS = ["look", "area", "colour"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def disc(rng):
    """A disc that flickers on a plain colour; its mean is that of the colour, whatever its size."""
    radius = rng.uniform(3, 10)
    x, y = rng.uniform(radius + 1, SIDE - radius - 1, size=2)
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = (down - y) ** 2 + (across - x) ** 2 < radius**2
    flicker = 60 * rng.permuted(np.resize([-1, 1], (SIDE, SIDE))) * inside
    colour = rng.integers(70, 186, size=3)
    return (colour + flicker[..., None]).astype(np.uint8), inside.mean()


def discs(n=90, seed=0, subset="disc", group=None):
    rng = np.random.default_rng(seed)
    pictures, areas = zip(*(disc(rng) for _ in range(n)), strict=True)
    return image_set(pictures, areas, subset=subset, group=group, measure_name="area")


def planted():
    """Layers that hold the colour, then the area, then the colour again."""
    network = nn.Sequential(
        OrderedDict(
            look=nn.Conv2d(3, 2, 1),
            contrast=nn.Conv2d(2, 3, 3),
            area=nn.ReLU(),
            forget=nn.Conv2d(3, 2, 1),
            colour=nn.ReLU(),
        )
    )
    edges = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.look.weight[:, :, 0, 0] = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]]) / 3
        network.contrast.weight[0, 0], network.contrast.weight[1, 0] = edges, -edges
        network.contrast.weight[2, 1, 1, 1] = 1.0
        network.forget.weight[:, 2, 0, 0] = torch.tensor([1.0, 2.0])
    return load_network(network, preprocessing=AS_IT_IS)


def streamed(images, network=None, **settings):
    settings = {"layers": LAYERS, "look": EXACTLY, "shard_size": 16, **settings}
    return stream(network or planted(), images, **settings)


@functools.cache
def curve_of_discs():
    """Streamed once for all tests that only read it."""
    return streamed(discs())


def plan_of(images):
    cells = np.array([cell_of(group, 0) for group in images.group])
    return Plan(images, images.measure[:, None], cells, shard_size=16)


def task_of(network):
    points, _ = chosen_points(network, LAYERS)
    return Task(network, tuple(points), "squash", Way("torch", "float32", "cpu"), 8)


def sums_of(*asked):
    return functools.reduce(joined, summed(*asked))


def nested(features, y, cells):
    """R² of ridge and of least squares, cell by cell held out, one fit after the other."""
    lost, total = np.zeros(2), 0.0
    for cell in np.unique(cells):
        out = cells == cell
        errors = 0.0
        for other in np.unique(cells[~out]):
            inner = cells == other
            errors += squares(features, y, ~out & ~inner, inner, PENALTIES)
        best = PENALTIES[errors.argmin()]
        lost += squares(features, y, ~out, out, [best, 0.0])
        total += np.sum((y[out] - y[out].mean()) ** 2)
    return 1 - lost / total


def squares(features, y, fitted, out, penalties):
    """Squared errors of the normal equations of each penalty."""
    mean, deviation = features[fitted].mean(axis=0), features[fitted].std(axis=0)
    X, Z = (features[fitted] - mean) / deviation, (features[out] - mean) / deviation
    middle, eye = y[fitted].mean(), np.eye(X.shape[1])
    along = X.T @ (y[fitted] - middle)
    fits = [pinvh(X.T @ X + a * eye, rtol=1e-10) @ along for a in penalties]
    return np.array([np.sum((y[out] - middle - Z @ w) ** 2) for w in fits])


# --- the numbers ---------------------------------------------------------------------------------


def test_curve_is_that_of_the_features_themselves():
    images, network = discs(), planted()
    found = extract(network, images.images, chosen_points(network, LAYERS)[0], precision="float32")
    cells = np.array([cell_of(group, 0) for group in images.group])
    curve = curve_of_discs()
    for regressor, column in (("ridge", 0), ("ols", 1)):
        rows = curve.scores(regressor=regressor).set_index("layer")
        for layer in LAYERS:
            features = found.matrices[layer].astype(np.float64)
            by_hand = nested(features, images.measure, cells)[column]
            assert rows.r2[layer] == pytest.approx(by_hand, abs=1e-6)


def test_layer_that_holds_the_area_is_found_and_the_others_are_not():
    curve = curve_of_discs()
    rows = curve.scores().set_index("layer")
    assert curve.peak() == "area"
    assert rows.r2["area"] > 0.8
    assert rows.learned_low["area"] > 0
    assert (rows.r2[["look", "colour"]] < 0.1).all()
    shuffled = curve.scores(target="shuffled").r2
    assert (shuffled < 0.1).all()
    finding = curve.finding()
    assert finding.startswith("Sequential carries the object's scale best at area: R² 0.")
    assert " is learned; colour has " in finding
    assert finding.endswith(" less; 81 images to fit.")


def test_table_has_the_columns_of_every_curve():
    curve = curve_of_discs()
    table = curve.frame()
    assert list(table.columns) == COLUMNS
    keys = ["subset", "weights", "target", "regressor", "layer"]
    assert not table.duplicated(keys).any()
    assert set(table.weights) == {"pretrained", "random", "pixels"}
    assert len(table) == 2 * 2 * 2 * (3 + 3 + 1)  # subsets, targets, regressors, layers
    assert table.p_value.isna().all() and table.r2_spread.isna().all()
    assert (table.seed_count == 1).all() and (table.measure == "area").all()
    pixels = table.loc[(table.weights == "pixels") & (table.regressor == "ols")]
    assert pixels.r2.isna().all() and pixels.r2_low.isna().all()  # more channels than images


def test_learned_is_the_lead_over_the_best_control_paired_cell_by_cell():
    curve = curve_of_discs()
    own, twin, pixels = (
        curve.scores(weights=kind).query("layer in ['area', 'pixels']").iloc[0]
        for kind in ("pretrained", "random", "pixels")
    )
    assert own.learned == pytest.approx(own.r2 - max(0, twin.r2, pixels.r2))
    replicates = [curve.replicates[row.name] for row in (own, twin, pixels)]
    lead = replicates[0] - np.maximum(0, np.maximum(*replicates[1:]))
    expected = jackknife(own.learned, lead[np.isfinite(lead)])
    assert (own.learned_low, own.learned_high) == pytest.approx(expected)


def test_mean_over_subsets_is_jackknifed_with_a_cell_left_out_of_all_at_once():
    images = discs(100, subset=["cat", "dog"] * 50, group=[str(n // 2) for n in range(100)])
    curve = streamed(images, controls=[])
    rows = {name: curve.scores(subset=name).set_index("layer") for name in ("cat", "dog", "mean")}
    for layer in LAYERS:
        scores = [rows[name].r2[layer] for name in ("cat", "dog")]
        assert rows["mean"].r2[layer] == pytest.approx(np.mean(scores))
    place = {name: curve.scores(subset=name).index[0] for name in rows}
    mean = (curve.replicates[place["cat"]] + curve.replicates[place["dog"]]) / 2
    np.testing.assert_allclose(curve.replicates[place["mean"]], mean)
    first = rows["mean"].iloc[0]
    used = mean[np.isfinite(mean)]
    spread = np.sqrt((len(used) - 1) / len(used) * np.sum((used - used.mean()) ** 2))
    reach = student.ppf(0.975, len(used) - 1) * spread
    assert first.r2 - first.r2_low == pytest.approx(reach)


def test_groups_stay_in_one_cell():
    """Copies of each picture would tell their measure, if only one of them were held out."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, SIDE, SIDE, 3), dtype=np.uint8)
    names = [f"patient {n // 4}" for n in range(120)]
    copies = image_set(list(noise.repeat(4, axis=0)), rng.random(30).repeat(4), group=names)
    assert streamed(copies, controls=["pixels"]).scores(weights="pixels").r2.iloc[0] < 0.1


# --- shards --------------------------------------------------------------------------------------


def test_shards_in_any_order_and_company_are_the_same_bits():
    plan, task = plan_of(discs()), task_of(planted())
    scales = pilot_scales(task, plan)
    at_once = sums_of(task, plan, scales, range(plan.n_shards))
    assert at_once.shards == frozenset(range(6))
    alone = [sums_of(task, plan, scales, [shard]) for shard in (3, 0, 5, 1, 4, 2)]
    for parts in (alone, alone[::-1]):
        whole = functools.reduce(joined, parts)
        assert whole.shards == at_once.shards
        for key, sums in at_once.sums.items():
            assert np.array_equal(whole.sums[key].packed, sums.packed)


def test_batches_in_any_order_are_the_same_bits():
    """As those of many workers come."""
    plan, task = plan_of(discs()), task_of(planted())

    def shuffled(task, images, numbers):
        batches = [*computed_here(task, images, numbers)]
        yield from (batches[place] for place in np.random.default_rng(0).permutation(len(batches)))

    scales, of_shuffled = pilot_scales(task, plan), pilot_scales(task, plan, shuffled)
    for layer, scale in scales.items():
        assert np.array_equal(scale.centre, of_shuffled[layer].centre)
        assert np.array_equal(scale.deviation, of_shuffled[layer].deviation)
    expected = sums_of(task, plan, scales, range(6))
    whole = sums_of(task, plan, scales, range(6), shuffled)
    assert whole.shards == expected.shards
    for key, sums in expected.sums.items():
        assert np.array_equal(whole.sums[key].packed, sums.packed)


def test_shard_that_comes_twice_is_not_counted_twice():
    plan, task = plan_of(discs(20)), task_of(planted())
    part = sums_of(task, plan, pilot_scales(task, plan), [1])
    with pytest.raises(AssertionError, match="a shard would be counted twice"):
        joined(part, part)


def test_size_of_shards_does_not_matter_beyond_the_last_bits_of_features():
    one, other = (streamed(discs(), shard_size=size, controls=[]) for size in (90, 7))
    np.testing.assert_allclose(one.table.r2, other.table.r2, atol=1e-5)


class KilledError(Exception):
    """As if the process had ended."""


@pytest.mark.parametrize("stage", ["features", "random twin"])
def test_run_that_was_killed_goes_on_and_ends_at_the_same_bits(cached, monkeypatch, stage):
    monkeypatch.setattr(shards, "KEPT_EVERY", 2)
    images, controls = discs(), ["random", "shuffled"]
    expected = streamed(images, controls=controls)
    assert list(cached.glob("streams/*")) == []

    def kill(at, done, total):
        if at == stage and done > 50:
            raise KilledError

    with pytest.raises(KilledError):
        streamed(images, controls=controls, progress=kill)
    assert len(list(cached.glob("streams/*.npz"))) == (1 if stage == "features" else 2)
    again = streamed(images, controls=controls)
    assert (
        again.provenance["stages"][stage]["images_computed"] == 90 - 32
    )  # four of six shards left
    pd.testing.assert_frame_equal(again.table, expected.table, check_exact=True)
    assert np.array_equal(again.replicates, expected.replicates, equal_nan=True)
    assert list(cached.glob("streams/*")) == []


def test_kept_sums_of_other_images_or_settings_are_not_used(cached, monkeypatch):
    monkeypatch.setattr(shards, "KEPT_EVERY", 1)

    def kill(at, done, total):
        if done > 50:
            raise KilledError

    with pytest.raises(KilledError):
        streamed(discs(), controls=[], progress=kill)
    for settings in (
        {"seed": 1},
        {"shard_size": 24},
        {"layers": ["area"]},
        {"look": replace(EXACTLY, fit="crop")},
    ):
        other = streamed(discs(), controls=[], **settings)
        assert other.provenance["stages"]["features"]["images_computed"] == 90
    other = streamed(discs(seed=1), controls=[])
    assert other.provenance["stages"]["features"]["images_computed"] == 90


def test_features_are_not_kept(cached):
    streamed(discs())
    assert [path for path in cached.rglob("*") if path.is_file()] == []


# --- several measures at once --------------------------------------------------------------------


def boxes(folder, n=40):
    """Bright boxes on grey, with their annotations."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n):
        width, height = rng.integers(4, SIDE - 4, size=2)
        left, top = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        pixels[top : top + height, left : left + width] = 200
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        box = {"xmin": left + 1, "ymin": top + 1, "xmax": left + width, "ymax": top + height}
        cells = "".join(f"<{side}>{at}</{side}>" for side, at in box.items())
        (folder / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><size><width>{SIDE}</width><height>"
            f"{SIDE}</height></size><object><name>box</name><bndbox>{cells}</bndbox></object>"
            "</annotation>"
        )
    return f"voc:{folder}"


def test_several_measures_in_one_pass_are_those_of_a_pass_each(tmp_path):
    data, settings = boxes(tmp_path / "boxes"), {"layers": LAYERS, "look": EXACTLY}
    passes = []
    together = stream_measures(
        planted(), data, ["area", "height"], **settings,
        progress=lambda stage, done, total: passes.append(stage),
    )  # fmt: skip
    assert list(together) == ["area", "height"]
    assert passes.count("features") == 1 + 40 // EXACTLY.batch_size
    for measure, curve in together.items():
        alone = stream(planted(), data, reading=Reading(measure=measure), **settings)
        pd.testing.assert_frame_equal(curve.table, alone.table, rtol=1e-9)
        assert (curve.table.measure == measure).all()
    area, height = (curve.scores().r2.to_numpy() for curve in together.values())
    assert not np.allclose(area, height)


def test_measures_of_images_in_memory_go_together(monkeypatch):
    few_scenes = functools.partial(made_up_scenes, 80)
    monkeypatch.setattr("scalecut.inputs.made_up_scenes", few_scenes)
    few = {"layers": ["area"], "look": EXACTLY, "controls": []}
    together = stream_measures(planted(), "scenes", ["area", "height"], **few)
    alone = stream(planted(), "scenes", reading=Reading(measure="height"), **few)
    pd.testing.assert_frame_equal(together["height"].table, alone.table, rtol=1e-9)


def test_measures_of_other_images_are_refused(monkeypatch):
    def read(data, frame, reading, **_):
        return discs(24 if reading.measure == "area" else 25)

    monkeypatch.setattr("scalecut.streaming.images_of", read)
    with pytest.raises(DataError) as error:
        stream_measures(planted(), "voc:somewhere", ["area", "height"], layers=LAYERS)
    assert str(error.value) == (
        "area is measured on 24 images, area on 25 or others. Stream them one at a time."
    )


def test_several_measures_of_data_that_bring_their_own_are_refused():
    with pytest.raises(DataError) as error:
        stream_measures(planted(), discs(24), ["area", "height"], layers=LAYERS)
    assert str(error.value) == "The data bring their own measure, area. Give one measure."


def test_command_writes_a_run_for_each_measure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scalecut.report.DOTS_PER_INCH", 20)
    result = probed(boxes(tmp_path / "boxes"), "--measure", "area,height", "--controls", "none")
    assert result.exit_code == 0, result.output
    for measure in ("area", "height"):
        facts = json.loads(Path("run", measure, "run.json").read_text(encoding="utf-8"))
        assert facts["settings"]["measure"] == facts["images"]["measure"] == measure
        assert set(pd.read_csv(f"run/{measure}/curve.csv").measure) == {measure}


# --- bad input -----------------------------------------------------------------------------------


def with_broken(images, tmp_path, places):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    broken = {place: Image(f"broken {place}", tmp_path / "broken.jpg") for place in places}
    kept = [broken.get(place, image) for place, image in enumerate(images.images)]
    return replace(images, images=tuple(kept))


def test_image_that_cannot_be_read_is_left_out_and_named(tmp_path):
    images = with_broken(discs(), tmp_path, [3, 20, 21])
    curve = streamed(images, controls=["random"])
    assert [each.name for each in curve.images_left_out] == ["broken 3", "broken 20", "broken 21"]
    assert (curve.table.n_images == 87).all()
    good = images.rows([n for n in range(90) if n not in (3, 20, 21)])
    rest = streamed(good, controls=["random"])
    np.testing.assert_allclose(curve.scores().r2.to_numpy(), rest.scores().r2.to_numpy(), atol=1e-5)
    with pytest.raises(DataError, match=r"^broken 3: .*\. Mend or remove it, or drop --strict\.$"):
        streamed(images, reading=Reading(strict=True))


def test_shard_of_broken_images_alone_adds_nothing(tmp_path):
    images = with_broken(discs(), tmp_path, range(16, 32))
    assert (streamed(images, controls=[]).table.n_images == 74).all()


def test_images_none_of_which_can_be_read_are_refused(tmp_path):
    images = with_broken(discs(24), tmp_path, range(24))
    with pytest.raises(DataError) as error:
        streamed(images, controls=[])
    said = str(error.value)
    assert said.startswith("None of 24 images could be read (")
    assert said.endswith("). Check the folder of images.")


def test_shard_of_no_images_is_refused():
    with pytest.raises(DataError) as error:
        streamed(discs(24), shard_size=0)
    assert str(error.value) == "A shard cannot be of 0 images. Give 1 or more; 256 is usual."


def test_layer_whose_values_are_not_finite_is_refused():
    network = planted()
    with torch.no_grad():
        network.module.forget.bias[0] = torch.inf
    with pytest.raises(LayerError) as error:
        streamed(discs(24), network)
    assert str(error.value) == (
        "Layer 'colour' gave values that are not finite, the first for image 0. Try --precision "
        "float32, or choose other --layers."
    )


# --- the command ---------------------------------------------------------------------------------


def scalecut(*typed):
    result = CliRunner().invoke(cli.app, [str(word) for word in typed])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tiles(folder, n=60):
    folder.mkdir()
    images = discs(n)
    for image in images.images:
        PIL.Image.fromarray(image.source).save(folder / f"{image.name}.png")
    names = [f"{image.name}.png" for image in images.images]
    table = pd.DataFrame({"image": names, "measure": images.measure})
    table.to_csv(folder / "tiles.csv", index=False)
    return f"csv:{folder / 'tiles.csv'}"


def probed(data, *more):
    return scalecut(
        *("probe", "test_resnet", "--weights", "random", "--input-size", 32, "--data", data),
        *("--stream", "--out", "run", *more),
    )


def test_command_writes_a_run_and_says_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scalecut.report.DOTS_PER_INCH", 20)
    monkeypatch.setattr(cli.OUT, "width", 100)
    result = probed(tiles(tmp_path / "tiles"))
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    table = pd.read_csv("run/curve.csv")
    assert list(table.columns) == COLUMNS
    assert facts["stream"] == {
        "cells": CELLS, "seed": 0, "pilot": 60, "shard_size": 256, "shards": 1
    }  # fmt: skip
    assert facts["settings"]["stream"] is True
    assert facts["stages"]["features"]["images_computed"] == 60
    assert facts["images"]["n_images"] == 60
    assert "torch" in facts["versions"]
    assert facts["finding"] in " ".join(result.output.split())
    assert "No p-values: sums of products do not tell them." in result.output
    assert "No least squares at" in result.output
    assert "R² of measure, test_resnet, 60 images" in result.output
    assert Path("run/figures/curve.png").is_file()


def test_command_tells_machines_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scalecut.report.DOTS_PER_INCH", 20)
    result = probed(tiles(tmp_path / "tiles"), "--layers", "logits", "--json", "--controls", "none")
    told = json.loads(result.output)
    assert told["run"] == "run"
    assert [row["layer"] for row in told["curve"]] == ["logits"] * 4  # two regressors, and the mean
    assert told["curve"][0]["p_value"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("--repeats", "20"), ("--match-width", "8"), ("--regressor", "ridge"), ("--twins", "1")],
)
def test_option_that_sums_have_no_use_for_is_refused(tmp_path, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    result = probed("csv:none.csv", option, value)
    assert result.exit_code == 2
    assert " ".join(result.stderr.split()) == (
        f"scalecut: {option} {value} has no meaning with --stream, which fits ridge and least "
        "squares once, in 10 cells of groups, and one twin. Leave one of the two out."
    )
    assert list(tmp_path.iterdir()) == []
