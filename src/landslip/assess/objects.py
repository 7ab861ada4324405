"""Landslide by landslide, by size: which were found, and what was mapped where there are none.

Pixel scores hardly see small landslides: half of all landslides may hold a twentieth of the area.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landslip.assess.blocks import Blocks, few_blocks_text, interval_of
from landslip.assess.bodies import Bodies, Named, Numbered, Tally
from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window
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
FEWEST_LANDSLIDES = 10
"""Reference landslides below which no size is told of which half are found."""

_NONE = (0,) * len(SIZE_CLASSES_M2)


def size_class_of(area_m2: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the size classes of areas, 0 the smallest."""
    return np.searchsorted([low for low, _ in SIZE_CLASSES_M2[1:]], area_m2, side="right")


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
    known_px: NDArray[np.float64]
    """Pixels that the other raster knows."""
    share: NDArray[np.float64]
    """Share of these that are landslide in the other raster, too."""

    def matched(self, overlap: float) -> NDArray[np.bool_]:
        """True where the other raster has it too: at least a share `overlap` of it.

        Raises:
            UsageError: The overlap is not above 0 and up to 1.
        """
        if not 0 < overlap <= 1:
            raise UsageError(
                f"Cannot compare landslides at an overlap of {overlap:g}: it must be above 0 and "
                "up to 1."
            )
        # 7 of 50 is the same number as 0.14, but 0.14 times 50 comes out above 7.
        return self.share >= overlap

    @property
    def size_class(self) -> NDArray[np.int64]:
        """Numbers of the size classes, 0 the smallest."""
        return size_class_of(self.area_m2)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Reference and mapped landslides that share pixels, or of which one is the other."""

    reference: NDArray[np.int64]
    """Number of the reference landslide, from 0, shape (N,)."""
    predicted: NDArray[np.int64]
    """Number of the mapped one, same shape."""
    iou: NDArray[np.float64]
    """Shared pixels by all pixels of both that map and reference know, same shape."""
    px: NDArray[np.int64]
    """Shared pixels, same shape."""

    def where(self, chosen: NDArray[Any]) -> Pairs:
        """Some of them."""
        return Pairs(
            self.reference[chosen], self.predicted[chosen], self.iou[chosen], self.px[chosen]
        )


@dataclass(frozen=True, eq=False)
class ObjectComparison:
    """A map and a reference, landslide by landslide."""

    reference: Objects
    """Reference landslides that the map observed; matched = found."""
    predicted: Objects
    """Mapped landslides on labelled ground; not matched = false alarm."""
    pairs: Pairs
    """Those that share pixels."""
    blocks: Blocks
    """Of the ground."""
    ground_km2: NDArray[np.float64]
    """True area that is observed and labelled, by block, shape (rows, columns)."""

    def counts(self, overlap: float = DEFAULT_OVERLAP) -> SizeCounts:
        """Counts of all ground.

        Args:
            overlap: Share of a landslide's pixels, above 0 and up to 1, from which it is found, or
                no false alarm; 0.5 is usual, 0.1 asks for a hint.

        Source: Zhan et al. 2005, Quality assessment for geo-spatial objects, Int. J. Remote Sensing
            26(14), and Rutzinger, Rottensteiner, Pfeifer 2009, IEEE JSTARS 2(1) (objects are right
            from an overlap of 50 %, shares taken of each side's own area).
        """
        columns = self._tallied(overlap, 1, lambda objects: np.zeros(len(objects.row), np.int64))
        reference, found, predicted, false_alarms = (column[0] for column in columns)
        km2 = float(self.ground_km2.sum())
        return SizeCounts(reference, found, predicted, false_alarms, km2)

    def by_blocks(self, overlap: float = DEFAULT_OVERLAP) -> tuple[SizeCounts, ...]:
        """Counts of every block of ground, row by row, those without landslides too.

        A landslide belongs whole to the block that holds its centroid.
        """
        columns = self._tallied(
            overlap, self.ground_km2.size, lambda objects: self.blocks.of(objects.row, objects.col)
        )
        lines = zip(*columns, self.ground_km2.ravel().tolist(), strict=True)
        return tuple(SizeCounts(*line) for line in lines)

    def _tallied(
        self, overlap: float, places: int, place_of: Callable[[Objects], NDArray[np.int64]]
    ) -> list[list[tuple[int, ...]]]:
        """Reference landslides, found, mapped and false alarms, by place and then by size."""
        sizes = len(SIZE_CLASSES_M2)

        def tally(objects: Objects) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            """All objects, and those matched, (places, size classes)."""
            place = place_of(objects) * sizes + objects.size_class
            every, matched = (
                np.bincount(chosen, minlength=places * sizes).reshape(-1, sizes)
                for chosen in (place, place[objects.matched(overlap)])
            )
            return every, matched

        reference, found = tally(self.reference)
        predicted, right = tally(self.predicted)
        columns = (reference, found, predicted, predicted - right)
        return [[tuple(row) for row in column.tolist()] for column in columns]

    def one_to_one(self, iou: float) -> Pairs:
        """Reference and mapped landslides that are each other's: as many as can be.

        No landslide is taken twice. Of several ways to pair as many, that of the largest sum of IoU
        is taken.

        Args:
            iou: Intersection over union from which two may be paired, above 0 and up to 1.

        Source: Kuhn 1955, The Hungarian method for the assignment problem, by scipy; group by
            group of landslides that could be paired.
        """
        from scipy.optimize import linear_sum_assignment
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        near = self.pairs.where(self.pairs.iou >= iou)
        one, other = len(self.reference.row), len(self.predicted.row)
        places = (near.reference, one + near.predicted)
        edges = coo_array((np.ones(len(near.px)), places), shape=(one + other, one + other))
        group = connected_components(edges, directed=False)[1][near.reference]
        order = np.argsort(group, kind="stable")
        chosen: list[int] = []
        for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            if len(members) < 2:
                chosen += members.tolist()
                continue
            rows, row = np.unique(near.reference[members], return_inverse=True)
            cols, col = np.unique(near.predicted[members], return_inverse=True)
            worth = np.zeros((len(rows), len(cols)))
            # More pairs are worth more than any sum of IoU.
            worth[row, col] = len(members) + near.iou[members]
            taken = np.zeros(worth.shape, bool)
            taken[linear_sum_assignment(worth, maximize=True)] = True
            chosen += members[taken[row, col]].tolist()
        return near.where(np.sort(np.array(chosen, dtype=np.int64)))

    def merges(self) -> int:
        """Mapped landslides that hold at least half of each of two or more reference ones."""
        return int((np.bincount(self._held().predicted) > 1).sum())

    def merged(self) -> NDArray[np.int64]:
        """Numbers of the reference landslides that lie with others in one mapped landslide."""
        held = self._held()
        holds_several = np.bincount(held.predicted) > 1
        return np.unique(held.reference[holds_several[held.predicted]])

    def split(self) -> NDArray[np.int64]:
        """Numbers of the reference landslides that hold half or more of several mapped ones."""
        held = self.pairs.px >= 0.5 * self.predicted.known_px[self.pairs.predicted]
        return np.flatnonzero(np.bincount(self.pairs.reference[held]) > 1)

    def splits(self) -> int:
        """Reference landslides that hold at least half of each of two or more mapped ones."""
        return len(self.split())

    def _held(self) -> Pairs:
        """Pairs of which the mapped one holds at least half of the reference one."""
        return self.pairs.where(
            self.pairs.px >= 0.5 * self.reference.known_px[self.pairs.reference]
        )

    def half_found_m2(self, overlap: float = DEFAULT_OVERLAP) -> float:
        """The area of which half of the landslides are found (m2).

        NaN where it lies outside the areas that occur, where larger ones are not found more often,
        or with fewer than 10 landslides.

        Source: Berens 1989, NDE reliability data analysis, ASM Handbook 17 (logistic regression of
            found or missed on the logarithm of size).
        """
        area, found = self.reference.area_m2, self.reference.matched(overlap)
        if len(area) < FEWEST_LANDSLIDES or found.all() or not found.any():
            return math.nan
        from scipy.optimize import minimize

        x = np.log(area)
        middle, spread = x.mean(), max(float(x.std()), 1e-9)
        z, sign = (x - middle) / spread, np.where(found, 1.0, -1.0)

        def loss(weights: NDArray[np.float64]) -> float:
            # A trace of a penalty, or sizes that part found and missed would have no best slope.
            fit = np.logaddexp(0, -sign * (weights[0] + weights[1] * z)).sum()
            return float(fit + 1e-4 * weights[1] ** 2)

        level, slope = minimize(loss, np.zeros(2)).x
        if slope <= 0:
            return math.nan
        half = float(np.exp(middle - spread * level / slope))
        return half if area.min() <= half <= area.max() else math.nan


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


class ObjectCounter:
    """Compares a map with a reference landslide by landslide, strip by strip.

    A landslide is a body of landslide pixels that touch by side or corner, or all pixels of one id.
    A reference landslide does not count where none of its pixels was observed, a mapped one where
    none is labelled. Areas are those of all pixels; the edge of the grid cuts them. Memory grows
    with the number of landslides, not with the grid.
    """

    def __init__(self, grid: Grid, *, block_m: float | None = None) -> None:
        """Nothing seen yet.

        Args:
            grid: Where both lie.
            block_m: Side of the blocks of `by_blocks` (m). Take it larger than landslides, and than
                the distance over which ground is alike. None: one block.

        Raises:
            UsageError: A block would be smaller than a pixel.
        """
        self._grid = grid
        self._blocks = Blocks(grid, block_m)
        self._ground_m2 = np.zeros(self._blocks.shape)
        self._mapped, self._bodies, self._ids = Bodies(), Bodies(), Named()
        self._has_ids = False
        self._reference, self._predicted = Tally(), Tally()
        self._pairs: list[NDArray[np.int64]] = []
        self._shared_px: list[NDArray[np.int64]] = []

    def add(
        self,
        window: Window,
        mapped: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        ids: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Take the next strip: full rows, from the top, none left out.

        Args:
            window: Where it lies.
            mapped: The map, shape of the window: 0, 1 = landslide, 255 = not observed.
            labels: The reference, same shape: 0, 1 = landslide, 255 = not labelled.
            ids: Polygons of the reference by number, same shape, 0 where there is none; they keep
                landslides apart that touch. Only where the label is 1; None: bodies. All strips
                have them, or none.

        Raises:
            UsageError: Shapes or values do not fit, or a landslide pixel has no id.
        """
        shape = (window.height, window.width)
        _require_values("the map", mapped, shape)
        _require_values("the reference", labels, shape)
        is_mapped, is_landslide = mapped == LANDSLIDE, labels == LANDSLIDE
        is_observed, is_labelled = mapped != NOT_OBSERVED, labels != UNLABELLED
        area_m2 = self._grid.pixel_area_m2(np.arange(window.row, window.row_stop))
        self._has_ids = ids is not None
        if ids is None:
            drawn = self._bodies.number(is_landslide)
        else:
            _require_ids(ids, is_landslide)
            drawn = self._ids.number(ids, is_landslide)
        found = self._mapped.number(is_mapped)
        _add(self._reference, drawn, is_observed, is_mapped, window.row, area_m2)
        _add(self._predicted, found, is_labelled, is_landslide, window.row, area_m2)
        both = is_mapped & is_landslide
        # Runs of pixels along rows: there are far fewer of them than pixels.
        one, other = drawn.numbers[both] - 1, found.numbers[both] - 1
        changes = np.flatnonzero((one[1:] != one[:-1]) | (other[1:] != other[:-1])) + 1
        starts = np.concatenate([[0], changes]) if one.size else changes
        self._pairs.append(np.stack([drawn.names[one[starts]], found.names[other[starts]]], axis=1))
        self._shared_px.append(np.diff(starts, append=one.size))
        self._blocks.add(self._ground_m2, window, is_observed & is_labelled, area_m2)

    def compared(self) -> ObjectComparison:
        """What came of all strips."""
        drawn = (self._ids if self._has_ids else self._bodies).joined()
        found = self._mapped.joined()
        reference, drawn = _objects(self._reference.total(drawn), drawn)
        predicted, found = _objects(self._predicted.total(found), found)
        names = np.concatenate(self._pairs)
        places = np.stack([drawn[names[:, 0]], found[names[:, 1]]], axis=1)
        pairs, place = np.unique(places, axis=0, return_inverse=True)
        px = np.bincount(place.ravel(), np.concatenate(self._shared_px), len(pairs)).astype(
            np.int64
        )
        one, other = pairs.T
        union = reference.known_px[one] + predicted.known_px[other] - px
        return ObjectComparison(
            reference, predicted, Pairs(one, other, px / union, px), self._blocks,
            self._ground_m2 / 1e6,
        )  # fmt: skip


def _objects(
    sums: NDArray[np.float64], joined: NDArray[np.int64]
) -> tuple[Objects, NDArray[np.int64]]:
    """The landslides with a known pixel, and which of them every name belongs to."""
    pixels, known, hit, area_m2, row, col = sums.T
    counts = known > 0
    place = np.where(counts, np.cumsum(counts) - 1, -1)
    pixels, known, hit = pixels[counts], known[counts], hit[counts]
    found = Objects(
        # To the square millimetre: sums of pixels that make 400 m2 must not end below it.
        np.round(area_m2[counts], 6), row[counts] / pixels + 0.5, col[counts] / pixels + 0.5,
        known, hit / known,
    )  # fmt: skip
    return found, np.where(joined >= 0, place[joined], -1) if joined.size else joined


def _add(
    tally: Tally,
    slides: Numbered,
    known: NDArray[np.bool_],
    hit: NDArray[np.bool_],
    first_row: int,
    row_area_m2: NDArray[np.float64],
) -> None:
    """Add pixels, known and hit ones, area, and sums of rows and columns of the landslides."""
    own, number = slides.numbers.ravel(), len(slides.names)
    at = np.flatnonzero(own)
    own = own[at] - 1
    rows, cols = np.divmod(at, slides.numbers.shape[1])
    columns: tuple[NDArray[Any] | None, ...] = (
        None, known.ravel()[at], hit.ravel()[at], row_area_m2[rows], rows + first_row, cols,
    )  # fmt: skip
    sums = [np.bincount(own, column, number).astype(np.float64) for column in columns]
    tally.add(slides.names, np.stack(sums, axis=1))


def compare_objects(
    mapped: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    grid: Grid,
    *,
    ids: NDArray[np.integer[Any]] | None = None,
    block_m: float | None = None,
) -> ObjectComparison:
    """Look for every reference landslide in a map, and for every mapped one in the reference.

    As `ObjectCounter`, of rasters that lie in memory.

    Args:
        mapped: The map, shape (height, width): 0, 1 = landslide, 255 = not observed.
        labels: The reference, shape (height, width): 0, 1 = landslide, 255 = not labelled.
        grid: Where both lie.
        ids: As for `ObjectCounter.add`.
        block_m: As for `ObjectCounter`.

    Raises:
        UsageError: Shapes or values do not fit, or a landslide pixel has no id.
    """
    counter = ObjectCounter(grid, block_m=block_m)
    counter.add(grid.window, mapped, labels, ids)
    return counter.compared()


def _require_values(what: str, plane: NDArray[np.uint8], shape: tuple[int, int]) -> None:
    if plane.shape != shape:
        raise UsageError(
            f"Cannot compare landslides: {what} is {plane.shape}, the grid {shape} px. Read "
            "both on one grid."
        )
    is_odd = (plane != BACKGROUND) & (plane != LANDSLIDE) & (plane != UNLABELLED)
    if is_odd.any():
        odd = plane[is_odd]
        raise UsageError(
            f"Cannot compare landslides: {what} holds {odd.min():g}; expected 0, 1 and 255. Make "
            "yes and no of probabilities with mapped_at."
        )


def _require_ids(ids: NDArray[np.integer[Any]], is_landslide: NDArray[np.bool_]) -> None:
    if ids.shape != is_landslide.shape:
        raise UsageError(
            f"Cannot compare landslides: ids are {ids.shape}, labels {is_landslide.shape} px. "
            "Rasterise both on one grid."
        )
    without = int((ids[is_landslide] == 0).sum())
    if without:
        raise UsageError(
            f"Cannot compare landslides: {without} px are landslide and have no id; "
            "expected one on each. Rasterise ids and labels from the same polygons."
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

    Source: as `blocks.interval_of`.
    """
    _require_same_landslides(first, second)
    pairs = [(one.pooled(sizes), two.pooled(sizes)) for one, two in zip(first, second, strict=True)]
    counts = np.array(
        [(one.reference[0], two.found[0] - one.found[0]) for one, two in pairs if one.reference[0]],
        dtype=np.int64,
    ).reshape(-1, 2)

    def gain(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums[..., 1] / sums[..., 0]

    landslides = int(counts[:, 0].sum())
    difference = float(gain(counts.sum(axis=0))) if landslides else math.nan
    interval = interval_of(counts, gain, draws=draws, seed=seed)
    if interval is None:
        why = few_blocks_text(len(counts), "reference landslides of this size")
        return RecallDifference(difference, None, len(counts), landslides, why)
    return RecallDifference(difference, (interval.low, interval.high), len(counts), landslides, "")


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
