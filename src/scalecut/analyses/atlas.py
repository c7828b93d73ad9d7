"""Which concepts each layer encodes, and how much of each with the others held constant.

A layer from which size can be predicted may encode size, or brightness, position or blur that go
with it. For every layer and concept the atlas gives R², as in the probe, and the partial R² with
the other concepts held constant (`stats.partial`), on the splits of the probe.

Shapes: n images, k concepts, d features, r repeats, b draws, p permutations.
"""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from matplotlib.figure import Figure
from torch import nn

from ..data.concepts import KNOWN, concepts_of
from ..data.images import ImageSet, LeftOut, Progress
from ..data.options import Reading
from ..data.read import columns_of_numbers, images_of
from ..errors import DataError, check_least, check_names, several
from ..features.cluster import computing
from ..features.extract import (
    Computation,
    DecodedImages,
    Stages,
    provenance,
    readable,
)
from ..figures import text
from ..figures.analyses import atlas_drawing
from ..figures.drawing import page_figure
from ..networks.load import load_network
from ..networks.network import Network
from ..networks.points import SOFTMAX, ProbePoint
from ..networks.selection import chosen_points
from ..probing.controls import control_of, features_of_controls, moved_by_int8
from ..probing.curve import SIZES, computed_line
from ..probing.scores import MOST_RANDOM, Part, by_layer, draw_parts, over_seeds
from ..report.report import Result
from ..runs import Run, settings_of
from ..stats.inference import (
    bootstrap_r_squared,
    ends,
    family_p_values,
    group_permutations,
    interval,
    mirrored,
    no_interval,
)
from ..stats.partial import (
    Others,
    Partial,
    Standardised,
    bootstrap_partial,
    decompose_rest,
    others_of,
    partial,
    standardised,
)
from ..stats.ridge import nested_ridge
from .quantities import read_analysis, skipped_of

COLUMNS = [
    *("model", "weights", "layer", "alias", "depth", "concept", "r2", "r2_low", "r2_high"),
    *("partial_r2", "partial_low", "partial_high", "p_value"),
    *("learned", "learned_low", "learned_high", "n_images"),
]
USUAL = ("brightness", "sharpness")  # which a finding names first
SAME = 0.9  # squared correlation above which two concepts cannot be separated
IMAGES_EACH = 10  # training images for each concept that is held constant, at least
LEAST = {"repeats": 2, "random_networks": 0, "permutations": 0}


