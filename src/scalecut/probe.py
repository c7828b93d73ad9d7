"""How much of an object's scale each layer carries: the curve of held-out R², with its controls.

For every subset of the images (one class of objects) and every layer, the measure is regressed on
the pooled features, in `repeats` splits of 70 % to fit and 30 % to test, by group. The same splits
serve every layer, regressor, target and set of weights. Source: section 4.3 of `graziani2021`; the
ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from .curve import Curve
from .errors import DataError
from .features import Features, Progress
from .images import ImageSet
from .inputs import (
    Look,
    Reading,
    Stages,
    check_finite,
    check_names,
    check_size,
    chosen_points,
    image_facts,
    images_of,
    twin_of,
)
from .layers import ProbePoint
from .models import Network, Preprocessing, load_network, tensors_sha256
from .pixels import pixel_network
from .scores import MATCHED, MOST_TWINS, Answers, Part, Scores, draw_parts, score

REGRESSORS = ("ridge", "ols")
CONTROLS = ("random", "permuted", "pixels", "shuffled")
USUAL_CONTROLS = ("random", "pixels", "shuffled")
LEARNING_SHARES = (0.125, 0.25, 0.5)  # of the groups to fit; all of them is the curve itself
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
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Regress the measure of `data` on every layer of `model`.

    Args:
        model: timm name, `resnet50_v1`, `module.path:factory`, a module, or a loaded network.
        data: `voc:DIR`, `coco:FILE`, `csv:FILE`, `masks:DIR`, `scenes`, or an ImageSet.
        layers: names, aliases or globs; all probe points if empty.
        subsets: classes of objects, each probed by itself; all if empty.
        controls: `random` (twins with random weights), `permuted` (each tensor's values permuted),
            `pixels` (what can be read with no network), `shuffled` (the measure permuted).
        twins: how many random twins, each with a seed of its own.
        repeats: random splits, over which R² is averaged.
        permutations: of the measure, for p-values corrected over layers; 0 for none.
        match_width: principal components a layer for the regressor `matched`; 0 for none.
        learning_curve: also score with an eighth, a quarter and half of the images to fit.
        seed: of the splits, the shuffles, the permutations, the bootstrap and the first twin.
        progress: called with (stage, done, all).

    Returns:
        The curve. Its intervals are 95 % bootstrap intervals over groups of held-out images; for
        `mean` over subsets, of the mean.

    Raises:
        ScalecutError: DataError, ModelError or LayerError, with one line that says what to do.
    """
    counts = {"twins": twins, "repeats": repeats, "batch size": batch_size}
    counts |= {"permutations": permutations, "match width": match_width}
    regressors, controls = _checked(regressors, controls, counts)
    stages, look = Stages(progress), Look(fit, precision, device, batch_size)
    with stages("network"):
        if not isinstance(model, Network):
            model = load_network(
                model,
                weights=weights,
                allow_partial=allow_partial,
                seed=seed,
                preprocessing=preprocessing,
            )
        points, layers_left_out = chosen_points(model, layers)
    reading = Reading(
        tuple(subsets),
        measure,
        objects,
        skip_truncated,
        skip_difficult,
        strict,
        Path(images_folder) if images_folder else None,
    )
    with stages("images"):
        image_set = images_of(data, model.preprocessing.frame(fit), reading, seed=seed)
    if model.weights.kind == "random":
        model = twin_of(model, image_set, look, seed)
    kept, found = _readable(model, image_set, points, look, stages, strict=strict)
    kind, points = model.weights.kind, tuple(points)
    answers = {kind: Answers(points, (found.matrices,))}
    answers |= _control_answers(model, kept, points, look, stages, controls, twins, seed)
    parts = draw_parts(
        kept, repeats, seed, shuffled="shuffled" in controls, permutations=permutations
    )
    ask = (*regressors, MATCHED) if match_width else regressors
    with stages("regression"):
        scores = score(parts, answers, ask, width=match_width, report=stages.report("regression"))
    learning: tuple[Scores, ...] = ()
    if learning_curve:
        with stages("learning curve"):
            learning = _learning(parts, {kind: answers[kind]}, ask, match_width, stages)
    drawn = {"repeats": repeats, "seed": seed, "regressors": ask, "controls": controls}
    drawn |= {"twins": twins, "permutations": permutations, "match_width": match_width}
    facts = _facts(model, kept, found, look) | {"stages": stages.facts}
    names = {"model": model.name, "measure": kept.measure_name}
    left_out = (*image_set.left_out, *found.left_out)
    return Curve.of(
        scores, learning, names, points, layers_left_out, left_out, {"probe": drawn} | facts
    )


