"""Models evaluated on tiles: each side of a tile set laid out as one picture."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from landslip.assess.evaluate import evaluate, require_threshold
from landslip.assess.evaluation import Evaluation
from landslip.assess.evaluation_report import SCORES_FILE
from landslip.assess.predictions import THRESHOLD_TAG
from landslip.geo.errors import UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.labels import UNLABELLED
from landslip.geo.output import refuse_existing
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, encode
from landslip.geo.raster import create_raster, rasterio_window
from landslip.learn.card import load_card
from landslip.learn.predict import scored_tiles
from landslip.prepare.tile_set import TileSet

GAP_PX = 8
"""Ground between two tiles that nobody knows, so that landslides do not touch across (px)."""


def evaluate_models(
    models: Sequence[str | Path],
    tiles: str | Path | TileSet,
    *,
    split: str = "test",
    threshold: float | None = None,
    differences: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Evaluation:
    """Score models on one side of a tile set: pixels, outlines, landslides; a tile is a block.

    Landslides end where their tile does. Ground in several tiles counts once.

    Args:
        models: Model files.
        tiles: Tile set.
        split: Its side.
        threshold: Probability from which pixels count as mapped; None: each model's.
        differences: As for `evaluate`.
        out: As for `evaluate`; rasters and pictures show the tiles beside each other.
        overwrite: Replace an older such folder.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32, bf16 or fp16.

    Raises:
        UsageError: No model, or a threshold out of range.
        ModelError: A model cannot be used.
        TileSetError: The tile set has no such side, or its bands are in other units.
        BandError: The tiles lack a band of a model.
        OutputError: `out` exists, or cannot be written.
    """
    if not models:
        raise UsageError("Cannot evaluate: no model is named. Name at least one with --model.")
    require_threshold(threshold)
    if out is not None:
        refuse_existing(out, overwrite=overwrite, marker=SCORES_FILE)
    tile_set = tiles if isinstance(tiles, TileSet) else TileSet.open(tiles)
    with tempfile.TemporaryDirectory(prefix="landslip") as name:
        folder = Path(name)
        labels = folder / f"{tile_set.folder.name}_{split}.tif"
        made: dict[str, str] = {}
        for number, model in enumerate(models):
            card = load_card(model)
            # Its folder tells models of one name apart.
            own = folder / str(number) / Path(model).resolve().parent.name
            own.mkdir(parents=True)
            path = own / f"{Path(model).stem}.tif"
            side = _lay_out(
                model, tile_set, split, path, None if number else labels, device, precision
            )
            with rasterio.open(path, "r+") as raster:
                raster.scales = (1 / TOP_CODE,)
                raster.update_tags(**{THRESHOLD_TAG: repr(max(card.threshold, 1 / TOP_CODE))})
            made[str(path)] = str(model)
        made[str(labels)] = f"{tile_set.folder}, {split}"
        return evaluate(
            [Path(path) for path in list(made)[:-1]], labels, threshold=threshold, block_m=side,
            differences=differences, out=out, overwrite=overwrite, called=made,
        )  # fmt: skip


def _lay_out(
    model: str | Path,
    tile_set: TileSet,
    split: str,
    path: Path,
    labels: Path | None,
    device: str,
    precision: str,
) -> float:
    """Write the scores of all tiles side by side, and their labels if `labels` names a file.

    Returns:
        The side of the place that a tile has (m).
    """
    chosen = tile_set.of(split)
    scored = scored_tiles(model, tile_set, split=split, device=device, precision=precision)
    side = max([max(tile.height, tile.width) for tile in chosen], default=1) + GAP_PX
    across = math.ceil(math.sqrt(len(chosen)))
    down = math.ceil(len(chosen) / max(across, 1))
    size = tile_set.pixel_size_m
    transform = Affine(size, 0, 0, 0, -size, 0)
    grid = Grid(None, transform, max(down, 1) * side, max(across, 1) * side)

    def write(raster: Any, row: int, plane: NDArray[np.uint8]) -> None:
        raster.write(plane, 1, window=rasterio_window(Window(row * side, 0, side, grid.width)))

    with ExitStack() as stack:
        files = [
            stack.enter_context(
                create_raster(each, grid, bands=[band], dtype="uint8", nodata=UNKNOWN_CODE)
            )
            for each, band in ((path, "probability"), (labels, "label"))
            if each is not None
        ]
        codes, truth = np.full((2, side, grid.width), UNLABELLED, np.uint8)
        for number, (scores, known) in enumerate(scored):
            row, col = divmod(number, across)
            height, width = known.shape
            place = np.s_[:height, col * side : col * side + width]
            codes[place], truth[place] = encode(scores), known
            if col == across - 1 or number == len(chosen) - 1:
                for file, plane in zip(files, (codes, truth), strict=False):
                    write(file, row, plane)
                codes, truth = np.full((2, side, grid.width), UNLABELLED, np.uint8)
    return side * size
