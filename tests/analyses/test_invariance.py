"""Networks whose prediction must change where the object crosses a size; others must not."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import jensenshannon
from torch import nn

from scalecut.analyses.invariance import (
    CHANGES,
    COLUMNS,
    Invariance,
    Variation,
    invariance,
    octaves_of,
    read_invariance,
    shown,
)
from scalecut.data.contact import SHEET
from scalecut.data.decoding import fitted
from scalecut.data.images import Image, LeftOut, make_image_set
from scalecut.data.measures import Frame
from scalecut.data.options import Reading
from scalecut.errors import DataError, LayerError, ModelError
from scalecut.features.extract import Computation
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing

SIDE = 32
OCTAVES = np.arange(-2, 2.5, 0.5).tolist()
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def loaded(*layers, preprocessing=AS_IT_IS):
    return load_network(nn.Sequential(OrderedDict(layers)), preprocessing=preprocessing)


def headed(*layers, channels=3, classes=4):
    """The layers, pooled, with a linear head."""
    return loaded(
        *layers,
        *[("mean", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())],
        ("fc", nn.Linear(channels, classes)),
    )


def looked(network, images, octaves=OCTAVES, changes=CHANGES, layers=(), batch_size=32, **options):
    variation = Variation([2.0**each for each in octaves], changes)
    computation = Computation(precision="float32", batch_size=batch_size)
    given = {"reading": Reading(at_most=0), "computation": computation, "variation": variation}
    return invariance(network, images, layers=layers, **given | options)


def values(table, quantity, change="image-size"):
    """By layer (rows) and octaves (columns)."""
    rows = table[(table.quantity == quantity) & (table.change == change)]
    return rows.pivot(index="layer", columns="octaves", values="value")


def plain(n, seed=0):
    """Images of one colour each."""
    colours = np.random.default_rng(seed).integers(20, 236, size=(n, 1, 1, 3), dtype=np.uint8)
    return make_image_set(list(np.tile(colours, (1, 40, 48, 1))), np.arange(n))


def textured(n, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(n, 5, 6, 3), dtype=np.uint8)
    return make_image_set(list(coarse.repeat(8, axis=1).repeat(8, axis=2)), np.arange(n))


@pytest.fixture
def network():
    """It spreads textured images evenly over its classes."""
    torch.manual_seed(0)
    network = headed(
        *[("one", nn.Conv2d(3, 8, 3, padding=1)), ("act", nn.ReLU())],
        *[("two", nn.Conv2d(8, 6, 3, stride=2)), ("sigmoid", nn.Sigmoid())],
        channels=6,
    )
    some = [fitted(image.decode(), AS_IT_IS.frame(), "bilinear") for image in textured(30).images]
    with torch.no_grad():
        features = network.module[:6](AS_IT_IS.tensor(np.stack(some)))
        network.module.fc.weight.mul_(100)
        network.module.fc.bias.copy_(-network.module.fc.weight @ features.mean(dim=0))
    return network


# --- planted truths -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "padding"),  # fewer images than channels, and more
    [(12, {"padding": 1, "padding_mode": "circular"}), (40, {})],
)
def test_plain_colours_are_the_same_at_any_size_without_borders(n, padding):
    torch.manual_seed(0)
    network = headed(
        *[("one", nn.Conv2d(3, 30, 3, **padding)), ("act", nn.ReLU())],
        *[("two", nn.Conv2d(30, 20, 3, **padding)), ("sigmoid", nn.Sigmoid())],
        channels=20,
    )
    found = looked(network, plain(n), octaves=(-2, -1, 0.5, 1.5), changes=("image-size",))
    assert found.left_out == ()
    table = found.table
    for quantity, truth in {
        "cosine": 1,
        "drift": 0,
        "map_error": 0,
        "agreement": 1,
        "probability_change": 0,
        "jensen_shannon": 0,
    }.items():
        rows = table[table.quantity == quantity]
        assert len(rows)
        known = ["value"] if quantity == "agreement" and n < 40 else ["value", "low", "high"]
        np.testing.assert_allclose(rows[known], truth, atol=2e-3)


def squares(shares, side=64):
    """A white square on black, of these shares of the image, each somewhere, with its box."""
    rng, pixels, boxes = np.random.default_rng(0), [], []
    for share in shares:
        edge = round(side * share**0.5)
        left, top = rng.integers(side - edge + 1, size=2)
        picture = np.zeros((side, side, 3), np.uint8)
        picture[top : top + edge, left : left + edge] = 255
        pixels.append(picture)
        boxes.append([left, top, left + edge, top + edge])
    return replace(make_image_set(pixels, shares), boxes=np.array(boxes, dtype=np.float64))


def test_prediction_of_a_network_that_weighs_the_area_changes_where_it_must():
    shares = np.array([(edge / 64) ** 2 for edge in (4, 6, 10, 12, 20, 24, 28, 44, 48, 60)])
    limit = 0.15
    network = headed(("same", nn.Conv2d(3, 3, 1)), classes=2)
    with torch.no_grad():
        network.module.same.weight.copy_(torch.eye(3)[:, :, None, None])
        network.module.same.bias.zero_()
        network.module.fc.weight.copy_(torch.tensor([[0.0] * 3, [200.0, 0, 0]]))
        network.module.fc.bias.copy_(torch.tensor([0.0, -200 * limit]))
    table = looked(network, squares(shares)).table
    is_large = shares > limit
    for octaves in OCTAVES:
        area = np.minimum(shares * 4**octaves, 1)
        truth = ((area > limit) == is_large).mean()
        assert values(table, "agreement", "object-scale").at["softmax", octaves] == truth
        assert values(table, "agreement", "image-size").at["softmax", octaves] == 1
    assert values(table, "agreement", "object-scale").loc["softmax"].min() == 0.6


def test_every_value_is_what_its_formula_gives(network):
    images, octaves = textured(11), (-1.0, 0.5)
    table = looked(network, images, octaves=octaves).table
    rows = np.arange(11)

    def outputs(octave, change):
        side = round(SIDE * 2**octave) if change == "image-size" else SIDE
        pixels = [
            fitted(image.decode(), Frame(side, side), "bilinear")
            if change == "image-size"
            else shown(image.decode(), float(octave), None, AS_IT_IS)
            for image in images.images
        ]
        with torch.inference_mode():
            maps = network.module[:3](AS_IT_IS.tensor(np.stack(pixels)))
            maps = network.module[3](maps)
            logits = network.module[6](maps.mean(dim=(2, 3)))
        return maps.mean(dim=(2, 3)).double().numpy(), logits.double().softmax(dim=1).numpy()

    for change in CHANGES:
        usual, p = outputs(0, change)
        for octave in octaves:
            here, q = outputs(octave, change)
            first = p.argmax(axis=1)
            away, about = here - usual.mean(axis=0), usual - usual.mean(axis=0)
            cosine = (away * about).sum(axis=1) / (
                np.linalg.norm(away, axis=1) * np.linalg.norm(about, axis=1)
            )
            expected = {
                ("agreement", "softmax"): np.mean(q.argmax(axis=1) == first),
                ("probability_change", "softmax"): np.mean(q[rows, first] - p[rows, first]),
                ("jensen_shannon", "softmax"): jensenshannon(p, q, axis=1, base=2).mean(),
                ("cosine", "pooled"): cosine.mean(),
            }
            for (quantity, layer), value in expected.items():
                found = values(table, quantity, change).at[layer, octave]
                np.testing.assert_allclose(found, value, atol=1e-4)
        down, _ = outputs(-1, change)
        away, about = down - usual.mean(axis=0), usual - usual.mean(axis=0)
        cosine = np.einsum("nd,nd->n", away, about) / (
            np.linalg.norm(away, axis=1) * np.linalg.norm(about, axis=1)
        )
        drift = values(table, "drift", change)
        assert list(drift) == [0.0]  # nothing lies an octave below the others
        np.testing.assert_allclose(drift.at["pooled", 0.0], 1 - cosine.mean(), atol=1e-4)


class Small(nn.Module):
    """Changes the maps of small images."""

    def __init__(self, change, below=SIDE):
        super().__init__()
        self.change, self.below = change, below

    def forward(self, maps):
        return self.change(maps) if maps.shape[-1] < self.below else maps


def changed_below(change):
    """The map error, at the training size, of a network that changes its maps at half of it."""
    torch.manual_seed(0)
    first = ("one", nn.Conv2d(3, 3, 1))
    network = loaded(first, ("small", Small(change)), ("two", nn.Conv2d(3, 3, 1)))
    table = looked(network, plain(60), octaves=(-1,), changes=("image-size",)).table
    return values(table, "map_error").at["two", 0.0], values(table, "drift").at["two", 0.0]


def test_map_error_is_that_of_the_planted_change():
    turn = torch.tensor([[0.0, 1.0, 0.5], [-1.0, 0.0, 0.0], [0.0, 0.3, -2.0]])
    error, drift = changed_below(lambda maps: torch.einsum("dc,nchw->ndhw", turn, maps) + 0.7)
    assert error < 1e-3
    assert drift > 0.2
    error, _ = changed_below(lambda maps: torch.sin(1e4 * maps))  # keeps nothing
    assert error == pytest.approx(1, abs=0.2)
    alone, drift = changed_below(torch.zeros_like)
    assert alone == pytest.approx(1, abs=0.1)  # the mean of the others is all that is left
    assert drift == pytest.approx(1, abs=1.01)


def test_intervals_are_those_of_drawing_groups_of_images(network):
    images, options = textured(40), {"octaves": (2.0,), "changes": ("object-scale",)}
    table = looked(network, images, **options).table
    row = table[(table.quantity == "agreement") & (table.octaves == 2)].iloc[0]
    stays = np.zeros(40)
    stays[: round(40 * row.value)] = 1
    by_scipy = scipy.stats.bootstrap(
        (stays,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert 0 < row.value < 1
    np.testing.assert_allclose([row.low, row.high], by_scipy, atol=0.05)
    assert ((table.low <= table.value + 1e-9) & (table.value <= table.high + 1e-9)).mean() > 0.95
    group = tuple(f"slide {number // 3}" for number in range(40))
    grouped = looked(network, replace(images, group=group), **options).table
    is_cosine = table.quantity == "cosine"
    assert np.allclose(table.value[is_cosine], grouped.value[is_cosine])
    assert not np.allclose(table.low[is_cosine], grouped.low[is_cosine])
    assert grouped.low.isna().equals(table.quantity == "agreement")  # which needs 40 groups
    few = looked(network, textured(11), **options).table
    assert few[["low", "high"]].isna().all(axis=None) and few.value.notna().all()


# --- what is shown --------------------------------------------------------------------------------


def places():
    """An image whose red and green are the column and the row."""
    down, across = np.mgrid[:100, :200]
    return PIL.Image.fromarray(np.stack([across, 2 * down, 0 * down], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("octaves", "box", "window"),
    [
        (1.0, (110.0, 50.0, 130.0, 60.0), (70, 30, 170, 80)),
        (1.0, None, (50, 25, 150, 75)),
        (2.0, (190.0, 90.0, 200.0, 100.0), (150, 75, 200, 100)),  # moved inside
    ],
)
def test_larger_object_is_a_window_about_its_box(octaves, box, window):
    found = shown(places(), octaves, box, AS_IT_IS)
    left, top, right, bottom = window
    columns = left + (np.arange(SIDE) + 0.5) * (right - left) / SIDE - 0.5
    rows = top + (np.arange(SIDE) + 0.5) * (bottom - top) / SIDE - 0.5
    inner = slice(2, -2)  # at the edges the resampling sees less
    np.testing.assert_allclose(found[inner, inner, 0], np.tile(columns, (28, 1))[:, inner], atol=1)
    np.testing.assert_allclose(
        found[inner, inner, 1].T, 2 * np.tile(rows, (28, 1))[:, inner], atol=1
    )


def test_smaller_object_lies_in_the_middle_of_the_fill_colour():
    preprocessing = Preprocessing(height=32, width=48)
    found = shown(places(), -1.0, (0.0, 0.0, 20.0, 10.0), preprocessing)
    np.testing.assert_array_equal(found[8:24, 12:36], fitted(places(), Frame(16, 24), "bilinear"))
    found[8:24, 12:36] = preprocessing.fill()
    assert (found == preprocessing.fill()).all()


# --- the sizes that are asked for ----------------------------------------------------------------


def test_sizes_are_factors_or_pixels_and_half_octaves_where_they_are_meant():
    text = ["0.25", "0.35", "0.5", "0.71", "1", "1.41", "2", "2.83", "4"]
    for side in (224, 299):
        assert [octaves_of(part, side) for part in text] == OCTAVES
        in_pixels = [f"{round(side * 2**each)}px" for each in OCTAVES]
        assert [octaves_of(part, side) for part in in_pixels] == OCTAVES
    assert octaves_of("0.6", 224) == pytest.approx(np.log2(0.6))
    assert octaves_of("225px", 224) == pytest.approx(np.log2(225 / 224))
    assert Variation(["2", 0.5, "448px"]).octaves(224) == [-1, 0, 1]


# --- the table ------------------------------------------------------------------------------------


def test_table_holds_one_row_per_change_size_layer_and_quantity(network):
    table = looked(network, textured(8)).table
    assert list(table) == COLUMNS
    keys = ["change", "octaves", "layer", "quantity"]
    layers, pairs = set(table.layer), 7  # of sizes one octave apart
    assert len(table) == len(table.drop_duplicates(keys))
    assert len(table) == 2 * (len(layers) * (9 + 2 * pairs) + 3 * 9)
    assert set(table.n_images) == {8}
    sides = table[table.change == "image-size"].groupby("octaves").side.unique().str[0]
    assert sides.tolist() == [8, 11, 16, 23, 32, 45, 64, 91, 128]
    assert set(table[table.change == "object-scale"].side) == {32}
    usual = table[(table.octaves == 0) & table.quantity.isin(["cosine", "agreement"])]
    np.testing.assert_allclose(usual.value, 1)


def test_layer_that_never_varies_has_no_values_and_there_is_no_prediction_without_a_head():
    network = loaded(("one", nn.Conv2d(3, 4, 3)), ("act", nn.ReLU()), ("two", nn.Conv2d(4, 4, 3)))
    nn.init.zeros_(network.module.one.weight)
    table = looked(network, textured(6), changes=("object-scale",)).table
    assert set(table.quantity) == {"cosine", "drift", "map_error"}
    assert table.value.isna().all()


def test_numbers_depend_on_the_seed_but_not_on_the_batches(network):
    images, octaves = textured(9), (-1.0, 1.0)
    one, same, other = (
        looked(network, images, octaves=octaves, seed=seed).table for seed in (3, 3, 4)
    )
    assert one.equals(same)
    assert not one.equals(other)
    for batch_size in (1, 5):
        apart = looked(network, images, octaves=octaves, batch_size=batch_size, seed=3).table
        np.testing.assert_allclose(one[["value", "low"]], apart[["value", "low"]], atol=2e-3)


def test_progress_reports_pixelsand_layers(network):
    calls = []
    options = {"octaves": (1.0,), "batch_size": 4}
    looked(network, textured(6), **options, progress=lambda *call: calls.append(call))
    assert calls[0] == ("images", 0, 6 * 4)
    assert ("images", 6 * 4, 6 * 4) in calls
    done = [done for stage, done, _ in calls if stage == "images"]
    assert done == sorted(done)
    assert calls[-1][0] == "comparison"
    assert calls[-1][1] == calls[-1][2]


# --- the result -----------------------------------------------------------------------------------


def test_result_comes_back_from_its_folder_with_noise_or_without(network, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    sizes = {"variation": Variation((0.5, 1, 2), ("object-scale",))}
    noise = {"noise": ("white",), "padding": ("zeros",), "noise_images": 24}
    alone = {"reading": Reading(at_most=48), "variation": Variation(**noise)}
    for name, data, options in (
        ("both", textured(8), {"variation": replace(sizes["variation"], **noise)}),
        ("one", textured(8), sizes),
        ("n", "", alone),
    ):
        found = looked(network, data, layers=["two"], **options)
        back = read_invariance(found.save(tmp_path / name, command="scalecut invariance"))
        assert (tmp_path / name / "figures" / SHEET).is_file() == bool(data)
        assert list(back.tables()) == list(found.tables())
        for table, written in zip(back.tables().values(), found.tables().values(), strict=True):
            pd.testing.assert_frame_equal(table, written, atol=1e-6, check_dtype=False)
        assert (back.finding(), back.left_out) == (found.finding(), found.left_out)
        assert back.provenance["settings"]["changes"][-1] == "object-scale"
        assert found.plot().axes
        assert found._repr_html_().startswith(f"<p><b>{found.finding()}")
    with pytest.raises(DataError, match=r"holds no invariance.csv or noise.csv, because"):
        (tmp_path / "n" / "noise.csv").unlink()
        read_invariance(tmp_path / "n")


def long_form(*rows):
    columns = ["change", "octaves", "side", "layer", "quantity", "value"]
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows])


def agreements(change, **kept):
    """Rows of agreement; the octaves as `at_-1`."""
    at = {float(name.removeprefix("at_")): value for name, value in kept.items()}
    for octaves, value in sorted({0.0: 1.0, **at}.items()):
        side = round(224 * 2**octaves) if change == "image-size" else 224
        yield change, octaves, side, "softmax", "agreement", value


def drifts(change="image-size", **values):
    for layer, value in values.items():
        for octaves, away in ((0.0, -0.1), (1.0, 0.1)):
            yield change, octaves, 224, layer, "drift", value + away


SIZES = tuple(agreements("image-size", **{"at_-2": 0.1, "at_-1": 0.46, "at_1": 0.58, "at_2": 0.2}))
SCALES = tuple(agreements("object-scale", **{"at_-1": 0.4, "at_1": 0.464}))
ALONE = ("image-size", 0.0, 224, "a", "cosine", 1.0)
FINDINGS = {
    "both changes, features without the softmax": (
        (*SIZES, *SCALES, *drifts(stem=0.2, block=0.75, softmax=0.9, pooled=0.3)),
        "46% of the predictions at 224 px stay the same at half the image size and 58% at double; "
        "where only the object's scale changes, 40% at half and 46% at double. Doubling the image "
        "size changes the features most at block (1 - cosine 0.75) and least at stem (0.20).",
    ),
    "one change": (
        (*SCALES, *drifts("object-scale", a=0.3, b=0.5)),
        "40% of the predictions at 224 px stay the same at half the object scale and 46% at "
        "double. Doubling the object scale changes the features most at b (1 - cosine 0.50) and "
        "least at a (0.30).",
    ),
    "other sizes": (
        tuple(agreements("image-size", **{"at_-2": 0.25, "at_-0.5": 0.9, "at_0.5": 0.8})),
        "25% of the predictions at 224 px stay the same at 0.25 times the image size and 80% at "
        "1.41 times.",
    ),
    "larger sizes alone": (
        tuple(agreements("image-size", at_1=0.5)),
        "50% of the predictions at 224 px stay the same at double the image size.",
    ),
    "one layer": (
        (ALONE, *drifts(a=0.3)),
        "Doubling the image size changes the features most at a (1 - cosine 0.30).",
    ),
    "nothing": (
        (ALONE,),
        "There are no predictions, and no two sizes an octave apart: invariance.csv has the "
        "cosines of the features.",
    ),
}


def test_summary_is_the_mean_of_the_layers_that_have_a_value():
    rows = [("image-size", 1.0, 64, layer, "cosine", value)
            for layer, value in (("dead", np.nan), ("a", 0.25), ("b", 0.75))]  # fmt: skip
    never = ("image-size", 2.0, 128, "dead", "cosine", np.nan)
    table = long_form(*rows, never).assign(model="m", n_images=50)
    (shown_,) = Invariance(table).summary().values()
    assert shown_[" cosine"].tolist() == ["0.50", "–"]


def test_finding_compares_half_and_double_or_the_extremes():
    for rows, text in FINDINGS.values():
        assert Invariance(long_form(*rows)).finding() == text


# --- what is skipped or refused -------------------------------------------------------------------


def refuses(reason, is_refused):
    class Refusing(nn.Module):
        def forward(self, maps):
            assert not is_refused(maps.shape[-1]), reason
            return maps

    first = ("one", nn.Conv2d(3, 3, 1))
    return loaded(first, ("refusing", Refusing()), ("two", nn.Conv2d(3, 3, 1)))


def test_size_at_which_the_network_does_not_run_is_skipped_with_the_reason():
    network = refuses("maps of 16 or less", lambda side: side <= 16)
    found = looked(network, textured(6))
    assert found.left_out == tuple(
        LeftOut(f"image-size {octaves} octaves ({side} x {side} px)", "maps of 16 or less")
        for octaves, side in [("-2", 8), ("-1.5", 11), ("-1", 16)]
    )
    assert values(found.table, "cosine").columns.tolist() == OCTAVES[3:]
    assert values(found.table, "drift").columns.tolist() == [0.5, 1, 1.5, 2]


def test_network_of_one_size_is_refused_unless_the_size_is_left_alone():
    network = refuses("it has places for 32 x 32.", lambda side: side != SIDE)
    with pytest.raises(ModelError) as error:
        looked(network, textured(6))
    assert str(error.value) == (
        "Sequential runs at none of 8 sizes but its own, 32 x 32 px (it has places for 32 x 32). "
        "Give --changes object-scale, which leaves the size as it is, or take another network."
    )
    found = looked(network, textured(6), changes=("object-scale",))
    assert found.left_out == ()


def test_size_at_which_a_network_folds_the_image_into_the_batch_is_refused():
    class Folding(nn.Module):
        def forward(self, maps):
            return maps.mean(dim=1).reshape(-1, SIDE * SIDE)

    network = loaded(
        *[("one", nn.Conv2d(3, 3, 1)), ("fold", Folding()), ("fc", nn.Linear(SIDE * SIDE, 2))]
    )
    with pytest.raises(ModelError, match=r"\(softmax gives 8 values there, not 2\)"):
        looked(network, textured(6), octaves=(1,), layers=["softmax"])


def test_image_that_cannot_be_read_is_skipped(network, tmp_path):
    images = textured(7)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    broken = Image("broken.jpg", tmp_path / "broken.jpg")
    options = {"octaves": (-1.0,), "changes": ("object-scale",)}
    with_broken = replace(images, images=(broken, *images.images[1:]))
    found = looked(network, with_broken, **options)
    assert [item.name for item in found.left_out] == ["broken.jpg"]
    assert set(found.table.n_images) == {6}
    without = looked(network, images.rows(np.arange(1, 7)), **options)
    assert found.table.value.equals(without.table.value)
    with pytest.raises(DataError, match=r"^broken.jpg: .*\. Fix or remove it, or drop --strict\.$"):
        looked(network, with_broken, reading=Reading(strict=True), **options)


def test_feature_that_is_not_finite_is_refused():
    layers = ("one", nn.Conv2d(3, 3, 1)), ("small", Small(lambda maps: maps / 0, below=10))
    network = loaded(*layers, ("two", nn.Conv2d(3, 3, 1)))
    with pytest.raises(LayerError) as error:
        looked(network, textured(6))
    assert str(error.value) == (
        "Layer 'two' of Sequential gave values that are not finite for 6 of 6 images at image-size "
        "-2 octaves. Try --precision float32, or choose other --layers."
    )


REFUSED = {
    "neither images nor noise": (
        lambda network: looked(network, ""),
        "Neither images nor noise were asked for. Give --data voc:DIR (or scenes), or --noise "
        "white, or both.",
    ),
    "few groups": (
        lambda network: looked(network, replace(textured(8), group=tuple("aabbccdd"))),
        "There are 8 images of 4 groups that can be read, but at least 5 groups are needed to test "
        "on others. Give images of more groups.",
    ),
    "unknown change": (
        lambda network: Variation(changes=("object-scale", "colour")),
        "No change is named 'colour'. Give one or more of image-size, object-scale.",
    ),
    "no change": (
        lambda network: Variation(changes=()),
        "--changes is empty. Give one or more of image-size, object-scale.",
    ),
    "few images of noise": (
        lambda network: Variation(noise=("white",), noise_images=19),
        "--noise-images must be at least 20 to train and to test, got 19.",
    ),
    "size in words": (
        lambda network: octaves_of("huge", 32),
        "'huge' is no size. Give factors of the training resolution from 1/64 to 64, such as "
        "0.5,1,2, or pixels, such as 16px,32px.",
    ),
    "size not finite": (
        lambda network: octaves_of("inf", 32),
        "'inf' is no size. Give factors of the training resolution from 1/64 to 64, such as "
        "0.5,1,2, or pixels, such as 16px,32px.",
    ),
    "no other size": (
        lambda network: Variation(("1", "32px")).octaves(32),
        "--sizes '1,32px' names no size but the training resolution. Give others, such as 0.5,1,2.",
    ),
    "options of noise without noise": (
        lambda network: invariance(network, plain(6), variation=Variation(noise_images=40)),
        "noise_images=40 has no effect without --noise. Leave it at its default, 126.",
    ),
    "sizes without images": (
        lambda network: invariance(network, variation=Variation(["0.5", "1"], noise=["white"])),
        "sizes=['0.5', '1'] has no effect without --data. Leave it at its default, (0.25, 0.35, "
        "0.5, 0.71, 1, 1.41, 2, 2.83, 4).",
    ),
    "reading without images": (
        lambda network: invariance(
            network, reading=Reading(at_most=12), variation=Variation(noise=["white"])
        ),
        "at_most=12 has no effect without --data. Leave it at its default, 48.",
    ),
    "option without effect": (
        lambda network: looked(network, textured(6), computation=Computation(fit="crop")),
        "fit='crop' has no effect in this analysis. Leave it at its default, 'squash'.",
    ),
}


@pytest.mark.usefixtures("untyped")
def test_what_cannot_be_done_is_refused_with_the_remedy(network):
    for call, text in REFUSED.values():
        with pytest.raises(DataError) as error:
            call(network)
        assert str(error.value) == text
