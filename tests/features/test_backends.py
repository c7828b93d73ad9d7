"""OpenVINO is compared with PyTorch; int8 with the rounding error that theory allows it."""

import copy
import functools
import importlib.util
import sys
import threading
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import timm
import torch
from torch import nn

from scalecut import cache
from scalecut.analyses.atlas import Mapped, atlas
from scalecut.analyses.invariance import invariance
from scalecut.analyses.noise import probe_noise
from scalecut.analyses.rcv import Estimation, rcv
from scalecut.analyses.synthetic import probe_scenes
from scalecut.data.decoding import quiet
from scalecut.data.images import Image, make_image_set
from scalecut.data.measures import evenly
from scalecut.errors import ModelError, OutputError
from scalecut.features import backends, processor
from scalecut.features.backends import Backend, resolved_backend
from scalecut.features.extract import (
    Computation,
    Extracted,
    Stages,
    calibration_of,
    extract_features,
)
from scalecut.networks.layers import probe_points, select_layers
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing, randomly_initialised
from scalecut.pathology.methods import Trial
from scalecut.pathology.transfer import CutPoint, transfer
from scalecut.probing import controls
from scalecut.probing.controls import MOST_MOVED, check_int8
from scalecut.probing.probe import Fitting, probe
from tests.pathology.test_transfer import draw

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]
SMALL = Preprocessing(height=24, width=24)
needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in processor.instructions(), reason="the processor does not compute in bfloat16"
)


