"""Pictures of the ground before training; no imagery, so they can be shown anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import shapely

from landslip.geo.grid import Grid
from landslip.geo.inventory import Polygons

if TYPE_CHECKING:
    from landslip.prepare.tiles import Tile

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
