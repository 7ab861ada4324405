"""Any scene as one GeoTIFF, written window by window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil

from landslip.geo.grid import Window
from landslip.geo.interruption import Interruption
from landslip.geo.output import require_space, whole_file
from landslip.geo.parallel import default_threads, in_order
from landslip.geo.progress import track
from landslip.geo.raster import Raster, Scene, create_raster, rasterio_window
from landslip.geo.windows import cover

WRITE_PX = 512
"""Side of the windows that are computed and written (px); a multiple of the file's blocks."""
CACHE_BYTES = 256 * 2**20
"""GDAL's cache while large files are read and written; its own default is a share of the memory."""


def write_scene(
    scene: Scene,
    out: Path,
    *,
    dtype: str,
    nodata: float | None,
    units: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    threads: int | None = None,
    cog: bool = False,
    overwrite: bool = False,
) -> None:
    """Write all bands of a scene into a tiled, compressed GeoTIFF.

    Memory does not grow with the scene: what was computed waits in a queue of a few windows.

    Args:
        scene: What to write.
        out: GeoTIFF; it appears when it is whole.
        dtype: Type of the pixels that the scene gives.
        nodata: Value of pixels that are not valid, declared in the file; None where all are valid.
        units: Units of the bands.
        tags: Further tags.
        threads: Threads that compute and compress; None: as many as there are processors.
        cog: Write a cloud-optimised GeoTIFF with overviews, which takes a second pass.
        overwrite: Replace a file that exists.

    Raises:
        OutputError: `out` exists, or cannot be written.
    """
    threads = threads or default_threads()
    is_integer = np.dtype(dtype).kind in "iu"
    predictor = {"predictor": 2 if is_integer else 3}
    grid, bands = scene.grid, scene.bands
    size = grid.height * grid.width * len(bands) * np.dtype(dtype).itemsize
    require_space(out, size * (2 if cog else 1))

    def read(window: Window) -> tuple[Window, Raster]:
        return window, scene.read(window, bands)

    windows = list(cover(grid, WRITE_PX))
    name = f"Writing {out.name}"
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        whole_file(out, overwrite=overwrite) as partial,
        Interruption() as interruption,
    ):
        plain = partial.with_name(f"{partial.name}.plain.tif") if cog else partial
        # Level 1 with a predictor is smaller and faster than level 6 without on imagery.
        options = {"zlevel": 1, "num_threads": threads, **predictor}
        with create_raster(
            plain, grid, bands=bands, dtype=dtype, nodata=nodata, units=units, options=options
        ) as file:
            # Compression takes twice as long as the pixels, in threads of its own.
            # Closed when stopped, so that no thread outlives its files.
            with closing(in_order(read, windows, max(threads // 2, 1))) as ahead:
                for window, raster in track(ahead, total=len(windows), what=name):
                    values = raster.values
                    if nodata is not None and nodata != 0 and not raster.valid.all():
                        values = np.where(raster.valid, values, values.dtype.type(nodata))
                    file.write(values, window=rasterio_window(window))
                    interruption.stop_if_asked()
            file.update_tags(**(tags or {}))
        if cog:
            rasterio.shutil.copy(
                plain, partial, driver="COG", compress="deflate", level=1, predictor="YES",
                overview_resampling="average", bigtiff="if_safer", num_threads=threads,
            )  # fmt: skip
            plain.unlink()
