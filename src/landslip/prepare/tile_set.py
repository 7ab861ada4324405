"""Tiles to learn from: their index, and where their pixels and labels are read.

A tile set on disk is a folder:

- `tileset.json`: format version, bands, pixel size, CRS, type, percentiles, units, sources.
- `tiles.gpkg`, layer `tiles`: one row a tile, its fields those of `Tile`. The split may be edited.
- `images/NAME.tif`: raw values; GDAL reads from it, too, which pixels are valid.
- `labels/NAME.tif`: band `label` of 0 background, 1 landslide, 255 not labelled; and, since format
  1.1, where the tile holds any, band `false_alarm` of 1 where the background was taken for a
  landslide before, else 0.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip import __version__
from landslip.geo.bands import sources_of
from landslip.geo.errors import BandError, TileSetError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import write_layers
from landslip.geo.labels import LANDSLIDE, UNLABELLED
from landslip.geo.raster import FileScene, Raster, create_raster, open_dataset, plain_read_errors
from landslip.prepare.scaling import Ranges
from landslip.prepare.split import SPLITS, refuse_shared_ground

log = logging.getLogger(__name__)

FORMAT_VERSION = "1.1"
PIXEL_SIZE_RATIOS = (0.8, 1.25)
"""Pixel sizes that one model bears, relative to its own."""


@dataclass(frozen=True)
class Tile:
    """One training sample."""

    name: str
    """Stem of its files in `images/` and `labels/`."""
    split: str
    """`train`, `validation` or `test`."""
    height: int
    """Rows (px)."""
    width: int
    """Columns (px)."""
    landslide_share: float
    """Share of landslide pixels in the labelled ones; 0 where none is labelled."""
    valid_share: float
    """Share of pixels that are usable and labelled."""
    weight: int = 1
    """How often it is drawn in an epoch."""
    row: int = -1
    """First row in the scene (px); -1 where there is no scene."""
    col: int = -1
    """First column in the scene (px); -1 where there is no scene."""

    @classmethod
    def of(
        cls, name: str, split: str, labels: NDArray[np.uint8], *, weight: int = 1, row: int = -1,
        col: int = -1,
    ) -> Self:  # fmt: skip
        """A tile with these labels, shape (height, width)."""
        labelled = int((labels != UNLABELLED).sum())
        share = int((labels == LANDSLIDE).sum()) / labelled if labelled else 0.0
        height, width = labels.shape
        return cls(name, split, height, width, share, labelled / labels.size, weight, row, col)

    @property
    def window(self) -> Window | None:
        """Its pixels in the scene, or None for tiles without a position."""
        return None if self.row < 0 else Window(self.row, self.col, self.height, self.width)


class TileReader(Protocol):
    """Anything that gives a tile's pixels and labels, to several threads at once."""

    @property
    def place(self) -> Path:
        """Where they come from, for messages."""
        ...

    def read(self, tile: Tile, bands: Sequence[str]) -> tuple[Raster, NDArray[np.uint8]]:
        """Raw pixels of a tile, and its labels (0, 1, 255), shape (height, width)."""
        ...

    def hard(self, tile: Tile) -> NDArray[np.bool_]:
        """Shape (height, width): background that was taken for a landslide before."""
        ...


@dataclass(frozen=True)
class TileFiles:
    """Reads tiles from the files of a folder; every read opens its own, and closes them."""

    place: Path
    """The folder."""
    bands: tuple[str, ...]
    """Names of the bands of every image, in order."""

    def read(self, tile: Tile, bands: Sequence[str]) -> tuple[Raster, NDArray[np.uint8]]:
        """Raw pixels of a tile, and its labels (0, 1, 255), shape (height, width)."""
        path = self.place / "images" / f"{tile.name}.tif"
        scene = FileScene(str(path), {band: n for n, band in enumerate(self.bands, 1)})
        labels = FileScene(str(self._labels(tile)), {"label": 1})
        try:
            raster = scene.read(scene.grid.window, bands)
            read = labels.read(labels.grid.window, ["label"])
        finally:
            scene.close()
            labels.close()
        values: NDArray[np.uint8] = np.where(read.valid, read.values[0], UNLABELLED)
        return raster, np.where(raster.valid, values, UNLABELLED).astype(np.uint8)

    def hard(self, tile: Tile) -> NDArray[np.bool_]:
        """Shape (height, width): background that was taken for a landslide before."""
        path = str(self._labels(tile))
        with plain_read_errors(path), open_dataset(path) as dataset:
            if dataset.count < 2:
                return np.zeros((tile.height, tile.width), dtype=bool)
            return np.asarray(dataset.read(2) == 1)

    def _labels(self, tile: Tile) -> Path:
        return self.place / "labels" / f"{tile.name}.tif"


