"""Images in rows on a sheet, each with a caption."""

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import UInt8
from matplotlib.figure import Figure
from numpy import ndarray

from .drawing import INK, QUIET, TYPE, TYPE_SMALL, shortened

# In points; all are whole pixels of the PNG, so that the pixels of the images stay whole.
A_ROW, SPACE, CAPTION, HEADING, PIXEL, LEAST_TILE = 6, 14.4, 43.2, 50.4, 0.72, 92.16
LETTER = 0.65  # width of a letter, in sizes of type


def sheet(
    heading: str,
    below: str,
    images: Sequence[UInt8[ndarray, "h w 3"]],
    captions: Sequence[tuple[str, str]],
) -> Figure:
    """Images of one size next to each other, each with two lines below it."""
    n_columns = max(2, min(A_ROW, len(images)))
    pixel = PIXEL * math.ceil(LEAST_TILE / PIXEL / images[0].shape[1])
    tall, wide = pixel * images[0].shape[0], pixel * images[0].shape[1]
    width = SPACE + n_columns * (wide + SPACE)
    height = HEADING + math.ceil(len(images) / n_columns) * (tall + CAPTION)
    figure = Figure(figsize=(width / 72, height / 72), facecolor="white")

    def write(text: str, left: float, down: float, size: float, colour: str, **more: Any) -> None:
        figure.text(left / width, 1 - down / height, text, size=size, color=colour, **more)

    room = int((width - 2 * SPACE) / TYPE / LETTER)
    write(shortened(heading, room), SPACE, 22.0, TYPE, INK, weight="bold")
    write(shortened(below, room), SPACE, 38.0, TYPE_SMALL, QUIET)
    for number, (image, (name, value)) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, n_columns)
        left, top = SPACE + column * (wide + SPACE), HEADING + row * (tall + CAPTION)
        bottom = 1 - (top + tall) / height
        axes = figure.add_axes((left / width, bottom, wide / width, tall / height))
        axes.imshow(image, interpolation="none")
        axes.set_axis_off()
        name = shortened(name, int(wide / TYPE_SMALL / LETTER))
        write(name, left, top + tall + 13, TYPE_SMALL, INK)
        write(value, left, top + tall + 26, TYPE_SMALL, QUIET)
    return figure
