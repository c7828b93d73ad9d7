"""The commands of the analyses as they are typed, with tiny networks and small images."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from scalecut import load_network
from scalecut.analyses.invariance import COLUMNS as INVARIANCE_COLUMNS
from scalecut.analyses.noise import COLUMNS as NOISE_COLUMNS
from scalecut.analyses.rcv import COLUMNS as RCV_COLUMNS
from scalecut.analyses.synthetic import COLUMNS as SCENES_COLUMNS
from scalecut.analyses.visualise import COLUMNS as UNITS_COLUMNS
from scalecut.cli.console import OUT
from tests.cli.test_app import assert_refused, blobs, facts, scalecut, tree, words

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

NETWORKS = """
from collections import OrderedDict

import torch
from torch import nn


def network(side=None, padding=1, classes=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = OrderedDict(
            stem=nn.Conv2d(3, 8, 3, stride=2, padding=padding),
            act=nn.LeakyReLU(),
            block=nn.Conv2d(8, 12, 3, stride=2, padding=padding),
            end=nn.LeakyReLU(),
        )
        if side:  # runs at no other
            layers |= {"flat": nn.Flatten(), "fc": nn.Linear(12 * (side // 4) ** 2, classes)}
        else:
            layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
            if classes:
                layers |= {"fc": nn.Linear(12, classes)}
        found = nn.Sequential(layers)
        if classes and not side:  # answers differ from image to image
            with torch.no_grad():
                found.fc.weight *= 30
                found.fc.bias -= found(torch.zeros(1, 3, 32, 32))[0]
        return found


def other():
    return nn.Sequential(network(), nn.Softmax(dim=1), nn.Linear(5, 4))


def unpadded():
    return network(padding=0)


def headless():
    return network(classes=0)


def of_one_size():
    return network(side=32)
"""
LAYERS = ["act", "end", "pooled", "logits", "softmax"]
SMALL = ("--input-size", 32)
PROBE = (*SMALL, "--data", "voc:blobs", "--repeats", 3, "--controls", "none", "--permutations", 0)
INVARIANCE = (*SMALL, "--data", "voc:blobs")
SIZES = ("--sizes", "0.5,1,2")
NOISE = ("--noise", "pink,white", "--padding", "zeros,circular", "--noise-images", 40)
SCENES = ("--input-size", 48, "--contents", 10)
RCV = (*SMALL, "--data", "voc:blobs", "--repeats", 3)
VISUALISE = ("--size", 32, "--steps", 4)


def prepare(folder):
    """Two classes of 24 images, and the networks."""
    (folder / "tiny_networks.py").write_text(NETWORKS)
    blobs(folder / "blobs", kinds=("cat", "dog") * 24)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """A cache and a working folder of its own, 80 columns, small figures."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    monkeypatch.setattr(OUT, "width", 80)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare(tmp_path / "here")


def asked(command, network, *more, out="run"):
    return scalecut(command, f"tiny_networks:{network}", *more, "--out", out)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What every command printed, and its folder, for all tests that only read."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("done")
        patch.chdir(place)
        patch.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
        patch.setattr(OUT, "width", 80)
        prepare(place)
        for name, command, network, more in (
            ("one", "probe", "network", PROBE),
            ("two", "probe", "other", PROBE),
            ("invariance", "invariance", "network", (*INVARIANCE, *SIZES, *NOISE)),
            ("scenes", "scenes", "network", (*SCENES, "--canvases", "32,48")),
            ("rcv", "rcv", "network", (*RCV, "--class", 3)),
            ("units", "visualise", "network", (*VISUALISE, "--layer", "act,end", "--unit", "0,7")),
            ("larger", "visualise", "network", (*VISUALISE, "--layer", "end", "--rcv", "rcv")),
        ):
            result = asked(command, network, *more, out=name)
            assert (result.exit_code, result.stderr) == (0, ""), name
            found[name] = SimpleNamespace(stdout=result.stdout, folder=place / name)
    return found


def table_of(run, name):
    return pd.read_csv(run.folder / f"{name}.csv", keep_default_na=False, na_values={"value": [""]})


def strict(text):
    """JSON as the standard has it: Python also reads NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def drawn(*names):
    return {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}


def shown(run, first):
    """Rows of a table in the terminal, from the line that begins so, split into words."""
    lines = [line.split() for line in run.stdout.splitlines()]
    (start,) = [number for number, line in enumerate(lines) if line[: len(first)] == first]
    return lines[start + 1 :]


# --- what a command writes and prints ------------------------------------------------------------

RUNS = {
    "invariance": (
        {"invariance": INVARIANCE_COLUMNS, "noise": NOISE_COLUMNS},
        drawn("invariance", "drift", "noise") | {"figures/data.png"},
    ),
    "scenes": ({"scenes": SCENES_COLUMNS}, drawn("scenes")),
    "rcv": ({"rcv": RCV_COLUMNS}, drawn("directions") | {"rcv.npz", "figures/data.png"}),
    "units": (
        {"units": UNITS_COLUMNS},
        drawn("act", "end") | {f"pictures/{at}-{n}.png" for at in ("act", "end") for n in (0, 7)},
    ),
    "larger": (
        {"units": UNITS_COLUMNS},
        drawn("end")
        | {f"pictures/end-{k}-{way}.png" for k in ("cat", "dog") for way in ("larger", "smaller")},
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_run_folder_holds_the_tables_the_facts_and_the_figures(done, name):
    tables, others = RUNS[name]
    run = done[name]
    named = {"run.json", "report.html", *(f"{table}.csv" for table in tables)}
    assert files(run.folder) == named | others
    for table, columns in tables.items():
        found = table_of(run, table)
        assert list(found) == columns
        assert set(found.layer) <= set(LAYERS)
        assert set(found.model) == {"tiny_networks:network"}
    written = strict((run.folder / "run.json").read_text())
    assert {
        *("format", "command", "settings", "written", "versions", "machine", "model", "weights"),
        *("tensors_sha256", "preprocessing", "finding", "left_out", "stages"),
    } <= set(written)
    assert written["stages"] and all(each["seconds"] >= 0 for each in written["stages"].values())
    assert written["model"] == written["settings"]["model"] == "tiny_networks:network"
    assert not {"out", "as_json"} & set(written["settings"])
    assert (written["settings"]["seed"], written["left_out"]) == (0, [])
    *_, folder, figure, page, finding = run.stdout.splitlines()
    assert (folder, page) == (f"Run:    {name}", f"Page:   {name}/report.html")
    assert figure.removeprefix(f"Figure: {name}/") in others
    assert finding == written["finding"]


def test_report_draws_the_figures_and_the_page_of_any_run_again(done):
    for name in RUNS:
        folder = done[name].folder
        before = tree(folder)
        result = scalecut("report", folder)
        assert result.exit_code == 0
        assert tree(folder) == before
        printed = {Path(line).relative_to(folder).as_posix() for line in result.stdout.splitlines()}
        figures = {f for f in files(folder) if f.startswith("figures/")} - {"figures/data.png"}
        # the figures of images are written with them
        assert printed - {"report.html"} == (set() if name in ("units", "larger") else figures)


def test_tables_in_the_terminal_are_those_on_disk(done):
    table = table_of(done["invariance"], "invariance")
    lines = shown(done["invariance"], ["change", "factor", "side"])[:6]
    assert [line[:3] for line in lines] == [
        *(["image-size", factor, side] for factor, side in (("0.5", "16"), ("1", "32"))),
        ["image-size", "2", "64"],
        *(["object-scale", factor, "32"] for factor in ("0.5", "1", "2")),
    ]
    for (_, rows), line in zip(table.groupby(["change", "octaves"]), lines, strict=True):
        means = rows.groupby("quantity").value.mean()
        names = ["agreement", "probability_change", "jensen_shannon", "cosine"]
        assert [float(word) for word in line[3:]] == pytest.approx(means[names], abs=0.0051)
    table = table_of(done["invariance"], "noise").set_index(["layer", "noise", "padding"]).r2
    for layer, *numbers in shown(done["invariance"], ["layer", "pink,"])[:5]:
        expected = [table[layer, n, p] for n in ("pink", "white") for p in ("zeros", "circular")]
        assert sorted(map(float, numbers)) == pytest.approx(sorted(expected), abs=0.0051)
    table = table_of(done["scenes"], "scenes").pivot(index="layer", columns="quantity")["value"]
    names = ["object_scale_partial_r2", "image_size_partial_r2", "gain", "r2", "blur_leak"]
    names += [f"padding_{padding}_leak" for padding in ("zeros", "reflect", "circular")]
    header = ["layer", "object", "scale", "image", "size", "gain", "R²", "blur", "zeros"]
    for layer, *numbers in shown(done["scenes"], header)[:5]:
        assert [*map(float, numbers)] == pytest.approx(table.loc[layer, names], abs=0.0051)
    transfer = table_of(done["rcv"], "rcv").query("quantity == 'transfer_r2'")
    for layer, *numbers in shown(done["rcv"], ["layer", "degrees"])[:5]:
        here = transfer[transfer.layer == layer]
        is_own = here.subset == here.other
        expected = here.value[is_own].mean(), here.value[~is_own].mean()
        assert [float(x) for x in numbers[3:5]] == pytest.approx(expected, abs=0.0051)


def test_directions_are_kept_as_unit_vectors_of_every_subset_and_layer(done):
    with np.load(done["rcv"].folder / "rcv.npz", allow_pickle=False) as vectors:
        assert set(vectors) == {f"{kind}/{layer}" for kind in ("cat", "dog") for layer in LAYERS}
        assert [len(vectors[f"cat/{layer}"]) for layer in LAYERS] == [8, 12, 12, 5, 5]
        lengths = [np.linalg.norm(vectors[name]) for name in vectors]
    np.testing.assert_allclose(lengths, 1)
    table = table_of(done["rcv"], "rcv")
    slopes = table[table.quantity == "sensitivity"]
    assert set(slopes.layer) == set(LAYERS[:-1])
    assert set(slopes.other) == {"3"}


# --- other questions to the same commands --------------------------------------------------------


def test_json_has_the_tables_and_null_for_what_has_no_value():
    # behind the last activation every image has the same slope, so Br has no value
    more = ("--subset", "cat", "--layers", "logits", "--class", 0, "--json")
    result = asked("rcv", "network", *RCV, *more)
    printed = strict(result.stdout)
    assert result.stderr == ""
    assert list(printed) == ["run", "finding", "left_out", "rcv"]
    assert (printed["run"], printed["finding"]) == ("run", facts()["finding"])
    assert {(row["subset"], row["layer"]) for row in printed["rcv"]} == {("cat", "logits")}
    assert {row["value"] for row in printed["rcv"] if row["quantity"] == "br"} == {None}
    written = pd.read_csv("run/rcv.csv", keep_default_na=False)
    assert set(written.value[written.quantity == "br"]) == {""}
    assert "in the others" not in printed["finding"]


def test_noise_alone_needs_no_images():
    noise = ("--noise", "blocks", "--padding", "zeros", "--noise-images", 30)
    result = asked("invariance", "network", *SMALL, *noise, "--layers", "end,logits", "--json")
    printed = strict(result.stdout)
    assert list(printed) == ["run", "finding", "left_out", "noise"]
    assert [(r["noise"], r["padding"], r["layer"]) for r in printed["noise"]] == [
        ("blocks", "zeros", "end"),
        ("blocks", "zeros", "logits"),
    ]
    assert files(Path("run")) == {"run.json", "report.html", "noise.csv", *drawn("noise")}


def test_figures_that_have_nothing_to_show_are_not_drawn():
    layers = ("--layers", "act,end")
    result = asked("invariance", "network", *INVARIANCE, *SIZES, *layers, "--changes", "image-size")
    others = {"run.json", "report.html", "invariance.csv", "figures/data.png"}
    assert files(Path("run")) == others | drawn("drift")
    assert result.stdout.splitlines()[-1].startswith("Doubling the image size changes the features")
    more = ("--layers", "end", "--changes", "object-scale", "--sizes", "1,1.41", "--at-most", 7)
    result = asked("invariance", "network", *INVARIANCE, *more, out="none")
    assert files(Path("none")) == others
    assert set(pd.read_csv("none/invariance.csv").n_images) == {7}
    assert result.stdout.splitlines()[-4:] == [
        "Run:    none",
        "Figure: none/figures/data.png",
        "Page:   none/report.html",
        "There are no predictions, and no two sizes an octave apart: invariance.csv has the "
        "cosines of the features.",
    ]


def test_sizes_images_and_layers_that_are_skipped_are_named():
    Path("blobs/JPEGImages/007.jpg").write_bytes(b"none")
    more = ("--sizes", "0.125,1,2", "--changes", "image-size", "--layers", "end", "--at-most", 0)
    result = asked("invariance", "unpadded", *INVARIANCE, *more)
    assert result.exit_code == 0
    image, size = sorted(facts()["left_out"], key=lambda item: item["name"])
    assert (image["name"], size["name"]) == ("007.jpg", "image-size -3 octaves (4 x 4 px)")
    assert "2 skipped:\n" in result.stdout
    assert f"  {size['name']}: {size['reason']}\n" in result.stdout  # torch's reason
    assert set(pd.read_csv("run/invariance.csv").side) == {32, 64}
    state = load_network("tiny_networks:network").module.state_dict()
    torch.save({name: state[name] for name in state if "block" not in name}, "part.pth")
    partial = ("--weights", "part.pth", "--allow-partial", "--unit", "0", *VISUALISE)
    result = asked("visualise", "network", "--layer", "act,end", *partial)
    assert re.search(r"1 skipped:\n  end: depends on", result.stdout)
    before = tree()
    refused = asked("visualise", "network", "--layer", "end", *partial, out="none")
    assert_refused(refused, before, "No layer can be visualised: end depends on")


# --- curves compared -----------------------------------------------------------------------------


def test_curves_are_compared_at_their_peaks_or_at_named_layers(done):
    one, two = done["one"].folder, done["two"].folder
    result = scalecut("compare", one, two, "--out", "compared")
    assert result.exit_code == 0
    assert "R² of tiny_networks:network minus tiny_networks:other" in words(result.stdout)
    assert result.stdout.rstrip().endswith(facts(Path("compared"))["finding"])
    assert {"comparison.csv", "pairs.csv", "curves.csv"} <= files(Path("compared"))
    table = strict(scalecut("compare", one, two, "--json").stdout)
    assert [row["subset"] for row in table] == ["cat", "dog", "mean"]
    for row in table:
        peaks = [facts(run)["evidence"][row["subset"]] for run in (one, two)]
        assert [row["layer"], row["other_layer"]] == [peak["peak"] for peak in peaks]
        assert row["difference"] == pytest.approx(peaks[0]["r2"] - peaks[1]["r2"], abs=2e-6)
        assert row["difference_low"] <= row["difference_high"]
    layers = ("--layers", "pooled, pre_softmax")
    there = strict(scalecut("compare", one, two, *layers, "--json").stdout)
    assert {(row["layer"], row["other_layer"]) for row in there} == {("pooled", "logits")}
    back = strict(scalecut("compare", two, one, "--layers", "pre_softmax,pooled", "--json").stdout)
    for row, turned in zip(there, back, strict=True):
        assert row["difference"] == pytest.approx(-turned["difference"])
        assert row["difference_low"] == pytest.approx(-turned["difference_high"])
    same = strict(scalecut("compare", one, one, "--json").stdout)
    assert {row[f"difference{end}"] for row in same for end in ("", "_low", "_high")} == {0}


def test_curves_that_cannot_be_compared_are_refused_in_one_line(done):
    one, two, rcv = (done[name].folder for name in ("one", "two", "rcv"))
    before = tree()
    for typed, text in (
        (
            (one, two, "--layers", "pooled"),
            "--layers 'pooled' names 1 layers. Give one layer of each run, such as add_13,mixed8.",
        ),
        (
            (one, two, "--layers", "pooled,block9"),
            "The curve of tiny_networks:other has no layer 'block9'. It has 5, from '0.act' to "
            "'logits'.",
        ),
        ((one, "none"), "There is no folder 'none'. Give a folder that `scalecut probe` wrote."),
        (
            (one, rcv),
            f"{str(rcv)!r} holds no curve, because another command wrote it. Give the folder that "
            "`scalecut probe` wrote (--out).",
        ),
    ):
        assert_refused(scalecut("compare", *typed), before, text)


def test_runs_of_other_images_or_splits_are_compared_as_independent(done):
    one = done["one"].folder
    for more, what, at, keys in (
        (("--subset", "cat"), "images", "images", ("sha256",)),
        (("--seed", 1), "splits", "probe", ("repeats", "seed")),
    ):
        asked("probe", "network", *PROBE, "--layers", "pooled", *more)
        entries = [{key: run[at][key] for key in keys} for run in (facts(one), facts())]
        assert entries[0] != entries[1]
        rows = strict(scalecut("compare", one, "run", "--json").stdout)
        assert {row["unpaired_because"] for row in rows} == {f"other {what}"}


# --- bad input -----------------------------------------------------------------------------------

REFUSED = {
    "unknown change": (
        ("invariance", "network", *INVARIANCE, *SIZES, "--changes", "object-scale,colour"),
        "No change is named 'colour'. Give one or more of image-size, object-scale.",
    ),
    "unknown noise": (
        ("invariance", "network", *SMALL, "--noise", "brown"),
        "No noise is named 'brown'. Give one or more of white, pink, blocks.",
    ),
    "unknown padding": (
        ("scenes", "network", *SCENES, "--padding", "zeros,mirror"),
        "No padding is named 'mirror'. Give one or more of zeros, reflect, circular.",
    ),
    "padding that the network does not have": (
        ("invariance", "unpadded", *SMALL, "--noise", "white", "--noise-images", 20),
        "tiny_networks:unpadded pads none of its maps up to layer 'softmax', so reflect padding "
        "changes nothing. Give --padding zeros, which leaves the network as it is.",
    ),
    "neither images nor noise": (
        ("invariance", "network", *SMALL),
        "Neither images nor noise were asked for. Give --data voc:DIR (or scenes), or --noise "
        "white, or both.",
    ),
    "canvas larger than any memory": (
        ("scenes", "network", *SCENES, "--canvases", 10**7),
        "There is not enough memory (Unable to allocate 273. TiB for an array with shape (1, "
        "10000000, 10000000, 3) and data type uint8). Give smaller sides in pixels, fewer images "
        "or permutations, or a smaller --batch-size.",
    ),
    "few groups": (
        ("invariance", "network", *INVARIANCE, *SIZES, "--at-most", 4),
        "There are 4 images of 4 groups that can be read, but at least 5 groups are needed to test "
        "on others. Give images of more groups.",
    ),
    "unknown class": (
        ("rcv", "network", *RCV, "--class", "tabby"),
        "tiny_networks:network has no class 'tabby'. Give a number from 0 to 4.",
    ),
    "class without a head": (
        ("rcv", "headless", *RCV, "--class", "tabby"),
        "tiny_networks:headless has no logits, but a class is asked for. Give a network with its "
        "head, or no class.",
    ),
    "unknown unit": (
        ("visualise", "network", *VISUALISE, "--layer", "act", "--unit", "11"),
        "There is no unit 11: layer act has 8 units, from 0 to 7. Give some of these.",
    ),
    "no run of directions": (
        ("visualise", "network", *VISUALISE, "--layer", "act", "--rcv", "blobs"),
        "'blobs' holds no run of scalecut: run.json cannot be read ([Errno 2] No such file or "
        "directory: 'blobs/run.json'). Give a folder that `scalecut probe` wrote.",
    ),
}


@pytest.mark.usefixtures("untyped")
def test_what_cannot_be_done_is_refused_in_one_line():
    before = tree()
    for typed, text in REFUSED.values():
        assert_refused(asked(*typed), before, text)


@pytest.mark.parametrize("command", ["invariance", "scenes", "rcv", "visualise"])
def test_place_is_refused_before_any_work_is_done(command):
    before = tree()
    more = {"rcv": ("--data", "none:x"), "visualise": ("--layer", "x")}.get(command, ())
    result = scalecut(command, "no_such_network", *more, "--out", "blobs")
    assert_refused(result, before, "'blobs' exists and holds no run of scalecut")


@pytest.mark.parametrize(
    ("work", "typed"),
    [
        ("analyses.synthetic.separated", ("scenes", *SCENES)),
        ("report.report.write_report", ("invariance", *INVARIANCE, *SIZES, "--layers", "end")),
    ],
)
def test_ctrl_c_leaves_no_run(monkeypatch, work, typed):
    def interrupted(*given, **settings):
        raise KeyboardInterrupt

    before = tree()
    monkeypatch.setattr(f"scalecut.{work}", interrupted)
    command, *more = typed
    result = asked(command, "network", *more)
    # at most what was understood of the data, which comes before computing
    assert (result.exit_code, result.stdout.rpartition("\n\n")[2]) == (130, "")
    assert result.stderr == (
        "scalecut: Stopped; no run was written. Cached features are not computed again.\n"
    )
    assert tree() == before
