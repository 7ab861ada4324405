"""Tianshui strip: the paper's networks and recipe, from scene and polygons to a table of scores.

Needs the data folder named by LANDSLIP_DATA. Ground is split by columns: 0-3600 to train, 3600-4200
to choose, 4200-5400 to test. Every finished step is kept in the work folder, and the figures of
finished runs in `experiments/tianshui.json`.

    python benchmarks/tianshui.py --model resunet --epochs 15 --drop-every 10
    python benchmarks/tianshui.py --model unet --epochs 6 --drop-every 5
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import landslip
from landslip.geo.inventory import write_layers
from landslip.geo.raster import FileScene

TEST_COLUMNS = (4200, 5400)


def write_test_area(scene: Path, path: Path) -> Path:
    """Write the polygon of the test columns."""
    import geopandas as gpd

    grid = FileScene.open(scene).grid
    start, stop = TEST_COLUMNS
    ground = grid.crop(landslip.Window(0, start, grid.height, stop - start)).footprint()
    path.unlink(missing_ok=True)
    write_layers(path, {"test": gpd.GeoDataFrame(geometry=[ground], crs=grid.crs)})
    return path


def training_seconds(model: Path) -> float:
    """Wall time of the epochs, from the history beside the model."""
    with model.with_suffix(".history.csv").open() as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def main() -> None:
    """Tile, train, map the test part, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--drop-every", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("local/tianshui"))
    parser.add_argument("--results", type=Path, default=Path("experiments/tianshui.json"))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("landslip").setLevel(logging.INFO)
    data = Path(os.environ["LANDSLIP_DATA"]) / "tianshui"
    scene, inventory, work = data / "scene.tif", data / "landslides.gpkg", asked.work
    work.mkdir(parents=True, exist_ok=True)

    found = landslip.check_scene(scene, inventory=inventory)
    (work / "check.json").write_text(found.to_json())
    tiles = work / "tiles"
    if not tiles.exists():
        options = landslip.TileOptions(size=600, stride=100, split="columns:3600,4200")
        landslip.make_tiles(scene, inventory, tiles, options=options)
    name = f"{asked.model}_e{asked.epochs}_b{asked.batch}_s{asked.seed}"
    model = work / f"{name}.safetensors"
    if not model.exists():
        recipe = replace(
            landslip.recipe_named("paper"),
            epochs=asked.epochs,
            drop_every=asked.drop_every,
            batch=asked.batch,
        )
        options_ = landslip.TrainOptions(model=asked.model, recipe=recipe, seed=asked.seed)
        landslip.train_model([tiles], model, options=options_)
    card = landslip.load_card(model)
    test = write_test_area(scene, work / "test.gpkg")
    mapped = work / name
    if not mapped.exists():
        landslip.map_scene(landslip.open_scene(scene, aoi=test), model, mapped)
    scored = landslip.evaluate(
        [mapped / "probability.tif"], inventory, aoi=test, out=work / f"{name}_scores",
        overwrite=True,
    )  # fmt: skip

    results = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    counts = scored.predictions[0].pixels
    results[name] = {
        "network": asked.model,
        "recipe": card.training["recipe"],
        "seed": asked.seed,
        "best_epoch": card.training["best_epoch"],
        "compute": card.training["compute"],
        "training_seconds": round(training_seconds(model), 1),
        "threshold": round(card.threshold, 4),
        "validation": card.scores["validation"],
        "test": {
            key: round(getattr(counts, key), 4) for key in ("precision", "recall", "f1", "iou")
        },
        "test_landslide_share": round(counts.landslide_share, 4),
        "landslip": landslip.__version__,
    }
    asked.results.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    print("| run | training | precision | recall | F1 | IoU |")
    print("|---|---|---|---|---|---|")
    for run, kept in sorted(results.items()):
        cells = " | ".join(
            f"{kept['test'][key]:.3f}" for key in ("precision", "recall", "f1", "iou")
        )
        print(f"| {run} | {kept['training_seconds'] / 60:.0f} min | {cells} |")


if __name__ == "__main__":
    main()
