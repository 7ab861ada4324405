"""Maps of landslides from any tool, laid over a grid."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from landslip.assess.scores import DEFAULT_THRESHOLD, cut_of
from landslip.geo.errors import DataError, RasterError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import LAYER, OBSERVED, Area, Polygons, layer_names, read_polygons
from landslip.geo.labels import PolygonLabels, is_raster_file
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, encode, threshold_code
from landslip.geo.raster import FileScene, open_dataset

log = logging.getLogger(__name__)

THRESHOLD_TAG = "LANDSLIP_THRESHOLD"
"""Tag of a probability raster that says from which probability on it maps landslides."""


class Prediction(Protocol):
    """A map of landslides laid over a grid."""

    @property
    def path(self) -> str:
        """As it was given."""
        ...

    @property
    def threshold(self) -> float | None:
        """Probability from which pixels count as mapped; None for a map of yes and no."""
        ...

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width): 254 = probability 1, 255 = not observed."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class RasterPrediction:
    """Probabilities, or a map of 0 and 1, in one band of a raster."""

    def __init__(self, path: str, grid: Grid, threshold: float | None) -> None:
        """Use `open_prediction`."""
        self.path = path
        with open_dataset(path) as dataset:
            number = _only_band(path, dataset)
            self._dtype = np.dtype(dataset.dtypes[number - 1])
            self._scale = float(dataset.scales[number - 1])
            self._offset = float(dataset.offsets[number - 1])
            tag = dataset.tags().get(THRESHOLD_TAG)
            nodata = dataset.nodata
        is_scaled = (self._scale, self._offset) != (1.0, 0.0)
        self._is_binary = self._dtype.kind in "iub" and not is_scaled
        self._is_coded = (
            self._dtype == np.uint8
            and self._offset == 0
            and math.isclose(self._scale * TOP_CODE, 1, rel_tol=1e-6)
        )
        self.threshold = None if self._is_binary else _threshold_of(path, threshold, tag)
        if self._is_binary and nodata == 0:
            log.warning(
                "%s declares 0 as nodata, so only what it maps counts as observed; if 0 means no "
                "landslide, say so with gdal_edit.py -unsetnodata",
                path,
            )
        self._scene = FileScene(
            path, {"probability": number}, grid=grid, resampling=Resampling.nearest
        )
        self.grid = grid
        if self._scene.is_warped:
            log.warning("%s has other pixels, or another CRS: the nearest ones are scored", path)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width): 254 = probability 1, 255 = not observed."""
        raster = self._scene.read(window, ["probability"])
        values = raster.values[0]
        if self._is_coded:
            codes: NDArray[np.uint8] = np.where(raster.valid, values, UNKNOWN_CODE)
            return codes.astype(np.uint8)
        self._require_range(values[raster.valid])
        share = values * self._scale + self._offset
        codes = encode(np.clip(share, 0, 1))
        # Rounding to codes must carry no pixel over the threshold; 1e-9 as in `threshold_code`.
        threshold = cut_of(self.threshold)
        cut = threshold_code(threshold)
        mapped = share >= share.dtype.type(threshold - 1e-9)
        codes = np.where(mapped, np.maximum(codes, cut), np.minimum(codes, cut - 1))
        return np.where(raster.valid, codes, UNKNOWN_CODE).astype(np.uint8)

    def _require_range(self, values: NDArray[Any]) -> None:
        if values.size == 0:
            return
        low, high = (float(value) for value in (values.min(), values.max()))
        if self._is_binary and low >= 0 and high > 1:
            raise RasterError(
                f"Cannot evaluate {self.path}: its whole numbers from {low:g} to {high:g} have no "
                "scale that says which probabilities they are; expected 0 and 1, or a scale. "
                f"If {high:g} is probability 1, say so with gdal_edit.py -scale {1 / high:.6g}."
            )
        low, high = (value * self._scale + self._offset for value in (low, high))
        if low < -1e-6 or high > 1 + 1e-6:
            raise RasterError(
                f"Cannot evaluate {self.path}: probabilities from 0 to 1 are expected, found "
                f"{low:g} to {high:g}. Convert them, or declare the nodata value with "
                "gdal_edit.py -a_nodata."
            )

    def close(self) -> None:
        """Close the file."""
        self._scene.close()


