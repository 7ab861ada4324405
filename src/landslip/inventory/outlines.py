"""From a probability raster to polygons, strip by strip, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes

from landslip.geo.grid import Grid, Window
from landslip.geo.probability import UNKNOWN_CODE, threshold_code
from landslip.geo.quiet import without_position
from landslip.inventory.coverage import Simplifier, without_small_holes
from landslip.inventory.pixels import Coded, in_strips, strip_windows
from landslip.inventory.spool import Polygons, Spool

ROUNDING = 2.0**20
"""Vertices are rounded to 1/ROUNDING px, so that both sides of a seam give the same ones."""
GROUP = 20_000
"""Polygons that lie in memory together."""
NONE = np.array([], dtype=object)
"""No polygons."""


@dataclass(frozen=True)
class Strip:
    """Polygons of some rows, and the lines along which they continue in other strips."""

    polygons: Polygons
    """In pixels of the whole raster: x = column, y = row."""
    bottom: float | None
    """Row coordinate of the seam to the next strip; None for the last one."""
    unknown: Polygons
    """What is cut off polygons once they are joined: ground that was not observed, and beyond."""


def landslide_polygons(
    scene: Coded,
    threshold: float,
    *,
    outline: str = "contour",
    min_area_m2: float = 0.0,
    min_hole_m2: float = 0.0,
    simplify_m: float = 0.0,
    strip_rows: int | None = None,
    group: int = GROUP,
) -> Iterator[Polygons]:
    """Outlines of the ground at or above a threshold, some at a time.

    What waits lies on the disk, beside the raster.

    Args:
        scene: A written probability raster, band `probability`.
        threshold: 0 to 1.
        outline: `contour`: between pixel centres, by linear interpolation; `pixels`: along pixel
            edges.
        min_area_m2: Of polygons that are wanted. Smaller ones are left out where that is cheap, so
            that a noisy map does not fill the memory; others are still among those returned.
        min_hole_m2: Holes that are kept; smaller ones over observed ground are filled.
        simplify_m: How far outlines may move, to have fewer vertices (m); none comes to lie over
            another.
        strip_rows: Rows of a strip; None: as many as 4 million pixels.
        group: Polygons that are given at once.

    Yields:
        Polygons in CRS coordinates, sorted from the top left, valid, clipped to observed ground.

    Source: marching squares (Lorensen and Cline 1987 in two dimensions), by contourpy.
    """
    grid = scene.grid
    cut = threshold_code(threshold)
    is_square = outline == "pixels"
    strip_of = partial(_square_strip, with_unknown=min_hole_m2 > 0) if is_square else _contour_strip
    windows = strip_windows(grid, strip_rows)
    strips = in_strips(lambda window: strip_of(scene, cut, window), windows)
    # Pixels of a grid in degrees are not all alike, and what is clipped only becomes smaller.
    pixel_m = grid.pixel_size_m
    least_px = 0.5 * min_area_m2 / pixel_m**2
    simplified = Simplifier(simplify_m / pixel_m) if simplify_m or min_hole_m2 else None
    with Spool(Path(scene.path).parent) as spool:
        for polygons, unknown in _joined_with_unknown(strips, is_square=is_square):
            large = polygons[shapely.area(polygons) >= least_px]
            large = without_small_holes(large, min_hole_m2 / pixel_m**2)
            spool.add(_clipped(large, unknown, grid))
        for polygons in spool.groups(group):
            yield to_crs(simplified(polygons) if simplified else polygons, grid)


def _contour_strip(scene: Coded, cut: int, strip: Window) -> Strip:
    """Filled contours between pixel centres; strips meet on the centre line of a pixel row."""
    height, width = scene.grid.shape
    top, stop = strip.row, strip.row_stop
    last = stop == height
    bottom = None if last else float(stop - 0.5)
    # Centre rows top - 1 .. stop - 1; the outermost are the edge, repeated. One row more on
    # both sides, so that ground beside nodata is filled alike on both sides of a seam.
    wanted = np.arange(top - 2, stop + (2 if last else 1))
    first, final = max(top - 2, 0), min(stop + 1, height)
    codes = scene.read(Window(first, 0, final - first, width))
    here = codes[top - first : stop - first] == UNKNOWN_CODE
    unknown = pixel_strip(here, strip, scene.grid).polygons
    if not ((codes >= cut) & (codes != UNKNOWN_CODE)).any():
        return Strip(NONE, bottom, unknown)
    codes = codes[np.clip(wanted, 0, height - 1) - first]
    codes = np.pad(codes, ((0, 0), (1, 1)), mode="edge")
    z = _filled_beside_unknown(codes)[1:-1]
    y = wanted[1:-1] + 0.5
    # On a whole number of codes + .5, a contour never runs along a stored level.
    generator = contourpy.contour_generator(
        np.arange(-1, width + 1) + 0.5, y, z,
        fill_type=contourpy.FillType.ChunkCombinedOffsetOffset,
    )  # fmt: skip
    filled: Any = generator.filled(cut - 0.5, 1e6)
    (points,), (rings,), (polygons,) = filled
    if points is None:
        return Strip(NONE, bottom, unknown)
    points = np.round(points * ROUNDING) / ROUNDING
    found = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (rings, polygons))
    return Strip(_valid_parts(found), bottom, unknown)


def _filled_beside_unknown(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Replicate known codes one pixel into unknown ground; 0 further inside."""
    known = codes != UNKNOWN_CODE
    z = np.where(known, codes, 0).astype(np.float32)
    if known.all():
        return z
    total, count = np.zeros_like(z), np.zeros_like(z)
    padded_z, padded_known = np.pad(z, 1), np.pad(known, 1)
    height, width = codes.shape
    for row in range(3):
        for col in range(3):
            part = slice(row, row + height), slice(col, col + width)
            total += padded_z[part]
            count += padded_known[part]
    return np.where(known, z, total / np.maximum(count, 1)).astype(np.float32)


