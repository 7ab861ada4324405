"""Bodies of pixels that touch, numbered strip by strip, and what is summed over each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]


def bodies_of(plane: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Numbers from 1 of bodies whose pixels touch by side or corner, 0 elsewhere; shape (H, W)."""
    from scipy.ndimage import label

    numbers: NDArray[np.int32] = label(plane, structure=np.ones((3, 3)))[0]
    return numbers


@dataclass(frozen=True, eq=False)
class Numbered:
    """Landslides of a strip, numbered within it."""

    numbers: NDArray[np.int32]
    """Shape (height, width): 1 to N, 0 where there is none."""
    names: NDArray[np.int64]
    """Shape (N,): what they are called in all strips."""


class Bodies:
    """Bodies of a raster that is seen strip by strip, in full rows from the top."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._names = 0
        self._last: NDArray[np.int64] | None = None
        self._seams: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]

    def number(self, plane: NDArray[np.bool_]) -> Numbered:
        """The bodies of the next strip; parts of one body may have several names for now."""
        numbers = bodies_of(plane) if plane.any() else np.zeros(plane.shape, np.int32)
        count = int(numbers.max(initial=0))
        names = np.arange(self._names, self._names + count)
        top = np.where(numbers[0] > 0, self._names + numbers[0] - 1, -1)
        if self._last is not None:
            for shift in (-1, 0, 1):
                above = self._last[max(shift, 0) : len(top) + min(shift, 0)]
                below = top[max(-shift, 0) : len(top) + min(-shift, 0)]
                touch = (above >= 0) & (below >= 0)
                pairs = np.column_stack([above[touch], below[touch]])
                self._seams.append(np.unique(pairs, axis=0))
        self._last = np.where(numbers[-1] > 0, self._names + numbers[-1] - 1, -1)
        self._names += count
        return Numbered(numbers, names)

    def joined(self) -> NDArray[np.int64]:
        """Shape (names,): which body every name belongs to, 0 the first that was seen."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        one, other = np.concatenate(self._seams).T
        shape = (self._names, self._names)
        touch = coo_array((np.ones(len(one), np.int8), (one, other)), shape=shape)
        found: NDArray[np.int64] = connected_components(touch, directed=False)[1].astype(np.int64)
        return found


class Named:
    """Landslides that have names already, such as polygons, laid over strips."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._seen: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]

    def number(self, ids: Integers, plane: NDArray[np.bool_]) -> Numbered:
        """Those of the next strip.

        Args:
            ids: Their names (above 0), shape (height, width).
            plane: Where they count, same shape.
        """
        place = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
        place[ids[plane]] = 1
        place[0] = 0
        names = np.flatnonzero(place)
        place[names] = np.arange(1, len(names) + 1)
        self._seen.append(names)
        return Numbered(np.where(plane, place[ids], 0).astype(np.int32), names)

    def joined(self) -> NDArray[np.int64]:
        """Shape (largest name + 1,): which landslide every name is, by its name; -1 for none."""
        names = np.unique(np.concatenate(self._seen))
        found = np.full(int(names.max(initial=-1)) + 1, -1, np.int64)
        found[names] = np.arange(len(names))
        return found


@dataclass(eq=False)
class Tally:
    """What is summed over landslides, strip by strip."""

    _names: list[NDArray[np.int64]] = field(default_factory=list)
    _sums: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, names: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
        """Add a strip: names of the landslides in it, shape (N,), and sums, shape (N, kinds)."""
        self._names.append(names)
        self._sums.append(sums)

    def total(self, joined: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums by landslide, shape (landslides, kinds).

        Args:
            joined: Which landslide a name belongs to.
        """
        places = joined[np.concatenate(self._names)]
        number = int(joined.max(initial=-1)) + 1
        columns = np.concatenate(self._sums).T
        return np.stack([np.bincount(places, column, number) for column in columns], axis=1)
