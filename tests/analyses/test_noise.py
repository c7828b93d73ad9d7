"""Networks whose borders are known to tell the size of a picture, and networks that have none."""

import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from scalecut.analyses.noise import BLOCKS, COLUMNS, KINDS, default_sizes, noise_curve, noise_images
from scalecut.errors import DataError, LayerError, ModelError
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import chosen_points

SIDE = 32
SIZES = (16, 20, 24, 32, 40, 48, 64)
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def loaded(*layers, preprocessing=AS_IT_IS):
    return load_network(nn.Sequential(OrderedDict(layers)), preprocessing=preprocessing)


def sums(side, **options):
    """Every pixel the sum of its neighbourhood, so that zeros beyond the border lower the mean."""
    convolution = nn.Conv2d(3, 1, side, padding=side // 2, bias=False, **options)
    nn.init.ones_(convolution.weight)
    return convolution


def curve(network, layers=(), **options):
    points, _ = chosen_points(network, layers)
    settings = {"sizes": SIZES, "n": 84, "precision": "float32"}
    return noise_curve(network, points, **settings | options)


@pytest.fixture(scope="module")
def leaky():
    """A mean over sums whose border lacks what lies beyond the picture."""
    return loaded(("sums", sums(9)), ("act", nn.ReLU()), ("scale", nn.Conv2d(1, 2, 1)))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_border_that_is_pooled_tells_the_size_and_is_caught(leaky, kind, seed):
    found = curve(leaky, kinds=(kind,), seed=seed)
    r2 = found[found.layer == "act"].set_index("padding").r2
    # Patches larger than the picture vary more from one to the next than the border takes away.
    assert r2["zeros"] > (0.9 if kind == "white" else 0.2)
    assert r2["reflect"] < 0.1
    assert r2["circular"] < 0.1


def test_table_holds_one_row_a_kind_padding_and_layer(leaky):
    found = curve(leaky, kinds=("white", "blocks"), paddings=("zeros", "reflect"))
    assert list(found) == COLUMNS
    assert len(found) == len(found.drop_duplicates(["noise", "padding", "layer"])) == 2 * 2 * 2
    assert set(found.noise) == {"white", "blocks"}
    assert set(found.padding) == {"zeros", "reflect"}
    assert set(found.n_images) == {84}
    assert dict(zip(found.layer, found.n_features, strict=True)) == {"act": 1, "scale": 2}
    assert set(zip(found.model, found.weights, strict=True)) == {("Sequential", "pretrained")}
    assert ((found.r2_low <= found.r2) & (found.r2 <= found.r2_high)).all()


def test_same_seed_gives_the_same_numbers_whatever_else_is_asked_for(leaky):
    alone = curve(leaky, kinds=("blocks",), paddings=("circular",), seed=3)
    among = curve(leaky, kinds=("white", "blocks"), paddings=("zeros", "circular"), seed=3)
    among = among[(among.noise == "blocks") & (among.padding == "circular")]
    assert alone.equals(among.reset_index(drop=True))
    other = curve(leaky, kinds=("blocks",), paddings=("circular",), seed=4)
    assert not alone.equals(other)


def test_what_is_done_is_told(leaky):
    told = []
    curve(leaky, paddings=("zeros",), progress=lambda *news: told.append(news))
    assert ("white noise, zeros", 84, 84) in told
    assert told[-1] == ("regression, white", 2, 2)


# --- the pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_distribution_of_the_pixels_does_not_depend_on_the_size(kind):
    pictures = noise_images(kind, 160, (16, 96), seed=0).images
    small, large = (np.stack([each.source for each in pictures[at::2]]) / 1.0 for at in (0, 1))
    assert small.mean() == pytest.approx(large.mean(), abs=8)  # 80 pictures of few large patches
    assert small.std() == pytest.approx(large.std(), rel=0.08)
    assert large.mean() == pytest.approx(127.5, abs=5)


def test_sizes_are_taken_in_turn_and_measured_in_octaves():
    pictures = noise_images("white", 7, (16, 32, 64), seed=0)
    assert [each.source.shape for each in pictures.images] == [
        (side, side, 3) for side in (16, 32, 64, 16, 32, 64, 16)
    ]
    np.testing.assert_allclose(pictures.measure, [4, 5, 6, 4, 5, 6, 4])


def test_white_pixels_are_unrelated_and_uniform():
    pixels = noise_images("white", 1, (256,), seed=0).images[0].source
    assert np.unique(pixels).tolist() == list(range(256))
    beside = np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1]
    assert abs(beside) < 0.01


