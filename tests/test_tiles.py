from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import shapes

import tiny
from landslip.geo.errors import (
    BandError,
    InventoryError,
    LandslipError,
    OutputError,
    RasterError,
    TileSetError,
)
from landslip.geo.grid import WGS84, Window
from landslip.geo.raster import FileScene
from landslip.geo.scene import open_scene
from landslip.prepare import pictures as pictures_module
from landslip.prepare import tiles as tiles_module
from landslip.prepare.picture_folder import tiles_from_folder
from landslip.prepare.split import TileOptions
from landslip.prepare.tile_set import Tile, TileFiles, TileSet, crs_of, require_alike
from landslip.prepare.tiles import REJECTED_WEIGHT, make_tiles, tiles_of_scene

COLUMNS = TileOptions(size=16, split="columns:48,80")


@pytest.fixture
def with_picture() -> None:
    """For tests that look at the picture of the split; the others are faster without."""


@pytest.fixture(autouse=True)
def _without_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "with_picture" not in request.fixturenames:
        monkeypatch.setattr(pictures_module, "write_split_picture", lambda *_: None)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    return tiny.write_inventory(tmp_path / "landslides.gpkg")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return tiny.write_scene(tmp_path / "scene.tif")


def joined(tiles: TileSet, shape: tuple[int, int] = (64, 96)) -> NDArray[np.uint8]:
    """The labels of all tiles laid over the scene; 7 where no tile lies."""
    whole = np.full(shape, 7, dtype=np.uint8)
    for tile in tiles.tiles:
        assert tile.window is not None
        whole[tile.window.slices] = tiles.read(tile)[1]
    return whole


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Raw values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_values_survive_bit_for_bit_in_their_own_type(
    tmp_path: Path, inventory: Path, dtype: str
) -> None:
    random = np.random.default_rng(3)
    if dtype.startswith("float"):
        values = random.normal(0, 1e4, (3, 64, 96)).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        values = random.integers(limits.min, limits.max, (3, 64, 96), dtype, endpoint=True)
        values[0, 0, :2] = limits.min, limits.max
    scene = tiny.write_scene(tmp_path / "scene.tif", values)
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    assert tiles.dtype == dtype
    assert len(tiles.tiles) == 24
    for tile in tiles.tiles:
        assert tile.window is not None
        rows, cols = tile.window.slices
        with rasterio.open(tiles.folder / "images" / f"{tile.name}.tif") as image:
            assert image.dtypes[0] == dtype
            assert image.descriptions == tiny.RGN
            assert image.crs == CRS.from_string(tiny.UTM)
            expected = tiny.transform_of() * Affine.translation(tile.col, tile.row)
            assert image.transform == expected
            np.testing.assert_array_equal(image.read(), values[:, rows, cols])
        raster, _ = tiles.read(tile)
        assert raster.values.dtype == dtype
        np.testing.assert_array_equal(raster.values, values[:, rows, cols])
        assert raster.valid.all()


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_any_number_of_bands_is_kept_in_order(tmp_path: Path, inventory: Path, count: int) -> None:
    # Four 8-bit bands are what GDAL takes for red, green, blue and transparency.
    names = tuple(f"band_{letter}" for letter in "abcde"[:count])
    values = tiny.noise(count, 64, 96, "uint8")
    values[-1, ::2] = 0
    scene = tiny.write_scene(tmp_path / "scene.tif", values, bands=names)
    with rasterio.open(scene, "r+") as opened:
        opened.colorinterp = [rasterio.enums.ColorInterp.undefined] * count
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    assert tiles.bands == names
    for tile in tiles.tiles[:3]:
        assert tile.window is not None
        raster, _ = tiles.read(tile)
        assert raster.valid.all()
        np.testing.assert_array_equal(raster.values, values[(slice(None), *tile.window.slices)])
        turned, _ = tiles.read(tile, names[::-1])
        np.testing.assert_array_equal(turned.values, raster.values[::-1])


def test_labels_are_the_polygons(tmp_path: Path, scene: Path, inventory: Path) -> None:
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    np.testing.assert_array_equal(joined(tiles), tiny.landslide_pixels().astype(np.uint8))
    for tile in tiles.tiles:
        labels = tiles.read(tile)[1]
        assert tile.landslide_share == pytest.approx((labels == 1).mean())
        assert tile.valid_share == 1
        assert tile.weight == 1


def test_nodata_and_unusable_ground_are_not_labelled(tmp_path: Path, inventory: Path) -> None:
    values = tiny.noise(3, 64, 96)
    values[:, 2:6, 3:9] = 0  # nodata in every band
    values[1, 30, 50] = 0  # nodata in one
    scene = tiny.write_scene(tmp_path / "scene.tif", values, nodata=0)
    cloud = tiny.write_inventory(tmp_path / "cloud.gpkg", [(20, 0, 10, 96)])
    opened = open_scene(scene, unusable=cloud)
    tiles = make_tiles(opened, inventory, tmp_path / "tiles", options=COLUMNS)
    expected = tiny.landslide_pixels().astype(np.uint8)
    expected[2:6, 3:9] = 255
    expected[30, 50] = 255
    expected[20:30] = 255
    np.testing.assert_array_equal(joined(tiles), expected)
    for tile in tiles.tiles:
        assert tile.window is not None
        own = expected[tile.window.slices]
        labelled = own != 255
        assert tile.valid_share == pytest.approx(labelled.mean())
        assert tile.landslide_share == pytest.approx((own[labelled] == 1).mean())
        raster, _ = tiles.read(tile)
        np.testing.assert_array_equal(raster.valid, labelled)
    # The nodata that other bands of a pixel kept is 0 too: nothing not valid is ever shown.
    first = tiles.tiles[0]
    assert (tiles.read(first)[0].values[:, 2:6, 3:9] == 0).all()


def test_not_a_number_is_nodata(tmp_path: Path, inventory: Path) -> None:
    values = tiny.noise(3, 64, 96, "float32")
    values[2, 10, 10] = np.nan
    values[0, 11, 11] = np.inf
    scene = tiny.write_scene(tmp_path / "scene.tif", values)
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    labels = joined(tiles)
    assert np.argwhere(labels == 255).tolist() == [[10, 10], [11, 11]]
    raster, _ = tiles.read(tiles.tiles[0])
    assert np.isfinite(raster.values).all()


