"""The figures and the page of a run, made from its tables and facts alone.

Everything is drawn once: a figure is saved as PNG and SVG, and the page draws the same `Drawing`.
What a table becomes is registered by its name, in `sections`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

from .. import runs
from ..errors import DataError, OutputError
from ..figures.curve import STYLE
from ..figures.drawing import Drawing, page_figure
from ..runs import Run
from .page import Story, page
from .sections import (
    FIGURES,
    SECTIONS,
    Plot,
    comparison_section,
    curve_story,
    cut_story,
    few_facts,
    names_of,
    plain_section,
    saving_section,
    trust,
)

PAGE = "report.html"
DOTS_PER_INCH = 200


def save(
    tables: Mapping[str, pd.DataFrame],
    facts: Mapping[str, object],
    folder: str | Path,
    *,
    command: str = "",
    write: Callable[[Path], None] | None = None,
) -> Path:
    """Write a result as a run folder: `run.json`, tables, figures and page. Complete or absent.

    Args:
        tables: by name.
        facts: of `run.json`.
        command: as it was typed, or empty.
        write: is given the folder before figures are drawn, and writes what is no table.

    Raises:
        OutputError: if `folder` exists and holds no run, or cannot be written.
    """
    folder = Path(folder)
    with runs.new_run(folder) as made:
        runs.write_run(made, tables, facts, command=command)
        if write is not None:
            write(made)
        render(made)
    return folder


def render(
    folder: str | Path, *, subset: str = "", has_thumbnails: bool = True
) -> tuple[Path, list[Path]]:
    """Write the page of a run, or of a cut, and its figures; the same tables give the same bytes.

    Args:
        subset: shown first; the mean over subsets by default.
        has_thumbnails: whether the page holds small copies of the images.

    Returns:
        The page, and the figures.

    Raises:
        DataError: if the folder is no complete run, or has no such subset.
        OutputError: if a file cannot be written.
    """
    run = opened(folder)
    drawn = drawings(run)
    paths = _write_figures(run.folder / "figures", {plot.name: d for plot, d in drawn})
    story = _story(run, drawn, subset, has_thumbnails)
    return _write_page(page([story], subset=subset), run.folder / PAGE), paths


def write_comparison(
    folders: Sequence[str | Path],
    file: Path,
    differences: pd.DataFrame | str,
    *,
    subset: str = "",
    has_thumbnails: bool = True,
) -> Path:
    """Write one page of several runs next to each other.

    Args:
        differences: of the two curves, as `compare_curves` gives them, or why there are none.

    Raises:
        DataError: if a folder is no complete run of a probe, or has no such subset.
        OutputError: if the page cannot be written.
    """
    several = [runs.read_run(folder) for folder in folders]
    common = [comparison_section(names_of(several), differences)]
    stories = [_story(run, drawings(run), subset, has_thumbnails) for run in several]
    return _write_page(page(stories, subset=subset, common=common), file)


def opened(folder: str | Path) -> Run:
    """A run, or the folder of a cut network.

    Raises:
        DataError: if it is neither.
    """
    folder = Path(folder)
    is_cut = (folder / runs.MARKS["cut"]).is_file() and not (folder / runs.MARKS["run"]).is_file()
    return runs.read_run(folder, "cut" if is_cut else "run")


def drawings(run: Run) -> list[tuple[Plot, Drawing]]:
    """Every figure that the tables of a run give, in the order of the registry."""
    made = ((plot, plot.draw(run)) for name in FIGURES if run.has(name) for plot in FIGURES[name])
    return [(plot, drawing) for plot, drawing in made if drawing is not None]


def _story(
    run: Run, drawn: Sequence[tuple[Plot, Drawing]], subset: str, has_thumbnails: bool
) -> Story:
    """What the page of a run shows."""
    if run.kind == "cut":
        return cut_story(run)
    _check_subset(run, subset)
    sections = [plot.section(drawing) for plot, drawing in drawn if plot.title]
    by_name = {plot.name: drawing for plot, drawing in drawn}
    for name in SECTIONS:
        if run.has(name):
            sections += SECTIONS[name](run, by_name)
    known = {*FIGURES, *SECTIONS}
    sections += [plain_section(run, name) for name in run.names() if name not in known]
    if not run.has("paper"):  # whose cuts are steps, with pages of their own
        cuts = sorted(run.folder.glob(f"*/{runs.MARKS['cut']}"))
        sections += [saving_section(runs.read_run(path.parent, "cut")) for path in cuts]
    facts: Mapping[str, Any] = run.facts
    story = Story(
        name=run.folder.resolve().name,
        title=str(facts.get("model") or facts.get("settings", {}).get("model") or "A run"),
        finding=str(facts.get("finding", "")),
        facts=few_facts(facts),
        sections=sections,
        trust=trust(facts),
        kind="".join(str(facts.get("command", "")).split()[1:2]),
    )
    return curve_story(run, story, has_thumbnails) if run.has("curve") else story


def _check_subset(run: Run, subset: str) -> None:
    if not subset:
        return
    has = list(dict.fromkeys(run.table("curve").subset)) if run.has("curve") else []
    if subset not in has:
        listed = f"It has {len(has)}: {', '.join(has[:8])}{', …' if len(has) > 8 else ''}."
        raise DataError(
            f"The run {str(run.folder)!r} has no subset {subset!r}. "
            f"{listed if has else 'It has no curve.'} Give --subset one of them, or none."
        )


def _write_figures(folder: Path, drawn: Mapping[str, Drawing]) -> list[Path]:
    paths = [folder / f"{name}.{kind}" for name in drawn for kind in ("png", "svg")]
    figures = {name: page_figure(drawing) for name, drawing in drawn.items()}
    try:
        if paths:
            folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            for path in paths:
                undated = {"Date": None} if path.suffix == ".svg" else {}
                figures[path.stem].savefig(path, dpi=DOTS_PER_INCH, metadata=undated)
    except OSError as error:
        raise OutputError(runs.unwritable(folder, error)) from error
    return paths


def _write_page(text: str, file: Path) -> Path:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(runs.unwritable(file, error)) from error
    return file
