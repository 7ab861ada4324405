import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip.geo.errors import BandError, RasterError
from landslip.geo.grid import Grid, Window
from landslip.geo.terrain import TerrainScene, pixel_steps_m, slope_deg
from landslip.geo.windows import cover

WriteRaster = Callable[..., Path]

FRAMES = {
    "utm": Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000), 40, 60),
    "turned": Grid(
        CRS.from_epsg(32648),
        Affine(10, 0, 500_000, 0, -10, 3_800_000) * Affine.rotation(30),
        40,
        60,
    ),
    "northwards": Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, 10, 3_800_000), 40, 60),
    "degrees": Grid(CRS.from_epsg(4326), Affine(1e-4, 0, 105, 0, -1e-4, 34.34), 40, 60),
    "far north": Grid(CRS.from_epsg(4326), Affine(2e-4, 0, 25, 0, -1e-4, 70), 40, 60),
    "mercator": Grid(
        CRS.from_epsg(3857), Affine(12, 0, 11_688_546, 0, -12, 4_070_000), 40, 60
    ),
    "feet": Grid(CRS.from_epsg(2225), Affine(30, 0, 6_600_000, 0, -30, 2_000_000), 40, 60),
}  # fmt: skip


def plane(grid: Grid, slope: float, towards: float) -> NDArray[np.float32]:
    """Heights (1, H, W) in metres that rise by `slope` degrees to an azimuth, in true metres."""
    assert grid.crs is not None
    rows, cols = np.indices(grid.shape) + 0.5
    points = zip(cols.ravel(), rows.ravel(), strict=True)
    xs, ys = zip(*(grid.transform * point for point in points), strict=True)
    to_lonlat = pyproj.Transformer.from_crs(
        pyproj.CRS.from_user_input(grid.crs), 4326, always_xy=True
    )
    lons, lats = to_lonlat.transform(xs, ys)
    start = np.full(len(lons), np.mean(lons)), np.full(len(lats), np.mean(lats))
    azimuth, _, distance = pyproj.Geod(ellps="WGS84").inv(*start, lons, lats)
    along = distance * np.cos(np.radians(np.asarray(azimuth) - towards))
    heights = 500 + math.tan(math.radians(slope)) * along
    return np.asarray(heights, dtype=np.float32).reshape(1, *grid.shape)


@pytest.mark.parametrize("towards", [0, 90, 225])
@pytest.mark.parametrize("frame", FRAMES)
def test_planes_have_their_slope(write_raster: WriteRaster, frame: str, towards: float) -> None:
    grid = FRAMES[frame]
    path = write_raster("dem.tif", plane(grid, 30, towards), grid=grid)
    with TerrainScene(str(path), grid) as scene:
        found = scene.read(grid.window, ["slope"])
    # Azimuths turn a little across a frame; UTM is true to length within .04 %.
    inner = found.values[0, 1:-1, 1:-1]
    assert found.valid[1:-1, 1:-1].all()
    assert np.abs(inner - 30).max() < 0.1


def test_flat_and_steep() -> None:
    flat = slope_deg(np.zeros((5, 6)), 1.0, 1.0)
    assert flat.shape == (3, 4)
    assert (flat == 0).all()
    steep = slope_deg(np.indices((5, 6))[1] * 1e6, 1.0, 1.0)
    assert np.allclose(steep, 90, atol=1e-3)


def test_slope_is_unknown_beside_unknown_ground() -> None:
    heights = np.zeros((7, 7))
    heights[3, 3] = np.nan
    slope = slope_deg(heights, 1.0, 1.0)
    assert np.isnan(slope[1:4, 1:4][[0, 0, 2, 2], [0, 2, 0, 2]]).all()
    assert np.isnan(slope).sum() == 8 or np.isnan(slope).sum() == 9
    assert not np.isnan(slope[0]).any()


def test_pixel_steps_follow_the_latitude() -> None:
    grid = FRAMES["far north"]
    widths, height = pixel_steps_m(grid)
    assert widths.shape == (40, 1)
    geod = pyproj.Geod(ellps="WGS84")
    for row in (0, 39):
        lat = 70 - 1e-4 * (row + 0.5)
        assert widths[row, 0] == pytest.approx(geod.inv(25, lat, 25.0002, lat)[2], rel=1e-6)
    assert height == pytest.approx(geod.inv(25, 70, 25, 69.9999)[2], rel=1e-5)


def test_pixel_steps_of_turned_pixels_keep_their_size() -> None:
    widths, height = pixel_steps_m(FRAMES["turned"])
    assert widths[0, 0] == pytest.approx(10)
    assert height == pytest.approx(10)


def test_terrain_on_another_grid(write_raster: WriteRaster, degree_grid: Grid) -> None:
    wide = FRAMES["utm"].crop(Window(-20, -20, 120, 120))
    path = write_raster("dem.tif", plane(wide, 20, 45), grid=wide)
    with TerrainScene(str(path), degree_grid) as scene:
        assert scene.bands == ("elevation", "slope")
        whole = scene.read(degree_grid.window, ["slope", "elevation"])
        assert whole.bands == ("slope", "elevation")
        assert whole.valid.all()
        assert np.abs(whole.values[0] - 20).max() < 0.1
        for window in cover(degree_grid, 13):
            rows, cols = window.slices
            part = scene.read(window, ["slope", "elevation"])
            assert (part.values == whole.values[:, rows, cols]).all()


def test_unknown_heights_are_not_valid_and_never_used(
    write_raster: WriteRaster, utm_grid: Grid
) -> None:
    heights = np.full((1, 40, 60), 100, dtype=np.int16)
    heights[0, :10] = -32768
    path = write_raster("dem.tif", heights, nodata=-32768)
    shifted = replace(utm_grid, transform=utm_grid.transform * Affine.translation(0.5, 0.5))
    with TerrainScene(str(path), shifted) as scene:
        found = scene.read(utm_grid.window, ["elevation", "slope"])
    assert not found.valid[:9].any()
    assert found.valid[11:-2, 1:-2].all()
    assert (found.values[0][found.valid] == 100).all()
    assert (found.values[1][found.valid] == 0).all()


def test_terrain_elsewhere_is_refused(write_raster: WriteRaster, utm_grid: Grid) -> None:
    far = utm_grid.crop(Window(1000, 1000, 40, 60))
    path = write_raster("dem.tif", np.ones((1, 40, 60), np.float32), grid=far)
    with TerrainScene(str(path), utm_grid) as scene, pytest.raises(RasterError, match="not cover"):
        scene.read(utm_grid.window, ["slope"])


def test_terrain_knows_two_bands_and_cleans_up(write_raster: WriteRaster, utm_grid: Grid) -> None:
    path = write_raster("dem.tif", np.ones((1, 40, 60), np.float32))
    scene = TerrainScene(str(path), utm_grid)
    with pytest.raises(BandError, match="aspect"):
        scene.read(utm_grid.window, ["aspect"])
    scene.read(utm_grid.window, ["slope"])
    assert scene._folder is not None
    folder = Path(scene._folder.name)
    assert (folder / "slope.tif").exists()
    scene.close()
    assert not folder.exists()
