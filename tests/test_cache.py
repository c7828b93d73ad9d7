"""What is stored is read back; a failed write leaves nothing behind."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from scalecut import cache
from scalecut.errors import OutputError, ScalecutError

SETTING = cache.setting_hash({"weights": "a"})


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def keys(*names):
    return [hashlib.sha256(name.encode()).hexdigest() for name in names]


def matrices(rng, n):
    """Two layers, one of them as a transposed array that is not contiguous."""
    wide = rng.normal(size=(5, n)).astype(np.float32)
    return {"conv1|conv1|output|1|0": rng.normal(size=(n, 3)).astype(np.float32), "fc": wide.T}


def files(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def test_what_was_kept_is_read_back_to_the_last_bit(rng):
    images, kept = keys("cat", "dog"), matrices(rng, 2)
    cache.add_shard(SETTING, images, kept)
    (shard,) = cache.shards(SETTING)
    assert shard.images == tuple(images)
    assert shard.matrices.keys() == kept.keys()
    for name, matrix in kept.items():
        assert shard.matrices[name].dtype == np.float32
        np.testing.assert_array_equal(shard.matrices[name], matrix)


def test_all_shards_of_a_setting_are_read_and_none_of_another(rng, place):
    other = cache.setting_hash({"weights": "b"})
    assert list(cache.shards(SETTING)) == []
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    for kept in [matrices(rng, 2)] * 2:  # the same rows twice are one file
        cache.add_shard(SETTING, keys("dog", "cow"), kept)
    cache.add_shard(other, keys("horse"), matrices(rng, 1))
    found = {image for shard in cache.shards(SETTING) for image in shard.images}
    assert found == set(keys("cat", "dog", "cow"))
    assert [shard.images for shard in cache.shards(other)] == [tuple(keys("horse"))]
    assert len(files(place)) == 3
    for path in files(place):
        assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"


def test_settings_have_the_same_hash_if_and_only_if_they_are_the_same():
    same, differ = cache.setting_hash({"a": 1, "b": (2, 3)}), [{"a": 1}, {"a": 2}, {"a": "1"}]
    assert cache.setting_hash({"b": [2, 3], "a": 1}) == same
    assert len({same, *map(cache.setting_hash, differ)}) == 4


@pytest.mark.parametrize("damage", ["a flipped bit", "a missing end", "nothing left"])
def test_a_damaged_shard_is_deleted_and_the_others_are_read(rng, place, damage):
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    (broken,) = files(place)
    cache.add_shard(SETTING, keys("dog"), matrices(rng, 1))
    content = broken.read_bytes()
    broken.write_bytes(
        {
            "a flipped bit": content[:-1] + bytes([content[-1] ^ 1]),
            "a missing end": content[:-7],
            "nothing left": b"",
        }[damage]
    )
    assert [shard.images for shard in cache.shards(SETTING)] == [tuple(keys("dog"))]
    assert not broken.exists()
    assert len(files(place)) == 1


def test_a_damaged_shard_that_another_process_deletes_is_no_error(rng, place, monkeypatch):
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    (broken,) = files(place)
    broken.write_bytes(b"broken")
    unlink = Path.unlink

    def twice(self):
        unlink(self)
        unlink(self)

    monkeypatch.setattr(Path, "unlink", twice)
    assert list(cache.shards(SETTING)) == []


@pytest.mark.parametrize("content", [b"", b"some content"])
def test_what_is_stored_comes_back_unless_a_bit_of_it_was_flipped(place, content):
    file = place / "fits" / "a"
    assert cache.stored(file) is None
    cache.store(file, content)
    assert cache.stored(file) == content
    whole = file.read_bytes()
    for place_ in range(len(whole)):
        file.write_bytes(whole[:place_] + bytes([whole[place_] ^ 4]) + whole[place_ + 1 :])
        assert cache.stored(file) is None
    file.write_bytes(whole[:-1])
    assert cache.stored(file) is None


# --- atomic writes -------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")
DENIED = OSError(errno.EACCES, "Permission denied")
MESSAGES = [
    (
        FULL,
        "The disk of the cache {cache} is full. Free space, for example with `scalecut cache "
        "--clear`, or set SCALECUT_CACHE to another folder; the same command continues with what "
        "is cached.",
    ),
    (
        DENIED,
        "The cache {place} cannot be written (Permission denied). Set SCALECUT_CACHE to a writable "
        "folder.",
    ),
]


def failing(error):
    def replace(self, target):
        raise error

    return replace


@pytest.mark.parametrize(("failure", "message"), MESSAGES, ids=["full", "denied"])
def test_a_failed_write_is_an_error_that_leaves_nothing(rng, place, monkeypatch, failure, message):
    monkeypatch.setattr(Path, "replace", failing(failure))
    with pytest.raises(OutputError) as error:
        cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    folder = place / "features" / SETTING[:2] / SETTING
    assert str(error.value) == message.format(cache=place, place=folder)
    assert isinstance(error.value, ScalecutError)
    assert files(place) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("a bug")])
def test_an_interrupted_write_keeps_the_earlier_file_and_no_part(tmp_path, failure):
    path = tmp_path / "made" / "table.csv"
    with cache.written(path) as part:
        part.write_text("earlier")
        assert not path.exists() and part.parent == path.parent
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    with pytest.raises(type(failure)), cache.written(path) as part:
        part.write_text("half of")
        raise failure
    assert [each.name for each in path.parent.iterdir()] == ["table.csv"]
    assert path.read_text() == "earlier"


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_writer_may_word_its_own_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"^table\.csv: (Not a directory|File exists)$"),
        cache.written(tmp_path / "file" / "table.csv", lambda p, e: f"{p.name}: {e.strerror}"),
    ):
        pass


def test_a_cache_that_is_a_file_cannot_be_written(rng, place):
    place.write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot be written \((Not a directory|File exists)\)"):
        cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    assert place.read_text() == "not a folder"


def test_half_a_file_under_a_temporary_name_is_not_read(rng, place):
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    (path,) = files(place)
    (path.parent / "tmp0.part").write_bytes(path.read_bytes()[:20])
    assert [shard.images for shard in cache.shards(SETTING)] == [tuple(keys("cat"))]


def test_what_a_killed_process_has_left_is_removed_by_the_next_that_writes_there(rng, place):
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    (path,) = files(place)
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    machine, _, number = cache.process().partition("-")
    rest, other = (
        path.with_name(f".{machine}-{process}-0123abcd.part") for process in (killed.pid, number)
    )
    for part in (rest, other):
        part.write_bytes(b"half")
    cache.add_shard(SETTING, keys("dog"), matrices(rng, 1))
    assert not rest.exists()
    assert other.exists()  # of this process, which lives


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no start of processes is known")
def test_the_start_of_a_process_is_its_own_whatever_it_is_called():
    code = "import sys; open('/proc/self/comm', 'w').write('a) 1 (b'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        ticks = int(cache.start_of(child.pid)) / os.sysconf("SC_CLK_TCK")
        since_boot = float(Path("/proc/uptime").read_text().split()[0])
        own = int(cache.start_of(os.getpid())) / os.sysconf("SC_CLK_TCK")
        assert own < ticks < since_boot + 1
        child.communicate(b"\n")
    assert cache.start_of(child.pid) == ""


@pytest.mark.parametrize("is_cleared", [False, True])
def test_the_temporary_folder_of_a_killed_process_is_removed(place, is_cleared):
    code = "import os; from scalecut import cache; made = cache.workplace(); "
    code += "(made.__enter__() / 'graph.bin').touch(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(files(place)) == 1
    with cache.workplace() as mine:
        if is_cleared:
            cache.clear()
        assert list(place.iterdir()) == [mine]
    assert list(place.iterdir()) == []


# --- the whole cache -----------------------------------------------------------------------------


def test_summary_counts_files_and_bytes(rng, place):
    assert cache.summary() == (0, 0)
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    cache.add_shard(cache.setting_hash({}), keys("dog", "cow"), matrices(rng, 2))
    assert cache.summary() == (2, sum(len(path.read_bytes()) for path in files(place)))


def test_clearing_deletes_features_and_fits_and_keeps_everything_else(rng, place):
    fit = place / "fits" / "0123456789abcdef"
    of_others = [
        place / "weights" / "resnet50.safetensors",
        place / "fits" / "mine" / "fit.npz",
        place / "features" / "notes.safetensors",
    ]
    for file in (fit / "fit.npz", fit / "logs" / "events", *of_others):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    assert cache.summary() == (2, 10)
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    (place / "features" / SETTING[:2] / SETTING / ".0a.part").touch()  # of a killed process
    assert cache.summary()[0] == 4
    cache.clear()
    assert files(place) == sorted(of_others)
    assert cache.summary() == (0, 0)
    assert not fit.exists()


def test_an_empty_cache_can_be_cleared(place):
    cache.clear()
    assert not place.exists()


def test_a_cache_that_cannot_be_cleared_is_told(rng, place, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OutputError) as error:
        cache.clear()
    assert str(error.value).startswith(f"The cache {place} cannot be cleared (Permission denied).")


def test_the_cache_is_where_the_variable_says_or_in_the_users_cache_folder(
    place, tmp_path, monkeypatch
):
    assert cache.folder() == place
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCALECUT_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "mine"
    monkeypatch.setenv("SCALECUT_CACHE", "")
    assert cache.folder() == Path(platformdirs.user_cache_dir("scalecut"))
    monkeypatch.delenv("SCALECUT_CACHE")
    assert cache.folder() == Path(platformdirs.user_cache_dir("scalecut"))