@dataclass(frozen=True, slots=True)
class Mapped:
    """What is mapped, and how often it is fitted.

    Args:
        concepts: Names of concepts; all that are known of the images by default.
        repeats: Random splits into 70 % training and 30 % test images, at least 2.
        random_networks: Randomly initialised networks to compare with; 0 for none.
        permutations: For p-values corrected over layers and concepts; 0 for none.
    """

    concepts: Sequence[str] = ()
    repeats: int = 10
    random_networks: int = 1
    permutations: int = 199

    def __post_init__(self) -> None:
        object.__setattr__(self, "concepts", several(self.concepts))
        check_least(self, **LEAST)
        if self.random_networks > MOST_RANDOM:
            raise DataError(
                f"--random-networks must be at most {MOST_RANDOM}, got {self.random_networks}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Atlas(Result):
    """R² and partial R² of every concept at every layer.

    Args:
        table: the columns of `COLUMNS`, one row per kind of weights, layer and concept; means over
            subsets. `learned` is R² minus that of the randomly initialised networks, or minus 0 if
            that is below 0. P-values are of the partial R².
        concepts: of the images, one column each, as they were predicted.
        left_out: layers and images that were skipped.
        provenance: facts of `run.json`; `concepts` says which could not be separated, or were
            dropped.
        image_set: the images; None if the result was read from a run.
    """

    NAME: ClassVar[str] = "atlas"
    table: pd.DataFrame
    concepts: pd.DataFrame
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)
    image_set: ImageSet | None = field(default=None, repr=False)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {self.NAME: self.to_frame(), "concepts": self.concepts.copy()}

    def finding(self) -> str:
        """Where the measure is encoded best, and what of it is not explained by other concepts."""
        own = self._own()
        name = str(own.concept.iloc[0])
        rows = own.loc[own.concept == name]
        best = rows.loc[rows.r2.idxmax()]
        r2 = text.with_interval(best.r2, best.r2_low, best.r2_high)
        said = f"{name} is encoded best at {best.layer} (R² {r2})"
        if np.isnan(best.r2_low):
            said += f" ({no_interval()})"
        held = [each for each in own.concept.unique() if each not in {name, *self._apart(name)}]
        if not held or not np.isfinite(best.partial_r2):
            return f"{said}."
        rest = text.with_interval(best.partial_r2, best.partial_low, best.partial_high)
        usual = [*dict.fromkeys([*(each for each in USUAL if each in held), *held])][:2]
        others = (
            f"{len(held)} other concepts, such as {' and '.join(usual)}, are"
            if len(held) > 1
            else f"{held[0]} is"
        )
        last = rows.iloc[-1]
        return (
            f"{said}, with a partial R² of {rest} where {others} held constant. At {last.layer}, "
            f"R² is {text.number(last.r2)} and partial R² {text.number(last.partial_r2)}."
        )

    def _own(self) -> pd.DataFrame:
        """The rows of the network itself, without the softmax."""
        is_own = self.table["weights"] == self.table["weights"].iloc[0]
        return self.table.loc[is_own & (self.table["layer"] != SOFTMAX)]

    def _apart(self, name: str) -> tuple[str, ...]:
        """The concepts that are not held constant for one."""
        facts: Any = self.provenance.get("concepts", {})
        return tuple(facts.get("not_held_constant", {}).get(name, ()))

    def summary(self) -> dict[str, pd.DataFrame]:
        """One row per concept: its best layer, R² there and at the last layer."""
        rows = []
        for concept, each in self._own().groupby("concept", sort=False):
            if each.r2.isna().all():
                continue
            best, last = each.loc[each.r2.idxmax()], each.iloc[-1]
            rows.append(
                {
                    "concept": concept,
                    "best layer": best.layer,
                    "R²": text.number(best.r2),
                    "partial R²": text.number(best.partial_r2),
                    "p": text.p_value(best.p_value) if np.isfinite(best.p_value) else "–",
                    f"R² at {last.layer}": text.number(last.r2),
                    "partial": text.number(last.partial_r2),
                }
            )
        return {f"Concepts, {self.table.model.iloc[0]}": pd.DataFrame(rows)}

    def notes(self) -> list[str]:
        """Concepts that were dropped or cannot be separated; how features were computed."""
        facts: Any = self.provenance.get("concepts", {})
        dropped = [f"{name} is dropped: {why}." for name, why in facts.get("dropped", {}).items()]
        pairs = {tuple(sorted((a, b))) for a, bs in facts.get("not_held_constant", {}).items()
                 for b in bs}  # fmt: skip
        apart = [
            f"{a} and {b} are too alike to be separated: neither is held constant for the other."
            for a, b in sorted(pairs)
        ]
        determined = [
            f"{name} has no partial R², as it is a sum of multiples of other concepts."
            for name, rows in self._own().groupby("concept", sort=False)
            if rows.partial_r2.isna().all()
        ]
        return [*dropped, *apart, *determined, *computed_line(self.provenance)]

    def plot(self) -> Figure:
        """R² and partial R² of every concept by layer."""
        return page_figure(atlas_drawing(self.table))


def read_atlas(folder: str | Path) -> Atlas:
    """The result that `Atlas.save` wrote."""
    run: Run = read_analysis(folder, ("atlas",), "atlas")
    concepts = run.table("concepts").astype(np.float64)  # also one called `slide` or `run`
    return Atlas(run.table("atlas", COLUMNS), concepts, skipped_of(run), dict(run.facts))


