"""The cost of a probe compared with one forward pass: the tables of docs/benchmarks.md.

Every round measures all variants in turn, so that other load on the machine affects all of them.
Ratios are taken within a round; medians over rounds are reported. Weights are random, because costs
do not depend on them. Images are those of SCALECUT_DATA/voc-animals, or synthetic scenes saved as
JPEG.
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

from scalecut import ProbePoint, load_network, make_image_set, make_scenes
from scalecut.data.images import Image
from scalecut.features.backends import Backend
from scalecut.features.extract import calibration_of, decoded, forward
from scalecut.networks.network import Network, Preprocessing
from scalecut.networks.selection import chosen_points
from scalecut.probing.scores import Features, draw_parts, score
from scalecut.runs import read_run
from scalecut.stats.ridge import PENALTIES

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
    """The network without scalecut: as a user writes it, or in the fastest setting of PyTorch."""
    module = network.module.eval()
    if is_fast:
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        batch = batch.to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_fast):
            return module(batch)

    return run


def variants(
    network: Network, points: list[ProbePoint], images: list[Image]
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What is timed, the number of images, and a call that runs it once."""
    own = network.preprocessing
    (_, batch, _) = next(decoded(images, range(BATCH), own, batch_size=BATCH))
    yield AS_WRITTEN, BATCH, alone(network, batch, is_fast=False)
    yield "forward pass alone, bfloat16, channels last", BATCH, alone(network, batch, is_fast=True)
    calibration = calibration_of(images, own, "squash")
    yield "decoding alone", len(images), lambda: list(decoded(images, range(len(images)), own))
    for engine, precision in ENGINES:
        with forward(network, points, Backend(engine, precision, "cpu"), calibration) as pooled:
            yield f"all layers, {engine} {precision}", BATCH, lambda p=pooled: p(batch)
            name = f"JPEG files to features, {engine} {precision}"
            yield name, len(images), lambda p=pooled: from_files(p, images, own)


def from_files(
    pooled: Callable[[Tensor], object], images: list[Image], preprocessing: Preprocessing
) -> None:
    """As `features.extract.computed_here`, without loading the network."""
    for _, batch, _ in decoded(images, range(len(images)), preprocessing, batch_size=BATCH):
        pooled(batch)


def one_pass_per_layer(network: Network, points: list[ProbePoint], images: list[Image]) -> float:
    """Images per second with one forward pass per layer, as in most tools."""
    (_, batch, _) = next(decoded(images, range(BATCH), network.preprocessing, batch_size=BATCH))
    seconds = 0.0
    for point in points:
        with forward(network, [point], Backend("torch", "float32", "cpu")) as pooled:
            pooled(batch[:2])
            seconds += timed(lambda p=pooled: p(batch))
    return BATCH / seconds


def products(kind: torch.dtype) -> float:
    """GFLOP/s of the product of two large matrices: the limit of this machine."""
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
    every = [*variants(network, points, images)]
    for _, _, run in every:
        run()  # warm up
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
    slow = one_pass_per_layer(network, points, images)
    plain = statistics.median(speeds[AS_WRITTEN])
    console.print(f"| all layers, one pass each, float32 | {slow:.1f} | {slow / plain:.2f} |")
    reached = 2 * (points[-1].macs or 0) * plain / 1e9
    limits = [products(kind) for kind in (torch.float32, torch.bfloat16)]
    console.print(
        f"\nThe first row reaches {reached:.0f} GFLOP/s; products of two large matrices reach "
        f"{limits[0]:.0f} in float32 and {limits[1]:.0f} in bfloat16 on the same machine."
    )


def regression(console: Console) -> None:
    """All layers of InceptionV3 with controls and permutations, compared with scikit-learn."""
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
    features = {kind: Features(points, (matrices,)) for kind in ("pretrained", "random")}
    ours = timed(lambda: score(parts, features, ("ridge", "ols")))
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
        f"scikit-learn's RidgeCV per layer: {theirs:.1f} s; the {fits:,} fits that the same "
        f"numbers need would take {theirs * fits / 3600:.1f} hours (extrapolated), "
        f"{theirs * fits / ours:,.0f} times as long."
    )


def whole(console: Console) -> None:
    """From JPEG files to the curve, with all controls."""
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
        f"1,174 images, 3 randomly initialised networks, empty cache: {seconds:.0f} s, peak memory "
        f"{peak:.2f} GB."
    )
    stages: Any = read_run(run).facts["stages"]
    console.print(", ".join(f"{name} {each['seconds']:.0f} s" for name, each in stages.items()))


def main() -> None:
    os.environ["SCALECUT_CACHE"] = tempfile.mkdtemp()  # empty; converted graphs are stored in it
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
