"""From a map of probabilities to the rows of an inventory, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landslip.assess.objects import SIZE_TEXTS, size_class_of
from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import frame_crs
from landslip.geo.raster import Scene
from landslip.inventory.attributes import certainty_of, touches_edge
from landslip.inventory.event import Event, read_event
from landslip.inventory.ground import GroundCodes
from landslip.inventory.near import open_all
from landslip.inventory.options import InventoryOptions
from landslip.inventory.outlines import landslide_polygons
from landslip.inventory.pixels import Coded
from landslip.inventory.relief import Terrain
from landslip.inventory.rules import flags, read_rules
from landslip.inventory.shape import shape_columns
from landslip.inventory.spectral import spectral_columns
from landslip.inventory.split import split_bodies
from landslip.inventory.spool import Polygons
from landslip.inventory.volume import volumes_m3

if TYPE_CHECKING:
    import geopandas as gpd

REVIEW = {"status": "unreviewed", "reviewer": "", "comment": "", "confidence": ""}
"""Columns for the analyst, as they begin."""


@dataclass(frozen=True)
class Group:
    """Some landslides of an inventory."""

    landslides: gpd.GeoDataFrame
    """A row each. Of parts of a body, `parent` is the body's row in `bodies`, else -1."""
    bodies: gpd.GeoDataFrame
    """What was split: polygons alone."""


class Delineation:
    """How the landslides of a map are outlined, and what they are measured on."""

    def __init__(
        self,
        options: InventoryOptions,
        grid: Grid,
        threshold: float,
        *,
        scene: Scene | None = None,
        name: str = "",
        told: Mapping[str, object] | None = None,
    ) -> None:
        """Open what the options name.

        Args:
            options: What is asked.
            grid: Of the map.
            threshold: Probability from which ground is landslide, 0 to 1.
            scene: What was mapped, on the same grid, for spectral columns.
            name: Of the scene, where several are mapped: the event tells when it was taken.
            told: Columns that are the same for all landslides.

        Raises:
            LandslipError: Something that is named cannot be used.
        """
        self._options, self._grid, self._threshold = options, grid, threshold
        self._scene = scene
        self.rules = read_rules(options.rules) if options.rules is not None else ()
        known = {rule.flag for rule in self.rules}
        unknown = [name for name in options.drop if name not in known]
        if unknown:
            raise UsageError(
                f"Cannot drop {', '.join(unknown)}: the rules of {options.rules} give "
                f"{', '.join(sorted(known))}. Name one of them with --drop."
            )
        event = None if options.event is None else read_event(options.event)
        crs = frame_crs(grid)
        bounds = grid.footprint().bounds
        self._near = open_all(options.near, crs, bounds)
        self._told = {
            "pixel_size_m": round(grid.pixel_size_m, 4),
            "threshold": round(threshold, 4),
            **(told or {}),
            **({} if event is None else {**_image_date(event, name), **event.columns()}),
        }
        if options.volume is not None:
            volumes_m3(np.zeros(0), options.volume)  # is there such a relation?
        self._terrain = None if options.dem is None else Terrain(str(options.dem), grid)
        if self.rules:
            # Columns that rules name and nothing gives are told before the work begins.
            nothing = _Nothing(grid)
            self._rows(np.array([], dtype=object), nothing, None)

    def close(self) -> None:
        """Close the elevation model."""
        if self._terrain is not None:
            self._terrain.close()

    @property
    def splits(self) -> bool:
        """True where bodies are split."""
        return self._options.split

    def groups(self, probability: Coded, ground: GroundCodes | None = None) -> Iterator[Group]:
        """All landslides of a map, from the top left; one group at least, which may be empty.

        Args:
            probability: The map.
            ground: Why ground was not observed; None where the map does not tell.
        """
        import geopandas as gpd

        options = self._options
        for polygons in landslide_polygons(
            probability, self._threshold, outline=options.outline,
            min_area_m2=options.min_area_m2, min_hole_m2=options.min_hole_m2,
            simplify_m=options.simplify_m,
        ):  # fmt: skip
            parts, parents = polygons, np.full(len(polygons), -1)
            if options.split:
                parts, parents = split_bodies(polygons, probability, terrain=self._terrain)
            frame = self._rows(parts, probability, ground)
            frame.insert(0, "parent", parents)
            frame = frame[frame["area_m2"] >= options.min_area_m2].copy()
            numbers, frame["parent"] = _numbered_anew(frame["parent"].to_numpy())
            bodies = gpd.GeoDataFrame(geometry=list(polygons[numbers]), crs=frame.crs)
            yield Group(frame, bodies)

    def _rows(
        self, polygons: Polygons, probability: Coded, ground: GroundCodes | None
    ) -> gpd.GeoDataFrame:
        import geopandas as gpd

        crs = self._grid.crs
        certainty = certainty_of(polygons, probability, ground=ground)
        relief = None if self._terrain is None else self._terrain.measured(polygons)
        columns: dict[str, Any] = shape_columns(
            polygons, crs, None if relief is None else relief.way_down_deg
        )
        columns["size_class"] = np.array(SIZE_TEXTS, dtype=object)[
            size_class_of(columns["area_m2"])
        ]
        columns |= certainty.columns(self._threshold)
        columns["touches_edge"] = touches_edge(polygons, probability)
        columns["touches_unobserved"] = certainty.reasons
        if relief is not None:
            columns |= relief.columns(columns["length_m"])
        if self._scene is not None:
            columns |= spectral_columns(polygons, self._scene)
        for near in self._near:
            columns |= near.columns(polygons, self._grid.pixel_size_m)
        if self._options.volume is not None:
            low, high = volumes_m3(columns["area_m2"], self._options.volume)
            columns |= {"volume_low_m3": np.round(low, 1), "volume_high_m3": np.round(high, 1)}
        columns |= {name: _repeated(value, len(polygons)) for name, value in self._told.items()}
        frame = gpd.GeoDataFrame(columns, geometry=list(polygons), crs=frame_crs(self._grid))
        if self.rules:
            frame["flags"] = flags(frame, self.rules)
        for name, text in REVIEW.items():
            frame[name] = _repeated(text, len(frame))
        return frame

    def is_dropped(self, frame: gpd.GeoDataFrame) -> NDArray[np.bool_]:
        """Which landslides go to the layer `dropped`, shape (N,)."""
        dropped = np.zeros(len(frame), dtype=bool)
        if self._options.drop:
            wanted = set(self._options.drop)
            fired = frame["flags"].str.split(", ")
            dropped = np.array([bool(wanted & set(names)) for names in fired], dtype=bool)
        return dropped


@dataclass(frozen=True)
class _Nothing:
    """A map on which nothing is measured."""

    grid: Grid
    path: str = ""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """No landslide, all observed."""
        return np.zeros((window.height, window.width), dtype=np.uint8)


def _image_date(event: Event, name: str) -> dict[str, str]:
    """When the image was taken that a scene is, where the event tells."""
    after = [image for image in event.images if image.phase == "post"]
    images = [image for image in after if image.scene == name] or after
    dates = {image.date.isoformat() for image in images if image.date is not None}
    return {"image_date": dates.pop()} if len(dates) == 1 else {}


def _numbered_anew(parents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bodies of which parts are left, and their row among those for every part."""
    numbers = np.unique(parents[parents >= 0])
    rows = np.where(parents >= 0, np.searchsorted(numbers, parents), -1)
    return numbers, rows


def _repeated(value: object, number: int) -> NDArray[Any]:
    """A column of one value."""
    return np.full(number, value, dtype=object if isinstance(value, str) else None)
