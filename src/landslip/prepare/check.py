"""Verb `check`: what was understood of a scene and its landslides, and what is suspicious.

Everything is read window by window, so memory does not grow with the scene.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from landslip.geo.labels import (
    BACKGROUND,
    LANDSLIDE,
    UNLABELLED,
    Labels,
    PolygonLabels,
    open_labels,
)
from landslip.geo.output import refuse_existing, whole_file
from landslip.geo.progress import track
from landslip.geo.raster import Raster, Scene
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
CLEARLY_BETTER = 5.0
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
        band_name(name.removeprefix("pre_"))
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
    counted = [name.removeprefix("pre_") not in _TERRAIN for name in scene.bands]
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
            tally.cells.extend(_cells_with_edges(plane, window))
    return tally


def _spread(grid: Grid) -> list[Window]:
    """All windows of a grid; of a large one, every so manieth."""
    windows = list(cover(grid, CORE_PX))
    step = max(round(grid.height * grid.width / SAMPLE_ABOVE_PX), 1)
    # A step that shares a factor with the row length would look at the same columns only.
    while step > 1 and math.gcd(step, math.ceil(grid.width / CORE_PX)) > 1:
        step += 1
    return windows[::step]


def _cells_with_edges(plane: NDArray[np.uint8], window: Window) -> Iterator[Window]:
    """Squares of a window that hold enough of an outline to compare."""
    rows, cols = np.nonzero(_edges(plane))
    across = math.ceil(window.width / CELL_PX)
    counts = np.bincount((rows // CELL_PX) * across + cols // CELL_PX)
    for number in np.flatnonzero(counts >= FEWEST_EDGE_PX):
        row, col = divmod(int(number), across)
        cell = Window(
            window.row + row * CELL_PX, window.col + col * CELL_PX, CELL_PX, CELL_PX
        ).intersection(window)
        if cell is not None:
            yield cell


def _edges(plane: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Landslide pixels beside background; the edge of labelled ground is no outline."""
    edges = np.zeros(plane.shape, dtype=bool)
    for axis in (0, 1):
        first = np.moveaxis(plane, axis, 0)[:-1]
        second = np.moveaxis(plane, axis, 0)[1:]
        out = np.moveaxis(edges, axis, 0)
        out[:-1] |= (first == LANDSLIDE) & (second == BACKGROUND)
        out[1:] |= (second == LANDSLIDE) & (first == BACKGROUND)
    return edges


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


# Shift between outlines and image


def estimate_shift(scene: Scene, labels: Labels, cells: Sequence[Window]) -> Shift | None:
    """The offset at which landslide outlines lie best on the edges of the image.

    Every offset up to 10 px is scored in up to 60 squares: mean over the outline of how far the
    image changes across the outline there (1) rather than along it (-1). A shift is likely where
    the best offset is at least 2 px away, is better than none by 5 standard errors over the
    squares, and stands 4 standard deviations above the mean of all offsets. Outlines that have
    nothing to do with the image reach one of the two by chance, not both.

    Measured on draws of 8 to 60 squares from an aerial (0.5 m) and a Sentinel-2 scene: 13,500
    draws with outlines in place, roughly drawn or mirrored gave no false alarm; shifts of 2 to 8 px
    were found in 80 % (8 squares), 91 % (12), 99 % (20) and all (40) draws, never more than 1.5 px
    from the truth. Outlines that were drawn roughly hide their shift: nothing is said then.

    Args:
        scene: Image; bands of terrain and from before the event are left out.
        labels: Landslides on the grid of the scene.
        cells: Squares that hold outlines.

    Returns:
        The best offset, or None where fewer than 8 squares can be compared.
    """
    after = [name for name in scene.bands if not name.startswith("pre_") and name not in _TERRAIN]
    if not after or len(cells) < FEWEST_CELLS:
        return None
    chosen = np.linspace(0, len(cells) - 1, min(len(cells), CELLS)).round().astype(int)
    found = [_offset_scores(scene, after, labels, cells[number]) for number in chosen]
    scores = np.array([part for part in found if part is not None])
    if len(scores) < FEWEST_CELLS:
        return None
    mean = scores.mean(axis=0)
    row, col = np.unravel_index(int(mean.argmax()), mean.shape)
    gains = scores[:, row, col] - scores[:, REACH_PX, REACH_PX]
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    rows_px, cols_px = int(row) - REACH_PX, int(col) - REACH_PX
    widths, height = pixel_steps_m(scene.grid.crop(_middle_row(scene.grid)))
    return Shift(
        rows_px=rows_px,
        cols_px=cols_px,
        distance_m=math.hypot(rows_px * height, cols_px * float(widths[0, 0])),
        cells=len(scores),
        gain_se=float(gains.mean()) / error if error > 0 else 0.0,
        peak_sd=float((mean.max() - mean.mean()) / mean.std()) if mean.std() > 0 else 0.0,
    )


