"""Pixels with bands, validity and grid: `Raster`, the `Scene` protocol, and raster files."""

from __future__ import annotations

import hashlib
import math
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.dtypes import in_dtype_range
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform
from rasterio.windows import Window as RasterioWindow

from landslip.geo.bands import UNITS, band_name, compute, sources_of, unit_name
from landslip.geo.errors import BandError, RasterError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.quiet import without_position
from landslip.geo.windows import reflected_indices

DIGITAL = "digital number"
"""Unit of bands whose file states none."""
SENSOR_TAG = "LANDSLIP_SENSOR"
"""Tag of files whose sensor is known."""
WARP_TOLERANCE_PX = 1e-9
"""Exact positions (the default of GDAL, an eighth of a pixel, gives differences of 11 DN)."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Pixels in memory. Never changed after birth; satisfies `Scene`."""

    values: NDArray[Any]
    """Shape (C, H, W), any numeric type; 0 where not valid."""
    valid: NDArray[np.bool_]
    """Shape (H, W); True where every band is usable."""
    bands: tuple[str, ...]
    """Names of the C bands, in order."""
    grid: Grid
    """Where the pixels lie; H x W."""

    def __post_init__(self) -> None:
        expected = (len(self.bands), *self.grid.shape)
        if self.values.shape != expected or self.valid.shape != self.grid.shape:
            raise UsageError(
                f"Cannot make a raster: bands and grid ask for values {expected} and valid "
                f"{self.grid.shape}, found {self.values.shape} and {self.valid.shape}."
            )
        if self.valid.dtype != np.bool_:
            raise UsageError(f"Cannot make a raster: valid is {self.valid.dtype}, expected bool.")
        if len(set(self.bands)) != len(self.bands):
            raise BandError(f"Cannot make a raster: band names repeat ({', '.join(self.bands)}).")

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window, bands in the order asked for; indices are computed."""
        require_inside(window, self.grid)
        rows, cols = window.slices
        return derive(self, bands, self.values[:, rows, cols], self.valid[rows, cols], window)


@runtime_checkable
class Scene(Protocol):
    """Anything that gives pixels by window and band name."""

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that are stored (indices are computed on request)."""
        ...

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of a window inside the grid, bands in the order asked for."""
        ...


def derive(
    scene: Scene,
    bands: Sequence[str],
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    window: Window,
) -> Raster:
    """From planes of all of a scene's bands to the bands wanted, indices included."""
    grid = scene.grid.crop(window)
    if tuple(bands) == scene.bands:
        return Raster(values, valid, tuple(bands), grid)
    sources_of(bands, scene.bands)
    planes = dict(zip(scene.bands, values, strict=True))
    stacked = compute(bands, planes)
    if stacked.dtype.kind == "f":
        valid = valid & np.isfinite(stacked).all(axis=0)
        stacked = np.where(valid, stacked, 0).astype(stacked.dtype)
    return Raster(stacked, valid, tuple(bands), grid)


def require_inside(window: Window, grid: Grid) -> None:
    """Raise UsageError where a window reaches beyond a grid."""
    if window.intersection(grid.window) != window:
        raise UsageError(
            f"Cannot read {window}: it reaches beyond the grid of {grid.height} x {grid.width} px."
        )


