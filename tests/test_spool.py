from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from landslip.inventory.spool import Spool


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_polygons_come_back_from_the_top_left(tmp_path: Path, size: int) -> None:
    random = np.random.default_rng(0)
    cols, rows = random.integers(0, 20, (2, 100))
    polygons = shapely.box(cols, rows, cols + random.integers(1, 5, 100), rows + 1.5)
    expected = sorted(polygons, key=lambda one: (one.bounds[1], one.bounds[0], *one.bounds[3:1:-1]))
    with Spool(tmp_path) as spool:
        for part in np.array_split(random.permutation(polygons), 5):
            spool.add(part)
        groups = list(spool.groups(size))
    assert [len(group) for group in groups[:-1]] == [size] * (len(groups) - 1)
    found = np.concatenate(groups)
    assert [one.bounds for one in found] == [one.bounds for one in expected]
    assert shapely.equals_exact(found, expected).all()
    assert list(tmp_path.iterdir()) == []


def test_no_polygons_are_one_group(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.add(np.array([], dtype=object))
        (group,) = spool.groups(10)
    assert group.shape == (0,)
