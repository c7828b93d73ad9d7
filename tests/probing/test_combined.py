"""All layers together, against scikit-learn on the same splits and in planted worlds."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from scalecut import ProbePoint, make_image_set
from scalecut.data.images import Target
from scalecut.probing.combined import combined, why_not_combined
from scalecut.probing.scores import Features, draw_parts, score
from scalecut.stats.ridge import PENALTIES

WIDTHS = {"early": 4, "middle": 10, "late": 6, "softmax": 3}
POINTS = tuple(
    ProbePoint(layer, "", number / 3, layer, "output", channels=width)
    for number, (layer, width) in enumerate(WIDTHS.items())
)


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def images(measure, subset="disc"):
    pictures = [np.full((8, 8, 3), number % 256, np.uint8) for number in range(len(measure))]
    return make_image_set(pictures, measure, subset=subset, measure_name="area")


def fitted(rng, shares, n=90, subset="disc", repeats=4):
    """A measure that is a sum of two numbers, and layers that hold a share of each and noise."""
    parts_of_it = rng.normal(size=(n, 2))
    matrices = {
        layer: (
            rng.normal(size=(n, width)) + (parts_of_it * share).sum(axis=1, keepdims=True)
        ).astype(np.float32)
        for (layer, width), share in zip(WIDTHS.items(), shares, strict=True)
    }
    measure = parts_of_it.sum(axis=1)
    parts = draw_parts(images(measure - measure.min(), subset), repeats, 0, shuffled=True)
    own = {"pretrained": Features(POINTS, (matrices,))}
    scores = score(parts, own, ("ridge", "ols"))
    return parts, matrices, scores, combined(parts, own, scores)


SPLIT = [(3, 0), (0, 0), (0, 3), (0, 0)]  # one half early only, the other late only
REDUNDANT = [(1, 1), (2, 2), (1, 1), (3, 3)]


def test_scores_are_those_of_scikit_learn_on_the_same_splits(rng):
    (part,), matrices, _, table = fitted(rng, SPLIT, n=50)
    layers = [layer for layer in WIDTHS if layer != "softmax"]
    assert table.up_to.tolist() == layers * 2  # of the subset and of the mean
    for count, row in enumerate(table.iloc[:3].itertuples(), start=1):
        assert row.n_layers == count
        assert row.n_features == sum(WIDTHS[layer] for layer in layers[:count])
        found = []
        for held_out in part.is_held_out:
            sides = [[], []]
            for layer in layers[:count]:
                X = matrices[layer].astype(float)
                scaler = StandardScaler().fit(X[~held_out])
                for side, rows in zip(sides, (~held_out, held_out), strict=True):
                    side.append(scaler.transform(X[rows]) / WIDTHS[layer] ** 0.5)
            y = part.targets["true"][0]
            penalties = PENALTIES / np.mean([WIDTHS[layer] for layer in layers[:count]])
            model = RidgeCV(penalties).fit(np.hstack(sides[0]), y[~held_out])
            found.append(r2_score(y[held_out], model.predict(np.hstack(sides[1]))))
        assert row.score == pytest.approx(np.mean(found), abs=1e-8)


def test_what_is_held_half_early_and_half_late_needs_both(rng):
    table = fitted(rng, SPLIT)[-1].set_index(["subset", "up_to"]).loc["mean"]
    assert table.below["late"] > 0.2
    assert table.below_low["late"] > 0.1
    assert (table.below_low <= table.below).all() and (table.below <= table.below_high).all()
    # until the second half comes, the first layer is as good as all
    assert table.best_layer.tolist()[:2] == ["early"] * 2
    assert table.below_low["middle"] <= 0


def test_of_redundant_layers_none_is_shown_to_be_worse(rng):
    table = fitted(rng, REDUNDANT)[-1]
    assert (table.best_layer[table.up_to == "late"] == "middle").all()
    assert (table.below_low <= 0).all()


def test_first_layer_together_is_the_first_layer_alone(rng):
    _, _, scores, table = fitted(rng, SPLIT, n=40, subset=["a"] * 20 + ["b"] * 20)
    assert table.subset.tolist() == ["a"] * 3 + ["b"] * 3 + ["mean"] * 3
    own = scores.table[(scores.table.target == "true") & (scores.table.regressor == "ridge")]
    firsts = table[table.up_to == "early"].set_index("subset")
    for row in own[own.layer == "early"].itertuples():
        found = firsts.loc[row.subset]
        ends = found.score, found.score_low, found.score_high
        assert ends == pytest.approx((row.r2, row.r2_low, row.r2_high), abs=1e-6)
        assert (found.below, found.below_low, found.below_high) == (0, 0, 0)
    of_subsets = table[table.subset != "mean"].groupby("up_to", sort=False).score.mean()
    np.testing.assert_allclose(table[table.subset == "mean"].score, of_subsets)


def test_reasons_for_which_layers_are_not_fitted_together(monkeypatch):
    few = images(np.arange(30.0))
    many = "30 images of a subset are too many; give a smaller --at-most"
    classes = "layers are fitted together to numbers alone, not to classes"
    assert why_not_combined(few, ("ridge", "ols")) == {}
    assert why_not_combined(few, ("ols",)) == {"area": "--regressor lacks ridge"}
    monkeypatch.setattr("scalecut.probing.combined.MANY", 20)
    assert why_not_combined(few, ("ridge",)) == {"area": many}
    assert why_not_combined(replace(few, subset=("a", "b") * 15), ("ridge",)) == {}
    ages = np.where(np.arange(30) % 2, 3.0 + np.arange(30), np.nan)  # few are known
    grade = Target("grade", np.arange(30.0) % 2, ("high", "low"))
    several = few.asked([*few.targets, Target("age", ages), grade])
    assert why_not_combined(several, ("ridge",)) == {"area": many, "grade": classes}
