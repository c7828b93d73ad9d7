"""The commands about curves as they are typed, on images made here: bright rectangles on noise."""

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
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
import typer
from typer.testing import CliRunner

from scalecut import cache, load_network
from scalecut.cli import app as cli
from scalecut.cli.console import OUT, place, print_skipped
from scalecut.errors import ModelError
from scalecut.networks.selection import chosen_points
from scalecut.report.curve import COLUMNS

LAYERS = ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "pooled", "logits", "softmax"]
CURVE_HEADER = ["layer", "d", "ridge", "[95", "%]", "gain", "[95", "%]", "random", "ols"]
LAYER_COLUMNS = [
    *("layer", "alias", "depth", "channels", "stride", "receptive_field", "parameters", "macs")
]
BARE = ("--controls", "none", "--layers", "pooled")
SIDE = 48
NUMBER, INTERVAL = r"-?\d\.\d\d", r"\[-?\d\.\d\d, -?\d\.\d\d\]"
# With few images a probe may show nothing; then it says so and claims no more.
FINDING = re.compile(
    rf"((?P<model>\w+) encodes object scale best at .+ \(95 % set: .+\): R² {NUMBER} {INTERVAL}"
    rf"(, a gain over controls of {NUMBER} {INTERVAL}(, which is not shown to be above 0)?)?; .*"
    rf"|No layer of (?P<none>\w+) is shown to encode object scale; the best is .+: "
    rf"R² {NUMBER} {INTERVAL}(, p = [\d.e-]+)?); (?P<n_fit>\d+) training images\."
    rf"( All \d+ layers together have R² {NUMBER} {INTERVAL}.+\.)?"
)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """A cache and a working folder of its own, no way to the hub, 80 columns, small figures."""
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    monkeypatch.setattr(OUT, "width", 80)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def scalecut(*typed):
    """The result of a command; an error that is a bug is raised."""
    result = CliRunner().invoke(cli.app, [str(word) for word in typed])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def annotate(folder, name, kind, box):
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    (folder / "Annotations" / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.jpg</filename><size><width>{SIDE}</width><height>{SIDE}"
        f"</height></size><object><name>{escape(kind)}</name>"
        f"<bndbox>{corners}</bndbox></object></annotation>"
    )


def blobs(folder=Path("blobs"), kinds=("blob",) * 40, same=False):
    """A VOC folder with one bright rectangle per image."""
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
    """A quick probe; if an option is given twice, the last one holds."""
    of = () if "--data" in more else ("--data", data)
    return scalecut(
        *("probe", model, "--weights", weights, "--input-size", 32, *of),
        *("--repeats", 2, "--out", "run", *more),
    )


