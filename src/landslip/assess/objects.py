"""Landslide by landslide, by size: which were found, and what was mapped where there are none.

Pixel scores hardly see small landslides: half of all landslides may hold a twentieth of the area.
Whole rasters are held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid
from landslip.geo.labels import BACKGROUND, LANDSLIDE, UNLABELLED
from landslip.geo.probability import UNKNOWN_CODE, threshold_code

SIZE_CLASSES_M2 = (
    (0.0, 100.0), (100.0, 400.0), (400.0, 1000.0), (1000.0, 10_000.0), (10_000.0, math.inf),
)  # fmt: skip
"""Areas of landslides (m2), from (included) and to (not included)."""
SIZE_TEXTS = ("< 100 m²", "100–400 m²", "400–1,000 m²", "1,000–10,000 m²", "≥ 10,000 m²")
"""The size classes for people."""
NOT_OBSERVED = 255
"""Value of a map of yes and no where it saw nothing."""
DEFAULT_OVERLAP = 0.5
FEWEST_BLOCKS = 20
"""Blocks with reference landslides below which no interval is given."""

_NONE = (0,) * len(SIZE_CLASSES_M2)


@dataclass(frozen=True)
class SizeCounts:
    """Landslides by size and by what became of them. Adds with `+`, so that blocks and folds pool.

    Every tuple has one place a size class, in the order of `SIZE_CLASSES_M2`. Scores are NaN when
    undefined.
    """

    reference: tuple[int, ...] = _NONE
    """Reference landslides that the map observed, by their size."""
    found: tuple[int, ...] = _NONE
    """Those of them that were mapped."""
    predicted: tuple[int, ...] = _NONE
    """Mapped landslides on labelled ground, by the size that they were mapped with."""
    false_alarms: tuple[int, ...] = _NONE
    """Those of them that are no reference landslide."""
    km2: float = 0.0
    """True area of the ground that is observed and labelled."""

    def __add__(self, other: SizeCounts) -> SizeCounts:
        return SizeCounts(
            _sums(self.reference, other.reference),
            _sums(self.found, other.found),
            _sums(self.predicted, other.predicted),
            _sums(self.false_alarms, other.false_alarms),
            self.km2 + other.km2,
        )

    @property
    def recall(self) -> tuple[float, ...]:
        """Share of the reference landslides that was found; NaN where there are none."""
        return _ratios(self.found, self.reference)

    @property
    def precision(self) -> tuple[float, ...]:
        """Share of the mapped landslides that is no false alarm; NaN where nothing was mapped."""
        right = [n - wrong for n, wrong in zip(self.predicted, self.false_alarms, strict=True)]
        return _ratios(right, self.predicted)

    @property
    def false_alarms_per_km2(self) -> tuple[float, ...]:
        """False alarms on a km2 of observed and labelled ground; NaN without such ground."""
        return _ratios(self.false_alarms, [self.km2] * len(self.false_alarms))

    def pooled(self, sizes: Collection[int] | None = None) -> SizeCounts:
        """Several size classes taken together: counts with a single place, on the same ground.

        Args:
            sizes: Numbers of size classes, 0 the smallest; None: all.

        Raises:
            UsageError: No such class.
        """
        known = range(len(self.reference))
        chosen = known if sizes is None else sorted(set(sizes))
        if not chosen or not set(chosen) <= set(known):
            raise UsageError(
                f"Cannot pool size classes {_listed(chosen)}: expected numbers from 0 to "
                f"{known[-1]}. Name at least one of them."
            )
        columns = (self.reference, self.found, self.predicted, self.false_alarms)
        reference, found, predicted, false_alarms = (
            (sum(column[size] for size in chosen),) for column in columns
        )
        return SizeCounts(reference, found, predicted, false_alarms, self.km2)


def _sums(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _ratios(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, ...]:
    return tuple(
        part / whole if whole else math.nan for part, whole in zip(parts, wholes, strict=True)
    )


def _listed(numbers: Collection[int]) -> str:
    return ", ".join(map(str, numbers)) or "of an empty list"


@dataclass(frozen=True, eq=False)
class Objects:
    """The landslides of one raster that count, N of them; all arrays have the shape (N,)."""

    area_m2: NDArray[np.float64]
    """True area of all pixels, seen or not."""
    row: NDArray[np.float64]
    """Row of the centroid (px); 0.5 is the middle of the first."""
    col: NDArray[np.float64]
    """Column of the centroid (px)."""
    matched: NDArray[np.bool_]
    """True where the other raster has it too."""

    @property
    def size_class(self) -> NDArray[np.int64]:
        """Numbers of the size classes, 0 the smallest."""
        limits = [low for low, _ in SIZE_CLASSES_M2[1:]]
        return np.searchsorted(limits, self.area_m2, side="right")


@dataclass(frozen=True, eq=False)
class ObjectComparison:
    """A map and a reference, landslide by landslide."""

    grid: Grid
    """Where both lie."""
    reference: Objects
    """Reference landslides that the map observed; matched = found."""
    predicted: Objects
    """Mapped landslides on labelled ground; not matched = false alarm."""
    scored: NDArray[np.bool_]
    """Shape (height, width): pixels observed by the map and labelled by the reference."""

    def counts(self) -> SizeCounts:
        """Counts of all ground."""
        (counts,) = self._in_blocks(max(self.grid.shape))
        return counts

    def by_blocks(self, block_m: float) -> tuple[SizeCounts, ...]:
        """Counts of every block of ground, row by row, those without landslides too.

        A landslide belongs whole to the block that holds its centroid. Blocks are square in pixels,
        as large as a square of `block_m`; the last ones may be cut by the edge of the grid.

        Args:
            block_m: Side of a block (m). Take it larger than landslides, and than the distance over
                which ground is alike.

        Raises:
            UsageError: A block would be smaller than a pixel.
        """
        pixel_m = self.grid.pixel_size_m
        if not (math.isfinite(block_m) and round(block_m / pixel_m) >= 1):
            raise UsageError(
                f"Cannot split ground into blocks of {block_m:g} m: pixels have {pixel_m:g} m. "
                "Name a length of at least one pixel."
            )
        return self._in_blocks(round(block_m / pixel_m))

    def _in_blocks(self, side: int) -> tuple[SizeCounts, ...]:
        km2 = self._ground_km2(side)
        sizes = len(SIZE_CLASSES_M2)

        def tally(objects: Objects) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            """All objects, and those matched, (blocks, size classes)."""
            block = objects.row // side * km2.shape[1] + objects.col // side
            place = block.astype(np.int64) * sizes + objects.size_class
            every, matched = (
                np.bincount(places, minlength=km2.size * sizes).reshape(-1, sizes)
                for places in (place, place[objects.matched])
            )
            return every, matched

        reference, found = tally(self.reference)
        predicted, right = tally(self.predicted)
        columns = [
            map(tuple, counts.tolist())
            for counts in (reference, found, predicted, predicted - right)
        ]
        lines = zip(*columns, km2.ravel().tolist(), strict=True)
        return tuple(SizeCounts(*line) for line in lines)

    def _ground_km2(self, side: int) -> NDArray[np.float64]:
        """Observed and labelled ground (km2) of blocks of `side` px, (block rows, columns)."""
        height, width = self.grid.shape
        row_area_m2 = self.grid.pixel_area_m2(np.arange(height))
        pixels = np.add.reduceat(self.scored, range(0, width, side), axis=1, dtype=np.int64)
        areas_m2: NDArray[np.float64] = np.add.reduceat(
            pixels * row_area_m2[:, None], range(0, height, side), axis=0
        )
        return areas_m2 / 1e6


def mapped_at(codes: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    """A map of yes and no from probability codes, of the same shape.

    Args:
        codes: 0 to 254 for probabilities from 0 to 1, 255 = not observed.
        threshold: Probability (0 to 1) from which pixels count as mapped.

    Returns:
        0 no landslide, 1 landslide, 255 not observed.
    """
    mapped = (codes >= threshold_code(threshold)).astype(np.uint8)
    mapped[codes == UNKNOWN_CODE] = NOT_OBSERVED
    return mapped


def compare_objects(
    mapped: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    grid: Grid,
    *,
    ids: NDArray[np.integer[Any]] | None = None,
    overlap: float = DEFAULT_OVERLAP,
) -> ObjectComparison:
    """Look for every reference landslide in a map, and for every mapped one in the reference.

    A landslide is a body of landslide pixels that touch by side or corner, or all pixels of one id.
    A reference landslide is found where at least `overlap` of its observed pixels are mapped; it
    does not count where none was observed. A mapped one is a false alarm where less than `overlap`
    of its labelled pixels are reference landslide; it does not count where none is labelled. Areas
    are those of all its pixels; the edge of the grid cuts them.

    Args:
        mapped: The map, shape (height, width): 0, 1 = landslide, 255 = not observed.
        labels: The reference, shape (height, width): 0, 1 = landslide, 255 = not labelled.
        grid: Where both lie.
        ids: Polygons of the reference by number, shape (height, width), 0 where there is none; they
            keep landslides apart that touch. Only where the label is 1; None: bodies.
        overlap: Share of pixels, above 0 and up to 1; 0.5 is usual, 0.1 asks for a hint.

    Raises:
        UsageError: Shapes or values do not fit, a landslide pixel has no id, or the overlap is out
            of range.

    Source: Zhan et al. 2005, Quality assessment for geo-spatial objects, Int. J. Remote Sensing
        26(14), and Rutzinger, Rottensteiner, Pfeifer 2009, IEEE JSTARS 2(1) (objects are right
        from an overlap of 50 %, shares taken of each side's own area).
    """
    if not 0 < overlap <= 1:
        raise UsageError(
            f"Cannot compare landslides at an overlap of {overlap:g}: it must be above 0 and up "
            "to 1."
        )
    _require_values("the map", mapped, grid)
    _require_values("the reference", labels, grid)
    is_mapped, is_landslide = mapped == LANDSLIDE, labels == LANDSLIDE
    is_observed, is_labelled = mapped != NOT_OBSERVED, labels != UNLABELLED
    numbers = bodies_of(is_landslide) if ids is None else _by_id(ids, is_landslide)
    row_area_m2 = grid.pixel_area_m2(np.arange(grid.height))
    return ObjectComparison(
        grid,
        _matched(numbers, is_observed, is_mapped, row_area_m2, overlap),
        _matched(bodies_of(is_mapped), is_labelled, is_landslide, row_area_m2, overlap),
        is_observed & is_labelled,
    )


def _require_values(what: str, plane: NDArray[np.uint8], grid: Grid) -> None:
    if plane.shape != grid.shape:
        raise UsageError(
            f"Cannot compare landslides: {what} is {plane.shape}, the grid {grid.shape} px. Read "
            "both on one grid."
        )
    odd = plane[~np.isin(plane, (BACKGROUND, LANDSLIDE, UNLABELLED))]
    if odd.size:
        raise UsageError(
            f"Cannot compare landslides: {what} holds {odd.min():g}; expected 0, 1 and 255. Make "
            "yes and no of probabilities with mapped_at."
        )


def bodies_of(plane: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Numbers from 1 of bodies whose pixels touch by side or corner, 0 elsewhere; shape (H, W)."""
    from scipy.ndimage import label

    numbers: NDArray[np.int32] = label(plane, structure=np.ones((3, 3)))[0]
    return numbers


def _by_id(ids: NDArray[np.integer[Any]], is_landslide: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Numbers from 1 of the ids that occur on landslide pixels, 0 elsewhere."""
    if ids.shape != is_landslide.shape:
        raise UsageError(
            f"Cannot compare landslides: ids are {ids.shape}, labels {is_landslide.shape} px. "
            "Rasterise both on one grid."
        )
    own = ids[is_landslide]
    if not own.all():
        raise UsageError(
            f"Cannot compare landslides: {int((own == 0).sum())} px are landslide and have no id; "
            "expected one on each. Rasterise ids and labels from the same polygons."
        )
    numbers = np.zeros(ids.shape, dtype=np.int32)
    numbers[is_landslide] = np.unique(own, return_inverse=True)[1] + 1
    return numbers


def _matched(
    numbers: NDArray[np.int32],
    known: NDArray[np.bool_],
    hit: NDArray[np.bool_],
    row_area_m2: NDArray[np.float64],
    overlap: float,
) -> Objects:
    """Measure numbered landslides with a known pixel; matched where enough of those are hit."""
    rows, cols = np.nonzero(numbers)
    own = numbers[rows, cols] - 1
    count = int(numbers.max())

    def sums(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(own, weights=values, minlength=count).astype(np.float64)

    known_px = sums(known[rows, cols])
    counts = known_px > 0
    pixels = sums(np.ones(own.shape))[counts]
    # To the square millimetre: sums of pixels that make 400 m2 must not end below it.
    area_m2 = np.round(sums(row_area_m2[rows])[counts], 6)
    # 7 of 50 is the same number as 0.14, but 0.14 times 50 comes out above 7.
    matched = sums(hit[rows, cols])[counts] / known_px[counts] >= overlap
    return Objects(
        area_m2, sums(rows)[counts] / pixels + 0.5, sums(cols)[counts] / pixels + 0.5, matched
    )


@dataclass(frozen=True)
class RecallDifference:
    """How much more of the reference landslides one map finds than another."""

    difference: float
    """Recall of the second map minus that of the first, -1 to 1; NaN without landslides."""
    interval: tuple[float, float] | None
    """Its 95 % interval; None where fewer than 20 blocks hold reference landslides."""
    blocks: int
    """Blocks that hold reference landslides of the sizes asked for."""
    landslides: int
    """Reference landslides of these sizes."""
    why_no_interval: str
    """A sentence for people; empty where there is an interval."""


def paired_difference(
    first: Sequence[SizeCounts],
    second: Sequence[SizeCounts],
    *,
    sizes: Collection[int] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> RecallDifference:
    """The difference in recall of two maps of the same ground, with a 95 % interval.

    Blocks of ground are drawn with replacement, the same for both maps, so that what makes ground
    easy or hard falls out, and that neighbouring landslides are alike is kept. Blocks without
    reference landslides say nothing of recall and are left out: empty ground around a scene
    changes no digit. The interval holds the middle 95 % of the draws. With fewer than 20 blocks
    there is none, since it would come out too narrow.

    Args:
        first: Counts of the first map by block, from `ObjectComparison.by_blocks`; blocks of
            several scenes may follow each other.
        second: Counts of the second map in the same blocks.
        sizes: Numbers of the size classes to pool, 0 the smallest; None: all.
        draws: How often as many blocks as there are are drawn.
        seed: Of the draws.

    Raises:
        UsageError: The blocks hold different reference landslides, no draws, or no such size.

    Source: Künsch 1989, The jackknife and the bootstrap for general stationary observations, Annals
        of Statistics 17(3), and Lahiri 2003, Resampling Methods for Dependent Data, chapter 12
        (blocks; here they do not overlap); Efron and Tibshirani 1993, An Introduction to the
        Bootstrap, chapter 13 (percentiles); Cameron, Gelbach, Miller 2008, Review of Economics and
        Statistics 90(3) (five to thirty groups are few).
    """
    if draws < 1:
        raise UsageError(f"Cannot draw blocks {draws} times: at least 1 is needed.")
    _require_same_landslides(first, second)
    pairs = [(one.pooled(sizes), two.pooled(sizes)) for one, two in zip(first, second, strict=True)]
    held = [(one, two) for one, two in pairs if one.reference[0]]
    reference = np.array([one.reference[0] for one, _ in held], dtype=np.int64)
    gain = np.array([two.found[0] - one.found[0] for one, two in held], dtype=np.int64)
    landslides = int(reference.sum())
    difference = int(gain.sum()) / landslides if held else math.nan
    if len(held) < FEWEST_BLOCKS:
        why = (
            f"No interval: {len(held)} blocks hold reference landslides of this size, at least "
            f"{FEWEST_BLOCKS} are needed. Take smaller blocks, or more ground."
        )
        return RecallDifference(difference, None, len(held), landslides, why)
    drawn = np.random.default_rng(seed).integers(len(held), size=(draws, len(held)))
    differences = gain[drawn].sum(axis=1) / reference[drawn].sum(axis=1)
    low, high = np.quantile(differences, (0.025, 0.975)).tolist()
    return RecallDifference(difference, (low, high), len(held), landslides, "")


def _require_same_landslides(first: Sequence[SizeCounts], second: Sequence[SizeCounts]) -> None:
    if len(first) != len(second):
        raise UsageError(
            f"Cannot compare two maps: the first has {len(first)} blocks, the second "
            f"{len(second)}. Split both by the same blocks."
        )
    for number, (one, two) in enumerate(zip(first, second, strict=True)):
        if one.reference != two.reference:
            raise UsageError(
                f"Cannot compare two maps: block {number} holds {_listed(one.reference)} reference "
                f"landslides by size for the first and {_listed(two.reference)} for the second. "
                "Leave out the ground that one of them did not observe."
            )
