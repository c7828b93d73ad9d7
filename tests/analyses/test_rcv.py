"""Directions are compared with planted ones, slopes of logits with the effect of a small step."""

from collections import OrderedDict
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from scipy.stats import chi2
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from scalecut import (
    Computation,
    DataError,
    Fitting,
    LayerError,
    Preprocessing,
    load_network,
    make_image_set,
    probe,
)
from scalecut.analyses import rcv as module
from scalecut.analyses.rcv import (
    COLUMNS,
    Directions,
    Estimation,
    carrying_share,
    class_of,
    correlation_squared,
    direction,
    pair_angles,
    rcv,
    read_directions,
    relevance,
    ridge,
    sensitivity,
)
from scalecut.data.contact import SHEET
from scalecut.networks.layers import probe_points, select_layers
from scalecut.networks.points import LOGITS, POOLED, SOFTMAX
from scalecut.probing import scores
from scalecut.probing.scores import draw_parts
from scalecut.stats.inference import interval
from scalecut.stats.ridge import decompose, nested_ridge

SIDE = 16
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
EXACTLY = Computation(precision="float32")
SHAPES = [(60, 8), (30, 50)]  # more images than features, and fewer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def degrees(a, b):
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


# --- the direction -------------------------------------------------------------------------------


def test_direction_is_that_of_the_planted_weights(rng):
    loudness = rng.uniform(0.01, 100, size=10)
    features, weights = rng.normal(size=(200, 10)) * loudness + 5, rng.normal(size=10) / loudness
    found = direction(features, features @ weights + 3, np.arange(200))
    np.testing.assert_allclose(np.linalg.norm(found), 1)
    assert degrees(found, weights) < 1
    reversed_ = direction(features, -2 * (features @ weights), np.arange(200))
    np.testing.assert_allclose(reversed_, -found)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ridge_has_the_weights_of_scikit_learn_and_the_predictions_of_the_probe(rng, n, d):
    features = rng.normal(size=(n + 9, d)) * rng.uniform(0.1, 10, size=d)
    measure = features @ rng.normal(size=d) + 5 * rng.normal(size=n + 9)
    train, held_out, y = features[:n], features[n:], measure[:n]
    weights, predictions = ridge(train, y, np.arange(n), held_out)
    probed = nested_ridge(decompose(train, held_out), y[:, None], np.arange(n))
    scaler = StandardScaler().fit(train)
    reference = Ridge(alpha=probed.penalties[0]).fit(scaler.transform(train), y)
    np.testing.assert_allclose(weights, reference.coef_ / scaler.scale_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(predictions, probed.predictions[:, 0])


def test_constant_channels_have_no_part_in_the_direction(rng):
    features = rng.normal(size=(50, 4))
    measure = features @ np.array([1.0, 2.0, 0.0, 0.0])
    features[:, [1, 3]] = 0.1
    found = direction(features, measure, np.arange(50))
    assert (found[[1, 3]] == 0).all() and found[0] > 0.5
    assert not direction(np.full((50, 3), 0.1), measure, np.arange(50)).any()


def test_angles_of_pairs_by_hand():
    rows = np.array([[2.0, 0.0], [0.0, 0.5], [1.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(pair_angles(rows), [90, 45, 180, 45, 90, 135])
    assert np.isnan(pair_angles(np.array([[1.0, 0.0], [0.0, 0.0]]))).all()


def test_noise_alone_gives_the_angle_of_the_images_that_two_repeats_share(rng):
    features, measure = rng.normal(size=(300, 20)), rng.normal(size=300)
    parts = [rng.permutation(300)[:210] for _ in range(12)]
    fits = [direction(features[rows], measure[rows], rows) for rows in parts]
    assert pair_angles(np.array(fits)).mean() == pytest.approx(np.degrees(np.arccos(0.7)), abs=6)


def test_share_of_channels_is_the_planted_one_and_that_of_theory(rng):
    weights = np.zeros(40)
    weights[3:13] = [1, -1] * 5
    assert carrying_share(weights) == 9 / 40
    assert carrying_share(np.array([3.0, 1.0, 0.0, 0.0])) == 1 / 4
    assert np.isnan(carrying_share(np.zeros(5)))
    # weights beyond t carry 90 % of the squares: the tail of chi² with 3 degrees of freedom
    t_squared = chi2.isf(0.9, df=3)
    expected = chi2.sf(t_squared, df=1)
    assert expected == pytest.approx(0.44, abs=0.005)
    assert carrying_share(rng.normal(size=20_000)) == pytest.approx(expected, abs=0.01)


# --- transfer ------------------------------------------------------------------------------------


def test_squared_correlation_is_that_of_numpy_in_every_draw(rng):
    measure, predicted = rng.normal(size=(2, 30)), rng.normal(size=(2, 30))
    predicted += measure
    is_held_out = rng.random((2, 30)) < 0.5
    counts = np.vstack([np.ones(30), rng.integers(0, 4, size=(5, 30))]).astype(float)
    found = correlation_squared(measure, predicted, is_held_out, counts)
    for value, count in zip(found, counts.astype(int), strict=True):
        drawn = [np.repeat(np.flatnonzero(rows), count[rows]) for rows in is_held_out]
        by_hand = [
            np.corrcoef(y[rows], z[rows])[0, 1]
            for y, z, rows in zip(measure, predicted, drawn, strict=True)
        ]
        np.testing.assert_allclose(value, np.mean(np.maximum(by_hand, 0) ** 2))


def test_squared_correlation_forgives_offset_and_slope_but_not_the_sign(rng):
    measure, all_of_them, once = rng.normal(size=(1, 20)), np.ones((1, 20), bool), np.ones((1, 20))
    for predicted, expected in ((3 * measure + 7, 1), (-measure, 0), (np.ones((1, 20)), 0)):
        found = correlation_squared(measure, predicted, all_of_them, once)
        np.testing.assert_allclose(found, expected, atol=1e-12)


# --- relevance -----------------------------------------------------------------------------------


def test_relevance_by_hand_and_where_it_is_zero_or_has_no_value(rng):
    slopes, once, r2 = np.array([1.0, 2.0, 3.0, 6.0]), np.ones((1, 4)), np.array([0.5])
    by_hand = 0.5 * 3 / np.sqrt((4 + 1 + 0 + 9) / 4)
    np.testing.assert_allclose(relevance(slopes, r2, once), by_hand)
    np.testing.assert_allclose(relevance(-slopes, r2, once), -by_hand)
    np.testing.assert_allclose(relevance(1e3 * slopes, r2, once), by_hand)
    assert relevance(np.array([1.0, 2.0]), np.array([-3.0]), np.ones((1, 2))) == 0
    assert np.isnan(relevance(np.array([2.0, 2.0, 2.0 + 1e-7]), r2, np.ones((1, 3)))).all()
    assert relevance(np.zeros(3), r2, np.ones((1, 3))) == 0
    slopes, count = rng.normal(size=12) + 1, rng.integers(0, 4, size=12)
    drawn = np.repeat(slopes, count)
    found = relevance(slopes, np.array([0.7]), count[None].astype(float))
    np.testing.assert_allclose(found, 0.7 * drawn.mean() / drawn.std())


# --- the slope of a logit, against a small step --------------------------------------------------


class Residual(nn.Module):
    """Ends in an in-place activation of a sum: the sum is the probe point."""

    def __init__(self, channels):
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, channels, 1)
        self.inner, self.end = nn.SiLU(), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.two(self.inner(self.one(x)))
        y += x
        return self.end(y)


class Branches(nn.Module):
    """Returns a list of maps."""

    def __init__(self):
        super().__init__()
        self.wide, self.fine = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return [self.wide(x).tanh(), self.fine(x).tanh()]


class Joined(nn.Module):
    """Joins a list of maps."""

    def __init__(self):
        super().__init__()
        self.join = nn.Conv2d(5, 4, 1)

    def forward(self, maps):
        return self.join(torch.cat(maps, dim=1))


class Twice(nn.Module):
    """Uses one block two times."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Residual(4), nn.Linear(4, 3)
        self.stem = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        return self.head(self.block(self.block(self.stem(x))).mean(dim=(2, 3)))


def residual_net():
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 4, 3, stride=2),
            act=nn.ReLU(inplace=True),
            first=Residual(4),
            second=Residual(4),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4, 3),
        )
    )


def branched_net():
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 4, 3, stride=2),
            branches=Branches(),
            joined=Joined(),
            last=Residual(4),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4, 3),
        )
    )


def token_net():
    return VisionTransformer(
        img_size=SIDE,
        patch_size=4,
        embed_dim=8,
        depth=2,
        num_heads=2,
        num_classes=3,
        global_pool="token",
    )


def channels_last_net():
    settings = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 2}
    return SwinTransformer(img_size=SIDE, patch_size=2, num_classes=3, **settings)


NETS = [residual_net, branched_net, Twice, token_net, channels_last_net]


def loaded(build, seed=0):
    torch.manual_seed(seed)
    return load_network(build(), preprocessing=AS_IT_IS)


def points_of(network, *patterns):
    modules = [name for name, _ in network.module.named_modules() if name in patterns]
    points = probe_points(network.module, network.example(), also=modules)[0]
    return select_layers(points, patterns) if patterns else points


def noise(rng, n):
    return rng.integers(0, 256, size=(n, SIDE, SIDE, 3), dtype=np.uint8)


def as_images(pixels):
    return make_image_set(list(pixels), np.arange(len(pixels), dtype=float)).images


def moved(value, point, step):
    """The value with a step along the channels, in the plainest way."""
    if isinstance(value, list):
        steps = np.split(step, np.cumsum([each.shape[1] for each in value])[:-1])
        return [moved(each, point, part) for each, part in zip(value, steps, strict=True)]
    value, step = value.clone(), torch.from_numpy(step)
    if value.ndim == 4 and point.channel_axis == 1:
        value += step[:, None, None]
    elif value.ndim == 3:
        value[:, point.prefix_tokens :] += step
    else:
        value += step
    return value


def logits_after_a_step(network, pixels, point, step):
    """The logits, in float64, if the point's last value is moved by a step."""
    module, calls = loaded_double(network), []
    watched = dict(module.named_modules())[point.module]

    def on_output(module, args, output):
        calls.append(1)
        return moved(output, point, step) if len(calls) == point.n_calls else output

    def on_input(module, args):
        calls.append(1)
        return moved(args[0], point, step) if len(calls) == point.n_calls else None

    if point.side == "input":
        handle = watched.register_forward_pre_hook(on_input)
    else:
        handle = watched.register_forward_hook(on_output)
    with torch.no_grad():
        logits = module(network.preprocessing.tensor(pixels).double())
    handle.remove()
    return logits.numpy()


def loaded_double(network):
    return load_network(network.module, preprocessing=AS_IT_IS).module.double()


@pytest.mark.parametrize("build", NETS, ids=lambda build: build.__name__)
def test_sensitivity_is_what_a_small_step_does(build, rng):
    network = loaded(build)
    points = points_of(network)
    pixels, step = noise(rng, 3), 1e-5
    vectors = {p.layer: rng.normal(size=p.channels) for p in points}
    two = Computation(batch_size=2)
    found = sensitivity(network, as_images(pixels), points, vectors, 1, computation=two)
    assert list(found) == [point.layer for point in points if point.layer != SOFTMAX]
    for point in points[:-1]:
        along = step * vectors[point.layer]
        up, down = (logits_after_a_step(network, pixels, point, s) for s in (along, -along))
        np.testing.assert_allclose(
            found[point.layer], (up - down)[:, 1] / (2 * step), rtol=1e-3, atol=1e-4
        )


def test_the_nets_of_these_tests_have_points_of_every_kind():
    kinds = {build: points_of(loaded(build)) for build in NETS}
    assert {p.side for p in kinds[residual_net]} == {"input", "output"}
    assert any(point.n_calls == 2 for point in kinds[Twice])
    assert any(point.prefix_tokens == 1 for point in kinds[token_net])
    assert any(point.channel_axis == -1 for point in kinds[channels_last_net])
    assert points_of(loaded(branched_net), "branches")[0].channels == 5


def test_sensitivity_of_a_linear_head_is_that_of_its_weights(rng):
    network = loaded(residual_net)
    points = points_of(network, POOLED, "second.end", LOGITS)
    vectors = {p.layer: rng.normal(size=p.channels) for p in points}
    found = sensitivity(network, as_images(noise(rng, 4)), points, vectors, 2)
    weights = network.module.head.weight.detach().double().numpy()
    for layer in (POOLED, "second.end"):
        np.testing.assert_allclose(found[layer], [weights[2] @ vectors[layer]] * 4, rtol=1e-5)
    np.testing.assert_allclose(found[LOGITS], [vectors[LOGITS][2]] * 4)
    with torch.no_grad():
        network.module.head.weight[0] = 0
    found = sensitivity(network, as_images(noise(rng, 2)), points, vectors, 0)
    assert not found[POOLED].any()
    assert not found["second.end"].any()


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_sensitivity_is_that_of_the_logit_also_before_a_softmax_of_the_network(rng, end):
    plain = loaded(residual_net)
    ended = loaded(lambda: nn.Sequential(residual_net(), end))
    images = as_images(noise(rng, 3))
    both = []
    for network, prefix in ((plain, ""), (ended, "0.")):
        for layers in (["first", "second"], ["first", "second", LOGITS]):
            names = [name if name == LOGITS else prefix + name for name in layers]
            points = points_of(network, *names)
            vectors = {p.layer: np.cos(np.arange(p.channels)) for p in points}
            both.append([*sensitivity(network, images, points, vectors, 1).values()][:2])
    for other in both[1:]:
        np.testing.assert_allclose(other, both[0], rtol=1e-4)


def test_sensitivity_leaves_the_network_as_it_was(rng):
    network = loaded(residual_net)
    network.module.train()
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    points = points_of(network)
    vectors = {p.layer: rng.normal(size=p.channels) for p in points}
    images = as_images(noise(rng, 2))
    sensitivity(network, images, points, vectors, 0)
    with pytest.raises(IndexError):
        sensitivity(network, images, points, vectors, 99)
    assert all(module.training for module in network.module.modules())
    assert all(p.requires_grad and p.grad is None for p in network.module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.module.modules())
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name])


class Closed(nn.Sequential):
    """Lets no gradient through."""

    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


def test_what_has_no_sensitivity_is_refused_with_the_remedy(tmp_path):
    rng = np.random.default_rng(0)
    network, images = loaded(residual_net), as_images(noise(rng, 1))
    point = points_of(network, "first")
    with pytest.raises(DataError) as error:
        sensitivity(network, images, point, {"first": np.ones(7)}, 0)
    assert str(error.value) == (
        "The direction has 7 values, but layer 'first' has 4 channels. "
        "Give the direction that was fitted there."
    )
    path = tmp_path / "broken.png"
    PIL.Image.fromarray(noise(rng, 1)[0]).save(path)
    broken = make_image_set([path], [1.0]).images
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"broken.png: .*\. Fix it, or remove it\.$"):
        sensitivity(network, broken, point, {"first": np.ones(4)}, 0)
    closed = loaded(lambda: Closed(*residual_net()))
    point = points_of(loaded(lambda: nn.Sequential(*residual_net())), "2")
    with pytest.raises(LayerError) as error:
        sensitivity(closed, images, point, {"2": np.ones(4)}, 0)
    assert str(error.value) == "Closed passes no gradient to its logits. Give another network."


