"""Landslide polygons and other areas: reading, checking, measuring, rasterising, writing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from landslip.geo.errors import InventoryError, OutputError
from landslip.geo.grid import WGS84, Grid, Window, is_true_to_area, linear_unit_m
from landslip.geo.quiet import NO_CRS, quietly, without_position

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

log = logging.getLogger(__name__)

LAYER = "landslides"
"""Layer that is read from files with several layers."""
OBSERVED = "observed"
"""Layer of the ground that was looked at."""

FIXED_DATE = "2000-01-01T00:00:00.000Z"
"""Date written into GeoPackages, so that equal content gives equal bytes."""


GPKG_VERSION = "1.3"
"""Of GeoPackages; GIS of a few years ago warn of 1.4, which adds nothing that is used."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """Polygons in the CRS of a scene, all valid, with their attributes."""

    frame: gpd.GeoDataFrame
    """One row a polygon."""
    reprojected_from: str
    """CRS of the file where it differs from the scene's, else empty."""
    repaired: int
    """How many polygons crossed themselves and were repaired."""

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def geometries(self) -> NDArray[np.object_]:
        """The shapely polygons, shape (N,)."""
        return np.asarray(self.frame.geometry.values)

    def where(self, chosen: NDArray[np.bool_]) -> Polygons:
        """The polygons of some rows."""
        return Polygons(self.frame[chosen], self.reprojected_from, self.repaired)


def read_polygons(path: str | Path, grid: Grid, *, what: str = "inventory") -> Polygons:
    """Read polygons of any OGR format into the CRS of a grid.

    Polygons in another CRS are reprojected and those that cross themselves are repaired; both are
    said. `FILE|layername=NAME` names a layer; without it the layer `landslides` is read, or the
    only one.

    Args:
        path: File, or file and layer.
        grid: Grid whose CRS is wanted.
        what: What the file is, for messages.

    Raises:
        InventoryError: No such file, no polygons in it, or no CRS where one is needed.
    """
    frame = _read_frame(str(path), what)
    source = frame.crs.to_string() if frame.crs is not None else ""
    _require_same_kind_of_crs(str(path), source, grid, what)
    frame, repaired = _usable(frame, path, what)
    reprojected = grid.crs is not None and not pyproj.CRS(frame.crs).equals(
        pyproj.CRS.from_user_input(grid.crs), ignore_axis_order=True
    )
    if reprojected:
        target = pyproj.CRS.from_user_input(grid.crs)
        frame = frame.to_crs(target)
        if not np.isfinite(frame.total_bounds).all():
            raise InventoryError(
                f"Cannot place {what} {path}: its coordinates lie outside the range of its CRS "
                f"({source}). Assign the CRS that they are in (ogr2ogr -a_srs)."
            )
        frame = frame.set_geometry(_repaired(frame.geometry))
        log.warning("%s: reprojected from %s to %s", Path(path).name, source, target.to_string())
    return Polygons(frame, source if reprojected else "", repaired)


def read_inventory(path: str | Path) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame | None]:
    """Read landslides in the CRS that they are in, without those that were rejected.

    Args:
        path: File, or file and layer, as for `read_polygons`.

    Returns:
        The landslides; and the layer `observed` of the same file, None where it has none.

    Raises:
        InventoryError: No such file, or no polygons in it.
    """
    frame = _usable(_read_frame(str(path), "inventory"), path, "inventory")[0]
    frame = frame[~has_status(frame, ["rejected"])]
    file = str(path).partition("|")[0]
    seen = (
        _read_frame(f"{file}|layername={OBSERVED}", "observed ground")
        if (OBSERVED in layer_names(file))
        else None
    )
    return frame, seen


def layer_names(file: str) -> list[str]:
    """Names of the layers of a vector file; styles and other tables are none."""
    import pyogrio

    return [str(name) for name, kind in pyogrio.list_layers(file) if kind is not None]


def _usable(frame: gpd.GeoDataFrame, path: str | Path, what: str) -> tuple[gpd.GeoDataFrame, int]:
    """Flat, valid polygons, and how many had to be repaired."""
    kinds = set(frame.geom_type.dropna()) - {"Polygon", "MultiPolygon"}
    if kinds:
        raise InventoryError(
            f"Cannot use {what} {path}: polygons are needed, it holds {', '.join(sorted(kinds))}. "
            "Close the lines or buffer the points in a GIS first."
        )
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    if frame.empty:
        raise InventoryError(
            f"Cannot use {what} {path}: it holds no polygons. Name another file or layer "
            "(FILE|layername=NAME)."
        )
    frame = frame.set_geometry(shapely.force_2d(frame.geometry.to_numpy()))
    crossing = ~frame.is_valid.to_numpy()
    if crossing.any():
        frame = frame.set_geometry(_repaired(frame.geometry))
        log.warning(
            "%s: %d polygons cross themselves and were repaired", Path(path).name, crossing.sum()
        )
    return frame, int(crossing.sum())


