"""How far a panchromatic image and its multispectral bands lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from landslip.geo.grid import Window
from landslip.geo.parallel import in_order
from landslip.geo.quiet import quietly
from landslip.geo.raster import Scene
from landslip.prepare.sharpen.fusion import Moments, fit

CELL_PX = 48
"""Side of the windows that are compared (multispectral px)."""
FINEST = 100
"""Steps of a pixel that the correlation is resolved to."""
MOST_CELLS = 64
"""Windows that are looked at, at most; the more textured half is compared."""
LARGEST_ERROR = 0.5
"""Windows whose images disagree more than this after the shift (0 to 1) are left out."""
FEWEST_CELLS = 3
FEWEST_SIDE_PX = 16

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Offset:
    """By how much the bands must move to lie on the pan (multispectral px)."""

    rows_px: float
    """Down is positive."""
    cols_px: float
    """Right is positive."""
    spread_px: float
    """Median absolute deviation over the windows, the larger of rows and columns."""
    cells: int
    """Windows that were compared."""


def measure_offset(
    averaged: Scene, bands: Scene, *, within: Window | None = None, threads: int = 1
) -> Offset | None:
    """Phase correlation of the pan, averaged to the bands' pixels, with the pan they simulate.

    Up to 64 windows of 48 px, evenly spread, are read. A regression on them finds the weights of
    the bands; the more textured half is correlated to a hundredth of a pixel; the median counts.

    Args:
        averaged: The pan on the grid of the bands, one band.
        bands: All multispectral bands.
        within: The bands' pixels that both files show; None for all.
        threads: Threads that read.

    Returns:
        The offset, or None where fewer than 3 windows have enough texture to tell.

    Source: Guizar-Sicairos, Thurman, Fienup 2008, Optics Letters 33(2)
        (skimage.registration.phase_cross_correlation, amplitudes kept).
    """
    read = in_order(
        lambda window: _read(averaged, bands, window), _cells(within or bands.grid.window), threads
    )
    pairs = [pair for pair in read if pair is not None]
    if len(pairs) < FEWEST_CELLS:
        return None
    moments = reduce(add, [Moments.of(pair.reshape(len(pair), -1)) for pair in pairs])
    if not moments.covariance[-1, -1] > 0 or not np.diag(moments.covariance)[:-1].any():
        return None
    weights = np.array(fit("gsa", moments).weights)
    images = [(pair[-1], np.tensordot(weights, pair[:-1], 1)) for pair in pairs]
    texture = np.array([_texture(simulated) for _, simulated in images])
    textured = np.flatnonzero(texture >= max(float(np.median(texture)), 1e-9))
    found = [shift for cell in textured if (shift := _shift(*images[cell])) is not None]
    if len(found) < FEWEST_CELLS:
        return None
    middle = np.median(found, axis=0)
    spread = float(np.median(np.abs(np.array(found) - middle), axis=0).max())
    return Offset(float(middle[0]), float(middle[1]), spread, len(found))


def _cells(within: Window) -> list[Window]:
    """Windows evenly spread over the ground; they overlap on small scenes."""
    height, width = within.height, within.width
    side = min(CELL_PX, height, width)
    if side < FEWEST_SIDE_PX:
        return []
    # Half a window apart at least, and about as many a row as a column of equal ground.
    share = math.sqrt(MOST_CELLS * height / width)
    down = min(max(round(share), 1), 2 * height // side, MOST_CELLS)
    right = min(max(MOST_CELLS // down, 1), 2 * width // side)
    rows = within.row + np.linspace(0, height - side, down).round().astype(int)
    cols = within.col + np.linspace(0, width - side, right).round().astype(int)
    return [Window(int(row), int(col), side, side) for row in rows for col in cols]


def _read(averaged: Scene, bands: Scene, window: Window) -> Doubles | None:
    """Bands and averaged pan of one window, shape (C + 1, H, W); None where some is not valid."""
    below = bands.read(window, bands.bands)
    if not below.valid.all():
        return None
    above = averaged.read(window, averaged.bands)
    if not above.valid.all():
        return None
    return np.concatenate([below.values, above.values]).astype(np.float64)


def _texture(image: Doubles) -> float:
    """Root mean square of the gradient, smoothed against noise."""
    from scipy.ndimage import gaussian_gradient_magnitude

    return float(np.sqrt(np.mean(gaussian_gradient_magnitude(image, 1.0) ** 2)))


def _shift(pan: Doubles, simulated: Doubles) -> Doubles | None:
    """Rows and columns by which `simulated` must move; None where the two are not alike."""
    from skimage.registration import phase_cross_correlation

    taper = np.hanning(pan.shape[0] + 2)[1:-1]
    window = taper[:, None] * taper
    first = (pan - pan.mean()) * window
    second = (simulated - simulated.mean()) * window
    if not first.any() or not second.any():
        return None
    with quietly():
        shift, error, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
            first, second, upsample_factor=FINEST, normalization=None
        )
    return np.asarray(shift) if error < LARGEST_ERROR else None
