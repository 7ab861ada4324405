"""What evaluation costs and says, how much a random split flatters, what calibration is worth.

Needs the data folder named by LANDSLIP_DATA, but for `speed`. Results are kept in
`experiments/evaluation.json`.

    python benchmarks/evaluation.py speed --height 33368 --width 22900
    python benchmarks/evaluation.py split --seeds 2 [--set epochs=20]
    python benchmarks/evaluation.py calibration MODEL
    python benchmarks/evaluation.py report bijie MODEL
    python benchmarks/evaluation.py pair bijie
    python benchmarks/evaluation.py tables
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

import landslip
from accuracy import DATA_SETS, tiles_of
from landslip.assess.blocks import paired_scores
from landslip.assess.evaluation import Evaluation
from landslip.assess.scores import PIXEL_SCORES, ScoreHistogram
from landslip.geo.grid import Grid
from landslip.geo.inventory import Area, write_layers
from landslip.geo.output import whole_file
from landslip.geo.probability import encode, threshold_code
from landslip.geo.raster import create_raster, rasterio_window
from landslip.geo.windows import cover
from landslip.learn.calibrate import calibrate_model
from landslip.learn.calibration import METHODS
from landslip.learn.predict import score_model, scored_tiles
from landslip.learn.tile_maps import evaluate_models
from landslip.prepare.tile_set import Tile, TileSet
from runs import add_settings, keep, name_of, parse, read_results, settings_of

RESULTS = Path("experiments/evaluation.json")
WORK = Path("local/evaluation")
SMALL = "library:linknet/tu-mobilenetv3_small_050"
FOLDS = 5
BLOCKS_M = {"iburi": 500.0, "tianshui": 50.0}
"""Sides of the blocks of the data sets that are scenes; elsewhere a tile is a block."""
NAMES = {
    "bijie": "Bijie", "landslide4sense": "Taitung", "iburi": "Iburi", "tianshui": "Tianshui",
    "precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU",
}  # fmt: skip
"""Of data sets and scores, for people."""
PAIR = ("unet", "resunet")
PAIR_MPX = 2.0
"""Ground that each of a pair is shown (million pixels), and most that chooses its weights."""
STARVED = {"crop": "128", "batch": "2", "ema": "0"}
"""Settings of the pairs, beside the epochs: many steps for so little ground."""
LANDSLIDES_A_PX = 17_515 / (33_368 * 22_900)
"""Of the paper's inventory."""
CHILD = """
import json, resource, sys, time
from landslip.assess import evaluate as module
spent = {"pixels": 0.0, "objects": 0.0}
def timed(name, function):
    def run(*args):
        begun = time.process_time()
        found = function(*args)
        spent[name] += time.process_time() - begun
        return found
    return run
counter = module._Counter
counter.add = timed("pixels", counter.add)
counter.add_objects = timed("objects", counter.add_objects)
begun, wall = time.process_time(), time.monotonic()
found = module.evaluate([sys.argv[1]], sys.argv[2], block_m=500)
counted = time.process_time() - begun
record = found.record()
spent |= {
    "objects": spent["objects"] + time.process_time() - begun - counted, "all": counted,
    "wall": time.monotonic() - wall,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    "mapped": len(found.predictions[0].objects.predicted.row),
    "reference": len(found.predictions[0].objects.reference.row),
}
print(json.dumps({key: round(value, 1) for key, value in spent.items()}))
"""