needs_vnni = pytest.mark.skipif(
    "VNNI" not in processor.instructions(), reason="the processor has no VNNI"
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
    points = probe_points(network.module, network.example())[0]
    return select_layers(points, patterns) if patterns else points


def discs(n, seed=0):
    """Bright discs on noise, and the share of the picture that each fills."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :24] - 11.5
    radius = rng.uniform(2, 11, n)
    pictures = rng.integers(0, 90, (n, 24, 24, 3), dtype=np.uint8)
    pictures[np.hypot(x, y) < radius[:, None, None]] += 120
    return make_image_set(list(pictures), np.pi * radius**2 / 24**2)


def sources(images):
    return [image.source for image in images.images]


def extracted(network, images, points=None, **settings):
    usual = {"precision": "float32", "batch_size": 4, "engine": "openvino"}
    computation = Computation(**{**usual, **settings})
    return extract_features(network, images, points or points_of(network), computation)


def by_pytorch(network, images, points=None):
    return extracted(network, images, points, engine="torch")


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
    converted = backends._converted

    def counted(taps, layers, example):
        made.append(len(layers))
        return converted(taps, layers, example)

    monkeypatch.setattr(backends, "_converted", counted)
    return made


# --- the same features ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_efficientnet", "vit", "joined"])
def test_openvino_computes_what_pytorch_does_layer_by_layer_in_order(name):
    network, images = network_of(name), discs(5).images
    points = points_of(network)
    expected = by_pytorch(network, images, points)
    found = extracted(network, images, points)
    assert list(found.matrices) == [point.layer for point in points]
    assert_close(found.matrices, expected.matrices, 1e-4)
    assert (found.engine, found.precision, found.n_computed) == ("openvino", "float32", 5)
    assert (expected.engine, expected.precision) == ("torch", "float32")


@needs_bfloat16
def test_bfloat16_is_near_float32_and_not_the_same(network):
    images = discs(6).images
    exact = extracted(network, images).matrices
    rough = extracted(network, images, precision="bfloat16").matrices
    assert_close(rough, exact, 0.05)
    assert not np.array_equal(rough["act"], exact["act"])


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


def test_a_graph_goes_no_further_than_the_last_layer(network):
    with torch.no_grad():
        network.module.three.weight[:] = np.nan
    found = extracted(network, discs(3).images, points_of(network, "act"))
    assert np.isfinite(found.matrices["act"]).all()
    (text,) = stored_graphs().values()
    assert text.count('type="Convolution"') == 2


def test_the_users_module_is_left_alone(network):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    extracted(network, discs(3).images)
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.module.modules())


def test_the_libraries_stay_silent_and_do_not_phone_home(network, capfd):
    extracted(network, discs(12).images, precision="int8")
    assert capfd.readouterr() == ("", "")
    assert sys.modules["openvino_telemetry"] is None


# --- graphs in the cache -------------------------------------------------------------------------


def test_warnings_are_shown_again_after_a_graph_was_made_and_images_decoded_at_once():
    before, is_decoding, is_made = [*warnings.filters], threading.Event(), threading.Event()

    def decode():
        with quiet():
            is_decoding.set()
            is_made.wait(10)

    thread = threading.Thread(target=decode)
    with backends.silence():
        with backends.silence():  # as where the library is imported
            thread.start()
        is_decoding.wait(0.3)
    is_made.set()
    thread.join()
    assert warnings.filters == before
    assert is_decoding.is_set()


def test_a_graph_is_made_once(network, conversions):
    first, others = discs(3), discs(4, seed=1)
    extracted(network, first.images)
    assert (len(stored_graphs()), len(conversions)) == (1, 1)
    assert extracted(network, others.images).n_computed == 4
    extracted(network, others.images, precision="int8")  # starts from the exact one
    assert (len(stored_graphs()), len(conversions)) == (2, 1)
    extracted(network, discs(2, seed=2).images, points_of(network, "act"))
    assert (len(stored_graphs()), conversions) == (3, [6, 1])


@pytest.mark.parametrize(
    ("free", "said"),
    [(0, "The disk of the cache {} is full."), (10**9, "cannot be written (Input/output error).")],
)
def test_a_graph_that_the_disk_does_not_take_is_told(monkeypatch, tmp_path, free, said):
    class Failing:
        def save_model(*_, **__):
            raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    monkeypatch.setattr(backends, "_openvino", Failing)
    monkeypatch.setattr(backends.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OutputError) as error:
        backends._kept({}, lambda: None)
    assert said.format(tmp_path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_graph_is_made_where_all_features_are_known(network, conversions):
    images = discs(3).images
    whole = extracted(network, images)
    for path in stored_graphs():
        path.unlink()
    again = extracted(network, images)
    assert (again.n_computed, len(conversions)) == (0, 1)
    assert_same(again.matrices, whole.matrices)


def test_a_broken_graph_is_made_anew(network, conversions):
    images = discs(5).images
    extracted(network, images[:2])
    (path,) = stored_graphs()
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    found = extracted(network, images).matrices
    assert (len(stored_graphs()), len(conversions)) == (1, 2)
    assert_close(found, by_pytorch(network, images).matrices, 1e-4)


def test_other_weights_have_another_graph(network, conversions):
    images = discs(3).images
    extracted(network, images)
    with torch.no_grad():
        network.module.one.bias += 0.5
    found = extracted(network, images).matrices
    assert len(conversions) == 2
    assert_close(found, by_pytorch(network, images).matrices, 1e-4)
    assert by_pytorch(network, images).n_computed == 0  # each engine has its own features
    assert extracted(network, images).n_computed == 0


@pytest.fixture
def exports(monkeypatch):
    """The networks whose operations were found."""
    monkeypatch.setattr(backends, "_last", {})
    made, export = [], torch.export.export

    def counted(network, *rest, **settings):
        made.append(network)
        return export(network, *rest, **settings)

    monkeypatch.setattr(torch.export, "export", counted)
    return made


def test_controls_share_the_operations_of_the_network_and_not_its_weights(network, exports):
    images = discs(3).images
    weights = copy.deepcopy(network.module.state_dict())
    for seed in (0, 1):
        other = randomly_initialised(network, seed)
        found = extracted(other, images).matrices
        assert_close(found, by_pytorch(other, images).matrices, 1e-4)
    assert len(exports) == 1
    found = extracted(network, images).matrices
    assert_close(found, by_pytorch(network, images).matrices, 1e-4)
    assert len(exports) == 1
    torch.testing.assert_close(network.module.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module.norm, "eps", 0.5),
        lambda module: setattr(module.two, "stride", (1, 1)),
        lambda module: setattr(module, "act", nn.Softplus()),
        lambda module: setattr(module.fc, "bias", None),
        lambda module: setattr(module, "mean", nn.AdaptiveMaxPool2d(1)),
    ],
)
def test_another_network_has_operations_of_its_own(network, exports, change):
    images = discs(3).images
    extracted(network, images)
    change(network.module)
    found = extracted(network, images).matrices
    assert len(exports) == 2
    assert_close(found, by_pytorch(network, images).matrices, 1e-4)


def test_graphs_are_counted_and_cleared_with_the_features(network):
    extracted(network, discs(3).images)
    assert cache.summary()[0] == 2
    cache.clear()
    assert cache.summary() == (0, 0) and not stored_graphs()


# --- what cannot be converted --------------------------------------------------------------------


class Otherwise(nn.Module):
    """Does another thing when it is exported."""

    def forward(self, x):
        return x * 1.01 if torch.compiler.is_compiling() else x


def test_a_graph_that_answers_otherwise_is_refused(network):
    network.module.act = Otherwise()
    with pytest.raises(ModelError) as error:
        extracted(network, discs(3).images)
    found = str(error.value)
    start = "OpenVINO and PyTorch differ at 'three' by 0.0"
    assert found.startswith(start), found
    assert found.endswith(" standard deviations; 0.001 is allowed. Give --engine torch.")
    assert not stored_graphs()


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).abs()


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


def rounding_variance(network, x, bits):
    """Variance of the error of each layer's pooled output in int8, by the theory of rounding.

    A number rounded to a step s has an error of variance s²/12. Inputs x of a layer with weights
    are rounded to 255 steps of their range, weights w to 2^(bits - 1) - 1 steps of their largest
    value in a channel: errors that are independent add up as
        v_out = w² * (v_in + s_x²/12) + (s_w²/12) * x²,   * the layer's own product.
    An activation multiplies it by its largest slope squared. Averaging over places can only make it
    smaller, so the mean variance over places is a bound. Values outside of the range that NNCF
    takes, the mean over images of their smallest and largest value, are clipped; what the layer
    makes of that is added. Sums that overflow are not part of the theory.
    """
    slopes = {nn.SiLU: 1.1}
    variance, span, found = torch.zeros_like(x), x.new_zeros(()), {}
    with torch.no_grad():
        for name, layer in network.module.named_children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                low, high = (fold(x.flatten(1), 1).mean() for fold in (torch.amin, torch.amax))
                clipped = layer(x.clamp(low, high)) - layer(x)
                # pooling hands on the range of the map
                span = torch.maximum(span, high - low) if x.ndim == 2 else x.max() - x.min()
                weight = layer.weight
                step = weight.abs().flatten(1).amax(1) / (2 ** (bits - 1) - 1)
                of_weights = torch.ones_like(weight)
                of_weights *= (step**2 / 12).view(-1, *[1] * (weight.ndim - 1))
                product = nn.functional.linear
                if isinstance(layer, nn.Conv2d):
                    product = functools.partial(nn.functional.conv2d, stride=layer.stride)
                variance = product(variance + (span / 255) ** 2 / 12, weight**2)
                variance += product(x**2, of_weights) + clipped**2
            elif isinstance(layer, nn.AdaptiveAvgPool2d | nn.Flatten):
                variance = layer(variance)
            else:
                variance *= slopes.get(type(layer), 1.0) ** 2
            x = layer(x)
            found[name] = float(variance.mean())
    # the norm after `one` is that of a fresh network: the identity; softmax has slopes up to 1/2
    return found | {"pooled": found["flat"], "logits": found["fc"], "softmax": found["fc"] / 4}


@pytest.mark.parametrize("bits", [7, pytest.param(8, marks=needs_vnni)])
def test_int8_predicts_a_planted_measure_as_float32_does(network, bits, monkeypatch):
    monkeypatch.setattr(backends, "weight_bits", lambda: bits)
    images, stages = discs(150), Stages(None)
    found, checked = in_int8(network, images, stages)  # refuses what moves R² by more than 0.02
    assert (found.engine, found.precision) == ("openvino", "int8")
    assert abs(checked["int8_moved"]) <= MOST_MOVED
    assert checked["int8_moved_at"] in found.matrices and checked["int8_checked_on"] == 128
    assert stages.facts["check of int8"]["images_computed"] == 128
    exact = extracted(network, images.images).matrices
    assert not np.array_equal(found.matrices["act"], exact["act"])
    allowed = rounding_variance(network, SMALL.tensor(np.stack(sources(images))), bits)
    for layer, matrix in exact.items():
        error = np.sqrt(np.mean((found.matrices[layer] - matrix) ** 2))
        assert error <= 1.5 * np.sqrt(allowed[layer]), layer  # variances are expected values


def test_features_of_another_number_of_bits_are_computed_again(network, monkeypatch):
    images = discs(12).images
    found = []
    for bits in (7, 8, 7):
        monkeypatch.setattr(backends, "weight_bits", lambda bits=bits: bits)
        found.append(extracted(network, images, precision="int8"))
    assert [each.n_computed for each in found] == [12, 12, 0]
    assert len(stored_graphs()) == 3  # the exact one, and one for each number of bits
    assert not np.array_equal(found[0].matrices["act"], found[1].matrices["act"])


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
        f"is allowed. Give --precision {backends.resolved_precision('auto', 'cpu')}."
    )


def test_the_check_of_int8_leaves_groups_out_whole(network):
    """Features that name the group predict the measure of its images, but of no new group."""
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


def with_a_control(network, computation):
    few = Fitting(random_networks=1, repeats=1, permutations=0)
    probe(network, discs(24), layers=["relu"], computation=computation, fitting=few)


def mapped_with_a_control(network, computation):
    few = Mapped(["brightness"], repeats=2, permutations=0)
    atlas(network, discs(24), layers=["relu"], computation=computation, mapped=few)


@pytest.mark.parametrize("verb", [with_a_control, mapped_with_a_control])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_int8_alone_is_checked_and_so_are_its_controls(network, monkeypatch, verb, precision):
    """Otherwise a control that int8 spoilt would increase the gain over controls."""
    checked = []
    monkeypatch.setattr(
        controls,
        "check_int8",
        lambda *asked: checked.append("own" if asked[-1] is None else "control") or {},
    )
    is_int8 = precision == "int8"
    engine = "openvino" if is_int8 else "torch"
    verb(network, Computation(engine=engine, precision=precision))
    assert checked == (["own", "control"] if is_int8 else [])


def by_probe(network, folder, computation):
    few = Fitting(controls=["none"], repeats=2, permutations=0)
    return probe(network, discs(24), computation=computation, fitting=few)


def by_rcv(network, folder, computation):
    return rcv(network, discs(24), computation=computation, estimation=Estimation(repeats=2))


def by_transfer(methods):
    def run(network, folder, computation):
        asked = Trial(methods=methods, seeds=1)
        at = CutPoint("relu")
        return transfer(network, draw(folder), trial=asked, cut=at, computation=computation)

    return run


@pytest.mark.parametrize(
    "verb",
    [by_probe, by_rcv, by_transfer(["pretrained", "cut"]), by_transfer(["scratch"])],
    ids=["probe", "rcv", "transfer", "transfer of random weights"],
)
def test_every_verb_that_computes_in_int8_is_refused_if_it_moves_r2(
    network, verb, tmp_path, monkeypatch
):
    in_int8 = Computation(precision="int8", engine="openvino", batch_size=8)
    monkeypatch.setattr(controls, "MOST_MOVED", 0.0)
    with pytest.raises(ModelError, match=r"^int8 moved R² at '\w+' of .* 0 is allowed\."):
        verb(network, tmp_path / "refused", in_int8)
    monkeypatch.setattr(controls, "MOST_MOVED", 10.0)
    found = verb(network, tmp_path / "accepted", in_int8)
    moved = abs(found.provenance["computed"]["int8_moved"])
    assert "check of int8" in found.provenance["stages"]
    assert any(f"R² changed by at most {moved:.3f}" in line for line in found.notes())
    exact = Computation(precision="float32", batch_size=8)
    unchecked = verb(network, tmp_path / "exact", exact)
    assert "check of int8" not in unchecked.provenance["stages"]
    assert not any("R² changed" in line for line in unchecked.notes())


def by_training(network, folder, computation):
    asked, at = Trial(methods=["cut"], seeds=1, mode="finetune"), CutPoint("relu")
    return transfer(network, draw(folder), trial=asked, cut=at, computation=computation)


@pytest.mark.parametrize(
    "verb",
    [
        lambda network, folder, asked: probe_noise(network, computation=asked),
        lambda network, folder, asked: probe_scenes(network, computation=asked),
        lambda network, folder, asked: invariance(network, discs(24), computation=asked),
        by_training,
    ],
    ids=["noise", "scenes", "invariance", "transfer"],
)
def test_what_never_computes_in_int8_refuses_it_without_naming_an_engine(network, verb, tmp_path):
    """These refuse --engine openvino, so it is no remedy."""
    with pytest.raises(ModelError) as error:
        verb(network, tmp_path / "patches", Computation(precision="int8"))
    assert str(error.value) == (
        "Only frozen features of images at the input size are computed in int8. Give --precision "
        "bfloat16 or float32."
    )


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


def test_an_image_that_cannot_be_decoded_gives_no_range(network, tmp_path):
    images = list(discs(10).images)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more of it")
    found = extracted(network, [Image("broken", broken), *images], precision="int8")
    assert found.is_read.tolist() == [False, *[True] * 10]


# --- what goes together --------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine without a GPU, with or without bfloat16 and OpenVINO."""
    find = importlib.util.find_spec

    def with_(bfloat16=True, openvino=True, nncf=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        has = ("AVX2", "BF16", "AMX") if bfloat16 else ()
        monkeypatch.setattr(backends, "instructions", lambda: has)
        monkeypatch.setitem(sys.modules, "openvino", sys if openvino else None)
        there = {"openvino": openvino, "nncf": nncf}
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: (
                (find("json") if there[name] else None) if name in there else find(name, *rest)
            ),
        )

    return with_


CHOSEN = [  # what is not as usual, what is asked for, what is chosen
    ({}, ("torch", "auto"), Backend("torch", "bfloat16", "cpu")),
    ({}, ("auto", "auto"), Backend("openvino", "bfloat16", "cpu")),
    ({}, ("auto", "float32"), Backend("openvino", "float32", "cpu")),
    ({}, ("openvino", "auto"), Backend("openvino", "bfloat16", "cpu")),
    ({}, ("openvino", "int8"), Backend("openvino", "int8", "cpu")),
    ({"bfloat16": False}, ("auto", "auto"), Backend("openvino", "float32", "cpu")),
    ({"bfloat16": False}, ("auto", "bfloat16"), Backend("torch", "bfloat16", "cpu")),
    ({"bfloat16": False}, ("openvino", "auto"), Backend("openvino", "float32", "cpu")),
    ({"bfloat16": False}, ("auto", "int8"), Backend("openvino", "int8", "cpu")),
    ({"openvino": False}, ("auto", "auto"), Backend("torch", "bfloat16", "cpu")),
]


def test_auto_is_what_the_machine_can_do_and_never_int8(machine, monkeypatch):
    for unusual, asked, way in CHOSEN:
        machine(**unusual)
        found = resolved_backend(*asked, "auto")
        assert replace(found, why="") == way, (unusual, asked)
        assert bool(found.why) == (asked[0] == "auto")
    machine()
    small, large = nn.Linear(10, 10), nn.Linear(1000, 1000)
    assert [resolved_backend("auto", "auto", "cpu", each).engine for each in (small, large)] == [
        "torch", "openvino"
    ]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = resolved_backend("auto", "float32", "auto")
    assert found == Backend("torch", "float32", "cuda", "the device is cuda")


class Data(nn.Module):
    """What torch.export refuses: the path depends on the values."""

    def __init__(self):
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x):
        x = self.conv(x)
        return self.classes(x.mean((2, 3)) if x.mean() > -1e9 else x.amax((2, 3)))


