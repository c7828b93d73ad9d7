"""What a figure holds is read back and compared with the frame; no images are compared."""

import io
import math
from itertools import combinations, product

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from scalecut.errors import DataError
from scalecut.figures.curve import (
    combined_drawing,
    curve_drawing,
    exponential_drawing,
    learning_drawing,
    subset_drawing,
    width_drawing,
)
from scalecut.figures.drawing import STYLE, page_figure


def figure_of(drawing):
    """A function that returns the figure of a drawing."""
    return lambda *table, **chosen: page_figure(drawing(*table, **chosen))


curve_figure, exponential_figure = figure_of(curve_drawing), figure_of(exponential_drawing)
learning_figure, subset_figure = figure_of(learning_drawing), figure_of(subset_drawing)
width_figure = figure_of(width_drawing)

ALIASES = [*(f"mixed{number}" for number in range(11)), "pre_softmax", "softmax"]
INCEPTION = [*(f"Mixed_5{c}" for c in "bcd"), *(f"Mixed_6{c}" for c in "abcde")]
INCEPTION += ["Mixed_7a", "Mixed_7b", "Mixed_7c", "fc", "softmax"]
EFFICIENTNET = [f"blocks.{stage}.{block}" for stage in range(6) for block in range(3)] + ["fc"]
DENSENET = [
    f"features.denseblock{block}.denselayer{layer}"
    for block, layers in enumerate((6, 12, 24, 16), start=1)
    for layer in range(1, layers + 1)
]
RIDGE = [0.55, 0.56, 0.57, 0.66, 0.70, 0.73, 0.83, 0.82, 0.85, 0.80, 0.70, 0.55, 0.60]
# table A.2 of graziani2021
OLS = {
    ("pretrained", "true"): (
        [-0.72, -2.39, -3.12, 0.59, 0.69, 0.70, 0.79, 0.73, 0.84, 0.77, 0.54, -0.12, -3861]
    ),
    ("random", "true"): (
        [-283, -331, -14.4, -0.47, -0.41, -0.53, -0.54, -0.66, -0.06, 0.06, 0.08, -0.13, -0.13]
    ),
    ("pretrained", "shuffled"): (
        [-5.75, -20.1, -20.6, -1.81, -1.66, -1.68, -1.62, -1.45, -0.98, -0.73, -1.24, -3.9, -11077]
    ),
}
NAMED = {
    "pretrained": ("pretrained", "true"),
    "random weights": ("random", "true"),
    "shuffled target": ("pretrained", "shuffled"),
}
SUBSETS = {"dog": (430, 0.02), "cat": (420, -0.03), "horse": (314, 0.01), "mean": (388, 0.0)}


def rows(values, layers, aliases, regressor, weights="pretrained", target="true"):
    """One row per subset and layer, the subsets at a known distance from the mean."""
    for (subset, (n_images, offset)), (number, value) in product(
        SUBSETS.items(), enumerate(values)
    ):
        r2 = value + offset
        yield {
            "model": "some_net", "subset": subset, "measure": "area", "layer": layers[number],
            "alias": aliases[number], "depth": number / max(1, len(layers) - 1), "n_features": 9,
            "n_images": n_images, "weights": weights, "target": target, "regressor": regressor,
            "r2": r2, "r2_low": r2 - 0.04, "r2_high": r2 + 0.03, "p_value": 0.1, "seed_count": 10,
        }  # fmt: skip


def paper_like():
    table = []
    for (weights, target), values in OLS.items():
        table += rows(values, INCEPTION, ALIASES, "ols", weights, target)
    table += rows(RIDGE, INCEPTION, ALIASES, "ridge")
    table += rows(np.linspace(0.1, 0.3, 13), INCEPTION, ALIASES, "ridge", "random")
    table += rows(np.full(13, -0.01), INCEPTION, ALIASES, "ridge", target="shuffled")
    return pd.DataFrame(table)


