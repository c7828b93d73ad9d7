"""What a run folder shows, on disk: its figures and its page."""

from pathlib import Path

import matplotlib

from ..errors import OutputError
from ..figures.curve import STYLE
from ..figures.drawing import page_figure
from .page import page
from .story import PAGE, compared, drawings, story_of

DOTS_PER_INCH = 200


def draw(run: Path) -> list[Path]:
    """Write every figure of a run into `figures`, as PNG and SVG, and give the paths.

    The same tables give the same bytes.

    Raises:
        DataError: if the folder is no whole run.
        OutputError: if the folder or a file in it cannot be written.
    """
    figures = {name: page_figure(drawing) for name, drawing in drawings(run)}
    folder = run / "figures"
    paths = [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    try:
        if paths:
            folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            for path in paths:
                undated = {"Date": None} if path.suffix == ".svg" else {}
                figures[path.stem].savefig(path, dpi=DOTS_PER_INCH, metadata=undated)
    except OSError as error:
        raise OutputError(
            f"The figures cannot be written to {str(folder)!r} ({error.strerror or error}). They "
            "need a folder that can be written to and has space left; choose one with --out."
        ) from error
    return paths


def write_page(run: Path, *, subset: str = "", has_thumbnails: bool = True) -> Path:
    """Write the page of a run, or of a cut, into its folder as `report.html`.

    Args:
        subset: shown first; the mean over subsets by default.
        has_thumbnails: whether photographs stand in the page, made from the files where they lie.

    Raises:
        DataError: if the folder is no whole run, or has no such subset.
        OutputError: if the page cannot be written.
    """
    story = story_of(run, subset=subset, has_thumbnails=has_thumbnails)
    return _written(page([story], subset=subset), run / PAGE)


def write_comparison(
    one: Path, other: Path, file: Path, *, subset: str = "", has_thumbnails: bool = True
) -> Path:
    """Write one page of two runs side by side, with their differences where these are paired.

    Raises:
        DataError: if a folder is no whole run of a probe, or has no such subset.
        OutputError: if the page cannot be written.
    """
    common = [compared(one, other)]
    stories = [story_of(run, subset=subset, has_thumbnails=has_thumbnails) for run in (one, other)]
    return _written(page(stories, subset=subset, common=common), file)


def _written(text: str, file: Path) -> Path:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"The page cannot be written to {str(file)!r} ({error.strerror or error}). It needs a "
            "folder that can be written to and has space left."
        ) from error
    return file
