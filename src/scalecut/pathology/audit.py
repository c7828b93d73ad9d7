"""Which tiles and slides have another resolution than is claimed of them.

Files lie about their µm per pixel, and a network cut where it still encodes size can tell. `claims`
says what is claimed, `views` what the network is shown, `auditor` how both are compared.

Shapes: t tiles, n views, d features.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import PIL.Image
from jaxtyping import Bool, Int64
from matplotlib.figure import Figure
from torch import nn

from ..data.images import LeftOut, Progress
from ..errors import DataError, LayerError
from ..features.extract import Computation, Stages, provenance
from ..figures import text
from ..figures.drawing import page_figure
from ..figures.pathology import audit_drawing
from ..networks.load import load_network
from ..networks.network import Network
from ..networks.points import LOGITS, SOFTMAX, ProbePoint
from ..networks.selection import chosen_points
from ..networks.sources import is_factory
from ..probing.choose import choose_layer
from ..probing.controls import comparable
from ..probing.curve import Curve, check_model, computed_line, read_curve
from ..report.report import Result
from ..runs import read_run, settings_of
from ..stats.conformal import robust
from .claims import Claimed, Claims, claimed_tiles
from .saved_auditor import Auditor, load_auditor, save_auditor
from .slides import opened_field
from .tissue import marked_by_pens
from .transfer import CutPoint, point_of
from .verdict import FEWEST, Fit, Judged, Rule, Shown, audited, compared, fitted
from .views import Viewer, Views, middle, target_blur

# fmt: off
COLUMNS = [
    "name", "group", "claimed_mpp", "predicted_mpp", "low", "high", "octaves", "p_value",
    "verdict", "adjusted_p_value", "rank_p_value", "source", "n_views", "matched_octaves",
    "matched_p_value", "matched_verdict", "last_octaves", "last_p_value", "last_verdict", "file",
]
# fmt: on
AGREES, SUSPICIOUS, NO_CLAIM = "agrees", "suspicious", "no claim: predicted"
NO_VERDICT = "no verdict"  # too few patients
AS_IS, MATCHED = "as it is", "matched"
NETWORK = "tf_efficientnet_lite0"
LAYER = "blocks.5.1"  # that photographs of animals choose
SEED = 0  # of the scenes for the batch norms of random weights
AUDITOR, EXAMPLES = "auditor", "audited"  # folders in a run
MOST_SHOWN = 8  # suspicious tiles, and as many that agree, with images
UNUSED = ("fit", "half", "points", "cluster", "prefix_tokens")  # of Computation


@dataclass(frozen=True, slots=True)
class Judging:
    """When a claim is called suspicious.

    Args:
        rate: False discovery rate among all tiles, 0 to 1.
        level: Coverage of the intervals, 0 to 1.
    """

    rate: float = 0.1
    level: float = 0.95

    def __post_init__(self) -> None:
        for name in ("rate", "level"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise DataError(f"--{name} must be between 0 and 1, got {value:g}.")


@dataclass(frozen=True, slots=True)
class Trusted:
    """What tiles are judged by, instead of each other.

    Args:
        reference: A folder of tiles whose claims are trusted: they train and calibrate, and are
            not judged.
        with_: An auditor that an earlier audit wrote: its run folder, or the folder in it. The
            network, layer and views are those of the auditor; give --model too if its network is
            module.path:factory.
    """

    reference: str | Path = ""
    with_: str | Path = ""

    def __post_init__(self) -> None:
        if self.reference and self.with_:
            raise DataError(
                "--with was calibrated on its own reference. Drop --reference, or --with."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Audit(Result):
    """What is claimed and predicted of each tile.

    Args:
        table: the columns of `COLUMNS`, one row per tile, the most suspicious first.
        variants: one row per layer and blur: the spread of the errors of the reference, how many
            tiles are suspicious, and the share of claims inside their intervals (`coverage`).
        left_out: tiles that were skipped, with the reason.
        provenance: facts of `run.json`.
        examples: the tiles whose images the page shows, with the name of the file.
        images: these files, as JPEG, by name.
        auditor: what judged the tiles; None if the result was read from a run, or a folder.
    """

    NAME: ClassVar[str] = "audit"
    table: pd.DataFrame
    variants: pd.DataFrame
    left_out: tuple[LeftOut, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    images: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    auditor: Auditor | None = field(default=None, repr=False)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table of the run folder, by name."""
        tables = {"audit": self.to_frame(), "variants": self.variants, "mpp": self.mpp()}
        return tables | ({EXAMPLES: self.examples} if len(self.examples) else {})

    def mpp(self) -> pd.DataFrame:
        """A size per slide for other tools: claimed if it agrees, predicted without a claim.

        Suspicious slides are not in it: a person has to decide. `wsi` repeats `slide` under the
        name that TRIDENT reads.
        """
        rows = self.table.loc[self.table.verdict.isin([AGREES, NO_CLAIM])]
        size = rows.claimed_mpp.fillna(rows.predicted_mpp)
        table = pd.DataFrame({"slide": rows.file, "mpp": size.round(4), "wsi": rows.file})
        return table.sort_values("slide", ignore_index=True)

    def finding(self) -> str:
        """How many tiles are suspicious, which are the first, and what is predicted of them."""
        facts, counts = self.provenance.get("audit", {}), self.table.verdict.value_counts()
        n_judged = int(counts.get(AGREES, 0) + counts.get(SUSPICIOUS, 0))
        rest = counts.get(NO_CLAIM, 0)
        more = f" The resolution of {rest} without a claim is predicted." if rest else ""
        if not n_judged:
            few = counts.get(NO_VERDICT, 0)
            own = f"fewer than {FEWEST} patients other than its own were there to calibrate"
            return f"No claim was judged{f', because {own}' if few else ''}.{more}"
        bad = self.table.loc[self.table.verdict == SUSPICIOUS]
        named = [
            f"{row.name} (claimed {row.claimed_mpp:.3g} µm per pixel, predicted "
            f"{row.predicted_mpp:.2g})"
            for row in bad.head(3).itertuples(index=False)
        ]
        listed = f": {', '.join(named)}{', ...' if len(bad) > 3 else ''}" if named else ""
        is_are = "is" if len(bad) == 1 else "are"
        return (
            f"{len(bad) or 'None'} of {n_judged} tiles {is_are} suspicious at a false discovery "
            f"rate of {facts.get('rate', 0.1):g}{listed}.{more}"
        )

    def summary(self) -> dict[str, pd.DataFrame]:
        """The most suspicious tiles, and the layers compared."""
        rows = self.table.head(12)
        shown = pd.DataFrame(
            {
                "tile": rows.name,
                "claimed": [text.number(each) for each in rows.claimed_mpp],
                "predicted": [
                    text.with_interval(*each)
                    for each in zip(rows.predicted_mpp, rows.low, rows.high, strict=True)
                ],
                " octaves": [text.number(each) for each in rows.octaves],
                "p": [text.p_value(p) if np.isfinite(p) else "–" for p in rows.p_value],
                "verdict": rows.verdict,
            }
        )
        numbers = {f" {name.replace('_', ' ')}": [text.number(v) for v in self.variants[name]]
                   for name in ("spread", "coverage")}  # fmt: skip
        layers = self.variants[["layer", "blur", "n_suspicious"]].assign(**numbers)
        return {
            "µm per pixel, the most suspicious first": shown,
            "Layers, and blur as it is or matched": layers.rename(
                columns={"n_suspicious": " suspicious", " coverage": " claims in intervals"}
            ),
        }

    def notes(self) -> list[str]:
        """What is assumed, and how features were computed."""
        facts = self.provenance.get("audit", {})
        return [*facts.get("notes", ()), *computed_line(self.provenance)]

    def plot(self) -> Figure:
        """The difference between predicted and claimed resolution of each tile."""
        return page_figure(audit_drawing(self.table, self.facts()))

    def write_more(self, folder: Path) -> None:
        """Write the images of the page, and the auditor."""
        if self.auditor is not None:
            save_auditor(self.auditor, folder / AUDITOR)
        if self.images:
            (folder / EXAMPLES).mkdir()
        for name, jpeg in self.images.items():
            (folder / name).write_bytes(jpeg)


