"""A file laid over another grid, by rows and columns: cubic convolution up, averages down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling

from landslip.geo.grid import Grid, Window
from landslip.geo.raster import FileScene, Raster, derive, require_inside

KERNEL_A = -0.5
"""Parameter of the cubic kernel; GDAL's `cubic` has the same."""
TAPS = 4
"""Pixels under the cubic kernel along one axis."""
FILL_PX = 2
"""Reach of the cubic kernel beyond the pixel that holds a point (px)."""
STRAIGHT_PX = 1e-6
"""Largest drift across the grid (px) at which two grids count as parallel."""
Floats = NDArray[np.float32]
Mix = Callable[[Floats], Floats]
"""From planes of all bands, shape (C, H, W), to sums of them, shape (K, H, W): linear."""


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
class _Taps:
    """Which pixels of the file make N target pixels along one axis, and with what weight."""

    indices: NDArray[np.intp]
    """Shape (T, N); beyond the edge the nearest, with weight 0."""
    weights: Floats
    """Shape (T, N); they sum to 1."""
    holding: NDArray[np.intp]
    """The pixel in which the middle of the target pixel lies, shape (N,)."""
    inside: NDArray[np.bool_]
    """True where the file has what is needed, shape (N,)."""


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of the target in pixels of the file: ``scale * index + origin``.

    Positions are functions of the absolute index, so they do not depend on the window.
    """

    scale: float
    origin: float
    length: int
    """Pixels of the file."""

    def cubic(self, start: int, size: int) -> _Taps:
        """The kernel at the middles of the target pixels `start` to `start + size`."""
        position = self.scale * (np.arange(start, start + size) + 0.5) + self.origin
        first = np.floor(position - 0.5)
        indices = first.astype(np.intp) + np.arange(-1, TAPS - 1)[:, None]
        # Beyond the edge is nothing; what is left of the kernel sums to 1, as in GDAL.
        weights = cubic_weights(position - 0.5 - first)
        weights[(indices < 0) | (indices >= self.length)] = 0
        return self._taps(position, indices, weights, (position >= 0) & (position < self.length))

    def area(self, start: int, size: int) -> _Taps:
        """What the target pixels `start` to `start + size` cover."""
        edges = self.scale * np.arange(start, start + size + 1) + self.origin
        low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
        taps = int(np.ceil(abs(self.scale))) + 1
        indices = np.floor(low).astype(np.intp) + np.arange(taps)[:, None]
        covered = np.minimum(indices + 1, high) - np.maximum(indices, low)
        # A sliver of a pixel beyond the edge is rounding.
        covered[covered < STRAIGHT_PX] = 0
        inside = (low >= -STRAIGHT_PX) & (high <= self.length + STRAIGHT_PX)
        weights = covered.astype(np.float32)
        return self._taps((low + high) / 2, indices, weights, inside)

    def _taps(
        self,
        position: NDArray[np.floating],
        indices: NDArray[np.intp],
        weights: Floats,
        inside: NDArray[np.bool_],
    ) -> _Taps:
        total = weights.sum(axis=0)
        return _Taps(
            np.clip(indices, 0, self.length - 1),
            np.divide(weights, total, out=weights, where=total > 0),
            np.clip(np.floor(position).astype(np.intp), 0, self.length - 1),
            inside,
        )


class _Parallel:
    """Two grids that lie parallel in one CRS."""

    def __init__(self, source: Grid, target: Grid, rows: _Axis, cols: _Axis) -> None:
        self.source, self.target, self.rows, self.cols = source, target, rows, cols

    @classmethod
    def of(cls, source: Grid, target: Grid) -> _Parallel | None:
        """None where one of the grids is turned, or in another CRS."""
        if source.crs != target.crs:
            return None
        there: Affine = ~source.transform * target.transform
        if max(abs(there.b) * target.height, abs(there.d) * target.width) > STRAIGHT_PX:
            return None
        rows = _Axis(there.e, there.f, source.height)
        return cls(source, target, rows, _Axis(there.a, there.c, source.width))

    def around(self, rows: _Taps, cols: _Taps, margin: int) -> Window:
        """What to read of the file."""
        top, bottom = _span(rows.indices, margin, self.source.height)
        left, right = _span(cols.indices, margin, self.source.width)
        return Window(top, left, bottom - top, right - left)


def _span(indices: NDArray[np.intp], margin: int, length: int) -> tuple[int, int]:
    low, high = int(indices.min()) - margin, int(indices.max()) + 1 + margin
    return max(low, 0), min(high, length)


class _Laid:
    """A file's bands on another grid: by rows and columns, or by GDAL where that cannot be."""

    def __init__(self, source: FileScene, grid: Grid, otherwise: Resampling) -> None:
        self._source = source
        self._grid = grid
        self._parallel = _Parallel.of(source.grid, grid)
        self._warped = source.laid_over(grid, otherwise) if self._parallel is None else None

    @property
    def grid(self) -> Grid:
        """The grid that the bands are laid over."""
        return self._grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the file."""
        return self._source.bands

    def close(self) -> None:
        """Close the files that were opened here."""
        if self._warped is not None:
            self._warped.close()


class UpsampledScene(_Laid):
    """A file's bands on a finer grid, in float32, by cubic convolution.

    Grids that lie parallel in one CRS are interpolated here; others by GDAL. A pixel is valid where
    the file's pixel that holds its middle is. Pixels of the file that are not valid take the mean
    of their neighbours before they are weighed, so nothing bleeds from them. No pixel depends on
    the window that it is read with.
    """

    def __init__(self, source: FileScene, grid: Grid) -> None:
        """Lay `source`, on its own grid, over `grid`; closing this leaves the source open."""
        super().__init__(source, grid, Resampling.cubic)

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, float32."""
        values, valid = self.mixed(window)
        if not valid.all():
            values[:, ~valid] = 0
        return derive(self, bands, values, valid, window)

    def mixed(self, window: Window, mix: Mix | None = None) -> tuple[Floats, NDArray[np.bool_]]:
        """Sums of the bands, made of the file's few pixels and only then interpolated.

        Args:
            window: Pixels to give.
            mix: The sums; None for the bands themselves.

        Returns:
            Planes, shape (K, H, W), anything where not valid; and valid, shape (H, W).
        """
        require_inside(window, self._grid)
        if self._parallel is None:
            assert self._warped is not None
            raster = self._warped.read(window, self.bands)
            return (raster.values if mix is None else mix(raster.values)), raster.valid
        rows = self._parallel.rows.cubic(window.row, window.height)
        cols = self._parallel.cols.cubic(window.col, window.width)
        valid = rows.inside[:, None] & cols.inside
        around = self._parallel.around(rows, cols, FILL_PX)
        coarse = self._source.read(around, self.bands)
        planes = coarse.values.astype(np.float32)
        if not coarse.valid.all():
            planes = filled(planes, coarse.valid)
            valid &= _picked(coarse.valid, rows, cols, around)
        planes = planes if mix is None else mix(planes)
        # Columns first, while there are few rows.
        wide = _along_columns(planes, cols, around.col)
        return _along_rows(wide, rows, around.row), valid

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Where the file's pixel below is valid, shape (height, width)."""
        if self._parallel is None:
            assert self._warped is not None
            return self._warped.read(window, self.bands).valid
        rows = self._parallel.rows.cubic(window.row, window.height)
        cols = self._parallel.cols.cubic(window.col, window.width)
        inside = rows.inside[:, None] & cols.inside
        if self._source.always_valid or not inside.any():
            return inside
        around = self._parallel.around(rows, cols, 0)
        coarse = self._source.read(around, self.bands)
        return inside & _picked(coarse.valid, rows, cols, around)


