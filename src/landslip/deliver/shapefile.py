"""Shapefiles, with what they cannot hold made to fit and told.

Source: Esri 1998, *ESRI Shapefile Technical Description*; dBASE III+ (names of 10, texts of 254
    bytes).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SHORT = {
    "compactness": "compact",
    "elevation_crown_m": "elev_crown",
    "elevation_toe_m": "elev_toe",
    "event_date_from": "event_from",
    "event_date_to": "event_to",
    "height_length_ratio": "h_l_ratio",
    "length_width_ratio": "len_width",
    "ndvi_change": "ndvi_chg",
    "orientation_deg": "orient_deg",
    "perimeter_m": "perim_m",
    "pixel_size_m": "pixel_m",
    "probability_class": "prob_class",
    "probability_max": "prob_max",
    "probability_mean": "prob_mean",
    "probability_p10": "prob_p10",
    "slope_max_deg": "slope_max",
    "slope_mean_deg": "slope_mean",
    "touches_edge": "at_edge",
    "touches_unobserved": "at_unobs",
    "travel_angle_deg": "travel_deg",
}
"""Names in shapefiles of columns whose own is longer than 10 characters."""
NAME_LENGTH = 10
TEXT_BYTES = 254
LIMIT_BYTES = 2**31
"""Larger files are not read by many programs (bytes)."""
FIELDS_FILE = "fields.csv"


def short_names(columns: Sequence[str]) -> dict[str, str]:
    """Names of at most 10 characters, each once whatever its case.

    Names in `SHORT` are taken from there; `distance_to_NAME_m` becomes `d_NAME`; others are cut,
    and numbered where two would be equal.
    """
    found: dict[str, str] = {}
    taken = {name.lower() for name in columns if len(name.encode()) <= NAME_LENGTH}
    for name in columns:
        if len(name.encode()) <= NAME_LENGTH:
            found[name] = name
            continue
        wanted = SHORT.get(name, name)
        if name.startswith("distance_to_"):
            wanted = "d_" + name.removeprefix("distance_to_").removesuffix("_m")
        number, short = 1, _cut(wanted, NAME_LENGTH)
        while short.lower() in taken:
            number += 1
            short = _cut(wanted, NAME_LENGTH - len(str(number))) + str(number)
        taken.add(short.lower())
        found[name] = short
    return found


def write_shapefile(frame: pd.DataFrame, path: Path, names: Mapping[str, str]) -> list[str]:
    """Write a shapefile, or a table (.dbf) where there is no geometry.

    Args:
        frame: What to write.
        path: The .shp, or .dbf.
        names: Name in the file by name of the column.

    Returns:
        What did not fit, for people.
    """
    import geopandas as gpd
    import pyogrio

    fitted, notes = _fitted(frame, path.stem)
    has_shapes = isinstance(frame, gpd.GeoDataFrame)
    kind = {"geometry_type": "MultiPolygon", "promote_to_multi": True} if has_shapes else {}
    pyogrio.write_dataframe(
        fitted.rename(columns=dict(names)), path, driver="ESRI Shapefile", ENCODING="UTF-8", **kind
    )
    for part in (path.with_suffix(".shp"), path.with_suffix(".dbf")):
        if part.exists() and part.stat().st_size > LIMIT_BYTES:
            notes.append(
                f"{part.name} holds {part.stat().st_size / 1e9:.1f} GB, and many programs read no "
                "shapefile above 2 GB: deliver a GeoPackage"
            )
    return notes


def write_names(path: Path, names: Mapping[str, Mapping[str, str]]) -> None:
    """Write which column each field of the shapefiles holds.

    Args:
        path: CSV to write.
        names: By layer: name in the file by name of the column.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "field", "column"])
        for layer, of_layer in names.items():
            writer.writerows([layer, short, name] for name, short in of_layer.items())


def _fitted(frame: pd.DataFrame, layer: str) -> tuple[pd.DataFrame, list[str]]:
    """Truth values as 0 and 1, times as text, texts cut."""
    import pandas as pd

    frame, notes = frame.copy(), []
    for name in frame.columns:
        values = frame[name]
        if str(values.dtype) == "geometry":
            continue
        if pd.api.types.is_bool_dtype(values.dtype):
            frame[name] = values.astype("Int32")
        elif pd.api.types.is_datetime64_any_dtype(values.dtype):
            frame[name] = values.dt.strftime("%Y-%m-%dT%H:%M:%S")
        elif not pd.api.types.is_numeric_dtype(values.dtype):
            texts = [None if pd.isna(each) else str(each) for each in values]
            cut = [None if text is None else _cut(text, TEXT_BYTES) for text in texts]
            frame[name] = pd.Series(cut, index=frame.index, dtype=object)
            number = sum(before != after for before, after in zip(texts, cut, strict=True))
            if number:
                notes.append(f"{layer}: {name} was cut to {TEXT_BYTES} bytes in {number} rows")
    return frame, notes


def _cut(text: str, length: int) -> str:
    """The beginning of a text that takes at most some bytes in UTF-8."""
    return text.encode()[:length].decode(errors="ignore")
