"""A run folder is whole or not there; what is read back is what was written."""

import errno
import hashlib
import io
import json
import os
import re
import sys
from dataclasses import replace
from importlib import metadata
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from rich.console import Console

from scalecut import Curve, DataError, OutputError, ProbePoint, make_image_set
from scalecut.cli.terminal import (
    bars,
    comparison_table,
    controls_in_words,
    curve_table,
    layer_table,
)
from scalecut.data.images import LeftOut
from scalecut.networks.network import Preprocessing, Weights
from scalecut.probing.curve import compare, image_table, read_curve, read_run, write_curve
from scalecut.report.report import draw
from scalecut.report.sections import read_predictions
from scalecut.runs import FORMAT, check_place, gathered, new_run, read_facts, versions, write_table

HEADER = (
    "model,subset,measure,layer,alias,depth,n_features,n_images,weights,target,regressor,"
    "r2,r2_low,r2_high,p_value,seed_count,n_fit,r2_spread,learned,learned_low,learned_high"
)
LAYERS = {"0": "", "stem[0]": "add_1", "softmax": "softmax"}
LINES = [("pretrained", "true"), ("random", "true"), ("pretrained", "shuffled")]


def points():
    return tuple(
        ProbePoint(layer, alias, number / 2, layer, "output", channels=8 * (number + 1))
        for number, (layer, alias) in enumerate(LAYERS.items())
    )


def table(subsets=("dog", "mean"), regressors=("ridge", "ols"), lines=LINES):
    """A row for every combination; R² to more digits than are written."""
    rng = np.random.default_rng(0)
    rows = []
    for subset in subsets:
        for weights, target in lines:
            for regressor in regressors:
                for point in points():
                    r2, is_main = rng.uniform(-2, 1), (weights, target) == ("pretrained", "true")
                    rows.append(
                        [
                            *("net", subset, "area", point.layer, point.alias, point.depth),
                            *(point.channels, 40, weights, target, regressor),
                            *(r2, r2 - 0.1, r2 + 0.1, np.nan, 10, 28, np.nan),
                            *((r2 - 0.3, r2 - 0.4, r2 - 0.2) if is_main else [np.nan] * 3),
                        ]
                    )
    return pd.DataFrame(rows, columns=HEADER.split(","))


def curve(frame=None, provenance=None):
    left_out = (LeftOut("a.jpg", "it is broken"),)
    frame = table() if frame is None else frame
    noise = np.random.default_rng(1).normal(size=(len(frame), 50))
    draws = (frame.r2.to_numpy()[:, None] + 0.01 * noise).astype(np.float32)
    lacking = (LeftOut("fc", "lacks a tensor"),)
    return Curve(frame, draws, points(), lacking, left_out, provenance or {})


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def make_run(folder, text="a run"):
    with new_run(folder) as place:
        (place / "run.json").write_text(text)
        (place / "figures").mkdir()
        (place / "figures" / "curve.png").write_text(text)


def write(folder, frame=None, **provenance):
    folder.mkdir(exist_ok=True)
    write_curve(curve(frame, provenance), folder, command="scalecut demo", settings={"seed": 0})
    return folder


# --- whole, or not there -------------------------------------------------------------------------


def test_run_appears_when_it_is_whole_and_not_before(tmp_path):
    run = tmp_path / "deep" / "runs" / "mine"
    with new_run(run) as place:
        (place / "run.json").write_text("{}")
        assert not run.exists()
        assert place.parent == run.parent  # the same disk, so that renaming is enough
    assert tree(tmp_path / "deep") == {
        "runs": None,
        "runs/mine": None,
        "runs/mine/run.json": b"{}",
    }
    assert run.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, DataError])
def test_run_that_is_broken_off_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_run(tmp_path / "run") as place:
        (place / "run.json").write_text("half")
        raise error
    assert tree(tmp_path) == {}


