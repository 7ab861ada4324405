import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import reference
from landslip.assess.scores import Counts, ScoreHistogram
from landslip.geo.errors import UsageError

Codes = NDArray[np.uint8]
Pair = tuple[Codes, Codes]

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
CODES = st.integers(0, 255) | st.sampled_from([0, 1, 126, 127, 128, 253, 254, 255])
LABELS = st.sampled_from([0, 1, 255])
THRESHOLDS = st.integers(1, 254).map(lambda code: code / 254) | st.floats(0.001, 1)

FEW = settings(max_examples=40, deadline=None)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    shape = draw(SHAPES)
    return draw(arrays(np.uint8, shape, elements=CODES)), draw(
        arrays(np.uint8, shape, elements=LABELS)
    )


def pair(codes: int, labels: int, shape: tuple[int, int] = (3, 4)) -> Pair:
    return np.full(shape, codes, np.uint8), np.full(shape, labels, np.uint8)


ADVERSARIAL = {
    "empty": pair(0, 0, (0, 4)),
    "nothing mapped, no landslides": pair(0, 0),
    "nothing mapped, all landslide": pair(0, 1),
    "all mapped, no landslides": pair(254, 0),
    "all mapped, all landslide": pair(254, 1),
    "all nodata": pair(255, 1),
    "nothing labelled": pair(254, 255),
    "one pixel": pair(127, 1, (1, 1)),
}


