"""A world in which size is known: discs of one size in µm, drawn at one resolution or another."""

import unicodedata
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from torch import nn

import scalecut
from scalecut import (
    Claims,
    Computation,
    CutPoint,
    DataError,
    Judging,
    LayerError,
    Preprocessing,
    Trusted,
    Views,
    load_network,
)
from scalecut.networks.network import batch_norms
from scalecut.pathology.audit import COLUMNS, _points, audit, read_audit
from scalecut.pathology.claims import claimed_tiles
from scalecut.pathology.slides import TileField
from scalecut.pathology.tissue import tissue
from scalecut.pathology.verdict import Rule, Shown, audited, compared, fitted, sizes
from scalecut.pathology.views import Look, target_blur, views_of
from scalecut.stats.ridge import deviations
from tests.probing.test_choose import curve_of, line

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, MPP, N = 32, 0.5, 12
RADIUS, DENSITY = 3.0, 0.006  # µm, discs per µm²
AVERAGED = (0.0, 0.5, 1.0, 1.5)
RULE = Rule(AVERAGED, 0.9, 0.1)


class Block(nn.Module):
    """A residual block that changes little."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 1, groups=8)
        nn.init.normal_(self.conv.weight, std=0.1)

    def forward(self, x):
        return x + self.conv(self.norm(x))


class Edges(nn.Module):
    """Pooled slopes grow with the length of edges per area, and so with µm per pixel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        across = torch.tensor([[0.0, 0, 0], [-1, 0, 1], [0, 0, 0]])
        wide = torch.tensor([[-1.0, 0, 1], [-1, 0, 1], [-1, 0, 1]]) / 3
        with torch.no_grad():
            for number, kernel in enumerate((across, -across, across.T, -across.T,
                                             wide, -wide, wide.T, -wide.T)):  # fmt: skip
                self.stem.weight[number] = kernel / 3
        self.blocks = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALECUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def edges():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load_network(Edges().eval(), preprocessing=Preprocessing(SIDE, SIDE))


def tile(mpp, rng, side=256):
    """Purple discs on pink, at a resolution; a patient has some more or fewer of them."""
    width = side * mpp
    n = rng.poisson(DENSITY * width**2 * rng.uniform(0.9, 1.1))
    y, x = np.mgrid[:side, :side] * mpp
    nearest = np.full((side, side), np.inf)
    for cx, cy in rng.uniform(0, width, size=(n, 2)):
        nearest = np.minimum(nearest, np.hypot(x - cx, y - cy))
    inside = np.clip((RADIUS - nearest) / mpp + 0.5, 0, 1)[..., None]
    pixels = (1 - inside) * (230, 170, 200) + inside * (90, 40, 130)
    return PIL.Image.fromarray(
        np.rint(pixels + rng.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)
    )


