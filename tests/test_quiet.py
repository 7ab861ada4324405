"""What is ignored in one thread does not become an error because of another."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import shapely
from affine import Affine

from landslip.geo import inventory
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import rasterised
from landslip.geo.quiet import quietly
from landslip.mapping import outlines
from landslip.mapping.outlines import pixel_polygons


def test_pixels_at_the_origin_need_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that puts its filters back must not matter."""
    monkeypatch.setattr(outlines, "without_position", nullcontext)
    monkeypatch.setattr(inventory, "without_position", nullcontext)
    box = shapely.box(0, 0, 3, 2)
    (found,) = pixel_polygons(np.ones((2, 3), np.uint8), 0, 0)[1]
    assert shapely.equals(found, box)
    grid = Grid(None, Affine.identity(), 4, 5)
    assert rasterised([box], grid, Window(0, 0, 4, 5)).sum() == 6


def test_other_warnings_are_still_told() -> None:
    with quietly("Glyph .* missing"):
        warnings.warn("Glyph 7 missing from font", stacklevel=1)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
