"""Planted filters and directions are recovered as images; the parametrisation is inverted."""

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from scalecut import DataError, LayerError, ModelError, Preprocessing, load_network
from scalecut.analyses import visualise as module
from scalecut.analyses.rcv import Directions, ridge
from scalecut.analyses.visualise import (
    COLOURS,
    COLUMNS,
    Optimisation,
    axes,
    maximised,
    read_visualisations,
    rendered,
    seen,
    total_variation_slope,
    visualise,
)
from scalecut.features.backends import Backend
from scalecut.features.extract import forward
from scalecut.figures.sheet import sheet
from scalecut.networks.layers import probe_points
from scalecut.networks.network import tensors_sha256
from scalecut.networks.points import LOGITS, POOLED, SOFTMAX

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, K = 32, 9  # of the images, and of the planted filters
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
QUICK = Optimisation(SIDE, 12)


def planted_filters():
    """Stripes upright, level and aslant; red against blue, and the other way round."""
    down, across = np.mgrid[:K, :K] - K // 2
    stripes = [np.cos(2 * np.pi * at / 6) for at in (across, down, (across + down) / np.sqrt(2))]
    grey = [np.stack([each - each.mean()] * 3) for each in stripes]
    red = np.stack([np.ones((K, K)), np.zeros((K, K)), -np.ones((K, K))])
    found = np.stack([*grey, red, -red])
    return found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))


