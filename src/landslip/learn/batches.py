"""What a network is shown: crops of tiles, scaled and turned.

Everything is a function of (seed, epoch, index), so an interrupted training sees what an
uninterrupted one sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from landslip.geo.labels import UNLABELLED
from landslip.prepare.scaling import Scaling
from landslip.prepare.tiles import Tile, TileSet

Sample = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Scaled image (C, H, W) and labels (H, W)."""
Batch = tuple[torch.Tensor, torch.Tensor]
"""Images (B, C, H, W) float32 and labels (B, H, W) uint8."""


@dataclass(frozen=True)
class TrainingGround:
    """Training tiles of one or more tile sets, as a network sees them."""

    tiles: tuple[tuple[TileSet, Tile], ...]
    """Tiles with their sets."""
    scaling: Scaling
    """Bands in order, with their ranges."""
    crop: int
    """Rows and columns of what is shown (px)."""
    quarter_turns: bool
    """True: turned as well as flipped."""
    seed: int
    """Decides order, crops and turns."""

    def batches(self, epoch: int, size: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on; the next one is read ahead."""
        groups = self.groups(epoch, size)[first:]
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            coming = [reader.submit(self._batch, epoch, group) for group in groups[:1]]
            for number in range(len(groups)):
                if number + 1 < len(groups):
                    coming.append(reader.submit(self._batch, epoch, groups[number + 1]))
                yield coming.pop(0).result()

    def groups(self, epoch: int, size: int) -> list[list[tuple[int, int]]]:
        """(position in the epoch, tile) of every batch, in nearly equal batches.

        Equal batches, because batch normalisation fails on a last one of a single small tile.
        """
        drawn = [n for n, (_, tile) in enumerate(self.tiles) for _ in range(tile.weight)]
        order = np.random.default_rng([self.seed, epoch]).permutation(drawn).tolist()
        parts = np.array_split(list(enumerate(order)), -(-len(order) // size))
        return [[(int(position), int(tile)) for position, tile in part] for part in parts]

    def _batch(self, epoch: int, group: list[tuple[int, int]]) -> Batch:
        samples = [self.sample(epoch, position, tile) for position, tile in group]
        images, labels = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))

    def sample(self, epoch: int, position: int, number: int) -> Sample:
        """One sample: a tile, cropped or padded, flipped and turned."""
        tile_set, tile = self.tiles[number]
        bands = [band for band, _, _ in self.scaling.ranges]
        raster, labels = tile_set.read(tile, bands)
        random = np.random.default_rng([self.seed, epoch, position])
        image, labels = crop_or_pad(self.scaling.apply(raster), labels, self.crop, random)
        # Horizontal, vertical, both or none, with equal chance (Qi et al. 2020, section 3.2).
        flips = random.integers(0, 2, size=2)
        turns = int(random.integers(0, 4)) if self.quarter_turns else 0
        for axis, flip in zip((-2, -1), flips, strict=True):
            if flip:
                image, labels = np.flip(image, axis), np.flip(labels, axis)
        image, labels = np.rot90(image, turns, (-2, -1)), np.rot90(labels, turns, (-2, -1))
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def crop_or_pad(
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    size: int,
    random: np.random.Generator,
) -> Sample:
    """A square of `size` px at a random place; what a smaller tile lacks is not labelled."""
    slices = []
    for length in labels.shape:
        start = int(random.integers(0, max(length - size, 0) + 1))
        slices.append(slice(start, start + size))
    image, labels = image[:, slices[0], slices[1]], labels[slices[0], slices[1]]
    missing = [(0, size - length) for length in labels.shape]
    image = np.pad(image, [(0, 0), *missing])
    return image, np.pad(labels, missing, constant_values=UNLABELLED)


def default_crop(tiles: Sequence[Tile]) -> int:
    """The side of tiles that are all alike, else the median of the longer sides, in 32s."""
    sides = sorted(max(tile.height, tile.width) for tile in tiles)
    middle = sides[len(sides) // 2]
    return middle if sides[0] == sides[-1] else -(-middle // 32) * 32
