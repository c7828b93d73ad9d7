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
from .decoding import AS_STORED, header
from .images import ImageSet
from .masks import MaskRule, labels_as
from .measures import Box, evenly
from .outlines import drawn, is_shape

SHEET = "data.png"  # in the figures of a run
SHOWN, COLUMNS, COLOURS = 16, 4, 256
TILE, SPACE, CAPTION, TYPE = 320, 16, 48, 15  # in pixels
SMALL, SMALL_TYPE = 160, 12  # where a sheet is kept with each run
PAPER, INK, QUIET, MARK, HALO = "#ffffff", "#1a1a1a", "#666666", "#ffd400", "#000000"
TINT = 0.25  # of the colour of marks, over the objects of a mask
CROWD = 200  # objects, whose outlines would be little but halo


def write_sheet(image_set: ImageSet, folder: Path, tile: int = TILE) -> None:
    """Write the contact sheet into the figures of a run; one of small images in few colours."""
    sheet = contact_sheet(image_set, tile)
    if tile < TILE:
        sheet = sheet.quantize(COLOURS)
    (folder / "figures").mkdir(exist_ok=True)
    sheet.save(folder / "figures" / SHEET, optimize=True)


def contact_sheet(image_set: ImageSet, side: int = TILE) -> PIL.Image.Image:
    """Sixteen images, evenly over the measure, with their boxes or masks drawn.

    Args:
        side: pixels of the longer side of each image.
    """
    order = np.argsort(image_set.measure, kind="stable")
    rows = [int(order[place]) for place in evenly(len(order), SHOWN)]
    font = PIL.ImageFont.load_default(TYPE if side == TILE else SMALL_TYPE)
    tiles = [_tile_or_reason(image_set, row, side, font) for row in rows]
    lines = [
        range(start, min(start + COLUMNS, len(rows))) for start in range(0, len(rows), COLUMNS)
    ]
    heights = [max(tiles[number].height for number in line) for line in lines]
    size = SPACE + COLUMNS * (side + SPACE), SPACE + sum(heights) + len(lines) * (CAPTION + SPACE)
    sheet = PIL.Image.new("RGB", size, PAPER)
    draw, bottom = PIL.ImageDraw.Draw(sheet), 0
    for line, height in zip(lines, heights, strict=True):
        bottom += SPACE + height
        for across, number in enumerate(line):
            tile, row, left = tiles[number], rows[number], SPACE + across * (side + SPACE)
            sheet.paste(tile, (left + (side - tile.width) // 2, bottom - tile.height))
            name = image_set.images[row].name
            said = f"{image_set.subset[row]}, {image_set.said(row)}"
            draw.text((left, bottom + 6), _fitting(name, font, side), INK, font)
            draw.text((left, bottom + 26), _fitting(said, font, side), QUIET, font)
        bottom += CAPTION
    return sheet


def _tile_or_reason(image_set: ImageSet, row: int, side: int, font: Any) -> PIL.Image.Image:
    """An image, small, with what was measured; or why it cannot be read."""
    try:
        return _tile(image_set, row, side)
    except DataError as error:
        tile = PIL.Image.new("RGB", (side, side), "#e6e6e6")
        text = _folded(str(error), side // 8)
        PIL.ImageDraw.Draw(tile).multiline_text((8, 8), text, QUIET, font)
        return tile


def _tile(image_set: ImageSet, row: int, side: int) -> PIL.Image.Image:
    image = image_set.images[row].decode()
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.resize(size, PIL.Image.Resampling.LANCZOS if scale < 1 else 0)
    marks = image_set.marks[row] if image_set.marks else ()
    boxes: list[Box] = []
    if isinstance(marks, Path):
        source, rule = image_set.images[row].source, _rule(image_set.facts)
        orientation = (
            header(source, image_set.images[row].rendering or AS_STORED)[2]
            if isinstance(source, Path)
            else 1
        )
        labels = labels_as(marks, rule, image.size, orientation)
        small, is_one = _outlined(small, labels), labels.max() == 1
    else:
        shapes = [mark for mark in marks if is_shape(mark)]
        boxes = [mark for mark in marks if not is_shape(mark)]
        small = _outlined(small, drawn(shapes, *image.size)[0]) if shapes else small
        is_one = bool(marks)
    measured = image_set.box(row)
    if not is_one and measured is not None:  # of several objects
        boxes = [measured]
    return _boxed(small, boxes, scale)


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


def _fitting(text: str, font: Any, room: int) -> str:
    """The text, without its middle if it is wider than the room for it."""
    shown, kept = text, len(text)
    while font.getlength(shown) > room and kept > 2:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def _folded(text: str, width: int) -> str:
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))
