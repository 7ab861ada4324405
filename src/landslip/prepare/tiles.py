"""Verb `tile`: a scene and its inventory as tiles, written or read from the scene itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Polygons
from landslip.geo.labels import UNLABELLED, Labels, open_labels
from landslip.geo.output import whole_folder
from landslip.geo.progress import track
from landslip.geo.raster import Raster, Scene, fingerprint
from landslip.geo.scene import SceneLike, SourceFile, as_scene, source_records
from landslip.prepare.scaling import measure_scene, units_of
from landslip.prepare.split import TileOptions, split_ground, tile_name
from landslip.prepare.tile_set import (
    Tile,
    TileFiles,
    TileReader,
    TileSet,
    require_labelled,
    write_index,
    write_tile,
)

log = logging.getLogger(__name__)

REJECTED_WEIGHT = 3
"""How often a tile with ground that an analyst rejected is drawn, compared with others."""

Cut = tuple[Tile, Raster, NDArray[np.uint8], NDArray[np.bool_]]
"""A tile with its raw pixels (C, H, W), its labels and its hard ground (H, W)."""


@dataclass(frozen=True)
class SceneTiles:
    """Reads tiles from the scene and the labels that they are cut from, while the scene is open.

    Several threads may read: no two reads of scenes or labels share an open file.
    """

    scene: Scene
    """The scene."""
    labels: Labels
    """Labels on its grid."""

    @property
    def place(self) -> Path:
        """The first file of the scene."""
        sources: Sequence[SourceFile] = getattr(self.scene, "sources", ())
        return Path(sources[0].path if sources else "scene")

    def read(self, tile: Tile, bands: Sequence[str]) -> tuple[Raster, NDArray[np.uint8]]:
        """Raw pixels of a tile, and its labels (0, 1, 255), shape (height, width).

        As in written tiles, only what is usable in all bands of the scene is valid.
        """
        assert tile.window is not None
        raster, labels = self.cut(tile.window)
        if tuple(bands) == raster.bands:
            return raster, labels
        derived = raster.read(raster.grid.window, bands)
        return derived, np.where(derived.valid, labels, UNLABELLED).astype(np.uint8)

    def hard(self, tile: Tile) -> NDArray[np.bool_]:
        """Shape (height, width): background that was taken for a landslide before."""
        assert tile.window is not None
        return self.labels.rejected(tile.window)

    def cut(self, window: Window) -> tuple[Raster, NDArray[np.uint8]]:
        """All bands of a window, and its labels, 255 where the pixels are not valid."""
        raster = self.scene.read(window, self.scene.bands)
        labels = self.labels.read(window)
        return raster, np.where(raster.valid, labels, UNLABELLED).astype(np.uint8)


@dataclass(frozen=True)
class _Drawn:
    """What analysts drew over a scene."""

    inventory: str | Path
    checked: str | Path | None
    positive: int | None
    false_alarms: str | Path | None

    def laid_over(self, grid: Grid) -> Labels:
        """As labels on a grid."""
        labels = open_labels(
            self.inventory, grid, checked=self.checked, positive=self.positive,
            false_alarms=self.false_alarms,
        )  # fmt: skip
        if self.checked is None:
            log.warning(
                "no --checked areas: all ground without a landslide counts as checked background"
            )
        return labels

    def records(self) -> list[dict[str, Any]]:
        """What identifies the files."""
        files = {
            "inventory": self.inventory,
            "checked": self.checked,
            "false-alarms": self.false_alarms,
        }
        return [
            {"role": role, **fingerprint(str(path).partition("|")[0])}
            for role, path in files.items()
            if path is not None
        ]


def make_tiles(
    scene: SceneLike,
    inventory: str | Path,
    out: str | Path,
    *,
    options: TileOptions | None = None,
    checked: str | Path | None = None,
    positive: int | None = None,
    false_alarms: str | Path | None = None,
    overwrite: bool = False,
) -> TileSet:
    """Cut a scene and its inventory into tiles of raw values.

    Args:
        scene: Scene, or the path of a file that names its bands.
        inventory: Landslide polygons (any OGR format) or a label raster.
        out: Folder to write; it appears when it is whole.
        options: Size, stride and split; None for the defaults.
        checked: Polygons inside which everything was inspected; without it all ground counts as
            checked, and that is said.
        positive: Value of landslides in a label raster where it is not 1.
        false_alarms: Polygons over what a model wrongly mapped: background, checked or not, that
            training is shown more often.
        overwrite: Replace a folder that exists.

    Raises:
        InventoryError: Polygons or labels cannot be used.
        TileSetError: The ground cannot be split, or nothing of it is labelled.
        OutputError: `out` exists, or cannot be written.
    """
    drawn = _Drawn(inventory, checked, positive, false_alarms)
    opened = as_scene(scene)
    ground = SceneTiles(opened, drawn.laid_over(opened.grid))
    with whole_folder(Path(out), "tileset.json", overwrite=overwrite) as folder:
        tiles = []
        for tile, raster, labels, hard in _cut(ground, options or TileOptions()):
            write_tile(folder, tile.name, raster, labels, hard)
            tiles.append(tile)
        require_labelled(tiles, str(inventory))
        made = _tile_set(TileFiles(folder, opened.bands), tiles, ground, drawn)
        write_index(made, opened.grid)
        from landslip.prepare.pictures import write_split_picture

        polygons: Polygons | None = getattr(ground.labels, "polygons", None)
        write_split_picture(folder / "split.png", tiles, opened.grid, polygons)
    tile_set = TileSet.open(out)
    log.info("%s: %s", out, tile_set.summary())
    return tile_set


def tiles_of_scene(
    scene: SceneLike,
    inventory: str | Path,
    *,
    options: TileOptions | None = None,
    checked: str | Path | None = None,
    positive: int | None = None,
    false_alarms: str | Path | None = None,
) -> TileSet:
    """The tiles that `make_tiles` would write, read from the scene and its inventory instead.

    They hold the same pixels and labels, and have the same hash. The scene is read once to place
    them, and again whenever they are; keep it open as long.

    Args:
        scene: As for `make_tiles`.
        inventory: As for `make_tiles`.
        options: Size, stride and split; None for the defaults.
        checked: As for `make_tiles`.
        positive: As for `make_tiles`.
        false_alarms: As for `make_tiles`.

    Raises:
        InventoryError: Polygons or labels cannot be used.
        TileSetError: The ground cannot be split, or nothing of it is labelled.
    """
    drawn = _Drawn(inventory, checked, positive, false_alarms)
    opened = as_scene(scene)
    ground = SceneTiles(opened, drawn.laid_over(opened.grid))
    tiles = [tile for tile, *_ in _cut(ground, options or TileOptions())]
    require_labelled(tiles, str(inventory))
    made = _tile_set(ground, tiles, ground, drawn)
    log.info("%s: %s", made.folder, made.summary())
    return made


def _cut(ground: SceneTiles, options: TileOptions) -> Iterator[Cut]:
    """The tiles of which something is labelled and usable, side by side, row by row."""
    sides = split_ground(ground.labels, options)
    for split, window in track(sides, total=len(sides), what="Tiling"):
        raster, labels = ground.cut(window)
        if (labels == UNLABELLED).all():
            continue
        hard = ground.labels.rejected(window)
        tile = Tile.of(
            tile_name(window), split, labels,
            weight=REJECTED_WEIGHT if (hard & raster.valid).any() else 1,
            row=window.row, col=window.col,
        )  # fmt: skip
        yield tile, raster, labels, hard


def _tile_set(
    reader: TileReader, tiles: Sequence[Tile], ground: SceneTiles, drawn: _Drawn
) -> TileSet:
    scene = ground.scene
    crs = scene.grid.crs
    return TileSet(
        reader=reader,
        tiles=tuple(tiles),
        bands=scene.bands,
        pixel_size_m=scene.grid.pixel_size_m,
        crs="" if crs is None else crs.to_string(),
        dtype=ground.read(tiles[0], scene.bands)[0].values.dtype.name,
        sources=(*source_records(scene), *drawn.records()),
        percentiles=measure_scene(scene, scene.bands),
        units=units_of(scene, scene.bands),
        sensor=getattr(scene, "sensor", ""),
        types=tuple(getattr(scene, "types", ())),
    )
