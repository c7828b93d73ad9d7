"""Results show themselves as a finding, a figure and a table; text of files stays text."""

import re

import numpy as np
import pandas as pd

from scalecut.cut.network import cut_after
from scalecut.figures.notebook import html_of
from tests.probing.test_curve import curve_of, made_up

IMAGE = '<img src="data:image/png;base64,'


def test_names_from_files_stay_text():
    shown = html_of("<script>found</script>", pd.DataFrame({"layer": ["<img onerror=x>"]}))
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;found" in shown


def test_curve_shows_its_finding_its_figure_and_a_row_a_layer():
    curve = curve_of(made_up(np.random.default_rng(0), [0.3, 0.8, 0.7, 0.5, 0.1]))
    shown = curve._repr_html_()
    assert curve.finding() in shown.replace("&#x27;", "'")
    assert shown.count(IMAGE) == 1
    (table,) = re.findall(r"<table.*</table>", shown, re.DOTALL)
    assert table.count("<tr>") == 5
    assert "0.8" in table


def test_cut_shows_its_layer_and_how_large_it_is():
    from tests.cut.test_network import Chain, network_of

    cut = cut_after(network_of(Chain), "blocks.1", head=3)
    shown = cut._repr_html_()
    n = sum(each.numel() for each in cut.parameters())
    for text in ("cut after blocks.1", f"<td>{n}</td>", f"<td>{cut.num_features}</td>"):
        assert text in shown
    assert shown.count(IMAGE) == 1
    cut.costs = None  # as read from a folder of before
    assert IMAGE not in cut._repr_html_()
