"""A made-up scene as a vendor would deliver it: a panchromatic file, and coarser bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATIO = 4
"""Pixel size of the bands over that of the pan."""
PAN_SHARES = (0.2, 0.45, 0.35)
"""What the pan sees of nir, red and green; it sees other bands too."""
PAN_OFFSET_DN = 25.0
"""What it sees beside them."""


def as_delivered(image: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Panchromatic image and coarse bands of a scene.

    Args:
        image: Bands nir, red, green, shape (3, H, W); 0 where nothing was seen.

    Returns:
        The pan, shape (1, H, W), and the bands averaged over 4 x 4 px, shape (3, H // 4, W // 4);
        0 where one of the pixels was not seen.
    """
    seen: NDArray[np.bool_] = np.asarray((image > 0).all(axis=0))
    light = PAN_OFFSET_DN + np.tensordot(PAN_SHARES, image, 1)
    pan = np.where(seen, np.clip(np.rint(light), 1, np.iinfo(np.uint16).max), 0)
    height, width = (side // RATIO for side in seen.shape)
    cut = image[:, : height * RATIO, : width * RATIO].astype(np.float64)
    coarse = cut.reshape(len(image), height, RATIO, width, RATIO).mean(axis=(2, 4))
    whole = seen[: height * RATIO, : width * RATIO].reshape(height, RATIO, width, RATIO)
    coarse = np.where(whole.all(axis=(1, 3)), np.maximum(np.rint(coarse), 1), 0)
    return pan[None].astype(np.uint16), coarse.astype(np.uint16)
