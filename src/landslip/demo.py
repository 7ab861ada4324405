"""The whole journey, check to report, on a made-up valley or on the user's own scene."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from landslip.assess.evaluate import DEFAULT_BLOCK_M, evaluate
from landslip.assess.evaluation import Evaluation
from landslip.assess.report import Section, write_report
from landslip.geo.errors import OutputError
from landslip.geo.inventory import Area, read_polygons, write_layers
from landslip.geo.output import refuse_existing, require_same, whole_file
from landslip.geo.progress import duration
from landslip.geo.scene import StackedScene, open_scene
from landslip.prepare.check import SceneCheck, check_scene
from landslip.prepare.split import TileOptions
from landslip.prepare.tile_set import TileSet
from landslip.prepare.tiles import make_tiles
from landslip.samples.synthetic import Valley, best_ndvi_f1, make_valley, write_valley

log = logging.getLogger(__name__)

VALLEY_TILES = TileOptions(size=128, stride=96, val=0.15, test=0.0, gap=64)
"""Tiles of the valley: small, so that a small scene holds many."""
BLOCK_M = 50.0
"""Side of the valley's blocks (m); larger than most of its landslides."""
BLOCK_PX = 20
"""Least side of the blocks of other scenes (px)."""
EPOCHS = 24
"""Passes over the tiles: about three minutes on two cores."""


UNSEEN_MARGIN_M = 32.0
"""Ground this near to the checked squares is not scored: it is too like what was learnt."""


@dataclass(frozen=True)
class _Ground:
    """What the journey runs on."""

    name: str
    """For people."""
    scene: StackedScene
    """With cloud and shadow taken out."""
    inventory: Path
    """Landslides to learn from."""
    reference: Path
    """Landslides to be scored against."""
    checked: Path | None
    """Ground in which everything was inspected; None: all of it."""
    unusable: Path | None
    """Cloud and shadow."""
    block_m: float
    """Side of the blocks that the score's interval is drawn from (m)."""
    tiling: TileOptions
    """How the ground is cut."""


