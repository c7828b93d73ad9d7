"""What is typed becomes what is meant, or is answered in one line."""

import math

import pytest
from scalecut.cli.options import listed, octaves_of, pixels_of, with_input

from scalecut.errors import DataError, ModelError
from scalecut.networks.load import load_network

SIDES = [32, 160, 224, 299, 331]


def refusal(call, *given):
    with pytest.raises((DataError, ModelError)) as error:
        call(*given)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" , ,", []),
        ("dog", ["dog"]),
        (" dog,[cat] ,  a b,", ["dog", "[cat]", "a b"]),
        ("dog,dog", ["dog", "dog"]),
    ],
)
def test_parts_stand_between_commas_without_the_blanks_about_them(text, parts):
    assert listed(text) == parts


def test_sides_are_whole_numbers_of_pixels():
    assert pixels_of("160, 224,,320") == [160, 224, 320]
    assert pixels_of("") == []


@pytest.mark.parametrize("side", ["0", "-32", "1.5", "big", "224px", "nan", "2²", "1e3"])
def test_side_that_is_none_is_answered_with_an_example(side):
    expected = f"{side!r} is not a side in pixels. Give whole numbers: 160,224,320."
    assert refusal(pixels_of, f"160,{side},x") == expected


@pytest.mark.parametrize("side", SIDES)
def test_factors_in_two_digits_are_the_half_octaves_that_they_stand_for(side):
    halves = [number / 2 for number in range(-4, 5)]
    assert octaves_of("0.25,0.35,0.5,0.71,1,1.41,2,2.83,4", side) == halves
    assert octaves_of(",".join(f"{2**each:.2g}" for each in halves), side) == halves


@pytest.mark.parametrize("side", SIDES)
def test_size_in_pixels_is_that_size_to_the_pixel(side):
    sizes = range(math.ceil(side / 4), 4 * side)
    found = octaves_of(",".join(f"{size}px" for size in sizes), side)
    assert [round(side * 2**octaves) for octaves in found] == list(sizes)


@pytest.mark.parametrize("side", SIDES)
def test_twice_the_pixels_are_exactly_an_octave_so_that_sizes_can_be_paired(side):
    text = f"{side}px,{2 * side}px,{4 * side}px,{round(side / 2)}px,{round(side / 4)}px"
    assert octaves_of(text, side) == [0, 1, 2, -1, -2]


def test_factor_between_half_octaves_stays_what_it_is():
    assert octaves_of("0.6, 1.2,3", 224) == [math.log2(0.6), math.log2(1.2), math.log2(3)]


@pytest.mark.parametrize(
    "size", ["huge", "nan", "inf", "-inf", "1e400", "0", "-1", "65", "0.01", "px", "nanpx", "infpx"]
)
def test_size_that_is_none_is_answered_with_examples(size):
    assert refusal(octaves_of, f"0.5,{size}", 224) == (
        f"{size!r} is no size. Give factors of the training resolution from 1/64 to 64, such as "
        "0.5,1,2, or pixels, such as 112px,224px."
    )


@pytest.mark.parametrize("size", ["big", "32x", "x", "0", "32x0", "-32", "32.5", "1x2x3", "2²"])
def test_input_size_that_is_none_is_answered_with_examples(size):
    network = load_network("test_resnet", weights="random")
    assert refusal(with_input, network, size) == (
        f"An input size of {size!r} is not understood. Give pixels, such as 224 or 224x320."
    )