def world(folder, wrong=(), n=N, seed=0):
    """Tiles of as many patients; `wrong` are drawn at another resolution, by octaves."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(n):
        octave = dict(wrong).get(number, 0.0)
        tile(MPP * 2**octave, rng).save(folder / f"patient {number}_tile.png")
    return folder


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return world(tmp_path_factory.mktemp("honest"), seed=1)


@pytest.fixture(scope="module")
def lying(tmp_path_factory):
    return world(tmp_path_factory.mktemp("lying"), {2: 1.0, 7: -0.8})


ALL = Claims(um_per_pixel=MPP)


def asked(folder, network, **more):
    given = {"cut": CutPoint(at="blocks.0"), "claims": ALL}
    given |= {"computation": Computation(precision="float32", engine="torch")}
    return audit(folder, model=network, **(given | more))


@pytest.fixture(scope="module")
def found(lying, edges):
    return asked(lying, edges)


def test_tiles_at_another_resolution_are_found_and_predicted(found):
    table = found.table
    assert list(table) == COLUMNS
    suspicious = table[table.verdict == "suspicious"].set_index("name")
    assert set(suspicious.index) == {"patient 2_tile", "patient 7_tile"}
    assert 0.7 < suspicious.octaves["patient 2_tile"] < 1.3
    assert -1.0 < suspicious.octaves["patient 7_tile"] < -0.4  # drawn to what was trained
    assert (table.verdict[table.verdict != "suspicious"] == "agrees").all()
    np.testing.assert_allclose(table.predicted_mpp, MPP * 2**table.octaves)
    assert table.p_value.is_monotonic_increasing
    np.testing.assert_allclose(table.adjusted_p_value, stats.false_discovery_control(table.p_value))
    assert (table.rank_p_value >= 1 / (N + 1) - 1e-12).all()


def test_the_table_for_other_tools_leaves_suspicious_slides_out(found):
    mpp = found.mpp()
    assert list(mpp) == ["slide", "mpp", "wsi"]
    assert len(mpp) == N - 2
    assert (mpp.mpp == MPP).all()
    assert not mpp.slide.isin(["patient 2_tile.png", "patient 7_tile.png"]).any()


def test_the_sentence_names_what_was_found(found):
    said = found.finding()
    assert said.startswith("2 of 12 tiles are suspicious at a false discovery rate of 0.1: patient")
    assert "(claimed 0.5 µm per pixel, predicted" in said


def test_what_is_claimed_of_a_tile_does_not_change_its_prediction(lying, edges, found, tmp_path):
    table = pd.DataFrame({"slide": [f"patient {k}_tile.png" for k in range(N)], "mpp": MPP})
    table.loc[2, "mpp"] = 2 * MPP  # what it is
    table.to_csv(tmp_path / "claims.csv", index=False)
    true = asked(lying, edges, claims=Claims(claims=tmp_path / "claims.csv")).table
    one, other = (each.set_index("name").loc["patient 2_tile"] for each in (found.table, true))
    assert other.verdict == "agrees"
    assert other.predicted_mpp == pytest.approx(one.predicted_mpp, rel=0.15)
    assert other.octaves == pytest.approx(one.octaves - 1, abs=0.2)


@pytest.mark.long
def test_a_reference_judges_others_and_an_empty_claim_is_predicted(honest, lying, edges, tmp_path):
    trusted = Trusted(reference=honest)
    names = [f"other {k}_tile" for k in range(N)]
    (tmp_path / "new").mkdir()
    for number, name in enumerate(names):
        source = lying / f"patient {number}_tile.png"
        (tmp_path / "new" / f"{name}.png").write_bytes(source.read_bytes())
    claims = pd.DataFrame({"slide": [*names[:-3], *[p.stem for p in honest.iterdir()]], "mpp": MPP})
    claims.to_csv(tmp_path / "claims.csv", index=False)
    given = Claims(claims=tmp_path / "claims.csv")
    table = asked(tmp_path / "new", edges, trusted=trusted, claims=given).table.set_index("name")
    assert set(table.index) == set(names)
    assert set(table.index[:2]) == {"other 2_tile", "other 7_tile"}
    assert (table.verdict[:2] == "suspicious").all()
    assert (table.verdict[names[-3:]] == "no claim: predicted").all()
    np.testing.assert_allclose(np.log2(table.predicted_mpp[names[-3:]] / MPP), 0, atol=0.3)
    assert table.p_value[names[-3:]].isna().all()


@pytest.mark.parametrize("n", [6, 8])
def test_few_patients_get_predictions_and_no_verdict(n, edges, tmp_path):
    few = asked(world(tmp_path / "few", n=n), edges)
    assert (few.table.verdict == "no verdict").all()
    assert few.table.predicted_mpp.notna().all()
    assert few.table.low.isna().all()
    assert few.notes()[0] == (
        f"There are {n} patients to calibrate with, {n - 1} others for each tile, so sizes are "
        "predicted, but not judged; 8 are needed."
    )
    assert few.finding() == (
        "No claim was judged, because fewer than 8 patients other than its own were there to "
        "calibrate."
    )


def test_an_interval_needs_so_many_patients_besides_its_own(edges, tmp_path):
    found = asked(world(tmp_path / "nine", n=9), edges, judging=Judging(level=0.9))
    assert found.table.low.isna().all()  # of 9 others, at least 0.9 / 0.1
    assert "An interval of 90 % needs 9 other patients; there are 8." in found.notes()


def test_the_run_is_read_back_with_its_page(found, tmp_path):
    found.save(tmp_path / "run")
    again = read_audit(tmp_path / "run")
    pd.testing.assert_frame_equal(again.table, found.table, atol=1e-5, check_dtype=False)
    assert scalecut.open_run(tmp_path / "run").finding() == found.finding()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "suspicious: patient 2_tile" in page
    assert not (tmp_path / "run" / "auditor").exists()  # the network has no name to load it by


@pytest.mark.long
def test_a_saved_auditor_judges_as_the_reference_did(honest, lying, tmp_path):
    small = {"model": "test_efficientnet", "weights": "random", "cut": CutPoint(at="blocks.1.0")}
    small |= {"computation": Computation(precision="float32", engine="torch", input_size=SIDE)}
    small |= {"claims": Claims(um_per_pixel=MPP, group_from_name=r"patient (\d+)")}
    asked_of = audit(honest, **small)
    norms = batch_norms(asked_of.auditor.network.module)
    assert all(norm.running_mean.any() for norm in norms)  # of scenes; 0 as initialised
    asked_of.save(tmp_path / "run")
    asked_of.save(tmp_path / "run")  # in its own place
    files = {path.name for path in (tmp_path / "run" / "auditor").iterdir()}
    assert files == {"auditor.json", "auditor.safetensors", "network"}
    new = tmp_path / "new"
    new.mkdir()
    (new / "patient 99_tile.png").write_bytes((lying / "patient 2_tile.png").read_bytes())
    direct = audit(new, **small, trusted=Trusted(reference=honest)).table
    later = {"claims": small["claims"]}
    later |= {"computation": Computation(precision="float32", engine="torch")}
    loaded = audit(new, **later, trusted=Trusted(with_=tmp_path / "run")).table
    if not asked_of.table.verdict.eq("suspicious").any():  # else it left those out
        np.testing.assert_allclose(loaded.octaves, direct.octaves, atol=1e-3)
        np.testing.assert_allclose(loaded.p_value, direct.p_value, rtol=0.02)
    assert loaded.last_octaves.isna().all()
    (tmp_path / "run" / "auditor" / "auditor.safetensors").write_bytes(b"other")
    with pytest.raises(scalecut.ModelError, match="was changed after it was written"):
        audit(new, **later, trusted=Trusted(with_=tmp_path / "run"))


# --- statistics -----------------------------------------------------------------------------------


def shown_of(rng, claimed, wrong, d=6):
    """Views whose features are linear in log2 µm per pixel, with noise of the tile."""
    slope = rng.normal(size=d)
    tile_, octave = (
        np.repeat(np.arange(len(claimed)), 12),
        np.tile(np.repeat((-0.5, *AVERAGED, 2), 2), len(claimed)),
    )
    noise = rng.normal(0, 0.1, size=len(claimed))
    size = (claimed + wrong + noise)[tile_] + octave
    features = size[:, None] * slope + rng.normal(0, 0.02, size=(len(size), d))
    return Shown(features.astype(np.float32), tile_.astype(np.int64), octave)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_are_those_of_a_regression_on_other_patients(seed):
    rng = np.random.default_rng(seed)
    claimed, groups = rng.choice([-2.0, -1.0], size=20), [f"p{k % 10}" for k in range(20)]
    shown = shown_of(rng, claimed, np.zeros(20))
    fit = fitted(shown, claimed, groups, np.ones(20, bool), RULE)
    target = claimed[shown.tile] + shown.octave
    own = shown.tile == 3
    train = ~np.isin(shown.tile, [3, 13])  # both tiles of the patient
    X = shown.features.astype(float)
    mean, scale = X.mean(0), deviations(X)
    plain = Ridge(alpha=1e-2).fit((X[train] - mean) / scale, target[train])
    predicted = plain.predict((X[own] - mean) / scale)
    of_octaves = [predicted[shown.octave[own] == o].mean() - o for o in AVERAGED]
    assert fit.errors[3] == pytest.approx(np.mean(of_octaves) - claimed[3], abs=0.02)


def test_wrong_claims_are_left_out_of_what_others_are_judged_by():
    rng = np.random.default_rng(0)
    claimed, wrong = np.full(30, -2.0), np.zeros(30)
    wrong[:4] = (0.9, -0.9, 1.2, 1.0)
    groups = [f"p{k}" for k in range(30)]
    rule = Rule(AVERAGED, 0.9, 0.01)
    judged, fit = audited(shown_of(rng, claimed, wrong), claimed, groups, rule)
    assert np.flatnonzero(judged.is_suspicious).tolist() == [0, 1, 2, 3]
    assert len(fit.errors) == 26
    np.testing.assert_allclose(judged.error[:4], wrong[:4], atol=0.4)
    np.testing.assert_allclose(judged.error[4:], fit.errors)


@pytest.mark.parametrize("n", range(9, 12))
def test_whoever_is_judged_at_first_keeps_a_verdict_when_a_wrong_claim_is_removed(n):
    wrong = np.zeros(n)
    wrong[0] = 1.2
    shown = shown_of(np.random.default_rng(0), np.full(n, -2.0), wrong)
    judged, fit = audited(shown, np.full(n, -2.0), [f"p{k}" for k in range(n)], RULE)
    assert np.flatnonzero(judged.is_suspicious).tolist() == [0]
    assert np.isfinite(judged.p_value).all()
    assert len(fit.errors) == max(n - 1, 9)  # each of which has 8 others


def test_shifting_every_claim_shifts_every_prediction():
    rng = np.random.default_rng(1)
    claimed, groups = np.full(12, -2.0), [f"p{k}" for k in range(12)]
    shown = shown_of(rng, claimed, np.zeros(12))
    one, _ = audited(shown, claimed, groups, RULE)
    other, _ = audited(shown, claimed + 1, groups, RULE)
    np.testing.assert_allclose(other.size, one.size + 1)
    np.testing.assert_allclose(other.p_value, one.p_value)


def test_a_patient_is_never_judged_by_its_own_tiles():
    rng = np.random.default_rng(2)
    claimed, wrong = np.full(24, -2.0), np.zeros(24)
    wrong[:2] = 1.0
    groups = [f"p{k // 2}" for k in range(24)]
    shown = shown_of(rng, claimed, wrong)
    fit = fitted(shown, claimed, groups, np.ones(24, bool), RULE)
    judged = compared(shown, claimed, groups, fit, RULE)
    without = replace(fit, errors=fit.errors[2:], groups=fit.groups[2:])
    np.testing.assert_allclose(
        judged.p_value[:2], compared(shown, claimed, groups, without, RULE).p_value[:2]
    )


def test_views_beyond_the_reference_do_not_count_without_a_claim():
    shown = Shown(np.zeros((4, 1), np.float32), np.zeros(4, np.int64), np.array(AVERAGED))
    predicted = np.array([-1.0, -0.5, -0.2, 0.1])  # flattens where nothing was trained
    unclaimed = sizes(predicted, shown, np.array([np.nan]), (-2.0, -0.5), RULE)
    assert unclaimed == pytest.approx((-1.0 + -0.5 - 0.5) / 2)
    claimed = sizes(predicted, shown, np.array([-1.0]), (-2.0, -0.5), RULE)
    assert claimed == pytest.approx(np.mean(predicted - AVERAGED))
    assert sizes(predicted + 9, shown, np.array([np.nan]), (-2.0, -0.5), RULE) == pytest.approx(8.0)


# --- views ----------------------------------------------------------------------------------------


def test_views_show_the_same_tissue_at_coarser_resolutions():
    drawn = tile(MPP, np.random.default_rng(0), side=128)
    field = TileField(drawn)
    how = tissue(field), Views((-0.5, 0.0, 1.0, 2.0)), Look(SIDE, "bicubic")
    views = list(views_of(field, *how))
    assert [o for o, _ in views].count(2.0) == 1
    assert [o for o, _ in views].count(0.0) == 9
    whole = next(pixels for octave, pixels in views if octave == 2.0)
    np.testing.assert_array_equal(whole, drawn.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC))
    first = next(pixels for octave, pixels in views if octave == 0.0)
    np.testing.assert_array_equal(first, np.asarray(drawn)[:SIDE, :SIDE])


def test_matched_blur_smooths_each_view_by_what_it_lacks():
    drawn = tile(MPP, np.random.default_rng(0), side=128)
    field = TileField(drawn)
    shown, octaves = tissue(field), Views((-0.5, 0.0, 1.0))
    sharp = dict(views_of(field, shown, octaves, Look(SIDE, "bicubic"), 1.0))
    smooth = dict(views_of(field, shown, octaves, Look(SIDE, "bicubic", blur=1.5), 1.0))
    lost = {o: np.std(sharp[o].astype(float)) - np.std(smooth[o].astype(float)) for o in sharp}
    assert lost[-0.5] < lost[0.0] < lost[1.0]  # 1 px of the tile is 1.4 px, 1 px and 0.5 px
    assert target_blur([1.0] * 19 + [5.0], Views()) == pytest.approx(2**0.5)


def test_tissue_is_found_next_to_glass():
    half = np.full((64, 64, 3), 245, np.uint8)
    half[:, 32:] = np.asarray(tile(MPP, np.random.default_rng(0), side=64))[:, 32:]
    found = tissue(TileField(PIL.Image.fromarray(half))).found
    assert found[:, 34:].mean() > 0.95
    assert found[:, :30].mean() == 0.0
    assert tissue(TileField(tile(MPP, np.random.default_rng(0)))).found.mean() > 0.95


# --- claims and bad input -------------------------------------------------------------------------


def stating(path, mpp, **more):
    drawn = tile(MPP, np.random.default_rng(0), side=64)
    drawn.save(path, resolution=10_000 / mpp, resolution_unit=3, **more)


def test_claims_come_from_the_table_the_file_and_the_magnification(tmp_path):
    stating(tmp_path / "a.tif", 0.25)
    for name in ("b", "c"):
        tile(MPP, np.random.default_rng(0), side=64).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text("slide,mpp,group\nb,0.5,p1\na.tif,0.251,p1\n")
    found, left_out = claimed_tiles(tmp_path, Claims(claims=tmp_path / "t.csv", native=40.0))
    assert not left_out
    said = {each.name: (each.um_per_pixel, each.source) for each in found}
    assert said["a"] == (0.251, "table")
    assert said["b"] == (0.5, "table")
    assert said["c"] == (0.25, "40X (--native)")


def plain(folder, *names):
    """Small tiles, each of another grey."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (8, 8), number).save(folder / name)
    return folder


