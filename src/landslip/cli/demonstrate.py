"""The verb that shows all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landslip.cli.app import app, say
from landslip.cli.options import (
    Checked,
    Overwrite,
    names_in,
)


@app.command(rich_help_panel="Try it")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    scene: Annotated[str | None, typer.Option(help="Your scene instead of the valley.")] = None,
    inventory: Annotated[Path | None, typer.Option(help="Your landslides.")] = None,
    checked: Checked = None,
    bands: Annotated[str | None, typer.Option(help="Names of your scene's bands in order.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Your scene's sensor.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes another valley.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """The whole journey on a made-up valley, offline, in a few minutes: check to report.

    Example: landslip demo

    Example: landslip demo --scene scene.tif --inventory landslides.gpkg
    """
    from landslip.demo import run_demo
    from landslip.geo.errors import UsageError

    if (scene is None) != (inventory is None):
        raise UsageError("Cannot run on your files: name both --scene and --inventory.")
    report = run_demo(
        out, scene=scene, inventory=inventory, checked=checked, bands=names_in(bands),
        sensor=sensor, seed=seed, overwrite=overwrite,
    )  # fmt: skip
    say(f"Report: {report}")
