"""Scenes that are sent to workers: values travel, files are opened there."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
from landslip.geo.grid import Window
from landslip.geo.raster import Raster, Scene
from landslip.geo.scene import StackedScene, open_scene
from landslip.prepare.sharpen.matching import SharpenOptions
from landslip.prepare.sharpen.pansharpen import open_pansharpened
from landslip.samples.delivery import as_delivered

MOST_BYTES = 100_000
"""Of a pickle: no pixels."""
WINDOWS = (Window(0, 0, 20, 30), Window(31, 40, 33, 56), Window(10, 10, 1, 1))


def plain(folder: Path) -> Scene:
    values = tiny.noise(3, 64, 96)
    values[:, :9, :20] = 0
    return open_scene(tiny.write_scene(folder / "scene.tif", values, nodata=0))


def laid_over(folder: Path) -> Scene:
    scene = tiny.write_scene(folder / "scene.tif")
    added = tiny.write_scene(folder / "added.tif", bands=["blue"], seed=1)
    before = tiny.write_scene(folder / "before.tif", seed=2)
    heights = tiny.write_scene(folder / "dem.tif", tiny.noise(1, 64, 96, "float32"), bands=["z"])
    return open_scene(scene, add=[f"{added}:blue"], pre=before, dem=heights)


def cut(folder: Path) -> Scene:
    return open_scene(
        tiny.write_scene(folder / "scene.tif"),
        aoi=tiny.write_inventory(folder / "aoi.gpkg", [(5, 5, 50, 80)]),
        unusable=tiny.write_inventory(folder / "cloud.gpkg", [(20, 20, 10, 10)]),
    )


def clouded(folder: Path) -> Scene:
    cloud = tiny.landslide_pixels()[None].astype(np.uint8)
    return open_scene(
        tiny.write_scene(folder / "scene.tif"),
        unusable=tiny.write_scene(folder / "cloud.tif", cloud, bands=["cloud"]),
    )


def coarser(folder: Path) -> Scene:
    path = tiny.write_scene(folder / "scene.tif", height=128, width=192)
    return open_scene(path, pixel_size_m=20)


def sharpened(folder: Path) -> Scene:
    smooth = np.kron(tiny.noise(3, 8, 12, seed=4), np.ones((1, 16, 16), np.uint16)) * 10
    sharp, coarse = as_delivered(smooth + tiny.noise(3, 128, 192))
    pan = tiny.write_scene(folder / "pan.tif", sharp, bands=["pan"])
    ms = tiny.write_scene(folder / "ms.tif", coarse, transform=tiny.transform_of(40.0))
    options = SharpenOptions(coregister=True)
    return open_scene(open_pansharpened(pan, ms, options=options))


def in_memory(folder: Path) -> Scene:
    from rasterio.crs import CRS

    from landslip.geo.grid import Grid

    grid = Grid(CRS.from_string(tiny.UTM), tiny.transform_of(), 64, 96)
    return Raster(tiny.noise(3, 64, 96), np.ones((64, 96), dtype=bool), tiny.RGN, grid)


@pytest.mark.parametrize("make", [plain, laid_over, cut, clouded, coarser, sharpened, in_memory])
def test_a_scene_that_travelled_gives_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Scene]
) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make(Path("given"))
    windows = [w for w in WINDOWS if w.intersection(scene.grid.window) == w]
    before = [scene.read(window, scene.bands) for window in windows]
    packed = pickle.dumps(scene)  # with its files open
    assert len(packed) < MOST_BYTES
    monkeypatch.chdir("/")
    arrived = pickle.loads(packed)
    assert (arrived.grid, arrived.bands) == (scene.grid, scene.bands)
    for window, expected in zip(windows, before, strict=True):
        found = arrived.read(window, arrived.bands)
        assert found.values.tobytes() == expected.values.tobytes()
        assert found.valid.tobytes() == expected.valid.tobytes()
        if isinstance(scene, StackedScene):
            monkeypatch.chdir(tmp_path)
            excluded = scene.excluded(window)
            monkeypatch.chdir("/")
            assert arrived.excluded(window).tobytes() == excluded.tobytes()
    for each in (scene, arrived):
        if not isinstance(each, Raster):
            each.close()  # type: ignore[union-attr]