# --- the class -----------------------------------------------------------------------------------


def headed(n_classes):
    layers = {"stem": nn.Conv2d(3, 4, 3), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return loaded(lambda: nn.Sequential(OrderedDict(**layers, head=nn.Linear(4, n_classes))))


@cache
def imagenet_head():
    return headed(1000)


def test_class_is_found_by_number_or_any_of_its_names():
    for given in (281, "281", "tabby", "Tabby Cat"):
        assert class_of(imagenet_head(), given) == (281, "281 tabby")
    assert class_of(headed(3), 2) == (2, "2")


def test_class_that_does_not_exist_is_refused_with_those_that_do():
    three = headed(3)
    for network, given, text in (
        (three, 3, "Sequential has no class '3'. Give a number from 0 to 2."),
        (three, -1, "Sequential has no class '-1'. Give a number from 0 to 2."),
        (three, "tabby", "Sequential has no class 'tabby'. Give a number from 0 to 2."),
        (
            imagenet_head(),
            "golden retreiver",
            "Sequential has no class 'golden retreiver'; near it: golden retriever, flat-coated "
            "retriever, Labrador retriever. "
            "Give a number from 0 to 999, or a name of ImageNet.",
        ),
        (
            imagenet_head(),
            "crane",
            "2 classes are named 'crane': 134 and 517. Give the number.",
        ),
    ):
        with pytest.raises(DataError) as error:
            class_of(network, given)
        assert str(error.value) == text


def test_network_without_a_head_has_no_class():
    network = loaded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    with pytest.raises(LayerError) as error:
        class_of(network, 0)
    assert str(error.value) == (
        "Sequential has no logits, but a class is asked for. Give a network with its head, or no "
        "class."
    )


def test_network_whose_head_lacks_weights_has_no_class(tmp_path):
    whole = headed(3).module
    state = {name: tensor for name, tensor in whole.state_dict().items() if name != "head.weight"}
    torch.save(state, tmp_path / "part.pt")
    network = load_network(
        whole, weights=tmp_path / "part.pt", allow_partial=True, preprocessing=AS_IT_IS
    )
    with pytest.raises(LayerError) as error:
        class_of(network, 0)
    assert str(error.value) == (
        "A class is asked for, but the layer 'logits' of Sequential depends on 'head.weight', one "
        "of 1 tensors missing from the weights. Give weights that hold it, or no class."
    )


# --- all of it, on plain colours -----------------------------------------------------------------

COLOUR = np.array([0.8, -0.5, 0.2])  # the measure grows along it
N = 40


def colours(seed=0):
    """Images of one colour, and measures linear in it, for each subset in its own way."""
    rng = np.random.default_rng(seed)
    pixels = np.broadcast_to(
        rng.integers(20, 236, size=(4 * N, 1, 1, 3)), (4 * N, SIDE, SIDE, 3)
    ).astype(np.uint8)
    grown = pixels[:, 0, 0] / 255 @ COLOUR
    measure = grown.copy()
    measure[2 * N : 3 * N] = 1 - grown[2 * N : 3 * N]  # turned round
    measure[3 * N :] += 2  # the same direction, another offset
    subset = np.repeat(["here", "alike", "reversed", "offset"], N).tolist()
    return make_image_set(list(pixels), measure, subset=subset)


def colour_net():
    torch.manual_seed(0)
    network = nn.Sequential(
        OrderedDict(
            look=nn.Conv2d(3, 5, 1),
            curve=nn.Conv2d(5, 4, 1),
            act=nn.SiLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(4, 3),
        )
    )
    with torch.no_grad():
        network.look.weight.zero_()
        network.look.weight[:3, :, 0, 0] = torch.eye(3)
        network.look.bias.zero_()
        network.head.weight[0] = 0
    return load_network(network, preprocessing=AS_IT_IS)


def colour_directions(class_="", **settings):
    estimation = Estimation(repeats=4, class_=class_)
    return rcv(colour_net(), colours(), computation=EXACTLY, estimation=estimation, **settings)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(module, "MOST_IMAGES", 12)
        return colour_directions(class_=1)


def value(found, quantity, subset="here", layer="look", other=""):
    table = found.table
    is_it = (table.quantity == quantity) & (table.subset == subset) & (table.layer == layer)
    return table[is_it & (table.other == other)].squeeze()


def test_vectors_are_unit_and_point_where_the_measure_grows(found):
    assert list(found.vectors) == ["here", "alike", "reversed", "offset"]
    for subset, by_layer in found.vectors.items():
        for vector in by_layer.values():
            np.testing.assert_allclose(np.linalg.norm(vector), 1)
        sign = -1 if subset == "reversed" else 1
        assert degrees(by_layer["look"], sign * np.append(COLOUR, [0, 0])) < 1


def test_directions_are_stable_unless_the_measure_is_shuffled(found):
    true, chance = (value(found, f"stability{kind}_degrees") for kind in ("", "_shuffled"))
    assert true.high < 1
    assert chance.value > 20
    assert value(shuffled_colours(colour_net()), "stability_degrees").value > 20


def shuffled_colours(network):
    images = colours()
    shuffled = np.random.default_rng(0).permutation(images.measure[:N])
    noisy = make_image_set([image.source for image in images.images[:N]], shuffled, subset="here")
    return rcv(
        network, noisy, layers=["look"], computation=EXACTLY, estimation=Estimation(repeats=4)
    )


def test_loudness_of_a_channel_changes_its_vector_but_neither_stability_nor_share():
    plain, loud = colour_net(), colour_net()
    loudness = np.array([100, 1, 0.01, 1, 1])
    with torch.no_grad():
        loud.module.look.weight *= torch.from_numpy(loudness).float()[:, None, None, None]
    here, there = shuffled_colours(plain), shuffled_colours(loud)
    ours, theirs = (each.vectors["here"]["look"] for each in (here, there))
    assert degrees(ours / loudness, theirs) < 0.1
    for quantity in ("stability_degrees", "channels_90"):
        ours, theirs = (value(each, quantity)[["value", "low", "high"]] for each in (here, there))
        np.testing.assert_allclose(ours.tolist(), theirs.tolist(), rtol=1e-3)


def test_share_of_channels_is_of_all_channels_also_of_constant_ones(found):
    # of the squares of (0.8, -0.5, 0.2) the first two hold 96 %, the first alone 69 %
    row = value(found, "channels_90")
    assert (row.value, row.low, row.high) == (2 / 5, 2 / 5, 2 / 5)


def test_subsets_that_share_a_group_are_not_tested_on_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path))
    images = colours()
    group = [f"patient {number}" for number in range(4 * N)]
    group[N] = group[0]  # one patient is in `here` and in `alike`
    network = colour_net()
    found = rcv(
        network,
        replace(images, group=tuple(group)),
        computation=EXACTLY,
        estimation=Estimation(repeats=2),
    )
    rows = found.table[found.table.quantity == "transfer_r2"]
    pairs = set(zip(rows.subset, rows.other, strict=True))
    assert ("here", "alike") not in pairs and ("alike", "here") not in pairs
    assert {("here", "here"), ("here", "offset"), ("alike", "reversed")} <= pairs


