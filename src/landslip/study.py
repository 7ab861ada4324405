"""Networks compared on all ground of a scene, each part by models that did not see it: `study`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rich.table import Table

from landslip import __version__
from landslip.assess.blocks import Interval, PairedDifference
from landslip.assess.evaluate import DEFAULT_BLOCK_M, evaluate
from landslip.assess.evaluation import (
    Evaluation,
    PredictionScores,
    score_difference,
    score_interval,
)
from landslip.assess.report import Section, write_report
from landslip.geo.errors import DataError, UsageError
from landslip.geo.grid import Window
from landslip.geo.inventory import frame_crs, write_layers
from landslip.geo.labels import LANDSLIDE, Labels, open_labels
from landslip.geo.output import only_process, require_same, whole_file
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, threshold_code
from landslip.geo.raster import create_raster, rasterio_window
from landslip.geo.scene import OBSERVED, StackedScene, open_scene, source_records
from landslip.geo.windows import cover
from landslip.inventory.pixels import ProbabilityFile
from landslip.learn.card import load_card
from landslip.learn.plan import TrainOptions
from landslip.learn.recipes import Recipe, recipe_named
from landslip.learn.train import train_on_scene
from landslip.mapping.options import MapOptions
from landslip.mapping.scene_map import map_scene
from landslip.prepare.split import TileOptions, strip_of

log = logging.getLogger(__name__)

STUDY_FILE = "study.json"
READ_PX = 1024
"""Rows that are read at once (px)."""
GAP_SHARE = 0.1
"""Of the width of a part, the ground beside it that nobody learns from."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is compared, and how often."""

    models: tuple[str, ...]
    """Networks, as for training."""
    recipe: str = "modern"
    """Recipe of all trainings."""
    changes: dict[str, object]
    """Settings of the recipe that are changed."""
    folds: int = 5
    """Parts of the ground; each is mapped by models that did not see it."""
    seeds: int = 1
    """Trainings of every network on every part, seeds 0, 1, ..."""
    tile_px: int = 600
    """Rows and columns of a tile (px)."""
    stride_px: int | None = None
    """Pixels from tile to tile; None: the size."""
    block_m: float = DEFAULT_BLOCK_M
    """Side of the blocks that intervals are drawn from (m)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: str = "auto"
    """auto, float32, bf16 or fp16."""


@dataclass(frozen=True, eq=False)
class ModelResult:
    """One network over all seeds."""

    model: str
    seeds: tuple[PredictionScores, ...]
    """Of its out-of-fold maps, one a seed."""

    def scores(self, name: str) -> list[float]:
        """One score of every seed."""
        return [float(getattr(each.pixels, name)) for each in self.seeds]

    def interval(self, name: str) -> Interval | None:
        """Of the pixels of all seeds together, over draws of blocks."""
        return score_interval(_pooled([self])[0], name)


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What came of a study."""

    models: tuple[ModelResult, ...]
    evaluation: Evaluation
    """Of all maps, on the same ground."""

    def difference(self, first: int, second: int, name: str) -> PairedDifference:
        """How much better the second network is than the first, all seeds together."""
        one, other = _pooled([self.models[first], self.models[second]])
        return score_difference(one, other, name)

    def rows(self) -> list[list[str]]:
        """Table 2: a row a network, the mean over its seeds and half their range."""
        names = ("precision", "recall", "f1", "iou")
        rows = [["Network", "Precision", "Recall", "F1", "IoU", "F1, 95 % interval"]]
        for each in self.models:
            found = each.interval("f1")
            between = "–" if found is None else f"{found.low:.3f}–{found.high:.3f}"
            rows.append([each.model, *(_spread(each.scores(name)) for name in names), between])
        return rows

    def difference_rows(self) -> list[list[str]]:
        """A row every two networks: difference in F1, interval, p."""
        rows = [["Second – first", "Difference in F1", "95 % interval", "p"]]
        for second in range(1, len(self.models)):
            for first in range(second):
                told = self.difference(first, second, "f1")
                between = told.interval
                rows.append(
                    [
                        f"{self.models[second].model} – {self.models[first].model}",
                        f"{told.difference:+.3f}",
                        "–" if between is None else f"{between.low:+.3f} to {between.high:+.3f}",
                        "–" if told.p is None else f"{told.p:.2g}",
                    ]
                )
        return rows

    def table(self) -> Table:
        """Table 2 for people."""
        head, *rows = self.rows()
        table = Table(*head, caption="Means over seeds ± half their range, on unseen ground.")
        for row in rows:
            table.add_row(*row)
        return table


