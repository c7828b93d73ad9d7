"""What a probe costs, as ratios within one run: writes the tables of docs/benchmarks.md.

    python benchmarks/speed.py [--small]

Each round measures every variant once, in turn, so that other load on the machine affects all of
them. Ratios are taken within a round; medians over rounds are reported. Weights are random where
the speed does not depend on them. Images are those of SCALECUT_DATA/voc-animals, or synthetic
scenes saved as JPEG. `--small` tries every step on one network and few images in two minutes; it
prints the tables and leaves the page as it is.
"""

import argparse
import os
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from commands import RELEASED, seconds_of_commands
from cuts import table_of_cuts
from page import Claim, Speeds, marks_of, ratio, table_of, table_of_speeds, written
from regression import seconds_of_regression
from rich.console import Console
from torch import Tensor

from scalecut import ProbePoint, load_network, make_scenes
from scalecut.data.images import Image
from scalecut.features.backends import Backend, resolved_backend
from scalecut.features.extract import decoded, forward
from scalecut.features.processor import instructions
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.selection import chosen_points

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BATCH, SIDE = 16, 2048  # images per pass; of the matrices whose product is the limit
NETWORKS = {
    "inception_v3": "InceptionV3",
    "resnet50": "ResNet50",
    "vit_small_patch16_224": "ViT-S/16",
    "tf_efficientnet_lite0": "EfficientNet-Lite0",
}
PLAIN, PER_LAYER = "plain PyTorch, float32", "one pass per layer, PyTorch, float32"
LIMIT, ALONE = "limit by matrix products", "forward pass alone, OpenVINO"
LAYERS, FILES = "all layers, OpenVINO", "JPEG files to all layers, OpenVINO"

Variants = Mapping[str, tuple[float, Callable[[], object]]]  # number of images, and a call


class Size(NamedTuple):
    """How much is measured."""

    networks: Sequence[str]
    seconds: float  # of the rounds of each network, at least
    rounds: int  # at least
    files: int
    probed: int  # images
    repeats: int
    permutations: int
    scenes: int  # of the demo
    pairs: int  # of the latency of a cut


