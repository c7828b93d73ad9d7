"""Tables of patches of one's own: each is read right, or refused in one line that says what to do.

The fault is planted in a table that is right.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalecut.data.options import Reading
from scalecut.data.patches import (
    FILE,
    NOMINAL,
    RESOLUTION,
    WHERE,
    check_files,
    checked,
    levels,
    read_table,
)
from scalecut.data.read import read_images
from scalecut.errors import DataError

OF_TRANSFER = ("patch", "tile", "group", "split", "magnification")
OF_PASSPORT = ("patch", "tile", "group")
PLACED = (*RESOLUTION, *WHERE)
HERE = Path("own")
SIDE = 8


def a_table():
    """Two tiles of two patients, each at 40X and 10X, of a scanner with 0.2325 µm per pixel."""
    rows = [
        (f"{tile}-{m}.png", tile, f"P{tile}", part, float(m), 0.2325 * 40 / m, 0, 16)
        for tile, part in (("a", "train"), ("b", "test"))
        for m in (40, 10)
    ]
    names = [*OF_TRANSFER, "um_per_pixel", "x", "y"]
    return pd.DataFrame(rows, columns=names)


def refusal(table, needed=OF_PASSPORT, used=PLACED):
    with pytest.raises(DataError) as error:
        checked(table, HERE, needed, used)
    said = str(error.value)
    assert "\n" not in said and said.startswith("patches.parquet of 'own'")
    return said.removeprefix("patches.parquet of 'own'").lstrip(":").strip()


def at(column, row, value):
    """The table with another value in one cell."""

    def changed(table):
        cells = table[column].astype(object)
        cells.iloc[row] = value
        return table.assign(**{column: cells})

    return changed


def renamed(**names):
    return lambda table: table.rename(columns=names)


# --- resolution ----------------------------------------------------------------------------------


def test_a_right_table_is_left_as_it_is():
    table = a_table()
    for needed in (OF_PASSPORT, OF_TRANSFER):
        pd.testing.assert_frame_equal(
            checked(table, HERE, needed, PLACED), table, check_dtype=False
        )


@pytest.mark.parametrize("needed", [OF_PASSPORT, OF_TRANSFER])
@pytest.mark.parametrize("factor", [2.0, 0.5, 1.3, 1 / 1.3, 10.0])
def test_a_size_and_a_magnification_that_contradict_each_other_are_refused(needed, factor):
    table = at("um_per_pixel", 3, 0.93 * factor)(a_table())
    size = 0.93 * factor
    assert refusal(table, needed) == (
        "1 of 4 patches have a um_per_pixel and a magnification that contradict each other, the "
        f"first is row 4 (b-10.png) with {size:.4g} µm per pixel, about {10 / size:.3g}X, and 10X, "
        "about 1 µm. Correct one of the columns, or remove it."
    )


@pytest.mark.parametrize("size", [0.228, 0.25, 0.265, 0.25 * (1 - NOMINAL) + 1e-9])
def test_sizes_of_scanners_agree_with_their_magnification(size):
    table = a_table().assign(um_per_pixel=[size, 4 * size] * 2)
    assert checked(table, HERE, OF_TRANSFER).magnification.tolist() == [40.0, 10.0] * 2


@pytest.mark.parametrize("column", RESOLUTION)
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (-0.5, "-0.5"), (np.inf, "inf"), ("0.5 um", "'0.5 um'"), ("40X", "'40X'"),
        ("0,5", "'0,5'"), ("1_0", "'1_0'"), ([0.5], "[0.5]"),
    ],
)  # fmt: skip
def test_what_is_no_resolution_is_refused(column, value, shown):
    assert refusal(at(column, 2, value)(a_table())) == (
        f"1 of 4 patches have no usable {column}, the first is row 3 (b-40.png) with {shown}. "
        "Write a number above 0, or leave the cell empty."
    )


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", " ", "n/a", np.float32(np.nan)])
def test_one_of_two_resolutions_may_be_missing_and_numbers_may_be_text(missing):
    table = a_table().assign(um_per_pixel=["0.25", " 1.0", "0.25", "1.0"])
    found = checked(at("um_per_pixel", 1, missing)(table), HERE, OF_TRANSFER)
    np.testing.assert_array_equal(found.um_per_pixel, [0.25, np.nan, 0.25, 1.0])
    said = refusal(at("magnification", 1, missing)(a_table()), OF_TRANSFER)
    assert said == (
        "1 of 4 patches have no magnification, the first is row 2 (a-10.png). Remove them, or give "
        "each its own."
    )


def test_magnifications_follow_from_sizes_where_none_is_given_and_are_few():
    sizes = [0.2501, 0.998, 0.2498, 1.003]  # as scanners have, slide by slide
    bare = a_table().assign(um_per_pixel=sizes).drop(columns="magnification")
    for table in (bare, bare.assign(magnification=np.nan), bare.assign(magnification=None)):
        found = checked(table, HERE, OF_TRANSFER).magnification
        expected = [np.median([10 / sizes[n], 10 / sizes[n + 2]]) for n in (0, 1)] * 2
        np.testing.assert_allclose(found, expected)
    given = a_table().assign(magnification=[10 / size for size in sizes])
    np.testing.assert_allclose(checked(given, HERE, OF_TRANSFER).magnification, expected)


def test_levels_are_medians_of_what_is_nearly_alike():
    sizes, of = levels(np.array([1.0, 0.25, 0.2525, 0.26, 1.04, 0.5, 0.2525]))
    assert sizes.tolist() == [0.2525, 0.5, 1.02]  # 0.26 is less than 5 % from 0.25
    assert of.tolist() == [2, 0, 0, 0, 2, 1, 0]


# --- names of columns ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "other"),
    [
        *[("um_per_pixel", each) for each in (
            "um_per_px", "mpp", "MPP", "UM_per_pixel", "µm per pixel", "um/px", "pixel_size_um",
            "microns_per_pixel", "um_per_pixels", "um_pr_pixel", "Resolution",
        )],
        *[("group", each) for each in ("Group", "GROUP", "groups", "patient", "patient_id", "slide",
                                       "Case ID", "grop")],
        *[("tile", each) for each in ("Tile", "tiles")],
        *[("place", each) for each in ("Place", "places")],
        ("x", "X"),
        ("patch", "Patch"),
    ],
)  # fmt: skip
def test_a_column_that_is_spelt_nearly_right_is_not_ignored(column, other):
    table = a_table() if column != "place" else a_table().assign(place="1")
    said = refusal(table.rename(columns={column: other}))
    assert said == f"has no column {column!r}, but {other!r}. Rename that column."


@pytest.mark.parametrize(
    ("column", "other"),
    [
        *[("magnification", each) for each in ("Magnification", "mag", "magnificaton", "power")],
        *[("split", each) for each in ("Split", "splits", "subset", "part")],
    ],
)
def test_neither_is_one_that_a_transfer_needs(column, other):
    table = a_table().drop(columns="um_per_pixel").rename(columns={column: other})
    said = refusal(table, OF_TRANSFER)
    assert said == f"has no column {column!r}, but {other!r}. Rename that column."


def test_other_columns_do_not_count():
    more = {"mpp": 9.0, "level": 2, "objective": "20x", "slide": "s", "notes": None, "plate": 1}
    table = a_table().assign(**more)
    pd.testing.assert_frame_equal(
        checked(table, HERE, OF_PASSPORT, PLACED), table, check_dtype=False
    )
    bare = table.drop(columns="magnification")  # a power of the objective is not that of the patch
    assert checked(bare, HERE, OF_TRANSFER).magnification.nunique() == 2
    for name in ("X", "Place"):  # coordinates do not count where there are places
        checked(table.assign(place=1).rename(columns={"x": name}), HERE, OF_PASSPORT, PLACED)


def test_names_may_have_spaces_around_them_and_columns_may_be_an_index():
    table = a_table().rename(columns={"group": " group "})
    pd.testing.assert_frame_equal(checked(table, HERE, OF_TRANSFER), a_table())
    pd.testing.assert_frame_equal(
        checked(a_table().set_index("patch"), HERE, OF_TRANSFER), a_table()
    )
    both = a_table().assign(**{"group ": "p"})
    assert refusal(both) == "has two columns 'group'. Keep one, or rename the other."
    both = a_table().drop(columns="group").assign(patient="p", slide="s")
    assert refusal(both) == "has no column 'group', but 'patient' and 'slide'. Rename one of them."


def test_a_missing_column_and_missing_rows_are_named():
    assert refusal(a_table().drop(columns="tile")) == (
        "lacks the column 'tile'. Add it, or cut the patches again with `scalecut patches`."
    )
    assert refusal(a_table().head(0)).startswith("has no rows. Cut the patches again")


# --- patients and places -------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["group", "tile", "place"])
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", " ", "nan", "None", "NA"])
def test_no_patch_is_without_a_patient_tile_or_place(column, missing):
    table = at(column, 1, missing)(a_table().assign(place="1"))
    assert refusal(table).startswith(
        f"1 of 4 patches have no {column}, the first is row 2 (a-10.png)"
    )


@pytest.mark.parametrize("value", [None, np.nan, "left", np.inf])
def test_corners_are_numbers(value):
    said = refusal(at("y", 0, value)(a_table()))
    assert said.startswith("1 of 4 patches have no usable y, the first is row 1 (a-40.png) with")
    assert said.endswith("Write a number.")


@pytest.mark.parametrize(("one", "other"), [("Pa", "pa"), ("P a", "P  a")])
def test_a_patient_is_spelt_in_one_way(one, other):
    table = a_table().assign(group=[one, one, other, other])
    assert refusal(table) == (
        f"the column 'group' has {one!r} and {other!r}, which may be one patient or two. Spell "
        "them alike, or so that they differ in more than case and spaces."
    )
    spaced = a_table().assign(group=["P", "P ", " Q", "Q"])
    assert checked(spaced, HERE, OF_PASSPORT).group.tolist() == ["P", "P", "Q", "Q"]
    decomposed = a_table().assign(group=["\u00e4", "a\u0308", "Q", "Q"], tile=list("aabb"))
    assert checked(decomposed, HERE, OF_PASSPORT).group.tolist() == ["\u00e4", "\u00e4", "Q", "Q"]


def test_patients_may_be_numbers_and_categories():
    table = a_table().assign(group=[1, 1, 2, 2], tile=pd.Categorical([7, 7, 9, 9]))
    found = checked(table, HERE, OF_PASSPORT)
    assert (found.group.tolist(), found.tile.tolist()) == (list("1122"), list("7799"))


def test_a_tile_is_of_one_patient():
    said = refusal(a_table().assign(tile="1"))
    assert said == (
        "the tile 1 is of the patients Pa and Pb. Give tiles of different patients different "
        "names, or correct the column group."
    )


# --- files ---------------------------------------------------------------------------------------


@dataclass
class Folder:
    path: Path

    def write(self, table, sizes=()):
        for number, name in enumerate(table.patch):
            height, width = dict(enumerate(sizes)).get(number, (SIDE, SIDE))
            pixels = np.full((height, width, 3), 40 * number, dtype=np.uint8)
            pixels[0] = 255
            PIL.Image.fromarray(pixels).save(self.path / name)
        table.to_parquet(self.path / "patches.parquet", index=False)
        return table

    def refusal(self, table):
        with pytest.raises(DataError) as error:
            check_files(table, self.path)
        return str(error.value).removeprefix(f"patches.parquet of {str(self.path)!r}: ")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_one_file_has_one_row_by_whatever_name(folder):
    table = folder.write(a_table())
    assert check_files(table, folder.path) == SIDE
    (folder.path / "link.png").symlink_to("a-40.png")
    for other in ("./a-40.png", str(folder.path / "a-40.png"), "link.png"):
        twice = at("patch", 1, other)(table)
        assert folder.refusal(twice) == (
            f"a-40.png and {other} are one file. Keep one row of each patch."
        )
    twice = at("patch", 1, "a-40.png ")(table)
    assert refusal(twice) == "has 1 patches twice, the first is a-40.png. Keep one row of each."


def test_patches_are_squares_of_one_size(folder):
    table = folder.write(a_table(), [(8, 8), (8, 8), (16, 16)])
    assert folder.refusal(table) == (
        "a-40.png has 8 x 8 px, but b-40.png has 16 x 16 px. Networks are shown both at one size, "
        "which changes the resolution. Save all patches with the same number of pixels."
    )
    table = folder.write(a_table(), [(8, 9)] * 4)
    assert folder.refusal(table) == (
        "a-40.png has 9 x 8 px. Cut patches that are squares, as networks are shown."
    )


def test_files_that_cannot_be_read_are_left_to_where_they_are_read(folder):
    table = folder.write(a_table())
    (folder.path / "a-40.png").write_bytes(b"no image")
    (folder.path / "b-10.png").unlink()
    assert check_files(table, folder.path) == SIDE
    assert check_files(table.iloc[:1], folder.path) == 0


# --- as data of a probe --------------------------------------------------------------------------


def test_a_probe_reads_what_a_passport_reads_and_refuses_what_it_refuses(folder):
    table = folder.write(a_table())
    spec = f"patches:{folder.path}"
    found = read_images(spec)
    assert sorted(found.measure) == sorted(table.um_per_pixel)
    assert sorted(found.group) == sorted(table["group"])
    for change, said in (
        (at("magnification", 0, 20.0), "contradict each other, the first is row 1 (a-40.png)"),
        (at("um_per_pixel", 0, -1.0), "no usable um_per_pixel, the first is row 1"),
        (renamed(group="Group"), "has no column 'group', but 'Group'. Rename that column."),
        (renamed(um_per_pixel="mpp"), "has no column 'um_per_pixel', but 'mpp'. Rename"),
    ):
        change(table).to_parquet(folder.path / "patches.parquet", index=False)
        with pytest.raises(DataError) as error:
            read_images(spec)
        assert said in str(error.value)
    renamed(group="Group")(table).to_parquet(folder.path / "patches.parquet", index=False)
    assert len(set(read_images(spec, reading=Reading(no_groups=True)).group)) == 4


def test_a_column_called_image_is_not_the_patch(folder):
    table = folder.write(a_table())
    table.assign(image="slide.svs").to_parquet(folder.path / FILE, index=False)
    found = read_images(f"patches:{folder.path}")
    assert sorted(image.name for image in found.images) == sorted(table.patch)


def test_a_table_with_text_that_is_none_is_refused(tmp_path):
    offsets = pa.py_buffer(np.array([0, 3, 5], np.int32).tobytes())
    text = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a\xff\xfeb."))
    pq.write_table(pa.table({"patch": text, "magnification": [1.0, 2.0]}), tmp_path / FILE)
    with pytest.raises(DataError, match=r"cannot be read \(its contents are broken"):
        read_table(tmp_path, ("patch",))
