"""Pictures of scenes, landslides and splits; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Polygons
from landslip.geo.labels import LANDSLIDE, Labels
from landslip.geo.parallel import few_threads, in_order
from landslip.geo.raster import Scene
from landslip.geo.scene import OBSERVED, StackedScene
from landslip.geo.terrain import middle_steps_m
from landslip.geo.windows import cover

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landslip.prepare.tile_set import Tile

PICTURE_PX = 1600
"""Longest side of the picture (px)."""
READ_PX = 1024
"""Side of the windows that are read (px)."""
DRAWN_AT_ONCE = 1000
"""Polygons that are thinned and drawn at once."""
Floats = NDArray[np.float64]

SPLIT_COLOURS = {"train": "#2166ac", "validation": "#f4a582", "test": "#b2182b"}


def write_split_picture(
    path: Path, tiles: Sequence[Tile], grid: Grid, polygons: Polygons | None
) -> None:
    """Draw the tiles of every side over the landslides, in scene pixels."""
    from matplotlib.collections import PatchCollection, PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    width_in = 9.0
    height_in = min(max(width_in * grid.height / grid.width, 1.6), 12.0) + 0.9
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, grid.width), ylim=(grid.height, 0), aspect="equal")
    axes.set(xlabel="column (px)", ylabel="row (px)")
    handles = []
    for split, colour in SPLIT_COLOURS.items():
        windows = [tile.window for tile in tiles if tile.split == split]
        patches = [Rectangle((w.col, w.row), w.width, w.height) for w in windows if w]
        if patches:
            axes.add_collection(
                PatchCollection(
                    patches, facecolor=colour, edgecolor=colour, alpha=0.25, linewidth=0.8
                )
            )
            handles.append(Patch(color=colour, alpha=0.6, label=f"{split} ({len(patches)} tiles)"))
    if polygons is not None:
        rings = [
            [~grid.transform * (x, y) for x, y in part.exterior.coords]
            for shape in polygons.geometries
            for part in shapely.get_parts(shape)
        ]
        axes.add_collection(PolyCollection(rings, facecolor="#333333", edgecolor="none"))
        handles.append(Patch(color="#333333", label="landslides"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


@dataclass(frozen=True, eq=False)
class View:
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
        """True where nothing was seen, and nobody took the ground out."""
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


def reduced(
    scene: Scene, *, bands: Sequence[str] | None = None, labels: Labels | None = None
) -> View:
    """Read the scene window by window, in several threads, into means of square blocks."""
    grid = scene.grid
    chosen = tuple(bands or scene.bands)
    chosen = chosen[: 3 if len(chosen) >= 3 else 1]
    factor = math.ceil(max(grid.shape) / PICTURE_PX)
    height, width = math.ceil(grid.height / factor), math.ceil(grid.width / factor)
    colours = np.full((height, width, len(chosen)), np.nan, dtype=np.float32)
    excluded, landslide = np.zeros((2, height, width), dtype=bool)

    def show(window: Window) -> None:
        """Fill in the part of a window, which no other window shares."""
        raster = scene.read(window, chosen)
        rows, cols = (-(-side // factor) for side in raster.grid.shape)
        row, col = window.row // factor, window.col // factor
        part = np.s_[row : row + rows, col : col + cols]
        counts = _block_sums(raster.valid, factor)
        sums = _block_sums(raster.values, factor)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        colours[part] = np.moveaxis(means, 0, -1)
        if isinstance(scene, StackedScene):
            excluded[part] = _block_sums(scene.excluded(window) != OBSERVED, factor) > counts
        if labels is not None:
            landslide[part] = _block_sums(labels.read(window) == LANDSLIDE, factor) > 0

    windows = cover(grid, factor * max(READ_PX // factor, 1))
    for _ in in_order(show, windows, few_threads()):
        pass
    return View(colours, excluded, landslide, factor)


def _block_sums(values: NDArray[Any], factor: int) -> Floats:
    """Sums of square blocks of `factor` pixels over the last two axes; the last may be smaller."""
    *planes, height, width = values.shape
    lacking = -height % factor, -width % factor
    if any(lacking):
        values = np.pad(values, [(0, 0)] * len(planes) + [(0, side) for side in lacking])
    blocks = values.reshape(*planes, -1, factor, values.shape[-1])
    by_row = blocks.sum(axis=-2, dtype=np.float64)
    return np.asarray(by_row.reshape(*by_row.shape[:-1], -1, factor).sum(axis=-1))


def _hatched(axes: Axes, view: View) -> None:
    ys, xs = ((np.arange(side) + 0.5) * view.factor for side in view.excluded.shape)
    if min(view.excluded.shape) > 1:
        axes.contourf(xs, ys, view.excluded, levels=[0.5, 1.5], colors="none", hatches=["////"])


def thinned(geometries: NDArray[np.object_], grid: Grid) -> list[NDArray[np.float32]]:
    """Outlines of polygons as a picture of their scene can show them, in its pixels.

    Returns:
        Of every `DRAWN_AT_ONCE` polygons, columns and rows of vertices, shape (V, 2); NaN between
        two rings.
    """
    # A quarter of a pixel of the picture shows nothing, and what is smaller becomes a dot.
    finest = max(grid.shape) / PICTURE_PX / 4
    lines = []
    for begin in range(0, len(geometries), DRAWN_AT_ONCE):
        rings = shapely.get_rings(shapely.get_parts(geometries[begin : begin + DRAWN_AT_ONCE]))
        points, ring = shapely.get_coordinates(rings, return_index=True)
        points = np.column_stack(~grid.transform * tuple(points.T))
        thin = shapely.simplify(
            shapely.linestrings(points, indices=ring), finest, preserve_topology=False
        )
        points, line = shapely.get_coordinates(thin, return_index=True)
        broken = np.insert(points, np.flatnonzero(np.diff(line)) + 1, np.nan, axis=0)
        lines.append(broken.astype(np.float32))
    return lines


def outlined(axes: Axes, lines: Sequence[NDArray[np.float32]], text: str, colour: str) -> Any:
    """Draw thinned outlines on axes in pixels of the scene; returns the entry of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    for points in lines:
        line = Line(points)
        line.should_simplify = False  # or dots would be lost
        axes.add_artist(
            PathPatch(line, fill=False, edgecolor=colour, linewidth=0.8, capstyle="round")
        )
    return Line2D([], [], color=colour, label=text)


def contoured(axes: Axes, view: View) -> Any:
    """Draw the edge of the landslides of a label raster; returns the entry of the legend."""
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


def scene_axes(scene: Scene, view: View, title: str) -> tuple[Figure, Axes, list[Any]]:
    """A figure with the scene, what of it is not usable, a scale bar and a title.

    Returns:
        The figure, its axes in scene pixels, and the entries of the legend so far.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    grid = scene.grid
    width_m, height_m = middle_steps_m(grid)
    aspect = height_m / width_m
    tall = grid.height * aspect / grid.width
    side = 10.0
    figure = Figure(
        figsize=(max(side * min(1, 1 / tall), 5.0), max(side * min(1, tall), 1.0) + 0.7),
        layout="constrained",
    )
    axes = figure.add_subplot()
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
    _scale_bar(axes, grid, width_m if grid.crs else 1.0, "m" if grid.crs else "px")
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes, handles


def write_figure(figure: Figure, handles: list[Any], path: Path) -> None:
    """Put the legend below and write a PNG."""
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False)
    figure.savefig(path, dpi=160, format="png")
