"""The event that moved the slopes, as `event.toml` describes it."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from landslip.geo.errors import DataError

TRIGGERS = {
    "rainfall": "rain",
    "snowmelt": "snowfall_snowmelt",
    "volcanic": "volcano",
    "human": "other",
    **{
        name: name
        for name in (
            "construction", "continuous_rain", "dam_embankment_collapse", "downpour", "earthquake",
            "flooding", "freeze_thaw", "leaking_pipe", "mining", "monsoon", "no_apparent_trigger",
            "other", "rain", "snowfall_snowmelt", "tropical_cyclone", "unknown", "vibration",
            "volcano",
        )
    },
}  # fmt: skip
"""What may set slopes in motion: words of NASA's Global Landslide Catalog, and plainer ones; with
the catalogue's word for each.

Source: values of `landslide_trigger` in the Global Landslide Catalog (Kirschbaum et al. 2010,
    Natural Hazards 52; Juang, Stanley, Kirschbaum 2019, PLoS ONE 14(7)) and in the COOLR viewer.
"""
PHASES = ("pre", "post")
PRODUCTS = {"FEP": "First Estimate", "DEL": "Delineation", "GRA": "Grading"}
"""Products of Copernicus EMS Rapid Mapping that hold observed events, and their `map_type`."""
MOVEMENTS = ("Landslide", "Mudflow", "Debris, Rockfall", "Subsidence", "Avalanche")
"""Subtypes of mass movement of Copernicus EMS Rapid Mapping."""
METHODS = (
    "Photo-interpretation", "Semi-automatic extraction", "Automatic extraction", "Modelling",
)  # fmt: skip
"""Determination methods of Copernicus EMS Rapid Mapping."""
CATEGORIES = (
    "landslide", "mudslide", "debris_flow", "rock_fall", "translational_slide", "rotational_slide",
    "complex", "creep", "earth_flow", "lahar", "riverbank_collapse", "snow_avalanche", "topple",
    "other", "unknown",
)  # fmt: skip
"""Values of `landslide_category` in the Global Landslide Catalog."""
ACCURACIES = (
    "exact", "1km", "5km", "10km", "25km", "50km", "100km", "250km", "unknown",
)  # fmt: skip
"""Values of `location_accuracy` there."""
SIZES = ("small", "medium", "large", "very_large", "catastrophic", "unknown")
"""Values of `landslide_size` there."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that landslides were mapped from, or compared with."""

    name: str
    """Satellite or mission."""
    id: str = ""
    """What its provider calls it."""
    date: datetime.date | None = None
    time: datetime.time | None = None
    """When it was taken (UTC)."""
    resolution_m: float | None = None
    """Pixel size (m)."""
    phase: str = "post"
    """`pre` or `post`: before or after the event."""
    scene: str = ""
    """What the column `scene` of the inventory calls it; needed with several scenes."""


@dataclass(frozen=True, kw_only=True)
class Cems:
    """What a package of Copernicus EMS Rapid Mapping needs to know."""

    activation: str = ""
    """EMSRnnn."""
    aoi: int | None = None
    """Number of the area of interest."""
    product: str = "DEL"
    """FEP (first estimate), DEL (delineation) or GRA (grading)."""
    monitoring: int = 0
    """Number of the monitoring product; 0: none."""
    release: int | None = None
    """Number that names of files had until 2023 (_rN)."""
    version: int = 1
    locality: str = ""
    """Name of the area of interest."""
    glide: str = ""
    """GLIDE number of the disaster."""
    obj_desc: str = "Landslide"
    """One of `MOVEMENTS`."""
    det_method: str = ""
    """One of `METHODS`; empty: by the review of each landslide."""
    notation: str = ""
    """Comment for all landslides; empty: their ids."""


