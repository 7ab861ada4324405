from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import transform

from landslip.geo.grid import Grid, Window
from landslip.geo.raster import FileScene
from landslip.geo.resample import UpsampledScene, cubic_weights, filled
from reference import cubic_at
from tiny import write_scene

UTM = CRS.from_epsg(32654)
COARSE = Affine(3.3, 0, 400_000, 0, -3.3, 4_700_000)
NAMES = ("red", "nir")


def fine_grid(
    size_m: float = 1.0, right_m: float = 0.0, down_m: float = 0.0, shape: Any = (60, 75)
) -> Grid:
    """A grid of fine pixels whose corner lies right of and below the corner of COARSE."""
    moved = Affine(size_m, 0, COARSE.c + right_m, 0, -size_m, COARSE.f - down_m)
    return Grid(UTM, moved, *shape)


@pytest.fixture
def coarse(tmp_path: Path) -> Callable[..., FileScene]:
    """Opens a file of 20 x 25 px of 3.3 m; by default of noise from 1 to 200."""

    def make(values: NDArray[Any] | None = None, nodata: float | None = None) -> FileScene:
        path = write_scene(
            tmp_path / "coarse.tif", values, height=20, width=25, bands=NAMES, transform=COARSE,
            nodata=nodata,
        )  # fmt: skip
        return FileScene.open(path)

    return make


def whole(scene: UpsampledScene) -> NDArray[Any]:
    return scene.read(scene.grid.window, scene.bands).values


def test_weights_sum_to_one_and_take_the_pixel_itself_at_its_middle() -> None:
    offsets = np.linspace(0, 1, 101)
    weights = cubic_weights(offsets)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    assert weights[:, 0].tolist() == [0, 1, 0, 0]
    assert weights[:, -1].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("right_m, down_m", [(0.0, 0.0), (1.7, 0.4), (-2.3, -5.0)])
def test_every_pixel_is_the_cubic_convolution_at_its_middle(
    coarse: Callable[..., FileScene], right_m: float, down_m: float
) -> None:
    source = coarse()
    plane = source.read(source.grid.window, ["nir"]).values[0].astype(np.float64)
    scene = UpsampledScene(source, fine_grid(1.0, right_m, down_m))
    raster = scene.read(scene.grid.window, ["nir"])
    for row, col in [(0, 0), (3, 7), (20, 11), (31, 44), (59, 74), (59, 3), (8, 74)]:
        at = (row + 0.5 + down_m) / 3.3, (col + 0.5 + right_m) / 3.3
        is_inside = 0 <= at[0] < 20 and 0 <= at[1] < 25
        assert raster.valid[row, col] == is_inside
        if is_inside:
            assert raster.values[0, row, col] == pytest.approx(cubic_at(plane, *at), abs=1e-3)
        else:
            assert raster.values[0, row, col] == 0


def test_a_slope_stays_a_slope_half_pixels_heeded(coarse: Callable[..., FileScene]) -> None:
    rows, cols = np.indices((20, 25)) + 0.5
    slope = (100 + 3.3 * (2 * rows + cols)).astype(np.float32)  # 2 a metre down, 1 to the right
    scene = UpsampledScene(coarse(np.stack([slope, slope])), fine_grid())
    down, right = np.indices((60, 75)) + 0.5
    inner = np.s_[7:53, 7:68]
    np.testing.assert_allclose(whole(scene)[0][inner], (100 + 2 * down + right)[inner], rtol=1e-5)


def test_what_gdal_gives_is_the_same_inside(coarse: Callable[..., FileScene]) -> None:
    source, grid = coarse(), fine_grid(1.0, 0.7, 0.3)
    scene = UpsampledScene(source, grid)
    warped = source.laid_over(grid, Resampling.cubic)
    inner = np.s_[:, 7:53, 7:68]
    theirs = warped.read(grid.window, NAMES).values
    np.testing.assert_allclose(whole(scene)[inner], theirs[inner], atol=1e-3)


@given(data=st.data())
def test_no_pixel_depends_on_its_window(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("coarse") / "coarse.tif"
    values = np.random.default_rng(1).integers(0, 4, (2, 20, 25)).astype(np.uint16)
    write_scene(path, values, bands=NAMES, transform=COARSE, nodata=0)
    size_m = data.draw(st.sampled_from([1.0, 0.9, 3.3 / 4, 0.333, 2.7]))
    right_m = data.draw(st.floats(-9, 9))
    scene = UpsampledScene(FileScene.open(path), fine_grid(size_m, right_m, 0.1))
    row, col = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 60))
    height, width = data.draw(st.integers(1, 60 - row)), data.draw(st.integers(1, 75 - col))
    window = Window(row, col, height, width)
    part, all_of_it = scene.read(window, NAMES), scene.read(scene.grid.window, NAMES)
    rows, cols = window.slices
    assert part.values.tobytes() == all_of_it.values[:, rows, cols].tobytes()
    assert (part.valid == all_of_it.valid[rows, cols]).all()
    assert (scene.valid(window) == part.valid).all()


def test_nothing_bleeds_from_nodata(coarse: Callable[..., FileScene]) -> None:
    values = np.full((2, 20, 25), 1000, dtype=np.uint16)
    values[:, 5:9, 10:16] = 0
    values[1, 12, 12] = 0
    scene = UpsampledScene(coarse(values, nodata=0), fine_grid())
    raster = scene.read(scene.grid.window, NAMES)
    np.testing.assert_allclose(raster.values[:, raster.valid], 1000, rtol=1e-6)
    rows = np.floor((np.arange(60) + 0.5) / 3.3).astype(int)
    cols = np.floor((np.arange(75) + 0.5) / 3.3).astype(int)
    known: NDArray[np.bool_] = np.asarray((values > 0).all(axis=0))
    expected = known[np.ix_(rows, cols)]
    assert (raster.valid == expected).all()


def test_filling_reaches_two_pixels_and_takes_neighbours_only() -> None:
    planes = np.zeros((1, 7, 7), dtype=np.float32)
    valid = np.zeros((7, 7), dtype=bool)
    valid[3, 3], planes[0, 3, 3] = True, 5
    found = filled(planes, valid)
    assert (found[0, 1:6, 1:6] == 5).all()
    assert found[0].sum() == 25 * 5


def test_grids_in_another_crs_are_laid_over_each_other(tmp_path: Path) -> None:
    # A slope in longitude, in degrees, under a grid in metres.
    lon, lat = transform(UTM, CRS.from_epsg(4326), [400_000], [4_700_000])
    degrees = Affine(4e-5, 0, lon[0] - 4e-4, 0, -4e-5, lat[0] + 4e-4)
    slope = np.tile(np.arange(60, dtype=np.float32) * 10 + 100, (2, 50, 1))
    path = write_scene(tmp_path / "d.tif", slope, bands=NAMES, transform=degrees, crs="EPSG:4326")
    grid = fine_grid(shape=(70, 60))
    scene = UpsampledScene(FileScene.open(path), grid)
    raster = scene.read(grid.window, NAMES)
    rows, cols = np.indices(grid.shape) + 0.5
    xs, ys = grid.transform * (cols.ravel(), rows.ravel())
    lons, _ = transform(UTM, CRS.from_epsg(4326), xs, ys)
    expected = 100 + 10 * ((np.array(lons) - degrees.c) / 4e-5 - 0.5)
    assert raster.valid.all()
    np.testing.assert_allclose(raster.values[0].ravel(), expected, atol=0.02)
    part = scene.read(Window(13, 21, 20, 17), NAMES)
    assert part.values.tobytes() == raster.values[:, 13:33, 21:38].tobytes()
