"""The commands about transfer as they are typed, on made-up tiles with a tiny network."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scalecut.cli.console import OUT
from scalecut.pathology.patches import read_patches
from scalecut.runs import read_facts
from tests.cli.test_app import assert_refused, scalecut, tree
from tests.cli.test_cut import NETWORKS, run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CHAIN = "short_networks:chain"
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
CUT += ["--magnifications", "20,40", "--grid", "2", "--out", "patches"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with tiles, patches, a network and the run of a probe, all only read."""
    folder = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(folder / "cache"))
        patch.setattr(OUT, "width", 120)
        patch.setattr(sys, "dont_write_bytecode", True)
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        Path("short_networks.py").write_text(NETWORKS)
        write_tiles(Path())
        assert scalecut(*CUT).exit_code == 0
        run_of()
        yield folder / "here"


def transfer(*words, out="out"):
    return scalecut("transfer", CHAIN, "--data", "patches:patches", *words, "--out", out)


# --- patches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "levels", "reason"),
    [
        (
            SIDE, 256, r"its mask t0.png: it has 256 levels in \d+ regions, as a photograph has; "
            "give a mask of two levels, or of one level a nucleus",
        ),
        (9, 2, "it has 96 x 96 pixels, its mask 9 x 9; give a mask of the same size"),
    ],
    ids=["photographs", "of another size"],
)  # fmt: skip
def test_masks_none_of_which_can_be_used_are_refused(here, tmp_path, side, levels, reason):
    write_tiles(tmp_path)
    rng = np.random.default_rng(0)
    for mask in (tmp_path / "masks").iterdir():
        pixels = rng.integers(0, levels, (side, side)) * (255 // (levels - 1))
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(mask)
    folders = tmp_path / "tiles", "--masks", tmp_path / "masks"
    done = scalecut("patches", *folders, "--out", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"scalecut: None of the tiles of {tmp_path}/tiles can be used. {N_TILES} were left out, "
        rf"the first t0.png: {reason}\.\n",
        done.stderr,
    )
    assert not (tmp_path / "out").exists()


def test_patches_are_as_many_at_each_magnification_with_a_grid(here):
    table = read_patches(Path("patches"))
    assert set(table.groupby(["tile", "magnification"]).size()) == {4}
    corners = table[table.magnification == 40].groupby("tile")[["x", "y"]]
    assert all(set(map(tuple, rows.to_numpy())) == {(0, 0), (0, 64), (64, 0), (64, 64)}
               for _, rows in corners)  # fmt: skip
    corners = table[table.magnification == 20]  # tiles of 48 px: they overlap
    assert set(corners.x) == set(corners.y) == {0, 16}
    for row in table.itertuples():
        with PIL.Image.open(Path("patches") / row.patch) as picture:
            assert picture.size == (32, 32)


def test_grid_of_one_is_in_the_middle(here):
    done = scalecut(*CUT[:-4], "--grid", "1", "--out", "middle")
    assert done.exit_code == 0, done.output
    table = read_patches(Path("middle"))
    assert set(table[table.magnification == 40].x) == {32}
    assert set(table[table.magnification == 20].x) == {8}


def test_counts_are_printed_as_the_paper_does_and_in_json(here):
    done = scalecut(*CUT[:-1], "again", "--json")
    assert done.exit_code == 0
    counts = pd.DataFrame(json.loads(done.stdout)["counts"]).set_index("split")
    assert list(counts.columns) == ["20X", "40X", "total"]
    assert counts.loc["total", "total"] == len(read_patches(Path("again"))) == 80
    assert counts.total.tolist() == [48, 8, 24, 80]
    printed = scalecut(*CUT[:-1], "again").stdout
    assert [line.split() for line in printed.splitlines()[1:6]] == [
        ["split", "20X", "40X", "total"], ["train", "24", "24", "48"],
        ["validation", "4", "4", "8"], ["test", "12", "12", "24"], ["total", "40", "40", "80"],
    ]  # fmt: skip


def test_what_is_left_out_is_named(here, tmp_path):
    write_tiles(tmp_path)
    (tmp_path / "masks" / "t0.png").unlink()
    (tmp_path / "tiles" / "t1.png").write_bytes(b"no picture")
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "masks" / "t2.png")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "masks" / "t3.png")
    done = scalecut("patches", tmp_path / "tiles", "--masks", tmp_path / "masks", "--size", 32,
                    "--magnifications", "5,40", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    for name in ("t0.png", "t1.png", "t2.png", "t3.png"):
        assert name in told
    assert "no mask of this name" in told
    assert "as a photograph has" in told
    assert "6 of 6 tiles are smaller than a patch of 32 px there" in told
    assert set(read_patches(tmp_path / "out").tile) == {f"t{k}" for k in range(4, 10)}


PATCHES_REFUSED = {
    "a magnification above the native one": (
        ["--magnifications", "40,60"],
        "A magnification of 60X is above that of the tiles, 40X; its detail would be made up. "
        "Give 40 or less."),
    "no magnification": (
        ["--magnifications", "ten"],
        "'ten' is no list of magnifications. Give numbers above 0, such as 10,20,40."),
    "a grid of none": (
        ["--grid", "0"], "A grid of 0 x 0 patches is none. Give 1 or more."),
    "everything left out": (
        ["--leave-out", "t"], "--leave-out 't' leaves no tile. Leave out fewer."),
    "no test part": (
        ["--split", "train.csv"],
        "None of the 10 tiles is in test, so nothing can be tested. Put some patients into test."),
    "patches larger than the tiles": (
        ["--size", "500"],
        "No tile of train gives a patch of 500 px with a whole nucleus of 3 px. Give larger "
        "tiles, higher magnifications or smaller patches."),
}  # fmt: skip


@pytest.mark.parametrize(("words", "text"), PATCHES_REFUSED.values(), ids=PATCHES_REFUSED)
def test_patches_that_cannot_be_cut_are_refused_in_one_line(here, words, text):
    lines = Path("split.csv").read_text().replace("test", "train").replace("validation", "train")
    Path("train.csv").write_text(lines)
    before = tree()
    assert_refused(scalecut(*CUT[:-1], "refused", *words), before, text)


def test_folders_without_tiles_or_masks_are_refused(here):
    before = tree()
    assert_refused(
        scalecut("patches", "nowhere", "--masks", "masks", "--out", "refused"),
        before,
        "There is no folder nowhere. Give the folder of the tiles.",
    )
    assert_refused(
        scalecut("patches", "tiles", "--masks", "cache", "--out", "refused"),
        before,
        "There is no folder cache. Give the folder of the masks.",
    )


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
        "transfer", "differences", "recall", "calibration", "sweep", "agreement", "configurations",
    }  # fmt: skip
    drawn = {path.stem for path in (run / "figures").iterdir()}
    assert drawn == {"sweep", "calibration", "recall"}
    assert (run / "report.html").is_file()
    facts = read_facts(run)
    assert facts["layers"]["cut"] == "blocks.1"  # what the run's `cheapest` gives
    assert facts["transfer"] == {
        "task": "area", "mode": "frozen", "seeds": 3, "seed": 0, "log": False,
    }  # fmt: skip


