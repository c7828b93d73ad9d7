"""What OpenVINO computes is held against PyTorch; what int8 costs, against a planted measure."""

import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import timm
import torch
from torch import nn

from scalecut import cache
from scalecut.data.images import Image, evenly, make_image_set
from scalecut.errors import ModelError
from scalecut.features import backends as engines
from scalecut.features.backends import Way, resolved_way
from scalecut.features.extract import Computation, Extracted, Stages, calibration_of
from scalecut.networks.layers import probe_points, select_layers
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.probing.controls import check_int8
from scalecut.probing.probe import probe

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Preprocessing(height=24, width=24)
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
needs_bfloat16 = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="the processor does not compute in bfloat16"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def network():
    """Three convolutions, then pooled features, logits and softmax."""
    torch.manual_seed(0)
    layers = [
        ("one", nn.Conv2d(3, 8, 3)),
        ("norm", nn.BatchNorm2d(8)),
        ("relu", nn.ReLU(inplace=True)),
        ("two", nn.Conv2d(8, 12, 3, stride=2)),
        ("act", nn.SiLU()),
        ("three", nn.Conv2d(12, 6, 1)),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flat", nn.Flatten()),
        ("fc", nn.Linear(6, 5)),
    ]
    return load_network(nn.Sequential(OrderedDict(layers)), preprocessing=SMALL)


class Several(nn.Module):
    """Gives two maps, and calls a layer twice."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1, stride=2)
        self.shared = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return [self.shared(self.shared(self.fine(x)).relu()), self.coarse(x)]


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.several, self.fc = Several(), nn.Linear(10, 3)

    def forward(self, x):
        pooled = torch.cat([each.mean(dim=(2, 3)) for each in self.several(x)], dim=1)
        return self.fc(input=pooled)


def network_of(name):
    torch.manual_seed(0)
    if name == "joined":
        return load_network(Joined(), preprocessing=SMALL)
    if name == "vit":
        tokens = timm.create_model("test_vit", img_size=32, dynamic_img_size=False)
        return load_network(tokens, preprocessing=Preprocessing(32, 32))
    return load_network(name, weights="random", preprocessing=Preprocessing(48, 32))


def points_of(network, *patterns):
    points = probe_points(network.module, network.example())
    return select_layers(points, patterns) if patterns else points


def discs(n, seed=0):
    """Bright discs on noise, and the share of the picture that each fills."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :24] - 11.5
    radius = rng.uniform(2, 11, n)
    pictures = rng.integers(0, 90, (n, 24, 24, 3), dtype=np.uint8)
    pictures[np.hypot(x, y) < radius[:, None, None]] += 120
    return make_image_set(list(pictures), np.pi * radius**2 / 24**2)


def extracted(network, images, points=None, **settings):
    settings = {"precision": "float32", "batch_size": 4, "engine": "openvino"} | settings
    return extract_features(network, images, points or points_of(network), **settings)


def assert_close(found, expected, tolerance):
    """Layer by layer, in standard deviations of each, beside the rounding of float32."""
    assert list(found) == list(expected)
    for layer, matrix in expected.items():
        most = tolerance * matrix.std() + 1e-6 * np.abs(matrix).max()
        np.testing.assert_allclose(found[layer], matrix, rtol=0, atol=most, err_msg=layer)


def assert_same(one, other):
    assert list(one) == list(other)
    for layer in one:
        np.testing.assert_array_equal(one[layer], other[layer], err_msg=layer)


def stored_graphs():
    """The files of the cache that hold a graph, with its text."""
    found = {}
    for path in Path(cache.folder()).rglob("*.safetensors"):
        content = safetensors.numpy.load_file(path)
        if "text" in content:
            found[path] = content["text"].tobytes().decode()
    return found


@pytest.fixture
def conversions(monkeypatch):
    """The layers of every graph that is converted."""
    made = []
    converted = engines._converted

    def counted(taps, layers, example):
        made.append(len(layers))
        return converted(taps, layers, example)

    monkeypatch.setattr(engines, "_converted", counted)
    return made


# --- the same features ---------------------------------------------------------------------------


@needs_openvino
@pytest.mark.parametrize("name", ["test_efficientnet", "vit", "joined"])
def test_openvino_computes_what_pytorch_does_layer_by_layer_in_order(name):
    network, images = network_of(name), discs(5).images
    points = points_of(network)
    expected = extract_features(network, images, points, precision="float32")
    found = extracted(network, images, points)
    assert list(found.matrices) == [point.layer for point in points]
    assert_close(found.matrices, expected.matrices, 1e-4)
    assert (found.engine, found.precision, found.n_computed) == ("openvino", "float32", 5)
    assert (expected.engine, expected.precision) == ("torch", "float32")


