"""Outlines: their place to a fraction of a pixel, strips, borders, holes, fewer vertices.

Maps are tiny ones in UTM zone 54 with pixels of 10 m.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.affinity import affine_transform

import tiny
from landslip.geo.grid import Grid, Window
from landslip.geo.probability import UNKNOWN_CODE, encode
from landslip.geo.raster import create_raster
from landslip.inventory.coverage import Simplifier, without_small_holes
from landslip.inventory.outlines import landslide_polygons
from landslip.inventory.pixels import ProbabilityFile, numbered
from tiny import grid_of

PX = 10.0


def probability_file(path: Path, codes: NDArray[np.uint8]) -> ProbabilityFile:
    grid = grid_of(*codes.shape)
    with create_raster(path, grid, bands=["probability"], dtype="uint8", nodata=255) as out:
        out.write(codes, 1)
    return ProbabilityFile(path)


def all_polygons(scene: ProbabilityFile, threshold: float, **options: Any) -> NDArray[np.object_]:
    return np.concatenate(list(landslide_polygons(scene, threshold, **options)))


def rough_codes(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Hills and hollows of a few pixels, with a hole of nodata."""
    rough = np.random.default_rng(seed).normal(size=(height, width))
    kernel = np.hanning(9)
    for axis in (0, 1):
        rough = np.apply_along_axis(np.convolve, axis, rough, kernel, mode="same")
    codes = np.clip(127 + 40 * rough, 0, 254).astype(np.uint8)
    codes[20:26, 30:50] = UNKNOWN_CODE
    return codes


Shape = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def disc(x: float, y: float, radius: float) -> Shape:
    """How far points lie inside of a disc (px)."""
    return lambda col, row: radius - np.hypot(col - x, row - y)


def ellipse(x: float, y: float, a: float, b: float) -> Shape:
    """About how far points lie inside of an ellipse (px)."""

    def inside(col: NDArray[np.float64], row: NDArray[np.float64]) -> NDArray[np.float64]:
        u, v = (col - x) / a, (row - y) / b
        size = np.hypot(u, v)
        return (1 - size) * size / np.maximum(np.hypot(u / a, v / b), 1e-9)

    return inside


def outline_of(shape: Shape, grid: Grid) -> shapely.Polygon:
    """Where a shape ends, found by bisection along rays from its middle, in the CRS."""
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    value = shape(cols, rows)
    row, col = np.unravel_index(np.argmax(value), value.shape)
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    near, far = np.zeros(2000), np.full(2000, 200.0)
    for _ in range(60):
        middle = (near + far) / 2
        inside = (
            shape(cols[row, col] + middle * np.cos(angle), rows[row, col] + middle * np.sin(angle))
            > 0
        )
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    x, y = cols[row, col] + near * np.cos(angle), rows[row, col] + near * np.sin(angle)
    return shapely.Polygon(np.column_stack(grid.transform * (x, y)))


@pytest.mark.parametrize(
    "shape",
    [disc(50.3, 40.7, 20.2), ellipse(50.3, 40.7, 30.4, 9.6), disc(30.1, 30.2, 6.1)],
    ids=["disc", "ellipse", "small"],
)
def test_outlines_of_smooth_shapes_are_exact(tmp_path: Path, shape: Shape) -> None:
    grid = grid_of(80, 100)
    rows, cols = np.mgrid[:80, :100] + 0.5
    codes = encode(1 / (1 + np.exp(-shape(cols, rows))))
    (found,) = all_polygons(probability_file(tmp_path / "p.tif", codes), 0.5)
    true = outline_of(shape, grid)
    assert found.area == pytest.approx(true.area, rel=0.005)
    assert found.hausdorff_distance(true) < 0.6 * PX


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom", "corner"])
def test_outlines_at_the_edge_of_the_scene_are_exact(tmp_path: Path, side: str) -> None:
    x, y = {
        "left": (4.2, 40.7), "right": (96.3, 40.7), "top": (50.3, 3.9), "bottom": (50.3, 77.1),
        "corner": (2.2, 1.7),
    }[side]  # fmt: skip
    grid, shape = grid_of(80, 100), disc(x, y, 20.2)
    rows, cols = np.mgrid[:80, :100] + 0.5
    codes = encode(1 / (1 + np.exp(-shape(cols, rows))))
    (found,) = all_polygons(probability_file(tmp_path / "p.tif", codes), 0.5, strip_rows=16)
    true = shapely.Point(grid.transform * (x, y)).buffer(20.2 * PX, quad_segs=500)
    true = true.intersection(grid.footprint())
    assert found.area == pytest.approx(true.area, rel=0.005)
    assert found.hausdorff_distance(true) < 0.6 * PX
    assert shapely.covers(grid.footprint(), found)