@dataclass(frozen=True, kw_only=True)
class Coolr:
    """What NASA's landslide repository asks for."""

    source_link: str = ""
    event_time: str = ""
    description: str = ""
    location_accuracy: str = "exact"
    landslide_category: str = "landslide"
    landslide_setting: str = ""
    storm_name: str = ""
    photo_link: str = ""
    country_code: str = ""
    """Two letters (ISO 3166-1)."""
    sizes_from_m2: tuple[tuple[str, float], ...] = ()
    """Size classes and the area (m2) from which each holds, rising; empty: sizes are unknown."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event, who mapped it, and from which images. Empty: not given."""

    name: str
    code: str = ""
    date_from: datetime.date | None = None
    date_to: datetime.date | None = None
    trigger: str = ""
    """One of `TRIGGERS`."""
    country: str = ""
    place: str = ""
    aoi: Path | None = None
    """Polygons of the area of interest."""
    author: str = ""
    licence: str = ""
    images: tuple[Image, ...] = ()
    cems: Cems = Cems()
    coolr: Coolr = Coolr()

    def columns(self) -> dict[str, str]:
        """Columns of an inventory, the same for all landslides; only those that are given."""
        texts = {
            "event_name": self.name,
            "event_code": self.code,
            "event_date_from": self.date_from.isoformat() if self.date_from else "",
            "event_date_to": self.date_to.isoformat() if self.date_to else "",
            "trigger": self.trigger,
            "author": self.author,
            "licence": self.licence,
        }
        return {name: text for name, text in texts.items() if text}

    def given(self) -> dict[str, object]:
        """Values that are not empty, by their key in event.toml (`cems.activation`)."""
        found: dict[str, object] = {}
        for prefix, part in (("", self), ("cems.", self.cems), ("coolr.", self.coolr)):
            for field in fields(part):
                value = getattr(part, field.name)
                if value not in ("", None, ()) and not isinstance(value, Cems | Coolr):
                    found[prefix + field.name] = value
        return found


