"""Charts of an evaluation: can probabilities be believed, which sizes are found, where it is worst.

The precision-recall curve and the error map are in `pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from landslip.assess.blocks import Blocks
from landslip.assess.evaluation import BlockCounts
from landslip.assess.objects import SIZE_TEXTS, SizeCounts
from landslip.assess.pictures import ERRORS, FAINT, INK, NOT_SCORED, pixel_sides_m
from landslip.assess.scores import ScoreHistogram
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import rasterio_window

BLUE, RED = "#1c48d6", "#d61818"
WORST = 4
"""Blocks that are shown."""
PANEL_PX = 500
"""Longest side of a block in its picture (px)."""


def write_reliability(histogram: ScoreHistogram, path: Path) -> None:
    """Draw said against true probability as PNG, with the share of the ground of every range."""
    from matplotlib.figure import Figure

    bins = histogram.reliability()
    figure = Figure(figsize=(7, 6.4), dpi=100, facecolor="white", layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot((0, 1), (0, 1), color="#bbbbbb", linewidth=1, label="as said")
    said, true = ([getattr(each, name) for each in bins] for name in ("said", "true"))
    axes.plot(said, true, "o-", color=BLUE, linewidth=2, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share that is landslide")
    pixels = np.array([each.pixels for each in bins])
    below.bar(said, pixels / max(int(pixels.sum()), 1), width=0.06, color="#9db2e8")
    below.set(xlabel="Mean score of the map", ylabel="Share of ground", yscale="log")
    below.tick_params(axis="y", which="minor", labelleft=False)
    below.yaxis.set_major_formatter(lambda part, _: f"{100 * part:g}%")
    for each in (axes, below):
        each.spines[["top", "right"]].set_visible(False)
    error, brier = histogram.calibration_error(), histogram.brier()
    axes.set_title(f"Calibration error {error:.3f}, Brier score {brier:.3f}", loc="left", pad=12)
    figure.savefig(path, format="png")


def write_sizes(counts: SizeCounts, path: Path) -> None:
    """Draw which share of the landslides of every size is found as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=100, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(SIZE_TEXTS))
    axes.bar(places, np.nan_to_num(np.array(counts.recall)), color="#ffd600", width=0.7)
    for place, reference, found in zip(places, counts.reference, counts.found, strict=True):
        text = f"{found:,} of {reference:,}" if reference else "none"
        axes.annotate(
            text, (place, found / reference if reference else 0), (0, 3), color=INK,
            textcoords="offset points", ha="center", va="bottom", fontsize=9,
        )  # fmt: skip
    axes.set(ylim=(0, 1.08), ylabel="Share of the landslides found", xticks=places)
    axes.set_xticklabels(SIZE_TEXTS, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Landslides of which half of the pixels are mapped", loc="left", fontsize=11)
    figure.savefig(path, format="png")


def worst_blocks(blocks: BlockCounts, grid: Grid) -> list[Window]:
    """The blocks with the most wrong pixels, the worst first; at most `WORST`."""
    side = Blocks(grid, blocks.block_m).side
    wrong = blocks.counts[:, 1] + blocks.counts[:, 2]
    order = np.argsort(-wrong, kind="stable")[:WORST]
    return [
        Window(row * side, col * side, min(side, grid.height - row * side),
               min(side, grid.width - col * side))
        for row, col in blocks.places[order[wrong[order] > 0]].tolist()
    ]  # fmt: skip


def write_worst_blocks(
    errors: Path, windows: Sequence[Window], path: Path, *, are_tiles: bool = False
) -> None:
    """Draw parts of an error map, with what lies around them, side by side as PNG.

    Args:
        errors: The error raster.
        windows: Its parts, at least one.
        path: Where to write.
        are_tiles: True: the parts are tiles, and what lies around them is other ground.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    colours = ERRORS.colours()
    side = max(max(window.height, window.width) for window in windows)
    across = min(len(windows), 2)
    down = math.ceil(len(windows) / across)
    with rasterio.open(errors) as raster:
        grid = Grid(raster.crs, raster.transform, raster.height, raster.width)
        shown = [
            _scored(raster, window) if are_tiles else _around(window, 2 * side, grid)
            for window in windows
        ]
        width_m, height_m = pixel_sides_m(grid)
        high = max(part.height for part in shown) * height_m
        wide = max(part.width for part in shown) * width_m
        inches = 4.2 / max(high, wide)
        figure = Figure(
            figsize=(max(wide * inches, 3) * across, (high * inches + 0.2) * down), dpi=110,
            layout="constrained",
        )  # fmt: skip
        panels = np.atleast_1d(figure.subplots(down, across)).ravel()
        for number, (axes, window, part) in enumerate(zip(panels, windows, shown, strict=False), 1):
            shrunk = max(max(part.height, part.width) / PANEL_PX, 1)
            shape = max(round(part.height / shrunk), 1), max(round(part.width / shrunk), 1)
            classes = raster.read(1, window=rasterio_window(part), out_shape=shape)
            extent = (part.col, part.col_stop, part.row_stop, part.row)
            axes.imshow(
                colours[classes], extent=extent, interpolation="nearest", aspect=height_m / width_m
            )
            place = f"rows {window.row}–{window.row_stop}, columns {window.col}–{window.col_stop}"
            if are_tiles:
                place = f"row {window.row // side + 1}, tile {window.col // side + 1}"
            else:
                corner, sides = (window.col, window.row), (window.width, window.height)
                axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=INK, linewidth=1.2))
            axes.set_title(f"{number}  {place}", fontsize=9, loc="left", color=FAINT)
    for number, axes in enumerate(panels):
        axes.set(xticks=(), yticks=(), anchor="NW")
        axes.spines[:].set_color("#bbbbbb")
        axes.set_visible(number < len(windows))
    figure.savefig(path, format="png")


def _scored(raster: Any, window: Window) -> Window:
    """The part of the place of a tile that the tile takes."""
    known = raster.read(1, window=rasterio_window(window)) != NOT_SCORED
    (top, bottom), (left, right) = (
        np.flatnonzero(known.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0)
    )
    return Window(window.row + top, window.col + left, bottom - top + 1, right - left + 1)


def _around(window: Window, side: int, grid: Grid) -> Window:
    """A square around a part of the map that does not leave it, so that all are alike."""
    height, width = min(side, grid.height), min(side, grid.width)
    row = window.row + (window.height - height) // 2
    col = window.col + (window.width - width) // 2
    return Window(
        min(max(row, 0), grid.height - height), min(max(col, 0), grid.width - width), height, width
    )
