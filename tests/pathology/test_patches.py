"""Resampling, areas and blur against what was drawn, and against slower, simpler computations."""

import json
import os
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy.ndimage import gaussian_filter, label
from scipy.optimize import curve_fit
from scipy.special import erf
from skimage.measure import regionprops
from skimage.segmentation import clear_border

from scalecut.data.images import LeftOut
from scalecut.data.masks import understood
from scalecut.errors import DataError
from scalecut.pathology import patches, resampling
from scalecut.pathology.patches import (
    COLUMNS,
    Blur,
    Cutting,
    counts,
    cut_patches,
    read_patches,
    save_patches,
)
from scalecut.pathology.resampling import (
    areas_of_nuclei,
    estimated_blur,
    resampled,
    resampled_nuclei,
    spread,
)
from scalecut.pathology.tiles import Tile, by_tile, find_tiles, read_split, split
from scalecut.runs import read_run

DATA = os.environ.get("SCALECUT_DATA")
MAGNIFICATIONS = (10.0, 15.0, 20.0, 30.0, 40.0)
PARTS = {"a": "train", "b": "test"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def photograph(rng, height=90, width=120):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(side, row, column, radius):
    y, x = np.mgrid[:side, :side] + 0.5
    return (y - row) ** 2 + (x - column) ** 2 < radius**2


def grid_of_discs(side=480, step=40, radius=8.0):
    """Numbers of discs that do not touch, each at another place between pixels of any size."""
    drawn, rng = np.zeros((side, side), dtype=np.uint16), np.random.default_rng(0)
    corners = [(y, x) for y in range(0, side, step) for x in range(0, side, step)]
    for number, (y, x) in enumerate(corners, start=1):
        row, column = step / 2 + rng.uniform(-4, 4, 2)
        drawn[y : y + step, x : x + step][disc(step, row, column, radius)] = number
    return drawn


@pytest.fixture
def tile(tmp_path):
    """Writes a tile and its mask."""

    def written(name, pixels, mask, group=None, um_per_pixel=None):
        for path, values in ((f"{name}.png", pixels), (f"{name}_mask.png", mask)):
            PIL.Image.fromarray(values).save(tmp_path / path)
        image, marks = tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png"
        return Tile(name, image, marks, group or name, understood([marks]), um_per_pixel)

    return written


@pytest.fixture
def two_tiles(tile):
    """One to train on and one to test on, of 480 px, and their split."""
    mask, rng = grid_of_discs(), np.random.default_rng(0)
    tiles = [tile(name, photograph(rng, 480, 480), mask) for name in "ab"]
    return tiles, {"a": "train", "b": "test"}


# resampling -------------------------------------------------------------------------------------


def test_a_pixel_is_the_mean_of_its_block_also_at_fractions(rng):
    """At n / d it is that of the tile with each pixel repeated d times."""
    pixels = photograph(rng, 60, 120)
    for numerator, denominator in ((2, 1), (3, 1), (5, 1), (4, 3), (8, 3), (3, 2), (15, 7)):
        fine = pixels.repeat(denominator, axis=0).repeat(denominator, axis=1)
        height, width = (n // numerator for n in fine.shape[:2])
        fine = fine[: height * numerator, : width * numerator].astype(float)
        blocks = fine.reshape(height, numerator, width, numerator, 3)
        found = resampled(pixels, numerator / denominator)
        np.testing.assert_allclose(found, blocks.mean(axis=(1, 3)), rtol=1e-12, atol=1e-9)


def test_the_mean_is_kept_and_edges_do_not_ring():
    edge = np.full((240, 240, 3), 40, dtype=np.uint8)
    edge[:, 101:] = 220
    for magnification in (5, 8, 10, 15, 20, 30, 40):
        found = resampled(edge, 40 / magnification)
        assert found.mean() == pytest.approx(edge.mean())
        assert found.min() >= 40 - 1e-9
        assert found.max() <= 220 + 1e-9
        np.testing.assert_allclose(resampled(np.full_like(edge, 7), 40 / magnification), 7)


def slow_nuclei(labels, factor):
    """The nucleus that covers most of each pixel, in fractions, if all together cover half."""
    n = [floor(side / factor) for side in labels.shape]
    found = np.zeros(n, dtype=int)
    for row in range(n[0]):
        for column in range(n[1]):
            share = dict.fromkeys(range(int(labels.max()) + 1), Fraction(0))
            for y in range(
                floor(row * factor), min(labels.shape[0], floor((row + 1) * factor) + 1)
            ):
                for x in range(
                    floor(column * factor), min(labels.shape[1], floor((column + 1) * factor) + 1)
                ):
                    high = min((row + 1) * factor, y + 1) - max(row * factor, y)
                    wide = min((column + 1) * factor, x + 1) - max(column * factor, x)
                    share[labels[y, x]] += max(high, 0) * max(wide, 0) / factor**2
            covered = 1 - share.pop(0)
            is_half = covered == Fraction(1, 2)
            if covered > Fraction(1, 2) or (is_half and (row + column) % 2 == 0):
                found[row, column] = max(share, key=lambda number: (share[number], number))
    return found


@pytest.mark.parametrize("factor", [Fraction(4, 3), Fraction(2)])
def test_nuclei_are_those_that_cover_most_of_a_pixel(rng, factor):
    coarse = rng.integers(0, 5, (8, 9)) * rng.integers(0, 2, (8, 9))
    labels = coarse.repeat(3, axis=0).repeat(2, axis=1)
    found = resampled_nuclei(labels, float(factor))
    np.testing.assert_array_equal(found, slow_nuclei(labels, factor))


def test_the_result_does_not_depend_on_how_many_rows_are_resampled_at_once(rng, monkeypatch):
    labels = grid_of_discs(side=200)
    whole = resampled_nuclei(labels, 4 / 3)
    monkeypatch.setattr(resampling, "_STRIP", 6)
    np.testing.assert_array_equal(resampled_nuclei(labels, 4 / 3), whole)


SOME = [(10.0, 9.0), (15.0, 12.0), (40.0, 15.0)]


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize(
    ("magnification", "radius"),
    [
        pytest.param(m, r, marks=[] if (m, r) in SOME else pytest.mark.slow)
        for m in MAGNIFICATIONS
        for r in (9.0, 12.0, 15.0)
    ],
)
def test_areas_of_drawn_discs_are_right_within_5_percent(magnification, radius, is_binary):
    drawn = grid_of_discs(step=48, radius=radius)
    factor = 40 / magnification
    nuclei = resampled_nuclei(drawn > 0 if is_binary else drawn, factor)
    areas = areas_of_nuclei(nuclei)
    assert len(areas) == drawn.max()
    assert areas.mean() == pytest.approx(np.pi * radius**2 / factor**2, rel=0.05)


def test_nuclei_that_touch_stay_apart_and_one_in_pieces_stays_one():
    labels = np.zeros((60, 60), dtype=int)
    labels[10:30, 10:20], labels[10:30, 20:30] = 1, 2  # side by side
    labels[40:50, 10:20] = labels[40:50, 40:50] = 3  # two pieces
    nuclei = resampled_nuclei(labels, 4.0)
    assert set(np.unique(nuclei)) <= {0, 1, 2, 3}
    assert len(areas_of_nuclei(nuclei)) == 3
    # a mask of two levels knows neither
    assert len(areas_of_nuclei(resampled_nuclei(labels > 0, 4.0))) == 3
    assert label(resampled_nuclei(labels > 0, 4.0) > 0)[1] == 3


def test_a_gap_of_one_pixel_in_a_mask_of_two_levels_is_closed():
    marks = np.zeros((20, 20), dtype=bool)
    marks[5:10, 5:9] = marks[5:10, 10:15] = True
    assert areas_of_nuclei(resampled_nuclei(marks, 1.0)).tolist() == [50]
    marks[5:10, 10] = False  # now two pixels wide
    assert sorted(areas_of_nuclei(resampled_nuclei(marks, 1.0))) == [20, 20]


def test_closing_does_not_reach_the_edge_of_the_tile():
    marks = np.zeros((20, 20), dtype=bool)
    marks[1:5, 1:5] = marks[15:19, 15:19] = True
    assert areas_of_nuclei(resampled_nuclei(marks, 1.0)).tolist() == [16, 16]


def test_areas_are_those_of_scikit_image_without_the_border(rng):
    drawn, _ = label(rng.random((60, 60)) < 0.45)
    kept = [int(each.area) for each in regionprops(clear_border(drawn)) if each.area >= 3]
    assert areas_of_nuclei(drawn).tolist() == kept


# patches ----------------------------------------------------------------------------------------


def test_patches_lie_side_by_side_and_show_what_was_resampled(tile, tmp_path, rng):
    pixels = photograph(rng, 120, 200)
    mask = grid_of_discs(side=240, step=20, radius=5.0)[:120, :200]
    given = [tile("a", pixels, mask, group="p", um_per_pixel=0.25), tile("b", pixels, mask)]
    cut = cut_patches(given, PARTS, tmp_path / "out", Cutting((20.0, 40.0), size=48))
    assert list(cut.table.columns) == list(COLUMNS)
    of_a = cut.table[cut.table.tile == "a"]
    places = list(zip(of_a.magnification, of_a.x, of_a.y, strict=True))
    expected = [(20.0, 0, 0), (20.0, 48, 0)]
    expected += [(40.0, x, y) for y in (0, 48) for x in (0, 48, 96, 144)]
    assert places == expected
    assert set(of_a.group) == {"p"}
    assert set(of_a.split) == {"train"}
    assert set(cut.table.split) == {"train", "test"}
    assert sorted(f"patches/{path.name}" for path in (tmp_path / "out/patches").iterdir()) == (
        sorted(cut.table.patch)
    )
    for row in of_a.itertuples():
        factor = 40 / row.magnification
        window = slice(row.y, row.y + 48), slice(row.x, row.x + 48)
        with PIL.Image.open(tmp_path / "out" / row.patch) as shown:
            np.testing.assert_array_equal(shown, np.rint(resampled(pixels, factor)[window]))
        areas = areas_of_nuclei(resampled_nuclei(mask, factor)[window])
        assert row.n_nuclei == len(areas)
        assert row.mean_area_px == pytest.approx(areas.mean())
        assert row.median_area_px == pytest.approx(np.median(areas))
        assert row.mean_area_um2 == pytest.approx(areas.mean() * (0.25 * factor) ** 2)
    assert cut.table[cut.table.tile == "b"].mean_area_um2.isna().all()
    assert cut.left_out == cut.skipped == ()
    assert cut.blur is None


def test_the_area_in_square_microns_is_that_of_the_disc_at_every_magnification(two_tiles, tmp_path):
    cutting = Cutting(MAGNIFICATIONS, size=100, um_per_pixel=0.25)
    cut = cut_patches(*two_tiles, tmp_path / "out", cutting)
    true = np.pi * (8 * 0.25) ** 2
    by_magnification = cut.table.groupby("magnification").mean_area_um2.mean()
    assert list(by_magnification.index) == list(MAGNIFICATIONS)
    np.testing.assert_allclose(by_magnification, true, rtol=0.05)


def test_what_the_user_says_of_the_pixel_goes_before_what_the_file_says(tile, tmp_path, rng):
    tiles = [
        tile(name, photograph(rng), grid_of_discs()[:90, :120], um_per_pixel=1.0) for name in "ab"
    ]
    cutting = Cutting((40.0,), size=80, um_per_pixel=0.5)
    cut = cut_patches(tiles, PARTS, tmp_path / "out", cutting)
    np.testing.assert_allclose(cut.table.mean_area_um2, cut.table.mean_area_px / 4)


def test_patches_without_nuclei_and_small_tiles_are_counted(tile, tmp_path, rng):
    mask = grid_of_discs(side=120)
    mask[:, :60] = 0
    tiles = [tile(name, photograph(rng, 120, 120), mask) for name in "abc"]
    cutting = Cutting((5.0, 20.0, 40.0), size=60)
    cut = cut_patches(tiles, {**PARTS, "c": "test"}, tmp_path / "out", cutting)
    assert cut.left_out == (
        LeftOut("40X", "6 of 12 patches have no complete nucleus of 3 px or more"),
    )
    assert cut.skipped == (
        LeftOut(
            "5X",
            "3 of 3 tiles are smaller than a patch of 60 px there, the first a with 15 x 15 px",
        ),
    )
    assert len(cut.table) == len(list((tmp_path / "out/patches").iterdir())) == 9


# fmt: off
REFUSED = [
    ({"magnifications": (10.0, 60.0)},
     "A magnification of 60X is above that of the tiles, 40X, and would add no detail. Give 40 or "
     "less."),
    ({"magnifications": (0.0, 10.0)},
     "Patches of 100 px at 0X, 10X cannot be cut from tiles at 40X. Give magnifications above 0 "
     "and patches of 3 px or more."),
    ({"magnifications": ()},
     "Patches of 100 px at no magnification cannot be cut from tiles at 40X. Give magnifications "
     "above 0 and patches of 3 px or more."),
    ({"um_per_pixel": 0.0}, "--um-per-pixel must be above 0, got 0."),
    ({"native_blur": -1.0}, "--native-blur must be above 0, got -1."),
    ({"native_blur": 1.0},
     "--native-blur has no effect without --match-blur. Add that option."),
    ({"grid": 0}, "--grid must be at least 1, got 0."),
    ({"magnifications": (5.0,)},
     "No tile of train gives a patch of 100 px with a complete nucleus of 3 px. Give larger tiles, "
     "higher magnifications or smaller patches."),
]
# fmt: on


def test_what_cannot_be_cut_is_refused_in_one_line(two_tiles, tmp_path):
    for options, expected in REFUSED:
        with pytest.raises(DataError) as error:
            cut_patches(*two_tiles, tmp_path / "out", Cutting(**{"size": 100, **options}))
        assert str(error.value) == expected


def test_a_part_whose_tiles_have_no_nuclei_is_refused(tile, tmp_path, rng):
    mask = grid_of_discs(side=120)
    tiles = [tile("a", photograph(rng, 120, 120), mask)]
    mask = np.where(mask == 1, mask, 0).astype(np.uint8)
    mask[:12] = mask.max()  # only nuclei that touch the border
    tiles.append(tile("b", photograph(rng, 120, 120), mask))
    with pytest.raises(DataError) as error:
        cut_patches(tiles, PARTS, tmp_path, Cutting((40.0,), size=100))
    assert str(error.value) == (
        "No tile of test gives a patch of 100 px with a complete nucleus of 3 px. "
        "Give larger tiles, higher magnifications or smaller patches."
    )


def test_a_tile_that_broke_since_it_was_found_is_an_error(two_tiles, tmp_path):
    two_tiles[0][1].mask.write_bytes(b"")
    with pytest.raises(DataError) as error:
        cut_patches(*two_tiles, tmp_path / "out", Cutting(size=100))
    assert str(error.value).startswith("b: its mask b_mask.png: the file is empty")


def test_any_number_of_threads_gives_the_same_patches(two_tiles, tmp_path, monkeypatch):
    written = []
    for n_threads in (1, 3):
        monkeypatch.setattr(patches, "_THREADS", n_threads)
        folder = tmp_path / str(n_threads)
        cut = cut_patches(*two_tiles, folder, Cutting((15.0, 30.0), size=100, match_blur=True))
        written.append((cut.table, [(folder / name).read_bytes() for name in cut.table.patch]))
    pd.testing.assert_frame_equal(written[0][0], written[1][0])
    assert written[0][1] == written[1][1]


def test_progress_counts_tiles(two_tiles, tmp_path):
    told = []
    cutting = Cutting(size=200)
    cut_patches(*two_tiles, tmp_path / "out", cutting, progress=lambda *said: told.append(said))
    assert told == [("patches", 1, 2), ("patches", 2, 2)]


def test_what_was_saved_is_read_again(two_tiles, tmp_path):
    (tmp_path / "split.csv").write_text("image,split\na,train\nb,test\n")
    made = save_patches(
        tmp_path, tmp_path, tmp_path / "out", split=tmp_path / "split.csv",
        cutting=Cutting((15.0, 30.0), size=100),
    )  # fmt: skip
    read = read_patches(tmp_path / "out")
    assert read.folder == made.folder == tmp_path / "out"
    pd.testing.assert_frame_equal(read.to_frame(), made.to_frame())
    assert all((read.folder / name).is_file() for name in read.table.patch)
    facts = read_run(tmp_path / "out", "patches").facts
    assert facts["counts"] == made.counts().to_dict("index")


def test_blur_that_was_matched_and_patients_of_a_table_are_read_again(two_tiles, tmp_path):
    (tmp_path / "split.csv").write_text("image,split,patient\na,train,one\nb,test,two\n")
    cutting = Cutting((15.0, 30.0), size=100, match_blur=True, native_blur=1.0)
    made = save_patches(
        tmp_path, tmp_path, tmp_path / "out", split=tmp_path / "split.csv", cutting=cutting
    )
    read = read_patches(tmp_path / "out")
    assert read.blur == made.blur == Blur(1.0, made.blur.target)
    assert read.table.groupby("tile").group.first().to_dict() == {"a": "one", "b": "two"}


def test_copies_of_a_tile_share_a_part(tile, tmp_path, rng):
    mask = grid_of_discs(side=120)
    for name in "abcd":
        tile(name, photograph(rng, 120, 120), mask)
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes())
    PIL.Image.fromarray(mask).save(tmp_path / "e_mask.png")
    cutting = Cutting((40.0,), size=60)
    made = save_patches(tmp_path, tmp_path, tmp_path / "out", cutting=cutting)
    group, part = (made.table.groupby("tile")[name].first() for name in ("group", "split"))
    assert group["a"] == group["e"] and part["a"] == part["e"] and group.nunique() == 4
    assert made.stated[0] == "2 tiles with identical copies share a part."


def test_outlines_of_qupath_give_the_patches_of_the_same_nuclei_drawn(tmp_path, rng):
    """Drawn by the edges to the right of each centre, and saved as numbers in a PNG."""
    y, x = np.mgrid[0:240, 0:240] + 0.5
    drawn, features = np.zeros((240, 240), np.uint16), []
    for number, (down, across) in enumerate(np.argwhere(np.ones((6, 6))) * 40 + 20, start=1):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(6, 16, 9)
        corners = np.stack([across + radii * np.cos(angles), down + radii * np.sin(angles)], axis=1)
        ends = np.roll(corners, -1, axis=0)
        n = np.zeros(drawn.shape, int)
        for (x0, y0), (x1, y1) in zip(corners, ends, strict=True):
            n += ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        drawn[n % 2 == 1] = number
        geometry = {"type": "Polygon", "coordinates": [[*corners.tolist(), corners[0].tolist()]]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {}})
    for folder in ("tiles", "outlines", "numbers"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        PIL.Image.fromarray(photograph(rng, 240, 240)).save(tmp_path / "tiles" / f"{name}.png")
        PIL.Image.fromarray(drawn).save(tmp_path / "numbers" / f"{name}_mask.png")
        (tmp_path / "outlines" / f"{name}.geojson").write_text(json.dumps(features))
    (tmp_path / "split.csv").write_text("image,split\na,train\nb,test\n")
    one, other = (
        save_patches(
            tmp_path / "tiles", tmp_path / kind, tmp_path / f"of {kind}",
            split=tmp_path / "split.csv", cutting=Cutting((10.0, 20.0, 40.0), size=60),
        )
        for kind in ("outlines", "numbers")
    )  # fmt: skip
    assert one.table.n_nuclei.sum() > 50
    pd.testing.assert_frame_equal(one.table, other.table)


# blur -------------------------------------------------------------------------------------------


def edges(blur, side=480):
    """Upright edges 48 px apart, each at another place between pixels, blurred as optics do."""
    fine = np.arange(side * 8) / 8
    places = np.arange(24, side, 48) + np.random.default_rng(0).uniform(-1, 1, side // 48)
    line = 40.0 + 180.0 * (np.searchsorted(places, fine) % 2)
    line = gaussian_filter(line, blur * 8).reshape(side, 8).mean(axis=1)
    pixels = np.broadcast_to(np.rint(line)[None, :, None], (side, side, 3))
    return np.ascontiguousarray(pixels, dtype=np.uint8), places


def width_of_edges(folder, rows, places):
    """Standard deviation of the edges in patches, in their pixels: of error functions fitted."""
    widths = []
    for row in rows.itertuples():
        with PIL.Image.open(folder / row.patch) as image:
            line = np.asarray(image)[50, :, 0].astype(float)
        factor = 40 / row.magnification
        for place in places / factor - row.x:
            if not 22 / factor < place < len(line) - 22 / factor:
                continue  # its neighbour is in another patch
            near = np.arange(int(place - 22 / factor), int(place + 22 / factor))
            (*_, width), _ = curve_fit(
                lambda x, low, step, centre, s: low + step * erf((x + 0.5 - centre) / s / 2**0.5),
                near,
                line[near],
                p0=(130.0, np.sign(line[near[-1]] - line[near[0]]) * 90.0, place, 1.0),
            )
            widths.append(abs(width))
    return np.mean(widths)


# the optics, and the pixel that gathers their light; or estimated
@pytest.mark.parametrize(("given", "at_most"), [((1 + 1 / 12) ** 0.5, 1.015), (None, 1.05)])
def test_edges_are_equally_wide_at_all_magnifications_if_blur_is_matched(
    tile, tmp_path, given, at_most
):
    pixels, places = edges(blur=1.0)
    tiles = [tile(name, pixels, grid_of_discs()) for name in "ab"]
    for match_blur in (False, True):
        folder = tmp_path / str(match_blur)
        blur = {"match_blur": True, "native_blur": given} if match_blur else {}
        cutting = Cutting(MAGNIFICATIONS, size=100, **blur)
        cut = cut_patches(tiles, PARTS, folder, cutting)
        by_magnification = cut.table[cut.table.tile == "a"].groupby("magnification")
        widths = [width_of_edges(folder, rows, places) for _, rows in by_magnification]
        if match_blur:
            assert max(widths) / min(widths) < at_most
            assert np.mean(widths) == pytest.approx(cut.blur.target, rel=0.02)
        else:
            assert max(widths) / min(widths) > 1.3


def test_the_blur_of_a_tile_is_estimated_from_its_edges(rng):
    image = np.full((240, 240), 220.0)
    for _ in range(40):
        row, column = rng.uniform(0, 240, 2)
        image[disc(240, row, column, rng.uniform(6, 14))] = rng.uniform(30, 120)
    for blur in (0.7, 1.0, 1.5, 2.0):
        for noise in (0.0, 3.0):
            seen = gaussian_filter(image, blur) + noise * rng.normal(size=image.shape)
            pixels = np.stack([np.rint(seen).clip(0, 255).astype(np.uint8)] * 3, axis=-1)
            assert estimated_blur(pixels) == pytest.approx(blur, rel=0.1), (blur, noise)


def test_the_blur_is_that_of_the_training_tiles(tile, tmp_path):
    tiles = [
        tile(name, edges(blur)[0], grid_of_discs())
        for name, blur in zip("ab", (1.0, 2.0), strict=True)
    ]
    cutting = Cutting((20.0,), size=200, match_blur=True)
    one = cut_patches(tiles, PARTS, tmp_path / "1", cutting)
    other = cut_patches(tiles, {"a": "test", "b": "train"}, tmp_path / "2", cutting)
    assert one.blur.native == pytest.approx(1.0, rel=0.15)
    assert other.blur.native == pytest.approx(2.0, rel=0.15)


def test_tiles_without_edges_have_no_blur_to_be_matched(tile, tmp_path):
    flat = np.full((100, 100, 3), 200, dtype=np.uint8)
    assert estimated_blur(flat) is None
    tiles = [tile(name, flat, grid_of_discs(side=120)[:100, :100]) for name in "ab"]
    with pytest.raises(DataError) as error:
        cut_patches(tiles, PARTS, tmp_path, Cutting((40.0,), size=100, match_blur=True))
    assert str(error.value) == (
        "No training tile has an edge to estimate its blur from. Give --native-blur."
    )


def test_the_spread_of_averaging_has_a_closed_form_at_whole_factors():
    for factor in (1, 2, 4, 5, 8):
        assert spread(float(factor)) == pytest.approx((1 - 1 / factor**2) / 12)


def test_the_spread_of_averaging_at_4_3_is_that_of_its_three_weightings():
    third = Fraction(1, 3)
    weightings = [(1, third), (2 * third, 2 * third), (third, 1)]  # of pixels at 0 and 1
    variances = []
    for number, weights in enumerate(weightings):
        centre = (number + Fraction(1, 2)) * Fraction(4, 3) - number
        distances = [Fraction(1, 2) - centre, Fraction(3, 2) - centre]
        total = sum(w * d**2 for w, d in zip(weights, distances, strict=True))
        variances.append(total / Fraction(4, 3))
    expected = sum(variances) / 3 / Fraction(4, 3) ** 2
    assert spread(4 / 3) == pytest.approx(float(expected), rel=1e-3)


def fine_power(folder, rows):
    """log10 of the power at frequencies of 1/4 to 1/2 a pixel over that at 1/50 to 1/20."""
    found = []
    window = np.outer(np.hanning(224), np.hanning(224))
    steps = np.fft.fftfreq(224)
    frequency = np.hypot(steps[:, None], steps)
    for patch in rows.patch:
        with PIL.Image.open(folder / patch) as image:
            grey = np.asarray(image).mean(axis=2)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
        fine = power[(frequency >= 0.25) & (frequency < 0.5)].mean()
        found.append(np.log10(fine / power[(frequency >= 0.02) & (frequency < 0.05)].mean()))
    return np.mean(found)


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="set SCALECUT_DATA to the folder of real images")
def test_fine_detail_of_real_tissue_reveals_magnification_much_less_if_blur_is_matched(tmp_path):
    folder = Path(DATA) / "monuseg"
    found, left_out = find_tiles(folder / "images", folder / "labels")
    assert (len(found), left_out) == (44, ())
    file, paths = folder / "images.csv", {each.image.name: each.name for each in found}
    given = by_tile(read_split(file), "split", paths, file=file, place=folder)
    parts = split(found, seed=0, given=given)
    chosen = [each for each in found if parts[each.name] == "train"][::15]
    chosen += [each for each in found if parts[each.name] == "test"][:1]
    ranges = []
    for match_blur in (False, True):
        out = tmp_path / str(match_blur)
        cut = cut_patches(chosen, parts, out, Cutting(MAGNIFICATIONS, match_blur=match_blur))
        by_magnification = cut.table.groupby("magnification")
        assert list(by_magnification.size()) == [3, 3, 12, 27, 48]
        ranges.append(np.ptp([fine_power(out, rows) for _, rows in by_magnification]))
    assert ranges[0] > 1.0
    assert ranges[1] < ranges[0] / 2


# counts -----------------------------------------------------------------------------------------


def test_counts_are_by_part_and_magnification_with_totals(rng):
    parts = rng.choice(["train", "validation", "test"], 300)
    magnifications = rng.choice([5.0, 12.5, 40.0], 300)
    found = counts(pd.DataFrame({"split": parts, "magnification": magnifications}))
    assert list(found.columns) == ["5X", "12.5X", "40X", "total"]
    assert list(found.index) == ["train", "validation", "test", "total"]
    assert found.loc["total", "total"] == 300
    for part in found.index[:-1]:
        for name in found.columns[:-1]:
            here = (parts == part) & (magnifications == float(name[:-1]))
            assert found.loc[part, name] == here.sum()
        assert found.loc[part, "total"] == (parts == part).sum()


def test_counts_of_patches_without_a_magnification_are_refused():
    table = pd.DataFrame({"split": ["train", "test"], "magnification": [10.0, np.nan]})
    with pytest.raises(DataError) as error:
        counts(table)
    assert str(error.value) == "Some patches have no magnification. Give each its own."


def test_tiles_of_no_known_resolution_count_as_40x_which_is_assumed(tile, tmp_path):
    for seed, name in enumerate("abc"):
        tile(name, photograph(np.random.default_rng(seed), 120, 120), grid_of_discs(120))
    with PIL.Image.open(tmp_path / "c.png") as image:
        image.save(tmp_path / "c.tif", resolution=40_000, resolution_unit=3)
    (tmp_path / "c.png").unlink()
    for name in ("tiles", "masks"):
        (tmp_path / name).mkdir()
    for path in tmp_path.glob("?*.*"):
        path.rename(tmp_path / ("masks" if "mask" in path.name else "tiles") / path.name)
    places = tmp_path / "tiles", tmp_path / "masks"
    text = "2 of 3 tiles state no resolution, and count as 40X (the first is a.png)"
    cut, out = Cutting((10.0,), size=20), tmp_path / "out"
    assert f"{text}." in save_patches(*places, out, cutting=cut).stated
    with pytest.raises(DataError) as error:
        save_patches(*places, out, cutting=cut, strict=True)
    assert str(error.value) == (
        f"Assumed: {text} (--strict assumes nothing; if it is right, give --native 40)."
    )
    for given in ({"native": 40.0}, {"um_per_pixel": 0.25}):
        made = save_patches(*places, out, cutting=replace(cut, **given), strict=True)
        assert not any("no resolution" in each for each in made.stated)


def test_a_size_of_a_pixel_that_contradicts_the_magnification_of_tiles_is_refused(tmp_path):
    """Patches would have both, and no command would read them."""
    for um, native, shown in ((0.5, None, "20"), (0.25, 20.0, "40"), (0.3, None, "33.3")):
        asked = {"um_per_pixel": um} | ({"native": native} if native else {})
        with pytest.raises(DataError) as error:
            save_patches(tmp_path, tmp_path, tmp_path / "out", cutting=Cutting((10.0,), **asked))
        at, size = native or 40.0, 10 / (native or 40.0)
        assert str(error.value) == (
            f"--um-per-pixel {um:g} means about {shown}X, but --native {at:g} about {size:.3g} µm. "
            f"Give --native {shown}, or correct --um-per-pixel."
        )
