"""From digital numbers to reflectance, where a scene's metadata allow it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from landslip.geo.bands import SENSORS, band_name, sources_of
from landslip.geo.errors import BandError, DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import FileScene, Raster, Scene, derive, open_dataset

TOP_OF_ATMOSPHERE = "reflectance"
"""Unit of bands at the top of the atmosphere."""
SURFACE = "surface reflectance"
"""Unit of bands whose atmosphere was corrected for."""
AUTO = "auto"
"""Look for the metadata in the file and beside it."""

_BESIDE = ("*_MTL.txt", "*_MTL.json", "MTD_MSIL*.xml", "*.IMD", "*.imd", "reflectance.json")
"""Names of metadata that are looked for beside a scene."""


@dataclass(frozen=True)
class Calibration:
    """Reflectance of every band as ``gain * digital number + offset``."""

    lines: Mapping[str, tuple[float, float]]
    """Gain and offset by band name."""
    unit: str
    """`TOP_OF_ATMOSPHERE` or `SURFACE`."""
    sensor: str
    """Key of `SENSORS`; empty where the metadata name none of them."""
    source: str
    """File that said so."""


class ReflectanceScene:
    """A scene whose digital numbers were turned into reflectance, in float32."""

    def __init__(
        self, scene: Scene, calibration: Calibration, *, zero_is_nodata: bool = False
    ) -> None:
        """Calibrate all bands of a scene.

        Args:
            scene: Digital numbers.
            calibration: Gain and offset of every band.
            zero_is_nodata: Take 0 for no data, as Landsat, Sentinel-2 and DigitalGlobe do whether
                the file declares it or not; with an offset it would become dark ground.

        Raises:
            BandError: The metadata do not calibrate one of them.
        """
        missing = [band for band in scene.bands if band not in calibration.lines]
        if missing:
            raise BandError(
                f"Cannot give reflectance: {calibration.source} has no numbers for "
                f"{', '.join(missing)}, only for {', '.join(calibration.lines)}. Correct the names "
                "with --bands, '-' to leave a band out."
            )
        self.scene = scene
        self._zero_is_nodata = zero_is_nodata
        self.calibration = calibration
        self.dtype = "float32"
        self.units = (calibration.unit,) * len(scene.bands)
        self.sensor = calibration.sensor or getattr(scene, "sensor", "")

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self.scene.grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.scene.bands

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, as reflectance."""
        # Only what is asked for: a band is valid where it is, whatever others lack.
        stored = sources_of(bands, self.bands)
        read = self.scene.read(window, stored)
        lines = np.array([self.calibration.lines[band] for band in stored], dtype=np.float32)
        values = read.values.astype(np.float32)
        valid = read.valid
        if self._zero_is_nodata:
            valid = valid & (read.values != 0).all(axis=0)
        values *= lines[:, 0, None, None]
        values += lines[:, 1, None, None]
        if not valid.all():
            values[:, ~valid] = 0
        raster = Raster(values, valid, stored, read.grid)
        return derive(raster, bands, values, valid, raster.grid.window)

    def close(self) -> None:
        """Close the scene."""
        close = getattr(self.scene, "close", None)
        if close is not None:
            close()


