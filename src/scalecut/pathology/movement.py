"""How features of patches move with resolution, layer by layer: the numbers of a passport.

Shapes: n patches, m patients, R resolutions, L layers, b draws, p permutations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64

from ..data.images import ImageSet
from ..data.patches import AT_1X
from ..errors import DataError
from ..features.extract import Stages
from ..networks.points import ProbePoint
from ..probing.scores import Part, by_layer, draw_parts
from ..stats.drift import apart, moved, plausible, reach, squared_ratios, standardised
from ..stats.inference import bootstrap_r_squared, ends, family_p_values, interval
from ..stats.out_of_core import Rows, Split, predicted, predicted_in_memory
from .alignment import Places, Resolutions, same_places
from .verdict import FEWEST

YES, NO, UNCLEAR, NO_VERDICT, REFERENCE = "yes", "no", "unclear", "no verdict", "reference"
BREAKS, HOLDS, NONE_GIVEN = "breaks", "holds", "none given"  # an end of a range
OCTAVE = 0.1  # how far two resolutions may be from one octave apart to count as that


def placed(
    table: pd.DataFrame, resolutions: Resolutions, reference: int, side: int
) -> dict[int, Places]:
    """The places that other resolutions share with the reference, by their numbers.

    Raises:
        DataError: if there are none, or no patient has two patches at the reference.
    """
    others = [number for number in range(len(resolutions.sizes)) if number != reference]
    found = {
        number: same_places(table, resolutions, (reference, number), side) for number in others
    }
    name = resolutions.named(reference)
    if not any(len(each.rows) for each in found.values()):
        raise DataError(
            f"No patch shows the same place as one at {name}, at any other resolution. Cut all "
            "resolutions from the same tiles, or give another --at."
        )
    here = table.loc[resolutions.of == reference, "group"].value_counts()
    if here.max() < 2:
        raise DataError(
            f"No patient has two patches at {name}, so what patients differ by cannot be separated "
            "from what places differ by. Cut more patches of each, such as --grid 2."
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What all layers share."""

    part: Part
    resolutions: Resolutions
    reference: int
    patients: Int64[np.ndarray, " n"]
    places: Mapping[int, Places]  # by the number of the resolution
    by_octave: tuple[Places, ...]  # of pairs of resolutions an octave apart
    counts: Float64[np.ndarray, "b m"]  # the first: every patient once

    @property
    def n_patients(self) -> int:
        return self.counts.shape[1]


def planned(
    table: pd.DataFrame,
    kept: ImageSet,
    resolutions: Resolutions,
    reference: int,
    side: int,
    repeats: int,
    permutations: int,
    seed: int,
) -> Plan:
    patients = np.unique(kept.group, return_inverse=True)[1].astype(np.int64)
    (part,) = draw_parts(kept, repeats, seed, shuffled=False)
    rng = np.random.default_rng([seed, len(table)])
    permuted = relabelled(kept.measure, resolutions.of, patients, rng, permutations)
    part = replace(part, permuted=permuted)
    sizes = resolutions.sizes
    pairs = [
        (one, other)
        for one in range(len(sizes))
        for other in range(one + 1, len(sizes))
        if abs(np.log2(sizes[other] / sizes[one]) - 1) < OCTAVE
    ]
    by_octave = tuple(same_places(table, resolutions, pair, side) for pair in pairs)
    _, first = np.unique(patients, return_index=True)
    return Plan(
        part,
        resolutions,
        reference,
        patients,
        placed(table, resolutions, reference, side),
        by_octave,
        part.counts[:, first].astype(np.float64),
    )


def relabelled(
    measure: Float64[np.ndarray, " n"],
    levels: Int64[np.ndarray, " n"],
    patients: Int64[np.ndarray, " n"],
    rng: np.random.Generator,
    count: int,
) -> Float64[np.ndarray, "n q"]:
    """The measure and its permutations, one column each; no columns without permutations.

    All patients have the same resolutions, so that dealing out whole patients would change nothing:
    inside each patient the resolutions change places, each with all its patches.
    """
    if not count:
        return np.zeros((len(measure), 0))
    dealt = np.repeat(measure[:, None], 1 + count, axis=1)
    for patient in range(patients.max() + 1):
        own = np.flatnonzero(patients == patient)
        there, at = np.unique(levels[own], return_inverse=True)
        means = np.bincount(at, measure[own]) / np.bincount(at)
        orders = rng.permuted(np.tile(np.arange(len(there)), (count, 1)), axis=1)  # (p, levels)
        dealt[own, 1:] = means[orders[:, at]].T
    return dealt


# --- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Of a layer with one kind of weights; the first row with all patients, then the draws."""

    r2: Float64[np.ndarray, " b"]
    mae: Float64[np.ndarray, " b"]  # octaves
    null: Float64[np.ndarray, " p"]  # R² of the measure itself, then permuted
    squares: Float64[np.ndarray, "b R"]  # squared ratios; 0 at the reference
    drift: Float64[np.ndarray, "b 1"]  # squared ratio per octave
    n_features: int