def test_earlier_run_is_replaced_as_a_whole(tmp_path):
    make_run(tmp_path / "run", "old")
    (tmp_path / "run" / "note.txt").write_text("of the old run")
    make_run(tmp_path / "run", "new")
    assert tree(tmp_path) == {
        "run": None,
        "run/run.json": b"new",
        "run/figures": None,
        "run/figures/curve.png": b"new",
    }


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_earlier_run_stays_while_the_new_one_is_not_whole(tmp_path, error):
    make_run(tmp_path / "run", "old")
    before = tree(tmp_path)
    expected = OutputError if isinstance(error, OSError) else error
    with pytest.raises(expected), new_run(tmp_path / "run") as place:
        (place / "run.json").write_text("half")
        raise error
    assert tree(tmp_path) == before


def test_earlier_run_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    run = tmp_path / "run"
    make_run(run, "old")
    before, rename = tree(tmp_path), Path.rename

    def refused(self, target):
        if Path(target) == run and not self.name.endswith("-replaced"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError) as caught:
        make_run(run, "new")
    assert str(caught.value) == (
        f"'{run}' cannot be written (Permission denied). Give --out a folder that can."
    )
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "The disk of {run!r} is full. Free space or give --out another place; computed "
            "features are cached, so the same command goes on from there.",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            "{run!r} cannot be written (Read-only file system). Give --out a folder that can.",
        ),
        (OutputError("said by the figures."), "said by the figures."),
    ],
    ids=["full", "read-only", "ours"],
)
def test_writing_that_fails_says_where_and_what_to_do(tmp_path, error, told):
    run = str(tmp_path / "run")
    with pytest.raises(OutputError) as caught, new_run(Path(run)):
        raise error
    assert str(caught.value) == told.format(run=run)
    assert tree(tmp_path) == {}


def test_folder_of_others_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError) as caught:
        check_place(tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path}' is there and holds no run of scalecut, so it is not replaced. "
        "Give --out a new folder."
    )
    with pytest.raises(OutputError, match="holds no run of scalecut"), new_run(tmp_path):
        pytest.fail("the block must not be entered")
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_file_is_no_place_for_a_run(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OutputError) as caught:
        check_place(file)
    assert str(caught.value) == (
        f"'{file}' is a file, but a folder is needed. Give --out a new folder."
    )
    with pytest.raises(OutputError) as caught:
        check_place(file / "sub" / "run")
    assert str(caught.value) == (
        f"'{file}/sub/run' cannot be written (Not a directory). Give --out a folder that can."
    )


def test_place_is_checked_without_making_anything(tmp_path):
    check_place(tmp_path / "a" / "b" / "run")
    check_place(tmp_path / "run")
    assert tree(tmp_path) == {}


# --- beside the runs that a folder holds ---------------------------------------------------------


def gather(folder, text="a table"):
    with gathered(folder) as place:
        (place / "run.json").write_text(text)
        (place / "paper.csv").write_text(text)
        (place / "figures").mkdir()
        (place / "figures" / "paper.png").write_text(text)
        return place, tree(folder)


@pytest.fixture
def steps(tmp_path):
    """A folder that holds a run, and what makes it one of many runs."""
    make_run(tmp_path / "paper" / "step")
    (tmp_path / "paper" / "paper.json").write_text("{}")
    return tmp_path / "paper"


def test_what_is_gathered_appears_beside_the_runs_when_it_is_whole(steps):
    before = tree(steps)
    place, meanwhile = gather(steps)
    assert place.parent == steps  # the same disk, so that renaming is enough
    assert {name for name in meanwhile if not name.startswith(".made-")} == set(before)
    assert tree(steps) == before | {
        "run.json": b"a table",
        "paper.csv": b"a table",
        "figures": None,
        "figures/paper.png": b"a table",
    }


