"""Features are compared with plain forward passes; interrupted work with work that was not."""

import copy
import errno
import gc
import os
import re
import threading
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import timm
import torch
import torchvision
from torch import nn

from scalecut import cache
from scalecut.data.decoding import fitted
from scalecut.data.images import Image, LeftOut
from scalecut.errors import DataError, LayerError, ModelError, OutputError
from scalecut.features import backends
from scalecut.features import extract as features
from scalecut.features.backends import (
    Backend,
    resolved_device,
    resolved_precision,
    torch_vectors,
)
from scalecut.features.extract import (
    Computation,
    DecodedImages,
    Variant,
    check_finite,
    decoded,
    extract_features,
    forward,
)
from scalecut.networks import hooks as taps
from scalecut.networks.hooks import pool, pooled_outputs
from scalecut.networks.layers import probe_points, select_layers
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import computable

SMALL = Preprocessing(height=16, width=16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3))


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


def points_of(network, *patterns):
    points = probe_points(network.module, network.example())[0]
    return select_layers(points, patterns) if patterns else points


def images(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Image(f"image {i}", rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for i in range(n)
    ]


def extracted(network, pictures, points=None, *, progress=None, stage="features", **settings):
    computation = Computation(**{"precision": "float32", "batch_size": 4, **settings})
    points = points or points_of(network)
    return extract_features(network, pictures, points, computation, progress=progress, stage=stage)


def hooks(module):
    return [
        hook
        for m in module.modules()
        for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for layer in one:
        np.testing.assert_array_equal(one[layer], other[layer], err_msg=layer)


def shard_files():
    return sorted(Path(cache.folder()).rglob("*.safetensors"))


def input_of(network, pictures):
    """The batch as the network takes it, prepared picture by picture."""
    frame = network.preprocessing.frame("squash")
    way = network.preprocessing.interpolation
    arrays = [fitted(image.decode(), frame, way) for image in pictures]
    return network.preprocessing.tensor(np.stack(arrays))


# --- pooling -------------------------------------------------------------------------------------


def test_pooled_outputs_are_the_means_of_the_maps(model):
    x = torch.rand(5, 3, 8, 8)
    with pooled_outputs(model, ["0", "2"]) as outputs, torch.no_grad():
        result = model(x)
        first = model[0](x)
    by_hand = [[first[n, c].sum() / (6 * 6) for c in range(4)] for n in range(5)]
    torch.testing.assert_close(outputs["0"], torch.tensor(by_hand))
    torch.testing.assert_close(outputs["2"], result.mean(dim=(2, 3)))


def test_each_forward_pass_fills_the_outputs_anew(model):
    with pooled_outputs(model, ["2"]) as outputs, torch.no_grad():
        model(torch.rand(5, 3, 8, 8))
        before = outputs["2"]
        model(torch.rand(3, 3, 8, 8))
    assert (len(before), len(outputs["2"])) == (5, 3)


def test_outputs_carry_no_gradient(model):
    with pooled_outputs(model, ["2"]) as outputs:
        model(torch.rand(1, 3, 8, 8))
    assert not outputs["2"].requires_grad


POOLED = [  # shape, axis of the channels, prefix tokens, the mean by hand
    ((5, 3, 4, 5), 1, 0, lambda x: x.sum((2, 3)) / 20),
    ((5, 4, 5, 3), -1, 0, lambda x: x.sum((1, 2)) / 20),
    ((5, 7, 3), -1, 0, lambda x: x.sum(1) / 7),
    ((5, 7, 3), -1, 2, lambda x: sum(x[:, i] for i in range(2, 7)) / 5),
    ((5, 3), 1, 0, lambda x: x),
]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 130, 10**6])  # one image, two or six, all
def test_pooling_is_the_mean_over_places_in_float32(kind, at_once, monkeypatch):
    monkeypatch.setattr(taps, "COPIED_AT_ONCE", at_once)
    for shape, axis, prefix, by_hand in POOLED:
        x = torch.rand(shape).to(kind)
        found = pool(x, axis, prefix)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, by_hand(x.double()).float())


