"""Exported files are run without scalecut and compared with the cut that they were made from."""

import copy
import logging
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
from scalecut.cut.export import EXPORTS, export_onnx, onnx_features
from scalecut.cut.network import cut_after
from scalecut.errors import ModelError
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import chosen_points

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

SIDE = 16
FORMATS = list(EXPORTS)


class Plain(nn.Module):
    """Blocks in a row, as in timm: the modules after each of them can be skipped."""

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
    """Ends in the activation of a sum, so that its probe point is the sum."""

    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.two(self.one(x).relu()) + x)


class Flattening(nn.Module):
    """There is code between modules after `late`, and `again` runs twice."""

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


class Between(nn.Module):
    """One convolution, followed by a function."""

    def __init__(self, then):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.then = then
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        return self.fc(self.last(self.then(self.block(images))).mean((2, 3)))


def tokens():
    """Four patches and a class token."""
    return VisionTransformer(SIDE, 8, num_classes=5, embed_dim=12, depth=2, num_heads=2)


def network(build):
    """With random weights and random statistics of batch norm."""
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Each of the cuts with a folder of its files."""
    made = {}
    for name, build in CUTS.items():
        cut, folder = build(), tmp_path_factory.mktemp("cut")
        for each in FORMATS:
            written(cut, each, folder)
        made[name] = cut, folder
    return made


def noise(n):
    return np.random.default_rng(n).normal(size=(n, 3, SIDE, SIDE)).astype(np.float32)


def outputs(cut, images):
    """The outputs of the cut itself, in eager mode and float32."""
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


@pytest.mark.parametrize("kind", CUTS)
def test_file_gives_the_outputs_of_the_cut_for_any_batch_size(kind, exported):
    cut, folder = exported[kind]
    for each in EXPORTS.values():
        for n in (1, 2, 5):
            found = each.features(folder / each.file, noise(n))
            assert largest_difference(found, outputs(cut, noise(n))) < 1e-5
    assert {path.name for path in folder.iterdir()} == {each.file for each in EXPORTS.values()}
    kept = torch.export.load(folder / "model.pt2").state_dict
    assert kept.keys() == cut.state_dict().keys()
    for key, tensor in cut.state_dict().items():
        assert torch.equal(kept[key], tensor)
    for path in folder.iterdir():
        for module in (scalecut, torch, sys.modules[__name__]):
            assert str(Path(module.__file__).parent).encode() not in path.read_bytes()


def test_cuts_of_these_tests_are_of_both_kinds_and_sides(exported):
    made = {name: cut for name, (cut, _) in exported.items()}
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
def test_head_training_mode_and_precision_are_exported_and_left_as_they_are(name, tmp_path):
    cut = cut_after(network(Plain), "blocks.0", head=3).train().bfloat16()
    before = copy.deepcopy(cut)
    found = EXPORTS[name].features(written(cut, name, tmp_path), noise(4))
    assert found.shape == (4, 3)
    assert largest_difference(found, outputs(before, noise(4))) < 1e-5
    assert all(module.training for module in cut.modules())
    for key, tensor in before.state_dict().items():
        assert torch.equal(cut.state_dict()[key], tensor)
    assert all(parameter.requires_grad for parameter in cut.parameters())


def test_cut_with_gradient_checkpointing_is_exported_and_keeps_it(tmp_path):
    cut = CUTS["passed on"]()
    cut.set_grad_checkpointing()
    path = written(cut, "onnx", tmp_path)
    assert largest_difference(onnx_features(path, noise(3)), outputs(cut, noise(3))) < 1e-5
    assert cut.body.grad_checkpointing


# --- contents of the files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "output", "width"),
    [(0, "features", 8), pytest.param(3, "logits", 3, marks=pytest.mark.slow)],
)
def test_onnx_names_its_input_and_output_and_leaves_the_batch_open(head, output, width, tmp_path):
    import onnx

    path = written(cut_after(network(Plain), "blocks.0", head=head), "onnx", tmp_path)
    graph = onnx.load(path).graph

    def described(value):
        sizes = value.type.tensor_type.shape.dim
        return value.name, [size.dim_param or size.dim_value for size in sizes]

    assert [described(value) for value in graph.input] == [("images", ["batch", 3, SIDE, SIDE])]
    assert [described(value) for value in graph.output] == [(output, ["batch", width])]
    onnx.checker.check_model(path, full_check=True)


def test_files_run_where_the_package_is_not(exported, tmp_path):
    np.save(tmp_path / "images.npy", noise(3))
    code = """
