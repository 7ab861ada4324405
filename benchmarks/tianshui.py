"""Tianshui strip: the paper's networks and recipe, from scene and polygons to a table of scores.

Needs the data folder named by LANDSLIP_DATA. Finished runs are kept as JSON in `experiments/`.

    python benchmarks/tianshui.py --model resunet --epochs 15 --drop-every 10
"""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import replace
from pathlib import Path

from landslip.learn.recipes import recipe_named
from landslip.learn.train import TrainOptions, train_model
from landslip.prepare.split import TileOptions
from landslip.prepare.tiles import TileSet, make_tiles


def main() -> None:
    """Tile, train, map the test part, evaluate; every finished step is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--drop-every", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("local/tianshui"))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("landslip").setLevel(logging.INFO)
    data = Path(os.environ["LANDSLIP_DATA"]) / "tianshui"
    work: Path = asked.work

    tiles = work / "tiles"
    if not tiles.exists():
        options = TileOptions(size=600, stride=100, split="columns:3600,4200")
        make_tiles(data / "scene.tif", data / "landslides.gpkg", tiles, options=options)

    model = work / f"{asked.model}_e{asked.epochs}_b{asked.batch}_s{asked.seed}.safetensors"
    if not model.exists():
        recipe = replace(
            recipe_named("paper"),
            epochs=asked.epochs,
            drop_every=asked.drop_every,
            batch=asked.batch,
        )
        options_ = TrainOptions(model=asked.model, recipe=recipe, seed=asked.seed)
        train_model([TileSet.open(tiles)], model, options=options_)


if __name__ == "__main__":
    main()
