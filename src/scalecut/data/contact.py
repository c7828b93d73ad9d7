"""A contact sheet: some images of a set with what was measured on them, for one look.

Shapes: h x w pixels of an image, H x W as it is drawn.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Bool, Integer
from scipy import ndimage

from ..errors import DataError
from .decoding import header
from .images import ImageSet
from .masks import MaskRule, labels_as
from .measures import Box, evenly

SHOWN, COLUMNS = 16, 4
TILE, SPACE, CAPTION, TYPE = 320, 16, 48, 15  # in pixels
PAPER, INK, QUIET, MARK, HALO = "#ffffff", "#1a1a1a", "#666666", "#ffd400", "#000000"
TINT = 0.25  # of the colour of marks, over the objects of a mask
CROWD = 200  # objects, whose outlines would be little but halo


def contact_sheet(image_set: ImageSet) -> PIL.Image.Image:
    """Sixteen images, evenly over the measure, with their boxes or masks drawn."""
    order = np.argsort(image_set.measure, kind="stable")
    rows = [int(order[place]) for place in evenly(len(order), SHOWN)]
    n_down = -(-len(rows) // COLUMNS)
    size = SPACE + COLUMNS * (TILE + SPACE), SPACE + n_down * (TILE + CAPTION + SPACE)
    sheet = PIL.Image.new("RGB", size, PAPER)
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(TYPE)
    for number, row in enumerate(rows):
        down, across = divmod(number, COLUMNS)
        left, top = SPACE + across * (TILE + SPACE), SPACE + down * (TILE + CAPTION + SPACE)
        try:
            tile = _tile(image_set, row)
        except DataError as error:
            tile = PIL.Image.new("RGB", (TILE, TILE), "#e6e6e6")
            PIL.ImageDraw.Draw(tile).multiline_text((8, 8), _folded(str(error)), QUIET, font)
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + TILE - tile.height))
        said = f"{image_set.subset[row]}, {image_set.measure_name} {image_set.measure[row]:.4g}"
        draw.text((left, top + TILE + 6), _fitting(image_set.images[row].name, font), INK, font)
        draw.text((left, top + TILE + 26), _fitting(said, font), QUIET, font)
    return sheet


def _tile(image_set: ImageSet, row: int) -> PIL.Image.Image:
    """An image, small, with what was measured."""
    image = image_set.images[row].decode()
    scale = TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.resize(size, PIL.Image.Resampling.LANCZOS if scale < 1 else 0)
    marks = image_set.marks[row] if image_set.marks else ()
    if isinstance(marks, Path):
        source, rule = image_set.images[row].source, _rule(image_set.facts)
        orientation = header(source)[2] if isinstance(source, Path) else 1
        labels = labels_as(marks, rule, image.size, orientation)
        small, marks = _outlined(small, labels), ()
        if labels.max() == 1:
            return small
    if not marks and image_set.boxes is not None:  # of several objects, the one that is measured
        left, top, right, bottom = map(float, image_set.boxes[row])
        marks = ((left, top, right, bottom),)
    return _boxed(small, marks, scale)


def _rule(facts: Mapping[str, Any]) -> MaskRule:
    return MaskRule(**facts.get("masks", {}))


def _boxed(image: PIL.Image.Image, boxes: Sequence[Box], scale: float) -> PIL.Image.Image:
    draw = PIL.ImageDraw.Draw(image)
    for box in boxes:
        left, top, right, bottom = (round(edge * scale) for edge in box)
        corners = left, top, max(left, right - 1), max(top, bottom - 1)
        for colour, width, out in ((HALO, 5, 1), (MARK, 3, 0)):
            grown = corners[0] - out, corners[1] - out, corners[2] + out, corners[3] + out
            draw.rectangle(grown, outline=colour, width=width)
    return image


def _outlined(image: PIL.Image.Image, labels: Integer[np.ndarray, "h w"]) -> PIL.Image.Image:
    """With the outline of each object, and a tint over it."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * full / n, full - 1).astype(int)
        for n, full in zip((image.height, image.width), labels.shape, strict=True)
    )
    small, pixels = labels[np.ix_(rows, columns)], np.asarray(image).astype(np.float64)
    colour = np.array(PIL.ImageColor.getrgb(MARK))
    edge, marked = _edge(small), small > 0
    pixels[marked] += TINT * (colour - pixels[marked])
    if labels.max() < CROWD:
        around = np.asarray(ndimage.binary_dilation(edge), dtype=bool)
        pixels[around & ~marked] = 0
    pixels[edge] = colour
    return PIL.Image.fromarray(pixels.round().astype(np.uint8))


def _edge(labels: Integer[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels of objects that touch another value, or the border of the image."""
    around = np.pad(labels, 1)
    middle = around[1:-1, 1:-1]
    others = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    return (middle > 0) & np.logical_or.reduce([middle != other for other in others])


def _fitting(text: str, font: Any) -> str:
    """The text, without its middle if it is wider than a tile."""
    shown, kept = text, len(text)
    while font.getlength(shown) > TILE and kept > 2:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def _folded(text: str, width: int = 40) -> str:
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))
