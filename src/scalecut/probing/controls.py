"""Randomly initialised and permuted controls, and the check of int8 against float32."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ..data.images import ImageSet, evenly
from ..data.scenes import make_scenes
from ..errors import ModelError
from ..features.backends import resolved_way
from ..features.extract import Computation, Stages, decoded
from ..networks.network import Network, Preprocessing, Weights, permuted, randomly_initialised
from ..networks.points import ProbePoint
from ..stats.ridge import decompose, left_group_out, r_squared

TWIN_IMAGES, TWIN_BATCH = 128, 32  # from which a random twin takes its batch-norm statistics
CHECKED_IMAGES = 128  # in int8 and in float32
MOST_MOVED = 0.02  # by int8, in R²


def control_of(
    network: Network, image_set: ImageSet, look: Computation, seed: int, kind: str = "random"
) -> Network:
    """A `random` or `permuted` twin whose batch norms know the images it will be probed on."""
    numbers = evenly(len(image_set), TWIN_IMAGES)
    ready = decoded(
        image_set.images, numbers, network.preprocessing, look.fit, batch_size=TWIN_BATCH
    )
    batches = (batch.to(network.device) for _, batch, _ in ready if len(batch) > 1)
    on = network.device.type
    in_bfloat16 = resolved_way(look.engine, look.precision, on).precision == "bfloat16"
    twin = permuted if kind == "permuted" else randomly_initialised
    with torch.autocast(on, torch.bfloat16, enabled=in_bfloat16):
        return twin(network, seed, batches)


def comparable(network: Network, seed: int) -> Network:
    """The network, or, where its weights are random, a twin such as the probe compares with.

    Its batch norms know made-up scenes, for questions that have other images than a probe, or none.
    """
    if network.weights.kind != "random":
        return network
    return control_of(network, make_scenes(TWIN_IMAGES, seed=seed), Computation(), seed)


def check_int8(
    network: Network,
    sample: ImageSet,
    points: Sequence[ProbePoint],
    look: Computation,
    in_int8: Mapping[str, Float[np.ndarray, "_ _"]],
    stages: "Stages",
) -> dict[str, object]:
    """How far int8 moved R² from float32, at the layer where it did most.

    Of ridge that predicts the measure of each of some images, evenly chosen, from the other groups:
    the images, the groups and the engine are the same for both.

    Args:
        sample: images, about `CHECKED_IMAGES`.
        in_int8: their features, by layer.

    Raises:
        ModelError: if it moved by more than `MOST_MOVED`.
    """
    in_float32 = replace(look, engine="openvino", precision="float32")
    exact = stages.extracted(network, sample.images, points, in_float32, "check of int8").matrices
    groups = np.unique(sample.group, return_inverse=True)[1]

    def score(matrix: np.ndarray) -> float:
        rows = matrix.astype(np.float64)
        predicted = left_group_out(decompose(rows, rows[:0]), sample.measure, groups)
        return float(r_squared(sample.measure, predicted))

    moved = {layer: score(in_int8[layer]) - score(exact[layer]) for layer in exact}
    layer, most = max(moved.items(), key=lambda item: abs(item[1]))
    if not abs(most) <= MOST_MOVED:
        raise ModelError(
            f"int8 moved R² at {layer!r} of {network.name} by {most:+.3f} from float32, on "
            f"{len(sample)} images; {MOST_MOVED:g} is allowed. Give --precision bfloat16."
        )
    return {"int8_moved": round(most, 4), "int8_moved_at": layer, "int8_checked_on": len(sample)}


# --- pixels ------------------------------------------------------------------------------------


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
