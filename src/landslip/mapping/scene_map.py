"""Verb `map`: scenes through models into probability rasters, then landslides."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.shutil
import shapely

from landslip import __version__
from landslip.geo.bands import sources_of
from landslip.geo.errors import BandError, DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.interruption import Interruption
from landslip.geo.inventory import Area, read_polygons, refuse_reviewed, write_layers
from landslip.geo.output import refuse_existing, require_space, whole_folder
from landslip.geo.parallel import default_memory_bytes, default_threads, in_order
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE
from landslip.geo.progress import Rate, duration, track
from landslip.geo.raster import FileScene, Raster, Scene, fingerprint
from landslip.geo.scene import OBSERVED, SceneLike, as_scene, source_records
from landslip.geo.windows import spread
from landslip.learn.card import ModelCard, load_card
from landslip.learn.device import Compute
from landslip.learn.engine import is_out_of_memory
from landslip.learn.ensemble import Ensemble
from landslip.learn.memory import peak_bytes
from landslip.learn.radiometry import ChosenScaling, choose_scaling
from landslip.mapping.attributes import frame_crs, with_attributes
from landslip.mapping.ground import ground_layers
from landslip.mapping.layout import (
    LIBRARY_SHARE,
    Layout,
    even_layout,
    fitting_layout,
    own_bytes,
    peak_bytes_so_far,
)
from landslip.mapping.outlines import landslide_polygons, require_outline, strip_windows
from landslip.mapping.unfinished import Plane, UnfinishedMap, read_journal, remove_unfinished
from landslip.mapping.work import (
    THREADS,
    Job,
    MappedWindow,
    RemoteMapper,
    WindowMapper,
    cluster_executor,
)
from landslip.prepare.scaling import bands_at_hand
from landslip.prepare.tile_set import PIXEL_SIZE_RATIOS

if TYPE_CHECKING:
    import geopandas as gpd

log = logging.getLogger(__name__)

TIMED_WINDOWS = 3
"""Windows that are mapped to tell how long all will take."""
LONG_WINDOWS = 30
"""From so many windows on, the deadline is told before the work begins."""
MEMORY_SHARE = 0.5
"""Of the machine's memory, what mapping takes at most unless it is told."""


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How scenes are mapped."""

    threshold: float | None = None
    """Probability from which ground counts as landslide; None: the card's, of several the mean."""
    outline: str = "contour"
    """`contour` (smooth, sub-pixel) or `pixels` (along pixel edges)."""
    scaling: str = "auto"
    """`model`, `scene` or `auto`: whose numbers the network is shown (`choose_scaling`)."""
    min_area_m2: float = 0.0
    """Smaller polygons are left out (m2); the raster keeps them."""
    as_float: bool = False
    """True: `probability.tif` in float32 with NaN, instead of one byte."""
    tta: bool = False
    """True: the mean over eight flips and quarter turns, in eight times the time."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which the networks see the scene; their probabilities are averaged."""
    core_px: int | None = None
    """Most rows and columns kept of a window; None: as many as pay and fit into the memory."""
    memory_gb: float | None = None
    """Memory to take at most (GB); None: half of the machine's, or of the device's."""
    first: str | Path | None = None
    """Polygons of ground that is mapped before the rest."""
    cluster: str | None = None
    """Scheduler of a Dask cluster that computes: tcp://HOST:PORT."""
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
    """Wall time of this run (s)."""


