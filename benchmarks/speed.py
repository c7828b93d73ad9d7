"""What a probe costs, beside running the network once: the tables of docs/benchmarks.md.

Every round measures all ways in turn, so that what else the machine does meets all of them; ratios
are taken within a round, and medians over rounds are told. Weights are random: costs do not depend
on them. Photographs are those of SCALECUT_DATA/voc-animals, else made-up scenes saved as JPEG.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
import numpy as np
import torch
from rich.console import Console
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from scalecut import make_image_set, load_network
from scalecut.features import calibration_of, decoded, forward
from scalecut.images import Image
from scalecut.networks.selection import (chosen_points)
from scalecut.layers import ProbePoint
from scalecut.models import Network, Preprocessing
from scalecut.regression import PENALTIES
from scalecut.scenes import make_scenes
from scalecut.scores import Features, draw_parts, score
from scalecut.probing.curve import read_run

NETWORKS = ("inception_v3", "resnet50", "tf_efficientnet_lite0", "vit_small_patch16_224")
ROUNDS, BATCH, FILES = 3, 16, 96
CHANNELS = (256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048, 1000, 1000)  # InceptionV3
IMAGES, REPEATS, PERMUTATIONS = 1174, 10, 1000
AS_WRITTEN = "forward pass alone, float32, as one writes it"
ENGINES = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)


def files() -> list[Image]:
    """JPEG files."""
    data = os.environ.get("SCALECUT_DATA")
    if data:
        paths = sorted((Path(data) / "voc-animals" / "JPEGImages").glob("*.jpg"))[:FILES]
        return [Image(path.name, path) for path in paths]
    folder = Path(tempfile.mkdtemp())
    found = []
    for number, scene in enumerate(make_scenes(FILES, seed=0).images):
        path = folder / f"{number}.jpg"
        scene.decode().resize((400, 300)).save(path, quality=90)
        found.append(Image(path.name, path))
    return found


def alone(network: Network, batch: Tensor, *, is_fast: bool) -> Callable[[], object]:
    """The network without us: as a user writes it, or in the fastest setting of PyTorch."""
    module = network.module.eval()
    if is_fast:
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        batch = batch.to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_fast):
            return module(batch)

    return run


def ways(
    network: Network, points: list[ProbePoint], images: list[Image]
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What is timed, the images it takes, and a call that does it once."""
    own = network.preprocessing
    (_, batch, _) = next(decoded(images, range(BATCH), own, batch_size=BATCH))
    yield AS_WRITTEN, BATCH, alone(network, batch, is_fast=False)
    yield "forward pass alone, bfloat16, channels last", BATCH, alone(network, batch, is_fast=True)
    calibration = calibration_of(images, own, "squash")
    yield "decoding alone", len(images), lambda: list(decoded(images, range(len(images)), own))
    for engine, precision in ENGINES:
        with forward(network, points, precision, "cpu", engine, calibration) as pooled:
            yield f"all layers, {engine} {precision}", BATCH, lambda p=pooled: p(batch)
            name = f"JPEG files to features, {engine} {precision}"
            yield name, len(images), lambda p=pooled: from_files(p, images, own)


def from_files(
    pooled: Callable[[Tensor], object], images: list[Image], preprocessing: Preprocessing
) -> None:
    """As `features.computed_here` does it, with the network ready."""
    for _, batch, _ in decoded(images, range(len(images)), preprocessing, batch_size=BATCH):
        pooled(batch)


def one_pass_a_layer(network: Network, points: list[ProbePoint], images: list[Image]) -> float:
    """Images a second if each layer has a forward pass of its own, as most tools do it."""
    (_, batch, _) = next(decoded(images, range(BATCH), network.preprocessing, batch_size=BATCH))
    seconds = 0.0
    for point in points:
        with forward(network, [point], "float32", "cpu") as pooled:
            pooled(batch[:2])
            seconds += timed(lambda p=pooled: p(batch))
    return BATCH / seconds


