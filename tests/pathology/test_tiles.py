"""Folders of drawn tiles and masks; what must be found in them is known because it was drawn."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from scalecut.data.images import Image
from scalecut.data.masks import MaskRule
from scalecut.data.outlines import Tally
from scalecut.errors import DataError
from scalecut.pathology.nuclei import nuclei_of
from scalecut.pathology.slides import opened_field
from scalecut.pathology.tiles import PARTS, Tile, by_tile, find_tiles, read, read_split, split


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def folders(tmp_path):
    for name in ("tiles", "masks"):
        (tmp_path / name).mkdir()
    return tmp_path / "tiles", tmp_path / "masks"


def discs(n=9, side=60, radius=6):
    """The numbers of n discs on a grid, 0 between them."""
    y, x = np.mgrid[:side, :side] + 0.5
    drawn, per_row = np.zeros((side, side), dtype=np.uint16), int(np.ceil(np.sqrt(n)))
    for number in range(n):
        row, column = ((np.array(divmod(number, per_row)) + 0.5) * side / per_row).tolist()
        drawn[(y - row) ** 2 + (x - column) ** 2 < radius**2] = number + 1
    return drawn


def photograph(side=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(path, pixels, **options):
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    image.save(path, **options)
    return path


def binary(labels=None):
    return np.where(discs() if labels is None else labels, 255, 0).astype(np.uint8)


def tile(name, group):
    """One without files: the split looks at names and groups only."""
    return Tile(name, Path(f"{name}.png"), Path(f"{name}_mask.png"), group, MaskRule())


def test_tiles_of_janowczyk_and_madabhushi_are_paired_in_one_folder_and_grouped_by_case(tmp_path):
    for name in ("8863_500_f00003", "8863_500_f00021", "C_12_500_f00001"):
        save(tmp_path / f"{name}_original.tif", photograph())
        save(tmp_path / f"{name}_mask.png", binary())
    found, left_out = find_tiles(tmp_path, tmp_path)
    assert left_out == ()
    assert [(each.name, each.group) for each in found] == [
        ("8863_500_f00003", "8863"),
        ("8863_500_f00021", "8863"),
        ("C_12_500_f00001", "C_12"),
    ]
    assert found[0].image == tmp_path / "8863_500_f00003_original.tif"
    assert found[0].mask == tmp_path / "8863_500_f00003_mask.png"


def test_samples_of_one_tcga_case_are_one_group_and_other_names_their_own(folders):
    names = ["TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592-01A-01-TS1", "TCGA-38-6178-01Z", "mouse 7"]
    for name in names:
        save(folders[0] / f"{name}.jpg", photograph())
        save(folders[1] / f"{name}.png", discs())
    found, _ = find_tiles(*folders)
    groups = {each.name: each.group for each in found}
    assert groups == dict(
        zip(names, ["TCGA-18-5592", "TCGA-18-5592", "TCGA-38-6178", "mouse 7"], strict=True)
    )


def test_masks_of_a_folder_are_understood_together(folders):
    for name, labels in (("a", discs()), ("b", discs(4)), ("empty", 0 * discs())):
        save(folders[0] / f"{name}.png", photograph())
        save(folders[1] / f"{name}.png", labels)
    found, left_out = find_tiles(*folders)
    assert [each.name for each in found] == ["a", "b"]
    assert [(each.name, each.reason) for each in left_out] == [
        ("empty.png", "its mask empty.png: it marks nothing; mark the nuclei")
    ]
    for each, labels in zip(found, (discs(), discs(4)), strict=True):
        np.testing.assert_array_equal(read(each)[1], labels)
    found, _ = find_tiles(*folders, mask_kind="binary")
    np.testing.assert_array_equal(read(found[0])[1], discs() > 0)
    (folders[1] / "empty.png").unlink()
    for name in "ab":
        save(folders[1] / f"{name}.png", 255 - binary())
    with pytest.raises(DataError, match=r"as in inverted masks\. Choose --background 255 if"):
        find_tiles(*folders)
    found, _ = find_tiles(*folders, background="255")
    np.testing.assert_array_equal(read(found[0])[1], discs() > 0)


def test_read_gives_the_image_and_its_mask(folders):
    save(folders[0] / "a.png", photograph())
    save(folders[1] / "a.png", discs())
    (found,), _ = find_tiles(*folders)
    pixels, marks = read(found)
    np.testing.assert_array_equal(pixels, photograph())
    np.testing.assert_array_equal(marks, discs())


def outlines(*rings, form="Polygon"):
    """GeoJSON of QuPath: one nucleus for each ring of corners x, y."""
    features = [
        {"type": "Feature", "geometry": {"type": form, "coordinates": each}, "properties": {}}
        for each in rings
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def test_objects_of_qupath_that_overlap_or_have_no_area_are_stated(folders):
    for name in ("a", "b", "c", "d"):
        save(folders[0] / f"{name}.png", photograph())
    square = [[2, 2], [9, 2], [9, 9], [2, 9]]
    over = [[6, 6], [12, 6], [12, 12], [6, 12]]
    outside = [[50, 50], [70, 50], [70, 70]]
    (folders[1] / "a_mask.geojson").write_text(outlines([square], [over]))
    (folders[1] / "b_original.GeoJSON").write_text(outlines([outside]))  # the name of the tile
    (folders[1] / "c.geojson").write_text(outlines([1, 1], form="Point"))
    save(folders[1] / "d.png", discs())
    (a, d), left_out = find_tiles(*folders)
    labels = read(a)[1]
    assert np.bincount(labels.ravel())[1:].tolist() == [7 * 7 - 3 * 3, 6 * 6]
    assert labels[7, 7] == 2
    np.testing.assert_array_equal(read(d)[1], discs())
    assert a.said == (
        "1 outlines overlap others, and a pixel belongs to the last",
        "1 shapes of the type Point have no area, and do not count",
        "outlines of GeoJSON are in pixels of their image, since its format has no other unit",
    )
    assert {item.name: item.reason for item in left_out} == {
        "b.png": "its mask b_original.GeoJSON: its outline reaches from 50, 50 to 70, 70, outside "
        "the image of 60 x 60; give the image that it was drawn on",
        "c.png": "its mask c.geojson: it has no polygon",
    }


def test_nuclei_of_cells_of_qupath_are_measured_and_that_is_stated(folders):
    nucleus = json.loads(outlines([[[10, 10], [20, 10], [20, 20], [10, 20]]]))["features"][0]
    about = {**nucleus, "nucleusGeometry": nucleus["geometry"]}
    about["geometry"] = {**nucleus["geometry"], "coordinates": [[[2, 2], [50, 2], [50, 50]]]}
    save(folders[0] / "a_original.png", photograph())
    (folders[1] / "a_mask.geojson").write_text(json.dumps([about]))
    (found,), left_out = find_tiles(*folders)
    assert (read(found)[1].sum(), left_out) == (100, ())
    assert found.said == (
        "1 cells are measured by the outlines of their nuclei",
        "outlines of GeoJSON are in pixels of their image, since its format has no other unit",
    )
    with pytest.raises(DataError, match=r"Assumed: 1 cells are measured .* \(--strict assumes"):
        find_tiles(*folders, strict=True)
    (found,), _ = find_tiles(*folders, strict=True, confirm=("nuclei",))
    assert "1 cells are measured by the outlines of their nuclei, as confirmed" in found.said


def test_what_is_left_out_on_purpose_is_not_read_but_listed(folders):
    """Neither a broken tile, nor masks whose values have another meaning, nor a mask alone."""
    for name in ("a", "odd 1", "odd 2"):
        save(folders[0] / f"{name}.png", photograph())
        save(folders[1] / f"{name}.png", discs() if name == "a" else 255 - binary())
    (folders[0] / "odd 2.png").write_text("no image")
    save(folders[1] / "odd 3.png", binary())
    (found,), left_out = find_tiles(*folders, leave_out=["odd"], strict=True)
    assert (found.name, found.rule.kind) == ("a", "instances")
    assert {item.name: item.reason for item in left_out} == dict.fromkeys(
        ("odd 1.png", "odd 2.png", "odd 3.png"), "--leave-out names it, as asked"
    )
    with pytest.raises(DataError, match=r"^--leave-out a,odd skips every tile\. Skip fewer\.$"):
        find_tiles(*folders, leave_out=["a", "odd"])
    with pytest.raises(DataError, match=r"^--leave-out 'add' is in no name of a tile\."):
        find_tiles(*folders, leave_out=["odd", "add"])


def turn(orientation):
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return {"exif": tags}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(("sort", "side"), [("outlines", 40), ("outlines", 60), ("marks", 60)])
def test_marks_that_could_be_drawn_before_exif_turns_the_tile_or_after_are_refused(
    folders, orientation, sort, side
):
    tile, mask = folders[0] / "a.png", folders[1] / f"a.{'png' if sort == 'marks' else 'geojson'}"
    save(tile, photograph()[:side], **turn(orientation))
    if sort == "marks":
        save(mask, discs()[:side])
    else:
        mask.write_text(outlines([[[2, 2], [9, 2], [9, 9]]]))
    reason = f"EXIF orientation {orientation} turns its tile, and {sort} could be drawn before or "
    with pytest.raises(DataError, match=reason + "after; save the tile upright"):
        find_tiles(*folders)
    with opened_field(Image("a", tile)) as field, pytest.raises(DataError, match=reason):
        nuclei_of(mask, MaskRule("instances"), field, Tally())


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_mask_whose_shape_says_so_is_turned_with_its_tile(folders, orientation):
    """As Pillow turns a copy of it that has the same tag."""
    drawn = discs().astype(np.uint8)[:40]
    tile = save(folders[0] / "a.png", photograph()[:40], **turn(orientation))
    tagged = Image("m", save(folders[0].parent / "m.png", drawn, **turn(orientation)))
    upright = np.asarray(tagged.decode())[..., 0]
    for before_or_after in (drawn, upright):
        save(folders[1] / "a_mask.png", before_or_after)
        (found,), _ = find_tiles(*folders)
        np.testing.assert_array_equal(read(found)[1], upright)
        with opened_field(Image("a", tile)) as field:
            nuclei = nuclei_of(found.mask, found.rule, field, Tally())
        np.testing.assert_array_equal(nuclei.window((3, 5), 30), upright[5:35, 3:33])


def test_a_mask_that_exif_turns_in_another_way_than_its_tile_is_refused(folders):
    save(folders[0] / "a.png", photograph())
    save(folders[1] / "a.png", discs(), **turn(3))
    with pytest.raises(DataError, match="its EXIF orientation is 3, and that of its image 1; save"):
        find_tiles(*folders)


def test_what_cannot_be_used_is_skipped_and_listed(folders):
    tiles, masks = folders
    for name in ("good", "large", "torn", "torn mask", "double", "lonely"):
        save(tiles / f"{name}.png", photograph())
        if name != "lonely":
            save(masks / f"{name}.png", discs())
    save(masks / "forgotten.png", discs())
    save(masks / "large.png", discs(side=90))
    save(tiles / "double_original.tif", photograph())
    (tiles / "notes.txt").write_text("not an image")
    (tiles / "._good.png").write_bytes(b"what another system leaves behind")
    for path in (tiles / "torn.png", masks / "torn mask.png"):
        path.write_bytes(path.read_bytes()[:80])
    found, left_out = find_tiles(tiles, masks)
    assert [each.name for each in found] == ["good"]
    reasons = {item.name: item.reason for item in left_out}
    torn = "it is truncated or broken ("
    assert reasons.pop("torn.png").startswith(torn)
    assert reasons.pop("torn mask.png").startswith(f"its mask torn mask.png: {torn}")
    assert reasons == {
        "double.png": "there are 2 files of this name (double.png, double_original.tif); keep one",
        "forgotten.png": "there is no tile of this name; add it, or remove the mask",
        "large.png": "it has 60 x 60 pixels, its mask 90 x 90; give a mask of the same size",
        "lonely.png": (
            "there is no mask of this name (lonely.png, lonely_mask.png or similar); add it"
        ),
    }


NARROW = discs() + np.uint16(100)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (NARROW, "its 16-bit values reach from 100 to 109, which does not say what is black and "
         "white; save it with 8 bits, grey or RGB"),
        (np.stack([binary()] * 4, axis=-1), "it has 4 channels, which may be bands or stains as "
         "well as colours; save it with 8 bits, grey or RGB"),
        (np.stack([binary()] * 2), "it has 2 pages; save one page of it"),
    ],
    ids=["deep", "bands", "pages"],
)  # fmt: skip
def test_tiles_that_are_not_clear_are_skipped_with_advice_that_holds_here(folders, values, reason):
    tiles, masks = folders
    for name in ("a", "good"):
        save(masks / f"{name}.png", discs())
    save(tiles / "good.png", photograph())
    order = "contig" if values.shape[-1] == 4 else None
    tifffile.imwrite(tiles / "a.tif", values, photometric="minisblack", planarconfig=order)
    _, (left_out,) = find_tiles(tiles, masks)
    assert (left_out.name, left_out.reason) == ("a.tif", reason)


def test_a_mask_of_several_pages_is_refused_with_advice_that_holds_here(folders):
    tiles, masks = folders
    save(tiles / "a.png", photograph())
    tifffile.imwrite(masks / "a.tif", np.stack([discs()] * 2))
    with pytest.raises(DataError, match=r"^a\.tif: it has 2 pages; save one page of it\.$"):
        find_tiles(tiles, masks)


def test_strict_refuses_tiles_that_are_skipped_and_what_is_assumed(folders):
    tiles, masks = folders
    kinds = np.array([0, *(1 + n % 3 for n in range(9))], np.uint8)
    for name in "ab":
        save(tiles / f"{name}.png", photograph())
        save(masks / f"{name}.png", kinds[discs()])
    (assumed,) = find_tiles(tiles, masks)[0][0].said
    with pytest.raises(DataError) as error:
        find_tiles(tiles, masks, strict=True)
    assert str(error.value) == (
        f"Assumed: {assumed} (--strict assumes nothing; if it is right, give --mask-kind classes)."
    )
    assert len(find_tiles(tiles, masks, mask_kind="classes", strict=True)[0]) == 2
    (masks / "b.png").unlink()
    with pytest.raises(DataError, match=r"^b\.png: there is no mask .* \(--strict skips nothing"):
        find_tiles(tiles, masks, mask_kind="classes", strict=True)


def random_tiles(seed):
    """Between 3 and 30 patients, each with one to nine tiles, in no order."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, rng.integers(3, 31))
    drawn = [tile(f"{g}-{k}", f"p{g}") for g, size in enumerate(sizes) for k in range(size)]
    return [drawn[place] for place in rng.permutation(len(drawn))]


