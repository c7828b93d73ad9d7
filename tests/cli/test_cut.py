"""The commands about a shorter network as they are typed, with tiny networks and planted curves."""

import errno
import json
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

from scalecut import Curve, Features, ModelError, Preprocessing, load, load_network
from scalecut.cli import cut as commands
from scalecut.cli.console import OUT
from scalecut.cut.export import EXPORTS
from scalecut.features.extract import Computation
from scalecut.networks.network import tensors_sha256
from scalecut.networks.selection import chosen_points
from scalecut.probing.curve import write_curve
from scalecut.runs import new_run
from tests.cli.test_app import assert_refused, scalecut, tree
from tests.probing.test_curve import made_up

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x + self.conv(self.norm(x)))


class Chain(nn.Module):
    pretrained_cfg = {
        "input_size": (3, 32, 40),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bilinear",
        "crop_pct": 0.9,
    }

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.aside = nn.Conv2d(width, width, 1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def seeded(width, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Chain(width)


def chain():
    return seeded(8)


def retrained():
    return seeded(8, seed=1)


def wide():
    return seeded(12)
"""
CHAIN = "short_networks:chain"
WRITTEN = [
    "README.md",
    "example.safetensors",
    "model.safetensors",
    "report.html",
    "scalecut.json",
]
LAYERS = ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "pooled", "logits", "softmax"]
R2 = [0.3, 0.794, 0.8, 0.5, 0.4, 0.3, 0.1]  # the peak is blocks.2; blocks.1 is as good as it
CHEAPEST = (
    "blocks.1 (add_2) is the earliest of 2 layers that are not shown to be worse than the peak "
    "blocks.2 (add_3): R² 0.79 [0.69, 0.84], 0.80 at the peak, for 70 % of its "
    "multiply-accumulates."
)  # 69 120 in the stem and 184 320 in each block
PEAK = "blocks.2 (add_3) is the peak of the curve: R² 0.80 [0.70, 0.85]."
SAME = "the same outputs, exactly"

checked_afresh = commands._checked_afresh  # takes seconds, so other tests do without


def prepare(folder, patch):
    """A working folder with the networks, a cache of its own, no other process."""
    patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
    patch.setattr(OUT, "width", 80)
    patch.setattr(sys, "dont_write_bytecode", True)  # what a command leaves is looked at
    patch.setattr(commands, "_checked_afresh", lambda _: {"model.safetensors": 0.0})
    (folder / "here").mkdir()
    patch.chdir(folder / "here")
    Path("short_networks.py").write_text(NETWORKS)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A cut that is only read; its folder and what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(tmp_path_factory.mktemp("short"), patch)
        done = cut(CHAIN, "--at", "add_2", "--out", "short")
        assert (done.exit_code, done.stderr) == (0, "")
        return Path.cwd() / "short", done.stdout


def cut(*typed):
    return scalecut("cut", *typed)


def listing(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def facts(folder="short"):
    return json.loads((Path(folder) / "scalecut.json").read_text(encoding="utf-8"))


def one_document(text):
    """JSON as the standard has it, with nothing before or behind it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def run_of(folder="run", *, model=CHAIN, preprocessing=None, weights="pretrained", dog=R2, **line):
    """A run folder as a probe writes it, with curves that are planted, that of dogs by itself."""
    network = load_network(model, weights=weights, preprocessing=preprocessing)
    points, _ = chosen_points(network)
    layers = {point.layer: point.alias for point in points}
    of = {"layers": layers, "model": model, **line}
    curves = {"mean": R2, "dog": dog}
    tables, draws = zip(
        *(made_up(np.random.default_rng(0), r2, subset=s, **of) for s, r2 in curves.items()),
        strict=True,
    )
    provenance = {
        "probe": {"repeats": 10, "seed": 0},
        "look": asdict(Computation()),
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": {"n_images": 40, "measure": "area"},
    }
    settings = {"model": model, "weights": weights, "allow_partial": False, "seed": 0}
    with new_run(Path(folder)) as made:
        table = pd.concat(tables, ignore_index=True)
        planted = Curve(table, np.concatenate(draws), tuple(points), provenance=provenance)
        write_curve(planted, made, command="scalecut probe", settings=settings)
    return folder


def other_weights(file="net.pth"):
    """Weights of the chain from another seed, in a file."""
    state = load_network("short_networks:retrained").module.state_dict()
    torch.save(state, file)
    return state


def sum_in_second_block(network, images):
    """Pooled output of the addition (add_2), by hand."""
    first, second = network.blocks[:2]
    x = first(network.stem(images))
    return (x + second.conv(second.norm(x))).mean((2, 3))


def some_images(height=32, width=40):
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0))


