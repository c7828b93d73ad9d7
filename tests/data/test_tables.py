"""What is read from shards is compared with tarfile's own bytes, and with the files packed."""

import io
import json
import re
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from typer.testing import CliRunner

from scalecut import Preprocessing, cache, probe, read_images
from scalecut.cli import app as cli
from scalecut.data.measures import Frame
from scalecut.data.storage import Stored
from scalecut.data.tables import _names, shards_of
from scalecut.features.extract import decoded
from tests.builders import LAYERS, discs, planted
from tests.data.test_storage import said, same_pixels, served  # noqa: F401 - served is a fixture

SQUARE = Frame(8, 8)
PICTURE = b"a picture, for all that a shard knows"

pytestmark = pytest.mark.usefixtures("one_thread")


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


def packed(file, members, form=tarfile.PAX_FORMAT):
    """A shard of names and bytes, or of names and what is to be JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in members:
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def sample(key, measure=0.5, **more):
    return [(f"{key}.jpg", PICTURE), (f"{key}.json", {"measure": measure, **more})]


def tiles(folder, n=40, n_shards=2):
    """The same discs as files with a table, and as shards: the data as two options."""
    folder.mkdir(exist_ok=True)
    images = discs(n)
    names = [f"{number:03d}.png" for number in range(n)]
    groups = [f"slide {number // 2}" for number in range(n)]
    for name, image in zip(names, images.images, strict=True):
        PIL.Image.fromarray(image.source).save(folder / name)
    columns = {"image": names, "measure": images.measure, "group": groups, "subset": "disc"}
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


def left_out(images):
    return {each.name: each.reason for each in images.left_out}


# --- what a shard holds --------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("at", ["local", "memory", "http"])
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
    images = read_images(f"tar:{url}", SQUARE)
    assert left_out(images) == {}
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


def test_pictures_are_those_of_the_files_packed(tmp_path):
    of_table, of_shards = (read_images(spec, SQUARE) for spec in tiles(tmp_path / "t"))
    assert (of_shards.subset, of_shards.group) == (of_table.subset, of_table.group)
    np.testing.assert_array_equal(of_shards.measure, of_table.measure)
    same_pixels(of_shards, of_table)
    (_, one, bad), (_, other, _) = (
        next(decoded(each.images, range(40), Preprocessing(8, 8), batch_size=40))
        for each in (of_shards, of_table)
    )
    assert bad == {}
    np.testing.assert_array_equal(one, other)


def test_curve_of_shards_is_that_of_the_files(tmp_path):
    curves = [
        probe(planted(), spec, layers=LAYERS, precision="float32", controls=["shuffled"])
        for spec in tiles(tmp_path / "t")
    ]
    pd.testing.assert_frame_equal(*(curve.frame() for curve in curves))


def test_command_probes_shards_and_shows_their_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scalecut.report.report.DOTS_PER_INCH", 20)
    tables = []
    for name, spec in zip(("files", "shards"), tiles(tmp_path / "t"), strict=True):
        typed = ["probe", "test_resnet", "--weights", "random", "--input-size", "32"]
        typed += ["--data", spec, "--layers", "logits", "--controls", "none", "--repeats", "2"]
        result = CliRunner().invoke(cli.app, [*typed, "--permutations", "20", "--out", name])
        assert result.exit_code == 0, result.output
        tables.append(pd.read_csv(Path(name) / "curve.csv"))
    pd.testing.assert_frame_equal(*tables)
    images = pd.read_parquet("shards/images.parquet")
    assert images.file[0] == f"{tmp_path}/t/tiles-00.tar#000.png"
    assert images.thumbnail.notna().all()
    page = Path("shards/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 40


def test_too_many_pictures_for_the_page_are_not_read_again(tmp_path, monkeypatch):
    from scalecut import runs

    monkeypatch.setattr(runs, "MOST_FETCHED", 3)
    packed(tmp_path / "a.tar", [part for n in range(4) for part in sample(f"{n}")])
    images = read_images(f"tar:{tmp_path}/a.tar", SQUARE)
    monkeypatch.setattr(Stored, "read", None)  # to read would raise
    assert runs._images(images).thumbnail.isna().all()


def test_listing_tells_how_many_shards_are_done(tmp_path):
    tiles(tmp_path, n_shards=3)
    told = []
    read_images(f"tar:{tmp_path}/*.tar", SQUARE, progress=lambda *args: told.append(args))
    assert told == [("listing shards", done, 3) for done in (1, 2, 3)]


def test_what_a_json_says_is_taken_and_the_rest_is_usual(tmp_path):
    members = [*sample("b/0", 1), *sample("a.b", 2.5, group="slide", subset="lung", other=[1])]
    members += sample("c", 3, subset="lung")
    images = read_images(f"tar:{packed(tmp_path / 'x.tar', members)}", SQUARE)
    assert [image.name for image in images.images] == ["x.tar/b/0.jpg", "x.tar/c.jpg"]
    assert images.subset == ("images", "lung")
    assert images.group == ("x.tar/b/0.jpg", "x.tar/c.jpg")
    assert images.measure.tolist() == [1, 3]
    # `a.b.jpg` ends in `.b.jpg`, as the first dot divides: neither a picture nor a .json
    assert left_out(images) == {}


def test_subsets_are_chosen_and_groups_kept(tmp_path):
    members = [*sample("0", 1, subset="x", group="g"), *sample("1", 2, subset="y", group="g")]
    spec = f"tar:{packed(tmp_path / 'x.tar', members)}"
    chosen = read_images(spec, SQUARE, subsets=["y"])
    assert (chosen.subset, chosen.group, chosen.measure.tolist()) == (("y",), ("g",), [2])
    assert said(lambda: read_images(spec, SQUARE, subsets=["z"])).startswith(
        f"{tmp_path}/x.tar has no subset 'z'. It has 2, the nearest first: "
    )


def test_parts_of_a_sample_may_lie_anywhere_and_other_files_are_ignored(tmp_path):
    members = [("0.jpg", PICTURE), ("README", b""), (".hidden.jpg", b""), ("notes.txt", b"")]
    members += [*sample("1", 1), ("0.json", {"measure": 7}), ("0.cls", b"3"), ("0.seg.png", b"")]
    images = read_images(f"tar:{packed(tmp_path / 'x.tar', members)}", SQUARE)
    assert images.measure.tolist() == [7, 1]
    assert left_out(images) == {}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.json", {"measure": 1})], "it has no picture in the shard; pack one a sample"),
        ([*sample("0"), ("0.png", b"")], "it has 2 pictures in the shard; pack one a sample"),
        ([("0.jpg", b"")], "it has no .json; pack one a sample"),
        ([*sample("0"), ("0.json", {})], "it has 2 .json; pack one a sample"),
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
        (sample("0", group=7), "the group in its .json is 7; give a text"),
        (sample("0", subset=None), "the subset in its .json is null; give a text"),
    ],
)
def test_sample_that_cannot_be_used_is_left_out_with_its_reason(tmp_path, members, reason):
    spec = f"tar:{packed(tmp_path / 'x.tar', [*members, *sample('1')])}"
    images = read_images(spec, SQUARE)
    assert [image.name for image in images.images] == ["x.tar/1.jpg"]
    assert left_out(images) == {"x.tar/0": reason}
    assert said(lambda: read_images(spec, SQUARE, strict=True)) == (
        f"x.tar/0: {reason} (strict, so nothing is left out)."
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_link_is_left_out(tmp_path, kind):
    file = packed(tmp_path / "x.tar", [*sample("1"), ("0.json", {"measure": 1})])
    with tarfile.open(file, "a") as tar:
        link = tarfile.TarInfo("0.jpg")
        link.type, link.linkname = kind, "1.jpg"
        tar.addfile(link)
    images = read_images(f"tar:{file}", SQUARE)
    assert left_out(images) == {"x.tar/0": "0.jpg is a link or sparse; pack the file itself"}


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
            images = read_images(f"tar:{place}/{pattern}", SQUARE)
            assert images.measure.tolist() == expected
    packed(tmp_path / "{odd}[1].tar", sample("9"))
    assert shards_of(f"{tmp_path}/{{odd}}[1].tar") == [f"{tmp_path}/{{odd}}[1].tar"]


def test_local_shards_are_relative_to_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed(tmp_path / "a.tar", sample("0"))
    (image,) = read_images("tar:a.tar", SQUARE).images
    assert (image.name, image.place()) == ("a.tar/0.jpg", f"{tmp_path}/a.tar#0.jpg")


def test_names_tell_shards_apart():
    assert _names(["s3://b/x/0.tar", "s3://b/x/1.tar"]) == ["0.tar", "1.tar"]
    assert _names(["s3://b/x/0.tar", "s3://b/y/0.tar"]) == ["x/0.tar", "y/0.tar"]


# --- what cannot be read -------------------------------------------------------------------------


def broken(kind, whole):
    """A shard with something wrong, and what is said of it."""
    end = whole.index(b"\0" * 1024)
    return {
        "no tar": (b"<html>" * 200, "it is no tar (invalid header)"),
        "empty": (b"", "it is no tar (empty file)"),
        "in a picture": (whole[:700], "it is truncated (unexpected end of data)"),
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
    ["no tar", "empty", "in a picture", "between members", "in a header", "of garbage",
     "before its end"],
)  # fmt: skip
@pytest.mark.parametrize("at", ["local", "memory"])
def test_broken_shard_is_refused(at, kind, tmp_path, memory):
    file = packed(tmp_path / "x.tar", sample("0") + sample("1"), tarfile.USTAR_FORMAT)
    content, reason = broken(kind, file.read_bytes())
    file.write_bytes(content)
    memory.pipe_file("/x.tar", content)
    url = str(file) if at == "local" else "memory://x.tar"
    todo = "give one that tar wrote without compression" if "no tar" in reason else None
    assert said(lambda: read_images(f"tar:{url}", SQUARE)) == (
        f"{url}: {reason}; {todo or 'copy the shard again'}."
    )
    assert not (tmp_path / "cache" / "indexes").exists()


@pytest.mark.parametrize(
    ("start", "undone_by"),
    [
        (b"\x1f\x8b\x08", "gunzip"),
        (b"BZh9", "bunzip2"),
        (b"\xfd7zXZ\x00", "unxz"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
    ],
)
def test_compressed_shard_is_refused(tmp_path, start, undone_by):
    (tmp_path / "x.tar").write_bytes(start + b"...")
    assert said(lambda: read_images(f"tar:{tmp_path}/x.tar", SQUARE)) == (
        f"{tmp_path}/x.tar: it is compressed, so that no picture in it can be reached by itself; "
        f"unpack it ({undone_by}) and give the .tar."
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
            "s4://b/0.tar: there is no file system s4://; give one that fsspec knows, such as "
            "s3://, gs://, az://, hf:// or https://.",
        ),
        (
            "tar:s4://b/*.tar",
            {},
            "s4://b/*.tar: there is no file system s4://; give one that fsspec knows, such as "
            "s3://, gs://, az://, hf:// or https://.",
        ),
        (
            "tar:{}/x.tar",
            {"measure": "height"},
            "A shard brings its own measure, so 'height' cannot be had of it. Give no measure, or "
            "put that one into its .json.",
        ),
    ],
)  # fmt: skip
def test_what_is_no_shard_is_refused(tmp_path, spec, options, message):
    assert said(lambda: read_images(spec.format(tmp_path), SQUARE, **options)) == (
        message.format(tmp_path)
    )


def test_shards_without_a_sample_are_refused(tmp_path):
    file = packed(tmp_path / "x.tar", [("notes.txt", b"")])
    assert said(lambda: read_images(f"tar:{file}", SQUARE)) == (
        f"Nothing in {file} can be used. There is no sample: a picture and a .json."
    )
    packed(file, [("0.jpg", b"")])
    assert said(lambda: read_images(f"tar:{file}", SQUARE)) == (
        f"Nothing in {file} can be used. 1 were left out, the first x.tar/0: it has no .json; "
        "pack one a sample."
    )


# --- the kept index ------------------------------------------------------------------------------


def listings(monkeypatch):
    """How often a shard was listed so far."""
    from scalecut.data import tables as tars

    listed, calls = tars.listed, []
    monkeypatch.setattr(tars, "listed", lambda file: calls.append(1) or listed(file))
    return calls


def test_index_is_kept_until_the_shard_changes(tmp_path, monkeypatch, memory):
    calls = listings(monkeypatch)
    file = tmp_path / "x.tar"
    for n_listed, measure in ((2, 0.1), (2, 0.1), (4, 0.25)):
        if len(calls) != n_listed:
            packed(file, sample("0", measure))
            memory.put_file(str(file), "/x.tar")
        for url in (file, "memory://x.tar"):
            images = read_images(f"tar:{url}", SQUARE)
            assert images.measure.tolist() == [measure]
            assert images.images[0].content() == PICTURE
        assert len(calls) == n_listed


@pytest.mark.parametrize("harm", ["cut", "changed", "emptied"])
def test_broken_index_is_made_again(tmp_path, cached, harm, monkeypatch):
    calls = listings(monkeypatch)
    spec = f"tar:{packed(tmp_path / 'x.tar', sample('0', 0.125))}"
    whole = read_images(spec, SQUARE)
    (index,) = (cached / "indexes").iterdir()
    content = index.read_bytes()
    index.write_bytes(
        {"cut": content[:-3], "changed": content.replace(b"0.125", b"0.126"), "emptied": b""}[harm]
    )
    again = read_images(spec, SQUARE)
    assert again.measure.tolist() == whole.measure.tolist()
    assert again.images == whole.images
    assert len(calls) == 2
    assert index.read_bytes() == content


def test_clearing_the_cache_deletes_indexes(tmp_path, cached):
    read_images(f"tar:{packed(tmp_path / 'x.tar', sample('0'))}", SQUARE)
    assert cache.summary()[0] == 1
    cache.clear()
    assert list((cached / "indexes").iterdir()) == []


# --- the page ------------------------------------------------------------------------------------


def test_shards_are_packed_as_the_page_says(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "how-to" / "many.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert "10_000" in code
    tiles(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv("tiles.csv")
    table.rename(columns={"group": "slide"}).to_csv("tiles.csv", index=False)
    exec(code.replace("10_000", "15"), {})
    images = read_images("tar:tiles-{000..002}.tar", SQUARE)
    assert left_out(images) == {}
    assert images.measure.tolist() == table.measure.tolist()
    assert list(images.group) == table.group.tolist()
    assert [image.content() for image in images.images] == [
        Path(name).read_bytes() for name in table.image
    ]
