"""What a run shows on its page, by the name of each table: the registries of figures and sections.

A new figure is one line in FIGURES, a new section one line in SECTIONS. A table in neither is shown
as it is.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..data.images import Image
from ..data.thumbnails import thumbnail
from ..figures import text
from ..figures.analyses import (
    MOVES,
    OUTPUTS,
    atlas_drawing,
    directions_drawing,
    drift_drawing,
    invariance_drawing,
    noise_drawing,
    scenes_drawing,
)
from ..figures.drawing import Drawing
from ..figures.pathology import (
    audit_drawing,
    calibration_drawing,
    encoders_drawing,
    layers_drawing,
    passport_drawing,
    recall_drawing,
    sweep_drawing,
)
from ..runs import MARKS, Run, read_run
from . import audit, cut, paper, passport, transfer
from .cells import Cell, in_words
from .curve import (
    combined_figure,
    combined_section,
    comparison_checks,
    comparison_figure,
    comparison_sections,
    curve_checks,
    curve_of,
    exponential_figure,
    learning_figure,
    main_figure,
    predicted_figure,
    subset_figure,
    width_figure,
)
from .page import Check, Section, Shown, ShownImage, Table

MOST_ROWS = 200  # of a table that is shown as it is
UNITS = ("layer", "unit", "direction", "subset", "picture", "start", "end")


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of a table."""

    name: str  # of its files
    # from the run to the figure, or None where there is nothing to draw
    draw: Callable[[Run], Drawing | None]
    title: str = ""  # of its section of the page; empty if another section shows it
    note: str = ""  # below the figure

    def section(self, drawing: Drawing) -> Section:
        """Its section of the page."""
        return Section(self.title, figures=[Shown(self.name, self.title, self.note, drawing)])


def drawings(run: Run) -> list[tuple[Plot, Drawing]]:
    """Every figure of the tables of a run, in the order of the registry."""
    drawn = ((plot, plot.draw(run)) for name in FIGURES if run.has(name) for plot in FIGURES[name])
    return [(plot, drawing) for plot, drawing in drawn if drawing is not None]


def sections_of(run: Run, drawn: Sequence[tuple[Plot, Drawing]]) -> list[Section]:
    """Figures first, then what is registered for each table, other tables, and cuts in the run."""
    by_name = {plot.name: drawing for plot, drawing in drawn}
    sections = [plot.section(drawing) for plot, drawing in drawn if plot.title]
    for name, make in SECTIONS.items():
        if run.has(name):
            sections += make(run, by_name)
    known = {*FIGURES, *SECTIONS}
    sections += [plain_section(run, name) for name in run.names() if name not in known]
    if not run.has("paper"):  # whose cuts are steps, with pages of their own
        folders = sorted(path.parent for path in run.folder.glob(f"*/{MARKS['cut']}"))
        sections += [
            cut.cut_section(read_run(each, "cut", cut.NEEDED), f"saving-{each.name}")
            for each in folders
        ]
    return sections


def question_of(run: Run, model: str) -> str:
    """What was asked, by the first table of the registry that the run has; empty if none."""
    asked = next((asked for name, asked in QUESTIONS.items() if run.has(name)), "")
    target = "each target"
    if run.has("curve"):
        frame = curve_of(run)
        model = str(frame.model.iloc[0])
        target = str(frame.measure.iloc[0]) if frame.measure.nunique() == 1 else target
        target = "the measure" if target == "measure" else target
    return asked.format(model=model or "the network", target=target)


def plain_section(run: Run, name: str) -> Section:
    """The first rows of a table, as they are."""
    table = run.table(name)
    rows = [tuple(map(_cell, row)) for row in table[:MOST_ROWS].itertuples(index=False, name=None)]
    said = f"The first {MOST_ROWS} of {len(table):,} rows; {name}.csv holds all."
    lines = [said] if len(table) > MOST_ROWS else []
    return Section(
        in_words(name), lines, tables=[Table(name, tuple(map(str, table.columns)), rows)]
    )


def _cell(value: object) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str | int | float) and not pd.isna(value) else None


def unit_sections(run: Run) -> list[Section]:
    """The feature visualisations of units, or of directions, one section per layer."""
    said = "Below each image: the activation of the initial noise, and of the final image."
    sections = []
    for layer, rows in run.table("units", UNITS).groupby("layer", sort=False):
        images = [
            ShownImage(
                thumbnail(Image(row["picture"], run.folder / row["picture"])),
                text.unit(row),
                text.change(row["start"], row["end"]),
            )
            for row in rows.to_dict("records")
        ]
        sections.append(Section(str(layer), [said], images=images))
    return sections


