"""How well networks and recipes do on ground that they have not seen.

Needs the data folder named by LANDSLIP_DATA. A run is a data set, a network, a recipe with its
changed settings, and a seed. Finished runs are kept in `experiments/accuracy.json` and never
repeated; a run that was stopped goes on. Settings are chosen by the scores on validation; those on
test, which `table` shows, are for the report.

    python benchmarks/accuracy.py run bijie --model resunet --recipe paper --set epochs=20
    python benchmarks/accuracy.py run landslide4sense --set epochs=15 --set ema=0
    python benchmarks/accuracy.py run iburi --use red,green,blue,slope --optional slope
    python benchmarks/accuracy.py table
    python benchmarks/accuracy.py choose landslide4sense
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import landslip
from landslip.learn.device import Compute
from landslip.learn.predict import score_model
from landslip.prepare.tile_set import TileSet
from runs import add_training, keep, name_of, parse, read_results, settings_of

RESULTS = Path("experiments/accuracy.json")
WORK = Path("local/accuracy")
FOLDERS = {"bijie": 0.8, "landslide4sense": 10.0}
"""Data sets that are pictures and masks, with their pixel size (m)."""
DATA_SETS = (*FOLDERS, "iburi", "tianshui")
RISING = 0.01
"""Gain in validation F1 over the last fifth above which a run was given too little."""
SCORES = ("precision", "recall", "f1", "iou")
Record = dict[str, Any]


def tiles_of(name: str) -> Path:
    """The tile set of a data set, made once."""
    tiles, data = WORK / "tiles" / name, Path(os.environ["LANDSLIP_DATA"]) / name
    if tiles.exists():
        return tiles
    tiles.parent.mkdir(parents=True, exist_ok=True)
    if name in FOLDERS:
        landslip.tiles_from_folder(
            data, tiles, bands=["red", "green", "blue"], pixel_size_m=FOLDERS[name]
        )
    elif name == "iburi":
        # All bands in one set, so that every choice of them has the same ground.
        stack = landslip.open_scene(
            data / "post.tif", sensor="sentinel-2", dem=data / "dsm.tif", pre=data / "pre.tif"
        )
        options = landslip.TileOptions(size=128, stride=64, gap=0)
        landslip.make_tiles(stack, data / "labels.tif", tiles, options=options)
    else:
        options = landslip.TileOptions(size=600, stride=100, split="columns:3600,4200")
        scene, inventory = data / "scene.tif", data / "landslides.gpkg"
        landslip.make_tiles(scene, inventory, tiles, options=options)
    return tiles


def run(data: str, recipe: str, changed: dict[str, str], options: landslip.TrainOptions) -> None:
    """Train and score, or say that it was done."""
    assert options.model is not None
    bands = {"use": options.bands, "optional": options.optional}
    shown = changed | {key: "+".join(value) for key, value in bands.items() if value}
    device = Compute.choose(options.device).device.type
    where = "" if device == "cpu" else f"_{device}"
    key = f"{name_of(data, options.model, recipe, changed=shown)}_seed{options.seed}{where}"
    if key in read_results(RESULTS):
        print(f"{key} is in {RESULTS}")
        return
    out = WORK / f"{key}.safetensors"
    tiles = tiles_of(data)
    spent = out.with_suffix(".processor_seconds")
    if not out.exists():
        begun = time.process_time()
        try:
            landslip.train_model([tiles], out, options=options)
        finally:
            before = float(spent.read_text()) if spent.exists() else 0.0
            spent.write_text(str(before + time.process_time() - begun))
    record = record_of(out) | {"data": data, "recipe": recipe, "changed": shown}
    if options.optional:
        record["test_without_optional"] = scores_without_optional(out, TileSet.open(tiles))
    keep(RESULTS, key, record)
    print(json.dumps({key: {k: v for k, v in record.items() if k != "settings"}}, indent=1))


def scores_without_optional(model: Path, tiles: TileSet) -> dict[str, float]:
    """Scores on test tiles that lack the optional bands."""
    card = landslip.load_card(model)
    units = dict(zip(tiles.bands, tiles.units, strict=True))
    bands = card.required_bands
    bare = replace(tiles, bands=bands, units=tuple(units[band] for band in bands), types=())
    counts = score_model(model, bare, split="test").counts(card.threshold)
    return {key: round(float(getattr(counts, key)), 6) for key in SCORES}


def record_of(out: Path) -> Record:
    """What a finished model tells, with its history."""
    card = landslip.load_card(out)
    with out.with_suffix(".history.csv").open() as file:
        rows = list(csv.DictReader(file))
    validation = [round(float(row["f1"]), 4) for row in rows]
    spent = out.with_suffix(".processor_seconds")
    return {
        "model": card.architecture,
        "settings": card.training["recipe"],
        "seed": card.training["seed"],
        "parameters": card.total_parameters,
        "epochs": len(rows),
        "best_epoch": card.training["best_epoch"],
        "seconds": round(sum(float(row["seconds"]) for row in rows), 1),
        "processor_seconds": round(float(spent.read_text())) if spent.exists() else None,
        "compute": card.training["compute"],
        "threshold": round(card.threshold, 4),
        "validation": card.scores["validation"],
        "test": card.scores["test"],
        "validation_f1": validation,
        "gain_of_last_fifth": gain_of_last_fifth(validation),
        "landslip": landslip.__version__,
    }


def gain_of_last_fifth(scores: list[float]) -> float:
    """How much the best score rose in the last fifth of the epochs."""
    cut = len(scores) - max(len(scores) // 5, 1)
    before = max((score for score in scores[:cut] if not math.isnan(score)), default=0.0)
    after = max((score for score in scores[cut:] if not math.isnan(score)), default=0.0)
    return round(max(after - before, 0.0), 4)


def grouped() -> dict[tuple[str, str, str, str, str], list[Record]]:
    """Runs that differ in their seed alone."""
    groups: dict[tuple[str, str, str, str, str], list[Record]] = defaultdict(list)
    for record in read_results(RESULTS).values():
        changed = ", ".join(f"{key} {value}" for key, value in sorted(record["changed"].items()))
        device = "CPU" if record["compute"].startswith("cpu") else record["compute"]
        groups[record["data"], record["model"], record["recipe"], changed, device].append(record)
    return groups


def spread(values: list[float]) -> str:
    """The mean, and the half range where there are several."""
    mean = statistics.fmean(values)
    return f"{mean:.3f}" + (f" ±{(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else "")


def spread_of_known(values: list[float | None]) -> str:
    """The mean of the values that are known."""
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.0f}" if known else "-"


def print_table(split: str, data: str | None) -> None:
    """A line a group: scores with mean and spread over seeds."""
    print("| data | network | recipe | changed | device | seeds | time (s) | processor (s) "
          "| parameters | validation F1 "
          f"| {split} precision | recall | F1 | IoU | still rising |")  # fmt: skip
    print("|" + "---|" * 15)
    for (name, model, recipe, changed, device), records in sorted(grouped().items()):
        if data not in (None, name):
            continue
        scores = [
            spread([record[split][key] if record[split][key] is not None else 0.0
                    for record in records])
            for key in SCORES
        ]  # fmt: skip
        cells = [
            name, f"`{model}`", recipe, changed, device, str(len(records)),
            f"{statistics.fmean([record['seconds'] for record in records]):.0f}",
            spread_of_known([record["processor_seconds"] for record in records]),
            f"{records[0]['parameters'] / 1e6:.1f} M",
            spread([record["validation"]["f1"] or 0.0 for record in records]),
            *scores,
            "yes" if any(record["gain_of_last_fifth"] > RISING for record in records) else "no",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Run one, or print what was run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run", help="train and score one")
    one.add_argument("data", choices=DATA_SETS)
    add_training(one)
    one.add_argument("--use", help="bands, by commas")
    one.add_argument("--optional", default="", help="of these, bands that may lack")
    table = verbs.add_parser("table", help="scores on test")
    choose = verbs.add_parser("choose", help="scores on validation")
    for each in (table, choose):
        each.add_argument("data", nargs="?", choices=DATA_SETS)
    asked, changed = parse(parser)
    if asked.verb == "run":
        options = landslip.TrainOptions(
            model=asked.model, recipe=settings_of(asked.recipe, changed), seed=asked.seed,
            bands=tuple(asked.use.split(",")) if asked.use else None,
            optional=tuple(asked.optional.split(",")) if asked.optional else (),
        )  # fmt: skip
        run(asked.data, asked.recipe, changed, options)
    else:
        print_table("test" if asked.verb == "table" else "validation", asked.data)


if __name__ == "__main__":
    main()