def _square_strip(scene: Coded, cut: int, window: Window, *, with_unknown: bool) -> Strip:
    """Outlines along pixel edges; what is unknown is cut off only where holes are filled."""
    codes = scene.read(window)
    strip = pixel_strip((codes >= cut) & (codes != UNKNOWN_CODE), window, scene.grid)
    if not with_unknown:
        return strip
    unknown = pixel_strip(codes == UNKNOWN_CODE, window, scene.grid).polygons
    return replace(strip, unknown=unknown)


def pixel_strip(marked: NDArray[np.bool_], window: Window, grid: Grid) -> Strip:
    """The marked pixels of a strip as polygons along pixel edges."""
    if marked.all():
        found = np.array([shapely.box(0, window.row, grid.width, window.row_stop)], dtype=object)
    else:
        polygons = pixel_polygons(marked.astype(np.uint8), window.row, 0) if marked.any() else {}
        found = polygons.get(1, NONE)
    return Strip(found, None if window.row_stop == grid.height else float(window.row_stop), NONE)


def pixel_polygons(classes: NDArray[np.uint8], row: int, col: int) -> dict[int, Polygons]:
    """Outlines along pixel edges of every class but 0; 4-connected, as 8 gives invalid rings.

    Args:
        classes: Shape (H, W).
        row: First row in the whole raster.
        col: First column in the whole raster.
    """
    found: dict[int, list[Any]] = {}
    shift = Affine.translation(col, row)
    with without_position():
        traced = list(shapes(classes, mask=classes != 0, connectivity=4, transform=shift))
    for geometry, value in traced:
        found.setdefault(int(value), []).append(shapely.geometry.shape(geometry))
    return {value: np.array(polygons, dtype=object) for value, polygons in found.items()}


def join_strips(strips: Iterable[Strip], *, is_square: bool) -> Iterator[tuple[Polygons, float]]:
    """Unite polygons across seams; after each strip, pass on what can no longer grow.

    Args:
        strips: From the top.
        is_square: True for outlines along pixel edges, where seams leave vertices that are no
            corners.

    Yields:
        Finished polygons, and the least row coordinate that those to come may have.
    """
    waiting = NONE
    for strip in strips:
        polygons = strip.polygons
        if waiting.size:
            # Only what touches the seam can grow.
            seam = float(shapely.bounds(waiting)[:, 3].max())
            touches = _bounds(polygons)[:, 1] <= seam
            united = _united(waiting, polygons[touches])
            if is_square:
                united = np.array([_with_corners_only(each) for each in united], dtype=object)
            polygons = np.concatenate([united, polygons[~touches]])
        bottom = np.inf if strip.bottom is None else strip.bottom
        grows = _bounds(polygons)[:, 3] >= bottom
        waiting = polygons[grows]
        yield polygons[~grows], min([bottom, *_bounds(waiting)[:, 1]])


