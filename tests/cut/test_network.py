"""Cut networks are compared with the whole network, bit by bit."""

import copy
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

from scalecut import CutNetwork, LayerError, ModelError, Preprocessing, cut_after, load_network
from scalecut.cut.network import rebuilt
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.selection import chosen_points
from scalecut.networks.truncation import PassOn, trial_of

SMALL = Preprocessing(height=32, width=32)


class Block(nn.Module):
    """A residual block whose sum is followed by an activation, in place."""

    def __init__(self, c):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.norm = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv2(self.norm(self.conv1(x)))
        y += x
        return self.act(y)


class Chain(nn.Module):
    """Every later module takes one map and returns one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(4)))
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        self.aside = nn.Parameter(torch.ones(7))  # never used
        self.register_buffer("also_aside", torch.ones(3))

    def forward_features(self, x):
        return self.norm(self.blocks(self.stem(x)))

    def forward(self, x):
        return self.fc(self.forward_features(x).mean((2, 3)))


class Flattening(nn.Module):
    """Code between the modules needs more than the output of a layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(4)))
        self.scale = nn.Parameter(torch.ones(8))  # used after the blocks alone
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        x = x * self.scale.view(1, -1, 1, 1)
        return self.fc(torch.flatten(x.mean((2, 3)), 1))


class Shared(nn.Module):
    """One activation is called after every layer, as in torchvision's ResNets."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        x = self.relu(self.one(x))
        x = self.relu(self.two(x))
        return self.fc(self.relu(self.three(x)).mean((2, 3)))


class Held(Flattening):
    """Its classifier is held by a module that is never called."""

    def __init__(self):
        super().__init__()
        self.ends = nn.ModuleDict({"main": nn.ModuleDict({"fc": self.fc})})
        del self.fc

    @property
    def fc(self):
        return self.ends["main"]["fc"]


class Attending(nn.Module):
    """A transformer with a class token; its attention uses tensors without calling their module."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(3)
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)
        self.num_prefix_tokens = 1

    def forward_features(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x):
        return self.head(self.forward_features(x)[:, 0])


def network_of(make, seed=0):
    torch.manual_seed(seed)
    return load_network(make(), preprocessing=SMALL)


def images(n=3, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def features_of_whole(module, point, x):
    with torch.no_grad(), pooled_outputs(module, [point]) as outputs:
        module(x)
    return outputs[point.layer]


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("make", [Chain, Flattening, Held, Attending, Shared])
def test_every_probe_point_gives_the_features_of_the_whole_network_to_the_last_bit(make):
    whole = network_of(make)
    before = copy.deepcopy(whole.module.state_dict())
    x = images()
    for point in chosen_points(whole)[0]:
        if point.layer in ("logits", "softmax"):
            continue
        cut = cut_after(whole, point)
        with torch.no_grad():
            assert torch.equal(cut(x), features_of_whole(whole.module, point, x)), point.layer
        assert numbers(cut) == point.parameters, point.layer
        assert cut.num_features == point.channels == cut(x).shape[1]
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in whole.module.state_dict().items()
    )
    assert not whole.module._forward_hooks


def test_chain_is_cut_by_passing_on_and_keeps_nothing_that_it_does_not_reach():
    cut = cut_after(network_of(Chain), "blocks.1")
    assert cut.way == "passed on"
    assert len(cut.body.blocks) == 2
    assert isinstance(cut.body.norm, PassOn)
    assert isinstance(cut.body.blocks[1].act, PassOn)  # add_k is before the activation
    assert cut.body.aside is None
    assert cut.body.also_aside is None


def test_network_with_code_between_its_modules_is_stopped():
    cut = cut_after(network_of(Flattening), "blocks.1")
    assert cut.way == "stopped"
    assert numbers(cut) == 3 * 8 * 9 + 8 + 2 * (2 * (8 * 8 * 9 + 8) + 16)
    assert cut.body.scale is None


def test_last_call_of_a_shared_module_is_where_the_network_is_cut():
    whole = network_of(Shared)
    x = images()
    expected = []
    handle = whole.module.relu.register_forward_hook(
        lambda module, args, output: expected.append(output.mean((2, 3)))
    )
    with torch.no_grad():
        whole.module(x)
    handle.remove()
    cut = cut_after(whole, "relu")
    assert torch.equal(cut(x), expected[2])
    assert torch.equal(cut(x), expected[2])  # a second time too