def test_outside_the_area_of_interest_there_are_no_tiles(
    tmp_path: Path, scene: Path, inventory: Path
) -> None:
    aoi = tiny.write_inventory(tmp_path / "aoi.gpkg", [(0, 0, 40, 96)])
    tiles = make_tiles(open_scene(scene, aoi=aoi), inventory, tmp_path / "t", options=COLUMNS)
    assert {tile.row for tile in tiles.tiles} == {0, 16, 32}
    labels = joined(tiles)
    assert (labels[40:48] == 255).all()
    assert (labels[48:] == 7).all()  # tiles with nothing in them are not written
    names = {f"{tile.name}.tif" for tile in tiles.tiles}
    assert names == {path.name for path in (tmp_path / "t" / "images").iterdir()}


# What counts as checked --------------------------------------------------------------------------


def test_background_is_only_what_was_checked(tmp_path: Path, scene: Path, inventory: Path) -> None:
    checked = tiny.write_inventory(tmp_path / "checked.gpkg", [(0, 0, 30, 96), (32, 0, 16, 50)])
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS, checked=checked)
    expected = np.full((64, 96), 255, dtype=np.uint8)
    expected[0:30] = 0
    expected[32:48, 0:50] = 0
    expected[tiny.landslide_pixels()] = 1
    found = joined(tiles)
    written = found != 7
    np.testing.assert_array_equal(found[written], expected[written])
    assert (expected[~written] == 255).all()
    record = json.loads((tmp_path / "tiles" / "tileset.json").read_text())
    assert [source["role"] for source in record["sources"]] == ["scene", "inventory", "checked"]


def test_without_checked_areas_all_ground_counts_and_that_is_said(
    tmp_path: Path, scene: Path, inventory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="landslip"):
        make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    assert "all ground without a landslide counts as checked" in caplog.text


def test_rejected_polygons_are_background_drawn_more_often(tmp_path: Path, scene: Path) -> None:
    boxes = [*tiny.LANDSLIDES, (34, 2, 4, 4)]
    status = ["accepted", None, "edited", "proposed", "accepted", "Rejected"]
    inventory = tiny.write_inventory(tmp_path / "i.gpkg", boxes, columns={"status": status})
    checked = tiny.write_inventory(tmp_path / "checked.gpkg", [(0, 0, 20, 96)])
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS, checked=checked)
    labels = joined(tiles)
    assert (labels[34:38, 2:6] == 0).all()  # background, though nobody checked around it
    assert labels[33, 2] == 255
    heavy = {tile.name for tile in tiles.tiles if tile.weight != 1}
    assert heavy == {"r000032_c000000"}
    assert {tile.weight for tile in tiles.tiles} == {1, REJECTED_WEIGHT}


def test_a_landslide_over_a_rejected_polygon_wins(tmp_path: Path, scene: Path) -> None:
    boxes = [*tiny.LANDSLIDES, tiny.LANDSLIDES[0]]
    status = ["accepted"] * 5 + ["rejected"]
    inventory = tiny.write_inventory(tmp_path / "i.gpkg", boxes, columns={"status": status})
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    np.testing.assert_array_equal(joined(tiles), tiny.landslide_pixels().astype(np.uint8))
    assert {tile.weight for tile in tiles.tiles} == {1}


def test_label_rasters(tmp_path: Path, scene: Path) -> None:
    truth = tiny.landslide_pixels().astype(np.uint8)
    truth[50:60, 0:20] = 255
    raster = tiny.write_scene(tmp_path / "labels.tif", truth[None], bands=[None])
    tiles = make_tiles(scene, raster, tmp_path / "tiles", options=COLUMNS)
    np.testing.assert_array_equal(joined(tiles), truth)
    # The same with another value of landslides, and another for the rest.
    other = tiny.write_scene(
        tmp_path / "other.tif", np.where(truth == 1, 200, 30).astype(np.uint8)[None], bands=[None]
    )
    tiles = make_tiles(scene, other, tmp_path / "other", options=COLUMNS, positive=200)
    np.testing.assert_array_equal(joined(tiles), truth == 1)


def test_labels_without_any_background_are_refused(tmp_path: Path, scene: Path) -> None:
    # A label raster whose background is declared nodata holds landslides alone.
    truth = tiny.landslide_pixels().astype(np.uint8)
    raster = tiny.write_scene(tmp_path / "labels.tif", truth[None], bands=[None], nodata=0)
    with pytest.raises((InventoryError, TileSetError), match="nodata"):
        make_tiles(scene, raster, tmp_path / "tiles", options=COLUMNS)


# False alarms ------------------------------------------------------------------------------------

ALARMS = (18, 60, 6, 10), (40, 6, 3, 3)
"""(row, col, height, width) in px: over four tiles, and inside one."""


@pytest.fixture
def alarms(tmp_path: Path) -> Path:
    return tiny.write_inventory(tmp_path / "alarms.gpkg", ALARMS)


def hard_of(tiles: TileSet) -> NDArray[np.bool_]:
    """Ground of all tiles that was taken for a landslide before."""
    whole = np.zeros((64, 96), dtype=bool)
    for tile in tiles.tiles:
        assert tile.window is not None
        hard = tiles.hard(tile)
        assert hard.dtype == bool
        whole[tile.window.slices] = hard
    return whole


