"""A result as HTML for a notebook: the finding, a figure, a table."""

import base64
import io
from html import escape

import pandas as pd
import PIL.Image
from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def html_of(
    finding: str, table: pd.DataFrame, figure: Figure | PIL.Image.Image | None = None
) -> str:
    """The HTML for Jupyter's `_repr_html_`; text is escaped, and nothing is fetched."""
    parts = [f"<p><b>{escape(finding)}</b></p>"]
    if figure is not None:
        stored = io.BytesIO()
        if isinstance(figure, Figure):
            figure.savefig(stored, format="png", dpi=DOTS_PER_INCH)
        else:
            figure.save(stored, format="png", optimize=True)
        source = base64.b64encode(stored.getvalue()).decode()
        parts.append(
            f'<img src="data:image/png;base64,{source}" style="width: 100%; max-width: 720px" '
            f'alt="{escape(finding)}">'
        )
    parts.append(table.to_html(index=False, border=0, float_format="{:.3g}".format, na_rep="–"))
    return "\n".join(parts)
