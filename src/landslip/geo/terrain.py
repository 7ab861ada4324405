"""Slope and aspect from an elevation model, on the model's own grid, in metres."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from landslip.geo.bands import sources_of
from landslip.geo.errors import RasterError
from landslip.geo.grid import WGS84, Grid, Window, linear_unit_m, to_lonlat
from landslip.geo.raster import (
    FileScene,
    Raster,
    create_raster,
    grid_of,
    open_dataset,
    plain_read_errors,
    rasterio_window,
)
from landslip.geo.windows import cover

MARGIN_PX = 4
"""Elevation pixels around the scene that slope is computed from."""


def slope_deg(
    elevation: NDArray[np.floating], dx_m: NDArray[np.floating] | float, dy_m: float
) -> NDArray[np.float32]:
    """Slope, shape (H, W), degrees from 0 to 90; NaN beside unknown ground.

    Args:
        elevation: As for `gradient`.
        dx_m: As for `gradient`.
        dy_m: As for `gradient`.
    """
    slope: NDArray[np.float32] = np.degrees(
        np.arctan(np.hypot(*gradient(elevation, dx_m, dy_m)))
    ).astype(np.float32)
    return slope


def gradient(
    elevation: NDArray[np.floating], dx_m: NDArray[np.floating] | float, dy_m: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Rise to the right and downwards by Horn's 3 x 3 differences.

    Args:
        elevation: Shape (H + 2, W + 2), metres; NaN where unknown.
        dx_m: Pixel width in metres, a number or one for each of the H rows, shape (H, 1).
        dy_m: Pixel height in metres.

    Returns:
        Metres a metre, shape (H, W) each; NaN beside unknown ground.

    Source: Horn 1981, Hill shading and the reflectance map, Proc. IEEE 69(1).
    """
    z = elevation
    east = z[:-2, 2:] + 2 * z[1:-1, 2:] + z[2:, 2:]
    west = z[:-2, :-2] + 2 * z[1:-1, :-2] + z[2:, :-2]
    south = z[2:, :-2] + 2 * z[2:, 1:-1] + z[2:, 2:]
    north = z[:-2, :-2] + 2 * z[:-2, 1:-1] + z[:-2, 2:]
    return (east - west) / (8 * dx_m), (south - north) / (8 * dy_m)


def pixel_steps_m(grid: Grid) -> tuple[NDArray[np.float64], float]:
    """Width of the pixels of every row, shape (H, 1), and their height (m)."""
    a, b, _, d, e, _ = grid.transform[:6]
    if grid.crs is None or grid.is_planar:
        scale = linear_unit_m(grid.crs)
        width = math.hypot(a, d) * scale
        return np.full((grid.height, 1), width), math.hypot(b, e) * scale
    middles = [grid.transform * (grid.width / 2, row + 0.5) for row in range(grid.height)]
    xs, ys = np.array(middles).T
    _, _, widths = WGS84.inv(
        *to_lonlat(grid.crs, xs - a / 2, ys - d / 2), *to_lonlat(grid.crs, xs + a / 2, ys + d / 2)
    )
    _, _, heights = WGS84.inv(
        *to_lonlat(grid.crs, xs - b / 2, ys - e / 2), *to_lonlat(grid.crs, xs + b / 2, ys + e / 2)
    )
    return np.asarray(widths)[:, None], float(np.mean(heights))


def middle_steps_m(grid: Grid) -> tuple[float, float]:
    """Width and height of the pixels of the middle row (m)."""
    widths, height_m = pixel_steps_m(grid.crop(Window(grid.height // 2, 0, 1, grid.width)))
    return float(widths[0, 0]), height_m


class TerrainScene:
    """Bands `elevation` and `slope` of an elevation model, laid over another grid.

    Slope is computed once, when it is first asked for, into a temporary file on the elevation
    model's own grid (only the part under the target grid), and warped from there. A pickle holds
    none: where it is unpickled, slope is computed again.
    """

    dtype = "float32"
    units: tuple[str, ...] = ("m", "deg")

    def __init__(self, path: str, grid: Grid) -> None:
        """Open an elevation model in metres; its first band is read.

        Args:
            path: Any rasterio path.
            grid: Grid to give the pixels on.
        """
        self._grid = grid
        self._elevation = FileScene(path, {"elevation": 1}, grid=grid)
        self._slope: FileScene | None = None
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_slope": None, "_lock": None, "_folder": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._grid

    @property
    def bands(self) -> tuple[str, ...]:
        """`elevation` (m) and `slope` (degrees)."""
        return "elevation", "slope"

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window."""
        sources_of(bands, self.bands)
        parts = [self._scene_of(name).read(window, [name]) for name in bands]
        values = np.concatenate([part.values.astype(np.float32) for part in parts])
        valid = np.logical_and.reduce([part.valid for part in parts])
        values[:, ~valid] = 0
        return Raster(values, valid, tuple(bands), parts[0].grid)

    def _scene_of(self, name: str) -> FileScene:
        if name == "elevation":
            return self._elevation
        with self._lock:
            if self._slope is None:
                self._folder = tempfile.TemporaryDirectory(prefix="landslip-terrain-")
                path = Path(self._folder.name) / "slope.tif"
                write_slope(self._elevation.path, self._grid, path)
                self._slope = FileScene(str(path), {"slope": 1}, grid=self._grid)
        return self._slope

    def close(self) -> None:
        """Close the files and remove the temporary one."""
        self._elevation.close()
        if self._slope is not None:
            self._slope.close()
            self._slope = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_slope(dem: str, target: Grid, path: Path) -> None:
    """Write the slope (degrees) of the part of `dem` under `target`, on the grid of `dem`."""
    with open_dataset(dem) as dataset:
        grid = grid_of(dataset)
        west, south, east, north = target.footprint().bounds
        if grid.crs is not None and target.crs is not None:
            west, south, east, north = transform_bounds(
                target.crs, grid.crs, west, south, east, north
            )
        touched = grid.window_of((west, south, east, north))
        part = None if touched is None else touched.grown(MARGIN_PX).intersection(grid.window)
        if part is None:
            raise RasterError(
                f"Cannot use the elevation model {dem}: it does not cover the scene. "
                "Name one that does with --dem."
            )
        own = grid.crop(part)
        widths, height_m = pixel_steps_m(own)
        with create_raster(path, own, bands=["slope"], dtype="float32", nodata=math.nan) as out:
            for window in cover(own, 1024):
                # One pixel more on every side; unknown (NaN) beyond the model.
                around = Window(part.row + window.row, part.col + window.col, *_shape(window))
                around = around.grown(1)
                inside = around.intersection(grid.window)
                assert inside is not None
                z = np.full((around.height, around.width), np.nan)
                with plain_read_errors(dem):
                    box = rasterio_window(inside)
                    heights = dataset.read(1, window=box).astype(np.float64)
                    heights[dataset.read_masks(1, window=box) == 0] = np.nan
                z[inside.relative_to(around).slices] = heights
                rows, _ = window.slices
                slope = slope_deg(z, widths[rows], height_m)
                out.write(slope, 1, window=rasterio_window(window))


def _shape(window: Window) -> tuple[int, int]:
    return window.height, window.width
