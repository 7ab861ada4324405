"""How good a pansharpened scene is: Wald's protocol, consistency, and a picture.

At reduced resolution the truth is known: pan and bands are both made coarser by their ratio, fused,
and compared with the bands as they were delivered. At full resolution there is no truth; there a
sharpened image must give the bands back when it is averaged to their pixels, and show what the pan
shows. Plain cubic upsampling is measured beside: a method that does not beat it is not worth it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rich.table import Table

from landslip.geo.grid import Grid, Window
from landslip.geo.output import whole_folder
from landslip.geo.progress import track
from landslip.geo.raster import FileScene, Raster, Scene, create_raster, rasterio_window
from landslip.geo.resample import AveragedScene, UpsampledScene
from landslip.geo.scene import UnusableGround
from landslip.geo.windows import cover, spread
from landslip.prepare.sharpen.fusion import Moments, share_explained
from landslip.prepare.sharpen.matching import SharpenOptions, match_pair, shared_windows
from landslip.prepare.sharpen.pair import Pair, around
from landslip.prepare.sharpen.pansharpen import PansharpenedScene

BLOCK_PX = 32
"""Side of the squares in which the universal index is computed (px)."""
WINDOW_PX = 256
"""Side of the windows that are compared (px); a whole number of squares."""
MOST_WINDOWS = 256
"""Windows that are compared at reduced resolution, at most; evenly spread."""
FULL_PX = 64
"""Side of the windows at full resolution (multispectral px)."""
COPY_PX = 1024
FULL_WINDOWS = 36
"""Windows that are compared at full resolution, at most; evenly spread."""
UPSAMPLED = "cubic upsampling"
PICTURE_PX = 320
"""Side of the ground in the picture (pan px)."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How an image agrees with a reference, band by band; parts add with `+`."""

    ratio: float
    """Pixel size of the bands over that of the pan."""
    pixels: int
    """Pixels that were compared."""
    squares: Doubles
    """Sums of squared differences, shape (C,)."""
    sums: Doubles
    """Sums of the reference, shape (C,)."""
    angles: float
    """Sum of spectral angles (radians)."""
    angle_pixels: int
    """Pixels that have one: both spectra differ from 0."""
    indices: Doubles
    """Sums of the universal index over squares, shape (C,)."""
    blocks: NDArray[np.int64]
    """Squares whose index is defined, shape (C,)."""

    @classmethod
    def of(
        cls,
        image: NDArray[np.floating],
        reference: NDArray[np.floating],
        valid: NDArray[np.bool_],
        ratio: float,
    ) -> Self:
        """Compare two images, shape (C, H, W), where `valid`, shape (H, W), is True."""
        mine = image[:, valid].astype(np.float64)
        theirs = reference[:, valid].astype(np.float64)
        product = (mine * theirs).sum(axis=0)
        norms = np.sqrt((mine**2).sum(axis=0) * (theirs**2).sum(axis=0))
        known = norms > 0
        cosines = np.clip(product[known] / norms[known], -1, 1)
        indices, blocks = _universal_indices(
            image.astype(np.float64), reference.astype(np.float64), valid
        )
        return cls(
            ratio, mine.shape[1], ((mine - theirs) ** 2).sum(axis=1), theirs.sum(axis=1),
            float(np.arccos(cosines).sum()), int(known.sum()), indices, blocks,
        )  # fmt: skip

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.ratio, self.pixels + other.pixels, self.squares + other.squares,
            self.sums + other.sums, self.angles + other.angles,
            self.angle_pixels + other.angle_pixels, self.indices + other.indices,
            self.blocks + other.blocks,
        )  # fmt: skip

    @property
    def ergas(self) -> float:
        """Relative global error; 0 is perfect.

        Source: Wald 2000, Quality of high resolution synthesised images, eq. 4.
        """
        if not self.pixels or not self.sums.all():
            return math.nan
        mean = self.sums / self.pixels
        return float(100 / self.ratio * np.sqrt((self.squares / self.pixels / mean**2).mean()))

    @property
    def sam_deg(self) -> float:
        """Mean spectral angle (degrees); 0 is perfect. Source: Yuhas, Goetz, Boardman 1992."""
        return math.degrees(self.angles / self.angle_pixels) if self.angle_pixels else math.nan

    @property
    def uiqi(self) -> tuple[float, ...]:
        """Universal image quality index by band, mean over squares of 32 px; 1 is perfect.

        Source: Wang and Bovik 2002, IEEE Signal Processing Letters 9(3), eq. 1.
        """
        return tuple(
            float(total / count) if count else math.nan
            for total, count in zip(self.indices, self.blocks, strict=True)
        )