def run_demo(
    out: str | Path = "demo",
    *,
    scene: str | Path | None = None,
    inventory: str | Path | None = None,
    checked: str | Path | None = None,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Check, train a small model, map, evaluate on unseen ground, and report.

    Args:
        out: Folder to write; a journey that was stopped is continued.
        scene: Scene to run on; None: a valley is made from `seed`.
        inventory: Its landslides; needed with `scene`.
        checked: Polygons inside which everything was inspected.
        bands: Names of the bands of `scene`.
        sensor: Sensor of `scene`, to read band numbers.
        seed: Makes the valley, and the model's first weights.
        overwrite: Make the map, the scores and the report of a finished journey again.

    Returns:
        The path of the report.

    Raises:
        OutputError: `out` holds a finished journey.
    """
    from landslip.learn.plan import TrainOptions
    from landslip.learn.recipes import recipe_named
    from landslip.learn.train import train_model
    from landslip.mapping.scene_map import map_scene

    begun = time.monotonic()
    out = Path(out)
    refuse_existing(out / "report.html", overwrite=overwrite)
    asked = {
        "scene": str(scene),
        "inventory": str(inventory),
        "checked": str(checked),
        "seed": seed,
    }
    _claim(out, asked)
    valley: Valley | None = None
    if scene is None or inventory is None:
        valley = make_valley(seed=seed)
        ground = _valley_ground(valley, out / "input")
    else:
        opened = open_scene(scene, bands=bands, sensor=sensor)
        small = min(opened.grid.shape) < 1024
        tiling = TileOptions(size=128, stride=96) if small else TileOptions(size=256, stride=192)
        kept = None if checked is None else Path(checked)
        name, slides = Path(scene).name, Path(inventory)
        block_m = max(DEFAULT_BLOCK_M, BLOCK_PX * opened.grid.pixel_size_m)
        ground = _Ground(name, opened, slides, slides, kept, None, block_m, tiling)

    log.info("1 of 5: checking the files")
    found = check_scene(
        ground.scene,
        inventory=ground.inventory,
        checked=ground.checked,
        picture=out / "check.png",
        overwrite=True,
    )
    log.info("2 of 5: cutting tiles, split by place")
    if (out / "tiles").exists():
        tiles = TileSet.open(out / "tiles")
    else:
        tiles = make_tiles(
            ground.scene,
            ground.inventory,
            out / "tiles",
            options=ground.tiling,
            checked=ground.checked,
        )
    log.info("3 of 5: training a small network")
    model = out / "model.safetensors"
    if not model.exists():
        recipe = recipe_named("modern", {"epochs": EPOCHS})
        train_model(
            [tiles], model, options=TrainOptions(model="unet-small", recipe=recipe, seed=seed)
        )
    log.info("4 of 5: mapping the whole scene")
    map_scene(ground.scene, model, out / "map", overwrite=True)
    log.info("5 of 5: scoring on ground that training has not seen")
    unseen = _write_unseen(out / "unseen.gpkg", ground, tiles)
    scored = evaluate(
        [out / "map" / "probability.tif"],
        ground.reference,
        aoi=unseen,
        unusable=ground.unusable,
        block_m=ground.block_m,
        out=out / "scores",
        overwrite=True,
    )
    baseline = "" if valley is None else _baseline(valley, unseen, ground, scored)
    if baseline:
        log.info("%s", baseline)
    _write_journey(out, ground, tiles, found, scored, baseline, time.monotonic() - begun)
    return out / "report.html"


def _claim(out: Path, asked: dict[str, Any]) -> None:
    """Mark a folder as this journey's; refuse one that holds anything else."""
    record = out / "demo.json"
    if record.exists():
        require_same(json.loads(record.read_text(encoding="utf-8")), asked, out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"Cannot write {out}: it holds files of something else. Name another folder with --out."
        )
    with whole_file(record, overwrite=True) as partial:
        partial.write_text(json.dumps(asked), encoding="utf-8")


def _valley_ground(valley: Valley, folder: Path) -> _Ground:
    """Write the valley as files; only landslides inside the checked squares are learnt from."""
    import geopandas as gpd

    log.info("making a valley of %d x %d px", *valley.labels.shape)
    files = write_valley(valley, folder)
    scene = open_scene(files.scene, unusable=files.unusable)
    squares = shapely.union_all(valley.checked)
    known = [part for shape in valley.landslides for part in _polygons(shape & squares)]
    inventory = folder / "known.gpkg"
    with whole_file(inventory, overwrite=True) as partial:
        write_layers(partial, {"known": gpd.GeoDataFrame(geometry=known, crs=valley.crs)})
    return _Ground(
        "A valley that landslip made up",
        scene,
        inventory,
        files.landslides,
        files.checked,
        files.unusable,
        BLOCK_M,
        VALLEY_TILES,
    )


def _polygons(shape: shapely.Geometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]


def _write_unseen(path: Path, ground: _Ground, tiles: TileSet) -> Path:
    """Write the ground that training has not seen: test tiles, or beyond the checked squares."""
    import geopandas as gpd

    grid = ground.scene.grid
    unseen = shapely.union_all(
        [grid.crop(tile.window).footprint() for tile in tiles.of("test") if tile.window]
    )
    if unseen.is_empty and ground.checked is not None:
        squares = read_polygons(ground.checked, grid, what="checked areas").geometries
        unseen = grid.footprint().difference(shapely.union_all(squares).buffer(UNSEEN_MARGIN_M))
    with whole_file(path, overwrite=True) as partial:
        write_layers(partial, {"unseen": gpd.GeoDataFrame(geometry=[unseen], crs=grid.crs)})
    return path


def _baseline(valley: Valley, unseen: Path, ground: _Ground, scored: Evaluation) -> str:
    """What the best NDVI threshold reaches on the ground of the score."""
    grid = ground.scene.grid
    area = Area(read_polygons(unseen, grid, what="unseen ground").geometries, grid)
    here: NDArray[np.bool_] = valley.valid & area.read(grid.window)
    _, f1 = best_ndvi_f1(valley.image, valley.labels, here)
    return (
        f"The best NDVI threshold, chosen on this very ground, reaches F1 {f1:.2f}; the model "
        f"reaches {scored.predictions[0].pixels.f1:.2f}."
    )


def _write_journey(
    out: Path,
    ground: _Ground,
    tiles: TileSet,
    found: SceneCheck,
    scored: Evaluation,
    baseline: str,
    seconds: float,
) -> None:
    """The report, in the order of the journey."""
    counts = scored.predictions[0].pixels
    scores = [f"{value:.3f}" for value in (counts.precision, counts.recall, counts.f1, counts.iou)]
    sections = [
        Section(
            heading="Result",
            paragraphs=[
                f"Scored on {scored.ground.km2:.3f} km2 that training has not seen, of which "
                f"{scored.ground.landslide_share:.1%} is landslide; pooled over pixels.",
                _interval_text(scored),
                *([baseline] if baseline else []),
                "Sizes, outlines, reliability and the worst blocks: scores/report.html.",
            ],
            table=[["precision", "recall", "F1", "IoU"], scores],
            picture=out / "scores" / "probability_errors.png",
            caption="Yellow: found. Red: missed. Blue: false alarm. White: not scored.",
        ),
        Section(
            heading="The map",
            paragraphs=["Polygons, probabilities and what was not seen lie in the folder map/."],
            picture=out / "map" / "quicklook.png",
        ),
        Section(
            heading="The files",
            paragraphs=[*found.warnings, *found.notes],
            picture=out / "check.png",
            caption="The scene with the reference outlines.",
        ),
        Section(
            heading="The ground to learn from",
            paragraphs=[tiles.summary()],
            picture=out / "tiles" / "split.png",
            caption="Validation chooses the weights and the threshold.",
        ),
        Section(heading="The training", picture=out / "model.history.png"),
        Section(
            heading="The choice of the threshold",
            paragraphs=["Where precision and recall on validation give the largest F1."],
            picture=out / "model.pr.png",
        ),
        Section(
            heading="What the figures do not say",
            paragraphs=[
                "They hold for this ground and this image. On other ground the best threshold "
                "moves and scores fall; label a few squares there and evaluate again.",
                f"The whole journey took {duration(seconds)}.",
            ],
        ),
    ]
    title = f"{ground.name}: landslides mapped and scored"
    write_report(out / "report.html", title, sections, overwrite=True)


def _interval_text(scored: Evaluation) -> str:
    """How sure the F1 is."""
    blocks = scored.predictions[0].blocks
    found = blocks.intervals["f1"]
    if found is None:
        return blocks.why_no_interval
    return (
        f"F1 lies between {found.low:.2f} and {found.high:.2f} in 95 % of the draws of "
        f"{found.blocks} blocks of {blocks.block_m:g} m."
    )
