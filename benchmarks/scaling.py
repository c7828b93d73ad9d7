"""How time and memory of a probe grow with the number of images: docs/scaling.md.

Images of 64 px in tar shards, EfficientNet-Lite0 at 64 px, all layers, 10 splits, both regressors,
1,000 permutations, no controls. Then the same with workers of Ray, without permutations. Writes
docs/scaling.csv and docs/images/scaling.png and prints the table. With `--regression`, only the
regression of wide synthetic features, one split, and docs/scaling-regression.csv. Every point is
measured in a process of its own.
"""

import argparse
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

SIZES, SIDE, PER_SHARD = (1_000, 10_000, 100_000), 64, 1_000
CLUSTERS, IMAGES_OF_CLUSTERS = ("local:1", "local:2"), 10_000
HERE, REGRESSION = "one process", "regression"
REGRESSED, WIDTHS = (20_000, 100_000), (64, 1024)
NETWORK, BATCH = "tf_efficientnet_lite0", 32
DOCS = Path(__file__).parent.parent / "docs"


def pack(folder: Path, n: int) -> None:
    """Write tar shards of n bright discs on noise, each with the share of the image it covers."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    for start in range(0, n, PER_SHARD):
        with tarfile.open(folder / f"discs-{start // PER_SHARD:03d}.tar", "w") as tar:
            for number in range(start, min(n, start + PER_SHARD)):
                radius = rng.uniform(4, 28)
                inside = (down - SIDE / 2) ** 2 + (across - SIDE / 2) ** 2 < radius**2
                pixels = rng.integers(0, 120, (SIDE, SIDE, 3), np.uint8) + 100 * inside[..., None]
                image = io.BytesIO()
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(image, "JPEG", quality=80)
                about = json.dumps({"measure": inside.mean(), "subset": "disc"}).encode()
                for name, content in ((".jpg", image.getvalue()), (".json", about)):
                    entry = tarfile.TarInfo(f"{number:06d}{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def peak() -> float:
    """The peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def point(shards: Path, n: int, how: str) -> None:
    """Probe n images and print what it cost."""
    import torch

    from scalecut import Computation, Fitting, Preprocessing, load_network, probe, read_images

    network = load_network(NETWORK, preprocessing=Preprocessing(SIDE, SIDE))
    with torch.inference_mode():
        network.module.eval()(network.example().repeat(BATCH, 1, 1, 1))
    own = peak()
    start = time.perf_counter()
    last = (n - 1) // PER_SHARD
    images = read_images(f"tar:{shards}/discs-{{000..{last:03d}}}.tar")
    listed = time.perf_counter() - start
    curve = probe(
        network,
        images,
        computation=Computation(batch_size=BATCH, cluster="" if how == HERE else how),
        fitting=Fitting(controls=(), permutations=1000 if how == HERE else 0),
    )
    total = time.perf_counter() - start
    stages = curve.provenance["stages"]
    found = {name: stages[name]["seconds"] for name in ("features", "regression")}
    best = curve.to_frame().r2.max()
    found |= {"listing": listed, "total": total, "above_network_mb": peak() - own, "r2": best}
    sys.stdout.write(json.dumps({"n": n, "how": how, "network_mb": own} | found) + "\n")


def regression(n: int) -> None:
    """Fit layers of n random features that encode a measure and print what it cost."""
    from scalecut import ProbePoint, cache, make_image_set
    from scalecut.probing.scores import Features, draw_parts, score

    rng, blank = np.random.default_rng(0), np.zeros((1, 1, 3), np.uint8)
    measure = rng.random(n)
    images = make_image_set([blank] * n, measure, subset="disc")
    matrices, points = {}, []
    for number, width in enumerate(WIDTHS):
        name = f"layer {number}"
        points.append(ProbePoint(name, "", number / 2, name, "output", channels=width))
        matrices[name] = cache.scratch((n, width), np.dtype(np.float32))
        for start in range(0, n, 1000):
            rows = rng.standard_normal((min(1000, n - start), width), np.float32)
            matrices[name][start : start + 1000] = rows + measure[start : start + 1000, None]
            cache.released(matrices[name])
    own, start, before = peak(), time.perf_counter(), time.process_time()
    parts = draw_parts(images, 1, 0, shuffled=True, permutations=1000)
    features = {"pretrained": Features(tuple(points), (matrices,))}
    best = score(parts, features, ("ridge", "ols")).table.r2.max()
    seconds, processor = time.perf_counter() - start, time.process_time() - before
    found = {"seconds": seconds, "processor": processor, "above_mb": peak() - own, "r2": best}
    sys.stdout.write(json.dumps({"n": n} | found) + "\n")


def measured(folder: str, n: int, how: str) -> dict[str, float]:
    """What a point cost, measured in another process with a cache of its own."""
    # Features of fewer images would be reused otherwise.
    own = {"SCALECUT_CACHE": f"{folder}/cache-{n}-{how}"}
    command = [sys.executable, __file__, "--point", folder, str(n), how]
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | own
    ).stdout.splitlines()[-1]
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()
    return json.loads(said)


def slope(x: pd.Series, y: pd.Series) -> float:
    return float(np.polyfit(np.log10(x), np.log10(y), 1)[0])


def draw(table: pd.DataFrame) -> None:
    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = table.loc[table.how == HERE]
    for name, label in (("features", "forward passes"), ("total", "total")):
        tail = f"{label}, slope {slope(rows.n, rows[name]):.2f}"
        left.loglog(rows.n, rows[name], "o-", label=tail)
    left.set(xlabel="images", ylabel="seconds", title="Time")
    left.legend(frameon=False, fontsize="small")
    right.loglog(rows.n, rows.above_network_mb, "o-", label="peak")
    right.axhline(1500, color="0.6", linestyle="--", label="1.5 GB")
    right.set(xlabel="images", ylabel="MB above the network's own", title="Peak memory")
    right.set_ylim(100, 3000)
    right.legend(frameon=False, loc="lower right")
    figure.savefig(DOCS / "images" / "scaling.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=max(SIZES), help="the largest n")
    parser.add_argument("--draw", action="store_true", help="draw docs/scaling.csv again")
    parser.add_argument("--regression", action="store_true", help="of synthetic features alone")
    parser.add_argument("--point", nargs=3, metavar=("SHARDS", "N", "HOW"), help="one point")
    asked = parser.parse_args()
    if asked.point:
        shards, n, how = asked.point
        regression(int(n)) if how == REGRESSION else point(Path(shards), int(n), how)
        return
    if asked.draw:
        draw(pd.read_csv(DOCS / "scaling.csv"))
        return
    with tempfile.TemporaryDirectory() as folder:
        if asked.regression:
            sizes = [n for n in REGRESSED if n <= asked.most] or [asked.most]
            points = [(n, REGRESSION) for n in sizes]
        else:
            pack(Path(folder), asked.most)
            points = [(n, HERE) for n in SIZES if n <= asked.most] or [(asked.most, HERE)]
            points += [(min(asked.most, IMAGES_OF_CLUSTERS), cluster) for cluster in CLUSTERS]
        table = pd.DataFrame([measured(folder, *each) for each in points]).round(3)
    if asked.most == max(SIZES):
        name = "scaling-regression.csv" if asked.regression else "scaling.csv"
        table.to_csv(DOCS / name, index=False)
        if not asked.regression:
            draw(table)
    sys.stdout.write(f"\n{table.round(2).to_string(index=False)}\n")


if __name__ == "__main__":
    main()
