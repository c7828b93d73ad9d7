"""A figure read back: where its panels, names and marks are."""

import math
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from scalecut.figures.drawing import (
    BLUE,
    R2,
    Drawing,
    Line,
    Look,
    Mark,
    Panel,
    Peak,
    Scale,
    _limits,
    _spread,
    _step,
    _written,
    height_for,
    named_look,
    page_figure,
    shade_looks,
)
from tests.figures.test_curve import check_texts, drawn, panels, placed, strips, texts

PLACES = [f"place {number}" for number in range(8)]


def line(values, label="a line", **kind):
    values = np.array(values, np.float64)
    look = Look(label, BLUE, "-", "o", 2.0, kind.pop("band_opacity", 0.0))
    return Line(look, values, values - 0.1, values + 0.2, **kind)


def panel(*lines, scale=R2, **kind):
    return Panel("title", scale, list(lines), 120.0, **kind)


def page_of(*shown, **more):
    return page_figure(Drawing(*shown, **more))


def heights(figure, name):
    """How far up each text of that name is, in pixels."""
    return [box.y0 for text, box in placed(figure) if text.get_text() == name]


def test_names_move_as_little_as_possible():
    moved = [
        ([], []),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.0, 0.0], [0.0, 0.1]),
        ([1.0, 1.0], [0.9, 1.0]),
    ]
    for wanted, places in moved:
        np.testing.assert_allclose(_spread(wanted, 0.1, 0.0, 1.0), places, atol=1e-12)


def test_values_off_the_scale_are_written_short():
    texts = {-1.04: "−1.0", -9.94: "−9.9", -9.96: "−10", -3861.0: "−3,861", -11077.0: "−11k"}
    texts |= {-4.2e25: "−4e25", -math.inf: "−inf"}
    assert {value: _written(value) for value in texts} == texts


def test_step_of_an_axis_is_the_next_round_number():
    steps = {0.153: 0.2, 0.2: 0.2, 0.273: 0.5, 0.5: 0.5, 0.014: 0.02, 12.6: 20, 0.9: 1.0}
    for least, step in steps.items():
        assert _step(least) == pytest.approx(step)


def test_axis_reaches_as_far_as_the_values():
    for highest, ticks in ((0.03, np.arange(6) * 0.02), (0.9, np.arange(5) * 0.2)):
        values = np.linspace(0, highest, 8)
        scale = Scale("drift", top=0.1)
        (axes,) = panels(page_of("net", "caption", PLACES, [panel(line(values), scale=scale)]))
        bottom, top = axes.get_ylim()
        assert bottom < values.min()
        assert top > values.max()
        np.testing.assert_allclose(axes.get_yticks(), ticks, atol=1e-12)


def test_band_widens_the_axis_upwards_where_it_is_drawn():
    for opacity, top in ((0.2, 1.02 * 1.4), (0.0, 1.02 * 1.2)):
        shown = panel(line(np.full(8, 1.2), band_opacity=opacity), scale=Scale("gain"))
        (axes,) = panels(page_of("net", "caption", PLACES, [shown]))
        assert axes.get_ylim()[1] == pytest.approx(top)


def test_band_widens_the_axis_downwards_to_the_floor_at_most():
    low, high = np.full(8, -0.4), np.full(8, 0.9)
    look = Look("a line", BLUE, "-", "o", 2.0, 0.2)
    for floor, lowest in ((-1.0, -0.4), (-0.2, -0.2)):
        shown = panel(Line(look, np.full(8, 0.5), low, high), scale=Scale("gain", floor=floor))
        (axes,) = panels(page_of("net", "caption", PLACES, [shown]))
        assert axes.get_ylim()[0] == pytest.approx(lowest - 0.05 * (1.0 - lowest))
    bare = panel(Line(replace(look, band_opacity=0.0), np.full(8, 0.5), low, high), scale=Scale(""))
    assert _limits(bare)[0] == pytest.approx(-0.05)


def test_margins_are_outside_of_values_of_any_sign():
    for values in (np.linspace(-3, -1, 8), np.linspace(1, 3, 8), np.full(8, -2.0), np.full(8, 0.0)):
        scale = Scale("log2 µm", bottom=values.min(), top=values.max())
        bottom, ceiling, top = _limits(panel(line(values), scale=scale))
        assert bottom < values.min() <= values.max() == ceiling < top


