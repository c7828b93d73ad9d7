"""What was understood of a set of images: said before anything is computed, and kept with it.

A number that follows from misread data looks like any other. So every command that reads images
first states what it uses, what it skips and why, what pixels, masks and groups were taken for, and
a few rows; `contact` draws some images with what was measured on them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from .. import runs
from ..errors import DataError
from .contact import COLOURS, SMALL, contact_sheet, write_sheet
from .decoding import Rendering
from .images import Image, ImageSet, LeftOut, Progress, image_facts
from .masks import MaskRule, in_words
from .measures import Frame, evenly
from .options import Reading
from .read import images_of

EXAMPLES, NAMED, REASONS = 5, 3, 8  # rows; names of each reason; reasons in the text
SIDE = 224  # pixels of the input of most networks
QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "max": 1.0}
MASKS = {
    "binary": "binary, so each connected region is an object",
    "instances": "instances, so each value is an object",
    "classes": "classes, so each connected region of a value is an object",
}


@dataclass(frozen=True, slots=True, eq=False)
class DataSummary:
    """What was understood of a set of images.

    Args:
        measure: the names of the targets.
        n_images: rows, one per image and subset.
        n_files: images; one with objects of several subsets has several rows.
        by_subset: rows of each subset.
        skipped: for each reason its first wording, how many it concerns, and the first names.
        n_groups: groups of images that are never split.
        groups_by: how they were found; empty where each image is its own.
        n_identical: files with the same content as another, which are in one group, of all that
            were read.
        shown: how stored values are shown, with the number of images.
        masks: what masks mean, by the fields of a rule; empty without masks.
        drawn: how many rows were drawn of how many, with which seed; empty if all are used.
        assumed: what was not certain, in sentences.
        targets: smallest and largest measure and quartiles, one row per subset; of several
            targets, for each that is a number.
        examples: rows evenly over the measure.
        stated: what the files themselves say, in sentences.
        classes: images of each class, by target.
        image_set: the images, if they are known; for `save`.
    """

    measure: str
    n_images: int
    n_files: int
    by_subset: Mapping[str, int]
    skipped: Sequence[Mapping[str, Any]]
    n_groups: int
    groups_by: str
    n_identical: int
    shown: Mapping[str, int]
    masks: Mapping[str, Any]
    drawn: Mapping[str, int]
    assumed: Sequence[str]
    targets: pd.DataFrame
    examples: pd.DataFrame
    stated: Sequence[str] = ()
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    image_set: ImageSet | None = field(default=None, repr=False)

    def to_frame(self) -> pd.DataFrame:
        """The distribution of the measure, one row per subset."""
        return self.targets.copy()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {"targets": self.targets, "examples": self.examples}

    def facts(self) -> dict[str, Any]:
        """All of it for `run.json`; `summary_in` brings it back."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        rows = {name: table.to_dict("records") for name, table in self.tables().items()}
        return {**plain, **rows}

    def finding(self) -> str:
        """What the data is, in one sentence."""
        n = sum(each["n"] for each in self.skipped)
        by_target = {self.measure: self.targets} if len(self.targets) else {}
        if "target" in self.targets:
            by_target = {
                str(name): each for name, each in self.targets.groupby("target", sort=False)
            }
        said = [
            f"{name} from {each['min'].min():.3g} to {each['max'].max():.3g}"
            for name, each in by_target.items()
        ]
        said += [f"{len(counts)} classes of {name}" for name, counts in self.classes.items()]
        return (
            f"{_counted(self.n_images, 'image')} of {_counted(len(self.by_subset), 'subset')} in "
            f"{_counted(self.n_groups, 'group')}, {', '.join(said)}; {n or 'none'} skipped."
        )

    def lines(self) -> list[tuple[str, str]]:
        """A heading and a text for each thing that was understood."""
        listed = [f"{name} {n}" for name, n in list(self.by_subset.items())[:REASONS]]
        more = len(self.by_subset) - len(listed)
        said = f"{self.n_images} ({', '.join(listed)}{f', and {more} more subsets' * bool(more)})"
        if self.n_files < self.n_images:
            said += f", rows of {self.n_files} files: one can have several, such as one per subset"
        lines = [("Images", said)]
        for name, counts in self.classes.items():
            listed = [f"{kind} {n}" for kind, n in list(counts.items())[:REASONS]]
            listed += [f"{len(counts) - REASONS} more"] * (len(counts) > REASONS)
            lines.append(("Classes", f"of {name}: {', '.join(listed)}"))
        if self.drawn:
            lines.append(
                (
                    "Drawn",
                    f"{self.drawn['n']} of {self.drawn['of']}, with seed {self.drawn['seed']}",
                )
            )
        lines += [("Skipped", _reason(each)) for each in self.skipped[:REASONS]]
        if len(self.skipped) > REASONS:
            rest = self.skipped[REASONS:]
            why = _counted(len(rest), "other reason")
            lines.append(("Skipped", f"{sum(each['n'] for each in rest)}, for {why}"))
        if not self.skipped:
            lines.append(("Skipped", "none"))
        groups = f"{self.n_groups}, "
        if self.groups_by:
            groups += f"by {self.groups_by}"
        else:
            is_own = self.n_groups == self.n_files or self.n_identical  # counted of files only
            groups += "each image its own" if is_own else "as given"
        if self.n_identical:
            n = self.n_identical
            groups += f"; {n} of the files read are identical to another, and share its group"
        lines.append(("Groups", groups))
        lines += [("Pixels", f"{how} ({_counted(n, 'image')})") for how, n in self.shown.items()]
        if self.masks:
            lines.append(("Masks", _masks(self.masks)))
        said = (("Stated", self.stated), ("Assumed", self.assumed))
        return [*lines, *((title, f"{each}.") for title, several in said for each in several)]

    def notes(self) -> list[str]:
        """The lines as text, a heading once, in columns."""
        lines, last = [], ""
        for heading, text in self.lines():
            lines.append(f"  {heading if heading != last else '':8} {text}")
            last = heading
        return lines

    def summary(self) -> dict[str, pd.DataFrame]:
        """The distribution of the measure, and the example rows, for the terminal."""
        first = self.measure.partition(",")[0]
        tables = {}
        if len(self.targets):  # classes have no quartiles
            tables[f"Distribution of {self.measure}"] = self.targets.assign(
                **{name: [f"{value:.4g}" for value in self.targets[name]] for name in QUANTILES}
            ).rename(columns={name: f" {name}" for name in QUANTILES})
        return tables | {
            f"{len(self.examples)} rows, evenly over {first}": self.examples.assign(
                measure=[
                    value if isinstance(value, str) else f"{value:.4g}"
                    for value in self.examples["measure"]
                ]
            ).rename(columns={"measure": f" {first}"}),
        }

    def _repr_html_(self) -> str:
        from ..figures.notebook import html_of  # loads matplotlib: reading images needs none

        sheet = None
        if self.image_set is not None:
            sheet = contact_sheet(self.image_set, SMALL).quantize(COLOURS)
        table = pd.DataFrame(self.lines(), columns=["data", "what was understood"])
        return html_of(self.finding(), table, sheet)

    def save(
        self,
        folder: str | Path,
        *,
        command: str = "",
        write: Callable[[Path], object] | None = None,
    ) -> Path:
        """Write a run folder: the tables, `run.json`, and the contact sheet.

        Args:
            folder: complete or absent.
            command: as it was typed, or empty.
            write: is given the folder at the end, and writes the page.

        Raises:
            DataError: if the images are not known.
            OutputError: if `folder` exists and holds no run, or cannot be written.
        """
        folder = Path(folder)
        if self.image_set is None:
            raise DataError("This summary holds no images. Make it with describe_data.")
        facts = {
            "finding": self.finding(),
            "images": described(self.image_set, self),
            "images_left_out": self.image_set.left_out,
        }
        with runs.new_run(folder) as made:
            runs.write_run(made, self.tables(), facts, command=command)
            write_sheet(self.image_set, made)
            if write is not None:
                write(made)
        return folder


