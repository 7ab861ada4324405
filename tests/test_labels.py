import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from landslip.geo.errors import InventoryError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.labels import PolygonLabels, RasterLabels, is_raster_file, open_labels
from landslip.geo.windows import cover

WriteRaster = Callable[..., Path]
WritePolygons = Callable[..., Path]

FIRST, REJECTED = np.s_[10:15, 20:27], np.s_[30:34, 40:44]
"""Pixels of the landslides of the fixture `slides`."""


@pytest.fixture
def checked(write_polygons: WritePolygons) -> Path:
    """The upper half of `utm_grid`, rows 0-19."""
    return write_polygons("checked.gpkg", [shapely.box(500_000, 3_799_800, 500_600, 3_800_000)])


@pytest.fixture
def alarms(write_polygons: WritePolygons) -> Path:
    """Rows 13-31, columns 25-41: over a corner of FIRST, and mostly below the checked half."""
    return write_polygons("alarms.gpkg", [shapely.box(500_250, 3_799_680, 500_420, 3_799_870)])


ALARMS, CONTESTED = np.s_[13:32, 25:42], np.s_[13:15, 25:27]


def plane(*values: tuple[tuple[slice, slice], int], dtype: Any = np.uint8) -> NDArray[Any]:
    """A label raster (1, 40, 60) with values in some pixels, 0 elsewhere."""
    found = np.zeros((1, 40, 60), dtype=dtype)
    for place, value in values:
        found[0][place] = value
    return found


def test_rejected_polygons_are_background(slides: Path, utm_grid: Grid) -> None:
    labels = open_labels(slides, utm_grid)
    assert isinstance(labels, PolygonLabels)
    found = labels.read(utm_grid.window)
    assert found.dtype == np.uint8
    assert (found[FIRST] == 1).all()
    assert found.sum() == 35
    rejected = labels.rejected(utm_grid.window)
    assert rejected[REJECTED].all()
    assert rejected.sum() == 16
    assert len(labels.polygons) == 2


def test_outside_checked_areas_only_polygons_are_labelled(
    slides: Path, checked: Path, utm_grid: Grid
) -> None:
    found = open_labels(slides, utm_grid, checked=checked).read(utm_grid.window)
    assert (found[:20] != 255).all()
    assert (found[REJECTED] == 0).all()
    assert (found[20:] == 255).sum() == 20 * 60 - 16
    assert (found == 1).sum() == 35


def test_a_landslide_wins_over_a_rejected_one(
    write_polygons: WritePolygons, utm_grid: Grid
) -> None:
    box = shapely.box(500_200, 3_799_850, 500_270, 3_799_900)
    path = write_polygons("both.gpkg", [box, box], status=["Rejected", "accepted"])
    labels = open_labels(path, utm_grid)
    assert labels.read(utm_grid.window).sum() == 35
    assert not labels.rejected(utm_grid.window).any()


def test_missing_status_is_no_rejection(write_polygons: WritePolygons, utm_grid: Grid) -> None:
    box = shapely.box(500_200, 3_799_850, 500_270, 3_799_900)
    path = write_polygons("none.gpkg", [box], status=[None])
    assert open_labels(path, utm_grid).read(utm_grid.window).sum() == 35


def test_windows_equal_the_whole(slides: Path, checked: Path, utm_grid: Grid) -> None:
    labels = open_labels(slides, utm_grid, checked=checked)
    whole, rejected = labels.read(utm_grid.window), labels.rejected(utm_grid.window)
    for window in cover(utm_grid, 7):
        assert (labels.read(window) == whole[window.slices]).all()
        assert (labels.rejected(window) == rejected[window.slices]).all()


def test_polygons_elsewhere_are_refused(slides: Path, checked: Path, utm_grid: Grid) -> None:
    far = utm_grid.crop(Window(10_000, 0, 40, 60))
    with pytest.raises(InventoryError, match="none of its 3 polygons touches the scene"):
        open_labels(slides, far)
    near = utm_grid.crop(Window(25, 0, 15, 60))
    with pytest.raises(InventoryError, match=r"checked areas .*none of its 1 polygons touches"):
        open_labels(slides, near, checked=checked)


def uncontested_alarms(grid: Grid) -> NDArray[np.bool_]:
    """Pixels of the false alarms that are no landslide."""
    pixels = np.zeros(grid.shape, dtype=bool)
    pixels[ALARMS] = True
    pixels[CONTESTED] = False
    return pixels


