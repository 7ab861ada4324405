"""Verbs that say how good a map is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from landslip.cli.app import app, console, say
from landslip.cli.groups import Made, takes
from landslip.cli.options import (
    Aoi,
    Block,
    Checked,
    Device,
    Overwrite,
    Positive,
    Precision,
    Stride,
    TileSize,
    Unusable,
    changes_in,
    names_in,
    names_of_given,
)

Reference = Annotated[Path | None, typer.Option(help="Polygons or label raster.")]
MapThreshold = Annotated[
    float | None, typer.Option("--threshold", help="Threshold; default: that of the raster's tags.")
]
Like = Annotated[
    Path | None, typer.Option(help="Raster whose pixels are counted, for polygons alone.")
]
Models = Annotated[
    list[Path] | None, typer.Option("--model", help="Score models on tiles instead. Repeatable.")
]
ScoredTiles = Annotated[
    Path | None, typer.Option("--tiles", help="Tile set, with --model; a tile is a block.")
]
Side = Annotated[str | None, typer.Option("--split", help="Side of the tile set; default: test.")]

PANEL = "Assess"


@app.command(rich_help_panel=PANEL)
def evaluate(
    predictions: Annotated[
        list[Path] | None, typer.Argument(help="Probability rasters or polygon files.")
    ] = None,
    reference: Reference = None,
    checked: Checked = None,
    positive: Positive = None,
    aoi: Aoi = None,
    unusable: Unusable = None,
    threshold: MapThreshold = None,
    like: Like = None,
    block: Block = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores and error maps.")] = None,
    model: Models = None,
    tiles: ScoredTiles = None,
    split: Side = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Score maps against a reference: pixels, outlines, landslides by size, and where errors lie.

    Example: landslip evaluate map/probability.tif --reference landslides.gpkg --out scores/

    Example: landslip evaluate --model event.safetensors --tiles tiles --split test
    """
    made = _Maps(predictions, reference, checked, positive, aoi, unusable, like, block)
    tested = _Models(model, tiles, split, device, precision)
    _evaluate("evaluate", made, tested, threshold, out, overwrite=overwrite)


@app.command(rich_help_panel=PANEL)
def compare(
    predictions: Annotated[
        list[Path] | None, typer.Argument(help="Two maps or more, from any tool.")
    ] = None,
    reference: Reference = None,
    checked: Checked = None,
    positive: Positive = None,
    aoi: Aoi = None,
    unusable: Unusable = None,
    threshold: MapThreshold = None,
    like: Like = None,
    block: Block = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a report and maps of where they differ.")
    ] = None,
    model: Models = None,
    tiles: ScoredTiles = None,
    split: Side = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Which map is better, by how much, how sure that is, and where they differ.

    Example: landslip compare a/probability.tif b/probability.tif --reference landslides.gpkg

    Example: landslip compare --model a.safetensors --model b.safetensors --tiles tiles
    """
    from landslip.geo.errors import UsageError

    if len(predictions or model or ()) < 2:
        raise UsageError("Cannot compare one map: name two or more, or use landslip evaluate.")
    made = _Maps(predictions, reference, checked, positive, aoi, unusable, like, block)
    tested = _Models(model, tiles, split, device, precision)
    _evaluate("compare", made, tested, threshold, out, overwrite=overwrite)


@app.command(rich_help_panel=PANEL)
@takes(made=Made)
def study(
    made: Made,
    inventory: Annotated[Path, typer.Option(help="Polygons or label raster.")],
    out: Annotated[Path, typer.Option(help="Folder to work in; the same command continues.")],
    scene: Annotated[str | None, typer.Option(help="Scene to learn from and to map.")] = None,
    models: Annotated[
        str, typer.Option(help="Networks with commas between: unet,resunet.")
    ] = "unet,resunet",
    recipe: Annotated[str, typer.Option(help="modern or paper.")] = "modern",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting of the recipe."),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=3, help="Parts of the ground; each is mapped unseen.")
    ] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network on each part.")] = 1,
    checked: Checked = None,
    size: TileSize = None,
    stride: Stride = None,
    block: Block = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Compare networks on all ground of a scene, each part mapped by models that did not see it.

    Example: landslip study --scene scene.tif --inventory landslides.gpkg --models unet,resunet
    --recipe paper --folds 5 --seeds 3 --out study/
    """
    from landslip.study import StudyOptions, run_study

    options = StudyOptions(
        models=names_in(models) or (), recipe=recipe, changes=changes_in(settings), folds=folds,
        seeds=seeds, tile_px=StudyOptions.tile_px if size is None else size, stride_px=stride,
        block_m=StudyOptions.block_m if block is None else block, device=device,
        precision=precision,
    )  # fmt: skip
    with closing(made.open(scene)) as opened:
        found = run_study(opened, inventory, out, options=options, checked=checked)
    console.print(found.table())
    say(f"Report: {out / 'report.html'}")


