"""Intervals with refits are put together again from the draws of each layer."""

import numpy as np
import pandas as pd
import pytest

from scalecut import DataError, ProbePoint, make_image_set
from scalecut.features.extract import Stages
from scalecut.probing import refits as refitting
from scalecut.probing.curve import Curve
from scalecut.probing.probe import Fitting
from scalecut.probing.refits import check_refits, refitted
from scalecut.probing.scores import Features, draw_parts, score
from scalecut.stats.inference import ends, mirrored
from scalecut.stats.refits import recentred, refit_r_squared

DRAWS = 6


def points(*layers):
    return tuple(
        ProbePoint(layer, "", float(number), layer, "output", channels=3)
        for number, layer in enumerate(layers)
    )


def images(measure, subset=()):
    pictures = [np.full((8, 8, 3), number, np.uint8) for number in range(len(measure))]
    return make_image_set(pictures, measure, subset=list(subset) or None)


@pytest.fixture
def probed(monkeypatch):
    """Two subsets, two layers of which the first is better, random networks and pixels."""
    monkeypatch.setattr(refitting, "DRAWS", DRAWS)
    monkeypatch.setattr(refitting, "AT_ONCE", 4)
    rng, n = np.random.default_rng(0), 60
    measure = rng.random(n)
    image_set = images(measure, ["cat"] * 30 + ["dog"] * 30)

    def known(share):
        return (share * measure[:, None] + 0.2 * rng.normal(size=(n, 3))).astype(np.float32)

    own = {"pretrained": Features(points("a", "b"), ({"a": known(1.0), "b": known(0.4)},))}
    of_random = tuple({"a": known(0.3), "b": known(0.0)} for _ in range(2))
    controls = {
        "random": Features(points("a", "b"), of_random),
        "pixels": Features(points("pixels"), ({"pixels": known(0.1)},)),
    }
    parts = draw_parts(image_set, 2, 0, shuffled=False)
    scores = score(parts, own | controls, ("ridge",))
    table = scores.table.assign(model="net", measure="area")
    return Curve(pd.DataFrame(table), scores.draws, points("a", "b")), parts, own, controls


def test_intervals_are_those_of_recentred_draws_of_each_layer(probed):
    curve, parts, own, _ = probed
    found = refitted(curve, parts, own, {}, Stages(None))
    assert list(found) == ["cat", "dog", "mean"]
    draws = {}
    for layer in ("a", "b"):
        matrix = own["pretrained"].matrices[0][layer]
        by_part = [
            refit_r_squared(
                matrix[p.rows],
                p.targets["true"][0],
                p.groups,
                p.is_held_out,
                p.counts[1 : 1 + DRAWS],
            )
            for p in parts
        ]
        draws[layer] = np.mean(by_part, axis=0)
    r2, plausible = {}, {}
    for layer, refits in draws.items():
        r2[layer], of_test = curve.score_of("mean", "pretrained", layer)
        plausible[layer] = mirrored(r2[layer], recentred(refits, of_test))
    g = curve.n_groups()
    by_hand = ends(r2["a"] - r2["b"], plausible["a"] - plausible["b"], g)
    assert found["mean"]["last_loss"] == pytest.approx(by_hand)
    assert found["mean"]["r2"] == pytest.approx(ends(r2["a"], plausible["a"], g))
    assert "learned" not in found["mean"]


def test_gain_with_refits_is_above_the_best_control(probed):
    curve, parts, own, controls = probed
    found = refitted(curve, parts, own, controls, Stages(None))
    for subset, intervals in found.items():
        evidence = curve.evidence(subset)
        low, high = intervals["learned"]
        assert low <= evidence.learned <= high
        assert intervals["r2"][0] <= evidence.r2 <= intervals["r2"][1]


def test_too_many_images_and_refits_without_ridge_are_refused(monkeypatch):
    monkeypatch.setattr(refitting, "MOST_IMAGES", 3)
    with pytest.raises(DataError) as error:
        check_refits(images([0.1, 0.2, 0.3, 0.4]))
    assert str(error.value) == (
        "--intervals refit fits every split 200 times, which takes hours with 4 images. Give "
        "--at-most 3, or --intervals test."
    )
    with pytest.raises(DataError) as error:
        Fitting(regressor=("ols",), intervals="refit")
    assert str(error.value) == "--intervals refit fits ridge. Add ridge to --regressor."
