"""Verb `pansharpen`: a panchromatic and a multispectral file as one sharp scene.

Statistics belong to the whole scene and are measured once; after them any window is computed alone,
so a file that is written and a scene that is sharpened as it is read hold the same pixels.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from landslip import __version__
from landslip.geo.bands import sources_of
from landslip.geo.errors import DataError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.output import refuse_existing
from landslip.geo.parallel import default_threads, in_order
from landslip.geo.progress import track
from landslip.geo.raster import (
    SENSOR_TAG,
    FileScene,
    Raster,
    derive,
    fingerprint,
    require_inside,
)
from landslip.geo.scene import SourceFile, UnusableGround
from landslip.geo.windows import cover
from landslip.geo.writing import CACHE_BYTES, write_scene
from landslip.prepare.fusion import METHODS, Fusion, Moments, fit
from landslip.prepare.pair import Misregistration, Pair, open_pair
from landslip.prepare.scaling import write_eight_bit

log = logging.getLogger(__name__)

DEFAULT_METHOD = "gsa"
STATISTICS_PX = 512
"""Side of the multispectral windows whose moments are added (px)."""
PAN_STATISTICS_PX = 2048
"""Side of the pan's windows whose moments are added (px)."""
WARN_ABOVE_PX = 0.5
"""Misregistration (pan px) above which a warning is due."""
LIKE_LEVELS = (0.5, 2.0)
"""Mean of the pan over the mean of the bands between which Brovey keeps colours."""
GROUPS = 20
"""Parts of a sample that are left out in turn to find its error."""