def read_audit(folder: str | Path) -> Audit:
    """The result that `Audit.save` wrote, without its images."""
    run = read_run(folder, needed=("audit",))
    left_out = tuple(LeftOut(**each) for each in run.facts.get("left_out", ()))
    tables = run.table("audit", COLUMNS), run.table("variants")
    return Audit(*tables, left_out, dict(run.facts))


def audit(
    data: str | Path,
    *,
    model: str | nn.Module | Network = NETWORK,
    weights: str | Path = "pretrained",
    cut: CutPoint = CutPoint(),
    trusted: Trusted = Trusted(),
    claims: Claims = Claims(),
    views: Views = Views(),
    judging: Judging = Judging(),
    computation: Computation = Computation(precision="float32"),
    progress: Progress | None = None,
) -> Audit:
    """Find tiles and slides whose µm per pixel is not what is claimed of them.

    By default tiles judge each other, patient by patient: most claims have to be true.

    Args:
        data: A folder of tiles or slides (SVS, NDPI, MRXS, SCN, DICOM, pyramidal or OME TIFF), or
            one of them.
        model, weights, progress: As for `probe`.
        cut: Where the network is cut; by default blocks.5.1 of tf_efficientnet_lite0.
        cut.from_: The run of a probe, whose curve chooses the layer if --at names none.
        trusted: What tiles are judged by.
        claims: What is claimed.
        views: At which resolutions tiles are shown.
        judging: When a claim is suspicious.
        computation: How features are computed; in float32, so that an auditor can be shared.

    Raises:
        DataError: if nothing is claimed of any tile, or no tile can be used.
        LayerError: if no layer to cut at is given for another network.
    """
    settings, stages = settings_of(locals()), Stages(progress)
    plain = replace(computation, input_size=None, mean=None, std=None, interpolation=None)
    factory = model if isinstance(model, str) and is_factory(model) else None
    given = NETWORK if factory else model, weights, cut, views, computation
    if trusted.with_ and given != (NETWORK, "pretrained", CutPoint(), Views(), plain):
        raise DataError(
            "--with brings its own network, layer and views. Drop --model, --weights, --at, "
            "--from, --rule, --target, --octaves, --grid, --input-size, --mean, --std and "
            "--interpolation."
        )
    trusted_place = Path(trusted.reference) if trusted.reference else None
    found, left_out = claimed_tiles(Path(data), claims, trusted_place)
    others, more_left_out = _reference(trusted_place, claims, Path(data), found)
    with stages("network"):
        auditor = load_auditor(trusted.with_, factory) if trusted.with_ else None
        if auditor is None:
            _check_claims([*others] or found, trusted_place or data)
            network = comparable(computation.shown(load_network(model, weights=weights)), SEED)
            points, views_ = _points(network, cut), views
        else:
            network, points, views_ = auditor.network, [auditor.point], auditor.views
    viewer = Viewer(network, points, views_, computation, stages)
    tiles = [*found, *others]
    as_is, unusable = viewer.features([each.image for each in tiles], "features")
    usable = np.unique(as_is[points[0].layer].tile)
    if auditor is None:
        learnt_from = [tiles[n] for n in usable.tolist() if n >= len(found) or not others]
        _check_claims(learnt_from, trusted_place or data)
    blur = (
        auditor.blur
        if auditor
        else target_blur(viewer.native_of([each.image for each in others or found]), views_)
    )
    matched, _ = viewer.features([each.image for each in tiles], "blur matched", blur)
    is_audited = np.arange(len(tiles)) < len(found)
    rule = Rule(views_.averaged, judging.level, judging.rate)
    readings = [
        _read(point, name, shown[point.layer], tiles, is_audited, rule, auditor)
        for point in points
        for name, shown in ((AS_IS, as_is), (MATCHED, matched))
    ]
    own = auditor or Auditor(
        network, points[0], views_, blur, {r.blur: r.fit for r in readings[:2]}, points[0].label
    )
    kept = [number for number in usable.tolist() if is_audited[number]]
    table = _table(tiles, kept, readings, as_is[points[0].layer])
    facts = provenance(network, settings, stages)
    facts["audit"] = about = _facts(tiles, usable, is_audited, own, judging, readings)
    about["notes"] += marked_by_pens(viewer.pen, len(usable))
    examples, images = _examples(table, found, network.preprocessing.height)
    skipped = (*left_out, *more_left_out, *unusable)
    variants = pd.DataFrame([each.row(kept) for each in readings])
    new = None if auditor or network.build is None else own  # one that can be loaded
    return Audit(table, variants, skipped, facts, examples, images, new)


