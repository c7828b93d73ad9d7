"""A module may import only from the rows above its own. Changing the order is a design decision."""

import ast
import re
from pathlib import Path

import pytest

import scalecut

# fmt: off
ROWS = [
    ["errors"],
    ["storage", "regression", "stats", "measures", "cache", "page", "receptive", "twins",
     "padding", "agreement", "published", "notebook"],
    ["decoding", "layers"],
    ["images", "models", "figures", "sums", "tall", "engines", "taps"],
    ["tars", "scenes", "features", "pixels", "charts", "contests", "surgery", "verdict",
     "thumbnails"],
    ["annotations", "scores", "tiles", "finetune", "webpage", "cluster", "missing",
     "shards"],
    ["curve", "inputs", "record"],
    ["probe", "invariance", "noise", "instrument", "directions", "choice", "cut", "patches",
     "visualise", "streamed"],
    ["runs", "proof", "export", "card", "contestants", "streaming"],
    ["terminal", "options", "console", "bundle", "fits"],
    ["paper", "transfer", "transformer"],
    ["claims", "ledger"],
    ["story"],
    ["report"],
    ["experiments", "cutting", "trials", "drawing", "replication", "streams"],
    ["cli"],
    ["__main__"],
]
# fmt: on
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
FOLDER = Path(scalecut.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 500, 60  # lines
MOST_PUBLIC_NAMES = 43


def imported(path):
    """Names of the sibling modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_module_imports_only_from_the_rows_above(path):
    if path.stem == "__init__":
        assert set(imported(path)) <= set(ROW)  # the public names are gathered here
        return
    assert path.stem in ROW, f"give {path.stem} a row in {Path(__file__).name}"
    wrong = [name for name in imported(path) if ROW[name] >= ROW[path.stem]]
    assert not wrong, f"{path.stem} may not import {wrong}"


def test_every_row_names_modules_that_exist():
    assert set(ROW) == {path.stem for path in FILES} - {"__init__"}


def test_module_is_short_enough_to_be_read_at_once():
    too_long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > LONGEST_MODULE}
    assert not too_long


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_function_is_short_enough_to_be_understood_at_once(path):
    # The verbs of the public edge name every option in the signature and are measured without it.
    too_long = {
        node.name: n
        for node in functions(path)
        if (n := node.end_lineno - node.body[0].lineno + 1) > LONGEST_FUNCTION
    }
    assert not too_long


def test_only_the_commands_print():
    for path in FILES:
        tree = ast.walk(ast.parse(path.read_text()))
        names = {a.name for n in tree if isinstance(n, ast.ImportFrom) for a in n.names}
        names |= {n.func.id for n in ast.walk(ast.parse(path.read_text()))
                  if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        if names & {"OUT", "ERR", "print"}:
            assert path.stem in (*ROWS[-3], *ROWS[-2]), path.name


def test_the_table_of_the_design_is_this_one_and_gives_each_module_a_sentence():
    page = (Path(__file__).parents[1] / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|(.*)\| (.+) \|$", page, re.M)
    assert {name: int(number) for number, name, *_ in rows} == {
        name: number for name, number in ROW.items() if name != "__main__"
    }


def test_public_names_are_those_that_are_promised():
    assert sorted(scalecut.__all__) == scalecut.__all__
    assert len(scalecut.__all__) <= MOST_PUBLIC_NAMES
    assert [name for name in scalecut.__all__ if not hasattr(scalecut, name)] == []


def test_package_says_that_it_is_typed():
    assert (FOLDER / "py.typed").is_file()