def test_auto_takes_pytorch_where_openvino_fails_and_says_why_without_trying_again(
    monkeypatch, conversions
):
    monkeypatch.setattr(backends, "FEW_PARAMETERS", 0)
    network, images = load_network(Data(), preprocessing=SMALL), discs(6).images
    found = extracted(network, images, engine="auto")
    assert found.engine == "torch"
    assert found.why.startswith("OpenVINO cannot convert this network (")
    assert_same(found.matrices, by_pytorch(network, images).matrices)
    extracted(network, discs(9).images, engine="auto")  # three are new
    assert len(conversions) == 1


def test_auto_is_openvino_where_it_can_convert_and_keeps_one_engine(monkeypatch):
    monkeypatch.setattr(backends, "FEW_PARAMETERS", 0)
    network, images = network_of("joined"), discs(6).images
    found = extracted(network, images, engine="auto")
    assert (found.engine, found.why) == ("openvino", "faster on this processor")
    assert extracted(network, images).n_computed == 0


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet10t", "random"),
        ("vit_tiny_patch16_224?img_size=96", "random"),
        ("tf_efficientnet_lite0", "pretrained"),
    ],
)
def test_curves_of_both_engines_agree(name, weights):
    network = load_network(name, weights=weights)
    few = Fitting(controls=["none"], repeats=3, permutations=0, regressor=["ridge"])
    expected, found = (
        probe(
            network,
            discs(60),
            computation=Computation(engine=engine, precision="float32", input_size=96),
            fitting=few,
        ).scores()
        for engine in ("torch", "openvino")
    )
    assert expected.r2.max() > 0.5
    assert list(found.layer) == list(expected.layer)
    assert (found.r2 - expected.r2).abs().max() <= 0.001


