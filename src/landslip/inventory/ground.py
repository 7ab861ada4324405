"""What of a scene was seen, and why not the rest, as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.grid import Window
from landslip.geo.inventory import areas_m2
from landslip.geo.raster import FileScene
from landslip.geo.scene import OBSERVED, REASONS
from landslip.inventory.attributes import frame_crs
from landslip.inventory.outlines import (
    Strip,
    in_strips,
    join_strips,
    pixel_strip,
    strip_windows,
    to_crs,
)

if TYPE_CHECKING:
    import geopandas as gpd


def ground_layers(path: Path) -> dict[str, gpd.GeoDataFrame]:
    """Layers `observed` and `not_observed`, with the reason, from a raster of ground codes."""
    import geopandas as gpd

    scene = FileScene(str(path), {"ground": 1})
    grid = scene.grid

    def codes(window: Window) -> NDArray[np.uint8]:
        read: NDArray[np.uint8] = scene.read(window, ["ground"]).values[0]
        return read

    def known(window: Window) -> NDArray[np.bool_]:
        found = np.zeros(256, dtype=bool)
        found[codes(window)] = True
        return found

    def strips(code: int) -> Iterator[Strip]:
        return in_strips(
            lambda window: pixel_strip(codes(window) == code, window, grid), strip_windows(grid)
        )

    there = np.logical_or.reduce(list(in_strips(known, strip_windows(grid))))
    rows_of: dict[str, list[dict[str, Any]]] = {"observed": [], "not_observed": []}
    for code in (OBSERVED, *REASONS):
        if not there[code]:
            continue
        parts = to_crs(np.concatenate([found for found, _ in join_strips(strips(code))]), grid)
        area = {"area_m2": round(float(areas_m2(parts, grid.crs).sum()), 3)}
        row = {**area, "geometry": shapely.MultiPolygon(list(parts))}
        if code == OBSERVED:
            rows_of["observed"].append(row)
        else:
            rows_of["not_observed"].append({"reason": REASONS[code], **row})
    scene.close()
    columns = {"observed": ["area_m2"], "not_observed": ["reason", "area_m2"]}
    return {
        name: gpd.GeoDataFrame(
            found, columns=[*columns[name], "geometry"], geometry="geometry", crs=frame_crs(grid)
        )
        for name, found in rows_of.items()
    }
