"""Verbs that look at scenes and prepare them."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from landslip.cli.app import app, console, note, say, table_of
from landslip.cli.groups import Made, takes
from landslip.cli.options import (
    Checked,
    Coregister,
    FalseAlarms,
    Gap,
    Method,
    Overwrite,
    Positive,
    Sensor,
    Split,
    Stride,
    Test,
    TileSize,
    Val,
    Weights,
    names_in,
    names_of_given,
    sharpening_of,
    tiling_of,
)

PANEL = "Prepare"


@app.command(rich_help_panel=PANEL)
@takes(made=Made)
def check(
    made: Made,
    scene: Annotated[str | None, typer.Argument(help="Scene: any raster that GDAL reads.")] = None,
    inventory: Annotated[Path | None, typer.Option(help="Polygons or label raster.")] = None,
    checked: Checked = None,
    positive: Positive = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write (PNG).")] = None,
    to_8bit: Annotated[
        Path | None, typer.Option("--to-8bit", help="GeoTIFF to write, stretched to 8 bit.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """What landslip understood of your files, and what is suspicious.

    Example: landslip check scene.tif --inventory landslides.gpkg --out check.png
    """
    from landslip.geo.errors import BandError
    from landslip.geo.output import refuse_existing
    from landslip.prepare.check import check_scene
    from landslip.prepare.scaling import write_eight_bit

    if to_8bit is not None:
        refuse_existing(to_8bit, overwrite=overwrite)
    try:
        opened = made.open(scene)
    except BandError:
        # Only unnamed bands can be looked at all the same; other faults show again.
        if made.bands is not None:
            raise
        opened = made.open(scene, unnamed=True)
    with closing(opened):
        found = check_scene(
            opened, inventory=inventory, checked=checked, positive=positive, picture=out,
            overwrite=overwrite,
        )  # fmt: skip
        if to_8bit is not None:
            write_eight_bit(opened, to_8bit, overwrite=overwrite)
    if json:
        sys.stdout.write(found.to_json() + "\n")
        return
    console.print(found.table())
    for warning in found.warnings:
        note(console, warning)
    if out is not None:
        say(f"Picture: {out}")
    if to_8bit is not None:
        say(f"Stretched to 8 bit: {to_8bit}")


@app.command(rich_help_panel=PANEL)
def pansharpen(
    pan: Annotated[str, typer.Argument(help="Panchromatic file.")],
    ms: Annotated[str, typer.Argument(help="Multispectral file; all its bands simulate the pan.")],
    out: Annotated[Path, typer.Option(help="GeoTIFF to write.")],
    method: Method = None,
    bands: Annotated[
        str | None,
        typer.Option(help="Bands to write; names for all of them where the file has none."),
    ] = None,
    sensor: Sensor = None,
    weights: Weights = None,
    coregister: Coregister = False,
    unusable: Annotated[
        Path | None, typer.Option(help="Cloud, as polygons or raster: not in the statistics.")
    ] = None,
    sample: Annotated[
        float | None, typer.Option(help="Share of the scene for the statistics; default: all.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="8bit: stretch between percentiles, as the paper did.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for quality.json and quality.png.")
    ] = None,
    cog: Annotated[bool, typer.Option("--cog", help="Cloud-optimised, with overviews.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all processors.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """One sharp scene from a panchromatic and a multispectral file.

    Example: landslip pansharpen pan.tif ms.tif --bands nir,red,green --out scene.tif
    """
    from landslip.geo.output import refuse_existing
    from landslip.prepare.sharpen.pansharpen import pansharpen as sharpen

    if report is not None:
        refuse_existing(report, overwrite=overwrite, marker="quality.json")
    options = sharpening_of(method, weights, coregister, sample=sample, threads=threads)
    scene = sharpen(
        pan, ms, out, bands=names_in(bands), sensor=sensor, unusable=unusable, options=options,
        to=to, cog=cog, overwrite=overwrite,
    )  # fmt: skip
    with closing(scene):
        say(table_of(f"{out}", scene.rows()))
        if report is not None:
            from landslip.prepare.sharpen.quality import sharpen_quality, write_quality

            found = sharpen_quality(scene)
            write_quality(scene, found, report, overwrite=overwrite)
            say(found.table())
            say(f"{found.verdict()}. Report: {report}")


@app.command(rich_help_panel=PANEL)
@takes(made=Made)
def tile(
    made: Made,
    scene: Annotated[str | None, typer.Argument(help="Scene to cut.")] = None,
    inventory: Annotated[Path | None, typer.Option(help="Polygons or label raster.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("tiles"),
    checked: Checked = None,
    positive: Positive = None,
    false_alarms: FalseAlarms = None,
    size: TileSize = None,
    stride: Stride = None,
    split: Split = None,
    val: Val = None,
    test: Test = None,
    gap: Gap = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the sides of a random split.")] = 0,
    from_folder: Annotated[
        Path | None, typer.Option(help="Folder with images/ and masks/ instead of a scene.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut a scene and its landslides into tiles to learn from, split by place.

    Example: landslip tile scene.tif --inventory landslides.gpkg --checked squares.gpkg --out tiles

    Example: landslip tile --from-folder bijie --bands red,green,blue --pixel-size 0.8 --out tiles
    """
    from landslip.geo.errors import UsageError
    from landslip.prepare.picture_folder import tiles_from_folder
    from landslip.prepare.tiles import make_tiles

    if from_folder is not None:
        names, pixel_size = names_in(made.bands), made.pixel_size
        if scene is not None or inventory is not None or names is None or pixel_size is None:
            raise UsageError(
                "Cannot tile from a folder: --from-folder needs --bands and --pixel-size, and "
                "takes no scene or inventory. Add what is missing."
            )
        unused = names_of_given(
            checked=checked, positive=positive, false_alarms=false_alarms, size=size,
            stride=stride, split=split, val=val, test=test, gap=gap,
        )  # fmt: skip
        unused += [name for name in made.given if name not in ("--bands", "--pixel-size")]
        if unused:
            raise UsageError(
                f"Cannot tile from a folder with {', '.join(unused)}: the pictures are taken as "
                "they are. Leave these options out."
            )
        tiles = tiles_from_folder(
            from_folder, out, bands=names, pixel_size_m=pixel_size, seed=seed, overwrite=overwrite
        )
    else:
        if (scene is None and made.pan is None) or inventory is None:
            raise UsageError(
                "Cannot tile: a scene and --inventory are needed, or --from-folder. "
                "See landslip tile --help."
            )
        options = tiling_of(size, stride, split, val, test, gap, seed)
        with closing(made.open(scene)) as opened:
            tiles = make_tiles(
                opened, inventory, out, options=options, checked=checked, positive=positive,
                false_alarms=false_alarms, overwrite=overwrite,
            )  # fmt: skip
    say(f"{out}: {tiles.summary()}")