def read_event(path: str | Path) -> Event:
    """Read event.toml.

    Args:
        path: A TOML file; paths in it are relative to its folder.

    Raises:
        DataError: No such file, no TOML, an unknown key, or a value that cannot be.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"Cannot read {path}: {(error.strerror or str(error)).lower()}. Name the event.toml of "
            "the event."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read {path}: it is no TOML in UTF-8 ({error}). Correct that place."
        ) from error
    table = _Table(path, content)
    table.refuse_unknown(Event)
    begin, end = table.date("date_from"), table.date("date_to")
    if end is not None and (begin is None or end < begin):
        raise DataError(
            f"Cannot read {path}: date_to is {end}, date_from is {begin or 'not given'}. "
            "Give the first day as date_from and the last as date_to."
        )
    return Event(
        name=table.text("name", needed=True),
        code=table.text("code"),
        date_from=begin,
        date_to=end,
        trigger=table.choice("trigger", TRIGGERS),
        country=table.text("country"),
        place=table.text("place"),
        aoi=table.file("aoi"),
        author=table.text("author"),
        licence=table.text("licence"),
        images=tuple(_image(each) for each in table.tables("images")),
        cems=_cems(table.table("cems")),
        coolr=_coolr(table.table("coolr")),
    )


def _image(table: _Table) -> Image:
    table.refuse_unknown(Image)
    return Image(
        name=table.text("name", needed=True),
        id=table.text("id"),
        date=table.date("date"),
        time=table.time("time"),
        resolution_m=table.number("resolution_m"),
        phase=table.choice("phase", PHASES) or "post",
        scene=table.text("scene"),
    )


def _cems(table: _Table) -> Cems:
    table.refuse_unknown(Cems)
    activation = table.text("activation")
    if activation and not re.fullmatch(r"EMSR\d{3,}", activation):
        table.refuse("activation", "EMSR and its number (EMSR123)")
    return Cems(
        activation=activation,
        aoi=table.whole("aoi", least=1),
        product=table.choice("product", PRODUCTS) or "DEL",
        monitoring=table.whole("monitoring", least=0) or 0,
        release=table.whole("release", least=1),
        version=table.whole("version", least=1) or 1,
        locality=table.text("locality"),
        glide=table.text("glide"),
        obj_desc=table.choice("obj_desc", MOVEMENTS) or "Landslide",
        det_method=table.choice("det_method", METHODS),
        notation=table.text("notation"),
    )


def _coolr(table: _Table) -> Coolr:
    table.refuse_unknown(Coolr)
    code = table.text("country_code")
    if code and not re.fullmatch("[A-Z]{2}", code):
        table.refuse("country_code", "two letters (ISO 3166-1)")
    return Coolr(
        source_link=table.text("source_link"),
        event_time=table.text("event_time"),
        description=table.text("description"),
        location_accuracy=table.choice("location_accuracy", ACCURACIES) or "exact",
        landslide_category=table.choice("landslide_category", CATEGORIES) or "landslide",
        landslide_setting=table.text("landslide_setting"),
        storm_name=table.text("storm_name"),
        photo_link=table.text("photo_link"),
        country_code=code,
        sizes_from_m2=_sizes(table),
    )


def _sizes(table: _Table) -> tuple[tuple[str, float], ...]:
    limits = table.table("sizes_from_m2")
    limits.refuse_unknown(SIZES)
    sizes = [(name, limits.number(name)) for name in SIZES if name in limits.values]
    found = [(name, value) for name, value in sizes if value is not None]
    areas = [value for _, value in found]
    if areas != sorted(set(areas)):
        table.refuse("sizes_from_m2", "areas (m2) that rise from small to catastrophic")
    return tuple(found)


class _Table:
    """Values of a table of the file, each checked when it is asked for."""

    def __init__(self, path: Path, values: dict[str, Any], prefix: str = "") -> None:
        self.values = values
        self._path = path
        self._prefix = prefix

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise DataError: a value cannot be."""
        raise DataError(
            f"Cannot read {self._path}: {self._prefix}{key} is {_shown(self.values.get(key))}, "
            f"expected {expected}. Correct it."
        )

    def refuse_unknown(self, known: type | Iterable[str]) -> None:
        """Raise DataError where keys are not known: fields of a dataclass, or names."""
        names = [f.name for f in fields(known)] if isinstance(known, type) else list(known)
        unknown = [key for key in self.values if key not in names]
        if unknown:
            near = get_close_matches(unknown[0], names, n=2) or names
            raise DataError(
                f"Cannot read {self._path}: it has the key {self._prefix}{unknown[0]}, which is "
                f"not known; similar ones are {', '.join(self._prefix + name for name in near)}. "
                "Correct or remove it."
            )

    def text(self, key: str, *, needed: bool = False) -> str:
        """A text; empty where it is not given."""
        value = self.values.get(key, "")
        if not isinstance(value, str):
            self.refuse(key, 'a text ("...")')
        if needed and not value.strip():
            raise DataError(
                f"Cannot read {self._path}: {self._prefix}{key} is missing. Add it to the file."
            )
        return str(value).strip()

    def choice(self, key: str, known: Iterable[str]) -> str:
        """One of some texts; empty where it is not given."""
        value, names = self.text(key), list(known)
        if value and value not in names:
            near = get_close_matches(value, names, n=1)
            self.refuse(
                key, f"one of {'; '.join(names)}" + (f" (perhaps {near[0]})" if near else "")
            )
        return value

    def date(self, key: str) -> datetime.date | None:
        """A day."""
        value = self.values.get(key)
        if isinstance(value, str):
            try:
                value = datetime.date.fromisoformat(value)
            except ValueError:
                self.refuse(key, "a date (2018-09-06)")
        # A date with a time is a date too, for Python.
        if value is not None and type(value) is not datetime.date:
            self.refuse(key, "a date without time (2018-09-06)")
        return value

    def time(self, key: str) -> datetime.time | None:
        """A time of the day."""
        value = self.values.get(key)
        if isinstance(value, str):
            try:
                value = datetime.time.fromisoformat(value)
            except ValueError:
                self.refuse(key, "a time in UTC (01:20:00)")
        if value is not None and (not isinstance(value, datetime.time) or value.tzinfo is not None):
            self.refuse(key, "a time in UTC, without zone (01:20:00)")
        return value

    def number(self, key: str) -> float | None:
        """A number from 0 on."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            self.refuse(key, "a number from 0 on")
        return float(value)

    def whole(self, key: str, *, least: int) -> int | None:
        """A whole number."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, f"a whole number from {least} on")
        return int(value)

    def file(self, key: str) -> Path | None:
        """A file that exists."""
        value = self.text(key)
        if not value:
            return None
        found = self._path.parent / value
        if not found.is_file():
            self.refuse(key, f"a file, and there is no {found}")
        return found

    def table(self, key: str) -> _Table:
        """A table below; empty where it is not given."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.refuse(key, f"a table ([{self._prefix}{key}])")
        return _Table(self._path, value, f"{self._prefix}{key}.")

    def tables(self, key: str) -> list[_Table]:
        """Tables below."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.refuse(key, f"tables ([[{key}]])")
        return [_Table(self._path, each, f"{key}.") for each in value]


def _shown(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime.date) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