@app.command(rich_help_panel=PANEL)
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that evaluate or compare wrote.")],
) -> None:
    """Make the report of an evaluation again, from its scores and pictures.

    Example: landslip report scores/
    """
    from landslip.assess.evaluation_report import write_evaluation_report

    say(f"Report: {write_evaluation_report(folder)}")


@app.command(rich_help_panel=PANEL)
def stats(
    inventory: Annotated[Path, typer.Argument(help="Landslide polygons.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the curve and its numbers.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """How many landslides of which size: frequency-area curve, power law, rollover, completeness.

    Example: landslip stats map/landslides.gpkg --out stats/
    """
    from landslip.assess.frequency import inventory_statistics

    found = inventory_statistics(inventory, out=out, seed=seed, overwrite=overwrite)
    console.print(found.table())
    if out is not None:
        say(f"Curve and numbers: {out}")


@dataclass(frozen=True)
class _Maps:
    """The maps that are scored, and against what."""

    predictions: list[Path] | None
    reference: Path | None
    checked: Path | None
    positive: int | None
    aoi: Path | None
    unusable: Path | None
    like: Path | None
    block: float | None


@dataclass(frozen=True)
class _Models:
    """The models that are scored on tiles instead."""

    model: list[Path] | None
    tiles: Path | None
    split: str | None
    device: str
    precision: str


def _evaluate(
    verb: str, maps: _Maps, models: _Models, threshold: float | None, out: Path | None, *,
    overwrite: bool,
) -> None:  # fmt: skip
    """Score maps, or models on tiles, and print what came of it."""
    from landslip.assess.evaluate import DEFAULT_BLOCK_M
    from landslip.assess.evaluate import evaluate as evaluate_maps
    from landslip.geo.errors import UsageError

    of_maps = {field.name: getattr(maps, field.name) for field in fields(maps)}
    of_maps.pop("predictions")
    of_models = {"model": models.model, "tiles": models.tiles, "split": models.split}
    is_of_models = not maps.predictions
    complete = models.model and models.tiles if is_of_models else maps.reference is not None
    if not complete:
        raise UsageError(
            f"Cannot {verb}: name predictions and --reference, or --model with --tiles. "
            f"See landslip {verb} --help."
        )
    unused = names_of_given(**(of_maps if is_of_models else of_models))
    if unused:
        raise UsageError(
            f"Cannot use {', '.join(unused)}: that is for "
            f"{'maps, and models on tiles' if is_of_models else 'models on tiles, and maps'} are "
            "named. Leave it out."
        )
    is_compared = verb == "compare"
    if is_of_models:
        from landslip.learn.tile_maps import evaluate_models

        assert models.model is not None
        assert models.tiles is not None
        found = evaluate_models(
            models.model, models.tiles, split=models.split or "test", threshold=threshold,
            differences=is_compared, out=out, overwrite=overwrite, device=models.device,
            precision=models.precision,
        )  # fmt: skip
    else:
        assert maps.predictions is not None
        assert maps.reference is not None
        found = evaluate_maps(
            maps.predictions, maps.reference, checked=maps.checked, positive=maps.positive,
            aoi=maps.aoi, unusable=maps.unusable, threshold=threshold, like=maps.like,
            block_m=DEFAULT_BLOCK_M if maps.block is None else maps.block,
            differences=is_compared, out=out, overwrite=overwrite,
        )  # fmt: skip
    console.print(found.table())
    console.print(found.object_table())
    if found.differences:
        console.print(found.difference_table())
    if out is not None:
        say(f"Report: {out / 'report.html'}")
