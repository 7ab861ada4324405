"""Scenes are sent to workers in other folders and on other machines: all but the pixels travels."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.warp import transform_bounds
from scipy.ndimage import gaussian_filter

import tiny
from landslip.geo.errors import RasterError
from landslip.geo.grid import Window
from landslip.geo.raster import FileScene, Scene
from landslip.geo.scene import open_scene
from landslip.prepare.sharpen.matching import SharpenOptions
from landslip.prepare.sharpen.pansharpen import PansharpenedScene, open_pansharpened
from landslip.samples.delivery import RATIO, as_delivered

LARGEST_BYTES = 100_000
HEIGHT, WIDTH = 304, 288
"""Of all scenes (px), unless they are resampled."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 304 x 288 px of 10 m, larger than a pickle may be, and what is laid over it.

    Nodata 0 in rows 0-9, columns 0-6; `before` lies 3.7 m off, the elevation model in degrees;
    the bands of `ms` lie one pan pixel to the right of the pan.
    """
    folder = tmp_path_factory.mktemp("shared")
    random = np.random.default_rng(0)
    smooth = gaussian_filter(random.normal(size=(3, HEIGHT, WIDTH + 1)), (0, 6, 6)) * 15_000
    image = np.clip(1500 + smooth, 100, 4000).astype(np.uint16)
    moved, image = image[..., :-1], image[..., 1:].copy()
    tiny.write_scene(folder / "pan.tif", as_delivered(image)[0], bands=["pan"], nodata=0)
    coarse = tiny.transform_of(RATIO * tiny.SIZE_M)
    tiny.write_scene(folder / "ms.tif", as_delivered(moved)[1], transform=coarse, nodata=0)
    image[:, :10, :7] = 0
    tiny.write_scene(folder / "scene.tif", image, nodata=0)
    off = tiny.transform_of(west=tiny.WEST + 3.7)
    tiny.write_scene(folder / "before.tif", image // 2, transform=off, nodata=0)
    heights = gaussian_filter(random.normal(size=(1, 320, 320)), (0, 8, 8)).astype(np.float32)
    tiny.write_scene(folder / "ndsm.tif", heights, bands=["x"], transform=tiny.transform_of(9))
    size_m = tiny.SIZE_M
    west, south = tiny.WEST - 9 * size_m, tiny.NORTH - (HEIGHT + 9) * size_m
    bounds = (west, south, tiny.WEST + (WIDTH + 9) * size_m, tiny.NORTH + 9 * size_m)
    west, south, east, north = transform_bounds(tiny.UTM, "EPSG:4326", *bounds)
    degrees = tiny.transform_of(max(east - west, north - south) / 320, west, north)
    dem = 1000 + 3000 * heights
    tiny.write_scene(folder / "dem.tif", dem, bands=["z"], transform=degrees, crs="EPSG:4326")
    tiny.write_inventory(folder / "aoi.gpkg", [(0, 0, 130.3, 90.8), (100, 80, 90, 160)])
    tiny.write_inventory(folder / "cloud.gpkg", [(5, 5, 20, 30), (110, 100, 41, 33)])
    cloud = (tiny.noise(1, HEIGHT, WIDTH) > 150).astype(np.uint8)
    tiny.write_scene(folder / "cloud.tif", cloud, bands=["cloud"], transform=off)
    lines = {
        "gain": {"nir": 1e-4, "red": 2e-4, "green": 3e-4},
        "offset": dict.fromkeys(tiny.RGN, -0.01),
    }
    (folder / "numbers.json").write_text(json.dumps(lines))
    return folder


def pair() -> PansharpenedScene:
    return open_pansharpened("pan.tif", "ms.tif", options=SharpenOptions(coregister=True))


SCENES: dict[str, Callable[[], Any]] = {
    "file": lambda: open_scene("scene.tif"),
    "add": lambda: open_scene("scene.tif", add=["ndsm.tif:height_above_ground"]),
    "dem": lambda: open_scene("scene.tif", dem="dem.tif"),
    "pre": lambda: open_scene("scene.tif", pre="before.tif"),
    "aoi": lambda: open_scene("scene.tif", aoi="aoi.gpkg"),
    "unusable polygons": lambda: open_scene("scene.tif", unusable="cloud.gpkg"),
    "unusable raster": lambda: open_scene("scene.tif", unusable="cloud.tif"),
    "pixel size": lambda: open_scene("scene.tif", pixel_size_m=17),
    "reflectance": lambda: open_scene("scene.tif", reflectance="numbers.json"),
    "pair": pair,
    "all over a pair": lambda: open_scene(
        pair(), reflectance="numbers.json", add=["ndsm.tif:height_above_ground"], dem="dem.tif",
        pre="before.tif", aoi="aoi.gpkg", unusable="cloud.gpkg",
    ),
}  # fmt: skip
"""Scenes of `folder`, by paths relative to it."""


def content(scene: Any) -> list[Any]:
    """All that a scene tells of itself and of several windows, to the byte."""
    found: list[Any] = [scene.grid, scene.bands]
    for name in ("units", "dtype", "sensor", "sources"):
        found.append(getattr(scene, name, None))
    for window in (Window(0, 0, 40, 50), Window(97, 61, 33, 47), scene.grid.window):
        for bands in (scene.bands, ("ndvi", "green")):
            raster = scene.read(window, bands)
            found += [raster.values.dtype.name, raster.values.shape, raster.values.tobytes()]
            found += [raster.valid.tobytes(), raster.grid]
        if hasattr(scene, "excluded"):
            found.append(scene.excluded(window).tobytes())
    return found


def content_of(pickled: bytes) -> list[Any]:
    """The same of a copy, which is closed again."""
    copy = pickle.loads(pickled)
    found = content(copy)
    copy.close()
    return found


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder without files."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    return other


@pytest.mark.parametrize("was_read", [False, True], ids=["new", "read before"])
@pytest.mark.parametrize("name", SCENES)
def test_a_copy_reads_the_same_from_another_folder(
    name: str, was_read: bool, folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    scene = SCENES[name]()
    if was_read:
        content(scene)
    pickled = pickle.dumps(scene)
    expected = content(scene)
    assert len(pickled) < LARGEST_BYTES
    monkeypatch.chdir(elsewhere)
    assert content_of(pickled) == expected
    # Closing the copy takes nothing away from the scene.
    monkeypatch.chdir(folder)
    assert content(scene) == expected
    scene.close()


def test_a_spawned_process_reads_the_same(
    folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    scenes = [make() for make in SCENES.values()]
    expected = [scene.read(scene.grid.window, scene.bands) for scene in scenes]
    copies = [pickle.loads(pickle.dumps(scene)) for scene in scenes]
    for scene in scenes:
        scene.close()  # and with it what it wrote for itself
    monkeypatch.chdir(elsewhere)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        reads = [workers.submit(copy.read, copy.grid.window, copy.bands) for copy in copies]
        found = [read.result() for read in reads]
    for mine, theirs in zip(expected, found, strict=True):
        assert (theirs.bands, theirs.grid) == (mine.bands, mine.grid)
        assert theirs.values.dtype == mine.values.dtype
        assert theirs.values.tobytes() == mine.values.tobytes()
        assert theirs.valid.tobytes() == mine.valid.tobytes()


def test_scenes_of_these_tests_are_what_they_are_called(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    scene = SCENES["all over a pair"]()
    assert {"slope", "pre_red", "height_above_ground"} <= set(scene.bands)
    assert set(np.unique(scene.excluded(scene.grid.window))) == {0, 2, 3}
    raster = scene.read(scene.grid.window, scene.bands)
    assert 0.1 < raster.valid.mean() < 0.9
    assert all(np.ptp(plane[raster.valid]) > 0 for plane in raster.values)
    scene.close()
    sharp = pair()
    assert sharp.misregistration is not None
    assert sharp.misregistration.applied
    assert sharp.misregistration.distance_px > 0.5
    sharp.close()


def test_a_raster_in_memory_travels_with_its_pixels(folder: Path) -> None:
    file = open_scene(folder / "scene.tif")
    raster = file.read(file.grid.window, file.bands)
    file.close()
    copy = pickle.loads(pickle.dumps(raster))
    assert isinstance(copy, Scene)
    assert content(copy) == content(raster)


def test_a_copy_opens_nothing_before_it_is_read(tmp_path: Path) -> None:
    path = tiny.write_scene(tmp_path / "scene.tif")
    scene = open_scene(path, dem=path)
    scene.read(Window(0, 0, 2, 2), ["slope"])
    pickled = pickle.dumps(scene)
    scene.close()
    path.unlink()
    copy = pickle.loads(pickled)
    assert copy.bands == scene.bands
    with pytest.raises(RasterError, match="no such file"):
        copy.read(Window(0, 0, 2, 2), ["red"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("scene.tif", "{folder}/scene.tif"),
        ("../{name}/scene.tif", "{folder}/../{name}/scene.tif"),
        ("{folder}/scene.tif", "{folder}/scene.tif"),
        ("file://{folder}/scene.tif", "file://{folder}/scene.tif"),
        ("/vsisubfile/0,{folder}/scene.tif", "/vsisubfile/0,{folder}/scene.tif"),
        ("GTIFF_DIR:1:{folder}/scene.tif", "GTIFF_DIR:1:{folder}/scene.tif"),
    ],
)
def test_only_relative_paths_of_files_become_absolute(
    path: str, expected: str, folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    scene = FileScene.open(path.format(folder=folder, name=folder.name))
    pickled = pickle.dumps(scene)
    found = content(scene)
    scene.close()
    monkeypatch.chdir(elsewhere)
    assert pickle.loads(pickled).path == expected.format(folder=folder, name=folder.name)
    assert content_of(pickled) == found


@pytest.mark.parametrize(
    "path", ["s3://bucket/scene.tif", "https://a.org/scene.tif", "/vsicurl/https://a.org/s.tif",
             "NETCDF:scene.nc:red", "gone.tif"],
)  # fmt: skip
def test_what_is_no_file_here_stays_as_it_is_named(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = FileScene.open(tiny.write_scene(tmp_path / "scene.tif"))
    monkeypatch.setattr(scene, "path", path)
    assert pickle.loads(pickle.dumps(scene)).path == path
