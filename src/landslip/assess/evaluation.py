"""What an evaluation says: scores of pixels, blocks, outlines and landslides, map by map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from landslip import __version__
from landslip.assess.blocks import (
    FEWEST_BLOCKS,
    Interval,
    PairedDifference,
    few_blocks_text,
    interval_of,
    paired_scores,
)
from landslip.assess.boundary import BoundaryScores
from landslip.assess.objects import SIZE_TEXTS, ObjectComparison, SizeCounts
from landslip.assess.scores import PIXEL_SCORES, Counts, ScoreHistogram, cut_of

SCORE_NAMES = ("precision", "recall", "f1", "iou", "omission", "commission", "mcc")
"""Scores of pixels, as `scores.json` names them."""
OVERLAPS = (0.1, 0.5)
"""Shares of a landslide from which it counts as found."""
IOUS = (0.25, 0.5)
"""Intersections over unions from which two landslides may be paired."""


@dataclass(frozen=True, eq=False)
class BlockCounts:
    """Pixels right and wrong in every block of ground."""

    block_m: float
    """Side of a block (m)."""
    counts: NDArray[np.int64]
    """TP, FP and FN, shape (blocks, 3): of those that hold landslides or false alarms."""
    places: NDArray[np.int64]
    """Row and column of these blocks, shape (blocks, 2)."""
    scored: int
    """Blocks with pixels that count."""

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """The middle 95 % of every score, as `score_interval` gives it."""
        return {name: score_interval(self.counts, name) for name in PIXEL_SCORES}

    @cached_property
    def medians(self) -> dict[str, float]:
        """Median of every score over the blocks with landslides; NaN where none defines it."""
        found = {}
        for name, score in PIXEL_SCORES.items():
            known = score(self.counts[holding(self.counts)].astype(np.float64))
            known = known[~np.isnan(known)]
            found[name] = float(np.median(known)) if known.size else math.nan
        return found

    @property
    def why_no_interval(self) -> str:
        """A sentence for people; empty where there are intervals."""
        number = self.with_landslides
        return few_blocks_text(number) if number < FEWEST_BLOCKS else ""

    @property
    def with_landslides(self) -> int:
        """Blocks that hold landslides of the reference."""
        return int(holding(self.counts).sum())


def holding(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which blocks hold landslides of the reference, from TP, FP and FN, shape (blocks, 3)."""
    return counts[:, 0] + counts[:, 2] > 0


def score_interval(counts: NDArray[np.int64], name: str) -> Interval | None:
    """The middle 95 % of a score over draws of blocks.

    Args:
        counts: TP, FP and FN of blocks that hold landslides or false alarms, shape (blocks, 3).
        name: Key of `PIXEL_SCORES`. Recall is drawn from blocks with landslides alone: others say
            nothing of it.

    Returns:
        None with fewer than 20 blocks with landslides.
    """
    held = holding(counts)
    if held.sum() < FEWEST_BLOCKS:
        return None
    return interval_of(counts[held] if name == "recall" else counts, PIXEL_SCORES[name])


def score_difference(
    first: NDArray[np.int64], second: NDArray[np.int64], name: str
) -> PairedDifference:
    """How much better the second of two maps of the same blocks is, as `score_interval` draws."""
    held = holding(first)
    chosen = held if name == "recall" else np.ones(len(first), bool)
    told = paired_scores(first[chosen], second[chosen], PIXEL_SCORES[name])
    return PairedDifference(told.difference, None, None) if held.sum() < FEWEST_BLOCKS else told


@dataclass(frozen=True)
class Ground:
    """The ground that all maps were scored on."""

    km2: float
    """True area."""
    pixels: int
    """Pixels scored."""
    landslide_share: float
    """Share of landslide pixels in the reference, 0 to 1."""


@dataclass(frozen=True)
class PredictionScores:
    """What was counted for one map."""

    name: str
    """Its name in tables and files; differs between the maps of an evaluation."""
    path: str
    """As it was given."""
    threshold: float | None
    """Probability from which pixels count as mapped; None for a map of yes and no."""
    histogram: ScoreHistogram
    """Its probabilities on landslide and on background."""
    blocks: BlockCounts
    """Its pixels right and wrong, block by block."""
    boundary: tuple[BoundaryScores, ...]
    """Agreement of outlines, for every tolerance."""
    objects: ObjectComparison
    """Landslide by landslide."""

    @property
    def pixels(self) -> Counts:
        """Pixels right and wrong at the threshold, with precision, recall, F1 and IoU."""
        return self.histogram.counts(cut_of(self.threshold))

    def record(self) -> dict[str, Any]:
        """For `scores.json`: undefined scores are None."""
        counts, blocks = self.pixels, self.blocks
        scores = {name: _defined(getattr(counts, name)) for name in SCORE_NAMES}
        tallies = {name: getattr(counts, name) for name in ("tp", "fp", "fn", "tn")}
        intervals = {
            name: None if found is None else [found.low, found.high]
            for name, found in blocks.intervals.items()
        }
        return {
            "name": self.name,
            "path": self.path,
            "threshold": self.threshold,
            "pixels": {**scores, **tallies, "intervals": intervals},
            "blocks": {
                "side_m": blocks.block_m,
                "scored": blocks.scored,
                "with_landslides": blocks.with_landslides,
                "drawn_from": len(blocks.counts),
                "medians": {name: _defined(score) for name, score in blocks.medians.items()},
                "why_no_interval": blocks.why_no_interval or None,
            },
            "boundary": {
                f"{each.tolerance_px}_px": {
                    name: _defined(getattr(each, name)) for name in ("precision", "recall", "f1")
                }
                for each in self.boundary
            },
            "objects": objects_record(self.objects),
            "inventory": {
                name: _defined(getattr(counts, name))
                for name in ("mapping_error", "total_area_error")
            },
            "probability": None if self.threshold is None else probability_record(self.histogram),
        }


