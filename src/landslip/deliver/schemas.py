"""What each delivery schema holds, column by column: the one table of it.

Source: Copernicus EMS Rapid Mapping, online manual, *Product overview*, *Vector package* (groups A,
    B, E) and *Related documents* (emergency.copernicus.eu/mapping/book/export/html/138123, 138257,
    262, 285, 130), which follows Joint Research Centre 2020, *Manual for CEMS Rapid Mapping
    Products*, JRC121741; columns of `areaOfInterestA` and `imageFootprintA`, and names from 2023
    on, after published packages (EMSR534, EMSR720, EMSR772, EMSR773, EMSR884, EMSR897, EMSR927).
    NASA COOLR: the export of the Global Landslide Catalog (data.nasa.gov, dd9e-wu2v) for names
    and their order, the shapefile of COOLR reports for the short names; Kirschbaum et al. 2010,
    Natural Hazards 52(3); Juang, Stanley, Kirschbaum 2019, PLoS ONE 14(7), e0218657.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column of a schema, and where its values come from: the first of these that has one."""

    name: str
    kind: str
    """`text`, `int` or `real`."""
    meaning: str
    key: str = ""
    """Of event.toml: the same value for all rows."""
    derived: str = ""
    """What it is computed from, in words."""
    column: str = ""
    """Of the inventory's layer `landslides`."""
    default: str | int | None = None
    mandatory: bool = False
    """Nothing is delivered where a value is missing."""
    length: int | None = None
    """Characters, where the schema states how many."""
    short: str = ""
    """Name in shapefiles, where `name` is longer than 10 characters."""

    @property
    def origin(self) -> str:
        """Where its values come from, for people."""
        found = [
            f"`{self.key}`" if self.key else "",
            self.derived,
            f"column `{self.column}`" if self.column else "",
            f"always `{self.default}`" if self._is_constant else "",
            f"else `{self.default}`" if self.default is not None and not self._is_constant else "",
        ]
        return ", ".join(text for text in found if text) or "empty"

    @property
    def _is_constant(self) -> bool:
        return self.default is not None and not (self.key or self.derived or self.column)

    @property
    def remedy(self) -> str:
        """What would give a value, for people."""
        ways = [f"{self.key} of event.toml" if self.key else "", self.derived]
        ways.append(f"column {self.column}" if self.column else "")
        return ", or ".join(way for way in ways if way)