def same(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def check_against_reference(codes: Codes, labels: Codes, threshold: float) -> None:
    counts = ScoreHistogram.of(codes, labels).counts(threshold)
    tally = reference.pixel_counts(codes, labels, threshold)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == tally
    assert counts.total == sum(tally)
    assert same(counts.precision, reference.precision(tally))
    assert same(counts.recall, reference.recall(tally))
    assert same(counts.f1, reference.f1(tally))
    assert same(counts.iou, reference.iou(tally))


@FEW
@given(pairs(), THRESHOLDS)
def test_scores_are_those_of_counting_pixel_by_pixel(pair: Pair, threshold: float) -> None:
    check_against_reference(*pair, threshold)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("threshold", [1 / 254, 0.5, 1.0])
def test_scores_of_uniform_ground(name: str, threshold: float) -> None:
    check_against_reference(*ADVERSARIAL[name], threshold)


@FEW
@given(pairs(), THRESHOLDS)
def test_scores_are_those_of_scikit_learn(pair: Pair, threshold: float) -> None:
    from sklearn import metrics

    codes, labels = pair
    known = (codes != 255) & (labels != 255)
    counts = ScoreHistogram.of(codes, labels).counts(threshold)
    truth = labels[known].astype(int)
    mapped = (codes[known] >= threshold * 254 - 1e-9).astype(int)
    if truth.size == 0:
        assert counts == Counts()
        return
    (tn, fp), (fn, tp) = metrics.confusion_matrix(truth, mapped, labels=[0, 1]).tolist()
    assert counts == Counts(tp, fp, fn, tn)
    undefined = {"zero_division": math.nan}
    assert same(counts.precision, metrics.precision_score(truth, mapped, **undefined))
    assert same(counts.recall, metrics.recall_score(truth, mapped, **undefined))
    assert same(counts.f1, metrics.f1_score(truth, mapped, **undefined))
    if (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn):  # else scikit-learn says 0
        assert same(counts.mcc, metrics.matthews_corrcoef(truth, mapped))
    else:
        assert math.isnan(counts.mcc)
    assert same(counts.omission, 1 - counts.recall)
    assert same(counts.commission, 1 - counts.precision)
    assert same(counts.mapping_error, 1 - counts.iou)
    expected = mapped.sum() / truth.sum() - 1 if truth.any() else math.nan
    assert same(counts.total_area_error, expected)
    if tp + fp + fn:  # scikit-learn's Jaccard score knows no NaN
        assert same(counts.iou, metrics.jaccard_score(truth, mapped))
    else:
        assert math.isnan(counts.iou)


@FEW
@given(pairs())
def test_calibration_is_that_of_going_from_pixel_to_pixel(pair: Pair) -> None:
    from sklearn import metrics

    codes, labels = pair
    histogram = ScoreHistogram.of(codes, labels)
    error, brier = reference.calibration(codes, labels)
    assert same(histogram.calibration_error(), error)
    assert same(histogram.brier(), brier)
    known = (codes != 255) & (labels != 255)
    if known.any():
        assert same(brier, metrics.brier_score_loss(labels[known], codes[known] / 254, pos_label=1))
    assert sum(each.pixels for each in histogram.reliability()) == known.sum()


@FEW
@given(pairs())
def test_average_precision(pair: Pair) -> None:
    from sklearn import metrics

    codes, labels = pair
    known = (codes != 255) & (labels != 255)
    found = ScoreHistogram.of(codes, labels).average_precision()
    assert same(found, reference.average_precision(codes, labels))
    if (labels[known] == 1).any():
        assert same(found, float(metrics.average_precision_score(labels[known], codes[known])))


@FEW
@given(pairs())
def test_best_threshold_reaches_the_largest_f1(pair: Pair) -> None:
    chosen = ScoreHistogram.of(*pair).best_threshold()
    best, reaching = reference.best_f1(*pair)
    if math.isnan(best) or best == 0:
        assert chosen == 0.5
    else:
        assert min(abs(chosen - threshold) for threshold in reaching) < 1e-12


def test_best_threshold_is_the_middle_of_those_that_are_equally_good() -> None:
    codes = np.array([100] * 3 + [200] * 3, np.uint8)
    labels = np.array([0] * 3 + [1] * 3, np.uint8)
    assert ScoreHistogram.of(codes, labels).best_threshold() == pytest.approx(151 / 254)


@FEW
@given(pairs(), st.integers(0, 6), st.integers(0, 6), THRESHOLDS)
def test_parts_add_up_to_the_whole(pair: Pair, first: int, second: int, threshold: float) -> None:
    codes, labels = pair
    cuts = sorted((first, second))
    a, b, c = (
        ScoreHistogram.of(*parts)
        for parts in zip(np.split(codes, cuts), np.split(labels, cuts), strict=True)
    )
    whole = ScoreHistogram.of(codes, labels)
    for added in ((a + b) + c, a + (b + c), c + a + b, whole + ScoreHistogram.empty()):
        np.testing.assert_array_equal(added.landslide, whole.landslide)
        np.testing.assert_array_equal(added.background, whole.background)
        assert added.counts(threshold) == whole.counts(threshold)
    counts = [part.counts(threshold) for part in (a, b, c)]
    assert sum(counts, Counts()) == whole.counts(threshold)
    assert (counts[0] + counts[1]) + counts[2] == counts[0] + (counts[1] + counts[2])


@FEW
@given(pairs())
def test_curve_is_the_counts_at_every_code(pair: Pair) -> None:
    histogram = ScoreHistogram.of(*pair)
    curve = histogram.curve()
    assert len(curve) == 254
    for code in (1, 77, 254):
        threshold, counts = curve[code - 1]
        assert threshold == code / 254
        assert counts == histogram.counts(threshold)
        mapped = counts.tp + counts.fp
        assert mapped == int(((pair[0] >= code) & (pair[0] != 255) & (pair[1] != 255)).sum())


def test_undefined_scores_are_nan_and_never_zero() -> None:
    counts = Counts()
    scores = (counts.precision, counts.recall, counts.f1, counts.iou, counts.landslide_share)
    assert all(math.isnan(score) for score in scores)
    assert math.isnan(Counts(fn=3).precision)
    assert Counts(fn=3).f1 == 0
    assert math.isnan(Counts(fp=3).recall)


def test_arrays_of_different_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Cannot score: .*\(2, 3\).*\(3, 2\)"):
        ScoreHistogram.of(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
