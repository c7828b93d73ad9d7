"""Groups are counted by hand, and copies of one file never part."""

import shutil

import pytest

from tests.data.layouts import EDGE, add_voc, draw, names, packed, read, said, skipped


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))


def table(folder, column, values=("p1", "p1", "p2", "p2")):
    """A table whose images are of two patients; its specification."""
    lines = [f"image,measure,{column}" if column else "image,measure"]
    for number, value in enumerate(values):
        draw(folder / f"{value}_{number}.png")
        lines.append(f"{value}_{number}.png,{number}" + (f",{value}" if column else ""))
    (folder / "t.csv").write_text("\n".join(lines))
    return f"csv:{folder}/t.csv"


def shard(folder, key, values=("p1", "p1", "p2", "p2"), **more):
    """A shard of the same images, each with a .json of that key; its specification."""
    members = []
    for number, value in enumerate(values):
        file = folder / f"p{1 + number // 2}_{number}.png"
        draw(file)
        about = {"measure": number, **({key: value} if value is not None else {}), **more}
        members += [(file.name, file.read_bytes()), (f"{file.stem}.json", about)]
    return f"tar:{packed(folder / 't.tar', members)}"


NEAR = ["Group", "patient_id", "Slide", "case ID", "subjects", "lesion_id",
        "StudyInstanceUID", "Patienten-ID", "paciente", "患者番号"]  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
def test_column_that_seems_to_be_the_group_is_refused(tmp_path, name):
    spec = table(tmp_path, name)
    assert said(read, spec) == (
        f"{tmp_path}/t.csv has no column 'group', but {name!r}, of 2 different values in 4 rows. "
        f"Choose --group {name!r} to keep images of one value together, or --no-groups."
    )
    assert read(spec, group=name).group == ("p1", "p1", "p2", "p2")
    assert len(set(read(spec, no_groups=True).group)) == 4
    assert read(spec, group_from_name="^(p.)_").group == ("p1", "p1", "p2", "p2")


@pytest.mark.parametrize("values", [("p1", "p1", "p2", "p2"), (1, 1, 2, 2)])
@pytest.mark.parametrize("name", NEAR)
def test_key_that_seems_to_be_the_group_is_refused(tmp_path, name, values):
    spec = shard(tmp_path, name, values)
    assert said(read, spec) == (
        f"{tmp_path}/t.tar has no key 'group', but {name!r}, of 2 different values in 4 rows. "
        f"Choose --group {name!r} to keep images of one value together, or --no-groups."
    )
    images = read(spec, group=name)
    assert images.group == tuple(map(str, values))
    assert images.facts["groups_by"] == f"the key {name}"
    assert len(set(read(spec, no_groups=True).group)) == 4
    assert read(spec, group_from_name="(p.)_").group == ("p1", "p1", "p2", "p2")


@pytest.mark.parametrize("name", ["Subset", "SUBSET"])
def test_column_that_seems_to_be_the_subset_is_refused(tmp_path, name):
    spec = table(tmp_path, name)
    assert said(read, spec, no_groups=True) == (
        f"{tmp_path}/t.csv has no column 'subset', but {name!r}. Rename that column."
    )


LONG = "x" * 300
TEXTS = [(f"{LONG}1", f"{LONG}1", f"{LONG}2", f"{LONG}2"), ("A", "A ", " B", "B")]


def plain_table(folder, column, values):
    spec = table(folder, "", ["x"] * 4)
    rows = [f"x_{number}.png,{number},{value}" for number, value in enumerate(values)]
    (folder / "t.csv").write_text("\n".join([f"image,measure,{column}", *rows]))
    return spec