def objects_record(objects: ObjectComparison) -> dict[str, Any]:
    """Landslide by landslide, for `scores.json`."""
    detection = {}
    for overlap in OVERLAPS:
        by_size = objects.counts(overlap)
        detection[f"{overlap:g}"] = {
            "all": _sizes_record(by_size.pooled())[0],
            "by_size": dict(zip(SIZE_TEXTS, _sizes_record(by_size), strict=True)),
            "half_found_m2": _defined(objects.half_found_m2(overlap)),
        }
    paired = {}
    for iou in IOUS:
        pairs = objects.one_to_one(iou)
        matched = len(pairs.px)
        reference, predicted = len(objects.reference.row), len(objects.predicted.row)
        paired[f"{iou:g}"] = {
            "pairs": matched,
            "precision": _defined(matched / predicted if predicted else math.nan),
            "recall": _defined(matched / reference if reference else math.nan),
            "f1": _defined(
                2 * matched / (reference + predicted) if reference + predicted else math.nan
            ),
            "mean_iou": float(pairs.iou.mean()) if matched else None,
            "found_by_size": _by_size(objects, pairs.reference),
        }
    return {
        "reference": len(objects.reference.row),
        "predicted": len(objects.predicted.row),
        "km2": float(objects.ground_km2.sum()),
        "detection": detection,
        "one_to_one": paired,
        "merges": objects.merges(),
        "splits": objects.splits(),
        "merged_by_size": _by_size(objects, objects.merged()),
        "split_by_size": _by_size(objects, objects.split()),
    }


def _by_size(objects: ObjectComparison, numbers: NDArray[np.int64]) -> dict[str, int]:
    """How many of some reference landslides every size class has."""
    sizes = np.bincount(objects.reference.size_class[numbers], minlength=len(SIZE_TEXTS))
    return dict(zip(SIZE_TEXTS, sizes.tolist(), strict=True))


def _sizes_record(counts: SizeCounts) -> list[dict[str, Any]]:
    """One a size class."""
    columns = (
        counts.reference, counts.found, counts.predicted, counts.false_alarms,
        counts.recall, counts.precision, counts.false_alarms_per_km2,
    )  # fmt: skip
    return [
        {
            "reference": reference, "found": found, "predicted": predicted,
            "false_alarms": alarms, "recall": _defined(recall), "precision": _defined(precision),
            "false_alarms_per_km2": _defined(per_km2),
        }
        for reference, found, predicted, alarms, recall, precision, per_km2 in zip(
            *columns, strict=True
        )
    ]  # fmt: skip


def probability_record(histogram: ScoreHistogram) -> dict[str, Any]:
    """How far probabilities can be believed, and all thresholds, for `scores.json`."""
    return {
        "average_precision": _defined(histogram.average_precision()),
        "best_threshold": histogram.best_threshold(),
        "calibration_error": _defined(histogram.calibration_error()),
        "brier": _defined(histogram.brier()),
        "reliability": [
            {"said": each.said, "true": each.true, "pixels": each.pixels}
            for each in histogram.reliability()
        ],
        "landslide_by_code": histogram.landslide.tolist(),
        "background_by_code": histogram.background.tolist(),
    }


@dataclass(frozen=True)
class Difference:
    """How much better the second of two maps is than the first."""

    first: str
    second: str
    scores: dict[str, PairedDifference]
    """By name."""

    @classmethod
    def of(cls, first: PredictionScores, second: PredictionScores) -> Difference:
        """Compare two maps of the same blocks."""
        places = np.concatenate([first.blocks.places, second.blocks.places])
        number = np.unique(places, axis=0, return_inverse=True)[1].ravel()
        one, other = np.zeros((2, int(number.max(initial=-1)) + 1, 3), np.int64)
        one[number[: len(first.blocks.places)]] = first.blocks.counts
        other[number[len(first.blocks.places) :]] = second.blocks.counts
        return cls(
            first.name,
            second.name,
            {name: score_difference(one, other, name) for name in PIXEL_SCORES},
        )

    def record(self) -> dict[str, Any]:
        """For `scores.json`."""
        return {
            "first": self.first,
            "second": self.second,
            "scores": {
                name: {
                    "difference": _defined(told.difference),
                    "interval": told.interval and [told.interval.low, told.interval.high],
                    "p": told.p,
                }
                for name, told in self.scores.items()
            },
        }


