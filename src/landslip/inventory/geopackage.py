"""An inventory in a GeoPackage that grows, with its styles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from landslip.geo.inventory import LAYER, write_layers
from landslip.geo.styles import ClassStyle, add_styles, polygon_style
from landslip.inventory.delineate import Delineation, Group
from landslip.inventory.options import InventoryResult

if TYPE_CHECKING:
    import geopandas as gpd
    import pyproj

DROPPED = "dropped"
"""Layer of landslides that a rule moved away."""
BODIES = "bodies"
"""Layer of what was split; `parent_id` of its parts is its `id`."""
# Seen on forest in true colours and in near infrared alike.
BY_CLASS = {
    "high": ClassStyle("high probability", (255, 230, 0)),
    "medium": ClassStyle("medium probability", (255, 130, 0)),
    "low": ClassStyle("low probability", (0, 190, 255)),
}
BY_STATUS = {
    "unreviewed": ClassStyle("not reviewed", (128, 128, 128)),
    "accepted": ClassStyle("accepted", (27, 120, 55)),
    "edited": ClassStyle("edited", (33, 102, 172)),
    "rejected": ClassStyle("rejected", (178, 24, 43)),
}


@dataclass
class Inventory:
    """A GeoPackage that takes landslides some at a time, and numbers them."""

    path: Path
    crs: pyproj.CRS | None
    """Of all layers."""
    date: str | None
    """Written into it."""
    landslides: int = 0
    """How many there are in the layer `landslides`."""
    dropped: int = 0
    """How many there are in the layer `dropped`."""
    bodies: int = 0
    """How many were split."""
    parts: int = 0
    """Into how many landslides."""
    area_m2: float = 0.0
    """Of the layer `landslides`."""

    def add(self, group: Group, delineation: Delineation, *, scene: str = "") -> NDArray[np.bool_]:
        """Write more landslides, with `id`, `parent_id` and `scene` in front.

        Returns:
            Which of the group are in the layer `landslides` now, shape (N,); rules have moved the
            others to `dropped`.
        """
        first = self.landslides + self.dropped + 1
        frame = group.landslides.assign(id=np.arange(first, first + len(group.landslides)))
        in_front = ["id"]
        if delineation.splits:
            frame["parent_id"] = np.where(
                frame["parent"] >= 0, frame["parent"] + self.bodies + 1, np.nan
            )
            frame["parent_id"] = frame["parent_id"].astype("Int64")
            in_front.append("parent_id")
        if scene:
            frame["scene"] = np.full(len(frame), scene, dtype=object)
            in_front.append("scene")
        others = [name for name in group.landslides if name not in ("parent", *in_front)]
        frame = self.placed(frame[in_front + others])
        is_dropped = delineation.is_dropped(frame)
        kept = frame[~is_dropped]
        layers = {LAYER: kept}
        if is_dropped.any():
            layers[DROPPED] = frame[is_dropped]
        if len(group.bodies):
            numbers = np.arange(len(group.bodies)) + self.bodies + 1
            layers[BODIES] = self.placed(group.bodies.assign(id=numbers))
        self.write(layers)
        self.landslides += len(kept)
        self.dropped += int(is_dropped.sum())
        self.bodies += len(group.bodies)
        self.parts += int((group.landslides["parent"] >= 0).sum())
        self.area_m2 += float(kept["area_m2"].sum())
        return ~is_dropped

    @property
    def before_splitting(self) -> int:
        """Landslides, dropped ones too, before bodies were split."""
        return self.landslides + self.dropped - self.parts + self.bodies

    def result(self, path: Path, observed_km2: float, threshold: float) -> InventoryResult:
        """What was written, where it will lie in the end."""
        return InventoryResult(
            path=path, landslides=self.landslides, dropped=self.dropped,
            bodies=self.before_splitting, area_m2=self.area_m2, observed_km2=observed_km2,
            threshold=threshold,
        )  # fmt: skip

    def write(self, layers: Mapping[str, gpd.GeoDataFrame]) -> None:
        """Write other layers."""
        write_layers(self.path, layers, date=self.date)

    def placed(self, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """A layer in the CRS of all."""
        return frame if frame.crs == self.crs else frame.to_crs(self.crs)

    def style(self) -> None:
        """Put styles for QGIS into it: by class of probability, and by status of the review."""
        styles = {
            "by class": polygon_style("probability_class", BY_CLASS),
            "by status": polygon_style("status", BY_STATUS),
        }
        layers = [LAYER, *([DROPPED] if self.dropped else [])]
        add_styles(self.path, dict.fromkeys(layers, styles), date=self.date)
