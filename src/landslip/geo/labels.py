"""What an analyst says of every pixel: landslide, background, or nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from landslip.geo.errors import InventoryError, RasterError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Area, Polygons, has_status, read_polygons
from landslip.geo.raster import FileScene, open_dataset
from landslip.geo.windows import cover

log = logging.getLogger(__name__)

BACKGROUND, LANDSLIDE, UNLABELLED = 0, 1, 255

RASTER_SUFFIXES = {".tif", ".tiff", ".vrt", ".img", ".png", ".jp2", ".asc", ".nc", ".zarr"}


class Labels(Protocol):
    """Anything that gives labels by window."""

    @property
    def grid(self) -> Grid:
        """Where the labels lie."""
        ...

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Shape (height, width): 0 background, 1 landslide, 255 not labelled."""
        ...

    def rejected(self, window: Window) -> NDArray[np.bool_]:
        """Shape (height, width): background that an analyst rejected as a landslide.

        Some polygons of an inventory are (`status = rejected`), and all false alarms.
        """
        ...

    def ids(self, window: Window) -> NDArray[np.int32] | None:
        """Shape (height, width): which landslide, from 1; None where landslides have no numbers."""
        ...


class PolygonLabels:
    """Labels from landslide polygons, and from the areas in which everything was inspected."""

    def __init__(
        self,
        inventory: Polygons,
        checked: Polygons | None,
        grid: Grid,
        false_alarms: Polygons | None = None,
    ) -> None:
        """Lay polygons over a grid.

        Args:
            inventory: Landslides; rows with ``status = rejected`` are background.
            checked: Areas inside which what is no landslide is background; elsewhere it is not
                labelled. None: all ground counts as checked.
            grid: Where labels are wanted; the CRS of the polygons.
            false_alarms: Background, checked or not; where a landslide is, it stays one.
        """
        self.grid = grid
        is_rejected = has_status(inventory.frame, ["rejected"])
        self.polygons = inventory.where(~is_rejected)
        self.is_reviewed = bool(has_status(inventory.frame, ["accepted", "edited"]).any())
        """True where some landslides are a model's outlines that an analyst accepted or edited."""
        self._landslides = Area(self.polygons.geometries, grid)
        rejected = list(inventory.where(is_rejected).geometries)
        if false_alarms is not None:
            rejected += list(false_alarms.geometries)
        self._rejected = Area(rejected, grid)
        self._checked = None if checked is None else Area(checked.geometries, grid)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Shape (height, width): 0 background, 1 landslide, 255 not labelled."""
        labels = np.zeros((window.height, window.width), dtype=np.uint8)
        if self._checked is not None:
            labels[~self._checked.read(window)] = UNLABELLED
        labels[self._rejected.read(window)] = BACKGROUND
        labels[self._landslides.read(window)] = LANDSLIDE
        return labels

    def rejected(self, window: Window) -> NDArray[np.bool_]:
        """Shape (height, width): background that an analyst rejected as a landslide."""
        return self._rejected.read(window) & ~self._landslides.read(window)

    def ids(self, window: Window) -> NDArray[np.int32]:
        """Shape (height, width): the polygon that is drawn there, from 1; 0 for none."""
        return self._landslides.numbers(window)


class RasterLabels:
    """Labels from a raster of 0, 1 and 255."""

    def __init__(
        self,
        path: str,
        grid: Grid,
        checked: Polygons | None,
        positive: int | None,
        false_alarms: Polygons | None = None,
    ) -> None:
        """Open a label raster.

        Args:
            path: One-band raster; warped to `grid` by nearest neighbour where it differs.
            grid: Where labels are wanted.
            checked: As for `PolygonLabels`.
            positive: The value of landslides where it is not 1; every other value but nodata is
                background then.
            false_alarms: As for `PolygonLabels`.
        """
        self.grid = grid
        self._path = path
        self._positive = positive
        self._scene = FileScene(path, {"label": 1}, grid=grid, resampling=Resampling.nearest)
        if self._scene.is_warped:
            log.warning("%s has other pixels, or another CRS: the nearest labels are used", path)
        self._checked = None if checked is None else Area(checked.geometries, grid)
        self._rejected = Area(() if false_alarms is None else false_alarms.geometries, grid)
        self._require_known_values()

    def _require_known_values(self) -> None:
        found: set[float] = set()
        for window in cover(self.grid, 2048):
            raster = self._scene.read(window, ["label"])
            found.update(np.unique(raster.values[0][raster.valid]).tolist())
            if len(found) > 8 and (self._positive is None or self._positive in found):
                break
        if not found:
            raise InventoryError(
                f"Cannot use labels {self._path}: no labelled pixel lies on the scene. Name the "
                "files of one place."
            )
        if self._positive is not None and self._positive not in found:
            raise InventoryError(
                f"Cannot use labels {self._path}: no pixel has the value {self._positive} of "
                f"--positive; found {_listed(found)}. Name the value of landslides."
            )
        if self._positive is None and not found <= {0, 1, 255}:
            raise InventoryError(
                f"Cannot use labels {self._path}: expected 0 (background), 1 (landslide) and 255 "
                f"(not labelled), found {_listed(found)}. Name the value of landslides with "
                "--positive."
            )
        if self._positive is None and 255 in found and 1 not in found:
            raise InventoryError(
                f"Cannot use labels {self._path}: it holds 255 and no 1, and 255 means 'not "
                "labelled'. If 255 is landslide, add --positive 255."
            )

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Shape (height, width): 0 background, 1 landslide, 255 not labelled."""
        raster = self._scene.read(window, ["label"])
        plane = raster.values[0]
        is_own_coding = self._positive is None
        labels: NDArray[np.uint8] = (plane if is_own_coding else plane == self._positive).astype(
            np.uint8
        )
        labels[~raster.valid] = UNLABELLED
        if self._checked is not None:
            labels[~self._checked.read(window) & (labels == BACKGROUND)] = UNLABELLED
        labels[self._rejected.read(window) & (labels != LANDSLIDE)] = BACKGROUND
        return labels

    def rejected(self, window: Window) -> NDArray[np.bool_]:
        """Shape (height, width): false alarms; a raster itself rejects nothing."""
        rejected = self._rejected.read(window)
        return rejected & (self.read(window) != LANDSLIDE) if rejected.any() else rejected

    def ids(self, window: Window) -> None:
        """A raster says where landslides are, and not which."""