def find_calibration(where: str | Path, file: FileScene) -> Calibration:
    """The calibration of the bands of a file.

    Args:
        where: `auto`, or a file: Landsat MTL (text or JSON), Sentinel-2 MTD (XML), DigitalGlobe
            IMD, or JSON of our own (see `read_calibration`).
        file: Bands of digital numbers.

    Raises:
        DataError: There are no metadata, several, or none that can be used.
    """
    if str(where) != AUTO:
        return read_calibration(where)
    folder = Path(file.path).parent
    # USGS delivers every MTL twice, as text and as JSON.
    named = {
        path.with_suffix("") if path.stem.endswith("_MTL") else path: path
        for pattern in _BESIDE
        for path in folder.glob(pattern)
    }
    found = sorted(named.values())
    # Pan and bands are often delivered side by side, each with its own.
    own = [path for path in found if path.stem == Path(file.path).stem]
    if len(own) == 1 or len(found) == 1:
        return read_calibration((own or found)[0])
    if found:
        raise DataError(
            f"Cannot give reflectance of {file.path}: there are several metadata files beside it "
            f"({', '.join(path.name for path in found)}). Name one with --reflectance."
        )
    with open_dataset(file.path) as dataset:
        lines = {
            band: (float(dataset.scales[number - 1]), float(dataset.offsets[number - 1]))
            for band, number in file.numbers.items()
        }
    without = [band for band, line in lines.items() if line == (1.0, 0.0)]
    if 0 < len(without) < len(lines):
        raise DataError(
            f"Cannot give reflectance of {file.path}: it states no scale and offset for "
            f"{', '.join(without)}. Leave these out with --bands, or name the metadata with "
            "--reflectance FILE."
        )
    if without:
        raise DataError(
            f"Cannot give reflectance of {file.path}: neither the file nor its folder says how "
            f"(looked for {', '.join(_BESIDE)}, and for scale and offset of the bands). Name the "
            "metadata with --reflectance FILE."
        )
    return Calibration(lines, TOP_OF_ATMOSPHERE, file.sensor, file.path)


