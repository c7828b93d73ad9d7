"""Shards are compared with tarfile's bytes and with the packed files, tables with their text."""

import re
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import PIL.Image
import pyarrow.parquet
import pytest

from scalecut import cache
from scalecut.data import tables
from scalecut.data.tables import _names, shards_of
from tests.data.layouts import draw, names, packed, read, said, skipped
from tests.data.test_storage import same_pixels, served  # noqa: F401 - served is a fixture

PICTURE = b"an image, as far as a shard knows"


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def sample(key, measure=0.5, **more):
    return [(f"{key}.jpg", PICTURE), (f"{key}.json", {"measure": measure, **more})]


def tiles(folder, n=40, n_shards=2):
    """The same images as files with a table, and as shards; their specifications."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    files = [f"{number:03d}.png" for number in range(n)]
    groups = [f"slide {number // 2}" for number in range(n)]
    for name in files:
        pixels = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
    columns = {"image": files, "measure": rng.random(n), "group": groups, "subset": "disc"}
    pd.DataFrame(columns).to_csv(folder / "tiles.csv", index=False)
    table = pd.read_csv(folder / "tiles.csv")
    for shard in range(n_shards):
        members = []
        for row in table.iloc[shard * n // n_shards : (shard + 1) * n // n_shards].itertuples():
            said_of_it = {"measure": row.measure, "group": row.group, "subset": row.subset}
            members.append((row.image, (folder / row.image).read_bytes()))
            members.append((row.image.replace(".png", ".json"), said_of_it))
        packed(folder / f"tiles-{shard:02d}.tar", members)
    return f"csv:{folder / 'tiles.csv'}", f"tar:{folder / 'tiles-{00..01}.tar'}"


# --- what a shard holds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "form"),
    [
        ("local", tarfile.USTAR_FORMAT),
        ("memory", tarfile.GNU_FORMAT),
        ("http", tarfile.PAX_FORMAT),
    ],
)
def test_bytes_of_a_member_are_those_that_tarfile_extracts(at, form, tmp_path, request):
    rng = np.random.default_rng(0)
    names = ["0.jpg", "./in/1.PNG", "in/a folder/2.tif", "long/" + "n" * 90 + "/3.jpeg"]
    members = []
    for n, name in enumerate(names):
        members.append((name, rng.bytes(int(rng.integers(1, 3000)))))
        members.append((name.rpartition(".")[0] + ".json", {"measure": n}))
    file = packed(tmp_path / "s" / "a.tar", members, form)
    url = str(file)
    if at == "memory":
        request.getfixturevalue("memory").put_file(url, "/s/a.tar")
        url = "memory://s/a.tar"
    elif at == "http":
        url = request.getfixturevalue("served") + "/s/a.tar"
    images = read(f"tar:{url}")
    assert skipped(images) == {}
    assert sorted(image.source.member for image in images.images) == sorted(
        name.removeprefix("./") for name in names
    )
    with tarfile.open(file) as tar:
        own = {member.name.removeprefix("./"): member for member in tar.getmembers()}
        for image, measure in zip(images.images, images.measure, strict=True):
            member = own[image.source.member]
            assert image.content() == tar.extractfile(member).read()
            assert image.name == f"a.tar/{image.source.member}"
            assert names[int(measure)].removeprefix("./") == image.source.member


def test_images_are_those_of_the_files_packed(tmp_path):
    of_table, of_shards = (read(spec) for spec in tiles(tmp_path / "t"))
    assert (of_shards.subset, of_shards.group) == (of_table.subset, of_table.group)
    np.testing.assert_array_equal(of_shards.measure, of_table.measure)
    same_pixels(of_shards, of_table)


def test_listing_tells_how_many_shards_are_done(tmp_path):
    tiles(tmp_path, n_shards=3)
    told = []
    read(f"tar:{tmp_path}/*.tar", progress=lambda *args: told.append(args))
    assert told[:3] == [("listing shards", done, 3) for done in (1, 2, 3)]
    assert told[3:] == [("listing", done, 40) for done in range(1, 41)]


def test_what_a_json_says_is_taken_and_the_rest_is_usual(tmp_path):
    members = [*sample("b/0", 1), *sample("a.b", 2.5, group="slide", subset="lung", other=[1])]
    members += sample("c", 3, subset="lung")
    images = read(f"tar:{packed(tmp_path / 'x.tar', members)}")
    assert [image.name for image in images.images] == ["x.tar/b/0.jpg", "x.tar/c.jpg"]
    assert images.subset == ("images", "lung")
    assert images.group == ("x.tar/b/0.jpg", "x.tar/c.jpg")
    assert images.measure.tolist() == [1, 3]
    reason = "its name has a dot, and only what precedes it, a, names a sample; rename it"
    assert skipped(images) == {"x.tar/a.b": reason}


def test_subsets_are_chosen_and_groups_kept(tmp_path):
    members = [*sample("0", 1, subset="x", group="g"), *sample("1", 2, subset="y", group="g")]
    spec = f"tar:{packed(tmp_path / 'x.tar', members)}"
    chosen = read(spec, subset=["y"])
    assert (chosen.subset, chosen.group, chosen.measure.tolist()) == (("y",), ("g",), [2])
    assert said(lambda: read(spec, subset=["z"])).startswith(
        f"{tmp_path}/x.tar has no subset 'z'. It has 2, the nearest first: "
    )


def test_parts_of_a_sample_may_lie_anywhere_and_other_files_are_ignored(tmp_path):
    members = [("0.jpg", PICTURE), ("README", b""), (".hidden.jpg", b""), ("notes.txt", b"")]
    members += [*sample("1", 1), ("0.json", {"measure": 7}), ("0.cls", b"3"), ("0.seg.png", b"")]
    images = read(f"tar:{packed(tmp_path / 'x.tar', members)}")
    assert images.measure.tolist() == [7, 1]
    assert skipped(images) == {}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.json", {"measure": 1})], "it has no image in the shard; pack one per sample"),
        ([*sample("0"), ("0.png", b"")], "it has 2 images in the shard; pack one per sample"),
        ([("0.jpg", b"")], "it has no .json; pack one per sample"),
        ([*sample("0"), ("0.json", {})], "it has 2 .json; pack one per sample"),
        (
            [("0.jpg", b""), ("0.json", b"{")],
            "its .json is broken (Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1)); write it again",
        ),
        *(
            (
                [("0.jpg", b""), ("0.json", about)],
                f"its .json has no measure that is a finite number ({given}); add it",
            )
            for about, given in [
                ({}, "null"),
                ([1], "null"),
                ({"measure": "1"}, '"1"'),
                ({"measure": True}, "true"),
                (b'{"measure": NaN}', "NaN"),
                (b'{"measure": 1e999}', "Infinity"),
                (b'{"measure": 1' + b"0" * 400 + b"}", "1" + "0" * 38 + "…"),
            ]
        ),
        (sample("0", group=7), "the group in its .json is 7; give text"),
        (sample("0", subset=None), "the subset in its .json is null; give text"),
    ],
)
def test_sample_that_cannot_be_used_is_skipped_with_its_reason(tmp_path, members, reason):
    spec = f"tar:{packed(tmp_path / 'x.tar', [*members, *sample('1')])}"
    images = read(spec)
    assert [image.name for image in images.images] == ["x.tar/1.jpg"]
    assert skipped(images) == {"x.tar/0": reason}
    assert said(lambda: read(spec, strict=True)) == (f"x.tar/0: {reason} (--strict skips nothing).")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE])
def test_link_is_skipped(tmp_path, kind):
    file = packed(tmp_path / "x.tar", [*sample("1"), ("0.json", {"measure": 1})])
    with tarfile.open(file, "a") as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = kind, "1.jpg"
        tar.addfile(link)
    images = read(f"tar:{file}")
    assert skipped(images) == {"x.tar/0": "0.jpg is a link or sparse; pack the file itself"}


# --- which shards --------------------------------------------------------------------------------


def test_pattern_stands_for_shards(tmp_path, memory):
    for number in range(3):
        file = packed(tmp_path / f"s-{number}.tar", sample(f"{number}", number))
        memory.put_file(str(file), f"/in/s-{number}.tar")
    for place in (str(tmp_path), "memory://in"):
        for pattern, expected in (
            ("s-1.tar", [1]),
            ("s-{0..2}.tar", [0, 1, 2]),
            ("s-{0,2}.tar", [0, 2]),
            ("s-*.tar", [0, 1, 2]),
            ("{s-[12],s-2}.tar", [1, 2]),
        ):
            images = read(f"tar:{place}/{pattern}")
            assert images.measure.tolist() == expected
    packed(tmp_path / "{odd}[1].tar", sample("9"))
    assert shards_of(f"{tmp_path}/{{odd}}[1].tar") == [f"{tmp_path}/{{odd}}[1].tar"]


def test_local_shards_are_relative_to_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed(tmp_path / "a.tar", sample("0"))
    (image,) = read("tar:a.tar").images
    assert (image.name, image.place()) == ("a.tar/0.jpg", f"{tmp_path}/a.tar#0.jpg")


def test_names_tell_shards_apart():
    assert _names(["s3://b/x/0.tar", "s3://b/x/1.tar"]) == ["0.tar", "1.tar"]
    assert _names(["s3://b/x/0.tar", "s3://b/y/0.tar"]) == ["x/0.tar", "y/0.tar"]


# --- what cannot be read -------------------------------------------------------------------------


def broken(kind, whole):
    """A shard with something wrong, and what is said of it."""
    end = whole.index(b"\0" * 1024)
    return {
        "not tar": (b"<html>" * 200, "it is not a tar file (invalid header)"),
        "empty": (b"", "it is not a tar file (empty file)"),
        "in an image": (whole[:700], "it is truncated (unexpected end of data)"),
        "between members": (whole[:1024], "it is truncated at byte 1024"),
        "in a header": (whole[:1100], "it is truncated at byte 1024"),
        "of garbage": (whole[:1024] + b"x" * 512 + whole[1536:], "it is broken at byte 1024"),
        "before its end": (
            whole[: -(-end // 512) * 512],
            f"it is truncated at byte {-(-end // 512) * 512}",
        ),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["not tar", "empty", "in an image", "between members", "in a header", "of garbage",
     "before its end"],
)  # fmt: skip
def test_broken_shard_is_refused(kind, tmp_path, memory):
    file = packed(tmp_path / "x.tar", sample("0") + sample("1"), tarfile.USTAR_FORMAT)
    content, reason = broken(kind, file.read_bytes())
    file.write_bytes(content)
    memory.pipe_file("/x.tar", content)
    todo = "give one written by tar without compression" if "not a tar" in reason else None
    for url in (str(file), "memory://x.tar"):
        assert said(read, f"tar:{url}") == f"{url}: {reason}; {todo or 'copy the shard again'}."
    assert not (tmp_path / "cache" / "indexes").exists()


@pytest.mark.parametrize("size", ["-1", "9" * 30, "1" + "0" * 400, "0x10", "", "nan"])
@pytest.mark.parametrize("before", [(), sample("0")], ids=["first", "second"])
def test_shard_whose_header_holds_no_size_is_refused(tmp_path, before, size):
    file = packed(tmp_path / "x.tar", [*before, *sample("1")], tarfile.PAX_FORMAT)
    whole = file.read_bytes()
    at = len(whole[: whole.index(b"1.")]) // 512 * 512
    text = f" size={size}\n"
    n = next(n for n in range(999) if n == len(text) + len(str(n)))
    wrong = tarfile.TarInfo("PaxHeader")
    wrong.type, wrong.size = tarfile.XHDTYPE, n
    head = wrong.tobuf(tarfile.USTAR_FORMAT) + f"{n}{text}".encode().ljust(512, b"\0")
    file.write_bytes(whole[:at] + head + whole[at:])
    found = said(read, f"tar:{file}")
    assert found.startswith(str(file)) or "0.5" in found, found


def test_compressed_shard_is_refused(tmp_path):
    for start, undone_by in [
        (b"\x1f\x8b\x08", "gunzip"),
        (b"BZh9", "bunzip2"),
        (b"\xfd7zXZ\x00", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
    ]:
        (tmp_path / "x.tar").write_bytes(start + b"...")
        assert said(lambda: read(f"tar:{tmp_path}/x.tar")) == (
            f"{tmp_path}/x.tar: it is compressed, so its images cannot be read one by one; "
            f"decompress it ({undone_by}) and give the .tar."
        )


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("tar:{}/x.tar", {}, "{}/x.tar: there is no such file; check its name and folder."),
        ("tar:{}/x-{{0..2}}.tar", {}, "{}/x-0.tar: there is no such file; check its "
         "name and folder."),
        ("tar:{}/*.tar", {}, "No file matches {}/*.tar. Check the folder and the wildcard."),
        ("tar:{}/x-{{0.tar", {}, "'{}/x-{{0.tar' opens a brace and does not close it. Close it."),
        ("tar:{}", {}, "{}: it is a folder; give a file."),
        ("tar:memory://x.tar", {}, "memory://x.tar: there is no such file; check its address."),
        (
            "tar:s4://b/{{0..1}}.tar",
            {},
            "s4://b/0.tar: there is no file system s4://; give one known to fsspec, such as "
            "s3://, gs://, az://, hf:// or https://.",
        ),
        (
            "tar:s4://b/*.tar",
            {},
            "s4://b/*.tar: there is no file system s4://; give one known to fsspec, such as "
            "s3://, gs://, az://, hf:// or https://.",
        ),
    ],
)  # fmt: skip
def test_what_is_no_shard_is_refused(tmp_path, spec, options, message):
    assert said(lambda: read(spec.format(tmp_path), **options)) == (message.format(tmp_path))


def test_shards_without_a_sample_are_refused(tmp_path):
    file = packed(tmp_path / "x.tar", [("notes.txt", b"")])
    assert said(lambda: read(f"tar:{file}")) == (
        f"Nothing in {file} can be used. Give tar: shards of images, each with a .json."
    )
    packed(file, [("0.jpg", b"")])
    assert said(lambda: read(f"tar:{file}")) == (
        f"Nothing in {file} can be used. 1 were skipped, the first is x.tar/0: it has no .json; "
        "pack one per sample."
    )


# --- the kept index ------------------------------------------------------------------------------


def listings(monkeypatch):
    """How often a shard was listed so far."""
    listed, calls = tables.listed, []
    monkeypatch.setattr(tables, "listed", lambda file: calls.append(1) or listed(file))
    return calls


def test_index_is_kept_until_the_shard_changes(tmp_path, monkeypatch, memory):
    calls = listings(monkeypatch)
    file = tmp_path / "x.tar"
    for n_listed, measure in ((2, 0.1), (2, 0.1), (4, 0.25)):
        if len(calls) != n_listed:
            packed(file, sample("0", measure))
            memory.put_file(str(file), "/x.tar")
        for url in (file, "memory://x.tar"):
            images = read(f"tar:{url}")
            assert images.measure.tolist() == [measure]
            assert images.images[0].content() == PICTURE
        assert len(calls) == n_listed


@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_broken_index_is_made_again(tmp_path, cached, harm, monkeypatch):
    calls = listings(monkeypatch)
    spec = f"tar:{packed(tmp_path / 'x.tar', sample('0', 0.125))}"
    whole = read(spec)
    (index,) = (cached / "indexes").iterdir()
    content = index.read_bytes()
    index.write_bytes(
        {"cut": content[:-3], "changed": content.replace(b"0.125", b"0.126"), "emptied": b""}[harm]
    )
    again = read(spec)
    assert again.measure.tolist() == whole.measure.tolist()
    assert again.images == whole.images
    assert len(calls) == 2
    assert index.read_bytes() == content


def test_clearing_the_cache_deletes_indexes(tmp_path, cached):
    read(f"tar:{packed(tmp_path / 'x.tar', sample('0'))}")
    assert cache.summary()[0] == 1
    cache.clear()
    assert list((cached / "indexes").iterdir()) == []


# --- the page ------------------------------------------------------------------------------------


def test_shards_are_packed_as_the_page_says(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "many.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert "10_000" in code
    tiles(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv("tiles.csv")
    table.rename(columns={"group": "slide"}).to_csv("tiles.csv", index=False)
    exec(code.replace("10_000", "15"), {})
    images = read("tar:tiles-{000..002}.tar")
    assert skipped(images) == {}
    assert images.measure.tolist() == table.measure.tolist()
    assert list(images.group) == table.group.tolist()
    assert [image.content() for image in images.images] == [
        Path(name).read_bytes() for name in table.image
    ]


# --- tables --------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Writes a table next to three images."""
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path / name)

    def write(text):
        (tmp_path / "sizes.csv").write_text(text, encoding="utf-8")
        return f"csv:{tmp_path}/sizes.csv"

    return write