def test_run_json_comes_last_so_that_it_vouches_for_the_rest(steps, monkeypatch):
    moved, replace_ = [], Path.replace

    def noted(self, target):
        moved.append(Path(target).relative_to(steps).as_posix())
        return replace_(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    gather(steps)
    assert moved[-1] == "run.json"
    assert sorted(moved) == ["figures/paper.png", "paper.csv", "run.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, DataError])
def test_gathering_that_is_broken_off_changes_nothing(steps, error):
    gather(steps, "earlier")
    before = tree(steps)
    with pytest.raises(error), gathered(steps) as place:
        (place / "run.json").write_text("half")
        raise error
    assert tree(steps) == before


def test_what_was_gathered_earlier_is_replaced_file_by_file(steps):
    for text in ("earlier", "later"):
        gather(steps, text)
    found = tree(steps)
    assert {found[name] for name in ("run.json", "paper.csv", "figures/paper.png")} == {b"later"}
    assert found["step/run.json"] == b"a run"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "The disk of {run!r} is full. Free space or give --out another place; computed "
            "features are cached, so the same command goes on from there.",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            "{run!r} cannot be written (Read-only file system). Give --out a folder that can.",
        ),
        (OutputError("said by the figures."), "said by the figures."),
    ],
    ids=["full", "read-only", "ours"],
)
def test_gathering_that_cannot_be_written_says_where_and_what_to_do(steps, error, told):
    before = tree(steps)
    with pytest.raises(OutputError) as caught, gathered(steps):
        raise error
    assert str(caught.value) == told.format(run=str(steps))
    assert tree(steps) == before


def test_nothing_is_gathered_where_there_is_no_folder(tmp_path):
    with pytest.raises(OutputError) as caught, gathered(tmp_path / "none"):
        pytest.fail("the block must not be entered")
    assert str(caught.value) == (
        f"'{tmp_path / 'none'}' cannot be written (No such file or directory). Give --out a folder "
        "that can."
    )


def test_run_is_no_place_for_many_runs(tmp_path):
    make_run(tmp_path / "run")
    with pytest.raises(OutputError, match="holds no paper of scalecut, so it is not replaced"):
        check_place(tmp_path / "run", "paper")


# --- what is written -----------------------------------------------------------------------------


def test_curve_has_the_documented_header_and_six_decimals(tmp_path):
    write(tmp_path / "run")
    header, *lines = (tmp_path / "run" / "curve.csv").read_bytes().decode().split("\n")
    assert header == HEADER
    assert lines.pop() == ""
    for line, (_, row) in zip(lines, table().iterrows(), strict=True):
        names = f"net,{row.subset},area,{row.layer},{row.alias},{row.depth:.6f}"
        counts = f"{row.n_features},40,{row.weights},{row.target},{row.regressor}"
        learned = [row.learned, row.learned_low, row.learned_high]
        listed = ",".join("" if np.isnan(value) else f"{value:.6f}" for value in learned)
        scores = f"{row.r2:.6f},{row.r2_low:.6f},{row.r2_high:.6f},,10,28,,{listed}"
        assert line == f"{names},{counts},{scores}"


