import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely

from landslip.geo.errors import BandError, InventoryError, RasterError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import Raster, Scene
from landslip.geo.scene import (
    COVERED,
    NODATA,
    OBSERVED,
    OUTSIDE,
    REASONS,
    UNUSABLE,
    StackedScene,
    as_scene,
    open_scene,
)
from landslip.geo.windows import cover

WriteRaster = Callable[..., Path]
WritePolygons = Callable[..., Path]


@pytest.fixture
def before(write_raster: WriteRaster) -> Path:
    """Bands nir 30, red 10, green 20 (uint16) on `utm_grid`; nodata 0 in row 39."""
    values = np.zeros((3, 40, 60), dtype=np.uint16)
    values[:] = np.array([30, 10, 20])[:, None, None]
    values[:, 39] = 0
    return write_raster("before.tif", values, bands=["nir", "red", "green"], nodata=0)


@pytest.fixture
def dem(write_raster: WriteRaster, utm_grid: Grid) -> Path:
    """Heights that rise by 10 m a pixel to the east (45 degrees), around `utm_grid`, in 10 m."""
    wide = utm_grid.crop(Window(-10, -10, 60, 80))
    heights = np.broadcast_to(np.arange(80, dtype=np.float32) * 10, (1, 60, 80)).copy()
    return write_raster("dem.tif", heights, grid=wide)


@pytest.fixture
def west(write_polygons: WritePolygons) -> Path:
    """Columns 0-29 of `utm_grid`."""
    return write_polygons("west.gpkg", [shapely.box(500_000, 3_799_600, 500_300, 3_800_000)])


@pytest.fixture
def north(write_polygons: WritePolygons) -> Path:
    """Rows 0-9 of `utm_grid`."""
    return write_polygons("north.gpkg", [shapely.box(500_000, 3_799_900, 500_600, 3_800_000)])


def test_one_file_is_a_scene(utm_scene: Path, utm_grid: Grid) -> None:
    scene = open_scene(utm_scene)
    assert isinstance(scene, Scene)
    assert scene.grid == utm_grid
    assert scene.bands == ("nir", "red", "green")
    assert scene.dtype == "uint16"
    part = scene.read(Window(6, 7, 2, 3), ["green", "nir"])
    assert part.values[:, 0, 0].tolist() == [20_608, 608]
    assert part.grid == utm_grid.crop(Window(6, 7, 2, 3))
    assert [source.role for source in scene.sources] == ["scene"]
    scene.close()


def test_only_the_bands_asked_for_decide_what_is_valid(utm_scene: Path, utm_grid: Grid) -> None:
    scene = open_scene(utm_scene)
    assert scene.read(utm_grid.window, ["red"]).valid[:, 59].all()
    assert not scene.read(utm_grid.window, ["ndvi"]).valid[:, 59].any()


def test_everything_is_stacked_in_order(
    utm_scene: Path, before: Path, dem: Path, write_raster: WriteRaster, utm_grid: Grid
) -> None:
    ndsm = write_raster("ndsm.tif", np.full((2, 40, 60), 3.5, np.float32))
    scene = open_scene(utm_scene, add=[f"{ndsm}:-,height_above_ground"], pre=before, dem=dem)
    assert scene.bands == (
        *("nir", "red", "green", "height_above_ground", "pre_nir", "pre_red", "pre_green"),
        *("elevation", "slope"),
    )
    assert [source.role for source in scene.sources] == ["scene", "add", "pre", "dem"]
    wanted = ["slope", "pre_ndvi", "nir", "height_above_ground", "ndvi"]
    part = scene.read(utm_grid.window, wanted)
    assert part.bands == tuple(wanted)
    assert part.values.dtype == np.float32
    row, col = 20, 30
    nir, red = 100 * row + col + 1, 10_000 + 100 * row + col + 1
    expected = [45, 0.5, nir, 3.5, (nir - red) / (nir + red)]
    assert part.values[:, row, col] == pytest.approx(expected, rel=1e-6)
    assert not part.valid[39].any()
    for window in cover(utm_grid, 17):
        rows, cols = window.slices
        assert (scene.read(window, wanted).values == part.values[:, rows, cols]).all()
    scene.close()