def test_transfer_is_that_of_the_map_two_subsets_share(found):
    for other, least_r2, most_r2, fair in (
        ("here", 0.999, 1.0, 1.0),
        ("alike", 0.999, 1.0, 1.0),
        ("reversed", -50, -1, 0.0),
        ("offset", -1e4, -10, 1.0),
    ):
        assert least_r2 <= value(found, "transfer_r2", other=other).value <= most_r2
        row = value(found, "transfer_correlation2", other=other)
        np.testing.assert_allclose([row.low, row.value, row.high], fair, atol=1e-3)


def test_transfer_to_the_same_subset_is_the_score_of_the_probe():
    images, network = colours(), colour_net()
    measure = images.measure + np.random.default_rng(0).normal(scale=0.2, size=len(images))
    noisy = make_image_set([i.source for i in images.images], measure, subset=images.subset)
    given = {"computation": EXACTLY, "seed": 5}
    found = rcv(network, noisy, estimation=Estimation(repeats=3), **given)
    fitting = Fitting(regressor=("ridge",), controls=(), repeats=3, permutations=0)
    curve = probe(network, noisy, fitting=fitting, **given)
    for subset in noisy.subsets:
        for probed in curve.scores(subset=subset).itertuples():
            row = value(found, "transfer_r2", subset, probed.layer, subset)
            np.testing.assert_allclose(
                [row.value, row.low, row.high], [probed.r2, probed.r2_low, probed.r2_high]
            )


