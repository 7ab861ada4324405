"""Tiny scenes and polygons, each with its coordinate frame in the docstring of its fixture."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import settings
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip.geo.grid import Grid

WriteRaster = Callable[..., Path]
WritePolygons = Callable[..., Path]

# Examples are timed by what else runs on the machine.
settings.register_profile("landslip", deadline=None)
settings.load_profile("landslip")

DATA = os.environ.get("LANDSLIP_DATA", "")


def pytest_configure(config: pytest.Config) -> None:
    """Let two warnings pass.

    Affine 3 prefers `@` to `*`, affine 2 knows only `*`; rasterio 1.4 sets shapes, which NumPy 2.5
    no longer likes.
    """
    config.addinivalue_line("filterwarnings", "ignore:Use `@` matmul:PendingDeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:Setting the shape:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests on real data where there is none."""
    if not DATA:
        missing = pytest.mark.skip(reason="LANDSLIP_DATA does not name a folder of real data")
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where there is real data, a test on it that skips has failed."""
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    if DATA and report.skipped and item.get_closest_marker("data") and not expected_failure:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although LANDSLIP_DATA is set"
    return report


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real data (see the README there)."""
    return Path(DATA)


@pytest.fixture
def utm_grid() -> Grid:
    """EPSG:32648, corner 500 km E, 3800 km N: 40 rows x 60 columns of 10 m."""
    return Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000), 40, 60)


@pytest.fixture
def degree_grid() -> Grid:
    """EPSG:4326 over the same corner (105 E, about 34.34 N): 30 x 50 pixels of 1e-4 degrees."""
    return Grid(CRS.from_epsg(4326), Affine(1e-4, 0, 105.0, 0, -1e-4, 34.34), 30, 50)


@pytest.fixture
def write_raster(tmp_path: Path, utm_grid: Grid) -> WriteRaster:
    """Write values (C, H, W) as GeoTIFF `name` in the test's folder; `grid` None: no position."""

    def write(
        name: str,
        values: NDArray[Any],
        *,
        bands: Sequence[str | None] | None = None,
        grid: Grid | None = utm_grid,
        **profile: Any,
    ) -> Path:
        path = tmp_path / name
        count, height, width = values.shape
        if grid is not None:
            profile |= {"crs": grid.crs, "transform": grid.transform}
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=values.dtype,
            **profile,
        ) as dataset:
            dataset.write(values)
            for number, text in enumerate(bands or [], 1):
                if text is not None:
                    dataset.set_band_description(number, text)
        return path

    return write


@pytest.fixture
def write_polygons(tmp_path: Path) -> WritePolygons:
    """Write polygons as GeoPackage `name` (layer `landslides`), by default in EPSG:32648."""

    def write(
        name: str,
        geometries: Sequence[Any],
        *,
        crs: Any = 32648,
        layer: str = "landslides",
        **columns: Sequence[Any],
    ) -> Path:
        import geopandas as gpd

        path = tmp_path / name
        frame = gpd.GeoDataFrame(columns, geometry=list(geometries), crs=crs)
        frame.to_file(path, layer=layer, driver="GPKG" if path.suffix == ".gpkg" else None)
        return path

    return write


def ramp(grid: Grid, bands: int = 3) -> NDArray[np.uint16]:
    """Values (C, H, W) that tell band, row and column apart: 10000 c + 100 row + column + 1."""
    band, row, col = np.indices((bands, *grid.shape))
    values: NDArray[np.uint16] = (10_000 * band + 100 * row + col + 1).astype(np.uint16)
    return values


@pytest.fixture
def utm_scene(write_raster: WriteRaster, utm_grid: Grid) -> Path:
    """Bands nir, red, green (uint16, see `ramp`) on `utm_grid`; nodata 0 at rows 0-3, columns 0-4.

    Column 59 is nodata in the nir band only.
    """
    values = ramp(utm_grid)
    values[:, :4, :5] = 0
    values[0, :, 59] = 0
    return write_raster("utm.tif", values, bands=["nir", "red", "green"], nodata=0)


@pytest.fixture
def degree_scene(write_raster: WriteRaster, degree_grid: Grid) -> Path:
    """Bands red, green, blue (uint16, see `ramp`) on `degree_grid`; no nodata."""
    return write_raster(
        "degrees.tif", ramp(degree_grid), bands=["red", "green", "blue"], grid=degree_grid
    )


@pytest.fixture
def plain_scene(tmp_path: Path) -> Path:
    """A picture without position: red, green, blue (uint8), 40 rows x 60 columns of 1 unit."""
    from landslip.geo.raster import create_raster

    path = tmp_path / "plain.tif"
    grid = Grid(None, Affine.identity(), 40, 60)
    with create_raster(path, grid, bands=["red", "green", "blue"], dtype="uint8") as out:
        out.write((np.indices((3, 40, 60)).sum(axis=0) + 1).astype(np.uint8))
    return path


@pytest.fixture
def slides(write_polygons: WritePolygons, utm_grid: Grid) -> Path:
    """Three landslides on `utm_grid`, with a `status`.

    Rows 10-14, columns 20-26 (7 x 5 pixels, 3,500 m2) accepted; rows 30-33, columns 40-43
    rejected; a third, accepted, lies 10 km further east.
    """
    first = shapely.box(500_200, 3_799_850, 500_270, 3_799_900)
    second = shapely.box(500_400, 3_799_660, 500_440, 3_799_700)
    third = shapely.box(510_000, 3_799_850, 510_070, 3_799_900)
    return write_polygons(
        "slides.gpkg", [first, second, third], status=["accepted", "rejected", "accepted"]
    )


@pytest.fixture
def hasty_halo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that look at few windows for their halo, which else takes half of their time."""
    from landslip.learn import halo, train

    monkeypatch.setattr(train, "HALO_IMAGES", 2)
    monkeypatch.setattr(halo, "WINDOWS", 4)
