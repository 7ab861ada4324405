"""Verbs that make models."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from landslip.cli.app import app, console, say, table_of, table_of_scores
from landslip.cli.groups import Made, takes
from landslip.cli.options import (
    Checked,
    Device,
    FalseAlarms,
    Gap,
    Overwrite,
    Positive,
    Precision,
    Split,
    Stride,
    Test,
    TileSize,
    Val,
    changes_in,
    metres,
    names_in,
    names_of_given,
    tiling_of,
)

PANEL = "Learn"


@app.command(rich_help_panel=PANEL)
@takes(made=Made)
def train(
    made: Made,
    tiles: Annotated[
        list[Path] | None, typer.Argument(help="Tile sets; or name --scene and --inventory.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Model to write.")] = Path("model.safetensors"),
    scene: Annotated[str | None, typer.Option(help="Scene to learn from.")] = None,
    inventory: Annotated[Path | None, typer.Option(help="Polygons or label raster.")] = None,
    checked: Checked = None,
    positive: Positive = None,
    false_alarms: FalseAlarms = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="unet, unet-small, resunet, resunet-table1, or library:ARCH/ENCODER; default: "
            "that of --from, else library:unet/resnet34."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="modern, paper, or fine-tune (default with --from).")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Model to start from: 5 to 50 tiles will do.")
    ] = None,
    encoder_weights: Annotated[
        str | None, typer.Option(help="imagenet, or a file of weights for the encoder.")
    ] = None,
    use: Annotated[
        str | None, typer.Option(help="Bands and indices to learn from, in order; default: all.")
    ] = None,
    optional: Annotated[
        str | None, typer.Option(help="Of these, bands that a scene to map may lack.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the ground.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Learning rate.")] = None,
    drop_every: Annotated[
        int | None, typer.Option(help="Epochs between drops of the rate to a tenth.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="bce, bce+dice, focal or tversky.")] = None,
    crop: Annotated[int | None, typer.Option(min=16, help="Pixels of a sample.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of the recipe."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same model.")] = 0,
    size: TileSize = None,
    stride: Stride = None,
    split: Split = None,
    val: Val = None,
    test: Test = None,
    gap: Gap = None,
    device: Device = "auto",
    precision: Precision = "auto",
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts in which a batch is computed, to save memory.")
    ] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that read.")] = None,
    cache_gb: Annotated[
        float | None, typer.Option(min=0, help="Memory for tiles; default: a quarter of all.")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same weights from a seed on CUDA too.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's events.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Train a network on tiles, or on a scene and its landslides. The same command continues.

    Example: landslip train --scene scene.tif --inventory landslides.gpkg --checked squares.gpkg
    --out event.safetensors

    Example: landslip train tiles --model resunet --recipe paper --out paper.safetensors

    Example: landslip train new-tiles --from event.safetensors --out new.safetensors
    """
    from landslip.geo.errors import UsageError
    from landslip.learn.plan import TrainOptions
    from landslip.learn.recipes import recipe_named
    from landslip.learn.train import train_model, train_on_scene

    asked = {
        "epochs": epochs, "batch": batch, "learning_rate": learning_rate,
        "drop_every": drop_every, "loss": loss, "crop": crop,
    }  # fmt: skip
    changes: dict[str, object] = {key: value for key, value in asked.items() if value is not None}
    changes |= changes_in(settings)
    named = recipe or ("modern" if start is None else "fine-tune")
    options = TrainOptions(
        model=model, recipe=recipe_named(named, changes), bands=names_in(use),
        optional=names_in(optional) or (), seed=seed, start=start, encoder_weights=encoder_weights,
        device=device, precision=precision, accumulate=accumulate, workers=workers,
        cache_bytes=None if cache_gb is None else int(cache_gb * 1e9),
        deterministic=deterministic, tensorboard=tensorboard, licence=licence,
    )  # fmt: skip
    from_tiles = scene is None and made.pan is None
    if from_tiles == (not tiles) or from_tiles != (inventory is None):
        raise UsageError(
            "Cannot train: name either tile sets, or --scene (or --pan and --ms) with --inventory. "
            "See landslip train --help."
        )
    if from_tiles:
        unused = [*made.given, *names_of_given(
            checked=checked, positive=positive, false_alarms=false_alarms, size=size,
            stride=stride, split=split, val=val, test=test, gap=gap,
        )]  # fmt: skip
        if unused:
            raise UsageError(
                f"Cannot use {', '.join(unused)} with tile sets: the tiles are made already. "
                "Give it to landslip tile, or name a --scene."
            )
        card = train_model(list(tiles or ()), out, options=options, overwrite=overwrite)
    else:
        assert inventory is not None
        tiling = tiling_of(size, stride, split, val, test, gap, seed)
        with closing(made.open(scene)) as opened:
            card = train_on_scene(
                opened, inventory, out, tiling=tiling, checked=checked, positive=positive,
                false_alarms=false_alarms, options=options, overwrite=overwrite,
            )  # fmt: skip
    say(table_of_scores(f"{out}", card.scores))


