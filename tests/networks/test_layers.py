"""The points are compared with lists written from the architectures, counts with published ones."""

import copy
from collections.abc import Sequence
from functools import cache

import pytest
import timm
import torch
from torch import nn

from scalecut.cut.network import cut_after
from scalecut.errors import LayerError
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.layers import probe_points, select_layers
from scalecut.networks.load import load_network
from scalecut.networks.selection import every_point

TAIL = ["pooled", "logits", "softmax"]
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def staged(pattern, depths, first=0):
    """Names of the blocks of stages that are `depths` deep."""
    return [
        pattern.format(stage, block)
        for stage, depth in enumerate(depths, start=first)
        for block in range(depth)
    ]


def vgg_activations():
    """Places in `features`: convolution, norm and ReLU for a number, a pooling for an M."""
    place, names = 0, []
    for layer in VGG16:
        if layer != "M":
            names.append(f"features.{place + 2}")
        place += 1 if layer == "M" else 3
    return names


RESNET50 = staged("layer{}.{}", (3, 4, 6, 3), first=1)
INCEPTION = [
    f"Mixed_{name}" for name in ("5b", "5c", "5d", *(f"6{x}" for x in "abcde"), "7a", "7b", "7c")
]
BODIES = {
    "inception_v3": (75, INCEPTION),
    "resnet18": (64, staged("layer{}.{}", (2, 2, 2, 2), first=1)),
    "resnet50": (224, RESNET50),
    "resnet50_v1": (64, RESNET50),
    "densenet121": (
        64,
        [f"features.{kind}{i}" for i in (1, 2, 3, 4) for kind in ("denseblock", "transition")][:-1],
    ),
    "vgg16_bn": (224, [*vgg_activations(), "pre_logits"]),
    "mobilenetv3_large_100": (64, staged("blocks.{}.{}", (1, 2, 3, 4, 2, 3, 1))),
    "tf_efficientnet_lite0": (224, staged("blocks.{}.{}", (1, 2, 2, 3, 3, 4, 1))),
    "convnext_atto": (64, staged("stages.{}.blocks.{}", (2, 2, 6, 2))),
    "regnety_002": (
        64,
        [f"s{s}.b{b + 1}" for s, n in enumerate((1, 1, 4, 7), 1) for b in range(n)],
    ),
    "vit_tiny_patch16_224": (224, [f"blocks.{i}" for i in range(12)]),
    "deit_tiny_distilled_patch16_224": (224, [f"blocks.{i}" for i in range(12)]),
    "swin_tiny_patch4_window7_224": (224, staged("layers.{}.blocks.{}", (2, 2, 6, 2))),
    "repvgg_a0": (64, ["stem", *staged("stages.{}.{}", (2, 4, 14, 1))]),
    "mobilevit_xxs": (64, staged("stages.{}.{}", (1, 3, 2, 2, 2))),
    "hrnet_w18_small": (
        64,
        ["layer1.0", "stage2", "stage3", "stage4", *(f"incre_modules.{i}.0" for i in range(4))],
    ),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def resnet18():
    """With norms that scale and shift at random, so that residual sums fall on both sides of 0."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18").eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1.0, 0.2)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    return network


def built(name):
    """The architecture alone, all weights 0: drawing them takes seconds, and they play no part."""
    with torch.device("meta"):
        if name == "resnet50_v1":
            network = load_network(name, weights="random").module
        else:
            network = timm.create_model(name)
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.zero_()
    return network


@cache
def described(name):
    """Its points, and the number of its parameters."""
    network, size = built(name), BODIES[name][0]
    points = probe_points(network, torch.zeros(1, 3, size, size))[0]
    return points, sum(parameter.numel() for parameter in network.parameters())


def points_of(name):
    return described(name)[0]


def tail_of(name):
    """A distilled network has two classifiers, each with pooled features of its own."""
    return TAIL[1:] if "distilled" in name else TAIL


def body_of(name):
    return points_of(name)[: -len(tail_of(name))]


def names(points: Sequence):
    return [point.layer for point in points]


class Wrapped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


class Shared(nn.Module):
    """`twice` is executed again at the end; `between` lies in the middle, if wanted."""

    def __init__(self, has_between):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.between = nn.Conv2d(4, 4, 1) if has_between else nn.Identity()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.twice(self.between(self.twice(self.stem(x))))
        return self.fc(x.mean(dim=(2, 3)))


class Backwards(nn.Module):
    """Its layers are registered in another order than they are executed in."""

    def __init__(self):
        super().__init__()
        self.fc, self.third = nn.Linear(4, 2), nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.fc(self.third(self.second(self.first(x))).mean(dim=(2, 3)))


# --- names and order -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1)])
def test_softmax_at_the_end_of_a_network_is_not_taken_for_logits(end):
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*body, nn.Flatten(), nn.Linear(8, 5), end)
    image = torch.rand(1, 3, 16, 16)
    points = probe_points(network, image)[0]
    assert [point.layer for point in points] == ["1", "2", "pooled", "logits", "softmax"]
    with pooled_outputs(network, points) as outputs, torch.no_grad():
        network(image)
        before = network[:-1](image)
    torch.testing.assert_close(outputs["logits"], before)
    torch.testing.assert_close(outputs["softmax"], before.softmax(dim=1))


@pytest.mark.parametrize("end", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("is_convolution", [False, True])
def test_softmax_that_is_no_module_is_not_taken_for_logits(end, is_convolution):
    class Ending(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3)
            self.fc = nn.Conv2d(8, 5, 1) if is_convolution else nn.Linear(8, 5)

        def logits(self, x):
            x = self.two(self.one(x).relu()).mean((2, 3), keepdim=is_convolution)
            return self.fc(x).flatten(1)

        def forward(self, x):
            return end(self.logits(x), 1)

    network, images = Ending().eval(), torch.rand(3, 3, 16, 16)
    points = probe_points(network, images[:1])[0]
    with pooled_outputs(network, points) as outputs, torch.no_grad():
        network(images)
        expected = network.logits(images)
    torch.testing.assert_close(outputs["logits"], expected)
    torch.testing.assert_close(outputs["softmax"], expected.exp() / expected.exp().sum(1)[:, None])


DAILY = ("inception_v3", "resnet50_v1", "vit_tiny_patch16_224")  # the others are slow


def each_of(names):
    return [name if name in DAILY else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", each_of(BODIES))
def test_points_are_the_blocks_in_order_then_pooled_logits_and_softmax(name):
    points, n_parameters = described(name)
    assert names(points) == BODIES[name][1] + tail_of(name)
    depths = [point.depth for point in points]
    assert depths == pytest.approx([i / (len(depths) - 1) for i in range(len(depths))])
    assert points[-2].parameters == points[-1].parameters == n_parameters
    # HRNet's last points stand in parallel branches, each with parameters of its own.
    for what in ("macs",) if name.startswith("hrnet") else ("parameters", "macs"):
        counts = [getattr(point, what) for point in points]
        assert counts == sorted(counts) and counts[0] > 0


RESNET_CHANNELS = 3 * [256] + 4 * [512] + 6 * [1024] + 3 * [2048] + [2048, 1000, 1000]
PAPER = {  # aliases and channels of graziani2021
    "inception_v3": (
        [f"mixed{i}" for i in range(11)],
        [256] + 2 * [288] + 5 * [768] + [1280] + 2 * [2048] + [2048, 1000, 1000],
    ),
    "resnet50": ([f"add_{i}" for i in range(1, 17)], RESNET_CHANNELS),
    "resnet50_v1": ([f"add_{i}" for i in range(1, 17)], RESNET_CHANNELS),
}


@pytest.mark.parametrize("name", each_of(PAPER))
def test_aliases_and_channels_are_the_papers(name):
    aliases, channels = PAPER[name]
    points = points_of(name)
    assert [point.alias for point in points] == [*aliases, "", "pre_softmax", "softmax"]
    assert [point.channels for point in points] == channels


def test_other_blocks_have_no_alias():
    assert {point.alias for point in body_of("vit_tiny_patch16_224")} == {""}


def test_order_is_that_of_execution_not_of_registration():
    points = probe_points(Backwards(), torch.zeros(1, 3, 4, 4))[0]
    assert names(points) == ["first", "second", "third", *TAIL]


def test_a_plain_sequence_gives_its_weight_layers_with_their_norm_and_activation():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),  # 0
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),  # 2: the end of the first
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),  # 4: the second, bare
        nn.Conv2d(6, 8, 1),  # 5
        nn.ReLU(),  # 6: the end of the third
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    points = probe_points(network, torch.rand(1, 3, 16, 16))[0]
    assert names(points) == ["2", "4", "6", *TAIL]
    assert [point.channels for point in points] == [4, 6, 8, 8, 5, 5]


def test_a_wrapped_network_has_the_same_points_under_a_prefix(resnet18):
    image = torch.rand(1, 3, 64, 64)
    plain, wrapped = probe_points(resnet18, image)[0], probe_points(Wrapped(resnet18), image)[0]
    assert names(wrapped) == [f"net.{n}" for n in names(plain)[: -len(TAIL)]] + TAIL
    for one, other in zip(plain, wrapped, strict=True):
        for what in ("alias", "depth", "channels", "stride", "receptive_field", "macs"):
            assert getattr(one, what) == getattr(other, what), (one.layer, what)


def test_a_wrapped_transformer_leaves_out_its_class_token_too():
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    points = probe_points(Wrapped(plain), torch.rand(1, 3, 32, 32))[0]
    assert [point.prefix_tokens for point in points[:2]] == [1, 1]


def test_a_shared_module_counts_once_at_its_last_call():
    points = probe_points(Shared(has_between=False), torch.zeros(1, 3, 8, 8))[0]
    assert names(points) == ["stem", "twice", *TAIL]
    places = 8 * 8
    assert [point.macs for point in points[:2]] == [12 * places, (12 + 16 + 16) * places]


def test_a_shared_module_stands_where_it_is_called_last():
    points = probe_points(Shared(has_between=True), torch.zeros(1, 3, 8, 8))[0]
    assert names(points) == ["stem", "between", "twice", *TAIL]


def test_a_network_without_a_classifier_ends_in_its_pooled_features():
    network = timm.create_model("resnet18", num_classes=0)
    points = probe_points(network, torch.zeros(1, 3, 64, 64))[0]
    assert names(points) == [*BODIES["resnet18"][1], "pooled"]
    assert points[-1].channels == 512


def test_any_module_can_be_read_besides_by_its_exact_name(resnet18):
    asked = ["layer2.0.conv1", "maxpool"]
    points = probe_points(resnet18, torch.rand(1, 3, 64, 64), also=asked)[0]
    body = list(BODIES["resnet18"][1])
    body.insert(body.index("layer2.0"), "layer2.0.conv1")
    assert names(points) == ["maxpool", *body, *TAIL]
    added = [point for point in points if point.layer in asked]
    assert [(p.channels, p.stride, p.receptive_field) for p in added] == [(64, 4, 11), (128, 8, 51)]


# --- what a point says ---------------------------------------------------------------------------


STRIDES = {
    "inception_v3": 3 * [8] + 5 * [16] + 3 * [32],
    "resnet50": 3 * [4] + 4 * [8] + 6 * [16] + 3 * [32],
    "resnet50_v1": 3 * [4] + 4 * [8] + 6 * [16] + 3 * [32],
    "tf_efficientnet_lite0": [2] + 2 * [4] + 2 * [8] + 3 * [16] + 3 * [16] + 4 * [32] + [32],
    "vit_tiny_patch16_224": 12 * [16],
    "deit_tiny_distilled_patch16_224": 12 * [16],
    "swin_tiny_patch4_window7_224": 2 * [4] + 2 * [8] + 6 * [16] + 2 * [32],
}


@pytest.mark.parametrize("name", each_of(STRIDES))
def test_strides_are_those_of_the_stages(name):
    assert [point.stride for point in body_of(name)] == STRIDES[name]


TOKENS = {  # axis of the channels, tokens that are no patches
    "resnet50_v1": (1, 0),
    "vit_tiny_patch16_224": (-1, 1),
    "deit_tiny_distilled_patch16_224": (-1, 2),
    "swin_tiny_patch4_window7_224": (-1, 0),
}


@pytest.mark.parametrize("name", each_of(TOKENS))
def test_tokens_that_are_no_patches_are_counted_by_architecture(name):
    assert {(p.channel_axis, p.prefix_tokens) for p in body_of(name)} == {TOKENS[name]}


@pytest.mark.parametrize(
    ("name", "layer", "pixels"),
    [
        pytest.param("vgg16_bn", "features.42", 196, marks=pytest.mark.slow),  # conv5_3
        ("resnet50_v1", "layer4.2", 483),
        ("inception_v3", "Mixed_7c", 1311),
    ],
)
def test_receptive_fields_are_those_of_araujo2019(name, layer, pixels):
    assert select_layers(points_of(name), [layer])[0].receptive_field == pixels


def test_receptive_field_is_what_a_gradient_reaches():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.AvgPool2d(3, stride=2),
        nn.Conv2d(4, 4, 5, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1),
    )
    image = torch.rand(1, 3, 97, 97, requires_grad=True)
    value = image
    points = {point.layer: point for point in probe_points(network, image.detach())[0]}
    for name, layer in network.named_children():
        value = layer(value)
        if name in points:
            middle = value.shape[-1] // 2
            gradient = torch.autograd.grad(value[0, 0, middle, middle], image, retain_graph=True)[0]
            reached = gradient[0].abs().sum(dim=0).nonzero()
            sides = reached.max(dim=0).values - reached.min(dim=0).values + 1
            assert sides.tolist() == 2 * [points[name].receptive_field], name
    assert points.keys() == {"0", "2", "3"}


@pytest.mark.parametrize("name", each_of(["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]))
def test_attention_has_no_receptive_field(name):
    assert {point.receptive_field for point in points_of(name)} == {None}


@pytest.mark.slow
def test_squeeze_and_excitation_ends_the_receptive_field():
    fields = [point.receptive_field for point in body_of("mobilenetv3_large_100")]
    assert fields[:3] == [7, 11, 19]  # stages 0 and 1 have none of it
    assert set(fields[3:]) == {None}


def test_parameters_of_a_residual_sum_are_those_of_all_blocks_up_to_it(resnet18):
    points, seen = probe_points(resnet18, torch.rand(1, 3, 64, 64))[0], ["conv1.", "bn1."]
    for point in points[:8]:
        seen.append(f"{point.layer}.")
        by_hand = sum(
            p.numel() for name, p in resnet18.named_parameters() if name.startswith(tuple(seen))
        )
        assert point.parameters == by_hand


PUBLISHED = {  # multiply-accumulates: torchvision's model table, timm's benchmarks
    "resnet50": (0.97 * 4.09e9, 1.03 * 4.09e9),
    "vgg16_bn": (0.97 * 15.5e9, 1.03 * 15.5e9),
    "vit_tiny_patch16_224": (0.97 * 1.26e9, 1.03 * 1.26e9),
    "tf_efficientnet_lite0": (0.385e9, 0.41e9),  # 407 M with the bias and ReLU6 of its authors
}


@pytest.mark.parametrize("name", each_of(PUBLISHED))
def test_macs_at_the_logits_are_as_published(name):
    low, high = PUBLISHED[name]
    assert low <= select_layers(points_of(name), ["logits"])[0].macs <= high


def test_macs_of_convolutions_are_their_sizes_multiplied():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 5, stride=2), nn.Flatten())
    network.append(nn.Linear(6 * 5 * 5, 7))
    points = probe_points(network, torch.rand(1, 3, 16, 16))[0]
    first, second, last = 14 * 14 * 4 * 3 * 9, 5 * 5 * 6 * 4 * 25, 150 * 7
    by_hand = {"0": first, "1": first + second, "logits": first + second + last}
    assert {p.layer: p.macs for p in points if p.layer in by_hand} == by_hand


# --- the sum before the ReLU ---------------------------------------------------------------------


def pooled_at(network, points, image):
    with pooled_outputs(network, points) as outputs, torch.no_grad():
        network(image)
    return outputs


def test_a_residual_sum_is_read_before_the_relu(resnet18):
    image = torch.rand(2, 3, 64, 64)
    points = probe_points(resnet18, image[:1])[0]
    with torch.no_grad():
        x = resnet18.maxpool(torch.relu(resnet18.bn1(resnet18.conv1(image))))
        block = resnet18.layer1[0]
        inner = torch.relu(block.bn1(block.conv1(x)))
        total = x + block.bn2(block.conv2(inner))
    assert (total < 0).any()
    found = pooled_at(resnet18, points, image)["layer1.0"]
    torch.testing.assert_close(found, total.mean(dim=(2, 3)))
    assert not torch.allclose(found, torch.relu(total).mean(dim=(2, 3)))


def test_in_place_activations_do_not_spoil_what_is_read(resnet18):
    image = torch.rand(2, 3, 64, 64)
    careful = copy.deepcopy(resnet18)
    in_place = [m for m in careful.modules() if getattr(m, "inplace", False)]
    assert in_place
    for module in in_place:
        module.inplace = False
    points = probe_points(resnet18, image[:1])[0]
    assert points == probe_points(careful, image[:1])[0]
    found, expected = (pooled_at(network, points, image) for network in (resnet18, careful))
    for point in points:
        assert torch.equal(found[point.layer], expected[point.layer]), point.layer


# --- the network is left as it was found ---------------------------------------------------------


def left_as(network):
    """All that watching could change: hooks, modes, what is trained, and every byte."""
    everywhere = torch.nn.modules.module
    return {
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in network.modules()
        ],
        "global hooks": (
            len(everywhere._global_forward_hooks),
            len(everywhere._global_forward_pre_hooks),
        ),
        "training": [m.training for m in network.modules()],
        "requires_grad": [p.requires_grad for p in network.parameters()],
        "grad": [p.grad for p in network.parameters()],
        "bytes": [t.numpy(force=True).tobytes() for t in network.state_dict().values()],
    }


def in_mixed_modes(network):
    network.train()
    network.layer1.eval()
    for parameter in network.layer2.parameters():
        parameter.requires_grad_(False)
    return left_as(network)


def test_the_network_is_left_as_it_was_found_after_an_error_too(resnet18):
    before = in_mixed_modes(resnet18)
    assert set(before["training"]) == set(before["requires_grad"]) == {True, False}
    probe_points(resnet18, torch.rand(1, 3, 64, 64))[0]
    assert left_as(resnet18) == before
    with pytest.raises(RuntimeError):
        probe_points(resnet18, torch.rand(1, 7, 64, 64))[0]
    assert left_as(resnet18) == before


def test_the_image_is_not_written_to(resnet18):
    image = torch.rand(1, 3, 64, 64)
    before = image.clone()
    probe_points(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)), image.sub_(0.5))[0]
    assert torch.equal(image, before - 0.5) and not image.requires_grad


# --- selecting -----------------------------------------------------------------------------------


SELECTED = {
    ("Mixed_6a",): ["Mixed_6a"],
    ("mixed3",): ["Mixed_6a"],
    ("pre_softmax",): ["logits"],
    ("Mixed_7*",): ["Mixed_7a", "Mixed_7b", "Mixed_7c"],
    ("mixed1*",): ["Mixed_5c", "Mixed_7c"],  # mixed1 and mixed10
    ("softmax", "mixed8", "Mixed_5b"): ["Mixed_5b", "Mixed_7a", "softmax"],
    ("mixed0", "Mixed_5b", "Mixed_5?"): ["Mixed_5b", "Mixed_5c", "Mixed_5d"],
    ("*",): INCEPTION + TAIL,
    (): [],
}


def test_layers_are_selected_by_name_alias_or_glob_in_order_of_execution():
    for patterns, chosen in SELECTED.items():
        assert names(select_layers(points_of("inception_v3"), patterns)) == chosen, patterns


MESSAGES = [
    (
        lambda: select_layers(points_of("inception_v3"), ["mixed0", "mixd10"]),
        "No layer is named 'mixd10'. Near it: mixed10, mixed1, mixed0; `scalecut layers MODEL` "
        "prints all 14.",
    ),
    (
        lambda: select_layers(points_of("vit_tiny_patch16_224"), ["~~~"]),
        "No layer is named '~~~'. Near it: blocks.0, blocks.1, blocks.2; `scalecut layers MODEL` "
        "prints all 15.",
    ),
    (
        lambda: probe_points(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), torch.zeros(1, 3, 8, 8))[0],
        "Sequential executes no layer with weights, so nothing can be probed. Give a network with "
        "convolutions or linear layers.",
    ),
]


def test_messages_say_what_was_given_and_what_to_do():
    for action, message in MESSAGES:
        with pytest.raises(LayerError) as error:
            action()
        assert str(error.value) == message


# --- modules inside blocks -----------------------------------------------------------------------


def test_modules_inside_blocks_are_points_on_request(resnet18):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    points = probe_points(vit, torch.rand(1, 3, 32, 32), inside=True)[0]
    inside = [f"blocks.{i}{end}" for i in (0, 1) for end in (".norm2", ".mlp.act", "")]
    assert names(points) == [*inside, *TAIL]
    assert [point.channels for point in points[:6]] == [192, 768, 192] * 2
    image = torch.rand(2, 3, 32, 32)
    found = pooled_at(vit, points, image)
    with torch.no_grad():
        x = vit._pos_embed(vit.patch_embed(image))
        block = vit.blocks[0]
        x = block.norm2(x + block.attn(block.norm1(x)))
        torch.testing.assert_close(found["blocks.0.norm2"], x[:, 1:].mean(dim=1))
        x = block.mlp.act(block.mlp.fc1(x))
        torch.testing.assert_close(found["blocks.0.mlp.act"], x[:, 1:].mean(dim=1))
    points = probe_points(resnet18, torch.rand(1, 3, 64, 64), inside=True)[0]
    sums = staged("layer{}.{}", (2, 2, 2, 2), first=1)
    assert names(points) == [each for name in sums for each in (name, f"{name}.act2")] + TAIL
    image = torch.rand(2, 3, 64, 64)
    found = pooled_at(resnet18, points, image)
    assert (found["layer1.0.act2"] >= found["layer1.0"]).all()
    assert (found["layer1.0.act2"] > found["layer1.0"]).any()


@pytest.mark.long
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "crossvit_9_240"])
def test_pooled_features_of_several_classifiers_are_those_that_timm_gives(name):
    network = load_network(name, weights="random")
    expected = timm.create_model(name).eval()
    expected.load_state_dict(network.module.state_dict())
    images = torch.cat([network.example(), network.example().flip(-1)])
    points, refused = every_point(network)
    pooled = next(point for point in points if point.layer == "pooled")
    assert "pooled" not in refused
    with torch.no_grad(), pooled_outputs(network.module, [pooled]) as outputs:
        logits = network.module(images)
        features = expected.forward_head(expected.forward_features(images), pre_logits=True)
        assert torch.equal(logits, expected(images))
    assert torch.equal(outputs["pooled"], features)
    with torch.no_grad():
        assert torch.equal(cut_after(network, "pooled").eval()(images), features)
