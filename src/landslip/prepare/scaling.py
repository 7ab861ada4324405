"""Radiometry: from digital numbers to the 0 to 1 that a network sees, one scaling a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landslip.geo.bands import OF_THE_BANDS, sources_of, unit_of_index
from landslip.geo.errors import BandError, DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.output import refuse_existing
from landslip.geo.progress import track
from landslip.geo.raster import DIGITAL, SENSOR_TAG, Raster, Scene, derive, read_reflected
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
FILLER = 0.5
"""What a network is shown of an optional band where the band is not known, in scaled values.

The middle of the range says "not known": 0 and 1 are what the darkest and the brightest ground look
like, and ground that is not valid is 0 in all bands.
"""

Ranges = tuple[tuple[str, float, float], ...]
"""(band, low, high), in the order of a model or a scene."""
Pixels = dict[str, NDArray[np.float32]]
"""A sample of the valid pixels of every band, shape (N,) each; N may differ between bands."""


@dataclass(frozen=True)
class Scaling:
    """A linear stretch of every band, clipped to 0 and 1."""

    ranges: Ranges
    """(band, low, high) in the scene's numbers: low becomes 0, high becomes 1."""
    quantised: bool = False
    """True: rounded to 256 levels, as the paper's 8-bit images are."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        return tuple(band for band, _, _ in self.ranges)

    def apply(self, raster: Raster) -> NDArray[np.float32]:
        """Scale the bands of `ranges`, in that order: shape (C, H, W), 0 where not valid."""
        chosen = [raster.bands.index(band) for band in self.bands]
        low = np.array([low for _, low, _ in self.ranges], dtype=np.float32)[:, None, None]
        high = np.array([high for _, _, high in self.ranges], dtype=np.float32)[:, None, None]
        scaled = np.clip((raster.values[chosen].astype(np.float32) - low) / (high - low), 0, 1)
        if self.quantised:
            scaled = np.rint(scaled * 255) / np.float32(255)
        scaled[:, ~raster.valid] = 0
        return np.ascontiguousarray(scaled, dtype=np.float32)

    def apply_all(self, rasters: Sequence[Raster]) -> NDArray[np.float32]:
        """Scale bands of several rasters of the same pixels; what none of them knows is FILLER.

        Args:
            rasters: First the required bands, then optional ones, each on its own validity.

        Returns:
            Shape (C, H, W), in the order of `ranges`; 0 where the first raster is not valid.
        """
        required = rasters[0]
        if set(self.bands) <= set(required.bands):
            return self.apply(required)
        image = np.full((len(self.ranges), *required.valid.shape), FILLER, dtype=np.float32)
        for raster in rasters:
            chosen = [number for number, band in enumerate(self.bands) if band in raster.bands]
            part = Scaling(tuple(self.ranges[number] for number in chosen), self.quantised)
            image[chosen] = np.where(raster.valid, part.apply(raster), np.float32(FILLER))
        image[:, ~required.valid] = 0
        return image

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
    pixels = pooled_pixels(rasters, bands, count)
    if not all(values.size for values in pixels.values()):
        raise DataError("Cannot scale the bands: the ground has no valid pixel.")
    return percentiles_of(pixels)


def percentiles_of(pixels: Pixels) -> Ranges:
    """Percentiles 0.5 and 99.5 of every band."""
    ranges = []
    for band, values in pixels.items():
        low, high = np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE])
        ranges.append((band, float(low), float(high)))
    return tuple(ranges)


def pooled_pixels(rasters: Iterable[Raster], bands: Sequence[str], count: int) -> Pixels:
    """A systematic sample of the valid pixels of rasters, which may hold some of `bands` each.

    Args:
        rasters: Ground.
        bands: Bands in the order wanted.
        count: How many pieces of ground they are of, to sample evenly.
    """
    quota = max(SAMPLE_PIXELS // max(count, 1), 1000)
    samples: dict[str, list[NDArray[np.float32]]] = {band: [] for band in bands}
    for raster in rasters:
        pixels = raster.values[:, raster.valid]
        # By all pixels, not by the valid ones: else ground beside cloud would weigh more.
        step = -(-raster.valid.size // quota)
        for band, values in zip(raster.bands, pixels[:, ::step].astype(np.float32), strict=True):
            samples[band].append(values)
    return {
        band: np.concatenate(values) if values else np.zeros(0, dtype=np.float32)
        for band, values in samples.items()
    }


def sampled_pixels(scene: Scene, bands: Sequence[str], optional: Sequence[str] = ()) -> Pixels:
    """A sample of the usable ground of a whole scene: see `measure_scene`.

    Of bands that are optional, those that the scene has are sampled, on their own validity.
    """
    whole = scene.whole() if isinstance(scene, StackedScene) else scene
    chosen = bands_at_hand(bands, whole.bands, optional)
    windows = spread(list(cover(whole.grid, SAMPLE_PX)), SAMPLE_WINDOWS)
    count = len(windows)
    rasters = (
        raster
        for window in track(windows, total=count, what="Measuring the bands")
        for raster in read_apart(whole, window, chosen, optional)
    )
    return pooled_pixels(rasters, chosen, count)


def measure_scene(scene: Scene, bands: Sequence[str]) -> Ranges:
    """Percentiles 0.5 and 99.5 of the usable ground of a whole scene.

    Cloud and nodata are left out; an area of interest is not heeded, so that radiometry does not
    depend on what part is mapped. Scenes of more than 26 million pixels are sampled in 400
    windows of 256 px, evenly spread; two million pixels are pooled.

    Raises:
        DataError: No pixel is usable.
    """
    pixels = sampled_pixels(scene, bands)
    if not all(values.size for values in pixels.values()):
        raise DataError(
            "Cannot scale the bands: no pixel of the scene is usable. Check nodata and --unusable "
            "with landslip check."
        )
    return percentiles_of(pixels)


def bands_at_hand(
    wanted: Sequence[str], available: Sequence[str], optional: Sequence[str]
) -> tuple[str, ...]:
    """The bands and indices wanted, without optional ones that `available` cannot give."""
    return tuple(band for band in wanted if band not in optional or _is_given(band, available))


def _is_given(band: str, available: Sequence[str]) -> bool:
    try:
        sources_of([band], available)
    except BandError:
        return False
    return True


def read_apart(
    scene: Scene, window: Window, bands: Sequence[str], optional: Sequence[str]
) -> list[Raster]:
    """Read required bands, and optional ones so that none takes away ground from another.

    Args:
        scene: Scene that has all of `bands`.
        window: May reach beyond the scene; what lies outside is mirrored from inside.
        bands: Bands to read.
        optional: Names of those that may have no data where others have.

    Returns:
        A raster of the required bands; one more of all optional ones where these are valid
        wherever the required ones are, else one for each.
    """
    required = read_reflected(scene, window, [band for band in bands if band not in optional])
    others = [band for band in bands if band in optional]
    if not others:
        return [required]
    together = read_reflected(scene, window, others)
    if len(others) == 1 or (together.valid | ~required.valid).all():
        return [required, together]
    return [required, *(read_reflected(scene, window, [band]) for band in others)]


def read_inputs(
    scene: Scene, window: Window, scaling: Scaling, optional: Sequence[str] = ()
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What a network is shown of a window.

    Args:
        scene: Scene with all bands of `scaling` but, maybe, optional ones.
        window: May reach beyond the scene; what lies outside is mirrored from inside.
        scaling: Of all bands of the network.
        optional: Bands without which the network works: FILLER where they are missing.

    Returns:
        Scaled image (C, H, W), 0 where not valid; valid (H, W), where the required bands are.

    Raises:
        BandError: The scene lacks a band that is not optional.
    """
    bands = bands_at_hand(scaling.bands, scene.bands, optional)
    rasters = read_apart(scene, window, bands, optional)
    return scaling.apply_all(rasters), rasters[0].valid


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
        self.bands = self._scaling.bands

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