def test_sensitivity_and_relevance_are_the_mean_over_evenly_spread_images(found):
    images, network = colours(), colour_net()
    rows = np.linspace(0, N - 1, 12).round().astype(int)
    chosen = [images.images[N + row] for row in rows]  # of the second subset
    vectors = found.vectors["alike"]
    slopes = sensitivity(network, chosen, points_of(network), vectors, 1)
    for layer in ("look", "act"):
        row = value(found, "sensitivity", "alike", layer, "1")
        np.testing.assert_allclose(row.value, slopes[layer].mean())
        counts = draw_parts(images, 4, 0, shuffled=False)[1].counts[1:, rows]
        draws = counts @ slopes[layer] / counts.sum(axis=1)
        ends = interval(row.value, draws, 12, scale="difference")
        np.testing.assert_allclose([row.low, row.high], ends)
        assert row.n_images == 12
    br = value(found, "br", "alike", "look", "1")
    r2 = value(found, "transfer_r2", "alike", "look", "alike").value
    np.testing.assert_allclose(br.value, r2 * slopes["look"].mean() / slopes["look"].std())
    assert np.isnan(
        value(found, "br", "alike", POOLED, "1")[["value", "low", "high"]].tolist()
    ).all()


def test_class_that_no_layer_moves_has_neither_sensitivity_nor_relevance():
    found = colour_directions(class_=0)
    table = found.table[found.table.quantity.isin(["sensitivity", "br"])]
    before_logits = table[table.layer != LOGITS]
    assert len(before_logits) and (before_logits[["value", "low", "high"]] == 0).all(axis=None)