def test_false_alarms_are_background_drawn_more_often(
    tmp_path: Path, scene: Path, inventory: Path, alarms: Path
) -> None:
    checked = tiny.write_inventory(tmp_path / "checked.gpkg", [(0, 0, 20, 96)])
    tiles = make_tiles(
        scene, inventory, tmp_path / "t", options=COLUMNS, checked=checked, false_alarms=alarms
    )
    expected = np.full((64, 96), 255, dtype=np.uint8)
    expected[:20] = 0
    expected[tiny.landslide_pixels(boxes=ALARMS)] = 0
    expected[tiny.landslide_pixels()] = 1
    found = joined(tiles)
    np.testing.assert_array_equal(found[found != 7], expected[found != 7])
    np.testing.assert_array_equal(hard_of(tiles), tiny.landslide_pixels(boxes=ALARMS))
    heavy = {tile.name for tile in tiles.tiles if tile.weight != 1}
    assert heavy == {"r000016_c000048", "r000016_c000064", "r000032_c000000"}
    assert {tile.weight for tile in tiles.tiles} == {1, REJECTED_WEIGHT}
    assert [source["role"] for source in tiles.sources] == [
        "scene", "inventory", "checked", "false-alarms"
    ]  # fmt: skip
    assert tiles.sources[-1]["sha256"] == hashlib.sha256(alarms.read_bytes()).hexdigest()
    for tile in tiles.tiles:
        with rasterio.open(tiles.folder / "labels" / f"{tile.name}.tif") as labels:
            bands = ("label", "false_alarm") if tile.name in heavy else ("label",)
            assert labels.descriptions == bands


def test_rejected_polygons_are_hard_ground_too(tmp_path: Path, scene: Path) -> None:
    boxes = [*tiny.LANDSLIDES, (34, 2, 4, 4)]
    status = [*["accepted"] * 5, "rejected"]
    inventory = tiny.write_inventory(tmp_path / "i.gpkg", boxes, columns={"status": status})
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    np.testing.assert_array_equal(hard_of(tiles), tiny.landslide_pixels(boxes=[(34, 2, 4, 4)]))


def test_false_alarms_never_take_a_landslide_away(
    tmp_path: Path, scene: Path, inventory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    over = tiny.write_inventory(tmp_path / "over.gpkg", [(2, 2, 4, 4)])
    tiles = make_tiles(scene, inventory, tmp_path / "t", options=COLUMNS, false_alarms=over)
    assert "4 px of the false alarms lie on landslides" in caplog.text
    np.testing.assert_array_equal(joined(tiles), tiny.landslide_pixels().astype(np.uint8))
    expected = tiny.landslide_pixels(boxes=[(2, 2, 4, 4)]) & ~tiny.landslide_pixels()
    np.testing.assert_array_equal(hard_of(tiles), expected)


def test_false_alarms_under_cloud_are_not_drawn_more_often(
    tmp_path: Path, scene: Path, inventory: Path, alarms: Path
) -> None:
    cloud = tiny.write_inventory(tmp_path / "cloud.gpkg", [(38, 4, 8, 8)])
    with closing(open_scene(scene, unusable=cloud)) as opened:
        tiles = make_tiles(opened, inventory, tmp_path / "t", options=COLUMNS, false_alarms=alarms)
    heavy = {tile.name for tile in tiles.tiles if tile.weight != 1}
    assert heavy == {"r000016_c000048", "r000016_c000064"}


def test_tile_sets_of_older_formats_hold_no_hard_ground(
    tmp_path: Path, scene: Path, inventory: Path
) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    head = made.folder / "tileset.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"format_version": "1.0"}))
    old = TileSet.open(made.folder)
    assert old.sha256() == made.sha256()
    assert not hard_of(old).any()
    (made.folder / "labels" / f"{old.tiles[0].name}.tif").unlink()
    with pytest.raises(RasterError, match="there is no such file"):
        old.hard(old.tiles[0])


@pytest.mark.parametrize("written", [True, False])
def test_false_alarms_elsewhere_are_refused(
    tmp_path: Path, scene: Path, inventory: Path, written: bool
) -> None:
    far = tiny.write_inventory(tmp_path / "far.gpkg", [(6400, 0, 4, 4)])
    with pytest.raises(InventoryError, match=r"false alarms .*none of its 1 polygons touches"):
        if written:
            make_tiles(scene, inventory, tmp_path / "t", options=COLUMNS, false_alarms=far)
        else:
            tiles_of_scene(scene, inventory, options=COLUMNS, false_alarms=far)
    assert not (tmp_path / "t").exists()


def test_the_command_takes_false_alarms(
    tmp_path: Path, scene: Path, inventory: Path, alarms: Path
) -> None:
    out = tmp_path / "tiles"
    done = tiny.landslip(
        "tile", scene, "--inventory", inventory, "--false-alarms", alarms, "--size", "16",
        "--split", "columns:48,80", "--out", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    hard = hard_of(TileSet.open(out))
    np.testing.assert_array_equal(hard, tiny.landslide_pixels(boxes=ALARMS))
    done = tiny.landslip(
        "tile", "--from-folder", tmp_path, "--bands", "red", "--pixel-size", "1",
        "--false-alarms", alarms, "--size", "64", "--out", tmp_path / "other",
    )  # fmt: skip
    assert done.code == 2
    assert "from a folder with --false-alarms, --size" in done.message
    done = tiny.landslip("train", out, "--positive", "2", "--split", "random")
    assert done.code == 2
    assert "Cannot use --positive, --split with tile sets" in done.message


# Read from the scene -----------------------------------------------------------------------------


def same_ground(one: TileSet, other: TileSet, bands: tuple[str, ...] | None = None) -> None:
    """Compare all that training uses of two tile sets."""
    for field in ("tiles", "bands", "pixel_size_m", "crs", "dtype", "sources", "percentiles",
                  "units", "sensor", "types", "eight_bit"):  # fmt: skip
        assert getattr(one, field) == getattr(other, field), field
    assert one.sha256() == other.sha256()
    assert one.summary() == other.summary()
    for tile in one.tiles:
        (raster, labels), (again, labels_again) = one.read(tile, bands), other.read(tile, bands)
        assert raster.bands == again.bands
        assert raster.grid == again.grid
        assert raster.values.dtype == again.values.dtype
        np.testing.assert_array_equal(raster.values, again.values)
        np.testing.assert_array_equal(raster.valid, again.valid)
        assert labels.dtype == labels_again.dtype
        np.testing.assert_array_equal(labels, labels_again)
        np.testing.assert_array_equal(one.hard(tile), other.hard(tile))
        np.testing.assert_array_equal(one.first_seen(tile), other.first_seen(tile))


@pytest.mark.parametrize("labelled_by", ["polygons", "raster"])
def test_a_scene_gives_the_tiles_that_would_be_written(
    tmp_path: Path, inventory: Path, alarms: Path, labelled_by: str
) -> None:
    values = tiny.noise(3, 64, 96)
    values[:, 2:6, 3:9] = 0
    values[1, 30, 50] = 0
    scene = tiny.write_scene(tmp_path / "scene.tif", values, nodata=0)
    # Smaller than the scene, of another type, and on other pixels.
    dem = tiny.write_scene(tmp_path / "dem.tif", tiny.noise(1, 64, 80, "float32"), bands=[None])
    cloud = tiny.write_inventory(tmp_path / "cloud.gpkg", [(20, 62, 10, 8)])
    checked = tiny.write_inventory(tmp_path / "checked.gpkg", [(0, 0, 40, 96)])
    if labelled_by == "raster":
        truth = tiny.landslide_pixels().astype(np.uint8)[None]
        inventory = tiny.write_scene(tmp_path / "labels.tif", truth, bands=[None])
    options = TileOptions(size=16, stride=6, split="columns:48,64")
    named: dict[str, Any] = {"options": options, "checked": checked, "false_alarms": alarms}
    with closing(open_scene(scene, dem=dem, unusable=cloud)) as opened:
        written = make_tiles(opened, inventory, tmp_path / "tiles", **named)
        before = files_in(tmp_path)
        direct = tiles_of_scene(opened, inventory, **named)
        assert direct.folder == scene
        assert {tile.weight for tile in direct.tiles} == {1, REJECTED_WEIGHT}
        same_ground(written, direct)
        same_ground(written, direct, ("ndvi", "slope"))
        assert files_in(tmp_path) == before


def test_a_raster_in_memory_is_ground_too(tmp_path: Path, scene: Path, inventory: Path) -> None:
    with closing(FileScene.open(scene)) as file:
        raster = file.read(file.grid.window, file.bands)
    direct = tiles_of_scene(raster, inventory, options=COLUMNS)
    assert direct.folder == Path("scene")
    same_ground(make_tiles(raster, inventory, tmp_path / "tiles", options=COLUMNS), direct)


def test_threads_read_a_scene_as_one_does(tmp_path: Path, scene: Path) -> None:
    truth = tiny.landslide_pixels().astype(np.uint8)[None]
    labels = tiny.write_scene(tmp_path / "labels.tif", truth, bands=[None])
    heights = tiny.noise(1, 80, 120, "float32")
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=[None])
    options = TileOptions(size=16, stride=4, split="columns:48,80")
    with closing(open_scene(scene, dem=dem)) as opened:
        tiles = tiles_of_scene(opened, labels, options=options)

        def read(tile: Tile) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.bool_]]:
            raster, labels = tiles.read(tile)
            return raster.values, labels, tiles.hard(tile)

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(read, tiles.tiles))
        for tile, found in zip(tiles.tiles, together, strict=True):
            for array, alone in zip(found, read(tile), strict=True):
                np.testing.assert_array_equal(array, alone)


