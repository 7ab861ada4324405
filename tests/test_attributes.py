"""What is told of each landslide: shape, probability, terrain, greenness.

Maps lie in UTM zone 54, pixels of 10 m unless asked otherwise.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

import tiny
from landslip.geo.errors import RasterError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import Raster, create_raster
from landslip.geo.scene import NODATA, OBSERVED, UNUSABLE
from landslip.inventory.attributes import Certainty, certainty_of, touches_edge
from landslip.inventory.outlines import landslide_polygons
from landslip.inventory.pixels import ProbabilityFile
from landslip.inventory.relief import Terrain
from landslip.inventory.shape import in_metres, shape_columns
from landslip.inventory.spectral import spectral_columns
from tiny import grid_of

LONLAT = CRS.from_epsg(4326)
MERCATOR = CRS.from_epsg(3857)


def boxes(*shapes: Any) -> NDArray[np.object_]:
    return np.array(shapes, dtype=object)


def turned(length: float, width: float, azimuth_deg: float) -> shapely.Polygon:
    """A rectangle whose long side has an azimuth, around (400500, 4699500)."""
    box = shapely.box(-width / 2, -length / 2, width / 2, length / 2)
    turned_box = shapely.affinity.rotate(box, -azimuth_deg, origin=(0, 0))
    return shapely.affinity.translate(turned_box, 400_500, 4_699_500)


@pytest.mark.parametrize("azimuth", [0.0, 30.0, 90.0, 135.0, 179.0])
def test_shape_of_a_rectangle(azimuth: float) -> None:
    columns = shape_columns(boxes(turned(200, 50, azimuth)), tiny.UTM_CRS)
    (found,) = zip(*columns.values(), strict=True)
    row = dict(zip(columns, found, strict=True))
    assert row["area_m2"] == pytest.approx(10_000)
    assert row["perimeter_m"] == pytest.approx(500)
    assert (row["length_m"], row["width_m"]) == pytest.approx((200, 50), abs=0.01)
    assert row["length_width_ratio"] == pytest.approx(4)
    assert row["compactness"] == pytest.approx(4 * math.pi * 10_000 / 500**2, abs=1e-4)
    assert row["orientation_deg"] == pytest.approx(azimuth, abs=0.1)
    assert row["length_along"] == "rectangle"
    to_lonlat = pyproj.Transformer.from_crs(tiny.UTM, 4326, always_xy=True)
    assert (row["lon"], row["lat"]) == pytest.approx(to_lonlat.transform(400_500, 4_699_500))


def test_length_lies_along_the_slope_where_it_is_known() -> None:
    wide = boxes(turned(200, 50, 90), turned(200, 50, 90))
    columns = shape_columns(wide, tiny.UTM_CRS, np.array([180.0, np.nan]))
    assert columns["length_m"].tolist() == pytest.approx([50, 200], abs=0.01)
    assert columns["width_m"].tolist() == pytest.approx([200, 50], abs=0.01)
    assert columns["orientation_deg"].tolist() == [0, 90]
    assert columns["length_along"].tolist() == ["slope", "rectangle"]


@pytest.mark.parametrize("crs", [LONLAT, MERCATOR, CRS.from_epsg(6933), CRS.from_epsg(2225)])
def test_lengths_are_true_in_any_crs(crs: CRS) -> None:
    """Degrees, Mercator (1.3 times too long here), equal area (out of shape), feet."""
    here = pyproj.Transformer.from_crs(32610, pyproj.CRS(crs), always_xy=True)
    shape = shapely.affinity.translate(turned(200, 50, 30), 100_000, -300_000)
    there = shapely.transform(shape, here.transform, interleaved=False)
    columns = shape_columns(boxes(there), crs)
    assert columns["length_m"][0] == pytest.approx(200, rel=0.005)
    assert columns["width_m"][0] == pytest.approx(50, rel=0.005)
    assert columns["perimeter_m"][0] == pytest.approx(500, rel=0.005)
    assert columns["area_m2"][0] == pytest.approx(10_000, rel=0.005)
    assert shapely.area(in_metres(boxes(there), crs))[0] == pytest.approx(10_000, rel=0.005)


def test_pictures_have_no_place() -> None:
    columns = shape_columns(boxes(shapely.box(0, 0, 4, 2)), None)
    assert "lon" not in columns
    assert columns["area_m2"].tolist() == [8]
    assert shape_columns(boxes(), tiny.UTM_CRS)["area_m2"].shape == (0,)


def map_of(path: Path, codes: NDArray[np.uint8]) -> ProbabilityFile:
    with create_raster(
        path, grid_of(*codes.shape), bands=["probability"], dtype="uint8", nodata=255
    ) as out:
        out.write(codes, 1)
    return ProbabilityFile(path)


def test_probabilities_are_those_of_the_pixels(tmp_path: Path) -> None:
    codes = np.random.default_rng(5).integers(0, 255, (60, 50)).astype(np.uint8)
    codes[20:30, 10:40] = 255
    scene = map_of(tmp_path / "p.tif", codes)
    (polygons,) = landslide_polygons(scene, 0.8, outline="pixels")
    found = certainty_of(polygons, scene, strip_rows=7)
    rows, cols = np.mgrid[:60, :50]
    x, y = scene.grid.transform * (cols + 0.5, rows + 0.5)
    for number, polygon in enumerate(polygons):
        pixels = [tuple(place) for place in np.argwhere(shapely.contains_xy(polygon, x, y))]
        inside = sorted(int(codes[pixel]) for pixel in pixels)
        assert found.mean[number] == pytest.approx(sum(inside) / len(inside) / 254)
        assert found.largest[number] == pytest.approx(inside[-1] / 254)
        tenth = inside[math.ceil(0.1 * len(inside)) - 1]
        assert found.low[number] == pytest.approx(tenth / 254)
        beside = any(
            codes[r, c] == 255
            for row, col in pixels
            for r in range(max(row - 1, 0), min(row + 2, 60))
            for c in range(max(col - 1, 0), min(col + 2, 50))
        )
        assert bool(found.reasons[number]) == beside
    assert set(found.reasons) == {"", "no data"}


def test_small_polygons_take_the_pixels_they_touch(tmp_path: Path) -> None:
    codes = np.full((10, 10), 100, dtype=np.uint8)
    scene = map_of(tmp_path / "p.tif", codes)
    corner = shapely.box(400_008, 4_699_988, 400_012, 4_699_992)
    beyond = shapely.box(500_000, 0, 500_001, 1)
    found = certainty_of(boxes(corner, beyond), scene)
    assert found.mean[0] == pytest.approx(100 / 254)
    assert np.isnan([found.mean[1], found.largest[1], found.low[1]]).all()


def test_why_ground_beside_was_not_seen(tmp_path: Path) -> None:
    codes = np.full((20, 30), 254, dtype=np.uint8)
    codes[:, 14:16] = 0
    scene = map_of(tmp_path / "p.tif", codes)

    class Ground:
        grid = scene.grid

        def read(self, window: Window) -> NDArray[np.uint8]:
            all_codes = np.full((20, 30), OBSERVED, np.uint8)
            all_codes[3, 3], all_codes[5, 5], all_codes[0, 29] = NODATA, UNUSABLE, UNUSABLE
            return all_codes[window.slices]

    (polygons,) = landslide_polygons(scene, 0.5)
    found = certainty_of(polygons, scene, ground=Ground(), strip_rows=4)
    assert found.reasons.tolist() == ["no data; unusable", "unusable"]


def test_classes_are_thirds_above_the_threshold() -> None:
    mean = np.array([0.4, 0.59, 0.61, 0.81, 1.0, np.nan])
    certainty = Certainty(mean, mean, mean, np.zeros(6, np.uint8))
    names = certainty.columns(0.4)["probability_class"].tolist()
    assert names == ["low", "low", "medium", "high", "high", "low"]


def test_what_reaches_the_edge_is_flagged(tmp_path: Path) -> None:
    codes = np.zeros((30, 40), dtype=np.uint8)
    codes[0:3, 5:9] = codes[10:14, 37:40] = codes[27:30, 20:25] = codes[12:16, 0:3] = 254
    codes[5:9, 20:25] = 254
    scene = map_of(tmp_path / "p.tif", codes)
    for outline in ("contour", "pixels"):
        (polygons,) = landslide_polygons(scene, 0.5, outline=outline)
        assert touches_edge(polygons, scene).tolist() == [True, False, True, True, True]


def plane(path: Path, azimuth_deg: float, slope_deg: float, *, grid: Grid | None = None) -> Path:
    """An elevation model that falls in one direction; a cell of 5 m."""
    grid = grid or grid_of(240, 240, size_m=5.0)
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    x, y = grid.transform * (cols, rows)
    down = x * math.sin(math.radians(azimuth_deg)) + y * math.cos(math.radians(azimuth_deg))
    z = (5_000_000 - down) * math.tan(math.radians(slope_deg))
    with create_raster(path, grid, bands=["elevation"], dtype="float64", nodata=math.nan) as out:
        out.write(z, 1)
    return path


@pytest.mark.parametrize("azimuth", [0.0, 45.0, 120.0, 200.0, 315.0])
def test_terrain_of_a_rectangle_on_a_plane(tmp_path: Path, azimuth: float) -> None:
    """200 m down a slope of 30 degrees, 50 m across."""
    shape = boxes(turned(200, 50, azimuth))
    with closing(Terrain(str(plane(tmp_path / "dem.tif", azimuth, 30)), grid_of(100, 100))) as dem:
        relief = dem.measured(shape)
    lengths = shape_columns(shape, tiny.UTM_CRS, relief.way_down_deg)
    found = {name: values[0] for name, values in relief.columns(lengths["length_m"]).items()}
    drop = 200 * math.tan(math.radians(30))
    assert lengths["length_m"][0] == pytest.approx(200, rel=0.01)
    assert lengths["width_m"][0] == pytest.approx(50, rel=0.01)
    assert found["relief_m"] == pytest.approx(drop, rel=0.01)
    assert found["elevation_crown_m"] - found["elevation_toe_m"] == pytest.approx(drop, rel=0.01)
    assert found["slope_mean_deg"] == pytest.approx(30, rel=0.01)
    assert found["slope_max_deg"] == pytest.approx(30, rel=0.01)
    assert abs((found["aspect_deg"] - azimuth + 180) % 360 - 180) < 0.1
    assert found["height_length_ratio"] == pytest.approx(math.tan(math.radians(30)), rel=0.01)
    assert found["travel_angle_deg"] == pytest.approx(30, rel=0.01)
    assert found["dem_cells"] == pytest.approx(400, rel=0.08)


def test_terrain_in_another_crs_and_turned(tmp_path: Path) -> None:
    """The direction downhill is told from the north of the map, whatever the model's is."""
    shape = boxes(turned(300, 60, 110))
    local = pyproj.CRS.from_proj4("+proj=tmerc +lat_0=42.4 +lon_0=132 +datum=WGS84")
    there = pyproj.Transformer.from_crs(tiny.UTM, local, always_xy=True)
    x, y = there.transform(400_500, 4_699_500)
    north = there.transform(400_500, 4_699_600)
    convergence = math.degrees(math.atan2(north[0] - x, north[1] - y))
    assert abs(convergence) > 3
    transform = (
        Affine.translation(x, y) * Affine.rotation(20) * Affine.scale(5, -5)
        * Affine.translation(-150, -150)
    )  # fmt: skip
    grid = Grid(CRS.from_user_input(local), transform, 300, 300)
    path = plane(tmp_path / "dem.tif", 110 + convergence, 25, grid=grid)
    with closing(Terrain(str(path), grid_of(100, 100))) as dem:
        relief = dem.measured(shape)
    assert relief.aspect_deg[0] == pytest.approx(110, abs=0.2)
    assert relief.slope_mean_deg[0] == pytest.approx(25, rel=0.01)
    drop = 300 * math.tan(math.radians(25))
    assert relief.crown_m[0] - relief.toe_m[0] == pytest.approx(drop, rel=0.01)


