"""Score maps of landslides, from any tool, against a reference: the verb `evaluate`.

All maps are scored on the same ground: pixels that every map observed and the reference labels,
inside the area of interest and outside unusable ground.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from landslip.assess.pictures import ErrorMap, error_classes
from landslip.assess.scores import (
    DEFAULT_THRESHOLD,
    Evaluation,
    Ground,
    PredictionScores,
    ScoreHistogram,
    cut_of,
)
from landslip.geo.errors import DataError, OutputError, RasterError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.inventory import LAYER, Area, Polygons, read_polygons
from landslip.geo.labels import (
    UNLABELLED,
    Labels,
    PolygonLabels,
    is_raster_file,
    open_labels,
)
from landslip.geo.output import refuse_existing, whole_folder
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, encode, threshold_code
from landslip.geo.progress import track
from landslip.geo.raster import FileScene, open_dataset
from landslip.geo.scene import OBSERVED, StackedScene, open_scene
from landslip.geo.windows import cover

log = logging.getLogger(__name__)

CORE_PX = 2048
"""Side of the windows that maps are read and scored in."""
OBSERVED_LAYER = "observed"
"""Layer of a polygon file that says which ground was looked at."""
SCORES_FILE = "scores.json"
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
        is_scaled = (self._scale, self._offset) != (1.0, 0.0)
        self._is_binary = self._dtype.kind in "iub" and not is_scaled
        self._is_coded = (
            self._dtype == np.uint8
            and self._offset == 0
            and math.isclose(self._scale * TOP_CODE, 1, rel_tol=1e-6)
        )
        self.threshold = None if self._is_binary else _threshold_of(path, threshold, tag)
        self._scene = FileScene(
            path, {"probability": number}, grid=grid, resampling=Resampling.nearest
        )

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
        others = [name for name in polygons_of if name not in (OBSERVED_LAYER, "not_observed")]
        layer = layer or (others[0] if len(others) == 1 else LAYER)
        landslides = _no_polygons(grid)  # a map may say that there are no landslides
        if polygons_of.get(layer) != 0:
            landslides = read_polygons(f"{file}|layername={layer}", grid, what="prediction")
        self._observed: Area | None = None
        outlines = landslides.geometries
        if OBSERVED_LAYER in polygons_of:
            inside = f"{file}|layername={OBSERVED_LAYER}"
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
        layers = pyogrio.list_layers(file)
        names = [str(name) for name, kind in layers if kind is not None]  # not styles and tables
        return {name: int(pyogrio.read_info(file, layer=name)["features"]) for name in names}
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


def evaluate(
    predictions: Sequence[str | Path],
    reference: str | Path,
    *,
    checked: str | Path | None = None,
    aoi: str | Path | None = None,
    unusable: str | Path | None = None,
    positive: int | None = None,
    threshold: float | None = None,
    like: str | Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Score maps of landslides against a reference, all on the same ground.

    Pixels are those of the first raster among the predictions, else of the reference, else of
    `like`. They count where every prediction observed and the reference labels them. Memory does
    not grow with the scene, save for the polygons of errors.

    Args:
        predictions: Rasters or polygon files; see `open_prediction`.
        reference: Landslide polygons, or a raster of 0, 1 and 255 = not labelled.
        checked: Polygons inside which the reference is complete; None: everywhere.
        aoi: Polygons; only ground inside counts.
        unusable: Polygons or raster (not 0) of ground that does not count.
        positive: Value of landslides in a reference raster where it is not 1.
        threshold: Probability (above 0, up to 1) from which pixels count as mapped; None for each
            file's own.
        like: A raster that gives the pixels where all else is polygons.
        out: Folder for `scores.json` and, for every prediction, `NAME_errors.tif`, `.gpkg` and
            `.png`; None writes nothing.
        overwrite: Replace an older such folder.

    Raises:
        UsageError: Nothing to evaluate, a threshold out of range, or no raster to give pixels.
        DataError: A file cannot be used, or no ground is left to score.
        OutputError: `out` exists, or cannot be written.
    """
    given = [predictions] if isinstance(predictions, str | Path) else predictions
    paths = [str(path) for path in given]
    if not paths:
        raise UsageError("Cannot evaluate: no prediction is named. Name at least one map.")
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(
            f"Cannot evaluate at a threshold of {threshold:g}: it must be above 0 and up to 1."
        )
    if out is not None:
        others = (reference, checked, aoi, unusable, like)
        read = [*paths, *(str(path) for path in others if path is not None)]
        _refuse_out(out, read, overwrite=overwrite)
    source = _raster_with_pixels(paths, str(reference), like)
    with ExitStack() as stack:
        ground = open_scene(source, aoi=aoi, unusable=unusable, unnamed=True)
        stack.enter_context(closing(ground))
        grid = ground.grid
        if grid.crs is None:
            log.warning(
                "%s: no coordinate reference system; coordinates are taken for metres", source
            )
        labels = open_labels(reference, grid, checked=checked, positive=positive, what="reference")
        opened = [
            stack.enter_context(closing(open_prediction(path, grid, threshold=threshold)))
            for path in paths
        ]
        comparison = _Comparison(ground, labels, opened, _unique_names(paths), str(reference))
        if out is None:
            return comparison.run([])
        folder = stack.enter_context(whole_folder(out, SCORES_FILE, overwrite=overwrite))
        maps = [
            stack.enter_context(ErrorMap(folder / f"{name}_errors", grid, ground.extent))
            for name in comparison.names
        ]
        evaluation = comparison.run(maps)
        for error_map, scores in zip(maps, evaluation.predictions, strict=True):
            error_map.finish(scores, evaluation.ground)
        text = json.dumps(evaluation.record(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / SCORES_FILE).write_text(text + "\n", encoding="utf-8")
    return evaluation


def _refuse_out(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    refuse_existing(out, overwrite=overwrite, marker=SCORES_FILE)
    inside = [path for path in inputs if Path(path).resolve().is_relative_to(out.resolve())]
    if out.exists() and inside:
        raise OutputError(
            f"Cannot replace {out}: {inside[0]}, which is to be read, lies in it. "
            "Name another output."
        )


def _raster_with_pixels(paths: Sequence[str], reference: str, like: str | Path | None) -> str:
    rasters = [path for path in [*paths, reference] if is_raster_file(path)]
    if rasters and like is not None:
        log.warning("--like %s is not needed: the pixels are those of %s", like, rasters[0])
    if rasters:
        return rasters[0]
    if like is None:
        raise UsageError(
            "Cannot evaluate polygons against polygons: no raster says where the pixels lie. "
            "Name one with --like, for example the scene."
        )
    return str(like)


def _unique_names(paths: Sequence[str]) -> list[str]:
    """The stems of the files; with their folder, then with a number, where they repeat."""
    files = [Path(path.partition("|")[0]) for path in paths]
    names = [file.stem for file in files]
    names = [
        f"{file.resolve().parent.name}_{name}" if names.count(name) > 1 else name
        for file, name in zip(files, names, strict=True)
    ]
    unique: list[str] = []
    for name in names:
        number = 2
        chosen = name
        while chosen in unique or (chosen != name and chosen in names):
            chosen = f"{name}_{number}"
            number += 1
        unique.append(chosen)
    return unique


@dataclass(frozen=True)
class _Comparison:
    """What is compared, all on one grid."""

    ground: StackedScene
    labels: Labels
    predictions: Sequence[Prediction]
    names: Sequence[str]
    reference: str

    def run(self, maps: Sequence[ErrorMap]) -> Evaluation:
        """Count everything in one pass; `maps` holds nothing, or one for every prediction."""
        grid = self.ground.grid
        histograms = [ScoreHistogram.empty() for _ in self.predictions]
        scored_in_row = np.zeros(grid.height, dtype=np.int64)
        total = math.ceil(grid.height / CORE_PX) * math.ceil(grid.width / CORE_PX)
        for window in track(cover(grid, CORE_PX), total=total, what="Evaluating"):
            codes, truth = self._read(window)
            scored_in_row[window.slices[0]] += (truth != UNLABELLED).sum(axis=1)
            for number, (prediction, plane) in enumerate(zip(self.predictions, codes, strict=True)):
                histograms[number] += ScoreHistogram.of(plane, truth)
                if maps:
                    cut = threshold_code(cut_of(prediction.threshold))
                    maps[number].add(window, error_classes(plane >= cut, truth))
        if not scored_in_row.any():
            raise DataError(self._why_nothing())
        counted = np.flatnonzero(scored_in_row)
        areas = grid.pixel_area_m2(counted) * scored_in_row[counted]
        share = histograms[0].counts(DEFAULT_THRESHOLD).landslide_share
        return Evaluation(
            tuple(
                PredictionScores(name, prediction.path, prediction.threshold, histogram)
                for name, prediction, histogram in zip(
                    self.names, self.predictions, histograms, strict=True
                )
            ),
            self.reference,
            Ground(float(areas.sum()) / 1e6, int(scored_in_row.sum()), share),
        )

    def _read(self, window: Window) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
        """Codes of the predictions, and labels that are 255 wherever a pixel does not count."""
        codes = [prediction.read(window) for prediction in self.predictions]
        truth = self.labels.read(window)
        truth[self.ground.excluded(window) != OBSERVED] = UNLABELLED
        for plane in codes:
            truth[plane == UNKNOWN_CODE] = UNLABELLED
        return codes, truth

    def _why_nothing(self) -> str:
        """The message that no ground is left; reads everything again to say what is missing."""
        grid = self.ground.grid
        tallies = {prediction.path: 0 for prediction in self.predictions}
        labelled = usable = 0
        for window in cover(grid, CORE_PX):
            for prediction in self.predictions:
                known = prediction.read(window) != UNKNOWN_CODE
                tallies[prediction.path] += int(known.sum())
            labelled += int((self.labels.read(window) != UNLABELLED).sum())
            usable += int((self.ground.excluded(window) == OBSERVED).sum())
        observed = ", ".join(f"observed by {path} {count}" for path, count in tallies.items())
        return (
            f"Cannot evaluate: none of the {grid.height * grid.width} px of the grid is left to "
            f"score; {observed}, labelled by {self.reference} {labelled}, in the area of interest "
            f"and usable {usable}. Name files of the same ground."
        )