def claimed_in(folder, *rows, other=None, **more):
    """What a table of names claims of tiles: 1, 2, ... µm per pixel in the order of its rows."""
    file = folder.parent / "mpp.csv"
    lines = [f"{name},{size}" for size, name in enumerate(rows, start=1)]
    file.write_text("\n".join(["slide,mpp", *lines]), encoding="utf-8")
    found, left_out = claimed_tiles(folder, Claims(claims=file, **more), other)
    sizes = {each.name: each.um_per_pixel for each in found if np.isfinite(each.um_per_pixel)}
    return sizes, {each.name: each.reason for each in left_out}


SPELT = {
    "with its suffix": "{}.png".format,
    "without suffix": str,
    "with another suffix": "{}.svs".format,
    "of Windows": lambda stem: f"{stem}.png".replace("/", "\\"),
    "decomposed": lambda stem: unicodedata.normalize("NFD", f"{stem}.png"),
}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("spelt", SPELT)
def test_a_row_is_that_of_the_tile_whose_path_it_gives(spelt, order, tmp_path):
    stems = [["p1/HE", "p2/HÄ", "HE"][k] for k in order]
    folder = plain(tmp_path / "tiles", *(f"{stem}.png" for stem in stems))
    rows = map(SPELT[spelt], stems)
    assert claimed_in(folder, *rows) == (dict(zip(stems, (1.0, 2.0, 3.0), strict=True)), {})