class PolygonPrediction:
    """Landslides as polygons; the layer `observed`, if there is one, says what was looked at."""

    def __init__(self, path: str, grid: Grid) -> None:
        """Use `open_prediction`."""
        self.path = path
        self.threshold: float | None = None
        file, _, layer = path.partition("|layername=")
        polygons_of = _polygons_by_layer(file)
        others = [name for name in polygons_of if name not in (OBSERVED, "not_observed")]
        layer = layer or (others[0] if len(others) == 1 else LAYER)
        landslides = _no_polygons(grid)  # a map may say that there are no landslides
        if polygons_of.get(layer) != 0:
            landslides = read_polygons(f"{file}|layername={layer}", grid, what="prediction")
        self._observed: Area | None = None
        outlines = landslides.geometries
        if OBSERVED in polygons_of:
            inside = f"{file}|layername={OBSERVED}"
            outlines = read_polygons(inside, grid, what="observed ground").geometries
            self._observed = Area(outlines, grid)
        outline = grid.footprint()
        if outlines.size and not shapely.intersects(outlines, outline).any():
            here, there = (
                ", ".join(f"{value:.6g}" for value in bounds)
                for bounds in (outline.bounds, shapely.total_bounds(outlines))
            )
            raise DataError(
                f"Cannot evaluate {path}: none of its polygons touches the grid; grid (west, "
                f"south, east, north) {here}, polygons {there}. Name the files of one place."
            )
        self._labels = PolygonLabels(landslides, None, grid)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Codes of a window, shape (height, width): 254 landslide, 0 none, 255 not observed."""
        codes = self._labels.read(window) * np.uint8(TOP_CODE)
        if self._observed is not None:
            codes[~self._observed.read(window)] = UNKNOWN_CODE
        return codes

    def close(self) -> None:
        """Nothing is open."""


def _only_band(path: str, dataset: Any) -> int:
    """Number of the band that holds the map: the only one, or the one called probability."""
    numbers = [
        number
        for number, colour in zip(dataset.indexes, dataset.colorinterp, strict=True)
        if colour != ColorInterp.alpha
    ]
    named = [n for n in numbers if (dataset.descriptions[n - 1] or "").lower() == "probability"]
    if len(numbers) != 1 and len(named) != 1:
        raise RasterError(
            f"Cannot evaluate {path}: expected one band of probabilities or of 0 and 1, found "
            f"{len(numbers)} bands. Cut the right one out with gdal_translate -b."
        )
    return int(numbers[0] if len(numbers) == 1 else named[0])


def _threshold_of(path: str, threshold: float | None, tag: str | None) -> float:
    if threshold is not None:
        return threshold
    if tag is None:
        log.warning(
            "%s: neither --threshold nor the file's tag %s names a threshold; %g is used",
            path, THRESHOLD_TAG, DEFAULT_THRESHOLD,
        )  # fmt: skip
        return DEFAULT_THRESHOLD
    try:
        stored = float(tag)
    except ValueError:
        stored = math.nan
    if not 0 < stored <= 1:
        raise RasterError(
            f"Cannot evaluate {path}: its tag {THRESHOLD_TAG} is '{tag}', expected a number above "
            "0 and up to 1. Name the threshold with --threshold."
        )
    return stored


def _polygons_by_layer(file: str) -> dict[str, int]:
    """How many polygons the layers of a file hold; nothing where it cannot be opened."""
    import pyogrio

    try:
        return {
            name: int(pyogrio.read_info(file, layer=name)["features"]) for name in layer_names(file)
        }
    except pyogrio.errors.DataSourceError:
        return {}  # reading it says why


def _no_polygons(grid: Grid) -> Polygons:
    import geopandas as gpd

    return Polygons(gpd.GeoDataFrame(geometry=[], crs=grid.crs), "", 0)


def open_prediction(path: str | Path, grid: Grid, *, threshold: float | None = None) -> Prediction:
    """Lay a map of landslides over a grid; another grid is warped by nearest neighbour.

    Args:
        path: A raster of probabilities (uint8 with the scale 1/254, floating point from 0 to 1,
            or any whole numbers with a scale), a raster of 0 and 1, or polygons.
        grid: Where it is wanted.
        threshold: Probability from which pixels count as mapped; None for the tag
            `LANDSLIP_THRESHOLD` of the file, or .5 where there is none.

    Raises:
        RasterError: The raster cannot be opened, or its values have no known meaning.
        InventoryError: The polygons cannot be used.
        DataError: The polygons lie elsewhere.
    """
    text = str(path)
    if is_raster_file(text):
        return RasterPrediction(text, grid, threshold)
    return PolygonPrediction(text, grid)
