import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from landslip.geo.errors import InventoryError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Area, areas_m2, rasterised, read_polygons, write_layers
from landslip.geo.windows import cover

WritePolygons = Callable[..., Path]

INSIDE = shapely.box(500_200, 3_799_850, 500_270, 3_799_900)
"""7 x 5 pixels of `utm_grid`: rows 10-14, columns 20-26."""
BOW_TIE = shapely.Polygon(
    [(500_000, 3_799_700), (500_100, 3_799_800), (500_100, 3_799_700), (500_000, 3_799_800)]
)

# Areas


def square_around(lon: float, lat: float, side_m: float, crs: int) -> Any:
    """A square of true size, with many vertices, in a CRS."""
    geod = pyproj.Geod(ellps="WGS84")
    half = side_m / 2
    steps = np.linspace(-half, half, 41)
    edge = [(step, -half) for step in steps] + [(half, step) for step in steps]
    edge += [(-x, -y) for x, y in edge]
    points = []
    for east, north in edge:
        azimuth, distance = np.degrees(np.arctan2(east, north)), np.hypot(east, north)
        points.append(geod.fwd(lon, lat, azimuth, distance)[:2])
    to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    return shapely.Polygon([to_crs.transform(*point) for point in points])


@pytest.mark.parametrize(
    ("crs", "lon", "lat", "tolerance"),
    [
        (32648, 105.7, 34.0, 1e-3),
        (3857, 105.7, 34.0, 1e-5),
        (4326, 105.7, 34.0, 1e-5),
        (4612, 141.9, 42.7, 1e-5),  # JGD2000, degrees, latitude first by authority
        (2225, -122.0, 40.5, 1e-3),  # California zone 1, US survey feet
        (6933, 105.7, 34.0, 1e-3),  # equal area
        (3395, 20.0, 70.0, 1e-5),  # World Mercator far north
    ],
)
def test_areas_are_true(crs: int, lon: float, lat: float, tolerance: float) -> None:
    square = square_around(lon, lat, 1000, crs)
    found = areas_m2([square, square], CRS.from_epsg(crs))
    assert found.tolist() == pytest.approx([1e6, 1e6], rel=tolerance)


def test_areas_in_mercator_would_be_half_as_large_again() -> None:
    square = square_around(105.7, 34.0, 1000, 3857)
    assert square.area / areas_m2([square], CRS.from_epsg(3857))[0] == pytest.approx(1.46, abs=0.01)


def test_areas_without_crs_or_polygons() -> None:
    assert areas_m2([shapely.box(0, 0, 2, 3)], None).tolist() == [6]
    assert areas_m2([], CRS.from_epsg(4326)).tolist() == []
    assert areas_m2(
        [shapely.box(500_200, 3_799_850, 500_270, 3_799_900)], CRS.from_epsg(32648)
    ) == [3500]


@pytest.mark.parametrize("reverse", [False, True])
def test_parts_and_holes_are_counted_whatever_their_sense(
    reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(shapely, "orient_polygons", raising=False)  # shapely 2.0 has none
    shell = [(0, 0), (1, 0), (1, 1), (0, 1)]
    hole = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]
    other = [(2, 0), (2, 1), (3, 1), (3, 0)]
    if reverse:
        hole, other = hole[::-1], other[::-1]
    crs = CRS.from_epsg(4326)
    alone = areas_m2([shapely.Polygon(ring) for ring in (shell, hole, other)], crs)
    whole = shapely.MultiPolygon([shapely.Polygon(shell, [hole]), shapely.Polygon(other)])
    assert areas_m2([whole], crs)[0] == pytest.approx(alone[0] - alone[1] + alone[2], rel=1e-9)


# Reading


def test_polygons_in_the_scenes_crs_stay_as_they_are(slides: Path, utm_grid: Grid) -> None:
    found = read_polygons(slides, utm_grid)
    assert len(found) == 3
    assert found.reprojected_from == ""
    assert found.repaired == 0
    assert found.geometries[0].equals(INSIDE)
    assert list(found.frame["status"]) == ["accepted", "rejected", "accepted"]
    assert len(found.where(np.array([True, False, False]))) == 1


