"""What can be read off a picture with no network at all: statistics of its pixels.

They are made as a network of one layer, so that they are decoded, cached and probed as any other.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ..networks.layers import ProbePoint
from ..networks.models import Network, Preprocessing, Weights

PIXELS = "pixels"  # the layer, and the kind of weights
THUMBNAIL = 16  # pixels a side
EDGE = 0.1  # a step of the intensity a pixel, of 1, from which on there is an edge
RINGS = 12  # of frequencies, for the slope of the spectrum


class PixelStatistics(nn.Module):
    """Mean, standard deviation and edge density of each channel, spectrum slope, and a thumbnail.

    Takes intensities from 0 to 1.
    """

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Ten numbers and a thumbnail of 16 x 16 for pictures of three channels: d = 778."""
        numbers = [x.mean(dim=(2, 3)), x.std(dim=(2, 3)), edge_density(x), spectrum_slope(x)]
        return torch.cat([*numbers, adaptive_avg_pool2d(x, THUMBNAIL).flatten(1)], dim=1)


def edge_density(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c"]:
    """The share of pixels at which the intensity changes by more than `EDGE` a pixel."""
    across = (x[..., 1:-1, 2:] - x[..., 1:-1, :-2]) / 2
    down = (x[..., 2:, 1:-1] - x[..., :-2, 1:-1]) / 2
    return (torch.hypot(across, down) > EDGE).float().mean(dim=(2, 3))


def spectrum_slope(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1"]:
    """Exponent of the power over frequency, of the mean over channels: -2 for 1/f amplitudes.

    Fitted through the mean powers of rings of equal width in log frequency, the window von Hann's.
    """
    grey = x.float().mean(dim=1)
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    height, width = grey.shape[1:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    power = torch.fft.rfft2(grey * window.to(grey.device)).abs() ** 2
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    lowest = 2 / min(height, width)
    edges = torch.logspace(torch.log10(torch.tensor(lowest)).item(), -0.30103, RINGS + 1)
    ring = torch.bucketize(frequency, edges) - 1  # -1 and RINGS: too low, too high
    logs, places = [], []
    for number in range(RINGS):
        inside = (ring == number).to(power.device)
        if inside.any():
            logs.append(power[:, inside].mean(dim=1).clamp_min(1e-12).log())
            places.append(frequency[inside.cpu()].log().mean())
    along = torch.stack(places).to(power.device)
    along = along - along.mean()
    return (torch.stack(logs, dim=1) @ along / (along @ along))[:, None]


def pixel_network(preprocessing: Preprocessing) -> tuple[Network, ProbePoint]:
    """The statistics as a network that sees what another one sees, and its only layer."""
    plain = Preprocessing(
        preprocessing.height,
        preprocessing.width,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=preprocessing.interpolation,
        shown=preprocessing.shown,
    )
    point = ProbePoint(PIXELS, "", 0.0, "", "output", channels=3 * 3 + 1 + 3 * THUMBNAIL**2)
    weights = Weights(PIXELS, "statistics of the pixels, no network")
    return Network(PIXELS, PixelStatistics().eval(), plain, weights), point
