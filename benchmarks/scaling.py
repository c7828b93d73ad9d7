"""How time and memory of a probe grow, streamed or not: the measured points of docs/scaling.md.

Made-up pictures of 64 px in tar shards, EfficientNet-Lite0 at 64 px, all layers, no controls; every
point is a process of its own. `stored` is the usual probe, with features on disk, 10 splits, both
regressors and 1,000 permutations. Then what sums cost by width, and by network. Writes
docs/scaling.csv and docs/images/scaling.png, and prints the tables.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import PIL.Image

SIZES, SIDE, A_SHARD = (1_000, 10_000, 100_000), 64, 1_000
CLUSTERS, IMAGES_OF_CLUSTERS = ("local:1", "local:2"), 10_000
STREAMED, STORED = "streamed", "stored"
NETWORK, BATCH = "tf_efficientnet_lite0", 32
DOCS = Path(__file__).parent.parent / "docs"


def packed(folder: Path, n: int) -> None:
    """Shards of n bright discs on noise, with the share that each covers."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    for start in range(0, n, A_SHARD):
        with tarfile.open(folder / f"discs-{start // A_SHARD:03d}.tar", "w") as tar:
            for number in range(start, min(n, start + A_SHARD)):
                radius = rng.uniform(4, 28)
                inside = (down - SIDE / 2) ** 2 + (across - SIDE / 2) ** 2 < radius**2
                pixels = rng.integers(0, 120, (SIDE, SIDE, 3), np.uint8) + 100 * inside[..., None]
                picture = io.BytesIO()
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(picture, "JPEG", quality=80)
                about = json.dumps({"measure": inside.mean(), "subset": "disc"}).encode()
                for name, content in ((".jpg", picture.getvalue()), (".json", about)):
                    entry = tarfile.TarInfo(f"{number:06d}{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def peak() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def point(shards: Path, n: int, how: str) -> None:
    """Probe n images and print what it took."""
    import torch

    from scalecut import Preprocessing, load_network, probe
    from scalecut.features.extract import Computation
    from scalecut.streaming import stream
    from scalecut import read_images

    network = load_network(NETWORK, preprocessing=Preprocessing(SIDE, SIDE))
    with torch.inference_mode():
        network.module.eval()(network.example().repeat(BATCH, 1, 1, 1))
    own = peak()
    start = time.perf_counter()
    last = (n - 1) // A_SHARD
    images = read_images(f"tar:{shards}/discs-{{000..{last:03d}}}.tar")
    listed = time.perf_counter() - start
    if how == STORED:
        curve = probe(network, images, batch_size=BATCH, controls=[])
    else:
        cluster = "" if how == STREAMED else how
        curve = stream(network, images, look=Computation(batch_size=BATCH), controls=[], cluster=cluster)
    stages = {"pilot": {"seconds": 0.0}, **curve.provenance["stages"]}
    found = {name: stages[name]["seconds"] for name in ("pilot", "features", "regression")}
    total = time.perf_counter() - start
    best = curve.scores().r2.max()
    found |= {"listing": listed, "total": total, "above_network_mb": peak() - own, "r2": best}
    sys.stdout.write(json.dumps({"n": n, "how": how, "network_mb": own} | found) + "\n")


def costs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a network's sums take, and what a layer's regression takes, by width."""
    from scalecut import load_network
    from scalecut.networks.selection import (chosen_points)
    from scalecut.sums import add, cross_validated, empty, scale_of

    rng, n = np.random.default_rng(0), 2048
    cells, target = rng.integers(0, 10, n), rng.normal(size=(n, 2))

    def sums_of(width: int) -> tuple[object, float]:
        features = rng.normal(size=(n, width)).astype(np.float32)
        before = empty(scale_of(features, target, 10**6))
        start = time.perf_counter()
        return add(before, features, target, cells), time.perf_counter() - start

    networks, widths = [], []
    for name in ("inception_v3", "resnet50", "tf_efficientnet_lite0", "vit_small_patch16_224"):
        points, _ = chosen_points(load_network(name, weights="random"), [])
        channels = [point.channels for point in points]
        seconds = sum(sums_of(width)[1] for width in channels)
        networks.append(
            {
                "network": name,
                "layers": len(points),
                "channels": sum(channels),
                "kB an image": 4 * sum(channels) / 1e3,
                "MB of sums": sum(40 * width**2 for width in channels) / 1e6,
                "images/s summed": n / seconds,
            }
        )
    for width in (256, 512, 1024, 2048):
        sums, _ = sums_of(width)
        start = time.perf_counter()
        cross_validated(sums)
        widths.append({"channels": width, "seconds": time.perf_counter() - start})
    return pd.DataFrame(networks), pd.DataFrame(widths)


def slope(x: pd.Series, y: pd.Series) -> float:
    return float(np.polyfit(np.log10(x), np.log10(y), 1)[0])


def drawn(table: pd.DataFrame) -> None:
    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    streamed, stored = (table.loc[table.how == how] for how in (STREAMED, STORED))
    for rows, name, label in (
        (streamed, "features", "streamed: forward passes and sums"),
        (streamed, "total", "streamed: all of it"),
        (stored, "features", "stored: forward passes"),
        (stored, "total", "stored: all of it"),
    ):
        tail = f", slope {slope(rows.n, rows[name]):.2f}"
        left.loglog(rows.n, rows[name], "o-", label=label + tail)
    left.set(xlabel="images", ylabel="seconds", title="Time")
    left.legend(frameon=False, fontsize="small")
    for rows, label in ((streamed, STREAMED), (stored, STORED)):
        tail = f"{label}, slope {slope(rows.n, rows.above_network_mb):.2f}"
        right.loglog(rows.n, rows.above_network_mb, "o-", label=tail)
    right.axhline(1500, color="0.6", linestyle="--", label="1.5 GB")
    right.set(xlabel="images", ylabel="MB above the network's own", title="Peak memory")
    right.set_ylim(100, 3000)
    right.legend(frameon=False, loc="lower right")
    figure.savefig(DOCS / "images" / "scaling.png", dpi=150)


def main() -> None:
    if len(sys.argv) > 2:
        point(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
        return
    most = int(sys.argv[1]) if len(sys.argv) > 1 else max(SIZES)
    sizes = [n for n in SIZES if n <= most]
    with tempfile.TemporaryDirectory() as folder:
        packed(Path(folder), most)
        asked = [(n, how) for how in (STREAMED, STORED) for n in sizes]
        asked += [(min(most, IMAGES_OF_CLUSTERS), cluster) for cluster in CLUSTERS]
        rows = []
        for n, how in asked:
            # what is stored for fewer images would be found by more
            os.environ["SCALECUT_CACHE"] = f"{folder}/cache{n if how == STORED else ''}"
            command = [sys.executable, __file__, folder, str(n), how]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            sys.stdout.write(f"{said.splitlines()[-1]}\n")
            sys.stdout.flush()
            rows.append(json.loads(said.splitlines()[-1]))
    table = pd.DataFrame(rows).round(3)
    table.to_csv(DOCS / "scaling.csv", index=False)
    drawn(table)
    for each in (table, *costs()):
        sys.stdout.write(f"\n{each.round(2).to_string(index=False)}\n")


if __name__ == "__main__":
    main()