def test_polygons_that_cross_themselves_are_repaired_and_told(
    write_polygons: WritePolygons, utm_grid: Grid, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_polygons("crossing.gpkg", [BOW_TIE, INSIDE])
    with caplog.at_level(logging.WARNING, logger="landslip"):
        found = read_polygons(path, utm_grid)
    assert found.repaired == 1
    assert shapely.is_valid(found.geometries).all()
    assert found.geometries[0].area == pytest.approx(BOW_TIE.buffer(0).area, abs=6000)
    assert "crossing.gpkg: 1 polygons cross themselves and were repaired" in caplog.text


def test_polygons_in_another_crs_are_reprojected_and_told(
    write_polygons: WritePolygons, utm_grid: Grid, caplog: pytest.LogCaptureFixture
) -> None:
    to_degrees = pyproj.Transformer.from_crs(32648, 4326, always_xy=True)
    path = write_polygons(
        "degrees.gpkg",
        [shapely.transform(INSIDE, to_degrees.transform, interleaved=False)],
        crs=4326,
    )
    with caplog.at_level(logging.WARNING, logger="landslip"):
        found = read_polygons(path, utm_grid)
    assert found.reprojected_from == "EPSG:4326"
    assert "reprojected from EPSG:4326 to EPSG:32648" in caplog.text
    assert found.geometries[0].hausdorff_distance(INSIDE) < 1e-3
    assert rasterised(found.geometries, utm_grid, utm_grid.window).sum() == 35


def test_the_same_crs_by_another_name_is_no_reprojection(
    write_polygons: WritePolygons, utm_grid: Grid
) -> None:
    path = write_polygons("wkt.gpkg", [INSIDE], crs=pyproj.CRS.from_epsg(32648).to_wkt())
    assert read_polygons(path, utm_grid).reprojected_from == ""


def test_polygons_and_scene_need_the_same_kind_of_position(
    write_polygons: WritePolygons, utm_grid: Grid, slides: Path
) -> None:
    with pytest.warns(UserWarning, match="crs"):
        path = write_polygons("nowhere.gpkg", [INSIDE], crs=None)
    with pytest.raises(
        InventoryError, match=r"nowhere.*no coordinate reference system.*EPSG:32648"
    ):
        read_polygons(path, utm_grid)
    plain = Grid(None, Affine.identity(), 40, 60)
    with pytest.raises(InventoryError, match="the scene has no coordinate reference"):
        read_polygons(slides, plain)
    assert len(read_polygons(path, plain)) == 1


@pytest.mark.parametrize(
    "geometry", [shapely.LineString([(0, 0), (1, 1)]), shapely.Point(0, 0)], ids=["line", "point"]
)
def test_lines_and_points_are_refused(
    write_polygons: WritePolygons, utm_grid: Grid, geometry: Any
) -> None:
    path = write_polygons("lines.gpkg", [geometry])
    with pytest.raises(InventoryError, match=f"it holds {geometry.geom_type}"):
        read_polygons(path, utm_grid)


def test_nothing_is_refused(write_polygons: WritePolygons, utm_grid: Grid) -> None:
    empty = write_polygons("empty.gpkg", [])
    nothing = write_polygons("nothing.gpkg", [None, shapely.Polygon()])
    for path in (empty, nothing):
        with pytest.raises(InventoryError, match="holds no polygons"):
            read_polygons(path, utm_grid)
    some = write_polygons("some.gpkg", [None, INSIDE, shapely.Polygon()])
    assert len(read_polygons(some, utm_grid)) == 1


@pytest.mark.parametrize(("west", "south"), [(-75.3, -34.2), (-75, -90), (14, 10), (105, 89)])
def test_polygons_elsewhere_on_earth_are_read_and_touch_nothing(
    write_polygons: WritePolygons, utm_grid: Grid, west: float, south: float
) -> None:
    path = write_polygons(
        "elsewhere.gpkg", [shapely.box(west, south, west + 1, south + 1)], crs=4326
    )
    found = read_polygons(path, utm_grid)
    assert not Area(found.geometries, utm_grid).read(utm_grid.window).any()


def test_layers_are_chosen_by_name(
    write_polygons: WritePolygons, utm_grid: Grid, tmp_path: Path
) -> None:
    one = write_polygons("layers.gpkg", [INSIDE], layer="other")
    assert len(read_polygons(one, utm_grid)) == 1
    write_polygons("layers.gpkg", [INSIDE, BOW_TIE.buffer(0)], layer="more")
    with pytest.raises(InventoryError, match=r"it has other, more\. Write .*\|layername=NAME"):
        read_polygons(one, utm_grid)
    assert len(read_polygons(f"{one}|layername=more", utm_grid)) == 2
    with pytest.raises(InventoryError, match="it has other, more"):
        read_polygons(f"{one}|layername=none", utm_grid)
    write_polygons("layers.gpkg", [INSIDE] * 3, layer="landslides")
    assert len(read_polygons(one, utm_grid)) == 3


def test_files_that_are_no_polygons_are_told(tmp_path: Path, utm_grid: Grid) -> None:
    with pytest.raises(InventoryError, match="there is no such file"):
        read_polygons(tmp_path / "none.gpkg", utm_grid)
    text = tmp_path / "text.gpkg"
    text.write_text("no polygons")
    with pytest.raises(InventoryError, match=r"checked areas .*it is not a vector file"):
        read_polygons(text, utm_grid, what="checked areas")
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InventoryError, match="none of its layers has a geometry"):
        read_polygons(table, utm_grid)


