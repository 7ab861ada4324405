"""The quicklook: what was mapped, on the scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landslip.geo.raster import Scene
from landslip.prepare.pictures import View, outlined, scene_axes, write_figure


def write_quicklook(
    path: Path, scene: Scene, view: View, lines: Sequence[NDArray[np.float32]], title: str
) -> None:
    """Draw the thinned outlines of mapped landslides on a view of their scene."""
    figure, axes, handles = scene_axes(scene, view, title)
    handles.append(outlined(axes, lines, "landslides", "#ffe600"))
    write_figure(figure, handles, path)
