"""The command as it is typed, with tiny networks; what it writes is read back the other way."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
import typer
from scalecut.cli.visualise import COLUMNS
from typer.testing import CliRunner

from scalecut import load_network
from scalecut.cli import visualise as drawing
from scalecut.cli.console import OUT, Commands
from scalecut.features.extract import forward
from scalecut.networks.network import tensors_sha256
from scalecut.networks.selection import chosen_points
from scalecut.report import report
from tests.cli.test_analyses import files
from tests.cli.test_app import assert_refused, tree

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = """
from collections import OrderedDict

import torch
from torch import nn


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            OrderedDict(
                stem=nn.Conv2d(3, 8, 3, stride=2, padding=1),
                act=nn.LeakyReLU(),
                block=nn.Conv2d(8, 12, 3, stride=2, padding=1),
                end=nn.LeakyReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                fc=nn.Linear(12, 5),
            )
        )


def deaf():
    found = network()
    found.end = nn.ReLU()
    with torch.no_grad():
        found.block.bias.fill_(-1e6)
    return found
"""
MODEL = "painted_networks:network"
QUICK = ("--size", 32, "--steps", 10)
TELL_THE_TIME = {"run.json", "report.html"}
SUBSETS = ("cat", "<b>a/b")  # a name of a class can be anything


def app():
    """The command beside another, as in the whole of the command line."""
    found = typer.Typer(cls=Commands)
    found.callback()(lambda: None)
    drawing.about_drawing(found)
    return found


def asked(*more, model=MODEL, out="run"):
    typed = ["visualise", model, *QUICK, "--out", out, *more]
    result = CliRunner().invoke(app(), [str(word) for word in typed])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def directions_run(folder, model=MODEL, sha256=None, layers=("act", "end"), files=True):
    """What `scalecut rcv` leaves, with planted directions."""
    folder.mkdir()
    network = load_network(MODEL)
    facts = {
        "format": 2,
        "model": model,
        "tensors_sha256": sha256 or tensors_sha256(network.module),
    }
    (folder / "run.json").write_text(json.dumps(facts))
    points, _ = chosen_points(network, layers)
    rng = np.random.default_rng(0)
    vectors = {f"{s}/{p.layer}": rng.normal(size=p.channels) for s in SUBSETS for p in points}
    if files:
        np.savez(folder / "rcv.npz", **vectors)
    return vectors


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    monkeypatch.setattr(OUT, "width", 100)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("painted_networks.py").write_text(NETWORKS)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of units of two layers and one of directions, for all tests that only read them."""
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("done")
        patch.chdir(place)
        patch.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
        patch.setattr(OUT, "width", 100)
        Path("painted_networks.py").write_text(NETWORKS)
        vectors = directions_run(Path("rcv"))
        for name, typed in {
            "units": ("--layer", "act,end", "--unit", "0,7,3", "--seed", 4),
            "directions": ("--layer", "end", "--rcv", "rcv"),
        }.items():
            result = asked(*typed, out=name)
            assert (result.exit_code, result.stderr) == (0, ""), name
            said[name] = SimpleNamespace(stdout=result.stdout, folder=place / name, vectors=vectors)
    return said


def table_of(run):
    return pd.read_csv(run.folder / "units.csv", keep_default_na=False)


def features_of(run, row):
    """The features of a picture as it lies on disk, by the way on which the probe reads them."""
    network = load_network(MODEL)
    picture = np.asarray(PIL.Image.open(run.folder / row["picture"]))
    points, _ = chosen_points(network, [row["layer"]])
    with forward(network, points, "float32", "cpu") as pooled:
        return pooled(network.preprocessing.tensor(picture[None].copy()))[0][0]


@pytest.fixture
def here_with_networks(done, monkeypatch):
    monkeypatch.chdir(done["units"].folder.parent)


# --- what is left and said -----------------------------------------------------------------------


def test_run_holds_a_picture_a_unit_and_a_sheet_a_layer(done):
    sheets = {f"figures/{layer}.{kind}" for layer in ("act", "end") for kind in ("png", "svg")}
    each = {f"pictures/{layer}-{unit}.png" for layer in ("act", "end") for unit in (0, 3, 7)}
    assert files(done["units"].folder) == {"run.json", "units.csv", "report.html"} | sheets | each
    table = table_of(done["units"])
    assert list(table) == COLUMNS
    assert list(zip(table.layer, table.unit, strict=True)) == [
        (layer, unit) for layer in ("act", "end") for unit in (0, 7, 3)
    ]
    assert set(table.steps) == {10}
    assert set(table.seed) == {4}
    assert set(table.subset) == set(table.direction) == {""}


