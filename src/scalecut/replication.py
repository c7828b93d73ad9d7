"""The command that runs the paper's experiments, one after another, and sets them beside ours.

Every step is a command of scalecut, as one would type it, with a run folder of its own; a step
whose folder is there, of the same command and versions, is not run again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from pandas import DataFrame

from . import runs
from .claims import claims as claims_of
from .console import ERR, OUT, command, in_words, print_json, print_run, records, typed
from .errors import DataError, ScalecutError
from .ledger import finding, markdown
from .options import JsonOption, SeedOption
from .paper import (
    AREAS,
    FINETUNED,
    INCEPTION,
    MAGNIFICATIONS,
    MATCHED,
    NETWORKS,
    NOISE,
    PATCHES,
    RESNET,
    SIZES,
    STAND_IN,
    beside,
    cut_of,
    pictures_of,
    read,
)
from .report import draw, write_page
from .story import PAGE
from .terminal import plain_table

# folders of --data, as they are looked for, and the classes that are probed
PHOTOGRAPHS = {
    "imagenet": "n02058221,n01608432,n04037443",  # albatross, kite, racing car: graziani2021
    "voc-animals": "dog,cat,horse",
    "VOC2012": "dog,cat,horse",
}
ODD_KIDNEYS = "HE-7128,HE-7129,HE-7130"  # of MoNuSeg, with nuclei a third as large as others have
DONE, BEFORE = "done", "done before"
EARLY = {INCEPTION: "mixed0", RESNET: "add_1", STAND_IN: "blocks.1.1"}


@dataclass(frozen=True, slots=True)
class Step:
    """A command of scalecut, or why it cannot be run here.

    Args:
        name: of its folder, inside that of the whole run.
        needs: steps without whose folders it cannot be run.
    """

    name: str
    what: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    why_not: str = ""


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
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Run every experiment of Graziani et al. 2021 and set each of its numbers beside ours.

        \b
        Examples:
          scalecut paper --quick
          scalecut paper --quick --data MY/FOLDER --out runs/paper
          scalecut paper --data MY/FOLDER
        """
        if data is not None and not data.is_dir():
            raise DataError(
                f"There is no folder {str(data)!r}. Give --data a folder, or leave it out."
            )
        runs.check_place(out, "paper")
        steps = [*planned(data, out, quick=quick, seed=seed)]
        out.mkdir(parents=True, exist_ok=True)
        (out / runs.MARKS["paper"]).write_text(json.dumps({"steps": [step.name for step in steps]}))
        commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
        told = _all_done(commands, steps, out, is_quiet=as_json)
        settings = {"quick": quick, "data": str(data or ""), "seed": seed}
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
    """What is to be run, in this order; steps that cannot be are there with the reason."""
    photographs = _photographs(data) if data else None
    images = photographs or ("--data", "scenes")
    common = ("--seed", str(seed))
    depth = ("--twins", "1", "--permutations", "99") if quick else ()
    for network in NETWORKS:
        what = f"R² by layer of {network}"
        if network != STAND_IN and photographs is None:
            yield Step(network, what, why_not=_lack(data, "photographs", PHOTOGRAPHS))
            continue
        own = _weights(data, network)
        yield _step("probe", out, network, what, network, *own, *images, *depth, *common)
    few = ("--at-most", "96", "--sizes", "0.5,1,2") if quick else ("--at-most", "400")
    what = "Predictions at other image sizes"
    yield _step("invariance", out, SIZES, what, STAND_IN, *images, *few, *common)
    kinds = ("--noise", "white,pink" if quick else "white,pink,blocks")
    paddings = ("--padding", "zeros,circular", "--noise-images", "63") if quick else ()
    what = "Image size read from noise"
    yield _step("invariance", out, NOISE, what, STAND_IN, *kinds, *paddings, *common)
    for network in NETWORKS:
        yield _step(
            "cut", out, cut_of(network), f"The cut of {network}", "--from", str(out / network),
            "--rule", "peak", needs=(network,),
        )  # fmt: skip
    yield from _transfers(data, out, quick, common)
    for network in (INCEPTION, RESNET) if quick else NETWORKS:
        own = (*_weights(data, network), "--layer", EARLY[network])
        what = f"What {EARLY[network]} of {network} sees"
        if quick and not own[:-2]:
            why = "no weights in --data, and --quick downloads none"
            yield Step(pictures_of(network), what, why_not=why)
            continue
        units = ("--unit", "0,1,2,3,4,5")
        name = pictures_of(network)
        yield _step("visualise", out, name, what, network, *own, *units, *common)


