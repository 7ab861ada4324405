"""Verb `tile`: a folder of tiles with raw values, labels and an index."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from landslip import __version__
from landslip.geo.bands import band_name, sources_of
from landslip.geo.errors import BandError, InventoryError, TileSetError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Polygons, write_layers
from landslip.geo.labels import BACKGROUND, LANDSLIDE, UNLABELLED, Labels, open_labels
from landslip.geo.output import whole_folder
from landslip.geo.progress import track
from landslip.geo.raster import (
    FileScene,
    Raster,
    Scene,
    create_raster,
    fingerprint,
    open_dataset,
    plain_read_errors,
)
from landslip.geo.scene import SceneLike, as_scene, source_records
from landslip.prepare.scaling import Ranges, measure_scene, units_of
from landslip.prepare.split import (
    SPLITS,
    TileOptions,
    refuse_shared_ground,
    split_ground,
    tile_name,
)

log = logging.getLogger(__name__)

FORMAT_VERSION = "1.0"
PIXEL_SIZE_RATIOS = (0.8, 1.25)
"""Pixel sizes that one model bears, relative to its own."""
REJECTED_WEIGHT = 3
"""How often a tile with ground that an analyst rejected is drawn, compared with others."""

_BESIDE_PICTURES = {".db", ".ini", ".ovr", ".pgw", ".prj", ".tfw", ".wld", ".xml"}
"""Endings of what GIS and operating systems put beside pictures."""


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

    @property
    def window(self) -> Window | None:
        """Its pixels in the scene, or None for tiles without a position."""
        return None if self.row < 0 else Window(self.row, self.col, self.height, self.width)


@dataclass(frozen=True)
class TileSet:
    """A folder of tiles. Holds the index; pixels are read tile by tile."""

    folder: Path
    """Where the files lie."""
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
            return cls(
                folder, tiles, tuple(head["bands"]), float(head["pixel_size_m"]), head["crs"],
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
        path = self.folder / "images" / f"{tile.name}.tif"
        scene = FileScene(str(path), {band: n for n, band in enumerate(self.bands, 1)})
        labels = FileScene(str(self.folder / "labels" / f"{tile.name}.tif"), {"label": 1})
        try:
            raster = scene.read(scene.grid.window, bands or self.bands)
            read = labels.read(labels.grid.window, ["label"])
        finally:
            scene.close()
            labels.close()
        values: NDArray[np.uint8] = np.where(read.valid, read.values[0], UNLABELLED)
        return raster, np.where(raster.valid, values, UNLABELLED).astype(np.uint8)

    def first_seen(self, tile: Tile) -> NDArray[np.bool_]:
        """Pixels that no earlier tile of the same side holds, so that ground is counted once."""
        seen = np.ones((tile.height, tile.width), dtype=bool)
        own = tile.window
        if own is None:
            return seen
        for earlier in self.of(tile.split):
            if earlier == tile:
                break
            shared = earlier.window and own.intersection(earlier.window)
            if shared:
                seen[shared.relative_to(own).slices] = False
        return seen

    def sha256(self) -> str:
        """Hash of the index: tiles, sides and sources."""
        text = json.dumps([[asdict(tile) for tile in self.tiles], self.bands, self.sources])
        return hashlib.sha256(text.encode()).hexdigest()

    def summary(self) -> str:
        """Tiles and landslide share by side, for people."""
        parts = []
        for split in SPLITS:
            tiles = self.of(split)
            if tiles:
                pixels = np.array([tile.height * tile.width * tile.valid_share for tile in tiles])
                shares = np.array([tile.landslide_share for tile in tiles])
                share = float((pixels * shares).sum() / max(pixels.sum(), 1))
                parts.append(f"{split} {len(tiles)} tiles ({share:.1%} landslide)")
        return ", ".join(parts)


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


def make_tiles(
    scene: SceneLike,
    inventory: str | Path,
    out: str | Path,
    *,
    options: TileOptions | None = None,
    checked: str | Path | None = None,
    positive: int | None = None,
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
        overwrite: Replace a folder that exists.

    Raises:
        InventoryError: Polygons or labels cannot be used.
        TileSetError: The ground cannot be split, or nothing of it is labelled.
        OutputError: `out` exists, or cannot be written.
    """
    options = options or TileOptions()
    opened = as_scene(scene)
    labels = open_labels(inventory, opened.grid, checked=checked, positive=positive)
    if checked is None:
        log.warning(
            "no --checked areas: all ground without a landslide counts as checked background"
        )
    with whole_folder(Path(out), "tileset.json", overwrite=overwrite) as folder:
        sides = split_ground(labels, options)
        tiles = [
            tile
            for side, window in track(sides, total=len(sides), what="Tiling")
            if (tile := _write_tile(folder, opened, labels, side, window)) is not None
        ]
        _require_labelled(tiles, str(inventory))
        sources = source_records(opened)
        sources.append({"role": "inventory", **fingerprint(str(inventory).partition("|")[0])})
        if checked is not None:
            sources.append({"role": "checked", **fingerprint(str(checked).partition("|")[0])})
        radiometry = {
            "percentiles": measure_scene(opened, opened.bands),
            "units": units_of(opened, opened.bands),
            "sensor": getattr(opened, "sensor", ""),
            "types": getattr(opened, "types", ()),
        }
        _write_index(folder, tiles, opened.grid, opened.bands, sources, radiometry=radiometry)
        from landslip.prepare.pictures import write_split_picture

        polygons: Polygons | None = getattr(labels, "polygons", None)
        write_split_picture(folder / "split.png", tiles, opened.grid, polygons)
    tile_set = TileSet.open(out)
    log.info("%s: %s", out, tile_set.summary())
    return tile_set


