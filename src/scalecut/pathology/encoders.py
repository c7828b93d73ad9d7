"""The scale passports of several encoders, next to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..errors import DataError, check_names, several
from ..figures import text
from ..figures.drawing import page_figure
from ..figures.pathology import encoders_drawing
from ..probing.comparison import distinct
from ..report.curve import names_of
from ..report.report import Result
from ..runs import read_run, settings_of
from .movement import BREAKS, NO_VERDICT
from .passport import Passport, range_of, read_passport

# fmt: off
COLUMNS = [
    "run", "model", "layer", "n_patients", "n_images", "reference", "r2", "r2_low", "r2_high",
    "random_r2", "mae_octaves", "mae_low", "mae_high", "drift", "drift_low", "drift_high",
    "random_drift", "finest", "finest_low", "finest_high", "finer", "coarsest", "coarsest_low",
    "coarsest_high", "coarser", "further",
]  # of encoders.csv
RATIOS = [
    "run", "layer", "um_per_pixel", "magnification", "octaves", "ratio", "ratio_low", "ratio_high",
    "answer",
]  # of ratios.csv
# fmt: on


@dataclass(frozen=True, slots=True, eq=False)
class Encoders(Result):
    """Passports of several encoders, at one layer of each.

    Args:
        table: the columns of `COLUMNS`, one row per run.
        ratios: the columns of `RATIOS`, one row per run and resolution.
        provenance: facts of `run.json`.
    """

    NAME: ClassVar[str] = "encoders"
    table: pd.DataFrame
    ratios: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[()] = ()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        return {self.NAME: self.to_frame(), "ratios": self.ratios.copy()}

    def finding(self) -> str:
        """The range of each encoder, the widest first."""
        rows = self.table.loc[~self.table[["finer", "coarser"]].isin([NO_VERDICT]).any(axis=1)]
        if rows.empty:
            return "No range is known of these encoders."
        width = np.log2(rows.coarsest / rows.finest).sort_values(ascending=False, kind="stable")
        given = self.provenance["settings"]["layers"]
        of = {at: f" ({rows.layer[at]})" if given else "" for at in width.index}
        said = [
            f"{row.run}{of[at]} from {range_of(row)} µm per pixel{_between(row)}"
            for at, row in ((at, rows.loc[at]) for at in width.index)
        ]
        layers = "layers given" if given else "last layer"
        return (
            f"The features of the {layers} stay within what patients differ by: "
            f"{'; '.join(said)}. Differences between encoders are not tested."
        )

    def summary(self) -> dict[str, pd.DataFrame]:
        """One row per encoder, and the ratio at each resolution."""
        table = self.table
        columns = {
            "run": table.run.tolist(),
            "layer": table.layer.tolist(),
            " R²": [*map(text.number, table.r2)],
            " random": [*map(text.number, table.random_r2)],
            " error": [*map(text.number, table.mae_octaves)],
            " drift": [*map(text.number, table.drift)],
            "range, µm": [range_of(row) for _, row in table.iterrows()],
        }
        rows = self.ratios.assign(said=[*map(text.number, self.ratios.ratio)])
        rows["size"] = [f" {size:.3g}" for size in rows.um_per_pixel]
        wide = rows.pivot_table("said", "run", "size", aggfunc="first", sort=False, dropna=False)
        wide = wide.reindex(index=table.run).fillna("–").reset_index()
        wide.columns.name = None
        return {
            "Passports; error in octaves, drift per octave": pd.DataFrame(columns),
            "Distance from the reference at µm per pixel, in what patients differ by": wide,
        }

    def notes(self) -> list[str]:
        """What keeps passports from being compared."""
        return list(self.provenance["notes"])

    def plot(self) -> Figure:
        """The ratio by resolution, one line per encoder."""
        return page_figure(encoders_drawing(self.ratios))


def read_encoders(folder: str | Path) -> Encoders:
    """The comparison that `Encoders.save` wrote."""
    run = read_run(folder, needed=("notes",))
    return Encoders(run.table("encoders", COLUMNS), run.table("ratios", RATIOS), dict(run.facts))


def compare_passports(
    runs: Sequence[str | Path | Passport], *, layers: Sequence[str] = ()
) -> Encoders:
    """Lay the passports of several encoders side by side.

    Args:
        runs: run folders of `scalecut passport`, or passports; at least two.
        layers: one layer of each run, instead of its last.

    Raises:
        DataError: if there are fewer than two runs, or a run is no passport or has no such layer.
    """
    if len(runs) < 2:
        raise DataError(f"A comparison needs two runs or more, got {len(runs)}.")
    layers = several(layers)
    if layers and len(layers) != len(runs):
        raise DataError(
            f"--layers {','.join(layers)!r} names {len(layers)} layers. Give one layer of each run."
        )
    passports = [run if isinstance(run, Passport) else read_passport(run) for run in runs]
    folders = [Path("passport") if isinstance(run, Passport) else Path(run) for run in runs]
    names = distinct(names_of([str(each.table.model.iloc[0]) for each in passports], folders))
    rows, ratios = [], []
    for name, each, layer in zip(names, passports, layers or [""] * len(runs), strict=True):
        own = each.own()
        if layer:
            check_names(layer, own.layer.tolist(), "layer")
        row = own.set_index("layer", drop=False).loc[layer or each.about["last_layer"]]
        rows.append(row.to_dict() | _of_run(each, row) | {"run": name})
        ratios.append(each.ratios(row.layer).assign(run=name))
    table = pd.DataFrame(rows, columns=COLUMNS)
    settings = {"runs": [*map(str, folders)], "layers": list(layers)}
    facts = {"settings": settings_of(settings), "notes": _notes(names, passports)}
    return Encoders(table, pd.DataFrame(pd.concat(ratios), columns=RATIOS), facts)


def _of_run(each: Passport, row: Any) -> dict[str, object]:
    """What a row of a passport does not hold: the reference, random weights, a further layer."""
    random = each.table.loc[each.table["weights"] == "random"].set_index("layer")
    known = {
        name: random[name].to_dict().get(row.layer, np.nan)  # none if the run has no control
        for name in ("r2", "drift")
    }
    further = each.about.get("further") or {}
    return {
        "reference": each.about["reference"],
        "further": further.get("layer", ""),
        **{f"random_{name}": value for name, value in known.items()},
    }


def _notes(names: Sequence[str], passports: Sequence[Passport]) -> list[str]:
    """Which runs have other patches, another reference or another blur than the first."""
    first, lines = passports[0], []
    for name, each in zip(names[1:], passports[1:], strict=True):
        apart = [
            what
            for what, of in (
                ("patches", _fingerprint),
                ("resolution of reference", lambda run: round(run.about["reference"], 4)),
            )
            if of(each) != of(first)
        ]
        if apart:
            lines.append(
                f"{name} differs from {names[0]} in its {' and its '.join(apart)}, so they cannot "
                "be compared number by number."
            )
    return lines


def _fingerprint(run: Passport) -> object:
    images: Mapping[str, Any] = run.provenance.get("images") or {}
    return images.get("sha256")


def _between(row: Any) -> str:
    """The intervals of the ends at which a range breaks."""
    said = [
        text.interval(row[f"{end}_low"], row[f"{end}_high"])
        for end, side in (("finest", "finer"), ("coarsest", "coarser"))
        if row[side] == BREAKS and np.isfinite(row[f"{end}_low"])
    ]
    return f" {', '.join(said)}" if said else ""
