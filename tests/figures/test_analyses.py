"""What a figure holds is read back and compared with the table it was drawn from."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from scalecut.errors import DataError
from scalecut.figures.analyses import (
    directions_drawing,
    drift_drawing,
    invariance_drawing,
    noise_drawing,
    printed_drawing,
    saving_drawing,
    scenes_drawing,
)
from tests.figures.test_curve import (
    DENSENET,
    check_texts,
    drawn,
    figure_of,
    panels,
    strips,
    texts,
    ticks,
    written,
)

invariance_figure, drift_figure = figure_of(invariance_drawing), figure_of(drift_drawing)
noise_figure, scenes_figure = figure_of(noise_drawing), figure_of(scenes_drawing)
directions_figure = figure_of(directions_drawing)

LAYERS = ["stem", "blocks.0", "blocks.1", "pooled", "logits", "softmax"]
OCTAVES = (-2.0, -1.5, 0.0, 1.0, 2.0)
CHANGES = ("image-size", "object-scale")
SCENES = {
    "object_scale_partial_r2": "object scale", "image_size_partial_r2": "image size",
    "object_scale_effect": "object scale", "image_size_effect": "image size",
    "interaction_effect": "interaction", "gain": "gain", "r2": "R² of the probe",
    "blur_leak": "blur", "padding_zeros_leak": "padding with zeros",
    "padding_reflect_leak": "padding, reflected", "padding_circular_leak": "padding, circular",
}  # fmt: skip


def long_form(layers, columns):
    """A row of random values for each combination of the columns and each layer."""
    rng = np.random.default_rng(7)
    rows = []
    for combination, (number, layer) in product(product(*columns.values()), enumerate(layers)):
        value = rng.uniform(0.1, 0.9)
        rows.append({
            "model": "some_net", "weights": "pretrained", "layer": layer,
            "alias": "pre_softmax" if layer == "logits" else math.nan,
            "depth": number / max(1, len(layers) - 1), "n_features": 9, "n_images": 48,
            **dict(zip(columns, combination, strict=True)),
            "value": value, "low": value - 0.05, "high": value + 0.04,
        })  # fmt: skip
    return pd.DataFrame(rows)


def of_invariance(layers=LAYERS):
    ends = ("agreement", "probability_change", "jensen_shannon")
    columns = {"change": CHANGES, "octaves": OCTAVES, "quantity": ends}
    answers = long_form(["softmax"], columns).assign(depth=1.0)
    columns |= {"quantity": ("cosine",)}
    moves = {"change": CHANGES, "octaves": (-1.0, 1.0, 2.0), "quantity": ("drift", "map_error")}
    return pd.concat(
        [answers, long_form(layers, columns), long_form(layers, moves)], ignore_index=True
    )


def of_noise(layers=LAYERS):
    columns = {"noise": ("white", "blocks"), "padding": ("zeros", "reflect", "circular")}
    names = {"value": "r2", "low": "r2_low", "high": "r2_high"}
    return long_form(layers, columns).rename(columns=names)


def of_scenes(layers=LAYERS):
    return long_form(layers, {"quantity": SCENES})


def of_directions(layers=LAYERS, subsets=("dog", "cat", "horse")):
    own = {"subset": subsets, "other": ("",), "quantity": ("stability_degrees", "channels_90")}
    pairs = {"subset": subsets, "other": subsets, "quantity": ("transfer_r2", "br")}
    return pd.concat([long_form(layers, own), long_form(layers, pairs)], ignore_index=True)


FIGURES = {
    invariance_figure: of_invariance,
    drift_figure: of_invariance,
    noise_figure: of_noise,
    scenes_figure: of_scenes,
    directions_figure: of_directions,
}


def found(table, column="value", **wanted):
    chosen = table[np.all([table[name] == value for name, value in wanted.items()], axis=0)]
    return chosen[column].to_numpy()


def titles(figure):
    return [axes.get_title("left") for axes in panels(figure)]


def test_answers_are_lines_over_the_sizes():
    table = of_invariance()
    figure = invariance_figure(table)
    assert ticks(figure) == ["1/4", "1/2.8", "1", "2", "4"]
    assert titles(figure) == ["Picture resized", "Object cropped in or padded out"]
    for axes, change in zip(panels(figure), CHANGES, strict=True):
        for label, quantity in (
            ("same first class", "agreement"),
            ("change of its probability", "probability_change"),
            ("Jensen-Shannon distance", "jensen_shannon"),
        ):
            values = drawn(axes, label).get_ydata()
            np.testing.assert_array_equal(values, found(table, change=change, quantity=quantity))


def test_sizes_stand_in_their_order_and_keep_the_place_of_one_that_is_missing():
    table = of_invariance()
    gone = (table["change"] == "image-size") & (table["octaves"] == -1.5)
    figure = invariance_figure(table[~gone].sample(frac=1, random_state=1))
    assert ticks(figure) == ["1/4", "1/2.8", "1", "2", "4"]
    resized, cropped = panels(figure)
    assert np.isnan(drawn(resized, "same first class").get_ydata()).tolist() == [0, 1, 0, 0, 0]
    assert np.isfinite(drawn(cropped, "same first class").get_ydata()).all()


def test_one_change_is_one_panel():
    table = of_invariance().query("change == 'object-scale'")
    assert titles(invariance_figure(table)) == ["Object cropped in or padded out"]
    assert len(panels(drift_figure(table))) == 2


def test_drift_is_a_line_for_each_octave_named_by_its_ends():
    table = of_invariance()
    figure = drift_figure(table)
    assert ticks(figure) == [*LAYERS[:4], "pre_softmax", "softmax"]
    parts = product(CHANGES, ("drift", "map_error"))
    for axes, (change, quantity) in zip(panels(figure), parts, strict=True):
        for octaves, label in ((-1.0, "1/4 to 1/2"), (1.0, "1 to 2"), (2.0, "2 to 4")):
            values = found(table, change=change, quantity=quantity, octaves=octaves)
            np.testing.assert_array_equal(drawn(axes, label).get_ydata(), values)
        assert ("unrelated" in texts(axes)) == (quantity == "map_error")


def test_noise_has_a_panel_for_each_kind_and_a_line_for_each_padding():
    table = of_noise()
    figure = noise_figure(table)
    for axes, kind in zip(panels(figure), ("white", "blocks"), strict=True):
        assert axes.get_title("left") == f"Image size read from {kind} noise"
        for label, padding in (
            ("padded with zeros", "zeros"), ("reflected", "reflect"), ("circular", "circular"),
        ):  # fmt: skip
            values = found(table, "r2", noise=kind, padding=padding)
            np.testing.assert_array_equal(drawn(axes, label).get_ydata(), values)


def test_noise_below_the_floor_is_written():
    table = of_noise().query("noise == 'white'").copy()
    table.loc[(table["padding"] == "circular") & (table["layer"] == "stem"), "r2"] = -7.0
    (strip,) = strips(noise_figure(table))
    assert texts(strip) == ["below −1", "−7.0", "circular"]


def test_scenes_have_each_quantity_in_its_panel():
    table = of_scenes()
    figure = scenes_figure(table)
    counts = [2, 3, 2, 4]
    places = np.repeat(range(4), counts)
    for place, (quantity, label) in zip(places, SCENES.items(), strict=True):
        line = drawn(panels(figure)[place], label)
        np.testing.assert_array_equal(line.get_ydata(), found(table, quantity=quantity))
    assert {"1: covariant", "0: invariant"} <= set(texts(panels(figure)[2]))


@pytest.mark.parametrize(
    ("there", "shown"),
    [
        (["gain"], ["Only the object resized, in the same picture"]),
        (["blur_leak", "padding_zeros_leak"], ["What a leak alone can buy"]),
        (
            ["interaction_effect", "image_size_partial_r2"],
            [
                "Read from the features, the other being known",
                "Variance of the features explained",
            ],
        ),
    ],
)
def test_only_the_parts_that_are_there_are_drawn(there, shown):
    table = of_scenes()
    figure = scenes_figure(table[table["quantity"].isin(there)])
    assert titles(figure) == shown
    labels = {line.get_label() for axes in panels(figure) for line in axes.get_lines()}
    assert {SCENES[quantity] for quantity in there} <= labels
    assert labels.isdisjoint(set(SCENES.values()) - {SCENES[quantity] for quantity in there})


def test_a_gain_above_one_is_inside_the_axes():
    table = of_scenes()
    table.loc[table["quantity"] == "gain", ["value", "high"]] = (1.4, 1.7)
    axes = panels(scenes_figure(table))[2]
    assert axes.get_ylim()[1] > 1.7


def test_directions_have_a_line_for_each_subset():
    table = of_directions()
    table.loc[table["quantity"] == "stability_degrees", ["value", "low", "high"]] *= 90
    stability, channels, _ = panels(directions_figure(table))
    for axes, quantity in ((stability, "stability_degrees"), (channels, "channels_90")):
        for subset in ("dog", "cat", "horse"):
            values = found(table, quantity=quantity, subset=subset)
            np.testing.assert_array_equal(drawn(axes, subset).get_ydata(), values)
    assert "shuffled measure" not in texts(stability)
    by_chance = table[table["quantity"] == "stability_degrees"]
    by_chance = by_chance.assign(quantity="stability_shuffled_degrees")
    stability, *_ = panels(directions_figure(pd.concat([table, by_chance], ignore_index=True)))
    means = by_chance.groupby("layer", sort=False)["value"].mean()
    np.testing.assert_allclose(drawn(stability, "shuffled measure").get_ydata(), means)


def test_transfer_is_the_mean_over_pairs_beside_that_of_the_same_subset():
    table = of_directions()
    axes = panels(directions_figure(table))[-1]
    pairs = table[table["quantity"] == "transfer_r2"]
    for layer, (own, another) in enumerate(
        zip(
            drawn(axes, "the same subset").get_ydata(),
            drawn(axes, "another subset").get_ydata(),
            strict=True,
        )
    ):
        square = pairs[pairs["layer"] == LAYERS[layer]].pivot(
            index="subset", columns="other", values="value"
        )
        on, all_of = np.trace(square), square.to_numpy().sum()
        assert own == pytest.approx(on / 3)
        assert another == pytest.approx((all_of - on) / 6)


def test_one_subset_transfers_to_no_other():
    figure = directions_figure(of_directions(subsets=("dog",)))
    labels = {line.get_label() for line in panels(figure)[-1].get_lines()}
    assert labels == {"zero", "the same subset"}


def test_bands_are_the_intervals_of_the_table():
    table = of_scenes().query("quantity == 'gain'")
    (band,) = panels(scenes_figure(table))[0].collections
    corners = band.get_paths()[0].vertices
    for layer in range(len(LAYERS)):
        there = corners[corners[:, 0] == layer, 1]
        assert there.min() == pytest.approx(table["low"].iloc[layer])
        assert there.max() == pytest.approx(table["high"].iloc[layer])


@pytest.mark.parametrize("draws", FIGURES)
@pytest.mark.parametrize("layers", [["conv"], LAYERS, DENSENET], ids=len)
def test_every_text_is_on_the_page_and_none_touch(draws, layers):
    check_texts(draws(FIGURES[draws](layers)))


@pytest.mark.parametrize("draws", FIGURES)
def test_missing_values_are_gaps_and_nothing_but_them_is_empty(draws):
    table = FIGURES[draws]()
    value = "r2" if "r2" in table else "value"
    written(draws(table.assign(**{value: table[value].where(table["layer"] != "blocks.1")})))
    written(draws(table.assign(**{value: math.nan})))


@pytest.mark.parametrize("draws", FIGURES)
def test_heading_gives_model_weights_and_n(draws):
    table = FIGURES[draws]()
    heading = [text.get_text() for text in draws(table).texts]
    assert heading == ["some_net", "pretrained weights   ·   n = 48 images"]
    table.loc[table.index[::2], "n_images"] = 1200
    assert draws(table).texts[1].get_text().endswith("n = 48 to 1,200 images")


@pytest.mark.parametrize("draws", FIGURES)
def test_table_is_left_as_found(draws):
    table = FIGURES[draws]()
    before = table.copy()
    draws(table)
    pd.testing.assert_frame_equal(table, before)


WHAT = dict(
    zip(FIGURES, ("invariance", "invariance", "noise", "scenes", "directions"), strict=True)
)


@pytest.mark.parametrize("draws", FIGURES)
@pytest.mark.parametrize("column", ["model", "weights"])
def test_two_models_or_weights_are_refused_with_the_remedy(draws, column):
    table = FIGURES[draws]()
    two = pd.concat([table, table.assign(**{column: "other"})])
    with pytest.raises(DataError) as error:
        draws(two)
    first = table[column].iloc[0]
    assert str(error.value) == (
        f"The table of {WHAT[draws]} has 2 {column.rstrip('s')}s, {first!r} and 'other' first; a "
        f"figure shows one. Choose one: frame[frame.{column} == {first!r}]."
    )


@pytest.mark.parametrize("draws", FIGURES)
def test_table_without_a_column_is_refused_with_the_remedy(draws):
    with pytest.raises(DataError) as error:
        draws(FIGURES[draws]().drop(columns=["depth"]))
    assert str(error.value) == (
        f"The table of {WHAT[draws]} lacks 1 of the columns that a figure needs, the first is "
        "'depth'. Give the table as scalecut wrote it."
    )


@pytest.mark.parametrize(
    ("draws", "wanted"),
    [
        (invariance_figure, "agreement, probability_change, jensen_shannon"),
        (drift_figure, "drift, map_error"),
        (scenes_figure, ", ".join(SCENES)),
        (
            directions_figure,
            "stability_degrees, channels_90, stability_shuffled_degrees, channels_90_shuffled, "
            "transfer_r2",
        ),
    ],
)
def test_table_without_anything_to_draw_is_refused_with_the_remedy(draws, wanted):
    with pytest.raises(DataError) as error:
        draws(FIGURES[draws]().assign(quantity="cosine").head(5))
    assert str(error.value) == (
        f"The table of {WHAT[draws]} has 5 rows, none of them of {wanted}. Give the whole table as "
        "scalecut wrote it."
    )


def test_empty_table_of_noise_is_refused_with_the_remedy():
    with pytest.raises(DataError) as error:
        noise_figure(of_noise().head(0))
    assert str(error.value) == (
        "The table of noise has 0 rows, none of them of a layer. Give the whole table as scalecut "
        "wrote it."
    )


# --- the paper's numbers -------------------------------------------------------------------------

KINDS = ("ImageNet weights", "random weights", "random measures")
MIXED = [f"mixed{number}" for number in range(4)]


def of_paper(network="inception_v3", layers=MIXED):
    """A row of random R² for each kind and layer; the paper's own far below 0 at one."""
    rng = np.random.default_rng(8)
    rows = [
        {"section": "A.2", "network": network, "item": layer, "quantity": f"R², {kind}",
         "paper": rng.uniform(-1, 1), "ours_as_paper": rng.uniform(-1, 1), "ours": ours,
         "ours_low": ours - 0.1, "ours_high": ours + 0.05}
        for kind in KINDS for layer in layers for ours in [rng.uniform(0, 0.9)]
    ]  # fmt: skip
    return pd.DataFrame(rows)


