import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from rasterio.crs import CRS

import reference
from landslip.assess.objects import (
    SIZE_CLASSES_M2,
    SIZE_TEXTS,
    ObjectComparison,
    ObjectCounter,
    SizeCounts,
    compare_objects,
    mapped_at,
    paired_difference,
)
from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window

Plane = NDArray[np.uint8]

FEW = settings(max_examples=60, deadline=None)
OVERLAPS = st.sampled_from(["0.1", "0.3", "0.5", "0.6", "1"])


def utm(height: int, width: int, size_m: float = 10.0) -> Grid:
    transform = Affine(size_m, 0, 500_000, 0, -size_m, 3_800_000)
    return Grid(CRS.from_epsg(32648), transform, height, width)


def degrees(height: int, width: int, size: float) -> Grid:
    return Grid(CRS.from_epsg(4326), Affine(size, 0, 105, 0, -size, 60), height, width)


def plane(rows: str) -> Plane:
    """Rows parted by blanks: . background, # landslide, ? 255."""
    values = {".": 0, "#": 1, "?": 255}
    return np.array([[values[letter] for letter in row] for row in rows.split()], np.uint8)


def compared(mapped: str, labels: str, size_m: float = 10.0, **options: Any) -> ObjectComparison:
    truth = plane(labels)
    height, width = truth.shape
    return compare_objects(plane(mapped), truth, utm(height, width, size_m), **options)


def tallies(counts: SizeCounts) -> tuple[int, int, int, int]:
    """Reference, found, predicted and false alarms of all sizes."""
    one = counts.pooled()
    return one.reference[0], one.found[0], one.predicted[0], one.false_alarms[0]


