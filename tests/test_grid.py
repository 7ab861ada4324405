from dataclasses import replace

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window, linear_unit_m

WINDOWS = st.builds(
    Window, st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 30), st.integers(1, 30)
)


def pixels(window: Window) -> set[tuple[int, int]]:
    rows = range(window.row, window.row_stop)
    return {(row, col) for row in rows for col in range(window.col, window.col_stop)}


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (-3, 4)])
def test_windows_and_grids_need_pixels(height: int, width: int) -> None:
    with pytest.raises(UsageError, match=f"{height} x {width} px"):
        Window(0, 0, height, width)
    with pytest.raises(UsageError, match=f"{height} x {width} px"):
        Grid(None, Affine.identity(), height, width)


@given(WINDOWS, WINDOWS)
def test_intersection_is_what_both_share(first: Window, second: Window) -> None:
    shared = first.intersection(second)
    assert (pixels(shared) if shared else set()) == pixels(first) & pixels(second)
    assert shared == second.intersection(first)


@given(WINDOWS, WINDOWS)
def test_relative_windows_come_back(window: Window, origin: Window) -> None:
    moved = window.relative_to(origin)
    assert moved.relative_to(Window(-origin.row, -origin.col, 1, 1)) == window


@given(WINDOWS, st.integers(0, 5))
def test_grown_windows_hold_the_margin(window: Window, margin: int) -> None:
    grown = window.grown(margin)
    assert grown.height == window.height + 2 * margin
    assert grown.intersection(window) == window
    assert window.row - grown.row == margin


def test_grids_are_equal_when_aligned(utm_grid: Grid) -> None:
    same = Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000), 40, 60)
    assert same == utm_grid
    assert hash(same) == hash(utm_grid)
    assert utm_grid.crop(Window(0, 1, 40, 59)) != utm_grid


def test_crop_moves_the_corner_and_may_reach_beyond(utm_grid: Grid) -> None:
    cropped = utm_grid.crop(Window(-1, 2, 3, 100))
    assert cropped.shape == (3, 100)
    assert cropped.transform * (0, 0) == (500_020, 3_800_010)


def test_footprint_of_a_rotated_grid_has_its_area(utm_grid: Grid) -> None:
    turned = replace(utm_grid, transform=utm_grid.transform * Affine.rotation(30))
    assert turned.footprint().area == pytest.approx(40 * 60 * 100)


@pytest.mark.parametrize(
    ("bounds", "window"),
    [
        ((500_000, 3_799_600, 500_600, 3_800_000), Window(0, 0, 40, 60)),
        ((500_011, 3_799_979, 500_012, 3_799_981), Window(1, 1, 2, 1)),
        ((500_015, 3_799_985, 500_015, 3_799_985), Window(1, 1, 1, 1)),
        ((0, 0, 1e7, 1e7), Window(0, 0, 40, 60)),
        ((600_000, 3_799_600, 600_600, 3_800_000), None),
        ((np.inf, 0, np.inf, 1), None),
    ],
)
def test_window_of_bounds(
    utm_grid: Grid, bounds: tuple[float, float, float, float], window: Window | None
) -> None:
    assert utm_grid.window_of(bounds) == window


def test_window_of_bounds_on_a_grid_that_runs_north() -> None:
    grid = Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, 10, 3_800_000), 40, 60)
    assert grid.window_of((500_000, 3_800_000, 500_010, 3_800_020)) == Window(0, 0, 2, 1)


def test_pixel_area_is_planar_in_utm(utm_grid: Grid) -> None:
    assert utm_grid.pixel_area_m2([0, 39]).tolist() == [100, 100]
    assert utm_grid.pixel_size_m == 10


def test_pixel_area_in_degrees_is_geodesic(degree_grid: Grid) -> None:
    geod = pyproj.Geod(ellps="WGS84")
    _, _, width = geod.inv(105, 34.34, 105.0001, 34.34)
    _, _, height = geod.inv(105, 34.34, 105, 34.3399)
    assert float(degree_grid.pixel_area_m2(0)) == pytest.approx(width * height, rel=1e-5)
    assert degree_grid.pixel_area_m2(np.zeros((2, 3))).shape == (2, 3)
    assert degree_grid.pixel_size_m == pytest.approx(np.sqrt(width * height), rel=1e-4)


def test_web_mercator_is_not_believed() -> None:
    to_mercator = pyproj.Transformer.from_crs(4326, 3857, always_xy=True)
    x, y = to_mercator.transform(105.0, 34.0)
    grid = Grid(CRS.from_epsg(3857), Affine(10, 0, x, 0, -10, y), 20, 20)
    assert 100 / float(grid.pixel_area_m2(0)) == pytest.approx(1.46, abs=0.01)


def test_feet_are_made_metres() -> None:
    feet = CRS.from_epsg(2225)  # California zone 1, US survey feet
    grid = Grid(feet, Affine(3, 0, 6_600_000, 0, -3, 2_000_000), 10, 10)
    assert linear_unit_m(feet) == pytest.approx(0.3048006)
    assert grid.pixel_size_m == pytest.approx(3 * 0.3048006)


def test_without_crs_units_are_taken_for_metres() -> None:
    grid = Grid(None, Affine.scale(2, -2), 5, 5)
    assert grid.is_planar
    assert not grid.is_geographic
    assert grid.pixel_size_m == 2


@pytest.mark.parametrize("pixel_size_m", [3.0, 10.0, 25.0, 7000.0])
def test_resampled_grids_cover_the_same_ground(utm_grid: Grid, pixel_size_m: float) -> None:
    other = utm_grid.resampled(pixel_size_m)
    assert other.footprint().equals_exact(utm_grid.footprint(), 1e-6)
    if pixel_size_m < 1000:
        assert other.pixel_size_m == pytest.approx(pixel_size_m, rel=0.05)
