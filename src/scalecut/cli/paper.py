"""The command that runs the paper's experiments, one after another, and sets them beside ours.

Every step is a command of scalecut, as one would type it, with a run folder of its own; a step
whose folder is there, of the same command and versions, is not run again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import safetensors
import typer
from pandas import DataFrame

from .. import runs
from ..errors import DataError, ScalecutError
from ..paper.claims import claims as claims_of
from ..paper.numbers import (
    AREAS,
    CUT,
    FINETUNED,
    INCEPTION,
    MAGNIFICATIONS,
    MATCHED,
    NETWORKS,
    NOISE,
    PATCHES,
    PICTURES,
    RESNET,
    SIZES,
    STAND_IN,
    beside,
    read,
    step_of,
)
from ..paper.tables import finding, markdown
from ..report.report import draw, write_page
from ..report.story import PAGE
from .console import ERR, OUT, command, in_words, print_json, print_run, records, typed
from .options import JsonOption, SeedOption, listed
from .terminal import plain_table

# folders of --data, as they are looked for, and the classes that are probed
PHOTOGRAPHS = {
    "imagenet": "n02058221,n01608432,n04037443",  # albatross, kite, racing car: graziani2021
    "voc-animals": "dog,cat,horse",
    "VOC2012": "dog,cat,horse",
}
SCENES = ("--data", "scenes")
ODD_KIDNEYS = "HE-7128,HE-7129,HE-7130"  # of MoNuSeg, with nuclei a third as large as others have
CLASSIFIER = "fc.weight"  # of both networks of the paper
DONE, BEFORE = "done", "done before"
EARLY = {INCEPTION: "mixed0", RESNET: "add_1", STAND_IN: "blocks.1.1"}


@dataclass(frozen=True, slots=True)
class Step:
    """A command of scalecut, or why it cannot be run here.

    Args:
        name: of its folder, inside that of the whole run.
        needs: steps without whose folders it cannot be run.
        reads: files and folders of the user's; the step is run again if one of them is newer.
    """

    name: str
    what: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    why_not: str = ""
    reads: tuple[Path, ...] = ()


def about_paper(app: typer.Typer) -> None:
    """Add the command of this module, which runs the others of the same app."""

    @app.command()
    def paper(
        quick: Annotated[
            bool,
            typer.Option("--quick", help="Fewer twins, sizes and controls: minutes, not hours."),
        ] = False,
        data: Annotated[
            Path | None,
            typer.Option(
                help="A folder with imagenet/ or voc-animals/ (VOC layout), monuseg/ (images, "
                "labels, images.csv) or nuclei/, and weights/; what it lacks is left out, or "
                "downloaded."
            ),
        ] = None,
        out: Annotated[
            Path, typer.Option(help="The run folder; with the same one a stopped run goes on.")
        ] = Path("runs/paper"),
        skip: Annotated[
            str,
            typer.Option(
                help="Steps to leave out, by name or its beginning: finetuned takes hours without "
                "a GPU."
            ),
        ] = "",
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Run the paper's experiments and set its numbers beside ours.

        \b
        Examples:
          scalecut paper --quick
          scalecut paper --quick --data MY/FOLDER --out runs/paper
          scalecut paper --data MY/FOLDER
          scalecut paper --data MY/FOLDER --skip finetuned,noise-inception_v3
        """
        if data is not None and not data.is_dir():
            raise DataError(
                f"There is no folder {str(data)!r}. Give --data a folder, or leave it out."
            )
        runs.check_place(out, "paper")
        steps = _without(listed(skip), [*planned(data, out, quick=quick, seed=seed)])
        out.mkdir(parents=True, exist_ok=True)
        with runs.gathered(out) as made:
            mark = json.dumps({"steps": [step.name for step in steps]})
            (made / runs.MARKS["paper"]).write_text(mark)
        commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
        told = _all_done(commands, steps, out, is_quiet=as_json)
        settings = {"quick": quick, "data": str(data or ""), "skip": skip, "seed": seed}
        facts, table, claims = _written(told, steps, out, settings)
        if as_json:
            found = {"paper": records(table), "claims": records(claims)}
            print_json({"run": str(out), **facts, **found})
            return
        OUT.print(plain_table(_in_two_columns(claims), "What the paper claims, and what is found"))
        print_run(out, "", facts["finding"])


def _in_two_columns(claims: DataFrame) -> DataFrame:
    """Claims as a terminal has room for."""
    of = claims.network.map(lambda network: f" ({network})" if network else "")
    return DataFrame({"mark": claims["mark"], "claim": claims.claim + of + ": " + claims.found})


