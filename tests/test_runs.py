"""A run folder is complete or absent; what is read is what was written."""

import errno
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from scalecut import cache, runs
from scalecut.errors import DataError, OutputError
from scalecut.report.results import RESULTS, open_run
from scalecut.runs import (
    Run,
    check_features,
    check_place,
    continued,
    gathered,
    kind_of,
    new_run,
    read_run,
    write_features,
)
from tests.report.builders import curve, files_in

TABLE = pd.DataFrame({"layer": ["007", "nan", ""], "r2": [1 / 3, np.nan, -2.0], "n_fit": [1, 2, 3]})


def make_run(folder, text="a run"):
    with new_run(folder) as place:
        (place / "run.json").write_text(text)
        (place / "figures").mkdir()
        (place / "figures" / "curve.png").write_text(text)


def write(folder, facts=None, **tables):
    folder.mkdir(exist_ok=True)
    runs.write_run(folder, tables or {"curve": TABLE}, facts or {}, command="scalecut demo")
    return folder


# --- complete or absent --------------------------------------------------------------------------


def test_run_appears_when_it_is_complete_and_replaces_an_earlier_one_as_a_whole(tmp_path):
    run = tmp_path / "deep" / "runs" / "mine"
    with new_run(run) as place:
        (place / "run.json").write_text("old")
        (place / "note.txt").write_text("of the old run")
        assert not run.exists()
        assert place.parent == run.parent  # the same disk, so that renaming is enough
    assert run.stat().st_mode & 0o777 == 0o755
    make_run(run, "new")
    assert files_in(run.parent) == {
        "mine": None,
        "mine/run.json": b"new",
        "mine/figures": None,
        "mine/figures/curve.png": b"new",
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, OSError(errno.EIO, "I/O error")])
def test_interrupted_run_leaves_everything_as_it_was(tmp_path, error):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "run", "old")
    before = files_in(tmp_path)
    expected = OutputError if isinstance(error, OSError) else error
    for name in ("run", "empty", "none"):
        with pytest.raises(expected), new_run(tmp_path / name) as place:
            (place / "run.json").write_text("half")
            raise error
    assert files_in(tmp_path) == before


def test_earlier_run_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    run = tmp_path / "run"
    make_run(run, "old")
    before, rename = files_in(tmp_path), Path.rename

    def refused(self, target):
        if Path(target) == run and not self.name.endswith("-replaced"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match="Permission denied"):
        make_run(run, "new")
    assert files_in(tmp_path) == before


