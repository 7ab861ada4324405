"""Mapping that is stopped, killed, spread over workers, over several scenes and by several models.

All scenes are tiny ones in UTM zone 54, 10 m pixels; models are untrained.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
import torch
from numpy.typing import NDArray

import tiny
from landslip.geo.errors import DataError, OutputError, RasterError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.in_place import InPlaceRaster
from landslip.geo.output import only_process
from landslip.geo.raster import FileScene, open_dataset
from landslip.geo.scene import open_scene
from landslip.learn.memory import peak_bytes
from landslip.learn.models import build_model
from landslip.mapping import run, unfinished, work
from landslip.mapping.layout import OVERHEAD, even_layout, fitting_layout
from landslip.mapping.options import MapOptions
from landslip.mapping.scene_map import estimate_map, map_scene, map_scenes

OPTIONS = MapOptions(device="cpu", core_px=32, threshold=0.5, outline="pixels")
WINDOWS = 6
"""Of 64 x 96 px, at 32 px."""
OUTPUTS = ("probability.tif", "landslides.gpkg")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return tiny.write_scene(tmp_path / "scene.tif")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.tiny_model(tmp_path / "m.safetensors")


def codes(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as raster:
        found: NDArray[Any] = raster.read(1)
    return found


def fixed_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """GeoPackages of different runs get one date, so that their bytes can be compared."""
    monkeypatch.setenv("OGR_CURRENT_DATE", "2020-01-01T00:00:00.000Z")


def same_bytes(one: Path, other: Path) -> None:
    for name in OUTPUTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def stop_after(monkeypatch: pytest.MonkeyPatch, windows: int) -> None:
    monkeypatch.setattr(run, "Interruption", lambda: tiny.StopAfter(windows))


# Stopped and continued ---------------------------------------------------------------------------


def test_a_stopped_map_continues_to_the_same_bytes(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_date(monkeypatch)
    map_scene(scene, model, tmp_path / "whole", options=OPTIONS)
    out, partial = tmp_path / "map", tmp_path / "map.partial"
    for stopped in range(3):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            with pytest.raises(KeyboardInterrupt, match="the same command continues"):
                map_scene(scene, model, out, options=OPTIONS)
        assert np.fromfile(partial / "done.bin", np.uint8).sum() == stopped + 1
        assert not out.exists()
    # What is finished can be looked at: georeferenced, and nodata where nothing is mapped yet.
    with rasterio.open(partial / "probability.tif") as raster:
        assert (raster.crs.to_epsg(), raster.nodata) == (32654, 255)
        assert (raster.read(1) != 255).sum() == 3 * 32 * 32
    map_scene(scene, model, out, options=OPTIONS)
    assert not partial.exists()
    same_bytes(out, tmp_path / "whole")


KILLED = """
import sys
from landslip.mapping import unfinished, work
unfinished.SYNC_S = 0
from landslip.mapping.options import MapOptions
from landslip.mapping.scene_map import map_scene
before = work.WindowMapper.compute
def slow(self, seen):
    import time
    time.sleep(0.3)
    return before(self, seen)