def test_a_base_name_is_that_of_one_tile_only(tmp_path):
    folder = plain(tmp_path / "tiles", "p1/HE.png", "p2/HE.png", "p2/LE.tif", "LE.png")
    for name, could in (
        ("HE.png", "p1/HE.png or p2/HE.png"),
        ("HE", "p1/HE.png or p2/HE.png"),
        ("p3/HE.svs", "p1/HE.png or p2/HE.png"),
        ("LE.tif", "LE.png or p2/LE.tif"),
    ):
        with pytest.raises(DataError) as error:
            claimed_in(folder, name)
        assert str(error.value) == (
            f"{name!r} of {tmp_path / 'mpp.csv'} could be {could} of {folder}. Give its path below "
            "the folder, with its suffix."
        )
    alone = plain(tmp_path / "alone", "p1/HE.png")
    assert claimed_in(alone, r"D:\scans\HE.svs") == ({"p1/HE": 1.0}, {})
    sizes, left_out = claimed_in(alone, "p2/HE.png", "p1/HE.png")  # of another slide
    assert sizes == {"p1/HE": 2.0}
    assert "1 of 2 rows name no tile, the first is 'p2/HE.png'" in left_out["mpp.csv"]


def test_rows_that_name_no_tile_are_counted_over_both_folders(tmp_path):
    new, old = plain(tmp_path / "new", "a.png", "b.png"), plain(tmp_path / "old", "c.png")
    rows = "else.svs", "c.png", "b.png", "other.svs"
    reason = "2 of 4 rows name no tile, the first is 'else.svs'; correct or remove them"
    assert claimed_in(new, *rows, other=old) == ({"b": 3.0}, {"mpp.csv": reason})
    assert claimed_in(old, *rows, other=new) == ({"c": 2.0}, {"mpp.csv": reason})
    assert claimed_in(new, "c.png", other=old) == ({}, {})
    with pytest.raises(DataError) as error:
        claimed_in(new, "else.svs", other=old)
    assert str(error.value) == (
        f"{tmp_path / 'mpp.csv'} names none of the 3 tiles of {new} and {old}; its first is "
        "'else.svs', the first tile 'a.png'. Give their file names."
    )
    (tmp_path / "mpp.csv").write_text("slide,mpp\na,0.5\nb,0.5\n")
    with pytest.raises(DataError) as error:
        audit(new, trusted=Trusted(reference=old), claims=Claims(claims=tmp_path / "mpp.csv"))
    assert f"None of the 1 tiles of {old} claims a size (the first is c)" in str(error.value)


