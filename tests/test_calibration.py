import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tiny
from landslip.assess.scores import ScoreHistogram
from landslip.geo.errors import ModelError, OutputError, TileSetError, UsageError
from landslip.learn.calibrate import calibrate_model
from landslip.learn.calibration import METHODS, Calibration, fit
from landslip.learn.card import load_card, load_model, save_model
from landslip.learn.predict import score_model

CODES = np.arange(255)


def counted(truth: NDArray[np.float64], pixels: int = 1_000_000, seed: int = 0) -> ScoreHistogram:
    """Pixels of every code, of which a share `truth` is landslide."""
    random = np.random.default_rng(seed)
    every = random.multinomial(pixels, np.full(255, 1 / 255))
    landslide = random.binomial(every, truth)
    return ScoreHistogram(landslide, every - landslide)


def logit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(values, 1e-3, 1 - 1e-3)
    return np.log(clipped / (1 - clipped))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_comes_back(temperature: float) -> None:
    scores = counted(1 / (1 + np.exp(-logit(CODES / 254) / temperature)))
    found = fit(scores, "temperature")
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    after = found.histogram(scores)
    assert after.calibration_error() < 0.01
    assert after.brier() <= scores.brier() + 1e-4


@pytest.mark.parametrize(("temperature", "shift"), [(0.5, -2.0), (2.0, 1.0)])
def test_a_shift_comes_back(temperature: float, shift: float) -> None:
    scores = counted(1 / (1 + np.exp(-logit(CODES / 254) / temperature - shift)))
    found = fit(scores, "platt")
    assert (found.temperature, found.shift) == pytest.approx((temperature, shift), rel=0.05)
    assert found.histogram(scores).calibration_error() < 0.01 < scores.calibration_error()
    # A factor alone does not do that.
    assert fit(scores, "temperature").histogram(scores).calibration_error() > 0.05


def test_any_rising_function_comes_back() -> None:
    truth = np.where(CODES < 200, CODES / 900, 0.3 + (CODES - 200) / 100)
    scores = counted(truth)
    found = fit(scores, "isotonic")
    assert np.abs(np.array(found.table) - truth).max() < 0.05
    assert (np.diff(found.table) > 0).all()
    assert found.histogram(scores).calibration_error() < 0.01 < scores.calibration_error()
    # A single number cannot do that.
    assert fit(scores, "temperature").histogram(scores).calibration_error() > 0.02


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(METHODS), st.integers(0, 5), st.integers(1, 300))
def test_calibrations_rise_and_stay_between_0_and_1(method: str, seed: int, pixels: int) -> None:
    found = fit(counted(CODES / 254, pixels, seed), method)
    said = found.apply(torch.linspace(0, 1, 2001, dtype=torch.float64)).numpy()
    assert (np.diff(said) >= 0).all()
    assert said.min() >= 0
    assert said.max() <= 1
    assert found.of(0.3) == pytest.approx(said[600])
    record = json.loads(json.dumps(found.__dict__))
    assert Calibration.of_card(record) == found


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(UsageError, match="by 'beta': expected platt, temperature, isotonic"):
        fit(counted(CODES / 254), "beta")


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return tiny.tiny_tiles(tmp_path / "tiles")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.tiny_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrated_model_maps_the_same_ground_and_says_true_numbers(
    tiles: Path, model: Path, tmp_path: Path, method: str
) -> None:
    from landslip.mapping.options import MapOptions
    from landslip.mapping.scene_map import map_scene

    out = tmp_path / "calibrated.safetensors"
    results = calibrate_model(model, tiles, out, method=method)
    assert results[0].split == "validation"
    assert results[0].error_after <= results[0].error_before
    before, after = load_card(model), load_card(out)
    assert after.calibration is not None
    assert after.calibration["method"] == method
    calibration = Calibration.of_card(after.calibration)
    assert calibration is not None
    raw = score_model(model, tiles, split="validation")
    if method != "isotonic":
        assert after.threshold == pytest.approx(calibration.of(before.threshold))
    else:
        assert after.threshold == calibration.histogram(raw).best_threshold()
    one, other = load_model(model)[1].state_dict(), load_model(out)[1].state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    scene = tiny.write_scene(tmp_path / "scene.tif")
    planes: list[Any] = []
    for path in (model, out):
        options = MapOptions(device="cpu", as_float=True, scaling="model")
        map_scene(scene, path, tmp_path / path.stem, options=options)
        with rasterio.open(tmp_path / path.stem / "probability.tif") as raster:
            planes.append(raster.read(1))
    told = calibration.apply(torch.from_numpy(planes[0])).numpy()
    np.testing.assert_allclose(planes[1], told, atol=1e-5)
    again = score_model(out, tiles, split="validation", calibrated=False)
    np.testing.assert_array_equal(again.landslide, raw.landslide)


def test_a_calibrated_model_is_calibrated_again_from_its_scores(
    tiles: Path, model: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    calibrate_model(model, tiles, once)
    calibrate_model(once, tiles, twice)
    first, second = load_card(once), load_card(twice)
    assert second.calibration == first.calibration
    assert second.threshold == pytest.approx(first.threshold, abs=1e-4)


def test_what_cannot_be_calibrated(tiles: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="tiles that the model learnt from"):
        calibrate_model(model, tiles, out, split="train")
    with pytest.raises(UsageError, match="by 'beta'"):
        calibrate_model(model, tiles, out, method="beta")
    with pytest.raises(TileSetError, match="no tiles of 'elsewhere'"):
        calibrate_model(model, tiles, out, split="elsewhere")
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        calibrate_model(model, tiles, out)
    assert out.read_bytes() == b"mine"


def test_thresholds_come_from_the_curve(model: Path, tmp_path: Path) -> None:
    card, network = load_model(model)
    curve = ((0.2, 0.3, 0.95), (0.5, 0.6, 0.9), (0.7, 0.8, 0.82), (0.9, 0.9, 0.4))
    card = card.model_copy(update={"pr_curve": curve})
    assert card.threshold_for() == 0.7
    assert card.threshold_for(0.9) == 0.5
    assert card.threshold_for(0.5) == 0.7
    with pytest.raises(UsageError, match=r"finds at most 0\.950 .* 0\.97 was asked for"):
        card.threshold_for(0.97)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="above 0 and up"):
            card.threshold_for(share)
    with pytest.raises(ModelError, match="has no curve"):
        card.model_copy(update={"pr_curve": ()}).threshold_for()
    path = tmp_path / "curve.safetensors"
    save_model(path, network, card)
    scene = tiny.write_scene(tmp_path / "scene.tif")
    words = ("map", scene, "--model", path, "--device", "cpu", "--out")
    assert tiny.landslip(*words, tmp_path / "map", "--recall", "0.9").code == 0
    run = json.loads((tmp_path / "map" / "run.json").read_text())
    assert run["options"]["threshold"] == 0.5
    done = tiny.landslip(*words, tmp_path / "other", "--recall", "0.9", "--balanced")
    assert done.code == 2
    assert "name one of --threshold, --recall and --balanced" in done.err