def test_named_values_have_a_line_across_and_their_name():
    scale = Scale("gain", named={0.0: "nothing", 1.0: "everything"})
    (axes,) = panels(page_of("net", "caption", PLACES, [panel(line(8 * [0.5]), scale=scale)]))
    levels = {float(line.get_ydata()[0]) for line in axes.get_lines() if len(line.get_xdata()) == 2}
    assert levels == {0.0, 1.0}
    assert {"nothing", "everything", "a line"} == set(texts(axes))


def test_marks_share_a_row_with_the_title_where_there_is_room():
    marks = (Mark("here", BLUE, ((1.5, 3.5),)), Mark("there", BLUE, ((5.5, 7.5),)))
    figure = page_of("net", "caption", PLACES, [panel(line(8 * [0.5]), marks=marks)])
    (here,), (there,) = heights(figure, "here"), heights(figure, "there")
    assert here == pytest.approx(there, abs=3)
    check_texts(figure)


def test_marks_that_would_touch_are_one_above_the_other():
    for second in ((2.5, 4.5), (-0.5, 7.5)):
        marks = (Mark("a long name here", BLUE, ((1.5, 3.5),)), Mark("there", BLUE, (second,)))
        figure = page_of("net", "caption", PLACES, [panel(line(8 * [0.5]), marks=marks)])
        (here,), (there,) = heights(figure, "a long name here"), heights(figure, "there")
        assert abs(here - there) > 15
        check_texts(figure)


def test_numbers_on_top_are_thinned_and_stay_on_the_page():
    places = [str(number) for number in range(100)]
    numbers = ("n/d", [f"{100 - number}.5" for number in range(100)])
    figure = page_of("net", "caption", places, [panel(line(100 * [0.5]), numbers=numbers)])
    (axes,) = panels(figure)
    written = [text for text in texts(axes) if text.endswith(".5")]
    assert 5 < len(written) < 50
    assert written[-1] == "1.5"
    check_texts(figure)


def test_values_off_the_scale_are_written_between_the_edges():
    for count in (1, 60):
        places = [str(number) for number in range(count)]
        figure = page_of("net", "caption", places, [panel(line(count * [-12345.0]))])
        (strip,) = strips(figure)
        edges = strip.get_window_extent()
        boxes = [box for text, box in placed(figure) if text.get_text() == "−12k"]
        assert boxes
        assert all(edges.x0 <= box.x0 and box.x1 <= edges.x1 for box in boxes)


def test_level_line_goes_from_edge_to_edge_even_with_one_place():
    figure = page_of("net", "caption", ["only"], [panel(line([0.4], is_level=True))])
    level = drawn(panels(figure)[0], "a line")
    assert level.get_xydata().tolist() == [[-0.5, 0.4], [0.5, 0.4]]


def test_peak_is_where_it_is_put():
    shown = line(np.linspace(0, 1, 8))
    figure = page_of("net", "caption", PLACES, [panel(shown, peak=Peak(shown, 2, "summit"))])
    (axes,) = panels(figure)
    assert drawn(axes, "peak").get_xydata().tolist() == [[2, pytest.approx(2 / 7)]]
    assert "summit" in texts(axes)


def test_axis_is_named_below_its_places_and_on_the_page():
    figure = page_of("net", "caption", PLACES, [panel(line(8 * [0.5]))], axis_name="sizes")
    (axes,) = panels(figure)
    assert axes.get_xlabel() == "sizes"
    (label,) = heights(figure, "sizes")
    assert label < heights(figure, "place 0")[0]
    check_texts(figure)


def test_shades_are_ordered_in_lightness_and_differ():
    for ramp, first, last in (("Blues", 0.5, 1.0), ("plasma", 0.0, 0.75)):
        looks = shade_looks(list("abcdefg"), ramp, first, last)
        # luminance of ITU-R BT.709
        rgb = [matplotlib.colors.to_rgb(look.colour) for look in looks]
        steps = np.diff(rgb @ np.array([0.21, 0.72, 0.07]))
        assert np.all(steps < 0) or np.all(steps > 0)


def test_140_lines_look_different():
    looks = [named_look("a", number) for number in range(140)]
    assert len({(look.colour, look.dash, look.marker) for look in looks}) == 140


def test_panel_is_high_enough_for_the_names_of_its_lines():
    lines = [line(np.full(8, 0.5), f"line {number}") for number in range(30)]
    high = Panel("title", R2, lines, height_for(lines, 100.0))
    check_texts(page_of("net", "caption", PLACES, [high]))
    assert height_for(lines[:2], 100.0) == 100.0