def test_the_table_for_other_tools_can_be_given_again(tmp_path):
    folder = plain(tmp_path / "tiles", "p1/HE.png", "p2/HE.png", "p2/LE.png")
    (found, _), sizes = claimed_tiles(folder, ALL), (1.0, 2.0, 3.0)
    assert [each.file for each in found] == ["p1/HE.png", "p2/HE.png", "LE.png"]
    again, left_out = claimed_in(folder, *(each.file for each in found))
    assert again == dict(zip(("p1/HE", "p2/HE", "p2/LE"), sizes, strict=True))
    assert not left_out


@pytest.mark.parametrize("table", [False, True])
def test_pixels_that_are_not_square_have_no_size(table, tmp_path):
    dots = {"resolution_unit": 3, "x_resolution": 20_000, "y_resolution": 10_000 / 0.52}
    PIL.Image.new("L", (8, 8)).save(plain(tmp_path / "tiles", "b.png") / "a.tif", **dots)
    (tmp_path / "t.csv").write_text("slide,mpp\na,0.25\n")
    claims = Claims(claims=tmp_path / "t.csv" if table else None, native=40.0)
    found, left_out = claimed_tiles(tmp_path / "tiles", claims)
    assert [each.name for each in found] == ["b"]
    assert [(each.name, each.reason) for each in left_out] == [
        ("a", "it has 0.5 µm per pixel across, but 0.52 down by the TIFF resolution; resample it "
         "to square pixels, or give --um-per-pixel")
    ]  # fmt: skip
    found, left_out = claimed_tiles(tmp_path / "tiles", ALL)
    assert [each.um_per_pixel for each in found] == [MPP, MPP]