@dataclass(frozen=True)
class TileSet:
    """Tiles to learn from. Holds the index; pixels are read tile by tile."""

    reader: TileReader
    """Gives pixels and labels."""
    tiles: tuple[Tile, ...]
    """All tiles, in the order of the index."""
    bands: tuple[str, ...]
    """Names of the bands in every tile, in order."""
    pixel_size_m: float
    """Pixel size (m)."""
    crs: str
    """CRS as text; empty for tiles without a position."""
    dtype: str
    """Type of the raw values."""
    sources: tuple[dict[str, Any], ...]
    """Files that the tiles come from, with their hashes."""
    percentiles: Ranges = ()
    """Percentiles 0.5 and 99.5 of the scene's usable ground, by band; empty without a scene."""
    units: tuple[str, ...] = ()
    """Units of `bands`; empty where they are not known."""
    sensor: str = ""
    """Sensor of the scene; empty where it is not known."""
    types: tuple[str, ...] = ()
    """Types of the scene's bands before they were put side by side; empty where all are `dtype`."""

    @classmethod
    def open(cls, folder: str | Path) -> TileSet:
        """Read the index of a folder that `make_tiles` or `tiles_from_folder` wrote.

        The split is read from `tiles.gpkg`, so it can be edited in a GIS.

        Raises:
            TileSetError: The folder is no tile set, or of a newer format.
        """
        import pyogrio

        folder = Path(folder)
        try:
            head: dict[str, Any] = {"percentiles": (), "units": (), "sensor": "", "types": ()}
            head |= json.loads((folder / "tileset.json").read_text(encoding="utf-8"))
            rows = pyogrio.read_dataframe(folder / "tiles.gpkg", read_geometry=False)
            version = str(head["format_version"])
            if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
                raise TileSetError(
                    f"Cannot open {folder}: its format is {version}, this landslip reads "
                    f"{FORMAT_VERSION}. Update landslip."
                )
            tiles = tuple(
                Tile(**{field: _plain(value) for field, value in row.items()})
                for row in rows[list(Tile.__dataclass_fields__)].to_dict("records")
            )
            _require_known_sides(folder, tiles)
            bands = tuple(head["bands"])
            return cls(
                TileFiles(folder, bands), tiles, bands, float(head["pixel_size_m"]), head["crs"],
                head["dtype"], tuple(head["sources"]),
                tuple((str(b), float(low), float(high)) for b, low, high in head["percentiles"]),
                tuple(head["units"]), str(head["sensor"]), tuple(head["types"]),
            )  # fmt: skip
        except TileSetError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise TileSetError(
                f"Cannot open tile set {folder}: it needs a tileset.json and a tiles.gpkg as "
                f"`landslip tile` writes them ({error}). Make it again with landslip tile."
            ) from error

    @property
    def folder(self) -> Path:
        """Where the files lie; of tiles that are read from a scene, the scene's file."""
        return self.reader.place

    @property
    def eight_bit(self) -> tuple[str, ...]:
        """Bands that were stretched to 8 bit; they keep 0 to 255."""
        types = self.types or (self.dtype,) * len(self.bands)
        return tuple(band for band, kind in zip(self.bands, types, strict=True) if kind == "uint8")

    def of(self, split: str) -> tuple[Tile, ...]:
        """The tiles of one side."""
        return tuple(tile for tile in self.tiles if tile.split == split)

    def read(
        self, tile: Tile, bands: Sequence[str] | None = None
    ) -> tuple[Raster, NDArray[np.uint8]]:
        """Raw pixels of a tile, and its labels (0, 1, 255), shape (height, width)."""
        return self.reader.read(tile, bands or self.bands)

    def hard(self, tile: Tile) -> NDArray[np.bool_]:
        """Background that an analyst rejected as a landslide, shape (height, width).

        Some of it may not be usable; there the labels are 255.
        """
        return self.reader.hard(tile)

    def first_seen(self, tile: Tile) -> NDArray[np.bool_]:
        """Pixels that no earlier tile of the same side holds, so that ground is counted once."""
        seen = np.ones((tile.height, tile.width), dtype=bool)
        own = tile.window
        if own is None:
            return seen
        names, boxes = self._boxes[tile.split]
        earlier = boxes[: names[tile.name]]
        top, left = earlier[:, 0] - tile.row, earlier[:, 1] - tile.col
        bottom, right = top + earlier[:, 2], left + earlier[:, 3]
        shared = (top < tile.height) & (left < tile.width) & (bottom > 0) & (right > 0)
        for n in np.flatnonzero(shared & (earlier[:, 0] >= 0)):
            seen[max(top[n], 0) : bottom[n], max(left[n], 0) : right[n]] = False
        return seen

    @cached_property
    def _boxes(self) -> dict[str, tuple[dict[str, int], NDArray[np.int64]]]:
        """By side, the numbers of its tiles by name, and (row, col, height, width) of each (px)."""
        sides = {}
        for split in {tile.split for tile in self.tiles}:
            own = self.of(split)
            boxes = [(tile.row, tile.col, tile.height, tile.width) for tile in own]
            names = {tile.name: number for number, tile in enumerate(own)}
            sides[split] = names, np.array(boxes, dtype=np.int64)
        return sides

    def sha256(self) -> str:
        """Hash of the index: tiles, sides, pixel size and sources."""
        tiles = [asdict(tile) for tile in self.tiles]
        text = json.dumps([tiles, self.bands, self.pixel_size_m, self.sources])
        return hashlib.sha256(text.encode()).hexdigest()

    def summary(self) -> str:
        """Tiles and landslide share by side, for people."""
        parts = []
        for split in SPLITS:
            tiles = self.of(split)
            if tiles:
                share = landslide_share(tiles)
                parts.append(f"{split} {len(tiles)} tiles ({share:.1%} landslide)")
        return ", ".join(parts)


