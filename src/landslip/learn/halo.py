"""How much ground around a window a network must see, measured on the network itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from landslip.geo.probability import TOP_CODE
from landslip.geo.windows import reflected_indices
from landslip.learn.device import Compute
from landslip.learn.predict import probabilities

log = logging.getLogger(__name__)

IMAGES = 8
"""Images from which windows are cut."""
WINDOWS = 64
"""Windows that are cut anew, at least."""
TOLERANCE = 0.5 / TOP_CODE
"""Half of one code of the byte in which probabilities are stored."""
CORE_STRIDES = 2
"""Rows and columns of a core, in strides."""
AT_ONCE_PX = 2**21
"""Pixels that are computed at once."""


@dataclass(frozen=True)
class Halo:
    """What a window needs around its core."""

    px: int
    """A multiple of the stride (px)."""
    windows: int
    """Windows that were cut anew."""
    difference: float
    """Largest difference that this halo makes in a core, to the largest one tried (0 to 1)."""


def measured_halo(
    network: nn.Module,
    images: Sequence[NDArray[np.float32]],
    compute: Compute,
    stride_px: int,
    most_px: int,
) -> Halo:
    """The smallest halo at which no pixel of a core changes by more than half a code.

    From the middle of every image a block of cores is computed with the largest halo around it, and
    then every core alone, from the same pixels, with smaller ones; the halo is found by halving.
    Precision is float32 whatever the model is used in, because rounding is no matter of the ground
    around. Where even the largest halo but one makes a difference, as with networks that look at
    the whole window, the largest is taken.

    Args:
        network: In evaluation mode, on the device of `compute`.
        images: Scaled images (C, H, W), up to `IMAGES`; small ones are mirrored.
        compute: Device.
        stride_px: Halos are multiples of this.
        most_px: Largest halo tried; rounded up to the stride.
    """
    exact = replace(compute, precision="float32")
    steps = -(-most_px // stride_px)
    most, core = steps * stride_px, CORE_STRIDES * stride_px
    if not images:
        return Halo(most, 0, 0.0)
    side = math.ceil(math.sqrt(WINDOWS / len(images)))
    blocks = [_around_the_middle(image, side * core + 2 * most) for image in images]
    starts = [(row, col) for row in range(side) for col in range(side)]
    kept = slice(most, most + side * core)
    whole = _scores(network, blocks, exact, stride_px)[:, kept, kept]
    reference = _cores(whole, starts, core, 0)

    def difference(halo: int) -> float:
        inside = slice(most - halo, most + side * core + halo)
        cut = [block[:, inside, inside] for block in blocks]
        windows = list(_cores(np.stack(cut), starts, core, halo))
        found = _scores(network, windows, exact, stride_px)
        return float(np.abs(found[:, halo : halo + core, halo : halo + core] - reference).max())

    differences: dict[int, float] = {}
    low, high = -1, steps  # the halo of `low` strides is too small, that of `high` is enough
    while high - low > 1:
        middle = (low + high) // 2
        differences[middle] = difference(middle * stride_px)
        low, high = (low, middle) if differences[middle] <= TOLERANCE else (middle, high)
    found = Halo(high * stride_px, len(reference), differences.get(high, 0.0))
    if high == steps and steps - 1 in differences:
        log.info(
            "halo: %d px, the most that is tried; with %d px windows differ by up to %.4f",
            found.px, (steps - 1) * stride_px, differences[steps - 1],
        )  # fmt: skip
    else:
        log.info("halo: %d px, windows differ by up to %.4f", found.px, found.difference)
    return found


def _cores(
    blocks: NDArray[np.float32], starts: Sequence[tuple[int, int]], core: int, halo: int
) -> NDArray[np.float32]:
    """The cores of blocks (B, ..., H, W) with a halo that the blocks have too, (B * N, ..., h, w).

    `starts` are counted in cores.
    """
    side = core + 2 * halo
    return np.concatenate(
        [
            blocks[..., row * core : row * core + side, col * core : col * core + side]
            for row, col in starts
        ]
    )


def _around_the_middle(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """A square of `side` px from the middle of an image (C, H, W), mirrored where that is small."""
    places = []
    for length in image.shape[-2:]:
        start = (length - side) // 2
        places.append(reflected_indices(start, start + side, length))
    return image[:, places[0][:, None], places[1][None]]


def _scores(
    network: nn.Module,
    windows: Sequence[NDArray[np.float32]],
    compute: Compute,
    stride_px: int,
) -> NDArray[np.float32]:
    """Probabilities (B, H, W), a few windows at once."""
    side = windows[0].shape[-1]
    group = max(AT_ONCE_PX // side**2, 1)
    parts = [
        probabilities(network, np.stack(windows[start : start + group]), compute, stride_px)
        for start in range(0, len(windows), group)
    ]
    return np.concatenate(parts)
