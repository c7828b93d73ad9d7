"""Commands about tissue: patches, methods compared on them, claims audited, passports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from .commands import Verb, add
from .console import (
    ERR,
    JSON,
    OUT,
    OUT_FOLDER,
    bars,
    command,
    finish,
    place,
    print_json,
    print_skipped,
)

PATCHES = r"""
  scalecut patches slides --mpp 0.25,0.5,1,2 --per-slide 64 --out patches
  scalecut patches slides --mpp 0.5 --claims mpp.csv --masks geojson --out nuclei
  scalecut patches tiles --masks masks --out patches
  scalecut patches monuseg/images --masks monuseg/labels --split monuseg/images.csv \
      --magnifications 10,20,40 --leave-out HE-7128,HE-7129,HE-7130 --grid 3 \
      --match-blur --out patches"""
# of slides.csv, with what each is called on a terminal
OF_SLIDES = {
    "slide": "slide", "um_per_pixel": " µm per pixel", "stated": "stated",
    "tissue_share": " tissue", "pen_share": " pen", "places": " places", "patches": " patches",
}  # fmt: skip
MOST_SLIDES = 12
TRANSFER = r"""
  scalecut transfer tf_efficientnet_lite0 --data patches:patches --at blocks.5.1
  scalecut transfer resnet50 --data patches:patches --from runs/r50 --task magnification \
      --methods pretrained,cut,cut-random,reset,sweep,all-layers --out runs/transfer
  scalecut transfer resnet50 --data patches:patches --at add_15 --mode finetune --out runs/tuned"""
AUDIT = r"""
  scalecut audit tiles --native 40 --out runs/audit
  scalecut audit tiles --claims slides.csv --reference trusted
  scalecut audit tiles --model resnet50 --from runs/r50
  scalecut audit new --with runs/audit"""

PASSPORT = r"""
  scalecut passport tf_efficientnet_lite0 --data patches:patches
  scalecut passport hf-hub:ORG/ENCODER --data patches:patches --at 0.5 --to 10X
  scalecut passport resnet50 --data patches:patches --layers 'layer3*,layer4*,pooled' --out runs/r50
  scalecut compare runs/lite0 runs/r50"""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    add(app, "patches", "pathology.patches:save_patches", PATCHES, _patches, (JSON,))
    extra = (OUT_FOLDER, JSON)
    add(app, "transfer", "pathology.transfer:transfer", TRANSFER, _transfer, extra)
    add(app, "audit", "pathology.audit:audit", AUDIT, _audit, extra)
    add(app, "passport", "pathology.passport:passport", PASSPORT, _passport, extra)


def _patches(verb: Verb, values: Mapping[str, Any], as_json: bool) -> None:
    with bars(ERR, quiet=as_json) as progress:
        made = verb.call(values, progress=progress, command=command())
    from .tables import plain_table, records

    counts = made.counts().reset_index()
    if as_json:
        more = {"slides": records(made.slides)} if len(made.slides) else {}
        print_json(
            {"folder": str(made.folder), "counts": records(counts), "stated": made.stated} | more
        )
        return
    if len(made.slides):
        shown = made.slides[[*OF_SLIDES]].head(MOST_SLIDES).rename(columns=OF_SLIDES)
        shares = {name: shown[name].map("{:.1%}".format) for name in (" tissue", " pen")}
        sizes = {" µm per pixel": shown[" µm per pixel"].map("{:.4g}".format)}
        OUT.print(plain_table(shown.assign(**shares, **sizes), "Slides"))
        if len(made.slides) > MOST_SLIDES:
            OUT.print(f"... and {len(made.slides) - MOST_SLIDES} more; slides.csv lists them all")
    OUT.print(plain_table(counts, "Patches"))
    for line in made.stated:
        OUT.print(line, soft_wrap=True)
    skipped = [*made.left_out, *made.skipped]
    print_skipped([{"name": each.name, "reason": each.reason} for each in skipped])
    OUT.print(f"Patches: {made.folder}", style="bold", soft_wrap=True)


def _transfer(verb: Verb, values: Mapping[str, Any], out: Any, as_json: bool) -> None:
    folder = place(out, f"{values['model']}-transfer")
    with bars(ERR, quiet=as_json) as progress:
        result = verb.call(values, progress=progress)
    if not as_json and values["task"] == "area":
        from ..paper.tables import with_the_paper
        from .tables import plain_table

        title = "Table 2 of Graziani et al. 2021 (other patches, all weights trained), and ours"
        OUT.print(plain_table(with_the_paper(result, values["model"]), title))
    finish(result, folder, as_json=as_json)


def _passport(verb: Verb, values: Mapping[str, Any], out: Any, as_json: bool) -> None:
    folder = place(out, f"{values['model']}-passport")
    with bars(ERR, quiet=as_json) as progress:
        result = verb.call(values, progress=progress)
    finish(result, folder, as_json=as_json)


def _audit(verb: Verb, values: Mapping[str, Any], out: Any, as_json: bool) -> None:
    folder = place(out, f"{Path(values['data']).name}-audit")
    with bars(ERR, quiet=as_json) as progress:
        result = verb.call(values, progress=progress)
    finish(result, folder, as_json=as_json)