@app.command(rich_help_panel=PANEL)
def info(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    json: Annotated[bool, typer.Option("--json", help="Print the whole card as JSON.")] = False,
) -> None:
    """Print what a model file says of itself.

    Example: landslip info event.safetensors
    """
    from landslip.learn.card import load_card

    card = load_card(model)
    if json:
        sys.stdout.write(card.model_dump_json(indent=2) + "\n")
        return
    ranges = ", ".join(f"{band} {low:g} to {high:g}" for band, low, high in card.scaling)
    rows = [
        ("architecture", f"{card.architecture}, {card.total_parameters:,} weights"),
        ("bands", ", ".join(card.bands)),
        ("scaling", ranges + (" (256 levels)" if card.quantised else "")),
        ("units, sensor", f"{', '.join(card.units) or 'not known'}; {card.sensor or 'not known'}"),
        ("pixel size", f"{card.pixel_size_m:.3g} m"),
        ("threshold", f"{card.threshold:.3f}"),
        ("halo, stride", f"{card.halo_px} px, {card.stride_px} px"),
        ("probabilities", "calibrated" if card.calibration else "model scores, not calibrated"),
        ("landslide share", "-" if card.landslide_share is None else f"{card.landslide_share:.1%}"),
        ("licence", card.licence or "none stated"),
        ("note", card.note or "-"),
    ]
    console.print(table_of(card.name, rows))
    if card.scores:
        console.print(table_of_scores("scores, pooled over pixels", card.scores))


@app.command(rich_help_panel=PANEL)
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    tiles: Annotated[Path, typer.Option(help="Tile set that the model did not learn from.")],
    out: Annotated[Path, typer.Option(help="Model to write.")],
    method: Annotated[str, typer.Option(help="platt, temperature or isotonic.")] = "platt",
    split: Annotated[str, typer.Option(help="Side of the tile set that decides.")] = "validation",
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Turn a model's scores into probabilities, for ground like that of the tiles.

    Example: landslip calibrate event.safetensors --tiles tiles --out calibrated.safetensors
    """
    from landslip.learn.calibrate import calibrate_model

    found = calibrate_model(
        model, tiles, out, method=method, split=split, device=device, precision=precision,
        overwrite=overwrite,
    )  # fmt: skip
    rows = [
        (
            each.split,
            f"calibration error {each.error_before:.4f} -> {each.error_after:.4f}, "
            f"Brier score {each.brier_before:.4f} -> {each.brier_after:.4f}",
        )
        for each in found
    ]
    console.print(table_of("probabilities", rows))
    say(f"{out}: believe them on ground like this; elsewhere they may be as wrong as before")


@app.command(rich_help_panel=PANEL)
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the paper's authors (.pth).")],
    out: Annotated[Path, typer.Option(help="Model to write.")],
    pixel_size: Annotated[
        float, typer.Option(callback=metres, help="Pixel size it learnt on (m).")
    ] = 0.5,
    overwrite: Overwrite = False,
) -> None:
    """Read a checkpoint of the paper's authors, without running what a pickle may hold.

    Example: landslip convert authors.pth --out authors.safetensors
    """
    from landslip.learn.authors import convert_checkpoint

    card = convert_checkpoint(checkpoint, out, pixel_size_m=pixel_size, overwrite=overwrite)
    say(f"{out}: {card.note}")