@dataclass(frozen=True)
class Evaluation:
    """Scores of one or several maps on the same ground."""

    predictions: tuple[PredictionScores, ...]
    """In the order given."""
    reference: str
    """Path of the reference."""
    ground: Ground
    """Where they were scored."""
    reference_shifted_f1: float
    """F1 of the reference moved by one column, against itself."""
    reference_reviewed: bool
    """True where the reference holds polygons that were edited from a model's outlines."""
    differences: tuple[Difference, ...] = ()
    """Of every two maps, where that was asked for."""

    def table(self) -> Table:
        """The scores for people, one row a map."""
        blocks = self.predictions[0].blocks
        between = blocks.why_no_interval or (
            f"Below F1: 95 % interval over {len(blocks.counts)} blocks of {blocks.block_m:g} m."
        )
        table = Table(
            caption=f"Pixels of the landslide class; {ground_text(self.ground)}.\n{between}"
        )
        table.add_column("Prediction", overflow="fold")
        for column in ("Precision", "Recall", "F1", "IoU", "Threshold"):
            table.add_column(column, justify="right")
        for scores in self.predictions:
            counts = scores.pixels
            f1 = score_text(counts.f1)
            found = scores.blocks.intervals["f1"]
            if found is not None:
                f1 += f"\n{found.low:.2f}–{found.high:.2f}"
            table.add_row(
                Text(scores.name), score_text(counts.precision), score_text(counts.recall), f1,
                score_text(counts.iou), threshold_text(scores.threshold),
            )  # fmt: skip
        return table

    def object_table(self) -> Table:
        """Landslide by landslide for people, one column a map."""
        table = Table(caption="Landslides of which half of the pixels are mapped.")
        table.add_column("Size")
        table.add_column("Landslides", justify="right")
        for scores in self.predictions:
            table.add_column(Text(scores.name), justify="right", overflow="fold")
        by_size = [scores.objects.counts() for scores in self.predictions]
        pooled = [counts.pooled() for counts in by_size]
        for size, text in enumerate(SIZE_TEXTS):
            found = [share_text(counts.recall[size]) for counts in by_size]
            table.add_row(text, f"{by_size[0].reference[size]:,}", *found)
        found = [share_text(counts.recall[0]) for counts in pooled]
        table.add_row("all", f"{pooled[0].reference[0]:,}", *found, end_section=True)
        alarms = [number_text(counts.false_alarms_per_km2[0]) for counts in pooled]
        table.add_row("false alarms a km²", "", *alarms)
        halves = [number_text(scores.objects.half_found_m2()) for scores in self.predictions]
        table.add_row("half found from (m²)", "", *halves)
        return table

    def difference_table(self) -> Table:
        """How much better one map is than another, for people."""
        table = Table(caption="Second minus first, on the same blocks of ground.")
        table.add_column("Maps", overflow="fold")
        for column in ("Score", "Difference", "95 % interval", "p"):
            table.add_column(column, justify="right")
        for each in self.differences:
            for name in ("f1", "precision", "recall"):
                told = each.scores[name]
                table.add_row(
                    Text(f"{each.second} – {each.first}" if name == "f1" else ""),
                    {"f1": "F1"}.get(name, name),
                    "–" if math.isnan(told.difference) else f"{told.difference:+.3f}",
                    "–" if told.interval is None else
                    f"{told.interval.low:+.3f} to {told.interval.high:+.3f}",
                    "–" if told.p is None else f"{told.p:.2g}",
                    end_section=name == "recall",
                )  # fmt: skip
        return table

    def record(self) -> dict[str, Any]:
        """The content of `scores.json`."""
        return {
            "predictions": [scores.record() for scores in self.predictions],
            "differences": [each.record() for each in self.differences],
            "reference": self.reference,
            "reference_shifted_f1": _defined(self.reference_shifted_f1),
            "reference_reviewed": self.reference_reviewed,
            "ground": {
                "km2": self.ground.km2,
                "pixels": self.ground.pixels,
                "landslide_share": self.ground.landslide_share,
            },
            "landslip": __version__,
        }


def ground_text(ground: Ground) -> str:
    """Area and landslide share for people."""
    # Small grounds keep three digits that tell something: .0035, not .00.
    area = f"{ground.km2:,.2f}" if ground.km2 >= 1 else f"{ground.km2:.3g}"
    return f"{area} km² scored, {ground.landslide_share:.2%} of it landslide"


def score_text(score: float) -> str:
    """A score for people."""
    return "–" if math.isnan(score) else f"{score:.3f}"


def share_text(share: float) -> str:
    """A share for people."""
    return "–" if math.isnan(share) else f"{share:.0%}"


def number_text(number: float) -> str:
    """A number for people, in three digits."""
    if math.isnan(number):
        return "–"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def threshold_text(threshold: float | None) -> str:
    """A threshold for people."""
    return "–" if threshold is None else f"{threshold:.3g}"


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else score
