"""R² of resampled images with every fit done anew, for intervals that count the training part.

Shapes: n images, r repeats, b draws, u training images that were drawn, m held-out images, d
features.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Num

from .inference import bootstrap_r_squared
from .partial import Others, Standardised, decompose_rest
from .ridge import FARTHEST, nested_rest, zero_if_constant

DRAWS = 200


def refit_r_squared(
    features: Float[np.ndarray, "n d"],
    measure: Float64[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    is_held_out: Bool[np.ndarray, "r n"],
    counts: Num[np.ndarray, "b n"],
) -> Float64[np.ndarray, " b"]:
    """R² of ridge in resampled sets of images, mean over repeats, each draw with fits of its own.

    A draw keeps the splits: a group is in the training part of a repeat or in its test part, with
    all its copies, never in both. The penalty is chosen anew by leave-one-group-out, where the
    copies of a group are one group; copies left apart would predict each other.

    Args:
        counts: how often each image was drawn, as of `inference.group_draws`.
    """
    targets = np.broadcast_to(measure, is_held_out.shape)
    found = np.full(len(counts), np.nan)
    for draw, times in enumerate(counts):
        errors = []
        for held_out in is_held_out:
            train = ~held_out & (times > 0)
            predicted = weighted_ridge(
                features[train].astype(np.float64),
                measure[train],
                times[train].astype(np.float64),
                groups[train],
                features[held_out].astype(np.float64),
            )
            errors.append((measure[held_out] - predicted)[:, None] ** 2)
        found[draw] = bootstrap_r_squared(targets, errors, is_held_out, counts[[draw]])[0, 0]
    return found


def recentred(
    refits: Float64[np.ndarray, " b"], draws: Float64[np.ndarray, " c"]
) -> Float64[np.ndarray, " b"]:
    """Draws with refits, with the median of those without: 1 - R² is scaled.

    A resampled training part has but 63 % of its groups, so R² of refits is lower for a reason that
    the sample itself does not have. Only their spread is used (docs/intervals.md).
    """
    return 1 - (1 - refits) * np.nanmedian(1 - draws) / np.nanmedian(1 - refits)


def weighted_ridge(
    train: Float64[np.ndarray, "u d"],
    target: Float64[np.ndarray, " u"],
    weights: Float64[np.ndarray, " u"],
    groups: Int[np.ndarray, " u"],
    held_out: Float64[np.ndarray, "m d"],
) -> Float64[np.ndarray, " m"]:
    """Predictions of nested ridge with every training image repeated as often as its weight.

    In closed form: rows are scaled by √w, and the constant becomes √(w / Σw), which is fitted
    without a penalty. The scaled residual of an image is √w times that of each copy, so that the
    sum of squares by which the penalty is chosen is that of the repeated rows.
    """
    share, root = weights / weights.sum(), np.sqrt(weights)[:, None]
    mean = share @ train
    deviation = zero_if_constant(
        np.sqrt(share @ (train - mean) ** 2), np.abs(train).max(axis=0, initial=0.0)
    )
    varies = deviation > 0
    mean, deviation = mean[varies], deviation[varies]
    X = root * (train[:, varies] - mean) / deviation
    Z = np.clip((held_out[:, varies] - mean) / deviation, -FARTHEST, FARTHEST)
    constant = Others(np.sqrt(share)[:, None], np.full((len(Z), 1), weights.sum() ** -0.5))
    decomposition = decompose_rest(Standardised(X, Z), constant)
    rest = root * (target - share @ target)[:, None]
    return share @ target + nested_rest(decomposition, rest, groups).predictions[:, 0]
