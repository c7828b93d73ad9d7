"""What is kept is read back; what breaks on the way leaves nothing behind."""

import errno
import hashlib
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


@pytest.fixture(params=[0, 1])
def rng(request):
    return np.random.default_rng(request.param)


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


def test_all_shards_of_a_setting_are_read_and_none_of_another(rng):
    other = cache.setting_hash({"weights": "b"})
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    cache.add_shard(SETTING, keys("dog", "cow"), matrices(rng, 2))
    cache.add_shard(other, keys("horse"), matrices(rng, 1))
    found = {image for shard in cache.shards(SETTING) for image in shard.images}
    assert found == set(keys("cat", "dog", "cow"))
    assert [shard.images for shard in cache.shards(other)] == [tuple(keys("horse"))]


def test_a_setting_that_was_never_kept_has_no_shards():
    assert list(cache.shards(SETTING)) == []


def test_the_same_rows_twice_are_one_file(rng, place):
    kept = matrices(rng, 2)
    cache.add_shard(SETTING, keys("cat", "dog"), kept)
    cache.add_shard(SETTING, keys("cat", "dog"), kept)
    assert len(files(place)) == 1


def test_a_shard_is_named_by_the_hash_of_its_own_bytes(rng, place):
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    (path,) = files(place)
    assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"a": 1, "b": [2, 3]}, {"b": [2, 3], "a": 1}, True),
        ({"mean": (0.5, 0.5)}, {"mean": [0.5, 0.5]}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": "1"}, False),
    ],
)
def test_settings_that_say_the_same_have_the_same_hash(one, other, is_same):
    assert (cache.setting_hash(one) == cache.setting_hash(other)) is is_same


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


def failing(error):
    def replace(self, target):
        raise error

    return replace


def test_a_full_disk_is_told_and_leaves_nothing_behind(rng, place, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "replace", failing(full))
    with pytest.raises(OutputError) as error:
        cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    assert str(error.value) == (
        f"The disk of the cache {place} is full. Free space, for example by "
        "`scalecut cache --clear`, or set SCALECUT_CACHE to another folder; "
        "what was computed is kept and the same command goes on."
    )
    assert isinstance(error.value, ScalecutError)
    assert files(place) == []


def test_another_failure_says_the_place_and_leaves_nothing_behind(rng, place, monkeypatch):
    monkeypatch.setattr(Path, "replace", failing(OSError(errno.EACCES, "Permission denied")))
    with pytest.raises(OutputError) as error:
        cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    assert str(error.value) == (
        f"The cache {place / 'features' / SETTING[:2] / SETTING} cannot be written "
        "(Permission denied). Set SCALECUT_CACHE to a folder that can."
    )
    assert files(place) == []


def test_a_kill_while_writing_leaves_no_shard_and_no_part(rng, place, monkeypatch):
    monkeypatch.setattr(Path, "replace", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    assert files(place) == []
    assert list(cache.shards(SETTING)) == []


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


def test_summary_counts_files_and_bytes(rng, place):
    assert cache.summary() == (0, 0)
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    cache.add_shard(cache.setting_hash({}), keys("dog", "cow"), matrices(rng, 2))
    assert cache.summary() == (2, sum(len(path.read_bytes()) for path in files(place)))


def test_clearing_deletes_features_and_keeps_weights(rng, place):
    weights = place / "weights" / "resnet50.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    cache.clear()
    assert files(place) == [weights]
    assert cache.summary() == (0, 0)


def test_clearing_deletes_fits_and_keeps_what_lies_beside_them(place):
    fit, beside = place / "fits" / "0123456789abcdef", place / "fits" / "mine" / "fit.npz"
    for file in (fit / "fit.npz", fit / "logs" / "events", beside):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    assert cache.summary() == (2, 10)
    cache.clear()
    assert files(place) == [beside]
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


def test_the_cache_lies_where_the_variable_says(place, tmp_path, monkeypatch):
    assert cache.folder() == place
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCALECUT_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "mine"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_it_lies_in_the_users_cache_folder(value, monkeypatch):
    if value is None:
        monkeypatch.delenv("SCALECUT_CACHE")
    else:
        monkeypatch.setenv("SCALECUT_CACHE", value)
    assert cache.folder() == Path(platformdirs.user_cache_dir("scalecut"))


def test_clearing_deletes_nothing_that_is_not_the_caches_own(rng, place):
    mine = place / "features" / "notes.safetensors"
    cache.add_shard(SETTING, keys("cat"), matrices(rng, 1))
    mine.write_bytes(b"mine")
    cache.clear()
    assert files(place) == [mine]
