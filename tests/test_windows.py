import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid
from landslip.geo.windows import cover, reflected_indices, starts

SIDES = st.integers(1, 60)


@given(SIDES, SIDES, st.integers(1, 70))
def test_cover_reads_every_pixel_once(height: int, width: int, core: int) -> None:
    seen = np.zeros((height, width), dtype=int)
    grid = Grid(None, Affine.identity(), height, width)
    for window in cover(grid, core):
        assert window.row % core == 0
        assert window.col % core == 0
        assert window.intersection(grid.window) == window
        seen[window.slices] += 1
    assert (seen == 1).all()


@given(SIDES, st.integers(1, 70), st.integers(1, 70))
def test_starts_cover_the_length(length: int, size: int, stride: int) -> None:
    found = starts(length, size, stride)
    assert found == sorted(set(found))
    assert found[0] == 0
    if length <= size:
        assert found == [0]
        return
    assert found[-1] + size == length
    assert max(np.diff(found), default=0) <= stride
    if stride <= size:
        covered = {place for start in found for place in range(start, start + size)}
        assert covered == set(range(length))


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_reflection_is_that_of_numpy(length: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    assert reflected_indices(-before, length + after, length).tolist() == expected.tolist()


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="0 px"):
        next(cover(Grid(None, Affine.identity(), 2, 2), 0))
    with pytest.raises(UsageError, match="size 0"):
        starts(10, 0, 1)
    with pytest.raises(UsageError, match="stride 0"):
        starts(10, 1, 0)