def test_run_json_holds_what_was_asked_and_what_it_was_computed_from(tmp_path):
    facts = {
        "weights": Weights("pretrained", "file net.pth", "abc", ("fc.weight",)),
        "preprocessing": Preprocessing(height=32),
        "images": {"n_images": 40},
    }
    frame, folder = table(), tmp_path / "run"
    folder.mkdir()
    settings = {"data": "voc:DIR", "images": Path("pictures"), "seed": 0}
    write_curve(curve(frame, facts), folder, command="scalecut probe net", settings=settings)
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert list(told) == [
        *("format", "command", "settings", "written", "versions", "machine"),
        *(
            *facts,
            "evidence",
            "evidence_with_fewer_to_fit",
            "points",
            "layers_left_out",
            "images_left_out",
        ),
    ]
    assert told["format"] == FORMAT
    assert told["command"] == "scalecut probe net"
    assert told["settings"] == {"data": "voc:DIR", "images": "pictures", "seed": 0}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", told["written"])
    assert told["versions"] == versions()
    assert told["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["weights"]["sha256"] == "abc"
    assert told["weights"]["missing"] == ["fc.weight"]
    assert told["preprocessing"]["height"] == 32
    assert set(told["evidence"]) == {"dog", "mean"}
    assert told["evidence"]["dog"]["p_value"] is None  # JSON has no nan
    assert [point["layer"] for point in told["points"]] == list(LAYERS)
    assert told["layers_left_out"] == [{"name": "fc", "reason": "lacks a tensor"}]
    assert told["images_left_out"] == [{"name": "a.jpg", "reason": "it is broken"}]


def test_names_of_any_script_are_written_as_they_are(tmp_path):
    write(tmp_path / "run", table(subsets=('猫, "größte"', "mean")), note="猫")
    assert '"note": "猫"' in (tmp_path / "run" / "run.json").read_text(encoding="utf-8")
    assert set(read_curve(tmp_path / "run").subset) == {'猫, "größte"', "mean"}


def test_versions_are_those_installed():
    found = versions()
    assert {"scalecut", "torch", "timm", "numpy", "scikit-learn"} <= found.keys()
    assert all(metadata.version(name) == version for name, version in found.items())


# --- what is read back ---------------------------------------------------------------------------


def test_curve_is_read_back_as_it_was_written(tmp_path):
    frame = read_curve(write(tmp_path / "run"))
    pd.testing.assert_frame_equal(frame, table(), atol=5.1e-7, rtol=0, check_dtype=False)
    again = tmp_path / "again.csv"
    write_table(frame, again)
    assert again.read_bytes() == (tmp_path / "run" / "curve.csv").read_bytes()


@pytest.mark.parametrize("name", ["nan", "None", "1", "007", "true", ""])
def test_names_that_look_like_values_stay_names(tmp_path, name):
    frame = table().assign(layer=name, subset=name, alias="")
    read = read_curve(write(tmp_path / "run", frame))
    for column in ("layer", "subset"):
        assert set(read[column]) == {name}
    assert set(read.alias) == {""}
    assert read.p_value.isna().all()


def test_figures_of_a_run_are_the_same_when_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    run = write(tmp_path / "run")
    hashes = []
    for _ in range(2):
        paths = draw(run)
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert hashes[0] == hashes[1]


def test_missing_run_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        read_curve(tmp_path / "none")
    assert str(caught.value) == (
        f"There is no run folder '{tmp_path / 'none'}'. Give the folder that a probe wrote (--out)."
    )


def test_run_of_a_newer_version_is_refused(tmp_path):
    run = write(tmp_path / "run")
    facts = read_facts(run)
    (run / "run.json").write_text(json.dumps({**facts, "format": FORMAT + 1}))
    with pytest.raises(DataError) as caught:
        read_curve(run)
    assert str(caught.value) == (
        f"The run '{run}' has format {FORMAT + 1}, but this version reads up to {FORMAT}. "
        "Update scalecut."
    )


def test_curve_without_a_column_is_refused(tmp_path):
    run = write(tmp_path / "run")
    table().drop(columns=["r2_low", "target"]).to_csv(run / "curve.csv", index=False)
    with pytest.raises(DataError) as caught:
        read_curve(run)
    assert str(caught.value) == (
        f"curve.csv of '{run}' lacks the column 'target'. Run the probe again."
    )


def test_run_without_its_curve_is_refused(tmp_path):
    run = write(tmp_path / "run")
    path = run / "curve.csv"
    path.unlink()
    with pytest.raises(DataError) as caught:
        read_curve(run)
    assert str(caught.value) == (
        f"'{run}' holds no curve: it is empty, or was made by another command. Give the folder "
        "that a probe wrote (--out)."
    )
    path.touch()
    with pytest.raises(DataError) as caught:
        read_curve(run)
    assert str(caught.value) == (
        f"The run '{run}' has no readable curve.csv (No columns to parse from file). "
        "Run the probe again."
    )


@pytest.mark.parametrize("text", ["{", "[]", "\udcff", ""], ids=["half", "list", "bytes", "empty"])
def test_broken_run_json_is_refused(tmp_path, text):
    run = write(tmp_path / "run")
    (run / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError) as caught:
        read_curve(run)
    start = re.escape(f"The run '{run}' has no readable run.json (")
    assert re.fullmatch(start + r".+\)\. Run the probe again\.", str(caught.value))


# --- what a terminal shows of it -----------------------------------------------------------------


def shown(thing, width=80):
    console = Console(file=StringIO(), width=width, markup=False, emoji=False)
    console.print(thing)
    return console.file.getvalue().splitlines()


def test_table_has_a_row_a_layer_with_what_is_learned_and_its_twin():
    title, header, *lines = shown(curve_table(curve()))
    assert title.strip() == "R² of area, net, 40 images (dog)"
    names = ["layer", "d", "ridge [95 %]", "learned [95 %]", "random", "ols"]
    assert re.split(r"  +", header) == names
    by_line = table().set_index(["subset", "weights", "target", "regressor", "layer"])
    means = by_line.sort_index().loc["mean"].r2
    for line, point in zip(lines, points(), strict=True):
        name, channels, ridge, learned, random, ols = re.split(r"  +", line.strip())
        assert (name, channels) == (point.label, str(point.channels))
        expected = means["pretrained", "true", "ridge", point.layer]
        assert ridge == f"{expected:.2f} [{expected - 0.1:.2f}, {expected + 0.1:.2f}]"
        of_it = (f"{expected - less:.2f}" for less in (0.3, 0.4, 0.2))
        assert learned == "{} [{}, {}]".format(*of_it)
        assert random == f"{means['random', 'true', 'ridge', point.layer]:.2f}"
        assert ols == f"{means['pretrained', 'true', 'ols', point.layer]:.2f}"
    low, high = means["pretrained", "shuffled", "ridge"].agg(["min", "max"])
    assert controls_in_words(curve()) == f"shuffled measure {low:.2f} to {high:.2f}"


@pytest.mark.parametrize("name", ["logits", "stages.3.downsample.conv.1"])
def test_table_fits_into_80_characters_with_every_layer_named(name):
    made = curve()
    frame = made.table.replace({"layer": {"stem[0]": name}})
    named = tuple(replace(p, layer=name) if p.layer == "stem[0]" else p for p in made.points)
    lines = shown(curve_table(replace(made, table=frame, points=named)))
    assert max(map(len, lines)) <= 80
    first_column = "".join(line[:20].split("  ")[0].strip() for line in lines)
    assert name[:12] in first_column


def test_pixels_and_p_values_are_told_in_words():
    frame = table()
    main = (frame.weights == "pretrained") & (frame.target == "true") & (frame.regressor == "ridge")
    frame.loc[main, "p_value"] = np.resize([0.001, 0.04, 0.06], main.sum())
    one = frame[main & (frame.subset == "mean")].iloc[:1]
    pixels = one.assign(weights="pixels", layer="pixels", r2=0.123)
    said = controls_in_words(curve(pd.concat([frame, pixels], ignore_index=True)))
    assert said.startswith("pixels alone 0.12; shuffled measure ")
    assert said.endswith("; p ≤ 0.05 (corrected over layers) at 2 of 3 layers")


def test_table_of_least_squares_alone_has_no_ridge():
    header = shown(curve_table(curve(table(regressors=("ols",)))))[1]
    assert re.split(r"  +", header)[2:] == ["ols [95 %]", "learned [95 %]", "random"]


def test_network_with_random_weights_is_not_compared_with_itself():
    lines = [("random", "true"), ("random", "shuffled")]
    frame = table(lines=lines)
    _, header, first, *_ = shown(curve_table(curve(frame)))
    assert re.split(r"  +", header)[2:] == ["ridge [95 %]", "ols"]
    own = frame[(frame.subset == "mean") & (frame.regressor == "ridge")].iloc[0]
    assert re.split(r"  +", first)[2].startswith(f"{own.r2:.2f} [")


def test_collapsed_scores_are_shown_without_decimals():
    frame = table()
    frame.loc[frame.regressor == "ols", "r2"] = -11077.4
    frame.loc[frame.weights == "random", "r2"] = np.nan
    lines = shown(curve_table(curve(frame)))[2:]
    assert all(line.split()[-2:] == ["–", "-11,077"] for line in lines)


def test_comparison_has_a_row_a_subset():
    rows = compare(curve(), curve())
    lines = shown(comparison_table(rows, "one", "other"), width=120)
    assert lines[0].strip() == "R² of one less other"
    assert [line.split()[0] for line in lines[2:]] == ["dog", "mean"]
    assert all(line.rstrip().endswith("0.00   [0.00, 0.00]") for line in lines[2:])


def test_run_is_read_back_with_its_draws_and_points(tmp_path):
    written = curve()
    found = read_run(write(tmp_path / "run"))
    np.testing.assert_array_equal(found.draws, written.draws)
    assert found.points == written.points
    assert found.evidence("dog").peak == written.evidence("dog").peak
    assert found.finding() == written.finding()


def test_run_without_draws_is_refused(tmp_path):
    run = write(tmp_path / "run")
    (run / "draws.npy").unlink()
    with pytest.raises(DataError, match=r"has no readable draws.npy and points .*Run the probe"):
        read_run(run)


def test_peak_stands_out_in_the_table():
    frame = table()
    main = (frame.weights == "pretrained") & (frame.target == "true") & (frame.regressor == "ridge")
    frame.loc[main & (frame.layer == "stem[0]"), "r2"] = 2.0
    styles = [row.style for row in curve_table(curve(frame)).rows]
    assert styles == [None, "bold", None]


def test_probe_points_without_a_field_or_stride_have_a_dash():
    lines = shown(layer_table("[b]net[/b]", points()))
    assert lines[0].strip() == "[b]net[/b]"
    assert [line.split() for line in lines[2:]] == [
        ["0", "0.00", "8", "–", "–", "–", "0", "M"],
        ["stem[0]", "add_1", "0.50", "16", "–", "–", "–", "0", "M"],
        ["softmax", "softmax", "1.00", "24", "–", "–", "–", "0", "M"],
    ]


def test_bars_count_images_on_a_terminal_and_are_silent_elsewhere():
    for is_terminal, quiet in ((True, False), (False, False), (True, True)):
        console = Console(file=StringIO(), force_terminal=is_terminal, width=80)
        with bars(console, quiet=quiet) as progress:
            progress("features", 0, 40)
            progress("features", 40, 40)
        said = console.file.getvalue()
        if is_terminal and not quiet:
            assert "features" in said
            assert "40/40" in said
        else:
            assert said.strip() == ""


# --- what is read from each image ----------------------------------------------------------------


def with_images(folder):
    """A run of a curve with one image in a file and two in memory."""
    PIL.Image.new("RGB", (40, 30)).save(folder / "a.png")
    grey = [np.full((10, 20, 3), value, np.uint8) for value in (50, 200)]
    images = make_image_set([folder / "a.png", *grey], [0.1, 0.2, 0.3], subset=["dog", "dog", "猫"])
    images = replace(images, boxes=np.arange(12.0).reshape(3, 4))
    predicted = np.array([[np.nan, 0.5, 0.25]] * len(points()))
    whole = replace(curve(), image_set=images, predicted=predicted)
    (folder / "run").mkdir()
    write_curve(whole, folder / "run", command="scalecut probe", settings={})
    return whole, folder / "run"


def test_predictions_and_images_are_read_back_as_they_were(tmp_path):
    whole, run = with_images(tmp_path)
    images, predictions = read_predictions(run)
    pd.testing.assert_frame_equal(predictions, whole.predictions())
    told = image_table(whole.image_set)
    pd.testing.assert_frame_equal(images[[*told]], told)


def test_pictures_in_memory_are_kept_small_and_files_are_not(tmp_path):
    images, _ = read_predictions(with_images(tmp_path)[1])
    assert images.thumbnail[0] is None
    for jpeg, value in zip(images.thumbnail[1:], (50, 200), strict=True):
        np.testing.assert_allclose(np.array(PIL.Image.open(io.BytesIO(jpeg))), value, atol=2)


def test_run_of_an_earlier_version_has_no_predictions(tmp_path):
    assert read_predictions(write(tmp_path / "run")) is None


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("images", lambda table: table.drop(columns="left"), "the column 'left' is not there"),
        (
            "predictions",
            lambda table: table.drop(columns="layer"),
            "the column 'layer' is not there",
        ),
        ("images", lambda table: table[::-1], "they are not of the same images"),
        ("predictions", lambda table: table[:-1], "they are not of the same images"),
    ],
)
def test_tables_of_images_that_do_not_fit_are_refused(tmp_path, name, change, reason):
    _, run = with_images(tmp_path)
    path = run / f"{name}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(DataError) as caught:
        read_predictions(run)
    assert str(caught.value) == (
        f"The run '{run}' has no readable images.parquet and predictions.parquet ({reason}). Run "
        "the probe again."
    )


def test_one_table_of_images_without_the_other_is_refused(tmp_path):
    _, run = with_images(tmp_path)
    (run / "predictions.parquet").unlink()
    with pytest.raises(
        DataError, match=r"has no readable images\.parquet and predictions\.parquet"
    ):
        read_predictions(run)