def test_strips_of_the_model_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(2)
    path = tmp_path / "dem.tif"
    z = random.normal(500, 30, (240, 240))
    z[100:110, 90:130] = np.nan
    with create_raster(
        path, grid_of(240, 240, size_m=5.0), bands=["elevation"], dtype="float64", nodata=math.nan
    ) as out:
        out.write(z, 1)
    x, y = np.mgrid[400_100:401_200:300, 4_699_900:4_698_800:-300].reshape(2, -1)
    discs = shapely.buffer(shapely.points(x + 0.3, y + random.uniform(-50, 50, x.size)), 90)
    with closing(Terrain(str(path), grid_of(120, 120))) as dem:
        whole = dem.measured(discs)
        monkeypatch.setattr("landslip.inventory.relief.STRIP_PIXELS", 240 * 16)
        strips = dem.measured(discs)
    for name in ("cells", "crown_m", "toe_m", "slope_mean_deg", "slope_max_deg", "aspect_deg"):
        np.testing.assert_allclose(getattr(strips, name), getattr(whole, name), rtol=1e-12)


def test_little_terrain_is_not_told(tmp_path: Path) -> None:
    """A coarse model, a hole, and ground beyond it."""
    coarse = plane(tmp_path / "coarse.tif", 90, 20, grid=grid_of(12, 12, size_m=90.0))
    shapes = boxes(
        shapely.box(400_100, 4_699_800, 400_160, 4_699_860),
        turned(400, 300, 0),
        shapely.box(405_000, 4_699_000, 405_200, 4_699_300),
    )
    with closing(Terrain(str(coarse), grid_of(100, 100))) as dem:
        relief = dem.measured(shapes)
        columns = relief.columns(np.ones(3))
    assert columns["dem_cells"].tolist() == [0, 15, 0]
    for name, values in columns.items():
        if name != "dem_cells":
            assert np.isnan(values[[0, 2]]).all()
            assert np.isfinite(values[1])
    assert np.isnan(relief.way_down_deg[[0, 2]]).all()


