"""Radiometry: from digital numbers to the 0 to 1 that a network sees, one scaling a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landslip.geo.bands import OF_THE_BANDS, sources_of, unit_of_index
from landslip.geo.errors import DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.output import refuse_existing
from landslip.geo.progress import track
from landslip.geo.raster import DIGITAL, SENSOR_TAG, Raster, Scene, derive
from landslip.geo.scene import StackedScene
from landslip.geo.windows import cover, spread
from landslip.geo.writing import write_scene

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
SAMPLE_PIXELS = 2_000_000
"""Pixels that percentiles are taken from, at most."""
SAMPLE_PX = 256
"""Side of the windows that a scene is sampled in (px)."""
SAMPLE_WINDOWS = 400
"""Windows that are read of a scene, at most; evenly spread."""
EIGHT_BIT = (0.0, 255.0)
"""Range of bands that were stretched to 8 bit already."""
ABSOLUTE_UNITS = frozenset({"m", "deg"})
"""Units that no sensor and no light changes."""

Ranges = tuple[tuple[str, float, float], ...]
"""(band, low, high), in the order of a model or a scene."""


@dataclass(frozen=True)
class Scaling:
    """A linear stretch of every band, clipped to 0 and 1."""

    ranges: Ranges
    """(band, low, high) in the scene's numbers: low becomes 0, high becomes 1."""
    quantised: bool = False
    """True: rounded to 256 levels, as the paper's 8-bit images are."""

    def apply(self, raster: Raster) -> NDArray[np.float32]:
        """Scale the bands of `ranges`, in that order: shape (C, H, W), 0 where not valid."""
        chosen = [raster.bands.index(band) for band, _, _ in self.ranges]
        low = np.array([low for _, low, _ in self.ranges], dtype=np.float32)[:, None, None]
        high = np.array([high for _, _, high in self.ranges], dtype=np.float32)[:, None, None]
        scaled = np.clip((raster.values[chosen].astype(np.float32) - low) / (high - low), 0, 1)
        if self.quantised:
            scaled = np.rint(scaled * 255) / np.float32(255)
        scaled[:, ~raster.valid] = 0
        return np.ascontiguousarray(scaled, dtype=np.float32)

    def matched(self, learnt: Ranges, found: Ranges) -> Scaling:
        """The scaling that shows a scene as the model's ground was shown.

        The percentiles of the scene fall where those of the ground that the model learnt from fell.

        Args:
            learnt: Percentiles of the model's ground.
            found: The same percentiles of the scene, the same bands.
        """
        ranges = []
        for (band, low, high), (_, before, after), (_, first, last) in zip(
            self.ranges, learnt, found, strict=True
        ):
            slope = (last - first) / (after - before)
            ranges.append((band, first + (low - before) * slope, first + (high - before) * slope))
        return Scaling(tuple(ranges), self.quantised)


def scaling_of(percentiles: Ranges, *, eight_bit: Iterable[str] = (), quantised: bool) -> Scaling:
    """The scaling of a model: percentiles of the ground that it learns from.

    Args:
        percentiles: Of that ground, in the order of the model's bands.
        eight_bit: Bands that were stretched to 8 bit; they keep 0 to 255.
        quantised: Passed on to the scaling.

    Raises:
        DataError: A band has one value nearly everywhere.
    """
    stretched = set(eight_bit)
    ranges = []
    for band, low, high in percentiles:
        if band in stretched:
            low, high = EIGHT_BIT
        if not low < high:
            raise DataError(
                f"Cannot scale band '{band}': it is {low:g} nearly everywhere on the training "
                "ground. Leave the band out with --use."
            )
        ranges.append((band, low, high))
    return Scaling(tuple(ranges), quantised)


def measure_percentiles(rasters: Iterable[Raster], bands: Sequence[str], count: int) -> Ranges:
    """Percentiles 0.5 and 99.5 of all valid pixels, pooled.

    Args:
        rasters: Ground, each raster with `bands`.
        bands: Bands in the order wanted.
        count: How many rasters there are, to sample evenly: at most two million pixels.

    Raises:
        DataError: No pixel is valid.
    """
    pooled = pooled_pixels(rasters, count)
    if pooled.size == 0:
        raise DataError("Cannot scale the bands: the ground has no valid pixel.")
    return percentiles_of(pooled, bands)


def percentiles_of(pixels: NDArray[np.float32], bands: Sequence[str]) -> Ranges:
    """Percentiles 0.5 and 99.5 of pixels, shape (C, N)."""
    low, high = np.percentile(pixels, [LOW_PERCENTILE, HIGH_PERCENTILE], axis=1)
    return tuple(
        (band, float(first), float(last))
        for band, first, last in zip(bands, low, high, strict=True)
    )


