"""How many landslides of each size are found on ground that was not seen: Tianshui in three folds.

Needs the data folder named by LANDSLIP_DATA. The strip is cut into three parts of 1,800 columns.
Each is mapped by a model that saw nothing of it: 600 columns beside it choose weights and
threshold, the rest trains. The three maps are joined, and every landslide is tested once. Finished
runs are kept in `experiments/folds.json`, with their counts by block of 50 m, so that two can be
compared.

    python benchmarks/folds.py run --model resunet --recipe paper --set epochs=15 --set batch=1
    python benchmarks/folds.py run --set epochs=12
    python benchmarks/folds.py compare FIRST SECOND
    python benchmarks/folds.py curve FIRST SECOND [--draw docs/images/small_landslides.png]
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

import landslip
from landslip.assess.objects import (
    SIZE_CLASSES_M2,
    ObjectComparison,
    SizeCounts,
    compare_objects,
    mapped_at,
    paired_difference,
)
from landslip.geo.grid import Grid, Window
from landslip.geo.raster import FileScene
from runs import add_training, keep, name_of, parse, read_results, settings_of

RESULTS = Path("experiments/folds.json")
WORK = Path("local/folds")
COLUMNS = 1800
"""Of a fold (px)."""
CHOOSING = ((1800, 2400), (3600, 4200), (3000, 3600))
"""Columns that choose, by fold."""
BLOCK_M = 50.0
THRESHOLDS = tuple(code / 254 for code in range(4, 254, 5))
"""Of the curves (probability)."""
SMALL = {"< 100 m2": (0,), "100-400 m2": (1,), "< 400 m2": (0, 1)}
"""Size classes by name."""


def data() -> Path:
    """The strip."""
    return Path(os.environ["LANDSLIP_DATA"]) / "tianshui"


def grid() -> Grid:
    """Its grid."""
    scene = landslip.open_scene(data() / "scene.tif")
    scene.close()
    return scene.grid


def tiles_of_fold(fold: int) -> Path:
    """The tile set whose training and choosing tiles lie outside the fold; made once."""
    folder = WORK / f"tiles{fold}"
    if folder.exists():
        return folder
    WORK.mkdir(parents=True, exist_ok=True)
    whole = grid()
    held_out, choosing = (fold * COLUMNS, (fold + 1) * COLUMNS), CHOOSING[fold]
    edges = sorted({0, whole.width, *held_out, *choosing})
    rows = []
    for left, right in pairwise(edges):
        side = "validation" if left == choosing[0] else "train"
        if not held_out[0] <= left < held_out[1]:
            window = Window(0, left, whole.height, right - left)
            rows.append((side, whole.crop(window).footprint()))
    sides, shapes = zip(*rows, strict=True)
    split = WORK / f"split{fold}.gpkg"
    gpd.GeoDataFrame({"split": sides}, geometry=list(shapes), crs=whole.crs).to_file(split)
    options = landslip.TileOptions(size=600, stride=100, split=str(split))
    landslip.make_tiles(data() / "scene.tif", data() / "landslides.gpkg", folder, options=options)
    return folder


def mapped_fold(fold: int, key: str, options: landslip.TrainOptions) -> NDArray[np.uint8]:
    """Yes and no on the fold, (rows, COLUMNS), by a model that did not see it."""
    model, folder = WORK / f"{key}_fold{fold}.safetensors", WORK / f"{key}_fold{fold}"
    if not model.exists():
        landslip.train_model([tiles_of_fold(fold)], model, options=options)
    if not folder.exists():
        landslip.map_scene(data() / "scene.tif", model, folder)
    return mapped_at(codes_of_fold(fold, key), landslip.load_card(model).threshold)


def codes_of_fold(fold: int, key: str) -> NDArray[np.uint8]:
    """Probability codes of a fold, (rows, COLUMNS), 255 = not observed."""
    codes = FileScene(str(WORK / f"{key}_fold{fold}" / "probability.tif"), {"probability": 1})
    read = codes.read(Window(0, fold * COLUMNS, codes.grid.height, COLUMNS), ["probability"])
    codes.close()
    plane: NDArray[np.uint8] = np.where(read.valid, read.values[0], 255).astype(np.uint8)
    return plane


def labels() -> NDArray[np.uint8]:
    """Landslides of the strip, drawn by hand."""
    scene = FileScene(str(data() / "labels.tif"), {"label": 1})
    truth: NDArray[np.uint8] = scene.read(scene.grid.window, ["label"]).values[0].astype(np.uint8)
    scene.close()
    return truth


def run(recipe: str, changed: dict[str, str], options: landslip.TrainOptions) -> None:
    """Train three times, join the maps, count."""
    assert options.model is not None
    key = f"{name_of(options.model, recipe, changed=changed)}_seed{options.seed}"
    if key in read_results(RESULTS):
        print(f"{key} is in {RESULTS}")
        return
    is_whole = not any((WORK / f"{key}_fold{fold}.safetensors").exists() for fold in range(3))
    begun = time.process_time()
    mapped = np.concatenate([mapped_fold(n, key, options) for n in range(3)], axis=1)
    truth = labels()
    found = compare_objects(mapped, truth, grid(), block_m=BLOCK_M)
    both = int(((mapped == 1) & (truth == 1)).sum())
    record = {
        # Of all three, or of none: a run that continues does not know what the first part took.
        "processor_seconds": round(time.process_time() - begun) if is_whole else None,
        "pixels": {
            "precision": round(both / max(int((mapped == 1).sum()), 1), 4),
            "recall": round(both / int((truth == 1).sum()), 4),
        },
        "counts": numbers_of(found.counts()),
        "blocks": [numbers_of(each) for each in found.by_blocks()],
    }
    keep(RESULTS, key, record, indent=None)
    show(key)


def show(key: str) -> None:
    """Counts by size."""
    record = read_results(RESULTS)[key]
    counts = counts_of(record["counts"])
    print(key, record["pixels"], f"{record['processor_seconds'] or '-'} processor s")
    lines = zip(SIZE_CLASSES_M2, counts.reference, counts.found, counts.recall, counts.predicted,
                counts.false_alarms_per_km2, strict=True)  # fmt: skip
    for (low, high), reference, found, recall, predicted, alarms in lines:
        print(f"  {low:g}-{high:g} m2: {found} of {reference} found ({recall:.2f}), {predicted} "
              f"mapped, {alarms:.1f} false alarms a km2")  # fmt: skip


def numbers_of(counts: SizeCounts) -> list[Any]:
    """Counts for the record."""
    return list(astuple(counts))


def counts_of(numbers: list[Any]) -> SizeCounts:
    """Counts from the record."""
    *by_size, km2 = numbers
    reference, found, predicted, false_alarms = map(tuple, by_size)
    return SizeCounts(reference, found, predicted, false_alarms, km2)


def compare(first: str, second: str) -> None:
    """What the second finds more of than the first."""
    results = read_results(RESULTS)
    one, two = ([counts_of(block) for block in results[key]["blocks"]] for key in (first, second))
    for name, sizes in SMALL.items():
        found = paired_difference(one, two, sizes=sizes)
        alarms = [sum((block.pooled(sizes) for block in blocks), SizeCounts((0,), (0,), (0,), (0,)))
                  .false_alarms_per_km2[0] for blocks in (one, two)]  # fmt: skip
        between = (
            found.why_no_interval
            if found.interval is None
            else (f"95 % interval {found.interval[0]:+.2f} to {found.interval[1]:+.2f}")
        )
        print(f"{name}: recall {found.difference:+.2f} of {found.landslides} landslides in "
              f"{found.blocks} blocks, {between}; false alarms a km2 {alarms[0]:.1f} and "
              f"{alarms[1]:.1f}")  # fmt: skip


def curve(first: str, second: str, out: Path | None) -> None:
    """Recall of small landslides against false alarms of their size, at every threshold.

    Prints what the second finds where it raises no more false alarms than the first does at the
    thresholds that validation chose.
    """
    truth, whole, points = labels(), grid(), {}
    for key in (first, second):
        codes = np.concatenate([codes_of_fold(fold, key) for fold in range(3)], axis=1)
        points[key] = [
            (at, compare_objects(mapped_at(codes, at), truth, whole, block_m=BLOCK_M))
            for at in THRESHOLDS
        ]
    record = read_results(RESULTS)[first]
    chosen = counts_of(record["counts"])
    blocks = [counts_of(block) for block in record["blocks"]]
    for name, sizes in SMALL.items():
        alarms = chosen.pooled(sizes).false_alarms[0]
        fits = [
            (at, found) for at, found in points[second]
            if found.counts().pooled(sizes).false_alarms[0] <= alarms
        ]  # fmt: skip
        at, found = max(fits, key=lambda each: each[1].counts().pooled(sizes).found[0])
        apart = paired_difference(blocks, found.by_blocks(), sizes=sizes)
        pooled = found.counts().pooled(sizes)
        print(f"{name}: at {at:.2f} the second finds {pooled.found[0]} of {pooled.reference[0]} "
              f"with {pooled.false_alarms[0]} false alarms, the first "
              f"{chosen.pooled(sizes).found[0]} with {alarms}; recall {apart.difference:+.2f}, "
              f"95 % interval {apart.interval}")  # fmt: skip
    if out is not None:
        draw_curve(points, out)


def draw_curve(points: dict[str, list[tuple[float, ObjectComparison]]], out: Path) -> None:
    """A panel a size class, a line a network, and its threshold from validation as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, sizes) in zip(panels, list(SMALL.items())[:2], strict=True):
        for key, colour in zip(points, ("#b25d1e", "#1e6fb2"), strict=True):
            pooled = [found.counts().pooled(sizes) for _, found in points[key]]
            chosen = counts_of(read_results(RESULTS)[key]["counts"]).pooled(sizes)
            label = key.split("_", 1)[0].replace("library-", "")
            alarms, recall = np.array(
                sorted((each.false_alarms_per_km2[0], each.recall[0]) for each in pooled)
            ).T
            # Thresholds join and split landslides: what is best at no more false alarms counts.
            axes.step(alarms, np.maximum.accumulate(recall), where="post", color=colour,
                      label=label)  # fmt: skip
            axes.plot(chosen.false_alarms_per_km2[0], chosen.recall[0], "o", color=colour)
        axes.set(title=name.replace("m2", "m²"), xlabel="false alarms of this size per km²",
                 xscale="log", xlim=(1, 1e4), ylim=(0, 1))  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("most recall at no more false alarms")
    panels[0].legend(frameon=False)
    figure.savefig(out, dpi=130)


def main() -> None:
    """Run one, show all, or compare two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run", help="train, map and count")
    add_training(one)
    verbs.add_parser("show", help="counts of all runs")
    both = verbs.add_parser("compare", help="two runs, paired")
    both.add_argument("first")
    both.add_argument("second")
    drawn = verbs.add_parser("curve", help="two runs at all thresholds")
    drawn.add_argument("first")
    drawn.add_argument("second")
    drawn.add_argument("--draw", type=Path)
    asked, changed = parse(parser)
    if asked.verb == "run":
        options = landslip.TrainOptions(
            model=asked.model, recipe=settings_of(asked.recipe, changed), seed=asked.seed
        )
        run(asked.recipe, changed, options)
    elif asked.verb == "show":
        for key in sorted(read_results(RESULTS)):
            show(key)
    elif asked.verb == "curve":
        curve(asked.first, asked.second, asked.draw)
    else:
        compare(asked.first, asked.second)


if __name__ == "__main__":
    main()