def _universal_indices(
    image: Doubles, reference: Doubles, valid: NDArray[np.bool_]
) -> tuple[Doubles, NDArray[np.int64]]:
    """Sums over squares that are wholly valid, and their number, by band."""
    height, width = (side // BLOCK_PX * BLOCK_PX for side in valid.shape)

    def squares(planes: NDArray[Any]) -> NDArray[Any]:
        cut = planes[..., :height, :width]
        shape = (*cut.shape[:-2], height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
        return np.moveaxis(cut.reshape(shape), -3, -2).reshape(*cut.shape[:-2], -1, BLOCK_PX**2)

    whole = squares(valid).all(axis=-1)
    mine, theirs = squares(image)[:, whole], squares(reference)[:, whole]
    mean, other = mine.mean(axis=-1), theirs.mean(axis=-1)
    covariance = (mine * theirs).mean(axis=-1) - mean * other
    divisor = (mine.var(axis=-1) + theirs.var(axis=-1)) * (mean**2 + other**2)
    defined = divisor > 0
    index = np.divide(4 * covariance * mean * other, divisor, out=np.zeros_like(mean),
                      where=defined)  # fmt: skip
    return index.sum(axis=-1), defined.sum(axis=-1)


@dataclass(frozen=True)
class Row:
    """One method's figures."""

    method: str
    """`cubic upsampling`, or the method of the fusion."""
    ergas: float
    """Relative global error at reduced resolution; 0 is perfect."""
    sam_deg: float
    """Spectral angle at reduced resolution (degrees); 0 is perfect."""
    uiqi: dict[str, float]
    """Universal index at reduced resolution, by band; 1 is perfect."""
    consistency_ergas: float
    """Error of the sharpened image averaged to the bands' pixels; 0 is perfect."""
    pan_explained: float
    """Share of the pan's variance that the bands explain at full resolution; 1 is perfect."""

    @property
    def mean_uiqi(self) -> float:
        """Mean over the bands."""
        return float(np.mean(list(self.uiqi.values())))


@dataclass(frozen=True)
class SharpenQuality:
    """Quality of a pansharpened scene, always beside plain cubic upsampling."""

    rows: tuple[Row, ...]
    """Cubic upsampling first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What was chosen and measured."""

    def table(self) -> Table:
        """For a terminal: a measure a line, a method a column."""
        table = Table("measure", *(row.method for row in self.rows))

        def line(name: str, digits: int, values: Iterable[float]) -> None:
            table.add_row(name, *(f"{value:.{digits}f}" for value in values))

        line("ERGAS (0 is perfect)", 2, (row.ergas for row in self.rows))
        line("SAM (deg, 0)", 2, (row.sam_deg for row in self.rows))
        line("UIQI (1)", 3, (row.mean_uiqi for row in self.rows))
        for band in self.rows[0].uiqi:
            line(f"UIQI {band} (1)", 3, (row.uiqi[band] for row in self.rows))
        line("consistency, ERGAS (0)", 2, (row.consistency_ergas for row in self.rows))
        line("pan explained (1)", 3, (row.pan_explained for row in self.rows))
        return table

    def verdict(self) -> str:
        """In words: does the method beat upsampling, and where does it lose."""
        plain, sharp = self.rows[0], self.rows[-1]
        pairs = {
            "ERGAS": (plain.ergas, sharp.ergas),
            "SAM": (plain.sam_deg, sharp.sam_deg),
            "UIQI": (1 - plain.mean_uiqi, 1 - sharp.mean_uiqi),
        }
        # A thousandth is no difference: Brovey keeps angles but for rounding.
        won = [name for name, (before, after) in pairs.items() if after < 0.999 * before]
        lost = [name for name, (before, after) in pairs.items() if after > 1.001 * before]
        lost += [f"UIQI of {band}" for band, index in sharp.uiqi.items()
                 if "UIQI" in won and index < plain.uiqi[band]]  # fmt: skip
        text = f"{sharp.method} beats cubic upsampling in {', '.join(won) or 'nothing'}"
        return f"{text}, and loses in {', '.join(lost)}" if lost else text

    def to_json(self) -> str:
        """All figures; undefined ones are null."""
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"rows": _plain(rows), "settings": self.settings}, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sharpen_quality(
    scene: PansharpenedScene, *, methods: Sequence[str] | None = None
) -> SharpenQuality:
    """Measure a pansharpened pair beside cubic upsampling.

    At reduced resolution up to 256 windows of 256 multispectral pixels are compared, at full
    resolution up to 36 of 64, evenly spread. At reduced resolution statistics are measured anew, as
    Wald's protocol asks; where the bands were moved, the pan is averaged to where they belong.

    Args:
        scene: The pair.
        methods: Methods to measure; None: the one of the scene.

    Source: Wald, Ranchin, Mangolini 1997, PERS 63(6); pan explained is 1 - D_S of Alparone et al.
        2018, Spatial consistency for full-scale assessment of pansharpening, IGARSS.
    """
    chosen = tuple(methods or (scene.matching.fusion.method,))
    asked = {method: _options(scene, method) for method in chosen}
    unusable = scene.matching.unusable
    with tempfile.TemporaryDirectory(prefix="landslip-quality-") as folder:
        reduced = _reduced(scene.pair, Path(folder))
        agreements = _at_reduced_resolution(scene.pair, reduced, asked, unusable)
        reduced.close()
    full = _at_full_resolution(scene, asked, unusable)
    rows = tuple(
        Row(
            method, found.ergas, found.sam_deg,
            dict(zip(scene.bands, found.uiqi, strict=True)),
            full[method].agreement.ergas, share_explained(full[method].moments),
        )
        for method, found in agreements.items()
    )  # fmt: skip
    return SharpenQuality(rows, scene.settings)


def _options(scene: PansharpenedScene, method: str) -> SharpenOptions:
    """What was asked of the scene, for another method; statistics of all pixels."""
    asked = scene.matching.options
    weights = None if method == "gsa" else asked.weights
    return SharpenOptions(method=method, weights=weights, threads=asked.threads)


def _reduced(pair: Pair, folder: Path) -> Pair:
    """Both files made coarser by their ratio, in float32."""
    fine, ratio = pair.bands.grid, pair.ratio
    coarse = Grid(
        fine.crs, fine.transform * Affine.scale(ratio), max(int(fine.height / ratio), 1),
        max(int(fine.width / ratio), 1),
    )  # fmt: skip
    _copy(pair.averaged, fine, folder / "pan.tif")
    _copy(AveragedScene(pair.bands, coarse), coarse, folder / "bands.tif")
    pan = FileScene(str(folder / "pan.tif"), {"pan": 1})
    bands = FileScene(
        str(folder / "bands.tif"), {band: n for n, band in enumerate(pair.bands.bands, 1)}
    )
    averaged = AveragedScene(pan, coarse)
    return Pair(pan, bands, pair.chosen, averaged, UpsampledScene(bands, fine), None)


def _copy(scene: Scene, grid: Grid, path: Path) -> None:
    with create_raster(
        path, grid, bands=scene.bands, dtype="float32", nodata=math.nan, options={"zlevel": 1}
    ) as out:
        for window in cover(grid, COPY_PX):
            raster = scene.read(window, scene.bands)
            values = raster.values.astype(np.float32)
            values[:, ~raster.valid] = np.nan
            out.write(values, window=rasterio_window(window))


def _at_reduced_resolution(
    pair: Pair,
    reduced: Pair,
    asked: Mapping[str, SharpenOptions],
    unusable: str | Path | None,
) -> dict[str, Agreement]:
    """How bands fused at reduced resolution agree with those that were delivered."""
    names, ratio = pair.chosen, pair.ratio
    scenes = {
        method: PansharpenedScene(reduced, match_pair(reduced, options, unusable))
        for method, options in asked.items()
    }
    cloud = UnusableGround(unusable, pair.averaged.grid)
    windows = spread(shared_windows(pair, WINDOW_PX), MOST_WINDOWS)
    found: dict[str, list[Agreement]] = {UPSAMPLED: [], **{method: [] for method in asked}}
    for window in track(windows, total=len(windows), what="Comparing at reduced resolution"):
        truth = pair.bands.read(window, names)
        below = reduced.upsampled.read(window, names)
        sharp = {method: scene.read(window, names) for method, scene in scenes.items()}
        valid = pair.seen(truth) & below.valid & ~cloud.read(window)
        for each in sharp.values():
            valid &= each.valid
        for method, image in {UPSAMPLED: below, **sharp}.items():
            found[method].append(Agreement.of(image.values, truth.values, valid, ratio))
    cloud.close()
    return {method: reduce(add, parts) for method, parts in found.items()}


@dataclass(frozen=True, eq=False)
class _Full:
    """What is measured at full resolution; parts add with `+`."""

    agreement: Agreement
    """Of the image, averaged to the bands' pixels, with the bands."""
    moments: Moments
    """Of the image's bands and the pan."""

    def __add__(self, other: _Full) -> _Full:
        return _Full(self.agreement + other.agreement, self.moments + other.moments)


def _at_full_resolution(
    scene: PansharpenedScene,
    asked: Mapping[str, SharpenOptions],
    unusable: str | Path | None,
) -> dict[str, _Full]:
    pair, ratio = scene.pair, scene.pair.ratio
    scenes = {
        method: scene
        if method == scene.matching.fusion.method
        else PansharpenedScene(pair, match_pair(pair, options, unusable))
        for method, options in asked.items()
    }
    cloud = UnusableGround(unusable, pair.averaged.grid)
    windows = spread(shared_windows(pair, FULL_PX), FULL_WINDOWS)
    found: dict[str, list[_Full]] = {}
    for window in track(windows, total=len(windows), what="Comparing at full resolution"):
        own = pair.averaged.grid.crop(window)
        ground = around(own, pair.pan.grid).grown(2).intersection(pair.pan.grid.window)
        if ground is None:
            continue
        truth = pair.bands.read(window, pair.chosen)
        pan = scene.pan(ground)
        images = {method: each.read(ground, pair.chosen) for method, each in scenes.items()}
        for method, image in {UPSAMPLED: scene.upsampled(ground), **images}.items():
            back = _averaged(image, own)
            valid = pair.seen(truth) & back.valid & ~cloud.read(window)
            both = image.valid & pan.valid
            observed = np.concatenate([image.values[:, both], pan.values[:, both]])
            part = _Full(
                Agreement.of(back.values, truth.values, valid, ratio), Moments.of(observed)
            )
            found.setdefault(method, []).append(part)
    cloud.close()
    return {method: reduce(add, parts) for method, parts in found.items()}


def _averaged(raster: Raster, grid: Grid) -> Raster:
    """Pixels in memory averaged over the larger pixels of another grid."""
    values = raster.values.astype(np.float32)
    values[:, ~raster.valid] = np.nan
    with MemoryFile(ext=".tif") as memory:
        with create_raster(
            memory.name, raster.grid, bands=raster.bands, dtype="float32", nodata=math.nan
        ) as out:
            out.write(values)
        names = {band: number for number, band in enumerate(raster.bands, 1)}
        with closing(FileScene(memory.name, names)) as scene:
            return AveragedScene(scene, grid).read(grid.window, raster.bands)


def write_quality(
    scene: PansharpenedScene, quality: SharpenQuality, out: Path, *, overwrite: bool = False
) -> None:
    """Write ``quality.json`` and ``quality.png`` into a folder.

    Raises:
        OutputError: The folder exists, or cannot be written.
    """
    with whole_folder(out, "quality.json", overwrite=overwrite) as folder:
        (folder / "quality.json").write_text(quality.to_json(), encoding="utf-8")
        _draw(scene, folder / "quality.png")


def _draw(scene: PansharpenedScene, path: Path) -> None:
    """Multispectral, pan, cubic upsampling and result of the same ground, side by side."""
    from matplotlib.figure import Figure

    ground = _most_textured(scene)
    pair = scene.pair
    natural = ("red", "green", "blue")
    names = scene.bands[: 3 if len(scene.bands) >= 3 else 1]
    names = natural if set(natural) <= set(scene.bands) else names
    sharp, plain, pan = scene.read(ground, names), scene.upsampled(ground), scene.pan(ground)
    keep = [scene.bands.index(name) for name in names]
    values = plain.values[keep][:, plain.valid]
    low, high = np.percentile(values, [1, 99], axis=1) if values.size else (0, 1)

    def colours(planes: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
        scaled = (np.moveaxis(planes, 0, -1) - low) / np.maximum(np.subtract(high, low), 1e-9)
        shown = np.where(valid[..., None], np.clip(scaled, 0, 1), 0.6)
        return np.asarray(np.repeat(shown, 3, -1) if shown.shape[-1] == 1 else shown)

    grey = pan.values[0][pan.valid]
    ends = np.percentile(grey, [1, 99]) if grey.size else np.array([0.0, 1.0])
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    axes = figure.subplots(1, 4)
    # The bands as they are: every pan pixel shows the multispectral one that holds its middle.
    coarse = _nearest(pair, ground, names)
    panels = (
        ("multispectral", colours(coarse.values, coarse.valid)),
        ("panchromatic", np.clip((pan.values[0] - ends[0]) / max(np.ptp(ends), 1e-9), 0, 1)),
        (UPSAMPLED, colours(plain.values[keep], plain.valid)),
        (f"pansharpened ({scene.matching.fusion.method})", colours(sharp.values, sharp.valid)),
    )
    for place, (title, image) in zip(axes, panels, strict=True):
        place.imshow(image, cmap="gray", interpolation="nearest")
        place.set_title(title, fontsize=10, loc="left")
        place.set_axis_off()
    size = scene.grid.pixel_size_m
    unit = "units" if scene.grid.crs is None else "m"
    figure.suptitle(
        f"{ground.height * size:.0f} x {ground.width * size:.0f} {unit}; bands shown: "
        f"{', '.join(names)}", fontsize=9, x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=140, format="png")


def _nearest(pair: Pair, window: Window, names: Sequence[str]) -> Raster:
    target = pair.upsampled.grid
    laid = pair.bands.laid_over(target, Resampling.nearest)
    with closing(laid):
        return laid.read(window, names)


def _most_textured(scene: PansharpenedScene) -> Window:
    """The window, of a few evenly spread ones, in which the pan varies most from px to px."""
    windows = spread(list(cover(scene.grid, PICTURE_PX)), FULL_WINDOWS)

    def texture(window: Window) -> float:
        pan = scene.pan(window)
        share = float((pan.valid & scene.pair.upsampled.valid(window)).mean())
        is_full = window.height == window.width == min(PICTURE_PX, *scene.grid.shape)
        # A median, so that the edge of a cloud counts for nothing.
        steps = np.abs(np.diff(pan.values[0].astype(np.float64), axis=1))
        return float(np.median(steps)) * share * (1.0 if is_full else 0.1)

    return max(windows, key=texture)