def test_flat_ground_has_no_way_down(tmp_path: Path) -> None:
    flat = plane(tmp_path / "flat.tif", 90, 0)
    gentle = plane(tmp_path / "gentle.tif", 90, 1)
    shape = boxes(turned(200, 50, 0))
    for path in (flat, gentle):
        with closing(Terrain(str(path), grid_of(100, 100))) as dem:
            relief = dem.measured(shape)
        assert np.isnan(relief.way_down_deg[0])
        assert relief.slope_mean_deg[0] < 1.01


def test_a_model_elsewhere_or_without_position_is_refused(tmp_path: Path) -> None:
    path = plane(tmp_path / "dem.tif", 90, 20)
    away = Grid(tiny.UTM_CRS, tiny.transform_of(10, west=700_000), 50, 50)
    with pytest.raises(RasterError, match="does not cover the map"):
        Terrain(str(path), away)
    with pytest.raises(RasterError, match="the map has no coordinate reference system"):
        Terrain(str(path), grid_of(50, 50, crs=None))


def test_greenness_and_its_change() -> None:
    grid = grid_of(20, 30)
    values = np.zeros((4, 20, 30), np.float32)
    values[0], values[1], values[2], values[3] = 30, 10, 60, 20  # nir, red, before
    values[0, :, 15:], values[2, :, 15:] = 10, 180
    valid = np.ones((20, 30), bool)
    valid[:, 3] = False
    values[:, ~valid] = 0
    scene = Raster(values, valid, ("nir", "red", "pre_nir", "pre_red"), grid)
    transform = grid.transform
    shapes = boxes(
        tiny.box_at((2, 2, 5, 5), transform), tiny.box_at((5, 20, 5, 5), transform),
        tiny.box_at((10, 3, 2, 1), transform),
    )  # fmt: skip
    columns = spectral_columns(shapes, scene)
    np.testing.assert_allclose(columns["ndvi_mean"], [0.5, 0, np.nan], atol=1e-6)
    np.testing.assert_allclose(columns["ndvi_change"], [0, -0.8, np.nan], atol=1e-6)
    now = Raster(values[:2], valid, ("nir", "red"), grid)
    assert set(spectral_columns(shapes, now)) == {"ndvi_mean"}
    assert spectral_columns(shapes, Raster(values[:1], valid, ("nir",), grid)) == {}
