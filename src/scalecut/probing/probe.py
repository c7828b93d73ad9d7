"""How much of an object's scale each layer carries: the curve of held-out R², with its controls.

For every subset of the images (one class of objects) and every layer, the measure is regressed on
the pooled features, in `repeats` splits of 70 % to fit and 30 % to test, by group. The same splits
serve every layer, regressor, target and set of weights. Source: section 4.3 of `graziani2021`; the
ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import nn

from ..data.images import ImageSet, evenly
from ..data.read import Reading, check_size, images_of
from ..errors import DataError, check_names
from ..features.cluster import computing
from ..features.extract import Computation, Extracted, Progress, Stages, check_finite, provenance
from ..networks.network import Network, load_network
from ..networks.points import ProbePoint
from ..networks.selection import chosen_points
from ..runs import settings_of
from .controls import CHECKED_IMAGES, check_int8, pixel_network, twin_of
from .curve import Curve
from .scores import MATCHED, MOST_TWINS, Answers, Part, Scores, draw_parts, score

REGRESSORS = ("ridge", "ols")
CONTROLS = ("random", "permuted", "pixels", "shuffled")
USUAL_CONTROLS = ("random", "pixels", "shuffled")
LEARNING_SHARES = (0.125, 0.25, 0.5)  # of the groups to fit; all of them is the curve itself
LEAST_PERMUTATIONS = 19  # for a p-value of 0.05
LEAST_TO_FIT, LEAST_GROUPS_TO_FIT = 10, 4


@dataclass(frozen=True, slots=True)
class Fitting:
    """What is fitted to the features, and how often.

    Args:
        regressor: one or more of ridge and ols (ordinary least squares, as in the paper).
        controls: random (randomly initialised networks), permuted (the values of each weight tensor
            permuted), pixels (statistics of the pixels, no network), shuffled (the target
            permuted), or none.
        random_networks: Randomly initialised networks, each with its own seed, at least 1.
        repeats: random splits into 70 % training and 30 % test images, at least 1.
        permutations: Of the target, for p-values corrected over layers; 0 for none.
        match_width: Also fit this many principal components of every layer; 0 for none.
        learning_curve: Also fit 1/8, 1/4 and 1/2 of the training images.
    """

    regressor: Sequence[Literal["ridge", "ols"]] = ("ridge", "ols")
    controls: Sequence[Literal["random", "permuted", "pixels", "shuffled", "none"]] = (
        "random",
        "pixels",
        "shuffled",
    )
    random_networks: int = 3
    repeats: int = 10
    permutations: int = 1000
    match_width: int = 0
    learning_curve: bool = False

    def __post_init__(self) -> None:
        for name, known in (("regressor", REGRESSORS), ("controls", (*CONTROLS, "none"))):
            object.__setattr__(self, name, check_names(getattr(self, name), known, name))
        if not self.regressor:
            raise DataError(f"--regressor is empty. Give one or more of {', '.join(REGRESSORS)}.")
        for name, least in (("repeats", 1), ("random_networks", 1)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise DataError(f"{option} must be at least {least}, got {getattr(self, name)}.")
        if self.random_networks > MOST_TWINS:
            raise DataError(
                f"--random-networks must be at most {MOST_TWINS}, got {self.random_networks}."
            )
        for name, usual in (("permutations", 1000), ("match_width", 32)):
            if getattr(self, name) < 0:
                option = f"--{name.replace('_', '-')}"
                raise DataError(
                    f"{option} must not be negative, got {getattr(self, name)}. Give 0 for none, "
                    f"or {usual}."
                )
        if 0 < self.permutations < LEAST_PERMUTATIONS:
            raise DataError(
                f"With {self.permutations} permutations no p-value can be below "
                f"{1 / (1 + self.permutations):.2g}. Give 0 for none, or 1000."
            )


def probe(
    model: str | nn.Module | Network,
    data: str | ImageSet,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    reading: Reading = Reading(),
    computation: Computation = Computation(),
    fitting: Fitting = Fitting(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Measure how much of an object's scale each layer encodes.

    Args:
        model: A timm name (inception_v3, resnet50, ...), resnet50_v1, or module.path:factory.
        data: voc:DIR, coco:FILE, csv:FILE, tar:PATTERN, masks:DIR, or scenes; csv and tar also at
            an address, such as s3://...
        weights: pretrained, random, or a safetensors or state-dict file.
        allow_partial: Accept a weights file that lacks tensors; layers that need them are skipped.
        layers: Names, aliases or globs; all probe points by default.
        reading: Which images are read, and how their objects are measured.
        computation: How images are shown to the network and computed.
        fitting: What is fitted to the features, and how often.
        seed: random seed of the splits, permutations, bootstrap and controls.
        progress: Called with (stage, done, total).

    Returns:
        The curve: R² by layer. Its intervals are 95 % bootstrap intervals over groups of test
        images; for the mean over subsets, of the mean.

    Raises:
        ScalecutError: DataError, ModelError or LayerError, in one line that says what to do.
    """
    settings = settings_of(locals())
    stages = Stages(progress)
    with stages("network"):
        network = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
        network = computation.shown(network)
        points, layers_left_out = chosen_points(network, layers)
    with stages("images"):
        frame = network.preprocessing.frame(computation.fit)
        image_set = images_of(data, frame, reading, seed=seed, progress=progress)
    if network.weights.kind == "random":
        network = twin_of(network, image_set, computation, seed)
    with computing(computation.cluster) as stages.compute:
        kept, found = _readable(
            network, image_set, points, computation, stages, strict=reading.strict
        )
        own = Answers(tuple(points), (found.matrices,))
        moved = _checked_in_int8(network, kept, points, computation, found, stages)
        of_controls = _control_answers(
            network, kept, own.points, computation, stages, fitting, seed
        )
    scores, fewer = _scored(kept, {network.weights.kind: own}, of_controls, stages, fitting, seed)
    facts = provenance(network, settings, stages, found, kept)
    facts["probe"] = {"repeats": fitting.repeats, "seed": seed}
    facts["computed"] = {**facts["computed"], **moved}  # pyright: ignore[reportGeneralTypeIssues]
    return Curve.of(
        scores,
        fewer,
        {"model": network.name, "measure": kept.measure_name},
        own.points,
        layers_left_out,
        (*image_set.left_out, *found.left_out),
        facts,
        kept,
    )