@needs_openvino
@needs_bfloat16
def test_bfloat16_is_near_float32_and_not_the_same(network):
    images = discs(6).images
    exact = extracted(network, images).matrices
    rough = extracted(network, images, precision="bfloat16").matrices
    assert_close(rough, exact, 0.05)
    assert not np.array_equal(rough["act"], exact["act"])


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_features_of_an_image_depend_neither_on_the_others_nor_on_threads(
    network, precision, tmp_path, monkeypatch
):
    images = discs(7).images
    found = extracted(network, images, precision=precision, batch_size=7).matrices
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "another"))
    torch.set_num_threads(3)
    try:
        again = extracted(network, images, precision=precision, batch_size=2).matrices
    finally:
        torch.set_num_threads(1)
    assert_same(found, again)


@needs_openvino
def test_a_graph_goes_no_further_than_the_last_layer(network):
    with torch.no_grad():
        network.module.three.weight[:] = np.nan
    found = extracted(network, discs(3).images, points_of(network, "act"))
    assert np.isfinite(found.matrices["act"]).all()
    (text,) = stored_graphs().values()
    assert text.count('type="Convolution"') == 2


@needs_openvino
def test_the_users_module_is_left_alone(network):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    extracted(network, discs(3).images)
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.module.modules())


@needs_openvino
def test_the_libraries_stay_silent_and_do_not_phone_home(network, capfd):
    extracted(network, discs(12).images, precision="int8")
    assert capfd.readouterr() == ("", "")
    assert sys.modules["openvino_telemetry"] is None


# --- graphs in the cache -------------------------------------------------------------------------


@needs_openvino
def test_a_graph_is_made_once(network, conversions):
    first, others = discs(3), discs(4, seed=1)
    extracted(network, first.images)
    assert (len(stored_graphs()), len(conversions)) == (1, 1)
    assert extracted(network, others.images).n_computed == 4
    extracted(network, others.images, precision="int8")  # starts from the exact one
    assert (len(stored_graphs()), len(conversions)) == (2, 1)
    extracted(network, discs(2, seed=2).images, points_of(network, "act"))
    assert (len(stored_graphs()), conversions) == (3, [6, 1])


@needs_openvino
def test_no_graph_is_made_where_all_features_are_known(network, conversions):
    images = discs(3).images
    whole = extracted(network, images)
    for path in stored_graphs():
        path.unlink()
    again = extracted(network, images)
    assert (again.n_computed, len(conversions)) == (0, 1)
    assert_same(again.matrices, whole.matrices)


@needs_openvino
def test_a_broken_graph_is_made_anew(network, conversions):
    images = discs(5).images
    extracted(network, images[:2])
    (path,) = stored_graphs()
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    found = extracted(network, images).matrices
    assert (len(stored_graphs()), len(conversions)) == (1, 2)
    assert_close(found, extract_features(network, images, points_of(network), precision="float32").matrices,
                 1e-4)  # fmt: skip


@needs_openvino
def test_other_weights_have_another_graph(network, conversions):
    images = discs(3).images
    extracted(network, images)
    with torch.no_grad():
        network.module.one.bias += 0.5
    found = extracted(network, images).matrices
    assert len(conversions) == 2
    assert_close(found, extract_features(network, images, points_of(network), precision="float32").matrices,
                 1e-4)  # fmt: skip


@needs_openvino
def test_graphs_are_counted_and_cleared_with_the_features(network):
    extracted(network, discs(3).images)
    assert cache.summary()[0] == 2
    cache.clear()
    assert cache.summary() == (0, 0) and not stored_graphs()


@needs_openvino
def test_features_of_one_engine_are_not_taken_for_those_of_the_other(network):
    images = discs(3).images
    extracted(network, images)
    assert extracted(network, images, engine="torch").n_computed == 3
    assert extracted(network, images).n_computed == 0


# --- what cannot be converted --------------------------------------------------------------------


class Otherwise(nn.Module):
    """Does another thing when it is exported."""

    def forward(self, x):
        return x * 1.01 if torch.compiler.is_compiling() else x


@needs_openvino
def test_a_graph_that_answers_otherwise_is_refused(network):
    network.module.act = Otherwise()
    with pytest.raises(ModelError) as error:
        extracted(network, discs(3).images)
    found = str(error.value)
    start = "OpenVINO answers otherwise than PyTorch at 'three': 0.0"
    assert found.startswith(start), found
    assert found.endswith(" standard deviations off, where 0.001 are allowed. Give --engine torch.")
    assert not stored_graphs()


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).abs()


