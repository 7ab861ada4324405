"""What an elevation model says of landslides, measured on its own cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from landslip.geo.errors import RasterError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import FileScene
from landslip.geo.terrain import gradient, pixel_steps_m
from landslip.inventory.pixels import STRIP_PIXELS, numbered
from landslip.inventory.shape import metres_per_unit
from landslip.inventory.spool import Polygons

Floats = NDArray[np.float64]
FEWEST_CELLS = 4
"""Cells of the elevation model in a landslide below which nothing is told of its terrain."""
LEAST_SLOPE_DEG = 2.0
"""Mean slope below which its direction says nothing of where a landslide went."""


@dataclass(frozen=True)
class Relief:
    """Terrain of N landslides; NaN where fewer than `FEWEST_CELLS` cells are known."""

    cells: NDArray[np.int64]
    """Cells whose middle lies inside and whose elevation is known."""
    crown_m: Floats
    """Highest elevation inside or on the outline (m)."""
    toe_m: Floats
    """Lowest one (m)."""
    slope_mean_deg: Floats
    slope_max_deg: Floats
    aspect_deg: Floats
    """Circular mean of the direction downhill, clockwise from the north of the landslides' CRS."""

    @property
    def way_down_deg(self) -> Floats:
        """`aspect_deg` where the ground is steep enough for it to tell the way of a landslide."""
        return np.where(self.slope_mean_deg >= LEAST_SLOPE_DEG, self.aspect_deg, np.nan)

    def columns(self, length_m: Floats) -> dict[str, NDArray[Any]]:
        """Columns of the inventory.

        Args:
            length_m: Length of the landslides, shape (N,).
        """
        relief = self.crown_m - self.toe_m
        ratio = relief / np.maximum(length_m, 1e-9)
        return {
            "elevation_crown_m": np.round(self.crown_m, 2),
            "elevation_toe_m": np.round(self.toe_m, 2),
            "relief_m": np.round(relief, 2),
            "slope_mean_deg": np.round(self.slope_mean_deg, 2),
            "slope_max_deg": np.round(self.slope_max_deg, 2),
            "aspect_deg": np.round(self.aspect_deg, 1) % 360,
            "height_length_ratio": np.round(ratio, 4),
            "travel_angle_deg": np.round(np.degrees(np.arctan(ratio)), 2),
            "dem_cells": self.cells,
        }


class Terrain:
    """An elevation model below landslides."""

    def __init__(self, path: str, grid: Grid) -> None:
        """Open it.

        Args:
            path: Any rasterio path; its first band are metres above the sea.
            grid: Of the map whose landslides are measured.

        Raises:
            RasterError: It lies elsewhere, or one of both has no CRS.
        """
        self._dem = FileScene(path, {"elevation": 1})
        own = self._dem.grid
        if (own.crs is None) != (grid.crs is None):
            raise RasterError(
                f"Cannot use the elevation model {path}: "
                f"{'it' if own.crs is None else 'the map'} has no coordinate reference system. "
                "Assign one (gdal_edit.py -a_srs)."
            )
        self._to_dem = self._to_map = None
        if own.crs is not None and grid.crs is not None and own.crs != grid.crs:
            here, there = (pyproj.CRS.from_user_input(each) for each in (grid.crs, own.crs))
            self._to_dem = pyproj.Transformer.from_crs(here, there, always_xy=True)
            self._to_map = pyproj.Transformer.from_crs(there, here, always_xy=True)
        self._crs = grid.crs
        ground = self._moved(np.array([grid.footprint()], dtype=object))
        if own.window_of(tuple(shapely.total_bounds(ground).tolist())) is None:
            raise RasterError(
                f"Cannot use the elevation model {path}: it does not cover the map. "
                "Name one that does with --dem."
            )

    def close(self) -> None:
        """Close the file."""
        self._dem.close()

    def measured(self, polygons: Polygons) -> Relief:
        """Terrain of landslides in the CRS of the map."""
        number, grid = len(polygons), self._dem.grid
        moved = self._moved(polygons)
        bounds = tuple(shapely.total_bounds(moved).tolist()) if number else (np.nan,) * 4
        extent = grid.window_of(bounds)
        if extent is not None:  # vertices on its border lie in the next cell
            extent = extent.grown(1).intersection(grid.window)
        sums = _Sums(number)
        tree = shapely.STRtree(moved)
        for window in _windows(extent) if extent else ():
            here = tree.query(grid.crop(window).footprint(), predicate="intersects")
            if here.size:
                self._add(sums, moved, np.sort(here), window)
        middles = shapely.get_coordinates(shapely.centroid(moved))
        return sums.relief(self._turned(middles))

    def _add(self, sums: _Sums, moved: Polygons, here: NDArray[np.int64], window: Window) -> None:
        """Take the cells of a window into account, and the vertices of outlines in it."""
        grid = self._dem.grid
        own = grid.crop(window)
        z = self._elevation(window.grown(1))
        numbers = numbered(moved[here], own)
        inside = numbers > 0
        owner = here[numbers[inside] - 1]
        rises = np.stack(gradient(z, *pixel_steps_m(own))).astype(np.float64)
        sums.add_cells(owner, z[1:-1, 1:-1][inside], *rises[:, inside])
        xy, vertex = shapely.get_coordinates(moved[here], return_index=True)
        cols, rows = ~own.transform * xy.T
        there = (rows >= 0) & (rows < own.height) & (cols >= 0) & (cols < own.width)
        sums.add_heights(here[vertex[there]], _between_cells(z, rows[there], cols[there]))

    def _elevation(self, window: Window) -> Floats:
        """Elevations of a window (m), which may reach beyond the model; NaN where unknown."""
        z = np.full((window.height, window.width), np.nan)
        inside = window.intersection(self._dem.grid.window)
        assert inside is not None
        read = self._dem.read(inside, ["elevation"])
        z[inside.relative_to(window).slices] = np.where(read.valid, read.values[0], np.nan)
        return z

    def _moved(self, polygons: Polygons) -> Polygons:
        if self._to_dem is None:
            return polygons
        moved: Polygons = shapely.transform(polygons, self._to_dem.transform, interleaved=False)
        return moved

    def _turned(self, points: Floats) -> Floats:
        """Azimuth in the map of the direction up along the columns of the model (degrees).

        Args:
            points: In the CRS of the model, shape (N, 2).
        """
        transform = self._dem.grid.transform
        up = np.array([-transform.b, -transform.e])
        ends = np.stack([points, points + up])
        if self._to_map is not None:
            ends = np.stack(self._to_map.transform(ends[..., 0], ends[..., 1]), axis=-1)
        metres = (ends[1] - ends[0]) * metres_per_unit(ends[0], self._crs)
        return np.asarray(np.degrees(np.arctan2(metres[:, 0], metres[:, 1])))