class Several(nn.Module):
    """Gives two maps, as the stages of HRNet do."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1, stride=2)

    def forward(self, x):
        return [self.fine(x), self.coarse(x)]


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.several, self.fc = Several(), nn.Linear(10, 3)

    def forward(self, x):
        return self.fc(torch.cat([each.mean(dim=(2, 3)) for each in self.several(x)], dim=1))


def test_lists_of_maps_are_pooled_one_by_one_and_joined():
    x, several = torch.rand(2, 3, 8, 8), Several()
    with pooled_outputs(several, [""]) as outputs, torch.no_grad():
        fine, coarse = several(x)
    by_hand = torch.cat([fine.mean(dim=(2, 3)), coarse.mean(dim=(2, 3))], dim=1)
    torch.testing.assert_close(outputs[""], by_hand)


def test_a_layer_that_gives_a_list_is_extracted():
    network = load_network(Joined(), preprocessing=SMALL)
    points = points_of(network)
    assert [(p.layer, p.channels) for p in points][:1] == [("several", 10)]
    found = extracted(network, images(3)).matrices["several"]
    with torch.no_grad():
        maps = network.module.several(input_of(network, images(3)))
    by_hand = np.hstack([each.mean(dim=(2, 3)).numpy() for each in maps])
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)


class Named(nn.Module):
    def forward(self, x):
        return {"sizes": x.long()}


def passed(network, layers, x=None):
    with pooled_outputs(network, layers), torch.no_grad():
        network(torch.rand(1, 3, 4, 4) if x is None else x)


SHAPE = (
    "A layer gave a tensor of shape {}; only maps, tokens and vectors, such as (n, c, h, w), "
    "(n, tokens, c) and (n, c), can be pooled. Probe a layer before or after it."
)
LAYER_MESSAGES = [
    (lambda: pool(torch.zeros(2, 3, 4, 5, 6), 0), SHAPE.format("(2, 3, 4, 5, 6)")),
    (lambda: pool(torch.zeros(4), 1), SHAPE.format("(4,)")),
    (
        lambda: passed(nn.Sequential(Named()), ["0"]),
        "Layer '0' gave a dict with 0 tensors of floating-point numbers, fewer than are read. "
        "Probe a layer before or after it.",
    ),
    (
        lambda: passed(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU()), ["0", "conv9"]),
        "Sequential has no layer named 'conv9'. It has 3, from '0' to '2'; `scalecut layers MODEL` "
        "prints them all.",
    ),
]


def test_layers_that_cannot_be_read_are_refused():
    for action, message in LAYER_MESSAGES:
        with pytest.raises(LayerError) as error:
            action()
        assert str(error.value) == message


# --- borrowing the network -----------------------------------------------------------------------


def test_hooks_are_gone_after_the_block_by_an_error_too(model):
    with pooled_outputs(model, ["0", "2"]):
        assert len(hooks(model)) == 2
    assert hooks(model) == []
    with pytest.raises(RuntimeError), pooled_outputs(model, ["0"]):
        model(torch.rand(5, 7, 8, 8))
    with pytest.raises(LayerError), pooled_outputs(model, ["0", "conv9"]):
        pass
    assert hooks(model) == []


def out_of_place(block, x):
    """torchvision's BasicBlock, written without `+=` and without in-place ReLU."""
    y = torch.relu(block.bn1(block.conv1(x)))
    y = block.bn2(block.conv2(y))
    return torch.relu(y + (x if block.downsample is None else block.downsample(x)))


def test_in_place_operations_do_not_write_over_what_was_read():
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None).eval()
    careful, x = copy.deepcopy(resnet), torch.rand(2, 3, 64, 64)
    careful.relu.inplace = False
    for module in careful.modules():
        if isinstance(module, torchvision.models.resnet.BasicBlock):
            module.forward = types.MethodType(out_of_place, module)
    layers = [n for n, m in resnet.named_modules() if isinstance(m, nn.BatchNorm2d | nn.Conv2d)]
    kept = {}
    for name in layers:
        keep = lambda module, args, output, name=name: kept.update({name: output})  # noqa: E731 - of one line
        careful.get_submodule(name).register_forward_hook(keep)
    with pooled_outputs(resnet, layers) as outputs, torch.no_grad():
        assert torch.equal(resnet(x), careful(x))
    for name in layers:  # pooled only now, when every in-place operation would have struck
        torch.testing.assert_close(outputs[name], kept[name].mean(dim=(2, 3)), msg=name)
    assert outputs["layer1.0.bn2"].min() < 0


