import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip.assess.blocks import Blocks, drawn_sums, interval_of, paired_scores
from landslip.assess.scores import PIXEL_SCORES
from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid
from landslip.geo.windows import cover

F1 = PIXEL_SCORES["f1"]


def grid(height: int, width: int) -> Grid:
    return Grid(CRS.from_epsg(32648), Affine(10, 0, 500_000, 0, -10, 3_800_000), height, width)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 25), st.integers(1, 9))
def test_sums_of_windows_are_those_of_blocks(
    height: int, width: int, side: int, window: int
) -> None:
    plane = np.random.default_rng(height * width).integers(0, 9, (height, width))
    weights = np.arange(1.0, height + 1)
    blocks = Blocks(grid(height, width), 10.0 * side)
    sums, weighed = np.zeros(blocks.shape, np.int64), np.zeros(blocks.shape)
    for part in cover(grid(height, width), window):
        own = plane[part.slices]
        blocks.add(sums, part, own)
        blocks.add(weighed, part, own, weights[part.slices[0]])
    side = blocks.side
    for row, col in np.ndindex(blocks.shape):
        block = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
        assert sums[row, col] == plane[block].sum()
        assert weighed[row, col] == (plane * weights[:, None])[block].sum()
    assert blocks.of(np.array([height - 0.5]), np.array([width - 0.5])) == sums.size - 1


def counts_of(number: int, seed: int, better: int = 0) -> NDArray[np.int64]:
    """TP, FP and FN of some blocks; `better` more TP in each."""
    random = np.random.default_rng(seed)
    found = random.integers(20, 60, (number, 3))
    found[:, 0] += better
    found[:, 2] += 20 - better
    return found


def test_intervals_are_those_of_drawing_block_by_block() -> None:
    counts = counts_of(30, 1)
    random, scores = np.random.default_rng(5), []
    for drawn in random.integers(30, size=(200, 30)):
        tp, fp, fn = (sum(int(counts[block, kind]) for block in drawn) for kind in range(3))
        scores.append(2 * tp / (2 * tp + fp + fn))
    found = interval_of(counts, F1, draws=200, seed=5)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(np.quantile(scores, [0.025, 0.975]))
    assert found.blocks == 30


def test_draws_are_the_same_however_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn_sums(counts_of(40, 2), 50, 3)
    monkeypatch.setattr("landslip.assess.blocks.AT_ONCE", 999)
    np.testing.assert_array_equal(drawn_sums(counts_of(40, 2), 50, 3), whole)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth = float(F1(counts_of(20_000, 9).sum(axis=0).astype(float)))
    held = 0
    for seed in range(200):
        found = interval_of(counts_of(40, 100 + seed), F1, draws=400)
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_few_blocks_have_no_interval_and_no_test() -> None:
    assert interval_of(counts_of(19, 0), F1) is None
    assert interval_of(counts_of(20, 0), F1) is not None
    told = paired_scores(counts_of(19, 0), counts_of(19, 0, 5), F1)
    assert told.difference > 0
    assert (told.interval, told.p) == (None, None)
    nothing = np.zeros((25, 3), np.int64)
    assert interval_of(nothing, F1) is None
    told = paired_scores(nothing, nothing, F1)
    assert math.isnan(told.difference)
    assert (told.interval, told.p) == (None, None)


def test_a_paired_test_tells_better_from_alike() -> None:
    first = counts_of(40, 3)
    same = paired_scores(first, first, F1)
    assert same.interval is not None
    assert (same.difference, same.interval.low, same.interval.high, same.p) == (0, 0, 0, 1)
    better = paired_scores(first, counts_of(40, 3, 8), F1, draws=500)
    assert better.interval is not None
    assert better.interval.low > 0
    assert better.p == 1 / 501


def test_chance_differences_have_even_p_values() -> None:
    values = []
    for seed in range(120):
        told = paired_scores(counts_of(25, 2 * seed), counts_of(25, 2 * seed + 1), F1, draws=200)
        assert told.p is not None
        values.append(told.p)
    assert 0.4 < np.mean(values) < 0.6
    assert np.mean(np.array(values) < 0.1) < 0.2


def test_no_draws_are_refused() -> None:
    with pytest.raises(UsageError, match="draw blocks 0 times"):
        interval_of(counts_of(30, 0), F1, draws=0)
