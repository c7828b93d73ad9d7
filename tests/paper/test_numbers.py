"""Curves with planted R² are compared with the paper, at the layer and kind they belong to."""

import json
import math
import tomllib
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from scalecut import Curve, DataError, ProbePoint, runs
from scalecut.paper import numbers as paper
from scalecut.paper.numbers import (
    AREAS,
    CUT,
    FINETUNED,
    GOOGLENET,
    INCEPTION,
    INCOMPARABLE,
    KINDS,
    MISPRINT,
    NETWORKS,
    NOISE,
    NOT_REPRODUCED,
    PATCHES,
    PICTURES,
    QUICK_NETWORKS,
    REPRODUCED,
    RESNET,
    RESNET_COMPLETE,
    SIZES,
    STAND_IN,
    Found,
    marked,
    marked_score,
    misprints,
    numbers_of,
    read,
    step_of,
)
from scalecut.report.curve import COLUMNS, scored_by_r2
from scalecut.report.report import PAGE

PRINTED = tomllib.loads(
    resources.files("scalecut").joinpath("paper", "graziani2021.toml").read_text(encoding="utf-8")
)
SIZES_STEP, NOISE_STEP, AREAS_STEP = (step_of(kind, STAND_IN) for kind in (SIZES, NOISE, AREAS))
TABLE_OF = {INCEPTION: "inception_v3", RESNET: "resnet50", RESNET_COMPLETE: "resnet50"}
LAST = {"pooled": "", "logits": "pre_softmax", "softmax": "softmax"}
POINTS = {
    INCEPTION: {
        **{f"Mixed_{n}": f"mixed{k}" for k, n in enumerate(
            ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"))},
        **LAST,
    },
    RESNET: {
        **{f"layer{stage}.{block}": f"add_{k}" for k, (stage, block) in enumerate(
            ((s, b) for s, n in enumerate((3, 4, 6, 3), start=1) for b in range(n)), start=1)},
        **LAST,
    },
    GOOGLENET: {**{f"inception{block}": "" for block in ("3a", "4a", "5a")}, **LAST},
    STAND_IN: {**{f"blocks.{k}": "" for k in range(5)}, **LAST},
}  # fmt: skip
POINTS[RESNET_COMPLETE] = POINTS[RESNET]


def section_of(table, section):
    return table.loc[table.section == section]


PAPERS = {network: {layer: layer if layer in LAST else alias or layer
                    for layer, alias in points.items()}
          for network, points in POINTS.items()}  # fmt: skip
LINES = [
    (weights, target, regressor)
    for weights, target in (("pretrained", "true"), ("random", "true"), ("pretrained", "shuffled"))
    for regressor in ("ridge", "ols")
]
OFFSETS = {"cat": 0.01, "dog": -0.01, "mean": 0.0}  # of R², the first two about the third
WIDTH = {"low": -0.03, "high": 0.02}  # of the interval, about R²


def planted(network):
    """R² by line and layer, no two alike, least squares close to what the paper prints."""
    table = PRINTED.get(TABLE_OF.get(network), {"layers": []})
    found = {}
    for number, (weights, target, regressor) in enumerate(LINES):
        kind = "shuffled" if target == "shuffled" else weights
        for place, (layer, name) in enumerate(PAPERS[network].items()):
            r2 = 0.1 + 0.01 * place + 0.2 * (kind == "pretrained") + 0.001 * number
            if regressor == "ols" and kind in table and name in table["layers"]:
                printed = table[kind][table["layers"].index(name)]
                r2 = printed * (1 + 0.001 * (number + 1))
            found[weights, target, regressor, layer] = r2
    return found


def curve(network, values=None, subsets=("cat", "dog", "mean"), left_out=()):
    """A curve of these R²; of the points of the network, those that have any."""
    values = planted(network) if values is None else values
    layers = [layer for layer in POINTS[network] if any(layer == key[-1] for key in values)]
    points = tuple(
        ProbePoint(layer, POINTS[network][layer], place / max(1, len(layers) - 1), layer, "output",
                   300 + place)
        for place, layer in enumerate(layers)
    )  # fmt: skip
    at = {point.layer: point for point in points}
    rows = []
    for subset in subsets:
        for (weights, target, regressor, layer), mean in values.items():
            r2, is_own = mean + OFFSETS[subset], (weights, target) == ("pretrained", "true")
            learned = 0.4 if is_own and regressor == "ridge" else math.nan
            rows.append([
                network, subset, "area", layer, at[layer].alias, at[layer].depth,
                at[layer].channels, 90 if subset == "mean" else 40 + len(subset), weights, target,
                regressor, r2, r2 + WIDTH["low"], r2 + WIDTH["high"], 0.005, 10, 274, math.nan,
                learned, learned - 0.1, learned + 0.1,
            ])  # fmt: skip
    noise = np.random.default_rng(3).normal(size=(len(rows), 60))
    table = scored_by_r2(pd.DataFrame(rows, columns=COLUMNS[:-4]))
    draws = (table.r2.to_numpy()[:, None] + 0.005 * noise).astype(np.float32)
    reasons = [{"name": name, "reason": reason} for name, reason in left_out]
    return Curve(table, draws, points, provenance={"layers_left_out": reasons})


def stored(found, folder):
    """Saved without figures, and with an empty page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalecut.report.report.write_report", lambda made: (made / PAGE).touch())
        found.save(folder)


def only(values, *, without=()):
    """Without the lines or layers named, by any part of their key."""
    return {key: r2 for key, r2 in values.items() if not set(key) & set(without)}


def lines_of(rows, **wanted):
    return rows[np.all([rows[name] == value for name, value in wanted.items()], axis=0)]


def one(rows, **wanted):
    """The one row of these."""
    found = lines_of(rows, **wanted)
    assert len(found) == 1, f"{len(found)} rows of {wanted}"
    return found.iloc[0]


@pytest.fixture(scope="module")
def curves():
    return {network: curve(network) for network in NETWORKS}


@pytest.fixture(scope="module")
def table(curves):
    return numbers_of(Found(curves=curves))


# --- the rule of marks ---------------------------------------------------------------------------


def test_r2_is_reproduced_up_to_two_tenths_apart_and_no_farther():
    for ours in range(1, 121):  # hundredths, so that 20 are 20
        for theirs in range(1, 101):
            expected = REPRODUCED if abs(ours - theirs) <= 20 else NOT_REPRODUCED
            assert marked(theirs / 100, ours / 100)[0] == expected, (theirs, ours)


@pytest.mark.parametrize("paper_r2", [-3861.0, -1.2, -0.01, 0.0])
@pytest.mark.parametrize("ours", [-11077.0, -0.001, 0.0])
def test_what_is_not_above_0_is_reproduced_however_far_apart(paper_r2, ours):
    assert marked(paper_r2, ours) == (REPRODUCED, "")


@pytest.mark.parametrize(("one_r2", "other"), [(0.01, -0.01), (0.01, 0.0), (0.84, -3861.0)])
def test_signs_that_differ_are_not_reproduced_however_close(one_r2, other):
    assert marked(one_r2, other) == (NOT_REPRODUCED, "the signs differ")
    assert marked(other, one_r2) == (NOT_REPRODUCED, "the signs differ")


def test_too_far_apart_says_how_far_is_too_far():
    assert marked(0.84, 0.5) == (NOT_REPRODUCED, "more than 0.2 apart")


@pytest.mark.parametrize("paper_r2", [0.5, 0.0, -0.5])
def test_r2_that_is_no_number_reproduces_nothing(paper_r2):
    mark, why = marked(paper_r2, math.nan)
    assert mark == INCOMPARABLE
    assert why


# --- Table A.2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_has_the_printed_number_of_its_kind_beside_ours(table, network, kind):
    weights = "random" if kind == "random" else "pretrained"
    target = "shuffled" if kind == "shuffled" else "true"
    words = {"pretrained": "R², ImageNet weights", "random": "R², random weights",
             "shuffled": "R², random measures"}  # fmt: skip
    rows = lines_of(table, section="A.2", network=network, quantity=words[kind])
    assert sorted(rows["item"]) == sorted(PAPERS[network].values())
    ours, theirs = planted(network), PRINTED.get(TABLE_OF.get(network), {"layers": []})
    printed = dict(zip(theirs["layers"], theirs.get(kind, []), strict=False))
    for layer, name in PAPERS[network].items():
        row = one(rows, item=name)
        assert row.ours_as_paper == ours[weights, target, "ols", layer]
        assert row.ours == ours[weights, target, "ridge", layer]
        assert row.ours_low == pytest.approx(row.ours + WIDTH["low"])
        assert row.ours_high == pytest.approx(row.ours + WIDTH["high"])
        if name in printed:
            assert row.paper == printed[name]
            assert (row["mark"], row.why) == (REPRODUCED, "")
        else:
            assert math.isnan(row.paper)
            assert row["mark"] == INCOMPARABLE
            assert row.why == (
                "not a network of the paper" if network in (GOOGLENET, STAND_IN)
                else "the paper prints no number"
            )  # fmt: skip


@pytest.mark.parametrize("network", [INCEPTION, RESNET, RESNET_COMPLETE])
def test_layers_stand_in_the_order_of_execution_with_those_that_only_the_paper_has(network):
    printed = PRINTED[TABLE_OF[network]]["layers"]
    whole = [*(name for name in printed if name not in LAST), *LAST]
    for values in (planted(network), only(planted(network), without=["Mixed_6a", "layer2.0"])):
        table = numbers_of(Found(curves={network: curve(network, values)}))
        rows = lines_of(table, section="A.2", network=network, quantity="R², ImageNet weights")
        assert list(rows["item"]) == whole


def test_every_printed_number_is_reproduced_by_itself():
    """Least squares that gives what is printed; then its negative, which gives none of it."""
    for sign, expected in ((1, REPRODUCED), (-1, NOT_REPRODUCED)):
        values = {
            key: sign * PRINTED["inception_v3"][
                "shuffled" if key[1] == "shuffled" else key[0]
            ][PRINTED["inception_v3"]["layers"].index(PAPERS[INCEPTION][key[-1]])]
            if key[2] == "ols" else r2
            for key, r2 in only(planted(INCEPTION), without=["pooled"]).items()
        }  # fmt: skip
        rows = section_of(numbers_of(Found(curves={INCEPTION: curve(INCEPTION, values)})), "A.2")
        rows = lines_of(rows, network=INCEPTION)
        assert set(rows["mark"]) == {expected}
        assert len(rows) == 3 * 13


def test_layer_that_was_left_out_keeps_its_printed_number_and_says_why():
    reason = "depends on 'Mixed_7b.conv.weight', one of 4 tensors missing from the weights"
    short = curve(
        INCEPTION,
        only(planted(INCEPTION), without=["Mixed_7b", "Mixed_7c", *LAST]),
        left_out=[("Mixed_7b (mixed9)", reason), ("Mixed_7c (mixed10)", "other"),
                  ("logits (pre_softmax)", "of logits"), ("softmax", "of softmax")],
    )  # fmt: skip
    table = numbers_of(Found(curves={INCEPTION: short}))
    for name, why in (("mixed9", reason), ("mixed10", "other"), ("logits", "of logits"),
                      ("softmax", "of softmax")):  # fmt: skip
        rows = lines_of(table, section="A.2", network=INCEPTION, item=name)
        place = PRINTED["inception_v3"]["layers"].index(name)
        assert list(rows.paper) == [PRINTED["inception_v3"][kind][place] for kind in KINDS]
        assert rows[["ours_as_paper", "ours", "ours_low", "ours_high"]].isna().all(axis=None)
        assert set(rows["mark"]) == {INCOMPARABLE}
        assert set(rows.why) == {why}


def test_layer_that_was_not_asked_for_is_not_given_the_reason_of_another():
    asked = curve(
        INCEPTION,
        only(planted(INCEPTION), without=["Mixed_5c", "Mixed_7c"]),
        left_out=[("Mixed_7c (mixed10)", "lacks a tensor")],  # mixed1 is part of its name
    )
    rows = lines_of(numbers_of(Found(curves={INCEPTION: asked})), section="A.2", item="mixed1")
    assert set(rows.why) == {"this layer was skipped"}
    assert set(rows["mark"]) == {INCOMPARABLE}


@pytest.mark.parametrize("network", [INCEPTION, RESNET])
def test_curve_that_is_lacking_leaves_the_printed_numbers_and_the_reason(network):
    rows = lines_of(
        numbers_of(Found(lacking={network: "no images with boxes"})),
        section="A.2",
        network=network,
    )
    theirs = PRINTED[TABLE_OF[network]]
    n_kinds = sum(kind in theirs for kind in KINDS)
    assert sorted(rows.paper) == sorted(r2 for kind in KINDS for r2 in theirs.get(kind, []))
    assert len(rows) == n_kinds * len(theirs["layers"])
    assert set(rows["mark"]) == {INCOMPARABLE}
    assert set(rows.why) == {"no images with boxes"}


def test_stand_in_that_is_lacking_is_one_row():
    row = one(numbers_of(Found(lacking={STAND_IN: "it failed"})), section="A.2", network=STAND_IN)
    assert (row["mark"], row.why, row["item"]) == (INCOMPARABLE, "it failed", "all layers")


def test_scenes_are_not_compared_with_photographs(curves):
    rows = numbers_of(Found(curves=curves, has_images=False))
    printed = lines_of(rows, section="A.2")
    printed = printed[printed.paper.notna()]
    assert len(printed) == 3 * 13 + 2 * 17
    assert printed.ours_as_paper.notna().all()
    assert set(printed["mark"]) == {INCOMPARABLE}
    assert set(printed.why) == {"synthetic scenes, not images with boxes; give --data DIR"}
    assert not {REPRODUCED, NOT_REPRODUCED} & set(rows["mark"])


def test_run_without_least_squares_has_nothing_to_mark_but_shows_ridge():
    found = Found(curves={INCEPTION: curve(INCEPTION, only(planted(INCEPTION), without=["ols"]))})
    rows = lines_of(section_of(numbers_of(found), "A.2"), network=INCEPTION)
    assert set(rows["mark"]) == {INCOMPARABLE}
    assert rows.ours_as_paper.isna().all()
    row = one(rows, item="mixed8", quantity="R², ImageNet weights")
    assert row.ours == planted(INCEPTION)["pretrained", "true", "ridge", "Mixed_7a"]
    assert row.why


@pytest.mark.parametrize(("control", "quantity"), [
    ("random", "R², random weights"), ("shuffled", "R², random measures"),
])  # fmt: skip
def test_run_without_a_control_cannot_be_compared_there_and_is_elsewhere(control, quantity):
    values = only(planted(INCEPTION), without=[control])
    rows = lines_of(numbers_of(Found(curves={INCEPTION: curve(INCEPTION, values)})), section="A.2",
                    network=INCEPTION)  # fmt: skip
    lacking = rows.quantity == quantity
    assert rows[["ours_as_paper", "ours"]][lacking].isna().all(axis=None)
    assert rows.paper[lacking].notna().sum() == 13
    assert set(rows["mark"][lacking]) == {INCOMPARABLE}
    assert rows.why[lacking].all()
    assert set(rows["mark"][~lacking & rows.paper.notna()]) == {REPRODUCED}


def test_random_weights_are_never_told_as_those_of_imagenet(tmp_path):
    values = {("random", *key[1:]): r2 for key, r2 in planted(INCEPTION).items()
              if key[0] == "pretrained"}  # fmt: skip
    stored(curve(INCEPTION, values), tmp_path / INCEPTION)
    rows = numbers_of(read(tmp_path, {}, has_images=True))
    rows = rows[rows.quantity.str.contains("ImageNet|measures") & (rows.network == INCEPTION)]
    assert len(rows[rows.section == "A.2"]) >= 26
    assert rows[["ours_as_paper", "ours"]].isna().all(axis=None)
    assert set(rows["mark"]) == {INCOMPARABLE}


# --- class by class ------------------------------------------------------------------------------


def test_classes_have_their_own_r2_at_the_layer_where_the_mean_is_highest(curves, table):
    for network in NETWORKS:
        ours = planted(network)
        ridge = {name: ours["pretrained", "true", "ridge", layer]
                 for layer, name in PAPERS[network].items() if layer != "softmax"}  # fmt: skip
        peak = max(ridge, key=ridge.get)
        layer = next(layer for layer, name in PAPERS[network].items() if name == peak)
        for subset, n in (("cat", 43), ("dog", 43)):
            row = one(table, section="A.1", network=network, item=f"{subset}, {n} images")
            assert row.quantity == f"R² at {peak}"
            assert row.ours == pytest.approx(ridge[peak] + OFFSETS[subset])
            assert row.ours_as_paper == pytest.approx(
                ours["pretrained", "true", "ols", layer] + OFFSETS[subset])  # fmt: skip
            assert math.isnan(row.paper)
            assert row["mark"] == INCOMPARABLE
    assert len(section_of(table, "A.1")) == 2 * len(NETWORKS)  # the mean is no class


def test_one_class_alone_is_one_row():
    found = Found(curves={STAND_IN: curve(STAND_IN, subsets=("dog", "mean"))})
    assert list(section_of(numbers_of(found), "A.1")["item"]) == ["dog, 43 images"]


# --- image size, noise, pictures -----------------------------------------------------------------


def resized():
    rows = [
        {"model": STAND_IN, "change": change, "octaves": octaves, "quantity": quantity,
         "value": 0.1 * at + 0.05 * (change == "image-size"), "low": 0.0, "high": 0.9}
        for at, octaves in enumerate((-2.0, -1.0, 0.0, 1.0, 2.0), start=1)
        for change in ("image-size", "object-scale")
        for quantity in ("agreement", "probability_change")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def noise(best=0.9):
    rows = [
        {"model": STAND_IN, "noise": kind, "padding": padding, "layer": layer,
         "alias": "pre_softmax" if layer == "logits" else "",
         "r2": r2 - 0.1 * (kind == "pink") - 0.3 * (padding == "circular"), "r2_low": r2 - 0.4,
         "r2_high": r2 + 0.05}
        for kind in ("white", "pink") for padding in ("zeros", "circular")
        for layer, r2 in (("blocks.0", 0.2), ("logits", best), ("blocks.4", 0.5))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_answers_kept_are_those_an_octave_up_and_down():
    rows = section_of(numbers_of(Found(tables={SIZES_STEP: resized()})), "4.1")
    assert dict(zip(rows["item"], rows.ours, strict=True)) == pytest.approx({
        "the image at half the side": 0.25, "the object at half the side": 0.2,
        "the image at double the side": 0.45, "the object at double the side": 0.4,
    })  # fmt: skip
    assert set(rows["mark"]) == {INCOMPARABLE}
    assert set(rows.why) == {"the paper's protocol is not recoverable; this one is ours"}


def test_noise_has_its_best_layer_for_each_kind_and_padding():
    rows = section_of(numbers_of(Found(tables={NOISE_STEP: noise()})), "4.2")
    assert dict(zip(rows["item"], rows.ours, strict=True)) == pytest.approx({
        f"{kind} noise, padded with {padding}, pre_softmax":
            0.9 - 0.1 * (kind == "pink") - 0.3 * (padding == "circular")
        for kind in ("white", "pink") for padding in ("zeros", "circular")
    })  # fmt: skip
    assert set(rows["mark"]) == {INCOMPARABLE}


def test_every_network_that_was_resized_has_rows_of_its_own():
    tables = {step_of(SIZES, INCEPTION): resized().assign(model=INCEPTION), SIZES_STEP: resized()}
    tables |= {step_of(NOISE, RESNET): noise().assign(model=RESNET)}
    rows = numbers_of(Found(tables=tables))
    assert rows[rows.section == "4.1"].network.value_counts().to_dict() == {
        INCEPTION: 4, STAND_IN: 4
    }  # fmt: skip
    assert rows[rows.section == "4.2"].network.value_counts().to_dict() == {RESNET: 4}


def test_network_without_logits_keeps_no_answers_and_says_why():
    short = curve(INCEPTION, only(planted(INCEPTION), without=["logits", "softmax"]),
                  left_out=[("logits (pre_softmax)", "lacks a tensor")])  # fmt: skip
    drift = resized().assign(quantity="drift")
    found = Found(curves={INCEPTION: short}, tables={step_of(SIZES, INCEPTION): drift})
    row = one(section_of(numbers_of(found), "4.1"), network=INCEPTION)
    assert (row["mark"], row.why) == (INCOMPARABLE, "no predictions: lacks a tensor")


def test_pictures_are_named_where_they_are_and_lacked_where_not():
    found = Found(
        visualised=(step_of(PICTURES, INCEPTION),),
        lacking={step_of(PICTURES, RESNET): "no weights"},
    )
    rows = section_of(numbers_of(found), "A.3")
    assert dict(zip(rows.network, rows.why, strict=True)) == {
        INCEPTION: f"images: {step_of(PICTURES, INCEPTION)}/figures and "
                   f"{step_of(PICTURES, INCEPTION)}/report.html",
        RESNET: "no weights",
    }  # fmt: skip


@pytest.mark.parametrize(("section", "step"), [
    ("4.1", SIZES_STEP), ("4.2", NOISE_STEP), ("Table 2", AREAS_STEP),
    ("3.4", step_of(CUT, STAND_IN)),
])  # fmt: skip
def test_step_that_is_lacking_says_why_in_its_section(section, step):
    rows = section_of(numbers_of(Found(lacking={step: "it failed so"})), section)
    row = one(rows, network=STAND_IN)
    assert (row["mark"], row.why) == (INCOMPARABLE, "it failed so")
    assert math.isnan(row.ours)


# --- the cut -------------------------------------------------------------------------------------


def cut(layer="Mixed_7a", alias="mixed8", whole=(200, 1000), left=(50, 800)):
    names = ("parameters", "macs")
    return {"point": {"layer": layer, "alias": alias},
            "proof": {"whole": dict(zip(names, whole, strict=True)),
                      "cut": dict(zip(names, left, strict=True))}}  # fmt: skip


def test_cut_tells_the_shares_that_are_kept():
    found = Found(
        cuts={step_of(CUT, INCEPTION): cut(), step_of(CUT, STAND_IN): cut("blocks.4", "")}
    )
    rows = section_of(numbers_of(found), "3.4")
    for network, item in ((INCEPTION, "cut after mixed8"), (STAND_IN, "cut after blocks.4")):
        assert one(rows, network=network, quantity="share of parameters kept").ours == 0.25
        row = one(rows, network=network, quantity="share of multiply-accumulates kept")
        assert (row.ours, row["item"], row["mark"]) == (0.8, item, INCOMPARABLE)


@pytest.mark.parametrize("network", [INCEPTION, RESNET])
def test_peak_of_the_paper_has_our_r2_at_that_layer_and_names_our_best(network):
    name, printed = PRINTED[TABLE_OF[network]]["peak"], PRINTED[TABLE_OF[network]]["peak_r2"]
    layer = next(layer for layer, its in PAPERS[network].items() if its == name)
    for best, said in (
        (layer, "the best layer here too"),
        ("pooled", "the best layer here is pooled"),
    ):
        values = planted(network) | {("pretrained", "true", "ridge", best): 0.95}
        rows = numbers_of(Found(curves={network: curve(network, values)}))
        row = one(rows, section="3.4", network=network, item=f"at {name}, the paper's peak")
        assert row.paper == printed
        assert row.ours_as_paper == values["pretrained", "true", "ols", layer]
        assert row.ours == values["pretrained", "true", "ridge", layer]
        assert (row["mark"], row.why) == (REPRODUCED, said)


def test_peak_that_is_the_last_layer_read_says_so():
    values = only(planted(INCEPTION), without=["Mixed_7b", "Mixed_7c", *LAST])
    row = one(numbers_of(Found(curves={INCEPTION: curve(INCEPTION, values)})), section="3.4",
              network=INCEPTION, item="at mixed8, the paper's peak")  # fmt: skip
    assert row.why == "the best layer here too, and the last that is available"


def test_peak_that_was_not_read_keeps_its_printed_number():
    values = only(planted(RESNET), without=[f"layer4.{k}" for k in range(3)])
    short = curve(RESNET, values, left_out=[("layer4.1 (add_15)", "lacks a tensor")])
    row = one(numbers_of(Found(curves={RESNET: short})), section="3.4",
              item="at add_15, the paper's peak")  # fmt: skip
    assert (row.paper, row["mark"], row.why) == (0.774, INCOMPARABLE, "lacks a tensor")
    assert math.isnan(row.ours)


# --- Table 1 -------------------------------------------------------------------------------------


def patches():
    rows = [("train", 10.0)] * 3 + [("train", 40.0)] * 5 + [("test", 40.0)] * 2 + [("test", 7.0)]
    return pd.DataFrame(rows, columns=["split", "magnification"])


def test_table_of_patches_is_the_printed_one_and_ours_where_the_magnification_is_the_same():
    rows = section_of(numbers_of(Found(tables={PATCHES: patches()})), "Table 1")
    assert len(rows) == 21
    for part in ("train", "validation", "test"):
        for place, power in enumerate(PRINTED["patches"]["magnifications"]):
            row = one(rows, item=f"{part}, {power}")
            assert row.paper == PRINTED["patches"][part][place]
            ours = {("train", "10X"): 3, ("train", "40X"): 5, ("test", "40X"): 2,
                    ("test", "10X"): 0}.get((part, power), math.nan)  # fmt: skip
            assert row.ours_as_paper == pytest.approx(ours, nan_ok=True)


def test_misprints_are_what_the_totals_of_the_rows_need():
    printed, found = PRINTED["patches"], {}
    for part in ("train", "validation", "test"):
        excess = sum(printed[part]) - printed["totals"][part]
        if excess:
            found[part] = excess
    assert found == {"validation": 450, "test": 50}
    rows = section_of(numbers_of(Found(tables={PATCHES: patches()})), "Table 1")
    wrong = lines_of(rows, mark=MISPRINT)
    assert dict(zip(wrong["item"], wrong.why, strict=True)) == {
        "validation, 30X": "3,054 is what the row's total 12,733 needs",
        "test, 40X": "3,116 is what the row's total 11,208 needs",
    }
    for row, part in zip(wrong.itertuples(), ("validation", "test"), strict=True):
        right = int(row.paper) - found[part]
        assert f"{right:,} is what" in row.why
    others = rows[rows["mark"] != MISPRINT]
    assert set(others["mark"]) == {INCOMPARABLE}
    assert set(others.why) == {"other tiles"}
    assert [(each.row, each.right) for each in misprints()] == [
        ("validation", 3054),
        ("test", 3116),
    ]


def test_on_the_papers_own_tiles_the_counts_still_depend_on_an_overlap_that_is_not_told():
    found = Found(tables={PATCHES: patches()}, is_their_tissue=True)
    rows = section_of(numbers_of(found), "Table 1")
    others = rows[rows["mark"] != MISPRINT]
    assert set(others["mark"]) == {INCOMPARABLE}
    assert set(others.why) == {"how its patches overlap is not known"}


def test_misprints_stand_there_without_any_patches():
    rows = section_of(numbers_of(Found(lacking={PATCHES: "no tiles"})), "Table 1")
    assert (rows["mark"] == MISPRINT).sum() == 2
    assert rows.ours_as_paper.isna().all()
    assert set(rows.why[rows["mark"] != MISPRINT]) == {"no tiles"}


# --- Table 2 -------------------------------------------------------------------------------------


def transfer(shift=0.0):
    rows = [
        {"contestant": contestant, "layer": layer, "tile": tile, "metric": metric, "seed": seed,
         "value": shift + base + (0.5 * seed if tile == "all" else 1000.0)}
        for contestant, layer, base in (("pretrained", "pooled", 100.0), ("cut", "blocks.4", 60.0))
        for metric in ("mae", "kappa", "r2") for tile in ("all", "a", "b") for seed in (0, 1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_table_of_transfer_is_the_printed_one_row_by_row():
    rows = section_of(numbers_of(Found(lacking={AREAS_STEP: "no tiles"})), "Table 2")
    for printed in PRINTED["transfer"]["rows"]:
        item = f"{printed['contestant']}, to {printed['layer']}"
        for metric, quantity in (("mae", "MAE, px"), ("kappa", "kappa")):
            row = one(rows, network=printed["model"], item=item, quantity=quantity)
            assert row.paper == printed[metric]
            assert row["mark"] == INCOMPARABLE
            assert math.isnan(row.ours)
    assert rows.paper.notna().sum() == 12


@pytest.mark.parametrize("is_finetuned", [False, True])
def test_ours_are_the_means_over_fits_of_all_tiles_together(is_finetuned):
    tables = {AREAS_STEP: transfer()} | (
        {step_of(FINETUNED, STAND_IN): transfer(7.0)} if is_finetuned else {}
    )
    rows = lines_of(section_of(numbers_of(Found(tables=tables)), "Table 2"), network=STAND_IN)
    assert len(rows) == 4  # of r2 the paper prints nothing
    for item, base in (("pretrained, to pooled", 100.0), ("cut, to blocks.4", 60.0)):
        for quantity in ("MAE, px", "kappa"):
            row = one(rows, item=item, quantity=quantity)
            assert row.ours == base + (0.0 + 0.5 + 1.0) / 3
            theirs = row.ours + 7 if is_finetuned else math.nan
            assert row.ours_as_paper == pytest.approx(theirs, nan_ok=True)
            assert row["mark"] == INCOMPARABLE


def scored(network, layers, shift=0.0):
    """The paper's scores of a network, so much higher, of contestants that end at these layers."""
    printed = {row["contestant"]: row for row in PRINTED["transfer"]["rows"]
               if row["model"] == network}  # fmt: skip
    return pd.DataFrame([
        {"contestant": contestant, "layer": layer, "tile": tile, "metric": metric, "seed": 0,
         "value": printed[contestant][metric] + shift * printed[contestant][f"{metric}_sd"]
                  + (0 if tile == "all" else 1000.0)}
        for contestant, layer in layers.items() for metric in ("mae", "kappa")
        for tile in ("all", "a")
    ])  # fmt: skip


WHOLE = {"pretrained": "pooled", "scratch": "pooled"}
CUTS = {INCEPTION: {**WHOLE, "cut": "Mixed_7a"}, RESNET: {**WHOLE, "cut": "layer4.1"}}


@pytest.mark.parametrize("network", CUTS)
def test_ours_stand_beside_the_printed_score_of_the_same_layer_by_whatever_name(curves, network):
    tables = {
        step_of(AREAS, network): scored(network, CUTS[network], 1.0),
        step_of(FINETUNED, network): scored(network, CUTS[network], 0.5),
    }
    rows = section_of(numbers_of(Found(curves=curves, tables=tables)), "Table 2")
    rows = lines_of(rows, network=network)
    assert len(rows) == 6  # pooled features are those of the last block, so none is left over
    for printed in (row for row in PRINTED["transfer"]["rows"] if row["model"] == network):
        item = f"{printed['contestant']}, to {printed['layer']}"
        for metric, quantity in (("mae", "MAE, px"), ("kappa", "kappa")):
            row, spread = one(rows, item=item, quantity=quantity), printed[f"{metric}_sd"]
            assert row.ours == pytest.approx(printed[metric] + spread)
            assert row.ours_as_paper == pytest.approx(printed[metric] + spread / 2)
            assert (row["mark"], row.why) == (
                INCOMPARABLE, f"± {spread:g} over ten seeds; other tiles"
            )  # fmt: skip


def test_weights_that_end_early_leave_a_row_for_the_cut_that_can_be_made(curves):
    ends = dict.fromkeys(("pretrained", "scratch", "cut"), "layer3.5")  # add_13
    found = Found(curves=curves, tables={step_of(AREAS, RESNET): scored(RESNET, ends)})
    rows = lines_of(section_of(numbers_of(found), "Table 2"), network=RESNET)
    printed = rows[rows.paper.notna()]
    assert len(printed) == 6
    assert printed.ours.isna().all()
    assert printed.why.str.endswith("; the available weights do not reach that layer").all()
    others = rows[rows.paper.isna()]
    assert set(others["item"]) == {"scratch, to add_13", "cut, to add_13"}  # the third is the cut
    assert set(others.why) == {"the paper has no such cut"}
    assert others.ours.notna().all()


@pytest.mark.parametrize(("shift", "mark"), [
    (0.0, REPRODUCED), (2.0, REPRODUCED), (-2.0, REPRODUCED), (2.01, NOT_REPRODUCED),
    (-2.01, NOT_REPRODUCED),
])  # fmt: skip
def test_on_the_papers_own_tiles_a_trained_score_within_two_spreads_is_reproduced(
    curves, shift, mark
):
    step = step_of(FINETUNED, INCEPTION)
    tables = {step: scored(INCEPTION, CUTS[INCEPTION], shift)}
    found = Found(curves=curves, tables=tables, is_their_tissue=True)
    rows = lines_of(section_of(numbers_of(found), "Table 2"), network=INCEPTION)
    assert set(rows["mark"]) == {mark}


def test_frozen_features_reproduce_no_score_of_trained_weights(curves):
    tables = {step_of(AREAS, INCEPTION): scored(INCEPTION, CUTS[INCEPTION])}
    found = Found(curves=curves, tables=tables, is_their_tissue=True)
    rows = lines_of(section_of(numbers_of(found), "Table 2"), network=INCEPTION)
    assert set(rows["mark"]) == {INCOMPARABLE}
    assert rows.why.str.endswith("; with all weights trained, which was not done here").all()
    assert marked_score(1.0, 0.1, math.nan)[0] == INCOMPARABLE


# --- the whole table -----------------------------------------------------------------------------


@pytest.mark.parametrize("found", [Found(), Found(lacking=dict.fromkeys(QUICK_NETWORKS, "why"))])
def test_table_of_nothing_has_every_printed_number_and_no_verdict(found):
    table = numbers_of(found)
    numbers = [r2 for each in ("inception_v3", "resnet50") for kind in KINDS
               for r2 in PRINTED[each].get(kind, [])]  # fmt: skip
    numbers += [PRINTED[each]["peak_r2"] for each in ("inception_v3", "resnet50")]
    numbers += [n for part in ("train", "validation", "test") for n in PRINTED["patches"][part]]
    numbers += [row[name] for row in PRINTED["transfer"]["rows"] for name in ("mae", "kappa")]
    assert sorted(table.paper.dropna()) == sorted(numbers)
    assert set(table["mark"]) == {INCOMPARABLE, MISPRINT}
    assert table[["ours_as_paper", "ours", "ours_low", "ours_high"]].isna().all(axis=None)


def test_second_network_of_an_architecture_has_the_same_printed_numbers():
    table = numbers_of(Found(lacking={RESNET_COMPLETE: "why"}))
    first, second = (
        table.loc[table.network == each].drop(columns=["network", "why"]).reset_index(drop=True)
        for each in (RESNET, RESNET_COMPLETE)
    )
    pd.testing.assert_frame_equal(
        first.loc[first.section != "A.3"], second.loc[second.section != "A.3"]
    )
    assert GOOGLENET not in set(table.network)  # it has no step in this run


def test_sections_come_in_their_order_with_the_documented_columns(table):
    assert list(table.columns) == list(paper.COLUMNS)
    assert list(dict.fromkeys(table.section)) == [
        each for each in paper.SECTIONS if each in set(table.section)
    ]


# --- from the folders ----------------------------------------------------------------------------


def write_table_run(folder, **tables):
    folder.mkdir(parents=True)
    runs.write_run(folder, tables, {}, command="")


def test_what_is_read_from_the_folders_is_what_stands_in_the_table(tmp_path, curves, table):
    for network in NETWORKS:
        stored(curves[network], tmp_path / network)
    write_table_run(tmp_path / SIZES_STEP, invariance=resized())
    write_table_run(tmp_path / NOISE_STEP, noise=noise())
    write_table_run(tmp_path / step_of(PICTURES, RESNET))
    found = read(tmp_path, {"x": "why"}, has_images=True)
    assert set(found.curves) == set(NETWORKS)
    assert found.visualised == (step_of(PICTURES, RESNET),)
    assert found.lacking == {"x": "why"}
    read_back, straight = (
        numbers_of(each) for each in (found, Found(
            curves=curves, tables={SIZES_STEP: resized(), NOISE_STEP: noise()},
            visualised=(step_of(PICTURES, RESNET),)))
    )  # fmt: skip
    pd.testing.assert_frame_equal(read_back, straight, atol=1e-6, rtol=0)


def test_empty_folder_is_a_table_of_printed_numbers(tmp_path):
    found = read(tmp_path, {}, has_images=True)
    pd.testing.assert_frame_equal(numbers_of(found), numbers_of(Found()))


def test_step_that_could_not_be_done_now_is_not_read_from_an_earlier_time(tmp_path, curves):
    stored(curves[INCEPTION], tmp_path / INCEPTION)
    write_table_run(tmp_path / SIZES_STEP, invariance=resized())
    lacking = {INCEPTION: "no images with boxes", SIZES_STEP: "it failed"}
    rows = numbers_of(read(tmp_path, lacking, has_images=False))
    rows = rows[(rows.network == INCEPTION) & (rows.section == "A.2") | (rows.section == "4.1")]
    assert rows[["ours_as_paper", "ours"]].isna().all(axis=None)
    assert set(rows.why) == set(lacking.values())


@pytest.mark.parametrize(
    "step", [INCEPTION, SIZES_STEP, AREAS_STEP, PATCHES, step_of(CUT, INCEPTION)]
)
def test_folder_without_its_table_is_refused(tmp_path, step):
    (tmp_path / step).mkdir()
    with pytest.raises(DataError) as caught:
        read(tmp_path, {}, has_images=True)
    assert str(tmp_path / step) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_run_of_a_newer_version_is_refused(tmp_path, curves):
    folder = tmp_path / INCEPTION
    stored(curves[INCEPTION], folder)
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "format": 2 + 1}))
    with pytest.raises(DataError, match="Update scalecut"):
        read(tmp_path, {}, has_images=True)
