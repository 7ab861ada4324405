"""How green landslides are, and how much of it they lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.bands import BEFORE, INDICES
from landslip.geo.grid import Window
from landslip.geo.raster import Scene
from landslip.geo.windows import cover
from landslip.inventory.pixels import in_strips, numbered
from landslip.inventory.spool import Polygons

NDVI = INDICES["ndvi"]
BLOCK_PX = 1024
"""Side of the windows that are read where landslides lie (px)."""


def spectral_columns(polygons: Polygons, scene: Scene) -> dict[str, NDArray[Any]]:
    """Means over pixels whose middle lies inside, shape (N,); NaN where none is valid.

    `ndvi_mean` where the scene has bands nir and red; with `pre_nir` and `pre_red` also
    `ndvi_change`, the mean of NDVI now less NDVI before. Without the bands, no columns.

    Args:
        polygons: In the CRS of the scene; they do not overlap.
        scene: The scene that was mapped.

    Source: Rouse et al. 1974.
    """
    columns = {}
    if set(NDVI.needs) <= set(scene.bands):
        columns["ndvi_mean"] = _mean(polygons, scene, ("",))
        if {BEFORE + name for name in NDVI.needs} <= set(scene.bands):
            columns["ndvi_change"] = _mean(polygons, scene, ("", BEFORE))
    return columns


def _mean(polygons: Polygons, scene: Scene, prefixes: tuple[str, ...]) -> NDArray[Any]:
    """Mean of NDVI from bands of a prefix, or of it less that of another prefix, shape (N,)."""
    bands = [prefix + name for prefix in prefixes for name in NDVI.needs]
    counts, sums = np.zeros((2, len(polygons)))
    tree = shapely.STRtree(polygons)

    def in_block(window: Window) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        own = scene.grid.crop(window)
        here = np.sort(tree.query(own.footprint(), predicate="intersects"))
        if not here.size:
            return here, np.zeros(0)
        numbers = numbered(polygons[here], own)
        if not numbers.any():
            return here[:0], np.zeros(0)
        raster = scene.read(window, bands)
        planes = dict(zip(bands, raster.values.astype(np.float32), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            first, *before = (
                NDVI.formula({name: planes[prefix + name] for name in NDVI.needs})
                for prefix in prefixes
            )
        values = (first - before[0] if before else first).astype(np.float64)
        inside = (numbers > 0) & raster.valid & np.isfinite(values)
        return here[numbers[inside] - 1], values[inside]

    for owners, values in in_strips(in_block, cover(scene.grid, BLOCK_PX)):
        counts += np.bincount(owners, minlength=len(polygons))
        sums += np.bincount(owners, weights=values, minlength=len(polygons))
    mean = sums / np.maximum(counts, 1)
    return np.round(np.where(counts > 0, mean, np.nan), 4)
