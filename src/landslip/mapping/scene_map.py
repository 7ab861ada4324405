"""Verb `map`: windows through a model into a probability raster, then landslides."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.shutil
import shapely
from numpy.typing import NDArray

from landslip import __version__
from landslip.geo.bands import sources_of
from landslip.geo.errors import BandError, DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.interruption import Interruption
from landslip.geo.inventory import refuse_reviewed, write_layers
from landslip.geo.output import refuse_existing, require_space, whole_folder
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, encode
from landslip.geo.progress import duration, track
from landslip.geo.raster import (
    FileScene,
    Scene,
    create_raster,
    fingerprint,
    rasterio_window,
)
from landslip.geo.scene import (
    NODATA,
    OBSERVED,
    REASONS,
    SceneLike,
    StackedScene,
    as_scene,
    source_records,
)
from landslip.geo.windows import cover
from landslip.learn.card import ModelCard, load_model
from landslip.learn.device import Compute
from landslip.learn.predict import probabilities
from landslip.learn.radiometry import choose_scaling
from landslip.mapping.attributes import frame_crs, with_attributes
from landslip.mapping.outlines import (
    Strip,
    join_strips,
    landslide_polygons,
    pixel_strip,
    require_outline,
    strip_windows,
    to_crs,
)
from landslip.prepare.scaling import Scaling, bands_at_hand, read_inputs
from landslip.prepare.tile_set import PIXEL_SIZE_RATIOS

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

CORE_PX = 512
"""Rows and columns of the part of a window that is kept."""


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How a scene is mapped."""

    threshold: float | None = None
    """Probability from which ground counts as landslide; None: the card's."""
    outline: str = "contour"
    """`contour` (smooth, sub-pixel) or `pixels` (along pixel edges)."""
    scaling: str = "auto"
    """`model`, `scene` or `auto`: whose numbers the network is shown (`choose_scaling`)."""
    min_area_m2: float = 0.0
    """Smaller polygons are left out (m2); the raster keeps them."""
    as_float: bool = False
    """True: `probability.tif` in float32 with NaN, instead of one byte."""
    core_px: int = CORE_PX
    """Rows and columns kept of a window; rounded up to the model's stride."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bf16 or fp16."""


@dataclass(frozen=True)
class MapResult:
    """What was mapped."""

    folder: Path
    """Where the files lie."""
    landslides: int
    """Number of polygons."""
    area_m2: float
    """Their area (m2)."""
    observed_km2: float
    """Ground that was mapped (km2)."""
    threshold: float
    """Threshold of the outlines."""
    seconds: float
    """Wall time (s)."""


def map_scene(
    scene: SceneLike,
    model: str | Path,
    out: str | Path,
    *,
    options: MapOptions | None = None,
    overwrite: bool = False,
) -> MapResult:
    """Map a scene: probabilities, landslide polygons, what was seen, and a picture.

    Writes ``probability.tif`` (COG; bytes 0 to 254 for 0 to 1, 255 = not observed),
    ``landslides.gpkg`` (layers landslides, observed, not_observed), ``run.json`` and
    ``quicklook.png``. Memory grows with the
    polygons, not with the scene's pixels; where windows meet, they agree because
    each is computed with the model's halo and aligned to its stride.

    Args:
        scene: Scene, or the path of a file that names its bands.
        model: Model file.
        out: Folder to write; it appears when it is whole.
        options: Threshold, outline, device; None for the defaults.
        overwrite: Replace a folder that exists.

    Raises:
        ModelError: The model cannot be used.
        BandError: The scene lacks a band that the model needs.
        DataError: The pixel size does not fit, or nothing is usable.
        OutputError: `out` exists, or cannot be written.
    """
    begun = time.monotonic()
    options, out = options or MapOptions(), Path(out)
    refuse_existing(out, overwrite=overwrite, marker="run.json")
    refuse_reviewed(out)
    require_outline(options.outline)
    opened = as_scene(scene)
    card, network = load_model(model)
    missing = _require_fitting(opened, card)
    threshold = card.threshold if options.threshold is None else options.threshold
    if not 0 < threshold <= 1:
        raise DataError(f"Cannot map at threshold {threshold:g}: it must lie between 0 and 1.")
    chosen = choose_scaling(opened, card, options.scaling)
    if opened.grid.crs is None:
        log.warning("the scene has no coordinate reference system: polygons carry no position")
    compute = Compute.choose(options.device, options.precision)
    network = compute.place(network)
    height, width = opened.grid.shape
    require_space(out, height * width * (10 if options.as_float else 4))
    with whole_folder(out, "run.json", overwrite=overwrite) as folder:
        windows = mapped_windows(opened, card, network, compute, options.core_px, chosen.scaling)
        observed = _write_probability(folder, opened.grid, windows, card, options, threshold)
        if not observed:
            raise DataError(
                "Cannot map: no pixel of the scene is usable. Check nodata, --aoi and --unusable "
                "with landslip check."
            )
        result = FileScene(str(folder / "probability.tif"), {"probability": 1})
        polygons = landslide_polygons(result, threshold, outline=options.outline)
        frame = with_attributes(polygons, result)
        frame = frame[frame["area_m2"] >= options.min_area_m2].reset_index(drop=True)
        frame["id"] = np.arange(1, len(frame) + 1)
        result.close()
        ground = _ground_layers(folder / "ground.tif")
        write_layers(folder / "landslides.gpkg", {"landslides": frame, **ground})
        (folder / "ground.tif").unlink()
        from landslip.mapping.pictures import write_quicklook

        title = f"{len(frame)} landslides by {card.name} at {threshold:.2f}"
        picture = folder / "quicklook.png"
        write_quicklook(picture, opened, card.required_bands, frame.geometry, title)
        seconds = time.monotonic() - begun
        summary = MapResult(
            out, len(frame), float(frame["area_m2"].sum()),
            float(ground["observed"]["area_m2"].sum()) / 1e6, threshold, seconds,
        )  # fmt: skip
        record = _run_record(opened, model, card, compute, options, summary)
        record["scaling"] = chosen.record()
        record["missing_bands"] = missing
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    log.info(
        "%s: %d landslides, %.0f m2, on %.3f km2 of observed ground in %s",
        out, summary.landslides, summary.area_m2, summary.observed_km2, duration(seconds),
    )  # fmt: skip
    return summary


