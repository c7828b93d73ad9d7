"""Costs are compared with numbers calculated by hand; changed cuts are refused."""

import copy
from collections import OrderedDict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from scalecut.cut.network import cut_after, rebuilt
from scalecut.cut.verify import Costs, Verification, verify_cut
from scalecut.errors import DataError, LayerError
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import chosen_points

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Preprocessing(height=16, width=16)
FAST = {"pairs": 1, "batch_size": 2}


class Block(nn.Module):
    """Two convolutions, a sum, and an in-place ReLU."""

    def __init__(self, n):
        super().__init__()
        self.first = nn.Conv2d(n, n, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(n)
        self.second = nn.Conv2d(n, n, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(x + self.second(self.norm(self.first(x))))


class Attentive(nn.Module):
    """Patches through PyTorch's own attention, whose kernels are fused without gradients."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)]
        )
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean(dim=1))


class Tied(nn.Module):
    """Three convolutions, two with shared weights, followed by code that is no module."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1, bias=False)
        self.two = nn.Conv2d(4, 4, 1, bias=False)
        self.three = nn.Conv2d(4, 4, 1, bias=False)
        self.three.weight = self.two.weight
        self.fc = nn.Linear(4 * 16 * 16, 2, bias=False)

    def forward(self, x):
        x = self.three(self.two(self.one(x)).relu()).relu()
        return self.fc(torch.flatten(x, 1))


class Frozen(nn.Module):
    """No gradient reaches the first of three layers."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)
        self.two = nn.Conv2d(4, 4, 1)
        self.three = nn.Conv2d(4, 5, 1)

    def forward(self, x):
        return self.three(self.two(self.one(x).detach())).mean(dim=(2, 3))


def network_of(module):
    return load_network(module, preprocessing=SMALL)


def plain():
    layers = [
        ("one", nn.Conv2d(3, 4, 3, padding=1)),
        ("relu", nn.ReLU(inplace=True)),
        ("two", nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)),
        ("norm", nn.BatchNorm2d(6)),
        ("three", nn.Conv2d(6, 8, 1)),
        ("mean", nn.AdaptiveAvgPool2d(1)),
        ("flat", nn.Flatten()),
        ("fc", nn.Linear(8, 5)),
    ]
    return network_of(nn.Sequential(OrderedDict(layers)))


def residual():
    return network_of(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), Block(4), Block(4), Block(4), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(4, 2),
        )
    )  # fmt: skip


def transformer():
    return network_of(
        VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3
        )
    )


BUILT = {
    "plain": (plain, "norm"),
    "residual": (residual, "2"),
    "transformer": (transformer, "blocks.0"),
    "attention of PyTorch": (lambda: network_of(Attentive()), "layers.0"),
    "tied": (lambda: network_of(Tied()), "three"),
}


@cache
def verified(name):
    """One of `BUILT`: the cut and its verification, which no test changes."""
    torch.manual_seed(0)
    build, layer = BUILT[name]
    whole = build()
    cut = cut_after(whole, layer)
    return cut, verify_cut(whole, cut, **FAST)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def network():
    return plain()


def verification(**changed):
    """Round numbers, not measured."""
    found = Verification(
        model="whole",
        layer="mixed8",
        way="passed on",
        n_images=4,
        largest_difference=0.0,
        features_scale=2.4,
        whole=Costs(4_700_000, 100, 385_000_000, 0.040, 32_000_000),
        cut=Costs(3_100_000, 50, 312_000_000, 0.031, 25_000_000),
        seconds_ratio=0.78,
        n_pairs=5,
        batch_size=4,
        unreached=(),
    )
    return replace(found, **changed)


# --- the same features ---------------------------------------------------------------------------


def test_cut_gives_the_features_of_the_whole_network_bit_by_bit():
    for name in BUILT:
        cut, found = verified(name)
        assert found.largest_difference == 0.0 < found.features_scale
        assert found.n_images == 4
        assert found.unreached == ()
        assert not found.saves_nothing
        assert min(found.whole.seconds, found.cut.seconds, found.seconds_ratio) > 0
        if name in ("plain", "residual", "transformer"):
            assert (found.cut.parameters, found.cut.macs) == (cut.point.parameters, cut.point.macs)


def test_scale_is_the_largest_value_in_the_maps_of_four_noise_images(network):
    noise = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        maps = network.module[:4](SMALL.tensor(noise))
    found = verify_cut(network, cut_after(network, "two"), **FAST)
    assert found.features_scale == pytest.approx(float(maps.abs().max()), rel=1e-5)


def test_class_tokens_are_compared_where_the_cut_gives_them():
    whole = transformer()
    for pooling in ("cls", "both"):
        cut = cut_after(whole, "blocks.0", pooling=pooling)
        assert verify_cut(whole, cut, **FAST).largest_difference == 0.0
        with torch.no_grad():
            cut.body.cls_token += 1.0
        with pytest.raises(LayerError, match="gives other features than the whole network"):
            verify_cut(whole, cut, **FAST)


def test_head_is_ignored(network):
    without, with_head = (
        verify_cut(network, cut_after(network, "two", head=head), **FAST) for head in (0, 7)
    )
    assert replace(without.cut, seconds=0.0) == replace(with_head.cut, seconds=0.0)


def test_missing_weights_after_the_cut_do_not_matter(network, tmp_path):
    kept = {k: v for k, v in network.module.state_dict().items() if not k.startswith("three")}
    save_file(kept, tmp_path / "part.safetensors")
    partial = load_network(
        network.module, weights=tmp_path / "part.safetensors", allow_partial=True,
        preprocessing=SMALL,
    )  # fmt: skip
    assert partial.module.three.weight.isnan().all()
    found = verify_cut(partial, cut_after(partial, "two"), **FAST)
    assert found.largest_difference == 0.0
    assert found.whole.parameters == sum(p.numel() for p in network.module.parameters())


def changed_bias(network):
    cut = cut_after(network, "norm")
    with torch.no_grad():
        cut.body[-1].bias += 1.0  # and so every feature increases by one
    return network, cut


def narrow(network):
    other = copy.deepcopy(network)
    other.module.three = nn.Conv2d(6, 7, 1)
    other.module.fc = nn.Linear(7, 5)
    return network, cut_after(other, "three")


def not_finite(network):
    cut = cut_after(network, "two")
    with torch.no_grad():
        network.module.one.weight.fill_(float("nan"))
    return network, cut


def test_messages(network):
    scale = verify_cut(network, cut_after(network, "norm"), **FAST).features_scale
    latency = "Latency needs at least 1 pair of batches of at least 1 image, got"
    refused = [
        (
            changed_bias,
            FAST,
            LayerError,
            "Sequential cut after norm gives other features than the whole network: the largest "
            f"difference is 1.0e+00, but at most {1e-4 * scale:.1e} is allowed. Cut the network "
            "again, and save the cut before training it.",
        ),
        (
            narrow,
            FAST,
            LayerError,
            "Sequential cut after three gives a map of shape (4, 7, 8, 8), but the whole network "
            "gives (4, 8, 8, 8) there. Give the network that it was cut from.",
        ),
        (changed_bias, {"pairs": 0}, DataError, f"{latency} pairs=0 and batch_size=4."),
        (changed_bias, {"batch_size": 0}, DataError, f"{latency} pairs=5 and batch_size=0."),
        (
            not_finite,
            FAST,
            LayerError,
            "Sequential cut after two gives features that are not finite, so they cannot be "
            "compared. Cut at an earlier layer, or give complete weights.",
        ),
    ]
    for build, options, kind, text in refused:
        with pytest.raises(kind) as error:
            verify_cut(*build(network), **options)
        assert str(error.value) == text


class Turned(nn.Module):
    """Maps of 16 channels on 16 x 16 places, last or first."""

    def __init__(self, is_last):
        super().__init__()
        self.is_last = is_last
        self.blocks = nn.ModuleList(nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))
        self.turns = nn.ModuleList(nn.Identity() for _ in self.blocks)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        for block, turn in zip(self.blocks, self.turns, strict=True):
            x = turn(block(x).permute(0, 2, 3, 1)) if self.is_last else turn(block(x))
            last, x = x, x.permute(0, 3, 1, 2) if self.is_last else x
        return self.fc(last.mean(dim=(1, 2) if self.is_last else (2, 3)))


class Sequences(nn.Module):
    """Transformer layers of PyTorch as they are by default: (tokens, n, channels)."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32) for _ in range(2))
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.token.expand(-1, x.shape[1], -1), x])
        for layer in self.layers:
            x = layer(x)
        return self.fc(x[0])


