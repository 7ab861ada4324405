"""What mapping is asked, what it will take, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from landslip.geo.progress import duration
from landslip.inventory.options import InventoryOptions, InventoryResult


@dataclass(frozen=True, kw_only=True)
class MapOptions(InventoryOptions):
    """How scenes are mapped, and what inventory is made of the map."""

    threshold: float | None = None
    """Probability from which ground counts as landslide; None: the card's, of several the mean."""
    scaling: str = "auto"
    """`model`, `scene` or `auto`: whose numbers the network is shown (`choose_scaling`)."""
    as_float: bool = False
    """True: `probability.tif` in float32 with NaN, instead of one byte."""
    tta: bool = False
    """True: the mean over eight flips and quarter turns, in eight times the time."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which the networks see the scene; their probabilities are averaged."""
    core_px: int | None = None
    """Most rows and columns kept of a window; None: as many as pay and fit into the memory."""
    memory_gb: float | None = None
    """Memory to take at most (GB); None: half of the machine's, or of the device's."""
    first: str | Path | None = None
    """Polygons of ground that is mapped before the rest."""
    cluster: str | None = None
    """Scheduler of a Dask cluster that computes: tcp://HOST:PORT."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bf16 or fp16."""


@dataclass(frozen=True, kw_only=True)
class MapResult(InventoryResult):
    """What was mapped; `path` is the folder."""

    seconds: float
    """Wall time of this run (s)."""


@dataclass(frozen=True)
class MapEstimate:
    """What mapping will take, from a few windows that were timed."""

    pixels: int
    """Of the scenes."""
    km2: float
    """Ground of the windows that must be computed, usable or not (km2)."""
    windows: int
    """Windows to compute at most."""
    seconds: float
    """Time for them (s)."""
    files_seconds: float
    """Time for outlines and files (s)."""
    disk_bytes: int
    """Space for the unfinished and the finished map (bytes)."""
    memory_bytes: int
    """Most memory (bytes)."""
    overhead: float
    """Pixels computed for each pixel kept."""

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"{self.pixels / 1e6:,.1f} million pixels, {self.km2:,.1f} km2 in {self.windows} "
            f"windows: about {duration(self.seconds + self.files_seconds)}, "
            f"{duration(self.files_seconds)} of them for outlines and files; "
            f"{self.disk_bytes / 1e9:.1f} GB of disk, "
            f"{self.memory_bytes / 1e9:.1f} GB of memory"
        )
