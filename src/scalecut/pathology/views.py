"""A tile at several synthetic resolutions: the patches from which its resolution is predicted.

A view at o octaves shows squares of 2^o s pixels of the tile in s x s pixels, by Pillow's
antialiased resampling: a tile of m µm per pixel is shown at 2^o m. Views are cut in pixels of the
tile, so they do not depend on what is claimed of it.

A reduced view is sharper than others, which reveals its resolution whatever it shows. Where the
blur is matched, each tile's own is estimated, and all views are smoothed to one.

Shapes: h x w pixels of the tile, s x s of a view. Slides are large tiles of which random places of
the tissue are shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from ..data.decoding import INTERPOLATIONS
from ..data.images import Image, LeftOut
from ..errors import DataError, check_least
from ..features.extract import (
    Computation,
    Stages,
    check_finite,
    extract_features,
    network_setting,
)
from ..networks.network import Network
from ..networks.points import ProbePoint
from .resampling import estimated_blur
from .slides import LARGE, Field, opened_field
from .tissue import Tissue, tissue
from .verdict import Shown

APART = 2 / 3  # of the side of a patch, between the starts of two, unless the grid allows fewer
BLURRED = 0.9  # share of the tiles that are blurred less than the target
AT_ONCE = 16  # tiles whose views are in memory, 150 kB each
_BLUR_SIDE = 512.0  # pixels of a slide from which its blur is estimated


@dataclass(frozen=True, slots=True)
class Views:
    """How tiles are shown at several resolutions.

    Args:
        octaves: Synthetic resolutions, in octaves from that of the tile: 1 shows twice the µm per
            pixel. The first and the last only train; the others are averaged in a prediction.
        grid: Patches across and down a tile at each resolution, at most; as many as it takes to
            start two thirds of a patch apart.
    """

    octaves: Sequence[float] = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
    grid: int = 3

    def __post_init__(self) -> None:
        given = tuple(self.octaves)
        if len(given) < 3 or list(given) != sorted(set(given)) or max(map(abs, given)) > 4:
            raise DataError(
                f"--octaves {','.join(f'{each:g}' for each in given)} is unusable. Give three or "
                "more ascending numbers from -4 to 4, such as -0.5,0,0.5,1,1.5,2."
            )
        check_least(self, grid=1)

    @property
    def averaged(self) -> tuple[float, ...]:
        """The octaves that count in a prediction."""
        return tuple(self.octaves)[1:-1]


@dataclass(frozen=True, slots=True)
class Look:
    """What a view is to the network.

    Args:
        size: its side in pixels.
        interpolation: of the network.
        blur: standard deviation of its point spread in pixels of the view; None as it is.
    """

    size: int
    interpolation: str
    blur: float | None = None


def views_of(
    field_: Field, shown_in: Tissue, views: Views, look: Look, native: float = 0.0
) -> Iterator[tuple[float, UInt8[np.ndarray, "s s 3"]]]:
    """The octave and the pixels of every patch with tissue.

    Resolutions at which the tile is smaller than a patch are missing.

    Args:
        shown_in: where the tile shows tissue.
        native: standard deviation of the point spread of the tile, in its pixels.

    Raises:
        DataError: if the tile is too small at the averaged octaves.
    """
    width, height = field_.size
    n_found = 0
    for octave in views.octaves:
        side = look.size * 2.0**octave
        for x, y in _corners(field_, side, views.grid, shown_in):
            box = (x, y, min(x + side, width), min(y + side, height))
            if not shown_in.is_in(box):
                continue
            resample = INTERPOLATIONS[look.interpolation]
            shown = np.asarray(field_.region(box, look.size, resample))
            if look.blur is not None:
                shown = _smoothed(shown, look.blur**2 - (native / 2.0**octave) ** 2)
            n_found += octave in views.averaged
            yield octave, shown
    if not n_found:
        least = ceil(look.size * 2.0 ** views.averaged[0])
        raise DataError(
            f"it has {width} x {height} px, and no patch with tissue of {least} px or more; give "
            "larger tiles, or a smaller --input-size"
        )


def _corners(field_: Field, side: float, grid: int, shown_in: Tissue) -> list[tuple[float, float]]:
    """Where patches begin: a grid over a tile; around random places of the tissue of a slide."""
    width, height = field_.size
    if max(width, height) <= LARGE:
        columns, rows = (_starts(n, side, grid) for n in (width, height))
        return [(x, y) for y in rows for x in columns]
    rows, columns = np.nonzero(shown_in.found)  # the same places at every resolution
    chosen = np.random.default_rng(0).choice(len(rows), grid**2)
    across, down = shown_in.scale
    centres = (columns[chosen] + 0.5) / across, (rows[chosen] + 0.5) / down
    return [
        (float(np.clip(x - side / 2, 0, width - side)),
         float(np.clip(y - side / 2, 0, height - side)))
        for x, y in zip(*centres, strict=True)
    ]  # fmt: skip


def native_blur(field_: Field, grid: int, shown_in: Tissue) -> float:
    """The point spread of a tile, or the median of some patches of a slide, in its pixels."""
    if max(field_.size) <= LARGE:
        boxes = [(0.0, 0.0, float(field_.size[0]), float(field_.size[1]))]
    else:
        corners = _corners(field_, _BLUR_SIDE, grid, shown_in)
        boxes = [(x, y, x + _BLUR_SIDE, y + _BLUR_SIDE) for x, y in corners]
    found = [estimated_blur(pixels) for pixels in map(field_.native, boxes)]
    known = [each for each in found if each is not None]
    return float(np.median(known)) if known else 0.0


def _starts(n: int, side: float, grid: int) -> list[float]:
    """Where patches begin along n pixels; none if one does not fit."""
    rest = n - side
    if rest < -0.5:
        return []
    count = max(1, min(grid, 1 + ceil(rest / (APART * side))))
    return np.linspace(0, max(rest, 0.0), count).tolist() if count > 1 else [max(rest, 0.0) / 2]


def _smoothed(shown: UInt8[np.ndarray, "s s 3"], variance: float) -> UInt8[np.ndarray, "s s 3"]:
    """With a Gaussian of this variance; as it is if that is not positive."""
    if variance <= 0:
        return shown
    blurred = ndimage.gaussian_filter(shown.astype(np.float64), variance**0.5, axes=(0, 1))
    return np.rint(blurred).clip(0, 255).astype(np.uint8)


def middle(field_: Field, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels in the middle of a tile, or at a place of the tissue of a slide."""
    if max(field_.size) > LARGE:
        x, y = _corners(field_, float(side), 1, tissue(field_))[0]
    else:
        x, y = ((n - side) / 2 for n in field_.size)
    return field_.native((max(x, 0.0), max(y, 0.0), max(x, 0.0) + side, max(y, 0.0) + side))