_OTHERS = ("targets", "examples", "image_set")  # that are no plain facts
_PLAIN = tuple(name for name in DataSummary.__dataclass_fields__ if name not in _OTHERS)


def describe_data(
    data: str | ImageSet,
    *,
    fit: Literal["squash", "crop", "pad"] = "squash",
    input_size: int | tuple[int, int] | None = None,
    reading: Reading = Reading(),
    seed: int = 0,
    progress: Progress | None = None,
) -> DataSummary:
    """Say what is understood of some data before anything is computed from it.

    Args:
        data: voc:DIR, coco:FILE, csv:FILE, tar:PATTERN, masks:DIR, yolo:DIR, or scenes.
        fit: How images are to be brought to the input size.
        input_size: Pixels, 224 or 224x320 (height x width), of the network's input; 224 by default.
        reading: Which images are read, and how their objects are measured.
        seed: Random seed of what at_most draws.
        progress: Called with (stage, done, total).

    Raises:
        DataError: if nothing can be used, or something is ambiguous.
    """
    size = (SIDE, SIDE) if input_size is None else input_size
    height, width = (size, size) if isinstance(size, int) else size
    frame = Frame(height, width, fit)
    how = {"enough": False, "several": True, "progress": progress}
    return summary_of(images_of(data, frame, reading, seed=seed, **how))


def summary_of(
    image_set: ImageSet, more: Sequence[LeftOut] = (), assumed: Sequence[str] = ()
) -> DataSummary:
    """What was understood of a set of images.

    Args:
        more: what was skipped besides the set's own.
        assumed: what was assumed besides, such as of the network.
    """
    facts: Mapping[str, Any] = image_set.facts
    shown = Counter(_shown(image) for image in dict(_files(image_set)).values())
    return DataSummary(
        measure=", ".join(target.name for target in image_set.targets),
        n_images=len(image_set),
        n_files=len(dict(_files(image_set))),
        by_subset=Counter(image_set.subset),
        skipped=_by_reason([*image_set.left_out, *more]),
        n_groups=len(set(image_set.group)),
        groups_by=str(facts.get("groups_by", "")),
        n_identical=int(facts.get("identical_images", 0)),
        shown=dict(shown.most_common()),
        masks=dict(facts.get("masks", {})),
        drawn=dict(facts.get("drawn", {})),
        assumed=(*facts.get("assumed", ()), *assumed),
        stated=tuple(facts.get("stated", ())),
        classes={
            target.name: {
                kind: int((target.values == number).sum())
                for number, kind in enumerate(target.classes)
            }
            for target in image_set.targets
            if target.classes
        },
        targets=_targets(image_set),
        examples=_examples(image_set),
        image_set=image_set,
    )


