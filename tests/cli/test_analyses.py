"""The commands beyond the curve as they are typed, with tiny networks and small photographs."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from scalecut.analyses.invariance import COLUMNS as INVARIANCE_COLUMNS
from scalecut.analyses.noise import COLUMNS as NOISE_COLUMNS
from scalecut.analyses.rcv import COLUMNS as RCV_COLUMNS
from scalecut.analyses.synthetic import COLUMNS as SCENES_COLUMNS
from scalecut.cli import analyses as experiments
from scalecut.cli.console import OUT
from scalecut.networks.load import load_network
from tests.cli.test_app import assert_refused, blobs, facts, scalecut, tree, words

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
INVARIANCE = (*SMALL, "--data", "voc:blobs", "--sizes", "0.5,1,2")
NOISE = ("--noise", "pink,white", "--padding", "zeros,circular", "--noise-images", 40)
SCENES = ("--input-size", 48, "--contents", 10)
RCV = (*SMALL, "--data", "voc:blobs", "--repeats", 3)


def prepare(folder):
    """Two classes of 24 photographs and the networks."""
    (folder / "tiny_networks.py").write_text(NETWORKS)
    blobs(folder / "blobs", kinds=("cat", "dog") * 24)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """A cache and a working folder of its own, 80 columns, small pictures."""
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
    """What every command said, and its folder, for all tests that only read."""
    said = {}
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
            ("invariance", "invariance", "network", (*INVARIANCE, *NOISE)),
            ("scenes", "scenes", "network", (*SCENES, "--canvases", "32,48")),
            ("rcv", "rcv", "network", (*RCV, "--class", 3)),
        ):
            result = asked(command, network, *more, out=name)
            assert (result.exit_code, result.stderr) == (0, ""), name
            said[name] = SimpleNamespace(stdout=result.stdout, folder=place / name)
    return said


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
    """Rows of a table in the terminal, from the line that begins so, by their first words."""
    lines = [line.split() for line in run.stdout.splitlines()]
    (start,) = [number for number, line in enumerate(lines) if line[: len(first)] == first]
    return lines[start + 1 :]


# --- what a command leaves and says --------------------------------------------------------------

RUNS = {
    "invariance": (
        {"invariance": INVARIANCE_COLUMNS, "noise": NOISE_COLUMNS},
        drawn("invariance", "drift", "noise"),
    ),
    "scenes": ({"scenes": SCENES_COLUMNS}, drawn("scenes")),
    "rcv": ({"rcv": RCV_COLUMNS}, drawn("directions") | {"rcv.npz"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_run_folder_holds_the_tables_the_facts_and_the_figures(done, name):
    tables, others = RUNS[name]
    folder = done[name].folder
    named = {"run.json", "report.html", *(f"{table}.csv" for table in tables)}
    assert files(folder) == named | others
    for table, columns in tables.items():
        found = table_of(done[name], table)
        assert list(found) == columns
        assert set(found.layer) == set(LAYERS)
        assert set(found.model) == {"tiny_networks:network"}


@pytest.mark.parametrize("name", RUNS)
def test_run_json_says_what_was_done_with_what(done, name):
    told = strict((done[name].folder / "run.json").read_text())
    assert list(told) == [
        *("format", "command", "settings", "written", "versions", "machine", "model", "weights"),
        *("tensors_sha256", "preprocessing", "finding", "left_out", "stages"),
    ]
    assert told["stages"] and all(each["seconds"] >= 0 for each in told["stages"].values())
    assert told["model"] == told["settings"]["model"] == "tiny_networks:network"
    assert not {"out", "as_json"} & set(told["settings"])
    assert told["settings"]["seed"] == 0
    assert told["preprocessing"]["height"] == int(told["settings"]["input_size"])
    assert told["left_out"] == []
    assert told["finding"] == done[name].stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "picture"),
    [("invariance", "invariance"), ("scenes", "scenes"), ("rcv", "directions")],
)
def test_command_ends_with_the_run_the_picture_and_what_was_found(done, name, picture):
    *_, run, figure, page, finding = done[name].stdout.splitlines()
    assert run == f"Run:     {name}"
    assert page == f"Page:    {name}/report.html"
    assert figure == f"Picture: {name}/figures/{picture}.png"
    assert finding.endswith(".")


@pytest.mark.parametrize("name", ["one", *RUNS])
def test_report_draws_the_figures_and_the_page_of_any_run_again(done, name):
    folder = done[name].folder
    before = tree(folder)
    result = scalecut("report", folder)
    assert result.exit_code == 0
    assert tree(folder) == before
    printed = {Path(line).relative_to(folder).as_posix() for line in result.stdout.splitlines()}
    figures = {file for file in files(folder) if file.startswith("figures/")}
    assert printed == figures | {"report.html"}


def test_sizes_are_shown_with_what_the_table_says_of_them(done):
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


def test_nothing_changes_at_the_training_size(done):
    table = table_of(done["invariance"], "invariance")
    here = table[table.octaves == 0].groupby("quantity").value
    means = here.mean()
    assert (means["agreement"], means["cosine"]) == pytest.approx((1, 1))
    assert (means["probability_change"], means["jensen_shannon"]) == pytest.approx((0, 0))


def test_noise_is_shown_with_what_the_table_says_of_it(done):
    table = table_of(done["invariance"], "noise").set_index(["layer", "noise", "padding"]).r2
    lines = shown(done["invariance"], ["layer", "pink,"])
    for line in lines[:5]:
        expected = [table[line[0], n, p] for n in ("pink", "white") for p in ("zeros", "circular")]
        numbers = [float(word) for word in line[1:]]
        assert sorted(numbers) == pytest.approx(sorted(expected), abs=0.0051)
    assert [line[0] for line in lines[:5]] == LAYERS


def test_scenes_tell_scale_size_gain_and_leaks_of_every_layer(done):
    table = table_of(done["scenes"], "scenes").pivot(index="layer", columns="quantity")["value"]
    names = ["object_scale_partial_r2", "image_size_partial_r2", "gain", "r2", "blur_leak"]
    names += [f"padding_{padding}_leak" for padding in ("zeros", "reflect", "circular")]
    header = ["layer", "object", "scale", "image", "size", "gain", "R²", "blur", "zeros"]
    lines = shown(done["scenes"], header)[:5]
    assert [line[0] for line in lines] == LAYERS
    for layer, *numbers in lines:
        found = [float(number) for number in numbers]
        assert found == pytest.approx(table.loc[layer, names], abs=0.0051)


def test_directions_are_kept_as_unit_vectors_of_every_subset_and_layer(done):
    with np.load(done["rcv"].folder / "rcv.npz", allow_pickle=False) as vectors:
        assert set(vectors) == {f"{kind}/{layer}" for kind in ("cat", "dog") for layer in LAYERS}
        assert [len(vectors[f"cat/{layer}"]) for layer in LAYERS] == [8, 12, 12, 5, 5]
        lengths = [np.linalg.norm(vectors[name]) for name in vectors]
    np.testing.assert_allclose(lengths, 1)


def test_own_subset_and_others_are_told_apart(done):
    table = table_of(done["rcv"], "rcv")
    transfer = table[table.quantity == "transfer_r2"]
    for layer, *numbers in shown(done["rcv"], ["layer", "degrees"])[:5]:
        here = transfer[transfer.layer == layer]
        is_own = here.subset == here.other
        expected = here.value[is_own].mean(), here.value[~is_own].mean()
        assert [float(x) for x in numbers[3:5]] == pytest.approx(expected, abs=0.0051)


def test_class_is_asked_for_by_its_number(done):
    table = table_of(done["rcv"], "rcv")
    slopes = table[table.quantity == "sensitivity"]
    assert set(slopes.layer) == set(LAYERS[:-1])
    assert set(slopes.other) == {"3"}


# --- other questions to the same commands --------------------------------------------------------


def test_probe_has_twins_width_and_learning_curve_in_its_folder():
    more = ("--controls", "random,permuted", "--twins", 2, "--permutations", 20)
    more = (*more, "--match-width", 3, "--learning-curve", "--data", "voc:cats")
    blobs(Path("cats"), kinds=("cat",) * 48)
    result = asked("probe", "network", *PROBE, *more)
    assert (result.exit_code, result.stderr) == (0, "")
    figures = drawn("curve", "curve_exponential", "width", "predicted", "learning")
    tables = {"curve.csv", "differences.csv", "learning.csv", "draws.npy", "report.html"}
    tables |= {"predictions.parquet", "images.parquet"}
    assert files(Path("run")) == {"run.json", *tables, *figures}
    table = pd.read_csv("run/curve.csv").set_index(["subset", "weights", "regressor"])
    assert set(table.index.get_level_values("regressor")) == {"ridge", "ols", "matched"}
    assert table.loc[("cat", "random", "ridge")].r2_spread.gt(0).all()
    assert table.loc[("cat", "permuted", "ridge")].r2.notna().all()
    whole = np.arange(21) + 1  # of 20 permutations: p is at least 1/21
    p_values = table.loc[("cat", "pretrained", "ridge")].p_value * 21
    assert all(np.isclose(whole, value, atol=1e-4).any() for value in p_values)
    n_fit = table.loc[("cat", "pretrained", "ridge")].n_fit.iloc[0]
    assert set(pd.read_csv("run/learning.csv").n_fit) == {round(n_fit / 2), n_fit}
    assert facts()["probe"]["learning_curve"] is True
    assert f"\n   {round(n_fit / 2)} to fit: R² " in result.stdout


def test_invariance_of_object_scale_alone_is_told_as_json():
    result = asked("invariance", "network", *INVARIANCE, "--changes", "object-scale", "--json")
    told = strict(result.stdout)
    assert result.stderr == ""
    assert list(told) == ["run", "finding", "invariance", "left_out"]
    assert told["run"] == "run"
    assert told["finding"] == facts()["finding"]
    printed, written = pd.DataFrame(told["invariance"]), pd.read_csv("run/invariance.csv")
    assert list(printed) == list(written) == INVARIANCE_COLUMNS
    np.testing.assert_allclose(printed.value, written.value, atol=1e-6)
    assert set(printed.change) == {"object-scale"}


def test_noise_alone_needs_no_images():
    noise = ("--noise", "blocks", "--padding", "zeros", "--noise-images", 30)
    result = asked("invariance", "network", *SMALL, *noise, "--layers", "end,logits", "--json")
    told = strict(result.stdout)
    assert list(told) == ["run", "finding", "noise", "left_out"]
    assert [(r["noise"], r["padding"], r["layer"]) for r in told["noise"]] == [
        ("blocks", "zeros", "end"),
        ("blocks", "zeros", "logits"),
    ]
    assert files(Path("run")) == {"run.json", "report.html", "noise.csv", *drawn("noise")}


def test_one_canvas_sets_object_scale_alone():
    more = ("--canvases", 48, "--place", "fixed", "--layers", "pooled", "--json")
    told = strict(asked("scenes", "network", *SCENES, *more).stdout)
    assert list(told) == ["run", "finding", "scenes", "left_out"]
    assert {row["quantity"] for row in told["scenes"]} == {
        *("object_scale_effect", "object_scale_partial_r2", "gain", "r2", "blur_leak")
    }
    assert "Image size" not in told["finding"]


def test_directions_of_one_subset_have_no_others_and_no_value_is_null_in_json():
    more = ("--subset", "cat", "--layers", "softmax", "--json")
    told = strict(asked("rcv", "network", *RCV, *more).stdout)
    assert list(told) == ["run", "finding", "rcv", "left_out"]
    assert {(row["subset"], row["layer"]) for row in told["rcv"]} == {("cat", "softmax")}
    assert re.match(r"The direction at softmax tells .* in its own subset\. Be", told["finding"])


def test_value_that_is_not_finite_is_null_in_json_and_empty_in_the_table():
    # behind the last activation every image has the same slope, so Br has no value
    more = ("--layers", "logits", "--class", 0, "--json")
    told = strict(asked("rcv", "network", *RCV, *more).stdout)
    assert {row["value"] for row in told["rcv"] if row["quantity"] == "br"} == {None}
    written = pd.read_csv("run/rcv.csv", keep_default_na=False)
    assert set(written.value[written.quantity == "br"]) == {""}


def test_network_without_logits_has_no_answers_and_their_figure_is_not_drawn():
    layers = ("--layers", "act,end")
    result = asked("invariance", "network", *INVARIANCE, *layers, "--changes", "image-size")
    assert files(Path("run")) == {"run.json", "report.html", "invariance.csv", *drawn("drift")}
    assert "Picture: run/figures/drift.png\n" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Doubling the image size moves the features")


def test_run_without_a_figure_names_none():
    more = ("--layers", "end", "--changes", "object-scale", "--sizes", "1,1.41")
    result = asked("invariance", "network", *INVARIANCE, *more)
    assert files(Path("run")) == {"run.json", "report.html", "invariance.csv"}
    assert result.stdout.splitlines()[-3:] == [
        "Run:     run",
        "Page:    run/report.html",
        "There are no answers, and no two sizes an octave apart: invariance.csv has the cosines.",
    ]


def test_size_at_which_the_network_does_not_run_is_left_out_and_named():
    more = ("--sizes", "0.125,1,2", "--changes", "image-size", "--layers", "end")
    result = asked("invariance", "unpadded", *INVARIANCE, *more)
    assert result.exit_code == 0
    (left_out,) = facts()["left_out"]
    assert left_out["name"] == "image-size -3 octaves (4 x 4 px)"
    told = f"1 thing left out:\n  {left_out['name']}: {left_out['reason']}\n"  # torch's reason
    assert told in result.stdout
    assert set(pd.read_csv("run/invariance.csv").side) == {32, 64}


def test_no_more_images_are_looked_at_than_asked_for():
    more = ("--at-most", 7, "--layers", "end", "--sizes", "2", "--changes", "object-scale")
    asked("invariance", "network", *INVARIANCE, *more)
    assert set(pd.read_csv("run/invariance.csv").n_images) == {7}


def test_image_that_cannot_be_read_is_left_out_and_named():
    Path("blobs/JPEGImages/007.jpg").write_bytes(b"none")
    more = ("--layers", "end", "--sizes", "2", "--changes", "object-scale")
    result = asked("invariance", "network", *INVARIANCE, *more)
    assert "left out:\n  007.jpg: " in result.stdout
    assert [item["name"] for item in facts()["left_out"]] == ["007.jpg"]


# --- curves compared -----------------------------------------------------------------------------


def test_curves_are_compared_at_their_peaks(done):
    one, two = done["one"].folder, done["two"].folder
    result = scalecut("compare", one, two)
    assert result.exit_code == 0
    title = "R² of tiny_networks:network less tiny_networks:other"
    assert words(result.stdout).startswith(title)
    table = strict(scalecut("compare", one, two, "--json").stdout)
    assert [row["subset"] for row in table] == ["cat", "dog", "mean"]
    for row in table:
        peaks = [facts(run)["evidence"][row["subset"]] for run in (one, two)]
        assert [row["layer"], row["other_layer"]] == [peak["peak"] for peak in peaks]
        assert row["difference"] == pytest.approx(peaks[0]["r2"] - peaks[1]["r2"], abs=2e-6)
        assert row["difference_low"] <= row["difference_high"]


def test_curves_are_compared_at_layers_by_name_or_alias(done):
    one, two = done["one"].folder, done["two"].folder
    layers = ("--layers", "pooled, pre_softmax")
    there = strict(scalecut("compare", one, two, *layers, "--json").stdout)
    assert {(row["layer"], row["other_layer"]) for row in there} == {("pooled", "logits")}
    back = strict(scalecut("compare", two, one, "--layers", "pre_softmax,pooled", "--json").stdout)
    for row, turned in zip(there, back, strict=True):
        assert row["difference"] == pytest.approx(-turned["difference"])
        assert row["difference_low"] == pytest.approx(-turned["difference_high"])


def test_curve_does_not_differ_from_itself(done):
    table = strict(scalecut("compare", done["one"].folder, done["one"].folder, "--json").stdout)
    differences = {row[f"difference{end}"] for row in table for end in ("", "_low", "_high")}
    assert differences == {0}


@pytest.mark.parametrize("layers", ["pooled", "pooled,logits,end"])
def test_curves_are_compared_at_a_layer_of_each(done, layers):
    result = scalecut("compare", done["one"].folder, done["two"].folder, "--layers", layers)
    text = (
        f"--layers '{layers}' names {layers.count(',') + 1} layers, but one of each run is "
        "needed, such as add_13,mixed8."
    )
    assert_refused(result, tree(), text)


def test_layer_that_a_curve_does_not_have_is_named(done):
    one, two = done["one"].folder, done["two"].folder
    result = scalecut("compare", one, two, "--layers", "pooled,block9")
    text = (
        "The curve of tiny_networks:other has no layer 'block9'. It has 5, from '0.act' to "
        "'logits'."
    )
    assert_refused(result, tree(), text)


@pytest.mark.parametrize(("more", "what"), [(("--subset", "cat"), "images"), (("--seed", 1), "")])
def test_runs_of_other_images_or_splits_are_not_compared(done, more, what):
    asked("probe", "network", *PROBE, "--layers", "pooled", *more)
    before = tree()
    one, other = facts(done["one"].folder), facts()
    if what:
        entries = [{"sha256": told["images"]["sha256"]} for told in (one, other)]
    else:
        what = "splits"
        entries = [{k: told["probe"][k] for k in ("repeats", "seed")} for told in (one, other)]
    text = (
        f"The two runs are not of the same {what} ({entries[0]} and {entries[1]}), so they cannot "
        "be compared image by image. Probe both networks with the same --data, --subset, "
        "--measure, --fit, --repeats and --seed."
    )
    assert_refused(scalecut("compare", done["one"].folder, "run"), before, text)


def test_folder_that_is_no_curve_is_not_compared(done):
    one, rcv = done["one"].folder, done["rcv"].folder
    text = "There is no run folder 'none'. Give the folder that a probe wrote (--out)."
    assert_refused(scalecut("compare", one, "none"), tree(), text)
    text = (
        f"{str(rcv)!r} holds no curve: it is empty, or was made by another command. Give the "
        "folder that a probe wrote (--out)."
    )
    assert_refused(scalecut("compare", one, rcv), tree(), text)


# --- bad input -----------------------------------------------------------------------------------

REFUSED = {
    "neither images nor noise": (
        ("invariance", "network", *SMALL),
        "Neither images nor noise were asked for. Give --data voc:DIR (or scenes), or --noise "
        "white, or both.",
    ),
    "size in words": (
        ("invariance", "network", *INVARIANCE, "--sizes", "huge"),
        "'huge' is no size. Give factors of the training resolution from 1/64 to 64, such as "
        "0.5,1,2, or pixels, such as 16px,32px.",
    ),
    "size not finite": (
        ("invariance", "network", *INVARIANCE, "--sizes", "1,inf"),
        "'inf' is no size. Give factors of the training resolution from 1/64 to 64, such as "
        "0.5,1,2, or pixels, such as 16px,32px.",
    ),
    "no other size": (
        ("invariance", "network", *INVARIANCE, "--sizes", "1,32px"),
        "--sizes '1,32px' names no size but the training resolution. Give others, such as 0.5,1,2.",
    ),
    "change": (
        ("invariance", "network", *INVARIANCE, "--changes", "object-scale,colour"),
        "No change is named 'colour'. Give one or more of image-size, object-scale.",
    ),
    "no change": (
        ("invariance", "network", *INVARIANCE, "--changes", ","),
        "No change is named. Give one or more of image-size, object-scale.",
    ),
    "noise": (
        ("invariance", "network", *SMALL, "--noise", "brown"),
        "No noise is named 'brown'. Give one or more of white, pink, blocks.",
    ),
    "no noise": (
        ("invariance", "network", *SMALL, "--noise", ","),
        "No noise is named. Give one or more of white, pink, blocks.",
    ),
    "few pictures of noise": (
        ("invariance", "network", *SMALL, "--noise", "white", "--noise-images", 19),
        "19 pictures of noise are too few to fit and to test. Give --noise-images 20 or more, 126 "
        "as usual.",
    ),
    "padding of noise": (
        ("invariance", "network", *SMALL, "--noise", "white", "--padding", "mirror"),
        "No padding is named 'mirror'. Give one or more of zeros, reflect, circular.",
    ),
    "padding of scenes": (
        ("scenes", "network", *SCENES, "--padding", "zeros,mirror"),
        "No padding is named 'mirror'. Give one or more of zeros, reflect, circular.",
    ),
    "no padding": (
        ("scenes", "network", *SCENES, "--padding", ","),
        "No padding is named. Give one or more of zeros, reflect, circular.",
    ),
    "padding that the network does not have": (
        ("invariance", "unpadded", *SMALL, "--noise", "white", "--noise-images", 20),
        "tiny_networks:unpadded pads none of its maps up to layer 'softmax', so reflect padding "
        "changes nothing. Ask for the padding zeros alone, which leaves the network as it is.",
    ),
    "place": (
        ("scenes", "network", *SCENES, "--place", "left"),
        "No place is named 'left'. Give one of random, fixed.",
    ),
    "few contents": (
        ("scenes", "network", *SCENES, "--contents", 9),
        "9 contents were asked for, but at least 10 are needed to fit and to test. Give --contents "
        "10 or more; 44 show every object before every backdrop.",
    ),
    "canvas in words": (
        ("scenes", "network", *SCENES, "--canvases", "48,large"),
        "'large' is not a side in pixels. Give whole numbers: 160,224,320.",
    ),
    "canvases too small": (
        ("scenes", "network", *SCENES, "--canvases", "16,48"),
        "tiny_networks:network runs on 1 of 2 canvases; on 16 px it does not (objects can be seen "
        "on 32 px or more). Image size needs two: give other canvases, or --canvases 48 to set "
        "object scale alone.",
    ),
    "input too small for scenes": (
        ("scenes", "network", *SCENES, "--input-size", 24),
        "tiny_networks:network does not run on scenes of 24 x 24 px (objects can be seen on 32 px "
        "or more). Give another --input-size.",
    ),
    "canvas larger than any memory": (
        ("scenes", "network", *SCENES, "--canvases", 10**7),
        "There is not enough memory (Unable to allocate 273. TiB for an array with shape (1, "
        "10000000, 10000000, 3) and data type uint8). Give smaller sides in pixels, fewer images "
        "or permutations, or a smaller --batch-size.",
    ),
    "no images": (
        ("invariance", "network", *INVARIANCE, "--at-most", 0),
        "0 images cannot be looked at. Give --at-most 1 or more, 48 as usual.",
    ),
    "few groups": (
        ("invariance", "network", *INVARIANCE, "--at-most", 4),
        "There are 4 images of 4 groups that can be read, but at least 5 groups are needed to test "
        "on others. Give images of more groups.",
    ),
    "batch of no images": (
        ("invariance", "network", *INVARIANCE, "--batch-size", 0),
        "A batch cannot be of 0 images. Give --batch-size 1 or more.",
    ),
    "batch of no images for directions": (
        ("rcv", "network", *RCV, "--batch-size", 0),
        "A batch cannot be of 0 images. Give --batch-size 1 or more.",
    ),
    "one repeat": (
        ("rcv", "network", *RCV, "--repeats", 1),
        "--repeats 1 is too few for stability, which compares two. Give 2 or more.",
    ),
    "unknown class": (
        ("rcv", "network", *RCV, "--class", "tabby"),
        "tiny_networks:network has no class 'tabby'. Give a number from 0 to 4.",
    ),
    "class beyond the last": (
        ("rcv", "network", *RCV, "--class", "5"),
        "tiny_networks:network has no class '5'. Give a number from 0 to 4.",
    ),
    "class without a head": (
        ("rcv", "headless", *RCV, "--class", "tabby"),
        "tiny_networks:headless has no logits, but a class is asked for. Give a network with its "
        "head, or no class.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_answered_in_one_line(case):
    typed, text = REFUSED[case]
    before = tree()
    assert_refused(asked(*typed), before, text)


def test_network_that_runs_at_its_own_size_alone_is_answered_in_one_line():
    before = tree()
    result = asked("invariance", "of_one_size", *INVARIANCE)
    start = "tiny_networks:of_one_size runs at none of 2 sizes but its own, 32 x 32 px ("
    assert_refused(result, before, start, whole=False)  # then torch's reason
    assert result.stderr.endswith(
        "). Give --changes object-scale, which leaves the size as it is, or take another network.\n"
    )
    more = ("--changes", "object-scale")
    assert asked("invariance", "of_one_size", *INVARIANCE, *more).exit_code == 0


def test_class_is_not_asked_of_a_head_whose_weights_are_missing():
    state = load_network("tiny_networks:network").module.state_dict()
    torch.save({name: state[name] for name in state if name != "fc.weight"}, "net.pth")
    before = tree()
    more = ("--weights", "net.pth", "--allow-partial", "--class", 0)
    text = (
        "A class is asked for, but the layer 'logits' of tiny_networks:network depends on "
        "'fc.weight', one of 1 tensors missing from the weights. Give weights that hold it, or no "
        "class."
    )
    assert_refused(asked("rcv", "network", *RCV, *more), before, text)


def test_images_of_few_groups_are_answered_in_one_line():
    rows = [f"{number:03}.jpg,{number % 7},g{number % 3}" for number in range(40)]
    Path("table.csv").write_text("\n".join(["image,measure,group", *rows]))
    before = tree()
    more = ("--data", "csv:table.csv", "--images", "blobs/JPEGImages")
    text = (
        "There are 40 images of 3 groups that can be read, but at least 5 groups are needed to "
        "test on others. Give images of more groups."
    )
    assert_refused(asked("invariance", "network", *INVARIANCE, *more), before, text)
    text = (
        "The 40 images of 'table' are of 3 groups, but at least 4 are needed to keep groups apart. "
        "Give images of more groups, or a group an image."
    )
    assert_refused(asked("rcv", "network", *RCV, *more), before, text)


@pytest.mark.parametrize(
    ("work", "typed"),
    [
        ("noise_curve", ("invariance", *SMALL, "--noise", "white", "--noise-images", 20)),
        ("instrument", ("scenes", *SCENES)),
        ("directions_of", ("rcv", *RCV)),
        ("draw", ("rcv", *RCV)),
        ("draw", ("invariance", *INVARIANCE, "--layers", "end")),
    ],
)
def test_ctrl_c_leaves_no_run(monkeypatch, work, typed):
    def interrupted(*given, **settings):
        raise KeyboardInterrupt

    before = tree()
    monkeypatch.setattr(experiments, work, interrupted)
    command, *more = typed
    result = asked(command, "network", *more)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == (
        "scalecut: stopped, no run was written. Features that are cached are not computed again.\n"
    )
    assert tree() == before


@pytest.mark.parametrize("command", ["invariance", "scenes", "rcv"])
def test_place_is_refused_before_any_work_is_done(monkeypatch, command):
    monkeypatch.setattr(experiments, "load_network", lambda *_, **__: pytest.fail("work was done"))
    before = tree()
    result = scalecut(command, "tiny_networks:network", "--data", "voc:blobs", "--out", "blobs")
    if command == "scenes":
        result = scalecut(command, "tiny_networks:network", "--out", "blobs")
    text = (
        "'blobs' is there and holds no run of scalecut, so it is not replaced. Give --out a new "
        "folder."
    )
    assert_refused(result, before, text)


# --- what is said in the end ---------------------------------------------------------------------


def long_form(rows, columns):
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows])


def of_sizes(*rows):
    columns = ["change", "octaves", "side", "layer", "quantity", "value"]
    return experiments._of_sizes(long_form(rows, columns))


def answers(change, **kept):
    """Rows of agreement; the octaves as `at_-1`."""
    at = {float(name.removeprefix("at_")): value for name, value in kept.items()}
    for octaves, value in sorted({0.0: 1.0, **at}.items()):
        side = round(224 * 2**octaves) if change == "image-size" else 224
        yield change, octaves, side, "softmax", "agreement", value


def drifts(change="image-size", **values):
    for layer, value in values.items():
        for octaves, away in ((0.0, -0.1), (1.0, 0.1)):
            yield change, octaves, 224, layer, "drift", value + away


BOTH = [
    *answers("image-size", **{"at_-2": 0.1, "at_-1": 0.46, "at_1": 0.58, "at_2": 0.2}),
    *answers("object-scale", **{"at_-1": 0.4, "at_1": 0.464}),
]


def test_answers_are_told_at_half_and_double():
    assert of_sizes(*BOTH) == (
        "46% of the answers at 224 px are kept at half the image size and 58% at double; where "
        "only the object's scale changes, 40% at half and 46% at double."
    )


def test_features_are_told_where_they_move_most_and_least():
    moves = drifts(stem=0.2, block=0.75, softmax=0.9, pooled=0.3)
    assert of_sizes(*BOTH, *moves).endswith(
        " 46% at double. Doubling the image size moves the features most at block (1 - cosine "
        "0.75) and least at stem (0.20)."
    )


def test_one_change_is_told_in_its_own_words():
    rows = answers("object-scale", **{"at_-1": 0.4, "at_1": 0.46})
    assert of_sizes(*rows, *drifts("object-scale", a=0.3, b=0.5)) == (
        "40% of the answers at 224 px are kept at half the object scale and 46% at double. "
        "Doubling the object scale moves the features most at b (1 - cosine 0.50) and least at a "
        "(0.30)."
    )


def test_sizes_other_than_half_and_double_are_told_by_their_factor():
    rows = answers("image-size", **{"at_-2": 0.25, "at_-0.5": 0.9, "at_0.5": 0.8})
    assert of_sizes(*rows) == (
        "25% of the answers at 224 px are kept at 0.25 times the image size and 80% at 1.41 times."
    )


def test_larger_sizes_alone_are_told_alone():
    assert of_sizes(*answers("image-size", at_1=0.5)) == (
        "50% of the answers at 224 px are kept at double the image size."
    )


def test_features_alone_are_told_alone():
    same = [("image-size", 0.0, 224, "a", "cosine", 1.0)]
    assert of_sizes(*same, *drifts(a=0.3, b=0.5)).startswith("Doubling the image size moves")
    assert of_sizes(*same, *drifts(a=0.3)) == (
        "Doubling the image size moves the features most at a (1 - cosine 0.30)."
    )


def of_noise(*rows):
    columns = ["padding", "noise", "layer", "r2"]
    return experiments._of_noise(long_form(rows, columns))


def test_noise_is_told_by_its_best_layer_and_kind_for_each_padding():
    zeros = [("zeros", "white", "a", 0.3), ("zeros", "pink", "b", 0.998), ("zeros", "pink", "c", 0)]
    others = [("reflect", "pink", "b", 0.92), ("circular", "white", "a", -0.2)]
    assert of_noise(("circular", "blocks", "c", 0.64), *others, *zeros) == (
        "The size of pure noise can be read with R² up to 1.00 with zeros as padding (pink, b), "
        "0.92 with reflect (pink, b), 0.64 with circular (blocks, c)."
    )
    assert of_noise(*others[:1]) == (
        "The size of pure noise can be read with R² up to 0.92 with reflect as padding (pink, b)."
    )


def of_scenes(**quantities):
    layers = ["stem", "block", "logits", "softmax"]
    rows = [
        (name, *row) for name, each in quantities.items() for row in zip(layers, each, strict=True)
    ]
    return experiments._of_scenes(long_form(rows, ["quantity", "layer", "value"]))


def test_scenes_are_told_at_the_best_layer_and_the_last():
    found = of_scenes(
        object_scale_partial_r2=[0.5, 0.98, 0.79, 0.99],
        object_scale_effect=[0.9] * 4,
        image_size_partial_r2=[0.99, 0.6, 0.4, 0.1],
        gain=[0.2, 0.5, 0.93, 1.0],
        blur_leak=[0.35, 0.1, math.nan, 0],
    )
    assert found == (
        "Object scale is read best at block (partial R² 0.98; 0.79 at logits). Image size is read "
        "best at stem (partial R² 0.99; 0.40 at logits). Where only the object is resized, the "
        "reading follows most at logits (gain 0.93). Blur alone tells most at stem (R² 0.35; 0.10 "
        "at block)."
    )


def test_scenes_of_one_canvas_say_nothing_of_image_size():
    found = of_scenes(object_scale_partial_r2=[0.1, 0.2, 0.3, 0])
    assert found == "Object scale is read best at logits (partial R² 0.30)."


def of_directions(**quantities):
    rows = [(name, *row) for name, each in quantities.items() for row in each]
    return experiments._of_directions(long_form(rows, ["quantity", "layer", "value"]))


def test_directions_are_told_at_the_layer_of_the_best_own_reading():
    found = of_directions(
        own=[("a", 0.5), ("b", 0.9), ("b", 0.7), ("softmax", 0.95)],  # two subsets
        transfer=[("a", 0.7), ("b", 0.6), ("b", 0.5)],
        stability_degrees=[("a", 5), ("b", 12.3)],
        stability_shuffled_degrees=[("a", 50), ("b", 46)],
    )
    assert found == (
        "The direction at b tells scale with R² 0.80 in its own subset and 0.55 in the others. "
        "Between repeats it turns by 12°; with a shuffled measure, by 46°."
    )


def test_direction_that_does_not_exist_has_no_angle():
    nowhere = [("a", math.nan)]
    found = of_directions(
        own=[("a", 0.0)], stability_degrees=nowhere, stability_shuffled_degrees=nowhere
    )
    assert found == "The direction at a tells scale with R² 0.00 in its own subset."
