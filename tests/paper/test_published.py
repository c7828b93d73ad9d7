"""The published numbers, by what they must satisfy and by their most quoted ones."""

import numpy as np
import pytest

from scalecut import DataError
from scalecut.paper import published
from scalecut.paper.published import Misprint, check_counts


def test_table_of_patches_has_the_two_misprints():
    cells, totals = published.patch_counts()
    assert check_counts(cells, totals) == (
        Misprint("validation", "30X", 3504, 3054),
        Misprint("test", "40X", 3166, 3116),
    )
    corrected = cells.copy()
    for wrong in check_counts(cells, totals):
        corrected.loc[wrong.row, wrong.column] = wrong.right
    assert check_counts(corrected, totals) == ()
    with pytest.raises(DataError, match=r"^The rows add up to 69,019, but the total is 69,020\."):
        check_counts(cells, totals.replace(69019, 69020))


def test_random_measures_of_the_early_layers_are_those_of_about_300_images():
    # least squares on d features unrelated to the measure: R² of -d / (n - d - 1)
    table = published.curve("inception_v3").set_index("layer")
    for layer, d in (("mixed0", 256), ("mixed1", 288), ("mixed2", 288)):
        n = d + 1 - d / table.shuffled[layer]
        assert abs(n - 302) < 2


def test_peaks_are_where_the_curves_are_highest():
    for model in ("inception_v3", "resnet50"):
        table = published.curve(model).set_index("layer")
        layer, r2 = published.peak(model)
        assert table.pretrained.idxmax() == layer
        assert abs(table.pretrained.max() - r2) < 0.011


def test_curves_have_the_papers_layers():
    assert list(published.curve("inception_v3").layer) == [
        *(f"mixed{k}" for k in range(11)), "logits", "softmax",
    ]  # fmt: skip
    assert list(published.curve("resnet50_v1").layer) == [
        *(f"add_{k}" for k in range(1, 17)), "logits",
    ]  # fmt: skip
    assert published.curve("vit_small_patch16_224").empty


def test_cut_is_best_of_its_network_in_the_table_of_transfer():
    table = published.transfer_scores()
    assert len(table) == 6
    for _, rows in table.groupby("model"):
        by = rows.set_index("contestant")
        assert by.mae.idxmin() == by.kappa.idxmax() == "cut"
    assert np.ptp(table.mae_sd / np.sqrt(10)) < 7


def test_each_table_names_its_source():
    for what in ("inception_v3", "resnet50", "patches", "transfer"):
        assert published.source(what)
