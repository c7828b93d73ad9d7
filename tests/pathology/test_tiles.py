"""Folders of drawn tiles and masks; what must be found in them is known because it was drawn."""

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from scalecut.errors import DataError
from scalecut.pathology.tiles import PARTS, Tile, find_tiles, read, read_mask, read_split, split


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
    return Tile(name, Path(f"{name}.png"), Path(f"{name}_mask.png"), group)


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


def test_size_of_a_pixel_is_that_of_the_tags_of_a_tiff(folders):
    cases = [
        ({"dpi": (101600, 101600)}, 0.25),  # 25,400 µm per inch
        ({"resolution": 40000, "resolution_unit": "cm"}, 0.25),  # 10,000 µm per centimetre
        ({"dpi": (300, 300)}, None),  # of a printer
        ({"dpi": (101600, 50800)}, None),  # not square
        ({"dpi": (0, 0)}, None),
        ({}, None),
    ]
    save(folders[1] / "a.png", discs())
    for tags, expected in cases:
        save(folders[0] / "a.tif", photograph(), **tags)
        (found,), _ = find_tiles(*folders)
        assert found.um_per_pixel == (expected and pytest.approx(expected)), tags


def test_a_mask_with_a_level_or_colour_for_each_nucleus_keeps_them_apart(tmp_path):
    drawn = discs()
    drawn[:, 31:] = np.where(drawn[:, 31:], drawn[:, 31:] + 20, 0)  # halves that touch
    colours = np.stack([drawn * 5 % 251, drawn * 7 % 241, 0 * drawn], -1).astype(np.uint8)
    for number, (pixels, suffix) in enumerate(
        [(drawn, "png"), (drawn, "tif"), (drawn.astype(np.uint8), "bmp"), (colours, "png")]
    ):
        labels = read_mask(save(tmp_path / f"{number}.{suffix}", pixels))
        assert labels.dtype != bool
        np.testing.assert_array_equal(labels == 0, drawn == 0)
        pairs = {(a, b) for a, b in zip(drawn[drawn > 0], labels[drawn > 0], strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert sorted(b for _, b in pairs) == list(range(1, len(pairs) + 1))


def test_a_nucleus_in_two_pieces_has_one_number(tmp_path):
    drawn = discs()
    drawn[10] = 0  # cuts through the discs of the first row
    labels = read_mask(save(tmp_path / "a.png", drawn))
    np.testing.assert_array_equal(labels, drawn)


def masks_with_two_levels():
    soft = np.asarray(PIL.Image.fromarray(binary(discs(side=240, radius=24))).resize((60, 60)))
    red, palette = np.zeros((60, 60, 3), np.uint8), PIL.Image.fromarray(binary() // 255, "P")
    red[..., 0] = binary()
    palette.putpalette([0, 0, 0, 90, 200, 30])
    return {
        "0 and 255": ("png", binary(), {}),
        "0 and 1": ("png", binary() // 255, {}),
        "one bit": ("png", PIL.Image.fromarray(binary()).convert("1"), {}),
        "shades at edges": ("png", soft, {}),
        "grey as colour": ("tif", np.stack([soft] * 3, -1), {}),
        "with alpha": ("png", np.stack([*[binary()] * 3, 0 * binary() + 255], -1), {}),
        "losses of jpeg": ("jpg", binary(), {"quality": 75}),
        "red on black": ("png", red, {}),
        "blue on black": ("png", red[..., ::-1], {}),
        "a palette": ("png", palette, {}),
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_a_mask_of_two_levels_is_true_where_nuclei_are(tmp_path):
    for kind, (suffix, pixels, options) in masks_with_two_levels().items():
        marks = read_mask(save(tmp_path / f"{kind}.{suffix}", pixels, **options))
        assert marks.dtype == bool
        wrong = np.count_nonzero(marks != (discs() > 0))
        is_soft = kind in ("shades at edges", "grey as colour", "losses of jpeg")
        assert wrong <= (60 if is_soft else 0), kind


def test_a_photograph_is_no_mask_whatever_it_shows(tmp_path, rng):
    smooth = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((60, 60))
    bright = np.clip(np.asarray(smooth) // 8 + 220, 0, 255).astype(np.uint8)  # pale tissue
    ramp = np.arange(3600).reshape(60, 60).astype(np.uint16)
    few_levels = np.add.outer(np.arange(60) % 4, np.arange(60) % 2).astype(np.uint8) * 50
    grey = photograph()[..., 0], smooth.convert("L")
    for pixels in (photograph(), smooth, bright, *grey, ramp, few_levels):
        with pytest.raises(
            DataError,
            match=r"^it has \d+ levels in \d+ regions, like a photograph; give a mask with two "
            r"levels, or with one level per nucleus$",
        ):
            read_mask(save(tmp_path / "a.png", pixels))


def test_read_gives_the_image_and_its_mask(folders):
    save(folders[0] / "a.png", photograph())
    save(folders[1] / "a.png", discs())
    (found,), _ = find_tiles(*folders)
    pixels, marks = read(found)
    np.testing.assert_array_equal(pixels, photograph())
    np.testing.assert_array_equal(marks, discs())


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
    assert split(tiles, seed=0, given=read_split(file)) == {
        "TCGA-18-5592-01Z-00-DX1": "train",
        "b.v2": "test",
        "8863_500_f00003": "validation",
    }


A, A2, B = tile("a", "p"), tile("a2", "p"), tile("b", "q")


def of_shares(*shares):
    return lambda here: split([A], seed=0, shares=shares)


def of_given(*tiles, **given):
    return lambda here: split(tiles, seed=0, given=given)


def of_table(text):
    def call(here):
        (here / "images.csv").write_text(text)
        read_split(here / "images.csv")

    return call


def of_masks(pixels):
    return lambda here: read_mask(save(here / "a.png", pixels))


NOT_SHARES = (
    "Shares of {} cannot split the patients. Give those of train, validation and test; they add up "
    "to 1, and only that of validation may be 0."
)
NOT_A_PART = "Give one of train, validation, test for each tile."
SUFFIXES = "(.bmp, .jpeg, .jpg, .png, .tif, .tiff)"
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
     "split."),
    (of_table("image,split\n"),
     "{here}/images.csv has no rows; its columns are 'image', 'split'. Give image and split."),
    (of_table("image,split\na,train\na.png,test\n"),
     "{here}/images.csv names the tile 'a' twice. Keep one row per tile."),
    (of_table(""),
     "{here}/images.csv is not a table (No columns to parse from file). Give a CSV file with the "
     "columns image and split."),
    (of_masks(np.zeros((60, 60), np.uint8)),
     "it has a single level, so it marks nothing; mark the nuclei"),
    (lambda here: find_tiles(here / "none", here / "masks"),
     "There is no folder {here}/none. Give the folder of the tiles."),
    (lambda here: find_tiles(here / "tiles", here / "none"),
     "There is no folder {here}/none. Give the folder of the masks."),
    (lambda here: find_tiles(here / "tiles", here / "empty"),
     "{here}/empty holds no image. Give the folder of the masks " + SUFFIXES + "."),
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
    for call, expected in REFUSED:
        with pytest.raises(DataError) as error:
            call(tmp_path)
        assert str(error.value) == expected.replace("{here}", str(tmp_path))
