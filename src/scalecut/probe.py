"""How much of an object's scale each layer carries: the curve of held-out R², with its controls.

For every subset of the images (one class of objects) and every layer, the measure is regressed on
the pooled features, in `repeats` splits of 70 % to fit and 30 % to test, by group. The same splits
serve every layer, regressor, target and set of weights. Source: section 4.3 of `graziani2021`; the
ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from torch import nn

from .curve import COLUMNS, Curve
from .errors import DataError
from .features import Features, Progress, extract
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
from .scores import draw_parts, score

REGRESSORS = ("ridge", "ols")
CONTROLS = ("random", "shuffled")


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
    controls: Sequence[str] = CONTROLS,
    repeats: int = 10,
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
        controls: `random` (a twin with random weights), `shuffled` (the measure permuted).
        repeats: random splits, over which R² is averaged.
        seed: of the splits, the shuffles, the bootstrap and the twin.
        progress: called with (stage, done, all).

    Returns:
        The curve. Its intervals are 95 % bootstrap intervals over groups of held-out images; for
        `mean` over subsets, of the mean.

    Raises:
        ScalecutError: DataError, ModelError or LayerError, with one line that says what to do.
    """
    regressors, controls = _checked(regressors, controls, repeats, batch_size)
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
    kept, answers = _answers(model, image_set, points, look, stages, strict=strict)
    if "random" in controls and model.weights.kind != "random":
        answers["random"] = _twin_answers(model, kept, points, look, stages, seed)
    with stages("regression"):
        parts = draw_parts(kept, repeats, seed, shuffled="shuffled" in controls)
        matrices = {kind: features.matrices for kind, features in answers.items()}
        table = score(parts, points, matrices, regressors, stages.report)
        table = table.assign(model=model.name, measure=kept.measure_name)
    drawn = {"repeats": repeats, "seed": seed, "regressors": regressors, "controls": controls}
    facts = _facts(model, kept, answers, look) | {"stages": stages.facts(answers)}
    images_left_out = (*image_set.left_out, *answers[model.weights.kind].left_out)
    table = pd.DataFrame(table, columns=COLUMNS)
    return Curve(table, tuple(points), layers_left_out, images_left_out, {"probe": drawn} | facts)


def _answers(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    stages: Stages,
    *,
    strict: bool,
) -> tuple[ImageSet, dict[str, Features]]:
    """The images that could be read, and the network's features of them."""
    with stages("features"):
        found = extract(network, image_set.images, points, **asdict(look), progress=stages.progress)
    if strict and found.left_out:
        bad = found.left_out[0]
        reason = bad.reason.rstrip(".")
        raise DataError(f"{bad.name}: {reason}. Mend or remove it, or drop --strict.")
    check_finite(network, found)
    kept = image_set.rows(found.is_read)
    check_size(kept)
    return kept, {network.weights.kind: found}


def _twin_answers(
    network: Network,
    image_set: ImageSet,
    points: Sequence[ProbePoint],
    look: Look,
    stages: Stages,
    seed: int,
) -> Features:
    """The features that a random twin of the network gives."""
    with stages("random twin"):
        twin = twin_of(network, image_set, look, seed)
        return extract(
            twin,
            image_set.images,
            points,
            **asdict(look),
            progress=stages.progress,
            stage="random twin",
        )


# --- checks and facts ----------------------------------------------------------------------------


def _checked(
    regressors: Sequence[str], controls: Sequence[str], repeats: int, batch_size: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    regressors = check_names(regressors, REGRESSORS, "regressor")
    controls = check_names(controls, CONTROLS, "control")
    if not regressors:
        raise DataError(f"No regressor is given. Give one or more of {', '.join(REGRESSORS)}.")
    if batch_size < 1:
        raise DataError(f"A batch cannot be of {batch_size} images. Give --batch-size 1 or more.")
    if repeats < 1:
        raise DataError(
            f"There cannot be {repeats} repeats. Give --repeats 1 or more; 10 as in the paper."
        )
    return regressors, controls


def _facts(
    network: Network, image_set: ImageSet, answers: dict[str, Features], look: Look
) -> dict[str, object]:
    """What the features were computed from, and how."""
    return {
        "look": asdict(look) | {"precision": answers[network.weights.kind].precision},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": image_facts(image_set),
    }
