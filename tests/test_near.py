from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from landslip.geo.errors import DataError, UsageError
from landslip.inventory.near import REACH_M, SEGMENTS, Near, _cut, open_all

UTM = pyproj.CRS(32648)
BOUNDS = (500_000.0, 3_790_000.0, 510_000.0, 3_800_000.0)
"""Of the map, 10 km wide, in EPSG:32648."""
SLIDE = shapely.box(505_000, 3_795_000, 505_100, 3_795_200)
"""100 m x 200 m in the middle of the map."""
WGS84 = pyproj.Geod(ellps="WGS84")

WriteThings = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteThings:
    """Write geometries into a file of the test's folder, by default in EPSG:32648."""

    def written(
        geometries: Sequence[Any], name: str = "roads.gpkg", crs: Any = 32648, layer: str = "all"
    ) -> Path:
        path = tmp_path / name
        frame = gpd.GeoDataFrame({"kind": ["x"] * len(geometries)}, geometry=geometries, crs=crs)
        if path.suffix == ".gpkg":
            frame.to_file(path, layer=layer)
        else:
            frame.to_file(path)
        return path

    return written


def polygons(*shapes: shapely.Polygon) -> NDArray[np.object_]:
    return np.array(shapes, dtype=object)


def measured(path: Path, *shapes: shapely.Polygon, tolerance_m: float = 10) -> dict[str, list[Any]]:
    near = Near.open(str(path), UTM, BOUNDS)
    found = near.columns(polygons(*(shapes or (SLIDE,))), tolerance_m)
    return {name: values.tolist() for name, values in found.items()}


# What is told


def test_a_road_beside_a_landslide(write: WriteThings) -> None:
    road = shapely.LineString([(505_150, 3_790_000), (505_150, 3_800_000)])
    assert measured(write([road])) == {
        "distance_to_roads_m": [50.0],
        "touches_roads": [False],
        "crosses_roads": [False],
    }


def test_a_road_through_a_landslide(write: WriteThings) -> None:
    road = shapely.LineString([(505_050, 3_790_000), (505_050, 3_800_000)])
    assert measured(write([road])) == {
        "distance_to_roads_m": [0.0],
        "touches_roads": [True],
        "crosses_roads": [True],
    }


def test_a_road_that_ends_in_a_landslide_crosses_it(write: WriteThings) -> None:
    road = shapely.LineString([(504_000, 3_795_100), (505_050, 3_795_100)])
    assert measured(write([road]))["crosses_roads"] == [True]


def test_a_road_along_the_edge_touches_and_does_not_cross(write: WriteThings) -> None:
    road = shapely.LineString([(505_100, 3_790_000), (505_100, 3_800_000)])
    found = measured(write([road]))
    assert (found["touches_roads"], found["crosses_roads"]) == ([True], [False])


def test_nearer_than_a_pixel_is_a_touch_and_keeps_its_distance(write: WriteThings) -> None:
    path = write([shapely.Point(505_109, 3_795_100)], "houses.gpkg")
    assert measured(path, tolerance_m=10) == {
        "distance_to_houses_m": [9.0],
        "touches_houses": [True],
    }
    assert measured(path, tolerance_m=8)["touches_houses"] == [False]


def test_areas(write: WriteThings) -> None:
    lake = shapely.box(505_500, 3_795_000, 506_000, 3_795_500)
    within = shapely.box(505_600, 3_795_100, 505_700, 3_795_200)
    around = shapely.box(505_400, 3_794_000, 507_000, 3_796_000)
    assert measured(write([lake], "lake.gpkg"), SLIDE, within, around) == {
        "distance_to_lake_m": [400.2, 0.0, 0.0],  # true metres: 400 / 0.9996
        "touches_lake": [False, True, True],
    }


def test_an_island_in_a_lake_is_apart_from_it(write: WriteThings) -> None:
    lake = shapely.box(504_000, 3_794_000, 506_000, 3_796_000).difference(
        shapely.buffer(SLIDE, 30, join_style="mitre")
    )
    assert measured(write([lake], "lake.gpkg"))["distance_to_lake_m"] == [30.0]


def test_the_whole_map_may_lie_in_one_area(write: WriteThings) -> None:
    land = shapely.box(0, 3_000_000, 900_000, 4_500_000)
    assert measured(write([land], "land.gpkg"))["distance_to_land_m"] == [0.0]


