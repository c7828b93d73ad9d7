"""Files are run as a stranger would, and compared with the cut that they were made from."""

import copy
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

import scalecut
from scalecut.cut import cut_after
from scalecut.errors import ModelError
from scalecut.export import EXPORTS, export_onnx, export_torch, onnx_features, torch_features
from scalecut.inputs import chosen_points
from scalecut.models import Preprocessing, load_network

SIDE = 16
FORMATS = list(EXPORTS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Plain(nn.Module):
    """Blocks in a row, as timm's: what is behind one of them can hand its input on."""

    def __init__(self):
        super().__init__()
        self.grad_checkpointing = False
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.5)
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.fc = nn.Linear(8, 5)

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable

    def forward_features(self, images):
        x = self.dropout(self.stem(images))
        if self.grad_checkpointing:
            return checkpoint(self.blocks, x, use_reentrant=False)
        return self.blocks(x)

    def forward(self, images):
        return self.fc(self.forward_features(images).mean((2, 3)))


class Residual(nn.Module):
    """Ends in an activation of a sum, so the sum is read."""

    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.two(self.one(x).relu()) + x)


class Flattening(nn.Module):
    """Code between modules stands behind `late`, and `again` runs twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.late = nn.Sequential(nn.Conv2d(8, 6, 1), nn.Tanh())
        self.fc = nn.Linear(6 * 7 * 7, 5)

    def forward(self, images):
        x = self.stem(images)
        x = self.again(x).relu()
        x = self.again(x)
        return self.fc(torch.flatten(self.late(x), 1))


class Reading(nn.Module):
    """One convolution and then what a test wants to be computed."""

    def __init__(self, then):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.then = then
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        return self.fc(self.last(self.then(self.block(images))).mean((2, 3)))


def tokens():
    """Four patches behind a class token."""
    return VisionTransformer(SIDE, 8, num_classes=5, embed_dim=12, depth=2, num_heads=2)


def network(build):
    """With random weights and with batch norms that have seen something."""
    torch.manual_seed(0)
    made = build()
    with torch.no_grad():
        for tensor in [*made.parameters(), *made.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(0.3 * torch.rand_like(tensor) + 0.1)
    return load_network(made, preprocessing=Preprocessing(height=SIDE, width=SIDE))


CUTS = {
    "passed on": lambda: cut_after(network(Plain), "blocks.0"),
    "stopped": lambda: cut_after(network(Flattening), "stem"),
    "stopped at the second call": lambda: cut_after(network(Flattening), "again"),
    "both kinds of tokens": lambda: cut_after(network(tokens), "blocks.0", pooling="both"),
}


@pytest.fixture(params=CUTS)
def cut(request):
    return CUTS[request.param]()


def pictures(n):
    return np.random.default_rng(n).normal(size=(n, 3, SIDE, SIDE)).astype(np.float32)


def answers(cut, images):
    """Of the cut itself, in eager mode and float32."""
    with torch.no_grad():
        return copy.deepcopy(cut).eval().float()(torch.from_numpy(images)).numpy()


def written(cut, name, folder):
    path = folder / EXPORTS[name].file
    EXPORTS[name].write(cut, path)
    return path


def largest_difference(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return np.abs(found - expected).max() / np.abs(expected).max()


# --- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_file_answers_as_the_cut_does_to_a_batch_of_any_size(cut, name, tmp_path):
    path = written(cut, name, tmp_path)
    for n in (1, 2, 5):
        found = EXPORTS[name].features(path, pictures(n))
        assert largest_difference(found, answers(cut, pictures(n))) < 1e-5
    assert [each.name for each in tmp_path.iterdir()] == [EXPORTS[name].file]


def test_cuts_of_these_tests_are_of_both_ways_and_sides():
    made = {name: build() for name, build in CUTS.items()}
    assert {name: each.way for name, each in made.items()} == {
        "passed on": "passed on",
        "stopped": "stopped",
        "stopped at the second call": "stopped",
        "both kinds of tokens": "passed on",
    }
    assert made["passed on"].point.side == "input"
    assert made["stopped at the second call"].point.n_calls == 2
    assert made["both kinds of tokens"].num_features == 2 * 12


@pytest.mark.parametrize("name", FORMATS)
def test_head_is_exported_with_the_cut(name, tmp_path):
    cut = cut_after(network(Plain), "blocks.0", head=3)
    found = EXPORTS[name].features(written(cut, name, tmp_path), pictures(2))
    assert found.shape == (2, 3)
    assert largest_difference(found, answers(cut, pictures(2))) < 1e-5


@pytest.mark.parametrize("name", FORMATS)
def test_cut_in_training_is_exported_for_use_and_left_in_training(name, tmp_path):
    cut = CUTS["passed on"]().train()
    before = copy.deepcopy(cut)
    path = written(cut, name, tmp_path)
    found = EXPORTS[name].features(path, pictures(4))
    assert largest_difference(found, answers(before, pictures(4))) < 1e-5
    assert all(module.training for module in cut.modules())
    for key, tensor in before.state_dict().items():
        assert torch.equal(cut.state_dict()[key], tensor)
    assert all(parameter.requires_grad for parameter in cut.parameters())


@pytest.mark.parametrize("name", FORMATS)
def test_half_precision_is_exported_in_float32(name, tmp_path):
    cut = CUTS["passed on"]().bfloat16()
    found = EXPORTS[name].features(written(cut, name, tmp_path), pictures(2))
    assert largest_difference(found, answers(cut, pictures(2))) < 1e-5
    assert next(cut.parameters()).dtype == torch.bfloat16


def test_checkpointing_is_not_exported_and_stays_on(tmp_path):
    cut = CUTS["passed on"]()
    cut.set_grad_checkpointing()
    path = written(cut, "onnx", tmp_path)
    assert largest_difference(onnx_features(path, pictures(3)), answers(cut, pictures(3))) < 1e-5
    assert cut.body.grad_checkpointing


# --- what stands in the files --------------------------------------------------------------------


@pytest.mark.parametrize(("head", "output", "width"), [(0, "features", 8), (3, "logits", 3)])
def test_onnx_names_its_ends_and_leaves_the_batch_open(head, output, width, tmp_path):
    import onnx

    path = written(cut_after(network(Plain), "blocks.0", head=head), "onnx", tmp_path)
    graph = onnx.load(path).graph

    def described(value):
        sizes = value.type.tensor_type.shape.dim
        return value.name, [size.dim_param or size.dim_value for size in sizes]

    assert [described(value) for value in graph.input] == [("images", ["batch", 3, SIDE, SIDE])]
    assert [described(value) for value in graph.output] == [(output, ["batch", width])]
    onnx.checker.check_model(path, full_check=True)


@pytest.mark.parametrize("way", ["passed on", "stopped"])
def test_torch_file_keeps_the_names_of_the_tensors(way, tmp_path):
    cut = CUTS[way]()
    kept = torch.export.load(written(cut, "torch", tmp_path)).state_dict
    assert kept.keys() == cut.state_dict().keys()
    for key, tensor in cut.state_dict().items():
        assert torch.equal(kept[key], tensor)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("way", ["passed on", "stopped"])
def test_files_name_no_path_of_the_machine(way, name, tmp_path):
    content = written(CUTS[way](), name, tmp_path).read_bytes()
    for module in (scalecut, torch, sys.modules[__name__]):
        assert str(Path(module.__file__).parent).encode() not in content


def test_files_run_where_the_package_is_not(tmp_path):
    ways = ["passed on", "stopped"]
    np.save(tmp_path / "images.npy", pictures(3))
    for way in ways:
        (tmp_path / way).mkdir()
        for name in FORMATS:
            written(CUTS[way](), name, tmp_path / way)
    code = """