def _offset_scores(
    scene: Scene, bands: Sequence[str], labels: Labels, cell: Window
) -> Floats | None:
    """Score of every offset in one square, shape (21, 21), or None where it cannot be had."""
    from scipy.ndimage import gaussian_filter

    around = cell.grown(REACH_PX + 4).intersection(scene.grid.window)
    assert around is not None
    raster = scene.read(around, bands)
    plane = labels.read(around)
    rows, cols = np.nonzero(_edges(plane))
    own = cell.relative_to(around)
    # Outlines must be in the square, and the whole reach around them in the scene.
    usable = (rows >= max(own.row, REACH_PX)) & (cols >= max(own.col, REACH_PX))
    usable &= rows < min(own.row_stop, around.height - REACH_PX)
    usable &= cols < min(own.col_stop, around.width - REACH_PX)
    rows, cols = rows[usable], cols[usable]
    if len(rows) < FEWEST_EDGE_PX or raster.valid.mean() < 0.5:
        return None
    across, slanted = _edge_directions(raster)
    inside = (plane == LANDSLIDE).astype(np.float64)
    down = gaussian_filter(inside, 1.0, order=(1, 0))[rows, cols]
    right = gaussian_filter(inside, 1.0, order=(0, 1))[rows, cols]
    # Twice the angle: opposite sides of an edge count alike.
    twice = 2 * np.arctan2(down, right)
    size = (2 * REACH_PX + 1, 2 * REACH_PX + 1)
    at = (rows - REACH_PX, cols - REACH_PX)
    near = [np.lib.stride_tricks.sliding_window_view(part, size)[at] for part in (across, slanted)]
    weights = np.cos(twice)[:, None, None], np.sin(twice)[:, None, None]
    scores: Floats = (near[0] * weights[0] + near[1] * weights[1]).mean(axis=0)
    return scores


