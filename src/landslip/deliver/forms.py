"""Files that inventories are delivered in: GeoPackage, GeoJSON, GeoParquet, KML, shapefile."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from landslip.deliver.kml import write_kml
from landslip.deliver.reading import Deliverable
from landslip.deliver.shapefile import FIELDS_FILE, short_names, write_names, write_shapefile
from landslip.geo.errors import InventoryError, MissingExtraError, UsageError
from landslip.geo.inventory import LAYER, write_layers
from landslip.geo.styles import add_styles

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

SUFFIXES = {
    "gpkg": (".gpkg",),
    "geojson": (".geojson", ".json"),
    "parquet": (".parquet",),
    "kml": (".kml",),
    "shp": ("",),
}
"""How outputs of each form end, without a schema; shapefiles are a folder."""
LONLAT = "EPSG:4326"
DECIMALS = 7
"""Of degrees in GeoJSON: 1 cm. Source: RFC 7946, section 11.2."""


def require_form(form: str, out: Path) -> None:
    """Raise where a form cannot be written.

    Raises:
        UsageError: `out` ends as another form does.
        MissingExtraError: GeoParquet without pyarrow.
    """
    endings = SUFFIXES[form]
    if out.suffix.lower() not in endings:
        wanted = (
            "it is a folder, because a shapefile is several files"
            if form == "shp"
            else f"{form} files end in {' or '.join(endings)}"
        )
        raise UsageError(f"Cannot write {out} as {form}: {wanted}. Name such an output.")
    if form == "parquet":
        require_parquet()


def require_parquet() -> None:
    """Raise MissingExtraError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise MissingExtraError(
            "Cannot write GeoParquet: pyarrow is not installed. "
            "Install it with pip install 'landslip[parquet]'."
        )


def in_lonlat(frame: gpd.GeoDataFrame, what: str) -> gpd.GeoDataFrame:
    """A layer in longitude and latitude.

    Raises:
        InventoryError: It has no CRS, or lies outside the range of it.
    """
    if frame.crs is None:
        raise InventoryError(
            f"Cannot deliver {what}: it has no coordinate reference system, and longitude and "
            "latitude are asked for. Assign one (ogr2ogr -a_srs)."
        )
    placed = frame.to_crs(LONLAT)
    if len(placed) and not np.isfinite(placed.total_bounds).all():
        raise InventoryError(
            f"Cannot deliver {what}: its coordinates lie outside the range of its CRS "
            f"({frame.crs.to_string()}). Assign the CRS that they are in (ogr2ogr -a_srs)."
        )
    return placed


def write_file(form: str, source: Deliverable, path: Path) -> list[str]:
    """Write an inventory into one file: a GeoPackage with what was observed, others without."""
    landslides, what = source.landslides, str(source.path)
    if form == "gpkg":
        write_layers(path, {LAYER: landslides, **source.ground})
        if source.styles:
            add_styles(path, source.styles)
    elif form == "geojson":
        write_geojson(in_lonlat(landslides, what), path, layer=LAYER, number="id")
    elif form == "parquet":
        landslides.to_parquet(path, index=False)
    else:
        title = next(iter(landslides.get("event_name", ())), LAYER)
        write_kml(in_lonlat(landslides, what), path, title=str(title))
    return []


def write_folder(source: Deliverable, folder: Path) -> list[str]:
    """Write shapefiles of an inventory and of what was observed, and what their fields are."""
    layers: Mapping[str, gpd.GeoDataFrame] = {LAYER: source.landslides, **source.ground}
    notes, names = [], {}
    for layer, frame in layers.items():
        names[layer] = short_names([name for name in frame if name != frame.geometry.name])
        notes += write_shapefile(frame, folder / f"{layer}.shp", names[layer])
    write_names(folder / FIELDS_FILE, names)
    return notes


def write_geojson(frame: pd.DataFrame, path: Path, *, layer: str, number: str = "") -> None:
    """Write GeoJSON as of RFC 7946: right-handed, 7 decimals.

    Args:
        frame: In longitude and latitude; without geometry, features have none.
        path: File to write.
        layer: Its name.
        number: Column that is the id of the features, besides being a property; empty: none.
    """
    import geopandas as gpd
    import pyogrio

    options: dict[str, object] = {}
    # GDAL would number features without an id 0.
    if number and frame[number].notna().all():
        # It takes the column out of the properties.
        frame = frame.assign(_feature=frame[number])
        options["ID_FIELD"] = "_feature"
    if isinstance(frame, gpd.GeoDataFrame):
        options |= {"RFC7946": "YES", "COORDINATE_PRECISION": DECIMALS}
        options |= {"geometry_type": "MultiPolygon", "promote_to_multi": True}
    pyogrio.write_dataframe(frame, path, layer=layer, driver="GeoJSON", **options)
