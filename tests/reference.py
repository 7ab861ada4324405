"""Slow and obvious versions of what landslip computes, to compare with."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOP_CODE, UNKNOWN_CODE = 254, 255

Tally = tuple[int, int, int, int]
"""tp, fp, fn, tn"""


def pixel_counts(codes: NDArray[np.uint8], labels: NDArray[np.uint8], threshold: float) -> Tally:
    """Count pixel by pixel; 255 in either array leaves a pixel out."""
    tp = fp = fn = tn = 0
    for code, label in zip(codes.ravel().tolist(), labels.ravel().tolist(), strict=True):
        if code == UNKNOWN_CODE or label not in (0, 1):
            continue
        is_mapped = code >= threshold * TOP_CODE - 1e-9
        if is_mapped and label == 1:
            tp += 1
        elif is_mapped:
            fp += 1
        elif label == 1:
            fn += 1
        else:
            tn += 1
    return tp, fp, fn, tn


def precision(tally: Tally) -> float:
    tp, fp, _, _ = tally
    return tp / (tp + fp) if tp + fp > 0 else math.nan


def recall(tally: Tally) -> float:
    tp, _, fn, _ = tally
    return tp / (tp + fn) if tp + fn > 0 else math.nan


def f1(tally: Tally) -> float:
    """The harmonic mean; 0 where one of the two is 0 or undefined and there is any error."""
    tp, fp, fn, _ = tally
    if tp + fp + fn == 0:
        return math.nan
    if tp == 0:
        return 0.0
    return 2 / (1 / precision(tally) + 1 / recall(tally))


def iou(tally: Tally) -> float:
    tp, fp, fn, _ = tally
    return tp / (tp + fp + fn) if tp + fp + fn > 0 else math.nan


def best_f1(codes: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[float, list[float]]:
    """The largest F1 at any threshold, and all thresholds that reach it."""
    scores = {
        code / TOP_CODE: f1(pixel_counts(codes, labels, code / TOP_CODE))
        for code in range(1, TOP_CODE + 1)
    }
    defined = [score for score in scores.values() if not math.isnan(score)]
    if not defined:
        return math.nan, []
    best = max(defined)
    return best, [threshold for threshold, score in scores.items() if score == best]


def average_precision(codes: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Sum over falling thresholds of precision times the recall that is won."""
    total, before = 0.0, 0.0
    for code in range(TOP_CODE, -1, -1):
        tally = pixel_counts(codes, labels, code / TOP_CODE)
        if math.isnan(recall(tally)):
            return math.nan
        if not math.isnan(precision(tally)):
            total += precision(tally) * (recall(tally) - before)
        before = recall(tally)
    return total


def pooled(
    classes: NDArray[np.uint8],
    bins: tuple[NDArray[np.int_], NDArray[np.int_]],
    order: Sequence[int],
) -> list[list[int]]:
    """Of all pixels with the same row bin and column bin, the class that comes last in `order`."""
    row_bins, col_bins = (axis.tolist() for axis in bins)
    shown = [[order[0]] * (col_bins[-1] + 1) for _ in range(row_bins[-1] + 1)]
    for row, values in zip(row_bins, classes.tolist(), strict=True):
        for col, value in zip(col_bins, values, strict=True):
            shown[row][col] = max(shown[row][col], value, key=order.index)
    return shown
