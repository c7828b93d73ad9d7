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

from scalecut import Preprocessing, make_image_set, probe
from scalecut.data.images import Image
from scalecut.probing.curve import write_curve
from scalecut.report.page import MOST_VALUES, Readings, Story, Table, minus, number, page
from scalecut.report.report import write_comparison, write_page
from tests.probing.test_probe import discs, planted_network

CHROMIUM = os.environ.get("SCALECUT_CHROMIUM") or shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_IMAGE = "</script><script>alert(2)</script>&amp;.png"
LAYERS = ["look", "mix", "area", "kept", "colour", "pooled", "logits", "softmax"]
LIGHT = "rgb(255, 255, 255)"


def made_run(folder, *, has_thumbnails=True):
    """A run of 44 discs in files, one with a hostile name, in two subsets, one of them hostile."""
    whole = discs(np.random.default_rng(0), 44)
    images = []
    for place, image in enumerate(whole.images):
        name = HOSTILE_IMAGE if place == 0 else f"{place}.png"
        file = folder / f"{place}.png"
        PIL.Image.fromarray(image.source).save(file)
        images.append(Image(name, file))
    subset = [("dog", HOSTILE)[place % 2] for place in range(44)]
    boxes = np.tile([8.0, 4.0, 24.0, 20.0], (44, 1))  # of 32 x 32 pixels
    files = make_image_set([image.source for image in images], whole.measure, subset=subset)
    files = replace(files, images=tuple(images), measure_name="area", boxes=boxes)
    curve = probe(
        planted_network(),
        files,
        preprocessing=Preprocessing(32, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        precision="float32",
        controls=("pixels", "shuffled"),
        repeats=5,
        permutations=19,
    )
    run = folder / "run"
    run.mkdir()
    write_curve(curve, run, command=f"scalecut probe --subset '{HOSTILE}'", settings={"seed": 0})
    write_page(run, has_thumbnails=has_thumbnails)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Made once; the tests only read it."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
        return made_run(folder)


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
    """What the browser complained about, asked for or showed in a dialog."""

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
    """Where the points of the scatter stand."""
    found = tab.eval_on_selector_all(
        "[data-figure=readings] circle:not(.pointed, .mark)",
        "all => all.map(e => [+e.getAttribute('cx'), +e.getAttribute('cy')])",
    )
    return np.array(found)


def predictions(run, layer, subset=None):
    table = pd.read_parquet(run / "predictions.parquet")
    table = table[(table.layer == layer) & table.predicted.notna()]
    return table if subset is None else table[table.subset == subset]


def choose_layer(tab, layer):
    tab.locator(".choose-layer").select_option(label=layer)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["area", "colour"])
def test_choosing_a_layer_shows_its_readings(run, opened, layer):
    tab = opened(run / "report.html")
    choose_layer(tab, "mix")
    before = points(tab)
    choose_layer(tab, layer)
    after = points(tab)
    assert not np.array_equal(before, after)
    table = predictions(run, layer).sort_values(["measure", "predicted"])
    assert len(after) == len(table)
    across, down = after[np.lexsort((-after[:, 1], after[:, 0]))].T
    assert np.corrcoef(across, table.measure)[0, 1] > 0.9999
    assert np.corrcoef(down, table.predicted)[0, 1] < -0.98  # few stand at the edge instead


def test_peak_is_chosen_first(run, opened):
    evidence = json.loads((run / "run.json").read_text())["evidence"]
    tab = opened(run / "report.html")
    chosen = "e => e.selectedOptions[0].textContent"
    assert tab.locator(".choose-layer").evaluate(chosen) == evidence["mean"]["peak"]


def test_click_on_the_curve_chooses_the_layer(run, opened):
    tab = opened(run / "report.html")
    for place in (1, 6):
        tab.locator("[data-figure=curve] .hit").nth(place).click()
        assert tab.locator(".choose-layer").input_value() == str(place)
        assert len(points(tab)) == len(predictions(run, LAYERS[place]))


def test_worst_errors_come_first_with_their_boxes(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "colour")
    table = predictions(run, "colour")
    errors = (table.predicted - table.measure).abs()
    worst = table.image[errors.sort_values(ascending=False).index].tolist()
    assert tab.locator(".card b").all_text_contents() == worst[:12]
    while tab.locator(".more").is_visible():
        tab.locator(".more").click()
    assert tab.locator(".card b").all_text_contents() == worst
    assert tab.locator(".card img").count() == len(worst)
    frame = tab.locator(".card .box").first.evaluate("e => e.getAttribute('style')")
    assert frame == "left: 25%; top: 12.5%; width: 50%; height: 50%;"


