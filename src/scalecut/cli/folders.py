"""Commands about run folders, the cache, and the installation."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from .console import OUT, JsonOption, print_json

# whose weights `doctor` looks for
NETWORKS = ("tf_efficientnet_lite0", "inception_v3", "resnet50", "resnet50_v1", "googlenet_bvlc")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(report)
    app.command()(cache)
    app.command()(doctor)


def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, or folders of cuts.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Show two runs next to each other on one page.")
    ] = False,
    subset: Annotated[str, typer.Option(help="The subset that the page shows first.")] = "",
    no_thumbnails: Annotated[
        bool, typer.Option("--no-thumbnails", help="Leave the images out of the page.")
    ] = False,
) -> None:
    """Draw the figures of a run and write its page again.

    \b
    Examples:
      scalecut report runs/demo
      scalecut report runs/demo --no-thumbnails
      scalecut report --compare runs/resnet50 runs/inception
    """
    from ..report.report import write_comparison, write_report

    options = {"subset": subset, "has_thumbnails": not no_thumbnails}
    if not compare:
        for folder in folders:
            page, figures = write_report(folder, **options)
            for path in (*figures, page):
                OUT.print(str(path), soft_wrap=True)
        return
    if len(folders) != 2:
        raise DataError(f"--compare needs two run folders, got {len(folders)}.")
    from ..probing.curve import compare_curves, read_curve

    one, other = folders
    try:
        differences = compare_curves(read_curve(one), read_curve(other))
    except DataError as error:
        differences = str(error)
    file = one.parent / f"{one.name}-{other.name}.html"
    write_comparison(folders, file, differences, **options)
    OUT.print(str(file), soft_wrap=True)


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete all cached features and fits.")
    ] = False,
) -> None:
    """Show the cache of features and trained fits, or clear it.

    \b
    Examples:
      scalecut cache
      scalecut cache --clear
    """
    from .. import cache as cache_folder

    n_files, n_bytes = cache_folder.summary()
    if clear:
        cache_folder.clear()
    verb = "deleted from" if clear else "in"
    OUT.print(
        f"{n_files} files, {n_bytes / 1e6:.1f} MB, {verb} {cache_folder.folder()}", soft_wrap=True
    )


def doctor(as_json: JsonOption = False) -> None:
    """Show installed versions, what the processor computes with, and which weights are found.

    \b
    Example:
      scalecut doctor
    """
    import torch

    from .. import cache as cache_folder
    from .. import runs
    from ..features.backends import resolved_backend
    from ..features.processor import instructions
    from ..networks.sources import SOURCES
    from ..networks.weights import weights_found

    usual = resolved_backend("auto", "auto", "auto")
    facts = {
        "versions": runs.versions(),
        "processor": list(instructions()),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "engine": usual.engine,
        "precision": usual.precision,
        "cache": str(cache_folder.folder()),
        "networks": list(SOURCES),
        "weights": {model: weights_found(model) for model in NETWORKS},
    }
    if as_json:
        print_json(facts)
        return
    for name, version in facts["versions"].items():
        OUT.print(f"{name:14} {version}")
    device = facts["gpu"] or f"{facts['threads']} threads of the processor"
    OUT.print(f"{'processor':14} {', '.join(facts['processor']) or 'none of AVX2 to AMX'}")
    OUT.print(f"{'computes on':14} {device}, {facts['engine']}, {facts['precision']}")
    OUT.print(f"{'cache':14} {facts['cache']}", soft_wrap=True)
    for name in facts["networks"]:
        OUT.print(f"{'networks':14} {name}", soft_wrap=True)
    for model, found in facts["weights"].items():
        OUT.print(f"{'weights':14} {model}: {found}", soft_wrap=True)
