"""Names given as text are one name, never one per letter."""

import pandas as pd
import pytest

from scalecut import Cutting, DataError, LayerError, Mapped, Reading, list_layers, make_scenes
from scalecut.errors import check_names, several
from scalecut.networks.load import load_network
from scalecut.paper.runner import reproduce
from scalecut.pathology.tiles import asked_out
from scalecut.probing.comparison import compare_runs


@pytest.mark.parametrize("given", ["dog", ["dog"], ("dog",)])
def test_text_is_the_same_as_a_list_of_one(given):
    assert several(given) == ("dog",)
    assert Reading(subset=given).subset == ("dog",)
    assert Reading(target=given, as_class=given).targets == ("dog",)
    assert Mapped(concepts=given).concepts == ("dog",)


def test_an_assumption_is_confirmed_by_its_name():
    assert Reading(confirm="nuclei").confirm == Cutting(confirm="nuclei").confirm == ("nuclei",)


def test_a_glob_means_itself_and_not_its_star():
    network = load_network("test_efficientnet", weights="random")
    listed = [list_layers(network, layers=given) for given in ("blocks.*", ["blocks.*"])]
    pd.testing.assert_frame_equal(*listed)
    assert listed[0].layer.str.startswith("blocks.").all()
    with pytest.raises(LayerError, match="'b\\?cks'"):
        list_layers(network, layers="b?cks")


def test_a_part_of_names_is_looked_for_as_a_whole():
    assert asked_out({"HE-7128", "KX-7281"}, "7128") == {"HE-7128"}


def test_messages_name_what_was_given():
    with pytest.raises(DataError, match="No measure is named 'size'"):
        check_names("size", ("area", "height"), "measure")
    with pytest.raises(DataError, match="'astro'"):
        make_scenes(8, objects="astro")
    with pytest.raises(DataError, match="--layers 'add_13' names 1 layers"):
        compare_runs(["one", "other"], layers="add_13")


def test_a_step_of_the_paper_is_looked_for_as_a_whole(tmp_path):
    with pytest.raises(DataError, match="No step begins with 'picturesque'"):
        reproduce(out=tmp_path / "run", skip="picturesque")