def read_reflected(scene: Scene, window: Window, bands: Sequence[str]) -> Raster:
    """Read a window that may reach beyond the scene; what lies outside is mirrored from inside."""
    inside = window.intersection(scene.grid.window)
    if inside is None:
        raise UsageError(f"Cannot read {window}: it lies outside the scene.")
    # Mirrored pixels can lie beyond the part of the window that is inside.
    height, width = scene.grid.shape
    rows = reflected_indices(window.row, window.row_stop, height)
    cols = reflected_indices(window.col, window.col_stop, width)
    source = Window(int(rows.min()), int(cols.min()), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
    raster = scene.read(source, bands)
    if source == window:
        return raster
    picked = np.ix_(rows - source.row, cols - source.col)
    values = np.stack([plane[picked] for plane in raster.values])
    return Raster(values, raster.valid[picked], raster.bands, scene.grid.crop(window))


class FileScene:
    """One raster file, opened through any rasterio path, warped on the fly where asked.

    Only the header is read at birth. Every read has a file handle for itself, so threads may
    read at once; handles are kept for later reads, as many as were ever in use at once. A pickle
    holds no handles: where it is unpickled, the first read opens the file.
    """

    def __init__(
        self,
        path: str,
        names: dict[str, int],
        *,
        grid: Grid | None = None,
        resampling: Resampling = Resampling.bilinear,
        as_float: bool = False,
    ) -> None:
        """Use `FileScene.open` unless the names of the bands are known.

        Args:
            path: Any rasterio path.
            names: Band name -> band number in the file (from 1).
            grid: Grid to give the pixels on; None for the file's own.
            resampling: How pixels are warped to `grid`.
            as_float: Warp into float32 instead of rounding to the type of the file.
        """
        self.path = path
        self.numbers = names
        with open_dataset(path) as dataset:
            self._own_grid = grid_of(dataset)
            self.dtype: str = "float32" if as_float else np.result_type(*dataset.dtypes).name
            self.nodata: float | None = dataset.nodata
            self.units = tuple(
                unit_name(dataset.units[number - 1] or "") or UNITS.get(name, DIGITAL)
                for name, number in names.items()
            )
            # Floats may hold NaN, and beside four bands GDAL does not heed alpha.
            self.always_valid = (
                np.dtype(self.dtype).kind in "iu"
                and ColorInterp.alpha not in dataset.colorinterp
                and all(flags == [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)
            )
            self.sensor = str(dataset.tags().get(SENSOR_TAG, ""))
        self._grid = grid or self._own_grid
        self.is_warped = self._grid != self._own_grid
        """True where pixels are not those of the file."""
        self._resampling = resampling
        self._as_float = as_float
        self._idle: list[tuple[Any, ...]] = []
        if self._grid != self._own_grid and (self._grid.crs is None) != (
            self._own_grid.crs is None
        ):
            raise RasterError(
                f"Cannot lay {path} over the scene: one of the two has no coordinate reference "
                "system. Give both a CRS (gdal_edit.py -a_srs), or cut both to the same pixels."
            )

    def __getstate__(self) -> dict[str, Any]:
        # Who unpickles it may work in another folder.
        here = is_local(self.path) and Path(self.path).exists()
        path = str(Path(self.path).absolute()) if here else self.path
        return self.__dict__ | {"path": path, "_idle": []}

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        bands: Sequence[str] | None = None,
        sensor: str | None = None,
        prefix: str = "",
        grid: Grid | None = None,
        resampling: Resampling = Resampling.bilinear,
        unnamed: bool = False,
    ) -> Self:
        """Open a file and name its bands.

        Args:
            path: Any rasterio path, `/vsicurl/` and `s3://` included.
            bands: Names in the order of the file, `-` for a band to leave out; None for the
                descriptions in the file.
            sensor: Key of `SENSORS`, to read numbers such as B4.
            prefix: Put before every name (`pre_` for a scene from before the event).
            grid: Grid to give the pixels on; None for the file's own.
            resampling: How pixels are warped to `grid`.
            unnamed: Take `band1`, `band2`, ... where names are missing, instead of failing.

        Raises:
            RasterError: The file cannot be opened, or has no bands.
            BandError: The bands are not named, twice the same, or not as many as `bands`.
        """
        with open_dataset(str(path)) as dataset:
            bands = _without_alpha(str(path), dataset, bands)
            numbers = [
                number
                for number, colour in zip(dataset.indexes, dataset.colorinterp, strict=True)
                if colour != ColorInterp.alpha
            ]
            described = [(dataset.descriptions[number - 1] or "").strip() for number in numbers]
        texts = _band_texts(str(path), described, bands, unnamed=unnamed)
        names: dict[str, int] = {}
        for text, number in zip(texts, numbers, strict=True):
            if text == "-":
                continue
            made_up = bands is None and text not in described
            name = prefix + (text if made_up else _named(text, sensor, unnamed=unnamed))
            if name in names:
                raise BandError(
                    f"Cannot use {path}: two of its bands are called '{name}'. "
                    "Name them with --bands."
                )
            names[name] = number
        if not names:
            raise BandError(
                f"Cannot use {path}: all its {len(numbers)} bands are left out. "
                "Name one at least with --bands."
            )
        return cls(str(path), names, grid=grid, resampling=resampling)

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self._grid

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the order of the file."""
        return tuple(self.numbers)

    def laid_over(self, grid: Grid, resampling: Resampling) -> Self:
        """The same bands on another grid, in float32."""
        return type(self)(self.path, self.numbers, grid=grid, resampling=resampling, as_float=True)

    def read(self, window: Window, bands: Sequence[str]) -> Raster:
        """The pixels of one window; not valid are nodata, alpha 0, masked and NaN pixels."""
        require_inside(window, self.grid)
        stored = sources_of(bands, self.bands)
        numbers = [self.numbers[name] for name in stored]
        box = rasterio_window(window)
        with plain_read_errors(self.path), self._dataset() as dataset:
            values = dataset.read(numbers, window=box)
            if self.always_valid and self._grid == self._own_grid:
                valid = np.ones(values.shape[1:], dtype=bool)
            else:
                valid = (dataset.read_masks(numbers, window=box) > 0).all(axis=0)
            # GDAL heeds alpha by itself only beside one band or three.
            if ColorInterp.alpha in dataset.colorinterp:
                alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1
                valid &= dataset.read(alpha, window=box) > 0
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        if not valid.all():
            values[:, ~valid] = 0
        raster = Raster(values, valid, stored, self.grid.crop(window))
        return derive(raster, bands, values, valid, raster.grid.window)

    @contextmanager
    def _dataset(self) -> Iterator[Any]:
        """The file, warped where asked; no other thread has the handle meanwhile."""
        try:
            opened = self._idle.pop()
        except IndexError:
            opened = (open_dataset(self.path),)
            if self._grid != self._own_grid:
                dtype = "float32" if self._as_float else None
                opened += (_warped(opened[0], self._grid, self._resampling, dtype),)
        try:
            yield opened[-1]
        finally:
            self._idle.append(opened)

    def close(self) -> None:
        """Close all file handles; the next read opens them again."""
        while self._idle:
            for dataset in reversed(self._idle.pop()):
                dataset.close()


def _warped(dataset: Any, grid: Grid, resampling: Resampling, dtype: str | None) -> WarpedVRT:
    nodata = dataset.nodata
    if nodata is not None and in_dtype_range(nodata, dataset.dtypes[0]):
        # Band by band, as unwarped; an added alpha would make GDAL forget nodata altogether.
        validity = {"nodata": nodata, "UNIFIED_SRC_NODATA": "NO"}
    else:
        validity = {"add_alpha": ColorInterp.alpha not in dataset.colorinterp}
    return WarpedVRT(
        dataset,
        # Pictures without a CRS are warped in their own plane; GDAL still wants a name for it.
        src_crs=dataset.crs or "EPSG:3857",
        crs=grid.crs or "EPSG:3857",
        transform=grid.transform,
        height=grid.height,
        width=grid.width,
        resampling=resampling,
        dtype=dtype,
        tolerance=WARP_TOLERANCE_PX,
        **validity,
        **_warp_scale(grid_of(dataset), grid),
    )


def _warp_scale(source: Grid, target: Grid) -> dict[str, str]:
    """How much smaller warping makes the picture, said once for the whole target.

    Left alone, GDAL guesses it anew for every block from the boxes around it, and blurs rotated or
    reprojected blocks by up to a tenth of a pixel, each in its own way.
    """
    col, row = target.width / 2, target.height / 2
    around = [(col - 0.5, row), (col + 0.5, row), (col, row - 0.5), (col, row + 0.5)]
    xs, ys = zip(*(target.transform * point for point in around), strict=True)
    if source.crs is not None and target.crs is not None and source.crs != target.crs:
        xs, ys = transform(target.crs, source.crs, xs, ys)
    points = zip(xs, ys, strict=True)
    cols, rows = zip(*(~source.transform * point for point in points), strict=True)
    steps = {
        "XSCALE": math.hypot(cols[1] - cols[0], cols[3] - cols[2]),
        "YSCALE": math.hypot(rows[1] - rows[0], rows[3] - rows[2]),
    }
    return {name: repr(1 / max(step, 1.0)) for name, step in steps.items() if math.isfinite(step)}


def _without_alpha(path: str, dataset: Any, bands: Sequence[str] | None) -> Sequence[str] | None:
    """Names without the one of the transparency band; an error where that shows something.

    Programs mark the fourth of four 8-bit bands as transparency unless told otherwise.
    """
    if ColorInterp.alpha not in dataset.colorinterp:
        return bands
    number = dataset.colorinterp.index(ColorInterp.alpha)
    text = dataset.descriptions[number] or ""
    kept = bands
    if bands is not None and len(bands) == dataset.count:
        text = bands[number]
        kept = [name for position, name in enumerate(bands) if position != number]
    if text.strip().lower() not in {"", "-", "alpha"}:
        raise BandError(
            f"Cannot use {path}: its band {number + 1}, '{text}', is marked as transparency. "
            f"Unmark it (gdal_edit.py -colorinterp_{number + 1} undefined)."
        )
    return kept


def _named(text: str, sensor: str | None, *, unnamed: bool) -> str:
    try:
        return band_name(text, sensor)
    except BandError:
        if not unnamed:
            raise
        return text


def _band_texts(
    path: str, described: Sequence[str | None], bands: Sequence[str] | None, *, unnamed: bool
) -> list[str]:
    count = len(described)
    if bands is not None:
        if len(bands) != count:
            raise BandError(
                f"Cannot name the bands of {path}: it has {count}, --bands names {len(bands)} "
                f"({', '.join(bands)}). Name every band in order, '-' for one to leave out."
            )
        if not all(name.strip() for name in bands):
            raise BandError(
                f"Cannot name the bands of {path}: a name is empty ({', '.join(bands)}). "
                "Name every band in order, '-' for one to leave out."
            )
        return list(bands)
    if all(described):
        return [str(text) for text in described]
    if unnamed:
        return [text or f"band{number}" for number, text in enumerate(described, 1)]
    raise BandError(
        f"Cannot use {path}: it does not name its {count} bands. "
        "Name them in order with --bands, for example --bands nir,red,green."
    )


def open_dataset(path: str) -> Any:
    """Open a raster for reading, with plain errors.

    Raises:
        RasterError: There is no such file, it is no raster, or it has no bands.
    """
    with plain_read_errors(path), without_position():
        dataset = rasterio.open(path)
    if dataset.count == 0:
        parts = dataset.subdatasets
        dataset.close()
        remedy = f"Name one of its parts: {', '.join(parts[:4])}." if parts else "Use another file."
        raise RasterError(f"Cannot open {path}: it holds no bands. {remedy}")
    return dataset


@contextmanager
def plain_read_errors(path: str) -> Iterator[None]:
    """Turn GDAL's errors on reading into one clear RasterError."""
    try:
        yield
    except RasterioError as error:
        if is_local(path) and not Path(path).exists():
            raise RasterError(
                f"Cannot open {path}: there is no such file. Check its name and folder."
            ) from error
        if "not recognized" in str(error):
            raise RasterError(
                f"Cannot open {path}: it is not a raster that GDAL can read. "
                "Export the scene as GeoTIFF."
            ) from error
        raise RasterError(
            f"Cannot read {path}: the file is damaged or cut short ({error}). "
            "Copy or download it again."
        ) from error


def is_local(path: str) -> bool:
    """True for a plain path of this machine, False for URLs and GDAL's virtual paths."""
    return not path.startswith("/vsi") and "://" not in path


def grid_of(dataset: Any) -> Grid:
    """The grid of an open rasterio dataset."""
    return Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)


