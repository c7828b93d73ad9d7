"""The commands about tissue as they are typed, on drawn tiles with a tiny network."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from scalecut.cli import app as cli
from scalecut.networks.load import load_network
from scalecut.networks.selection import chosen_points
from scalecut.pathology.patches import read_patches
from scalecut.runs import read_run
from tests.probing.test_curve import curve_of, line_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

NETWORKS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return (x + self.conv(self.norm(x))).relu()


class Chain(nn.Module):
    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def chain(width=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Chain(width)


def wide():
    return chain(6)
"""
CHAIN = "chains:chain"
R2 = [0.2, 0.7, 0.7, 0.3, 0.1]  # of a probe, at the blocks and pooled
SIDE, N_TILES = 96, 10
PARTS = 6 * ["train"] + ["validation"] + 3 * ["test"]


def tile_and_mask(rng):
    """Dark discs on a light ground, each with its own number in the mask."""
    pixels = rng.integers(180, 255, (SIDE, SIDE, 3))
    mask = np.zeros((SIDE, SIDE), dtype=np.uint16)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for number, (row, column) in enumerate(np.ndindex(6, 6), start=1):
        at = (16 * row + 8 + rng.uniform(-2, 2), 16 * column + 8 + rng.uniform(-2, 2))
        inside = (y - at[0]) ** 2 + (x - at[1]) ** 2 < rng.uniform(4, 6) ** 2
        mask[inside] = number
        pixels[inside] = rng.integers(20, 90, 3)
    return pixels.astype(np.uint8), mask


