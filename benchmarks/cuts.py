"""What a cut saves: a table of docs/benchmarks.md, which `make bench` writes.

Layers are those at which the paper cuts (`graziani2021`: mixed8, add_15), that of our own curve
(docs/evidence.md), and the middle of a vision transformer. Latency is the median over pairs, whole
and cut network measured in turn, in PyTorch, float32.
"""

from collections.abc import Sequence

from scalecut import cut_after, load_network
from scalecut.cut.verify import verify_cut

CUTS = {
    "inception_v3": "mixed8",
    "resnet50": "add_15",
    "tf_efficientnet_lite0": "blocks.5.1",
    "vit_small_patch16_224": "blocks.5",
}


def table_of_cuts(networks: Sequence[str], pairs: int) -> list[str]:
    """One row per network."""
    lines = [
        "| network, cut after | parameters | multiply-accumulates | latency, cut / whole |",
        "|---|---|---|---|",
    ]
    for name in networks:
        network = load_network(name, weights="random")
        found = verify_cut(network, cut_after(network, CUTS[name]), pairs=pairs, batch_size=8)
        cut, whole = found.cut, found.whole
        lines.append(
            f"| {name}, {found.layer} "
            f"| {cut.parameters / 1e6:.1f} of {whole.parameters / 1e6:.1f} M "
            f"| {cut.macs / 1e9:.2f} of {whole.macs / 1e9:.2f} G ({cut.macs / whole.macs:.0%}) "
            f"| {found.seconds_ratio:.0%} |"
        )
    return lines