FULL = Size(tuple(NETWORKS), 75, 3, 96, 1174, 10, 1000, 400, 7)
SMALL = Size(("tf_efficientnet_lite0",), 0, 1, 24, 96, 2, 19, 100, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    size = SMALL if parser.parse_args().small else FULL
    console, lines = Console(width=10_000, highlight=False, markup=False), []
    precision = resolved_backend("openvino", "auto", "cpu").precision  # of the default engine
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCALECUT_CACHE"] = f"{folder}/graphs"  # empty
        for line in measured(size, Path(folder), precision):
            console.print(line)
            lines.append(line)
    if size is FULL:
        page = written(PAGE.read_text(encoding="utf-8"), lines, marks_of(precision))
        PAGE.write_text(page, encoding="utf-8")


def measured(size: Size, folder: Path, precision: str) -> Iterator[str]:
    """The lines between the marks of the page, as they are measured."""
    given = os.environ.get("SCALECUT_DATA")
    voc = Path(given, "voc-animals") if given else None
    images = photographs(voc, size.files) if voc else scene_files(folder / "files", size.files)
    speeds: dict[str, Speeds] = {}
    for name in size.networks:
        with variants_of(name, images, precision) as variants:
            speeds[NETWORKS[name]] = in_rounds(variants, size.seconds, size.rounds)
    yield from (*textwrap.wrap(machine(size), 120), "", *table_of_speeds(speeds, PLAIN), "")
    data = [f"voc:{voc}", "--subset", "dog,cat,horse"]
    if voc is None or size is SMALL:
        scene_files(folder / "probed", size.probed)
        data = [f"csv:{folder}/probed/table.csv"]
    claims = [*claims_of_networks(speeds, precision), *claims_of_probe(size, data, folder)]
    yield from (*table_of(claims), "")
    yield from table_of_cuts(size.networks, size.pairs)


def machine(size: Size) -> str:
    """What was measured, when and on what."""
    about = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    processor = about.partition("model name\t: ")[2].partition("\n")[0] or platform.machine()
    used = ", ".join(f"{name} {version(name)}" for name in ("torch", "openvino", "scikit-learn"))
    return (
        f"{date.today()}, {torch.get_num_threads()} threads of {processor} "
        f"({', '.join(instructions())}), {used}. {size.files} JPEG files, batches of {BATCH}."
    )


# --- forward passes ------------------------------------------------------------------------------


def photographs(voc: Path, n: int) -> list[Image]:
    paths = sorted((voc / "JPEGImages").glob("*.jpg"))[:n]
    return [Image(path.name, path) for path in paths]


def scene_files(folder: Path, n: int) -> list[Image]:
    """Scenes as JPEG files of the size of photographs, and a table of their measure."""
    folder.mkdir()
    scenes, names = make_scenes(n, seed=0), [f"{number:04d}.jpg" for number in range(n)]
    for name, scene in zip(names, scenes.images, strict=True):
        scene.decode().resize((400, 300)).save(folder / name, quality=90)
    table = pd.DataFrame({"image": names, "measure": scenes.measure})
    table.to_csv(folder / "table.csv", index=False)
    return [Image(name, folder / name) for name in names]


@contextmanager
def variants_of(name: str, images: Sequence[Image], precision: str) -> Iterator[Variants]:
    """Every variant of one network; `precision` is that of the default engine."""
    network = load_network(name, weights="random")
    own, module = network.preprocessing, network.module.eval()
    points, _ = chosen_points(network, [])
    _, batch, _ = next(decoded(images, range(BATCH), own, batch_size=BATCH))
    several = torch.cat([batch] * 3)

    def from_files(vectors: Callable[[Tensor], object]) -> None:
        for _, some, _ in decoded(images, range(len(images)), own, batch_size=BATCH):
            vectors(some)

    def per_layer() -> None:
        for point in points:
            with torch.inference_mode(), pooled_outputs(module, [point]):
                module(batch[:4])

    variants: dict[str, tuple[float, Callable[[], object]]] = {}
    variants[PLAIN] = BATCH, torch.inference_mode()(lambda: module(batch))
    for kind in dict.fromkeys(("float32", precision)):
        matrix = torch.randn(SIDE, SIDE).to(getattr(torch, kind))
        n = SIDE**3 / (points[-1].macs or 0)  # images with as many multiply-accumulates
        variants[f"{LIMIT}, {kind}"] = n, lambda matrix=matrix: matrix @ matrix
    variants[PER_LAYER] = 4, per_layer
    with ExitStack() as ready:

        def by(points: Sequence[ProbePoint], precision: str) -> Callable[[Tensor], object]:
            return ready.enter_context(
                forward(network, points, Backend("openvino", precision, "cpu"))
            )

        one, every, exact = by(points[-1:], precision), by(points, precision), by(points, "float32")
        variants[f"{ALONE}, {precision}"] = len(several), lambda: one(several)
        variants[f"{LAYERS}, {precision}"] = len(several), lambda: every(several)
        variants[f"{FILES}, {precision}"] = len(images), lambda: from_files(every)
        variants[f"{FILES}, float32"] = len(images), lambda: from_files(exact)
        yield variants


def in_rounds(variants: Variants, seconds: float, rounds: int) -> Speeds:
    """Images per second of each variant in each round, after a warm-up."""
    for _, run in variants.values():
        run()
    speeds = {name: [] for name in variants}
    end = time.perf_counter() + seconds
    while len(speeds[PLAIN]) < rounds or time.perf_counter() < end:
        for name, (n_images, run) in variants.items():
            start = time.perf_counter()
            run()
            speeds[name].append(n_images / (time.perf_counter() - start))
    return speeds


# --- claims --------------------------------------------------------------------------------------


def claims_of_networks(speeds: Mapping[str, Speeds], precision: str) -> Iterator[Claim]:
    def of(one: str, other: str, *names: str) -> dict[str, float]:
        return {n: ratio(s, one, other) for n, s in speeds.items() if not names or n in names}

    for name, times, share in (("InceptionV3", 1.8, 0.9), ("EfficientNet-Lite0", 3.0, 0.5)):
        found = of(f"{FILES}, {precision}", PLAIN, name)
        yield Claim(f"JPEG files to all layers, {precision} / {PLAIN}", found, least=times)
        for kind in dict.fromkeys((precision, "float32")):
            found = of(f"{FILES}, {kind}", f"{LIMIT}, {kind}", name)
            yield Claim(f"JPEG files to all layers / {LIMIT}, both {kind}", found, least=share)
    layers = f"{LAYERS}, {precision}"
    found = of(layers, f"{ALONE}, {precision}")
    yield Claim(f"all layers / forward pass alone, {precision}", found, least=0.95)
    yield Claim(f"all layers, {precision} / {PER_LAYER}", of(layers, PER_LAYER))


def claims_of_probe(size: Size, data: Sequence[str], folder: Path) -> Iterator[Claim]:
    ours, theirs, n_fits = seconds_of_regression(size.probed, size.repeats, size.permutations)
    note = f" ({ours:.0f} s; {n_fits:,} fits would take {theirs / 3600:.1f} h, by one per layer)"
    yield Claim("loop over scikit-learn / regression", {"": theirs / ours}, least=50, note=note)

    options = ["--repeats", f"{size.repeats}", "--permutations", f"{size.permutations}"]
    took = seconds_of_commands([*data, *options], size.scenes, folder)
    first, cached, of_fits = took["probe"], took["probe, cached"], took["regression"]
    what = f"`scalecut probe`, empty cache: first version ({RELEASED}) / now"
    if before := took.get("first version"):
        note = f" ({before:.0f} s / {first:.0f} s)"
        yield Claim(what, {"": before / first}, least=2, note=note)
    else:
        yield Claim(what, {}, least=2, note=f" (now {first:.0f} s)")
    what = "`scalecut probe`: full cache, without the regression / empty cache"
    note = f" ({cached:.0f} s, of which regression {of_fits:.0f} s)"
    yield Claim(what, {"": (cached - of_fits) / first}, most=0.1, note=note)
    yield Claim("`scalecut --help`", {"": took["help"]}, most=0.5, unit=" s")
    yield Claim("`scalecut demo`, empty cache", {"": took["demo"]}, most=60, unit=" s")


if __name__ == "__main__":
    main()
