"""Scenes, models and options that fit together, computed window by window into unfinished maps."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from landslip import __version__
from landslip.geo.bands import sources_of
from landslip.geo.errors import BandError, DataError
from landslip.geo.grid import Grid, Window
from landslip.geo.interruption import Interruption
from landslip.geo.inventory import Area, frame_crs, read_polygons
from landslip.geo.parallel import default_memory_bytes, in_order, own_memory_bytes
from landslip.geo.probability import UNKNOWN_CODE
from landslip.geo.progress import Rate, track
from landslip.geo.raster import Raster, Scene, fingerprint
from landslip.geo.scene import OBSERVED, SceneLike, as_scene, source_records
from landslip.inventory.delineate import Delineation
from landslip.inventory.ground import GroundFile, ground_layers
from landslip.inventory.pixels import strip_windows
from landslip.learn.allocation import freed_memory_kept
from landslip.learn.card import ModelCard, load_card
from landslip.learn.device import Compute
from landslip.learn.engine import is_out_of_memory
from landslip.learn.ensemble import Ensemble
from landslip.learn.memory import peak_bytes
from landslip.learn.radiometry import ChosenScaling, choose_scaling
from landslip.mapping.layout import (
    GPU_CORE_PX,
    LIBRARY_SHARE,
    SMALLEST_PX,
    Layout,
    even_layout,
    fitting_layout,
)
from landslip.mapping.options import MapOptions
from landslip.mapping.unfinished import Plane, UnfinishedMap, read_journal, remove_unfinished
from landslip.mapping.work import (
    Job,
    RemoteMapper,
    WindowMapper,
    cluster_executor,
    map_ahead,
    readers_of,
    score_planes,
)
from landslip.prepare.scaling import bands_at_hand
from landslip.prepare.tile_set import PIXEL_SIZE_RATIOS

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Of the machine's memory, what mapping takes at most unless it is told."""


@dataclass(frozen=True, eq=False)
class Ground:
    """A scene that is mapped."""

    name: str
    """Of its file; folders and polygons are named by it."""
    scene: Scene
    scalings: tuple[ChosenScaling, ...]
    """One a model."""
    missing: tuple[str, ...]
    """Optional bands that it lacks."""
    sources: list[dict[str, object]]