def test_slides_of_other_formats_and_broken_links_are_listed(tmp_path):
    folder = plain(tmp_path / "tiles", "a.png")
    for name in ("p1/HE.czi", "p2/HE.czi", "b.vsi", "c.isyntax", "d.QPTIFF", "a.xml", "._e.czi"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for name in ("f.svs", "g.vsi"):
        (folder / name).symlink_to(tmp_path / "none")
    found, left_out = claimed_tiles(folder, ALL)
    assert [each.name for each in found] == ["a"]
    reasons = {each.name: each.reason for each in left_out}
    assert len(reasons) == len(left_out)
    for name in ("f.svs", "g.vsi"):
        assert reasons.pop(name) == "it is a link to a file that is not there; fix it"
    assert sorted(reasons) == ["b.vsi", "c.isyntax", "d.QPTIFF", "p1/HE.czi", "p2/HE.czi"]
    assert set(reasons.values()) == {
        "files of its format are not read; convert it to OME-TIFF, as bfconvert does"
    }


def test_a_column_group_and_an_expression_for_it_are_refused(tmp_path):
    folder, file = plain(tmp_path / "tiles", "a.png", "b.png"), tmp_path / "t.csv"
    file.write_text("slide,mpp,group\na,0.5,p1\nb,0.5,p1\n")
    with pytest.raises(DataError) as error:
        claimed_tiles(folder, Claims(claims=file, group_from_name="(.)"))
    assert str(error.value) == (
        f"--group-from-name and the column group of {file} contradict each other. Drop the option, "
        "or remove the column."
    )


def test_contradictions_and_unusable_tiles_are_skipped_one_by_one(edges, tmp_path):
    folder = world(tmp_path / "tiles", n=10)
    stating(folder / "wrong.tif", 0.5, description="Aperio |AppMag = 40|MPP = 0.25")
    PIL.Image.new("RGB", (128, 128), (8, 5, 30)).save(folder / "dark.png")
    PIL.Image.new("RGB", (128, 128), (245, 244, 246)).save(folder / "empty.png")
    tile(MPP, np.random.default_rng(0), side=20).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"no image")
    result = asked(folder, edges, claims=Claims(native=20.0))
    reasons = {each.name: each.reason for each in result.left_out}
    assert "0.25 µm per pixel by the Aperio MPP, but 0.5 by the TIFF" in reasons.pop("wrong")
    assert "it is dark, as in fluorescence" in reasons.pop("dark")
    assert "it shows no stained tissue (0 % of its area)" in reasons.pop("empty")
    assert "no patch with tissue of 32 px or more" in reasons.pop("small")
    assert list(reasons) == ["broken"]
    assert len(result.table) == 10


