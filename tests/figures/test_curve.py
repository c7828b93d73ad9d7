"""What a figure holds is read back and compared with the frame; no pictures are compared."""

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
    curve_drawing,
    exponential_drawing,
    learning_drawing,
    subset_drawing,
    width_drawing,
)
from scalecut.figures.drawing import STYLE, page_figure


def figure_of(drawing):
    """The function that gives a drawing, as one that draws it."""
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
    "shuffled measure": ("pretrained", "shuffled"),
}
SUBSETS = {"dog": (430, 0.02), "cat": (420, -0.03), "horse": (314, 0.01), "mean": (388, 0.0)}


def rows(values, layers, aliases, regressor, weights="pretrained", target="true"):
    """One row a subset and layer, the subsets a known distance from the mean."""
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


@pytest.mark.parametrize("label", NAMED)
@pytest.mark.parametrize("subset", ["mean", "cat"])
def test_lines_are_the_numbers_of_the_frame(frame, subset, label):
    figure = curve_figure(frame, subset=subset)
    for axes, regressor in zip(panels(figure), ["ridge", "ols"], strict=True):
        line = drawn(axes, label)
        np.testing.assert_array_equal(line.get_xdata(), range(13))
        np.testing.assert_array_equal(
            line.get_ydata(), expected(frame, "r2", subset, regressor, label)
        )


def test_band_spans_the_interval_of_pretrained_and_random_and_there_is_no_other(frame):
    ridge = panels(curve_figure(frame))[0]
    assert len(ridge.collections) == 2
    for band, label in zip(ridge.collections, ["random weights", "pretrained"], strict=True):
        corners = band.get_paths()[0].vertices
        for layer in range(13):
            there = corners[corners[:, 0] == layer, 1]
            assert there.min() == expected(frame, "r2_low", label=label)[layer]
            assert there.max() == expected(frame, "r2_high", label=label)[layer]


def test_layers_stand_by_depth_and_not_by_row_or_name(frame):
    turned = frame.sample(frac=1, random_state=3).assign(depth=1 - frame["depth"])
    assert ticks(curve_figure(turned)) == ALIASES[::-1]
    line = drawn(panels(curve_figure(turned))[0], "pretrained")
    np.testing.assert_array_equal(line.get_ydata(), RIDGE[::-1])


@pytest.mark.parametrize("blank", ["", math.nan, None])
def test_layer_without_alias_is_called_by_its_own_name(frame, blank):
    frame["alias"] = frame["alias"].where(frame["layer"] != "Mixed_6a", blank)
    assert ticks(curve_figure(frame)) == [*ALIASES[:3], "Mixed_6a", *ALIASES[4:]]


def test_numbers_as_layer_names_survive_a_csv():
    layers = [str(number) for number in range(6)]
    before = pd.DataFrame(rows(np.linspace(0, 1, 6), layers, [""] * 6, "ridge"))
    after = pd.read_csv(io.StringIO(before.to_csv(index=False)))
    assert after["layer"].dtype == np.int64
    assert ticks(curve_figure(after)) == ticks(curve_figure(before)) == layers


def test_peak_is_the_highest_ridge_value_of_the_pretrained_network(frame):
    ridge, ols = panels(curve_figure(frame))
    assert [text for text in texts(ridge) if "peak" in text] == ["peak: mixed8, R² 0.85"]
    assert drawn(ridge, "peak").get_xydata().tolist() == [[8, 0.85]]
    assert not [text for text in texts(ols) if "peak" in text]


def test_peak_is_of_the_subset_that_is_shown_and_passes_over_missing_values(frame):
    frame.loc[(frame["layer"] == "Mixed_7a") & (frame["regressor"] == "ridge"), "r2"] = math.nan
    ridge = panels(curve_figure(frame, subset="dog"))[0]
    assert "peak: mixed6, R² 0.85" in texts(ridge)  # 0.83 on average and 0.02 more for dogs


def test_peak_is_marked_under_least_squares_only_if_there_is_no_ridge(frame):
    (ols,) = panels(curve_figure(frame[frame["regressor"] == "ols"]))
    assert "peak: mixed8, R² 0.84" in texts(ols)


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
        "shuffled measure",
    ]
    ols = panels(figure)[1]
    assert -1.1 < ols.get_ylim()[0] < -1.0
    assert ols.get_position().y0 == pytest.approx(strip.get_position().y1)


