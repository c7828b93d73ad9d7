"""What `make test-hard` counts as wrong: each fault is planted once, and has to be noticed."""

import importlib
import itertools
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from scalecut.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def fuzz():
    pytest.importorskip("atheris", reason="needs atheris")
    return importlib.import_module("fuzz")


def test_rows_of_the_page_are_replaced_by_name_and_others_stay():
    reliability = importlib.import_module("reliability")
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for part, head in reliability.HEADS.items():
        blank = ("",) * (len(head) - 2)
        once = reliability.with_rows(page, part, [("`a`, b", *blank, "1"), ("c", *blank, "1")])
        twice = reliability.with_rows(once, part, [("c", *blank, "2")])
        assert twice == once.replace(
            f"| c {'|  ' * len(blank)}| 1 |", f"| c {'|  ' * len(blank)}| 2 |"
        )
        assert twice != once
        assert once.partition("<!-- ")[0] == page.partition("<!-- ")[0]


def test_a_row_says_in_bold_how_often_something_was_wrong():
    reliability = importlib.import_module("reliability")
    assert reliability.cells_of(reliability.Case("a", 10)) == ("a", "10", "10")
    bad = reliability.Case("a", 10, ("other digits",), "5 late")
    assert reliability.cells_of(bad) == ("a", "10, 5 late", "**9**")
    found = reliability.Outcome("PNG", read=1000, refused=34, most_bytes=2**21)
    assert reliability.cells_of(found) == ("PNG", "1,034", "1,000", "34", "0", "0", "0.0", "2")


def test_what_a_kill_left_or_lost_is_noticed(tmp_path):
    faults = importlib.import_module("faults")
    place = faults.Place(tmp_path)
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "a").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "a" / "shard.safetensors").touch()
    (tmp_path / "out" / "curve.csv").write_text("r2\n0.5\n")
    (tmp_path / "out" / "run.json").write_text('{"finding": "0.5", "written": "today"}')
    (tmp_path / "out" / "report.html").write_text("today")
    expected, files = place.result(), place.files()
    (tmp_path / "out" / "run.json").write_text('{"finding": "0.5", "written": "tomorrow"}')
    (tmp_path / "out" / "report.html").write_text("tomorrow")
    assert faults._difference(place.result(), expected) == ""
    for file, text in (("run.json", '{"finding": "0.6"}'), ("curve.csv", "r2\n0.6\n")):
        before = (tmp_path / "out" / file).read_text()
        (tmp_path / "out" / file).write_text(text)
        assert faults._difference(place.result(), expected) == f"other digits in {file}"
        (tmp_path / "out" / file).write_text(before)
    (tmp_path / "out" / "report.html").unlink()
    assert faults._difference(place.result(), expected) == "lacks report.html"
    (tmp_path / "cache" / "features" / "a" / "another.safetensors").touch()
    assert place.files() - files == set()
    for name in (".out-0-1-abcdefgh/run.json", "cache/features/a/.0.part", "temporary/tmp1/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        assert name in place.files() - files


def refused(_):
    raise DataError("The file is broken. Write it again.")


def silent(_):
    raise DataError("")


def untidy(_):
    raise KeyError("name")


def slow(_):
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass


def hanging(_):
    sum(itertools.repeat(0))  # never returns to Python


def waiting(_):
    time.sleep(1000)


def hungry(_):
    return b"\1" * 2**26


def crashing(_):
    os.kill(os.getpid(), signal.SIGSEGV)


PLANTED = {
    refused: "",
    silent: "an error without a message",
    untidy: "KeyError at test_reliability.py",
    slow: "0 s",
    hanging: "more than 0.2 s",
    waiting: "waited for more than 10 s",
    hungry: "0.1 GB",
    crashing: "the process ended with",
}


@pytest.mark.long
@pytest.mark.parametrize("read", PLANTED, ids=lambda read: read.__name__)
def test_every_planted_fault_of_a_reader_is_noticed(fuzz, monkeypatch, tmp_path, read):
    calls = itertools.count()

    def reads_the_valid_file(spec):
        return None if next(calls) == 0 else read(spec)

    def write(folder):
        (folder / "a.txt").write_text("1 2 3")
        return str(folder / "a.txt")

    monkeypatch.setitem(fuzz.READERS, "x", fuzz.Reader(write, "a.txt", reads_the_valid_file))
    monkeypatch.setattr(fuzz, "SLOW", 0.1 if read in (slow, hanging) else 10.0)
    monkeypatch.setattr(fuzz, "MUCH", 2**25)
    monkeypatch.setattr(fuzz, "WAITING", 10.0 if read is waiting else 300.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = fuzz._of_reader("x", 300.0, 0, tmp_path, most_files=3)
    assert found.read == 0
    if PLANTED[read]:
        assert found.refused == 0
        assert PLANTED[read] in found.wrong[0]
        assert list((tmp_path / "scalecut-fuzz" / "x").glob("*.txt"))
    else:
        assert found.wrong == []
        assert found.refused >= 3
