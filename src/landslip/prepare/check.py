"""Verb `check`: what was understood of a scene and its landslides, and what is suspicious.

Everything is read window by window, so memory does not grow with the scene.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rich.table import Table

from landslip.geo.bands import band_name
from landslip.geo.errors import BandError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import areas_m2, read_polygons
from landslip.geo.labels import LANDSLIDE, UNLABELLED, Labels, PolygonLabels, open_labels
from landslip.geo.output import refuse_existing, whole_file
from landslip.geo.progress import track
from landslip.geo.raster import Scene
from landslip.geo.scene import OBSERVED, SceneLike, StackedScene, open_scene
from landslip.geo.terrain import pixel_steps_m
from landslip.geo.windows import cover

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORE_PX = 1024
"""Side of the windows that are read (px); a whole number of cells."""
SAMPLE_ABOVE_PX = 100_000_000
"""Scenes with more pixels are described from about this many, in evenly spread windows."""
CLIPPED_SHARE = 0.001
"""A band's largest or smallest value counts as saturation where it holds more than this share."""
MANY_SATURATED = 0.01
FEW_PIXELS = 4
"""Landslides below this many pixels cannot be learned."""

REACH_PX = 10
"""Largest shift looked for (px)."""
CELL_PX = 64
"""Side of the squares in which outlines are compared with the image (px)."""
CELLS = 60
"""How many of them are compared, at most."""
FEWEST_CELLS = 8
FEWEST_EDGE_PX = 24
SMALLEST_SHIFT_PX = 2.0
CLEARLY_BETTER = 6.0
"""Standard errors by which the best offset must beat no offset, over the cells."""
CLEARLY_A_PEAK = 4.0
"""Standard deviations by which the best offset must stand out of all offsets."""

PICTURE_PX = 1600
"""Longest side of the picture (px)."""

_TERRAIN = frozenset({"elevation", "slope"})
"""Bands for which the largest or smallest value means nothing (flat ground, the sea)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """The offset at which landslide outlines lie best on the edges of the image."""

    rows_px: int
    """Rows by which the outlines should move, down is positive (px)."""
    cols_px: int
    """Columns by which the outlines should move, right is positive (px)."""
    distance_m: float
    """Length of that move (m); pixels where the scene has no position."""
    cells: int
    """Squares of 64 x 64 px that were compared."""
    gain_se: float
    """Gain over no offset, in standard errors over the cells."""
    peak_sd: float
    """Height of the best offset above the mean of all, in standard deviations."""

    @property
    def likely(self) -> bool:
        """True where image and outlines lie apart beyond doubt (see `estimate_shift`)."""
        return (
            self.cells >= FEWEST_CELLS
            and math.hypot(self.rows_px, self.cols_px) >= SMALLEST_SHIFT_PX
            and self.gain_se >= CLEARLY_BETTER
            and self.peak_sd >= CLEARLY_A_PEAK
        )


@dataclass(frozen=True)
class InventoryCheck:
    """What was understood of landslides."""

    path: str
    """File of the landslides."""
    reprojected_from: str
    """CRS of the file where it differs from the scene's, else empty."""
    inside: int | None
    """Polygons that touch the scene; None for label rasters."""
    outside: int | None
    """Polygons that do not; None for label rasters."""
    repaired: int | None
    """Polygons that crossed themselves; None for label rasters."""
    area_km2: float
    """True area of the landslides that touch the scene."""
    landslide_share: float
    """Share of landslide among pixels that are valid and labelled; NaN where none is."""
    labelled_share: float
    """Share of labelled pixels among valid ones; NaN where none is valid."""
    smallest_px: float | None
    """Area of the smallest landslide, in pixels; None for label rasters."""
    below_four_px: int | None
    """Landslides smaller than four pixels; None for label rasters."""
    shift: Shift | None
    """Offset between outlines and image; None where there is too little to compare."""


