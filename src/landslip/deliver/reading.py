"""What there is to deliver: the layers of an inventory, without what was rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from landslip.geo.errors import InventoryError
from landslip.geo.inventory import LAYER, OBSERVED, has_status, layer_names

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

NOT_OBSERVED = "not_observed"
STYLES = "layer_styles"
"""Table of a GeoPackage that holds styles for QGIS."""


@dataclass(frozen=True, eq=False)
class Deliverable:
    """An inventory as others get it."""

    path: Path
    """The GeoPackage that it was read from."""
    landslides: gpd.GeoDataFrame
    """None of them rejected, none without a polygon."""
    ground: dict[str, gpd.GeoDataFrame]
    """Layers `observed` and `not_observed`, where the file has them."""
    styles: dict[str, dict[str, str]]
    """Styles for QGIS: QML by layer and name, the default first."""
    rejected: int
    """Landslides that were left out."""
    notes: tuple[str, ...]
    """What people should know before they send it."""


def read_deliverable(inventory: str | Path) -> Deliverable:
    """Read what there is to deliver.

    Args:
        inventory: Folder of a map, or a GeoPackage with the layer `landslides`.

    Raises:
        InventoryError: No such file, no such layer, or no numbers in its column `id`.
    """
    import pyogrio

    path = Path(inventory)
    if path.is_dir():
        path = path / "landslides.gpkg"
    if not path.exists():
        raise InventoryError(
            f"Cannot deliver {inventory}: there is no {path}. Name the folder of a map, or its "
            "GeoPackage."
        )
    try:
        names = layer_names(str(path))
        if LAYER not in names:
            raise InventoryError(
                f"Cannot deliver {path}: it has the layers {', '.join(names) or '(none)'}, and "
                f"{LAYER} is needed. Name a GeoPackage that landslip wrote."
            )
        every = _read(path, LAYER)
        ground = {name: _read(path, name) for name in (OBSERVED, NOT_OBSERVED) if name in names}
        styles = _styles(path, [LAYER, *ground])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InventoryError(
            f"Cannot deliver {path}: it is not a vector file that GDAL can read. "
            "Name a GeoPackage that landslip wrote."
        ) from error
    every["id"] = _numbers(every, path)
    rejected = has_status(every, ["rejected"])
    shapes = np.asarray(every.geometry.values)
    empty = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    landslides = every[~rejected & ~empty].reset_index(drop=True)
    lost = int((empty & ~rejected).sum())
    notes = [f"{lost} landslides have no polygon and were left out"] if lost else []
    return Deliverable(
        path, landslides, ground, styles, int(rejected.sum()), (*notes, *_doubts(landslides))
    )


def _numbers(every: gpd.GeoDataFrame, path: Path) -> pd.Series[Any]:
    """The ids, as whole numbers."""
    from pandas.api.types import is_numeric_dtype

    if "id" in every and is_numeric_dtype(every["id"].dtype):
        ids = every["id"]
        if (ids.dropna() % 1 == 0).all():
            return ids.astype("Int64" if ids.isna().any() else "int64")
    found = "with texts or fractions in it" if "id" in every else "not there"
    raise InventoryError(
        f"Cannot deliver {path}: landslides are known by whole numbers in the column id of the "
        f"layer {LAYER}, and it is {found}. Give each a number."
    )


def _doubts(landslides: gpd.GeoDataFrame) -> list[str]:
    """What is not as it should be in a delivery."""
    ids = landslides["id"]
    twice = sorted({str(each) for each in ids[ids.duplicated() & ids.notna()]})
    found = []
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        found.append(f"ids that several landslides share: {', '.join(twice[:5])}{more}")
    if ids.isna().any():
        found.append(f"{int(ids.isna().sum())} landslides have no id")
    crossing = int((~landslides.is_valid).sum())
    if crossing:
        found.append(f"{crossing} polygons cross themselves")
    if "status" in landslides:
        new = int(has_status(landslides, ["", "unreviewed"]).sum())
        if new:
            found.append(f"{new} of {len(landslides)} landslides were not reviewed")
    return found


def _read(path: Path, layer: str) -> gpd.GeoDataFrame:
    """A layer, flat; whole numbers and truth values stay such where some are empty."""
    import pyogrio

    info = pyogrio.read_info(path, layer=layer)
    frame = pyogrio.read_dataframe(path, layer=layer)
    kinds = zip(info["fields"], info["ogr_types"], info["ogr_subtypes"], strict=True)
    for name, kind, subtype in kinds:
        if subtype == "OFSTBoolean" and frame[name].dtype != bool:
            frame[name] = frame[name].astype("boolean")
        elif kind in ("OFTInteger", "OFTInteger64") and frame[name].dtype.kind == "f":
            frame[name] = frame[name].astype("Int64")
    return frame.set_geometry(shapely.force_2d(frame.geometry.to_numpy()))


def _styles(path: Path, layers: Sequence[str]) -> dict[str, dict[str, str]]:
    import pyogrio

    if STYLES not in [str(name) for name, _ in pyogrio.list_layers(path)]:
        return {}
    rows: pd.DataFrame = pyogrio.read_dataframe(path, layer=STYLES, read_geometry=False)
    found: dict[str, dict[str, str]] = {}
    for row in rows.sort_values("useAsDefault", ascending=False, kind="stable").itertuples():
        if row.f_table_name in layers and isinstance(row.styleQML, str):
            found.setdefault(str(row.f_table_name), {})[str(row.styleName)] = row.styleQML
    return found
