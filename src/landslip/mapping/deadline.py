"""How long a map will take, told before it begins."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import frame_crs
from landslip.geo.parallel import own_memory_bytes
from landslip.geo.raster import Raster
from landslip.geo.scene import OBSERVED
from landslip.geo.windows import spread
from landslip.inventory.delineate import Delineation
from landslip.inventory.geopackage import Inventory
from landslip.learn.allocation import freed_memory_kept
from landslip.mapping.finish import finish_scene
from landslip.mapping.options import MapEstimate
from landslip.mapping.run import Ground, MapRun
from landslip.mapping.unfinished import UnfinishedMap
from landslip.mapping.work import MappedWindow, WindowMapper, map_ahead

TIMED_WINDOWS = 3
"""Windows with usable ground that are timed, for each two threads that read."""
LONG_WINDOWS = 30
"""From so many windows on, the deadline is told before the work begins."""
LEAST_BYTES = 600 * 2**20
"""What libraries keep, and outlines and files take, however small the windows are (bytes)."""
SMALL_PX = 16
"""Rows and columns of the map whose files are nearly no work (px)."""


def is_long(run: MapRun) -> bool:
    """True where the deadline is worth the time that it takes."""
    layouts = [(ground, run.layout(ground.scene.grid)) for ground in run.grounds]
    return sum(len(run.asked(*each)) for each in layouts) >= LONG_WINDOWS


@freed_memory_kept()
def estimate(run: MapRun) -> MapEstimate:
    """Map a few windows, make the files of a map of them, and carry both over to all."""
    windows, pixels_px, seconds, files, memory = 0, 0.0, 0.0, 0.0, 0.0
    km2, kept, own = 0.0, 0, own_memory_bytes()
    for ground in run.grounds:
        grid = ground.scene.grid
        layout = run.layout(grid)
        cores = run.asked(ground, layout)
        pixels = sum(core.height * core.width for core in cores)
        each, mapped = _timed(run.mapper(ground, layout, None), cores)
        windows += len(cores)
        seconds += each * len(cores)
        files += _seconds_of_files(run, ground, mapped, pixels)
        kept += pixels
        pixels_px += layout.shape[0] * layout.shape[1] * len(cores)
        km2 += pixels * grid.pixel_size_m**2 / 1e6
        memory = max(memory, run.needed(*layout.shape))
    return MapEstimate(
        run.pixels, km2, windows, seconds, files, run.disk_bytes,
        round(own + max(memory, LEAST_BYTES)),
        pixels_px / max(kept, 1),
    )  # fmt: skip


def _timed(mapper: WindowMapper, cores: Sequence[Window]) -> tuple[float, list[MappedWindow]]:
    """Time for a window with usable ground (s), and some of them, spread over the scene.

    They are mapped as all will be: read, computed and encoded beside each other.
    """
    number = TIMED_WINDOWS * mapper.readers // 2
    mapped: list[MappedWindow] = []
    times = [time.monotonic()]
    with closing(map_ahead(mapper, spread(cores, 5 * number + 1))) as found:
        for window in found:
            if (window.planes["ground"] == OBSERVED).any():
                mapped.append(window)
                times.append(time.monotonic())
            if len(mapped) > number:
                break
    # The first call of a network prepares what the later ones use.
    counted = times[1:] if len(mapped) > 1 else times
    return (counted[-1] - counted[0]) / max(len(counted) - 1, 1), mapped


def _seconds_of_files(
    run: MapRun, ground: Ground, mapped: Sequence[MappedWindow], pixels: int
) -> float:
    """Time for what follows the windows of a scene of so many pixels (s).

    Files are made of nearly nothing, twice, and of the mapped windows: the first time shows what
    any map costs, the difference between the other two what pixels cost.
    """
    if not mapped:
        return 0.0
    any_map, _ = _finished(run, ground, mapped[:1], SMALL_PX)
    little, _ = _finished(run, ground, mapped[:1], SMALL_PX)
    much, sample = _finished(run, ground, mapped, None)
    return any_map + max(much - little, 0.0) * pixels / sample


def _finished(
    run: MapRun, ground: Ground, mapped: Sequence[MappedWindow], most_px: int | None
) -> tuple[float, int]:
    """Time to make the files of a map of some windows, one below the other (s); its pixels."""
    width = min([window.core.width for window in mapped] + ([most_px] if most_px else []))
    heights = [min(window.core.height, most_px or window.core.height) for window in mapped]
    grid = Grid(ground.scene.grid.crs, ground.scene.grid.transform, sum(heights), width)
    bands = run.cards[0].required_bands
    seen = [
        ground.scene.read(replace(window.core, height=height, width=width), bands)
        for window, height in zip(mapped, heights, strict=True)
    ]
    scene = Raster(
        np.concatenate([raster.values for raster in seen], axis=1),
        np.concatenate([raster.valid for raster in seen]), seen[0].bands, grid,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="landslip") as name:
        partial, out = Path(name) / "partial", Path(name) / "map"
        partial.mkdir()
        out.mkdir()
        with closing(UnfinishedMap.begin(partial, grid, run.planes, 1, {})) as unfinished:
            unfinished.write(
                0, grid.window,
                {
                    plane: np.concatenate(
                        [
                            window.planes[plane][:height, :width]
                            for window, height in zip(mapped, heights, strict=True)
                        ]
                    )
                    for plane in run.planes
                },
            )  # fmt: skip
        begun = time.monotonic()
        inventory = Inventory(out / "landslides.gpkg", crs=frame_crs(grid), date=None)
        # What lies below and beside the scene does not lie where these windows were put together.
        options = replace(run.options, dem=None, near=(), rules=None, drop=())
        delineation = Delineation(options, grid, run.threshold, scene=scene)
        sample = replace(ground, scene=scene)
        finish_scene(run, sample, partial, out, inventory, delineation)
        return time.monotonic() - begun, grid.height * grid.width
