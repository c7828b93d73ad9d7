"""Padding is compared with torch's own and with padding by hand; wrapped maps may be rolled."""

import re

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from scalecut.analyses.noise import PADDINGS, padded
from scalecut.errors import DataError, ModelError

OTHERS = PADDINGS[1:]


@pytest.fixture(params=[0, 1])
def maps(request):
    return torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(request.param))


def by_hand(maps, borders, mode):
    """Every new place reads the old one that the mode sends it to, one place at a time."""
    left, right, top, bottom = borders
    h, w = maps.shape[2:]

    def source(place, side):
        if mode == "circular":
            return place % side
        place = abs(place)
        return place if place < side else 2 * (side - 1) - place

    rows = [source(row, h) for row in range(-top, h + bottom)]
    columns = [source(column, w) for column in range(-left, w + right)]
    return maps[:, :, rows][:, :, :, columns]


def twin(convolution, mode):
    """The same convolution, padded by torch's own `padding_mode`."""
    other = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
        dilation=convolution.dilation,
        padding_mode=mode,
    )
    other.load_state_dict(convolution.state_dict())
    return other


@pytest.mark.parametrize("mode", OTHERS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "padding": (1, 2), "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": (2, 3), "padding": "same", "dilation": (3, 1)},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolution_pads_as_torch_does_with_its_own_mode(maps, mode, options):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, **options)
    with padded(mode) as padding, torch.inference_mode():
        found = convolution(maps)
    torch.testing.assert_close(found, twin(convolution, mode)(maps))
    assert padding.n_padded == 1


@pytest.mark.parametrize("mode", OTHERS)
def test_padding_before_a_layer_is_taken_over(maps, mode):
    borders = (1, 2, 0, 3)
    with padded(mode):
        torch.testing.assert_close(functional.pad(maps, borders), by_hand(maps, borders, mode))
        found = functional.pad(input=maps, pad=borders, value=-torch.inf)
        torch.testing.assert_close(found, by_hand(maps, borders, mode))
        found = functional.pad(maps, borders[:2], "constant", 0.5)
        torch.testing.assert_close(found, by_hand(maps, (1, 2, 0, 0), mode))


@pytest.mark.parametrize("mode", OTHERS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_pooling_sees_the_map_continued(maps, mode, pool):
    with padded(mode) as padding:
        found = pool(3, stride=2, padding=(1, 0))(maps)
    torch.testing.assert_close(found, pool(3, stride=2)(by_hand(maps, (0, 0, 1, 1), mode)))
    assert padding.n_padded == 1


def test_average_does_not_depend_on_how_padding_would_be_counted(maps):
    with padded("reflect"):
        with_padding = functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=True)
        without = functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(with_padding, without)


@pytest.mark.parametrize("mode", PADDINGS)
def test_what_does_not_pad_a_map_with_a_constant_is_left_alone(maps, mode):
    torch.manual_seed(0)
    own = nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate")
    cases = [
        lambda: own(maps),
        lambda: nn.Conv2d(3, 4, 3, padding="valid").requires_grad_(False)(maps * 0),
        lambda: functional.pad(maps, (1, 0, 0, 0, 0, 2)),  # more channels, too
        lambda: functional.pad(maps[0], (1, 1)),  # a sequence
        lambda: functional.pad(maps, (-1, -1)),  # a crop
        lambda: functional.max_pool2d(maps, 2),
    ]
    for case in cases:
        torch.manual_seed(1)
        plain = case()
        torch.manual_seed(1)
        with padded(mode) as padding:
            torch.testing.assert_close(case(), plain, rtol=0, atol=0)
        assert padding.n_padded == 0


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_zeros_leave_every_number_of_a_network_as_it_was(name):
    torch.manual_seed(0)
    network, picture = timm.create_model(name, pretrained=False).eval(), torch.randn(1, 3, 65, 70)
    with torch.inference_mode():
        plain = network(picture)
        with padded("zeros") as padding:
            assert torch.equal(network(picture), plain)
        for mode in OTHERS:
            with padded(mode) as other:
                assert not torch.allclose(network(picture), plain)
            assert other.n_padded == padding.n_padded > 10
        assert torch.equal(network(picture), plain)


def test_a_network_whose_maps_wrap_follows_its_rolled_picture():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding="same", groups=2),
        nn.AvgPool2d(3, 1, 1),
        nn.MaxPool2d(3, 1, 1),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(8, 4, 2),
    ).eval()
    picture = torch.randn(1, 3, 16, 20)
    with torch.inference_mode(), padded("circular"):
        rolled = network(picture.roll((5, -3), dims=(2, 3)))
        torch.testing.assert_close(rolled, network(picture).roll((5, -3), dims=(2, 3)))


@pytest.mark.parametrize("mode", PADDINGS)
def test_half_precision_and_channels_last_change_nothing_but_digits(maps, mode):
    torch.manual_seed(0)
    network = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 8, 3, padding=1))
    with torch.inference_mode(), padded(mode):
        plain = network(maps)
        last = network.to(memory_format=torch.channels_last)
        again = last(maps.to(memory_format=torch.channels_last))
        torch.testing.assert_close(again, plain)
        with torch.autocast("cpu", torch.bfloat16):
            half = last(maps)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.02, atol=0.02)


def test_nothing_is_padded_otherwise_after_the_block_nor_after_an_error(maps):
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    plain = convolution(maps)
    with pytest.raises(RuntimeError), padded("circular"):
        convolution(maps[:, :2])
    torch.testing.assert_close(convolution(maps), plain, rtol=0, atol=0)


@pytest.mark.parametrize(("mode", "most"), [("reflect", 2), ("circular", 3)])
def test_map_too_small_to_be_continued_is_refused_with_the_remedy(mode, most):
    with padded(mode):
        functional.pad(torch.rand(1, 1, 3, 9), (0, 0, most, most))
        with pytest.raises(ModelError) as error:
            functional.pad(torch.rand(1, 1, 3, 9), (0, 0, 0, most + 1))
    assert str(error.value) == (
        f"A map of 3 x 9 is too small for {mode} padding by {most + 1}. "
        "Give larger images, or leave this padding out."
    )


def test_unknown_padding_is_refused_with_those_that_are_known():
    told = "No padding is named 'mirror'. Give one or more of zeros, reflect, circular."
    with pytest.raises(DataError, match=re.escape(told)), padded("mirror"):
        pass