def atlas_sections(run: Run) -> list[Section]:
    """R² and partial R² of every concept by layer, as shaded tables."""
    table = run.table("atlas", ("weights", "layer", "concept", "r2", "partial_r2"))
    own = table[table["weights"] == table["weights"].iloc[0]]
    texts = {
        "r2": ("Concepts by layer", "Held-out R² of each concept, predicted from the features."),
        "partial_r2": (
            "With the other concepts held constant",
            "Partial R²: how much of what the other concepts leave of it the features predict.",
        ),
    }
    layers, concepts = (list(dict.fromkeys(own[name])) for name in ("layer", "concept"))
    sections = []
    for column, (title, said) in texts.items():
        values = own.pivot_table(column, "layer", "concept", sort=False, dropna=False)
        values = values.reindex(index=layers, columns=concepts)
        rows: list[tuple[Cell, ...]] = [
            (str(layer), *map(_cell, row))
            for layer, row in zip(values.index, values.to_numpy().tolist(), strict=True)
        ]
        columns = ("layer", *map(str, values.columns))
        sections.append(
            Section(title, [said], tables=[Table(title, columns, rows, is_shaded=True)])
        )
    return sections


def _of_table(
    name: str, make: Callable[[pd.DataFrame], Drawing], needed: Collection[str] = ()
) -> Callable[[Run], Drawing | None]:
    """A figure of one table, if it has any of the quantities that are needed."""

    def draw(run: Run) -> Drawing | None:
        table = run.table(name)
        has_quantities = "quantity" in table and bool(needed)
        if has_quantities and not bool(table["quantity"].isin(list(needed)).any()):
            return None
        return make(table)

    return draw


# --- registries, keyed by the name of a table ----------------------------------------------------

QUESTIONS: dict[str, str] = {
    "paper": "Are the results of the paper reproduced?",
    "comparison": "Which run encodes the target best, and where?",
    "curve": "Which layer of {model} encodes {target} best?",
    "atlas": "Which concepts does each layer of {model} encode?",
    "invariance": "How do features and predictions of {model} change with image size?",
    "noise": "Does {model} encode image size without any object?",
    "scenes": "Does {model} encode object scale or image size?",
    "rcv": "Along which direction do the features of {model} grow with scale?",
    "units": "Which images drive {model} most?",
    "passport": "At which resolutions may {model} be used?",
    "encoders": "At which resolutions may each network be used?",
    "audit": "Which tiles do not have the resolution that they claim?",
    "transfer": "Which method predicts tissue best with {model}?",
    "targets": "What was understood of the data?",
}

# The checks of the first screen, and warnings.
CHECKS: dict[str, Callable[[Run], tuple[list[Check], list[str]]]] = {
    "curve": curve_checks,
    "comparison": comparison_checks,
    "transfer": transfer.transfer_checks,
    "audit": audit.audit_checks,
    "passport": passport.passport_checks,
    "paper": paper.paper_checks,
}