def _spread(values: list[float]) -> str:
    mean = float(np.mean(values))
    half = (max(values) - min(values)) / 2
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {half:.3f}"


def _pooled(results: Sequence[ModelResult]) -> list[NDArray[np.int64]]:
    """TP, FP and FN of some networks by block, all seeds added; the same blocks for all."""
    maps = [scores.blocks for each in results for scores in each.seeds]
    places = np.concatenate([each.places for each in maps])
    number = np.unique(places, axis=0, return_inverse=True)[1].ravel()
    blocks = int(number.max(initial=-1)) + 1
    starts = np.cumsum([0, *(len(each.places) for each in maps)])
    pooled, at = [], 0
    for result in results:
        counts = np.zeros((blocks, 3), np.int64)
        for scores in result.seeds:
            counts[number[starts[at] : starts[at + 1]]] += scores.blocks.counts
            at += 1
        pooled.append(counts)
    return pooled


def run_study(
    scene: StackedScene | str | Path,
    inventory: str | Path,
    out: str | Path,
    *,
    options: StudyOptions,
    checked: str | Path | None = None,
) -> StudyResult:
    """Train networks on parts of a scene, map the others, and score all ground that none saw.

    The scene is cut across its longer side into parts with as many landslide pixels each. For
    every part, the next one chooses weights and threshold and the others train; a strip beside it
    is left out. What is finished is kept in `out`, and the same command continues there, on another
    machine, too.

    Args:
        scene: Scene, or the path of a file that names its bands.
        inventory: Landslide polygons or a label raster.
        out: Folder to work in: models, `maps/NAME.tif` (yes and no, at the thresholds of the
            parts) and `maps/NAME_probability.tif` of all ground, `scores/`, `study.json` and
            `report.html`.
        options: What is compared.
        checked: Polygons inside which everything was inspected.

    Raises:
        UsageError: Fewer than three parts, no network, or no seed.
        DataError: Too few landslides, or too little ground, for so many parts.
        OutputError: `out` was begun with other options or another scene.
        LandslipError: As training, mapping and evaluation do.
    """
    if options.folds < 3 or not options.models or options.seeds < 1:
        raise UsageError(
            f"Cannot study {len(options.models)} networks in {options.folds} parts with "
            f"{options.seeds} seeds: at least 1, 3 and 1 are needed."
        )
    recipe = recipe_named(options.recipe, options.changes)
    out = Path(out)
    with ExitStack() as stack:
        if not isinstance(scene, StackedScene):
            scene = stack.enter_context(closing(open_scene(scene)))
        stack.enter_context(only_process(out))
        labels = open_labels(inventory, scene.grid, checked=checked)
        edges, axis = _edges(scene, labels, options)
        shown = {k: v for k, v in asdict(options).items() if k not in ("device", "precision")}
        asked = {
            **shown, "recipe": asdict(recipe), "edges": edges, "landslip": __version__,
            "sources": [_content(each) for each in source_records(scene)],
            "inventory": _name_of(inventory), "checked": _name_of(checked),
        }  # fmt: skip
        _begin(out, json.loads(json.dumps(asked, default=str)), _place(out, scene, options))
        parts = tuple(strip_of(scene.grid, axis, *pair) for pair in pairwise(edges))
        study = _Study(scene, inventory, checked, out, options, recipe, parts, axis)
        names = list(_names(options))
        for number, (model, seed, name) in enumerate(names):
            for fold in range(options.folds):
                log.info(
                    "%d of %d: %s, part %d", number * options.folds + fold + 1,
                    len(names) * options.folds, name, fold + 1,
                )  # fmt: skip
                study.map_part(model, seed, name, fold)
            study.join(name)
        evaluation = evaluate(
            [out / "maps" / f"{name}.tif" for *_, name in names], inventory, checked=checked,
            block_m=options.block_m, out=out / "scores", overwrite=True,
        )  # fmt: skip
        result = StudyResult(_by_model(options, evaluation), evaluation)
        _write(out, result, options)
    return result


def _names(options: StudyOptions) -> Iterator[tuple[str, int, str]]:
    """Networks with their seeds, and what their files are called."""
    for model in options.models:
        plain = model.replace(":", "-").replace("/", "-")
        for seed in range(options.seeds):
            yield model, seed, f"{plain}_seed{seed}"