NO_INT8 = (
    "PyTorch does not compute in int8 here. Give --engine openvino, or --precision bfloat16 or "
    "float32."
)
MESSAGES = [
    ({}, ("onnx", "auto", "auto"), "No engine is named 'onnx'. Give torch, openvino or auto."),
    (
        {},
        ("openvino", "int4", "auto"),
        "No precision is named 'int4'. Give auto, float32 or bfloat16.",
    ),
    ({}, ("torch", "int8", "auto"), NO_INT8),
    (
        {},
        ("openvino", "auto", "cuda:0"),
        "OpenVINO computes on the processor, not on 'cuda:0'. Give --device cpu, or --engine "
        "torch.",
    ),
    (
        {"bfloat16": False},
        ("openvino", "bfloat16", "cpu"),
        "This processor does not compute in bfloat16, and OpenVINO would use float32 instead. Give "
        "--precision float32 or int8.",
    ),
    (
        {"openvino": False},
        ("openvino", "float32", "cpu"),
        "The engine openvino is not installed. Give --engine torch, or install it: pip install "
        "openvino.",
    ),
    ({"openvino": False}, ("auto", "int8", "cpu"), NO_INT8),
    *(
        (
            {"nncf": False},
            (engine, "int8", "cpu"),
            "int8 needs NNCF, which is not installed. Give --precision float32, or install it: pip "
            "install 'scalecut[fast]'.",
        )
        for engine in ("openvino", "auto")
    ),
]


def test_what_does_not_go_together_is_refused(machine):
    for unusual, asked, message in MESSAGES:
        machine(**unusual)
        with pytest.raises(ModelError) as error:
            resolved_backend(*asked)
        assert str(error.value) == message


def test_instructions_follow_the_variable_of_onednn(monkeypatch):
    has = {"avx2": True, "avx512_bw": True, "avx512_vnni": True, "avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    seen = {}
    for asked in ("", "AVX2", "avx512_core_vnni", "ALL"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", asked)
        seen[asked] = (" ".join(processor.instructions()), processor.weight_bits())
    everything = ("AVX2 AVX512 VNNI BF16", 8)
    assert seen == {
        "": everything,
        "AVX2": ("AVX2", 7),
        "avx512_core_vnni": ("AVX2 AVX512 VNNI", 8),
        "ALL": everything,
    }
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # a processor of another kind
    assert (processor.instructions(), processor.weight_bits()) == ((), 7)