class AveragedScene(_Laid):
    """A file's bands averaged over the larger pixels of another grid, in float32.

    Pixels count by the area that is covered. A pixel is valid where all that it covers is; where
    the grids are not parallel GDAL averages, and what is valid counts.
    """

    def __init__(self, source: FileScene, grid: Grid) -> None:
        """Average `source`, on its own grid, over `grid`; closing this leaves the source open."""
        super().__init__(source, grid, Resampling.average)

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, float32."""
        require_inside(window, self._grid)
        if self._parallel is None:
            assert self._warped is not None
            return self._warped.read(window, bands)
        rows = self._parallel.rows.area(window.row, window.height)
        cols = self._parallel.cols.area(window.col, window.width)
        valid = rows.inside[:, None] & cols.inside
        around = self._parallel.around(rows, cols, 0)
        fine = self._source.read(around, self.bands)
        # Rows first: what is left is few.
        low = _along_rows(fine.values.astype(np.float32), rows, around.row)
        values = _along_columns(low, cols, around.col)
        if not fine.valid.all():
            low = _along_rows(fine.valid[None].astype(np.float32), rows, around.row)
            valid &= _along_columns(low, cols, around.col)[0] > 1 - STRAIGHT_PX
        if not valid.all():
            values[:, ~valid] = 0
        return derive(self, bands, values, valid, window)


def _picked(
    valid: NDArray[np.bool_], rows: _Taps, cols: _Taps, around: Window
) -> NDArray[np.bool_]:
    """Validity of the pixels that hold the middles."""
    return valid[np.ix_(rows.holding - around.row, cols.holding - around.col)]


def _along_rows(planes: Floats, rows: _Taps, top: int) -> Floats:
    """Weighted sums along the rows, shape (C, N, W).

    A sparse product adds one row after the other, in the order of the taps; so, unlike with a dense
    one, a pixel's sum is the same in every window.
    """
    count, height, width = planes.shape
    # Rows outermost: then one product serves all planes.
    table = np.ascontiguousarray(planes.transpose(1, 0, 2)).reshape(height, -1)
    summed = _matrix(rows, top, height) @ table
    return np.asarray(summed.reshape(-1, count, width).transpose(1, 0, 2))


def _along_columns(planes: Floats, cols: _Taps, left: int) -> Floats:
    """The same along the columns, shape (C, H, N)."""
    turned = _along_rows(planes.transpose(0, 2, 1), cols, left)
    return turned.transpose(0, 2, 1)


def _matrix(taps: _Taps, first: int, length: int) -> Any:
    """The taps as a sparse matrix (N, length)."""
    from scipy.sparse import csr_array

    count, target = taps.indices.shape
    ends = np.arange(0, count * target + 1, count)
    # Taps stay in their order, also where two of them are one pixel at the edge.
    return csr_array(
        (taps.weights.T.ravel(), (taps.indices - first).T.ravel(), ends), shape=(target, length)
    )


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
