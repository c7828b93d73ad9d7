"""What a command imports, seen from a process of its own."""

import ast
import json
import os
import subprocess
import sys

import pytest

from scalecut.cli import commands
from scalecut.cli.app import COMMANDS
from scalecut.cli.commands import verb_of
from scalecut.probing.probe import Fitting, probe
from tests.builders import EXACTLY, discs, planted

SLOW = {"pandas", "numpy", "scipy", "pyarrow"}  # half a second together
HEAVY = SLOW | {"torch", "timm", "torchvision", "openvino", "skimage", "matplotlib"}
DEFINITIONS = ast.FunctionDef | ast.ClassDef
PROGRAM = """
import json, sys
import scalecut
asked = sys.argv[1:]
if asked:
    from scalecut.cli.app import app
    try:
        app(asked)
    except SystemExit as end:
        assert not end.code, end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "planted"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        few = Fitting(controls=["none"], repeats=2, permutations=0)
        probe(planted(), discs(30), computation=EXACTLY, fitting=few).save(folder)
    return folder


def imported(cache, *asked):
    """The heavy packages that are loaded after a command has run."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, asked)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SCALECUT_CACHE": str(cache)},
    )
    assert ended.returncode == 0, ended.stderr
    return HEAVY & set(json.loads(ended.stderr.splitlines()[-1]))


def test_the_package_its_help_and_the_cache_load_nothing_heavy(tmp_path):
    assert imported(tmp_path) == set()
    assert imported(tmp_path, "--help") == set()
    assert imported(tmp_path, "probe", "--help") == set()
    assert imported(tmp_path, "cache") <= SLOW


def test_a_verb_that_is_read_alone_is_the_one_of_the_whole_module():
    verbs = [commands.MAIN, *(command.verb for command in COMMANDS.values())]
    for path in (*verbs, *(place for verb in verbs for place in verb_of(verb).owners.values())):
        module, name = path.split(":")
        source = (commands.ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        whole, alone = ast.parse(source), commands._tree(path)
        one, other = (
            [ast.dump(node) for node in tree.body if getattr(node, "name", "") == name]
            for tree in (whole, alone)
        )
        assert one == other and len(one) == 1
        one, other = (
            [ast.dump(node) for node in tree.body if not isinstance(node, DEFINITIONS)]
            for tree in (whole, alone)
        )
        assert one == other


@pytest.mark.long
def test_pages_and_comparisons_load_no_torch(run, tmp_path):
    assert imported(tmp_path, "report", run) <= SLOW | {"matplotlib"}
    assert imported(tmp_path, "compare", run, run) <= SLOW | {"matplotlib"}
