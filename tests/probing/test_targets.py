"""Several targets at once, and classes: against scikit-learn on the same splits, and each alone."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

import scalecut.probing.scores
import scalecut.stats.out_of_core
from scalecut import DataError, ProbePoint, choose_layer, compare_runs, make_image_set, open_run
from scalecut.data.images import image_facts, target_of
from scalecut.data.sample import LEAST_GROUPS, check_size
from scalecut.figures.curve import combined_drawing
from scalecut.probing.combined import combined
from scalecut.probing.curve import Curve, compare_curves
from scalecut.probing.scores import Features, draw_parts, score
from scalecut.report.curve import COLUMNS, COMBINED
from scalecut.stats.classes import AUROC, BALANCED, KAPPA, SCALES
from scalecut.stats.inference import LEAST_GROUPS as LEAST_GROUPS_FOR
from scalecut.stats.ridge import PENALTIES

LAYERS = ("a", "b", "c")
POINTS = tuple(
    ProbePoint(layer, "", number / 2, layer, "output", channels=8, macs=number + 1)
    for number, layer in enumerate(LAYERS)
)


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def rng(request):
    return np.random.default_rng(request.param)


def known(rng, n=90, group=None, missing=0):
    """Images of a number and a grade (1, 2, 3, not equally often); layer b holds them best."""
    measure = rng.normal(size=n)
    grade = [str(1 + number) for number in np.digitize(measure, [-0.4, 0.9])]
    pictures = [np.full((8, 8, 3), number % 256, np.uint8) for number in range(n)]
    images = make_image_set(pictures, measure, group=group, measure_name="area")
    age = np.where(np.arange(n) < missing, np.nan, measure + rng.normal(size=n))
    images = images.asked(
        [*images.targets, target_of("grade", grade), target_of("age", age.tolist())]
    )
    matrices = {
        layer: (rng.normal(size=(n, 8)) + share * measure[:, None]).astype(np.float32)
        for layer, share in zip(LAYERS, (0.1, 0.7, 0.2), strict=True)
    }
    return images, {"pretrained": Features(POINTS, (matrices,))}


def scored(images, features, **settings):
    drawn = {"shuffled": settings.pop("shuffled", False)}
    drawn["permutations"] = settings.pop("permutations", 0)
    parts = draw_parts(images, settings.pop("repeats", 3), 0, **drawn)
    return parts, score(parts, features, settings.pop("regressors", ("ridge",)), **settings)


def curve_of(images, features, **settings):
    _, found = scored(images, features, permutations=30, **settings)
    facts = [
        {"name": name, **dict(zip(("chance", "chance_low", "chance_high"), each, strict=True))}
        for name, each in found.chance.items()
    ]
    table = found.table.assign(model="net")[COLUMNS]
    facts = {"targets": facts, "images": {"sha256": "same"}, "probe": {"repeats": 3, "seed": 0}}
    return Curve(table, found.draws, POINTS, facts, image_set=images, predicted=found.predicted)


def line(table, **wanted):
    rows = np.all([table[name] == value for name, value in wanted.items()], axis=0)
    return table[rows].set_index("layer")


def by_left_out_groups(X, Y, groups):
    """The penalty with the smallest error of left-out groups, over all classes, by brute force."""
    errors = np.zeros(len(PENALTIES))
    for group in set(groups):
        out = groups == group
        # as in closed form: standardised with the group, fitted without it
        scaled = StandardScaler().fit_transform(X)
        for place, alpha in enumerate(PENALTIES):
            fit = Ridge(alpha=alpha).fit(scaled[~out], Y[~out])
            errors[place] += np.sum((fit.predict(scaled[out]) - Y[out]) ** 2)
    return PENALTIES[errors.argmin()]


@pytest.mark.long
@pytest.mark.parametrize("group", [None, [f"g{number // 3}" for number in range(90)]])
def test_classes_have_the_scores_of_scikit_learn_on_the_same_splits(group):
    images, features = known(np.random.default_rng(3), group=group)
    images = images.of("grade")
    (part,), found = scored(images, features)
    truth, matrix = images.measure.astype(int), features["pretrained"].matrices[0]["b"]
    slow = []
    for held_out in part.is_held_out:
        X, Z = (matrix[rows].astype(float) for rows in (~held_out, held_out))
        Y, y = np.eye(3)[truth[~held_out]], truth[held_out]
        groups = part.groups[~held_out]
        alpha = by_left_out_groups(X, Y, groups)
        scaler = StandardScaler().fit(X)
        values = Ridge(alpha=alpha).fit(scaler.transform(X), Y).predict(scaler.transform(Z))
        decided = (values / Y.mean(axis=0)).argmax(axis=1)
        number = Ridge(alpha=alpha).fit(scaler.transform(X), truth[~held_out] + 1.0)
        nearest = np.clip(np.round(number.predict(scaler.transform(Z))), 1, 3)
        slow.append(
            {
                BALANCED: balanced_accuracy_score(y, decided),
                AUROC: roc_auc_score(y, values, multi_class="ovr", average="macro"),
                KAPPA: cohen_kappa_score(y, nearest - 1, weights="quadratic"),
            }
        )
    for metric, mean in pd.DataFrame(slow).mean().items():
        row = line(found.table, metric=metric, subset="images").loc["b"]
        assert row.score == pytest.approx(mean, abs=1e-8)
        if row.n_groups < LEAST_GROUPS_FOR[SCALES[metric]]:
            assert np.isnan([row.score_low, row.score_high]).all()
        else:
            assert row.score_low <= row.score <= row.score_high
        assert np.isnan([row.r2, row.r2_low, row.r2_high]).all()
    assert set(found.table.metric) == {BALANCED, AUROC, KAPPA}


def test_kappa_is_given_where_the_classes_are_numbers_alone(rng):
    images, features = known(rng)
    named = images.of("grade").asked(
        [target_of("grade", ["abc"[int(n)] for n in images.more[0].values])]
    )
    assert set(scored(named, features)[1].table.metric) == {BALANCED, AUROC}


def test_every_target_has_the_scores_that_it_has_alone(rng):
    images, features = known(rng, missing=12)
    settings = {"shuffled": True, "permutations": 20, "regressors": ("ridge", "ols")}
    _, together = scored(images, features, **settings)
    for place, name in enumerate(("area", "grade", "age")):
        rows = images.known(name)
        own = {layer: x[rows] for layer, x in features["pretrained"].matrices[0].items()}
        _, alone = scored(images.of(name), {"pretrained": Features(POINTS, (own,))}, **settings)
        is_own = together.table.measure == name
        same = together.table[is_own].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, alone.table, rtol=1e-9)
        np.testing.assert_allclose(together.draws[is_own], alone.draws, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(together.predicted[place][:, rows], alone.predicted, rtol=1e-9)
        np.testing.assert_allclose(together.chance[name], alone.chance[name], rtol=1e-9)
    assert np.isnan(together.predicted[2][:, :12]).all()
    assert dict(zip(together.table.measure, together.table.n_images, strict=True))["age"] == 78


def test_measures_of_the_same_images_are_decomposed_once_per_split(rng, monkeypatch):
    images, features = known(rng)
    numbers = images.asked([each for each in images.targets if not each.classes])
    calls = []
    original = scalecut.stats.out_of_core.decompose
    monkeypatch.setattr(
        scalecut.stats.out_of_core, "decompose", lambda *given: calls.append(1) or original(*given)
    )
    scored(numbers, features, repeats=3)
    assert len(calls) == 3 * len(LAYERS)


def test_permuted_classes_some_at_a_time_give_the_same_p_values(rng, monkeypatch):
    images, features = known(rng)
    images = images.of("grade")
    _, whole = scored(images, features, permutations=25)
    monkeypatch.setattr(scalecut.probing.scores, "MOST_INDICATORS", 3 * 90 * 4)  # four
    _, parts = scored(images, features, permutations=25)
    pd.testing.assert_frame_equal(whole.table, parts.table)
    main = line(whole.table, metric=BALANCED, subset="mean")
    assert main.p_value["b"] == pytest.approx(1 / 26) and (main.p_value >= 1 / 26).all()
    assert line(whole.table, metric=AUROC).p_value.isna().all()  # of the main metric alone
    chance, low, high = whole.chance["grade"]
    assert chance == pytest.approx(1 / 3) and low < chance < high


def test_gain_of_classes_is_over_chance_or_the_best_control(rng):
    images, features = known(rng)
    own = features["pretrained"].matrices[0]
    noise = {layer: rng.normal(size=matrix.shape) for layer, matrix in own.items()}
    half = {layer: matrix + 3 * rng.normal(size=matrix.shape) for layer, matrix in own.items()}
    for control, least in ((noise, 1 / 3), (half, 0.0)):
        random = {"random": Features(POINTS, (control,))}
        _, found = scored(images.of("grade"), features | random)
        table = line(found.table, metric=BALANCED, subset="mean", weights="pretrained")
        other = line(found.table, metric=BALANCED, subset="mean", weights="random")
        gain = table.score - np.maximum(max(least, 1 / 3), other.score)
        np.testing.assert_allclose(table.learned, gain)


def test_splits_are_stratified_by_class_and_keep_groups_whole(rng):
    images, _ = known(rng, group=[f"g{number // 3}" for number in range(90)])
    (part,) = draw_parts(images.of("grade"), 20, 0, shuffled=False)
    assert 0.25 <= part.is_held_out.mean() <= 0.35
    for held_out in part.is_held_out:
        assert not set(part.groups[held_out]) & set(part.groups[~held_out])
        share = [held_out[part.targets["true"][0] == number].mean() for number in range(3)]
        assert min(share) > 0.12 and max(share) < 0.5


def p_values_by_chance(size, share, count):
    """P-values of labels that follow their group, as features do, with nothing in common."""
    rng, found, n_groups = np.random.default_rng(0), [], 120 // size
    group = np.repeat(np.arange(n_groups), size)
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 120
    images = make_image_set(pictures, np.arange(120.0), group=[str(name) for name in group])
    for seed in range(count):
        of_group = rng.permutation(np.arange(n_groups) >= share * n_groups)
        label = of_group[group].astype(str).tolist()
        by_group = rng.normal(size=(n_groups, 8))[group]
        matrix = by_group + rng.normal(size=(120, 8))
        layers = {"a": matrix, "b": matrix + rng.normal(size=(120, 8)), "c": by_group}
        asked = images.asked([target_of("grade", label)]), 4, seed
        parts = draw_parts(*asked, shuffled=False, permutations=39)
        table = score(parts, {"pretrained": Features(POINTS, (layers,))}, ("ridge",)).table
        found.append(line(table, metric=BALANCED, subset="mean").p_value.min())
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "share"), [(1, 0.5), (1, 0.9), (5, 0.5), (5, 0.75)])
def test_p_values_of_unrelated_classes_are_uniform(monkeypatch, size, share):
    monkeypatch.setattr(scalecut.probing.scores, "DRAWS", 9)  # intervals are not looked at
    found, count = p_values_by_chance(size, share, 300), 300
    for level in (0.05, 0.1, 0.25, 0.5):
        noise = np.sqrt(level * (1 - level) / count)
        assert abs(np.mean(found <= level) - level) < 3 * noise, level


# --- the curve of several targets ----------------------------------------------------------------


def test_curve_of_each_target_finds_on_its_own(rng):
    whole = curve_of(*known(rng))
    assert whole.targets == ("area", "grade", "age")
    assert whole.of("grade").metric == BALANCED and whole.of("area").metric == "r2"
    sentences = [whole.of(target).finding() for target in whole.targets]
    assert whole.finding() == "\n".join(sentences)
    assert "net encodes grade best at b" in sentences[1] and "balanced accuracy" in sentences[1]
    assert "chance 0.33 (0." in sentences[1] and "net encodes age best at b" in sentences[2]
    found = whole.of("grade").evidence()
    assert (found.peak, found.metric, found.is_shown) == ("b", BALANCED, True)
    assert np.isnan([found.r2, found.last_r2]).all() and found.chance == pytest.approx(1 / 3)
    assert whole.of("area").evidence().score == whole.of("area").evidence().r2
    assert set(whole.facts()["evidence_by_target"]) == {"area", "grade", "age"}
    assert choose_layer(whole, target="grade").layer == "b"
    predicted = whole.predictions()
    assert len(predicted) == 3 * 90 * len(LAYERS)
    of_grade = predicted[(predicted.target == "grade") & (predicted.layer == "b")]
    assert set(of_grade["class"]) == {"1", "2", "3"}
    both = of_grade.dropna(subset="predicted_class")
    assert balanced_accuracy_score(both["class"], both.predicted_class) > 0.5
    assert compare_curves(whole, whole).difference.abs().max() == 0


def test_run_of_one_target_is_paired_with_one_of_several_on_the_same_images(rng):
    images, features = known(rng, missing=5)
    (matrices,) = features["pretrained"].matrices

    def stated(curve, facts):
        return replace(curve, provenance=curve.provenance | {"images": facts})

    whole = stated(curve_of(images, features), image_facts(images))
    for target in whole.targets:
        part, rows = images.of(target), images.known(target)
        own = {layer: matrix[rows] for layer, matrix in matrices.items()}
        alone = curve_of(part, {"pretrained": Features(POINTS, (own,))})
        facts = image_facts(part)
        for given in (facts, {"sha256": facts["sha256"]}):  # as of earlier versions
            row = compare_curves(whole, stated(alone, given)).iloc[0]
            assert (row.measure, row.layer, row.other_layer) == (target, "b", "b")
            ends = [row.difference, row.difference_low, row.difference_high]
            np.testing.assert_allclose(ends, 0, atol=1e-6)
            assert row.score == whole.of(target).evidence().score
        turned = part.rows(np.arange(len(part))[::-1])
        in_pairs = replace(part, group=tuple(str(number // 2) for number in range(len(part))))
        named = replace(part, subset=("other",) * len(part))
        fewer = part.rows(np.arange(len(part) - 1))
        for unlike in (turned, in_pairs, named, fewer):
            with pytest.raises(DataError, match="The two runs have other images"):
                compare_curves(whole, stated(alone, image_facts(unlike)))


def test_layers_together_are_those_of_each_measure_alone(rng):
    images, features = known(rng, missing=5)
    parts, found = scored(images, features)
    measures = ("area", "age")
    tables = [
        combined([part for part in parts if part.measure == name], features, found)
        for name in measures
    ]
    together = pd.concat(tables, ignore_index=True).assign(model="net")[COMBINED]
    whole = replace(curve_of(images, features), combined=together)
    for name, table in zip(measures, tables, strict=True):
        (matrices,) = features["pretrained"].matrices
        rows = {layer: matrix[images.known(name)] for layer, matrix in matrices.items()}
        own = {"pretrained": Features(POINTS, (rows,))}
        alone_parts, alone = scored(images.of(name), own)
        pd.testing.assert_frame_equal(table, combined(alone_parts, own, alone))
        one = whole.of(name)
        assert set(one.combined.measure) == {name} and len(one.combined) == len(table)
        assert one.finding() in whole.finding().split("\n")
        assert "All 3 layers together have R² " in one.finding()
    assert whole.of("grade").combined is None and "together" not in whole.of("grade").finding()
    drawing = combined_drawing(whole.table, together)
    assert [panel.title for panel in drawing.panels] == ["area", "age"]
    for panel, table in zip(drawing.panels, tables, strict=True):
        values = table[table.subset == "mean"].score
        np.testing.assert_allclose(panel.lines[0].values, values)


def test_runs_of_several_targets_are_compared_target_by_target(rng):
    images, features = known(rng)
    _, others = known(rng)
    one, other = curve_of(images, features), curve_of(images, others)
    other = replace(other, table=other.table.assign(model="noise"))
    found = compare_runs([one, other])
    columns = ["run", "measure", "metric", "peak", "score"]
    peaks = found.table[found.table.subset == "mean"][columns].to_numpy().tolist()
    for run, curve in (("net", one), ("noise", other)):
        for each in curve.each:
            seen = each.evidence()
            assert [run, each.targets[0], seen.metric, seen.peak, seen.score] in peaks
    pairs = found.pairs[found.pairs.subset == "mean"].set_index("measure")
    assert pairs.index.tolist() == ["area", "grade", "age"]
    for target, row in pairs.iterrows():
        alone = compare_runs([one.of(target), other.of(target)]).pairs.iloc[-1]
        assert row.drop("subset").equals(alone.drop(["subset", "measure"]))
        score = one.of(target).evidence().score - other.of(target).evidence().score
        assert row.difference == pytest.approx(score)
    assert pairs.r2.isna().tolist() == [False, True, False]
    assert [*found.summary()][1] == "R² or balanced accuracy of net minus noise"
    of_grade = found.finding().split("\n")[1]
    assert of_grade.startswith("net has the highest peak for grade: balanced accuracy 0.")


def test_many_runs_are_compared_with_the_best_of_each_target(rng, monkeypatch):
    monkeypatch.setattr("scalecut.probing.comparison.MOST_IN_PAIRS", 2)
    images, features = known(rng)
    whole = curve_of(images, features)
    draws, table = whole.draws, whole.table
    worse = [
        replace(
            whole,
            table=table.assign(model=f"no {target}", score=table.score - 0.3 * is_of),
            draws=draws - np.float32(0.3) * is_of.to_numpy()[:, None],
        )
        for target in ("area", "grade", "age")
        for is_of in [table.measure == target]
    ]
    pairs = compare_runs(worse).pairs
    named = pairs[pairs.subset == "mean"].groupby("measure", sort=False)[["run", "other_run"]]
    # the best of a target is the first run that keeps it, and is in both pairs
    best = {"area": "no grade", "grade": "no area", "age": "no area"}
    for target, rows in named:
        assert len(rows) == 2 and (rows == best[target]).any(axis=1).all()


def test_cheapest_within_a_loss_of_a_class_is_judged_by_its_score(rng):
    grade = curve_of(*known(rng)).of("grade")
    rows = grade.scores().set_index("layer")
    lost = rows.score["b"] - rows.score["a"]
    found = choose_layer(grade, within=lost + 0.001)
    assert (found.layer, found.metric) == ("a", BALANCED)
    assert found.loss == pytest.approx(lost) and found.loss_low < lost < found.loss_high
    assert choose_layer(grade, within=lost - 0.001).layer != "a"


@pytest.mark.long
def test_saved_run_of_several_targets_is_read_and_has_a_page(rng, tmp_path):
    whole = curve_of(*known(rng, missing=5), regressors=("ridge", "ols"))
    folder = whole.save(tmp_path / "run", command="scalecut probe net")
    read = open_run(folder)
    assert read.finding() == whole.finding()
    found, before = (pd.Series(asdict(each.of("grade").evidence())) for each in (read, whole))
    pd.testing.assert_series_equal(found, before, atol=1e-5)
    page = (folder / "report.html").read_text()
    for key in ("area", "grade", "age · images", "balanced accuracy"):
        assert key in page
    assert {path.name for path in (folder / "figures").glob("*.png")} == {"curve.png", "data.png"}
    predicted = pd.read_parquet(folder / "predictions.parquet")
    assert set(predicted.target) == {"area", "grade", "age"}
    alone = whole.of("grade").save(tmp_path / "one", command="scalecut probe net")
    facts = json.loads((alone / "run.json").read_text())
    assert facts["evidence"]["mean"]["metric"] == BALANCED
    assert facts["evidence"]["mean"]["r2"] is None
    assert not list((alone / "figures").glob("curve_exponential*"))


def test_a_target_must_be_chosen_where_there_are_several(rng):
    whole = curve_of(*known(rng))
    for ask in (whole.evidence, whole.scores, whole.differences, lambda: choose_layer(whole)):
        with pytest.raises(DataError) as error:
            ask()
        assert str(error.value) == (
            "This curve has 3 targets: area, grade, age. Choose one, as curve.of('area') or "
            "--target area."
        )
    with pytest.raises(DataError, match="No target is named 'size'"):
        whole.of("size")


def test_nothing_is_shown_of_a_grade_that_no_layer_holds(rng):
    images, features = known(rng)
    shuffled = target_of("grade", rng.permutation(["1", "2", "3"] * 30).tolist())
    curve = curve_of(images.asked([shuffled]), features)
    assert curve.finding().startswith("No layer of net is shown to encode grade")


# --- what cannot be probed -----------------------------------------------------------------------


def labelled(label, group=None):
    n = len(label)
    images = make_image_set([np.zeros((8, 8, 3), np.uint8)] * n, np.arange(n), group=group)
    return images.asked([target_of("grade", label)])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            lambda: labelled(["high"] * 30),
            "All 30 images of 'images' are of the class 'high' of 'grade', so there is nothing to "
            "tell apart. Choose another target, or add images of other classes.",
        ),
        (
            lambda: labelled(["high"] * 27 + ["low"] * 3),
            "The class 'low' of 'grade' has 3 images of 'images', and needs 4 images, so that "
            "training and test images have some in every split. Join it with another class, leave "
            "it empty in the table, or add images of it.",
        ),
        (
            lambda: labelled(
                ["high"] * 30 + ["low"] * 30, [f"{number // 10}" for number in range(60)]
            ),
            "The class 'high' of 'grade' has 30 images of 3 groups of 'images', and needs 4 "
            "groups, so that training and test images have some in every split. Join it with "
            "another class, leave it empty in the table, or add images of it.",
        ),
        (
            lambda: labelled([f"tile {number}" for number in range(30)]),
            "'grade' has another value for each of the 30 images of 'images', as names and numbers "
            "of images have, so no class can be learned. Choose another target.",
        ),
        (
            lambda: labelled(
                [float(number // 10) for number in range(50)],
                [f"{number // 10}" for number in range(50)],
            ),
            "All images of a group have the same 'grade', so each group counts once, and subset "
            "'images' has 5 of them; 10 are needed. Add images of more groups.",
        ),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(images, message):
    with pytest.raises(DataError) as error:
        check_size(images())
    assert str(error.value) == message


def test_a_class_with_the_least_images_can_be_probed():
    images = labelled(["high"] * 30 + ["low"] * LEAST_GROUPS)
    check_size(images)
    (part,) = draw_parts(images, 30, 0, shuffled=False)
    low = part.targets["true"][0] == 1
    assert all(0 < (held & low).sum() < LEAST_GROUPS for held in part.is_held_out)


def test_curve_of_one_target_is_itself(rng):
    images, features = known(rng)
    one = curve_of(images.of("area"), features)
    assert one.of("area") is one
    assert "encodes object scale best at b" in one.finding()
    two = replace(one, table=one.table.assign(measure="height"))
    assert "encodes object scale" in two.finding()