def fingerprint(path: str | Path) -> dict[str, str | int]:
    """What identifies a source: path, and SHA-256 (local) or ETag and size (over HTTP).

    Other virtual paths are named and not hashed.
    """
    text = str(path)
    if is_local(text):
        if not Path(text).is_file():
            # A part of a file, by one of GDAL's names, or a folder.
            return {"path": text}
        with Path(text).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": text, "sha256": digest, "bytes": Path(text).stat().st_size}
    url = text.removeprefix("/vsicurl/")
    if not url.startswith(("http://", "https://")):
        return {"path": text}
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            headers = dict(answer.headers)
    except OSError:
        return {"path": text}
    named = {"etag": headers.get("ETag"), "bytes": headers.get("Content-Length")}
    return {"path": text} | {key: value for key, value in named.items() if value is not None}


@contextmanager
def create_raster(
    path: Path | str,
    grid: Grid,
    *,
    bands: Sequence[str],
    dtype: str,
    nodata: float | None = None,
    units: Sequence[str] = (),
    options: Mapping[str, str | int] | None = None,
) -> Iterator[Any]:
    """Open a tiled, compressed GeoTIFF for writing window by window.

    Args:
        path: Where to write; callers hand in a name from `output.whole_file`.
        grid: Where the pixels lie.
        bands: Descriptions of the bands.
        dtype: Type of the pixels.
        nodata: Declared nodata value.
        units: Units of the bands; empty where they are digital numbers.
        options: More creation options of GDAL's GTiff driver.
    """
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(bands),
        "dtype": dtype,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": nodata,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    if len(bands) != 3:
        # Else GDAL takes the fourth of four 8-bit bands for transparency.
        profile["photometric"] = "minisblack"
    if min(grid.shape) >= 256:
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with without_position():
        opened = rasterio.open(path, "w", **(profile | dict(options or {})))
    with opened as dataset:
        for number, name in enumerate(bands, 1):
            dataset.set_band_description(number, name)
        for number, unit in enumerate(units, 1):
            if unit != DIGITAL:
                dataset.set_band_unit(number, unit)
        yield dataset


def rasterio_window(window: Window) -> RasterioWindow:
    """The same window in rasterio's order: columns before rows."""
    return RasterioWindow(window.col, window.row, window.width, window.height)