def products(kind: torch.dtype) -> float:
    """Operations a second, in 10^9, of the product of two large matrices: what can be had here."""
    one = torch.randn(1536, 1536).to(kind)
    one @ one
    return statistics.median(2 * 1536**3 / timed(lambda: one @ one) / 1e9 for _ in range(15))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def extraction(console: Console, name: str, images: list[Image]) -> None:
    network = load_network(name, weights="random")
    points, _ = chosen_points(network, [])
    every = [*ways(network, points, images)]
    for _, _, run in every:
        run()  # once before it counts
    speeds = {
        what: [n / timed(run) for what_of_round, n, run in every if what_of_round == what]
        for what, _, _ in every
    }
    for _ in range(ROUNDS - 1):
        for what, n, run in every:
            speeds[what].append(n / timed(run))
    size = network.preprocessing
    console.print(f"\n### {name}, {size.height} px, {len(points)} layers\n")
    console.print("| | images/s | times the first row |\n|---|---|---|")
    for what, _, _ in every:
        ratios = [a / b for a, b in zip(speeds[what], speeds[AS_WRITTEN], strict=True)]
        row = f"{statistics.median(speeds[what]):.1f} | {statistics.median(ratios):.2f}"
        console.print(f"| {what} | {row} |")
    slow = one_pass_a_layer(network, points, images)
    plain = statistics.median(speeds[AS_WRITTEN])
    console.print(f"| all layers, one pass each, float32 | {slow:.1f} | {slow / plain:.2f} |")
    reached = 2 * (points[-1].macs or 0) * plain / 1e9
    limits = [products(kind) for kind in (torch.float32, torch.bfloat16)]
    console.print(
        f"\nThe first row makes {reached:.0f} GFLOP/s; products of two large matrices "
        f"{limits[0]:.0f} in float32 and {limits[1]:.0f} in bfloat16, at the same time."
    )


def regression(console: Console) -> None:
    """All layers of InceptionV3 with controls and permutations, against scikit-learn's loop."""
    rng = np.random.default_rng(0)
    measure = rng.random(IMAGES)
    blank = np.zeros((8, 8, 3), np.uint8)
    images = make_image_set([blank] * IMAGES, measure)
    points = tuple(
        ProbePoint(str(n), "", n / len(CHANNELS), "", "output", channels=d, channel_axis=1)
        for n, d in enumerate(CHANNELS)
    )
    matrices = {
        point.layer: rng.normal(size=(IMAGES, point.channels)).astype(np.float32)
        for point in points
    }
    parts = draw_parts(images, REPEATS, 0, shuffled=True, permutations=PERMUTATIONS)
    answers = {kind: Features(points, (matrices,)) for kind in ("pretrained", "random")}
    ours = timed(lambda: score(parts, answers, ("ridge", "ols")))
    theirs, n_fit = 0.0, round(0.7 * IMAGES)
    for point in points:
        X = matrices[point.layer].astype(np.float64)
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES))
        theirs += timed(
            lambda model=model, X=X: model.fit(X[:n_fit], measure[:n_fit]).predict(X[n_fit:])
        )
    fits = REPEATS * 2 * (2 + PERMUTATIONS)  # repeats, weights, targets and permutations
    console.print("\n### Regression\n")
    console.print(
        f"{len(CHANNELS)} layers, {IMAGES:,} images, {REPEATS} repeats, ridge and least squares, "
        f"random and shuffled controls, {PERMUTATIONS:,} permutations: {ours:.0f} s. One fit of "
        f"scikit-learn's RidgeCV to each layer: {theirs:.1f} s; {fits:,} of them, as the same "
        f"numbers take, by extrapolation {theirs * fits / 3600:.1f} hours, "
        f"{theirs * fits / ours:,.0f} times as long."
    )


def whole(console: Console) -> None:
    """From photographs to the curve, with all controls."""
    data = os.environ.get("SCALECUT_DATA")
    if not data:
        return
    run = Path(tempfile.mkdtemp()) / "run"
    asked = ["--data", f"voc:{data}/voc-animals", "--subset", "dog,cat,horse", "--out", str(run)]
    command = [sys.executable, "-m", "scalecut", "probe", "tf_efficientnet_lite0", *asked]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    console.print("\n### End to end\n")
    console.print(
        f"`scalecut probe tf_efficientnet_lite0 --data voc:voc-animals --subset dog,cat,horse`, "
        f"1,174 photographs, 3 twins, empty cache: {seconds:.0f} s, peak memory {peak:.2f} GB."
    )
    stages: Any = read_run(run).provenance["stages"]
    console.print(", ".join(f"{name} {each['seconds']:.0f} s" for name, each in stages.items()))


def main() -> None:
    os.environ["SCALECUT_CACHE"] = tempfile.mkdtemp()  # empty; converted graphs are kept in it
    console = Console(width=10_000, highlight=False, markup=False)
    console.print(
        f"{date.today()}, {torch.get_num_threads()} threads, {platform.platform()}, torch "
        f"{torch.__version__}; batches of {BATCH}, {FILES} files, medians of {ROUNDS} rounds."
    )
    images = files()
    for name in sys.argv[1:] or NETWORKS:
        extraction(console, name, images)
    regression(console)
    whole(console)


if __name__ == "__main__":
    main()
