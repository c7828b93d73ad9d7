"""The figures and the page of a run, made from its tables and facts alone.

Each table is parsed once and each figure drawn once: it is saved as PNG and SVG, and the page draws
the same `Drawing`. What a table becomes is registered by its name, in `sections`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from .. import cache, runs
from ..data.contact import SMALL, write_sheet
from ..data.images import ImageSet
from ..errors import DataError
from ..figures.drawing import STYLE, Drawing, page_figure
from ..figures.notebook import html_of
from ..runs import Run
from .curve import comparison_section, curve_of, curve_story, keys_of, names_of
from .cut import NEEDED, cut_story
from .facts import data_checks, data_sections, network_checks, trust, warnings_of
from .page import Story, page
from .sections import CHECKS, Plot, drawings, question_of, sections_of

PAGE = "report.html"
DOTS_PER_INCH = 200
# what is of no network, by a table
UNTITLED = {"targets": "Data", "comparison": "Comparison", "encoders": "Passports"}


class Result:
    """What the results of all verbs can do; each says what was found, and draws it."""

    __slots__ = ()
    NAME: ClassVar[str]  # of the main table
    table: Any
    provenance: Any  # facts of `run.json`
    left_out: Any

    def to_frame(self) -> pd.DataFrame:
        """The main table, as its CSV file has it."""
        return self.table.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {self.NAME: self.to_frame()}

    def finding(self) -> str:
        """What was found, in a few sentences."""
        raise NotImplementedError

    def summary(self) -> dict[str, pd.DataFrame]:
        """What fits on a terminal, by title."""
        raise NotImplementedError

    def plot(self) -> Figure:
        """The main figure."""
        raise NotImplementedError

    def facts(self) -> dict[str, object]:
        """Those of `run.json`."""
        return {**self.provenance, "finding": self.finding(), "left_out": self.left_out}

    def write_more(self, folder: Path) -> None:
        """Write what is no table into the run folder; nothing by default."""

    def save(self, folder: str | Path, *, command: str = "") -> Path:
        """Write the run folder: tables, figures and page.

        Raises:
            OutputError: if `folder` exists and holds no run, or cannot be written.
        """
        write, images = self.write_more, getattr(self, "image_set", None)
        given = self.tables(), self.facts(), folder
        return save(*given, command=command, write=write, image_set=images)

    def _repr_html_(self) -> str:
        return html_of(self.finding(), next(iter(self.summary().values())), self.plot())


def save(
    tables: Mapping[str, pd.DataFrame],
    facts: Mapping[str, object],
    folder: str | Path,
    *,
    command: str = "",
    write: Callable[[Path], None] | None = None,
    image_set: ImageSet | None = None,
) -> Path:
    """Write a result as a run folder: `run.json`, tables, figures and page. Complete or absent.

    Args:
        tables: by name.
        facts: of `run.json`.
        command: as it was typed, or empty.
        write: is given the folder before figures are drawn, and writes what is no table.
        image_set: the images, if they are known, for a contact sheet.

    Raises:
        OutputError: if `folder` exists and holds no run, or cannot be written.
    """
    folder = Path(folder)
    with runs.new_run(folder) as made:
        runs.write_run(made, tables, facts, command=command)
        if write is not None:
            write(made)
        if image_set is not None:
            write_sheet(image_set, made, SMALL)
        write_report(made)
    return folder


def write_report(
    folder: str | Path, *, subset: str = "", has_thumbnails: bool = True
) -> tuple[Path, list[Path]]:
    """Write the page and the figures of a run or a cut; the same tables give the same bytes.

    Args:
        folder: of a run, or of a cut network.
        subset: shown first; the mean over subsets by default.
        has_thumbnails: whether the page holds small copies of the images.

    Returns:
        The page, and the figures.

    Raises:
        DataError: if the folder is no complete run, or has no such subset; nothing is written.
        OutputError: if a file cannot be written.
    """
    kind = runs.kind_of(folder, ("run", "cut"))
    run = runs.read_run(folder, kind, NEEDED if kind == "cut" else ())
    key = _shown_first([run], subset)
    drawn = drawings(run)
    text = page([_story(run, drawn, has_thumbnails)], subset=key)
    figures = _write_figures(run.folder / "figures", {plot.name: each for plot, each in drawn})
    return _write_page(text, run.folder / PAGE), figures


def write_comparison(
    folders: Sequence[str | Path],
    file: Path,
    differences: pd.DataFrame | str,
    *,
    subset: str = "",
    has_thumbnails: bool = True,
) -> Path:
    """Write one page of several runs next to each other.

    Raises:
        DataError: if a folder is no complete run of a probe, or has no such subset, or they have no
            target and subset in common.
        OutputError: if the page cannot be written.
    """
    several = [runs.read_run(folder) for folder in folders]
    key = _shown_first(several, subset)
    models = [str(curve_of(run).model.iloc[0]) for run in several]
    names = names_of(models, [run.folder for run in several])
    common = [comparison_section(names, differences)]
    stories = [_story(run, drawings(run), has_thumbnails) for run in several]
    return _write_page(page(stories, subset=key, common=common), file)


def _story(run: Run, drawn: Sequence[tuple[Plot, Drawing]], has_thumbnails: bool) -> Story:
    """What the page of a run shows."""
    if run.kind == "cut":
        return cut_story(run)
    facts: Mapping[str, Any] = run.facts
    untitled = next((title for name, title in UNTITLED.items() if run.has(name)), "A run")
    model = str(facts.get("model") or facts.get("settings", {}).get("model") or "")
    judged = [judge(run) for name, judge in CHECKS.items() if run.has(name)]
    story = Story(
        name=run.folder.resolve().name,
        title=model or untitled,
        finding=str(facts.get("finding", "")),
        question=question_of(run, model),
        checks=[
            *data_checks(facts),
            *(each for checks, _ in judged for each in checks),
            *network_checks(facts),
        ],
        warnings=[*(each for _, doubts in judged for each in doubts), *warnings_of(facts)],
        sections=sections_of(run, drawn),
        trust=trust(facts),
        kind="".join(str(facts.get("command", "")).split()[1:2]),
        written=str(facts.get("written", ""))[:10],
    )
    if run.has("curve"):
        by_name = {plot.name: drawing for plot, drawing in drawn}
        story = curve_story(run, story, by_name, has_thumbnails=has_thumbnails)
    return replace(story, sections=[*story.sections, *data_sections(run, has_thumbnails)])


def _shown_first(several: Sequence[Run], subset: str) -> str:
    """The first of what runs have in common that is of a subset, as the page names it.

    Raises:
        DataError: if a run has no such subset, or several have nothing in common.
    """
    for run in several:
        _check_subset(run, subset)
    keys = [keys_of(run) if run.has("curve") else {} for run in several]
    common = [key for key in keys[0] if all(key in other for other in keys)]
    if len(several) > 1 and not common:
        (one, other), (here, there) = several[:2], (_listed(list(each)) for each in keys[:2])
        raise DataError(
            f"The runs {str(one.folder)!r} and {str(other.folder)!r} have no curve in common: one "
            f"has {here}; the other {there}. Probe both with the same --target or --measure, or "
            "compare them with `scalecut compare`."
        )
    return next((key for key in common if subset and keys[0][key][1] == subset), "")


def _check_subset(run: Run, subset: str) -> None:
    if not subset:
        return
    has = list(dict.fromkeys(run.table("curve").subset)) if run.has("curve") else []
    if subset in has:
        return
    listed = f"It has {len(has)}: {_listed(has)}."
    advice = f"{listed} Give --subset one of them, or none." if has else "Leave --subset out."
    no_curve = "" if has else ", because it holds no curve"
    raise DataError(f"The run {str(run.folder)!r} has no subset {subset!r}{no_curve}. {advice}")


def _listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _write_figures(folder: Path, drawn: Mapping[str, Drawing]) -> list[Path]:
    paths = [folder / f"{name}.{kind}" for name in drawn for kind in ("png", "svg")]
    figures = {name: page_figure(drawing) for name, drawing in drawn.items()}
    with cache.explained(folder, runs.unwritable):
        if paths:
            folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            write_figure(figures[path.stem], path)
    return paths


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG; the same figure gives the same bytes."""
    undated = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context(STYLE):
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata=undated)


def _write_page(text: str, file: Path) -> Path:
    with cache.written(file, runs.unwritable) as part:
        part.write_text(text, encoding="utf-8")
    return file
