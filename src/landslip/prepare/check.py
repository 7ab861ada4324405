"""Verb `check`: what was understood of a scene and its landslides, and what is suspicious.

Everything is read window by window, so memory does not grow with the scene.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rich.table import Table

from landslip.geo.bands import BEFORE, TERRAIN_BANDS, band_name
from landslip.geo.errors import BandError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import areas_m2, read_polygons
from landslip.geo.labels import (
    LANDSLIDE,
    UNLABELLED,
    Labels,
    PolygonLabels,
    open_labels,
)
from landslip.geo.output import refuse_existing, whole_file
from landslip.geo.progress import track
from landslip.geo.raster import Scene
from landslip.geo.scene import OBSERVED, SceneLike, StackedScene, open_scene
from landslip.geo.windows import cover
from landslip.prepare.pictures import (
    contoured,
    outlined,
    reduced,
    scene_axes,
    thinned,
    write_figure,
)
from landslip.prepare.shift import Shift, cells_with_edges, estimate_shift

CORE_PX = 1024
"""Side of the windows that are read (px); a whole number of cells."""
SAMPLE_ABOVE_PX = 100_000_000
"""Scenes with more pixels are described from about this many, in evenly spread windows."""
CLIPPED_SHARE = 0.001
"""A band's largest or smallest value counts as saturation where it holds more than this share."""
MANY_SATURATED = 0.01
FEW_PIXELS = 4
"""Landslides below this many pixels cannot be learned."""


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
    """True area of the polygons that touch the scene; of label rasters, on valid ground."""
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
    result = SceneCheck(
        files=_files(scene),
        bands=tuple(scene.bands),
        types=tuple(str(kind) for kind in tally.types),
        height_px=grid.height,
        width_px=grid.width,
        pixel_size_m=grid.pixel_size_m,
        crs="" if grid.crs is None else str(grid.crs.to_string()),
        area_km2=pixel_m2 * grid.height * grid.width / 1e6,
        sampled_share=tally.pixels / (grid.height * grid.width),
        nodata_share=tally.nodata / tally.pixels,
        excluded_share=tally.excluded / tally.pixels,
        saturated=tuple(ends.share(tally.valid - tally.black) for ends in tally.ends),
        inventory=None if named is None else _inventory_check(*named, scene, tally, pixel_m2),
    )
    black_share = tally.black / max(tally.valid, 1)
    warnings = (*_scene_warnings(result, black_share), *_inventory_warnings(result))
    return replace(result, warnings=warnings, notes=tuple(_notes(result, grid)))


def _files(scene: Scene) -> tuple[str, ...]:
    if isinstance(scene, StackedScene):
        return tuple(f"{source.role}: {source.path}" for source in scene.sources)
    return (f"scene: {getattr(scene, 'path', type(scene).__name__)}",)


def _scene_warnings(found: SceneCheck, black_share: float) -> Iterator[str]:
    unnamed = [name for name in found.bands if not _is_name(name)]
    if unnamed:
        yield (
            f"The file does not say what {', '.join(unnamed)} show. Name the bands in order with "
            "--bands, for example --bands nir,red,green, or numbered ones by --sensor."
        )
    if not found.crs:
        yield (
            "The scene has no coordinate reference system, so landslides will carry no position. "
            "Assign one (gdal_edit.py -a_srs)."
        )
    if black_share > MANY_SATURATED:
        yield (
            f"{black_share:.1%} of the valid pixels are 0 in every band. If 0 means 'no data', "
            "declare it (gdal_edit.py -a_nodata 0)."
        )
    many = [
        f"{name} ({share:.1%})"
        for name, share in zip(found.bands, found.saturated, strict=True)
        if share > MANY_SATURATED
    ]
    if many:
        yield (
            f"Many pixels are saturated in {', '.join(many)}: their differences are lost. Use a "
            "version of the scene that was not stretched or clipped."
        )


def _inventory_warnings(found: SceneCheck) -> Iterator[str]:
    slides = found.inventory
    if slides is None:
        return
    if slides.reprojected_from:
        yield (
            f"The landslides are in {slides.reprojected_from}, the scene is in {found.crs}: they "
            "were reprojected. Save them in the CRS of the scene to see what is used."
        )
    polygons = (slides.inside or 0) + (slides.outside or 0)
    if slides.outside:
        yield (
            f"{slides.outside} of {polygons} polygons lie outside the scene and are not used. "
            "Check that both files show the same place."
        )
    if slides.repaired:
        yield (
            f"{slides.repaired} polygons crossed themselves and were repaired. Look at them in a "
            "GIS (check validity)."
        )
    if slides.below_four_px:
        yield (
            f"{slides.below_four_px} of {slides.inside} landslides are smaller than {FEW_PIXELS} "
            f"pixels ({FEW_PIXELS * found.pixel_size_m**2:.3g} m2), too small to be learned or "
            "mapped. Use a scene with smaller pixels if they matter."
        )
    if not slides.landslide_share > 0:
        yield (
            "No landslide covers a valid pixel of the scene. Check that both files show the same "
            "place."
        )
    if slides.shift is not None and slides.shift.likely:
        yield (
            f"Landslides and image seem to be shifted: the outlines would fit best "
            f"{_words(slides.shift, found.crs)}. Align the two in a GIS before training."
        )


