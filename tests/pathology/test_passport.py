"""Passports of patches whose colours are planted, by a network that does nothing but read them."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn

import scalecut
from scalecut.errors import DataError
from scalecut.features.extract import Computation
from scalecut.figures.pathology import encoders_drawing, layers_drawing, passport_drawing
from scalecut.networks.load import load_network
from scalecut.pathology import passport as module_under_test
from scalecut.pathology.alignment import resolutions_of, same_places
from scalecut.pathology.encoders import compare_passports
from scalecut.pathology.movement import relabelled
from scalecut.pathology.passport import COLUMNS, RESOLUTIONS, Examined, passport
from scalecut.pathology.patches import Patches
from scalecut.probing import controls
from scalecut.probing.probe import Fitting, probe
from tests.builders import AS_IT_IS, EXACTLY, SIDE

pytestmark = pytest.mark.usefixtures("one_thread")

M, PLACES, MAGNIFICATIONS = 16, 2, (40.0, 20.0, 10.0)
STEP = 9  # of green per octave: where 40X and 20X differ
FEW = Examined(repeats=6, random_networks=1, permutations=19)


def colours(rng, step=STEP):
    """Red and green of each patient, place and resolution; green grows with the octave."""
    rows = []
    for patient in range(M):
        red, green = 100 + 12 * rng.normal(), 100 + 8 * rng.normal()
        for place in range(PLACES):
            more = 4 * rng.normal(size=2)
            for octave, magnification in enumerate(MAGNIFICATIONS):
                colour = np.rint([red + more[0], green + more[1] + step * octave, 50])
                rows.append((f"p{patient:02}", place, magnification, colour.clip(0, 255)))
    return rows


def write_patches(folder, rows, **columns):
    """Plain patches of these colours, each at its own place."""
    (folder / "patches").mkdir(parents=True)
    table = pd.DataFrame(
        [
            (f"patches/{number}.png", patient, patient, magnification, str(place))
            for number, (patient, place, magnification, _) in enumerate(rows)
        ],
        columns=["patch", "tile", "group", "magnification", "place"],
    ).assign(**columns)
    for name, (*_, colour) in zip(table.patch, rows, strict=True):
        pixels = np.broadcast_to(colour.astype(np.uint8), (SIDE, SIDE, 3))
        PIL.Image.fromarray(pixels).save(folder / name)
    table.to_parquet(folder / "patches.parquet", index=False)
    return f"patches:{folder}"


def reader(kind="pretrained"):
    """`early` has four channels of red for one of green, `late` one of each."""
    network = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 5, 1), early=nn.ReLU(), second=nn.Conv2d(5, 2, 1), late=nn.ReLU()
        )
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.first.weight[:4, 0, 0, 0] = network.first.weight[4, 1, 0, 0] = 1.0
        network.second.weight[0, 0, 0, 0] = network.second.weight[1, 4, 0, 0] = 1.0
    loaded = load_network(network, preprocessing=AS_IT_IS)
    return replace(loaded, weights=replace(loaded.weights, kind=kind))


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)


@pytest.fixture(scope="module")
def rows():
    return colours(np.random.default_rng(1))


@pytest.fixture(scope="module")
def spec(rows, tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("patches"), rows)


@pytest.fixture(scope="module")
def found(spec):
    return passport(reader(), spec, examined=FEW, computation=EXACTLY)


def ratio_by_hand(rows, octave, repeated):
    """From the colours: √(M/A), the channels of red repeated so often."""
    values = np.array([colour[:2] for *_, colour in rows]).reshape(M, PLACES, 3, 2)
    values = (values / values[:, :, 0].reshape(-1, 2).std(axis=0)) * np.sqrt([repeated, 1])

    def noise(each):  # v / k of each patient
        return each.var(axis=1, ddof=1).sum(axis=-1) / PLACES

    changes = values[:, :, octave] - values[:, :, 0]
    moved = (np.sum(changes.mean(axis=1) ** 2, axis=-1) - noise(changes)).mean()
    here, means = values[:, :, 0], values[:, :, 0].mean(axis=1)
    apart = [
        np.sum((means[i] - means[j]) ** 2) - noise(here)[i] - noise(here)[j]
        for i in range(M)
        for j in range(M)
        if i != j
    ]
    return np.sqrt(moved / np.mean(apart))


def test_ratios_are_those_of_the_colours(found, rows):
    for layer, repeated in (("early", 4), ("late", 1)):
        here = found.ratios(layer).set_index("octaves")
        assert here.answer[0.0] == "reference" and here.ratio[0.0] == 0
        for octave in (1, 2):
            np.testing.assert_allclose(
                here.ratio[octave], ratio_by_hand(rows, octave, repeated), rtol=1e-4
            )
            assert here.ratio_low[octave] < here.ratio[octave] < here.ratio_high[octave]
            assert (here.n_places[octave], here.n_patients[octave]) == (M * PLACES, M)


def test_the_range_ends_where_the_ratio_is_1_and_the_earlier_layer_holds_further(found):
    own = found.own().set_index("layer")
    late = found.ratios("late").set_index("octaves").ratio
    assert late[1.0] < 1 < late[2.0]
    octaves = 1 + (1 - late[1.0]) / (late[2.0] - late[1.0])
    np.testing.assert_allclose(own.coarsest["late"], 0.25 * 2**octaves, rtol=1e-6)
    assert own.coarsest_low["late"] < own.coarsest["late"] < own.coarsest_high["late"]
    assert tuple(own.loc["late", ["finer", "coarser"]]) == ("none given", "breaks")
    assert (own.coarser["early"], own.coarsest["early"]) == ("holds", 1.0)
    assert found.about["further"]["layer"] == "early"
    said = found.finding()
    assert said.startswith("At 10X (1 µm per pixel) the last layer of ")
    assert " of what patients differ by: " in said and " The range ends at 0." in said
    assert " The earlier layer early " in said
    assert " Resolution is predicted from late with R²" in said


def test_r2_is_that_of_the_probe_and_the_error_that_of_its_fits(found):
    fitting = Fitting(["ridge"], ["none"], repeats=6, permutations=0)
    curve = probe(reader(), found.image_set, fitting=fitting, computation=EXACTLY)
    expected = curve.scores().set_index("layer").r2
    own = found.own().set_index("layer")
    np.testing.assert_allclose(own.r2, expected[own.index], rtol=1e-6)
    assert (own.r2_low <= own.r2).all() and (own.r2 <= own.r2_high).all()
    assert (own.p_value == 0.05).all()  # (1 + 0) / (1 + 19)
    spread = np.std(found.image_set.measure)
    assert (own.mae_octaves < spread).all() and (own.mae_low < own.mae_octaves).all()


@pytest.mark.parametrize(
    ("height", "width", "fit", "said"),
    [
        (SIDE, SIDE, "squash", ""),
        (2 * SIDE, 2 * SIDE, "squash", "0.125"),
        (SIDE, SIDE, "crop", "0.2"),  # 0.8 of the side, enlarged to the whole
        (2 * SIDE, SIDE, "squash", "0.25 across and 0.125 down"),
        (2 * SIDE, SIDE, "crop", "0.1"),  # the middle half across
        (2 * SIDE, SIDE, "pad", ""),  # as it is, with bars
        (4 * SIDE, 2 * SIDE, "pad", "0.125"),
    ],
)
def test_the_resolution_shown_is_that_of_a_pixel_of_the_input(
    rows, tmp_path, monkeypatch, height, width, fit, said
):
    class SeenError(Exception):
        pass

    def noted(patches, plan, frame, side):
        raise SeenError(notes(patches, plan, frame, side))

    notes = module_under_test._notes
    monkeypatch.setattr(module_under_test, "_notes", noted)
    shape = replace(AS_IT_IS, height=height, width=width, shown=0.8)
    network = replace(reader(), preprocessing=shape)
    spec = write_patches(tmp_path, [row for row in rows if row[0] < "p04"])
    how = Computation(precision="float32", engine="torch", fit=fit)
    with pytest.raises(SeenError) as seen:
        passport(network, spec, examined=FEW, computation=how)
    found = [each for each in seen.value.args[0] if "are shown at" in each]
    shown = f"Patches of {SIDE} px are shown at {width} x {height} px with --fit {fit}: "
    assert found == ([f"{shown}0.25 µm per pixel is {said} to the network."] if said else [])


@pytest.mark.long
def test_tables_come_back_from_their_folder_with_a_page_and_figures(found, tmp_path):
    folder = found.save(tmp_path / "run")
    assert list(found.table) == COLUMNS and list(found.resolutions) == RESOLUTIONS
    again = scalecut.open_run(folder)
    assert again.finding() == found.finding()
    pd.testing.assert_frame_equal(again.table, found.table, atol=1e-6)
    pd.testing.assert_frame_equal(again.resolutions, found.resolutions, atol=1e-6)
    assert {path.stem for path in (folder / "figures").glob("*.png")} >= {"passport", "layers"}
    page = (folder / "report.html").read_text()
    assert "May it be used at this resolution?" in page and "Layer by layer" in page


def test_figures_show_what_the_tables_hold(found):
    drawing = passport_drawing(found.resolutions, found.facts())
    panel, random = drawing.panels
    assert drawing.places[0] == "0.25" and drawing.places[-1] == "1"
    assert len(panel.lines) == len(random.lines) == 2
    assert (panel.title, random.title) == ("Pretrained weights", "Random weights")
    late = found.ratios("late").sort_values("octaves")
    line = panel.lines[0]
    np.testing.assert_allclose(line.values[list(line.marked)], late.ratio)
    (mark,) = panel.marks
    end = line.values[int(mark.spans[0][1])], line.values[int(mark.spans[0][1]) + 1]
    assert mark.spans[0][0] == 0 and end[0] < 1 <= end[1]
    by_layer = layers_drawing(found.table, found.resolutions, found.facts())
    assert [len(each.lines) for each in by_layer.panels] == [2, 2, 2]
    np.testing.assert_array_equal(by_layer.panels[0].lines[0].values, found.own().r2)


@pytest.mark.long
def test_passports_are_laid_side_by_side(found, rows, tmp_path):
    less = write_patches(
        tmp_path / "less", [(*row[:3], row[3] - [0, 3 * i % 9, 0]) for i, row in enumerate(rows)]
    )
    other = passport(reader(), less, examined=FEW, computation=EXACTLY)
    folders = [each.save(tmp_path / name) for each, name in ((found, "a"), (other, "b"))]
    both = compare_passports(folders)
    assert both.table.run.tolist() == ["a", "b"]
    np.testing.assert_allclose(both.table.coarsest[0], found.own().coarsest.iloc[-1], atol=1e-6)
    assert both.finding().startswith("The features of the last layer stay within")
    assert "b differs from a in its patches, so" in both.notes()[0]
    again = scalecut.open_run(both.save(tmp_path / "both"))
    assert again.finding() == both.finding()
    assert len(encoders_drawing(both.ratios).panels[0].lines) == 2
    early = compare_passports([found, other], layers=["early", "late"])
    assert early.finding().startswith("The features of the layers given stay within")
    assert " (early) from 0.25 to ≥ 1 µm per pixel" in early.finding()
    assert early.table.layer.tolist() == ["early", "late"]
    with pytest.raises(DataError, match="needs two runs or more, got 1"):
        compare_passports([found])


# --- patients and resolutions --------------------------------------------------------------------


def of_patients(rows, n):
    return [row for row in rows if int(row[0][1:]) < n]


@pytest.mark.long
@pytest.mark.parametrize(
    ("n", "answer", "note"),
    [
        (6, "no verdict", "There are 6 patients, so no range is stated; 8 are needed."),
        (9, "no", "There are 9 patients, and no interval holds with fewer than 12 groups"),
    ],
)
def test_few_patients_have_no_interval_and_fewer_no_range(rows, tmp_path, n, answer, note):
    data = write_patches(tmp_path, of_patients(rows, n))
    few = passport(reader(), data, examined=FEW, computation=EXACTLY)
    last, at_10 = few.own().iloc[-1], few.ratios(few.own().layer.iloc[-1]).iloc[-1]
    assert at_10.answer == answer and np.isnan(at_10.ratio_low) and at_10.ratio > 0
    assert np.isnan(last.coarsest) == (n < 8)
    assert any(line.startswith(note) for line in few.notes())
    assert few.save(tmp_path / "run") and few.finding()


def test_a_reference_in_the_middle_has_a_range_on_both_sides(spec):
    examined = Examined("20X", "0.25", repeats=2, random_networks=0, permutations=0)
    found = passport(reader(), spec, examined=examined, computation=EXACTLY)
    last = found.own().iloc[-1]
    assert found.about["reference"] == 0.5 and found.about["to"] == 0.25
    assert (last.finer, last.coarser) == ("holds", "holds")
    assert found.finding().startswith("At 40X (0.25 µm per pixel)")
    assert "It stays within up to the finest resolution given, 0.25" in found.finding()
    assert np.isnan(last.p_value)


def test_sizes_within_5_percent_are_one_resolution():
    sizes = [0.2505, 0.2495, 0.5, 0.51, 0.75]
    found = resolutions_of(Patches(pd.DataFrame({"patch": "x", "um_per_pixel": sizes}), Path()))
    assert found.of.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(found.sizes, [0.25, 0.505, 0.75])
    assert [found.at(text, 1) for text in ("", "0.25", "40X", "20x", "0.74")] == [1, 0, 0, 1, 2]


def test_the_same_place_is_a_coarse_patch_and_the_fine_ones_whose_centres_lie_in_it():
    rng, side = np.random.default_rng(0), 10
    table = pd.DataFrame(
        {
            "patch": "x",
            "tile": rng.choice(["a", "b"], 80),
            "magnification": rng.choice([40.0, 10.0], 80),
            "x": rng.integers(0, 60, 80),
            "y": rng.integers(0, 60, 80),
        }
    )
    table.loc[table.magnification == 10, ["x", "y"]] //= 4
    resolutions = resolutions_of(Patches(table, Path()))
    features = rng.normal(size=(80, 3))
    found = same_places(table, resolutions, (0, 1), side)
    expected = {}
    for row, coarse in table[table.magnification == 10].iterrows():
        inside = [
            number
            for number, fine in table[table.magnification == 40].iterrows()
            if fine.tile == coarse.tile
            and 4 * coarse.x <= fine.x + 5 <= 4 * (coarse.x + side)
            and 4 * coarse.y <= fine.y + 5 <= 4 * (coarse.y + side)
        ]
        if inside:
            expected[row] = features[row] - features[inside].mean(axis=0)
    assert set(found.rows) == set(expected) and len(expected) > 5
    for row, change in zip(found.rows, found.change @ features, strict=True):
        np.testing.assert_allclose(change, expected[row])


def test_permuted_resolutions_change_places_inside_each_patient():
    rng = np.random.default_rng(0)
    patients, levels = np.repeat([0, 1, 2], 6), np.tile([0, 0, 1, 1, 2, 2], 3)
    measure = levels.astype(float)
    found = relabelled(measure, levels, patients, rng, 50)
    np.testing.assert_array_equal(found[:, 0], measure)
    assert found.shape == (18, 51) and len(np.unique(found, axis=1).T) > 20
    for column in found.T:
        for patient in range(3):
            own = column[patients == patient].reshape(3, 2)
            np.testing.assert_array_equal(own[:, 0], own[:, 1])  # a resolution stays together
            assert sorted(own[:, 0]) == [0, 1, 2]


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[t.magnification == 40], "have one resolution, 0.25 µm per pixel. Cut patches"),
        (lambda t: t[t["group"] == "p00"], "are of one patient, p00, but features are compared"),
        (lambda t: t.drop(columns="magnification"), "neither um_per_pixel nor magnification"),
        (lambda t: t.drop(columns="place"), "neither a column place nor x and y"),
        (lambda t: t.drop(columns="group"), "lacks the column 'group'"),
        (lambda t: pd.concat([t, t.head(2)]), "has 2 patches twice, the first is "),
        (lambda t: t.assign(um_per_pixel=0.5), "64 of 96 patches have a um_per_pixel and a magnif"),
        (lambda t: t.rename(columns={"magnification": "mpp"}), "no column 'um_per_pixel', but 'm"),
        (lambda t: t.assign(tile="1"), "the tile 1 is of the patients p00 and p01"),
        (lambda t: t.assign(place=t.place.replace("0", None)), "48 of 96 patches have no place"),
        (lambda t: t.assign(tile=t.patch), "No patch shows the same place as one at 40X"),
        (lambda t: t[t.place == "0"], "No patient has two patches at 40X"),
        (lambda t: t.replace({"magnification": 10}, np.nan), "32 of 96 patches have no magnific"),
    ],
)  # fmt: skip
def test_patches_that_cannot_be_examined_say_why(spec, rows, tmp_path, change, said):
    data = write_patches(tmp_path, rows)
    table = pd.read_parquet(tmp_path / "patches.parquet")
    change(table).to_parquet(tmp_path / "patches.parquet", index=False)
    with pytest.raises(DataError, match=said) as error:
        passport(reader(), data, examined=FEW, computation=EXACTLY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("examined", "said"),
    [
        ({"at": "5X"}, r"No patch has the resolution '5X'. Give one of 0.25, 0.5, 1 µm per pixel"),
        ({"to": "coarse"}, "No patch has the resolution 'coarse'"),
        ({"to": "0.25"}, "--to '0.25' is the resolution of reference, 40X .*Give another --to"),
        (
            {"at": "20X", "to": "0.5"},
            "--to '0.5' is the resolution of reference, 20X .*another --at",
        ),
        ({"repeats": 1}, "--repeats must be at least 2, got 1"),
    ],
)
def test_options_that_fit_nothing_say_what_does(spec, examined, said):
    with pytest.raises(DataError, match=said):
        passport(reader(), spec, examined=Examined(**examined), computation=EXACTLY)


def test_a_resolution_without_common_places_has_no_finding(rows, tmp_path):
    data = write_patches(tmp_path, rows)
    table = pd.read_parquet(tmp_path / "patches.parquet")
    elsewhere = table.place.where(table.magnification != 20, "of 20X " + table.place)
    table.assign(place=elsewhere).to_parquet(tmp_path / "patches.parquet", index=False)
    examined = replace(FEW, to="20X")
    found = passport(reader(), data, examined=examined, computation=EXACTLY)
    assert found.finding() == (
        "No patch at 20X (0.5 µm per pixel) shows the same place as one at 40X (0.25 µm per "
        "pixel), so nothing follows for 20X (0.5 µm per pixel)."
    )
    here = found.ratios("late").set_index("octaves")
    assert (here.n_places[1.0], here.answer[1.0]) == (0, "no verdict")
    assert here[["ratio", "ratio_low", "ratio_high"]].loc[1.0].isna().all()
    assert here.ratio[2.0] > 0


def test_what_is_no_folder_of_patches_says_so():
    with pytest.raises(DataError, match="'somewhere' does not name patches"):
        passport(reader(), "somewhere")


def test_a_random_network_has_no_other_to_compare_with(spec):
    examined = Examined(repeats=2, permutations=0)
    found = passport(reader("random"), spec, examined=examined, computation=EXACTLY)
    assert set(found.table["weights"]) == {"random"}
    answers, layers = found.summary().values()
    assert {*answers[" random weights"], *layers[" random"]} == {"–"}
    assert len(passport_drawing(found.resolutions, found.facts()).panels) == 1


def test_random_weights_alone_are_the_random_rows_of_the_other_run(spec):
    def of(weights):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        network = load_network(module, weights=weights, preprocessing=AS_IT_IS)
        few = Examined(repeats=2, permutations=0)
        return passport(network, spec, examined=few, computation=EXACTLY)

    both, alone = of("pretrained"), of("random")
    for one, other in ((both.table, alone.table), (both.resolutions, alone.resolutions)):
        expected = one[one["weights"] == "random"].reset_index(drop=True)
        pd.testing.assert_frame_equal(other, expected)


def test_random_networks_in_int8_are_checked_too(spec, monkeypatch):
    checked = []
    monkeypatch.setattr(controls, "check_int8", lambda *asked: checked.append(asked[-1]) or {})
    in_int8 = replace(EXACTLY, precision="int8", engine="openvino")
    few = Examined(repeats=2, permutations=0)
    passport(reader(), spec, layers=["late"], examined=few, computation=in_int8)
    assert [variant is None for variant in checked] == [True, False]


def test_magnifications_count_where_no_size_of_a_pixel_is_known():
    table = pd.DataFrame({"patch": "x", "um_per_pixel": np.nan, "magnification": [40.0, 10.0]})
    found = resolutions_of(Patches(table, Path()))
    assert (found.sizes.tolist(), found.is_nominal) == ([0.25, 1.0], True)
