"""Whether one curve by layer foretells another: rank correlation, with its interval.

Shapes: L layers, b bootstrap draws.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import rankdata

from ..errors import DataError

FEWEST = 4  # layers; of three, two in five orders have a rank correlation of 0.5 or more


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the order of layers by a foretold score is that of what was found.

    Args:
        rho: Spearman's rank correlation over the layers.
        low, high: 95 % of its bootstrap draws: other images and tiles, the same layers.
        rho_depth: that of depth, which is known without any measurement.
        regret: how much the layer of the best foretold score lies below the best found one.
        regret_last: how much the last layer does.
        best: number of the layer of the best found score; `foretold`, of the best foretold.
    """

    rho: float
    low: float
    high: float
    rho_depth: float
    regret: float
    regret_last: float
    best: int
    foretold: int
    n_layers: int


def agreement(
    foretold: Float64[np.ndarray, " L"],
    found: Float64[np.ndarray, " L"],
    foretold_draws: Float64[np.ndarray, "L b"],
    found_draws: Float64[np.ndarray, "L c"],
) -> Agreement:
    """Compare two scores of the same layers, in order of depth; in both, higher is better.

    The draws of the two come from different images and are paired as they stand; the longer are
    cut to the number of the shorter. A draw adds noise to what is noisy already, so most draws
    agree less than the scores themselves: the interval errs downwards.

    Raises:
        DataError: if there are fewer than four layers.
    """
    if len(found) < FEWEST:
        raise DataError(
            f"Ranks of {len(found)} layers tell nothing. Compare {FEWEST} layers or more."
        )
    n_draws = min(foretold_draws.shape[1], found_draws.shape[1])
    draws = _rank_correlations(foretold_draws[:, :n_draws], found_draws[:, :n_draws])
    low, high = np.nanquantile(draws, [0.025, 0.975]).tolist()
    order = np.arange(len(found), dtype=np.float64)
    rho, rho_depth = (
        _rank_correlations(each[:, None], found[:, None]).item() for each in (foretold, order)
    )
    return Agreement(
        rho,
        low,
        high,
        rho_depth,
        float(found.max() - found[foretold.argmax()]),
        float(found.max() - found[-1]),
        int(found.argmax()),
        int(foretold.argmax()),
        len(found),
    )


def _rank_correlations(
    one: Float64[np.ndarray, "L b"], other: Float64[np.ndarray, "L b"]
) -> Float64[np.ndarray, " b"]:
    """Spearman's of each pair of columns: Pearson's of their ranks, ties at their mean."""
    ranks = [rankdata(each, axis=0) - (len(one) + 1) / 2 for each in (one, other)]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=0) * (ranks[1] ** 2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks[0] * ranks[1]).sum(axis=0) / spread