@pytest.mark.parametrize(("lowest", "is_below"), [(-0.999, False), (-1.0, False), (-1.001, True)])
def test_strip_is_there_only_if_a_value_is_below_the_floor(frame, lowest, is_below):
    frame = frame[frame["regressor"] == "ridge"].copy()
    frame.loc[(frame["layer"] == "fc") & (frame["subset"] == "mean"), "r2"] = lowest
    assert bool(strips(curve_figure(frame))) == is_below


def test_zero_is_a_line_within_every_panel(frame):
    for axes in panels(curve_figure(frame)):
        assert set(drawn(axes, "zero").get_ydata()) == {0}
        assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]


@pytest.mark.parametrize(
    ("r2", "shown"), [(1.0, 1.0), (0.0, 1 / math.e), (-1.0, math.e**-2), (-math.inf, 0.0)]
)
def test_exponential_axis_at_values_known_in_closed_form(frame, r2, shown):
    frame.loc[frame["layer"] == "Mixed_6a", "r2"] = r2
    for axes in panels(exponential_figure(frame)):
        assert drawn(axes, "pretrained").get_ydata()[3] == pytest.approx(shown, abs=1e-15)


def test_exponential_axis_shows_everything_and_says_where_zero_is(frame):
    figure = exponential_figure(frame)
    assert strips(figure) == []
    for axes in panels(figure):
        assert drawn(axes, "zero").get_ydata()[0] == pytest.approx(1 / math.e)
        assert "R² = 0" in texts(axes)
        assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 1
    assert "peak: mixed8, R² 0.85" in texts(panels(figure)[0])


def test_subsets_are_lines_of_their_own_and_the_mean_has_the_peak(frame):
    (axes,) = panels(subset_figure(frame))
    for subset in SUBSETS:
        line = drawn(axes, subset)
        np.testing.assert_array_equal(line.get_ydata(), expected(frame, subset=subset))
    assert {"dog", "cat", "horse", "mean", "peak: mixed8, R² 0.85"} == set(texts(axes))


def test_twenty_subsets_look_different_and_are_all_named(frame):
    dogs = frame[frame["subset"] == "dog"]
    many = pd.concat([dogs.assign(subset=f"class {number}") for number in range(20)])
    (axes,) = panels(subset_figure(many))
    lines = [line for line in axes.get_lines() if line.get_label() != "zero"]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 20
    assert set(texts(axes)) == {f"class {number}" for number in range(20)}


def test_lines_of_a_curve_differ_without_colour(frame):
    for axes in panels(curve_figure(frame)):
        dashes = [drawn(axes, label).get_linestyle() for label in NAMED]
        assert dashes == ["-", "--", ":"]


@pytest.mark.parametrize(
    ("subset", "caption"),
    [
        ("mean", "measure: area   ·   mean of dog, cat, horse   ·   n = 388 images"),
        ("horse", "measure: area   ·   subset: horse   ·   n = 314 images"),
    ],
)
def test_heading_names_model_measure_subset_and_n(frame, subset, caption):
    heading = [text.get_text() for text in curve_figure(frame, subset=subset).texts]
    assert heading == ["some_net", caption]


def test_heading_gives_the_range_of_n_over_subsets(frame):
    heading = [text.get_text() for text in subset_figure(frame).texts]
    assert heading[1] == "measure: area   ·   by subset   ·   n = 314 to 430 images"


def test_mean_of_one_subset_is_named_after_it(frame):
    alone = frame[frame["subset"].isin(["cat", "mean"])]
    assert "subset: cat" in curve_figure(alone).texts[1].get_text()
    without_mean = frame[frame["subset"] == "cat"]
    figure = curve_figure(without_mean)
    assert "subset: cat" in figure.texts[1].get_text()
    np.testing.assert_array_equal(
        drawn(panels(figure)[0], "pretrained").get_ydata(), expected(frame, subset="cat")
    )


