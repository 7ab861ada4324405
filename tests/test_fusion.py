from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from landslip.geo.errors import DataError, UsageError
from landslip.geo.raster import FileScene
from landslip.geo.resample import UpsampledScene
from landslip.prepare.sharpen.fusion import Fusion, Moments, fit, share_explained
from reference import full_gram_schmidt

Doubles = NDArray[np.float64]


def repeated(bands: Doubles, ratio: int) -> Doubles:
    """Upsampling that is easy to see through: every pixel several times."""
    return bands.repeat(ratio, axis=-2).repeat(ratio, axis=-1)


def pair(seed: int, bands: int = 4, ratio: int = 3) -> tuple[Doubles, Doubles]:
    """Correlated bands (C, 12, 15) and a finer pan that is something like them."""
    random = np.random.default_rng(seed)
    common = random.normal(500, 100, (12, 15))
    slopes = random.uniform(0.3, 2, (bands, 1, 1))
    coarse = slopes * common + random.normal(0, 30, (bands, 12, 15))
    pan = 0.7 * repeated(common, ratio) + random.normal(40, 25, (12 * ratio, 15 * ratio))
    return coarse, pan


def statistics(coarse: Doubles, pan: Doubles) -> tuple[Moments, Moments]:
    ratio = pan.shape[0] // coarse.shape[1]
    averaged = pan.reshape(coarse.shape[1], ratio, coarse.shape[2], ratio).mean(axis=(1, 3))
    both = np.concatenate([coarse, averaged[None]]).reshape(len(coarse) + 1, -1)
    return Moments.of(both), Moments.of(pan.reshape(1, -1))


@pytest.mark.parametrize("weights", [None, (1, 2, 3, 4), (0, 0, 1, 0)])
def test_closed_form_is_the_full_transform(weights: tuple[float, ...] | None) -> None:
    for seed in range(5):
        coarse, pan = pair(seed)
        upsampled = repeated(coarse, 3)
        shares = np.full(4, 0.25) if weights is None else np.array(weights) / sum(weights)
        expected = full_gram_schmidt(
            coarse.reshape(4, -1), pan.ravel(), shares.tolist(), upsampled.reshape(4, -1)
        )
        found = fit("gs", *statistics(coarse, pan), weights).apply(pan, upsampled)
        np.testing.assert_allclose(found.reshape(4, -1), expected, rtol=1e-9)


@pytest.mark.data
@pytest.mark.parametrize("number", [1, 2])
def test_closed_form_is_the_full_transform_on_real_data(data: Path, number: int) -> None:
    folder = data / "pansharpen"
    pan_file = FileScene.open(folder / f"pan{number}.tif", bands=["pan"])
    ms_file = FileScene.open(folder / f"ms{number}.tif", bands=["blue", "green", "red", "nir"])
    pan = pan_file.read(pan_file.grid.window, ["pan"]).values[0].astype(np.float64)
    coarse = ms_file.read(ms_file.grid.window, ms_file.bands).values.astype(np.float64)
    scene = UpsampledScene(ms_file, pan_file.grid)
    upsampled = scene.read(pan_file.grid.window, ms_file.bands).values.astype(np.float64)
    expected = full_gram_schmidt(
        coarse.reshape(4, -1), pan.ravel(), [0.25] * 4, upsampled.reshape(4, -1)
    )
    found = fit("gs", *statistics(coarse, pan)).apply(pan, upsampled).reshape(4, -1)
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() <= 1e-9 * largest


def test_gains_weighted_sum_to_one() -> None:
    for method in ("gs", "gsa"):
        fusion = fit(method, *statistics(*pair(3)))
        assert np.dot(fusion.weights, fusion.gains) == pytest.approx(1)


def test_gsa_finds_the_weights_of_a_pan_that_was_made_from_the_bands() -> None:
    coarse, _ = pair(7)
    truth = np.array([0.1, 0.2, 0.3, 0.5])
    pan = repeated(np.tensordot(truth, coarse, 1)[None] + 17, 3)[0]
    fusion = fit("gsa", *statistics(coarse, pan))
    np.testing.assert_allclose(fusion.weights, truth, rtol=1e-9)
    assert fusion.intercept == pytest.approx(17)
    # Such a pan shows nothing new.
    upsampled = repeated(coarse, 3)
    np.testing.assert_allclose(fusion.apply(pan, upsampled), upsampled, rtol=1e-9)


