"""The page of a real run in a real browser, opened from disk without a network.

Needs Chromium (Debian: `apt-get install chromium`), or another browser of its kind at
SCALECUT_CHROMIUM; without, these tests are skipped.
"""

import csv
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scalecut import Computation, Fitting, make_image_set, probe
from scalecut.data.images import Image
from scalecut.figures.drawing import BLUE, R2, Drawing, Line, Look, Panel, Scale
from scalecut.figures.text import typeset
from scalecut.report.cells import interval, number, p_value, sort_key, spread
from scalecut.report.page import MOST_IMAGES, MOST_VALUES, Predictions, Story, Table, page
from scalecut.report.report import write_comparison, write_report
from tests.builders import LAYERS, discs, planted

pytestmark = pytest.mark.long
CHROMIUM = os.environ.get("SCALECUT_CHROMIUM") or shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_IMAGE = "</script><script>alert(2)</script>&amp;.png"
LIGHT = "rgb(255, 255, 255)"
BY_LAYER = "section:has(h2:text-is('Layer by layer')) "


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 44 discs in files, one with a hostile name, in two subsets, one of them hostile.

    Made once; the tests only read it.
    """
    folder = tmp_path_factory.mktemp("page")
    images = []
    whole = discs(44)
    for place, image in enumerate(whole.images):
        file = folder / f"{place}.png"
        PIL.Image.fromarray(image.source).save(file)
        images.append(Image(HOSTILE_IMAGE if place == 0 else file.name, file))
    subset = [("dog", HOSTILE)[place % 2] for place in range(44)]
    boxes = np.tile([6.0, 3.0, 18.0, 15.0], (44, 1))  # of 24 x 24 pixels
    files = make_image_set([image.source for image in images], whole.measure, subset=subset)
    files = replace(files, images=tuple(images), measure_name="area", boxes=boxes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
        curve = probe(
            planted(),
            files,
            computation=Computation(precision="float32"),
            fitting=Fitting(controls=("pixels", "shuffled"), repeats=5, permutations=19),
        )
    return curve.save(folder / "run", command=f"scalecut probe --subset '{HOSTILE}'")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("Chromium is not installed, or not at SCALECUT_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Chromium needs playwright here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """What the browser complained about, requested or showed in a dialog."""

    def __init__(self, tab):
        self.complaints = []
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        tab.on("request", self.asked)

    def asked(self, request):
        if not request.url.startswith(("data:", "blob:")):
            self.complaints.append(request.url)


@pytest.fixture
def opened(browser):
    """Opens a file in a tab without a network; whatever it complains about fails the test."""
    contexts, watched = [], []

    def open_file(file, *, width=1280, **settings):
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": 800}, **settings
        )
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        watched.append((Watched(tab), file.as_uri()))
        tab.goto(file.as_uri())
        return tab

    yield open_file
    for context in contexts:
        context.close()
    for each, uri in watched:
        assert each.complaints == [uri]  # the page itself, and nothing else


def points(tab):
    """Where the points of the scatter plot are."""
    found = tab.eval_on_selector_all(
        "[data-figure=predictions] circle:not(.pointed, .mark)",
        "all => all.map(e => [+e.getAttribute('cx'), +e.getAttribute('cy')])",
    )
    return np.array(found)


def predictions(run, layer, subset=None):
    table = pd.read_parquet(run / "predictions.parquet")
    table = table[(table.layer == layer) & table.predicted.notna()]
    return table if subset is None else table[table.subset == subset]


def own_rows(run, subset="mean"):
    """The rows of the curve that the page shows first."""
    curve = pd.read_csv(run / "curve.csv", dtype={"target": str})
    wanted = {"subset": subset, "regressor": "ridge", "weights": "pretrained", "target": "true"}
    return curve[np.all([curve[name] == value for name, value in wanted.items()], axis=0)]


def choose_layer(tab, layer):
    tab.locator(".choose-layer").select_option(label=layer)


def show_all(tab):
    while tab.locator(".more").is_visible():
        tab.locator(".more").click()


# --- what is shown -------------------------------------------------------------------------------


def test_peak_is_chosen_first_and_another_layer_by_name_or_click(run, opened):
    evidence = json.loads((run / "run.json").read_text())["evidence"]
    tab = opened(run / "report.html")
    chosen = "e => e.selectedOptions[0].textContent"
    assert tab.locator(".choose-layer").evaluate(chosen) == evidence["mean"]["peak"]
    choose_layer(tab, "look")
    before = points(tab)
    choose_layer(tab, "area")
    after = points(tab)
    assert not np.array_equal(before, after)
    table = predictions(run, "area").sort_values(["measure", "predicted"])
    assert len(after) == len(table)
    across, down = after[np.lexsort((-after[:, 1], after[:, 0]))].T
    assert np.corrcoef(across, table.measure)[0, 1] > 0.9999
    assert np.corrcoef(down, table.predicted)[0, 1] < -0.98  # a few are at the edge instead
    for place, layer in enumerate(LAYERS):
        tab.locator("[data-figure=curve] .hit").nth(place).click()
        assert tab.locator(".choose-layer").input_value() == str(place)
        assert len(points(tab)) == len(predictions(run, layer))


def test_largest_errors_come_first_with_their_boxes_and_values(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "colour")
    table = predictions(run, "colour")
    errors = (table.predicted - table.measure).abs()
    largest = table.loc[errors.sort_values(ascending=False).index]
    assert tab.locator(".card b").all_text_contents() == largest.image.tolist()[:12]
    first = largest.iloc[0]
    predicted = f"{first.predicted:.3f}".replace("-", "−")
    assert tab.locator(".card").first.locator("i").all_text_contents() == [
        first.subset,
        f"area {first.measure:.3f}, predicted {predicted}",
    ]
    show_all(tab)
    assert tab.locator(".card b").all_text_contents() == largest.image.tolist()
    assert tab.locator(".card img").count() == len(largest)
    frame = tab.locator(".card .box").first.evaluate("e => e.getAttribute('style')")
    assert frame == "left: 25%; top: 12.5%; width: 50%; height: 50%;"


def test_subset_and_regression_are_switched_everywhere(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "area")
    tab.locator("#subset").select_option("dog")
    assert len(points(tab)) == len(predictions(run, "area", "dog"))
    shown, rows = tab.locator(BY_LAYER + "tr[data-subset]:visible"), own_rows(run, "dog")
    assert shown.count() == len(rows) == len(LAYERS)
    told = shown.locator("td:nth-child(5)").all_text_contents()
    assert told == [number(float(value)) for value in rows.r2]
    title = tab.locator("[data-figure=curve] .title")
    assert title.text_content() == "Ridge regression"
    tab.locator("#regressor").select_option("Ordinary least squares")
    assert title.text_content() == "Ordinary least squares"
    found = tab.locator("tr[data-regressor]:visible")
    found = found.evaluate_all("all => all.map(e => e.dataset.regressor)")
    assert set(found) == {"Ordinary least squares"}


def test_table_is_sorted_by_number_up_and_down(run, opened):
    tab = opened(run / "report.html")
    head = tab.locator(BY_LAYER + "th", has_text="R²").first
    column = tab.locator(BY_LAYER + "tr[data-subset]:visible td:nth-child(5)")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        head.locator("button").focus()
        tab.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == direction
        keys = column.evaluate_all("all => all.map(e => +e.dataset.key)")
        assert keys == sorted(keys, key=lambda key: sign * key)


def tab_to(tab, selector, most=30):
    for _ in range(most):
        tab.keyboard.press("Tab")
        if tab.evaluate(f"document.activeElement.matches({selector!r})"):
            return
    raise AssertionError(f"{selector} is not reached by the tabulator")


def test_layers_and_images_are_chosen_by_keyboard_alone(run, opened):
    tab = opened(run / "report.html")
    tab_to(tab, ".choose-layer")
    before, layer = points(tab), tab.locator(".choose-layer").input_value()
    tab.keyboard.press("ArrowUp")
    assert tab.locator(".choose-layer").input_value() == str(int(layer) - 1)
    assert not np.array_equal(points(tab), before)
    names = tab.locator(".card b").all_text_contents()
    tab_to(tab, "[data-figure=predictions] svg")
    tip = tab.locator(".tip")
    assert tip.locator("b").text_content() == names[0]
    assert tip.locator("img").count() == tip.locator(".box").count() == 1
    tab.keyboard.press("ArrowRight")
    assert tip.locator("b").text_content() == names[1]
    tab.keyboard.press("Escape")
    assert tip.is_hidden()


def test_images_are_enlarged_by_click_or_key_and_escape_returns(run, opened):
    tab = opened(run / "report.html")
    names = tab.locator(".card b").all_text_contents()
    viewer, name = tab.locator("dialog.viewer"), tab.locator("dialog h2")
    card = tab.locator(".card").nth(1)
    small = card.locator("img").bounding_box()
    card.focus()
    tab.keyboard.press("Enter")
    assert name.text_content() == names[1]
    assert viewer.locator(".box").count() == 1
    tab.wait_for_function("document.querySelector('dialog img').style.width")
    large = viewer.locator("img").bounding_box()
    for side in ("width", "height"):
        assert large[side] == pytest.approx(4 * 24, abs=1)  # not too many times its size
        assert large[side] > small[side]
    tab.keyboard.press("ArrowRight")
    assert name.text_content() == names[2]
    viewer.get_by_text("Previous").click()
    assert name.text_content() == names[1]
    tab.keyboard.press("Escape")
    assert viewer.is_hidden()
    assert card.evaluate("e => e === document.activeElement")
    tab_to(tab, "[data-figure=predictions] svg", most=99)
    tab.keyboard.press("Enter")
    assert name.text_content() == names[0]
    viewer.get_by_text("Close").click()
    tab.locator(".sheet button").click()
    assert name.text_content() == "Some of the images"
    assert viewer.get_by_text("Next").is_hidden()


def test_hostile_names_stay_text(run, opened):
    told = (run / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in told
    assert HOSTILE_IMAGE not in told
    assert told.count("</script>") == 2
    tab = opened(run / "report.html")
    assert HOSTILE in tab.locator("#subset option").all_text_contents()
    assert HOSTILE in tab.locator("pre").text_content()
    tab.locator("#subset").select_option(HOSTILE)
    tab_to(tab, "[data-figure=predictions] svg")
    assert tab.locator(".tip").get_by_text(HOSTILE).count() == 1
    tab.locator("#subset").select_option("mean")
    show_all(tab)
    assert HOSTILE_IMAGE in tab.locator(".card b").all_text_contents()
    tab.locator(".card", has_text=HOSTILE_IMAGE).hover()
    assert tab.locator("img[src='x']").count() == 0
    assert tab.locator("script").count() == 2


# --- how it looks --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_without_sideways_scrolling(run, opened, width):
    tab = opened(run / "report.html", width=width)
    scrolling = "[document.scrollingElement.scrollWidth, innerWidth]"
    assert tab.evaluate(scrolling) == [width, width]
    for place in range(tab.locator("svg").count()):
        box = tab.locator("svg").nth(place).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    assert tab.locator("table.wide").count() >= 2
    beyond = "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length"
    assert tab.eval_on_selector_all(".scroll", beyond) == 0  # nor inside a table
    if width == 390:  # each cell of a wide table says what it is
        table = tab.locator("table.wide").first
        cells = table.locator("tbody tr").first.locator("td")
        before = "cells => cells.map(cell => getComputedStyle(cell, '::before').content)"
        columns = [column.strip() for column in table.locator("th").all_text_contents()]
        assert [text.strip('"') for text in cells.evaluate_all(before)] == columns
        assert table.locator("th button").first.is_visible()  # it can still be sorted


def test_first_screen_has_the_question_the_answer_the_figure_and_the_checks(run, opened):
    finding = json.loads((run / "run.json").read_text())["finding"]
    for width, height, checks in ((1280, 800, ".judged"), (390, 844, ".brief")):
        tab = opened(run / "report.html", width=width)
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.locator("h1").text_content() == "Which layer of Sequential encodes area best?"
        assert tab.locator(".lead").text_content() == typeset(finding)
        for shown in ("h1", ".lead", "[data-figure=curve] svg", checks):
            box = tab.locator(shown).bounding_box()
            assert box["y"] + box["height"] <= height
        tab.locator(".brief a").evaluate("e => e.click()")
        assert tab.locator(".judged").bounding_box()["y"] < height / 2


def colours(tab):
    line = "[data-figure=curve] .line"
    return (
        tab.evaluate("getComputedStyle(document.body).backgroundColor"),
        tab.evaluate("getComputedStyle(document.body).color"),
        tab.eval_on_selector(line, "e => getComputedStyle(e).stroke"),
    )


def test_dark_mode_has_its_own_colours_and_paper_is_white(run, opened):
    light = colours(opened(run / "report.html", color_scheme="light"))
    tab = opened(run / "report.html", color_scheme="dark")
    assert light[0] == LIGHT
    assert all(one != other for one, other in zip(light, colours(tab), strict=True))
    tab.emulate_media(media="print", color_scheme="dark")
    assert colours(tab)[0] == LIGHT
    assert tab.locator(".save:visible, .more:visible, select#subset:visible").count() == 0
    tab.emulate_media(media="screen")
    assert tab.pdf().startswith(b"%PDF")


# --- saving --------------------------------------------------------------------------------------


def saved(tab, figure, kind):
    with tab.expect_download() as download:
        tab.locator(f"[data-figure={figure}] [data-save={kind}]").click()
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figure_is_saved_as_an_svg_that_stands_alone(run, opened, scheme):
    tab = opened(run / "report.html", color_scheme=scheme)
    name, text = saved(tab, "curve", "svg")
    assert name == "Sequential-curve.svg"
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"var\(|class=|style=|color-mix", text)
    texts = {"".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Ridge regression", "pretrained", "pixels alone", *LAYERS} <= texts
    strokes = {each.get("stroke") for each in root.iter("{http://www.w3.org/2000/svg}path")}
    assert "rgb(0, 114, 178)" in strokes  # as in light mode


def test_curves_are_saved_as_csv_on_both_axes(run, opened):
    tab, curve = opened(run / "report.html"), own_rows(run)
    assert curve.layer.tolist() == LAYERS
    shown = {"curve": lambda r2: r2, "curve_exponential": lambda r2: np.exp(r2) / np.e}
    for figure, scale in shown.items():
        rows = pd.DataFrame(csv.DictReader(saved(tab, figure, "csv")[1].splitlines()))
        rows = rows[(rows.panel == "Ridge regression") & (rows.line == "pretrained")]
        assert rows.place.tolist() == LAYERS
        for column, r2 in (("value", curve.r2), ("low", curve.r2_low), ("high", curve.r2_high)):
            told = rows[column].astype(float)
            np.testing.assert_allclose(told, scale(r2), rtol=1e-3, atol=1e-6)
    names = tab.locator("[data-figure=curve_exponential] .name").all_text_contents()
    assert "R² = 0" in names


def test_predictions_of_the_layer_are_saved_as_csv(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "colour")
    name, text = saved(tab, "predictions", "csv")
    assert name == "Sequential-predictions.csv"
    rows = pd.DataFrame(csv.DictReader(text.splitlines())).set_index("image")
    assert set(rows.layer) == {"colour"}
    told = predictions(run, "colour").set_index("image")
    assert set(rows.index) == set(told.index)
    assert set(rows.subset) == {"dog", HOSTILE}
    for column in ("measure", "predicted"):
        found = rows[column].astype(float)
        np.testing.assert_allclose(found, told[column][rows.index], rtol=1e-3)


# --- other pages ---------------------------------------------------------------------------------


def test_two_runs_share_subset_and_axis_and_have_their_own_layers(run, opened, tmp_path):
    worse = shutil.copytree(run, tmp_path / "worse")
    table = pd.read_csv(worse / "curve.csv", dtype={"target": str})
    table.loc[table.regressor == "ridge", ["r2", "r2_low", "r2_high"]] -= 0.7
    table.to_csv(worse / "curve.csv", index=False)
    tab = opened(write_comparison([run, worse], tmp_path / "both.html", "Not paired."))
    left, right = (tab.locator("article").nth(number) for number in range(2))
    assert left.bounding_box()["y"] == right.bounding_box()["y"]
    assert left.bounding_box()["x"] < right.bounding_box()["x"]
    for side in (left, right):
        texts = side.locator("[data-figure=curve] .small").all_text_contents()
        assert {"1.0", "\N{MINUS SIGN}1.0"} <= set(texts)
    tab.locator("#subset").select_option("dog")
    assert len(points(tab)) == 2 * len(predictions(run, "area", "dog"))
    chosen = [side.locator(".choose-layer") for side in (left, right)]
    chosen[1].select_option(label="look")
    chosen[0].select_option(label="colour")
    assert [each.input_value() for each in chosen] == ["2", "0"]
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.scrollingElement.scrollWidth") == 390


def drawing_of(title, low=(0.1, 0.4), values=(0.2, 0.5), scale=R2):
    """A drawing of one panel of one line with a band."""
    low, values = np.array(low), np.array(values)
    line = Line(Look("a line", BLUE, "-", "o", 2.0, 0.2), values, low, values)
    places = [f"place {number}" for number in range(len(values))]
    return Drawing("net", "", places, [Panel(title, scale, [line], 100.0)])


def test_runs_without_a_common_subset_each_show_their_first_curve(opened, tmp_path):
    several = {"mean": drawing_of("1"), "dog": drawing_of("2")}, {"area": drawing_of("3")}
    stories = [Story("run", "net", "found", curves=each, layers=["a"]) for each in several]
    file = tmp_path / "both.html"
    file.write_text(page(stories), encoding="utf-8")
    tab = opened(file)
    assert tab.locator("#subset").count() == 0
    assert tab.locator("[data-figure=curve] .title").all_text_contents() == ["1", "3"]


def test_lower_ends_of_intervals_are_inside_the_panel(opened, tmp_path):
    curves = {"mean": drawing_of("1", low=(-0.6, -3.0))}, {"mean": drawing_of("1")}
    stories = [Story("run", "net", "found", curves=each, layers=["a"]) for each in curves]
    file = tmp_path / "low.html"
    file.write_text(page(stories), encoding="utf-8")
    tab = opened(file)
    boxes = "all => all.map(e => e.getBBox()).map(box => [box.y, box.y + box.height])"
    bands = tab.eval_on_selector_all("[data-figure=curve] .band", boxes)
    names = tab.locator("[data-figure=curve] text", has_text="place 0").evaluate_all(boxes)
    for (_, bottom), (top, _) in zip(bands, names, strict=True):
        assert bottom < top
    texts = tab.locator("[data-figure=curve] .small").all_text_contents()
    assert texts.count("−1.0") == 2  # both axes reach to the floor


def predictions_of(measure, n_layers=1):
    """What a page shows of images that each layer predicts to a tenth of the range."""
    rng, n = np.random.default_rng(0), len(measure)
    sides = dict.fromkeys(("left", "top", "right", "bottom", "width", "height"), 10.0)
    images = pd.DataFrame({"image": [f"folder/{number:06d}.jpg" for number in range(n)], **sides})
    images = images.assign(subset="dog", measure=measure)
    found = measure + 0.1 * np.ptp(measure) * rng.normal(size=(n_layers, n))
    layers = [f"layer.{number}" for number in range(n_layers)]
    return Predictions(images, "area", layers, found, {})


def test_small_measures_are_told_apart_on_the_page(opened, tmp_path):
    measure = np.linspace(0.001, 0.008, 30)
    curves = {"mean": drawing_of("1", scale=Scale("predicted", top=0.0), values=measure[:2])}
    shown = predictions_of(measure)
    story = Story("run", "net", "found", curves=curves, layers=shown.layers, predictions=shown)
    file = tmp_path / "small.html"
    file.write_text(page([story]), encoding="utf-8")
    tab = opened(file)
    show_all(tab)
    texts = tab.locator(".card i:last-child").all_text_contents()
    told = [[float(each) for each in re.findall(r"0\.\d+", text)] for text in texts]
    errors = np.abs(shown.predicted[0] - measure)
    order = np.argsort(-errors)
    expected = np.column_stack([measure, shown.predicted[0]])[order]
    np.testing.assert_allclose(told, expected, atol=0.6e-5)


def test_run_without_predictions_or_images_has_a_page_too(run, opened, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    write_report(bare, has_thumbnails=False)
    tab = opened(bare / "report.html")
    assert tab.locator(".card img").count() == 0
    assert tab.locator(".card .thumb").first.text_content() == "no image"
    for name in ("images", "predictions"):
        (bare / f"{name}.parquet").unlink()
    write_report(bare)
    tab = opened(bare / "report.html")
    assert tab.locator(".layer .note").text_content() == (
        "This run holds no predictions of single images, because an earlier version wrote it. Run "
        "the command below again to see them."
    )
    assert tab.locator("[data-figure=curve] svg").count() == 1


# --- without a browser ---------------------------------------------------------------------------


def test_cells_are_written_to_be_read_and_sorted():
    texts = [
        *((0.8149, "0.81"), (-0.25, "−0.25"), (0.001, "0.001"), (0.0, "0.00"), (12, "12")),
        *((1234567, "1,234,567"), (-2500.5, "−2,500"), (float("nan"), ""), (None, "")),
        *(("as it is", "as it is"), (("0.1 to 0.2", 0.1), "0.1 to 0.2")),
    ]
    for cell, text in texts:
        assert number(cell) == text
    keys = [("name", None), (None, ""), (float("nan"), ""), (3, "3"), (("a", 0.5), "0.5")]
    assert [sort_key(cell) for cell, _ in keys] == [key for _, key in keys]
    assert interval(-0.5, 0.25) == ("−0.50\xa0to\xa00.25", -0.5)
    assert interval(0.0, float("nan")) == interval(None, None) == "no\xa0interval"
    assert (p_value(0.049), p_value(None)) == (("0.049", 0.049), None)
    assert (p_value(0.0), p_value(4e-7), p_value(4e-6)) == (
        *(("p < 1e-6", 0.0), ("p < 1e-6", 4e-7)),
        ("4e-06", 4e-6),
    )
    assert (spread(["1", "", "3"]), spread([""])) == (("2.00\xa0±\xa01.41", 2.0), None)


def test_text_has_true_minus_signs_before_numbers_alone():
    assert typeset("R² -0.3 [-1.2, -.1]") == "R² −0.3 [−1.2, −.1]"
    as_it_is = "2026-11-23, blocks.1-2, --at -x"
    assert typeset(f"(-5) on {as_it_is}") == f"(−5) on {as_it_is}"


def test_column_is_of_numbers_if_any_cell_is_one():
    table = Table("t", ("a", "b", "c"), [("x", None, ("1 to 2", 1.0)), ("y", 3, ("2 to 4", 2.0))])
    assert [table.is_number(column) for column in range(3)] == [False, True, False]


def test_very_many_images_stay_below_5_megabytes():
    shown = predictions_of(np.random.default_rng(0).random(20_000), n_layers=40)
    told = page([Story("run", "net", "found", predictions=shown, layers=shown.layers)])
    assert shown.predicted.size > MOST_VALUES
    assert 1e6 < len(told.encode()) < 5e6


def test_very_many_images_of_one_layer_are_shown_in_part():
    measure = np.random.default_rng(0).random(3 * MOST_IMAGES)
    shown = predictions_of(measure)
    told = page([Story("run", "net", "found", predictions=shown, layers=shown.layers)])
    data = json.loads(re.search(r'id="data">(.*?)</script>', told)[1])
    found = data["runs"][0]["predictions"]
    assert (len(found["names"]), found["of"]) == (MOST_IMAGES, len(measure))
    largest = int(np.abs(shown.predicted[0] - measure).argmax())
    assert shown.images.image[largest] in found["names"]
    assert np.ptp(found["measure"]) > 0.999