# --- cut -----------------------------------------------------------------------------------------


def test_cut_at_a_layer_writes_a_folder_that_gives_the_features_of_the_whole(short):
    folder, _ = short
    assert listing(folder) == WRITTEN
    images, whole = some_images(), load_network(CHAIN).module
    with torch.no_grad():
        assert torch.equal(load(folder)(images), sum_in_second_block(whole, images))
    told = facts(folder)
    assert (told["architecture"], told["point"]["layer"]) == (CHAIN, "blocks.1")
    assert (told["choice"], told["curve"]) == (None, None)
    assert listing(folder.parent) == ["short", "short_networks.py"]


def test_cut_tells_the_way_the_proof_the_check_and_the_folder(short):
    folder, said = short
    first, *proof, checked, page, last = said.splitlines()
    assert first == (
        "Cut after blocks.1 (add_2); its forward pass stops at the layer, because code behind it "
        "needs more."
    )
    assert proof == facts(folder)["proof"]["lines"]
    assert "Same features as the whole network: exactly equal (4 images, float32)." in proof
    one_block = 8 * 8 * 9 + 8 + 2 * 8
    kept, whole = 8 * 27 + 8 + 2 * one_block, 8 * 27 + 8 + 4 * one_block + 8 * 8 + 8 + 45
    assert f"({100 * kept / whole:.0f} %), multiply-accumulates" in said
    assert checked == f"model.safetensors, read by a fresh process: {SAME}"
    assert (page, last) == ("Page: short/report.html", "short: 8 features.")


def test_page_of_a_cut_is_the_one_that_report_writes_again(short):
    folder, _ = short
    first = (folder / "report.html").read_bytes()
    assert b"cut after blocks.1" in first
    assert b"exactly equal" in first
    done = scalecut("report", folder)
    assert (done.exit_code, done.stdout) == (0, f"{folder / 'report.html'}\n")
    assert (folder / "report.html").read_bytes() == first


def test_cut_without_out_is_named_after_the_network_and_the_layer():
    assert cut(CHAIN, "--at", "blocks.0").exit_code == 0
    assert listing("cuts/short_networks_chain-blocks.0") == WRITTEN


