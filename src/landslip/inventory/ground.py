"""What of a scene was seen, and why not the rest, as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import areas_m2, frame_crs
from landslip.geo.probability import UNKNOWN_CODE
from landslip.geo.raster import FileScene
from landslip.geo.scene import NODATA, OBSERVED, REASONS
from landslip.inventory.outlines import Strip, join_strips, pixel_strip, to_crs
from landslip.inventory.pixels import Coded, in_strips, strip_windows

if TYPE_CHECKING:
    import geopandas as gpd


class GroundCodes(Protocol):
    """Which ground was observed, and why the rest was not: codes as in `REASONS`."""

    @property
    def grid(self) -> Grid:
        """Its pixels."""
        ...

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width)."""
        ...


class GroundFile:
    """Ground codes that mapping wrote."""

    def __init__(self, path: Path) -> None:
        """Open them."""
        self._scene = FileScene(str(path), {"ground": 1})

    @property
    def grid(self) -> Grid:
        """Its pixels."""
        return self._scene.grid

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width)."""
        read: NDArray[np.uint8] = self._scene.read(window, ["ground"]).values[0]
        return read

    def close(self) -> None:
        """Close the file."""
        self._scene.close()


class KnownGround:
    """Ground codes of a map that does not say why it knows nothing somewhere."""

    def __init__(self, probability: Coded) -> None:
        """Take what the map knows for observed."""
        self._probability = probability

    @property
    def grid(self) -> Grid:
        """Its pixels."""
        return self._probability.grid

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width)."""
        return codes_of_ground(self._probability.read(window))


def codes_of_ground(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ground codes from those of probabilities, any shape: there is no data where none is known."""
    return np.where(codes == UNKNOWN_CODE, np.uint8(NODATA), np.uint8(OBSERVED))


def ground_layers(ground: GroundCodes) -> dict[str, gpd.GeoDataFrame]:
    """Layers `observed` and `not_observed`, with the reason."""
    import geopandas as gpd

    grid = ground.grid

    def known(window: Window) -> NDArray[np.bool_]:
        found = np.zeros(256, dtype=bool)
        found[ground.read(window)] = True
        return found

    def strips(code: int) -> Iterator[Strip]:
        return in_strips(
            lambda window: pixel_strip(ground.read(window) == code, window, grid),
            strip_windows(grid),
        )

    there = np.logical_or.reduce(list(in_strips(known, strip_windows(grid))))
    rows_of: dict[str, list[dict[str, Any]]] = {"observed": [], "not_observed": []}
    for code in (OBSERVED, *REASONS):
        if not there[code]:
            continue
        parts = to_crs(
            np.concatenate([found for found, _ in join_strips(strips(code), is_square=True)]), grid
        )
        area = {"area_m2": round(float(areas_m2(parts, grid.crs).sum()), 3)}
        row = {**area, "geometry": shapely.MultiPolygon(list(parts))}
        if code == OBSERVED:
            rows_of["observed"].append(row)
        else:
            rows_of["not_observed"].append({"reason": REASONS[code], **row})
    columns = {"observed": ["area_m2"], "not_observed": ["reason", "area_m2"]}
    return {
        name: gpd.GeoDataFrame(
            found, columns=[*columns[name], "geometry"], geometry="geometry", crs=frame_crs(grid)
        )
        for name, found in rows_of.items()
    }