def landslide_share(tiles: Sequence[Tile]) -> float:
    """Share of landslide pixels in the labelled ground of tiles; overlaps count every time."""
    pixels = np.array([tile.height * tile.width * tile.valid_share for tile in tiles])
    shares = np.array([tile.landslide_share for tile in tiles])
    return float((pixels * shares).sum() / max(pixels.sum(), 1))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _require_known_sides(folder: Path, tiles: Sequence[Tile]) -> None:
    """Raise where an edited split is misspelt, or puts ground on two sides."""
    for tile in tiles:
        if tile.split not in SPLITS:
            raise TileSetError(
                f"Cannot open tile set {folder}: the split of tile {tile.name} is '{tile.split}'; "
                f"expected {', '.join(SPLITS)}. Correct it in tiles.gpkg."
            )
    refuse_shared_ground([(tile.split, tile.window) for tile in tiles if tile.window is not None])


def write_tile(
    folder: Path,
    name: str,
    raster: Raster,
    labels: NDArray[np.uint8],
    hard: NDArray[np.bool_] | None = None,
) -> None:
    """Write the files of one tile; see the format at the top.

    Args:
        folder: Folder of the tile set.
        name: Stem of the files.
        raster: Raw values, (C, H, W).
        labels: Shape (H, W): 0, 1, 255.
        hard: Shape (H, W): background that was taken for a landslide before; None: nowhere.
    """
    for kind in ("images", "labels"):
        (folder / kind).mkdir(exist_ok=True)
    image = folder / "images" / f"{name}.tif"
    dtype = raster.values.dtype.name
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        create_raster(image, raster.grid, bands=raster.bands, dtype=dtype) as out,
    ):
        out.write(raster.values)
        if not raster.valid.all():
            out.write_mask(raster.valid)
    planes = {"label": labels}
    if hard is not None and hard.any():
        planes["false_alarm"] = hard.astype(np.uint8)
    path = folder / "labels" / f"{name}.tif"
    with create_raster(
        path, raster.grid, bands=tuple(planes), dtype="uint8", nodata=UNLABELLED
    ) as out:
        out.write(np.stack(list(planes.values())))


def write_index(tile_set: TileSet, grid: Grid | None = None) -> None:
    """Write the index of a tile set whose tiles are written; `grid` is that of their scene."""
    import geopandas as gpd

    crs = None if grid is None or grid.crs is None else grid.crs.to_wkt()
    shapes = [
        None if grid is None or tile.window is None else grid.crop(tile.window).footprint()
        for tile in tile_set.tiles
    ]
    frame = gpd.GeoDataFrame([asdict(tile) for tile in tile_set.tiles], geometry=shapes, crs=crs)
    write_layers(tile_set.folder / "tiles.gpkg", {"tiles": frame})
    head = {
        "format_version": FORMAT_VERSION,
        "landslip": __version__,
        "bands": tile_set.bands,
        "pixel_size_m": tile_set.pixel_size_m,
        "crs": tile_set.crs,
        "dtype": tile_set.dtype,
        "sources": tile_set.sources,
        "percentiles": tile_set.percentiles,
        "units": tile_set.units,
        "sensor": tile_set.sensor,
        "types": tile_set.types,
    }
    text = json.dumps(head, indent=2) + "\n"
    (tile_set.folder / "tileset.json").write_text(text, encoding="utf-8")