def _require_fitting(scene: Scene, card: ModelCard) -> list[str]:
    """Raise where the model cannot map the scene; returns optional bands that it lacks."""
    needed = card.required_bands
    try:
        sources_of(needed, scene.bands)
    except BandError as error:
        missing = [band for band in needed if band not in scene.bands]
        raise BandError(
            f"Cannot map: the model needs bands {', '.join(needed)}; the scene names "
            f"{', '.join(scene.bands)} ({', '.join(missing)} missing). Name its bands with "
            "--bands, add files with --add, --dem or --pre, or choose another model."
        ) from error
    ratio = scene.grid.pixel_size_m / card.pixel_size_m
    low, high = PIXEL_SIZE_RATIOS
    if not low <= ratio <= high:
        raise DataError(
            f"Cannot map: the scene's pixels are {scene.grid.pixel_size_m:.3g} m, the model "
            f"learnt on {card.pixel_size_m:.3g} m. Resample with --pixel-size "
            f"{card.pixel_size_m:.3g}, or train on this pixel size."
        )
    at_hand = bands_at_hand(card.bands, scene.bands, card.optional_bands)
    lacking = [band for band in card.bands if band not in at_hand]
    if lacking:
        log.warning("the scene lacks optional bands: mapped without %s", ", ".join(lacking))
    return lacking


def _write_probability(
    folder: Path,
    grid: Grid,
    mapped: MappedWindows,
    card: ModelCard,
    options: MapOptions,
    threshold: float,
) -> int:
    """Write ``probability.tif`` and the codes of the ground; returns the observed pixels."""
    raw = folder / "raw.tif"
    dtype, nodata = ("float32", float("nan")) if options.as_float else ("uint8", UNKNOWN_CODE)
    observed = 0
    with (
        Interruption() as interruption,
        # Closed before the scene is: a reader in another thread must not outlive its file.
        closing(mapped) as windows,
        create_raster(raw, grid, bands=["probability"], dtype=dtype, nodata=nodata) as out,
        create_raster(folder / "ground.tif", grid, bands=["ground"], dtype="uint8") as ground,
    ):
        for window, scores, codes in windows:
            box = rasterio_window(window)
            seen = codes == OBSERVED
            observed += int(seen.sum())
            masked = np.where(seen, scores, np.nan).astype(np.float32)
            out.write(masked if options.as_float else encode(masked), 1, window=box)
            ground.write(codes, 1, window=box)
            interruption.stop_if_asked()
        if not options.as_float:
            out.scales = (1 / TOP_CODE,)
        out.update_tags(
            LANDSLIP_THRESHOLD=repr(threshold),
            LANDSLIP_MODEL=card.name,
            LANDSLIP_VERSION=__version__,
        )
    # Opening the COG driver for writing would hold the whole raster in memory; copying does not.
    rasterio.shutil.copy(
        raw, folder / "probability.tif", driver="COG", compress="deflate",
        overview_resampling="average", bigtiff="if_safer",
    )  # fmt: skip
    raw.unlink()
    return observed


