"""Verb `map`: scenes through models into probability rasters, then landslides."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from landslip.geo.output import only_process, refuse_existing, require_space, whole_folder
from landslip.geo.parallel import peak_memory_bytes
from landslip.geo.progress import duration
from landslip.geo.scene import SceneLike
from landslip.mapping.deadline import estimate, is_long
from landslip.mapping.finish import finish, record
from landslip.mapping.options import MapEstimate, MapOptions, MapResult
from landslip.mapping.run import MapRun
from landslip.mapping.unfinished import remove_unfinished

log = logging.getLogger(__name__)


def map_scene(
    scene: SceneLike,
    model: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    options: MapOptions | None = None,
    overwrite: bool = False,
) -> MapResult:
    """Map a scene: probabilities, landslide polygons, what was seen, and a picture.

    Writes ``probability.tif`` (COG; bytes 0 to 254 for 0 to 1, 255 = not observed), of several
    models also ``uncertainty.tif`` (the standard deviation of their probabilities, coded alike),
    ``landslides.gpkg`` (layers landslides, observed, not_observed), ``run.json`` and
    ``quicklook.png``. Memory grows with the polygons, not with the scene's pixels; where windows
    meet, they agree because each is computed with the models' halo and aligned to their stride.

    While it runs, ``OUT.partial`` holds what is done. Stopped or killed, the same call continues
    from there and gives the same bytes as if it had not been.

    Args:
        scene: Scene, or the path of a file that names its bands.
        model: Model file, or several: the mean of their probabilities is mapped.
        out: Folder to write; it appears when it is whole.
        options: Threshold, outline, device; None for the defaults.
        overwrite: Replace a folder that exists.

    Raises:
        ModelError: A model cannot be used.
        BandError: The scene lacks a band that a model needs.
        DataError: The pixel size does not fit, nothing is usable, or memory ran out.
        OutputError: `out` exists, cannot be written, or was begun with other options;
            or another process maps into it.
    """
    return map_scenes([scene], model, out, options=options, overwrite=overwrite)


def map_scenes(
    scenes: Sequence[SceneLike],
    model: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    options: MapOptions | None = None,
    overwrite: bool = False,
) -> MapResult:
    """Map several scenes into one inventory, in the CRS of the first.

    Where scenes overlap, the first that shows usable ground is mapped and the others are not, so
    nothing is counted twice; every polygon names its scene. With more than one scene the rasters
    and the picture of each lie in a folder of its name.

    Args:
        scenes: In the order of preference.
        model: As in `map_scene`.
        out: Folder to write; it appears when it is whole.
        options: Threshold, outline, device; None for the defaults.
        overwrite: Replace a folder that exists.

    Raises:
        As `map_scene`.
    """
    begun = time.monotonic()
    out = Path(out)
    refuse_existing(out, overwrite=overwrite, marker="run.json")
    with only_process(out) as partial:
        run = MapRun(scenes, model, options or MapOptions())
        require_space(out, run.disk_bytes)
        if run.options.cluster is None and not partial.exists() and is_long(run):
            log.info("%s", estimate(run).text)
        run.compute(partial)
        with whole_folder(out, "run.json", overwrite=overwrite) as folder:
            result = finish(run, partial, folder, out)
            result = replace(result, seconds=time.monotonic() - begun)
            text = json.dumps(record(run, partial, result), indent=2) + "\n"
            (folder / "run.json").write_text(text, encoding="utf-8")
        remove_unfinished(partial)
    peak = peak_memory_bytes()
    log.info(
        "%s: %d landslides, %.0f m2, on %.3f km2 of observed ground in %s%s",
        out, result.landslides, result.area_m2, result.observed_km2, duration(result.seconds),
        "" if peak is None else f", {peak / 1e9:.1f} GB of memory at most",
    )  # fmt: skip
    return result


def estimate_map(
    scenes: Sequence[SceneLike],
    model: str | Path | Sequence[str | Path],
    *,
    options: MapOptions | None = None,
) -> MapEstimate:
    """What mapping will take; nothing is written.

    Args:
        scenes: As in `map_scenes`.
        model: As in `map_scene`.
        options: As for mapping.

    Raises:
        As `map_scene`.
    """
    return estimate(MapRun(scenes, model, options or MapOptions()))
