"""Networks whose borders are known to reveal image size, and networks without borders.

Padding is compared with torch's own and with padding by hand; wrapped maps may be rolled.
"""

import itertools
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from scalecut.analyses.noise import (
    BLOCKS,
    COLUMNS,
    KINDS,
    PADDINGS,
    Noise,
    default_sizes,
    noise_images,
    noise_table,
    padded,
    probe_noise,
    read_noise,
)
from scalecut.errors import DataError, LayerError, ModelError
from scalecut.features.extract import Computation
from scalecut.networks.load import load_network
from scalecut.networks.network import Preprocessing
from scalecut.networks.selection import chosen_points

SIDE = 32
SIZES = (16, 20, 24, 32, 40, 48, 64)
EXACTLY = Computation(precision="float32")
OTHERS = PADDINGS[1:]
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
    return noise_table(network, points, EXACTLY, **{"sizes": SIZES, "n": 84} | options)


@pytest.fixture(scope="module")
def leaky():
    """A mean over sums whose border lacks what lies beyond the image."""
    return loaded(("sums", sums(9)), ("act", nn.ReLU()), ("scale", nn.Conv2d(1, 2, 1)))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_padded_border_that_is_pooled_reveals_the_size_and_is_caught(leaky, seed):
    found = curve(leaky, kinds=KINDS, seed=seed)
    for kind in KINDS:
        r2 = found[(found.layer == "act") & (found.noise == kind)].set_index("padding").r2
        # Patches larger than the image vary more from one to the next than the border takes away.
        assert r2["zeros"] > (0.9 if kind == "white" else 0.2)
        assert r2["reflect"] < 0.1
        assert r2["circular"] < 0.1


def test_table_holds_one_row_per_kind_padding_and_layer(leaky):
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


def test_result_of_the_verb_comes_back_from_its_folder(leaky, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    calls = []
    found = probe_noise(
        *(leaky,),
        padding=("zeros",),
        noise_images=30,
        layers=["act"],
        computation=EXACTLY,
        progress=lambda *call: calls.append(call),
    )
    assert ("white noise, zeros", 30, 30) in calls
    assert calls[-1] == ("regression, white", 1, 1)
    assert found.table[["noise", "padding", "layer"]].values.tolist() == [["white", "zeros", "act"]]
    back = read_noise(found.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(back.to_frame(), found.to_frame(), atol=1e-6, check_dtype=False)
    assert back.finding() == found.finding()
    assert back.provenance["settings"]["noise_images"] == 30
    assert found.plot().axes
    assert found._repr_html_().startswith(f"<p><b>{found.finding()}")


def test_finding_names_the_best_layer_and_kind_for_each_padding():
    zeros = [("zeros", "white", "a", 0.3), ("zeros", "pink", "b", 0.998), ("zeros", "pink", "c", 0)]
    others = [("reflect", "pink", "b", 0.92), ("circular", "white", "a", -0.2)]
    for rows, text in (
        (
            [("circular", "blocks", "c", 0.64), *others, *zeros],
            "Image size can be decoded from pure noise with R² up to 1.00 with zeros as padding "
            "(pink, b), 0.92 with reflect (pink, b), 0.64 with circular (blocks, c).",
        ),
        (
            others[:1],
            "Image size can be decoded from pure noise with R² up to 0.92 with reflect as padding "
            "(pink, b).",
        ),
    ):
        table = pd.DataFrame(rows, columns=["padding", "noise", "layer", "r2"])
        assert Noise(table).finding() == text


# --- the images -----------------------------------------------------------------------------------


def test_distribution_of_the_pixels_does_not_depend_on_the_size():
    for kind in KINDS:
        images = noise_images(kind, 160, (16, 96), seed=0).images
        small, large = (np.stack([each.source for each in images[at::2]]) / 1.0 for at in (0, 1))
        assert small.mean() == pytest.approx(large.mean(), abs=8)  # 80 images of few large patches
        assert small.std() == pytest.approx(large.std(), rel=0.08)
        assert large.mean() == pytest.approx(127.5, abs=5)


def test_sizes_are_taken_in_turn_and_measured_in_octaves():
    images = noise_images("white", 7, (16, 32, 64), seed=0)
    assert [each.source.shape for each in images.images] == [
        (side, side, 3) for side in (16, 32, 64, 16, 32, 64, 16)
    ]
    np.testing.assert_allclose(images.measure, [4, 5, 6, 4, 5, 6, 4])


def test_white_pixels_are_unrelated_and_uniform():
    pixels = noise_images("white", 1, (256,), seed=0).images[0].source
    assert np.unique(pixels).tolist() == list(range(256))
    next_to = np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1]
    assert abs(next_to) < 0.01


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


def test_default_sizes_are_spaced_in_octaves_and_divided_by_strides():
    for side, sizes in (
        (224, (128, 160, 192, 224, 256, 320, 384, 448)),
        (299, (150, 178, 211, 251, 299, 356, 423, 503, 598)),
        (48, (32, 48, 64, 80, 96)),
    ):
        network = loaded(("conv", sums(3)), preprocessing=Preprocessing(height=side, width=side))
        assert default_sizes(network) == sizes


# --- padding --------------------------------------------------------------------------------------


@pytest.fixture
def maps():
    return torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))


