"""Styles for QGIS: colours and words of classes, beside a raster or inside a GeoPackage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from landslip.geo.inventory import date_written, fixed_date

HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


@dataclass(frozen=True)
class ClassStyle:
    """How one class is shown."""

    words: str
    """In the legend."""
    colour: tuple[int, int, int]
    """Red, green, blue, 0 to 255."""


def raster_style(classes: Mapping[int, ClassStyle]) -> str:
    """The text of a `.qml` file for a raster of classes."""
    entries = "\n".join(
        f'<paletteEntry value="{value}" color="{_hex(style.colour)}" alpha="255" '
        f"label={quoteattr(style.words)}/>"
        for value, style in classes.items()
    )
    return (
        f'{HEAD}<qgis version="3.28" styleCategories="Symbology">\n<pipe>\n'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n'
        f"<colorPalette>\n{entries}\n</colorPalette>\n</rasterrenderer>\n</pipe>\n</qgis>\n"
    )


def ramp_style(stops: Mapping[float, tuple[int, int, int, int]]) -> str:
    """The text of a `.qml` file for a raster of numbers, coloured between some of them.

    Args:
        stops: Red, green, blue and opacity, 0 to 255 each, by value, rising.
    """
    least, most = min(stops), max(stops)
    items = "\n".join(
        f'<item value="{value:g}" label="{value:g}" color="{_hex((red, green, blue))}" '
        f'alpha="{alpha}"/>'
        for value, (red, green, blue, alpha) in stops.items()
    )
    return (
        f'{HEAD}<qgis version="3.28" styleCategories="Symbology">\n<pipe>\n'
        '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
        f'nodataColor="" classificationMin="{least:g}" classificationMax="{most:g}">\n'
        '<rastershader>\n<colorrampshader colorRampType="INTERPOLATED" classificationMode="1" '
        f'clip="0" minimumValue="{least:g}" maximumValue="{most:g}">\n{items}\n'
        "</colorrampshader>\n</rastershader>\n</rasterrenderer>\n</pipe>\n</qgis>\n"
    )


def polygon_style(attribute: str, classes: Mapping[str, ClassStyle]) -> str:
    """The QML of a layer of polygons that shows the classes of an attribute.

    Args:
        attribute: Field that holds the class.
        classes: By value of the field.
    """
    categories, symbols = [], []
    for number, (value, style) in enumerate(classes.items()):
        categories.append(
            f'<category type="string" value={quoteattr(value)} label={quoteattr(style.words)} '
            f'symbol="{number}" render="true"/>'
        )
        red, green, blue = style.colour
        options = {
            "color": f"{red},{green},{blue},90",
            "outline_color": f"{red},{green},{blue},255",
            "outline_style": "solid",
            "outline_width": "0.46",
            "outline_width_unit": "MM",
            "style": "solid",
        }
        listed = "".join(
            f'<Option type="QString" name="{name}" value="{text}"/>'
            for name, text in options.items()
        )
        symbols.append(
            f'<symbol type="fill" name="{number}" alpha="1" clip_to_extent="1" force_rhr="0">'
            '<layer class="SimpleFill" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{listed}</Option></layer></symbol>'
        )
    between = "\n"
    return (
        f'{HEAD}<qgis version="3.28" styleCategories="Symbology">\n'
        f'<renderer-v2 type="categorizedSymbol" attr={quoteattr(attribute)} symbollevels="0" '
        f'forceraster="0" enableorderby="0">\n'
        f"<categories>\n{between.join(categories)}\n</categories>\n"
        f"<symbols>\n{between.join(symbols)}\n</symbols>\n</renderer-v2>\n</qgis>\n"
    )


def add_styles(
    path: Path, styles: Mapping[str, Mapping[str, str]], *, date: str | None = None
) -> None:
    """Put styles into a GeoPackage, where QGIS takes them up with the layers.

    Args:
        path: GeoPackage that holds the layers.
        styles: QML by layer and by its name for people; the first of a layer is its default.
        date: As for `write_layers`.
    """
    import pandas as pd
    import pyogrio

    rows = pd.DataFrame(
        [
            {
                "f_table_catalog": "",
                "f_table_schema": "",
                "f_table_name": layer,
                "f_geometry_column": "geom",
                "styleName": name,
                "styleQML": qml,
                "styleSLD": "",
                "useAsDefault": number == 0,
                "description": "landslip",
                "owner": "",
                "ui": "",
                # QGIS asks for it, and without it takes no style at all.
                "update_time": pd.Timestamp(date_written(date)).tz_localize(None),
            }
            for layer, of_layer in styles.items()
            for number, (name, qml) in enumerate(of_layer.items())
        ]
    )
    with fixed_date(date):
        pyogrio.write_dataframe(rows, path, layer="layer_styles", driver="GPKG", FID="id")


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
