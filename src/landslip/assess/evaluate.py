"""Score maps of landslides, from any tool, against a reference: the verb `evaluate`.

All maps are scored on the same ground: pixels that every map observed and the reference labels,
inside the area of interest and outside unusable ground.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landslip.assess.blocks import Blocks
from landslip.assess.boundary import BoundaryCounter
from landslip.assess.charts import (
    worst_blocks,
    write_reliability,
    write_sizes,
    write_worst_blocks,
)
from landslip.assess.evaluation import (
    BlockCounts,
    Difference,
    Evaluation,
    Ground,
    PredictionScores,
    ground_text,
)
from landslip.assess.evaluation_report import SCORES_FILE, write_evaluation_report
from landslip.assess.objects import NOT_OBSERVED, ObjectCounter
from landslip.assess.pictures import (
    DIFFERENCES,
    FN,
    FP,
    NOT_SCORED,
    TP,
    ErrorMap,
    difference_classes,
    error_classes,
    subtitle_of,
    title_of,
    write_pr_curve,
)
from landslip.assess.predictions import Prediction, open_prediction
from landslip.assess.scores import Counts, ScoreHistogram, cut_of
from landslip.geo.errors import DataError, OutputError, UsageError
from landslip.geo.grid import Grid, Window
from landslip.geo.labels import (
    LANDSLIDE,
    UNLABELLED,
    Labels,
    PolygonLabels,
    is_raster_file,
    open_labels,
)
from landslip.geo.output import refuse_existing, whole_folder
from landslip.geo.probability import UNKNOWN_CODE, threshold_code
from landslip.geo.progress import track
from landslip.geo.scene import OBSERVED, StackedScene, open_scene
from landslip.geo.windows import cover

log = logging.getLogger(__name__)

STRIP_PX = 8_000_000
"""Pixels of the strips that maps are read and scored in."""
DEFAULT_BLOCK_M = 500.0
"""Side of the blocks that intervals are drawn from (m)."""


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
    block_m: float = DEFAULT_BLOCK_M,
    differences: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
    called: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score maps of landslides against a reference, all on the same ground.

    Pixels are those of the first raster among the predictions, else of the reference, else of
    `like`. They count where every prediction observed and the reference labels them. Memory grows
    with the number of landslides and errors, not with the scene.

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
        block_m: Side of the blocks of ground from which intervals are drawn (m). Take it larger
            than landslides, and than the distance over which ground is alike.
        differences: True: how much better one map is than another, for every two of them, and
            where they differ.
        out: Folder for `report.html`, `scores.json` and, for every prediction, `NAME_errors.tif`,
            `.gpkg` and `.png`, and charts; None writes nothing.
        overwrite: Replace an older such folder.
        called: For tiles that are laid out beside each other: what the record calls files, by
            path; None: maps of ground, called as they are given.

    Raises:
        UsageError: Nothing to evaluate, a threshold out of range, or no raster to give pixels.
        DataError: A file cannot be used, or no ground is left to score.
        OutputError: `out` exists, or cannot be written.
    """
    given = [predictions] if isinstance(predictions, str | Path) else predictions
    paths = [str(path) for path in given]
    if not paths:
        raise UsageError("Cannot evaluate: no prediction is named. Name at least one map.")
    require_threshold(threshold)
    if out is not None:
        others = (reference, checked, aoi, unusable, like)
        read = [*paths, *(str(path) for path in others if path is not None)]
        _refuse_out(out, read, overwrite=overwrite)
    source = _raster_with_pixels(paths, str(reference), like)
    with ExitStack() as stack:
        ground = open_scene(source, aoi=aoi, unusable=unusable, unnamed=True)
        stack.enter_context(closing(ground))
        grid = ground.grid
        if grid.crs is None and called is None:
            log.warning(
                "%s: no coordinate reference system; coordinates are taken for metres", source
            )
        labels = open_labels(reference, grid, checked=checked, positive=positive, what="reference")
        opened = [
            stack.enter_context(closing(open_prediction(path, grid, threshold=threshold)))
            for path in paths
        ]
        comparison = _Comparison(
            ground, labels, opened, _unique_names(paths), str(reference), block_m, differences
        )
        if out is None:
            return _called(comparison.run([], []), called or {})
        folder = stack.enter_context(whole_folder(out, SCORES_FILE, overwrite=overwrite))
        maps = [
            stack.enter_context(ErrorMap(folder / f"{name}_errors", grid, ground.extent))
            for name in comparison.names
        ]
        apart = [
            stack.enter_context(
                ErrorMap(
                    folder / f"{first}_{second}_difference", grid, ground.extent,
                    DIFFERENCES,
                )
            )
            for first, second in comparison.pairs
        ]  # fmt: skip
        evaluation = _called(comparison.run(maps, apart), called or {})
        for error_map, scores in zip(maps, evaluation.predictions, strict=True):
            error_map.finish(title_of(scores), subtitle_of(scores, evaluation.ground))
            _write_charts(folder, scores, grid, are_tiles=called is not None)
        for difference_map, (first, second) in zip(apart, comparison.pairs, strict=True):
            difference_map.finish(
                f"first: {first}, second: {second}", ground_text(evaluation.ground)
            )
        record = evaluation.record() | ({} if called is None else {"tiles": True})
        for scores, entry in zip(evaluation.predictions, record["predictions"], strict=True):
            entry["map"] = _origin(scores, folder)
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / SCORES_FILE).write_text(text + "\n", encoding="utf-8")
        write_evaluation_report(folder)
    return evaluation