def made_up_map(height: int, width: int) -> tuple[Path, Path]:
    """A probability raster with as many landslides a pixel as the paper's, and its reference.

    Four fifths of them are mapped, a few metres off, with rough edges and false alarms.
    """
    folder = WORK / f"{height}x{width}"
    path, reference = folder / "map.tif", folder / "reference.gpkg"
    if path.exists():
        return path, reference
    import geopandas as gpd

    random = np.random.default_rng(0)
    number = round(LANDSLIDES_A_PX * height * width)
    grid = Grid(CRS.from_epsg(32648), Affine(0.5, 0, 5e5, 0, -0.5, 3.8e6), height, width)
    radius = np.exp(random.normal(2.2, 0.6, number))
    x = random.uniform(0, width, number) * 0.5 + 5e5
    y = 3.8e6 - random.uniform(0, height, number) * 0.5
    slides = [
        shapely.affinity.rotate(
            shapely.affinity.scale(shapely.Point(a, b).buffer(r, quad_segs=6), 1, 2), turn
        )
        for a, b, r, turn in zip(x, y, radius, random.uniform(0, 180, number), strict=True)
    ]
    moved = [
        shapely.affinity.translate(each, *(3 * random.normal(size=2)))
        for each in slides if random.random() < 0.8
    ]  # fmt: skip
    write_layers(
        _folder(folder) / reference.name,
        {"landslides": gpd.GeoDataFrame(geometry=slides, crs=32648)},
    )
    area = Area(np.array(moved, dtype=object), grid)
    with (
        whole_file(path) as partial,
        create_raster(partial, grid, bands=["probability"], dtype="uint8", nodata=255) as out,
    ):
        out.scales = (1 / 254,)
        out.update_tags(LANDSLIP_THRESHOLD="0.5")
        for window in cover(grid, 512, width):
            inside = area.read(window)
            codes = random.integers(0, 120, inside.shape, dtype=np.uint8)
            codes[inside] = random.integers(120, 255, int(inside.sum()), dtype=np.uint8)
            # One pixel in 10,000 is a false alarm.
            codes[random.random(inside.shape, dtype=np.float32) < 1e-4] = 200
            out.write(np.minimum(codes, 254), 1, window=rasterio_window(window))
    return path, reference


def _folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def speed(height: int, width: int) -> dict[str, Any]:
    """Processor seconds for pixels and objects, and memory, in a process of its own, one thread."""
    path, reference = made_up_map(height, width)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GDAL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(reference)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def iburi_tiles() -> TileSet:
    """Tiles of Iburi, 128 px, that do not overlap; most of each is labelled."""
    folder = WORK / "iburi"
    if not folder.exists():
        data = Path(os.environ["LANDSLIP_DATA"]) / "iburi"
        scene = landslip.open_scene(data / "post.tif", sensor="sentinel-2")
        options = landslip.TileOptions(size=128, stride=128, gap=0)
        _folder(WORK)
        landslip.make_tiles(scene, data / "labels.tif", folder, options=options)
    whole = TileSet.open(folder)
    return replace(whole, tiles=tuple(tile for tile in whole.tiles if tile.valid_share > 0.5))


def folds_of(tiles: TileSet, kind: str, seed: int) -> list[int]:
    """In which of five folds every tile is: drawn at random, or neighbours together."""
    number = len(tiles.tiles)
    fold_of = np.arange(number) * FOLDS // number
    if kind == "random":
        return [int(fold) for fold in np.random.default_rng(seed).permutation(fold_of)]
    windows = [tile.window for tile in tiles.tiles]
    assert all(window is not None for window in windows)
    places = np.array([(window.col, window.row) for window in windows if window is not None])
    # Columns of tiles from the left, down and up by turns, so that a fold hangs together.
    col = places[:, 0] // 128
    row = np.where(col % 2 == 0, places[:, 1], -places[:, 1])
    order = np.lexsort((row, col))
    found = np.empty(number, dtype=int)
    found[order] = fold_of
    return [int(fold) for fold in found]