def tree(folder=Path()):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def below_data(shown):
    """What follows on what was understood of the images, which comes before computing."""
    return shown.partition("\n\n")[2] if shown.startswith("Data\n") else shown


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
    """One run with weights from a file and the usual controls, for tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setenv("SCALECUT_CACHE", str(Path.cwd() / "cache"))
        patch.setattr(OUT, "width", 80)
        typed = ["probe", "test_resnet", "--weights", "net.pth", "--data", "voc:blobs"]
        patch.setattr(sys, "argv", ["/somewhere/scalecut", *typed, "--subset", "dog, [cat]"])
        blobs(kinds=("[cat]", "dog") * 25)
        state_of("test_resnet", "net.pth")
        result = probed("--subset", "dog,[cat]", "--twins", 2, weights="net.pth")
        yield SimpleNamespace(result=result, folder=Path.cwd() / "run", work=Path.cwd())


@pytest.fixture
def curve(finished):
    return pd.read_csv(finished.folder / "curve.csv", keep_default_na=False)


# --- the commands --------------------------------------------------------------------------------


def test_help_names_every_command_and_each_shows_an_example():
    shown = scalecut("--help").stdout
    assert "scalecut demo" in shown
    for command in typer.main.get_command(cli.app).commands:
        assert re.search(rf"^  {command} ", shown, re.MULTILINE)
        result = scalecut(command, "--help")
        assert result.exit_code == 0
        assert re.search(rf"Examples?:\n +scalecut {command}", result.stdout)
    assert scalecut("--version").stdout == f"{metadata.version('scalecut')}\n"


def test_layers_are_listed_in_the_order_of_execution():
    title, header, *lines = scalecut("layers", "test_resnet").stdout.splitlines()
    assert title.strip().startswith("test_resnet")
    assert " ".join(header.split()) == (
        "layer alias depth channels stride field px parameters MACs"
    )
    assert [line.split()[0] for line in lines] == LAYERS
    assert lines[0].split() == ["layer1.0", "add_1", "0.00", "32", "4", "31", "26,032", "76", "M"]
    assert lines[4].split()[:5] == ["pooled", "0.67", "96", "–", "–"]


def test_layers_as_json_have_the_columns_of_the_contract_and_are_selected():
    listed = json.loads(scalecut("layers", "test_resnet", "--json").stdout)
    network = load_network("test_resnet", weights="random")
    assert listed == [
        {name: getattr(point, name) for name in LAYER_COLUMNS}
        for point in chosen_points(network)[0]
    ]
    some = ("--layers", "softmax, add_2,layer4*", "--input-size", "80X160", "--json")
    selected = json.loads(scalecut("layers", "test_resnet", *some).stdout)
    assert [each["layer"] for each in selected] == ["layer2.0", "layer4.0", "softmax"]
    assert listed[1]["macs"] == pytest.approx(2 * selected[0]["macs"])  # half the pixels


def test_probe_shows_the_means_of_the_curve(finished, curve):
    shown = finished.result.stdout
    assert words(shown).startswith("Data Images 50 ([cat] 25, dog 25) Skipped none Groups 50,")
    *table, controls, computed, run, figure, page, finding = below_data(shown).splitlines()
    assert computed.endswith(" (the network has fewer than 1,000,000 parameters).")
    assert finished.result.stderr == ""
    assert table[0].strip() == "R² of area, test_resnet, 50 images ([cat], dog)"
    assert table[1].split() == CURVE_HEADER
    lines = {line.split()[0]: line for line in table[2:]}
    assert list(lines) == LAYERS
    for layer, line in lines.items():
        rows = curve[(curve.subset == "mean") & (curve.layer == layer)]
        rows = rows.set_index(["weights", "target", "regressor"])
        own = rows.loc[("pretrained", "true", "ridge")]
        shown = [own[f"{name}{end}"] for name in ("r2", "learned") for end in ("", "_low", "_high")]
        shown += [rows.r2["random", "true", "ridge"], rows.r2["pretrained", "true", "ols"]]
        numbers = re.findall(NUMBER, line.removeprefix(layer))
        assert [float(x) for x in numbers] == pytest.approx([float(x) for x in shown], abs=0.0051)
    ridge = curve[(curve.subset == "mean") & (curve.regressor == "ridge")]
    own = ridge[ridge.weights == "pretrained"]
    shuffled = own[own.target == "shuffled"].r2
    n = (own[own.target == "true"].p_value.astype(float) <= 0.05).sum()
    pixels = ridge[(ridge.weights == "pixels") & (ridge.target == "true")].r2.item()
    pattern = (
        rf"Controls: pixels alone ({NUMBER}); shuffled target ({NUMBER}) to ({NUMBER}); "
        r"p ≤ 0.05 \(corrected over layers\) at (\d) of 7 layers\."
    )
    found = [float(number) for number in re.fullmatch(pattern, controls).groups()]
    assert found == pytest.approx([pixels, shuffled.min(), shuffled.max(), n], abs=0.0051)
    files = ["Run:    run", "Figure: run/figures/curve.png", "Page:   run/report.html"]
    assert [run, figure, page] == files
    said = FINDING.fullmatch(finding)
    assert "test_resnet" in (said["model"], said["none"])
    assert finding == facts(finished.folder)["finding"]


def test_run_folder_holds_the_documented_files_and_nothing_else(finished):
    names = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*.*")}
    drawn = {name for name in names if name.startswith("figures/")}
    tables = {
        "curve.csv",
        "differences.csv",
        "combined.csv",
        "draws.npy",
        "images.parquet",
        "predictions.parquet",
    }
    assert names - drawn == {"run.json", "report.html", *tables}
    assert {"figures/curve.png", "figures/curve.svg", "figures/data.png"} <= drawn
    assert {Path(name).suffix for name in drawn} == {".png", ".svg"}
    assert {path.name for path in finished.work.iterdir()} == {"run", "cache", "blobs", "net.pth"}


def test_curve_has_one_row_for_every_combination_and_their_means(curve):
    assert list(curve) == COLUMNS
    keys = ["subset", "layer", "weights", "target", "regressor"]
    assert len(curve) == len(curve[keys].drop_duplicates()) == 3 * (7 + 7 + 1) * 2 * 2
    assert set(curve.layer[curve.weights == "pixels"]) == {"pixels"}
    assert set(curve.subset) == {"[cat]", "dog", "mean"}
    assert set(curve.weights) == {"pretrained", "random", "pixels"}
    assert (set(curve.model), set(curve.measure)) == ({"test_resnet"}, {"area"})
    assert set(curve.seed_count) == {2}
    assert set(curve.p_value[curve.target == "shuffled"]) == {""}
    p_values = curve.p_value[curve.target == "true"].astype(float)
    assert p_values.between(1 / 1001 - 1e-6, 1).all()
    sizes = set(zip(curve.subset, curve.n_images, strict=True))
    assert sizes == {("[cat]", 25), ("dog", 25), ("mean", 50)}
    by_line = curve[curve.subset != "mean"].groupby(keys[1:]).r2.mean()
    mean = curve[curve.subset == "mean"].set_index(keys[1:]).r2
    np.testing.assert_allclose(mean.sort_index(), by_line.sort_index(), atol=1.1e-6)
    ridge = curve[(curve.subset == "mean") & (curve.regressor == "ridge")]
    assert ridge[ridge.target == "true"].groupby("weights").r2.max().min() > 0.9
    assert ridge[ridge.target == "shuffled"].r2.max() < 0.3


def test_run_json_records_what_was_done_with_what(finished, curve):
    told = facts(finished.folder)
    assert {
        *("format", "command", "settings", "written", "versions", "machine", "probe", "computed"),
        *("weights", "tensors_sha256", "preprocessing", "images", "stages", "evidence"),
        *("evidence_with_fewer_to_fit", "points", "layers_left_out", "images_left_out", "finding"),
    } <= set(told)
    assert told["command"] == (
        "scalecut probe test_resnet --weights net.pth --data voc:blobs --subset 'dog, [cat]'"
    )
    assert told["settings"]["subset"] == ["dog", "[cat]"]
    assert told["settings"]["random_networks"] == 2
    assert told["settings"]["repeats"] == told["probe"]["repeats"] == 2
    assert told["settings"]["batch_size"] == 32
    content = (finished.work / "net.pth").read_bytes()
    assert told["weights"]["file_sha256"] == hashlib.sha256(content).hexdigest()
    assert told["images"]["n_by_subset"] == {"[cat]": 25, "dog": 25}
    assert [point["layer"] for point in told["points"]] == LAYERS
    assert told["stages"]["features"]["images_computed"] == 50
    assert told["stages"]["features"]["images_per_second"] > 0
    assert {"random control 1", "random control 2"} <= set(told["stages"])
    assert told["images_left_out"] == told["layers_left_out"] == []
    ridge = curve[(curve.weights == "pretrained") & (curve.target == "true")]
    ridge = ridge[(ridge.regressor == "ridge") & (ridge.layer != "softmax")]
    assert list(told["evidence"]) == ["[cat]", "dog", "mean"]
    for subset, evidence in told["evidence"].items():
        rows = ridge[ridge.subset == subset].set_index("layer")
        assert evidence["peak"] == rows.r2.idxmax()
        assert evidence["peak"] in evidence["confidence_set"]
        for name in ("r2", "r2_low", "r2_high", "p_value", "learned"):
            value = float(rows.loc[evidence["peak"], name])
            assert evidence[name] == pytest.approx(value, abs=1e-6)
        assert evidence["last_r2"] == pytest.approx(rows.r2["logits"], abs=1e-6)


@pytest.mark.long
def test_probe_as_json_prints_the_run_and_nothing_else():
    blobs()
    result = probed("--json", "--controls", "none", "--layers", "pooled,logits")
    told = json.loads(result.stdout)
    assert result.stderr == ""
    keys = {"run", "finding", "evidence", "curve", "layers_left_out", "images_left_out"}
    assert keys <= set(told)
    assert told["evidence"] == facts()["evidence"]
    assert told["run"] == "run"
    assert told["finding"].startswith("test_resnet encodes object scale best at ")
    printed, written = pd.DataFrame(told["curve"]), pd.read_csv("run/curve.csv")
    assert list(printed) == COLUMNS
    np.testing.assert_allclose(printed.r2, written.r2, atol=1e-6)
    assert list(printed.layer) == list(written.layer) == ["pooled", "logits"] * 4


@pytest.mark.long
def test_options_reach_the_probe_and_a_run_without_a_name_has_one():
    blobs()
    rng = np.random.default_rng(0)
    rows = [f"{number:03}.jpg,{rng.uniform()},g{number // 2}" for number in range(40)]
    Path("table.csv").write_text("\n".join(["image,measure,group", *rows]))
    result = scalecut(
        *("probe", "test_resnet", "--weights", "random", "--data", "csv:table.csv"),
        *("--images", "blobs/JPEGImages", "--mean", "0.1,0.2,0.3", "--std", "0.5, 0.6,0.7"),
        *("--repeats", 1, "--input-size", "32x40", "--regressor", "ridge", *BARE),
    )
    assert words(below_data(result.stdout)).startswith(
        "R² of measure, test_resnet, 40 images (table) "
    )
    (run,) = Path("runs").iterdir()
    assert re.fullmatch(r"test_resnet-\d{8}-\d{6}-[0-9a-f]{6}", run.name)
    assert f"Run:    {run}\n" in result.stdout
    used = facts(run)["preprocessing"]
    assert (used["mean"], used["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    assert (used["height"], used["width"]) == (32, 40)


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(monkeypatch):
    now = datetime(2026, 12, 1, 10, 11, 12)
    monkeypatch.setattr("scalecut.cli.console.datetime", SimpleNamespace(now=lambda: now))
    names = [place(None, "hub:org/net").name for _ in range(20)]
    assert len({*names}) == 20
    assert {name[:-6] for name in names} == {"hub_org_net-20261201-101112-"}
    assert place(Path("asked"), "net") == Path("asked")


@pytest.mark.long
def test_report_draws_figures_and_pages_again(finished):
    before = tree(finished.folder)
    for path in (finished.folder / "report.html", *(finished.folder / "figures").iterdir()):
        if path.name != "data.png":  # of the images, not of tables
            path.unlink()
    result = scalecut("report", finished.folder)
    assert result.exit_code == 0
    after = tree(finished.folder)
    assert after.keys() == before.keys()
    for name in ("curve.csv", "report.html"):
        assert after[name] == before[name]
    printed = {Path(line).relative_to(finished.folder) for line in result.stdout.splitlines()}
    drawn = {name for name in after if "s/" in name} - {"figures/data.png"}
    assert {path.as_posix() for path in printed} == drawn | {"report.html"}

    page = finished.folder / "report.html"
    assert "data:image/jpeg" in page.read_text(encoding="utf-8")
    assert scalecut("report", finished.folder, "--no-thumbnails").exit_code == 0
    assert "data:image/jpeg" not in page.read_text(encoding="utf-8")
    scalecut("report", finished.folder)

    result = scalecut("report", "--compare", finished.folder, finished.folder)
    file = finished.work / "run-run.html"
    assert result.stdout == f"{file}\n"
    assert file.read_text(encoding="utf-8").count("<article") == 2
    file.unlink()
    result = scalecut("compare", finished.folder, finished.folder, "--json")
    differences = pd.DataFrame(json.loads(result.stdout))
    assert list(differences.subset) == ["[cat]", "dog", "mean"]
    assert set(differences.difference) == {0}


@pytest.mark.long
def test_cache_is_counted_and_cleared_but_weights_stay(tmp_path):
    blobs()
    probed(*BARE, "--batch-size", 10)
    weights = tmp_path / "cache" / "weights" / "mine.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"kept")
    n_bytes = sum(path.stat().st_size for path in tmp_path.rglob("cache/features/**/*.safetensors"))
    # four batches of features, and the batch norms of the random weights
    told = f"5 files, {n_bytes / 1e6:.1f} MB, {{}} {tmp_path / 'cache'}\n"
    assert scalecut("cache").stdout == told.format("in")
    assert scalecut("cache", "--clear").stdout == told.format("deleted from")
    assert scalecut("cache").stdout == f"0 files, 0.0 MB, in {tmp_path / 'cache'}\n"
    assert weights.read_bytes() == b"kept"


def test_doctor_shows_versions_cache_and_where_weights_are(tmp_path):
    place = tmp_path / "cache" / "weights"
    place.mkdir(parents=True)
    (place / "inception_v3.pth").touch()
    lines = scalecut("doctor").stdout.splitlines()
    assert f"torch          {torch.__version__.split('+')[0]}" in [x.split("+")[0] for x in lines]
    assert f"cache          {tmp_path / 'cache'}" in lines
    assert f"weights        inception_v3: at {place / 'inception_v3.pth'}" in lines
    told = json.loads(scalecut("doctor", "--json").stdout)
    assert {"versions", "threads", "gpu", "precision", "cache", "weights"} <= set(told)
    assert told["precision"] in ("float32", "bfloat16")


# --- the same command again ----------------------------------------------------------------------


@pytest.mark.long
def test_same_command_gives_the_same_curve_to_the_last_digit_also_without_cache():
    blobs()
    state_of("test_resnet", "net.pth")
    curves, computed = [], []
    for again in range(3):
        if again == 2:
            scalecut("cache", "--clear")
        more = ("--random-networks", 1, "--permutations", 19, "--layers", "layer2.0,logits")
        assert probed(*more, weights="net.pth").exit_code == 0
        curves.append(Path("run/curve.csv").read_bytes())
        computed.append(facts()["stages"]["features"]["images_computed"])
    assert curves[0] == curves[1] == curves[2]
    assert computed == [40, 0, 40]


@pytest.mark.long
def test_ctrl_c_leaves_no_run_and_the_same_command_computes_only_the_rest(monkeypatch):
    blobs()
    add, calls = cache.add_shard, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 4:  # the first are the batch norms of the random weights
            raise KeyboardInterrupt
        add(*given)

    more = ("--batch-size", 10, *BARE)
    before = tree()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "add_shard", interrupted)
        result = probed(*more)
    assert (result.exit_code, below_data(result.stdout)) == (130, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("scalecut: Stopped; no run was written.")
    assert tree() == before
    assert probed(*more).exit_code == 0
    assert facts()["stages"]["features"]["images_computed"] == 20


@pytest.mark.long
def test_a_run_that_cannot_be_finished_keeps_the_earlier_one(monkeypatch):
    blobs()
    probed(*BARE)
    before = tree()
    for failure in (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")):

        def fails(*given, failure=failure):
            raise failure

        monkeypatch.setattr("scalecut.runs.write_table", fails)
        result = probed(*BARE, "--seed", 1)
        if isinstance(failure, OSError):
            assert_refused(result, before, "The disk of 'run' is full. Free space, or give --out ")
        else:
            assert result.exit_code == 130 and tree() == before


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


def stopped(stop, typed, folder):
    """A command in a process that gets this signal once it has added features to the cache."""

    def kept():
        return len(list(folder.rglob("cache/features/*/*/*.safetensors")))

    before = kept()
    process = subprocess.Popen(
        [sys.executable, "-c", "from scalecut.cli.app import main; main()", *map(str, typed)],
        env={**os.environ, "WAIT_SECONDS": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # shells start what runs in the background with Ctrl-C ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while kept() == before:
        assert time.monotonic() < deadline, "no features within five minutes"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(stop)
    said, complaint = process.communicate(timeout=300)
    assert before < kept() < 10
    assert not Path("run").exists()
    return kept(), process.returncode, said, complaint


@pytest.mark.long
def test_a_stopped_process_is_finished_by_the_same_command(tmp_path, monkeypatch):
    blobs()
    Path("slow_net.py").write_text(SLOW_NET)
    more = ("--batch-size", 4, "--controls", "none", "--permutations", 0)
    typed = ["probe", "slow_net:network", "--data", "voc:blobs", "--out", "run", *more]
    typed += ["--input-size", 32, "--repeats", 2]
    _, status, said, complaint = stopped(signal.SIGINT, typed, tmp_path)
    assert (status, below_data(said), complaint.count("\n")) == (130, "", 1)
    n_batches, *_ = stopped(signal.SIGKILL, typed, tmp_path)

    weights = "pretrained"  # those that the factory gives
    assert probed(*more, model="slow_net:network", weights=weights).exit_code == 0
    assert facts()["stages"]["features"]["images_computed"] == 40 - 4 * n_batches
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "another"))
    probed(*more, "--out", "whole", model="slow_net:network", weights=weights)
    assert facts(Path("whole"))["stages"]["features"]["images_computed"] == 40
    assert Path("run/curve.csv").read_bytes() == Path("whole/curve.csv").read_bytes()


# --- errors --------------------------------------------------------------------------------------


def assert_refused(result, before, start):
    """Exit status 2, one line that says it, and every file as it was."""
    assert result.exit_code == 2, result.stdout + result.stderr
    assert below_data(result.stdout) == ""
    assert result.stderr.startswith(f"scalecut: {start}"), result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    assert tree() == before


LONG = "r" * 300
WRONG_OPTIONS = {  # of `scalecut probe`, and how the one line starts
    "size in words": (["--input-size", "big"], "--input-size 'big' is no size in pixels. Give 224"),
    "size zero": (["--input-size", "0"], "--input-size '0' is no size in pixels. Give 224, or 2"),
    "mean of two": (["--mean", "0.5,0.5"], "--mean '0.5,0.5' is not three numbers. Give red, "),
    "mean in words": (["--mean", "a,b,c"], "--mean 'a,b,c' is no list of numbers. Give "),
    "networks": (["--random-networks", "0"], "--random-networks must be at least 1, got 0."),
    "former name": (["--twins", "0"], "--random-networks must be at least 1, got 0."),
    "former name with =": (["--twins=33"], "--random-networks must be at most 32, got 33."),
    "removed": (["--stream"], "--stream was removed. Give --at-most 100000 instead: a random part"),
    "permutations": (["--permutations", "-1"], "--permutations must be at least 0, got -1."),
    "width": (["--match-width", "-8"], "--match-width must be at least 0, got -8."),
    "repeats": (["--repeats", 0], "--repeats must be at least 1, got 0."),
    "repeats in words": (["--repeats", "ten"], "Invalid value for '--repeats': "),
    "batch size": (["--batch-size", 0], "--batch-size must be at least 1, got 0."),
    "tokens in words": (
        ["--prefix-tokens", "x"],
        "--prefix-tokens 'x' is no whole number. Give su",
    ),
    "seed below": (["--seed", "-1"], "--seed must be from 0 to 4294967295, got -1."),
    "seed above": (["--seed", 2**32], "--seed must be from 0 to 4294967295, got 4294967296."),
    "precision": (["--precision", "int4"], "Invalid value for '--precision': 'int4' is not one "),
    "fit": (["--fit", "zoom"], "Invalid value for '--fit': 'zoom' is not one of "),
    "objects": (["--objects", "all"], "Invalid value for '--objects': 'all' is not one of "),
    "no regressor": (["--regressor", ","], "--regressor is empty. Give one or more of ridge, ols."),
    "unknown option": (["--nothing"], "No such option: --nothing"),
    "out of others": (["--out", "blobs"], "'blobs' exists and holds no run of scalecut, so it "),
    "out is a file": (
        ["--out", "blobs/JPEGImages/000.jpg"],
        "'blobs/JPEGImages/000.jpg' is a file, but a folder is needed. Give --out a new folder.",
    ),
    "out below a file": (
        ["--out", "blobs/JPEGImages/000.jpg/sub/run"],
        "'blobs/JPEGImages/000.jpg/sub/run' cannot be written (Not a directory). ",
    ),
    "long name": (["--out", LONG], f"'{LONG}' cannot be written (File name too long). "),
    "data of no kind": (["--data", "blobs"], "Data 'blobs' "),
    "missing folder": (["--data", "voc:nowhere"], "There is no folder nowhere. Give "),
    "missing file": (["--data", "csv:no.csv"], "There is no file no.csv. Give "),
    "images elsewhere": (["--images", "nowhere"], "There is no folder nowhere. Give "),
    "subset": (["--subset", "blob,bolb"], "blobs has no subset 'bolb'. It has 1, "),
    "subset twice": (
        ["--subset", "blob", "--subset=bolb"],
        "--subset is given 2 times, and only the last would count. Give it once, with commas betw",
    ),
    "data twice": (
        ["--data", "voc:blobs", "--data", "csv:t.csv"],
        "--data is given 2 times, and only the last would count. Give it once.",
    ),
    "layer": (["--layers", "layer9.0"], "No layer is named 'layer9.0'. Near it: layer4.0"),
    "device": (["--device", "abacus"], "No device is named 'abacus'. Give auto, cpu, or cuda:0."),
    "measure": (["--measure", "volume"], "No measure is named 'volume'. Give one or more of "),
    "no weights file": (["--weights", "no.pth"], "There is no weights file 'no.pth'. Give --weig"),
}


@pytest.mark.long
def test_option_that_cannot_be_is_one_line():
    blobs()
    before = tree()
    for wrong, start in WRONG_OPTIONS.values():
        assert_refused(probed(*wrong), before, start)


WRONG_COMMANDS = {
    "command": (["probes"], "No such command 'probes'. Did you mean 'probe'? See `scalecut --h"),
    "no data": (["probe", "test_resnet"], "Missing option '--data'. See `scalecut probe --help`."),
    "model": (["layers", "resnet5"], "No network is named 'resnet5'. Near it: resnet50, "),
    "fixed size": (
        ["layers", "vit_small_patch16_224", "--input-size", 32],
        "vit_small_patch16_224 does not run on 32 x 32 px (Input height (32) doesn't match",
    ),
    "no run": (["report", "none"], "There is no folder 'none'. Give a folder that `scalecut "),
    "one run": (["report", "--compare", "run"], "--compare needs two run folders, got 1."),
    "one layer": (["compare", "a", "b", "--layers", "x"], "--layers 'x' names 1 layers. Give one "),
    "demo of nothing": (["demo", "--images", 0, "--json"], "Invalid value for '--images': "),
}


def test_command_that_cannot_be_is_one_line():
    for typed, start in WRONG_COMMANDS.values():
        assert_refused(scalecut(*typed), {}, start)


def test_place_is_refused_before_any_work_is_done(monkeypatch):
    blobs()
    for work in ("probing.probe.probe", "data.scenes.make_scenes"):
        monkeypatch.setattr(f"scalecut.{work}", lambda *given, **more: pytest.fail("work was done"))
    assert probed("--out", "blobs").exit_code == 2
    assert scalecut("demo", "--out", "blobs").exit_code == 2


def test_weights_that_cannot_be_had_or_do_not_fit_are_one_line(tmp_path):
    result = probed(weights="pretrained", model="resnet50_v1")
    place = tmp_path / "cache" / "weights" / "resnet50_v1.safetensors"
    assert_refused(result, {}, "No pretrained weights of 'resnet50_v1' are here")
    assert str(place) in result.stderr
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
        assert_refused(probed(weights=file), before, start)


def table(text):
    def made():
        Path("data.csv").write_text(text)
        return "csv:data.csv"

    return made


def folder(**settings):
    def made():
        Path("data").mkdir() if settings == {"kinds": ()} else blobs(Path("data"), **settings)
        return "voc:data"

    return made


DATA = {
    "empty": (folder(kinds=()), ""),
    "few": (folder(kinds=("blob",) * 12), "Subset 'blob' needs at least 20 images "),
    "constant": (folder(same=True), "All 40 images of 'blob' have the same measure, 0.173611, "),
    "columns": (table("image,size\na.jpg,1\n"), "data.csv has no column 'measure'; "),
    "nan": (table("image,measure\na,1\nb,nan\n"), "data.csv: 1 of 2 rows "),
    "binary": (table("\0" * 9), "data.csv "),
    "no images": (table("image,measure\na.jpg,1\n"), "data.csv has no image that can be used. "),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_probed_are_one_line(case):
    make, start = DATA[case]
    spec = make()
    before = tree()
    assert_refused(probed(data=spec), before, start)


def test_full_disk_of_the_cache_is_one_line(monkeypatch, tmp_path):
    blobs()
    before = tree()

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        result = probed()
    assert_refused(result, before, f"The disk of the cache {tmp_path / 'cache'} is full. Free ")


def test_a_bug_is_no_message_and_a_message_is_one_line(monkeypatch):
    def raises(error):
        def broken(*given, **settings):
            raise error

        monkeypatch.setattr("scalecut.networks.selection.list_layers", broken)

    raises(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        scalecut("layers", "test_resnet")
    raises(ModelError("first\n  second\n"))
    assert scalecut("layers", "test_resnet").stderr == "scalecut: first second\n"


# --- skipped images and layers -------------------------------------------------------------------


def truncated(folder):
    path = folder / "JPEGImages" / "007.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return "007.jpg", "it is truncated or broken ("


def broken_xml(folder):
    (folder / "Annotations" / "008.xml").write_text("<annotation><object>")
    return "Annotations/008.xml", "its XML is broken ("


def box_outside(folder):
    annotate(folder, "009", "blob", (10, 10, 90, 20))
    return "009.jpg", "box 10 10 90 20 "


BAD = [truncated, broken_xml, box_outside]


@pytest.mark.long
def test_bad_images_are_skipped_counted_and_listed():
    folder = blobs()
    expected = sorted(spoil(folder) for spoil in BAD)
    result = probed(*BARE)
    assert result.exit_code == 0
    told = facts()
    assert told["images"]["n_images"] == 37
    listed = sorted((item["name"], item["reason"]) for item in told["images_left_out"])
    assert [name for name, _ in listed] == [name for name, _ in expected]
    for (_, reason), (_, start) in zip(listed, expected, strict=True):
        assert reason.startswith(start)
    lines = result.stdout.splitlines()
    first = lines.index("3 images skipped:") + 1
    assert sorted(lines[first : first + 3]) == [f"  {name}: {reason}" for name, reason in listed]
    for number in range(10, 15):
        (folder / "Annotations" / f"{number:03}.xml").write_text("<")
    lines = probed(*BARE).stdout.splitlines()
    first = lines.index("8 images skipped:") + 1
    assert lines[first + 5] == "  ... and 3 more; run.json lists them all"
    assert len(facts()["images_left_out"]) == 8


@pytest.mark.parametrize("n", [1, 2, 11, 21, 101])
def test_one_item_is_skipped_in_the_singular_and_no_other_number(capsys, n):
    items = [{"name": "a", "reason": "broken"}] * n
    for what in ("images", "layers", ""):
        print_skipped(items, what)
        expected = " ".join([str(n), what if n > 1 else what.rstrip("s"), "skipped:"])
        assert capsys.readouterr().out.splitlines()[0].split() == expected.split()


@pytest.mark.parametrize("spoil", BAD)
def test_strict_stops_at_a_bad_image(spoil):
    name, reason = spoil(blobs())
    before = tree()
    assert_refused(probed("--strict"), before, f"{name}: {reason}")


@pytest.mark.long
def test_layers_that_need_a_missing_tensor_are_skipped():
    blobs()
    state_of("test_resnet", "net.pth", without=("fc.weight",))
    result = probed("--allow-partial", "--controls", "none", weights="net.pth")
    why = "depends on 'fc.weight', one of 1 tensors missing from the weights"
    assert f"2 layers skipped:\n  logits (pre_softmax): {why}\n  softmax: {why}\n" in result.stdout
    assert [item["reason"] for item in facts()["layers_left_out"]] == [why, why]
    assert set(pd.read_csv("run/curve.csv").layer) == set(LAYERS[:-2])


@pytest.mark.long
def test_data_says_what_was_understood_and_a_page_shows_it():
    blobs()
    result = scalecut("data", "voc:blobs", "--out", "seen")
    assert result.exit_code == 0
    block = result.stdout.partition("\n\n")[0]
    assert words(block).startswith("Data Images 40 (blob 40) Skipped none Groups 40, each image")
    *_, run, figure, page, finding = result.stdout.splitlines()
    assert (run, figure) == ("Run:    seen", "Figure: seen/figures/data.png")
    assert page == "Page:   seen/report.html" and finding.startswith("40 images of 1 subset in 40")
    shown = json.loads(scalecut("data", "voc:blobs", "--out", "seen", "--json").stdout)
    assert shown == {
        "run": "seen",
        "finding": finding,
        **facts(Path("seen"))["images"]["understood"],
    }
    probed(*BARE)
    for folder in ("seen", "run"):
        text = Path(folder, "report.html").read_text(encoding="utf-8")
        section = text.partition("<h2>Data</h2>")[2].partition("</section>")[0]
        assert section.count('class="sheet"') == 1
        assert "8 bits, as stored (40 images)" in section and "Distribution of area" in section
        assert text.index("<h2>Data</h2>") < text.index("<h2>Command</h2>")
    assert facts()["images"]["understood"] == facts(Path("seen"))["images"]["understood"]
    refused = scalecut("data", "voc:nowhere")
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.long
def test_names_mean_themselves_in_the_table_and_the_files():
    names = ["$x$ :cat:", '<img src="x">', "[bold]red[/]"]
    blobs(kinds=names * 20)
    out = "[red]runs/" + "long" * 25 + "/:cat:"
    result = probed(*BARE, "--out", out)
    said = words(below_data(result.stdout))
    assert said.startswith(f"R² of area, test_resnet, 60 images ({', '.join(names)}) layer d ")
    run = Path(out)
    subsets = pd.read_csv(run / "curve.csv", keep_default_na=False).subset
    assert set(subsets) == {*names, "mean"}
    assert list(facts(run)["images"]["n_by_subset"]) == names
    files = [f"Run:    {out}", f"Figure: {out}/figures/curve.png"]
    assert result.stdout.splitlines()[-4:-2] == files
    assert f"{out}/figures/curve.png" in scalecut("report", out).stdout.splitlines()
