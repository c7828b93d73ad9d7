"""What a run folder shows: its figures. Draws what is in the tables, computes nothing."""

from pathlib import Path

import matplotlib
import pandas as pd

from .errors import OutputError
from .figures import STYLE, curve_figure, exponential_figure, subset_figure, subsets_of

DOTS_PER_INCH = 200


def draw(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every figure as PNG and SVG, and give the paths; the same frame gives the same bytes.

    Raises:
        OutputError: if the folder or a file in it cannot be written.
    """
    figures = {"curve": curve_figure(frame), "curve_exponential": exponential_figure(frame)}
    if len(subsets_of(frame)) > 1:
        figures["subsets"] = subset_figure(frame)
    paths = [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    try:
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