@pytest.fixture(scope="module")
def dead():
    """What names say of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return cache.process().replace(f"-{os.getpid()}", f"-{process.pid}")


def test_temporary_folders_of_killed_processes_are_removed_and_no_others(tmp_path, dead):
    make_run(tmp_path / "run")
    alive, hour = cache.process(), 3700
    elsewhere = f"01234567-{dead.partition('-')[2]}"
    ages = {
        f".run-{dead}-abcdefgh": 0,
        f".run-{dead}-abcdefgh-replaced": 0,
        f".run-{elsewhere}-abcdefg1": hour,
        f".run-{alive}-ab_defg1": hour,  # of a long run
        f".run-{alive}-abcdefgh": 0,
        f".run-{elsewhere}-abcdefgh": 0,
        f".run-2-{dead}-abcdefgh": hour,  # of the run "run-2"
        ".run-settings": hour,  # somebody else's
    }
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "curve.csv").write_text("half")
        os.utime(tmp_path / name, 2 * (time.time() - age,))
    make_run(tmp_path / "run", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"run", *[*ages][3:]}


def test_earlier_run_comes_back_if_its_process_was_killed_while_replacing_it(tmp_path, dead):
    make_run(tmp_path / f".run-{dead}-abcdefgh-replaced", "earlier")
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path / "run"):
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert (tmp_path / "run" / "run.json").read_text() == "earlier"


def gather(folder, text="a table"):
    with gathered(folder) as place:
        (place / "run.json").write_text(text)
        (place / "paper.csv").write_text(text)
        (place / "figures").mkdir()
        (place / "figures" / "paper.png").write_text(text)
        return place, {name for name in files_in(folder) if not name.startswith(".made-")}


def test_gathered_files_appear_next_to_the_runs_run_json_last(tmp_path, monkeypatch):
    make_run(tmp_path / "step")
    before, moved, replace = files_in(tmp_path), [], Path.replace

    def noted(self, target):
        moved.append(Path(target).relative_to(tmp_path).as_posix())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    place, meanwhile = gather(tmp_path)
    assert place.parent == tmp_path
    assert meanwhile == set(before)
    assert moved[-1] == "run.json"  # so that it vouches for the rest
    gather(tmp_path, "later")
    now = before | {"run.json": b"later", "paper.csv": b"later", "figures": None}
    assert files_in(tmp_path) == now | {"figures/paper.png": b"later"}
    with pytest.raises(KeyboardInterrupt), gathered(tmp_path) as place:
        (place / "run.json").write_text("half")
        raise KeyboardInterrupt
    assert files_in(tmp_path)["run.json"] == b"later"


# --- places that cannot be written to ------------------------------------------------------------

FULL = (
    "The disk of 'run' is full. Free space, or give --out a folder on another disk. Computed "
    "features are cached, so the same command continues from there."
)
REFUSED = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FULL),
    (
        OSError(errno.EROFS, "Read-only file system"),
        "'run' cannot be written (Read-only file system). Give --out a writable folder.",
    ),
    (OutputError("said by the figures."), "said by the figures."),
]


def test_failed_writing_says_where_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (new_run, gathered):
        if act is gathered:
            make_run(Path("run"))
        before = files_in(tmp_path)
        for error, text in REFUSED:
            with pytest.raises(OutputError) as caught, act(Path("run")):
                raise error
            assert str(caught.value) == text
        assert files_in(tmp_path) == before


@pytest.mark.parametrize("act", [check_place, lambda folder: new_run(folder).__enter__()])
@pytest.mark.parametrize("mark", ["run.json", "scalecut.json", "patches.json"])
def test_a_run_that_holds_another_folder_of_scalecut_is_not_replaced(tmp_path, act, mark):
    """A cut next to the curve that chose it would be deleted with it."""
    make_run(tmp_path / "run")
    inside = tmp_path / "run" / "short"
    inside.mkdir()
    (inside / mark).write_text("{}")
    before = files_in(tmp_path)
    with pytest.raises(OutputError, match="also holds 'short', which scalecut wrote, so it is not"):
        act(tmp_path / "run")
    assert files_in(tmp_path) == before


AUDITED = ("run.json", "audit.csv", "auditor/auditor.json", "auditor/network/scalecut.json")
AUDITOR = ("auditor.json", "network/scalecut.json")


@pytest.mark.parametrize(
    ("kind", "there", "other"),
    [
        ("run", AUDITED, None),
        ("auditor", AUDITOR, None),
        ("run", (*AUDITED, "short/scalecut.json"), "short"),
        ("run", (*AUDITED, "auditor/old/run.json"), "auditor/old"),
        ("auditor", (*AUDITOR, "network/scan/run.json"), "network/scan"),
        ("run", ("run.json", "curve.csv", "auditor/auditor.json"), "auditor"),  # of a probe
    ],
)
def test_a_folder_is_replaced_with_its_own_parts_and_with_no_others(tmp_path, kind, there, other):
    for name in there:
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text("{}")
    before = files_in(tmp_path)
    refused = pytest.raises(OutputError, match=f"also holds '{other}', which scalecut wrote")
    with refused if other else nullcontext():
        check_place(tmp_path / "a", kind)
        with new_run(tmp_path / "a", kind) as place:
            (place / runs.MARKS[kind]).write_text("new")
    assert (files_in(tmp_path) == before) is bool(other)


def test_a_run_is_replaced_by_the_command_that_wrote_it_and_by_no_other(tmp_path):
    make_run(tmp_path / "run", '{"command": "scalecut probe resnet50 --data csv:a.csv"}')
    check_place(tmp_path / "run", command="scalecut probe resnet18 --data csv:b.csv")
    check_place(tmp_path / "run")  # from Python
    with pytest.raises(OutputError, match="is a run of `scalecut probe`, so it is not replaced"):
        check_place(tmp_path / "run", command="scalecut data csv:a.csv")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_only_tables_of_features_are_replaced_by_features(tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    check_features(path)
    for table, is_kept in (
        (pd.DataFrame({"image": ["a"], "f0": [1.0], "f1": [2.0]}), False),
        (pd.DataFrame({"image": ["a"], "label": [1]}), True),
        (pd.DataFrame({"f0": [1.0]}), True),
    ):
        write_features(table, path)
        with pytest.raises(OutputError, match="no table of features") if is_kept else nullcontext():
            check_features(path)
    path.write_bytes(b"thesis\0")
    with pytest.raises(OutputError, match="no table of features, so it is not replaced"):
        check_features(path)


def test_place_is_checked_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a/b/run", "run"):
        check_place(Path(place))
    assert files_in(tmp_path) == {}
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("years of work")
    Path("file").touch()
    make_run(Path("run"))
    exists = (
        "{!r} exists and holds no {} of scalecut, so it is not replaced. Give --out a new folder."
    )
    refused = [
        ("thesis", "run", exists.format("thesis", "run")),
        ("run", "paper", exists.format("run", "paper")),
        ("file", "run", "'file' is a file, but a folder is needed. Give --out a new folder."),
        (
            "file/run",
            "run",
            "'file/run' cannot be written (Not a directory). Give --out a writable folder.",
        ),
    ]
    before = files_in(tmp_path)
    for place, kind, text in refused:
        for act in (check_place, lambda *given: new_run(*given).__enter__()):
            with pytest.raises(OutputError) as caught:
                act(Path(place), kind)
            assert str(caught.value) == text
    assert files_in(tmp_path) == before


# --- what is written, and read again -------------------------------------------------------------


def test_tables_have_six_decimals_and_names_stay_text(tmp_path):
    run = read_run(write(tmp_path / "run"))
    text = (run.folder / "curve.csv").read_bytes().decode()
    assert text == "layer,r2,n_fit\n007,0.333333,1\nnan,,2\n,-2.000000,3\n"
    assert (run.names(), run.has("curve"), run.has("noise")) == (["curve"], True, False)
    table = run.table("curve", ["layer", "r2"])
    pd.testing.assert_frame_equal(table, TABLE, atol=5e-7, rtol=0, check_dtype=False)
    (run.folder / "curve.csv").unlink()
    assert run.table("curve") is table  # it was parsed once


# The first row is as six decimals always were; what these would round away keeps six digits.
P_VALUES = [
    *((1 / 1001, "0.000999"), (1.0, "1.000000"), (1e-4, "0.000100"), (np.nan, "")),
    (0.0, "0.000000"),
    *((1 / 12_345, "8.100446e-05"), (4.2e-7, "4.200000e-07"), (3e-16, "3.000000e-16")),
]


@pytest.mark.parametrize(("p", "written"), P_VALUES)
def test_p_values_in_tables_are_never_rounded_to_zero(tmp_path, p, written):
    path = tmp_path / "differences.csv"
    runs.write_table(pd.DataFrame({"metric": ["kappa"], "better": [4.2e-7], "p_value": [p]}), path)
    assert path.read_bytes().decode() == f"metric,better,p_value\nkappa,0.000000,{written}\n"
    (found,) = pd.read_csv(path).p_value
    assert found == pytest.approx(p, rel=1e-3, nan_ok=True)


def test_run_json_holds_the_facts_and_what_they_were_computed_with(tmp_path):
    @dataclass
    class Weights:
        kind: str
        missing: tuple

    facts = {
        "weights": Weights("random", ("fc",)),
        "p": float("nan"),
        "note": "猫",
        "at": Path("x"),
    }
    run = read_run(write(tmp_path / "run", facts))
    assert "猫" in (run.folder / "run.json").read_text(encoding="utf-8")
    told = dict(run.facts)
    assert list(told)[:5] == ["format", "command", "written", "versions", "machine"]
    assert (told["format"], told["command"]) == (runs.FORMATS["run"], "scalecut demo")
    assert told["versions"] == {name: metadata.version(name) for name in runs.PACKAGES}
    assert told["machine"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (told["p"], told["note"], told["at"]) == (None, "猫", "x")  # JSON has no nan
    assert told["weights"] == {"kind": "random", "missing": ["fc"]}


def test_a_package_that_is_not_installed_has_no_version_and_the_run_is_saved(tmp_path, monkeypatch):
    installed = metadata.version

    def without_openvino(name):
        if name == "openvino":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", without_openvino)
    told = read_run(write(tmp_path / "run")).facts["versions"]
    assert sorted([*told, "openvino"]) == sorted(runs.PACKAGES)


def test_settings_are_the_arguments_with_options_flattened():
    @dataclass
    class Options:
        fit: str = "squash"
        sizes: tuple = (1, 2)

    given = {"model": Options(), "data": "voc:DIR", "reading": Options(), "progress": print}
    assert runs.settings_of(given) == {
        "model": "Options",
        "data": "voc:DIR",
        "fit": "squash",
        "sizes": (1, 2),
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_features_are_written_complete_or_not_at_all(tmp_path, suffix):
    file = tmp_path / "new" / f"features{suffix}"
    runs.write_features(TABLE, file)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    assert read(file).r2.tolist()[::2] == TABLE.r2.tolist()[::2]
    with pytest.raises(OutputError):
        runs.write_features(TABLE, file / f"below{suffix}")
    assert set(files_in(tmp_path)) == {"new", f"new/features{suffix}"}


# --- folders that cannot be read -----------------------------------------------------------------

UNREADABLE = "'run' holds no run of scalecut: run.json cannot be read ({}). Give a folder that "
UNREADABLE += "`scalecut probe` wrote."


def test_folder_that_cannot_be_read_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refusal(act, *given):
        with pytest.raises(DataError) as error:
            act(*given)
        return str(error.value)

    assert refusal(read_run, "run", "cut") == (
        "There is no folder 'run'. Give a folder that `scalecut cut` wrote."
    )
    file = write(Path("run")) / "run.json"
    broken = {
        "[]": "it holds a list",
        '{"format": "2"}': "its format is '2'",
        '{"format": 2, "proof": {}}': "it lacks 'proof.lines'",
    }
    for text, reason in broken.items():
        file.write_text(text)
        assert refusal(read_run, "run", "run", ["proof.lines"]) == UNREADABLE.format(reason)
    for content in (b"{", b"\xff", b""):
        file.write_bytes(content)
        assert refusal(read_run, "run").startswith(UNREADABLE.split("{}")[0])
    file.write_text('{"format": 99}')
    assert refusal(read_run, "run", "run", ["proof"]) == (
        "'run' has format 99, but this version reads up to 2. Update scalecut."
    )
    run, table = Run(Path("run"), {}), "The run 'run' has no readable {}.csv ({}). Run the command "
    table += "again."
    assert refusal(run.table, "curve", ["layer", "depth"]) == (
        table.format("curve", "it lacks the column 'depth'")
    )
    Path("run/noise.csv").touch()
    assert refusal(run.table, "noise") == table.format("noise", "No columns to parse from file")


def test_what_a_stopped_process_has_written_is_continued_with_the_same_key_only(tmp_path):
    out, place = tmp_path / "out", tmp_path / ".out-unfinished"
    for key, error in (("one", KeyboardInterrupt), ("one", OSError), ("two", DataError)):
        with pytest.raises((error, OutputError)), continued(out, "patches", {"key": key}) as folder:
            assert folder == place
            assert (folder / "part").exists() == (error is OSError)
            (folder / "part").touch()
            raise error("stopped")
        assert not out.exists()
        assert place.exists() == (error is not DataError)
    with continued(out, "patches", {"key": "two"}) as folder:
        (folder / "patches.json").touch()
    assert [path.name for path in out.iterdir()] == ["patches.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_processes_do_not_write_one_folder(tmp_path):
    place = tmp_path / ".out-unfinished"
    place.mkdir()
    machine = cache.process().partition("-")[0]
    (place / f"writer-{machine}-{os.getppid()}").touch()
    with (
        pytest.raises(OutputError, match="Another process is writing"),
        continued(tmp_path / "out", "patches", {}),
    ):
        pass
    (place / f"writer-{machine}-{os.getppid()}").rename(place / f"writer-{machine}-999999999")
    with continued(tmp_path / "out", "patches", {}):  # of a process that is no more
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no start of processes is known")
def test_a_process_that_has_the_number_of_an_earlier_one_is_another(tmp_path):
    place = tmp_path / ".out-unfinished"
    place.mkdir()
    writer = place / cache.process().replace(f"-{os.getpid()}", f"-{os.getppid()}")
    writer = writer.with_name(f"writer-{writer.name}")
    start = cache.start_of(os.getppid())
    for text, is_refused in ((start, True), (f"{int(start) - 1}", False)):
        writer.write_text(text)
        refused = pytest.raises(OutputError, match="Another process is writing")
        with refused if is_refused else nullcontext(), continued(tmp_path / "out", "patches", {}):
            pass


def test_a_process_says_as_long_as_it_works_that_it_does(tmp_path, monkeypatch):
    """Others see, on another machine, only how old its file is."""
    monkeypatch.setattr(runs, "SIGNED_EVERY", 0.01)
    hours_ago = time.time() - 3 * cache.STALE_AFTER
    with pytest.raises(KeyboardInterrupt), continued(tmp_path / "out", "patches", {}) as place:
        (writer,) = place.glob("writer-*")
        elsewhere = place / "writer-01234567-1"
        os.utime(writer, (hours_ago, hours_ago))
        waited = (time.sleep(0.01) for _ in range(1000))
        while writer.stat().st_mtime < hours_ago + 1:
            next(waited)
        os.link(writer, elsewhere)
        assert not cache.of_dead_process(elsewhere, "writer-", "")
        raise KeyboardInterrupt
    assert not writer.exists()  # an interpreter that goes on does not keep others out


# --- a run as the result that wrote it -----------------------------------------------------------


def test_curve_is_opened_as_a_curve(tmp_path):
    made = curve()
    found = open_run(made.save(tmp_path / "run"))
    assert type(found) is type(made)
    assert found.finding() == made.finding()
    np.testing.assert_array_equal(found.draws, made.draws)


@pytest.mark.parametrize("name", ["transfer", "noise", "cut", "patches"])
def test_folder_is_opened_by_what_is_registered_for_its_table_or_kind(tmp_path, monkeypatch, name):
    opened = []
    module, function = RESULTS[name].split(":")
    reader = SimpleNamespace(**{function: opened.append})
    monkeypatch.setitem(sys.modules, f"scalecut.{module}", reader)
    if name in runs.MARKS:
        (tmp_path / runs.MARKS[name]).write_text("{}")
    else:
        write(tmp_path, **{name: TABLE, "differences": TABLE})
    assert kind_of(tmp_path) == (name if name in runs.MARKS else "run")
    open_run(tmp_path)
    assert opened == [tmp_path]


def test_run_of_no_known_result_says_how_to_read_its_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("run"), own=TABLE, other=TABLE)
    with pytest.raises(DataError) as error:
        open_run("run")
    assert str(error.value) == (
        "The run 'run' cannot be opened as a result: its tables are other, own. Read them with "
        "scalecut.runs.read_run(folder).table(name)."
    )
    with pytest.raises(DataError, match="There is no folder 'none'"):
        open_run("none")
