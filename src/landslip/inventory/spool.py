"""Polygons that wait on the disk, so that memory does not grow with their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import shapely
from numpy.typing import NDArray

Polygons = NDArray[np.object_]
"""Shapely polygons, shape (N,)."""


class Spool:
    """Takes polygons in any order and gives them back from the top left, some at a time.

    Of each, memory holds 48 bytes: bounds, place and length in a file without a name, which goes
    with the process.
    """

    def __init__(self, folder: Path) -> None:
        """Open a file in a folder."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._bounds: list[NDArray[np.float64]] = []
        self._lengths: list[NDArray[np.int64]] = []

    def __enter__(self) -> Spool:
        """Use as a context: the file is closed, and gone, at its end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, polygons: Polygons) -> None:
        """Take some more polygons."""
        written = shapely.to_wkb(polygons)
        self._file.writelines(written)
        self._bounds.append(shapely.bounds(polygons).reshape(-1, 4))
        self._lengths.append(np.array([len(each) for each in written], dtype=np.int64))

    def groups(self, size: int) -> Iterator[Polygons]:
        """All polygons, `size` at a time, by first row, then column, then all bounds.

        Nothing else decides: the order never depends on how they came. No polygons are one group.
        """
        west, north, east, south = np.concatenate([*self._bounds, np.zeros((0, 4))]).T
        order = np.lexsort((east, south, west, north))
        lengths = np.concatenate([*self._lengths, np.zeros(0, dtype=np.int64)])
        starts = np.cumsum(lengths) - lengths
        for begin in range(0, max(len(order), 1), size):
            some = order[begin : begin + size]
            written = [
                self._read(*place) for place in zip(starts[some], lengths[some], strict=True)
            ]
            yield shapely.from_wkb(np.array(written, dtype=object))

    def _read(self, begin: int, length: int) -> bytes:
        self._file.seek(begin)
        return self._file.read(length)
