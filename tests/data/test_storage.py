"""What is read from an address is compared with the same bytes on disk."""

import pickle
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from scalecut.data import storage
from scalecut.data.images import ImageSet, keys_of
from scalecut.data.storage import Stored, matching, opened, sibling, version_of
from tests.data.layouts import read, said

BYTES = bytes(range(256)) * 40


class Server(SimpleHTTPRequestHandler):
    """Files of a folder, and parts of them as `Range: bytes=FIRST-LAST` asks; like S3's."""

    knows_parts = True

    def do_GET(self):
        file = Path(self.translate_path(self.path))
        if "secret" in self.path:
            return self.send_error(403)
        if not (self.knows_parts and "Range" in self.headers and file.is_file()):
            return super().do_GET()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        whole = file.read_bytes()
        part = whole[int(first) : int(last or len(whole)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part)}/{len(whole)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """The address of `tmp_path` on a server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture(params=["local", "memory", "http"])
def place(request, tmp_path):
    """A folder with `a b.bin` in it, by each kind of address."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a b.bin").write_bytes(BYTES)
    if request.param == "local":
        return str(tmp_path / "there")
    if request.param == "http":
        return request.getfixturevalue("served") + "/there"
    request.getfixturevalue("memory").pipe_file("/there/a b.bin", BYTES)
    return "memory://there"


def images(n=6):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(n)]


