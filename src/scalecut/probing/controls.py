"""What a curve is compared with: random and permuted networks, statistics of the pixels.

And the check of int8 against float32.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from .. import cache
from ..data.images import Image, ImageSet, keys_of
from ..data.measures import evenly
from ..data.scenes import make_scenes
from ..errors import ModelError
from ..features.backends import resolved_backend, resolved_precision
from ..features.extract import (
    Computation,
    DecodedImages,
    Extracted,
    Stages,
    Variant,
    check_finite,
    decoded,
    network_setting,
)
from ..networks.network import (
    Network,
    Preprocessing,
    Weights,
    batch_norms,
    permuted,
    randomly_initialised,
    take_statistics,
)
from ..networks.points import ProbePoint
from ..stats.classes import indicators
from ..stats.ridge import decompose, left_group_out, r_squared

STATISTICS_IMAGES, STATISTICS_BATCH = 128, 32  # for the batch norms of a control
CHECKED_IMAGES = 128  # in int8 and in float32
MOST_MOVED = 0.02  # by int8, in R²


def control_of(
    network: Network,
    image_set: ImageSet,
    computation: Computation,
    seed: int,
    kind: str = "random",
    pixels: DecodedImages | None = None,
) -> Network:
    """A `random` or `permuted` control, its batch norms adapted to the images it is probed on.

    The statistics of batch norms are kept in the cache, as features are.

    Args:
        pixels: images that are decoded already; more are added.
    """
    chosen, keys, on, precision = _adapted_to(network, image_set, computation)
    with torch.autocast(on, torch.bfloat16, enabled=precision == "bfloat16"):
        control = (permuted if kind == "permuted" else randomly_initialised)(network, seed)
        norms = batch_norms(control.module)
        if not norms:
            return control
        how = {"statistics": 2, "fit": computation.fit, "device": on, "precision": precision}
        setting = cache.setting_hash(network_setting(control) | how | {"images": keys})
        buffers = {
            f"{number}.{name}": buffer
            for number, norm in enumerate(norms)
            for name, buffer in norm.named_buffers(recurse=False)
        }
        kept = next(cache.shards(setting), None)
        if kept is None:
            given = chosen, range(len(chosen)), network.preprocessing, computation.fit
            ready = decoded(*given, batch_size=STATISTICS_BATCH, pixels=pixels)
            batches = (batch.to(network.device) for _, batch, _ in ready if len(batch) > 1)
            take_statistics(control.module, batches)
            rows = {name: _as_row(buffer) for name, buffer in buffers.items()}
            cache.add_shard(setting, [setting], rows)
        else:
            for name, buffer in buffers.items():
                buffer.copy_(torch.from_numpy(kept.matrices[name]).view_as(buffer))
    return control


def variant_of(
    network: Network,
    image_set: ImageSet,
    computation: Computation,
    seed: int,
    kind: str = "random",
    pixels: DecodedImages | None = None,
) -> Variant:
    """`control_of`, made only if it has to be.

    Only where the architecture and its initialisation are those of a library: those of the user's
    code may change without another name.
    """
    if network.build is None or network.recipe.get("kind") == "factory":
        control = control_of(network, image_set, computation, seed, kind, pixels)
        return Variant(network_setting(control), lambda: control)
    _, keys, _, precision = _adapted_to(network, image_set, computation)
    setting = {
        "control": 2,
        "kind": kind,
        "seed": seed,
        "images": keys,
        "precision": precision,  # in which statistics are taken
        "versions": [f"{name} {version}" for name, version in _libraries()],
    }
    how = computation, seed, kind, pixels
    return Variant(setting, lambda: control_of(network, image_set, *how))


def features_of_controls(
    network: Network,
    images: ImageSet,
    points: Sequence[ProbePoint],
    computation: Computation,
    stages: Stages,
    *,
    seed: int,
    count: int = 1,
    kind: str = "random",
) -> tuple[Mapping[str, Float[np.ndarray, "n _"]], ...]:
    """Features of the images by `count` controls, by layer; checked as those of the network are.

    Args:
        seed: of the first control; the others have those that follow.
    """
    matrices = []
    for number in range(count):
        stage = f"{kind} control {number + 1}" if count > 1 else f"{kind} control"
        control = variant_of(network, images, computation, seed + number, kind, stages.pixels)
        found = stages.extracted(network, images.images, points, computation, stage, control)
        check_finite(network, found.matrices)
        moved_by_int8(network, images, points, computation, found, stages, control)
        matrices.append(found.matrices)
    return tuple(matrices)


def _adapted_to(
    network: Network, image_set: ImageSet, computation: Computation
) -> tuple[list[Image], list[str], str, str]:
    """The images for batch norms, what names them, and on which device and how exactly."""
    chosen = [image_set.images[n] for n in evenly(len(image_set), STATISTICS_IMAGES)]
    on = network.device.type
    precision = resolved_backend(computation.engine, computation.precision, on).precision
    return chosen, [str(key) for key in keys_of(chosen)], on, precision


def _libraries() -> Iterator[tuple[str, str]]:
    """Those that initialise networks, besides PyTorch."""
    for name in ("timm", "torchvision", "transformers", "open_clip_torch"):
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _as_row(buffer: Tensor) -> Float[np.ndarray, "1 c"]:
    """For the cache, which keeps no integers; the number of batches is one."""
    row = buffer.detach().cpu().reshape(1, -1)
    return (row if row.is_floating_point() else row.double()).numpy()


def comparable(network: Network, seed: int) -> Network:
    """The network; if its weights are random, a control such as the probe compares with.

    Its batch norms are adapted to synthetic scenes, for questions that have no images of their own
    or others than a probe.
    """
    if network.weights.kind != "random":
        return network
    return control_of(network, make_scenes(STATISTICS_IMAGES, seed=seed), Computation(), seed)


def moved_by_int8(
    network: Network,
    images: ImageSet,
    points: Sequence[ProbePoint],
    computation: Computation,
    found: Extracted,
    stages: "Stages",
    variant: Variant | None = None,
) -> dict[str, object]:
    """How far int8 moved R² (`check_int8`), on some of the images; {} for other precisions.

    Args:
        found: features in which every image has a row.
        variant: of the network, whose features they are.
    """
    if found.precision != "int8":
        return {}
    rows = evenly(len(images), CHECKED_IMAGES)
    in_int8 = {layer: matrix[rows] for layer, matrix in found.matrices.items()}
    sample = images.rows(rows)
    return check_int8(network, sample, points, computation, in_int8, stages, variant)


def check_int8(
    network: Network,
    sample: ImageSet,
    points: Sequence[ProbePoint],
    computation: Computation,
    in_int8: Mapping[str, Float[np.ndarray, "_ _"]],
    stages: "Stages",
    variant: Variant | None = None,
) -> dict[str, object]:
    """How far int8 moved R² from float32, at the layer where it moved most.

    R² is that of ridge regression that predicts the target of each image from the other groups, of
    a class 1 for its images and 0 for others; the images, the groups and the engine are the same
    for both precisions.

    Args:
        sample: images, about `CHECKED_IMAGES`.
        in_int8: their features, by layer.

    Raises:
        ModelError: if it moved by more than `MOST_MOVED`.
    """
    in_float32 = replace(computation, engine="openvino", precision="float32")
    asked = points, in_float32, "check of int8", variant
    exact = stages.extracted(network, sample.images, *asked).matrices
    groups = np.unique(sample.group, return_inverse=True)[1]

    def score(matrix: np.ndarray, known: np.ndarray, truth: np.ndarray) -> float:
        rows = matrix[known].astype(np.float64)
        predicted = left_group_out(decompose(rows, rows[:0]), truth, groups[known])
        return float(r_squared(truth, predicted))

    moved = [
        (layer, score(in_int8[layer], *asked) - score(exact[layer], *asked))
        for layer in exact
        for asked in _truths(sample)
    ]
    layer, most = max(moved, key=lambda item: abs(item[1]))
    if not abs(most) <= MOST_MOVED:
        raise ModelError(
            f"int8 moved R² at {layer!r} of {network.name} by {most:+.3f} from float32, on "
            f"{len(sample)} images; {MOST_MOVED:g} is allowed. Give --precision "
            f"{resolved_precision('auto', 'cpu')}."
        )
    return {"int8_moved": round(most, 4), "int8_moved_at": layer, "int8_checked_on": len(sample)}


def _truths(sample: ImageSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of each target, and its values; of classes, one column of 1 and 0 for each."""
    for target in sample.targets:
        known = sample.known(target.name)
        values = target.values[known, None]
        columns = indicators(values, len(target.classes)) if target.classes else values
        yield from ((known, column) for column in columns.T if np.ptp(column) > 0)


