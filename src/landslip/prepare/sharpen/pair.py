"""A panchromatic and a multispectral file that belong together: what is checked, how they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.warp import transform as transform_points

from landslip.geo.bands import band_name
from landslip.geo.errors import BandError, DataError, RasterError
from landslip.geo.grid import Grid, Window
from landslip.geo.parallel import default_threads
from landslip.geo.raster import FileScene, Raster, open_dataset
from landslip.geo.resample import AveragedScene, UpsampledScene
from landslip.prepare.sharpen.coregister import Offset, measure_offset


@dataclass(frozen=True)
class Misregistration:
    """How far pan and bands lie apart, and whether that was mended."""

    rows_px: float
    """By how much the bands must move down to lie on the pan (pan px)."""
    cols_px: float
    """By how much the bands must move to the right (pan px)."""
    spread_px: float
    """Median absolute deviation over the windows (pan px)."""
    windows: int
    """Windows that were compared."""
    applied: bool
    """True where the bands were moved."""

    @property
    def distance_px(self) -> float:
        """Length of the move (pan px)."""
        return math.hypot(self.rows_px, self.cols_px)

    @property
    def text(self) -> str:
        """For people."""
        down = f"{abs(self.rows_px):.2f} px {'down' if self.rows_px >= 0 else 'up'}"
        right = f"{abs(self.cols_px):.2f} px {'right' if self.cols_px >= 0 else 'left'}"
        return f"{down}, {right} (+- {self.spread_px:.2f}, {self.windows} windows)"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two files, and the grids on which they lie over each other."""

    pan: FileScene
    """One band."""
    bands: FileScene
    """All multispectral bands, on their own grid."""
    chosen: tuple[str, ...]
    """Bands to give."""
    averaged: AveragedScene
    """The pan averaged over the ground of every multispectral pixel, float32."""
    upsampled: UpsampledScene
    """The bands on the pan's grid by cubic convolution, float32."""
    misregistration: Misregistration | None
    """How far the files lie apart; None where there is too little texture to tell."""

    @property
    def ratio(self) -> float:
        """Pixel size of the bands over that of the pan."""
        return self.bands.grid.pixel_size_m / self.pan.grid.pixel_size_m

    def seen(self, bands: Raster) -> NDArray[np.bool_]:
        """Where bands show something: valid, and not 0 in every one where no nodata is declared.

        Borders of 0 that nobody declared would bend a regression.
        """
        if self.bands.nodata is None and bands.values.dtype.kind in "iu":
            something: NDArray[np.bool_] = np.asarray((bands.values != 0).any(axis=0))
            return bands.valid & something
        return bands.valid

    @property
    def shared_in_bands(self) -> Window:
        """The bands' pixels around the ground that both files show."""
        return _shared(self.averaged.grid, self.pan.grid)

    @property
    def shared_in_pan(self) -> Window:
        """The pan's pixels around the ground that both files show."""
        return _shared(self.pan.grid, self.averaged.grid)

    def close(self) -> None:
        """Close all files."""
        for part in (self.pan, self.averaged, self.upsampled, self.bands):
            part.close()


def open_pair(
    pan: str | Path,
    ms: str | Path,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    unnamed: bool = False,
    coregister: bool = False,
) -> Pair:
    """Open two files, check that they belong together, and measure how they lie to each other.

    Raises:
        RasterError: A file cannot be opened, the files do not overlap, or seem swapped.
        BandError: Bands are not named, or not there.
        DataError: Coregistration was asked for and cannot be measured.
    """
    panchromatic, multispectral, chosen = _open_files(pan, ms, bands, sensor, unnamed=unnamed)
    coarse, fine = multispectral.grid, panchromatic.grid
    averaged = AveragedScene(panchromatic, coarse)
    offset = measure_offset(
        averaged, multispectral, within=_shared(coarse, fine), threads=default_threads()
    )
    if coregister and offset is None:
        raise DataError(
            "Cannot coregister: pan and bands have too little texture in common to measure how "
            "they lie to each other. Leave out --coregister."
        )
    if offset is None:
        upsampled = UpsampledScene(multispectral, fine)
        return Pair(panchromatic, multispectral, chosen, averaged, upsampled, None)
    found = _in_pan_pixels(offset, coarse, fine, applied=coregister)
    if coregister:
        averaged.close()
        moved = _moved(coarse, offset.rows_px, offset.cols_px)
        averaged = AveragedScene(panchromatic, moved)
        # Where the pan's pixels lie in what the multispectral file says of itself.
        fine = _moved(fine, -found.rows_px, -found.cols_px)
    upsampled = UpsampledScene(multispectral, fine)
    return Pair(panchromatic, multispectral, chosen, averaged, upsampled, found)