class Planted(nn.Module):
    """The planted filters, rectified, then a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, K)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(5, 4)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            self.conv.weight.copy_(torch.from_numpy(planted_filters()))
            self.conv.bias.zero_()
            self.fc.weight.normal_()

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).mean(dim=(2, 3)))


class Blind(Planted):
    """Lets no gradient through."""

    def forward(self, x):
        return super().forward(x.detach())


def network_of(module, preprocessing=AS_IT_IS):
    network = load_network(module, preprocessing=preprocessing)
    points = probe_points(network.module, network.example())[0]
    return network, {point.layer: point for point in points}


@pytest.fixture(scope="module")
def planted():
    return network_of(Planted())


@pytest.fixture(scope="module")
def images_of_units(planted):
    network, points = planted
    return maximised(network, points["act"], np.eye(5), Optimisation(64))


def activation(network, point, made, directions):
    """How far the features of images go along directions, computed as in the probe."""
    with forward(network, [point], Backend("torch", "float32", "cpu")) as pooled:
        (features,) = pooled(network.preprocessing.tensor(made))
    return (features * directions).sum(axis=1)


def total_variation(made):
    made = made.astype(float)
    return sum(np.abs(made - np.roll(made, 1, axis)).sum() for axis in (1, 2))


# --- what is planted comes out -------------------------------------------------------------------


def test_every_unit_shows_its_filter(images_of_units):
    filters = planted_filters()
    patches = np.lib.stride_tricks.sliding_window_view(
        images_of_units.images / 255 - 0.5, (K, K), axis=(1, 2)
    )  # k, places down, places across, 3, K, K
    likeness = np.zeros((5, 5))
    for unit, of_unit in enumerate(patches):
        rows = of_unit.reshape(-1, 3 * K * K)
        best = rows[np.argmax(rows @ filters[unit].ravel())]
        likeness[unit] = filters.reshape(5, -1) @ best / np.linalg.norm(best)
    assert (np.diag(likeness) > 0.75).all(), likeness.round(2)
    assert (likeness.argmax(axis=1) == np.arange(5)).all()


def test_every_unit_is_driven_more_by_its_own_image_than_by_noise_and_others(
    planted, images_of_units
):
    network, points = planted
    assert (images_of_units.ends > images_of_units.starts + 0.5).all()
    found = [
        activation(network, points["act"], images_of_units.images, np.eye(5)[unit])
        for unit in range(5)
    ]
    assert (np.argmax(found, axis=1) == np.arange(5)).all()


def test_direction_of_scale_shows_larger_and_smaller(planted):
    network, points = planted
    rng = np.random.default_rng(0)
    radii = rng.uniform(3, 14, size=60)
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    discs = np.hypot(down, across) < radii[:, None, None]
    images = np.where(discs[..., None], (230, 120, 40), (30, 60, 90)).astype(np.uint8)
    with forward(network, [points["act"]], Backend("torch", "float32", "cpu")) as pooled:
        (features,) = pooled(network.preprocessing.tensor(images))
    features = features.astype(np.float64)
    weights, _ = ridge(features, radii, np.arange(60), features[:0])
    both = np.stack([weights, -weights])
    found = maximised(network, points["act"], both, Optimisation(SIDE, 40))
    larger, smaller = activation(network, points["act"], found.images, weights)
    predicted = features @ weights  # the measure, but for a constant
    assert larger > predicted.max()
    assert smaller < predicted.min()
    np.testing.assert_allclose(found.ends, [larger, -smaller], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.starts[0], -found.starts[1])


def test_vectors_and_maps_are_maximised_alike():
    network, points = network_of(
        nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, 5, 3, padding=1),
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                fc=nn.Linear(5, 4),
            )
        )
    )
    for layer in ("conv", POOLED, LOGITS, SOFTMAX):
        rows = axes(points[layer], [0, 3])
        found = maximised(network, points[layer], rows, QUICK)
        assert (found.ends > found.starts).all()
        expected = activation(network, points[layer], found.images, rows)
        np.testing.assert_allclose(found.ends, expected, rtol=1e-4, atol=1e-5)


def test_numbers_are_those_of_the_probe_with_the_networks_own_preprocessing():
    for channels in ("rgb", "bgr"):
        own = Preprocessing(SIDE, SIDE, (0.1, 0.4, 0.7), (0.01, 0.2, 0.5), channels=channels)
        network, points = network_of(Planted(), own)
        found = maximised(network, points["act"], np.eye(5), QUICK)
        expected = activation(network, points["act"], found.images, np.eye(5))
        np.testing.assert_allclose(found.ends, expected, rtol=1e-4, atol=1e-4)


# --- chance, order, and what is left behind ------------------------------------------------------


def test_the_seed_alone_decides(planted):
    network, points = planted
    one, same, other = (
        maximised(network, points["act"], np.eye(5)[:2], QUICK, seed=seed) for seed in (0, 0, 1)
    )
    assert one.images.tobytes() == same.images.tobytes()
    assert one.ends.tobytes() == same.ends.tobytes()
    assert (one.images != other.images).mean() > 0.5


def test_an_image_does_not_depend_on_which_others_are_asked_for(planted, monkeypatch):
    network, points = planted
    together = maximised(network, points["act"], np.eye(5), QUICK)
    monkeypatch.setattr(module, "AT_ONCE", 4)
    apart = maximised(network, points["act"], np.eye(5)[::-1], QUICK)
    difference = together.images.astype(int) - apart.images[::-1]
    assert np.abs(difference).max() <= 2  # rounding
    np.testing.assert_allclose(together.starts, apart.starts[::-1], atol=1e-6)


def test_network_and_its_weights_are_left_as_they_were(planted):
    network, points = planted
    module = network.module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    maximised(network, points["act"], np.eye(5)[:1], QUICK)
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    module.eval()


def test_nothing_behind_the_point_is_computed():
    network, points = network_of(Planted())
    network.module.fc.forward = lambda *_: pytest.fail("the head was called")
    maximised(network, points["act"], np.eye(5)[:1], Optimisation(40, 2))


def test_progress_counts_images_times_steps(planted, monkeypatch):
    network, points = planted
    monkeypatch.setattr(module, "AT_ONCE", 2)
    calls, three = [], Optimisation(SIDE, 3)
    more = {"progress": lambda *call: calls.append(call), "stage": "act"}
    maximised(network, points["act"], np.eye(5)[:3], three, **more)
    assert calls == [("act", n, 9) for n in (2, 4, 6, 7, 8, 9)]


# --- the parametrisation, taken apart ------------------------------------------------------------


def test_amplitudes_decay_with_the_frequency():
    height, width = sides = (24, 41)
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(2, 3, height, width // 2 + 1, 2)).astype(np.float32) / 4
    spectrum = coefficients[..., 0] + 1j * coefficients[..., 1]
    images = rendered(torch.from_numpy(spectrum), width).double().numpy()
    field = np.log(images / (1 - images))  # undo the squeeze
    columns = np.array(COLOURS) / np.linalg.norm(np.array(COLOURS)[:, 0])
    field = np.einsum("cr,krhw->kchw", np.linalg.inv(columns), field)
    inner = (..., slice(1, (width - 1) // 2))  # the others are their own mirror images
    amplitude = (np.fft.rfft2(field, norm="ortho") / spectrum)[inner]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))[inner]
    falls = np.polyfit(np.log(frequency).ravel(), np.log(amplitude[0, 0].real).ravel(), 1)
    assert falls[0] == pytest.approx(-1.3, abs=0.02)
    np.testing.assert_allclose(
        amplitude, np.broadcast_to(amplitude[0, 0], amplitude.shape), rtol=0.02
    )
    assert (module.amplitudes(*sides) ** 2).mean() == pytest.approx(1)


def test_colours_are_uncorrelated_in_natural_images_once_the_matrix_is_undone():
    undo = np.linalg.inv(COLOURS)
    for image in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()):
        colours = image.reshape(-1, 3).T / 255
        of_channels, of_columns = np.corrcoef(colours), np.corrcoef(undo @ colours)
        assert np.abs(of_columns).sum() < np.abs(of_channels).sum() - 1
    columns = np.array(COLOURS) / np.linalg.norm(COLOURS, axis=0)
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=0.12)


def test_no_coefficients_are_grey():
    nothing = torch.zeros(1, 3, 8, 5, dtype=torch.complex64)
    np.testing.assert_array_equal(rendered(nothing, 8), np.full((1, 3, 8, 8), 0.5))


def test_window_of_the_images_own_size_rolls_it():
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    expected = np.roll(images.numpy(), (-5, -7), axis=(2, 3))
    np.testing.assert_allclose(seen(images, (5, 7, 12, 10)), expected, rtol=1e-6)


def test_window_shows_as_many_waves_as_it_is_wide():
    images = torch.cos(2 * torch.pi * 4 * torch.arange(32) / 32).expand(1, 3, 32, 32)
    for window, waves in (((3, 9, 40, 40), 5), ((30, 1, 24, 24), 3)):
        spectrum = np.abs(np.fft.rfft(seen(images, window)[0, 0].numpy(), axis=1))
        assert (spectrum.argmax(axis=1) == waves).all()


def test_windows_lie_anywhere_and_are_of_all_scales():
    windows = np.array(module._windows(np.random.default_rng(0), 100, 50, 500))
    assert windows[:, :2].min(axis=0).tolist() == [0, 0]
    assert (windows[:, :2].max(axis=0) > [95, 45]).all()
    assert windows[:, 2].min() == 80
    assert windows[:, 2].max() == 125
    assert np.abs(windows[:, 2] - 2 * windows[:, 3]).max() <= 1
    assert (windows[:, 2] < 100).mean() == pytest.approx(0.5, abs=0.06)  # as often in as out


def test_slope_of_the_total_variation_is_its_gradient():
    images = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total = sum((images - images.roll(1, axis)).abs().sum() for axis in (2, 3))
    total.backward()
    torch.testing.assert_close(total_variation_slope(images.detach()), images.grad)


def test_total_variation_makes_images_smoother_and_the_layer_is_still_driven(planted):
    network, points = planted
    rough, smooth = (
        maximised(network, points["act"], np.eye(5)[:1], Optimisation(SIDE, 30, tv))
        for tv in (0.0, 0.3)
    )
    assert total_variation(smooth.images) < 0.8 * total_variation(rough.images)
    assert smooth.ends > smooth.starts


# --- sizes ---------------------------------------------------------------------------------------


def transformer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=48, patch_size=16, embed_dim=12, depth=1, num_heads=2, num_classes=3
        )


def test_network_of_one_size_is_shown_images_of_it():
    own = Preprocessing(height=48, width=48)
    network, points = network_of(transformer(), own)
    found = maximised(network, points["blocks.0"], np.eye(12)[:2], Optimisation(steps=30))
    assert found.images.shape == (2, 48, 48, 3)
    assert (found.ends > found.starts).all()


def test_other_networks_are_shown_images_of_128_px_or_of_the_size_given(planted):
    network, points = planted
    for size, side in ((None, 128), (50, 50)):
        found = maximised(network, points["act"], np.eye(5)[:1], Optimisation(size, 1))
        assert found.images.shape == (1, side, side, 3)


# --- the verb and its result ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_units(planted):
    network, _ = planted
    return visualise(network, ["logits", "act"], unit=[0, 3, 2], optimisation=QUICK, seed=4)


def directions_of(network, points, layers=("act",), **facts):
    """Planted directions, as if `rcv` had found them."""
    rng = np.random.default_rng(0)
    vectors = {
        subset: {layer: rng.normal(size=points[layer].channels) for layer in layers}
        for subset in ("cat", "<b>a/b")  # a subset can have any name
    }
    given = {"model": network.name, "tensors_sha256": tensors_sha256(network.module)}
    row = dict.fromkeys(("subset", "other"), "cat") | {"quantity": "transfer_r2", "layer": "act"}
    table = pd.DataFrame([row | {"value": 0.5, "model": network.name}])
    return Directions(table, vectors, (), given | facts)


def test_every_unit_of_every_layer_has_a_row_and_its_image(planted, of_units):
    network, points = planted
    table = of_units.to_frame()
    assert list(table) == COLUMNS
    assert list(zip(table.layer, table.unit, strict=True)) == [
        (layer, unit) for layer in ("act", "logits") for unit in ("0", "3", "2")
    ]
    assert (set(table.steps), set(table.seed)) == ({12}, {4})
    for row, image in zip(table.to_dict("records"), of_units.images, strict=True):
        point = points[row["layer"]]
        direction = axes(point, [int(row["unit"])])[0]
        (found,) = activation(network, point, image[None].copy(), direction)
        assert row["end"] == pytest.approx(found, abs=1e-5)
    assert of_units.finding() == (
        "6 images of 32 x 32 px: each drives its target further than the noise it started from."
    )
    few = visualise(network, "logits", optimisation=Optimisation(SIDE, 1)).table
    assert few.unit.tolist() == ["0", "1", "2", "3"]


def test_result_comes_back_from_its_folder(of_units, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    folder = of_units.save(tmp_path / "run")
    back = read_visualisations(folder)
    pd.testing.assert_frame_equal(back.table, of_units.table, atol=1e-6, check_dtype=False)
    assert all(np.array_equal(a, b) for a, b in zip(back.images, of_units.images, strict=True))
    assert back.finding() == of_units.finding()
    assert len(of_units.plot("act").axes) == 3
    assert of_units._repr_html_().startswith(f"<p><b>{of_units.finding()}")
    page = (folder / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 6
    (folder / "pictures" / "act-0.png").unlink()
    with pytest.raises(DataError, match=r"lacks an image \(.*\. Run `scalecut visualise` again\.$"):
        read_visualisations(folder)


def test_directions_are_visualised_both_ways_from_the_same_noise(planted, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    network, points = planted
    directions = directions_of(network, points)
    found = visualise(network, ["act"], rcv=directions, optimisation=QUICK)
    table = found.table
    assert list(zip(table.subset, table.direction, strict=True)) == [
        (subset, way) for subset in directions.vectors for way in ("larger", "smaller")
    ]
    for row, image in zip(table.to_dict("records"), found.images, strict=True):
        vector = directions.vectors[row["subset"]]["act"]
        (end,) = activation(network, points["act"], image[None].copy(), vector)
        assert row["end"] == pytest.approx(end, abs=1e-4)
    for _, rows in table.groupby("subset"):
        larger, smaller = rows.to_dict("records")
        assert larger["end"] > larger["start"] == smaller["start"] > smaller["end"]
    folder = found.save(tmp_path / "run")
    assert {path.name for path in (folder / "pictures").iterdir()} == {
        f"act-{name}-{way}.png" for name in ("cat", "%3Cb%3Ea%2Fb") for way in ("larger", "smaller")
    }
    assert "<b>" not in (folder / "figures" / "act.svg").read_text()


def test_unit_that_never_responds_is_named(planted):
    deaf = Planted()
    with torch.no_grad():
        deaf.conv.bias.fill_(-1e6)
    found = visualise(network_of(deaf)[0], ["act"], unit=[0, 1], optimisation=QUICK)
    assert found.finding() == (
        "2 images of 32 x 32 px: 2 of them, the first pictures/act-0.png, drive their target no "
        "further than the noise they started from."
    )


def test_sheet_is_white_between_its_images():
    tiles = [np.zeros((4, 4, 3), np.uint8)] * 8
    captions = [(f"unit {number}", "0 → 1") for number in range(8)]
    figure = sheet("blocks.3.1", "a_network", tiles, captions)
    figure.canvas.draw()
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 8
    assert len({round(box.y0, 6) for box in boxes}) == 2  # six in a row, then two
    for number, one in enumerate(boxes):
        assert 0 < one.x0 < one.x1 < 1
        assert 0 < one.y0 < one.y1 < 1
        assert not any(one.overlaps(other) for other in boxes[:number])
    height, width = figure.get_size_inches()[::-1]
    assert boxes[0].width * width == pytest.approx(boxes[0].height * height)  # square stays square
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["blocks.3.1", "a_network", *(t for caption in captions for t in caption)]
    inside = [
        text.get_window_extent().transformed(figure.transFigure.inverted()) for text in figure.texts
    ]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 for box in inside)
    assert figure.get_facecolor() == (1, 1, 1, 1)


# --- what is refused -----------------------------------------------------------------------------

NO_DIRECTION = (
    "Of {} directions at layer act one is zero or not finite, or there is none. Give directions "
    "along which the features vary."
)
NO_UNIT = "There is no unit {}: layer act has 5 units, from 0 to 4. Give some of these."
REFUSED = (
    (lambda n, p: axes(p["act"], [0, 5]), LayerError, NO_UNIT.format(5)),
    (lambda n, p: axes(p["act"], [-1]), LayerError, NO_UNIT.format(-1)),
    (
        lambda n, p: maximised(n, p["act"], np.eye(4)),
        DataError,
        "The directions have 4 values, but layer act has 5 units. Give directions that were "
        "fitted there.",
    ),
    (lambda n, p: maximised(n, p["act"], np.zeros((1, 5))), DataError, NO_DIRECTION.format(1)),
    (
        lambda n, p: maximised(n, p["act"], np.full((1, 5), np.nan)),
        DataError,
        NO_DIRECTION.format(1),
    ),
    (lambda n, p: maximised(n, p["act"], np.zeros((0, 5))), DataError, NO_DIRECTION.format(0)),
    (
        lambda n, p: maximised(n, p["act"], np.eye(5), Optimisation(16)),
        DataError,
        "An image of 16 x 16 px is too small for layer act, which needs at least 32 px. Give "
        "--size 32 or more.",
    ),
    (lambda n, p: Optimisation(steps=0), DataError, "--steps must be at least 1, got 0."),
    (lambda n, p: Optimisation(tv=-0.5), DataError, "--tv must be 0 or more, got -0.5."),
    (
        lambda n, p: visualise(n, []),
        DataError,
        "--layer is empty. Give one or more layers; `scalecut layers MODEL` lists them all.",
    ),
    (
        lambda n, p: visualise(n, ["act"], unit=[0], rcv="run"),
        DataError,
        "Both --unit and --rcv were given. Give one: units, or directions.",
    ),
    (
        lambda n, p: visualise(n, ["act"], rcv=directions_of(n, p, model="resnet50")),
        ModelError,
        "The directions given are of resnet50, not of Planted. Give --rcv a run of this network.",
    ),
    (
        lambda n, p: visualise(n, ["act"], rcv=directions_of(n, p, tensors_sha256="0")),
        ModelError,
        "The directions given are of Planted with other weights than the weights the module came "
        "with. Give the same --weights, and --seed where they are random.",
    ),
    (
        lambda n, p: visualise(n, ["softmax"], rcv=directions_of(n, p, ("act", "logits"))),
        LayerError,
        "The directions given are of 2 layers, from act to logits, not of softmax. Give "
        "--layer one of these, or run `scalecut rcv` with that layer.",
    ),
)


def test_what_cannot_be_visualised_is_refused_with_the_remedy(planted):
    for call, kind, text in REFUSED:
        with pytest.raises(kind) as error:
            call(*planted)
        assert str(error.value) == text


def test_layer_or_network_that_cannot_be_visualised_is_refused(planted):
    deep = nn.Sequential(nn.Conv2d(3, 4, 64, stride=64), nn.Conv2d(4, 4, 1))
    network, points = network_of(deep, Preprocessing(height=128, width=128))
    with pytest.raises(DataError) as error:
        maximised(network, points["0"], np.eye(4), Optimisation(40))
    assert str(error.value) == (
        "An image of 40 x 40 px is too small for layer 0, which needs at least 64 px. Give "
        "--size 64 or more."
    )
    blind, points = network_of(Blind())[0], planted[1]
    with pytest.raises(LayerError) as error:
        maximised(blind, points["act"], np.eye(5), QUICK)
    assert str(error.value) == (
        "Layer act of Blind passes on no gradient, so it cannot be visualised. Give another layer, "
        "or a network that can be trained."
    )
    network, points = network_of(transformer(), Preprocessing(height=48, width=48))
    with pytest.raises(ModelError) as error:
        maximised(network, points["blocks.0"], np.eye(12), Optimisation(64))
    assert str(error.value) == (
        "VisionTransformer does not run on images of 64 x 64 px (Input height (64) doesn't match "
        "model (48)). Give a larger --size, or none for 128 px or the network's own 48 x 48."
    )