def test_false_alarms_are_background_checked_or_not(
    slides: Path, checked: Path, alarms: Path, utm_grid: Grid, caplog: pytest.LogCaptureFixture
) -> None:
    plain = open_labels(slides, utm_grid, checked=checked)
    labels = open_labels(slides, utm_grid, checked=checked, false_alarms=alarms)
    assert caplog.messages == [
        "4 px of the false alarms lie on landslides of the inventory, and stay landslide"
    ]
    expected = plain.read(utm_grid.window)
    assert (expected[ALARMS] == 255).any()
    expected[ALARMS] = 0
    expected[CONTESTED] = 1
    assert (labels.read(utm_grid.window) == expected).all()
    hard = uncontested_alarms(utm_grid)
    hard[REJECTED] = True  # polygons of the inventory that were rejected still count
    assert (labels.rejected(utm_grid.window) == hard).all()
    for window in cover(utm_grid, 7):
        assert (labels.rejected(window) == hard[window.slices]).all()


def test_false_alarms_beside_landslides_are_not_contested(
    slides: Path, write_polygons: WritePolygons, utm_grid: Grid, caplog: pytest.LogCaptureFixture
) -> None:
    # Shares an edge with FIRST.
    beside = write_polygons("beside.gpkg", [shapely.box(500_270, 3_799_850, 500_300, 3_799_900)])
    labels = open_labels(slides, utm_grid, false_alarms=beside)
    assert caplog.messages == []
    assert labels.rejected(utm_grid.window)[10:15, 27:30].all()
    assert labels.read(utm_grid.window).sum() == 35


def test_false_alarms_that_cannot_be_used(
    slides: Path, alarms: Path, write_polygons: WritePolygons, utm_grid: Grid
) -> None:
    far = write_polygons("far.gpkg", [shapely.box(0, 0, 9, 9)])
    with pytest.raises(InventoryError, match=r"false alarms .*far.gpkg: none of its 1 polygons"):
        open_labels(slides, utm_grid, false_alarms=far)
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        nowhere = write_polygons("nowhere.gpkg", [shapely.box(0, 0, 9, 9)], crs=None)
    with pytest.raises(InventoryError, match=r"Cannot place false alarms .*no coordinate ref"):
        open_labels(slides, utm_grid, false_alarms=nowhere)
    line = write_polygons("line.gpkg", [shapely.LineString([(500_000, 3_799_700), (500_300, 0)])])
    with pytest.raises(InventoryError, match=r"false alarms .*polygons are needed, .*LineString"):
        open_labels(slides, utm_grid, false_alarms=line)
    missing = alarms.with_name("missing.gpkg")
    with pytest.raises(InventoryError, match=r"false alarms .*there is no such file"):
        open_labels(slides, utm_grid, false_alarms=missing)


def test_positive_is_for_rasters(slides: Path, utm_grid: Grid) -> None:
    with pytest.raises(UsageError, match="Leave --positive out"):
        open_labels(slides, utm_grid, positive=1)


# Rasters


def test_rasters_of_0_1_and_255(write_raster: WriteRaster, checked: Path, utm_grid: Grid) -> None:
    path = write_raster("labels.tif", plane((FIRST, 1), (REJECTED, 1), (np.s_[:2, :], 255)))
    labels = open_labels(path, utm_grid)
    assert isinstance(labels, RasterLabels)
    found = labels.read(utm_grid.window)
    assert (np.bincount(found.ravel(), minlength=256)[[0, 1, 255]] == [2229, 51, 120]).all()
    assert not labels.rejected(utm_grid.window).any()
    bounded = open_labels(path, utm_grid, checked=checked).read(utm_grid.window)
    assert (bounded[REJECTED] == 1).all()
    assert (bounded[20:] == 255).sum() == 20 * 60 - 16
    assert (bounded[:20] == found[:20]).all()


@pytest.mark.parametrize("positive", [None, 1])
def test_false_alarms_over_a_raster(
    write_raster: WriteRaster,
    checked: Path,
    alarms: Path,
    utm_grid: Grid,
    caplog: pytest.LogCaptureFixture,
    positive: int | None,
) -> None:
    values = plane((FIRST, 1), (np.s_[30:, :], 255))
    path = write_raster("labels.tif", values, nodata=255)
    labels = open_labels(path, utm_grid, checked=checked, positive=positive, false_alarms=alarms)
    assert "4 px of the false alarms lie on landslides" in caplog.text
    expected = values[0]
    expected[20:] = 255
    expected[ALARMS] = 0
    expected[CONTESTED] = 1
    assert (labels.read(utm_grid.window) == expected).all()
    hard = uncontested_alarms(utm_grid)
    assert (labels.rejected(utm_grid.window) == hard).all()
    for window in cover(utm_grid, 7):
        assert (labels.read(window) == expected[window.slices]).all()
        assert (labels.rejected(window) == hard[window.slices]).all()