def test_no_patient_is_in_two_parts_of_a_split():
    for seed in range(50):
        tiles = random_tiles(seed)
        parts = split(tiles, seed=seed)
        assert parts.keys() == {each.name for each in tiles}
        sides = {t.group: {parts[u.name] for u in tiles if u.group == t.group} for t in tiles}
        assert all(len(side) == 1 for side in sides.values())
        n = Counter(side for (side,) in sides.values())
        assert set(n) == set(PARTS)
        for part, share in zip(PARTS, (0.6, 0.2, 0.2), strict=True):
            assert abs(n[part] - share * len(sides)) <= 1  # groups come whole


def test_a_split_follows_from_its_seed_alone():
    tiles = random_tiles(7)
    assert split(tiles, seed=1) == split(tiles[::-1], seed=1)
    assert split(tiles, seed=1) != split(tiles, seed=2)


def test_shares_may_leave_out_validation():
    tiles = [tile(str(n), str(n)) for n in range(10)]
    parts = split(tiles, seed=0, shares=(0.7, 0.0, 0.3))
    assert Counter(parts.values()) == {"train": 7, "test": 3}


def test_every_part_with_a_share_has_a_patient():
    for n in range(3, 12):
        tiles = [tile(str(number), str(number)) for number in range(n)]
        for shares in ((0.98, 0.01, 0.01), (0.01, 0.5, 0.49), (0.1, 0.1, 0.8)):
            assert set(split(tiles, seed=0, shares=shares).values()) == set(PARTS)


