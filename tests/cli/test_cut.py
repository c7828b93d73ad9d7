"""The commands about a shorter network as they are typed, with tiny networks and planted curves."""

import errno
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from scalecut import (
    Curve,
    CutFeatures,
    ModelError,
    Preprocessing,
    choose_layer,
    cut_after,
    load_cut,
    load_network,
    save_cut,
)
from scalecut.cli import app as cli
from scalecut.cli import cut as commands
from scalecut.cut import folder as cut_folder
from scalecut.cut.export import EXPORTS
from scalecut.networks.network import tensors_sha256
from scalecut.networks.selection import chosen_points
from scalecut.probing.curve import read_curve
from tests.probing.test_choose import line

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
OWN = ("--model", CHAIN)  # for folders of its cuts
WRITTEN = ["README.md", "example.safetensors", "model.safetensors", "report.html", "scalecut.json"]
R2 = [0.3, 0.794, 0.8, 0.5, 0.4, 0.3, 0.1]  # the peak is blocks.2; blocks.1 is equal to it
CHEAPEST = (
    "blocks.1 (add_2) is the earliest of 2 layers that are not shown to be worse than the peak "
    "blocks.2 (add_3): R² 0.79 [0.69, 0.84], 0.80 at the peak, with 70 % of the "
    "multiply-accumulates up to the peak."
)  # 69 120 in the stem and 184 320 in each block
PEAK = "blocks.2 (add_3) is the peak of the curve: R² 0.80 [0.70, 0.85]."
SAME = "the same outputs, exactly"


def prepare(folder, patch):
    """A working folder with the networks, a cache of its own, no other process."""
    patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
    patch.setattr(commands.OUT, "width", 80)
    patch.setattr(sys, "dont_write_bytecode", True)  # tests list the files of a command
    patch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    patch.setattr(cut_folder, "reloaded_from", lambda *_: {"model.safetensors": 0.0})
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
        return Path.cwd() / "short", cut(CHAIN, "--at", "add_2", "--out", "short").stdout


def scalecut(*typed, status=0):
    """The result of a command; an error that is not the user's is raised."""
    result = CliRunner().invoke(cli.app, [str(word) for word in typed])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    assert status or result.stderr == ""
    return result


def cut(*typed, status=0):
    return scalecut("cut", *typed, status=status)