def split(seeds: int, changed: dict[str, str]) -> dict[str, Any]:
    """Five folds of the same tiles, at random and by place: every tile is tested once in each."""
    tiles = iburi_tiles()
    counts = {kind: np.zeros((len(tiles.tiles), 3), np.int64) for kind in ("blocks", "random")}
    by_seed: dict[str, list[float]] = {kind: [] for kind in counts}
    score = PIXEL_SCORES["f1"]
    for seed in range(seeds):
        for kind, total in counts.items():
            own = np.zeros_like(total)
            folds = folds_of(tiles, kind, seed)
            for fold in range(FOLDS):
                sides = {fold: "test", (fold + 1) % FOLDS: "validation"}
                drawn = replace(
                    tiles,
                    tiles=tuple(
                        replace(tile, split=sides.get(number, "train"))
                        for tile, number in zip(tiles.tiles, folds, strict=True)
                    ),
                )
                name = f"{name_of('iburi', kind, changed=changed)}_seed{seed}_fold{fold}"
                model = WORK / f"{name}.safetensors"
                if not model.exists():
                    recipe = settings_of("modern", changed)
                    options = landslip.TrainOptions(model=SMALL, recipe=recipe, seed=seed)
                    landslip.train_model([drawn], model, options=options)
                cut = threshold_code(landslip.load_card(model).threshold)
                tested = [number for number, side in enumerate(folds) if side == fold]
                found = scored_tiles(model, drawn, split="test")
                for number, (scores, labels) in zip(tested, found, strict=True):
                    mapped = encode(scores) >= cut
                    own[number] = [
                        (mapped & (labels == 1)).sum(), (mapped & (labels == 0)).sum(),
                        (~mapped & (labels == 1)).sum(),
                    ]  # fmt: skip
            by_seed[kind].append(round(float(score(own.sum(axis=0).astype(float))), 4))
            total += own
    holds = (counts["blocks"] + counts["random"]).any(axis=1)
    told = paired_scores(counts["blocks"][holds], counts["random"][holds], score)
    assert told.interval is not None
    return {
        "f1": by_seed,
        "mean": {kind: round(statistics.fmean(found), 4) for kind, found in by_seed.items()},
        "random_flatters_by": round(told.difference, 4),
        "interval": [round(told.interval.low, 4), round(told.interval.high, 4)],
        "p": told.p,
        "tiles": len(tiles.tiles),
        "tiles_that_tell": int(holds.sum()),
    }


def calibration(model: str) -> dict[str, Any]:
    """Calibration error and Brier score before and after: validation, test, and another event."""
    tiles = Path("local/accuracy/tiles/landslide4sense")
    elsewhere = iburi_tiles()
    found: dict[str, Any] = {}
    for method in METHODS:
        out = WORK / f"{Path(model).stem}_{method}.safetensors"
        told = calibrate_model(
            model, tiles, _folder(WORK) / out.name, method=method, overwrite=True
        )
        found[method] = {
            each.split: {
                "error": [round(each.error_before, 4), round(each.error_after, 4)],
                "brier": [round(each.brier_before, 4), round(each.brier_after, 4)],
            }
            for each in told
        }
        histograms = [all_tiles(path, elsewhere) for path in (model, out)]
        found[method]["iburi"] = {
            "error": [round(each.calibration_error(), 4) for each in histograms],
            "brier": [round(each.brier(), 4) for each in histograms],
            "wrong_where_sure": [round(wrong_where_sure(each), 4) for each in histograms],
        }
    return found


def all_tiles(model: str | Path, tiles: TileSet) -> ScoreHistogram:
    """What a model says of all tiles."""
    total = ScoreHistogram.empty()
    for side in ("train", "validation", "test"):
        total += score_model(model, tiles, split=side)
    return total


def wrong_where_sure(histogram: ScoreHistogram) -> float:
    """Share of the pixels called .9 or more, or .1 or less, that are the other thing."""
    low, high = round(0.1 * 254), round(0.9 * 254)
    wrong = histogram.landslide[: low + 1].sum() + histogram.background[high:].sum()
    sure = wrong + histogram.background[: low + 1].sum() + histogram.landslide[high:].sum()
    return float(wrong / sure) if sure else math.nan


def report(data: str, models: list[Path], out: Path) -> Evaluation:
    """The report of models on the test ground of a data set; of several, the comparison, too.

    Scenes are mapped, so that no tile cuts a landslide; pictures are scored tile by tile.
    """
    compared = len(models) > 1
    if data not in BLOCKS_M:
        return evaluate_models(
            models, tiles_of(data), differences=compared, out=out, overwrite=True
        )
    tiles, source = tiles_of(data), Path(os.environ["LANDSLIP_DATA"]) / data
    aoi = test_ground(tiles, out.parent / f"{data}_test.gpkg")
    if data == "iburi":
        scene = landslip.open_scene(source / "post.tif", sensor="sentinel-2", aoi=aoi)
        reference = source / "labels.tif"
    else:
        scene = landslip.open_scene(source / "scene.tif", aoi=aoi)
        reference = source / "landslides.gpkg"
    maps = []
    for model in models:
        folder = out.parent / f"{out.name}_maps" / Path(model).stem
        landslip.map_scene(scene, model, _folder(folder.parent) / folder.name, overwrite=True)
        maps.append(folder / "probability.tif")
    return landslip.evaluate(
        maps, reference, aoi=aoi, block_m=BLOCKS_M[data], differences=compared, out=out,
        overwrite=True,
    )  # fmt: skip