def test_card_says_what_the_measure_is_and_what_was_read(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "area")
    table = predictions(run, "area")
    row = table.loc[(table.predicted - table.measure).abs().idxmax()]
    said = tab.locator(".card").first.locator("i").all_text_contents()
    read = f"{row.predicted:.3f}".replace("-", "−")
    assert said == [row.subset, f"area {row.measure:.3f}, read as {read}"]


def test_subset_is_switched_everywhere(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "area")
    tab.locator("#subset").select_option("dog")
    assert len(points(tab)) == len(predictions(run, "area", "dog"))
    shown = tab.locator("tr[data-subset]:visible")
    curve = pd.read_csv(run / "curve.csv")
    rows = curve[(curve.subset == "dog") & (curve.regressor == "ridge")]
    rows = rows[(rows.weights == "pretrained") & (rows.target.astype(str) == "true")]
    assert shown.count() == len(rows) == len(LAYERS)
    told = shown.locator("td:nth-child(5)").all_text_contents()
    assert told == [number(float(value)) for value in rows.r2]


def test_regression_is_switched_in_curve_and_table(run, opened):
    tab = opened(run / "report.html")
    title = tab.locator("[data-figure=curve] .title")
    assert title.text_content() == "Ridge regression"
    tab.locator("#regressor").select_option("Ordinary least squares")
    assert title.text_content() == "Ordinary least squares"
    shown = tab.locator("tr[data-regressor]:visible")
    found = shown.evaluate_all("all => all.map(e => e.dataset.regressor)")
    assert set(found) == {"Ordinary least squares"}


def test_table_is_sorted_by_number_up_and_down(run, opened):
    tab = opened(run / "report.html")
    head = tab.locator("th", has_text="R²").first
    column = tab.locator("tr[data-subset]:visible td:nth-child(5)")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        keys = column.evaluate_all("all => all.map(e => +e.dataset.key)")
        assert keys == sorted(keys, key=lambda key: sign * key)


# --- by keyboard ---------------------------------------------------------------------------------


def tab_to(tab, selector, most=30):
    for _ in range(most):
        tab.keyboard.press("Tab")
        if tab.evaluate(f"document.activeElement.matches({selector!r})"):
            return
    raise AssertionError(f"{selector} is not reached by the tabulator")


def test_layer_is_chosen_by_keyboard_alone(run, opened):
    tab = opened(run / "report.html")
    tab_to(tab, ".choose-layer")
    before, layer = points(tab), tab.locator(".choose-layer").input_value()
    tab.keyboard.press("ArrowUp")
    assert tab.locator(".choose-layer").input_value() == str(int(layer) - 1)
    assert not np.array_equal(points(tab), before)


def test_images_are_visited_by_arrow_keys_the_worst_first(run, opened):
    tab = opened(run / "report.html")
    names = tab.locator(".card b").all_text_contents()
    tab_to(tab, "[data-figure=readings] svg")
    tip = tab.locator(".tip")
    assert tip.locator("b").text_content() == names[0]
    assert tip.locator("img").count() == tip.locator(".box").count() == 1
    tab.keyboard.press("ArrowRight")
    assert tip.locator("b").text_content() == names[1]
    tab.keyboard.press("Escape")
    assert tip.is_hidden()


def test_table_is_sorted_by_keyboard(run, opened):
    tab = opened(run / "report.html")
    tab.locator("th button").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("th").first.get_attribute("aria-sort") == "ascending"
    names = tab.locator("tr[data-subset]:visible td:nth-child(1)").all_text_contents()
    assert names == sorted(names)


# --- text stays text -----------------------------------------------------------------------------


def test_hostile_names_stay_text(run, opened):
    tab = opened(run / "report.html")
    assert HOSTILE in tab.locator("#subset option").all_text_contents()
    assert HOSTILE in tab.locator("pre").text_content()
    tab.locator("#subset").select_option(HOSTILE)
    tab_to(tab, "[data-figure=readings] svg")
    assert tab.locator(".tip").get_by_text(HOSTILE).count() == 1
    tab.locator("#subset").select_option("mean")
    while tab.locator(".more").is_visible():
        tab.locator(".more").click()
    assert HOSTILE_IMAGE in tab.locator(".card b").all_text_contents()
    tab.locator(".card", has_text=HOSTILE_IMAGE).hover()
    assert tab.locator("img[src='x']").count() == 0
    assert tab.locator("script").count() == 2


