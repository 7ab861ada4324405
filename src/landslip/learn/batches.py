"""What a network is shown: crops of tiles, scaled, turned and jittered; and whole tiles.

All that it learns from is a function of (seed, epoch, index), so an interrupted training sees what
an uninterrupted one sees, whatever the number of workers and processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from landslip.assess.bodies import bodies_of
from landslip.geo.bands import by_origin
from landslip.geo.grid import Window
from landslip.geo.labels import BACKGROUND, LANDSLIDE, UNLABELLED
from landslip.geo.parallel import in_order
from landslip.geo.raster import Raster
from landslip.learn.recipes import Recipe
from landslip.prepare.scaling import FILLER, Scaling, bands_at_hand
from landslip.prepare.tile_set import Tile, TileSet, landslide_share

MOST_ROUNDS = 20
"""Where a recipe counts steps, epochs are made of so many passes that there are no more of them."""
Scored = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""What a network is scored on: scaled images (B, C, H, W), and labels (B, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step learns from."""

    images: torch.Tensor
    """(B, C, H, W) float32, scaled."""
    labels: torch.Tensor
    """(B, H, W) uint8: 0, 1, 255."""
    weights: torch.Tensor | None
    """(B, H, W) float32: how much a pixel counts; None: all alike."""
    tiles: tuple[str, ...]
    """Names of the tiles, for messages."""

    def part(self, begin: int, end: int) -> Batch:
        """Some of the samples."""
        some = self.each(lambda tensor: tensor[begin:end])
        return replace(some, tiles=self.tiles[begin:end])

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that a device needs."""
        weights = [] if self.weights is None else [self.weights]
        return [self.images, self.labels, *weights]

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """With every tensor changed in the same way."""
        weights = None if self.weights is None else change(self.weights)
        return replace(
            self, images=change(self.images), labels=change(self.labels), weights=weights
        )


class Draw(NamedTuple):
    """One sample of an epoch, before it is read."""

    position: int
    """Number in the epoch."""
    tile: int
    """Number of its tile."""
    on_landslide: bool
    """True: around a landslide; False: anywhere."""


@dataclass(frozen=True)
class _Ground:
    """A tile as it is kept in memory."""

    raster: Raster
    labels: NDArray[np.uint8]
    bodies: NDArray[np.int32]
    """(H, W): number of the connected landslide that a pixel belongs to, 0 for none."""
    slides: int
    """How many landslides there are."""
    hard: NDArray[np.bool_]
    """(H, W): background that was mapped as a landslide before."""

    @property
    def nbytes(self) -> int:
        arrays = (self.raster.values, self.raster.valid, self.labels, self.bodies, self.hard)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, kw_only=True)
class TrainingGround:
    """Training tiles of one or more tile sets, as a network sees them."""

    tiles: tuple[tuple[TileSet, Tile], ...]
    """Tiles with their sets."""
    scaling: Scaling
    """Bands in order, with their ranges."""
    crop: int
    """Rows and columns of what is shown (px)."""
    recipe: Recipe
    """How samples are drawn and changed."""
    seed: int
    """Decides order, crops, turns and all else."""
    optional: tuple[str, ...] = ()
    """Bands that are taken away in some samples."""
    unlit: tuple[str, ...] = ()
    """Bands that no light changes (metres, degrees): they are not jittered."""
    cache_bytes: int = 0
    """Most memory that decoded tiles may take (bytes)."""

    @cached_property
    def _cache(self) -> _Cache[_Ground]:
        return _Cache(self.cache_bytes)

    @cached_property
    def landslide_share(self) -> float:
        """Share of landslide pixels in the labelled ground; overlaps count as often as shown."""
        return landslide_share([tile for _, tile in self.tiles])

    def batches(
        self, epoch: int, first: int = 0, *, rank: int = 0, world: int = 1, workers: int = 1,
        pinned: bool = False,
    ) -> Generator[Batch, None, None]:  # fmt: skip
        """The batches of an epoch, read ahead by several threads.

        Args:
            epoch: From 0.
            first: Number of the first batch that is wanted.
            rank: Number of this process; it is given its part of every batch.
            world: Number of processes.
            workers: Threads that read; GDAL, NumPy and torch let others run meanwhile.
            pinned: Put batches into memory that a GPU copies from by itself.
        """

        def batch(group: list[Draw]) -> Batch:
            made = self._batch(epoch, group[rank::world])
            return made.each(torch.Tensor.pin_memory) if pinned else made

        yield from in_order(batch, self.groups(epoch, world)[first:], workers)

    def groups(self, epoch: int, world: int = 1) -> list[list[Draw]]:
        """The draws of every batch: nearly equal batches, each a multiple of `world` samples.

        Equal batches, because batch normalisation fails on a last one of a single small tile; and
        equal shares, because processes wait for each other: where a batch does not divide, its
        first samples are shown again.
        """
        draws = self._draws(epoch)
        parts = np.array_split(np.arange(len(draws)), -(-len(draws) // self.recipe.batch))
        groups = [[draws[number] for number in part.tolist()] for part in parts]
        return [
            [group[n % len(group)] for n in range(-(-len(group) // world) * world)]
            for group in groups
        ]

    def _draws(self, epoch: int) -> list[Draw]:
        """Every tile as often as its weight and size say; a share of them around landslides."""
        random = np.random.default_rng([self.seed, epoch])
        drawn = random.permutation(self._shares)
        slides = self._shares[
            [self.tiles[number][1].landslide_share > 0 for number in self._shares]
        ]
        count = round(self.recipe.balance * len(drawn)) if len(slides) else 0
        if count:
            # Every landslide tile once, then again in another order, until there are enough.
            turns = [random.permutation(slides) for _ in range(-(-count // len(slides)))]
            drawn = np.concatenate([np.concatenate(turns)[:count], drawn[: len(drawn) - count]])
        order = random.permutation(len(drawn)) if count else np.arange(len(drawn))
        return [
            Draw(position, int(drawn[number]), bool(number < count))
            for position, number in enumerate(order.tolist())
        ]

    @cached_property
    def _shares(self) -> NDArray[np.int64]:
        """Numbers of the tiles, each as often as an epoch shows it."""
        times = [
            tile.weight * max(1, round(tile.height * tile.width / self.crop**2))
            for _, tile in self.tiles
        ]
        once = np.repeat(np.arange(len(self.tiles)), times)
        wanted = self.recipe.steps * self.recipe.batch
        return np.tile(once, -(-wanted // (MOST_ROUNDS * len(once))) or 1)

    def _batch(self, epoch: int, group: list[Draw]) -> Batch:
        samples = [self.sample(epoch, draw) for draw in group]
        images, labels, weights = zip(*samples, strict=True)
        return Batch(
            images=torch.from_numpy(np.stack(images)),
            labels=torch.from_numpy(np.stack(labels)),
            weights=None if weights[0] is None else torch.from_numpy(np.stack(weights)),
            tiles=tuple(self.tiles[draw.tile][1].name for draw in group),
        )

    def sample(
        self, epoch: int, draw: Draw
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32] | None]:
        """One sample: image (C, H, W), labels (H, W) and weights (H, W) or None."""
        random = np.random.default_rng([self.seed, epoch, draw.position])
        ground = self._cache.get(draw.tile, self._read)
        weight = self.tiles[draw.tile][1].weight
        window = _place(ground, self.crop, draw.on_landslide, weight, random)
        image, valid, labels = self._cut(ground, window)
        if self.recipe.jitter:
            self._jitter(image, valid, random)
        for group in by_origin(band for band in self.scaling.bands if band in self.optional):
            if random.random() < self.recipe.band_dropout:
                image[[self.scaling.bands.index(band) for band in group]] = FILLER * valid
        weights = self._weights(labels)
        # Horizontal, vertical, both or none, with equal chance (Qi et al. 2020, section 3.2).
        flips = random.integers(0, 2, size=2)
        turns = int(random.integers(0, 4)) if self.recipe.quarter_turns else 0
        return (
            _turned(image, flips, turns),
            _turned(labels, flips, turns),
            None if weights is None else _turned(weights, flips, turns),
        )

    def _read(self, number: int) -> _Ground:
        tile_set, tile = self.tiles[number]
        raster, labels = tile_set.read(tile, self.scaling.bands)
        bodies = bodies_of(labels == LANDSLIDE)
        hard = tile_set.hard(tile) & (labels == BACKGROUND)
        return _Ground(raster, labels, bodies, int(bodies.max(initial=0)), hard)

    def _cut(
        self, ground: _Ground, window: Window
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8]]:
        """Scaled image, validity and labels; what the tile lacks is not labelled."""
        part = window.slices
        raster = ground.raster
        values, valid = raster.values[:, *part], raster.valid[part]
        grid = raster.grid.crop(Window(window.row, window.col, *valid.shape))
        image = self.scaling.apply(Raster(values, valid, raster.bands, grid))
        missing = [(0, window.height - valid.shape[0]), (0, window.width - valid.shape[1])]
        return (
            np.pad(image, [(0, 0), *missing]),
            np.pad(valid, missing),
            np.pad(ground.labels[part], missing, constant_values=UNLABELLED),
        )

    def _jitter(
        self, image: NDArray[np.float32], valid: NDArray[np.bool_], random: np.random.Generator
    ) -> None:
        """Change gain and offset of the bands, in place: light and haze differ between scenes."""
        lit = [n for n, band in enumerate(self.scaling.bands) if band not in self.unlit]
        common, own = random.normal(size=2), random.normal(size=(2, len(lit)))
        change = self.recipe.jitter * (np.sqrt(2 / 3) * common[:, None] + np.sqrt(1 / 3) * own)
        gain, offset = (1 + change[0])[:, None, None], (0.5 * change[1])[:, None, None]
        image[lit] = np.clip(image[lit] * gain + offset, 0, 1) * valid

    def _weights(self, labels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """How much every pixel counts; None where all count alike."""
        most = self.recipe.positive_weight
        if most == 1:
            return None
        share = max(self.landslide_share, 1e-6)
        weights = np.ones(labels.shape, dtype=np.float32)
        weights[labels == LANDSLIDE] = max(1.0, min(most, (1 - share) / share))
        return weights


@dataclass(frozen=True)
class _Judged:
    """A tile that is scored, as it is kept in memory."""

    raster: Raster
    labels: NDArray[np.uint8]
    """(H, W): 255 where an earlier tile holds the same ground, too."""

    @property
    def nbytes(self) -> int:
        return self.raster.values.nbytes + self.raster.valid.nbytes + self.labels.nbytes


@dataclass(frozen=True, kw_only=True)
class ScoringGround:
    """Tiles on which a network is scored, again and again; ground in several counts once."""

    tiles: tuple[tuple[TileSet, Tile], ...]
    """Tiles with their sets."""
    scaling: Scaling
    """Bands in order, with their ranges."""
    optional: tuple[str, ...] = ()
    """Bands that tiles may lack."""
    cache_bytes: int = 0
    """Most memory that decoded tiles may take (bytes)."""

    @cached_property
    def _cache(self) -> _Cache[_Judged]:
        return _Cache(self.cache_bytes)

    def batches(self, most_px: int, *, workers: int = 1) -> Generator[Scored, None, None]:
        """Scaled images (B, C, H, W) and labels (B, H, W), read ahead by several threads.

        Args:
            most_px: Most pixels of a batch; one tile at least.
            workers: Threads that read.

        Raises:
            BandError: Tiles lack a band that is not optional.
        """

        def batch(group: list[int]) -> Scored:
            read = [self._cache.get(number, self._read) for number in group]
            images = np.stack([self.scaling.apply_all([each.raster]) for each in read])
            return images, np.stack([each.labels for each in read])

        yield from in_order(batch, self._alike(most_px), workers)

    def _read(self, number: int) -> _Judged:
        tile_set, tile = self.tiles[number]
        bands = bands_at_hand(self.scaling.bands, tile_set.bands, self.optional)
        raster, labels = tile_set.read(tile, bands)
        counted = np.where(tile_set.first_seen(tile), labels, UNLABELLED).astype(np.uint8)
        return _Judged(raster, counted)

    def _alike(self, most_px: int) -> Iterator[list[int]]:
        """Numbers of tiles that follow one another and have one size."""
        group: list[int] = []
        for number, (_, tile) in enumerate(self.tiles):
            if group:
                last = self.tiles[group[-1]][1]
                is_other = (last.height, last.width) != (tile.height, tile.width)
                if is_other or (len(group) + 1) * tile.height * tile.width > most_px:
                    yield group
                    group = []
            group.append(number)
        if group:
            yield group


class _TakesMemory(Protocol):
    @property
    def nbytes(self) -> int: ...


Held = TypeVar("Held", bound=_TakesMemory)


class _Cache(Generic[Held]):
    """Tiles that were read first, within a bound of memory; several threads may ask.

    All are shown once an epoch, so those that were read last are not those that come next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._grounds: dict[int, Held] = {}
        self._lock = threading.Lock()

    def get(self, number: int, read: Callable[[int], Held]) -> Held:
        """A tile from memory, or by `read`."""
        with self._lock:
            if number in self._grounds:
                return self._grounds[number]
        ground = read(number)
        with self._lock:
            if number not in self._grounds and self._held + ground.nbytes <= self._limit:
                self._grounds[number] = ground
                self._held += ground.nbytes
        return ground


