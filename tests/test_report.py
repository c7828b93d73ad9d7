"""A run folder shows whatever figures its tables allow, and says which table it cannot read."""

from dataclasses import replace
from pathlib import Path

import pytest

from scalecut.errors import DataError, OutputError
from scalecut.invariance import CHANGES
from scalecut.report import draw
from scalecut.runs import write_curve, write_run
from test_charts import of_directions, of_invariance, of_noise, of_scenes
from test_runs import curve, table, tree

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
    monkeypatch.setattr("scalecut.report.DOTS_PER_INCH", 20)


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
    assert sorted(paths) == sorted((run / "figures").iterdir())
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


def refusal(run, kind=DataError):
    before = tree(run) if run.exists() else None
    with pytest.raises(kind) as error:
        draw(run)
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
