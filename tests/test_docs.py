"""What the documentation tells people to type does what it says."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from scalecut import made_up_scenes, runs
from scalecut.cli import app

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    """The examples of a page in order: language and text."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def scenes():
    return made_up_scenes(90, seed=1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The run that both pages begin with, made once, of the fewest scenes that can be probed."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
        typed("demo", "--images", "80", "--out", str(folder / "run"))
    return folder / "run"


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalecut.cutting._checked_afresh", lambda folder: {})  # has its own test


def typed(*words):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return done.output


def run(page, demo, **shorter):
    """Run the examples of a page in order; gives the names that Python knows in the end.

    Args:
        demo: what stands for the run of the demo.
        shorter: by command, what to add to it so that it takes less time.
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
                shutil.copytree(demo, words[words.index("--out") + 1])
            else:
                typed(command, *words, *shorter.get(command, []))
    return names


def test_the_tutorial_leads_from_nothing_to_a_cut_network(empty_folder, demo, capsys):
    names = run("tutorial.md", demo, probe=["--twins", "1", "--permutations", "100"])
    assert names["scores"].mean() > 0.8
    assert names["network"].num_features == pd.read_parquet("features.parquet").shape[1] - 1
    assert f"(1, {names['network'].num_features})" in capsys.readouterr().out
    for folder in ("runs/demo", "runs/table"):
        assert (Path(folder) / "report.html").stat().st_size > 50_000
    evidence = runs.read_run(Path("runs/table")).evidence()
    assert evidence.peak.startswith("blocks.5") and evidence.fall_after is not None


@pytest.mark.parametrize("page", ["how-to/network.md", "how-to/table.md"])
def test_examples_in_python_run_as_they_stand(empty_folder, capsys, page):
    texts = [text for language, text in blocks(page) if language == "python"]
    assert texts
    for text in texts:
        exec(compile(text, f"docs/{page}", "exec"), {})
    assert capsys.readouterr().out


def test_a_network_of_the_reader_is_found_where_the_page_says(empty_folder):
    page = (DOCS / "how-to/network.md").read_text()
    (module,) = re.findall(r'^```python title="mynets.py"\n(.*?)^```$', page, re.M | re.S)
    Path("mynets.py").write_text(module)
    assert "layer4.0" in typed("layers", "mynets:small", "--json")
    assert "scalecut layers mynets:small\n" in page


def test_examples_about_cutting_run_as_they_stand(empty_folder, demo, scenes):
    Path("pictures").mkdir()
    paths = [f"pictures/{number:02}.png" for number in range(len(scenes))]
    for image, path in zip(scenes.images, paths, strict=True):
        image.picture().save(path)
    pd.DataFrame({"image": paths, "size": scenes.measure}).to_csv("sizes.csv", index=False)
    names = run("cutting.md", demo)
    assert names["scores"].mean() > 0.5
    table = pd.read_parquet("features.parquet")
    assert table.image.tolist() == paths
    assert np.isfinite(table.drop(columns="image").to_numpy()).all()
    assert {path.name for path in Path("exported").iterdir()} == {
        "README.md", "curve.png", "example.safetensors", "model.onnx", "model.pt2",
        "model.safetensors", "report.html", "scalecut.json",
    }  # fmt: skip
    with PIL.Image.open("exported/curve.png") as picture:
        assert picture.width > 500