MEETING = threading.Barrier(2, timeout=60)


class Meeting(Shared):
    """Two threads wait for each other before the first layer."""

    meets = False

    def forward(self, x):
        if self.meets:
            MEETING.wait()
        return super().forward(x)


def test_threads_do_not_count_each_others_calls():
    cut = cut_after(network_of(Meeting), "relu").eval()
    assert (cut.way, cut.point.n_calls) == ("stopped", 3)
    several = [images(2), images(3)]
    expected = [cut(x) for x in several]
    for each in (cut, copy.deepcopy(cut), pickle.loads(pickle.dumps(cut))):
        each.body.meets = True
        with ThreadPoolExecutor(2) as workers:
            found = [*workers.map(each, several)]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Zipped(nn.Module):
    """Its code steps through two lists at once, and closes one that is not needed by name."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.downs = nn.ModuleList(nn.Conv2d(8, 8, 2, stride=2) for _ in range(3))
        self.ends = nn.ModuleDict({"norm": nn.BatchNorm2d(8), "act": nn.ReLU()})
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        for block, down in zip(self.blocks, self.downs, strict=True):
            x = down(block(x))
        for name in self.ends:
            x = self.ends[name](x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "downs.1"])
def test_lists_of_modules_stay_lists(layer):
    network, x = network_of(Zipped), images()
    (point,), _ = chosen_points(network, [layer])
    cut = cut_after(network, layer).eval()
    assert torch.equal(cut(x), features_of_whole(network.module, point, x))
    assert [*map(len, (cut.body.blocks, cut.body.downs, cut.body.ends))] == [3, 3, 2]
    n_kept = {"stem": 1, "blocks.0": 2, "downs.1": 5}[layer]
    assert sum(1 for each in cut.modules() if isinstance(each, nn.Conv2d)) == n_kept


class Twins(nn.Module):
    """One convolution is applied to an image and to its mirror image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.join = nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        both = torch.cat([self.conv(x), self.conv(x.flip(-1))], dim=1)
        return self.fc(self.join(both).mean((2, 3)))


