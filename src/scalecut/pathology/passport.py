"""At which resolutions an encoder may be used: its scale passport.

Per layer: how well resolution can be predicted from the features, how far the features of the same
place move per octave of resolution, and the range of resolutions in which they stay within what
different patients differ by (`stats.drift`). The same with random weights.

Shapes: n patches, m patients, R resolutions, L layers, b draws, p permutations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from ..data.images import Image, ImageSet, LeftOut, Progress
from ..data.measures import Frame
from ..data.patches import RESOLUTION, WHERE, check_files
from ..errors import DataError, check_least
from ..features.cluster import computing
from ..features.extract import (
    Computation,
    DecodedImages,
    Stages,
    provenance,
    readable,
)
from ..figures import text
from ..figures.drawing import page_figure
from ..figures.pathology import passport_drawing
from ..networks.load import load_network
from ..networks.network import Network
from ..networks.points import LOGITS, SOFTMAX
from ..networks.selection import chosen_points
from ..probing.controls import control_of, features_of_controls, moved_by_int8
from ..probing.curve import computed_line
from ..report.report import Result
from ..runs import read_run, settings_of
from ..stats.inference import LEAST_GROUPS, no_interval
from .alignment import NEEDED, Resolutions, named, resolutions_of
from .movement import (
    HOLDS,
    NO_VERDICT,
    NONE_GIVEN,
    Plan,
    furthest,
    placed,
    planned,
    scored,
    tables_of,
)
from .patches import Patches, patches_of
from .verdict import FEWEST

# fmt: off
COLUMNS = [
    "model", "weights", "layer", "alias", "depth", "n_features", "n_images", "n_patients",
    "r2", "r2_low", "r2_high", "p_value", "mae_octaves", "mae_low", "mae_high",
    "drift", "drift_low", "drift_high", "finest", "finest_low", "finest_high", "finer",
    "coarsest", "coarsest_low", "coarsest_high", "coarser",
]  # of passport.csv
RESOLUTIONS = [
    "model", "weights", "layer", "alias", "depth", "um_per_pixel", "magnification", "octaves",
    "ratio", "ratio_low", "ratio_high", "answer", "n_places", "n_patients",
]  # of resolutions.csv
# fmt: on
MEASURE = "log2_um_per_pixel"
LEAST = {"repeats": 2, "random_networks": 0, "permutations": 0}


@dataclass(frozen=True, slots=True)
class Examined:
    """Which resolutions are compared, and how often resolution is regressed.

    Args:
        at: The resolution of reference, in µm per pixel (0.25) or as a magnification (40X); by
            default the finest.
        to: The resolution that the finding is about; by default the farthest from the reference.
        repeats: Random splits into 70 % training and 30 % test patches, by patient, at least 2.
        random_networks: Randomly initialised networks to compare with; 0 for none.
        permutations: For the p-values of R², corrected over layers; 0 for none.
    """

    at: str = ""
    to: str = ""
    repeats: int = 10
    random_networks: int = 1
    permutations: int = 199

    def __post_init__(self) -> None:
        check_least(self, **LEAST)


@dataclass(frozen=True, slots=True, eq=False)
class Passport(Result):
    """At which resolutions the features of each layer stay within what patients differ by.

    Args:
        table: the columns of `COLUMNS`, one row per kind of weights and layer. `drift` is that per
            octave, in units of what patients differ by; `finest` and `coarsest` are the ends of the
            range in µm per pixel, and `finer` and `coarser` say whether it `breaks` there or
            `holds` to the last resolution given.
        resolutions: the columns of `RESOLUTIONS`, one row per kind of weights, layer and
            resolution: the ratio to what patients differ by, and the answer.
        left_out: layers and patches that were skipped.
        provenance: facts of `run.json`.
        image_set: the patches; None if the result was read from a run.
    """

    NAME: ClassVar[str] = "passport"
    table: pd.DataFrame
    resolutions: pd.DataFrame
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    image_set: ImageSet | None = field(default=None, repr=False)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {self.NAME: self.to_frame(), "resolutions": self.resolutions.copy()}

    def own(self) -> pd.DataFrame:
        """The rows of the network itself, in order of execution."""
        return self.table.loc[self.table["weights"] == self.table["weights"].iloc[0]]

    def ratios(self, layer: str, weights: str = "") -> pd.DataFrame:
        """The ratio by resolution of a layer, of the network itself or other weights."""
        kind = weights or self.table["weights"].iloc[0]
        rows = self.resolutions
        return rows.loc[(rows["weights"] == kind) & (rows["layer"] == layer)]

    @property
    def about(self) -> Mapping[str, Any]:
        """Facts: the resolutions, patients and layers that findings are about."""
        return self.provenance["passport"]

    def finding(self) -> str:
        """Whether the encoder may be used at the resolution asked for, and where its range ends."""
        about, last = self.about, self.own().iloc[-1]
        here = self.ratios(str(last.layer))
        row = here.loc[np.isclose(here.um_per_pixel, about["to"])].iloc[0]
        name, reference = named(about["to"]), named(about["reference"])
        if not row.n_places:
            return (
                f"No patch at {name} shows the same place as one at {reference}, so nothing "
                f"follows for {name}."
            )
        if np.isnan(row.ratio):
            return (
                f"What patients differ by at {reference} cannot be measured at {last.layer} of "
                f"{last.model}, so nothing follows for {name}."
            )
        size = text.with_interval(row.ratio, row.ratio_low, row.ratio_high)
        said = (
            f"At {name} the last layer of {last.model} ({last.layer}) differs from {reference} by "
            f"{size} of what patients differ by: {row.answer}"
        )
        if row.answer == NO_VERDICT:
            return (
                f"{said}, because there are {about['n_patients']} patients, and {FEWEST} are "
                f"needed. {self._encoded(last)}"
            )
        sides = [
            _side(last, about, which) for which in ("coarser", "finer") if last[which] != NONE_GIVEN
        ]
        return f"{said}. {' '.join(sides)}{self._further()} {self._encoded(last)}"

    def _further(self) -> str:
        """An earlier layer that holds further than the last, if there is one."""
        further = self.about.get("further")
        if not further:
            return ""
        row = self.own().set_index("layer").loc[further["layer"]]
        low, high = (np.nan if further[end] is None else further[end] for end in ("low", "high"))
        shown = "is shown to hold" if low > 0 else "holds"
        more = ", which is not shown to be more" if low <= 0 else ""
        size = text.with_interval(further["octaves"], low, high)
        return (
            f" The earlier layer {row.name} {shown} further, from {range_of(row)} µm per pixel, by "
            f"{size} octaves{more}."
        )

    def _encoded(self, last: Any) -> str:
        r2 = text.with_interval(last.r2, last.r2_low, last.r2_high)
        error = text.with_interval(last.mae_octaves, last.mae_low, last.mae_high)
        return (
            f"Resolution is predicted from {last.layer} with R² {r2} and an error of {error} "
            "octaves."
        )

    def summary(self) -> dict[str, pd.DataFrame]:
        """The answer for each resolution at the last layer, and one row per layer."""
        own, about = self.own(), self.about
        last = own.iloc[-1]
        here, is_random = self.ratios(last.layer), last["weights"] == "random"
        random = here.iloc[:0] if is_random else self.ratios(last.layer, "random")
        by_random = dict(zip(random.um_per_pixel, random.ratio, strict=True))
        answers = pd.DataFrame(
            {
                "resolution": [named(each) for each in here.um_per_pixel],
                " ratio [95 %]": shown(here, "ratio"),
                "within patients": here.answer.tolist(),
                " random weights": [
                    text.number(by_random.get(each, np.nan)) for each in here.um_per_pixel
                ],
            }
        )
        of_random = self.table[self.table["weights"] == "random"].set_index("layer").r2
        layers = pd.DataFrame(
            {
                "layer": own.layer.tolist(),
                " R²": [*map(text.number, own.r2)],
                " random": [
                    "–" if is_random else text.number(of_random.get(layer, np.nan))
                    for layer in own.layer
                ],
                " error": [*map(text.number, own.mae_octaves)],
                " drift [95 %]": shown(own, "drift"),
                "range, µm": [range_of(row) for _, row in own.iterrows()],
            }
        )
        reference = named(about["reference"])
        title = f"Distance of {last.layer} from {reference}, in what patients differ by"
        by_layer = f"Layers, {last.n_patients} patients; error in octaves, drift per octave"
        return {title: answers, by_layer: layers}

    def notes(self) -> list[str]:
        """What is assumed, and how features were computed."""
        return [*self.about["notes"], *computed_line(self.provenance)]

    def plot(self) -> Figure:
        """The ratio by resolution, of the last layer and the one that holds furthest."""
        return page_figure(passport_drawing(self.resolutions, self.facts()))


def read_passport(folder: str | Path) -> Passport:
    """The result that `Passport.save` wrote."""
    run = read_run(folder, needed=("passport",))
    left_out = tuple(LeftOut(**each) for each in run.facts.get("left_out", ()))
    tables = run.table("passport", COLUMNS), run.table("resolutions", RESOLUTIONS)
    return Passport(*tables, left_out, dict(run.facts))


def passport(
    model: str | nn.Module | Network,
    data: str | Patches,
    *,
    weights: str | Path = "pretrained",
    allow_partial: bool = False,
    layers: Sequence[str] = (),
    examined: Examined = Examined(),
    computation: Computation = Computation(),
    seed: int = 0,
    progress: Progress | None = None,
) -> Passport:
    """Measure at which resolutions an encoder may be used: its scale passport.

    Args:
        model, weights, allow_partial, computation, progress: As for `probe`.
        data: patches:DIR, a folder that `scalecut patches` wrote: patches of the same tissue at two
            or more resolutions, of several patients.
        layers: Names, aliases or globs; by default all probe points but logits and softmax. The
            last of them is the one that findings are about.
        examined: Which resolutions are compared.
        seed: Random seed of the splits, permutations, bootstrap and random networks.

    Raises:
        DataError: if patches have no resolution or but one, no places are shown at two of them,
            there is one patient, or none has two patches at the reference.
        ModelError, LayerError: as of `probe`.
    """
    settings, stages = settings_of(locals()), Stages(progress)
    patches = patches_of(data, NEEDED, (*RESOLUTION, *WHERE))
    resolutions = resolutions_of(patches)
    _check_patients(patches.table)
    reference = resolutions.at(examined.at, 0)
    to = resolutions.at(examined.to, int(np.abs(resolutions.octaves(reference)).argmax()))
    if to == reference:
        raise DataError(
            f"--to {examined.to!r} is the resolution of reference, {resolutions.named(reference)}. "
            "Give another --to, or another --at."
        )
    side = check_files(patches.table, patches.folder)
    placed(patches.table, resolutions, reference, side)
    with stages("network"):
        loaded = load_network(model, weights=weights, allow_partial=allow_partial, seed=seed)
        network = computation.shown(loaded)
        every, layers_left_out = chosen_points(network, layers)
    points = [each for each in every if layers or each.layer not in (LOGITS, SOFTMAX)]
    image_set = _images(patches, resolutions)
    stages.say(image_set, network)
    if network.weights.kind == "random":
        network = control_of(network, image_set, computation, seed)
    stages.pixels = DecodedImages(keeps=examined.random_networks > 0)
    by_kind: dict[str, Sequence[Mapping[str, np.ndarray]]] = {}
    with computing(computation.cluster) as stages.workers:
        found = stages.extracted(network, image_set.images, points, computation)
        kept = readable(network, image_set, found, strict=False)
        moved_ = moved_by_int8(network, kept, points, computation, found, stages)
        by_kind[network.weights.kind] = [found.matrices]
        if network.weights.kind != "random" and examined.random_networks:
            given = network, kept, points, computation, stages
            n = examined.random_networks
            by_kind["random"] = features_of_controls(*given, seed=seed, count=n)
    table, resolutions = patches.table.loc[found.is_read], resolutions.rows(found.is_read)
    how = examined.repeats, examined.permutations, seed
    plan = planned(table, kept, resolutions, reference, side, *how)
    with stages("regression"):
        scores = scored(plan, by_kind, points, stages)
    rows, by_resolution, reaches = tables_of(scores, points, plan)
    facts = provenance(network, settings, stages, found, kept, moved_)
    facts["passport"] = {
        "reference": float(resolutions.sizes[reference]),
        "to": float(resolutions.sizes[to]),
        "resolutions": resolutions.sizes.tolist(),
        "n_patients": plan.n_patients,
        "fewest": FEWEST,
        "last_layer": points[-1].layer,
        "further": furthest(rows, reaches, plan),
        "blur_matched": patches.blur is not None,
        "notes": _notes(patches, plan, network.preprocessing.frame(computation.fit), side),
    }
    name = {"model": network.name}
    left_out = (*layers_left_out, *image_set.left_out, *found.left_out)
    return Passport(
        pd.DataFrame(rows.assign(**name), columns=COLUMNS),
        pd.DataFrame(by_resolution.assign(**name), columns=RESOLUTIONS),
        left_out,
        facts,
        kept,
    )


# --- patches -------------------------------------------------------------------------------------


def _check_patients(table: pd.DataFrame) -> None:
    patients = table["group"].unique()
    if len(patients) < 2:
        raise DataError(
            f"All {len(table)} patches are of one patient, {patients[0]}, but features are "
            "compared with what patients differ by. Cut patches of more patients."
        )


def _images(patches: Patches, resolutions: Resolutions) -> ImageSet:
    """The patches, each with its resolution and patient."""
    table = patches.table
    images = tuple(Image(str(name), patches.folder / str(name)) for name in table.patch)
    subset = ("patches",) * len(table)
    return ImageSet(
        images, np.log2(resolutions.size), MEASURE, subset, tuple(map(str, table["group"]))
    )


# --- in words ------------------------------------------------------------------------------------


def shown(rows: pd.DataFrame, name: str) -> list[str]:
    ends_ = (rows[name], rows[f"{name}_low"], rows[f"{name}_high"])
    return [
        "–" if np.isnan(each[0]) else text.with_interval(*each) for each in zip(*ends_, strict=True)
    ]


def range_of(row: Any) -> str:
    """The range of a layer in words: "0.25 to 0.6", "0.25 to ≥ 1" if it holds to the last given."""
    if NO_VERDICT in (row.finer, row.coarser):
        return "–"
    finest = "≤ " * (row.finer == HOLDS) + f"{row.finest:.3g}"
    coarsest = "≥ " * (row.coarser == HOLDS) + f"{row.coarsest:.3g}"
    return f"{finest} to {coarsest}"


def _side(row: Any, about: Mapping[str, Any], side: str) -> str:
    """Where the range of the last layer ends on one side of the reference, in a sentence."""
    name = "coarsest" if side == "coarser" else "finest"
    if row[side] == HOLDS:
        given = about["resolutions"][-1 if side == "coarser" else 0]
        return f"It stays within up to the {name} resolution given, {given:.3g} µm per pixel."
    others = [
        each for each in about["resolutions"]
        if (each > about["reference"] if side == "coarser" else each < about["reference"])
    ]  # fmt: skip
    nearest = min(others) if side == "coarser" else max(others)
    is_none = row[name] < nearest if side == "coarser" else row[name] > nearest
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    first, *_, last = about["resolutions"]  # an interval that reaches them may hold beyond
    signs = "≤ " * bool(np.isclose(low, first)), "≥ " * bool(np.isclose(high, last))
    around = "" if np.isnan(low) else f" [{signs[0]}{low:.3g}, {signs[1]}{high:.3g}]"
    where = f"the range ends at {row[name]:.3g} µm per pixel{around}"
    if is_none:
        return f"It stays within at none of the {side} resolutions given; by interpolation {where}."
    return f"{where[0].upper()}{where[1:]}."


def _notes(patches: Patches, plan: Plan, frame: Frame, side: int) -> list[str]:
    lines, n = [], plan.n_patients
    if n < FEWEST:
        lines.append(f"There are {n} patients, so no range is stated; {FEWEST} are needed.")
    elif n < LEAST_GROUPS["difference"]:
        lines.append(f"There are {n} patients, and {no_interval('difference')}.")
    if plan.resolutions.is_nominal:
        lines.append("µm per pixel are those of the magnifications, 10 / M.")
    if patches.blur is None:
        lines.append(
            "Patches of coarser resolutions are sharper, as they are downsampled; with "
            "--match-blur of `scalecut patches` they are not, so compare both."
        )
    left, top, right, bottom = frame.window(side, side)
    finest = plan.resolutions.sizes[0]
    across, down = finest * (right - left) / frame.width, finest * (bottom - top) / frame.height
    if not np.allclose((across, down), finest):
        is_same = np.isclose(across, down)
        seen = f"{across:.3g}" if is_same else f"{across:.3g} across and {down:.3g} down"
        lines.append(
            f"Patches of {side} px are shown at {frame.width} x {frame.height} px with --fit "
            f"{frame.fit}: {finest:.3g} µm per pixel is {seen} to the network."
        )
    if not plan.by_octave:
        lines.append("No two resolutions are an octave apart, so drift per octave is not known.")
    lines += [
        f"No patch at {plan.resolutions.named(number)} shows the same place as one at the "
        "reference."
        for number, places in plan.places.items()
        if not len(places.rows)
    ]
    return lines