MappedWindows = Generator[tuple[Window, NDArray[np.float32], NDArray[np.uint8]], None, None]
"""Windows with their probabilities (H, W) and ground codes (H, W)."""


def mapped_windows(
    scene: Scene,
    card: ModelCard,
    network: nn.Module,
    compute: Compute,
    core_px: int,
    scaling: Scaling,
) -> MappedWindows:
    """Every window of a scene with its probabilities (H, W) and ground codes (H, W).

    Windows are all of one size, begin at multiples of the model's stride, and overlap by its halo;
    the next one is read while this one is computed. Windows without usable ground cost nothing.
    """
    stride = card.stride_px
    halo = -(-card.halo_px // stride) * stride
    longest = max(scene.grid.shape)
    core = -(-min(core_px, longest) // stride) * stride
    windows = list(cover(scene.grid, core))

    def read(window: Window) -> tuple[NDArray[np.float32] | None, NDArray[np.uint8]]:
        codes = (
            scene.excluded(window)
            if isinstance(scene, StackedScene)
            else np.full((window.height, window.width), OBSERVED, dtype=np.uint8)
        )
        if not (codes == OBSERVED).any():
            return None, codes
        around = Window(window.row, window.col, core, core).grown(halo)
        image, valid = read_inputs(scene, around, scaling, card.optional_bands)
        valid = valid[window.relative_to(around).slices]
        codes[(codes == OBSERVED) & ~valid] = NODATA
        return (image if valid.any() else None), codes

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(read, windows[0])
        for number, window in enumerate(track(windows, total=len(windows), what="Mapping")):
            image, codes = coming.result()
            if number + 1 < len(windows):
                coming = reader.submit(read, windows[number + 1])
            shape = window.height, window.width
            if image is None:
                yield window, np.zeros(shape, dtype=np.float32), codes
                continue
            scores = probabilities(network, image[None], compute, stride)[0]
            yield window, scores[halo : halo + shape[0], halo : halo + shape[1]], codes


def _ground_layers(path: Path) -> dict[str, Any]:
    """Layers `observed` and `not_observed`, with the reason, from the written codes."""
    import geopandas as gpd

    from landslip.geo.inventory import areas_m2

    scene = FileScene(str(path), {"ground": 1})
    grid = scene.grid

    def strips(code: int) -> Iterator[Strip]:
        for window in strip_windows(grid):
            codes = scene.read(window, ["ground"]).values[0]
            yield pixel_strip(codes == code, window, grid)

    rows_of: dict[str, list[dict[str, Any]]] = {"observed": [], "not_observed": []}
    for code in (OBSERVED, *REASONS):
        parts = to_crs(np.array(list(join_strips(strips(code))), dtype=object), grid)
        if not parts.size:
            continue
        area = {"area_m2": round(float(areas_m2(parts, grid.crs).sum()), 3)}
        row = {**area, "geometry": shapely.MultiPolygon(list(parts))}
        if code == OBSERVED:
            rows_of["observed"].append(row)
        else:
            rows_of["not_observed"].append({"reason": REASONS[code], **row})
    scene.close()
    columns = {"observed": ["area_m2"], "not_observed": ["reason", "area_m2"]}
    return {
        name: gpd.GeoDataFrame(
            found, columns=[*columns[name], "geometry"], geometry="geometry", crs=frame_crs(grid)
        )
        for name, found in rows_of.items()
    }


def _run_record(
    scene: Scene,
    model: str | Path,
    card: ModelCard,
    compute: Compute,
    options: MapOptions,
    result: MapResult,
) -> dict[str, Any]:
    return {
        "landslip": __version__,
        "torch": version("torch"),
        "compute": compute.text,
        "sources": source_records(scene),
        "model": {"name": card.name, "architecture": card.architecture, **fingerprint(model)},
        "grid": _grid_record(scene.grid),
        "options": {**asdict(options), "threshold": result.threshold},
        "result": {
            "landslides": result.landslides,
            "area_m2": round(result.area_m2, 1),
            "observed_km2": round(result.observed_km2, 6),
        },
        "seconds": round(result.seconds, 2),
    }


def _grid_record(grid: Grid) -> dict[str, Any]:
    return {
        "crs": "" if grid.crs is None else grid.crs.to_string(),
        "height": grid.height,
        "width": grid.width,
        "pixel_size_m": grid.pixel_size_m,
    }
