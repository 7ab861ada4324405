"""A coarse file laid over a finer grid by cubic convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling

from landslip.geo.grid import Grid, Window
from landslip.geo.raster import FileScene, Raster, derive, require_inside

KERNEL_A = -0.5
"""Parameter of the cubic kernel; GDAL's `cubic` has the same."""
TAPS = 4
"""Pixels under the kernel along one axis."""
FILL_PX = 2
"""Reach of the kernel beyond the pixel that holds a point (px)."""
STRAIGHT_PX = 1e-6
"""Largest drift across the grid (px) at which two grids count as parallel."""

Floats = NDArray[np.float32]


def cubic_weights(offset: NDArray[np.float64]) -> Floats:
    """Weights of the four pixels around points.

    Args:
        offset: Distance (px) from the second of the four pixels, 0 to 1, shape (N,).

    Returns:
        Shape (4, N); every column sums to 1.

    Source: Keys 1981, Cubic convolution interpolation, IEEE Trans. ASSP 29(6), eq. 15, a = -1/2.
    """
    far, near = KERNEL_A, KERNEL_A + 2
    distances = np.abs(offset - np.arange(-1, TAPS - 1)[:, None])
    inner = (near * distances - (near + 1)) * distances**2 + 1
    outer = ((far * distances - 5 * far) * distances + 8 * far) * distances - 4 * far
    return np.where(distances <= 1, inner, outer).astype(np.float32)


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of a fine grid in pixels of a coarse one: ``scale * index + origin``."""

    scale: float
    origin: float
    length: int
    """Pixels of the coarse grid."""

    def taps(self, start: int, size: int) -> _Taps:
        """Where the kernel lies for the fine pixels `start` to `start + size`.

        Positions are functions of the absolute index, so they do not depend on the window.
        """
        position = self.scale * (np.arange(start, start + size) + 0.5) + self.origin
        first = np.floor(position - 0.5)
        indices = first.astype(np.intp) + np.arange(-1, TAPS - 1)[:, None]
        weights = cubic_weights(position - 0.5 - first)
        # Beyond the edge is nothing; what is left of the kernel sums to 1, as in GDAL.
        weights[(indices < 0) | (indices >= self.length)] = 0
        total = weights.sum(axis=0)
        return _Taps(
            np.clip(indices, 0, self.length - 1),
            np.divide(weights, total, out=weights, where=total > 0),
            np.clip(np.floor(position).astype(np.intp), 0, self.length - 1),
            (position >= 0) & (position < self.length),
        )


@dataclass(frozen=True)
class _Taps:
    """The kernel along one axis, for N fine pixels."""

    indices: NDArray[np.intp]
    """Coarse pixels, shape (4, N); beyond the edge the nearest, with weight 0."""
    weights: Floats
    """Shape (4, N)."""
    holding: NDArray[np.intp]
    """Coarse pixel in which the middle of the fine one lies, shape (N,)."""
    inside: NDArray[np.bool_]
    """True where it lies in the coarse grid, shape (N,)."""

    def span(self, length: int) -> tuple[int, int]:
        """First and one past the last coarse pixel to read, with what filling needs."""
        low, high = int(self.indices.min()) - FILL_PX, int(self.indices.max()) + 1 + FILL_PX
        return max(low, 0), min(high, length)


class UpsampledScene:
    """A file's bands on a finer grid, in float32, by cubic convolution.

    Grids that lie parallel in one CRS are interpolated here, by rows and columns; others by GDAL.
    A pixel is valid where the coarse pixel that holds its middle is. Coarse pixels that are not
    valid take the mean of their neighbours before they are weighed, so nothing bleeds from them.
    No pixel depends on the window that it is read with.
    """

    def __init__(self, source: FileScene, grid: Grid) -> None:
        """Lay `source`, on its own grid, over `grid`; closing this does not close the source."""
        self._source = source
        self._grid = grid
        self._axes = _parallel_axes(source.grid, grid)
        self._warped: FileScene | None = None
        if self._axes is None:
            self._warped = source.laid_over(grid, Resampling.cubic)

    @property
    def grid(self) -> Grid:
        """The finer grid."""
        return self._grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the file."""
        return self._source.bands

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, float32."""
        require_inside(window, self._grid)
        if self._warped is not None:
            return self._warped.read(window, bands)
        assert self._axes is not None
        rows = self._axes[0].taps(window.row, window.height)
        cols = self._axes[1].taps(window.col, window.width)
        inside = rows.inside[:, None] & cols.inside
        if not inside.any():
            values = np.zeros((len(self.bands), *inside.shape), dtype=np.float32)
            return derive(self, bands, values, inside, window)
        top, bottom = rows.span(self._source.grid.height)
        left, right = cols.span(self._source.grid.width)
        coarse = self._source.read(Window(top, left, bottom - top, right - left), self.bands)
        planes = coarse.values.astype(np.float32)
        valid = inside
        if not coarse.valid.all():
            planes = filled(planes, coarse.valid)
            valid = inside & coarse.valid[np.ix_(rows.holding - top, cols.holding - left)]
        values = _interpolated(planes, rows, cols, top, left)
        if not valid.all():
            values[:, ~valid] = 0
        return derive(self, bands, values, valid, window)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Where the coarse pixel below is valid, shape (height, width)."""
        if self._warped is not None:
            return self._warped.read(window, self.bands).valid
        assert self._axes is not None
        rows = self._axes[0].taps(window.row, window.height)
        cols = self._axes[1].taps(window.col, window.width)
        inside = rows.inside[:, None] & cols.inside
        if self._source.always_valid or not inside.any():
            return inside
        top, left = int(rows.holding.min()), int(cols.holding.min())
        around = Window(top, left, int(np.ptp(rows.holding)) + 1, int(np.ptp(cols.holding)) + 1)
        coarse = self._source.read(around, self.bands)
        return inside & coarse.valid[np.ix_(rows.holding - top, cols.holding - left)]

    def close(self) -> None:
        """Close the files that were opened here."""
        if self._warped is not None:
            self._warped.close()