def _readable(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    stages: Stages,
    *,
    strict: bool,
) -> tuple[ImageSet, Features]:
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


def _control_answers(
    network: Network,
    image_set: ImageSet,
    points: tuple[ProbePoint, ...],
    look: Look,
    stages: Stages,
    controls: Sequence[str],
    twins: int,
    seed: int,
) -> dict[str, Answers]:
    """What the controls answer to the same images, by kind of weights."""
    answers = {}
    for kind, n in (("random", twins), ("permuted", 1)):
        if kind not in controls or network.weights.kind == "random":
            continue
        matrices = []
        for number in range(n):
            stage = f"{kind} twin {number + 1}" if n > 1 else f"{kind} twin"
            with stages(stage):
                twin = twin_of(network, image_set, look, seed + number, kind)
            found = stages.extracted(twin, image_set.images, points, look, stage)
            check_finite(twin, found)
            matrices.append(found.matrices)
        answers[kind] = Answers(points, tuple(matrices))
    if "pixels" in controls:
        statistics, point = pixel_network(network.preprocessing)
        exact = replace(look, precision="float32")
        found = stages.extracted(statistics, image_set.images, [point], exact, "pixels")
        answers["pixels"] = Answers((point,), (found.matrices,))
    return answers


def _learning(
    parts: Sequence[Part],
    answers: dict[str, Answers],
    regressors: Sequence[str],
    width: int,
    stages: Stages,
) -> tuple[Scores, ...]:
    """Scores with fewer images to fit, fewest first."""
    bare = [
        replace(part, targets={"true": part.targets["true"]}, permutations=part.permutations[:0])
        for part in parts
    ]
    shares = [
        share
        for share in LEARNING_SHARES
        if all(
            fitted.sum() >= LEAST_TO_FIT and len(set(part.groups[fitted])) >= LEAST_GROUPS_TO_FIT
            for part in parts
            for fitted in part.fitted(share)
        )
    ]
    return tuple(
        score(
            bare,
            answers,
            regressors,
            width=width,
            share=share,
            report=stages.report(f"regression {share:.3g}"),
        )
        for share in shares
    )


# --- checks and facts ----------------------------------------------------------------------------


def _checked(
    regressors: Sequence[str], controls: Sequence[str], counts: dict[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    regressors = check_names(regressors, REGRESSORS, "regressor")
    controls = check_names(controls, CONTROLS, "control")
    if not regressors:
        raise DataError(f"No regressor is given. Give one or more of {', '.join(REGRESSORS)}.")
    if counts["batch size"] < 1:
        raise DataError(
            f"A batch cannot be of {counts['batch size']} images. Give --batch-size 1 or more."
        )
    if counts["repeats"] < 1:
        raise DataError(
            f"There cannot be {counts['repeats']} repeats. Give --repeats 1 or more; 10 as in the "
            "paper."
        )
    if not 1 <= counts["twins"] <= MOST_TWINS:
        raise DataError(
            f"There cannot be {counts['twins']} random twins. Give --twins 1 to {MOST_TWINS}; with "
            "--controls pixels,shuffled there are none."
        )
    for name, usual in (("permutations", 1000), ("match width", 32)):
        if counts[name] < 0:
            option = name.replace(" ", "-")
            raise DataError(
                f"--{option} {counts[name]} is below 0. Give 0 for none, or {usual} as is usual."
            )
    return regressors, controls


def _facts(
    network: Network, image_set: ImageSet, features: Features, look: Look
) -> dict[str, object]:
    """What the features were computed from, and how."""
    return {
        "look": asdict(look) | {"precision": features.precision},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": image_facts(image_set),
    }