def _write_tile(
    folder: Path, scene: Scene, labels: Labels, split: str, window: Window
) -> Tile | None:
    """Write one tile; None where nothing of it is labelled and usable."""
    raster = scene.read(window, scene.bands)
    values = labels.read(window)
    values[~raster.valid] = UNLABELLED
    if (values == UNLABELLED).all():
        return None
    rejected = bool((labels.rejected(window) & raster.valid).any())
    name = tile_name(window)
    return _write_pair(
        folder, name, split, raster, values,
        weight=REJECTED_WEIGHT if rejected else 1, row=window.row, col=window.col,
    )  # fmt: skip


def _write_pair(
    folder: Path,
    name: str,
    split: str,
    raster: Raster,
    labels: NDArray[np.uint8],
    *,
    weight: int = 1,
    row: int = -1,
    col: int = -1,
) -> Tile:
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
    path = folder / "labels" / f"{name}.tif"
    with create_raster(path, raster.grid, bands=["label"], dtype="uint8", nodata=UNLABELLED) as out:
        out.write(labels, 1)
    labelled = int((labels != UNLABELLED).sum())
    share = int((labels == LANDSLIDE).sum()) / labelled if labelled else 0.0
    height, width = labels.shape
    return Tile(name, split, height, width, share, labelled / labels.size, weight, row, col)


def _require_labelled(tiles: Sequence[Tile], what: str) -> None:
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


def _write_index(
    folder: Path,
    tiles: Sequence[Tile],
    grid: Grid | None,
    bands: Sequence[str],
    sources: Iterable[dict[str, Any]],
    *,
    pixel_size_m: float | None = None,
    radiometry: dict[str, Any] | None = None,
) -> None:
    import geopandas as gpd

    crs = None if grid is None or grid.crs is None else grid.crs.to_wkt()
    shapes = [
        None if grid is None or tile.window is None else grid.crop(tile.window).footprint()
        for tile in tiles
    ]
    frame = gpd.GeoDataFrame([asdict(tile) for tile in tiles], geometry=shapes, crs=crs)
    write_layers(folder / "tiles.gpkg", {"tiles": frame})
    with rasterio.open(folder / "images" / f"{tiles[0].name}.tif") as first:
        dtype = first.dtypes[0]
    size_m = pixel_size_m if grid is None else grid.pixel_size_m
    head = {
        "format_version": FORMAT_VERSION,
        "landslip": __version__,
        "bands": list(bands),
        "pixel_size_m": size_m,
        "crs": "" if grid is None or grid.crs is None else grid.crs.to_string(),
        "dtype": dtype,
        "sources": list(sources),
        **(radiometry or {}),
    }
    (folder / "tileset.json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")


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
            tiles.append(_write_pair(partial, Path(file).stem, split, raster, labels))
        _require_labelled(tiles, str(folder))
        sources = [{"role": "folder", "path": str(folder)}]
        _write_index(partial, tiles, None, names, sources, pixel_size_m=pixel_size_m)
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