def scored(
    plan: Plan,
    by_kind: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    points: Sequence[ProbePoint],
    stages: Stages,
) -> dict[tuple[str, str], Scores]:
    """By kind of weights and layer, means over random networks."""

    def means_of(features: Sequence[np.ndarray]) -> Scores:
        found = [_layer_scores(plan, each) for each in features]
        means = {
            name: np.mean([getattr(each, name) for each in found], axis=0)
            for name in ("r2", "mae", "null", "squares", "drift")
        }
        return Scores(**means, n_features=found[0].n_features)

    return by_layer(means_of, by_kind, points, stages.report("regression"))


def _layer_scores(plan: Plan, matrix: Float[np.ndarray, "n d"]) -> Scores:
    r2, mae, null = _regressed(plan.part, matrix)
    features = standardised(matrix, matrix[plan.resolutions.of == plan.reference])
    m = plan.n_patients
    here = plan.resolutions.of == plan.reference
    between = apart(features[here], plan.patients[here], m)

    def squares(places: Places) -> Float64[np.ndarray, " m"]:
        return moved(places.change @ features, plan.patients[places.rows], m)

    by_resolution = np.zeros((m, len(plan.resolutions.sizes)))
    for number, places in plan.places.items():
        by_resolution[:, number] = squares(places)
    by_octave = np.array([squares(places) for places in plan.by_octave]).reshape(-1, m)
    known = np.isfinite(by_octave).sum(axis=0)
    mean = np.divide(np.nansum(by_octave, axis=0), known, np.full(m, np.nan), where=known > 0)
    return Scores(
        r2,
        mae,
        null,
        squared_ratios(by_resolution, between, plan.counts),
        squared_ratios(mean[:, None], between, plan.counts),
        matrix.shape[1],
    )


def _regressed(
    part: Part, matrix: Float[np.ndarray, "n d"]
) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, " b"], Float64[np.ndarray, " p"]]:
    """R² and mean absolute error of ridge for held-out patients, and R² of permuted measures."""
    y, errors, lost, used = part.targets["true"][0], [], np.zeros(len(part.counts)), 0
    null = np.zeros(part.permuted.shape[1])
    for held_out in part.is_held_out:
        train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        split = Split(
            Rows(matrix, train),
            Rows(matrix, test),
            y[train, None],
            part.groups[train],
            (Rows(part.permuted, train), Rows(part.permuted, test)),
        )
        (found,) = (predicted if split.is_tall else predicted_in_memory)(split, ["ridge"], [0])
        error = y[held_out] - found.predictions[:, 0]
        errors.append(error[:, None] ** 2)
        null += found.null
        weights = part.counts[:, held_out].astype(np.float64)
        n = weights.sum(axis=1)
        lost += np.divide(weights @ np.abs(error), n, np.full(len(n), np.nan), where=n > 0)
        used += 1
    r2 = bootstrap_r_squared(part.targets["true"], errors, part.is_held_out, part.counts)
    return r2[:, 0], lost / used, null / used


# --- tables --------------------------------------------------------------------------------------

# the draws of how many octaves the range reaches from the reference, by layer; the first of all
Reaches: TypeAlias = dict[tuple[str, str], Float64[np.ndarray, " b"]]


def tables_of(
    scores: Mapping[tuple[str, str], Scores], points: Sequence[ProbePoint], plan: Plan
) -> tuple[pd.DataFrame, pd.DataFrame, Reaches]:
    """The rows of both tables without the model, and the width of the range of each layer."""
    p_values = _p_values(scores)
    rows, by_resolution, reaches = [], [], Reaches()
    n_groups = plan.part.n_groups
    shared = {"n_images": len(plan.part.rows), "n_patients": plan.n_patients}
    for (kind, layer), found in scores.items():
        point = next(each for each in points if each.layer == layer)
        start = {"weights": kind, **point.name_facts}
        mae = interval(found.mae[0], found.mae[1:], n_groups, scale="difference")
        range_, reaches[kind, layer] = _range_of(found, plan)
        rows.append(
            start
            | shared
            | {"n_features": found.n_features, "p_value": p_values[kind, layer]}
            | _named("r2", found.r2[0], interval(found.r2[0], found.r2[1:], n_groups))
            | _named("mae", found.mae[0], mae)
            | {"mae_octaves": found.mae[0]}
            | _named("drift", *_ratio(found.drift, plan))
            | range_
        )
        by_resolution += [start | each for each in _by_resolution(found, plan)]
    return pd.DataFrame(rows), pd.DataFrame(by_resolution), reaches


def _named(name: str, value: float, between: tuple[Any, Any]) -> dict[str, float]:
    low, high = map(float, between)
    return {name: float(value), f"{name}_low": low, f"{name}_high": high}