def test_table_gives_its_measure_as_it_is(table):
    images = read(table("\ufeffmeasure,image\n3.5,c.png\n-1e3,a.png\n"))  # Excel's mark
    assert names(images) == ["a.png", "c.png"]
    np.testing.assert_array_equal(images.measure, [-1000, 3.5])
    assert (images.subset, images.group) == (("sizes", "sizes"), ("a.png", "c.png"))
    assert (images.measure_name, images.boxes) == ("measure", None)


def test_table_may_name_groups_and_subsets(table):
    text = "image,measure,group,subset\na.png,1,007,x\nb.png,2,007,y\nc.png,3,8,x\na.png,4,9,NA\n"
    images = read(table(text))
    assert images.subset == ("NA", "x", "x", "y")
    assert images.group == ("007", "007", "8", "007")  # a.png joins 9 and 007
    np.testing.assert_array_equal(read(table(text), subset=("y", "NA")).measure, [4, 2])
    assert read(table(text.replace("x\n", " x \n"))).subset == images.subset


def test_parquet_is_read_as_csv(table, tmp_path):
    spec = table("image,measure,group,subset\na.png,1.5,7,x\nb.png,2,7,y\n")
    typed = pd.read_csv(tmp_path / "sizes.csv")
    typed["subset"] = typed["subset"].astype("category")
    typed.to_parquet(tmp_path / "sizes.parquet")
    one, other = read(spec), read(f"parquet:{tmp_path}/sizes.parquet")
    assert (one.subset, one.group, names(one)) == (other.subset, other.group, names(other))
    np.testing.assert_array_equal(one.measure, other.measure)
    typed.assign(measure=[1.5, None]).to_parquet(tmp_path / "sizes.parquet")
    assert said(read, f"parquet:{tmp_path}/sizes.parquet") == (
        f"{tmp_path}/sizes.parquet: 1 of 2 rows have no usable measure, the first is row 3 (''; "
        "the header is row 1). Fix or remove these rows."
    )