def _notes(found: SceneCheck, grid: Grid) -> Iterator[str]:
    if grid.is_geographic:
        yield "Coordinates are degrees; areas are measured on the ellipsoid, in true square metres."
    eight = [name for name, kind in zip(found.bands, found.types, strict=True) if kind == "uint8"]
    if eight:
        yield (
            f"8-bit data ({', '.join(eight)}): fine if models are trained and used on scenes "
            "that were stretched alike."
        )
    if found.sampled_share < 1:
        yield f"Shares were counted on {found.sampled_share:.1%} of the pixels, evenly spread."


def _is_name(name: str) -> bool:
    """False for `band1` and for bare numbers of an unknown sensor."""
    try:
        band_name(name.removeprefix(BEFORE))
    except BandError:
        return False
    return True


def _words(shift: Shift, crs: str) -> str:
    down = f"{abs(shift.rows_px)} px {'down' if shift.rows_px > 0 else 'up'}"
    right = f"{abs(shift.cols_px)} px {'right' if shift.cols_px > 0 else 'left'}"
    parts = [text for text, size in ((down, shift.rows_px), (right, shift.cols_px)) if size]
    where = " and ".join(parts) or "where they are"
    return f"{where} ({shift.distance_m:.3g} m)" if parts and crs else where


def _inventory_rows(found: InventoryCheck) -> Iterator[tuple[str, str]]:
    yield "Landslides", found.path
    if found.inside is not None:
        yield (
            "Polygons",
            f"{found.inside} in the scene, {found.outside} outside, {found.repaired} repaired",
        )
    yield "Landslide area", f"{found.area_km2:.4g} km2"
    yield "Share of landslide pixels", _percent(found.landslide_share)
    yield "Labelled", _percent(found.labelled_share)
    if found.smallest_px is not None:
        yield "Smallest landslide", f"{found.smallest_px:.1f} pixels"
    if found.shift is None:
        yield "Outlines fit best", "too few outlines to tell"
    else:
        certain = "shifted" if found.shift.likely else "no sure sign of a shift"
        yield "Outlines fit best", f"{_words(found.shift, 'm')}: {certain}"


def _percent(share: float) -> str:
    return "undefined" if math.isnan(share) else f"{share:.2%}"


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Counting


class _Ends:
    """Smallest and largest value of a band so far, and how many pixels have them."""

    def __init__(self, kind: np.dtype[Any], *, counts: bool) -> None:
        self._counts = counts
        is_integer = kind.kind in "iu"
        self._type_low = float(np.iinfo(kind).min) if is_integer else -math.inf
        self._type_high = float(np.iinfo(kind).max) if is_integer else math.inf
        self._low, self._high = math.inf, -math.inf
        self._low_px = self._high_px = 0

    def add(self, values: NDArray[Any]) -> None:
        if not self._counts or values.size == 0:
            return
        low, high = values.min(), values.max()
        if low <= self._low:
            kept = self._low_px if low == self._low else 0
            self._low, self._low_px = float(low), kept + int(np.count_nonzero(values == low))
        if high >= self._high:
            kept = self._high_px if high == self._high else 0
            self._high, self._high_px = float(high), kept + int(np.count_nonzero(values == high))

    def share(self, pixels: int) -> float:
        """Share of saturated ones of `pixels`; NaN for none, or where the ends mean nothing."""
        if not self._counts or pixels == 0:
            return math.nan
        if self._low == self._high:
            return 1.0
        share = 0.0
        for value, end, count in (
            (self._low, self._type_low, self._low_px),
            (self._high, self._type_high, self._high_px),
        ):
            if value == end or count > CLIPPED_SHARE * pixels:
                share += count / pixels
        return share


@dataclass
class _Tally:
    """What is counted in one pass over the scene."""

    types: list[np.dtype[Any]]
    ends: list[_Ends]
    pixels: int = 0
    valid: int = 0
    nodata: int = 0
    excluded: int = 0
    black: int = 0
    labelled: int = 0
    landslide: int = 0
    cells: list[Window] = field(default_factory=list)


