"""Small images with planted measures, and a network that holds them, shared by several tests."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from scalecut import Preprocessing, make_image_set
from scalecut.features.extract import Computation
from scalecut.networks.load import load_network

SIDE = 24
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
EXACTLY = Computation(precision="float32", batch_size=8)
LAYERS = ["look", "area", "colour"]


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
    return make_image_set(pictures, areas, subset=subset, group=group, measure_name="area")


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