class Rotary(nn.Module):
    """Keeps a buffer that is read for its type alone, and parameters of five axes."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.register_buffer("bands", torch.ones(3), persistent=False)
        self.register_buffer("kept", torch.ones(3))
        self.mix = nn.Parameter(torch.rand(1, 4, 1, 1, 1))

    def forward(self, x):
        x = x.to(self.bands.dtype)
        for number, block in enumerate(self.blocks):
            x = block(x) * self.mix[..., 0]
            if number == 2:
                x = x * self.bands.sum()
        return x.to(self.kept.device).mean(dim=(2, 3))


class Stages(nn.Module):
    """An encoder that returns the maps of all its stages, as `features_only` and decoders want."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(Block(4) for _ in range(3))
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x.clone())
        return maps


class Counting(nn.Module):
    """Refuses to run with fewer blocks than it was made with."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4, 4)))

    def forward(self, x):
        assert len(self.blocks) == 4
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x * 1)
        return maps


UNUSUAL = [(Rotary, "blocks.1"), (Stages, "stages.1"), (Counting, "blocks.2")]


@pytest.mark.parametrize(("make", "layer"), UNUSUAL)
def test_unusual_networks_are_cut_and_come_back(make, layer):
    torch.manual_seed(0)
    whole = network_of(make())
    cut = cut_after(whole, layer).eval()
    assert verify_cut(whole, cut, **FAST).largest_difference == 0
    how = {name: getattr(cut, name) for name in ("way", "entry", "pooling")}
    again = rebuilt(whole, cut.point, **how, head=0, tensors=set(cut.state_dict()))
    again.load_state_dict(cut.state_dict())
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), cut(x))


WRONG = [  # a network, one of its layers, and a deliberate mistake about the axes there
    (lambda: Turned(is_last=False), "turns.1", {"channel_axis": -1}),
    (lambda: Turned(is_last=True), "turns.1", {"channel_axis": 1}),
    (Sequences, "layers.0", {"batch_axis": 0, "channels": 16}),
    (Sequences, "layers.0", {"prefix_tokens": 0}),
    (Sequences, "layers.0", {"prefix_tokens": 2}),
    (lambda: transformer().module, "blocks.0", {"prefix_tokens": 0}),
    (lambda: transformer().module, "blocks.0", {"channel_axis": 1, "channels": 16}),
]


@pytest.mark.parametrize(("make", "layer", "mistake"), WRONG)
def test_verification_fails_where_the_axes_are_mistaken(make, layer, mistake):
    torch.manual_seed(0)
    whole = network_of(make())
    (point,), _ = chosen_points(whole, [layer])
    right = cut_after(whole, point)
    assert verify_cut(whole, right, **FAST).largest_difference == 0
    with pytest.raises((LayerError, RuntimeError, IndexError)) as error:
        verify_cut(whole, cut_after(whole, replace(point, **mistake)), **FAST)
    assert error.type is LayerError, error.value


def test_difference_in_the_last_digits_is_accepted_and_reported(network):
    cut = cut_after(network, "norm")
    with torch.no_grad():
        cut.body[-1].bias += 1e-6
    found = verify_cut(network, cut, **FAST)
    assert 0 < found.largest_difference < 3e-6
    assert found.lines()[0] == (
        f"Same features as the whole network: largest difference {found.largest_difference:.1e} "
        f"of {found.features_scale:.2g} (4 images, float32)."
    )


# --- costs ---------------------------------------------------------------------------------------


def test_costs_of_convolutions_are_those_of_the_closed_form():
    _, found = verified("plain")
    one, two, norm = 3 * 4 * 9 + 4, 4 * 6 * 9, 2 * 6
    assert found.cut.parameters == one + two + norm
    assert found.whole.parameters == one + two + norm + (6 * 8 + 8) + (8 * 5 + 5)
    assert found.cut.buffers == found.whole.buffers == 6 + 6 + 1  # mean, variance, count
    macs = 16 * 16 * 3 * 4 * 9 + 8 * 8 * 4 * 6 * 9
    assert found.cut.macs == macs
    assert found.whole.macs == macs + 8 * 8 * 6 * 8 + 8 * 5


def test_groups_and_residual_blocks_are_counted():
    _, found = verified("residual")
    block = (4 * 2 * 9 + 4) + 2 * 4 + (4 * 4 * 9 + 4)
    assert found.cut.parameters == (3 * 4 + 4) + 2 * block
    assert found.whole.parameters == (3 * 4 + 4) + 3 * block + (4 * 2 + 2)
    assert found.cut.macs == 256 * (3 * 4 + 2 * (4 * 2 * 9 + 4 * 4 * 9))


def macs_of_attention(n_tokens, width, hidden):
    """Queries, keys, values and the projection; two products of all pairs; two linear layers."""
    return n_tokens * width * (4 * width + 2 * n_tokens + 2 * hidden)


def test_attention_is_counted_in_timm_transformers():
    _, found = verified("transformer")
    stem = 16 * (3 * 4 * 4) * 16
    assert found.cut.macs == stem + macs_of_attention(17, 16, 64)
    assert found.whole.macs == stem + 2 * macs_of_attention(17, 16, 64) + 16 * 3
    block = 12 * 16 * 16 + 13 * 16  # four weights of attention, two of 4 x width; 9 + 4 vectors
    assert found.cut.parameters == (3 * 4 * 4 * 16 + 16) + 17 * 16 + 16 + block


def test_attention_is_counted_where_it_runs_fused():
    frozen = network_of(Attentive().requires_grad_(False))
    results = [
        verified("attention of PyTorch")[1],
        verify_cut(frozen, cut_after(frozen, "layers.0"), **FAST),
    ]
    stem = 16 * (3 * 4 * 4) * 16
    for found in results:
        assert found.cut.macs == stem + macs_of_attention(16, 16, 32)
        assert found.whole.macs == stem + 2 * macs_of_attention(16, 16, 32) + 16 * 3
        assert found.whole.peak_bytes > 4 * found.whole.parameters


def test_shared_weights_count_once():
    _, found = verified("tied")
    assert found.way == "stopped"
    assert found.cut.parameters == 3 * 4 + 4 * 4
    assert found.whole.parameters == 3 * 4 + 4 * 4 + 4 * 256 * 2
    assert found.cut.macs == 256 * (3 * 4 + 2 * 4 * 4)


def test_peak_memory_is_that_of_weights_and_of_two_maps_at_a_time():
    convolutions = [nn.Conv2d(a, b, 1, bias=False) for a, b in ((3, 8), (8, 2), (2, 16), (16, 2))]
    whole = network_of(nn.Sequential(*convolutions))
    found = verify_cut(whole, cut_after(whole, "1"), **FAST)
    pixels = 16 * 16
    assert found.cut.peak_bytes == 4 * (3 * 8 + 8 * 2 + pixels * (8 + 2))
    weights = 3 * 8 + 8 * 2 + 2 * 16 + 16 * 2
    assert found.whole.peak_bytes == 4 * (weights + pixels * (16 + 2))


def test_gradients_that_were_accumulated_are_no_memory_of_the_forward_pass(network):
    cut = cut_after(network, "two")
    before = verify_cut(network, cut, **FAST)
    network.module(network.example()).sum().backward()
    cut(network.example()).sum().backward()
    after = verify_cut(network, cut, **FAST)
    assert after.whole.peak_bytes == before.whole.peak_bytes
    assert after.cut.peak_bytes == before.cut.peak_bytes


def test_latency_is_the_median_of_pairs_after_one_pass_to_warm_up(network, monkeypatch):
    times = [9.0, 9.0, *(4.0, 1.0), *(2.0, 1.5), *(3.0, 3.0)]  # whole and cut in turn
    clock = iter([0.0 if start else t for t in times for start in (True, False)])
    monkeypatch.setattr("scalecut.cut.verify.time.perf_counter", lambda: next(clock))
    found = verify_cut(network, cut_after(network, "two"), pairs=3, batch_size=2)
    assert (found.whole.seconds, found.cut.seconds, found.seconds_ratio) == (3.0, 1.5, 0.75)
    assert (found.n_pairs, found.batch_size) == (3, 2)
    assert next(clock, None) is None


def test_latency_is_of_batches_as_asked_for_in_eval_mode_channels_last(network):
    seen = []

    def see(module, args):
        image, weight = args[0], module.weight
        if torch.is_inference_mode_enabled() and len(image) == 3:  # two find the order
            formats = [
                tensor.is_contiguous(memory_format=torch.channels_last)
                for tensor in (image, weight)
            ]
            seen.append((len(image), module.training, *formats))

    network.module.one.register_forward_pre_hook(see)
    network.module.train()
    verify_cut(network, cut_after(network, "two"), pairs=2, batch_size=3)
    assert seen == 2 * (1 + 2) * [(3, False, True, True)]


# --- both networks are unchanged -----------------------------------------------------------------


def hooks(module):
    return [
        hook
        for m in module.modules()
        for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_networks_are_unchanged(training):
    whole = network_of(Tied())
    cut = cut_after(whole, "two", head=3).train(training)
    whole.module.train(training)
    whole.module.one.weight.requires_grad_(False)
    cut(whole.example()).sum().backward()
    modules = (whole.module, cut)
    states = [copy.deepcopy(module.state_dict()) for module in modules]
    hooked = [hooks(module) for module in modules]
    gradient = cut.head.weight.grad.clone()
    verify_cut(whole, cut, **FAST)
    for module, state, hook in zip(modules, states, hooked, strict=True):
        assert all(each.training == training for each in module.modules())
        assert hooks(module) == hook
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert not whole.module.one.weight.requires_grad
    assert all(parameter.grad is None for parameter in whole.module.parameters())
    assert torch.equal(cut.head.weight.grad, gradient)
    assert cut.num_classes == 3


# --- sentences -----------------------------------------------------------------------------------


def test_lines_report_what_is_equal_and_what_is_saved():
    assert verification().lines() == [
        "Same features as the whole network: exactly equal (4 images, float32).",
        "Parameters 3.1 M of 4.7 M (66 %), multiply-accumulates 312 M of 385 M (81 %).",
        "78 % of its latency, 40 ms per batch of 4 (medians of 5 pairs), "
        "peak memory 25 MB of 32 MB per image.",
        "All parameters receive a gradient.",
    ]
    assert verification(largest_difference=3.14e-7).lines()[0] == (
        "Same features as the whole network: largest difference 3.1e-07 of 2.4 (4 images, float32)."
    )
    small = verification(
        whole=Costs(999_999, 0, 1_234_567_890, 2.0, 53_219_136),
        cut=Costs(48, 0, 0, 31.26e-6, 1_000),
    )
    assert small.lines()[1:3] == [
        "Parameters 48 of 1 M (0 %), multiply-accumulates 0 of 1.23 G (0 %).",
        "78 % of its latency, 2 s per batch of 4 (medians of 5 pairs), "
        "peak memory 1 kB of 53.2 MB per image.",
    ]


def test_parameters_without_a_gradient_are_named():
    whole = network_of(Frozen())
    found = verify_cut(whole, cut_after(whole, "two"), **FAST)
    assert found.unreached == ("body.one.weight", "body.one.bias")
    assert found.lines()[3] == (
        "Parameters without a gradient: 2 (body.one.weight, body.one.bias)."
    )
    assert verification(unreached=("a", "b", "c", "d", "e")).lines()[3] == (
        "Parameters without a gradient: 5 (a, b, c and 2 more)."
    )


def test_cut_that_saves_nothing_says_so():
    whole = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()))
    assert verify_cut(whole, cut_after(whole, "2"), **FAST).lines()[-1] == (
        "This cut saves nothing: it has the parameters and multiply-accumulates of the whole "
        "network. Cut at an earlier layer."
    )
    found = verification()
    assert not replace(found, cut=replace(found.cut, macs=found.whole.macs)).saves_nothing
    assert not replace(
        found, cut=replace(found.cut, parameters=found.whole.parameters)
    ).saves_nothing
    assert replace(found, cut=found.whole).saves_nothing