def _tally(scene: Scene, labels: Labels | None) -> _Tally:
    one = Window(0, 0, 1, 1)
    types = [scene.read(one, [name]).values.dtype for name in scene.bands]
    counted = [name.removeprefix(BEFORE) not in TERRAIN_BANDS for name in scene.bands]
    ends = [_Ends(kind, counts=on) for kind, on in zip(types, counted, strict=True)]
    tally = _Tally(types, ends)
    windows = _spread(scene.grid)
    for window in track(windows, total=len(windows), what="Checking"):
        raster = scene.read(window, scene.bands)
        excluded = np.zeros(raster.valid.shape, dtype=bool)
        if isinstance(scene, StackedScene):
            excluded = scene.excluded(window) != OBSERVED
        black = raster.valid & (raster.values[counted] == 0).all(axis=0) & any(counted)
        for band, plane in zip(ends, raster.values, strict=True):
            band.add(plane[raster.valid & ~black])
        tally.pixels += raster.valid.size
        tally.valid += int(raster.valid.sum())
        tally.excluded += int(excluded.sum())
        tally.nodata += int((~raster.valid & ~excluded).sum())
        tally.black += int(black.sum())
        if labels is not None:
            plane = labels.read(window)
            tally.labelled += int((raster.valid & (plane != UNLABELLED)).sum())
            tally.landslide += int((raster.valid & (plane == LANDSLIDE)).sum())
            tally.cells.extend(cells_with_edges(plane, window))
    return tally


def _spread(grid: Grid) -> list[Window]:
    """All windows of a grid; of a large one, every so manieth."""
    windows = list(cover(grid, CORE_PX))
    step = max(round(grid.height * grid.width / SAMPLE_ABOVE_PX), 1)
    # A step that shares a factor with the row length would look at the same columns only.
    while step > 1 and math.gcd(step, math.ceil(grid.width / CORE_PX)) > 1:
        step += 1
    return windows[::step]


def _inventory_check(
    path: str, labels: Labels, scene: Scene, tally: _Tally, pixel_m2: float
) -> InventoryCheck:
    grid = scene.grid
    share = tally.landslide / tally.labelled if tally.labelled else math.nan
    scale = grid.height * grid.width / tally.pixels
    result = InventoryCheck(
        path=path,
        reprojected_from="",
        inside=None,
        outside=None,
        repaired=None,
        area_km2=tally.landslide * scale * pixel_m2 / 1e6,
        landslide_share=share,
        labelled_share=tally.labelled / tally.valid if tally.valid else math.nan,
        smallest_px=None,
        below_four_px=None,
        shift=estimate_shift(scene, labels, tally.cells),
    )
    if not isinstance(labels, PolygonLabels):
        return result
    polygons = labels.polygons
    inside = shapely.intersects(polygons.geometries, grid.footprint())
    areas = areas_m2(polygons.geometries[inside], grid.crs)
    sizes = areas / grid.pixel_size_m**2
    return replace(
        result,
        reprojected_from=polygons.reprojected_from,
        inside=int(inside.sum()),
        outside=int((~inside).sum()),
        repaired=polygons.repaired,
        area_km2=float(areas.sum()) / 1e6,
        smallest_px=float(sizes.min()) if sizes.size else None,
        below_four_px=int((sizes < FEW_PIXELS).sum()),
    )


def _draw(
    scene: Scene,
    labels: Labels | None,
    checked: str | Path | None,
    found: SceneCheck,
    path: Path,
) -> None:
    title = [f"{found.area_km2:.3g} km²"] if found.crs else []
    slides = found.inventory
    if slides is not None:
        size = f"{slides.area_km2:.3g} km²" if found.crs else _percent(slides.landslide_share)
        count = "" if slides.inside is None else f"{slides.inside} "
        title.append(f"{count}landslides ({size})")
    name = Path(found.files[0].partition(": ")[2]).name
    view = reduced(scene, labels=labels)
    figure, axes, handles = scene_axes(
        scene, view, f"{name}: {', '.join(title)}" if title else name
    )
    if isinstance(labels, PolygonLabels):
        lines = thinned(labels.polygons.geometries, scene.grid)
        handles.append(outlined(axes, lines, "landslides", "#ffe600"))
    elif labels is not None:
        handles.append(contoured(axes, view))
    if checked is not None:
        areas = read_polygons(checked, scene.grid, what="checked areas")
        lines = thinned(areas.geometries, scene.grid)
        handles.append(outlined(axes, lines, "checked areas", "#00e5ff"))
    write_figure(figure, handles, path)