@pytest.mark.parametrize(
    "query",
    [
        "regressor == 'ridge'",
        "regressor == 'ols'",
        "weights == 'pretrained'",
        "weights == 'random'",
        "target == 'true'",
        "target == 'shuffled'",
        "subset == 'mean'",
        "layer == 'Mixed_7a'",
        "regressor == 'ridge' or layer != 'Mixed_6a'",
        "weights == 'pretrained' or layer < 'Mixed_6'",
    ],
)
def test_missing_combinations_are_left_out(frame, query):
    kept = frame.query(query)
    for figure in (curve_figure(kept), exponential_figure(kept), subset_figure(kept)):
        labels = {line.get_label() for axes in panels(figure) for line in axes.get_lines()}
        assert labels <= {*NAMED, *SUBSETS, "zero", "peak"}
        figure.savefig(io.BytesIO(), format="svg")


def test_missing_layer_leaves_a_gap(frame):
    gone = (frame["regressor"] == "ridge") & (frame["layer"] == "Mixed_6a")
    values = drawn(panels(curve_figure(frame[~gone]))[0], "pretrained").get_ydata()
    assert np.flatnonzero(np.isnan(values)).tolist() == [3]


def test_value_alone_among_many_missing_is_still_seen():
    frame = of_many_layers(DENSENET)
    frame.loc[~frame["layer"].isin([DENSENET[20]]), "r2"] = math.nan
    line = drawn(panels(curve_figure(frame))[0], "pretrained")
    assert line.get_marker() == "o"
    assert line.get_markevery() == [20]


def test_nothing_but_missing_values_is_drawn_empty(frame):
    empty = frame.assign(r2=math.nan, r2_low=math.nan, r2_high=math.nan)
    ridge = panels(curve_figure(empty))[0]
    assert np.isnan(drawn(ridge, "pretrained").get_ydata()).all()
    assert texts(ridge) == []


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


FRAMES = {"inception": paper_like, "efficientnet": lambda: of_many_layers(EFFICIENTNET)}
FRAMES["densenet"] = lambda: of_many_layers(DENSENET)


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


@pytest.mark.parametrize("draws", [curve_figure, exponential_figure, subset_figure])
@pytest.mark.parametrize("name", FRAMES)
def test_every_text_is_on_the_page_and_level_ones_do_not_touch(name, draws):
    check_texts(draws(FRAMES[name]()))


@pytest.mark.parametrize("name", FRAMES)
def test_slanted_layer_names_keep_a_line_of_type_apart(name):
    figure = curve_figure(FRAMES[name]())
    axes = figure.axes[-1]
    at = axes.transData.transform([(tick, 0) for tick in axes.get_xticks()])[:, 0]
    across = np.diff(at) * 72 / figure.dpi * math.sin(math.pi / 4)
    assert across.min() >= axes.get_xticklabels()[0].get_fontsize()


def test_many_layers_have_thin_names_ending_with_the_last():
    figure = curve_figure(of_many_layers(DENSENET))
    assert ticks(figure)[-1] == "…denseblock4.denselayer16"
    assert 10 <= len(ticks(figure)) <= 30
    marks = [*figure.axes[-1].get_xticks(), *figure.axes[-1].get_xticks(minor=True)]
    assert sorted(marks) == list(range(len(DENSENET)))


def test_few_layers_are_named_level():
    frame = pd.DataFrame(rows([0.1, 0.9], ["a", "b"], ["", ""], "ridge"))
    assert {text.get_rotation() for text in curve_figure(frame).axes[-1].get_xticklabels()} == {0}


@pytest.mark.parametrize("name", FRAMES)
def test_type_is_large_enough_for_a_talk(name):
    figure = curve_figure(FRAMES[name]())
    assert figure.get_figwidth() == 10
    for text, _ in placed(figure):
        is_value = (
            text.get_text().lstrip("−").replace(",", "").rstrip("k").replace(".", "").isdigit()
        )
        on_strip = text.axes in strips(figure) and not isinstance(text, Annotation)
        assert text.get_fontsize() >= (10 if is_value and on_strip else 11)


def test_dollar_signs_in_names_are_printed_as_they_are(frame):
    priced = frame.assign(model="net $a$", subset=frame["subset"].replace("dog", "$x$"))
    figure = curve_figure(priced, subset="$x$")
    assert "subset: $x$" in figure.texts[1].get_text()
    assert not any(text.get_parse_math() for text in figure.texts)


