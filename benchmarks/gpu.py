"""What a GPU changes: speed, the same curve, training in mixed precision, batches that do not fit.

    python benchmarks/gpu.py [--device cuda] [--small] [--out docs/gpu.md]

Takes at most 8 minutes on one GPU and needs no data: images are synthetic scenes, tissue is drawn.
`--small --device cpu` runs the same steps on a processor, to test the script.
"""

import argparse
import functools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture
from skimage.draw import ellipse

from scalecut import Computation, Fitting, Trial, load_network, make_scenes, probe, transfer
from scalecut.data.images import Image
from scalecut.features.backends import Backend
from scalecut.features.extract import decoded, extract_features, forward
from scalecut.networks.selection import chosen_points
from scalecut.pathology.finetune import Training
from scalecut.pathology.patches import Cutting, save_patches
from scalecut.pathology.transfer import CutPoint

NETWORKS = ("resnet50", "inception_v3", "vit_small_patch16_224", "tf_efficientnet_lite0")
ROUNDS = 5
MOST_APART = 0.01  # of R², between the GPU and the processor
Row = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/gpu.md"))
    options = parser.parse_args()
    device, is_small = torch.device(options.device), options.small
    rows: list[Row] = []
    for check in (all_layers, from_files, same_curve, mixed_training, batches_too_large):
        start = time.perf_counter()
        rows += check(device, is_small)
        print(f"{check.__name__}: {time.perf_counter() - start:.0f} s", flush=True)  # noqa: T201
    lines = [
        "# On a GPU",
        "",
        f"`make gpu-check`, {date.today()}, {named(device)}, PyTorch {torch.__version__}.",
        "",
        "| what | measured |",
        "|---|---|",
        *(f"| {what} | {found} |" for what, found in rows),
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def all_layers(device: torch.device, is_small: bool) -> list[Row]:
    """The forward pass with all layers read, against the pass alone; pairs in one run."""
    rows = []
    for name in NETWORKS[2:] if is_small else NETWORKS:
        network = load_network(name, weights="random")
        points, _ = chosen_points(network, [])
        batch = network.example().repeat(2 if is_small else 128, 1, 1, 1)
        module = network.module.eval().to(device)
        there = batch.to(device)

        def alone(module=module, batch=there) -> object:
            in_bfloat16 = torch.autocast(device.type, torch.bfloat16)
            with torch.inference_mode(), in_bfloat16:
                return module(batch)

        ratios, speeds = [], []
        with forward(network, points, Backend("torch", "bfloat16", str(device))) as pooled:
            every = functools.partial(pooled, batch)
            for run in (alone, every):
                seconds(run, device)  # warm up
            for _ in range(ROUNDS):
                bare, read = seconds(alone, device), seconds(every, device)
                ratios.append(bare / read)
                speeds.append(len(batch) / read)
        said = f"{statistics.median(ratios):.2f} of the speed of the forward pass alone"
        rows.append(
            (
                f"{name}, all {len(points)} layers",
                f"{said}, {statistics.median(speeds):,.0f} images/s",
            )
        )
    return rows


def from_files(device: torch.device, is_small: bool) -> list[Row]:
    """JPEG files to the features of all layers, and the memory of the GPU."""
    network = load_network("resnet50", weights="random")
    points, _ = chosen_points(network, [])
    with tempfile.TemporaryDirectory() as folder:
        images = []
        for number, scene in enumerate(make_scenes(16 if is_small else 1024, seed=0).images):
            path = Path(folder) / f"{number}.jpg"
            scene.decode().resize((400, 300)).save(path, quality=90)
            images.append(Image(path.name, path))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with forward(network, points, Backend("torch", "bfloat16", str(device))) as pooled:
            start = time.perf_counter()
            for _, batch, _ in decoded(
                images, range(len(images)), network.preprocessing, batch_size=64
            ):
                pooled(batch)
            speed = len(images) / (time.perf_counter() - start)
        start = time.perf_counter()
        for _ in decoded(images, range(len(images)), network.preprocessing, batch_size=64):
            pass
        decoding = len(images) / (time.perf_counter() - start)
    said = f"{speed:,.0f} images/s; decoding alone {decoding:,.0f}"
    if device.type == "cuda":
        said += f"; peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
    return [("resnet50, JPEG files to features, batches of 64", said)]


def same_curve(device: torch.device, is_small: bool) -> list[Row]:
    """R² of ridge by layer, on the GPU and on the processor, both in float32."""
    scenes = make_scenes(120 if is_small else 600, seed=0)
    few = Fitting(controls=["none"], permutations=0, regressor=["ridge"], repeats=3)
    curves = {}
    for where, computation in {
        "there": Computation(device=str(device), engine="torch", precision="float32"),
        "here": Computation(device="cpu", engine="torch", precision="float32"),
    }.items():
        curves[where] = probe("tf_efficientnet_lite0", scenes, computation=computation, fitting=few)
    apart = (curves["there"].scores().r2 - curves["here"].scores().r2).abs()
    assert is_small or apart.max() <= MOST_APART, apart
    return [
        ("R² of every layer in float32, against the processor", f"at most {apart.max():.4f} apart")
    ]


def mixed_training(device: torch.device, is_small: bool) -> list[Row]:
    """All weights trained in mixed precision on patches of drawn tissue."""
    with tempfile.TemporaryDirectory() as folder:
        tiles, masks, patches = (Path(folder) / each for each in ("tiles", "masks", "patches"))
        draw_tissue(tiles, masks, 12 if is_small else 15)
        some = (20.0, 40.0) if is_small else (10.0, 15.0, 20.0, 30.0, 40.0)
        side = 64 if is_small else 224
        save_patches(
            tiles,
            masks,
            patches,
            cutting=Cutting(magnifications=some, size=side, grid=2 if is_small else 3),
        )
        trial = Trial(mode="finetune", methods=["pretrained", "cut"], seeds=1)
        start = time.perf_counter()
        found = transfer(
            "tf_efficientnet_lite0",
            f"patches:{patches}",
            trial=trial,
            training=Training(epochs=1 if is_small else 3),
            cut=CutPoint("blocks.5.1"),
            computation=Computation(device=str(device)),
        )
        took = time.perf_counter() - start
    scores = found.scores().set_index("contestant").mae
    assert np.isfinite(scores).all()
    said = ", ".join(f"{name} {mae:.0f} px" for name, mae in scores.items())
    return [
        ("EfficientNet-Lite0 trained on patches of drawn tissue", f"{took:.0f} s; error {said}")
    ]


def batches_too_large(device: torch.device, is_small: bool) -> list[Row]:
    """A batch that does not fit is computed in halves, with the same features."""
    if device.type != "cuda":
        return [("a batch that does not fit", "not tried: no GPU")]
    network = load_network("resnet50", weights="random")
    points, _ = chosen_points(network, [])
    images = make_scenes(128, seed=0).images
    total = torch.cuda.get_device_properties(device).total_memory
    look = Computation(device=str(device), precision="float32", engine="torch")
    expected = extract_features(network, images, points, replace(look, batch_size=64)).matrices
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    with forward(network, points, Backend("torch", "float32", str(device))) as pooled:
        pooled(network.example().repeat(96, 1, 1, 1).cpu())
    torch.cuda.set_per_process_memory_fraction(
        torch.cuda.max_memory_allocated(device) / total, device
    )
    torch.cuda.empty_cache()
    try:
        with (
            warnings.catch_warnings(record=True) as said,
            forward(network, points, Backend("torch", "float32", str(device))) as pooled,
        ):
            warnings.simplefilter("always")
            ((_, batch, _),) = decoded(images, range(128), network.preprocessing, batch_size=128)
            found = pooled(batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    halved = sum("half the batch size" in str(each.message) for each in said)
    off = max(
        float(np.abs(one - expected[point.layer]).max() / expected[point.layer].std())
        for one, point in zip(found, points, strict=True)
        if point.layer != "softmax"
    )
    assert halved == 1 and off < 1e-2, (halved, off)
    return [("a batch of 128 that does not fit", f"halved once, features {off:.1g} deviations off")]


# --- inside --------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"


def draw_tissue(tiles: Path, masks: Path, n: int) -> None:
    """Tiles of 512 px with dark ellipses, and their numbers as 16-bit masks."""
    tiles.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for tile in range(n):
        image = rng.normal(200, 12, (512, 512, 3))
        mask = np.zeros((512, 512), np.uint16)
        for number in range(1, 60):
            y, x = rng.integers(30, 482, 2)
            rows, columns = ellipse(y, x, *rng.uniform(6, 14, 2), shape=mask.shape)
            if not mask[rows, columns].any():
                mask[rows, columns] = number
                image[rows, columns] -= (90, 120, 60)
        Picture.fromarray(image.clip(0, 255).astype(np.uint8)).save(tiles / f"p{tile}.png")
        Picture.fromarray(mask).save(masks / f"p{tile}.png")


if __name__ == "__main__":
    main()