def test_a_scene_that_teaches_nothing_is_refused(tmp_path: Path, scene: Path) -> None:
    only_test = tiny.write_inventory(tmp_path / "east.gpkg", [(10, 84, 4, 4)])
    with pytest.raises(TileSetError, match="the training tiles hold no landslide pixel"):
        tiles_of_scene(scene, only_test, options=COLUMNS)


# The folder --------------------------------------------------------------------------------------


def test_index_opens_in_a_gis(
    tmp_path: Path, scene: Path, inventory: Path, with_picture: None
) -> None:
    make_tiles(scene, inventory, tmp_path / "tiles", options=replace(COLUMNS, stride=8))
    assert files_in(tmp_path) == sorted(
        [
            "landslides.gpkg",
            "scene.tif",
            "tiles",
            *(f"tiles/{x}" for x in files_in(tmp_path / "tiles")),
        ]
    )
    assert {path.name for path in (tmp_path / "tiles").iterdir()} == {
        "images", "labels", "split.png", "tiles.gpkg", "tileset.json"
    }  # fmt: skip
    frame = gpd.read_file(tmp_path / "tiles" / "tiles.gpkg")
    assert {"name", "split", "landslide_share", "valid_share", "weight"} <= set(frame.columns)
    assert frame.crs.to_epsg() == 32654
    assert frame["split"].value_counts().to_dict() == {"train": 35, "validation": 21, "test": 7}
    for _, row in frame.iterrows():
        footprint = tiny.box_at((row["row"], row["col"], row["height"], row["width"]))
        assert row.geometry.equals(footprint)
        assert row["name"] == f"r{row['row']:06d}_c{row['col']:06d}"
    assert (tmp_path / "tiles" / "split.png").read_bytes().startswith(b"\x89PNG")


def test_the_record_names_what_the_tiles_are(tmp_path: Path, scene: Path, inventory: Path) -> None:
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    record = json.loads((tmp_path / "tiles" / "tileset.json").read_text())
    assert record["bands"] == list(tiny.RGN)
    assert record["pixel_size_m"] == tiles.pixel_size_m == pytest.approx(10, rel=1e-3)
    assert record["crs"] == "EPSG:32654"
    assert crs_of(tiles) == CRS.from_epsg(32654)
    assert record["dtype"] == "uint16"
    for source, path in zip(record["sources"], (scene, inventory), strict=True):
        assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert source["bytes"] == path.stat().st_size
    assert record["sources"][0]["bands"] == list(tiny.RGN)


def test_opening_gives_what_was_made(tmp_path: Path, scene: Path, inventory: Path) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    opened = TileSet.open(str(tmp_path / "tiles"))
    assert opened == made
    assert opened.sha256() == made.sha256()
    assert [len(made.of(side)) for side in ("train", "validation", "test")] == [12, 8, 4]
    assert "train 12 tiles" in made.summary()


