"""Bodies cut at their necks. Maps lie in UTM zone 54, pixels of 10 m."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from landslip.geo.raster import create_raster
from landslip.inventory import split
from landslip.inventory.outlines import landslide_polygons
from landslip.inventory.pixels import ProbabilityFile
from landslip.inventory.relief import Terrain
from landslip.inventory.split import split_bodies
from tiny import grid_of

ROW, COL = np.mgrid[:80, :120] + 0.5


def disc(row: float, col: float, radius: float) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(ROW - row, COL - col) < radius)


def bridge(half_width: float) -> NDArray[np.bool_]:
    return np.asarray((np.abs(ROW - 40) < half_width) & (COL > 30) & (COL < 68))


def mapped(path: Path, inside: NDArray[np.bool_]) -> ProbabilityFile:
    with create_raster(
        path, grid_of(*inside.shape), bands=["probability"], dtype="uint8", nodata=255
    ) as out:
        out.write(inside.astype(np.uint8) * np.uint8(254), 1)
    return ProbabilityFile(path)


def all_polygons(scene: ProbabilityFile) -> NDArray[np.object_]:
    return np.concatenate(list(landslide_polygons(scene, 0.5)))


def slopes(path: Path, left_deg: float, right_deg: float) -> Path:
    """Ground that falls by 25 degrees in one direction on the left and in another on the right."""
    rows, cols = np.mgrid[:80, :120] * 10.0
    steep = math.tan(math.radians(25))
    parts = []
    for azimuth in (left_deg, right_deg):
        east, north = math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))
        parts.append(2000 - steep * ((cols - 490) * east - (rows - 400) * north))
    z = np.where(cols < 490, parts[0], parts[1])
    with create_raster(
        path, grid_of(80, 120), bands=["elevation"], dtype="float32", nodata=-9999
    ) as out:
        out.write(z.astype(np.float32), 1)
    return path


@pytest.mark.parametrize(
    ("inside", "parts"),
    [
        (disc(40, 40, 25), 1),
        ((np.abs(ROW - 40) < 5) & (np.abs(COL - 60) < 40), 1),
        (disc(40, 30, 18) | disc(40, 68, 18) | bridge(1.5), 2),
        (disc(40, 30, 18) | disc(40, 68, 18) | bridge(9), 1),
        (disc(40, 30, 18) | disc(40, 68, 3) | bridge(0.6), 1),  # too small a part
    ],
    ids=["disc", "bar", "neck", "wide neck", "crumb"],
)
def test_bodies_are_cut_where_they_are_narrow(
    tmp_path: Path, inside: NDArray[np.bool_], parts: int
) -> None:
    scene = mapped(tmp_path / "p.tif", inside)
    whole = all_polygons(scene)
    found, parents = split_bodies(whole, scene)
    assert len(found) == parts
    assert parents.tolist() == ([0] * parts if parts > 1 else [-1])
    if parts == 1:
        assert found[0] is whole[0]


@pytest.mark.parametrize("seed", range(4))
def test_parts_make_up_their_body(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(seed)
    inside = np.zeros((80, 120), dtype=bool)
    for _ in range(40):
        inside |= disc(random.uniform(0, 80), random.uniform(0, 120), random.uniform(2, 11))
    monkeypatch.setattr(split, "NECK", 0.6)
    monkeypatch.setattr(split, "NECK_ACROSS", 0.6)
    scene = mapped(tmp_path / "p.tif", inside)
    whole = all_polygons(scene)
    found, parents = split_bodies(whole, scene)
    assert (parents >= 0).sum() >= 4
    assert shapely.is_valid(found).all()
    assert (shapely.get_type_id(found) == 3).all()
    one, other = shapely.STRtree(found).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[one], found[other]))
    assert shared[one < other].max(initial=0) < 1e-6
    for number in np.unique(parents[parents >= 0]):
        own = shapely.union_all(found[parents == number])
        assert shapely.symmetric_difference(own, whole[number]).area < 1e-3


def test_slopes_decide_where_there_is_a_model(tmp_path: Path) -> None:
    """A neck of .4 of the width, over a ridge; one of .2 within one slope."""
    over_ridge = mapped(tmp_path / "ridge.tif", disc(40, 30, 18) | disc(40, 68, 18) | bridge(7.4))
    ridge = slopes(tmp_path / "ridge_dem.tif", 270, 90)
    whole = all_polygons(over_ridge)
    assert len(split_bodies(whole, over_ridge)[0]) == 1
    with closing(Terrain(str(ridge), over_ridge.grid)) as terrain:
        assert len(split_bodies(whole, over_ridge, terrain=terrain)[0]) == 2
    along = mapped(tmp_path / "flow.tif", disc(40, 30, 18) | disc(40, 68, 18) | bridge(3.5))
    whole = all_polygons(along)
    assert len(split_bodies(whole, along)[0]) == 2
    for azimuth, parts in ((90, 1), (0, 2)):
        dem = slopes(tmp_path / f"{azimuth}.tif", azimuth, azimuth)
        with closing(Terrain(str(dem), along.grid)) as terrain:
            assert len(split_bodies(whole, along, terrain=terrain)[0]) == parts


def test_very_large_bodies_stay_whole_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(split, "LARGEST_PX", 500)
    scene = mapped(tmp_path / "p.tif", disc(40, 30, 18) | disc(40, 68, 18) | bridge(1.5))
    whole = all_polygons(scene)
    assert len(split_bodies(whole, scene)[0]) == 1
    assert "too large to be split" in caplog.text


def test_nothing_to_split(tmp_path: Path) -> None:
    scene = mapped(tmp_path / "p.tif", disc(40, 30, 18))
    found, parents = split_bodies(np.array([], dtype=object), scene)
    assert found.shape == parents.shape == (0,)