work.WindowMapper.compute = slow
options = MapOptions(device="cpu", core_px=32, threshold=0.5, outline="pixels")
map_scene(sys.argv[1], sys.argv[2], sys.argv[3], options=options)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_map_continues_to_the_same_bytes(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    fixed_date(monkeypatch)
    map_scene(scene, model, tmp_path / "whole", options=OPTIONS)
    done = tmp_path / "map.partial" / "done.bin"
    words = [sys.executable, "-c", KILLED, str(scene), str(model), str(tmp_path / "map")]
    process = subprocess.Popen(words)
    until = time.monotonic() + 60
    while not (done.exists() and done.read_bytes().count(b"\1")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= done.read_bytes().count(b"\1") < WINDOWS
    map_scene(scene, model, tmp_path / "map", options=OPTIONS)
    same_bytes(tmp_path / "map", tmp_path / "whole")


def _other_scene(path: Path, model: Path) -> tuple[Path, Path, MapOptions]:
    tiny.write_scene(path, seed=9)
    return path, model, OPTIONS


def _other_model(path: Path, model: Path) -> tuple[Path, Path, MapOptions]:
    model.unlink()
    return path, tiny.tiny_model(model, seed=5), OPTIONS


def _other_option(path: Path, model: Path) -> tuple[Path, Path, MapOptions]:
    return path, model, MapOptions(device="cpu", core_px=32, threshold=0.25, outline="pixels")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_scene, "scenes = "),
        (_other_model, "models = "),
        (_other_option, r"threshold = 0\.5, now 0\.25"),
    ],
)
def test_what_was_begun_otherwise_is_not_continued(
    scene: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], tuple[Path, Path, MapOptions]],
    said: str,
) -> None:
    out = tmp_path / "map"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            map_scene(scene, model, out, options=OPTIONS)
    kept = (tmp_path / "map.partial" / "done.bin").read_bytes()
    changed_scene, changed_model, options = change(scene, model)
    with pytest.raises(OutputError, match=rf"begun with other options .*{said}"):
        map_scene(changed_scene, changed_model, out, options=options)
    assert (tmp_path / "map.partial" / "done.bin").read_bytes() == kept


