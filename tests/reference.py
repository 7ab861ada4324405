"""Slow and obvious versions of what landslip computes, to compare with."""

import math
from collections.abc import Sequence
from fractions import Fraction

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


def cubic_at(plane: NDArray[np.float64], row: float, col: float) -> float:
    """Cubic convolution (Keys, a = -1/2) at a position in pixels, (0.5, 0.5) the first middle.

    What lies beyond the edge is left out, and the weights that remain are made to sum to 1.
    """

    def kernel(distance: float) -> float:
        t = abs(distance)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    total = weight = 0.0
    for r in range(plane.shape[0]):
        for c in range(plane.shape[1]):
            share = kernel(row - (r + 0.5)) * kernel(col - (c + 0.5))
            total += share * plane[r, c]
            weight += share
    return total / weight


def full_gram_schmidt(
    bands: NDArray[np.float64],
    pan: NDArray[np.float64],
    weights: Sequence[float],
    upsampled: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Gram-Schmidt pansharpening step by step, as US patent 6,011,875 has it.

    The simulated pan comes first; every band is made orthogonal to all before it; the pan, matched
    in mean and standard deviation, takes the first place; then everything is turned back.

    Args:
        bands: Shape (C, n), coarse pixels.
        pan: Shape (N,), fine pixels.
        weights: Of the bands in the simulated pan.
        upsampled: The bands at the fine pixels, shape (C, N), by any linear interpolation.

    Returns:
        Shape (C, N).
    """
    simulated = sum(w * band for w, band in zip(weights, bands, strict=True))
    fine_simulated = sum(w * band for w, band in zip(weights, upsampled, strict=True))
    coarse = [simulated - simulated.mean()]
    fine = [fine_simulated - simulated.mean()]
    factors: list[list[float]] = []
    for band, fine_band in zip(bands, upsampled, strict=True):
        centred, fine_centred = band - band.mean(), fine_band - band.mean()
        own = []
        for component in coarse:
            norm = float((component * component).mean())
            # The last component is nothing where the bands depend on those before.
            usable = norm > 1e-12 * float((simulated**2).mean())
            own.append(float((centred * component).mean()) / norm if usable else 0.0)
        factors.append(own)
        coarse.append(centred - sum(f * part for f, part in zip(own, coarse, strict=True)))
        fine.append(fine_centred - sum(f * part for f, part in zip(own, fine, strict=True)))
    fine[0] = (pan - pan.mean()) * (simulated.std() / pan.std())
    sharpened = []
    for number, (band, own) in enumerate(zip(bands, factors, strict=True), 1):
        back = fine[number] + sum(f * part for f, part in zip(own, fine, strict=False))
        sharpened.append(back + band.mean())
    return np.array(sharpened)


def ergas(image: NDArray[np.float64], truth: NDArray[np.float64], ratio: float) -> float:
    """Wald 2000, for images (C, H, W)."""
    total = 0.0
    for mine, theirs in zip(image, truth, strict=True):
        rmse = math.sqrt(float(((mine - theirs) ** 2).mean()))
        total += (rmse / float(theirs.mean())) ** 2
    return 100 / ratio * math.sqrt(total / len(image))


def spectral_angle_deg(image: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Mean angle between spectra, pixel by pixel; pixels without a spectrum are left out."""
    angles = []
    for mine, theirs in zip(image.reshape(len(image), -1).T, truth.reshape(len(truth), -1).T,
                            strict=True):  # fmt: skip
        norm = math.sqrt(float(mine @ mine)) * math.sqrt(float(theirs @ theirs))
        if norm > 0:
            angles.append(math.acos(min(max(float(mine @ theirs) / norm, -1), 1)))
    return math.degrees(sum(angles) / len(angles))


def universal_index(mine: NDArray[np.float64], theirs: NDArray[np.float64], side: int) -> float:
    """Wang and Bovik 2002, mean over whole squares of `side` px of two planes."""
    found = []
    for row in range(0, mine.shape[0] - side + 1, side):
        for col in range(0, mine.shape[1] - side + 1, side):
            x = mine[row : row + side, col : col + side].ravel()
            y = theirs[row : row + side, col : col + side].ravel()
            covariance = float(((x - x.mean()) * (y - y.mean())).mean())
            divisor = float((x.var() + y.var()) * (x.mean() ** 2 + y.mean() ** 2))
            if divisor > 0:
                found.append(4 * covariance * float(x.mean() * y.mean()) / divisor)
    return sum(found) / len(found)


Pixels = list[tuple[int, int]]
"""(row, col) of the pixels of one landslide."""


def bodies(plane: NDArray[np.uint8]) -> list[Pixels]:
    """Bodies of value 1, by walking from pixel to pixel over sides and corners."""
    left = {(row, col) for row, col in np.argwhere(plane == 1).tolist()}
    found = []
    while left:
        body = [left.pop()]
        for row, col in body:  # grows while it is walked
            near = {(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
            body.extend(near & left)
            left -= near
        found.append(body)
    return found


def bodies_by_id(ids: NDArray[np.int_], plane: NDArray[np.uint8]) -> list[Pixels]:
    """The pixels of value 1 with the same id."""
    found: dict[int, Pixels] = {}
    for row, col in np.argwhere(plane == 1).tolist():
        found.setdefault(int(ids[row, col]), []).append((row, col))
    return list(found.values())


def matched_objects(
    objects: Sequence[Pixels],
    other: NDArray[np.uint8],
    row_areas_m2: Sequence[float],
    overlap: str,
    side: int,
) -> list[tuple[tuple[int, int], int, bool]]:
    """(row and column of the block, size class, matched) of every object that `other` knows.

    `overlap` is a decimal number, taken exactly; `side` is that of a block (px).
    """
    told = []
    for pixels in objects:
        known = [other[pixel] for pixel in pixels if other[pixel] != 255]
        if not known:
            continue
        is_matched = Fraction(known.count(1), len(known)) >= Fraction(overlap)
        area_m2 = round(math.fsum(row_areas_m2[row] for row, _ in pixels), 6)
        size = sum(area_m2 >= limit for limit in (100, 400, 1000, 10_000))
        middle = [Fraction(sum(axis), len(pixels)) for axis in zip(*pixels, strict=True)]
        block_row, block_col = ((place + Fraction(1, 2)) // side for place in middle)
        told.append(((block_row, block_col), size, is_matched))
    return told


def bootstrapped(
    blocks: Sequence[Sequence[int]], drawn: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Middle 95 % of the differences in recall over draws of blocks.

    Args:
        blocks: (reference landslides, found by the first map, found by the second).
        drawn: For every draw, the numbers of its blocks.
    """
    differences = []
    for draw in drawn:
        reference = sum(blocks[number][0] for number in draw)
        first = sum(blocks[number][1] for number in draw)
        second = sum(blocks[number][2] for number in draw)
        differences.append(second / reference - first / reference)
    differences.sort()

    def quantile(share: float) -> float:
        place = share * (len(differences) - 1)
        below = math.floor(place)
        above = min(below + 1, len(differences) - 1)
        return differences[below] + (place - below) * (differences[above] - differences[below])

    return quantile(0.025), quantile(0.975)


def boundary_pixels(plane: NDArray[np.uint8], value: int) -> list[tuple[int, int]]:
    """Pixels of a value (0 or 1) with the other one above, below, left or right of them."""
    height, width = plane.shape
    found = []
    for row in range(height):
        for col in range(width):
            near = ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1))
            inside = [(r, c) for r, c in near if 0 <= r < height and 0 <= c < width]
            if plane[row, col] == value and any(plane[place] == 1 - value for place in inside):
                found.append((row, col))
    return found


def near_ones(
    own: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]], distance: int
) -> int:
    """How many of some pixels have one of others within a distance (px)."""
    return sum(
        any((row - r) ** 2 + (col - c) ** 2 <= distance**2 for r, c in other) for row, col in own
    )


def best_pairing(iou: Sequence[tuple[int, int, float]]) -> tuple[int, float]:
    """Most pairs of (reference, mapped, IoU) without taking one twice, and their largest sum."""
    if not iou:
        return 0, 0.0
    (one, other, value), rest = iou[0], iou[1:]
    count, total = best_pairing([pair for pair in rest if pair[0] != one and pair[1] != other])
    return max((count + 1, total + value), best_pairing(rest))


def calibration(codes: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[float, float]:
    """Expected calibration error over ten ranges, and Brier score, pixel by pixel."""
    said = [
        (int(code) / 254, int(label))
        for code, label in zip(codes.ravel(), labels.ravel(), strict=True)
        if code != 255 and label != 255
    ]
    if not said:
        return math.nan, math.nan
    bins: dict[int, list[tuple[float, int]]] = {}
    for code, pair in zip([round(254 * p) for p, _ in said], said, strict=True):
        bins.setdefault(min(code * 10 // 254, 9), []).append(pair)
    far = sum(abs(sum(p for p, _ in own) - sum(y for _, y in own)) for own in bins.values())
    return far / len(said), sum((p - y) ** 2 for p, y in said) / len(said)