def test_a_shared_module_that_is_called_side_by_side_is_a_branch():
    network = network_of(Twins)
    with pytest.raises(LayerError, match="conv is in one of several parallel branches"):
        cut_after(network, "conv")
    cut_after(network, "join")


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_cut_is_probed_as_it_was_cut(channels):
    own = Preprocessing(32, 40, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bicubic", 0.8, channels)
    cut = cut_after(load_network(Chain(), preprocessing=own), "blocks.2")
    again = load_network(cut)
    assert again.preprocessing == load_network(nn.Sequential(cut, nn.Linear(8, 1))).preprocessing
    assert again.preprocessing == own
    assert again.unknown == ()
    (point,), _ = chosen_points(again, ["body.blocks.0"])
    x = torch.randn(2, 3, 32, 40)
    shorter = cut_after(again, point).eval()
    assert torch.equal(shorter(x), features_of_whole(again.module, point, x))


def test_tensors_keep_their_names_also_in_sequences_of_named_modules():
    whole = load_network("densenet121", weights="random", preprocessing=Preprocessing(64, 64))
    names = {f"body.{name}" for name in whole.module.state_dict()}
    cut = cut_after(whole, "features.transition1")
    assert cut.way == "passed on"
    assert cut.state_dict().keys() < names


def test_tokens_are_pooled_as_asked():
    whole, x = network_of(Attending), images()
    mean, cls, both = (cut_after(whole, "blocks.1", pooling=p) for p in ("mean", "cls", "both"))
    tokens = mean.forward_features(x)
    assert tokens.shape == (3, 17, 8)
    assert torch.equal(mean(x), tokens[:, 1:].mean(1))
    assert torch.equal(cls(x), tokens[:, 0])
    assert torch.equal(both(x), torch.cat([cls(x), mean(x)], dim=1))
    assert both.num_features == 16


def test_head_is_one_linear_layer_on_the_features():
    cut, x = cut_after(network_of(Chain), "blocks.1", head=3), images()
    features = cut.forward_head(cut.forward_features(x), pre_logits=True)
    assert features.shape == (3, 8)
    assert torch.allclose(cut(x), features @ cut.head.weight.T + cut.head.bias, atol=1e-6)
    cut.reset_classifier(0)
    assert torch.equal(cut(x), features)
    cut.reset_classifier(4)
    assert cut.get_classifier().out_features == cut.num_classes == 4


def test_timm_reads_the_preprocessing_off_the_cut():
    own = Preprocessing(32, 48, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), interpolation="bicubic")
    torch.manual_seed(0)
    cut = cut_after(load_network(Chain(), preprocessing=own), "blocks.1")
    found = timm.data.resolve_model_data_config(cut)
    assert found["input_size"] == (3, 32, 48)
    assert (found["mean"], found["std"]) == (own.mean, own.std)
    assert (found["interpolation"], found["crop_pct"], found["crop_mode"]) == (
        "bicubic",
        1.0,
        "squash",
    )


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        ("resnet18", "layer2.0", 64),
        pytest.param("vit_tiny_patch16_224", "blocks.2", 224, marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", "blocks.3.1", 64, marks=pytest.mark.slow),
        pytest.param("convnext_atto", "stages.1.blocks.1", 64, marks=pytest.mark.slow),
    ],
)
def test_gradient_checkpointing_works_where_the_network_has_it(name, layer, side):
    whole = load_network(name, weights="random", preprocessing=Preprocessing(side, side))
    cut = cut_after(whole, layer, head=2).eval()  # batch statistics would be taken twice
    x = torch.cat([whole.example(), whole.example().flip(-1)])

    def gradients():
        cut.zero_grad()
        cut(x).square().sum().backward()
        return {name: p.grad.clone() for name, p in cut.named_parameters()}

    plain = gradients()
    cut.set_grad_checkpointing()
    assert cut.grad_checkpointing
    for each, gradient in gradients().items():
        assert torch.allclose(gradient, plain[each], rtol=1e-4, atol=1e-6), each
    cut.train()(x).sum().backward()


def test_parameters_without_weight_decay_are_those_of_the_network_that_are_left():
    cut = cut_after(load_network("vit_tiny_patch16_224", weights="random"), "blocks.2")
    assert cut.no_weight_decay() == {"body.pos_embed", "body.cls_token"}


def test_network_that_keeps_what_it_computed_is_cut():
    class Keeping(Chain):
        def forward_features(self, x):
            self.kept = self.stem(x)  # a tensor with a history cannot be copied
            return self.norm(self.blocks(self.kept))

    assert cut_after(network_of(Keeping), "blocks.1").way == "passed on"


@pytest.mark.parametrize("make", [Chain, Flattening, Attending])
def test_cut_is_trained_copied_and_rebuilt(make):
    cut, x = cut_after(network_of(make, seed=0), "blocks.1", head=2), images()
    assert torch.equal(copy.deepcopy(cut)(x), cut(x))
    assert torch.equal(pickle.loads(pickle.dumps(cut))(x), cut(x))
    again = rebuilt(
        network_of(make, seed=5), cut.point, way=cut.way, entry=cut.entry, pooling=cut.pooling,
        head=2, tensors=set(cut.state_dict()),
    )  # fmt: skip
    assert not torch.equal(again(x), cut(x))
    again.load_state_dict(cut.state_dict())
    assert torch.equal(again(x), cut(x))
    assert numbers(again) == numbers(cut)
    cut.train()
    cut(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())
    assert trial_of(cut, "forward", x).unreached == ()


def test_missing_weights_after_the_cut_do_not_matter():
    whole = network_of(Chain)
    with torch.no_grad():
        whole.module.blocks[3].conv2.weight.fill_(float("nan"))
    cut = cut_after(whole, "blocks.1")
    assert torch.isfinite(cut(images())).all()
    assert all(torch.isfinite(p).all() for p in cut.parameters())


SIDES = {
    "inception_v3": 96, "resnet50": 64, "resnet50_v1": 64, "densenet121": 64, "vgg16_bn": 64,
    "mobilenetv3_large_100": 64, "tf_efficientnet_lite0": 64, "efficientnet_b0": 64,
    "convnext_tiny": 64, "regnety_016": 64, "hrnet_w18_small": 64, "repvgg_a0": 64,
    "mobilevit_s": 64, "vit_small_patch16_224": 224, "deit3_small_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
}  # fmt: skip