def test_extracting_leaves_the_users_module_alone(network):
    before = copy.deepcopy(network.module.state_dict())
    extracted(network, images(3), precision="bfloat16")
    assert hooks(network.module) == []
    assert network.module.state_dict().keys() == before.keys()
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert network.module.two.weight.is_contiguous()  # the copy alone is channels-last

    def kill(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extracted(network, images(3), progress=kill)
    assert hooks(network.module) == []


# --- features ------------------------------------------------------------------------------------


def plainly(network, points, pictures):
    """The same features by one forward pass and one hook a point."""
    kept = {}

    def keep(point, tensor):
        kept[point.layer] = tensor.detach().clone()

    handles = []
    for point in points:
        module = network.module.get_submodule(point.module)
        if point.side == "input":
            hook = lambda m, args, point=point: keep(point, args[0])  # noqa: E731 - of one line
            handles.append(module.register_forward_pre_hook(hook))
        else:
            hook = lambda m, args, out, point=point: keep(point, out)  # noqa: E731 - of one line
            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        logits = network.module(input_of(network, pictures))
    for handle in handles:
        handle.remove()
    return kept, logits


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_features_are_those_of_a_plain_forward_pass(name):
    network = load_network(name, weights="random", preprocessing=Preprocessing(64, 64))
    points, pictures = points_of(network), images(5)
    found = extracted(network, pictures, points, batch_size=2)
    kept, logits = plainly(network, points, pictures)
    assert list(found.matrices) == [point.layer for point in points]
    for point in points[:-2]:
        output = kept[point.layer]
        by_hand = output.mean(dim=(2, 3)) if output.ndim == 4 else output
        matrix = found.matrices[point.layer]
        assert matrix.dtype == np.float32 and matrix.shape == (5, point.channels)
        np.testing.assert_allclose(matrix, by_hand, rtol=1e-5, atol=1e-5, err_msg=point.layer)
    np.testing.assert_allclose(found.matrices["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(found.matrices["softmax"], logits.softmax(dim=1), atol=1e-5)
    assert (found.precision, found.n_computed, found.left_out) == ("float32", 5, ())
    assert found.is_read.all() and found.seconds > 0


def test_tokens_that_are_no_patch_are_left_out():
    module = timm.create_model("test_vit", img_size=64)
    network = load_network(module, preprocessing=Preprocessing(64, 64))
    points, pictures = points_of(network, "blocks.*"), images(3)
    assert {point.prefix_tokens for point in points} == {1}
    found = extracted(network, pictures, points)
    kept, _ = plainly(network, points, pictures)
    for point in points:
        tokens = kept[point.layer]
        n_patches = tokens.shape[1] - 1
        assert n_patches == 4 * 4
        by_hand = sum(tokens[:, 1 + patch] for patch in range(n_patches)) / n_patches
        np.testing.assert_allclose(found.matrices[point.layer], by_hand, atol=1e-5)


class Called(nn.Module):
    """Passes its input on and remembers for how many images."""

    seen: list = []  # noqa: RUF012 - of the class, for a network is copied before it is used

    def forward(self, x):
        self.seen.append(len(x))
        return x


def test_nothing_is_computed_after_the_last_layer_that_is_read(monkeypatch):
    module = nn.Sequential(
        OrderedDict(
            [
                ("one", nn.Conv2d(3, 4, 3)),
                ("after_one", Called()),
                ("two", nn.Conv2d(4, 4, 3)),
                ("after_two", Called()),
                ("three", nn.Conv2d(4, 4, 3)),
                ("mean", nn.AdaptiveAvgPool2d(1)),
                ("flat", nn.Flatten()),
                ("fc", nn.Linear(4, 2)),
                ("after_fc", Called()),
            ]
        )
    )
    network = load_network(module, preprocessing=SMALL)
    batch = input_of(network, images(3))
    for layer, n_calls in {"one": 0, "two": 1, "three": 2, "pooled": 2, "logits": 3}.items():
        points = points_of(network, layer)
        with forward(network, points, Backend("torch", "float32", "cpu")) as pooled:
            monkeypatch.setattr(Called, "seen", [])
            (row,) = pooled(batch)
        assert Called.seen == [3] * n_calls
        found = extracted(network, images(3), points).matrices[layer]
        np.testing.assert_array_equal(row, found)


def test_a_shared_module_is_read_at_its_last_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.shared(self.shared(self.stem(x))).mean(dim=(2, 3)))

    network = load_network(Twice(), preprocessing=SMALL)
    pictures = images(2)
    with torch.no_grad():
        module = network.module
        twice = module.shared(module.shared(module.stem(input_of(network, pictures))))
    found = extracted(network, pictures, points_of(network, "shared")).matrices["shared"]
    np.testing.assert_allclose(found, twice.mean(dim=(2, 3)), atol=1e-5)


def test_an_input_that_is_given_by_keyword_is_read():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(input=self.two(self.one(x)).mean(dim=(2, 3)))

    network = load_network(Named(), preprocessing=SMALL)
    found = extracted(network, images(2)).matrices
    np.testing.assert_allclose(found["pooled"], found["two"], atol=1e-5)


def test_rows_stand_in_the_order_of_the_images(network):
    pictures = images(7)
    forwards = extracted(network, pictures, batch_size=2).matrices
    cache.clear()
    backwards = extracted(network, pictures[::-1], batch_size=2).matrices
    for layer in forwards:
        np.testing.assert_allclose(forwards[layer], backwards[layer][::-1], atol=1e-6)


def test_images_of_the_same_content_are_computed_once(network):
    a, b = images(2)
    again = Image("under another name", a.source)
    found = extracted(network, [a, b, again, b])
    assert found.n_computed == 2
    for matrix in found.matrices.values():
        np.testing.assert_array_equal(matrix[0], matrix[2])
        np.testing.assert_array_equal(matrix[1], matrix[3])
        assert not np.array_equal(matrix[0], matrix[1])


@pytest.mark.parametrize("when", ["before it is decoded", "before it is stored", "between two"])
def test_an_image_that_changes_meanwhile_is_refused_and_nothing_false_is_kept(
    network, tmp_path, monkeypatch, when
):
    pictures = [Image(f"{n}.png", tmp_path / f"{n}.png") for n in range(3)]
    for picture, content in zip(pictures, images(3), strict=True):
        PIL.Image.fromarray(content.source).save(picture.source)

    def change():
        PIL.Image.fromarray(images(1, seed=9)[0].source).save(pictures[1].source)

    decode, run = Image.decode, DecodedImages()
    if when == "between two":
        extract_features(network, pictures, points_of(network), pixels=run)
        cache.clear()
        change()
    else:

        def meanwhile(image, *given):
            if image is pictures[1] and when == "before it is decoded":
                change()
            found = decode(image, *given)
            if image is pictures[1] and when == "before it is stored":
                change()
            return found

        monkeypatch.setattr(Image, "decode", meanwhile)
    with pytest.raises(DataError, match=r"1\.png changed while the command was running"):
        extract_features(network, pictures, points_of(network), pixels=run)
    assert shard_files() == []


def test_an_image_that_is_gone_for_a_control_is_refused(network, tmp_path):
    pictures = [Image(f"{n}.png", tmp_path / f"{n}.png") for n in range(3)]
    for picture, content in zip(pictures, images(3), strict=True):
        PIL.Image.fromarray(content.source).save(picture.source)
    assert extract_features(network, pictures, points_of(network)).is_read.all()
    pictures[1].source.unlink()
    assert extract_features(network, pictures, points_of(network)).is_read.sum() == 2
    control = Variant({"control": "random"}, lambda: network)
    with pytest.raises(DataError, match=r"1\.png was read for the network, but cannot be read"):
        extract_features(network, pictures, points_of(network), variant=control)


def test_progress_counts_every_image_up_to_the_last(network):
    told = []
    extracted(network, images(10), progress=lambda *args: told.append(args), stage="random 1")
    assert told == [("random 1", n, 10) for n in (0, 4, 8, 10)]
    told.clear()
    extracted(network, images(12), progress=lambda *args: told.append(args))
    assert told[0] == ("features", 10, 12) and told[-1] == ("features", 12, 12)


def test_bfloat16_is_close_to_float32_and_a_setting_of_its_own(network):
    exact = extracted(network, images(6))
    rough = extracted(network, images(6), precision="bfloat16")
    assert (rough.precision, rough.n_computed) == ("bfloat16", 6)
    for layer, matrix in exact.matrices.items():
        assert rough.matrices[layer].dtype == np.float32
        step = np.abs(matrix).max() * 2**-7  # the last of bfloat16's eight bits
        np.testing.assert_allclose(rough.matrices[layer], matrix, atol=2 * step)
    assert not np.array_equal(rough.matrices["act"], exact.matrices["act"])


# --- images that cannot be read ------------------------------------------------------------------


def broken_png(path):
    PIL.Image.fromarray(images(1)[0].source).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return Image(path.name, path)


def test_images_that_cannot_be_read_are_left_out_and_the_others_are_as_without(network, tmp_path):
    a, b, c = images(3)
    lost, broken = Image("lost.png", tmp_path / "lost.png"), broken_png(tmp_path / "broken.png")
    alone = extracted(network, [a, b, c]).matrices
    cache.clear()
    found = extracted(network, [lost, a, broken, b, c], batch_size=2)
    assert found.is_read.tolist() == [False, True, False, True, True]
    for layer, matrix in alone.items():
        np.testing.assert_allclose(found.matrices[layer], matrix, atol=1e-6)
    assert [left.name for left in found.left_out] == ["lost.png", "broken.png"]
    first, second = (left.reason for left in found.left_out)
    assert first == "there is no such file; check its name and folder"
    assert re.fullmatch(r"it is truncated or broken \(.+\); copy the file again", second)


def test_two_copies_of_a_broken_image_are_both_left_out_with_the_reason(network, tmp_path):
    broken = broken_png(tmp_path / "broken.png")
    copied = Image("copy.png", broken.source)
    found = extracted(network, [broken, *images(2), copied])
    assert [left.name for left in found.left_out] == ["broken.png", "copy.png"]
    assert found.left_out[0].reason == found.left_out[1].reason


def test_nothing_to_read_is_refused(network, tmp_path):
    lost = [Image(name, tmp_path / name) for name in ("a.png", "b.png")]
    why = {2: "there is no such file; check its name and folder", 0: "there are none"}
    for n, reason in why.items():
        with pytest.raises(DataError) as error:
            extracted(network, lost[:n])
        assert str(error.value) == (
            f"None of {n} images could be read ({reason}). Check the folder of images."
        )


def test_batches_hold_the_images_in_their_order_and_say_what_is_bad(network, tmp_path):
    a, b, c = images(3)
    pictures = [a, broken_png(tmp_path / "x.png"), b, c]
    batches = list(decoded(pictures, [0, 1, 3, 2], network.preprocessing, batch_size=3))
    assert [numbers for numbers, _, _ in batches] == [[0, 3], [2]]
    assert [list(bad) for _, _, bad in batches] == [[1], []]
    torch.testing.assert_close(batches[0][1], input_of(network, [a, c]))
    torch.testing.assert_close(batches[1][1], input_of(network, [b]))


# --- the cache -----------------------------------------------------------------------------------


def test_items_are_made_in_their_order_and_never_more_than_one_ahead():
    made, closed = [], []

    def items():
        try:
            for number in range(5):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    for used, item in enumerate(features.one_ahead(items())):
        assert item == used
        assert len(made) <= used + 2
    assert made == [0, 1, 2, 3, 4]
    for item in features.one_ahead(items()):
        if item == 1:
            break
    gc.collect()
    assert made[5:] in ([0, 1], [0, 1, 2])
    assert closed == [True, True]


def test_an_item_is_made_while_the_one_before_it_is_used():
    is_begun = threading.Event()

    def items():
        yield "first"
        is_begun.set()
        yield "second"

    found = features.one_ahead(items())
    assert next(found) == "first"
    assert is_begun.wait(60)  # before it is asked for
    assert list(found) == ["second"]


def test_an_error_of_an_item_is_raised_where_it_would_be_used():
    def items():
        yield "fine"
        raise DataError("broken")

    found = features.one_ahead(items())
    assert next(found) == "fine"
    with pytest.raises(DataError, match="broken"):
        next(found)


def test_a_second_run_computes_nothing(network):
    first, second = (extracted(network, images(6)) for _ in range(2))
    assert (first.n_computed, second.n_computed) == (6, 0)
    assert_same(first.matrices, second.matrices)


def test_the_name_and_place_of_an_image_do_not_count(network, tmp_path):
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(images(1)[0].source).save(tmp_path / name)
    extracted(network, [Image("a", tmp_path / "a.png")])
    assert extracted(network, [Image("b", tmp_path / "b.png")]).n_computed == 0


def test_a_changed_image_alone_is_computed_again(network, tmp_path):
    pictures = []
    for number, image in enumerate(images(5)):
        PIL.Image.fromarray(image.source).save(tmp_path / f"{number}.png")
        pictures.append(Image(str(number), tmp_path / f"{number}.png"))
    before = extracted(network, pictures)
    PIL.Image.fromarray(images(1, seed=9)[0].source).save(tmp_path / "2.png")
    after = extracted(network, pictures)
    assert after.n_computed == 1
    for layer, matrix in after.matrices.items():
        changed = (matrix != before.matrices[layer]).any(axis=1)
        assert changed.tolist() == [False, False, True, False, False]


def nudged(network):
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        module.three.bias[0] += 1e-4
    return module


def with_other_code(network):
    """The same tensors, another activation."""
    module = copy.deepcopy(network.module)
    module.act = nn.GELU()
    return module


CHANGES = {
    "weights": lambda network: (load_network(nudged(network), preprocessing=SMALL), {}),
    "code": lambda network: (load_network(with_other_code(network), preprocessing=SMALL), {}),
    "mean": lambda network: (network, {"mean": (0.5, 0.5, 0.4)}),
    "interpolation": lambda network: (network, {"interpolation": "bicubic"}),
    "precision": lambda network: (network, {"precision": "bfloat16"}),
    "fit": lambda network: (network, {"fit": "crop"}),
}


def test_another_setting_computes_everything_again(network):
    pictures = images(3)
    before = extracted(network, pictures).matrices
    for what, changed in CHANGES.items():
        other, settings = changed(network)
        other = Computation(**settings).shown(other)
        after = extracted(other, pictures, **settings)
        assert after.n_computed == 3, what
        assert not np.array_equal(after.matrices["logits"], before["logits"]), what
        again = extracted(network, pictures)
        assert again.n_computed == 0, what
        assert_same(again.matrices, before)


def test_batch_size_and_name_of_the_network_are_no_setting(network):
    extracted(network, images(5))
    again = load_network(copy.deepcopy(network.module), preprocessing=SMALL)
    assert extracted(again, images(5), batch_size=2).n_computed == 0


def test_fewer_layers_come_from_the_cache_and_an_added_one_is_computed(network):
    pictures = images(5)
    some, all_points = points_of(network, "relu", "logits"), points_of(network)
    extracted(network, pictures, some)
    assert extracted(network, pictures, some[1:]).n_computed == 0
    found = extracted(network, pictures, all_points)
    assert found.n_computed == 5
    assert extracted(network, pictures, all_points).n_computed == 0
    cache.clear()
    assert_same(found.matrices, extracted(network, pictures, all_points).matrices)


def killed_in_the_third_batch(*args, **kwargs):
    for number, batch in enumerate(decoded(*args, **kwargs)):
        if number == 2:
            raise KeyboardInterrupt
        yield batch


def test_a_killed_run_goes_on_where_it_was(network, tmp_path, monkeypatch):
    pictures = images(14)
    with monkeypatch.context() as patched:
        patched.setattr(features, "decoded", killed_in_the_third_batch)
        with pytest.raises(KeyboardInterrupt):
            extracted(network, pictures)
    resumed = extracted(network, pictures)
    assert resumed.n_computed == 14 - 2 * 4
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "another"))
    whole = extracted(network, pictures)
    assert whole.n_computed == 14
    assert_same(resumed.matrices, whole.matrices)


