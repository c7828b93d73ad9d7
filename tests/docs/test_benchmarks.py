"""The page that `make bench` writes: ratios, aims, and what stands around the tables."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("page")


def test_a_ratio_is_the_median_of_those_within_rounds(page):
    speeds = {"slow": [1.0, 10.0, 100.0], "fast": [3.0, 50.0, 200.0]}  # 3, 5 and 2 times
    assert page.ratio(speeds, "fast", "slow") == 3
    head, rule, *rows = page.table_of_speeds({"Net": speeds}, "slow")
    assert head == "| images/s (times the first row) | Net |"
    assert rule == "| --- | --- |"
    assert rows == ["| slow | 10.0 (1.00) |", "| fast | 50.0 (3.00) |"]


@pytest.mark.parametrize(
    ("found", "aims", "measured"),
    [
        ({"A": 0.951, "B": 0.949}, {"least": 0.95}, "A 0.95, B **0.949, missed**"),
        ({"": 0.5}, {"most": 0.5, "unit": " s"}, "0.50 s"),
        ({"": 61.0}, {"most": 60, "unit": " s"}, "**61.00 s, missed**"),
        ({"": 1234.5}, {"least": 50, "note": " (1 h)"}, "1,234 (1 h)"),
        ({}, {"least": 2, "note": " (now 80 s)"}, "not measured (now 80 s)"),
    ],
)
def test_a_missed_aim_is_marked(page, found, aims, measured):
    row = page.Claim("this / that", found, **aims).row()
    assert row.split(" | ")[-1] == f"{measured} |"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_what_is_between_the_marks_is_written(page, precision):
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    marks = begin, end = page.marks_of(precision)
    before, after = text.partition(begin)[0], text.partition(end)[2]
    once = page.written(text, ["| a |", "|---|"], marks)
    assert once == f"{before}{begin}\n\n| a |\n|---|\n\n{end}{after}"
    assert page.written(once, ["| a |", "|---|"], marks) == once
    with pytest.raises(ValueError, match="The page lacks the marks"):
        page.written("# A page", [], marks)


@pytest.mark.slow
def test_every_step_of_the_benchmark_runs():
    before = (ROOT / "docs" / "benchmarks.md").read_bytes()
    asked = [sys.executable, ROOT / "benchmarks" / "speed.py", "--small"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    for row in (
        "| plain PyTorch, float32 |",
        "| loop over scikit-learn",
        "| tf_efficientnet_lite0",
    ):
        assert row in said
    assert (ROOT / "docs" / "benchmarks.md").read_bytes() == before