def _called(evaluation: Evaluation, names: Mapping[str, str]) -> Evaluation:
    """The same with other paths in the record."""
    return replace(
        evaluation,
        predictions=tuple(
            replace(scores, path=names.get(scores.path, scores.path))
            for scores in evaluation.predictions
        ),
        reference=names.get(evaluation.reference, evaluation.reference),
    )


def _write_charts(folder: Path, scores: PredictionScores, grid: Grid, *, are_tiles: bool) -> None:
    """What a report shows of one map beside its error map."""
    stem = folder / scores.name
    write_sizes(scores.objects.counts(), stem.with_name(f"{stem.name}_sizes.png"))
    worst = worst_blocks(scores.blocks, grid)
    if worst:
        errors = stem.with_name(f"{stem.name}_errors.tif")
        path = stem.with_name(f"{stem.name}_worst.png")
        write_worst_blocks(errors, worst, path, are_tiles=are_tiles)
    if scores.threshold is not None:
        path = stem.with_name(f"{stem.name}_pr.png")
        write_pr_curve(scores.histogram, scores.threshold, path)
        write_reliability(scores.histogram, stem.with_name(f"{stem.name}_reliability.png"))


def _origin(scores: PredictionScores, folder: Path) -> dict[str, Any] | None:
    """Where a map of landslip comes from, and its picture; None for maps of other tools."""
    import pyogrio

    # Of several scenes, each has a folder beside the files of all.
    own = Path(scores.path.partition("|")[0]).parent
    beside = next((each for each in (own, own.parent) if (each / "run.json").exists()), None)
    if beside is None:
        return None
    try:
        run = json.loads((beside / "run.json").read_text(encoding="utf-8"))
        found = {
            "models": [each["name"] for each in run["models"]],
            "scenes": [each["name"] for each in run["scenes"]],
            "begun": run["begun"],
        }
        unseen = pyogrio.read_dataframe(
            beside / "landslides.gpkg", layer="not_observed", read_geometry=False
        )
        reasons = unseen.groupby("reason")["area_m2"].sum()
        found["not_observed_km2"] = {name: area / 1e6 for name, area in reasons.items()}
    except (
        OSError, ValueError, KeyError, TypeError,
        pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError,
    ):  # fmt: skip
        return None
    picture = own / "quicklook.png"
    if picture.exists():
        shutil.copyfile(picture, folder / f"{scores.name}_quicklook.png")
    return found