def write_tiles(folder, seed=0):
    rng = np.random.default_rng(seed)
    for name in ("tiles", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(N_TILES):
        pixels, mask = tile_and_mask(rng)
        PIL.Image.fromarray(pixels).save(folder / "tiles" / f"t{number}.png")
        PIL.Image.fromarray(mask).save(folder / "masks" / f"t{number}.png")
    rows = [f"t{number},{part}" for number, part in enumerate(PARTS)]
    (folder / "split.csv").write_text("image,split\n" + "\n".join(rows) + "\n")


CUT = ["patches", "tiles", "--masks", "masks", "--split", "split.csv", "--size", "32"]
CUT += ["--magnifications", "20,40", "--grid", "2", "--out"]


def scalecut(*typed):
    """The result of a command; an error that is our fault is raised."""
    done = CliRunner().invoke(cli.app, [str(word) for word in typed])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def probed(folder, model=CHAIN):
    """The run of a probe, its curve planted."""
    points, _ = chosen_points(load_network(model))
    layers = {point.layer: point.alias for point in points}
    r2 = [*R2, *[0.05] * (len(layers) - len(R2))]
    line = line_of(np.random.default_rng(0), r2, layers=layers, model=model)
    curve_of(line, layers=layers).save(folder)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with tiles, patches, a network and runs of a probe, all only read."""
    folder = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
        patch.setattr(cli.OUT, "width", 120)
        patch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(str(folder / "here"))
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        Path("chains.py").write_text(NETWORKS)
        write_tiles(Path())
        done = scalecut(*CUT, "patches")
        assert (done.exit_code, done.stderr) == (0, "")
        probed("run")
        probed("other", "chains:wide")
        yield folder / "here", done.stdout


def transfer(*words, out="out"):
    return scalecut("transfer", CHAIN, *with_data(words), "--out", out)


def with_data(words):
    return words if "--data" in words else ("--data", "patches:patches", *words)


# --- patches -------------------------------------------------------------------------------------


def test_patches_without_masks_are_cut_at_given_um_per_pixel_and_compared(here):
    at = ["--mpp", "0.5,1", "--um-per-pixel", "0.5", "--per-slide", "2"]
    how = ["--size", "32", "--split", "split.csv", "--out", "by-mpp"]
    done = scalecut("patches", "tiles", *at, *how)
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.search(r"^t9 +0\.5 ", done.stdout, re.M)
    assert "10 of 10 have 0.5 µm per pixel by --um-per-pixel." in done.stdout
    table = read_patches("by-mpp").table
    assert set(zip(table.um_per_pixel, table.magnification, strict=True)) == {
        (0.5, 20.0),
        (1.0, 10.0),
    }
    assert (table.groupby(["tile", "um_per_pixel"]).size() == 2).all()
    done = scalecut(
        "transfer", CHAIN, "--data", "patches:by-mpp", "--task", "magnification", "--at",
        "blocks.1", "--methods", "pretrained,cut", "--seeds", "2", "--out", "by-mpp-transfer",
    )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    done = scalecut("patches", "tiles", "--size", "32", "--out", "nothing")
    assert done.exit_code == 2
    assert "Patches without --masks need --mpp" in done.stderr


def test_patches_are_as_many_at_each_magnification_with_a_grid(here):
    _, printed = here
    table = read_patches("patches").table
    assert set(table.groupby(["tile", "magnification"]).size()) == {4}
    corners = table[table.magnification == 40]
    assert set(zip(corners.x, corners.y, strict=True)) == {(0, 0), (0, 64), (64, 0), (64, 64)}
    corners = table[table.magnification == 20]  # tiles of 48 px: they overlap
    assert set(corners.x) == set(corners.y) == {0, 16}
    for name in table.patch:
        with PIL.Image.open(Path("patches") / name) as image:
            assert image.size == (32, 32)
    assert [line.split() for line in printed.splitlines()[1:6]] == [
        ["split", "20X", "40X", "total"], ["train", "24", "24", "48"],
        ["validation", "4", "4", "8"], ["test", "12", "12", "24"], ["total", "40", "40", "80"],
    ]  # fmt: skip
    facts = read_run("patches", "patches").facts
    assert facts["command"].startswith("scalecut")
    assert facts["counts"]["total"] == {"20X": 40, "40X": 40, "total": 80}


def test_a_grid_of_one_is_in_the_middle_and_json_has_the_counts(here):
    done = scalecut(*CUT, "middle", "--grid", "1", "--json")
    assert done.exit_code == 0, done.output
    counts = pd.DataFrame(json.loads(done.stdout)["counts"]).set_index("split")
    assert list(counts.columns) == ["20X", "40X", "total"]
    assert counts.total.tolist() == [12, 2, 6, 20]
    table = read_patches("middle").table
    assert set(table[table.magnification == 40].x) == {32}
    assert set(table[table.magnification == 20].x) == {8}


def test_skipped_tiles_are_named(here, tmp_path):
    write_tiles(tmp_path)
    (tmp_path / "masks" / "t0.png").unlink()
    (tmp_path / "tiles" / "t1.png").write_bytes(b"no image")
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "masks" / "t2.png")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "masks" / "t3.png")
    folders = tmp_path / "tiles", "--masks", tmp_path / "masks", "--out", tmp_path / "out"
    done = scalecut("patches", *folders, "--size", 32, "--magnifications", "5,40")
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    for text in (
        *("t0.png", "t1.png", "t2.png", "t3.png"),
        *("no mask of this name", "like a photograph"),
        "6 of 6 tiles are smaller than a patch of 32 px there",
    ):
        assert text in told
    assert set(read_patches(tmp_path / "out").table.tile) == {f"t{k}" for k in range(4, 10)}
    assert len(read_run(tmp_path / "out", "patches").facts["left_out"]) == 4


# --- transfer ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(here):
    words = ("--from", "run", "--contestants", "pretrained,scratch,cut,sweep,tuned", "--seeds", "3")
    done = transfer(*words)
    assert done.exit_code == 0, done.output
    return done, Path("out")


def test_run_of_a_transfer_holds_its_tables_figures_and_page(frozen):
    _, run = frozen
    assert {path.stem for path in run.glob("*.csv")} == {
        "transfer", "scores", "differences", "intervals", "recall", "calibration", "sweep",
        "agreement", "configurations",
    }  # fmt: skip
    drawn = {path.stem for path in (run / "figures").iterdir()}
    assert drawn == {"data", "sweep", "calibration", "recall"}
    assert (run / "report.html").is_file()
    facts = read_run(run).facts
    assert facts["layers"]["cut"] == "blocks.1"  # the cheapest of the run
    assert facts["transfer"] == {
        "task": "area", "mode": "frozen", "seeds": 3, "log": False, "seed": 0,
        "leave_one_out": False, "blur_matched": False,
    }  # fmt: skip
    table = pd.read_csv(run / "transfer.csv")
    assert list(table.columns) == [
        "contestant", "layer", "task", "mode", "seed", "tile", "metric", "value", "n_train",
        "n_test",
    ]  # fmt: skip
    assert set(table.contestant) == {"pretrained", "scratch", "cut", "sweep", "tuned"}
    assert set(table.n_train) == {56}  # validation tiles are fitted to as well
    assert set(table[table.tile == "all"].n_test) == {24}


def test_finding_and_the_papers_table_are_printed(frozen):
    done, _ = frozen
    told = " ".join(done.stdout.split())
    assert "Table 2 of Graziani et al. 2021" in told
    for text in ("81.8 ± 11.1", "0.435 ± 0.020", "54.9 ± 4.3", "0.623 ± 0.040"):
        assert text in told
    assert "The probe's curve compared with the sweep" in told
    assert ("beats" in told) or ("No evidence that cut at blocks.1 differs" in told)


def test_json_has_scores_and_names_a_skipped_patch(here, tmp_path):
    patches = shutil.copytree("patches", tmp_path / "patches")
    torn = read_patches(patches).table.patch.iloc[0]
    (patches / torn).write_bytes((patches / torn).read_bytes()[:-200])
    words = ("--methods", "pretrained,cut", "--at", "blocks.1", "--seeds", "2", "--json")
    done = transfer("--data", f"patches:{patches}", *words, out=tmp_path / "out")
    assert (done.exit_code, done.stderr) == (0, "")
    whole = json.loads(done.stdout)
    assert [row["contestant"] for row in whole["scores"]] == ["pretrained", "cut"]
    assert [item["name"] for item in whole["images_left_out"]] == [torn]
    assert whole["finding"] == read_run(tmp_path / "out").facts["finding"]


def test_finetune_gives_the_same_tables_and_a_second_call_trains_nothing(here):
    words = ("--mode", "finetune", "--at", "blocks.1", "--methods", "pretrained,cut")
    words += ("--seeds", "2", "--epochs", "2", "--batch-size", "8", "--device", "cpu")
    done = transfer(*words, out="tuned")
    assert done.exit_code == 0, done.output
    table = pd.read_csv("tuned/transfer.csv")
    assert set(table["mode"]) == {"finetune"}
    assert set(table.n_train) == {48}
    losses = pd.read_csv("tuned/losses.csv")
    assert len(losses) == 2 * 2 * 2
    assert (losses.groupby("epoch").loss.mean().diff().dropna() < 0).all()
    assert losses.validation_loss.notna().all()
    training = read_run("tuned").facts["training"]
    assert training == {
        "epochs": 2, "learning_rate": 1e-4, "batch_size": 8, "patience": 0, "keep_best": False,
        "raw_target": False, "precision": "auto", "device": "cpu",
    }  # fmt: skip
    fits = {path: path.stat().st_mtime_ns for path in Path("../cache/fits").rglob("fit")}
    assert len(fits) == 4
    assert transfer(*words, out="tuned2").exit_code == 0
    assert fits == {p: p.stat().st_mtime_ns for p in Path("../cache/fits").rglob("fit")}
    pd.testing.assert_frame_equal(pd.read_csv("tuned2/transfer.csv"), table)


# --- errors --------------------------------------------------------------------------------------

# fmt: off
REFUSED = [
    ([*(word.replace("20,40", "40,60") for word in CUT), "refused"],
     "A magnification of 60X is above that of the tiles, 40X, and would add no detail. Give 40 or "
     "less."),
    ([*CUT, "refused", "--leave-out", "t"], "--leave-out t skips every tile. Skip fewer."),
    ([*CUT, "refused", "--split", "train.csv"],
     "None of the 10 tiles is in test, so nothing can be tested. Put some patients into test."),
    ([*CUT, "refused", "--size", "500"],
     "No tile of train gives a patch of 500 px with a complete nucleus of 3 px. Give larger tiles, "
     "higher magnifications or smaller patches."),
    (["patches", "nowhere", "--masks", "masks", "--out", "refused"],
     "There is no folder nowhere. Give the folder of the tiles."),
    ([], "Method cut needs a layer to cut at, and none is given. Give --at LAYER, or --from RUN."),
    (["--at", "blocks.1", "--mode", "finetune", "--epochs", "1", "--learning-rate", "0"],
     "1 epochs in batches of 32 at a learning rate of 0 train nothing. Give --epochs 1 or more, "
     "--batch-size 2 or more and a finite --learning-rate above 0."),
    (["--data", "voc:photographs", "--at", "blocks.1"],
     "'voc:photographs' does not name patches. Give patches:DIR, a folder that `scalecut patches` "
     "wrote."),
    (["--data", "patches:tiles", "--at", "blocks.1"],
     "'tiles' holds no patches: patches.parquet cannot be read (tiles/patches.parquet). Give a "
     "folder that `scalecut patches` wrote."),
    (["--rule", "peak"],
     "--rule chooses the layer by the curve of --from, and --at leaves nothing to choose. Give "
     "--from RUN without --at, or drop --rule."),
    (["--from", "other"],
     "The run 'other' is of chains:wide, not of chains:chain. Give a run of chains:chain, or the "
     "model chains:wide."),
]
# fmt: on


def test_what_cannot_be_done_is_refused_in_one_line_and_leaves_nothing(here):
    lines = Path("split.csv").read_text().replace("test", "train").replace("validation", "train")
    Path("train.csv").write_text(lines)
    before = sorted(Path().rglob("*"))
    for words, text in REFUSED:
        is_command = words[:1] == ["patches"]
        done = scalecut(*words) if is_command else transfer(*words, out="refused")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == f"scalecut: {text}\n"
        assert sorted(Path().rglob("*")) == before


def test_the_former_name_of_methods_is_hidden():
    shown = scalecut("transfer", "--help").stdout
    assert "--methods" in shown
    assert "contestants" not in shown


# --- audit ---------------------------------------------------------------------------------------

AUDIT = ["audit", "tiles", "--native", "40", "--grid", "2", "--octaves", "-0.5,0,0.5,1"]
OWN = ["--model", CHAIN, "--at", "blocks.1", "--precision", "float32", "--engine", "torch"]


@pytest.fixture(scope="module")
def audited(here):
    done = scalecut(*AUDIT, *OWN, "--out", "audit")
    assert (done.exit_code, done.stderr) == (0, "")
    return read_run("audit"), done.stdout


def test_an_audit_writes_every_tile_a_table_of_sizes_and_a_page(audited):
    run, printed = audited
    table = run.table("audit")
    assert sorted(table.name) == [f"t{number}" for number in range(N_TILES)]
    assert (table.claimed_mpp == 0.25).all()
    agree = table.verdict == "agrees"
    assert len(run.table("mpp")) == int(agree.sum())
    assert run.table("variants").layer.tolist() == ["blocks.1", "blocks.1", "pooled", "pooled"]
    assert "All tiles claim 0.25 µm per pixel, and learn from each other" in printed
    assert "An interval of 95 % needs 19 other patients" in printed
    page = (run.folder / "report.html").read_text()
    assert "Predicted against claimed resolution" in page
    assert (run.folder / "figures" / "audit.png").is_file()


def test_the_auditor_of_a_run_judges_as_json_if_its_factory_is_named(audited):
    words = ("audit", "tiles", "--native", "40", "--with", "audit", "--out", "again", "--json")
    done = scalecut(*words)
    assert done.exit_code == 2
    assert "no function is called because a file names it" in done.stderr
    done = scalecut(*words, "--model", CHAIN)
    assert done.exit_code == 0
    rows = json.loads(done.stdout)["audit"]
    assert len(rows) == N_TILES
    assert {row["last_verdict"] for row in rows} == {""}
    assert not (Path("again") / "auditor").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at", "blocks.1"], "claims a size (the first is t0)"),
        (["--native", "40"], "to cut at is given. Give --at LAYER, or --from RUN"),
        (["--native", "forty"], "--native 'forty' is no number"),
        (["--native", "40", "--rate", "2"], "--rate must be between 0 and 1, got 2."),
        (["--with", "run", "--native", "40"], "holds no auditor of scalecut"),
        (["--with", "run", "--at", "blocks.1"], "--with brings its own network, layer and views."),
    ],
)
def test_an_audit_that_cannot_be_made_says_why_in_one_line(here, words, said):
    words = words if "--with" in words else ["--model", CHAIN, *words]
    done = scalecut("audit", "tiles", *words, "--out", "none")
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# --- passport ------------------------------------------------------------------------------------


def passport(*words, out, model=CHAIN):
    few = "--repeats", "3", "--permutations", "0", "--precision", "float32", "--engine", "torch"
    return scalecut("passport", model, *with_data(words), *few, "--out", out)


@pytest.fixture(scope="module")
def passports(here):
    done = passport(out="narrow")
    assert (done.exit_code, done.stderr) == (0, "")
    other = passport(
        "--at", "20X", "--random-networks", "0", "--json", out="wide", model="chains:wide"
    )
    assert (other.exit_code, other.stderr) == (0, "")
    return done.stdout, json.loads(other.stdout)


def test_a_passport_answers_for_each_resolution_and_layer(passports):
    printed, other = passports
    assert "Distance of pooled from 40X (0.25 µm per pixel), in what patients differ by" in printed
    assert (
        "At 20X (0.5 µm per pixel) the last layer of chains:chain (pooled) differs from 40X"
        in printed
    )
    assert "There are 10 patients, and no interval holds with fewer than 12" in printed
    run = read_run("narrow")
    assert set(run.table("passport")["weights"]) == {"pretrained", "random"}
    assert {row["layer"] for row in other["passport"]} == set(run.table("passport").layer)
    assert [row["answer"] for row in other["resolutions"]][:2].count("reference") == 1
    assert other["finding"].startswith("At 40X (0.25 µm per pixel)")


def test_passports_are_compared_by_the_command_that_compares_curves(passports):
    done = scalecut("compare", "narrow", "wide", "--out", "both")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "chains:wide differs from chains:chain in its resolution of reference" in " ".join(
        done.stdout.split()
    )
    assert read_run("both").table("encoders").reference.tolist() == [0.25, 0.5]
    mixed = scalecut("compare", "narrow", "run")
    assert mixed.exit_code == 2 and "it lacks 'passport'" in mixed.stderr