ERRORS = {
    "no claim": ({"claims": Claims()}, "claims a size (the first is patient 0_tile)"),
    "no layer": ({"cut": CutPoint()}, "to cut at is given. Give --at LAYER"),
    "unknown layer": ({"cut": CutPoint(at="stage9")}, "No layer is named 'stage9'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_audited_is_refused(case, lying, edges):
    more, text = ERRORS[case]
    with pytest.raises((DataError, LayerError)) as error:
        asked(lying, edges, **more)
    assert text in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "resnet50"},
        {"weights": "random"},
        {"cut": CutPoint(at="blocks.0")},
        {"views": Views(grid=2)},
        {"computation": Computation(precision="float32", input_size=64)},
        {"computation": Computation(mean=(0.5, 0.5, 0.5))},
        {"computation": Computation(std=(0.5, 0.5, 0.5))},
        {"computation": Computation(interpolation="bilinear")},
    ],
)
def test_what_an_auditor_brings_cannot_be_given(given, tmp_path):
    with pytest.raises(DataError, match="--with brings its own network, layer and views"):
        audit(tmp_path, trusted=Trusted(with_=tmp_path), **given)


def test_the_curve_of_the_target_chooses_the_layer(edges):
    layers = {"blocks.0": "b0", "blocks.1": "b1"}
    lines = [
        line(None, r2, layers=layers, noise=np.zeros((2, 500)), measure=name)
        for name, r2 in (("area", [0.9, 0.5]), ("grade", [0.5, 0.9]))
    ]
    curve = curve_of(*lines, layers=layers)
    for target, layer in (("area", "blocks.0"), ("grade", "blocks.1")):
        assert _points(edges, CutPoint(from_=curve, target=target))[0].layer == layer
    with pytest.raises(DataError, match="Choose one"):
        _points(edges, CutPoint(from_=curve))


SETTINGS = {
    "octaves": (lambda: Views((0.0, 1.0)), "--octaves 0,1 is unusable"),
    "grid": (lambda: Views(grid=0), "--grid must be at least 1, got 0."),
    "rate": (lambda: Judging(rate=1.0), "--rate must be between 0 and 1, got 1."),
    "native": (lambda: Claims(native=-1.0), "--native must be above 0, got -1."),
    "both": (lambda: Claims(native=40.0, um_per_pixel=0.2), "--um-per-pixel is claimed of all"),
    "trusted": (lambda: Trusted("a", "b"), "--with was calibrated on its own reference"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_without_meaning_are_refused(case):
    make, text = SETTINGS[case]
    with pytest.raises(DataError) as error:
        make()
    assert text in str(error.value)


def test_a_table_of_other_slides_is_refused(lying, tmp_path):
    (tmp_path / "t.csv").write_text("slide,mpp\nelse.svs,0.5\n")
    with pytest.raises(DataError, match="names none of the 12 tiles"):
        claimed_tiles(lying, Claims(claims=tmp_path / "t.csv"))


def test_one_patient_alone_is_refused(edges, tmp_path):
    world(tmp_path, n=2)
    with pytest.raises(DataError, match=r"Only one patient, tile, has tiles that claim a size"):
        asked(tmp_path, edges, claims=Claims(um_per_pixel=MPP, group_from_name="tile"))