printed_figure = figure_of(printed_drawing)
LINES = {
    "ours": "ridge, ours",
    "ours_as_paper": "least squares, ours",
    "paper": "least squares, the paper",
}


def test_printed_and_ours_are_lines_over_the_layers_on_the_axis_of_the_paper():
    table = of_paper()
    figure = printed_figure(table, "inception_v3")
    assert titles(figure) == list(KINDS)
    assert ticks(figure) == MIXED
    for axes, kind in zip(panels(figure), KINDS, strict=True):
        for column, label in LINES.items():
            r2 = found(table, column, quantity=f"R², {kind}")
            np.testing.assert_allclose(drawn(axes, label).get_ydata(), np.exp(r2) / math.e)


def test_band_is_that_of_ours_with_ridge_alone():
    table = of_paper()
    axes = panels(printed_figure(table, "inception_v3"))[0]
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for place, row in enumerate(table.head(len(MIXED)).itertuples()):
        there = corners[corners[:, 0] == place, 1]
        assert there.min() == pytest.approx(math.exp(row.ours_low - 1))
        assert there.max() == pytest.approx(math.exp(row.ours_high - 1))


def test_layer_that_was_not_read_is_a_gap_beside_what_is_printed():
    table = of_paper()
    table.loc[table["item"] == "mixed2", ["ours", "ours_low", "ours_high", "ours_as_paper"]] = (
        math.nan
    )
    for axes in panels(printed_figure(table, "inception_v3")):
        for column, label in LINES.items():
            gaps = [0, 0, column != "paper", 0]
            assert np.isnan(drawn(axes, label).get_ydata()).tolist() == gaps