def _read_frame(path: str, what: str) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pyogrio

    file, _, layer = path.partition("|layername=")
    if "://" not in file and not file.startswith("/vsi") and not Path(file).exists():
        raise InventoryError(
            f"Cannot open {what} {file}: there is no such file. Check its name and folder."
        )
    try:
        names = layer_names(file)
        if not layer and not names:
            raise InventoryError(
                f"Cannot use {what} {file}: none of its layers has a geometry. Name another file."
            )
        if not layer:
            layer = LAYER if LAYER in names else names[0] if len(names) == 1 else ""
        if layer not in names:
            raise InventoryError(
                f"Cannot choose a layer of {what} {file}: it has {', '.join(names) or 'none'}. "
                f"Write {file}|layername=NAME."
            )
        frame = gpd.read_file(file, layer=layer, engine="pyogrio")
    except pyogrio.errors.DataSourceError as error:
        raise InventoryError(
            f"Cannot open {what} {file}: it is not a vector file that GDAL can read. "
            "Export the polygons as GeoPackage."
        ) from error
    return frame


def _require_same_kind_of_crs(path: str, source: str, grid: Grid, what: str) -> None:
    if not source and grid.crs is not None:
        raise InventoryError(
            f"Cannot place {what} {path}: it has no coordinate reference system, the scene has "
            f"{grid.crs.to_string()}. Assign one (ogr2ogr -a_srs)."
        )
    if source and grid.crs is None:
        raise InventoryError(
            f"Cannot place {what} {path} ({source}): the scene has no coordinate reference "
            "system. Assign one to the scene (gdal_edit.py -a_srs)."
        )


def _repaired(geometries: Any) -> NDArray[np.object_]:
    """Valid polygons; what repairing leaves of lines and points is dropped."""
    valid = shapely.make_valid(
        np.asarray(geometries.values), method="structure", keep_collapsed=False
    )
    return np.array(
        [
            geometry
            if geometry.geom_type in ("Polygon", "MultiPolygon")
            else shapely.MultiPolygon(
                [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
            )
            for geometry in valid
        ],
        dtype=object,
    )


def frame_crs(grid: Grid) -> pyproj.CRS | None:
    """The CRS of a grid as geopandas wants it."""
    return None if grid.crs is None else pyproj.CRS.from_user_input(grid.crs)


def areas_m2(
    geometries: Sequence[Any] | NDArray[np.object_], crs: CRS | None
) -> NDArray[np.float64]:
    """True areas (m2), shape (N,): planar where the projection is true to area, else geodesic."""
    geometries = np.asarray(geometries, dtype=object)
    if geometries.size == 0:
        return np.zeros(0)
    bounds = tuple(float(value) for value in shapely.total_bounds(geometries))
    if crs is None or is_true_to_area(crs, bounds):  # type: ignore[arg-type]
        return np.asarray(shapely.area(geometries)) * linear_unit_m(crs) ** 2
    to_wgs84 = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(crs), 4326, always_xy=True)
    lonlat = shapely.transform(geometries, to_wgs84.transform, interleaved=False)
    # One sense of rotation, or the parts of a polygon would cancel.
    oriented = shapely.normalize(lonlat)
    return np.array([abs(WGS84.geometry_area_perimeter(shape)[0]) for shape in oriented])


def rasterised(
    geometries: Sequence[Any] | NDArray[np.object_], grid: Grid, window: Window
) -> NDArray[np.bool_]:
    """Pixels of a window whose middle lies in a polygon, shape (height, width)."""
    return _burnt(geometries, np.ones(len(geometries), np.uint8), grid, window).astype(bool)


def _burnt(
    geometries: Sequence[Any] | NDArray[np.object_],
    values: NDArray[Any],
    grid: Grid,
    window: Window,
) -> NDArray[Any]:
    """The value of the last polygon that holds the middle of a pixel, 0 where none does."""
    own = grid.crop(window)
    box = shapely.box(*own.footprint().bounds)
    touching = [at for at, shape in enumerate(geometries) if shape.intersects(box)]
    if not touching:
        return np.zeros(own.shape, dtype=values.dtype)
    # In whole pixels from the window's corner, vertices rounded: an edge through the middle of a
    # pixel then falls to the same side whatever the window.
    to_pixels, corner = ~grid.transform, (window.col, window.row)
    in_pixels = shapely.transform(
        np.array([geometries[at] for at in touching], dtype=object),
        lambda points: np.round(_mapped(to_pixels, points) * 2**20) / 2**20 - corner,
    )
    with without_position():
        burnt = rasterize(
            list(zip(in_pixels, values[touching].tolist(), strict=True)),
            out_shape=own.shape,
            dtype=values.dtype.name,
        )
    return np.asarray(burnt)