def test_names_are_escaped_in_the_file_as_well(run):
    told = (run / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in told
    assert HOSTILE_IMAGE not in told
    assert told.count("</script>") == 2


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


def test_row_of_a_wide_table_says_what_each_number_is_on_a_telephone(run, opened):
    tab = opened(run / "report.html", width=390)
    table = tab.locator("table.wide").first
    columns = table.locator("th").all_text_contents()
    cells = table.locator("tbody tr").first.locator("td")
    before = "cells => cells.map(cell => getComputedStyle(cell, '::before').content)"
    said = [text.strip('"') for text in cells.evaluate_all(before)]
    assert said == [column.strip() for column in columns]
    assert table.locator("th button").first.is_visible()  # it can still be sorted


def colours(tab):
    line = "[data-figure=curve] .line"
    return (
        tab.evaluate("getComputedStyle(document.body).backgroundColor"),
        tab.evaluate("getComputedStyle(document.body).color"),
        tab.eval_on_selector(line, "e => getComputedStyle(e).stroke"),
    )


def test_dark_mode_has_colours_of_its_own(run, opened):
    light = colours(opened(run / "report.html", color_scheme="light"))
    dark = colours(opened(run / "report.html", color_scheme="dark"))
    assert light[0] == LIGHT
    assert all(one != other for one, other in zip(light, dark, strict=True))


def test_paper_is_white_and_has_no_buttons(run, opened):
    tab = opened(run / "report.html", color_scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    assert colours(tab)[0] == LIGHT
    assert tab.locator(".save:visible, .more:visible, select#subset:visible").count() == 0
    tab.emulate_media(media="screen")
    assert tab.pdf().startswith(b"%PDF")


# --- what can be taken along ---------------------------------------------------------------------


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
    assert {"Ridge regression", "pretrained", "pixels alone", *LAYERS[:3]} <= texts
    strokes = {each.get("stroke") for each in root.iter("{http://www.w3.org/2000/svg}path")}
    assert "rgb(0, 114, 178)" in strokes  # on paper, whatever the screen


def test_curve_is_saved_as_csv(run, opened):
    _, text = saved(opened(run / "report.html"), "curve", "csv")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["line"] == "pretrained"]
    curve = pd.read_csv(run / "curve.csv", dtype={"target": str})
    wanted = {"subset": "mean", "regressor": "ridge", "weights": "pretrained", "target": "true"}
    curve = curve[np.all([curve[name] == value for name, value in wanted.items()], axis=0)]
    assert curve.layer.tolist() == LAYERS
    assert [row["place"] for row in rows] == curve.alias.fillna(curve.layer).tolist()
    for column, told in (("value", curve.r2), ("low", curve.r2_low), ("high", curve.r2_high)):
        np.testing.assert_allclose([float(row[column]) for row in rows], told, rtol=1e-3, atol=1e-6)


def test_axis_of_the_paper_shows_the_same_curve_as_its_exponential(run, opened):
    tab = opened(run / "report.html")
    assert tab.locator("[data-figure=curve_exponential] svg").count() == 1
    _, text = saved(tab, "curve_exponential", "csv")
    told = pd.DataFrame(csv.DictReader(text.splitlines()))
    told = told[(told.panel == "Ridge regression") & (told.line == "pretrained")]
    curve = pd.read_csv(run / "curve.csv", dtype={"target": str})
    wanted = {"subset": "mean", "regressor": "ridge", "weights": "pretrained", "target": "true"}
    curve = curve[np.all([curve[name] == value for name, value in wanted.items()], axis=0)]
    for column, r2 in (("value", curve.r2), ("low", curve.r2_low), ("high", curve.r2_high)):
        np.testing.assert_allclose(told[column].astype(float), np.exp(r2) / np.e, rtol=1e-3)
    names = tab.locator("[data-figure=curve_exponential] .name").all_text_contents()
    assert "R² = 0" in names


def test_readings_of_the_layer_are_saved_as_csv(run, opened):
    tab = opened(run / "report.html")
    choose_layer(tab, "kept")
    name, text = saved(tab, "readings", "csv")
    assert name == "Sequential-readings.csv"
    rows = pd.DataFrame(csv.DictReader(text.splitlines())).set_index("image")
    assert set(rows.layer) == {"kept"}
    told = predictions(run, "kept").set_index("image")
    assert set(rows.index) == set(told.index)
    assert set(rows.subset) == {"dog", HOSTILE}
    for column, known in (("measure", "measure"), ("read", "predicted")):
        np.testing.assert_allclose(rows[column].astype(float), told[known][rows.index], rtol=1e-3)


# --- other pages ---------------------------------------------------------------------------------


def test_two_runs_lie_side_by_side_and_change_subset_together(run, opened, tmp_path):
    file = write_comparison(run, run, tmp_path / "both.html")
    tab = opened(file)
    left, right = (tab.locator("article").nth(number) for number in range(2))
    assert left.bounding_box()["y"] == right.bounding_box()["y"]
    assert left.bounding_box()["x"] < right.bounding_box()["x"]
    tab.locator("#subset").select_option("dog")
    count = len(predictions(run, "area", "dog"))
    assert len(points(tab)) == 2 * count
    right.locator(".choose-layer").select_option(label="mix")
    assert (
        left.locator(".choose-layer").input_value() != right.locator(".choose-layer").input_value()
    )
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.scrollingElement.scrollWidth") == 390


def test_two_runs_have_one_axis_so_that_heights_can_be_compared(run, opened, tmp_path):
    worse = tmp_path / "worse"
    shutil.copytree(run, worse)
    table = pd.read_csv(worse / "curve.csv", dtype={"target": str})
    table.loc[table.regressor == "ridge", ["r2", "r2_low", "r2_high"]] -= 0.7
    table.to_csv(worse / "curve.csv", index=False)
    tab = opened(write_comparison(run, worse, tmp_path / "both.html"))
    for side in range(2):
        figure = tab.locator("article").nth(side).locator("[data-figure=curve]")
        assert {"1.0", "\N{MINUS SIGN}1.0"} <= set(figure.locator(".small").all_text_contents())


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("R² -0.3 [-1.2, -.1]", "R² −0.3 [−1.2, −.1]"),
        ("(-5) on 2026-11-23, blocks.1-2, --at -x", "(−5) on 2026-11-23, blocks.1-2, --at -x"),
    ],
)
def test_finding_has_true_minus_signs(said, shown):
    assert minus(said) == shown