def summary_in(facts: Mapping[str, Any]) -> DataSummary | None:
    """What `run.json` holds of the images of a run; None if an earlier version wrote it."""
    held = (facts.get("images") or {}).get("understood")
    if not held:
        return None
    fields: dict[str, Any] = {name: held[name] for name in _PLAIN if name in held}
    fields |= {name: pd.DataFrame(held[name]) for name in ("targets", "examples")}
    return DataSummary(**fields)


def read_summary(folder: str | Path) -> DataSummary:
    """The summary in a run folder that `DataSummary.save` wrote, without its images.

    Raises:
        DataError: if the folder holds none.
    """
    found = summary_in(runs.read_run(folder).facts)
    if found is None:
        raise DataError(f"{str(folder)!r} does not say what its data is. Run scalecut data again.")
    return found


def described(
    image_set: ImageSet, summary: DataSummary, keys: Sequence[str | DataError] | None = None
) -> dict[str, object]:
    """Facts of the images of a run: counts and a hash, and what was understood of them.

    Args:
        keys: those of the images, if they are known.
    """
    return {**image_facts(image_set, keys), "understood": summary.facts()}


# --- inside --------------------------------------------------------------------------------------


def _files(image_set: ImageSet) -> Iterable[tuple[object, Image]]:
    """Each image once, whatever its number of rows."""
    for number, image in enumerate(image_set.images):
        yield image.place() or number, image


def _by_reason(items: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Skipped items whose reasons differ by numbers and names alone, the most frequent first."""
    found: defaultdict[str, list[LeftOut]] = defaultdict(list)
    for item in items:
        plain = item.reason.replace(item.name, "")
        found[re.sub(r"\S*\d\S*|\S+\.\w{2,4}\b", "#", plain)].append(item)
    ordered = sorted(found.values(), key=len, reverse=True)
    return [
        {
            "reason": same[0].reason,
            "n": len(same),
            "names": [item.name for item in same[:NAMED]],
        }
        for same in ordered
    ]


def _reason(each: Mapping[str, Any]) -> str:
    names = ", ".join(each["names"]) + ", ..." * (each["n"] > len(each["names"]))
    return f"{each['n']}: {each['reason'].rstrip('.')} ({names})"


def _shown(image: Image) -> str:
    """How the stored values of an image become black and white."""
    rendering = image.rendering or Rendering()
    said = "8 bits, as stored"
    if rendering.low is not None and rendering.high is not None:
        said = f"from {rendering.low:g} (black) to {rendering.high:g} (white)"
    if rendering.channels:
        said += f", {'channels' if len(rendering.channels) > 1 else 'channel'} "
        said += ",".join(map(str, rendering.channels))
    return said + (f", page {rendering.page}" if rendering.page else "")


def _masks(rule: Mapping[str, Any]) -> str:
    said = f"{MASKS[rule['kind']]}; the background is {in_words(rule['background'])}"
    if rule.get("threshold") is not None:
        side = "up to" if MaskRule(**rule).is_inverted else "above"
        said = f"{MASKS[rule['kind']]}; values {side} {rule['threshold']:g} are marked"
    said += f"; {rule['void']} is unknown" if rule.get("void") is not None else ""
    said += "; read from alpha" if rule.get("by_alpha") else ""
    return said + (f"; page {rule['page']}" if rule.get("page") else "")


def _targets(image_set: ImageSet) -> pd.DataFrame:
    rows = []
    for target in image_set.targets:
        part = image_set.of(target.name)
        subset, group = np.array(part.subset), np.array(part.group)
        for name in part.subsets if not target.classes else ():
            measure = part.measure[subset == name]
            quantiles = np.quantile(measure, list(QUANTILES.values())).tolist()
            n_groups = len(set(group[subset == name]))
            rows.append((name, len(measure), n_groups, *quantiles, target.name))
    table = pd.DataFrame(rows, columns=["subset", "images", "groups", *QUANTILES, "target"])
    return table if image_set.more else table.drop(columns="target")


def _examples(image_set: ImageSet) -> pd.DataFrame:
    order = np.argsort(image_set.measure, kind="stable")
    rows = [int(order[place]) for place in evenly(len(order), EXAMPLES)]
    return pd.DataFrame(
        {
            "image": [image_set.images[row].name for row in rows],
            "subset": [image_set.subset[row] for row in rows],
            "group": [image_set.group[row] for row in rows],
            "measure": [
                image_set.said(row).removeprefix(f"{image_set.measure_name} ")
                if image_set.classes
                else float(image_set.measure[row])
                for row in rows
            ],
        }
    )


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
