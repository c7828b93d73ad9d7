"""What a figure holds is read back and compared with the table that it was drawn from."""

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
    predicted_drawing,
    printed_drawing,
    saving_drawing,
    scenes_drawing,
)
from scalecut.figures.drawing import page_figure
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
    "blur_leak": "blur", "padding_zeros_leak": "zero padding",
    "padding_reflect_leak": "reflection padding", "padding_circular_leak": "circular padding",
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
    outputs = long_form(["softmax"], columns).assign(depth=1.0)
    columns |= {"quantity": ("cosine",)}
    moves = {"change": CHANGES, "octaves": (-1.0, 1.0, 2.0), "quantity": ("drift", "map_error")}
    return pd.concat(
        [outputs, long_form(layers, columns), long_form(layers, moves)], ignore_index=True
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
IDS = ("invariance", "drift", "noise", "scenes", "directions")


def found(table, column="value", **wanted):
    chosen = table[np.all([table[name] == value for name, value in wanted.items()], axis=0)]
    return chosen[column].to_numpy()


def titles(figure):
    return [axes.get_title("left") for axes in panels(figure)]


def test_predictions_are_lines_over_the_sizes_in_order():
    table = of_invariance()
    figure = invariance_figure(table)
    assert ticks(figure) == ["1/4", "1/2.8", "1", "2", "4"]
    cropped = "Object scaled by cropping or padding"
    assert titles(figure) == ["Image resized", cropped]
    for axes, change in zip(panels(figure), CHANGES, strict=True):
        for label, quantity in (
            ("same top class", "agreement"),
            ("change of its probability", "probability_change"),
            ("Jensen-Shannon distance", "jensen_shannon"),
        ):
            values = drawn(axes, label).get_ydata()
            np.testing.assert_array_equal(values, found(table, change=change, quantity=quantity))
    gone = (table["change"] == "image-size") & (table["octaves"] == -1.5)
    figure = invariance_figure(table[~gone].sample(frac=1, random_state=1))
    assert ticks(figure) == ["1/4", "1/2.8", "1", "2", "4"]
    values = drawn(panels(figure)[0], "same top class").get_ydata()
    assert np.isnan(values).tolist() == [0, 1, 0, 0, 0]
    alone = table.query("change == 'object-scale'")
    assert titles(invariance_figure(alone)) == [cropped]
    assert len(panels(drift_figure(alone))) == 2


def test_drift_is_a_line_per_octave_named_by_its_ends():
    table = of_invariance()
    figure = drift_figure(table)
    assert ticks(figure) == [*LAYERS[:4], "pre_softmax", "softmax"]
    parts = product(CHANGES, ("drift", "map_error"))
    for axes, (change, quantity) in zip(panels(figure), parts, strict=True):
        for octaves, label in ((-1.0, "1/4 to 1/2"), (1.0, "1 to 2"), (2.0, "2 to 4")):
            values = found(table, change=change, quantity=quantity, octaves=octaves)
            np.testing.assert_array_equal(drawn(axes, label).get_ydata(), values)
        assert ("unrelated" in texts(axes)) == (quantity == "map_error")


def test_noise_has_a_panel_per_kind_and_a_line_per_padding():
    table = of_noise()
    figure = noise_figure(table)
    labels = {"zeros": "zero padding", "reflect": "reflection padding"}
    labels |= {"circular": "circular padding"}
    for axes, kind in zip(panels(figure), ("white", "blocks"), strict=True):
        assert axes.get_title("left") == f"Image size predicted from {kind} noise"
        for padding, label in labels.items():
            values = found(table, "r2", noise=kind, padding=padding)
            np.testing.assert_array_equal(drawn(axes, label).get_ydata(), values)
    table = table.query("noise == 'white'").copy()
    table.loc[(table["padding"] == "circular") & (table["layer"] == "stem"), "r2"] = -7.0
    (strip,) = strips(noise_figure(table))
    assert texts(strip) == ["below −1", "−7.0", "circular padding"]


def test_scenes_have_each_quantity_in_its_panel_with_its_interval():
    table = of_scenes()
    figure = scenes_figure(table)
    places = np.repeat(range(4), [2, 3, 2, 4])
    for place, (quantity, label) in zip(places, SCENES.items(), strict=True):
        line = drawn(panels(figure)[place], label)
        np.testing.assert_array_equal(line.get_ydata(), found(table, quantity=quantity))
    assert {"1: covariant", "0: invariant"} <= set(texts(panels(figure)[2]))
    gain = table.query("quantity == 'gain'")
    (axes,) = panels(scenes_figure(gain))
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for layer in range(len(LAYERS)):
        there = corners[corners[:, 0] == layer, 1]
        assert there.min() == pytest.approx(gain["low"].iloc[layer])
        assert there.max() == pytest.approx(gain["high"].iloc[layer])
    (axes,) = panels(scenes_figure(gain.assign(value=1.4, high=1.7)))
    assert axes.get_ylim()[1] > 1.7


def test_only_the_panels_with_rows_are_drawn():
    there = ["interaction_effect", "image_size_partial_r2"]
    table = of_scenes()
    figure = scenes_figure(table[table["quantity"].isin(there)])
    assert titles(figure) == [
        "Predicted from the features, the other one held constant",
        "Variance of the features explained",
    ]
    labels = {line.get_label() for axes in panels(figure) for line in axes.get_lines()}
    assert labels == {"zero", "image size", "interaction"}


def test_directions_have_a_line_per_subset_and_the_mean_of_the_shuffled_measure():
    table = of_directions()
    table.loc[table["quantity"] == "stability_degrees", ["value", "low", "high"]] *= 90
    stability, channels, _ = panels(directions_figure(table))
    for axes, quantity in ((stability, "stability_degrees"), (channels, "channels_90")):
        for subset in ("dog", "cat", "horse"):
            values = found(table, quantity=quantity, subset=subset)
            np.testing.assert_array_equal(drawn(axes, subset).get_ydata(), values)
    assert "shuffled target" not in texts(stability)
    by_chance = table[table["quantity"] == "stability_degrees"]
    by_chance = by_chance.assign(quantity="stability_shuffled_degrees")
    stability, *_ = panels(directions_figure(pd.concat([table, by_chance], ignore_index=True)))
    means = by_chance.groupby("layer", sort=False)["value"].mean()
    np.testing.assert_allclose(drawn(stability, "shuffled target").get_ydata(), means)


def test_transfer_is_the_mean_over_pairs_and_over_subsets_tested_on_themselves():
    table = of_directions()
    axes = panels(directions_figure(table))[-1]
    own, another = (
        drawn(axes, label).get_ydata() for label in ("the same subset", "another subset")
    )
    pairs = table[table["quantity"] == "transfer_r2"]
    for place, layer in enumerate(LAYERS):
        here = pairs[pairs["layer"] == layer]
        square = here.pivot(index="subset", columns="other", values="value").to_numpy()
        assert own[place] == pytest.approx(np.trace(square) / 3)
        assert another[place] == pytest.approx((square.sum() - np.trace(square)) / 6)
    alone = directions_figure(of_directions(subsets=("dog",)))
    labels = {line.get_label() for line in panels(alone)[-1].get_lines()}
    assert labels == {"zero", "the same subset"}


@pytest.mark.parametrize("draws", FIGURES, ids=IDS)
def test_figure_of_any_table_keeps_its_text_apart_and_leaves_the_table(draws):
    table = FIGURES[draws](DENSENET)
    before = table.copy()
    figure = draws(table)
    check_texts(figure)
    pd.testing.assert_frame_equal(table, before)
    heading = [text.get_text() for text in figure.texts]
    assert heading == ["some_net", "pretrained weights   ·   n = 48 images"]
    value = "r2" if "r2" in table else "value"
    many = table.assign(n_images=np.resize([48, 1200], len(table)))
    many[value] = many[value].where(many["layer"] != DENSENET[1])  # a gap
    assert draws(many).texts[1].get_text().endswith("n = 48 to 1,200 images")
    written(draws(table.assign(**{value: math.nan})))  # nothing but gaps


@pytest.mark.slow
@pytest.mark.parametrize("draws", FIGURES, ids=IDS)
@pytest.mark.parametrize("layers", [["conv"], LAYERS], ids=len)
def test_texts_of_few_layers_do_not_touch_either(draws, layers):
    check_texts(draws(FIGURES[draws](layers)))


WHAT = ("invariance", "invariance", "noise", "scenes", "directions")
QUANTITIES = {
    invariance_figure: "agreement, probability_change, jensen_shannon",
    drift_figure: "drift, map_error",
    scenes_figure: ", ".join(SCENES),
    directions_figure: "stability_degrees, channels_90, stability_shuffled_degrees, "
    "channels_90_shuffled, transfer_r2",
}


def refusal(draws, *table):
    with pytest.raises(DataError) as error:
        draws(*table)
    return str(error.value)


def test_table_that_cannot_be_drawn_is_refused_with_the_remedy():
    for what, (draws, make) in zip(WHAT, FIGURES.items(), strict=True):
        table = make()
        for column in ("model", "weights"):
            first = table[column].iloc[0]
            two = pd.concat([table, table.assign(**{column: "other"})])
            assert refusal(draws, two) == (
                f"The table of {what} has 2 {column.rstrip('s')}s, {first!r} and 'other' first; a "
                f"figure shows one. Choose it with frame[frame.{column} == {first!r}]."
            )
        assert refusal(draws, table.drop(columns=["depth"])) == (
            f"The table of {what} lacks 1 of the columns that a figure needs, the first is "
            "'depth'. Give the table as scalecut wrote it."
        )
        nothing = table.assign(quantity="cosine").head(5 if draws in QUANTITIES else 0)
        assert refusal(draws, nothing) == (
            f"The table of {what} has {len(nothing)} rows, none of them of "
            f"{QUANTITIES.get(draws, 'a layer')}. Give the whole table as scalecut wrote it."
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
    other = of_paper("resnet50_v1", ["add_1", "mixed0"])
    table = pd.concat([of_paper(), other, of_paper(layers=["at mixed8"]).assign(section="3.4")])
    figure = printed_figure(table, "inception_v3")
    assert titles(figure) == list(KINDS)
    assert ticks(figure) == MIXED  # of neither another network nor another section
    assert figure.texts[0].get_text() == "inception_v3"
    own = of_paper()
    for axes, kind in zip(panels(figure), KINDS, strict=True):
        for column, label in LINES.items():
            r2 = found(own, column, quantity=f"R², {kind}")
            np.testing.assert_allclose(drawn(axes, label).get_ydata(), np.exp(r2) / math.e)
    (band,) = panels(figure)[0].collections  # of ours with ridge
    corners = band.get_paths()[0].vertices
    for place, row in enumerate(own.head(len(MIXED)).itertuples()):
        there = corners[corners[:, 0] == place, 1]
        assert there.min() == pytest.approx(math.exp(row.ours_low - 1))
        assert there.max() == pytest.approx(math.exp(row.ours_high - 1))


def test_what_is_missing_or_far_below_0_leaves_the_rest_as_it_is():
    table = of_paper()
    ours = ["ours", "ours_low", "ours_high", "ours_as_paper"]
    table.loc[table["item"] == "mixed2", ours] = math.nan
    table.loc[3, "paper"] = -3861.0
    table.loc[table["quantity"] == "R², random weights", ["paper", *ours]] = math.nan
    figure = printed_figure(table, "inception_v3")
    assert titles(figure) == [KINDS[0], KINDS[2]]
    for axes in panels(figure):
        for column, label in LINES.items():
            gaps = [0, 0, column != "paper", 0]
            assert np.isnan(drawn(axes, label).get_ydata()).tolist() == gaps
    first = panels(figure)[0]
    assert drawn(first, LINES["paper"]).get_ydata()[3] == 0
    assert first.get_ylim()[0] <= 0
    for axes in panels(printed_figure(of_paper().assign(ours=math.nan), "inception_v3")):
        labels = {line.get_label() for line in axes.get_lines()}
        assert labels & set(LINES.values()) == {LINES["paper"], LINES["ours_as_paper"]}


def test_table_without_a_printed_layer_is_refused_with_the_remedy():
    assert refusal(printed_drawing, of_paper(), "net") == (
        "The table has no layer of net. Give one of those that it has."
    )
    assert refusal(printed_drawing, of_paper("net").drop(columns="ours_low"), "net") == (
        "The table lacks 1 of the columns that a figure needs, the first is 'ours_low'. Give "
        "paper.csv as scalecut wrote it."
    )


@pytest.mark.parametrize("layers", [["mixed0"], DENSENET], ids=len)
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


def test_what_the_cut_keeps_is_in_the_caption_and_marked_up_to_its_layer():
    kept = {"a": "25 % of multiply-accumulates, 20 % of parameters"}
    kept["b"] = "50 % of multiply-accumulates, 50 % of parameters"
    for layer, said in kept.items():
        drawing = saving_drawing(of_costs(), "net", layer)
        assert drawing.caption == f"cut after {layer}   ·   keeps {said}"
        (mark,) = drawing.panels[0].marks
        end = list(BEFORE).index(layer) + 0.5
        assert (mark.spans, mark.at) == (((-0.5, end),), end)
        assert drawing.places == ["a", "b", "pre_softmax"]


def test_shares_are_of_all_that_the_network_has_where_that_is_known():
    """A quarter of the parameters are those of an auxiliary head, on which no layer depends."""
    whole = {"parameters": 40 / 3, "macs": 120, "seconds": 1.0}
    drawing = saving_drawing(of_costs(), "net", "b", whole)
    found = {line.look.label: line.values for line in drawing.panels[0].lines}
    np.testing.assert_allclose(found["parameters"], [0.15, 0.375, 0.75])
    np.testing.assert_allclose(found["multiply-accumulates"], [0.25, 0.5, 1])
    assert drawing.caption.endswith("keeps 50 % of multiply-accumulates, 38 % of parameters")
    assert drawing.panels[0].scale.label == "share of the network"


def test_network_without_known_parameters_has_a_line_of_macs_alone():
    costs = of_costs({layer: (None, macs) for layer, (_, macs) in BEFORE.items()})
    drawing = saving_drawing(costs, "net", "a")
    assert [line.look.label for line in drawing.panels[0].lines] == ["multiply-accumulates"]
    assert drawing.caption.endswith("keeps 25 % of multiply-accumulates")
    assert refusal(saving_drawing, costs, "net", "c") == (
        "The table has no layer 'c'. Give one of its 3 layers."
    )


def test_every_text_of_the_saving_is_on_the_page_and_none_touch():
    costs = of_costs({layer: (n, n) for n, layer in enumerate(DENSENET, start=1)})
    for layer in (DENSENET[0], DENSENET[-1]):
        check_texts(saving_figure(costs, "net", layer))


# --- true against predicted ----------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.008), (0.02, 0.6), (30.0, 90.0), (-2.0, -1.0)])
def test_predictions_of_any_range_fill_the_axis_and_have_names_of_their_own(low, high):
    rng = np.random.default_rng(0)
    true = low * (high / low) ** rng.random(400)  # many small ones, as areas are
    predicted = true + 0.02 * (high - low) * rng.normal(size=400)
    table = pd.DataFrame({"subset": "dog", "measure": true, "layer": "a", "predicted": predicted})
    drawing = predicted_drawing(table, "net", "a", "a")
    assert len({*drawing.places}) == 10
    centres = [group.mean() for group in np.array_split(np.sort(true), 10)]
    shown = [float(name.replace("−", "-")) for name in drawing.places]
    np.testing.assert_allclose(shown, centres, atol=0.006 * (high - low))
    figure = page_figure(drawing)
    (axes,) = panels(figure)
    (bottom, top), values = axes.get_ylim(), drawn(axes, "dog").get_ydata()
    assert np.ptp(values) > 0.8 * (top - bottom)
    check_texts(figure)
