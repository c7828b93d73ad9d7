"""How far one curve by layer predicts another: rank correlation, with its interval.

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
    """How far the order of the layers by a predictor is their order by the observed score."""

    rho: float  # Spearman's rank correlation over the layers; NaN if all scores are equal
    # low, high: its 95 % bootstrap interval: other images and tiles, the same layers
    low: float
    high: float
    # rank correlation of the observed score with depth, which needs no measurement
    rho_depth: float
    # how far the score of the layer with the highest predictor is below the best score
    regret: float
    regret_last: float  # how far that of the last layer is
    best: int  # number of the layer with the best score; `predicted`, with the highest predictor
    predicted: int
    n_layers: int


def agreement(
    predictor: Float64[np.ndarray, " L"],
    observed: Float64[np.ndarray, " L"],
    predictor_draws: Float64[np.ndarray, "L b"],
    observed_draws: Float64[np.ndarray, "L c"],
) -> Agreement:
    """The agreement of two scores of the same layers, in order of depth; higher is better in both.

    The draws of the two come from different images and are paired in their order, as many as the
    shorter has. A draw adds noise to a noisy score, so most draws agree less than the scores
    themselves: the interval is biased downwards.

    Raises:
        DataError: if there are fewer than four layers.
    """
    if len(observed) < FEWEST:
        raise DataError(
            f"A rank correlation over {len(observed)} layers is not informative. Compare {FEWEST} "
            "layers or more."
        )
    n_draws = min(predictor_draws.shape[1], observed_draws.shape[1])
    draws = _rank_correlations(predictor_draws[:, :n_draws], observed_draws[:, :n_draws])
    low = high = np.nan  # the ranks of constant scores have no correlation
    if np.isfinite(draws).any():
        low, high = np.nanquantile(draws, [0.025, 0.975]).tolist()
    order = np.arange(len(observed), dtype=np.float64)
    rho, rho_depth = (
        _rank_correlations(each[:, None], observed[:, None]).item() for each in (predictor, order)
    )
    return Agreement(
        rho,
        low,
        high,
        rho_depth,
        float(observed.max() - observed[predictor.argmax()]),
        float(observed.max() - observed[-1]),
        int(observed.argmax()),
        int(predictor.argmax()),
        len(observed),
    )


def _rank_correlations(
    one: Float64[np.ndarray, "L b"], other: Float64[np.ndarray, "L b"]
) -> Float64[np.ndarray, " b"]:
    """Spearman's of each pair of columns: Pearson's of their ranks, ties at their mean."""
    ranks = [rankdata(each, axis=0) - (len(one) + 1) / 2 for each in (one, other)]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=0) * (ranks[1] ** 2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks[0] * ranks[1]).sum(axis=0) / spread