def test_a_kill_while_computing_keeps_the_batches_before(network, monkeypatch):
    calls = []

    def killed(self, x):
        if len(x) == 4:  # not the example
            calls.append(len(x))
            if len(calls) == 3:
                raise KeyboardInterrupt
        return nn.functional.silu(x)

    with monkeypatch.context() as patched:
        patched.setattr(nn.SiLU, "forward", killed)
        with pytest.raises(KeyboardInterrupt):
            extracted(network, images(14))
    assert extracted(network, images(14)).n_computed == 14 - 2 * 4


def test_a_corrupt_shard_is_dropped_and_computed_again(network):
    whole = extracted(network, images(10)).matrices
    files = shard_files()
    assert len(files) == 3
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    n_lost = [len(shard.images) for shard in cache.shards(files[0].parent.name)]
    again = extracted(network, images(10))
    assert again.n_computed == 10 - sum(n_lost) > 0
    assert_same(again.matrices, whole)
    assert files[0].read_bytes() == content  # the same rows give the same file


# --- incomplete weights --------------------------------------------------------------------------


def without(network, *missing, tmp_path):
    state = {n: t for n, t in network.module.state_dict().items() if n not in missing}
    torch.save(state, tmp_path / "partial.pth")
    return load_network(
        network.module,
        weights=tmp_path / "partial.pth",
        allow_partial=True,
        preprocessing=SMALL,
    )