def planned(data: Path | None, out: Path, *, quick: bool, seed: int) -> Iterator[Step]:
    """What is to be run, in this order; steps that cannot be are there with the reason.

    What takes hours comes last. A quick run has the experiments of the stand-in, which is complete.
    """
    plan = _Plan(data, out, quick, ("--seed", str(seed)))
    yield from _curves(plan)
    yield from _image_sizes(plan)
    for network in NETWORKS:
        what = f"The cut of {network}"
        run = ("--from", str(out / network), "--rule", "peak")
        yield plan.step(CUT, network, what, "cut", *run, needs=(network,))
    yield from _frozen_transfers(plan)
    for network in (INCEPTION, RESNET) if quick else NETWORKS:
        what = f"What {EARLY[network]} of {network} sees"
        if quick and not _weights(data, network):
            why = "no weights in --data, and --quick downloads none"
            yield Step(step_of(PICTURES, network), what, why_not=why)
            continue
        units = ("--layer", EARLY[network], "--unit", "0,1,2,3,4,5", *plan.seed)
        yield plan.step(PICTURES, network, what, "visualise", *plan.own(network), *units)
    for network in () if quick else (STAND_IN, INCEPTION, RESNET):
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
    def networks(self) -> tuple[str, ...]:
        """Those of experiments for which one that is complete would do."""
        return (STAND_IN,) if self.is_quick else (STAND_IN, INCEPTION, RESNET)

    @property
    def photographs(self) -> tuple[str, ...]:
        return _photographs(self.data) if self.data else ()

    def own(self, network: str) -> tuple[str, ...]:
        return (network, *_weights(self.data, network))


def _without(skipped: Sequence[str], steps: Sequence[Step]) -> list[Step]:
    """The steps, those that are not wanted with that as the reason.

    Raises:
        DataError: if no step has such a name, or one that begins so.
    """
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
        replace(step, arguments=(), why_not="left out by --skip")
        if step.name.startswith(tuple(skipped))
        else step
        for step in steps
    ]


def _curves(plan: _Plan) -> Iterator[Step]:
    images = plan.photographs or SCENES
    depth = ("--twins", "1", "--permutations", "99") if plan.is_quick else ()
    for network in NETWORKS:
        what = f"R² by layer of {network}"
        if network != STAND_IN and not plan.photographs:
            yield Step(network, what, why_not=_lack(plan.data, "photographs", PHOTOGRAPHS))
            continue
        asked = (*plan.own(network), *images, *depth, *plan.seed)
        yield plan.step("", network, what, "probe", *asked)


def _image_sizes(plan: _Plan) -> Iterator[Step]:
    """Pictures at other sizes, and noise at other sizes."""
    few = ("--at-most", "96", "--sizes", "0.5,1,2") if plan.is_quick else ("--at-most", "400")
    kinds = ("--noise", "white,pink" if plan.is_quick else "white,pink,blocks")
    paddings = ("--padding", "zeros,circular", "--noise-images", "63") if plan.is_quick else ()
    for kind, what, asked in (
        (SIZES, "Predictions at other image sizes", (*(plan.photographs or SCENES), *few)),
        (NOISE, "Image size read from noise", (*kinds, *paddings)),
    ):
        for network in plan.networks:
            step = plan.step(
                kind, network, f"{what}, {network}", "invariance", *plan.own(network), *asked,
                *plan.seed,
            )  # fmt: skip
            if kind == SIZES and _end_early(plan.data, network):
                why = "the weights in --data end before the logits, so that it gives no answers"
                step = replace(step, arguments=(), why_not=why)
            yield step


def _frozen_transfers(plan: _Plan) -> Iterator[Step]:
    """Patches, as they are and with their blur matched, and the transfers to them."""
    nuclei = _nuclei(plan.data) if plan.data else None
    for suffix, extra in (("", ()), (MATCHED, ("--match-blur",)))[: 1 if plan.is_quick else 2]:
        how, name = ", blur matched" if suffix else "", PATCHES + suffix
        if nuclei is None:
            why = _lack(plan.data, "tiles of tissue", ("nuclei", "monuseg"))
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
        "--contestants", "pretrained,scratch,cut", *rest, *plan.seed, needs=(patches, network),
    )  # fmt: skip


# --- what there is to work on --------------------------------------------------------------------


def _photographs(data: Path) -> tuple[str, ...]:
    for folder, classes in PHOTOGRAPHS.items():
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
    found = sorted(data.glob(f"weights/{network}*.safetensors")) if data else []
    if data and len(found) > 1:
        raise DataError(
            f"There are {len(found)} files of weights of {network} in {str(data / 'weights')!r}, "
            f"{found[0].name} and {found[1].name} first. Leave one there."
        )
    return found[0] if found else None


def _end_early(data: Path | None, network: str) -> bool:
    """Whether its file of weights lacks the classifier; one that cannot be read is not judged."""
    file = _file_of(data, network)
    if file is None:
        return False
    try:
        with safetensors.safe_open(file, "numpy") as stored:
            return CLASSIFIER not in stored.keys()  # noqa: SIM118 - no dict
    except (OSError, safetensors.SafetensorError):
        return False