def test_a_folder_may_move(tmp_path: Path, scene: Path, inventory: Path) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    shutil.move(tmp_path / "tiles", tmp_path / "elsewhere")
    moved = TileSet.open(tmp_path / "elsewhere")
    assert moved.sha256() == made.sha256()
    assert moved.read(moved.tiles[0])[0].values.shape == (3, 16, 16)


def edit(folder: Path, statement: str) -> None:
    """Change tiles.gpkg as a GIS does."""
    frame = pyogrio.read_dataframe(folder / "tiles.gpkg")
    name, _, value = statement.partition("=")
    frame.loc[frame["name"] == name, "split"] = value or None
    pyogrio.write_dataframe(frame, folder / "tiles.gpkg", layer="tiles")


def test_a_split_edited_in_a_gis_counts(tmp_path: Path, scene: Path, inventory: Path) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    edit(made.folder, "r000048_c000032=test")
    edited = TileSet.open(made.folder)
    assert [len(edited.of(side)) for side in ("train", "validation", "test")] == [11, 8, 5]
    assert edited.sha256() != made.sha256()


@pytest.mark.parametrize("value", ["tset", "", "TRAIN "])
def test_a_split_misspelt_in_a_gis_is_refused(
    tmp_path: Path, scene: Path, inventory: Path, value: str
) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    edit(made.folder, f"r000048_c000032={value}")
    with pytest.raises(TileSetError, match=r"r000048_c000032.*expected train, validation, test"):
        TileSet.open(made.folder)


def test_an_edited_split_may_not_share_ground(tmp_path: Path, scene: Path, inventory: Path) -> None:
    options = replace(COLUMNS, stride=8)
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=options)
    edit(made.folder, "r000048_c000032=test")
    with pytest.raises(TileSetError, match=r"r000048_c000032 \(test\).*share ground"):
        TileSet.open(made.folder)


def break_it(folder: Path, how: str) -> None:
    head, index = folder / "tileset.json", folder / "tiles.gpkg"
    record = json.loads(head.read_text())
    if how == "no json":
        head.unlink()
    elif how == "half json":
        head.write_text(head.read_text()[:40])
    elif how == "list":
        head.write_text("[]")
    elif how == "binary":
        head.write_bytes(b"\xff\xfe\x00\x80")
    elif how == "null":
        head.write_text(json.dumps(record | {"pixel_size_m": None}))
    elif how == "no bands":
        head.write_text(json.dumps({key: record[key] for key in record if key != "bands"}))
    elif how == "no index":
        index.unlink()
    elif how == "half index":
        index.write_bytes(index.read_bytes()[:3000])
    elif how == "text index":
        index.write_text("not a database")
    elif how == "no column":
        frame = pyogrio.read_dataframe(index).drop(columns=["weight"])
        index.unlink()
        pyogrio.write_dataframe(frame, index, layer="tiles")
    elif how == "no folder":
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "how", ["no json", "half json", "list", "binary", "null", "no bands", "no index", "half index",
            "text index", "no column", "no folder"],
)  # fmt: skip
def test_broken_folders(tmp_path: Path, scene: Path, inventory: Path, how: str) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    break_it(made.folder, how)
    with pytest.raises(TileSetError, match=r"Cannot open tile set .*Make it again") as caught:
        TileSet.open(made.folder)
    assert str(made.folder) in str(caught.value)


def test_newer_formats_are_refused(tmp_path: Path, scene: Path, inventory: Path) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    head = made.folder / "tileset.json"
    record = json.loads(head.read_text())
    head.write_text(json.dumps(record | {"format_version": "2.0"}))
    with pytest.raises(TileSetError, match=r"format is 2.0, .*Update landslip"):
        TileSet.open(made.folder)
    head.write_text(json.dumps(record | {"format_version": "1.7", "later": True}))
    assert TileSet.open(made.folder).tiles == made.tiles


def test_a_tile_that_was_removed(tmp_path: Path, scene: Path, inventory: Path) -> None:
    made = make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    first = made.tiles[0]
    (made.folder / "images" / f"{first.name}.tif").unlink()
    with pytest.raises(RasterError, match="there is no such file"):
        made.read(first)


# Ground is counted once --------------------------------------------------------------------------


def test_every_pixel_is_seen_first_once(tmp_path: Path, scene: Path, inventory: Path) -> None:
    options = TileOptions(size=16, stride=6, split="columns:48,80")
    tiles = make_tiles(scene, inventory, tmp_path / "tiles", options=options)
    count = np.zeros((64, 96), dtype=int)
    for tile in tiles.tiles:
        assert tile.window is not None
        count[tile.window.slices] += tiles.first_seen(tile)
    assert (count == 1).all()


def test_first_seen_by_hand() -> None:
    def tile(name: str, split: str, row: int, col: int) -> Tile:
        return Tile(name, split, 4, 4, 0.0, 1.0, 1, row, col)

    listed = (
        tile("a", "train", 0, 0), tile("b", "test", 1, 1), tile("c", "train", 2, 3),
        tile("d", "train", 0, 0), tile("e", "train", -1, -1),
    )  # fmt: skip
    tiles = TileSet(TileFiles(Path(), ()), listed, ("nir",), 1.0, "", "uint8", ())
    a, b, c, d, e = (tiles.first_seen(one) for one in listed)
    assert a.all()
    assert b.all()  # of another side
    assert np.argwhere(~c).tolist() == [[0, 0], [1, 0]]
    assert not d.any()
    assert e.all()  # without a place


# Bands from other files --------------------------------------------------------------------------