def default_crop(tiles: Sequence[Tile]) -> int:
    """The side of tiles that are all alike, else the median of the longer sides, in 32s."""
    sides = sorted(max(tile.height, tile.width) for tile in tiles)
    middle = sides[len(sides) // 2]
    return middle if sides[0] == sides[-1] else -(-middle // 32) * 32


def _place(
    ground: _Ground, side: int, on_landslide: bool, weight: int, random: np.random.Generator
) -> Window:
    """A square of `side` px: anywhere, or so that it holds a pixel of what it must show.

    Landslides are chosen one by one, not pixel by pixel: else samples would show the large ones.
    Of a tile that is drawn `weight` times because it holds false alarms, all draws but one show
    them.
    """
    target: tuple[int, int] | None = None
    if on_landslide and ground.slides:
        number = random.integers(1, ground.slides + 1)
        target = _one_of(ground.bodies == number, random)
    elif weight > 1 and ground.hard.any() and random.random() < (weight - 1) / weight:
        target = _one_of(ground.hard, random)
    starts = []
    for axis, length in enumerate(ground.labels.shape):
        first, last = 0, max(length - side, 0)
        if target is not None:
            first, last = max(target[axis] - side + 1, 0), min(target[axis], last)
        starts.append(int(random.integers(first, last + 1)))
    return Window(starts[0], starts[1], side, side)


def _one_of(pixels: NDArray[np.bool_], random: np.random.Generator) -> tuple[int, int]:
    found = np.flatnonzero(pixels)
    row, col = np.unravel_index(found[random.integers(len(found))], pixels.shape)
    return int(row), int(col)


def _turned(values: NDArray[Any], flips: NDArray[np.int64], turns: int) -> NDArray[Any]:
    for axis, flip in zip((-2, -1), flips, strict=True):
        if flip:
            values = np.flip(values, axis)
    return np.ascontiguousarray(np.rot90(values, turns, (-2, -1)))
