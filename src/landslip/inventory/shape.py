"""How large and how long landslides are, and which way they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip.geo.grid import WGS84, linear_unit_m, to_lonlat
from landslip.geo.inventory import areas_m2
from landslip.inventory.spool import Polygons

Floats = NDArray[np.float64]
SCALE_TOLERANCE = 0.005
"""How far lengths of a CRS may be from true ones before they are corrected."""


def shape_columns(
    polygons: Polygons, crs: CRS | None, aspect_deg: Floats | None = None
) -> dict[str, NDArray[Any]]:
    """Columns of size and shape, shape (N,) each.

    Length and width are those along the slope and across where `aspect_deg` is known, and those of
    the smallest rectangle around the landslide elsewhere; `length_along` says which.

    Args:
        polygons: Landslides.
        crs: Their coordinates; None: metres.
        aspect_deg: Direction of the slope (degrees clockwise from the CRS's north), NaN where it
            is not known.

    Source: compactness 4 pi A / P^2 (Polsby and Popper 1991).
    """
    area = areas_m2(polygons, crs)
    metres = in_metres(polygons, crs)
    perimeter = np.asarray(shapely.length(metres))
    length, width, orientation = _of_rectangle(metres)
    known = np.zeros(len(polygons), dtype=np.bool_)
    if aspect_deg is not None:
        known |= np.isfinite(aspect_deg)
        along, across = _extents(metres[known], aspect_deg[known])
        length[known], width[known], orientation[known] = along, across, aspect_deg[known] % 180
    round_wide = 4 * np.pi * area / np.maximum(perimeter, 1e-9) ** 2
    columns: dict[str, NDArray[Any]] = {
        "area_m2": np.round(area, 3),
        "perimeter_m": np.round(perimeter, 2),
        "length_m": np.round(length, 2),
        "width_m": np.round(width, 2),
        "length_width_ratio": np.round(length / np.maximum(width, 1e-9), 3),
        "length_along": np.where(known, "slope", "rectangle").astype(object),
        "compactness": np.round(np.minimum(round_wide, 1), 4),
        "orientation_deg": np.round(orientation, 1) % 180,
    }
    if crs is not None:
        lon, lat = to_lonlat(crs, *shapely.get_coordinates(shapely.centroid(polygons)).T)
        columns |= {"lon": np.round(lon, 7), "lat": np.round(lat, 7)}
    return columns


def in_metres(polygons: Polygons, crs: CRS | None) -> Polygons:
    """Polygons in metres on the ground, each around its own middle; axes stay as they are.

    In a projection that is true within half a per cent, coordinates are only brought to metres.
    """
    if not polygons.size:
        return polygons
    middles = shapely.get_coordinates(shapely.centroid(polygons))
    scales = metres_per_unit(middles, crs)
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    moved: Polygons = shapely.set_coordinates(
        polygons.copy(), (xy - middles[owner]) * scales[owner]
    )
    return moved


def metres_per_unit(points: Floats, crs: CRS | None) -> Floats:
    """True metres in one unit of x and of y, shape (N, 2), at points of shape (N, 2)."""
    unit = linear_unit_m(crs)
    if crs is None or not len(points):
        return np.full((len(points), 2), unit)
    step = 1e-4 if crs.is_geographic else 10.0 / unit
    scales = np.empty((len(points), 2))
    for axis in (0, 1):
        half = np.zeros(2)
        half[axis] = step / 2
        before, after = points - half, points + half
        _, _, distance = WGS84.inv(*to_lonlat(crs, *before.T), *to_lonlat(crs, *after.T))
        scales[:, axis] = np.asarray(distance) / step
    if not crs.is_geographic:
        true = np.abs(scales / unit - 1).max(axis=1) <= SCALE_TOLERANCE
        scales[true] = unit
    return scales


def _of_rectangle(metres: Polygons) -> tuple[Floats, Floats, Floats]:
    """Long side, short side (m) and azimuth of the long one (0 to 180 degrees)."""
    if not metres.size:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    corners = shapely.get_coordinates(shapely.oriented_envelope(metres)).reshape(-1, 5, 2)
    sides = np.diff(corners[:, :3], axis=1)
    lengths = np.hypot(*np.moveaxis(sides, -1, 0))
    longer = lengths.argmax(axis=1)
    rows = np.arange(len(sides))
    dx, dy = sides[rows, longer].T
    return lengths[rows, longer], lengths[rows, 1 - longer], np.degrees(np.arctan2(dx, dy)) % 180


def _extents(metres: Polygons, azimuth_deg: Floats) -> tuple[Floats, Floats]:
    """Extent of polygons along an azimuth and across it (m)."""
    if not metres.size:
        return np.zeros(0), np.zeros(0)
    xy, owner = shapely.get_coordinates(metres, return_index=True)
    east, north = np.sin(np.radians(azimuth_deg)), np.cos(np.radians(azimuth_deg))
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    extents = []
    for x, y in ((east, north), (north, -east)):
        along = xy[:, 0] * x[owner] + xy[:, 1] * y[owner]
        extents.append(np.maximum.reduceat(along, starts) - np.minimum.reduceat(along, starts))
    return extents[0], extents[1]
