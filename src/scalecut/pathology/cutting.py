"""How patches are cut, and what one tile or slide gives.

Shapes: k nuclei; h x w pixels of a patch or tile, c colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from jaxtyping import Float64, Int64
from scipy import ndimage

from ..data.assumptions import CONFIRMABLE
from ..data.masks import KINDS, background_code
from ..errors import DataError, check_least, check_names, several
from .resampling import SMALLEST, spread

FOLDER = "patches"
NATIVE = 40.0  # magnification of tiles, unless another is given
BLUR_MARGIN = 2.0  # target variance of `match_blur` over the largest variance before matching


@dataclass(frozen=True, slots=True)
class Blur:
    """Standard deviations of the point spread, as of a Gaussian."""

    native: float  # of the tiles, in their pixels
    target: float  # of all patches, in theirs


@dataclass(frozen=True, slots=True)
class Cutting:
    """How patches are cut from tiles and slides.

    Args:
        magnifications: Magnifications of the patches, up to that of the tiles.
        mpp: Resolutions of the patches in µm per pixel, such as 0.25,0.5,1,2, instead of
            magnifications: patches lie around places on the tissue, the same at every resolution.
        per_slide: Places on each slide or tile, with --mpp; each gives a patch at every resolution.
        native: Magnification of the tiles, by default 40. With --mpp it has no default, and is used
            where neither file nor table states µm per pixel.
        size: Side of a patch in pixels.
        grid: Patches across and down per tile at every magnification, evenly spread from edge to
            edge; they overlap where they must. By default patches do not overlap, and low
            magnifications have few.
        um_per_pixel: Micrometres per pixel of the tiles; by default what the file of each says.
        claims: With --mpp, a table with the columns slide and mpp (µm per pixel), optionally group.
        group_from_name: With --mpp, a regular expression; the first parenthesis, or all that
            matches in the name of a slide, is its patient. By default TCGA barcodes and the like
            are recognised, and each other slide is a patient.
        match_blur: Give all magnifications the same point spread, in pixels of the patch. Otherwise
            sharpness reveals the magnification, whatever the nuclei.
        native_blur: Standard deviation of the point spread of the tiles, in their pixels; by
            default estimated from the training tiles.
        mask_kind: What masks mean: binary (each connected region is a nucleus), instances (each
            value is one), or classes (each connected region of a value); auto detects it.
        background: The value or colour (R,G,B) of masks that marks nothing, instead of 0.
        confirm: What is assumed of masks and right, in the words that --strict names.
    """

    magnifications: Sequence[float] = (5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0)  # graziani2021
    mpp: Sequence[float] = ()
    per_slide: int = 64
    native: float | None = None
    size: int = 224
    grid: int | None = None
    um_per_pixel: float | None = None
    claims: Path | None = None
    group_from_name: str = ""
    match_blur: bool = False
    native_blur: float | None = None
    mask_kind: Literal["auto", "binary", "instances", "classes"] = "auto"
    background: str = ""
    confirm: Sequence[str] = ()

    def __post_init__(self) -> None:
        given = (*self.magnifications, self.tiles_at, self.size)
        is_usable = bool(self.magnifications) and all(0 < each < np.inf for each in given)
        if not is_usable or self.size < SMALLEST:
            asked = ", ".join(f"{each:g}X" for each in self.magnifications) or "no magnification"
            raise DataError(
                f"Patches of {self.size:g} px at {asked} cannot be cut from tiles at "
                f"{self.tiles_at:g}X. Give magnifications above 0 and patches of "
                f"{SMALLEST} px or more."
            )
        if not self.mpp and max(self.magnifications) > self.tiles_at:
            raise DataError(
                f"A magnification of {max(self.magnifications):g}X is above that of the tiles, "
                f"{self.tiles_at:g}X, and would add no detail. Give {self.tiles_at:g} or less."
            )
        check_least(self, grid=1)
        check_names(self.mask_kind, ("auto", *KINDS), "kind of mask")
        object.__setattr__(self, "confirm", several(self.confirm))
        check_names(self.confirm, tuple(CONFIRMABLE), "assumption")
        background_code(self.background)
        for value, name in ((self.um_per_pixel, "um-per-pixel"), (self.native_blur, "native-blur")):
            if value is not None and not 0 < value < np.inf:
                raise DataError(f"--{name} must be above 0, got {value:g}.")
        if self.native_blur is not None and not self.match_blur:
            raise DataError("--native-blur has no effect without --match-blur. Add that option.")
        self._check_places()

    def _check_places(self) -> None:
        """Refuse options of the one way to place patches together with the other."""
        check_least(self, per_slide=1)
        without, other = ("magnifications", "grid"), ("per_slide", "claims", "group_from_name")
        for name in without if self.mpp else other:
            value = getattr(self, name)
            if (tuple(value) if isinstance(value, list) else value) != _default(name):
                option = f"--{name.replace('_', '-')}"
                raise DataError(
                    f"{option} has no effect with --mpp. Drop one of them."
                    if self.mpp
                    else f"{option} has no effect without --mpp. Add that option."
                )
        listed = ",".join(f"{each:g}" for each in self.mpp)
        if not all(0 < each < np.inf for each in self.mpp):
            raise DataError(f"--mpp {listed} is unusable. Give µm per pixel, such as 0.25,0.5,1,2.")
        if len(set(self.mpp)) < len(self.mpp):
            raise DataError(f"--mpp {listed} names a resolution twice. Give each once.")

    @property
    def tiles_at(self) -> float:
        """The magnification of the tiles."""
        return NATIVE if self.native is None else self.native

    @property
    def factors(self) -> dict[float, float]:
        """Pixels of the tile along one pixel of the patch, by magnification."""
        return {float(each): self.tiles_at / each for each in sorted(self.magnifications)}


def _default(name: str) -> object:
    return next(each.default for each in fields(Cutting) if each.name == name)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the patches of every tile are cut by."""

    folder: Path
    cutting: Cutting
    blur: Blur | None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """The patches of one tile or slide at one resolution."""

    at: str  # the magnification or resolution, in words
    rows: Sequence[Mapping[str, object]] = ()  # of the table
    n_empty: int = 0  # patches without nuclei
    skipped: str = ""  # why there are none, of several tiles
    example: str = ""  # the name of the tile, and its size


