"""Probabilities in one byte: codes 0 to 254 for 0 to 1, 255 where nothing is known."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TOP_CODE = 254
"""Code of probability 1; one code is 1/254."""
UNKNOWN_CODE = 255
"""Code of ground that was not observed."""


def encode(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Nearest codes of probabilities between 0 and 1, any shape; NaN becomes 255."""
    codes = np.rint(np.asarray(probability, dtype=np.float32) * TOP_CODE)
    coded: NDArray[np.uint8] = np.where(np.isnan(codes), UNKNOWN_CODE, codes).astype(np.uint8)
    return coded


def threshold_code(threshold: float) -> int:
    """Smallest code that counts as landslide at a threshold: ``code >= 254 t``."""
    # 254 * 0.5 is exact, 254 * (127 / 254) is not always: forgive one part in 10^9.
    return math.ceil(TOP_CODE * threshold - 1e-9)
