import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import reference
from landslip.assess.boundary import TOLERANCES_PX, BoundaryCounter, BoundaryScores

Plane = NDArray[np.uint8]


def counted(mapped: Plane, truth: Plane, rows: int) -> tuple[BoundaryScores, ...]:
    counter = BoundaryCounter()
    for top in range(0, len(truth), rows):
        counter.add(mapped[top : top + rows] == 1, truth[top : top + rows])
    return counter.scores()


@st.composite
def grounds(draw: st.DrawFn) -> tuple[Plane, Plane]:
    shape = draw(st.integers(1, 24)), draw(st.integers(1, 12))
    values = st.sampled_from([0, 0, 0, 0, 1, 255])
    mapped = draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1])))
    return mapped, draw(arrays(np.uint8, shape, elements=values))


@settings(max_examples=80, deadline=None)
@given(grounds(), st.integers(1, 24))
def test_boundaries_are_those_of_going_from_pixel_to_pixel(
    ground: tuple[Plane, Plane], rows: int
) -> None:
    mapped, truth = ground
    known = np.where(truth == 255, 255, mapped).astype(np.uint8)
    own, other = reference.boundary_pixels(known, 1), reference.boundary_pixels(truth, 1)
    for found in counted(mapped, truth, rows):
        near = reference.near_ones(own, other, found.tolerance_px)
        met = reference.near_ones(other, own, found.tolerance_px)
        assert (found.mapped, found.mapped_near) == (len(own), near)
        assert (found.reference, found.reference_near) == (len(other), met)


def test_scores_of_a_shifted_square() -> None:
    truth = np.zeros((30, 30), np.uint8)
    truth[10:20, 5:15] = 1
    shifted = np.roll(truth, 3, axis=1)
    two, four = counted(shifted, truth, 7)
    assert (two.tolerance_px, four.tolerance_px) == TOLERANCES_PX
    # Of top and bottom 9 px each lie on the true ones or 2 px beyond; one side is too far, of the
    # other 2 px each are near top and bottom.
    assert two.mapped == two.reference == 36
    assert (two.mapped_near, two.reference_near) == (22, 22)
    assert two.f1 == pytest.approx(22 / 36)
    assert four.precision == four.recall == four.f1 == 1


def test_undefined_scores_are_nan() -> None:
    nothing, all_of_it = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    for mapped, truth in ((nothing, nothing), (all_of_it, all_of_it), (nothing, all_of_it * 255)):
        scores = counted(mapped, truth, 4)[0]
        assert math.isnan(scores.precision)
        assert math.isnan(scores.recall)
        assert math.isnan(scores.f1)
    one, far = nothing.copy(), np.zeros((4, 20), np.uint8)
    one[0, 0] = far[0, 19] = 1
    near = np.zeros((4, 20), np.uint8)
    near[0, 0] = 1
    assert counted(near, far, 4)[0].f1 == 0
