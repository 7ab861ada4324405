"""The door: parse, call, print; nothing else. Heavy modules are imported inside the commands."""

from __future__ import annotations

import inspect
import logging
import math
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from landslip import __version__

if TYPE_CHECKING:
    from landslip.geo.scene import StackedScene
    from landslip.prepare.sharpen.matching import SharpenOptions
    from landslip.prepare.split import TileOptions

STOPPED = 130
"""Exit status after Ctrl-C, as shells have it."""


class _Verbs(TyperGroup):
    """Says how Ctrl-C left things, which typer would turn into a bare exit."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            _fail(str(stopped) or "stopped; nothing half-written is left", STOPPED)


app = typer.Typer(
    name="landslip",
    cls=_Verbs,
    help="From a satellite scene to a landslide inventory.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# No markup: paths and names may hold brackets.
console = Console(markup=False, highlight=False)
errors = Console(stderr=True, markup=False, highlight=False)


def _metres(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is no length in metres: expected more than 0.")
    return value


def _under(heading: str) -> Callable[..., Any]:
    """Options that help shows under a heading."""

    def option(text: str, *names: str, **how: Any) -> Any:
        return typer.Option(*names, help=text, rich_help_panel=heading, **how)

    return option


_part = _under("What the scene is made of")
Aoi = Annotated[Path | None, _part("Polygons of the ground of interest.")]
Unusable = Annotated[Path | None, _part("Polygons or raster of cloud, shadow, snow: left out.")]
Sensor = Annotated[str | None, _part("sentinel-2, landsat-8, worldview-3, ...: what B4 means.")]
Method = Annotated[
    str | None, _part("gsa (adaptive Gram-Schmidt, default), gs, or brovey: how pairs are fused.")
]
Weights = Annotated[
    str | None, _part("Share of every multispectral band in the simulated pan: .2,.3,.3,.2.")
]
Coregister = Annotated[
    bool, _part("Move the bands of a pair by the measured misregistration.", "--coregister")
]


@dataclass(frozen=True)
class _Made:
    """What a scene is made of, the same on every verb; a command opens it."""

    bands: Annotated[
        str | None,
        _part("Names of the file's bands in order, '-' to leave one out; of a pair, bands to use."),
    ] = None
    sensor: Sensor = None
    pan: Annotated[str | None, _part("Panchromatic file, with --ms instead of a scene.")] = None
    ms: Annotated[str | None, _part("Multispectral file, sharpened with --pan as it is read.")] = (
        None
    )
    method: Method = None
    weights: Weights = None
    coregister: Coregister = False
    reflectance: Annotated[
        str | None, _part("auto, or the metadata file: use top-of-atmosphere reflectance.")
    ] = None
    add: Annotated[
        list[str] | None, _part("FILE:name,name: bands of another file. Repeatable.")
    ] = None
    dem: Annotated[
        Path | None, _part("Elevation model (m): bands elevation and slope, terrain.")
    ] = None
    pre: Annotated[Path | None, _part("Scene from before the event: bands pre_*.")] = None
    aoi: Aoi = None
    unusable: Unusable = None
    pixel_size: Annotated[
        float | None, _part("Resample the scene to this pixel size (m).", callback=_metres)
    ] = None

    @property
    def given(self) -> list[str]:
        """The options that were used, as people write them."""
        return _given(**vars(self))

    def open(self, scene: str | None, *, unnamed: bool = False) -> StackedScene:
        """The scene, or the pair, with all that is laid over it."""
        from landslip.geo.errors import UsageError
        from landslip.geo.scene import open_scene
        from landslip.prepare.sharpen.pansharpen import open_pansharpened

        first: Any = scene
        if (self.pan is None) != (self.ms is None) or (scene is None) == (self.pan is None):
            raise UsageError(
                "Cannot open the scene: name one file, or a pair with --pan and --ms. Correct the "
                "command."
            )
        if self.pan is None or self.ms is None:
            unused = {"--method", "--weights", "--coregister"} & set(self.given)
            if unused:
                raise UsageError(
                    f"Cannot use {', '.join(sorted(unused))} with one file: they are for pairs. "
                    "Name --pan and --ms, or leave them out."
                )
        else:
            if self.pixel_size is not None:
                raise UsageError(
                    "Cannot resample a pair while it is pansharpened. Write it first with landslip "
                    "pansharpen, and use the file with --pixel-size."
                )
            first = open_pansharpened(
                self.pan, self.ms, bands=_names(self.bands), sensor=self.sensor,
                unusable=self.unusable, unnamed=unnamed,
                options=_sharpening(self.method, self.weights, self.coregister),
            )  # fmt: skip
        return open_scene(
            first, bands=_names(self.bands), sensor=self.sensor, reflectance=self.reflectance,
            add=self.add or (), dem=self.dem, pre=self.pre, aoi=self.aoi, unusable=self.unusable,
            pixel_size_m=self.pixel_size, unnamed=unnamed,
        )  # fmt: skip


def _sharpening(
    method: str | None, weights: str | None, coregister: bool, **more: Any
) -> SharpenOptions:
    from landslip.prepare.sharpen.matching import DEFAULT_METHOD, SharpenOptions

    numbers = None if weights is None else _numbers(weights, "weights", ".2,.3,.3,.2")
    return SharpenOptions(
        method=method or DEFAULT_METHOD, weights=numbers, coregister=coregister, **more
    )


_told = _under("How landslides are outlined, and what is told of them")


@dataclass(frozen=True)
class _Outlined:
    """What is asked of an inventory, the same on every verb that makes one."""

    outline: Annotated[str, _told("contour (smooth) or pixels (exact edges).")] = "contour"
    simplify: Annotated[
        float, _told("Fewer vertices: outlines may move by so much (m), and never overlap.", min=0)
    ] = 0.0
    min_area: Annotated[float, _told("Leave out smaller polygons (m2).", min=0)] = 0.0
    min_hole: Annotated[float, _told("Fill smaller holes (m2).", min=0)] = 0.0
    split: Annotated[
        bool,
        _told("Cut bodies at their necks; parent_id tells what was one.", "--split"),
    ] = False
    near: Annotated[
        list[str] | None,
        _told("NAME=FILE: tell distances to rivers, roads, buildings. Repeatable."),
    ] = None
    rules: Annotated[Path | None, _told("File of rules that flag landslides.")] = None
    drop: Annotated[
        list[str] | None, _told("Flag whose landslides go to the layer 'dropped'. Repeatable.")
    ] = None
    event: Annotated[Path | None, _told("event.toml: name, dates, trigger, author, licence.")] = (
        None
    )
    volume: Annotated[
        str | None, _told("Relation of volume to area, for a range of volumes: larsen-soil, ...")
    ] = None

    def options(self) -> dict[str, Any]:
        """As `InventoryOptions` and `MapOptions` take them."""
        return {
            "outline": self.outline, "simplify_m": self.simplify, "min_area_m2": self.min_area,
            "min_hole_m2": self.min_hole, "split": self.split, "near": tuple(self.near or ()),
            "rules": self.rules, "drop": tuple(self.drop or ()), "event": self.event,
            "volume": self.volume,
        }  # fmt: skip


def _takes(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put the options of dataclasses in place of parameters of a command."""

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        shared: dict[str, list[inspect.Parameter]] = {}
        for parameter, group in groups.items():
            hints = get_type_hints(group, include_extras=True)
            shared[parameter] = [
                inspect.Parameter(
                    each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default,
                    annotation=hints[each.name],
                )
                for each in fields(group)
            ]  # fmt: skip
        own = inspect.signature(command, eval_str=True)
        kept = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, each in own.parameters.items()
            if name not in groups
        ]

        @wraps(command)
        def run(**values: Any) -> None:
            made = {
                parameter: group(**{each.name: values.pop(each.name) for each in shared[parameter]})
                for parameter, group in groups.items()
            }
            command(**made, **values)

        every = [*kept, *(each for options in shared.values() for each in options)]
        run.__signature__ = own.replace(parameters=every)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in every}
        return run

    return with_options


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
Block = Annotated[
    float | None,
    typer.Option(callback=_metres, help="Side of the blocks of intervals (m); default: 500."),
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


def _version(asked: bool) -> None:
    if asked:
        console.print(f"landslip {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a satellite scene to a landslide inventory."""
    log = logging.getLogger("landslip")
    log.handlers[:] = [_Lines()]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


class _Lines(logging.Handler):
    """Messages on standard error, a line each; warnings begin with "Note:"."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            _note(errors, text)
        else:
            errors.print(text, soft_wrap=True)


def _note(to: Console, text: str) -> None:
    to.print(Text.assemble(("Note:", "yellow"), f" {text}"), soft_wrap=True)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))


RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Files of a folder that are taken for scenes."""


def _rasters(named: list[str]) -> list[str]:
    """Scenes, with those of folders in the order of their names; some folders are a raster."""
    scenes: list[str] = []
    for text in named:
        inside = sorted(Path(text).iterdir()) if Path(text).is_dir() else []
        rasters = [str(path) for path in inside if path.suffix.lower() in RASTERS]
        scenes += rasters or [text]
    return scenes


def _numbers(text: str, what: str, example: str) -> tuple[float, ...]:
    from landslip.geo.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"Cannot use {what} '{text}': expected numbers with commas between, for example "
            f"--{what} {example}."
        ) from error


def _given(**options: object) -> list[str]:
    """Of these options, those that were typed, as they are typed."""
    typed = [name for name, value in options.items() if value is not None and value is not False]
    return [f"--{name.replace('_', '-')}" for name in typed]


def _tiling(
    size: int | None, stride: int | None, split: str | None, val: float | None,
    test: float | None, gap: int | None, seed: int,
) -> TileOptions:  # fmt: skip
    from landslip.prepare.split import TileOptions

    pixels = TileOptions.size if size is None else size
    return TileOptions(pixels, stride, split or TileOptions.split, val, test, gap, seed)


def _say(made: Any) -> None:
    """Print what was made, unless --quiet; lines are not wrapped, because people copy paths."""
    if logging.getLogger("landslip").isEnabledFor(logging.INFO):
        console.print(made, soft_wrap=isinstance(made, str))


def _table(title: str, rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


@app.command()
@_takes(made=_Made)
def check(
    made: _Made,
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
        _note(console, warning)
    if out is not None:
        _say(f"Picture: {out}")
    if to_8bit is not None:
        _say(f"Stretched to 8 bit: {to_8bit}")


@app.command()
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
    options = _sharpening(method, weights, coregister, sample=sample, threads=threads)
    scene = sharpen(
        pan, ms, out, bands=_names(bands), sensor=sensor, unusable=unusable, options=options,
        to=to, cog=cog, overwrite=overwrite,
    )  # fmt: skip
    with closing(scene):
        _say(_table(f"{out}", scene.rows()))
        if report is not None:
            from landslip.prepare.sharpen.quality import sharpen_quality, write_quality

            found = sharpen_quality(scene)
            write_quality(scene, found, report, overwrite=overwrite)
            _say(found.table())
            _say(f"{found.verdict()}. Report: {report}")


@app.command()
@_takes(made=_Made)
def tile(
    made: _Made,
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
        names, pixel_size = _names(made.bands), made.pixel_size
        if scene is not None or inventory is not None or names is None or pixel_size is None:
            raise UsageError(
                "Cannot tile from a folder: --from-folder needs --bands and --pixel-size, and "
                "takes no scene or inventory. Add what is missing."
            )
        unused = _given(
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
        options = _tiling(size, stride, split, val, test, gap, seed)
        with closing(made.open(scene)) as opened:
            tiles = make_tiles(
                opened, inventory, out, options=options, checked=checked, positive=positive,
                false_alarms=false_alarms, overwrite=overwrite,
            )  # fmt: skip
    _say(f"{out}: {tiles.summary()}")


@app.command()
@_takes(made=_Made)
def train(
    made: _Made,
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
    changes |= _changes(settings)
    named = recipe or ("modern" if start is None else "fine-tune")
    options = TrainOptions(
        model=model, recipe=recipe_named(named, changes), bands=_names(use),
        optional=_names(optional) or (), seed=seed, start=start, encoder_weights=encoder_weights,
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
        unused = [*made.given, *_given(
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
        tiling = _tiling(size, stride, split, val, test, gap, seed)
        with closing(made.open(scene)) as opened:
            card = train_on_scene(
                opened, inventory, out, tiling=tiling, checked=checked, positive=positive,
                false_alarms=false_alarms, options=options, overwrite=overwrite,
            )  # fmt: skip
    _say(_scores_table(f"{out}", card.scores))


def _scores_table(title: str, scores: dict[str, dict[str, float | None]]) -> Any:
    from rich.table import Table

    table = Table("ground", "precision", "recall", "F1", "IoU", title=title, title_justify="left")
    for split, found in scores.items():
        values = [found.get(key) for key in ("precision", "recall", "f1", "iou")]
        table.add_row(split, *("-" if value is None else f"{value:.3f}" for value in values))
    return table


@app.command()
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
    console.print(_table(card.name, rows))
    if card.scores:
        console.print(_scores_table("scores, pooled over pixels", card.scores))


@app.command(name="map")
@_takes(outlined=_Outlined, made=_Made)
def map_(
    outlined: _Outlined,
    made: _Made,
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
        as_float=as_float, tta=tta, scales=_numbers(scales, "scales", "1,0.5"), first=first,
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
    _say(f"{found.text}: {out}")


@app.command()
@_takes(outlined=_Outlined)
def vectorise(
    outlined: _Outlined,
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
    _say(f"{found.text}: {out}")


@app.command()
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
    for note in found.notes:
        _note(errors, note)
    _say(found.text)


@app.command()
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
    unused = _given(**(of_maps if is_of_models else of_models))
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
        _say(f"Report: {out / 'report.html'}")


@app.command()
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


@app.command()
@_takes(made=_Made)
def study(
    made: _Made,
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
        models=_names(models) or (), recipe=recipe, changes=_changes(settings), folds=folds,
        seeds=seeds, tile_px=StudyOptions.tile_px if size is None else size, stride_px=stride,
        block_m=StudyOptions.block_m if block is None else block, device=device,
        precision=precision,
    )  # fmt: skip
    with closing(made.open(scene)) as opened:
        found = run_study(opened, inventory, out, options=options, checked=checked)
    console.print(found.table())
    _say(f"Report: {out / 'report.html'}")


def _changes(settings: list[str] | None) -> dict[str, object]:
    """Settings of a recipe as they were typed."""
    from landslip.geo.errors import UsageError

    changes: dict[str, object] = {}
    for setting in settings or ():
        name, is_one, value = setting.partition("=")
        if not is_one:
            raise UsageError(f"Cannot read --set {setting}: expected NAME=VALUE, such as ema=0.99.")
        changes[name.strip().replace("-", "_")] = value.strip()
    return changes


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that evaluate or compare wrote.")],
) -> None:
    """Make the report of an evaluation again, from its scores and pictures.

    Example: landslip report scores/
    """
    from landslip.assess.evaluation_report import write_evaluation_report

    _say(f"Report: {write_evaluation_report(folder)}")


@app.command()
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
        _say(f"Curve and numbers: {out}")


@app.command()
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
    console.print(_table("probabilities", rows))
    _say(f"{out}: believe them on ground like this; elsewhere they may be as wrong as before")


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of the paper's authors (.pth).")],
    out: Annotated[Path, typer.Option(help="Model to write.")],
    pixel_size: Annotated[
        float, typer.Option(callback=_metres, help="Pixel size it learnt on (m).")
    ] = 0.5,
    overwrite: Overwrite = False,
) -> None:
    """Read a checkpoint of the paper's authors, without running what a pickle may hold.

    Example: landslip convert authors.pth --out authors.safetensors
    """
    from landslip.learn.authors import convert_checkpoint

    card = convert_checkpoint(checkpoint, out, pixel_size_m=pixel_size, overwrite=overwrite)
    _say(f"{out}: {card.note}")


@app.command()
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
        out, scene=scene, inventory=inventory, checked=checked, bands=_names(bands),
        sensor=sensor, seed=seed, overwrite=overwrite,
    )  # fmt: skip
    _say(f"Report: {report}")


def main() -> None:
    """Run the command line: one plain message for what goes wrong, exit 1 (data) or 2 (usage)."""
    from landslip.geo.errors import LandslipError, UsageError
    from landslip.geo.quiet import quiet_process

    quiet_process()
    try:
        app()
    except UsageError as error:
        _fail(str(error), 2)
    except LandslipError as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> NoReturn:
    text = Text(message) if code == STOPPED else Text.assemble(("Error:", "red"), f" {message}")
    errors.print(text, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