def saved(plan: Plan, name: str, pixels: Float64[np.ndarray, "size size 3"]) -> str:
    """Write a patch; gives its name in the folder."""
    file = f"{FOLDER}/{name}.png"
    values = np.rint(pixels).clip(0, 255).astype(np.uint8)
    PIL.Image.fromarray(values).save(plan.folder / file)
    return file


def sizes_of(areas: Int64[np.ndarray, " k"], um_per_pixel: float) -> dict[str, float | int]:
    """The columns about the nuclei of a patch."""
    mean = float(areas.mean())
    return {
        "n_nuclei": areas.size,
        "mean_area_px": mean,
        "median_area_px": float(np.median(areas)),
        "mean_area_um2": mean * um_per_pixel**2,
    }


def matched(native: Sequence[float | None], factors: Sequence[float]) -> Blur:
    """The blur that all patches get, by those of training tiles.

    Raises:
        DataError: if none is known.
    """
    known = [each for each in native if each is not None]
    if not known:
        raise DataError(
            "No training tile has an edge to estimate its blur from. Give --native-blur."
        )
    sigma = float(np.median(known))
    largest = max(sigma**2 / factor**2 + spread(factor) for factor in factors)
    return Blur(sigma, float(np.sqrt(BLUR_MARGIN * largest)))


def blurred(
    image: Float64[np.ndarray, "h w c"], factor: float, blur: Blur
) -> Float64[np.ndarray, "h w c"]:
    """With a Gaussian that widens the point spread to the target."""
    missing = blur.target**2 - blur.native**2 / factor**2 - spread(factor)
    return ndimage.gaussian_filter(image, np.sqrt(missing), axes=(0, 1))
