"""The examples of the documentation run, and give what it says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from scalecut import make_scenes
from scalecut.cli.app import app
from scalecut.cli.console import OUT
from scalecut.cut.folder import check_cut
from tests.cli.test_app import CURVE_HEADER, FINDING, words

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page):
    """The examples of a page in order: language and text."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(90, seed=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run that pages begin with, of the fewest scenes that can be probed, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
        patch.setattr(OUT, "width", 80)
        for name, few in (("random_networks", 1), ("permutations", 39)):
            patch.setattr(f"scalecut.probing.probe.Fitting.{name}", few)
        said = typed("demo", "--images", "80", "--out", "runs/demo")
    return folder / "runs" / "demo", said


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalecut.cut.folder.reloaded_from", lambda made, _: check_cut(made))


def typed(*words):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return done.stdout


def run(page, demo):
    """Run the examples of a page in order, `demo` in the place of the run of the demo.

    Gives the names that Python knows in the end.
    """
    found = blocks(page)
    assert {language for language, _ in found} == {"sh", "python"}
    names = {}
    for language, text in found:
        if language == "python":
            exec(compile(text, f"docs/{page}", "exec"), names)
            continue
        for line in text.splitlines():
            _, command, *words = shlex.split(line)
            if command == "demo":
                shutil.copytree(demo[0], words[words.index("--out") + 1])
            else:
                typed(command, *words)
    return names


def as_typed(page):
    """All that a page has its reader type, as one script for a shell."""
    lines = ["set -eu"]
    for language, text in re.findall(
        r"^```(console|sh|python)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S
    ):
        if language == "console":
            lines += [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        else:
            lines.append(text if language == "sh" else f"python - <<'END'\n{text}END")
    return "\n".join(lines)


def findings(text):
    """The best layer of each finding in a text, and its R²."""
    told = " ".join(line.removeprefix("> ") for line in text.splitlines())
    return re.findall(r"object scale best at (\S+) .*?R² ([\d.]+) \[", " ".join(told.split()))


@pytest.mark.slow
@pytest.mark.install
def test_the_tutorial_leads_from_nothing_to_a_cut_network_as_it_is_typed(tmp_path):
    """In a fresh environment, which it makes; it needs a package index.

    uv installs in the place of pip: it copies what it has unpacked before.
    """
    page = (DOCS / "tutorial.md").read_text()
    own = {name: said for name, said in os.environ.items() if not name.startswith("PYTHON")}
    env = own | {
        "UV_CONSTRAINT": str(ROOT / "constraints.txt"),
        "SCALECUT_CACHE": str(tmp_path / "cache"),
    }
    uv = Path(sys.executable).with_name("uv")
    script = as_typed("tutorial.md").replace("/path/to/scalecut", str(ROOT))
    script = script.replace("pip install", f"{uv} pip install --quiet")
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "here", env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    told, found = findings(page), findings(done.stdout)
    assert [layer for layer, _ in found] == [layer for layer, _ in told]
    for (_, theirs), (_, ours) in zip(told, found, strict=True):
        assert float(ours) == pytest.approx(float(theirs), abs=0.02)
    (score,) = re.findall(r"It prints `R² ([\d.]+)`", page)
    (ours,) = re.findall(r"^R² ([\d.]+)$", done.stdout, re.M)
    assert float(ours) == pytest.approx(float(score), abs=0.05)
    (shape,) = re.findall(r"It prints `(\(1, \d+\))`", page)
    assert f"\n{shape}\n" in done.stdout
    for folder in ("runs/demo", "runs/table", "short"):
        assert (tmp_path / "here" / folder / "report.html").stat().st_size > 20_000


def test_examples_in_python_and_a_network_of_the_reader_run(empty_folder, capsys):
    for page in ("how-to/network.md", "how-to/table.md", "how-to/targets.md"):
        texts = [text for language, text in blocks(page) if language == "python"]
        for text in texts:
            exec(compile(text, f"docs/{page}", "exec"), {})
        assert capsys.readouterr().out
    page = (DOCS / "how-to/network.md").read_text()
    (module,) = re.findall(r'^```python title="mynets.py"\n(.*?)^```$', page, re.M | re.S)
    Path("mynets.py").write_text(module)
    assert "layer4.0" in typed("layers", "mynets:small", "--json")
    assert "scalecut layers mynets:small\n" in page


@pytest.mark.long
def test_demo_ends_with_table_controls_files_and_one_sentence(demo):
    folder, said = demo
    *lines, controls, computed, run, figure, page, finding = said.splitlines()
    assert computed.startswith("Computed by OpenVINO in ")
    assert lines[0].startswith("EfficientNet-Lite0, trained on ImageNet, is shown synthetic scenes")
    objects = "astronaut, cat, coffee, motorcycle"
    assert f"R² of area, tf_efficientnet_lite0, 80 images ({objects})" in words(said)
    header = [line.split() for line in lines].index(CURVE_HEADER)
    named = [line.split()[0] for line in lines[header + 1 :]]
    assert [name for name in named if name != "(pre_softmax)"] == [
        *(f"blocks.{s}.{b}" for s, n in enumerate([1, 2, 2, 3, 3, 4, 1]) for b in range(n)),
        *("pooled", "logits", "softmax"),
    ]
    assert controls.startswith("Controls: pixels alone ")
    assert run == "Run:    runs/demo"
    assert figure == "Figure: runs/demo/figures/curve.png"
    assert page == "Page:   runs/demo/report.html"
    assert FINDING.fullmatch(finding)["model"] == "tf_efficientnet_lite0"
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


@pytest.mark.long
def test_examples_about_cutting_run(empty_folder, demo, scenes):
    Path("images").mkdir()
    paths = [f"images/{number:02}.png" for number in range(len(scenes))]
    for image, path in zip(scenes.images, paths, strict=True):
        image.decode().save(path)
    pd.DataFrame({"image": paths, "measure": scenes.measure}).to_csv("sizes.csv", index=False)
    names = run("cutting.md", demo)
    assert names["scores"].mean() > 0.5
    table = pd.read_parquet("features.parquet")
    assert table.image.tolist() == paths
    assert np.isfinite(table.drop(columns="image").to_numpy()).all()
    assert {path.name for path in Path("exported").iterdir()} == {
        "README.md", "curve.png", "example.safetensors", "model.onnx", "model.pt2",
        "model.safetensors", "report.html", "scalecut.json",
    }  # fmt: skip
    with PIL.Image.open("exported/curve.png") as image:
        assert image.width > 500
