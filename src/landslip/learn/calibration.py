"""From scores to probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landslip.assess.scores import ScoreHistogram
from landslip.geo.errors import UsageError
from landslip.geo.probability import TOP_CODE

METHODS = ("platt", "temperature", "isotonic")
SLOPE = 0.01
"""Share of a score that is kept in isotonic calibration: equal steps would make thresholds that
cannot be told apart."""
EPSILON = 1 / (4 * TOP_CODE)
"""Scores are kept so far from 0 and 1 when their logits are taken: a quarter of a code."""


@dataclass(frozen=True)
class Calibration:
    """A rising function from scores to probabilities."""

    method: str
    """Name in `METHODS`."""
    temperature: float = 1.0
    """Logits are divided by it."""
    shift: float = 0.0
    """Added to logits after that: a training that shows more landslides than there are, or weighs
    them, calls too much of the ground one."""
    table: tuple[float, ...] = ()
    """Isotonic: probabilities of the scores 0, 1/254, ... 1; straight between them."""

    @classmethod
    def of_card(cls, record: Mapping[str, Any] | None) -> Calibration | None:
        """From what a model's card says; None where it is not calibrated."""
        if record is None:
            return None
        return cls(record["method"], record["temperature"], record["shift"], tuple(record["table"]))

    def apply(self, scores: Tensor) -> Tensor:
        """Probabilities of scores from 0 to 1, any shape."""
        if self.method != "isotonic":
            return torch.sigmoid(torch.logit(scores, EPSILON) / self.temperature + self.shift)
        table = torch.tensor(self.table, dtype=scores.dtype, device=scores.device)
        place = scores.clamp(0, 1) * TOP_CODE
        low = place.floor().long().clamp(max=TOP_CODE - 1)
        return torch.lerp(table[low], table[low + 1], place - low)

    def of(self, score: float) -> float:
        """The probability of one score."""
        return float(self.apply(torch.tensor([score], dtype=torch.float64))[0])

    def score_of(self, probability: float) -> float:
        """The score of one probability."""
        scores = np.linspace(0, 1, 100 * TOP_CODE + 1)
        return float(np.interp(probability, self.apply(torch.from_numpy(scores)).numpy(), scores))

    def histogram(self, scores: ScoreHistogram) -> ScoreHistogram:
        """What would have been counted of probabilities."""
        said = self.apply(torch.arange(TOP_CODE + 1, dtype=torch.float64) / TOP_CODE)
        codes = np.rint(said.numpy() * TOP_CODE).astype(int)
        landslide, background = (
            np.bincount(codes, each, TOP_CODE + 1).astype(np.int64)
            for each in (scores.landslide, scores.background)
        )
        return ScoreHistogram(landslide, background)


def fit(scores: ScoreHistogram, method: str) -> Calibration:
    """The calibration that makes what was counted most likely.

    Raises:
        UsageError: No such method.

    Source: Platt 1999, Advances in Large Margin Classifiers (a line through the logits); Guo,
        Pleiss, Sun, Weinberger 2017, On calibration of modern neural networks, ICML
        (temperature, a line through zero); Zadrozny and Elkan 2002, KDD (isotonic).
    """
    if method not in METHODS:
        raise UsageError(f"Cannot calibrate by '{method}': expected {', '.join(METHODS)}.")
    if method != "isotonic":
        return Calibration(method, *_line(scores, is_shifted=method == "platt"))
    from scipy.optimize import isotonic_regression

    every = scores.landslide + scores.background
    codes = np.flatnonzero(every)
    rising = isotonic_regression(scores.landslide[codes] / every[codes], weights=every[codes]).x
    said = np.arange(TOP_CODE + 1) / TOP_CODE
    table = (1 - SLOPE) * np.interp(said, said[codes], rising) + SLOPE * said
    return Calibration(method, table=tuple(table.tolist()))


def _line(scores: ScoreHistogram, *, is_shifted: bool) -> tuple[float, float]:
    """Temperature and shift of the likeliest line through the logits."""
    from scipy.optimize import minimize

    said = np.clip(np.arange(TOP_CODE + 1) / TOP_CODE, EPSILON, 1 - EPSILON)
    logits = np.log(said / (1 - said))

    pixels = max(int(scores.landslide.sum() + scores.background.sum()), 1)

    def loss(weights: NDArray[np.float64]) -> float:
        each = logits / np.exp(weights[0]) + weights[1:].sum()
        wrong = scores.landslide * np.logaddexp(0, -each)
        return float((wrong + scores.background * np.logaddexp(0, each)).sum()) / pixels

    limits = [(-3.0, 3.0), (-10.0, 10.0)][: 2 if is_shifted else 1]
    found = minimize(loss, np.zeros(len(limits)), bounds=limits, method="L-BFGS-B").x
    return float(np.exp(found[0])), float(found[1:].sum())
