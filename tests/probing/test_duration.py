"""The time of a probe, said beforehand."""

import numpy as np
import pytest
from torch import nn

from scalecut import Computation, Fitting, Reading, load_network, probe
from scalecut.data.read import images_of
from scalecut.figures.text import duration as text
from scalecut.probing import duration
from scalecut.probing.duration import joined_seconds, regression_seconds
from tests.builders import AS_IT_IS, discs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89.4, "89 s"), (90.0, "2 min"), (260.0, "4 min"), (7800.0, "2 h 10 min")],
)
def test_time_is_said_in_a_suitable_unit(seconds, said):
    assert text(seconds) == said


def test_more_of_anything_takes_longer(monkeypatch):
    monkeypatch.setattr(duration, "_operations_per_second", lambda: 1e10)
    usual = {"sizes": [300, 300], "widths": [64, 512], "repeats": 10, "permutations": 1000}
    base = regression_seconds(**usual)
    for more in (
        {"sizes": [300, 600]},
        {"widths": [64, 1024]},
        {"repeats": 20},
        {"permutations": 2000},
    ):
        assert regression_seconds(**usual | more) > 1.05 * base
    assert regression_seconds(**usual | {"repeats": 20}) == pytest.approx(2 * base)
    few, many = (regression_seconds(**usual, at_once=number) for number in (10, 40))
    assert few == pytest.approx(4 * many)


def test_time_of_layers_together_grows_with_all_that_is_joined(monkeypatch):
    monkeypatch.setattr(duration, "_operations_per_second", lambda: 1e10)
    usual = {"sizes": [300], "widths": [64, 512], "repeats": 10}
    base = joined_seconds(**usual)
    for more in ({"sizes": [400]}, {"widths": [64, 512, 64]}, {"repeats": 12}):
        assert joined_seconds(**usual | more) > 1.05 * base
    assert joined_seconds(**usual | {"sizes": [300, 300]}) == pytest.approx(2 * base)


class Shown:
    """What shows progress, and keeps the notes."""

    def __init__(self):
        self.notes = []

    def __call__(self, stage, done, total):
        pass

    def note(self, text):
        self.notes.append(text)


def network():
    return load_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), preprocessing=AS_IT_IS)


@pytest.mark.parametrize(("long", "quick"), [(0, False), (0, True), (1e9, False)])
def test_a_long_probe_says_its_time_once_and_what_is_shorter(monkeypatch, long, quick):
    monkeypatch.setattr("scalecut.probing.probe.LONG", long)
    shown = Shown()
    fitting = Fitting(controls=["random", "permuted"], random_networks=2, repeats=2, quick=quick)
    probe(network(), discs(30), computation=Computation(batch_size=8), fitting=fitting,
          progress=shown)  # fmt: skip
    assert len(shown.notes) == (long == 0)
    for note in shown.notes:
        assert f"{3 if quick else 4} passes of 30 images at" in note
        assert ("--quick" in note) != quick


def test_quick_takes_fewer_of_everything_and_says_so():
    fitting = Fitting(repeats=2, quick=True)
    assert (fitting.random_networks, fitting.permutations) == (1, 99)
    assert Fitting(quick=True, permutations=0).permutations == 0
    curve = probe(network(), discs(420), fitting=fitting)
    assert set(curve.table.n_images) == {400}
    assert any("(--quick)" in line for line in curve.notes())
    assert curve.finding().endswith(" training images (a first look, --quick).")
    assert not any("(--quick)" in line for line in probe(
        network(), discs(30), fitting=Fitting(repeats=2, permutations=0, random_networks=1)
    ).notes())  # fmt: skip


def test_images_are_drawn_evenly_over_the_measure():
    every = discs(400)
    edges = np.quantile(every.measure, [0, 0.25, 0.5, 0.75, 1])
    for seed in range(5):
        drawn = images_of(every, AS_IT_IS.frame(), Reading(at_most=80), seed=seed)
        assert np.abs(np.histogram(drawn.measure, edges)[0] - 20).max() <= 1
