"""A model is a function from an array to an array; and its scores on tiles."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from landslip.assess.scores import ScoreHistogram
from landslip.geo.errors import BandError, TileSetError
from landslip.geo.labels import UNLABELLED
from landslip.geo.probability import encode
from landslip.geo.progress import track
from landslip.learn.card import ModelCard, load_model
from landslip.learn.device import Compute
from landslip.prepare.scaling import Scaling, bands_at_hand
from landslip.prepare.tile_set import Tile, TileSet

log = logging.getLogger(__name__)


def probabilities(
    network: nn.Module, images: NDArray[np.float32], compute: Compute, stride_px: int
) -> NDArray[np.float32]:
    """Landslide probabilities of scaled images.

    Args:
        network: In evaluation mode, on the device of `compute`.
        images: Shape (B, C, H, W), scaled.
        compute: Device and precision.
        stride_px: Images are mirrored to a multiple of this and cut back.

    Returns:
        Shape (B, H, W), 0 to 1; the mean over outputs where the network has several.
    """
    height, width = images.shape[-2:]
    down, right = -height % stride_px, -width % stride_px
    if down or right:
        mode = "reflect" if down < height and right < width else "edge"
        images = np.pad(images, [(0, 0), (0, 0), (0, down), (0, right)], mode=mode)  # type: ignore[call-overload]
    with torch.inference_mode(), compute.autocast():
        logits = network(compute.send(torch.from_numpy(images)))
    scores: NDArray[np.float32] = logits.float().sigmoid().mean(dim=1).cpu().numpy()
    return scores[:, :height, :width]


def score_tiles(
    network: nn.Module,
    tiles: Sequence[tuple[TileSet, Tile]],
    scaling: Scaling,
    compute: Compute,
    *,
    stride_px: int,
    optional: Sequence[str] = (),
    batch: int = 8,
) -> ScoreHistogram:
    """Scores pooled over the pixels of tiles; ground in several tiles counts once.

    Args:
        network: In evaluation mode, on the device of `compute`.
        tiles: Tiles with their sets.
        scaling: Of all bands of the network.
        compute: Device and precision.
        stride_px: Images are mirrored to a multiple of this and cut back.
        optional: Bands that tiles may lack.
        batch: Tiles that are scored at once.

    Raises:
        BandError: Tiles lack a band that is not optional.
    """
    total = ScoreHistogram.empty()
    for group in _alike(tiles, batch):
        read = [
            tile_set.read(tile, bands_at_hand(scaling.bands, tile_set.bands, optional))
            for tile_set, tile in group
        ]
        images = np.stack([scaling.apply_all([raster]) for raster, _ in read])
        scored = probabilities(network, images, compute, stride_px)
        for (tile_set, tile), (_, labels), scores in zip(group, read, scored, strict=True):
            counted = np.where(tile_set.first_seen(tile), labels, UNLABELLED).astype(np.uint8)
            total += ScoreHistogram.of(encode(scores), counted)
    return total


def _alike(
    tiles: Sequence[tuple[TileSet, Tile]], batch: int
) -> Iterator[list[tuple[TileSet, Tile]]]:
    """Groups of at most `batch` tiles that follow one another and have one size."""
    group: list[tuple[TileSet, Tile]] = []
    for tile_set, tile in tiles:
        if group:
            last = group[-1][1]
            if len(group) == batch or (last.height, last.width) != (tile.height, tile.width):
                yield group
                group = []
        group.append((tile_set, tile))
    if group:
        yield group


def score_model(
    model: str | Path,
    tiles: str | Path | TileSet,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
) -> ScoreHistogram:
    """Scores of a model file on one side of a tile set, pooled over its pixels.

    Raises:
        ModelError: The model cannot be used.
        TileSetError: The tile set has no such side, or its bands are in other units.
        BandError: The tiles lack a band of the model.
    """
    card, network = load_model(model)
    tile_set = tiles if isinstance(tiles, TileSet) else TileSet.open(tiles)
    chosen = tile_set.of(split)
    if not chosen:
        found = sorted({tile.split for tile in tile_set.tiles})
        raise TileSetError(
            f"Cannot score on {tile_set.folder}: it has no tiles of '{split}', only of "
            f"{', '.join(found)}. Name one of them with --split."
        )
    _require_like(tile_set, card)
    compute = Compute.choose(device, precision)
    placed = compute.place(network)
    total = ScoreHistogram.empty()
    try:
        for tile in track(chosen, total=len(chosen), what="Scoring"):
            total += score_tiles(
                placed, [(tile_set, tile)], card.scaling_of_bands, compute,
                stride_px=card.stride_px, optional=card.optional_bands,
            )  # fmt: skip
    except BandError as error:
        raise BandError(
            f"Cannot score {model} on {tile_set.folder}: the model needs bands "
            f"{', '.join(card.required_bands)}, the tiles hold {', '.join(tile_set.bands)}. "
            "Use tiles with those bands."
        ) from error
    return total


def _require_like(tile_set: TileSet, card: ModelCard) -> None:
    """Scores on other numbers than the model learnt from would say nothing."""
    if not tile_set.units or not card.units:
        return
    stored = dict(zip(tile_set.bands, tile_set.units, strict=True))
    for band, unit in zip(card.bands, card.units, strict=True):
        if stored.get(band, unit) != unit:
            raise TileSetError(
                f"Cannot score {card.name} on {tile_set.folder}: {band} is in {stored[band]}, the "
                f"model learnt from {unit}. Tile the scene again as the model's ground was "
                "(--reflectance or not)."
            )
    if tile_set.sensor and card.sensor and tile_set.sensor not in card.sensor.split(", "):
        log.warning(
            "%s learnt from %s, %s is of %s: map the scene to have its own numbers used",
            card.name, card.sensor, tile_set.folder, tile_set.sensor,
        )  # fmt: skip