def test_numbers_are_of_the_pictures_on_disk(done, here_with_networks):
    for row in table_of(done["units"]).to_dict("records"):
        answer = features_of(done["units"], row)[row["unit"]]
        assert row["end"] == pytest.approx(answer, abs=1e-5)
        assert row["end"] > row["start"]


def test_directions_are_painted_both_ways_from_the_same_place(done, here_with_networks):
    run = done["directions"]
    table = table_of(run)
    assert list(zip(table.subset, table.direction, strict=True)) == [
        (subset, way) for subset in SUBSETS for way in ("larger", "smaller")
    ]
    for row in table.to_dict("records"):
        vector = run.vectors[f"{row['subset']}/end"]
        assert row["end"] == pytest.approx(features_of(run, row) @ vector, abs=1e-5)
    for _, (larger, smaller) in (
        table.groupby("subset")[["start", "end"]]
        .apply(lambda rows: rows.to_dict("records"))
        .items()
    ):
        assert larger["end"] > larger["start"] == smaller["start"] > smaller["end"]


def test_names_of_subsets_do_no_harm_as_names_of_files(done):
    pictures = {f for f in files(done["directions"].folder) if f.startswith("pictures/")}
    assert pictures == {
        f"pictures/end-{name}-{way}.png"
        for name in ("cat", "%3Cb%3Ea%2Fb")
        for way in ("larger", "smaller")
    }
    text = (done["directions"].folder / "figures" / "end.svg").read_text()
    assert "<b>" not in text


def test_run_json_says_what_was_done_with_what(done):
    told = json.loads((done["directions"].folder / "run.json").read_text())
    assert told["model"] == MODEL
    assert told["settings"]["rcv"] == "rcv"
    assert told["settings"]["layer"] == "end"
    assert not {"out", "as_json"} & set(told["settings"])
    assert told["finding"] == done["directions"].stdout.splitlines()[-1]
    assert told["left_out"] == []


def test_command_ends_with_the_run_the_picture_and_what_was_found(done):
    *_, run, figure, page, finding = done["units"].stdout.splitlines()
    assert run == "Run:     units"
    assert page == "Page:    units/report.html"
    assert figure == "Picture: units/figures/act.png"
    assert finding == (
        "6 pictures of 32 x 32 px: each takes its layer farther than the noise it began with."
    )


def test_same_command_gives_the_same_bytes():
    def all_but_the_time(folder):
        return {name: (folder / name).read_bytes() for name in files(folder) - TELL_THE_TIME}

    asked("--layer", "act", "--unit", "1", out="one")
    asked("--layer", "act", "--unit", "1", out="two")
    asked("--layer", "act", "--unit", "1", "--seed", 1, out="three")
    one, two, three = (all_but_the_time(Path(name)) for name in ("one", "two", "three"))
    assert one == two
    assert one["pictures/act-1.png"] != three["pictures/act-1.png"]


def test_without_units_six_are_chosen_evenly():
    asked("--layer", "end,logits", "--steps", 1)
    table = pd.read_csv("run/units.csv")
    assert table.groupby("layer").unit.apply(list).to_dict() == {
        "end": [0, 2, 4, 7, 9, 11],
        "logits": [0, 1, 2, 3, 4],
    }


def test_json_holds_the_table_and_nothing_else():
    result = asked("--layer", "act", "--unit", "2", "--json")
    told = json.loads(result.stdout)
    assert list(told) == ["run", "finding", "units", "left_out"]
    assert [row["picture"] for row in told["units"]] == ["pictures/act-2.png"]


def test_unit_that_never_answers_is_said_to_have_no_picture():
    result = asked("--layer", "end", "--unit", "0,1", model="painted_networks:deaf")
    assert result.stdout.splitlines()[-1] == (
        "2 pictures of 32 x 32 px: 2 of them, the first pictures/end-0.png, could not be painted, "
        "as the layer did not answer."
    )