def _readable(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    computation: Computation,
    stages: Stages,
    *,
    strict: bool,
) -> tuple[ImageSet, Extracted]:
    """The images that could be read, and the network's features of them."""
    found = stages.extracted(network, image_set.images, points, computation)
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
    computation: Computation,
    found: Extracted,
    stages: Stages,
) -> dict[str, object]:
    """How far int8 moved R², on some of the images that `found` has rows of; {} otherwise."""
    if found.precision != "int8":
        return {}
    rows = evenly(len(image_set), CHECKED_IMAGES)
    in_int8 = {layer: matrix[rows] for layer, matrix in found.matrices.items()}
    return check_int8(network, image_set.rows(rows), points, computation, in_int8, stages)


def _control_answers(
    network: Network,
    image_set: ImageSet,
    points: tuple[ProbePoint, ...],
    computation: Computation,
    stages: Stages,
    fitting: Fitting,
    seed: int,
) -> dict[str, Answers]:
    """What the controls answer to the same images, by kind of weights."""
    answers = {}
    for kind, n in (("random", fitting.random_networks), ("permuted", 1)):
        if kind not in fitting.controls or network.weights.kind == "random":
            continue
        matrices = []
        for number in range(n):
            stage = f"{kind} twin {number + 1}" if n > 1 else f"{kind} twin"
            with stages(stage):
                twin = twin_of(network, image_set, computation, seed + number, kind)
            found = stages.extracted(twin, image_set.images, points, computation, stage)
            check_finite(twin, found)
            _checked_in_int8(twin, image_set, points, computation, found, stages)
            matrices.append(found.matrices)
        answers[kind] = Answers(points, tuple(matrices))
    if "pixels" in fitting.controls:
        statistics, point = pixel_network(network.preprocessing)
        exact = replace(computation, precision="float32", engine="torch")
        found = stages.extracted(statistics, image_set.images, [point], exact, "pixels")
        answers["pixels"] = Answers((point,), (found.matrices,))
    return answers


def _scored(
    image_set: ImageSet,
    own: dict[str, Answers],
    controls: dict[str, Answers],
    stages: Stages,
    fitting: Fitting,
    seed: int,
) -> tuple[Scores, tuple[Scores, ...]]:
    """The scores of everything, and those of the network with fewer images to fit, fewest first."""
    parts = draw_parts(
        image_set,
        fitting.repeats,
        seed,
        shuffled="shuffled" in fitting.controls,
        permutations=fitting.permutations,
    )
    names = (*fitting.regressor, MATCHED) if fitting.match_width else fitting.regressor
    fitted = functools.partial(score, regressors=names, width=fitting.match_width)
    with stages("regression"):
        scores = fitted(parts, own | controls, report=stages.report("regression"))
    if not fitting.learning_curve:
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