@dataclass(frozen=True, kw_only=True)
class SharpenOptions:
    """How a pair is pansharpened."""

    method: str = DEFAULT_METHOD
    """`gs` (Gram-Schmidt), `gsa` (adaptive: weights by regression) or `brovey` (weighted)."""
    weights: tuple[float, ...] | None = None
    """Share of every multispectral band in the simulated pan, for gs and brovey; None: equal."""
    coregister: bool = False
    """Move the bands by the measured misregistration."""
    sample: float | None = None
    """Share of the windows that statistics are measured on (0 to 1); None: all."""
    threads: int | None = None
    """Threads; None: as many as there are processors."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"Cannot pansharpen by '{self.method}': expected one of {', '.join(METHODS)}. "
                "Correct --method."
            )
        if self.sample is not None and not 0 < self.sample <= 1:
            raise UsageError(
                f"Cannot sample {self.sample:g} of the scene: expected a share above 0 and up to "
                "1. Correct --sample."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"Cannot use {self.threads} threads: expected at least 1.")


@dataclass(frozen=True)
class Matching:
    """What was measured of a pair."""

    fusion: Fusion
    """How its pixels are fused."""
    sample_error: float | None = None
    """Largest relative standard error of a gain; None where all pixels were measured."""


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
        self.nodata = _nodata(pair.pan, pair.bands)
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
        pan, below = self.pan(window), self.pair.upsampled.read(window, self.multispectral.bands)
        valid = pan.valid & below.valid
        chosen = [self.multispectral.bands.index(band) for band in stored]
        fused = self.matching.fusion.apply(pan.values[0].astype(np.float32), below.values, chosen)
        values = _to_type(fused, valid, np.dtype(self.dtype), self.nodata)
        raster = Raster(values, valid, stored, self.grid.crop(window))
        if stored == tuple(bands):
            return raster
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
            found["sample_error"] = self.matching.sample_error
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
    return PansharpenedScene(pair, match_pair(pair, options, unusable))


def match_pair(pair: Pair, options: SharpenOptions, unusable: str | Path | None = None) -> Matching:
    """How a pair is fused, from statistics of the whole scene.

    Raises:
        DataError: There is nothing to match, or the files do not fit the method.
    """
    threads = options.threads or default_threads()
    windows = list(cover(pair.bands.grid, STATISTICS_PX))
    if options.method == "brovey":
        # It needs no statistics; a look at the levels, to warn.
        parts = _band_moments(pair, unusable, _spread(windows, GROUPS), threads)
        fusion = fit("brovey", reduce(add, parts), weights=options.weights)
        _require_like_levels(pair, fusion, reduce(add, parts))
        return Matching(fusion)
    if options.sample is not None:
        windows = _spread(windows, round(options.sample * len(windows)))
    parts = _band_moments(pair, unusable, windows, threads)
    if reduce(add, parts).count < 2:
        raise DataError(
            "Cannot pansharpen: no pixel is valid in both pan and bands. Check nodata and "
            "--unusable with landslip check."
        )
    pan_parts: list[Moments] = []
    if options.method == "gs":
        pan_windows = list(cover(pair.pan.grid, PAN_STATISTICS_PX))
        if options.sample is not None:
            pan_windows = _spread(pan_windows, round(options.sample * len(pan_windows)))
        pan_parts = _pan_moments(pair, unusable, pan_windows, threads)
    fusion = _fitted(options, parts, pan_parts)
    if options.sample is None:
        return Matching(fusion)
    return Matching(fusion, _sample_error(fusion, options, parts, pan_parts))


def _fitted(options: SharpenOptions, parts: list[Moments], pan_parts: list[Moments]) -> Fusion:
    pan = reduce(add, pan_parts) if pan_parts else None
    return fit(options.method, reduce(add, parts), pan, options.weights)


def _band_moments(
    pair: Pair, unusable: str | Path | None, windows: list[Window], threads: int
) -> list[Moments]:
    """Moments of the bands and of the pan averaged to their pixels, where both are valid."""
    averaged = pair.averaged
    cloud = None if unusable is None else UnusableGround(unusable, averaged.grid)

    def moments_of(window: Window) -> Moments:
        below = pair.bands.read(window, pair.bands.bands)
        above = averaged.read(window, averaged.bands)
        valid = below.valid & above.valid
        if cloud is not None:
            valid &= ~cloud.read(window)
        return Moments.of(np.concatenate([below.values[:, valid], above.values[:, valid]]))

    found = in_order(moments_of, windows, threads)
    return list(track(found, total=len(windows), what="Measuring the bands"))


def _pan_moments(
    pair: Pair, unusable: str | Path | None, windows: list[Window], threads: int
) -> list[Moments]:
    """Moments of the pan at its own pixels, where both files are valid."""
    cloud = None if unusable is None else UnusableGround(unusable, pair.pan.grid)

    def moments_of(window: Window) -> Moments:
        raster = pair.pan.read(window, pair.pan.bands)
        valid = raster.valid & pair.upsampled.valid(window)
        if cloud is not None:
            valid &= ~cloud.read(window)
        return Moments.of(raster.values[:, valid])

    found = in_order(moments_of, windows, threads)
    return list(track(found, total=len(windows), what="Measuring the pan"))


def _spread(windows: list[Window], count: int) -> list[Window]:
    """Evenly spread windows; at least `GROUPS` where there are, so that their error can be told."""
    count = min(max(count, GROUPS), len(windows))
    chosen = np.linspace(0, len(windows) - 1, count).round().astype(int)
    return [windows[number] for number in chosen]


def _sample_error(
    fusion: Fusion, options: SharpenOptions, parts: list[Moments], pan_parts: list[Moments]
) -> float | None:
    """Largest standard error of a gain, relative, by leaving out every n-th window in turn.

    Source: Efron and Stein 1981, The jackknife estimate of variance, eq. 1.4, over groups.
    """
    groups = min(GROUPS, len(parts), len(pan_parts) or len(parts))
    if groups < 2:
        return None

    def without(left_out: int, all_parts: list[Moments]) -> list[Moments]:
        return [part for number, part in enumerate(all_parts) if number % groups != left_out]

    again = [
        _fitted(options, without(group, parts), without(group, pan_parts))
        for group in range(groups)
    ]
    gains = np.array([np.multiply(each.gains, each.pan_scale) for each in again])
    errors = np.sqrt(gains.var(axis=0) * (groups - 1))
    largest = np.abs(np.multiply(fusion.gains, fusion.pan_scale)).max()
    error = float(errors.max() / max(largest, 1e-12))
    log.info("statistics from a sample: gains within %.2g %% (standard error)", 100 * error)
    return error


def _require_like_levels(pair: Pair, fusion: Fusion, moments: Moments) -> None:
    """Brovey takes the ratio of pan and bands, so both must be in one unit."""
    if pair.pan.dtype != pair.bands.dtype:
        raise DataError(
            f"Cannot pansharpen by brovey: the pan is {pair.pan.dtype}, the bands are "
            f"{pair.bands.dtype}, and their ratio must be near 1. Use --method gsa, which matches "
            "them."
        )
    simulated = float(np.dot(fusion.weights, moments.mean[:-1]))
    low, high = LIKE_LEVELS
    if moments.count and not low * simulated <= moments.mean[-1] <= high * simulated:
        log.warning(
            "the pan is %.3g on average, the bands simulate %.3g: brovey scales all colours by "
            "their ratio; gs and gsa match the two", moments.mean[-1], simulated,
        )  # fmt: skip


def _nodata(pan: FileScene, bands: FileScene) -> float | None:
    """The value that stands for no data in the type of the bands; None where all is valid."""
    kind = np.dtype(bands.dtype)
    if bands.nodata is not None:
        return bands.nodata
    covered = bands.grid.crs == pan.grid.crs and bands.grid.footprint().covers(
        pan.grid.footprint().buffer(-1e-6 * pan.grid.pixel_size_m)
    )
    if covered and pan.always_valid and bands.always_valid:
        return None
    return math.nan if kind.kind == "f" else float(np.iinfo(kind).min)


def _to_type(
    fused: NDArray[np.floating],
    valid: NDArray[np.bool_],
    kind: np.dtype[Any],
    nodata: float | None,
) -> NDArray[Any]:
    """Round to a type; valid pixels never take the value of nodata, others are 0."""
    if kind.kind == "f":
        out = fused.astype(kind)
        if nodata is not None and not math.isnan(nodata):
            out[out == nodata] = np.nextafter(kind.type(nodata), kind.type(np.inf))
    else:
        limits = np.iinfo(kind)
        np.rint(fused, out=fused)
        # The largest float32 up to the limit: 2^32 - 1, say, is none.
        top = np.float32(limits.max)
        top = top if int(top) <= limits.max else np.nextafter(top, np.float32(0))
        np.clip(fused, np.float32(limits.min), top, out=fused)
        out = fused.astype(kind)
        if nodata is not None and limits.min <= nodata <= limits.max:
            beside = nodata + 1 if nodata < limits.max else nodata - 1
            out[out == kind.type(nodata)] = kind.type(beside)
    if not valid.all():
        out[:, ~valid] = 0
    return out


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
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        scene = open_pansharpened(
            pan, ms, bands=bands, sensor=sensor, unusable=unusable, options=options, unnamed=True
        )
    tags = {"LANDSLIP_VERSION": __version__, "LANDSLIP_PANSHARPEN": json.dumps(scene.settings)}
    tags |= {f"LANDSLIP_{key.upper()}": json.dumps(fingerprint(path))
             for key, path in (("pan", pan), ("ms", ms))}  # fmt: skip
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
