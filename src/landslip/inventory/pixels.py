"""Pixels under landslides, strip by strip: what a map says there, and which landslide it is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.grid import Grid, Window
from landslip.geo.parallel import few_threads, in_order
from landslip.geo.probability import UNKNOWN_CODE, encode
from landslip.geo.raster import FileScene
from landslip.inventory.spool import Polygons

STRIP_PIXELS = 4_000_000
"""Pixels of a strip."""
Found = TypeVar("Found")


class Coded(Protocol):
    """A map of probabilities in codes: 254 = probability 1, 255 = not observed."""

    @property
    def path(self) -> str:
        """Where it lies."""
        ...

    @property
    def grid(self) -> Grid:
        """Its pixels."""
        ...

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width)."""
        ...


class ProbabilityFile:
    """A probability raster that landslip wrote."""

    def __init__(self, path: str | Path) -> None:
        """Open it."""
        self.path = str(path)
        self._scene = FileScene(self.path, {"probability": 1})

    @property
    def grid(self) -> Grid:
        """Its pixels."""
        return self._scene.grid

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width)."""
        raster = self._scene.read(window, ["probability"])
        plane = raster.values[0]
        codes = plane if plane.dtype == np.uint8 else encode(plane)
        return np.where(raster.valid, codes, UNKNOWN_CODE).astype(np.uint8)

    def close(self) -> None:
        """Close the file."""
        self._scene.close()


def in_strips(
    function: Callable[[Window], Found], windows: Iterable[Window]
) -> Generator[Found, None, None]:
    """What a function finds in every strip, in their order; several are worked on at once.

    Contours are traced one at a time, all else beside them.
    """
    return in_order(function, windows, few_threads())


def strip_windows(grid: Grid, rows: int | None = None) -> Iterator[Window]:
    """Cut a grid into strips of `rows`; None: as many as 4 million pixels."""
    rows = rows or max(STRIP_PIXELS // grid.width, 64)
    for top in range(0, grid.height, rows):
        yield Window(top, 0, min(rows, grid.height - top), grid.width)


def numbered(polygons: Polygons, grid: Grid) -> NDArray[np.int32]:
    """Which polygon the middle of every pixel lies in: 1, 2, ... in their order; 0 for none.

    A row is crossed by the edges of polygons from the left to the right: each crossing takes the
    number of its polygon into what holds from there on, or out of it. GDAL gives the same, but is
    handed every vertex as a Python object, and takes several times as long.

    Args:
        polygons: Shape (N,), in the CRS of `grid`; they do not overlap.
        grid: The pixels.

    Returns:
        Shape (H, W).

    Source: the even-odd rule (Foley et al. 1990, Computer Graphics, section 3.6).
    """
    height, width = grid.shape
    parts, owner = shapely.get_parts(polygons, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    to_pixels = ~grid.transform
    x = to_pixels.a * xy[:, 0] + to_pixels.b * xy[:, 1] + to_pixels.c
    # In rows from middle to middle: an edge crosses the whole numbers from one end to the other.
    y = to_pixels.d * xy[:, 0] + to_pixels.e * xy[:, 1] + to_pixels.f - 0.5
    edges = np.flatnonzero(ring[1:] == ring[:-1])
    low = np.ceil(np.minimum(y[edges], y[edges + 1])).clip(0, height).astype(np.int64)
    high = np.ceil(np.maximum(y[edges], y[edges + 1])).clip(0, height).astype(np.int64)
    crossed = np.repeat(edges, high - low)
    row = np.arange(len(crossed)) - np.repeat(np.cumsum(high - low) - high, high - low)
    share = (row - y[crossed]) / (y[crossed + 1] - y[crossed])
    middle = x[crossed] + share * (x[crossed + 1] - x[crossed]) - 0.5
    col = np.ceil(middle).clip(0, width).astype(np.int64)
    numbers = np.zeros((height, width + 1), dtype=np.int32)
    np.bitwise_xor.at(numbers, (row, col), (owner[part[ring[crossed]]] + 1).astype(np.int32))
    return np.bitwise_xor.accumulate(numbers, axis=1)[:, :width]
