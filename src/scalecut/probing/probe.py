"""How much of a target each layer encodes: the curve of held-out scores, with its controls.

For every subset of the images (one class of objects) and every layer, each target is regressed on
the pooled features, in `repeats` random splits into 70 % training and 30 % test images, by group.
The same splits serve every layer, regressor, target and kind of weights. Source: section 4.3 of
`graziani2021`; the ridge penalty, the grouped splits and the intervals are ours (docs/choices.md).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import nn

from ..data.images import ImageSet, LeftOut, Progress
from ..data.options import Reading
from ..data.read import images_of
from ..errors import DataError, check_least, check_names
from ..features.cluster import computing
from ..features.extract import (
    Computation,
    DecodedImages,
    Stages,
    check_none_lost,
    provenance,
    readable,
)
from ..figures import text
from ..networks.load import load_network
from ..networks.network import Network
from ..networks.points import ProbePoint
from ..networks.selection import chosen_points
from ..report.curve import COLUMNS, COMBINED
from ..runs import settings_of
from ..stats.refits import DRAWS
from . import duration
from .combined import combined, joined_points, why_not_combined
from .controls import control_of, features_of_controls, moved_by_int8, pixel_network
from .curve import Curve
from .refits import Refits, check_refits, refitted
from .scores import MATCHED, MOST_RANDOM, Features, Part, Scores, draw_parts, score

REGRESSORS = ("ridge", "ols")
INTERVALS = ("test", "refit")
CONTROLS = ("random", "permuted", "pixels", "shuffled")
LEARNING_SHARES = (0.125, 0.25, 0.5)  # of the training groups; all of them is the curve itself
LEAST = {"repeats": 1, "random_networks": 1, "permutations": 0, "match_width": 0}
LEAST_PERMUTATIONS = 19  # for a p-value of 0.05
QUICK_IMAGES, QUICK_PERMUTATIONS = 400, 99
LONG = 60  # seconds, from which on the time is said beforehand
CHANCE = ("chance", "chance_low", "chance_high")
LEAST_TO_FIT, LEAST_GROUPS_TO_FIT = 10, 4
LEVELS = ("name", "chance")  # facts of a target that curves with fewer training images need


@dataclass(frozen=True, slots=True)
class Fitting:
    """What is fitted to the features, and how often.

    Args:
        regressor: One or more of ridge and ols (ordinary least squares, as in the paper).
        controls: Any of random (randomly initialised networks), permuted (the values of each weight
            tensor permuted), pixels (statistics of the pixels, no network), shuffled (the target
            permuted), or none.
        random_networks: Randomly initialised networks, each with its own seed, at least 1.
        repeats: Random splits into 70 % training and 30 % test images, at least 1.
        permutations: Of the target, for p-values corrected over layers; 0 for none.
        match_width: Also fit this many principal components of every layer; 0 for none.
        learning_curve: Also fit 1/8, 1/4 and 1/2 of the training images.
        combined: Also fit all layers together, and all up to each layer.
        quick: A first look: at most 400 images, one randomly initialised network, 99 permutations.
        intervals: test, intervals over test images, with the fits as they are; or refit, which also
            fits the peak and the last layer to 200 other draws of the training images.
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
    combined: bool = True
    quick: bool = False
    intervals: Literal["test", "refit"] = "test"

    def __post_init__(self) -> None:
        for name, known in (("regressor", REGRESSORS), ("controls", (*CONTROLS, "none"))):
            object.__setattr__(
                self, name, check_names(getattr(self, name), known, name.rstrip("s"))
            )
        if not self.regressor:
            raise DataError(f"--regressor is empty. Give one or more of {', '.join(REGRESSORS)}.")
        if self.intervals not in INTERVALS:
            raise DataError(
                f"No intervals are named {self.intervals!r}. Give {' or '.join(INTERVALS)}."
            )
        if self.intervals == "refit" and "ridge" not in self.regressor:
            raise DataError("--intervals refit fits ridge. Add ridge to --regressor.")
        check_least(self, **LEAST)
        if self.quick:
            object.__setattr__(self, "random_networks", 1)
            object.__setattr__(self, "permutations", min(QUICK_PERMUTATIONS, self.permutations))
        if self.random_networks > MOST_RANDOM:
            raise DataError(
                f"--random-networks must be at most {MOST_RANDOM}, got {self.random_networks}."
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
    """Measure how much of an object's scale, or of any other target, each layer encodes.

    Args:
        model: A timm name (resnet50), hf-hub:ORG/NAME, module.path:factory, or another source
            that `scalecut doctor` lists.
        data: voc:DIR, coco:FILE, csv:FILE, tar:PATTERN, masks:DIR, patches:DIR, or scenes; csv and
            tar also at an address, such as s3://...
        weights: pretrained, random, or a safetensors or state-dict file.
        allow_partial: Accept a weights file that lacks tensors; layers that need them are skipped.
        layers: Names, aliases or globs; all probe points by default.
        reading: Which images are read, and how their objects are measured.
        computation: How images are shown to the network and computed.
        fitting: What is fitted to the features, and how often.
        seed: Random seed of the splits, permutations, bootstrap and controls.
        progress: Called with (stage, done, total).

    Returns:
        The curve: R² by layer, and the scores of classes. Its intervals are 95 % bootstrap
        intervals over groups of test images; for the mean over subsets, of the mean.

    Raises:
        ScalecutError: DataError, ModelError or LayerError, in one line that says what to do.
    """
    settings = settings_of(locals())
    if fitting.quick:
        reading = replace(reading, at_most=min(QUICK_IMAGES, reading.at_most or QUICK_IMAGES))
    stages = Stages(progress)
    with stages("network"):
        network = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
        network = computation.shown(network)
        points, layers_left_out = chosen_points(network, layers)
    with stages("images"):
        frame = network.preprocessing.frame(computation.fit)
        image_set = images_of(data, frame, reading, seed=seed, several=True, progress=progress)
    if fitting.intervals == "refit":
        check_refits(image_set)
    stages.say(image_set, network, strict=reading.strict)
    if network.weights.kind == "random":
        network = control_of(network, image_set, computation, seed)
    asked = _Asked(network, tuple(points), computation, fitting, seed, stages)
    if {"random", "permuted", "pixels"} & {*fitting.controls}:
        stages.pixels = DecodedImages()
    stages.foresee = functools.partial(asked.foreseen, image_set)
    with computing(computation.cluster) as stages.workers:
        found = stages.extracted(network, image_set.images, asked.points, computation)
        kept = readable(network, image_set, found, strict=reading.strict)
        own = {network.weights.kind: Features(asked.points, (found.matrices,))}
        moved = moved_by_int8(network, kept, points, computation, found, stages)
        of_controls = asked.control_features(kept)
        scores, *fewer = asked.scores(kept, own, of_controls)
        targets = _targets(kept, scores)
        levels = {"targets": [{name: each[name] for name in LEVELS} for each in targets]}
        curve = Curve(
            scores.table,
            scores.draws,
            asked.points,
            fewer=tuple(Curve(each.table, each.draws, asked.points, levels) for each in fewer),
            image_set=kept,
            predicted=scores.predicted,
            combined=scores.combined,
        )
        refits = asked.refits(curve, kept, own, of_controls)
    facts = provenance(network, settings, stages, found, kept, moved)
    facts["probe"] = {"repeats": fitting.repeats, "seed": seed}
    facts["targets"] = targets
    facts["layers_left_out"] = layers_left_out
    facts["images_left_out"] = (*image_set.left_out, *found.left_out)
    facts["left_out"] = _not_together(kept, fitting)
    return replace(curve, provenance=facts | refits)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a probe was asked for, for its steps."""

    network: Network
    points: tuple[ProbePoint, ...]
    computation: Computation
    fitting: Fitting
    seed: int
    stages: Stages

    def foreseen(self, images: ImageSet, images_per_second: float) -> str:
        """How long the whole takes at this speed; nothing if it is short."""
        fitting = self.fitting
        n_random = fitting.random_networks * ("random" in fitting.controls)
        passes = 1 + n_random + ("permuted" in fitting.controls)
        widths = [point.channels for point in self.points] * passes
        at_once, regression = self.stages.workers.count, 0.0
        joined = [point.channels for point in joined_points(self.points)]
        together = self.together(images)
        for target in images.targets:
            part, k = images.of(target.name), max(1, len(target.classes))
            sizes = [part.subset.count(subset) for subset in part.subsets]
            asked = {"repeats": fitting.repeats, "permutations": k * fitting.permutations}
            regression += duration.regression_seconds(sizes, widths, at_once=at_once, **asked)
            if target.name in together:
                regression += duration.joined_seconds(sizes, joined, repeats=fitting.repeats)
        if fitting.intervals == "refit":  # the peak, which may be the widest, the last, controls
            sizes = [images.subset.count(subset) for subset in images.subsets]
            widest = [max(point.channels for point in self.points)] * (3 + n_random)
            drawn = [round(0.63 * size) for size in sizes]
            asked = {"repeats": DRAWS * fitting.repeats, "permutations": 0}
            regression += duration.regression_seconds(drawn, widest, at_once=at_once, **asked)
        forward = passes * len(images) / images_per_second
        if forward + regression < LONG:
            return ""
        shorter = "" if fitting.quick else "; --quick is a shorter first look"
        return (
            f"About {text.duration(forward + regression)} if nothing is cached: {passes} "
            f"{'passes' if passes > 1 else 'pass'} of {len(images):,} images at "
            f"{images_per_second:.0f} images/s, then {text.duration(regression)} of "
            f"regression{shorter}."
        )

    def together(self, images: ImageSet) -> list[str]:
        """The targets that all layers together are fitted to."""
        if not self.fitting.combined or len(joined_points(self.points)) < 2:
            return []
        out = why_not_combined(images, self.fitting.regressor)
        return [target.name for target in images.targets if target.name not in out]

    def control_features(self, images: ImageSet) -> dict[str, Features]:
        """Features of the same images with the weights of each control, by kind of weights."""
        network, controls = self.network, self.fitting.controls
        features = {}
        for kind, n in (("random", self.fitting.random_networks), ("permuted", 1)):
            if kind not in controls or network.weights.kind == "random":
                continue
            given = network, images, self.points, self.computation, self.stages
            matrices = features_of_controls(*given, seed=self.seed, count=n, kind=kind)
            features[kind] = Features(self.points, matrices)
        if "pixels" in controls:
            statistics, point = pixel_network(network.preprocessing)
            exact = replace(self.computation, precision="float32", engine="torch")
            found = self.stages.extracted(statistics, images.images, [point], exact, "pixels")
            check_none_lost(found.left_out)
            features["pixels"] = Features((point,), (found.matrices,))
        return features

    def scores(
        self, images: ImageSet, own: dict[str, Features], controls: dict[str, Features]
    ) -> list[Scores]:
        """Scores of everything, then of the network with fewer training images, fewest first."""
        fitting, stages = self.fitting, self.stages
        parts = draw_parts(
            images,
            fitting.repeats,
            self.seed,
            shuffled="shuffled" in fitting.controls,
            permutations=fitting.permutations,
        )
        names = (*fitting.regressor, MATCHED) if fitting.match_width else fitting.regressor
        scored = functools.partial(
            score, regressors=names, width=fitting.match_width, map=stages.workers.map
        )
        with stages("regression"):
            found = [scored(parts, own | controls, report=stages.report("regression"))]
        if fitting.learning_curve:
            bare = [
                replace(part, targets={"true": part.targets["true"]}, permuted=part.permuted[:, :0])
                for part in parts
            ]
            with stages("learning curve"):
                found += [
                    scored(bare, own, share=share, report=stages.report(f"regression {share:.3g}"))
                    for share in LEARNING_SHARES
                    if _is_enough(parts, share)
                ]
        found = [
            replace(each, table=each.table.assign(model=self.network.name)[COLUMNS])
            for each in found
        ]
        if together := self.together(images):
            with stages("layers together"):
                tables = [
                    combined(
                        [part for part in parts if part.measure == target],
                        own,
                        found[0],
                        report=stages.report("layers together"),
                    )
                    for target in together
                ]
            table = pd.concat(tables, ignore_index=True).assign(model=self.network.name)
            found[0] = replace(found[0], combined=table[COMBINED])
        return found

    def refits(
        self,
        curve: Curve,
        images: ImageSet,
        own: dict[str, Features],
        controls: dict[str, Features],
    ) -> dict[str, Refits]:
        """The intervals that count the training images, if they were asked for."""
        if self.fitting.intervals != "refit":
            return {}
        parts = draw_parts(images, self.fitting.repeats, self.seed, shuffled=False)
        with self.stages("refits"):
            return {"refits": refitted(curve, parts, own, controls, self.stages)}


def _not_together(images: ImageSet, fitting: Fitting) -> tuple[LeftOut, ...]:
    """The targets that all layers together are not fitted to, by reason; unnamed if it is all."""
    why = why_not_combined(images, fitting.regressor) if fitting.combined else {}
    found = []
    for reason in dict.fromkeys(why.values()):
        names = [name for name in why if why[name] == reason]
        of = f" for {', '.join(names)}" if len(names) < len(images.targets) else ""
        found.append(LeftOut(f"all layers together{of}", reason))
    return tuple(found)


def _targets(images: ImageSet, scores: Scores) -> list[dict[str, object]]:
    """Facts of each target: how many images have it, its classes, and what chance gives."""
    facts: list[dict[str, object]] = []
    for target in images.targets:
        known = images.known(target.name)
        chance = dict(zip(CHANCE, scores.chance[target.name], strict=True))
        of_class = {
            name: int((target.values[known] == number).sum())
            for number, name in enumerate(target.classes)
        }
        counts = {"n_images": len(known), "n_missing": len(images) - len(known)}
        facts.append({"name": target.name, **counts, "n_by_class": of_class, **chance})
    return facts


def _is_enough(parts: Sequence[Part], share: float) -> bool:
    """Whether this share of the training groups suffices for a fit in every split."""
    return all(
        fitted.sum() >= LEAST_TO_FIT and len(set(part.groups[fitted])) >= LEAST_GROUPS_TO_FIT
        for part in parts
        for fitted in part.fitted(share)
    )