def of_many_layers(layers):
    values, blank = 0.4 + 0.5 * np.sin(np.linspace(0, 3, len(layers))), [math.nan] * len(layers)
    table = [
        *rows(values, layers, blank, "ridge"),
        *rows(values / 4, layers, blank, "ridge", "random"),
    ]
    table += rows(0.5 - 40 * (values - 0.4), layers, blank, "ols")
    table += rows(-300 * values, layers, blank, "ols", "random")
    return pd.DataFrame(table)


@pytest.fixture
def frame():
    return paper_like()


def panels(figure):
    return [axes for axes in figure.axes if axes.get_ylabel()]


def strips(figure):
    return [axes for axes in figure.axes if not axes.get_ylabel()]


def drawn(axes, label):
    """The one line of that name."""
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return line


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(figure):
    return [text.get_text() for text in figure.axes[-1].get_xticklabels()]


def expected(frame, column="r2", subset="mean", regressor="ridge", label="pretrained"):
    wanted = dict(zip(["weights", "target"], NAMED[label], strict=True))
    wanted |= {"subset": subset, "regressor": regressor}
    chosen = frame[np.all([frame[name] == value for name, value in wanted.items()], axis=0)]
    return chosen.sort_values("depth")[column].to_numpy()


def placed(figure):
    """The rectangle of every text, as it is printed."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    written = list(figure.texts)
    for axes in figure.axes:
        written += [*axes.texts, axes.xaxis.label, axes.yaxis.label, axes._left_title]
        written += axes.get_xticklabels() + axes.get_yticklabels()
    # Text.get_window_extent: an annotation's own would take in the line to its point
    return [
        (text, matplotlib.text.Text.get_window_extent(text, renderer))
        for text in written
        if text.get_text()
    ]


def check_texts(figure):
    """Every text is on the page, and level ones do not touch."""
    boxes = placed(figure)
    page = figure.bbox
    outside = [
        text.get_text()
        for text, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1
    ]
    assert outside == []
    level = [(text, box) for text, box in boxes if text.get_rotation() == 0]
    touching = [
        (one.get_text(), other.get_text())
        for (one, here), (other, there) in combinations(level, 2)
        if here.shrunk(0.94, 0.6).overlaps(there.shrunk(0.94, 0.6))
    ]
    assert touching == []


def written(figure):
    page = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()


PIXELS = 0.17
EVIDENCE = {"peak": "Mixed_6e", "confidence_set": ("Mixed_6d", "Mixed_6e", "Mixed_7a")}
EVIDENCE |= {"fall_after": "Mixed_7b", "fall_first": "Mixed_7a", "fall_last": "Mixed_7c"}


def with_controls(layers=INCEPTION, aliases=ALIASES):
    """Ridge with every control, and matched width, pixels, n_fit and spread."""
    count = len(layers)
    values = np.linspace(0.3, 0.9, count)
    table = [
        *rows(values, layers, aliases, "ridge"),
        *rows(values - 0.1, layers, aliases, "matched"),
        *rows(values - 0.7, layers, aliases, "ols"),
        *rows(values / 4, layers, aliases, "ridge", "random"),
        *rows(values / 9, layers, aliases, "ridge", "permuted"),
        *rows(0 * values, layers, aliases, "ridge", "random", "shuffled"),
        *rows(0 * values, layers, aliases, "ridge", "permuted", "shuffled"),
    ]
    for target, value in (("true", PIXELS), ("shuffled", -0.02)):
        table += rows([value], ["pixels"], [""], "ridge", "pixels", target)
    frame = pd.DataFrame(table).assign(n_fit=100, r2_spread=math.nan)
    widths = {layer: 10 * 2**number for number, layer in enumerate(layers)}
    frame["n_features"] = frame["layer"].map(widths).fillna(32)
    return frame.assign(n_features=frame["n_features"].mask(frame["regressor"] == "matched", 32))


def bars(axes, name):
    """The stretches under a bar above the panel."""
    return [list(line.get_xdata()) for line in axes.get_lines() if line.get_label() == name]


def shades(axes):
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def of_numbers(numbers=(1200, 34, 300)):
    own = with_controls().query("weights == 'pretrained' and target == 'true'")
    each = [own.assign(n_fit=n, r2=own["r2"] - 3 / n, r2_low=math.nan) for n in numbers]
    return pd.concat(each, ignore_index=True)


def evidence_of(layers):
    layers = [layer for layer in layers if layer != "pixels"]
    keys = ("fall_after", "fall_first", "fall_last")
    fall = dict.fromkeys(keys, layers[-2] if len(layers) > 1 else None)
    return {"peak": layers[-1], "confidence_set": layers, **fall}


# --- lines ---------------------------------------------------------------------------------------


def test_lines_and_bands_are_the_numbers_of_the_frame(frame):
    for subset in ("mean", "cat"):
        figure = curve_figure(frame, subset=subset)
        for axes, regressor in zip(panels(figure), ["ridge", "ols"], strict=True):
            for label in NAMED:
                line = drawn(axes, label)
                np.testing.assert_array_equal(line.get_xdata(), range(13))
                values = expected(frame, "r2", subset, regressor, label)
                np.testing.assert_array_equal(line.get_ydata(), values)
    ridge = panels(curve_figure(frame))[0]
    for band, label in zip(ridge.collections, ["random weights", "pretrained"], strict=True):
        corners = band.get_paths()[0].vertices
        for layer in range(13):
            there = corners[corners[:, 0] == layer, 1]
            assert there.min() == expected(frame, "r2_low", label=label)[layer]
            assert there.max() == expected(frame, "r2_high", label=label)[layer]


def test_layers_are_ordered_by_depth_and_not_by_row_or_name(frame):
    turned = frame.sample(frac=1, random_state=3).assign(depth=1 - frame["depth"])
    assert ticks(curve_figure(turned)) == ALIASES[::-1]
    line = drawn(panels(curve_figure(turned))[0], "pretrained")
    np.testing.assert_array_equal(line.get_ydata(), RIDGE[::-1])


def test_layer_without_alias_has_its_own_name_even_if_that_is_a_number(frame):
    for blank in ("", math.nan, None):
        frame["alias"] = frame["alias"].where(frame["layer"] != "Mixed_6a", blank)
        assert curve_drawing(frame).places == [*ALIASES[:3], "Mixed_6a", *ALIASES[4:]]
    layers = [str(number) for number in range(6)]
    before = pd.DataFrame(rows(np.linspace(0, 1, 6), layers, [""] * 6, "ridge"))
    after = pd.read_csv(io.StringIO(before.to_csv(index=False)))
    assert after["layer"].dtype == np.int64
    assert curve_drawing(after).places == curve_drawing(before).places == layers


def test_peak_is_the_highest_value_of_the_first_regressor(frame):
    ridge, ols = panels(curve_figure(frame))
    assert drawn(ridge, "peak").get_xydata().tolist() == [[8, 0.85]]
    peaks = [[text for text in texts(axes) if "peak" in text] for axes in (ridge, ols)]
    assert peaks == [["peak: mixed8, R² 0.85"], []]
    (alone,) = panels(curve_figure(frame[frame["regressor"] == "ols"]))
    assert "peak: mixed8, R² 0.84" in texts(alone)
    frame.loc[(frame["layer"] == "Mixed_7a") & (frame["regressor"] == "ridge"), "r2"] = math.nan
    of_dogs = panels(curve_figure(frame, subset="dog"))[0]
    assert "peak: mixed6, R² 0.85" in texts(of_dogs)  # 0.83 on average and 0.02 more for dogs


def test_values_below_the_floor_are_marked_and_written_and_no_other(frame):
    figure = curve_figure(frame)
    (strip,) = strips(figure)
    for label, combination in NAMED.items():
        below = [layer for layer, value in enumerate(OLS[combination]) if value < -1]
        assert drawn(strip, label).get_xdata().tolist() == below
        assert drawn(strip, label).get_marker() == "v"
    assert texts(strip) == [
        "below −1",
        *("−2.4", "−3.1", "−3,861", "pretrained"),
        *("−283", "−331", "−14", "random weights"),
        *("−5.8", "−20", "−21", "−1.8", "−1.7", "−1.7", "−1.6", "−1.4", "−1.2", "−3.9", "−11k"),
        "shuffled target",
    ]
    ols = panels(figure)[1]
    assert -1.2 < ols.get_ylim()[0] < -1.0
    assert ols.get_position().y0 == pytest.approx(strip.get_position().y1)
    ridge = frame[frame["regressor"] == "ridge"].copy()
    for lowest, is_below in ((-1.0, False), (-1.001, True)):
        ridge.loc[(ridge["layer"] == "fc") & (ridge["subset"] == "mean"), "r2"] = lowest
        assert bool(strips(curve_figure(ridge))) == is_below


def test_zero_is_a_line_within_every_panel(frame):
    for axes in panels(curve_figure(frame)):
        assert set(drawn(axes, "zero").get_ydata()) == {0}
        assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]


def test_softmax_is_no_peak_unless_it_is_alone(frame):
    frame.loc[frame["layer"] == "softmax", "r2"] = 0.97
    for figure in (curve_figure(frame), subset_figure(frame)):
        assert "peak: mixed8, R² 0.85" in texts(panels(figure)[0])
    last = frame[frame["layer"].isin(["fc", "softmax"])]
    assert "peak: pre_softmax, R² 0.55" in texts(panels(curve_figure(last))[0])
    alone = frame[frame["layer"] == "softmax"]
    assert "peak: softmax, R² 0.97" in texts(panels(curve_figure(alone))[0])


def test_exponential_axis_shows_every_value_in_closed_form(frame):
    known = {1.0: 1.0, 0.0: 1 / math.e, -1.0: math.e**-2, -math.inf: 0.0}
    for place, r2 in enumerate(known):
        frame.loc[frame["layer"] == INCEPTION[place], "r2"] = r2
    figure = exponential_figure(frame)
    assert strips(figure) == []
    for axes in panels(figure):
        values = drawn(axes, "pretrained").get_ydata()[: len(known)]
        np.testing.assert_allclose(values, [*known.values()], atol=1e-15)
        assert drawn(axes, "zero").get_ydata()[0] == pytest.approx(1 / math.e)
        assert "R² = 0" in texts(axes)
        assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 1


def test_each_subset_is_a_line_and_the_mean_has_the_peak(frame):
    (axes,) = panels(subset_figure(frame))
    for subset in SUBSETS:
        values = expected(frame, subset=subset)
        np.testing.assert_array_equal(drawn(axes, subset).get_ydata(), values)
    assert {*SUBSETS, "peak: mixed8, R² 0.85"} == set(texts(axes))
    dogs = frame[frame["subset"] == "dog"]
    many = pd.concat([dogs.assign(subset=f"class {number}") for number in range(20)])
    (axes,) = panels(subset_figure(many))
    lines = [line for line in axes.get_lines() if line.get_label() != "zero"]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 20
    assert set(texts(axes)) == {f"class {number}" for number in range(20)}


def test_caption_names_measure_subset_and_n(frame):
    several, alone = frame, frame[frame["subset"] == "cat"]
    captions = [
        (curve_drawing(several), "mean of dog, cat, horse   ·   n = 388 images"),
        (curve_drawing(several, subset="horse"), "subset: horse   ·   n = 314 images"),
        (subset_drawing(several), "by subset   ·   n = 314 to 430 images"),
        (
            curve_drawing(frame[frame["subset"].isin(["cat", "mean"])]),
            "subset: cat   ·   n = 388 images",
        ),
        (curve_drawing(alone), "subset: cat   ·   n = 420 images"),
        (
            curve_drawing(with_controls(), subset="cat"),
            "subset: cat   ·   420 images, n = 100 for training",
        ),
    ]
    for drawing, caption in captions:
        assert drawing.heading == "some_net"
        assert drawing.caption == f"measure: area   ·   {caption}"


@pytest.mark.parametrize(
    "query",
    [
        "regressor == 'ols'",
        "weights == 'random' and target == 'shuffled' or layer == 'Mixed_7a'",
        "subset == 'mean' and (regressor == 'ridge' or layer != 'Mixed_6a')",
        "weights == 'pretrained' or layer < 'Mixed_6'",
    ],
)
def test_missing_combinations_are_not_drawn(frame, query):
    kept = frame.query(query)
    for figure in (curve_figure(kept), exponential_figure(kept), subset_figure(kept)):
        labels = {line.get_label() for axes in panels(figure) for line in axes.get_lines()}
        assert labels <= {*NAMED, *SUBSETS, "zero", "peak"}


def test_missing_values_are_gaps(frame):
    gone = (frame["regressor"] == "ridge") & (frame["layer"] == "Mixed_6a")
    values = drawn(panels(curve_figure(frame[~gone]))[0], "pretrained").get_ydata()
    assert np.flatnonzero(np.isnan(values)).tolist() == [3]
    empty = frame.assign(r2=math.nan, r2_low=math.nan, r2_high=math.nan)
    ridge = panels(curve_figure(empty))[0]
    assert np.isnan(drawn(ridge, "pretrained").get_ydata()).all()
    assert texts(ridge) == []
    ols = frame[frame["regressor"] == "ols"]
    low = panels(curve_figure(ols.assign(r2=-2.0)))[0]
    assert not [text for text in texts(low) if "peak" in text]  # it would be off the page
    peak = (ols["layer"] == EVIDENCE["peak"]) & (ols["weights"] == "pretrained")
    low = panels(curve_figure(ols.assign(r2=ols["r2"].mask(peak, -2.0)), evidence=EVIDENCE))[0]
    assert not [text for text in texts(low) if "peak:" in text]
    many = of_many_layers(DENSENET)
    many.loc[~many["layer"].isin([DENSENET[20]]), "r2"] = math.nan
    line = drawn(panels(curve_figure(many))[0], "pretrained")
    assert (line.get_marker(), line.get_markevery()) == ("o", [20])  # alone, and still seen


# --- controls and evidence -----------------------------------------------------------------------


def test_pixels_are_a_level_line_and_no_layer():
    frame = with_controls()
    figure = curve_figure(frame, subset="cat")
    line = drawn(panels(figure)[0], "pixels alone")
    assert ticks(figure) == ALIASES
    np.testing.assert_allclose(line.get_ydata(), PIXELS - 0.03)
    assert list(line.get_xdata()) == [-0.5, 12.5]
    frame.loc[frame["weights"] == "pixels", "r2"] = -2.6
    (strip,) = strips(curve_figure(frame))
    assert texts(strip) == ["below −1", "−2.6", "pixels alone"]  # written once


def test_each_control_is_a_line_that_differs_without_colour():
    ridge = panels(curve_figure(with_controls()))[0]
    known = ["pretrained", "random weights", "permuted weights", "pixels alone"]
    assert sorted(line.get_label() for line in ridge.get_lines()) == sorted(
        [*known, "peak", "zero"]
    )
    for label, divisor in (("random weights", 4), ("permuted weights", 9)):
        values = drawn(ridge, label).get_ydata()
        np.testing.assert_allclose(values, np.linspace(0.3, 0.9, 13) / divisor)
    assert len({str(drawn(ridge, label)._dash_pattern) for label in known}) == 4


def test_rows_of_matched_width_are_no_part_of_a_curve():
    frame = with_controls()
    without = frame[frame["regressor"] != "matched"]
    assert written(curve_figure(frame)) == written(curve_figure(without))
    assert written(subset_figure(frame)) == written(subset_figure(without))


def test_band_of_random_weights_covers_the_spread_of_the_networks():
    reaches = {0.01: 0.03, 0.5: 0.5, 14.0: 1 - 0.3 / 4, math.nan: 0.03}
    for spread, reach in reaches.items():
        ridge = panels(curve_figure(with_controls().assign(r2_spread=spread)))[0]
        random, pretrained = (band.get_paths()[0].vertices for band in ridge.collections)
        assert random[random[:, 0] == 0, 1].max() == pytest.approx(0.3 / 4 + reach)
        assert pretrained[pretrained[:, 0] == 0, 1].max() == pytest.approx(0.33)


def test_evidence_is_marked_above_the_first_panel_only():
    ridge, ols = panels(curve_figure(with_controls(), evidence=EVIDENCE))
    assert bars(ridge, "95 % set of the peak") == [[5.5, 8.5]]
    assert bars(ridge, "drop") == [[8, 11]]  # the step after mixed8 to the one after mixed10
    assert shades(ridge) == [(8, 11)]
    assert [9.5, 9.5] in [list(line.get_xdata()) for line in ridge.get_lines()]
    assert {"95 % set of the peak", "drop"} <= set(texts(ridge))
    assert drawn(ridge, "peak").get_xydata().tolist() == [[7, pytest.approx(0.65)]]
    assert not shades(ols)
    assert not bars(ols, "95 % set of the peak")
    # without evidence, the softmax is no candidate either
    assert "peak: pre_softmax, R² 0.85" in texts(panels(curve_figure(with_controls()))[0])


def test_set_with_a_gap_has_two_bars_and_no_drop_is_no_mark():
    evidence = EVIDENCE | {"confidence_set": ("Mixed_7a", "Mixed_5b", "Mixed_6e")}
    evidence |= {"fall_after": None, "fall_first": None, "fall_last": None}
    ridge = panels(curve_figure(with_controls(), evidence=evidence))[0]
    assert bars(ridge, "95 % set of the peak") == [[-0.5, 0.5], [6.5, 8.5]]
    assert "drop" not in texts(ridge)
    assert not shades(ridge)


# --- width and number of images ------------------------------------------------------------------


def test_width_figure_has_three_regressors_and_n_over_d_on_top():
    frame = with_controls()
    (axes,) = panels(width_figure(frame[frame["subset"] == "cat"]))
    for label, offset in (("ridge", 0), ("ridge, 32 components", -0.1), ("least squares", -0.7)):
        values = drawn(axes, label).get_ydata()
        np.testing.assert_allclose(values, np.linspace(0.3, 0.9, 13) - 0.03 + offset)
    ratios = ["10", "5.0", "2.5", "1.2", "0.6", "0.3", "0.2", "0.1"]
    assert [text for text in texts(axes) if text[0].isdigit()] == ratios + 5 * ["0.0"]
    assert "n/d" in texts(axes)
    assert shades(axes) == [(2.5, 4.5)]  # n/d is 1.25 and 0.625
    assert bars(axes, "n ≈ d: least squares interpolates noise") == [[2.5, 4.5]]
    (axes,) = panels(width_figure(frame[frame["regressor"] == "ridge"]))
    assert {line.get_label() for line in axes.get_lines()} == {"zero", "ridge"}
    assert not shades(axes)


def test_learning_figure_has_a_line_per_number_of_images_that_darkens_with_it():
    figure = learning_figure(of_numbers(), "dog")
    ridge, ols = panels(figure)
    for axes, offset in ((ridge, 0.02), (ols, -0.68)):
        for label, n in (("n = 34", 34), ("n = 300", 300), ("n = 1,200", 1200)):
            values = drawn(axes, label).get_ydata()
            np.testing.assert_allclose(values, np.linspace(0.3, 0.9, 13) + offset - 3 / n)
        assert len(axes.get_lines()) == 4
    colours = [drawn(ridge, f"n = {n}").get_color() for n in ("34", "300", "1,200")]
    light = [sum(matplotlib.colors.to_rgb(colour)) for colour in colours]
    assert light[0] > light[1] > light[2]
    assert figure.texts[1].get_text().endswith("n = 34 to 1,200 for training")
    alone = drawn(panels(learning_figure(of_numbers((50,))))[0], "n = 50")
    assert alone.get_color() == matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](1.0))


def test_learning_figure_of_several_targets_has_the_first_panel_of_each():
    area = of_numbers()
    age = of_numbers((40, 80)).query("regressor == 'ols'").assign(measure="age")
    drawing = learning_drawing(pd.concat([area, age], ignore_index=True))
    assert [panel.title for panel in drawing.panels] == [
        "area: Ridge regression, pretrained, fitted to n images",
        "age: Ordinary least squares, pretrained, fitted to n images",
    ]
    for panel, table in zip(drawing.panels, (area, age), strict=True):
        for line, alone in zip(panel.lines, learning_drawing(table).panels[0].lines, strict=True):
            np.testing.assert_array_equal(line.values, alone.values)
    figure = page_figure(drawing)
    assert figure.texts[1].get_text() == "2 targets   ·   n = 34 to 1,200 for training"
    check_texts(figure)


# --- text ----------------------------------------------------------------------------------------

FRAMES = {
    "inception": paper_like,
    "efficientnet": lambda: of_many_layers(EFFICIENTNET),
    "densenet": lambda: of_many_layers(DENSENET),
}
DRAWN = {
    "curve": curve_figure,
    "exponential": exponential_figure,
    "subsets": subset_figure,
    "evidence": lambda frame: curve_figure(
        frame[frame["regressor"] == "ridge"],
        evidence=evidence_of(list(dict.fromkeys(frame["layer"]))),
    ),
    "width": lambda frame: width_figure(frame.assign(n_fit=100)),
    "learning": lambda frame: learning_figure(
        pd.concat([frame.assign(n_fit=n) for n in (20, 40)], ignore_index=True)
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_text_is_on_the_page_and_level_ones_do_not_touch(name):
    check_texts(DRAWN[name](of_many_layers(DENSENET)))


@pytest.mark.slow
@pytest.mark.parametrize("layers", [["conv"], INCEPTION, EFFICIENTNET], ids=len)
@pytest.mark.parametrize("name", DRAWN)
def test_texts_of_other_networks_do_not_touch_either(name, layers):
    check_texts(DRAWN[name](with_controls(layers, [""] * len(layers))))
    if layers == INCEPTION:
        check_texts(DRAWN[name](paper_like()))


def test_many_layers_have_every_kth_name_ending_with_the_last():
    figure = curve_figure(of_many_layers(DENSENET))
    assert ticks(figure)[-1] == "…denseblock4.denselayer16"
    assert 10 <= len(ticks(figure)) <= 30
    axes = figure.axes[-1]
    marks = [*axes.get_xticks(), *axes.get_xticks(minor=True)]
    assert sorted(marks) == list(range(len(DENSENET)))
    at = axes.transData.transform([(tick, 0) for tick in axes.get_xticks()])[:, 0]
    across = np.diff(at) * 72 / figure.dpi * math.sin(math.pi / 4)
    assert across.min() >= axes.get_xticklabels()[0].get_fontsize()
    few = pd.DataFrame(rows([0.1, 0.9], ["a", "b"], ["", ""], "ridge"))
    assert {text.get_rotation() for text in curve_figure(few).axes[-1].get_xticklabels()} == {0}


@pytest.mark.parametrize("name", FRAMES)
def test_type_is_large_enough_for_a_talk(name):
    figure = curve_figure(FRAMES[name]())
    assert figure.get_figwidth() == 10
    for text, _ in placed(figure):
        digits = text.get_text().lstrip("−").replace(",", "").rstrip("k").replace(".", "")
        on_strip = text.axes in strips(figure) and not isinstance(text, Annotation)
        assert text.get_fontsize() >= (10 if digits.isdigit() and on_strip else 11)


def test_dollar_signs_in_names_are_printed_as_they_are(frame):
    priced = frame.assign(model="net $a$", subset=frame["subset"].replace("dog", "$x$"))
    figure = curve_figure(priced, subset="$x$")
    assert "subset: $x$" in figure.texts[1].get_text()
    assert not any(text.get_parse_math() for text in figure.texts)


def test_frame_and_settings_of_matplotlib_are_left_as_found(frame):
    frame = frame.assign(n_fit=70)
    before, settings = frame.copy(), dict(matplotlib.rcParams)
    for draws in (curve_figure, width_figure, learning_figure):
        draws(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert dict(matplotlib.rcParams) == settings
    assert written(curve_figure(frame)) == written(curve_figure(frame))  # the same bytes


NO_ROWS = (
    "none of them of the regressors ridge or ols. Run `scalecut probe` again with --regressor "
    "ridge or ols."
)
ELSEWHERE = (
    "The evidence names the layer 'conv9', but the curve has 13 others, 'Mixed_5b' to 'softmax'. "
    "Give the evidence of the same curve."
)
COLUMN = (
    "The curve lacks {} of the columns that a figure needs, the first is {!r}. Give the frame of "
    "a Curve, or a curve.csv as scalecut wrote it."
)
SEVERAL = "The curve has 2 {0}s, {1!r} and {2!r} first; a figure shows one. Choose it with "
REFUSED = [
    (lambda f: curve_drawing(f.drop(columns=["r2_high", "alias"])), COLUMN.format(2, "alias")),
    (width_drawing, COLUMN.format(1, "n_fit")),
    (learning_drawing, COLUMN.format(1, "n_fit")),
    (lambda f: curve_drawing(f.iloc[:0]), f"The curve has 0 rows, {NO_ROWS}"),
    (lambda f: curve_drawing(f.assign(regressor="lasso")), f"The curve has 312 rows, {NO_ROWS}"),
    (
        lambda f: curve_drawing(f.assign(weights="pixels")),
        f"The curve has 312 rows, {NO_ROWS}",
    ),
    (
        lambda f: curve_drawing(pd.concat([f, f.assign(model="other_net")])),
        SEVERAL.format("model", "some_net", "other_net") + "frame[frame.model == 'some_net'].",
    ),
    (
        lambda f: curve_drawing(pd.concat([f, f.assign(measure="height")])),
        SEVERAL.format("measure", "area", "height") + "frame[frame.measure == 'area'].",
    ),
    (
        lambda f: curve_drawing(f[f["subset"] != "mean"]),
        "The curve has no subset 'mean'. It has 3: dog, cat, horse. Choose one of them.",
    ),
    (
        lambda f: curve_drawing(
            pd.concat([f[f.subset == "dog"].assign(subset=f"s{number}") for number in range(10)]),
            subset="zebra",
        ),
        "The curve has no subset 'zebra'. It has 10: s0, s1, s2, s3, s4, s5, s6, s7, …. Choose one "
        "of them.",
    ),
    *(
        (lambda f, key=key, layer=layer: curve_drawing(f, evidence=EVIDENCE | {key: layer}),
         ELSEWHERE)
        for key, layer in {
            "peak": "conv9", "confidence_set": ("conv9",), "fall_after": "conv9",
            "fall_first": "conv9", "fall_last": "conv9",
        }.items()
    ),
]  # fmt: skip


def test_frame_that_cannot_be_drawn_is_refused_with_the_remedy(frame):
    for draw, text in REFUSED:
        with pytest.raises(DataError) as error:
            draw(frame)
        assert str(error.value) == text


# --- all layers together -------------------------------------------------------------------------


def test_layers_together_are_drawn_next_to_each_alone_without_the_softmax():
    layers = ["a", "b", "softmax"]
    rows = [
        {
            **dict.fromkeys(("model", "subset", "measure"), "mean"),
            "layer": layer,
            "alias": "",
            "measure": "area",
            "weights": "pretrained",
            "target": "true",
            "regressor": regressor,
            "depth": number / 2,
            "n_images": 40,
            "n_fit": 28,
            "r2": value,
            "r2_low": value - 0.1,
            "r2_high": value + 0.1,
        }
        for regressor, add in (("ridge", 0.0), ("ols", -0.3))
        for number, (layer, value) in enumerate(zip(layers, (0.3 + add, 0.6, 0.9), strict=True))
    ]
    together = pd.DataFrame(
        {
            "subset": ["mean", "mean", "cat"],
            "measure": "area",
            "up_to": ["a", "b", "a"],
            "score": [0.3, 0.7, 0.1],
            "score_low": [0.2, 0.6, 0.0],
            "score_high": [0.4, 0.8, 0.2],
        }
    )
    drawing = combined_drawing(pd.DataFrame(rows), together)
    assert drawing.places == ["a", "b"]
    joined, alone = drawing.panels[0].lines
    assert joined.values.tolist() == [0.3, 0.7]
    assert (joined.low.tolist(), joined.high.tolist()) == ([0.2, 0.6], [0.4, 0.8])
    assert alone.values.tolist() == [0.3, 0.6]
    assert (drawing.panels[0].peak.at, drawing.panels[0].peak.line) == (1, alone)
    page_figure(drawing)