def test_heights_of_vertices_are_left_out(
    write_polygons: WritePolygons, utm_grid: Grid, tmp_path: Path
) -> None:
    path = write_polygons("high.gpkg", [shapely.force_3d(INSIDE, 700.0)])
    found = read_polygons(path, utm_grid)
    assert not shapely.has_z(found.geometries).any()
    write_layers(tmp_path / "out.gpkg", {"landslides": found.frame})


# Rasterising


def test_threads_burn_without_a_warning(utm_grid: Grid) -> None:
    # rasterio changes the filters of warnings while it burns, and puts them back: of all threads.
    with ThreadPoolExecutor(8) as pool:
        burnt = pool.map(lambda _: rasterised([INSIDE], utm_grid, utm_grid.window), range(500))
        assert {int(each.sum()) for each in burnt} == {35}


def test_pixels_count_by_their_middle(utm_grid: Grid) -> None:
    burnt = rasterised([INSIDE], utm_grid, utm_grid.window)
    assert burnt.dtype == bool
    assert burnt[10:15, 20:27].all()
    assert burnt.sum() == 35
    inner = shapely.box(500_205.1, 3_799_854.9, 500_264.9, 3_799_895.1)
    assert rasterised([inner], utm_grid, utm_grid.window).sum() == 5 * 3 + 5 * 2


def test_nothing_touched_is_empty(utm_grid: Grid) -> None:
    assert not rasterised([], utm_grid, utm_grid.window).any()
    assert not Area([], utm_grid).read(utm_grid.window).any()
    assert rasterised([INSIDE], utm_grid, Window(30, 0, 4, 5)).shape == (4, 5)


DEGREES = Grid(
    CRS.from_epsg(4326),
    Affine(8.983152841195215e-05, 0, 141.89033643113302, 0, -8.983152841195215e-05, 42.7695093),
    23,
    29,
)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-8, 66), st.integers(-8, 54)), min_size=3, max_size=6),
        min_size=1,
        max_size=3,
    ),
    st.integers(3, 12),
)
@settings(max_examples=60)
def test_windows_equal_the_whole_even_through_the_middle_of_pixels(
    halves: list[list[tuple[int, int]]], core: int
) -> None:
    """Vertices lie on corners and middles of pixels, where rounding decides."""
    shapes = []
    for points in halves:
        corners = [DEGREES.transform * (col / 2, row / 2) for col, row in points]
        shapes.append(shapely.MultiPoint(corners).convex_hull)
    shapes = [shape for shape in shapes if shape.geom_type == "Polygon"]
    whole = rasterised(shapes, DEGREES, DEGREES.window)
    area = Area(shapes, DEGREES)
    for window in cover(DEGREES, core):
        assert (area.read(window) == whole[window.slices]).all()


# Writing


def test_equal_content_gives_equal_bytes(slides: Path, utm_grid: Grid, tmp_path: Path) -> None:
    frame = read_polygons(slides, utm_grid).frame
    digests = set()
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    for name in ("one", "two"):
        path = tmp_path / name / "out.gpkg"
        path.parent.mkdir()
        write_layers(path, {"landslides": frame, "checked": frame[["geometry"]]})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == before


def test_written_layers_come_back(slides: Path, utm_grid: Grid, tmp_path: Path) -> None:
    frame = read_polygons(slides, utm_grid).frame
    path = tmp_path / "out.gpkg"
    write_layers(path, {"landslides": frame, "none": frame[:0]})
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["landslides", "none"]
    back = read_polygons(path, utm_grid)
    assert list(back.frame["status"]) == list(frame["status"])
    assert all(a.equals(b) for a, b in zip(back.geometries, frame.geometry, strict=True))


def test_polygons_without_position_are_written(tmp_path: Path) -> None:
    import geopandas as gpd

    path = tmp_path / "plain.gpkg"
    write_layers(path, {"landslides": gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 2, 2)])})
    assert len(read_polygons(path, Grid(None, Affine.identity(), 4, 4))) == 1
