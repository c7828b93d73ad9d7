"""A run folder shows whatever its tables allow, and says which table it cannot read."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from scalecut import compare_curves
from scalecut.errors import DataError, OutputError
from scalecut.figures.text import number, typeset
from scalecut.probing.curve import image_table
from scalecut.report import curve as of_curve
from scalecut.report import report, sections
from scalecut.report.cells import interval
from scalecut.report.cut import NEEDED
from scalecut.report.facts import trust
from scalecut.report.predictions import MOST_THUMBNAILS, read_predictions
from scalecut.report.report import write_comparison, write_report
from scalecut.report.results import RESULTS
from scalecut.report.sections import CHECKS, FIGURES, QUESTIONS, SECTIONS, Plot, drawings
from scalecut.report.transfer import COLUMNS
from scalecut.runs import FORMATS, MARKS, kind_of, read_run
from tests.figures.test_analyses import of_directions, of_invariance, of_noise, of_paper, of_scenes
from tests.figures.test_pathology import FACTS as TRANSFER_FACTS
from tests.figures.test_pathology import swept
from tests.report.builders import curve, curve_table, files_in, run_of, with_images

OUTPUTS = ["agreement", "probability_change", "jensen_shannon"]
MOVES = ["drift", "map_error"]
LEARNING = "With fewer training images"
NO_GAIN = (
    "The gain over controls is not defined: it compares trained weights with random ones or with "
    "pixels."
)
OF_TABLES = {
    "invariance": (of_invariance, ["invariance", "drift"]),
    "noise": (of_noise, ["noise"]),
    "scenes": (of_scenes, ["scenes"]),
    "rcv": (of_directions, ["directions"]),
}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)


def probe_run(folder, *table, **provenance):
    """A run of a probe, without its figures and its page."""
    made = curve(curve_table(*table), **provenance)
    facts = {"evidence": {s: asdict(made.evidence(s)) for s in dict.fromkeys(made.table.subset)}}
    facts |= {**made.provenance, "finding": made.finding(), "points": made.points}
    run_of(folder, facts, **made.tables())
    np.save(folder / "draws.npy", made.draws)
    return folder


def saved(folder, table):
    """A run of a probe of this table, of one or several targets."""
    made = curve(table)
    return run_of(folder, made.facts(), **made.tables())


def of_targets(*targets):
    """A table of several targets, with a subset each has and one that only the first lacks."""
    tables = [curve_table(("dog", "mean"), ("ridge",)).assign(measure=name) for name in targets]
    more = curve_table(("cat",), ("ridge",)).assign(measure=targets[-1])
    return pd.concat([*tables, more], ignore_index=True)


def opened(folder):
    return read_run(folder, kind_of(folder, ("run", "cut")))


def story_of(folder, *, has_thumbnails=True):
    run = opened(folder)
    return report._story(run, drawings(run), has_thumbnails)


def drawn(folder):
    """The names of the figures, each of which must be there as PNG and SVG and nothing else."""
    _, paths = write_report(folder)
    assert sorted(paths) == sorted((folder / "figures").glob("*"))
    assert [path.suffix for path in paths] == [".png", ".svg"] * (len(paths) // 2)
    assert all(path.stat().st_size > 1000 for path in paths)
    return [path.stem for path in paths[::2]]


def titles(story):
    return [section.title for section in story.sections]


def table_of(sections, title):
    (table,) = [each for section in sections for each in section.tables if each.title == title]
    return table


def rows_by_column(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.long
def test_report_of_a_curve_is_the_same_bytes_each_time_and_everywhere(tmp_path):
    run = probe_run(tmp_path / "run")
    page, figures = write_report(run)
    names = ("curve", "subsets", "width", "curve_exponential")
    expected = [run / "figures" / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert (page, figures) == (run / "report.html", expected)
    first = files_in(run)
    assert not any(b"<dc:date>" in content for content in first.values() if content)
    assert first["figures/curve.png"][16:20] == (200).to_bytes(4, "big")  # 10 inches at 20 dpi
    elsewhere = shutil.copytree(run, tmp_path / "elsewhere")
    for folder in (run, elsewhere):
        write_report(folder)
        assert files_in(folder) == first


def test_each_table_is_parsed_once_and_each_figure_drawn_once(tmp_path, monkeypatch):
    run, calls = probe_run(tmp_path), []

    def count(target, name):
        done = getattr(target, name)

        def counted(*of, **more):
            calls.append(getattr(of[0], "stem", name))
            return done(*of, **more)

        monkeypatch.setattr(target, name, counted)

    for target, name in ((pd, "read_csv"), (of_curve, "curve_drawing"), (report, "page_figure")):
        count(target, name)
    write_report(run)
    assert sorted(calls) == [
        *("curve", "curve_drawing", "curve_drawing", "curve_drawing"),  # dog, cat and their mean
        *4 * ["page_figure"],
    ]


def test_only_what_the_tables_allow_is_drawn(tmp_path):
    always = ["curve", "curve_exponential"]
    assert drawn(probe_run(tmp_path / "1", ("dog", "mean"), ("ridge",))) == always
    learning = curve_table(("dog", "mean"), ("ridge",))
    run_of(tmp_path / "1", learning=learning).joinpath("run.json").write_text("{}")
    assert drawn(tmp_path / "1") == [*always, "learning"]
    whole = of_invariance()
    for n, (gone, figures) in enumerate(
        [(OUTPUTS, ["drift"]), (MOVES, ["invariance"]), ([*OUTPUTS, *MOVES], [])]
    ):
        rest = whole[~whole["quantity"].isin(gone)]
        run = run_of(tmp_path / f"of {n}", invariance=rest, noise=of_noise())
        assert drawn(run) == [*figures, "noise"]


@pytest.mark.parametrize("name", OF_TABLES)
def test_each_table_has_its_figures_on_disk_and_in_the_page(tmp_path, name):
    make, figures = OF_TABLES[name]
    run = run_of(tmp_path, **{name: make()})
    assert drawn(run) == figures
    story = story_of(run)
    assert [shown.name for section in story.sections for shown in section.figures] == figures
    told = (run / "report.html").read_text(encoding="utf-8")
    assert all(escape(title) in told for title in titles(story))


def test_table_that_nobody_registered_is_shown_as_it_is(tmp_path):
    n = 2 * sections.MOST_ROWS
    own = pd.DataFrame(
        {"layer": "<b>", "r2": np.linspace(-1, 1, n), "is_used": [True, False] * (n // 2)}
    )
    own.loc[1, "r2"] = np.nan
    run = run_of(tmp_path, atlas_concepts=own)
    assert drawn(run) == []
    (section,) = story_of(run).sections
    assert section.title == "atlas concepts"
    assert section.lines == [f"The first 200 of {n} rows; atlas_concepts.csv holds all."]
    (table,) = section.tables
    assert table.columns == ("layer", "r2", "is_used")
    assert table.rows[:2] == [("<b>", -1.0, "yes"), ("<b>", None, "no")]
    told = (run / "report.html").read_text(encoding="utf-8")
    assert "<td>&lt;b&gt;</td>" in told.replace(' data-of="layer"', "")


def test_new_figure_and_section_are_one_line_each(tmp_path, monkeypatch):
    from scalecut.figures.analyses import noise_drawing
    from scalecut.report.page import Section

    plot = Plot("own", lambda run: noise_drawing(run.table("own")), "My figure", "My note.")
    monkeypatch.setitem(FIGURES, "own", (plot,))
    monkeypatch.setitem(SECTIONS, "own", lambda run, drawn: [Section(f"{len(drawn)} drawn")])
    run = run_of(tmp_path, own=of_noise())
    assert drawn(run) == ["own"]
    assert titles(story_of(run)) == ["My figure", "1 drawn"]


# --- the page of a curve -------------------------------------------------------------------------


@pytest.fixture
def imaged(tmp_path):
    """A run with images, two of whose files are gone and one of which is broken."""
    whole = with_images(tmp_path)
    run = whole.save(tmp_path / "run", command="scalecut probe")
    for gone in ("0.png", "1.png"):
        (tmp_path / gone).unlink()
    (tmp_path / "2.png").write_text("no image")
    return run, whole


def test_saved_result_has_its_page_which_begins_with_the_finding(imaged):
    run, whole = imaged
    told = (run / "report.html").read_text(encoding="utf-8")
    after = told.split("<h1>Which layer of net encodes area best?</h1>")[1].strip()
    assert after.startswith(f'<p class="lead">{escape(typeset(whole.finding()))}<')
    assert {path.name for path in run.glob("figures/*.png")} == {
        *("curve.png", "curve_exponential.png", "data.png", "predicted.png", "subsets.png"),
    }


def test_predictions_are_those_of_the_run_whatever_the_order_of_layers(imaged):
    run, whole = imaged
    images, predictions = read_predictions(opened(run))
    pd.testing.assert_frame_equal(predictions, whole.predictions())
    told = image_table(whole.image_set)
    pd.testing.assert_frame_equal(images[[*told]], told)
    found = story_of(run).predictions
    assert found.layers == [point.layer for point in whole.points]
    assert found.images.image.tolist() == [image.name for image in whole.image_set.images]
    turned = [predictions[predictions.layer == layer] for layer in reversed(found.layers)]
    pd.concat(turned).to_parquet(run / "predictions.parquet")
    for each in (found, story_of(run).predictions):
        np.testing.assert_array_equal(each.predicted, whole.predicted)


def test_thumbnails_are_of_readable_files_and_bounded(imaged, monkeypatch):
    run, _ = imaged
    found = story_of(run).predictions
    assert sorted(found.thumbnails) == list(range(3, 24))
    assert set(found.images.width[3:]) == {200}
    assert set(found.images.height[3:]) == {100}
    most = max(map(len, found.thumbnails.values()))
    for limit, value, n in (("MOST_THUMBNAILS", 8, 5), ("MOST_THUMBNAIL_BYTES", 4 * most, 4)):
        with monkeypatch.context() as patch:
            patch.setattr(f"scalecut.report.predictions.{limit}", value)
            assert n <= len(story_of(run).predictions.thumbnails) <= n + 3 < MOST_THUMBNAILS
    monkeypatch.setattr("scalecut.report.predictions.thumbnail", None)  # opens no file
    assert story_of(run, has_thumbnails=False).predictions.thumbnails == {}


def test_tables_of_a_curve_hold_its_scores_and_evidence(tmp_path):
    run = probe_run(tmp_path)
    story, frame = story_of(run), curve_table()
    found = table_of(story.sections, "Layers")
    own = frame[(frame.weights == "pretrained") & (frame.target == "true")]
    of_random = frame[frame.weights == "random"].set_index(["subset", "regressor", "layer"]).r2
    names = {"ridge": "Ridge regression", "ols": "Ordinary least squares"}
    for told, key, (_, row) in zip(rows_by_column(found), found.keys, own.iterrows(), strict=True):
        assert key == {"subset": row.subset, "regressor": names[row.regressor]}
        assert told["layer"].split(" (")[0] == row.layer
        assert told["R²"] == pytest.approx(row.r2, abs=1e-6)
        assert told["gain over controls"] == pytest.approx(row.learned, abs=1e-6)
        expected = of_random[row.subset, row.regressor, row.layer]
        assert told["random weights"] == pytest.approx(expected, abs=1e-6)
    evidence = json.loads((run / "run.json").read_text())["evidence"]
    for told in rows_by_column(table_of(story.sections, "Evidence")):
        assert told["peak"].split(" (")[0] == evidence[told["subset"]]["peak"]
        assert told["training images"] == 28
    assert titles(story) == [
        *("Layer by layer", "Evidence", "Subset by subset"),
        *("Ridge, least squares and the width of a layer", "On the axis of the paper"),
    ]
    assert story.predictions is None
    assert story.without_predictions.endswith("Run the command below again to see them.")


def test_facts_of_the_run_are_shown_under_their_names(tmp_path):
    facts = {
        "weights": {"source": "file net.pth", "sha256": "abc", "missing": ["fc.weight", "fc.bias"]},
        "stages": {"features": {"seconds": 12.5, "images_computed": 40, "images_per_second": 3.2}},
        "images": {"n_images": 1174, "measure": "area", "n_by_subset": {"cat": 430, "dog": 744}},
        "settings": {"data": "voc:DIR", "layers": "", "seed": 0, "images": None},
        "computed": {"precision": "bfloat16"},
        "finding": "Nothing was found.",
        "model": "net",
        "images_left_out": [{"name": "a.jpg", "reason": "it is broken"}],
    }
    story = story_of(run_of(tmp_path, facts, noise=of_noise()))
    assert (story.title, story.finding) == ("net", "Nothing was found.")
    assert [(check.name, check.lines) for check in story.checks] == [
        ("Data", ["1,174 images: 430 cat, 744 dog", "measure: area", "voc:DIR"]),
        ("Network", ["weights: file net.pth", "computed in bfloat16"]),
    ]
    assert story.warnings == ["The weights lack 2 tensors of the network."]
    assert [section.title for section in story.trust] == [
        *("Command", "Skipped", "Settings, versions and time"),
    ]
    assert story.trust[0].code == "scalecut"
    tables = {table.title: table.rows for section in story.trust for table in section.tables}
    assert tables["Settings"] == [
        *(("data", "voc:DIR"), ("layers", "none"), ("seed", "0"), ("images", "none")),
    ]
    assert tables["Images skipped"] == [("a.jpg", "it is broken")]
    assert tables["Computed with"] == [("computed.precision", "bfloat16")]
    assert ("weights.missing", "fc.weight, fc.bias") in tables["Network"]
    assert tables["Time"] == [("features", 12.5, 40, 3.2)]
    assert "torch" in dict(tables["Versions"])


def test_page_says_that_nothing_was_skipped_only_where_that_is_known():
    said = [
        ({"left_out": []}, "No image and no layer was skipped."),
        ({"images_left_out": [], "weights": None}, "No image and no layer was skipped."),
        ({"left_out": [], "weights": {"missing": ["a", "b"]}}, "The weights lack 2 tensors of"),
        ({"weights": {"missing": 4}}, "The weights lack 4 tensors of the network."),
        ({"steps": [], "left_out": []}, "No step was skipped; the page of each step lists"),
    ]
    for facts, start in said:
        (line,) = next(each.lines for each in trust(facts) if each.title == "Skipped")
        assert line.startswith(start)
    assert [each.title for each in trust({})] == ["Command", "Settings, versions and time"]


# --- the first screen ----------------------------------------------------------------------------


def judged(folder):
    """What the first screen says below the names of the checks, and its warnings."""
    story = story_of(folder)
    return {check.name: check.lines for check in story.checks}, story.warnings


def test_every_question_names_the_network_and_is_of_a_registered_table(tmp_path):
    assert set(QUESTIONS) | set(CHECKS) <= set(FIGURES) | set(SECTIONS)
    assert {*RESULTS} - {*MARKS} <= set(QUESTIONS)  # every result that has a page of its own
    run = run_of(tmp_path / "noise", {"model": "a{b}"}, noise=of_noise())
    assert story_of(run).question == "Does a{b} encode image size without any object?"
    assert "<h1>Does a{b} encode" in write_report(run)[0].read_text(encoding="utf-8")
    assert story_of(run_of(tmp_path / "other", own=of_noise())).question == ""
    assert story_of(probe_run(tmp_path / "probe")).question.startswith("Which layer of net")


def test_controls_are_those_at_the_peak_and_what_is_not_shown_is_a_warning(tmp_path):
    run = probe_run(tmp_path)
    facts = json.loads((run / "run.json").read_text())
    found, frame = facts["evidence"]["mean"], curve_table()
    of_peak = frame.loc[
        (frame.subset == "mean") & (frame.regressor == "ridge") & (frame.layer == found["peak"])
    ].set_index(["weights", "target"])
    told, warnings = judged(run)
    ends = (number(found[name]) for name in ("learned", "learned_low", "learned_high"))
    assert told["Controls"] == [
        "gain over controls {} [{}, {}]".format(*ends),
        f"at the peak: random weights {number(of_peak.r2['random', 'true'])}, "
        f"shuffled target {number(of_peak.r2['pretrained', 'shuffled'])}",
    ]
    assert ("The gain over controls is not shown to be above 0." in warnings) == (
        found["learned_low"] <= 0
    )
    assert warnings[-1] == "1 layer was skipped."
    last = "No layer was probed after the peak, so no drop could be observed."
    shown = "No layer is shown to encode the target."
    for changed, expected in (
        ({"p_value": 0.2}, shown),
        ({"p_value": 0.01, "peak": found["last"]}, last),
        ({"p_value": None, "r2_low": -0.1, "score_low": -0.1}, shown),
        ({"score_low": None, "r2_low": None}, "There are too few groups to state an interval."),
        ({"learned": None}, NO_GAIN),
    ):
        facts["evidence"]["mean"] = found | changed
        (run / "run.json").write_text(json.dumps(facts))
        told, warnings = judged(run)
        assert expected in warnings
        assert (shown in warnings) == (expected == shown)
        p_values = [line for line in told["Controls"] if line.startswith("p = ")]
        assert len(p_values) == bool(changed.get("p_value"))


def test_only_a_curve_without_any_control_is_said_to_have_none(tmp_path):
    whole = curve_table(("dog", "mean"), ("ridge",)).assign(learned=np.nan)
    is_own, is_true = whole.weights == "pretrained", whole.target == "true"
    permuted = whole[is_true].replace({"weights": {"random": "permuted"}})
    tables = {
        "none": (whole[is_own & is_true], True),
        "shuffled": (whole[is_own], False),
        "permuted": (permuted, False),
        "of random weights": (whole[is_own].assign(weights="random"), False),
        "of random weights alone": (whole[is_own & is_true].assign(weights="random"), True),
    }
    none = "No control was computed, so the score may not be due to training."
    for name, (table, has_none) in tables.items():
        told, warnings = judged(saved(tmp_path / name, table))
        assert (none in warnings, NO_GAIN in warnings) == (has_none, not has_none), name
        assert (told["Controls"] == ["no controls"]) == has_none


def test_what_is_assumed_or_a_first_look_is_a_warning_on_every_page(tmp_path):
    facts = {
        "assumed": ["values are between 0 and 1"],
        "weights": {"kind": "random"},
        "settings": {"quick": True, "data": "ImageSet"},
    }
    told, warnings = judged(run_of(tmp_path, facts, noise=of_noise()))
    assert told == {}
    assert warnings == [
        "Assumed: values are between 0 and 1.",
        "The network has random weights.",
        "A first look: few images, controls and permutations.",
    ]
    page = write_report(tmp_path)[0].read_text(encoding="utf-8")
    assert all(warning in page.partition("</aside>")[0] for warning in warnings)


def test_commands_in_sentences_are_code_on_every_page(tmp_path):
    said = "Cut them again with `scalecut patches --at <b>-1`, or at -1."
    reason = f"A slide. {said}"
    facts = {"assumed": [said], "finding": said, "left_out": [{"name": "`a`", "reason": reason}]}
    page = write_report(run_of(tmp_path, facts, noise=of_noise()))[0].read_text(encoding="utf-8")
    shown = "Cut them again with <code>scalecut patches --at &lt;b&gt;-1</code>, or at −1."
    assert page.count(shown) == 3
    assert page.count("`a`") == 1  # a name means itself
    assert "`" not in page.replace("`a`", "").partition("<script")[0]


def test_an_audit_says_by_what_tiles_were_judged(tmp_path):
    counts = {"n_audited": 44, "n_reference": 41, "n_reference_patients": 40}
    variants = pd.DataFrame({"layer": ["b"], "blur": ["matched"], "n_suspicious": [3]})
    run = opened(run_of(tmp_path, {"audit": counts | {"notes": ["N."]}}, variants=variants))
    checks, warnings = CHECKS["audit"](run)
    assert [line for check in checks for line in check.lines] == [
        *("44 audited, by 41 tiles of 40 patients", "b, blur matched: 3"),
    ]
    assert warnings == ["N."]


# --- transfer, paper, cuts -----------------------------------------------------------------------


def transfer_run(folder, facts=None, n_seeds=3, **more):
    rows = [
        (method, layer, tile, "kappa", value + 0.1 * seed)
        for method, layer, value in (("cut", "b", 0.5), ("scratch", "pooled", 0.2))
        for seed in range(n_seeds)
        for tile in ("all", "t1")
    ]
    differences = pd.DataFrame(
        [("cut", "scratch", "kappa", 0.3, 0.1, 0.5, 0.002, 3, 3)], columns=COLUMNS["differences"]
    )
    table = pd.DataFrame(rows, columns=COLUMNS["transfer"])
    return run_of(folder, facts, transfer=table, differences=differences, **more)


def test_transfer_has_scores_and_differences(tmp_path):
    run = transfer_run(tmp_path / "3", TRANSFER_FACTS, sweep=swept(np.nan))
    assert drawn(run) == ["sweep"]
    found = story_of(run)
    assert titles(found) == ["Cut at every layer", "Transfer"]
    assert found.sections[1].lines[0].startswith("Task: area. Means over 10 fits, on all test")
    (check,) = [check for check in found.checks if check.name == "Test"]
    assert "10 fits of each method" in check.lines
    scores = table_of(found.sections, "Scores, mean ± standard deviation over fits")
    assert scores.columns == ("method", "layer", "kappa")
    assert [row[2][0] for row in scores.rows] == ["0.60\xa0±\xa00.10", "0.30\xa0±\xa00.10"]
    assert table_of(found.sections, "Differences").rows == [
        ("cut", "scratch", "kappa", 0.3, interval(0.1, 0.5), ("0.002", 0.002), "3 of 3")
    ]
    alone = story_of(transfer_run(tmp_path / "1", n_seeds=1)).sections
    scores = table_of(alone, "Scores, mean ± standard deviation over fits")
    assert [row[2] for row in scores.rows] == [("0.50", 0.5), ("0.20", 0.2)]  # of a single fit


AGREED = pd.DataFrame({
    "metric": ["kappa", "kappa_quadratic"], "rho": [0.7, np.nan], "low": [-0.1, np.nan],
    "high": [0.9, np.nan], "rho_depth": [0.2, 0.1], "regret": [0.05, 0.0],
    "regret_last": [0.3, 0.2], "best": ["b", "b"], "foretold": ["c", "b"], "n_layers": [17, 17],
})  # fmt: skip
TRIED = pd.DataFrame({
    "layers": ["a", "b", "up to b", "up to c"], "mae": [9.0, 7.0, 6.0, 8.0],
    "kappa": [0.2, 0.6, 0.6, np.nan],
})  # fmt: skip


def test_agreement_and_configurations_have_their_sections(tmp_path):
    found = story_of(transfer_run(tmp_path, agreement=AGREED, configurations=TRIED))
    assert titles(found) == [
        *("Transfer", "Does the curve predict the best cut?"),
        "Configurations of the method tuned",
    ]
    first, second = rows_by_column(table_of(found.sections, "Agreement"))
    assert first == {
        "metric": "kappa", "correlation with R²": 0.7, "95 %": interval(-0.1, 0.9),
        "correlation with depth": 0.2, "best layer": "b", "layer of highest R²": "c",
        "its loss": 0.05, "loss of the last layer": 0.3, "layers": 17,
    }  # fmt: skip
    assert (second["metric"], second["95 %"]) == ("kappa quadratic", "no\xa0interval")
    assert np.isnan(second["correlation with R²"])
    tried = table_of(found.sections, "Configurations")
    assert tried.columns == ("layers", "mae", "kappa")
    assert [row[0] for row in tried.rows] == ["b", "up to b", "a", "up to c"]  # the chosen first
    assert tried.rows[0] == ("b", 7.0, 0.6)
    assert np.isnan(tried.rows[-1][-1])


@pytest.mark.parametrize("has_validation", [False, True])
def test_training_has_a_row_per_epoch(tmp_path, has_validation):
    losses = pd.DataFrame(
        [
            ("cut", "b", epoch, 4 / epoch + seed, 5 / epoch + seed, epoch == 1 + seed)
            for seed in range(2)
            for epoch in (1, 2)
        ],
        columns=COLUMNS["losses"],
    )
    if not has_validation:
        losses["validation_loss"] = np.nan
    run = transfer_run(tmp_path, losses=losses)
    told = rows_by_column(table_of(story_of(run).sections, "Losses by epoch"))
    assert [(row["method"], row["epoch"], row["fits kept here"]) for row in told] == [
        *(("cut", 1, 1), ("cut", 2, 1)),
    ]
    spread = np.std([0, 1], ddof=1)
    assert told[0]["loss"] == (f"4.50\xa0±\xa0{spread:.2f}", 4.5)
    validation = [(f"{mean:.2f}\xa0±\xa0{spread:.2f}", mean) for mean in (5.5, 3.0)]
    expected = validation if has_validation else [None, None]
    assert [row.get("validation loss") for row in told] == expected
    assert ("validation loss" in told[0]) == has_validation
    assert write_report(run)[0].is_file()


def test_paper_has_claims_pages_and_experiments(tmp_path):
    paper = of_paper().assign(mark="", why="")
    claims = pd.DataFrame({"network": ["inception_v3"], "claim": ["It holds."], "note": [np.nan]})
    facts = {
        "pages": ["probe"],
        "experiments": [
            {"section": "A.2", "title": "R² by layer", "note": "A note."},
            {"section": "9.9", "title": "Not run", "note": ""},
        ],
    }
    run = run_of(tmp_path, facts, paper=paper, claims=claims)
    assert drawn(run) == ["inception_v3"]
    found = story_of(run).sections
    assert [section.title for section in found] == [
        *("Claims", "Pages of the experiments", "A.2: R² by layer"),
    ]
    assert found[0].tables[0].rows == [("inception_v3", "It holds.", "")]
    assert found[1].links == {"probe": "probe/report.html"}
    assert [figure.name for figure in found[2].figures] == ["inception_v3"]
    ours = paper.ours.iloc[0]
    text, value = found[2].tables[0].rows[0][5]
    assert value == pytest.approx(ours, abs=1e-6)
    assert text == f"{ours:.2f}\xa0[{ours - 0.1:.2f},\xa0{ours + 0.05:.2f}]".replace("-", "−")


COSTS = [  # of 4 million parameters, half are those of a head that no layer depends on
    {"layer": layer, "alias": "", "depth": depth, "parameters": n, "macs": macs}
    for depth, (layer, n, macs) in enumerate((("a", 4e5, 25), ("b", 1e6, 75), ("c", 2e6, 100)))
]


def cut_folder(folder, **facts):
    costs = {"parameters": 4_000_000, "buffers": 0, "macs": 100, "seconds": 0.5, "peak_bytes": 10}
    small = costs | {"parameters": 1_000_000, "macs": 75}
    whole = {
        "format": 1,
        "architecture": "net",
        "point": {"layer": "b"},
        "files": {"model.safetensors": "abc", "example.safetensors": "def"},
        "num_features": 192,
        "choice": {"reason": "b is the earliest."},
        "proof": {"whole": costs, "cut": small, "batch_size": 4, "lines": ["Same.", "Fewer."]},
        "command": "scalecut cut",
    }
    folder.mkdir()
    (folder / "scalecut.json").write_text(json.dumps(whole | facts))
    return folder


def test_cut_has_a_page_with_what_it_saves(tmp_path):
    folder = cut_folder(tmp_path / "cut", curve={"finding": "b is best."})
    assert write_report(folder) == (folder / "report.html", [])
    story = story_of(folder)
    assert (story.title, story.finding) == ("net, cut after b", "Same. Fewer.")
    assert titles(story) == ["The cut after b", "The curve behind the cut"]
    rows = {row[0]: row[1:] for row in table_of(story.sections, "Savings").rows}
    assert rows["parameters"] == (4_000_000, 1_000_000, ("25 %", 0.25))
    assert rows["multiply-accumulates per image"] == (100, 75, ("75 %", 0.75))
    assert rows["milliseconds per batch of 4"][:2] == (500, 500)
    assert rows["peak memory per image, MB"][:2] == pytest.approx((1e-5, 1e-5))
    assert table_of(story.trust, "Files").rows[0] == ("model.safetensors", "abc")
    assert [section.figures for section in story.sections] == [[], []]


def test_share_kept_is_the_same_in_the_figure_and_the_table(tmp_path):
    (section,) = story_of(cut_folder(tmp_path / "cut", costs=COSTS)).sections
    shares = {row[0].split(" per")[0]: row[3][0] for row in section.tables[0].rows[:2]}
    said = section.figures[0].drawing.caption.partition("keeps ")[2]
    assert said == ", ".join(f"{shares[of]} of {of}" for of in sorted(shares))


def test_latency_of_a_cut_is_that_of_pairs_alone(tmp_path):
    """The cut takes 50, 79 and 300 % of the time of the whole; the medians would give 92 %."""
    pairs = np.array([[0.325, 0.256], [0.1, 0.3], [0.9, 0.45]])
    whole, cut = np.median(pairs, axis=0)
    ratio = float(np.median(pairs[:, 1] / pairs[:, 0]))
    assert (whole, cut, round(ratio, 2)) == (0.325, 0.3, 0.79)
    costs = {"parameters": 4, "macs": 9, "peak_bytes": 10}
    proof = {
        "whole": costs | {"seconds": whole},
        "cut": costs | {"seconds": cut},
        "seconds_ratio": ratio,
        "batch_size": 4,
        "lines": ["Same.", "Fewer."],
    }
    story = story_of(cut_folder(tmp_path / "cut", proof=proof))
    rows = {row[0]: row[1:] for row in table_of(story.sections, "Savings").rows}
    assert rows["milliseconds per batch of 4"] == (325, None, ("79 %", ratio))


def test_run_shows_the_cuts_inside_it_with_what_each_layer_costs(tmp_path):
    run = probe_run(tmp_path)
    for name in ("cut", "again"):
        cut_folder(run / name, costs=COSTS)
    (figure,) = story_of(run / "cut").sections[0].figures
    assert "b   ·   keeps 75 % of multiply-accumulates, 25 % of parameters" in str(figure.drawing)
    own = [figure.name for section in story_of(run).sections for figure in section.figures]
    assert {"saving-cut", "saving-again"} < set(own)
    assert len(own) == len(set(own))  # each is drawn and saved by its name
    assert titles(story_of(run))[-2:] == ["The cut after b"] * 2
    assert figure.note in write_report(run / "cut")[0].read_text(encoding="utf-8")


# --- several targets -----------------------------------------------------------------------------


def option(page):
    """The subset that a page shows first; empty if none is chosen."""
    found = re.search(r'<option selected value="([^"]*)"', page.read_text(encoding="utf-8"))
    return found[1] if found else ""


def test_subset_of_several_targets_is_shown_first_of_the_first_that_has_it(tmp_path):
    run = saved(tmp_path / "run", of_targets("area", "age"))
    expected = {"dog": "area · dog", "mean": "area", "cat": "age · cat", "": ""}
    for subset, key in expected.items():
        assert option(write_report(run, subset=subset)[0]) == key
    other = saved(tmp_path / "other", of_targets("height", "age"))
    shared = {"dog": "age · dog", "mean": "age"}
    for subset, key in shared.items():
        file = write_comparison([run, other], tmp_path / "both.html", "", subset=subset)
        assert option(file) == key


def test_learning_curve_of_several_targets_is_on_the_page(tmp_path):
    whole = curve(of_targets("area", "age"))
    learning = pd.concat([whole.table.assign(n_fit=n) for n in (10, 28)], ignore_index=True)
    run = run_of(tmp_path, whole.facts(), learning=learning, **whole.tables())
    section = next(each for each in story_of(run).sections if each.title == LEARNING)
    (shown,) = section.figures
    assert [panel.title.split(":")[0] for panel in shown.drawing.panels] == ["area", "age"]


def test_target_named_mean_has_its_own_curve_and_not_that_of_all(tmp_path):
    story = story_of(saved(tmp_path / "run", of_targets("mean", "age")))
    assert list(story.curves) == ["mean · mean", "mean · dog", "age", "age · dog", "age · cat"]
    labels = {line.look.label for line in story.curves["mean · mean"].panels[0].lines}
    assert "pretrained" in labels
    alone = story_of(saved(tmp_path / "one", of_targets("mean")))
    assert list(alone.curves) == ["mean", "dog", "cat"]


# --- two runs ------------------------------------------------------------------------------------


def test_two_runs_are_shown_with_their_differences_or_why_there_are_none(tmp_path):
    facts = {"images": {"sha256": "x"}, "probe": {"repeats": 2, "seed": 0}}
    one, other = (probe_run(tmp_path / name, **facts) for name in ("one", "other"))
    differences = compare_curves(curve(**facts), curve(**facts))
    for given, shown in ((differences, "peak of one"), ("They are not paired.", "not paired")):
        file = write_comparison([one, other], tmp_path / "both.html", given)
        told = file.read_text(encoding="utf-8")
        assert "<small>one</small>" in told
        assert "<small>other</small>" in told
        assert "one minus other" in told  # by their folders, as both are of the same network
        assert shown in told


def test_runs_without_a_common_curve_are_not_shown_next_to_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = probe_run(Path("one")), saved(Path("other"), of_targets("area", "age"))
    assert refusal(lambda: write_comparison([one, other], Path("both.html"), "")) == (
        "The runs 'one' and 'other' have no curve in common: one has mean, dog, cat; the other "
        "area, area · dog, age, age · dog, age · cat. Probe both with the same --target or "
        "--measure, or compare them with `scalecut compare`."
    )


# --- what has no page ----------------------------------------------------------------------------


def refusal(act, kind=DataError):
    """The message, and that nothing was written."""
    before = files_in(Path())
    with pytest.raises(kind) as error:
        act()
    assert files_in(Path()) == before
    return str(error.value)


def test_folder_or_subset_that_cannot_be_shown_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run, other, cut = probe_run(Path("run")), run_of(Path("other"), noise=of_noise()), Path("cut")
    no_subset = "The run {!r} has no subset 'horse'"
    asked = {
        run: no_subset.format("run") + ". It has 3: dog, cat, mean. Give --subset one of them, or "
        "none.",
        other: no_subset.format("other") + ", because it holds no curve. Leave --subset out.",
    }
    for folder, text in asked.items():
        assert refusal(lambda folder=folder: write_report(folder, subset="horse")) == text
    both = Path("both.html")
    assert refusal(lambda: write_comparison([run, run], both, "", subset="horse")) == asked[run]
    assert refusal(lambda: write_report("none")).startswith("There is no folder 'none'.")
    Path("empty").mkdir()
    assert refusal(lambda: write_report("empty")).startswith("'empty' holds no run of scalecut")
    for lacking in NEEDED:
        facts = json.loads((cut_folder(cut) / "scalecut.json").read_text())
        inner = facts
        for name in lacking.split(".")[:-1]:
            inner = inner[name]
        del inner[lacking.split(".")[-1]]
        (cut / "scalecut.json").write_text(json.dumps(facts))
        assert refusal(lambda: write_report(cut)) == (
            f"'cut' holds no cut of scalecut: scalecut.json cannot be read (it lacks {lacking!r}). "
            "Give a folder that `scalecut cut` wrote."
        )
        shutil.rmtree(cut)
    for folder, name, kind in ((run, "run.json", "run"), (cut_folder(cut), "scalecut.json", "cut")):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(facts | {"format": 99}))
        assert refusal(lambda folder=folder: write_report(folder)) == (
            f"{str(folder)!r} has format 99, but this version reads up to {FORMATS[kind]}. Update "
            "scalecut."
        )


def test_table_or_fact_that_cannot_be_shown_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "The run 'run' has no readable {}.csv ({}). Run the command again."
    run = transfer_run(Path("run"), noise=of_noise())
    for name, columns in COLUMNS.items():
        whole = (run / f"{name}.csv").read_text() if run.joinpath(f"{name}.csv").exists() else None
        (run / f"{name}.csv").write_text(",".join(columns[:-1]) + "\n")
        reason = f"it lacks the column {columns[-1]!r}"
        assert refusal(lambda: write_report(run)) == text.format(name, reason)
        (run / f"{name}.csv").write_text(whole) if whole else (run / f"{name}.csv").unlink()
    (run / "noise.csv").write_text("")
    reason = "No columns to parse from file"
    assert refusal(lambda: write_report(run)) == text.format("noise", reason)
    of_noise().drop(columns="depth").to_csv(run / "noise.csv")
    assert refusal(lambda: write_report(run)) == (
        "The table of noise lacks 1 of the columns that a figure needs, the first is 'depth'. "
        "Give the table as scalecut wrote it."
    )
    probe = probe_run(Path("probe"))
    facts = json.loads((probe / "run.json").read_text())
    del facts["evidence"]["dog"]["peak"]
    (probe / "run.json").write_text(json.dumps(facts))
    assert refusal(lambda: write_report(probe)) == (
        "The evidence of 'dog' in 'probe/run.json' lacks 'peak'. Run the probe again."
    )


def test_predictions_that_do_not_fit_are_refused(imaged):
    run, _ = imaged
    changes = [
        ("images", lambda t: t.drop(columns="left"), "the column 'left' is missing"),
        ("predictions", lambda t: t.drop(columns="layer"), "the column 'layer' is missing"),
        ("images", lambda t: t[::-1], "they are not of the same images"),
        ("predictions", lambda t: t[:-1], "they are not of the same images"),
    ]
    for name, change, reason in changes:
        path = run / f"{name}.parquet"
        whole = path.read_bytes()
        change(pd.read_parquet(path)).to_parquet(path)
        with pytest.raises(DataError) as error:
            write_report(run)
        assert str(error.value) == (
            f"The run {str(run)!r} has no readable images.parquet and predictions.parquet "
            f"({reason}). Run the probe again."
        )
        path.write_bytes(whole)
    (run / "predictions.parquet").unlink()
    with pytest.raises(DataError, match=r"no readable images\.parquet and predictions\.parquet"):
        write_report(run)


def test_place_that_cannot_be_written_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of(Path("run"), noise=of_noise())
    (run / "figures").write_text("")
    assert refusal(lambda: write_report(run), OutputError) == (
        "'run/figures' cannot be written (File exists). Give --out a writable folder."
    )
    (run / "figures").unlink()
    (run / "report.html").mkdir()
    with pytest.raises(OutputError) as error:
        write_report(run)
    assert str(error.value) == (
        "'run/report.html' cannot be written (Is a directory). Give --out a writable folder."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's full disk")
def test_full_disk_is_refused_with_the_remedy(tmp_path):
    place = run_of(tmp_path, noise=of_noise()) / "figures"
    place.mkdir()
    for name in ("noise.svg", "noise.png"):
        (place / name).symlink_to("/dev/full")
        with pytest.raises(OutputError) as error:
            write_report(tmp_path)
        assert str(error.value).startswith(f"The disk of {str(place)!r} is full. Free space, or ")
        (place / "noise.png").unlink(missing_ok=True)