def _mapped(transform: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c, d, e, f = transform[:6]
    x, y = points.T
    return np.column_stack([a * x + b * y + c, d * x + e * y + f])


class Area:
    """Polygons prepared to be rasterised window by window."""

    def __init__(self, geometries: Sequence[Any] | NDArray[np.object_], grid: Grid) -> None:
        """Index polygons in the CRS of `grid`."""
        self._tree = shapely.STRtree(list(geometries))
        self._grid = grid

    @property
    def extent(self) -> Window | None:
        """The pixels under the bounds of the polygons, or None where they lie elsewhere."""
        west, south, east, north = shapely.total_bounds(self._tree.geometries).tolist()
        return self._grid.window_of((west, south, east, north))

    def cut(self, ground: shapely.Polygon) -> Area:
        """What of it lies inside a polygon."""
        return Area(shapely.intersection(self._tree.geometries, ground), self._grid)

    def read(self, window: Window) -> NDArray[np.bool_]:
        """Pixels whose middle lies inside, shape (height, width)."""
        return rasterised(self._tree.geometries[self._near(window)], self._grid, window)

    def numbers(self, window: Window) -> NDArray[np.int32]:
        """Which polygon every pixel's middle lies in, shape (height, width).

        1 for the first polygon; the last one where several share a pixel; 0 for none.
        """
        found = self._near(window)
        numbers = (found + 1).astype(np.int32)
        return _burnt(self._tree.geometries[found], numbers, self._grid, window)

    def _near(self, window: Window) -> NDArray[np.int64]:
        """Numbers of the polygons near a window, in the order in which they were given."""
        box = shapely.box(*self._grid.crop(window).footprint().bounds)
        return np.sort(self._tree.query(box))


def write_layers(
    path: Path, layers: Mapping[str, gpd.GeoDataFrame], *, date: str | None = None
) -> None:
    """Write layers into one GeoPackage, with a fixed date so that bytes depend on content only.

    Args:
        path: GeoPackage to write, or to write more layers into.
        layers: By name; rows of a layer that is there already are added to it.
        date: Date to write into it (ISO 8601, milliseconds and Z); None: `FIXED_DATE`.
    """
    import pyogrio

    with fixed_date(date):
        for name, frame in layers.items():
            # Pictures without a position have no CRS, and that is said elsewhere.
            with nullcontext() if frame.crs else quietly(NO_CRS):
                pyogrio.write_dataframe(
                    frame,
                    path,
                    layer=name,
                    driver="GPKG",
                    append=path.exists(),
                    dataset_options=None if path.exists() else {"VERSION": GPKG_VERSION},
                    geometry_type="MultiPolygon",
                    promote_to_multi=True,
                )


REVIEWED = ("accepted", "edited", "rejected")
"""What `status` says of polygons that an analyst has seen."""


def refuse_reviewed(path: Path, *, what: Path) -> None:
    """Raise OutputError where a file holds reviewed polygons: no option replaces it.

    Nor is one replaced that another program holds open: what it has not written yet would be lost,
    and end in the new file.

    Args:
        path: GeoPackage.
        what: What would be replaced, the file or a folder around it, for the message.
    """
    import pyogrio

    for beside in ("-wal", "-journal"):
        if path.with_name(path.name + beside).exists():
            raise OutputError(
                f"Cannot replace {what}: another program holds {path.name} open, as "
                f"{path.name}{beside} shows. Close it there, or name another output."
            )
    try:
        reviewed = sum(_reviewed(path, layer) for layer in layer_names(str(path)))
    except pyogrio.errors.DataSourceError as error:
        raise OutputError(
            f"Cannot replace {what}: whether its landslides were reviewed cannot be read "
            f"({error}). Close it in other programs, or name another output."
        ) from error
    if reviewed:
        raise OutputError(
            f"Cannot replace {what}: {reviewed} of its landslides were reviewed, and "
            "reviewed work is never overwritten. Name another output."
        )


def _reviewed(path: Path, layer: str) -> int:
    """How many polygons of a layer an analyst has seen."""
    import pyogrio

    if "status" not in pyogrio.read_info(path, layer=layer)["fields"]:
        return 0
    status = pyogrio.read_dataframe(path, layer=layer, columns=["status"], read_geometry=False)
    return int(has_status(status, REVIEWED).sum())


def has_status(frame: pd.DataFrame, known: Sequence[str]) -> NDArray[np.bool_]:
    """Which polygons have one of some states of review, shape (N,); capitals do not matter.

    Args:
        frame: With the column `status`, or without: then none has any.
        known: States in small letters; an empty one is that of polygons without.
    """
    if "status" not in frame:
        return np.zeros(len(frame), dtype=bool)
    status = frame["status"].fillna("").astype(str).str.strip().str.lower()
    return np.asarray(status.isin(known), dtype=bool)


def date_written(date: str | None) -> str:
    """When GeoPackages say that they were written; as in GDAL, the environment decides."""
    return os.environ.get("OGR_CURRENT_DATE", date or FIXED_DATE)


@contextmanager
def fixed_date(date: str | None) -> Iterator[None]:
    """Write GeoPackages with one date (ISO 8601); None: `FIXED_DATE`."""
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": date_written(date)})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
