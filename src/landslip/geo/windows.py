"""Which windows cover a grid, and how a window that reaches beyond it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window

Item = TypeVar("Item")


def cover(grid: Grid, height: int, width: int | None = None) -> Iterator[Window]:
    """Cut a grid into windows, row by row; the last ones are cut to the grid.

    The windows lie on an absolute grid that starts at (0, 0), cover every pixel once, and share
    none.

    Args:
        grid: What to cover.
        height: Rows of a window (px).
        width: Columns of a window (px); None: as many as rows.
    """
    width = height if width is None else width
    if min(height, width) < 1:
        raise UsageError(
            f"Cannot cover a grid with windows of {height} x {width} px: at least 1 is needed."
        )
    for row in range(0, grid.height, height):
        for col in range(0, grid.width, width):
            yield Window(row, col, min(height, grid.height - row), min(width, grid.width - col))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spread over them, the first and the last included."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[number] for number in chosen]


def starts(length: int, size: int, stride: int) -> list[int]:
    """First pixels of the pieces of `size` that cover `length` in steps of `stride`.

    The last piece is moved back so that it ends at the edge; a length below `size` gives [0].
    """
    if size < 1 or stride < 1:
        raise UsageError(f"Cannot tile with size {size} and stride {stride}: both must be >= 1.")
    if length <= size:
        return [0]
    regular = list(range(0, length - size + 1, stride))
    return regular if regular[-1] == length - size else [*regular, length - size]


def reflected_indices(
    start: int, stop: int, length: int
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Indices of `start`..`stop` in an axis of `length`, mirrored at both ends (edge not repeated).

    Example: ``reflected_indices(-2, 4, 3)`` is ``[2, 1, 0, 1, 2, 1]``.
    """
    if length == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (length - 1)
    folded = np.arange(start, stop) % period
    return np.where(folded < length, folded, period - folded).astype(np.intp)