def test_table_has_a_row_for_each_quantity_and_none_for_classes_after_the_logits(found):
    table, n_layers = found.table, len(points_of(colour_net()))
    assert list(table.columns) == COLUMNS
    assert len(table) == 4 * n_layers * (4 + 2 * 4) + 4 * (n_layers - 1) * 2
    assert set(table.model) == {"Sequential"} and set(table.weights) == {"pretrained"}
    assert SOFTMAX not in set(table[table.quantity == "br"].layer)
    assert not table.duplicated(["subset", "layer", "quantity", "other"]).any()


def test_the_same_seed_gives_the_same_numbers_on_any_number_of_cores(monkeypatch):
    here = colour_directions(seed=3)
    monkeypatch.setattr(scores, "n_processors", lambda: 1)
    there = colour_directions(seed=3)
    assert here.table.equals(there.table)
    assert not here.table.equals(colour_directions(seed=4).table)


def test_progress_reports_features_gradients_and_directions(monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 3)
    calls = []
    colour_directions(class_=1, progress=lambda *each: calls.append(each))
    assert {stage for stage, _, _ in calls} == {"features", "gradients", "directions"}
    assert calls[-1] == ("directions", 5, 5) and ("gradients", 3, 3) in calls


def test_a_single_repeat_is_refused():
    with pytest.raises(DataError) as error:
        Estimation(repeats=1)
    assert str(error.value) == ("--repeats must be at least 2, as stability compares two, got 1.")


