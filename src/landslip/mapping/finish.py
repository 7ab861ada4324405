"""From the rasters of an unfinished map to the files that users get."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio.shutil

from landslip import __version__
from landslip.geo.inventory import frame_crs
from landslip.geo.parallel import default_threads, peak_memory_bytes
from landslip.geo.probability import TOP_CODE
from landslip.geo.styles import ramp_style
from landslip.inventory.delineate import Delineation
from landslip.inventory.geopackage import Inventory
from landslip.inventory.ground import GroundFile, ground_layers
from landslip.inventory.pixels import ProbabilityFile
from landslip.inventory.sheet import write_sheet
from landslip.mapping.options import MapResult
from landslip.mapping.run import Ground, MapRun, grid_record
from landslip.mapping.unfinished import read_journal

if TYPE_CHECKING:
    import geopandas as gpd


PROBABLE = {
    0.0: (255, 255, 212, 0), 0.25: (254, 217, 118, 110), 0.5: (253, 141, 60, 200),
    0.75: (227, 26, 28, 230), 1.0: (128, 0, 38, 255),
}  # fmt: skip
"""Colours of `probability.tif`: clear where there is no landslide."""
UNCERTAIN = {0.0: (247, 252, 253, 0), 0.25: (140, 107, 177, 200), 0.5: (77, 0, 75, 255)}
"""Colours of `uncertainty.tif`."""


def finish(run: MapRun, partial: Path, folder: Path, out: Path) -> MapResult:
    """From the rasters of the unfinished map to the files of a finished one."""
    import geopandas as gpd
    import pandas as pd

    journal = read_journal(run.folder(partial, run.grounds[0]))
    inventory = Inventory(
        folder / "landslides.gpkg",
        crs=frame_crs(run.grounds[0].scene.grid),
        date=None if journal is None else str(journal["begun"]),
    )
    seen = [
        finish_scene(
            run, ground, run.folder(partial, ground), folder, inventory, run.delineation(ground)
        )
        for ground in run.grounds
    ]
    layers = {}
    for name in seen[0]:
        placed = [inventory.placed(layer[name]) for layer in seen]
        filled = [layer for layer in placed if len(layer)] or placed[:1]
        layers[name] = gpd.GeoDataFrame(pd.concat(filled, ignore_index=True))
    inventory.write(layers)
    inventory.style()
    write_sheet(inventory.path, folder / "inventory.html", title=f"Landslides of {out.name}")
    observed_km2 = float(layers["observed"]["area_m2"].sum()) / 1e6
    return MapResult(**vars(inventory.result(out, observed_km2, run.threshold)), seconds=0.0)


def finish_scene(
    run: MapRun,
    ground: Ground,
    partial: Path,
    folder: Path,
    inventory: Inventory,
    delineation: Delineation,
) -> dict[str, gpd.GeoDataFrame]:
    """Rasters, landslides and picture of one scene; what was seen of it."""
    from landslip.mapping.pictures import write_quicklook
    from landslip.prepare.pictures import reduced, thinned

    own = folder if len(run.grounds) == 1 else folder / ground.name
    own.mkdir(exist_ok=True)
    bands = run.cards[0].required_bands
    rasters = [name for name in run.planes if name != "ground"]
    for name in rasters:
        _describe(run, ground, partial / f"{name}.tif")
    with ThreadPoolExecutor(thread_name_prefix="landslip") as pool:
        cogs = [
            pool.submit(_write_cog, partial / f"{name}.tif", own / f"{name}.tif")
            for name in rasters
        ]
        picture = pool.submit(reduced, ground.scene, bands=bands)
        lines, before = [], inventory.landslides
        with (
            closing(ProbabilityFile(partial / "probability.tif")) as probability,
            closing(GroundFile(partial / "ground.tif")) as codes,
            closing(delineation),
        ):
            seen = pool.submit(ground_layers, codes)
            for group in delineation.groups(probability, codes):
                kept = inventory.add(group, delineation, scene=ground.name)
                outlines = group.landslides.geometry.to_numpy()[kept]
                lines += thinned(outlines, ground.scene.grid)
            layers = seen.result()
        number = inventory.landslides - before
        title = f"{number} landslides by {run.model_names} at {run.threshold:.2f}"
        write_quicklook(own / "quicklook.png", ground.scene, picture.result(), lines, title)
        for cog in cogs:
            cog.result()
    for name in rasters:
        style = ramp_style(UNCERTAIN if name == "uncertainty" else PROBABLE)
        (own / f"{name}.qml").write_text(style, encoding="utf-8")
    for layer in layers.values():
        layer.insert(0, "scene", ground.name)
    return layers


def _describe(run: MapRun, ground: Ground, plain: Path) -> None:
    """Say in a raster what its numbers are."""
    tags = {
        "LANDSLIP_THRESHOLD": repr(run.threshold),
        "LANDSLIP_MODEL": run.model_names,
        "LANDSLIP_SCENE": ground.name,
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