@pytest.mark.parametrize("draws", [curve_figure, width_figure, learning_figure])
def test_frame_and_settings_of_matplotlib_are_left_as_found(frame, draws):
    frame = frame.assign(n_fit=70)
    before, settings = frame.copy(), dict(matplotlib.rcParams)
    draws(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert dict(matplotlib.rcParams) == settings


def written(figure):
    page = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()


def test_the_same_frame_gives_the_same_bytes(frame):
    assert written(curve_figure(frame)) == written(curve_figure(frame))


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (
            lambda frame: frame.drop(columns=["r2_high", "alias"]),
            "The curve lacks 2 of the columns that a figure needs, the first is 'alias'. Give the "
            "frame of a Curve, or a curve.csv as scalecut wrote it.",
        ),
        (
            lambda frame: frame.iloc[:0],
            "The curve has 0 rows, none of them of the regressors ridge or ols. Run `scalecut "
            "probe` again; a finished run has rows of one of them.",
        ),
        (
            lambda frame: frame.assign(regressor="lasso"),
            "The curve has 312 rows, none of them of the regressors ridge or ols. Run `scalecut "
            "probe` again; a finished run has rows of one of them.",
        ),
        (
            lambda frame: pd.concat([frame, frame.assign(model="other_net")]),
            "The curve has 2 models, 'some_net' and 'other_net' first; a figure shows one. Choose "
            "one: frame[frame.model == 'some_net'].",
        ),
        (
            lambda frame: pd.concat([frame, frame.assign(measure="height")]),
            "The curve has 2 measures, 'area' and 'height' first; a figure shows one. Choose one: "
            "frame[frame.measure == 'area'].",
        ),
        (
            lambda frame: frame[frame["subset"] != "mean"],
            "The curve has no subset 'mean'. It has 3: dog, cat, horse. Choose one of them.",
        ),
    ],
)
def test_frame_that_cannot_be_drawn_is_refused_with_the_remedy(frame, broken, text):
    with pytest.raises(DataError) as error:
        curve_figure(broken(frame))
    assert str(error.value) == text


def test_unknown_subset_is_answered_with_the_first_eight(frame):
    dogs = frame[frame["subset"] == "dog"]
    many = pd.concat([dogs.assign(subset=f"s{number}") for number in range(10)])
    with pytest.raises(DataError) as error:
        curve_figure(many, subset="zebra")
    assert str(error.value) == (
        "The curve has no subset 'zebra'. It has 10: s0, s1, s2, s3, s4, s5, s6, s7, …. "
        "Choose one of them."
    )


PIXELS = 0.17
EVIDENCE = {"peak": "Mixed_6e", "confidence_set": ("Mixed_6d", "Mixed_6e", "Mixed_7a")}
EVIDENCE |= {"fall_after": "Mixed_7b", "fall_first": "Mixed_7a", "fall_last": "Mixed_7c"}


def with_controls(layers=INCEPTION, aliases=ALIASES):
    """Ridge with every control, and what a curve has beside: matched, pixels, n_fit, spread."""
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


def test_pixels_are_a_level_line_and_no_layer():
    figure = curve_figure(with_controls(), subset="cat")
    line = drawn(panels(figure)[0], "pixels alone")
    assert ticks(figure) == ALIASES
    np.testing.assert_allclose(line.get_ydata(), PIXELS - 0.03)
    assert list(line.get_xdata()) == [-0.5, 12.5]


def test_pixels_below_the_floor_are_written_once():
    frame = with_controls()
    frame.loc[frame["weights"] == "pixels", "r2"] = -2.6
    (strip,) = strips(curve_figure(frame))
    assert texts(strip) == ["below −1", "−2.6", "pixels alone"]
    assert drawn(strip, "pixels alone").get_xdata().tolist() == list(range(13))


def test_curve_has_a_line_of_each_control_and_none_of_their_shuffled_measures():
    ridge = panels(curve_figure(with_controls()))[0]
    labels = [line.get_label() for line in ridge.get_lines()]
    known = ["pretrained", "random weights", "permuted weights", "pixels alone", "peak", "zero"]
    assert sorted(labels) == sorted(known)
    for label, divisor in (("random weights", 4), ("permuted weights", 9)):
        values = drawn(ridge, label).get_ydata()
        np.testing.assert_allclose(values, np.linspace(0.3, 0.9, 13) / divisor)
    dashes = {drawn(ridge, label)._dash_pattern[1] and tuple(drawn(ridge, label)._dash_pattern[1])
              for label in known[:4]}  # fmt: skip
    assert len(dashes) == 4


