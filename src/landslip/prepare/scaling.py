"""Radiometry: from digital numbers to the 0 to 1 that a network sees, one scaling a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import DataError
from landslip.geo.raster import Raster

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
SAMPLE_PIXELS = 2_000_000
"""Pixels that percentiles are taken from, at most."""
EIGHT_BIT = (0.0, 255.0)
"""Range of bands that were stretched to 8 bit already."""


@dataclass(frozen=True)
class Scaling:
    """A linear stretch of every band, clipped to 0 and 1."""

    ranges: tuple[tuple[str, float, float], ...]
    """(band, low, high) in digital numbers: low becomes 0, high becomes 1."""
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


def measure_scaling(
    rasters: Iterable[Raster], bands: Sequence[str], *, count: int, quantised: bool
) -> Scaling:
    """Percentiles of all valid pixels, pooled; 8-bit bands keep 0 to 255.

    Args:
        rasters: Ground to learn from, each with `bands`.
        bands: Bands in the order of the model.
        count: How many rasters there are, to sample evenly.
        quantised: Passed on to the scaling.

    Returns:
        One range a band: percentiles 0.5 and 99.5 of a systematic sample of at most two million
        pixels.

    Raises:
        DataError: A band has one value everywhere, or 8-bit ground is mixed with other.
    """
    quota = max(SAMPLE_PIXELS // max(count, 1), 1000)
    samples: list[NDArray[np.float32]] = []
    eight_bit: set[bool] = set()
    for raster in rasters:
        pixels = raster.values[:, raster.valid]
        eight_bit.add(pixels.dtype == np.uint8)
        if len(eight_bit) > 1:
            raise DataError(
                "Cannot scale the bands: some of the training ground is 8-bit and some is not. "
                "Train on one kind, or convert it to one."
            )
        if pixels.dtype == np.uint8:
            continue
        step = -(-pixels.shape[1] // quota) or 1
        samples.append(pixels[:, ::step].astype(np.float32))
    if eight_bit == {True}:
        return Scaling(tuple((band, *EIGHT_BIT) for band in bands), quantised)
    pooled = np.concatenate(samples, axis=1)
    if pooled.shape[1] == 0:
        raise DataError("Cannot scale the bands: the training ground has no valid pixel.")
    ranges = []
    for band, values in zip(bands, pooled, strict=True):
        low, high = (float(v) for v in np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE]))
        if not low < high:
            raise DataError(
                f"Cannot scale band '{band}': it is {low:g} nearly everywhere on the training "
                "ground. Leave the band out with --use."
            )
        ranges.append((band, low, high))
    return Scaling(tuple(ranges), quantised)