@pytest.mark.parametrize("outline", ["contour", "pixels"])
@pytest.mark.parametrize("more", [{}, {"simplify_m": 12.0, "min_hole_m2": 2000.0}])
def test_strips_and_groups_leave_no_trace(
    tmp_path: Path, outline: str, more: dict[str, float]
) -> None:
    scene = probability_file(tmp_path / "p.tif", rough_codes(150, 70, seed=3))
    whole = all_polygons(scene, 0.5, outline=outline, **more)
    strips = all_polygons(scene, 0.5, outline=outline, strip_rows=64, **more)
    assert len(whole) > 8
    assert len(strips) == len(whole)
    assert (shapely.normalize(whole) == shapely.normalize(strips)).all()
    grouped = all_polygons(scene, 0.5, outline=outline, strip_rows=16, group=3)
    assert all(
        a.equals(b) for a, b in zip(all_polygons(scene, 0.5, outline=outline), grouped, strict=True)
    )


@pytest.mark.parametrize("outline", ["contour", "pixels"])
@pytest.mark.parametrize("group", [2, 20_000])
def test_outlines_are_valid_and_apart(tmp_path: Path, outline: str, group: int) -> None:
    scene = probability_file(tmp_path / "p.tif", rough_codes(150, 70, seed=4))
    for simplify_m in (0.0, 8.0, 40.0):
        found = all_polygons(
            scene, 0.45, outline=outline, simplify_m=simplify_m, min_hole_m2=3000.0, group=group
        )
        assert shapely.is_valid(found).all()
        assert (shapely.get_type_id(found) == 3).all()
        one, other = shapely.STRtree(found).query(found, predicate="intersects")
        shared = shapely.area(shapely.intersection(found[one], found[other]))[one < other]
        assert (shared < 1e-6).all()


def test_fewer_vertices_stay_near(tmp_path: Path) -> None:
    scene = probability_file(tmp_path / "p.tif", rough_codes(150, 70, seed=5))
    whole, simple = (all_polygons(scene, 0.5, simplify_m=metres) for metres in (0.0, 10.0))
    assert len(simple) == len(whole)
    assert (
        shapely.get_num_coordinates(simple).sum() < 0.5 * shapely.get_num_coordinates(whole).sum()
    )
    assert shapely.hausdorff_distance(whole, simple).max() < 4 * PX
    assert shapely.area(simple).sum() == pytest.approx(shapely.area(whole).sum(), rel=0.05)


def test_contours_at_borders_keep_their_area(tmp_path: Path) -> None:
    codes = np.zeros((40, 50), dtype=np.uint8)
    codes[:, :20] = 254  # touches three edges
    codes[10:30, 40:] = 255  # nodata
    codes[15:25, 30:40] = 254  # touches nodata
    found = all_polygons(probability_file(tmp_path / "p.tif", codes), 0.5)
    areas = sorted(polygon.area / 100 for polygon in found)
    assert areas == pytest.approx([100, 800], rel=0.02)
    hidden = shapely.box(400_400, 4_700_000 - 300, 400_500, 4_700_000 - 100)
    assert all(polygon.intersection(hidden).area < 1e-6 for polygon in found)


def test_holes_stay_holes_unless_they_are_small(tmp_path: Path) -> None:
    codes = np.zeros((40, 40), dtype=np.uint8)
    codes[5:35, 5:35] = 254
    codes[15:25, 15:25] = 0
    codes[19:21, 19:21] = 254  # an island
    scene = probability_file(tmp_path / "p.tif", codes)
    shell, island = all_polygons(scene, 0.5, outline="pixels", strip_rows=8)
    assert (shell.area, island.area) == (800 * 100, 4 * 100)
    shell, _ = all_polygons(scene, 0.5, strip_rows=8)
    assert len(shell.interiors) == 1
    assert shell.area == pytest.approx(800 * 100, rel=0.01)
    kept = all_polygons(scene, 0.5, outline="pixels", min_hole_m2=100 * 100)
    assert len(kept) == 2
    for group in (1, 20_000):
        (filled,) = all_polygons(
            scene, 0.5, outline="pixels", min_hole_m2=100 * 100 + 1, group=group
        )
        assert filled.area == 900 * 100