def _check_claims(tiles: Sequence[Claimed], place: str | Path) -> None:
    """Refuse tiles from which nothing can be learnt: without claims, or of one patient."""
    patients = {each.group for each in tiles if np.isfinite(each.um_per_pixel)}
    if not patients:
        raise DataError(
            f"None of the {len(tiles)} tiles of {place} claims a size (the first is "
            f"{tiles[0].name}), so nothing can be learnt. Give --native, --claims TABLE with the "
            "columns slide and mpp, --reference with tiles that do, or --with an auditor."
        )
    if len(patients) == 1:
        raise DataError(
            f"Only one patient, {patients.pop()}, has tiles that claim a size, but each is "
            "predicted from others. Give tiles of more patients, --reference, or --with an auditor."
        )


def _reference(
    place: Path | None, claims: Claims, data: Path, found: Sequence[Claimed]
) -> tuple[list[Claimed], tuple[LeftOut, ...]]:
    """The trusted tiles, without those of patients that are audited."""
    if not place:
        return [], ()
    tiles, left_out = claimed_tiles(place, claims, data)
    table = claims.claims.name if claims.claims else ""  # whose rows are listed with the others
    left_out = [each for each in left_out if each.name != table]
    audited_ = {each.group for each in found}
    reason = "a tile of the same patient is audited"
    shared = [LeftOut(each.name, reason) for each in tiles if each.group in audited_]
    kept = [each for each in tiles if each.group not in audited_]
    if not kept:
        raise DataError(
            f"Every patient of {str(place)!r} is also audited. Give --reference tiles of others, "
            "or leave it out."
        )
    return kept, (*left_out, *shared)


