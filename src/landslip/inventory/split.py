"""Bodies of several landslides that grew together, cut at their necks."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.grid import Window
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE
from landslip.inventory.outlines import pixel_polygons, to_crs
from landslip.inventory.pixels import Coded, numbered
from landslip.inventory.relief import Terrain
from landslip.inventory.spool import Polygons

log = logging.getLogger(__name__)

NECK = 0.25
"""A body is cut where it is narrower than this share of the narrower part's greatest width."""
NECK_ACROSS = 0.5
"""The same, where the parts slope in directions more than `ACROSS_DEG` apart."""
NECK_BELOW = 0.15
"""The same, where one part lies below the other, as a flow below its source."""
ACROSS_DEG = 60.0
BELOW_DEG = 30.0
"""How far the line between two parts may be from the slope of both for one to lie below."""
FULL_SHAPE = 0.95
"""Share of its convex hull from which a body has no neck."""
SMALLEST_PX = 24.0
"""Area of a part at least (px)."""
SMALLEST_SHARE = 0.1
"""Area of a part beside another at least, as a share of the other's."""
LARGEST_PX = 25_000_000
"""Window of a body that is looked at (px); larger ones stay whole."""
STRAIGHT_PX = 2.0
"""Cuts are simplified by so much (px)."""


@dataclass
class _Pieces:
    """A body cut at every neck that may count, and how wide the necks are."""

    shapes: Polygons
    """In pixels of the map."""
    widest: list[float]
    """Greatest half width of each piece (px)."""
    necks: dict[tuple[int, int], float] = field(default_factory=dict)
    """Half width between two pieces (px), lower number first."""


def split_bodies(
    polygons: Polygons, scene: Coded, *, terrain: Terrain | None = None
) -> tuple[Polygons, NDArray[np.int64]]:
    """Cut bodies at their necks.

    Widths are distances from the outline, weighted by the probability, so that a seam of lower
    probability counts as a neck, too. With an elevation model, parts that slope in different
    directions are cut at wider necks, and a part below another one only at narrower ones.

    Args:
        polygons: In the CRS of the map.
        scene: The written probability raster.
        terrain: Elevation model.

    Returns:
        Landslides; and for each the number of its body in `polygons`, -1 where it is one.

    Source: distance transform and watershed (Meyer 1994, Signal Processing 38(1)), parts joined by
        the depth of the saddle between them.
    """
    bodies = {
        number: pieces
        for number in np.flatnonzero(_may_have_necks(polygons, scene)).tolist()
        if (pieces := _pieces(polygons[number], scene)) is not None
    }
    if terrain is not None and bodies:
        all_shapes = np.concatenate([pieces.shapes for pieces in bodies.values()])
        slopes = iter(terrain.measured(to_crs(all_shapes, scene.grid)).way_down_deg.tolist())
    found: list[Polygons] = []
    parents: list[int] = []
    for number in range(len(polygons)):
        parts = polygons[number : number + 1]
        if number in bodies:
            pieces = bodies[number]
            ways = [next(slopes) for _ in pieces.shapes] if terrain else None
            joined = _joined(pieces, ways)
            if len(joined) > 1:
                parts = to_crs(joined, scene.grid)
        found.append(parts)
        parents += [number if len(parts) > 1 else -1] * len(parts)
    return np.concatenate([*found, polygons[:0]]), np.array(parents, dtype=np.int64)


def _may_have_necks(polygons: Polygons, scene: Coded) -> NDArray[np.bool_]:
    """Bodies that are large enough to be two, and are not nearly convex."""
    if not polygons.size:
        return np.zeros(0, dtype=bool)
    pixel = abs(scene.grid.transform.determinant)
    area = shapely.area(polygons)
    hull = shapely.area(shapely.convex_hull(polygons))
    west, south, east, north = shapely.bounds(polygons).T
    too_large = (east - west) * (north - south) > LARGEST_PX * pixel
    if too_large.any():
        log.warning(
            "%d bodies are too large to be split and stay whole; the largest covers %.0f million "
            "pixels", too_large.sum(), area[too_large].max() / pixel / 1e6,
        )  # fmt: skip
    is_large = area >= 2 * SMALLEST_PX * pixel
    return np.asarray(is_large & (area < FULL_SHAPE * hull) & ~too_large)


