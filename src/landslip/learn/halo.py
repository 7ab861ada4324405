"""How much ground around a window a network must see, measured on the network itself."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from landslip.geo.probability import TOP_CODE
from landslip.geo.progress import track
from landslip.geo.windows import reflected_indices
from landslip.learn.device import Compute
from landslip.learn.predict import probabilities

log = logging.getLogger(__name__)

IMAGES = 16
"""Images from which windows are cut."""
WINDOWS = 64
"""Windows that are cut anew."""
DOUBTFUL = 8
"""Of those, the windows with most in doubt, which tell whether the largest halo is enough."""
LARGEST_PX = 640
"""Of an image no more rows and columns are looked at."""
TOLERANCE = 0.5 / TOP_CODE
"""Half of one code of the byte in which probabilities are stored."""
CORE_STRIDES = 2
"""Rows and columns of a core, in strides."""
PROBE_PX = 4096
"""Length of the strip that tells how far a network sees: the most that is told is half of it."""
AT_ONCE_PX = 2**19
"""Pixels that are computed at once."""


@dataclass(frozen=True)
class Halo:
    """What a window needs around its core."""

    px: int
    """A multiple of the stride (px)."""
    windows: int
    """Windows that were cut anew."""
    difference: float
    """Largest difference that this halo makes in a core, to a larger one (0 to 1)."""


def measured_halo(
    network: nn.Module,
    images: Sequence[NDArray[np.float32]],
    compute: Compute,
    stride_px: int,
    guess_px: int,
) -> Halo:
    """The smallest halo at which no pixel of a core changes by more than half a code.

    Every image is computed with the largest halo around it; the cores in which most is in doubt are
    then computed alone, from the same pixels, with smaller ones. The halo is found by halving.
    Precision is float32 whatever the model is used in, because rounding is no matter of the ground
    around. Where even the largest halo but one makes a difference, the largest is taken, and a few
    windows are computed with all the ground that the network sees; where that is the whole window,
    with twice as much.

    Args:
        network: In evaluation mode, on the device of `compute`.
        images: Scaled images (C, H, W), up to `IMAGES`; small ones are mirrored.
        compute: Device.
        stride_px: Halos are multiples of this.
        guess_px: A halo that is often enough. What a network sees fades with distance: no more than
            twice this is tried, and no more than the network sees.
    """
    exact = replace(compute, precision="float32")
    reach = reach_px(network, len(images[0]), stride_px) if images else None
    steps = -(-(2 * guess_px if reach is None else min(2 * guess_px, reach)) // stride_px)
    most, core = steps * stride_px, CORE_STRIDES * stride_px
    if not images:
        return Halo(most, 0, 0.0)
    places, references = _doubtful_cores(network, images, exact, stride_px, most)

    def difference(halo: int, number: int = WINDOWS) -> float:
        windows = [_mirrored(image, row - halo, col - halo, core + 2 * halo)
                   for image, row, col in places[:number]]  # fmt: skip
        found = _scores(network, windows, exact, stride_px)
        kept = slice(halo, halo + core)
        return float(np.abs(found[:, kept, kept] - references[:number]).max())

    differences: dict[int, float] = {}
    low, high = -1, steps  # the halo of `low` strides is too small, that of `high` is enough
    while high - low > 1:
        middle = (low + high) // 2
        differences[middle] = difference(middle * stride_px)
        low, high = (low, middle) if differences[middle] <= TOLERANCE else (middle, high)
    found = Halo(high * stride_px, len(references), differences.get(high, 0.0))
    if high == steps and most != reach:
        # Nothing told yet whether the most that was tried is enough.
        wider = 2 * most if reach is None else reach
        found = replace(found, difference=difference(wider, DOUBTFUL))
    if found.difference > TOLERANCE:
        log.warning(
            "halo: %d px, the most that is tried; windows differ by up to %.4f, because this "
            "network sees %s",
            found.px, found.difference, "the whole window" if reach is None else f"{reach} px far",
        )  # fmt: skip
    else:
        log.info("halo: %d px, windows differ by up to %.4f", found.px, found.difference)
    return found


def reach_px(network: nn.Module, bands: int, stride_px: int) -> int | None:
    """How far from a block of `stride_px` a network still sees it: half its receptive field.

    A block that is no number spoils exactly the pixels that see it, whatever the weights.

    Args:
        network: In evaluation mode; a copy runs on the CPU, because GPUs multiply whole tiles.
        bands: Channels of its image.
        stride_px: The answer is a multiple of this.

    Returns:
        None where it reaches beyond what was tried: the network pools, or attends to, all.
    """
    begin = PROBE_PX // 2 // stride_px * stride_px
    strip = torch.zeros(1, bands, stride_px, PROBE_PX)
    strip[..., begin : begin + stride_px] = torch.nan
    with torch.inference_mode():
        spoilt = copy.deepcopy(network).cpu()(strip).isnan().any(dim=1)[0].any(dim=0)
    columns = spoilt.nonzero().flatten().tolist() or [begin]
    if columns[0] == 0 or columns[-1] == PROBE_PX - 1:
        return None
    reach: int = max(begin - columns[0], columns[-1] + 1 - begin - stride_px, 0)
    return -(-reach // stride_px) * stride_px


def _doubtful_cores(
    network: nn.Module,
    images: Sequence[NDArray[np.float32]],
    compute: Compute,
    stride_px: int,
    halo: int,
) -> tuple[list[tuple[NDArray[np.float32], int, int]], NDArray[np.float32]]:
    """Cores in which most is in doubt: (image, row, col) of each, and what a large halo gives.

    What is sure stays sure with a small halo; far ground matters where a network wavers.
    """
    core = CORE_STRIDES * stride_px
    found: list[tuple[float, tuple[NDArray[np.float32], int, int], NDArray[np.float32]]] = []
    for image in track(images, total=len(images), what="Measuring the halo"):
        across = max(min(*image.shape[-2:], LARGEST_PX) // core, 1)
        whole = _mirrored(image, -halo, -halo, across * core + 2 * halo)
        scores = probabilities(network, whole[None], compute, stride_px)[0][halo:, halo:]
        for row in range(0, across * core, core):
            for col in range(0, across * core, core):
                reference = scores[row : row + core, col : col + core]
                doubt = float(np.minimum(reference, 1 - reference).sum())
                found.append((doubt, (image, row, col), reference))
    found.sort(key=lambda each: -each[0])
    chosen = found[:WINDOWS]
    return [place for _, place, _ in chosen], np.stack([each for *_, each in chosen])


def _mirrored(image: NDArray[np.float32], row: int, col: int, side: int) -> NDArray[np.float32]:
    """A square of `side` px of an image (C, H, W), mirrored where it reaches beyond it."""
    height, width = image.shape[-2:]
    rows = reflected_indices(row, row + side, height)
    cols = reflected_indices(col, col + side, width)
    return image[:, rows[:, None], cols[None]]


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
