"""What the documentation tells people to type does what it says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from scalecut import made_up_scenes
from scalecut.cli import app

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    """The examples of a page in order: language and text."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def scenes():
    return made_up_scenes(90, seed=1)


def test_examples_about_cutting_run_as_they_stand(tmp_path, monkeypatch, scenes):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalecut.cutting._checked_afresh", lambda folder: {})  # has its own test
    Path("pictures").mkdir()
    paths = [f"pictures/{number:02}.png" for number in range(len(scenes))]
    for image, path in zip(scenes.images, paths, strict=True):
        image.picture().save(path)
    pd.DataFrame({"image": paths, "size": scenes.measure}).to_csv("sizes.csv", index=False)
    found = blocks("cutting.md")
    assert {language for language, _ in found} == {"sh", "python"}
    names = {}
    for language, text in found:
        if language == "python":
            exec(compile(text, "docs/cutting.md", "exec"), names)
            continue
        for line in text.splitlines():
            done = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
            assert done.exit_code == 0, f"{line}\n{done.output}"
    assert names["scores"].mean() > 0.5
    table = pd.read_parquet("features.parquet")
    assert table.image.tolist() == paths
    assert np.isfinite(table.drop(columns="image").to_numpy()).all()
    assert {path.name for path in Path("exported").iterdir()} == {
        "README.md", "curve.png", "example.safetensors", "model.onnx", "model.pt2",
        "model.safetensors", "scalecut.json",
    }  # fmt: skip
    with PIL.Image.open("exported/curve.png") as picture:
        assert picture.width > 500
