"""The whole chain on other real data: a scene in degrees, and two folders of pictures and masks.

Needs the data folder named by LANDSLIP_DATA. Trainings are short, with `unet-small` and the recipe
`quick`: the figures show that the chain works, not what a network can reach. They are kept in
`experiments/chains.json`.

    python benchmarks/chains.py iburi bijie landslide4sense
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path

import numpy as np
import shapely

import landslip
from landslip.geo.grid import WGS84
from landslip.geo.inventory import write_layers
from landslip.geo.raster import FileScene

EPOCHS = {"iburi": 60, "bijie": 2, "landslide4sense": 5}
Record = dict[str, object]


def options_for(name: str, bands: tuple[str, ...] | None = None) -> landslip.TrainOptions:
    """A short training of the small network."""
    recipe = landslip.recipe_named("modern", {"epochs": EPOCHS[name]})
    return landslip.TrainOptions(model="unet-small", recipe=recipe, bands=bands)


def scores_of(counts: landslip.Counts) -> Record:
    """Scores for the record."""
    keys = ("precision", "recall", "f1", "iou", "landslide_share")
    return {key: round(float(getattr(counts, key)), 4) for key in keys}


def folder(name: str, data: Path, work: Path) -> Record:
    """Pictures and masks as a tile set, a training, scores of the test split."""
    pixel_size_m = 0.8 if name == "bijie" else 10.0
    tiles = work / "tiles"
    if not tiles.exists():
        landslip.tiles_from_folder(
            data / name, tiles, bands=["red", "green", "blue"], pixel_size_m=pixel_size_m
        )
    model = work / "model.safetensors"
    if not model.exists():
        landslip.train_model([tiles], model, options=options_for(name))
    counts = landslip.score_model(model, tiles).counts(landslip.load_card(model).threshold)
    return {"test": scores_of(counts)}


def iburi(data: Path, work: Path) -> Record:
    """A 16-bit scene in degrees with a terrain model: check, tile, train, map, evaluate."""
    import geopandas as gpd

    folder_ = data / "iburi"
    labels = folder_ / "labels.tif"
    scene = landslip.open_scene(folder_ / "post.tif", sensor="sentinel-2", dem=folder_ / "dsm.tif")
    found = landslip.check_scene(scene, inventory=labels)
    tiles = work / "tiles"
    if not tiles.exists():
        options = landslip.TileOptions(size=128, stride=64)
        landslip.make_tiles(scene, labels, tiles, options=options)
    model = work / "model.safetensors"
    if not model.exists():
        bands = ("red", "green", "blue", "slope")
        landslip.train_model([tiles], model, options=options_for("iburi", bands))
    mapped = work / "map"
    if not mapped.exists():
        landslip.map_scene(scene, model, mapped)
    tested = [
        scene.grid.crop(tile.window).footprint()
        for tile in landslip.TileSet.open(tiles).of("test")
        if tile.window
    ]
    test = work / "test.gpkg"
    test.unlink(missing_ok=True)
    ground = gpd.GeoDataFrame(geometry=[shapely.union_all(tested)], crs=scene.grid.crs)
    write_layers(test, {"test": ground})
    scored = landslip.evaluate(
        [mapped / "probability.tif"], labels, aoi=test, out=work / "scores", overwrite=True
    )
    polygons = gpd.read_file(mapped / "landslides.gpkg", layer="landslides")
    geodesic = sum(abs(WGS84.geometry_area_perimeter(shape)[0]) for shape in polygons.geometry)
    return {
        "test": scores_of(scored.predictions[0].pixels),
        "scene_km2": round(found.area_km2, 3),
        "pixel_area_m2": round(float(scene.grid.pixel_area_m2(scene.grid.height // 2)), 4),
        "label_area_by_pixels_over_geodesic": round(label_area_ratio(labels), 6),
        "polygon_area_over_geodesic": round(float(polygons.area_m2.sum()) / geodesic, 6),
    }


def label_area_ratio(labels: Path) -> float:
    """Area of the landslide labels by pixel areas, over their geodesic area as polygons."""
    from landslip.inventory.outlines import pixel_polygons, to_crs

    scene = FileScene(str(labels), {"label": 1})
    raster = scene.read(scene.grid.window, ["label"])
    marked = (raster.values[0] == 1) & raster.valid
    rows = np.arange(scene.grid.height)
    by_pixels = float((marked.sum(axis=1) * scene.grid.pixel_area_m2(rows)).sum())
    polygons = to_crs(pixel_polygons(marked.astype(np.uint8), 0, 0)[1], scene.grid)
    geodesic = sum(abs(WGS84.geometry_area_perimeter(shape)[0]) for shape in polygons)
    return by_pixels / geodesic


def main() -> None:
    """Run the chains that are named and keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(EPOCHS))
    parser.add_argument("--work", type=Path, default=Path("local/chains"))
    parser.add_argument("--results", type=Path, default=Path("experiments/chains.json"))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("landslip").setLevel(logging.INFO)
    data = Path(os.environ["LANDSLIP_DATA"])
    results = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for name in asked.names:
        work = asked.work / name
        work.mkdir(parents=True, exist_ok=True)
        found = iburi(data, work) if name == "iburi" else folder(name, data, work)
        card = landslip.load_card(work / "model.safetensors")
        results[name] = found | {
            "epochs": EPOCHS[name],
            "validation": card.scores["validation"],
            "threshold": round(card.threshold, 4),
            "compute": card.training["compute"],
        }
        asked.results.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
        print(json.dumps({name: results[name]}, indent=2))


if __name__ == "__main__":
    main()