def _open_files(
    pan: str | Path,
    ms: str | Path,
    bands: Sequence[str] | None,
    sensor: str | None,
    *,
    unnamed: bool,
) -> tuple[FileScene, FileScene, tuple[str, ...]]:
    """Both files, and the bands to give."""
    multispectral, chosen = _open_bands(ms, bands, sensor, unnamed=unnamed)
    panchromatic = FileScene.open(pan, unnamed=True)
    if len(panchromatic.bands) != 1:
        swapped = " The two files seem to be swapped." if len(multispectral.bands) == 1 else ""
        raise RasterError(
            f"Cannot pansharpen: {pan} has {len(panchromatic.bands)} bands, expected the one of a "
            f"panchromatic image.{swapped} Name the panchromatic file first."
        )
    if len(multispectral.bands) < 2:
        raise RasterError(
            f"Cannot pansharpen: {ms} has one band, expected two at least. Name the file that "
            "holds all multispectral bands (gdal_merge.py -separate joins files)."
        )
    panchromatic = FileScene(str(pan), {"pan": next(iter(panchromatic.numbers.values()))})
    fine, coarse = panchromatic.grid, multispectral.grid
    if (fine.crs is None) != (coarse.crs is None):
        raise RasterError(
            f"Cannot pansharpen {pan} with {ms}: one of the two has no coordinate reference "
            "system. Assign it (gdal_edit.py -a_srs)."
        )
    if around(coarse, fine).intersection(fine.window) is None:
        raise RasterError(
            f"Cannot pansharpen {pan} with {ms}: they do not overlap (bounds "
            f"{_bounds_text(fine)} and {_bounds_text(coarse)}). Check that both show one place."
        )
    ratio = coarse.pixel_size_m / fine.pixel_size_m
    if not ratio > 1:
        raise RasterError(
            f"Cannot pansharpen: the pixels of {ms} are {coarse.pixel_size_m:.3g} m, those of "
            f"{pan} {fine.pixel_size_m:.3g} m; the pan must be finer. Name the panchromatic file "
            "first."
        )
    return panchromatic, multispectral, chosen


def _open_bands(
    ms: str | Path, bands: Sequence[str] | None, sensor: str | None, *, unnamed: bool
) -> tuple[FileScene, tuple[str, ...]]:
    """The multispectral file with all its bands, and the names of those to give."""
    try:
        named = FileScene.open(ms, sensor=sensor)
    except BandError:
        if bands is None:
            file = FileScene.open(ms, sensor=sensor, unnamed=unnamed)
            return file, file.bands
    else:
        if bands is None:
            return named, named.bands
        chosen = tuple(band_name(band, sensor) for band in bands if band.strip() != "-")
        if set(chosen) <= set(named.bands) and len(set(chosen)) == len(chosen) > 0:
            return named, chosen
        if len(bands) != len(named.bands):
            raise BandError(
                f"Cannot give bands {', '.join(bands)}: {ms} names {', '.join(named.bands)}. "
                "Choose among them with --bands, or rename all of them."
            )
    with open_dataset(str(ms)) as dataset:
        if ColorInterp.alpha in dataset.colorinterp and len(bands) == dataset.count:
            # Transparency shows nothing, by whatever name.
            position = dataset.colorinterp.index(ColorInterp.alpha)
            bands = [name for number, name in enumerate(bands) if number != position]
    # Bands that are left out simulate the pan all the same.
    whole = [f"unused{number}" if name.strip() == "-" else name
             for number, name in enumerate(bands, 1)]  # fmt: skip
    file = FileScene.open(ms, bands=whole, sensor=sensor)
    kept = tuple(
        name for name, given in zip(file.bands, bands, strict=True) if given.strip() != "-"
    )
    if not kept:
        raise BandError(
            f"Cannot pansharpen {ms}: all its bands are left out. Name one at least with --bands."
        )
    return file, kept


def _bounds_text(grid: Grid) -> str:
    return " ".join(f"{value:.8g}" for value in grid.footprint().bounds)


def _shared(grid: Grid, other: Grid) -> Window:
    """The pixels of `grid` around the ground of `other`; all where they do not meet."""
    return around(other, grid).intersection(grid.window) or grid.window


def around(ground: Grid, grid: Grid) -> Window:
    """The window of `grid` that holds the ground of another grid; it may reach beyond `grid`."""
    corners = [(0, 0), (ground.width, 0), (ground.width, ground.height), (0, ground.height)]
    cols, rows = np.array(_in_pixels(ground, corners, grid)).T
    row, col = math.floor(rows.min()), math.floor(cols.min())
    height = max(math.ceil(rows.max()) - row, 1)
    width = max(math.ceil(cols.max()) - col, 1)
    return Window(row, col, height, width)


def _in_pixels(
    source: Grid, points: Sequence[tuple[float, float]], target: Grid
) -> list[tuple[float, float]]:
    """Positions (column, row) of `source` as positions of `target`."""
    xs, ys = zip(*(source.transform * point for point in points), strict=True)
    if source.crs is not None and target.crs is not None and source.crs != target.crs:
        xs, ys = transform_points(source.crs, target.crs, xs, ys)
    return [~target.transform * point for point in zip(xs, ys, strict=True)]


def _in_pan_pixels(offset: Offset, coarse: Grid, fine: Grid, *, applied: bool) -> Misregistration:
    middle = (coarse.width / 2, coarse.height / 2)
    there = (middle[0] + offset.cols_px, middle[1] + offset.rows_px)
    (col, row), (col_moved, row_moved) = _in_pixels(coarse, [middle, there], fine)
    ratio = coarse.pixel_size_m / fine.pixel_size_m
    return Misregistration(
        row_moved - row, col_moved - col, offset.spread_px * ratio, offset.cells, applied
    )


def _moved(grid: Grid, rows_px: float, cols_px: float) -> Grid:
    moved = grid.transform * Affine.translation(cols_px, rows_px)
    return Grid(grid.crs, moved, grid.height, grid.width)