def test_width_matched_rows_are_no_part_of_a_curve():
    frame = with_controls()
    for draws in (curve_figure, subset_figure, exponential_figure):
        without = draws(frame[frame["regressor"] != "matched"])
        assert written(draws(frame)) == written(without)


@pytest.mark.parametrize(
    ("spread", "reach"), [(0.01, 0.03), (0.5, 0.5), (14.0, 1 - 0.3 / 4), (math.nan, 0.03)]
)
def test_band_of_random_weights_reaches_over_the_spread_of_the_twins(spread, reach):
    ridge = panels(curve_figure(with_controls().assign(r2_spread=spread)))[0]
    random, pretrained = (band.get_paths()[0].vertices for band in ridge.collections)
    assert random[random[:, 0] == 0, 1].max() == pytest.approx(0.3 / 4 + reach)
    assert pretrained[pretrained[:, 0] == 0, 1].max() == pytest.approx(0.33)


def bars(axes, name):
    """The stretches under a bar above the panel."""
    return [list(line.get_xdata()) for line in axes.get_lines() if line.get_label() == name]


def shades(axes):
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def test_evidence_is_marked_above_the_first_panel_only():
    ridge, ols = panels(curve_figure(with_controls(), evidence=EVIDENCE))
    assert bars(ridge, "95 % set of the peak") == [[5.5, 8.5]]
    assert bars(ridge, "falls here") == [[8, 11]]  # the step after mixed8 to the one after mixed10
    assert shades(ridge) == [(8, 11)]
    assert [9.5, 9.5] in [list(line.get_xdata()) for line in ridge.get_lines()]
    assert {"95 % set of the peak", "falls here"} <= set(texts(ridge))
    assert drawn(ridge, "peak").get_xydata().tolist() == [[7, pytest.approx(0.65)]]
    assert not shades(ols)
    assert not bars(ols, "95 % set of the peak")


def test_peak_of_the_evidence_is_marked_where_the_softmax_is_higher():
    ridge = panels(curve_figure(with_controls(), evidence=EVIDENCE))[0]
    assert "peak: mixed7, R² 0.65" in texts(ridge)
    assert "peak: softmax, R² 0.90" in texts(panels(curve_figure(with_controls()))[0])


def test_set_with_a_gap_has_two_bars_and_no_fall_is_no_mark():
    evidence = EVIDENCE | {"confidence_set": ("Mixed_7a", "Mixed_5b", "Mixed_6e")}
    evidence |= {"fall_after": None, "fall_first": None, "fall_last": None}
    ridge = panels(curve_figure(with_controls(), evidence=evidence))[0]
    assert bars(ridge, "95 % set of the peak") == [[-0.5, 0.5], [6.5, 8.5]]
    assert "falls here" not in texts(ridge)
    assert not shades(ridge)


@pytest.mark.parametrize("key", ["peak", "confidence_set", "fall_after", "fall_first", "fall_last"])
def test_evidence_of_another_curve_is_refused_with_the_remedy(key):
    evidence = EVIDENCE | {key: ("conv9",) if key == "confidence_set" else "conv9"}
    with pytest.raises(DataError) as error:
        curve_figure(with_controls(), evidence=evidence)
    assert str(error.value) == (
        "The evidence names the layer 'conv9', which is none of the 13 of the curve, 'Mixed_5b' to "
        "'softmax'. Give the evidence of the same curve."
    )


def test_heading_gives_the_images_to_fit():
    heading = curve_figure(with_controls(), subset="cat").texts[1].get_text()
    assert heading == "measure: area   ·   subset: cat   ·   420 images, n = 100 to fit"


