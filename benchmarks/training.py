"""What a step of training costs, beside a plain float32 loop as in the paper authors' code.

Needs the data folder named by LANDSLIP_DATA. Both loops train `resunet` with the recipe `paper` on
the 600 px tiles of the Tianshui strip; they take turns of a few steps, so that a busy machine is
busy for both, each in a process of its own, as one would inherit what the other has allocated. The
plain loop reads a batch, computes it in float32 in the usual memory order, and reads the next one.

    python benchmarks/training.py --turns 3 --steps 3 --batch 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
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

RESULTS = Path("experiments/training.json")


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


def main() -> None:
    """Time both loops in turns and keep the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="of each turn, after one that warms")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only", choices=("plain", "landslip"), help="one turn of one loop")
    asked = parser.parse_args()
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
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[f"resunet, batch {asked.batch}, {compute.text}"] = record
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
