"""Tiny scenes, inventories, tile sets and models, and a way to run the command line.

Written with rasterio and geopandas alone where they can be, so that what landslip reads is not
what landslip wrote.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import geopandas as gpd
import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from landslip.geo.grid import Grid

if TYPE_CHECKING:
    from landslip.prepare.tile_set import TileSet

UTM = "EPSG:32654"
UTM_CRS = CRS.from_string(UTM)
WEST, NORTH = 400_000.0, 4_700_000.0
SIZE_M = 10.0
"""Upper left corner (easting, northing) and pixel size of all scenes unless asked otherwise."""
RGN = ("nir", "red", "green")
LANDSLIDES = ((4, 4, 6, 5), (20, 40, 5, 7), (40, 20, 8, 8), (50, 70, 6, 6), (10, 80, 7, 5))
"""(row, col, height, width) in px; spread so that every side of 64 x 96 px holds some."""

Box = tuple[float, float, float, float]
"""(row, col, height, width) in px."""


def transform_of(size_m: float = SIZE_M, west: float = WEST, north: float = NORTH) -> Affine:
    """From (column, row) to easting and northing."""
    return Affine(size_m, 0, west, 0, -size_m, north)


def grid_of(height: int, width: int, size_m: float = SIZE_M, crs: CRS | None = UTM_CRS) -> Grid:
    """A grid at the corner of all scenes."""
    return Grid(crs, transform_of(size_m), height, width)


def box_at(box: Box, transform: Affine | None = None) -> shapely.Polygon:
    """A rectangle of pixels as a polygon in CRS coordinates."""
    row, col, height, width = box
    corners = [(col, row), (col + width, row), (col + width, row + height), (col, row + height)]
    return shapely.Polygon([(transform or transform_of()) * corner for corner in corners])


def noise(
    bands: int, height: int, width: int, dtype: str = "uint16", seed: int = 0
) -> NDArray[Any]:
    """Values from 1 to 200, (bands, height, width), the same from the same seed."""
    values = np.random.default_rng(seed).integers(1, 201, (bands, height, width))
    return values.astype(dtype)


def write_scene(
    path: Path,
    values: NDArray[Any] | None = None,
    *,
    height: int = 64,
    width: int = 96,
    bands: Sequence[str | None] = RGN,
    dtype: str = "uint16",
    crs: str | None = UTM,
    transform: Affine | None = None,
    nodata: float | None = None,
    seed: int = 0,
) -> Path:
    """Write a GeoTIFF whose band descriptions are `bands` (None: no description)."""
    if values is None:
        values = noise(len(bands), height, width, dtype, seed)
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": len(values), "dtype": values.dtype.name,
        "height": values.shape[1], "width": values.shape[2], "crs": crs, "nodata": nodata,
    }  # fmt: skip
    if crs is not None or transform is not None:
        profile["transform"] = transform or transform_of()
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as out:
            out.write(values)
            for number, name in enumerate(bands, 1):
                if name is not None:
                    out.set_band_description(number, name)
    return path


def write_inventory(
    path: Path,
    boxes: Sequence[Box] = LANDSLIDES,
    *,
    shapes: Sequence[Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    crs: str | None = UTM,
    transform: Affine | None = None,
    layer: str | None = None,
) -> Path:
    """Write polygons: rectangles of pixels, or any `shapes`, with more columns."""
    found = [box_at(box, transform) for box in boxes] if shapes is None else list(shapes)
    data = {"number": list(range(len(found))), **(columns or {})}
    frame = gpd.GeoDataFrame(data, geometry=found, crs=crs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        kind = "Polygon" if not found else None
        pyogrio.write_dataframe(frame, path, layer=layer, geometry_type=kind)
    return path


def landslide_pixels(
    height: int = 64, width: int = 96, boxes: Sequence[tuple[int, int, int, int]] = LANDSLIDES
) -> NDArray[np.bool_]:
    """Where the rectangles lie, by slicing."""
    inside = np.zeros((height, width), dtype=bool)
    for row, col, rows, cols in boxes:
        inside[row : row + rows, col : col + cols] = True
    return inside


def write_pictures(
    folder: Path,
    pictures: Mapping[str, NDArray[Any]],
    masks: Mapping[str, NDArray[Any]],
    index: str | None = None,
) -> Path:
    """Write a folder of pictures (C, H, W) and masks (H, W) without positions."""
    for kind, content in (("images", pictures), ("masks", masks)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, values in content.items():
            planes = values if values.ndim == 3 else values[None]
            driver = "PNG" if name.endswith(".png") else "GTiff"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(
                    folder / kind / name, "w", driver=driver, count=len(planes),
                    dtype=planes.dtype.name, height=planes.shape[1], width=planes.shape[2],
                ) as out:  # fmt: skip
                    out.write(planes)
    if index is not None:
        (folder / "index.csv").write_text(index, encoding="utf-8")
    return folder


def tiny_tiles(folder: Path, *, bands: Sequence[str] = RGN, size_m: float = SIZE_M) -> Path:
    """A tile set of 16 px tiles from a scene of 64 x 96 px, split by columns."""
    from landslip.prepare.split import TileOptions
    from landslip.prepare.tiles import make_tiles

    transform = transform_of(size_m)
    scene = write_scene(folder.with_name(f"{folder.name}.tif"), bands=bands, transform=transform)
    inventory = write_inventory(folder.with_name(f"{folder.name}.gpkg"), transform=transform)
    make_tiles(scene, inventory, folder, options=TileOptions(size=16, split="columns:48,80"))
    return folder


def valley_tiles(folder: Path) -> TileSet:
    """Nine or so tiles of 64 px from a small valley, whose scene is `folder`/input/scene.tif."""
    from landslip.prepare.split import TileOptions
    from landslip.prepare.tiles import make_tiles
    from landslip.samples.synthetic import make_valley, write_valley

    files = write_valley(make_valley((256, 384), seed=1), folder / "input")
    options = TileOptions(size=64, stride=64, gap=0)
    return make_tiles(files.scene, files.landslides, folder / "tiles", options=options)


def tiny_model(path: Path, bands: Sequence[str] = RGN, seed: int = 0, **changes: Any) -> Path:
    """An untrained unet-small for values of 0 to 200, with a card."""
    import torch

    from landslip.learn.card import ModelCard, parameter_count, save_model
    from landslip.learn.models import build_model

    torch.manual_seed(seed)
    network = build_model("unet-small", len(bands))
    fields: dict[str, Any] = {
        "name": path.stem,
        "architecture": "unet-small",
        "total_parameters": parameter_count(network),
        "bands": tuple(bands),
        "scaling": tuple((band, 0.0, 200.0) for band in bands),
        "pixel_size_m": SIZE_M,
        "halo_px": 96,
        "stride_px": 16,
    }
    save_model(path, network, ModelCard(**(fields | changes)))
    return path


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    """Exit status."""
    out: str
    """Standard output."""
    err: str
    """Standard error."""

    @property
    def message(self) -> str:
        """The error, on one line with single blanks; empty where none was printed."""
        _, found, text = self.err.partition("Error:")
        return " ".join(text.split()) if found else ""


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Leave the logger `landslip` as it was: the command line sets it for a whole process."""
    log = logging.getLogger("landslip")
    before = log.handlers[:], log.propagate, log.level
    try:
        yield
    finally:
        log.handlers[:], log.propagate, _ = before
        log.setLevel(before[2])


def landslip(*words: str | Path) -> Outcome:
    """Run a command in this process, as from a shell whose output is not a terminal."""
    from landslip.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv = ["landslip", *map(str, words)]
    code: Any = 0
    with (
        logging_kept(),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return Outcome(int(code), out.getvalue(), err.getvalue())


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "landslip.cli", *map(str, words)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    )  # fmt: skip


class StopAfter:
    """Acts as somebody who presses Ctrl-C: in the place of `Interruption`, by times it is asked."""

    def __init__(self, times: int) -> None:
        self._left = times

    def __enter__(self) -> StopAfter:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @property
    def asked(self) -> bool:
        self._left -= 1
        return self._left <= 0
