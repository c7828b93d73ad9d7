"""How large a pixel of a tile is: what files state, compared with each other and with `--native`.

Areas in µm² follow from it, and the magnification of every patch. A size is stated by the
resolution of a TIFF, the descriptions of ImageJ, Aperio and OME, or the resolution of another
format. `data.patches` says from where on two of them contradict each other.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import PIL.Image

from ..data.patches import AT_1X, NOMINAL, differ
from ..errors import DataError

if TYPE_CHECKING:
    from .tiles import Tile

COARSEST = 10.0  # µm per pixel: larger values are those of a printer (72 to 2400 dpi)
MAGNIFICATIONS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 63.0, 80.0, 100.0)
_INCH = 25_400.0
_OF_TIFF = {2: _INCH, 3: 10_000.0}  # µm in TIFF's units of resolution, inch and centimetre
_MICRON = ("um", "µm", "\N{GREEK SMALL LETTER MU}m", r"\u00b5m", "micron", "microns", "micrometer")
_LENGTHS = dict.fromkeys(_MICRON, 1.0) | {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": _INCH, "m": 1e6}
_ACROSS, _DOWN, _UNIT, _DESCRIPTION = 0x011A, 0x011B, 0x0128, 0x010E


@dataclass(frozen=True, slots=True)
class Stated:
    """What one part of a file states: the size of a pixel, or a magnification."""

    source: str  # which part
    um_per_pixel: float = 0.0  # µm per pixel across; 0 if it states a magnification
    down: float = 0.0  # the same down
    magnification: float = 0.0  # of the objective; 0 if it states a size

    @property
    def is_usable(self) -> bool:
        """Whether it is that of a microscope, with square pixels."""
        if self.magnification:
            return True
        return 0 < self.um_per_pixel <= COARSEST and not self.is_oblong

    @property
    def is_oblong(self) -> bool:
        """Whether it is that of a microscope, whose pixels are not square."""
        is_square = abs(self.um_per_pixel - self.down) <= 0.01 * self.um_per_pixel
        return self.um_per_pixel <= COARSEST and not is_square

    def __str__(self) -> str:
        if self.magnification:
            return f"{self.magnification:g}X ({self.source})"
        return f"{self.um_per_pixel:.4g} µm per pixel ({self.source})"


def stated(image: PIL.Image.Image) -> tuple[Stated, ...]:
    """What an opened file states, the most specific first."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    text = _in_utf8(str(tags.get(_DESCRIPTION, "")))
    found = [*_of_aperio(text), *_of_ome(text)]
    across, down = (_positive(tags.get(tag)) for tag in (_ACROSS, _DOWN))
    of_imagej = list(_of_imagej(text, across, down))
    found += of_imagej
    if not of_imagej and across and down and tags.get(_UNIT, 2) in _OF_TIFF:
        length = _OF_TIFF[tags.get(_UNIT, 2)]
        found.append(Stated("TIFF resolution", length / across, length / down))
    dots = image.info.get("dpi") if not tags else None
    if dots and all(map(_positive, dots)):
        across, down = map(_positive, dots)
        found.append(Stated(f"{image.format} resolution", _INCH / across, _INCH / down))
    return tuple(found)