import sys
sys.modules["scalecut"] = sys.modules["timm"] = None  # may not be imported
import numpy as np, onnxruntime, torch
images = np.load("images.npy")
for number, folder in enumerate(sys.argv[1:]):
    session = onnxruntime.InferenceSession(
        f"{folder}/model.onnx", providers=["CPUExecutionProvider"]
    )
    np.save(f"onnx{number}.npy", session.run(["features"], {"images": images})[0])
    with torch.no_grad():
        found = torch.export.load(f"{folder}/model.pt2").module()(torch.from_numpy(images))
    np.save(f"torch{number}.npy", found.numpy())
"""
    folders = [str(folder) for _, folder in exported.values()]
    subprocess.run([sys.executable, "-c", code, *folders], cwd=tmp_path, check=True)
    for number, (cut, _) in enumerate(exported.values()):
        for name in FORMATS:
            found = np.load(tmp_path / f"{name}{number}.npy")
            assert largest_difference(found, outputs(cut, noise(3))) < 1e-5


# --- failures -------------------------------------------------------------------------------------


REMEDY = "The cut itself was written: use it without this file, or cut at another layer."


def refusing(x):
    if torch.compiler.is_exporting():
        raise ValueError("This shall not be exported. See the manual.\nIt is long.")
    return x.tanh()


def branching(x):
    return x + 1 if x.sum() > 0 else x


def as_two(x):
    return x.reshape(2, *x.shape[1:]) if len(x) == 2 else x


@pytest.mark.parametrize(
    ("then", "name", "reason"),
    [
        (refusing, "onnx", " ONNX (This shall not be exported)"),
        (refusing, "torch", " torch.export (This shall not be exported)"),
        (branching, "onnx", "data-dependent expression"),  # the path depends on the values
        (as_two, "torch", "Constraints violated (batch)"),  # the batch becomes a constant
        (torch.special.i1, "onnx", "No ONNX function found for <OpOverload(op='prims.bessel_i1'"),
    ],
)
def test_failure_is_reported_in_one_line_and_leaves_nothing(then, name, reason, tmp_path, capfd):
    cut = cut_after(network(lambda: Between(then)), "last")
    with pytest.raises(ModelError) as error:
        written(cut, name, tmp_path)
    text = str(error.value)
    assert text.startswith("Between cut after last could not be written as ")
    assert reason in text
    assert "\n" not in text
    assert text.endswith(f"). {REMEDY}")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert outputs(cut, noise(2)).shape == (2, 4)


def loud(x):
    if torch.compiler.is_exporting():
        print("printed")  # noqa: T201 - as exporters do
        logging.getLogger("torch.onnx").warning("logged")
        warnings.warn("warned", stacklevel=1)
    return x.tanh()


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_takes_no_more_is_an_error_of_the_system(name, tmp_path, small_files):
    cut = cut_after(network(Plain), "blocks.0")
    with small_files(400), pytest.raises(OSError, match="File too large"):
        written(cut, name, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_printed_and_logging_is_unchanged(name, tmp_path, capfd, caplog):
    cut = cut_after(network(lambda: Between(loud)), "last")
    EXPORTS[name].features(written(cut, name, tmp_path), noise(1))
    written(CUTS["stopped"](), name, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert logging.root.manager.disable == logging.NOTSET


def test_messages(tmp_path):
    cut, path = CUTS["passed on"](), tmp_path / "model.onnx"
    for package in ("onnx", "onnxscript", "onnxruntime"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ModelError) as error:
            patch.setitem(sys.modules, package, None)
            onnx_features(path, noise(1)) if package == "onnxruntime" else export_onnx(cut, path)
        assert str(error.value) == (
            f"ONNX needs the package {package}, which is not installed. "
            "Run: pip install 'scalecut[onnx]'."
        )
        assert not path.exists()
    for each in EXPORTS.values():
        path = tmp_path / each.file
        path.write_bytes(b"something else")
        with pytest.raises(ModelError) as error:
            each.features(path, np.zeros((1, 3, 8, 8), np.float32))
        text = str(error.value)
        assert text.startswith(f"{path.name} cannot be run (")
        assert text.endswith("). Export the cut again.")


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
@pytest.mark.parametrize("share", [1 / 4, 1 / 2, 3 / 4])
def test_onnx_of_a_real_network_answers_as_its_cut_does(name, share, tmp_path):
    whole = load_network(name, weights="random")
    aside = ("pooled", "logits", "softmax", "incre_modules")  # the last are HRNet's branches
    points = [p for p in chosen_points(whole)[0] if not p.layer.startswith(aside)]
    cut = cut_after(whole, points[int(share * len(points))])
    path = written(cut, "onnx", tmp_path)
    for n in (1, 3):
        images = np.random.default_rng(n).normal(size=(n, *whole.example().shape[1:]))
        images = images.astype(np.float32)
        found = onnx_features(path, images)
        assert largest_difference(found, outputs(cut, images)) < 1e-4