def _bounds(polygons: Polygons) -> NDArray[np.float64]:
    """Shape (N, 4), for no polygons, too."""
    return np.asarray(shapely.bounds(polygons)).reshape(-1, 4)


def _with_corners_only(polygon: shapely.Polygon) -> shapely.Polygon:
    """Without vertices inside straight edges along rows and columns."""
    rings = []
    for ring in (polygon.exterior, *polygon.interiors):
        xy = shapely.get_coordinates(ring)[:-1]
        straight = (np.roll(xy, 1, axis=0) == xy) & (xy == np.roll(xy, -1, axis=0))
        rings.append(xy[~straight.any(axis=1)])
    return shapely.Polygon(rings[0], rings[1:])


def _joined_with_unknown(
    strips: Iterable[Strip], *, is_square: bool
) -> Iterator[tuple[Polygons, Polygons]]:
    """Finished polygons, and what is not observed where they lie."""
    near: list[Polygons] = []

    def noted() -> Iterator[Strip]:
        for strip in strips:
            near.append(strip.unknown)
            yield strip

    for polygons, least in join_strips(noted(), is_square=is_square):
        yield polygons, np.concatenate(near)
        near[:] = [pieces[_bounds(pieces)[:, 3] > least] for pieces in near]


def _united(above: Polygons, below: Polygons) -> Polygons:
    """Polygons on both sides of a seam; those that touch across it become one.

    Group by group: to unite all at once would compare every edge along the seam with all others.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = shapely.STRtree(below).query(above, predicate="intersects")
    number = len(above) + len(below)
    pairs = coo_array((np.ones(len(one)), (one, len(above) + other)), shape=(number, number))
    groups = connected_components(pairs, directed=False)[1]
    order = np.argsort(groups, kind="stable")
    members = np.split(np.concatenate([above, below])[order], np.cumsum(np.bincount(groups))[:-1])
    alone = [group[0] for group in members if len(group) == 1]
    united = [shapely.union_all(group) for group in members if len(group) > 1]
    return np.concatenate(
        [np.array(alone, dtype=object), _valid_parts(np.array(united, dtype=object))]
    )


def _clipped(polygons: Polygons, unknown: Polygons, grid: Grid) -> Polygons:
    """Cut what reaches beyond the raster or into unknown ground (contours are padded there)."""
    if not polygons.size:
        return polygons
    west, north, east, south = _bounds(polygons).T
    out = (west < 0) | (north < 0) | (east > grid.width) | (south > grid.height)
    cut = polygons.copy()
    cut[out] = shapely.intersection(polygons[out], shapely.box(0, 0, grid.width, grid.height))
    tree = shapely.STRtree(unknown)
    which, hidden = tree.query(cut, predicate="intersects")
    numbers, starts = np.unique(which, return_index=True)
    for number, pieces in zip(numbers, np.split(hidden, starts)[1:], strict=True):
        cut[number] = cut[number].difference(shapely.union_all(tree.geometries[pieces]))
    is_whole = ~out
    is_whole[numbers] = False
    return np.concatenate([cut[is_whole], _valid_parts(cut[~is_whole])])


def _valid_parts(shapes_: Polygons) -> Polygons:
    """Single valid polygons with an area."""
    valid = np.where(shapely.is_valid(shapes_), shapes_, shapely.make_valid(shapes_))
    parts = shapely.get_parts(shapely.get_parts(valid))
    chosen = (shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0)
    return np.asarray(parts[chosen], dtype=object)


def to_crs(polygons: Polygons, grid: Grid) -> Polygons:
    """From pixel coordinates to those of the grid's CRS."""
    transform = grid.transform
    coefficients = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    shift = np.array([transform.c, transform.f])
    moved: Polygons = shapely.transform(polygons, lambda xy: xy @ coefficients + shift)
    return shapely.orient_polygons(moved) if hasattr(shapely, "orient_polygons") else moved