def _by_model(options: StudyOptions, evaluation: Evaluation) -> tuple[ModelResult, ...]:
    number = options.seeds
    return tuple(
        ModelResult(model, evaluation.predictions[at * number : (at + 1) * number])
        for at, model in enumerate(options.models)
    )


def _edges(scene: StackedScene, labels: Labels, options: StudyOptions) -> tuple[list[int], int]:
    """Where the parts begin and end (px), along rows (0) or columns (1)."""
    grid = scene.grid
    axis = 0 if grid.height >= grid.width else 1
    held = np.zeros(grid.shape[axis], np.int64)
    for window in cover(grid, READ_PX, grid.width):
        found = (labels.read(window) == LANDSLIDE) & (scene.excluded(window) == OBSERVED)
        part = window.slices[axis]
        held[part] += found.sum(axis=1 - axis)
    total, folds, length = int(held.sum()), options.folds, len(held)
    below = np.concatenate([[0], np.cumsum(held)])
    wanted = [np.searchsorted(below, total * part / folds) for part in range(1, folds)]
    edges = [0, *(int(edge) for edge in wanted), length]
    narrow = min(right - left for left, right in pairwise(edges))
    if total == 0 or narrow < options.tile_px:
        raise DataError(
            f"Cannot study in {folds} parts: with as many of the {total} landslide pixels in each, "
            f"the narrowest has {max(narrow, 0)} px, a tile {options.tile_px}. Take fewer --folds "
            "or a smaller --size."
        )
    return edges, axis


def _content(record: dict[str, Any]) -> dict[str, Any]:
    """What a source holds, wherever it lies."""
    return {key: value for key, value in record.items() if key not in ("path", "modified")}


def _name_of(path: str | Path | None) -> str | None:
    return None if path is None else Path(str(path).partition("|")[0]).name


def _place(out: Path, scene: StackedScene, options: StudyOptions) -> dict[str, Any]:
    """On what the unfinished work of a part depends, beside what was asked for."""
    paths = [str(each.get("path")) for each in source_records(scene)]
    return {
        "folder": str(out.absolute()), "scene": paths, "device": options.device,
        "precision": options.precision,
    }  # fmt: skip


