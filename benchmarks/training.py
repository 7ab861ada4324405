"""What training costs: a step beside a plain loop, and an epoch of the paper's size on a GPU.

Needs the data folder named by LANDSLIP_DATA.

`steps` times a step beside a plain float32 loop as in the paper authors' code. Both loops train
`resunet` with the recipe `paper` on the 600 px tiles of the Tianshui strip; they take turns of a
few steps, so that a busy machine is busy for both, each in a process of its own, as one would
inherit what the other has allocated. The plain loop reads a batch, computes it in float32 in the
usual memory order, and reads the next one.

`epochs` trains `resunet` with the recipe `paper` on 1,156 tiles of 600 px (the paper has 1,154),
cut from the strip repeated, and tells seconds and tiles a second with the scoring of 34 validation
tiles, and the share of time in which the device waited for tiles. The first epoch reads the tiles
from the disk and is not counted.

    python benchmarks/training.py steps --turns 3 --steps 3 --batch 1
    python benchmarks/training.py epochs --batches 5 16 32
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import rasterio
import torch

import landslip
from accuracy import tiles_of
from landslip.geo.parallel import default_memory_bytes
from landslip.learn.allocation import freed_memory_kept
from landslip.learn.batches import Batch, TrainingGround
from landslip.learn.device import Compute
from landslip.learn.losses import bce
from landslip.learn.models import build_model
from landslip.learn.train import _default_workers
from landslip.prepare.scaling import Scaling
from landslip.prepare.tile_set import TileSet
from mapping import WORK, repeated_scene
from runs import keep

RESULTS = Path("experiments/training.json")
SIDE_PX = 600
"""Of the paper's tiles."""


def sgd(network: torch.nn.Module) -> torch.optim.SGD:
    """The paper's optimizer."""
    return torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-5)


def plain_loop(tiles: TileSet, batch: int) -> Callable[[], None]:
    """One step: read, divide by 255, forward, sigmoid and BCE, backward, step."""
    network = build_model("resunet", 3).train()
    optimizer = sgd(network)
    chosen = iter(tiles.of("train") * 100)

    def step() -> None:
        images, labels = [], []
        for _ in range(batch):
            raster, truth = tiles.read(next(chosen))
            images.append(raster.values.astype(np.float32) / 255)
            labels.append(truth.astype(np.float32))
        optimizer.zero_grad()
        scores = network(torch.from_numpy(np.stack(images))).sigmoid()[:, 0]
        loss = torch.nn.functional.binary_cross_entropy(scores, torch.from_numpy(np.stack(labels)))
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def our_loop(tiles: TileSet, batch: int, compute: Compute) -> Callable[[], None]:
    """One step of `landslip train`, without what an epoch needs."""
    network = compute.place(build_model("resunet", 3)).train()
    optimizer = sgd(network)
    ground = TrainingGround(
        tiles=tuple((tiles, tile) for tile in tiles.of("train")),
        scaling=Scaling(tuple((band, 0.0, 255.0) for band in tiles.bands)),
        crop=600,
        recipe=landslip.recipe_named("paper", {"batch": batch}),
        seed=0,
        cache_bytes=default_memory_bytes() // 4,
    )

    def endless() -> Iterator[Batch]:
        for epoch in range(10_000):
            yield from ground.batches(epoch, workers=_default_workers(compute))

    coming = endless()

    def step() -> None:
        samples = next(coming)
        with compute.autocast():
            logits = network(compute.send(samples.images))
        loss = bce(logits, samples.labels.to(compute.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def one_turn(name: str, steps: int, batch: int, compute: Compute) -> list[float]:
    """Seconds of some steps of a loop, after one that warms up."""
    tiles = TileSet.open(tiles_of("tianshui"))
    seconds = []
    with freed_memory_kept() if name == "landslip" else nullcontext():
        step = plain_loop(tiles, batch) if name == "plain" else our_loop(tiles, batch, compute)
        step()
        for _ in range(steps):
            begun = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begun)
    return seconds


def epochs(side: int, batches: list[int], number: int) -> None:
    """Train for a few epochs with each batch, and keep what they took."""
    scene, labels = repeated_scene(SIDE_PX * side, SIDE_PX * (side + 2)), WORK / "labels.tif"
    with rasterio.open(Path(os.environ["LANDSLIP_DATA"]) / "tianshui" / "labels.tif") as strip:
        height, width = SIDE_PX * side, SIDE_PX * (side + 2)
        plane = np.tile(strip.read(1), (side, -(-width // strip.width)))[:, :width]
        profile = strip.profile | {"height": height, "width": width, "compress": "deflate"}
        with rasterio.open(labels, "w", **profile) as out:
            out.write(plane, 1)
    split = f"columns:{SIDE_PX * side},{SIDE_PX * (side + 1)}"
    tiling = landslip.TileOptions(size=SIDE_PX, stride=SIDE_PX, gap=0, split=split)
    for batch in batches:
        out_file = WORK / f"epochs_{side}_{batch}_{number}.safetensors"
        recipe = landslip.recipe_named("paper", {"epochs": number, "batch": batch})
        options = landslip.TrainOptions(model="resunet", recipe=recipe)
        landslip.train_on_scene(
            scene, labels, out_file, tiling=tiling, options=options, overwrite=True
        )
        with out_file.with_suffix(".history.csv").open() as file:
            rows = list(csv.DictReader(file))[1:]
        seconds = statistics.median(float(row["seconds"]) for row in rows)
        waited = statistics.median(float(row["waited_s"]) for row in rows)
        compute = Compute.choose()
        record = {
            "tiles": side * side,
            "seconds_an_epoch": round(seconds, 2),
            "tiles_a_second": round(side * side / seconds, 1),
            "waited_share": round(waited / seconds, 3),
            "minutes_of_200_epochs": round(200 * seconds / 60, 1),
            "epochs": len(rows),
            "compute": compute.text,
        }
        keep(
            RESULTS,
            f"epochs of resunet, {side * side} tiles, batch {batch}, {compute.text}",
            record,
        )
        print(json.dumps(record, indent=1), flush=True)


def main() -> None:
    """Time both loops in turns and keep the medians, or time epochs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    steps = verbs.add_parser("steps", help="beside a plain loop")
    steps.add_argument("--turns", type=int, default=3)
    steps.add_argument("--steps", type=int, default=3, help="of each turn, after one that warms")
    steps.add_argument("--batch", type=int, default=1)
    steps.add_argument("--only", choices=("plain", "landslip"), help="one turn of one loop")
    whole = verbs.add_parser("epochs", help="of the paper's size")
    whole.add_argument("--side", type=int, default=34, help="tiles along a side of the ground")
    whole.add_argument("--batches", type=int, nargs="+", default=[5])
    whole.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    if asked.verb == "epochs":
        epochs(asked.side, asked.batches, asked.epochs)
        return
    compute = Compute.choose()
    if asked.only:
        print(json.dumps(one_turn(asked.only, asked.steps, asked.batch, compute)))
        return
    seconds: dict[str, list[float]] = {"plain": [], "landslip": []}
    for _ in range(asked.turns):
        for name, measured in seconds.items():
            command = [sys.executable, *sys.argv, "--only", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured += json.loads(done.stdout.splitlines()[-1])
    medians = {name: round(statistics.median(each), 3) for name, each in seconds.items()}
    record = {
        "seconds_a_step": medians,
        "times_as_fast": round(medians["plain"] / medians["landslip"], 2),
        "steps": asked.turns * asked.steps,
        "batch": asked.batch,
        "compute": compute.text,
    }
    keep(RESULTS, f"resunet, batch {asked.batch}, {compute.text}", record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
