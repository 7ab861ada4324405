"""Several files as one scene: added bands, terrain, a scene from before, and usable ground."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.enums import Resampling

from landslip.geo.bands import BEFORE, sources_of
from landslip.geo.errors import BandError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import Area, read_polygons
from landslip.geo.labels import is_raster_file
from landslip.geo.raster import FileScene, Raster, Scene, derive, fingerprint
from landslip.geo.reflectance import ReflectanceScene, find_calibration
from landslip.geo.terrain import TerrainScene

OBSERVED, NODATA, UNUSABLE, OUTSIDE, COVERED = 0, 1, 2, 3, 4
REASONS = {
    NODATA: "no data",
    UNUSABLE: "unusable",
    OUTSIDE: "outside the area of interest",
    COVERED: "seen in an earlier scene",
}
"""Why ground was not observed, by code."""

SceneLike = Scene | str | Path
"""What verbs take for a scene: a `Scene`, or the path of one file with named bands."""


@dataclass(frozen=True)
class SourceFile:
    """A file that a scene is made of."""

    role: str
    """`scene`, `pan`, `ms`, `add`, `dem`, `pre`, `reflectance`, `unusable` or `aoi`."""
    path: str
    """Any rasterio or OGR path."""
    bands: tuple[str, ...] = ()
    """Bands that it gives."""
    settings: str = ""
    """How it is used, as JSON, where that is not plain."""

    def record(self) -> dict[str, object]:
        """What identifies the file, for model cards and `run.json`."""
        record: dict[str, object] = {"role": self.role, **fingerprint(self.path.partition("|")[0])}
        if self.bands:
            record["bands"] = list(self.bands)
        if self.settings:
            record["settings"] = json.loads(self.settings)
        return record


class Part(Scene, Protocol):
    """A scene that a `StackedScene` is made of."""

    @property
    def dtype(self) -> str:
        """Type of the pixels."""
        ...

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the bands, in their order."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class SharpScene(Part, Protocol):
    """A pansharpened pair (`prepare.sharpen.pansharpen`), as `open_scene` takes it."""

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """Pan and bands."""
        ...

    @property
    def multispectral(self) -> FileScene:
        """The file of the bands, for its metadata."""
        ...


class UnusableGround:
    """Polygons, or a raster (not 0), of cloud, shadow and snow on a grid."""

    def __init__(self, path: str | Path | None, grid: Grid) -> None:
        """Open the file; a raster is laid over `grid` by nearest neighbour. None: all is usable.

        Raises:
            InventoryError: Polygons cannot be used.
            RasterError: A raster cannot be opened.
        """
        self._raster: FileScene | None = None
        self._area: Area | None = None
        if path is None:
            return
        if is_raster_file(path):
            self._raster = FileScene(
                str(path), {"unusable": 1}, grid=grid, resampling=Resampling.nearest
            )
        else:
            self._area = Area(read_polygons(path, grid, what="unusable ground").geometries, grid)

    def read(self, window: Window) -> NDArray[np.bool_]:
        """True where the ground is unusable, shape (height, width)."""
        if self._area is not None:
            return self._area.read(window)
        if self._raster is None:
            return np.zeros((window.height, window.width), dtype=bool)
        raster = self._raster.read(window, ["unusable"])
        unusable: NDArray[np.bool_] = raster.valid & (raster.values[0] != 0)
        return unusable

    def close(self) -> None:
        """Close the raster."""
        if self._raster is not None:
            self._raster.close()


class StackedScene:
    """Parts on one grid, with indices on request and unusable ground taken out."""

    def __init__(
        self,
        parts: Sequence[Part],
        sources: Sequence[SourceFile],
        *,
        sensor: str = "",
        aoi: Area | None = None,
        unusable: UnusableGround | None = None,
    ) -> None:
        """Use `open_scene`; the parts lie on one grid and their bands differ."""
        self._parts = tuple(parts)
        self._aoi = aoi
        self._unusable = unusable
        self.sources = tuple(sources)
        self.sensor = sensor
        names = self.bands
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BandError(
                f"Cannot add bands to the scene: {', '.join(twice)} would be there twice. "
                "Name added bands otherwise: --add FILE:name,name."
            )

    @property
    def grid(self) -> Grid:
        """The grid of the first part."""
        return self._parts[0].grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of all parts, in order."""
        return tuple(name for part in self._parts for name in part.bands)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of `bands`, in the same order."""
        return tuple(unit for part in self._parts for unit in part.units)

    @property
    def types(self) -> tuple[str, ...]:
        """Types of the pixels of `bands`, in the same order."""
        return tuple(part.dtype for part in self._parts for _ in part.bands)

    @property
    def extent(self) -> Window:
        """The pixels under the bounds of the area of interest, or all."""
        extent = None if self._aoi is None else self._aoi.extent
        return self.grid.window if extent is None else extent

    @property
    def dtype(self) -> str:
        """Type of the pixels of the first part."""
        return self._parts[0].dtype

    def whole(self) -> StackedScene:
        """The same scene without its area of interest: radiometry is a matter of all the ground."""
        return StackedScene(self._parts, self.sources, sensor=self.sensor, unusable=self._unusable)

    def within(self, ground: shapely.Polygon) -> StackedScene:
        """The same scene with a smaller area of interest: what of it lies inside a polygon."""
        aoi = Area([ground], self.grid) if self._aoi is None else self._aoi.cut(ground)
        return StackedScene(
            self._parts, self.sources, sensor=self.sensor, aoi=aoi, unusable=self._unusable
        )

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window; valid where every band asked for is usable."""
        stored = sources_of(bands, self.bands)
        read = [
            part.read(window, own)
            for part in self._parts
            if (own := [name for name in part.bands if name in stored])
        ]
        values = np.concatenate([raster.values for raster in read])
        valid = np.logical_and.reduce([raster.valid for raster in read])
        if self._aoi is not None or self._unusable is not None:
            valid &= self.excluded(window) == OBSERVED
        if not valid.all():
            values[:, ~valid] = 0
        raster = Raster(values, valid, stored, self.grid.crop(window))
        return derive(raster, bands, values, valid, raster.grid.window)

    def excluded(self, window: Window) -> NDArray[np.uint8]:
        """Codes of ground taken out by hand, shape (height, width); see `REASONS`."""
        codes = np.full((window.height, window.width), OBSERVED, dtype=np.uint8)
        if self._unusable is not None:
            codes[self._unusable.read(window)] = UNUSABLE
        if self._aoi is not None:
            codes[~self._aoi.read(window)] = OUTSIDE
        return codes

    def close(self) -> None:
        """Close all files."""
        for part in self._parts:
            part.close()
        if self._unusable is not None:
            self._unusable.close()