def _transfers(
    data: Path | None, out: Path, quick: bool, common: tuple[str, ...]
) -> Iterator[Step]:
    """Patches, as they are and with their blur matched, and the transfers to them."""
    nuclei = _nuclei(data) if data else None
    blurs = {"": (), MATCHED: ("--match-blur",)}
    for suffix, extra in [*blurs.items()][: 1 if quick else 2]:
        how = ", blur matched" if suffix else ""
        name = PATCHES + suffix
        if nuclei is None:
            why = _lack(data, "tiles of tissue", ("monuseg", "nuclei"))
            yield Step(name, f"Patches{how}", why_not=why)
        else:
            yield _step("patches", out, name, f"Patches{how}", *nuclei, *extra, *common)
        for step, task in ((AREAS, "area"), (MAGNIFICATIONS, "magnification")):
            yield _step(
                "transfer", out, step + suffix, f"Transfer to nuclei, {task}{how}", STAND_IN,
                "--data", f"patches:{out / name}", "--from", str(out / STAND_IN), "--rule", "peak",
                "--contestants", "pretrained,scratch,cut", "--task", task, *common,
                needs=(name, STAND_IN),
            )  # fmt: skip
    if not quick:
        yield _step(
            "transfer", out, FINETUNED, "Transfer to nuclei, all weights trained", STAND_IN,
            "--data", f"patches:{out / PATCHES}", "--from", str(out / STAND_IN), "--rule", "peak",
            "--contestants", "pretrained,scratch,cut", "--mode", "finetune", "--raw-target",
            *common, needs=(PATCHES, STAND_IN),
        )  # fmt: skip


def _step(
    verb: str, out: Path, name: str, what: str, *rest: str, needs: tuple[str, ...] = ()
) -> Step:
    return Step(name, what, (verb, *rest, "--out", str(out / name)), needs)


# --- what there is to work on --------------------------------------------------------------------


def _photographs(data: Path) -> tuple[str, ...] | None:
    for folder, classes in PHOTOGRAPHS.items():
        if (data / folder).is_dir():
            return "--data", f"voc:{data / folder}", "--subset", classes
    return None


def _weights(data: Path | None, network: str) -> tuple[str, ...]:
    """The file of weights in the folder, which may be incomplete; else the usual ones."""
    found = sorted(data.glob(f"weights/{network}*.safetensors")) if data else []
    if data and len(found) > 1:
        raise DataError(
            f"There are {len(found)} files of weights of {network} in {str(data / 'weights')!r}, "
            f"{found[0].name} and {found[1].name} first. Leave one there."
        )
    return ("--weights", str(found[0]), "--allow-partial") if found else ()


def _nuclei(data: Path) -> tuple[str, ...] | None:
    """MoNuSeg, or a folder of tiles with their masks beside them, as in `janowczyk2016`."""
    monuseg, nuclei = data / "monuseg", data / "nuclei"
    if monuseg.is_dir():
        images, labels, split = (monuseg / each for each in ("images", "labels", "images.csv"))
        return (
            str(images), "--masks", str(labels), "--split", str(split), "--leave-out", ODD_KIDNEYS,
        )  # fmt: skip
    return (str(nuclei), "--masks", str(nuclei)) if nuclei.is_dir() else None


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
    """Whether its folder holds its result, by the same versions, later than what it needs."""
    mark = _mark(out / step.name)
    if mark is None:
        return False
    try:
        facts = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_same = facts.get("command") == in_words(step.arguments)
    needed = [_mark(out / name) for name in step.needs]
    return (
        is_same
        and facts.get("versions") == runs.versions()
        and all(each and each.stat().st_mtime_ns <= mark.stat().st_mtime_ns for each in needed)
    )


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
    is_photographs = bool(data) and _photographs(Path(data)) is not None
    of_before = dict.fromkeys(others, "not a step of this run")
    found = read(out, lacking | of_before, is_photographs=is_photographs)
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
