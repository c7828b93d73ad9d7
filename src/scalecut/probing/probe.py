"""How much of an object's scale each layer carries: the curve of held-out R², with its controls.

For every subset of the images (one class of objects) and every layer, the measure is regressed on
the pooled features, in `repeats` splits of 70 % to fit and 30 % to test, by group. The same splits
serve every layer, regressor, target and set of weights. Source: section 4.3 of `graziani2021`; the
ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from ..data.images import ImageSet, evenly, image_facts
from ..data.read import Reading, check_size, images_of
from ..errors import DataError, check_names
from ..features.cluster import computing
from ..features.extract import Extracted, Look, Progress, Stages, check_finite
from ..networks.layers import ProbePoint
from ..networks.network import Network, Preprocessing, load_network, tensors_sha256
from ..networks.selection import chosen_points
from .controls import CHECKED_IMAGES, check_int8, pixel_network, twin_of
from .curve import Curve
from .scores import MATCHED, MOST_TWINS, Answers, Part, Scores, draw_parts, score

REGRESSORS = ("ridge", "ols")
CONTROLS = ("random", "permuted", "pixels", "shuffled")
USUAL_CONTROLS = ("random", "pixels", "shuffled")
LEARNING_SHARES = (0.125, 0.25, 0.5)  # of the groups to fit; all of them is the curve itself
LEAST_PERMUTATIONS = 19  # for a p-value of 0.05
LEAST_TO_FIT, LEAST_GROUPS_TO_FIT = 10, 4


def probe(
    model: str | nn.Module | Network,
    data: str | ImageSet,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    preprocessing: Preprocessing | None = None,
    layers: Sequence[str] = (),
    subsets: Sequence[str] = (),
    measure: str = "area",
    objects: str = "single",
    skip_truncated: bool = False,
    skip_difficult: bool = False,
    strict: bool = False,
    images_folder: str | Path | None = None,
    at_most: int = 0,
    fit: str = "squash",
    regressors: Sequence[str] = REGRESSORS,
    controls: Sequence[str] = USUAL_CONTROLS,
    twins: int = 3,
    repeats: int = 10,
    permutations: int = 1000,
    match_width: int = 0,
    learning_curve: bool = False,
    precision: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    engine: str = "torch",
    half: bool = False,
    cluster: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Regress the measure of `data` on every layer of `model`.

    Args:
        model: timm name, `resnet50_v1`, `module.path:factory`, a module, or a loaded network.
        data: `voc:DIR`, `coco:FILE`, `csv:FILE`, `tar:PATTERN`, `masks:DIR`, `scenes`, or an
            ImageSet.
        layers: names, aliases or globs; all probe points if empty.
        subsets: classes of objects, each probed by itself; all if empty.
        at_most: a random part of this many images, drawn by group with `seed`; 0 for all.
        controls: `random` (twins with random weights), `permuted` (each tensor's values permuted),
            `pixels` (what can be read with no network), `shuffled` (the measure permuted).
        twins: how many random twins, each with a seed of its own.
        repeats: random splits, over which R² is averaged.
        permutations: of the measure, for p-values corrected over layers; 0 for none.
        match_width: principal components a layer for the regressor `matched`; 0 for none.
        learning_curve: also score with an eighth, a quarter and half of the images to fit.
        engine: `torch`, `openvino`, or `auto`: OpenVINO where it is installed and faster.
        half: keep features in float16, 2 bytes a channel and image instead of 4.
        cluster: `local:2` for two workers here, or the address of a Ray cluster; else this process.
        seed: of the splits, the shuffles, the permutations, the bootstrap and the first twin.
        progress: called with (stage, done, all).

    Returns:
        The curve. Its intervals are 95 % bootstrap intervals over groups of held-out images; for
        `mean` over subsets, of the mean.

    Raises:
        ScalecutError: DataError, ModelError or LayerError, with one line that says what to do.
    """
    regressors = check_names(regressors, REGRESSORS, "regressor")
    controls, extent = check_names(controls, CONTROLS, "control"), (match_width, learning_curve)
    ask = _checked(_Ask(regressors, controls, twins, repeats, permutations, *extent, seed))
    stages, look = Stages(progress), Look(fit, precision, device, batch_size, engine, half)
    with stages("network"):
        if not isinstance(model, Network):
            keep = {"allow_partial": allow_partial, "preprocessing": preprocessing}
            model = load_network(model, weights=weights, seed=seed, **keep)
        points, layers_left_out = chosen_points(model, layers)
    folder, skip = images_folder and Path(images_folder), (skip_truncated, skip_difficult)
    reading = Reading(tuple(subsets), measure, objects, *skip, strict, folder or None, at_most)
    with stages("images"):
        frame = model.preprocessing.frame(fit)
        image_set = images_of(data, frame, reading, seed=seed, progress=progress)
    if model.weights.kind == "random":
        model = twin_of(model, image_set, look, seed)
    with computing(cluster) as stages.compute:
        kept, found = _readable(model, image_set, points, look, stages, strict=strict)
        own = Answers(tuple(points), (found.matrices,))
        moved = _checked_in_int8(model, kept, points, look, found, stages)
        of_controls = _control_answers(model, kept, own.points, look, stages, ask)
    scores, fewer = _scored(kept, {model.weights.kind: own}, of_controls, stages, ask)
    return Curve.of(
        scores,
        fewer,
        {"model": model.name, "measure": kept.measure_name},
        own.points,
        layers_left_out,
        (*image_set.left_out, *found.left_out),
        {"probe": asdict(ask)} | _facts(model, kept, found, look, moved) | {"stages": stages.facts},
        kept,
    )


