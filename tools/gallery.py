"""Draw the figures of the documentation again: `python tools/gallery.py RUNS [NAME ...]`.

Each entry is a command of scalecut with its run folder inside RUNS; a folder that exists is kept.
SCALECUT_DATA must name the folder of real data (docs/how-to/paper.md). All of it takes two hours
on two cores; with names, only those entries are run. `paper` also writes docs/paper.md, and `class`
draws the figure of the README.
"""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import PIL.Image
from matplotlib.figure import Figure

from scalecut.figures.curve import layer_names, lines_of
from scalecut.figures.drawing import (
    BLUE,
    INK,
    VERMILION,
    Drawing,
    Look,
    Mark,
    Panel,
    Scale,
    page_figure,
)
from scalecut.paper.tables import markdown
from scalecut.runs import read_run

WIDTH = 1400  # pixels of a figure on a page
IMAGES = Path(__file__).parents[1] / "docs" / "images"
DATA = os.environ["SCALECUT_DATA"]
ANIMALS = f"--data voc:{DATA}/voc-animals --subset dog,cat,horse"
INCEPTION = (
    f"inception_v3 --allow-partial --weights {DATA}/weights/"
    "inception_v3.google_2015_12_05.to_mixed8.safetensors"
)
LITE0 = "tf_efficientnet_lite0"
RESNET50 = f"resnet50 --weights {DATA}/weights/resnet50.torchvision_pqf_complete.safetensors"
GOOGLENET = f"googlenet_bvlc --weights {DATA}/weights/googlenet.bvlc_complete.safetensors"
EXACT = "--precision float32 --engine openvino"
PATCHES = (
    f"patches {DATA}/monuseg/images --masks {DATA}/monuseg/labels "
    f"--split {DATA}/monuseg/images.csv --magnifications 10,15,20,30,40 "
    "--leave-out HE-7128,HE-7129,HE-7130 --grid 4"
)
METHODS = "pretrained,scratch,cut,cut-random,reset,sweep,up-to-cut,all-layers,tuned"

# By run: the command, and the figures that are copied, by their name in docs/images.
GALLERY: dict[str, tuple[str, dict[str, str]]] = {
    "probe": (
        f"probe {LITE0} {ANIMALS} --controls random,permuted,pixels,shuffled --match-width 32 "
        "--learning-curve",
        {"efficientnet_lite0": "curve", "learning": "learning"},
    ),
    "resnet50": (f"probe {RESNET50} {ANIMALS} {EXACT}", {"resnet50": "curve"}),
    "googlenet": (f"probe {GOOGLENET} {ANIMALS} {EXACT}", {"googlenet": "curve"}),
    "class": (
        f"probe {LITE0} --data voc:{DATA}/voc-animals --subset dog,cat,horse,cow,sheep "
        "--measure area,class --regressor ridge --random-networks 1 --permutations 39 --repeats 8",
        {"class-and-area": "curve"},
    ),
    "width": (f"probe {INCEPTION} {ANIMALS} --match-width 32", {"width": "width"}),
    "invariance": (
        f"invariance {LITE0} {ANIMALS} --noise white,pink",
        {"invariance": "invariance", "drift": "drift", "noise": "noise"},
    ),
    "scenes": (f"scenes {LITE0}", {"scenes": "scenes"}),
    "rcv": (f'rcv {LITE0} {ANIMALS} --class "golden retriever"', {"directions": "directions"}),
    "atlas": (f"atlas {LITE0} {ANIMALS}", {"atlas": "atlas"}),
    "atlas-resnet50": (f"atlas {RESNET50} {ANIMALS}", {}),
    "audit": (f"audit {DATA}/monuseg/images --native 40", {"audit": "audit"}),
    "patches": (PATCHES, {}),
    "patches-matched": (f"{PATCHES} --match-blur", {}),
    "passport": (f"passport {LITE0} --data patches:RUNS/patches", {"passport": "passport"}),
    "transfer": (
        f"transfer {LITE0} --data patches:RUNS/patches --from RUNS/probe --task magnification "
        f"--methods {METHODS}",
        {"transfer-sweep": "sweep", "transfer-calibration": "calibration"},
    ),
    "transfer-matched": (
        f"transfer {LITE0} --data patches:RUNS/patches-matched --from RUNS/probe "
        f"--task magnification --methods {METHODS}",
        {"transfer-sweep-matched": "sweep"},
    ),
    "patches-held-out": (f"{PATCHES[:-1]}2 --match-blur", {}),
    "transfer-held-out": (
        f"transfer {LITE0} --data patches:RUNS/patches-held-out --from RUNS/probe "
        f"--task magnification --leave-one-out --methods {METHODS.replace('sweep,', '')}",
        {"transfer-held-out": "calibration"},
    ),
    "transfer-inception": (
        f"transfer {INCEPTION} --data patches:RUNS/patches-matched --from RUNS/width --task area "
        "--log --methods cut,sweep",
        {"transfer-sweep-inception": "sweep"},
    ),
    "paper": (
        f"paper --data {DATA} --skip finetuned",
        {"paper-inception_v3": "inception_v3", "paper-resnet50": "resnet50"},
    ),
}
PAPER = """# The paper and our results

```sh title="two hours on two cores, {date}"
{command}
```

Photographs of PASCAL VOC (dog, cat, horse), tiles of MoNuSeg, weights of InceptionV3 down to mixed8
and of ResNet50 v1 down to add_13 (only incomplete ones were available), and complete ones of
ResNet50 (torchvision's variant), GoogLeNet and EfficientNet-Lite0. How it is run, and what the
marks mean: [Run the paper's experiments](how-to/paper.md). What follows is the `paper.md` of that
run, with two of its figures. Another rule for [intervals](intervals.md) came after it: it moves the
ends of those of R² by less than 0.01, and of gains over random weights by up to 0.05
([log](log.md)).
"""
PAPER_FIGURES = """
![R² by layer of InceptionV3, printed and found here](images/paper-inception_v3.png)

![R² by layer of ResNet50, the paper's figure and ours](images/paper-resnet50.png)
"""