def test_table_of_transfer_has_the_columns_that_are_promised(frozen):
    _, run = frozen
    table = pd.read_csv(run / "transfer.csv")
    assert list(table.columns) == [
        "contestant", "layer", "task", "mode", "seed", "tile", "metric", "value", "n_train",
        "n_test",
    ]  # fmt: skip
    assert set(table.contestant) == {"pretrained", "scratch", "cut", "sweep", "tuned"}
    assert set(table.n_train) == {56}  # validation tiles are fitted to as well
    assert set(table[table.tile == "all"].n_test) == {24}


def test_closing_lines_say_the_finding_and_the_papers_table_stands_beside(frozen):
    done, _ = frozen
    told = " ".join(done.stdout.split())
    assert "Table 2 of Graziani et al. 2021" in told
    for text in ("81.8 ± 11.1", "0.435 ± 0.020", "54.9 ± 4.3", "0.623 ± 0.040"):
        assert text in told
    assert "Does the probe's curve foretell the sweep?" in told
    assert ("beats" in told) or ("No evidence that cut at blocks.1 differs" in told)


def test_finetune_gives_the_same_tables_and_a_second_call_trains_nothing(here):
    words = ("--mode", "finetune", "--at", "blocks.1", "--contestants", "pretrained,cut")
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
    fits = {path: path.stat().st_mtime_ns for path in Path("../cache/fits").rglob("fit.npz")}
    assert len(fits) == 4
    assert transfer(*words, out="tuned2").exit_code == 0
    assert fits == {p: p.stat().st_mtime_ns for p in Path("../cache/fits").rglob("fit.npz")}
    pd.testing.assert_frame_equal(pd.read_csv("tuned2/transfer.csv"), table)