def table(folder, n=6, prefix=""):
    """`sizes.csv` and the images next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number} x.png" for number in range(n)]
    for name, pixels in zip(names, images(n), strict=True):
        PIL.Image.fromarray(pixels).save(folder / name)
    columns = {"image": [prefix + name for name in names], "measure": np.arange(n) / 7}
    pd.DataFrame(columns).to_csv(folder / "sizes.csv", index=False)


def same_pixels(one: ImageSet, other: ImageSet):
    for a, b in zip(one.images, other.images, strict=True):
        np.testing.assert_array_equal(np.asarray(a.decode()), np.asarray(b.decode()))
        assert a.key() == b.key()


# --- bytes ---------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_file(place):
    whole = Stored(f"{place}/a b.bin")
    assert whole.read() == BYTES
    assert replace(whole, offset=100, size=300).read() == BYTES[100:400]
    assert replace(whole, offset=0, size=300).read() == BYTES[:300]
    assert replace(whole, offset=10_000).read() == BYTES[10_000:]
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_opened_file_can_be_read_from_any_place(place, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK", 1000)
    with opened(f"{place}/a b.bin") as file:
        for start, n in ((0, 512), (9_000, 700), (5, 5), (10_200, 99)):
            file.seek(start)
            assert file.read(n) == BYTES[start : start + n]
        assert file.seek(-4, 2) == len(BYTES) - 4
        assert file.read() == BYTES[-4:]


def test_file_that_ends_too_early_is_an_error(place):
    reason = said(Stored(f"{place}/a b.bin", offset=10_000, size=300).read)
    assert reason == "it ends 60 bytes early; copy the file again"


def test_missing_file_is_an_error(place):
    what = "address" if "://" in place else "name and folder"
    for act in (Stored(f"{place}/none").read, partial(version_of, f"{place}/none")):
        assert said(act) == f"there is no such file; check its {what}"


def test_stamp_changes_with_the_file_alone(memory, tmp_path):
    for url, write in (
        ("memory://a.bin", partial(memory.pipe_file, "/a.bin")),
        (str(tmp_path / "a.bin"), (tmp_path / "a.bin").write_bytes),
    ):
        stamps = []
        for content in (b"1", b"2", b"12"):
            write(content)
            stamps.append(version_of(url))
            assert version_of(url) == stamps[-1]
        assert [size for size, _ in stamps] == [1, 1, 2]
        assert len({stamp for _, stamp in stamps}) == 3


def test_stamp_of_a_server_is_the_surest_that_it_tells(memory, monkeypatch):
    told = {"size": 3, "Last-Modified": "today", "ETag": "abc", "type": "file"}
    monkeypatch.setattr(memory, "info", lambda _: told)
    assert version_of("memory://a") == (3, "3-abc")
    del told["ETag"]
    assert version_of("memory://a") == (3, "3-today")
    told["size"] = None
    assert said(version_of, "memory://a") == "its server does not report its size; copy the file"


def test_wildcards_find_addresses(memory):
    for name in ("b.tar", "a.tar", "c.txt"):
        memory.pipe_file(f"/here/{name}", b"")
    assert matching("memory://here/*.tar") == ["memory://here/a.tar", "memory://here/b.tar"]
    assert matching("memory:///here/a*") == ["memory:///here/a.tar"]
    assert matching("memory://here/*.png") == []


def test_wildcards_find_files_by_the_address_that_they_were_asked_by(tmp_path, served):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(BYTES)
    for folder in (f"{served}/in", f"file://{tmp_path}/in", f"simplecache::file://{tmp_path}/in"):
        assert matching(f"{folder}/*.tar") == [f"{folder}/a.tar"]
        assert Stored(f"{folder}/a.tar", 9, 20).read() == BYTES[9:29]


@pytest.mark.parametrize(
    ("url", "name", "expected"),
    [
        ("s3://bucket/in/t.csv", "a.png", "s3://bucket/in/a.png"),
        ("s3://bucket/in/t.csv", "../b #1.png", "s3://bucket/b #1.png"),
        ("simplecache::gs://bucket/t.csv", "x/a.png", "simplecache::gs://bucket/x/a.png"),
        ("https://host/in/t.csv?key=a/b", "b #1.png", "https://host/in/b%20%231.png"),
        ("memory://t.csv", "a.png", "memory://a.png"),
    ],
)
def test_names_are_relative_to_the_folder_of_an_address(url, name, expected):
    assert sibling(url, name) == expected


# --- what cannot be had --------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "package"), [("s3", "s3fs"), ("https", "'fsspec[http]'")])
def test_missing_package_is_named(system, package, monkeypatch):
    def missing(_):
        raise ImportError(f"Install {package}\nto go on")

    registry = sys.modules["fsspec.registry"]  # fsspec.registry is a mapping
    monkeypatch.setattr(registry, "_import_class", missing)
    monkeypatch.delitem(registry._registry, system, raising=False)
    assert said(Stored(f"{system}://bucket/a.png").read) == (
        f"nothing that reads {system}:// is installed; pip install {package}"
    )


def test_unknown_protocol_is_an_error():
    assert said(Stored("s4://bucket/a.png").read) == (
        "there is no file system s4://; give one known to fsspec, such as s3://, gs://, az://, "
        "hf:// or https://"
    )


def test_server_that_does_not_answer_is_an_error(served):
    closed = "http://127.0.0.1:9"
    for act in (Stored(f"{closed}/a.png").read, partial(version_of, f"{closed}/a.png")):
        reason = said(act)
        assert reason.startswith("its server does not answer (Cannot connect to host 127.0.0.1:9")
        assert reason.endswith("); check its address and the network")


def test_server_that_refuses_is_an_error(served):
    for act in (Stored(f"{served}/secret").read, partial(version_of, f"{served}/secret")):
        assert said(act) == (
            "its server answers 403 (Forbidden); check its address and your access"
        )


def test_server_that_gives_whole_files_alone_is_an_error(tmp_path, served, monkeypatch):
    (tmp_path / "a.bin").write_bytes(BYTES)
    monkeypatch.setattr(Server, "knows_parts", False)
    assert Stored(f"{served}/a.bin").read() == BYTES
    assert said(Stored(f"{served}/a.bin", 100, 50).read) == (
        "its server ignores requests for a part of a file; give one that supports the header "
        "Range, or copy the file"
    )


def test_refused_access_and_other_errors_are_told(memory, monkeypatch):
    class CredentialsError(Exception):
        """As botocore's, which are no OSError."""

    for error, reason in (
        (PermissionError("Access Denied"), "access is denied (Access Denied); check your rights"),
        (CredentialsError("Unable to\nlocate"), "it cannot be read (Unable to locate); check its"),
        (
            CredentialsError(),
            "it cannot be read (CredentialsError); check its address and your access",
        ),
        (TimeoutError(), "its server does not answer (TimeoutError); check its address"),
    ):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(memory, "cat_file", refuse)
        assert said(Stored("memory://a").read).startswith(reason)


def test_folder_is_no_file(memory, tmp_path):
    memory.pipe_file("/here/a", b"")
    assert said(version_of, "memory://here") == "it is a folder; give a file"
    assert said(Stored(str(tmp_path)).read) == "it is a folder; give a file"


