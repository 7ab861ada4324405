"""Which ground trains, validates and tests; ground on two sides is refused.

Neighbouring ground is alike: tiles drawn at random share their landslides' neighbourhood with the
test and inflate scores (up to 28 % for segmentation). So contiguous blocks with a gap are the
default.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.geo.errors import TileSetError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import read_polygons
from landslip.geo.labels import LANDSLIDE, UNLABELLED, Labels
from landslip.geo.windows import cover, starts

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
CUT_STEPS = 160
"""Positions of a cut that are tried along an axis."""

Side = tuple[str, Window]
"""A split's name and a window of its ground, or of one of its tiles."""


@dataclass(frozen=True)
class TileOptions:
    """How ground is cut into tiles and sides."""

    size: int = 600
    """Rows and columns of a tile (px)."""
    stride: int | None = None
    """Pixels from one tile to the next; None: `size`."""
    split: str = "blocks"
    """`blocks`, `random`, `columns:A,B` (px), or a file of polygons with a column `split`."""
    val: float | None = None
    """Share of the ground that chooses the checkpoint; None: .2."""
    test: float | None = None
    """Share of the ground that is reported; None: .2, and 0 for `random` (the paper's 80/20)."""
    gap: int | None = None
    """Pixels between two sides of `blocks`; None: one tile."""
    seed: int = 0
    """Draws the sides of `random`."""

    def __post_init__(self) -> None:
        val, test = self.shares
        if self.size < 16 or self.step < 1:
            raise UsageError(
                f"Cannot tile with size {self.size} and stride {self.step} px: at least 16 and 1 "
                "are needed."
            )
        if self.gap is not None and self.gap < 0:
            raise UsageError(f"Cannot split with a gap of {self.gap} px: at least 0 is needed.")
        if self.seed < 0:
            raise UsageError(f"Cannot draw sides from seed {self.seed}: at least 0 is needed.")
        if not (val >= 0 and test >= 0 and val + test < 1):
            raise UsageError(
                f"Cannot split: --val {val:g} and --test {test:g} leave nothing to train on. "
                "Name shares that sum to less than 1."
            )

    @property
    def step(self) -> int:
        """Stride (px)."""
        return self.size if self.stride is None else self.stride

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of validation and test."""
        default_test = 0.0 if self.split == "random" else 0.2
        val = 0.2 if self.val is None else self.val
        return val, default_test if self.test is None else self.test


def split_ground(labels: Labels, options: TileOptions) -> list[Side]:
    """Windows of tiles with the side of each, in the order of the sides, row by row.

    Raises:
        TileSetError: The ground is too small, or a tile's ground lies on two sides.
        UsageError: An unknown kind of split.
    """
    grid = labels.grid
    if options.split == "random":
        sides = _random_tiles(grid, options)
    elif options.split.startswith("columns:"):
        sides = _tiles_in(_columns(grid, options.split), options)
    elif options.split == "blocks":
        sides = _tiles_in(_blocks(labels, options), options)
    elif Path(options.split.partition("|")[0]).exists():
        sides = _tiles_of_file(grid, options)
    else:
        raise UsageError(
            f"Cannot split by '{options.split}': expected blocks, random, columns:A,B or a file "
            "of polygons with a column 'split'."
        )
    refuse_shared_ground(sides)
    return sides


def tile_name(window: Window) -> str:
    """Name of a tile: its first row and column in the scene."""
    return f"r{window.row:06d}_c{window.col:06d}"


def refuse_shared_ground(sides: Sequence[Side]) -> None:
    """Raise TileSetError where two tiles of different sides share pixels."""
    if not sides:
        return
    names = np.array([side for side, _ in sides])
    boxes = [shapely.box(w.col, w.row, w.col_stop, w.row_stop) for _, w in sides]
    pairs = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    for a, b in pairs[:, names[pairs[0]] < names[pairs[1]]].T.tolist():
        (side_a, window_a), (side_b, window_b) = sides[a], sides[b]
        if window_a.intersection(window_b):
            raise TileSetError(
                f"Cannot split: tiles {tile_name(window_a)} ({side_a}) and {tile_name(window_b)} "
                f"({side_b}) share ground, so the scores would flatter. Use --split blocks, or a "
                "--stride of at least the tile size."
            )


def _tiles_in(grounds: Sequence[Side], options: TileOptions) -> list[Side]:
    _say_small_gaps(grounds, options.size)
    tiles: list[Side] = []
    for side, ground in grounds:
        for row in starts(ground.height, options.size, options.step):
            for col in starts(ground.width, options.size, options.step):
                height = min(options.size, ground.height)
                width = min(options.size, ground.width)
                window = Window(ground.row + row, ground.col + col, height, width)
                tiles.append((side, window))
    return tiles


def _random_tiles(grid: Grid, options: TileOptions) -> list[Side]:
    """Tiles side by side, drawn by chance (the paper's way: ground of a kind on both sides)."""
    if options.step < options.size:
        a, b = Window(0, 0, options.size, options.size), Window(0, options.step, 1, 1)
        raise TileSetError(
            f"Cannot split at random: with stride {options.step} tiles of {options.size} px "
            f"overlap ({tile_name(a)} and {tile_name(b)}), so sides would share ground. Use "
            f"--stride {options.size}, or --split blocks."
        )
    log.warning(
        "tiles are split at random: neighbouring tiles lie on different sides, so the scores "
        "flatter; --split blocks is honest"
    )
    size, step = options.size, options.step
    windows = [
        Window(row, col, min(size, grid.height - row), min(size, grid.width - col))
        for row in range(0, grid.height, step)
        for col in range(0, grid.width, step)
    ]
    val, test = options.shares
    order = np.random.default_rng(options.seed).permutation(len(windows))
    n_val, n_test = round(val * len(windows)), round(test * len(windows))
    names = np.full(len(windows), "train", dtype=object)
    names[order[:n_val]] = "validation"
    names[order[n_val : n_val + n_test]] = "test"
    return [(str(name), window) for name, window in zip(names, windows, strict=True)]


def _columns(grid: Grid, text: str) -> list[Side]:
    try:
        cuts = [int(part) for part in text.removeprefix("columns:").split(",")]
    except ValueError:
        cuts = []
    edges = [0, *cuts, grid.width]
    if len(cuts) not in (1, 2) or any(a >= b for a, b in itertools.pairwise(edges)):
        raise UsageError(
            f"Cannot split by '{text}': expected columns:A,B with 0 < A < B < {grid.width}, the "
            "width of the scene in px."
        )
    return [
        (side, Window(0, start, grid.height, stop - start))
        for side, (start, stop) in zip(SPLITS, itertools.pairwise(edges), strict=False)
    ]


def _blocks(labels: Labels, options: TileOptions) -> list[Side]:
    """Cut the ground across one axis so that every side holds its share of ground and landslides.

    Both axes and every order of the sides are tried; of equal ones the first wins.
    """
    gap = options.size if options.gap is None else options.gap
    val, test = options.shares
    wanted = [
        (side, share)
        for side, share in zip(SPLITS, (1 - val - test, val, test), strict=True)
        if share > 0
    ]
    best: tuple[float, list[Side]] | None = None
    for axis, (ground, landslides) in enumerate(_profiles(labels)):
        for order in itertools.permutations(wanted):
            shares = np.array([share for _, share in order])
            found = _best_cuts(ground, landslides, shares, gap, options.size)
            if found is None or (best is not None and found[0] >= best[0] - 1e-9):
                continue
            best = (
                found[0],
                [
                    (side, strip_of(labels.grid, axis, start, stop))
                    for (side, _), (start, stop) in zip(order, found[1], strict=True)
                ],
            )
    if best is None:
        raise TileSetError(
            f"Cannot split the ground of {labels.grid.height} x {labels.grid.width} px into "
            f"{len(wanted)} blocks of tiles of {options.size} px with gaps of {gap} px: it is too "
            "small. Lower --size or --gap."
        )
    return sorted(best[1], key=lambda side: SPLITS.index(side[0]))


def _profiles(labels: Labels) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Labelled and landslide pixels of every row, then of every column."""
    height, width = labels.grid.shape
    ground = np.zeros(height, dtype=np.int64), np.zeros(width, dtype=np.int64)
    landslides = np.zeros(height, dtype=np.int64), np.zeros(width, dtype=np.int64)
    for window in cover(labels.grid, 1024):
        read = labels.read(window)
        for axis in (0, 1):
            part = window.slices[axis]
            ground[axis][part] += (read != UNLABELLED).sum(axis=1 - axis)
            landslides[axis][part] += (read == LANDSLIDE).sum(axis=1 - axis)
    return [(ground[axis], landslides[axis]) for axis in (0, 1)]


def _best_cuts(
    ground: NDArray[np.int64],
    landslides: NDArray[np.int64],
    shares: NDArray[np.float64],
    gap: int,
    size: int,
) -> tuple[float, list[tuple[int, int]]] | None:
    """Pieces of an axis whose shares of ground and landslides are nearest to `shares`.

    Returns:
        Sum of squared differences and the (start, stop) of every piece, or None where no cut
        leaves `size` pixels to each.
    """
    used = np.flatnonzero(ground)
    if used.size == 0:
        return None
    first, last = int(used[0]), int(used[-1]) + 1
    totals = [np.concatenate([[0], np.cumsum(values)]) for values in (ground, landslides)]
    positions = np.unique(np.linspace(first, last, CUT_STEPS).astype(int)).tolist()
    tried = list(itertools.combinations(positions[1:-1], len(shares) - 1))
    cuts = np.array(tried, dtype=int).reshape(len(tried), len(shares) - 1)
    begins, stops = np.pad(cuts + gap, ((0, 0), (1, 0))), np.pad(cuts, ((0, 0), (0, 1)))
    begins[:, 0], stops[:, -1] = first, last
    fits = (stops - begins >= size).all(axis=1)
    begins, stops = begins[fits], stops[fits]
    if not len(begins):
        return None
    error = np.zeros(len(begins))
    for total in totals:
        held = (total[stops] - total[begins]).astype(float)
        sums = held.sum(axis=1, keepdims=True)
        error += (((held / np.maximum(sums, 1) - shares) ** 2) * (sums > 0)).sum(axis=1)
    best = int(np.flatnonzero(error <= error.min() + 1e-12)[0])
    pieces = zip(begins[best].tolist(), stops[best].tolist(), strict=True)
    return float(error[best]), list(pieces)


def strip_of(grid: Grid, axis: int, start: int, stop: int) -> Window:
    """Some rows (axis 0) or columns (1) of a grid, the last one not included."""
    if axis == 0:
        return Window(start, 0, stop - start, grid.width)
    return Window(0, start, grid.height, stop - start)


def _tiles_of_file(grid: Grid, options: TileOptions) -> list[Side]:
    """Tiles that lie wholly inside the polygons of one side."""
    polygons = read_polygons(options.split, grid, what="split").frame
    if "split" not in polygons.columns:
        raise TileSetError(
            f"Cannot split by {options.split}: it has no column 'split'. Add one with train, "
            "validation and test."
        )
    named = polygons["split"].fillna("nothing").astype(str).str.lower()
    named = named.replace({"val": "validation"})
    unknown = sorted(set(named) - set(SPLITS))
    if unknown:
        raise TileSetError(
            f"Cannot split by {options.split}: column 'split' holds {', '.join(unknown)}; "
            f"expected {', '.join(SPLITS)}. Correct it."
        )
    if grid.window_of(tuple(polygons.total_bounds)) is None:
        raise TileSetError(
            f"Cannot split by {options.split}: none of its polygons touches the scene. Name the "
            "files of one place."
        )
    tiles: list[Side] = []
    for side in (side for side in SPLITS if (named == side).any()):
        ground = shapely.union_all(polygons.geometry[named == side].values)
        # A hundredth of a pixel of room, for corners that were rounded in the file.
        room = 0.01 * math.sqrt(abs(grid.transform.determinant))
        roomy = ground.buffer(room, join_style="mitre")
        windows: set[Window] = set()
        for part in shapely.get_parts(ground):
            west, south, east, north = part.bounds
            box = grid.window_of((west + room, south + room, east - room, north - room))
            if box is not None:
                found = {window for _, window in _tiles_in([(side, box)], options)}
                windows |= {w for w in found if roomy.covers(grid.crop(w).footprint())}
        if not windows:
            raise TileSetError(
                f"Cannot split by {options.split}: no tile of {options.size} px fits into the "
                f"polygons of '{side}'. Lower --size."
            )
        tiles += [(side, w) for w in sorted(windows, key=lambda w: (w.row, w.col))]
    _say_small_gaps(tiles, options.size)
    return tiles


def _say_small_gaps(grounds: Sequence[Side], size: int) -> None:
    """Say where two sides lie closer than one tile."""
    by_side: dict[str, list[shapely.Geometry]] = {}
    for side, w in grounds:
        by_side.setdefault(side, []).append(shapely.box(w.col, w.row, w.col_stop, w.row_stop))
    for a, b in itertools.combinations(by_side, 2):
        distance = shapely.union_all(by_side[a]).distance(shapely.union_all(by_side[b]))
        if distance < size:
            log.warning(
                "%s and %s lie %d px apart: neighbouring ground is alike, a gap of one tile "
                "(%d px) is more honest", a, b, round(distance), size,
            )  # fmt: skip