def _edge_directions(raster: Raster) -> tuple[Floats, Floats]:
    """Cosine and sine of twice the direction of image gradients, 0 where the image is flat.

    Source: the structure tensor, Bigun and Granlund 1987, summed over bands.
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    xx, xy, yy = np.zeros((3, *raster.valid.shape))
    for plane in raster.values:
        low, high = np.percentile(plane[raster.valid], [2, 98])
        scaled = np.clip((plane - low) / max(high - low, 1e-9), 0, 1).astype(np.float64)
        down = gaussian_filter(scaled, 1.0, order=(1, 0))
        right = gaussian_filter(scaled, 1.0, order=(0, 1))
        xx, xy, yy = xx + right * right, xy + right * down, yy + down * down
    # The edge of the valid ground is no edge of the image.
    inner = binary_erosion(raster.valid, iterations=4, border_value=1)
    strength = xx + yy
    # Strong edges (roads, roofs) count little more than clear ones.
    damped = strength + max(float(np.percentile(strength[raster.valid], 75)), 1e-12)
    return np.where(inner, (xx - yy) / damped, 0), np.where(inner, 2 * xy / damped, 0)


def _middle_row(grid: Grid) -> Window:
    return Window(grid.height // 2, 0, 1, grid.width)


# Picture


def _draw(
    scene: Scene,
    labels: Labels | None,
    checked: str | Path | None,
    found: SceneCheck,
    path: Path,
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    grid = scene.grid
    widths, height_m = pixel_steps_m(grid.crop(_middle_row(grid)))
    width_m = float(widths[0, 0])
    aspect = height_m / width_m
    tall = grid.height * aspect / grid.width
    side = 10.0
    figure = Figure(
        figsize=(max(side * min(1, 1 / tall), 5.0), max(side * min(1, tall), 1.0) + 0.7),
        layout="constrained",
    )
    axes = figure.add_subplot()
    view = _reduced(scene, labels)
    extent = (0, grid.width, grid.height, 0)
    axes.imshow(view.picture(), extent=extent, aspect=aspect, interpolation="nearest")
    handles: list[Any] = []
    if view.nodata.any():
        handles.append(Patch(facecolor="#999999", label="no data"))
    if view.excluded.any():
        _hatched(axes, view)
        handles.append(Patch(facecolor="#999999", hatch="////", label="excluded"))
    axes.set(xlim=(0, grid.width), ylim=(grid.height, 0))
    axes.set_axis_off()
    slides = found.inventory
    if isinstance(labels, PolygonLabels):
        handles.append(_outlined(axes, labels.polygons.geometries, grid, "landslides", "#ffe600"))
    elif labels is not None:
        handles.append(_contoured(axes, view))
    if checked is not None:
        areas = read_polygons(checked, grid, what="checked areas")
        handles.append(_outlined(axes, areas.geometries, grid, "checked areas", "#00e5ff"))
    _scale_bar(axes, grid, width_m if found.crs else 1.0, "m" if found.crs else "px")
    title = [f"{found.area_km2:.3g} km²"] if found.crs else []
    if slides is not None:
        size = f"{slides.area_km2:.3g} km²" if found.crs else _percent(slides.landslide_share)
        count = "" if slides.inside is None else f"{slides.inside} "
        title.append(f"{count}landslides ({size})")
    name = found.files[0].partition(": ")[2]
    name = f"{Path(name).name}: {', '.join(title)}" if title else Path(name).name
    axes.set_title(name, loc="left", fontsize=11)
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False)
    figure.savefig(path, dpi=160, format="png")


@dataclass(frozen=True, eq=False)
class _View:
    """A scene made small: planes (h, w) that cover the whole grid."""

    colours: NDArray[np.float32]
    """Shape (h, w, 1 or 3): means of the valid pixels; NaN where none is."""
    excluded: NDArray[np.bool_]
    landslide: NDArray[np.bool_]
    """True where any pixel is landslide."""
    factor: int
    """Pixels of the scene along one pixel of the view."""

    @property
    def nodata(self) -> NDArray[np.bool_]:
        return np.isnan(self.colours[..., 0]) & ~self.excluded

    def picture(self) -> NDArray[np.float32]:
        """Red, green, blue from 0 to 1, stretched between the 2nd and 98th percentile."""
        shown = np.full((*self.excluded.shape, 3), 0.6, dtype=np.float32)
        known = ~np.isnan(self.colours[..., 0])
        if known.any():
            pixels = self.colours[known]
            low, high = np.percentile(pixels, [2, 98], axis=0)
            shown[known] = np.clip((pixels - low) / np.maximum(high - low, 1e-9), 0, 1)
        return shown


def _reduced(scene: Scene, labels: Labels | None) -> _View:
    """Read the scene window by window into means of square blocks."""
    grid = scene.grid
    bands = scene.bands[: 3 if len(scene.bands) >= 3 else 1]
    factor = math.ceil(max(grid.shape) / PICTURE_PX)
    height, width = math.ceil(grid.height / factor), math.ceil(grid.width / factor)
    colours = np.full((height, width, len(bands)), np.nan, dtype=np.float32)
    excluded, landslide = np.zeros((2, height, width), dtype=bool)
    for window in cover(grid, factor * max(CORE_PX // factor, 1)):
        raster = scene.read(window, bands)
        rows, cols = (np.arange(0, side, factor) for side in raster.grid.shape)
        row, col = window.row // factor, window.col // factor
        part = np.s_[row : row + len(rows), col : col + len(cols)]
        counts = _blocks(raster.valid, rows, cols)
        sums = _blocks(raster.values, rows, cols)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        colours[part] = np.moveaxis(means, 0, -1)
        if isinstance(scene, StackedScene):
            excluded[part] = _blocks(scene.excluded(window) != OBSERVED, rows, cols) > counts
        if labels is not None:
            landslide[part] = _blocks(labels.read(window) == LANDSLIDE, rows, cols) > 0
    return _View(colours, excluded, landslide, factor)


def _blocks(values: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Floats:
    """Sums of blocks that start at `rows` and `cols`, over the last two axes."""
    by_row = np.add.reduceat(values, rows, axis=-2, dtype=np.float64)
    return np.asarray(np.add.reduceat(by_row, cols, axis=-1), dtype=np.float64)


def _hatched(axes: Axes, view: _View) -> None:
    ys, xs = ((np.arange(side) + 0.5) * view.factor for side in view.excluded.shape)
    if min(view.excluded.shape) > 1:
        axes.contourf(xs, ys, view.excluded, levels=[0.5, 1.5], colors="none", hatches=["////"])


def _outlined(
    axes: Axes, geometries: NDArray[np.object_], grid: Grid, text: str, colour: str
) -> Any:
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    rings = shapely.get_rings(shapely.get_parts(geometries))
    lines = [
        np.column_stack(~grid.transform * tuple(shapely.get_coordinates(ring).T)) for ring in rings
    ]
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.8), autolim=False)
    return Line2D([], [], color=colour, label=text)


def _contoured(axes: Axes, view: _View) -> Any:
    from matplotlib.lines import Line2D

    colour = "#ffe600"
    plane = np.pad(view.landslide, 1)
    ys, xs = ((np.arange(side) - 0.5) * view.factor for side in plane.shape)
    if view.landslide.any():
        axes.contour(xs, ys, plane, levels=[0.5], colors=colour, linewidths=0.8)
    return Line2D([], [], color=colour, label="landslides")


def _scale_bar(axes: Axes, grid: Grid, unit_per_px: float, unit: str) -> None:
    """Draw a bar of a round length, about a fifth of the width, at the lower left."""
    from matplotlib.patheffects import withStroke

    wanted = grid.width * unit_per_px / 5
    power = 10.0 ** math.floor(math.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    text = f"{length / 1000:g} km" if unit == "m" and length >= 1000 else f"{length:g} {unit}"
    outline = [withStroke(linewidth=4, foreground="black")]
    left, low = 0.02 * grid.width, 0.95 * grid.height
    right = left + length / unit_per_px
    axes.plot([left, right], [low, low], color="white", linewidth=2, path_effects=outline)
    axes.annotate(
        text,
        ((left + right) / 2, low),
        (0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color="white",
        path_effects=outline,
    )