@dataclass(frozen=True, slots=True)
class _Ask:
    """What is regressed on what, how often."""

    regressors: tuple[str, ...]
    controls: tuple[str, ...]
    twins: int
    repeats: int
    permutations: int
    match_width: int
    learning_curve: bool
    seed: int


def _readable(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    stages: Stages,
    *,
    strict: bool,
) -> tuple[ImageSet, Extracted]:
    """The images that could be read, and the network's features of them."""
    found = stages.extracted(network, image_set.images, points, look)
    if strict and found.left_out:
        bad = found.left_out[0]
        reason = bad.reason.rstrip(".")
        raise DataError(f"{bad.name}: {reason}. Mend or remove it, or drop --strict.")
    check_finite(network, found)
    kept = image_set.rows(found.is_read)
    check_size(kept)
    return kept, found


def _checked_in_int8(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    found: Extracted,
    stages: Stages,
) -> dict[str, object]:
    """How far int8 moved R², on some of the images that `found` has rows of; {} otherwise."""
    if found.precision != "int8":
        return {}
    rows = evenly(len(image_set), CHECKED_IMAGES)
    in_int8 = {layer: matrix[rows] for layer, matrix in found.matrices.items()}
    return check_int8(network, image_set.rows(rows), points, look, in_int8, stages)


def _control_answers(
    network: Network,
    image_set: ImageSet,
    points: tuple[ProbePoint, ...],
    look: Look,
    stages: Stages,
    ask: _Ask,
) -> dict[str, Answers]:
    """What the controls answer to the same images, by kind of weights."""
    answers = {}
    for kind, n in (("random", ask.twins), ("permuted", 1)):
        if kind not in ask.controls or network.weights.kind == "random":
            continue
        matrices = []
        for number in range(n):
            stage = f"{kind} twin {number + 1}" if n > 1 else f"{kind} twin"
            with stages(stage):
                twin = twin_of(network, image_set, look, ask.seed + number, kind)
            found = stages.extracted(twin, image_set.images, points, look, stage)
            check_finite(twin, found)
            _checked_in_int8(twin, image_set, points, look, found, stages)
            matrices.append(found.matrices)
        answers[kind] = Answers(points, tuple(matrices))
    if "pixels" in ask.controls:
        statistics, point = pixel_network(network.preprocessing)
        exact = replace(look, precision="float32", engine="torch")
        found = stages.extracted(statistics, image_set.images, [point], exact, "pixels")
        answers["pixels"] = Answers((point,), (found.matrices,))
    return answers


def _scored(
    image_set: ImageSet,
    own: dict[str, Answers],
    controls: dict[str, Answers],
    stages: Stages,
    ask: _Ask,
) -> tuple[Scores, tuple[Scores, ...]]:
    """The scores of everything, and those of the network with fewer images to fit, fewest first."""
    parts = draw_parts(
        image_set,
        ask.repeats,
        ask.seed,
        shuffled="shuffled" in ask.controls,
        permutations=ask.permutations,
    )
    names = (*ask.regressors, MATCHED) if ask.match_width else ask.regressors
    fitted = functools.partial(score, regressors=names, width=ask.match_width)
    with stages("regression"):
        scores = fitted(parts, own | controls, report=stages.report("regression"))
    if not ask.learning_curve:
        return scores, ()
    bare = [
        replace(part, targets={"true": part.targets["true"]}, dealt=part.dealt[:, :0])
        for part in parts
    ]
    with stages("learning curve"):
        fewer = [
            fitted(bare, own, share=share, report=stages.report(f"regression {share:.3g}"))
            for share in LEARNING_SHARES
            if _is_enough(parts, share)
        ]
    return scores, tuple(fewer)


def _is_enough(parts: Sequence[Part], share: float) -> bool:
    """Whether this share of the groups to fit leaves something to fit in every split."""
    return all(
        fitted.sum() >= LEAST_TO_FIT and len(set(part.groups[fitted])) >= LEAST_GROUPS_TO_FIT
        for part in parts
        for fitted in part.fitted(share)
    )


# --- checks and facts ----------------------------------------------------------------------------


def _checked(ask: _Ask) -> _Ask:
    if not ask.regressors:
        raise DataError(f"No regressor is given. Give one or more of {', '.join(REGRESSORS)}.")
    if ask.repeats < 1:
        raise DataError(
            f"There cannot be {ask.repeats} repeats. Give --repeats 1 or more; 10 as in the paper."
        )
    if not 1 <= ask.twins <= MOST_TWINS:
        raise DataError(
            f"There cannot be {ask.twins} random twins. Give --twins 1 to {MOST_TWINS}; with "
            "--controls pixels,shuffled there are none."
        )
    counts = (("--permutations", ask.permutations, 1000), ("--match-width", ask.match_width, 32))
    for option, given, usual in counts:
        if given < 0:
            raise DataError(
                f"{option} {given} is below 0. Give 0 for none, or {usual} as is usual."
            )
    if 0 < ask.permutations < LEAST_PERMUTATIONS:
        raise DataError(
            f"With {ask.permutations} permutations no p-value can be below "
            f"{1 / (1 + ask.permutations):.2g}. Give 0 for none, or 1000 as is usual."
        )
    return ask


def _facts(
    network: Network,
    image_set: ImageSet,
    features: Extracted,
    look: Look,
    moved: dict[str, object],
) -> dict[str, object]:
    """What the features were computed from, and how."""
    return {
        "look": asdict(look) | {"precision": features.precision, "engine": features.engine} | moved,
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": image_facts(image_set),
    }
