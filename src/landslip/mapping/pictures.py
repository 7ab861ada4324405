"""The quicklook: what was mapped, on the scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landslip.geo.raster import Scene
from landslip.prepare.pictures import outlined, reduced, scene_axes, write_figure


def write_quicklook(
    path: Path, scene: Scene, bands: Sequence[str], polygons: Any, title: str
) -> None:
    """Draw mapped landslides on the first three of `bands`."""
    view = reduced(scene, bands=tuple(bands)[: 3 if len(bands) >= 3 else 1])
    figure, axes, handles = scene_axes(scene, view, title)
    handles.append(outlined(axes, np.asarray(polygons), scene.grid, "landslides", "#ffe600"))
    write_figure(figure, handles, path)