def test_kinds_may_be_mixed_nested_and_empty(write: WriteThings) -> None:
    mixed = shapely.GeometryCollection(
        [
            shapely.MultiPoint([(505_140, 3_795_000, 5.0)]),
            shapely.GeometryCollection([shapely.LineString([(0, 0, 0), (1, 1, 0)])]),
        ]
    )
    line = shapely.MultiLineString([[(505_120, 3_795_000), (505_120, 3_796_000)]])
    path = write([mixed, None, shapely.Point(), line], "things.gpkg")
    assert measured(path) == {
        "distance_to_things_m": [20.0],
        "touches_things": [False],
        "crosses_things": [False],
    }


def test_a_landslide_of_two_parts(write: WriteThings) -> None:
    lake = shapely.box(505_500, 3_795_000, 506_000, 3_795_500)
    second = shapely.box(505_600, 3_795_100, 505_700, 3_795_200)
    near = Near.open(str(write([lake], "lake.gpkg")), UTM, BOUNDS)
    both = np.array([shapely.MultiPolygon([SLIDE, second])], dtype=object)
    assert near.columns(both, 1.0)["distance_to_lake_m"].tolist() == [0.0]


def test_no_landslides(write: WriteThings) -> None:
    near = Near.open(str(write([shapely.box(505_500, 3_795_000, 506_000, 3_796_000)])), UTM, BOUNDS)
    found = near.columns(np.zeros(0, dtype=object), 10)
    assert {name: values.shape for name, values in found.items()} == {
        "distance_to_roads_m": (0,),
        "touches_roads": (0,),
    }


def test_distances_end_at_the_reach(write: WriteThings) -> None:
    spring = shapely.Point(BOUNDS[2] + REACH_M - 1000, 3_795_000)
    west = shapely.box(500_000, 3_795_000, 500_100, 3_795_100)
    east = shapely.box(509_000, 3_795_000, 509_900, 3_795_100)
    found = measured(write([spring], "springs.gpkg"), west, east)["distance_to_springs_m"]
    assert found[0] == REACH_M
    assert found[1] == pytest.approx(REACH_M - 900, rel=5e-4)  # a UTM zone is 0.9996 to scale


# Against a slow and obvious reference

steps = st.integers(0, 12)
corners = st.tuples(steps, steps)
lines = st.lists(corners, min_size=2, max_size=30).map(shapely.LineString)
points = corners.map(shapely.Point)
boxes = st.tuples(corners, st.integers(1, 5), st.integers(1, 5)).map(
    lambda box: shapely.box(*box[0], box[0][0] + box[1], box[0][1] + box[2])
)
triangles = st.lists(corners, min_size=3, max_size=3, unique=True).map(shapely.Polygon)
areas = st.one_of(boxes, triangles.filter(lambda shape: shape.area > 0))