@pytest.mark.parametrize(
    ("make", "values"),
    [(plain_table, values) for values in TEXTS]
    + [(shard, values) for values in (*TEXTS, ("1.5", 1.5, "p", "p"), (7, 7.0, "p", "p\n"),
                                      (["p", 1], ["p", 1], {"p": 2}, {"p": 2}))],
)  # fmt: skip
def test_no_value_of_a_group_is_lost_or_torn(tmp_path, make, values):
    """Of whatever length and spaces; in shards, of whatever type."""
    spec = make(tmp_path, "patient", values)
    assert "Choose --group 'patient' to keep" in said(read, spec)
    one, again, other, more = read(spec, group="patient").group
    assert one == again != other == more


def test_group_of_a_key_may_be_left_out_or_chosen(tmp_path):
    spec = shard(tmp_path, "group", ("p1", "p1", "p2", "p2"), ward="x", stain=3.5)
    for asked, n, by in (
        ({}, 2, "the key group"),
        ({"group": "ward"}, 1, "the key ward"),
        ({"no_groups": True}, 4, None),
    ):
        images = read(spec, **asked)
        assert (len(set(images.group)), images.facts.get("groups_by")) == (n, by)
    assert said(read, spec, group="stain") == (
        f"{tmp_path}/t.tar has no key 'stain' for --group; its keys are, the nearest first: "
        "'ward', 'measure', 'group'."
    )


def test_samples_without_a_group_are_stated_or_skipped(tmp_path):
    some = "p1", None, "p2", "p2"
    images = read(shard(tmp_path, "group", some))
    assert images.group == ("p1", "t.tar/p1_1.png", "p2", "p2")
    assert images.facts["assumed"] == [
        "1 of 4 images are in no group (the first is t.tar/p1_1.png), and each is its own"
    ]
    images = read(shard(tmp_path, "patient", some), group="patient")
    assert images.group == ("p1", "p2", "p2")
    reason = "its .json has no text or whole number 'patient' for --group; add it"
    assert skipped(images) == {"t.tar/p1_1.png": reason}


@pytest.mark.parametrize("column", ["group", "patient"])
@pytest.mark.parametrize("empty", ["", " "])
def test_empty_cells_are_no_groups_whatever_the_column(tmp_path, column, empty):
    spec = table(tmp_path, column, ("p1", empty, "p2", "p2"))
    assert said(read, spec, group=column) == (
        f"{tmp_path}/t.csv: 1 of 4 rows have no usable {column}, the first is row 3 (''; "
        "the header is row 1). Fix or remove these rows."
    )
    assert len(set(read(spec, no_groups=True).group)) == 4


def test_other_columns_are_no_groups(tmp_path):
    assert len(set(read(table(tmp_path / "a", "stain")).group)) == 4
    each_its_own = table(tmp_path / "b", "patient", ("p1", "p2", "p3", "p4"))
    assert len(set(read(each_its_own).group)) == 4
    assert read(table(tmp_path / "c", "group")).group == ("p1", "p1", "p2", "p2")


@pytest.mark.parametrize(
    ("stems", "groups", "what"),
    [
        (["TCGA-AB-1234-01Z", "TCGA-AB-1234-02Z", "TCGA-CD-0001-01Z"],
         ["TCGA-AB-1234", "TCGA-AB-1234", "TCGA-CD-0001"], "2 TCGA participants"),
        (["a_jpg.rf.0123456789ab", "a_jpg.rf.fedcba987654", "b_jpg.rf.00112233aabb"],
         ["a_jpg", "a_jpg", "b_jpg"], "2 originals of Roboflow's copies"),
        (["p1-1", "p1-2", "p2-1"], ["p1-1.jpg", "p1-2.jpg", "p2-1.jpg"], ""),
    ],
)  # fmt: skip
def test_names_of_known_origin_give_groups(tmp_path, stems, groups, what):
    for stem in stems:
        spec = add_voc(tmp_path, stem, EDGE)
    images = read(spec)
    assert list(images.group) == groups
    stated = [f"{what}, by the names of images, are groups"] if what else []
    assert images.facts.get("assumed", []) == stated
    assert len(set(read(spec, no_groups=True).group)) == 3
    assert len(set(read(spec, group_from_name="^(..)").group)) == len({stem[:2] for stem in stems})


