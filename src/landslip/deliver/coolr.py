"""An inventory as NASA's landslide repository COOLR writes it.

Source: see `schemas`. What NASA does not state is told in docs/delivery.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.crs import CRS

from landslip.deliver.forms import in_lonlat, write_geojson
from landslip.deliver.reading import Deliverable
from landslip.deliver.schemas import COOLR, filled
from landslip.deliver.shapefile import FIELDS_FILE, write_names, write_shapefile
from landslip.geo.inventory import areas_m2, write_layers
from landslip.inventory.event import TRIGGERS, Event

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

FORMS = ("geojson", "gpkg", "shp")
LAYER = "coolr"
POINTS_FILE = "coolr_points.csv"


def build_catalogue(source: Deliverable, event: Event) -> tuple[gpd.GeoDataFrame, list[str]]:
    """Landslides with the columns of the catalogue, in longitude and latitude.

    Returns:
        The polygons; and what is missing.

    Raises:
        InventoryError: The inventory has no CRS.
    """
    import geopandas as gpd

    landslides = in_lonlat(source.landslides, str(source.path))
    crs = CRS.from_user_input(source.landslides.crs)
    areas = areas_m2(source.landslides.geometry.to_numpy(), crs)
    points = shapely.point_on_surface(np.asarray(landslides.geometry))
    derived = {
        "notes": _notes(source, event, areas),
        "longitude": np.round(shapely.get_x(points), 7),
        "latitude": np.round(shapely.get_y(points), 7),
    }
    table, missing = filled(
        COOLR, len(landslides), layer=LAYER, given=_given(event, areas), derived=derived,
        inventory=landslides,
    )  # fmt: skip
    return gpd.GeoDataFrame(table, geometry=list(landslides.geometry), crs=landslides.crs), missing


def write_catalogue(polygons: gpd.GeoDataFrame, form: str, folder: Path) -> list[str]:
    """Write points as CSV, and polygons.

    Args:
        polygons: In longitude and latitude.
        form: Of the polygons, one of `FORMS`.
        folder: Where to write.

    Returns:
        What did not fit, for people.
    """
    points: pd.DataFrame = polygons.drop(columns="geometry")
    points.to_csv(folder / POINTS_FILE, index=False, lineterminator="\r\n")
    path = folder / f"coolr_polygons.{form}"
    if form == "geojson":
        write_geojson(polygons, path, layer=LAYER, number="event_import_id")
    elif form == "gpkg":
        write_layers(path, {LAYER: polygons})
    else:
        names = {field.name: field.short or field.name for field in COOLR}
        write_names(folder / FIELDS_FILE, {path.stem: names})
        return write_shapefile(polygons, path, names)
    return []


def _given(event: Event, areas: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Values of event.toml as the catalogue writes them."""
    found = dict(event.given())
    if event.date_from is not None:
        found["date_from"] = f"{event.date_from:%m/%d/%Y} 12:00:00 AM"
    if event.trigger:
        found["trigger"] = TRIGGERS[event.trigger]
    if event.coolr.sizes_from_m2:
        names, limits = zip(*event.coolr.sizes_from_m2, strict=True)
        at = np.searchsorted(limits, areas, side="right") - 1
        found["coolr.sizes_from_m2"] = [names[place] if place >= 0 else None for place in at]
    return found


def _notes(
    source: Deliverable, event: Event, areas: np.ndarray[Any, np.dtype[np.float64]]
) -> list[str]:
    """What the catalogue has no column for."""
    images = [
        f"{image.name} {image.date or ''}".strip()
        for image in event.images
        if image.phase == "post"
    ]
    same = [f"mapped from {', '.join(images)}"] if images else []
    if event.licence:
        same.append(f"licence {event.licence}")
    nothing = [None] * len(areas)
    probabilities = source.landslides.get("probability_mean", nothing)
    states = source.landslides.get("status", nothing)
    found = []
    for area, probability, status in zip(areas, probabilities, states, strict=True):
        own = [f"{area:.0f} m2"]
        if isinstance(probability, float) and np.isfinite(probability):
            own.append(f"probability {probability:.2f}")
        if isinstance(status, str) and status:
            own.append(status)
        found.append("; ".join(own + same))
    return found
