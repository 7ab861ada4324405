"""Verb `pansharpen`: a panchromatic and a multispectral file as one sharp scene.

Statistics belong to the whole scene and are measured once; after them any window is computed alone,
so a file that is written and a scene that is sharpened as it is read hold the same pixels.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.dtypes import in_dtype_range

from landslip import __version__
from landslip.geo.bands import sources_of
from landslip.geo.errors import OutputError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.output import refuse_existing
from landslip.geo.raster import (
    SENSOR_TAG,
    Raster,
    derive,
    fingerprint,
    require_inside,
)
from landslip.geo.scene import SourceFile
from landslip.geo.writing import CACHE_BYTES, write_scene
from landslip.prepare.scaling import write_eight_bit
from landslip.prepare.sharpen.matching import Matching, SharpenOptions, match_pair
from landslip.prepare.sharpen.pair import Misregistration, Pair, open_pair

log = logging.getLogger(__name__)

WARN_ABOVE_PX = 0.5
"""Misregistration (pan px) above which a warning is due."""


class PansharpenedScene:
    """A pair of files that is pansharpened as it is read; satisfies `Scene`.

    Pixels are on the pan's grid, in the type of the multispectral file, and valid where the pan's
    pixel and the multispectral one below its middle are.
    """

    def __init__(self, pair: Pair, matching: Matching) -> None:
        """Use `open_pansharpened`."""
        self.pair = pair
        self.matching = matching
        self.multispectral = pair.bands
        self.dtype = pair.bands.dtype
        self.nodata = _nodata(pair)
        self.sensor = pair.bands.sensor
        self.sources: tuple[SourceFile, ...] = (
            SourceFile("pan", pair.pan.path),
            SourceFile("ms", pair.bands.path, self.bands, json.dumps(self.settings)),
        )

    @property
    def grid(self) -> Grid:
        """The pan's grid."""
        return self.pair.pan.grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that are given."""
        return self.pair.chosen

    @property
    def units(self) -> tuple[str, ...]:
        """Units of `bands`, in the same order."""
        of = dict(zip(self.multispectral.bands, self.multispectral.units, strict=True))
        return tuple(of[band] for band in self.bands)

    @property
    def misregistration(self) -> Misregistration | None:
        """How far pan and bands lie apart; None where there is too little texture to tell."""
        return self.pair.misregistration

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, sharpened and rounded to the type of the file."""
        require_inside(window, self.grid)
        stored = sources_of(bands, self.bands)
        fusion = self.matching.fusion
        chosen = [self.multispectral.bands.index(band) for band in stored]
        mixed, valid = self.pair.upsampled.mixed(window, lambda bands: fusion.mix(bands, chosen))
        pan = self.pan(window)
        valid = valid & pan.valid
        values = np.empty((len(stored), *valid.shape), dtype=self.dtype)
        fused = fusion.finish(pan.values[0].astype(np.float32), mixed, chosen)
        for plane, target in zip(fused, values, strict=True):
            _round_into(target, plane, self.nodata)
        if not valid.all():
            values[:, ~valid] = 0
        raster = Raster(values, valid, stored, self.grid.crop(window))
        return derive(raster, bands, values, valid, raster.grid.window)

    def upsampled(self, window: Window) -> Raster:
        """What there is without the pan: the bands by cubic convolution, float32."""
        raster = self.pair.upsampled.read(window, self.bands)
        return Raster(raster.values, raster.valid, raster.bands, self.grid.crop(window))

    def pan(self, window: Window) -> Raster:
        """The panchromatic image."""
        return self.pair.pan.read(window, self.pair.pan.bands)

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen and measured, for tags and records."""
        fusion, shift = self.matching.fusion, self.misregistration
        named = self.multispectral.bands
        found: dict[str, Any] = {
            "method": fusion.method,
            "resampling": "cubic",
            "weights": dict(zip(named, fusion.weights, strict=True)),
            "intercept": fusion.intercept,
        }
        if fusion.gains:
            found["gains"] = dict(zip(named, fusion.gains, strict=True))
            found["pan_scale"], found["pan_offset"] = fusion.pan_scale, fusion.pan_offset
        if shift is not None:
            found["misregistration_pan_px"] = [round(shift.rows_px, 3), round(shift.cols_px, 3)]
            found["coregistered"] = shift.applied
        if self.matching.sample_error is not None:
            found["sample"] = self.matching.options.sample
            found["sample_error"] = self.matching.sample_error
        if self.matching.unusable is not None:
            found["unusable"] = str(self.matching.unusable)
        return found

    def rows(self) -> list[tuple[str, str]]:
        """The same for people, a line each."""
        fusion, shift = self.matching.fusion, self.misregistration
        named = self.multispectral.bands
        weights = zip(named, fusion.weights, strict=True)
        rows = [
            ("method", fusion.method),
            ("simulated pan", " + ".join(f"{weight:.3g} {band}" for band, weight in weights)),
        ]
        if fusion.gains:
            gains = zip(named, fusion.gains, strict=True)
            rows.append(("gains", ", ".join(f"{band} {gain:.3g}" for band, gain in gains)))
        if shift is not None:
            moved = "moved" if shift.applied else "not moved"
            rows.append(("bands should move", f"{shift.text} (pan px); {moved}"))
        if self.matching.sample_error is not None:
            error = self.matching.sample_error
            rows.append(("error of the sample", f"{error:.2%} of a gain (standard error)"))
        return rows

    def close(self) -> None:
        """Close the files."""
        self.pair.close()


def open_pansharpened(
    pan: str | Path,
    ms: str | Path,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    unusable: str | Path | None = None,
    options: SharpenOptions | None = None,
    unnamed: bool = False,
) -> PansharpenedScene:
    """Open a pair of files as one sharp scene; statistics are measured here, pixels when read.

    Args:
        pan: Panchromatic file, one band.
        ms: Multispectral file with larger pixels, two bands or more.
        bands: Bands to give. Names in the file's order where the file does not name its bands
            (`-`: leave out); all bands simulate the pan whatever is left out.
        sensor: Key of `SENSORS`, to read numbers such as B4.
        unusable: Polygons or raster (not 0) of cloud: left out of the statistics.
        options: Method, weights, coregistration; None for the defaults.
        unnamed: Take `band1`, ... where names are missing, instead of failing.

    Raises:
        RasterError: A file cannot be opened, the files do not overlap, or seem swapped.
        BandError: Bands are not named, or not there.
        DataError: There is nothing to match (constant pan or bands).
    """
    options = options or SharpenOptions()
    pair = open_pair(
        pan, ms, bands=bands, sensor=sensor, unnamed=unnamed, coregister=options.coregister
    )
    shift = pair.misregistration
    if shift is None:
        log.warning("too little texture to measure how pan and bands lie to each other")
    elif shift.applied:
        log.info("the bands were moved %s (pan px)", shift.text)
    elif shift.distance_px > WARN_ABOVE_PX:
        log.warning(
            "pan and bands lie %.2f pan px apart: the bands should move %s; --coregister moves "
            "them", shift.distance_px, shift.text,
        )  # fmt: skip
    try:
        return PansharpenedScene(pair, match_pair(pair, options, unusable))
    except BaseException:
        pair.close()
        raise


def _nodata(pair: Pair) -> float | None:
    """The value that stands for no data in the type of the bands; None where all is valid."""
    pan, bands = pair.pan, pair.bands
    kind = np.dtype(bands.dtype)
    if bands.nodata is not None and in_dtype_range(bands.nodata, bands.dtype):
        return bands.nodata
    # Where the pan lies in the bands, moved or not; no pixel's middle is at its very edge.
    lies = pair.upsampled.grid
    covered = bands.grid.crs == lies.crs and bands.grid.footprint().covers(
        lies.footprint().buffer(-0.25 * abs(lies.transform.a))
    )
    if covered and pan.always_valid and bands.always_valid:
        return None
    return math.nan if kind.kind == "f" else float(np.iinfo(kind).min)


def _round_into(target: NDArray[Any], plane: NDArray[np.floating], nodata: float | None) -> None:
    """Round `plane`, in place, to the type of `target`; no pixel takes the value of nodata."""
    kind = target.dtype
    if kind.kind == "f":
        target[...] = plane
        if nodata is not None and not math.isnan(nodata):
            target[target == nodata] = np.nextafter(kind.type(nodata), kind.type(np.inf))
        return
    limits = np.iinfo(kind)
    # The largest float32 up to the limit: 2^32 - 1, say, is none.
    top = np.float32(limits.max)
    top = top if int(top) <= limits.max else np.nextafter(top, np.float32(0))
    np.rint(plane, out=plane)
    np.clip(plane, np.float32(limits.min), top, out=plane)
    np.copyto(target, plane, casting="unsafe")
    if nodata is not None and limits.min <= nodata <= limits.max:
        beside = nodata + 1 if nodata < limits.max else nodata - 1
        target[target == kind.type(nodata)] = kind.type(beside)


def pansharpen(
    pan: str | Path,
    ms: str | Path,
    out: str | Path,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    unusable: str | Path | None = None,
    options: SharpenOptions | None = None,
    to: str | None = None,
    cog: bool = False,
    overwrite: bool = False,
) -> PansharpenedScene:
    """Pansharpen a pair of files into one GeoTIFF, on the pan's grid and in the bands' type.

    Names, units and nodata survive; tags say method, weights, gains, sources and their hashes.
    Memory does not grow with the scene, and no pixel depends on windows or threads.

    Args:
        pan: Panchromatic file.
        ms: Multispectral file.
        out: GeoTIFF to write; it appears when it is whole.
        bands: Bands to write; see `open_pansharpened`.
        sensor: Sensor of the bands, to read numbers such as B4.
        unusable: Ground to leave out of the statistics.
        options: Method, weights, coregistration; None for the defaults.
        to: `8bit` stretches between percentiles to 1 to 255, 0 is nodata; None keeps the type.
        cog: Write a cloud-optimised GeoTIFF with overviews, which takes a second pass.
        overwrite: Replace a file that exists.

    Returns:
        The scene, open, that reads as the file does.

    Raises:
        OutputError: `out` exists, or cannot be written.
    """
    out, options = Path(out), options or SharpenOptions()
    if to not in (None, "8bit"):
        raise UsageError(f"Cannot write '{to}': expected 8bit. Correct --to, or leave it out.")
    refuse_existing(out, overwrite=overwrite)
    for source in (pan, ms):
        if out.exists() and Path(source).exists() and out.samefile(source):
            raise OutputError(
                f"Cannot write {out}: it is one of the files to be sharpened. Name another output."
            )
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        # Gigabytes are hashed while one thread alone would open the files.
        ThreadPoolExecutor(1, thread_name_prefix="hash") as pool,
    ):
        hashes = {"PAN": pool.submit(fingerprint, pan), "MS": pool.submit(fingerprint, ms)}
        scene = open_pansharpened(
            pan, ms, bands=bands, sensor=sensor, unusable=unusable, options=options, unnamed=True
        )
        tags = {f"LANDSLIP_{key}": json.dumps(each.result()) for key, each in hashes.items()}
    tags |= {"LANDSLIP_VERSION": __version__, "LANDSLIP_PANSHARPEN": json.dumps(scene.settings)}
    if sensor or scene.sensor:
        tags[SENSOR_TAG] = sensor or scene.sensor
    if to is None:
        write_scene(
            scene, out, dtype=scene.dtype, nodata=scene.nodata, units=scene.units, tags=tags,
            threads=options.threads, cog=cog, overwrite=overwrite,
        )  # fmt: skip
    else:
        write_eight_bit(
            scene, out, tags=tags, threads=options.threads, cog=cog, overwrite=overwrite
        )
    return scene
