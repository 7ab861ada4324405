"""How far landslides lie from rivers, roads, buildings and the like."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from landslip.geo.errors import DataError, UsageError
from landslip.geo.inventory import layer_names
from landslip.inventory.spool import Polygons

log = logging.getLogger(__name__)

Geometries = NDArray[np.object_]
Bounds = tuple[float, float, float, float]
"""West, south, east, north."""

REACH_M = 100_000.0
"""How far from the map things are looked for; distances end here."""
SEGMENTS = 8
"""Segments of a line that are searched as one: a river is near many landslides at once."""
STRAIGHT_M = 1000.0
"""Longer segments get vertices before they are moved into another projection."""
POINT, LINE, POLYGON, MULTI = 0, 1, 3, 4
"""Shapely's numbers of kinds; collections begin at the last."""


@dataclass(frozen=True, eq=False)
class Near:
    """The points, lines and areas of one file around a map."""

    name: str
    """What they are, in the names of columns."""
    geometries: Geometries
    """Points, and lines and edges of areas by few segments, in the inventory's CRS, shape (N,)."""
    can_cross: NDArray[np.bool_]
    """Which of them are of lines, shape (N,)."""
    areas: Geometries
    """Areas in the local plane, shape (M,)."""
    crs: pyproj.CRS | None
    """Of the inventory; None: metres."""
    plane: pyproj.CRS | None
    """True to distance around the middle of the map (m)."""

    @classmethod
    def open(cls, text: str, crs: pyproj.CRS | None, bounds: Bounds) -> Near:
        """Read what lies around a map.

        Args:
            text: `FILE` or `NAME=FILE`, of any OGR format and in any CRS; `FILE|layername=LAYER`
                names a layer. Without a name, it is that of the layer or else of the file.
            crs: Of the map and its inventory; None: metres.
            bounds: Of the map.

        Raises:
            DataError: No such file or layer, no CRS where one is needed, or nothing within 100 km.
        """
        name, file, layer = _parted(text)
        own, layer = _crs_and_layer(file, layer)
        _require_same_kind_of_crs(file, own, crs)
        plane = None if crs is None else _plane_around(crs, bounds)
        reach = _reach(bounds, _transformer(crs, plane))
        parts = _simple(_read(file, layer, _bounds_in(reach, _transformer(plane, own))))
        to_plane = _transformer(own, plane)
        pieces, can_cross = _pieces(parts)
        near = _meets(_moved(pieces, to_plane), reach)
        areas = _moved(parts[shapely.get_type_id(parts) == POLYGON], to_plane)
        areas = areas[_meets(areas, reach)]
        if not near.any() and not areas.size:
            raise DataError(
                f"Cannot measure distances to {file}: nothing in it lies within "
                f"{REACH_M / 1000:.0f} km of the map. Name a file that covers it."
            )
        to_map = _transformer(own, crs)
        if to_map is not None and own is not None:
            log.info("%s: reprojected from %s", Path(file).name, own.to_string())
        placed = _moved(pieces[near], to_map)
        return cls(name, placed, can_cross[near], areas, crs, plane)

    def columns(self, polygons: Polygons, tolerance_m: float) -> dict[str, NDArray[np.generic]]:
        """Columns of the inventory, shape (N,) each.

        `distance_to_NAME_m` is 0 where they touch and at most 100 km; `touches_NAME` tells which
        lie nearer than the tolerance; `crosses_NAME`, for lines only, where one runs through the
        inside.

        Args:
            polygons: Landslides in the inventory's CRS.
            tolerance_m: How far apart what touches may lie on the map (m), such as one pixel.
        """
        landslide, other = self._tree.query(polygons, predicate="intersects")
        distance = np.full(len(polygons), np.nan)
        distance[landslide] = 0
        distance[self._inside_areas(polygons)] = 0
        apart = np.isnan(distance)
        distance[apart] = self._distances(polygons[apart])
        columns: dict[str, NDArray[np.generic]] = {
            f"distance_to_{self.name}_m": np.round(np.minimum(distance, REACH_M), 1),
            f"touches_{self.name}": (distance == 0) | (distance < tolerance_m),
        }
        if self.can_cross.any():
            lines = self.can_cross[other]
            landslide, other = landslide[lines], other[lines]
            # Of those that meet, the inside of one holds a part of the other, or they touch.
            through = ~shapely.touches(polygons[landslide], self.geometries[other])
            crossed = np.zeros(len(polygons), dtype=bool)
            crossed[landslide[through]] = True
            columns[f"crosses_{self.name}"] = crossed
        return columns

    def _inside_areas(self, polygons: Polygons) -> NDArray[np.int64]:
        """Landslides that begin inside an area: those that do not, and meet it, meet its edge."""
        if not self.areas.size:
            return np.zeros(0, dtype=np.int64)
        parts, owner = shapely.get_parts(polygons, return_index=True)
        first = shapely.get_point(shapely.get_exterior_ring(parts), 0)
        tree = shapely.STRtree(_moved(first, _transformer(self.crs, self.plane)))
        _, found = tree.query(self.areas, predicate="intersects")
        inside: NDArray[np.int64] = owner[np.unique(found)]
        return inside

    def _distances(self, polygons: Polygons) -> NDArray[np.float64]:
        """Distances to what is nearest (m), shape (N,)."""
        moved = _moved(polygons, _transformer(self.crs, self.plane))
        (landslide, _), found = self._tree_in_plane.query_nearest(
            moved, all_matches=False, return_distance=True
        )
        distances = np.full(len(polygons), REACH_M)
        distances[landslide] = found
        return distances

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.geometries)

    @cached_property
    def _tree_in_plane(self) -> shapely.STRtree:
        unit = 1.0 if self.crs is None else self.crs.axis_info[0].unit_conversion_factor
        if self.crs is not None and self.crs.is_geographic:
            unit *= pyproj.Geod(ellps="WGS84").a
        bent = shapely.segmentize(self.geometries, STRAIGHT_M / unit)
        return shapely.STRtree(_moved(bent, _transformer(self.crs, self.plane)))


