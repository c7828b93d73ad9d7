"""Freed memory serves again after `reused`, and goes back to the system with `freed`."""

import ctypes
import subprocess
import sys

import pytest

from scalecut import memory

SCRIPT = """
from pathlib import Path
import numpy as np
from scalecut import memory

def left_over():
    before = resident()
    np.ones(60_000_000 // 8)
    return resident() - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000

print(left_over())
memory.reused()
print(left_over(), left_over())
before = resident()
memory.freed()
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs the C library of GNU")
def test_large_blocks_are_kept_from_then_on_and_given_back_when_asked():
    asked = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    returned, kept, kept_again, given_back = map(int, done.stdout.split())  # in MB
    assert abs(returned) < 20
    assert kept > 40
    assert abs(kept_again) < 20
    assert given_back < -40


def test_other_systems_have_nothing_to_do(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.reused()
    memory.freed()