# --- images and tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "http"])
def test_table_at_an_address_gives_the_images_of_the_folder(kind, tmp_path, request):
    table(tmp_path / "here")
    if kind == "http":
        url = request.getfixturevalue("served") + "/here"
    else:
        request.getfixturevalue("memory").put(f"{tmp_path}/here/", "/here/", recursive=True)
        url = "memory://here"
    far, near = (read(f"csv:{at}/sizes.csv") for at in (url, tmp_path / "here"))
    assert (far.subset, far.group) == (near.subset, near.group)
    assert [image.name for image in far.images] == [image.name for image in near.images]
    np.testing.assert_array_equal(far.measure, near.measure)
    assert {type(image.source) for image in far.images} == {Stored}
    same_pixels(far, near)


def test_cells_may_be_addresses_and_absolute_paths(tmp_path, memory):
    table(tmp_path / "here")
    for number in range(6):
        memory.put_file(f"{tmp_path}/here/{number} x.png", f"/far/{number} x.png")
    near = read(f"csv:{tmp_path}/here/sizes.csv")
    rows = "".join(
        f"{'memory://far' if row % 2 else tmp_path / 'here'}/{row} x.png,{row}\n"
        for row in range(6)
    )
    (tmp_path / "mixed.csv").write_text(f"image,measure\n{rows}")
    memory.pipe_file("/elsewhere/mixed.csv", f"image,measure\n{rows}".encode())
    for spec in (f"csv:{tmp_path}/mixed.csv", "csv:memory://elsewhere/mixed.csv"):
        mixed = read(spec)
        order = np.argsort(mixed.measure)
        assert [type(mixed.images[row].source) is Stored for row in order] == [False, True] * 3
        same_pixels(mixed.rows(order), near)


def test_folder_of_images_is_where_relative_names_start(tmp_path, memory):
    table(tmp_path / "here")
    memory.put_file(f"{tmp_path}/here/sizes.csv", "/sizes.csv")
    images = read("csv:memory://sizes.csv", images=tmp_path / "here")
    same_pixels(images, read(f"csv:{tmp_path}/here/sizes.csv"))


def test_broken_image_is_skipped_when_it_is_read(memory):
    memory.pipe_file("/t.csv", b"image,measure\na.png,1\nb.png,2\n")
    memory.pipe_file("/b.png", b"no image")
    images = read("csv:memory://t.csv").images
    assert said(images[0].decode) == "a.png: there is no such file; check its address"
    reason = "b.png: this is not an image that can be read; give one of JPEG, "
    assert said(images[1].decode).startswith(reason)
    assert said(images[0].key) == "a.png: there is no such file; check its address"


def test_keys_of_stored_images_are_asked_for_together(tmp_path, memory, monkeypatch):
    table(tmp_path / "here")
    memory.put(f"{tmp_path}/here/", "/here/", recursive=True)
    memory.rm("/here/3 x.png")
    images = read("csv:memory://here/sizes.csv").images
    near = read(f"csv:{tmp_path}/here/sizes.csv").images
    together, cat_file = threading.Barrier(6, timeout=20), memory.cat_file

    def once_all_have_asked(*given, **more):
        together.wait()
        return cat_file(*given, **more)

    monkeypatch.setattr(memory, "cat_file", once_all_have_asked)
    found = list(keys_of(images))
    assert str(found.pop(3)) == "3 x.png: there is no such file; check its address"
    assert found == [image.key() for image in near if image.name != "3 x.png"]


def test_keys_of_many_come_in_their_order(tmp_path, memory, monkeypatch):
    table(tmp_path / "here")
    memory.put(f"{tmp_path}/here/", "/here/", recursive=True)
    images = read("csv:memory://here/sizes.csv").images
    monkeypatch.setattr("scalecut.data.images.QUEUED", 4)
    assert list(keys_of(images)) == [image.key() for image in images]
    assert len(images) == 6


def test_address_without_a_table_is_an_error(memory):
    memory.pipe_file("/t.csv", b"file,measure\na,1\n")
    assert said(read, "csv:memory://none.csv") == (
        "memory://none.csv: there is no such file; check its address."
    )
    assert said(read, "csv:memory://t.csv").startswith(
        "memory://t.csv has no column 'image'; its columns are 'file', 'measure'."
    )