def target_blur(native: Sequence[float], views: Views) -> float:
    """The point spread that most tiles have in the view of the finest resolution or less."""
    return float(np.quantile(native, BLURRED)) / 2.0 ** min(views.octaves)


@dataclass(slots=True, eq=False)
class Viewer:
    """The network that views are shown to, and how; tiles are read a few at a time."""

    network: Network
    points: Sequence[ProbePoint]
    views: Views
    computation: Computation
    stages: Stages
    native: dict[str, float] = field(default_factory=dict)  # blur of tiles, in their pixels
    pen: dict[str, float] = field(default_factory=dict)  # share of tiles under pen marks, if any

    def features(
        self, tiles: Sequence[Image], stage: str, blur: float | None = None
    ) -> tuple[dict[str, Shown], tuple[LeftOut, ...]]:
        """Features of the views of all tiles by layer, numbered as given, and tiles without any.

        Args:
            blur: standard deviation of the point spread that views get, in pixels; None as it is.
        """
        own = self.network.preprocessing
        if own.height != own.width:
            raise DataError(
                f"{self.network.name} takes images of {own.height} x {own.width} px, but patches "
                "are square. Give --input-size one number."
            )
        look = Look(own.height, own.interpolation, blur)
        facts, report = network_setting(self.network), self.stages.report(stage)
        matrices: list[dict[str, np.ndarray]] = []
        rows: list[tuple[int, float]] = []
        left_out: list[LeftOut] = []
        with self.stages(stage):
            for start in range(0, len(tiles), AT_ONCE):
                images: list[Image] = []
                for number, tile in enumerate(tiles[start : start + AT_ONCE], start=start):
                    try:
                        found = self._views(tile, look)
                    except DataError as error:
                        reason = str(error).removeprefix(f"{tile.name}: ").rstrip(".")
                        left_out.append(LeftOut(tile.name, reason))
                        continue
                    rows += [(number, octave) for octave, _ in found]
                    images += [Image(tile.name, pixels) for _, pixels in found]
                if images:
                    asked = self.network, images, self.points, self.computation
                    matrices.append(extract_features(*asked, facts=facts).matrices)
                report(min(start + AT_ONCE, len(tiles)), len(tiles))
        if not rows:
            first = f"{left_out[0].name}: {left_out[0].reason}"
            raise DataError(f"None of {len(tiles)} tiles can be used ({first}).")
        tile, octave = np.array(rows).T
        shown = {}
        for point in self.points:
            joined = np.concatenate([each[point.layer] for each in matrices])
            shown[point.layer] = Shown(joined, tile.astype(np.int64), octave)
        check_finite(self.network, {name: each.features for name, each in shown.items()})
        return shown, tuple(left_out)

    def _views(self, tile: Image, look: Look) -> list[tuple[float, UInt8[np.ndarray, "s s 3"]]]:
        with opened_field(tile) as field_:
            place, found = _place(tile), tissue(field_)
            if found.pen.any():
                self.pen[tile.name] = float(found.pen.mean())
            if place not in self.native:
                self.native[place] = native_blur(field_, self.views.grid, found)
            return list(views_of(field_, found, self.views, look, self.native[place]))

    def native_of(self, tiles: Sequence[Image]) -> list[float]:
        """The blur of the tiles that could be read, in their pixels."""
        return [self.native[_place(each)] for each in tiles if _place(each) in self.native]


def _place(tile: Image) -> str:
    """Its path, since tiles of two folders may have the same name."""
    return tile.place() or tile.name
