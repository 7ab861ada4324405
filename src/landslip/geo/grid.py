"""Where pixels lie: the window and the grid, two values that everything else stands on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from pyproj.enums import TransformDirection
from rasterio.crs import CRS
from shapely.geometry import Polygon

from landslip.geo.errors import UsageError

AREAL_SCALE_TOLERANCE = 0.005
"""Planar areas are used where the projection is true to area within this share."""

WGS84 = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels, rows before columns. It may reach beyond the grid it is used on."""

    row: int
    """First row (px)."""
    col: int
    """First column (px)."""
    height: int
    """Rows (px), at least 1."""
    width: int
    """Columns (px), at least 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(
                f"Cannot make a window of {self.height} x {self.width} px: "
                "height and width must be at least 1."
            )

    @property
    def row_stop(self) -> int:
        """One past the last row (px)."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """One past the last column (px)."""
        return self.col + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices into an array whose corner is at (0, 0)."""
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)

    def intersection(self, other: Window) -> Window | None:
        """The window that both share, or None."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row_stop, other.row_stop) - row
        width = min(self.col_stop, other.col_stop) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def relative_to(self, origin: Window) -> Window:
        """The same window, counted from the corner of `origin`."""
        return Window(self.row - origin.row, self.col - origin.col, self.height, self.width)

    def grown(self, margin: int) -> Window:
        """The window with `margin` pixels more on every side."""
        return Window(
            self.row - margin, self.col - margin, self.height + 2 * margin, self.width + 2 * margin
        )


@dataclass(frozen=True)
class Grid:
    """A pixel grid on the ground. Hashable; two grids are aligned exactly when they are equal."""

    crs: CRS | None
    """Coordinate reference system; None for pictures without a position."""
    transform: Affine
    """Maps (column, row) of a pixel corner to CRS coordinates."""
    height: int
    """Rows (px)."""
    width: int
    """Columns (px)."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(
                f"Cannot make a grid of {self.height} x {self.width} px: "
                "height and width must be at least 1."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in px."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """The window that covers the whole grid."""
        return Window(0, 0, self.height, self.width)

    @property
    def is_geographic(self) -> bool:
        """True where coordinates are degrees."""
        return self.crs is not None and bool(self.crs.is_geographic)

    def crop(self, window: Window) -> Grid:
        """The grid of one window; the window may reach beyond this grid."""
        moved = self.transform * Affine.translation(window.col, window.row)
        return Grid(self.crs, moved, window.height, window.width)

    def footprint(self) -> Polygon:
        """The outline in CRS coordinates."""
        corners = [(0, 0), (self.width, 0), (self.width, self.height), (0, self.height)]
        return Polygon([self.transform * corner for corner in corners])

    def window_of(self, bounds: tuple[float, float, float, float]) -> Window | None:
        """The pixels that touch `bounds` (west, south, east, north), cut to the grid, or None."""
        west, south, east, north = bounds
        corners = [(west, south), (west, north), (east, south), (east, north)]
        if not all(math.isfinite(value) for value in bounds):
            return None
        cols, rows = zip(*(~self.transform * corner for corner in corners), strict=True)
        row, col = math.floor(min(rows)), math.floor(min(cols))
        height = max(math.ceil(max(rows)) - row, 1)
        width = max(math.ceil(max(cols)) - col, 1)
        return Window(row, col, height, width).intersection(self.window)

    def resampled(self, pixel_size_m: float) -> Grid:
        """The same ground with pixels of about `pixel_size_m`; a whole number of pixels a side."""
        factor = pixel_size_m / self.pixel_size_m
        height = max(round(self.height / factor), 1)
        width = max(round(self.width / factor), 1)
        scale = Affine.scale(self.width / width, self.height / height)
        return Grid(self.crs, self.transform * scale, height, width)

    @cached_property
    def pixel_size_m(self) -> float:
        """Root of the area of the pixel in the middle (m)."""
        return math.sqrt(float(self.pixel_area_m2(self.height // 2)))

    @cached_property
    def is_planar(self) -> bool:
        """True where areas in CRS units are true areas within half a per cent.

        Without a CRS, coordinates are taken for metres.
        """
        if self.crs is None:
            return True
        xs, ys = zip(*self.footprint().exterior.coords[:4], strict=True)
        return is_true_to_area(self.crs, (min(xs), min(ys), max(xs), max(ys)))

    def pixel_area_m2(self, row: ArrayLike) -> NDArray[np.float64]:
        """Area of the pixels of a row (m2), at the middle column for grids that are not planar.

        Args:
            row: Row number or numbers (px).

        Returns:
            Array of the shape of `row`.
        """
        rows = np.asarray(row, dtype=np.float64)
        planar = abs(self.transform.determinant)
        if self.is_planar:
            return np.full(rows.shape, planar * linear_unit_m(self.crs) ** 2)
        assert self.crs is not None
        left = np.full((rows.size, 1), self.width // 2)
        cols = left + np.array([0, 1, 1, 0])
        down = rows.reshape(-1, 1) + np.array([0, 0, 1, 1])
        a, b, c, d, e, f = self.transform[:6]
        xs, ys = a * cols + b * down + c, d * cols + e * down + f
        lons, lats = to_lonlat(self.crs, xs.ravel(), ys.ravel())
        cells = zip(lons.reshape(-1, 4), lats.reshape(-1, 4), strict=True)
        areas = [abs(WGS84.polygon_area_perimeter(*cell)[0]) for cell in cells]
        return np.array(areas).reshape(rows.shape)


def linear_unit_m(crs: CRS | None) -> float:
    """Metres in one unit of a projected CRS; 1 without a CRS."""
    if crs is None or crs.is_geographic:
        return 1.0
    return float(crs.linear_units_factor[1])


def to_lonlat(
    crs: CRS, xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitudes and latitudes (degrees, WGS 84) of CRS coordinates."""
    to_wgs84 = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(crs), 4326, always_xy=True)
    lons, lats = to_wgs84.transform(xs, ys, direction=TransformDirection.FORWARD)
    return lons, lats


def is_true_to_area(crs: CRS, bounds: tuple[float, float, float, float]) -> bool:
    """True where the areal scale is within half a per cent of 1 over `bounds` (CRS units).

    Source: PROJ's cartographic factors (pyproj.Proj.get_factors), at the corners and the middle.
    """
    if crs.is_geographic:
        return False
    west, south, east, north = bounds
    xs = np.array([west, west, east, east, (west + east) / 2])
    ys = np.array([south, north, south, north, (south + north) / 2])
    lons, lats = to_lonlat(crs, xs, ys)
    if not (np.isfinite(lons).all() and np.isfinite(lats).all()):
        return True
    factors = pyproj.Proj(pyproj.CRS.from_user_input(crs)).get_factors(lons, lats)
    return bool(np.all(np.abs(np.asarray(factors.areal_scale) - 1) <= AREAL_SCALE_TOLERANCE))
