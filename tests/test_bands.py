from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from landslip.geo.bands import INDICES, SENSORS, band_name, by_origin, compute, sources_of
from landslip.geo.errors import BandError, UsageError


@pytest.mark.parametrize(
    ("text", "sensor", "name"),
    [
        ("NIR", None, "nir"),
        (" Near Infrared ", None, "nir"),
        ("near-infrared", None, "nir"),
        ("r", None, "red"),
        ("DSM", None, "elevation"),
        ("height_above_ground", None, "height_above_ground"),
        ("B4", "sentinel-2", "red"),
        ("b04", "sentinel-2", "red"),
        ("Band 4", "sentinel-2", "red"),
        ("4", "landsat-5", "nir"),
        ("B4", "landsat-8", "red"),
        ("B8A", "sentinel-2", "nir_narrow"),
        ("8a", "sentinel-2", "nir_narrow"),
        ("B10", "sentinel-2", "cirrus"),
        ("B1", "sentinel-2", "coastal"),
        ("red", "landsat-5", "red"),
        ("2018", None, "2018"),
    ],
)
def test_names(text: str, sensor: str | None, name: str) -> None:
    assert band_name(text, sensor) == name


@pytest.mark.parametrize("text", ["B4", "4", "band1", "Band_08", "B8A"])
def test_numbers_need_a_sensor(text: str) -> None:
    with pytest.raises(BandError, match="--sensor"):
        band_name(text)


def test_numbers_that_a_sensor_lacks() -> None:
    with pytest.raises(BandError, match="landsat-5 has B1, B2"):
        band_name("B9", "landsat-5")
    with pytest.raises(UsageError, match="landsat-8, landsat-9, sentinel-2"):
        band_name("B4", "spot-7")


def test_no_sensor_gives_one_name_twice() -> None:
    for sensor, names in SENSORS.items():
        assert len(set(names.values())) == len(names), sensor


def test_sources_keep_the_order_of_the_file() -> None:
    have = ("green", "red", "nir", "pre_nir", "pre_red")
    assert sources_of(["nir", "green"], have) == ("green", "nir")
    assert sources_of(["ndvi"], have) == ("red", "nir")
    assert sources_of(["pre_ndvi", "ndvi"], have) == ("red", "nir", "pre_nir", "pre_red")
    assert sources_of([], have) == ()
    assert sources_of(["ndvi"], ("ndvi",)) == ("ndvi",)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("swir1", "'swir1': the file names green, red"),
        ("ndvi", r"'ndvi' \(from nir, red\): the file names green, red"),
        ("pre_ndvi", r"'pre_ndvi' \(from pre_nir, pre_red\)"),
    ],
)
def test_missing_bands_are_named(wanted: str, text: str) -> None:
    with pytest.raises(BandError, match=text):
        sources_of([wanted], ("green", "red"))
    with pytest.raises(BandError, match="names none"):
        sources_of([wanted], ())


def test_compute_stacks_in_the_order_wanted() -> None:
    planes: dict[str, Any] = {
        "red": np.array([[1, 2]], dtype=np.uint16),
        "nir": np.array([[3, 65535]], dtype=np.uint16),
    }
    out = compute(["nir", "ndvi", "red"], planes)
    assert out[:, 0, 0].tolist() == [3, 0.5, 1]
    assert out[1, 0, 1] == pytest.approx(65533 / 65537)
    assert compute(["nir"], planes).dtype == np.uint16


def test_undefined_indices_are_nan_and_silent() -> None:
    zero: NDArray[np.float32] = np.zeros((1, 1), dtype=np.float32)
    assert np.isnan(compute(["ndvi"], {"nir": zero, "red": zero})).all()


def test_before_and_after_do_not_mix() -> None:
    def plane(value: float) -> NDArray[np.float32]:
        return np.full((1, 1), value, dtype=np.float32)

    planes = {"nir": plane(3), "red": plane(1), "pre_nir": plane(1), "pre_red": plane(1)}
    assert compute(["ndvi", "pre_ndvi"], planes).ravel().tolist() == [0.5, 0]


def test_evi_of_digital_numbers_is_refused() -> None:
    plane = np.full((1, 1), 0.3, dtype=np.float32)
    planes: dict[str, Any] = {"nir": plane, "red": plane / 3, "blue": plane / 6}
    assert compute(["evi"], planes)[0, 0, 0] == pytest.approx(2.5 * 0.2 / (0.3 + 0.6 - 0.375 + 1))
    with pytest.raises(BandError, match="reaches 3000"):
        compute(["evi"], {name: part * 10_000 for name, part in planes.items()})


@pytest.mark.parametrize("name", sorted(INDICES))
def test_indices_say_where_they_come_from_and_keep_their_range(name: str) -> None:
    index = INDICES[name]
    rng = np.random.default_rng(0)
    planes = {need: rng.random((8, 8), dtype=np.float32) for need in index.needs}
    values = compute([name], planes)
    assert values.dtype == np.float32
    assert ((values >= index.low) & (values <= index.high)).all()
    assert any(letter.isdigit() for letter in index.source)


def test_bands_come_and_go_with_their_file() -> None:
    bands = ("red", "slope", "pre_red", "nir", "pre_ndvi", "elevation")
    groups = [("red",), ("slope", "elevation"), ("pre_red", "pre_ndvi"), ("nir",)]
    assert by_origin(bands) == groups
