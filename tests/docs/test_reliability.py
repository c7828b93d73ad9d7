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


@pytest.fixture
def fuzz(monkeypatch):
    pytest.importorskip("atheris", reason="needs atheris")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fuzz")


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
    monkeypatch.setattr(fuzz, "SLOW", 0.1)
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