def _points(network: Network, cut: CutPoint) -> list[ProbePoint]:
    """Where features are read: at the cut, and at the last layer unless it is that."""
    curve = cut.from_ if isinstance(cut.from_, Curve | None) else read_curve(cut.from_)
    if curve and not isinstance(cut.from_, Curve):
        check_model(curve, Path(cut.from_ or ""), network.name)
    rule = cut.rule or "cheapest"
    layer = cut.at or (choose_layer(curve, rule, target=cut.target).layer if curve else "")
    if not layer and network.name != NETWORK:
        raise LayerError(
            f"No layer of {network.name} to cut at is given. Give --at LAYER, or --from RUN, the "
            "run folder of a probe."
        )
    every, _ = chosen_points(network)
    points = [point for point in every if point.layer not in (LOGITS, SOFTMAX)]
    at, last = point_of(points, layer or LAYER), points[-1]
    return [at] if at.layer == last.layer else [at, last]


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """What one layer says of all tiles, with the blur of views as it is or matched."""

    layer: str
    blur: str
    judged: Judged
    fit: Fit

    def row(self, kept: Sequence[int]) -> dict[str, object]:
        """Of `variants.csv`: the errors, and the share of claims inside their intervals."""
        judged = self.judged
        patients = np.unique(self.fit.groups, return_inverse=True)[1].astype(np.int64)
        centre, spread = robust(self.fit.errors, patients)
        known = [n for n in kept if np.isfinite(judged.error[n] + judged.half_width[n])]
        covered = np.abs(judged.error[known]) <= judged.half_width[known]
        return {
            "layer": self.layer,
            "blur": self.blur,
            "n_suspicious": int(judged.is_suspicious[list(kept)].sum()),
            "centre": centre,
            "spread": spread,
            "coverage": float(covered.mean()) if known else float("nan"),
            "n_reference": len(self.fit.errors),
        }


def _read(
    point: ProbePoint,
    blur: str,
    shown: Shown,
    tiles: Sequence[Claimed],
    is_audited: Bool[np.ndarray, " t"],
    rule: Rule,
    auditor: Auditor | None,
) -> _Reading:
    """All tiles judged at a layer: by each other, by a reference, or by an earlier auditor."""
    claimed = np.log2([each.um_per_pixel for each in tiles])
    groups, label = [each.group for each in tiles], point.label
    is_there = np.isin(np.arange(len(tiles)), shown.tile)
    claimed = np.where(is_there, claimed, np.nan)
    if auditor is not None:
        fit, label = auditor.fits[blur], auditor.label
    elif is_audited.all():
        judged, fit = audited(shown, claimed, groups, rule)
        return _Reading(label, blur, judged, fit)
    else:
        fit = fitted(shown, claimed, groups, ~is_audited & np.isfinite(claimed), rule)
    part = shown.of(is_audited)
    judged = compared(part, np.where(is_audited, claimed, np.nan), groups, fit, rule)
    return _Reading(label, blur, judged, fit)


