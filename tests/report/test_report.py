"""A run folder shows whatever figures its tables allow, and says which table it cannot read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from markupsafe import escape
from scalecut.report.story import COLUMNS, MOST_THUMBNAILS, story_of

from scalecut import make_image_set
from scalecut.analyses.invariance import CHANGES
from scalecut.cut.folder import NEEDED
from scalecut.errors import DataError, OutputError
from scalecut.probing.curve import write_curve
from scalecut.report.page import minus
from scalecut.report.report import draw, write_comparison, write_page
from scalecut.report.sections import interval, trust
from scalecut.runs import FORMAT, read_facts, write_run
from tests.cli.test_app import assert_refused, scalecut
from tests.cli.test_app import tree as everything
from tests.figures.test_analyses import of_directions, of_invariance, of_noise, of_scenes
from tests.figures.test_pathology import FACTS as TRANSFER_FACTS
from tests.figures.test_pathology import swept
from tests.test_runs import curve, table, tree

ANSWERS = ["agreement", "probability_change", "jensen_shannon"]
MOVES = ["drift", "map_error"]
OF_TABLES = {
    "invariance": (of_invariance, ["invariance", "drift"]),
    "noise": (of_noise, ["noise"]),
    "scenes": (of_scenes, ["scenes"]),
    "rcv": (of_directions, ["directions"]),
}


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)


def run_of(folder, **tables):
    """A run folder with these tables."""
    folder.mkdir(parents=True, exist_ok=True)
    write_run(folder, tables, {}, command="scalecut", settings={})
    return folder


def probe_run(folder, subsets=("dog", "cat", "mean"), regressors=("ridge", "ols"), **changes):
    folder.mkdir(parents=True, exist_ok=True)
    made = replace(curve(table(subsets, regressors)), **changes)
    write_curve(made, folder, command="scalecut", settings={})
    return folder


def drawn(run):
    """The names of the figures, each of which must be there as PNG and SVG and nothing else."""
    paths = draw(run)
    assert sorted(paths) == sorted((run / "figures").glob("*"))
    assert [path.suffix for path in paths] == [".png", ".svg"] * (len(paths) // 2)
    assert all(path.stat().st_size > 1000 for path in paths)
    return [path.stem for path in paths[::2]]


# --- which figures -------------------------------------------------------------------------------


def test_figures_of_a_curve_are_written_twice_with_the_same_bytes(tmp_path):
    run = probe_run(tmp_path)
    first = {path: path.read_bytes() for path in draw(run)}
    assert list(first) == [
        run / "figures" / f"{name}.{kind}"
        for name in ("curve", "curve_exponential", "subsets", "width")
        for kind in ("png", "svg")
    ]
    assert {path: path.read_bytes() for path in draw(run)} == first
    assert not any(b"<dc:date>" in content for content in first.values())
    wide = first[run / "figures" / "curve.png"][16:20]
    assert wide == (2000).to_bytes(4, "big")  # 10 inches at 200 dpi


@pytest.mark.parametrize(
    ("subsets", "regressors", "names"),
    [
        (("dog", "mean"), ("ridge",), []),
        (("dog", "cat", "mean"), ("ridge",), ["subsets"]),
        (("dog", "mean"), ("ridge", "ols"), ["width"]),
    ],
)
def test_one_subset_or_regressor_has_no_figure_that_compares_them(
    coarse, tmp_path, subsets, regressors, names
):
    run = probe_run(tmp_path, subsets, regressors)
    assert drawn(run) == ["curve", "curve_exponential", *names]


def test_learning_curve_is_drawn_where_there_is_one(coarse, tmp_path):
    few = replace(curve(table(regressors=["ridge"]).assign(n_fit=14)), points=())
    run = probe_run(tmp_path, ("dog", "mean"), ("ridge",), fewer=(few,))
    assert drawn(run) == ["curve", "curve_exponential", "learning"]


@pytest.mark.parametrize("name", OF_TABLES)
def test_each_table_is_drawn_by_its_own_figures(coarse, tmp_path, name):
    make, figures = OF_TABLES[name]
    assert drawn(run_of(tmp_path, **{name: make()})) == figures


def test_all_tables_of_a_folder_are_drawn_in_the_same_order(coarse, tmp_path):
    run = run_of(tmp_path, noise=of_noise(), invariance=of_invariance())
    assert drawn(run) == ["invariance", "drift", "noise"]


@pytest.mark.parametrize(
    ("gone", "figures"),
    [(ANSWERS, ["drift"]), (MOVES, ["invariance"]), ([*ANSWERS, *MOVES], [])],
    ids=["no logits", "no sizes an octave apart", "neither"],
)
def test_only_what_is_in_the_table_is_drawn(coarse, tmp_path, gone, figures):
    whole = of_invariance()
    rest = whole[~whole["quantity"].isin(gone)]
    assert set(rest["change"]) == set(CHANGES)
    assert drawn(run_of(tmp_path, invariance=rest)) == figures


# --- what cannot be read or written --------------------------------------------------------------


def refusal(run, kind=DataError, act=draw):
    before = tree(run) if run.exists() else None
    with pytest.raises(kind) as error:
        act(run)
    assert (tree(run) if run.exists() else None) == before
    return str(error.value)


def test_folder_that_is_not_there_is_refused_and_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(Path("none")) == (
        "There is no run folder 'none'. Give the folder that a probe wrote (--out)."
    )


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        (
            {},
            "'run' holds no curve: it is empty, or was made by another command. Give the folder "
            "that a probe wrote (--out).",
        ),
        (
            {"noise": of_noise()},
            "The run 'run' has no readable run.json ([Errno 2] No such file or directory: "
            "'run/run.json'). Run the probe again.",
        ),
    ],
    ids=["empty", "with a table"],
)
def test_folder_without_run_json_is_refused(tmp_path, monkeypatch, tables, text):
    monkeypatch.chdir(tmp_path)
    (run_of(Path("run"), **tables) / "run.json").unlink()
    assert refusal(Path("run")) == text


@pytest.mark.parametrize("name", [*OF_TABLES, "learning"])
def test_table_that_cannot_be_read_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (run_of(Path("run")) / f"{name}.csv").write_text("")
    assert refusal(Path("run")) == (
        f"The run 'run' has no readable {name}.csv (No columns to parse from file). Run the "
        "command again."
    )


def test_table_that_is_not_whole_is_refused_by_its_column(tmp_path):
    run = run_of(tmp_path, invariance=of_invariance().drop(columns="quantity"))
    assert refusal(run) == (
        "The table of invariance lacks 1 of the columns that a figure needs, the first is "
        "'quantity'. Give the table as scalecut wrote it."
    )


def test_file_in_the_place_of_the_folder_is_refused_with_the_remedy(coarse, tmp_path):
    run = run_of(tmp_path, noise=of_noise())
    place = run / "figures"
    place.write_text("")
    assert refusal(run, OutputError) == (
        f"The figures cannot be written to {str(place)!r} (File exists). They need a folder that "
        "can be written to and has space left; choose one with --out."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's full disk")
@pytest.mark.parametrize("name", ["noise.png", "noise.svg"])
def test_full_disk_is_told_with_the_remedy(coarse, tmp_path, name):
    place = run_of(tmp_path, noise=of_noise()) / "figures"
    place.mkdir()
    (place / name).symlink_to("/dev/full")
    with pytest.raises(OutputError) as error:
        draw(tmp_path)
    assert str(error.value) == (
        f"The figures cannot be written to {str(place)!r} (No space left on device). They need a "
        "folder that can be written to and has space left; choose one with --out."
    )


# --- what the page tells -------------------------------------------------------------------------


def titles(story):
    return [section.title for section in story.sections]


def table_of(sections, title):
    (table,) = [each for section in sections for each in section.tables if each.title == title]
    return table


def with_photographs(folder, n=24, subset=("dog", "cat")):
    """A run of photographs, each half white in its box; two files are gone, and one is broken."""
    rng, files = np.random.default_rng(0), []
    for number in range(n):
        files.append(folder / f"{number}.png")
        picture = PIL.Image.new("RGB", (200, 100))
        picture.paste("white", (0, 0, 100, 100))
        picture.save(files[-1])
    images = make_image_set(
        files, rng.random(n), subset=[subset[i % len(subset)] for i in range(n)]
    )
    images = replace(images, boxes=np.tile([0.0, 0.0, 100.0, 100.0], (n, 1)))
    made = curve(table((*subset, "mean"), ("ridge",)))
    predicted = rng.random((len(made.points), n))
    run = folder / "run"
    run.mkdir()
    whole = replace(made, image_set=images, predicted=predicted)
    write_curve(whole, run, command="scalecut probe", settings={"model": "net"})
    for gone in files[:2]:
        gone.unlink()
    files[2].write_text("no image")
    return run, whole


def test_page_begins_with_the_finding_of_the_curve(tmp_path):
    run, whole = with_photographs(tmp_path)
    told = write_page(run).read_text(encoding="utf-8")
    assert story_of(run).finding == whole.finding()
    after = told.split("<h1>net</h1>")[1].strip()
    assert after.startswith(f'<p class="lead">{escape(minus(whole.finding()))}<')


def test_page_is_the_same_when_written_again_and_wherever_it_lies(tmp_path):
    run, _ = with_photographs(tmp_path)
    first = write_page(run).read_bytes()
    elsewhere = shutil.copytree(run, tmp_path / "elsewhere")
    assert write_page(elsewhere).read_bytes() == write_page(run).read_bytes() == first


def test_readings_are_those_of_the_run_layer_by_layer(tmp_path):
    run, whole = with_photographs(tmp_path)
    found = story_of(run).readings
    assert found.layers == [point.layer for point in whole.points]
    np.testing.assert_array_equal(found.predicted, whole.predicted)
    assert found.images.image.tolist() == [image.name for image in whole.image_set.images]


def test_layers_of_readings_stand_as_in_the_curve_whatever_their_order_in_the_file(tmp_path):
    run, whole = with_photographs(tmp_path)
    told = pd.read_parquet(run / "predictions.parquet")
    layers = list(dict.fromkeys(told.layer))
    turned = [told[told.layer == layer] for layer in reversed(layers)]
    pd.concat(turned).to_parquet(run / "predictions.parquet")
    np.testing.assert_array_equal(story_of(run).readings.predicted, whole.predicted)


def test_files_that_are_gone_or_broken_have_no_thumbnail_and_stop_nothing(tmp_path):
    run, _ = with_photographs(tmp_path)
    found = story_of(run).readings
    assert sorted(found.thumbnails) == list(range(3, 24))
    assert (found.images.width[3:] == 200).all()
    assert (found.images.height[3:] == 100).all()


def test_page_without_thumbnails_opens_no_file(tmp_path, monkeypatch):
    run, _ = with_photographs(tmp_path)
    monkeypatch.setattr("scalecut.report.story.thumbnail", None)
    assert story_of(run, has_thumbnails=False).readings.thumbnails == {}


@pytest.mark.parametrize(("limit", "n"), [("MOST_THUMBNAILS", 5), ("MOST_THUMBNAIL_BYTES", 4)])
def test_thumbnails_are_bounded_in_number_and_in_bytes(tmp_path, monkeypatch, limit, n):
    run, _ = with_photographs(tmp_path)
    sizes = {len(jpeg) for jpeg in story_of(run).readings.thumbnails.values()}
    most = {"MOST_THUMBNAILS": n + 3, "MOST_THUMBNAIL_BYTES": n * max(sizes)}
    monkeypatch.setattr(f"scalecut.report.story.{limit}", most[limit])
    assert n <= len(story_of(run).readings.thumbnails) <= n + 3 < MOST_THUMBNAILS


def test_run_of_an_earlier_version_says_how_to_get_its_readings(tmp_path):
    found = story_of(probe_run(tmp_path))
    assert found.readings is None
    assert found.without_readings.endswith("Run the command below again to see it.")


def test_scores_stand_in_the_table_subset_by_subset(tmp_path):
    run = probe_run(tmp_path)
    frame = table(("dog", "cat", "mean"), ("ridge", "ols"))
    found = table_of(story_of(run).sections, "Layers")
    own = frame[(frame.weights == "pretrained") & (frame.target == "true")]
    assert len(found.rows) == len(found.keys) == len(own)
    twins = frame[frame.weights == "random"].set_index(["subset", "regressor", "layer"]).r2
    names = {"ridge": "Ridge regression", "ols": "Ordinary least squares"}
    for cells, key, (_, row) in zip(found.rows, found.keys, own.iterrows(), strict=True):
        told = dict(zip(found.columns, cells, strict=True))
        assert key == {"subset": row.subset, "regressor": names[row.regressor]}
        assert told["layer"].split(" (")[0] == row.layer
        assert told["R²"] == pytest.approx(row.r2, abs=1e-6)
        twin = twins[row.subset, row.regressor, row.layer]
        assert told["random weights"] == pytest.approx(twin, abs=1e-6)


def test_page_of_a_curve_has_its_figures_and_what_to_trust_it_by(tmp_path):
    story = story_of(probe_run(tmp_path))
    assert titles(story) == [
        *("Layer by layer", "What it is evidence of", "Subset by subset"),
        *("Ridge, least squares and the width of a layer", "On the axis of the paper"),
    ]
    assert [section.title for section in story.trust] == [
        *("The command", "What was left out", "Settings, versions and time"),
    ]
    assert story.trust[0].code == "scalecut"
    assert table_of(story.trust, "Images left out").rows == [("a.jpg", "it is broken")]
    assert table_of(story.trust, "Layers left out").rows == [("fc", "lacks a tensor")]
    versions = dict(table_of(story.trust, "Versions").rows)
    assert versions["torch"] == read_facts(tmp_path)["versions"]["torch"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"left_out": []}, ["No image and no layer was left out."]),
        ({"images_left_out": [], "weights": None}, ["No image and no layer was left out."]),
        ({"left_out": [], "weights": {"missing": ["a", "b"]}}, ["The weights lack 2 tensors"]),
        ({"weights": {"missing": 4}}, ["The weights lack 4 tensors"]),
        ({"steps": [], "left_out": []}, ["No step was left out; the page of each step says"]),
    ],
)
def test_nothing_left_out_is_said_too_where_it_is_known(facts, said):
    section = next(each for each in trust(facts) if each.title == "What was left out")
    assert [line.startswith(each) for line, each in zip(section.lines, said, strict=True)] == [True]


def test_page_that_does_not_know_what_was_left_out_says_nothing_of_it():
    assert [each.title for each in trust({})] == ["The command", "Settings, versions and time"]


@pytest.mark.parametrize("name", OF_TABLES)
def test_each_table_has_its_figures_in_the_page(tmp_path, name):
    make, figures = OF_TABLES[name]
    run = run_of(tmp_path, **{name: make()})
    sections = story_of(run).sections
    assert [shown.name for section in sections for shown in section.figures] == figures
    told = write_page(run).read_text(encoding="utf-8")
    assert all(escape(title) in told for title in titles(story_of(run)))


def test_facts_of_the_run_stand_under_their_names(tmp_path):
    facts = {
        "weights": {"source": "file net.pth", "sha256": "abc", "missing": ["fc.weight", "fc.bias"]},
        "stages": {"features": {"seconds": 12.5, "images_computed": 40, "images_per_second": 3.2}},
        "images": {"n_images": 1174, "measure": "area", "n_by_subset": {"cat": 430, "dog": 744}},
        "finding": "Nothing was found.",
        "model": "net",
    }
    settings = {"data": "voc:DIR", "layers": "", "seed": 0, "images": None}
    write_run(tmp_path, {"noise": of_noise()}, facts, command="scalecut x", settings=settings)
    story = story_of(tmp_path)
    assert (story.title, story.finding) == ("net", "Nothing was found.")
    assert story.facts[:3] == ["1,174 images", "430 cat, 744 dog", "measure: area"]
    assert story.facts[3:5] == ["weights: file net.pth", "data: voc:DIR"]
    assert table_of(story.trust, "Settings").rows == [
        *(("data", "voc:DIR"), ("layers", "none"), ("seed", "0"), ("images", "none")),
    ]
    assert ("weights.missing", "fc.weight, fc.bias") in table_of(story.trust, "Network").rows
    assert table_of(story.trust, "Time").rows == [("features", 12.5, 40, 3.2)]


# --- transfer, cuts ------------------------------------------------------------------------------


def transfer_run(folder):
    rows = [
        (way, layer, "area", "frozen", seed, tile, "kappa", value + 0.1 * seed, 9, 4)
        for way, layer, value in (("cut", "b", 0.5), ("scratch", "pooled", 0.2))
        for seed in range(3)
        for tile in ("all", "t1")
    ]
    columns = [
        *("contestant", "layer", "task", "mode", "seed", "tile", "metric", "value"),
        *("n_train", "n_test"),
    ]
    differences = pd.DataFrame(
        [("cut", "scratch", "kappa", 0.3, 0.1, 0.5, 0.002, 1.2, 3, 3)],
        columns=[
            *("contestant", "other", "metric", "better", "low", "high", "p_value", "effect"),
            *("n_seeds_better", "n_seeds"),
        ],
    )
    tables = {"transfer": pd.DataFrame(rows, columns=columns), "differences": differences}
    write_run(folder, tables, {"task": "area"}, command="scalecut transfer", settings={})
    return folder


def test_transfer_is_told_by_scores_and_differences(tmp_path):
    sections = story_of(transfer_run(tmp_path)).sections
    scores = table_of(sections, "Scores, mean ± spread of fits")
    assert scores.columns == ("contestant", "layer", "kappa")
    assert [row[2][0] for row in scores.rows] == ["0.60\xa0±\xa00.10", "0.30\xa0±\xa00.10"]
    told = table_of(sections, "Differences").rows
    assert told == [
        ("cut", "scratch", "kappa", 0.3, interval(0.1, 0.5), ("0.002", 0.002), "3 of 3")
    ]
    assert draw(tmp_path) == []


def test_figures_of_a_transfer_are_in_its_page_and_on_disk(coarse, tmp_path):
    transfer_run(tmp_path)
    write_run(tmp_path, {"sweep": swept(np.nan)}, TRANSFER_FACTS, command="", settings={})
    assert drawn(tmp_path) == ["sweep"]
    assert titles(story_of(tmp_path)) == ["Cut at every layer", "Transfer"]


AGREED = {
    "metric": ["kappa", "kappa_quadratic"], "rho": [0.7, np.nan], "low": [-0.1, np.nan],
    "high": [0.9, np.nan], "rho_depth": [0.2, 0.1], "regret": [0.05, 0.0],
    "regret_last": [0.3, 0.2], "best": ["b", "b"], "foretold": ["c", "b"], "n_layers": [17, 17],
}  # fmt: skip
TRIED = {
    "layers": ["a", "b", "up to b", "up to c"],
    "mae": [9.0, 7.0, 6.0, 8.0],
    "kappa": [0.2, 0.6, 0.6, np.nan],
}


def test_page_of_a_sweep_says_whether_the_probe_foretells_it(tmp_path):
    run = transfer_run(tmp_path)
    write_run(run, {"agreement": pd.DataFrame(AGREED)}, {}, command="", settings={})
    story = story_of(run)
    assert titles(story) == ["Transfer", "Whether the curve foretells it"]
    found = table_of(story.sections, "Agreement")
    first, second = (dict(zip(found.columns, row, strict=True)) for row in found.rows)
    assert first == {
        "metric": "kappa", "rank correlation": 0.7, "95 %": interval(-0.1, 0.9), "of depth": 0.2,
        "best layer": "b", "highest in the probe": "c", "loses": 0.05, "last layer loses": 0.3,
        "layers": 17,
    }  # fmt: skip
    assert (second["metric"], second["95 %"]) == ("kappa quadratic", None)
    assert np.isnan(second["rank correlation"])


def test_page_of_what_was_tuned_begins_with_what_was_taken(tmp_path):
    run = transfer_run(tmp_path)
    write_run(run, {"configurations": pd.DataFrame(TRIED)}, {}, command="", settings={})
    found = table_of(story_of(run).sections, "Configurations")
    assert found.columns == ("layers", "mae", "kappa")
    assert [row[0] for row in found.rows] == ["b", "up to b", "a", "up to c"]
    assert found.rows[0] == ("b", 7.0, 0.6)
    assert np.isnan(found.rows[-1][-1])


@pytest.mark.parametrize("has_validation", [False, True])
def test_page_of_a_training_has_a_row_an_epoch(tmp_path, has_validation):
    losses = pd.DataFrame(
        [
            ("cut", "b", seed, epoch, 4 / epoch + seed, 5 / epoch + seed, epoch == 1 + seed)
            for seed in range(2)
            for epoch in (1, 2)
        ],
        columns=[
            *("contestant", "layer", "seed", "epoch", "loss", "validation_loss", "is_used"),
        ],
    )
    if not has_validation:
        losses["validation_loss"] = np.nan
    run = transfer_run(tmp_path)
    write_run(run, {"losses": losses}, {}, command="", settings={})
    found = table_of(story_of(run).sections, "Losses by epoch")
    told = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    assert [(row["contestant"], row["epoch"], row["fits kept here"]) for row in told] == [
        *(("cut", 1, 1), ("cut", 2, 1)),
    ]
    spread = np.std([0, 1], ddof=1)
    assert told[0]["loss"] == (f"4.50\xa0±\xa0{spread:.2f}", 4.5)
    assert [row.get("validation loss") for row in told] == (
        [(f"{mean:.2f}\xa0±\xa0{spread:.2f}", mean) for mean in (5.5, 3.0)]
        if has_validation
        else [None, None]
    )
    assert ("validation loss" in found.columns) == has_validation
    assert write_page(run).is_file()


@pytest.mark.parametrize("name", COLUMNS)
def test_table_of_a_transfer_that_lacks_a_column_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    transfer_run(Path())
    last = COLUMNS[name][-1]
    Path(f"{name}.csv").write_text(",".join(COLUMNS[name][:-1]) + "\n")
    assert refusal(Path(), act=write_page) == (
        f"The run '.' has no readable {name}.csv (it lacks the column {last!r}). Run the command "
        "again."
    )


def test_score_of_a_single_fit_has_no_spread(tmp_path):
    run = transfer_run(tmp_path)
    whole = pd.read_csv(run / "transfer.csv")
    whole[whole.seed == 0].to_csv(run / "transfer.csv", index=False)
    scores = table_of(story_of(run).sections, "Scores, mean ± spread of fits")
    assert [row[2] for row in scores.rows] == [("0.50", 0.5), ("0.20", 0.2)]


def cut_folder(folder, **facts):
    costs = {"parameters": 4_000_000, "buffers": 0, "macs": 100, "seconds": 0.5, "peak_bytes": 10}
    small = costs | {"parameters": 1_000_000, "macs": 75}
    whole = {name: "" for name in NEEDED if "." not in name} | {
        "format": 1,
        "architecture": "net",
        "point": {"layer": "b"},
        "files": {"model.safetensors": "abc", "example.safetensors": "def"},
        "versions": {"torch": "2"},
        "num_features": 192,
        "choice": {"reason": "b is the earliest."},
        "proof": {"whole": costs, "cut": small, "batch_size": 4, "lines": ["Same.", "Fewer."]},
        "command": "scalecut cut",
    }
    folder.mkdir()
    (folder / "scalecut.json").write_text(json.dumps(whole | facts))
    return folder


def test_cut_has_a_page_with_what_it_saves(tmp_path):
    folder = cut_folder(tmp_path / "cut")
    story = story_of(folder)
    assert (story.title, story.finding) == ("net, cut after b", "Same. Fewer.")
    rows = {row[0]: row[1:] for row in table_of(story.sections, "Savings").rows}
    assert rows["parameters"] == (4_000_000, 1_000_000, ("25 %", 0.25))
    assert rows["multiply-accumulates an image"] == (100, 75, ("75 %", 0.75))
    assert rows["milliseconds a batch of 4"][:2] == (500, 500)
    assert rows["peak memory an image, MB"][:2] == pytest.approx((1e-5, 1e-5))
    assert table_of(story.trust, "Files").rows[0] == ("model.safetensors", "abc")
    assert [section.figures for section in story.sections] == [[]] * len(story.sections)
    assert draw(folder) == []
    assert write_page(folder).is_file()


def test_cut_that_tells_what_each_layer_costs_has_a_figure_of_it_and_so_has_its_run(tmp_path):
    costs = [{"layer": layer, "alias": "", "depth": depth, "parameters": n, "macs": 10 * n}
             for depth, (layer, n) in enumerate((("a", 1), ("b", 3), ("c", 4)))]  # fmt: skip
    run = probe_run(tmp_path)
    for name in ("cut", "again"):
        cut_folder(run / name, costs=costs)
    (figure,) = story_of(run / "cut").sections[0].figures
    assert "b   ·   keeps 75 % of multiply-accumulates, 75 % of parameters" in str(figure.drawing)
    own = [figure.name for section in story_of(run).sections for figure in section.figures]
    assert {"saving-cut", "saving-again"} < set(own)
    assert len(own) == len(set(own))  # each is drawn and saved by its name
    assert figure.note in write_page(run / "cut").read_text(encoding="utf-8")


@pytest.mark.parametrize("lacking", [name for name in NEEDED if name.startswith("proof.")])
def test_cut_that_lacks_its_proof_is_refused_in_one_line(tmp_path, monkeypatch, lacking):
    monkeypatch.chdir(tmp_path)
    folder = cut_folder(Path("cut"))
    facts = json.loads((folder / "scalecut.json").read_text())
    del facts["proof"][lacking.removeprefix("proof.")]
    (folder / "scalecut.json").write_text(json.dumps(facts))
    assert refusal(folder, act=write_page) == (
        f"'cut' holds no cut network: scalecut.json cannot be read (it lacks {lacking!r}). Give a "
        "folder that `scalecut cut` wrote."
    )


def test_run_tells_of_the_cuts_inside_it(tmp_path):
    run = probe_run(tmp_path)
    cut_folder(run / "cut")
    assert titles(story_of(run))[-1] == "The cut after b"


# --- two runs ------------------------------------------------------------------------------------


def test_two_runs_are_told_with_their_differences(tmp_path):
    facts = {"images": {"sha256": "x"}, "probe": {"repeats": 2, "seed": 0}}
    one = probe_run(tmp_path / "one", provenance=facts)
    other = probe_run(tmp_path / "other", provenance=facts)
    file = write_comparison(one, other, tmp_path / "both.html")
    told = file.read_text(encoding="utf-8")
    assert "<small>one</small>" in told
    assert "<small>other</small>" in told
    assert "peak of one" in told  # by their folders, as both are of the same network
    assert "one less other" in told


def test_two_runs_that_are_not_paired_are_told_with_the_reason(tmp_path):
    ways = ({"images": {"sha256": each}} for each in ("x", "y"))
    one, other = (
        probe_run(tmp_path / name, provenance=facts)
        for name, facts in zip(("one", "other"), ways, strict=True)
    )
    told = write_comparison(one, other, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "The two runs are not of the same images" in told
    assert "peak of net" not in told


# --- what has no page ----------------------------------------------------------------------------


def test_subset_that_the_run_has_not_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probe_run(Path("run"))
    run_of(Path("other"), noise=of_noise())
    assert refusal(Path("run"), act=lambda run: write_page(run, subset="horse")) == (
        "The run 'run' has no subset 'horse'. It has 3: dog, cat, mean. Give --subset one that it "
        "has, or none."
    )
    assert refusal(Path("other"), act=lambda run: write_page(run, subset="horse")) == (
        "The run 'other' has no subset 'horse'. It has no curve. Give --subset one that it has, or "
        "none."
    )


@pytest.mark.parametrize("act", [draw, write_page])
@pytest.mark.parametrize("kind", ["probe", "noise"])
def test_run_of_a_newer_version_is_refused(tmp_path, monkeypatch, act, kind):
    monkeypatch.chdir(tmp_path)
    run = probe_run(Path("run")) if kind == "probe" else run_of(Path("run"), noise=of_noise())
    newer = read_facts(run) | {"format": FORMAT + 1}
    (run / "run.json").write_text(json.dumps(newer))
    assert refusal(run, act=act) == (
        f"The run 'run' has format {FORMAT + 1}, but this version reads up to {FORMAT}. Update "
        "scalecut."
    )


@pytest.mark.parametrize(
    ("gone", "text"),
    [
        (
            "curve.csv",
            "'run' holds no curve: it is empty, or was made by another command. Give the folder "
            "that a probe wrote (--out).",
        ),
        (
            "run.json",
            "The run 'run' has no readable run.json ([Errno 2] No such file or directory: "
            "'run/run.json'). Run the probe again.",
        ),
        (
            "draws.npy",
            "The run 'run' has no readable draws.npy and points ([Errno 2] No such file or "
            "directory: 'run/draws.npy'). Run the probe again.",
        ),
        (
            "images.parquet",
            "The run 'run' has no readable images.parquet and predictions.parquet "
            "(run/images.parquet). Run the probe again.",
        ),
    ],
)
def test_page_of_a_folder_that_is_not_whole_is_refused(tmp_path, monkeypatch, gone, text):
    monkeypatch.chdir(tmp_path)
    with_photographs(tmp_path)
    (Path("run") / gone).unlink()
    assert refusal(Path("run"), act=write_page) == text


def test_folder_in_the_place_of_the_page_is_refused_with_the_remedy(tmp_path):
    run = run_of(tmp_path, noise=of_noise())
    (run / "report.html").mkdir()
    assert refusal(run, OutputError, write_page) == (
        f"The page cannot be written to {str(run / 'report.html')!r} (Is a directory). It needs a "
        "folder that can be written to and has space left."
    )


# --- as it is typed ------------------------------------------------------------------------------


def asked(*typed):
    """What `scalecut report` says, which must leave everything as it was."""
    before = everything()
    return scalecut("report", *typed), before


def test_empty_folder_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert_refused(
        *asked("empty"),
        "'empty' holds no curve: it is empty, or was made by another command. Give the folder that "
        "a probe wrote (--out).",
    )


def test_subset_that_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probe_run(Path("run"))
    assert_refused(
        *asked("run", "--subset", "nosuch"),
        "The run 'run' has no subset 'nosuch'. It has 3: dog, cat, mean. Give --subset one that it "
        "has, or none.",
    )


@pytest.mark.parametrize("kind", ["run", "cut"])
def test_newer_format_is_refused_in_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    folder = probe_run(Path("run")) if kind == "run" else cut_folder(Path("cut"))
    file = folder / ("run.json" if kind == "run" else "scalecut.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 9}))
    what, until = ("The run 'run'", FORMAT) if kind == "run" else ("'cut'", 1)
    text = f"{what} has format 9, but this version reads up to {until}. Update scalecut."
    assert_refused(*asked(folder), text)


def test_one_folder_is_not_laid_beside_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probe_run(Path("run"))
    assert_refused(
        *asked("--compare", "run"),
        "--compare lays two runs side by side, but 1 is given. Give two run folders.",
    )
