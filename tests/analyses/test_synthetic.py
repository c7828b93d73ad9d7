"""Networks that encode one thing by construction are shown real scenes; statistics meet arrays.

In the scenes that these networks are shown, the red channel marks the object's box.
"""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn
from torch.nn import functional

from scalecut.analyses import synthetic as module
from scalecut.analyses.subject import Subject
from scalecut.analyses.synthetic import (
    COLUMNS,
    SHARES,
    Design,
    Scenes,
    covariance_gain,
    crossed,
    main_effects,
    out_of_fold,
    partial_r2,
    probe_scenes,
    read_scenes,
    separated,
)
from scalecut.data.images import LeftOut
from scalecut.data.scenes import OBJECTS, RenderedScene, largest_share, random_scene, render
from scalecut.errors import DataError, LayerError, ModelError
from scalecut.features.extract import Computation
from scalecut.networks.load import load_network
from scalecut.networks.network import Network, Preprocessing, Weights
from scalecut.networks.points import ProbePoint
from scalecut.probing import scores
from scalecut.stats.ridge import PENALTIES

SIDE = 64
CANVASES = (48, 64, 88)
AS_IT_IS = Preprocessing(height=SIDE, width=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
FACTORS = ["object_scale_effect", "object_scale_partial_r2"]
OF_SIZE = ["image_size_effect", "interaction_effect", "image_size_partial_r2"]
PROBED = ["gain", "r2", "blur_leak"]


@pytest.fixture(params=[0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def rng(request):
    return np.random.default_rng(request.param)


class Layer(nn.Module):
    """A layer that is a function of the image."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def area(x):
    return x[:, :1].mean(dim=(2, 3))


def divided_by_its_norm(x):
    return area(x) / area(x).norm(dim=1, keepdim=True)


def octaves_of_area(x):
    return area(x).log2()


def pixels_of_area(x):
    return x[:, :1].sum(dim=(2, 3)).log2()


def octaves_of_size(x):
    return x.new_full((len(x), 1), 2 * np.log2(x.shape[-1]))


def detail(x):
    """Energy of what a blur takes away, inside the box."""
    lost = x[:, 1:] - functional.avg_pool2d(x[:, 1:], 3, stride=1, padding=1)
    return (lost.abs() * x[:, :1]).mean(dim=(2, 3))


def colour(x):
    return x[:, 1:].mean(dim=(2, 3))


KNOWN = {
    f.__name__: f
    for f in (
        area,
        divided_by_its_norm,
        octaves_of_area,
        pixels_of_area,
        octaves_of_size,
        detail,
        colour,
    )
}


class Planted(nn.Module):
    """Parallel layers, each with its own output."""

    def __init__(self, functions):
        super().__init__()
        for name, function in functions.items():
            self.add_module(name, Layer(function))

    def forward(self, x):
        return [layer(x) for layer in self.children()]


def planted(functions=KNOWN, side=SIDE):
    """A network of these functions, and its points."""
    network = Planted(functions)
    example = torch.linspace(0, 0.7, 3 * side**2).reshape(1, 3, side, side)
    points = [
        ProbePoint(name, "", depth, name, "output", channels=function(example).shape[1])
        for depth, (name, function) in zip(
            np.linspace(0, 1, len(functions)).tolist(), functions.items(), strict=True
        )
    ]
    of_side = replace(AS_IT_IS, height=side, width=side)
    return Network("planted", network, of_side, Weights("pretrained", "by hand")), points


def with_box_in_red(scene):
    picture = render(scene)
    left, top, right, bottom = map(int, picture.box)
    pixels = picture.pixels.copy()
    pixels[..., 0] = 0
    pixels[top:bottom, left:right, 0] = 255
    return replace(picture, pixels=pixels)


def plain(scene):
    """Drawn at once: a red square on a level of its own."""
    side = max(1, round(scene.canvas * scene.share**0.5))
    pixels = np.full((scene.canvas, scene.canvas, 3), scene.seed % 200, dtype=np.uint8)
    pixels[:side, :side, 0] = 255
    return RenderedScene(pixels, (0.0, 0.0, float(side), float(side)))


def measured(functions=KNOWN, *, canvases=(), place="random", n=10, progress=None, **settings):
    network, points = planted(functions)
    report = (lambda stage: lambda *counts: progress(stage, *counts)) if progress else None
    return separated(
        Subject(network, tuple(points), ()),
        Design(tuple(canvases), place, n),
        Computation(precision="float32"),
        **{"objects": ["coffee"], **settings},
        **({"report": report} if report else {}),
    )


@pytest.fixture(scope="module")
def table():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "render", with_box_in_red)
        return measured(canvases=CANVASES, n=14).table.set_index(["layer", "quantity"])


@pytest.fixture
def plainly_drawn(monkeypatch):
    """For what does not depend on the pictures."""
    monkeypatch.setattr(module, "render", plain)


def message(call, kind=DataError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def once(n):
    return np.ones((1, n))


# --- planted networks ----------------------------------------------------------------------------


def test_covariant_network_has_gain_one(table):
    gain = table.loc["area", "gain"]
    assert abs(gain.value - 1) < 0.02
    assert gain.low > 0.95
    assert gain.high < 1.05
    assert table.loc["area", "r2"].value > 0.98


def test_network_that_divides_by_its_norm_has_gain_zero(table):
    assert abs(table.loc["divided_by_its_norm", "gain"].value) < 0.01
    assert table.loc["divided_by_its_norm", "r2"].value < 0.05


def test_network_of_the_canvas_knows_image_size_alone(table):
    found = table.loc["octaves_of_size"].value
    assert found.image_size_partial_r2 > 0.999
    assert abs(found.object_scale_partial_r2) < 1e-6
    np.testing.assert_allclose(found.image_size_effect, 1)
    np.testing.assert_allclose(found[["object_scale_effect", "interaction_effect"]], 0, atol=1e-9)
    assert abs(found.gain) < 1e-9


def test_network_of_the_share_knows_object_scale_alone(table):
    found = table.loc["octaves_of_area"].value
    assert found.object_scale_partial_r2 > 0.99
    assert abs(found.image_size_partial_r2) < 0.05  # shares are of whole pixels
    assert found.object_scale_effect > 0.99
    assert found.image_size_effect < 0.005
    assert found.interaction_effect < 0.005


def test_network_of_the_area_in_pixels_mixes_the_factors_and_each_is_read_given_the_other(table):
    """log2(pixels) is the sum of both, so variances add up and either gives the other away."""
    found = table.loc["pixels_of_area"].value
    scale, size = np.var(np.log2(SHARES)), np.var(2 * np.log2(CANVASES))
    np.testing.assert_allclose(found.object_scale_effect, scale / (scale + size), atol=0.01)
    np.testing.assert_allclose(found.image_size_effect, size / (scale + size), atol=0.01)
    assert found[["object_scale_partial_r2", "image_size_partial_r2"]].min() > 0.98


def test_blur_is_caught_by_a_network_of_detail_and_not_by_one_of_colour(table):
    assert table.loc["detail", "blur_leak"].low > 0.3
    assert table.loc["colour", "blur_leak"].value < 0.1
    assert abs(table.loc["area", "blur_leak"].value) < 0.05  # all are drawn at one share


def test_table_has_one_row_a_layer_and_quantity(table):
    rows = table.reset_index()[COLUMNS]
    expected = set(itertools.product(KNOWN, [*FACTORS, *OF_SIZE, *PROBED]))
    assert set(zip(rows.layer, rows.quantity, strict=True)) == expected
    assert len(rows) == len(expected)
    assert (rows.model == "planted").all()
    assert (rows.weights == "pretrained").all()
    assert rows.n_features[rows.layer == "detail"].eq(2).all()
    n_images = dict(zip(rows.quantity, rows.n_images, strict=True))
    assert n_images == {
        **dict.fromkeys([*FACTORS, *OF_SIZE], 3 * 6 * 14),
        "gain": 7 * 14,
        "r2": 12 * 14,
        "blur_leak": 12 * 14,
    }


def test_parts_of_variance_add_up_to_one_at_most(table):
    effects = table.value.unstack()[["object_scale_effect", *OF_SIZE[:2]]]
    assert (effects >= -1e-12).all(axis=None)
    assert (effects.sum(axis=1) <= 1 + 1e-12).all()


def test_intervals_hold_their_values_where_something_is_read(table):
    known = table[(table.value > 0.3) & (table.value < 0.98)]
    assert len(known) > 5
    assert (known.low <= known.value).all()
    assert (known.value <= known.high).all()


# --- the whole analysis --------------------------------------------------------------------------


def test_same_seed_gives_the_same_numbers_on_any_number_of_processors(plainly_drawn, monkeypatch):
    few = {"detail": detail, "colour": colour}
    settings = {"canvases": [48, SIDE], "shares": (0.1, 0.5)}
    first = measured(few, **settings).table
    for each in (module, scores):  # that draw scenes, that regress
        monkeypatch.setattr(each, "n_processors", lambda: 1)
    again, other = (measured(few, **settings, seed=seed).table for seed in (0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_canvases_on_which_the_network_cannot_run_are_skipped_with_the_reason(plainly_drawn):
    def small(x):
        if x.shape[-1] > 100:
            raise RuntimeError("too large for me\nand more")
        return area(x)

    found = measured({"small": small}, objects=OBJECTS)
    assert found.left_out == (LeftOut("128 px", "too large for me"),)
    assert found.canvases == (32, 48, 64, 88)
    assert found.table.quantity.tolist()[:2] == FACTORS

    flat = {"flat": lambda x: x[:, 0, 0, :40]}
    found = measured(flat, canvases=[32, 48, 64], shares=(0.1, 0.5))
    assert found.left_out == (LeftOut("32 px", "flat gives 32 values there, not 40"),)
    found = measured({"area": area}, canvases=[48, 24, 64], shares=(0.1, 0.5))
    assert found.left_out == (LeftOut("24 px", "objects are visible on 32 px or more"),)
    assert found.canvases == (48, 64)


def only_64(x):
    if x.shape[-1] != SIDE:
        raise AssertionError(f"Input height ({x.shape[-1]}) doesn't match model ({SIDE}).")
    return area(x)


def test_network_that_runs_on_too_few_canvases_is_refused():
    def never(x):
        if len(x) == 1 and x.min() == x.max():  # the blank that is tried
            raise ValueError
        return area(x)

    rest = (
        "(Input height ({0}) doesn't match model (64)). Image size needs two: give other canvases, "
        "or --canvases 64 to set object scale alone."
    )
    for function, canvases, text in (
        (only_64, (), "planted runs on 1 of 5 canvases; on 32 px it does not " + rest.format(32)),
        (only_64, [48], "planted runs on 0 of 1 canvases; on 48 px it does not " + rest.format(48)),
        (
            never,
            (),
            "planted does not run on scenes of 64 x 64 px (ValueError). Give another --input-size.",
        ),
    ):
        call = functools.partial(measured, {"layer": function}, canvases=canvases)
        assert message(call, ModelError) == text


def test_one_canvas_leaves_image_size_out_of_the_table(plainly_drawn):
    found = measured({"only": only_64}, canvases=[SIDE], shares=(0.1, 0.3, 0.5))
    assert found.left_out == ()
    assert found.table.quantity.tolist() == [*FACTORS, *PROBED]
    assert (found.table.n_images[:2] == 3 * 10).all()


def test_features_that_are_not_finite_are_refused(plainly_drawn):
    bad = {"bad": lambda x: area(x) / (x.shape[-1] != 48)}
    assert message(lambda: measured(bad, canvases=[48, 64], shares=(0.1, 0.5)), LayerError) == (
        "Layer 'bad' of planted gave values that are not finite for 20 of 40 images. "
        "Try --precision float32, or choose other --layers."
    )


def test_contents_that_are_tested_were_not_fitted(plainly_drawn):
    """A network that encodes the scale of each content apart predicts only contents it saw."""

    def apart(x):
        level = (255 * x[:, 1, 0, 0]).round().long()
        return functional.one_hot(level, 200) * octaves_of_area(x)

    found = measured({"apart": apart}, canvases=[48, 64, 88]).table.set_index("quantity").value
    assert found.object_scale_partial_r2 < 0.05
    assert found.interaction_effect < 0.01


def test_progress_reports_every_stage_to_its_end(plainly_drawn):
    calls = []
    settings = {"canvases": [48, 64], "shares": (0.1, 0.5)}
    measured({"area": area}, **settings, progress=lambda *call: calls.append(call))
    last = {stage: (done, total) for stage, done, total in calls}
    assert last == {
        "crossed scenes": (40, 40),
        "random scenes": (120, 120),
        "series": (70, 70),
        "blurred scenes": (120, 120),
        "regression": (1, 1),
    }


def shown(monkeypatch, **settings):
    """The scenes that are drawn."""
    scenes = []

    def noted(scene):
        scenes.append(scene)
        return plain(scene)

    monkeypatch.setattr(module, "render", noted)
    monkeypatch.setattr(module, "n_processors", lambda: 1)  # drawn in order
    measured({"area": area}, **settings)
    return scenes


def test_scenes_differ_in_what_is_asked_for_alone(monkeypatch):
    scenes = shown(monkeypatch, n=12, objects=OBJECTS, canvases=[48, 64], shares=(0.1, 0.3, 0.5))
    grid, rest = scenes[:72], scenes[72:]
    singles, series, blurred = rest[:144], rest[144:228], rest[228:]
    contents = [replace(s, canvas=SIDE, share=0.5) for s in grid[:12]]
    assert len(set(contents)) == 12
    assert [s.subject for s in contents] == list(OBJECTS) * 3
    for cell in range(6):
        in_cell = grid[12 * cell : 12 * (cell + 1)]
        assert [replace(s, canvas=SIDE, share=0.5) for s in in_cell] == contents
        assert {(s.canvas, s.share) for s in in_cell} == {
            ([48, 64][cell // 3], [0.1, 0.3, 0.5][cell % 3])
        }
    for picture in np.array(series, dtype=object).reshape(12, 7):
        assert len({replace(s, share=0.5) for s in picture}) == 1
        np.testing.assert_allclose([s.share for s in picture], np.linspace(0.1, 0.5, 7))
    assert {s.share for s in blurred} == {0.5}
    for shares in ([s.share for s in singles], [s.drawn_as for s in blurred]):
        assert 0.1 <= min(shares) < 0.12
        assert 0.48 < max(shares) <= 0.5
    assert {s.canvas for s in rest} == {SIDE}
    of_kinds = [contents, singles, [s for s in series if s.share == 0.5], blurred]
    assert len({s.seed for kind in of_kinds for s in kind}) == 12 + 144 + 12 + 144


def test_place_is_fixed_at_the_centre_or_drawn_anew_for_each_content(monkeypatch):
    few = {"canvases": [48, 64], "shares": (0.1, 0.5)}
    assert {s.place for s in shown(monkeypatch, **few, place="fixed")} == {(0.5, 0.5)}
    assert len({s.place for s in shown(monkeypatch, **few)}) == 10 + 120 + 10 + 120


def test_usual_canvases_are_half_to_twice_the_training_side(monkeypatch):
    for side, expected in [
        (224, (112, 160, 224, 320, 448)),
        (299, (152, 208, 299, 424, 600)),
        (32, (32, 48, 64)),
    ]:
        network, points = planted({"area": area}, side)
        subject = Subject(network, tuple(points), ())
        kept, _ = module._runnable(subject, lambda x: [area(x).numpy()], asked=())
        assert kept == expected


# --- the design ----------------------------------------------------------------------------------


def test_crossed_design_is_orthogonal():
    contents = [random_scene("cat", i, shares=(0.6, 0.6)) for i in range(5)]
    scenes = crossed(contents, (64, 96, 128), SHARES)
    size, share = (np.log2([getattr(s, what) for s in scenes]) for what in ("canvas", "share"))
    which = np.array([s.seed for s in scenes])
    factors = np.column_stack([size, share, *(which == c.seed for c in contents)])
    correlation = np.corrcoef(factors, rowvar=False)
    np.testing.assert_allclose(correlation[0, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(correlation[1, 2:], 0, atol=1e-12)


def test_every_object_can_fill_the_usual_shares():
    assert min(map(largest_share, OBJECTS)) >= SHARES[-1]


# --- statistics of arrays ------------------------------------------------------------------------


def test_effects_are_those_of_the_analysis_of_variance_by_hand(rng):
    features = rng.normal(size=(3, 4, 5, 6)) * rng.uniform(1, 9, size=6) + 7
    by_hand = np.zeros(3)
    for j in range(6):
        y = features[..., j] - features[..., j].mean()
        total = (y**2).sum()
        scale = sum(3 * 5 * y[:, s].mean() ** 2 for s in range(4))
        size = sum(4 * 5 * y[z].mean() ** 2 for z in range(3))
        cells = sum(5 * y[z, s].mean() ** 2 for z in range(3) for s in range(4))
        by_hand += np.array([scale, size, cells - scale - size]) / total / 6
    np.testing.assert_allclose(main_effects(features, once(5))[0], by_hand)

    other = features * rng.uniform(0.1, 100, size=6) - 50
    np.testing.assert_allclose(main_effects(features, once(5)), main_effects(other, once(5)))


def test_planted_effects_are_found(rng):
    scale, size = rng.normal(size=4), rng.normal(size=3)
    grids = np.broadcast_to(scale, (3, 4)), np.broadcast_to(size[:, None], (3, 4))
    both = np.outer(size - size.mean(), scale - scale.mean())
    for number, grid in enumerate([*grids, both]):
        features = np.repeat(grid[:, :, None, None], 5, axis=2)
        expected = np.eye(3)[number]
        np.testing.assert_allclose(main_effects(features, once(5))[0], expected, atol=1e-12)


def test_content_alone_and_constant_features_have_no_effects(rng):
    features = np.broadcast_to(rng.normal(size=(5, 2)), (3, 4, 5, 2)).copy()
    np.testing.assert_allclose(main_effects(features, once(5)), 0, atol=1e-12)
    np.testing.assert_array_equal(main_effects(np.full((3, 4, 5, 2), 0.1), once(5)), 0)


def test_content_drawn_twice_counts_as_two(rng):
    features = rng.normal(size=(3, 4, 5, 1))
    counts = np.array([[2.0, 0, 1, 1, 1]])
    repeated = features[:, :, [0, 0, 2, 3, 4]]
    np.testing.assert_allclose(main_effects(features, counts), main_effects(repeated, once(5)))


def folds_of(n, rng):
    return rng.permutation(n) % 5


def test_reading_with_nothing_given_is_that_of_scikit_learn(rng):
    X, n = rng.normal(size=(60, 8)), 60
    y = X @ rng.normal(size=8) + rng.normal(size=n)
    folds = folds_of(n, rng)
    full, reduced = out_of_fold(X, y, np.zeros(n), np.arange(n), folds)
    for fold in range(5):
        train, test = folds != fold, folds == fold
        ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES)).fit(X[train], y[train])
        np.testing.assert_allclose(full[test], ridge.predict(X[test]), rtol=1e-6)
        np.testing.assert_allclose(reduced[test], y[train].mean())


def test_given_factor_alone_is_read_by_least_squares(rng):
    n = 60
    given, y = rng.integers(0, 3, size=n).astype(float), rng.normal(size=n)
    folds = folds_of(n, rng)
    _, reduced = out_of_fold(rng.normal(size=(n, 4)), y, given, np.arange(n), folds)
    dummies = OneHotEncoder(sparse_output=False).fit_transform(given[:, None])
    for fold in range(5):
        train, test = folds != fold, folds == fold
        line = LinearRegression(fit_intercept=False).fit(dummies[train], y[train])
        np.testing.assert_allclose(reduced[test], line.predict(dummies[test]))


def test_full_reading_is_ridge_with_an_unpenalised_factor(rng):
    """Solved at once: penalise the features alone, beside a column a level."""
    n = 60
    given, groups = rng.integers(0, 3, size=n).astype(float), np.arange(n)
    X = rng.normal(size=(n, 4)) + given[:, None]
    y = X @ rng.normal(size=4) + given + rng.normal(size=n)
    folds = folds_of(n, rng)
    full, _ = out_of_fold(X, y, given, groups, folds)
    D = OneHotEncoder(sparse_output=False).fit_transform(given[:, None])
    train, test = folds != 0, folds == 0
    rest = X[train] - LinearRegression(fit_intercept=False).fit(D[train], X[train]).predict(
        D[train]
    )
    A = np.hstack([D, X])
    candidates = []
    for penalty in PENALTIES:
        square = np.diag([0, 0, 0, *(penalty * rest.var(axis=0))])
        w = np.linalg.solve(A[train].T @ A[train] + square, A[train].T @ y[train])
        candidates.append(A[test] @ w)
    assert np.abs(np.array(candidates) - full[test]).max(axis=1).min() < 1e-9


def grid(rng, contents=8):
    scale, size = np.arange(4.0), np.array([0.0, 1.0, 3.0])
    rows = list(itertools.product(size, scale, range(contents)))
    size, scale, content = (np.array(column) for column in zip(*rows, strict=True))
    return size, scale, content.astype(int), folds_of(contents, rng)[content.astype(int)]


def test_both_factors_are_read_from_their_sum_if_the_other_is_given(rng):
    size, scale, content, folds = grid(rng)
    X = (size + scale)[:, None]
    for wanted, given in ((scale, size), (size, scale)):
        predicted = out_of_fold(X, wanted, given, content, folds)
        np.testing.assert_allclose(partial_r2(wanted, *predicted, once(len(size))), 1, atol=1e-4)
        alone = out_of_fold(X, wanted, np.zeros(len(size)), content, folds)
        assert partial_r2(wanted, *alone, once(len(size)))[0] < 0.8


def test_what_the_given_factor_adds_to_the_features_changes_nothing(rng):
    size, scale, content, folds = grid(rng)
    X = rng.normal(size=(len(size), 3)) + scale[:, None]
    shifted = X + 5 * np.cos(size)[:, None] * rng.normal(size=3)
    one, other = (out_of_fold(f, scale, size, content, folds) for f in (X, shifted))
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_noise_reads_nothing_of_contents_not_seen(rng):
    size, scale, content, folds = grid(rng, contents=20)
    X = rng.normal(size=(20, 6))[content]  # knows the content alone
    predicted = out_of_fold(X, scale, size, content, folds)
    np.testing.assert_allclose(partial_r2(scale, *predicted, once(len(scale))), 0, atol=1e-9)


def test_partial_r2_counts_rows_as_often_as_they_are_drawn(rng):
    y, full, reduced = rng.normal(size=(3, 9))
    counts = rng.integers(0, 3, size=(4, 9)).astype(float)
    for row, found in zip(counts, partial_r2(y, full, reduced, counts), strict=True):
        each = np.repeat(np.arange(9), row.astype(int))
        left = np.sum((y - full)[each] ** 2) / np.sum((y - reduced)[each] ** 2)
        np.testing.assert_allclose(found, 1 - left)


def test_gain_is_the_slope_of_least_squares_with_a_level_of_its_own_for_each_series(rng):
    x, y = rng.normal(size=(2, 6, 7))
    level = np.repeat(np.eye(6), 7, axis=0)
    line = LinearRegression(fit_intercept=False).fit(np.column_stack([x.ravel(), level]), y.ravel())
    np.testing.assert_allclose(covariance_gain(x, y, once(6))[0], line.coef_[0])
    level = 100 * rng.normal(size=(6, 1))
    for slope in (0.0, 0.4, 1.0, 1.7):
        found = covariance_gain(x, slope * x + level, once(6))
        np.testing.assert_allclose(found, slope, atol=1e-12)


def test_gain_counts_series_as_often_as_they_are_drawn(rng):
    x, y = rng.normal(size=(2, 4, 7))
    drawn = covariance_gain(x, y, np.array([[2.0, 0, 1, 1]]))
    each = [0, 0, 2, 3]
    np.testing.assert_allclose(drawn, covariance_gain(x[each], y[each], once(4)))


# --- the verb and its result ---------------------------------------------------------------------


def test_result_of_the_verb_has_the_leaks_of_paddings_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    monkeypatch.setattr(module, "render", plain)
    torch.manual_seed(0)
    network = load_network(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3)),
        preprocessing=AS_IT_IS,
    )
    given = {"computation": Computation(precision="float32"), "layers": ["1"]}
    padding = ("circular", "zeros")
    found = probe_scenes(network, design=Design((48, 64), contents=10, padding=padding), **given)
    leaks = [f"padding_{mode}_leak" for mode in padding]
    assert set(found.table.quantity) == {*FACTORS, *OF_SIZE, *PROBED, *leaks}
    assert list(found.table) == COLUMNS
    back = read_scenes(found.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(back.to_frame(), found.to_frame(), atol=1e-6, check_dtype=False)
    assert (back.finding(), back.canvases) == (found.finding(), (48, 64))
    assert back.provenance["settings"]["contents"] == 10
    assert found.plot().axes
    assert found._repr_html_().startswith(f"<p><b>{found.finding()}")
    alone = probe_scenes(network, design=Design((64,), contents=10), **given)
    assert alone.table.quantity.tolist() == [*FACTORS, *PROBED]  # no image size, no leak of it


def finding_of(**quantities):
    layers = ["stem", "block", "logits", "softmax"]
    rows = [
        (name, *row) for name, each in quantities.items() for row in zip(layers, each, strict=True)
    ]
    return Scenes(pd.DataFrame(rows, columns=["quantity", "layer", "value"])).finding()


def test_finding_names_the_best_layer_and_the_last():
    assert finding_of(
        object_scale_partial_r2=[0.5, 0.98, 0.79, 0.99],
        object_scale_effect=[0.9] * 4,
        image_size_partial_r2=[0.99, 0.6, 0.4, 0.1],
        gain=[0.2, 0.5, 0.93, 1.0],
        blur_leak=[0.35, 0.1, np.nan, 0],
    ) == (
        "Object scale is decoded best at block (partial R² 0.98; 0.79 at logits). Image size is "
        "decoded best at stem (partial R² 0.99; 0.40 at logits). Where only the object is resized, "
        "the prediction follows most closely at logits (gain 0.93). Blur alone explains most at "
        "stem (R² 0.35; 0.10 at block)."
    )
    assert finding_of(object_scale_partial_r2=[0.1, 0.2, 0.3, 0]) == (
        "Object scale is decoded best at logits (partial R² 0.30)."
    )


# --- what is refused -----------------------------------------------------------------------------

OF_SHARES = (
    "Shares of {} of the canvas were asked for. Give two or more above 0, in ascending order."
)
REFUSED = (
    (
        lambda: measured(objects=["catt"]),
        "No object is named 'catt'. Give one or more of astronaut, cat, coffee, motorcycle.",
    ),
    (
        lambda: measured(objects=[]),
        "No object was named. Choose from astronaut, cat, coffee, motorcycle.",
    ),
    (lambda: measured(seed=-1), "The seed is -1. Give a whole number of 0 or more."),
    (lambda: measured(shares=()), OF_SHARES.format("none")),
    (lambda: measured(shares=(0.3,)), OF_SHARES.format("0.3")),
    (lambda: measured(shares=(0.0, 0.5)), OF_SHARES.format("0, 0.5")),
    (lambda: measured(shares=(0.5, 0.1)), OF_SHARES.format("0.5, 0.1")),
    (
        lambda: measured(shares=(0.1, 0.8), objects=OBJECTS),
        "Shares up to 0.8 of the canvas were asked for, but the motorcycle can fill 0.68 at most. "
        "End with a smaller share, or drop this object.",
    ),
    (lambda: Design(place="left"), "No place is named 'left'. Give one of random, fixed."),
    (
        lambda: Design(contents=9),
        "--contents must be at least 10 to train and to test, got 9. 44 show every object before "
        "every backdrop.",
    ),
    (
        lambda: Design(canvases=(0, 64)),
        "Canvases of [0, 64] px were asked for. Give sides above 0, or none for half to twice the "
        "training side.",
    ),
    (
        lambda: Design(padding=()),
        "--padding is empty. Give one or more of zeros, reflect, circular.",
    ),
)


@pytest.mark.usefixtures("untyped")
def test_what_makes_no_sense_is_refused_with_the_remedy():
    for call, text in REFUSED:
        assert message(call) == text