def test_sheet_is_white_between_its_pictures():
    tiles = np.zeros((8, 4, 4, 3), np.uint8)
    captions = [(f"unit {number}", "0 → 1") for number in range(8)]
    figure = drawing._sheet("blocks.3.1", "a_network", tiles, captions)
    figure.canvas.draw()
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 8
    assert len({round(box.y0, 6) for box in boxes}) == 2  # six in a row, then two
    for number, one in enumerate(boxes):
        assert 0 < one.x0 < one.x1 < 1
        assert 0 < one.y0 < one.y1 < 1
        assert not any(one.overlaps(other) for other in boxes[:number])
    height, width = figure.get_size_inches()[::-1]
    assert boxes[0].width * width == pytest.approx(boxes[0].height * height)  # square stays square
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["blocks.3.1", "a_network", *(t for caption in captions for t in caption)]
    inside = [
        text.get_window_extent().transformed(figure.transFigure.inverted()) for text in figure.texts
    ]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 for box in inside)
    assert figure.get_facecolor() == (1, 1, 1, 1)


# --- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "unit in words": (
        ("--layer", "act", "--unit", "0,first"),
        "'first' is no unit. Give whole numbers from 0, such as 0,1,2.",
    ),
    "unit out of range": (
        ("--layer", "act,end", "--unit", "11"),
        "There is no unit 11: layer act has 8 units, from 0 to 7. Give some of these.",
    ),
    "no such layer": (
        ("--layer", "enD"),
        "No layer is named 'enD'. Near it: end; `scalecut layers MODEL` prints all 5.",
    ),
    "no layer": (
        ("--layer", ","),
        "',' names no layer. Give --layer one or more; `scalecut layers MODEL` prints them all.",
    ),
    "both": (
        ("--layer", "act", "--unit", "0", "--rcv", "rcv"),
        "Both --unit and --rcv were given. Give one: units, or directions.",
    ),
    "too small": (
        ("--layer", "act", "--size", 8),
        "A picture of 8 x 8 px is too small for layer act, which needs 32 px at least. Give --size "
        "32 or more.",
    ),
    "of another network": (
        ("--layer", "act", "--rcv", "other"),
        "The run 'other' is of resnet50, not of painted_networks:network. Give --rcv a run of this "
        "network.",
    ),
    "of other weights": (
        ("--layer", "act", "--rcv", "changed"),
        "The directions of 'changed' are of painted_networks:network with other weights than the "
        "weights the factory gave. Give the same --weights, and --seed where they are random.",
    ),
    "of other layers": (
        ("--layer", "logits", "--rcv", "rcv"),
        "The run 'rcv' holds no direction of layer logits (pre_softmax), but of 2 others, from act "
        "to end. Give --layer one of these, or make a run of that layer.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_painted_is_refused_in_one_line(name):
    typed, text = REFUSED[name]
    directions_run(Path("rcv"))
    directions_run(Path("other"), model="resnet50")
    directions_run(Path("changed"), sha256="0" * 64)
    before = tree()
    assert_refused(asked(*typed), before, text)


def test_run_without_directions_is_refused():
    directions_run(Path("curve"), files=False)
    before = tree()
    result = asked("--layer", "act", "--rcv", "curve")
    assert_refused(
        result, before, "'curve' holds no directions: rcv.npz cannot be read", whole=False
    )
    assert result.stderr.endswith("Give --rcv a folder that `scalecut rcv` wrote.\n")


def test_layer_that_lacks_weights_is_left_out_or_refused():
    state = load_network(MODEL).module.state_dict()
    torch.save({name: each for name, each in state.items() if "block" not in name}, "part.pth")
    partial = ("--weights", "part.pth", "--allow-partial", "--unit", "0")
    result = asked("--layer", "act,end", *partial)
    assert result.exit_code == 0
    assert re.search(r"1 layer left out:\n  end: depends on", result.stdout)
    before = tree()
    refused = asked("--layer", "end", *partial, out="none")
    assert_refused(refused, before, "There is no layer to paint for: end depends on", whole=False)


def test_ctrl_c_leaves_nothing(monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "pictures", stopped)
    before = tree()
    result = asked("--layer", "act")
    assert result.exit_code == 130
    assert tree() == before


def test_page_of_the_pictures_shows_each_with_its_name_and_opens_again():
    assert asked("--layer", "act", "--unit", "0,3", out="paged").exit_code == 0
    page = Path("paged/report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert "unit 0" in page
    assert "unit 3" in page
    report.write_page(Path("paged"))
    assert report.draw(Path("paged")) == []  # its sheets are drawn with the pictures
