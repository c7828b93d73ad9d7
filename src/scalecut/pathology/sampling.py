"""Patches of slides and tiles at given µm per pixel, around places on their tissue.

A slide of s µm per pixel shown at m is resampled by m / s: each pixel of the patch is the mean over
that many pixels of the slide, read from the coarsest level that is fine enough. Slides are not
enlarged, except by up to 5 %, since scanners of 0.25 µm have 0.228 to 0.265; that is stated.

Nuclei are drawn at the size of the slide, and then resampled and counted as those of tiles.
"""

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..data.assumptions import Assumed
from ..data.decoding import suffix_of
from ..data.images import Image, LeftOut, skip
from ..data.masks import MaskRule, understood
from ..data.outlines import Tally
from ..data.pairs import GEOJSON, IN_PIXELS
from ..data.patches import AT_1X, TOLERANCE
from ..errors import DataError
from .claims import Claimed, Claims, claimed_tiles
from .cutting import FOLDER, Cut, Cutting, Plan, blurred, saved, sizes_of
from .nuclei import Nuclei, Outlines, nuclei_of
from .places import common_places, corners, most_places, spread_places
from .resampling import areas_of_nuclei, estimated_blur, resampled_nuclei
from .slides import Field, opened_field
from .tiles import accepted, asked_out, files_by_name, mask_name
from .tissue import Tissue, marked_by_pens, tissue

COLUMNS = ("um_per_pixel", "place", "left", "top")  # after those that tiles have, too
# fmt: off
OF_SLIDES = (
    "slide", "group", "um_per_pixel", "source", "stated", "width", "height", "levels",
    "tissue_share", "pen_share", "places", "patches", "seconds",
)
# fmt: on
TALLIED = ("n_nuclei", "n_cells", "n_overlapping")  # of outlines
FINER, SMALL, NO_TISSUE = (
    "are coarser, and are not enlarged",
    "are smaller than a patch there",
    "have no place where half of a patch is tissue",
)
_BLUR_PLACES, _BLUR_SIDE = 9, 512  # patches, and their pixels, from which the blur is estimated


@dataclass(frozen=True, slots=True, eq=False)
class Slide:
    """A slide or tile of known resolution, and where its nuclei are marked."""

    name: str
    image: Image
    group: str  # the patient
    um_per_pixel: float
    source: str  # of the resolution, in words
    stated: tuple[str, ...]  # all that is stated of it anywhere
    mask: Path | None = None
    rule: MaskRule | None = None  # what the values of masks mean


def find_slides(
    place: Path, masks: Path | None, cutting: Cutting, leave_out: Sequence[str], *, strict: bool
) -> tuple[list[Slide], tuple[LeftOut, ...], list[str]]:
    """Slides and tiles of known resolution, each with its mask if masks are given.

    Also what is skipped, and what is assumed and stated of masks, in sentences.

    Raises:
        DataError: if none can be used, the table or the masks cannot, or `strict` is not met.
    """
    claims = Claims(cutting.claims, cutting.native, cutting.um_per_pixel, cutting.group_from_name)
    found, unusable = claimed_tiles(place, claims)
    left_out: list[LeftOut] = []
    for each in unusable:
        skip(each, left_out, strict)
    unread = asked_out([each.name for each in found], leave_out)
    left_out += [LeftOut(name, "--leave-out names it, as asked") for name in sorted(unread)]
    files = files_by_name(masks, "masks") if masks else {}
    slides: list[Slide] = []
    for each in (each for each in found if each.name not in unread):
        try:
            slides.append(_with_mask(each, files if masks else None))
        except DataError as error:
            skip(LeftOut(each.name, str(error)), left_out, strict)
    if not slides:
        first = f"{left_out[0].name}: {left_out[0].reason}"
        raise DataError(f"None of the slides of {place} can be used ({first}).")
    _check_masks(slides)
    images = [each.mask for each in slides if each.mask and suffix_of(each.mask) != GEOJSON]
    rule = understood(images, cutting.mask_kind, cutting.background)
    assumed, stated = accepted(rule.assumed, cutting.confirm, strict)
    outlined = [IN_PIXELS] * any(each.mask and suffix_of(each.mask) == GEOJSON for each in slides)
    said = [f"{each[0].upper()}{each[1:]}." for each in (*assumed, *outlined, *stated)]
    return [replace(each, rule=rule) for each in slides], tuple(left_out), said


def _with_mask(claimed: Claimed, files: Mapping[str, Sequence[Path]] | None) -> Slide:
    if not np.isfinite(claimed.um_per_pixel):
        raise DataError(
            "it states no µm per pixel; give --claims TABLE with the columns slide and mpp, "
            "--native or --um-per-pixel"
        )
    mask = None
    if files is not None:
        name = mask_name(claimed.name)
        own = files.get(name, ())
        if len(own) != 1:
            what = ", ".join(path.name for path in own) or "none"
            raise DataError(f"it needs one mask, {name}{GEOJSON} or {name}_mask.png; found {what}")
        mask = own[0]
    about = claimed.group, claimed.um_per_pixel, claimed.source, claimed.stated
    return Slide(claimed.name, claimed.image, *about, mask)


