"""What is known of each landslide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
from rasterio.features import rasterize

from landslip.geo.grid import Grid
from landslip.geo.inventory import areas_m2
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE
from landslip.geo.raster import FileScene
from landslip.mapping.outlines import Polygons, probability_codes

if TYPE_CHECKING:
    import geopandas as gpd


def with_attributes(polygons: Polygons, scene: FileScene) -> gpd.GeoDataFrame:
    """A row a landslide: `id`, `area_m2`, `probability_mean`, `probability_max`.

    Probabilities are those of the written map, over the pixels whose middle lies inside; for
    polygons without one, over the pixels they touch.

    Args:
        polygons: In the CRS of `scene`.
        scene: The written probability raster.
    """
    import geopandas as gpd

    stats = [_probability(polygon, scene) for polygon in polygons]
    columns = {
        "id": np.arange(1, len(polygons) + 1),
        "area_m2": np.round(areas_m2(polygons, scene.grid.crs), 3),
        "probability_mean": np.array([round(mean, 4) for mean, _ in stats], dtype=float),
        "probability_max": np.array([round(largest, 4) for _, largest in stats], dtype=float),
    }
    return gpd.GeoDataFrame(columns, geometry=list(polygons), crs=frame_crs(scene.grid))


def _probability(polygon: shapely.Polygon, scene: FileScene) -> tuple[float, float]:
    window = scene.grid.window_of(polygon.bounds)
    if window is None:
        return float("nan"), float("nan")
    codes = probability_codes(scene, window)
    transform = scene.grid.crop(window).transform
    for touched in (False, True):
        inside = rasterize(
            [polygon], out_shape=codes.shape, transform=transform, dtype="uint8",
            all_touched=touched,
        )  # fmt: skip
        found = codes[(inside == 1) & (codes != UNKNOWN_CODE)]
        if found.size:
            return float(found.mean()) / TOP_CODE, float(found.max()) / TOP_CODE
    return float("nan"), float("nan")


def frame_crs(grid: Grid) -> pyproj.CRS | None:
    """The CRS of a grid as geopandas wants it."""
    return None if grid.crs is None else pyproj.CRS.from_user_input(grid.crs)