def open_scene(
    scene: str | Path | SharpScene,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    reflectance: str | Path | None = None,
    add: Sequence[str] = (),
    dem: str | Path | None = None,
    pre: str | Path | None = None,
    aoi: str | Path | None = None,
    unusable: str | Path | None = None,
    pixel_size_m: float | None = None,
    unnamed: bool = False,
) -> StackedScene:
    """Open a scene: one raster or a pansharpened pair, and what is laid over its grid.

    Args:
        scene: Any rasterio path, `/vsicurl/` and `s3://` included, or what `open_pansharpened`
            gives.
        bands: Names of its bands in order (`-`: leave out); None for the descriptions in the file.
        sensor: Key of `SENSORS`, to read numbers such as B4; also kept with the model.
        reflectance: Turn digital numbers into reflectance: `auto`, or the file of the metadata
            (see `find_calibration`).
        add: `FILE:name,name` for bands of other files, warped to the grid.
        dem: Elevation model in metres: bands `elevation` and `slope`.
        pre: A scene from before the event: bands `pre_*`.
        aoi: Polygons; ground outside them is not valid.
        unusable: Polygons or raster (not 0) of cloud, shadow, snow: not valid.
        pixel_size_m: Resample to pixels of this size (m).
        unnamed: Take `band1`, ... where names are missing, instead of failing.

    Raises:
        RasterError: A file cannot be opened.
        BandError: Bands are not named, or there twice.
        InventoryError: Areas cannot be used.
        DataError: The metadata do not allow reflectance.
        UsageError: An option does not go with a pansharpened pair.
    """
    first: Part
    if isinstance(scene, str | Path):
        file = _open_file(scene, bands, sensor, pixel_size_m, unnamed=unnamed)
        first, sources = file, [SourceFile("scene", str(scene), file.bands)]
    else:
        if pixel_size_m is not None:
            raise UsageError(
                "Cannot resample a pair while it is pansharpened. Write it first with landslip "
                "pansharpen, and use the file with --pixel-size."
            )
        first, file, sources = scene, scene.multispectral, list(scene.sources)
    known = (sensor or file.sensor).lower()
    if reflectance is not None:
        calibration = find_calibration(reflectance, file)
        if calibration.sensor and known and calibration.sensor != known:
            said = "--sensor" if sensor else file.path
            raise UsageError(
                f"Cannot give reflectance: {said} says {known}, {calibration.source} says "
                f"{calibration.sensor}. Correct one of the two."
            )
        zero_is_nodata = file.nodata is None and np.dtype(first.dtype).kind in "iu"
        first = ReflectanceScene(first, calibration, zero_is_nodata=zero_is_nodata)
        known = known or calibration.sensor
        sources.append(SourceFile("reflectance", calibration.source))
    grid = first.grid
    parts: list[Part] = [first]
    for text in add:
        path, _, names = text.rpartition(":")
        if not path or not names:
            raise UsageError(
                f"Cannot add bands from '{text}': expected FILE:name,name, for example "
                "--add ndsm.tif:height_above_ground."
            )
        part = FileScene.open(path, bands=names.split(","), sensor=sensor, grid=grid)
        parts.append(part)
        sources.append(SourceFile("add", path, part.bands))
    if pre is not None:
        part = _open_before(pre, bands, sensor, grid, unnamed=unnamed)
        parts.append(part)
        sources.append(SourceFile("pre", str(pre), part.bands))
    if dem is not None:
        terrain = TerrainScene(str(dem), grid)
        parts.append(terrain)
        sources.append(SourceFile("dem", str(dem), terrain.bands))
    area = None
    if aoi is not None:
        area = Area(read_polygons(aoi, grid, what="area of interest").geometries, grid)
        sources.append(SourceFile("aoi", str(aoi)))
    cloud = None
    if unusable is not None:
        sources.append(SourceFile("unusable", str(unusable)))
        cloud = UnusableGround(unusable, grid)
    return StackedScene(parts, sources, sensor=known, aoi=area, unusable=cloud)


