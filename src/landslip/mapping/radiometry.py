"""Which numbers of a scene a model is shown: its own range, or what the scene has instead."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import DataError, UsageError
from landslip.geo.grid import Window
from landslip.geo.raster import DIGITAL, Scene
from landslip.learn.card import ModelCard
from landslip.prepare.scaling import (
    ABSOLUTE_UNITS,
    EIGHT_BIT,
    Ranges,
    Scaling,
    percentiles_of,
    sampled_pixels,
    units_of,
)

log = logging.getLogger(__name__)

SCALINGS = ("auto", "model", "scene")
SHARED_RANGE = 0.5
"""Where a sensor is not known: share of the joint range of model and scene that both must have."""
CLIPPED_SHARE = 0.25
"""Share of pixels outside the model's range in a band above which radiometry is questioned."""


@dataclass(frozen=True)
class ChosenScaling:
    """How a scene is shown to a model, and why."""

    scaling: Scaling
    """What is applied."""
    used: str
    """`model` or `scene`."""
    why: str
    """In words."""
    learnt: Ranges
    """Percentiles of the ground that the model learnt from."""
    found: Ranges
    """The same percentiles of the scene."""

    @property
    def table(self) -> str:
        """The two ranges of every band, a line each, for people."""
        return "\n".join(
            f"  {band}: model {low:.4g} to {high:.4g}, scene {first:.4g} to {last:.4g}"
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


def choose_scaling(scene: Scene, card: ModelCard, mode: str) -> ChosenScaling:
    """The scaling for a scene.

    `model` takes the model's numbers, `scene` the scene's own percentiles, laid where those of the
    model's ground lay. `auto` takes the model's for the same sensor and units, else the scene's;
    where one of the sensors is not known, it takes the model's if in every band the two ranges
    share at least half of what they span together. Bands in metres and degrees always keep the
    model's numbers.

    Args:
        scene: Scene to map.
        card: The model's.
        mode: One of `SCALINGS`.

    Raises:
        UsageError: An unknown mode.
        DataError: The scene has no usable pixel, or a band has one value and its own range is
            asked for.
    """
    if mode not in SCALINGS:
        raise UsageError(
            f"Cannot scale by '{mode}': expected one of {', '.join(SCALINGS)}. Correct --scaling."
        )
    pixels = sampled_pixels(scene, card.bands)
    if pixels.size == 0:
        raise DataError(
            "Cannot map: no pixel of the scene is usable. Check nodata and --unusable with "
            "landslip check."
        )
    found = percentiles_of(pixels, card.bands)
    learnt = card.percentiles or card.scaling
    units = units_of(scene, card.bands)
    used, why = _judged(scene, card, units, learnt, found) if mode == "auto" else (mode, "as asked")
    scaling = card.scaling_of_bands
    if used == "scene":
        scaling = _of_scene(scaling, learnt, found, units)
    chosen = ChosenScaling(scaling, used, why, learnt, found)
    level = logging.WARNING if mode == "auto" and used == "scene" else logging.INFO
    log.log(level, "scaling: the %s's numbers (%s)\n%s", used, why, chosen.table)
    if used == "model":
        _warn_of_clipping(scaling, pixels, units)
        unlike = _unlike(learnt, found, units)
        if mode == "auto" and card.percentiles and unlike:
            log.warning(
                "the range of %s is another than the model's, though the sensor is the same: if "
                "the numbers were made in another way, use --scaling scene or --reflectance",
                ", ".join(unlike),
            )
    return chosen


def _judged(
    scene: Scene, card: ModelCard, units: tuple[str, ...], learnt: Ranges, found: Ranges
) -> tuple[str, str]:
    """`model` or `scene`, and why."""
    known = card.units or units
    for band, here, there in zip(card.bands, units, known, strict=True):
        if here != there:
            return "scene", f"{band} is in {here}, the model learnt from {there}"
    is_stretched = _type_of(scene) == "uint8"
    # Eight-bit values were stretched, scene by scene: no sensor's numbers.
    if is_stretched != _is_stretched(card, units):
        if is_stretched:
            return "scene", "the scene has 8-bit values, the model learnt from others"
        return "scene", "the model learnt from 8-bit values, the scene has others"
    mine, theirs = getattr(scene, "sensor", ""), card.sensor
    if mine and theirs:
        if mine in theirs.split(", "):
            return "model", f"same sensor, {mine}, and units"
        return "scene", f"the scene is {mine}'s, the model learnt from {theirs}'s"
    if not card.percentiles and all((low, high) == EIGHT_BIT for _, low, high in learnt):
        return "model", "both are 8-bit"
    unlike = _unlike(learnt, found, units)
    if unlike:
        return (
            "scene",
            f"the range of {unlike[0]} is another, and the sensor is not known to be one",
        )
    return "model", "same units, and alike ranges; the sensor is not known"


def _unlike(learnt: Ranges, found: Ranges, units: tuple[str, ...]) -> list[str]:
    """Bands whose two ranges share less than half of what they span together."""
    bands = []
    for (band, low, high), (_, first, last), unit in zip(learnt, found, units, strict=True):
        shared = min(high, last) - max(low, first)
        joint = max(high, last) - min(low, first)
        if unit not in ABSOLUTE_UNITS and not shared >= SHARED_RANGE * joint:
            bands.append(band)
    return bands


def _type_of(scene: Scene) -> str:
    """Type of the pixels; of several files, of the first."""
    known = str(getattr(scene, "dtype", ""))
    return known or scene.read(Window(0, 0, 1, 1), scene.bands[:1]).values.dtype.name


def _is_stretched(card: ModelCard, units: tuple[str, ...]) -> bool:
    own = [(low, high) for (_, low, high), unit in zip(card.scaling, units, strict=True)
           if unit == DIGITAL]  # fmt: skip
    return bool(own) and all(ends == EIGHT_BIT for ends in own)


def _of_scene(scaling: Scaling, learnt: Ranges, found: Ranges, units: tuple[str, ...]) -> Scaling:
    for (band, first, last), unit in zip(found, units, strict=True):
        if unit not in ABSOLUTE_UNITS and not first < last:
            raise DataError(
                f"Cannot scale band '{band}' by the scene's own numbers: it is {first:g} nearly "
                "everywhere. Use --scaling model."
            )
    kept = tuple(
        before if unit in ABSOLUTE_UNITS else after
        for before, after, unit in zip(learnt, found, units, strict=True)
    )
    return scaling.matched(learnt, kept)


def _warn_of_clipping(
    scaling: Scaling, pixels: NDArray[np.float32], units: tuple[str, ...]
) -> None:
    """Warn where many pixels of the scene lie outside what the model has seen."""
    for (band, low, high), values, unit in zip(scaling.ranges, pixels, units, strict=True):
        outside = float(((values < low) | (values > high)).mean())
        first, last = np.percentile(values, [2, 98])
        if outside > CLIPPED_SHARE or last - first < 0.1 * (high - low):
            log.warning(
                "band %s: the model learnt %g to %g, the scene holds %g to %g (%.0f %% outside): "
                "%s", band, low, high, first, last, 100 * outside,
                "such ground was not learnt from, so train on some of it"
                if unit in ABSOLUTE_UNITS
                else "the radiometry differs, so use --scaling scene, or train on this scene",
            )  # fmt: skip
