"""What a cut saves: the table of docs/benchmarks.md. Run by `make bench`.

Weights are random, because costs do not depend on them. Layers are those at which the paper cuts
(`graziani2021`: mixed8, add_15), those of our own curves (docs/evidence.md), and the middle of a
vision transformer. Latency is the median over pairs, whole and cut network measured in turn.
"""

import platform
import sys

import torch
from rich.console import Console
from rich.table import Table

from scalecut import cut_after, load_network
from scalecut.cut.verify import Verification, verify_cut

CUTS = [
    ("inception_v3", "mixed8"),
    ("inception_v3", "mixed6"),
    ("resnet50_v1", "add_15"),
    ("resnet50_v1", "add_13"),
    ("tf_efficientnet_lite0", "blocks.5.3"),
    ("tf_efficientnet_lite0", "blocks.5.1"),
    ("vit_small_patch16_224", "blocks.8"),
    ("vit_small_patch16_224", "blocks.5"),
]
PAIRS, BATCH = 15, 8
COLUMNS = ("network", "cut after", "parameters", "MACs", "latency", "peak memory", "latency / MACs")


def row(found: Verification) -> list[str]:
    cut, whole = found.cut, found.whole
    of_macs = cut.macs / whole.macs
    return [
        found.model,
        found.layer,
        f"{cut.parameters / 1e6:.1f} of {whole.parameters / 1e6:.1f} M",
        f"{cut.macs / 1e9:.2f} of {whole.macs / 1e9:.2f} G ({100 * of_macs:.0f} %)",
        f"{1e3 * cut.seconds:.0f} of {1e3 * whole.seconds:.0f} ms "
        f"({100 * found.seconds_ratio:.0f} %)",
        f"{cut.peak_bytes / 1e6:.0f} of {whole.peak_bytes / 1e6:.0f} MB",
        f"{found.seconds_ratio / of_macs:.2f}",
    ]


def main() -> None:
    table = Table(*COLUMNS, title=f"Batches of {BATCH}, float32, median of {PAIRS} pairs")
    console = Console(width=None if sys.stdout.isatty() else 180)
    for model, layer in CUTS:
        whole = load_network(model, weights="random")
        cut = cut_after(whole, layer)
        table.add_row(*row(verify_cut(whole, cut, pairs=PAIRS, batch_size=BATCH)))
    console.print(table)
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.platform()}"
    )


if __name__ == "__main__":
    main()