def test_a_scene_from_before_on_another_grid_keeps_its_nodata(
    utm_scene: Path, write_raster: WriteRaster, utm_grid: Grid
) -> None:
    coarse = utm_grid.resampled(20)
    values = np.full((1, *coarse.shape), 1000, dtype=np.uint16)
    values[0, :, 15:] = 0
    pre = write_raster("coarse.tif", values, bands=["red"], grid=coarse, nodata=0)
    found = open_scene(utm_scene, pre=pre).read(utm_grid.window, ["pre_red"])
    assert found.valid[:, :30].all()
    assert not found.valid[:, 31:].any()
    assert set(np.unique(found.values[:, found.valid])) == {1000}


def test_names_given_for_the_scene_name_the_one_before_where_it_does_not(
    write_raster: WriteRaster, before: Path
) -> None:
    plain = write_raster("plain.tif", np.ones((3, 40, 60), np.uint16))
    names = ["nir", "green", "red"]
    both = open_scene(plain, bands=names, pre=plain)
    assert both.bands[3:] == ("pre_nir", "pre_green", "pre_red")
    described = open_scene(plain, bands=names, pre=before)
    assert described.bands[3:] == ("pre_nir", "pre_red", "pre_green")
    assert open_scene(plain, unnamed=True, pre=plain).bands[3:] == (
        *("pre_band1", "pre_band2", "pre_band3"),
    )
    with pytest.raises(BandError, match="does not name its 3 bands"):
        open_scene(before, pre=plain)


def test_unusable_ground_and_the_area_of_interest(
    utm_scene: Path, west: Path, north: Path, utm_grid: Grid
) -> None:
    scene = open_scene(utm_scene, aoi=west, unusable=north)
    codes = scene.excluded(utm_grid.window)
    assert (codes[10:, :30] == OBSERVED).all()
    assert (codes[:10, :30] == UNUSABLE).all()
    assert (codes[:, 30:] == OUTSIDE).all()
    assert set(REASONS) == {NODATA, UNUSABLE, OUTSIDE, COVERED}
    found = scene.read(utm_grid.window, ["red"])
    assert (found.valid == (codes == OBSERVED)).all()
    assert (found.values[:, ~found.valid] == 0).all()
    for window in cover(utm_grid, 13):
        assert (scene.excluded(window) == codes[window.slices]).all()
        assert (scene.read(window, ["red"]).valid == found.valid[window.slices]).all()
    assert [source.role for source in scene.sources] == ["scene", "aoi", "unusable"]


def test_unusable_ground_as_a_raster(
    utm_scene: Path, write_raster: WriteRaster, utm_grid: Grid
) -> None:
    finer = utm_grid.resampled(5)
    cloud = np.zeros((1, *finer.shape), dtype=np.uint8)
    cloud[0, 20:30, 40:60] = 3
    scene = open_scene(utm_scene, unusable=write_raster("cloud.tif", cloud, grid=finer))
    codes = scene.excluded(utm_grid.window)
    assert (codes[10:15, 20:30] == UNUSABLE).all()
    assert (codes == UNUSABLE).sum() == 50


def test_ground_beyond_a_raster_of_clouds_is_usable(
    utm_scene: Path, write_raster: WriteRaster, utm_grid: Grid
) -> None:
    part = utm_grid.crop(Window(0, 0, 10, 10))
    cloud = write_raster("cloud.tif", np.ones((1, 10, 10), np.uint8), grid=part)
    codes = open_scene(utm_scene, unusable=cloud).excluded(utm_grid.window)
    assert (codes == UNUSABLE).sum() == 100