def test_table_may_be_elsewhere_than_its_images(table, tmp_path):
    table("image,measure\na.png,1\n")
    (tmp_path / "tables").mkdir()
    moved = (tmp_path / "sizes.csv").rename(tmp_path / "tables" / "sizes.csv")
    assert len(read(f"csv:{moved}", images=tmp_path)) == 1


def test_image_missing_from_the_folder_is_skipped(table):
    spec = table("image,measure\na.png,1\nnone.png,2\n")
    reason = "there is no such file; check its name and folder"
    assert skipped(read(spec)) == {"none.png": reason}
    assert said(read, spec, strict=True) == f"none.png: {reason} (--strict skips nothing)."


GIVE = "Give image and measure, optionally group and subset."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,area\na.png,1\n", "{} has no column 'image'; its columns are 'file', 'area'. "
         + GIVE),
        *((f"image{sign}measure\na.png{sign}1\n", f"{{}} is separated by {sign!r}, not by commas. "
           "Save it with commas between columns, and with points in numbers.")
          for sign in ";\t|"),
        ("image,measure\n\0,1\n", "{}: 1 of 1 rows have no usable image, the first is row 2 "
         "('\\x00'; the header is row 1). Fix or remove these rows."),
        ("image,measure,measure\na.png,1,2\n", "{} has two columns 'measure'. Keep one, or rename "
         "the other."),
        ("image,measure\na.png,1\nb.png,2\na.png,1\n", "{}: a.png is listed twice in the subset "
         "sizes, with the measures 1 and 1. Keep one of each image and subset."),
        ("image,measure\n", "{} has no rows; its columns are 'image', 'measure'. " + GIVE),
        ("image,measure\na.png,1\nb.png,\nc.png,wide\n", "{}: 2 of 3 rows have no usable measure, "
         "the first is row 3 (''; the header is row 1). Fix or remove these rows."),
        ("image,measure\na.png,1\nb.png,nan\n", "{}: 1 of 2 rows have no usable measure, the first "
         "is row 3 ('nan'; the header is row 1). Fix or remove these rows."),
        ("image,measure,group\na.png,1,\n", "{}: 1 of 1 rows have no usable group, the first is "
         "row 2 (''; the header is row 1). Fix or remove these rows."),
        ("image,measure\na.png,1,5\nb.png,2,6\n", "{} has rows of more than 2 cells. Name every "
         "column."),
        ("", "{} is not a table (No columns to parse from file). Give a CSV file with the columns "
         "image and measure."),
        ("image,measure\na.png,1\nb.png,2,3\n", "{} is not a table (Error tokenizing data. C "
         "error: Expected 2 fields in line 3, saw 3). Give a CSV file with the columns image and "
         "measure."),
        ("image,measure\nx.png,1\ny.png,2\n", "{} has no image that can be used. 2 were skipped, "
         "the first is x.png: there is no such file; check its name and folder."),
        ("image,measure,subset\na.png,1,cat\n", "{} has no subset 'dog'. It has 1, the nearest "
         "first: 'cat'."),
    ],
)  # fmt: skip
def test_table_that_cannot_be_used_is_refused(table, tmp_path, text, message):
    asked = {"subset": ("dog",)} if "subset" in text else {}
    assert said(read, table(text), **asked) == message.format(tmp_path / "sizes.csv")