def test_ground(tiles: Path, out: Path) -> Path:
    """The test tiles of a scene as polygons."""
    import geopandas as gpd

    index = gpd.read_file(tiles / "tiles.gpkg")
    write_layers(out, {"ground": index.loc[index["split"] == "test", ["geometry"]]})
    return out


def pair(data: str) -> list[Path]:
    """`unet` and `resunet`, trained on the same little ground in the same way."""
    tiles = TileSet.open(tiles_of(data))
    kept = thinned(tiles)
    shown = sum(tile.height * tile.width for tile in kept.of("train")) / 1e6
    changed = STARVED | {"epochs": str(max(round(PAIR_MPX / shown), 1))}
    models = []
    for name in PAIR:
        out = _folder(WORK / "pairs" / data) / f"{name}.safetensors"
        models.append(out)
        if not out.exists():
            options = landslip.TrainOptions(
                model=name, recipe=settings_of("modern", changed),
                bands=("red", "green", "blue") if data == "iburi" else None,
            )  # fmt: skip
            landslip.train_model([kept], out, options=options)
    return models


def thinned(tiles: TileSet) -> TileSet:
    """Every n-th tile of the training and the validation side, so that neither is large."""
    kept: list[Tile] = []
    for side in ("train", "validation"):
        own = tiles.of(side)
        step = math.ceil(sum(tile.height * tile.width for tile in own) / 1e6 / PAIR_MPX)
        kept += own[::step]
    return replace(tiles, tiles=tuple(kept))


def told(found: Evaluation, models: list[Path]) -> dict[str, Any]:
    """What an evaluation says, without its curves and lists; of a pair, scores of pixels."""
    record = found.record()
    record.pop("reference")
    for each, model in zip(record["predictions"], models, strict=True):
        card = landslip.load_card(model)
        settings = {key: card.training["recipe"][key] for key in ("epochs", "batch", "crop")}
        each |= settings | {"model": card.architecture, "tiles": card.training["tiles"]}
        each.pop("path")
        if len(models) > 1:
            for name in ("blocks", "boundary", "inventory", "objects", "probability"):
                each.pop(name)
            continue
        for name in ("reliability", "landslide_by_code", "background_by_code"):
            each["probability"].pop(name)
        each["objects"].pop("one_to_one")
        for overlap in each["objects"]["detection"].values():
            sizes = overlap["by_size"].items()
            overlap["by_size"] = {size: f"{one['found']}/{one['reference']}" for size, one in sizes}
    kept: dict[str, Any] = rounded(record)
    return kept