def test_amplitude_of_pink_noise_falls_as_one_over_frequency():
    slopes = []
    for image in noise_images("pink", 6, (256,), seed=0).images:
        grey = image.source.mean(axis=2)
        spectrum = np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(*[np.hanning(256)] * 2)))
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256)] * 2))
        bands = np.geomspace(0.03, 0.4, 8)
        amplitude = [
            spectrum[(frequency >= low) & (frequency < high)].mean()
            for low, high in itertools.pairwise(bands)
        ]
        slopes.append(np.polyfit(np.log(bands[:-1]), np.log(amplitude), 1)[0])
    assert np.mean(slopes) == pytest.approx(-1, abs=0.1)


def test_blocks_are_squares_of_several_sizes():
    pixels = noise_images("blocks", 1, (256,), seed=0).images[0].source
    edges = (pixels[:, 1:] != pixels[:, :-1]).any(axis=2)  # between columns
    smallest = min(BLOCKS)
    shares = edges.mean(axis=0)
    phase = int(np.argmax([shares[start::smallest].mean() for start in range(smallest)]))
    on_grid = shares[phase::smallest]
    assert on_grid.sum() == shares.sum()  # edges lie on the grid of the smallest squares
    # An edge of the finest grid alone is there if either side of it was painted last.
    finest = np.sort(on_grid)[: len(on_grid) // 2]
    assert finest.mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        (224, (128, 160, 192, 224, 256, 320, 384, 448)),
        (299, (150, 178, 211, 251, 299, 356, 423, 503, 598)),
        (48, (32, 48, 64, 80, 96)),
    ],
)
def test_default_sizes_are_spaced_in_octaves_and_divided_by_strides(side, sizes):
    network = loaded(("conv", sums(3)), preprocessing=Preprocessing(height=side, width=side))
    assert default_sizes(network) == sizes


# --- what cannot be done --------------------------------------------------------------------------


def test_network_that_pads_nothing_has_no_other_padding():
    network = loaded(("one", nn.Conv2d(3, 4, 3)), ("act", nn.ReLU()), ("two", nn.Conv2d(4, 4, 3)))
    assert len(curve(network, paddings=("zeros",))) == 2
    with pytest.raises(LayerError) as error:
        curve(network)
    assert str(error.value) == (
        "Sequential pads none of its maps up to layer 'two', so reflect padding changes nothing. "
        "Ask for the padding zeros alone, which leaves the network as it is."
    )


def test_network_of_one_size_is_refused():
    class Fixed(nn.Module):
        def forward(self, maps):
            assert maps.shape[-1] == SIDE, "it has places for 32 x 32."
            return maps

    network = loaded(("conv", sums(3)), ("fixed", Fixed()), ("two", nn.Conv2d(1, 2, 1)))
    with pytest.raises(ModelError) as error:
        curve(network)
    assert str(error.value) == (
        "Sequential does not run on 16 x 16 px (it has places for 32 x 32), but image size can "
        "only be read if it varies. Leave --noise out, or take a network that runs at other sizes."
    )


def test_map_too_small_for_another_padding_keeps_its_own_words():
    with pytest.raises(ModelError, match=r"^A map of 4 x 4 is too small for reflect padding by 4"):
        curve(loaded(("sums", sums(9))), sizes=(4, 8), n=20, paddings=("reflect",))


def test_answer_that_is_not_finite_is_refused():
    class Root(nn.Module):
        def forward(self, maps):
            return torch.where(torch.tensor(maps.shape[-1] == 64), torch.nan, maps)

    network = loaded(("sums", sums(3)), ("root", Root()), ("two", nn.Conv2d(1, 2, 1)))
    with pytest.raises(LayerError) as error:
        curve(network)
    assert str(error.value) == (
        "Layer 'root' of Sequential gave values that are not finite for 12 of 84 pictures of "
        "noise. Try precision float32, or choose other layers."
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"kinds": ("brown",)},
            "No noise is named 'brown'. Give one or more of white, pink, blocks.",
        ),
        (
            {"paddings": ("mirror",)},
            "No padding is named 'mirror'. Give one or more of zeros, reflect, circular.",
        ),
        ({"sizes": (0, 32)}, "The smallest size is 0 pixels. Give sizes of 1 or more."),
        (
            {"sizes": (32,)},
            "All 84 images of 'white' have the same measure, 5, so nothing can be regressed on it. "
            "Choose images whose objects differ in size.",
        ),
        (
            {"n": 12},
            "There are 12 images of 'white', but at least 20 are needed to fit and to test. Add "
            "images, or choose other subsets.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(leaky, options, told):
    with pytest.raises(DataError) as error:
        curve(leaky, **options)
    assert str(error.value) == told