def by_hand(maps, borders, mode):
    """Every new place takes the value of the old one that the mode maps it to."""
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


CONVOLUTIONS = (
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "padding": (1, 2), "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": (2, 3), "padding": "same", "dilation": (3, 1)},
)


@pytest.mark.parametrize("mode", OTHERS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolution_pads_as_torch_does_with_its_own_mode(maps, mode):
    for options in CONVOLUTIONS:
        torch.manual_seed(0)
        convolution = nn.Conv2d(3, 4, **options)
        reference = nn.Conv2d(3, 4, **options, padding_mode=mode)
        reference.load_state_dict(convolution.state_dict())
        with padded(mode) as padding, torch.inference_mode():
            found = convolution(maps)
        torch.testing.assert_close(found, reference(maps))
        assert padding.n_padded == 1


@pytest.mark.parametrize("mode", OTHERS)
def test_padding_and_pooling_use_the_map_continued(maps, mode):
    borders = (1, 2, 0, 3)
    with padded(mode):
        torch.testing.assert_close(functional.pad(maps, borders), by_hand(maps, borders, mode))
        found = functional.pad(input=maps, pad=borders, value=-torch.inf)
        torch.testing.assert_close(found, by_hand(maps, borders, mode))
        found = functional.pad(maps, borders[:2], "constant", 0.5)
        torch.testing.assert_close(found, by_hand(maps, (1, 2, 0, 0), mode))
    for pool in (nn.MaxPool2d, nn.AvgPool2d):
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


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", pytest.param("resnet18", marks=pytest.mark.slow)]
)
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
        "Give larger images, or drop this padding."
    )


# --- what cannot be done --------------------------------------------------------------------------


def test_network_that_pads_nothing_has_no_other_padding():
    network = loaded(("one", nn.Conv2d(3, 4, 3)), ("act", nn.ReLU()), ("two", nn.Conv2d(4, 4, 3)))
    assert len(curve(network, paddings=("zeros",))) == 2
    with pytest.raises(LayerError) as error:
        curve(network)
    assert str(error.value) == (
        "Sequential pads none of its maps up to layer 'two', so reflect padding changes nothing. "
        "Give --padding zeros, which leaves the network as it is."
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
        "only be decoded if it varies. Drop --noise, or choose a network that runs at other sizes."
    )


def test_map_too_small_for_another_padding_keeps_its_own_words():
    with pytest.raises(ModelError, match=r"^A map of 4 x 4 is too small for reflect padding by 4"):
        curve(loaded(("sums", sums(9))), sizes=(4, 8), n=20, paddings=("reflect",))


def test_feature_that_is_not_finite_is_refused():
    class Root(nn.Module):
        def forward(self, maps):
            return torch.where(torch.tensor(maps.shape[-1] == 64), torch.nan, maps)

    network = loaded(("sums", sums(3)), ("root", Root()), ("two", nn.Conv2d(1, 2, 1)))
    with pytest.raises(LayerError) as error:
        curve(network)
    assert str(error.value) == (
        "Layer 'root' of Sequential gave values that are not finite for 12 of 84 images of noise. "
        "Try --precision float32, or choose other --layers."
    )


REFUSED = (
    ({"kinds": ("brown",)}, "No noise is named 'brown'. Give one or more of white, pink, blocks."),
    (
        {"paddings": ("mirror",)},
        "No padding is named 'mirror'. Give one or more of zeros, reflect, circular.",
    ),
    ({"kinds": ()}, "--noise is empty. Give one or more of white, pink, blocks."),
    ({"paddings": ()}, "--padding is empty. Give one or more of zeros, reflect, circular."),
    ({"sizes": (0, 32)}, "The smallest size is 0 pixels. Give sizes of 1 or more."),
    (
        {"sizes": (32,)},
        "All 84 images of 'white' have the same measure, 5, so nothing can be regressed on it. "
        "Choose another target.",
    ),
    (
        {"n": 12},
        "Subset 'white' needs at least 20 images for training and testing, got 12. Add images, or "
        "choose other subsets.",
    ),
)


def test_what_makes_no_sense_is_refused_with_the_remedy(leaky):
    for options, text in REFUSED:
        with pytest.raises(DataError) as error:
            curve(leaky, **options)
        assert str(error.value) == text
    with pytest.raises(DataError) as error, padded("mirror"):
        pass
    assert str(error.value) == (
        "No padding is named 'mirror'. Give one or more of zeros, reflect, circular."
    )
