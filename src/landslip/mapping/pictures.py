"""The quicklook: what was mapped, on the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from landslip.geo.raster import Scene
from landslip.prepare.pictures import View, outlined, scene_axes, write_figure


def write_quicklook(path: Path, scene: Scene, view: View, polygons: Any, title: str) -> None:
    """Draw mapped landslides on a view of their scene."""
    figure, axes, handles = scene_axes(scene, view, title)
    handles.append(outlined(axes, np.asarray(polygons), scene.grid, "landslides", "#ffe600"))
    write_figure(figure, handles, path)
