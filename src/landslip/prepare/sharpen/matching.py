"""The statistics of a pair: what a fusion is fitted to, and how sure a sample of them is."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from landslip.geo.errors import DataError, UsageError
from landslip.geo.grid import Window
from landslip.geo.parallel import default_threads, in_order
from landslip.geo.progress import track
from landslip.geo.scene import UnusableGround
from landslip.geo.windows import cover, spread
from landslip.prepare.sharpen.fusion import Fusion, Moments, fit, require_method
from landslip.prepare.sharpen.pair import Pair

log = logging.getLogger(__name__)

DEFAULT_METHOD = "gsa"
STATISTICS_PX = 512
"""Side of the multispectral windows whose moments are added (px)."""
PAN_SIDE_PX = 2048
"""Side of the pan's ground under such a window, at most (px)."""
PAN_STATISTICS_PX = 1024
"""Side of the pan's windows whose moments are added (px)."""
LEVELS_PX = 64
"""Side of the multispectral windows in which Brovey looks at the levels (px)."""
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
        require_method(self.method, self.weights)
        if self.sample is not None and not 0 < self.sample <= 1:
            raise UsageError(
                f"Cannot sample {self.sample:g} of the scene: expected a share above 0 and up to "
                "1. Correct --sample."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(
                f"Cannot use {self.threads} threads: expected at least 1. Correct --threads."
            )


@dataclass(frozen=True)
class Matching:
    """What was measured of a pair."""

    fusion: Fusion
    """How its pixels are fused."""
    options: SharpenOptions
    """What was asked for."""
    unusable: str | Path | None = None
    """Ground that was left out of the statistics."""
    sample_error: float | None = None
    """Largest relative standard error of a gain; None where all pixels were measured."""


def match_pair(pair: Pair, options: SharpenOptions, unusable: str | Path | None = None) -> Matching:
    """How a pair is fused, from statistics of the whole scene.

    Raises:
        DataError: There is nothing to match, or the files do not fit the method.
    """
    threads = options.threads or default_threads()
    if options.method == "brovey":
        # It needs no statistics; a look at the levels, to warn.
        small = spread(shared_windows(pair, LEVELS_PX), GROUPS)
        parts = _band_moments(pair, unusable, small, threads)
        fusion = fit("brovey", reduce(add, parts), weights=options.weights)
        _require_like_levels(pair, fusion, reduce(add, parts))
        return Matching(fusion, options, unusable)
    # However large the ratio, a window holds no more of the pan.
    side = min(STATISTICS_PX, max(int(PAN_SIDE_PX / pair.ratio), LEVELS_PX))
    windows = shared_windows(pair, side)
    if options.sample is not None:
        windows = spread(windows, max(round(options.sample * len(windows)), GROUPS))
    parts = _band_moments(pair, unusable, windows, threads)
    if not parts or reduce(add, parts).count < 2:
        raise DataError(
            f"Cannot pansharpen {pair.pan.path} with {pair.bands.path}: no pixel is valid in both. "
            "Check nodata and --unusable with landslip check."
        )
    pan_parts: list[Moments] = []
    if options.method == "gs":
        pan_windows = [
            window
            for window in cover(pair.pan.grid, PAN_STATISTICS_PX)
            if window.intersection(pair.shared_in_pan)
        ]
        if options.sample is not None:
            pan_windows = spread(pan_windows, max(round(options.sample * len(pan_windows)), GROUPS))
        pan_parts = _pan_moments(pair, unusable, pan_windows, threads)
    fusion = _fitted(options, parts, pan_parts)
    if options.sample is None:
        return Matching(fusion, options, unusable)
    error = _sample_error(fusion, options, parts, pan_parts)
    return Matching(fusion, options, unusable, error)


def shared_windows(pair: Pair, side: int) -> list[Window]:
    """Windows of the bands that show ground which the pan shows too."""
    shared = pair.shared_in_bands
    return [window for window in cover(pair.bands.grid, side) if window.intersection(shared)]


def _fitted(options: SharpenOptions, parts: list[Moments], pan_parts: list[Moments]) -> Fusion:
    pan = reduce(add, pan_parts) if pan_parts else None
    return fit(options.method, reduce(add, parts), pan, options.weights)


def _band_moments(
    pair: Pair, unusable: str | Path | None, windows: list[Window], threads: int
) -> list[Moments]:
    """Moments of the bands and of the pan averaged to their pixels, where both are valid."""
    averaged = pair.averaged
    cloud = UnusableGround(unusable, averaged.grid)

    def moments_of(window: Window) -> Moments:
        below = pair.bands.read(window, pair.bands.bands)
        above = averaged.read(window, averaged.bands)
        valid = pair.seen(below) & above.valid & ~cloud.read(window)
        return Moments.of(np.concatenate([below.values, above.values]), valid)

    found = in_order(moments_of, windows, threads)
    with closing(cloud):
        return list(track(found, total=len(windows), what="Measuring the bands"))


def _pan_moments(
    pair: Pair, unusable: str | Path | None, windows: list[Window], threads: int
) -> list[Moments]:
    """Moments of the pan at its own pixels, where both files are valid."""
    undeclared = pair.pan.nodata is None and np.dtype(pair.pan.dtype).kind in "iu"
    cloud = UnusableGround(unusable, pair.pan.grid)

    def moments_of(window: Window) -> Moments:
        raster = pair.pan.read(window, pair.pan.bands)
        valid = raster.valid & pair.upsampled.valid(window) & ~cloud.read(window)
        if undeclared:
            valid &= raster.values[0] != 0
        return Moments.of(raster.values, valid)

    found = in_order(moments_of, windows, threads)
    with closing(cloud):
        return list(track(found, total=len(windows), what="Measuring the pan"))


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