def _check_masks(slides: Sequence[Slide]) -> None:
    """Refuse a mask of two slides, whose names differ in folder or `_original` only."""
    used: dict[Path, str] = {}
    for each in slides:
        if each.mask and used.setdefault(each.mask, each.name) != each.name:
            raise DataError(
                f"The mask {each.mask.name} could be that of {used[each.mask]} or of {each.name}. "
                "Give each slide a name of its own, and its mask the same, or skip one by "
                "--leave-out."
            )


def sampled(slide: Slide, part: str, plan: Plan) -> tuple[list[Cut], dict[str, Any]]:
    """The patches of a slide, written, and what `slides.csv` says of it.

    Raises:
        DataError: if it cannot be read, or has no patch at any resolution.
    """
    started, written = time.perf_counter(), []
    try:
        with opened_field(slide.image) as field:
            cuts, facts = _sampled(slide, field, part, plan, written)
    except DataError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise DataError(str(error).removeprefix(f"{slide.name}: ").rstrip(".")) from error
    return cuts, facts | {"seconds": round(time.perf_counter() - started, 3)}


def _sampled(
    slide: Slide, field: Field, part: str, plan: Plan, written: list[Path]
) -> tuple[list[Cut], dict[str, Any]]:
    shown_in, size = tissue(field), plan.cutting.size
    placed = _placed(slide, field, shown_in, plan)
    tally = Tally()
    nuclei = None
    if slide.mask:
        assert slide.rule is not None  # find_slides gives one
        nuclei = nuclei_of(slide.mask, slide.rule, field, tally)
    cuts = list(placed.skipped)
    largest = ceil(size * max(placed.factors.values()))
    for mpp, factor in placed.factors.items():
        extent = ceil(size * factor)
        at = corners(placed.centres, shown_in, extent, largest)
        rows: list[Mapping[str, object]] = []
        for number, (left, top) in enumerate(at.tolist()):
            sizes = _sizes(nuclei, (left, top), factor, size, mpp) if nuclei else {}
            if sizes is None:
                continue
            name = f"{slide.name.replace('/', '__')}_{number}_{mpp:g}um"
            written.append(plan.folder / FOLDER / f"{name}.png")
            pixels = field.averaged((left, top), factor, size)
            if plan.blur:
                pixels = blurred(pixels, factor, plan.blur)
            start = {"patch": saved(plan, name, pixels), "tile": slide.name}
            start |= {"group": slide.group, "split": part, "magnification": AT_1X / mpp}
            where = {"um_per_pixel": mpp, "place": number, "left": left, "top": top}
            rows.append(start | sizes | where)
        cuts.append(Cut(_at(mpp), rows, len(at) - len(rows)))
    facts = {
        "slide": slide.name, "group": slide.group, "um_per_pixel": slide.um_per_pixel,
        "source": slide.source, "stated": "; ".join(slide.stated),
        "width": field.size[0], "height": field.size[1], "levels": field.n_levels,
        "tissue_share": float(shown_in.found.mean()), "pen_share": float(shown_in.pen.mean()),
        "places": len(placed.centres), "patches": sum(len(cut.rows) for cut in cuts),
        "n_nuclei": tally.n_nuclei, "n_cells": tally.n_cells,
        "n_overlapping": len(nuclei.overlapping) if isinstance(nuclei, Outlines) else 0,
        "corner": nuclei.corner if isinstance(nuclei, Outlines) else (0, 0),
    }  # fmt: skip
    return cuts, facts


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    centres: Float64[np.ndarray, "p 2"]  # in pixels of the small copy
    factors: Mapping[float, float]  # pixels of the slide along one of the patch, by resolution
    skipped: Sequence[Cut]  # resolutions that this slide cannot show


def _placed(slide: Slide, field: Field, shown_in: Tissue, plan: Plan) -> _Placed:
    """Where the patches of a slide lie, the same for everyone who asks with this seed."""
    size, skipped = plan.cutting.size, []
    factors: dict[float, float] = {}
    for mpp in sorted(plan.cutting.mpp):
        factor = mpp / slide.um_per_pixel
        if factor < 1 / (1 + TOLERANCE):
            example = f"{slide.name} with {slide.um_per_pixel:.4g} µm per pixel"
            skipped.append(Cut(_at(mpp), skipped=FINER, example=example))
        elif ceil(size * factor) > min(field.size):
            example = f"{slide.name} with {field.size[0]} x {field.size[1]} px"
            skipped.append(Cut(_at(mpp), skipped=SMALL, example=example))
        else:
            factors[mpp] = factor
    if not factors:
        raise DataError(
            f"none of the resolutions fits its {field.size[0]} x {field.size[1]} px of "
            f"{slide.um_per_pixel:.4g} µm; add a coarser one to --mpp, or give a smaller --size"
        )
    extents = [ceil(size * factor) for factor in factors.values()]
    usable, kept = common_places(shown_in, extents)
    for mpp in list(factors)[len(kept) :]:
        skipped.append(Cut(_at(mpp), skipped=NO_TISSUE, example=slide.name))
        del factors[mpp]
    if not factors:
        raise DataError(f"no place of {extents[0]} px shows tissue on half of its area")
    n = most_places(usable, shown_in, kept[0], plan.cutting.per_slide)
    rng = np.random.default_rng([plan.seed, zlib.crc32(slide.name.encode())])
    return _Placed(spread_places(usable, n, rng), factors, skipped)