def test_r2_far_below_0_stays_on_the_axis():
    table = of_paper()
    table.loc[3, "paper"] = -3861.0
    axes = panels(printed_figure(table, "inception_v3"))[0]
    assert drawn(axes, "least squares, the paper").get_ydata()[3] == 0
    assert axes.get_ylim()[0] <= 0


def test_only_what_was_printed_is_drawn_of_a_run_that_is_lacking():
    table = of_paper().assign(**dict.fromkeys(("ours", "ours_as_paper"), math.nan))
    for axes in panels(printed_figure(table, "inception_v3")):
        labels = {line.get_label() for line in axes.get_lines()}
        assert labels & set(LINES.values()) == {"least squares, the paper"}


def test_kind_that_has_no_number_has_no_panel():
    table = of_paper()
    gone = table["quantity"] == "R², random weights"
    table.loc[gone, ["paper", "ours", "ours_as_paper"]] = math.nan
    assert titles(printed_figure(table, "inception_v3")) == [KINDS[0], KINDS[2]]


def test_layers_of_another_network_and_other_sections_are_not_drawn():
    other = of_paper("resnet50_v1", ["add_1", "mixed0"])
    table = pd.concat([of_paper(), other, of_paper(layers=["at mixed8"]).assign(section="3.4")])
    figure = printed_figure(table, "inception_v3")
    assert ticks(figure) == MIXED
    assert figure.texts[0].get_text() == "inception_v3"
    written(printed_figure(table, "resnet50_v1"))


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (of_paper(), "The table has no layer of net. Give one of those that it has."),
        (
            of_paper("net").drop(columns="ours_low"),
            "The table lacks 1 of the columns that a figure needs, the first is 'ours_low'. Give "
            "paper.csv as scalecut wrote it.",
        ),
    ],
    ids=["network", "column"],
)
def test_table_without_a_printed_layer_is_refused_with_the_remedy(table, error):
    with pytest.raises(DataError) as caught:
        printed_drawing(table, "net")
    assert str(caught.value) == error