class _Sums:
    """What is known of N landslides from the cells seen so far."""

    def __init__(self, number: int) -> None:
        self._cells, self._sloping = np.zeros((2, number), dtype=np.int64)
        self._slope, self._steepest, self._east, self._north = np.zeros((4, number))
        self._high, self._low = np.full(number, -np.inf), np.full(number, np.inf)

    def add_cells(self, owner: NDArray[np.int64], z: Floats, right: Floats, down: Floats) -> None:
        """Cells with the landslide they lie in, elevation, and rise to the right and downwards."""
        number = len(self._cells)
        self._cells += np.bincount(owner[np.isfinite(z)], minlength=number)
        self.add_heights(owner, z)
        rise = np.hypot(right, down)
        known = np.isfinite(rise)
        owner, right, down, rise = owner[known], right[known], down[known], rise[known]
        slope = np.degrees(np.arctan(rise))
        self._sloping += np.bincount(owner, minlength=number)
        self._slope += np.bincount(owner, weights=slope, minlength=number)
        np.maximum.at(self._steepest, owner, slope)
        # Downhill is against the rise; rows run down, so north is up.
        steep = np.maximum(rise, 1e-12)
        self._east += np.bincount(owner, weights=-right / steep, minlength=number)
        self._north += np.bincount(owner, weights=down / steep, minlength=number)

    def add_heights(self, owner: NDArray[np.int64], z: Floats) -> None:
        """Elevations in or on landslides."""
        known = np.isfinite(z)
        np.maximum.at(self._high, owner[known], z[known])
        np.minimum.at(self._low, owner[known], z[known])

    def relief(self, turned_deg: Floats) -> Relief:
        """What came of it; azimuths are turned by an angle each (degrees)."""
        enough = self._cells >= FEWEST_CELLS
        sloping = enough & (self._sloping > 0)
        aspect = np.degrees(np.arctan2(self._east, self._north)) + turned_deg
        turning = sloping & (np.hypot(self._east, self._north) > 1e-6)
        mean = self._slope / np.maximum(self._sloping, 1)
        return Relief(
            self._cells,
            np.where(enough, self._high, np.nan), np.where(enough, self._low, np.nan),
            np.where(sloping, mean, np.nan), np.where(sloping, self._steepest, np.nan),
            np.where(turning, aspect % 360, np.nan),
        )  # fmt: skip


def _windows(extent: Window) -> Iterator[Window]:
    """Strips of a window, of about as many cells as a strip of a map."""
    rows = max(STRIP_PIXELS // extent.width, 16)
    for row in range(extent.row, extent.row_stop, rows):
        yield Window(row, extent.col, min(rows, extent.row_stop - row), extent.width)


def _between_cells(z: Floats, rows: Floats, cols: Floats) -> Floats:
    """Elevation at points, linear between the middles of cells; of the cell itself beside holes.

    Args:
        z: Elevations with one more cell on every side, shape (H + 2, W + 2).
        rows: Points in cells from the upper edge of the inner part.
        cols: Points in cells from its left edge.
    """
    top, left = np.floor(rows - 0.5).astype(np.int64), np.floor(cols - 0.5).astype(np.int64)
    down, right = rows - 0.5 - top, cols - 0.5 - left
    top, left = top + 1, left + 1
    upper = z[top, left] * (1 - right) + z[top, left + 1] * right
    lower = z[top + 1, left] * (1 - right) + z[top + 1, left + 1] * right
    own = z[np.floor(rows).astype(np.int64) + 1, np.floor(cols).astype(np.int64) + 1]
    found = upper * (1 - down) + lower * down
    return np.where(np.isfinite(found), found, own)
