"""Square blocks of ground: what is counted in each, and how sure a score of all of them is.

Neighbouring pixels are alike, so pixels are no independent sample; blocks larger than the distance
over which ground is alike nearly are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window

FEWEST_BLOCKS = 20
"""Blocks that tell something, below which no interval is given."""
DRAWS = 2000
"""How often blocks are drawn."""
AT_ONCE = 2**22
"""Numbers of blocks that are drawn at once."""
Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Scores, shape (...), of counts, shape (..., kinds)."""


class Blocks:
    """Square blocks of pixels over a grid; the last ones are cut by its edge."""

    def __init__(self, grid: Grid, block_m: float | None = None) -> None:
        """Cut a grid into blocks.

        Args:
            grid: What is cut.
            block_m: Side of a block (m), to the nearest pixel; None: one block of all.

        Raises:
            UsageError: A block would be smaller than a pixel.
        """
        pixel_m = grid.pixel_size_m
        largest = max(grid.shape)
        if block_m is not None and not (math.isfinite(block_m) and round(block_m / pixel_m) >= 1):
            raise UsageError(
                f"Cannot split ground into blocks of {block_m:g} m: pixels have {pixel_m:g} m. "
                "Name a length of at least one pixel."
            )
        self.side = largest if block_m is None else min(round(block_m / pixel_m), largest)
        """Rows and columns of a block (px)."""
        self.shape = -(-grid.height // self.side), -(-grid.width // self.side)
        """Rows and columns of blocks."""

    def of(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.int64]:
        """Numbers of the blocks that hold some places (px), row by row."""
        return (row // self.side * self.shape[1] + col // self.side).astype(np.int64)

    def add(
        self,
        sums: NDArray[Any],
        window: Window,
        plane: NDArray[Any],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Add the sums of a plane by block.

        Args:
            sums: What to add to, shape `shape`.
            window: Where the plane lies.
            plane: Shape of the window.
            weights: What a pixel of a row counts, shape (height,); None: 1.
        """
        cols = np.arange(window.col, window.col_stop) // self.side
        rows = np.arange(window.row, window.row_stop) // self.side
        across = np.flatnonzero(np.diff(cols, prepend=-1))
        down = np.flatnonzero(np.diff(rows, prepend=-1))
        found = np.add.reduceat(plane, across, axis=1, dtype=np.int64)
        if weights is not None:
            found = found * weights[:, None]
        found = np.add.reduceat(found, down, axis=0)
        sums[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += found


@dataclass(frozen=True)
class Interval:
    """Between which values a score may lie."""

    low: float
    high: float
    blocks: int
    """Blocks that were drawn from."""


@dataclass(frozen=True)
class PairedDifference:
    """How much better one map scores than another on the same ground."""

    difference: float
    """Score of the second minus that of the first; NaN where one is undefined."""
    interval: Interval | None
    """Middle 95 % of the draws; None where too few blocks tell something."""
    p: float | None
    """How often chance alone would differ as much; None as for the interval."""


def few_blocks_text(blocks: int, what: str = "landslides") -> str:
    """Why there is no interval, for people."""
    return (
        f"No interval: {blocks} blocks hold {what}, at least {FEWEST_BLOCKS} are needed. Take "
        "smaller blocks, or more ground."
    )


def interval_of(
    counts: NDArray[np.int64], score: Score, *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """The middle 95 % of a score over draws of blocks with replacement.

    Args:
        counts: By block, shape (blocks, kinds); blocks that tell nothing are left out by the
            caller.
        score: Of counts.
        draws: How often as many blocks as there are are drawn.
        seed: Of the draws.

    Returns:
        None with fewer than 20 blocks, since it would come out too narrow, and where no draw has a
        defined score.

    Source: Künsch 1989, The jackknife and the bootstrap for general stationary observations, Annals
        of Statistics 17(3), and Lahiri 2003, Resampling Methods for Dependent Data, chapter 12
        (blocks; here they do not overlap); Efron and Tibshirani 1993, An Introduction to the
        Bootstrap, chapter 13 (percentiles); Cameron, Gelbach, Miller 2008, Review of Economics and
        Statistics 90(3) (five to thirty groups are few).
    """
    _require_draws(draws)
    if len(counts) < FEWEST_BLOCKS:
        return None
    return _middle(score(drawn_sums(counts, draws, seed)), len(counts))


def paired_scores(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    score: Score,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairedDifference:
    """The difference of a score of two maps of the same blocks, with interval and test.

    The same blocks are drawn for both, so what makes ground easy or hard falls out. The test swaps
    the maps in a random half of the blocks: were they alike, that would change nothing.

    Args:
        first: Counts of the first map by block, shape (blocks, kinds).
        second: Of the second.
        score: Of counts.
        draws: How often blocks are drawn, and swapped.
        seed: Of both.

    Source: as `interval_of`; Fisher 1935, The Design of Experiments, chapter 3, and Good 2005,
        Permutation, Parametric and Bootstrap Tests of Hypotheses, chapter 3 (exchange in pairs).
    """
    _require_draws(draws)
    difference = float(score(second.sum(axis=0)) - score(first.sum(axis=0)))
    blocks = len(first)
    if blocks < FEWEST_BLOCKS:
        return PairedDifference(difference, None, None)
    kinds = first.shape[1]
    both = drawn_sums(np.concatenate([first, second], axis=1), draws, seed)
    interval = _middle(score(both[:, kinds:]) - score(both[:, :kinds]), blocks)
    if interval is None or math.isnan(difference):
        return PairedDifference(difference, interval, None)
    random = np.random.default_rng(seed)
    apart, total = second - first, first.sum(axis=0) + second.sum(axis=0)
    as_far = 0
    for number in _parts(draws, blocks):
        signs = random.integers(0, 2, (number, blocks)) * 2 - 1
        swapped = signs @ apart
        one, other = (total - swapped) / 2, (total + swapped) / 2
        as_far += int((np.abs(score(other) - score(one)) >= abs(difference) - 1e-12).sum())
    return PairedDifference(difference, interval, (as_far + 1) / (draws + 1))


def drawn_sums(counts: NDArray[np.int64], draws: int, seed: int) -> NDArray[np.float64]:
    """Sums of as many blocks as there are, drawn with replacement; shape (draws, kinds)."""
    random, blocks = np.random.default_rng(seed), len(counts)
    return np.concatenate(
        [
            counts[random.integers(blocks, size=(number, blocks))].sum(axis=1, dtype=np.float64)
            for number in _parts(draws, blocks * counts.shape[1])
        ]
    )


def _require_draws(draws: int) -> None:
    if draws < 1:
        raise UsageError(f"Cannot draw blocks {draws} times: at least 1 is needed.")


def _parts(draws: int, numbers: int) -> list[int]:
    """How many draws to make at once, so that memory does not grow with the blocks."""
    most = max(AT_ONCE // max(numbers, 1), 1)
    return [min(most, draws - begin) for begin in range(0, draws, most)]


def _middle(scores: NDArray[np.float64], blocks: int) -> Interval | None:
    known = scores[~np.isnan(scores)]
    if not known.size:
        return None
    low, high = np.quantile(known, (0.025, 0.975)).tolist()
    return Interval(low, high, blocks)