@needs_openvino
@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Undecided(), "Could not guard on data-dependent expression "),
        (Spectrum(), "No conversion rule found for operations: aten._fft_r2c.default"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(network, module, reason, capfd):
    network.module.act = module
    points = points_of(network)
    with pytest.raises(ModelError) as error:
        extracted(network, discs(3).images, points)
    found = str(error.value)
    assert found.startswith(f"OpenVINO cannot convert this network ({reason}")
    assert found.endswith("). Give --engine torch.") and "\n" not in found
    assert capfd.readouterr() == ("", "")


# --- int8 ----------------------------------------------------------------------------------------


def in_int8(network, images, stages=None):
    look = Computation(precision="int8", engine="openvino")
    stages, points = stages or Stages(None), points_of(network)
    found = stages.extracted(network, images.images, points, look)
    rows = evenly(len(images), 128)
    some = {layer: matrix[rows] for layer, matrix in found.matrices.items()}
    return found, check_int8(network, images.rows(rows), points, look, some, stages)


@needs_openvino
def test_int8_reads_a_planted_measure_as_float32_does(network):
    images, stages = discs(150), Stages(None)
    found, checked = in_int8(network, images, stages)
    assert (found.engine, found.precision) == ("openvino", "int8")
    assert abs(checked["int8_moved"]) <= 0.01
    assert checked["int8_moved_at"] in found.matrices and checked["int8_checked_on"] == 128
    assert stages.facts["check of int8"]["images_computed"] == 128
    exact = extracted(network, images.images).matrices
    assert not np.array_equal(found.matrices["act"], exact["act"])
    for layer, matrix in exact.items():
        assert np.corrcoef(matrix.ravel(), found.matrices[layer].ravel())[0, 1] > 0.99, layer


@needs_openvino
def test_int8_that_loses_the_measure_is_refused(network):
    images, look = discs(40), Computation(precision="int8", engine="openvino")
    points = points_of(network, "act", "three")
    found = Stages(None).extracted(network, images.images, points, look)
    noise = np.random.default_rng(0).normal(size=found.matrices["three"].shape)
    spoilt = found.matrices | {"three": noise.astype(np.float32)}
    with pytest.raises(ModelError) as error:
        check_int8(network, images, points, look, spoilt, Stages(None))
    moved = str(error.value).split()[8]
    assert -2 < float(moved) < -0.5
    assert str(error.value) == (
        f"int8 moved R² at 'three' of {network.name} by {moved} from float32, on 40 images; 0.02 "
        "is allowed. Give --precision bfloat16."
    )


def test_the_check_of_int8_leaves_groups_out_whole(network):
    """Features that name the group foretell the measure of its other images, but of no new one."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 5)
    pictures = list(rng.integers(0, 256, (100, 4, 4, 3), dtype=np.uint8))
    images = make_image_set(pictures, rng.normal(size=20)[group], group=group.tolist())
    names = np.eye(20, dtype=np.float32)[group]

    class Exact(Stages):
        def extracted(self, *asked):
            return Extracted({"names": names}, np.ones(100, dtype=bool), (), "float32", 0, 0.0)

    lost = {"names": np.zeros_like(names)}
    checked = check_int8(network, images, [], Computation(), lost, Exact(None))
    assert abs(checked["int8_moved"]) < 0.01  # there was nothing to lose


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=needs_openvino)])
def test_int8_alone_is_checked_its_twins_too(network, monkeypatch, precision):
    """Else a twin that int8 spoilt would make the network's lead larger than it is."""
    checked = []
    monkeypatch.setattr(
        sys.modules["scalecut.probing.probe"],
        "check_int8",
        lambda network, *rest: checked.append(network.weights.kind) or {},
    )
    is_int8 = precision == "int8"
    engine = "openvino" if is_int8 else "torch"
    few = {"twins": 1, "repeats": 1, "permutations": 0, "layers": ["relu", "act"]}
    probe(network, discs(24), engine=engine, precision=precision, **few)
    assert checked == (["pretrained", "random"] if is_int8 else [])


@needs_openvino
def test_ranges_of_int8_are_those_of_the_images(network):
    images, others = discs(12), discs(12, seed=1)
    first, _ = in_int8(network, images)
    again, _ = in_int8(network, images)
    assert (first.n_computed, again.n_computed) == (12, 0)
    assert_same(first.matrices, again.matrices)
    assert extracted(network, others.images, precision="int8").n_computed == 12
    assert len(stored_graphs()) == 3  # the exact one, and one for each set of images


def test_calibration_takes_ninety_images_evenly(monkeypatch):
    images = discs(181).images
    seen = calibration_of(images, SMALL, "squash")
    chosen = torch.cat(list(seen.batches()))
    expected = SMALL.tensor(np.stack([images[i].source for i in np.linspace(0, 180, 90).round()
                                      .astype(int)]))  # fmt: skip
    assert torch.equal(chosen, expected)
    assert len(torch.cat(list(calibration_of(images[:7], SMALL, "squash").batches()))) == 7
    names = {
        calibration_of(pictures, SMALL, fit).name
        for pictures in (images, images[:90])
        for fit in ("squash", "crop")
    }
    assert len(names) == 4 and seen.name in names


@needs_openvino
def test_an_image_that_cannot_be_decoded_gives_no_range(network, tmp_path):
    images = list(discs(10).images)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more of it")
    found = extracted(network, [Image("broken", broken), *images], precision="int8")
    assert found.is_read.tolist() == [False, *[True] * 10]


# --- what goes together --------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch):
    """A machine without a GPU, with or without bfloat16 and OpenVINO."""

    def with_(bfloat16=True, openvino=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        find = importlib.util.find_spec
        there = lambda name: find("json" if openvino else "no_such") if name == "openvino" else None  # noqa: E731 - of one line
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: there(name) or find(name))
        if not openvino:
            monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None)
            monkeypatch.setitem(sys.modules, "openvino", None)
        else:
            monkeypatch.setitem(sys.modules, "openvino", sys)

    return with_


