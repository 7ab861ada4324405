"""Pixel counts, scores and threshold curves of the landslide class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landslip.assess.blocks import Score
from landslip.geo.errors import UsageError
from landslip.geo.labels import BACKGROUND, LANDSLIDE
from landslip.geo.probability import TOP_CODE, UNKNOWN_CODE, threshold_code

DEFAULT_THRESHOLD = 0.5
RELIABILITY_BINS = 10
"""Ranges of probability whose share of landslide is told."""


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
    def omission(self) -> float:
        """Share of the landslides that was not mapped, 1 - recall; NaN where there are none."""
        return _ratio(self.fn, self.tp + self.fn)

    @property
    def commission(self) -> float:
        """Share of what was mapped that is no landslide, 1 - precision; NaN where nothing was."""
        return _ratio(self.fp, self.tp + self.fp)

    @property
    def mcc(self) -> float:
        """Matthews correlation coefficient, -1 to 1; NaN where a row or column is empty.

        Source: Matthews 1975, Biochimica et Biophysica Acta 405(2).
        """
        edges = (self.tp + self.fp, self.tp + self.fn, self.tn + self.fp, self.tn + self.fn)
        if not all(edges):
            return math.nan
        apart = self.tp * self.tn - self.fp * self.fn
        return apart / math.prod(math.sqrt(edge) for edge in edges)

    @property
    def mapping_error(self) -> float:
        """(Union - intersection) / union of the two inventories, 1 - IoU; NaN as for the IoU.

        Source: Carrara et al. 1992, Uncertainty in evaluating landslide hazard and risk, ITC
            Journal 2, as used by Galli et al. 2008, Geomorphology 94(3-4), eq. 1.
        """
        return _ratio(self.fp + self.fn, self.tp + self.fp + self.fn)

    @property
    def total_area_error(self) -> float:
        """Mapped area to that of the reference, less 1; NaN where there are no landslides."""
        return _ratio(self.fp - self.fn, self.tp + self.fn)

    @property
    def landslide_share(self) -> float:
        """Share of landslide pixels in the reference; NaN where nothing was counted."""
        return _ratio(self.tp + self.fn, self.total)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _ratios(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.asarray(whole) != 0
    return np.where(known, part / np.where(known, whole, 1), np.nan)


PIXEL_SCORES: dict[str, Score] = {
    "precision": lambda c: _ratios(c[..., 0], c[..., 0] + c[..., 1]),
    "recall": lambda c: _ratios(c[..., 0], c[..., 0] + c[..., 2]),
    "f1": lambda c: _ratios(2 * c[..., 0], 2 * c[..., 0] + c[..., 1] + c[..., 2]),
    "iou": lambda c: _ratios(c[..., 0], c[..., 0] + c[..., 1] + c[..., 2]),
}
"""Scores of TP, FP and FN, shape (..., 3); ground without landslides does not change them."""


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

    def reliability(self) -> list[ReliabilityBin]:
        """What was said and what is true in ranges of probability; empty ranges are left out.

        Source: Murphy and Winkler 1977, Applied Statistics 26(1).
        """
        codes = np.arange(TOP_CODE + 1)
        number = np.minimum(codes * RELIABILITY_BINS // TOP_CODE, RELIABILITY_BINS - 1)
        every = self.landslide + self.background
        found = []
        for place in range(RELIABILITY_BINS):
            own = number == place
            pixels = int(every[own].sum())
            if pixels:
                said = float((codes[own] * every[own]).sum()) / TOP_CODE / pixels
                found.append(ReliabilityBin(said, int(self.landslide[own].sum()) / pixels, pixels))
        return found

    def calibration_error(self) -> float:
        """Expected calibration error (ECE), 0 to 1: how far said and true lie apart, by pixels.

        Source: Naeini, Cooper, Hauskrecht 2015, AAAI (ten ranges of equal width).
        """
        bins = self.reliability()
        pixels = sum(each.pixels for each in bins)
        far = sum(abs(each.said - each.true) * each.pixels for each in bins)
        return far / pixels if pixels else math.nan

    def brier(self) -> float:
        """Mean squared difference of probability and truth, 0 to 1.

        Source: Brier 1950, Monthly Weather Review 78(1).
        """
        said = np.arange(TOP_CODE + 1) / TOP_CODE
        pixels = int(self.landslide.sum() + self.background.sum())
        squares = self.landslide * (1 - said) ** 2 + self.background * said**2
        return float(squares.sum()) / pixels if pixels else math.nan

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


@dataclass(frozen=True)
class ReliabilityBin:
    """Pixels whose probability lies in one range."""

    said: float
    """Their mean probability."""
    true: float
    """Share of them that is landslide."""
    pixels: int


def cut_of(threshold: float | None) -> float:
    """The threshold to count at; maps of yes and no are codes 0 and 254, so any will do."""
    return DEFAULT_THRESHOLD if threshold is None else threshold