def open_all(texts: Iterable[str], crs: pyproj.CRS | None, bounds: Bounds) -> tuple[Near, ...]:
    """Read several files, each with a name of its own.

    Args:
        texts: `FILE` or `NAME=FILE`.
        crs: Of the map, as for `Near.open`.
        bounds: Of the map.

    Raises:
        UsageError: Two have the same name.
        DataError: As for `Near.open`.
    """
    files: dict[str, str] = {}
    for text in texts:
        name, file, _ = _parted(text)
        # Formats such as GeoPackage do not tell capitals from small letters.
        other = files.setdefault(name.lower(), file)
        if other is not file:
            raise UsageError(
                f"Cannot measure distances to {other} and {file}: columns of both would be named "
                f"{name}. Write NAME=FILE for one of them."
            )
    return tuple(Near.open(text, crs, bounds) for text in texts)


def _parted(text: str) -> tuple[str, str, str]:
    """Name, file and layer of `NAME=FILE|layername=LAYER`; the layer may be empty."""
    named = re.match(r"(\w+)=", text)
    file, _, layer = text[named.end() if named else 0 :].partition("|layername=")
    if named:
        return named[1], file, layer
    return re.sub(r"\W", "_", (layer or Path(file).stem).lower()), file, layer


def _crs_and_layer(file: str, layer: str) -> tuple[pyproj.CRS | None, str]:
    """CRS of the layer that is asked for, or of the only one, and its name."""
    import pyogrio

    if "://" not in file and not file.startswith("/vsi") and not Path(file).exists():
        raise DataError(
            f"Cannot measure distances to {file}: there is no such file. Check its name and folder."
        )
    try:
        names = layer_names(file)
        layer = layer or (names[0] if len(names) == 1 else "")
        if layer not in names:
            raise DataError(
                f"Cannot choose a layer of {file}: it has {', '.join(names) or 'none'}. "
                f"Write {file}|layername=NAME."
            )
        crs = pyogrio.read_info(file, layer=layer)["crs"]
    except pyogrio.errors.DataSourceError as error:
        raise DataError(
            f"Cannot measure distances to {file}: it is not a vector file that GDAL can read. "
            "Export it as GeoPackage."
        ) from error
    return None if crs is None else pyproj.CRS.from_user_input(crs), layer


def _require_same_kind_of_crs(file: str, own: pyproj.CRS | None, crs: pyproj.CRS | None) -> None:
    if own is None and crs is not None:
        raise DataError(
            f"Cannot measure distances to {file}: it has no coordinate reference system, the map "
            f"has {crs.to_string()}. Assign one (ogr2ogr -a_srs)."
        )
    if own is not None and crs is None:
        raise DataError(
            f"Cannot measure distances to {file} ({own.to_string()}): the map has no coordinate "
            "reference system. Assign one to the scene (gdal_edit.py -a_srs)."
        )