FIGURES: dict[str, tuple[Plot, ...]] = {
    "curve": (
        Plot("curve", main_figure),
        Plot(
            "subsets",
            subset_figure,
            "Subset by subset",
            "Each class of objects is probed separately; the uncoloured line is the mean.",
        ),
        Plot(
            "width",
            width_figure,
            "Ridge, least squares and the width of a layer",
            "n/d is the number of training images over the number of features. Where the two are "
            "about equal, least squares interpolates its training images and follows the noise, "
            "whatever the layer encodes.",
        ),
        Plot(
            "curve_exponential",
            exponential_figure,
            "On the axis of the paper",
            "e^(R²)/e is 1 at R² = 1, 0.37 at R² = 0, and close to 0 for strongly negative R², so "
            "no value leaves the figure. It is computed from the mean R².",
        ),
        Plot(
            "predicted",
            predicted_figure,
            "True against predicted scale",
            "At the peak, class by class: the mean over images of similar scale, and a band from "
            "the 10th to the 90th percentile. Lines flatter than the dotted one show regression to "
            "the mean.",
        ),
    ),
    "combined": (Plot("combined", combined_figure),),  # shown by its section
    "curves": (
        Plot(
            "comparison",
            comparison_figure,
            "Score by relative depth",
            "Depth is 0 at the first layer of each network and 1 at its last. Dots: the highest "
            "scores. Lines are straight between layers.",
        ),
    ),
    "learning": (
        Plot(
            "learning",
            learning_figure,
            "With fewer training images",
            "A curve holds for the number of training images.",
        ),
    ),
    "invariance": (
        Plot(
            "invariance",
            _of_table("invariance", invariance_drawing, OUTPUTS),
            "How the prediction changes",
            "Compared with the prediction at the training resolution.",
        ),
        Plot(
            "drift",
            _of_table("invariance", drift_drawing, MOVES),
            "How the features change",
            "From one size to the next, one octave larger.",
        ),
    ),
    "noise": (
        Plot(
            "noise",
            _of_table("noise", noise_drawing),
            "Image size predicted from noise",
            "These images hold no object, so any prediction above chance is a leak.",
        ),
    ),
    "scenes": (
        Plot(
            "scenes",
            _of_table("scenes", scenes_drawing),
            "Object scale and image size separated",
            "Synthetic scenes in which each of the two is set, not measured.",
        ),
    ),
    "rcv": (
        Plot(
            "directions",
            _of_table("rcv", directions_drawing),
            "The direction of scale",
            "The direction in which the features grow with the scale of the object: how stable it "
            "is, how many channels carry it, and whether it transfers to other subsets.",
        ),
    ),
    "atlas": (Plot("atlas", _of_table("atlas", atlas_drawing)),),  # the page has tables
    "sweep": (
        Plot(
            "sweep",
            lambda run: sweep_drawing(run.table("sweep"), run.facts),
            "Cut at every layer",
            "Test scores of the network cut after each of its layers.",
        ),
    ),
    "calibration": (
        Plot(
            "calibration",
            lambda run: calibration_drawing(run.table("calibration"), run.facts),
            "Predicted against true values",
            "The mean over fits and patches; on the dotted line the two agree.",
        ),
    ),
    "recall": (
        Plot(
            "recall",
            lambda run: recall_drawing(run.table("recall"), run.facts),
            "Recall by magnification",
            "The share of the patches of each magnification that is classified correctly.",
        ),
    ),
    "audit": (
        Plot(
            "audit",
            lambda run: audit_drawing(run.table("audit"), run.facts),
            "Predicted against claimed resolution",
            "One octave is a factor of two: above 0, pixels are larger than claimed.",
        ),
    ),
    "resolutions": (
        Plot(
            "passport",
            lambda run: passport_drawing(run.table("resolutions"), run.facts),
            "How far features move with resolution",
            "At 1, the resolution moves the features of a patient as far as another patient is "
            "away. Lines are straight between the resolutions given.",
        ),
        Plot(
            "layers",
            lambda run: layers_drawing(run.table("passport"), run.table("resolutions"), run.facts),
            "By layer",
            "Random weights show what the architecture alone does.",
        ),
    ),
    "ratios": (
        Plot(
            "encoders",
            lambda run: encoders_drawing(run.table("ratios")),
            "How far features move with resolution",
            "At 1, the resolution moves the features of a patient as far as another patient is "
            "away. Lines are straight between the resolutions given.",
        ),
    ),
    "paper": tuple(Plot(network, paper.printed_figure(network)) for network in paper.PRINTED),
}

SECTIONS: dict[str, Callable[[Run, Mapping[str, Drawing]], list[Section]]] = {
    "atlas": lambda run, _: atlas_sections(run),
    "combined": lambda run, drawn: [combined_section(run, drawn["combined"])],
    "comparison": lambda run, _: comparison_sections(run),
    "pairs": lambda *_: [],  # part of the sections of a comparison
    "transfer": lambda run, _: [transfer.transfer_section(run)],
    "differences": lambda *_: [],  # of a probe or a transfer: part of their own sections
    "scores": lambda *_: [],  # of a transfer: part of its section
    "intervals": lambda *_: [],  # of its scores
    "agreement": lambda run, _: [transfer.agreement_section(run)],
    "configurations": lambda run, _: [transfer.configurations_section(run)],
    "losses": lambda run, _: [transfer.training_section(run)],
    "audited": lambda run, _: [audit.examples_section(run)],
    "audit": lambda run, _: [audit.audit_section(run)],
    "resolutions": lambda run, _: [passport.resolutions_section(run)],
    "passport": lambda run, _: [passport.passport_section(run)],
    "encoders": lambda run, _: [passport.encoders_section(run)],
    "ratios": lambda *_: [],  # of encoders: the figure
    "variants": lambda run, _: [audit.variants_section(run)],
    "mpp": lambda *_: [],  # of an audit, for other tools
    "concepts": lambda *_: [],  # of an atlas, image by image
    "targets": lambda *_: [],  # of the data: part of the section before all others
    "examples": lambda *_: [],
    "units": lambda run, _: unit_sections(run),
    "paper": paper.paper_sections,
    "claims": lambda *_: [],  # the first section of the paper
}