@dataclass(frozen=True)
class MapEstimate:
    """What mapping will take, from a few windows that were timed."""

    pixels: int
    """Of the scenes."""
    km2: float
    """Ground of the windows that must be computed, usable or not (km2)."""
    windows: int
    """Windows to compute at most."""
    seconds: float
    """Time for them (s); outlines and files come on top."""
    disk_bytes: int
    """Space for the unfinished and the finished map (bytes)."""
    memory_bytes: int
    """Most memory (bytes)."""
    overhead: float
    """Pixels computed for each pixel kept."""

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"{self.pixels / 1e6:,.1f} million pixels, {self.km2:,.1f} km2 in {self.windows} "
            f"windows: about {duration(self.seconds)}, {self.disk_bytes / 1e9:.1f} GB of disk, "
            f"{self.memory_bytes / 1e9:.1f} GB of memory"
        )


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
        OutputError: `out` exists, cannot be written, or was begun with other options.
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
    refuse_reviewed(out)
    mapping = _Mapping(scenes, model, options or MapOptions())
    require_space(out, mapping.disk_bytes)
    partial = out.with_name(f"{out.name}.partial")
    mapping.compute(partial)
    with whole_folder(out, "run.json", overwrite=overwrite) as folder:
        result = mapping.finish(partial, folder, replace_folder=out)
        result = replace(result, seconds=time.monotonic() - begun)
        record = mapping.record(partial, result)
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    remove_unfinished(partial)
    peak = peak_bytes_so_far()
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
        options: As for the mapping.

    Raises:
        As `map_scene`.
    """
    return _Mapping(scenes, model, options or MapOptions()).estimate()


@dataclass(frozen=True, eq=False)
class _Ground:
    """A scene that is mapped."""

    name: str
    """Of its file; folders and polygons are named by it."""
    scene: Scene
    scalings: tuple[ChosenScaling, ...]
    """One a model."""
    missing: tuple[str, ...]
    """Optional bands that it lacks."""
    sources: list[dict[str, object]]


class _Mapping:
    """Scenes, models and options that fit together, and the steps of mapping."""

    def __init__(
        self,
        scenes: Sequence[SceneLike],
        model: str | Path | Sequence[str | Path],
        options: MapOptions,
    ) -> None:
        require_outline(options.outline)
        if not scenes:
            raise DataError("Cannot map: no scene is given. Name at least one.")
        self.options = options
        models = [model] if isinstance(model, str | Path) else list(model)
        self.models = tuple(str(Path(each).absolute()) for each in models)
        self.cards = [load_card(each) for each in models]
        self.threshold = _threshold(options, self.cards)
        opened = [as_scene(scene) for scene in scenes]
        missing = [_require_fitting(scene, self.cards) for scene in opened]
        self.compute_with = Compute.choose(options.device, options.precision)
        self.model_records = [
            {"name": card.name, "architecture": card.architecture, **fingerprint(path)}
            for card, path in zip(self.cards, models, strict=True)
        ]
        self.grounds = [
            _Ground(
                name, scene,
                tuple(choose_scaling(scene, card, options.scaling) for card in self.cards),
                tuple(lacking), _sources(scene),
            )
            for name, scene, lacking in zip(_names(opened), opened, missing, strict=True)
        ]  # fmt: skip
        if any(ground.scene.grid.crs is None for ground in self.grounds):
            if len(self.grounds) > 1:
                raise DataError(
                    "Cannot map several scenes at once: one has no coordinate reference system, so "
                    "nobody knows where they overlap. Map it alone, or give it a CRS."
                )
            log.warning("the scene has no coordinate reference system: polygons carry no position")
        first = self.grounds[0]
        self.job = Job(
            scene=first.scene, models=self.models, scalings=_ranges(first), device=options.device,
            precision=options.precision, tta=options.tta, scales=options.scales,
            layout=Layout(1, 1, 0), as_float=options.as_float, covered=None,
        )  # fmt: skip
        self.loaded = self.job.ensemble()

    @property
    def planes(self) -> dict[str, Plane]:
        """Rasters that are written of every scene."""
        dtype, nodata = ("float32", np.nan) if self.options.as_float else ("uint8", UNKNOWN_CODE)
        names = ("probability", "uncertainty") if len(self.models) > 1 else ("probability",)
        return {"ground": Plane("uint8", None), **{name: Plane(dtype, nodata) for name in names}}

    @property
    def pixels(self) -> int:
        """Of all scenes."""
        return sum(ground.scene.grid.height * ground.scene.grid.width for ground in self.grounds)

    @property
    def disk_bytes(self) -> int:
        """Space for the unfinished map and the copies made of it, the larger half compressed."""
        rasters = len(self.planes) - 1
        return self.pixels * (1 + (8 if self.options.as_float else 2) * rasters)

    # Windows --------------------------------------------------------------------------------------

    def layout(self, grid: Grid) -> Layout:
        """Windows for a scene that fit into the memory."""
        ensemble, most = self.loaded, self.options.core_px
        if most is not None:
            return even_layout(grid, ensemble.stride_px, ensemble.halo_px, most)
        device_bytes = _device_bytes(self.compute_with)
        asked = self.options.memory_gb
        most_bytes = MEMORY_SHARE * device_bytes if asked is None else asked * 1e9
        if self.compute_with.device.type == "cpu":
            most_bytes -= own_bytes()
        return fitting_layout(
            grid, ensemble.stride_px, ensemble.halo_px, most_bytes=most_bytes, needed=self.needed
        )

    def needed(self, height: int, width: int) -> float:
        """Memory of a window with its halo, and of those that wait (bytes)."""
        largest = max(self.options.scales) ** 2
        forward = max(
            peak_bytes(member.network, (1, len(member.card.bands), 256, 256))
            for member in self.loaded.members
        )
        bands = sum(len(card.bands) for card in self.cards)
        shown = THREADS * 4 * bands
        return height * width * (LIBRARY_SHARE * forward / 256**2 * largest + shown)

    def estimate(self) -> MapEstimate:
        """Time a few windows and carry them over to all."""
        windows, pixels_px, seconds, memory = 0, 0.0, 0.0, 0.0
        km2, kept = 0.0, 0
        for ground in self.grounds:
            grid = ground.scene.grid
            layout = self.layout(grid)
            mapper, cores = self._mapper(ground, layout, None), self._asked(ground, layout)
            each = _seconds_of(mapper, cores)
            windows += len(cores)
            seconds += each * len(cores)
            pixels = sum(core.height * core.width for core in cores)
            kept += pixels
            pixels_px += layout.shape[0] * layout.shape[1] * len(cores)
            km2 += pixels * grid.pixel_size_m**2 / 1e6
            memory = max(memory, own_bytes() + self.needed(*layout.shape))
        return MapEstimate(
            self.pixels, km2, windows, seconds, self.disk_bytes, round(memory),
            pixels_px / max(kept, 1),
        )  # fmt: skip

    def _asked(self, ground: _Ground, layout: Layout) -> list[Window]:
        """The cores that touch the area of interest, or all."""
        extent = getattr(ground.scene, "extent", ground.scene.grid.window)
        return [core for core in layout.cores(ground.scene.grid) if core.intersection(extent)]

    def _mapper(self, ground: _Ground, layout: Layout, covered: Area | None) -> WindowMapper:
        job = self._job(ground, layout, covered)
        members = [
            replace(member, scaling=scaling)
            for member, scaling in zip(self.loaded.members, job.scalings, strict=True)
        ]
        ensemble = Ensemble(
            members, self.compute_with, tta=self.options.tta, scales=self.options.scales
        )
        return WindowMapper(job, ensemble)

    def _job(self, ground: _Ground, layout: Layout, covered: Area | None) -> Job:
        return replace(
            self.job, scene=ground.scene, scalings=_ranges(ground), layout=layout, covered=covered
        )

    # Computing ------------------------------------------------------------------------------------

    def compute(self, partial: Path) -> None:
        """Map all windows of all scenes into `partial`, from where it was left."""
        with self._workers() as (executor, threads):
            for number in range(len(self.grounds)):
                self._compute(number, partial, executor, threads)
        if not any(
            _any_observed(self._folder(partial, ground) / "ground.tif") for ground in self.grounds
        ):
            remove_unfinished(partial)
            raise DataError(
                "Cannot map: no pixel of the scene is usable. Check nodata, --aoi and --unusable "
                "with landslip check."
            )

    @contextmanager
    def _workers(self) -> Iterator[tuple[Any, int]]:
        if self.options.cluster is None:
            yield None, THREADS
            return
        with cluster_executor(self.options.cluster) as (executor, threads):
            yield executor, threads

    def _folder(self, partial: Path, ground: _Ground) -> Path:
        return partial if len(self.grounds) == 1 else partial / ground.name

    def _compute(self, number: int, partial: Path, executor: Any, threads: int) -> None:
        ground = self.grounds[number]
        covered = self._covered(number, partial)
        while True:
            unfinished, layout = self._open(ground, partial)
            try:
                self._fill(unfinished, ground, layout, covered, executor, threads)
            except Exception as error:
                is_begun = bool(unfinished.done.any())
                if not is_out_of_memory(error):
                    _keep(unfinished, partial, is_begun)
                    raise
                smaller = self._smaller(layout, is_begun)
                if smaller is None:
                    raise DataError(
                        f"Cannot map: a window of {layout.shape[0]} x {layout.shape[1]} px does "
                        f"not fit into the memory of {self.compute_with.text}. What is done is "
                        f"kept in {partial}: close other programs and repeat the command, or "
                        "remove that folder and use a smaller --memory."
                    ) from error
                log.warning("memory ran out: mapping in smaller windows")
                self.options = replace(self.options, core_px=smaller)
                remove_unfinished(unfinished.folder)
            else:
                return

    def _smaller(self, layout: Layout, is_begun: bool) -> int | None:
        """Half the core; None where other windows would change what is done, or none is left."""
        half = max(layout.core_height, layout.core_width) // 2
        return None if is_begun or half < self.loaded.stride_px else half

    def _open(self, ground: _Ground, partial: Path) -> tuple[UnfinishedMap, Layout]:
        """The unfinished map of a scene, begun or continued, and its windows."""
        folder, grid = self._folder(partial, ground), ground.scene.grid
        asked = self._fingerprint(ground)
        found = read_journal(folder)
        if found is not None:
            layout = Layout(**found["layout"])
            unfinished = UnfinishedMap.resume(folder, grid, self.planes, asked)
            log.info("continuing %s: %.0f %% is done", folder, 100 * unfinished.done.mean())
            return unfinished, layout
        layout = self.layout(grid)
        cores = layout.cores(grid)
        if len(self._asked(ground, layout)) >= LONG_WINDOWS and self.options.cluster is None:
            log.info("%s", self.estimate().text)
        journal = {**asked, "layout": asdict(layout)}
        return UnfinishedMap.begin(folder, grid, self.planes, len(cores), journal), layout

    def _fingerprint(self, ground: _Ground) -> dict[str, Any]:
        """All on which the bytes of an unfinished map depend."""
        own = asdict(self.options)
        for name in ("core_px", "memory_gb", "first", "cluster"):
            del own[name]
        return {
            "landslip": __version__,
            "torch": version("torch"),
            "scenes": [each.sources for each in self.grounds],
            "models": self.model_records,
            "grid": _grid_record(ground.scene.grid),
            "scaling": [chosen.record() for chosen in ground.scalings],
            "options": own,
            "compute": self._compute_text,
        }

    @property
    def _compute_text(self) -> str:
        where = self.compute_with
        if self.options.cluster is not None:
            return f"{self.options.device} in {self.options.precision} on a cluster"
        return f"{where.text}"

    def _fill(
        self,
        unfinished: UnfinishedMap,
        ground: _Ground,
        layout: Layout,
        covered: Area | None,
        executor: Any,
        threads: int,
    ) -> None:
        """Map the windows that are not done, those of `first` before the others."""
        cores = layout.cores(ground.scene.grid)
        left = [number for number in self._order(ground, cores) if not unfinished.done[number]]
        if not left:
            unfinished.release()
            return
        job = self._job(ground, layout, covered)
        function: Callable[[Window], MappedWindow] = (
            self._mapper(ground, layout, covered) if executor is None else RemoteMapper(job)
        )
        ahead = in_order(function, (cores[number] for number in left), threads, executor)
        km2 = ground.scene.grid.pixel_size_m**2 / 1e6
        # Closed before the scene is: a reader in another thread must not outlive its file.
        with closing(unfinished), Interruption() as interruption, closing(ahead) as mapped:
            shown = track(
                mapped, total=len(left), what=f"Mapping {ground.name}",
                rate=Rate(lambda window: window.core.height * window.core.width * km2, "km2"),
            )  # fmt: skip
            for number, window in zip(left, shown, strict=True):
                unfinished.write(number, window.core, window.planes)
                if interruption.asked:
                    raise KeyboardInterrupt(
                        f"stopped; {unfinished.folder} holds what is done, and the same command "
                        "continues"
                    )

    def _order(self, ground: _Ground, cores: Sequence[Window]) -> list[int]:
        """Numbers of the cores: those that touch the ground to be mapped first, then the others."""
        if self.options.first is None:
            return list(range(len(cores)))
        grid = ground.scene.grid
        wanted = read_polygons(self.options.first, grid, what="ground to map first").geometries
        boxes = np.array([grid.crop(core).footprint() for core in cores], dtype=object)
        touched = set(shapely.STRtree(boxes).query(wanted, predicate="intersects")[1].tolist())
        return sorted(range(len(cores)), key=lambda number: (number not in touched, number))

    def _covered(self, number: int, partial: Path) -> Area | None:
        """What the scenes before this one show, in its CRS."""
        if number == 0:
            return None
        grid, parts = self.grounds[number].scene.grid, []
        for before in self.grounds[:number]:
            observed = ground_layers(self._folder(partial, before) / "ground.tif")["observed"]
            # Straight edges bend in another CRS: more vertices keep them within a pixel.
            lines = observed.segmentize(50 * before.scene.grid.pixel_size_m)
            parts += list(lines.to_crs(frame_crs(grid)) if observed.crs else lines)
        return Area(parts, grid)

    # Finishing ------------------------------------------------------------------------------------

    def finish(self, partial: Path, folder: Path, *, replace_folder: Path) -> MapResult:
        """From the rasters of the unfinished map to the files of a finished one."""
        import geopandas as gpd
        import pandas as pd

        slides: list[gpd.GeoDataFrame] = []
        layers: dict[str, list[gpd.GeoDataFrame]] = {"observed": [], "not_observed": []}
        for ground in self.grounds:
            frame, seen = self._finish(ground, self._folder(partial, ground), folder)
            slides.append(frame)
            for name, found in layers.items():
                found.append(seen[name])
        crs = slides[0].crs

        def joined(frames: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
            moved = [frame if frame.crs == crs else frame.to_crs(crs) for frame in frames]
            filled = [frame for frame in moved if len(frame)] or moved[:1]
            return gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=crs)

        frame = joined(slides)
        frame["id"] = np.arange(1, len(frame) + 1)
        grounds = {name: joined(found) for name, found in layers.items()}
        journal = read_journal(self._folder(partial, self.grounds[0]))
        date = None if journal is None else str(journal["begun"])
        write_layers(folder / "landslides.gpkg", {"landslides": frame, **grounds}, date=date)
        return MapResult(
            replace_folder, len(frame), float(frame["area_m2"].sum()),
            float(grounds["observed"]["area_m2"].sum()) / 1e6, self.threshold, 0.0,
        )  # fmt: skip

    def _finish(
        self, ground: _Ground, partial: Path, folder: Path
    ) -> tuple[gpd.GeoDataFrame, dict[str, gpd.GeoDataFrame]]:
        """Rasters and picture of one scene; its landslides and what was seen of it."""
        from landslip.mapping.pictures import write_quicklook

        own = folder if len(self.grounds) == 1 else folder / ground.name
        own.mkdir(exist_ok=True)
        for name in self.planes:
            if name != "ground":
                self._write_cog(partial / f"{name}.tif", own / f"{name}.tif")
        result = FileScene(str(own / "probability.tif"), {"probability": 1})
        polygons = landslide_polygons(result, self.threshold, outline=self.options.outline)
        frame = with_attributes(polygons, result)
        frame = frame[frame["area_m2"] >= self.options.min_area_m2].reset_index(drop=True)
        frame.insert(1, "scene", ground.name)
        result.close()
        bands = next(card.required_bands for card in self.cards)
        title = f"{len(frame)} landslides by {self._names} at {self.threshold:.2f}"
        write_quicklook(own / "quicklook.png", ground.scene, bands, frame.geometry, title)
        layers = ground_layers(partial / "ground.tif")
        for layer in layers.values():
            layer.insert(0, "scene", ground.name)
        return frame, layers

    def _write_cog(self, plain: Path, out: Path) -> None:
        tags = {
            "LANDSLIP_THRESHOLD": repr(self.threshold),
            "LANDSLIP_MODEL": self._names,
            "LANDSLIP_VERSION": __version__,
        }
        with rasterio.open(plain, "r+") as file:
            if not self.options.as_float:
                file.scales = (1 / TOP_CODE,)
            file.update_tags(**tags)
        # Opening the COG driver for writing would hold the whole raster in memory; copying does
        # not.
        rasterio.shutil.copy(
            plain, out, driver="COG", compress="deflate", overview_resampling="average",
            bigtiff="if_safer", num_threads=default_threads(),
        )  # fmt: skip

    @property
    def _names(self) -> str:
        return " + ".join(card.name for card in self.cards)

    def record(self, partial: Path, result: MapResult) -> dict[str, Any]:
        """What `run.json` says."""
        journal = read_journal(self._folder(partial, self.grounds[0])) or {}
        return {
            "landslip": __version__,
            "torch": version("torch"),
            "begun": journal.get("begun"),
            "compute": self._compute_text,
            "layout": journal.get("layout"),
            "models": self.model_records,
            "scenes": [
                {
                    "name": ground.name,
                    "sources": ground.sources,
                    "grid": _grid_record(ground.scene.grid),
                    "scaling": [chosen.record() for chosen in ground.scalings],
                    "missing_bands": list(ground.missing),
                }
                for ground in self.grounds
            ],
            "options": {
                **json.loads(json.dumps(asdict(self.options), default=str)),
                "threshold": result.threshold,
            },
            "result": {
                "landslides": result.landslides,
                "area_m2": round(result.area_m2, 1),
                "observed_km2": round(result.observed_km2, 6),
            },
            "seconds": round(result.seconds, 2),
            "peak_memory_bytes": peak_bytes_so_far(),
        }


def _threshold(options: MapOptions, cards: Sequence[ModelCard]) -> float:
    if options.threshold is None:
        return float(np.mean([card.threshold for card in cards]))
    if not 0 < options.threshold <= 1:
        raise DataError(
            f"Cannot map at threshold {options.threshold:g}: it must lie between 0 and 1."
        )
    return options.threshold


def _require_fitting(scene: Scene, cards: Sequence[ModelCard]) -> list[str]:
    """Raise where a model cannot map the scene; returns optional bands that it lacks."""
    lacking: list[str] = []
    for card in cards:
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
        lacking += [band for band in card.bands if band not in (*at_hand, *lacking)]
    if lacking:
        log.warning("the scene lacks optional bands: mapped without %s", ", ".join(lacking))
    return lacking


def _names(scenes: Sequence[Scene]) -> list[str]:
    """A name for each scene: of its file, numbered where two are alike."""
    names: list[str] = []
    for number, scene in enumerate(scenes, 1):
        sources = getattr(scene, "sources", ())
        stem = Path(sources[0].path).stem if sources else f"scene{number}"
        name, copies = stem, 2
        while name in names:
            name, copies = f"{stem}_{copies}", copies + 1
        names.append(name)
    return names


def _sources(scene: Scene) -> list[dict[str, object]]:
    """What identifies the pixels of a scene."""
    if isinstance(scene, Raster):
        digest = hashlib.sha256(scene.values.tobytes() + scene.valid.tobytes()).hexdigest()
        return [{"role": "scene", "sha256": digest}]
    return source_records(scene)


def _ranges(ground: _Ground) -> tuple[Any, ...]:
    return tuple(chosen.scaling for chosen in ground.scalings)


def _device_bytes(compute: Compute) -> float:
    """Memory of the device, or of the machine (bytes)."""
    if compute.device.type == "cuda":
        import torch

        return float(torch.cuda.mem_get_info(compute.device)[0])
    return default_memory_bytes()


def _seconds_of(mapper: WindowMapper, cores: Sequence[Window]) -> float:
    """Time for a window with usable ground (s): the median of a few, spread over the scene."""
    times: list[float] = []
    warm = False
    for core in spread(cores, 5 * TIMED_WINDOWS):
        begun = time.monotonic()
        found = mapper(core)
        if not (found.planes["ground"] == OBSERVED).any():
            continue
        # The first call of a network prepares what the later ones use.
        if warm or len(cores) == 1:
            times.append(time.monotonic() - begun)
        warm = True
        if len(times) == TIMED_WINDOWS:
            break
    return float(np.median(times)) if times else 0.0


def _any_observed(path: Path) -> bool:
    scene = FileScene(str(path), {"ground": 1})
    with closing(scene):
        return any(
            (scene.read(window, ["ground"]).values[0] == OBSERVED).any()
            for window in strip_windows(scene.grid)
        )


def _keep(unfinished: UnfinishedMap, partial: Path, is_begun: bool) -> None:
    """Say what an error left behind, or remove it where that is nothing."""
    if is_begun:
        log.warning(
            "%s holds what is done (%.0f %%); the same command continues",
            partial, 100 * unfinished.done.mean(),
        )  # fmt: skip
    else:
        remove_unfinished(unfinished.folder)


def _grid_record(grid: Grid) -> dict[str, Any]:
    return {
        "crs": "" if grid.crs is None else grid.crs.to_string(),
        "height": grid.height,
        "width": grid.width,
        "pixel_size_m": grid.pixel_size_m,
    }