def _nuclei(data: Path) -> tuple[str, ...] | None:
    """A folder of tiles with their masks beside them, as in `janowczyk2016`, or MoNuSeg."""
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
    where = f"in {str(data)!r}" if data else "at hand"
    return f"no {what} {where}; give --data a folder with {' or '.join(folders)}"


# --- running the steps ---------------------------------------------------------------------------


def _all_done(
    commands: Mapping[str, Any], steps: Sequence[Step], out: Path, *, is_quiet: bool
) -> dict[str, tuple[str, float]]:
    """How each step ended, by its name (`DONE`, `BEFORE`, or why not), and in how many seconds."""
    told: dict[str, tuple[str, float]] = {}
    for number, step in enumerate(steps, start=1):
        begun = time.perf_counter()
        try:
            failed = {name for name, (how, _) in told.items() if how not in (DONE, BEFORE)}
            said = _done(commands, step, out, failed)
        except KeyboardInterrupt:
            ERR.print(
                f"scalecut: stopped at step {number} of {len(steps)}; the same command goes on "
                "from there.",
                soft_wrap=True,
            )
            raise
        seconds = time.perf_counter() - begun
        told[step.name] = said, seconds
        if not is_quiet:
            tail = f"{seconds:.0f} s" if said == DONE else said
            OUT.print(f"{number:>2} of {len(steps)}  {step.what}: {tail}", soft_wrap=True)
    return told


def _done(commands: Mapping[str, Any], step: Step, out: Path, failed: Set[str]) -> str:
    """`DONE`, `BEFORE`, or why it was not."""
    lacking = [name for name in step.needs if name in failed or not (out / name).is_dir()]
    if step.why_not or lacking:
        return step.why_not or f"needs the step {lacking[0]!r}"
    if _is_there(out, step):
        return BEFORE
    verb, *rest = step.arguments
    ERR.print(f"{step.what} ...", soft_wrap=True)
    try:
        with typed(step.arguments), redirect_stdout(StringIO()):
            verb_of = commands[verb]
            with verb_of.make_context(f"scalecut {verb}", rest) as context:
                verb_of.invoke(context)
    except ScalecutError as error:
        return " ".join(str(error).split())
    return DONE


def _is_there(out: Path, step: Step) -> bool:
    """Whether its folder holds its result, by the same versions, later than what it is made of."""
    mark = _mark(out / step.name)
    if mark is None:
        return False
    try:
        facts = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(facts, dict) or facts.get("versions") != runs.versions():
        return False
    made, needed = mark.stat().st_mtime_ns, [_mark(out / name) for name in step.needs]
    return (
        facts.get("command") == in_words(step.arguments)
        and all(each and each.stat().st_mtime_ns <= made for each in needed)
        and all(_changed(place) <= made for place in step.reads)
    )


def _changed(place: Path) -> int:
    """When a file, or anything in a folder, was written or put there last, in nanoseconds."""
    files = (each.stat() for each in (place, *place.rglob("*")))
    return max(time for each in files for time in (each.st_mtime_ns, each.st_ctime_ns))


def _mark(folder: Path) -> Path | None:
    """The file by which a folder of any kind says what it is."""
    marks = (folder / name for name in runs.MARKS.values())
    return next((mark for mark in marks if mark.is_file()), None)


def _written(
    told: Mapping[str, tuple[str, float]],
    steps: Sequence[Step],
    out: Path,
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], DataFrame, DataFrame]:
    """Set the numbers beside the paper's and write them: the facts, the numbers, the claims."""
    lacking = {name: said for name, (said, _) in told.items() if said not in (DONE, BEFORE)}
    others = {path.name for path in out.iterdir() if path.is_dir()} - told.keys()
    data = settings["data"]
    of_before = dict.fromkeys(others, "not a step of this run")
    found = read(
        out,
        lacking | of_before,
        is_photographs=bool(data) and _photographs(Path(data)) != (),
        is_their_tissue=bool(data) and _is_theirs(Path(data)),
    )
    table, claims = beside(found), claims_of(found)
    facts = {
        "finding": finding(table, claims),
        "steps": [
            {"step": s.name, "command": in_words(s.arguments) if s.arguments else ""} for s in steps
        ],
        "pages": [s.name for s in steps if (out / s.name / PAGE).is_file()],
        "left_out": [{"name": name, "reason": why} for name, why in lacking.items()],
        "stages": {name: {"seconds": round(seconds, 1)} for name, (_, seconds) in told.items()},
    }
    with runs.gathered(out) as made:
        tables = {"paper": table, "claims": claims}
        runs.write_run(made, tables, facts, command=command(), settings=settings)
        (made / "paper.md").write_text(markdown(table, claims), encoding="utf-8")
        draw(made)
        write_page(made)
    return facts, table, claims