import sys
sys.modules["scalecut"] = sys.modules["timm"] = None  # may not be imported
import numpy as np, onnxruntime, torch
images = np.load("images.npy")
for way in sys.argv[1:]:
    session = onnxruntime.InferenceSession(f"{way}/model.onnx", providers=["CPUExecutionProvider"])
    np.save(f"{way}/onnx.npy", session.run(["features"], {"images": images})[0])
    with torch.no_grad():
        found = torch.export.load(f"{way}/model.pt2").module()(torch.from_numpy(images))
    np.save(f"{way}/torch.npy", found.numpy())
"""
    subprocess.run([sys.executable, "-c", code, *ways], cwd=tmp_path, check=True)
    for way in ways:
        for name in FORMATS:
            found = np.load(tmp_path / way / f"{name}.npy")
            assert largest_difference(found, answers(CUTS[way](), pictures(3))) < 1e-5


def test_formats_are_files_of_their_own():
    assert {name: each.file for name, each in EXPORTS.items()} == {
        "onnx": "model.onnx",
        "torch": "model.pt2",
    }
    assert (EXPORTS["onnx"].write, EXPORTS["onnx"].features) == (export_onnx, onnx_features)
    assert (EXPORTS["torch"].write, EXPORTS["torch"].features) == (export_torch, torch_features)


# --- what goes wrong -----------------------------------------------------------------------------


def branching(x):
    return x + 1 if x.sum() > 0 else x


def as_two(x):
    return x.reshape(2, *x.shape[1:]) if len(x) == 2 else x


REMEDY = "The cut itself is kept: use it without this file, or cut at another layer."


@pytest.mark.parametrize("name", FORMATS)
def test_network_that_looks_at_its_values_is_refused_in_one_line(name, tmp_path, capfd):
    cut = cut_after(network(lambda: Reading(branching)), "last")
    with pytest.raises(ModelError) as error:
        written(cut, name, tmp_path)
    title = {"onnx": "ONNX", "torch": "torch.export"}[name]
    text = str(error.value)
    start = f"Reading cut after last could not be written as {title} ("
    assert text.startswith(start)
    assert text.endswith(f"). {REMEDY}")
    assert "ata-dependent" in text[len(start) : -len(REMEDY)]
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert answers(cut, pictures(2)).shape == (2, 4)


def test_operation_that_onnx_lacks_is_named(tmp_path, capfd):
    cut = cut_after(network(lambda: Reading(torch.special.i1)), "last")
    with pytest.raises(ModelError) as error:
        export_onnx(cut, tmp_path / "model.onnx")
    assert re.fullmatch(
        r"Reading cut after last could not be written as ONNX \(No ONNX function found for "
        r"<OpOverload\(op='prims.bessel_i1'.*\)\. " + re.escape(REMEDY),
        str(error.value),
    )
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    path = written(cut, "torch", tmp_path)
    assert largest_difference(torch_features(path, pictures(1)), answers(cut, pictures(1))) < 1e-5


def test_network_that_takes_the_batch_for_a_constant_is_refused(tmp_path):
    cut = cut_after(network(lambda: Reading(as_two)), "last")
    with pytest.raises(ModelError, match=r"could not be written as torch.export \(Constraints vio"):
        export_torch(cut, tmp_path / "model.pt2")


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_said_and_logging_is_as_it_was(name, tmp_path, capfd):
    cut = CUTS["stopped"]()
    logging.disable(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            path = written(cut, name, tmp_path)
            EXPORTS[name].features(path, pictures(1))
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)
    assert heard == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_named_with_what_to_install(package, tmp_path, monkeypatch):
    cut, path = CUTS["passed on"](), tmp_path / "model.onnx"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError) as error:
        onnx_features(path, pictures(1)) if package == "onnxruntime" else export_onnx(cut, path)
    assert str(error.value) == (
        f"ONNX needs the package {package}, which is not installed. "
        "Run: pip install 'scalecut[onnx]'."
    )
    assert not path.exists()


# --- real networks -------------------------------------------------------------------------------

ARCHITECTURES = [
    "inception_v3",
    "resnet50",
    "resnet50_v1",
    "densenet121",
    "vgg16_bn",
    "mobilenetv3_large_100",
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "convnext_tiny",
    "regnety_016",
    "hrnet_w18_small",
    "repvgg_a0",
    "mobilevit_s",
    "vit_small_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnx_of_a_real_network_answers_as_its_cut_does(name, tmp_path):
    whole = load_network(name, weights="random")
    points, _ = chosen_points(whole)
    cut = cut_after(whole, points[len(points) // 3])
    path = written(cut, "onnx", tmp_path)
    for n in (1, 3):
        images = np.random.default_rng(n).normal(size=(n, *whole.example().shape[1:]))
        images = images.astype(np.float32)
        found = onnx_features(path, images)
        assert largest_difference(found, answers(cut, images)) < 1e-4