def _table(
    tiles: Sequence[Claimed], kept: Sequence[int], readings: Sequence[_Reading], shown: Shown
) -> pd.DataFrame:
    """The columns of COLUMNS, the most suspicious first; the first reading gives the verdict."""
    main, matched, last = readings[0], readings[1], (*readings[2:3], None)[0]
    judged, rows = main.judged, []
    for n in kept:
        tile, width = tiles[n], judged.half_width[n]
        low, high = 2.0 ** (judged.size[n] + np.array([-width, width]))
        is_bounded = bool(np.isfinite(width))
        row = {
            "name": tile.name,
            "group": tile.group,
            "claimed_mpp": tile.um_per_pixel,
            "predicted_mpp": float(2.0 ** judged.size[n]),
            "low": float(low) if is_bounded else float("nan"),
            "high": float(high) if is_bounded else float("nan"),
            "octaves": judged.error[n],
            "p_value": judged.p_value[n],
            "verdict": _verdict(judged, n),
            "adjusted_p_value": judged.adjusted[n],
            "rank_p_value": judged.rank_p_value[n],
            "source": tile.source,
            "n_views": int((shown.tile == n).sum()),
        }
        for name, other in (("matched", matched), ("last", last)):
            each = other.judged if other else None
            row[f"{name}_octaves"] = each.error[n] if each else float("nan")
            row[f"{name}_p_value"] = each.p_value[n] if each else float("nan")
            row[f"{name}_verdict"] = _verdict(each, n) if each else ""
        rows.append(row | {"file": tile.file})
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["unusual"] = -table.octaves.abs()
    order = ["p_value", "unusual", "name"]
    return table.sort_values(order, ignore_index=True).drop(columns="unusual")


def _verdict(judged: Judged, number: int) -> str:
    if not np.isfinite(judged.error[number]):
        return NO_CLAIM
    if not np.isfinite(judged.p_value[number]):
        return NO_VERDICT
    return SUSPICIOUS if judged.is_suspicious[number] else AGREES


def _facts(
    tiles: Sequence[Claimed],
    usable: Int64[np.ndarray, " k"],
    is_audited: Bool[np.ndarray, " t"],
    auditor: Auditor,
    judging: Judging,
    readings: Sequence[_Reading],
) -> dict[str, Any]:
    """Of `run.json`: what was judged by what, and what is assumed."""
    there = [number for number in usable.tolist() if is_audited[number]]
    claims = {round(tiles[n].um_per_pixel, 4) for n in there if tiles[n].source}
    fit = readings[0].fit
    n_patients, notes = len(set(fit.groups)), []
    is_own = not {tiles[n].group for n in there}.isdisjoint(fit.groups)  # one of them is its own
    n_others, needed = n_patients - is_own, np.ceil(judging.level / (1 - judging.level) - 1e-9)
    if n_others < FEWEST:
        others = f", {n_others} others for each tile" * is_own
        notes.append(
            f"There are {n_patients} patients to calibrate with{others}, so sizes are predicted, "
            f"but not judged; {FEWEST} are needed."
        )
    elif n_others < needed:
        notes.append(
            f"An interval of {100 * judging.level:g} % needs {needed:.0f} other patients; there "
            f"are {n_others}."
        )
    if len(claims) == 1 and is_audited.all():
        notes.append(
            f"All tiles claim {claims.pop():g} µm per pixel, and learn from each other: it is "
            "assumed that most are right. If all are wrong alike, none is found."
        )
    if len(there) > 1 and all(tiles[n].group == tiles[n].name for n in there):
        notes.append(
            "No patient is recognised in the names of the tiles, so each tile counts as one. Give "
            "--group-from-name, or a column group in --claims, if patients have several."
        )
    return {
        "rate": judging.rate,
        "level": judging.level,
        "layer": auditor.label,
        "last_layer": readings[-1].layer if len(readings) > 2 else None,
        "blur": auditor.blur,
        "views": auditor.views,
        "n_audited": len(there),
        "n_reference": len(fit.errors),
        "n_reference_patients": n_patients,
        "stated": {tiles[n].name: tiles[n].stated for n in there if tiles[n].stated},
        "notes": notes,
    }


def _examples(
    table: pd.DataFrame, tiles: Sequence[Claimed], size: int
) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """A patch of each of the first suspicious tiles, and of as many that agree best.

    All at the resolution of the file, so that equal claims are shown alike.
    """
    by_name = {each.name: each for each in tiles}
    bad = table.loc[table.verdict == SUSPICIOUS].head(MOST_SHOWN)
    good = table.loc[table.verdict == AGREES].tail(max(len(bad), MOST_SHOWN // 2))
    rows, files = [], {}
    for row in pd.concat([bad, good.iloc[::-1]]).to_dict("records"):
        with suppress(DataError):
            stored = io.BytesIO()
            with opened_field(by_name[row["name"]].image) as field_:
                PIL.Image.fromarray(middle(field_, size)).save(stored, "JPEG", quality=90)
            file = f"{EXAMPLES}/{len(files)}.jpg"
            files[file] = stored.getvalue()
            kept = ("name", "verdict", "claimed_mpp", "predicted_mpp", "octaves")
            rows.append({"image": file} | {name: row[name] for name in kept})
    return pd.DataFrame(rows), files
