from __future__ import annotations

import json
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from landslip.prepare.sharpen.fusion import METHODS
from landslip.prepare.sharpen.matching import SharpenOptions
from landslip.prepare.sharpen.pansharpen import open_pansharpened
from landslip.prepare.sharpen.quality import (
    BLOCK_PX,
    UPSAMPLED,
    Agreement,
    Row,
    SharpenQuality,
    sharpen_quality,
    write_quality,
)
from reference import ergas, spectral_angle_deg, universal_index

Doubles = NDArray[np.float64]
SIDE = 2 * BLOCK_PX


def images(seed: int) -> tuple[Doubles, Doubles]:
    random = np.random.default_rng(seed)
    truth = random.uniform(10, 500, (3, SIDE, SIDE + 7))
    return truth + random.normal(0, 40, truth.shape), truth


def all_of(truth: Doubles) -> NDArray[np.bool_]:
    return np.ones(truth.shape[1:], dtype=bool)


@given(seed=st.integers(0, 1000), ratio=st.floats(1.1, 8))
def test_figures_are_their_definitions(seed: int, ratio: float) -> None:
    image, truth = images(seed)
    found = Agreement.of(image, truth, all_of(truth), ratio)
    assert found.ergas == pytest.approx(ergas(image, truth, ratio))
    assert found.sam_deg == pytest.approx(spectral_angle_deg(image, truth))
    for band, value in enumerate(found.uiqi):
        assert value == pytest.approx(universal_index(image[band], truth[band], BLOCK_PX))


def test_parts_add_up_to_the_whole() -> None:
    image, truth = images(0)
    whole = Agreement.of(image, truth, all_of(truth), 4)
    cuts = [np.s_[:, :BLOCK_PX], np.s_[:, BLOCK_PX:]]
    parts = [Agreement.of(image[cut], truth[cut], all_of(truth[cut]), 4) for cut in cuts]
    found = reduce(add, parts)
    assert found.ergas == pytest.approx(whole.ergas)
    assert found.sam_deg == pytest.approx(whole.sam_deg)
    assert found.uiqi == pytest.approx(whole.uiqi)


def test_an_image_is_perfect_beside_itself() -> None:
    _, truth = images(1)
    found = Agreement.of(truth, truth, all_of(truth), 4)
    assert found.ergas == 0
    assert found.sam_deg == pytest.approx(0, abs=1e-5)
    assert found.uiqi == pytest.approx((1, 1, 1))


def test_what_is_not_valid_does_not_count() -> None:
    image, truth = images(2)
    valid = all_of(truth)
    valid[:BLOCK_PX] = False
    image[:, :BLOCK_PX] = 1e6
    found = Agreement.of(image, truth, valid, 4)
    below = np.s_[:, BLOCK_PX:]
    assert found.ergas == pytest.approx(ergas(image[below], truth[below], 4))
    assert found.uiqi[0] == pytest.approx(universal_index(image[0, BLOCK_PX:], truth[0, BLOCK_PX:],
                                                          BLOCK_PX))  # fmt: skip


def test_nothing_to_compare_is_undefined() -> None:
    dark = np.zeros((2, SIDE, SIDE))
    found = Agreement.of(dark, dark, all_of(dark), 4)
    assert np.isnan(found.ergas) and np.isnan(found.sam_deg) and np.isnan(found.uiqi).all()
    small = np.ones((2, 5, 5))
    assert np.isnan(Agreement.of(small, small, all_of(small), 4).uiqi).all()
    nothing = Agreement.of(small, small, ~all_of(small), 4)
    assert np.isnan(nothing.ergas)


def test_the_verdict_says_where_a_method_loses() -> None:
    def row(method: str, error: float, angle: float, index: float) -> Row:
        return Row(method, error, angle, {"red": index}, 1.0, 0.9)

    plain = row(UPSAMPLED, 10, 5, 0.7)
    assert SharpenQuality((plain, row("gsa", 8, 6, 0.8))).verdict() == (
        "gsa beats cubic upsampling in ERGAS, UIQI, and loses in SAM"
    )
    assert SharpenQuality((plain, row("brovey", 8, 5, 0.8))).verdict() == (
        "brovey beats cubic upsampling in ERGAS, UIQI"
    )
    assert (
        "in nothing, and loses in ERGAS" in SharpenQuality((plain, row("gs", 12, 5, 0.7))).verdict()
    )
    undefined = SharpenQuality((plain, row("gs", 12, float("nan"), 0.7)))
    assert json.loads(undefined.to_json())["rows"][1]["sam_deg"] is None


@pytest.mark.data
@pytest.mark.parametrize("number", [1, 2])
def test_gsa_leads_on_real_pairs(data: Path, tmp_path: Path, number: int) -> None:
    folder = data / "pansharpen"
    files = folder / f"pan{number}.tif", folder / f"ms{number}.tif"
    errors = {}
    for coregister in (False, True):
        scene = open_pansharpened(
            *files, bands=("blue", "green", "red", "nir"),
            options=SharpenOptions(coregister=coregister),
        )  # fmt: skip
        found = sharpen_quality(scene, methods=METHODS)
        assert [row.method for row in found.rows] == [UPSAMPLED, *METHODS]
        errors[coregister] = {row.method: row.ergas for row in found.rows}
        assert min(errors[coregister], key=errors[coregister].__getitem__) == "gsa"
        # Averaged back, a sharp image must be near the bands; sharpened, show what the pan shows.
        for row in found.rows:
            assert row.consistency_ergas < row.ergas
        assert found.rows[0].pan_explained < min(row.pan_explained for row in found.rows[1:])
    assert all(errors[True][method] < errors[False][method] for method in METHODS)
    assert errors[True][UPSAMPLED] == pytest.approx(errors[False][UPSAMPLED], rel=0.01)
    write_quality(scene, found, tmp_path / "report")
    assert (tmp_path / "report" / "quality.png").stat().st_size > 20_000
