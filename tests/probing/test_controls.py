"""Every number is read off pictures whose answer is known by construction."""

import numpy as np
import pytest
import torch

from scalecut.networks.network import Preprocessing
from scalecut.probing.controls import (
    EDGE,
    PixelStatistics,
    edge_density,
    pixel_network,
    spectrum_slope,
)


@pytest.fixture(params=[0, 1])
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


@pytest.mark.parametrize("n_lines", [1, 3])
def test_edges_are_counted_where_the_intensity_jumps(n_lines):
    x = np.zeros((1, 1, 22, 42))
    for number in range(n_lines):
        x[..., 10 * (number + 1) :] += (-1) ** number  # a jump between two columns
    # the centred difference sees a jump from both sides; the border is left out
    assert edge_density(batch(x)).item() == pytest.approx(2 * n_lines / 40)


def test_slow_changes_are_no_edges():
    ramp = np.linspace(0, 1, 40) * 0.9 * EDGE * 39
    assert edge_density(batch(np.tile(ramp, (1, 1, 30, 1)))).item() == 0


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
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
    picture = np.zeros((1, 50, 60, 3), np.uint8)
    picture[..., 0] = 255  # red
    found = network.module(seen.tensor(picture))
    assert found[0, :3].tolist() == [1.0, 0.0, 0.0]
    assert found.shape[1] == point.channels