def test_identical_images_are_one_group(tmp_path):
    for number in range(6):
        spec = add_voc(tmp_path, str(number), EDGE)
    images = tmp_path / "JPEGImages"
    shutil.copy(images / "0.jpg", images / "3.jpg")
    shutil.copy(images / "3.jpg", images / "5.jpg")
    found = read(spec)
    assert found.group == ("0.jpg", "1.jpg", "2.jpg", "0.jpg", "4.jpg", "0.jpg")
    assert found.facts == {"identical_images": 3}


def test_groups_that_share_an_image_are_one(tmp_path):
    spec = table(tmp_path, "group", ("a", "a", "b", "b", "c", "d"))
    shutil.copy(tmp_path / "a_1.png", tmp_path / "b_2.png")
    shutil.copy(tmp_path / "b_3.png", tmp_path / "c_4.png")
    images = read(spec)
    assert dict(zip(names(images), images.group, strict=True)) == {
        "a_0.png": "a", "a_1.png": "a", "b_2.png": "a", "b_3.png": "a", "c_4.png": "a",
        "d_5.png": "d",
    }  # fmt: skip
    assert images.facts == {"identical_images": 4, "groups_by": "the column group"}


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ({"group": "patint"}, "{}/t.csv has no column 'patint' for --group; its columns are, the "
         "nearest first: 'patient', 'image', 'measure'."),
        ({"group_from_name": "^p1"}, "--group-from-name '^p1' matches 2 of 4 names; the first that "
         "it does not match is 'p2_2.png'."),
        ({"group_from_name": "("}, "--group-from-name '(' is not a regular expression (missing ), "
         "unterminated subpattern at position 0). Give one such as '^([^_]+)_'."),
        ({"group": "patient", "no_groups": True}, "--group and --no-groups contradict each other. "
         "Give one of them."),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_made_are_refused(tmp_path, reading, message):
    assert said(read, table(tmp_path, "patient"), **reading) == message.replace("{}", str(tmp_path))


@pytest.mark.parametrize(
    ("stems", "groups"),
    [
        (["patient001_frame01", "patient001_frame12", "patient002_frame01"],
         ["patient001", "patient001", "patient002"]),
        (["x/Case_7-a", "x/Case_7-b", "x/Case_71-a"], ["Case_7", "Case_7", "Case_71"]),
        (["sub-01/sub-01_run-1", "sub-01/sub-01_run-2", "sub-ab/sub-ab_run-1"],
         ["sub-01", "sub-01", "sub-ab"]),
        (["slide3_t1", "slide3_t2", "other"], ["slide3", "slide3", "other.jpg"]),
        (["case1", "case2", "case3"], ["case1.jpg", "case2.jpg", "case3.jpg"]),
        (["suitcase1_a", "suitcase1_b", "b"], ["suitcase1_a.jpg", "suitcase1_b.jpg", "b.jpg"]),
    ],
)  # fmt: skip
def test_patients_in_names_are_groups(tmp_path, stems, groups):
    for stem in stems:
        (tmp_path / "Annotations" / stem).parent.mkdir(parents=True, exist_ok=True)
        spec = add_voc(tmp_path, stem, EDGE)
    images = read(spec)
    given = dict(zip(names(images), images.group, strict=True))
    assert [given[f"{stem}.jpg"] for stem in stems] == groups
    assert len(set(read(spec, no_groups=True).group)) == 3


def test_groups_are_compared_as_unicode_composes_them(tmp_path):
    spec = table(tmp_path, "group", ("M\u00fcller", "Mu\u0308ller", "p2", "p2"))
    assert len(set(read(spec).group)) == 2


def test_groups_that_differ_in_case_are_stated(tmp_path):
    images = read(table(tmp_path, "group", ("P1", "p1", "p2", "p2")))
    assert len(set(images.group)) == 3
    assert images.facts["assumed"] == [
        "the groups 'P1' and 'p1' differ in upper and lower case only, and are different"
    ]