def atlas(
    model: str | nn.Module | Network,
    data: str | ImageSet,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    reading: Reading = Reading(),
    computation: Computation = Computation(),
    mapped: Mapped = Mapped(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Atlas:
    """Map which concepts each layer encodes: size, position, brightness, sharpness and others.

    Each concept is regressed on the features alone (R²), and with the other concepts held constant
    (partial R²), in each subset; the means over subsets are given. Every column of numbers of a
    table is a concept as well.

    Args:
        model, data, weights, allow_partial, layers, reading, computation, progress: As for `probe`.
        mapped: Which concepts are mapped, and how often they are fitted.
        seed: Random seed of the splits, permutations, bootstrap and random networks.

    Raises:
        DataError: if a concept is not known, or fewer than two of them vary.
        ModelError, LayerError: as of `probe`.
    """
    settings = settings_of(locals())
    stages = Stages(progress)
    with stages("network"):
        loaded = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
        network = computation.shown(loaded)
        points, layers_left_out = chosen_points(network, layers)
    with stages("images"):
        shown = network.preprocessing
        frame = shown.frame(computation.fit)
        image_set = images_of(data, frame, reading, seed=seed, progress=progress)
    columns = columns_of_numbers(data, image_set, reading.group)
    known = dict.fromkeys((image_set.measure_name, *columns, *KNOWN))
    check_names(mapped.concepts, tuple(known), "concept")
    stages.say(image_set, network, strict=reading.strict)
    if network.weights.kind == "random":
        network = control_of(network, image_set, computation, seed)
    stages.pixels = DecodedImages(keeps=mapped.random_networks > 0)
    by_kind: dict[str, Sequence[Mapping[str, np.ndarray]]] = {}
    with computing(computation.cluster) as stages.workers:
        found = stages.extracted(network, image_set.images, points, computation)
        kept = readable(network, image_set, found, strict=reading.strict)
        moved = moved_by_int8(network, kept, points, computation, found, stages)
        by_kind[network.weights.kind] = [found.matrices]
        if network.weights.kind != "random" and mapped.random_networks:
            given = network, kept, points, computation, stages
            n = mapped.random_networks
            by_kind["random"] = features_of_controls(*given, seed=seed, count=n)
    with stages("concepts"):
        how_shown = frame, shown.interpolation, shown.fill()
        own = {name: values[found.is_read] for name, values in columns.items()}
        concepts = concepts_of(kept, *how_shown, own, progress=progress)
    parts = draw_parts(kept, mapped.repeats, seed, shuffled=False)
    concepts, dropped = usable(concepts, parts, mapped.concepts)
    apart = inseparable(concepts, kept.subset)
    with stages("regression"):
        plans = [planned(part, concepts, apart, mapped.permutations, seed) for part in parts]
        scores = _scores(plans, by_kind, points, stages)
    table = _table(scores, [*concepts], points, plans).assign(model=network.name)
    facts = provenance(network, settings, stages, found, kept, moved)
    facts["concepts"] = {"dropped": dropped, "not_held_constant": apart}
    left_out = (*layers_left_out, *image_set.left_out, *found.left_out)
    return Atlas(pd.DataFrame(table, columns=COLUMNS), concepts, left_out, facts, kept)


# --- which concepts ------------------------------------------------------------------------------


def usable(
    concepts: pd.DataFrame, parts: Sequence[Part], wanted: Sequence[str] = ()
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The concepts that can be predicted and held constant, and why the others are dropped.

    Args:
        wanted: names; all if empty. The measure, which is the first, always stays.

    Raises:
        DataError: if a name is not known, or fewer than two concepts are left.
    """
    names = list(concepts)
    if wanted:
        check_names(wanted, names, "concept")
        names = [name for name in names if name in {names[0], *wanted}]
    dropped = {}
    for name in names:
        values = concepts[name].to_numpy()
        if not np.isfinite(values).all():
            dropped[name] = f"it is not known of {int((~np.isfinite(values)).sum())} images"
        elif any(_is_constant(values[part.rows], part) for part in parts):
            dropped[name] = "it is the same in all images of a split"
    names = [name for name in names if name not in dropped]
    fewest = min(int((~held_out).sum()) for part in parts for held_out in part.is_held_out)
    most = 1 + fewest // IMAGES_EACH
    for name in names[most:]:
        dropped[name] = f"{fewest} training images separate {most} concepts at most"
    names = names[:most]
    if len(names) < 2:
        raise DataError(
            f"Only {len(names)} concept can be mapped ({'; '.join(dropped.values())}). Give more "
            "images, or a data set with boxes."
        )
    return concepts.loc[:, names], dropped


def _is_constant(values: Float64[np.ndarray, " n"], part: Part) -> bool:
    return any(
        np.ptp(values[held_out]) == 0 or np.ptp(values[~held_out]) == 0
        for held_out in part.is_held_out
    )


def inseparable(concepts: pd.DataFrame, subset: Sequence[str]) -> dict[str, list[str]]:
    """The concepts that are not held constant for each one, because both are too much alike.

    Sizes of the object are one concept measured twice. For others, the squared correlation inside
    the subsets decides.
    """
    inside = concepts - concepts.groupby(np.asarray(subset)).transform("mean")
    alike = inside.corr() ** 2
    names = list(concepts)
    found: dict[str, list[str]] = {}
    for one, other in itertools.permutations(names, 2):
        if {one, other} <= {*SIZES} or alike.loc[one, other] > SAME:
            found.setdefault(one, []).append(other)
    return found


# --- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One subset, and what all layers share."""

    part: Part
    values: Float64[np.ndarray, "n k"]
    constant: tuple[Others, ...]  # by repeat: only the constant
    others: tuple[tuple[Others, ...], ...]  # by repeat and concept
    permuted: tuple[Float64[np.ndarray, "n p"], ...]  # by concept: itself, then permutations


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Of all concepts at a layer: R² and partial R² with their draws, and permuted partial R²."""

    r2: Float64[np.ndarray, "b k"]  # the first with all images
    partial: Float64[np.ndarray, "b k"]
    null: Float64[np.ndarray, "p k"]  # the first of the concept itself


def planned(
    part: Part,
    concepts: pd.DataFrame,
    apart: Mapping[str, Sequence[str]],
    permutations: int,
    seed: int,
) -> Plan:
    """What all layers share on one subset.

    Args:
        apart: concepts that are not held constant, by concept (`inseparable`).
    """
    values = concepts.to_numpy(dtype=np.float64)[part.rows]
    names = list(concepts)
    held = [
        [at for at, other in enumerate(names) if other != name and other not in apart.get(name, ())]
        for name in names
    ]
    permuted, same = [], [seed, zlib.crc32(part.subset.encode())]  # one deal for all concepts
    for at, columns in enumerate(held):
        others = others_of(values[:, columns], values[:0, columns])
        rest, _ = others.rest(values[:, [at]], values[:0, [at]])
        rng = np.random.default_rng(same)
        dealt = group_permutations(rest[:, 0], part.groups, rng, permutations)
        permuted.append(np.column_stack([values[:, at], dealt.T]))
    splits = [(values[~held_out], values[held_out]) for held_out in part.is_held_out]
    return Plan(
        part,
        values,
        tuple(others_of(train[:, :0], test[:, :0]) for train, test in splits),
        tuple(
            tuple(others_of(train[:, columns], test[:, columns]) for columns in held)
            for train, test in splits
        ),
        tuple(permuted),
    )


def _scores(
    plans: Sequence[Plan],
    by_kind: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    points: Sequence[ProbePoint],
    stages: Stages,
) -> dict[tuple[str, str], _Scores]:
    """The scores by kind of weights and layer, means over subsets and random networks."""

    def means(features: Sequence[np.ndarray]) -> _Scores:
        found = [
            _over_networks(plan, [_layer_scores(plan, each) for each in features]) for plan in plans
        ]
        return _Scores(
            np.mean([each.r2 for each in found], axis=0),
            np.mean([each.partial for each in found], axis=0),
            np.mean([each.null for each in found], axis=0),
        )

    return by_layer(means, by_kind, points, stages.report("regression"))


def _over_networks(plan: Plan, found: Sequence[_Scores]) -> _Scores:
    """Means over networks, which are drawn along in each draw."""

    def drawn(scores: Sequence[Float64[np.ndarray, "b k"]]) -> Float64[np.ndarray, "b k"]:
        by_concept = np.moveaxis(np.array(scores), 2, 0)  # (k, networks, b)
        return np.column_stack([over_seeds(seeds, plan.part.drawn) for seeds in by_concept])

    return _Scores(
        drawn([each.r2 for each in found]),
        drawn([each.partial for each in found]),
        np.mean([each.null for each in found], axis=0),
    )


def _layer_scores(plan: Plan, matrix: Float[np.ndarray, "all d"]) -> _Scores:
    """Of one layer on one subset."""
    part, k = plan.part, plan.values.shape[1]
    features = matrix[part.rows].astype(np.float64)
    errors, rests, lefts = [], [], []  # by repeat, one column per concept
    null = np.zeros((plan.permuted[0].shape[1], k))
    for held_out, constant, others in zip(
        part.is_held_out, plan.constant, plan.others, strict=True
    ):
        both = standardised(features[~held_out], features[held_out])
        errors.append(_errors(plan, both, constant, held_out))
        found = [_partial(plan, both, each, at, held_out) for at, each in enumerate(others)]
        rests.append(np.column_stack([each.rest for each in found]))
        lefts.append(np.column_stack([each.error for each in found]))
        null += np.column_stack([each.null for each in found])
    r2 = [
        bootstrap_r_squared(
            np.broadcast_to(plan.values[:, at], part.is_held_out.shape),
            [each[:, [at]] for each in errors],
            part.is_held_out,
            part.counts,
        )
        for at in range(k)
    ]
    rest = bootstrap_partial(rests, lefts, part.is_held_out, part.counts)
    return _Scores(np.hstack(r2), rest, null / len(part.is_held_out))


def _errors(
    plan: Plan, both: Standardised, constant: Others, held_out: np.ndarray
) -> Float64[np.ndarray, "m k"]:
    """Squared errors of ridge on the features alone, of every concept at once."""
    train, truth = plan.values[~held_out], plan.values[held_out]
    decomposition = decompose_rest(both, constant)
    predicted = nested_ridge(decomposition, train, plan.part.groups[~held_out]).predictions
    return (truth - predicted) ** 2


def _partial(
    plan: Plan, both: Standardised, others: Others, at: int, held_out: np.ndarray
) -> Partial:
    y, permuted = plan.values[:, at], plan.permuted[at]
    return partial(
        both,
        others,
        (y[~held_out], y[held_out]),
        (permuted[~held_out], permuted[held_out]),
        plan.part.groups[~held_out],
    )


def _table(
    scores: Mapping[tuple[str, str], _Scores],
    concepts: Sequence[str],
    points: Sequence[ProbePoint],
    plans: Sequence[Plan],
) -> pd.DataFrame:
    p_values, n_images = _p_values(scores), sum(len(plan.part.rows) for plan in plans)
    n_groups = min(plan.part.n_groups for plan in plans)
    rows = []
    for (kind, layer), found in scores.items():
        point = next(each for each in points if each.layer == layer)
        control = scores.get(("random", layer)) if kind != "random" else None
        for at, concept in enumerate(concepts):
            row: dict[str, object] = {
                "weights": kind, "layer": layer, "alias": point.alias, "depth": point.depth,
                "concept": concept, "n_images": n_images, "p_value": p_values[kind, layer][at],
            }  # fmt: skip
            r2, rest = found.r2[:, at], found.partial[:, at]
            row |= _named("r2", r2[0], interval(r2[0], r2[1:], n_groups))
            between = (np.nan, np.nan)
            if np.isfinite(rest[0]):
                between = interval(rest[0], rest[1:], n_groups)
            row |= _named("partial_r2", rest[0], between)
            if control is not None:
                of_control = control.r2[:, at]
                learned = r2[0] - max(of_control[0], 0.0)
                plausible = np.maximum(mirrored(of_control[0], of_control[1:]), 0.0)
                above = mirrored(r2[0], r2[1:]) - plausible
                row |= _named("learned", learned, ends(learned, above, n_groups))
            rows.append(row)
    return pd.DataFrame(rows)


def _named(name: str, value: float, between: tuple[Any, Any]) -> dict[str, float]:
    """A score and its 95 % interval, as columns."""
    names = name, f"{name.removesuffix('_r2')}_low", f"{name.removesuffix('_r2')}_high"
    return dict(zip(names, map(float, (value, *between)), strict=True))


def _p_values(
    scores: Mapping[tuple[str, str], _Scores],
) -> dict[tuple[str, str], Float64[np.ndarray, " k"]]:
    """P-values of the partial R², corrected over layers and concepts of each kind of weights."""
    found = {}
    for kind in dict.fromkeys(kind for kind, _ in scores):
        of_kind = {job: each.null for job, each in scores.items() if job[0] == kind}
        null = np.hstack([*of_kind.values()])  # (p, L k)
        k = null.shape[1] // len(of_kind)
        known, corrected = np.isfinite(null).all(axis=0), np.full(null.shape[1], np.nan)
        if len(null) > 1 and known.any():
            corrected[known] = family_p_values(null[0, known], null[1:, known])
        for number, job in enumerate(of_kind):
            found[job] = corrected[number * k : (number + 1) * k]
    return found
