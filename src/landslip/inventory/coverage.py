"""Outlines made simpler: small holes filled, fewer vertices, and still none over another."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.inventory.spool import Polygons


def without_small_holes(polygons: Polygons, least: float) -> Polygons:
    """Fill the holes that are smaller than an area, in units of the coordinates, squared."""
    if least <= 0 or not polygons.size:
        return polygons
    rings, owner = shapely.get_rings(polygons, return_index=True)
    is_hole = np.r_[False, owner[1:] == owner[:-1]]
    small = is_hole & (shapely.area(shapely.polygons(rings)) < least)
    filled = polygons.copy()
    for number in np.unique(owner[small]):
        own = slice(*np.searchsorted(owner, [number, number + 1]))
        shell, *holes = rings[own][~small[own]]
        filled[number] = shapely.Polygon(shell, holes)
    return filled


class Simplifier:
    """Takes vertices out of polygons, which come some at a time, from the top.

    Lines that two polygons share stay shared, and none comes to lie over another: of what would,
    the later one is cut. A polygon within an earlier one, as in a hole that was filled, is gone.

    Source: Visvalingam and Whyatt 1993, The Cartographic Journal 30(1), as GEOS applies it to
        coverages (shapely.coverage_simplify).
    """

    def __init__(self, tolerance: float) -> None:
        """Start.

        Args:
            tolerance: About how far an outline may move, in units of the coordinates; 0: not at
                all. Its square is the largest triangle that is cut off or filled.
        """
        self._tolerance = tolerance
        self._open = np.array([], dtype=object)

    def __call__(self, polygons: Polygons) -> Polygons:
        """The polygons of one group, simplified.

        Args:
            polygons: Sorted by their least y, and none before those of the group before.
        """
        if not polygons.size:
            return polygons
        simple = polygons
        if self._tolerance > 0:
            # What is taken out depends on where a ring begins; seams of strips must not decide.
            polygons = shapely.normalize(polygons)
            simple = shapely.coverage_simplify(polygons, self._tolerance)
            usable = shapely.is_valid(simple) & (shapely.get_type_id(simple) == 3)
            simple = np.where(usable & (shapely.area(simple) > 0), simple, polygons)
        simple = self._apart(simple)
        known = np.concatenate([self._open, simple])
        # Those to come begin no higher than the last of these.
        last = shapely.bounds(polygons)[-1, 1] - self._tolerance
        self._open = known[shapely.bounds(known).reshape(-1, 4)[:, 3] > last]
        return simple

    def _apart(self, polygons: Polygons) -> Polygons:
        """Cut off what lies in earlier ones."""
        known = np.concatenate([self._open, polygons])
        later = np.arange(len(self._open), len(known))
        one, other = shapely.STRtree(known).query(polygons, predicate="intersects")
        one = later[one]
        before = other < one
        one, other = one[before], other[before]
        over = ~shapely.touches(known[one], known[other])
        cut = known.copy()
        for number, others in _groups(one[over], other[over]):
            cut[number] = known[number].difference(shapely.union_all(known[others]))
        parts = shapely.get_parts(cut[later])
        is_area = (shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0)
        return np.asarray(parts[is_area], dtype=object)


def _groups(
    keys: NDArray[np.int64], values: NDArray[np.int64]
) -> list[tuple[int, NDArray[np.int64]]]:
    """The values of every key."""
    order = np.argsort(keys, kind="stable")
    numbers, starts = np.unique(keys[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(values[order], starts)[1:], strict=True))