@pytest.mark.parametrize("layers", [["mixed0"], [*MIXED, *LAYERS], DENSENET], ids=len)
def test_every_text_of_the_papers_figure_is_on_the_page_and_none_touch(layers):
    check_texts(printed_figure(of_paper(layers=layers), "inception_v3"))


# --- what a cut saves ----------------------------------------------------------------------------

saving_figure = figure_of(saving_drawing)
BEFORE = {"a": (2, 30), "b": (5, 60), "logits": (10, 120)}  # parameters and multiply-accumulates


def of_costs(before=BEFORE):
    rows = [
        {"layer": layer, "alias": "pre_softmax" if layer == "logits" else "", "depth": depth,
         "parameters": parameters, "macs": macs}
        for depth, (layer, (parameters, macs)) in enumerate(before.items())
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_costs_are_drawn_as_shares_of_the_whole_network():
    (axes,) = panels(saving_figure(of_costs(), "net", "b"))
    assert drawn(axes, "parameters").get_ydata() == pytest.approx([0.2, 0.5, 1])
    assert drawn(axes, "multiply-accumulates").get_ydata() == pytest.approx([0.25, 0.5, 1])


@pytest.mark.parametrize(("layer", "said"), [
    ("a", "cut after a   ·   keeps 25 % of multiply-accumulates, 20 % of parameters"),
    ("b", "cut after b   ·   keeps 50 % of multiply-accumulates, 50 % of parameters"),
])  # fmt: skip
def test_what_the_cut_keeps_is_said_and_set_apart_up_to_its_layer(layer, said):
    drawing = saving_drawing(of_costs(), "net", layer)
    assert drawing.caption == said
    (mark,) = drawing.panels[0].marks
    end = list(BEFORE).index(layer) + 0.5
    assert (mark.spans, mark.at) == (((-0.5, end),), end)
    assert ticks(saving_figure(of_costs(), "net", layer)) == ["a", "b", "pre_softmax"]


def test_network_that_hands_on_no_gradient_has_no_parameters_to_draw():
    costs = of_costs({layer: (None, macs) for layer, (_, macs) in BEFORE.items()})
    drawing = saving_drawing(costs, "net", "a")
    assert [line.look.label for line in drawing.panels[0].lines] == ["multiply-accumulates"]
    assert drawing.caption.endswith("keeps 25 % of multiply-accumulates")


def test_layer_that_has_no_cost_is_refused():
    with pytest.raises(DataError) as caught:
        saving_drawing(of_costs(), "net", "c")
    assert str(caught.value) == "The table has no layer 'c'. Give one of its 3 layers."


@pytest.mark.parametrize("layers", [["a", "b"], DENSENET], ids=len)
def test_every_text_of_the_saving_is_on_the_page_and_none_touch(layers):
    costs = of_costs({layer: (n, n) for n, layer in enumerate(layers, start=1)})
    for layer in (layers[0], layers[-1]):
        check_texts(saving_figure(costs, "net", layer))