def pooled_pixels(rasters: Iterable[Raster], count: int) -> NDArray[np.float32]:
    """A systematic sample of the valid pixels of `count` rasters, shape (C, N)."""
    quota = max(SAMPLE_PIXELS // max(count, 1), 1000)
    samples = []
    for raster in rasters:
        pixels = raster.values[:, raster.valid]
        # By all pixels, not by the valid ones: else ground beside cloud would weigh more.
        step = -(-raster.valid.size // quota)
        samples.append(pixels[:, ::step].astype(np.float32))
    return np.concatenate(samples, axis=1) if samples else np.zeros((0, 0), dtype=np.float32)


def sampled_pixels(scene: Scene, bands: Sequence[str]) -> NDArray[np.float32]:
    """A sample of the usable ground of a whole scene, shape (C, N): see `measure_scene`."""
    whole = scene.whole() if isinstance(scene, StackedScene) else scene
    windows = spread(list(cover(whole.grid, SAMPLE_PX)), SAMPLE_WINDOWS)
    read = (whole.read(window, bands) for window in windows)
    count = len(windows)
    return pooled_pixels(track(read, total=count, what="Measuring the bands"), count)


def measure_scene(scene: Scene, bands: Sequence[str]) -> Ranges:
    """Percentiles 0.5 and 99.5 of the usable ground of a whole scene.

    Cloud and nodata are left out; an area of interest is not heeded, so that radiometry does not
    depend on what part is mapped. Scenes of more than 26 million pixels are sampled in 400
    windows of 256 px, evenly spread; two million pixels are pooled.

    Raises:
        DataError: No pixel is usable.
    """
    pixels = sampled_pixels(scene, bands)
    if pixels.size == 0:
        raise DataError(
            "Cannot scale the bands: no pixel of the scene is usable. Check nodata and --unusable "
            "with landslip check."
        )
    return percentiles_of(pixels, bands)


def units_of(scene: Scene, bands: Sequence[str]) -> tuple[str, ...]:
    """Units of bands and indices, in their order; digital numbers where a scene states none."""
    units = getattr(scene, "units", None) or (DIGITAL,) * len(scene.bands)
    stored = dict(zip(scene.bands, units, strict=True))
    return tuple(unit_of(band, stored) for band in bands)


def unit_of(band: str, stored: Mapping[str, str]) -> str:
    """Unit of a band or an index, from the units of the bands that are stored, by name."""
    unit = stored.get(band) or unit_of_index(band)
    return stored[sources_of([band], tuple(stored))[0]] if unit == OF_THE_BANDS else unit


class EightBitScene:
    """A scene stretched to 8 bit: 1 to 255 between its percentiles, 0 where not valid."""

    def __init__(self, scene: Scene, ranges: Ranges) -> None:
        """Stretch the bands of `ranges`, in that order."""
        self._scene = scene
        self._scaling = Scaling(ranges)
        self.bands = tuple(band for band, _, _ in ranges)

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._scene.grid

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, uint8."""
        raster = self._scene.read(window, self.bands)
        values = (1 + np.rint(254 * self._scaling.apply(raster))).astype(np.uint8)
        values[:, ~raster.valid] = 0
        return derive(self, bands, values, raster.valid, window)


def write_eight_bit(
    scene: Scene,
    out: str | Path,
    *,
    tags: dict[str, str] | None = None,
    threads: int | None = None,
    cog: bool = False,
    overwrite: bool = False,
) -> Ranges:
    """Write a scene stretched to 8 bit, as the paper's images are; 0 is declared as nodata.

    What lies beyond the percentiles is lost: models learn more from the scene itself.

    Args:
        scene: Scene of any type.
        out: GeoTIFF to write; it appears when it is whole.
        tags: Further tags.
        threads: Threads; None: as many as there are processors.
        cog: Write a cloud-optimised GeoTIFF with overviews.
        overwrite: Replace a file that exists.

    Returns:
        What became 1 and 255, by band.

    Raises:
        DataError: No pixel is usable, or a band has one value.
        OutputError: `out` exists, or cannot be written.
    """
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    ranges = measure_scene(scene, scene.bands)
    for band, low, high in ranges:
        if not low < high:
            raise DataError(
                f"Cannot stretch band '{band}' to 8 bit: it is {low:g} nearly everywhere. Leave "
                "it out with --bands."
            )
    sensor = getattr(scene, "sensor", "")
    stretch = {SENSOR_TAG: sensor} if sensor else {}
    stretch |= {f"LANDSLIP_8BIT_{band.upper()}": f"{low!r} {high!r}" for band, low, high in ranges}
    write_scene(
        EightBitScene(scene, ranges), out, dtype="uint8", nodata=0, tags=stretch | (tags or {}),
        threads=threads, cog=cog, overwrite=overwrite,
    )  # fmt: skip
    return ranges
