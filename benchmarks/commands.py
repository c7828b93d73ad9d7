"""The time of whole commands, each in a process of its own, and of the first version's probe."""

import io
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalecut.runs import read_run

ROOT = Path(__file__).parents[1]
RELEASED = "cf6fad8"  # the first version
NETWORK = "tf_efficientnet_lite0"  # its weights are in a package


def seconds_of_commands(data: Sequence[str], scenes: int, folder: Path) -> dict[str, float]:
    """Seconds by command; the first version is missing if it cannot be run."""
    ours, asked = ROOT / "src", ["probe", NETWORK, "--data", *data, "--out"]

    def seconds(arguments: Sequence[str], cache: str, source: Path = ours) -> float:
        found = {"PYTHONPATH": f"{source}", "SCALECUT_CACHE": f"{folder / cache}"}
        start = time.perf_counter()
        asked = [sys.executable, "-m", "scalecut", *arguments]
        output_of(asked, os.environ | found)
        return time.perf_counter() - start

    took = {
        "help": statistics.median(seconds(["--help"], "none") for _ in range(5)),
        "demo": seconds(["demo", "--images", f"{scenes}", "--out", f"{folder}/demo"], "of demo"),
        "probe": seconds([*asked, f"{folder}/first"], "full"),
    }
    try:
        source = first_version(folder / "first version")
        took["first version"] = seconds([*asked, f"{folder}/before"], "of first version", source)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"The first version could not be run: {error}\n")
    took["probe, cached"] = seconds([*asked, f"{folder}/second"], "full")
    stages: Any = read_run(folder / "second").facts["stages"]
    of_fits = sum(stages[name]["seconds"] for name in ("regression", "layers together"))
    return took | {"regression": of_fits}


def first_version(folder: Path) -> Path:
    """Its source, from the history of the repository."""
    asked = ["git", "-C", f"{ROOT}", "archive", RELEASED, "src"]
    with tarfile.open(fileobj=io.BytesIO(output_of(asked, os.environ))) as tar:
        tar.extractall(folder, filter="data")
    return folder / "src"


def output_of(asked: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """What a command writes; if it fails, an error with the last line that it said."""
    done = subprocess.run(asked, capture_output=True, env=environment)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"{' '.join(asked)}: {said[-1]}")
    return done.stdout
