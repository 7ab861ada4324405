"""Verbs that make inventories and hand them over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landslip.cli.app import app, console, errors, note, say
from landslip.cli.groups import Made, Outlined, takes
from landslip.cli.options import (
    Device,
    Overwrite,
    Precision,
    numbers_in,
)

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Files of a folder that are taken for scenes."""

PANEL = "Map and deliver"


@app.command(name="map", rich_help_panel=PANEL)
@takes(outlined=Outlined, made=Made)
def map_(
    outlined: Outlined,
    made: Made,
    model: Annotated[
        list[Path], typer.Option(help="Model file. Repeatable: the mean of several is mapped.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    scene: Annotated[
        list[str] | None,
        typer.Argument(help="Scenes, or folders of them; where they overlap, the first wins."),
    ] = None,
    scaling: Annotated[
        str, typer.Option(help="auto, model or scene: whose range of numbers the model is shown.")
    ] = "auto",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability of a landslide; default: the model's, of the largest F1."),
    ] = None,
    recall: Annotated[
        float | None, typer.Option(help="Threshold that found this share on validation: 0.9.")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Threshold of equal precision and recall.")
    ] = False,
    as_float: Annotated[
        bool, typer.Option("--float", help="Probabilities in float32 instead of one byte.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over 8 flips and quarter turns: 8 times as long.")
    ] = False,
    scales: Annotated[
        str, typer.Option(help="Sizes at which the model sees the scene, averaged: 1,0.5.")
    ] = "1",
    first: Annotated[
        Path | None, typer.Option(help="Polygons of ground to map before the rest.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell how long it takes, and what space.")
    ] = False,
    memory: Annotated[
        float | None, typer.Option(min=0, help="Memory to take at most (GB); default: half.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers map: tcp://HOST:PORT.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Map the landslides of scenes: probabilities, polygons, what was seen, a picture.

    Stopped or killed, the same command continues.

    Example: landslip map scene.tif --model event.safetensors --out map/

    Example: landslip map --pan pan.tif --ms ms.tif --model event.safetensors --out map/
    """
    from landslip.geo.errors import UsageError
    from landslip.geo.output import refuse_existing
    from landslip.learn.card import load_card
    from landslip.mapping.options import MapOptions
    from landslip.mapping.scene_map import estimate_map, map_scenes

    if (out is None) != dry_run:
        raise UsageError(
            "Cannot map: name the folder to write with --out, or use --dry-run without it."
        )
    # Before a pair is measured, which takes its time.
    if out is not None:
        refuse_existing(out, overwrite=overwrite, marker="run.json")
    cards = [load_card(path) for path in model]
    if recall is not None or balanced:
        if (threshold is not None) + (recall is not None) + balanced > 1:
            raise UsageError(
                "Cannot choose the threshold in two ways: name one of --threshold, --recall and "
                "--balanced."
            )
        threshold = sum(card.threshold_for(recall) for card in cards) / len(cards)
    options = MapOptions(
        **outlined.options(), dem=made.dem, scaling=scaling, threshold=threshold,
        as_float=as_float, tta=tta, scales=numbers_in(scales, "scales", "1,0.5"), first=first,
        memory_gb=memory, cluster=cluster, device=device, precision=precision,
    )  # fmt: skip
    opened = [made.open(each) for each in _rasters(scene or [])] if scene else [made.open(None)]
    if out is None:
        console.print(estimate_map(opened, model, options=options).text, soft_wrap=True)
        return
    found = map_scenes(opened, model, out, options=options, overwrite=overwrite)
    # Left open after Ctrl-C: the thread that reads ahead may still be at work, and would crash.
    for each in opened:
        each.close()
    say(f"{found.text}: {out}")


@app.command(rich_help_panel=PANEL)
@takes(outlined=Outlined)
def vectorise(
    outlined: Outlined,
    probability: Annotated[Path, typer.Argument(help="Raster of probabilities, or of 0 and 1.")],
    out: Annotated[Path, typer.Option(help="GeoPackage to write.")],
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability of a landslide; default: that of the raster's tags."),
    ] = None,
    dem: Annotated[Path | None, typer.Option(help="Elevation model (m) for terrain.")] = None,
    scene: Annotated[
        str | None, typer.Option(help="The scene that was mapped, with named bands, for NDVI.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="HTML file of figures: counts, density, sizes, largest.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Outline the landslides of a probability raster of any tool, and tell what is known of each.

    Example: landslip vectorise map/probability.tif --threshold 0.5 --dem dem.tif --out map.gpkg
    """
    from landslip.geo.output import refuse_existing
    from landslip.inventory.options import InventoryOptions
    from landslip.inventory.sheet import write_sheet
    from landslip.inventory.vectorise import vectorise as made_of

    options = InventoryOptions(**outlined.options(), dem=dem)
    if sheet is not None:
        refuse_existing(sheet, overwrite=overwrite)
    found = made_of(
        probability, out, threshold=threshold, options=options, scene=scene, overwrite=overwrite
    )
    if sheet is not None:
        write_sheet(out, sheet, overwrite=overwrite)
    say(f"{found.text}: {out}")


@app.command(rich_help_panel=PANEL)
def export(
    inventory: Annotated[Path, typer.Argument(help="Folder of a map, or its GeoPackage.")],
    out: Annotated[Path, typer.Option(help="File to write; a folder for shp and for schemas.")],
    form: Annotated[str, typer.Option("--as", help="gpkg, geojson, parquet, kml or shp.")] = "gpkg",
    schema: Annotated[
        str | None, typer.Option(help="cems (Copernicus EMS) or coolr (NASA).")
    ] = None,
    event: Annotated[Path | None, typer.Option(help="event.toml: what schemas ask for.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Hand an inventory over: in another format, or in the schema of those who ask for it.

    Rejected landslides are left out. What a schema lacks is listed before anything is written.

    Example: landslip export map/ --as geojson --out landslides.geojson

    Example: landslip export map/ --as shp --schema cems --event event.toml --out EMSR123/
    """
    from landslip.deliver.export import export_inventory

    found = export_inventory(
        inventory, out, form=form, schema=schema, event=event, overwrite=overwrite
    )
    for text in found.notes:
        note(errors, text)
    say(found.text)


def _rasters(named: list[str]) -> list[str]:
    """Scenes, with those of folders in the order of their names; some folders are a raster."""
    scenes: list[str] = []
    for text in named:
        inside = sorted(Path(text).iterdir()) if Path(text).is_dir() else []
        rasters = [str(path) for path in inside if path.suffix.lower() in RASTERS]
        scenes += rasters or [text]
    return scenes