def of_slide(properties: Mapping[str, Any]) -> tuple[Stated, ...]:
    """What the properties of OpenSlide or tiffslide state, the most specific first."""
    properties = {name: value for name, value in properties.items() if value is not None}
    text = str(properties.get("tiff.ImageDescription", ""))
    found = [*_of_aperio(text), *_of_ome(text)]
    if not any(each.source == "Aperio MPP" for each in found) and (
        um := _positive(properties.get("aperio.MPP"))
    ):
        found.append(Stated("Aperio MPP", um, um))
    if not any(each.source == "Aperio AppMag" for each in found) and (
        magnification := _positive(properties.get("aperio.AppMag"))
    ):
        found.append(Stated("Aperio AppMag", magnification=magnification))
    for reader in ("openslide", "tiffslide"):
        across, down = (_positive(properties.get(f"{reader}.mpp-{axis}")) for axis in "xy")
        if across:
            found.append(Stated("scanner", across, down or across))
        if magnification := _positive(properties.get(f"{reader}.objective-power")):
            found.append(Stated("objective", magnification=magnification))
    across, down = (_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    of_imagej = list(_of_imagej(text, across, down))
    found += of_imagej
    unit = {"inch": _INCH, "centimeter": 10_000.0}.get(
        str(properties.get("tiff.ResolutionUnit", "inch")).lower(), 0.0
    )
    if not of_imagej and unit and across and down:
        found.append(Stated("TIFF resolution", unit / across, unit / down))
    return tuple(found)


def checked(tiles: "Sequence[Tile]", native: float, um_per_pixel: float | None) -> list[str]:
    """Sentences about the sizes of the pixels of tiles: used, ignored and missing ones.

    Args:
        native: magnification of the tiles.
        um_per_pixel: what is to be used, whatever files state.

    Raises:
        DataError: if files contradict each other, or the magnification.
    """
    known = [(tile, each) for tile in tiles for each in tile.stated if each.is_usable]
    sizes = [(tile, each) for tile, each in known if each.um_per_pixel]
    said = list(_ignored(tiles))
    if um_per_pixel is not None:
        others = [pair for pair in sizes if differ(pair[1].um_per_pixel, um_per_pixel)]
        if others:
            tile, each = others[0]
            said.append(
                f"--um-per-pixel {um_per_pixel:g} is used, though {tile.image.name} states {each}."
            )
        return said
    for tile, each in sizes[1:]:
        first, other = sizes[0]
        if differ(each.um_per_pixel, other.um_per_pixel):
            raise DataError(
                f"{first.image.name} states {other}, but {tile.image.name} {each}. Cut tiles of "
                "one resolution at a time, or give --um-per-pixel if a file is wrong."
            )
    for tile, each in known:
        if each.magnification and differ(each.magnification, native):
            raise DataError(
                f"{tile.image.name} states {each}, but --native is {native:g}. Give --native "
                f"{each.magnification:g}, or --um-per-pixel if the file is wrong."
            )
        if each.um_per_pixel and differ(each.um_per_pixel * native, AT_1X, NOMINAL):
            shown = usual(each.um_per_pixel)
            raise DataError(
                f"{tile.image.name} states {each}, about {shown:.3g}X, but --native {native:g} "
                f"means about {AT_1X / native:.3g} µm. Give --native {shown:.3g}, or "
                "--um-per-pixel if the file is wrong."
            )
    if sizes:
        named = {tile.name for tile, _ in sizes}
        said.insert(0, f"{len(named)} of {len(tiles)} tiles state {sizes[0][1]}.")
    missing = [tile for tile in tiles if tile.um_per_pixel is None]
    if missing:
        said.append(
            f"{len(missing)} of {len(tiles)} tiles do not state µm per pixel (the first is "
            f"{missing[0].image.name}), so areas in µm² are missing. Give --um-per-pixel."
        )
    return said


def usual(um_per_pixel: float) -> float:
    """The magnification of an objective that a size is about; 10 / the size if there is none."""
    means = AT_1X / um_per_pixel
    nearest = min(MAGNIFICATIONS, key=lambda m: abs(m / means - 1))
    return means if differ(means, nearest, NOMINAL) else nearest


def _ignored(tiles: "Sequence[Tile]") -> Iterator[str]:
    """One sentence per kind of resolution that is not used."""
    unusable = [(tile, each) for tile in tiles for each in tile.stated if not each.is_usable]
    for source in dict.fromkeys(each.source for _, each in unusable):
        same = [(tile, each) for tile, each in unusable if each.source == source]
        tile, each = same[0]
        why = f"{_INCH / each.um_per_pixel:.0f} dpi, is that of a printer"
        if each.is_oblong:
            why = f"{each.down:.4g} down, is not that of square pixels"
        yield (
            f"The {source} of {len(same)} of {len(tiles)} tiles is ignored: that of "
            f"{tile.image.name}, {each.um_per_pixel:.4g} µm per pixel or {why}."
        )


def _positive(value: Any) -> float:
    """A number of a tag; 0 if it is none, or its denominator is 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if 0 < number < float("inf") else 0.0


def _in_utf8(text: str) -> str:
    """Text that Pillow read as Latin-1, in which µ becomes two characters."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _of_imagej(text: str, across: float, down: float) -> Iterator[Stated]:
    """Of the pixels per unit of TIFF's tags; ImageJ's unit counts, whatever TIFF's says."""
    unit = re.search(r"^unit=(.+)$", text, re.M) if text.startswith("ImageJ=") else None
    length = _LENGTHS.get(unit[1].strip().lower(), 0.0) if unit else 0.0
    if length and across and down:
        yield Stated("ImageJ", length / across, length / down)


def _of_aperio(text: str) -> Iterator[Stated]:
    size = re.search(r"(?:^|\|)\s*MPP\s*=\s*([\d.]+)", text)
    if size and (um := _positive(size[1])):
        yield Stated("Aperio MPP", um, um)
    objective = re.search(r"(?:^|\|)\s*AppMag\s*=\s*([\d.]+)", text)
    if objective and (magnification := _positive(objective[1])):
        yield Stated("Aperio AppMag", magnification=magnification)


def _of_ome(text: str) -> Iterator[Stated]:
    if "<OME" not in text and "<ome:" not in text:
        return
    sizes = []
    for axis in "XY":
        size = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', text)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', text)
        length = _LENGTHS.get(unit[1].strip().lower(), 0.0) if unit else 1.0
        sizes.append(length * _positive(size[1]) if size else 0.0)
    if sizes[0]:
        yield Stated("OME PhysicalSizeX", sizes[0], sizes[1] or sizes[0])
    objective = re.search(r'\bNominalMagnification="([^"]+)"', text)
    if objective and (magnification := _positive(objective[1])):
        yield Stated("OME NominalMagnification", magnification=magnification)