@st.composite
def grounds(draw: st.DrawFn) -> tuple[Plane, Plane, NDArray[np.int_], Grid]:
    """A map, labels, ids and their grid."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    values = st.sampled_from([0, 0, 0, 1, 1, 255])
    mapped, labels = (draw(arrays(np.uint8, (height, width), elements=values)) for _ in range(2))
    ids = draw(arrays(np.int64, (height, width), elements=st.integers(1, 4)))
    grid = draw(
        st.sampled_from([0.5, 4.0, 10.0, 0.8, 32.0]).map(lambda size: utm(height, width, size))
        | st.sampled_from([1e-4, 5e-4]).map(lambda size: degrees(height, width, size))
    )
    return mapped, labels, ids, grid


@FEW
@given(grounds(), OVERLAPS, st.booleans(), st.integers(1, 10), st.integers(1, 9))
def test_counts_are_those_of_going_from_pixel_to_pixel(
    ground: tuple[Plane, Plane, NDArray[np.int_], Grid],
    overlap: str,
    has_ids: bool,
    side: int,
    rows: int,
) -> None:
    mapped, labels, ids, grid = ground
    given_ids = ids if has_ids else None
    block_m = side * grid.pixel_size_m
    counter = ObjectCounter(grid, block_m=block_m)
    for top in range(0, grid.height, rows):
        window = Window(top, 0, min(rows, grid.height - top), grid.width)
        own = window.slices
        part = None if given_ids is None else given_ids[own]
        counter.add(window, mapped[own], labels[own], part)
    found = counter.compared()
    row_areas_m2 = grid.pixel_area_m2(np.arange(grid.height)).tolist()
    bodies = reference.bodies_by_id(ids, labels) if has_ids else reference.bodies(labels)
    told = reference.matched_objects(bodies, mapped, row_areas_m2, overlap, side)
    told_mapped = reference.matched_objects(
        reference.bodies(mapped), labels, row_areas_m2, overlap, side
    )
    every, hits = Counter(t[:2] for t in told), Counter(t[:2] for t in told if t[2])
    predicted = Counter(t[:2] for t in told_mapped)
    wrong = Counter(t[:2] for t in told_mapped if not t[2])
    blocks = found.by_blocks(float(overlap))
    down, across = math.ceil(grid.height / side), math.ceil(grid.width / side)
    assert len(blocks) == down * across
    for number, counts in enumerate(blocks):
        row, col = divmod(number, across)
        columns = (counts.reference, counts.found, counts.predicted, counts.false_alarms)
        for column, expected in zip(columns, (every, hits, predicted, wrong), strict=True):
            assert column == tuple(expected[(row, col), size] for size in range(5))
        scored = (mapped != 255) & (labels != 255)
        lines = slice(row * side, (row + 1) * side)
        pixels = scored[lines, col * side : (col + 1) * side].sum(axis=1)
        assert counts.km2 == pytest.approx(np.dot(pixels, row_areas_m2[lines]) / 1e6, rel=1e-12)
    whole = found.counts(float(overlap))
    assert whole.km2 == pytest.approx(sum(counts.km2 for counts in blocks))
    assert tallies(sum(blocks, SizeCounts())) == tallies(whole)


def test_every_size_class_has_a_text_and_they_leave_no_gap() -> None:
    assert len(SIZE_TEXTS) == len(SIZE_CLASSES_M2) == 5
    assert SIZE_CLASSES_M2[0][0] == 0
    assert SIZE_CLASSES_M2[-1][1] == math.inf
    assert all(a[1] == b[0] for a, b in itertools.pairwise(SIZE_CLASSES_M2))


@pytest.mark.parametrize(
    ("pixels", "size_m", "size_class"),
    [
        (99, 1.0, 0),
        (100, 1.0, 1),
        (399, 1.0, 1),
        (625, 0.8, 2),  # .8² summed 625 times is a hair less than 400
        (39, 5.0, 2),
        (40, 5.0, 3),
        (99, 10.0, 3),
        (100, 10.0, 4),
    ],
)
def test_a_limit_belongs_to_the_larger_class(pixels: int, size_m: float, size_class: int) -> None:
    labels = np.ones((1, pixels), np.uint8)
    counts = compare_objects(labels, labels, utm(1, pixels, size_m)).counts()
    expected = tuple(int(number == size_class) for number in range(5))
    assert counts.reference == counts.found == counts.predicted == expected
    assert counts.false_alarms == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("mapped", "found"), [("##..", 1), ("#...", 0), ("#?..", 1), ("??..", 0)])
def test_found_from_the_share_of_observed_pixels(mapped: str, found: int) -> None:
    assert tallies(compared(mapped, "###.").counts())[:2] == (1, found)


@pytest.mark.parametrize(
    ("mapped", "pixels", "overlap", "found"),
    [
        (3, 30, 0.1, 1), (2, 30, 0.1, 0), (15, 30, 0.5, 1), (14, 30, 0.5, 0), (7, 50, 0.14, 1),
        (29, 30, 1.0, 0),
    ],
)  # fmt: skip
def test_an_overlap_is_reached_exactly(
    mapped: int, pixels: int, overlap: float, found: int
) -> None:
    text = "#" * mapped + "." * (pixels - mapped)
    assert tallies(compared(text, "#" * pixels).counts(overlap))[1] == found


def test_ground_that_one_side_does_not_know_does_not_count() -> None:
    # Seen nowhere: no reference landslide. Labelled nowhere: no mapped one.
    counts = compared("??.##.##", "##.??.#?").counts()
    assert tallies(counts) == (1, 1, 1, 0)
    assert counts.km2 == pytest.approx(3e-4)


def test_a_false_alarm_is_told_by_its_labelled_pixels() -> None:
    assert tallies(compared("####", "#..?").counts()) == (1, 1, 1, 1)
    assert tallies(compared("####", "#.??").counts()) == (1, 1, 1, 0)
    assert tallies(compared("####", "#..?").counts(0.1)) == (1, 1, 1, 0)


def test_the_size_of_a_false_alarm_is_its_own() -> None:
    counts = compared("#### ####", ".... ...#").counts()
    assert counts.reference == counts.found == (0, 1, 0, 0, 0)
    assert counts.predicted == counts.false_alarms == (0, 0, 1, 0, 0)


def test_corners_touch() -> None:
    assert tallies(compared("#.. .#. ..#", "#.. ... ..#").counts()) == (2, 2, 1, 0)


def test_ids_part_bodies_that_touch_and_join_parts_that_do_not() -> None:
    ids = np.array([[7, 7, 9, 9, 0, 7]])
    counts = compared("##....", "####.#", ids=ids).counts()
    assert tallies(counts) == (2, 1, 1, 0)
    assert counts.reference == (0, 2, 0, 0, 0)
    assert tallies(compared("##....", "####.#").counts()) == (2, 1, 1, 0)
    assert tallies(compared("#.....", "####.#", ids=ids).counts()) == (2, 0, 1, 0)


def test_ids_off_landslides_are_ignored() -> None:
    ids = np.array([[1, 2, 3]])
    assert tallies(compared("###", "#.?", ids=ids).counts()) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    ("mapped", "labels", "expected", "km2"),
    [
        ("#", "#", (1, 1, 1, 0), 1e-4),
        (".", "#", (1, 0, 0, 0), 1e-4),
        ("#", ".", (0, 0, 1, 1), 1e-4),
        ("#", "?", (0, 0, 0, 0), 0.0),
        ("?", "#", (0, 0, 0, 0), 0.0),
        (".", ".", (0, 0, 0, 0), 1e-4),
    ],
)
def test_one_pixel(
    mapped: str, labels: str, expected: tuple[int, int, int, int], km2: float
) -> None:
    counts = compared(mapped, labels).counts()
    assert tallies(counts) == expected
    assert counts.km2 == pytest.approx(km2)


def test_scores() -> None:
    counts = SizeCounts(
        reference=(4, 2, 0, 0, 0),
        found=(1, 2, 0, 0, 0),
        predicted=(5, 0, 2, 0, 0),
        false_alarms=(3, 0, 0, 0, 0),
        km2=1.5,
    )
    nan = math.nan
    np.testing.assert_equal(counts.recall, (0.25, 1.0, nan, nan, nan))
    np.testing.assert_equal(counts.precision, (0.4, nan, 1.0, nan, nan))
    np.testing.assert_equal(counts.false_alarms_per_km2, (2.0, 0.0, 0.0, 0.0, 0.0))
    assert counts.pooled([1, 0]) == SizeCounts((6,), (3,), (5,), (3,), 1.5)
    assert counts.pooled().recall == (0.5,)
    assert counts.pooled().precision == (4 / 7,)
    np.testing.assert_equal(counts.pooled([2]).recall, (nan,))


def test_undefined_scores_are_nan_and_never_zero() -> None:
    counts = compared("??", "??").counts()
    assert counts == SizeCounts()
    for scores in (counts.recall, counts.precision, counts.false_alarms_per_km2):
        assert len(scores) == 5
        assert all(math.isnan(score) for score in scores)


def test_counts_add() -> None:
    first = SizeCounts((1, 0, 2, 0, 0), (1, 0, 1, 0, 0), (0, 3, 0, 0, 0), (0, 1, 0, 0, 0), 0.5)
    second = SizeCounts((0, 1, 2, 0, 0), (0, 1, 0, 0, 0), (1, 1, 0, 0, 0), (1, 0, 0, 0, 0), 0.25)
    both = SizeCounts((1, 1, 4, 0, 0), (1, 1, 1, 0, 0), (1, 4, 0, 0, 0), (1, 1, 0, 0, 0), 0.75)
    assert first + second == second + first == both
    assert sum([first, second], SizeCounts()) == both


def test_sizes_in_degrees_follow_the_parallel() -> None:
    # 1e-4 degrees are 11.1 m by 11.1 m at the equator: 124 m2; at 60 degrees north half of that.
    ones = np.ones((1, 1), np.uint8)
    at_60 = degrees(1, 1, 1e-4)
    at_0 = Grid(at_60.crs, Affine(1e-4, 0, 105, 0, -1e-4, 0), 1, 1)
    assert compare_objects(ones, ones, at_60).counts().reference == (1, 0, 0, 0, 0)
    assert compare_objects(ones, ones, at_0).counts().reference == (0, 1, 0, 0, 0)


def test_areas_and_ground_in_degrees_are_geodesic() -> None:
    grid = degrees(200, 3, 0.005)
    labels = np.zeros(grid.shape, np.uint8)
    labels[10:13, 1] = labels[199, 0] = 1
    found = compare_objects(labels, labels, grid)
    geod = pyproj.Geod(ellps="WGS84")

    def area_m2(west: float, south: float, east: float, north: float) -> float:
        # Parallels have more vertices than corners, pixels only these; a millionth apart here.
        return abs(
            geod.polygon_area_perimeter([west, east, east, west], [south, south, north, north])[0]
        )

    expected = [
        area_m2(105.005, 60 - 13 * 0.005, 105.01, 60 - 10 * 0.005),
        area_m2(105, 59, 105.005, 59.005),
    ]
    np.testing.assert_allclose(found.reference.area_m2, expected, rtol=1e-6)
    whole = area_m2(105, 59, 105.015, 60)
    assert found.counts().km2 == pytest.approx(whole / 1e6, rel=1e-5)


def test_landslides_belong_to_the_block_of_their_centroid() -> None:
    # The centroid of the left one lies on the edge of two blocks: it belongs to the right one.
    labels = ".##..### ........"
    blocks = compared(labels, labels, block_m=20).by_blocks()
    assert [counts.pooled().reference[0] for counts in blocks] == [0, 1, 0, 1]
    assert [counts.km2 for counts in blocks] == [pytest.approx(4e-4)] * 4
    [one] = compared(labels, labels, block_m=1000).by_blocks()
    assert one == compared(labels, labels).counts()


def test_the_last_blocks_are_cut_by_the_edge() -> None:
    blocks = compared("....#", "....#", block_m=20).by_blocks()
    assert [counts.km2 for counts in blocks] == pytest.approx([2e-4, 2e-4, 1e-4])
    assert blocks[2].found == (0, 1, 0, 0, 0)


def test_maps_of_yes_and_no_are_made_of_probabilities() -> None:
    codes = np.array([[0, 126, 127, 254, 255]], np.uint8)
    assert mapped_at(codes, 0.5).tolist() == [[0, 0, 1, 1, 255]]
    assert mapped_at(codes, 1.0).tolist() == [[0, 0, 0, 1, 255]]
    assert codes.tolist() == [[0, 126, 127, 254, 255]]


@pytest.mark.parametrize("overlap", [0.0, -0.1, 1.01, math.nan])
def test_overlaps_out_of_range_are_refused(overlap: float) -> None:
    with pytest.raises(UsageError, match=rf"overlap of {overlap:g}: it must be above 0 and up"):
        compared("#", "#").counts(overlap)


def test_other_shapes_and_values_are_refused() -> None:
    ones = np.ones((2, 3), np.uint8)
    with pytest.raises(UsageError, match=r"the map is \(2, 3\), the grid \(3, 2\) px"):
        compare_objects(ones, ones.T, utm(3, 2))
    with pytest.raises(UsageError, match=r"the reference is \(3, 2\), the grid \(2, 3\) px"):
        compare_objects(ones, ones.T, utm(2, 3))
    with pytest.raises(UsageError, match=r"ids are \(3, 2\), labels \(2, 3\) px"):
        compare_objects(ones, ones, utm(2, 3), ids=np.ones((3, 2), int))
    with pytest.raises(UsageError, match=r"the map holds 127; expected 0, 1 and 255"):
        compare_objects(127 * ones, ones, utm(2, 3))
    with pytest.raises(UsageError, match=r"the reference holds 2; expected 0, 1 and 255"):
        compare_objects(ones, 2 * ones, utm(2, 3))


def test_landslides_without_an_id_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 px are landslide and have no id; expected one on"):
        compared("###", "###", ids=np.array([[1, 0, 0]]))


@pytest.mark.parametrize("block_m", [0.0, -20.0, 4.0, math.nan, math.inf])
def test_blocks_without_a_pixel_are_refused(block_m: float) -> None:
    with pytest.raises(UsageError, match=rf"blocks of {block_m:g} m: pixels have 10 m"):
        compared("#", "#", block_m=block_m)


@pytest.mark.parametrize("sizes", [[], [5], [-1, 0]])
def test_unknown_size_classes_are_refused(sizes: list[int]) -> None:
    with pytest.raises(UsageError, match=r"Cannot pool size classes .*: expected .* 0 to 4"):
        SizeCounts().pooled(sizes)


def block(reference: Sequence[int], found: Sequence[int]) -> SizeCounts:
    return SizeCounts(reference=tuple(reference), found=tuple(found))


def chance_blocks(count: int, recall: float, seed: int, most: int = 6) -> list[SizeCounts]:
    """Blocks that hold 0 to `most` landslides a size, always the same ones, found by chance."""
    numbers = np.random.default_rng(99).integers(0, most + 1, (count, 5))
    found = np.random.default_rng(seed).binomial(numbers, recall)
    return [block(one, two) for one, two in zip(numbers.tolist(), found.tolist(), strict=True)]


def test_equal_maps_differ_by_exactly_nothing() -> None:
    blocks = chance_blocks(30, 0.37, seed=1)
    told = paired_difference(blocks, blocks)
    assert told.difference == 0
    assert told.blocks == 30
    assert told.landslides == sum(sum(counts.reference) for counts in blocks)
    assert told.why_no_interval == ""
    assert told.interval == (0, 0)


def test_the_same_seed_gives_the_same_numbers() -> None:
    first = chance_blocks(30, 0.5, seed=1)
    second = chance_blocks(30, 0.6, seed=2)
    told = paired_difference(first, second)
    assert told == paired_difference(first, second, seed=0, draws=2000)
    assert told.interval != paired_difference(first, second, seed=1).interval
    assert told.difference == paired_difference(first, second, seed=1).difference


def test_a_better_map_is_told_from_a_worse_one() -> None:
    worse = chance_blocks(40, 0.3, seed=1)
    better = chance_blocks(40, 0.8, seed=2)
    told = paired_difference(worse, better)
    assert told.interval is not None
    low, high = told.interval
    assert 0.3 < low < told.difference < high < 0.7
    recalls = [sum(blocks, SizeCounts()).pooled().recall[0] for blocks in (worse, better)]
    assert told.difference == pytest.approx(recalls[1] - recalls[0], abs=1e-12)
    turned = paired_difference(better, worse)
    assert turned.difference == -told.difference
    assert turned.interval == pytest.approx((-high, -low), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, (0,), (0, 1), (1, 3, 4)]))
def test_intervals_are_those_of_drawing_block_by_block(
    seed: int, sizes: tuple[int, ...] | None
) -> None:
    first = chance_blocks(50, 0.5, seed=seed, most=2)
    second = chance_blocks(50, 0.6, seed=seed + 1, most=2)
    told = paired_difference(first, second, sizes=sizes, draws=200, seed=seed)
    chosen = range(5) if sizes is None else sizes
    held = [
        tuple(
            sum(column[size] for size in chosen) for column in (one.reference, one.found, two.found)
        )
        for one, two in zip(first, second, strict=True)
    ]
    blocks = [line for line in held if line[0]]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(blocks), size=(200, len(blocks))).tolist()
    assert told.interval == pytest.approx(reference.bootstrapped(blocks, drawn), abs=1e-12)
    assert told.blocks == len(blocks)
    assert told.landslides == sum(line[0] for line in blocks)


def test_empty_ground_changes_no_digit() -> None:
    first = chance_blocks(30, 0.5, seed=1)
    second = chance_blocks(30, 0.6, seed=2)
    empty = [SizeCounts(km2=1.0)] * 100
    told = paired_difference(first, second)
    assert paired_difference(empty + first, empty + second) == told


def test_few_blocks_give_no_interval() -> None:
    blocks = [block((1, 0, 0, 0, 0), (number % 2, 0, 0, 0, 0)) for number in range(20)]
    all_found = [block((1, 0, 0, 0, 0), (1, 0, 0, 0, 0))] * 20
    told = paired_difference(blocks, all_found)
    assert told.difference == 0.5
    assert told.interval is not None
    few = paired_difference(blocks[:18] + [SizeCounts()] * 9, all_found[:18] + [SizeCounts()] * 9)
    assert few.difference == 0.5
    assert few.interval is None
    assert (few.blocks, few.landslides) == (18, 18)
    assert few.why_no_interval.startswith("No interval: 18 blocks hold reference landslides")
    assert "at least 20 are needed" in few.why_no_interval


def test_without_landslides_there_is_no_difference() -> None:
    blocks = [block((1, 0, 0, 0, 0), (1, 0, 0, 0, 0))] * 30
    for counts, sizes in ((blocks, (4,)), ([], None)):
        told = paired_difference(counts, counts, sizes=sizes)
        assert math.isnan(told.difference)
        assert (told.interval, told.blocks, told.landslides) == (None, 0, 0)


def test_maps_of_different_ground_are_refused() -> None:
    one, two = block((1, 0, 0, 0, 0), (1, 0, 0, 0, 0)), block((2, 0, 0, 0, 0), (1, 0, 0, 0, 0))
    with pytest.raises(UsageError, match=r"the first has 1 blocks, the second 2"):
        paired_difference([one], [one, one])
    with pytest.raises(UsageError, match=r"block 1 holds 1, 0, 0, 0, 0 .* and 2, 0, 0, 0, 0 for"):
        paired_difference([one, one], [one, two])
    with pytest.raises(UsageError, match=r"Cannot draw blocks 0 times: at least 1"):
        paired_difference([one], [one], draws=0)


def test_from_rasters_to_an_interval() -> None:
    """One landslide a block of 5 x 5 px; one map finds those of even blocks, one finds all."""
    labels = np.zeros((25, 25), np.uint8)
    labels[2::5, 2::5] = 1
    odd = np.arange(25).reshape(5, 5) % 2 == 1
    half = labels.copy()
    half[2::5, 2::5][odd] = 0
    grid = utm(25, 25)
    first, second = (
        compare_objects(mapped, labels, grid, block_m=50).by_blocks() for mapped in (half, labels)
    )
    assert len(first) == 25
    told = paired_difference(first, second, sizes=(0, 1))
    assert told.difference == pytest.approx(12 / 25)
    assert told.interval is not None
    # The share of 25 draws of blocks of which 12 are missed: .48 ± 1.96 sqrt(.48 x .52 / 25).
    assert told.interval == pytest.approx((0.284, 0.676), abs=0.041)


# Pairs, merges, splits and sizes -----------------------------------------------------------------


@FEW
@given(grounds(), st.booleans(), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_pairs_are_those_of_trying_all(
    ground: tuple[Plane, Plane, NDArray[np.int_], Grid], has_ids: bool, iou: float
) -> None:
    mapped, labels, ids, grid = ground
    found = compare_objects(mapped, labels, grid, ids=ids if has_ids else None)
    drawn = reference.bodies_by_id(ids, labels) if has_ids else reference.bodies(labels)
    drawn_px = [{at for at in body if mapped[at] != 255} for body in drawn]
    mapped_px = [{at for at in body if labels[at] != 255} for body in reference.bodies(mapped)]
    shared = [
        (one, other, len(a & b) / len(a | b))
        for one, a in enumerate(drawn_px)
        for other, b in enumerate(mapped_px)
        if a & b
    ]
    assert sorted(found.pairs.iou) == pytest.approx(sorted(value for *_, value in shared))
    pairs = found.one_to_one(iou)
    count, total = reference.best_pairing([pair for pair in shared if pair[2] >= iou])
    assert len(pairs.iou) == count
    assert pairs.iou.sum() == pytest.approx(total)
    assert len(set(pairs.reference)) == len(set(pairs.predicted)) == count
    merged = [sum(2 * len(a & b) >= len(a) > 0 for a in drawn_px if a & b) > 1 for b in mapped_px]
    split = [sum(2 * len(a & b) >= len(b) > 0 for b in mapped_px if a & b) > 1 for a in drawn_px]
    assert (found.merges(), found.splits()) == (sum(merged), sum(split))
    together = {
        one
        for one, a in enumerate(drawn_px)
        for b, is_merged in zip(mapped_px, merged, strict=True)
        if is_merged and a & b and 2 * len(a & b) >= len(a)
    }
    # Bodies of both are listed in another order, so their sizes are compared.
    sizes = found.reference.known_px
    assert sorted(sizes[found.merged()]) == sorted(len(drawn_px[one]) for one in together)
    expected = [len(a) for a, is_split in zip(drawn_px, split, strict=True) if is_split]
    assert sorted(sizes[found.split()]) == sorted(expected)


def test_of_several_ways_to_pair_the_one_with_most_pairs_is_taken() -> None:
    # The middle one overlaps both mapped ones; to the right best, but then the left one has none.
    found = compared("######.", "###....", ids=None)
    assert found.one_to_one(0.25).iou.tolist() == [0.5]
    ids = np.array([[1, 1, 1, 2, 2, 2, 2, 2]])
    found = compared("#####.##", "########", ids=ids)
    assert found.one_to_one(0.25).iou.tolist() == pytest.approx([3 / 5, 2 / 5])


def test_merges_and_splits() -> None:
    assert compared("#######", "##.##.#").merges() == 1
    assert compared("##.##.#", "#######").splits() == 1
    assert compared("##.....", "##.##..").merges() == 0


def test_the_size_of_which_half_are_found() -> None:
    """Landslides of 1 to 40 px; those above 10 px are found, below it more rarely."""
    random = np.random.default_rng(0)
    pixels = random.integers(1, 41, 400)
    found = random.random(400) < 1 / (1 + np.exp(-3 * np.log(pixels / 10)))
    labels, mapped = np.zeros((2, 800, 40), np.uint8)
    for row, (number, is_found) in enumerate(zip(pixels, found, strict=True)):
        labels[2 * row, :number] = 1
        mapped[2 * row, :number] = is_found
    told = compare_objects(mapped, labels, utm(800, 40))
    assert told.half_found_m2() == pytest.approx(1000, rel=0.15)


@pytest.mark.parametrize(("mapped", "labels"), [("#.#.#", "#.#.#"), (".....", "#.#.#")])
def test_no_size_is_told_where_all_or_none_or_few_are_found(mapped: str, labels: str) -> None:
    assert math.isnan(compared(mapped, labels).half_found_m2())
    many = compared(" ".join([mapped, "....."] * 9), " ".join([labels, "....."] * 9))
    assert math.isnan(many.half_found_m2())