def _pieces(polygon: shapely.Polygon, scene: Coded) -> _Pieces | None:
    """A body cut at its necks; None where it has none."""
    from scipy.ndimage import distance_transform_edt
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    window = scene.grid.window_of(polygon.bounds)
    if window is None:
        return None
    window = window.grown(1)
    inside = window.intersection(scene.grid.window)
    assert inside is not None
    codes = np.zeros((window.height, window.width), dtype=np.uint8)
    codes[inside.relative_to(window).slices] = scene.read(inside)
    is_body = numbered(np.array([polygon]), scene.grid.crop(window)) > 0
    if not is_body.any():
        return None
    certain = np.where(codes == UNKNOWN_CODE, 0, codes) / TOP_CODE
    width: NDArray[np.float64] = distance_transform_edt(is_body) * np.where(is_body, certain, 0)
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        width, min_distance=2, labels=is_body.astype(np.int32), exclude_border=False
    )
    if len(peaks) < 2:
        return None
    markers = np.zeros(width.shape, dtype=np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    basins = watershed(-width, markers, mask=is_body)  # type: ignore[no-untyped-call]
    names, widest, necks = _merged(basins, width)
    if len(widest) < 2:
        return None
    labels = names[basins]
    shapes = _cut(polygon, labels, window, scene)
    return None if shapes is None else _Pieces(shapes, widest, necks)


def _merged(
    basins: NDArray[np.int32], width: NDArray[np.float64]
) -> tuple[NDArray[np.int32], list[float], dict[tuple[int, int], float]]:
    """Basins joined where no neck lies between, and where they are too small.

    Returns:
        New name (1, 2, ...) by the name of a basin, 0 for 0; widest place of each; necks between.
    """
    number = int(basins.max()) + 1
    widest = np.zeros(number)
    np.maximum.at(widest, basins, width)
    sizes = np.bincount(basins.ravel(), minlength=number).astype(np.float64)
    graph = _Graph(widest.tolist(), sizes.tolist(), _saddles(basins, width))
    graph.join(lambda *_: NECK_ACROSS)
    graph.join(lambda *parts: 0.0 if graph.is_small(*parts) else np.inf)
    roots = [name for name in range(1, number) if graph.root(name) == name]
    new = {root: at for at, root in enumerate(roots)}
    names = np.array([0] + [new[graph.root(name)] + 1 for name in range(1, number)])
    necks = {(new[one], new[other]): neck for one, other, neck in graph.necks()}
    return names.astype(np.int32), [graph.widest[root] for root in roots], necks


def _saddles(basins: NDArray[np.int32], width: NDArray[np.float64]) -> dict[tuple[int, int], float]:
    """Greatest width at the border between every two basins."""
    found: dict[tuple[int, int], float] = {}
    for first, second in (
        (np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]), (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):  # fmt: skip
        one, other = basins[first], basins[second]
        border = (one != other) & (one > 0) & (other > 0)
        neck = np.minimum(width[first][border], width[second][border])
        pairs = zip(one[border].tolist(), other[border].tolist(), neck.tolist(), strict=True)
        for a, b, value in pairs:
            key = (a, b) if a < b else (b, a)
            found[key] = max(found.get(key, 0.0), value)
    return found


class _Graph:
    """Parts of a body and the necks between them; parts are joined, the widest neck first."""

    def __init__(
        self, widest: list[float], sizes: list[float], necks: dict[tuple[int, int], float]
    ) -> None:
        self.widest = widest
        self._sizes = sizes
        self._parent = list(range(len(widest)))
        self._beside: list[dict[int, float]] = [{} for _ in widest]
        for (one, other), neck in necks.items():
            self._beside[one][other] = self._beside[other][one] = neck

    def root(self, part: int) -> int:
        """The part that a part was joined to."""
        while self._parent[part] != part:
            self._parent[part] = self._parent[self._parent[part]]
            part = self._parent[part]
        return part

    def necks(self) -> list[tuple[int, int, float]]:
        """Parts, lower number first, and the half width between them (px)."""
        return [
            (one, other, neck)
            for one, beside in enumerate(self._beside)
            for other, neck in beside.items()
            if one < other
        ]

    def is_small(self, one: int, other: int) -> bool:
        """True where one of both is too small to be a landslide of its own."""
        small, large = sorted((self._sizes[one], self._sizes[other]))
        return small < max(SMALLEST_PX, SMALLEST_SHARE * large)

    def join(self, limit: Callable[[int, int], float]) -> None:
        """Join parts where the neck is at least a share of the narrower part's greatest width."""
        queue = [(-self._ratio(one, other), one, other) for one, other, _ in self.necks()]
        heapq.heapify(queue)
        while queue:
            ratio, one, other = heapq.heappop(queue)
            if other not in self._beside[one] or -ratio != self._ratio(one, other):
                continue  # joined meanwhile, or grown: it is queued anew
            if -ratio < limit(one, other):
                continue
            for next_to in self._join(one, other):
                first, second = min(one, next_to), max(one, next_to)
                heapq.heappush(queue, (-self._ratio(first, second), first, second))

    def _ratio(self, one: int, other: int) -> float:
        return self._beside[one][other] / max(min(self.widest[one], self.widest[other]), 1e-9)

    def _join(self, one: int, other: int) -> list[int]:
        """Make the second part one with the first; returns what lies beside."""
        self._parent[other] = one
        self.widest[one] = max(self.widest[one], self.widest[other])
        self._sizes[one] += self._sizes[other]
        for part, neck in self._beside[other].items():
            del self._beside[part][other]
            if part != one:
                neck = max(neck, self._beside[one].get(part, 0.0))
                self._beside[one][part] = self._beside[part][one] = neck
        self._beside[other] = {}
        return list(self._beside[one])


def _joined(pieces: _Pieces, ways_deg: list[float] | None) -> Polygons:
    """The pieces of a body, joined where the neck between them is too wide to be one.

    Args:
        pieces: All pieces.
        ways_deg: Direction downhill of each (degrees clockwise from north), NaN where unknown;
            None without an elevation model.
    """
    number = len(pieces.shapes)
    middles = shapely.get_coordinates(shapely.centroid(pieces.shapes))
    graph = _Graph(list(pieces.widest), [np.inf] * number, pieces.necks)

    def limit(one: int, other: int) -> float:
        if ways_deg is None or not np.isfinite([ways_deg[one], ways_deg[other]]).all():
            return NECK
        if _apart(ways_deg[one], ways_deg[other]) > ACROSS_DEG:
            return NECK_ACROSS
        right, down = middles[other] - middles[one]
        line = np.degrees(np.arctan2(right, -down))
        apart = [
            min(_apart(line, way), 180 - _apart(line, way))
            for way in (ways_deg[one], ways_deg[other])
        ]
        return NECK_BELOW if max(apart) < BELOW_DEG else NECK

    graph.join(limit)
    groups: dict[int, list[int]] = {}
    for piece in range(number):
        groups.setdefault(graph.root(piece), []).append(piece)
    return np.array([shapely.union_all(pieces.shapes[own]) for own in groups.values()])


def _apart(one_deg: float, other_deg: float) -> float:
    """Angle between two directions, 0 to 180 degrees."""
    return float(abs((one_deg - other_deg + 180) % 360 - 180))


def _cut(
    polygon: shapely.Polygon, labels: NDArray[np.int32], window: Window, scene: Coded
) -> Polygons | None:
    """A polygon cut between labels; None where a part would be none.

    Args:
        polygon: In the CRS of the map.
        labels: 1, 2, ... inside of it, shape (H, W); 0 elsewhere.
        window: Where they lie.
        scene: The map.

    Returns:
        A polygon a label, in pixels of the map; they share the vertices of their cuts.
    """
    from scipy.ndimage import distance_transform_edt

    to_pixels = ~scene.grid.transform
    whole = shapely.transform(polygon, lambda xy: np.column_stack(to_pixels * xy.T))
    nearest = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    regions = pixel_polygons(labels[tuple(nearest)].astype(np.int32), window.row, window.col)
    names = np.concatenate([np.full(len(shapes), name) for name, shapes in regions.items()])
    areas = shapely.coverage_simplify(np.concatenate(list(regions.values())), STRAIGHT_PX)
    lines = shapely.union_all([whole.boundary, *shapely.boundary(areas)])
    faces = shapely.get_parts(shapely.polygonize([lines]))
    points = shapely.point_on_surface(faces)
    faces, points = (
        faces[shapely.intersects(whole, points)],
        points[shapely.intersects(whole, points)],
    )
    face, area = shapely.STRtree(areas).query(points, predicate="intersects")
    label = np.zeros(len(faces), dtype=np.int64)
    label[face] = names[area]
    number = int(labels.max())
    parts = [shapely.union_all(faces[label == name]) for name in range(1, number + 1)]
    return _whole_parts(parts)


def _whole_parts(parts: list[Any]) -> Polygons | None:
    """One polygon each: crumbs go to the part that they touch along the longest line."""
    pieces = [list(shapely.get_parts(part)) for part in parts]
    if not all(pieces):
        return None
    kept = [max(own, key=shapely.area) for own in pieces]
    crumbs = [
        crumb for own, main in zip(pieces, kept, strict=True) for crumb in own if crumb is not main
    ]
    for crumb in crumbs:
        shared = [shapely.length(shapely.intersection(crumb, main)) for main in kept]
        at = int(np.argmax(shared))
        kept[at] = shapely.union_all([kept[at], crumb])
    whole = all(each.geom_type == "Polygon" for each in kept)
    return np.array(kept, dtype=object) if whole else None
