"""The resolutions of patches, and which patches show the same place at two of them.

A place is a patch at the coarser resolution, with the patches at the finer one whose centres lie in
it: their mean shows the same tissue. Where the table has a column `place`, patches of a tile that
share it are one place instead.

Shapes: n patches, R resolutions, p places.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from scipy import sparse

from ..data.patches import AT_1X, FILE, complete, differ, levels
from ..errors import DataError
from .patches import Patches

NEEDED = ("patch", "tile", "group")  # columns, besides those of resolution and place
WHERE = ("x", "y")


@dataclass(frozen=True, slots=True, eq=False)
class Resolutions:
    """The resolutions of patches in µm per pixel, from the finest to the coarsest.

    Sizes that differ by less than 5 % are one resolution, as slides of one scanner have.
    """

    sizes: Float64[np.ndarray, " R"]  # medians
    of: Int64[np.ndarray, " n"]  # which one each patch has
    size: Float64[np.ndarray, " n"]  # µm per pixel of each patch
    is_nominal: bool  # whether they follow from magnifications, 10 / M

    def at(self, text: str, otherwise: int) -> int:
        """The number of the resolution that is asked for.

        Args:
            text: µm per pixel, such as 0.25, or a magnification, such as 40X; empty for
                `otherwise`.

        Raises:
            DataError: if there is none.
        """
        if not text:
            return otherwise
        in_x = text.lower().endswith("x")
        try:
            number = float(text.lower().removesuffix("x"))
        except ValueError:
            number = 0.0
        asked = AT_1X / number if in_x and number else number
        near = int(np.abs(self.sizes - asked).argmin())
        if not 0 < asked < np.inf or differ(asked, float(self.sizes[near])):
            listed = ", ".join(f"{size:.4g}" for size in self.sizes)
            raise DataError(
                f"No patch has the resolution {text!r}. Give one of {listed} µm per pixel, or a "
                f"magnification, such as {AT_1X / self.sizes[0]:.3g}X."
            )
        return near

    def rows(self, which: Bool[np.ndarray, " n"]) -> "Resolutions":
        """Those of some of the patches."""
        return replace(self, of=self.of[which], size=self.size[which])

    def named(self, number: int) -> str:
        """A resolution in words."""
        return named(float(self.sizes[number]))

    def octaves(self, reference: int) -> Float64[np.ndarray, " R"]:
        """How many times each is twice as coarse as the reference."""
        return np.log2(self.sizes / self.sizes[reference])


def named(size: float) -> str:
    """A resolution as a magnification and in µm per pixel: "10X (1 µm per pixel)"."""
    return f"{AT_1X / size:.3g}X ({size:.3g} µm per pixel)"


def resolutions_of(patches: Patches) -> Resolutions:
    """The resolutions in the table of patches.

    Raises:
        DataError: if there is no column of them, a value is missing, or all are alike.
    """
    table = patches.table
    known = (name for name in ("um_per_pixel", "magnification") if name in table)
    column = next((name for name in known if bool(table[name].notna().any())), "")
    if not column:
        raise DataError(
            f"The patches in {str(patches.folder)!r} have no resolution: patches.parquet has "
            "neither um_per_pixel nor magnification. Cut them again with `scalecut patches`."
        )
    given = complete(table, f"{FILE} of {str(patches.folder)!r}", column)
    is_nominal = column == "magnification"
    size = AT_1X / given if is_nominal else given
    sizes, of = levels(size)
    if len(sizes) == 1:
        raise DataError(
            f"All {len(table)} patches have one resolution, {sizes[0]:.4g} µm per pixel. Cut "
            "patches of the same tissue at two or more, such as --magnifications 10,20,40."
        )
    return Resolutions(sizes, of, size, is_nominal)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Places that are shown at two resolutions."""

    change: sparse.csr_array  # (p, n): from features of patches to their change, finer to coarser
    rows: Int64[np.ndarray, " p"]  # a patch of each place


def same_places(
    table: pd.DataFrame, resolutions: Resolutions, pair: tuple[int, int], side: int
) -> Places:
    """The places that patches show at both resolutions.

    Args:
        table: one row per patch.
        pair: numbers of the two resolutions.
        side: of a patch, in pixels.
    """
    finer, coarser = sorted(pair)
    has_place = "place" in table
    if not has_place and not {*WHERE} <= {*table}:
        raise DataError(
            "patches.parquet has neither a column place nor x and y, so patches of the same tissue "
            "cannot be found. Cut the patches again with `scalecut patches`."
        )
    weights: list[tuple[int, int, float]] = []  # place, patch, weight
    first: list[int] = []
    keys = ["tile", "place"] if has_place else ["tile"]
    for _, rows in table.assign(row=np.arange(len(table))).groupby(keys, sort=False).row:
        numbers = rows.to_numpy()
        fine, coarse = (numbers[resolutions.of[numbers] == each] for each in (finer, coarser))
        if has_place:
            pairs = [(coarse, fine)] if len(coarse) and len(fine) else []
        else:
            is_in = _inside(table, resolutions.size, fine, coarse, side)
            pairs = [
                (coarse[[at]], fine[inside]) for at, inside in enumerate(is_in) if inside.any()
            ]
        for large, small in pairs:
            place = len(first)
            first.append(int(large[0]))
            weights += [(place, int(row), 1 / len(large)) for row in large]
            weights += [(place, int(row), -1 / len(small)) for row in small]
    place, row, weight = zip(*weights, strict=True) if weights else ((), (), ())
    shape = len(first), len(table)
    change = sparse.csr_array((weight, (place, row)), shape=shape, dtype=np.float64)
    return Places(change, np.array(first, dtype=np.int64))


def _inside(
    table: pd.DataFrame,
    size: Float64[np.ndarray, " n"],
    fine: Int64[np.ndarray, " f"],
    coarse: Int64[np.ndarray, " c"],
    side: int,
) -> np.ndarray:
    """Whether the centre of each fine patch lies in each coarse one: (c, f)."""
    centres = (table[[*WHERE]].to_numpy(dtype=np.float64) + side / 2) * size[:, None]  # µm
    away = np.abs(centres[coarse][:, None] - centres[fine][None]).max(axis=2)
    return away <= (side / 2) * size[coarse][:, None]