def test_foreign_files_are_never_removed(scene: Path, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "map.partial" / "thesis.docx"
    mine.parent.mkdir()
    mine.write_text("ten years")
    with pytest.raises(OutputError, match=r"it holds thesis\.docx"):
        map_scene(scene, model, tmp_path / "map", options=OPTIONS)
    assert mine.read_text() == "ten years"


def test_two_processes_do_not_map_into_one_folder(scene: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    with (
        only_process(out),
        pytest.raises(OutputError, match=r"map\.partial: another process is at work there"),
    ):
        map_scene(scene, model, out, options=OPTIONS)
    # What a killed process was assembling, and what another output's process assembles.
    for name in (".map.123.partial", ".map.2.123.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "quicklook.png").touch()
    map_scene(scene, model, out, options=OPTIONS)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"map", "m.safetensors", "scene.tif", ".map.2.123.partial"}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, number: int,
) -> None:  # fmt: skip
    def unlocked(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    left = tmp_path / ".map.2.123.partial"
    left.mkdir()
    monkeypatch.setattr("filelock.FileLock.acquire", unlocked)
    map_scene(scene, model, tmp_path / "map", options=OPTIONS)
    assert "map.partial cannot be locked: let no other process write there" in caplog.text
    assert left.exists()
    assert (tmp_path / "map" / "probability.tif").exists()


# Faults -------------------------------------------------------------------------------------------


def failing_after(windows: int, error: Exception) -> Callable[..., Any]:
    """The mapping of a window, which fails from a number of windows on."""
    before, calls = work.WindowMapper.compute, []

    def mapped(self: work.WindowMapper, seen: work.SeenWindow) -> work.ScoredWindow:
        calls.append(seen)
        if len(calls) > windows:
            raise error
        return before(self, seen)

    return mapped


@pytest.mark.parametrize(
    "error", [DataError("the file is cut short"), OSError(errno.EIO, "the file is gone")]
)
def test_what_was_mapped_before_a_fault_is_kept(
    scene: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    fixed_date(monkeypatch)
    map_scene(scene, model, tmp_path / "whole", options=OPTIONS)
    out = tmp_path / "map"
    with monkeypatch.context() as patch:
        patch.setattr(work.WindowMapper, "compute", failing_after(4, error))
        with pytest.raises(type(error), match="the file is"):
            map_scene(scene, model, out, options=OPTIONS)
    assert "the same command continues" in caplog.text
    map_scene(scene, model, out, options=OPTIONS)
    same_bytes(out, tmp_path / "whole")


def truncate(scene: Path) -> None:
    with scene.open("r+b") as file:
        file.truncate(scene.stat().st_size // 2)


def blank_a_block(scene: Path) -> None:
    with rasterio.open(scene) as raster:
        first, size = (
            int(raster.get_tag_item(f"BLOCK_{what}_30_2", "TIFF", bidx=1))
            for what in ("OFFSET", "SIZE")
        )
    with scene.open("r+b") as file:
        file.seek(first)
        file.write(bytes(size))


@contextmanager
def opened_anew(self: FileScene) -> Iterator[Any]:
    """The file for one read, so that nothing of it stays in memory."""
    with open_dataset(self.path) as dataset:
        yield dataset


@pytest.mark.parametrize("damage", [truncate, blank_a_block, Path.unlink])
def test_a_scene_that_is_damaged_while_it_is_mapped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    fixed_date(monkeypatch)
    plain = tiny.write_scene(tmp_path / "plain.tif", height=64, width=640)
    scene, kept = tmp_path / "scene.tif", tmp_path / "kept.tif"
    rasterio.shutil.copy(
        plain, scene, driver="GTiff", compress="deflate", tiled=True, blockxsize=16, blockysize=16
    )
    kept.write_bytes(scene.read_bytes())
    options = replace(OPTIONS, scaling="model")
    map_scene(scene, model, tmp_path / "whole", options=options)
    before, calls = unfinished.UnfinishedMap.write, []

    def damaging(self: unfinished.UnfinishedMap, *args: Any) -> None:
        before(self, *args)
        if self.folder.name == "map.partial":  # the deadline is told before
            calls.append(args)
        if len(calls) == 2:
            damage(scene)

    with monkeypatch.context() as patch:
        patch.setattr(FileScene, "_dataset", opened_anew)
        patch.setattr(unfinished.UnfinishedMap, "write", damaging)
        with pytest.raises(RasterError, match=r"Cannot (read|open) .*scene\.tif"):
            map_scene(scene, model, tmp_path / "map", options=options)
    assert 2 <= np.fromfile(tmp_path / "map.partial" / "done.bin", np.uint8).sum() < 40
    scene.write_bytes(kept.read_bytes())
    map_scene(scene, model, tmp_path / "map", options=options)
    same_bytes(tmp_path / "map", tmp_path / "whole")


def test_memory_that_runs_out_makes_windows_smaller(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    before = work.WindowMapper.compute

    def small_only(self: work.WindowMapper, seen: work.SeenWindow) -> work.ScoredWindow:
        if self._job.layout.core_width > 32:
            raise torch.OutOfMemoryError
        return before(self, seen)

    monkeypatch.setattr(work.WindowMapper, "compute", small_only)
    options = MapOptions(device="cpu", core_px=96, threshold=0.5, outline="pixels")
    map_scene(scene, model, tmp_path / "map", options=options)
    assert "mapping in smaller windows" in caplog.text
    layout = json.loads((tmp_path / "map" / "run.json").read_text())["layout"]
    assert layout == {"core_height": 32, "core_width": 32, "halo": 96}


def test_memory_that_runs_out_later_ends_clearly(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SYNC_S", 0)
    mapped = failing_after(4, torch.OutOfMemoryError())
    monkeypatch.setattr(work.WindowMapper, "compute", mapped)
    with pytest.raises(DataError, match=r"224 x 224 px does not fit .*is kept in .*map\.partial"):
        map_scene(scene, model, tmp_path / "map", options=OPTIONS)
    assert np.fromfile(tmp_path / "map.partial" / "done.bin", np.uint8).any()


def test_nothing_is_left_of_a_map_of_nothing(model: Path, tmp_path: Path) -> None:
    values = np.zeros((3, 64, 96), dtype=np.uint16)
    empty = tiny.write_scene(tmp_path / "empty.tif", values, nodata=0)
    with pytest.raises(DataError, match="no pixel of the scene is usable"):
        map_scene(empty, model, tmp_path / "map", options=MapOptions(scaling="model"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.tif", "m.safetensors"]


# Order, time and memory ---------------------------------------------------------------------------


def test_what_is_wanted_first_is_mapped_first(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_date(monkeypatch)
    map_scene(scene, model, tmp_path / "whole", options=OPTIONS)
    town = tiny.write_inventory(tmp_path / "town.gpkg", [(40, 70, 5, 5)])
    options = MapOptions(device="cpu", core_px=32, threshold=0.5, outline="pixels", first=town)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            map_scene(scene, model, tmp_path / "map", options=options)
    found = codes(tmp_path / "map.partial" / "probability.tif")
    assert (found[32:, 64:] != 255).all()
    assert (found != 255).sum() == 32 * 32
    map_scene(scene, model, tmp_path / "map", options=OPTIONS)
    same_bytes(tmp_path / "map", tmp_path / "whole")


def test_the_deadline_is_told_and_nothing_written(scene: Path, model: Path, tmp_path: Path) -> None:
    found = estimate_map([scene], model, options=OPTIONS)
    assert (found.pixels, found.windows) == (64 * 96, WINDOWS)
    assert found.km2 == pytest.approx(0.6144)
    assert found.overhead == pytest.approx((224 / 32) ** 2)
    assert found.seconds > 0
    assert found.files_seconds > 0
    assert found.memory_bytes > 224 * 224 * 440
    aoi = tiny.write_inventory(tmp_path / "aoi.gpkg", [(0, 0, 10, 10)])
    assert estimate_map([open_scene(scene, aoi=aoi)], model, options=OPTIONS).windows == 1
    done = tiny.landslip("map", scene, "--model", model, "--dry-run")
    assert done.code == 0
    assert "0.0 million pixels, 0.6 km2 in 1 windows: about" in done.out
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gpkg", ".safetensors", ".tif"]
    assert tiny.landslip("map", scene, "--model", model).code == 2


def test_windows_are_as_large_as_pays_and_fits() -> None:
    grid = Grid(None, rasterio.Affine.identity(), 33_368, 22_900)

    def needed(height: int, width: int) -> float:
        return 400.0 * height * width

    paying = fitting_layout(grid, 32, 96, most_bytes=1e12, needed=needed)
    assert paying.overhead < OVERHEAD + 0.02
    assert paying.core_height % 32 == paying.core_width % 32 == paying.halo % 32 == 0
    # Evenly divided, so that little is computed beyond the scene.
    cores = paying.cores(grid)
    assert len(cores) * paying.core_height * paying.core_width < 1.03 * 33_368 * 22_900
    small = fitting_layout(grid, 32, 96, most_bytes=4e8, needed=needed)
    assert small.core_height < paying.core_height
    assert needed(*small.shape) <= 4e8
    with pytest.raises(UsageError, match=r"--memory"):
        fitting_layout(grid, 32, 96, most_bytes=1e7, needed=needed)
    # With next to no halo, windows are only as large as their device wants them.
    assert fitting_layout(grid, 32, 0, most_bytes=1e12, needed=needed).core_height == 128
    wide = fitting_layout(grid, 32, 0, 1024, most_bytes=1e12, needed=needed)
    assert 992 <= wide.core_height <= 1024
    assert fitting_layout(grid, 32, 0, 1024, most_bytes=1e8, needed=needed).core_height < 512


def test_memory_of_a_network_is_that_of_its_tensors() -> None:
    # Two convolutions hold input and output at once, then the next output beside its input.
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 16, 3, padding=1)
    )
    assert peak_bytes(network, (1, 3, 10, 20)) == 4 * 10 * 20 * (3 + 8 + 16)
    whole = peak_bytes(build_model("unet-small", 3).eval(), (1, 3, 128, 128))
    assert peak_bytes(build_model("unet-small", 3).eval(), (1, 3, 256, 256)) == 4 * whole


# Several scenes, several models -------------------------------------------------------------------


def test_ground_in_two_scenes_is_counted_once(model: Path, tmp_path: Path) -> None:
    first = tiny.write_scene(tmp_path / "scenes" / "a.tif")
    values = tiny.noise(3, 64, 96, seed=1)
    shifted = tiny.transform_of(west=tiny.WEST + 480)  # half of the first
    second = tiny.write_scene(tmp_path / "scenes" / "b.tif", values, transform=shifted)
    map_scene(first, model, tmp_path / "alone", options=OPTIONS)
    done = tiny.landslip(
        "map", tmp_path / "scenes", "--model", model, "--out", tmp_path / "both",
        "--threshold", "0.5", "--outline", "pixels", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    seen = gpd.read_file(tmp_path / "both" / "landslides.gpkg", layer="observed")
    assert dict(zip(seen.scene, seen.area_m2, strict=True)) == {
        "a": 64 * 96 * 100, "b": 64 * 48 * 100,
    }  # fmt: skip
    slides = gpd.read_file(tmp_path / "both" / "landslides.gpkg", layer="landslides")
    assert slides.id.tolist() == list(range(1, len(slides) + 1))
    assert set(slides.scene) == {"a", "b"}
    shapes = slides.geometry.to_numpy()
    assert shapely.union_all(shapes).area == pytest.approx(shapely.area(shapes).sum())
    own = slides[slides.scene == "a"].area_m2.sum()
    alone = gpd.read_file(tmp_path / "alone" / "landslides.gpkg", layer="landslides")
    assert own == pytest.approx(alone.area_m2.sum())
    assert (codes(tmp_path / "both" / "b" / "probability.tif")[:, :48] == 255).all()
    hidden = gpd.read_file(tmp_path / "both" / "landslides.gpkg", layer="not_observed")
    assert hidden.reason.tolist() == ["seen in an earlier scene"]
    assert second.exists()


def test_scenes_of_two_zones_become_one_inventory(model: Path, tmp_path: Path) -> None:
    first = tiny.write_scene(tmp_path / "a" / "scene.tif")
    with rasterio.open(first) as raster:
        moved = gpd.GeoSeries([shapely.box(*raster.bounds)], crs=raster.crs).to_crs(32653)
    west, north = moved.total_bounds[0], moved.total_bounds[3]
    transform = tiny.transform_of(west=round(west), north=round(north))
    other = tiny.write_scene(
        tmp_path / "b" / "scene.tif", crs="EPSG:32653", transform=transform, seed=3
    )
    map_scenes([first, other], model, tmp_path / "map", options=OPTIONS)
    slides = gpd.read_file(tmp_path / "map" / "landslides.gpkg", layer="landslides")
    assert slides.crs.to_epsg() == 32654
    assert set(slides.scene) == {"scene", "scene_2"}
    shapes = slides.geometry.to_numpy()
    twice = shapely.area(shapes).sum() - shapely.union_all(shapes).area
    # Pixels of two grids do not fit: half a pixel along the common edge at most.
    assert twice < 0.5 * 100 * 2 * (64 + 96)


def test_several_models_give_their_mean_and_how_far_they_agree(scene: Path, tmp_path: Path) -> None:
    models = [tiny.tiny_model(tmp_path / f"{n}.safetensors", seed=n) for n in range(3)]
    options = MapOptions(device="cpu", core_px=32, threshold=0.5, as_float=True)
    single = []
    for number, model in enumerate(models):
        map_scene(scene, model, tmp_path / f"map{number}", options=options)
        single.append(codes(tmp_path / f"map{number}" / "probability.tif"))
        assert not (tmp_path / f"map{number}" / "uncertainty.tif").exists()
    map_scene(scene, models, tmp_path / "map", options=options)
    mean, spread = np.mean(single, axis=0), np.std(single, axis=0)
    assert np.abs(codes(tmp_path / "map" / "probability.tif") - mean).max() < 1e-6
    assert np.abs(codes(tmp_path / "map" / "uncertainty.tif") - spread).max() < 1e-6


def test_scales_and_turns_reach_the_map(scene: Path, model: Path, tmp_path: Path) -> None:
    plain = tiny.landslip(
        "map", scene, "--model", model, "--out", tmp_path / "plain", "--device", "cpu"
    )
    turned = tiny.landslip(
        "map", scene, "--model", model, "--out", tmp_path / "turned", "--device", "cpu",
        "--tta", "--scales", "1,0.5",
    )  # fmt: skip
    assert (plain.code, turned.code) == (0, 0), turned.err
    one, other = (codes(tmp_path / name / "probability.tif") for name in ("plain", "turned"))
    assert (one != other).any()
    said = tiny.landslip("map", scene, "--model", model, "--out", tmp_path / "x", "--scales", "a")
    assert (said.code, "expected numbers" in said.message) == (2, True)


def test_windows_agree_in_all_turns_and_scales(scene: Path, model: Path, tmp_path: Path) -> None:
    found = []
    for core in (32, 96):
        options = MapOptions(
            device="cpu", core_px=core, as_float=True, tta=True, scales=(1.0, 0.5), threshold=0.5
        )
        map_scene(scene, model, tmp_path / f"map{core}", options=options)
        found.append(codes(tmp_path / f"map{core}" / "probability.tif"))
    # unet-small sees 96 px far, which is the halo of models that have not measured theirs.
    assert np.abs(found[0] - found[1]).max() < 1e-5


# Workers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bytes_do_not_depend_on_the_threads(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    fixed_date(monkeypatch)
    map_scene(scene, model, tmp_path / "whole", options=OPTIONS)
    monkeypatch.setattr(work, "READERS", threads)
    map_scene(scene, model, tmp_path / "map", options=OPTIONS)
    same_bytes(tmp_path / "map", tmp_path / "whole")


def test_a_job_travels(scene: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = run.MapRun([scene], model, OPTIONS)
    layout = even_layout(mapping.grounds[0].scene.grid, 16, 96, 32)
    job = mapping._job(mapping.grounds[0], layout, None)
    remote = pickle.loads(pickle.dumps(work.RemoteMapper(job)))
    monkeypatch.chdir("/")
    core = Window(0, 0, 32, 32)
    here, there = work.WindowMapper(job)(core), remote(core)
    for name, plane in here.planes.items():
        assert np.array_equal(plane, there.planes[name])


@pytest.mark.slow
def test_a_cluster_maps_the_same_bytes_though_a_worker_dies(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    fixed_date(monkeypatch)
    map_scene(scene, model, tmp_path / "whole", options=OPTIONS)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster:
        options = MapOptions(
            device="cpu", core_px=32, threshold=0.5, outline="pixels",
            cluster=cluster.scheduler_address,
        )  # fmt: skip
        before, calls = unfinished.UnfinishedMap.write, []

        def killing(self: unfinished.UnfinishedMap, *args: Any) -> None:
            calls.append(args)
            if len(calls) == 1:
                os.kill(cluster.workers[0].pid, signal.SIGKILL)
            before(self, *args)

        monkeypatch.setattr(unfinished.UnfinishedMap, "write", killing)
        map_scene(scene, model, tmp_path / "map", options=options)
    assert len(calls) == WINDOWS
    same_bytes(tmp_path / "map", tmp_path / "whole")


def test_a_cluster_that_is_not_there(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(work, "WAIT_S", 0.5)
    options = MapOptions(device="cpu", cluster="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"Cannot reach a Dask cluster at tcp://127\.0\.0\.1:9"):
        map_scene(scene, model, tmp_path / "map", options=options)


# The raster that is filled in place ---------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 255), ("float32", float("nan"))])
def test_windows_are_in_the_file_at_once(tmp_path: Path, dtype: str, nodata: float) -> None:
    grid = Grid(rasterio.CRS.from_epsg(32654), tiny.transform_of(), 37, 53)
    path = tmp_path / "r.tif"
    raster = InPlaceRaster.create(path, grid, band="probability", dtype=dtype, nodata=nodata)
    expected = np.full(grid.shape, nodata, dtype=dtype)
    random = np.random.default_rng(0)
    for window in (Window(0, 0, 5, 53), Window(30, 50, 7, 3), Window(3, 10, 20, 20)):
        values = random.integers(0, 250, (window.height, window.width)).astype(dtype)
        raster.write(window, values)
        expected[window.slices] = values
        np.testing.assert_array_equal(codes(path), expected)
    raster.close()