@pytest.mark.parametrize(
    "write",
    [
        lambda f, t: (f / "t.csv").write_text(t, encoding="utf-16"),
        lambda f, t: (f / "t.csv").write_text(t.replace(",", ", ")),
        lambda f, t: (f / "t.csv").write_text(t.replace("in/", "in\\")),
    ],
)
def test_tables_of_other_programs_are_read(tmp_path, write):
    rows = []
    for number in range(4):
        draw(tmp_path / "in" / f"{number}.png")
        rows.append(f"in/{number}.png,{number},g{number // 2}")
    write(tmp_path, "\n".join(["image,measure,group", *rows]))
    images = read(f"csv:{tmp_path}/t.csv")
    assert images.measure.tolist() == [0, 1, 2, 3]
    assert images.group == ("g0", "g0", "g1", "g1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14\0", "{}: it is a workbook of Excel; save it as CSV UTF-8."),
        ("image,measure\nM\u00fc.png,1".encode("latin-1"), "{} is no text in UTF-8 ('utf-8' codec "
         "can't decode byte 0xfc in position 15: invalid start byte). Save it as CSV UTF-8."),
        (b"image,measure\na.png,1_0", "{}: 1 of 1 rows have no usable measure, the first is row 2 "
         "('1_0'; the header is row 1). Fix or remove these rows."),
        (b"image,measure, measure\na.png,1,2", "{} has two columns 'measure'. Keep one, or rename "
         "the other."),
    ],
)  # fmt: skip
def test_tables_that_are_no_text_or_number_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    assert said(read, f"csv:{tmp_path}/t.csv") == message.format(tmp_path / "t.csv")


