"""The example notebook runs, displays its results, and is stored without output."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FILE = Path(__file__).parents[2] / "docs" / "notebooks" / "scales.ipynb"
SHOWN = {  # how the last line of a cell begins, and what its output must contain
    "curve": ("<img src=", "encodes object scale", "<th>learned</th>"),
    "audited": ("<img src=", "1 of 12 tiles is suspicious", "patient-7 (claimed 0.5 µm"),
}


def run(test):
    """Mark a test of the notebook after it ran, which takes a minute."""
    return pytest.mark.slow(pytest.mark.install(test))


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(FILE, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after all of its cells ran, in a process and an empty folder of their own."""
    folder = tmp_path_factory.mktemp("notebook")
    copy = folder / FILE.name
    copy.write_bytes(FILE.read_bytes())
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-execute"), "--inplace", copy],
        env={**os.environ, "SCALECUT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(copy, as_version=4)


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def ending(book, line):
    """The cell whose last line begins so."""
    (cell,) = [cell for cell in code(book) if cell.source.splitlines()[-1].startswith(line)]
    return cell


def html(cell):
    """The HTML output of a cell; empty if it has none."""
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def test_notebook_is_stored_without_output(stored):
    nbformat.validate(stored)
    assert [cell.outputs for cell in code(stored)] == [[]] * len(code(stored))
    assert {cell.execution_count for cell in code(stored)} == {None}
    assert [cell.source for cell in code(stored) if "._" in cell.source] == []  # no private name


@run
def test_results_and_tables_are_displayed(executed):
    (cell,) = [cell for cell in code(executed) if cell.source.startswith("short = ")]
    assert "EfficientNet, cut after blocks." in html(cell)
    for line, texts in SHOWN.items():
        shown = html(ending(executed, line))
        assert [text for text in texts if text not in shown] == []
    tables = [cell for cell in code(executed) if "pd.DataFrame(" in cell.source]
    assert len(tables) == 3
    assert all("<table" in html(cell) for cell in tables)


@run
def test_cut_is_verified_and_the_run_has_a_page(executed):
    (saved,) = [cell for cell in code(executed) if "save_cut(" in cell.source]
    said = saved.outputs[-1].data["text/plain"]
    assert "Same features as the whole network: exactly equal" in said
    (files,) = [cell for cell in code(executed) if "curve.save(" in cell.source]
    listed = files.outputs[-1].data["text/plain"]
    assert "curve.csv" in listed and "report.html" in listed


@run
def test_cut_predicts_the_share_in_new_scenes(executed):
    (said,) = ending(executed, "model.score").outputs
    assert float(said.data["text/plain"]) > 0.7
