"""Verb `vectorise`: a probability raster of any tool to an inventory."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from pathlib import Path

import rasterio

from landslip import __version__
from landslip.assess.predictions import RasterPrediction
from landslip.geo.errors import DataError, UsageError
from landslip.geo.inventory import frame_crs
from landslip.geo.output import refuse_existing, whole_file
from landslip.geo.raster import grid_of, open_dataset
from landslip.geo.scene import SceneLike, as_scene
from landslip.inventory.delineate import Delineation
from landslip.inventory.geopackage import Inventory
from landslip.inventory.ground import KnownGround, ground_layers
from landslip.inventory.options import InventoryOptions, InventoryResult

log = logging.getLogger(__name__)

CACHE_BYTES = 128 * 2**20
"""Of GDAL, which would take a twentieth of the memory."""
FORM = ".gpkg"
"""Of the files that are written."""


def vectorise(
    probability: str | Path,
    out: str | Path,
    *,
    threshold: float | None = None,
    options: InventoryOptions | None = None,
    scene: SceneLike | None = None,
    overwrite: bool = False,
) -> InventoryResult:
    """Outline the landslides of a probability raster, and tell what is known of each.

    Writes a GeoPackage with the layers `landslides`, `observed`, `not_observed`, and where they are
    wanted `dropped` and `bodies`, with styles for QGIS. Memory does not grow with the raster, nor
    with the number of landslides.

    Args:
        probability: Raster of one band: 0 to 1, or one byte with a scale, or 0 and 1.
        out: GeoPackage to write; it appears when it is whole.
        threshold: Probability from which ground is landslide; None: that of the raster's tag
            `LANDSLIP_THRESHOLD`, of a raster of 0 and 1 nothing is asked.
        options: How landslides are outlined and measured; None for the defaults.
        scene: The scene that was mapped, on the same grid, for NDVI.
        overwrite: Replace a file that exists, unless it holds reviewed landslides.

    Raises:
        UsageError: The threshold lies outside 0 to 1, or is not known; or a rule cannot be read.
        DataError: Nothing was observed, or the scene lies on another grid.
        RasterError: The raster, or the elevation model, cannot be used.
        OutputError: `out` exists, or cannot be written.
    """
    options, out, path = options or InventoryOptions(), Path(out), str(probability)
    if out.suffix.lower() != FORM:
        raise UsageError(
            f"Cannot write {out}: the inventory is a GeoPackage, so its name must end in {FORM}. "
            "Other formats come from landslip export."
        )
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"Cannot outline at threshold {threshold:g}: it must lie between 0 and 1.")
    refuse_existing(out, overwrite=overwrite)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES))
        with open_dataset(path) as dataset:
            grid, tags = grid_of(dataset), dataset.tags()
        if threshold is None and "LANDSLIP_THRESHOLD" not in tags:
            log.warning("%s names no threshold: 0.5 is used", path)
        coded = stack.enter_context(closing(RasterPrediction(path, grid, threshold)))
        if grid.crs is None:
            log.warning(
                "%s has no coordinate reference system: a unit of its coordinates is taken for a "
                "metre", path,
            )  # fmt: skip
        opened = None if scene is None else as_scene(scene)
        if opened is not None and opened.grid != grid:
            raise DataError(
                f"Cannot measure landslides of {path} on the scene: it has "
                f"{opened.grid.height} x {opened.grid.width} px elsewhere, the map "
                f"{grid.height} x {grid.width}. Name the scene that was mapped."
            )
        cut = 0.5 if coded.threshold is None else coded.threshold
        told = {
            "model": tags.get("LANDSLIP_MODEL", ""),
            "version": tags.get("LANDSLIP_VERSION", __version__),
        }
        delineation = stack.enter_context(
            closing(Delineation(options, grid, cut, scene=opened, told=told))
        )
        with whole_file(out, overwrite=overwrite) as partial:
            inventory = Inventory(partial, crs=frame_crs(grid), date=None)
            layers = ground_layers(KnownGround(coded))
            observed_km2 = float(layers["observed"]["area_m2"].sum()) / 1e6
            if not len(layers["observed"]):
                raise DataError(
                    f"Cannot outline landslides of {path}: none of its pixels is known, all are "
                    "nodata. Name another raster, or correct its nodata value with gdal_edit.py."
                )
            for group in delineation.groups(coded):
                inventory.add(group, delineation, scene=tags.get("LANDSLIP_SCENE", ""))
            inventory.write(layers)
            inventory.style()
    if inventory.landslides + inventory.dropped == 0:
        log.warning("%s reaches %.2f nowhere: the inventory is empty", path, cut)
    return inventory.result(out, observed_km2, cut)
