"""What is taken to be so of data without certainty, and how a user confirms it.

Every assumption is stated, stops `--strict`, and can be confirmed: by `--confirm` and its word, or
by another option that says the same.
"""

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import DataError

# what can be assumed of data, by the word with which --confirm says that it is right
CONFIRMABLE = {
    "alpha": "masks are read from alpha",
    "blank": "blank images are used",
    "copies": "annotations that occur twice count once",
    "crop": "outlines on slides count from the corner of what was scanned",
    "flags": "flags that are not known count as not set",
    "folders": "images are found by their name in another folder than the annotations state",
    "grey": "grey values of masks are cut in the middle",
    "groups": "images are grouped by what their names or files state",
    "hollow": "masks mark the borders of objects",
    "names": "annotations that name another file belong to the image of their own name",
    "nuclei": "cells are measured by their nuclei, those without by the cell",
    "orientation": "volumes that do not state their orientation are in that of their file",
    "outlines": "outlines count by the boxes around them",
    "overlaps": "a pixel of several outlines belongs to the last",
    "pixels": "outlines that could be of smaller copies, or in per cent, are in pixels",
    "shapes": "shapes without an area do not count",
    "size": "annotations without the size of their image were drawn on it as it is",
    "specks": "objects of a few pixels count like all others",
    "spelling": "names that differ in upper and lower case differ",
    "splits": "parts of data.yaml that are not there are skipped",
    "transparent": "transparent pixels are shown on white",
    "unknown": "the value 255 of masks of classes means unknown",
}


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is taken to be so without certainty.

    Args:
        text: in a sentence, without its full stop.
        option: what confirms it: a word of `CONFIRMABLE`, or another option, with its value.
    """

    text: str
    option: str

    def confirming(self) -> str:
        """The option as it is typed."""
        return f"--confirm {self.option}" if self.option in CONFIRMABLE else self.option


def assume(given: Assumed, assumed: list[str], strict: bool) -> None:
    """Add to what is assumed, or raise if `strict`."""
    if strict:
        raise DataError(
            f"Assumed: {given.text} (--strict assumes nothing; if it is right, give "
            f"{given.confirming()})."
        )
    assumed.append(given.text)


def as_confirmed(given: Assumed, confirmed: Collection[str]) -> str | None:
    """The statement of what the user confirms; None if that is not confirmed."""
    return f"{given.text}, as confirmed" if given.option in confirmed else None