def _open_file(
    path: str | Path,
    bands: Sequence[str] | None,
    sensor: str | None,
    pixel_size_m: float | None,
    *,
    unnamed: bool,
) -> FileScene:
    first = FileScene.open(path, bands=bands, sensor=sensor, unnamed=unnamed)
    if pixel_size_m is None:
        return first
    grid = first.grid.resampled(pixel_size_m)
    how = Resampling.average if pixel_size_m > first.grid.pixel_size_m else Resampling.bilinear
    return FileScene.open(
        path, bands=bands, sensor=sensor, unnamed=unnamed, grid=grid, resampling=how
    )


def _open_before(
    path: str | Path, bands: Sequence[str] | None, sensor: str | None, grid: Grid, *, unnamed: bool
) -> FileScene:
    """A scene from before the event; `bands` name its bands where the file itself does not."""
    try:
        return FileScene.open(
            path, sensor=sensor, prefix=BEFORE, grid=grid, unnamed=unnamed and bands is None
        )
    except BandError:
        if bands is None:
            raise
    return FileScene.open(path, bands=bands, sensor=sensor, prefix=BEFORE, grid=grid)


def source_records(scene: Scene) -> list[dict[str, object]]:
    """What identifies the files of a scene; nothing for scenes in memory."""
    return [source.record() for source in getattr(scene, "sources", ())]


def as_scene(scene: SceneLike) -> Scene:
    """A scene from what a verb was given: itself, or the file opened."""
    return open_scene(scene) if isinstance(scene, str | Path) else scene