def rounded(value: Any) -> Any:
    """The same with six digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def print_tables() -> None:
    """What the reports and the comparisons say, for the documentation."""
    kept = read_results(RESULTS)
    heads = [NAMES[data] for data in DATA_SETS]
    print("| | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    reports = [kept.get(f"report {data}") for data in DATA_SETS]
    columns = [report_column(each) if each else {} for each in reports]
    for row in next(filter(None, columns), {}):
        print(f"| {row} | " + " | ".join(each.get(row, "") for each in columns) + " |")
    print("\n| data | score | `unet` | `resunet` | difference | 95 % interval | p |")
    print("|---|---|---|---|---|---|---|")
    for data in DATA_SETS:
        compared = kept.get(f"pair {data}")
        if compared is None:
            continue
        for score in ("f1", "precision", "recall"):
            print("| " + " | ".join(difference_row(data, score, compared)) + " |")


def report_column(record: dict[str, Any]) -> dict[str, str]:
    """One model, row by row."""
    (own,) = record["predictions"]
    pixels, objects, probability = own["pixels"], own["objects"], own["probability"]
    ground = record["ground"]
    found = {
        "epochs": str(own["epochs"]),
        "ground (km²), landslide": f"{ground['km2']:.3g}, {100 * ground['landslide_share']:.1f} %",
    }
    for score in ("precision", "recall", "f1", "iou"):
        found[NAMES[score]] = decimals(pixels[score]) + between(pixels["intervals"][score])
    found["blocks with landslides"] = str(own["blocks"]["with_landslides"])
    found["average precision"] = decimals(probability["average_precision"])
    found["calibration error"] = decimals(probability["calibration_error"])
    for distance in ("2_px", "4_px"):
        found[f"boundary F1 within {distance[0]} px"] = decimals(own["boundary"][distance]["f1"])
    found["landslides, mapped ones"] = f"{objects['reference']:,}, {objects['predicted']:,}"
    for overlap, words in (("0.1", "10 %"), ("0.5", "50 %")):
        of_all = objects["detection"][overlap]["all"]
        found[f"found from {words} of their pixels"] = decimals(of_all["recall"])
        found[f"mapped ones that are landslide from {words}"] = decimals(of_all["precision"])
    half = objects["detection"]["0.5"]["half_found_m2"]
    found["half found from (m²)"] = "-" if half is None else f"{half:,.0f}"
    found["merged, split"] = ", ".join(
        str(sum(objects[f"{what}_by_size"].values())) for what in ("merged", "split")
    )
    return found


def difference_row(data: str, score: str, record: dict[str, Any]) -> list[str]:
    """How much better the second of a pair is."""
    scores = [decimals(each["pixels"][score]) for each in record["predictions"]]
    paired = record["differences"][0]["scores"][score]
    chance = "-" if paired["p"] is None else f"{paired['p']:.2g}".replace("0.", ".", 1)
    interval = " to ".join(decimals(value, "+") for value in paired["interval"] or ()) or "-"
    return [
        NAMES[data],
        NAMES[score],
        *scores,
        decimals(paired["difference"], "+"),
        interval,
        chance,
    ]


def decimals(value: float | None, sign: str = "") -> str:
    """Three digits without the 0 before them."""
    return "-" if value is None else f"{value:{sign}.3f}".replace("0.", ".", 1)


def between(interval: list[float] | None) -> str:
    """An interval behind a score; nothing where there is none."""
    if interval is None:
        return ""
    low, high = (f"{value:.2f}".replace("0.", ".", 1) for value in interval)
    return f" ({low} to {high})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    each = verbs.add_parser("speed", help="processor time and memory")
    each.add_argument("--height", type=int, default=33_368)
    each.add_argument("--width", type=int, default=22_900)
    each = verbs.add_parser("split", help="a random split against blocks")
    each.add_argument("--seeds", type=int, default=2)
    add_settings(each)
    each = verbs.add_parser("calibration", help="a model of Landslide4Sense, there and on Iburi")
    each.add_argument("model")
    each = verbs.add_parser("report", help="of a model on the test ground of a data set")
    each.add_argument("data", choices=DATA_SETS)
    each.add_argument("model", type=Path)
    each = verbs.add_parser("pair", help="train and compare two networks on little ground")
    each.add_argument("data", choices=DATA_SETS)
    verbs.add_parser("tables", help="what the reports and pairs say")
    asked, changed = parse(parser)
    if asked.verb == "tables":
        print_tables()
        return
    begun = time.process_time()
    if asked.verb == "speed":
        key, found = f"speed {asked.height} x {asked.width}", speed(asked.height, asked.width)
    elif asked.verb == "split":
        found = split(asked.seeds, changed)
        key = f"split {name_of('iburi', changed=changed)}, {asked.seeds} seeds"
    elif asked.verb == "calibration":
        key, found = f"calibration {Path(asked.model).stem}", calibration(asked.model)
    else:
        models = [asked.model] if asked.verb == "report" else pair(asked.data)
        key = f"{asked.verb} {asked.data}"
        evaluation = report(asked.data, models, _folder(WORK / "reports") / key.replace(" ", "_"))
        found = told(evaluation, models)
    found["processor_seconds"] = round(time.process_time() - begun)
    keep(RESULTS, key, found)
    print(json.dumps({key: found}, indent=1))


if __name__ == "__main__":
    main()
