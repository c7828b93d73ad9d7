"""Figures of a transfer hold what the tables say."""

import numpy as np
import pandas as pd
import pytest

from scalecut.errors import DataError
from scalecut.figures.drawing import page_figure
from scalecut.figures.pathology import calibration_drawing, recall_drawing, sweep_drawing

LAYERS = ["blocks.0", "blocks.1", "blocks.2", "pooled"]
FACTS = {
    "settings": {"model": "a_network"},
    "transfer": {"task": "area", "mode": "frozen", "seeds": 10},
    "layers": {"cut": "blocks.1"},
    "n_test": 24,
    "n_tiles": 3,
    "agreement": [{"metric": "kappa", "rho": 0.8, "low": -0.21, "high": 0.94}],
}


def swept(r2=0.5):
    rng = np.random.default_rng(0)
    rows = []
    for metric in ("mae", "octaves", "kappa", "kappa_quadratic"):
        for layer in LAYERS:
            value = rng.uniform(0.2, 0.8)
            rows.append(
                (layer, "", metric, value, value - 0.1, value + 0.1, r2, r2 - 0.1, r2 + 0.1)
            )
    columns = ["layer", "alias", "metric", "value", "low", "high", "r2", "r2_low", "r2_high"]
    return pd.DataFrame(rows, columns=columns)


def lines_of(drawing, panel=0):
    return {line.look.label: line for line in drawing.panels[panel].lines}


def test_sweep_shows_scores_with_their_intervals_above_the_curve_of_the_probe():
    table = swept()
    drawing = sweep_drawing(table, FACTS)
    assert drawing.places == LAYERS
    for panel, metric in enumerate(("kappa", "mae")):
        (line,) = drawing.panels[panel].lines
        own = table[table.metric == metric]
        np.testing.assert_array_equal(line.values, own.value)
        np.testing.assert_array_equal(line.low, own.low)
        np.testing.assert_array_equal(line.high, own.high)
    (probe,) = drawing.panels[2].lines
    assert set(probe.values) == {0.5}
    titles = [panel.title for panel in drawing.panels]
    assert (
        titles[0]
        == "Agreement with the true magnification; rank correlation with R² 0.80 [−0.21, 0.94]"
    )
    assert titles[1:] == ["Error", "Object scale in natural images, by the probe"]
    (mark,) = drawing.panels[0].marks
    assert (mark.name, mark.spans) == ("cut at blocks.1", ((0.5, 1.5),))
    assert "24 test patches of 3 tiles, 10 fits" in drawing.caption
    page_figure(drawing)


def test_without_a_probe_the_sweep_has_no_third_panel():
    assert len(sweep_drawing(swept(np.nan), FACTS | {"agreement": None}).panels) == 2


def calibrated(task="area"):
    truth = [50.0, 100.0, 200.0] if task == "area" else np.log2([10.0, 20.0, 40.0])
    rows = [
        (name, "x", group, t, t + offset, t + offset - 1, t + offset + 1, 8)
        for name, offset in (("pretrained", 0.5), ("cut", 0.1), ("sweep", 9.0))
        for group, t in enumerate(truth)
    ]
    columns = ["contestant", "layer", "group", "truth", "predicted", "low", "high", "n_test"]
    return pd.DataFrame(rows, columns=columns)


def test_calibration_has_a_line_per_method_and_one_for_the_truth():
    drawing = calibration_drawing(calibrated(), FACTS)
    found = lines_of(drawing)
    assert set(found) == {"truth", "pretrained", "cut"}
    np.testing.assert_allclose(found["truth"].values, [50, 100, 200])
    np.testing.assert_allclose(found["cut"].values, [50.1, 100.1, 200.1])
    assert drawing.places == ["50 px", "100 px", "200 px"]
    page_figure(drawing)
    facts = FACTS | {"transfer": {"task": "magnification", "mode": "frozen", "seeds": 2}}
    drawing = calibration_drawing(calibrated("magnification"), facts)
    assert drawing.places == ["10X", "20X", "40X"]
    np.testing.assert_allclose(lines_of(drawing)["truth"].values, np.log2([10, 20, 40]))
    page_figure(drawing)


def test_recall_is_by_magnification_with_chance_named():
    rows = [
        (name, "x", magnification, share, 0.1)
        for name, share in (("pretrained", 0.25), ("cut", 0.5))
        for magnification in (10.0, 20.0, 40.0, 12.5)
    ]
    table = pd.DataFrame(
        rows, columns=["contestant", "layer", "magnification", "recall", "recall_sd"]
    )
    drawing = recall_drawing(table, FACTS)
    assert drawing.places == ["10X", "20X", "40X", "12.5X"]
    assert drawing.panels[0].scale.named == {0.25: "chance"}
    assert set(lines_of(drawing)["cut"].values) == {0.5}
    page_figure(drawing)


def test_table_without_its_columns_is_refused():
    with pytest.raises(DataError) as error:
        sweep_drawing(swept().drop(columns="r2"), FACTS)
    assert str(error.value) == (
        "The sweep.csv lacks 1 of the columns that a figure needs, the first is 'r2'. Give the "
        "table of the run as scalecut wrote it."
    )