@pytest.mark.parametrize("nodata", [0, 255, 77])
def test_nodata_is_not_labelled(write_raster: WriteRaster, utm_grid: Grid, nodata: int) -> None:
    values = plane((FIRST, 1), (REJECTED, nodata))
    found = open_labels(write_raster("labels.tif", values, nodata=nodata), utm_grid)
    expected = np.where(values[0] == nodata, 255, values[0])
    assert (found.read(utm_grid.window) == expected).all()


def test_positive_names_the_value_of_landslides(write_raster: WriteRaster, utm_grid: Grid) -> None:
    path = write_raster("labels.tif", plane((FIRST, 255), (REJECTED, 3)))
    with pytest.raises(InventoryError, match="found 0, 3, 255"):
        open_labels(path, utm_grid)
    found = open_labels(path, utm_grid, positive=255).read(utm_grid.window)
    assert (found[FIRST] == 1).all()
    assert found.sum() == 35
    assert open_labels(path, utm_grid, positive=3).read(utm_grid.window).sum() == 16
    with pytest.raises(InventoryError, match=r"no pixel has the value 7 .*found 0, 3, 255"):
        open_labels(path, utm_grid, positive=7)


def test_255_without_1_may_mean_landslide_and_is_asked(
    write_raster: WriteRaster, utm_grid: Grid
) -> None:
    path = write_raster("labels.tif", plane((FIRST, 255)))
    with pytest.raises(InventoryError, match="add --positive 255"):
        open_labels(path, utm_grid)
    assert open_labels(path, utm_grid, positive=255).read(utm_grid.window).sum() == 35


def test_shares_are_no_labels(write_raster: WriteRaster, utm_grid: Grid) -> None:
    path = write_raster("shares.tif", plane((FIRST, 1), dtype=np.float32) * 0.4)
    with pytest.raises(InventoryError, match=r"found 0, 0\.4"):
        open_labels(path, utm_grid)
    whole = write_raster("whole.tif", plane((FIRST, 1), dtype=np.float32))
    assert open_labels(whole, utm_grid).read(utm_grid.window).sum() == 35


def test_positive_is_found_among_many_classes(write_raster: WriteRaster, utm_grid: Grid) -> None:
    values = np.zeros((1, 40, 2100), dtype=np.uint8)
    values[0, 0, :30] = np.arange(30)
    values[0, 5, 2090] = 77
    wide = utm_grid.crop(Window(0, 0, 40, 2100))
    path = write_raster("classes.tif", values, grid=wide)
    assert open_labels(path, wide, positive=77).read(wide.window).sum() == 1
    with pytest.raises(InventoryError, match=r"found 0, 1, 2, 3, 4, 5, 6, 7, \.\.\."):
        open_labels(path, wide)


def test_rasters_are_laid_over_the_scene_by_nearest_neighbour(
    write_raster: WriteRaster, utm_grid: Grid
) -> None:
    finer = utm_grid.resampled(5)
    values = np.zeros((1, *finer.shape), dtype=np.uint8)
    values[0, 20:30, 40:54] = 1
    path = write_raster("fine.tif", values, grid=finer)
    found = open_labels(path, utm_grid).read(utm_grid.window)
    assert set(np.unique(found)) == {0, 1}
    assert found.sum() == 35


def test_ground_beyond_a_label_raster_is_not_labelled(
    write_raster: WriteRaster, utm_grid: Grid
) -> None:
    path = write_raster("labels.tif", plane((FIRST, 1)))
    lower = utm_grid.crop(Window(12, 0, 40, 60))
    found = open_labels(path, lower).read(lower.window)
    assert (found[28:] == 255).all()
    assert (found[:28] != 255).all()
    assert (found == 1).sum() == 21


def test_label_rasters_elsewhere_are_refused(write_raster: WriteRaster, utm_grid: Grid) -> None:
    path = write_raster("labels.tif", plane((FIRST, 1)))
    with pytest.raises(InventoryError, match="no labelled pixel lies on the scene"):
        open_labels(path, utm_grid.crop(Window(10_000, 0, 40, 60)))
    blank = write_raster("blank.tif", plane(), nodata=0)
    with pytest.raises(InventoryError, match="no labelled pixel lies on the scene"):
        open_labels(blank, utm_grid)


def test_rasters_are_known_by_ending_or_content(
    slides: Path, utm_scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    assert is_raster_file("any/thing.tif")
    assert is_raster_file("any/THING.TIFF")
    assert not is_raster_file("any/thing.gpkg|layername=tif")
    assert not is_raster_file("any/thing.shp")
    for name, source, expected in (("raster", utm_scene, True), ("polygons", slides, False)):
        path = tmp_path / name
        path.write_bytes(source.read_bytes())
        assert is_raster_file(path) is expected