def test_a_dem_gives_two_bands(tmp_path: Path, scene: Path, inventory: Path) -> None:
    # A plane that climbs east by half a metre a metre, on a coarser grid around the scene.
    cols = np.arange(60, dtype="float32")
    heights = np.broadcast_to(1000 + 20 * 0.5 * cols, (1, 60, 60)).astype("float32")
    around = tiny.transform_of(20, tiny.WEST - 120, tiny.NORTH + 120)
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=[None], transform=around)
    with closing(open_scene(scene, dem=dem)) as stacked:
        tiles = make_tiles(stacked, inventory, tmp_path / "tiles", options=COLUMNS)
    assert tiles.bands == (*tiny.RGN, "elevation", "slope")
    assert tiles.dtype == "float32"
    with rasterio.open(scene) as opened:
        image = opened.read()
    for tile in tiles.tiles[::5]:
        assert tile.window is not None
        raster, _ = tiles.read(tile)
        np.testing.assert_array_equal(raster.values[:3], image[(slice(None), *tile.window.slices)])
        np.testing.assert_allclose(raster.values[4], np.degrees(np.arctan(0.5)), atol=1e-3)
        east = tiny.WEST + 10 * (tile.col + np.arange(16) + 0.5)
        expected = 1000 + 0.5 * (east - (tiny.WEST - 120 + 10))
        np.testing.assert_allclose(raster.values[3], np.broadcast_to(expected, (16, 16)), atol=0.01)
    roles = [source["role"] for source in tiles.sources]
    assert roles == ["scene", "dem", "inventory"]


def test_a_dem_smaller_than_the_scene_leaves_ground_out(
    tmp_path: Path, scene: Path, inventory: Path
) -> None:
    heights = tiny.noise(1, 64, 60, "float32")
    dem = tiny.write_scene(tmp_path / "dem.tif", heights, bands=[None])
    options = TileOptions(size=16, split="columns:32,48")
    with closing(open_scene(scene, dem=dem)) as stacked:
        tiles = make_tiles(stacked, inventory, tmp_path / "tiles", options=options)
    labels = joined(tiles)
    assert (labels[:, 62:64] == 255).all()
    assert (labels[5:59, 5:58] != 255).all()


# Outputs -----------------------------------------------------------------------------------------