@pytest.mark.parametrize(
    ("options", "layer", "reason"),
    [
        ((), "blocks.1", CHEAPEST),
        (("--rule", "cheapest"), "blocks.1", CHEAPEST),
        (("--rule", "peak"), "blocks.2", PEAK),
    ],
)
def test_run_chooses_by_the_rule_and_the_reason_is_printed_and_kept(options, layer, reason):
    done = cut("--from", run_of(), *options, "--out", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == reason
    told = facts()
    assert told["point"]["layer"] == told["choice"]["layer"] == layer
    assert told["choice"]["reason"] == reason
    assert told["curve"]["command"] == "scalecut probe"
    assert reason in Path("short/README.md").read_text(encoding="utf-8")


def test_layer_that_is_given_overrides_what_the_run_would_choose():
    done = cut(CHAIN, "--from", run_of(), "--at", "blocks.3", "--out", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "R²" not in done.stdout
    told = facts()
    assert (told["point"]["layer"], told["choice"], told["curve"]) == ("blocks.3", None, None)


def test_subset_of_the_run_can_choose():
    run_of(dog=[0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    done = cut("--from", "run", "--subset", "dog", "--out", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    assert facts()["point"]["layer"] == "blocks.0"


def test_weights_and_preprocessing_are_those_of_the_run():
    weights = other_weights()
    probed_with = Preprocessing(48, 32, (0.1, 0.2, 0.3), (1.0, 1.0, 2.0), "bicubic", 1.0, "bgr")
    run_of(weights="net.pth", preprocessing=probed_with)
    done = cut("--from", "run", "--out", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    kept = load("short")
    assert kept.preprocessing == probed_with
    for name, tensor in kept.state_dict().items():
        assert torch.equal(tensor, weights[name.removeprefix("body.")]), name
    assert facts()["weights"]["source"] == "file net.pth"
    assert re.fullmatch("[0-9a-f]{64}", facts()["weights"]["sha256"])


def test_picture_of_the_run_comes_along_if_its_curve_chose():
    run_of()
    Path("run/figures").mkdir()
    PIL.Image.new("RGB", (4, 4), "red").save("run/figures/curve.png")
    assert cut("--from", "run", "--out", "short").exit_code == 0
    assert listing("short") == sorted([*WRITTEN, "curve.png"])
    picture = Path("run/figures/curve.png").read_bytes()
    assert Path("short/curve.png").read_bytes() == picture
    assert "](curve.png)" in Path("short/README.md").read_text(encoding="utf-8")
    assert cut("--from", "run", "--at", "blocks.0", "--out", "other").exit_code == 0
    assert listing("other") == WRITTEN


def test_head_and_input_size_are_as_asked():
    done = cut(CHAIN, "--at", "add_1", "--head", 3, "--input-size", "24x48", "--out", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    last = "short: 8 features and a new linear layer of 3 outputs, to be trained."
    assert done.stdout.splitlines()[-1] == last
    assert load("short")(some_images(24, 48)).shape == (3, 3)
    assert (facts()["preprocessing"]["height"], facts()["preprocessing"]["width"]) == (24, 48)


def test_former_cut_is_replaced():
    assert cut(CHAIN, "--at", "blocks.0", "--out", "short").exit_code == 0
    Path("short/note.txt").write_text("of the former")
    assert cut(CHAIN, "--at", "blocks.2", "--out", "short").exit_code == 0
    assert listing("short") == WRITTEN
    assert facts()["point"]["layer"] == "blocks.2"


def test_cut_as_json_is_one_document_and_nothing_else():
    done = cut("--from", run_of(), "--out", "short", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    told = one_document(done.stdout)
    assert told == {"folder": "short", "checked": {"model.safetensors": 0.0}, **facts()}
    assert told["choice"]["reason"] == CHEAPEST


# --- exports -------------------------------------------------------------------------------------


def answers_kept(patch, name):
    """An exporter that keeps the network itself and writes a word."""
    kept = {}

    def write(network, path):
        path.write_text("exported")
        kept["network"] = network

    def features(path, images):
        assert path.read_text() == "exported"
        with torch.no_grad():
            return kept["network"](torch.from_numpy(images)).numpy()

    patch.setitem(EXPORTS, name, replace(EXPORTS[name], write=write, features=features))


def failing(network, path):
    path.write_text("half")
    raise ModelError("An operator is not known. Use it without.")


def test_exporter_that_fails_is_reported_and_the_cut_is_kept(monkeypatch):
    monkeypatch.setitem(EXPORTS, "onnx", replace(EXPORTS["onnx"], write=failing))
    answers_kept(monkeypatch, "torch")
    done = cut(CHAIN, "--at", "add_2", "--export", "onnx,torch", "--out", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    said = "No onnx export: An operator is not known. Use it without."
    assert done.stdout.splitlines()[-3::2] == [said, "short: 8 features."]
    assert listing("short") == sorted([*WRITTEN, "model.pt2"])
    assert facts()["exports_failed"] == {"onnx": "An operator is not known. Use it without."}
    assert torch.isfinite(load("short")(some_images())).all()


def test_failed_export_is_in_the_json(monkeypatch):
    monkeypatch.setitem(EXPORTS, "torch", replace(EXPORTS["torch"], write=failing))
    done = cut(CHAIN, "--at", "add_2", "--export", "torch", "--out", "short", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    failed = one_document(done.stdout)["exports_failed"]
    assert failed == {"torch": "An operator is not known. Use it without."}


# --- the fresh process ---------------------------------------------------------------------------


def test_fresh_process_finds_the_same_outputs(short, monkeypatch):
    folder, _ = short
    monkeypatch.chdir(folder.parent)
    assert checked_afresh(folder) == {"model.safetensors": 0.0}


@contextmanager
def answering(patch, **answer):
    """Another process that answers so; yields what it was asked."""
    asked = []

    def run(words, **_):
        asked.append(words)
        return subprocess.CompletedProcess(words, **{"stdout": "", "stderr": "", **answer})

    patch.setattr(commands, "_checked_afresh", checked_afresh)
    patch.setattr(subprocess, "run", run)
    yield asked


def test_what_the_fresh_process_finds_is_printed(monkeypatch):
    found = '{"model.safetensors": 0.0, "model.onnx": 2e-6}'
    with answering(monkeypatch, returncode=0, stdout=found) as asked:
        done = cut(CHAIN, "--at", "add_2", "--out", "short")
    ((*start, folder, end),) = asked
    assert [*start, end] == [sys.executable, "-m", "scalecut", "check", "--json"]
    assert folder.startswith(".short-")  # before it takes its place
    assert (
        f"model.safetensors, read by a fresh process: {SAME}\n"
        "model.onnx, read by a fresh process: the same outputs, within 2e-06 of the largest\n"
    ) in done.stdout


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a warning\nscalecut: It does not fit. Cut it again.\n", "It does not fit. Cut it again."),
        ("", "it said nothing"),
    ],
)
def test_folder_that_a_fresh_process_cannot_use_is_told_in_one_line(monkeypatch, said, reason):
    with answering(monkeypatch, returncode=2, stderr=said):
        done = cut(CHAIN, "--at", "add_2", "--out", "short")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"scalecut: A fresh process cannot use what was written, so nothing is kept: {reason}\n"
    )
    assert not Path("short").exists()


# --- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "nowhere to cut": (
        [CHAIN],
        "Nothing says where to cut. Give --at LAYER (`scalecut layers MODEL` prints them), or "
        "--from RUN, the folder of a probe.",
    ),
    "layer and rule": (
        [CHAIN, "--at", "add_2", "--rule", "peak"],
        "--at says where to cut, so that --rule and --subset have nothing to choose. Give --at "
        "alone, or drop it.",
    ),
    "layer and subset": (
        [CHAIN, "--at", "add_2", "--subset", "dog"],
        "--at says where to cut, so that --rule and --subset have nothing to choose. Give --at "
        "alone, or drop it.",
    ),
    "no network": (
        ["--at", "add_2"],
        "No network is named. Give MODEL, such as resnet50, or --from RUN.",
    ),
    "unknown layer": (
        [CHAIN, "--at", "blocks.7"],
        "No layer is named 'blocks.7'. Near it: blocks.3, blocks.2, blocks.1; "
        "`scalecut layers MODEL` prints all 7.",
    ),
    "layer that is not executed": (
        [CHAIN, "--at", "aside"],
        "'aside' is in short_networks:chain, but is not executed for an image, so nothing can be "
        "cut after it. `scalecut layers MODEL` prints the layers that are.",
    ),
    "layer in a branch": (
        [CHAIN, "--at", "blocks.1.conv"],
        "blocks.1.conv lies in one of several parallel ways: cut there, what the others carry "
        "would be lost. Cut at blocks.1 (add_2).",
    ),
    "last layer": (
        [CHAIN, "--at", "logits"],
        "logits (pre_softmax) is the whole network, so there is nothing to cut off. Cut at an "
        "earlier layer; `scalecut layers MODEL` prints them.",
    ),
    "several layers": (
        [CHAIN, "--at", "blocks.*"],
        "'blocks.*' fits 4 layers, but a network is cut at one. Give 'blocks.0', or another of "
        "them.",
    ),
    "unknown export": (
        [CHAIN, "--at", "add_2", "--export", "onnx,tflite"],
        "No export is named 'tflite'. Give one or more of onnx, torch.",
    ),
    "unknown pooling": (
        [CHAIN, "--at", "add_2", "--pooling", "max"],
        "No pooling is named 'max'. Give mean, cls or both.",
    ),
    "pooling without a token": (
        [CHAIN, "--at", "add_2", "--pooling", "cls"],
        "blocks.1 (add_2) has no class token, so pooling 'cls' has nothing to take. Give mean.",
    ),
    "head below 0": (
        [CHAIN, "--at", "add_2", "--head", -1],
        "A head cannot have -1 outputs. Give 0 for none.",
    ),
    "missing run": (
        ["--from", "gone"],
        "There is no run folder 'gone'. Give the folder that a probe wrote (--out).",
    ),
    "missing weights": (
        [CHAIN, "--at", "add_2", "--weights", "gone.pth"],
        "There is no weights file 'gone.pth'. Give --weights the path of a safetensors or "
        "state-dict file, or `pretrained` or `random`.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_in_one_line_and_nothing_is_left(name):
    typed, text = REFUSED[name]
    before = tree()
    assert_refused(cut(*typed, "--out", "deep/short"), before, text)
    assert_refused(cut(*typed, "--json"), before, text)


WITH_RUN = {
    "another network": (
        ["short_networks:wide"],
        "The run 'run' is of short_networks:chain, not of short_networks:wide. Give a run of this "
        "network, or name short_networks:chain.",
    ),
    "other weights": (
        ["--weights", "net.pth"],
        "The run 'run' is of short_networks:chain with other weights (the weights the factory "
        "gave). Give those by --weights, or probe these.",
    ),
    "unknown rule": (
        ["--rule", "best"],
        "No rule is named 'best'. Give cheapest or peak, or --at LAYER.",
    ),
    "unknown subset": (
        ["--subset", "cow"],
        "The curve has no subset 'cow'. It has mean, dog.",
    ),
}


@pytest.mark.parametrize("name", WITH_RUN)
def test_run_that_does_not_fit_is_refused_in_one_line_and_nothing_is_left(name):
    typed, text = WITH_RUN[name]
    run_of()
    other_weights()
    assert_refused(cut(*typed, "--from", "run", "--out", "short"), tree(), text)


def test_run_of_weights_that_the_network_has_no_longer_is_refused():
    run_of()
    Path("run/run.json").write_text(
        re.sub('"tensors_sha256": ".*?"', '"tensors_sha256": "0"', Path("run/run.json").read_text())
    )
    text = WITH_RUN["other weights"][1]
    assert_refused(cut("--from", "run", "--out", "short"), tree(), text)
    assert_refused(cut("--from", "run", "--at", "add_2", "--out", "short"), tree(), text)


def test_curve_that_shows_nothing_chooses_nothing():
    run_of(p_value=0.4)
    text = (
        "The curve shows no layer that carries the object's scale, so it chooses none. Probe with "
        "more images, or give --at LAYER."
    )
    assert_refused(cut("--from", "run", "--out", "short"), tree(), text)
    assert cut("--from", "run", "--at", "add_2", "--out", "short").exit_code == 0


@pytest.mark.parametrize("kind", ["folder of others", "run", "file"])
def test_place_that_is_not_ours_is_refused_before_any_work(kind, monkeypatch):
    monkeypatch.setattr(commands, "load_network", lambda *_, **__: pytest.fail("it is loaded"))
    run_of("taken")
    if kind == "folder of others":
        Path("taken/run.json").rename("taken/notes.json")
    text = (
        "'taken' is there and holds no cut of scalecut, so it is not replaced. Give --out a new "
        "folder."
    )
    out = "taken"
    if kind == "file":
        out = "taken/curve.csv"
        text = f"{out!r} is a file, but a folder is needed. Give --out a new folder."
    assert_refused(cut(CHAIN, "--at", "add_2", "--out", out), tree(), text)


@pytest.mark.parametrize("former", [True, False])
def test_cut_that_breaks_off_leaves_what_was_there(monkeypatch, former):
    if former:
        assert cut(CHAIN, "--at", "blocks.0", "--out", "short").exit_code == 0

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("scalecut.cut.folder.save_file", full)
    before, text = tree(), "The disk of 'short' is full."
    assert_refused(cut(CHAIN, "--at", "add_2", "--out", "short"), before, text, whole=False)


# --- check ---------------------------------------------------------------------------------------


@pytest.fixture
def copied(short):
    """A copy of the cut, to be changed."""
    folder, _ = short
    Path("short").mkdir()
    for path in folder.iterdir():
        (Path("short") / path.name).write_bytes(path.read_bytes())


def test_check_of_a_good_folder_says_so(copied):
    done = scalecut("check", "short")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"model.safetensors: {SAME}\n"
    assert one_document(scalecut("check", "short", "--json").stdout) == {"model.safetensors": 0.0}


@pytest.mark.parametrize("name", ["model.safetensors", "example.safetensors"])
def test_check_of_a_tampered_folder_is_refused(copied, name):
    path = Path("short") / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    text = (
        f"{name} of 'short' is not the file that was written (its sha256 is another), so it is not "
        "used. Copy it again, or cut again."
    )
    assert_refused(scalecut("check", "short"), tree(), text)


@pytest.mark.parametrize("folder", ["run", "gone"])
def test_check_of_another_folder_is_refused(folder):
    run_of()
    text = f"{folder!r} holds no cut network: scalecut.json cannot be read"
    assert_refused(scalecut("check", folder), tree(), text, whole=False)


# --- features ------------------------------------------------------------------------------------


def pictures(n, folder="tiles"):
    """Noise in as many sizes."""
    rng = np.random.default_rng(0)
    Path(folder).mkdir(parents=True)
    paths = [f"{folder}/{number:02}.png" for number in range(n)]
    for number, path in enumerate(paths):
        pixels = rng.integers(0, 256, (30 + number, 50 - number, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(path)
    return paths


def damage(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def table_in(path):
    return pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)


@pytest.mark.parametrize("out", ["deep/x.parquet", "x.csv"])
def test_features_are_one_row_a_picture_and_those_of_the_transformer(copied, out):
    paths = pictures(5)
    done = scalecut("features", "short", "tiles", "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"5 x 8 features: {out}\n"
    table = table_in(out)
    assert list(table) == ["image", *(f"f{column}" for column in range(8))]
    assert table.image.tolist() == paths
    expected = Features("short").transform(paths)
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, rtol=1e-6)
    assert listing(Path(out).parent).count(Path(out).name) == 1


def test_features_of_files_come_in_the_order_given(copied):
    first, _, third = pictures(3)
    done = scalecut("features", "short", third, first, "--fit", "crop", "--out", "x.csv")
    assert (done.exit_code, done.stderr) == (0, "")
    table = pd.read_csv("x.csv")
    assert table.image.tolist() == [third, first]
    expected = Features("short", fit_to="crop").transform([third, first])
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("n_damaged", [1, 7])
def test_damaged_pictures_are_left_out_counted_and_all_named(copied, n_damaged):
    paths = pictures(n_damaged + 2)
    for path in paths[:n_damaged]:
        damage(path)
    done = scalecut("features", "short", "tiles", "--out", "x.csv")
    assert (done.exit_code, done.stderr) == (0, "")
    counted, *named, last = done.stdout.splitlines()
    assert counted == f"{n_damaged} of {n_damaged + 2} pictures left out:"
    assert [line.split(":")[0] for line in named] == [f"  {path}" for path in paths[:n_damaged]]
    assert all(line.endswith("copy the file again") for line in named)
    assert last == "2 x 8 features: x.csv"
    assert pd.read_csv("x.csv").image.tolist() == paths[n_damaged:]


def test_pictures_that_are_all_damaged_give_no_table(copied):
    (path,) = pictures(1)
    damage(path)
    done = scalecut("features", "short", "tiles", "--out", "x.csv")
    assert_refused(done, tree(), "None of 1 images could be read (it is truncated", whole=False)
    assert not Path("x.csv").exists()


NO_TABLE = {
    "no pictures": (
        ["empty"],
        "There is no picture at 'empty'. Give files, or a folder with .bmp, .jpeg, .jpg, .png, "
        ".tif, .tiff, .webp in it.",
    ),
    "no place": (
        ["gone.png"],
        "There is no picture at 'gone.png'. Give files, or a folder with .bmp, .jpeg, .jpg, .png, "
        ".tif, .tiff, .webp in it.",
    ),
    "unknown ending": (
        ["tiles", "--out", "x.xlsx"],
        "'x.xlsx' is neither .parquet nor .csv. Name the table so.",
    ),
    "unknown precision": (
        ["tiles", "--precision", "half"],
        "No precision is named 'half'. Give auto, float32 or bfloat16.",
    ),
    "unknown fit": (["tiles", "--fit", "stretch"], "'stretch'"),
    "no batch": (
        ["tiles", "--batch-size", 0],
        "A batch cannot be of 0 images. Give --batch-size 1 or more.",
    ),
}


@pytest.mark.parametrize("name", NO_TABLE)
def test_features_that_cannot_be_given_are_refused_in_one_line(copied, name):
    typed, text = NO_TABLE[name]
    pictures(2)
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no picture")
    before = tree()
    done = scalecut("features", "short", *typed)
    if name == "unknown fit":  # the text is measures' own
        assert text in done.stderr
        text = done.stderr.removeprefix("scalecut: ").removesuffix("\n")
    assert_refused(done, before, text)


def test_features_of_a_tampered_or_foreign_folder_are_refused(copied):
    pictures(2)
    Path("short/model.safetensors").write_bytes(b"something else")
    for folder, text in (
        ("short", "model.safetensors of 'short' is not the file that was written"),
        ("tiles", "'tiles' holds no cut network: scalecut.json cannot be read"),
    ):
        done = scalecut("features", folder, "tiles", "--out", "x.csv")
        assert_refused(done, tree(), text, whole=False)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "The disk of 'x.csv' is full."),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
@pytest.mark.parametrize("former", [None, "the former table"])
def test_write_that_is_interrupted_leaves_what_was_there(
    copied, monkeypatch, error, status, said, former
):
    pictures(2)
    if former:
        Path("x.csv").write_text(former)
    before = tree()

    def interrupted(self, path, **_):
        Path(path).write_text("half")
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    done = scalecut("features", "short", "tiles", "--out", "x.csv")
    assert done.exit_code == status
    assert done.stderr.startswith(f"scalecut: {said}")
    assert done.stderr.count("\n") == 1
    assert tree() == before


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["cut", "check", "features"])
def test_help_shows_an_example(command):
    shown = scalecut(command, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"Examples?:\n +scalecut {command} ", shown.stdout)