def tree(folder=Path()):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def listing(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def facts(folder="short"):
    return json.loads((Path(folder) / "scalecut.json").read_text(encoding="utf-8"))


def one_document(text):
    """JSON of the standard, with nothing before or after it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def run_of(folder="run", *, preprocessing=None, weights="pretrained", dog=R2, **facts_of_line):
    """The run folder of a probe with a planted curve, and one for the subset dog."""
    network = load_network(CHAIN, weights=weights, preprocessing=preprocessing)
    points = tuple(chosen_points(network)[0])
    layers = {point.layer: point.alias for point in points}
    options = {"layers": layers, "model": CHAIN, **facts_of_line}
    lines = [
        line(np.random.default_rng(0), r2, subset=subset, **options)
        for subset, r2 in (("mean", R2), ("dog", dog))
    ]
    tables, draws = zip(*lines, strict=True)
    provenance = {
        "settings": {"model": CHAIN, "weights": weights, "allow_partial": False, "seed": 0},
        "probe": {"repeats": 10, "seed": 0},
        "weights": network.weights,
        "tensors_sha256": tensors_sha256(network.module),
        "preprocessing": network.preprocessing,
        "images": {"n_images": 40, "measure": "area"},
    }
    curve = Curve(pd.concat(tables, ignore_index=True), np.concatenate(draws), points,
                  provenance=provenance)  # fmt: skip
    curve.save(folder, command="scalecut probe")
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


def test_cut_at_a_layer_writes_a_folder_with_the_features_of_the_whole(short):
    folder, _ = short
    assert listing(folder) == WRITTEN
    images, whole = some_images(), load_network(CHAIN).module
    with torch.no_grad():
        assert torch.equal(load_cut(folder, CHAIN)(images), sum_in_second_block(whole, images))
    found = facts(folder)
    assert (found["architecture"], found["point"]["layer"]) == (CHAIN, "blocks.1")
    assert (found["choice"], found["curve"]) == (None, None)
    assert listing(folder.parent) == ["short", "short_networks.py"]


def test_cut_prints_the_verification_the_check_and_the_folder(short):
    folder, printed = short
    first, *verified, checked, page, last = printed.splitlines()
    assert first == (
        "Cut after blocks.1 (add_2): the forward pass stops at the layer, because later code is "
        "not only modules."
    )
    assert verified == facts(folder)["proof"]["lines"]
    assert "Same features as the whole network: exactly equal (4 images, float32)." in verified
    one_block = 8 * 8 * 9 + 8 + 2 * 8
    kept, whole = 8 * 27 + 8 + 2 * one_block, 8 * 27 + 8 + 4 * one_block + 8 * 8 + 8 + 45
    assert f"({100 * kept / whole:.0f} %), multiply-accumulates" in printed
    assert checked == f"model.safetensors, loaded in a new process: {SAME}"
    assert (page, last) == ("Page: short/report.html", "short: 8 features.")


@pytest.mark.parametrize(
    ("options", "layer", "reason"),
    [((), "blocks.1", CHEAPEST), (("--rule", "peak"), "blocks.2", PEAK)],
)
def test_python_writes_what_the_command_writes(options, layer, reason):
    run_of()
    printed = cut(CHAIN, "--from", "run", *options, "--out", "short").stdout
    assert printed.splitlines()[1] == reason
    assert reason in Path("short/README.md").read_text(encoding="utf-8")
    found = facts()
    assert found["point"]["layer"] == found["choice"]["layer"] == layer
    assert found["choice"]["reason"] == reason
    assert found["curve"]["command"] == "scalecut probe"
    assert listing("short") == sorted([*WRITTEN, "curve.png"])

    curve, whole = read_curve("run"), load_network(CHAIN)
    choice = choose_layer(curve, *options[1:])
    saved = save_cut(cut_after(whole, layer), "other", whole, choice=choice, curve=curve)
    assert saved.verification.lines()[:2] == printed.splitlines()[2:4]
    assert listing("other") == listing("short")
    for name in ("model.safetensors", "example.safetensors", "curve.png"):
        assert Path("other", name).read_bytes() == Path("short", name).read_bytes()
    assert facts("other").keys() == found.keys()
    for name in found.keys() - {"command", "written", "proof"}:  # which names the time
        assert facts("other")[name] == found[name], name
    assert found["proof"].keys() == facts("other")["proof"].keys()


def test_layer_that_is_given_overrides_the_curve_and_the_folder_is_named_after_both():
    printed = cut(CHAIN, "--from", run_of(), "--at", "blocks.3").stdout
    assert "R²" not in printed
    folder = "cuts/short_networks_chain-blocks.3"
    assert listing(folder) == WRITTEN
    found = facts(folder)
    assert (found["point"]["layer"], found["choice"], found["curve"]) == ("blocks.3", None, None)


def test_subset_weights_and_preprocessing_are_those_of_the_run():
    weights = other_weights()
    probed_with = Preprocessing(48, 32, (0.1, 0.2, 0.3), (1.0, 1.0, 2.0), "bicubic", 1.0, "bgr")
    dog = [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    run_of(weights="net.pth", preprocessing=probed_with, dog=dog)
    cut(CHAIN, "--from", "run", "--subset", "dog", "--out", "short")
    kept = load_cut("short", CHAIN)
    assert kept.preprocessing == probed_with
    for name, tensor in kept.state_dict().items():
        assert torch.equal(tensor, weights[name.removeprefix("body.")]), name
    assert facts()["point"]["layer"] == "blocks.0"
    assert facts()["weights"]["source"] == "file net.pth"
    assert re.fullmatch("[0-9a-f]{64}", facts()["weights"]["sha256"])


def test_head_and_input_size_are_as_asked_and_an_earlier_cut_is_replaced():
    cut(CHAIN, "--at", "blocks.0", "--out", "short")
    Path("short/note.txt").write_text("of the earlier cut")
    options = ("--head", 3, "--input-size", "24x48")
    printed = cut(CHAIN, "--at", "add_1", *options, "--out", "short").stdout
    last = "short: 8 features and a new linear layer with 3 outputs, to be trained."
    assert printed.splitlines()[-1] == last
    assert load_cut("short", CHAIN)(some_images(24, 48)).shape == (3, 3)
    assert (facts()["preprocessing"]["height"], facts()["preprocessing"]["width"]) == (24, 48)
    assert listing("short") == WRITTEN


def test_export_that_fails_is_reported_and_json_is_one_document(monkeypatch):
    def failing(network, path):
        path.write_text("half")
        raise ModelError("An operator is not known. Use it without.")

    assert tuple(EXPORTS) == commands.EXPORTS
    monkeypatch.setitem(EXPORTS, "onnx", replace(EXPORTS["onnx"], write=failing))
    options = (CHAIN, "--at", "add_2", "--export", "onnx", "--out", "short")
    assert "No onnx export: An operator is not known. Use it without.\n" in cut(*options).stdout
    found = one_document(cut(*options, "--json").stdout)
    assert found == {"folder": "short", "checked": {"model.safetensors": 0.0}, **facts()}
    assert found["exports_failed"] == {"onnx": "An operator is not known. Use it without."}
    assert listing("short") == WRITTEN


# --- check ---------------------------------------------------------------------------------------


@pytest.fixture
def copied(short):
    """A copy of the cut, to be changed."""
    folder, _ = short
    Path("short").mkdir()
    for path in folder.iterdir():
        (Path("short") / path.name).write_bytes(path.read_bytes())


def test_check_reports_the_difference(copied):
    assert scalecut("check", "short", *OWN).stdout == f"model.safetensors: {SAME}\n"
    assert one_document(scalecut("check", "short", *OWN, "--json").stdout) == {
        "model.safetensors": 0.0
    }
    assert commands._in_words(2e-6) == "the same outputs, within 2e-06 of the largest"


# --- features ------------------------------------------------------------------------------------


def image_files(n, folder="tiles"):
    """Noise in n sizes."""
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


def test_features_are_one_row_per_image_and_those_of_the_transformer(copied):
    paths = image_files(5)
    printed = scalecut("features", "short", *OWN, "tiles", "--out", "deep/x.parquet").stdout
    assert printed == "5 x 8 features: deep/x.parquet\n"
    table = pd.read_parquet("deep/x.parquet")
    assert list(table) == ["image", *(f"f{column}" for column in range(8))]
    assert table.image.tolist() == paths
    expected = CutFeatures(load_cut("short", CHAIN)).transform(paths)
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, rtol=1e-6)
    assert listing("deep") == ["x.parquet"]
    scalecut("features", "short", *OWN, paths[2], paths[0], "--fit", "crop", "--out", "x.csv")
    table = pd.read_csv("x.csv")
    assert table.image.tolist() == [paths[2], paths[0]]
    expected = CutFeatures(load_cut("short", CHAIN), fit_to="crop").transform([paths[2], paths[0]])
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), expected, rtol=1e-6)


def test_damaged_images_are_skipped_counted_and_all_named(copied):
    paths = image_files(9)
    for path in paths[:7]:
        damage(path)
    printed = scalecut("features", "short", *OWN, "tiles", "--out", "x.csv").stdout
    counted, *named, last = printed.splitlines()
    assert counted == "7 of 9 images skipped:"
    assert [each.split(":")[0] for each in named] == [f"  {path}" for path in paths[:7]]
    assert last == "2 x 8 features: x.csv"
    assert pd.read_csv("x.csv").image.tolist() == paths[7:]


# --- errors --------------------------------------------------------------------------------------


REFUSED = [
    (
        "cut CHAIN",
        "No layer to cut at is given. Give --at LAYER (`scalecut layers MODEL` lists them), or "
        "--from RUN, the run folder of a probe.",
    ),
    (
        "cut CHAIN --at add_2 --rule peak",
        "--rule, --within, --subset and --target choose a layer, but --at names one. Give --at "
        "alone, or drop it.",
    ),
    (
        "cut CHAIN --at add_2 --subset dog",
        "--rule, --within, --subset and --target choose a layer, but --at names one. Give --at "
        "alone, or drop it.",
    ),
    (
        "cut --at add_2",
        "No network is named. Give MODEL, such as resnet50, or --from RUN.",
    ),
    ("cut CHAIN --at blocks.7", "No layer is named 'blocks.7'."),
    (
        "cut CHAIN --at logits",
        "logits (pre_softmax) is the whole network, so there is nothing to cut off. Cut at an "
        "earlier layer; `scalecut layers MODEL` lists them.",
    ),
    (
        "cut CHAIN --at add_2 --export onnx,tflite",
        "No export is named 'tflite'. Give one or more of onnx, torch.",
    ),
    (
        "cut CHAIN --at add_2 --pooling cls",
        "blocks.1 (add_2) has no class token, which pooling 'cls' needs. Give mean.",
    ),
    ("cut CHAIN --at add_2 --weights gone.pth", "There is no weights file 'gone.pth'."),
    ("cut --from gone", "There is no folder 'gone'. Give a folder that `scalecut probe` wrote."),
    (
        "cut short_networks:wide --from run",
        "The run 'run' is of short_networks:chain, not of short_networks:wide. Give a run of "
        "short_networks:wide, or the model short_networks:chain.",
    ),
    (
        "cut CHAIN --from run --weights net.pth",
        "The run 'run' is of short_networks:chain with other weights (the weights the factory "
        "gave). Give those by --weights, or probe these.",
    ),
    ("cut CHAIN --from run --subset cow", "The curve has no subset 'cow'. It has mean, dog."),
    (
        "cut CHAIN --at add_2 --out run",
        "'run' exists and holds no cut of scalecut, so it is not replaced.",
    ),
    (
        "cut CHAIN --at add_2 --out net.pth",
        "'net.pth' is a file, but a folder is needed. Give --out a new folder.",
    ),
    (
        "cut --from run --at add_2",
        "The run 'run' is of 'short_networks:chain', a function, and no function is called because "
        "a file names it. If you trust it, name it yourself: scalecut cut module.path:factory "
        "--from RUN.",
    ),
    ("check run", "'run' holds no cut of scalecut: scalecut.json cannot be read"),
    (
        "check short",
        "example.safetensors of 'short' was changed after it was written (its sha256 differs), so "
        "it is not used. Copy the folder again, or cut again.",
    ),
    ("features run tiles", "'run' holds no cut of scalecut: scalecut.json cannot be read"),
    (
        "features short tiles",
        "'short' was cut from 'short_networks:chain', a function, and no function is called "
        "because a file names it. If you trust it, name it yourself: load_cut(folder, "
        "network='module.path:factory'), or --model module.path:factory.",
    ),
    (
        "features short tiles --out x.xlsx",
        "'x.xlsx' is neither .parquet nor .csv. Give --out such a name.",
    ),
    (
        "features short empty",
        "There is no image at 'empty'. Give image files, or a folder with files named .bmp, .jpeg, "
        ".jpg, .png, .tif, .tiff, .webp.",
    ),
    (
        "features short tiles/00.png --model CHAIN",
        "None of 1 images could be read (it is truncated",
    ),
]


def test_messages(copied):
    run_of()
    other_weights()
    damage(image_files(1)[0])
    Path("empty").mkdir()
    Path("short/example.safetensors").write_bytes(b"something else")
    before = tree()
    for typed, text in REFUSED:
        done = scalecut(*typed.replace("CHAIN", CHAIN).split(), status=2)
        assert done.stdout == ""
        assert done.stderr.startswith(f"scalecut: {text}"), typed
        assert done.stderr.count("\n") == 1
        assert tree() == before


@pytest.mark.parametrize(
    ("typed", "choices"),
    [
        ("cut net --at x --rule best", "'cheapest', 'peak'"),
        ("cut net --at x --pooling max", "'mean', 'cls', 'both'"),
        ("features short tiles --fit stretch", "'squash', 'crop', 'pad'"),
        ("features short tiles --precision half", "'auto', 'float32', 'bfloat16'"),
    ],
)
def test_unknown_choice_is_refused_with_the_known_ones(typed, choices):
    done = scalecut(*typed.split(), status=2)
    assert f"is not one of {choices}" in " ".join(done.stderr.split())


def test_run_with_other_weights_or_without_evidence_chooses_nothing():
    run_of(p_value=0.4)
    done = cut(CHAIN, "--from", "run", "--out", "short", status=2)
    assert done.stderr == (
        "scalecut: No layer of this curve is shown to encode the object's scale, so none can be "
        "chosen. Probe with more images, or give --at LAYER.\n"
    )
    cut(CHAIN, "--from", "run", "--at", "add_2", "--out", "short")
    file = Path("run/run.json")
    file.write_text(re.sub('"tensors_sha256": ".*?"', '"tensors_sha256": "0"', file.read_text()))
    done = cut(CHAIN, "--from", "run", "--at", "add_2", "--out", "other", status=2)
    assert "is of short_networks:chain with other weights" in done.stderr
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "The disk of 'x.csv' is full."),
        (KeyboardInterrupt(), 130, "Stopped"),
    ],
)
def test_interrupted_table_leaves_the_earlier_one(copied, monkeypatch, error, status, said):
    image_files(2)
    Path("x.csv").write_text("image,f0\nthe earlier table,1\n")
    before = tree()

    def interrupted(self, path, **_):
        Path(path).write_text("half")
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    done = scalecut("features", "short", *OWN, "tiles", "--out", "x.csv", status=status)
    assert done.stderr.startswith(f"scalecut: {said}")
    assert tree() == before


def test_run_of_random_weights_that_its_images_changed_cannot_be_cut():
    run_of(weights="random")
    cut(CHAIN, "--from", "run", "--out", "as-drawn")  # here nothing was changed
    file = Path("run/run.json")
    file.write_text(re.sub('"tensors_sha256": ".*?"', '"tensors_sha256": "0"', file.read_text()))
    done = cut(CHAIN, "--from", "run", "--out", "short", status=2)
    assert done.stderr == (
        f"scalecut: The run 'run' is of {CHAIN} with random weights that are adapted to its images "
        "(batch norms, branches that begin closed), so it cannot be cut. Cut a run of trained "
        "weights, or random ones as they are: --weights random --at LAYER, without --from.\n"
    )