def test_an_output_that_exists_is_not_replaced(
    tmp_path: Path, scene: Path, inventory: Path
) -> None:
    out = tmp_path / "tiles"
    make_tiles(scene, inventory, out, options=COLUMNS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        make_tiles(scene, inventory, out, options=COLUMNS)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    other = replace(COLUMNS, size=32)
    assert len(make_tiles(scene, inventory, out, options=other, overwrite=True).tiles) < 24
    assert not (out / "images" / "r000016_c000016.tif").exists()


def test_only_tile_sets_are_replaced(tmp_path: Path, scene: Path, inventory: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds no tileset.json, so landslip did not write it"):
        make_tiles(scene, inventory, precious, options=COLUMNS, overwrite=True)
    file = tmp_path / "file"
    file.write_text("a file")
    with pytest.raises(OutputError):
        make_tiles(scene, inventory, file, options=COLUMNS, overwrite=True)
    assert (precious / "chapter1.txt").read_text() == "years of work"
    assert file.read_text() == "a file"
    assert files_in(tmp_path) == [
        "file", "landslides.gpkg", "scene.tif", "thesis", "thesis/chapter1.txt"
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["reading", "writing", "picture", "stopped"])
def test_nothing_half_written_is_left(
    tmp_path: Path,
    scene: Path,
    inventory: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    error: type[BaseException] = LandslipError
    if when == "reading":
        scene.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
    else:
        calls = iter(range(100))
        error = KeyboardInterrupt if when == "stopped" else OutputError
        name = "write_index" if when == "picture" else "write_tile"
        real = getattr(tiles_module, name)

        def failing(*args: Any, **named: Any) -> Any:
            if when == "picture" or next(calls) == 3:
                raise KeyboardInterrupt if when == "stopped" else OSError(28, "No space left")
            return real(*args, **named)

        monkeypatch.setattr(tiles_module, name, failing)
    before = files_in(tmp_path)
    with pytest.raises(error):
        make_tiles(scene, inventory, tmp_path / "out" / "tiles", options=COLUMNS)
    left = [name for name in files_in(tmp_path) if name not in before]
    assert left in ([], ["out"])


def test_a_failing_overwrite_keeps_the_old_tiles(
    tmp_path: Path, scene: Path, inventory: Path
) -> None:
    out = tmp_path / "tiles"
    made = make_tiles(scene, inventory, out, options=COLUMNS)
    scene.write_bytes(scene.read_bytes()[:10_000])
    with pytest.raises(LandslipError):
        make_tiles(scene, inventory, out, options=COLUMNS, overwrite=True)
    assert TileSet.open(out) == made
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_to_learn_from(tmp_path: Path, scene: Path) -> None:
    only_test = tiny.write_inventory(tmp_path / "east.gpkg", [(10, 84, 4, 4)])
    with pytest.raises(TileSetError, match="the training tiles hold no landslide pixel"):
        make_tiles(scene, only_test, tmp_path / "a", options=COLUMNS)
    inventory = tiny.write_inventory(tmp_path / "i.gpkg")
    sea = tiny.write_inventory(tmp_path / "cloud.gpkg", [(-5, -5, 80, 120)])
    with pytest.raises(TileSetError):
        make_tiles(open_scene(scene, unusable=sea), inventory, tmp_path / "b", options=COLUMNS)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_side_without_landslides_is_said(
    tmp_path: Path, scene: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inventory = tiny.write_inventory(tmp_path / "i.gpkg", tiny.LANDSLIDES[:3])
    with caplog.at_level(logging.WARNING, logger="landslip"):
        make_tiles(scene, inventory, tmp_path / "tiles", options=COLUMNS)
    assert "the test tiles hold no landslide" in caplog.text
    assert "the validation tiles hold no landslide" in caplog.text


def test_equal_input_gives_equal_bytes(
    tmp_path: Path, scene: Path, inventory: Path, with_picture: None
) -> None:
    first = make_tiles(scene, inventory, tmp_path / "a", options=COLUMNS)
    second = make_tiles(scene, inventory, tmp_path / "b", options=COLUMNS)
    assert first.sha256() == second.sha256()
    for name in files_in(tmp_path / "a"):
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), (
                name
            )


# Folders of pictures -----------------------------------------------------------------------------


def pictures(
    *names: str, size: tuple[int, int] = (20, 30)
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.uint8]]]:
    """Noise and a mask of 255 with a landslide in each."""
    images, masks = {}, {}
    for number, name in enumerate(names):
        images[name] = tiny.noise(3, *size, "uint8", number)
        masks[name] = np.zeros(size, dtype=np.uint8)
        masks[name][2:5, 3 : 6 + number % 4] = 255
    return images, masks


def take(folder: Path, **more: Any) -> TileSet:
    options: dict[str, Any] = {"bands": ("red", "green", "blue"), "pixel_size_m": 0.8}
    return tiles_from_folder(folder, folder.with_name("tiles"), **(options | more))


INDEX = "file,split\na.png,train\nb.png,val\nc.png,validation\nd.png,test\n"


def test_pictures_become_tiles_without_a_place(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png", "c.png", "d.png")
    tiles = take(tiny.write_pictures(tmp_path / "in", images, masks, INDEX))
    assert [(tile.name, tile.split) for tile in tiles.tiles] == [
        ("a", "train"), ("b", "validation"), ("c", "validation"), ("d", "test")
    ]  # fmt: skip
    assert (tiles.crs, tiles.pixel_size_m, tiles.dtype) == ("", 0.8, "uint8")
    assert crs_of(tiles) is None
    assert tiles.bands == ("red", "green", "blue")
    for tile in tiles.tiles:
        raster, labels = tiles.read(tile)
        np.testing.assert_array_equal(raster.values, images[f"{tile.name}.png"])
        np.testing.assert_array_equal(labels, masks[f"{tile.name}.png"] // 255)
        assert tile.window is None
        assert tiles.first_seen(tile).all()
        assert tile.landslide_share == pytest.approx((labels == 1).mean())
    assert TileSet.open(tiles.folder) == tiles


def test_masks_of_zero_and_one(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png")
    masks = {name: mask // 255 for name, mask in masks.items()}
    masks["b.png"][:] = 0
    index = "file,split\na.png,train\nb.png,val\n"
    tiles = take(tiny.write_pictures(tmp_path / "in", images, masks, index))
    assert [tile.landslide_share > 0 for tile in tiles.tiles] == [True, False]


def test_tiles_may_differ_in_size(tmp_path: Path) -> None:
    images, masks = pictures("a.png", size=(61, 90))
    more, more_masks = pictures("b.png", size=(200, 33))
    index = "file,split\na.png,train\nb.png,val\n"
    folder = tiny.write_pictures(tmp_path / "in", images | more, masks | more_masks, index)
    tiles = take(folder)
    assert [(tile.height, tile.width) for tile in tiles.tiles] == [(61, 90), (200, 33)]


def test_masks_may_have_another_ending(tmp_path: Path) -> None:
    images, masks = pictures("a.tif", "b.tif")
    masks = {name.replace(".tif", ".png"): mask for name, mask in masks.items()}
    index = "file,split\na.tif,train\nb.tif,test\n"
    tiles = take(tiny.write_pictures(tmp_path / "in", images, masks, index))
    assert len(tiles.tiles) == 2


def test_without_an_index_sides_are_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, masks = pictures(*(f"{number:02d}.png" for number in range(10)))
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    with caplog.at_level(logging.WARNING, logger="landslip"):
        tiles = take(folder)
    assert "split at random" in caplog.text
    assert (len(tiles.of("train")), len(tiles.of("validation"))) == (8, 2)
    again = take(folder, overwrite=True)
    assert again.tiles == tiles.tiles
    other = take(folder, overwrite=True, seed=3)
    assert other.tiles != tiles.tiles


def test_files_of_the_system_are_no_pictures(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png", "c.png")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    for name in (".DS_Store", "Thumbs.db", "a.png.aux.xml", "a.pgw"):
        (folder / "images" / name).write_text("no picture")
    assert len(take(folder).tiles) == 3


def test_an_index_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png", "c.png", "d.png")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    (folder / "index.csv").write_bytes(b"\xef\xbb\xbf" + INDEX.replace("\n", "\r\n").encode())
    assert len(take(folder).tiles) == 4


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("name,side\na.png,train\n", "columns file and split"),
        ("", "columns file and split"),
        ("file,split\n", "columns file and split"),
        ("file,split\na.png,train\nb.png,holdout\n", "holdout"),
        ("file,split\na.png,train\nb.png\n", "expected train, validation, test"),
        ("file,split\na.png,train\na.png,test\n", r"a.png.*twice"),
        ("file,split\na.png,train\nno.png,test\n", "no.png"),
        ("file;split\na.png;train\n", "columns file and split"),
        ("file,split\nä.png,train\n", "UTF-8"),
    ],
)
def test_an_index_that_cannot_be_used(tmp_path: Path, index: str, says: str) -> None:
    images, masks = pictures("a.png", "b.png")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    encoding = "latin-1" if says == "UTF-8" else "utf-8"
    (folder / "index.csv").write_text(index, encoding=encoding)
    with pytest.raises(LandslipError, match=says):
        take(folder)
    assert not (tmp_path / "tiles").exists()


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "a.tif")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    with pytest.raises(TileSetError, match=r"a.png.*a.tif|a.tif.*a.png"):
        take(folder)


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "in" / "images").mkdir(parents=True)
    with pytest.raises(TileSetError, match=r"images/ and masks/"):
        take(tmp_path / "in")
    (tmp_path / "in" / "masks").mkdir()
    with pytest.raises(TileSetError):
        take(tmp_path / "in")


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png")

    def refused(says: str, **changed: NDArray[np.uint8] | None) -> None:
        folder = tmp_path / f"in{len(list(tmp_path.iterdir()))}"
        used = {k: v for k, v in (masks | {"b.png": changed["b"]}).items() if v is not None}
        tiny.write_pictures(folder, images, used, "file,split\na.png,train\nb.png,val\n")
        with pytest.raises(LandslipError, match=says) as caught:
            tiles_from_folder(folder, tmp_path / "t", bands=("r", "g", "b"), pixel_size_m=1.0)
        assert "b.png" in str(caught.value)
        assert not (tmp_path / "t").exists()

    grey = masks["b.png"].copy()
    grey[0, 0] = 128
    refused(r"0 and 255 \(landslide\).*128", b=grey)
    both = masks["b.png"].copy()
    both[0, 0] = 1
    refused(r"found .*\[0, 1, 255\]", b=both)
    refused(r"\(20, 30\) px.*\(30, 20\) px", b=np.ascontiguousarray(masks["b.png"].T))
    refused("has no mask", b=None)


def test_a_mask_whose_landslides_are_declared_nodata(tmp_path: Path) -> None:
    images, masks = pictures("a.tif", "b.tif")
    index = "file,split\na.tif,train\nb.tif,val\n"
    folder = tiny.write_pictures(tmp_path / "in", images, masks, index)
    for name, nodata in (("a.tif", 0), ("b.tif", 255)):
        mask = folder / "masks" / name
        tiny.write_scene(mask, masks[name][None], bands=[None], crs=None, nodata=nodata)
    # 0 as nodata takes nothing away from a mask of landslides; 255 would take all of them.
    with pytest.raises(InventoryError, match=r"b.tif.*nodata"):
        take(folder)


def test_a_band_of_pictures_may_be_left_out(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    tiles = take(folder, bands=("red", "-", "near infrared"))
    assert tiles.bands == ("red", "nir")
    for tile in tiles.tiles:
        np.testing.assert_array_equal(
            tiles.read(tile)[0].values, images[f"{tile.name}.png"][[0, 2]]
        )


def test_pictures_with_other_bands(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png")
    images["b.png"] = images["b.png"][:1]
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    with pytest.raises(BandError, match=r"b.png: it has 1, --bands names 3"):
        take(folder)


def test_pictures_of_other_types(tmp_path: Path) -> None:
    images, masks = pictures("a.tif", "b.tif")
    mixed: dict[str, NDArray[Any]] = {**images, "b.tif": images["b.tif"].astype("uint16") * 40}
    folder = tiny.write_pictures(tmp_path / "in", mixed, masks)
    with pytest.raises(TileSetError, match=r"uint8 and uint16"):
        take(folder)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_pixel_sizes_that_cannot_be(tmp_path: Path, size: float) -> None:
    images, masks = pictures("a.png", "b.png")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    with pytest.raises(LandslipError, match="pixel size"):
        take(folder, pixel_size_m=size)


def test_folder_outputs_are_kept_like_others(tmp_path: Path) -> None:
    images, masks = pictures("a.png", "b.png")
    folder = tiny.write_pictures(tmp_path / "in", images, masks)
    (tmp_path / "tiles").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        take(folder)
    with pytest.raises(OutputError, match=r"holds no tileset\.json"):
        take(folder, overwrite=True)


# Tile sets together ------------------------------------------------------------------------------


def test_tile_sets_that_go_together(tmp_path: Path) -> None:
    one = TileSet.open(tiny.tiny_tiles(tmp_path / "one"))
    two = TileSet.open(tiny.tiny_tiles(tmp_path / "two", bands=("green", "nir", "red")))
    coarse = replace(one, pixel_size_m=one.pixel_size_m * 1.24)
    require_alike([one])
    require_alike([one, two, coarse])


def test_tile_sets_that_do_not(tmp_path: Path) -> None:
    one = TileSet.open(tiny.tiny_tiles(tmp_path / "one"))
    other = TileSet.open(tiny.tiny_tiles(tmp_path / "other", bands=("blue", "red", "green")))
    with pytest.raises(BandError, match=r"one and .*other together: .*nir, red, green and blue"):
        require_alike([one, other])
    coarse = TileSet.open(tiny.tiny_tiles(tmp_path / "coarse", size_m=20))
    with pytest.raises(TileSetError, match=r"10 m and 20 m"):
        require_alike([one, coarse])


# Real data ---------------------------------------------------------------------------------------


def data(name: str) -> Path:
    folder = os.environ.get("LANDSLIP_DATA")
    if not folder:
        pytest.skip("LANDSLIP_DATA names no folder")
    return Path(folder) / name


@pytest.mark.data
def test_tianshui_is_cut_as_the_paper_was(tmp_path: Path) -> None:
    folder = data("tianshui")
    options = TileOptions(size=600, stride=100, split="columns:3600,4200")
    tiles = make_tiles(
        folder / "scene.tif", folder / "landslides.gpkg", tmp_path / "tiles", options=options
    )
    assert [len(tiles.of(side)) for side in ("train", "validation", "test")] == [31, 1, 7]
    assert tiles.bands == ("nir", "red", "green")
    assert tiles.dtype == "uint8"
    assert tiles.pixel_size_m == pytest.approx(0.5, rel=2e-3)
    assert {(tile.height, tile.width, tile.valid_share) for tile in tiles.tiles} == {(600, 600, 1)}
    with rasterio.open(folder / "scene.tif") as scene:
        image = scene.read(window=rasterio.windows.Window(3600, 0, 600, 600))
    np.testing.assert_array_equal(tiles.read(tiles.of("validation")[0])[0].values, image)
    with rasterio.open(folder / "labels.tif") as opened:
        truth = opened.read(1)
    seen = counted = 0
    for tile in tiles.tiles:
        counted += int((tiles.read(tile)[1] == 1)[tiles.first_seen(tile)].sum())
        seen += int(tiles.first_seen(tile).sum())
    assert seen == 600 * 5400
    assert counted == pytest.approx(truth.sum(), rel=0.01)


@pytest.mark.data
def test_iburi_label_areas_are_geodesic() -> None:
    scene = FileScene(str(data("iburi") / "labels.tif"), {"label": 1})
    grid = scene.grid
    assert grid.is_geographic
    inside = scene.read(Window(0, 0, *grid.shape), ["label"]).values[0] == 1
    summed = float((inside.sum(axis=1) * grid.pixel_area_m2(np.arange(grid.height))).sum())
    outlines = [
        shapely.geometry.shape(found)
        for found, value in shapes(inside.astype("uint8"), mask=inside, transform=grid.transform)
        if value == 1
    ]
    geodesic = sum(abs(WGS84.geometry_area_perimeter(outline)[0]) for outline in outlines)
    assert inside.any()
    assert summed == pytest.approx(geodesic, rel=0.01)
    assert summed == pytest.approx(geodesic, rel=1e-4)