def idea(folder: Path) -> Figure:
    """The figure of the README, of a run of area and class: two scores that share one axis."""
    run = read_run(folder)
    curve = run.table("curve")
    curve["alias"] = curve.alias.where(curve.alias != "", curve.layer)
    is_drawn = (curve.subset == "mean") & (curve.target == "true") & (curve.weights != "pixels")
    rows = curve[is_drawn & curve.metric.isin(["r2", "balanced_accuracy"])].to_dict("records")
    names = layer_names(rows)
    looks = {
        Look("which animal", VERMILION, "-", "^", 2.4, 0.18): ("class", "pretrained"),
        Look("how large", BLUE, "-", "o", 2.4, 0.18): ("area", "pretrained"),
        Look("which, random weights", VERMILION, ":", "", 1.6): ("class", "random"),
        Look("how large, random weights", BLUE, ":", "", 1.6): ("area", "random"),
    }
    wanted = {look: {"measure": m, "weights": w} for look, (m, w) in looks.items()}
    evidence = run.facts["evidence_by_target"]["area"]["evidence"]["mean"]
    places = [list(names).index(layer) for layer in evidence["confidence_set"]]
    cut = Mark(
        "cut here", INK, ((min(places) - 0.5, max(places) + 0.5),), is_shaded=True, at=min(places)
    )
    lines = lines_of(rows, names, wanted, y=("score", "score_low", "score_high"))
    panel = Panel("", Scale("held-out score"), lines, 250.0, marks=(cut,))
    heading = "EfficientNet-Lite0: class rises while size is lost"
    caption = "how large: R² of area   ·   which animal: balanced accuracy of five classes"
    return page_figure(Drawing(heading, caption, [*names.values()], [panel]))


def keep(file: Path | io.BytesIO, image: str) -> None:
    """Put a figure among the images of the documentation, at the width of a page."""
    with PIL.Image.open(file) as drawn:
        size = WIDTH, round(drawn.height * WIDTH / drawn.width)
        shown = drawn.convert("RGB").resize(size, PIL.Image.Resampling.LANCZOS)
    shown.quantize(256).save(IMAGES / f"{image}.png", optimize=True)


def main(runs: Path, names: list[str]) -> None:
    for name, (command, figures) in GALLERY.items():
        if names and name not in names:
            continue
        out = runs / name
        if not out.is_dir():
            typed = shlex.split(command.replace("RUNS", str(runs)))
            print("scalecut", shlex.join(typed), flush=True)  # noqa: T201
            run = [sys.executable, "-m", "scalecut", *typed, "--out", str(out)]
            subprocess.run(run, check=True)
        for image, figure in figures.items():
            keep(out / "figures" / f"{figure}.png", image)
        if name == "class":
            drawn = io.BytesIO()
            idea(out).savefig(drawn, dpi=200)
            keep(drawn, "idea")
        if name == "paper":
            run = read_run(out)
            own = markdown(run.table("paper"), run.table("claims").fillna(""))
            claims, title, rest = own.partition("\n")[2].partition("\n## A.2: R² by layer\n")
            typed = run.facts["command"].replace(DATA, "DATA")
            command = typed.replace(f" --out {out.resolve()}", "")
            page = PAPER.format(command=command, date=run.facts["written"][:10]) + claims
            page += title + PAPER_FIGURES + rest
            (IMAGES.parent / "paper.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