REFUSED = {
    "no such mode": (
        ["--mode", "thawed"], "No mode is named 'thawed'. Give one of frozen, finetune."),
    "no layer": (
        [], "A contestant is cut, but no layer is given. Give --at LAYER, or --from RUN."),
    "many layers trained as one": (
        ["--at", "blocks.1", "--mode", "finetune", "--contestants", "all-layers"],
        "all-layers reads 5 layers side by side, which is for --mode frozen. Leave it out, or "
        "train sweep."),
    "tuned layers trained": (
        ["--at", "blocks.1", "--mode", "finetune", "--contestants", "tuned"],
        "tuned chooses among frozen features, which is for --mode frozen. Leave it out."),
    "no epochs": (
        ["--at", "blocks.1", "--mode", "finetune", "--epochs", "0"],
        "0 epochs in batches of 32 at a learning rate of 0.0001 train nothing. Give 1 epoch or "
        "more, batches of 2 or more and a rate above 0.",
    ),
    "other data": (
        ["--data", "voc:photographs", "--at", "blocks.1"],
        "'voc:photographs' are no patches. Give patches:DIR, a folder that scalecut patches "
        "wrote."),
    "a folder without patches": (
        ["--data", "patches:tiles", "--at", "blocks.1"],
        "'tiles' holds no patches: patches.parquet cannot be read (tiles/patches.parquet). "
        "Give a folder that `scalecut patches` wrote."),
    "rule beside a layer": (
        ["--from", "other", "--at", "blocks.1", "--rule", "peak"],
        "--rule chooses where to cut by the curve of --from; --at leaves nothing to choose. "
        "Give --from RUN without --at, or drop --rule."),
    "rule without a run": (
        ["--rule", "peak"],
        "--rule chooses where to cut by the curve of --from; --at leaves nothing to choose. "
        "Give --from RUN without --at, or drop --rule."),
    "another network's run": (
        ["--from", "other"],
        "The run 'other' is of short_networks:wide, not of short_networks:chain. Give a run of "
        "this network, or name short_networks:wide."),
}  # fmt: skip


@pytest.mark.parametrize(("words", "text"), REFUSED.values(), ids=REFUSED)
def test_transfer_that_cannot_be_made_is_refused_in_one_line(here, words, text):
    if "other" in words and not Path("other").exists():
        run_of("other", model="short_networks:wide")
    before = tree()
    assert_refused(transfer(*words, out="refused"), before, text)


def test_patch_that_is_truncated_is_left_out_and_named(here, tmp_path):
    patches = shutil.copytree("patches", tmp_path / "patches")
    torn = read_patches(patches).patch.iloc[0]
    (patches / torn).write_bytes((patches / torn).read_bytes()[:-200])
    words = ("--contestants", "pretrained,cut", "--at", "blocks.1", "--seeds", "2")
    done = transfer("--data", f"patches:{patches}", *words, out=tmp_path / "out")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f" left out:\n  {torn}: it is truncated or broken (" in done.stdout
    assert [item["name"] for item in read_facts(tmp_path / "out")["images_left_out"]] == [torn]