def _parallel_axes(coarse: Grid, fine: Grid) -> tuple[_Axis, _Axis] | None:
    """Rows and columns of `fine` in pixels of `coarse`; None where one of the grids is turned."""
    if coarse.crs != fine.crs:
        return None
    to_coarse: Affine = ~coarse.transform * fine.transform
    if max(abs(to_coarse.b) * fine.height, abs(to_coarse.d) * fine.width) > STRAIGHT_PX:
        return None
    return (
        _Axis(to_coarse.e, to_coarse.f, coarse.height),
        _Axis(to_coarse.a, to_coarse.c, coarse.width),
    )


def _interpolated(planes: Floats, rows: _Taps, cols: _Taps, top: int, left: int) -> Floats:
    """Columns first, while there are few rows. Sums run in one order, whatever the window."""
    height, width = rows.indices.shape[1], cols.indices.shape[1]
    out = np.empty((len(planes), height, width), dtype=np.float32)
    wide, one_wide = np.empty((2, planes.shape[1], width), dtype=np.float32)
    one = np.empty((height, width), dtype=np.float32)
    for plane, result in zip(planes, out, strict=True):
        for tap in range(TAPS):
            into = wide if tap == 0 else one_wide
            np.take(plane, cols.indices[tap] - left, axis=1, out=into, mode="clip")
            into *= cols.weights[tap]
            if tap:
                wide += one_wide
        for tap in range(TAPS):
            into = result if tap == 0 else one
            np.take(wide, rows.indices[tap] - top, axis=0, out=into, mode="clip")
            into *= rows.weights[tap][:, None]
            if tap:
                result += one
    return out


def filled(planes: Floats, valid: NDArray[np.bool_]) -> Floats:
    """Give pixels within two of a valid one the mean of their valid neighbours, ring by ring.

    Args:
        planes: Shape (C, H, W).
        valid: Shape (H, W).

    Returns:
        Shape (C, H, W); 0 where nothing valid is near.
    """
    known = valid
    out = np.where(known, planes, np.float32(0))
    for _ in range(FILL_PX):
        count = _neighbour_sum(known.astype(np.float32)[None])[0]
        mean = _neighbour_sum(out) / np.maximum(count, 1)
        reached = ~known & (count > 0)
        out = np.where(reached, mean, out)
        known = known | reached
    return out


def _neighbour_sum(planes: Floats) -> Floats:
    """Sum over the 3 x 3 pixels around every pixel."""
    height, width = planes.shape[1:]
    padded = np.pad(planes, [(0, 0), (1, 1), (1, 1)])
    total = np.zeros_like(planes)
    for row in range(3):
        for col in range(3):
            total += padded[:, row : row + height, col : col + width]
    return total
