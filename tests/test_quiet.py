"""What is ignored in one thread does not become an error because of another."""

from __future__ import annotations

import threading
import time
import warnings

import numpy as np
import pytest

from landslip.geo.quiet import quiet_process, quietly
from landslip.inventory.outlines import pixel_polygons


def test_threads_that_change_filters_bring_no_warning_back() -> None:
    """As geopandas and rasterio do in one thread while strips are traced in others."""
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            with warnings.catch_warnings():
                time.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet_process()
        other = threading.Thread(target=change)
        other.start()
        try:
            for row in range(300):
                assert len(pixel_polygons(np.ones((2, 3), np.uint8), row, 0)[1]) == 1
        finally:
            done.set()
            other.join()


def test_other_warnings_are_still_told() -> None:
    with quietly("Glyph .* missing"):
        warnings.warn("Glyph 7 missing from font", stacklevel=1)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