class MapRun:
    """Scenes, models and options that fit together, and the steps of mapping."""

    def __init__(
        self,
        scenes: Sequence[SceneLike],
        model: str | Path | Sequence[str | Path],
        options: MapOptions,
    ) -> None:
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
            Ground(
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
        for ground in self.grounds:
            self.delineation(ground).close()

    def delineation(self, ground: Ground) -> Delineation:
        """What the landslides of a scene are measured on."""
        return Delineation(
            self.options, ground.scene.grid, self.threshold, scene=ground.scene,
            name=ground.name, told={"model": self.model_names, "version": __version__},
        )  # fmt: skip

    @property
    def planes(self) -> dict[str, Plane]:
        """Rasters that are written of every scene."""
        dtype, nodata = ("float32", np.nan) if self.options.as_float else ("uint8", UNKNOWN_CODE)
        scores = dict.fromkeys(score_planes(len(self.models)), Plane(dtype, nodata))
        return {"ground": Plane("uint8", None), **scores}

    @property
    def pixels(self) -> int:
        """Of all scenes."""
        return sum(ground.scene.grid.height * ground.scene.grid.width for ground in self.grounds)

    @property
    def disk_bytes(self) -> int:
        """Space for the unfinished map and the copies made of it, the larger half compressed."""
        rasters = len(self.planes) - 1
        return self.pixels * (1 + (8 if self.options.as_float else 2) * rasters)

    @property
    def model_names(self) -> str:
        """Of all models, for people."""
        return " + ".join(card.name for card in self.cards)

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
            most_bytes -= own_memory_bytes()
        # A GPU idles in small windows.
        least = GPU_CORE_PX if self.compute_with.device.type != "cpu" else SMALLEST_PX
        return fitting_layout(
            grid, ensemble.stride_px, ensemble.halo_px, least,
            most_bytes=most_bytes, needed=self.needed,
        )  # fmt: skip

    def needed(self, height: int, width: int) -> float:
        """Memory of a window with its halo, and of those that wait (bytes)."""
        return height * width * self._bytes_per_px

    @cached_property
    def _bytes_per_px(self) -> float:
        largest = max(self.options.scales) ** 2
        forward = max(
            peak_bytes(
                member.network, (1, len(member.card.bands), 256, 256), self.compute_with.device
            )
            for member in self.loaded.members
        )
        bands = sum(len(card.bands) for card in self.cards)
        # One is computed, and every reader has two that are or will be taken.
        shown = (1 + 2 * readers_of(self.compute_with.device)) * 4 * bands
        return LIBRARY_SHARE * forward / 256**2 * largest + shown

    def asked(self, ground: Ground, layout: Layout) -> list[Window]:
        """The cores that touch the area of interest, or all."""
        extent = getattr(ground.scene, "extent", ground.scene.grid.window)
        return [core for core in layout.cores(ground.scene.grid) if core.intersection(extent)]

    def mapper(self, ground: Ground, layout: Layout, covered: Area | None) -> WindowMapper:
        """What maps the windows of a scene here; `covered` is shown by scenes before it."""
        job = self._job(ground, layout, covered)
        members = [
            replace(member, scaling=scaling)
            for member, scaling in zip(self.loaded.members, job.scalings, strict=True)
        ]
        ensemble = Ensemble(
            members, self.compute_with, tta=self.options.tta, scales=self.options.scales
        )
        return WindowMapper(job, ensemble)

    def _job(self, ground: Ground, layout: Layout, covered: Area | None) -> Job:
        return replace(
            self.job, scene=ground.scene, scalings=_ranges(ground), layout=layout, covered=covered
        )

    # Computing ------------------------------------------------------------------------------------

    def compute(self, partial: Path) -> None:
        """Map all windows of all scenes into `partial`, from where it was left."""
        with self._workers() as workers, freed_memory_kept():
            for number in range(len(self.grounds)):
                self._compute(number, partial, workers)
        if not any(
            _any_observed(self.folder(partial, ground) / "ground.tif") for ground in self.grounds
        ):
            remove_unfinished(partial)
            raise DataError(
                "Cannot map: no pixel of the scene is usable. Check nodata, --aoi and --unusable "
                "with landslip check."
            )

    @contextmanager
    def _workers(self) -> Iterator[tuple[Executor, int] | None]:
        """The workers of a cluster, and how many windows they map at once; None: this process."""
        if self.options.cluster is None:
            yield None
            return
        with cluster_executor(self.options.cluster) as workers:
            yield workers

    def folder(self, partial: Path, ground: Ground) -> Path:
        """Where the unfinished map of a scene lies, or its rasters of a finished one."""
        return partial if len(self.grounds) == 1 else partial / ground.name

    def _compute(self, number: int, partial: Path, workers: tuple[Executor, int] | None) -> None:
        ground, covered = self.grounds[number], self._covered(number, partial)
        # From before there is a journal: a wish to stop must not be lost in a library.
        with Interruption() as interruption:
            self._compute_until(interruption, ground, covered, partial, workers)

    def _compute_until(
        self,
        interruption: Interruption,
        ground: Ground,
        covered: Area | None,
        partial: Path,
        workers: tuple[Executor, int] | None,
    ) -> None:
        """Map a scene, in smaller windows where memory runs out, or stop when asked."""
        while True:
            unfinished, layout = self._open(ground, partial)
            try:
                self._fill(unfinished, ground, layout, covered, workers, interruption)
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

    def _open(self, ground: Ground, partial: Path) -> tuple[UnfinishedMap, Layout]:
        """The unfinished map of a scene, begun or continued, and its windows."""
        folder, grid = self.folder(partial, ground), ground.scene.grid
        asked = self._fingerprint(ground)
        found = read_journal(folder)
        if found is not None:
            layout = Layout(**found["layout"])
            unfinished = UnfinishedMap.resume(folder, grid, self.planes, found, asked)
            log.info("continuing %s: %.0f %% is done", folder, 100 * unfinished.done.mean())
            return unfinished, layout
        layout = self.layout(grid)
        journal = {**asked, "layout": asdict(layout)}
        number = len(layout.cores(grid))
        return UnfinishedMap.begin(folder, grid, self.planes, number, journal), layout

    def _fingerprint(self, ground: Ground) -> dict[str, Any]:
        """All on which the bytes of an unfinished map depend."""
        own = json.loads(json.dumps(asdict(self.options), default=str))
        for name in ("core_px", "memory_gb", "first", "cluster"):
            del own[name]
        return {
            "landslip": __version__,
            "torch": version("torch"),
            "scenes": [each.sources for each in self.grounds],
            "models": self.model_records,
            "grid": grid_record(ground.scene.grid),
            "scaling": [chosen.record() for chosen in ground.scalings],
            "options": own,
            # Not the number of threads: no sum depends on it.
            "device": self.compute_with.device.type,
            "precision": self.compute_with.precision,
        }

    @property
    def compute_text(self) -> str:
        """What computes, for people and records."""
        if self.options.cluster is not None:
            return f"{self.options.device} in {self.options.precision} on a cluster"
        return self.compute_with.text

    def _fill(
        self,
        unfinished: UnfinishedMap,
        ground: Ground,
        layout: Layout,
        covered: Area | None,
        workers: tuple[Executor, int] | None,
        interruption: Interruption,
    ) -> None:
        """Map the windows that are not done, those of `first` before the others."""
        cores = layout.cores(ground.scene.grid)
        left = [number for number in self._order(ground, cores) if not unfinished.done[number]]
        if not left:
            unfinished.release()
            return
        asked = (cores[number] for number in left)
        if workers is None:
            ahead = map_ahead(self.mapper(ground, layout, covered), asked)
        else:
            executor, threads = workers
            remote = RemoteMapper(self._job(ground, layout, covered))
            ahead = in_order(remote, asked, threads, executor)
        km2 = ground.scene.grid.pixel_size_m**2 / 1e6
        # Closed before the scene is: a reader in another thread must not outlive its file.
        with closing(unfinished), closing(ahead) as mapped:
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

    def _order(self, ground: Ground, cores: Sequence[Window]) -> list[int]:
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
            with closing(GroundFile(self.folder(partial, before) / "ground.tif")) as ground:
                observed = ground_layers(ground)["observed"]
            # Straight edges bend in another CRS: more vertices keep them within a pixel.
            lines = observed.segmentize(50 * before.scene.grid.pixel_size_m)
            parts += list(lines.to_crs(frame_crs(grid)) if observed.crs else lines)
        return Area(parts, grid)


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


def _ranges(ground: Ground) -> tuple[Any, ...]:
    return tuple(chosen.scaling for chosen in ground.scalings)


def _device_bytes(compute: Compute) -> float:
    """Memory of the device, or of the machine (bytes)."""
    if compute.device.type == "cuda":
        import torch

        return float(torch.cuda.mem_get_info(compute.device)[0])
    return default_memory_bytes()


def _any_observed(path: Path) -> bool:
    with closing(GroundFile(path)) as ground:
        return any((ground.read(window) == OBSERVED).any() for window in strip_windows(ground.grid))


def _keep(unfinished: UnfinishedMap, partial: Path, is_begun: bool) -> None:
    """Say what an error left behind, or remove it where that is nothing."""
    if is_begun:
        log.warning(
            "%s holds what is done (%.0f %%); the same command continues",
            partial, 100 * unfinished.done.mean(),
        )  # fmt: skip
    else:
        remove_unfinished(unfinished.folder)


def grid_record(grid: Grid) -> dict[str, Any]:
    """What identifies a grid, for records."""
    return {
        "crs": "" if grid.crs is None else grid.crs.to_string(),
        "height": grid.height,
        "width": grid.width,
        "pixel_size_m": grid.pixel_size_m,
    }
