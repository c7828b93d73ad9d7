"""Run the experiments of the paper one after another, and put its numbers next to ours.

Every step is a command of scalecut in a process of its own, with a run folder of its own. A step is
not run again if `paper.json` says that its folder holds the result of the same command, by the same
versions, from the same files.
"""

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors

from .. import runs
from ..data.images import Progress
from ..errors import DataError, several
from ..report.report import PAGE, write_report
from .claims import claims as claims_of
from .numbers import (
    AREAS,
    CUT,
    FINETUNED,
    GOOGLENET,
    INCEPTION,
    MAGNIFICATIONS,
    MATCHED,
    NETWORKS,
    NOISE,
    PATCHES,
    PICTURES,
    QUICK_NETWORKS,
    RESNET,
    RESNET_COMPLETE,
    SECTIONS,
    SIZES,
    STAND_IN,
    numbers_of,
    read,
    step_of,
)
from .tables import NOTES, finding, markdown

# folders of --data, as they are looked for, and the classes that are probed
IMAGES = {
    "imagenet": "n02058221,n01608432,n04037443",  # albatross, kite, racing car: graziani2021
    "voc-animals": "dog,cat,horse",
    "VOC2012": "dog,cat,horse",
}
SCENES = ("--data", "scenes")
ODD_KIDNEYS = "HE-7128,HE-7129,HE-7130"  # of MoNuSeg, with nuclei a third as large as others have
CLASSIFIERS = {"fc.weight", "loss3.classifier.weight"}
EXACT = ("--engine", "torch", "--precision", "float32")
DONE, BEFORE = "done", "done before"
EARLY = {
    INCEPTION: "mixed0", RESNET: "add_1", RESNET_COMPLETE: "add_1", GOOGLENET: "inception3a",
    STAND_IN: "blocks.1.1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """A command of scalecut, or why it cannot be run here."""

    name: str  # of its folder, inside that of the whole run
    what: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # steps without whose folders it cannot be run
    why_not: str = ""
    # files and folders of the user's; the step is run again if one of them is newer
    reads: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What was found of the paper, written to its folder already."""

    folder: Path  # that the tables, the page and a folder per step are in
    table: pd.DataFrame  # one row per number of the paper, the columns of `numbers.COLUMNS`
    claims: pd.DataFrame  # one row per claim and network
    facts: Mapping[str, Any]  # of `run.json`

    def finding(self) -> str:
        """How many numbers and claims are reproduced."""
        return str(self.facts["finding"])

    def to_frame(self) -> pd.DataFrame:
        """Every number of the paper next to ours."""
        return self.table.copy()


def reproduce(
    data: str | Path | None = None,
    out: str | Path = "runs/paper",
    *,
    quick: bool = False,
    skip: Sequence[str] = (),
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Reproduction:
    """Run the experiments of the paper, and put its numbers next to ours.

    Args:
        data: A folder with imagenet/ or voc-animals/ (VOC layout), monuseg/ (images, labels,
            images.csv) or nuclei/, and weights/; what it lacks is skipped, or downloaded.
        out: The run folder; with the same one a stopped run continues.
        quick: Fewer controls, sizes and networks: minutes, not hours.
        skip: Steps to skip, by name or the beginning of it: finetuned takes hours without a GPU.
        seed: Random seed of every step.
        progress: called with (text of the step, steps done, all steps).

    Raises:
        DataError: if there is no folder `data`, or no step begins as `skip` says.
        OutputError: if `out` exists and holds something else, or cannot be written.
    """
    skip = several(skip)
    data, out = None if data is None else Path(data), Path(out)
    if data is not None and not data.is_dir():
        raise DataError(f"There is no folder {str(data)!r}. Give --data a folder, or none.")
    runs.check_place(out, "paper")
    steps = _without(skip, [*planned(data, out, quick=quick, seed=seed)])
    out.mkdir(parents=True, exist_ok=True)
    record = _Record(out, [step.name for step in steps])
    ends: dict[str, tuple[str, float]] = {}
    for number, step in enumerate(steps):
        if progress:
            progress(step.what, number, len(steps))
        begun = time.perf_counter()
        failed = {name for name, (how, _) in ends.items() if how not in (DONE, BEFORE)}
        ends[step.name] = _done(step, record, failed), time.perf_counter() - begun
        if progress:
            progress(f"{step.what}: {ends[step.name][0]}", number + 1, len(steps))
    settings = {"quick": quick, "data": str(data or ""), "skip": list(skip), "seed": seed}
    return _written(ends, steps, record, settings, command)


def planned(data: Path | None, out: Path, *, quick: bool, seed: int) -> Iterator[Step]:
    """What is to be run, in this order; steps that cannot be are there with the reason.

    What takes hours comes last. A quick run has the curves of the paper's own networks and the
    stand-in, and the other experiments of the stand-in, whose weights need no download.
    """
    plan = _Plan(data, out, quick, ("--seed", str(seed)))
    yield from _curves(plan)
    yield from _image_sizes(plan)
    for network in plan.probed:
        what = f"The cut of {network}"
        run = ("--from", str(out / network), "--rule", "peak")
        yield plan.step(CUT, network, what, "cut", *run, needs=(network,))
    yield from _frozen_transfers(plan)
    for network in (INCEPTION, RESNET) if quick else plan.probed:
        what = f"Feature visualisation of {EARLY[network]} of {network}"
        if quick and not _weights(data, network):
            why = "no weights in --data, and --quick downloads none"
            yield Step(step_of(PICTURES, network), what, why_not=why)
            continue
        units = ("--layer", EARLY[network], "--unit", "0,1,2,3,4,5", *plan.seed)
        yield plan.step(PICTURES, network, what, "visualise", *plan.own(network), *units)
    for network in () if quick else plan.networks:
        yield _transfer(
            plan, FINETUNED, network, "all weights trained", "", "--mode", "finetune",
            "--raw-target",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Plan:
    data: Path | None
    out: Path
    is_quick: bool
    seed: tuple[str, ...]

    def step(
        self, kind: str, network: str, what: str, verb: str, *rest: str, needs: tuple[str, ...] = ()
    ) -> Step:
        name = step_of(kind, network) if kind else network
        arguments = (verb, *rest, "--out", str(self.out / name))
        return Step(name, what, arguments, needs, reads=_reads(self.data, arguments))

    @property
    def probed(self) -> tuple[str, ...]:
        return QUICK_NETWORKS if self.is_quick else NETWORKS

    @property
    def networks(self) -> tuple[str, ...]:
        """Those of experiments for which one that is complete would do; that one first."""
        others = () if self.is_quick else NETWORKS
        return tuple(dict.fromkeys((STAND_IN, *others)))

    @property
    def images(self) -> tuple[str, ...]:
        return _images_in(self.data) if self.data else ()

    def own(self, network: str) -> tuple[str, ...]:
        return (network, *_weights(self.data, network))


def _without(skipped: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """The steps, those that are not wanted with that as the reason."""
    for name in skipped:
        if not any(step.name.startswith(name) for step in steps):
            ends = tuple(step_of("", network) for network in NETWORKS)
            kinds = dict.fromkeys(
                next((step.name.removesuffix(end) for end in ends if step.name.endswith(end)),
                     step.name)
                for step in steps
            )  # fmt: skip
            raise DataError(
                f"No step begins with {name!r}. There are {len(steps)}, which begin with "
                f"{', '.join(kinds)}. Give --skip some of these."
            )
    return [
        replace(step, arguments=(), why_not="skipped by --skip")
        if step.name.startswith(tuple(skipped))
        else step
        for step in steps
    ]


def _curves(plan: _Plan) -> Iterator[Step]:
    images = plan.images or SCENES
    depth = ("--random-networks", "1", "--permutations", "99") if plan.is_quick else ()
    for network in plan.probed:
        what = f"R² by layer of {network}"
        if network != STAND_IN and not plan.images:
            yield Step(network, what, why_not=_lack(plan.data, "images with boxes", IMAGES))
            continue
        # least squares turns rounding of the features into other numbers
        asked = (*plan.own(network), *images, *depth, *EXACT, *plan.seed)
        yield plan.step("", network, what, "probe", *asked)


def _image_sizes(plan: _Plan) -> Iterator[Step]:
    """Images at other sizes, and noise at other sizes."""
    few = ("--at-most", "96", "--sizes", "0.5,1,2") if plan.is_quick else ("--at-most", "400")
    kinds = ("--noise", "white,pink" if plan.is_quick else "white,pink,blocks")
    paddings = ("--padding", "zeros,circular", "--noise-images", "63") if plan.is_quick else ()
    for kind, what, asked in (
        (SIZES, "Predictions at other image sizes", (*(plan.images or SCENES), *few)),
        (NOISE, "Image size predicted from noise", (*kinds, *paddings)),
    ):
        for network in plan.networks:
            step = plan.step(
                kind, network, f"{what}, {network}", "invariance", *plan.own(network), *asked,
                *plan.seed,
            )  # fmt: skip
            if kind == SIZES and _end_early(plan.data, network):
                why = "the weights in --data end before the logits, so there are no predictions"
                step = replace(step, arguments=(), why_not=why)
            yield step


def _frozen_transfers(plan: _Plan) -> Iterator[Step]:
    """Patches, as they are and with their blur matched, and the transfers to them."""
    nuclei = _nuclei(plan.data) if plan.data else None
    for suffix, extra in (("", ()), (MATCHED, ("--match-blur",)))[: 1 if plan.is_quick else 2]:
        how, name = ", blur matched" if suffix else "", PATCHES + suffix
        if nuclei is None:
            why = _lack(plan.data, "tissue tiles", ("nuclei", "monuseg"))
            yield Step(name, f"Patches{how}", why_not=why)
        else:
            asked = ("patches", *nuclei, *extra, *plan.seed, "--out", str(plan.out / name))
            yield Step(name, f"Patches{how}", asked, reads=_reads(plan.data, asked))
        for kind, task in ((AREAS, "area"), (MAGNIFICATIONS, "magnification")):
            for network in plan.networks:
                yield _transfer(plan, kind, network, task + how, suffix, "--task", task)


def _transfer(plan: _Plan, kind: str, network: str, what: str, suffix: str, *rest: str) -> Step:
    patches = PATCHES + suffix
    return plan.step(
        kind + suffix, network, f"Transfer to nuclei, {what}, {network}", "transfer",
        *plan.own(network), "--data", f"patches:{plan.out / patches}",
        "--from", str(plan.out / network), "--rule", "peak",
        "--methods", "pretrained,scratch,cut", *rest, *plan.seed, needs=(patches, network),
    )  # fmt: skip


# --- what there is to work on --------------------------------------------------------------------


def _images_in(data: Path) -> tuple[str, ...]:
    for folder, classes in IMAGES.items():
        if (data / folder).is_dir():
            return "--data", f"voc:{data / folder}", "--subset", classes
    return ()


def _reads(data: Path | None, arguments: Sequence[str]) -> tuple[Path, ...]:
    """The files and folders in --data that a command is given."""
    places = [Path(each.rpartition(":")[2]) for each in arguments]
    return tuple(place for place in places if data is not None and data in place.parents)


def _weights(data: Path | None, network: str) -> tuple[str, ...]:
    """Those of the folder, which may be incomplete; else the usual ones."""
    file = _file_of(data, network)
    return ("--weights", str(file), "--allow-partial") if file else ()


def _file_of(data: Path | None, network: str) -> Path | None:
    files = sorted(data.glob("weights/*.safetensors")) if data else []
    found = [file for file in files if _network_of(file) == network]
    if data and len(found) > 1:
        raise DataError(
            f"There are {len(found)} files of weights of {network} in {str(data / 'weights')!r}, "
            f"{found[0].name} and {found[1].name} first. Keep one of them."
        )
    return found[0] if found else None


def _network_of(file: Path) -> str:
    """The network whose name, the longest, that of the file begins with; `.` is as good as `_`."""
    words = [word for word in re.split(r"\W|_", file.name) if word]
    known = (n for n in NETWORKS if words[: n.count("_") + 1] == n.split("_"))
    return max(known, key=len, default="")


def _end_early(data: Path | None, network: str) -> bool:
    """Whether its file of weights lacks the classifier; one that cannot be read is not judged."""
    file = _file_of(data, network)
    if file is None:
        return False
    try:
        with safetensors.safe_open(file, "numpy") as stored:
            return CLASSIFIERS.isdisjoint(stored.keys())
    except (OSError, safetensors.SafetensorError):
        return False


def _nuclei(data: Path) -> tuple[str, ...] | None:
    """A folder of tiles with their masks next to them, as in `janowczyk2016`, or MoNuSeg."""
    monuseg, nuclei = data / "monuseg", data / "nuclei"
    if _is_theirs(data):
        return str(nuclei), "--masks", str(nuclei)
    if monuseg.is_dir():
        images, labels, split = (monuseg / each for each in ("images", "labels", "images.csv"))
        return (
            str(images), "--masks", str(labels), "--split", str(split), "--leave-out", ODD_KIDNEYS,
        )  # fmt: skip
    return None


def _is_theirs(data: Path) -> bool:
    """Whether the tiles are those of `janowczyk2016`, as in the paper."""
    return (data / "nuclei").is_dir()


def _lack(data: Path | None, what: str, folders: Mapping[str, str] | tuple[str, ...]) -> str:
    where = f" in {str(data)!r}" if data else ""
    return f"no {what}{where}; give --data a folder with {' or '.join(folders)}"


# --- running the steps ---------------------------------------------------------------------------


class _Record:
    """`paper.json`: of each step, the command, the versions and the files that its folder is of."""

    def __init__(self, out: Path, names: Sequence[str]) -> None:
        self.out, self.file = out, out / runs.MARKS["paper"]
        try:
            known = json.loads(self.file.read_text(encoding="utf-8")).get("done", {})
        except (OSError, ValueError, AttributeError):
            known = {}
        self.done: dict[str, Any] = known if isinstance(known, dict) else {}
        self.names = names
        self._write()

    def is_done(self, step: Step) -> bool:
        """Whether the folder of the step holds its result."""
        return _mark(self.out / step.name) is not None and self.done.get(step.name) == self._entry(
            step
        )

    def add(self, step: Step) -> None:
        self.done[step.name] = self._entry(step)
        self._write()

    def forget(self, step: Step) -> None:
        if self.done.pop(step.name, None):
            self._write()

    def _entry(self, step: Step) -> dict[str, Any]:
        """What a result depends on; of a step before it, the file that names its result."""
        marks = {name: _mark(self.out / name) for name in step.needs}
        return {
            "command": shlex.join(["scalecut", *step.arguments]),
            "versions": runs.versions(),
            "needs": {n: hashlib.sha256(m.read_bytes()).hexdigest() for n, m in marks.items() if m},
            "reads": [_fingerprint(place) for place in step.reads],
        }

    def _write(self) -> None:
        runs.write_json(self.file, {"steps": self.names, "done": self.done})


def _done(step: Step, record: _Record, failed: set[str]) -> str:
    """`DONE`, `BEFORE`, or why the step was skipped."""
    lacking = [n for n in step.needs if n in failed or not (record.out / n).is_dir()]
    if step.why_not or lacking:
        return step.why_not or f"needs the step {lacking[0]!r}"
    if record.is_done(step):
        return BEFORE
    record.forget(step)
    status, said = execute(step.arguments)
    if status in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if status == 2:
        return said.removeprefix("scalecut: ")
    if status < 0:
        usual = ", usually for lack of memory" if status == -signal.SIGKILL else ""
        return f"ended by signal {-status} ({signal.strsignal(-status)}){usual}"
    if status:
        command = shlex.join(["scalecut", *step.arguments])
        raise RuntimeError(f"{command} ended with exit status {status}: {said}")
    record.add(step)
    return DONE


def execute(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command of scalecut in a process of its own: its exit status, and its last words."""
    ran = subprocess.run(
        [sys.executable, "-m", "scalecut", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    return ran.returncode, " ".join(lines[-1].split()) if lines else ""


def _fingerprint(place: Path) -> str:
    """A hash that changes when a file, or anything in a folder, is replaced."""
    files = sorted(path for path in (place, *place.rglob("*")) if path.is_file())
    stats = [
        (str(path), each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for path, each in ((path, path.stat()) for path in files)
    ]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _mark(folder: Path) -> Path | None:
    """The file by which a folder of any kind says what it is."""
    marks = (folder / name for name in runs.MARKS.values())
    return next((mark for mark in marks if mark.is_file()), None)


def _written(
    ends: Mapping[str, tuple[str, float]],
    steps: Sequence[Step],
    record: _Record,
    settings: Mapping[str, Any],
    command: str,
) -> Reproduction:
    """Put the numbers next to the paper's, and write tables, figures and page."""
    out, data = record.out, settings["data"]
    lacking = {name: said for name, (said, _) in ends.items() if said not in (DONE, BEFORE)}
    others = {path.name for path in out.iterdir() if path.is_dir()} - ends.keys()
    found = read(
        out,
        lacking | dict.fromkeys(others, "not a step of this run"),
        has_images=bool(data) and _images_in(Path(data)) != (),
        is_their_tissue=bool(data) and _is_theirs(Path(data)),
    )
    table, claims = numbers_of(found), claims_of(found)
    typed = {s.name: shlex.join(["scalecut", *s.arguments]) if s.arguments else "" for s in steps}
    facts = {
        "model": "The paper next to ours",
        "finding": finding(table, claims),
        "settings": settings,
        "steps": [{"step": name, "command": said} for name, said in typed.items()],
        "experiments": [
            {"section": section, "title": title, "note": NOTES[section]}
            for section, title in SECTIONS.items()
        ],
        "pages": [name for name in ends if name not in lacking and (out / name / PAGE).is_file()],
        "left_out": [{"name": name, "reason": why} for name, why in lacking.items()],
        "stages": {name: {"seconds": round(seconds, 1)} for name, (_, seconds) in ends.items()},
    }
    with runs.gathered(out) as made:
        tables = {"paper": table, "claims": claims}
        runs.write_run(made, tables, facts, command=command)
        (made / "paper.md").write_text(markdown(table, claims), encoding="utf-8")
        write_report(made)
    return Reproduction(out, table, claims, facts)