def _sizes(
    nuclei: Nuclei, corner: tuple[int, int], factor: float, size: int, mpp: float
) -> dict[str, float | int] | None:
    """The columns about nuclei; None if there is no complete one."""
    window = resampled_nuclei(nuclei.window(corner, ceil(size * factor)), factor)
    areas = areas_of_nuclei(window[:size, :size])
    return sizes_of(areas, mpp) if areas.size else None


def _at(mpp: float) -> str:
    return f"{mpp:g} µm per pixel"


def blur_of(slide: Slide, plan: Plan) -> float | None:
    """The point spread of a slide, in its pixels: the median of some places; None without edges."""
    try:
        with opened_field(slide.image) as field:
            shown_in = tissue(field)
            placed = _placed(slide, field, shown_in, plan)
            extent = min(_BLUR_SIDE, *field.size)
            at = corners(placed.centres[:_BLUR_PLACES], shown_in, extent, extent)
            boxes = [(x, y, x + extent, y + extent) for x, y in at.astype(float).tolist()]
            found = [estimated_blur(field.native(box)) for box in boxes]
    except DataError:  # which is listed where patches are cut
        return None
    known = [each for each in found if each is not None]
    return float(np.median(known)) if known else None


# --- what is said of slides ----------------------------------------------------------------------


def before(slides: Sequence[Slide], cutting: Cutting) -> list[str]:
    """Sentences on the resolution of slides and on patients, before any is read."""
    said: list[str] = []
    n = len(slides)
    by_source: dict[str, list[float]] = {}
    for each in slides:
        by_source.setdefault(each.source, []).append(each.um_per_pixel)
    for source, sizes in by_source.items():
        low, high = f"{min(sizes):.4g}", f"{max(sizes):.4g}"
        span = low if low == high else f"{low} to {high}"
        said.append(f"{len(sizes)} of {n} have {span} µm per pixel by {source}.")
    for mpp in sorted(cutting.mpp):
        enlarged = [s.um_per_pixel for s in slides if mpp < s.um_per_pixel <= mpp * (1 + TOLERANCE)]
        if enlarged and max(enlarged) / mpp > 1.0005:
            said.append(
                f"{len(enlarged)} of {n} are enlarged at {mpp:g} µm per pixel, by up to "
                f"{100 * (max(enlarged) / mpp - 1):.1f} %."
            )
    if n > 1 and all(each.group == each.name for each in slides):
        said.append(
            "No patient is recognised in the names, so each slide counts as one. Give "
            "--group-from-name, or a column group in --claims, if patients have several."
        )
    return said


def _cropped(facts: Sequence[Mapping[str, Any]]) -> Iterator[Assumed]:
    """What is assumed of outlines where the corner of the slide is not that of what was scanned."""
    found = [each for each in facts if any(each["corner"])]
    if found:
        left, top = found[0]["corner"]
        yield Assumed(
            f"outlines on {len(found)} of {len(facts)} slides count from the corner of what was "
            f"scanned (that of {found[0]['slide']} is {left}, {top}), as QuPath exports them "
            "without --no-crop",
            "crop",
        )


def after(
    facts: Sequence[Mapping[str, Any]],
    resolutions: Sequence[float],
    cutting: Cutting,
    *,
    strict: bool,
) -> list[str]:
    """Sentences on what was found on the slides.

    Raises:
        DataError: if something is assumed of outlines, and `strict`.
    """
    nuclei, cells, overlapping = (sum(each[name] for each in facts) for name in TALLIED)
    tally = Tally(n_nuclei=nuclei, n_cells=cells, n_overlapping=overlapping)
    assumed, stated = accepted((*tally.statements(), *_cropped(facts)), cutting.confirm, strict)
    shares = {each["slide"]: each["pen_share"] for each in facts if each["pen_share"]}
    said = [f"{each}." for each in (*assumed, *stated)] + marked_by_pens(shares, len(facts))
    few = [each for each in facts if each["places"] < cutting.per_slide]
    if few:
        said.append(
            f"{len(few)} of {len(facts)} have tissue for fewer than {cutting.per_slide} places "
            f"(the first is {few[0]['slide']}, {few[0]['places']})."
        )
    flat = [
        each for each in facts if each["levels"] == 1 and each["width"] * each["height"] > 10**8
    ]
    if flat:
        said.append(
            f"{len(flat)} of {len(facts)} have one resolution only, so reading is slow (the first "
            f"is {flat[0]['slide']}). Save them with a pyramid."
        )
    if len(cutting.mpp) > 1 and len(set(resolutions)) == 1:
        said.append(
            f"All patches have {resolutions[0]:g} µm per pixel, so nothing can be learnt about "
            "resolution from them."
        )
    return said