@given(
    slides=st.lists(areas, min_size=1, max_size=4),
    things=st.lists(st.one_of(lines, points, areas), min_size=1, max_size=6),
)
def test_against_all_pairs(slides: list[Any], things: list[Any], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("near") / "things.gpkg"
    gpd.GeoDataFrame(geometry=things).to_file(path)
    near = Near.open(str(path), None, (0, 0, 12, 12))
    found = near.columns(polygons(*slides), 1.5)
    distances = [min(slide.distance(thing) for thing in things) for slide in slides]
    assert found["distance_to_things_m"].tolist() == np.round(distances, 1).tolist()
    assert found["touches_things"].tolist() == [each < 1.5 for each in distances]
    ways = [thing for thing in things if thing.geom_type == "LineString" and thing.length]
    if ways:
        crossed = [any(length_inside(way, slide) > 1e-9 for way in ways) for slide in slides]
        assert found["crosses_things"].tolist() == crossed
    else:
        assert "crosses_things" not in found


def length_inside(line: shapely.LineString, area: shapely.Polygon) -> float:
    """Length of a line in an area, less that along its boundary; parts run twice count twice."""
    total = 0.0
    for pair in pairwise(line.coords):
        if pair[0] != pair[1]:
            part = shapely.LineString(pair)
            total += part.intersection(area).length
            total -= part.intersection(area.boundary).length
    return total


@given(counts=st.lists(st.integers(2, 3 * SEGMENTS + 2), min_size=1, max_size=5))
def test_pieces_are_the_lines_in_their_order(counts: list[int]) -> None:
    random = np.random.default_rng(sum(counts))
    whole = [random.uniform(size=(count, 2)) for count in counts]
    pieces = _cut(np.array([shapely.LineString(xy) for xy in whole], dtype=object))
    segments = [pair for piece in pieces for pair in pairwise(piece.coords)]
    expected = [(tuple(a), tuple(b)) for xy in whole for a, b in pairwise(xy)]
    assert segments == expected
    assert all(2 <= len(piece.coords) <= SEGMENTS + 1 for piece in pieces)


# Coordinates


@pytest.mark.parametrize("crs", [32648, 4326, 3857, 3395, 102012])
@pytest.mark.parametrize("own", [4326, 32648])
def test_metres_are_true_in_any_crs(write: WriteThings, crs: int, own: int) -> None:
    name = f"ESRI:{crs}" if crs > 100_000 else crs
    here = pyproj.Transformer.from_crs(4326, name, always_xy=True)
    lon, lat = 105.0, 34.3
    for azimuth in (0.0, 77.0, 240.0):
        lon_2, lat_2, _ = WGS84.fwd(lon, lat, azimuth, 3000.0)
        tip = shapely.Point(here.transform(lon, lat))
        slide = shapely.convex_hull(
            shapely.MultiPoint(
                [tip]
                + [
                    shapely.Point(here.transform(*WGS84.fwd(lon, lat, azimuth + turn, 50.0)[:2]))
                    for turn in (170, 190)
                ]
            )
        )
        frame = gpd.GeoSeries([shapely.Point(lon_2, lat_2)], crs=4326).to_crs(own)
        path = write(list(frame), f"houses{azimuth}.gpkg", own)
        west, south, east, north = slide.bounds
        far = (east - west) * 100
        around = (west - far, south - far, east + far, north + far)
        near = Near.open(f"houses={path}", pyproj.CRS(name), around)
        found = near.columns(polygons(slide), 10)["distance_to_houses_m"]
        assert found.tolist() == pytest.approx([3000.0], abs=0.11)


def test_feet(write: WriteThings) -> None:
    feet = pyproj.CRS(2225)
    slide = shapely.box(6_000_000, 2_000_000, 6_000_100, 2_000_100)
    path = write([shapely.Point(6_001_100, 2_000_050)], "houses.gpkg", 2225)
    near = Near.open(str(path), feet, (5_990_000, 1_990_000, 6_010_000, 2_010_000))
    found = near.columns(polygons(slide), 10)["distance_to_houses_m"]
    assert found.tolist() == pytest.approx([1000 * 1200 / 3937], abs=0.1)


def test_a_long_straight_line_in_degrees_follows_its_parallel(write: WriteThings) -> None:
    border = shapely.LineString([(104, 34.3), (106, 34.3)])
    slide = shapely.box(105.0, 34.31, 105.001, 34.311)
    near = Near.open(str(write([border], crs=4326)), pyproj.CRS(4326), (104.9, 34.2, 105.1, 34.4))
    expected = WGS84.inv(105.0, 34.31, 105.0, 34.3)[2]
    assert near.columns(polygons(slide), 10)["distance_to_roads_m"].tolist() == pytest.approx(
        [expected], abs=0.2
    )


def test_both_sides_of_the_antimeridian(write: WriteThings) -> None:
    houses = [shapely.Point(179.99, -17.0), shapely.Point(-179.99, -17.0), shapely.Point(0, 51)]
    path = write(houses, "houses.gpkg", 4326)
    utm = pyproj.CRS(32760)
    to_utm = pyproj.Transformer.from_crs(4326, utm, always_xy=True)
    slides = [
        shapely.buffer(shapely.Point(to_utm.transform(lon, -17.0)), 1) for lon in (179.98, -179.98)
    ]
    x, y = to_utm.transform(180.0, -17.0)
    near = Near.open(str(path), utm, (x - 5000, y - 5000, x + 5000, y + 5000))
    expected = WGS84.inv(179.98, -17.0, 179.99, -17.0)[2] - 1
    found = near.columns(polygons(*slides), 10)["distance_to_houses_m"]
    assert found.tolist() == pytest.approx([expected, expected], abs=0.1)


def test_what_lies_on_the_other_side_of_the_world_does_no_harm(write: WriteThings) -> None:
    world = shapely.MultiLineString(
        [[(105.0, 34.2), (105.0, 34.4)], [(-75, -34), (-76, -34)], [(-179, 0), (179, 0)]]
    )
    path = write([world], "rivers.gpkg", 4326)
    near = Near.open(str(path), UTM, BOUNDS)
    assert len(near.geometries) == 1
    found = near.columns(polygons(SLIDE), 10)["distance_to_rivers_m"]
    assert found.tolist() == pytest.approx([5000 / 0.9996], abs=1)


def test_a_map_without_crs_is_in_metres(write: WriteThings) -> None:
    path = write([shapely.Point(30, 5)], "houses.gpkg", None)
    near = Near.open(str(path), None, (0, 0, 100, 100))
    found = near.columns(polygons(shapely.box(0, 0, 10, 10)), 1)
    assert found["distance_to_houses_m"].tolist() == [20.0]


# Names


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Main Roads-2020.gpkg", "main_roads_2020"),
        ("Flüsse.gpkg", "flüsse"),
    ],
)
def test_the_name_is_that_of_the_file(write: WriteThings, name: str, written: str) -> None:
    path = write([shapely.Point(505_000, 3_795_000)], name)
    assert Near.open(str(path), UTM, BOUNDS).name == written


