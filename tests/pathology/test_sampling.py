"""Patches of planted slides: true µm per pixel, the same places, and what is said of bad input."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy.ndimage import gaussian_filter

from scalecut import DataError, Reading, read_images
from scalecut.pathology import patches, sampling
from scalecut.pathology.cutting import Blur
from scalecut.pathology.methods import Trial, task_of
from scalecut.pathology.patches import Cutting, read_patches, save_patches
from scalecut.pathology.resampling import areas_of_nuclei, resampled, spread
from scalecut.pathology.slides import SlideField
from tests.pathology.test_slides import MPP, drawn, write, write_ome

pytest.importorskip("openslide", reason="slides need OpenSlide")

SIZE, PLACES = 32, 4
CUTTING = Cutting(mpp=(0.25, 0.5, 1.0), per_slide=PLACES, size=SIZE)
APERIO = "Aperio Image Library |AppMag = 20|MPP = 0.5"


def world(folder):
    """Slides that can be used, by name with their µm per pixel, and six that cannot."""
    folder.mkdir()
    write(folder / "TCGA-AA-0001-01Z_a.svs", drawn(seed=1), APERIO)
    write(folder / "TCGA-AA-0001-01Z_b.svs", drawn(seed=2), mpp=0.25)
    write(folder / "TCGA-AA-0002-01Z_a.svs", drawn(seed=3), mpp=0.2527)
    PIL.Image.fromarray(drawn(seed=4)).save(
        folder / "TCGA-AA-0003-01Z_a.tif", resolution=10_000 / MPP, resolution_unit=3
    )
    write(folder / "contradicting.svs", drawn(64, 64), APERIO.replace("0.5", "0.3"), mpp=0.4)
    write(folder / "unknown.svs", drawn(64, 64), mpp=25_400 / 72)
    write(folder / "dark.svs", np.full((768, 1024, 3), (8, 5, 30), np.uint8))
    write(folder / "glass.svs", np.full((768, 1024, 3), 244, np.uint8))
    (folder / "broken.svs").write_bytes(b"II*\0 no slide")
    broken = folder / "torn.svs"
    write(broken, drawn(seed=5))
    torn(broken)
    return folder


def torn(path):
    """Break the first level; the second, in which tissue is found, can be read."""
    import tifffile

    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        for start, n in zip(page.dataoffsets, page.databytecounts, strict=True):
            content[start : start + n] = b"x" * n
    path.write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    tiles = world(folder / "world")
    return save_patches(tiles, out=folder / "out", cutting=CUTTING), tiles


def test_every_patch_has_its_true_resolution_and_the_magnification_follows(made):
    table = made[0].table
    assert set(table.um_per_pixel) == {0.25, 0.5, 1.0}
    np.testing.assert_array_equal(table.magnification, 10 / table.um_per_pixel)
    assert "n_nuclei" not in table
    by_slide = table.groupby(["tile", "um_per_pixel"]).size().unstack(fill_value=0)
    assert by_slide.loc["TCGA-AA-0001-01Z_a"].tolist() == [0, PLACES, PLACES]  # is coarser
    assert by_slide.loc["TCGA-AA-0001-01Z_b"].tolist() == [PLACES] * 3
    assert by_slide.loc["TCGA-AA-0002-01Z_a"].tolist() == [PLACES] * 3  # 1 % enlarged
    assert [(each.name, each.reason) for each in made[0].skipped] == [
        (
            "0.25 µm per pixel",
            "2 of 4 tiles are coarser, and are not enlarged, the first TCGA-AA-0001-01Z_a with "
            "0.5 µm per pixel",
        )
    ]
    assert "1 of 7 are enlarged at 0.25 µm per pixel, by up to 1.1 %." in made[0].stated
    assert read_patches(made[0].folder).table.equals(table)
    assert list(made[0].counts().columns) == ["1 µm", "0.5 µm", "0.25 µm", "total"]


def test_a_patch_is_the_mean_of_the_area_it_states(made):
    """Of the finest level, in memory; levels are rounded to whole numbers, so within one."""
    pixels = {"b": drawn(seed=2), "TCGA-AA-0003-01Z_a": drawn(seed=4)}
    n = 0
    for row in made[0].table.itertuples():
        source = pixels.get(row.tile, pixels.get(row.tile.removeprefix("TCGA-AA-0001-01Z_")))
        if source is None:
            continue
        factor = row.um_per_pixel / (0.25 if row.tile.endswith("_b") else MPP)
        extent = round(SIZE * factor)
        window = source[row.top : row.top + extent, row.left : row.left + extent]
        with PIL.Image.open(made[0].folder / row.patch) as image:
            found = np.asarray(image).astype(int)
        assert abs(found - resampled(window, factor)).max() <= (4 if row.left % 2 else 1.5)
        n += 1
    assert n == 5 * PLACES


def test_places_are_the_same_at_every_resolution_and_on_tissue(made):
    table = made[0].table
    factor = table.um_per_pixel / table.tile.map(made[0].slides.set_index("slide").um_per_pixel)
    middle = table[["left", "top"]].to_numpy() + (SIZE * factor.to_numpy() / 2)[:, None]
    for _, rows in table.assign(x=middle[:, 0], y=middle[:, 1]).groupby(["tile", "place"]):
        assert np.ptp(rows.x) <= 1
        assert np.ptp(rows.y) <= 1
    assert (middle[:, 0] > 480).all()  # tissue begins at 512


def test_patients_are_groups_and_never_split(made):
    table = made[0].table
    assert set(table.group) == {f"TCGA-AA-000{n}" for n in (1, 2, 3)}
    assert (table.groupby("group").split.nunique() == 1).all()
    assert set(table.split) == {"train", "validation", "test"}


def test_patients_of_a_table_are_those_of_slides_in_folders_and_with_endings(tmp_path):
    for seed, name in enumerate(("p/a", "p/b_original", "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.svs", drawn(seed=seed), APERIO)
    rows = [("a.svs", "train", "one"), ("b", "train", "one"), ("c_original", "test", "two")]
    table = tmp_path / "split.csv"
    how = {"cutting": Cutting(mpp=(1.0,), per_slide=1, size=SIZE), "split": table}
    pd.DataFrame(rows, columns=["image", "split", "patient"]).to_csv(table, index=False)
    made = save_patches(tmp_path, out=tmp_path / "out", **how).table.set_index("tile")
    assert made.group.to_dict() == {"p/a": "one", "p/b_original": "one", "c": "two"}
    rows[1] = ("b", "test", "one")
    pd.DataFrame(rows, columns=["image", "split", "patient"]).to_csv(table, index=False)
    with pytest.raises(
        DataError, match=r"The patient 'one' is in train \(p/a\) and in test \(p/b_"
    ):
        save_patches(tmp_path, out=tmp_path / "other", **how)


def test_rows_of_a_split_name_slides_by_their_path(tmp_path):
    """Two slides of one name in two folders have their own; a name of both is refused."""
    for seed, name in enumerate(("1/a", "2/a", "3/b", "4/b")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.svs", drawn(seed=seed), APERIO)
    table = tmp_path / "split.csv"
    cutting = Cutting(mpp=(1.0,), per_slide=1, size=SIZE)

    def groups(*rows, **more):
        pd.DataFrame(rows, columns=["image", "split", "patient"]).to_csv(table, index=False)
        made = save_patches(tmp_path, out=tmp_path / "out", split=table, cutting=cutting, **more)
        return made.table.set_index("tile").group.to_dict()

    own = [("1/a.svs", "train", "one"), ("2\\a", "test", "two"), ("/far/4/b.svs", "test", "four")]
    assert groups(*own, leave_out=["3/b"]) == {"1/a": "one", "2/a": "two", "4/b": "four"}
    both = r"'a' of .* could be 1/a.svs or 2/a.svs of .* Give its path below the folder"
    with pytest.raises(DataError, match=both):
        groups(("a", "train", "one"), *own)
    with pytest.raises(DataError, match=r"The tile '4/b' has no part in the given split\."):
        groups(*own[:2], ("3/b.svs", "test", "three"), leave_out=["3/b"])


def test_rows_of_claims_that_name_no_slide_are_counted_and_stop_strict(tmp_path):
    write(tmp_path / "a.svs", drawn(), APERIO)
    (tmp_path / "t.csv").write_text("slide,mpp\na,0.5\ntypo,0.5\n")
    cutting = Cutting(mpp=(1.0,), per_slide=1, size=SIZE, claims=tmp_path / "t.csv")
    made = save_patches(tmp_path, out=tmp_path / "out", cutting=cutting)
    (left_out,) = made.left_out
    assert "1 of 2 rows name no tile, the first is 'typo'; correct or remove" in left_out.reason
    with pytest.raises(DataError, match=r"name no tile, .* \(--strict skips nothing\)"):
        save_patches(tmp_path, out=tmp_path / "other", cutting=cutting, strict=True)


def test_copies_of_a_slide_share_a_patient_whatever_the_table_says(tmp_path):
    for seed, name in enumerate("abc"):
        write(tmp_path / f"{name}.svs", drawn(seed=seed), APERIO)
    (tmp_path / "d.svs").write_bytes((tmp_path / "a.svs").read_bytes())
    parts = {"one": "train", "two": "train", "three": "test", "four": "test"}
    rows = [
        (name, part, patient) for name, (patient, part) in zip("abcd", parts.items(), strict=True)
    ]
    table = tmp_path / "split.csv"
    pd.DataFrame(rows, columns=["image", "split", "patient"]).to_csv(table, index=False)
    cutting = Cutting(mpp=(1.0,), per_slide=1, size=SIZE)
    with pytest.raises(DataError, match=r"The patient 'four' is in train \(a\) and in test \(d\)"):
        save_patches(tmp_path, out=tmp_path / "out", split=table, cutting=cutting)


def test_each_bad_slide_is_said_in_one_line_and_the_others_go_on(made):
    reasons = {each.name: each.reason for each in made[0].left_out}
    assert "0.3 µm per pixel by the Aperio MPP, but 0.4 by" in reasons.pop("contradicting")
    assert reasons.pop("unknown").startswith("it states no µm per pixel; give --claims TABLE")
    assert reasons.pop("dark").startswith("it is dark, as in fluorescence")
    assert reasons.pop("glass") == "it shows no stained tissue (0 % of its area)"
    assert reasons.pop("broken").startswith("it cannot be opened as a slide")
    assert reasons.pop("torn").startswith("a region cannot be read")
    assert not reasons
    assert not list((made[0].folder / "patches").glob("torn*"))
    about = json.loads((made[0].folder / "patches.json").read_text())
    assert len(about["left_out"]) == 6
    slides = pd.read_csv(made[0].folder / "slides.csv")
    assert slides.slide.tolist() == sorted(set(made[0].table.tile))
    assert "0.5 µm per pixel (Aperio MPP); 20X (Aperio AppMag)" in slides.stated[0]
    assert slides.tissue_share.between(0.45, 0.55).all()


def test_the_result_is_data_of_a_probe_and_of_a_transfer(made):
    spec = f"patches:{made[0].folder}"
    images = read_images(spec)
    assert (images.measure_name, set(images.measure)) == ("um_per_pixel", {0.25, 0.5, 1.0})
    assert set(images.group) == {f"TCGA-AA-000{n}" for n in (1, 2, 3)}
    images = read_images(spec, reading=Reading(target=("magnification",)))
    assert set(images.measure) == {10.0, 20.0, 40.0}
    table = made[0].table
    task, held = task_of(table, Trial(task="magnification", leave_one_out=True))
    assert set(task.target) == set(np.log2([10.0, 20.0, 40.0]))
    assert len(held.truth) == len(table)
    with pytest.raises(DataError, match=r"has no patches\.parquet\. Give a folder that"):
        read_images(f"patches:{made[1]}")
    with pytest.raises(DataError, match="cut without masks, so they have no areas of nuclei"):
        task_of(table, Trial(task="area"))


def test_a_stopped_command_continues_and_gives_the_same_on_any_number_of_threads(
    made, tmp_path, monkeypatch
):
    expected, tiles = made
    out, read = tmp_path / "out", []
    original = sampling.sampled

    def stops(slide, part, plan):
        read.append(slide.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return original(slide, part, plan)

    monkeypatch.setattr(patches, "_THREADS", 1)
    monkeypatch.setattr(patches, "sampled", stops)
    with pytest.raises(KeyboardInterrupt):
        save_patches(tiles, out=out, cutting=CUTTING)
    assert not out.exists()
    n_before = len(read)
    monkeypatch.setattr(patches, "_THREADS", 2)
    found = save_patches(tiles, out=out, cutting=CUTTING)
    assert not set(read[:2]) & set(read[n_before:])  # they were done
    assert read[2] in read[n_before:]
    pd.testing.assert_frame_equal(found.table, expected.table)
    assert (found.left_out, found.skipped) == (expected.left_out, expected.skipped)
    for name in found.table.patch:
        assert (out / name).read_bytes() == (expected.folder / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == [
        "patches", "patches.json", "patches.parquet", "slides.csv",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_options_do_not_continue_what_was_stopped(tmp_path):
    write(tmp_path / "a.svs", drawn(), APERIO)
    out = tmp_path / "out"
    for places in (2, 3):
        cutting = Cutting(mpp=(0.5,), per_slide=places, size=SIZE)
        with pytest.MonkeyPatch.context() as patch:
            if places == 2:
                patch.setattr(patches, "after", lambda *_, **__: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    save_patches(tmp_path / "a.svs", out=out, cutting=cutting)
                continue
            assert len(save_patches(tmp_path / "a.svs", out=out, cutting=cutting).table) == places


@pytest.mark.parametrize("change", [{"mpp": 0.51}, {"group": "q"}, {"slide": "b", "group": "b"}])
def test_a_table_that_was_corrected_is_not_continued_with_what_it_said_before(tmp_path, change):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.svs", drawn(), mpp=0.5)
    table, row = tmp_path / "mpp.csv", {"slide": "a", "mpp": 0.5, "group": "a"}
    cutting = Cutting(mpp=(1.0,), per_slide=2, size=SIZE, claims=table)
    pd.DataFrame([row]).to_csv(table, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "_check_parts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_patches(tmp_path, out=tmp_path / "out", cutting=cutting)
    pd.DataFrame([row | change]).to_csv(table, index=False)
    found = save_patches(tmp_path, out=tmp_path / "out", cutting=cutting)
    expected = save_patches(tmp_path, out=tmp_path / "new", cutting=cutting)
    pd.testing.assert_frame_equal(found.table, expected.table)
    pd.testing.assert_frame_equal(*(m.slides.drop(columns="seconds") for m in (found, expected)))


def squares():
    """Nuclei of 10 x 10 px every 32 px over the tissue, their outlines and their mask."""
    mask = np.zeros((768, 1024), dtype=np.uint16)
    outlines = []
    for number, (y, x) in enumerate(np.ndindex(24, 16), start=1):
        top, left = 32 * y + 11, 512 + 32 * x + 11
        mask[top : top + 10, left : left + 10] = number
        ring = [[left, top], [left + 10, top], [left + 10, top + 10], [left, top + 10]]
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        outlines.append({"type": "Feature", "geometry": geometry, "properties": {}})
    return mask, {"type": "FeatureCollection", "features": outlines}


@pytest.mark.parametrize("kind", ["outlines", "mask"])
def test_nuclei_of_slides_are_counted_and_measured(tmp_path, kind):
    (tmp_path / "slides").mkdir()
    (tmp_path / "masks").mkdir()
    write(tmp_path / "slides" / "a.svs", drawn(), APERIO)
    mask, outlines = squares()
    if kind == "outlines":
        (tmp_path / "masks" / "a.geojson").write_text(json.dumps(outlines))
    else:
        PIL.Image.fromarray(mask).save(tmp_path / "masks" / "a_mask.png")
    cutting = Cutting(mpp=(0.5, 1.0), per_slide=6, size=64)
    made = save_patches(tmp_path / "slides", tmp_path / "masks", tmp_path / "out", cutting=cutting)
    fine = made.table[made.table.um_per_pixel == MPP]
    for row in fine.itertuples():
        window = mask[row.top : row.top + 64, row.left : row.left + 64]
        areas = areas_of_nuclei(window.astype(np.int64))
        assert (row.n_nuclei, row.mean_area_px) == (len(areas), 100.0)
        assert row.mean_area_um2 == pytest.approx(25.0)
    coarse = made.table[made.table.um_per_pixel == 1.0]
    assert coarse.mean_area_px.to_numpy() == pytest.approx(25.0, rel=0.05)
    assert coarse.n_nuclei.mean() > 2.5 * fine.n_nuclei.mean()


def test_a_mask_that_could_be_that_of_two_slides_is_refused(tmp_path):
    for name in ("p1", "p2"):
        (tmp_path / "slides" / name).mkdir(parents=True)
        write(tmp_path / "slides" / name / "a.svs", drawn(), APERIO)
    (tmp_path / "a.geojson").write_text(json.dumps(squares()[1]))
    cutting, places = Cutting(mpp=(0.5,), per_slide=2, size=64), (tmp_path / "slides", tmp_path)
    with pytest.raises(DataError) as error:
        save_patches(*places, tmp_path / "out", cutting=cutting)
    assert str(error.value) == (
        "The mask a.geojson could be that of p1/a or of p2/a. Give each slide a name of its own, "
        "and its mask the same, or skip one by --leave-out."
    )
    made = save_patches(*places, tmp_path / "out", cutting=cutting, leave_out=["p1"])
    assert set(made.table.tile) == {"p2/a"}


def test_outlines_of_a_slide_that_was_scanned_in_part_count_from_that_part(tmp_path, monkeypatch):
    """As those of the whole slide that are moved to its corner; what is stated of MRXS and SCN."""
    (tmp_path / "slides").mkdir()
    write(tmp_path / "slides" / "a.svs", drawn(), APERIO)
    outlines, file = squares()[1], tmp_path / "a.geojson"
    how = {"cutting": Cutting(mpp=(0.5,), per_slide=6, size=64), "masks": tmp_path}
    file.write_text(json.dumps(outlines))
    whole = save_patches(tmp_path / "slides", out=tmp_path / "whole", **how)
    for feature in outlines["features"]:
        ring = np.array(feature["geometry"]["coordinates"]) - (500, 4)
        feature["geometry"]["coordinates"] = ring.tolist()
    file.write_text(json.dumps(outlines))
    about = {"x": "500", "y": "4", "width": "524", "height": "764"}
    properties = {f"openslide.bounds-{name}": value for name, value in about.items()}
    original = SlideField.scanned
    handle = SimpleNamespace(dimensions=(1024, 768), properties=properties)
    monkeypatch.setattr(
        SlideField, "scanned", property(lambda _: original.fget(SlideField(handle)))
    )
    made = save_patches(tmp_path / "slides", out=tmp_path / "part", **how)
    pd.testing.assert_frame_equal(made.table, whole.table)
    said = (
        "outlines on 1 of 1 slides count from the corner of what was scanned (that of a is 500, "
        "4), as QuPath exports them without --no-crop"
    )
    assert f"{said}." in made.stated
    with pytest.raises(DataError, match=r"give --confirm crop\)"):
        save_patches(tmp_path / "slides", out=tmp_path / "strict", strict=True, **how)


ERRORS = [
    ({"mpp": (0.5,), "grid": 3}, "--grid has no effect with --mpp. Drop one of them."),
    ({"per_slide": 5}, "--per-slide has no effect without --mpp. Add that option."),
    ({"mpp": (0.5,), "per_slide": 0}, "--per-slide must be at least 1, got 0."),
    ({"mpp": (0.0, 0.5)}, "--mpp 0,0.5 is unusable. Give µm per pixel, such as 0.25,0.5,1,2."),
    ({"mpp": (0.5, 0.5)}, "--mpp 0.5,0.5 names a resolution twice. Give each once."),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_options_that_exclude_each_other_are_refused(options, message):
    with pytest.raises(DataError) as error:
        Cutting(**options)
    assert str(error.value) == message


def test_tiles_without_masks_need_a_resolution(tmp_path):
    with pytest.raises(DataError) as error:
        save_patches(tmp_path, out=tmp_path / "out")
    assert str(error.value) == (
        "Patches without --masks need --mpp, the µm per pixel to show. Give --mpp 0.5,1,2 for "
        "slides and tiles, or --masks with masks of nuclei."
    )


def test_pen_marks_are_left_out_and_counted(tmp_path):
    pixels = drawn()
    pixels[300:500] = (40, 60, 170)
    write(tmp_path / "a.svs", pixels, APERIO)
    cutting = Cutting(mpp=(0.5,), per_slide=40, size=SIZE)
    made = save_patches(tmp_path, out=tmp_path / "out", cutting=cutting)
    assert not made.table.top.between(300 - SIZE + 1, 499).any()
    assert made.slides.pen_share[0] == pytest.approx(200 / 768, rel=0.1)
    assert any(each.startswith("Pen marks on 1 of 1 are no tissue (") for each in made.stated)


def test_matched_blur_smooths_each_resolution_by_what_it_lacks(tmp_path):
    write(tmp_path / "a.svs", drawn(), APERIO)
    how = {"mpp": (0.5, 1.0), "per_slide": 3, "size": SIZE}
    sharp = save_patches(tmp_path, out=tmp_path / "sharp", cutting=Cutting(**how))
    cutting = Cutting(**how, match_blur=True, native_blur=1.0)
    smooth = save_patches(tmp_path, out=tmp_path / "smooth", cutting=cutting)
    assert smooth.blur is not None
    assert smooth.blur.target == pytest.approx((2 * 1.0) ** 0.5)  # twice the variance at 0.5 µm
    for row in sharp.table.itertuples():
        with PIL.Image.open(sharp.folder / row.patch) as one:
            pixels = np.asarray(one).astype(float)
        with PIL.Image.open(smooth.folder / row.patch) as other:
            found = np.asarray(other).astype(float)
        factor = row.um_per_pixel / MPP
        lacks = 2.0 - 1.0 / factor**2 - spread(factor)
        expected = gaussian_filter(pixels, lacks**0.5, axes=(0, 1))
        np.testing.assert_allclose(found, expected, atol=1.5)  # rounded twice
    made = save_patches(
        tmp_path / "a.svs", out=tmp_path / "own", cutting=Cutting(**how, match_blur=True)
    )
    assert made.blur is not None
    assert made.blur.native < 1  # its edges are sharp


@pytest.mark.parametrize("native", [None, 0.5])
def test_blur_cannot_be_matched_at_resolutions_finer_than_those_of_all_slides(tmp_path, native):
    for name, mpp in (("a", 0.5), ("b", 0.6)):
        write(tmp_path / f"{name}.svs", drawn(), mpp=mpp)
    cutting = Cutting(mpp=(0.25, 0.4), match_blur=True, native_blur=native, size=SIZE)
    with pytest.raises(DataError) as error:
        save_patches(tmp_path, out=tmp_path / "out", cutting=cutting)
    assert str(error.value) == (
        "--mpp 0.25,0.4 is finer than the 0.5 µm per pixel of the finest slide, so there is no "
        "blur to match. Add a coarser one to --mpp."
    )


def test_strict_stops_at_the_first_slide_that_cannot_be_used_and_keeps_what_is_done(
    tmp_path, monkeypatch
):
    for name in "abcdef":
        glass = np.full((768, 1024, 3), 244, np.uint8)
        write(tmp_path / f"{name}.svs", glass if name == "b" else drawn(), APERIO)
    original, read = sampling.sampled, []

    def noting(slide, part, plan):
        read.append(slide.name)
        return original(slide, part, plan)

    monkeypatch.setattr(patches, "_THREADS", 1)
    monkeypatch.setattr(patches, "sampled", noting)
    cutting = Cutting(mpp=(1.0,), per_slide=2, size=SIZE)
    with pytest.raises(DataError) as error:
        save_patches(tmp_path, out=tmp_path / "out", cutting=cutting, strict=True)
    assert str(error.value) == (
        "b: it shows no stained tissue (0 % of its area) (--strict skips nothing). What is "
        f"finished is kept in '{tmp_path}/.out-unfinished', and the same command without --strict "
        "continues from there."
    )
    assert read[:2] == ["a", "b"]
    assert "f" not in read  # of those after it, one may have been begun
    made = save_patches(tmp_path, out=tmp_path / "out", cutting=cutting)
    assert read.count("a") == 1
    assert set(made.table.tile) == set("acdef")
    assert [each.name for each in made.left_out] == ["b"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]


@pytest.mark.parametrize("match_blur", [False, True])
def test_a_slide_that_is_repaired_is_cut_and_the_others_are_not_cut_again(
    tmp_path, monkeypatch, match_blur
):
    """Another blur to match concerns all of them, though."""
    for seed, name in enumerate("abc"):
        write(tmp_path / f"{name}.svs", drawn(seed=seed), APERIO)
    torn(tmp_path / "c.svs")
    original, read = sampling.sampled, []

    def noting(slide, part, plan):
        read.append(slide.name)
        return original(slide, part, plan)

    monkeypatch.setattr(patches, "_THREADS", 1)
    monkeypatch.setattr(patches, "sampled", noting)
    cutting = Cutting(mpp=(0.5,), per_slide=2, size=SIZE, match_blur=match_blur)
    if match_blur:
        blurs = iter([1.0, 2.0, 2.0])
        monkeypatch.setattr(patches, "_blur", lambda *_: Blur(0.5, next(blurs)))
    with pytest.raises(DataError, match=r"^c: .* What is finished is kept"):
        save_patches(tmp_path, out=tmp_path / "out", cutting=cutting, strict=True)
    assert read == ["a", "b", "c"]
    (tmp_path / ".out-unfinished" / "patches" / "c_7_0.5um.png").touch()  # of a place it lost
    write(tmp_path / "c.svs", drawn(seed=4), APERIO)
    made = save_patches(tmp_path, out=tmp_path / "out", cutting=cutting, strict=True)
    assert read[3:] == (["a", "b", "c"] if match_blur else ["c"])
    monkeypatch.setattr(patches, "_THREADS", 4)
    anew = save_patches(tmp_path, out=tmp_path / "anew", cutting=cutting)
    pd.testing.assert_frame_equal(made.table, anew.table)
    found, expected = (
        {path.name: path.read_bytes() for path in (m.folder / "patches").iterdir()}
        for m in (made, anew)
    )
    assert found == expected


def test_what_strict_stops_at_when_all_is_cut_is_confirmed_without_cutting_again(
    tmp_path, monkeypatch
):
    (tmp_path / "slides").mkdir()
    write(tmp_path / "slides" / "a.svs", drawn(), APERIO)
    outlines = squares()[1]
    outlines["features"] *= 2  # each overlaps itself
    (tmp_path / "a.geojson").write_text(json.dumps(outlines))
    cutting = Cutting(mpp=(0.5,), per_slide=2, size=64)
    places = {"tiles": tmp_path / "slides", "masks": tmp_path, "out": tmp_path / "out"}
    with pytest.raises(DataError, match=r"if it is right, give --confirm overlaps\)\. What is fin"):
        save_patches(**places, cutting=cutting, strict=True)
    monkeypatch.setattr(patches, "sampled", lambda *_: 1 / 0)
    made = save_patches(**places, cutting=replace(cutting, confirm=("overlaps",)), strict=True)
    assert any(each.endswith("belongs to the last, as confirmed.") for each in made.stated)


def test_ome_slides_are_cut_like_others(tmp_path, monkeypatch):
    pytest.importorskip("tiffslide", reason="levels below a page need tiffslide")
    monkeypatch.setattr("scalecut.pathology.slides.LARGE", 500)
    write(tmp_path / "slide.svs", drawn(), mpp=MPP)
    write_ome(tmp_path / "slide.ome.tif", drawn())
    cutting, out = Cutting(mpp=(0.5, 1.0), per_slide=3, size=SIZE), []
    for name in ("slide.svs", "slide.ome.tif"):
        made = save_patches(tmp_path / name, out=tmp_path / name[-3:], cutting=cutting)
        out.append(made.table[["um_per_pixel", "split"]])
    pd.testing.assert_frame_equal(*out)
