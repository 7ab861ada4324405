"""Verb `tile`, from a folder of pictures and masks without positions."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from landslip.geo.bands import band_name
from landslip.geo.errors import InventoryError, TileSetError, UsageError
from landslip.geo.grid import Grid
from landslip.geo.labels import BACKGROUND, LANDSLIDE, UNLABELLED
from landslip.geo.output import whole_folder
from landslip.geo.progress import track
from landslip.geo.raster import FileScene, Raster, open_dataset, plain_read_errors
from landslip.prepare.split import SPLITS
from landslip.prepare.tile_set import (
    Tile,
    TileFiles,
    TileSet,
    require_labelled,
    write_index,
    write_tile,
)

log = logging.getLogger(__name__)

_BESIDE_PICTURES = {".db", ".ini", ".ovr", ".pgw", ".prj", ".tfw", ".wld", ".xml"}
"""Endings of what GIS and operating systems put beside pictures."""


def tiles_from_folder(
    folder: str | Path,
    out: str | Path,
    *,
    bands: Sequence[str],
    pixel_size_m: float,
    seed: int = 0,
    overwrite: bool = False,
) -> TileSet:
    """Take pictures and masks that exist as a tile set without positions.

    Args:
        folder: With `images/`, `masks/` of the same names (255, or 1, = landslide, 0 =
            background), and an optional `index.csv` with columns `file` and `split`.
        out: Folder to write; it appears when it is whole.
        bands: Names of the pictures' bands in order.
        pixel_size_m: Pixel size (m).
        seed: Draws the sides (80 / 20) where there is no `index.csv`.
        overwrite: Replace a folder that exists.

    Raises:
        TileSetError: Files are missing or of several types, or the index cannot be used.
        BandError: A picture has another number of bands.
        InventoryError: A mask holds other values or has another size.
    """
    folder = Path(folder)
    if not 0 < pixel_size_m < math.inf:
        raise UsageError(
            f"Cannot tile from {folder}: the pixel size is {pixel_size_m:g} m, expected more than "
            "0. Correct --pixel-size."
        )
    splits = _splits_of_folder(folder, seed)
    named = tuple("-" if band == "-" else band_name(band) for band in bands)
    names = tuple(name for name in named if name != "-")
    with whole_folder(Path(out), "tileset.json", overwrite=overwrite) as partial:
        tiles: list[Tile] = []
        types: dict[str, str] = {}
        for file, split in track(splits.items(), total=len(splits), what="Tiling"):
            raster = _picture(folder / "images" / file, named, pixel_size_m)
            types.setdefault(raster.values.dtype.name, file)
            if len(types) > 1:
                raise TileSetError(
                    f"Cannot tile from {folder}: the pictures are {' and '.join(types)} "
                    f"({', '.join(types.values())}). Convert them to one type."
                )
            labels = _mask(folder, file, raster)
            name = Path(file).stem
            write_tile(partial, name, raster, labels)
            tiles.append(Tile.of(name, split, labels))
        require_labelled(tiles, str(folder))
        source = {"role": "folder", "path": str(folder)}
        files = TileFiles(partial, names)
        made = TileSet(files, tuple(tiles), names, pixel_size_m, "", next(iter(types)), (source,))
        write_index(made)
    tile_set = TileSet.open(out)
    log.info("%s: %s", out, tile_set.summary())
    return tile_set


def _splits_of_folder(folder: Path, seed: int) -> dict[str, str]:
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        raise TileSetError(
            f"Cannot tile from {folder}: it needs the folders images/ and masks/. Name the folder "
            "that holds both."
        )
    index = folder / "index.csv"
    splits = _read_index(index) if index.exists() else _drawn_splits(folder, seed)
    named: dict[str, str] = {}
    for file in splits:
        other = named.setdefault(Path(file).stem, file)
        if other != file:
            raise TileSetError(
                f"Cannot tile from {folder}: {other} and {file} would give tiles of one name. "
                "Rename one, and its mask."
            )
    return splits


def _read_index(index: Path) -> dict[str, str]:
    """File -> split, as `index.csv` lists them."""
    try:
        # Spreadsheets put a byte order mark in front.
        lines = index.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TileSetError(
            f"Cannot read {index}: it is not in UTF-8. Save it again as CSV UTF-8."
        ) from error
    rows = list(csv.DictReader(lines))
    if not rows or not {"file", "split"} <= set(rows[0]):
        raise TileSetError(
            f"Cannot read {index}: it needs the columns file and split. Add them, or remove it."
        )
    splits: dict[str, str] = {}
    for row in rows:
        file, split = row["file"], row["split"] or "nothing"
        if file in splits:
            raise TileSetError(f"Cannot read {index}: it names {file} twice. Keep one line.")
        splits[file] = "validation" if split == "val" else split
    unknown = sorted(set(splits.values()) - set(SPLITS))
    if unknown:
        raise TileSetError(
            f"Cannot read {index}: split holds {', '.join(unknown)}; expected "
            f"{', '.join(SPLITS)}. Rename them."
        )
    return splits


def _drawn_splits(folder: Path, seed: int) -> dict[str, str]:
    """File -> split by chance, 80 / 20."""
    files = sorted(
        path.name
        for path in (folder / "images").iterdir()
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _BESIDE_PICTURES
    )
    log.warning("%s has no index.csv: tiles are split at random, so the scores may flatter", folder)
    order = np.random.default_rng(seed).permutation(len(files))
    held_out = set(order[: round(0.2 * len(files))].tolist())
    return {
        file: "validation" if number in held_out else "train" for number, file in enumerate(files)
    }


def _picture(path: Path, bands: tuple[str, ...], pixel_size_m: float) -> Raster:
    scene = FileScene.open(path, bands=bands)
    raster = scene.read(scene.grid.window, scene.bands)
    scene.close()
    # Positions of pictures are seldom true; the pixel size is what a model needs to know.
    grid = Grid(None, Affine.scale(pixel_size_m, -pixel_size_m), *raster.valid.shape)
    return Raster(raster.values, raster.valid, raster.bands, grid)


def _mask(folder: Path, file: str, raster: Raster) -> NDArray[np.uint8]:
    choices = [folder / "masks" / file, *sorted((folder / "masks").glob(f"{Path(file).stem}.*"))]
    path = next((choice for choice in choices if choice.exists()), None)
    if path is None:
        raise TileSetError(
            f"Cannot tile from {folder}: {file} has no mask in masks/. Add it, or leave the "
            "picture out of index.csv."
        )
    with plain_read_errors(str(path)), open_dataset(str(path)) as dataset:
        mask, nodata = dataset.read(1), dataset.nodata
    # Declared nodata of 0 is common and takes no landslide away.
    if nodata and (mask == nodata).any():
        raise InventoryError(
            f"Cannot use mask {path}: its value {nodata:g} is declared as nodata. Unset that "
            "(gdal_edit.py -unsetnodata)."
        )
    values = set(np.unique(mask).tolist())
    if mask.shape != raster.valid.shape or not (values <= {0, 255} or values <= {0, 1}):
        raise InventoryError(
            f"Cannot use mask {path}: expected {raster.valid.shape} px of 0 and 255 (landslide), "
            f"found {mask.shape} px of {sorted(values)[:6]}. Correct the mask."
        )
    labels: NDArray[np.uint8] = np.where(mask > 0, LANDSLIDE, BACKGROUND).astype(np.uint8)
    labels[~raster.valid] = UNLABELLED
    return labels