def _begin(out: Path, asked: dict[str, Any], place: dict[str, Any]) -> None:
    """Write what is asked for, or require that it was; elsewhere, begin unfinished parts anew."""
    journal = out / STUDY_FILE
    found: dict[str, Any] = {}
    if journal.exists():
        found = json.loads(journal.read_text(encoding="utf-8"))
        require_same(found["asked"], asked, out)
        if found["place"] != place:
            for folder in ("models", "maps"):
                for unfinished in (out / folder).glob("*.partial"):
                    log.info("%s was begun elsewhere: begun anew", unfinished.name)
                    shutil.rmtree(unfinished)
    (out / "maps").mkdir(parents=True, exist_ok=True)
    with whole_file(journal, overwrite=True) as partial:
        text = json.dumps({**found, "asked": asked, "place": place}, indent=1) + "\n"
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True, eq=False)
class _Study:
    """What is trained on and mapped, part by part."""

    scene: StackedScene
    inventory: str | Path
    checked: str | Path | None
    out: Path
    options: StudyOptions
    recipe: Recipe
    parts: tuple[Window, ...]
    axis: int

    def map_part(self, model: str, seed: int, name: str, fold: int) -> None:
        """Train for a part and map it, or what of both is not there."""
        folder, path = self._map_of(name, fold), self._model_of(name, fold)
        if folder.exists():
            return
        options, grid = self.options, self.scene.grid
        if not path.exists():
            tiling = TileOptions(
                size=options.tile_px, stride=options.stride_px, split=str(self._split(fold))
            )
            train = TrainOptions(
                model=model, recipe=self.recipe, seed=seed, device=options.device,
                precision=options.precision,
            )  # fmt: skip
            train_on_scene(
                self.scene, self.inventory, path, tiling=tiling, checked=self.checked,
                options=train,
            )  # fmt: skip
        ground = self.scene.within(grid.crop(self.parts[fold]).footprint())
        # Parts of one scene: the numbers that the model learnt from fit.
        how = MapOptions(device=options.device, precision=options.precision, scaling="model")
        map_scene(ground, path, folder, options=how)

    def join(self, name: str) -> None:
        """Maps of all ground from those of the parts: probabilities, and yes and no."""
        paths = [self.out / "maps" / f"{name}{ending}.tif" for ending in ("", "_probability")]
        if all(path.exists() for path in paths):
            return
        grid = self.scene.grid
        with ExitStack() as stack:
            sources, cuts = [], []
            for fold in range(len(self.parts)):
                path = str(self._map_of(name, fold) / "probability.tif")
                sources.append(stack.enter_context(closing(ProbabilityFile(path))))
                cuts.append(threshold_code(load_card(self._model_of(name, fold)).threshold))
            files = [
                stack.enter_context(
                    create_raster(
                        stack.enter_context(whole_file(path, overwrite=True)), grid, bands=[band],
                        dtype="uint8", nodata=UNKNOWN_CODE,
                    )
                )
                for path, band in zip(paths, ("landslide", "probability"), strict=True)
            ]  # fmt: skip
            files[1].scales = (1 / TOP_CODE,)
            for window in cover(grid, READ_PX, grid.width):
                codes = np.full((window.height, window.width), UNKNOWN_CODE, np.uint8)
                mapped = codes.copy()
                for part, source, cut in zip(self.parts, sources, cuts, strict=True):
                    own = part.intersection(window)
                    if own is None:
                        continue
                    plane = source.read(own)
                    place = own.relative_to(window).slices
                    codes[place] = plane
                    mapped[place] = np.where(plane == UNKNOWN_CODE, UNKNOWN_CODE, plane >= cut)
                for file, plane in zip(files, (mapped, codes), strict=True):
                    file.write(plane, 1, window=rasterio_window(window))

    def _map_of(self, name: str, fold: int) -> Path:
        return self.out / "maps" / f"{name}_part{fold}"

    def _model_of(self, name: str, fold: int) -> Path:
        return self.out / "models" / f"{name}_part{fold}.safetensors"

    def _split(self, fold: int) -> Path:
        """The sides of the ground around a part: the next one chooses, the rest trains."""
        import geopandas as gpd

        path = self.out / "models" / f"part{fold}.gpkg"
        if path.exists():
            return path
        spans = [(part.slices[self.axis].start, part.slices[self.axis].stop) for part in self.parts]
        gap = round(GAP_SHARE * min(stop - first for first, stop in spans))
        left, right = spans[fold][0] - gap, spans[fold][1] + gap
        ground: dict[str, list[Any]] = {"train": [], "validation": []}
        for number, (first, stop) in enumerate(spans):
            if number == fold:
                continue
            is_before = number < fold
            span = (first, min(stop, left)) if is_before else (max(first, right), stop)
            side = "validation" if number == (fold + 1) % len(spans) else "train"
            part = strip_of(self.scene.grid, self.axis, *span)
            ground[side].append(self.scene.grid.crop(part).footprint())
        # Neighbours become one, or no tile would lie across their edge.
        frame = gpd.GeoDataFrame(
            {"split": list(ground)},
            geometry=[shapely.union_all(each) for each in ground.values()],
            crs=frame_crs(self.scene.grid),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            write_layers(partial, {"split": frame})
        return path


def _write(out: Path, result: StudyResult, options: StudyOptions) -> None:
    """The result beside what was asked for, and a page of it."""
    journal = json.loads((out / STUDY_FILE).read_text(encoding="utf-8"))
    journal["table"] = result.rows()
    journal["differences"] = result.difference_rows()
    with whole_file(out / STUDY_FILE, overwrite=True) as partial:
        text = json.dumps(journal, indent=1, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8")
    blocks = result.evaluation.predictions[0].blocks
    sections = [
        Section(
            heading="All ground, by models that did not see it",
            paragraphs=[
                f"{options.folds} parts with as many landslide pixels each; {options.seeds} seeds; "
                f"recipe {options.recipe}. Pixels are pooled over all parts.",
                blocks.why_no_interval
                or f"Intervals hold 95 % of the draws of {len(blocks.counts)} blocks of "
                f"{blocks.block_m:g} m; all seeds of a network are drawn together.",
            ],
            table=result.rows(),
        ),
        *(
            [Section(heading="Differences on the same blocks", table=result.difference_rows())]
            if len(result.models) > 1
            else []
        ),
        *(
            Section(
                heading=f"{each.model}: right and wrong",
                picture=out / "scores" / f"{each.seeds[0].name}_errors.png",
                caption="Yellow: found. Red: missed. Blue: false alarm.",
            )
            for each in result.models
        ),
    ]
    write_report(
        out / "report.html", "Networks compared on unseen ground", sections, overwrite=True
    )
