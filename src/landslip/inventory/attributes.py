"""What is known of each landslide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import areas_m2
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE
from landslip.geo.quiet import without_position
from landslip.geo.raster import FileScene
from landslip.inventory.outlines import in_strips, probability_codes, strip_windows
from landslip.inventory.spool import Polygons

if TYPE_CHECKING:
    import geopandas as gpd


def with_attributes(polygons: Polygons, scene: FileScene) -> gpd.GeoDataFrame:
    """A row a landslide: `area_m2`, `probability_mean`, `probability_max`.

    Probabilities are those of the written map, over the pixels whose middle lies inside; for
    polygons without one, over the pixels they touch.

    Args:
        polygons: In the CRS of `scene`.
        scene: The written probability raster.
    """
    import geopandas as gpd

    means, maxima = probability_of(polygons, scene)
    columns = {
        "area_m2": np.round(areas_m2(polygons, scene.grid.crs), 3),
        "probability_mean": np.round(means, 4),
        "probability_max": np.round(maxima, 4),
    }
    return gpd.GeoDataFrame(columns, geometry=list(polygons), crs=frame_crs(scene.grid))


def probability_of(
    polygons: Polygons, scene: FileScene, *, strip_rows: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and largest probability of every polygon, shape (N,) each, strip by strip."""
    grid, number = scene.grid, len(polygons)
    counts, sums, largest = np.zeros((3, number))
    tree = shapely.STRtree(polygons)
    extent = grid.window_of(tuple(shapely.total_bounds(polygons).tolist())) if number else None
    strips = strip_windows(grid, strip_rows)
    windows = (window for strip in strips if extent and (window := strip.intersection(extent)))

    def in_strip(window: Window) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """Polygons here; for all pixels inside one, which of those it is, and the code."""
        own = grid.crop(window)
        here = tree.query(own.footprint(), predicate="intersects")
        if not here.size:
            return here, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint8)
        codes = probability_codes(scene, window)
        numbers = numbered(polygons[here], own)
        inside = (numbers > 0) & (codes != UNKNOWN_CODE)
        return here, numbers[inside] - 1, codes[inside]

    for here, found, codes in in_strips(in_strip, windows):
        counts[here] += np.bincount(found, minlength=len(here))
        sums[here] += np.bincount(found, weights=codes, minlength=len(here))
        np.maximum.at(largest, here[found], codes)
    for missed in np.flatnonzero(counts == 0):
        codes = _codes_touched(polygons[missed], scene)
        counts[missed], sums[missed] = codes.size, codes.sum()
        largest[missed] = codes.max(initial=0)
    known = np.maximum(counts, 1) * TOP_CODE
    return np.where(counts, sums / known, np.nan), np.where(counts, largest / TOP_CODE, np.nan)


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


def _codes_touched(polygon: shapely.Polygon, scene: FileScene) -> NDArray[np.uint8]:
    window = scene.grid.window_of(polygon.bounds)
    if window is None:
        return np.zeros(0, dtype=np.uint8)
    codes = probability_codes(scene, window)
    transform = scene.grid.crop(window).transform
    with without_position():
        touched = rasterize(
            [polygon], out_shape=codes.shape, transform=transform, dtype="uint8", all_touched=True
        )
    inside: NDArray[np.uint8] = codes[(touched == 1) & (codes != UNKNOWN_CODE)]
    return inside


def frame_crs(grid: Grid) -> pyproj.CRS | None:
    """The CRS of a grid as geopandas wants it."""
    return None if grid.crs is None else pyproj.CRS.from_user_input(grid.crs)
