"""Rasters that are filled in place, window by window, and can be looked at meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray

from landslip.geo.grid import Grid, Window
from landslip.geo.raster import create_raster


class InPlaceRaster:
    """One band in a GeoTIFF without compression, whose rows follow one another in the file.

    Windows are written into the file at once and without GDAL, so what was written outlives a
    process that is killed, and nothing else in the file ever changes.
    """

    def __init__(self, path: Path, grid: Grid) -> None:
        """Open a file that `create` made."""
        self._grid = grid
        with rasterio.open(path) as dataset:
            self._dtype = np.dtype(dataset.dtypes[0])
            places = [
                int(dataset.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1))
                for row in (0, grid.height - 1)
            ]
        self._start = places[0]
        if places[1] - places[0] != (grid.height - 1) * self._row_bytes:
            raise AssertionError(f"GDAL wrote the rows of {path} in another order")
        self._file = path.open("r+b", buffering=0)

    @classmethod
    def create(
        cls, path: Path, grid: Grid, *, band: str, dtype: str, nodata: float | None, **tags: str
    ) -> Self:
        """Make a file full of nodata, or of zeros where there is none."""
        rows = {"compress": "none", "tiled": False, "blockysize": 1, "bigtiff": "if_needed"}
        options: dict[str, Any] = {**rows, "sparse_ok": False}
        with create_raster(
            path, grid, bands=[band], dtype=dtype, nodata=nodata, options=options
        ) as file:
            file.update_tags(**tags)
        return cls(path, grid)

    @property
    def _row_bytes(self) -> int:
        return self._grid.width * int(self._dtype.itemsize)

    def write(self, window: Window, values: NDArray[Any]) -> None:
        """Write a window, values (H, W)."""
        rows = np.ascontiguousarray(values, dtype=self._dtype)
        for number, row in enumerate(rows, window.row):
            place = self._start + number * self._row_bytes + window.col * self._dtype.itemsize
            self._file.seek(place)
            if self._file.write(row.data) != row.nbytes:
                raise OSError(errno.ENOSPC, "a row was cut short", self._file.name)

    def sync(self) -> None:
        """Wait until all is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