def test_parquet_whose_own_description_is_broken_is_refused(tmp_path):
    file = tmp_path / "t.parquet"
    pd.DataFrame({"image": ["a.png"], "measure": [0.5]}).set_index("image").to_parquet(file)
    found = pyarrow.parquet.read_table(file)
    description = found.schema.metadata[b"pandas"]
    for broken in (b"{}", b"[]", description.replace(b"index_columns", b"index_colours")):
        metadata = {b"pandas": broken}
        pyarrow.parquet.write_table(found.replace_schema_metadata(metadata), file)
        assert said(read, f"parquet:{file}").startswith(f"{file}: its contents are broken (")


def test_parquet_with_text_that_is_none_is_refused(tmp_path):
    file = tmp_path / "t.parquet"
    offsets = pyarrow.py_buffer(np.array([0, 3, 5], np.int32).tobytes())
    text = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"a\xff\xfeb."))
    pyarrow.parquet.write_table(pyarrow.table({"image": text, "measure": [0.5, 1.0]}), file)
    assert said(read, f"parquet:{file}").startswith(f"{file}: its contents are broken (")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("start", ["image,measure", "image,measure\na.png", "\n\na,b\r\r1"])
def test_a_table_of_very_many_columns_is_refused_before_it_is_parsed(
    tmp_path, monkeypatch, start, encoding
):
    file = tmp_path / "t.csv"
    surplus = 10_001 - len(start.splitlines()[-1].split(","))
    file.write_text(start + ",a" * surplus + "\n", encoding=encoding, newline="")
    monkeypatch.setattr(pd, "read_csv", lambda *_, **__: pytest.fail("it was parsed"))
    assert said(read, f"csv:{file}") == (
        f"{file}: it has 10,001 columns, and at most 10,000 are read; keep those that are used."
    )