# --- pixels ------------------------------------------------------------------------------------


PIXELS = "pixels"  # the layer, and the kind of weights
THUMBNAIL = 16  # pixels per side
EDGE = 0.1  # change of intensity per pixel, of 1, from which on it counts as an edge
RINGS = 12  # of frequencies, for the slope of the spectrum


class PixelStatistics(nn.Module):
    """Mean, standard deviation and edge density of each channel, spectrum slope, and a thumbnail.

    Takes intensities from 0 to 1.
    """

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Ten numbers and a thumbnail of 16 x 16 pixels of three channels: d = 778."""
        numbers = [x.mean(dim=(2, 3)), x.std(dim=(2, 3)), edge_density(x), spectrum_slope(x)]
        return torch.cat([*numbers, adaptive_avg_pool2d(x, THUMBNAIL).flatten(1)], dim=1)


def edge_density(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c"]:
    """The share of pixels at which the intensity changes by more than `EDGE` per pixel."""
    across = (x[..., 1:-1, 2:] - x[..., 1:-1, :-2]) / 2
    down = (x[..., 2:, 1:-1] - x[..., :-2, 1:-1]) / 2
    return (torch.hypot(across, down) > EDGE).float().mean(dim=(2, 3))


def spectrum_slope(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1"]:
    """Exponent of the power spectrum of the mean over channels: -2 for 1/f amplitudes.

    A line through the logarithms of mean power and frequency of rings of equal width in log
    frequency, under a Hann window.
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


@dataclass(frozen=True, slots=True)
class _Unscaled(Preprocessing):
    """Pixels from 0 to 1, padded like those of the network that is probed."""

    padding: tuple[int, int, int] = (0, 0, 0)

    def fill(self) -> tuple[int, int, int]:
        return self.padding


def pixel_network(preprocessing: Preprocessing) -> tuple[Network, ProbePoint]:
    """The statistics as a network with the preprocessing of another one, and its only layer."""
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    own = asdict(preprocessing) | {"mean": zero, "std": one, "channels": "rgb"}
    plain = _Unscaled(**own, padding=preprocessing.fill())
    point = ProbePoint(PIXELS, "", 0.0, "", "output", channels=3 * 3 + 1 + 3 * THUMBNAIL**2)
    weights = Weights(PIXELS, "statistics of the pixels, no network")
    return Network(PIXELS, PixelStatistics().eval(), plain, weights), point
