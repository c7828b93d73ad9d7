"""Small networks whose axes and tokens are known; features are computed by hand, image by image."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from scalecut.errors import LayerError, ModelError
from scalecut.networks.hooks import pooled_outputs
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing, with_preprocessing
from scalecut.networks.selection import chosen_points, every_point

HEIGHT, WIDTH = 32, 16
Pair = namedtuple("Pair", "maps size")


@dataclass
class Output:
    weights: torch.Tensor
    maps: torch.Tensor


class Reader(nn.Module):
    """Applies a linear layer along the channels, and hands its output on in any form.

    Args:
        axis: of the channels; -1 for the last.
        form: what the output looks like, a function of the map and of tokens x tokens weights.
    """

    def __init__(self, n, form=lambda x, attention: x):
        super().__init__()
        self.fc, self.form = nn.Linear(n, n), form

    def forward(self, x):
        n = x[0, ..., 0].numel()
        attention = torch.rand(len(x), 2, n, n, generator=torch.Generator().manual_seed(0))
        return self.form(self.fc(x), attention)


class Tower(nn.Module):
    """Patches, and layers that read them.

    Args:
        n: number of channels.
        stride: side of a patch.
        turn: from the map (n, c, h, w) of the patches to what the layers take.
        first: what is found in the output of a layer.
        size: the only input size it takes, if there is one.
    """

    def __init__(self, n=8, stride=2, turn=None, layers=None, first=None, size=None):
        super().__init__()
        self.size, self.turn = size, turn or (lambda x: x.permute(0, 2, 3, 1))
        self.first = first or (lambda x: x)
        self.patches = nn.Conv2d(3, n, stride, stride)
        self.blocks = nn.ModuleList(layers or [Reader(n) for _ in range(2)])
        self.fc = nn.Linear(n, 3)

    def forward(self, x):
        if self.size is not None and x.shape[2:] != self.size:
            raise AssertionError("another size")
        x = self.turn(self.patches(x))
        for block in self.blocks:
            x = self.first(block(x))
        return self.fc(x.flatten(1, -2).mean(dim=1))


class ChannelsFirst(nn.Module):
    """Convolutions, which take (n, c, h, w)."""

    def __init__(self, n, stride, size=None):
        super().__init__()
        self.size, self.patches = size, nn.Conv2d(3, n, stride, stride)
        self.blocks = nn.ModuleList(nn.Conv2d(n, n, 1) for _ in range(2))
        self.fc = nn.Conv2d(n, 3, 1)

    def forward(self, x):
        if self.size is not None and x.shape[2:] != self.size:
            raise AssertionError("another size")
        x = self.patches(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x).mean(dim=(2, 3))


def network_of(module, height=HEIGHT, width=WIDTH):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    size = Preprocessing(height=height, width=width)
    return load_network(module.eval(), preprocessing=size)


def pictures(n=3, height=HEIGHT, width=WIDTH):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def point_of(network, layer="blocks.1"):
    points, refused = every_point(network, [layer])
    found = [point for point in points if point.layer == layer]
    assert found, refused
    return found[0]


def features(network, point, images):
    with pooled_outputs(network.module, [point]) as outputs, torch.no_grad():
        network.module(images)
    return outputs[point.layer]


# --- which axis holds the channels ---------------------------------------------------------------

# Sides and channels are chosen so that shapes mislead: two or three lengths are equal.
SHAPES = [  # channels, height, width, stride
    (8, 32, 16, 4),  # 8 x 4 places, 8 channels
    (4, 32, 16, 4),
    (8, 32, 32, 4),  # all equal
    (16, 32, 64, 4),
    (5, 16, 16, 4),
]


@pytest.mark.parametrize("takes_one_size", [False, True])
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize(("n", "height", "width", "stride"), SHAPES)
def test_channels_are_found_whatever_the_shape(n, height, width, stride, is_last, takes_one_size):
    size = (height, width) if takes_one_size else None
    module = Tower(n, stride, size=size) if is_last else ChannelsFirst(n, stride, size)
    network, images = network_of(module, height, width), pictures(3, height, width)
    lengths = {n, height // stride, width // stride}
    if takes_one_size and (n in (height // stride, width // stride)):
        points, refused = every_point(network, ["blocks.1"])
        assert "blocks.1" not in [point.layer for point in points]
        assert "which axis holds the channels" in refused["blocks.1"], lengths
        return
    point = point_of(network)
    with torch.no_grad():
        x = module.patches(images)
        for block in module.blocks:
            x = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if is_last else block(x)
    by_hand = [[x[i, c].sum() / x[i, c].numel() for c in range(n)] for i in range(3)]
    torch.testing.assert_close(features(network, point, images), torch.tensor(by_hand))


def test_timms_own_word_decides_where_the_size_is_fixed():
    network = network_of(Tower(8, 4, size=(32, 32)), 32, 32)
    network.module.output_fmt = "NHWC"
    point = point_of(network)
    assert (point.channel_axis, point.channels) == (-1, 8)


# --- which axis holds the images -----------------------------------------------------------------


class Sequences(nn.Module):
    """Tokens first, as `nn.TransformerEncoderLayer` takes them by default."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean(dim=0))


