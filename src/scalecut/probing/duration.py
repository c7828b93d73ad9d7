"""How long a probe will take, said after its first images."""

import time
from collections.abc import Iterable

import numpy as np
from threadpoolctl import threadpool_limits

from .scores import TEST_SHARE, n_processors

SIDE = 384  # of the product of matrices that is timed
SPREAD_OVER = 0.8  # of the processors that regressions use
SLOWER = 2.2  # regressions, of small matrices, than the product (measured at 80 to 400 images)


def regression_seconds(
    sizes: Iterable[int],
    widths: Iterable[int],
    *,
    repeats: int,
    permutations: int,
    at_once: int = 0,
) -> float:
    """Seconds of the regressions of some layers on some subsets, to a factor of about three.

    Counts the operations of `stats.ridge` on n training images, m held-out images and d features,
    with k = min(n, d): products 2 n d k, decompositions 12 k³ and permutations 2 p k (n + 2 m); the
    speed is that of a product of matrices on one thread.

    Args:
        sizes: images of each subset.
        widths: features of each layer, once per kind of weights.
        at_once: regressions at a time, on a cluster; 0 for one per processor of this machine.
    """
    counted = 0.0
    wide = np.array([*widths], dtype=float)
    for size in sizes:
        n, m = (1 - TEST_SHARE) * size, TEST_SHARE * size
        k = np.minimum(n, wide)
        per_split = 2 * n * wide * k + 12 * k**3 + 2 * permutations * k * (n + 2 * m)
        reading = 400.0 * size * permutations  # moving numbers takes as long as this many products
        counted += repeats * float(np.sum(per_split + reading))
    used = max(1.0, SPREAD_OVER * (at_once or n_processors()))
    return SLOWER * counted / (_operations_per_second() * used)


def joined_seconds(sizes: Iterable[int], widths: Iterable[int], *, repeats: int) -> float:
    """Seconds of the fits of all layers up to each together, as `regression_seconds`.

    Every layer adds products of n, m and d, and a decomposition of n by n.
    """
    counted, wide = 0.0, np.array([*widths], dtype=float)
    for size in sizes:
        n = (1 - TEST_SHARE) * size
        counted += repeats * float(np.sum(2 * n * size * wide + 12 * n**3))
    return SLOWER * counted / (_operations_per_second() * max(1.0, SPREAD_OVER * n_processors()))


def _operations_per_second() -> float:
    matrix = np.ones((SIDE, SIDE))
    with threadpool_limits(1):
        np.matmul(matrix, matrix)
        start = time.perf_counter()
        np.matmul(matrix, matrix)
        return 2 * SIDE**3 / (time.perf_counter() - start)
