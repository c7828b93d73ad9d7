"""Planted filters and directions come out as pictures; the parametrisation is taken back apart."""

from collections import OrderedDict

import numpy as np
import pytest
import skimage.data
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from scalecut import DataError, LayerError, ModelError, Preprocessing, load_network
from scalecut.analyses import visualise
from scalecut.analyses.rcv import ridge
from scalecut.analyses.visualise import (
    COLOURS,
    axes,
    painted,
    pictures,
    seen,
    total_variation_slope,
)
from scalecut.features.extract import forward
from scalecut.networks.layers import probe_points
from scalecut.networks.points import LOGITS, POOLED, SOFTMAX

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, K = 32, 9  # of the pictures, and of the planted filters
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
QUICK = {"size": SIDE, "steps": 12}


def planted_filters():
    """Stripes upright, level and aslant; red against blue, and the other way round."""
    down, across = np.mgrid[:K, :K] - K // 2
    stripes = [np.cos(2 * np.pi * at / 6) for at in (across, down, (across + down) / np.sqrt(2))]
    grey = [np.stack([each - each.mean()] * 3) for each in stripes]
    red = np.stack([np.ones((K, K)), np.zeros((K, K)), -np.ones((K, K))])
    found = np.stack([*grey, red, -red])
    return found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))


class Planted(nn.Module):
    """Rectified answers of the planted filters, then a head."""

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
    points = probe_points(network.module, network.example())
    return network, {point.layer: point for point in points}


@pytest.fixture(scope="module")
def planted():
    return network_of(Planted())


@pytest.fixture(scope="module")
def painted_units(planted):
    network, points = planted
    return pictures(network, points["act"], np.eye(5), size=64, steps=128)


def reach(network, point, made, directions):
    """How far the features of pictures go, by the way on which the probe reads them."""
    with forward(network, [point], "float32", "cpu") as pooled:
        (features,) = pooled(network.preprocessing.tensor(made))
    return (features * directions).sum(axis=1)


def total_variation(made):
    made = made.astype(float)
    return sum(np.abs(made - np.roll(made, 1, axis)).sum() for axis in (1, 2))


# --- what is planted comes out -------------------------------------------------------------------


def test_every_unit_is_painted_as_its_filter(painted_units):
    filters = planted_filters()
    patches = np.lib.stride_tricks.sliding_window_view(
        painted_units.pictures / 255 - 0.5, (K, K), axis=(1, 2)
    )  # k, places down, places across, 3, K, K
    likeness = np.zeros((5, 5))
    for unit, of_unit in enumerate(patches):
        rows = of_unit.reshape(-1, 3 * K * K)
        best = rows[np.argmax(rows @ filters[unit].ravel())]
        likeness[unit] = filters.reshape(5, -1) @ best / np.linalg.norm(best)
    assert (np.diag(likeness) > 0.75).all(), likeness.round(2)
    assert (likeness.argmax(axis=1) == np.arange(5)).all()


def test_every_unit_answers_more_than_to_the_noise_and_to_the_pictures_of_others(
    planted, painted_units
):
    network, points = planted
    assert (painted_units.ends > painted_units.starts + 0.5).all()
    answers = [
        reach(network, points["act"], painted_units.pictures, np.eye(5)[unit]) for unit in range(5)
    ]
    assert (np.argmax(answers, axis=1) == np.arange(5)).all()


def test_direction_of_scale_is_painted_as_larger_and_as_smaller(planted):
    network, points = planted
    rng = np.random.default_rng(0)
    radii = rng.uniform(3, 14, size=60)
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    discs = np.hypot(down, across) < radii[:, None, None]
    photographs = np.where(discs[..., None], (230, 120, 40), (30, 60, 90)).astype(np.uint8)
    with forward(network, [points["act"]], "float32", "cpu") as pooled:
        (features,) = pooled(network.preprocessing.tensor(photographs))
    features = features.astype(np.float64)
    weights, _ = ridge(features, radii, np.arange(60), features[:0])
    found = pictures(network, points["act"], np.stack([weights, -weights]), size=SIDE, steps=40)
    larger, smaller = reach(network, points["act"], found.pictures, weights)
    reads = features @ weights  # the measure, but for a constant
    assert larger > reads.max()
    assert smaller < reads.min()
    np.testing.assert_allclose(found.ends, [larger, -smaller], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.starts[0], -found.starts[1])


