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
    SizeCounts,
    compare_objects,
    mapped_at,
    paired_difference,
)
from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid

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
@given(grounds(), OVERLAPS, st.booleans(), st.integers(1, 10))
def test_counts_are_those_of_going_from_pixel_to_pixel(
    ground: tuple[Plane, Plane, NDArray[np.int_], Grid], overlap: str, has_ids: bool, side: int
) -> None:
    mapped, labels, ids, grid = ground
    given_ids = ids if has_ids else None
    found = compare_objects(mapped, labels, grid, ids=given_ids, overlap=float(overlap))
    row_areas_m2 = grid.pixel_area_m2(np.arange(grid.height)).tolist()
    bodies = reference.bodies_by_id(ids, labels) if has_ids else reference.bodies(labels)
    told = reference.matched_objects(bodies, mapped, row_areas_m2, overlap, side)
    told_mapped = reference.matched_objects(
        reference.bodies(mapped), labels, row_areas_m2, overlap, side
    )
    every, hits = Counter(t[:2] for t in told), Counter(t[:2] for t in told if t[2])
    predicted = Counter(t[:2] for t in told_mapped)
    wrong = Counter(t[:2] for t in told_mapped if not t[2])
    blocks = found.by_blocks(side * grid.pixel_size_m)
    down, across = math.ceil(grid.height / side), math.ceil(grid.width / side)
    assert len(blocks) == down * across
    for number, counts in enumerate(blocks):
        row, col = divmod(number, across)
        columns = (counts.reference, counts.found, counts.predicted, counts.false_alarms)
        for column, expected in zip(columns, (every, hits, predicted, wrong), strict=True):
            assert column == tuple(expected[(row, col), size] for size in range(5))
        scored = (mapped != 255) & (labels != 255)
        own = slice(row * side, (row + 1) * side)
        pixels = scored[own, col * side : (col + 1) * side].sum(axis=1)
        assert counts.km2 == pytest.approx(np.dot(pixels, row_areas_m2[own]) / 1e6, rel=1e-12)
    whole = found.counts()
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
    assert tallies(compared(text, "#" * pixels, overlap=overlap).counts())[1] == found


def test_ground_that_one_side_does_not_know_does_not_count() -> None:
    # Seen nowhere: no reference landslide. Labelled nowhere: no mapped one.
    counts = compared("??.##.##", "##.??.#?").counts()
    assert tallies(counts) == (1, 1, 1, 0)
    assert counts.km2 == pytest.approx(3e-4)


def test_a_false_alarm_is_told_by_its_labelled_pixels() -> None:
    assert tallies(compared("####", "#..?").counts()) == (1, 1, 1, 1)
    assert tallies(compared("####", "#.??").counts()) == (1, 1, 1, 0)
    assert tallies(compared("####", "#..?", overlap=0.1).counts()) == (1, 1, 1, 0)


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
    blocks = compared(labels, labels).by_blocks(20)
    assert [counts.pooled().reference[0] for counts in blocks] == [0, 1, 0, 1]
    assert [counts.km2 for counts in blocks] == [pytest.approx(4e-4)] * 4
    [one] = compared(labels, labels).by_blocks(1000)
    assert one == compared(labels, labels).counts()


def test_the_last_blocks_are_cut_by_the_edge() -> None:
    blocks = compared("....#", "....#").by_blocks(20)
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
        compared("#", "#", overlap=overlap)


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
        compared("#", "#").by_blocks(block_m)


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
        compare_objects(mapped, labels, grid).by_blocks(50) for mapped in (half, labels)
    )
    assert len(first) == 25
    told = paired_difference(first, second, sizes=(0, 1))
    assert told.difference == pytest.approx(12 / 25)
    assert told.interval is not None
    # The share of 25 draws of blocks of which 12 are missed: .48 ± 1.96 sqrt(.48 x .52 / 25).
    assert told.interval == pytest.approx((0.284, 0.676), abs=0.041)
