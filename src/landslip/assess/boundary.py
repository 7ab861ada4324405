"""How well outlines agree: boundary F1 within a few pixels, strip by strip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landslip.geo.labels import BACKGROUND, LANDSLIDE

TOLERANCES_PX = (2, 4)
"""Distances within which outlines agree (px)."""
MARGIN = max(TOLERANCES_PX) + 1
"""Rows around a row on which its boundary pixels depend."""


@dataclass(frozen=True)
class BoundaryScores:
    """Agreement of outlines within a distance. Adds nothing, knows all strips."""

    tolerance_px: int
    """From middle to middle of pixels, the distance itself included."""
    mapped: int
    """Boundary pixels of the map."""
    mapped_near: int
    """Those with a boundary pixel of the reference near."""
    reference: int
    """Boundary pixels of the reference."""
    reference_near: int
    """Those with a boundary pixel of the map near."""

    @property
    def precision(self) -> float:
        """Share of the map's boundary that is near the reference's; NaN without any."""
        return self.mapped_near / self.mapped if self.mapped else math.nan

    @property
    def recall(self) -> float:
        """Share of the reference's boundary that is near the map's; NaN without any."""
        return self.reference_near / self.reference if self.reference else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both; NaN where one has no boundary, 0 where nothing is near."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else both


class BoundaryCounter:
    """Gathers boundary pixels of a map and a reference, strip by strip.

    A boundary pixel is landslide and shares a side with background that both know. Where ground is
    not scored, or the raster ends, nobody knows the outline, and there is none.

    Source: Martin, Fowlkes, Malik 2004, IEEE TPAMI 26(5) (precision and recall of boundaries
        within a distance); Csurka et al. 2013, What is a good evaluation measure for semantic
        segmentation?, BMVC (pooled F1).
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._rows: NDArray[np.uint8] | None = None
        self._above = 0
        self._sums = np.zeros((len(TOLERANCES_PX), 4), np.int64)

    def add(self, mapped: NDArray[np.bool_], truth: NDArray[np.uint8]) -> None:
        """Take the next strip: full rows, from the top, none left out.

        Args:
            mapped: Shape (height, width).
            truth: Same shape: 0 background, 1 landslide, 255 not scored.
        """
        # Two bits: landslide in map and reference; 255 not scored.
        codes = (mapped * 2 + (truth == LANDSLIDE)).astype(np.uint8)
        codes[(truth != LANDSLIDE) & (truth != BACKGROUND)] = 255
        rows = codes if self._rows is None else np.concatenate([self._rows, codes])
        self._count(rows, self._above, len(rows) - MARGIN)
        kept = min(2 * MARGIN, len(rows))
        self._above = max(kept - MARGIN, 0)
        self._rows = rows[len(rows) - kept :]

    def scores(self) -> tuple[BoundaryScores, ...]:
        """One for every distance of `TOLERANCES_PX`; all strips were added."""
        if self._rows is not None:
            self._count(self._rows, self._above, len(self._rows))
            self._rows = None
        return tuple(
            BoundaryScores(tolerance, *sums.tolist())
            for tolerance, sums in zip(TOLERANCES_PX, self._sums, strict=True)
        )

    def _count(self, rows: NDArray[np.uint8], first: int, stop: int) -> None:
        """Count the boundary pixels of rows `first` to `stop`; the others are there to be near."""
        if stop <= first:
            return
        known = rows != 255
        outlines = [_boundary(known & ((rows & bit) > 0), known) for bit in (2, 1)]
        for number, tolerance in enumerate(TOLERANCES_PX):
            for place, (own, other) in enumerate((outlines, outlines[::-1])):
                inside = own[first:stop]
                near = inside & _within(other, tolerance)[first:stop]
                self._sums[number, 2 * place] += int(inside.sum())
                self._sums[number, 2 * place + 1] += int(near.sum())


def _boundary(inside: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a landslide beside known background."""
    outside = np.pad(known & ~inside, 1)
    beside = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
    return inside & beside


def _within(plane: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Pixels whose middle lies within a distance of that of a marked one."""
    height, width = plane.shape
    wide = width + 2 * distance
    near = np.zeros((height + 2 * distance) * wide, np.bool_)
    rows, cols = np.nonzero(plane)
    at = (rows + distance) * wide + cols + distance
    for down in range(-distance, distance + 1):
        for right in range(-distance, distance + 1):
            if down * down + right * right <= distance * distance:
                near[at + down * wide + right] = True
    return near.reshape(-1, wide)[distance:-distance, distance:-distance]