def test_an_image_whose_name_no_file_can_have_is_skipped(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    for name in ("9" * 5000, "\\" + "9" * 5000):
        (tmp_path / "t.csv").write_text(f"image,measure\na.png,0.5\nb.png,0.4\n{name},0.3\n")
        found = read(f"csv:{tmp_path}/t.csv")
        assert len(found) == 2
        assert len(found.left_out) == 1


def test_parquet_keeps_its_index_and_refuses_images_inside(tmp_path):
    draw(tmp_path / "a.png")
    table = pd.DataFrame({"image": ["a.png"], "measure": [0.5], "preview": [b"\x89PNG"]})
    table.set_index("image").to_parquet(tmp_path / "t.parquet")
    assert read(f"parquet:{tmp_path}/t.parquet").measure.tolist() == [0.5]
    for image in (b"\x89PNG", {"bytes": b"\x89PNG", "path": "a.png"}):
        table.assign(image=[image]).to_parquet(tmp_path / "t.parquet")
        assert said(read, f"parquet:{tmp_path}/t.parquet") == (
            f"{tmp_path}/t.parquet: its column 'image' holds images themselves, as in data sets of "
            "Hugging Face; save them as files, or pack them into tar shards."
        )


def test_patients_inside_objects_of_a_json_are_seen(tmp_path):
    members = []
    for number in range(4):
        draw(tmp_path / "a.png", size=(20 + number, 20))
        members.append((f"{number}.png", (tmp_path / "a.png").read_bytes()))
        members.append((f"{number}.json", {"measure": number, "about": {"patient": number // 2}}))
    packed(tmp_path / "x.tar", members)
    spec = f"tar:{tmp_path}/x.tar"
    assert "'about.patient', of 2 different values" in said(read, spec)
    assert read(spec, group="about.patient").group == ("0", "0", "1", "1")