def test_run_without_readings_or_pictures_has_a_page_too(run, opened, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    write_page(bare, has_thumbnails=False)
    tab = opened(bare / "report.html")
    assert tab.locator(".card img").count() == 0
    assert tab.locator(".card .photo").first.text_content() == "no picture"
    for name in ("images", "predictions"):
        (bare / f"{name}.parquet").unlink()
    write_page(bare)
    tab = opened(bare / "report.html")
    assert tab.locator(".layer .note").text_content() == (
        "This run does not say what was read from each image: it was made by an earlier version. "
        "Run the command below again to see it."
    )
    assert tab.locator("[data-figure=curve] svg").count() == 1


# --- without a browser ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        *((0.8149, "0.81"), (-0.25, "−0.25"), (0.001, "0.001"), (0.0, "0.00"), (12, "12")),
        *((1234567, "1,234,567"), (-2500.5, "−2,500"), (float("nan"), ""), (None, "")),
        *(("as it is", "as it is"), (("0.1 to 0.2", 0.1), "0.1 to 0.2")),
    ],
)
def test_cells_are_written_to_be_read(cell, text):
    assert number(cell) == text


def test_column_is_of_numbers_if_any_cell_is_one():
    table = Table("t", ("a", "b", "c"), [("x", None, ("1 to 2", 1.0)), ("y", 3, ("2 to 4", 2.0))])
    assert [table.is_number(column) for column in range(3)] == [False, True, False]


def test_very_many_images_stay_below_5_megabytes():
    n, layers = 20_000, [f"layer.{number}" for number in range(40)]
    rng = np.random.default_rng(0)
    sides = dict.fromkeys(("left", "top", "right", "bottom", "width", "height"), 10.0)
    images = pd.DataFrame({"image": [f"folder/{number:06d}.jpg" for number in range(n)], **sides})
    images = images.assign(subset="dog", measure=rng.random(n))
    readings = Readings(images, "area", layers, rng.random((40, n)), {})
    told = page([Story("run", "net", "found", [], readings=readings, layers=layers)])
    assert 40 * n > MOST_VALUES
    assert 1e6 < len(told.encode()) < 5e6
