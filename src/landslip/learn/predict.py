"""A model is a function from an array to an array; and its scores on tiles."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from landslip.assess.scores import ScoreHistogram
from landslip.geo.errors import BandError, TileSetError
from landslip.geo.probability import encode
from landslip.geo.progress import track
from landslip.learn.allocation import freed_memory_kept
from landslip.learn.batches import Scored, ScoringGround
from landslip.learn.calibration import Calibration
from landslip.learn.card import ModelCard, load_model
from landslip.learn.device import Compute
from landslip.prepare.tile_set import TileSet

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
    with torch.inference_mode():
        sent = compute.send(torch.from_numpy(np.ascontiguousarray(images)))
        scores: NDArray[np.float32] = forward(network, sent, compute, stride_px).cpu().numpy()
    return scores


def forward(
    network: nn.Module, images: torch.Tensor, compute: Compute, stride_px: int
) -> torch.Tensor:
    """Landslide probabilities (B, H, W), float32, of scaled images (B, C, H, W) on the device.

    As `probabilities`; call it in inference mode.
    """
    height, width = images.shape[-2:]
    down, right = -height % stride_px, -width % stride_px
    if down or right:
        mode = "reflect" if down < height and right < width else "replicate"
        images = F.pad(images, (0, right, 0, down), mode=mode)
    with compute.autocast():
        logits: torch.Tensor = network(compute.send(images))
    return logits.float().sigmoid().mean(dim=1)[:, :height, :width]


def score_batches(
    network: nn.Module,
    batches: Iterable[Scored],
    compute: Compute,
    stride_px: int,
) -> ScoreHistogram:
    """Scores pooled over all pixels.

    Args:
        network: In evaluation mode, on the device of `compute`.
        batches: Scaled images (B, C, H, W) and their labels (B, H, W): 0, 1, 255.
        compute: Device and precision.
        stride_px: Images are mirrored to a multiple of this and cut back.
    """
    total = ScoreHistogram.empty()
    for images, labels in batches:
        scores = probabilities(network, images, compute, stride_px)
        total += ScoreHistogram.of(encode(scores), labels)
    return total


def scored_tiles(
    model: str | Path,
    tiles: str | Path | TileSet,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    calibrated: bool = True,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Probabilities of a model file on the tiles of one side, with their labels.

    Args:
        model: Model file.
        tiles: Tile set.
        split: Its side.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bf16 or fp16.
        calibrated: False: the scores of a calibrated model before they become probabilities.

    Yields:
        Of every tile probabilities (H, W), 0 to 1, and labels (H, W): 0, 1, 255; ground that an
        earlier tile shows is 255.

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
    ground = ScoringGround(
        tiles=tuple((tile_set, tile) for tile in chosen), scaling=card.scaling_of_bands,
        optional=card.optional_bands,
    )  # fmt: skip
    calibration = Calibration.of_card(card.calibration) if calibrated else None
    batches = track(ground.batches(1, workers=2), total=len(chosen), what="Scoring")
    try:
        with freed_memory_kept():
            for images, labels in batches:
                scores = probabilities(placed, images, compute, card.stride_px)
                if calibration is not None:
                    scores = calibration.apply(torch.from_numpy(scores)).numpy()
                yield scores[0], labels[0]
    except BandError as error:
        raise BandError(
            f"Cannot score {model} on {tile_set.folder}: the model needs bands "
            f"{', '.join(card.required_bands)}, the tiles hold {', '.join(tile_set.bands)}. "
            "Use tiles with those bands."
        ) from error


def score_model(
    model: str | Path,
    tiles: str | Path | TileSet,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    calibrated: bool = True,
) -> ScoreHistogram:
    """Scores of a model file on one side of a tile set, pooled over its pixels.

    Args and errors as of `scored_tiles`.
    """
    scored = scored_tiles(
        model, tiles, split=split, device=device, precision=precision, calibrated=calibrated
    )
    total = ScoreHistogram.empty()
    for scores, labels in scored:
        total += ScoreHistogram.of(encode(scores), labels)
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
