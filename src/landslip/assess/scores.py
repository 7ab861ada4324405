"""Pixel counts, scores and threshold curves of the landslide class, and what an evaluation says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from landslip import __version__
from landslip.geo.errors import UsageError
from landslip.geo.labels import BACKGROUND, LANDSLIDE
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, threshold_code

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Counts:
    """Pixels by what was mapped and what is true. Adds with `+`; scores are NaN when undefined.

    Source: Qi et al. 2020, eq. 4-6 (precision, recall, F1).
    """

    tp: int = 0
    """Landslide, mapped."""
    fp: int = 0
    """No landslide, mapped (commission)."""
    fn: int = 0
    """Landslide, not mapped (omission)."""
    tn: int = 0
    """No landslide, not mapped."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def total(self) -> int:
        """All pixels counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float:
        """Share of what was mapped that is landslide; NaN where nothing was mapped."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the landslides that was mapped; NaN where there are none."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where nothing is landslide or mapped."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """Intersection over union; NaN where nothing is landslide or mapped."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def landslide_share(self) -> float:
        """Share of landslide pixels in the reference; NaN where nothing was counted."""
        return _ratio(self.tp + self.fn, self.total)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """How often every probability code occurs on landslide and on background. Adds with `+`.

    Holds all that pixel scores at any threshold need, in 4 kB whatever the scene.
    """

    landslide: NDArray[np.int64]
    """Shape (255,): landslide pixels by code."""
    background: NDArray[np.int64]
    """Shape (255,): background pixels by code."""

    @classmethod
    def empty(cls) -> ScoreHistogram:
        """Nothing counted."""
        zeros = np.zeros(TOP_CODE + 1, dtype=np.int64)
        return cls(zeros, zeros)

    @classmethod
    def of(cls, codes: NDArray[np.uint8], labels: NDArray[np.uint8]) -> ScoreHistogram:
        """Count codes (254 = probability 1, 255 = unknown) against labels (0, 1, 255).

        Unknown and unlabelled pixels are left out.
        """
        if codes.shape != labels.shape:
            raise UsageError(
                f"Cannot score: probabilities are {codes.shape}, labels {labels.shape}."
            )
        known = codes != UNKNOWN_CODE
        bins = TOP_CODE + 1
        return cls(
            np.bincount(codes[known & (labels == LANDSLIDE)], minlength=bins),
            np.bincount(codes[known & (labels == BACKGROUND)], minlength=bins),
        )

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(self.landslide + other.landslide, self.background + other.background)

    def counts(self, threshold: float) -> Counts:
        """Counts where codes at or above a threshold (0 to 1) are mapped as landslide."""
        cut = threshold_code(threshold)
        return Counts(
            tp=int(self.landslide[cut:].sum()),
            fp=int(self.background[cut:].sum()),
            fn=int(self.landslide[:cut].sum()),
            tn=int(self.background[:cut].sum()),
        )

    def curve(self) -> list[tuple[float, Counts]]:
        """Counts at every threshold 1/254, 2/254, ... 1."""
        thresholds = [code / TOP_CODE for code in range(1, TOP_CODE + 1)]
        return [(threshold, self.counts(threshold)) for threshold in thresholds]

    def best_threshold(self) -> float:
        """The threshold of the largest F1; the middle one of several, .5 where F1 is undefined."""
        scores = np.array([counts.f1 for _, counts in self.curve()])
        if np.isnan(scores).all() or np.nanmax(scores) == 0:
            return 0.5
        best = np.flatnonzero(scores == np.nanmax(scores))
        return float((best[len(best) // 2] + 1) / TOP_CODE)

    def average_precision(self) -> float:
        """Mean precision over recall, from 0 to 1; NaN where there are no landslides.

        Source: scikit-learn, `average_precision_score` (a sum of steps, no interpolation).
        """
        found = np.cumsum(self.landslide[::-1])
        mapped = found + np.cumsum(self.background[::-1])
        if found[-1] == 0:
            return math.nan
        precision = found / np.maximum(mapped, 1)
        return float((np.diff(found, prepend=0) * precision).sum() / found[-1])


def cut_of(threshold: float | None) -> float:
    """The threshold to count at; maps of yes and no are codes 0 and 254, so any will do."""
    return DEFAULT_THRESHOLD if threshold is None else threshold


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

    @property
    def pixels(self) -> Counts:
        """Pixels right and wrong at the threshold, with precision, recall, F1 and IoU."""
        return self.histogram.counts(cut_of(self.threshold))

    def record(self) -> dict[str, object]:
        """For `scores.json`: undefined scores are None."""
        counts = self.pixels
        scores = {name: getattr(counts, name) for name in ("precision", "recall", "f1", "iou")}
        tallies = {name: getattr(counts, name) for name in ("tp", "fp", "fn", "tn")}
        return {
            "name": self.name,
            "path": self.path,
            "threshold": self.threshold,
            "pixels": {name: _defined(score) for name, score in scores.items()} | tallies,
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

    def table(self) -> Table:
        """The scores for people, one row a map."""
        table = Table(caption=f"Pixels of the landslide class; {ground_text(self.ground)}.")
        table.add_column("Prediction", overflow="fold")
        for column in ("Precision", "Recall", "F1", "IoU", "Threshold"):
            table.add_column(column, justify="right")
        for scores in self.predictions:
            counts = scores.pixels
            texts = map(score_text, (counts.precision, counts.recall, counts.f1, counts.iou))
            table.add_row(Text(scores.name), *texts, threshold_text(scores.threshold))
        return table

    def record(self) -> dict[str, object]:
        """The content of `scores.json`."""
        return {
            "predictions": [scores.record() for scores in self.predictions],
            "reference": self.reference,
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


def threshold_text(threshold: float | None) -> str:
    """A threshold for people."""
    return "–" if threshold is None else f"{threshold:.3g}"


def _defined(score: float) -> float | None:
    return None if math.isnan(score) else score