def test_width_figure_has_three_regressors_and_n_over_d_on_top():
    (axes,) = panels(width_figure(with_controls(), "cat"))
    for label, offset in (("ridge", 0), ("ridge, 32 components", -0.1), ("least squares", -0.7)):
        values = drawn(axes, label).get_ydata()
        np.testing.assert_allclose(values, np.linspace(0.3, 0.9, 13) - 0.03 + offset)
    ratios = ["10", "5.0", "2.5", "1.2", "0.6", "0.3", "0.2", "0.1"]
    assert [text for text in texts(axes) if text[0].isdigit()] == ratios + 5 * ["0.0"]
    assert "n/d" in texts(axes)


def test_width_figure_marks_layers_with_about_as_many_features_as_images():
    (axes,) = panels(width_figure(with_controls()))
    assert shades(axes) == [(2.5, 4.5)]  # n/d is 1.25 and 0.625
    assert bars(axes, "n ≈ d: least squares interpolates noise") == [[2.5, 4.5]]


def test_width_figure_explains_nothing_where_least_squares_is_not_there():
    frame = with_controls()
    (axes,) = panels(width_figure(frame[frame["regressor"] == "ridge"]))
    assert {line.get_label() for line in axes.get_lines()} == {"zero", "ridge"}
    assert not shades(axes)


def of_numbers(numbers=(1200, 34, 300)):
    own = with_controls().query("weights == 'pretrained' and target == 'true'")
    each = [own.assign(n_fit=n, r2=own["r2"] - 3 / n, r2_low=math.nan) for n in numbers]
    return pd.concat(each, ignore_index=True)


def test_learning_figure_has_a_line_for_each_number_of_images():
    ridge, ols = panels(learning_figure(of_numbers(), "dog"))
    for axes, offset in ((ridge, 0.02), (ols, -0.68)):
        for label, n in (("n = 34", 34), ("n = 300", 300), ("n = 1,200", 1200)):
            values = drawn(axes, label).get_ydata()
            np.testing.assert_allclose(values, np.linspace(0.3, 0.9, 13) + offset - 3 / n)
        assert len(axes.get_lines()) == 4


def test_learning_lines_get_darker_with_more_images():
    ridge = panels(learning_figure(of_numbers()))[0]
    colours = [drawn(ridge, f"n = {n}").get_color() for n in ("34", "300", "1,200")]
    light = [sum(matplotlib.colors.to_rgb(colour)) for colour in colours]
    assert light[0] > light[1] > light[2]
    caption = learning_figure(of_numbers()).texts[1].get_text()
    assert caption.endswith("388 images, n = 34 to 1,200 to fit")


def test_one_number_of_images_is_the_darkest():
    (line,) = [
        line
        for line in panels(learning_figure(of_numbers((50,))))[0].get_lines()
        if line.get_label() == "n = 50"
    ]
    assert line.get_color() == matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](1.0))


@pytest.mark.parametrize(("draws", "column"), [(width_figure, "n_fit"), (learning_figure, "n_fit")])
def test_figure_that_needs_n_says_so(frame, draws, column):
    with pytest.raises(DataError) as error:
        draws(frame)
    assert str(error.value) == (
        f"The curve lacks 1 of the columns that a figure needs, the first is {column!r}. Give the "
        "frame of a Curve, or a curve.csv as scalecut wrote it."
    )


NEW = {
    "curve": lambda frame: curve_figure(
        frame, evidence=evidence_of(list(dict.fromkeys(frame["layer"])))
    ),
    "width": width_figure,
    "learning": lambda frame: learning_figure(
        pd.concat([frame.assign(n_fit=n) for n in (20, 40)], ignore_index=True)
    ),
}


def evidence_of(layers):
    layers = [layer for layer in layers if layer != "pixels"]
    keys = ("fall_after", "fall_first", "fall_last")
    fall = dict.fromkeys(keys, layers[-2] if len(layers) > 1 else None)
    return {"peak": layers[-1], "confidence_set": layers, **fall}


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("layers", [["conv"], EFFICIENTNET, DENSENET], ids=len)
def test_texts_of_the_new_figures_are_on_the_page_and_do_not_touch(name, layers):
    check_texts(NEW[name](with_controls(layers, [""] * len(layers))))


def test_only_pixels_are_no_curve():
    frame = with_controls()
    with pytest.raises(DataError, match="none of them of the regressors ridge or ols"):
        curve_figure(frame[frame["weights"] == "pixels"])