def test_holes_of_unknown_ground_are_not_filled(tmp_path: Path) -> None:
    codes = np.full((40, 40), 254, dtype=np.uint8)
    codes[15:17, 15:25] = 255
    codes[30:32, 30:32] = 0
    scene = probability_file(tmp_path / "p.tif", codes)
    for outline in ("contour", "pixels"):
        (found,) = all_polygons(scene, 0.5, outline=outline, min_hole_m2=1e9)
        assert found.area == (1600 - 20) * 100


def test_nothing_and_everything(tmp_path: Path) -> None:
    nothing = probability_file(tmp_path / "none.tif", np.zeros((30, 20), np.uint8))
    assert all_polygons(nothing, 0.5, simplify_m=5, min_hole_m2=5).size == 0
    everything = probability_file(tmp_path / "all.tif", np.full((30, 20), 254, np.uint8))
    for outline in ("contour", "pixels"):
        (found,) = all_polygons(everything, 1.0, outline=outline, simplify_m=5, strip_rows=7)
        assert found.equals(everything.grid.footprint())


def test_many_specks_are_left_out_at_once(tmp_path: Path) -> None:
    """A hundred thousand: what is too small never waits."""
    codes = np.zeros((600, 700), dtype=np.uint8)
    codes[::2, ::2] = 254
    codes[400:410, 500:520] = 254
    scene = probability_file(tmp_path / "p.tif", codes)
    groups = list(landslide_polygons(scene, 0.5, min_area_m2=1000, outline="pixels"))
    assert [len(group) for group in groups] == [1]


def test_small_holes_of_many_polygons() -> None:
    square = shapely.box(0, 0, 10, 10)
    two = shapely.Polygon(
        square.exterior,
        [shapely.box(1, 1, 2, 2).exterior.coords, shapely.box(4, 4, 7, 7).exterior.coords],
    )
    found = without_small_holes(np.array([square, two, two]), 2.0)
    assert shapely.area(found).tolist() == [100, 91, 91]
    assert shapely.area(without_small_holes(np.array([two]), 9.5)).tolist() == [100]
    assert without_small_holes(np.array([two]), 0.0)[0] is two


def test_later_polygons_give_way() -> None:
    simplifier = Simplifier(0.0)
    first, second = shapely.box(0, 0, 4, 4), shapely.box(3, 1, 6, 3)
    inside = shapely.box(1, 2, 2, 3)
    assert simplifier(np.array([first])).tolist() == [first]
    found = simplifier(np.array([second, inside]))
    assert [each.bounds for each in found] == [(4, 1, 6, 3)]


def test_pixels_are_numbered_by_the_polygon_of_their_middle() -> None:
    grid = grid_of(8, 9)
    boxes = [shapely.box(0, 0, 4, 4), shapely.box(5.6, 2.4, 8.4, 7)]
    polygons = shapely.transform(np.array(boxes), lambda xy: np.column_stack(grid.transform * xy.T))
    expected = np.zeros((8, 9), np.int32)
    expected[:4, :4] = 1
    expected[2:7, 6:8] = 2
    assert (numbered(polygons, grid) == expected).all()
    assert (numbered(polygons, grid.crop(Window(2, 5, 3, 4))) == expected[2:5, 5:9]).all()


def test_numbers_of_polygons_are_those_that_gdal_burns() -> None:
    random = np.random.default_rng(0)
    grid = Grid(tiny.UTM_CRS, tiny.transform_of() * Affine.rotation(20), 70, 90)
    discs = shapely.buffer(shapely.points(random.uniform(-10, 100, (60, 2))), 9)
    with_holes = shapely.difference(discs, shapely.buffer(shapely.centroid(discs), 4))
    apart: list[Any] = []
    for disc in with_holes:
        apart.append(shapely.difference(disc, shapely.union_all(apart)))
    to_crs = grid.transform.to_shapely()
    polygons = np.array(
        [affine_transform(each, to_crs) for each in apart if not each.is_empty], dtype=object
    )
    burnt = rasterize(
        zip(polygons, range(1, len(polygons) + 1), strict=True),
        out_shape=grid.shape, transform=grid.transform, dtype="int32",
    )  # fmt: skip
    assert len(np.unique(burnt)) > 40
    assert np.array_equal(numbered(polygons, grid), burnt)
