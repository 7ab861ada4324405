"""What bands are called, and which indices can be computed from them.

Bands travel by name. Numbers such as B4 mean different colours on different sensors, so they need
the sensor's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import BandError, UsageError

Planes = Mapping[str, NDArray[np.float32]]
OF_THE_BANDS = "of the bands"
"""Unit of an index that has the unit of its bands."""
BEFORE = "pre_"
"""What the names of bands of a scene from before the event begin with."""
TERRAIN_BANDS = frozenset({"elevation", "slope"})
"""Bands that come from an elevation model."""
UNITS = {"elevation": "m", "height_above_ground": "m", "slope": "deg"}
"""Units of bands that are no light, where a file states none."""


@dataclass(frozen=True)
class Index:
    """A band that is computed from others, pixel by pixel."""

    needs: tuple[str, ...]
    """Bands that the formula reads."""
    formula: Callable[[Planes], NDArray[np.float32]]
    """From planes (H, W) by name to one plane (H, W); NaN where undefined."""
    low: float
    """Smallest possible value."""
    high: float
    """Largest possible value."""
    unit: str
    """Unit of the result."""
    source: str
    """Where the formula comes from."""


def _ndvi(planes: Planes) -> NDArray[np.float32]:
    nir, red = planes["nir"], planes["red"]
    index: NDArray[np.float32] = (nir - red) / (nir + red)
    return index


def _evi(planes: Planes) -> NDArray[np.float32]:
    nir, red, blue = planes["nir"], planes["red"], planes["blue"]
    largest = np.nanmax(nir, initial=0)
    if largest > 10:
        raise BandError(
            "Cannot compute evi: its constants are for reflectances (0 to 1), "
            f"and band 'nir' reaches {largest:g}. Use ndvi, or convert the scene to reflectance."
        )
    index: NDArray[np.float32] = 2.5 * (nir - red) / (nir + 6 * red - 7.5 * blue + 1)
    return index


def _brightness(planes: Planes) -> NDArray[np.float32]:
    mean_square = (planes["red"] ** 2 + planes["green"] ** 2) / 2
    root: NDArray[np.float32] = np.sqrt(mean_square)
    return root


INDICES: dict[str, Index] = {
    "brightness": Index(
        ("red", "green"), _brightness, 0, np.inf, OF_THE_BANDS, "Escadafal 1989, BI"
    ),
    "evi": Index(("nir", "red", "blue"), _evi, -np.inf, np.inf, "1", "Huete et al. 2002, eq. 1"),
    "ndvi": Index(("nir", "red"), _ndvi, -1, 1, "1", "Rouse et al. 1974"),
}

_SENTINEL_2 = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "red_edge1",
    "B6": "red_edge2", "B7": "red_edge3", "B8": "nir", "B8A": "nir_narrow",
    "B9": "water_vapour", "B10": "cirrus", "B11": "swir1", "B12": "swir2",
}  # fmt: skip
_LANDSAT_TM = {
    "B1": "blue", "B2": "green", "B3": "red", "B4": "nir", "B5": "swir1", "B6": "thermal",
    "B7": "swir2", "B8": "pan",
}  # fmt: skip
_LANDSAT_OLI = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir", "B6": "swir1",
    "B7": "swir2", "B8": "pan", "B9": "cirrus", "B10": "thermal", "B11": "thermal2",
}  # fmt: skip
_WORLDVIEW = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "yellow", "B5": "red", "B6": "red_edge",
    "B7": "nir", "B8": "nir2",
}  # fmt: skip

SENSORS: dict[str, dict[str, str]] = {
    "geoeye-1": {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir"},
    "landsat-5": _LANDSAT_TM,
    "landsat-7": _LANDSAT_TM,
    "landsat-8": _LANDSAT_OLI,
    "landsat-9": _LANDSAT_OLI,
    "sentinel-2": _SENTINEL_2,
    "worldview-2": _WORLDVIEW,
    "worldview-3": _WORLDVIEW,
}
"""Names of numbered bands. Source: the product guides of USGS, ESA and DigitalGlobe."""

_NUMBER = re.compile(r"^(?:b|band)?[ _-]?0*(\d{1,2})(a?)$", re.IGNORECASE)
_ALIASES = {
    "near_infrared": "nir", "near_ir": "nir", "infrared": "nir", "r": "red", "g": "green",
    "dem": "elevation", "dsm": "elevation", "height": "elevation", "panchromatic": "pan",
}  # fmt: skip


def band_name(text: str, sensor: str | None = None) -> str:
    """The name by which landslip knows a band.

    Args:
        text: A name as people or files write it: "NIR", "Near Infrared", "B8".
        sensor: Key of `SENSORS`; needed for bare numbers.

    Raises:
        BandError: A bare number without a sensor, or one that the sensor does not have.
        UsageError: An unknown sensor.
    """
    if sensor is not None and sensor not in SENSORS:
        raise UsageError(
            f"Cannot name bands: sensor '{sensor}' is not known; expected one of "
            f"{', '.join(sorted(SENSORS))}."
        )
    name = re.sub(r"[\s-]+", "_", text.strip()).lower()
    number = _NUMBER.match(name)
    if number is None:
        return _ALIASES.get(name, name)
    code = f"B{number[1]}{number[2].upper()}"
    if sensor is None:
        raise BandError(
            f"Cannot tell which band '{text}' is: {code} is red on Sentinel-2 and near infrared "
            "on Landsat 5. Name the sensor with --sensor, or the bands with --bands."
        )
    if code not in SENSORS[sensor]:
        raise BandError(
            f"Cannot tell which band '{text}' is: {sensor} has "
            f"{', '.join(SENSORS[sensor])}. Name the bands with --bands."
        )
    return SENSORS[sensor][code]


def _index_of(name: str) -> tuple[Index, str] | None:
    """The index behind a name and the prefix of its bands; `pre_ndvi` reads `pre_` bands."""
    prefix = BEFORE if name.startswith(BEFORE) else ""
    index = INDICES.get(name.removeprefix(prefix))
    return None if index is None else (index, prefix)


def by_origin(bands: Iterable[str]) -> list[tuple[str, ...]]:
    """Bands in groups that a scene has or lacks together.

    Those of the scene from before the event are one group, those of the elevation model another;
    every other band is one by itself.
    """
    groups: dict[str, list[str]] = {}
    for band in bands:
        is_before = band.startswith(BEFORE)
        origin = BEFORE if is_before else "terrain" if band in TERRAIN_BANDS else f"band {band}"
        groups.setdefault(origin, []).append(band)
    return [tuple(group) for group in groups.values()]


def unit_name(text: str) -> str:
    """The unit by which landslip knows what files write: metre, meters, degrees, ..."""
    written = {"metre": "m", "meter": "m", "degree": "deg"}
    return written.get(text.strip().lower().removesuffix("s"), text.strip())


def unit_of_index(name: str) -> str:
    """Unit of an index by its name, `pre_ndvi` as `ndvi`; empty for a name that is none."""
    found = _index_of(name)
    return "" if found is None else found[0].unit


def sources_of(wanted: Iterable[str], available: Sequence[str]) -> tuple[str, ...]:
    """The bands to read, in the order of `available`, so that `wanted` can be given.

    Raises:
        BandError: A wanted band is neither there nor can be computed.
    """
    needed: set[str] = set()
    for name in wanted:
        if name in available:
            needed.add(name)
            continue
        found = _index_of(name)
        needs = [] if found is None else [found[1] + need for need in found[0].needs]
        if found is None or not set(needs) <= set(available):
            why = f"'{name}'" if found is None else f"'{name}' (from {', '.join(needs)})"
            raise BandError(
                f"Cannot give band {why}: the file names {', '.join(available) or 'none'}. "
                "Name its bands with --bands, or add the file that has it with --add."
            )
        needed.update(needs)
    return tuple(name for name in available if name in needed)


def compute(wanted: Sequence[str], planes: Planes) -> NDArray[np.float32]:
    """Stack bands and indices in the order wanted.

    Args:
        wanted: Names; each in `planes` or an index whose needs are.
        planes: Planes (H, W) by name.

    Returns:
        Array (C, H, W) float32; NaN where an index is undefined.
    """
    stacked = []
    for name in wanted:
        found = None if name in planes else _index_of(name)
        if found is None:
            stacked.append(planes[name])
            continue
        index, prefix = found
        with np.errstate(divide="ignore", invalid="ignore"):
            own = {need: planes[prefix + need].astype(np.float32) for need in index.needs}
            values = index.formula(own)
        stacked.append(np.where(np.isfinite(values), values, np.nan).astype(np.float32))
    return np.stack(stacked)