def require_labelled(tiles: Sequence[Tile], what: str) -> None:
    """Raise TileSetError where nothing could be learnt from tiles of `what`; say what lacks."""
    if not tiles:
        raise TileSetError(
            f"Cannot tile: no tile holds ground that is both usable and labelled ({what}). "
            "Check where the checked areas and the nodata lie with landslip check."
        )
    count = Counter(tile.split for tile in tiles)
    if not count["train"]:
        raise TileSetError(
            "Cannot tile: no labelled ground is left to train on. Choose another --split."
        )
    if not any(tile.landslide_share for tile in tiles if tile.split == "train"):
        raise TileSetError(
            f"Cannot learn from {what}: the training tiles hold no landslide pixel. "
            "Choose another --split, or a finer scene."
        )
    if all(
        tile.landslide_share == 1 for tile in tiles if tile.split == "train" and tile.valid_share
    ):
        raise TileSetError(
            f"Cannot learn from {what}: the training tiles hold landslides and no background. Name "
            "inspected ground with --checked; a label raster must not declare its background as "
            "nodata (gdal_edit.py -unsetnodata)."
        )
    for split in SPLITS[1:]:
        own = [tile for tile in tiles if tile.split == split]
        if own and not any(tile.landslide_share for tile in own):
            log.warning("the %s tiles hold no landslide: recall is undefined there", split)


def require_alike(tile_sets: Sequence[TileSet], bands: Sequence[str] | None = None) -> None:
    """Raise where tile sets cannot train one model: other bands, or other pixel sizes.

    Args:
        tile_sets: At least one.
        bands: Bands and indices that the model will see; None: all, which must then be the same.

    Raises:
        BandError: Bands differ, or one of `bands` is missing.
        TileSetError: Pixel sizes differ by more than a quarter, or units or types do.
    """
    first = tile_sets[0]
    for each in tile_sets:
        sources_of(bands or (), each.bands)
    for other in tile_sets[1:]:
        if bands is None and set(other.bands) != set(first.bands):
            raise BandError(
                f"Cannot train on {first.folder} and {other.folder} together: the bands are "
                f"{', '.join(first.bands)} and {', '.join(other.bands)}. Name common bands with "
                "--use, or train on one."
            )
        ratio = other.pixel_size_m / first.pixel_size_m
        low, high = PIXEL_SIZE_RATIOS
        if not low <= ratio <= high:
            raise TileSetError(
                f"Cannot train on {first.folder} and {other.folder} together: their pixels are "
                f"{first.pixel_size_m:.3g} m and {other.pixel_size_m:.3g} m. Resample one with "
                "landslip tile --pixel-size."
            )
        _require_same_radiometry(first, other)


def _require_same_radiometry(first: TileSet, other: TileSet) -> None:
    both = f"Cannot train on {first.folder} and {other.folder} together"
    common = set(first.bands) & set(other.bands)
    stretched = sorted(common & (set(first.eight_bit) ^ set(other.eight_bit)))
    if stretched:
        raise TileSetError(
            f"{both}: {', '.join(stretched)} stretched to 8 bit in one and not in the other. "
            "Train on one kind, or convert it to one."
        )
    if not first.units or not other.units:
        return
    mine, theirs = (dict(zip(each.bands, each.units, strict=True)) for each in (first, other))
    for band in sorted(common):
        if mine[band] != theirs[band]:
            raise TileSetError(
                f"{both}: {band} is in {mine[band]} and in {theirs[band]}. Tile both with "
                "--reflectance, or both without."
            )
    if first.sensor and other.sensor and first.sensor != other.sensor:
        log.warning(
            "%s is of %s, %s of %s: one range of numbers serves both",
            first.folder, first.sensor, other.folder, other.sensor,
        )  # fmt: skip


def crs_of(tile_set: TileSet) -> CRS | None:
    """The CRS of a tile set, or None."""
    return CRS.from_string(tile_set.crs) if tile_set.crs else None