def test_the_name_is_that_of_the_layer_or_given(write: WriteThings) -> None:
    write([shapely.Point(505_000, 3_795_000)], "osm.gpkg", layer="Bus stops")
    path = write([shapely.Point(505_090, 3_795_300)], "osm.gpkg", layer="trees")
    near = Near.open(f"{path}|layername=Bus stops", UTM, BOUNDS)
    assert near.name == "bus_stops"
    near = Near.open(f"Stops={path}|layername=trees", UTM, BOUNDS)
    assert list(near.columns(polygons(SLIDE), 1)) == ["distance_to_Stops_m", "touches_Stops"]
    assert near.columns(polygons(SLIDE), 1)["distance_to_Stops_m"].tolist() == [100.0]


def test_two_of_one_name(write: WriteThings) -> None:
    path = write([shapely.Point(505_000, 3_795_000)], "houses.gpkg")
    with pytest.raises(UsageError, match=r"columns of both would be named houses. Write NAME=FILE"):
        open_all([f"Houses={path}", str(path)], UTM, BOUNDS)
    both = open_all([f"huts={path}", str(path)], UTM, BOUNDS)
    assert [near.name for near in both] == ["huts", "houses"]


# What cannot be used


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        Near.open(f"roads={tmp_path / 'missing.gpkg'}", UTM, BOUNDS)


def test_no_vector_file(tmp_path: Path) -> None:
    path = tmp_path / "roads.gpkg"
    path.write_text("no")
    with pytest.raises(DataError, match="not a vector file that GDAL can read"):
        Near.open(str(path), UTM, BOUNDS)


def test_a_layer_must_be_named_where_there_are_several(write: WriteThings) -> None:
    for layer in ("roads", "rivers"):
        path = write([shapely.Point(505_000, 3_795_000)], "osm.gpkg", layer=layer)
    with pytest.raises(DataError, match=r"it has roads, rivers. Write .*\|layername=NAME"):
        Near.open(str(path), UTM, BOUNDS)
    with pytest.raises(DataError, match="it has roads, rivers"):
        Near.open(f"{path}|layername=houses", UTM, BOUNDS)


def test_both_or_neither_have_a_crs(write: WriteThings) -> None:
    path = write([shapely.Point(505_000, 3_795_000)], "houses.gpkg", None)
    with pytest.raises(DataError, match=r"no coordinate reference system, the map has EPSG:32648"):
        Near.open(str(path), UTM, BOUNDS)
    path = write([shapely.Point(505_000, 3_795_000)], "huts.gpkg")
    with pytest.raises(DataError, match=r"\(EPSG:32648\): the map has no coordinate reference"):
        Near.open(str(path), None, BOUNDS)


@pytest.mark.parametrize("things", [[], [None], [shapely.Point(0, 0)]])
def test_nothing_near(write: WriteThings, things: list[Any]) -> None:
    path = write(things, "houses.gpkg", 4326)
    with pytest.raises(DataError, match="nothing in it lies within 100 km of the map"):
        Near.open(str(path), UTM, BOUNDS)