# --- the result ----------------------------------------------------------------------------------


def test_result_comes_back_from_its_folder(found, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    back = read_directions(found.save(tmp_path / "run"))
    assert (tmp_path / "run" / "figures" / SHEET).is_file()
    pd.testing.assert_frame_equal(back.to_frame(), found.to_frame(), atol=1e-6, check_dtype=False)
    assert list(back.vectors) == list(found.vectors)
    for subset, by_layer in found.vectors.items():
        assert list(back.vectors[subset]) == list(by_layer)
        for layer, vector in by_layer.items():
            np.testing.assert_array_equal(back.vectors[subset][layer], vector)
    assert back.finding() == found.finding()
    assert back.provenance["settings"]["class_"] == 1
    assert found.plot().axes
    assert found._repr_html_().startswith(f"<p><b>{found.finding()}")
    (tmp_path / "run" / "rcv.npz").unlink()
    with pytest.raises(DataError, match=r"has no readable rcv.npz \(.*\. Run `scalecut rcv` again"):
        read_directions(tmp_path / "run")


def finding_of(own, other=(), **quantities):
    """The finding of a table with these numbers, as (layer, value); `own` and `other` are R²."""
    rows = [("here", "here", "transfer_r2", *row) for row in own]
    rows += [("here", "there", "transfer_r2", *row) for row in other]
    rows += [("here", "", name, *row) for name, each in quantities.items() for row in each]
    columns = ["subset", "other", "quantity", "layer", "value"]
    return Directions(pd.DataFrame(rows, columns=columns), {}).finding()


def test_finding_is_of_the_layer_with_the_best_own_score():
    assert finding_of(
        own=[("a", 0.5), ("b", 0.9), ("b", 0.7), ("softmax", 0.95)],  # two subsets
        other=[("a", 0.7), ("b", 0.6), ("b", 0.5)],
        stability_degrees=[("a", 5.0), ("b", 12.3)],
        stability_shuffled_degrees=[("a", 50.0), ("b", 46.0)],
    ) == (
        "The direction at b predicts scale with R² 0.80 in its own subset and 0.55 in the others. "
        "Between repeats it turns by 12°; with a shuffled target, by 46°."
    )
    nowhere = {"stability_degrees": [("a", np.nan)], "stability_shuffled_degrees": [("a", np.nan)]}
    columns = ["subset", "other", "quantity", "layer", "value"]
    table = pd.DataFrame([("here", "here", "transfer_r2", "a", 0.5)], columns=columns)
    named = Directions(table, {}, provenance={"images": {"measure": "log-area"}})
    assert named.finding() == "The direction at a predicts log-area with R² 0.50 in its own subset."
    assert finding_of(own=[("a", 0.0)], **nowhere) == (
        "The direction at a predicts scale with R² 0.00 in its own subset."
    )
