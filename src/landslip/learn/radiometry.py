"""Which numbers of ground a model is shown: its own range, or what the ground has instead."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landslip.geo.errors import DataError, UsageError
from landslip.geo.grid import Window
from landslip.geo.progress import track
from landslip.geo.raster import DIGITAL, Scene
from landslip.learn.card import ModelCard
from landslip.prepare.scaling import (
    ABSOLUTE_UNITS,
    EIGHT_BIT,
    SAMPLE_WINDOWS,
    Pixels,
    Ranges,
    Scaling,
    bands_at_hand,
    percentiles_of,
    pooled_pixels,
    sampled_pixels,
    unit_of,
    units_of,
)
from landslip.prepare.tile_set import Tile, TileSet

log = logging.getLogger(__name__)

SCALINGS = ("auto", "model", "scene")
SHARED_RANGE = 0.5
"""Where a sensor is not known: share of the joint range of model and ground that both must have."""
CLIPPED_SHARE = 0.25
"""Share of pixels outside the model's range in a band above which radiometry is questioned."""


@dataclass(frozen=True)
class ChosenScaling:
    """How ground is shown to a model, and why."""

    scaling: Scaling
    """What is applied: all bands of the model."""
    used: str
    """`model` or `scene`, the ground's own."""
    why: str
    """In words."""
    learnt: Ranges
    """Percentiles of the ground that the model learnt from: of the bands that are there."""
    found: Ranges
    """The same percentiles of the ground that it is shown."""
    ground: str = "scene"
    """What that ground is called."""

    @property
    def table(self) -> str:
        """The two ranges of every band, a line each, for people."""
        return "\n".join(
            f"  {band}: model {low:.4g} to {high:.4g}, {self.ground} {first:.4g} to {last:.4g}"
            for (band, low, high), (_, first, last) in zip(self.learnt, self.found, strict=True)
        )

    def record(self) -> dict[str, Any]:
        """For `run.json`."""
        return {
            "used": self.used,
            "why": self.why,
            "ranges": [list(part) for part in self.scaling.ranges],
            "model_percentiles": [list(part) for part in self.learnt],
            "scene_percentiles": [list(part) for part in self.found],
        }


@dataclass(frozen=True)
class _Use:
    """What ground is shown to a model for, and what a user can do where it does not fit."""

    verb: str
    """What fails."""
    ground: str
    """What the ground is called."""
    where_flat: str
    """Remedy where a band has no range of its own."""
    where_made_otherwise: str
    """Remedy where the same sensor gave other numbers."""
    where_clipped: str
    """Remedy where much lies beyond the model's range."""
    where_unseen: str
    """The same in a band that no light changes."""


_MAPPING = _Use(
    "map",
    "scene",
    "Use --scaling model.",
    "use --scaling scene or --reflectance",
    "the radiometry differs, so use --scaling scene, or train on this scene",
    "such ground was not learnt from, so train on some of it",
)
_TRAINING = _Use(
    "train",
    "training ground",
    "Leave the band out with --use, and train without --from.",
    "tile the ground again with --reflectance, or train without --from",
    "the radiometry differs, so train without --from",
    "what lies beyond is cut off, so train without --from",
)


@dataclass(frozen=True, eq=False)
class _Ground:
    """All that the choice heeds of the ground."""

    pixels: Pixels
    """A sample of every band that is there."""
    units: dict[str, str]
    """Units of these bands, by name."""
    sensor: str
    """Sensors, with a comma between; empty where one is not known."""
    is_eight_bit: bool
    """True: its values were stretched to 8 bit."""
    use: _Use
    """What it is shown for."""


def choose_scaling(scene: Scene, card: ModelCard, mode: str) -> ChosenScaling:
    """The scaling for a scene.

    `model` takes the model's numbers, `scene` the scene's own percentiles, laid where those of the
    model's ground lay. `auto` takes the model's for the same sensor and units, else the scene's;
    where one of the sensors is not known, it takes the model's if in every band the two ranges
    share at least half of what they span together. Bands in metres and degrees always keep the
    model's numbers, and so do optional bands that the scene lacks.

    Args:
        scene: Scene to map.
        card: The model's.
        mode: One of `SCALINGS`.

    Raises:
        UsageError: An unknown mode.
        DataError: The scene has no usable pixel, or a band has one value and its own range is
            asked for.
    """
    _require_known(mode)
    pixels = sampled_pixels(scene, card.bands, card.optional_bands)
    units = dict(zip(pixels, units_of(scene, tuple(pixels)), strict=True))
    sensor = getattr(scene, "sensor", "")
    ground = _Ground(pixels, units, sensor, _type_of(scene) == "uint8", _MAPPING)
    return _chosen(ground, card, mode)


