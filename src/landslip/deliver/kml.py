"""Landslides for Google Earth and other viewers of KML.

Written without GDAL: its drivers call landslides by their place in the file, not by their id.

Source: OGC KML 2.2, 07-147r2 (Placemark, ExtendedData, Polygon).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import shapely
from shapely.geometry.polygon import orient

from landslip.inventory.geopackage import BY_CLASS

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

DECIMALS = 7
"""Of degrees: 1 cm."""
SCHEMA = "landslides"


def write_kml(frame: gpd.GeoDataFrame, path: Path, *, title: str) -> None:
    """Write landslides as placemarks `Landslide ID`, coloured by class of probability.

    Args:
        frame: Landslides in longitude and latitude, with `id`; it becomes `landslide_id`, because
            readers take `id` for that of the placemark.
        path: File to write.
        title: Name of the document.
    """
    columns = {name: name for name in frame.columns if name != frame.geometry.name}
    columns["id"] = "landslide_id"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        file.write('<kml xmlns="http://www.opengis.net/kml/2.2">\n<Document>\n')
        file.write(f"<name>{escape(title)}</name>\n")
        file.writelines(_styles())
        file.write(f'<Schema name="{SCHEMA}" id="{SCHEMA}">\n')
        for name, told in columns.items():
            file.write(f'<SimpleField name={quoteattr(told)} type="{_kind(frame[name])}"/>\n')
        # Without a folder, readers find no layer in a file without placemarks.
        file.write(f'</Schema>\n<Folder id="{SCHEMA}-all">\n<name>{SCHEMA}</name>\n')
        rows = frame[list(columns)].rename(columns=columns).to_dict("records")
        for row, shape in zip(rows, frame.geometry, strict=True):
            file.writelines(_placemark(row, shape))
        file.write("</Folder>\n</Document>\n</kml>\n")


def _styles() -> Iterator[str]:
    colours = {name: style.colour for name, style in BY_CLASS.items()}
    for name, (red, green, blue) in {"": (189, 0, 38), **colours}.items():
        colour = f"{blue:02x}{green:02x}{red:02x}"
        yield (
            f'<Style id="class{name}"><LineStyle><color>ff{colour}</color><width>1.5</width>'
            f"</LineStyle><PolyStyle><color>66{colour}</color></PolyStyle></Style>\n"
        )


def _kind(values: pd.Series[Any]) -> str:
    import pandas as pd

    if pd.api.types.is_bool_dtype(values.dtype):
        return "bool"
    if pd.api.types.is_integer_dtype(values.dtype):
        return "int"
    return "double" if pd.api.types.is_float_dtype(values.dtype) else "string"


def _placemark(row: dict[Any, Any], shape: shapely.Geometry) -> Iterator[str]:
    import pandas as pd

    number, own = row["landslide_id"], row.get("probability_class")
    style = f"class{own}" if own in BY_CLASS else "class"
    known = "" if pd.isna(number) else f' id="landslide-{number}"'
    yield f"<Placemark{known}>\n<name>Landslide {'' if pd.isna(number) else number}</name>\n"
    yield f'<styleUrl>#{style}</styleUrl>\n<ExtendedData><SchemaData schemaUrl="#{SCHEMA}">\n'
    for name, value in row.items():
        if not pd.isna(value):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield f"<SimpleData name={quoteattr(name)}>{escape(_printable(text))}</SimpleData>\n"
    yield "</SchemaData></ExtendedData>\n<MultiGeometry>\n"
    for part in shapely.get_parts(shape):
        yield "<Polygon>"
        turned = orient(part)
        yield f"<outerBoundaryIs>{_ring(turned.exterior)}</outerBoundaryIs>"
        for hole in turned.interiors:
            yield f"<innerBoundaryIs>{_ring(hole)}</innerBoundaryIs>"
        yield "</Polygon>\n"
    yield "</MultiGeometry>\n</Placemark>\n"


def _ring(ring: shapely.LinearRing) -> str:
    points = " ".join(
        f"{lon:.{DECIMALS}f},{lat:.{DECIMALS}f}"
        for lon, lat in shapely.get_coordinates(ring).tolist()
    )
    return f"<LinearRing><coordinates>{points}</coordinates></LinearRing>"


def _printable(text: str) -> str:
    """Without characters that XML does not know."""
    return "".join(each for each in text if each in "\t\n\r" or each >= " ")