@dataclass(frozen=True)
class SceneCheck:
    """What was understood of a scene and its landslides."""

    files: tuple[str, ...]
    """Files that the scene is made of, each with its role."""
    bands: tuple[str, ...]
    """Names of the bands, in order."""
    types: tuple[str, ...]
    """Type of the pixels, by band."""
    height_px: int
    width_px: int
    pixel_size_m: float
    """Root of the area of the pixel in the middle (m)."""
    crs: str
    """Coordinate reference system; empty where there is none."""
    area_km2: float
    """Area of the whole grid."""
    sampled_share: float
    """Share of the pixels that the shares below are counted on; 1 up to 100 million pixels."""
    nodata_share: float
    """Share of pixels without data in one band or more."""
    excluded_share: float
    """Share of pixels that are unusable or outside the area of interest."""
    saturated: tuple[float, ...]
    """By band, share of the valid pixels at an end of its values (see `check_scene`); NaN for
    terrain."""
    inventory: InventoryCheck | None
    """The landslides, where they were given."""
    warnings: tuple[str, ...] = field(default=())
    """What is suspicious, each with one remedy."""
    notes: tuple[str, ...] = field(default=())
    """What is good to know, and fine."""

    def table(self) -> Table:
        """The findings in two columns, for a terminal."""
        table = Table("What", "Found", show_lines=False)
        for what, found in self._rows():
            table.add_row(what, found)
        return table

    def to_json(self) -> str:
        """The findings as JSON: the names of the fields are the keys, undefined values null."""
        return json.dumps(_plain(asdict(self)), indent=2, ensure_ascii=False)

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "Files", "\n".join(self.files)
        named = zip(self.bands, self.types, strict=True)
        yield "Bands", ", ".join(f"{name} ({kind})" for name, kind in named)
        yield "Size", f"{self.height_px} rows x {self.width_px} columns"
        yield "Pixel size", f"{self.pixel_size_m:.4g} {'m' if self.crs else 'units'}"
        yield "CRS", self.crs or "none"
        yield "Area", f"{self.area_km2:.4g} km2"
        if self.sampled_share < 1:
            yield "Counted on", f"{self.sampled_share:.1%} of the pixels, evenly spread"
        yield "Without data", f"{self.nodata_share:.1%}"
        yield "Excluded", f"{self.excluded_share:.1%}"
        pairs = zip(self.bands, self.saturated, strict=True)
        shares = [f"{name} {share:.2%}" for name, share in pairs if not math.isnan(share)]
        yield "Saturated", ", ".join(shares)
        if self.inventory is not None:
            yield from _inventory_rows(self.inventory)


def check_scene(
    scene: SceneLike,
    *,
    inventory: str | Path | None = None,
    checked: str | Path | None = None,
    positive: int | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
) -> SceneCheck:
    """Say what was understood of a scene and its landslides, and what is suspicious.

    A pixel counts as saturated in a band where it has the largest or smallest value of an integer
    type, or the largest or smallest value found in the band where that value holds more than
    0.1 % of the valid pixels (data clipped at 10000 or 4095, say). Pixels that are 0 in every band
    are left out there: they are more likely undeclared nodata.

    Args:
        scene: A scene, or the path of a file; missing band names are a warning.
        inventory: Polygons of landslides, or a label raster.
        checked: Polygons inside which everything was inspected.
        positive: Value of landslides in a label raster where it is not 1.
        picture: Where to write a picture of it all (PNG).
        overwrite: Replace a picture that is there.

    Raises:
        DataError: The scene or the polygons cannot be used.
        OutputError: The picture exists, or cannot be written.
    """
    if picture is not None:
        refuse_existing(picture, overwrite=overwrite)
    opened = open_scene(scene, unnamed=True) if isinstance(scene, str | Path) else None
    source: Scene = opened if opened is not None else scene  # type: ignore[assignment]
    try:
        labels = None
        if inventory is not None:
            labels = open_labels(inventory, source.grid, checked=checked, positive=positive)
        tally = _tally(source, labels)
        result = _described(source, tally, None if labels is None else (str(inventory), labels))
        if picture is not None:
            with whole_file(picture, overwrite=overwrite) as path:
                _draw(source, labels, checked, result, path)
    finally:
        if opened is not None:
            opened.close()
    return result


def _described(scene: Scene, tally: _Tally, named: tuple[str, Labels] | None) -> SceneCheck:
    grid = scene.grid
    # The areas of rows change smoothly: a few hundred stand for all.
    rows = np.linspace(0, grid.height - 1, min(grid.height, 500))
    pixel_m2 = float(np.mean(grid.pixel_area_m2(rows)))
    findings = None
    if named is not None:
        findings = _inventory_check(*named, scene, tally, pixel_m2)
    result = SceneCheck(
        files=_files(scene),
        bands=scene.bands,
        types=_types(scene),
        height_px=grid.height,
        width_px=grid.width,
        pixel_size_m=grid.pixel_size_m,
        crs="" if grid.crs is None else str(grid.crs.to_string()),
        area_km2=pixel_m2 * grid.height * grid.width / 1e6,
        sampled_share=tally.pixels / (grid.height * grid.width),
        nodata_share=tally.nodata / tally.pixels,
        excluded_share=tally.excluded / tally.pixels,
        saturated=tuple(ends.saturated(tally.valid - tally.black) for ends in tally.ends),
        inventory=findings,
    )
    return SceneCheck(
        **{name: getattr(result, name) for name in result.__dataclass_fields__}
        | {
            "warnings": tuple(_warnings(result, tally)),
            "notes": tuple(_notes(result, grid)),
        }
    )