def _listed(values: set[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in sorted(values)[:8])
    return f"{shown}, ..." if len(values) > 8 else shown


def is_raster_file(path: str | Path) -> bool:
    """True where a file is a raster, by its ending or, failing that, by opening it."""
    text = str(path).partition("|")[0]
    suffix = Path(text).suffix.lower()
    if suffix in RASTER_SUFFIXES:
        return True
    if suffix in {".gpkg", ".geojson", ".json", ".shp", ".kml", ".fgb", ".gml", ".parquet"}:
        return False
    try:
        open_dataset(text).close()
    except RasterError:
        return False
    return True


def open_labels(
    path: str | Path,
    grid: Grid,
    *,
    checked: str | Path | None = None,
    positive: int | None = None,
    false_alarms: str | Path | None = None,
    what: str = "inventory",
) -> PolygonLabels | RasterLabels:
    """Lay an inventory (polygons of any OGR format, or a label raster) over a grid.

    Args:
        path: Polygons, or a raster of 0, 1 and 255 = not labelled.
        grid: Where labels are wanted.
        checked: Polygons inside which everything was inspected; None: all ground counts as
            checked.
        positive: Value of landslides in a raster where it is not 1.
        false_alarms: Polygons over what a model wrongly mapped: background, checked or not. Where
            the inventory has a landslide, it stays one, and that is said.
        what: What the file is, for messages.

    Raises:
        InventoryError: The polygons or labels cannot be used, or lie elsewhere.
    """
    areas = _read_areas(checked, grid, "checked areas")
    alarms = _read_areas(false_alarms, grid, "false alarms")
    labels = _open_labels(path, grid, areas, positive, alarms, what)
    if alarms is not None:
        _say_contested(labels, Area(alarms.geometries, grid))
    return labels


def _open_labels(
    path: str | Path,
    grid: Grid,
    checked: Polygons | None,
    positive: int | None,
    false_alarms: Polygons | None,
    what: str,
) -> PolygonLabels | RasterLabels:
    if is_raster_file(path):
        return RasterLabels(str(path), grid, checked, positive, false_alarms)
    if positive is not None:
        raise UsageError(
            f"Cannot use --positive with {path}: it is for label rasters, and these are polygons. "
            "Leave --positive out."
        )
    polygons = read_polygons(path, grid, what=what)
    _require_touching(polygons, grid, f"{what} {path}")
    return PolygonLabels(polygons, checked, grid, false_alarms)


def _read_areas(path: str | Path | None, grid: Grid, what: str) -> Polygons | None:
    if path is None:
        return None
    areas = read_polygons(path, grid, what=what)
    _require_touching(areas, grid, f"{what} {path}")
    return areas


def _say_contested(labels: PolygonLabels | RasterLabels, false_alarms: Area) -> None:
    """Say where false alarms lie on landslides."""
    count = 0
    for window in cover(labels.grid, 2048):
        inside = false_alarms.read(window)
        if inside.any():
            count += int((labels.read(window)[inside] == LANDSLIDE).sum())
    if count:
        log.warning(
            "%d px of the false alarms lie on landslides of the inventory, and stay landslide",
            count,
        )


def _require_touching(polygons: Polygons, grid: Grid, what: str) -> None:
    outline = grid.footprint()
    if not any(shape.intersects(outline) for shape in polygons.geometries):
        here = ", ".join(f"{value:.6g}" for value in outline.bounds)
        there = ", ".join(f"{value:.6g}" for value in polygons.frame.total_bounds)
        raise InventoryError(
            f"Cannot use {what}: none of its {len(polygons)} polygons touches the scene; scene "
            f"(west, south, east, north) {here}, polygons {there}. Name the files of one place."
        )