@pytest.mark.parametrize(
    ("add", "text"),
    [("{}:nir", "nir would be there twice"), ("{}:slope,NIR,red", "nir, red, slope would be")],
)
def test_names_are_never_there_twice(
    utm_scene: Path, dem: Path, write_raster: WriteRaster, add: str, text: str
) -> None:
    count = add.count(",") + 1
    other = write_raster("other.tif", np.ones((count, 40, 60), np.uint8))
    with pytest.raises(BandError, match=text):
        open_scene(utm_scene, add=[add.format(other)], dem=dem)


@pytest.mark.parametrize("text", ["ndsm.tif", "ndsm.tif:", ":nir", ""])
def test_added_bands_need_a_file_and_names(utm_scene: Path, text: str) -> None:
    with pytest.raises(UsageError, match="expected FILE:name,name"):
        open_scene(utm_scene, add=[text])


def test_files_that_are_missing_are_told(utm_scene: Path, tmp_path: Path) -> None:
    none = tmp_path / "none.tif"
    for options in ({"dem": none}, {"pre": none}, {"unusable": none}):
        with pytest.raises(RasterError, match=r"none\.tif: there is no such file"):
            open_scene(utm_scene, **options)  # type: ignore[arg-type]
    with pytest.raises(InventoryError, match=r"area of interest .*no such file"):
        open_scene(utm_scene, aoi=tmp_path / "none.gpkg")


def test_resampling_changes_the_grid_of_everything(
    utm_scene: Path, west: Path, utm_grid: Grid
) -> None:
    finer = open_scene(utm_scene, pixel_size_m=5, aoi=west)
    assert finer.grid == utm_grid.resampled(5)
    assert not finer.read(finer.grid.window, ["red"]).valid[:, 60:].any()
    coarser = open_scene(utm_scene, pixel_size_m=20)
    found = coarser.read(coarser.grid.window, ["red"])
    assert found.values[0, 10, 10] == pytest.approx(10_000 + 100 * 20.5 + 20.5 + 1, abs=0.5)


def test_verbs_take_paths_and_scenes(utm_scene: Path, utm_grid: Grid) -> None:
    assert as_scene(str(utm_scene)).bands == as_scene(utm_scene).bands == ("nir", "red", "green")
    values = np.ones((1, *utm_grid.shape), dtype=np.uint8)
    raster = Raster(values, np.ones(utm_grid.shape, dtype=bool), ("pan",), utm_grid)
    assert as_scene(raster) is raster


def test_sources_are_recorded(utm_scene: Path, west: Path) -> None:
    records = [source.record() for source in open_scene(utm_scene, aoi=west).sources]
    assert records[0]["bands"] == ["nir", "red", "green"]
    assert records[0]["bytes"] == utm_scene.stat().st_size
    assert len(str(records[1]["sha256"])) == 64


def test_terrain_leaves_nothing_behind(utm_scene: Path, dem: Path, utm_grid: Grid) -> None:
    code = (
        "import sys, tempfile, pathlib\n"
        "from landslip.geo.scene import open_scene\n"
        "tempfile.tempdir = sys.argv[3]\n"
        "scene = open_scene(sys.argv[1], dem=sys.argv[2])\n"
        "scene.read(scene.grid.window, ['slope'])\n"
        "scene.close()\n"
        "assert not list(pathlib.Path(sys.argv[3]).iterdir())\n"
    )
    folder = utm_scene.parent / "temporary"
    folder.mkdir()
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", code]
    subprocess.run([*command, utm_scene, dem, folder], check=True)


def test_stacks_of_nothing_in_common_share_the_grid(utm_scene: Path, degree_scene: Path) -> None:
    scene = open_scene(utm_scene, add=[f"{degree_scene}:r,g,blue"][:0], pre=degree_scene)
    assert isinstance(scene, StackedScene)
    found = scene.read(scene.grid.window, ["nir", "pre_red"])
    assert found.values.shape == (2, 40, 60)
