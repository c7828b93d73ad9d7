"""Pixel statistics of images constructed to have them; controls computed twice."""

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn

from scalecut import Fitting, cache, probe
from scalecut.data.images import Image
from scalecut.features import extract
from scalecut.features.extract import Computation, extract_features
from scalecut.networks.load import load_network
from scalecut.networks.network import (
    Preprocessing,
    permuted,
    randomly_initialised,
    take_statistics,
    tensors_sha256,
)
from scalecut.probing import controls
from scalecut.probing.controls import (
    EDGE,
    PixelStatistics,
    control_of,
    edge_density,
    pixel_network,
    spectrum_slope,
)
from tests.builders import AS_IT_IS, discs


@pytest.fixture(params=[0])
def rng(request):
    return np.random.default_rng(request.param)


def batch(array):
    return torch.tensor(np.asarray(array), dtype=torch.float32)


def power_law(rng, slope, side=128):
    """Noise whose power goes as frequency to this slope."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random(frequency.shape))
    noise = np.fft.irfft2(frequency ** (slope / 2) * phases, s=(side, side))
    return noise / noise.std()


def test_mean_and_deviation_come_first(rng):
    x = rng.random((2, 3, 40, 50))
    found = PixelStatistics()(batch(x)).numpy()
    np.testing.assert_allclose(found[:, :3], x.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(found[:, 3:6], x.std(axis=(2, 3), ddof=1), atol=1e-6)
    assert found.shape == (2, 3 * 3 + 1 + 3 * 16 * 16)


def test_thumbnail_is_the_mean_of_blocks(rng):
    x = rng.random((1, 3, 64, 64))
    blocks = x.reshape(1, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    found = PixelStatistics()(batch(x)).numpy()
    np.testing.assert_allclose(found[0, 10:], blocks.ravel(), atol=1e-6)


@pytest.mark.parametrize("n_lines", [3])
def test_edges_are_counted_where_the_intensity_jumps(n_lines):
    x = np.zeros((1, 1, 22, 42))
    for number in range(n_lines):
        x[..., 10 * (number + 1) :] += (-1) ** number  # a jump between two columns
    # the centred difference sees a jump from both sides; the border is left out
    assert edge_density(batch(x)).item() == pytest.approx(2 * n_lines / 40)


def test_slow_changes_are_no_edges():
    ramp = np.linspace(0, 1, 40) * 0.9 * EDGE * 39
    assert edge_density(batch(np.tile(ramp, (1, 1, 30, 1)))).item() == 0


@pytest.mark.parametrize("slope", [0.0, -2.0])
def test_slope_of_the_spectrum_is_the_planted_one(rng, slope):
    found = spectrum_slope(batch(power_law(rng, slope)[None, None])).item()
    assert found == pytest.approx(slope, abs=0.25)


def test_slope_does_not_depend_on_contrast_and_brightness(rng):
    x = power_law(rng, -2.0)[None, None]
    here, there = spectrum_slope(batch(x)), spectrum_slope(batch(0.1 * x + 0.5))
    assert here.item() == pytest.approx(there.item(), abs=1e-3)


def test_statistics_see_what_the_network_sees_without_its_normalisation():
    own = Preprocessing(height=50, width=60, interpolation="bicubic", channels="bgr")
    network, point = pixel_network(own)
    seen = network.preprocessing
    assert (seen.height, seen.width, seen.interpolation) == (50, 60, "bicubic")
    image = np.zeros((1, 50, 60, 3), np.uint8)
    image[..., 0] = 255  # red
    found = network.module(seen.tensor(image))
    assert found[0, :3].tolist() == [1.0, 0.0, 0.0]
    assert found.shape[1] == point.channels


def test_statistics_are_padded_like_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    own = Preprocessing(24, 24)
    network, point = pixel_network(own)
    tall = np.full((40, 20, 3), own.fill(), np.uint8)
    found = extract_features(network, [Image("tall", tall)], [point], Computation(fit="pad"))
    expected = network.module(network.preprocessing.tensor(np.full((1, 24, 24, 3), tall[0, 0])))
    np.testing.assert_allclose(found.matrices[point.layer][0, :9], expected[0, :9], atol=1e-6)


# --- random and permuted networks ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "plainly"), [("random", randomly_initialised), ("permuted", permuted)]
)
def test_statistics_of_a_control_are_taken_once_and_are_the_same_bits(
    kind, plainly, tmp_path, monkeypatch
):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    shown = Preprocessing(24, 24)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3),
                           nn.BatchNorm2d(5))  # fmt: skip
    network, images = load_network(module, preprocessing=shown), discs(40)
    computation = Computation(precision="float32")
    pixels = shown.tensor(np.stack([image.source for image in images.images]))
    by_hand = plainly(network, 1)
    take_statistics(by_hand.module, [pixels[:32], pixels[32:]])

    def control(images=images, seed=1, computation=computation):
        return tensors_sha256(control_of(network, images, computation, seed, kind).module)

    first = control()
    assert first == tensors_sha256(by_hand.module)
    with monkeypatch.context() as patched:
        patched.setattr(controls, "take_statistics", None)  # not needed again
        assert control() == first
        for changed in (
            {"images": discs(40, seed=1)},
            {"seed": 2},
            {"computation": Computation(precision="float32", fit="crop")},
        ):
            with pytest.raises(TypeError):
                control(**changed)
    assert control(images=discs(40, seed=1)) != first


@pytest.fixture
def of_a_library(tmp_path, monkeypatch):
    """A small network of timm with weights from a file, and an empty cache."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pt")
    return load_network("test_resnet", weights=tmp_path / "weights.pt")


LITTLE = Fitting(
    controls=["random", "permuted", "pixels"], random_networks=2, repeats=2, permutations=0
)
SMALL_INPUT = Computation(input_size=32, precision="float32")


def test_nothing_is_computed_twice(of_a_library, monkeypatch):
    images, decodings = discs(30), []
    once = extract._pixels
    monkeypatch.setattr(
        extract, "_pixels", lambda *asked: decodings.append(asked[0].name) or once(*asked)
    )
    first = probe(of_a_library, images, computation=SMALL_INPUT, fitting=LITTLE)
    assert sorted(decodings) == sorted(image.name for image in images.images)
    monkeypatch.setattr(controls, "control_of", None)  # no control is made again
    again = probe(of_a_library, images, computation=SMALL_INPUT, fitting=LITTLE)
    assert len(decodings) == 30
    pd.testing.assert_frame_equal(first.to_frame(), again.to_frame(), check_exact=True)


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"images": 1}, {"weights": 1}, {"fit": "crop"}, {"kind": "permuted"}]
)
def test_what_shapes_a_control_is_part_of_its_name(of_a_library, changed):
    def setting(seed=0, images=0, weights=0, fit="squash", kind="random"):
        with torch.no_grad():
            of_a_library.module.fc.bias.fill_(weights)
        control = controls.variant_of(
            of_a_library, discs(30, seed=images), Computation(fit=fit), seed, kind
        )
        facts = extract.network_setting(of_a_library)
        return cache.setting_hash({**facts, "variant": control.setting, "fit": fit})

    assert setting() == setting()
    assert setting(**changed) != setting()


def test_a_control_of_the_users_own_code_is_made_each_time():
    network = load_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), preprocessing=AS_IT_IS)
    made = controls.variant_of(network, discs(10), Computation(), 0)
    assert made.setting == extract.network_setting(made.make())