def test_images_that_are_not_on_the_first_axis_are_moved_there():
    network, images = network_of(Sequences()), pictures()
    point = point_of(network)
    assert point.batch_axis == 1
    with torch.no_grad():
        by_hand = []
        for image in images:
            x = network.module.patches(image[None])[0].flatten(1).T[:, None]  # tokens, one image
            for block in network.module.blocks:
                x = block(x)
            by_hand.append(x[:, 0].mean(dim=0))
    torch.testing.assert_close(features(network, point, images), torch.stack(by_hand))


class Windows(nn.Module):
    """Four windows for each image, on the axis of the images."""

    def __init__(self):
        super().__init__()
        self.patches, self.inner, self.fc = nn.Conv2d(3, 8, 4, 4), Reader(8), nn.Linear(8, 3)

    def forward(self, x):
        n, x = len(x), self.patches(x).permute(0, 2, 3, 1)
        x = self.inner(x.reshape(4 * n, -1, 8))
        return self.fc(x.reshape(n, -1, 8).mean(dim=1))


class Normed(nn.Module):
    """Divides by the largest value in the batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        x = self.fc(x)
        return x / x.abs().max()


REFUSED = {
    "windows": (Windows, "inner", "gives 4 rows for one image, such as the windows of it"),
    "mixed images": (
        lambda: Tower(layers=[Normed(), Normed()]),
        "blocks.0",
        "gives other values for an image if others are in its batch",
    ),
    "a summary of the batch": (
        lambda: Tower(layers=[Reader(8, lambda x, a: (x, x.mean(0))), Reader(8)], first=first_of),
        "blocks.0",
        None,  # the map is found
    ),
}


def first_of(x):
    return x[0] if isinstance(x, tuple) else x


@pytest.mark.parametrize("name", REFUSED)
def test_layers_whose_rows_are_not_images_are_refused(name):
    make, layer, reason = REFUSED[name]
    points, refused = every_point(network_of(make()), [layer])
    if reason is None:
        assert layer in [point.layer for point in points]
        return
    assert layer not in [point.layer for point in points]
    assert reason in refused[layer]
    with pytest.raises(LayerError, match=f"Layer '{layer}' of .* {reason}"):
        chosen_points(network_of(make()), [layer])


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Alone(nn.Module):
    def forward(self, x):
        return x.view(1, *x.shape[1:])


NETWORKS = [
    (Noisy, "gives other values each time it is run on the same image"),
    (Alone, "runs on one image but not on two"),
]


@pytest.mark.parametrize(("layer", "reason"), NETWORKS)
def test_networks_that_are_random_or_take_one_image_are_refused(layer, reason):
    network = network_of(nn.Sequential(nn.Conv2d(3, 4, 3), layer(), nn.Conv2d(4, 4, 3)))
    with pytest.raises(ModelError, match=reason):
        chosen_points(network)


# --- which tokens are patches --------------------------------------------------------------------


class Tokens(nn.Module):
    """A transformer with tokens before its patches, or after them.

    Args:
        before, after: numbers of tokens that are joined to the patches.
        late: the number of the layer at which they are joined.
    """

    def __init__(self, before=1, after=0, late=0, name="cls_token"):
        super().__init__()
        self.patches, self.late, self.name = nn.Conv2d(3, 8, 4, 4), late, name
        self.register_parameter(name, nn.Parameter(torch.zeros(1, before, 8)))
        self.last = nn.Parameter(torch.zeros(1, after, 8))
        self.blocks = nn.ModuleList(Reader(8) for _ in range(3))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for number, block in enumerate(self.blocks):
            if number == self.late:
                token = getattr(self, self.name)
                own = [each.expand(len(x), -1, -1) for each in (token, self.last)]
                x = (
                    torch.cat([own[0], x, own[1]], dim=1)
                    if self.last.numel()
                    else torch.cat([own[0], x], dim=1)
                )
            x = block(x)
        return self.fc(x[:, 0])


TOKENS = {  # prefix tokens at each of three layers, and whether the first is a class token
    "class token": (Tokens(), (1, 1, 1), True),
    "class token and registers": (Tokens(before=5), (5, 5, 5), True),
    "late": (Tokens(late=2), (0, 0, 1), True),
    "registers": (Tokens(before=4, name="reg_token"), (4, 4, 4), False),
    "none": (Tower(8, 4, turn=lambda x: x.flatten(2).transpose(1, 2)), (0, 0), False),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_that_are_no_patches_are_counted_at_each_layer(name):
    module, counts, has_class = TOKENS[name]
    network, images = network_of(module), pictures()
    n_patches = (HEIGHT // 4) * (WIDTH // 4)
    for number, n_prefix in enumerate(counts):
        point = point_of(network, f"blocks.{number}")
        assert point.prefix_tokens == n_prefix
        assert point.has_class_token == (has_class and n_prefix > 0)
        seen = []
        hook = network.module.blocks[number].register_forward_hook(
            lambda *call, s=seen: s.append(call[-1])
        )
        found = features(network, point, images)
        hook.remove()
        patches = seen[0][:, -n_patches:]
        torch.testing.assert_close(found, patches.sum(dim=1) / n_patches)


def test_tokens_after_the_patches_are_refused_unless_the_number_before_them_is_given():
    network = network_of(Tokens(before=1, after=2))
    points, refused = every_point(network, ["blocks.0"])
    assert "blocks.0" not in [point.layer for point in points]
    assert "--prefix-tokens" in refused["blocks.0"]
    given = with_preprocessing(network, prefix_tokens=1)
    assert point_of(given, "blocks.0").prefix_tokens == 1


def test_number_of_prefix_tokens_is_the_users_if_given():
    network = with_preprocessing(network_of(Tokens()), prefix_tokens=3)
    assert point_of(network).prefix_tokens == 3
    with pytest.raises(LayerError, match="has 33 tokens, not more than the prefix tokens given"):
        chosen_points(with_preprocessing(network, prefix_tokens=40), ["blocks.1"])


# --- which tensor is the map ---------------------------------------------------------------------


OUTPUTS = {
    "tuple with attention": (lambda x, a: (x, a), lambda y: y[0]),
    "attention first": (lambda x, a: (a, x), lambda y: y[1]),
    "tuple with nothing": (lambda x, a: (x, None), lambda y: y[0]),
    "tuple with a size": (lambda x, a: (x, (8, 4)), lambda y: y[0]),
    "tuple of one": (lambda x, a: (x,), lambda y: y[0]),
    "list": (lambda x, a: [x, a], lambda y: y[0]),
    "dict": (lambda x, a: {"attentions": a, "last": x}, lambda y: y["last"]),
    "dataclass": (lambda x, a: Output(a, x), lambda y: y.maps),
    "named tuple": (lambda x, a: Pair(x, 3), lambda y: y.maps),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_map_is_found_in_what_a_layer_returns(name):
    form, first = OUTPUTS[name]
    turn = lambda x: x.flatten(2).transpose(1, 2)  # noqa: E731 - one of two ways, used once
    layers = [Reader(8, form), Reader(8, form), Reader(8, lambda x, a: (x,))]
    take = lambda y: y[0] if isinstance(y, tuple) and len(y) == 1 else first(y)  # noqa: E731
    module = Tower(8, 4, turn=turn, layers=layers, first=take)
    network, images = network_of(module), pictures()
    with torch.no_grad():
        x = turn(module.patches(images))
        for layer in module.blocks[:2]:
            x = layer.fc(x)
    found = features(network, point_of(network), images)
    torch.testing.assert_close(found, x.mean(dim=1))


def test_output_without_a_known_map_is_refused():
    two = lambda x, a: (x, 2 * x[:, 0])  # noqa: E731 - a map and a part of it
    module = Tower(8, 4, layers=[Reader(8, two), Reader(8)], first=lambda y: rest_of(y))
    _, refused = every_point(network_of(module), ["blocks.0"])
    assert "no later layer takes one of them as it is" in refused["blocks.0"]


def rest_of(y):
    return y[0] * 3 + y[1].mean() if isinstance(y, tuple) else y


# --- networks of timm whose shapes mislead -------------------------------------------------------

SIZES = [
    ("resnet18", "64x32", "layer1.1", 64),
    ("convnext_atto", "96x32", "stages.0.blocks.1", 40),
    ("mambaout_femto", "64x96", "stages.1.blocks.0", 96),
]


@pytest.mark.parametrize(("name", "size", "layer", "channels"), SIZES)
def test_networks_at_sizes_that_are_not_square(name, size, layer, channels):
    height, width = map(int, size.split("x"))
    module = timm.create_model(name)
    network = with_preprocessing(load_network(module), input_size=(height, width))
    assert point_of(network, layer).channels == channels
