"""What a probability raster says of each landslide, and of what lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from landslip.geo.grid import Window
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE
from landslip.geo.quiet import without_position
from landslip.geo.scene import OBSERVED, REASONS
from landslip.inventory.ground import GroundCodes, codes_of_ground
from landslip.inventory.pixels import Coded, in_strips, numbered, strip_windows
from landslip.inventory.spool import Polygons

Floats = NDArray[np.float64]
LOW_SHARE = 0.1
"""Share of the pixels that lie at or below `probability_p10`."""
CLASSES = ("low", "medium", "high")
"""Of the mean probability: thirds of the way from the threshold to 1."""
LEVELS = TOP_CODE + 1


@dataclass(frozen=True)
class Certainty:
    """Probabilities of N landslides; NaN where no pixel is known."""

    mean: Floats
    largest: Floats
    low: Floats
    """10th percentile: the smallest that at least a tenth of the pixels do not exceed."""
    beside: NDArray[np.uint8]
    """Bit 2^code is set where ground beside or in it was not observed for the reason `code`."""

    def columns(self, threshold: float) -> dict[str, NDArray[Any]]:
        """Columns of the inventory.

        Args:
            threshold: Of the outlines.
        """
        share = (self.mean - threshold) / max(1 - threshold, 1e-9)
        third = np.clip(np.nan_to_num(share) * 3, 0, 2).astype(np.int64)
        return {
            "probability_mean": np.round(self.mean, 4),
            "probability_max": np.round(self.largest, 4),
            "probability_p10": np.round(self.low, 4),
            "probability_class": np.array(CLASSES, dtype=object)[third],
        }

    @property
    def reasons(self) -> NDArray[np.object_]:
        """Why ground beside each was not observed, in words; empty where all was."""
        texts = {
            int(bits): "; ".join(
                words for code, words in REASONS.items() if int(bits) & (1 << code)
            )
            for bits in np.unique(self.beside)
        }
        return np.array([texts[int(bits)] for bits in self.beside], dtype=object)


def certainty_of(
    polygons: Polygons,
    scene: Coded,
    *,
    ground: GroundCodes | None = None,
    strip_rows: int | None = None,
) -> Certainty:
    """Probabilities in every polygon, and what was not observed beside it.

    Probabilities are those of the written map, over the pixels whose middle lies inside; for
    polygons without one, over the pixels they touch.

    Args:
        polygons: In the CRS of `scene`; they do not overlap.
        scene: The written probability raster.
        ground: Why ground was not observed, on the same grid; None: there is no data where no
            probability is known.
        strip_rows: Rows of a strip; None: as many as 4 million pixels.
    """
    grid, number = scene.grid, len(polygons)
    counts = np.zeros((number, LEVELS), dtype=np.int32)
    beside = np.zeros(number, dtype=np.uint8)
    tree = shapely.STRtree(polygons)
    extent = grid.window_of(tuple(shapely.total_bounds(polygons).tolist())) if number else None
    strips = strip_windows(grid, strip_rows)
    windows = (window for strip in strips if extent and (window := strip.intersection(extent)))

    def in_strip(window: Window) -> tuple[NDArray[np.int64], ...]:
        """Numbers of landslides and codes of all pixels inside one; and what lies beside."""
        own = grid.crop(window)
        here = tree.query(own.footprint(), predicate="intersects")
        if not here.size:
            return (here,) * 4
        around = window.grown(1).intersection(grid.window)
        assert around is not None
        inner = window.relative_to(around).slices
        codes = scene.read(around)
        numbers = numbered(polygons[here], own)
        inside = (numbers > 0) & (codes[inner] != UNKNOWN_CODE)
        seen = codes_of_ground(codes) if ground is None else ground.read(around)
        touched, reasons = _beside(numbers, seen, inner)
        owners = here[numbers[inside] - 1]
        return owners, codes[inner][inside].astype(np.int64), here[touched], reasons

    for owners, codes, touched, reasons in in_strips(in_strip, windows):
        np.add.at(counts.reshape(-1), owners * LEVELS + codes, 1)
        np.bitwise_or.at(beside, touched, (1 << reasons).astype(np.uint8))
    for missed in np.flatnonzero(counts.sum(axis=1) == 0):
        np.add.at(counts[missed], _codes_touched(polygons[missed], scene), 1)
    return _certainty(counts, beside)


def _certainty(counts: NDArray[np.int32], beside: NDArray[np.uint8]) -> Certainty:
    """From pixels by landslide and code, shape (N, 255)."""
    below = np.cumsum(counts, axis=1)
    total = below[:, -1]
    known = np.where(total, 1.0, np.nan) / TOP_CODE
    levels = np.arange(LEVELS)
    mean = (counts @ levels) / np.maximum(total, 1)
    largest = np.where(counts > 0, levels, 0).max(axis=1, initial=0)
    low = (below < LOW_SHARE * total[:, None]).sum(axis=1)
    return Certainty(mean * known, largest * known, low * known, beside)


def _beside(
    numbers: NDArray[np.int32], seen: NDArray[np.integer], inner: tuple[slice, slice]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Landslides (from 0) with a pixel in or next to ground not observed, and its code."""
    from scipy.ndimage import binary_dilation

    none = np.zeros(0, dtype=np.int64)
    found, reasons = [none], [none]
    for code in np.unique(seen[seen != OBSERVED]).tolist():
        near = binary_dilation(seen == code, np.ones((3, 3)))[inner]
        touched = np.unique(numbers[near & (numbers > 0)]) - 1
        found.append(touched.astype(np.int64))
        reasons.append(np.full(len(touched), code))
    return np.concatenate(found), np.concatenate(reasons)


def _codes_touched(polygon: shapely.Polygon, scene: Coded) -> NDArray[np.uint8]:
    window = scene.grid.window_of(polygon.bounds)
    if window is None:
        return np.zeros(0, dtype=np.uint8)
    codes = scene.read(window)
    transform = scene.grid.crop(window).transform
    with without_position():
        touched = rasterize(
            [polygon], out_shape=codes.shape, transform=transform, dtype="uint8", all_touched=True
        )
    inside: NDArray[np.uint8] = codes[(touched == 1) & (codes != UNKNOWN_CODE)]
    return inside


def touches_edge(polygons: Polygons, scene: Coded) -> NDArray[np.bool_]:
    """Where polygons reach the edge of a raster, shape (N,)."""
    height, width = scene.grid.shape
    to_pixels = ~scene.grid.transform
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    cols, rows = to_pixels * xy.T
    at = np.minimum.reduce([cols, rows, width - cols, height - rows]) <= 1e-6 * max(height, width)
    reached = np.zeros(len(polygons), dtype=bool)
    reached[owner[at]] = True
    return reached