def test_layers_that_depend_on_missing_tensors_are_left_out_with_the_first_cause(network, tmp_path):
    partial = without(network, "three.weight", "fc.bias", tmp_path=tmp_path)
    points = points_of(network)
    usable, left_out = computable(partial, points)
    assert [point.layer for point in usable] == ["relu", "act"]
    reason = "depends on 'three.weight', one of 2 tensors missing from the weights"
    names = ["three", "pooled", "logits (pre_softmax)", "softmax"]
    assert left_out == tuple(LeftOut(name, reason) for name in names)
    whole, rest = (extracted(n, images(3), usable).matrices for n in (network, partial))
    assert_same(whole, rest)


class Forked(nn.Module):
    """Two ways, each with a tensor of its own; registered in the order right, left."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.right, self.left = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((self.left(x) + self.right(x)).mean(dim=(2, 3)))


def test_each_layer_is_left_out_for_a_tensor_that_reaches_it(tmp_path):
    network = load_network(Forked(), preprocessing=SMALL)
    partial = without(network, "left.weight", "right.weight", tmp_path=tmp_path)
    usable, left_out = computable(partial, points_of(network))
    assert [point.layer for point in usable] == ["stem"]
    causes = [left.reason.split("'")[1] for left in left_out]
    assert causes == ["left.weight", *4 * ["right.weight"]]


def test_complete_weights_leave_nothing_out(network):
    points = points_of(network)
    assert computable(network, points) == (points, ())


# --- precision and device ------------------------------------------------------------------------


def test_precision_and_device_follow_from_what_the_machine_has(monkeypatch):
    for precision in ("float32", "bfloat16"):
        assert resolved_precision(precision, "cpu") == precision
    for found, precision in (
        (("AVX2", "AVX512", "BF16", "AMX"), "bfloat16"),
        (("AVX2", "AVX512", "BF16"), "float32"),
        (("AVX2",), "float32"),
    ):
        monkeypatch.setattr(backends, "instructions", lambda found=found: found)
        assert resolved_precision("auto", "cpu") == precision
    for has, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        assert resolved_device("auto") == device


DEVICE_MESSAGES = [
    (
        lambda: resolved_precision("float16", "cpu"),
        "No precision is named 'float16'. Give auto, float32 or bfloat16.",
    ),
    (
        lambda: resolved_device("cuda:77"),
        "The device 'cuda:77' is not available: torch finds 0 of this kind. Give --device cpu.",
    ),
    (lambda: resolved_device("gpu"), "No device is named 'gpu'. Give auto, cpu, or cuda:0."),
]


def test_unknown_precisions_and_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for action, message in DEVICE_MESSAGES:
        with pytest.raises(ModelError) as error:
            action()
        assert str(error.value) == message


def with_room_for(n, monkeypatch):
    """Every batch of more than n images is refused, as if the memory were full."""
    whole = nn.SiLU.forward

    def full(self, x):
        if len(x) > n:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, x)

    monkeypatch.setattr(nn.SiLU, "forward", full)


def test_batch_too_large_for_the_memory_by_halves_is_refused(network, monkeypatch):
    points = points_of(network)
    with_room_for(1, monkeypatch)
    said = "A batch of 2 does not fit into the memory of cpu. Give a smaller one, such as "
    with (
        pytest.raises(ModelError) as error,
        pytest.warns(UserWarning, match="Retrying with half the batch size"),
    ):
        extracted(network, images(4), points)
    assert str(error.value) == f"{said}--batch-size 1."


def test_image_too_large_for_the_memory_is_refused(network, monkeypatch):
    with_room_for(0, monkeypatch)
    vectors = torch_vectors(network.module, network.example(), "float32", "cpu")
    with pytest.raises(ModelError) as error:
        vectors(network.example())
    said = "A batch of 1 does not fit into the memory of cpu. Try --device cpu."
    assert str(error.value) == said


def test_batch_too_large_for_the_memory_is_computed_in_halves_and_said(network, monkeypatch):
    expected = extracted(network, images(4)).matrices
    cache.clear()
    with_room_for(3, monkeypatch)
    said = "A batch of 4 does not fit into the memory of cpu. Give a smaller one, such as "
    with pytest.warns(
        UserWarning, match=f"{said}--batch-size 2. Retrying with half the batch size."
    ) as found:
        matrices = extracted(network, images(4)).matrices
    assert len(found) == 1
    for layer, matrix in expected.items():
        np.testing.assert_allclose(matrices[layer], matrix, rtol=1e-5, atol=1e-6)


# --- where features are kept ---------------------------------------------------------------------


def odd_images(tmp_path):
    """Twelve images, of which the third cannot be decoded and the last is the first again."""
    found = images(12)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    return [*found[:2], Image("broken.jpg", broken), *found[3:11], Image("again", found[0].source)]


def test_large_matrices_lie_on_disk_and_hold_the_same(network, monkeypatch, tmp_path):
    some = odd_images(tmp_path)
    expected = extracted(network, some)
    cache.clear()
    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    monkeypatch.setattr(features, "ROWS_MOVED", 4)
    for _ in range(2):  # computed, then from the cache
        found = extracted(network, some)
        assert np.array_equal(found.is_read, expected.is_read)
        assert [each.name for each in found.left_out] == ["broken.jpg"]
        for layer, matrix in expected.matrices.items():
            assert isinstance(found.matrices[layer], np.memmap)
            assert np.array_equal(found.matrices[layer], matrix)
            assert np.array_equal(matrix[0], matrix[-1])  # the same picture
    found, expected = None, None
    gc.collect()
    assert [path for path in cache.folder().iterdir() if path.is_file()] == []


def test_half_precision_takes_half_the_disk_and_keeps_three_digits(network, tmp_path):
    some = odd_images(tmp_path)
    whole = extracted(network, some)
    _, bytes_of_whole = cache.summary()
    cache.clear()
    half = extracted(network, some, half=True)
    saved = bytes_of_whole - cache.summary()[1]
    n_values = sum(matrix[0].size for matrix in whole.matrices.values()) * whole.n_computed
    assert saved == pytest.approx(2 * n_values, rel=0.1)  # offsets are shorter words, too
    for layer, matrix in whole.matrices.items():
        assert half.matrices[layer].dtype == np.float16
        np.testing.assert_allclose(half.matrices[layer], matrix, rtol=1e-3, atol=1e-6)
    assert extracted(network, some, half=True).n_computed == 0
    assert extracted(network, some).n_computed > 0  # digits that are lost do not come back


def test_value_beyond_half_precision_is_not_taken_for_a_feature(network):
    with torch.no_grad():
        network.module.three.bias[0] = 1e5
    found = extracted(network, images(4), half=True)
    with pytest.raises(LayerError, match=r"Try --precision float32 and no --half, or choose"):
        check_finite(network, found.matrices)


def test_disk_without_room_for_the_features_is_said(network, monkeypatch):
    def full(*asked):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"^The disk of the cache .* is full\. Free space, "):
        extracted(network, images(4))