SOURCE = (
    Field(name="source_nam", kind="text", key="images.name", mandatory=True,
          meaning="mission of the image"),
    Field(name="src_date", kind="text", length=10, key="images.date", mandatory=True,
          meaning="date of the image, dd/mm/yyyy"),
    Field(name="source_tm", kind="text", length=10, key="images.time",
          meaning="time of the image in UTC, Thh:mm:ssZ"),
    Field(name="sensor_gsd", kind="text", key="images.resolution_m", column="pixel_size_m",
          mandatory=True, meaning="pixel size, with unit (0.5 m)"),
    Field(name="eventphase", kind="text", key="images.phase", mandatory=True,
          meaning="Pre-event or Post-event"),
    Field(name="src_id", kind="int", derived="number of the image, from 1", mandatory=True,
          meaning="what or_src_id and dmg_src_id refer to"),
)  # fmt: skip
AREA_OF_INTEREST = (
    Field(name="emsr_id", kind="text", key="cems.activation", mandatory=True,
          meaning="activation"),
    Field(name="glide_no", kind="text", key="cems.glide", meaning="GLIDE number"),
    Field(name="area_id", kind="text", key="cems.aoi", mandatory=True,
          meaning="number of the area of interest, two digits"),
    Field(name="locality", kind="text", key="cems.locality", mandatory=True,
          meaning="name of the area of interest"),
    Field(name="map_type", kind="text", key="cems.product", mandatory=True,
          meaning="Delineation (DEL), Grading (GRA) or First Estimate (FEP)"),
)  # fmt: skip
IMAGE_FOOTPRINT = (
    Field(name="obj_type", kind="text", derived="layers `observed` and `not_observed`",
          mandatory=True, meaning="Image Footprint or Not Analysed"),
    Field(name="or_src_id", kind="int", key="images.scene", derived="src_id of the only image",
          mandatory=True, meaning="the image, src_id of the source table"),
)  # fmt: skip
OBSERVED_EVENT = (
    Field(name="event_type", kind="text", default="6-Mass Movement", mandatory=True,
          meaning="type of event"),
    Field(name="obj_desc", kind="text", key="cems.obj_desc", mandatory=True,
          meaning="Landslide, Mudflow, Debris, Rockfall, Subsidence or Avalanche"),
    Field(name="det_method", kind="text", key="cems.det_method",
          derived="Semi-automatic extraction where `status` is accepted or edited",
          default="Automatic extraction", mandatory=True,
          meaning="how the outline came about"),
    Field(name="notation", kind="text", key="cems.notation", derived="id of the landslide",
          meaning="comment"),
    Field(name="dmg_src_id", kind="int", key="images.scene", derived="src_id of the only image",
          mandatory=True, meaning="the image, src_id of the source table"),
    Field(name="area", kind="real", derived="true area of the polygon", mandatory=True,
          meaning="area (ha)"),
)  # fmt: skip
CEMS = {
    "source": SOURCE,
    "areaOfInterestA": AREA_OF_INTEREST,
    "imageFootprintA": IMAGE_FOOTPRINT,
    "observedEventA": OBSERVED_EVENT,
}
"""Columns by layer of a vector package."""
COOLR = (
    Field(name="source_name", kind="text", key="author", mandatory=True, short="src_name",
          meaning="who mapped it"),
    Field(name="source_link", kind="text", key="coolr.source_link", short="src_link",
          meaning="where it is published"),
    Field(name="event_id", kind="int", short="ev_id", meaning="number that NASA gives"),
    Field(name="event_date", kind="text", key="date_from", mandatory=True, short="ev_date",
          meaning="day of the event, mm/dd/yyyy 12:00:00 AM"),
    Field(name="event_time", kind="text", key="coolr.event_time", short="ev_time",
          meaning="time of the day"),
    Field(name="event_title", kind="text", key="name", mandatory=True, short="ev_title",
          meaning="name of the event"),
    Field(name="event_description", kind="text", key="coolr.description", short="ev_desc",
          meaning="what happened"),
    Field(name="location_description", kind="text", key="place", short="loc_desc",
          meaning="where"),
    Field(name="location_accuracy", kind="text", key="coolr.location_accuracy", mandatory=True,
          short="loc_accu", meaning="exact, or radius of confidence (1km ... 250km, unknown)"),
    Field(name="landslide_category", kind="text", key="coolr.landslide_category", mandatory=True,
          short="ls_cat", meaning="type of landslide"),
    Field(name="landslide_trigger", kind="text", key="trigger", mandatory=True, short="ls_trig",
          meaning="trigger, in the catalogue's words"),
    Field(name="landslide_size", kind="text", key="coolr.sizes_from_m2", default="unknown",
          mandatory=True, short="ls_size",
          meaning="small, medium, large, very_large, catastrophic or unknown"),
    Field(name="landslide_setting", kind="text", key="coolr.landslide_setting",
          default="unknown", short="ls_setting", meaning="above_road, natural_slope, urban ..."),
    Field(name="fatality_count", kind="int", short="fatalities", meaning="deaths"),
    Field(name="injury_count", kind="int", short="injuries", meaning="injured"),
    Field(name="storm_name", kind="text", key="coolr.storm_name", meaning="name of the storm"),
    Field(name="photo_link", kind="text", key="coolr.photo_link", meaning="photograph"),
    Field(name="notes", kind="text", derived="area, probability, review, image, licence",
          short="comments", meaning="comment"),
    Field(name="event_import_source", kind="text", key="code", default="landslip",
          short="ev_imp_src", meaning="inventory that it comes from"),
    Field(name="event_import_id", kind="int", column="id", mandatory=True, short="ev_imp_id",
          meaning="id in that inventory"),
    Field(name="country_name", kind="text", key="country", short="ctry_name",
          meaning="country"),
    Field(name="country_code", kind="text", key="coolr.country_code", length=2,
          short="ctry_code", meaning="country, ISO 3166-1"),
    Field(name="admin_division_name", kind="text", short="div_name",
          meaning="found by NASA from the position"),
    Field(name="admin_division_population", kind="int", short="div_pop",
          meaning="found by NASA from the position"),
    Field(name="gazeteer_closest_point", kind="text", short="gaz_point",
          meaning="found by NASA from the position"),
    Field(name="gazeteer_distance", kind="real", short="gaz_dist",
          meaning="found by NASA from the position"),
    Field(name="submitted_date", kind="text", short="sub_date", meaning="set by NASA"),
    Field(name="created_date", kind="text", short="add_date", meaning="set by NASA"),
    Field(name="last_edited_date", kind="text", short="edit_date", meaning="set by NASA"),
    Field(name="longitude", kind="real", derived="a point inside the polygon", mandatory=True,
          meaning="degrees, WGS 84"),
    Field(name="latitude", kind="real", derived="a point inside the polygon", mandatory=True,
          meaning="degrees, WGS 84"),
)  # fmt: skip
"""Columns of the Global Landslide Catalog, in its order."""
SCHEMAS = ("cems", "coolr")


def filled(
    schema: Sequence[Field],
    rows: int,
    *,
    layer: str,
    given: Mapping[str, Any],
    derived: Mapping[str, Any],
    inventory: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of one layer.

    Args:
        schema: Its columns.
        rows: How many it has.
        layer: Its name, for messages.
        given: Values of event.toml by key, as the schema wants them: one, or one a row.
        derived: Values by name of the column, as `given`; None and NaN where there is none.
        inventory: Rows of the inventory, where each gives one of this layer.

    Returns:
        The layer without geometry; and what is missing, for people.
    """
    import pandas as pd

    columns, missing = {}, []
    for field in schema:
        values = _values(field, rows, given, derived, inventory)
        columns[field.name] = values
        empty = int(values.isna().sum())
        # What the event gives is asked for even where there are no landslides.
        if not rows and field.key and given.get(field.key) is None and field.default is None:
            empty = 0 if field.derived or field.column else 1
        if field.mandatory and empty:
            where = "" if empty >= rows else f" in {empty} of {rows} rows"
            missing.append(f"{layer}.{field.name}{where} ({field.remedy})")
    return pd.DataFrame(columns, index=range(rows)), missing


def _values(
    field: Field,
    rows: int,
    given: Mapping[str, Any],
    derived: Mapping[str, Any],
    inventory: pd.DataFrame | None,
) -> pd.Series[Any]:
    import pandas as pd

    values = pd.Series([None] * rows, dtype=object)
    sources = [given.get(field.key) if field.key else None, derived.get(field.name)]
    if inventory is not None and field.column in inventory:
        sources.append(inventory[field.column].tolist())
    for source in (*sources, field.default):
        if source is None:
            continue
        each = [source] * rows if isinstance(source, str | int | float) else list(source)
        values = values.where(values.notna(), pd.Series(each, dtype=object))
    dtype = {"text": object, "int": "Int64", "real": "float64"}[field.kind]
    return values.where(values.notna(), None).astype(dtype)