def read_calibration(path: str | Path) -> Calibration:
    """Read metadata; the kind is told by the content.

    JSON of our own: ``{"sensor": "", "gain": {"red": 0.01, ...}, "offset": {"red": 0, ...}}`` gives
    reflectance as it stands; with ``"sun_elevation_deg"`` it is divided by the sine of it; with
    ``"date": "2013-07-22"`` and ``"solar_irradiance": {"red": 1491.49, ...}`` (W m-2 um-1) gain
    and offset give radiance (W m-2 sr-1 um-1). ``"unit": "surface reflectance"`` says so.

    Raises:
        DataError: The file cannot be read or lacks a number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(
            f"Cannot read metadata {path}: {error.strerror}. Check its name and folder."
        ) from error
    try:
        if text.lstrip().startswith("<"):
            return _sentinel_2(ET.fromstring(text), str(path))
        if text.lstrip().startswith("{"):
            read = json.loads(text)
            landsat = read.get("LANDSAT_METADATA_FILE")
            return _own(read, str(path)) if landsat is None else _landsat(landsat, str(path))
        if "BEGIN_GROUP" in text:
            return _digital_globe(_groups(text), str(path))
        if "GROUP" in text:
            groups = _groups(text)
            # Collection 2, Collection 1.
            root = groups.get("LANDSAT_METADATA_FILE") or groups.get("L1_METADATA_FILE")
            return _landsat(root or groups, str(path))
    except (
        KeyError, ValueError, TypeError, AttributeError, ArithmeticError, ET.ParseError
    ) as error:  # fmt: skip
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"Cannot use metadata {path}: {_lacking(error)}. Use the file that was delivered with "
            "the scene, or write gain and offset into a JSON file (see docs/radiometry.md)."
        ) from error
    raise DataError(
        f"Cannot use metadata {path}: it is no Landsat MTL, Sentinel-2 MTD, DigitalGlobe IMD or "
        "JSON. Name the file that was delivered with the scene."
    )


def _lacking(error: Exception) -> str:
    if isinstance(error, ET.ParseError | json.JSONDecodeError):
        return f"it is damaged ({error})"
    return (
        f"{error} is missing"
        if isinstance(error, KeyError)
        else f"it says what cannot be used ({error})"
    )


def _groups(text: str) -> dict[str, Any]:
    """Nested groups of ``NAME = VALUE`` lines, as USGS and DigitalGlobe write them."""
    root: dict[str, Any] = {}
    stack = [root]
    for line in text.splitlines():
        name, found, value = (part.strip(" \t;") for part in line.partition("="))
        if not found:
            continue
        if name in ("GROUP", "BEGIN_GROUP"):
            stack.append(stack[-1].setdefault(value, {}))
        elif name in ("END_GROUP", "END_OBJECT"):
            if len(stack) > 1:
                stack.pop()
        else:
            stack[-1][name] = value.strip('"')
    return root


def _landsat(read: Mapping[str, Any], source: str) -> Calibration:
    """Source: Landsat 8 Data Users Handbook, section 5.2; Collection 2 Level-2 guide, table 6-1."""
    flat = {key: value for group in read.values() if isinstance(group, dict) for key, value in
            group.items()}  # fmt: skip
    sensor = str(flat["SPACECRAFT_ID"]).lower().replace("_", "-")
    level_2 = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS" in read
    own = read["LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"] if level_2 else flat
    if sensor not in SENSORS:
        raise DataError(
            f"Cannot use metadata {source}: no bands are known of {sensor}, only of "
            f"{', '.join(name for name in SENSORS if name.startswith('landsat'))}. Write gain and "
            "offset into a JSON file (see docs/radiometry.md)."
        )
    sine = 1.0 if level_2 else math.sin(math.radians(_elevation(float(flat["SUN_ELEVATION"]))))
    lines = {}
    for number, name in SENSORS[sensor].items():
        gain = own.get(f"REFLECTANCE_MULT_BAND_{number[1:]}")
        if gain is not None:
            offset = own[f"REFLECTANCE_ADD_BAND_{number[1:]}"]
            lines[name] = (float(gain) / sine, float(offset) / sine)
    if not lines:
        raise KeyError("REFLECTANCE_MULT_BAND_1")
    return Calibration(lines, SURFACE if level_2 else TOP_OF_ATMOSPHERE, sensor, source)


def _sentinel_2(root: ET.Element, source: str) -> Calibration:
    """Source: Sentinel-2 Products Specification Document 14.9.

    Since processing baseline 04.00 (25 January 2022) 1000 is to be taken off; the metadata of older
    products state no offset.
    """
    tags: dict[str, list[ET.Element]] = {}
    for element in root.iter():
        tags.setdefault(element.tag.rpartition("}")[2], []).append(element)
    level_2 = "BOA_QUANTIFICATION_VALUE" in tags
    scale = tags["BOA_QUANTIFICATION_VALUE" if level_2 else "QUANTIFICATION_VALUE"][0]
    quantification = float(scale.text or "")
    added = tags.get("BOA_ADD_OFFSET" if level_2 else "RADIO_ADD_OFFSET", [])
    offsets = {int(element.attrib["band_id"]): float(element.text or "") for element in added}
    # Identifiers count B8A between B8 and B9.
    names = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
    lines = {
        SENSORS["sentinel-2"][name]: (1 / quantification, offsets.get(number, 0) / quantification)
        for number, name in enumerate(names)
    }
    unit = SURFACE if level_2 else TOP_OF_ATMOSPHERE
    return Calibration(lines, unit, "sentinel-2", source)


_DIGITAL_GLOBE: dict[str, tuple[str, dict[str, tuple[str, float, float, float]]]] = {
    "GE01": ("geoeye-1", {
        "P": ("pan", 0.970, -1.926, 1610.73), "B": ("blue", 1.053, -4.537, 1993.18),
        "G": ("green", 0.994, -4.175, 1828.83), "R": ("red", 0.998, -3.754, 1491.49),
        "N": ("nir", 0.994, -3.870, 1022.58),
    }),
    "WV02": ("worldview-2", {
        "P": ("pan", 0.942, -2.704, 1571.36), "C": ("coastal", 1.151, -7.478, 1773.81),
        "B": ("blue", 0.988, -5.736, 2007.27), "G": ("green", 0.936, -3.546, 1829.62),
        "Y": ("yellow", 0.949, -3.564, 1701.85), "R": ("red", 0.952, -2.512, 1538.85),
        "RE": ("red_edge", 0.974, -4.120, 1346.09), "N": ("nir", 0.961, -3.300, 1053.21),
        "N2": ("nir2", 1.002, -2.891, 856.599),
    }),
    "WV03": ("worldview-3", {
        "P": ("pan", 0.950, -3.629, 1574.41), "C": ("coastal", 0.905, -8.604, 1757.89),
        "B": ("blue", 0.940, -5.809, 2004.61), "G": ("green", 0.938, -4.996, 1830.18),
        "Y": ("yellow", 0.962, -3.649, 1712.07), "R": ("red", 0.964, -3.021, 1535.33),
        "RE": ("red_edge", 1.000, -4.521, 1348.08), "N": ("nir", 0.961, -5.522, 1055.94),
        "N2": ("nir2", 0.978, -2.992, 858.77),
    }),
}  # fmt: skip
"""By satId: sensor and, by band of the IMD, name, gain, offset (W m-2 sr-1 um-1) and solar
irradiance (W m-2 um-1). Source: DigitalGlobe, Absolute Radiometric Calibration 2016v0, with the
solar spectrum of Thuillier et al. 2003."""


def _digital_globe(read: Mapping[str, Any], source: str) -> Calibration:
    """Source: DigitalGlobe, Radiometric Use of WorldView-3 Imagery (2016), eqs. 1 and 5."""
    image = read["IMAGE_1"]
    satellite = str(image["satId"])[:4]
    if satellite not in _DIGITAL_GLOBE:
        raise DataError(
            f"Cannot use metadata {source}: no calibration is known for {image['satId']}, only for "
            f"{', '.join(_DIGITAL_GLOBE)}. Write gain and offset into a JSON file (see "
            "docs/radiometry.md)."
        )
    sensor, known = _DIGITAL_GLOBE[satellite]
    when = str(image.get("firstLineTime") or image["TLCTime"])
    sun = float(image.get("meanSunEl") or image["sunEl"])
    lines = {}
    for code, (name, gain, offset, irradiance) in known.items():
        band = read.get(f"BAND_{code}")
        if band is not None:
            slope = gain * float(band["absCalFactor"]) / float(band["effectiveBandwidth"])
            scale = _from_radiance(irradiance, sun, date.fromisoformat(when[:10]))
            lines[name] = (slope * scale, offset * scale)
    if not lines:
        raise KeyError("BAND_B")
    return Calibration(lines, TOP_OF_ATMOSPHERE, sensor, source)


def _own(read: Mapping[str, Any], source: str) -> Calibration:
    sun = read.get("sun_elevation_deg")
    irradiance = read.get("solar_irradiance")
    lines = {}
    sensor = str(read.get("sensor", "")).lower()
    offsets = {_own_name(text, sensor): value for text, value in read.get("offset", {}).items()}
    for text, gain in read["gain"].items():
        offset = float(offsets.pop(_own_name(text, sensor), 0))
        scale = 1.0
        if irradiance is not None:
            day = date.fromisoformat(read["date"])
            scale = _from_radiance(float(irradiance[text]), float(read["sun_elevation_deg"]), day)
        elif sun is not None:
            scale = 1 / math.sin(math.radians(_elevation(float(sun))))
        lines[_own_name(text, sensor)] = (float(gain) * scale, offset * scale)
    if offsets:
        raise ValueError(f"offset names {', '.join(offsets)}, gain does not")
    unit = str(read.get("unit", TOP_OF_ATMOSPHERE))
    if unit not in (TOP_OF_ATMOSPHERE, SURFACE):
        raise ValueError(f"unit is '{unit}', expected '{TOP_OF_ATMOSPHERE}' or '{SURFACE}'")
    bad = [name for name, line in lines.items() if not line[0] > 0 or not _finite(line)]
    if bad or not lines:
        raise ValueError(f"gain must be above 0 and finite ({', '.join(bad) or 'no band'})")
    return Calibration(lines, unit, sensor, source)


def _own_name(text: str, sensor: str) -> str:
    return band_name(text, sensor if sensor in SENSORS else None)


def _finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _elevation(degrees: float) -> float:
    if not 0 < degrees <= 90:
        raise ValueError(f"the sun's elevation is {degrees:g} degrees, expected above 0 up to 90")
    return degrees


def _from_radiance(irradiance: float, sun_elevation_deg: float, day: date) -> float:
    """Reflectance of a radiance of 1: ``pi d^2 / (E sin h)``."""
    sine = math.sin(math.radians(_elevation(sun_elevation_deg)))
    return math.pi * sun_distance_au(day) ** 2 / (irradiance * sine)


def sun_distance_au(day: date) -> float:
    """Distance of the sun (astronomical units) on a day, at noon.

    Source: US Naval Observatory, in Radiometric Use of WorldView-3 Imagery (2016), eq. 4.
    """
    # Days since noon of 2000-01-01.
    days = day.toordinal() - date(2000, 1, 1).toordinal()
    anomaly = math.radians(357.529 + 0.98560028 * days)
    return 1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly)