@pytest.mark.parametrize("layer", ["conv", POOLED, LOGITS, SOFTMAX])
def test_vectors_and_maps_are_raised_alike(layer):
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
    rows = axes(points[layer], [0, 3])
    found = pictures(network, points[layer], rows, **QUICK)
    assert (found.ends > found.starts).all()
    np.testing.assert_allclose(
        found.ends, reach(network, points[layer], found.pictures, rows), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_numbers_are_those_of_the_probe_with_the_networks_own_preprocessing(channels):
    own = Preprocessing(SIDE, SIDE, (0.1, 0.4, 0.7), (0.01, 0.2, 0.5), channels=channels)
    network, points = network_of(Planted(), own)
    found = pictures(network, points["act"], np.eye(5), **QUICK)
    expected = reach(network, points["act"], found.pictures, np.eye(5))
    np.testing.assert_allclose(found.ends, expected, rtol=1e-4, atol=1e-4)


# --- chance, order, and what is left behind ------------------------------------------------------


def test_the_seed_alone_decides(planted):
    network, points = planted
    one, same, other = (
        pictures(network, points["act"], np.eye(5)[:2], seed=seed, **QUICK) for seed in (0, 0, 1)
    )
    assert one.pictures.tobytes() == same.pictures.tobytes()
    assert one.ends.tobytes() == same.ends.tobytes()
    assert (one.pictures != other.pictures).mean() > 0.5


def test_a_picture_does_not_depend_on_which_others_are_asked_for(planted, monkeypatch):
    network, points = planted
    together = pictures(network, points["act"], np.eye(5), **QUICK)
    monkeypatch.setattr(visualise, "AT_ONCE", 4)
    apart = pictures(network, points["act"], np.eye(5)[::-1], **QUICK)
    difference = together.pictures.astype(int) - apart.pictures[::-1]
    assert np.abs(difference).max() <= 2  # rounding
    np.testing.assert_allclose(together.starts, apart.starts[::-1], atol=1e-6)


def test_network_and_its_weights_are_left_as_they_were(planted):
    network, points = planted
    module = network.module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    pictures(network, points["act"], np.eye(5)[:1], **QUICK)
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    module.eval()


def test_nothing_behind_the_point_is_computed():
    network, points = network_of(Planted())
    network.module.fc.forward = lambda *_: pytest.fail("the head was called")
    pictures(network, points["act"], np.eye(5)[:1], size=40, steps=2)


def test_progress_counts_pictures_times_steps(planted, monkeypatch):
    network, points = planted
    monkeypatch.setattr(visualise, "AT_ONCE", 2)
    told = []
    ask = {"size": SIDE, "steps": 3, "stage": "act"}
    pictures(network, points["act"], np.eye(5)[:3], progress=lambda *a: told.append(a), **ask)
    assert told == [("act", n, 9) for n in (2, 4, 6, 7, 8, 9)]


# --- the parametrisation, taken apart ------------------------------------------------------------


@pytest.mark.parametrize("sides", [(32, 32), (24, 41)])
def test_spectrum_of_a_painting_falls_as_that_of_photographs(sides):
    height, width = sides
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=(2, 3, height, width // 2 + 1, 2)).astype(np.float32) / 4
    spectrum = coefficients[..., 0] + 1j * coefficients[..., 1]
    painting = painted(torch.from_numpy(spectrum), width).double().numpy()
    field = np.log(painting / (1 - painting))  # undo the squeeze
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
    assert (visualise.amplitudes(*sides) ** 2).mean() == pytest.approx(1)


def test_colours_are_uncorrelated_in_photographs_once_the_matrix_is_undone():
    undo = np.linalg.inv(COLOURS)
    for photograph in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()):
        colours = photograph.reshape(-1, 3).T / 255
        of_channels, of_columns = np.corrcoef(colours), np.corrcoef(undo @ colours)
        assert np.abs(of_columns).sum() < np.abs(of_channels).sum() - 1
    columns = np.array(COLOURS) / np.linalg.norm(COLOURS, axis=0)
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=0.12)


def test_no_coefficients_are_grey():
    nothing = torch.zeros(1, 3, 8, 5, dtype=torch.complex64)
    np.testing.assert_array_equal(painted(nothing, 8), np.full((1, 3, 8, 8), 0.5))


def test_window_of_the_pictures_own_size_moves_it_round():
    painting = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    expected = np.roll(painting.numpy(), (-5, -7), axis=(2, 3))
    np.testing.assert_allclose(seen(painting, (5, 7, 12, 10)), expected, rtol=1e-6)


@pytest.mark.parametrize(("window", "waves"), [((3, 9, 40, 40), 5), ((30, 1, 24, 24), 3)])
def test_window_shows_as_many_waves_as_it_is_wide(window, waves):
    painting = torch.cos(2 * torch.pi * 4 * torch.arange(32) / 32).expand(1, 3, 32, 32)
    spectrum = np.abs(np.fft.rfft(seen(painting, window)[0, 0].numpy(), axis=1))
    assert (spectrum.argmax(axis=1) == waves).all()


def test_windows_lie_anywhere_and_are_of_all_scales():
    windows = np.array(visualise._windows(np.random.default_rng(0), 100, 50, 500))
    assert windows[:, :2].min(axis=0).tolist() == [0, 0]
    assert (windows[:, :2].max(axis=0) > [95, 45]).all()
    assert windows[:, 2].min() == 80
    assert windows[:, 2].max() == 125
    assert np.abs(windows[:, 2] - 2 * windows[:, 3]).max() <= 1
    assert (windows[:, 2] < 100).mean() == pytest.approx(0.5, abs=0.06)  # as often in as out


