"""An inventory as the vector package of Copernicus EMS Rapid Mapping.

Source: see `schemas`. What the manual leaves open is told in docs/delivery.md.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip.deliver.forms import LONLAT, in_lonlat, write_geojson
from landslip.deliver.reading import NOT_OBSERVED, Deliverable
from landslip.deliver.schemas import CEMS, filled
from landslip.deliver.shapefile import short_names, write_shapefile
from landslip.geo.errors import InventoryError
from landslip.geo.inventory import OBSERVED, areas_m2, fixed_date, write_layers
from landslip.geo.scene import NODATA, REASONS, UNUSABLE
from landslip.inventory.event import PRODUCTS, Event, Image

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

FORMS = ("shp", "geojson", "gpkg")
SOURCE = "source"
REVIEWED = ("accepted", "edited")
NOT_ANALYSED = (REASONS[NODATA], REASONS[UNUSABLE])
"""Reasons of `not_observed` that say that nobody knows what lies there."""
FOOTPRINT = "Image Footprint"
HA_M2 = 10_000


@dataclass(frozen=True, eq=False)
class Package:
    """Layers of a vector package."""

    layers: dict[str, pd.DataFrame]
    """By name (`observedEventA`), in longitude and latitude; `source` has no geometry."""
    summary: list[tuple[str, str, str]]
    """What, unit and number."""
    notes: list[str]
    missing: list[str]
    """Mandatory values that nothing gives."""


def build_package(source: Deliverable, event: Event) -> Package:
    """All layers of a vector package, and what is missing in them.

    Raises:
        InventoryError: The inventory has no CRS, or the area of interest cannot be read.
    """
    landslides = in_lonlat(source.landslides, str(source.path))
    given = _given(event)
    images = event.images
    post = [number for number, image in enumerate(images, 1) if image.phase == "post"]
    area = _area_of_interest(source, event)
    footprints, kinds, numbers = _footprints(source, images, post, area)
    derived: dict[str, tuple[int, Mapping[str, Any]]] = {
        SOURCE: (max(len(images), 1), _sources(source, images)),
        "areaOfInterestA": (1, {}),
        "imageFootprintA": (len(kinds), {"obj_type": kinds, "or_src_id": numbers}),
        "observedEventA": (len(landslides), _events(source, images, post)),
    }
    shapes = {
        "areaOfInterestA": [area],
        "imageFootprintA": footprints,
        "observedEventA": list(landslides.geometry),
    }
    layers: dict[str, pd.DataFrame] = {}
    missing: list[str] = []
    for layer, (rows, values) in derived.items():
        table, gone = filled(CEMS[layer], rows, layer=layer, given=given, derived=values)
        missing += gone
        layers[layer] = _placed(table, shapes[layer]) if layer in shapes else table
    if area is None:
        missing.append("areaOfInterestA (aoi of event.toml, or layer observed)")
    if FOOTPRINT not in kinds:
        missing.append("imageFootprintA (layer observed)")
    pre = [image.name for image in images if image.phase == "pre"]
    notes = [f"imageFootprintA lacks {name}: what it covers is not known" for name in pre]
    return Package(layers, _summary(source, area), notes, missing)


def package_name(event: Event, layer: str = "") -> str:
    """Name of a file of a package, without its ending.

    Source: manual, *File naming*; without _rN as in packages from 2023 on, where no release is
        given.
    """
    cems = event.cems
    status = f"MONIT{cems.monitoring:02d}" if cems.monitoring else "PRODUCT"
    parts = (cems.activation, f"AOI{cems.aoi or 0:02d}", cems.product, status, layer)
    return "_".join(part for part in (*parts, _version(event)) if part)


def _version(event: Event) -> str:
    release = "" if event.cems.release is None else f"r{event.cems.release}_"
    return f"{release}v{event.cems.version}"


def write_package(package: Package, event: Event, form: str, folder: Path) -> list[str]:
    """Write the files of a package.

    Args:
        package: Nothing is missing in it.
        event: Gives the names.
        form: One of `FORMS`.
        folder: Where to write.

    Returns:
        What did not fit, for people.
    """
    notes = list(package.notes)
    for layer, frame in package.layers.items():
        path = folder / package_name(event, layer)
        if form == "gpkg":
            database = folder / f"{package_name(event)}.gpkg"
            _write_layer(database, f"{layer}_{_version(event)}", frame)
        elif form == "geojson":
            write_geojson(frame, path.with_name(f"{path.name}.json"), layer=path.name)
        else:
            ending = "dbf" if layer == SOURCE else "shp"
            names = short_names([name for name in frame if name != "geometry"])
            notes += write_shapefile(frame, path.with_name(f"{path.name}.{ending}"), names)
    table = folder / f"{package_name(event, 'summaryTable')}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("item", "unit", "value"), *package.summary])
    return notes


def _write_layer(path: Path, layer: str, frame: pd.DataFrame) -> None:
    import geopandas as gpd
    import pyogrio

    if isinstance(frame, gpd.GeoDataFrame):
        write_layers(path, {layer: frame})
        return
    with fixed_date(None):
        pyogrio.write_dataframe(frame, path, layer=layer, driver="GPKG", append=path.exists())


def _placed(table: pd.DataFrame, shapes: list[Any]) -> gpd.GeoDataFrame:
    import geopandas as gpd

    return gpd.GeoDataFrame(table, geometry=shapes, crs=LONLAT)


def _given(event: Event) -> dict[str, Any]:
    """Values of event.toml as the schema writes them."""
    images = event.images
    by_image = {
        "images.name": [image.name for image in images],
        "images.date": [f"{image.date:%d/%m/%Y}" if image.date else None for image in images],
        "images.time": [f"T{image.time:%H:%M:%S}Z" if image.time else None for image in images],
        "images.phase": [f"{image.phase.title()}-event" for image in images],
    }
    return {
        **event.given(),
        **{key: values for key, values in by_image.items() if values},
        "cems.aoi": None if event.cems.aoi is None else f"{event.cems.aoi:02d}",
        "cems.product": PRODUCTS[event.cems.product],
    }


def _sources(source: Deliverable, images: tuple[Image, ...]) -> dict[str, Any]:
    """Columns of the table of images that are computed."""
    sizes = source.landslides.get("pixel_size_m", np.zeros(0))
    mapped = float(sizes.iloc[0]) if len(set(sizes)) == 1 else None
    found = [image.resolution_m or (mapped if image.phase == "post" else None) for image in images]
    return {
        "sensor_gsd": [None if size is None else f"{size:g} m" for size in found] or None,
        "src_id": list(range(1, max(len(images), 1) + 1)),
    }


def _events(source: Deliverable, images: tuple[Image, ...], post: list[int]) -> dict[str, Any]:
    """Columns of the landslides that are computed."""
    landslides = source.landslides
    crs = None if landslides.crs is None else CRS.from_user_input(landslides.crs)
    status = landslides.get("status", np.full(len(landslides), ""))
    return {
        "det_method": ["Semi-automatic extraction" if s in REVIEWED else None for s in status],
        "notation": [f"id {number}" for number in landslides["id"]],
        "dmg_src_id": _image_numbers(landslides, images, post),
        "area": np.round(areas_m2(landslides.geometry.to_numpy(), crs) / HA_M2, 4),
    }


def _image_numbers(
    frame: pd.DataFrame, images: tuple[Image, ...], post: list[int]
) -> list[int | None]:
    """src_id of the image that each row was mapped from; None where that is not known."""
    if len(post) == 1:
        return [post[0]] * len(frame)
    by_scene = {images[number - 1].scene: number for number in post if images[number - 1].scene}
    return [by_scene.get(scene) for scene in frame.get("scene", [None] * len(frame))]


def _footprints(
    source: Deliverable, images: tuple[Image, ...], post: list[int], area: Any
) -> tuple[list[Any], list[str], list[int | None]]:
    """What was seen on each image, and what was not; with their kinds and src_ids."""
    shapes: list[Any] = []
    kinds: list[str] = []
    numbers: list[int | None] = []
    for layer, kind in ((OBSERVED, FOOTPRINT), (NOT_OBSERVED, "Not Analysed")):
        if layer not in source.ground:
            continue
        frame = in_lonlat(source.ground[layer], f"{layer} of {source.path}")
        if layer == NOT_OBSERVED:
            frame = frame[frame["reason"].isin(NOT_ANALYSED)].reset_index(drop=True)
        of_rows = np.array(_image_numbers(frame, images, post), dtype=object)
        for number in sorted(set(of_rows), key=str):
            chosen = np.asarray(frame.geometry[of_rows == number])
            united = shapely.union_all(_valid(chosen))
            if layer == NOT_OBSERVED and area is not None:
                united = _polygons(united & area)
            if not united.is_empty:
                shapes.append(united)
                kinds.append(kind)
                numbers.append(number)
    return shapes, kinds, numbers


def _area_of_interest(source: Deliverable, event: Event) -> Any:
    """What the event names, or the outline of what was observed; None without both."""
    import geopandas as gpd
    import pyogrio

    if event.aoi is None:
        if OBSERVED not in source.ground or source.ground[OBSERVED].empty:
            return None
        frame = in_lonlat(source.ground[OBSERVED], f"{OBSERVED} of {source.path}")
        united = shapely.union_all(_valid(np.asarray(frame.geometry)))
        outlines = [shapely.Polygon(part.exterior) for part in shapely.get_parts(united)]
        return shapely.union_all(outlines)
    try:
        frame = gpd.read_file(event.aoi, engine="pyogrio")
    except pyogrio.errors.DataSourceError as error:
        raise InventoryError(
            f"Cannot read the area of interest {event.aoi}: it is not a vector file that GDAL can "
            "read. Name another as aoi of event.toml."
        ) from error
    placed = in_lonlat(frame, f"the area of interest {event.aoi}")
    area = _polygons(shapely.union_all(_valid(np.asarray(placed.geometry))))
    if area.is_empty:
        raise InventoryError(
            f"Cannot use the area of interest {event.aoi}: it holds no polygons. Name another as "
            "aoi of event.toml."
        )
    return area


def _valid(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    return np.asarray(shapely.make_valid(shapes), dtype=object)


def _polygons(shape: Any) -> Any:
    """What of a shape is polygons."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.MultiPolygon([part for part in parts if part.geom_type == "Polygon"])


def _summary(source: Deliverable, area: Any) -> list[tuple[str, str, str]]:
    """Counts and areas of a package."""
    lonlat = CRS.from_user_input(LONLAT)

    def of_layer(frame: gpd.GeoDataFrame) -> float:
        crs = None if frame.crs is None else CRS.from_user_input(frame.crs)
        return float(areas_m2(frame.geometry.to_numpy(), crs).sum())

    rows = [
        ("landslides", "number", f"{len(source.landslides)}"),
        ("area of landslides", "ha", f"{of_layer(source.landslides) / HA_M2:.4f}"),
        ("rejected and left out", "number", f"{source.rejected}"),
    ]
    if OBSERVED in source.ground:
        rows.append(("observed", "km2", f"{of_layer(source.ground[OBSERVED]) / 1e6:.4f}"))
    if area is not None:
        square = float(areas_m2([area], lonlat).sum()) / 1e6
        rows.append(("area of interest", "km2", f"{square:.4f}"))
    return rows
