"""Results show themselves as a finding, a figure and a table; text of files stays text."""

import re

import pandas as pd

from scalecut.cut.network import cut_after
from scalecut.figures.notebook import html_of
from tests.builders import planted
from tests.report.builders import LAYERS, curve

IMAGE = '<img src="data:image/png;base64,'


def test_names_from_files_stay_text():
    shown = html_of("<script>found</script>", pd.DataFrame({"layer": ["<img onerror=x>"]}))
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;found" in shown


def test_curve_shows_its_finding_its_figure_and_a_row_per_layer():
    found = curve()
    shown = found._repr_html_()
    assert found.finding() in shown.replace("&#x27;", "'")
    assert shown.count(IMAGE) == 1
    (table,) = re.findall(r"<table.*</table>", shown, re.DOTALL)
    assert table.count("<tr>") == len(LAYERS)
    assert f"{found.scores().r2.iloc[0]:.3g}" in table


def test_cut_shows_its_layer_and_how_large_it_is():
    cut = cut_after(planted(), "area")
    shown = cut._repr_html_()
    n = sum(each.numel() for each in cut.parameters())
    for text in ("cut after area", f"<td>{n}</td>", f"<td>{cut.num_features}</td>"):
        assert text in shown
    assert shown.count(IMAGE) == 1
    cut.costs = None  # as read from a folder of an earlier version
    assert IMAGE not in cut._repr_html_()
