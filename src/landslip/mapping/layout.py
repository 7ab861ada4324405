"""Which windows a scene is mapped in: as large as pays and as the memory allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.windows import cover

OVERHEAD = 1.4
"""Pixels computed for each pixel kept, below which larger windows save less time than they are
worth: at 1.25 a window of `unet-small` takes twice the memory and saves a ninth of the time."""
LIBRARY_SHARE = 1.8
"""Memory of a forward, measured, to that of its tensors, where what is freed is kept."""
SMALLEST_PX = 128
"""Below this a smaller core would not help."""
GPU_CORE_PX = 1024
"""Below this a GPU would wait for the next window longer than it computes."""


@dataclass(frozen=True)
class Layout:
    """Windows of one size on an absolute grid; what is kept of them covers the scene once."""

    core_height: int
    """Rows kept of a window (px); a multiple of the stride."""
    core_width: int
    """Columns kept of a window (px); a multiple of the stride."""
    halo: int
    """Pixels around the core that are computed and dropped; a multiple of the stride."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of a window with its halo (px)."""
        return self.core_height + 2 * self.halo, self.core_width + 2 * self.halo

    @property
    def overhead(self) -> float:
        """Pixels computed for each pixel of a core."""
        height, width = self.shape
        return height * width / (self.core_height * self.core_width)

    def cores(self, grid: Grid) -> list[Window]:
        """The cores, cut to the grid, row by row."""
        return list(cover(grid, self.core_height, self.core_width))

    def around(self, core: Window) -> Window:
        """The window of a core; it may reach beyond the grid."""
        return Window(core.row, core.col, self.core_height, self.core_width).grown(self.halo)


def fitting_layout(
    grid: Grid,
    stride: int,
    halo: int,
    least: int = SMALLEST_PX,
    *,
    most_bytes: float,
    needed: Callable[[int, int], float],
) -> Layout:
    """The largest windows that pay and fit.

    Cores grow until `OVERHEAD` is reached, and then divide the scene evenly, because every window
    has the same size, those at the right and lower edge too.

    Args:
        grid: Of the scene.
        stride: Sides are multiples of this (px).
        halo: A multiple of `stride` (px).
        least: Cores do not stay smaller than this because larger ones would not pay (px).
        most_bytes: What a window may take.
        needed: What a window of (height, width) takes (bytes).

    Raises:
        UsageError: Not even the smallest window fits.
    """
    # (1 + 2 halo / core) squared is the overhead.
    paying = 2 * halo / (OVERHEAD**0.5 - 1)
    core = max(_multiple(paying, stride), _multiple(least, stride))
    while True:
        layout = even_layout(grid, stride, halo, core)
        if needed(*layout.shape) <= most_bytes:
            return layout
        if core <= _multiple(SMALLEST_PX, stride):
            raise UsageError(
                f"Cannot map: a window of {layout.shape[0]} x {layout.shape[1]} px takes "
                f"{needed(*layout.shape) / 1e9:.1f} GB, {max(most_bytes, 0) / 1e9:.1f} GB are "
                "left for it. Allow more with --memory, or use a smaller model."
            )
        core = max(_multiple(core * 0.8, stride), _multiple(SMALLEST_PX, stride))


def even_layout(grid: Grid, stride: int, halo: int, core: int) -> Layout:
    """Windows with cores of at most `core` px (in multiples of the stride) that divide the grid."""
    core = max(_multiple(core, stride), stride)
    height, width = (_multiple(-(-length // -(-length // core)), stride) for length in grid.shape)
    return Layout(height, width, halo)


def _multiple(length: float, of: int) -> int:
    """The next multiple, upwards."""
    return -int(-length // of) * of
