"""From the rasters of an unfinished map to the files that users get."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.shutil

from landslip import __version__
from landslip.geo.inventory import write_layers
from landslip.geo.parallel import default_threads, peak_memory_bytes
from landslip.geo.probability import TOP_CODE
from landslip.geo.raster import FileScene
from landslip.mapping.attributes import with_attributes
from landslip.mapping.ground import ground_layers
from landslip.mapping.options import MapResult
from landslip.mapping.outlines import landslide_polygons
from landslip.mapping.run import Ground, MapRun, grid_record
from landslip.mapping.unfinished import read_journal

if TYPE_CHECKING:
    import geopandas as gpd


def finish(run: MapRun, partial: Path, folder: Path, out: Path) -> MapResult:
    """From the rasters of the unfinished map to the files of a finished one."""
    import geopandas as gpd
    import pandas as pd

    slides: list[gpd.GeoDataFrame] = []
    layers: dict[str, list[gpd.GeoDataFrame]] = {"observed": [], "not_observed": []}
    for ground in run.grounds:
        frame, seen = _finish_scene(run, ground, run.folder(partial, ground), folder)
        slides.append(frame)
        for name, found in layers.items():
            found.append(seen[name])
    crs = slides[0].crs

    def joined(frames: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
        moved = [frame if frame.crs == crs else frame.to_crs(crs) for frame in frames]
        filled = [frame for frame in moved if len(frame)] or moved[:1]
        return gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=crs)

    frame = joined(slides)
    frame["id"] = np.arange(1, len(frame) + 1)
    grounds = {name: joined(found) for name, found in layers.items()}
    journal = read_journal(run.folder(partial, run.grounds[0]))
    date = None if journal is None else str(journal["begun"])
    write_layers(folder / "landslides.gpkg", {"landslides": frame, **grounds}, date=date)
    return MapResult(
        out, len(frame), float(frame["area_m2"].sum()),
        float(grounds["observed"]["area_m2"].sum()) / 1e6, run.threshold, 0.0,
    )  # fmt: skip


def _finish_scene(
    run: MapRun, ground: Ground, partial: Path, folder: Path
) -> tuple[gpd.GeoDataFrame, dict[str, gpd.GeoDataFrame]]:
    """Rasters and picture of one scene; its landslides and what was seen of it."""
    from landslip.mapping.pictures import write_quicklook
    from landslip.prepare.pictures import reduced

    own = folder if len(run.grounds) == 1 else folder / ground.name
    own.mkdir(exist_ok=True)
    bands = run.cards[0].required_bands
    rasters = [name for name in run.planes if name != "ground"]
    for name in rasters:
        _describe(run, partial / f"{name}.tif")
    with ThreadPoolExecutor(thread_name_prefix="landslip") as pool:
        cogs = [
            pool.submit(_write_cog, partial / f"{name}.tif", own / f"{name}.tif")
            for name in rasters
        ]
        picture = pool.submit(reduced, ground.scene, bands=bands)
        seen = pool.submit(ground_layers, partial / "ground.tif")
        with closing(FileScene(str(partial / "probability.tif"), {"probability": 1})) as result:
            polygons = landslide_polygons(
                result, run.threshold, outline=run.options.outline,
                min_area_m2=run.options.min_area_m2,
            )  # fmt: skip
            frame = with_attributes(polygons, result)
        frame = frame[frame["area_m2"] >= run.options.min_area_m2].reset_index(drop=True)
        frame.insert(1, "scene", ground.name)
        title = f"{len(frame)} landslides by {run.model_names} at {run.threshold:.2f}"
        write_quicklook(
            own / "quicklook.png", ground.scene, picture.result(), frame.geometry, title
        )
        layers = seen.result()
        for cog in cogs:
            cog.result()
    for layer in layers.values():
        layer.insert(0, "scene", ground.name)
    return frame, layers


def _describe(run: MapRun, plain: Path) -> None:
    """Say in a raster what its numbers are."""
    tags = {
        "LANDSLIP_THRESHOLD": repr(run.threshold),
        "LANDSLIP_MODEL": run.model_names,
        "LANDSLIP_VERSION": __version__,
    }
    with rasterio.open(plain, "r+") as file:
        if not run.options.as_float:
            file.scales = (1 / TOP_CODE,)
        file.update_tags(**tags)


def _write_cog(plain: Path, out: Path) -> None:
    # Opening the COG driver for writing would hold the whole raster in memory; copying does not.
    rasterio.shutil.copy(
        plain, out, driver="COG", compress="deflate", overview_resampling="average",
        bigtiff="if_safer", num_threads=default_threads(),
    )  # fmt: skip


def record(run: MapRun, partial: Path, result: MapResult) -> dict[str, Any]:
    """What `run.json` says."""
    journal = read_journal(run.folder(partial, run.grounds[0])) or {}
    return {
        "landslip": __version__,
        "torch": version("torch"),
        "begun": journal.get("begun"),
        "compute": run.compute_text,
        "layout": journal.get("layout"),
        "models": run.model_records,
        "scenes": [
            {
                "name": ground.name,
                "sources": ground.sources,
                "grid": grid_record(ground.scene.grid),
                "scaling": [chosen.record() for chosen in ground.scalings],
                "missing_bands": list(ground.missing),
            }
            for ground in run.grounds
        ],
        "options": {
            **json.loads(json.dumps(asdict(run.options), default=str)),
            "threshold": result.threshold,
        },
        "result": {
            "landslides": result.landslides,
            "area_m2": round(result.area_m2, 1),
            "observed_km2": round(result.observed_km2, 6),
        },
        "seconds": round(result.seconds, 2),
        "peak_memory_bytes": peak_memory_bytes(),
    }