@pytest.fixture
def table(tmp_path):
    def written(text):
        (tmp_path / "images.csv").write_text(text)
        return tmp_path / "images.csv"

    return written


def cells(file, column, *tiles):
    paths = {f"{each.name}.png": each.name for each in tiles}
    return by_tile(read_split(file), column, paths, file=file, place=Path("tiles"))


def test_a_table_gives_the_split_by_names_with_ending_or_without(table):
    file = table(
        "image,split,breast\nTCGA-18-5592-01Z-00-DX1,train,0\nb.v2.png,test,1\n"
        "8863_500_f00003_original.tif,validation,1\nnot there,test,0\n"
    )
    tiles = [
        tile("TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592"),
        tile("b.v2", "b"),
        tile("8863_500_f00003", "8863"),
    ]
    assert split(tiles, seed=0, given=cells(file, "split", *tiles)) == {
        "TCGA-18-5592-01Z-00-DX1": "train",
        "b.v2": "test",
        "8863_500_f00003": "validation",
    }


def test_a_table_may_name_patients(table):
    file = table("image,split,patient\na.png,train,one\nb.png,test, two\n")
    tiles = tile("a", "a"), tile("b", "b")
    assert cells(file, "patient", *tiles) == {"a": "one", "b": "two"}
    assert cells(file, "split", *tiles) == {"a": "train", "b": "test"}
    assert cells(table("image,split\na,train\n"), "patient", *tiles) == {}