@pytest.mark.parametrize(
    ("here", "asked", "way"),
    [
        ({}, ("torch", "auto"), Way("torch", "bfloat16", "cpu")),
        ({}, ("auto", "auto"), Way("openvino", "bfloat16", "cpu")),
        ({}, ("auto", "float32"), Way("openvino", "float32", "cpu")),
        ({}, ("openvino", "auto"), Way("openvino", "bfloat16", "cpu")),
        ({}, ("openvino", "int8"), Way("openvino", "int8", "cpu")),
        ({"bfloat16": False}, ("auto", "auto"), Way("torch", "float32", "cpu")),
        ({"bfloat16": False}, ("openvino", "auto"), Way("openvino", "float32", "cpu")),
        ({"bfloat16": False}, ("auto", "int8"), Way("openvino", "int8", "cpu")),
        ({"openvino": False}, ("auto", "auto"), Way("torch", "bfloat16", "cpu")),
    ],
)
def test_auto_is_what_the_machine_can_do_and_never_int8(processor, here, asked, way):
    processor(**here)
    assert resolved_way(*asked, "auto") == way


def test_auto_leaves_a_gpu_to_pytorch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved_way("auto", "float32", "auto") == Way("torch", "float32", "cuda")


@pytest.mark.parametrize(
    ("here", "asked", "said"),
    [
        (
            {},
            ("onnx", "auto", "auto"),
            "No engine is named 'onnx'. Give torch, openvino or auto.",
        ),
        (
            {},
            ("openvino", "int4", "auto"),
            "No precision is named 'int4'. Give auto, float32 or bfloat16.",
        ),
        (
            {},
            ("torch", "int8", "auto"),
            "PyTorch does not compute in int8 here. Give --engine openvino, or --precision "
            "bfloat16 or float32.",
        ),
        (
            {},
            ("openvino", "auto", "cuda:0"),
            "OpenVINO computes on the processor, not on 'cuda:0'. Give --device cpu, or "
            "--engine torch.",
        ),
        (
            {"bfloat16": False},
            ("openvino", "bfloat16", "cpu"),
            "This processor does not compute in bfloat16, and OpenVINO would use float32 instead. "
            "Give --precision float32 or int8.",
        ),
        (
            {"openvino": False},
            ("openvino", "float32", "cpu"),
            "The engine openvino is not installed. Give --engine torch, or install it: "
            "pip install 'scalecut[fast]'.",
        ),
        (
            {"openvino": False},
            ("auto", "int8", "cpu"),
            "PyTorch does not compute in int8 here. Give --engine openvino, or --precision "
            "bfloat16 or float32.",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(processor, here, asked, said):
    processor(**here)
    with pytest.raises(ModelError) as error:
        resolved_way(*asked)
    assert str(error.value) == said
