from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

import tiny
from landslip.geo.errors import InventoryError, TileSetError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.windows import cover, starts
from landslip.prepare.split import (
    SPLITS,
    Side,
    TileOptions,
    refuse_shared_ground,
    split_ground,
    tile_name,
)

UTM = CRS.from_string(tiny.UTM)


class Drawn:
    """Labels from an array: 0, 1 and 255."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values.astype(np.uint8)
        self.grid = Grid(UTM, tiny.transform_of(), *values.shape)

    def read(self, window: Window) -> NDArray[np.uint8]:
        return self.values[window.slices]

    def rejected(self, window: Window) -> NDArray[np.bool_]:
        return np.zeros((window.height, window.width), dtype=bool)

    def ids(self, window: Window) -> None:
        """A raster numbers no landslides."""


def ground(height: int, width: int, landslide: slice | None = None) -> Drawn:
    """Labelled ground with a landslide over some columns; a diagonal of landslides without."""
    values = np.zeros((height, width))
    if landslide is None:
        rows = np.arange(0, height, 3)
        values[rows, rows * width // height] = 1
    else:
        values[:, landslide] = 1
    return Drawn(values)


def by_side(sides: list[Side]) -> dict[str, list[Window]]:
    found: dict[str, list[Window]] = defaultdict(list)
    for side, window in sides:
        found[side].append(window)
    return dict(found)


def covered(sides: list[Side], shape: tuple[int, int]) -> NDArray[np.int64]:
    """How many sides hold each pixel."""
    count = np.zeros(shape, dtype=np.int64)
    for windows in by_side(sides).values():
        own = np.zeros(shape, dtype=bool)
        for window in windows:
            own[window.slices] = True
        count += own
    return count


def extent(windows: list[Window], axis: int) -> tuple[int, int]:
    starts_ = [window.row if axis == 0 else window.col for window in windows]
    stops = [window.row_stop if axis == 0 else window.col_stop for window in windows]
    return min(starts_), max(stops)


def distance(first: list[Window], second: list[Window]) -> int:
    """Pixels between two sides along the axis that parts them."""
    gaps = []
    for axis in (0, 1):
        a, b = extent(first, axis), extent(second, axis)
        gaps.append(max(b[0] - a[1], a[0] - b[1]))
    return max(gaps)


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("val", "test"), [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (0.9, 0.2), (float("nan"), 0.2)]
)
def test_shares_that_leave_nothing_to_train_on(val: float, test: float) -> None:
    with pytest.raises(UsageError, match="leave nothing to train on"):
        TileOptions(val=val, test=test)


@pytest.mark.parametrize("wrong", [{"size": 15}, {"stride": 0}, {"stride": -5}, {"size": -600}])
def test_sizes_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 16 and 1"):
        TileOptions(**wrong)  # type: ignore[arg-type]


def test_a_negative_gap_or_seed_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="gap of -1 px"):
        TileOptions(gap=-1)
    with pytest.raises(UsageError, match="seed -1"):
        TileOptions(seed=-1)


def test_default_shares_are_the_papers_for_random_only() -> None:
    assert TileOptions().shares == (0.2, 0.2)
    assert TileOptions(split="random").shares == (0.2, 0.0)
    assert TileOptions(split="random", test=0.1).shares == (0.2, 0.1)
    assert TileOptions(stride=None, size=64).step == 64


def test_unknown_kind_of_split() -> None:
    with pytest.raises(UsageError, match=r"Cannot split by 'folds': expected blocks, random"):
        split_ground(ground(64, 64), TileOptions(size=16, split="folds"))


# Blocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "axis"), [(40, 400, 1), (400, 40, 0)])
def test_blocks_cut_the_long_axis_near_the_shares_asked(height: int, width: int, axis: int) -> None:
    labels = ground(height, width)
    sides = split_ground(labels, TileOptions(size=16, gap=16))
    found = by_side(sides)
    assert list(found) == list(SPLITS)
    lengths = {side: np.subtract(*extent(windows, axis)[::-1]) for side, windows in found.items()}
    total = sum(lengths.values())
    assert total == 400 - 2 * 16
    for side, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert lengths[side] / total == pytest.approx(share, abs=0.02), side
    for windows in found.values():
        # Blocks run across the whole of the other axis.
        assert extent(windows, 1 - axis) == (0, 40)


def test_blocks_try_both_axes() -> None:
    # All landslides lie in two columns: only rows can part them by .6, .2 and .2.
    labels = ground(200, 200, slice(10, 12))
    found = by_side(split_ground(labels, TileOptions(size=16, gap=16)))
    assert all(extent(windows, 1) == (0, 200) for windows in found.values())
    # And turned around.
    turned = Drawn(labels.values.T)
    found = by_side(split_ground(turned, TileOptions(size=16, gap=16)))
    assert all(extent(windows, 0) == (0, 200) for windows in found.values())


def test_blocks_try_every_order() -> None:
    # Left and right blocks of .2 are right only for sides of .2: the middle must train.
    values = np.zeros((16, 400))
    values[:, 36:44] = 1  # 20 % of the landslides, in the first 20 % of the ground
    values[:, 190:214] = 1  # 60 %
    values[:, 356:364] = 1  # 20 %
    found = by_side(split_ground(Drawn(values), TileOptions(size=16, gap=0)))
    left, right = extent(found["train"], 1)
    assert 44 <= left <= 190
    assert 214 <= right <= 356


@pytest.mark.parametrize("gap", [0, 1, 7, 33])
def test_blocks_keep_exactly_the_gap(gap: int) -> None:
    found = by_side(split_ground(ground(50, 500), TileOptions(size=20, gap=gap)))
    ordered = sorted(extent(windows, 1) for windows in found.values())
    assert [b[0] - a[1] for a, b in itertools.pairwise(ordered)] == [gap, gap]


def test_the_gap_is_one_tile_unless_asked() -> None:
    found = by_side(split_ground(ground(50, 500), TileOptions(size=24)))
    ordered = sorted(extent(windows, 1) for windows in found.values())
    assert [b[0] - a[1] for a, b in itertools.pairwise(ordered)] == [24, 24]


def test_blocks_begin_where_ground_is_labelled() -> None:
    values = np.full((32, 600), 255)
    values[:, 200:500] = 0
    values[::3, 200:500:5] = 1
    found = by_side(split_ground(Drawn(values), TileOptions(size=16, gap=0)))
    assert min(extent(windows, 1)[0] for windows in found.values()) == 200
    assert max(extent(windows, 1)[1] for windows in found.values()) == 500
    labelled = {
        side: extent(windows, 1)[1] - extent(windows, 1)[0] for side, windows in found.items()
    }
    assert labelled["train"] == pytest.approx(180, abs=4)


def test_without_test_or_validation_there_are_fewer_blocks() -> None:
    found = by_side(split_ground(ground(32, 400), TileOptions(size=16, gap=10, test=0.0)))
    assert set(found) == {"train", "validation"}
    assert distance(found["train"], found["validation"]) == 10
    whole = by_side(split_ground(ground(32, 400), TileOptions(size=16, val=0.0, test=0.0)))
    assert set(whole) == {"train"}
    assert extent(whole["train"], 1) == (0, 400)


def test_ground_too_small_for_blocks() -> None:
    with pytest.raises(TileSetError, match=r"40 x 60 px into 3 blocks .* 16 px with gaps of 16 px"):
        split_ground(ground(40, 60), TileOptions(size=16))
    # Three tiles and two gaps fit exactly.
    found = by_side(split_ground(ground(16, 80), TileOptions(size=16)))
    assert {side: extent(windows, 1) for side, windows in found.items()} == {
        "train": (0, 16), "validation": (32, 48), "test": (64, 80)
    }  # fmt: skip


def test_ground_that_nobody_labelled_has_no_blocks() -> None:
    with pytest.raises(TileSetError, match="Cannot split the ground"):
        split_ground(Drawn(np.full((100, 400), 255)), TileOptions(size=16))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(16, 90),
    width=st.integers(100, 260),
    size=st.integers(16, 30),
    stride=st.integers(1, 40),
    gap=st.integers(0, 30),
    seed=st.integers(0, 9),
)
def test_no_two_blocks_share_ground(
    height: int, width: int, size: int, stride: int, gap: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    labels = Drawn(random.choice([0, 0, 0, 1, 255], (height, width)))
    try:
        sides = split_ground(labels, TileOptions(size=size, stride=stride, gap=gap))
    except TileSetError:
        assume(False)
    found = by_side(sides)
    assert set(found) == set(SPLITS)
    assert covered(sides, (height, width)).max() == 1
    for a, b in itertools.combinations(found.values(), 2):
        assert distance(a, b) >= gap
    grid = labels.grid
    assert all(window.intersection(grid.window) == window for _, window in sides)
    assert all(w.height == min(size, height) and w.width == size for _, w in sides) or height < size
    # Every pixel of a block lies in a tile wherever tiles do not leave room on purpose.
    if stride <= size:
        for windows in found.values():
            (top, bottom), (left, right) = extent(windows, 0), extent(windows, 1)
            own = np.zeros((height, width), dtype=bool)
            for window in windows:
                own[window.slices] = True
            assert own[top:bottom, left:right].all()


def test_small_gaps_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="landslip"):
        split_ground(ground(32, 400), TileOptions(size=16))
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="landslip"):
        split_ground(ground(32, 400), TileOptions(size=16, gap=3))
    assert "lie 3 px apart" in caplog.text


# Columns -----------------------------------------------------------------------------------------


def test_columns_of_the_tianshui_strip() -> None:
    labels = ground(600, 5400)
    options = TileOptions(size=600, stride=100, split="columns:3600,4200")
    found = by_side(split_ground(labels, options))
    assert {side: len(windows) for side, windows in found.items()} == {
        "train": 31, "validation": 1, "test": 7
    }  # fmt: skip
    assert [window.col for window in found["train"]] == list(range(0, 3001, 100))
    assert found["validation"] == [Window(0, 3600, 600, 600)]
    assert [window.col for window in found["test"]] == list(range(4200, 4801, 100))


def test_columns_need_not_be_whole_tiles() -> None:
    found = by_side(split_ground(ground(40, 200), TileOptions(size=32, split="columns:100,110")))
    assert [window.col for window in found["train"]] == [0, 32, 64, 68] * 2
    # A side narrower than a tile gives narrower tiles.
    assert {(w.col, w.height, w.width) for w in found["validation"]} == {(100, 32, 10)}
    assert [window.row for window in found["validation"]] == [0, 8]
    assert extent(found["test"], 1) == (110, 200)


def test_one_cut_has_no_test() -> None:
    found = by_side(split_ground(ground(32, 200), TileOptions(size=32, split="columns:150")))
    assert set(found) == {"train", "validation"}


@pytest.mark.parametrize(
    "text", ["columns:", "columns:a,b", "columns:100,50", "columns:0,50", "columns:50,200",
             "columns:50,50", "columns:10,20,30", "columns:-5,50", "columns:1.5,3"],
)  # fmt: skip
def test_columns_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected columns:A,B with 0 < A < B < 200"):
        split_ground(ground(32, 200), TileOptions(size=32, split=text))


# Random ------------------------------------------------------------------------------------------


def test_random_is_eighty_to_twenty() -> None:
    labels = ground(160, 160)
    sides = split_ground(labels, TileOptions(size=16, split="random"))
    found = by_side(sides)
    assert {side: len(windows) for side, windows in found.items()} == {
        "train": 80, "validation": 20
    }  # fmt: skip
    assert (covered(sides, (160, 160)) == 1).all()
    assert sides == split_ground(labels, TileOptions(size=16, split="random"))
    other = split_ground(labels, TileOptions(size=16, split="random", seed=1))
    assert other != sides
    assert [window for _, window in other] == [window for _, window in sides]


def test_random_with_a_test_side() -> None:
    options = TileOptions(size=16, split="random", val=0.1, test=0.3)
    found = by_side(split_ground(ground(160, 160), options))
    assert {side: len(windows) for side, windows in found.items()} == {
        "train": 60, "validation": 10, "test": 30
    }  # fmt: skip


def test_random_is_said_to_flatter(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="landslip"):
        split_ground(ground(32, 64), TileOptions(size=16, split="random"))
    assert "the scores flatter" in caplog.text


def test_random_refuses_tiles_that_overlap_and_names_two() -> None:
    options = TileOptions(size=16, stride=15, split="random")
    with pytest.raises(TileSetError, match=r"r000000_c000000 and r000000_c000015") as caught:
        split_ground(ground(64, 64), options)
    assert "--stride 16" in str(caught.value)


def test_random_keeps_a_stride_above_the_size() -> None:
    options = TileOptions(size=16, stride=32, split="random")
    sides = split_ground(ground(64, 100), options)
    assert {(w.row, w.col) for _, w in sides} == {
        (row, col) for row in (0, 32) for col in (0, 32, 64, 96)
    }
    assert {w.width for _, w in sides if w.col == 96} == {4}


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(16, 40))
def test_random_covers_every_pixel_once(height: int, width: int, size: int) -> None:
    sides = split_ground(ground(height, width), TileOptions(size=size, split="random"))
    assert (covered(sides, (height, width)) == 1).all()
    assert [w for _, w in sides] == list(cover(Grid(UTM, Affine.identity(), height, width), size))


# A file of polygons ------------------------------------------------------------------------------


def write_split(path: Path, shapes: list[Any], names: list[Any], **more: Any) -> Path:
    return tiny.write_inventory(path, shapes=shapes, columns={"split": names}, **more)


COLUMNS = [tiny.box_at((0, 0, 64, 48)), tiny.box_at((0, 48, 64, 32)), tiny.box_at((0, 80, 64, 16))]
LABELS = ground(64, 96)


def tiles_of(path: Path | str, size: int = 16, **more: Any) -> dict[str, list[Window]]:
    return by_side(split_ground(LABELS, TileOptions(size=size, split=str(path), **more)))


def test_polygons_may_abut_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_split(tmp_path / "split.gpkg", COLUMNS, ["train", "validation", "test"])
    with caplog.at_level(logging.WARNING, logger="landslip"):
        found = tiles_of(file)
    as_columns = by_side(split_ground(LABELS, TileOptions(size=16, split="columns:48,80")))
    assert found == as_columns
    assert "train and validation lie 0 px apart" in caplog.text


def test_names_of_sides_are_read_generously(tmp_path: Path) -> None:
    file = write_split(tmp_path / "split.gpkg", COLUMNS, ["Train", "VAL", "test"])
    assert {side: len(windows) for side, windows in tiles_of(file).items()} == {
        "train": 12, "validation": 8, "test": 4
    }  # fmt: skip


def test_several_polygons_of_a_side_are_one_ground(tmp_path: Path) -> None:
    halves = [tiny.box_at((0, 0, 64, 20)), tiny.box_at((0, 20, 64, 28)), *COLUMNS[1:]]
    file = write_split(tmp_path / "split.gpkg", halves, ["train", "train", "validation", "test"])
    assert [w.col for w in tiles_of(file)["train"]] == [0, 16, 32] * 4


@pytest.mark.parametrize("shift_px", [1e-4, -1e-4, 5e-3, -5e-3])
def test_corners_rounded_in_the_file_lose_no_tile(tmp_path: Path, shift_px: float) -> None:
    metres = shift_px * tiny.SIZE_M
    moved = [shapely.affinity.translate(shape, metres, metres) for shape in COLUMNS]
    file = write_split(tmp_path / "split.gpkg", moved, ["train", "validation", "test"])
    exact = by_side(split_ground(LABELS, TileOptions(size=16, split="columns:48,80")))
    assert tiles_of(file) == exact


def test_polygons_in_degrees_lose_no_tile(tmp_path: Path) -> None:
    import geopandas as gpd

    frame = gpd.GeoDataFrame(
        {"split": ["train", "validation", "test"]}, geometry=COLUMNS, crs=tiny.UTM
    )
    frame.to_crs(4326).to_file(tmp_path / "split.gpkg")
    exact = by_side(split_ground(LABELS, TileOptions(size=16, split="columns:48,80")))
    assert tiles_of(tmp_path / "split.gpkg") == exact


def test_a_polygon_smaller_than_a_tile_gives_a_smaller_tile(tmp_path: Path) -> None:
    shapes = [COLUMNS[0], tiny.box_at((10, 50, 9, 7)), COLUMNS[2]]
    file = write_split(tmp_path / "split.gpkg", shapes, ["train", "validation", "test"])
    assert tiles_of(file)["validation"] == [Window(10, 50, 9, 7)]


def test_a_polygon_into_which_no_tile_fits(tmp_path: Path) -> None:
    triangle = shapely.Polygon([tiny.transform_of() * p for p in [(50, 0), (70, 0), (50, 20)]])
    file = write_split(tmp_path / "split.gpkg", [COLUMNS[0], triangle], ["train", "validation"])
    with pytest.raises(TileSetError, match=r"no tile of 16 px fits .* 'validation'. Lower --size"):
        tiles_of(file)


def test_tiles_lie_wholly_inside_their_polygons(tmp_path: Path) -> None:
    # An L: the lower right quarter of the left half belongs to nobody.
    ell = shapely.union(tiny.box_at((0, 0, 64, 24)), tiny.box_at((0, 24, 32, 24)))
    file = write_split(tmp_path / "split.gpkg", [ell, COLUMNS[1]], ["train", "validation"])
    windows = tiles_of(file, stride=8)["train"]
    for window in windows:
        assert window.col_stop <= 24 or window.row_stop <= 32, window
    assert Window(16, 32, 16, 16) in windows
    assert Window(48, 8, 16, 16) in windows


def test_ground_on_two_sides_is_refused_by_name(tmp_path: Path) -> None:
    shapes = [COLUMNS[0], tiny.box_at((0, 40, 64, 40))]
    file = write_split(tmp_path / "split.gpkg", shapes, ["train", "validation"])
    with pytest.raises(TileSetError) as caught:
        tiles_of(file)
    assert "r000000_c000032 (train) and r000000_c000040 (validation) share ground" in str(
        caught.value
    )


def test_files_that_do_not_say_which_side(tmp_path: Path) -> None:
    bare = tiny.write_inventory(tmp_path / "bare.gpkg", shapes=COLUMNS)
    with pytest.raises(TileSetError, match=r"no column 'split'"):
        tiles_of(bare)
    wrong = write_split(tmp_path / "wrong.gpkg", COLUMNS, ["train", "holdout", "test"])
    with pytest.raises(TileSetError, match=r"holds holdout; expected train, validation, test"):
        tiles_of(wrong)
    empty = write_split(tmp_path / "empty.gpkg", COLUMNS, ["train", None, "test"])
    with pytest.raises(TileSetError, match=r"expected train, validation, test"):
        tiles_of(empty)
    with pytest.raises(UsageError, match="a file of polygons"):
        tiles_of(tmp_path / "missing.gpkg")


def test_polygons_of_another_place(tmp_path: Path) -> None:
    moved = [shapely.affinity.translate(shape, 50_000) for shape in COLUMNS]
    file = write_split(tmp_path / "far.gpkg", moved, ["train", "validation", "test"])
    with pytest.raises((TileSetError, InventoryError), match="one place"):
        tiles_of(file)


# The last door -----------------------------------------------------------------------------------


def test_shared_ground_is_found_and_touching_is_not() -> None:
    left, right = Window(0, 0, 16, 16), Window(0, 16, 16, 16)
    refuse_shared_ground([("train", left), ("test", right), ("train", Window(5, 3, 16, 13))])
    with pytest.raises(TileSetError, match=r"r000000_c000016 \(test\) and r000015_c000008 \(train"):
        refuse_shared_ground([("train", Window(15, 8, 16, 16)), ("test", right)])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(SPLITS),
            st.builds(
                Window, st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(1, 6)
            ),
        ),
        max_size=6,
    )
)
def test_shared_ground_is_what_two_sides_hold(sides: list[Side]) -> None:
    shared = (covered(sides, (20, 20)) > 1).any()
    if shared:
        with pytest.raises(TileSetError, match="share ground"):
            refuse_shared_ground(sides)
    else:
        refuse_shared_ground(sides)


def test_names_sort_like_places() -> None:
    assert tile_name(Window(5, 123456, 1, 1)) == "r000005_c123456"


@given(st.integers(1, 500), st.integers(1, 200), st.integers(1, 200))
def test_starts_cover_and_end_at_the_edge(length: int, size: int, stride: int) -> None:
    found = starts(length, size, stride)
    assert found[0] == 0
    assert found == sorted(set(found))
    assert found[-1] == max(length - size, 0)
    assert all(b - a <= stride for a, b in itertools.pairwise(found))