def _ratio(squares: Float64[np.ndarray, "b 1"], plan: Plan) -> tuple[float, tuple[Any, Any]]:
    """The ratio of one squared ratio and its draws, and its interval; NaN without places."""
    if np.isnan(squares[0, 0]):
        return np.nan, (np.nan, np.nan)
    ratios = np.sqrt(np.maximum(np.vstack([squares[:1], plausible(squares)])[:, 0], 0.0))
    return ratios[0], ends(ratios[0], ratios[1:], plan.n_patients, scale="difference")


def _by_resolution(found: Scores, plan: Plan) -> list[dict[str, Any]]:
    octaves, rows = plan.resolutions.octaves(plan.reference), []
    for number, size in enumerate(plan.resolutions.sizes):
        places = plan.places.get(number)
        ratio, (low, high) = _ratio(found.squares[:, [number]], plan)
        patients = plan.patients[places.rows] if places else plan.patients
        rows.append(
            {"um_per_pixel": size, "magnification": AT_1X / size, "octaves": octaves[number]}
            | _named("ratio", ratio, (low, high))
            | {
                "answer": _answer(ratio, float(low), float(high), plan.n_patients)
                if places
                else REFERENCE,
                "n_places": len(places.rows) if places else 0,
                "n_patients": len(np.unique(patients)),
            }
        )
    return rows


def _answer(ratio: float, low: float, high: float, n_patients: int) -> str:
    """Whether the features stay within what patients differ by."""
    if n_patients < FEWEST or np.isnan(ratio):
        return NO_VERDICT
    if np.isnan(low):  # without an interval the number itself decides, and notes say so
        return YES if ratio < 1 else NO
    return YES if high < 1 else NO if low > 1 else UNCLEAR


def _range_of(found: Scores, plan: Plan) -> tuple[dict[str, object], Float64[np.ndarray, " b"]]:
    """The columns of the range, and its width in octaves: of all patients, then of the draws."""
    octaves, size = plan.resolutions.octaves(plan.reference), plan.resolutions.sizes[plan.reference]
    squares = np.vstack([found.squares[:1], plausible(found.squares)])
    ratios = np.sqrt(np.maximum(squares, 0.0))
    row: dict[str, object] = {}
    width = np.zeros(len(ratios))
    for name, side, sign in (("finest", "finer", -1.0), ("coarsest", "coarser", 1.0)):
        there = np.flatnonzero(sign * octaves > 0)
        there = there[np.isfinite(found.squares[0, there])]
        there = there[np.argsort(sign * octaves[there])]
        if plan.n_patients < FEWEST or np.isnan(found.squares[0]).all():
            row |= _named(name, np.nan, (np.nan, np.nan)) | {side: NO_VERDICT}
            continue
        if not len(there):
            row |= _named(name, size, (np.nan, np.nan)) | {side: NONE_GIVEN}
            continue
        reached = reach(sign * octaves[there], ratios[:, there])
        last = sign * octaves[there[-1]]
        low, high = ends(reached[0], reached[1:], plan.n_patients, scale="difference")
        sides = sorted((sign * low, sign * high)) if np.isfinite(low) else (np.nan, np.nan)
        row |= _named(
            name,
            size * 2.0 ** (sign * reached[0]),
            (size * 2.0 ** sides[0], size * 2.0 ** sides[1]),
        )
        row |= {side: BREAKS if reached[0] < last else HOLDS}
        width += reached
    return row, width


def _p_values(scores: Mapping[tuple[str, str], Scores]) -> dict[tuple[str, str], float]:
    """P-values of R², corrected over the layers of each kind of weights."""
    found: dict[tuple[str, str], float] = {}
    for kind in dict.fromkeys(kind for kind, _ in scores):
        jobs = [job for job in scores if job[0] == kind]
        null = np.array([scores[job].null for job in jobs]).T  # (1 + p, L)
        p = family_p_values(null[0], null[1:]) if len(null) > 1 else np.full(len(jobs), np.nan)
        found |= dict(zip(jobs, p.tolist(), strict=True))
    return found


def furthest(
    rows: pd.DataFrame, reaches: Mapping[tuple[str, str], np.ndarray], plan: Plan
) -> dict[str, object] | None:
    """An earlier layer that holds further than the last, and by how many octaves; None if none is.

    Going back from the last layer, the first that holds further, and from there on as long as the
    range widens: the first layers of a network hold far as well, but encode little else.
    """
    kind = rows["weights"].iloc[0]
    layers = rows.loc[rows["weights"] == kind, "layer"].tolist()
    more = np.array([reaches[kind, layer] - reaches[kind, layers[-1]] for layer in layers])
    wider = np.flatnonzero(more[:, 0] > 0)  # (L, b); NaN is not
    if plan.n_patients < FEWEST or not wider.size:
        return None
    best = int(wider[-1])
    while best > 0 and more[best - 1, 0] > more[best, 0]:
        best -= 1
    low, high = ends(more[best, 0], more[best, 1:], plan.n_patients, scale="difference")
    octaves = {"octaves": float(more[best, 0]), "low": float(low), "high": float(high)}
    return {"layer": layers[best], **octaves}