def _read(file: str, layer: str, bounds: Bounds | None) -> Geometries:
    """Geometries of a layer that may lie in bounds, given in its CRS; None: all."""
    import pyogrio

    frame = pyogrio.read_dataframe(file, layer=layer, columns=[], bbox=bounds)
    return np.asarray(frame.geometry.values)


def _simple(geometries: Geometries) -> Geometries:
    """Flat points, lines and polygons, without what is empty."""
    parts = shapely.force_2d(geometries)
    while (shapely.get_type_id(parts) >= MULTI).any():
        parts = shapely.get_parts(parts)
    kept: Geometries = parts[~(shapely.is_missing(parts) | shapely.is_empty(parts))]
    return kept


def _pieces(parts: Geometries) -> tuple[Geometries, NDArray[np.bool_]]:
    """Points, cut lines and cut edges of areas, shape (N,); and which are of lines."""
    kinds = shapely.get_type_id(parts)
    points, lines = parts[kinds == POINT], _cut(parts[kinds == LINE])
    edges = _cut(shapely.get_rings(parts[kinds == POLYGON]))
    pieces = np.concatenate([points, lines, edges])
    of_lines = np.repeat([False, True, False], [len(points), len(lines), len(edges)])
    is_line = shapely.get_type_id(pieces) == LINE
    # Lines without length are points, and GEOS cannot segmentize them.
    short = is_line & (shapely.length(pieces) == 0)
    pieces[short] = shapely.get_point(pieces[short], 0)
    return pieces, of_lines & ~short


def _cut(lines: Geometries) -> Geometries:
    """Lines or rings as lines of at most `SEGMENTS` segments, in their order."""
    if not lines.size:
        return lines
    xy, line = shapely.get_coordinates(lines, return_index=True)
    first = np.flatnonzero(np.r_[True, line[1:] != line[:-1]])
    last = np.r_[first[1:], len(line)] - 1
    place = np.arange(len(line)) - first[line]
    # Where a piece ends and another begins, both have the vertex.
    both = (place > 0) & (place % SEGMENTS == 0)
    both[last] = False
    begins = both.copy()
    begins[first] = True
    piece = np.cumsum(begins) - 1
    twice = np.repeat(np.arange(len(line)), both + 1)
    owner = piece[twice]
    owner[np.flatnonzero(both) + np.arange(both.sum())] -= 1
    return np.asarray(shapely.linestrings(xy[twice], indices=owner))


def _meets(geometries: Geometries, bounds: Bounds) -> NDArray[np.bool_]:
    """Which have bounds that meet others, shape (N,)."""
    west, south, east, north = own = shapely.bounds(geometries).reshape(-1, 4).T
    across = (west <= bounds[2]) & (east >= bounds[0])
    along = (south <= bounds[3]) & (north >= bounds[1])
    meets: NDArray[np.bool_] = across & along & np.isfinite(own).all(axis=0)
    return meets


def _plane_around(crs: pyproj.CRS, bounds: Bounds) -> pyproj.CRS:
    """A plane that is true to distance from the middle of bounds, and nearly so for 500 km."""
    west, south, east, north = bounds
    to_wgs84 = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = to_wgs84.transform((west + east) / 2, (south + north) / 2)
    return pyproj.CRS.from_dict(
        {"proj": "aeqd", "lon_0": lon, "lat_0": lat, "datum": "WGS84", "units": "m"}
    )


def _reach(bounds: Bounds, to_plane: pyproj.Transformer | None) -> Bounds:
    """Where things are looked for, in the local plane."""
    west, south, east, north = bounds if to_plane is None else to_plane.transform_bounds(*bounds)
    return west - REACH_M, south - REACH_M, east + REACH_M, north + REACH_M


def _bounds_in(bounds: Bounds, transformer: pyproj.Transformer | None) -> Bounds | None:
    """Bounds in another CRS; None where they are not one box there."""
    if transformer is None:
        return bounds
    west, south, east, north = transformer.transform_bounds(*bounds)
    one = bool(np.isfinite([west, south, east, north]).all()) and west <= east
    return (west, south, east, north) if one else None


def _transformer(crs: pyproj.CRS | None, target: pyproj.CRS | None) -> pyproj.Transformer | None:
    """From one CRS to another; None where they are the same."""
    if crs is None or target is None or crs.equals(target, ignore_axis_order=True):
        return None
    return pyproj.Transformer.from_crs(crs, target, always_xy=True)


def _moved(geometries: Geometries, transformer: pyproj.Transformer | None) -> Geometries:
    if transformer is None:
        return geometries
    return np.asarray(
        shapely.transform(
            geometries, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
        )
    )