def choose_tile_scaling(
    tiles: Sequence[tuple[TileSet, Tile]], card: ModelCard, mode: str = "auto"
) -> ChosenScaling:
    """The scaling for tiles from which a model learns further: chosen as that of a scene is.

    Args:
        tiles: Training tiles with their sets; of more than 400, as many are read, evenly spread.
        card: Of the model that training starts from.
        mode: One of `SCALINGS`; `scene` takes the numbers of the tiles.

    Raises:
        UsageError: An unknown mode.
        BandError: The tiles lack a band of the model that is not optional.
        DataError: The tiles have no usable pixel, or a band has one value and its own range would
            be used.
    """
    _require_known(mode)
    read = tiles[:: max(-(-len(tiles) // SAMPLE_WINDOWS), 1)]
    rasters = (
        tile_set.read(tile, bands_at_hand(card.bands, tile_set.bands, card.optional_bands))[0]
        for tile_set, tile in track(read, total=len(read), what="Measuring the bands")
    )
    pixels = pooled_pixels(rasters, card.bands, len(read))
    sets = [tile_set for tile_set, _ in tiles]
    sensors = {each.sensor for each in sets}
    sensor = "" if "" in sensors else ", ".join(sorted(sensors))
    is_eight_bit = any(each.bands[0] in each.eight_bit for each in sets)
    ground = _Ground(pixels, _units_of_tiles(sets, card), sensor, is_eight_bit, _TRAINING)
    return _chosen(ground, card, mode)


def _require_known(mode: str) -> None:
    if mode not in SCALINGS:
        raise UsageError(
            f"Cannot scale by '{mode}': expected one of {', '.join(SCALINGS)}. Correct --scaling."
        )


def _units_of_tiles(sets: Sequence[TileSet], card: ModelCard) -> dict[str, str]:
    """Units of the bands of a model by name; the card's where a tile set does not know its own."""
    if not all(each.units for each in sets):
        return dict(zip(card.bands, card.units or (DIGITAL,) * len(card.bands), strict=True))
    stored = {
        band: unit for each in sets for band, unit in zip(each.bands, each.units, strict=True)
    }
    bands = bands_at_hand(card.bands, tuple(stored), card.optional_bands)
    return {band: unit_of(band, stored) for band in bands}


def _type_of(scene: Scene) -> str:
    """Type of the pixels; of several files, of the first."""
    known = str(getattr(scene, "dtype", ""))
    return known or scene.read(Window(0, 0, 1, 1), scene.bands[:1]).values.dtype.name


def _chosen(ground: _Ground, card: ModelCard, mode: str) -> ChosenScaling:
    """The scaling for ground, and a word about it."""
    use = ground.use
    pixels = {
        band: values
        for band, values in ground.pixels.items()
        if values.size or band not in card.optional_bands
    }
    if not pixels or not all(values.size for values in pixels.values()):
        raise DataError(
            f"Cannot {use.verb}: no pixel of the {use.ground} is usable. Check nodata and "
            "--unusable with landslip check."
        )
    unseen = [band for band in ground.pixels if band not in pixels]
    if unseen:
        log.warning("no pixel of the %s has optional bands %s", use.ground, ", ".join(unseen))
    found = percentiles_of(pixels)
    learnt = _of_bands(card.percentiles or card.scaling, pixels)
    used, why = _judged(ground, card, learnt, found) if mode == "auto" else (mode, "as asked")
    scaling = card.scaling_of_bands
    if used == "scene":
        scaling = _of_ground(ground, card, found)
    chosen = ChosenScaling(scaling, used, why, learnt, found, use.ground)
    level = logging.WARNING if mode == "auto" and used == "scene" else logging.INFO
    whose = use.ground if used == "scene" else "model"
    log.log(level, "scaling: the %s's numbers (%s)\n%s", whose, why, chosen.table)
    if used == "model":
        _warn_of_clipping(ground, scaling, pixels)
        unlike = _unlike(learnt, found, ground.units)
        if mode == "auto" and card.percentiles and unlike:
            log.warning(
                "the range of %s is another than the model's, though the sensor is the same: if "
                "the numbers were made in another way, %s",
                ", ".join(unlike), use.where_made_otherwise,
            )  # fmt: skip
    return chosen


def _of_bands(ranges: Ranges, bands: Pixels) -> Ranges:
    return tuple(part for part in ranges if part[0] in bands)


def _judged(ground: _Ground, card: ModelCard, learnt: Ranges, found: Ranges) -> tuple[str, str]:
    """`model` or `scene`, and why."""
    name = ground.use.ground
    known = dict(zip(card.bands, card.units, strict=True)) if card.units else {}
    for band, _, _ in found:
        here, there = ground.units[band], known.get(band, ground.units[band])
        if here != there:
            return "scene", f"{band} is in {here}, the model learnt from {there}"
    # Eight-bit values were stretched, scene by scene: no sensor's numbers.
    if ground.is_eight_bit != _is_stretched(card, ground.units):
        if ground.is_eight_bit:
            return "scene", f"the {name} has 8-bit values, the model learnt from others"
        return "scene", f"the model learnt from 8-bit values, the {name} has others"
    mine, theirs = ground.sensor, card.sensor
    if mine and theirs:
        if set(mine.split(", ")) <= set(theirs.split(", ")):
            return "model", f"same sensor, {mine}, and units"
        return "scene", f"the {name} is {mine}'s, the model learnt from {theirs}'s"
    if not card.percentiles and all((low, high) == EIGHT_BIT for _, low, high in learnt):
        return "model", "both are 8-bit"
    unlike = _unlike(learnt, found, ground.units)
    if unlike:
        return (
            "scene",
            f"the range of {unlike[0]} is another, and the sensor is not known to be one",
        )
    return "model", "same units, and alike ranges; the sensor is not known"


def _unlike(learnt: Ranges, found: Ranges, units: dict[str, str]) -> list[str]:
    """Bands whose two ranges share less than half of what they span together."""
    bands = []
    for (band, low, high), (_, first, last) in zip(learnt, found, strict=True):
        shared = min(high, last) - max(low, first)
        joint = max(high, last) - min(low, first)
        if units[band] not in ABSOLUTE_UNITS and not shared >= SHARED_RANGE * joint:
            bands.append(band)
    return bands


def _is_stretched(card: ModelCard, units: dict[str, str]) -> bool:
    own = [(low, high) for band, low, high in card.scaling if units.get(band) == DIGITAL]
    return bool(own) and all(ends == EIGHT_BIT for ends in own)


def _of_ground(ground: _Ground, card: ModelCard, found: Ranges) -> Scaling:
    """The ground's own numbers, and the model's of bands that no light changes or that lack."""
    own = {}
    for part in found:
        band, first, last = part
        if ground.units[band] in ABSOLUTE_UNITS:
            continue
        if not first < last:
            raise DataError(
                f"Cannot scale band '{band}' by the {ground.use.ground}'s own numbers: it is "
                f"{first:g} nearly everywhere. {ground.use.where_flat}"
            )
        own[band] = part
    learnt = card.percentiles or card.scaling
    return card.scaling_of_bands.matched(
        learnt, tuple(own.get(before[0], before) for before in learnt)
    )


def _warn_of_clipping(ground: _Ground, scaling: Scaling, pixels: Pixels) -> None:
    """Warn where many pixels of the ground lie outside what the model has seen."""
    use = ground.use
    for band, low, high in _of_bands(scaling.ranges, pixels):
        values = pixels[band]
        outside = float(((values < low) | (values > high)).mean())
        first, last = np.percentile(values, [2, 98])
        if outside > CLIPPED_SHARE or last - first < 0.1 * (high - low):
            is_unlit = ground.units[band] in ABSOLUTE_UNITS
            log.warning(
                "band %s: the model learnt %g to %g, the %s holds %g to %g (%.0f %% outside): %s",
                band, low, high, use.ground, first, last, 100 * outside,
                use.where_unseen if is_unlit else use.where_clipped,
            )  # fmt: skip
