"""What is asked of an inventory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from landslip.geo.errors import UsageError

OUTLINES = ("contour", "pixels")


@dataclass(frozen=True, kw_only=True)
class InventoryOptions:
    """How landslides are outlined, and what is told of them."""

    outline: str = "contour"
    """`contour` (smooth, sub-pixel) or `pixels` (along pixel edges)."""
    simplify_m: float = 0.0
    """How far outlines may move, to have fewer vertices (m); 0: not at all."""
    min_area_m2: float = 0.0
    """Smaller polygons are left out (m2); the raster keeps them."""
    min_hole_m2: float = 0.0
    """Smaller holes over observed ground are filled (m2)."""
    split: bool = False
    """True: bodies are cut at their necks; `parent_id` names the body."""
    dem: str | Path | None = None
    """Elevation model (m) that terrain is measured on."""
    near: tuple[str, ...] = ()
    """FILE or NAME=FILE: rivers, roads, buildings that distances are told to."""
    rules: str | Path | None = None
    """File of rules that flag landslides."""
    drop: tuple[str, ...] = ()
    """Flags of landslides that go to the layer `dropped`."""
    event: str | Path | None = None
    """File that describes the event (event.toml)."""
    volume: str | None = None
    """Name of the relation of volume to area; None: no volumes."""

    def __post_init__(self) -> None:
        if self.outline not in OUTLINES:
            raise UsageError(
                f"Cannot outline by '{self.outline}': expected {' or '.join(OUTLINES)}."
            )
        for name in ("simplify_m", "min_area_m2", "min_hole_m2"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UsageError(f"Cannot use {name} {value:g}: it must be 0 or more.")
        if self.drop and self.rules is None:
            raise UsageError(
                f"Cannot drop {', '.join(self.drop)}: no rules say which landslides those are. "
                "Name a file of rules with --rules."
            )


@dataclass(frozen=True, kw_only=True)
class InventoryResult:
    """What was written."""

    path: Path
    """Where it lies."""
    landslides: int
    """Polygons of the layer `landslides`."""
    dropped: int
    """Polygons that rules moved to the layer `dropped`."""
    bodies: int
    """Of both together before bodies were split."""
    area_m2: float
    """Of the layer `landslides`."""
    observed_km2: float
    """Ground that was mapped (km2)."""
    threshold: float
    """Of the outlines."""

    @property
    def text(self) -> str:
        """For people."""
        more = f", {self.dropped} more in the layer 'dropped'" if self.dropped else ""
        if self.bodies != self.landslides + self.dropped:
            more += f" ({self.bodies} before bodies were split)"
        return (
            f"{self.landslides} landslides{more}, {self.area_m2:,.0f} m2, on "
            f"{self.observed_km2:.3f} km2 of observed ground, at threshold {self.threshold:.2f}"
        )