A, A2, B = tile("a", "p"), tile("a2", "p"), tile("b", "q")


def of_shares(*shares):
    return lambda here: split([A], seed=0, shares=shares)


def of_given(*tiles, **given):
    return lambda here: split(tiles, seed=0, given=given)


def of_table(text):
    def call(here):
        (here / "images.csv").write_text(text)
        cells(here / "images.csv", "split", A, B)

    return call


NOT_SHARES = (
    "Shares of {} cannot split the patients. Give those of train, validation and test; they add up "
    "to 1, and only that of validation may be 0."
)
NOT_A_PART = "Give one of train, validation, test for each tile."
SUFFIXES = "(.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp, .geojson)"
# fmt: off
REFUSED = [
    (of_shares(0.8, 0.2, 0.0), NOT_SHARES.format("0.8, 0.2, 0")),
    (of_shares(0.0, 0.5, 0.5), NOT_SHARES.format("0, 0.5, 0.5")),
    (of_shares(0.6, 0.2, 0.3), NOT_SHARES.format("0.6, 0.2, 0.3")),
    (of_shares(1.2, -0.4, 0.2), NOT_SHARES.format("1.2, -0.4, 0.2")),
    (lambda here: split([tile(str(n), "ab"[n % 2]) for n in range(20)], seed=0),
     "There are tiles of 2 patients for 3 parts. Give tiles of at least 3 patients."),
    (of_given(A, B, a="train", b="dev"),
     f"The tile 'b' has the part 'dev' in the given split. {NOT_A_PART}"),
    (of_given(A, B, a="train"), f"The tile 'b' has no part in the given split. {NOT_A_PART}"),
    (of_given(A, B, A2, a="train", b="test", a2="test"),
     "The patient 'p' is in train (a) and in test (a2). Keep all tiles of a patient in one part."),
    (of_given(A, B, a="train", b="validation"),
     "None of the 2 tiles is in test, so nothing can be tested. Put some patients into test."),
    (of_given(A, B, a="test", b="validation"),
     "None of the 2 tiles is in train, so nothing can be fitted. Put some patients into train."),
    (of_table("image,part\na,train\n"),
     "{here}/images.csv has no column 'split'; its columns are 'image', 'part'. Give image and "
     "split, optionally patient."),
    (of_table("image,split\n"),
     "{here}/images.csv has no rows; its columns are 'image', 'split'. Give image and split, "
     "optionally patient."),
    (of_table("image,split\na,train\na.png,test\n"),
     "{here}/images.csv names the tile 'a' twice. Keep one row per tile."),
    (of_table(""),
     "{here}/images.csv is not a table (No columns to parse from file). Give a CSV file with the "
     "columns image and split."),
    (lambda here: find_tiles(here / "none", here / "masks"),
     "There is no folder {here}/none. Give the folder of the tiles."),
    (lambda here: find_tiles(here / "tiles", here / "none"),
     "There is no folder {here}/none. Give the folder of the masks."),
    (lambda here: find_tiles(here / "tiles", here / "empty"),
     "{here}/empty holds no image. Give the folder of the masks " + SUFFIXES + "."),
    (lambda here: find_tiles(here / "tiles", here / "arrays"),
     "{here}/arrays has no image; a.mat is an array; save each image as TIFF with tifffile, or "
     "give scalecut.make_image_set arrays."),
    (lambda here: find_tiles(here / "tiles", here / "tiles"),
     "{here}/tiles holds no image whose name ends in _mask. Give the folder of the masks "
     + SUFFIXES + "."),
    (lambda here: find_tiles(here / "tiles", here / "masks"),
     "None of the tiles of {here}/tiles can be used. 2 were skipped, the first is a.png: there is "
     "no mask of this name (a.png, a_mask.png or similar); add it."),
]
# fmt: on


def test_what_cannot_be_used_is_refused_in_one_line(folders, tmp_path):
    save(folders[0] / "a.png", photograph())
    save(folders[1] / "b.png", discs())
    (tmp_path / "empty").mkdir()
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    for call, expected in REFUSED:
        with pytest.raises(DataError) as error:
            call(tmp_path)
        assert str(error.value) == expected.replace("{here}", str(tmp_path))