def test_slope_of_the_total_variation_is_its_gradient():
    painting = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total = sum((painting - painting.roll(1, axis)).abs().sum() for axis in (2, 3))
    total.backward()
    torch.testing.assert_close(total_variation_slope(painting.detach()), painting.grad)


def test_total_variation_makes_pictures_smoother_and_the_layer_answers_still(planted):
    network, points = planted
    rough, smooth = (
        pictures(network, points["act"], np.eye(5)[:1], size=SIDE, steps=30, tv=tv)
        for tv in (0.0, 0.3)
    )
    assert total_variation(smooth.pictures) < 0.8 * total_variation(rough.pictures)
    assert smooth.ends > smooth.starts


# --- sizes ---------------------------------------------------------------------------------------


def transformer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=48, patch_size=16, embed_dim=12, depth=1, num_heads=2, num_classes=3
        )


def test_network_of_one_size_is_shown_pictures_of_its_own():
    own = Preprocessing(height=48, width=48)
    network, points = network_of(transformer(), own)
    found = pictures(network, points["blocks.0"], np.eye(12)[:2], steps=30)
    assert found.pictures.shape == (2, 48, 48, 3)
    assert (found.ends > found.starts).all()


def test_other_networks_are_shown_pictures_of_128_px_or_of_what_is_asked(planted):
    network, points = planted
    for size, side in ((None, 128), (50, 50)):
        found = pictures(network, points["act"], np.eye(5)[:1], size=size, steps=1)
        assert found.pictures.shape == (1, side, side, 3)


# --- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "unit too high": (
        lambda network, point: axes(point, [0, 5]),
        LayerError,
        "There is no unit 5: layer act has 5 units, from 0 to 4. Give some of these.",
    ),
    "unit below 0": (
        lambda network, point: axes(point, [-1]),
        LayerError,
        "There is no unit -1: layer act has 5 units, from 0 to 4. Give some of these.",
    ),
    "direction of another layer": (
        lambda network, point: pictures(network, point, np.eye(4)),
        DataError,
        "The directions have 4 values, but layer act has 5 units. Give directions that were "
        "fitted there.",
    ),
    "zero": (
        lambda network, point: pictures(network, point, np.zeros((1, 5))),
        DataError,
        "Of 1 directions at layer act one is zero or not finite, or there is none. Give directions "
        "along which the features vary.",
    ),
    "not finite": (
        lambda network, point: pictures(network, point, np.full((1, 5), np.nan)),
        DataError,
        "Of 1 directions at layer act one is zero or not finite, or there is none. Give directions "
        "along which the features vary.",
    ),
    "none": (
        lambda network, point: pictures(network, point, np.zeros((0, 5))),
        DataError,
        "Of 0 directions at layer act one is zero or not finite, or there is none. Give directions "
        "along which the features vary.",
    ),
    "too small": (
        lambda network, point: pictures(network, point, np.eye(5), size=16),
        DataError,
        "A picture of 16 x 16 px is too small for layer act, which needs 32 px at least. Give "
        "--size 32 or more.",
    ),
    "no steps": (
        lambda network, point: pictures(network, point, np.eye(5), steps=0),
        DataError,
        "A picture cannot be painted in 0 steps. Give --steps 1 or more.",
    ),
    "negative total variation": (
        lambda network, point: pictures(network, point, np.eye(5), tv=-0.5),
        DataError,
        "-0.5 is no weight of the total variation. Give --tv 0 or more.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_painted_is_refused_with_the_remedy(planted, name):
    network, points = planted
    ask, kind, text = REFUSED[name]
    with pytest.raises(kind) as error:
        ask(network, points["act"])
    assert str(error.value) == text


def test_picture_smaller_than_a_stride_is_refused():
    deep = nn.Sequential(nn.Conv2d(3, 4, 64, stride=64), nn.Conv2d(4, 4, 1))
    network, points = network_of(deep, Preprocessing(height=128, width=128))
    with pytest.raises(DataError) as error:
        pictures(network, points["0"], np.eye(4), size=40)
    assert str(error.value) == (
        "A picture of 40 x 40 px is too small for layer 0, which needs 64 px at least. Give "
        "--size 64 or more."
    )


def test_layer_that_hands_on_no_gradient_is_refused():
    network, _ = network_of(Blind())
    _, points = network_of(Planted())
    with pytest.raises(LayerError) as error:
        pictures(network, points["act"], np.eye(5), **QUICK)
    assert str(error.value) == (
        "Layer act of Blind hands on no gradient, so that nothing can be painted for it. Give "
        "another layer, or a network that can be trained."
    )


def test_size_that_the_network_does_not_take_is_refused():
    network, points = network_of(transformer(), Preprocessing(height=48, width=48))
    with pytest.raises(ModelError) as error:
        pictures(network, points["blocks.0"], np.eye(12), size=64)
    assert str(error.value) == (
        "VisionTransformer does not run on pictures of 64 x 64 px (Input height (64) doesn't match "
        "model (48)). Give a larger --size, or none for 128 px or the network's own 48 x 48."
    )
