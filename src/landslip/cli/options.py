"""Options that several verbs share, and what their texts mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from landslip.prepare.sharpen.matching import SharpenOptions
    from landslip.prepare.split import TileOptions


def metres(value: float | None) -> float | None:
    """A length, or a message about it."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is no length in metres: expected more than 0.")
    return value


def under(heading: str) -> Callable[..., Any]:
    """Options that help shows under a heading."""

    def option(text: str, *names: str, **how: Any) -> Any:
        return typer.Option(*names, help=text, rich_help_panel=heading, **how)

    return option


part = under("What the scene is made of")
Aoi = Annotated[Path | None, part("Polygons of the ground of interest.")]
Unusable = Annotated[Path | None, part("Polygons or raster of cloud, shadow, snow: left out.")]
Sensor = Annotated[str | None, part("sentinel-2, landsat-8, worldview-3, ...: what B4 means.")]
Method = Annotated[
    str | None,
    part("gsa (adaptive Gram-Schmidt, default), gs, or brovey: how pairs are fused."),
]
Weights = Annotated[
    str | None, part("Share of every multispectral band in the simulated pan: .2,.3,.3,.2.")
]
Coregister = Annotated[
    bool, part("Move the bands of a pair by the measured misregistration.", "--coregister")
]
Checked = Annotated[
    Path | None, typer.Option(help="Polygons inside which everything was inspected.")
]
Positive = Annotated[
    int | None, typer.Option(help="Value of landslides in a label raster, where it is not 1.")
]
FalseAlarms = Annotated[
    Path | None,
    typer.Option(help="Polygons over what a model wrongly mapped: shown more often."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bf16 or fp16.")]
TileSize = Annotated[
    int | None, typer.Option("--size", help="Rows and columns of a tile (px); default: 600.")
]
Stride = Annotated[int | None, typer.Option(help="Pixels from tile to tile; default: the size.")]
Split = Annotated[
    str | None,
    typer.Option(help="blocks (default), random, columns:A,B, or polygons with a column split."),
]
Val = Annotated[float | None, typer.Option(help="Share of the ground for validation: .2.")]
Test = Annotated[float | None, typer.Option(help="Share of the ground for the test: .2.")]
Gap = Annotated[int | None, typer.Option(help="Pixels between two blocks; default: one tile.")]
Block = Annotated[
    float | None,
    typer.Option(callback=metres, help="Side of the blocks of intervals (m); default: 500."),
]


def names_in(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between."""
    return None if text is None else tuple(each.strip() for each in text.split(","))


def numbers_in(text: str, what: str, example: str) -> tuple[float, ...]:
    """Numbers with commas between; `what` is the option, `example` what it may be."""
    from landslip.geo.errors import UsageError

    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"Cannot use {what} '{text}': expected numbers with commas between, for example "
            f"--{what} {example}."
        ) from error


def changes_in(settings: list[str] | None) -> dict[str, object]:
    """Settings of a recipe as they were typed."""
    from landslip.geo.errors import UsageError

    changes: dict[str, object] = {}
    for setting in settings or ():
        name, is_one, value = setting.partition("=")
        if not is_one:
            raise UsageError(f"Cannot read --set {setting}: expected NAME=VALUE, such as ema=0.99.")
        changes[name.strip().replace("-", "_")] = value.strip()
    return changes


def names_of_given(**options: object) -> list[str]:
    """Of these options, those that were typed, as they are typed."""
    typed = [name for name, value in options.items() if value is not None and value is not False]
    return [f"--{name.replace('_', '-')}" for name in typed]


def tiling_of(
    size: int | None, stride: int | None, split: str | None, val: float | None,
    test: float | None, gap: int | None, seed: int,
) -> TileOptions:  # fmt: skip
    """How ground is cut and split; the defaults where nothing was typed."""
    from landslip.prepare.split import TileOptions

    pixels = TileOptions.size if size is None else size
    return TileOptions(pixels, stride, split or TileOptions.split, val, test, gap, seed)


def sharpening_of(
    method: str | None, weights: str | None, coregister: bool, **more: Any
) -> SharpenOptions:
    """How a pair is sharpened; the defaults where nothing was typed."""
    from landslip.prepare.sharpen.matching import DEFAULT_METHOD, SharpenOptions

    numbers = None if weights is None else numbers_in(weights, "weights", ".2,.3,.3,.2")
    return SharpenOptions(
        method=method or DEFAULT_METHOD, weights=numbers, coregister=coregister, **more
    )