def test_brovey_is_its_formula_and_leaves_dark_ground_alone() -> None:
    upsampled = np.array([[[2.0, 0.0, -5.0]], [[6.0, 0.0, 1.0]]])
    pan = np.array([[8.0, 9.0, 9.0]])
    found = fit("brovey", Moments.of(np.zeros((3, 0))), weights=(1, 3)).apply(pan, upsampled)
    np.testing.assert_allclose(found[:, 0, 0], [2 * 8 / 5, 6 * 8 / 5])
    assert found[:, 0, 1:].tolist() == [[0, -5], [0, 1]]


def test_chosen_bands_are_those_of_all() -> None:
    coarse, pan = pair(1)
    upsampled = repeated(coarse, 3)
    for method in ("gs", "gsa", "brovey"):
        fusion = fit(method, *statistics(coarse, pan))
        everything = fusion.apply(pan, upsampled)
        assert (fusion.apply(pan, upsampled, [3, 1]) == everything[[3, 1]]).all()


def test_float32_is_kept_and_near_float64() -> None:
    coarse, pan = pair(2)
    upsampled = repeated(coarse, 3)
    fusion = fit("gsa", *statistics(coarse, pan))
    single = fusion.apply(pan.astype(np.float32), upsampled.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, fusion.apply(pan, upsampled), rtol=1e-4)


def test_a_constant_band_takes_no_detail() -> None:
    coarse, pan = pair(4)
    coarse[1] = 300
    upsampled = repeated(coarse, 3)
    for method in ("gs", "gsa"):
        fusion = fit(method, *statistics(coarse, pan))
        assert fusion.gains[1] == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(fusion.apply(pan, upsampled)[1], 300)
    assert fusion.weights[1] == pytest.approx(0, abs=1e-9)


def test_two_equal_bands_share_their_weight() -> None:
    coarse, pan = pair(5)
    coarse[3] = coarse[0]
    fusion = fit("gsa", *statistics(coarse, pan))
    assert np.isfinite(fusion.weights).all()
    assert fusion.weights[3] == pytest.approx(fusion.weights[0])


def test_nothing_to_match_is_said() -> None:
    coarse, pan = pair(6)
    with pytest.raises(DataError, match="bands do not vary"):
        fit("gs", *statistics(np.full_like(coarse, 7), pan))
    with pytest.raises(DataError, match="the pan is 7 everywhere"):
        fit("gs", *statistics(coarse, np.full_like(pan, 7)))
    with pytest.raises(DataError, match="not like the pan at all"):
        fit("gsa", *statistics(coarse, np.full_like(pan, 7)))


@pytest.mark.parametrize("weights", [(1, 2), (0, 0, 0, 0), (1, 1, 1, -1), (1, 1, 1, np.nan)])
def test_weights_that_do_not_fit(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected 4 numbers.*--weights"):
        fit("gs", *statistics(*pair(0)), weights)
    with pytest.raises(UsageError, match=r"gsa with --weights"):
        fit("gsa", *statistics(*pair(0)), weights)
    with pytest.raises(UsageError, match=r"by 'ihs': expected one of gs, gsa, brovey"):
        fit("ihs", *statistics(*pair(0)))


@given(
    values=hnp.arrays(np.float64, (3, 40), elements=st.floats(-1e4, 1e4)),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_moments_of_parts_add_up(values: Doubles, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 40]
    parts = [Moments.of(values[:, first:last]) for first, last in pairwise(edges)]
    found = reduce(add, parts)
    assert found.count == 40
    np.testing.assert_allclose(found.mean, values.mean(axis=1), atol=1e-8)
    np.testing.assert_allclose(found.covariance, np.cov(values, bias=True), rtol=1e-7, atol=1e-4)


def test_share_explained_is_r_squared() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 500))
    y = 3 * x[0] - x[1] + random.normal(0, 2, 500)
    design = np.column_stack([x.T, np.ones(500)])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    expected = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()
    assert share_explained(Moments.of(np.vstack([x, y]))) == pytest.approx(expected)
    assert np.isnan(share_explained(Moments.of(np.vstack([x, np.ones(500)]))))


def test_fusion_is_a_value() -> None:
    assert Fusion("brovey", (0.5, 0.5)) == Fusion("brovey", (0.5, 0.5))