DAILY = ("resnet50", "hrnet_w18_small", "vit_small_patch16_224")


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [name if name in DAILY else pytest.param(name, marks=pytest.mark.slow) for name in SIDES],
)
def test_architectures_are_cut_at_three_depths(name):
    whole = load_network(
        name, weights="random", preprocessing=Preprocessing(SIDES[name], SIDES[name])
    )
    aside = ("pooled", "logits", "softmax", "incre_modules")  # the last are HRNet's branches
    points = [p for p in chosen_points(whole)[0] if not p.layer.startswith(aside)]
    x = torch.cat([whole.example(), whole.example().flip(-1), whole.example().flip(-2)])
    other = load_network(name, weights="random", seed=7, preprocessing=whole.preprocessing)
    sizes = []
    for share in (1 / 4, 1 / 2, 3 / 4):
        point = points[int(share * len(points))]
        cut = cut_after(whole, point)
        assert isinstance(cut, CutNetwork)
        assert cut.way == ("stopped" if name.startswith("hrnet") else "passed on")
        with torch.no_grad():
            assert torch.equal(cut(x), features_of_whole(whole.module, point, x)), point.layer
        sizes.append(numbers(cut))
        assert sizes[-1] == point.parameters, point.layer
        again = rebuilt(
            other, cut.point, way=cut.way, entry=cut.entry, pooling="mean", head=0,
            tensors=set(cut.state_dict()),
        )  # fmt: skip
        again.load_state_dict(cut.state_dict())
        with torch.no_grad():
            assert torch.equal(again(x), cut(x)), point.layer
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < numbers(whole.module)


class Unused(Chain):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(3, 3)


BGR = Preprocessing(32, 32, channels="bgr")
REFUSED = [
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "blocks.1.conv1"),
        "blocks.1.conv1 is in one of several parallel branches, and the outputs of the others "
        "would be lost. Cut at blocks.1 (add_2).",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Unused), "extra"),
        "'extra' is a module of Unused, but it is not executed for an image, so it has no output. "
        "`scalecut layers MODEL` lists the layers that are executed.",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "logits"),
        "logits (pre_softmax) is the whole network, so there is nothing to cut off. Cut at an "
        "earlier layer; `scalecut layers MODEL` lists them.",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "blocks.*"),
        "'blocks.*' matches 4 layers, but a network is cut at one. Give 'blocks.0', or another of "
        "them.",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "blocks.1", pooling="cls"),
        "blocks.1 (add_2) has no class token, which pooling 'cls' needs. Give mean.",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "blocks.1", pooling="max"),
        "No pooling is named 'max'. Give mean, cls or both.",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "blocks.1", head=-1),
        "--head must be at least 0, got -1. Give 0 for no head.",
    ),
    (
        LayerError,
        lambda: cut_after(network_of(Chain), "blocks.1").set_grad_checkpointing(),
        "Chain cut after blocks.1 has no gradient checkpointing. Train with smaller batches, or "
        "cut at another layer.",
    ),
    (
        ModelError,
        lambda: timm.data.resolve_model_data_config(
            cut_after(load_network(Chain(), preprocessing=BGR), "blocks.1")
        ),
        "This network takes channels in the order bgr, which timm's transforms do not support. Use "
        "scalecut.create_transform(network).",
    ),
]


def test_messages():
    for kind, refused, text in REFUSED:
        with pytest.raises(kind) as error:
            refused()
        assert str(error.value) == text


def test_unknown_layer_gets_the_nearest_names():
    with pytest.raises(LayerError, match=r"^No layer is named 'blocks.9'.*: blocks.3, blocks.2"):
        cut_after(network_of(Chain), "blocks.9")


@pytest.mark.slow
def test_branch_of_inception_is_refused_and_the_block_named_as_in_the_paper():
    small = load_network("inception_v3", weights="random", preprocessing=Preprocessing(96, 96))
    with pytest.raises(LayerError, match=re.escape("Cut at Mixed_5c (mixed1).")):
        cut_after(small, "Mixed_5c.branch1x1")
