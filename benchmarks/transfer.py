"""From one event to another: what a model is worth elsewhere, and after a few labelled tiles.

Needs the data folder named by LANDSLIP_DATA, and a model trained on Landslide4Sense (Taitung) by
`benchmarks/accuracy.py`. It is scored on Iburi as it is, and after fine-tuning on 5, 10 and 20
tiles, drawn three times; every score is that of all the tiles that were not drawn. A fifth of the
drawn tiles choose the weights. Finished runs are kept in `experiments/transfer.json`.

    python benchmarks/transfer.py local/accuracy/landslide4sense_....safetensors
    python benchmarks/transfer.py MODEL --tiles 20 --draws 1 --set fixed_statistics=false
    python benchmarks/transfer.py MODEL --tiles 0             as it is, on all tiles
    python benchmarks/transfer.py MODEL --tiles 0 --pixel-size 8
    python benchmarks/transfer.py MODEL --draw docs/images/transfer.png
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

import landslip
from accuracy import SCORES, spread
from landslip.assess.scores import Counts
from landslip.learn.batches import ScoringGround
from landslip.learn.card import load_model
from landslip.learn.device import Compute
from landslip.learn.predict import score_batches
from landslip.learn.radiometry import choose_tile_scaling
from landslip.prepare.tile_set import Tile, TileSet
from runs import add_settings, keep, name_of, parse, read_results

RESULTS = Path("experiments/transfer.json")
WORK = Path("local/transfer")


def iburi_tiles(pixel_size_m: float | None = None) -> TileSet:
    """Tiles of Iburi that do not overlap, with most of their ground labelled."""
    folder = WORK / f"tiles{pixel_size_m or ''}"
    if not folder.exists():
        data = Path(os.environ["LANDSLIP_DATA"]) / "iburi"
        scene = landslip.open_scene(
            data / "post.tif", sensor="sentinel-2", pixel_size_m=pixel_size_m
        )
        options = landslip.TileOptions(size=128, stride=128, gap=0)
        landslip.make_tiles(scene, data / "labels.tif", folder, options=options)
    whole = TileSet.open(folder)
    return replace(whole, tiles=tuple(tile for tile in whole.tiles if tile.valid_share > 0.5))


def drawn(tiles: TileSet, count: int, draw: int) -> TileSet:
    """The tiles with `count` of them to train and choose, and all others to test.

    Of those that choose, one at least holds landslides, and one of those that train.
    """
    random = np.random.default_rng([count, draw])
    order: list[Tile] = [tiles.tiles[n] for n in random.permutation(len(tiles.tiles))]
    chosen, rest = order[:count], order[count:]
    chosen.sort(key=lambda tile: tile.landslide_share > 0)  # stable: those with landslides last
    choosing = {chosen[-1].name, *(tile.name for tile in chosen[: count // 5 - 1])}
    side = {tile.name: "test" for tile in rest}
    side |= {tile.name: "validation" if tile.name in choosing else "train" for tile in chosen}
    return replace(tiles, tiles=tuple(replace(tile, split=side[tile.name]) for tile in tiles.tiles))


def scores_of(counts: Counts) -> dict[str, float]:
    """For the record."""
    return {key: round(float(getattr(counts, key)), 4) for key in SCORES}


def tested(model: Path, tiles: TileSet) -> dict[str, float]:
    """Scores of a model on the test tiles, shown as `map` would show them, at its threshold."""
    card, network = load_model(model)
    compute = Compute.choose()
    scaling = choose_tile_scaling([(tiles, tile) for tile in tiles.tiles], card).scaling
    ground = ScoringGround(tiles=tuple((tiles, tile) for tile in tiles.of("test")), scaling=scaling)
    histogram = score_batches(
        compute.place(network), ground.batches(2**17), compute, card.stride_px
    )
    return scores_of(histogram.counts(card.threshold))


def draw_curve(name: str, out: Path) -> None:
    """F1 on the ground that was not drawn, against the number of labelled tiles."""
    from matplotlib.figure import Figure

    own = [
        record for key, record in read_results(RESULTS).items()
        if record["tiles"] and key.startswith(f"{name}_{record['tiles']}tiles")
    ]  # fmt: skip
    points: dict[int, list[float]] = {0: [record["before"]["f1"] for record in own]}
    for record in own:
        points.setdefault(record["tiles"], []).append(record["after"]["f1"])
    counts = sorted(points)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for count in counts:
        axes.plot([count] * len(points[count]), points[count], "o", color="#7aa6cc", markersize=4)
    means = [statistics.fmean(points[count]) for count in counts]
    axes.plot(counts, means, color="#111111")
    for count, mean in zip(counts, means, strict=True):
        axes.annotate(f"{mean:.2f}", (count, mean), (4, 8), textcoords="offset points")
    axes.set(xlabel="labelled tiles of the new place (128 px, 10 m)", ylim=(0.4, 0.8),
             ylabel="F1 on the rest of it, pooled over pixels", xticks=counts)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=130)


def main() -> None:
    """Score, fine-tune, score again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--tiles", default="5,10,20")
    parser.add_argument("--pixel-size", type=float, help="of the tiles, with --tiles 0 (m)")
    parser.add_argument("--draws", type=int, default=3)
    add_settings(parser)
    parser.add_argument("--draw", type=Path, help="only draw the curve of finished runs")
    asked, changed = parse(parser)
    WORK.mkdir(parents=True, exist_ok=True)
    results = read_results(RESULTS)
    name = name_of(asked.model.stem, changed=changed)
    if asked.draw is not None:
        draw_curve(name, asked.draw)
        return
    whole = iburi_tiles(asked.pixel_size)
    if asked.tiles == "0":
        everything = replace(
            whole, tiles=tuple(replace(tile, split="test") for tile in whole.tiles)
        )
        found = tested(asked.model, everything)
        size = f"_{asked.pixel_size:g}m" if asked.pixel_size else ""
        keep(RESULTS, f"{name}_0tiles{size}", {"before": found, "tiles": 0})
        print(name, json.dumps(found))
        return
    for count in map(int, asked.tiles.split(",")):
        for draw in range(asked.draws):
            key = f"{name}_{count}tiles_draw{draw}"
            if key in results:
                continue
            tiles = drawn(whole, count, draw)
            out = WORK / f"{key}.safetensors"
            recipe = landslip.recipe_named("fine-tune", changed)
            options = landslip.TrainOptions(start=asked.model, recipe=recipe, seed=draw)
            card = landslip.load_card(out) if out.exists() else landslip.train_model(
                [tiles], out, options=options
            )  # fmt: skip
            results[key] = {
                "before": tested(asked.model, tiles),
                "after": tested(out, tiles),
                "validation": card.scores["validation"],
                "best_epoch": card.training["best_epoch"],
                "seconds": card.training["seconds"],
                "compute": card.training["compute"],
                "tiles": count,
            }
            keep(RESULTS, key, results[key])
            print(key, json.dumps(results[key]))
        own = [record for key, record in results.items()
               if key.startswith(f"{name}_{count}tiles")]  # fmt: skip
        for when in ("before", "after"):
            cells = ", ".join(f"{k} {spread([r[when][k] for r in own])}" for k in SCORES)
            print(f"{count} tiles, {when}: {cells}")
        print(f"{statistics.fmean([r['seconds'] for r in own]):.0f} s each")


if __name__ == "__main__":
    main()
