"""The `scalecut` command: which verb each command calls, and how every command ends."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer

import scalecut

from .. import memory
from .commands import Verb, add
from .console import ERR, JSON, OUT, OUT_FOLDER, Commands, bars, finish, place

HELP = """Find the layer at which a vision model forgets how big things are.

\b
Start with:  scalecut demo
Then:        scalecut probe resnet50 --data voc:MY/FOLDER --subset dog,cat"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is a verb: the verb gives its options, `finish` its end."""

    verb: str  # `package.module:function`
    examples: tuple[str, ...]  # as they are typed
    # what the run folder is named after, behind the network; empty for its name alone
    folder: str = ""


COMMANDS: Mapping[str, Command] = {
    "probe": Command(
        "probing.probe:probe",
        (
            "scalecut probe resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat,horse",
            "scalecut probe inception_v3 --weights iv3.safetensors --data coco:val2017.json",
            "scalecut probe vit_small_patch16_224 --data csv:lesions.csv --out runs/lesions",
            "scalecut probe mypackage.nets:factory --weights best.pth --data masks:cells",
            "scalecut probe resnet50 --data scenes --match-width 32 --learning-curve",
            'scalecut probe resnet50 --data "tar:s3://bucket/tiles-{000..099}.tar"'
            " --at-most 100000",
            "scalecut probe resnet50 --data csv:tiles.csv --engine openvino --precision int8",
            "scalecut probe resnet50 --data csv:tiles.csv --cluster ray://HOST:10001",
        ),
    ),
    "invariance": Command(
        "analyses.invariance:invariance",
        (
            "scalecut invariance resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat",
            "scalecut invariance resnet50 --data coco:val2017.json --subset bird --sizes 0.5,1,2",
            "scalecut invariance tf_efficientnet_lite0 --noise white,pink --padding zeros,circular",
        ),
        folder="invariance",
    ),
    "scenes": Command(
        "analyses.synthetic:probe_scenes",
        (
            "scalecut scenes tf_efficientnet_lite0",
            "scalecut scenes resnet50 --canvases 160,224,320 --place fixed",
        ),
        folder="scenes",
    ),
    "rcv": Command(
        "analyses.rcv:rcv",
        (
            "scalecut rcv resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat,horse",
            "scalecut rcv tf_efficientnet_lite0 --data coco:val2017.json --subset cat "
            "--class tabby",
        ),
        folder="rcv",
    ),
    "atlas": Command(
        "analyses.atlas:atlas",
        (
            "scalecut atlas resnet50 --data voc:VOCdevkit/VOC2012 --subset dog,cat,horse",
            "scalecut atlas resnet50 --data coco:val2017.json --concepts brightness,x,y,sharpness",
        ),
        folder="atlas",
    ),
    "visualise": Command(
        "analyses.visualise:visualise",
        (
            "scalecut visualise tf_efficientnet_lite0 --layer blocks.1.1,blocks.3.1 --unit 0,1,2",
            "scalecut visualise inception_v3 --layer mixed0",
            "scalecut visualise resnet50 --layer layer3.5 --rcv runs/rcv --tv 0.1",
        ),
        folder="pictures",
    ),
}
# Commands that are no verb alone, a module each; registered in the order of the help.
MODULES = ("data", "probing", "cut", "pathology", "paper", "folders")

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=HELP,
)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        OUT.print(scalecut.__version__)
        raise typer.Exit
    return is_asked


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options that stand before a command."""


def register(name: str, command: Command) -> None:
    """Add the command that is made of a verb."""

    def run(verb: Verb, values: Mapping[str, Any], out: Any, as_json: bool) -> None:
        folder = place(out, f"{values['model']}-{command.folder}".rstrip("-"))
        with bars(ERR, quiet=as_json) as progress:
            result = verb.call(values, progress=progress)
        finish(result, folder, as_json=as_json)

    add(app, name, command.verb, "\n".join(command.examples), run, (OUT_FOLDER, JSON))


for _name, _command in COMMANDS.items():
    register(_name, _command)
for _module in MODULES:
    import_module(f".{_module}", __package__).add_to(app)


def main() -> None:
    """Entry point of the `scalecut` command."""
    warnings.showwarning = _said
    memory.reused()
    app()


def _said(message: Warning | str, *_: object) -> None:
    """A warning in one line, without the place in the code."""
    ERR.print(f"scalecut: {' '.join(str(message).split())}", soft_wrap=True)