def require_threshold(threshold: float | None) -> None:
    """Raise UsageError for a threshold that is not above 0 and up to 1."""
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(
            f"Cannot evaluate at a threshold of {threshold:g}: it must be above 0 and up to 1."
        )


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
    block_m: float
    differences: bool

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names of every two maps, where differences are asked for."""
        return list(combinations(self.names, 2)) if self.differences else []

    def run(self, maps: Sequence[ErrorMap], apart: Sequence[ErrorMap]) -> Evaluation:
        """Count everything in one pass.

        Args:
            maps: One for every prediction, or none.
            apart: One for every pair, or none.
        """
        grid = self.ground.grid
        shifted = Counts()
        scored_in_row = np.zeros(grid.height, dtype=np.int64)
        counters = [_Counter(grid, each, self.block_m) for each in self.predictions]
        strips = _strips(grid)
        for window in track(strips, total=len(strips), what="Evaluating"):
            codes, labels, is_seen = self._read(window)
            truth = np.where(is_seen, labels, UNLABELLED).astype(np.uint8)
            ids = self.labels.ids(window)
            scored_in_row[window.slices[0]] += (truth != UNLABELLED).sum(axis=1)
            shifted += _shifted(truth)
            errors = [
                error_classes(plane >= counter.cut, truth)
                for counter, plane in zip(counters, codes, strict=True)
            ]
            for counter, plane, classes in zip(counters, codes, errors, strict=True):
                counter.add(window, plane, truth, classes)
                counter.add_objects(window, plane, labels, is_seen, ids)
            for error_map, classes in zip(maps, errors, strict=False):
                error_map.add(window, classes)
            for difference_map, (first, second) in zip(
                apart, combinations(errors, 2), strict=False
            ):
                difference_map.add(window, difference_classes(first, second))
        if not scored_in_row.any():
            raise DataError(self._why_nothing())
        counted = np.flatnonzero(scored_in_row)
        areas = grid.pixel_area_m2(counted) * scored_in_row[counted]
        scores = tuple(
            counter.scores(name) for name, counter in zip(self.names, counters, strict=True)
        )
        share = scores[0].pixels.landslide_share
        if share == 0:
            log.warning(
                "%s has no landslide on the ground that counts: recall is not defined, and all "
                "that was mapped is a false alarm",
                self.reference,
            )
        return Evaluation(
            scores,
            self.reference,
            Ground(float(areas.sum()) / 1e6, int(scored_in_row.sum()), share),
            shifted.f1,
            isinstance(self.labels, PolygonLabels) and self.labels.is_reviewed,
            tuple(
                Difference.of(first, second)
                for first, second in combinations(scores if self.differences else (), 2)
            ),
        )

    def _read(
        self, window: Window
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8], NDArray[np.bool_]]:
        """Codes of the predictions, labels, and where all maps observed usable ground."""
        codes = [prediction.read(window) for prediction in self.predictions]
        is_seen = self.ground.excluded(window) == OBSERVED
        for plane in codes:
            is_seen &= plane != UNKNOWN_CODE
        return codes, self.labels.read(window), is_seen

    def _why_nothing(self) -> str:
        """The message that no ground is left; reads everything again to say what is missing."""
        grid = self.ground.grid
        tallies = {prediction.path: 0 for prediction in self.predictions}
        labelled = usable = 0
        for window in _strips(grid):
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


def _shifted(truth: NDArray[np.uint8]) -> Counts:
    """Labels against themselves, moved by one column."""
    here, there = truth[:, 1:], truth[:, :-1]
    known = (here != UNLABELLED) & (there != UNLABELLED)
    one, other = (here == LANDSLIDE) & known, (there == LANDSLIDE) & known
    both = int((one & other).sum())
    return Counts(tp=both, fp=int(one.sum()) - both, fn=int(other.sum()) - both)


def _strips(grid: Grid) -> list[Window]:
    """Full rows from the top, whole blocks of files where that fits."""
    rows = max(STRIP_PX // grid.width // 256 * 256, 64)
    return list(cover(grid, rows, grid.width))


class _Counter:
    """Counts one map, strip by strip."""

    def __init__(self, grid: Grid, prediction: Prediction, block_m: float) -> None:
        self._prediction = prediction
        self.cut = threshold_code(cut_of(prediction.threshold))
        self._histogram = ScoreHistogram.empty()
        self._block_m, self._blocks = block_m, Blocks(grid, block_m)
        self._classes = {TP: self._zeros(), FP: self._zeros(), FN: self._zeros()}
        self._scored = self._zeros()
        self._boundary = BoundaryCounter()
        self._objects = ObjectCounter(grid, block_m=block_m)

    def _zeros(self) -> NDArray[np.int64]:
        return np.zeros(self._blocks.shape, np.int64)

    def add(
        self,
        window: Window,
        codes: NDArray[np.uint8],
        truth: NDArray[np.uint8],
        classes: NDArray[np.uint8],
    ) -> None:
        """Count the pixels of a strip: codes, labels that count, and errors of these."""
        self._histogram += ScoreHistogram.of(codes, truth)
        for value, sums in self._classes.items():
            self._blocks.add(sums, window, classes == value)
        self._blocks.add(self._scored, window, classes != NOT_SCORED)
        self._boundary.add(codes >= self.cut, truth)

    def add_objects(
        self,
        window: Window,
        codes: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        is_seen: NDArray[np.bool_],
        ids: NDArray[np.int32] | None,
    ) -> None:
        """Count the landslides of a strip: of all labels, so that their sizes are whole."""
        mapped = (codes >= self.cut).astype(np.uint8)
        mapped[~is_seen] = NOT_OBSERVED
        self._objects.add(window, mapped, labels, ids)

    def scores(self, name: str) -> PredictionScores:
        """What came of all strips."""
        counts = np.stack([self._classes[value] for value in (TP, FP, FN)], axis=-1)
        holds = counts.any(axis=-1)
        blocks = BlockCounts(
            self._block_m, counts[holds], np.argwhere(holds), int((self._scored > 0).sum())
        )
        return PredictionScores(
            name, self._prediction.path, self._prediction.threshold, self._histogram, blocks,
            self._boundary.scores(), self._objects.compared(),
        )  # fmt: skip
