"""Several curves compared: planted peaks, and every number again from the curves themselves."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scalecut import DataError, compare_curves, compare_runs, open_run
from scalecut.figures.curve import comparison_drawing
from scalecut.report.curve import COMPARISON, CURVES, PAIRS
from scalecut.stats.inference import holm, mirrored, of_difference
from tests.probing.test_curve import LAYERS, PROVENANCE, curve_of, line_of

FLAT = [0.2, 0.3, 0.3, 0.3, 0.1]


def run(rng, best=0.8, model="net", at=1, noise=None, spread=0.004, **line):
    """A curve whose peak is planted."""
    r2 = np.array(FLAT)
    r2[at] = best
    macs = {"a": 100, "b": 250, "c": 500, "logits": 1000, "softmax": 1001}
    curve = curve_of(line_of(rng, r2, model=model, noise=noise, spread=spread, **line))
    points = tuple(replace(point, macs=macs[point.layer]) for point in curve.points)
    return replace(curve, points=points)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def three(rng):
    return [run(rng, best, name) for name, best in (("one", 0.8), ("two", 0.7), ("three", 0.797))]


def test_table_has_the_evidence_and_cost_of_every_run(three):
    table = compare_runs(three).table
    assert [*table] == COMPARISON
    for row, curve in zip(table.itertuples(), three, strict=True):
        found = curve.evidence()
        assert (row.peak, row.score, row.learned) == (found.peak, found.r2, found.learned)
        assert row.confidence_set == "; ".join(found.confidence_set)
        assert (row.fall_after, row.fall) == (found.fall_after, found.fall)
        assert (row.set_first, row.macs) == ("b", 250)
    assert table.run.tolist() == ["one", "two", "three"]


def test_pairs_are_those_of_two_curves_and_corrected_together(three):
    pairs = compare_runs(three).pairs
    assert [*pairs] == PAIRS
    sides = [(0, 1), (0, 2), (1, 2)]
    for row, (one, other) in zip(pairs.to_dict("records"), sides, strict=True):
        (alone,) = compare_curves(three[one], three[other]).to_dict("records")
        assert {name: row[name] for name in alone} == pytest.approx(alone)
        (same,) = compare_runs([three[one], three[other]]).pairs.to_dict("records")
        assert row["p_value"] == same["p_value"] == same["p_corrected"]
    np.testing.assert_allclose(pairs.p_corrected, holm(pairs.p_value.tolist()))
    assert (pairs.unpaired_because == "").all()


def test_finding_says_which_runs_are_shown_to_be_worse_than_the_best(three):
    found = compare_runs(three).finding()
    assert found.startswith("one has the highest peak: R² 0.80 [0.70, 0.85] at b (add_2), and ")
    assert found.endswith("is shown to be better than 1 of 2 others, but not than three.")
    two = compare_runs(three[1:]).finding()
    assert "and is shown to be better than two (0.10 [0.0" in two
    assert compare_runs(three[:2]).finding().count("shown to be better than two") == 1
    alike = compare_runs([three[0], three[2]]).finding()
    assert "at b (add_2), and is not shown to differ from three (0.00 [" in alike
    every = compare_runs([three[0], three[1], replace(three[1])])
    assert every.table.run.tolist() == ["one", "two", "two (2)"]
    assert every.finding().endswith("is shown to be better than all 2 others.")


def test_shared_noise_is_paired_unless_images_or_splits_differ(rng):
    shared = 0.02 * rng.normal(size=(1, 500))
    one, two = (
        run(rng, best, name, noise=shared + 0.001 * rng.normal(size=(5, 500)))
        for name, best in (("one", 0.8), ("two", 0.78))
    )
    paired = compare_runs([one, two]).pairs.iloc[0]
    assert paired.difference_low > 0.01
    for what, facts in (
        ("other images", {"images": {"sha256": "else"}}),
        ("other splits", {"probe": {"repeats": 10, "seed": 1}}),
    ):
        found = compare_runs([one, replace(two, provenance=PROVENANCE | facts)])
        row = found.pairs.iloc[0]
        assert row.unpaired_because == what
        assert row.difference == pytest.approx(paired.difference)
        # as of two independent samples: the variances add up
        spread = 1.4 * np.hypot(one.draws[1].std(ddof=1), two.draws[1].std(ddof=1))
        assert (row.difference_high - row.difference_low) / 2 == pytest.approx(
            1.96 * spread, rel=0.2
        )
        assert found.notes() == [
            f"Not paired by image ({what}), so the interval is that of independent runs: one and "
            "two."
        ]


def test_only_runs_of_the_same_target_and_subset_are_compared(rng):
    area, more = run(rng, 0.8, "one"), run(rng, 0.7, "two")
    grade = run(rng, 0.6, "one", measure="grade")
    dog = curve_of(
        line_of(rng, FLAT, model="three"), line_of(rng, FLAT, model="three", subset="dog")
    )
    found = compare_runs([area, grade, more, dog])
    pairs = [*zip(found.pairs.run, found.pairs.other_run, found.pairs.subset, strict=True)]
    assert pairs == [("one", "two", "mean"), ("one", "three", "mean"), ("two", "three", "mean")]
    assert found.table.subset.tolist() == ["mean"] * 4 + ["dog"]
    assert "highest peak for grade: R² 0.60" in found.finding()
    assert "no other run has this target." in found.finding()
    looks = {line.look.label for line in comparison_drawing(found.curves).panels[0].lines}
    assert "one (2), grade" in looks


def test_of_many_runs_all_are_compared_with_the_best_and_corrected_over_all_pairs(rng):
    heights = [0.5, 0.52, 0.54, 0.7, 0.56, 0.58, 0.6, 0.62, 0.64]
    many = [run(rng, best, f"net{number}") for number, best in enumerate(heights)]
    pairs = compare_runs(many).pairs
    assert len(pairs) == 8
    assert all("net3" in (row.run, row.other_run) for row in pairs.itertuples())
    every = []
    for at, one in enumerate(many):
        for other in many[at + 1 :]:
            above, below = (
                mirrored(curve.table.r2[1], curve.draws[1].astype(float)) for curve in (one, other)
            )
            size = one.table.r2[1] - other.table.r2[1]
            every.append(of_difference(size, above - below, 40)[2])
    corrected = dict(zip(every, holm(every), strict=True))
    for row in pairs.itertuples():
        near = min(corrected, key=lambda p: abs(np.log(max(p, 1e-300) / max(row.p_value, 1e-300))))
        assert row.p_corrected == pytest.approx(corrected[near], rel=0.3, abs=1e-12)
    assert "shown to be better than all 8 others" in compare_runs(many).finding()


def test_named_layers_are_compared_instead_of_peaks(three):
    (row,) = compare_runs(three[:2], layers=["c", "pre_softmax"]).pairs.to_dict("records")
    assert (row["layer"], row["other_layer"], row["difference"]) == ("c", "logits", 0.0)


def test_finding_is_of_the_named_layers_whichever_run_has_the_highest_peak(
    rng, tmp_path, monkeypatch
):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    one, two, three = (
        curve_of(line_of(rng, r2, model=name, spread=0.004))
        for name, r2 in (
            ("one", [0.2, 0.81, 0.45, 0.3, 0.1]),
            ("two", [0.2, 0.77, 0.3, 0.3, 0.1]),
            ("three", [0.2, 0.3, 0.3, 0.769, 0.1]),
        )
    )
    found = compare_runs([one, two], layers=["c", "add_2"])
    assert found.finding().startswith(
        "two has the highest score at the named layers: R² 0.77 [0.67, 0.82] at b (add_2), and is "
        "shown to be better than one at c (0.32 ["
    )
    turned = compare_runs([two, one], layers=["add_2", "c"])
    assert turned.finding() == found.finding()
    folder = found.save(tmp_path / "run")
    assert open_run(folder).finding() == found.finding()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Differences at the named layers" in page and "Differences of peaks" not in page
    every = compare_runs([one, two, three], layers=["c", "b", "logits"])
    assert every.finding().endswith(
        "and is shown to be better than 1 of 2 others, but not than three at logits."
    )
    pairs = every.summary()["Differences at the named layers"]
    assert pairs.layer.tolist() == ["c", "c", "b"]
    assert pairs["other layer"].tolist() == ["b", "logits", "logits"]


def test_best_of_many_runs_is_that_of_the_named_layers(rng):
    many = [run(rng, 0.6, f"net{number}") for number in range(8)]
    high = run(rng, 0.9, "high")
    found = compare_runs([*many, high], layers=["b"] * 8 + ["a"])
    best = found.finding().split()[0]
    assert best != "high" and len(found.pairs) == 8
    assert all(best in (row.run, row.other_run) for row in found.pairs.itertuples())


def test_layer_that_a_run_lacks_is_refused_also_without_a_pair(rng):
    with pytest.raises(DataError, match="The curve of net has no layer 'mixed8'"):
        compare_runs([run(rng), run(rng, measure="grade")], layers=["b", "mixed8"])


def test_runs_that_do_not_state_images_or_splits_are_not_paired(rng):
    one = run(rng, 0.8, "one")
    for lacking, what in (("images", "images"), ("probe", "splits")):
        facts = {name: fact for name, fact in PROVENANCE.items() if name != lacking}
        bare = replace(run(rng, 0.7, "two"), provenance=facts)
        for pair in ([one, bare], [bare, one], [bare, bare]):
            found = compare_runs(pair)
            assert set(found.pairs.unpaired_because) == {f"{what} that are not stated"}
            with pytest.raises(DataError, match=f"The two runs have {what} that are not stated"):
                compare_curves(*pair)
    seed = replace(one, provenance=PROVENANCE | {"probe": {"repeats": 10}})
    assert compare_runs([seed, seed]).pairs.unpaired_because[0] == "splits that are not stated"


def test_figure_has_every_score_at_its_depth_and_a_dot_at_the_highest(three):
    found = compare_runs(three)
    assert [*found.curves] == CURVES
    drawing = comparison_drawing(found.curves)
    depths = np.linspace(0, 1, len(drawing.places))
    assert drawing.places[:: drawing.every] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    for line, curve in zip(drawing.panels[0].lines, three, strict=True):
        rows = curve.scores()
        for row in rows[rows.layer != "softmax"].itertuples():
            at = int(np.argmin(abs(depths - row.depth)))
            assert line.values[at] == pytest.approx(row.r2, abs=0.01)
        (dot,) = line.marked
        assert line.values[dot] == rows.r2[:4].max()
        assert np.isnan(line.values[depths > 0.755]).all()  # where the softmax was


def test_comparison_is_saved_and_opened_again(three, tmp_path, monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    found = compare_runs(three)
    folder = found.save(tmp_path / "run")
    again = open_run(folder)
    assert again.finding() == found.finding()
    for name, table in found.tables().items():
        read = again.tables()[name]
        pd.testing.assert_frame_equal(
            read.fillna("").astype(str).replace({"": "nan"})[["run"]],
            table.fillna("").astype(str).replace({"": "nan"})[["run"]],
        )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Score by relative depth" in page
    assert "Differences of peaks" in page


MESSAGES = [
    ({"runs": 1}, "A comparison needs two runs or more, got 1."),
    (
        {"layers": ["b"]},
        "--layers 'b' names 1 layers. Give one layer of each run, such as add_13,mixed8.",
    ),
    (
        {"regressor": "ols"},
        "One run has ridge, the other ols, which cannot be compared. Probe both networks with the "
        "same --regressor.",
    ),
]


@pytest.mark.parametrize(("given", "text"), MESSAGES)
def test_message(rng, given, text):
    other = run(rng, regressor=given.get("regressor", "ridge"))
    with pytest.raises(DataError) as error:
        compare_runs([run(rng), other][: given.get("runs", 2)], layers=given.get("layers", ()))
    assert str(error.value) == text


def test_layers_of_the_builders_are_those_that_the_costs_name():
    assert set(LAYERS) == {"a", "b", "c", "logits", "softmax"}
